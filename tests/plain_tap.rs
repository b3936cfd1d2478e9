//! The plain TAP of kernels and sandboxes that know no virtio-net header, beside one that has it: what the one
//! hands over as super-frames with partial checksums, the other must get cut and summed.

mod lab;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lab::{ip, reaches};
use margay::buf::{Pool, SlotSize};
use margay::io::tap::TapPort;
use margay::io::{Port, Rx};
use margay::lpm::Prefix;
use margay::sys::netlink::LinkChange;
use margay::sys::netns::Netns;
use margay::sys::tun::{self, Interface, Layer, Offloads, TunError};
use margay::testbed::transfer;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

/// A namespace with a TAP that has an address of 10.9.0.0/24.
fn with_tap(host: u8, open: impl FnOnce() -> Result<Interface, TunError> + Send) -> (Netns, Interface) {
    let netns = Netns::create().expect("this test needs root, or a user namespace of its own");
    let interface = netns.run(open).unwrap().unwrap();
    let mut netlink = netns.netlink().unwrap();
    netlink.set_link("tap0", &[LinkChange::Up]).unwrap();
    let dev = netlink.link("tap0").unwrap().index;
    netlink.add_address(dev, Prefix::new([10, 9, 0, host].into(), 24).unwrap()).unwrap();
    (netns, interface)
}

/// Carries frames between two ports until told to end; how many super-frames there were.
fn bridge(mut ports: [TapPort; 2], end: &AtomicBool) -> usize {
    let mut poll = Poll::new().unwrap();
    for (index, port) in ports.iter().enumerate() {
        let fd = port.readiness().unwrap();
        poll.registry().register(&mut SourceFd(&fd), Token(index), Interest::READABLE).unwrap();
    }
    let mut pool = Pool::new(64, SlotSize::SuperFrame);
    let (mut events, mut batch, mut super_frames) = (Events::with_capacity(2), Vec::new(), 0);
    while !end.load(Ordering::Relaxed) {
        poll.poll(&mut events, Some(Duration::from_millis(20))).unwrap();
        for event in &events {
            let from = event.token().0;
            loop {
                let more = ports[from].rx(&mut pool, &mut batch).unwrap();
                super_frames += batch.iter().filter(|frame| frame.offload.segments.is_some()).count();
                let count = batch.len() as u64;
                let report = ports[1 - from].tx(&mut pool, &mut batch);
                assert_eq!((report.sent, report.failed), (count, 0), "{:?}", report.error);
                if more == Rx::Drained {
                    break;
                }
            }
        }
    }
    assert_eq!(pool.available(), pool.slots(), "every slot came back");
    super_frames
}

#[test]
fn a_plain_tap_gets_super_frames_cut() {
    let (plain, plain_tap) = with_tap(1, || tun::open_plain("tap0", Layer::Tap));
    let (able, able_tap) = with_tap(2, || tun::open("tap0", Layer::Tap, 1));
    assert_eq!((plain_tap.offloads, plain_tap.queues.len()), (Offloads::Plain, 1));
    assert!(able_tap.offloads.has_tso(), "a kernel without TSO on TAPs cannot show this");
    let ports = [plain_tap, able_tap]
        .map(|mut tap| TapPort::new(Arc::new(tap.queues.remove(0)), Layer::Tap, tap.offloads));
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let bridge = scope.spawn(|| bridge(ports, &end));
        let checked = std::panic::catch_unwind(|| {
            reaches(&able, ip("10.9.0.1"), "the plain TAP's namespace");
            let there = transfer(&able, &plain, ip("10.9.0.1"), 8_000_000).unwrap();
            assert!(there.bytes == 8_000_000 && there.intact(), "towards the plain TAP: {there:?}");
            let back = transfer(&plain, &able, ip("10.9.0.2"), 1_000_000).unwrap();
            assert!(back.bytes == 1_000_000 && back.intact(), "from the plain TAP: {back:?}");
        });
        end.store(true, Ordering::Relaxed);
        let super_frames = bridge.join().unwrap();
        checked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert!(super_frames > 0, "the sender must make what this test is about");
    });
}
