//! Why a route is what it is, in a sentence.

use std::net::IpAddr;

use super::way::{self, Ends, Way};
use super::{Encap, NodePlan, PoolPlan, Route, Rule, Target};
use crate::lpm::Prefix;
use crate::wire::Family;

impl NodePlan {
    /// The rule that made `route`, a route of this plan, with the values it looked at: "block
    /// 10.65.1.0/26 of node-b; pool 10.65.0.0/16 says vxlan CrossSubnet; 192.168.77.2 is inside this
    /// node's 192.168.77.0/24: no encapsulation".
    pub fn explain(&self, route: &Route) -> String {
        match route.target {
            Target::Endpoint(index) => match self.endpoints.get(index) {
                Some(endpoint) => format!("endpoint {} of this node", endpoint.name),
                None => "endpoint of this node".to_owned(),
            },
            Target::Host => format!("this node's {}", own_address(route.rule)),
            Target::Blackhole => {
                format!("block {} of this node: what no endpoint holds is dropped", route.prefix)
            }
            Target::Peer { peer, encap, underlay } => {
                self.explain_remote(route, peer, Way { class: route.class, encap, underlay })
            }
        }
    }

    /// The routes that cover an address, the longest prefix first: that one it takes.
    pub fn routes_to(&self, address: IpAddr) -> impl Iterator<Item = &Route> {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        (0..=longest).rev().filter_map(move |len| {
            let prefix = Prefix::new(address, len).ok()?.trunc();
            let place = self.routes.binary_search_by_key(&prefix, |route| route.prefix).ok()?;
            Some(&self.routes[place])
        })
    }

    fn explain_remote(&self, route: &Route, peer: usize, way: Way) -> String {
        let Some(peer) = self.peers.get(peer) else { return "route of another plan".to_owned() };
        let prefix = route.prefix;
        let what = match route.rule {
            Rule::Borrowed { from: Some(block) } => {
                format!("{} of an endpoint on {}, borrowed from block {block}", prefix.addr(), peer.name)
            }
            Rule::Borrowed { from: None } => {
                format!("{} of an endpoint on {}, in no block", prefix.addr(), peer.name)
            }
            Rule::IpipTunnelAddress => format!("ipip tunnel address of {}", peer.name),
            Rule::VxlanTunnelAddress => format!("vxlan tunnel address of {}", peer.name),
            Rule::Block | Rule::LocalEndpoint | Rule::NodeAddress => {
                format!("block {prefix} of {}", peer.name)
            }
        };
        let pool = route.pool.and_then(|cidr| self.pool(cidr)).filter(|pool| decided(route, pool));
        let how = way::words(Ok(way), Family::of(prefix.addr()));
        match (pool, route.rule) {
            (Some(pool), _) => {
                let ends = Ends { from: &self.underlays, to: &peer.underlays };
                format!("{what}; {}", way::because(pool, ends, "this node's", Ok(way)))
            }
            (None, Rule::IpipTunnelAddress | Rule::VxlanTunnelAddress) => format!("{what}: {how}"),
            (None, _) => format!("{what}; no pool covers it: {how}"),
        }
    }

    /// The pool of this prefix.
    pub(super) fn pool(&self, cidr: Prefix) -> Option<&PoolPlan> {
        self.pools.binary_search_by_key(&cidr, |pool| pool.cidr).ok().map(|index| &self.pools[index])
    }
}

/// A tunnel address keeps its own encapsulation, whatever the pool around it says; of a pool of the
/// same encapsulation it takes CrossSubnet.
fn decided(route: &Route, pool: &PoolPlan) -> bool {
    match route.rule {
        Rule::IpipTunnelAddress => pool.encap == Encap::Ipip,
        Rule::VxlanTunnelAddress => pool.encap == Encap::Vxlan,
        _ => true,
    }
}

fn own_address(rule: Rule) -> &'static str {
    match rule {
        Rule::IpipTunnelAddress => "ipip tunnel address",
        Rule::VxlanTunnelAddress => "vxlan tunnel address",
        _ => "own address",
    }
}

impl PoolPlan {
    /// What it says of encapsulation, in Calico's words.
    pub fn mode(&self) -> &'static str {
        match (self.encap, self.cross_subnet) {
            (Encap::Ipip, false) => "ipip Always",
            (Encap::Ipip, true) => "ipip CrossSubnet",
            (Encap::Vxlan, false) => "vxlan Always",
            (Encap::Vxlan, true) => "vxlan CrossSubnet",
            (Encap::Direct, _) => "ipip Never and vxlan Never",
        }
    }
}
