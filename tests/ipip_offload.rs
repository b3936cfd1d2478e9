//! `--ipip-offload bpf`: the outer headers of super-frames are the BPF program's, and the cuts the kernel's. What is on
//! the cable must be what margay itself would have put there.

mod lab;

use std::collections::BTreeSet;

use etherparse::{Ipv4HeaderSlice, TcpHeaderSlice};
use lab::{moves_tcp, reaches_once, start, until};
use margay::sys::netlink::LinkChange;
use margay::testbed::{Capture, Frame, Lab, LabSpec, Mode, Topology, transfer};

const MEGABYTE: u64 = 1_000_000;

fn lab(topology: Topology, arguments: &[&str]) -> Lab {
    let arguments = [&["--ipip-offload", "bpf"], arguments].concat();
    let lab = start(LabSpec { topology, ..LabSpec::new(Mode::Ipip) }, &arguments);
    // Until the next hops are resolved, the raw socket has its part in it.
    until("super-frames leave whole", || longest(&some_traffic(&lab)) > 1514);
    lab
}

/// What is on node-a's cable while a pod of node-a sends a megabyte.
fn some_traffic(lab: &Lab) -> Vec<Frame> {
    let [a, b] = &lab.nodes;
    let capture = Capture::start(&a.netns, "eth0").unwrap();
    let moved = transfer(&a.pods[0].netns, &b.pods[0].netns, b.pods[0].address, MEGABYTE).unwrap();
    assert!(moved.intact(), "{moved:?}");
    capture.stop()
}

fn longest(frames: &[Frame]) -> usize {
    frames.iter().map(|frame| frame.bytes.len()).max().unwrap_or(0)
}

/// Every frame is IPIP from node to node with the headers that the option's absence gives; says how many held
/// data of node-a's pod.
fn check(lab: &Lab, frames: &[Frame], ttl: u8) -> usize {
    let [a, b] = &lab.nodes;
    let mac = a.netns.netlink().unwrap().link("eth0").unwrap().mac.unwrap();
    let mut ids = BTreeSet::new();
    let mut with_data = 0;
    for Frame { bytes, .. } in frames.iter().filter(|frame| frame.bytes[12..14] == [8, 0]) {
        let outer = Ipv4HeaderSlice::from_slice(&bytes[14..]).unwrap();
        let inner =
            Ipv4HeaderSlice::from_slice(&bytes[34..]).unwrap_or_else(|error| panic!("{error}: {bytes:?}"));
        let (near, far) = (outer.source_addr().into(), outer.destination_addr().into());
        if (near, far) == (b.address(), a.address()) {
            continue;
        }
        assert_eq!((near, far), (a.address(), b.address()), "{outer:?}");
        assert_eq!(bytes[6..12], mac.0, "the interface's own address");
        assert_eq!((outer.protocol().0, outer.slice().len(), outer.dcp().value()), (4, 20, 0), "{outer:?}");
        assert_eq!(outer.ecn(), inner.ecn());
        assert_eq!(usize::from(outer.total_len()), bytes.len() - 14);
        assert_eq!(outer.total_len(), inner.total_len() + 20);
        assert_eq!((outer.dont_fragment(), inner.dont_fragment()), (true, true));
        assert_eq!((outer.more_fragments(), outer.fragments_offset().value()), (false, 0));
        assert_eq!((outer.ttl(), inner.ttl()), (ttl, 63));
        assert_eq!(outer.header_checksum(), outer.to_header().calc_header_checksum(), "{outer:?}");
        assert_eq!(inner.header_checksum(), inner.to_header().calc_header_checksum(), "{inner:?}");
        assert!(outer.identification() != 0 && ids.insert(outer.identification()), "{outer:?}");
        assert_eq!(inner.source_addr(), a.pods[0].address);
        let tcp = TcpHeaderSlice::from_slice(&bytes[34 + inner.slice().len()..]).unwrap();
        with_data += usize::from(34 + inner.slice().len() + tcp.slice().len() < bytes.len());
    }
    with_data
}

#[test]
fn super_frames_wear_the_outer_header() {
    for topology in [Topology::SameSubnet, Topology::Routed] {
        let mut lab = lab(topology, &[]);
        let frames = some_traffic(&lab);
        assert!(check(&lab, &frames, 64) > 0);
        assert!(longest(&frames) > 1514, "the cable takes super-frames");
        let [a, b] = &lab.nodes;
        // A hop at each node, and nothing twice.
        reaches_once(&a.pods[0], &b.pods[0], 2);
        moves_tcp(&a.pods[0], &b.pods[0], 20 * MEGABYTE);
        lab::echoes_every_udp_size(&a.pods[0], &b.pods[0]);
        lab.stop().unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn the_kernel_cuts_where_the_interface_takes_no_super_frames() {
    let lab = lab(Topology::SameSubnet, &["--ipip-ttl", "inherit"]);
    for node in &lab.nodes {
        node.netns.netlink().unwrap().set_link("eth0", &[LinkChange::GsoMaxSize(1500)]).unwrap();
    }
    let frames = some_traffic(&lab);
    assert!(check(&lab, &frames, 63) > 0);
    assert_eq!(longest(&frames), 1514);
    moves_tcp(&lab.nodes[0].pods[0], &lab.nodes[1].pods[0], 20 * MEGABYTE);
}

/// The program goes with the daemon: what others send with its mark is nobody's business.
#[test]
fn without_the_option_margay_cuts() {
    let lab = start(LabSpec::new(Mode::Ipip), &["--ipip-offload", "off"]);
    let frames = some_traffic(&lab);
    assert!(check(&lab, &frames, 64) > 0);
    assert_eq!(longest(&frames), 1514);
}
