//! Who may send what: S1 to S7, S9.

use std::net::Ipv4Addr;

use margay::buf::{Offload, PartialChecksum};
use margay::dataplane::{Neighbor, PortId};
use margay::io::memory::MemoryFrame;
use margay::verdict::DropReason;

use crate::bed::*;
use crate::packets::*;

#[track_caller]
fn dropped(id: PortId, frame: MemoryFrame, reason: DropReason) {
    let exchange = Bed::new().one(id, frame);
    assert_eq!(exchange.out, [], "{reason}");
    assert_eq!(exchange.tally.dropped[reason.index()], 1, "{reason}: {:?}", exchange.tally);
}

const MARTIANS: [[u8; 4]; 6] =
    [[0, 0, 0, 0], [127, 0, 0, 1], [169, 254, 1, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255, 255, 255, 255]];

/// BCP 38: whatever the target, and also where an ICMP error would answer.
#[test]
fn s1_a_workload_sends_from_its_own_addresses_alone() {
    let others = [BETA_IP, GAMMA_IP_2, NOBODY, NODE, TUNNEL_A, PEER_B, B_VXLAN, OUTSIDE];
    for source in others.into_iter().chain(MARTIANS.map(Ipv4Addr::from)) {
        for target in [BETA_IP, B_VXLAN, B_IPIP, B_DIRECT, NODE, OUTSIDE, UNASSIGNED, [169, 254, 1, 1].into()]
        {
            for ttl in [64, 1] {
                let frame = Ip::udp(source, target, 10).ttl(ttl).sent_by(ALPHA_MAC);
                dropped(ALPHA.into(), frame, DropReason::SourceNotOwned);
            }
        }
    }
    // Each of several addresses is its own.
    for source in [GAMMA_IP, GAMMA_IP_2] {
        let ip = Ip::udp(source, ALPHA_IP, 1);
        let exchange = Bed::new().one(GAMMA, ip.sent_by(GAMMA_MAC));
        assert_eq!(exchange.out, [(ALPHA.into(), ip.hop().delivered_to(ALPHA_MAC))]);
    }
}

#[test]
fn s1_a_forged_source_teaches_no_mac() {
    let mut bed = Bed::new();
    bed.one(BETA, Ip::udp(ALPHA_IP, B_VXLAN, 1).sent_by(GAMMA_MAC));
    let ip = Ip::udp(ALPHA_IP, BETA_IP, 1);
    let exchange = bed.one(ALPHA, ip.sent_by(ALPHA_MAC));
    assert_eq!(exchange.out, [(BETA.into(), ip.hop().delivered_to(BETA_MAC))]);
}

#[test]
fn s2_tunnel_packets_come_from_peers_alone_and_a_removed_peer_is_out_at_once() {
    for stranger in [[192, 168, 77, 99].into(), NODE, OUTSIDE, B_VXLAN, ALPHA_IP, Ipv4Addr::UNSPECIFIED] {
        let ip = |source| Ip::udp(source, ALPHA_IP, 1);
        dropped(PortId::Vxlan, ip(B_VXLAN).in_vxlan(stranger, VTEP_A, VTEP_B), DropReason::UnknownPeer);
        dropped(PortId::Ipip, ip(B_IPIP).in_ipip(stranger, NODE), DropReason::UnknownPeer);
    }
    let mut bed = Bed::new();
    let frame = || Ip::udp(C_VXLAN, ALPHA_IP, 1).in_vxlan(PEER_C, VTEP_A, VTEP_B);
    assert_eq!(bed.one(PortId::Vxlan, frame()).out.len(), 1);
    let of_c = |line: &&str| line.starts_with("node c") || line.ends_with(" c");
    let without: Vec<&str> = CLUSTER.lines().filter(|line| !of_c(line)).collect();
    bed.publish(compile(&without.join("\n"), "a", Machine::default()));
    let exchange = bed.one(PortId::Vxlan, frame());
    assert_eq!(exchange.out, []);
    assert_eq!(exchange.tally.dropped[DropReason::UnknownPeer.index()], 1);
}

/// RFC 1812 5.3.7, 5.3.8. The target does not matter.
#[test]
fn s3_inner_sources_of_this_node_and_martians_are_dropped() {
    for target in [ALPHA_IP, NODE, OUTSIDE, NOBODY, B_VXLAN] {
        for source in [ALPHA_IP, BETA_IP, GAMMA_IP_2, NOBODY, NODE, TUNNEL_A, [10, 66, 0, 1].into()] {
            let ip = Ip::udp(source, target, 1);
            let reason = DropReason::InnerSourceLocal;
            dropped(PortId::Vxlan, ip.in_vxlan(PEER_B, VTEP_A, VTEP_B), reason);
            dropped(PortId::Ipip, ip.in_ipip(PEER_B, NODE), reason);
            dropped(PortId::Underlay, ip.on_underlay(), reason);
        }
        for source in MARTIANS {
            let ip = Ip::udp(source.into(), target, 1);
            dropped(PortId::Vxlan, ip.in_vxlan(PEER_B, VTEP_A, VTEP_B), DropReason::SourceMartian);
            dropped(PortId::Ipip, ip.in_ipip(PEER_B, NODE), DropReason::SourceMartian);
            dropped(PortId::Underlay, ip.on_underlay(), DropReason::SourceMartian);
        }
    }
}

#[test]
fn s3_the_host_forwards_no_martian_source() {
    for source in MARTIANS {
        dropped(PortId::Host, Ip::udp(source.into(), ALPHA_IP, 1).plain(), DropReason::SourceMartian);
    }
}

#[test]
fn s4_inner_sources_of_another_peer_are_dropped() {
    for source in [C_VXLAN, C_IPIP, PEER_C, OUTSIDE, UNASSIGNED] {
        let ip = Ip::udp(source, ALPHA_IP, 1);
        let reason = DropReason::InnerSourceNotPeers;
        dropped(PortId::Vxlan, ip.in_vxlan(PEER_B, VTEP_A, VTEP_B), reason);
        dropped(PortId::Ipip, ip.in_ipip(PEER_B, NODE), reason);
    }
}

/// VU#636397: what a workload wraps itself would be taken for a node's.
#[test]
fn s5_a_workload_makes_no_tunnel_packets() {
    for target in [NODE, PEER_B, BETA_IP, B_VXLAN, OUTSIDE] {
        let wrapped = Ip::udp(B_VXLAN, ALPHA_IP, 1);
        let ipip = Ip::new(ALPHA_IP, target, IPIP, wrapped.bytes());
        dropped(ALPHA.into(), ipip.sent_by(ALPHA_MAC), DropReason::TunnelFromWorkload);
        let frame = wrapped.in_vxlan(PEER_B, VTEP_A, VTEP_B).bytes;
        let udp = Ip::datagram(ALPHA_IP, target, (50000, 4789), &frame);
        dropped(ALPHA.into(), udp.sent_by(ALPHA_MAC), DropReason::TunnelFromWorkload);
        // A first fragment has the ports, and IPIP is IPIP in each.
        dropped(ALPHA.into(), udp.fragment(MF).sent_by(ALPHA_MAC), DropReason::TunnelFromWorkload);
        dropped(ALPHA.into(), ipip.fragment(8).sent_by(ALPHA_MAC), DropReason::TunnelFromWorkload);
    }
}

/// A checksum that a workload leaves to us goes where it says, after its ports were looked at: not over them.
#[test]
fn s5_a_partial_checksum_does_not_change_the_ports() {
    let ip = Ip::udp(ALPHA_IP, B_IPIP, 100);
    for at in 0..4 {
        for start in 0..=at {
            let checksum = Some(PartialChecksum { start: 20 + start, field: at - start });
            let offload = Offload { checksum, ..Offload::default() };
            let frame = MemoryFrame { offload, ..ip.sent_by(ALPHA_MAC) };
            dropped(ALPHA.into(), frame, DropReason::OffloadMalformed);
        }
    }
}

#[test]
fn s5_a_tunnel_packet_nested_in_a_peers_goes_to_nobodys_tunnel_socket() {
    for source in [PEER_B, B_VXLAN] {
        let wrapped = Ip::udp(B_VXLAN, ALPHA_IP, 1);
        let nested = [
            Ip::new(source, NODE, IPIP, wrapped.bytes()),
            Ip::datagram(source, NODE, (50000, 4789), &wrapped.in_vxlan(PEER_B, VTEP_A, VTEP_B).bytes),
        ];
        for ip in nested {
            dropped(PortId::Vxlan, ip.in_vxlan(PEER_B, VTEP_A, VTEP_B), DropReason::TunnelNested);
            dropped(PortId::Ipip, ip.in_ipip(PEER_B, NODE), DropReason::TunnelNested);
        }
    }
    // To the node and to a workload anything else passes, and to a workload a tunnel of its own.
    let ip = Ip::datagram(B_VXLAN, NODE, (4789, 53), b"x");
    assert_eq!(Bed::new().one(PortId::Vxlan, ip.in_vxlan(PEER_B, VTEP_A, VTEP_B)).out.len(), 1);
    let ip = Ip::new(B_VXLAN, ALPHA_IP, IPIP, Ip::udp(B_VXLAN, ALPHA_IP, 1).bytes());
    let exchange = Bed::new().one(PortId::Vxlan, ip.in_vxlan(PEER_B, VTEP_A, VTEP_B));
    assert_eq!(exchange.out[0].1.bytes, ip.hop().delivered_to(ALPHA_MAC).bytes);
}

/// RFC 2003 3.2: one layer is taken off; at most one packet leaves, and its TTL has fallen.
#[test]
fn s6_deep_nesting_unwraps_one_layer() {
    for target in [ALPHA_IP, OUTSIDE] {
        let mut ip = Ip::udp(B_IPIP, target, 10);
        for _ in 0..16 {
            ip = Ip::new(B_IPIP, target, IPIP, ip.bytes());
        }
        let exchange = Bed::new().one(PortId::Ipip, ip.in_ipip(PEER_B, NODE));
        let [(_, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
        let head = if target == ALPHA_IP { 14 } else { 0 };
        assert_eq!(Ip::read(&frame.bytes[head..]), ip.hop());
    }
}

/// What came from the underlay does not go back to it.
#[test]
fn s6_no_transit() {
    for target in [B_VXLAN, C_VXLAN, B_IPIP, C_IPIP, B_DIRECT, UNASSIGNED] {
        let ip = Ip::udp(B_VXLAN, target, 10);
        dropped(PortId::Vxlan, ip.in_vxlan(PEER_B, VTEP_A, VTEP_B), DropReason::TransitRefused);
        dropped(PortId::Ipip, ip.in_ipip(PEER_B, NODE), DropReason::TransitRefused);
        dropped(PortId::Underlay, ip.on_underlay(), DropReason::TransitRefused);
    }
    // What the host's kernel sent does not go back to the kernel.
    let exchange = Bed::new().one(PortId::Host, Ip::udp(TUNNEL_A, OUTSIDE, 1).plain());
    assert!(exchange.out.iter().all(|(_, frame)| frame.bytes[9] == ICMP), "{exchange:?}");
}

/// RFC 1122 3.2.1.3. Frames for other stations and groups the underlay's socket leaves out by its filter.
#[test]
fn s7_outer_packets_for_other_addresses_are_dropped() {
    for to in [[192, 168, 77, 255], [255, 255, 255, 255], [224, 0, 0, 1], [192, 168, 77, 2], [10, 65, 0, 1]] {
        let ip = Ip::udp(B_IPIP, ALPHA_IP, 1);
        dropped(PortId::Ipip, ip.in_ipip(PEER_B, to.into()), DropReason::OuterDestination);
    }
}

/// A node without VXLAN pools opens no VXLAN port; what its routes do not use, it does not send either.
#[test]
fn s9_an_encapsulation_that_is_not_configured_is_not_used() {
    let cluster = "
node a 192.168.77.1/24
node b 192.168.77.2/24
pool 10.66.0.0/16 ipipMode
block 10.66.0.64/26 b
pod alpha a 10.66.0.4/32 mac=02:00:00:00:00:0a
";
    let known = Some(Neighbor::fixed(ALPHA_MAC));
    let fib = compile(cluster, "a", Machine::default());
    let mut bed = Bed::bare(fib, 8).with_ports([(ALPHA.into(), known)]);
    let ip = Ip::udp([10, 66, 0, 4].into(), B_IPIP, 1);
    let exchange = bed.one(ALPHA, ip.sent_by(ALPHA_MAC));
    assert!(exchange.out.iter().all(|(id, _)| *id == PortId::Ipip));
    // IPIP in a VXLAN port's payload and the other way round: neither is the other.
    let ipip = Ip::udp(B_IPIP, ALPHA_IP, 1).in_ipip(PEER_B, NODE);
    assert!(bed.one(PortId::Vxlan, ipip).out.is_empty());
    let vxlan = Ip::udp(B_IPIP, ALPHA_IP, 1).in_vxlan(PEER_B, VTEP_A, VTEP_B);
    assert!(bed.one(PortId::Ipip, vxlan).out.is_empty());
}
