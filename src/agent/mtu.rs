//! What the underlay's path to each peer carries, and what a pod may send because of it.
//!
//! Calico takes the smallest MTU of the interfaces that `mtuIfacePattern` matches, which misses those that are named
//! otherwise, and routes with an MTU of their own. Margay asks the kernel for the way to each peer. What the kernel has
//! learned on such a way and will forget is not counted here: that is not for a pod's interface to follow.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;

use regex::Regex;

use super::underlay::Uplink;
use crate::fib::inner_mtu;
use crate::rib::{Encap, NodePlan, PoolPlan, Rule, Target};
use crate::sys::netlink::{Link, LinkIndex, Netlink, NetlinkError};
use crate::wire::Family;

/// Least and greatest MTU of an interface that can be given to a pod: what IPv4 asks of every link (RFC 791 3.2), and what
/// a TAP takes (the kernel's 65,535 bytes less the Ethernet header).
const BOUNDS: (u16, u16) = (68, 65_535 - 14);

/// What the underlay carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Paths {
    /// The interface with the node's address of each family: what counts while there is no peer.
    interfaces: BTreeMap<Family, Path>,
    /// To each underlay address of each peer.
    peers: BTreeMap<IpAddr, Path>,
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
    /// Asks for the ways to the peers of `plan`, as far as this node has their family. A peer that the kernel knows no
    /// way to is as far as the interface with the node's address.
    ///
    /// # Errors
    /// No route netlink, or an interface is gone.
    pub(super) fn ask(plan: &NodePlan, uplinks: &[Uplink]) -> Result<Self, NetlinkError> {
        let mut netlink = Netlink::open()?;
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
        let mut interfaces = BTreeMap::new();
        for uplink in uplinks {
            let link = netlink.link(LinkIndex(uplink.interface.index))?;
            interfaces.insert(uplink.family(), limited(by_link(&link, uplink.family())));
        }
        let mut way = |peer: IpAddr| {
            let way = netlink.lasting_path(peer).ok()??;
            let path = by_link(links.get(&way.dev)?, Family::of(peer));
            Some(match way.mtu.map(bytes).filter(|mtu| *mtu < path.mtu) {
                Some(mtu) => Path { mtu, limit: Limit::Route },
                None => path,
            })
        };
        let mut peers = BTreeMap::new();
        for address in plan.peers.iter().flat_map(|peer| peer.underlays.addresses()) {
            let Some(own) = interfaces.get(&Family::of(address)) else { continue };
            peers.insert(address, way(address).map_or_else(|| own.clone(), limited));
        }
        Ok(Paths { interfaces, peers, warning })
    }

    /// IP MTU to each underlay address of each peer, as the FIB takes them.
    pub(super) fn peer_mtus(&self) -> HashMap<IpAddr, u16> {
        self.peers.iter().map(|(address, path)| (*address, path.mtu)).collect()
    }

    /// IP MTU of the interface with the node's address of a family, bytes.
    pub(super) fn interface_mtu(&self, family: Family) -> u16 {
        self.own(family).mtu
    }

    /// As far as the interface with the node's address of a family, or of the other where it has none.
    fn own(&self, family: Family) -> Path {
        let path = self.interfaces.get(&family).or_else(|| self.interfaces.get(&family.other()));
        path.cloned().unwrap_or(Path { mtu: u16::MAX, limit: Limit::Route })
    }

    /// The narrowest of those to peers of a family.
    fn narrowest(&self, family: Family) -> Option<IpAddr> {
        let peers = self.peers.iter().filter(|(address, _)| Family::of(**address) == family);
        peers.min_by_key(|(_, path)| path.mtu).map(|(address, _)| *address)
    }
}

fn smallest_match<'a>(pattern: &str, links: impl Iterator<Item = &'a Link>) -> Option<Path> {
    // Felix's regular expressions match anywhere in the name, as these do.
    let pattern = Regex::new(pattern).ok()?;
    let link = links.filter(|link| pattern.is_match(&link.name)).min_by_key(|link| link.mtu)?;
    Some(Path { mtu: bytes(link.mtu), limit: Limit::Pattern(link.name.clone()) })
}

fn by_link(link: &Link, family: Family) -> Path {
    let mtu = match family {
        Family::V4 => link.mtu,
        // A router may have told IPv6 another one.
        Family::V6 => link.mtu_v6.map_or(link.mtu, |mtu| mtu.min(link.mtu)),
    };
    Path { mtu: bytes(mtu), limit: Limit::Link(link.name.clone()) }
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
    /// `ipipMTU`, `vxlanMTU` or `vxlanMTUV6` is less than what the way carries.
    Lowered(Encap, Family),
    /// The way, less what the encapsulation puts in front.
    Way { path: Path, peer: Option<(String, IpAddr)>, encap: Encap, underlay: Family },
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

/// How packets travel on the underlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Way {
    /// In what.
    pub(super) encap: Encap,
    /// Between addresses of this family.
    pub(super) underlay: Family,
}

fn smallest(plan: &NodePlan, paths: &Paths) -> PodMtu {
    let mut used = BTreeSet::new();
    for route in &plan.routes {
        if let (Target::Peer { peer, encap, underlay }, Rule::Block | Rule::Borrowed { .. }) =
            (route.target, route.rule)
        {
            let there = plan.peers[peer].underlays.of(underlay);
            used.extend(there.map(|there| (there.address, Way { encap, underlay })));
        }
    }
    // VXLAN goes over its packets' own family where this node has that, else over the other.
    let way = |pool: &PoolPlan| {
        let own = Family::of(pool.cidr.addr());
        let underlay = if plan.underlays.of(own).is_some() { own } else { own.other() };
        Way { encap: pool.encap, underlay }
    };
    let unused: BTreeSet<Way> =
        plan.pools.iter().map(way).filter(|way| used.iter().all(|(_, by)| by != way)).collect();

    let by_peer = used.into_iter().map(|(peer, way)| (Some(peer), way));
    let candidates = by_peer.chain(unused.into_iter().map(|way| (paths.narrowest(way.underlay), way)));
    let mtus = candidates.map(|(peer, way)| by_way(plan, paths, peer, way));
    mtus.min_by_key(|mtu| mtu.bytes).unwrap_or_else(|| {
        let underlay = Family::of(plan.underlays.main_address());
        by_way(plan, paths, None, Way { encap: Encap::Direct, underlay })
    })
}

/// What fits on the way to the peer with this underlay address, or as far as the interface with the node's address.
pub(super) fn by_way(plan: &NodePlan, paths: &Paths, peer: Option<IpAddr>, way: Way) -> PodMtu {
    let Way { encap, underlay } = way;
    let known = |address| {
        let peer = plan.peers.iter().find(|peer| peer.underlays.have(address))?;
        Some((paths.peers.get(&address)?.clone(), Some((peer.name.clone(), address))))
    };
    let (path, peer) = peer.and_then(known).unwrap_or_else(|| (paths.own(underlay), None));
    let bytes = inner_mtu(&plan.settings, encap, underlay, path.mtu);
    let why = match bytes + overhead(encap, underlay) < path.mtu {
        true => Why::Lowered(encap, underlay),
        false => Why::Way { path, peer, encap, underlay },
    };
    PodMtu { bytes, why }
}

fn overhead(encap: Encap, underlay: Family) -> u16 {
    match (encap, underlay) {
        (Encap::Ipip, _) => crate::fib::IPIP_OVERHEAD,
        (Encap::Vxlan, Family::V4) => crate::fib::VXLAN_OVERHEAD,
        (Encap::Vxlan, Family::V6) => crate::fib::VXLAN_V6_OVERHEAD,
        (Encap::Direct, _) => 0,
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
        let (path, peer, encap, underlay) = match self {
            Why::Set => return f.write_str("Felix's mtu"),
            Why::Lowered(Encap::Vxlan, Family::V4) => return f.write_str("Felix's vxlanMTU"),
            Why::Lowered(Encap::Vxlan, Family::V6) => return f.write_str("Felix's vxlanMTUV6"),
            Why::Lowered(..) => return f.write_str("Felix's ipipMTU"),
            Why::Way { path, peer, encap, underlay } => (path, peer, *encap, *underlay),
        };
        match (&path.limit, peer) {
            (Limit::Link(name), _) => write!(f, "underlay {name} {}", path.mtu)?,
            (Limit::Pattern(name), _) => write!(f, "{name} {}, as mtuIfacePattern says", path.mtu)?,
            (Limit::Route, Some((name, address))) => write!(f, "route to {name} ({address}) {}", path.mtu)?,
            (Limit::Route, None) => write!(f, "route {}", path.mtu)?,
        }
        match encap {
            Encap::Direct => Ok(()),
            Encap::Ipip => write!(f, " - IPIP {}", overhead(encap, underlay)),
            Encap::Vxlan => write!(f, " - VXLAN {}", overhead(encap, underlay)),
        }
    }
}
