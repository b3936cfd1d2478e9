//! With whom frames are counted that did not simply pass: an account for each endpoint and each peer.
//!
//! A worker has accounts of its own, each with one writer, readable by anyone. They are opened with an endpoint's
//! port and with the FIB that brings a peer, so memory is bounded by what is configured, and no frame allocates.
//! All strangers share one.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::packet;
use super::{Counters, Origin, PortId};
use crate::buf::{Frame, Pool};
use crate::fib::{Action, EndpointId, Fib};
use crate::verdict::{DropReason, PuntReason};
use crate::wire::ethernet::Ethernet;

/// With whom a frame is counted: who handed it in, or, once it is at a port to be sent, who does not take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    /// A workload of this node.
    Endpoint(EndpointId),
    /// A peer, by its underlay address.
    Peer(IpAddr),
    /// The underlay: who is no peer, and this node's sockets on it.
    Underlay,
    /// This node's kernel.
    Host,
    /// All endpoints and peers that are gone.
    Gone,
}

impl From<Origin> for Party {
    #[inline]
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::Workload(id) => Party::Endpoint(id),
            Origin::Peer(address) => Party::Peer(address),
            Origin::Underlay => Party::Underlay,
            Origin::Host => Party::Host,
        }
    }
}

/// How frames stand at an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Form {
    /// As they are: at an endpoint, the host interface, or to a peer as next hop.
    Plain,
    /// With an outer IPv4 header.
    Ipip,
    /// With VXLAN and inner Ethernet headers.
    Vxlan,
}

impl Form {
    /// Every one, in the order of their indexes.
    pub const ALL: [Form; 3] = [Form::Plain, Form::Ipip, Form::Vxlan];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Form::Plain => "plain",
            Form::Ipip => "ipip",
            Form::Vxlan => "vxlan",
        }
    }
}

/// How much passed. A super-frame is one frame, as the kernel's interfaces count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Frames.
    pub frames: u64,
    /// Bytes of them, as they stand at the edge.
    pub bytes: u64,
}

impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Traffic) {
        self.frames += other.frames;
        self.bytes += other.bytes;
    }
}

/// What an account says: plain numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balance {
    /// What it handed in, by form: of a peer, what is right.
    pub received: [Traffic; Form::ALL.len()],
    /// What was sent to it, by form: to a peer, what was handed to the socket.
    pub sent: [Traffic; Form::ALL.len()],
    /// Frames that left the fast path, by reason.
    pub punted: [u64; PuntReason::COUNT],
    /// Frames dropped, by reason.
    pub dropped: [u64; DropReason::COUNT],
}

impl Default for Balance {
    fn default() -> Self {
        let (received, sent) = Default::default();
        Balance { received, sent, punted: [0; PuntReason::COUNT], dropped: [0; DropReason::COUNT] }
    }
}

impl std::ops::AddAssign<&Balance> for Balance {
    fn add_assign(&mut self, other: &Balance) {
        let add = |to: &mut [u64], more: &[u64]| to.iter_mut().zip(more).for_each(|(to, more)| *to += more);
        add(&mut self.punted, &other.punted);
        add(&mut self.dropped, &other.dropped);
        let add = |to: &mut [Traffic], more: &[Traffic]| {
            to.iter_mut().zip(more).for_each(|(to, more)| *to += *more)
        };
        add(&mut self.received, &other.received);
        add(&mut self.sent, &other.sent);
    }
}

/// Traffic that others read.
#[derive(Debug, Default)]
struct Flowing {
    frames: AtomicU64,
    bytes: AtomicU64,
}

impl Flowing {
    #[inline]
    fn add(&self, traffic: Traffic) {
        add(&self.frames, traffic.frames);
        add(&self.bytes, traffic.bytes);
    }

    fn read(&self) -> Traffic {
        Traffic { frames: self.frames.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }
}

/// One party's counts in one worker.
#[derive(Debug)]
pub(super) struct Account {
    received: [Flowing; Form::ALL.len()],
    sent: [Flowing; Form::ALL.len()],
    punted: [AtomicU64; PuntReason::COUNT],
    dropped: [AtomicU64; DropReason::COUNT],
}

impl Default for Account {
    fn default() -> Self {
        Account {
            received: Default::default(),
            sent: Default::default(),
            punted: [const { AtomicU64::new(0) }; PuntReason::COUNT],
            dropped: [const { AtomicU64::new(0) }; DropReason::COUNT],
        }
    }
}

/// Of its one writer: a load and a store suffice.
#[inline]
fn add(cell: &AtomicU64, count: u64) {
    cell.store(cell.load(Ordering::Relaxed) + count, Ordering::Relaxed);
}

impl Account {
    #[inline]
    pub(super) fn received(&self, form: Form, traffic: Traffic) {
        self.received[form as usize].add(traffic);
    }

    #[inline]
    pub(super) fn sent(&self, form: Form, traffic: Traffic) {
        self.sent[form as usize].add(traffic);
    }

    #[inline]
    pub(super) fn punted(&self, reason: PuntReason) {
        add(&self.punted[reason.index()], 1);
    }

    #[inline]
    pub(super) fn dropped(&self, reason: DropReason, count: u64) {
        add(&self.dropped[reason.index()], count);
    }

    pub(super) fn read(&self) -> Balance {
        let mut balance = Balance::default();
        let read = |to: &mut [u64], cells: &[AtomicU64]| {
            to.iter_mut().zip(cells).for_each(|(to, cell)| *to = cell.load(Ordering::Relaxed));
        };
        read(&mut balance.punted, &self.punted);
        read(&mut balance.dropped, &self.dropped);
        let read = |to: &mut [Traffic], cells: &[Flowing]| {
            to.iter_mut().zip(cells).for_each(|(to, cell)| *to = cell.read());
        };
        read(&mut balance.received, &self.received);
        read(&mut balance.sent, &self.sent);
        balance
    }

    /// Takes over what another account of the same writer says.
    fn inherit(&self, other: &Account) {
        let Balance { received, sent, punted, dropped } = other.read();
        self.received.iter().zip(received).for_each(|(cell, traffic)| cell.add(traffic));
        self.sent.iter().zip(sent).for_each(|(cell, traffic)| cell.add(traffic));
        self.punted.iter().zip(punted).for_each(|(cell, count)| add(cell, count));
        self.dropped.iter().zip(dropped).for_each(|(cell, count)| add(cell, count));
    }
}

/// What others can read of a worker's accounts.
pub(super) type Ledger = BTreeMap<Party, Arc<Account>>;

/// A worker's accounts.
pub(super) struct Accounts {
    endpoints: Vec<Option<Arc<Account>>>,
    /// In the order of the FIB's peers, whose addresses stand beside.
    peers: Vec<Arc<Account>>,
    addresses: Vec<IpAddr>,
    underlay: Arc<Account>,
    host: Arc<Account>,
    gone: Arc<Account>,
    counters: Arc<Counters>,
}

impl Accounts {
    /// Opens those that are always there.
    pub(super) fn new(counters: &Arc<Counters>) -> Self {
        let [underlay, host, gone] = [Party::Underlay, Party::Host, Party::Gone].map(|party| {
            let account = Arc::new(Account::default());
            counters.ledger().insert(party, Arc::clone(&account));
            account
        });
        let counters = Arc::clone(counters);
        let (endpoints, peers, addresses) = Default::default();
        Accounts { endpoints, peers, addresses, underlay, host, gone, counters }
    }

    /// Opens an endpoint's.
    pub(super) fn open(&mut self, id: EndpointId) {
        let index = id.0 as usize;
        if self.endpoints.len() <= index {
            self.endpoints.resize(index + 1, None);
        }
        let account = Arc::new(Account::default());
        self.counters.ledger().insert(Party::Endpoint(id), Arc::clone(&account));
        self.endpoints[index] = Some(account);
    }

    /// Closes an endpoint's: the next one of this id is another.
    pub(super) fn close(&mut self, id: EndpointId) {
        let Some(account) = self.endpoints.get_mut(id.0 as usize).and_then(Option::take) else { return };
        let mut ledger = self.counters.ledger();
        self.gone.inherit(&account);
        ledger.remove(&Party::Endpoint(id));
    }

    /// Has an account for each peer of `fib`, and for no others.
    pub(super) fn follow(&mut self, fib: &Fib) {
        let addresses = || fib.peers().iter().map(|peer| peer.address);
        if addresses().eq(self.addresses.iter().copied()) {
            return;
        }
        let mut ledger = self.counters.ledger();
        let mut before: HashMap<IpAddr, Arc<Account>> =
            self.addresses.drain(..).zip(self.peers.drain(..)).collect();
        self.addresses.extend(addresses());
        self.peers.extend(addresses().map(|address| before.remove(&address).unwrap_or_default()));
        for (address, account) in before {
            self.gone.inherit(&account);
            ledger.remove(&Party::Peer(address));
        }
        let opened = self.addresses.iter().zip(&self.peers);
        ledger.extend(opened.map(|(address, account)| (Party::Peer(*address), Arc::clone(account))));
    }

    /// Whose account it is; `fib` is the one last followed.
    #[inline(always)]
    pub(super) fn of(&self, fib: &Fib, party: Party) -> &Account {
        match party {
            Party::Endpoint(id) => match self.endpoints.get(id.0 as usize) {
                Some(Some(account)) => account,
                _ => &self.gone,
            },
            Party::Peer(address) => match fib.peer_at(address) {
                Some(id) => self.of_peer(id.0),
                None => &self.underlay,
            },
            Party::Underlay => &self.underlay,
            Party::Host => &self.host,
            Party::Gone => &self.gone,
        }
    }

    /// Of a peer, by its place in the FIB last followed.
    #[inline(always)]
    pub(super) fn of_peer(&self, index: u32) -> &Account {
        self.peers.get(index as usize).unwrap_or(&self.underlay)
    }

    /// Of what a port sends, or does not.
    #[inline(always)]
    pub(super) fn of_port(&self, fib: &Fib, id: PortId) -> &Account {
        self.of(fib, party_of(id))
    }
}

/// With whom is counted what a port did not send.
#[inline(always)]
pub(super) fn party_of(id: PortId) -> Party {
    match id {
        PortId::Endpoint(id) => Party::Endpoint(id),
        PortId::Host => Party::Host,
        PortId::Ipip | PortId::Vxlan(_) | PortId::Direct | PortId::Underlay(_) | PortId::Errors(_) => {
            Party::Underlay
        }
    }
}

/// Who handed in a frame that a port received and that the engine did not pass on.
#[inline(always)]
pub(super) fn origin(fib: &Fib, id: PortId, pool: &Pool, frame: &Frame) -> Origin {
    match id {
        PortId::Endpoint(endpoint) => Origin::Workload(endpoint),
        PortId::Ipip | PortId::Vxlan(_) => Origin::Peer(frame.peer),
        PortId::Underlay(_) | PortId::Direct => sender(fib, pool.bytes(frame)),
        PortId::Host => Origin::Host,
        PortId::Errors(_) => Origin::Underlay,
    }
}

/// Without encapsulation nothing but the source tells of the peer: what it claims is good enough to count by.
#[cold]
fn sender(fib: &Fib, bytes: &[u8]) -> Origin {
    // The frame may have its Ethernet header still; a packet parses with a right checksum only.
    let framed = || Ethernet::parse(bytes).ok().and_then(|ethernet| packet::source(ethernet.payload()));
    let source = packet::source(bytes).or_else(framed);
    source.and_then(|source| peer_of(fib, source)).map_or(Origin::Underlay, Origin::Peer)
}

fn peer_of(fib: &Fib, source: IpAddr) -> Option<IpAddr> {
    let id = match fib.lookup_any(source) {
        Action::Tunnel(id) => fib.tunnel(id).peer,
        Action::Direct(id) => fib.adjacency(id).peer,
        _ => fib.peer_at(source)?,
    };
    Some(fib.peer(id).address)
}
