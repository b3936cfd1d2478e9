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
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, at, bounded, never};

use super::AgentError;
use super::underlay::Uplink;
use crate::fib::Publication;
use crate::io::link::{NextHop, NextHops, Usage};
use crate::rib::{Encap, NodePlan, Target};
use crate::sys::netlink::{
    Change, LinkIndex, Monitor, Neighbour, NeighbourState, Netlink, NetlinkError, Topic,
};
use crate::wire::ethernet::{self, EtherType};
use crate::wire::{Family, MacAddr};

/// Paths are asked for once in so long a time at most.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// The table, and what it is made of.
#[derive(Debug)]
pub(super) struct Follower {
    /// One for each family at most.
    links: Vec<OnLink>,
    peers: BTreeMap<IpAddr, Peer>,
    neighbours: BTreeMap<IpAddr, Entry>,
    publication: Arc<Publication<NextHops>>,
    netlink: Netlink,
    /// Peers to whom something was sent for the first time since they were last asked for.
    uses: (Sender<IpAddr>, Receiver<IpAddr>),
    /// Paths have changed since they were asked for.
    outdated: bool,
    /// When paths may be asked for next.
    patience: Instant,
}

/// The interface by which peers of a family are reached.
#[derive(Debug)]
struct OnLink {
    family: Family,
    dev: LinkIndex,
    mac: MacAddr,
    /// Its MTU, bytes.
    mtu: u32,
}

#[derive(Debug)]
struct Peer {
    /// `None`: the way there is not by the underlay's interface alone.
    next_hop: Option<IpAddr>,
    usage: Arc<Usage>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    mac: MacAddr,
    is_stale: bool,
}

impl Follower {
    /// Of those interfaces that are Ethernet; without peers yet.
    ///
    /// # Errors
    /// No route netlink, or no such interface.
    pub(super) fn new(uplinks: &[Uplink]) -> Result<Self, NetlinkError> {
        let mut netlink = Netlink::open()?;
        let mut links = Vec::with_capacity(uplinks.len());
        for uplink in uplinks {
            let Some(mac) = uplink.interface.mac else { continue };
            let dev = LinkIndex(uplink.interface.index);
            links.push(OnLink { family: uplink.family(), dev, mac, mtu: netlink.link(dev)?.mtu });
        }
        let mut follower = Follower {
            links,
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
    pub(super) fn follow(&mut self, peers: &BTreeSet<IpAddr>) {
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
                Change::NeighbourGone(Neighbour { address, dev, .. }) => {
                    if self.is_on_link(address, dev) {
                        self.neighbours.remove(&address);
                    }
                }
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
    pub(super) fn uses(&self) -> &Receiver<IpAddr> {
        &self.uses.1
    }

    /// Something was sent to this peer.
    pub(super) fn used(&mut self, peer: IpAddr) {
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
                let link = self.links.iter().find(|link| link.family == Family::of(next_hop));
                let used = link.map(|link| self.netlink.use_neighbour(link.dev, next_hop));
                if let Some(Err(error)) = used {
                    tracing::debug!(%error, "a neighbour cannot be verified");
                }
            }
        }
    }

    fn ask_all(&mut self) {
        self.outdated = false;
        self.patience = Instant::now() + PATIENCE;
        for link in &mut self.links {
            link.mtu = self.netlink.link(link.dev).map_or(link.mtu, |found| found.mtu);
        }
        let peers: Vec<IpAddr> = self.peers.keys().copied().collect();
        for address in peers {
            let next_hop = self.ask(address);
            if let Some(peer) = self.peers.get_mut(&address) {
                peer.next_hop = next_hop;
            }
        }
    }

    fn ask(&mut self, peer: IpAddr) -> Option<IpAddr> {
        let next_hop = self.netlink.next_hop(peer).ok()??;
        let link = self.links.iter().find(|link| link.family == Family::of(peer))?;
        // What must be fragmented on the way is the kernel's to fragment.
        let is_whole = next_hop.mtu.is_none_or(|mtu| mtu >= link.mtu);
        (next_hop.dev == link.dev && is_whole && Family::of(next_hop.address) == link.family)
            .then_some(next_hop.address)
    }

    fn list_neighbours(&mut self) -> Result<(), NetlinkError> {
        let mut neighbours = Vec::new();
        for link in &self.links {
            neighbours.extend(self.netlink.neighbours(link.family)?);
        }
        self.neighbours.clear();
        neighbours.iter().for_each(|neighbour| self.learn(neighbour));
        Ok(())
    }

    fn is_on_link(&self, address: IpAddr, dev: LinkIndex) -> bool {
        self.links.iter().any(|link| link.dev == dev && link.family == Family::of(address))
    }

    fn learn(&mut self, neighbour: &Neighbour) {
        let address = neighbour.address;
        if !self.is_on_link(address, neighbour.dev) {
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
        let hop = |(address, peer): (&IpAddr, &Peer)| {
            let entry = self.neighbours.get(&peer.next_hop?)?;
            let link = self.links.iter().find(|link| link.family == Family::of(*address))?;
            let version = match link.family {
                Family::V4 => EtherType::IPV4,
                Family::V6 => EtherType::IPV6,
            };
            let mut header = [0; ethernet::HEADER_LEN];
            ethernet::write(&mut header, entry.mac, link.mac, version);
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
pub(super) fn peers(plan: &NodePlan) -> BTreeSet<IpAddr> {
    let by_link = plan.routes.iter().filter_map(|route| match route.target {
        Target::Peer { peer, encap: Encap::Ipip | Encap::Direct, underlay } => {
            plan.peers[peer].underlays.of(underlay).map(|underlay| underlay.address)
        }
        _ => None,
    });
    by_link.collect()
}
