//! Who may send what: S1 to S7, S9.

use std::net::Ipv4Addr;

use margay::buf::{Offload, PartialChecksum};
use margay::dataplane::{Neighbor, PortId};
use margay::io::memory::MemoryFrame;
use margay::verdict::DropReason;
use margay::wire::MacAddr;

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

/// Calico's `allowSpoofedSourcePrefixes`, where `workloadSourceSpoofing` lets it: what stands there, no more.
#[test]
fn s1_allowed_prefixes_are_the_workloads_too() {
    let pods = CLUSTER.replace("0:00:0a", "0:00:0a spoofs=192.0.2.0/25,127.0.0.0/8");
    let bed = |felix: &str| {
        let fib = compile(&format!("{pods}{felix}"), "a", Machine::default());
        let known = |mac| Some(Neighbor::fixed(mac));
        Bed::bare(fib, 8).with_ports([(ALPHA.into(), known(ALPHA_MAC)), (BETA.into(), known(BETA_MAC))])
    };
    let from = |source: [u8; 4]| Ip::udp(source.into(), BETA_IP, 1);
    let allowed = "felix workloadSourceSpoofing Any\n";
    for source in [[192, 0, 2, 0], [192, 0, 2, 127]] {
        let exchange = bed(allowed).one(ALPHA, from(source).sent_by(ALPHA_MAC));
        assert_eq!(exchange.out, [(BETA.into(), from(source).hop().delivered_to(BETA_MAC))]);
    }
    // Its kernel asks for the gateway from there as well, and tells of the address without being contradicted.
    let gateway = (MacAddr([0; 6]), [169, 254, 1, 1].into());
    let asker = (ALPHA_MAC, [192, 0, 2, 1].into());
    let exchange = bed(allowed).one(ALPHA, arp(MacAddr::BROADCAST, 1, asker, gateway));
    let reply = arp(ALPHA_MAC, 2, (MacAddr::GATEWAY, gateway.1), asker);
    assert_eq!(exchange.out, [(ALPHA.into(), reply)]);
    let probe = arp(MacAddr::BROADCAST, 1, (ALPHA_MAC, [0; 4].into()), (MacAddr([0; 6]), asker.1));
    assert_eq!(bed(allowed).one(ALPHA, probe).out, []);
    // A martian stays one, and who else's is not meant.
    let refused = |bed: &mut Bed, id, frame, reason: DropReason| {
        let exchange = bed.one(id, frame);
        assert_eq!(exchange.out, []);
        assert_eq!(exchange.tally.dropped[reason.index()], 1, "{:?}", exchange.tally);
    };
    let mut bed_of_any = bed(allowed);
    for source in [[192, 0, 2, 128], [192, 0, 1, 255], [127, 0, 0, 1], BETA_IP.octets()] {
        refused(&mut bed_of_any, ALPHA, from(source).sent_by(ALPHA_MAC), DropReason::SourceNotOwned);
    }
    let ip = Ip::udp([192, 0, 2, 1].into(), ALPHA_IP, 1);
    refused(&mut bed_of_any, BETA, ip.sent_by(BETA_MAC), DropReason::SourceNotOwned);
    let claim = arp(MacAddr::BROADCAST, 1, (ALPHA_MAC, [192, 0, 2, 128].into()), gateway);
    refused(&mut bed_of_any, ALPHA, claim, DropReason::ArpSpoofed);
    // Felix's default is Disabled.
    for felix in ["", "felix workloadSourceSpoofing Disabled\n"] {
        let frame = from([192, 0, 2, 1]).sent_by(ALPHA_MAC);
        refused(&mut bed(felix), ALPHA, frame, DropReason::SourceNotOwned);
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
        dropped(VXLAN, ip(B_VXLAN).in_vxlan(stranger, VTEP_A, VTEP_B), DropReason::UnknownPeer);
        dropped(PortId::Ipip, ip(B_IPIP).in_ipip(stranger, NODE), DropReason::UnknownPeer);
    }
    let mut bed = Bed::new();
    let frame = || Ip::udp(C_VXLAN, ALPHA_IP, 1).in_vxlan(PEER_C, VTEP_A, VTEP_B);
    assert_eq!(bed.one(VXLAN, frame()).out.len(), 1);
    let of_c = |line: &&str| line.starts_with("node c") || line.ends_with(" c");
    let without: Vec<&str> = CLUSTER.lines().filter(|line| !of_c(line)).collect();
    bed.publish(compile(&without.join("\n"), "a", Machine::default()));
    let exchange = bed.one(VXLAN, frame());
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
            dropped(VXLAN, ip.in_vxlan(PEER_B, VTEP_A, VTEP_B), reason);
            dropped(PortId::Ipip, ip.in_ipip(PEER_B, NODE), reason);
            dropped(UNDERLAY, ip.on_underlay(), reason);
        }
        for source in MARTIANS {
            let ip = Ip::udp(source.into(), target, 1);
            dropped(VXLAN, ip.in_vxlan(PEER_B, VTEP_A, VTEP_B), DropReason::SourceMartian);
            dropped(PortId::Ipip, ip.in_ipip(PEER_B, NODE), DropReason::SourceMartian);
            dropped(UNDERLAY, ip.on_underlay(), DropReason::SourceMartian);
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
        dropped(VXLAN, ip.in_vxlan(PEER_B, VTEP_A, VTEP_B), reason);
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

/// Felix's two settings, each for its own protocol. What comes back to a socket of this node's own is a stranger's.
#[test]
fn s5_a_workload_makes_the_tunnel_packets_that_felix_allows() {
    let wrapped = Ip::udp(B_VXLAN, ALPHA_IP, 1);
    let ipip = |to| Ip::new(ALPHA_IP, to, IPIP, wrapped.bytes());
    let payload = wrapped.in_vxlan(PEER_B, VTEP_A, VTEP_B).bytes;
    let vxlan = |to| Ip::datagram(ALPHA_IP, to, (50000, 4789), &payload);
    for (felix, has_ipip, has_vxlan) in [
        ("felix allowIPIPPacketsFromWorkloads true\n", true, false),
        ("felix allowVXLANPacketsFromWorkloads true\n", false, true),
        ("felix allowIPIPPacketsFromWorkloads false\n", false, false),
    ] {
        let fib = compile(&format!("{CLUSTER}{felix}"), "a", Machine::default());
        let known = |mac| Some(Neighbor::fixed(mac));
        let mut bed =
            Bed::bare(fib, 8).with_ports([(ALPHA.into(), known(ALPHA_MAC)), (BETA.into(), known(BETA_MAC))]);
        for (ip, allowed) in [(ipip(BETA_IP), has_ipip), (vxlan(BETA_IP), has_vxlan)] {
            let exchange = bed.one(ALPHA, ip.sent_by(ALPHA_MAC));
            match allowed {
                true => assert_eq!(exchange.out, [(BETA.into(), ip.hop().delivered_to(BETA_MAC))]),
                false => assert_eq!(exchange.tally.dropped[DropReason::TunnelFromWorkload.index()], 1),
            }
            assert_eq!(exchange.out.is_empty(), !allowed);
        }
        // To the node itself: the kernel hands it to the tunnel sockets, as from the workload's address. And
        // nested in a peer's it is not taken, whatever workloads may do.
        let again = MemoryFrame::from_peer(ipip(NODE).bytes(), ALPHA_IP.into());
        let again = bed.exchange([
            (PortId::Ipip, again),
            (VXLAN, MemoryFrame::from_peer(payload.clone(), ALPHA_IP.into())),
        ]);
        assert_eq!(again.tally.dropped[DropReason::UnknownPeer.index()], 2);
        let nested = Ip::new(B_VXLAN, NODE, IPIP, wrapped.bytes());
        let exchange = bed.one(VXLAN, nested.in_vxlan(PEER_B, VTEP_A, VTEP_B));
        assert_eq!(exchange.tally.dropped[DropReason::TunnelNested.index()], 1);
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
            dropped(VXLAN, ip.in_vxlan(PEER_B, VTEP_A, VTEP_B), DropReason::TunnelNested);
            dropped(PortId::Ipip, ip.in_ipip(PEER_B, NODE), DropReason::TunnelNested);
        }
    }
    // To the node and to a workload anything else passes, and to a workload a tunnel of its own.
    let ip = Ip::datagram(B_VXLAN, NODE, (4789, 53), b"x");
    assert_eq!(Bed::new().one(VXLAN, ip.in_vxlan(PEER_B, VTEP_A, VTEP_B)).out.len(), 1);
    let ip = Ip::new(B_VXLAN, ALPHA_IP, IPIP, Ip::udp(B_VXLAN, ALPHA_IP, 1).bytes());
    let exchange = Bed::new().one(VXLAN, ip.in_vxlan(PEER_B, VTEP_A, VTEP_B));
    assert_eq!(exchange.out[0].1.bytes, ip.hop().delivered_to(ALPHA_MAC).bytes);
}

/// RFC 2003 3.2: one layer is taken off; at most one packet leaves, and its TTL has fallen, or falls in the
/// kernel that gets it.
#[test]
fn s6_deep_nesting_unwraps_one_layer() {
    for target in [ALPHA_IP, OUTSIDE] {
        let mut ip = Ip::udp(B_IPIP, target, 10);
        for _ in 0..16 {
            ip = Ip::new(B_IPIP, target, IPIP, ip.bytes());
        }
        let exchange = Bed::new().one(PortId::Ipip, ip.in_ipip(PEER_B, NODE));
        let [(id, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
        let (port, head) = if target == ALPHA_IP { (ALPHA.into(), 14) } else { (PortId::Host, 0) };
        assert_eq!(*id, port);
        assert_eq!(Ip::read(&frame.bytes[head..]), ip.leaving_by(port));
    }
}

/// What came from the underlay does not go back to it.
#[test]
fn s6_no_transit() {
    for target in [B_VXLAN, C_VXLAN, B_IPIP, C_IPIP, B_DIRECT, UNASSIGNED] {
        let ip = Ip::udp(B_VXLAN, target, 10);
        dropped(VXLAN, ip.in_vxlan(PEER_B, VTEP_A, VTEP_B), DropReason::TransitRefused);
        dropped(PortId::Ipip, ip.in_ipip(PEER_B, NODE), DropReason::TransitRefused);
        dropped(UNDERLAY, ip.on_underlay(), DropReason::TransitRefused);
    }
    // What the host's kernel sent does not go back to the kernel.
    let exchange = Bed::new().one(PortId::Host, Ip::udp(TUNNEL_A, OUTSIDE, 1).plain());
    assert!(exchange.out.iter().all(|(_, frame)| frame.bytes[9] == ICMP), "{exchange:?}");
}

/// Two nodes whose resources disagree, each of which believes that the other has an address: the next node ends it.
#[test]
fn s6_a_loop_between_nodes_ends_at_the_next_one() {
    let nodes = "
node a 192.168.77.1/24 mac=66:00:00:00:00:01
node b 192.168.77.2/24 mac=66:00:00:00:00:02
pod alpha a 10.65.0.2/32 mac=02:00:00:00:00:0a
";
    for (pool, mode) in [("10.65.0.0/16", " vxlanMode"), ("10.65.0.0/16", " ipipMode"), ("10.65.0.0/16", "")]
    {
        let believes = |node, other| {
            let cluster = format!("{nodes}pool {pool}{mode}\nblock 10.65.0.64/26 {other}\n");
            let known = Some(Neighbor::fixed(ALPHA_MAC));
            Bed::bare(compile(&cluster, node, Machine::default()), 8).with_ports([(ALPHA.into(), known)])
        };
        let (mut a, mut b) = (believes("a", "b"), believes("b", "a"));
        let exchange = a.one(ALPHA, Ip::udp(ALPHA_IP, B_VXLAN, 1).ttl(255).sent_by(ALPHA_MAC));
        let [(port, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
        let (port, mut frame) = (*port, MemoryFrame { peer: NODE.into(), ..frame.clone() });
        let port = if port == PortId::Direct {
            frame = ethernet(MacAddr([2; 6]), MacAddr([4; 6]), 0x0800, &frame.bytes);
            UNDERLAY
        } else {
            port
        };
        let exchange = b.one(port, frame);
        assert_eq!(exchange.out, [], "{mode}");
        assert_eq!(exchange.tally.dropped[DropReason::TransitRefused.index()], 1, "{mode}");
    }
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
    assert!(bed.one(VXLAN, ipip).out.is_empty());
    let vxlan = Ip::udp(B_IPIP, ALPHA_IP, 1).in_vxlan(PEER_B, VTEP_A, VTEP_B);
    assert!(bed.one(PortId::Ipip, vxlan).out.is_empty());
}
