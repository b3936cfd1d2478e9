//! IPIP by AF_XDP: what arrives is what was sent; and where it cannot be used, or would pass by what somebody put
//! there, a packet socket is.
//!
//! Captures do not show what leaves by AF_XDP. That is how the two are told apart.

mod lab;

use lab::{build, echoes_every_udp_size, margay, moves_tcp, packets, slow_down, start, until, until_ended};
use margay::sys::netlink::LinkChange;
use margay::sys::xdp::{ROOM, Sender};
use margay::testbed::{Capture, Lab, LabSpec, Mode, NodeKind, transfer};
use nix::sys::signal::Signal;

/// Large packets of IPIP that a capture on node-a's cable shows leaving while its pod sends to node-b's.
fn seen(lab: &Lab) -> usize {
    let [a, b] = &lab.nodes;
    let capture = Capture::start(&a.netns, "eth0").unwrap();
    let moved = transfer(&a.pods[0].netns, &b.pods[0].netns, b.pods[0].address, 100_000).unwrap();
    assert!(moved.intact(), "{moved:?}");
    let leaving = |packet: &&lab::Packet| packet.protocol == 4 && packet.source == a.address();
    packets(&capture.stop()).iter().filter(leaving).filter(|packet| packet.payload.len() > 1000).count()
}

fn said(lab: &mut Lab) -> String {
    lab.nodes[0].daemon().unwrap().output()
}

fn kernels() -> Lab {
    build(LabSpec { kinds: [NodeKind::Kernel; 2], ..LabSpec::new(Mode::None) })
}

fn open(lab: &Lab, queue: u32) -> std::io::Result<Sender> {
    let netns = &lab.nodes[0].netns;
    let eth0 = netns.netlink().unwrap().link("eth0").unwrap().index;
    netns.run(|| Sender::open(eth0.0, queue)).unwrap()
}

/// A frame of a protocol for experiments (IEEE 802), with a length and content of its own.
fn frame(index: usize) -> Vec<u8> {
    let len = 60 + index * 97 % (1514 - 60 + 1);
    let mut frame = vec![0xff; 12];
    frame.extend([0x88, 0xb5]);
    frame.extend((14..len).map(|at| (at * 31 + index * 7) as u8));
    frame
}

#[test]
fn frames_arrive_byte_for_byte_and_in_order_many_times_around_the_ring() {
    const BATCH: usize = 64;
    let lab = kernels();
    let mut sender = open(&lab, 0).unwrap();
    for batch in 0..80 {
        let frames: Vec<Vec<u8>> = (batch * BATCH..(batch + 1) * BATCH).map(frame).collect();
        let capture = Capture::start(&lab.nodes[1].netns, "eth0").unwrap();
        assert!(sender.has_room(BATCH));
        for frame in &frames {
            sender.frame(frame.len()).unwrap().copy_from_slice(frame);
        }
        assert_eq!(sender.waiting(), BATCH);
        sender.send().unwrap();
        assert_eq!(sender.waiting(), 0);
        let arrived = capture.stop().into_iter().map(|frame| frame.bytes);
        let arrived: Vec<Vec<u8>> = arrived.filter(|frame| frame[12..14] == [0x88, 0xb5]).collect();
        assert!(arrived == frames, "batch {batch}: {} of {BATCH}", arrived.len());
    }
}

#[test]
fn room_is_what_the_kernel_does_not_have() {
    let lab = kernels();
    let mut sender = open(&lab, 0).unwrap();
    let mut places = 0;
    while let Some(room) = sender.frame(ROOM) {
        room.fill(0xff);
        places += 1;
    }
    assert!(places >= 1024 && !sender.has_room(1), "{places}");
    // Those are longer than the interface takes, and it drops them: their places are free again.
    sender.send().unwrap();
    assert!(sender.has_room(places) && !sender.has_room(places + 1));
    let mut netlink = lab.nodes[0].netns.netlink().unwrap();
    netlink.set_link("eth0", &[LinkChange::Down]).unwrap();
    assert!(sender.frame(60).is_some());
    assert_eq!(sender.send().unwrap_err().raw_os_error(), Some(libc::ENETDOWN));
    assert_eq!(sender.waiting(), 1, "nothing that was accepted is lost");
    netlink.set_link("eth0", &[LinkChange::Up]).unwrap();
    sender.send().unwrap();
    assert_eq!(sender.waiting(), 0);
}

#[test]
fn a_queue_has_one_sender() {
    let lab = kernels();
    let first = open(&lab, 0).unwrap();
    assert_eq!(open(&lab, 0).unwrap_err().raw_os_error(), Some(libc::EBUSY));
    assert_eq!(open(&lab, 1_000).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    drop(first);
    until("the queue is free", || open(&lab, 0).is_ok());
}

#[test]
fn ipip_leaves_by_it_where_nothing_queues() {
    let mut lab = start(LabSpec::new(Mode::Ipip), &["--workers", "1"]);
    assert!(said(&mut lab).contains("ipip of 1 of 1 workers by AF_XDP"), "{}", said(&mut lab));
    until("node-a sends by AF_XDP", || seen(&lab) == 0);
    let [a, b] = lab.nodes.each_ref().map(|node| &node.pods[0]);
    moves_tcp(a, b, 20_000_000);
    echoes_every_udp_size(a, b);

    // The MTU of the way follows; the sockets stay.
    for node in &lab.nodes {
        node.netns.netlink().unwrap().set_link("eth0", &[LinkChange::Mtu(1400)]).unwrap();
    }
    until("pods have the other MTU", || a.netns.netlink().unwrap().link("eth0").unwrap().mtu == 1380);
    until("by AF_XDP again", || seen(&lab) == 0);
    moves_tcp(a, b, 1_000_000);

    // Somebody shapes what leaves. The kernel tells of changed links alone: of this one by its next change.
    slow_down(&lab.nodes[0].netns, 100_000_000);
    lab.nodes[0].netns.netlink().unwrap().set_link("eth0", &[LinkChange::TxQueueLen(999)]).unwrap();
    until("node-a sends by a packet socket", || seen(&lab) > 0);
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn after_kill_9_the_queue_is_taken_again() {
    let mut lab = start(LabSpec::new(Mode::Ipip), &[]);
    for node in 0..2 {
        let daemon = lab.nodes[node].daemon().unwrap();
        daemon.signal(Signal::SIGKILL).unwrap();
        until_ended(daemon.pid());
    }
    lab.start(margay(), &[]).unwrap_or_else(|error| panic!("{error}"));
    assert!(said(&mut lab).contains("workers by AF_XDP"), "{}", said(&mut lab));
    until("node-a sends by AF_XDP", || seen(&lab) == 0);
}

/// Of a veth's one queue only the first worker has a sender: the others send by packet sockets.
#[test]
fn workers_without_a_queue_send_by_packet_sockets() {
    let mut lab = start(LabSpec { pods_per_node: 3, ..LabSpec::new(Mode::Ipip) }, &["--workers", "3"]);
    assert!(said(&mut lab).contains("ipip of 1 of 3 workers by AF_XDP"), "{}", said(&mut lab));
    for (a, b) in lab.nodes[0].pods.iter().zip(&lab.nodes[1].pods) {
        moves_tcp(a, b, 1_000_000);
    }
}

#[test]
fn what_somebody_put_on_the_interface_is_not_passed_by() {
    let mut lab = build(LabSpec::new(Mode::Ipip));
    slow_down(&lab.nodes[0].netns, 100_000_000);
    lab.start(margay(), &[]).unwrap_or_else(|error| panic!("{error}"));
    assert!(said(&mut lab).contains("not by AF_XDP: eth0 has a queueing discipline"), "{}", said(&mut lab));
    assert!(seen(&lab) > 0);
}

#[test]
fn who_wants_to_see_it_all_turns_it_off() {
    let mut lab = start(LabSpec::new(Mode::Ipip), &["--ipip-offload", "off"]);
    assert!(!said(&mut lab).contains("AF_XDP"), "{}", said(&mut lab));
    assert!(seen(&lab) > 0);
}

#[test]
fn a_queue_that_somebody_has_is_left_to_them() {
    let mut lab = build(LabSpec::new(Mode::Ipip));
    let theirs = open(&lab, 0).unwrap();
    lab.start(margay(), &["--workers", "1"]).unwrap_or_else(|error| panic!("{error}"));
    assert!(said(&mut lab).contains("not by AF_XDP: no AF_XDP socket"), "{}", said(&mut lab));
    assert!(seen(&lab) > 0);
    drop(theirs);
}
