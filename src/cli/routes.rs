//! A node's routes as a table for people.

use std::fmt::Write as _;

use crate::rib::{Encap, NodePlan, Route, RouteClass, Rule, Target};

/// The routes of `plan`, one a line under a header: prefix, where it leads, how, class, and why. Empty
/// text where there are none.
pub fn table(plan: &NodePlan) -> String {
    if plan.routes.is_empty() {
        return String::new();
    }
    let header = ["PREFIX", "TO", "HOW", "CLASS", "BECAUSE"].map(str::to_owned);
    let rows: Vec<[String; 5]> =
        std::iter::once(header).chain(plan.routes.iter().map(|route| row(plan, route))).collect();
    let mut widths = [0; 4];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(widths) {
            // Writing to a String cannot fail.
            let _ = write!(text, "{cell:width$}  ");
        }
        text.push_str(&row[4]);
        text.push('\n');
    }
    text
}

fn row(plan: &NodePlan, route: &Route) -> [String; 5] {
    [route.prefix.to_string(), to(plan, route), how(route).into(), class(route).into(), plan.explain(route)]
}

fn to(plan: &NodePlan, route: &Route) -> String {
    match route.target {
        Target::Endpoint(index) => match plan.endpoints.get(index) {
            Some(endpoint) => format!("{} {}", endpoint.workload, endpoint.interface),
            None => "?".into(),
        },
        Target::Peer { peer, .. } => match plan.peers.get(peer) {
            Some(peer) => format!("{} ({})", peer.address, peer.name),
            None => "?".into(),
        },
        Target::Host => "this node".into(),
        Target::Blackhole => "nowhere".into(),
    }
}

fn how(route: &Route) -> &'static str {
    match route.target {
        Target::Endpoint(_) => "local",
        Target::Peer { encap: Encap::Ipip, .. } => "ipip",
        Target::Peer { encap: Encap::Vxlan, .. } => "vxlan",
        Target::Peer { encap: Encap::Direct, .. } => "plain",
        Target::Host => "host",
        Target::Blackhole => "drop",
    }
}

fn class(route: &Route) -> &'static str {
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
