//! Dual stack: IPv6 workloads, and VXLAN over an underlay of either family.
//!
//! Node A and its peer B have both underlays, C has IPv4 alone.

use std::net::IpAddr;

use margay::dataplane::{Neighbor, PortId};
use margay::io::memory::MemoryFrame;
use margay::verdict::DropReason;
use margay::wire::Ecn;

use crate::bed::*;
use crate::packets::*;
use crate::packets6::*;

/// Node A of [`CLUSTER6`]; GAMMA's MAC is not known.
pub(crate) fn bed() -> Bed {
    on(Machine::default())
}

pub(crate) fn on(machine: Machine) -> Bed {
    let bed = Bed::bare(compile(CLUSTER6, "a", machine), machine.slots);
    bed.with_ports([
        (ALPHA.into(), Some(Neighbor::fixed(ALPHA_MAC))),
        (BETA.into(), Some(Neighbor::fixed(BETA_MAC))),
        (GAMMA.into(), Some(Neighbor::unknown())),
    ])
}

#[track_caller]
pub(crate) fn dropped(id: impl Into<PortId>, frame: MemoryFrame, reason: DropReason) {
    let exchange = bed().one(id, frame);
    assert_eq!(exchange.out, [], "{reason}");
    assert_eq!(exchange.tally.dropped[reason.index()], 1, "{reason}: {:?}", exchange.tally);
}

#[test]
fn a_workloads_packet_goes_where_its_prefix_says() {
    let mut bed = bed();
    let mut sent = |dst| {
        let ip = Ip6::udp(ALPHA6, dst, 20).class(2);
        let exchange = bed.one(ALPHA, ip.sent_by(ALPHA_MAC));
        let [(id, frame)] = &exchange.out[..] else { panic!("{dst}: {exchange:?}") };
        (*id, frame.clone(), ip)
    };
    let (id, frame, ip) = sent(BETA6);
    assert_eq!((id, frame), (BETA.into(), ip.hop().delivered_to(BETA_MAC)));

    let (id, frame, ip) = sent(B_OVER_V6);
    assert_eq!((id, frame.peer), (VXLAN_V6, IpAddr::V6(PEER_B6)));
    assert_eq!(frame.bytes, vxlan(VTEP_B6, VTEP_A6, 0x86dd, &ip.hop().bytes()));
    assert_eq!(frame.ecn, Ecn::Ect0);

    let (id, frame, ip) = sent(C_OVER_V4);
    assert_eq!((id, frame.peer), (VXLAN, IpAddr::V4(PEER_C)));
    assert_eq!(frame.bytes, vxlan(VTEP_C, VTEP_A, 0x86dd, &ip.hop().bytes()));

    let (id, frame, ip) = sent(B_DIRECT6);
    assert_eq!((id, frame.peer), (PortId::Direct, IpAddr::V6(PEER_B6)));
    assert_eq!(frame.bytes, ip.hop().bytes());

    for dst in [OUTSIDE6, NODE6, TUNNEL_A6] {
        let (id, frame, ip) = sent(dst);
        assert_eq!((id, frame.bytes), (PortId::Host, ip.bytes()), "{dst}");
    }
}

/// IPv4 stays with the IPv4 underlay, though both nodes have the other one too.
#[test]
fn ipv4_goes_over_ipv4() {
    let ip = Ip::udp(ALPHA_IP, B_VXLAN, 20);
    let exchange = bed().one(ALPHA, ip.sent_by(ALPHA_MAC));
    assert_eq!((exchange.out[0].0, exchange.out[0].1.peer), (VXLAN, IpAddr::V4(PEER_B)));
    assert_eq!(exchange.out[0].1.bytes, vxlan(VTEP_B, VTEP_A, 0x0800, &ip.hop().bytes()));
}

/// Nodes that have IPv6 alone between them carry IPv4 over it.
#[test]
fn ipv4_goes_over_ipv6_where_there_is_no_other_way() {
    let cluster = CLUSTER6.replace("node b 192.168.77.2/24", "node b -");
    let fib = compile(&cluster, "a", Machine::default());
    let mut bed = Bed::bare(fib, 64).with_ports([(ALPHA.into(), Some(Neighbor::fixed(ALPHA_MAC)))]);
    let ip = Ip::udp(ALPHA_IP, B_VXLAN, 20);
    let exchange = bed.one(ALPHA, ip.sent_by(ALPHA_MAC));
    assert_eq!((exchange.out[0].0, exchange.out[0].1.peer), (VXLAN_V6, IpAddr::V6(PEER_B6)));
    assert_eq!(exchange.out[0].1.bytes, vxlan(VTEP_B6, VTEP_A6, 0x0800, &ip.hop().bytes()));
    let mut frame = MemoryFrame::from_peer(
        vxlan(VTEP_A6, VTEP_B6, 0x0800, &Ip::udp(B_VXLAN, ALPHA_IP, 20).bytes()),
        PEER_B6.into(),
    );
    frame.ecn = Ecn::NotEct;
    let exchange = bed.one(VXLAN_V6, frame);
    let want = Ip::udp(B_VXLAN, ALPHA_IP, 20).hop().delivered_to(ALPHA_MAC);
    assert_eq!((exchange.out[0].0, &exchange.out[0].1.bytes), (ALPHA.into(), &want.bytes));
}

#[test]
fn what_peers_send_is_delivered() {
    let mut bed = bed();
    let over_v6 = Ip6::udp(B_OVER_V6, ALPHA6, 20);
    let over_v4 = Ip6::udp(C_OVER_V4, ALPHA6, 20);
    let direct = Ip6::udp(B_DIRECT6, ALPHA6, 20);
    for (id, frame, ip) in [
        (VXLAN_V6, over_v6.in_vxlan(PEER_B6.into(), VTEP_A6, VTEP_B6), &over_v6),
        // The same node by its other address.
        (VXLAN, over_v6.in_vxlan(PEER_B.into(), VTEP_A, VTEP_B), &over_v6),
        (VXLAN, over_v4.in_vxlan(PEER_C.into(), VTEP_A, VTEP_C), &over_v4),
        (UNDERLAY_V6, direct.on_underlay(), &direct),
    ] {
        let exchange = bed.one(id, frame);
        let [(to, frame)] = &exchange.out[..] else { panic!("{id:?}: {exchange:?}") };
        assert_eq!((*to, &frame.bytes), (ALPHA.into(), &ip.hop().delivered_to(ALPHA_MAC).bytes), "{id:?}");
    }
    for src in [OUTSIDE6, NODE6] {
        let ip = Ip6::udp(src, ALPHA6, 20);
        let exchange = bed.one(PortId::Host, ip.plain());
        assert_eq!(exchange.out, [(ALPHA.into(), ip.delivered_to(ALPHA_MAC))], "the kernel has counted");
    }
}

#[test]
fn what_is_no_peers_is_dropped() {
    let ip = Ip6::udp(B_OVER_V6, ALPHA6, 20);
    let (b, c): (IpAddr, IpAddr) = (PEER_B6.into(), PEER_C.into());
    let stranger: IpAddr = "fd00:77::99".parse().unwrap();
    dropped(VXLAN_V6, ip.in_vxlan(stranger, VTEP_A6, VTEP_B6), DropReason::UnknownPeer);
    dropped(VXLAN, ip.in_vxlan(c, VTEP_A, VTEP_C), DropReason::InnerSourceNotPeers);
    // Each underlay has its own VTEP.
    dropped(VXLAN_V6, ip.in_vxlan(b, VTEP_A, VTEP_B), DropReason::VxlanInnerMac);
    let from = |src| Ip6::udp(src, ALPHA6, 20).in_vxlan(b, VTEP_A6, VTEP_B6);
    for src in ["::", "::1", "::ffff:10.65.0.2", "fe80::1", "ff02::1"] {
        dropped(VXLAN_V6, from(src.parse().unwrap()), DropReason::SourceMartian);
    }
    for src in [ALPHA6, NODE6, TUNNEL_A6, "fd00:10:65::33".parse().unwrap()] {
        dropped(VXLAN_V6, from(src), DropReason::InnerSourceLocal);
    }
    dropped(UNDERLAY_V6, Ip6::udp(ALPHA6, BETA6, 1).on_underlay(), DropReason::InnerSourceLocal);
    let to = |dst| Ip6::udp(B_OVER_V6, dst, 20).in_vxlan(b, VTEP_A6, VTEP_B6);
    dropped(VXLAN_V6, to(C_OVER_V4), DropReason::TransitRefused);
}
