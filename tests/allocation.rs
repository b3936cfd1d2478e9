//! The fast path allocates nothing: whole turns of a worker, with an allocator that counts.
//!
//! The ports of the scene are in memory; the kernel's own, with super-frames cut and joined, have a test of
//! their own here.

#![allow(unsafe_code, reason = "a global allocator is an unsafe trait")]

#[path = "../benches/scene/mod.rs"]
mod scene;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use margay::buf::{Pool, Segmentation, Segments, SlotSize};
use margay::dataplane::Tally;
use margay::dataplane::tap::Wanted;
use margay::io::tap::TapPort;
use margay::io::udp::UdpPort;
use margay::io::{BATCH, FRAMES, Port};
use margay::sys::netlink::{LinkChange, Netlink};
use margay::sys::netns::Netns;
use margay::sys::socket;
use margay::sys::tun::{self, Interface, Layer};
use margay::verdict::{DropReason, Sent};
use margay::wire::ip::Family;
use margay::wire::{Protocol, ipv4, ipv6};
use scene::{Path, Scene};

thread_local! {
    /// Of this thread alone: the test harness has others.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn count() {
    ALLOCATIONS.with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: every call goes on to the system's allocator as it came; the counter allocates nothing, as it is
// initialised by a constant and needs no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is the system allocator's demand.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count();
        // SAFETY: as above; `block` is from `System`, as all blocks are.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }
}

/// Allocations and frees of `work`.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

const TURNS: usize = 2_000;

/// Turns a worker, first unobserved, until each queue has had its frames; then tells what it counted while it
/// was observed.
fn turns(paths: &[Path]) -> (u64, Tally) {
    let mut worker = Scene::new().worker(paths);
    let mut turn = |times| {
        for _ in 0..times {
            worker.turn(Some(Duration::ZERO)).expect("epoll works");
        }
    };
    turn(100);
    let counted = allocations(|| turn(TURNS));
    (counted, worker.inspect().0)
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(7)))), 2);
}

#[test]
fn no_path_allocates() {
    for path in Path::ALL {
        let (allocations, tally) = turns(&[path]);
        assert_eq!(allocations, 0, "{path:?}");
        let all = ((TURNS + 100) * BATCH) as u64;
        let outcome = match path {
            Path::WorkloadToVxlan => tally.sent[Sent::Vxlan.index()],
            Path::WorkloadToIpip => tally.sent[Sent::Ipip.index()],
            Path::WorkloadToDirect => tally.sent[Sent::Direct.index()],
            Path::WorkloadToHost => tally.sent[Sent::Host.index()],
            Path::WorkloadDropped => tally.dropped[DropReason::SourceNotOwned.index()],
            Path::Arp => tally.sent[Sent::NeighborReply.index()],
            _ => tally.sent[Sent::Workload.index()],
        };
        assert_eq!((outcome, tally.input), (all, all), "{path:?}: not the path that it should be");
    }
}

/// A capture has its buffers beforehand, and who does not read does not change that.
#[test]
fn nor_does_a_capture() {
    for reads in [true, false] {
        let wanted = Wanted { snap: 256, filter: "not port 1".parse().unwrap(), ..Wanted::default() };
        let (mut worker, mut catch) = Scene::new().worker_watched(&Path::ALL, wanted);
        let mut captured = 0;
        let mut turn = |times| {
            for _ in 0..times {
                worker.turn(Some(Duration::ZERO)).expect("epoll works");
                if reads {
                    captured += catch.take(usize::MAX, |record, _| {
                        std::hint::black_box(record);
                    });
                }
            }
        };
        turn(100);
        assert_eq!(allocations(|| turn(200)), 0, "reads: {reads}");
        assert_eq!(captured > 300, reads);
    }
}

#[test]
fn nor_do_all_paths_at_once() {
    let (allocations, tally) = turns(&Path::ALL);
    assert_eq!(allocations, 0);
    assert_eq!(tally.input, tally.outcomes());
    // One batch a turn from each of the four ports that receive.
    assert_eq!(tally.input, (4 * (TURNS + 100) * BATCH) as u64);
}

/// A super-frame of TCP for a tunnel, 60,000 bytes of payload behind the headers of VXLAN.
fn tunnelled(family: Family) -> Vec<u8> {
    let mut bytes = vec![0; VXLAN_AND_ETHERNET];
    match family {
        Family::V4 => {
            let header = ipv4::Header {
                tos: 0,
                total_len: 40 + 60_000,
                id: 1,
                dont_fragment: true,
                more_fragments: false,
                fragment_offset: 0,
                ttl: 64,
                protocol: Protocol::TCP,
                src: [10, 65, 0, 2].into(),
                dst: [10, 65, 1, 2].into(),
            };
            bytes[20..22].copy_from_slice(&[0x08, 0x00]);
            bytes.resize(VXLAN_AND_ETHERNET + ipv4::MIN_HEADER_LEN, 0);
            header.write((&mut bytes[VXLAN_AND_ETHERNET..]).try_into().unwrap());
        }
        Family::V6 => {
            let header = ipv6::Header {
                traffic_class: 0,
                flow_label: 0x12345,
                payload_len: 20 + 60_000,
                next_header: Protocol::TCP,
                hop_limit: 64,
                src: [0xfd65, 0, 0, 0, 0, 0, 0, 2].into(),
                dst: [0xfd65, 0, 0, 1, 0, 0, 0, 2].into(),
            };
            bytes[20..22].copy_from_slice(&[0x86, 0xdd]);
            bytes.resize(VXLAN_AND_ETHERNET + ipv6::HEADER_LEN, 0);
            header.write((&mut bytes[VXLAN_AND_ETHERNET..]).try_into().unwrap());
        }
    }
    bytes.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    bytes.resize(bytes.len() + 60_000, 0x5a);
    bytes
}

const VXLAN_AND_ETHERNET: usize = 8 + 14;

/// Cut into a tunnel's socket, received as the kernel joins it, divided, and joined for a TAP; of either version of IP,
/// in a tunnel over either.
#[test]
fn no_super_frame_allocates_on_its_way_through_the_kernels_ports() {
    let netns = Netns::create().expect("this test needs root, or a user namespace of its own");
    netns.netlink().unwrap().set_link("lo", &[LinkChange::Up]).unwrap();
    for (inner, outer) in Family::ALL.into_iter().flat_map(|inner| Family::ALL.map(|outer| (inner, outer))) {
        netns.run(|| through_the_kernels_ports(inner, outer)).unwrap();
    }
}

fn through_the_kernels_ports(inner: Family, outer: Family) {
    let local = match outer {
        Family::V4 => SocketAddr::from(([127, 0, 0, 1], 4789)),
        Family::V6 => SocketAddr::from((Ipv6Addr::LOCALHOST, 4789)),
    };
    let receiver = socket::vxlan_receiver(local).unwrap();
    let sender = socket::vxlan_sender((local.ip(), 0).into()).unwrap();
    let mut tunnel = UdpPort::new(receiver, vec![sender], local.port());
    let Interface { mut queues, offloads } = tun::open("tap0", Layer::Tap, 1).unwrap();
    assert!(offloads.has_tso(), "a kernel without TSO on TAPs cannot show this");
    Netlink::open().unwrap().set_link("tap0", &[LinkChange::Up]).unwrap();
    let mut tap = TapPort::new(Arc::new(queues.remove(0)), Layer::Tap, offloads);

    let bytes = tunnelled(inner);
    let segments = Some(Segments { kind: Segmentation::Tcp, size: 1398 });
    let mut pool = Pool::new(64, SlotSize::SuperFrame);
    let mut batch = Vec::with_capacity(FRAMES);
    let mut once = || {
        let mut frame = pool.take().unwrap();
        pool.room(&frame)[..bytes.len()].copy_from_slice(&bytes);
        pool.filled(&mut frame, bytes.len());
        frame.offload.segments = segments;
        frame.peer = local.ip();
        batch.push(frame);
        assert_eq!(tunnel.tx(&mut pool, &mut batch).sent, 1);
        tunnel.rx(&mut pool, &mut batch).unwrap();
        assert_eq!(batch.len(), 43, "one message of the kernel, a frame for each segment");
        batch.iter_mut().for_each(|frame| frame.strip(8));
        assert_eq!(tap.tx(&mut pool, &mut batch).sent, 43);
    };
    once();
    assert_eq!(allocations(|| (0..50).for_each(|_| once())), 0);
}
