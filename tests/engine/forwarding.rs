//! Forwarding and the choice of a way: F1 to F3, F5 to F11, T2.

use std::net::Ipv4Addr;

use margay::dataplane::PortId;
use margay::fib::EndpointId;
use margay::io::memory::MemoryFrame;
use margay::verdict::{DropReason, PuntReason};
use margay::wire::MacAddr;

use crate::bed::*;
use crate::packets::*;

/// What left by the one port that anything left by, as the packet that a workload or peer reads.
#[track_caller]
fn only(exchange: Exchange) -> (PortId, MemoryFrame) {
    let [(id, frame)] = <[_; 1]>::try_from(exchange.out).expect("one frame leaves");
    (id, frame)
}

#[test]
fn f1_pod_to_pod_byte_for_byte_but_ttl_and_checksum() {
    let frame = Ip::echo(ALPHA_IP, BETA_IP).sent_by(ALPHA_MAC);
    let (id, out) = only(Bed::new().one(ALPHA, frame));
    assert_eq!(id, BETA.into());
    let wanted = [
        0x02, 0, 0, 0, 0, 0x0b, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0x08, 0x00, // from the gateway
        0x45, 0, 0, 0x20, 0x12, 0x34, 0x40, 0, 0x3f, 1, 0x15, 0x23, // TTL 63
        10, 65, 0, 2, 10, 65, 0, 3, //
        8, 0, 0x2a, 0x25, 0, 7, 0, 1, b'e', b'c', b'h', b'o',
    ];
    assert_eq!(out.bytes, wanted);
}

/// A batch of everything at once: each frame by its port, in order, byte for byte.
#[test]
fn f1_a_whole_batch_each_way() {
    let to = |dst| Ip::udp(ALPHA_IP, dst, 20);
    let from = |src| Ip::udp(src, ALPHA_IP, 20);
    let frames = [
        (ALPHA.into(), to(B_DIRECT).sent_by(ALPHA_MAC)),
        (ALPHA.into(), to(OUTSIDE).sent_by(ALPHA_MAC)),
        (ALPHA.into(), to(BETA_IP).sent_by(ALPHA_MAC)),
        (ALPHA.into(), to(GAMMA_IP_2).sent_by(ALPHA_MAC)),
        (VXLAN, from(B_VXLAN).in_vxlan(PEER_B, VTEP_A, VTEP_B)),
        (PortId::Ipip, from(B_IPIP).in_ipip(PEER_B, NODE)),
        (UNDERLAY, from(B_DIRECT).on_underlay()),
        (PortId::Host, from(OUTSIDE).plain()),
        (VXLAN, Ip::udp(B_VXLAN, NODE, 20).in_vxlan(PEER_B, VTEP_A, VTEP_B)),
    ];
    let exchange = Bed::new().exchange(frames);
    let peer = |frame: MemoryFrame| MemoryFrame { peer: PEER_B.into(), ..frame };
    let out: Vec<_> = exchange.out.into_iter().map(|(id, frame)| (id, frame.bytes, frame.peer)).collect();
    let wanted = [
        (PortId::Direct, peer(to(B_DIRECT).hop().plain())),
        // To the host and from it: the kernel counts the hop.
        (PortId::Host, to(OUTSIDE).plain()),
        (PortId::Host, peer(Ip::udp(B_VXLAN, NODE, 20).plain())),
        (ALPHA.into(), peer(from(B_IPIP).hop().delivered_to(ALPHA_MAC))),
        (ALPHA.into(), peer(from(B_VXLAN).hop().delivered_to(ALPHA_MAC))),
        (ALPHA.into(), from(B_DIRECT).hop().delivered_to(ALPHA_MAC)),
        (ALPHA.into(), from(OUTSIDE).delivered_to(ALPHA_MAC)),
        (BETA.into(), to(BETA_IP).hop().delivered_to(BETA_MAC)),
        (GAMMA.into(), to(GAMMA_IP_2).hop().delivered_to(GAMMA_MAC)),
    ];
    // Which port is read first is not promised: frames of different ports to one may change places.
    let sorted = |mut list: Vec<(PortId, Vec<u8>, std::net::IpAddr)>| {
        list.sort_by_key(|(id, bytes, _)| (format!("{id:?}"), bytes.clone()));
        list
    };
    let wanted = wanted.map(|(id, frame)| (id, frame.bytes, frame.peer)).to_vec();
    assert_eq!(sorted(out), sorted(wanted));
}

#[test]
fn f2_any_protocol_no_payload_options() {
    let mut bed = Bed::new();
    for protocol in (0..=255).filter(|protocol| *protocol != IPIP) {
        for payload in [vec![], vec![0x5a; 5]] {
            for options in [vec![], vec![1; 4], vec![0x94, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0, 1], vec![1; 40]] {
                let ip = Ip { options, ..Ip::new(ALPHA_IP, BETA_IP, protocol, payload.clone()) };
                let exchange = bed.one(ALPHA, ip.sent_by(ALPHA_MAC));
                assert_eq!(exchange.out, [(BETA.into(), ip.hop().delivered_to(BETA_MAC))], "{ip:?}");
            }
        }
    }
}

/// RFC 1624 3-4: over all ids the header's sum takes every value; [`Ip::read`] checks each result in full.
#[test]
fn f3_the_header_checksum_is_right_for_every_sum() {
    let mut bed = Bed::new();
    for ids in (0..=u16::MAX).collect::<Vec<_>>().chunks(4096) {
        let packet = |id: &u16| Ip { id: *id, ..Ip::udp(ALPHA_IP, BETA_IP, 0) };
        let frames = ids.iter().map(|id| (ALPHA.into(), packet(id).sent_by(ALPHA_MAC)));
        let exchange = bed.exchange(frames);
        assert_eq!(exchange.out.len(), ids.len());
        for (id, (_, frame)) in ids.iter().zip(&exchange.out) {
            assert_eq!(Ip::read(&frame.bytes[14..]), packet(id).hop());
        }
    }
}

#[test]
fn f5_a_frame_for_another_mac_is_not_routed() {
    let mut bed = Bed::new();
    let nearly = (0..48).map(|bit| {
        let mut mac = MacAddr::GATEWAY;
        mac.0[bit / 8] ^= 1 << (bit % 8);
        mac
    });
    let others = [MacAddr::BROADCAST, MacAddr([1, 0, 0x5e, 0, 0, 1]), BETA_MAC, ALPHA_MAC, MacAddr([0; 6])];
    for dst in nearly.chain(others) {
        let frame = ethernet(dst, ALPHA_MAC, 0x0800, &Ip::udp(ALPHA_IP, BETA_IP, 10).bytes());
        let exchange = bed.one(ALPHA, frame);
        assert_eq!(exchange.out, []);
        let reason =
            if dst.0[0] & 1 == 1 { DropReason::FrameMulticast } else { DropReason::FrameNotForGateway };
        assert_eq!(exchange.tally.dropped[reason.index()], 1, "{dst}");
    }
}

const MARTIANS: [[u8; 4]; 10] = [
    [0, 0, 0, 0],
    [0, 1, 2, 3],
    [127, 0, 0, 1],
    [127, 255, 255, 255],
    [169, 254, 1, 2],
    [169, 254, 169, 254],
    [224, 0, 0, 1],
    [239, 255, 255, 255],
    [240, 0, 0, 1],
    [255, 255, 255, 255],
];

#[test]
fn f6_martian_destinations_are_not_routed() {
    for dst in MARTIANS {
        let exchange = Bed::new().one(ALPHA, Ip::echo(ALPHA_IP, dst.into()).sent_by(ALPHA_MAC));
        assert_eq!(exchange.out, [], "{dst:?}");
        assert_eq!(exchange.tally.dropped[DropReason::DestinationMartian.index()], 1, "{dst:?}");
    }
}

/// From a tunnel, the underlay or the host likewise; there the gateway's own address is one of them.
#[test]
fn f6_martian_destinations_are_not_routed_from_elsewhere() {
    for dst in MARTIANS.into_iter().chain([[169, 254, 1, 1]]) {
        let from = |src: Ipv4Addr| Ip::echo(src, dst.into());
        for (id, frame) in [
            (VXLAN, from(B_VXLAN).in_vxlan(PEER_B, VTEP_A, VTEP_B)),
            (PortId::Ipip, from(B_IPIP).in_ipip(PEER_B, NODE)),
            (UNDERLAY, from(B_DIRECT).on_underlay()),
            (PortId::Host, from(OUTSIDE).plain()),
        ] {
            assert_eq!(Bed::new().one(id, frame).out, [], "{id:?} {dst:?}");
        }
    }
}

/// Where a destination leads on a node with nested blocks, at the edges of each prefix.
#[test]
fn f7_the_longest_match_wins() {
    let cluster = "
node a 192.168.77.1/24
node b 192.168.77.2/24
node c 192.168.77.3/24
pool 10.65.0.0/16 ipipMode
block 10.65.0.0/24 b
block 10.65.0.64/26 c
block 10.65.0.96/32 b
pod alpha a 10.65.0.100/32 mac=02:00:00:00:00:0a
pod beta a 10.65.0.2/32 mac=02:00:00:00:00:0b
";
    let known = || Some(margay::dataplane::Neighbor::fixed(BETA_MAC));
    let fib = compile(cluster, "a", Machine::default());
    let mut bed = Bed::bare(fib, 8).with_ports([(ALPHA.into(), known()), (BETA.into(), known())]);
    let source = [10, 65, 0, 100].into();
    for (last, peer) in [
        (0, PEER_B),
        (63, PEER_B),
        (64, PEER_C),
        (95, PEER_C),
        (96, PEER_B),
        (97, PEER_C),
        (127, PEER_C),
        (128, PEER_B),
        (255, PEER_B),
    ] {
        let ip = Ip::udp(source, [10, 65, 0, last].into(), 1);
        let (id, frame) = only(bed.one(ALPHA, ip.sent_by(ALPHA_MAC)));
        assert_eq!((id, frame.peer), (PortId::Ipip, peer.into()), "10.65.0.{last}");
    }
    // /0: all else is the host's; the pool's remainder is not.
    for outside in [[10, 64, 255, 255], [10, 66, 0, 0], [1, 0, 0, 0], [223, 255, 255, 255]] {
        let ip = Ip::udp(source, outside.into(), 1);
        assert_eq!(only(bed.one(ALPHA, ip.sent_by(ALPHA_MAC))).0, PortId::Host, "{outside:?}");
    }
    let ip = Ip::udp(source, [10, 65, 1, 0].into(), 1);
    let exchange = bed.one(ALPHA, ip.sent_by(ALPHA_MAC));
    assert_eq!(exchange.tally.punted[PuntReason::NoRoute.index()], 1);
}

/// GAMMA's second address lies in a block of B's, and ALPHA's in one of C's that is as long.
#[test]
fn f9_the_local_endpoint_wins_over_any_route_around_it() {
    let cluster = format!("{CLUSTER}block 10.66.0.0/26 b\nblock 10.65.0.2/32 c\n");
    let known = || Some(margay::dataplane::Neighbor::fixed(GAMMA_MAC));
    let fib = compile(&cluster, "a", Machine::default());
    let mut bed = Bed::bare(fib, 8).with_ports([(ALPHA.into(), known()), (GAMMA.into(), known())]);
    let ip = Ip::udp(ALPHA_IP, GAMMA_IP_2, 1);
    assert_eq!(only(bed.one(ALPHA, ip.sent_by(ALPHA_MAC))).0, GAMMA.into());
    let ip = Ip::udp(GAMMA_IP, ALPHA_IP, 1);
    assert_eq!(only(bed.one(GAMMA, ip.sent_by(GAMMA_MAC))).0, ALPHA.into());
}

/// RFC 4271 9.1: a snapshot that is published between two turns counts from the next frame on.
#[test]
fn f8_withdrawal_falls_back_and_the_route_returns_at_once() {
    let without = "
node a 192.168.77.1/24
node b 192.168.77.2/24
node c 192.168.77.3/24
pool 10.65.0.0/16 ipipMode
block 10.65.0.0/24 b
pod alpha a 10.65.0.100/32
";
    let with = format!("{without}block 10.65.0.64/26 c\n");
    let ip = Ip::udp([10, 65, 0, 100].into(), [10, 65, 0, 70].into(), 1);
    let mut bed = Bed::bare(compile(without, "a", Machine::default()), 8)
        .with_ports([(ALPHA.into(), Some(margay::dataplane::Neighbor::unknown()))]);
    for (cluster, peer) in [(without, PEER_B), (&with, PEER_C), (without, PEER_B), (&with, PEER_C)] {
        bed.publish(compile(cluster, "a", Machine::default()));
        let (id, frame) = only(bed.one(ALPHA, ip.sent_by(ALPHA_MAC)));
        assert_eq!((id, frame.peer), (PortId::Ipip, peer.into()));
    }
}

#[test]
fn f10_no_route_is_told_and_nothing_leaks() {
    let ip = Ip::udp(ALPHA_IP, UNASSIGNED, 10);
    let (id, frame) = only(Bed::new().one(ALPHA, ip.sent_by(ALPHA_MAC)));
    assert_eq!(id, ALPHA.into());
    let error = Ip::read(&frame.bytes[14..]);
    assert_eq!(error.payload[..2], [3, 0]);
    assert_eq!(error.payload[8..], ip.bytes());
    // Without a host interface, the outside is no route either.
    let mut bed = Bed::on(Machine { host_mtu: None, ..Machine::default() });
    let ip = Ip::udp(ALPHA_IP, OUTSIDE, 10);
    let (id, frame) = only(bed.one(ALPHA, ip.sent_by(ALPHA_MAC)));
    assert_eq!((id, Ip::read(&frame.bytes[14..]).payload[0]), (ALPHA.into(), 3));
}

#[test]
fn f11_only_the_own_blocks_remainder_is_a_blackhole() {
    let mut bed = Bed::new();
    for (dst, dropped) in [
        (NOBODY, true),
        ([10, 65, 0, 0].into(), true),
        ([10, 65, 0, 63].into(), true),
        (TUNNEL_A, false),
        (BETA_IP, false),
        ([10, 65, 0, 64].into(), false),
    ] {
        let exchange = bed.one(ALPHA, Ip::udp(ALPHA_IP, dst, 10).sent_by(ALPHA_MAC));
        assert_eq!(exchange.out.is_empty(), dropped, "{dst}");
        assert_eq!(exchange.tally.dropped[DropReason::Blackhole.index()], u64::from(dropped), "{dst}");
    }
    // In silence from a tunnel as well.
    let from_b = Ip::udp(B_VXLAN, NOBODY, 10).in_vxlan(PEER_B, VTEP_A, VTEP_B);
    let exchange = bed.one(VXLAN, from_b);
    assert_eq!(exchange.tally.dropped[DropReason::Blackhole.index()], 1);
}

/// Two nodes, each a worker: what one encapsulates, the other takes. Each counts one hop (T2), nothing else changes.
#[test]
fn f1_t2_from_node_to_node_a_packet_loses_two_hops() {
    let cluster = "
node a 192.168.77.1/24 mac=66:00:00:00:00:01
node b 192.168.77.2/24 mac=66:00:00:00:00:02
pool 10.65.0.0/16 vxlanMode
pool 10.66.0.0/16 ipipMode
pool 10.67.0.0/16
block 10.65.0.0/26 a
block 10.65.0.64/26 b
block 10.66.0.64/26 b
block 10.67.0.64/26 b
pod alpha a 10.65.0.2/32 mac=02:00:00:00:00:0a
pod remote b 10.65.0.66/32,10.66.0.66/32,10.67.0.66/32 mac=02:00:00:00:00:0b
";
    let known = || Some(margay::dataplane::Neighbor::fixed(BETA_MAC));
    let node = |name| {
        let fib = compile(cluster, name, Machine::default());
        Bed::bare(fib, 8).with_ports([(EndpointId(0).into(), known())])
    };
    let (mut a, mut b) = (node("a"), node("b"));
    for (dst, left, arrives) in
        [(B_VXLAN, VXLAN, VXLAN), (B_IPIP, PortId::Ipip, PortId::Ipip), (B_DIRECT, PortId::Direct, UNDERLAY)]
    {
        for len in [0, 1, 100, 1422] {
            let ip = Ip::udp(ALPHA_IP, dst, len).tos(0xb9);
            let (id, mut frame) = only(a.one(ALPHA, ip.sent_by(ALPHA_MAC)));
            assert_eq!((id, frame.peer), (left, PEER_B.into()));
            if id == PortId::Direct {
                frame = ethernet(MacAddr([2; 6]), MacAddr([4; 6]), 0x0800, &frame.bytes);
            }
            frame.peer = NODE.into();
            let (id, frame) = only(b.one(arrives, frame));
            assert_eq!(id, EndpointId(0).into());
            assert_eq!(frame.bytes, ip.hop().hop().delivered_to(BETA_MAC).bytes);
        }
    }
}
