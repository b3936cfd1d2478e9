//! What is configured of the cluster and known of the ways through it: nodes, peers, tunnels, pools.

use std::collections::BTreeSet;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::Account;
use super::route::encapsulation;
use crate::agent::mtu::{Way, by_way};
use crate::agent::{Agent, counts};
use crate::dataplane::Party;
use crate::fib::Encapsulation;
use crate::rib::{Encap, Rule, Target, Underlay, Underlays};
use crate::wire::Family;

/// Another node, as this one sends to it and receives from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Name of the Node resource.
    pub name: String,
    /// Its underlay address, or one of each family.
    pub addresses: Vec<String>,
    /// How packets travel to it: `ipip`, `vxlan`, `plain`; several where pools say so.
    pub encapsulations: Vec<String>,
    /// Prefixes that lead to it.
    pub routes: usize,
    /// What the underlay carries on the way to each of its addresses, as far as this node's kernel knows; `null` where
    /// this node has no way of that family.
    pub underlay_mtus: Vec<Option<u16>>,
    /// What was learned of the path: less than that. Of two paths, the smaller one.
    pub path_mtu: Option<PathMtu>,
    /// What is wrong with the way there.
    pub fault: Option<Fault>,
    /// Its IPIP tunnel address.
    pub ipip_tunnel_address: Option<String>,
    /// Its VXLAN tunnel addresses.
    pub vxlan_tunnel_addresses: Vec<String>,
    /// Its VTEP's MAC on the underlay of each of its addresses.
    pub vtep_macs: Vec<String>,
    /// What is counted with it.
    #[serde(flatten)]
    pub account: Account,
}

/// What was learned of the path to a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathMtu {
    /// Greatest outer packet, bytes.
    pub bytes: u16,
    /// Who says so.
    pub because: String,
    /// Until more is tried.
    pub for_seconds: u64,
}

/// What ICMP errors say of the way to a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What they say.
    pub what: String,
    /// Until it is forgotten, if none comes again.
    pub for_seconds: u64,
}

impl Peer {
    /// What every way there takes: what was learned of the paths, else what the underlay carries.
    pub(crate) fn takes(&self) -> u16 {
        let learned = self.path_mtu.as_ref().map(|path| path.bytes);
        learned.into_iter().chain(self.underlay_mtus.iter().copied().flatten()).min().unwrap_or(u16::MAX)
    }

    pub(crate) fn list(agent: &Agent) -> Vec<Self> {
        let (plan, by_party) = (&agent.plan, counts::by_party(agent));
        let (known, now) = (agent.workers.paths().snapshot(), Instant::now());
        let mtus = agent.paths.peer_mtus();
        let left = |until: Instant| until.saturating_duration_since(now).as_secs();
        let mut ways = vec![(BTreeSet::new(), 0); plan.peers.len()];
        for route in &plan.routes {
            if let Target::Peer { peer, encap, .. } = route.target
                && let Some((encaps, routes)) = ways.get_mut(peer)
            {
                encaps.insert(encap);
                *routes += 1;
            }
        }
        let underlay_mtu = |address| mtus.get(&address).copied();
        let view = |(index, (encaps, routes)): (usize, (BTreeSet<Encap>, usize))| {
            let peer = &plan.peers[index];
            let paths = || peer.underlays.addresses().filter_map(|address| known.get(&address));
            let mtu = paths().filter_map(|path| path.mtu).min_by_key(|(bytes, ..)| *bytes);
            let fault = paths().find_map(|path| path.fault);
            Peer {
                name: peer.name.clone(),
                addresses: texts(peer.underlays.addresses()),
                encapsulations: encaps.into_iter().map(|encap| encapsulation(encap).into()).collect(),
                routes,
                underlay_mtus: peer.underlays.addresses().map(underlay_mtu).collect(),
                path_mtu: mtu.map(|(bytes, evidence, until)| PathMtu {
                    bytes,
                    because: evidence.to_string(),
                    for_seconds: left(until),
                }),
                fault: fault
                    .map(|(fault, until)| Fault { what: fault.to_string(), for_seconds: left(until) }),
                ipip_tunnel_address: peer.ipip_tunnel_addr.map(|address| address.to_string()),
                vxlan_tunnel_addresses: texts(peer.vxlan_tunnel_addrs.iter()),
                vtep_macs: texts(peer.underlays.iter().map(|underlay| underlay.vtep_mac)),
                account: Account::of(&by_party, Party::Peer(peer.underlays.main_address())),
            }
        };
        ways.into_iter().enumerate().map(view).collect()
    }
}

/// A way to a peer with an outer header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// The peer at the far end.
    pub peer: String,
    /// `ipip` or `vxlan`.
    pub encapsulation: String,
    /// Outer source: this node.
    pub local: String,
    /// Outer destination.
    pub remote: String,
    /// Greatest inner packet, by what is configured and by what is known of the path.
    pub mtu: u16,
    /// Greatest inner packet by what is configured.
    pub configured_mtu: u16,
    /// Where that comes from.
    pub because: String,
    /// The MSS of TCP is lowered to what fits.
    pub mss_clamped: bool,
}

impl Tunnel {
    pub(crate) fn list(agent: &Agent) -> Vec<Self> {
        let (plan, fib) = (&agent.plan, agent.publication.current());
        let view = |tunnel: &crate::fib::Tunnel| {
            let encap = match tunnel.encapsulation {
                Encapsulation::Ipip(_) => Encap::Ipip,
                Encapsulation::Vxlan(_) => Encap::Vxlan,
            };
            let way = Way { encap, underlay: Family::of(tunnel.remote) };
            Tunnel {
                peer: fib.peer(tunnel.peer).name.clone(),
                encapsulation: encapsulation(encap).into(),
                local: fib
                    .node()
                    .underlay(Family::of(tunnel.remote))
                    .map_or_else(String::new, |local| local.to_string()),
                remote: tunnel.remote.to_string(),
                mtu: tunnel.mtu(),
                configured_mtu: tunnel.full_mtu(),
                because: by_way(plan, &agent.paths, Some(tunnel.remote), way).because().to_string(),
                mss_clamped: tunnel.clamps,
            }
        };
        fib.tunnels().map(|(_, tunnel)| view(tunnel)).collect()
    }
}

/// An IPPool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// `spec.cidr`.
    pub cidr: String,
    /// `ipip` or `vxlan` with `Always` or `CrossSubnet`, or `ipip Never and vxlan Never`.
    pub mode: String,
    /// Prefixes in it that there is a route to.
    pub routes: usize,
    /// `spec.natOutgoing`.
    pub nat_outgoing: bool,
    /// `spec.disabled`: no new addresses; routes of existing blocks remain.
    pub disabled: bool,
    /// The MSS of TCP is lowered to what the way carries.
    pub mss_clamped: bool,
}

impl Pool {
    pub(crate) fn list(agent: &Agent) -> Vec<Self> {
        let routes = &agent.plan.routes;
        let view = |pool: &crate::rib::PoolPlan| Pool {
            cidr: pool.cidr.to_string(),
            mode: pool.mode().into(),
            routes: routes.iter().filter(|route| route.pool == Some(pool.cidr)).count(),
            nat_outgoing: pool.nat_outgoing,
            disabled: pool.disabled,
            mss_clamped: pool.clamps,
        };
        agent.plan.pools.iter().map(view).collect()
    }
}

/// A node of the cluster, this one among them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Name of the Node resource.
    pub name: String,
    /// Where it is on the underlay, by family: IPv4 first.
    pub underlays: Vec<NodeUnderlay>,
    /// It is the one that answers.
    pub is_this: bool,
    /// Its blocks.
    pub blocks: Vec<String>,
}

/// A node on the underlay of one family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeUnderlay {
    /// Its address.
    pub address: String,
    /// Its subnet, which it compares with under CrossSubnet.
    pub subnet: String,
    /// It lies in this node's subnet.
    pub in_our_subnet: bool,
    /// This node lies in its subnet. Where that differs from [`Self::in_our_subnet`], CrossSubnet differs by direction.
    pub has_us_in_its_subnet: bool,
}

impl Node {
    pub(crate) fn list(agent: &Agent) -> Vec<Self> {
        let plan = &agent.plan;
        let blocks = |of: Option<usize>| {
            let leads = move |target| match target {
                Target::Peer { peer, .. } => Some(peer) == of,
                Target::Blackhole => of.is_none(),
                Target::Endpoint(_) | Target::Host => false,
            };
            let own =
                plan.routes.iter().filter(move |route| route.rule == Rule::Block && leads(route.target));
            texts(own.map(|route| route.prefix))
        };
        let this = Node {
            name: plan.node.clone(),
            underlays: underlays(&plan.underlays, &plan.underlays),
            is_this: true,
            blocks: blocks(None),
        };
        let peers = plan.peers.iter().enumerate().map(|(index, peer)| Node {
            name: peer.name.clone(),
            underlays: underlays(&plan.underlays, &peer.underlays),
            is_this: false,
            blocks: blocks(Some(index)),
        });
        let mut all: Vec<Node> = std::iter::once(this).chain(peers).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

/// Those of a node, as `ours` sees them.
fn underlays(ours: &Underlays, of: &Underlays) -> Vec<NodeUnderlay> {
    let view = |its: &Underlay| {
        let our = ours.of(Family::of(its.address));
        NodeUnderlay {
            address: its.address.to_string(),
            subnet: its.subnet.to_string(),
            in_our_subnet: our.is_some_and(|our| our.subnet.contains(&its.address)),
            has_us_in_its_subnet: our.is_some_and(|our| its.subnet.contains(&our.address)),
        }
    };
    of.iter().map(view).collect()
}

fn texts(parts: impl Iterator<Item = impl ToString>) -> Vec<String> {
    parts.map(|part| part.to_string()).collect()
}
