//! Margay on node-a, the kernel's vxlan device on node-b, set up as Felix does it: static FDB entry,
//! neighbour and onlink route. The kernel's veths keep their offloads, so that the peer leaves checksums
//! partial and super-frames uncut.

mod lab;

use std::collections::BTreeSet;

use lab::{Packet, echoes_every_udp_size, moves_tcp, reaches, reaches_once, start};
use margay::rib::Attach;
use margay::testbed::{Capture, Lab, LabSpec, Mode, NodeKind, Topology, transfer};

fn beside_a_kernel(spec: LabSpec) -> Lab {
    start(LabSpec { kinds: [NodeKind::Margay, NodeKind::Kernel], ..spec }, &[])
}

#[test]
fn pods_reach_each_other_and_both_nodes() {
    let lab = beside_a_kernel(LabSpec::new(Mode::Vxlan));
    let [a, b] = &lab.nodes;
    for (from, to) in [(&a.pods[0], &b.pods[0]), (&b.pods[1], &a.pods[1])] {
        reaches_once(from, to, 2);
    }
    reaches(&a.netns, b.pods[0].address, "margay's node to a pod of the kernel's");
    reaches(&b.netns, a.pods[0].address, "the kernel's node to a pod of margay's");
    reaches(&a.pods[0].netns, b.tunnel_address, "margay's pod to the kernel's VTEP");
    reaches(&b.pods[0].netns, a.tunnel_address, "the kernel's pod to margay's tunnel address");
}

#[test]
fn tcp_of_8_mb_each_way_though_the_kernel_leaves_super_frames_uncut() {
    let lab = beside_a_kernel(LabSpec::new(Mode::Vxlan));
    let [a, b] = &lab.nodes;
    let capture = Capture::start(&a.netns, "eth0").unwrap();
    moves_tcp(&a.pods[0], &b.pods[0], 8_000_000);
    let uncut = capture.stop().iter().filter(|frame| frame.bytes.len() > 1514).count();
    assert!(uncut > 0, "the peer must send what this test is about");
}

#[test]
fn udp_of_every_size_each_way() {
    let lab = beside_a_kernel(LabSpec::new(Mode::Vxlan));
    let [a, b] = &lab.nodes;
    echoes_every_udp_size(&a.pods[0], &b.pods[0]);
    echoes_every_udp_size(&b.pods[0], &a.pods[0]);
}

#[test]
fn forty_flows_at_once_over_several_source_ports() {
    let lab = beside_a_kernel(LabSpec::new(Mode::Vxlan));
    let [a, b] = &lab.nodes;
    let capture = Capture::start(&a.netns, "eth0").unwrap();
    std::thread::scope(|scope| {
        for flow in 0..40 {
            let (from, to) = (&a.pods[flow % 2], &b.pods[flow / 2 % 2]);
            let (from, to) = if flow % 4 == 0 { (to, from) } else { (from, to) };
            scope.spawn(move || {
                let moved = transfer(&from.netns, &to.netns, to.address, 100_000).unwrap();
                assert!(moved.bytes == 100_000 && moved.intact(), "flow {flow}: {moved:?}");
            });
        }
    });
    let sent = lab::packets(&capture.stop());
    let ports: BTreeSet<[u8; 2]> = sent
        .iter()
        .filter(|packet| packet.source == a.address() && packet.protocol == 17)
        .filter_map(|packet: &Packet| packet.payload.first_chunk().copied())
        .collect();
    // 40 flows on 16 ports: that all of them meet on fewer than four is beyond chance.
    assert!(ports.len() >= 4, "source ports: {ports:?}");
}

#[test]
fn across_a_router_and_from_veths() {
    let routed = LabSpec { topology: Topology::Routed, ..LabSpec::new(Mode::VxlanCrossSubnet) };
    for spec in [routed, LabSpec { attach: Attach::Veth, ..LabSpec::new(Mode::Vxlan) }] {
        let lab = beside_a_kernel(spec);
        let [a, b] = &lab.nodes;
        reaches_once(&a.pods[0], &b.pods[0], 2);
        moves_tcp(&a.pods[0], &b.pods[0], 1_000_000);
    }
}

#[test]
fn without_encapsulation_the_kernel_is_a_peer_too() {
    let lab = beside_a_kernel(LabSpec::new(Mode::None));
    let [a, b] = &lab.nodes;
    reaches_once(&a.pods[0], &b.pods[0], 2);
    reaches_once(&b.pods[0], &a.pods[0], 2);
    moves_tcp(&a.pods[0], &b.pods[0], 1_000_000);
}
