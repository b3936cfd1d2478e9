//! Neighbour discovery towards workloads: RFC 4861, RFC 4862 5.4.

use std::net::Ipv6Addr;

use margay::buf::{Offload, Segmentation, Segments};
use margay::dataplane::{Neighbor, PortId};
use margay::io::BATCH;
use margay::io::memory::MemoryFrame;
use margay::verdict::{DropReason, PuntReason, Sent};
use margay::wire::MacAddr;

use crate::bed::*;
use crate::dual::{bed, dropped};
use crate::packets::*;
use crate::packets6::*;

const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 0xa);

/// The group that an address's owner listens to, and its MAC.
fn group(address: Ipv6Addr) -> (Ipv6Addr, MacAddr) {
    let [.., a, b, c] = address.octets();
    let group = Ipv6Addr::from_bits(0xff02_0000_0000_0000_0000_0001_ff00_0000 | u128::from(a) << 16)
        | Ipv6Addr::from_bits(u128::from(b) << 8 | u128::from(c));
    (group, MacAddr([0x33, 0x33, 0xff, a, b, c]))
}

/// As the kernel asks: to the group, with its own MAC.
fn question(src: Ipv6Addr, target: Ipv6Addr) -> MemoryFrame {
    let (to, mac) = group(target);
    let ip = Ip6::solicitation(src, to, target, Some(ALPHA_MAC));
    ethernet(mac, ALPHA_MAC, 0x86dd, &ip.bytes())
}

/// What the gateway says to who asked for `target`.
fn answer(dst: Ipv6Addr, flags: u8, target: Ipv6Addr) -> Ip6 {
    let ip = Ip6::advertisement((GATEWAY6, dst), flags, target, MacAddr::GATEWAY);
    Ip6 { label: 0, ..ip }
}

/// RFC 4861 4.4 and 7.2.4, byte by byte: router, solicited, override.
#[test]
fn the_gateway_is_where_its_link_local_address_says() {
    let exchange = bed().one(ALPHA, question(LINK_LOCAL, GATEWAY6));
    #[rustfmt::skip]
    let want = [
        0x02, 0, 0, 0, 0, 0x0a, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0x86, 0xdd,
        0x60, 0, 0, 0, 0, 32, 58, 255,
        0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0xec, 0xee, 0xee, 0xff, 0xfe, 0xee, 0xee, 0xee,
        0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 0x0a,
        136, 0, 0x50, 0x72, 0xe0, 0, 0, 0,
        0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0xec, 0xee, 0xee, 0xff, 0xfe, 0xee, 0xee, 0xee,
        2, 1, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee,
    ];
    let [(_, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
    assert_eq!(frame.bytes[..56], want[..56]);
    assert_eq!(frame.bytes[58..], want[58..]);
    assert_eq!(frame.bytes[14..], answer(LINK_LOCAL, 0xe0, GATEWAY6).bytes());
    assert_eq!(exchange.tally.sent[Sent::NeighborReply.index()], 1);
}

/// For others it answers as a proxy: without override (RFC 4861 7.2.8).
#[test]
fn any_target_but_the_workloads_own_is_answered() {
    for target in [BETA6, B_OVER_V6, NODE6, OUTSIDE6] {
        let exchange = bed().one(ALPHA, question(ALPHA6, target));
        let want = answer(ALPHA6, 0xc0, target).delivered_to(ALPHA_MAC);
        assert_eq!(exchange.out, [(ALPHA.into(), want)], "{target}");
    }
    for own in [ALPHA6, LINK_LOCAL, "fe80::1".parse().unwrap()] {
        dropped(ALPHA, question(ALPHA6, own), DropReason::NdpNotAnswered);
    }
}

/// A unicast probe of a neighbour that went stale, without an option, padded.
#[test]
fn a_unicast_question_is_answered() {
    let mut frame = Ip6::solicitation(ALPHA6, GATEWAY6, GATEWAY6, None).sent_by(ALPHA_MAC);
    frame.bytes.resize(100, 0xa5);
    let exchange = bed().one(ALPHA, frame);
    assert_eq!(exchange.out, [(ALPHA.into(), answer(ALPHA6, 0xe0, GATEWAY6).delivered_to(ALPHA_MAC))]);
}

/// RFC 4862 5.4: silence says that an address is free; an answer goes to all, as the asker has none yet.
#[test]
fn duplicate_address_detection() {
    let probe = |target: Ipv6Addr| {
        let (to, mac) = group(target);
        let ip = Ip6::solicitation(Ipv6Addr::UNSPECIFIED, to, target, None);
        ethernet(mac, ALPHA_MAC, 0x86dd, &ip.bytes())
    };
    for own in [ALPHA6, LINK_LOCAL] {
        dropped(ALPHA, probe(own), DropReason::NdpNotAnswered);
    }
    for others in [BETA6, GATEWAY6, OUTSIDE6] {
        let exchange = bed().one(ALPHA, probe(others));
        let all = "ff02::1".parse().unwrap();
        let want = answer(all, if others == GATEWAY6 { 0xa0 } else { 0x80 }, others);
        let want = want.delivered_to(MacAddr([0x33, 0x33, 0, 0, 0, 1]));
        assert_eq!(exchange.out, [(ALPHA.into(), want)], "{others}");
    }
}

#[test]
fn what_is_not_the_workloads_is_not_believed() {
    let spoofed = |ip: Ip6| dropped(ALPHA, ip.sent_by(ALPHA_MAC), DropReason::NdpSpoofed);
    spoofed(Ip6::solicitation(BETA6, GATEWAY6, GATEWAY6, Some(ALPHA_MAC)));
    spoofed(Ip6::solicitation(ALPHA6, GATEWAY6, GATEWAY6, Some(BETA_MAC)));
    spoofed(Ip6::advertisement((ALPHA6, GATEWAY6), 0x60, BETA6, ALPHA_MAC));
    spoofed(Ip6::advertisement((ALPHA6, GATEWAY6), 0x60, ALPHA6, BETA_MAC));
    spoofed(Ip6::advertisement((BETA6, GATEWAY6), 0x60, ALPHA6, ALPHA_MAC));
    let malformed = |ip: Ip6| dropped(ALPHA, ip.sent_by(ALPHA_MAC), DropReason::NdpMalformed);
    let question = Ip6::solicitation(ALPHA6, GATEWAY6, GATEWAY6, Some(ALPHA_MAC));
    malformed(question.clone().hops(254));
    for (at, value) in [(1, 1), (2, 0), (8, 0xff), (25, 0), (25, 9)] {
        let mut spoiled = question.clone();
        spoiled.payload[at] = value;
        malformed(if at == 2 { spoiled } else { spoiled.summed(2) });
    }
    for len in 8..24 {
        let cut = Ip6 { payload: question.payload[..len].to_vec(), ..question.clone() };
        malformed(cut.summed(2));
    }
    // A probe with an address of its link, or to one host.
    malformed(Ip6::solicitation(Ipv6Addr::UNSPECIFIED, group(BETA6).0, BETA6, Some(ALPHA_MAC)));
    malformed(Ip6::solicitation(Ipv6Addr::UNSPECIFIED, GATEWAY6, BETA6, None));
}

/// Nothing is advertised to workloads, and what they say of routers is nobody's business.
#[test]
fn routers_are_not_searched_for() {
    for kind in [133, 134, 137] {
        let to: Ipv6Addr = "ff02::2".parse().unwrap();
        let ip = Ip6::icmp(LINK_LOCAL, to, [kind, 0], &[0; 12]).hops(255);
        let frame = ethernet(MacAddr([0x33, 0x33, 0, 0, 0, 2]), ALPHA_MAC, 0x86dd, &ip.bytes());
        dropped(ALPHA, frame, DropReason::NdpNotAnswered);
    }
    // A multicast listener's report, behind hop-by-hop options as all are (RFC 3810 5).
    let options = [58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0, 0, 0, 0, 0];
    let ip = Ip6::new(LINK_LOCAL, "ff02::16".parse().unwrap(), 0, options.to_vec());
    let frame = ethernet(MacAddr([0x33, 0x33, 0, 0, 0, 0x16]), ALPHA_MAC, 0x86dd, &ip.bytes());
    dropped(ALPHA, frame, DropReason::FrameMulticast);
}

#[test]
fn the_gateway_answers_pings_from_any_address_of_the_workload() {
    for src in [ALPHA6, LINK_LOCAL] {
        let exchange = bed().one(ALPHA, Ip6::echo(src, GATEWAY6).class(2).sent_by(ALPHA_MAC));
        let [(id, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
        assert_eq!(*id, ALPHA.into());
        let want = Ip6::icmp(GATEWAY6, src, [129, 0], b"\x00\x07\x00\x01echo").class(2);
        assert_eq!(frame, &Ip6 { label: 0, ..want }.delivered_to(ALPHA_MAC));
    }
}

/// RFC 4291 2.5.6: what is link-local stays on its link.
#[test]
fn link_local_packets_are_not_routed() {
    for dst in [BETA6, B_OVER_V6, OUTSIDE6] {
        let ip = Ip6::udp(LINK_LOCAL, dst, 1);
        dropped(ALPHA, ip.sent_by(ALPHA_MAC), DropReason::SourceNotOwned);
    }
    let ip = Ip6::udp(ALPHA6, LINK_LOCAL, 1);
    dropped(ALPHA, ip.sent_by(ALPHA_MAC), DropReason::DestinationMartian);
    dropped(PortId::Host, Ip6::udp(OUTSIDE6, LINK_LOCAL, 1).plain(), DropReason::IcmpNotDue);
    dropped(ALPHA, Ip6::udp(ALPHA6, GATEWAY6, 1).sent_by(ALPHA_MAC), DropReason::DestinationMartian);
}

/// A workload without IPv4 is asked for its MAC by neighbour discovery; what waited is delivered then.
#[test]
fn who_is_unknown_is_asked_for() {
    let mut bed = bed();
    let packets: Vec<Ip6> = (0..3).map(|len| Ip6::udp(ALPHA6, GAMMA6, len)).collect();
    let exchange = bed.exchange(packets.iter().map(|ip| (ALPHA.into(), ip.sent_by(ALPHA_MAC))));
    let (to, mac) = group(GAMMA6);
    let want = Ip6::solicitation(GATEWAY6, to, GAMMA6, Some(MacAddr::GATEWAY));
    assert_eq!(exchange.out, [(GAMMA.into(), Ip6 { label: 0, ..want }.delivered_to(mac))]);
    assert_eq!(exchange.tally.punted[PuntReason::NeighborUnresolved.index()], 3);
    let mac = GAMMA_MAC;
    let news = Ip6::advertisement((GAMMA6, GATEWAY6), 0x60, GAMMA6, mac).sent_by(mac);
    let exchange = bed.one(GAMMA, news);
    let mut out = exchange.out;
    if out.is_empty() {
        // The worker looks every 5 ms whether an answer came.
        std::thread::sleep(std::time::Duration::from_millis(10));
        out = bed.exchange([]).out;
    }
    let want: Vec<_> = packets.iter().map(|ip| (GAMMA.into(), ip.hop().delivered_to(mac))).collect();
    assert_eq!(out, want);
}

#[test]
fn a_mac_is_learned_from_what_the_workload_sends() {
    let neighbor = Neighbor::unknown();
    let fib = compile(CLUSTER6, "a", Machine::default());
    let mut bed = Bed::bare(fib, 64).with_ports([
        (ALPHA.into(), Some(Neighbor::fixed(ALPHA_MAC))),
        (GAMMA.into(), Some(std::sync::Arc::clone(&neighbor))),
    ]);
    bed.one(GAMMA, Ip6::udp(BETA6, ALPHA6, 1).sent_by(GAMMA_MAC));
    assert_eq!(neighbor.mac(), None, "spoofed");
    bed.one(GAMMA, Ip6::udp(GAMMA6, ALPHA6, 1).sent_by(GAMMA_MAC));
    assert_eq!(neighbor.mac(), Some(GAMMA_MAC));
    bed.one(GAMMA, Ip6::solicitation(GAMMA6, GATEWAY6, GATEWAY6, Some(BETA_MAC)).sent_by(BETA_MAC));
    assert_eq!(neighbor.mac(), Some(BETA_MAC));
}

/// A virtio-net header that makes no sense of a question says nothing of its answer.
#[test]
fn an_answer_is_whole_whatever_the_question_was() {
    let ip = Ip6::tcp(ALPHA6, BETA6, 0x10, &[], 3000).partial(16).1;
    let offload = Offload { segments: Some(Segments { kind: Segmentation::Tcp, size: 100 }), ..ip };
    let questions = [
        question(ALPHA6, GATEWAY6),
        Ip6::echo(ALPHA6, GATEWAY6).sent_by(ALPHA_MAC),
        arp(MacAddr::BROADCAST, 1, (ALPHA_MAC, ALPHA_IP), (MacAddr([0; 6]), [169, 254, 1, 1].into())),
    ];
    for frame in questions {
        let exchange = bed().one(ALPHA, MemoryFrame { offload, ..frame });
        if let [(_, answer)] = &exchange.out[..] {
            assert_eq!(answer.offload, Offload::default());
        } else {
            assert_eq!(exchange.tally.dropped[DropReason::OffloadMalformed.index()], 1, "{exchange:?}");
        }
    }
}

#[test]
fn many_questions_cost_no_buffer() {
    let count = BATCH * 4;
    let exchange = bed().exchange((0..count).map(|_| (ALPHA.into(), question(ALPHA6, GATEWAY6))));
    assert_eq!(exchange.tally.sent[Sent::NeighborReply.index()], count as u64);
}
