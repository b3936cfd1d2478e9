//! TTL and ICMP errors: T1 to T3, T5 to T9, F10.

use std::net::Ipv4Addr;

use margay::dataplane::PortId;
use margay::io::memory::MemoryFrame;
use margay::verdict::{DropReason, PuntReason};

use crate::bed::*;
use crate::packets::*;

/// The error that ALPHA gets for `ip`.
#[track_caller]
fn told(ip: &Ip) -> Ip {
    let exchange = Bed::new().one(ALPHA, ip.sent_by(ALPHA_MAC));
    let [(id, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
    assert_eq!(*id, ALPHA.into());
    assert_eq!(frame.bytes[..12], [&ALPHA_MAC.0[..], &[0xee; 6]].concat());
    Ip::read(&frame.bytes[14..])
}

#[track_caller]
fn silent(id: PortId, frame: MemoryFrame, reason: DropReason) {
    let exchange = Bed::new().one(id, frame);
    assert_eq!(exchange.out, [], "{reason}");
    assert_eq!(exchange.tally.dropped[reason.index()], 1, "{reason}: {:?}", exchange.tally);
}

/// RFC 792, RFC 1812 4.3.2: 11/0 from an address of the node's own, unused field zero, checksums right, the
/// packet quoted as it was received.
#[test]
fn t1_t8_ttl_1_is_told_to_the_source() {
    for dst in [BETA_IP, B_VXLAN, B_IPIP, B_DIRECT] {
        let ip = Ip::udp(ALPHA_IP, dst, 100).ttl(1);
        let error = told(&ip);
        assert_eq!((error.src, error.dst, error.protocol), (TUNNEL_A, ALPHA_IP, ICMP));
        assert_eq!((error.tos, error.ttl, error.fragment), (0xc0, 64, 0));
        assert_eq!(checksum(&error.payload), 0);
        assert_eq!(error.payload[..2], [11, 0]);
        assert_eq!(error.payload[4..8], [0; 4]);
        assert_eq!(error.payload[8..], ip.bytes());
    }
}

/// RFC 1812 4.3.2.3: as much as fits in 576 bytes.
#[test]
fn t1_a_long_packet_is_quoted_up_to_576_bytes_in_all() {
    let ip = Ip { options: vec![1; 40], ..Ip::udp(ALPHA_IP, BETA_IP, 1300).ttl(1) };
    let error = told(&ip);
    assert_eq!(error.len(), 576);
    assert_eq!(error.payload[8..], ip.bytes()[..548]);
}

#[test]
fn t1_ttl_0_is_dropped_in_silence() {
    silent(ALPHA.into(), Ip::udp(ALPHA_IP, BETA_IP, 1).ttl(0).sent_by(ALPHA_MAC), DropReason::TtlZero);
}

#[test]
fn t2_every_ttl_falls_by_exactly_one() {
    let mut bed = Bed::new();
    for ttl in 2..=255 {
        for (dst, head) in [(BETA_IP, 14), (B_DIRECT, 0), (B_VXLAN, 22), (B_IPIP, 20)] {
            let ip = Ip::udp(ALPHA_IP, dst, 3).ttl(ttl);
            let exchange = bed.one(ALPHA, ip.sent_by(ALPHA_MAC));
            assert_eq!(Ip::read(&exchange.out[0].1.bytes[head..]), ip.hop());
        }
        let ip = |src| Ip::udp(src, ALPHA_IP, 3).ttl(ttl);
        for (port, frame, ip) in from_peers(ip) {
            assert_eq!(bed.one(port, frame).out[0].1.bytes, ip.hop().delivered_to(ALPHA_MAC).bytes);
        }
    }
}

/// What a pod of B's sends, each way that it may come.
fn from_peers(ip: impl Fn(Ipv4Addr) -> Ip) -> [(PortId, MemoryFrame, Ip); 3] {
    let (vxlan, ipip, direct) = (ip(B_VXLAN), ip(B_IPIP), ip(B_DIRECT));
    [
        (VXLAN, vxlan.in_vxlan(PEER_B, VTEP_A, VTEP_B), vxlan),
        (PortId::Ipip, ipip.in_ipip(PEER_B, NODE), ipip),
        (UNDERLAY, direct.on_underlay(), direct),
    ]
}

/// RFC 1812 5.3.1: margay and its node's kernel are one hop. The kernel counts what it forwards, before margay
/// gets it or after; what it made or keeps has made no hop here.
#[test]
fn t2_margay_and_its_nodes_kernel_are_one_hop() {
    let mut bed = Bed::new();
    for ttl in 1..=255 {
        for dst in [OUTSIDE, NODE, TUNNEL_A] {
            let ip = |src| Ip::udp(src, dst, 3).ttl(ttl);
            let from_alpha = (ALPHA.into(), ip(ALPHA_IP).sent_by(ALPHA_MAC), ip(ALPHA_IP));
            for (port, frame, ip) in from_peers(ip).into_iter().chain([from_alpha]) {
                let exchange = bed.one(port, frame);
                let [(PortId::Host, frame)] = &exchange.out[..] else {
                    panic!("{port:?} {ip:?} {exchange:?}")
                };
                assert_eq!(Ip::read(&frame.bytes), ip, "{port:?}");
            }
        }
        for (dst, port, head) in [
            (BETA_IP, BETA.into(), 14),
            (B_VXLAN, VXLAN, 22),
            (B_IPIP, PortId::Ipip, 20),
            (B_DIRECT, PortId::Direct, 0),
        ] {
            for src in [OUTSIDE, NODE, TUNNEL_A] {
                let ip = Ip::udp(src, dst, 3).ttl(ttl);
                let exchange = bed.one(PortId::Host, ip.plain());
                let [(id, frame)] = &exchange.out[..] else { panic!("{ip:?} {exchange:?}") };
                assert_eq!((*id, Ip::read(&frame.bytes[head..])), (port, ip));
            }
        }
    }
}

/// TTL 0 is nobody's to send, or to take (RFC 1122 3.2.1.7).
#[test]
fn t2_ttl_0_goes_neither_to_the_host_nor_from_it() {
    for dst in [OUTSIDE, NODE] {
        let ip = |src| Ip::udp(src, dst, 3).ttl(0);
        silent(ALPHA.into(), ip(ALPHA_IP).sent_by(ALPHA_MAC), DropReason::TtlZero);
        for (port, frame, _) in from_peers(ip) {
            silent(port, frame, DropReason::TtlZero);
        }
    }
    for dst in [BETA_IP, B_VXLAN, B_IPIP, B_DIRECT] {
        silent(PortId::Host, Ip::udp(OUTSIDE, dst, 3).ttl(0).plain(), DropReason::TtlZero);
    }
}

/// RFC 2003 3.1: also where the inner packet is for the node itself.
#[test]
fn t3_inner_ttl_0_is_dropped_at_the_tunnels_exit() {
    for dst in [ALPHA_IP, NODE, TUNNEL_A, OUTSIDE] {
        let ip = |src| Ip::udp(src, dst, 1).ttl(0);
        silent(VXLAN, ip(B_VXLAN).in_vxlan(PEER_B, VTEP_A, VTEP_B), DropReason::TtlZero);
        silent(PortId::Ipip, ip(B_IPIP).in_ipip(PEER_B, NODE), DropReason::TtlZero);
    }
}

#[test]
fn t3_inner_ttl_1_is_told_through_the_tunnel() {
    let ip = Ip::udp(B_VXLAN, ALPHA_IP, 10).ttl(1);
    let exchange = Bed::new().one(VXLAN, ip.in_vxlan(PEER_B, VTEP_A, VTEP_B));
    let [(VXLAN, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
    assert_eq!(frame.peer, PEER_B);
    assert_eq!(frame.bytes[..22], vxlan(VTEP_B, VTEP_A, 0x0800, &[]));
    let error = Ip::read(&frame.bytes[22..]);
    assert_eq!((error.src, error.dst, error.ttl), (TUNNEL_A, B_VXLAN, 64));
    assert_eq!(error.payload[..2], [11, 0]);
    assert_eq!(error.payload[8..], ip.bytes());

    let ip = Ip::udp(B_IPIP, ALPHA_IP, 10).ttl(1);
    let exchange = Bed::new().one(PortId::Ipip, ip.in_ipip(PEER_B, NODE));
    let [(PortId::Ipip, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
    let outer = Ip::read(&frame.bytes);
    assert_eq!((outer.src, outer.dst, outer.protocol), (NODE, PEER_B, IPIP));
    assert_eq!(Ip::read(&outer.payload).payload[..2], [11, 0]);
}

/// RFC 1122 3.2.2, RFC 1812 4.3.2.7.
#[test]
fn t5_no_error_about_errors_later_fragments_and_group_or_martian_addresses() {
    let from_alpha = |ip: Ip| (ALPHA.into(), ip.ttl(1).sent_by(ALPHA_MAC));
    for kind in [3, 4, 5, 11, 12] {
        let error = Ip::icmp(ALPHA_IP, BETA_IP, [kind, 0], &[0; 12]);
        let (id, frame) = from_alpha(error);
        silent(id, frame, DropReason::IcmpNotDue);
    }
    let (id, frame) = from_alpha(Ip::udp(ALPHA_IP, BETA_IP, 20).fragment(1));
    silent(id, frame, DropReason::IcmpNotDue);
    // An error would go to a source that is no single host.
    for source in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255, 255, 255, 255]] {
        let frame = Ip::udp(source.into(), UNASSIGNED, 1).plain();
        let exchange = Bed::new().one(PortId::Host, frame);
        assert_eq!(exchange.out, [], "{source:?}");
    }
    // To a group address nothing is sent, not even an error.
    let (id, frame) = from_alpha(Ip::udp(ALPHA_IP, [224, 0, 0, 5].into(), 1));
    silent(id, frame, DropReason::DestinationMartian);
}

#[test]
fn t5_a_first_fragment_is_told() {
    let ip = Ip::udp(ALPHA_IP, BETA_IP, 24).fragment(MF).ttl(1);
    assert_eq!(told(&ip).payload[8..], ip.bytes());
}

#[test]
fn t6_an_echo_request_is_told() {
    let ip = Ip::echo(ALPHA_IP, B_VXLAN).ttl(1);
    assert_eq!(told(&ip).payload[..2], [11, 0]);
}

/// RFC 1812 4.3.2.8: a burst, then silence; what is not an error, and who did not ask for it, goes on.
#[test]
fn t7_errors_are_limited_and_others_are_unharmed() {
    let mut bed = Bed::new();
    let expired = |src: Ipv4Addr| Ip::udp(src, B_VXLAN, 1).ttl(1);
    let exchange = bed.exchange((0..1000).map(|_| (ALPHA.into(), expired(ALPHA_IP).sent_by(ALPHA_MAC))));
    // The clock goes on meanwhile: a token each 10 ms.
    let errors = exchange.out.len();
    assert!((100..400).contains(&errors), "{errors}");
    assert_eq!(exchange.tally.punted[PuntReason::TtlExpired.index()], 1000);
    assert_eq!(exchange.tally.dropped[DropReason::IcmpRateLimited.index()], 1000 - errors as u64);
    let exchange = bed.one(BETA, expired(BETA_IP).sent_by(BETA_MAC));
    assert_eq!(exchange.out.len(), 1, "BETA has a limit of its own");
    let exchange = bed.one(ALPHA, Ip::udp(ALPHA_IP, BETA_IP, 1).sent_by(ALPHA_MAC));
    assert_eq!(exchange.out.len(), 1, "what is no error passes");
}

#[test]
fn t7_what_no_error_is_due_about_does_not_use_up_the_limit() {
    let mut bed = Bed::new();
    let error = Ip::icmp(ALPHA_IP, BETA_IP, [11, 0], &[0; 12]).ttl(1);
    let exchange = bed.exchange((0..1000).map(|_| (ALPHA.into(), error.sent_by(ALPHA_MAC))));
    assert_eq!(exchange.tally.dropped[DropReason::IcmpNotDue.index()], 1000);
    let exchange = bed.one(ALPHA, Ip::udp(ALPHA_IP, BETA_IP, 1).ttl(1).sent_by(ALPHA_MAC));
    assert_eq!(exchange.out.len(), 1);
}

#[test]
fn t8_without_a_tunnel_address_errors_come_from_the_nodes_address() {
    let cluster = "
node a 192.168.77.1/24
pool 10.65.0.0/16
pod alpha a 10.65.0.2/32
pod beta a 10.65.0.3/32
";
    let unknown = Some(margay::dataplane::Neighbor::unknown());
    let fib = compile(cluster, "a", Machine::default());
    let mut bed = Bed::bare(fib, 4).with_ports([(ALPHA.into(), unknown)]);
    let exchange = bed.one(ALPHA, Ip::udp(ALPHA_IP, BETA_IP, 1).ttl(1).sent_by(ALPHA_MAC));
    let error = Ip::read(&exchange.out[0].1.bytes[14..]);
    assert_eq!((error.src, &error.payload[..2]), (NODE, &[11, 0][..]));
}

#[test]
fn the_gateway_answers_pings_and_offers_nothing_else() {
    let gateway = [169, 254, 1, 1].into();
    let reply = told(&Ip::echo(ALPHA_IP, gateway));
    let wanted = Ip { fragment: 0, ..Ip::icmp(gateway, ALPHA_IP, [0, 0], b"\x00\x07\x00\x01echo") };
    assert_eq!(reply, wanted);
    for ip in [
        Ip::udp(ALPHA_IP, gateway, 1),
        Ip::icmp(ALPHA_IP, gateway, [13, 0], &[0; 16]),
        Ip::echo(ALPHA_IP, gateway).fragment(MF),
        Ip { options: vec![7, 7, 4, 0, 0, 0, 0, 0], ..Ip::echo(ALPHA_IP, gateway) },
    ] {
        silent(ALPHA.into(), ip.sent_by(ALPHA_MAC), DropReason::DestinationMartian);
    }
    let mut wrong = Ip::echo(ALPHA_IP, gateway);
    wrong.payload[2] ^= 1;
    silent(ALPHA.into(), wrong.sent_by(ALPHA_MAC), DropReason::DestinationMartian);
}

/// T8, T9 (RFC 7600): a kernel takes nothing from an address of its own, so to this node's margay speaks from none.
#[test]
fn t9_to_the_nodes_kernel_errors_come_from_the_dummy_address() {
    for (port, frame, source, said) in [
        (PortId::Host, Ip::udp(TUNNEL_A, UNASSIGNED, 3).plain(), TUNNEL_A, [3, 0]),
        // The kernel is to pass it on.
        (UNDERLAY, Ip::udp(PEER_B, ALPHA_IP, 3).ttl(1).on_underlay(), PEER_B, [11, 0]),
    ] {
        let exchange = Bed::new().one(port, frame);
        let [(PortId::Host, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
        let error = Ip::read(&frame.bytes);
        assert_eq!((error.src, error.dst), (Ipv4Addr::new(192, 0, 0, 8), source));
        assert_eq!(error.payload[..2], said);
    }
}

/// RFC 1812 4.3.2.4: what traceroute shows of the node, on every way.
#[test]
fn t8_the_source_of_errors_can_be_configured() {
    let source = Ipv4Addr::new(10, 65, 0, 7);
    let mut bed = Bed::on(Machine { icmp_source: Some(source), ..Machine::default() });
    let ip = Ip::udp(ALPHA_IP, BETA_IP, 1).ttl(1);
    let exchange = bed.one(ALPHA, ip.sent_by(ALPHA_MAC));
    assert_eq!(Ip::read(&exchange.out[0].1.bytes[14..]).src, source);
    for (port, frame, _) in from_peers(|src| Ip::udp(src, ALPHA_IP, 1).ttl(1)) {
        let exchange = bed.one(port, frame);
        let head = [(VXLAN, 22), (PortId::Ipip, 20), (PortId::Direct, 0)];
        let (_, head) = head.into_iter().find(|(id, _)| *id == exchange.out[0].0).unwrap();
        assert_eq!(Ip::read(&exchange.out[0].1.bytes[head..]).src, source, "{port:?}");
    }
}

/// Each peer has a limit of its own, also without encapsulation, where the source tells who it is; all others on the
/// underlay share one, be they ever so many.
#[test]
fn t7_every_peer_has_a_limit_of_its_own_and_strangers_share_one() {
    let expired = |src| Ip::udp(src, ALPHA_IP, 1).ttl(1).on_underlay();
    let limited = DropReason::IcmpRateLimited.index();
    let mut bed = Bed::new();
    let exchange = bed.exchange((0..1000).map(|_| (UNDERLAY, expired(B_DIRECT))));
    assert!(exchange.tally.dropped[limited] > 500, "{:?}", exchange.tally);
    assert_eq!(bed.one(UNDERLAY, expired(C_VXLAN)).tally.dropped[limited], 0, "another peer");
    assert_eq!(bed.one(UNDERLAY, expired(OUTSIDE)).tally.dropped[limited], 0, "no peer");

    let mut bed = Bed::new();
    let outside = (1..=1000_u32).map(|n| Ipv4Addr::from(0xc600_0000 + n));
    let exchange = bed.exchange(outside.map(|src| (UNDERLAY, expired(src))));
    assert!(exchange.tally.dropped[limited] > 500, "{:?}", exchange.tally);
}

/// F10 (RFC 1812 5.2.7.1): with its route withdrawn a destination is net unreachable at once.
#[test]
fn f10_a_withdrawn_route_is_net_unreachable() {
    let mut bed = Bed::new();
    let ip = Ip::udp(ALPHA_IP, B_VXLAN, 3);
    assert_eq!(bed.one(ALPHA, ip.sent_by(ALPHA_MAC)).out[0].0, VXLAN);
    let without: Vec<&str> = CLUSTER.lines().filter(|line| *line != "block 10.65.0.64/26 b").collect();
    bed.publish(compile(&without.join("\n"), "a", Machine::default()));
    let exchange = bed.one(ALPHA, ip.sent_by(ALPHA_MAC));
    let [(id, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
    let error = Ip::read(&frame.bytes[14..]);
    assert_eq!((*id, &error.payload[..2], &error.payload[4..8]), (ALPHA.into(), &[3, 0][..], &[0; 4][..]));
    assert_eq!(error.payload[8..], ip.bytes());
}

/// Who traceroute shows can be pinged: without a host interface margay answers for the node, in every way that a
/// request may come, and tells of the rest that it cannot be reached.
#[test]
fn without_a_host_interface_margay_answers_for_the_node() {
    let mut bed = Bed::on(Machine { host_mtu: None, ..Machine::default() });
    for address in [TUNNEL_A, Ipv4Addr::new(10, 66, 0, 1), NODE] {
        for ttl in [1, 64] {
            let echo = |src| Ip::echo(src, address).ttl(ttl);
            let from_alpha = (ALPHA.into(), echo(ALPHA_IP).sent_by(ALPHA_MAC), echo(ALPHA_IP));
            for (port, frame, request) in from_peers(echo).into_iter().chain([from_alpha]) {
                let exchange = bed.one(port, frame);
                let [(out, frame)] = &exchange.out[..] else { panic!("{port:?} {exchange:?}") };
                let head = match *out {
                    VXLAN => 22,
                    PortId::Ipip => 20,
                    PortId::Endpoint(_) => 14,
                    _ => 0,
                };
                let reply = Ip::read(&frame.bytes[head..]);
                assert_eq!((reply.src, reply.dst, reply.ttl), (address, request.src, 64));
                assert_eq!(reply.payload[..2], [0, 0], "{port:?} {out:?}");
                assert_eq!(checksum(&reply.payload), 0);
                assert_eq!(reply.payload[4..], request.payload[4..]);
            }
        }
    }
    for ip in [Ip::udp(ALPHA_IP, TUNNEL_A, 1), Ip::udp(ALPHA_IP, OUTSIDE, 1), Ip::echo(ALPHA_IP, OUTSIDE)] {
        let exchange = bed.one(ALPHA, ip.sent_by(ALPHA_MAC));
        assert_eq!(Ip::read(&exchange.out[0].1.bytes[14..]).payload[..2], [3, 0], "{ip:?}");
    }
    let error = Ip::icmp(ALPHA_IP, TUNNEL_A, [3, 3], &[0; 12]);
    let exchange = bed.one(ALPHA, error.sent_by(ALPHA_MAC));
    assert_eq!((exchange.out, exchange.tally.dropped[DropReason::IcmpNotDue.index()]), (vec![], 1));
    let ip = Ip::echo(B_VXLAN, TUNNEL_A).ttl(0);
    let exchange = bed.one(VXLAN, ip.in_vxlan(PEER_B, VTEP_A, VTEP_B));
    assert_eq!((exchange.out, exchange.tally.dropped[DropReason::TtlZero.index()]), (vec![], 1));
}

/// What margay itself makes is split where the way back is too narrow for it.
#[test]
fn an_error_that_is_too_large_for_the_way_back_is_split() {
    let mut bed = Bed::on(Machine { pod_mtu: 300, ..Machine::default() });
    let ip = Ip::udp(ALPHA_IP, BETA_IP, 1000).ttl(1);
    let exchange = bed.one(ALPHA, ip.sent_by(ALPHA_MAC));
    let pieces: Vec<Ip> = exchange.out.iter().map(|(_, frame)| Ip::read(&frame.bytes[14..])).collect();
    assert_eq!(pieces.iter().map(|piece| piece.fragment).collect::<Vec<_>>(), [MF, 35]);
    assert!(pieces.iter().all(|piece| piece.len() <= 300 && piece.ttl == 64), "{pieces:?}");
    let message: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.payload).collect();
    assert_eq!((checksum(&message), &message[..2]), (0, &[11, 0][..]));
    assert_eq!(message[8..], ip.bytes()[..548]);
}
