//! From desired state to running state, over and over.
//!
//! The agent owns the threads and is the only one who knows both sides: it loads resources, calculates this
//! node's plan, opens what the plan needs, compiles the FIB and publishes it. What already works is never
//! stopped by a resource that is wrong: the agent says what is wrong and keeps the last good state.

pub mod capture;
mod config;
mod counts;
mod descriptors;
mod endpoint;
mod error;
mod host;
mod ipv6;
mod leftovers;
mod mark;
mod mtu;
mod next_hops;
mod notices;
mod reconcile;
mod reload;
mod remote;
mod rootless;
mod screen;
mod sides;
mod sole;
pub mod takeover;
mod underlay;
pub mod view;
mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, at, never, select};

use crate::dataplane::PortId;
use crate::datastore::Watcher;
use crate::fib::{Environment, Fib, Publication};
use crate::io::Port;
use crate::rib::NodePlan;
use crate::sys::limits;
use crate::sys::netlink::Change;
use crate::wire::MacAddr;

use capture::Captures;
use descriptors::Descriptors;
use endpoint::Attached;
use host::{Guard, HostInterface};
use mark::{Mark, Owner};
use mtu::{Paths, PodMtu};
use next_hops::Follower;
use notices::Notices;
use reconcile::{guarded, needs, tell_absent};
use reload::{Wrong, load};
use rootless::Rootless;
use sides::Side;
use sole::Sole;
use underlay::Underlay;
use workers::Workers;

pub use config::{Config, IpipOffload};
pub use counts::Counts;
pub use error::AgentError;
pub use host::HostError;
pub use leftovers::clean_up;
pub use reload::Reloaded;
pub use remote::{Refused, Remote, Request, remote};
pub use underlay::UnderlayError;

/// What the operator tells the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// End (SIGTERM, SIGINT). What was made stays for the next daemon, so that the workloads keep what they have.
    Stop,
}

/// How a daemon's work ended.
#[derive(Debug)]
pub enum Ending {
    /// It was told to stop.
    Stopped(Counts),
    /// Another daemon has its place.
    HandedOver(Counts),
}

/// How often is looked and tried again while something is missing: a namespace may come later than its resource,
/// or the system does not tell of changes.
const RETRY: Duration = Duration::from_secs(1);
/// How often is looked when nothing is missing, for what no notice tells.
const LOOK: Duration = Duration::from_secs(30);

/// How often the FIB was made anew.
#[derive(Debug, Clone, Copy, Default)]
struct Updates {
    /// Compiled and published.
    published: u64,
    /// Not compiled: the last one stays.
    failed: u64,
    /// What those that were published took.
    time: Duration,
}

/// What an earlier daemon knew and had open.
#[derive(Debug, Default)]
struct Legacy {
    descriptors: Descriptors,
    /// The workloads' MACs, by the endpoints' names.
    macs: BTreeMap<String, MacAddr>,
}

/// What there is to work with when something is opened.
#[derive(Clone, Copy)]
struct Site<'a> {
    config: &'a Config,
    workers: &'a Workers,
    endpoints: &'a BTreeMap<String, Attached>,
    legacy: &'a Legacy,
    rootless: Option<&'a Rootless>,
    owner: Owner,
}

/// A node at work. What it made outlasts it.
pub struct Agent {
    config: Config,
    plan: NodePlan,
    publication: Arc<Publication>,
    // In the order in which they are to be dropped: threads first, then what they used.
    workers: Workers,
    underlay: Underlay,
    host: Option<HostInterface>,
    /// `None` where there may be no rule.
    guard: Option<Guard>,
    /// There is VXLAN only.
    rootless: Option<Rootless>,
    endpoints: BTreeMap<String, Attached>,
    failed: BTreeMap<String, String>,
    /// Sides that must be opened again, with what was last said about it.
    lost: BTreeMap<Side, String>,
    /// Workers that ended by themselves, and why.
    ended: BTreeMap<usize, String>,
    /// The limit of open files, while it leaves no room.
    crowded: Option<u64>,
    notices: Notices,
    /// Endpoints came or went: the notices follow others' namespaces.
    endpoints_changed: bool,
    /// What the underlay carries, and what the pods' interfaces get because of it.
    paths: Paths,
    mtu: PodMtu,
    /// Links or routes have changed since the paths were asked for, and when they may be asked for next.
    paths_outdated: bool,
    paths_patience: Instant,
    /// What the kernel tells of neighbours and routes.
    changes: Receiver<Vec<Change>>,
    /// Notices and warnings that were logged: once is enough.
    told: BTreeSet<String>,
    /// Drops that were logged.
    drops: counts::Log,
    captures: Captures,
    legacy: Legacy,
    owner: Owner,
    /// What others of this process have open that the next daemon is to go on with.
    beside: Descriptors,
    is_handed_over: bool,
    /// How long the service manager waits for a sign of life.
    watchdog: Option<Duration>,
    started: Instant,
    /// Of the FIB.
    updates: Updates,
    /// How often the resources were read.
    reloads: u64,
    /// When the resources were read last and found good; and what was wrong with them since.
    read_at: Instant,
    wrong: Option<Wrong>,
    /// Last, as the next daemon may begin when it is gone.
    sole: Sole,
}

impl Agent {
    /// Loads the resources and starts to forward.
    ///
    /// # Errors
    /// Anything but an endpoint that cannot be attached, which is tried again later.
    pub fn start(config: Config) -> Result<Self, AgentError> {
        let mut agent = Self::prepare(config, Legacy::default())?;
        agent.workers.begin().map_err(AgentError::Workers)?;
        agent.settle_in();
        Ok(agent)
    }

    /// Everything but what only one daemon can do at a time: to receive.
    fn prepare(mut config: Config, legacy: Legacy) -> Result<Self, AgentError> {
        let mut told = BTreeSet::new();
        let rootless = Rootless::find();
        let plan = load(&config, rootless.as_ref(), &mut told)?;
        if rootless.is_some() {
            config.host_interface = None;
        }
        let needs = needs(&plan)?;
        let paths = Paths::ask(&plan, needs.uplinks())?;
        let mtu = PodMtu::of(&plan, &paths);
        let environment = Environment {
            endpoints: vec![None; plan.endpoints.len()],
            peer_mtus: paths.peer_mtus(),
            host_mtu: config.host_interface.is_some().then_some(mtu.bytes),
            outer_ttl: config.outer_ttl,
            icmp_sources: config.icmp_sources.clone(),
        };
        let publication = Publication::new(Fib::compile(&plan, &environment)?);
        let sole = match legacy.descriptors.copies(takeover::SOLE).and_then(|mut proof| proof.pop()) {
            Some(proof) => Sole::inherit(proof),
            None => Sole::claim().map_err(AgentError::NotAlone)?,
        };
        let owner = Owner::here().map_err(AgentError::Namespace)?;
        let workers = Workers::new(config.workers, (config.spin, config.probe_path_mtu), &publication)
            .map_err(AgentError::Workers)?;
        let guard = match rootless {
            Some(_) => None,
            None => Some(Guard::new(guarded(&plan, &needs))?),
        };
        tell_absent(&plan, &needs);
        // Before anything is asked for: what changes afterwards is told.
        let changes = next_hops::listen()?;
        let endpoints = BTreeMap::new();
        let site = Site {
            config: &config,
            workers: &workers,
            endpoints: &endpoints,
            legacy: &legacy,
            rootless: rootless.as_ref(),
            owner,
        };
        let underlay = Underlay::open(needs, site, &legacy.descriptors, None)?;
        let host = config
            .host_interface
            .as_deref()
            .map(|name| HostInterface::open(name, &plan, mtu.bytes, site))
            .transpose()?;
        let notices = Notices::start().map_err(AgentError::Workers)?;
        let mut agent = Agent {
            config,
            plan,
            publication,
            workers,
            underlay,
            host,
            guard,
            rootless,
            endpoints,
            failed: BTreeMap::new(),
            lost: BTreeMap::new(),
            ended: BTreeMap::new(),
            crowded: None,
            notices,
            endpoints_changed: false,
            paths,
            mtu,
            paths_outdated: false,
            paths_patience: Instant::now(),
            changes,
            told,
            drops: counts::Log::new(Instant::now()),
            captures: Captures::new(),
            legacy,
            owner,
            beside: Descriptors::default(),
            is_handed_over: false,
            watchdog: None,
            sole,
            started: Instant::now(),
            updates: Updates::default(),
            reloads: 1,
            read_at: Instant::now(),
            wrong: None,
        };
        agent.reconcile()?;
        Ok(agent)
    }

    /// What is there is complete, as the resources were read without an error: it lasts, and what earlier daemons have
    /// left beside it goes.
    fn settle_in(&mut self) {
        self.legacy = Legacy::default();
        self.guard.iter_mut().for_each(Guard::persist);
        self.host.iter().for_each(HostInterface::persist);
        match leftovers::remove(self.owner, |found| self.wants(found)) {
            Ok(removed) => {
                removed.iter().for_each(|what| tracing::info!("left by an earlier daemon, removed: {what}"))
            }
            Err(error) => tracing::warn!(%error, "what earlier daemons left could not be removed"),
        }
    }

    /// Whether something that carries margay's mark is in use, or may come to be.
    fn wants(&self, found: leftovers::Found<'_>) -> bool {
        let is_host =
            found.netns.is_none() && self.config.host_interface.as_deref() == Some(&found.link.name);
        let waits = self.failed.keys().any(|name| match found.mark {
            Mark::Made { purpose, .. } => purpose == name,
            Mark::Serves { .. } => {
                let mut plans = self.plan.endpoints.iter().filter(|plan| plan.name == *name);
                plans.any(|plan| plan.interface == found.link.name)
            }
        });
        is_host || waits || self.endpoints.values().any(|attached| found.is(attached))
    }

    fn site(&self) -> Site<'_> {
        Site {
            config: &self.config,
            workers: &self.workers,
            endpoints: &self.endpoints,
            legacy: &self.legacy,
            rootless: self.rootless.as_ref(),
            owner: self.owner,
        }
    }

    /// Endpoints that are attached.
    pub fn endpoints(&self) -> usize {
        self.endpoints.len()
    }

    /// Whether every worker turns; the caller has shown that the agent answers.
    pub fn is_alive(&mut self) -> bool {
        self.workers.turn()
    }

    /// Gives a worker a port that no resource asks for: so a test brings one in that fails.
    #[doc(hidden)]
    pub fn lend_port(&self, worker: usize, id: PortId, port: Box<dyn Port>) {
        self.workers.attach(worker, id, port, true, None);
    }

    /// One screen: what was found, what is used, and why.
    pub fn screen(&self) -> String {
        screen::render(self)
    }

    /// Follows changes of the resources until told to stop, or until another daemon has taken over, and answers requests; says at the
    /// end what was counted.
    ///
    /// # Errors
    /// [`AgentError::WorkersEnded`].
    pub fn run(
        mut self,
        watcher: &Watcher,
        signals: &Receiver<Signal>,
        requests: &Receiver<Request>,
    ) -> Result<Ending, AgentError> {
        let (events, ended) = (self.workers.events().clone(), self.workers.ended().clone());
        let notices = self.notices.told().clone();
        let changes = self.changes.clone();
        let mut requests = requests.clone();
        let mut due = Instant::now();
        while !self.is_handed_over {
            self.follow_namespaces();
            let pause = if self.is_whole() { LOOK } else { RETRY };
            due = due.min(Instant::now() + pause);
            let (uses, again) = match &self.underlay.next_hops {
                Ok(next_hops) => (next_hops.uses().clone(), next_hops.again()),
                Err(_) => (never(), never()),
            };
            let paths = if self.paths_outdated { at(self.paths_patience) } else { never() };
            select! {
                recv(signals) -> signal => match signal {
                    Ok(Signal::Stop) | Err(_) => return Ok(Ending::Stopped(counts::read(&self))),
                },
                // What is wrong is logged.
                recv(watcher.changes()) -> _ => drop(self.reload()),
                recv(requests) -> request => match request {
                    Ok(Request(answer)) => answer(&mut self),
                    Err(_) => requests = never(),
                },
                recv(events) -> event => event.into_iter().for_each(|event| self.lost(event)),
                recv(ended) -> index => index.map_or(Ok(()), |index| self.bury(index))?,
                recv(notices) -> _ => self.look(),
                recv(changes) -> change => {
                    let changes: Vec<Change> =
                        change.into_iter().chain(changes.try_iter()).flatten().collect();
                    self.paths_outdated |=
                        changes.iter().any(|change| matches!(change, Change::Other | Change::Missed));
                    self.underlay.follow_next_hops(|next_hops| next_hops.changed(changes.into_iter()));
                    self.follow_paths();
                }
                recv(paths) -> _ => self.follow_paths(),
                recv(uses) -> peer => {
                    let peers = peer.into_iter().chain(uses.try_iter());
                    self.underlay.follow_next_hops(|next_hops| peers.for_each(|peer| next_hops.used(peer)));
                }
                recv(again) -> _ => self.underlay.follow_next_hops(Follower::ask_again),
                recv(at(due)) -> _ => {
                    due = Instant::now() + LOOK;
                    self.paths_outdated = true;
                    self.look();
                    self.follow_paths();
                    self.retry();
                    counts::log(&mut self, Instant::now());
                }
            }
        }
        Ok(Ending::HandedOver(counts::read(&self)))
    }

    /// Whether nothing has to be tried or looked at again and again.
    fn is_whole(&self) -> bool {
        self.failed.is_empty()
            && self.lost.is_empty()
            && self.crowded.is_none()
            && self.wrong.as_ref().is_none_or(|wrong| wrong.again.is_none())
            && self.notices.is_complete()
    }

    /// A worker has ended by itself. What it received is not forwarded until the daemon is started again; the others go on.
    ///
    /// # Errors
    /// There are no others.
    fn bury(&mut self, index: usize) -> Result<(), AgentError> {
        let why = self.workers.bury(index);
        tracing::error!(worker = index, why, "a worker ended, the others go on: start the daemon again");
        self.ended.insert(index, why);
        if self.ended.len() < self.workers.count() { Ok(()) } else { Err(AgentError::WorkersEnded) }
    }

    /// What only a new start of the daemon can mend.
    pub fn faults(&self) -> Vec<String> {
        let ended = self.ended.iter();
        ended
            .map(|(index, why)| {
                format!("worker {index} has ended, what it received is lost until the daemon is started again: {why}")
            })
            .collect()
    }

    /// Finds out whether descriptors are left.
    fn count_descriptors(&mut self) {
        let before = std::mem::replace(&mut self.crowded, limits::crowded());
        match (before, self.crowded) {
            (None, Some(limit)) => {
                tracing::warn!(limit, "too many open files: what is open goes on, {}", limits::HOW_TO_RAISE);
            }
            (Some(_), None) => tracing::info!("files can be opened again"),
            _ => {}
        }
    }

    /// Finds out what a notice may be about.
    fn look(&mut self) {
        self.release_orphans();
        self.each_endpoint("IPv6 could not be tried again", Attached::retry_ipv6);
        let needs = needs(&self.plan);
        self.count_descriptors();
        match needs {
            // Whoever cannot open a socket finds nothing, be it there or not.
            _ if self.crowded.is_some() => {}
            Ok(needs) if needs != *self.underlay.needs() => {
                if let Err(error) = self.reconcile() {
                    self.miss(Side::Underlay, &error.to_string());
                }
            }
            Ok(_) => {}
            // The node's address or its interface is gone, and the packet sockets with it. There is nothing to do but
            // wait, and to open them again even if everything is then as it was.
            Err(error) => self.miss(Side::Underlay, &error.to_string()),
        }
        let is_due = |wrong: &Wrong| wrong.again.is_some_and(|again| Instant::now() >= again);
        if self.crowded.is_none() && self.wrong.as_ref().is_some_and(is_due) {
            // What is wrong is logged.
            let _ = self.read();
        }
    }

    /// Takes in what may have changed of the MTUs of links and routes. Routes that never rest do not keep the agent from
    /// resting.
    fn follow_paths(&mut self) {
        if !self.paths_outdated || Instant::now() < self.paths_patience {
            return;
        }
        self.paths_outdated = false;
        self.paths_patience = Instant::now() + next_hops::PATIENCE;
        let paths = match Paths::ask(&self.plan, self.underlay.needs().uplinks()) {
            Ok(paths) => paths,
            // The interface is gone: that is found elsewhere, and then everything is asked for again.
            Err(error) => return tracing::debug!(%error, "the underlay's paths cannot be asked for"),
        };
        let mut is_other = paths != self.paths;
        for attached in self.endpoints.values_mut() {
            is_other |= attached.find_mtu();
        }
        if is_other {
            self.settle();
        }
    }

    /// Has the ways told by which the workloads' namespaces are found.
    fn follow_namespaces(&mut self) {
        while std::mem::take(&mut self.endpoints_changed) {
            self.notices.follow(self.endpoints.values().filter_map(Attached::path));
            // What happened before they were followed was not told.
            self.release_orphans();
        }
    }
}
