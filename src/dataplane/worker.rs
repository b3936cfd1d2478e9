//! A worker: one thread that receives, forwards and sends, run to completion, a turn at a time.
//!
//! turn: wait for readiness → take up the FIB and the agent's commands → for each readable port: rx batch,
//! forward each frame, flush what it became → slow path's timers → publish the counters.
//!
//! A worker shares nothing with the others but immutable snapshots, neighbour entries and its own counters
//! (which others read). On the fast path it allocates nothing, takes no lock, logs nothing, and reads the
//! clock once a turn.

mod injection;
mod originated;
mod seen;

use std::io;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use super::accounts::{self, Accounts, Form, Traffic};
use super::counters::batch_size;
use super::decap::Kind;
use super::engine::{Engine, Noted, Origin, Tables, Verdict};
use super::neighbor::{Neighbor, Neighbors};
use super::paths::{Change, Paths};
use super::ports::{PortId, Ports};
use super::ready::Ready;
use super::specimens::{Credit, Specimen};
use super::spin::Spin;
use super::tap::{Outcome, Tap, Taps};
use super::{Counters, Tally};
use crate::buf::{Frame, Pool};
use crate::fib::{EndpointId, Fib, Reader};
use crate::io::{FRAMES, Port, Rx, TxReport};
use crate::slowpath::probe::Prober;
use crate::slowpath::{Made, Punted, SlowPath};
use crate::verdict::{Anomaly, DropReason, PuntReason, Sent};

pub use injection::{Entrance, Injection};
use seen::Eyes;

/// What the agent tells a worker.
pub enum Command {
    /// Serve this port from now on.
    Attach {
        /// Which one; it replaces a port of the same id.
        id: PortId,
        /// The port.
        port: Box<dyn Port>,
        /// Receive from it too, not only send.
        receives: bool,
        /// The workload's MAC, for an endpoint.
        neighbor: Option<Arc<Neighbor>>,
    },
    /// Close this port, then confirm.
    Detach {
        /// Which one.
        id: PortId,
        /// Dropped when the port is closed.
        done: Sender<()>,
    },
    /// Copy what this capture wants, until nobody reads it.
    Tap(Tap),
    /// Forward this frame as if it had been received, and tell what became of it.
    Inject(Injection),
    /// Say that the worker turns.
    Answer {
        /// Dropped by the worker.
        done: Sender<()>,
    },
    /// Leave the loop, which may be entered again.
    Stop,
}

/// What a worker tells the agent.
#[derive(Debug)]
pub enum Event {
    /// A port gave an error on receive and was closed: its interface is gone.
    PortLost {
        /// Which one.
        id: PortId,
        /// Why.
        error: io::Error,
    },
    /// The kernel refuses to send by this port; told once a second at most.
    SendRefused {
        /// Which one.
        id: PortId,
        /// Why.
        error: io::Error,
    },
    /// What is known of the way to a peer has changed.
    PathChanged(Change),
    /// Frames that went on although something is wrong with them; told once a minute at most.
    Noted {
        /// What.
        anomaly: Anomaly,
        /// Who sent the last of them.
        peer: IpAddr,
    },
}

/// How a worker is set up.
pub struct Setup {
    /// This worker's index, from 0.
    pub index: usize,
    /// Number of workers.
    pub workers: usize,
    /// Its buffers.
    pub pool: Pool,
    /// Its view of the FIB.
    pub fib: Reader,
    /// The agent's commands; the sender wakes the worker after it.
    pub commands: Receiver<Command>,
    /// Where it tells of what it cannot deal with itself.
    pub events: Sender<Event>,
    /// Where it publishes its counts.
    pub counters: Arc<Counters>,
}

/// See the module.
pub struct Worker {
    engine: Engine,
    slowpath: SlowPath,
    pool: Pool,
    fib: Reader,
    neighbors: Neighbors,
    ports: Ports,
    poll: Poll,
    readiness: Events,
    waker: Arc<Waker>,
    ready: Ready,
    spin: Spin,
    /// Of the frames in hand, in their order.
    verdicts: Vec<Result<Verdict, DropReason>>,
    /// And their lengths as they were received, where they are a peer's.
    lens: Vec<usize>,
    made: Vec<Made>,
    tally: Tally,
    accounts: Accounts,
    taps: Taps,
    credit: Credit,
    now: Instant,
    last_complaint: Option<Instant>,
    last_note: Option<Instant>,
    commands: Receiver<Command>,
    events: Sender<Event>,
    counters: Arc<Counters>,
}

const WAKE: Token = Token(usize::MAX);
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(1);
/// An anomaly on the way does not pass by itself (RFC 6040 4.2: alarms must be limited).
const NOTE_INTERVAL: Duration = Duration::from_secs(60);

/// Whether a worker goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Another turn.
    Continue,
    /// [`Command::Stop`] came.
    Stop,
}

impl Worker {
    /// A worker without ports.
    ///
    /// # Errors
    /// Those of epoll_create(2) and eventfd(2).
    pub fn new(setup: Setup) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        let mut accounts = Accounts::new(&setup.counters);
        accounts.follow(setup.fib.current());
        Ok(Worker {
            engine: Engine::new(setup.index, setup.workers),
            slowpath: SlowPath::sharing(Arc::default(), None, true),
            pool: setup.pool,
            fib: setup.fib,
            neighbors: Neighbors::default(),
            ports: Ports::default(),
            poll,
            readiness: Events::with_capacity(256),
            waker,
            ready: Ready::default(),
            spin: Spin::new(Duration::ZERO),
            verdicts: Vec::with_capacity(FRAMES),
            lens: Vec::with_capacity(FRAMES),
            made: Vec::with_capacity(FRAMES),
            tally: Tally::default(),
            accounts,
            taps: Taps::new(setup.index),
            credit: Credit::new(Instant::now()),
            now: Instant::now(),
            last_complaint: None,
            last_note: None,
            commands: setup.commands,
            events: setup.events,
            counters: setup.counters,
        })
    }

    /// Asks for work during at most `limit` before it sleeps, as long as work comes that soon: it is found earlier
    /// than a thread that sleeps can be woken.
    pub fn spinning(self, limit: Duration) -> Self {
        Worker { spin: Spin::new(limit), ..self }
    }

    /// Shares with other workers what is known of the peers' paths, and perhaps who asks for it; the one that keeps
    /// the time lets old knowledge go and sends the questions.
    pub fn sharing(self, paths: Arc<Paths>, prober: Option<Arc<Prober>>, keeps_time: bool) -> Self {
        Worker { slowpath: SlowPath::sharing(paths, prober, keeps_time), ..self }
    }

    /// What ends the wait of [`Self::turn`]: to be used after a command was sent or a FIB published.
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Turns until told to stop. Between turns it holds no frame but those that wait for a MAC, so that it may be run
    /// again.
    ///
    /// # Errors
    /// As [`Self::turn`].
    pub fn run(&mut self) -> io::Result<()> {
        while self.turn(None)? == Flow::Continue {}
        Ok(())
    }

    /// One turn. Waits for something to do, at most `wait` (`None`: until there is), unless a port has more.
    ///
    /// # Errors
    /// Those of epoll_wait(2).
    pub fn turn(&mut self, wait: Option<Duration>) -> io::Result<Flow> {
        self.wait(wait)?;
        Ok(self.turn_at(Instant::now()))
    }

    /// One turn with what is there, at a time that the caller says; it never goes back.
    pub fn turn_at(&mut self, now: Instant) -> Flow {
        self.now = now;
        if self.fib.refresh() {
            self.accounts.follow(self.fib.current());
            self.slowpath.paths.take_up(self.fib.current());
        }
        if self.obey() == Flow::Stop {
            return Flow::Stop;
        }
        let mut next = 0;
        while let Some(index) = self.ready.get(next) {
            match self.receive(index) {
                Rx::More => next += 1,
                // A port that was lost is gone from the list already.
                Rx::Drained if self.ready.get(next) != Some(index) => {}
                Rx::Drained => self.ready.swap_remove(next),
            }
        }
        if self.slowpath.is_due(self.now) {
            let fib = Arc::clone(self.fib.current());
            let tables = Tables { fib: &fib, neighbors: &self.neighbors };
            self.slowpath.tick(tables, self.now, &mut self.pool, &mut self.made);
            // What waited may wait once more, for another workload: that question is of this turn as well.
            while !self.made.is_empty() {
                self.originate();
            }
            self.flush();
        }
        if self.taps.is_on() {
            self.taps.settle();
        }
        for change in self.slowpath.changes() {
            let _ = self.events.try_send(Event::PathChanged(change));
        }
        if let Some(noted) = self.engine.noted() {
            self.tell(noted);
        }
        if let Some(told) = self.slowpath.told() {
            self.tally.icmp_errors.iter_mut().zip(told).for_each(|(cell, count)| *cell += count);
        }
        self.counters.publish(&mut self.tally);
        Flow::Continue
    }

    #[cold]
    fn tell(&mut self, noted: Noted) {
        for (cell, count) in self.tally.anomalies.iter_mut().zip(noted.counts) {
            *cell += count;
        }
        if self.last_note.is_none_or(|last| self.now.saturating_duration_since(last) >= NOTE_INTERVAL) {
            self.last_note = Some(self.now);
            let (anomaly, peer) = noted.last;
            let _ = self.events.try_send(Event::Noted { anomaly, peer });
        }
    }

    fn wait(&mut self, wait: Option<Duration>) -> io::Result<()> {
        let timer = self.slowpath.deadline(self.now).map(|due| due.saturating_duration_since(self.now));
        let wait = match (self.ready.is_empty(), wait, timer) {
            (false, ..) => Some(Duration::ZERO),
            (true, Some(wait), Some(timer)) => Some(wait.min(timer)),
            (true, wait, timer) => wait.or(timer),
        };
        match wait {
            Some(Duration::ZERO) => self.poll(wait)?,
            _ if self.spin.is_on() => self.spin(wait)?,
            _ => self.poll(wait)?,
        }
        for event in self.readiness.iter().filter(|event| event.token() != WAKE) {
            // Edge-triggered: a port that is still being read tells of no second edge that matters.
            self.ready.insert(event.token().0);
        }
        Ok(())
    }

    /// Asks for a while, as [`Spin`] has it, then sleeps.
    fn spin(&mut self, wait: Option<Duration>) -> io::Result<()> {
        let began = Instant::now();
        let time = self.spin.time().min(wait.unwrap_or(Duration::MAX));
        let mut found = false;
        while !found && began.elapsed() < time {
            self.poll(Some(Duration::ZERO))?;
            found = !self.readiness.is_empty();
            if !found {
                // Whoever makes the work that is waited for may need this core.
                std::thread::yield_now();
            }
        }
        if !found {
            self.poll(wait)?;
        }
        self.spin.waited(began.elapsed());
        Ok(())
    }

    fn poll(&mut self, wait: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(&mut self.readiness, wait) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            other => other,
        }
    }

    fn obey(&mut self) -> Flow {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Attach { id, port, receives, neighbor } => self.attach(id, port, receives, neighbor),
                Command::Detach { id, done } => {
                    self.detach(id);
                    drop(done);
                }
                Command::Tap(tap) => self.taps.add(tap),
                Command::Inject(injection) => self.inject(injection),
                Command::Answer { done } => drop(done),
                Command::Stop => return Flow::Stop,
            }
        }
        Flow::Continue
    }

    fn attach(&mut self, id: PortId, port: Box<dyn Port>, receives: bool, neighbor: Option<Arc<Neighbor>>) {
        self.detach(id);
        if receives {
            self.ready.make_room(id.index());
            match port.readiness() {
                Some(fd) => {
                    let source = &mut SourceFd(&fd);
                    let registry = self.poll.registry();
                    if let Err(error) = registry.register(source, Token(id.index()), Interest::READABLE) {
                        let _ = self.events.send(Event::PortLost { id, error });
                        return;
                    }
                }
                None => self.ready.insert(id.index()),
            }
        }
        if let (PortId::Endpoint(endpoint), Some(neighbor)) = (id, neighbor) {
            self.neighbors.insert(endpoint, neighbor);
        }
        if let PortId::Endpoint(endpoint) = id {
            self.accounts.open(endpoint);
        }
        self.ports.insert(id, port, receives);
    }

    fn detach(&mut self, id: PortId) {
        // Between batches all queues are empty: nothing is lost with the port.
        let Some(slot) = self.ports.remove(id) else { return };
        if let Some(fd) = slot.port.readiness().filter(|_| slot.receives) {
            // The descriptor may be shared, so that closing ours does not end the registration.
            let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
        }
        self.ready.remove(id.index());
        if let PortId::Endpoint(endpoint) = id {
            self.neighbors.remove(endpoint);
            self.accounts.close(endpoint);
        }
    }

    /// One batch from one port, all the way.
    fn receive(&mut self, index: usize) -> Rx {
        let Some(slot) = self.ports.get(index) else { return Rx::Drained };
        let (id, is_polled) = (slot.id, slot.port.readiness().is_none());
        let Some(received) = self.ports.receive(index, &mut self.pool) else { return Rx::Drained };
        self.forward(id);
        self.originate();
        self.flush();
        match received {
            Ok(Rx::Drained) if !is_polled => Rx::Drained,
            Ok(_) => Rx::More,
            Err(error) => {
                self.detach(id);
                let _ = self.events.send(Event::PortLost { id, error });
                Rx::Drained
            }
        }
    }

    /// Each frame of the batch gets its verdict.
    #[inline]
    fn forward(&mut self, id: PortId) {
        let fib = Arc::clone(self.fib.current());
        let count = self.ports.hand().len();
        self.tally.input += count as u64;
        if count > 0 {
            self.tally.batches[batch_size(count)] += 1;
            self.tally.batched += count as u64;
            self.counters.note_free(self.pool.available());
        }
        if let PortId::Endpoint(_) | PortId::Host = id {
            let bytes = self.ports.hand().iter().map(|frame| frame.len() as u64).sum();
            let traffic = Traffic { frames: count as u64, bytes };
            self.accounts.of_port(&fib, id).received(Form::Plain, traffic);
        }
        match self.taps.is_on() {
            false => self.pass(&fib, id),
            true => self.pass_seen(&fib, id, Eyes::Captures),
        }
    }

    /// What the engine decides of the frames in hand is carried out, after all is decided.
    #[inline(always)]
    fn pass(&mut self, fib: &Fib, id: PortId) {
        let count = self.ports.hand().len();
        self.decide(fib, id, 0..count);
        let mut verdicts = std::mem::take(&mut self.verdicts);
        for (place, verdict) in verdicts.drain(..).enumerate() {
            self.follow(fib, id, verdict, place);
        }
        self.verdicts = verdicts;
    }

    /// What the engine says of frames that came in by a port. The one place that asks it, so that each way in stands in a
    /// loop of its own.
    #[inline(never)]
    fn decide(&mut self, fib: &Fib, id: PortId, places: Range<usize>) {
        let Worker { engine, pool, ports, neighbors, verdicts, lens, .. } = self;
        let tables = Tables { fib, neighbors };
        let frames = &mut ports.hand()[places.clone()];
        if form_of(id).is_some() {
            lens.extend(frames.iter().map(Frame::len));
        }
        let frames = frames.iter_mut();
        match id {
            PortId::Endpoint(endpoint) => {
                verdicts.extend(frames.map(|frame| engine.from_workload(tables, endpoint, pool, frame)));
            }
            PortId::Host => verdicts.extend(frames.map(|frame| engine.from_host(tables, pool, frame))),
            PortId::Errors(_) => verdicts.extend(frames.map(|_| Ok(Verdict::Punt(PuntReason::TunnelError)))),
            PortId::Ipip | PortId::Vxlan(_) => {
                let kind = if id == PortId::Ipip { Kind::Ipip } else { Kind::Vxlan };
                verdicts.extend(frames.map(|frame| engine.from_tunnel(tables, kind, pool, frame)));
            }
            PortId::Underlay(_) | PortId::Direct => {
                verdicts.extend(frames.map(|frame| engine.from_underlay(tables, pool, frame)));
            }
        }
        if let Some(form) = form_of(id) {
            self.count_received(form, places);
        }
    }

    /// Counts what is right with the peers that sent it. In a loop of its own, where one frame's way to its account does
    /// not keep the next one waiting.
    fn count_received(&mut self, form: Form, places: Range<usize>) {
        let frames = &self.ports.hand()[places];
        for ((frame, verdict), bytes) in frames.iter().zip(&self.verdicts).zip(self.lens.drain(..)) {
            if verdict.is_ok() {
                let traffic = Traffic { frames: 1, bytes: bytes as u64 };
                self.accounts.of_peer(frame.peer_index).received(form, traffic);
            }
        }
    }

    /// Carries out what the engine decided of a frame that came in by a port.
    #[inline(always)]
    fn follow(&mut self, fib: &Fib, id: PortId, verdict: Result<Verdict, DropReason>, place: usize) {
        match verdict {
            Ok(Verdict::Punt(reason)) => {
                let frame = self.ports.hand()[place].take();
                let origin = accounts::origin(fib, id, &self.pool, &frame);
                self.punt(fib, Some(id), Punted { reason, origin, is_made: false, frame });
            }
            Ok(verdict) => self.queue(verdict, place),
            Err(reason) => self.drop_received(fib, id, reason, place),
        }
    }

    fn punt(&mut self, fib: &Fib, id: Option<PortId>, punted: Punted) {
        let (reason, origin) = (punted.reason, punted.origin);
        self.tally.punted[reason.index()] += 1;
        self.accounts.of(fib, origin.into()).punted(reason);
        let tables = Tables { fib, neighbors: &self.neighbors };
        let specimen = Specimen::new(origin.into(), id, self.pool.bytes(&punted.frame));
        let before = self.made.len();
        self.slowpath.punt(tables, self.now, &mut self.pool, punted, &mut self.made);
        let nothing = self.made[before..].iter().find_map(|made| match made {
            Made::Nothing(_, reason) => Some(*reason),
            _ => None,
        });
        if let Some(reason) = nothing.filter(|reason| self.credit.allows(*reason, self.now)) {
            self.keep(reason, specimen);
        }
        if self.taps.is_on() {
            self.taps.ended(Outcome::Punted(reason, nothing));
        }
    }

    #[cold]
    fn keep(&mut self, reason: DropReason, specimen: Specimen) {
        self.credit.take(reason, self.now);
        self.counters.keep(reason, specimen);
    }

    #[inline(always)]
    fn queue(&mut self, verdict: Verdict, place: usize) {
        let (id, is_reply) = match verdict {
            Verdict::Workload(id) => (PortId::Endpoint(id), false),
            Verdict::Reply(id) => (PortId::Endpoint(id), true),
            Verdict::Ipip => (PortId::Ipip, false),
            Verdict::Vxlan(underlay) => (PortId::Vxlan(underlay), false),
            Verdict::Direct => (PortId::Direct, false),
            Verdict::Host => (PortId::Host, false),
            Verdict::Punt(_) => return self.drop_unsent(PortId::Host, DropReason::TooBigUnsplittable, place),
        };
        if !self.ports.queue(id, place, is_reply) {
            self.drop_unsent(id, absent(id), place);
        }
    }

    /// Of a frame that came in by a port and not as far as one to send it.
    #[inline(always)]
    fn drop_received(&mut self, fib: &Fib, id: PortId, reason: DropReason, place: usize) {
        let frame = self.ports.hand()[place].take();
        let origin = accounts::origin(fib, id, &self.pool, &frame);
        self.count_drop(fib, origin, reason);
        if self.credit.allows(reason, self.now) {
            self.keep(reason, Specimen::new(origin.into(), Some(id), self.pool.bytes(&frame)));
        }
        self.pool.put(frame);
    }

    #[inline(always)]
    fn count_drop(&mut self, fib: &Fib, origin: Origin, reason: DropReason) {
        self.tally.dropped[reason.index()] += 1;
        self.accounts.of(fib, origin.into()).dropped(reason, 1);
    }

    /// Of a frame for a port that cannot have it.
    #[cold]
    fn drop_unsent(&mut self, id: PortId, reason: DropReason, place: usize) {
        let frame = self.ports.hand()[place].take();
        self.tally.dropped[reason.index()] += 1;
        self.accounts.of_port(self.fib.current(), id).dropped(reason, 1);
        if self.credit.allows(reason, self.now) {
            self.keep(reason, Specimen::new(accounts::party_of(id), Some(id), self.pool.bytes(&frame)));
        }
        if self.taps.is_on() {
            self.taps.unsent(reason);
        }
        self.pool.put(frame);
    }

    #[inline]
    fn flush(&mut self) {
        let Worker { ports, pool, fib, tally, accounts, taps, last_complaint, now, events, .. } = self;
        // Not as they are queued: what has just been written is slow to be read.
        let leaving = |id, frames: &[Frame]| {
            let Some(form) = form_of(id) else { return };
            for frame in frames {
                let traffic = Traffic { frames: 1, bytes: frame.len() as u64 };
                accounts.of_peer(frame.peer_index).sent(form, traffic);
            }
        };
        ports.flush(pool, leaving, |id, sent, replies, bytes, report: TxReport| {
            let account = accounts.of_port(fib.current(), id);
            if let PortId::Endpoint(_) | PortId::Host = id {
                account.sent(Form::Plain, Traffic { frames: report.sent, bytes });
            }
            tally.sent[sent.index()] += report.sent - replies;
            tally.sent[Sent::NeighborReply.index()] += replies;
            if report.full + report.failed == 0 {
                return;
            }
            for (reason, count) in
                [(DropReason::TxQueueFull, report.full), (DropReason::TxFailed, report.failed)]
            {
                if count > 0 {
                    tally.dropped[reason.index()] += count;
                    account.dropped(reason, count);
                    if taps.is_on() {
                        taps.refused(id, reason, count);
                    }
                }
            }
            let Some(error) = report.error else { return };
            if last_complaint.is_none_or(|last| now.saturating_duration_since(last) >= COMPLAINT_INTERVAL) {
                *last_complaint = Some(*now);
                let _ = events.try_send(Event::SendRefused { id, error });
            }
        });
    }

    /// What was counted so far, and how many slots are free: for tests between turns.
    pub fn inspect(&self) -> (Tally, usize) {
        (self.counters.read(), self.pool.available())
    }
}

/// How frames stand at a port that has peers behind it.
#[inline(always)]
fn form_of(id: PortId) -> Option<Form> {
    match id {
        PortId::Ipip => Some(Form::Ipip),
        PortId::Vxlan(_) => Some(Form::Vxlan),
        PortId::Direct | PortId::Underlay(_) => Some(Form::Plain),
        PortId::Endpoint(_) | PortId::Host | PortId::Errors(_) => None,
    }
}

/// The reason for a frame whose port is not there.
fn absent(id: PortId) -> DropReason {
    match id {
        PortId::Endpoint(_) => DropReason::EndpointGone,
        _ => DropReason::PortUnavailable,
    }
}

/// An endpoint's port id.
impl From<EndpointId> for PortId {
    fn from(id: EndpointId) -> Self {
        PortId::Endpoint(id)
    }
}
