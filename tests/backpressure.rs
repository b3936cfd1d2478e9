//! An underlay that is slower than the pods: what cannot leave yet waits where it came from.

mod lab;

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lab::{build, margay, slow_down, until};
use margay::rib::Attach;
use margay::testbed::{LabSpec, Mode, Pod, transfer};
use nix::sys::signal::Signal;

/// Datagrams of one flow, far more than the underlay takes, until told to end.
fn flood(from: &Pod, to: &Pod, end: &AtomicBool) {
    let socket = from.netns.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    socket.set_nonblocking(true).unwrap();
    while !end.load(Ordering::Relaxed) {
        for _ in 0..64 {
            // The pod's own queue may be full.
            let _ = socket.send_to(&[0; 1400], (to.address, 9));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// One pod floods the underlay, two others send to the other node as well, and two talk on the same node.
fn nothing_is_lost(spec: LabSpec) {
    const ACROSS: u64 = 1_000_000;
    const LOCAL: u64 = 5_000_000;
    let what = format!("{:?}, {:?}", spec.mode, spec.attach);
    let mut lab = build(LabSpec { pods_per_node: 5, ..spec });
    slow_down(&lab.nodes[0].netns, 12_500_000);
    lab.start(margay(), &[]).unwrap_or_else(|error| panic!("{what}: {error}"));
    let [a, b] = &lab.nodes;
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| flood(&a.pods[0], &b.pods[0], &end));
        let transfers = [
            (&a.pods[1], &b.pods[1], ACROSS),
            (&a.pods[2], &b.pods[2], ACROSS),
            (&a.pods[3], &a.pods[4], LOCAL),
        ];
        let transfers = transfers.map(|(from, to, bytes)| {
            let moved = scope.spawn(move || transfer(&from.netns, &to.netns, to.address, bytes));
            (format!("{what}: {} to {}", from.name, to.name), bytes, moved)
        });
        let done = transfers.map(|(what, bytes, moved)| (what, bytes, moved.join()));
        end.store(true, Ordering::Relaxed);
        for (what, bytes, moved) in done {
            let moved = moved.unwrap().unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(moved.bytes == bytes && moved.intact(), "{what}: {moved:?}");
        }
    });
    let daemon = lab.nodes[0].daemon().unwrap();
    daemon.signal(Signal::SIGTERM).unwrap();
    until("the summary", || daemon.output().contains("frames in"));
    let said = daemon.output();
    assert!(!said.contains("tx_queue_full"), "{what}: {said}");
}

#[test]
fn a_slow_underlay_loses_nothing_of_bulk_transfers_by_vxlan() {
    nothing_is_lost(LabSpec::new(Mode::Vxlan));
}

#[test]
fn a_slow_underlay_loses_nothing_of_bulk_transfers_by_ipip() {
    nothing_is_lost(LabSpec { attach: Attach::Veth, ..LabSpec::new(Mode::Ipip) });
}
