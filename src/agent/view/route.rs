//! Routes.

use serde::{Deserialize, Serialize};

use crate::agent::Agent;
use crate::rib::{self, Encap, NodePlan, RouteClass, Rule, Target};

/// The best route of a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination.
    pub prefix: String,
    /// Where it leads, for people.
    pub to: String,
    /// The endpoint that it leads to, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The peer that it leads to, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// `local`, `ipip`, `vxlan`, `plain`, `host`, `drop`.
    pub how: String,
    /// Why it won against others of the same prefix, in Felix's classes.
    pub class: String,
    /// The pool that covers the prefix.
    pub pool: Option<String>,
    /// The rule that made it, in a sentence.
    pub because: String,
}

impl Route {
    /// A route of `plan`.
    pub fn of(plan: &NodePlan, route: &rib::Route) -> Self {
        let (mut endpoint, mut peer) = (None, None);
        let to = match route.target {
            Target::Endpoint(index) => match plan.endpoints.get(index) {
                Some(found) => {
                    endpoint = Some(found.name.clone());
                    format!("{} {}", found.workload, found.interface)
                }
                None => "?".into(),
            },
            Target::Peer { peer: index, underlay, .. } => match plan.peers.get(index) {
                Some(found) => {
                    peer = Some(found.name.clone());
                    let address = found.underlays.of(underlay).map(|underlay| underlay.address.to_string());
                    format!("{} ({})", address.unwrap_or_default(), found.name)
                }
                None => "?".into(),
            },
            Target::Host => "this node".into(),
            Target::Blackhole => "nowhere".into(),
        };
        Route {
            prefix: route.prefix.to_string(),
            to,
            endpoint,
            peer,
            how: how(route.target).into(),
            class: class(route).into(),
            pool: route.pool.map(|pool| pool.to_string()),
            because: plan.explain(route),
        }
    }

    /// All routes of `plan`, by prefix.
    pub fn all(plan: &NodePlan) -> Vec<Self> {
        plan.routes.iter().map(|route| Route::of(plan, route)).collect()
    }

    pub(crate) fn list(agent: &Agent) -> Vec<Self> {
        Route::all(&agent.plan)
    }
}

/// The encapsulation's name, as in tables.
pub(super) fn encapsulation(encap: Encap) -> &'static str {
    match encap {
        Encap::Ipip => "ipip",
        Encap::Vxlan => "vxlan",
        Encap::Direct => "plain",
    }
}

fn how(target: Target) -> &'static str {
    match target {
        Target::Endpoint(_) => "local",
        Target::Peer { encap, .. } => encapsulation(encap),
        Target::Host => "host",
        Target::Blackhole => "drop",
    }
}

fn class(route: &rib::Route) -> &'static str {
    let borrowed = matches!(route.rule, Rule::Borrowed { .. });
    match (route.class, borrowed) {
        (RouteClass::LocalWorkload, _) => "local workload",
        (RouteClass::LocalHost, _) => "local host",
        (RouteClass::VxlanSameSubnet, false) => "vxlan same subnet",
        (RouteClass::VxlanSameSubnet, true) => "vxlan same subnet, borrowed",
        (RouteClass::VxlanTunnel, false) => "vxlan tunnel",
        (RouteClass::VxlanTunnel, true) => "vxlan tunnel, borrowed",
        (RouteClass::IpipSameSubnet, false) => "ipip same subnet",
        (RouteClass::IpipSameSubnet, true) => "ipip same subnet, borrowed",
        (RouteClass::IpipTunnel, false) => "ipip tunnel",
        (RouteClass::IpipTunnel, true) => "ipip tunnel, borrowed",
        (RouteClass::NoEncap, false) => "no encap",
        (RouteClass::NoEncap, true) => "no encap, borrowed",
        (RouteClass::Blackhole, _) => "blackhole",
    }
}
