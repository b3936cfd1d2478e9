//! ARP towards workloads: A1 to A7.

use margay::dataplane::Neighbor;
use margay::io::BATCH;
use margay::io::memory::MemoryFrame;
use margay::verdict::{DropReason, Sent};
use margay::wire::MacAddr;

use crate::bed::*;
use crate::packets::*;

const GATEWAY: std::net::Ipv4Addr = std::net::Ipv4Addr::new(169, 254, 1, 1);
const NO_MAC: MacAddr = MacAddr([0; 6]);
const NO_IP: std::net::Ipv4Addr = std::net::Ipv4Addr::UNSPECIFIED;

fn question(to: MacAddr, target: std::net::Ipv4Addr) -> MemoryFrame {
    arp(to, 1, (ALPHA_MAC, ALPHA_IP), (NO_MAC, target))
}

/// Nothing is sent, and the frame is counted under `reason`.
#[track_caller]
fn unanswered(frame: MemoryFrame, reason: DropReason) {
    let exchange = Bed::new().one(ALPHA, frame);
    assert_eq!(exchange.out, []);
    assert_eq!(exchange.tally.dropped[reason.index()], 1, "{:?}", exchange.tally);
}

#[test]
fn a1_one_unicast_reply_with_the_gateways_mac() {
    let exchange = Bed::new().one(ALPHA, question(MacAddr::BROADCAST, GATEWAY));
    let reply = [
        0x02, 0, 0, 0, 0, 0x0a, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0x08, 0x06, // to the asker alone
        0, 1, 8, 0, 6, 4, 0, 2, // Ethernet, IPv4, reply
        0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 169, 254, 1, 1, // the gateway is at
        0x02, 0, 0, 0, 0, 0x0a, 10, 65, 0, 2,
    ];
    assert_eq!(exchange.out, [(ALPHA.into(), MemoryFrame::new(reply))]);
    assert_eq!(exchange.tally.sent[Sent::NeighborReply.index()], 1);
    assert_eq!(exchange.tally.sent[Sent::Workload.index()], 0);
}

#[test]
fn a1_any_target_but_the_workloads_own_is_answered() {
    for target in [GATEWAY, BETA_IP, B_VXLAN, NODE, OUTSIDE, [255, 255, 255, 255].into()] {
        let exchange = Bed::new().one(ALPHA, question(MacAddr::BROADCAST, target));
        let reply = arp(ALPHA_MAC, 2, (MacAddr::GATEWAY, target), (ALPHA_MAC, ALPHA_IP));
        assert_eq!(exchange.out, [(ALPHA.into(), reply)], "{target}");
    }
}

#[test]
fn a2_unicast_and_padded_questions_are_answered() {
    let mut frame = question(MacAddr::GATEWAY, GATEWAY);
    let reply = arp(ALPHA_MAC, 2, (MacAddr::GATEWAY, GATEWAY), (ALPHA_MAC, ALPHA_IP));
    assert_eq!(Bed::new().one(ALPHA, frame.clone()).out, [(ALPHA.into(), reply.clone())]);
    frame.bytes.resize(60, 0xa5);
    assert_eq!(Bed::new().one(ALPHA, frame).out, [(ALPHA.into(), reply)], "without the padding");
}

/// RFC 5227 2.1: an answer would be taken for a conflict.
#[test]
fn a3_probes_announcements_and_replies_for_the_workloads_own_address_stay_unanswered() {
    let own = (ALPHA_MAC, ALPHA_IP);
    let broadcast = MacAddr::BROADCAST;
    unanswered(arp(broadcast, 1, (ALPHA_MAC, NO_IP), (NO_MAC, ALPHA_IP)), DropReason::ArpNotAnswered);
    unanswered(arp(broadcast, 1, own, (NO_MAC, ALPHA_IP)), DropReason::ArpNotAnswered);
    unanswered(arp(broadcast, 2, own, own), DropReason::ArpNotAnswered);
    unanswered(arp(MacAddr::GATEWAY, 2, own, (MacAddr::GATEWAY, GATEWAY)), DropReason::ArpNotAnswered);
}

/// RFC 5227 2.1: for an address that is not the workload's, a probe is told that it is taken.
#[test]
fn a3_a_probe_for_another_address_is_answered() {
    let probe = arp(MacAddr::BROADCAST, 1, (ALPHA_MAC, NO_IP), (NO_MAC, BETA_IP));
    let reply = arp(ALPHA_MAC, 2, (MacAddr::GATEWAY, BETA_IP), (ALPHA_MAC, NO_IP));
    assert_eq!(Bed::new().one(ALPHA, probe).out, [(ALPHA.into(), reply)]);
}

#[test]
fn a4_a_claim_to_anothers_address_changes_nothing() {
    let mut bed = Bed::new();
    for claimed in [BETA_IP, GATEWAY, PEER_B, NODE, B_VXLAN] {
        for op in [1, 2] {
            let claim = arp(MacAddr::BROADCAST, op, (ALPHA_MAC, claimed), (NO_MAC, claimed));
            let exchange = bed.one(ALPHA, claim);
            assert_eq!(exchange.out, []);
            assert_eq!(exchange.tally.dropped[DropReason::ArpSpoofed.index()], 1, "{claimed}");
        }
    }
    // A sender that is not the frame's: BETA's MAC would become ALPHA's.
    let mut forged = arp(MacAddr::BROADCAST, 1, (BETA_MAC, BETA_IP), (NO_MAC, GATEWAY));
    forged.bytes[6..12].copy_from_slice(&ALPHA_MAC.0);
    let exchange = bed.one(BETA, forged);
    assert_eq!(exchange.tally.dropped[DropReason::ArpSpoofed.index()], 1);
    // BETA's packets still go to BETA.
    let packet = Ip::udp(GAMMA_IP, BETA_IP, 10);
    let exchange = bed.one(GAMMA, packet.sent_by(GAMMA_MAC));
    assert_eq!(exchange.out, [(BETA.into(), packet.hop().delivered_to(BETA_MAC))]);
}

#[test]
fn a4_a_group_address_is_never_learned() {
    let mut bed = Bed::new();
    let group = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
    let claim = arp(MacAddr::GATEWAY, 1, (group, BETA_IP), (NO_MAC, GATEWAY));
    assert_eq!(bed.one(BETA, claim).tally.dropped[DropReason::ArpSpoofed.index()], 1);
    let packet = Ip::udp(ALPHA_IP, BETA_IP, 10);
    let exchange = bed.one(ALPHA, packet.sent_by(ALPHA_MAC));
    assert_eq!(exchange.out, [(BETA.into(), packet.hop().delivered_to(BETA_MAC))]);
}

#[test]
fn a5_what_is_no_ethernet_ipv4_question_is_ignored() {
    let good = question(MacAddr::BROADCAST, GATEWAY);
    // Hardware, protocol, both lengths and the operation, each byte of them with each wrong value.
    let mut bed = Bed::new();
    let right = [0, 1, 8, 0, 6, 4, 0, 1];
    for (at, value) in (0..8).flat_map(|at| (0..=255).map(move |value| (at, value))) {
        // An operation of 2 is a reply.
        if value == right[at] || (at, value) == (7, 2) {
            continue;
        }
        let mut frame = good.clone();
        frame.bytes[14 + at] = value;
        let exchange = bed.one(ALPHA, frame);
        assert_eq!(exchange.out, [], "byte {at}: {value}");
        assert_eq!(exchange.tally.dropped[DropReason::ArpMalformed.index()], 1, "byte {at}: {value}");
    }
    for len in 0..good.bytes.len() {
        let cut = MemoryFrame::new(&good.bytes[..len]);
        unanswered(cut, if len < 14 { DropReason::FrameTruncated } else { DropReason::ArpMalformed });
    }
    let tagged = [&good.bytes[..12], &[0x81, 0, 0, 5], &good.bytes[12..]].concat();
    unanswered(MemoryFrame::new(tagged), DropReason::EtherTypeUnsupported);
}

/// Whoever floods fills its own port's batches; the others are read in the same turns.
#[test]
fn a6_a_flood_costs_the_others_nothing() {
    let mut bed = Bed::new();
    let flood = (0..40 * BATCH).map(|_| (ALPHA.into(), question(MacAddr::BROADCAST, GATEWAY)));
    let packet = Ip::udp(BETA_IP, B_VXLAN, 100);
    let others = (0..40 * BATCH).map(|_| (BETA.into(), packet.sent_by(BETA_MAC)));
    let exchange = bed.exchange(flood.zip(others).flat_map(|(flood, other)| [flood, other]));
    assert_eq!(exchange.tally.sent[Sent::Vxlan.index()], 40 * BATCH as u64);
    assert_eq!(exchange.tally.sent[Sent::NeighborReply.index()], 40 * BATCH as u64);
    assert_eq!(exchange.tally.dropped.iter().sum::<u64>(), 0);
}

#[test]
fn a7_the_gateway_answers_without_any_route() {
    let lone = "node a 192.168.77.1/24\npod alpha a 10.65.0.2/32\n";
    let machine = Machine { host_mtu: None, ..Machine::default() };
    let mut bed =
        Bed::bare(compile(lone, "a", machine), 4).with_ports([(ALPHA.into(), Some(Neighbor::unknown()))]);
    let reply = arp(ALPHA_MAC, 2, (MacAddr::GATEWAY, GATEWAY), (ALPHA_MAC, ALPHA_IP));
    let exchange = bed.one(ALPHA, question(MacAddr::BROADCAST, GATEWAY));
    assert_eq!(exchange.out, [(ALPHA.into(), reply)]);
}
