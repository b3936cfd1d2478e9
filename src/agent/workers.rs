//! The worker threads, and how the agent talks to them.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use mio::Waker;

use crate::buf::{Pool, SlotSize};
use crate::dataplane::specimens::Specimen;
use crate::dataplane::{
    Balance, Command, Counters, Event, Neighbor, Party, Paths, PortId, Setup, Tally, Worker,
};
use crate::fib::Publication;
use crate::io::Port;
use crate::slowpath::probe::Prober;
use crate::sys::privileges;
use crate::sys::sandbox::{self, Confinement};
use crate::verdict::DropReason;

/// Slots of a worker's pool: several batches, and what the slow path makes of one. A slot costs memory only
/// once it is used, and the first ones are used most.
const SLOTS: usize = 512;
/// The worker that keeps the time of what all share.
pub(super) const TIMEKEEPER: usize = 0;
/// Time to open what probes leave by.
const BEFORE_PROBES: Duration = Duration::from_secs(1);
/// How long a worker may take to close a port: far more than a turn.
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// All workers, and their threads while they run.
pub(super) struct Workers {
    workers: Vec<Hand>,
    /// What confines them: the same for each.
    confinement: Option<Confinement>,
    events: Receiver<Event>,
    end: Sender<usize>,
    ended: Receiver<usize>,
    paths: Arc<Paths>,
}

struct Hand {
    commands: Sender<Command>,
    waker: Arc<Waker>,
    counters: Arc<Counters>,
    state: State,
}

enum State {
    /// Commands and frames wait.
    Resting(Box<Worker>),
    Running(JoinHandle<(Box<Worker>, io::Result<()>)>),
    /// Its thread has ended by itself.
    Gone,
}

/// Tells which worker's thread it was that owned it and ended, be it by a panic.
struct Tell(Option<Sender<usize>>, usize);

impl Tell {
    /// Does not tell of an end that was asked for.
    fn unless(mut self, ended: &io::Result<()>) {
        if ended.is_ok() {
            self.0 = None;
        }
    }
}

impl Drop for Tell {
    fn drop(&mut self) {
        // There is room for each.
        let _ = self.0.take().map(|end| end.try_send(self.1));
    }
}

/// A worker's thread: it reads what strangers send, and opens nothing, as the ports come to it open.
fn run(worker: &mut Worker, confine: Sender<Confinement>) -> io::Result<()> {
    privileges::keep_none().map_err(io::Error::other)?;
    // There is room for each, and who waits for all waits until the last sender is gone.
    let _ = confine.try_send(sandbox::confine_worker());
    drop(confine);
    worker.run()
}

impl Workers {
    /// `count` workers, which ask for work during at most `spin` before they sleep, and with `probing` each peer
    /// what its path takes. They rest until [`Self::begin`]: what they are told until then they take up at once.
    ///
    /// # Errors
    /// The system gives no epoll instance or eventfd.
    pub(super) fn new(
        count: usize,
        (spin, probing): (Duration, bool),
        publication: &Arc<Publication>,
    ) -> io::Result<Self> {
        let (tell, events) = bounded(1024);
        let (end, ended) = bounded(count);
        let mut workers = Vec::with_capacity(count);
        let paths = Arc::new(Paths::default());
        let prober = probing.then(|| Arc::new(Prober::new(Instant::now() + BEFORE_PROBES)));
        for index in 0..count {
            let (sender, commands) = unbounded();
            let counters = Counters::new();
            let worker = Worker::new(Setup {
                index,
                workers: count,
                pool: Pool::new(SLOTS, SlotSize::SuperFrame),
                fib: publication.reader(),
                commands,
                events: tell.clone(),
                counters: Arc::clone(&counters),
            })?
            .spinning(spin)
            .sharing(Arc::clone(&paths), prober.clone(), index == TIMEKEEPER);
            let waker = worker.waker();
            workers.push(Hand { commands: sender, waker, counters, state: State::Resting(Box::new(worker)) });
        }
        Ok(Workers { workers, confinement: None, events, end, ended, paths })
    }

    /// Starts a thread for each worker that rests.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        let (confine, confined) = bounded(self.workers.len());
        for (index, hand) in self.workers.iter_mut().enumerate() {
            let mut worker = match std::mem::replace(&mut hand.state, State::Gone) {
                State::Resting(worker) => worker,
                other => {
                    hand.state = other;
                    continue;
                }
            };
            let end = Tell(Some(self.end.clone()), index);
            let confine = confine.clone();
            let thread = std::thread::Builder::new().name(format!("margay-{index}")).spawn(move || {
                let ended = run(&mut worker, confine);
                end.unless(&ended);
                (worker, ended)
            })?;
            hand.state = State::Running(thread);
        }
        drop(confine);
        // One that has ended already is found out by `ended`.
        self.confinement = confined.iter().last().or(self.confinement.take());
        Ok(())
    }

    /// Has every worker rest, after the turn that it is in: whatever it took in has gone out. What arrives waits in the
    /// kernel's queues.
    pub(super) fn rest(&mut self) {
        (0..self.workers.len()).for_each(|index| self.tell(index, Command::Stop));
        for hand in &mut self.workers {
            hand.state = match std::mem::replace(&mut hand.state, State::Gone) {
                State::Running(thread) => match thread.join() {
                    Ok((worker, ended)) => {
                        if let Err(error) = ended {
                            tracing::error!(%error, "a worker ended");
                        }
                        State::Resting(worker)
                    }
                    Err(_) => State::Gone,
                },
                other => other,
            };
        }
    }

    /// What confines each worker; `None` when they have ended.
    pub(super) fn confinement(&self) -> Option<&Confinement> {
        self.confinement.as_ref()
    }

    /// How many.
    pub(super) fn count(&self) -> usize {
        self.workers.len()
    }

    /// What workers cannot deal with themselves.
    pub(super) fn events(&self) -> &Receiver<Event> {
        &self.events
    }

    /// Gives worker `index` a port.
    pub(super) fn attach(
        &self,
        index: usize,
        id: PortId,
        port: Box<dyn Port>,
        receives: bool,
        neighbor: Option<Arc<Neighbor>>,
    ) {
        self.tell(index, Command::Attach { id, port, receives, neighbor });
    }

    /// Has every worker close a port, and waits until they did.
    pub(super) fn detach(&self, id: PortId) {
        let (done, closed) = bounded::<()>(0);
        for index in 0..self.workers.len() {
            self.tell(index, Command::Detach { id, done: done.clone() });
        }
        drop(done);
        if !self.workers.iter().any(|hand| matches!(hand.state, State::Running(_))) {
            return;
        }
        // Nothing is ever sent: the channel closes when the last worker has dropped its end.
        let _ = closed.recv_timeout(CLOSE_TIME);
    }

    /// Has every worker make a turn; false when one does not.
    pub(super) fn turn(&self) -> bool {
        self.turning().recv_timeout(CLOSE_TIME) == Err(RecvTimeoutError::Disconnected)
            && self
                .workers
                .iter()
                .all(|hand| matches!(&hand.state, State::Running(thread) if !thread.is_finished()))
    }

    /// What closes when every worker has done what it was told until now.
    pub(super) fn turning(&self) -> Receiver<()> {
        let (done, turned) = bounded(0);
        self.tell_all(|| Command::Answer { done: done.clone() });
        turned
    }

    /// Ends every worker's wait, so that it takes up a FIB that was published.
    pub(super) fn wake(&self) {
        for worker in &self.workers {
            let _ = worker.waker.wake();
        }
    }

    /// Tells every worker the same.
    pub(super) fn tell_all(&self, command: impl Fn() -> Command) {
        (0..self.workers.len()).for_each(|index| self.tell(index, command()));
    }

    /// What ends the workers' waits, for who may outlive them.
    pub(super) fn wakers(&self) -> Vec<Arc<Waker>> {
        self.workers.iter().map(|worker| Arc::clone(&worker.waker)).collect()
    }

    /// The last frames that were dropped for `reason`, the oldest first.
    pub(super) fn specimens(&self, reason: DropReason) -> Vec<Specimen> {
        let mut all: Vec<Specimen> = Vec::new();
        for worker in &self.workers {
            all.extend(worker.counters.specimens().of(reason));
        }
        all.sort_by_key(|specimen| specimen.time);
        all
    }

    /// All workers' counts.
    pub(super) fn tally(&self) -> Tally {
        let mut total = Tally::default();
        self.workers.iter().for_each(|worker| total += &worker.counters.read());
        total
    }

    /// Of each: slots of its pool, and the fewest that were free so far.
    pub(super) fn pools(&self) -> Vec<[u64; 2]> {
        let of = |worker: &Hand| [SLOTS as u64, worker.counters.fewest_free().unwrap_or(SLOTS as u64)];
        self.workers.iter().map(of).collect()
    }

    /// What of that was dropped and punted, by whom it is counted with.
    pub(super) fn by_party(&self) -> BTreeMap<Party, Balance> {
        let mut total: BTreeMap<Party, Balance> = BTreeMap::new();
        for (party, balance) in self.workers.iter().flat_map(|worker| worker.counters.by_party()) {
            *total.entry(party).or_default() += &balance;
        }
        total
    }

    /// What is known of the paths to peers.
    pub(super) fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Tells of a worker that ended by itself: that is a fault. The others go on.
    pub(super) fn ended(&self) -> &Receiver<usize> {
        &self.ended
    }

    /// Closes the ports of worker `index`, which has told of its end; says why it came.
    pub(super) fn bury(&mut self, index: usize) -> String {
        let hand = self.workers.get_mut(index).map(|hand| &mut hand.state);
        match hand.map(|state| std::mem::replace(state, State::Gone)) {
            Some(State::Running(thread)) => match thread.join() {
                Err(panic) => format!("it panicked: {}", message(&*panic)),
                Ok((_, Err(error))) => error.to_string(),
                Ok((_, Ok(()))) => "nobody told it to".into(),
            },
            _ => "its thread was not there".into(),
        }
    }

    pub(super) fn tell(&self, index: usize, command: Command) {
        let Some(worker) = self.workers.get(index) else { return };
        // A worker that ended is found out by `ended`.
        let _ = worker.commands.send(command);
        let _ = worker.waker.wake();
    }
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it did not say why")
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.rest();
    }
}
