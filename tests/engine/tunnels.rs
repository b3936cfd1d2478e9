//! Into and out of tunnels: E1 to E4, I1 to I3, I9 to I12, T4, V1 to V3, V6 to V9.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use margay::dataplane::{Event, PortId};
use margay::fib::OuterTtl;
use margay::io::memory::MemoryFrame;
use margay::verdict::{Anomaly, DropReason};
use margay::wire::{Ecn, MacAddr};

use crate::bed::*;
use crate::packets::*;

fn out(ip: &Ip) -> MemoryFrame {
    let mut exchange = Bed::new().one(ALPHA, ip.sent_by(ALPHA_MAC));
    assert_eq!(exchange.out.len(), 1, "{exchange:?}");
    exchange.out.remove(0).1
}

/// One frame from a tunnel: what ALPHA gets, or why not.
fn arrive(port: PortId, frame: MemoryFrame) -> Result<Ip, DropReason> {
    let exchange = Bed::new().one(port, frame);
    let reason = DropReason::ALL.iter().find(|reason| exchange.tally.dropped[reason.index()] > 0);
    match (&exchange.out[..], reason) {
        ([(id, frame)], None) if *id == ALPHA.into() => Ok(Ip::read(&frame.bytes[14..])),
        ([], Some(reason)) => Err(*reason),
        _ => panic!("{exchange:?}"),
    }
}

fn inner_ipip() -> Ip {
    Ip::udp(B_IPIP, ALPHA_IP, 10)
}

fn inner_vxlan() -> Ip {
    Ip::udp(B_VXLAN, ALPHA_IP, 10)
}

fn ipip(outer: &Ip) -> Result<Ip, DropReason> {
    arrive(PortId::Ipip, MemoryFrame::from_peer(outer.bytes(), PEER_B.into()))
}

fn outer() -> Ip {
    Ip::new(PEER_B, NODE, IPIP, inner_ipip().bytes())
}

fn vxlan_from_b(change: impl Fn(&mut Vec<u8>)) -> Result<Ip, DropReason> {
    let mut frame = inner_vxlan().in_vxlan(PEER_B, VTEP_A, VTEP_B);
    change(&mut frame.bytes);
    arrive(VXLAN, frame)
}

const CODEPOINTS: [Ecn; 4] = [Ecn::NotEct, Ecn::Ect1, Ecn::Ect0, Ecn::Ce];

/// RFC 6040 4.1, normal mode. The DSCP stays inside (RFC 2983's uniform model is not Calico's).
#[test]
fn e1_the_outer_mark_is_the_inner_one() {
    for ecn in 0..4 {
        let ip = |dst| Ip::udp(ALPHA_IP, dst, 10).tos(0xb8 | ecn);
        assert_eq!(Ip::read(&out(&ip(B_IPIP)).bytes).tos, ecn);
        assert_eq!(out(&ip(B_VXLAN)).ecn.bits(), ecn);
    }
}

/// RFC 6040 4.2, figure 4, all pairs, both tunnels; E3 (RFC 2983): the inner DSCP stays, the checksum is right.
#[test]
fn e2_e3_the_inner_mark_follows_figure_4_and_the_dscp_stays() {
    use Ecn::{Ce, Ect0, Ect1, NotEct};
    for inside in CODEPOINTS {
        for outside in CODEPOINTS {
            let wanted = match (inside, outside) {
                (NotEct, Ce) => Err(DropReason::EcnCongestionLost),
                (_, Ce) | (Ce, _) => Ok(Ce),
                (Ect0, Ect1) => Ok(Ect1),
                (inside, _) => Ok(inside),
            };
            let wanted = wanted.map(|ecn| 0xb8 | ecn.bits());
            let inner = inner_ipip().tos(0xb8 | inside.bits());
            let result = ipip(&Ip { payload: inner.bytes(), ..outer() }.tos(outside.bits()));
            assert_eq!(
                result.as_ref().map(|ip| ip.tos),
                wanted.as_ref().copied(),
                "IPIP {inside:?} {outside:?}"
            );
            if let (Ok(ip), Ok(tos)) = (result, wanted) {
                assert_eq!(ip, inner.hop().tos(tos));
            }
            let inner = inner_vxlan().tos(0xb8 | inside.bits());
            let frame = MemoryFrame { ecn: outside, ..inner.in_vxlan(PEER_B, VTEP_A, VTEP_B) };
            let result = arrive(VXLAN, frame);
            let wanted = wanted.map(|tos| inner.hop().tos(tos));
            assert_eq!(result, wanted, "VXLAN {inside:?} {outside:?}");
        }
    }
}

/// RFC 6040 4.2, figure 4: the combinations with three exclamation marks are counted, and told once a minute.
#[test]
fn e4_dangerous_marks_are_counted_and_told_with_a_bound() {
    use Ecn::{Ce, Ect0, Ect1, NotEct};
    let start = Instant::now();
    let mut bed = Bed::new();
    let mut told = Vec::new();
    for inside in CODEPOINTS {
        for outside in CODEPOINTS {
            let noted = match (inside, outside) {
                (NotEct, Ect0 | Ect1) => Some(Anomaly::EcnOverNotEct),
                (Ce, Ect1) => Some(Anomaly::EcnEct1OverCe),
                _ => None,
            };
            let dropped = u64::from((inside, outside) == (NotEct, Ce));
            let inner = inner_ipip().tos(inside.bits()).bytes();
            let ipip = Ip { payload: inner, ..outer() }.tos(outside.bits()).bytes();
            let vxlan = inner_vxlan().tos(inside.bits()).in_vxlan(PEER_B, VTEP_A, VTEP_B);
            for (port, frame) in [
                (PortId::Ipip, MemoryFrame::from_peer(ipip, PEER_B.into())),
                (VXLAN, MemoryFrame { ecn: outside, ..vxlan }),
            ] {
                // A minute later each time: each is told.
                bed.clock = Some(start + Duration::from_secs(60) * told.len() as u32);
                let tally = bed.one(port, frame).tally;
                let wanted = |anomaly: &Anomaly| u64::from(noted == Some(*anomaly));
                assert_eq!(tally.anomalies.to_vec(), Anomaly::ALL.iter().map(wanted).collect::<Vec<_>>());
                assert_eq!(tally.dropped[DropReason::EcnCongestionLost.index()], dropped);
                assert_eq!(tally.sent.iter().sum::<u64>(), 1 - dropped, "it goes on all the same");
                let events: Vec<Event> = bed.events().collect();
                match (noted, &events[..]) {
                    (None, []) => {}
                    (Some(noted), [Event::Noted { anomaly, peer }]) => {
                        assert_eq!((*anomaly, *peer), (noted, PEER_B.into()));
                        told.push(noted);
                    }
                    _ => panic!("{inside:?} {outside:?}: {events:?}"),
                }
            }
        }
    }
    assert_eq!(told.len(), 6);
    // A hundred at once are told once, and nothing that a stranger sends is counted.
    let odd = |peer| MemoryFrame { ecn: Ect0, ..inner_vxlan().in_vxlan(peer, VTEP_A, VTEP_B) };
    let exchange = bed.exchange((0..100).map(|_| (VXLAN, odd(PEER_B))));
    assert_eq!(exchange.tally.anomalies[Anomaly::EcnOverNotEct.index()], 100);
    let exchange = bed.one(VXLAN, odd([192, 168, 77, 99].into()));
    assert_eq!(exchange.tally.anomalies, [0; Anomaly::COUNT]);
    assert_eq!(bed.events().count(), 1);
}

/// RFC 2003 3, 3.1, literally.
#[test]
fn i1_the_outer_ipip_header() {
    let ip = Ip::udp(ALPHA_IP, B_IPIP, 4);
    let frame = out(&ip);
    let wanted = [
        0x45, 0, 0, 0x34, 0, 1, 0x40, 0, 0x40, 4, 0x1f, 0x71, // 52 bytes, id 1, DF, TTL 64
        192, 168, 77, 1, 192, 168, 77, 2,
    ];
    assert_eq!(frame.bytes[..20], wanted);
    assert_eq!(frame.peer, PEER_B);
    assert_eq!(Ip::read(&frame.bytes[20..]), ip.hop());
    // Any contents: options and payload stay as they are.
    let ip = Ip { options: vec![0x94, 4, 0, 0], ..Ip::new(ALPHA_IP, B_IPIP, 200, vec![7; 1000]) };
    assert_eq!(Ip::read(&Ip::read(&out(&ip).bytes).payload), ip.hop());
}

#[test]
fn i2_ttl_0_is_not_encapsulated() {
    for dst in [B_IPIP, B_VXLAN] {
        let exchange = Bed::new().one(ALPHA, Ip::udp(ALPHA_IP, dst, 1).ttl(0).sent_by(ALPHA_MAC));
        assert_eq!(exchange.out, []);
        assert_eq!(exchange.tally.dropped[DropReason::TtlZero.index()], 1);
    }
}

/// RFC 2003 3.2. The node's own addresses are no loop, and must pass: its kernel speaks to remote pods from them.
#[test]
fn i3_what_comes_from_the_far_end_does_not_go_back_into_its_tunnel() {
    for dst in [B_IPIP, B_VXLAN] {
        let exchange = Bed::new().one(PortId::Host, Ip::udp(PEER_B, dst, 1).plain());
        assert_eq!(exchange.out, []);
        assert_eq!(exchange.tally.dropped[DropReason::TransitRefused.index()], 1);
        // Nor from a workload, whose addresses those are not.
        for forged in [PEER_B, NODE, TUNNEL_A] {
            let exchange = Bed::new().one(ALPHA, Ip::udp(forged, dst, 1).sent_by(ALPHA_MAC));
            assert_eq!(exchange.out, []);
        }
        let exchange = Bed::new().one(PortId::Host, Ip::udp(TUNNEL_A, dst, 1).plain());
        assert_eq!(exchange.out.len(), 1, "the node itself reaches remote pods");
    }
}

#[test]
fn t4_the_outer_ttl_is_its_own_unless_it_is_to_be_inherited() {
    for (outer_ttl, sent, wanted) in [
        (OuterTtl::Fixed(64), 2, 64),
        (OuterTtl::Fixed(255), 64, 255),
        (OuterTtl::Inherit, 2, 1),
        (OuterTtl::Inherit, 255, 254),
    ] {
        let mut bed = Bed::on(Machine { outer_ttl, ..Machine::default() });
        let exchange = bed.one(ALPHA, Ip::udp(ALPHA_IP, B_IPIP, 1).ttl(sent).sent_by(ALPHA_MAC));
        assert_eq!(Ip::read(&exchange.out[0].1.bytes).ttl, wanted);
    }
}

/// RFC 894, RFC 1812: padding is no part of a packet, outside or inside.
#[test]
fn i10_bytes_after_a_total_length_are_ignored() {
    let mut bytes = outer().bytes();
    bytes.extend([0xa5; 26]);
    let frame = MemoryFrame::from_peer(bytes.clone(), PEER_B.into());
    assert_eq!(arrive(PortId::Ipip, frame), Ok(inner_ipip().hop()));
    let mut payload = inner_ipip().bytes();
    payload.extend([0xa5; 26]);
    assert_eq!(ipip(&Ip { payload, ..outer() }), Ok(inner_ipip().hop()));
    assert_eq!(vxlan_from_b(|bytes| bytes.extend([0xa5; 26])), Ok(inner_vxlan().hop()));
    // An inner packet that reaches into the padding of the outer one is not made longer by it.
    let mut inner = inner_ipip().bytes();
    inner[3] += 4;
    repair(&mut inner);
    let mut bytes = Ip { payload: inner, ..outer() }.bytes();
    bytes.extend([0xa5; 4]);
    let frame = MemoryFrame::from_peer(bytes, PEER_B.into());
    assert_eq!(arrive(PortId::Ipip, frame), Err(DropReason::Ipv4TotalLength));
}

#[test]
fn i11_the_inner_header_is_found_behind_outer_options() {
    for words in 1..=10 {
        let outer = Ip { options: vec![1; 4 * words], ..outer() };
        assert_eq!(ipip(&outer), Ok(inner_ipip().hop()), "{words} words");
    }
}

#[test]
fn i12_other_protocols_are_not_decapsulated() {
    for protocol in (0..=255).filter(|protocol| *protocol != IPIP) {
        assert_eq!(ipip(&Ip { protocol, ..outer() }), Err(DropReason::InnerNotIp), "{protocol}");
    }
    let mut ipv6 = inner_ipip().bytes();
    ipv6[0] = 0x60;
    assert_eq!(ipip(&Ip { payload: ipv6, ..outer() }), Err(DropReason::Ipv4Version));
    // The socket gives whole packets; a fragment that came through all the same holds no whole packet.
    assert_eq!(ipip(&outer().fragment(MF)), Err(DropReason::OuterFragment));
}

/// RFC 7348 5, literally: what the UDP socket is given.
#[test]
fn v1_v7_the_vxlan_and_inner_ethernet_headers() {
    let ip = Ip::udp(ALPHA_IP, B_VXLAN, 4);
    let frame = out(&ip);
    let wanted = [
        0x08, 0, 0, 0, 0, 0x10, 0, 0, // I, VNI 4096, reserved bits zero
        0x66, 0, 0, 0, 0, 2, 0x66, 0, 0, 0, 0, 1, 0x08, 0,
    ];
    assert_eq!(frame.bytes[..22], wanted);
    assert_eq!(frame.peer, PEER_B);
    assert_eq!(Ip::read(&frame.bytes[22..]), ip.hop());
}

/// RFC 7348 5: each of the 39 alone, and all together.
#[test]
fn v2_reserved_bits_are_ignored() {
    let reserved = (0..64).filter(|bit| !(32..56).contains(bit) && *bit != 4);
    assert_eq!(reserved.clone().count(), 39);
    for bit in reserved.clone() {
        assert_eq!(
            vxlan_from_b(|bytes| bytes[bit / 8] |= 0x80 >> (bit % 8)),
            Ok(inner_vxlan().hop()),
            "{bit}"
        );
    }
    let all = |bytes: &mut Vec<u8>| reserved.clone().for_each(|bit| bytes[bit / 8] |= 0x80 >> (bit % 8));
    assert_eq!(vxlan_from_b(all), Ok(inner_vxlan().hop()));
}

#[test]
fn v3_no_i_flag_or_another_vni_is_dropped() {
    assert_eq!(vxlan_from_b(|bytes| bytes[0] = 0), Err(DropReason::VxlanFlags));
    assert_eq!(vxlan_from_b(|bytes| bytes[0] = 0xf7), Err(DropReason::VxlanFlags));
    for bit in 0..24 {
        let change = |bytes: &mut Vec<u8>| bytes[4 + bit / 8] ^= 0x80 >> (bit % 8);
        assert_eq!(vxlan_from_b(change), Err(DropReason::VxlanUnknownVni), "{bit}");
    }
}

/// RFC 7348 5: the socket takes the source port from this hash.
#[test]
fn v6_a_flow_keeps_its_hash_and_flows_spread() {
    let hash = |ports, len: usize| out(&Ip::datagram(ALPHA_IP, B_VXLAN, ports, &vec![0; len])).flow;
    assert_eq!(hash((1, 2), 3), hash((1, 2), 1000));
    let ports: HashSet<u32> = (0..256).map(|port| hash((port, 80), 1) % 16).collect();
    assert_eq!(ports.len(), 16, "each of the sockets has flows");
}

#[test]
fn v7_inner_frames_for_other_macs_or_from_ourselves_are_dropped() {
    for dst in [VTEP_B, MacAddr::BROADCAST, MacAddr([1, 0, 0x5e, 0, 0, 1]), MacAddr([0; 6]), MacAddr::GATEWAY]
    {
        let frame = inner_vxlan().in_vxlan(PEER_B, dst, VTEP_B);
        assert_eq!(arrive(VXLAN, frame), Err(DropReason::VxlanInnerMac), "{dst}");
    }
    let frame = inner_vxlan().in_vxlan(PEER_B, VTEP_A, VTEP_A);
    assert_eq!(arrive(VXLAN, frame), Err(DropReason::VxlanInnerMac));
}

/// RFC 7348 6.1.
#[test]
fn v8_inner_vlan_tags_are_dropped() {
    for tag in [0x8100, 0x88a8] {
        let payload = [&[0, 5, 8, 0][..], &inner_vxlan().bytes()].concat();
        let frame = MemoryFrame::from_peer(vxlan(VTEP_A, VTEP_B, tag, &payload), PEER_B.into());
        assert_eq!(arrive(VXLAN, frame), Err(DropReason::InnerNotIp));
    }
}

#[test]
fn v9_inner_arp_ipv6_llc_runts_and_nothing_at_all_are_dropped() {
    let whole = inner_vxlan().in_vxlan(PEER_B, VTEP_A, VTEP_B).bytes;
    for len in 0..whole.len() {
        let result = arrive(VXLAN, MemoryFrame::from_peer(&whole[..len], PEER_B.into()));
        let wanted = match len {
            0..22 => DropReason::VxlanTruncated,
            22..42 => DropReason::Ipv4Truncated,
            _ => DropReason::Ipv4TotalLength,
        };
        assert_eq!(result, Err(wanted), "{len}");
    }
    for ethertype in [0x0806, 0x0026, 0x0000, 0xffff, 0x6558] {
        let frame = vxlan(VTEP_A, VTEP_B, ethertype, &inner_vxlan().bytes());
        let result = arrive(VXLAN, MemoryFrame::from_peer(frame, PEER_B.into()));
        assert_eq!(result, Err(DropReason::InnerNotIp), "{ethertype:04x}");
    }
}

/// Both forms are accepted always, whatever this node would choose towards that peer.
#[test]
fn the_encapsulation_may_differ_by_direction() {
    let (ip, wanted) = (inner_vxlan(), Ok(inner_vxlan().hop()));
    assert_eq!(arrive(PortId::Ipip, ip.in_ipip(PEER_B, NODE)), wanted);
    assert_eq!(arrive(UNDERLAY, ip.on_underlay()), wanted);
    let ip = Ip::udp(B_DIRECT, ALPHA_IP, 10);
    assert_eq!(arrive(VXLAN, ip.in_vxlan(PEER_B, VTEP_A, VTEP_B)), Ok(ip.hop()));
    // A peer itself, from its underlay or its tunnel address.
    for source in [PEER_B, Ipv4Addr::new(10, 65, 0, 65)] {
        let ip = Ip::udp(source, ALPHA_IP, 10);
        assert_eq!(arrive(VXLAN, ip.in_vxlan(PEER_B, VTEP_A, VTEP_B)), Ok(ip.hop()));
    }
}
