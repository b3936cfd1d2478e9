//! Two margay nodes in each mode: pods reach each other, the node and its pods reach each other, the underlay
//! carries what the mode says, and the nodes' own kernels keep silent about it all.
//!
//! The nodes' kernels forward (`ip_forward` is 1), as those of a cluster do: what they forward or answer of
//! margay's packets shows as a duplicate, a TTL that is too small, or an ICMP error.

mod lab;

use std::time::Duration;

use lab::{
    ECHO_REPLY, ECHO_REQUEST, Packet, REDIRECT, UNREACHABLE, echoes_every_udp_size, ip, moves_tcp, packets,
    reaches, reaches_once, start, sysctl, until,
};
use margay::rib::Attach;
use margay::sys::netlink::LinkChange;
use margay::testbed::{Capture, Frame, Lab, LabSpec, Mode, Node, Ping, Pod, Topology, ping};

const MEGABYTE: u64 = 1_000_000;

/// What an overlay packet wears on the underlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wears {
    Ipip,
    Vxlan,
    Nothing,
}

fn forwarding_lab(spec: LabSpec) -> Lab {
    let lab = start(spec, &[]);
    for node in &lab.nodes {
        sysctl(&node.netns, "net/ipv4/ip_forward", "1");
    }
    lab
}

/// Routers between pods of two nodes.
fn hops_across(lab: &Lab, wears: Wears) -> u8 {
    // A router of the underlay counts the TTL of what it sees down: that of an outer header, if there is one.
    2 + u8::from(lab.spec.topology == Topology::Routed && wears == Wears::Nothing)
}

/// Echo requests from node-a's pod to node-b's, and the replies, seen where they arrive.
fn on_the_underlay(lab: &Lab, wears: Wears) {
    let [a, b] = &lab.nodes;
    let (from, to) = (&a.pods[0], &b.pods[0]);
    let captures = [a, b].map(|node| Capture::start(&node.netns, "eth0").unwrap());
    reaches_once(from, to, hops_across(lab, wears));
    let [replies, requests] = captures.map(Capture::stop);
    let arrived = |node: &Node, frames: Vec<Frame>| {
        let mac = node.netns.netlink().unwrap().link("eth0").unwrap().mac.unwrap();
        frames.into_iter().filter(move |frame| frame.bytes[6..12] != mac.0)
    };
    let frames: Vec<Frame> = arrived(b, requests).chain(arrived(a, replies)).collect();
    let ttl = 65 - hops_across(lab, wears);
    let (mut requests, mut replies) = (0, 0);
    for frame in &frames {
        let Some(outer) = Packet::of_frame(&frame.bytes) else { continue };
        let Some(inner) = undressed(lab, &outer, wears) else { continue };
        match inner.icmp() {
            Some(ECHO_REQUEST) => {
                assert_eq!((inner.source, inner.destination, inner.ttl), (from.address, to.address, ttl));
                requests += 1;
            }
            Some(ECHO_REPLY) => replies += 1,
            _ => panic!("neither request nor reply: {inner:?}"),
        }
    }
    assert_eq!((requests, replies), (5, 5), "{frames:?}");
}

/// The inner packet; the outer header must be the one of the mode.
fn undressed(lab: &Lab, outer: &Packet, wears: Wears) -> Option<Packet> {
    let [a, b] = &lab.nodes;
    let a_to_b = (outer.source, outer.destination) == (a.address(), b.address());
    if wears != Wears::Nothing {
        let b_to_a = (outer.source, outer.destination) == (b.address(), a.address());
        assert!(a_to_b || b_to_a, "from node to node: {outer:?}");
    }
    match wears {
        Wears::Nothing => Some(outer.clone()),
        Wears::Ipip => {
            assert_eq!(outer.protocol, 4, "{outer:?}");
            Packet::parse(&outer.payload)
        }
        Wears::Vxlan => {
            assert_eq!(outer.protocol, 17, "{outer:?}");
            let (udp, rest) = outer.payload.split_at(8);
            assert!(u16::from_be_bytes([udp[0], udp[1]]) >= 49152, "source port of RFC 7348 5");
            assert_eq!(udp[2..4], 4789_u16.to_be_bytes());
            let (vxlan, inner) = rest.split_at(8);
            assert_eq!(vxlan, [0x08, 0, 0, 0, 0x00, 0x10, 0x00, 0], "I flag and VNI 4096");
            // 66: and sha1 of node-a and of node-b, as `printf node-a | sha1sum` says it.
            let node_a = [0x66, 0x07, 0x02, 0xc1, 0xcc, 0x60];
            let node_b = [0x66, 0x89, 0x3a, 0x22, 0x7a, 0xac];
            let (to, from) = if a_to_b { (node_b, node_a) } else { (node_a, node_b) };
            assert_eq!((&inner[..6], &inner[6..12]), (&to[..], &from[..]), "inner MACs");
            Packet::of_frame(inner)
        }
    }
}

/// Nothing of a kernel's own on the underlay: no error, no redirect.
fn kernels_kept_silent(frames: &[Frame]) {
    let said =
        packets(frames).into_iter().find(|packet| matches!(packet.icmp(), Some(UNREACHABLE | REDIRECT | 11)));
    assert!(said.is_none(), "a kernel has spoken: {said:?}");
}

/// The node reaches pods, and pods reach nodes, by the host interface.
fn nodes_and_pods_reach_each_other(lab: &Lab) {
    let [a, b] = &lab.nodes;
    reaches(&a.netns, a.pods[0].address, "node-a to its own pod");
    reaches(&a.netns, b.pods[0].address, "node-a to a pod of node-b");
    reaches(&a.pods[0].netns, a.address(), "a pod to its node");
    reaches(&a.pods[0].netns, ip("169.254.1.1"), "a pod to its gateway");
    // A node has a tunnel address where a pool says tunnel.
    if lab.spec.mode == Mode::None {
        return;
    }
    reaches(&a.pods[0].netns, a.tunnel_address, "a pod to its node's tunnel address");
    reaches(&a.pods[0].netns, b.tunnel_address, "a pod to the other node's tunnel address");
    reaches(&b.netns, a.tunnel_address, "node-b to node-a's tunnel address");
}

/// Everything that pods expect of a network.
fn everything(spec: LabSpec, wears: Wears) {
    let mut lab = forwarding_lab(spec);
    let underlay = Capture::start(&lab.nodes[1].netns, "eth0").unwrap();
    on_the_underlay(&lab, wears);
    let [a, b] = &lab.nodes;
    reaches_once(&a.pods[0], &a.pods[1], 1);
    reaches_once(&b.pods[1], &a.pods[1], hops_across(&lab, wears));
    nodes_and_pods_reach_each_other(&lab);
    kernels_kept_silent(&underlay.stop());

    moves_tcp(&a.pods[0], &b.pods[0], 8 * MEGABYTE);
    moves_tcp(&b.pods[0], &b.pods[1], 8 * MEGABYTE);
    echoes_every_udp_size(&a.pods[0], &b.pods[0]);
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

/// What differs from mode to mode.
fn the_essentials(spec: LabSpec, wears: Wears) {
    let mut lab = forwarding_lab(spec);
    let underlay = Capture::start(&lab.nodes[1].netns, "eth0").unwrap();
    on_the_underlay(&lab, wears);
    nodes_and_pods_reach_each_other(&lab);
    kernels_kept_silent(&underlay.stop());
    let [a, b] = &lab.nodes;
    moves_tcp(&a.pods[0], &b.pods[0], MEGABYTE);
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn ipip() {
    everything(LabSpec::new(Mode::Ipip), Wears::Ipip);
}

#[test]
fn vxlan() {
    everything(LabSpec::new(Mode::Vxlan), Wears::Vxlan);
}

#[test]
fn no_encapsulation_on_one_subnet() {
    everything(LabSpec::new(Mode::None), Wears::Nothing);
}

#[test]
fn no_encapsulation_behind_a_router() {
    the_essentials(LabSpec { topology: Topology::Routed, ..LabSpec::new(Mode::None) }, Wears::Nothing);
}

#[test]
fn ipip_cross_subnet_on_one_subnet() {
    the_essentials(LabSpec::new(Mode::IpipCrossSubnet), Wears::Nothing);
}

#[test]
fn ipip_cross_subnet_behind_a_router() {
    the_essentials(
        LabSpec { topology: Topology::Routed, ..LabSpec::new(Mode::IpipCrossSubnet) },
        Wears::Ipip,
    );
}

#[test]
fn vxlan_cross_subnet_on_one_subnet() {
    the_essentials(LabSpec::new(Mode::VxlanCrossSubnet), Wears::Nothing);
}

#[test]
fn vxlan_cross_subnet_behind_a_router() {
    the_essentials(
        LabSpec { topology: Topology::Routed, ..LabSpec::new(Mode::VxlanCrossSubnet) },
        Wears::Vxlan,
    );
}

#[test]
fn ipip_with_pods_on_veths() {
    the_essentials(LabSpec { attach: Attach::Veth, ..LabSpec::new(Mode::Ipip) }, Wears::Ipip);
}

#[test]
fn vxlan_with_pods_on_veths() {
    everything(LabSpec { attach: Attach::Veth, ..LabSpec::new(Mode::Vxlan) }, Wears::Vxlan);
}

#[test]
fn no_encapsulation_with_pods_on_veths() {
    the_essentials(LabSpec { attach: Attach::Veth, ..LabSpec::new(Mode::None) }, Wears::Nothing);
}

#[test]
fn an_underlay_of_jumbo_frames() {
    everything(LabSpec { underlay_mtu: 9000, ..LabSpec::new(Mode::Vxlan) }, Wears::Vxlan);
}

/// O4 of the standards: traffic flows again when the underlay is back, whatever the mode.
#[test]
fn an_underlay_that_fails_and_returns() {
    for mode in [Mode::Ipip, Mode::Vxlan, Mode::None] {
        let mut lab = start(LabSpec::new(mode), &[]);
        for node in 0..2 {
            let mut netlink = lab.nodes[node].netns.netlink().unwrap();
            netlink.set_link("eth0", &[LinkChange::Down]).unwrap();
            let [a, b] = &lab.nodes;
            let brief = Ping { count: 2, patience: Duration::from_millis(100), ..Ping::default() };
            assert_eq!(ping(&a.pods[0].netns, b.pods[0].address, brief).unwrap().lost(), 2, "{mode:?}");
            netlink.set_link("eth0", &[LinkChange::Up]).unwrap();
            let heard =
                |from: &Pod, to: &Pod| ping(&from.netns, to.address, brief).is_ok_and(|r| r.lost() == 0);
            until("pods reach each other again", || heard(&a.pods[0], &b.pods[0]));
            reaches(&b.pods[1].netns, a.pods[1].address, "and the other way");
        }
        lab.stop().unwrap_or_else(|error| panic!("{error}"));
    }
}

/// The interface may have been replaced too; its MTU is what can be changed with the cable in place.
#[test]
fn an_underlay_with_another_mtu() {
    let mut lab = start(LabSpec::new(Mode::Vxlan), &[]);
    for node in &lab.nodes {
        node.netns.netlink().unwrap().set_link("eth0", &[LinkChange::Mtu(1400)]).unwrap();
    }
    for pod in lab.nodes.iter().flat_map(|node| &node.pods) {
        until("the pods' MTU", || {
            pod.netns.netlink().unwrap().link("eth0").is_ok_and(|link| link.mtu == 1350)
        });
    }
    let [a, b] = &lab.nodes;
    reaches_once(&a.pods[0], &b.pods[0], 2);
    moves_tcp(&a.pods[0], &b.pods[0], MEGABYTE);
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

/// `--host-interface none`: no way out, and the pod is told so.
#[test]
fn without_a_host_interface_no_route_means_net_unreachable() {
    let lab = start(LabSpec::new(Mode::Vxlan), &["--host-interface", "none"]);
    let [a, b] = &lab.nodes;
    reaches_once(&a.pods[0], &b.pods[0], 2);
    let brief = Ping { count: 1, patience: Duration::from_millis(500), ..Ping::default() };
    for outside in [ip("203.0.113.1"), b.address()] {
        let report = ping(&a.pods[0].netns, outside, brief).unwrap();
        let errors: Vec<(&str, usize)> =
            report.errors.iter().map(|(text, times)| (text.as_str(), *times)).collect();
        assert_eq!(errors, [("ICMP type 3 code 0 from 10.65.0.1", 1)], "to {outside}");
    }
    assert!(a.netns.netlink().unwrap().link("margay0").is_err());
    // Who speaks for the node answers: to its own pods, and to those of others.
    for (to, what) in [
        (ip("169.254.1.1"), "a pod to its gateway"),
        (a.tunnel_address, "a pod to its node's tunnel address"),
        (b.tunnel_address, "a pod to the other node's tunnel address"),
        (a.address(), "a pod to its node"),
    ] {
        reaches(&a.pods[0].netns, to, what);
    }
}
