//! From desired state to running state, over and over.
//!
//! The agent owns the threads and is the only one who knows both sides: it loads resources, calculates this
//! node's plan, opens what the plan needs, compiles the FIB and publishes it. What already works is never
//! stopped by a resource that is wrong: the agent says what is wrong and keeps the last good state.

pub mod capture;
mod counts;
mod descriptors;
mod endpoint;
mod host;
mod leftovers;
mod mark;
mod mtu;
mod next_hops;
mod notices;
mod remote;
mod rootless;
mod screen;
mod sole;
pub mod takeover;
mod underlay;
pub mod view;
mod workers;

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, at, never, select};

use crate::dataplane::paths::{Change as PathChange, News};
use crate::dataplane::{Event, PortId};
use crate::datastore::{self, LoadError, Watcher};
use crate::fib::{Attachment, CompileError, EndpointId, Environment, Fib, OuterTtl, Publication};
use crate::io::Port;
use crate::resource::FelixConfiguration;
use crate::rib::{self, EndpointPlan, NodePlan, PlanError};
use crate::sys::limits;
use crate::sys::netlink::{Change, ErrorKind, Netlink, NetlinkError};
use crate::sys::netns::NetnsError;
use crate::sys::tun::TunError;
use crate::wire::MacAddr;

use capture::Captures;
use descriptors::Descriptors;
use endpoint::Attached;
use host::{Guard, HostInterface};
use mark::{Mark, Owner};
use mtu::{Paths, PodMtu};
use next_hops::Follower;
use notices::Notices;
use rootless::Rootless;
use sole::Sole;
use takeover::TakeoverError;
use underlay::{Needs, Underlay, own_prefixes};

pub use counts::Counts;
pub use host::HostError;
pub use leftovers::clean_up;
pub use remote::{Refused, Remote, Request, remote};
pub use underlay::UnderlayError;
use workers::Workers;

/// How the daemon is set up; everything else is in the resources.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of this machine's Node resource.
    pub node: String,
    /// Directory of resources.
    pub resources: PathBuf,
    /// Worker threads.
    pub workers: usize,
    /// How long a worker asks for work at most before it sleeps.
    pub spin: Duration,
    /// Name of the host interface; `None` for a node whose pods have no way to it.
    pub host_interface: Option<String>,
    /// TTL of IPIP outer headers.
    pub outer_ttl: OuterTtl,
    /// Source of ICMP errors; `None` for the node's tunnel address, or its own where it has none.
    pub icmp_source: Option<Ipv4Addr>,
    /// Who cuts IPIP's super-frames.
    pub ipip_offload: IpipOffload,
    /// Settings that go before those of the resources.
    pub felix: FelixConfiguration,
    /// Ask each peer what its path takes.
    pub probe_path_mtu: bool,
    /// What the daemon's own threads never do is forbidden to them; or why it is not.
    pub floor: Result<(), String>,
}

/// How frames leave by IPIP, and who cuts their super-frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpipOffload {
    /// Margay cuts. By AF_XDP where the interface has no queueing discipline, else by a packet socket.
    Auto,
    /// Margay cuts. By a packet socket.
    Off,
    /// The kernel, or the network card, after a BPF program on the underlay interface has put the outer header in front.
    Bpf,
}

/// Why the daemon does not start, or does not take a change.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The resources.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// This node's part of them.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// What the engine cannot do.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The underlay's sockets.
    #[error(transparent)]
    Underlay(#[from] UnderlayError),
    /// The host interface.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Kernel routes and rules.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// What the resources ask for is forbidden here.
    #[error("{0}")]
    Forbidden(String),
    /// Another daemon, or no Unix sockets at all.
    #[error("{}", not_alone(.0))]
    NotAlone(#[source] io::Error),
    /// This process's own network namespace.
    #[error(transparent)]
    Namespace(NetnsError),
    /// The daemon that runs keeps its place.
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
    /// Threads, epoll.
    #[error("the worker threads cannot be started: {0}")]
    Workers(#[source] io::Error),
    /// The last of the worker threads ended by itself.
    #[error("no worker thread is left: see the log")]
    WorkersEnded,
}

impl AgentError {
    /// The same resources may do when the machine has changed.
    fn may_pass(&self) -> bool {
        match self {
            AgentError::Load(error) => error.may_pass(),
            AgentError::Plan(_) | AgentError::Compile(_) | AgentError::Forbidden(_) => false,
            _ => true,
        }
    }
}

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

/// What came of reading the resources again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Reloaded {
    /// They ask for something else than before.
    pub changed: bool,
    /// Routes that there are.
    pub routes: usize,
    /// Endpoints that are attached.
    pub endpoints: usize,
}

/// How often is looked and tried again while something is missing: a namespace may come later than its resource,
/// or the system does not tell of changes.
const RETRY: Duration = Duration::from_secs(1);
/// How often is looked when nothing is missing, for what no notice tells.
const LOOK: Duration = Duration::from_secs(30);

/// A side of the node that is no workload's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Underlay,
    Host,
}

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

/// What was wrong when the resources were read.
#[derive(Debug)]
struct Wrong {
    what: String,
    /// When they are to be read again, as it is not the resources but the machine that may be right by then.
    again: Option<Instant>,
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
        let paths = Paths::ask(&plan, needs.interface.index)?;
        let mtu = PodMtu::of(&plan, &paths);
        let environment = Environment {
            endpoints: vec![None; plan.endpoints.len()],
            peer_mtus: paths.peer_mtus(),
            host_mtu: config.host_interface.is_some().then_some(mtu.bytes),
            outer_ttl: config.outer_ttl,
            icmp_source: config.icmp_source,
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
            None => Some(Guard::new(&needs.interface.name)?),
        };
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

    /// AF_XDP's queue is tried again at the next opportunity; meanwhile frames leave by the packet socket.
    fn miss_queue(&mut self) {
        self.lost.insert(Side::Underlay, "AF_XDP's queue is still the other daemon's".into());
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
        let paths = match Paths::ask(&self.plan, self.underlay.needs().interface.index) {
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

    /// Reads the resources again and makes the running state theirs; logs how that went.
    ///
    /// # Errors
    /// They are wrong, or the machine does not do what they ask for: the last good state stays.
    pub fn reload(&mut self) -> Result<Reloaded, AgentError> {
        // Whoever asks is told, be it what is known.
        self.wrong = None;
        self.read()
    }

    /// As [`Self::reload`]; what is wrong as before is not logged again.
    fn read(&mut self) -> Result<Reloaded, AgentError> {
        self.reloads += 1;
        let began = Instant::now();
        let loaded = load(&self.config, self.rootless.as_ref(), &mut self.told);
        let reloaded = loaded.and_then(|plan| self.apply(plan));
        match &reloaded {
            Ok(Reloaded { changed: false, .. }) => tracing::info!("resources read: nothing to change"),
            Ok(Reloaded { routes, endpoints, .. }) => {
                tracing::info!(routes, endpoints, "resources applied");
            }
            Err(error) => {
                let what = error.to_string();
                if self.wrong.as_ref().is_none_or(|wrong| wrong.what != what) {
                    what.lines().for_each(|line| tracing::error!("{line}"));
                    tracing::error!("resources not applied: the last good state stays");
                }
                // Very many resources, and nothing to be done about it, must not keep a core busy.
                let pause = RETRY.max(began.elapsed() * 20);
                let again = error.may_pass().then(|| Instant::now() + pause);
                self.wrong = Some(Wrong { what, again });
                self.count_descriptors();
            }
        }
        if reloaded.is_ok() {
            (self.read_at, self.wrong) = (Instant::now(), None);
        }
        reloaded
    }

    fn apply(&mut self, plan: NodePlan) -> Result<Reloaded, AgentError> {
        let changed = plan != self.plan;
        if changed {
            // What cannot be begun need not be undone.
            needs(&plan)?;
            let before = std::mem::replace(&mut self.plan, plan);
            if let Err(error) = self.reconcile() {
                self.plan = before;
                self.settle();
                return Err(error);
            }
        }
        Ok(Reloaded { changed, routes: self.plan.routes.len(), endpoints: self.endpoints.len() })
    }

    /// As [`Self::reconcile`], of a plan that was applied before.
    fn settle(&mut self) {
        if let Err(error) = self.reconcile() {
            tracing::error!(%error, "the node is not in the desired state");
        }
    }

    /// Makes the running state that of the plan. Can be repeated at any time.
    fn reconcile(&mut self) -> Result<(), AgentError> {
        let needs = needs(&self.plan)?;
        let paths = Paths::ask(&self.plan, needs.interface.index)?;
        let mtu = PodMtu::of(&self.plan, &paths);
        // Compiled first: what the engine cannot do must not be half done.
        Fib::compile(&self.plan, &self.environment(&paths, mtu.bytes))?;

        if needs != *self.underlay.needs() {
            if self.guard.as_ref().is_some_and(|guard| needs.interface.name != guard.interface()) {
                self.guard = Some(Guard::new(&needs.interface.name)?);
            }
            self.underlay = self.opened(needs.clone())?;
            self.lost.remove(&Side::Underlay);
        }
        match self.host.as_mut().map(|host| host.follow(&self.plan, mtu.bytes)) {
            // What it has to follow it will when it is made again.
            Some(Err(HostError::Netlink(error))) if error.kind == ErrorKind::NoDevice => {
                self.miss(Side::Host, &error.to_string());
            }
            other => other.unwrap_or(Ok(()))?,
        }
        let own = own_prefixes(&self.plan);
        if let Some(guard) = &mut self.guard {
            guard.follow(&own)?;
        }
        self.underlay.follow(own, &next_hops::peers(&self.plan))?;

        self.take_paths(paths, mtu);
        self.detach_old()?;
        self.each_endpoint("the MTU could not be raised", Attached::raise_mtu);
        let new = self.attach_new();
        self.publish()?;
        self.each_endpoint("the MTU could not be lowered", Attached::lower_mtu);
        self.raise(new);
        Ok(())
    }

    /// Tries again what could not be opened or attached. Without success nothing is compiled: a namespace that
    /// never comes must not cost a FIB a second.
    fn retry(&mut self) {
        self.reopen();
        if self.failed.is_empty() {
            return;
        }
        let new = self.attach_new();
        if new.is_empty() {
            return;
        }
        match self.publish() {
            Ok(()) => self.raise(new),
            Err(error) => tracing::error!(%error, "the FIB could not be published"),
        }
    }

    /// Lets workloads send whose routes are published.
    fn raise(&mut self, new: Vec<String>) {
        for name in new {
            let Some(attached) = self.endpoints.get(&name) else { continue };
            match attached.raise() {
                Ok(()) => {
                    self.failed.remove(&name);
                    let workload = &attached.plan.workload;
                    tracing::info!(endpoint = %name, %workload, how = %attached.how, "endpoint attached");
                }
                Err(error) => self.release(&name, &error.to_string()),
            }
        }
    }

    /// Endpoints that the plan no longer has, or has otherwise: first their routes go, then they do.
    fn detach_old(&mut self) -> Result<(), AgentError> {
        let wanted: BTreeMap<&str, &EndpointPlan> =
            self.plan.endpoints.iter().map(|endpoint| (endpoint.name.as_str(), endpoint)).collect();
        let is_old = |attached: &Attached| {
            wanted.get(attached.plan.name.as_str()).is_none_or(|plan| !attached.serves(plan))
        };
        let old: Vec<String> = self
            .endpoints
            .iter()
            .filter(|(_, attached)| is_old(attached))
            .map(|(name, _)| name.clone())
            .collect();
        self.failed.retain(|name, _| wanted.contains_key(name.as_str()));
        if old.is_empty() {
            return Ok(());
        }
        let gone: Vec<Attached> = old.iter().filter_map(|name| self.endpoints.remove(name)).collect();
        self.endpoints_changed = true;
        self.publish()?;
        for attached in gone {
            tracing::info!(endpoint = %attached.plan.name, "endpoint detached");
            attached.detach(&self.workers);
        }
        Ok(())
    }

    /// Endpoints that the plan has and the workers do not; says which could be attached.
    fn attach_new(&mut self) -> Vec<String> {
        let mut new = Vec::new();
        let mut used: BTreeSet<u32> = self.endpoints.values().map(|attached| attached.id.0).collect();
        let mut free = 0;
        for plan in &self.plan.endpoints {
            if self.endpoints.contains_key(&plan.name) {
                continue;
            }
            while used.contains(&free) {
                free += 1;
            }
            match endpoint::attach(EndpointId(free), plan, self.mtu.bytes, self.site()) {
                Ok(attached) => {
                    used.insert(free);
                    self.endpoints.insert(plan.name.clone(), attached);
                    self.endpoints_changed = true;
                    new.push(plan.name.clone());
                }
                Err(error) => {
                    let error = error.to_string();
                    // The same again, every second, is not news.
                    if self.failed.get(&plan.name) != Some(&error) {
                        tracing::warn!(endpoint = %plan.name, workload = %plan.workload, %error, "endpoint not attached, will be tried again");
                    }
                    self.failed.insert(plan.name.clone(), error);
                }
            }
        }
        new
    }

    fn take_paths(&mut self, paths: Paths, mtu: PodMtu) {
        if let Some(warning) = paths.warning.clone()
            && self.told.insert(warning.clone())
        {
            tracing::warn!("{warning}");
        }
        if self.mtu != mtu {
            tracing::info!("MTU of endpoints {mtu}");
        }
        (self.paths, self.mtu) = (paths, mtu);
        for attached in self.endpoints.values_mut() {
            attached.want_mtu(self.mtu.bytes);
        }
    }

    fn each_endpoint(
        &mut self,
        failure: &str,
        act: impl Fn(&mut Attached) -> Result<(), endpoint::AttachError>,
    ) {
        for attached in self.endpoints.values_mut() {
            if let Err(error) = act(attached) {
                tracing::warn!(endpoint = %attached.plan.name, %error, "{failure}");
            }
        }
    }

    fn publish(&mut self) -> Result<(), AgentError> {
        let began = Instant::now();
        let compiled = Fib::compile(&self.plan, &self.environment(&self.paths, self.mtu.bytes));
        self.updates.failed += u64::from(compiled.is_err());
        self.publication.publish(compiled?);
        self.workers.wake();
        self.updates.published += 1;
        self.updates.time += began.elapsed();
        self.captures.follow(self);
        Ok(())
    }

    fn environment(&self, paths: &Paths, mtu: u16) -> Environment {
        let attachment = |plan: &EndpointPlan| {
            let attached = self.endpoints.get(&plan.name)?;
            Some(Attachment { id: attached.id, mtu: attached.mtu() })
        };
        Environment {
            endpoints: self.plan.endpoints.iter().map(attachment).collect(),
            peer_mtus: paths.peer_mtus(),
            host_mtu: self.config.host_interface.is_some().then_some(mtu),
            outer_ttl: self.config.outer_ttl,
            icmp_source: self.config.icmp_source,
        }
    }

    /// Endpoints whose workload has ended, or been replaced, while the resource stays.
    fn release_orphans(&mut self) {
        let links = LazyCell::new(|| {
            let links = Netlink::open().and_then(|mut netlink| netlink.links()).ok()?;
            Some(links.iter().map(|link| link.index.0).collect::<BTreeSet<u32>>())
        });
        // A list that cannot be had tells nothing.
        let is_there = |index| links.as_ref().is_none_or(|links| links.contains(&index));
        let orphans = self.endpoints.iter().filter(|(_, attached)| attached.is_orphan(is_there));
        let names: Vec<String> = orphans.map(|(name, _)| name.clone()).collect();
        names.iter().for_each(|name| self.release(name, "its network namespace or interface is gone"));
    }

    /// Detaches an endpoint that the plan still has; it will be tried again.
    fn release(&mut self, name: &str, reason: &str) {
        let Some(attached) = self.endpoints.remove(name) else { return };
        self.endpoints_changed = true;
        if self.failed.insert(name.to_owned(), reason.to_owned()).as_deref() != Some(reason) {
            tracing::warn!(endpoint = %name, reason, "endpoint detached, will be tried again");
        }
        if let Err(error) = self.publish() {
            tracing::error!(%error, "the FIB could not be published");
        }
        attached.detach(&self.workers);
    }

    fn lost(&mut self, event: Event) {
        match event {
            Event::SendRefused { id, error } => {
                tracing::warn!(port = ?id, %error, "the kernel refuses to send")
            }
            Event::PathChanged(change) => self.tell_path(change),
            Event::Noted { anomaly, peer } => {
                tracing::warn!(%anomaly, %peer, "{}", anomaly.explanation())
            }
            Event::PortLost { id: PortId::Endpoint(id), error } => {
                let lost = self.endpoints.iter().find(|(_, attached)| attached.id == id);
                if let Some(name) = lost.map(|(name, _)| name.clone()) {
                    self.release(&name, &error.to_string());
                }
            }
            Event::PortLost { id: PortId::Host, error } => {
                // The other workers still have it.
                self.workers.detach(PortId::Host);
                self.miss(Side::Host, &error.to_string());
                self.reopen();
            }
            Event::PortLost { id, error } => {
                self.miss(Side::Underlay, &format!("{id:?}: {error}"));
                self.reopen();
            }
        }
    }

    fn tell_path(&self, PathChange { peer, news }: PathChange) {
        let known = self.plan.peers.iter().find(|known| known.address == peer);
        let (node, address) = (known.map_or("?", |known| known.name.as_str()), peer);
        match news {
            News::Mtu(mtu, why) => tracing::info!(node, %address, mtu, %why, "path MTU of a peer"),
            News::MtuExpired => {
                tracing::info!(node, %address, "path MTU of a peer is old: as configured again")
            }
            News::MtuRestored => {
                tracing::info!(node, %address, "path MTU of a peer: probes of the configured size arrive")
            }
            News::Fault(why) => tracing::warn!(node, %address, %why, "the way to a peer is broken"),
            News::FaultOver => tracing::info!(node, %address, "no more errors about the way to a peer"),
        }
    }

    /// Has a side opened again at the next opportunity.
    fn miss(&mut self, side: Side, reason: &str) {
        if side == Side::Underlay {
            self.underlay.forget();
        }
        if self.lost.insert(side, reason.to_owned()).as_deref() != Some(reason) {
            tracing::warn!(?side, reason, "a side of the node is lost, will be opened again");
        }
    }

    /// Opens again what was lost.
    fn reopen(&mut self) {
        for side in self.lost.keys().copied().collect::<Vec<_>>() {
            let opened = match side {
                Side::Host => self.open_host(),
                Side::Underlay => self.open_underlay(),
            };
            match opened {
                Ok(()) => {
                    self.lost.remove(&side);
                    tracing::info!(?side, "opened again");
                }
                Err(error) => self.miss(side, &error.to_string()),
            }
        }
    }

    fn open_host(&mut self) -> Result<(), AgentError> {
        let Some(name) = self.config.host_interface.as_deref() else { return Ok(()) };
        let host = HostInterface::open(name, &self.plan, self.mtu.bytes, self.site())?;
        host.persist();
        self.host = Some(host);
        Ok(())
    }

    fn open_underlay(&mut self) -> Result<(), AgentError> {
        let needs = needs(&self.plan)?;
        if needs != *self.underlay.needs() {
            return self.reconcile();
        }
        self.underlay = self.opened(needs)?;
        Ok(self.underlay.follow(own_prefixes(&self.plan), &next_hops::peers(&self.plan))?)
    }

    /// The underlay anew.
    fn opened(&self, needs: Needs) -> Result<Underlay, AgentError> {
        let before = &self.underlay;
        Ok(Underlay::open(needs, self.site(), before.descriptors(), Some(before))?)
    }
}

/// Tries for a while: what a daemon that was killed had open is closed a little later.
fn while_busy<T>(mut open: impl FnMut() -> Result<T, TunError>) -> Result<T, TunError> {
    const TRIES: u32 = 20;
    const PAUSE: Duration = Duration::from_millis(10);
    for _ in 1..TRIES {
        match open() {
            Err(error) if error.is_busy() => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
    open()
}

fn not_alone(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another margay runs in this network namespace: end it first, or run this one in another namespace".into()
        }
        _ => format!("cannot tell whether another margay runs in this network namespace: {error}"),
    }
}

fn load(
    config: &Config,
    rootless: Option<&Rootless>,
    told: &mut BTreeSet<String>,
) -> Result<NodePlan, AgentError> {
    let mut resources = datastore::load(&config.resources)?;
    resources.felix.push(config.felix.clone());
    for notice in resources.notices.iter().map(ToString::to_string) {
        if told.insert(notice.clone()) {
            tracing::info!("{notice}");
        }
    }
    let plan = rib::plan(&resources, &config.node)?;
    rootless.map_or(Ok(()), |rootless| rootless.check(&plan)).map_err(AgentError::Forbidden)?;
    for warning in &plan.warnings {
        if told.insert(warning.clone()) {
            tracing::warn!("{warning}");
        }
    }
    Ok(plan)
}

fn needs(plan: &NodePlan) -> Result<Needs, AgentError> {
    let link = |name: &str| Netlink::open().and_then(|mut netlink| netlink.link(name)).ok();
    Ok(Needs::of(plan, link)?)
}
