//! What is known of the way to each peer beyond what is configured: the soft state of RFC 2003 5, shared by the
//! workers.
//!
//! | known of a peer | begins | ends |
//! |---|---|---|
//! | path MTU | a router said that it is smaller ([`Paths::told`]), or probes found out ([`Paths::probed`]) | after [`MTU_LIFETIME`], or when probes found more |
//! | fault | an ICMP error said so ([`Paths::failed`]) | [`FAULT_LIFETIME`] after the last one |
//!
//! What a router says only ever makes a path MTU smaller (RFC 1191 3); more is tried when what was learned is old. The
//! packets' way reads nothing here: what the path takes stands in the tunnel itself ([`Tunnel::fit`]), put there when it
//! changes and whenever a worker takes up a new FIB.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::deadline::Deadline;
use crate::fib::{Fib, Tunnel};

/// How long a path MTU is kept: then more is tried (RFC 1191 6.3).
pub const MTU_LIFETIME: Duration = Duration::from_secs(600);
/// How long a peer is held for faulty after the last error.
pub const FAULT_LIFETIME: Duration = Duration::from_secs(60);

/// Who says what a path takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// A router, by ICMP.
    Told,
    /// Probes: these arrive, longer ones do not.
    Probed,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Evidence::Told => "a router on the way said so (ICMP fragmentation needed)",
            Evidence::Probed => "probes of this size arrive, longer ones do not",
        })
    }
}

/// What an ICMP error says of the way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No route, or a filter, on the way (3/0 and alike).
    NetUnreachable,
    /// The last router does not find the peer (3/1 and alike).
    HostUnreachable,
    /// The peer does not take IPIP (3/2).
    ProtocolUnreachable,
    /// The peer does not listen for VXLAN (3/3).
    PortUnreachable,
    /// A loop, or a way longer than the outer TTL (11/0).
    TimeExceeded,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::NetUnreachable => "net unreachable",
            Fault::HostUnreachable => "host unreachable",
            Fault::ProtocolUnreachable => "protocol unreachable: the peer does not take IPIP",
            Fault::PortUnreachable => "port unreachable: the peer does not listen for VXLAN",
            Fault::TimeExceeded => "time exceeded: a loop, or a way longer than the outer TTL",
        })
    }
}

/// What is known of the way to one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Path {
    /// Greatest outer packet in bytes, who said so, and until when it holds.
    pub mtu: Option<(u16, Evidence, Instant)>,
    /// What the last error said, and until when it holds.
    pub fault: Option<(Fault, Instant)>,
}

/// What became known, or is known no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// The path takes outer packets of so many bytes.
    Mtu(u16, Evidence),
    /// The path takes what is configured, as far as is known: what was learned is old.
    MtuExpired,
    /// The path takes what is configured: a probe of that size arrived.
    MtuRestored,
    /// The way to the peer is broken.
    Fault(Fault),
    /// No error has come for [`FAULT_LIFETIME`].
    FaultOver,
}

/// A change of what is known of the way to a peer: each is told once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The peer's underlay address.
    pub peer: IpAddr,
    /// What it is.
    pub news: News,
}

/// What is known of all peers; no more of them than the FIB has.
#[derive(Debug)]
pub struct Paths {
    due: Deadline,
    known: Mutex<BTreeMap<IpAddr, Path>>,
}

impl Default for Paths {
    fn default() -> Self {
        Paths { due: Deadline::never(Instant::now()), known: Mutex::default() }
    }
}

impl Paths {
    /// A router told that the path of `tunnel`, one of `fib`, takes no more than `mtu`.
    pub fn told(&self, fib: &Fib, tunnel: &Tunnel, mtu: u16, now: Instant) -> Option<Change> {
        let mut known = self.lock();
        let path = known.entry(tunnel.remote).or_default();
        if path.mtu.is_some_and(|(known, ..)| known <= mtu) {
            return None;
        }
        path.mtu = Some((mtu, Evidence::Told, now + MTU_LIFETIME));
        fit(fib, tunnel.remote, Some(mtu));
        self.plan(&known);
        Some(Change { peer: tunnel.remote, news: News::Mtu(mtu, Evidence::Told) })
    }

    /// Probes found what the path of `tunnel`, one of `fib`, takes; `None` when that is what is configured.
    pub fn probed(&self, fib: &Fib, tunnel: &Tunnel, mtu: Option<u16>, now: Instant) -> Option<Change> {
        let mut known = self.lock();
        let path = known.entry(tunnel.remote).or_default();
        let before = path.mtu.map(|(mtu, ..)| mtu);
        path.mtu = mtu.map(|mtu| (mtu, Evidence::Probed, now + MTU_LIFETIME));
        fit(fib, tunnel.remote, mtu);
        self.tidy(known);
        let news = mtu.map_or(News::MtuRestored, |mtu| News::Mtu(mtu, Evidence::Probed));
        (mtu != before).then_some(Change { peer: tunnel.remote, news })
    }

    /// An error said that nothing gets through `tunnel`.
    pub fn failed(&self, tunnel: &Tunnel, fault: Fault, now: Instant) -> Option<Change> {
        let mut known = self.lock();
        let path = known.entry(tunnel.remote).or_default();
        // Another one of the same way is no news: whoever forges errors must not fill the log.
        let is_new = path.fault.is_none();
        path.fault = Some((fault, now + FAULT_LIFETIME));
        self.plan(&known);
        is_new.then_some(Change { peer: tunnel.remote, news: News::Fault(fault) })
    }

    /// Forgets what is old.
    pub fn tick(&self, fib: &Fib, now: Instant, changes: &mut Vec<Change>) {
        let mut known = self.lock();
        for (peer, path) in known.iter_mut() {
            if path.mtu.is_some_and(|(.., until)| until <= now) {
                path.mtu = None;
                fit(fib, *peer, None);
                changes.push(Change { peer: *peer, news: News::MtuExpired });
            }
            if path.fault.is_some_and(|(_, until)| until <= now) {
                path.fault = None;
                changes.push(Change { peer: *peer, news: News::FaultOver });
            }
        }
        self.tidy(known);
    }

    /// When [`Self::tick`] is due; `None` when nothing is known that could become old.
    #[inline]
    pub fn deadline(&self) -> Option<Instant> {
        self.due.get()
    }

    /// Fits the tunnels of a new FIB, and forgets who is no peer any more.
    pub fn take_up(&self, fib: &Fib) {
        let mut known = self.lock();
        if known.is_empty() {
            return;
        }
        let mut peers = BTreeSet::new();
        for (_, tunnel) in fib.tunnels() {
            peers.insert(tunnel.remote);
            tunnel.fit(known.get(&tunnel.remote).and_then(|path| path.mtu).map(|(mtu, ..)| mtu));
        }
        known.retain(|peer, _| peers.contains(peer));
        self.plan(&known);
    }

    /// Takes in what another daemon knew: the MTU of each path, and until when it holds.
    pub fn inherit(&self, fib: &Fib, mtus: impl IntoIterator<Item = (IpAddr, (u16, Evidence, Instant))>) {
        let paths = mtus.into_iter().map(|(peer, mtu)| (peer, Path { mtu: Some(mtu), fault: None }));
        self.lock().extend(paths);
        self.take_up(fib);
    }

    /// What is known, by underlay address: for people.
    pub fn snapshot(&self) -> BTreeMap<IpAddr, Path> {
        self.lock().clone()
    }

    fn tidy(&self, mut known: MutexGuard<'_, BTreeMap<IpAddr, Path>>) {
        known.retain(|_, path| *path != Path::default());
        self.plan(&known);
    }

    fn plan(&self, known: &BTreeMap<IpAddr, Path>) {
        let of = |path: &Path| {
            let (mtu, fault) = (path.mtu.map(|(.., until)| until), path.fault.map(|(_, until)| until));
            mtu.into_iter().chain(fault).min()
        };
        self.due.set(known.values().filter_map(of).min());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, Path>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Under the lock, so that of two workers the later one has the last word.
fn fit(fib: &Fib, peer: IpAddr, mtu: Option<u16>) {
    fib.tunnels().filter(|(_, tunnel)| tunnel.remote == peer).for_each(|(_, tunnel)| tunnel.fit(mtu));
}
