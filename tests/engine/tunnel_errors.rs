//! ICMP errors about this node's tunnel packets: I4 to I8, M6, M7. What they quote is what the engine sent.

use std::net::{IpAddr, Ipv4Addr};

use margay::dataplane::paths::{Change, Evidence, Fault, News};
use margay::dataplane::{Event, PortId};
use margay::verdict::DropReason;
use proptest::prelude::*;

use crate::bed::*;
use crate::packets::*;

const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// A packet from ALPHA by a tunnel, and that tunnel's packet as the underlay's routers see it.
fn sent(bed: &mut Bed, inner: &Ip) -> Vec<u8> {
    let exchange = bed.one(ALPHA, inner.sent_by(ALPHA_MAC));
    let [(port, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
    let IpAddr::V4(peer) = frame.peer else { panic!("IPv4") };
    match *port {
        PortId::Ipip => frame.bytes.clone(),
        // The kernel adds the outer headers, DF clear.
        VXLAN => Ip::datagram(NODE, peer, (50_000, 4789), &frame.bytes).fragment(0).bytes(),
        other => panic!("{other:?}"),
    }
}

/// An error about `quoted` as it is received: `head` is type, code and the second word of the header.
fn error(head: [u8; 6], quoted: &[u8]) -> Ip {
    let quoted = &quoted[..quoted.len().min(548)];
    Ip::icmp(ROUTER, NODE, [head[0], head[1]], &[&head[2..], quoted].concat())
}

fn too_big(mtu: u16, quoted: &[u8]) -> Ip {
    error([3, 4, 0, 0, (mtu >> 8) as u8, mtu as u8], quoted)
}

/// What the pod is told, as type, code and second word; the rest must be as every error of this node.
fn told(bed: &mut Bed, error: &Ip, inner: &Ip) -> Option<[u8; 6]> {
    let exchange = bed.one(ERRORS, error.plain());
    let [(port, frame)] = &exchange.out[..] else {
        assert_eq!(exchange.out, []);
        return None;
    };
    assert_eq!(*port, ALPHA.into());
    let told = Ip::read(&frame.bytes[14..]);
    assert_eq!((told.src, told.dst, told.protocol), (TUNNEL_A, ALPHA_IP, ICMP));
    assert_eq!(checksum(&told.payload), 0);
    let quote = &told.payload[8..];
    assert!(quote.len() >= 28 && inner.hop().bytes().starts_with(quote), "the inner packet as it was sent");
    Some([&told.payload[..2], &told.payload[4..8]].concat().try_into().unwrap())
}

/// RFC 2003 4, for both encapsulations.
#[test]
fn i4_to_i7_what_the_inner_sender_is_told() {
    let net = Some([3, 0, 0, 0, 0, 0]);
    let host = Some([3, 1, 0, 0, 0, 0]);
    let cases = [
        // 4.4: time exceeded.
        ([11, 0], host, Some(Fault::TimeExceeded)),
        ([11, 1], host, None),
        // 4.1: host unreachable is relayed, net and protocol unreachable become what the sender can understand.
        ([3, 0], net, Some(Fault::NetUnreachable)),
        ([3, 1], host, Some(Fault::HostUnreachable)),
        ([3, 2], net, Some(Fault::ProtocolUnreachable)),
        ([3, 13], host, Some(Fault::HostUnreachable)),
        // 4.1 to 4.3: port unreachable, source route failed, source quench, redirect are not.
        ([3, 3], None, Some(Fault::PortUnreachable)),
        ([3, 5], None, None),
        ([4, 0], None, None),
        ([5, 1], None, None),
    ];
    for dst in [B_IPIP, B_VXLAN] {
        for (head, wanted, fault) in cases {
            let mut bed = Bed::new();
            let inner = Ip::udp(ALPHA_IP, dst, 400);
            let quoted = sent(&mut bed, &inner);
            let error = error([head[0], head[1], 0, 0, 0, 0], &quoted);
            assert_eq!(told(&mut bed, &error, &inner), wanted, "{head:?} about {dst}");
            let known = bed.paths().snapshot().get(&IpAddr::V4(PEER_B)).and_then(|path| path.fault);
            assert_eq!(known.map(|(fault, _)| fault), fault, "I8: {head:?} about {dst}");
        }
    }
}

/// A pod may send with any TTL: where the outer one is a copy of it, what it hears says nothing of the peer.
#[test]
fn i8_with_an_inherited_ttl_time_exceeded_is_no_fault_of_the_way() {
    let outer_ttl = margay::fib::OuterTtl::Inherit;
    let mut bed = Bed::on(Machine { outer_ttl, ..Machine::default() });
    let inner = Ip::udp(ALPHA_IP, B_IPIP, 400).ttl(3);
    let quoted = sent(&mut bed, &inner);
    assert_eq!(told(&mut bed, &error([11, 0, 0, 0, 0, 0], &quoted), &inner), Some([3, 1, 0, 0, 0, 0]));
    assert_eq!(bed.paths().snapshot().len(), 0);
}

/// RFC 2003 4.5.
#[test]
fn i7_a_parameter_problem_is_relayed_if_it_points_into_the_inner_header() {
    for (dst, front) in [(B_IPIP, 20), (B_VXLAN, 50)] {
        let mut bed = Bed::new();
        let inner = Ip { options: vec![7, 7, 4, 0, 0, 0, 0, 0], ..Ip::udp(ALPHA_IP, dst, 400) };
        let quoted = sent(&mut bed, &inner);
        for pointer in 0..=255_u8 {
            let wanted = (front..front + 28).contains(&pointer).then(|| [12, 0, pointer - front, 0, 0, 0]);
            let error = error([12, 0, pointer, 0, 0, 0], &quoted);
            assert_eq!(told(&mut bed, &error, &inner), wanted, "{pointer}");
        }
    }
}

/// RFC 2003 4.1, 5.1. Routers on the way, and the tunnel to the same peer in the other encapsulation.
#[test]
fn m6_after_3_4_the_sender_is_told_the_mtu_minus_the_overhead() {
    let mut bed = Bed::on(Machine { pod_mtu: 1500, ..Machine::default() });
    let large = Ip::udp(ALPHA_IP, B_IPIP, 1452);
    let quoted = sent(&mut bed, &large);
    let [high, low] = 1380_u16.to_be_bytes();
    // Relayed at once, and by margay itself from then on.
    assert_eq!(told(&mut bed, &too_big(1400, &quoted), &large), Some([3, 4, 0, 0, high, low]));
    let changes: Vec<_> = bed.events().collect();
    let change = Change { peer: PEER_B.into(), news: News::Mtu(1400, Evidence::Told) };
    assert!(matches!(changes[..], [Event::PathChanged(told)] if told == change), "{changes:?}");

    for (dst, mtu) in [(B_IPIP, 1380_u16), (B_VXLAN, 1350), (C_IPIP, 1480)] {
        let fits = Ip::udp(ALPHA_IP, dst, usize::from(mtu) - 28);
        sent(&mut bed, &fits);
        let over = Ip::udp(ALPHA_IP, dst, usize::from(mtu) - 27);
        let exchange = bed.one(ALPHA, over.sent_by(ALPHA_MAC));
        let [(_, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
        let error = Ip::read(&frame.bytes[14..]);
        assert_eq!((&error.payload[..2], word(&error.payload, 6)), (&[3, 4][..], mtu), "{dst}");

        let exchange = bed.one(ALPHA, over.fragment(0).sent_by(ALPHA_MAC));
        assert_eq!(exchange.out.len(), 2, "without DF it is split");
        let front = if dst == B_VXLAN { 22 } else { 20 };
        assert!(exchange.out.iter().all(|(_, frame)| frame.bytes.len() - front <= usize::from(mtu)));
    }
    // The same again, and more, are no news; less is.
    for (mtu, news) in [(1400, 0), (1450, 0), (1300, 1)] {
        bed.one(ERRORS, too_big(mtu, &quoted).plain());
        assert_eq!(bed.events().count(), news, "{mtu}");
    }
}

#[test]
fn m6_what_is_known_outlives_the_fib_but_not_the_peer() {
    let mut bed = Bed::new();
    let quoted = sent(&mut bed, &Ip::udp(ALPHA_IP, B_IPIP, 1400));
    bed.one(ERRORS, too_big(1400, &quoted).plain());
    bed.publish(compile(CLUSTER, "a", Machine::default()));
    let exchange = bed.one(ALPHA, Ip::udp(ALPHA_IP, B_IPIP, 1353).sent_by(ALPHA_MAC));
    assert_eq!(Ip::read(&exchange.out[0].1.bytes[14..]).payload[4..8], [0, 0, 0x05, 0x64], "1380");

    let alone: String =
        CLUSTER.lines().filter(|line| !line.contains(" b")).map(|line| format!("{line}\n")).collect();
    bed.publish(compile(&alone, "a", Machine::default()));
    bed.exchange([]);
    assert_eq!(bed.paths().snapshot().len(), 0);
}

/// RFC 792: older routers quote 8 bytes beyond the header.
#[test]
fn i8_a_quote_that_is_too_short_is_noted_only() {
    for dst in [B_IPIP, B_VXLAN] {
        let mut bed = Bed::new();
        let inner = Ip::udp(ALPHA_IP, dst, 1300);
        let quoted = sent(&mut bed, &inner);
        assert_eq!(told(&mut bed, &error([11, 0, 0, 0, 0, 0], &quoted[..28]), &inner), None);
        assert!(bed.paths().snapshot()[&IpAddr::V4(PEER_B)].fault.is_some(), "{dst}");
    }
    let mut bed = Bed::new();
    let quoted = sent(&mut bed, &Ip::udp(ALPHA_IP, B_IPIP, 1300));
    let tally = bed.one(ERRORS, too_big(1200, &quoted[..28]).plain()).tally;
    assert_eq!(tally.dropped[DropReason::TunnelErrorNoted.index()], 1);
    assert_eq!(bed.paths().snapshot()[&IpAddr::V4(PEER_B)].mtu.unwrap().0, 1200);
}

/// RFC 1191 3, RFC 5927: an MTU that no router would ask for.
#[test]
fn m7_an_mtu_under_68_or_not_below_what_was_sent_is_not_believed() {
    let mut bed = Bed::new();
    let inner = Ip::udp(ALPHA_IP, B_IPIP, 1300);
    let quoted = sent(&mut bed, &inner);
    for mtu in [0, 1, 67, 1348, 1349, 1500, 65_535] {
        assert_eq!(told(&mut bed, &too_big(mtu, &quoted), &inner), None, "{mtu}");
        assert_eq!(bed.paths().snapshot().len(), 0, "{mtu}");
    }
    assert!(told(&mut bed, &too_big(1347, &quoted), &inner).is_some());
    // The least that there is: no host takes less for true (RFC 1191 3).
    assert_eq!(told(&mut bed, &too_big(68, &quoted), &inner), Some([3, 4, 0, 0, 0, 68]));
}

/// A router that could have split the packet does not ask for smaller ones: what says so was made by somebody else.
#[test]
fn m7_a_quote_without_df_is_not_believed() {
    for (inner, why) in [
        (Ip::udp(ALPHA_IP, B_IPIP, 1300).fragment(0), "IPIP copies DF"),
        (Ip::udp(ALPHA_IP, B_VXLAN, 1300), "VXLAN has it clear"),
    ] {
        let mut bed = Bed::new();
        let quoted = sent(&mut bed, &inner);
        let tally = bed.one(ERRORS, too_big(1200, &quoted).plain()).tally;
        assert_eq!(tally.dropped[DropReason::TunnelErrorForged.index()], 1, "{why}");
        assert_eq!(bed.paths().snapshot().len(), 0, "{why}");
    }
}

/// Whose quote was never sent by this node, into that tunnel, changes nothing and tells nobody.
#[test]
fn m7_foreign_and_forged_quotes_change_nothing() {
    let quote = |outer: Ip| too_big(1200, &outer.bytes());
    let inner = Ip::udp(ALPHA_IP, B_IPIP, 1300);
    let ipip = |src: Ipv4Addr, dst, inner: &Ip| Ip::new(src, dst, IPIP, inner.bytes());
    let vxlan_from = |ports, frame: &[u8]| Ip::datagram(NODE, PEER_B, ports, frame);
    let in_vxlan = |src| vxlan(VTEP_B, src, 0x0800, &Ip::udp(ALPHA_IP, B_VXLAN, 1300).bytes());
    let stranger = Ipv4Addr::new(192, 168, 77, 99);
    let cases = [
        (quote(ipip(stranger, PEER_B, &inner)), DropReason::TunnelErrorForeign),
        (quote(ipip(NODE, stranger, &inner)), DropReason::TunnelErrorForeign),
        (quote(ipip(NODE, PEER_B, &inner).fragment(DF | 9)), DropReason::TunnelErrorForeign),
        (quote(Ip { protocol: 47, ..ipip(NODE, PEER_B, &inner) }), DropReason::TunnelErrorForeign),
        (quote(Ip { protocol: TCP, ..ipip(NODE, PEER_B, &inner) }), DropReason::TunnelErrorForeign),
        (Ip { dst: stranger, ..quote(ipip(NODE, PEER_B, &inner)) }, DropReason::TunnelErrorForeign),
        // To another peer's tunnel, from somebody who is not here, to where no tunnel leads.
        (quote(ipip(NODE, PEER_C, &inner)), DropReason::TunnelErrorForged),
        (quote(ipip(NODE, PEER_B, &Ip::udp(C_IPIP, B_IPIP, 1300))), DropReason::TunnelErrorForged),
        (quote(ipip(NODE, PEER_B, &Ip::udp(NOBODY, B_IPIP, 1300))), DropReason::TunnelErrorForged),
        (quote(ipip(NODE, PEER_B, &Ip::udp(ALPHA_IP, OUTSIDE, 1300))), DropReason::TunnelErrorForged),
        (quote(ipip(NODE, PEER_B, &Ip::udp(ALPHA_IP, B_VXLAN, 1300))), DropReason::TunnelErrorForged),
        // Ports and headers that VXLAN of this node does not have.
        (quote(vxlan_from((49_151, 4789), &in_vxlan(VTEP_A))), DropReason::TunnelErrorForeign),
        (quote(vxlan_from((50_000, 4790), &in_vxlan(VTEP_A))), DropReason::TunnelErrorForeign),
        (quote(vxlan_from((50_000, 4789), &in_vxlan(VTEP_B))), DropReason::TunnelErrorForged),
        (quote(vxlan_from((50_000, 4789), &[0; 1300])), DropReason::TunnelErrorForged),
    ];
    for (index, (forged, reason)) in cases.into_iter().enumerate() {
        let mut bed = Bed::new();
        let exchange = bed.one(ERRORS, forged.plain());
        assert_eq!(exchange.out, [], "{index}");
        assert_eq!(exchange.tally.dropped[reason.index()], 1, "{index}: {:?}", exchange.tally);
        assert_eq!((bed.paths().snapshot().len(), bed.events().count()), (0, 0), "{index}");
    }
    // Queries and answers are nobody's error.
    let echo = Ip::echo(ROUTER, NODE);
    let tally = Bed::new().one(ERRORS, echo.plain()).tally;
    assert_eq!(tally.dropped[DropReason::TunnelErrorForeign.index()], 1);
}

#[test]
fn m7_one_wrong_bit_in_what_names_the_tunnel_changes_nothing() {
    let inner = Ip::udp(ALPHA_IP, B_IPIP, 1300);
    let quoted = sent(&mut Bed::new(), &inner);
    // Version and IHL, protocol, addresses; of the inner header all.
    let outer_bytes = [0, 9].into_iter().chain(12..20);
    let inner_bytes = 20..40;
    for (byte, bit) in outer_bytes.chain(inner_bytes).flat_map(|byte| (0..8).map(move |bit| (byte, bit))) {
        let mut forged = quoted.clone();
        forged[byte] ^= 1 << bit;
        let mut bed = Bed::new();
        let exchange = bed.one(ERRORS, too_big(1200, &forged).plain());
        assert_eq!(exchange.out, [], "byte {byte} bit {bit}");
        assert_eq!(bed.paths().snapshot().len(), 0, "byte {byte} bit {bit}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever arrives has one outcome, at most one packet leaves for it, and nothing is known of whom is no peer.
    #[test]
    fn m7_nothing_that_arrives_does_harm(
        head in prop::array::uniform6(any::<u8>()),
        flips in prop::collection::vec((0_usize..548, any::<u8>()), 0..6),
        len in 0_usize..=548,
        kind in prop::sample::select(vec![3_u8, 4, 5, 11, 12, 8]),
        via_vxlan in any::<bool>(),
    ) {
        let mut bed = Bed::new();
        let dst = if via_vxlan { B_VXLAN } else { B_IPIP };
        let mut quoted = sent(&mut bed, &Ip::udp(ALPHA_IP, dst, 600));
        quoted.truncate(len);
        for (at, byte) in flips {
            if let Some(place) = quoted.get_mut(at) {
                *place = byte;
            }
        }
        let head = [kind, head[1], head[2], head[3], head[4], head[5]];
        let exchange = bed.one(ERRORS, error(head, &quoted).plain());
        prop_assert!(exchange.out.len() <= 1);
        let peers = [IpAddr::V4(PEER_B), IpAddr::V4(PEER_C)];
        for (peer, path) in bed.paths().snapshot() {
            prop_assert!(peers.contains(&peer));
            prop_assert!(path.mtu.is_none_or(|(mtu, ..)| mtu >= 68));
        }
    }
}

#[test]
fn a_damaged_error_is_dropped() {
    let mut bed = Bed::new();
    let quoted = sent(&mut bed, &Ip::udp(ALPHA_IP, B_IPIP, 1300));
    let whole = too_big(1200, &quoted);
    let mut wrong = whole.clone();
    wrong.payload[3] ^= 1;
    let mut cases = vec![wrong.plain(), whole.clone().fragment(MF).plain()];
    cases.extend(
        (0..28)
            .map(|len| {
                let rest = &whole.payload[4..whole.payload.len().min(8 + len)];
                Ip::icmp(ROUTER, NODE, [3, 4], rest).plain()
            })
            .take(20),
    );
    for frame in cases {
        let tally = bed.one(ERRORS, frame).tally;
        assert_eq!(tally.dropped[DropReason::TunnelErrorMalformed.index()], 1);
    }
    assert_eq!(bed.paths().snapshot().len(), 0);
}

/// RFC 1812 4.3.2.8: what is relayed is limited as what margay says of itself, by the tunnel's peer.
#[test]
fn t7_relayed_errors_are_limited() {
    let mut bed = Bed::new();
    let inner = Ip::udp(ALPHA_IP, B_IPIP, 400);
    let quoted = sent(&mut bed, &inner);
    let exchange = bed.exchange((0..1000).map(|_| (ERRORS, error([3, 1, 0, 0, 0, 0], &quoted).plain())));
    let relayed = exchange.out.len();
    assert!((100..400).contains(&relayed), "{relayed}");
    assert_eq!(exchange.tally.dropped[DropReason::IcmpRateLimited.index()], 1000 - relayed as u64);
    assert_eq!(bed.events().count(), 1, "told once");
    let quoted = sent(&mut bed, &Ip::udp(ALPHA_IP, C_IPIP, 400));
    assert_eq!(bed.one(ERRORS, error([3, 1, 0, 0, 0, 0], &quoted).plain()).out.len(), 1);
}

/// T5: not about errors; T9: to this node's kernel from the dummy address.
#[test]
fn relayed_errors_keep_the_rules_of_all_errors() {
    let mut bed = Bed::new();
    let quoted = sent(&mut bed, &Ip::icmp(ALPHA_IP, B_IPIP, [3, 3], &[0; 60]));
    let tally = bed.one(ERRORS, error([3, 1, 0, 0, 0, 0], &quoted).plain()).tally;
    assert_eq!(tally.dropped[DropReason::IcmpNotDue.index()], 1);

    let from_the_node = Ip::new(NODE, PEER_B, IPIP, Ip::udp(TUNNEL_A, B_IPIP, 40).bytes());
    let exchange = bed.one(ERRORS, error([11, 0, 0, 0, 0, 0], &from_the_node.bytes()).plain());
    let [(PortId::Host, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
    let told = Ip::read(&frame.bytes);
    assert_eq!((told.src, told.dst), (Ipv4Addr::new(192, 0, 0, 8), TUNNEL_A));
    assert_eq!(told.payload[..2], [3, 1]);
}
