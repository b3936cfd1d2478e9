//! The fast path allocates nothing: whole turns of a worker, with an allocator that counts.
//!
//! What this cannot see: what the kernel's ports do, for these are in memory (`io`'s own send and receive
//! batches into memory that they allocated when they were opened).

#![allow(unsafe_code, reason = "a global allocator is an unsafe trait")]

#[path = "../benches/scene/mod.rs"]
mod scene;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use margay::dataplane::Tally;
use margay::io::BATCH;
use margay::verdict::{DropReason, Sent};
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
            Path::Arp => tally.sent[Sent::ArpReply.index()],
            _ => tally.sent[Sent::Workload.index()],
        };
        assert_eq!((outcome, tally.input), (all, all), "{path:?}: not the path that it should be");
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
