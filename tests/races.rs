//! What threads share: the FIB's publication, the workloads' MACs, the counters. A test for the thread sanitizer and
//! for Miri (docs/testing.md); as an ordinary one it shows that no reader meets half a change.

#[allow(dead_code, reason = "the engine's tests use the rest")]
#[expect(unreachable_pub, reason = "the engine's fuzz target uses it as well")]
#[path = "engine/bed.rs"]
mod bed;
#[allow(dead_code, reason = "the engine's tests use the rest")]
#[expect(unreachable_pub, reason = "the engine's fuzz target uses it as well")]
#[path = "engine/packets.rs"]
mod packets;

use std::net::IpAddr;
use std::sync::Arc;
use std::thread;

use bed::*;
use crossbeam::channel::{Sender, bounded, unbounded};
use margay::buf::{Pool, SlotSize};
use margay::dataplane::{Command, Counters, Neighbor, PortId, Setup, Worker};
use margay::fib::{Fib, Publication};
use margay::io::memory::{MemoryPort, Wire};
use margay::wire::MacAddr;
use packets::*;

/// Miri is some thousand times slower.
const ROUNDS: usize = if cfg!(miri) { 4 } else { 200 };

/// A block of B's that is C's in the other one.
fn fib(of_c: bool) -> Fib {
    let cluster = if of_c { CLUSTER.replace("10.66.0.64/26 b", "10.66.0.64/26 c") } else { CLUSTER.into() };
    compile(&cluster, "a", Machine::default())
}

struct Running {
    commands: Sender<Command>,
    waker: Arc<mio::Waker>,
    counters: Arc<Counters>,
    alpha: Wire,
    beta: Wire,
    ipip: Wire,
    thread: thread::JoinHandle<()>,
}

impl Running {
    fn tell(&self, command: Command) {
        self.commands.send(command).unwrap();
        self.waker.wake().unwrap();
    }

    fn attach(&self, id: PortId, wire: &Wire, neighbor: Option<Arc<Neighbor>>) {
        self.tell(Command::Attach { id, port: Box::new(MemoryPort::new(wire)), receives: true, neighbor });
    }

    fn start(index: usize, workers: usize, publication: &Arc<Publication>, beta: &Arc<Neighbor>) -> Self {
        let (commands, obeyed) = unbounded();
        let (events, _) = bounded(8);
        let counters = Counters::new();
        let worker = Worker::new(Setup {
            index,
            workers,
            pool: Pool::new(64, SlotSize::Frame),
            fib: publication.reader(),
            commands: obeyed,
            events,
            counters: Arc::clone(&counters),
        });
        let mut worker = worker.expect("epoll and eventfd");
        let waker = worker.waker();
        let thread = thread::spawn(move || worker.run().unwrap());
        let wires = [(); 3].map(|()| Wire::default());
        let [alpha, beta_wire, ipip] = wires;
        let running = Running { commands, waker, counters, alpha, beta: beta_wire, ipip, thread };
        running.attach(ALPHA.into(), &running.alpha, Some(Neighbor::fixed(ALPHA_MAC)));
        running.attach(BETA.into(), &running.beta, Some(Arc::clone(beta)));
        running.attach(PortId::Ipip, &running.ipip, None);
        running
    }
}

/// Two workers forward while snapshots change, a workload changes its MAC, and an endpoint comes and goes.
#[test]
fn no_reader_meets_half_a_change() {
    let publication = Publication::new(fib(false));
    let beta = Neighbor::learned(BETA_MAC);
    let workers = [0, 1].map(|index| Running::start(index, 2, &publication, &beta));
    let macs = [BETA_MAC, MacAddr([2, 0x11, 0x22, 0x33, 0x44, 0x55])];
    let tunnel = Ip::udp(ALPHA_IP, B_IPIP, 10);
    let pod = Ip::udp(ALPHA_IP, BETA_IP, 10);
    for round in 0..ROUNDS {
        publication.publish(fib(round % 2 == 1));
        workers[0].beta.push(Ip::udp(BETA_IP, OUTSIDE, 1).sent_by(macs[round % 2]));
        for worker in &workers {
            worker.alpha.push(tunnel.sent_by(ALPHA_MAC));
            worker.alpha.push(pod.sent_by(ALPHA_MAC));
            assert!(worker.counters.read().outcomes() <= worker.counters.read().input + 1000);
        }
        if round % 8 == 7 {
            let (done, closed) = bounded(0);
            workers[1].tell(Command::Detach { id: BETA.into(), done });
            assert!(closed.recv().is_err(), "closed when the worker let go of it");
            workers[1].attach(BETA.into(), &workers[1].beta, Some(Arc::clone(&beta)));
        }
        for (frames, check) in workers.iter().flat_map(|worker| {
            let tunnelled: fn(&margay::io::memory::MemoryFrame) -> bool =
                |frame| [PEER_B, PEER_C].map(IpAddr::V4).contains(&frame.peer);
            let delivered: fn(&margay::io::memory::MemoryFrame) -> bool =
                |frame| frame.bytes[0] == 2 && [0, 0x11].contains(&frame.bytes[1]);
            [(worker.ipip.take(), tunnelled), (worker.beta.take(), delivered)]
        }) {
            assert!(frames.iter().all(check), "{frames:?}");
        }
    }
    // The last of everything is what counts from here on.
    publication.publish(fib(true));
    for worker in &workers {
        worker.ipip.take();
        worker.attach(BETA.into(), &worker.beta, Some(Arc::clone(&beta)));
    }
    for worker in workers {
        // The turn after the one that a command is obeyed in has the snapshot from before the command.
        for _ in 0..2 {
            let (done, closed) = bounded(0);
            worker.tell(Command::Detach { id: PortId::Host, done });
            assert!(closed.recv().is_err());
        }
        worker.ipip.take();
        worker.alpha.push(tunnel.sent_by(ALPHA_MAC));
        let frame = loop {
            if let Some(frame) = worker.ipip.take().pop() {
                break frame;
            }
            thread::yield_now();
        };
        assert_eq!(frame.peer, IpAddr::V4(PEER_C));
        worker.tell(Command::Stop);
        worker.thread.join().unwrap();
        let tally = worker.counters.read();
        assert_eq!(tally.input, tally.outcomes());
        assert!(tally.input > ROUNDS as u64);
    }
}
