//! What the underlay's path to each peer carries, and what a pod may send because of it.
//!
//! Calico takes the smallest MTU of the interfaces that `mtuIfacePattern` matches, which misses those that are named
//! otherwise, and routes with an MTU of their own. Margay asks the kernel for the way to each peer. What the kernel has
//! learned on such a way and will forget is not counted here: that is not for a pod's interface to follow.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use regex::Regex;

use crate::fib::inner_mtu;
use crate::rib::{Encap, NodePlan, Rule, Target};
use crate::sys::netlink::{Link, LinkIndex, Netlink, NetlinkError};

/// Least and greatest MTU of an interface that can be given to a pod: what IPv4 asks of every link (RFC 791 3.2), and what
/// a TAP takes (the kernel's 65,535 bytes less the Ethernet header).
const BOUNDS: (u16, u16) = (68, 65_535 - 14);

/// What the underlay carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Paths {
    /// The interface with the node's address: what counts while there is no peer.
    interface: Path,
    /// To each peer of the plan, by its index.
    peers: Vec<Path>,
    /// For people: a setting that does nothing.
    pub(super) warning: Option<String>,
}

/// A way on the underlay.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Path {
    /// IP MTU, bytes.
    mtu: u16,
    limit: Limit,
}

/// What limits a way.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Limit {
    /// The link of this name.
    Link(String),
    /// The route has an MTU of its own.
    Route,
    /// `mtuIfacePattern` matches the link of this name.
    Pattern(String),
}

impl Paths {
    /// Asks for the ways to the peers of `plan`. A peer that the kernel knows no way to is as far as the interface
    /// with the node's address, which has the index `interface`.
    ///
    /// # Errors
    /// No route netlink, or no such interface.
    pub(super) fn ask(plan: &NodePlan, interface: u32) -> Result<Self, NetlinkError> {
        let mut netlink = Netlink::open()?;
        let own = netlink.link(LinkIndex(interface))?;
        let links: BTreeMap<LinkIndex, Link> =
            netlink.links()?.into_iter().map(|link| (link.index, link)).collect();
        let (pattern, warning) = match plan.settings.mtu_iface_pattern.as_deref() {
            Some(pattern) => match smallest_match(pattern, links.values()) {
                Some(path) => (Some(path), None),
                None => {
                    (None, Some(format!("mtuIfacePattern {pattern:?} matches no interface: it does nothing")))
                }
            },
            None => (None, None),
        };
        let limited = |path: Path| match &pattern {
            Some(pattern) if pattern.mtu < path.mtu => pattern.clone(),
            _ => path,
        };
        let interface = limited(by_link(&own));
        let way = |peer: IpAddr| {
            let IpAddr::V4(address) = peer else { return None };
            let way = netlink.lasting_path(address).ok()??;
            let link = links.get(&way.dev)?;
            Some(match way.mtu.filter(|mtu| *mtu < link.mtu) {
                Some(mtu) => Path { mtu: bytes(mtu), limit: Limit::Route },
                None => by_link(link),
            })
        };
        let ways = plan.peers.iter().map(|peer| peer.address).map(way);
        let peers = ways.map(|way| way.map_or_else(|| interface.clone(), limited)).collect();
        Ok(Paths { interface, peers, warning })
    }

    /// The interface's MTU and each peer's, as the FIB takes them.
    pub(super) fn peer_mtus(&self) -> Vec<u16> {
        self.peers.iter().map(|path| path.mtu).collect()
    }

    /// IP MTU of the interface with the node's address, bytes.
    pub(super) fn interface_mtu(&self) -> u16 {
        self.interface.mtu
    }
}

fn smallest_match<'a>(pattern: &str, links: impl Iterator<Item = &'a Link>) -> Option<Path> {
    // Felix's regular expressions match anywhere in the name, as these do.
    let pattern = Regex::new(pattern).ok()?;
    let link = links.filter(|link| pattern.is_match(&link.name)).min_by_key(|link| link.mtu)?;
    Some(Path { mtu: bytes(link.mtu), limit: Limit::Pattern(link.name.clone()) })
}

fn by_link(link: &Link) -> Path {
    Path { mtu: bytes(link.mtu), limit: Limit::Link(link.name.clone()) }
}

fn bytes(mtu: u32) -> u16 {
    u16::try_from(mtu).unwrap_or(u16::MAX)
}

/// A pod's MTU, and why it is that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodMtu {
    /// Bytes.
    pub(super) bytes: u16,
    why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Why {
    /// `FelixConfiguration.mtu`.
    Set,
    /// `ipipMTU` or `vxlanMTU` is less than what the way carries.
    Lowered(Encap),
    /// The way, less what the encapsulation puts in front.
    Way { path: Path, peer: Option<(String, IpAddr)>, encap: Encap },
}

impl PodMtu {
    /// `FelixConfiguration.mtu`, else the smallest of what fits on the way to each peer by the encapsulation of each block
    /// there. An encapsulation that a pool allows and no peer needs yet counts as well, as in Calico: the first peer
    /// must not change the pods' MTU.
    pub(super) fn of(plan: &NodePlan, paths: &Paths) -> Self {
        let (least, most) = BOUNDS;
        let mut found = match plan.settings.mtu {
            Some(bytes) => PodMtu { bytes, why: Why::Set },
            None => smallest(plan, paths),
        };
        found.bytes = found.bytes.clamp(least, most);
        found
    }

    /// Why it is that, for people.
    pub(super) fn because(&self) -> impl fmt::Display {
        &self.why
    }
}

fn smallest(plan: &NodePlan, paths: &Paths) -> PodMtu {
    let mut used = BTreeSet::new();
    for route in &plan.routes {
        if let (Target::Peer { peer, encap }, Rule::Block | Rule::Borrowed { .. }) =
            (route.target, route.rule)
        {
            used.insert((peer, encap));
        }
    }
    let narrowest = (0..plan.peers.len()).min_by_key(|peer| paths.peers.get(*peer).map(|path| path.mtu));
    let unused =
        plan.pools.iter().map(|pool| pool.encap).filter(|encap| used.iter().all(|(_, by)| by != encap));
    let unused: BTreeSet<Encap> = unused.collect();

    let by_peer = used.into_iter().map(|(peer, encap)| (Some(peer), encap));
    let candidates = by_peer.chain(unused.into_iter().map(|encap| (narrowest, encap)));
    let mtus = candidates.map(|(peer, encap)| by_way(plan, paths, peer, encap));
    mtus.min_by_key(|mtu| mtu.bytes).unwrap_or_else(|| {
        let path = paths.interface.clone();
        PodMtu { bytes: path.mtu, why: Why::Way { path, peer: None, encap: Encap::Direct } }
    })
}

/// What fits on the way to the peer of this index by `encap`, or as far as the interface with the node's address.
pub(super) fn by_way(plan: &NodePlan, paths: &Paths, peer: Option<usize>, encap: Encap) -> PodMtu {
    let (path, peer) = match peer.and_then(|peer| Some((paths.peers.get(peer)?, plan.peers.get(peer)?))) {
        Some((path, peer)) => (path, Some((peer.name.clone(), peer.address))),
        None => (&paths.interface, None),
    };
    let bytes = inner_mtu(&plan.settings, encap, path.mtu);
    let why = match bytes + overhead(encap) < path.mtu {
        true => Why::Lowered(encap),
        false => Why::Way { path: path.clone(), peer, encap },
    };
    PodMtu { bytes, why }
}

fn overhead(encap: Encap) -> u16 {
    match encap {
        Encap::Ipip => crate::fib::IPIP_OVERHEAD,
        Encap::Vxlan => crate::fib::VXLAN_OVERHEAD,
        Encap::Direct => 0,
    }
}

/// `1450: underlay eth0 1500 - VXLAN 50`
impl fmt::Display for PodMtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.bytes, self.why)
    }
}

/// `underlay eth0 1500 - VXLAN 50`
impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, peer, encap) = match self {
            Why::Set => return f.write_str("Felix's mtu"),
            Why::Lowered(Encap::Vxlan) => return f.write_str("Felix's vxlanMTU"),
            Why::Lowered(_) => return f.write_str("Felix's ipipMTU"),
            Why::Way { path, peer, encap } => (path, peer, *encap),
        };
        match (&path.limit, peer) {
            (Limit::Link(name), _) => write!(f, "underlay {name} {}", path.mtu)?,
            (Limit::Pattern(name), _) => write!(f, "{name} {}, as mtuIfacePattern says", path.mtu)?,
            (Limit::Route, Some((name, address))) => write!(f, "route to {name} ({address}) {}", path.mtu)?,
            (Limit::Route, None) => write!(f, "route {}", path.mtu)?,
        }
        match encap {
            Encap::Direct => Ok(()),
            Encap::Ipip => write!(f, " - IPIP {}", overhead(encap)),
            Encap::Vxlan => write!(f, " - VXLAN {}", overhead(encap)),
        }
    }
}
