//! From a plan to a snapshot.

use std::collections::HashMap;
use std::net::IpAddr;

use super::action::ID_LIMIT;
use super::address::{Address, Home, Owned, Table};
use super::tunnel::{IpipHeader, VxlanHeader};
use super::{
    Action, Adjacency, AdjacencyId, Encapsulation, Endpoint, EndpointId, Fib, IPIP_OVERHEAD, NO_PEER, Node,
    OuterTtl, Peer, PeerId, Tunnel, TunnelId, VXLAN_OVERHEAD, VXLAN_V6_OVERHEAD,
};
use crate::lpm::{Lpm, Prefix};
use crate::rib::{Encap, NodePlan, Settings, Target};
use crate::wire::vxlan::Vni;
use crate::wire::{Family, MacAddr};

/// What the machine adds to the plan.
#[derive(Debug, Clone)]
pub struct Environment {
    /// What each endpoint of the plan is attached as, by its index; `None` while it is not.
    pub endpoints: Vec<Option<Attachment>>,
    /// IP MTU of the underlay's path to each peer, bytes, by underlay address; a peer without is not limited by it.
    pub peer_mtus: HashMap<IpAddr, u16>,
    /// IP MTU of the host interface, or `None` where there is none: then no route means `NoRoute`.
    pub host_mtu: Option<u16>,
    /// TTL of IPIP outer headers.
    pub outer_ttl: OuterTtl,
    /// Sources of ICMP errors where it is not left to [`Node::icmp_source`]'s rule: the first of each family counts.
    pub icmp_sources: Vec<IpAddr>,
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
        let mut peers = Vec::with_capacity(plan.peers.len());
        let mut ids = HashMap::with_capacity(plan.peers.len());
        for (index, peer) in plan.peers.iter().enumerate() {
            for underlay in peer.underlays.iter() {
                ids.insert((index, Family::of(underlay.address)), PeerId(id(peers.len())?));
                peers.push(Peer { name: peer.name.clone(), address: underlay.address });
            }
        }

        let clamping: Vec<Prefix> =
            plan.pools.iter().filter(|pool| pool.clamps).map(|pool| pool.cidr).collect();
        let mut ways = Ways {
            plan,
            environment,
            ids,
            tunnels: Vec::new(),
            adjacencies: Vec::new(),
            known: HashMap::new(),
        };
        let mut routes = Vec::with_capacity(plan.pools.len() + plan.routes.len());
        // An address of the overlay that no block has is nowhere: the way out is for other addresses.
        routes.extend(plan.pools.iter().map(|pool| (pool.cidr, Action::NoRoute)));
        for route in &plan.routes {
            let clamps = route.pool.is_some_and(|pool| clamping.contains(&pool));
            let Some(action) = ways.action(route.target, clamps)? else { continue };
            routes.push((route.prefix, action));
        }
        let default = if environment.host_mtu.is_some() { Action::Host } else { Action::NoRoute };

        Ok(Fib {
            v4: table(default, &routes, &peers)?,
            v6: table(default, &routes, &peers)?,
            endpoints: endpoints(plan, environment, &clamping)?,
            tunnels: ways.tunnels,
            adjacencies: ways.adjacencies,
            peers,
            node: node(plan, environment),
            clamps_any: !clamping.is_empty(),
        })
    }
}

/// What of all routes and peers is of family `A`.
fn table<A: Address>(
    default: Action,
    routes: &[(Prefix, Action)],
    peers: &[Peer],
) -> Result<Table<A>, CompileError> {
    let routes = routes.iter().filter_map(|(prefix, action)| {
        Some((A::of(prefix.network())?, prefix.prefix_len(), action.encode()))
    });
    let peers = (0..).zip(peers).filter_map(|(id, peer)| {
        let address = A::of(peer.address)?;
        Some((address, Prefix::from(peer.address).prefix_len(), id))
    });
    Ok(Table { routes: Lpm::build(default.encode(), routes)?, peers: Lpm::build(NO_PEER, peers)? })
}

fn node(plan: &NodePlan, environment: &Environment) -> Node {
    Node {
        vni: Vni(plan.settings.vxlan_vni),
        vxlan_port: plan.settings.vxlan_port,
        allow_ipip_from_workloads: plan.settings.allow_ipip_from_workloads,
        allow_vxlan_from_workloads: plan.settings.allow_vxlan_from_workloads,
        host_mtu: environment.host_mtu.unwrap_or(u16::MAX),
        v4: home(plan, environment),
        v6: home(plan, environment),
    }
}

fn home<A: Address>(plan: &NodePlan, environment: &Environment) -> Home<A> {
    let underlay = plan.underlays.of(A::FAMILY);
    let address = underlay.and_then(|underlay| A::of(underlay.address));
    let tunnels: Vec<A> = plan.tunnel_addresses().filter_map(A::of).collect();
    let configured = environment.icmp_sources.iter().copied().find_map(A::of);
    Home {
        underlay: address,
        vtep_mac: underlay.map_or(MacAddr([0; 6]), |underlay| underlay.vtep_mac),
        icmp_source: configured.or(tunnels.first().copied()).or(address),
        addresses: address.into_iter().chain(tunnels).collect(),
    }
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
        if id.0 >= ID_LIMIT {
            return Err(CompileError::TooMany);
        }
        let index = id.0 as usize;
        if endpoints.len() <= index {
            endpoints.resize(index + 1, None);
        }
        endpoints[index] = Some(Endpoint {
            v4: owned(&endpoint.addresses),
            v6: owned(&endpoint.addresses),
            spoofed: endpoint.spoofed_sources.clone().into(),
            mtu,
            clamps: endpoint.addresses.iter().any(is_clamping),
        });
    }
    Ok(endpoints)
}

fn owned<A: Address>(addresses: &[IpAddr]) -> Owned<A> {
    let mut addresses = addresses.iter().copied().filter_map(A::of);
    Owned { primary: addresses.next(), more: addresses.collect() }
}

/// Tunnels and adjacencies, made when the first route needs them.
struct Ways<'a> {
    plan: &'a NodePlan,
    environment: &'a Environment,
    /// By index in the plan and family of the underlay.
    ids: HashMap<(usize, Family), PeerId>,
    tunnels: Vec<Tunnel>,
    adjacencies: Vec<Adjacency>,
    known: HashMap<(PeerId, Encap, bool), Action>,
}

impl Ways<'_> {
    fn action(&mut self, target: Target, clamps: bool) -> Result<Option<Action>, CompileError> {
        Ok(match target {
            Target::Endpoint(index) => {
                let attachment = self.environment.endpoints.get(index).copied().flatten();
                attachment.map(|attachment| Action::Deliver(attachment.id))
            }
            Target::Peer { peer, encap, underlay } => self.way(peer, underlay, encap, clamps)?,
            Target::Host if self.environment.host_mtu.is_some() => Some(Action::Host),
            Target::Host => Some(Action::NoRoute),
            Target::Blackhole => Some(Action::Blackhole),
        })
    }

    /// `None` where the two nodes have no underlay of that family in common, which no plan says.
    fn way(
        &mut self,
        peer: usize,
        family: Family,
        encap: Encap,
        clamps: bool,
    ) -> Result<Option<Action>, CompileError> {
        let Some(peer_id) = self.ids.get(&(peer, family)).copied() else { return Ok(None) };
        if let Some(action) = self.known.get(&(peer_id, encap, clamps)) {
            return Ok(Some(*action));
        }
        let ends = (self.plan.underlays.of(family), self.plan.peers[peer].underlays.of(family));
        let (Some(here), Some(there)) = ends else { return Ok(None) };
        let remote = there.address;
        let path = self.environment.peer_mtus.get(&remote).copied().unwrap_or(u16::MAX);
        let mtu = inner_mtu(&self.plan.settings, encap, family, path);
        let encapsulation = match (encap, here.address, remote) {
            (Encap::Ipip, IpAddr::V4(local), IpAddr::V4(remote)) => {
                let header = IpipHeader::new(local, remote, self.environment.outer_ttl);
                Some(Encapsulation::Ipip(header))
            }
            (Encap::Ipip, ..) => return Ok(None),
            (Encap::Vxlan, ..) => {
                let vni = Vni(self.plan.settings.vxlan_vni);
                Some(Encapsulation::Vxlan(VxlanHeader::new(vni, here.vtep_mac, there.vtep_mac)))
            }
            (Encap::Direct, ..) => None,
        };
        let action = match encapsulation {
            Some(encapsulation) => {
                self.tunnels.push(Tunnel::new(peer_id, remote, (mtu, clamps), encapsulation));
                Action::Tunnel(TunnelId(id(self.tunnels.len() - 1)?))
            }
            None => {
                self.adjacencies.push(Adjacency { peer: peer_id, next_hop: remote, mtu, clamps });
                Action::Direct(AdjacencyId(id(self.adjacencies.len() - 1)?))
            }
        };
        self.known.insert((peer_id, encap, clamps), action);
        Ok(Some(action))
    }
}

/// Greatest IP packet of the overlay that fits on a path of the underlay, bytes: `path` is the path's MTU, `underlay` its
/// family. Felix's settings can lower it. They cannot raise it: what did not fit would have to be fragmented outside, which
/// RFC 7348 4.3 forbids and which loses every packet where fragments do not pass.
pub fn inner_mtu(settings: &Settings, encap: Encap, underlay: Family, path: u16) -> u16 {
    let (overhead, setting) = match (encap, underlay) {
        (Encap::Ipip, _) => (IPIP_OVERHEAD, settings.ipip_mtu),
        (Encap::Vxlan, Family::V4) => (VXLAN_OVERHEAD, settings.vxlan_mtu),
        (Encap::Vxlan, Family::V6) => (VXLAN_V6_OVERHEAD, settings.vxlan_mtu_v6),
        (Encap::Direct, _) => (0, None),
    };
    let fits = path.saturating_sub(overhead);
    setting.map_or(fits, |setting| setting.min(fits))
}

fn id(index: usize) -> Result<u32, CompileError> {
    u32::try_from(index).ok().filter(|id| *id < ID_LIMIT).ok_or(CompileError::TooMany)
}
