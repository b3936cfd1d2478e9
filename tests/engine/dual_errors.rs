//! IPv6, right for every packet: hop limit, ICMPv6 errors, MTU, ECN, extension headers, MSS, errors from inside the tunnel.

use std::net::{IpAddr, Ipv6Addr};

use margay::buf::{Offload, Segmentation, Segments};
use margay::dataplane::{Event, PortId};
use margay::io::memory::MemoryFrame;
use margay::verdict::{Anomaly, DropReason, PuntReason};
use margay::wire::Ecn;

use crate::bed::*;
use crate::dual::{bed, dropped, on};
use crate::packets::*;
use crate::packets6::*;

/// What ALPHA is told about `ip`.
#[track_caller]
fn told(bed: &mut Bed, ip: &Ip6) -> Ip6 {
    let exchange = bed.one(ALPHA, ip.sent_by(ALPHA_MAC));
    let [(id, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
    assert_eq!((*id, &frame.bytes[..6]), (ALPHA.into(), &ALPHA_MAC.0[..]));
    let error = Ip6::read(&frame.bytes[14..]);
    assert_eq!((error.src, error.dst, error.next, error.hops), (TUNNEL_A6, ALPHA6, ICMPV6, 64));
    assert_eq!(error.clone().summed(2), error, "checksum");
    error
}

/// RFC 4443 3.3, RFC 8200 3: the hop limit falls by one, and 1 is the last.
#[test]
fn the_hop_limit_falls_by_one_and_ends() {
    let mut bed = bed();
    for hops in 2..=255 {
        let ip = Ip6::udp(ALPHA6, BETA6, 3).hops(hops);
        assert_eq!(bed.one(ALPHA, ip.sent_by(ALPHA_MAC)).out[0].1, ip.hop().delivered_to(BETA_MAC));
    }
    for dst in [BETA6, B_OVER_V6, C_OVER_V4, B_DIRECT6] {
        let ip = Ip6::udp(ALPHA6, dst, 100).hops(1);
        let error = told(&mut bed, &ip);
        assert_eq!(error.payload[..2], [3, 0]);
        assert_eq!(error.payload[4..], [&[0; 4], &ip.bytes()[..]].concat());
    }
    dropped(ALPHA, Ip6::udp(ALPHA6, BETA6, 3).hops(0).sent_by(ALPHA_MAC), DropReason::TtlZero);
    let ip = Ip6::udp(ALPHA6, OUTSIDE6, 3).hops(1);
    assert_eq!(bed.one(ALPHA, ip.sent_by(ALPHA_MAC)).out[0], (PortId::Host, ip.plain()), "the kernel counts");
}

/// RFC 4443 2.4 c: as much as fits in 1,280 bytes.
#[test]
fn a_long_packet_is_quoted_up_to_1280_bytes_in_all() {
    let ip = Ip6::udp(ALPHA6, BETA6, 1350).hops(1);
    let error = told(&mut bed(), &ip);
    assert_eq!(error.bytes().len(), 1280);
    assert_eq!(error.payload[8..], ip.bytes()[..1232]);
}

/// RFC 4443 3.2: the exact MTU of what it takes.
#[test]
fn too_big_tells_the_mtu() {
    let mut bed = bed();
    for (dst, port, mtu) in [
        (BETA6, BETA.into(), POD_MTU),
        (B_OVER_V6, VXLAN_V6, UNDERLAY_MTU - 70),
        (C_OVER_V4, VXLAN, UNDERLAY_MTU - 50),
        (B_DIRECT6, PortId::Direct, UNDERLAY_MTU),
    ] {
        let exact = Ip6::udp(ALPHA6, dst, usize::from(mtu) - 48);
        assert_eq!(bed.one(ALPHA, exact.sent_by(ALPHA_MAC)).out[0].0, port, "{dst}");
        let ip = Ip6::udp(ALPHA6, dst, usize::from(mtu) - 47);
        let error = told(&mut bed, &ip);
        assert_eq!(error.payload[..2], [2, 0], "{dst}");
        assert_eq!(error.payload[4..8], u32::from(mtu).to_be_bytes(), "{dst}");
    }
}

/// RFC 8200 5: 1,280 bytes pass everywhere; a narrower tunnel is fragmented outside.
#[test]
fn what_every_link_takes_every_tunnel_takes() {
    let mut bed = on(Machine::default());
    let fib = compile(CLUSTER6, "a", Machine::default());
    fib.tunnels().for_each(|(_, tunnel)| tunnel.fit(Some(1000)));
    bed.publish(fib);
    let ip = Ip6::udp(ALPHA6, C_OVER_V4, 1280 - 48);
    assert_eq!(bed.one(ALPHA, ip.sent_by(ALPHA_MAC)).out[0].0, VXLAN);
    let error = told(&mut bed, &Ip6::udp(ALPHA6, C_OVER_V4, 1280 - 47));
    assert_eq!(error.payload[4..8], 1280_u32.to_be_bytes());
}

/// A super-frame is judged by its segments: 40 + 20 + 1,370 are 1,430.
#[test]
fn super_frames_are_judged_by_their_segments() {
    let mut bed = bed();
    let (ip, offload) = Ip6::tcp(ALPHA6, B_OVER_V6, 0x10, &[], 5000).partial(16);
    let sized = |size| {
        let segments = Some(Segments { kind: Segmentation::Tcp, size });
        MemoryFrame { offload: Offload { segments, ..offload }, ..ip.sent_by(ALPHA_MAC) }
    };
    let exchange = bed.one(ALPHA, sized(1370));
    assert_eq!((exchange.out.len(), exchange.out[0].0), (1, VXLAN_V6));
    let exchange = bed.one(ALPHA, sized(1371));
    assert_eq!(exchange.out[0].0, ALPHA.into(), "packet too big: {exchange:?}");
    assert_eq!(exchange.tally.punted[PuntReason::TooBig.index()], 1);
}

/// RFC 4443 3.1: no route (here the pool's, as no node has the block).
#[test]
fn no_route_is_told() {
    let ip = Ip6::udp(ALPHA6, "fd00:10:65:ff::1".parse().unwrap(), 3);
    let error = told(&mut bed(), &ip);
    assert_eq!((&error.payload[..2], &error.payload[8..]), (&[1, 0][..], &ip.bytes()[..]));
}

/// RFC 4443 2.4 e: never about errors, redirects, later fragments, groups, or who is nobody.
#[test]
fn no_error_about_what_needs_none() {
    let expired = |ip: Ip6| dropped(ALPHA, ip.hops(1).sent_by(ALPHA_MAC), DropReason::IcmpNotDue);
    for kind in [1, 2, 3, 4, 100, 127] {
        expired(Ip6::icmp(ALPHA6, BETA6, [kind, 0], &[0; 4]));
    }
    expired(Ip6::new(ALPHA6, BETA6, ICMPV6, vec![128, 0, 0]));
    let later = [&[UDP, 0, 0, 8, 0, 0, 0, 1][..], &[0x41; 16]].concat();
    expired(Ip6::new(ALPHA6, BETA6, FRAGMENT, later));
    let first = [&[UDP, 0, 0, 1, 0, 0, 0, 1][..], &[0x41; 16]].concat();
    told(&mut bed(), &Ip6::new(ALPHA6, BETA6, FRAGMENT, first).hops(1));
    told(&mut bed(), &Ip6::echo(ALPHA6, BETA6).hops(1));
}

/// RFC 4443 2.4 f.
#[test]
fn errors_are_limited() {
    let mut bed = bed();
    bed.clock = Some(std::time::Instant::now());
    let expired = || (ALPHA.into(), Ip6::udp(ALPHA6, BETA6, 1).hops(1).sent_by(ALPHA_MAC));
    let exchange = bed.exchange((0..1000).map(|_| expired()));
    assert_eq!(exchange.tally.dropped[DropReason::IcmpRateLimited.index()], 900);
    assert_eq!(exchange.out.len(), 100);
}

/// An error to the node's kernel comes from nobody's address, and the kernel's errors go through.
#[test]
fn the_kernel_is_told_by_the_gateways_address() {
    let ip = Ip6::udp(OUTSIDE6, "fd00:10:65:ff::1".parse().unwrap(), 3);
    let exchange = bed().one(PortId::Host, ip.plain());
    let [(PortId::Host, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
    let error = Ip6::read(&frame.bytes);
    assert_eq!((error.src, error.dst, &error.payload[..2]), (GATEWAY6, OUTSIDE6, &[1, 0][..]));
}

/// RFC 6040: all sixteen, both ways.
#[test]
fn ecn_is_carried_into_the_tunnel_and_out_of_it() {
    let ecn = |bits: u8| Ecn::from_tos(bits);
    for inside in 0..4 {
        let ip = Ip6::udp(ALPHA6, B_OVER_V6, 3).class(0xb8 | inside);
        let exchange = bed().one(ALPHA, ip.sent_by(ALPHA_MAC));
        assert_eq!(exchange.out[0].1.ecn, ecn(inside));
        for outside in 0..4 {
            let ip = Ip6::udp(B_OVER_V6, ALPHA6, 3).class(0xb8 | inside);
            let mut frame = ip.in_vxlan(PEER_B6.into(), VTEP_A6, VTEP_B6);
            frame.ecn = ecn(outside);
            let exchange = bed().one(VXLAN_V6, frame);
            let want = match (inside, outside) {
                (0, 3) => None,
                (2, 1) => Some(1),
                (_, 3) => Some(3),
                (inside, _) => Some(inside),
            };
            match want {
                Some(marked) => {
                    let want = ip.hop().class(0xb8 | marked).delivered_to(ALPHA_MAC);
                    assert_eq!(exchange.out[0].1.bytes, want.bytes, "{inside} {outside}");
                }
                None => assert_eq!(exchange.tally.dropped[DropReason::EcnCongestionLost.index()], 1),
            }
            let odd = exchange.tally.anomalies[Anomaly::EcnEct1OverCe.index()];
            assert_eq!(odd, u64::from((inside, outside) == (3, 1)), "{inside} {outside}");
        }
    }
}

/// RFC 7045 2.1: whatever they are, they are forwarded; RFC 8504 5.3: within bounds.
#[test]
fn extension_headers_pass_and_hide_nothing() {
    let mut bed = bed();
    let options = |next: u8, count: usize| {
        let mut chain = [60, 0, 1, 4, 0, 0, 0, 0].repeat(count);
        if let Some(last) = count.checked_sub(1) {
            chain[last * 8] = next;
        }
        chain
    };
    let datagram = |ports| Ip6::datagram(ALPHA6, BETA6, ports, &[1; 40]).payload;
    for (first, chain) in [
        (0, vec![UDP, 0, 1, 4, 0, 0, 0, 0]),
        (43, vec![UDP, 0, 4, 0, 0, 0, 0, 0]),
        (FRAGMENT, vec![UDP, 0, 0, 0, 0, 0, 0, 9]),
        (60, options(UDP, 8)),
        // No next header, and one that nobody knows.
        (59, vec![]),
        (253, vec![]),
    ] {
        let ip = Ip6::new(ALPHA6, BETA6, first, [chain.clone(), datagram((1000, 2000))].concat());
        let exchange = bed.one(ALPHA, ip.sent_by(ALPHA_MAC));
        assert_eq!(exchange.out, [(BETA.into(), ip.hop().delivered_to(BETA_MAC))], "{first}");
        let tunnel = Ip6::new(ALPHA6, BETA6, first, [chain, datagram((50_000, 4789))].concat());
        let exchange = bed.one(ALPHA, tunnel.sent_by(ALPHA_MAC));
        let is_hidden = first == 59 || first == 253;
        assert_eq!(exchange.out.len(), usize::from(is_hidden), "{first}");
        let refused = exchange.tally.dropped[DropReason::TunnelFromWorkload.index()];
        assert_eq!(refused, u64::from(!is_hidden), "{first}");
    }
    let long = Ip6::new(ALPHA6, BETA6, 60, [options(UDP, 9), datagram((1, 2))].concat());
    dropped(ALPHA, long.sent_by(ALPHA_MAC), DropReason::Ipv6Extensions);
}

/// Fragments pass, in any order, and nobody looks for ports in later ones.
#[test]
fn fragments_are_forwarded() {
    let mut bed = bed();
    let piece = |offset: u16, more: u16, data: &[u8]| {
        let header = [&[UDP, 0][..], &(offset | more).to_be_bytes(), &[0, 0, 0, 7], data].concat();
        Ip6::new(ALPHA6, B_OVER_V6, FRAGMENT, header)
    };
    // The later one begins like a datagram to the VXLAN port.
    let disguised = Ip6::datagram(ALPHA6, B_OVER_V6, (50_000, 4789), &[1; 8]).payload;
    let pieces = [piece(1232, 0, &disguised), piece(0, 1, &[0x41; 1232])];
    let frames = pieces.iter().map(|ip| (ALPHA.into(), ip.sent_by(ALPHA_MAC)));
    let exchange = bed.exchange(frames);
    let out: Vec<&[u8]> = exchange.out.iter().map(|(_, frame)| &frame.bytes[22..]).collect();
    assert_eq!(out, pieces.iter().map(|ip| ip.hop().bytes()).collect::<Vec<_>>());
    assert_eq!(exchange.out[0].1.flow, exchange.out[1].1.flow, "one flow, one way");
}

/// RFC 9293 3.7.1: the MTU less 60.
#[test]
fn the_mss_is_clamped() {
    let cluster = CLUSTER6.replace("pool fd00:10:65::/48 vxlanMode", "pool fd00:10:65::/48 vxlanMode clamp");
    let mut bed = Bed::bare(compile(&cluster, "a", Machine::default()), 64)
        .with_ports([(ALPHA.into(), Some(margay::dataplane::Neighbor::fixed(ALPHA_MAC)))]);
    let mut clamped = |mss: u16| {
        let [high, low] = mss.to_be_bytes();
        let ip = Ip6::tcp(ALPHA6, B_OVER_V6, 2, &[2, 4, high, low], 0);
        let exchange = bed.one(ALPHA, ip.sent_by(ALPHA_MAC));
        let left = Ip6::read(&exchange.out[0].1.bytes[22..]);
        assert_eq!(left.clone().summed(16), left, "checksum");
        word(&left.payload, 22)
    };
    let fits = UNDERLAY_MTU - 70 - 60;
    assert_eq!((clamped(8940), clamped(fits + 1), clamped(fits), clamped(536)), (fits, fits, fits, 536));
}

/// RFC 4302: a SYN that is authenticated stays as it is.
#[test]
fn an_authenticated_syn_keeps_its_mss() {
    let cluster = CLUSTER6.replace("pool fd00:10:65::/48 vxlanMode", "pool fd00:10:65::/48 vxlanMode clamp");
    let mut bed = Bed::bare(compile(&cluster, "a", Machine::default()), 64)
        .with_ports([(ALPHA.into(), Some(margay::dataplane::Neighbor::fixed(ALPHA_MAC)))]);
    let syn = Ip6::tcp(ALPHA6, B_OVER_V6, 2, &[2, 4, 0x22, 0xec], 0);
    let ah = [&[TCP, 1, 0, 0][..], &[7; 8]].concat();
    let ip = Ip6::new(ALPHA6, B_OVER_V6, 51, [ah, syn.payload].concat());
    let exchange = bed.one(ALPHA, ip.sent_by(ALPHA_MAC));
    assert_eq!(exchange.out[0].1.bytes[22..], ip.hop().bytes());
}

/// B's VXLAN packet from ALPHA as the underlay's routers see it.
fn outer(bed: &mut Bed, inner: &Ip6) -> Ip6 {
    let exchange = bed.one(ALPHA, inner.sent_by(ALPHA_MAC));
    let [(VXLAN_V6, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
    Ip6::datagram(NODE6, PEER_B6, (50_000, 4789), &frame.bytes)
}

fn error(head: [u8; 2], word: u32, quoted: &[u8]) -> MemoryFrame {
    let router: Ipv6Addr = "fd00:99::1".parse().unwrap();
    Ip6::icmp(router, NODE6, head, &[&word.to_be_bytes()[..], quoted].concat()).plain()
}

/// RFC 2473 8.1, RFC 8201: what the underlay says of a tunnel packet is relayed as the tunnel's.
#[test]
fn a_path_mtu_is_learned_and_told_inside() {
    let mut bed = bed();
    let inner = Ip6::udp(ALPHA6, B_OVER_V6, 1300);
    let quoted = outer(&mut bed, &inner).bytes()[..1232].to_vec();
    for (mtu, reason) in [(1279, DropReason::TunnelErrorMtu), (1500, DropReason::TunnelErrorMtu)] {
        let exchange = bed.one(ERRORS_V6, error([2, 0], mtu, &quoted));
        assert_eq!(exchange.tally.dropped[reason.index()], 1, "{mtu}: {:?}", exchange.tally);
    }
    let exchange = bed.one(ERRORS_V6, error([2, 0], 1400, &quoted));
    let [(id, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
    assert_eq!(*id, ALPHA.into());
    let told = Ip6::read(&frame.bytes[14..]);
    assert_eq!((told.src, told.dst, &told.payload[..2]), (TUNNEL_A6, ALPHA6, &[2, 0][..]));
    assert_eq!(told.payload[4..8], 1330_u32.to_be_bytes());
    assert_eq!(told.payload[8..48], inner.hop().bytes()[..40]);
    assert!(bed.events().any(|event| matches!(event, Event::PathChanged(_))));
    let error = self::told(&mut bed, &Ip6::udp(ALPHA6, B_OVER_V6, 1300 - 17));
    assert_eq!(error.payload[4..8], 1330_u32.to_be_bytes());
}

#[test]
fn unreachables_are_relayed_and_forged_ones_are_not_believed() {
    let inner = Ip6::udp(ALPHA6, B_OVER_V6, 30);
    for (head, relayed) in [
        ([1, 0], Some([1, 0])),
        ([1, 1], Some([1, 0])),
        ([1, 3], Some([1, 3])),
        ([3, 0], Some([1, 3])),
        ([1, 4], None),
        ([4, 0], None),
    ] {
        let mut bed = bed();
        let quoted = outer(&mut bed, &inner).bytes();
        let exchange = bed.one(ERRORS_V6, error(head, 0, &quoted));
        match relayed {
            Some(kind) => assert_eq!(exchange.out[0].1.bytes[14 + 40..][..2], kind, "{head:?}"),
            None => assert_eq!(exchange.tally.dropped[DropReason::TunnelErrorNoted.index()], 1, "{head:?}"),
        }
    }
    let mut bed = bed();
    let sent = outer(&mut bed, &inner);
    let mut refused = |quoted: &[u8], reason: DropReason| {
        let exchange = bed.one(ERRORS_V6, error([1, 3], 0, quoted));
        assert_eq!(exchange.out, []);
        assert_eq!(exchange.tally.dropped[reason.index()], 1, "{reason}: {:?}", exchange.tally);
    };
    let stranger = "fd00:77::99".parse().unwrap();
    refused(&Ip6 { dst: stranger, ..sent.clone() }.bytes(), DropReason::TunnelErrorForeign);
    refused(&Ip6 { src: stranger, ..sent.clone() }.bytes(), DropReason::TunnelErrorForeign);
    refused(&sent.bytes()[..30], DropReason::TunnelErrorMalformed);
    let inner_at = 40 + 8 + 22;
    for at in [40 + 8 + 8 + 6, inner_at + 8 + 15, inner_at + 24 + 5] {
        let mut forged = sent.bytes();
        forged[at] ^= 0x40;
        refused(&forged, DropReason::TunnelErrorForged);
    }
    let mut damaged = error([1, 3], 0, &sent.bytes());
    damaged.bytes[42] ^= 1;
    dropped(ERRORS_V6, damaged, DropReason::TunnelErrorMalformed);
}

/// Echo requests to the node's own address where it has no host interface, by whichever way.
#[test]
fn the_node_answers_pings_without_a_host_interface() {
    let mut bed = on(Machine { host_mtu: None, ..Machine::default() });
    for dst in [NODE6, TUNNEL_A6] {
        let exchange = bed.one(ALPHA, Ip6::echo(ALPHA6, dst).sent_by(ALPHA_MAC));
        let [(id, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
        let reply = Ip6::read(&frame.bytes[14..]);
        assert_eq!((*id, reply.src, reply.payload[0]), (ALPHA.into(), dst, 129));
        let ip = Ip6::echo(B_OVER_V6, dst).in_vxlan(PEER_B6.into(), VTEP_A6, VTEP_B6);
        assert_eq!(bed.one(VXLAN_V6, ip).out[0].0, VXLAN_V6);
    }
}

/// With whom they are counted: the peer has a place for each underlay.
#[test]
fn peers_are_counted_by_their_underlay() {
    let mut bed = bed();
    bed.one(ALPHA, Ip6::udp(ALPHA6, B_OVER_V6, 3).sent_by(ALPHA_MAC));
    let odd = Ip6::udp(B_OVER_V6, ALPHA6, 3).hops(0);
    bed.one(VXLAN_V6, odd.in_vxlan(PEER_B6.into(), VTEP_A6, VTEP_B6));
    let party = |address: IpAddr| bed.parties()[&margay::dataplane::Party::Peer(address)].clone();
    assert_eq!(party(PEER_B6.into()).dropped[DropReason::TtlZero.index()], 1);
    assert_eq!(party(PEER_B.into()).dropped[DropReason::TtlZero.index()], 0);
}
