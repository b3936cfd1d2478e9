//! What becomes of a packet for an address, and why.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::route::{Route, encapsulation};
use crate::agent::Agent;
use crate::agent::mtu::{Way, by_way};
use crate::fib::{Action, Fib};
use crate::rib::{Encap, NodePlan, Target};
use crate::wire::Family;

/// What becomes of a packet for an address, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The address.
    pub address: String,
    /// The node that was asked.
    pub node: String,
    /// What the workers do with such a packet: the FIB's answer.
    pub action: String,
    /// The route that decides: the longest prefix.
    pub route: Option<Route>,
    /// Shorter prefixes that cover the address as well, longest first: what would decide without that route.
    pub covered: Vec<Route>,
    /// The header in front of it.
    pub outer: Option<Outer>,
    /// Greatest packet that goes there.
    pub mtu: Option<Mtu>,
    /// How the peer's answers come back, pool by pool of this node's addresses.
    pub back: Vec<Back>,
    /// They come back as this node sends; absent where there is no peer.
    pub symmetric: Option<bool>,
    /// What is known to be wrong.
    pub problems: Vec<String>,
}

/// An outer header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outer {
    /// `ipip` or `vxlan`.
    pub encapsulation: String,
    /// This node.
    pub source: String,
    /// The peer.
    pub destination: String,
    /// What else stands in it.
    pub details: String,
}

/// A greatest packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mtu {
    /// Bytes of the IP packet as the workload sends it.
    pub bytes: u16,
    /// What limits it.
    pub because: String,
}

/// How a peer sends to this node's pods, by its own view of the same resources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Back {
    /// The pool of this node's addresses.
    pub pool: Option<String>,
    /// `ipip`, `vxlan`, `plain`; `none` where they cannot.
    pub how: String,
    /// The rule.
    pub because: String,
}

impl Explanation {
    pub(crate) fn of(agent: &Agent, address: IpAddr) -> Self {
        let (plan, fib) = (&agent.plan, agent.publication.current());
        let mut routes = plan.routes_to(address);
        let route = routes.next();
        let mut explanation = Explanation {
            address: address.to_string(),
            node: plan.node.clone(),
            action: action(agent, &fib, fib.lookup_any(address)),
            route: route.map(|route| Route::of(plan, route)),
            covered: routes.map(|route| Route::of(plan, route)).collect(),
            outer: None,
            mtu: None,
            back: Vec::new(),
            symmetric: None,
            problems: Vec::new(),
        };
        match route.map(|route| route.target) {
            Some(Target::Endpoint(index)) => explanation.endpoint(agent, index),
            Some(Target::Peer { peer, encap, underlay }) => {
                explanation.peer(agent, Family::of(address), peer, encap);
                explanation.outer = outer(agent, &fib, fib.lookup_any(address));
                explanation.path(agent, &fib, fib.lookup_any(address), encap);
                explanation.fault(agent, peer, underlay);
            }
            Some(Target::Blackhole) => {
                let problem = format!("no WorkloadEndpoint on {} has {address}", plan.node);
                explanation.problems.push(problem);
            }
            Some(Target::Host) => explanation.host(agent, fib.lookup_any(address)),
            None => {
                explanation.host(agent, fib.lookup_any(address));
                explanation.uncovered(plan, address);
            }
        }
        explanation
    }

    fn endpoint(&mut self, agent: &Agent, index: usize) {
        let Some(plan) = agent.plan.endpoints.get(index) else { return };
        if let Some(attached) = agent.endpoints.get(&plan.name) {
            let because = match attached.mtu() {
                mtu if mtu == agent.mtu.bytes => agent.mtu.because().to_string(),
                _ => format!("{} has it as it was given", plan.interface),
            };
            self.mtu = Some(Mtu { bytes: attached.mtu(), because });
        }
        if let Some(error) = agent.failed.get(&plan.name) {
            self.problems
                .push(format!("endpoint {} is not attached, will be tried again: {error}", plan.name));
        }
    }

    fn peer(&mut self, agent: &Agent, family: Family, index: usize, encap: Encap) {
        let Some(peer) = agent.plan.peers.get(index) else { return };
        let back = agent.plan.back(peer, family);
        self.symmetric = Some(back.iter().all(|back| back.encap == Some(encap)));
        self.back = back
            .into_iter()
            .map(|back| Back {
                pool: back.pool.map(|pool| pool.to_string()),
                how: back.encap.map_or("none", encapsulation).into(),
                because: back.because,
            })
            .collect();
    }

    /// What is known to be wrong with the way to a peer by one of its addresses.
    fn fault(&mut self, agent: &Agent, peer: usize, underlay: Family) {
        let Some(peer) = agent.plan.peers.get(peer) else { return };
        let Some(underlay) = peer.underlays.of(underlay) else { return };
        let known = agent.workers.paths().snapshot();
        if let Some((fault, _)) = known.get(&underlay.address).and_then(|path| path.fault) {
            self.problems.push(format!("the way to {} is broken: {fault}", peer.name));
        }
    }

    /// The tunnel's or the next hop's MTU, and what limits it.
    fn path(&mut self, agent: &Agent, fib: &Fib, action: Action, encap: Encap) {
        let (bytes, configured, remote) = match action {
            Action::Tunnel(id) => (fib.tunnel(id).mtu(), fib.tunnel(id).full_mtu(), fib.tunnel(id).remote),
            Action::Direct(id) => {
                let adjacency = fib.adjacency(id);
                (adjacency.mtu, adjacency.mtu, adjacency.next_hop)
            }
            _ => return,
        };
        let learned = agent.workers.paths().snapshot().get(&remote).and_then(|path| path.mtu);
        let because = match learned {
            Some((path, evidence, _)) if bytes < configured => {
                format!("the path to the peer takes {path}: {evidence}; {configured} is configured")
            }
            _ => {
                let way = Way { encap, underlay: Family::of(remote) };
                by_way(&agent.plan, &agent.paths, Some(remote), way).because().to_string()
            }
        };
        self.mtu = Some(Mtu { bytes, because });
    }

    fn uncovered(&mut self, plan: &NodePlan, address: IpAddr) {
        let pool = plan.pools.iter().find(|pool| pool.cidr.contains(&address));
        if let Some(pool) = pool {
            let problem = format!(
                "{address} is in pool {}, but no BlockAffinity of a node within reach has it",
                pool.cidr
            );
            self.problems.push(problem);
        }
    }

    fn host(&mut self, agent: &Agent, action: Action) {
        if action == Action::Host {
            self.mtu = Some(Mtu { bytes: agent.mtu.bytes, because: agent.mtu.because().to_string() });
        }
    }
}

fn action(agent: &Agent, fib: &Fib, action: Action) -> String {
    match action {
        Action::Deliver(id) => {
            let attached = agent.endpoints.values().find(|attached| attached.id == id);
            let workload = attached.map_or("an endpoint", |attached| attached.plan.workload.as_str());
            format!("delivered to {workload} on this node")
        }
        Action::Tunnel(id) => {
            let tunnel = fib.tunnel(id);
            format!("sent to node {} ({}) through a tunnel", fib.peer(tunnel.peer).name, tunnel.remote)
        }
        Action::Direct(id) => {
            let adjacency = fib.adjacency(id);
            let peer = fib.peer(adjacency.peer);
            format!("sent to node {} ({}) as next hop, not encapsulated", peer.name, adjacency.next_hop)
        }
        Action::Host if agent.host.is_some() => {
            "handed to this node's kernel, which delivers or routes it".into()
        }
        Action::Host => {
            "for this node, which answers pings and nothing else: it has no host interface".into()
        }
        Action::Blackhole => "dropped: blackhole".into(),
        Action::NoRoute => "refused: ICMP net unreachable to its sender".into(),
    }
}

fn outer(agent: &Agent, fib: &Fib, action: Action) -> Option<Outer> {
    let Action::Tunnel(id) = action else { return None };
    let (tunnel, settings) = (fib.tunnel(id), &agent.plan.settings);
    let (encap, details) = match &tunnel.encapsulation {
        crate::fib::Encapsulation::Ipip(_) => {
            (Encap::Ipip, format!("IP protocol 4, TTL {:?}", agent.config.outer_ttl))
        }
        crate::fib::Encapsulation::Vxlan(_) => {
            let peer = agent.plan.peers.iter().find(|peer| peer.underlays.have(tunnel.remote));
            let vtep = peer.and_then(|peer| peer.underlays.of(Family::of(tunnel.remote)));
            let vtep = vtep.map_or_else(String::new, |vtep| format!(", inner MAC {}", vtep.vtep_mac));
            (Encap::Vxlan, format!("UDP port {}, VNI {}{vtep}", settings.vxlan_port, settings.vxlan_vni))
        }
    };
    let source = agent.plan.underlays.of(Family::of(tunnel.remote))?.address;
    Some(Outer {
        encapsulation: encapsulation(encap).into(),
        source: source.to_string(),
        destination: tunnel.remote.to_string(),
        details,
    })
}
