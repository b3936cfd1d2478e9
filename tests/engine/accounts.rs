//! With whom drops and punts are counted. That the accounts add up to the totals, [`Bed::exchange`] asserts every time.

use std::net::Ipv4Addr;

use margay::dataplane::{Balance, Neighbor, Party, PortId};
use margay::verdict::{DropReason, PuntReason};

use crate::bed::*;
use crate::packets::*;

const B: Party = Party::Peer(std::net::IpAddr::V4(PEER_B));
const C: Party = Party::Peer(std::net::IpAddr::V4(PEER_C));

/// Who has drops for this reason, and how many.
fn dropped(bed: &Bed, reason: DropReason) -> Vec<(Party, u64)> {
    let count = |(party, balance): (_, Balance)| (party, balance.dropped[reason.index()]);
    bed.parties().into_iter().map(count).filter(|(_, count)| *count > 0).collect()
}

#[test]
fn a_drop_is_counted_with_who_handed_the_frame_in() {
    let mut bed = Bed::new();
    let ip = |src| Ip::udp(src, ALPHA_IP, 1).ttl(0);
    let stranger = Ipv4Addr::new(192, 168, 77, 99);
    bed.exchange([
        (BETA.into(), ip(BETA_IP).sent_by(BETA_MAC)),
        (GAMMA.into(), ip(GAMMA_IP).sent_by(GAMMA_MAC)),
        (GAMMA.into(), ip(GAMMA_IP_2).sent_by(GAMMA_MAC)),
        (VXLAN, ip(B_VXLAN).in_vxlan(PEER_B, VTEP_A, VTEP_B)),
        (PortId::Ipip, ip(C_IPIP).in_ipip(PEER_C, NODE)),
        // Without encapsulation it is the source that tells.
        (UNDERLAY, ip(B_DIRECT).on_underlay()),
        (UNDERLAY, ip(PEER_C).on_underlay()),
        (UNDERLAY, ip(OUTSIDE).on_underlay()),
        (PortId::Host, ip(OUTSIDE).plain()),
    ]);
    let all = [(BETA, 1), (GAMMA, 2)].map(|(id, count)| (Party::Endpoint(id), count));
    let all = [&all[..], &[(B, 2), (C, 2), (Party::Underlay, 1), (Party::Host, 1)]].concat();
    assert_eq!(dropped(&bed, DropReason::TtlZero), all);

    // Strangers share an account, however many they are, and whatever they forge inside.
    let strangers = (1..100).map(|n| Ipv4Addr::from(u32::from(stranger) + n));
    bed.exchange(strangers.map(|from| (VXLAN, ip(B_VXLAN).in_vxlan(from, VTEP_A, VTEP_B))));
    assert_eq!(dropped(&bed, DropReason::UnknownPeer), [(Party::Underlay, 99)]);
    assert_eq!(bed.parties().len(), 3 + 2 + 3, "endpoints, peers, and those that are always there");
}

#[test]
fn a_punt_and_what_comes_of_it_are_counted_with_who_handed_the_frame_in() {
    let mut bed = Bed::new();
    let error = |src| Ip::icmp(src, ALPHA_IP, [11, 0], &[0; 12]).ttl(1);
    bed.exchange([
        (BETA.into(), error(BETA_IP).sent_by(BETA_MAC)),
        (VXLAN, error(B_VXLAN).in_vxlan(PEER_B, VTEP_A, VTEP_B)),
        (UNDERLAY, error(B_DIRECT).on_underlay()),
    ]);
    assert_eq!(dropped(&bed, DropReason::IcmpNotDue), [(Party::Endpoint(BETA), 1), (B, 2)]);
    let expired = |party| bed.parties()[&party].punted[PuntReason::TtlExpired.index()];
    assert_eq!([Party::Endpoint(BETA), B, C].map(expired), [1, 2, 0]);
}

#[test]
fn what_a_port_does_not_take_is_counted_with_the_port() {
    let mut bed = Bed::new();
    bed.attach(BETA.into(), Some(Neighbor::unknown()));
    bed.detach(VXLAN);
    bed.one(ALPHA, Ip::udp(ALPHA_IP, B_VXLAN, 1).sent_by(ALPHA_MAC));
    assert_eq!(dropped(&bed, DropReason::PortUnavailable), [(Party::Underlay, 1)]);
}

/// Nothing is lost of the counts, and a newcomer begins at zero.
#[test]
fn who_is_gone_leaves_its_counts() {
    let mut bed = Bed::new();
    let ip = |src| Ip::udp(src, ALPHA_IP, 1).ttl(0);
    bed.one(BETA, ip(BETA_IP).sent_by(BETA_MAC));
    bed.one(PortId::Ipip, ip(C_IPIP).in_ipip(PEER_C, NODE));
    bed.detach(BETA.into());
    let of_c = |line: &&str| line.starts_with("node c") || line.ends_with(" c");
    let without: Vec<&str> = CLUSTER.lines().filter(|line| !of_c(line)).collect();
    bed.publish(compile(&without.join("\n"), "a", Machine::default()));
    bed.one(VXLAN, ip(B_VXLAN).in_vxlan(PEER_B, VTEP_A, VTEP_B));
    assert_eq!(dropped(&bed, DropReason::TtlZero), [(B, 1), (Party::Gone, 2)]);

    bed.attach(BETA.into(), Some(Neighbor::learned(BETA_MAC)));
    bed.publish(compile(CLUSTER, "a", Machine::default()));
    bed.exchange([]);
    assert_eq!(bed.parties()[&Party::Endpoint(BETA)], Balance::default());
    assert_eq!(bed.parties()[&C], Balance::default());
}

/// What passed, as it stood at the edge that it came in and went out by.
#[test]
fn traffic_is_counted_with_both_ends() {
    use margay::dataplane::{Form, Traffic};

    let mut bed = Bed::new();
    let ip = |src, dst| Ip::udp(src, dst, 100);
    let len = ip(ALPHA_IP, B_VXLAN).len() as u64;
    bed.exchange([
        (ALPHA.into(), ip(ALPHA_IP, BETA_IP).sent_by(ALPHA_MAC)),
        (ALPHA.into(), ip(ALPHA_IP, B_VXLAN).sent_by(ALPHA_MAC)),
        (ALPHA.into(), ip(ALPHA_IP, B_IPIP).sent_by(ALPHA_MAC)),
        (ALPHA.into(), ip(ALPHA_IP, B_DIRECT).sent_by(ALPHA_MAC)),
        (VXLAN, ip(C_VXLAN, ALPHA_IP).in_vxlan(PEER_C, VTEP_A, VTEP_B)),
        (VXLAN, ip(C_VXLAN, ALPHA_IP).in_vxlan(PEER_C, VTEP_A, VTEP_B)),
        (PortId::Ipip, ip(C_IPIP, ALPHA_IP).in_ipip(PEER_C, NODE)),
        (UNDERLAY, ip(B_DIRECT, ALPHA_IP).on_underlay()),
        (PortId::Host, ip(OUTSIDE, ALPHA_IP).plain()),
        (ALPHA.into(), ip(ALPHA_IP, OUTSIDE).sent_by(ALPHA_MAC)),
        // Forged, and so nobody's traffic.
        (VXLAN, ip(B_VXLAN, ALPHA_IP).in_vxlan(PEER_C, VTEP_A, VTEP_B)),
    ]);
    let parties = bed.parties();
    let traffic = |party: Party| {
        let Balance { received, sent, .. } = &parties[&party];
        let plain = |traffic: Traffic| (traffic.frames, traffic.bytes);
        (
            Form::ALL.map(|form| plain(received[form as usize])),
            Form::ALL.map(|form| plain(sent[form as usize])),
        )
    };
    let none = (0, 0);
    let (ethernet, ipip, vxlan) = (len + 14, len + 20, len + 8 + 14);
    assert_eq!(
        traffic(Party::Endpoint(ALPHA)),
        ([(5, 5 * ethernet), none, none], [(5, 5 * ethernet), none, none])
    );
    assert_eq!(traffic(Party::Endpoint(BETA)), ([none; 3], [(1, ethernet), none, none]));
    assert_eq!(traffic(B), ([(1, ethernet), none, none], [(1, len), (1, ipip), (1, vxlan)]));
    assert_eq!(traffic(C), ([none, (1, ipip), (2, 2 * vxlan)], [none; 3]));
    assert_eq!(traffic(Party::Host), ([(1, len), none, none], [(1, len), none, none]));
    assert_eq!(traffic(Party::Underlay), ([none; 3], [none; 3]));
}
