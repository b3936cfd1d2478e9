//! Workloads' MAC addresses, and what changes between two turns.

use std::net::Ipv4Addr;
use std::sync::Arc;

use margay::dataplane::{Neighbor, PortId};
use margay::fib::{EndpointId, Publication};
use margay::io::memory::MemoryFrame;
use margay::verdict::{DropReason, PuntReason};
use margay::wire::MacAddr;

use crate::bed::*;
use crate::packets::*;

fn question() -> MemoryFrame {
    let gateway = (MacAddr::GATEWAY, Ipv4Addr::new(169, 254, 1, 1));
    arp(MacAddr::BROADCAST, 1, gateway, (MacAddr([0; 6]), BETA_IP))
}

fn answer() -> MemoryFrame {
    let gateway = (MacAddr::GATEWAY, Ipv4Addr::new(169, 254, 1, 1));
    arp(MacAddr::GATEWAY, 2, (BETA_MAC, BETA_IP), gateway)
}

/// BETA has not spoken yet.
fn bed() -> Bed {
    let mut bed = Bed::new();
    bed.attach(BETA.into(), Some(Neighbor::unknown()));
    bed
}

#[test]
fn an_unknown_mac_is_asked_for_and_the_packets_follow_in_order() {
    let mut bed = bed();
    let packet = |id| Ip { id, ..Ip::udp(ALPHA_IP, BETA_IP, 100) };
    let exchange = bed.exchange((0..10).map(|id| (ALPHA.into(), packet(id).sent_by(ALPHA_MAC))));
    assert_eq!(exchange.out, [(BETA.into(), question())], "one question for all");
    assert_eq!(exchange.tally.punted[PuntReason::NeighborUnresolved.index()], 10);

    let exchange = bed.one(BETA, answer());
    let wanted: Vec<_> =
        (0..10).map(|id| (PortId::from(BETA), packet(id).hop().delivered_to(BETA_MAC))).collect();
    assert_eq!(exchange.out, wanted, "one hop each, no question more");
}

/// Any packet of the workload's own teaches as well as an answer, and replies need no question at all.
#[test]
fn a_workload_that_speaks_first_is_never_asked() {
    let mut bed = bed();
    bed.one(BETA, Ip::udp(BETA_IP, B_VXLAN, 1).sent_by(BETA_MAC));
    let packet = Ip::udp(ALPHA_IP, BETA_IP, 1);
    let exchange = bed.one(ALPHA, packet.sent_by(ALPHA_MAC));
    assert_eq!(exchange.out, [(BETA.into(), packet.hop().delivered_to(BETA_MAC))]);
    // It may change its MAC, too.
    let other = MacAddr([2, 0, 0, 0, 0, 0xbb]);
    bed.one(BETA, Ip::udp(BETA_IP, B_VXLAN, 1).sent_by(other));
    let exchange = bed.one(ALPHA, packet.sent_by(ALPHA_MAC));
    assert_eq!(exchange.out, [(BETA.into(), packet.hop().delivered_to(other))]);
}

#[test]
fn a_mac_that_the_resource_gives_is_used_whatever_the_workload_says() {
    let mut bed = Bed::new();
    bed.one(ALPHA, Ip::udp(ALPHA_IP, B_VXLAN, 1).sent_by(GAMMA_MAC));
    let packet = Ip::udp(BETA_IP, ALPHA_IP, 1);
    let exchange = bed.one(BETA, packet.sent_by(BETA_MAC));
    assert_eq!(exchange.out, [(ALPHA.into(), packet.hop().delivered_to(ALPHA_MAC))]);
}

/// The first 64 wait; the rest is dropped, and says so. From a tunnel as well.
#[test]
fn the_queue_is_bounded() {
    let mut bed = bed();
    let packet = |id| Ip { id, ..Ip::udp(B_VXLAN, BETA_IP, 100) };
    let frames = (0..100).map(|id| (VXLAN, packet(id).in_vxlan(PEER_B, VTEP_A, VTEP_B)));
    let exchange = bed.exchange(frames);
    assert_eq!(exchange.out, [(BETA.into(), question())]);
    assert_eq!(exchange.tally.dropped[DropReason::NeighborQueueFull.index()], 36);
    let exchange = bed.one(BETA, answer());
    let out: Vec<Ip> = exchange.out.iter().map(|(_, frame)| Ip::read(&frame.bytes[14..])).collect();
    assert_eq!(out, (0..64).map(|id| packet(id).hop()).collect::<Vec<_>>());
}

/// An error for a workload whose MAC is not known waits like anything else.
#[test]
fn what_the_slow_path_made_waits_too() {
    let mut bed = bed();
    // From BETA's address, but by the host's way, so that nothing is learned: it will get the error.
    let from_beta = Ip::udp(BETA_IP, UNASSIGNED, 10);
    let exchange = bed.one(PortId::Host, from_beta.plain());
    assert_eq!(exchange.out, [(BETA.into(), question())]);
    let exchange = bed.one(BETA, answer());
    let error = Ip::read(&exchange.out[0].1.bytes[14..]);
    assert_eq!((error.dst, error.ttl), (BETA_IP, 64));
    assert_eq!(error.payload[..2], [3, 0]);
}

/// Another worker receives from BETA: what that one learns lets this one's packets go.
#[test]
fn what_one_worker_learns_serves_the_others() {
    let publication = Publication::new(compile(CLUSTER, "a", Machine::default()));
    let beta = Neighbor::unknown();
    let bed = || {
        Bed::over(&publication, 128).with_ports([
            (ALPHA.into(), Some(Neighbor::fixed(ALPHA_MAC))),
            (BETA.into(), Some(Arc::clone(&beta))),
        ])
    };
    let (mut first, mut second) = (bed(), bed());
    let packet = Ip::udp(ALPHA_IP, BETA_IP, 1);
    assert_eq!(first.one(ALPHA, packet.sent_by(ALPHA_MAC)).out, [(BETA.into(), question())]);
    assert_eq!(second.one(BETA, answer()).out, []);
    assert_eq!(first.exchange([]).out, [(BETA.into(), packet.hop().delivered_to(BETA_MAC))]);
}

#[test]
fn an_endpoint_that_leaves_takes_its_waiting_packets_with_it() {
    let mut bed = bed();
    bed.one(ALPHA, Ip::udp(ALPHA_IP, BETA_IP, 1).sent_by(ALPHA_MAC));
    bed.detach(BETA.into());
    let exchange = bed.exchange([]);
    assert_eq!(exchange.out, []);
    assert_eq!(exchange.tally.dropped[DropReason::EndpointGone.index()], 1);
    // What still comes for it, while the FIB has its route, is dropped; the others go on.
    let packet = Ip::udp(ALPHA_IP, GAMMA_IP, 1);
    let frames =
        [Ip::udp(ALPHA_IP, BETA_IP, 1), packet.clone()].map(|ip| (ALPHA.into(), ip.sent_by(ALPHA_MAC)));
    let exchange = bed.exchange(frames);
    assert_eq!(exchange.out, [(GAMMA.into(), packet.hop().delivered_to(GAMMA_MAC))]);
    assert_eq!(exchange.tally.dropped[DropReason::EndpointGone.index()], 1);
    // It may come back, with another MAC.
    bed.attach(BETA.into(), Some(Neighbor::fixed(ALPHA_MAC)));
    let packet = Ip::udp(ALPHA_IP, BETA_IP, 1);
    let exchange = bed.one(ALPHA, packet.sent_by(ALPHA_MAC));
    assert_eq!(exchange.out, [(BETA.into(), packet.hop().delivered_to(ALPHA_MAC))]);
}

/// The agent publishes first, then closes the port: in between, the endpoint's own frames belong to nobody.
#[test]
fn an_endpoint_that_the_fib_no_longer_has_sends_nothing() {
    let mut bed = Bed::new();
    let without: Vec<&str> = CLUSTER.lines().filter(|line| !line.starts_with("pod gamma")).collect();
    bed.publish(compile(&without.join("\n"), "a", Machine::default()));
    let exchange = bed.one(GAMMA, Ip::udp(GAMMA_IP, ALPHA_IP, 1).sent_by(GAMMA_MAC));
    assert_eq!(exchange.tally.dropped[DropReason::EndpointGone.index()], 1);
    let exchange = bed.one(ALPHA, Ip::udp(ALPHA_IP, GAMMA_IP, 1).sent_by(ALPHA_MAC));
    assert_eq!(exchange.tally.dropped[DropReason::Blackhole.index()], 1, "its address is the block's again");
}

/// The packets wait for a MAC while their address moves to another endpoint, or to another node.
#[test]
fn what_waits_follows_the_route_of_the_moment_when_it_is_sent() {
    let moved = CLUSTER.replace("pod beta a 10.65.0.3/32", "pod beta a 10.65.0.9/32");
    let mut bed = bed();
    bed.one(ALPHA, Ip::udp(ALPHA_IP, BETA_IP, 1).sent_by(ALPHA_MAC));
    bed.publish(compile(&moved, "a", Machine::default()));
    bed.attach(BETA.into(), Some(Neighbor::fixed(BETA_MAC)));
    let exchange = bed.exchange([]);
    assert_eq!(exchange.out, []);
    assert_eq!(exchange.tally.dropped[DropReason::Blackhole.index()], 1);
}

/// S6: not out of the node, into which it may have come by a tunnel, nor to a kernel that might send it there.
#[test]
fn s6_what_waits_does_not_leave_the_node_when_its_address_moves_away() {
    let moved_to_c = format!("{}block 10.65.0.3/32 c\n", CLUSTER.replace("pod beta a", "pod beta c"));
    let nowhere = "node a 192.168.77.1/24\npod alpha a 10.65.0.2/32\n".to_owned();
    for cluster in [moved_to_c, nowhere] {
        let mut bed = bed();
        bed.one(VXLAN, Ip::udp(B_VXLAN, BETA_IP, 1).in_vxlan(PEER_B, VTEP_A, VTEP_B));
        bed.publish(compile(&cluster, "a", Machine::default()));
        bed.attach(BETA.into(), Some(Neighbor::fixed(BETA_MAC)));
        let exchange = bed.exchange([]);
        assert_eq!(exchange.out, []);
        assert_eq!(exchange.tally.dropped[DropReason::EndpointGone.index()], 1);
    }
}

/// A reload of the same resources gives the same answers, without a packet lost in between.
#[test]
fn a_new_snapshot_loses_nothing() {
    let mut bed = Bed::new();
    let ip = Ip::udp(ALPHA_IP, B_VXLAN, 1);
    let first = bed.one(ALPHA, ip.sent_by(ALPHA_MAC)).out;
    for _ in 0..20 {
        bed.publish(compile(CLUSTER, "a", Machine::default()));
        assert_eq!(bed.one(ALPHA, ip.sent_by(ALPHA_MAC)).out, first);
    }
}

/// More endpoints than one batch, each of them heard in each turn.
#[test]
fn hundreds_of_endpoints_come_and_go() {
    let mut cluster = String::from("node a 192.168.77.1/24\npool 10.65.0.0/16\nblock 10.65.0.0/16 a\n");
    for index in 0..300 {
        cluster += &format!("pod p{index:03} a 10.65.{}.{}/32\n", index / 200 + 1, index % 200 + 1);
    }
    let address = |index: u32| Ipv4Addr::new(10, 65, (index / 200 + 1) as u8, (index % 200 + 1) as u8);
    let mac = |index: u32| MacAddr([2, 0, 0, 0, (index >> 8) as u8, index as u8]);
    let mut bed = Bed::bare(compile(&cluster, "a", Machine::default()), 512);
    for round in 0..3 {
        for index in 0..300 {
            bed.attach(EndpointId(index).into(), Some(Neighbor::fixed(mac(index))));
        }
        let ring = |index: u32| Ip::udp(address(index), address((index + 1) % 300), 1);
        let frames = (0..300).map(|index| (EndpointId(index).into(), ring(index).sent_by(mac(index))));
        assert_eq!(bed.exchange(frames).out.len(), 300, "round {round}");
        for index in (0..300).step_by(round + 1) {
            bed.detach(EndpointId(index).into());
        }
        bed.exchange([]);
    }
}
