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
use crate::rib::{Encap, NodePlan, Target};
use crate::wire::vxlan::Vni;

/// What the machine adds to the plan.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Id of each endpoint of the plan, by its index; `None` while it is not attached.
    pub endpoint_ids: Vec<Option<EndpointId>>,
    /// IP MTU of every endpoint's interface, bytes.
    pub endpoint_mtu: u16,
    /// IP MTU of the underlay, bytes.
    pub underlay_mtu: u16,
    /// IP MTU of the host interface, or `None` where there is none: then no route means `NoRoute`.
    pub host_mtu: Option<u16>,
    /// TTL of IPIP outer headers.
    pub outer_ttl: OuterTtl,
    /// Source of ICMP errors, if it is not left to [`Node::icmp_source`]'s rule.
    pub icmp_source: Option<Ipv4Addr>,
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
            let Some(action) = ways.action(route.target)? else { continue };
            routes.push((prefix.network(), prefix.prefix_len(), action.encode()));
        }
        let default = if environment.host_mtu.is_some() { Action::Host } else { Action::NoRoute };

        Ok(Fib {
            routes: Lpm::build(default.encode(), routes)?,
            peers_by_address: Lpm::build(NO_PEER, peers_by_address)?,
            endpoints: endpoints(plan, environment)?,
            tunnels: ways.tunnels,
            adjacencies: ways.adjacencies,
            peers,
            node,
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
        icmp_source: environment.icmp_source.or(tunnels.first().copied()).unwrap_or(address),
        host_mtu: environment.host_mtu.unwrap_or(environment.underlay_mtu),
        addresses: std::iter::once(address).chain(tunnels).collect(),
    })
}

fn endpoints(plan: &NodePlan, environment: &Environment) -> Result<Vec<Option<Endpoint>>, CompileError> {
    let mut endpoints = Vec::new();
    for (endpoint, id) in plan.endpoints.iter().zip(&environment.endpoint_ids) {
        let Some(id) = id else { continue };
        let mut addresses = endpoint.addresses.iter().copied().filter_map(ipv4);
        let Some(primary) = addresses.next() else { continue };
        if id.0 >= ID_LIMIT {
            return Err(CompileError::TooMany);
        }
        let index = id.0 as usize;
        if endpoints.len() <= index {
            endpoints.resize(index + 1, None);
        }
        endpoints[index] =
            Some(Endpoint { primary, more: addresses.collect(), mtu: environment.endpoint_mtu });
    }
    Ok(endpoints)
}

/// Tunnels and adjacencies, made when the first route needs them.
struct Ways<'a> {
    plan: &'a NodePlan,
    environment: &'a Environment,
    tunnels: Vec<Tunnel>,
    adjacencies: Vec<Adjacency>,
    known: HashMap<(usize, Encap), Action>,
}

impl Ways<'_> {
    fn action(&mut self, target: Target) -> Result<Option<Action>, CompileError> {
        Ok(match target {
            Target::Endpoint(index) => {
                self.environment.endpoint_ids.get(index).copied().flatten().map(Action::Deliver)
            }
            Target::Peer { peer, encap } => Some(self.way(peer, encap)?),
            Target::Host if self.environment.host_mtu.is_some() => Some(Action::Host),
            Target::Host => Some(Action::NoRoute),
            Target::Blackhole => Some(Action::Blackhole),
        })
    }

    fn way(&mut self, peer: usize, encap: Encap) -> Result<Action, CompileError> {
        if let Some(action) = self.known.get(&(peer, encap)) {
            return Ok(*action);
        }
        let action = match encap {
            Encap::Ipip => {
                let local = v4(self.plan.address, &self.plan.node)?;
                let remote = v4(self.plan.peers[peer].address, &self.plan.peers[peer].name)?;
                let header = IpipHeader::new(local, remote, self.environment.outer_ttl);
                let mtu = self.plan.settings.ipip_mtu;
                self.tunnel(peer, mtu, IPIP_OVERHEAD, Encapsulation::Ipip(header))?
            }
            Encap::Vxlan => {
                let vni = Vni(self.plan.settings.vxlan_vni);
                let header = VxlanHeader::new(vni, self.plan.vtep_mac, self.plan.peers[peer].vtep_mac);
                let mtu = self.plan.settings.vxlan_mtu;
                self.tunnel(peer, mtu, VXLAN_OVERHEAD, Encapsulation::Vxlan(header))?
            }
            Encap::Direct => {
                self.adjacencies.push(Adjacency {
                    peer: PeerId(id(peer)?),
                    next_hop: self.plan.peers[peer].address,
                    mtu: self.environment.underlay_mtu,
                });
                Action::Direct(AdjacencyId(id(self.adjacencies.len() - 1)?))
            }
        };
        self.known.insert((peer, encap), action);
        Ok(action)
    }

    fn tunnel(
        &mut self,
        peer: usize,
        configured_mtu: Option<u16>,
        overhead: u16,
        encapsulation: Encapsulation,
    ) -> Result<Action, CompileError> {
        let mtu = configured_mtu.unwrap_or(self.environment.underlay_mtu.saturating_sub(overhead));
        let remote = self.plan.peers[peer].address;
        self.tunnels.push(Tunnel { peer: PeerId(id(peer)?), remote, mtu, encapsulation });
        Ok(Action::Tunnel(TunnelId(id(self.tunnels.len() - 1)?)))
    }
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
