//! From a plan to a snapshot.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use super::action::ID_LIMIT;
use super::tunnel::{IpipHeader, VxlanHeader};
use super::{
    Action, Adjacency, AdjacencyId, Encapsulation, Endpoint, EndpointId, Fib, IPIP_OVERHEAD, NO_PEER, Node,
    OuterTtl, Peer, PeerId, Tunnel, TunnelId, VXLAN_OVERHEAD,
};
use crate::lpm::{Lpm, Prefix};
use crate::rib::{Encap, NodePlan, Settings, Target};
use crate::wire::vxlan::Vni;

/// What the machine adds to the plan.
#[derive(Debug, Clone)]
pub struct Environment {
    /// What each endpoint of the plan is attached as, by its index; `None` while it is not.
    pub endpoints: Vec<Option<Attachment>>,
    /// IP MTU of the underlay's path to each peer of the plan, bytes, by its index.
    pub peer_mtus: Vec<u16>,
    /// IP MTU of the host interface, or `None` where there is none: then no route means `NoRoute`.
    pub host_mtu: Option<u16>,
    /// TTL of IPIP outer headers.
    pub outer_ttl: OuterTtl,
    /// Source of ICMP errors, if it is not left to [`Node::icmp_source`]'s rule.
    pub icmp_source: Option<Ipv4Addr>,
}

/// An endpoint that is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attachment {
    /// Its id.
    pub id: EndpointId,
    /// IP MTU of its interface, bytes.
    pub mtu: u16,
}

/// Why a plan cannot be compiled.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CompileError {
    /// The node or a peer has an IPv6 underlay address.
    #[error("node {0}: the underlay address must be IPv4: IPv6 underlays are not supported yet")]
    UnderlayFamily(String),
    /// More than 2^28 endpoints, tunnels or peers.
    #[error("more than {ID_LIMIT} endpoints, tunnels or peers")]
    TooMany,
    /// The lookup table refused.
    #[error(transparent)]
    Lookup(#[from] crate::lpm::BuildError),
}

impl Fib {
    /// Compiles `plan`. Routes of endpoints that are not attached are left out: their addresses fall to the
    /// shorter prefix, which is the node's own block, so that nothing leaks while an endpoint comes up.
    pub fn compile(plan: &NodePlan, environment: &Environment) -> Result<Fib, CompileError> {
        let node = node(plan, environment)?;
        let peers: Vec<Peer> =
            plan.peers.iter().map(|peer| Peer { name: peer.name.clone(), address: peer.address }).collect();
        let mut peers_by_address = Vec::with_capacity(peers.len());
        for (index, peer) in peers.iter().enumerate() {
            let address = v4(peer.address, &peer.name)?;
            peers_by_address.push((address, 32, id(index)?));
        }

        let clamping: Vec<Prefix> =
            plan.pools.iter().filter(|pool| pool.clamps).map(|pool| pool.cidr).collect();
        let mut ways =
            Ways { plan, environment, tunnels: Vec::new(), adjacencies: Vec::new(), known: HashMap::new() };
        let mut routes = Vec::with_capacity(plan.pools.len() + plan.routes.len());
        // An address of the overlay that no block has is nowhere: the way out is for other addresses.
        for pool in &plan.pools {
            if let Prefix::V4(prefix) = pool.cidr {
                routes.push((prefix.network(), prefix.prefix_len(), Action::NoRoute.encode()));
            }
        }
        for route in &plan.routes {
            let Prefix::V4(prefix) = route.prefix else { continue };
            let clamps = route.pool.is_some_and(|pool| clamping.contains(&pool));
            let Some(action) = ways.action(route.target, clamps)? else { continue };
            routes.push((prefix.network(), prefix.prefix_len(), action.encode()));
        }
        let default = if environment.host_mtu.is_some() { Action::Host } else { Action::NoRoute };

        Ok(Fib {
            routes: Lpm::build(default.encode(), routes)?,
            peers_by_address: Lpm::build(NO_PEER, peers_by_address)?,
            endpoints: endpoints(plan, environment, &clamping)?,
            tunnels: ways.tunnels,
            adjacencies: ways.adjacencies,
            peers,
            node,
            clamps_any: !clamping.is_empty(),
        })
    }
}

fn node(plan: &NodePlan, environment: &Environment) -> Result<Node, CompileError> {
    let address = v4(plan.address, &plan.node)?;
    let tunnels: Vec<_> =
        [plan.vxlan_tunnel_addr, plan.ipip_tunnel_addr].into_iter().flatten().filter_map(ipv4).collect();
    Ok(Node {
        address: plan.address,
        vtep_mac: plan.vtep_mac,
        vni: Vni(plan.settings.vxlan_vni),
        vxlan_port: plan.settings.vxlan_port,
        allow_ipip_from_workloads: plan.settings.allow_ipip_from_workloads,
        allow_vxlan_from_workloads: plan.settings.allow_vxlan_from_workloads,
        icmp_source: environment.icmp_source.or(tunnels.first().copied()).unwrap_or(address),
        host_mtu: environment.host_mtu.unwrap_or(u16::MAX),
        addresses: std::iter::once(address).chain(tunnels).collect(),
    })
}

fn endpoints(
    plan: &NodePlan,
    environment: &Environment,
    clamping: &[Prefix],
) -> Result<Vec<Option<Endpoint>>, CompileError> {
    let mut endpoints = Vec::new();
    for (endpoint, attachment) in plan.endpoints.iter().zip(&environment.endpoints) {
        let Some(Attachment { id, mtu }) = *attachment else { continue };
        let is_clamping = |address: &IpAddr| clamping.iter().any(|pool| pool.contains(address));
        let clamps = endpoint.addresses.iter().any(is_clamping);
        let mut addresses = endpoint.addresses.iter().copied().filter_map(ipv4);
        let Some(primary) = addresses.next() else { continue };
        if id.0 >= ID_LIMIT {
            return Err(CompileError::TooMany);
        }
        let index = id.0 as usize;
        if endpoints.len() <= index {
            endpoints.resize(index + 1, None);
        }
        endpoints[index] = Some(Endpoint {
            primary,
            more: addresses.collect(),
            spoofed: endpoint.spoofed_sources.clone().into(),
            mtu,
            clamps,
        });
    }
    Ok(endpoints)
}

/// Tunnels and adjacencies, made when the first route needs them.
struct Ways<'a> {
    plan: &'a NodePlan,
    environment: &'a Environment,
    tunnels: Vec<Tunnel>,
    adjacencies: Vec<Adjacency>,
    known: HashMap<(usize, Encap, bool), Action>,
}

impl Ways<'_> {
    fn action(&mut self, target: Target, clamps: bool) -> Result<Option<Action>, CompileError> {
        Ok(match target {
            Target::Endpoint(index) => {
                let attachment = self.environment.endpoints.get(index).copied().flatten();
                attachment.map(|attachment| Action::Deliver(attachment.id))
            }
            Target::Peer { peer, encap } => Some(self.way(peer, encap, clamps)?),
            Target::Host if self.environment.host_mtu.is_some() => Some(Action::Host),
            Target::Host => Some(Action::NoRoute),
            Target::Blackhole => Some(Action::Blackhole),
        })
    }

    fn way(&mut self, peer: usize, encap: Encap, clamps: bool) -> Result<Action, CompileError> {
        if let Some(action) = self.known.get(&(peer, encap, clamps)) {
            return Ok(*action);
        }
        let known = &self.plan.peers[peer];
        let (id_of_peer, remote) = (PeerId(id(peer)?), known.address);
        let path = self.environment.peer_mtus.get(peer).copied().unwrap_or(u16::MAX);
        let mtu = inner_mtu(&self.plan.settings, encap, path);
        let encapsulation = match encap {
            Encap::Ipip => {
                let local = v4(self.plan.address, &self.plan.node)?;
                let header = IpipHeader::new(local, v4(remote, &known.name)?, self.environment.outer_ttl);
                Some(Encapsulation::Ipip(header))
            }
            Encap::Vxlan => {
                let vni = Vni(self.plan.settings.vxlan_vni);
                Some(Encapsulation::Vxlan(VxlanHeader::new(vni, self.plan.vtep_mac, known.vtep_mac)))
            }
            Encap::Direct => None,
        };
        let action = match encapsulation {
            Some(encapsulation) => {
                self.tunnels.push(Tunnel::new(id_of_peer, remote, (mtu, clamps), encapsulation));
                Action::Tunnel(TunnelId(id(self.tunnels.len() - 1)?))
            }
            None => {
                self.adjacencies.push(Adjacency { peer: id_of_peer, next_hop: remote, mtu, clamps });
                Action::Direct(AdjacencyId(id(self.adjacencies.len() - 1)?))
            }
        };
        self.known.insert((peer, encap, clamps), action);
        Ok(action)
    }
}

/// Greatest IP packet of the overlay that fits on a path of the underlay, bytes: `path` is the path's MTU. Felix's settings
/// can lower it. They cannot raise it: what did not fit would have to be fragmented outside, which RFC 7348 4.3 forbids
/// and which loses every packet where fragments do not pass.
pub fn inner_mtu(settings: &Settings, encap: Encap, path: u16) -> u16 {
    let (overhead, setting) = match encap {
        Encap::Ipip => (IPIP_OVERHEAD, settings.ipip_mtu),
        Encap::Vxlan => (VXLAN_OVERHEAD, settings.vxlan_mtu),
        Encap::Direct => (0, None),
    };
    let fits = path.saturating_sub(overhead);
    setting.map_or(fits, |setting| setting.min(fits))
}

fn id(index: usize) -> Result<u32, CompileError> {
    u32::try_from(index).ok().filter(|id| *id < ID_LIMIT).ok_or(CompileError::TooMany)
}

fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn v4(address: IpAddr, node: &str) -> Result<Ipv4Addr, CompileError> {
    ipv4(address).ok_or_else(|| CompileError::UnderlayFamily(node.to_owned()))
}
