//! Who the peers' next hops are: the kernel's routes and neighbour table, followed, as the link layer needs them.
//!
//! Nothing is resolved here. What is sent to a peer that is not in the table leaves by the raw socket; the kernel
//! resolves its next hop, says so, and from then on the peer is in the table.
//!
//! | the kernel's entry is | frames to the peer | and the agent |
//! |---|---|---|
//! | reachable, delay, probe, permanent | by the link | – |
//! | stale | by the link, as the kernel's own | with the first of them has the kernel verify it |
//! | incomplete, failed, none, noarp | by the raw socket | – |
//!
//! An entry is reachable for about `base_reachable_time`, then stale. So those in use are verified as often as the
//! kernel would do it, and the others cost nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, at, bounded, never};

use super::AgentError;
use super::underlay::Interface;
use crate::fib::Publication;
use crate::io::link::{NextHop, NextHops, Usage};
use crate::rib::{Encap, NodePlan, Target};
use crate::sys::netlink::{
    Change, Family, LinkIndex, Monitor, Neighbour, NeighbourState, Netlink, NetlinkError, Topic,
};
use crate::wire::MacAddr;
use crate::wire::ethernet::{self, EtherType};

/// Paths are asked for once in so long a time at most.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// The table, and what it is made of.
#[derive(Debug)]
pub(super) struct Follower {
    dev: LinkIndex,
    mac: MacAddr,
    /// The interface's MTU, bytes.
    mtu: u32,
    peers: BTreeMap<Ipv4Addr, Peer>,
    neighbours: BTreeMap<Ipv4Addr, Entry>,
    publication: Arc<Publication<NextHops>>,
    netlink: Netlink,
    /// Peers to whom something was sent for the first time since they were last asked for.
    uses: (Sender<Ipv4Addr>, Receiver<Ipv4Addr>),
    /// Paths have changed since they were asked for.
    outdated: bool,
    /// When paths may be asked for next.
    patience: Instant,
}

#[derive(Debug)]
struct Peer {
    /// `None`: the way there is not by the underlay's interface alone.
    next_hop: Option<Ipv4Addr>,
    usage: Arc<Usage>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    mac: MacAddr,
    is_stale: bool,
}

impl Follower {
    /// Of an interface with the Ethernet address `mac`; without peers yet.
    ///
    /// # Errors
    /// No route netlink.
    pub(super) fn new(interface: &Interface, mac: MacAddr) -> Result<Self, NetlinkError> {
        let dev = LinkIndex(interface.index);
        let mut netlink = Netlink::open()?;
        let mut follower = Follower {
            dev,
            mac,
            mtu: netlink.link(dev)?.mtu,
            peers: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            publication: Publication::new(NextHops::default()),
            netlink,
            uses: bounded(64),
            outdated: false,
            patience: Instant::now(),
        };
        follower.list_neighbours()?;
        Ok(follower)
    }

    /// What the workers read.
    pub(super) fn publication(&self) -> &Arc<Publication<NextHops>> {
        &self.publication
    }

    /// Follows these peers, and no others.
    pub(super) fn follow(&mut self, peers: &BTreeSet<Ipv4Addr>) {
        self.peers.retain(|peer, _| peers.contains(peer));
        for peer in peers {
            if !self.peers.contains_key(peer) {
                let next_hop = self.ask(*peer);
                let usage = Usage::new(*peer, self.uses.0.clone());
                self.peers.insert(*peer, Peer { next_hop, usage });
            }
        }
        self.publish();
    }

    /// Takes in what the kernel told.
    pub(super) fn changed(&mut self, changes: impl Iterator<Item = Change>) {
        for change in changes {
            match change {
                Change::Neighbour(neighbour) => self.learn(&neighbour),
                Change::NeighbourGone(Neighbour { address: IpAddr::V4(address), dev, .. }) => {
                    if dev == self.dev {
                        self.neighbours.remove(&address);
                    }
                }
                Change::NeighbourGone(_) => {}
                Change::Other => self.outdated = true,
                Change::Missed => {
                    self.outdated = true;
                    if let Err(error) = self.list_neighbours() {
                        // The kernel knows the way.
                        tracing::warn!(%error, "neighbours cannot be followed");
                        self.neighbours.clear();
                    }
                }
            }
        }
        self.ask_again();
        self.verify();
        self.publish();
    }

    /// Who is told of by [`Self::used`].
    pub(super) fn uses(&self) -> &Receiver<Ipv4Addr> {
        &self.uses.1
    }

    /// Something was sent to this peer.
    pub(super) fn used(&mut self, peer: Ipv4Addr) {
        let next_hop = self.peers.get(&peer).and_then(|peer| peer.next_hop);
        if next_hop.is_some_and(|next_hop| self.neighbours.get(&next_hop).is_some_and(|entry| entry.is_stale))
        {
            self.verify();
        }
    }

    /// When to call [`Self::ask_again`].
    pub(super) fn again(&self) -> Receiver<Instant> {
        if self.outdated { at(self.patience) } else { never() }
    }

    /// Asks for the paths that may have changed. Routes that never rest do not keep the agent from resting.
    pub(super) fn ask_again(&mut self) {
        if self.outdated && Instant::now() >= self.patience {
            self.ask_all();
            self.publish();
        }
    }

    /// Has the kernel verify what is stale and in use.
    fn verify(&mut self) {
        for peer in self.peers.values() {
            let Some(next_hop) = peer.next_hop else { continue };
            let Some(entry) = self.neighbours.get_mut(&next_hop).filter(|entry| entry.is_stale) else {
                continue;
            };
            if peer.usage.take() {
                // The kernel says nothing of the delay that now begins, only of what comes after it.
                entry.is_stale = false;
                if let Err(error) = self.netlink.use_neighbour(self.dev, next_hop.into()) {
                    tracing::debug!(%error, "a neighbour cannot be verified");
                }
            }
        }
    }

    fn ask_all(&mut self) {
        self.outdated = false;
        self.patience = Instant::now() + PATIENCE;
        self.mtu = self.netlink.link(self.dev).map_or(self.mtu, |link| link.mtu);
        let peers: Vec<Ipv4Addr> = self.peers.keys().copied().collect();
        for address in peers {
            let next_hop = self.ask(address);
            if let Some(peer) = self.peers.get_mut(&address) {
                peer.next_hop = next_hop;
            }
        }
    }

    fn ask(&mut self, peer: Ipv4Addr) -> Option<Ipv4Addr> {
        let next_hop = self.netlink.next_hop(peer).ok()??;
        // What must be fragmented on the way is the kernel's to fragment.
        let is_whole = next_hop.mtu.is_none_or(|mtu| mtu >= self.mtu);
        (next_hop.dev == self.dev && is_whole).then_some(next_hop.address)
    }

    fn list_neighbours(&mut self) -> Result<(), NetlinkError> {
        let neighbours = self.netlink.neighbours(Family::V4)?;
        self.neighbours.clear();
        neighbours.iter().for_each(|neighbour| self.learn(neighbour));
        Ok(())
    }

    fn learn(&mut self, neighbour: &Neighbour) {
        let IpAddr::V4(address) = neighbour.address else { return };
        if neighbour.dev != self.dev {
            return;
        }
        let is_stale = neighbour.state == NeighbourState::Stale;
        let is_valid = is_stale
            || matches!(
                neighbour.state,
                NeighbourState::Reachable
                    | NeighbourState::Delay
                    | NeighbourState::Probe
                    | NeighbourState::Permanent
            );
        match neighbour.mac.filter(|mac| is_valid && !mac.is_multicast()) {
            Some(mac) => self.neighbours.insert(address, Entry { mac, is_stale }),
            None => self.neighbours.remove(&address),
        };
    }

    /// Publishes the table if it is another one.
    fn publish(&mut self) {
        let hop = |(address, peer): (&Ipv4Addr, &Peer)| {
            let entry = self.neighbours.get(&peer.next_hop?)?;
            let mut header = [0; ethernet::HEADER_LEN];
            ethernet::write(&mut header, entry.mac, self.mac, EtherType::IPV4);
            Some(NextHop { peer: *address, header, usage: Arc::clone(&peer.usage) })
        };
        let hops = NextHops::new(self.peers.iter().filter_map(hop).collect());
        if hops != **self.publication.reader().current() {
            self.publication.publish(hops);
        }
    }
}

/// Starts to listen, on a thread of its own that ends with the first change that nobody takes any more.
///
/// # Errors
/// No route netlink, or no thread.
pub(super) fn listen() -> Result<Receiver<Vec<Change>>, AgentError> {
    let mut monitor = Monitor::open(&[Topic::Links, Topic::Neighbours, Topic::Paths])?;
    // When it is full the kernel's own queue fills, and then the kernel says that something was missed.
    let (tell, changes) = bounded(64);
    let mut look = move || {
        monitor.wait().unwrap_or_else(|error| {
            tracing::warn!(%error, "neighbours and routes are looked at once a second");
            std::thread::sleep(Duration::from_secs(1));
            vec![Change::Missed]
        })
    };
    let listening = move || while tell.send(look()).is_ok() {};
    let thread = std::thread::Builder::new().name("margay-next-hops".into()).spawn(listening);
    thread.map(|_| changes).map_err(AgentError::Workers)
}

/// The peers that packets are sent to by IPIP or without encapsulation: what leaves in VXLAN leaves by UDP.
pub(super) fn peers(plan: &NodePlan) -> BTreeSet<Ipv4Addr> {
    let by_link = plan.routes.iter().filter_map(|route| match route.target {
        Target::Peer { peer, encap: Encap::Ipip | Encap::Direct } => Some(plan.peers[peer].address),
        _ => None,
    });
    by_link
        .filter_map(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
        .collect()
}
