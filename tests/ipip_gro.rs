//! IPIP that the receiving interface has joined (GRO): the raw socket gets one packet of many segments, its length that
//! of all, its inner checksum the pseudo-header's alone. Nothing but its size and its checksum field tells.

mod lab;

use lab::{build, margay, moves_tcp, until};
use margay::sys::netns::Netns;
use margay::testbed::{Capture, Lab, LabSpec, Mode, transfer};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

const MEGABYTE: u64 = 1_000_000;

/// Lets an interface's GRO wait for more: a veth's queue is polled so soon after each packet that it would join none.
fn wait_for_more(netns: &Netns) {
    let set = || -> std::io::Result<()> {
        // /sys shows the namespace of who mounted it. This thread's mounts go with the thread.
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>)?;
        std::fs::write("/sys/class/net/eth0/napi_defer_hard_irqs", "50")?;
        // Nanoseconds.
        std::fs::write("/sys/class/net/eth0/gro_flush_timeout", "200000")
    };
    netns.run(set).unwrap().unwrap_or_else(|error| panic!("GRO of eth0 cannot be set: {error}"));
}

/// The longest IPIP packet that came to node-b while a pod of node-a sent it a megabyte.
fn longest(lab: &Lab) -> usize {
    let [a, b] = &lab.nodes;
    let capture = Capture::start(&b.netns, "eth0").unwrap();
    let moved = transfer(&a.pods[0].netns, &b.pods[0].netns, b.pods[0].address, MEGABYTE).unwrap();
    assert!(moved.intact(), "{moved:?}");
    let from_a = lab::packets(&capture.stop()).into_iter().filter(|packet| packet.source == a.address());
    from_a.filter(|packet| packet.protocol == 4).map(|packet| packet.payload.len()).max().unwrap_or(0)
}

#[test]
fn segments_that_the_interface_joined_arrive_as_a_super_frame() {
    let mut lab = build(LabSpec::new(Mode::Ipip));
    lab.real_frames().unwrap();
    lab.nodes.iter().for_each(|node| wait_for_more(&node.netns));
    lab.start(margay(), &[]).unwrap_or_else(|error| panic!("{error}"));
    until("packets are joined", || longest(&lab) > 1480);
    moves_tcp(&lab.nodes[0].pods[0], &lab.nodes[1].pods[0], 20 * MEGABYTE);
    lab::echoes_every_udp_size(&lab.nodes[0].pods[0], &lab.nodes[1].pods[0]);
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}
