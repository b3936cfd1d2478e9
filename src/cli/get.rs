//! `margay get`: lists of what the running daemon has.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::asking::{AskError, Asking};
use super::{routes, table};
use crate::agent::view::{Endpoint, Node, NodeUnderlay, Peer, Pool, Tunnel};

/// List the running daemon's routes, endpoints, peers, tunnels, pools or nodes
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// What to list
    what: What,
    #[command(flatten)]
    asking: Asking,
}

/// What can be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// The best route of each prefix: where it leads, how, and by which rule
    Routes,
    /// This node's workloads: how they are attached, or why not; MTU; frames received, sent, punted, dropped
    Endpoints,
    /// Other nodes: how packets travel there, what is known of the path; frames received, sent, punted, dropped
    Peers,
    /// Ways with an outer header: MTU, and where it comes from
    Tunnels,
    /// IPPools: mode and settings
    Pools,
    /// All nodes: addresses, subnets as CrossSubnet compares them, blocks
    Nodes,
}

pub(super) fn run(args: &Args) -> Result<(), AskError> {
    match args.what {
        What::Routes => list(args, "/v1/routes", routes::table),
        What::Endpoints => list(args, "/v1/endpoints", endpoints),
        What::Peers => list(args, "/v1/peers", peers),
        What::Tunnels => list(args, "/v1/tunnels", tunnels),
        What::Pools => list(args, "/v1/pools", pools),
        What::Nodes => list(args, "/v1/nodes", nodes),
    }
}

fn list<T: Serialize + DeserializeOwned>(
    args: &Args,
    path: &str,
    table: impl FnOnce(&[T]) -> String,
) -> Result<(), AskError> {
    let list: Vec<T> = args.asking.client()?.get(path)?;
    args.asking.print(&list, |list| match list.is_empty() {
        true => "none\n".into(),
        false => table(list),
    })
}

fn endpoints(list: &[Endpoint]) -> String {
    let row = |endpoint: &Endpoint| {
        let (received, sent) = endpoint.account.frames();
        let how = match endpoint.attached {
            true => endpoint.how.clone(),
            false => format!("NOT ATTACHED: {}", endpoint.how),
        };
        [
            endpoint.workload.clone(),
            endpoint.addresses.join(" "),
            or_dash(endpoint.mtu),
            received.to_string(),
            sent.to_string(),
            endpoint.account.punted.to_string(),
            endpoint.account.dropped.to_string(),
            how,
        ]
    };
    table::render(
        ["WORKLOAD", "ADDRESSES", "MTU", "RECEIVED", "SENT", "PUNTED", "DROPPED", "HOW"],
        list.iter().map(row).collect(),
    )
}

fn peers(list: &[Peer]) -> String {
    let row = |peer: &Peer| {
        let (received, sent) = peer.account.frames();
        let path = match (&peer.fault, &peer.path_mtu) {
            (Some(fault), _) => format!("BROKEN: {}", fault.what),
            (None, Some(path)) => format!("takes {}: {}", path.bytes, path.because),
            (None, None) => "as configured".into(),
        };
        [
            peer.name.clone(),
            peer.addresses.join(" "),
            peer.encapsulations.join(" "),
            peer.routes.to_string(),
            peer.underlay_mtus.iter().copied().map(or_dash).collect::<Vec<String>>().join(" "),
            received.to_string(),
            sent.to_string(),
            peer.account.punted.to_string(),
            peer.account.dropped.to_string(),
            path,
        ]
    };
    let header =
        ["NODE", "ADDRESS", "HOW", "ROUTES", "UNDERLAY MTU", "RECEIVED", "SENT", "PUNTED", "DROPPED", "PATH"];
    table::render(header, list.iter().map(row).collect())
}

fn tunnels(list: &[Tunnel]) -> String {
    let row = |tunnel: &Tunnel| {
        let because = match tunnel.mtu == tunnel.configured_mtu {
            true => tunnel.because.clone(),
            false => format!("the path takes less than {}: see margay get peers", tunnel.configured_mtu),
        };
        [
            tunnel.peer.clone(),
            tunnel.encapsulation.clone(),
            tunnel.local.clone(),
            tunnel.remote.clone(),
            tunnel.mtu.to_string(),
            yes(tunnel.mss_clamped),
            because,
        ]
    };
    let header = ["NODE", "HOW", "LOCAL", "REMOTE", "MTU", "MSS CLAMPED", "BECAUSE"];
    table::render(header, list.iter().map(row).collect())
}

fn pools(list: &[Pool]) -> String {
    let row = |pool: &Pool| {
        [
            pool.cidr.clone(),
            pool.mode.clone(),
            pool.routes.to_string(),
            yes(pool.nat_outgoing),
            yes(pool.mss_clamped),
            yes(pool.disabled),
        ]
    };
    let header = ["CIDR", "MODE", "ROUTES", "NAT OUTGOING", "MSS CLAMPED", "DISABLED"];
    table::render(header, list.iter().map(row).collect())
}

fn nodes(list: &[Node]) -> String {
    let row = |node: &Node| {
        let name = if node.is_this { format!("{} (this)", node.name) } else { node.name.clone() };
        let each = |of: fn(&NodeUnderlay) -> String| {
            node.underlays.iter().map(of).collect::<Vec<String>>().join(" ")
        };
        [
            name,
            each(|underlay| underlay.address.clone()),
            each(|underlay| underlay.subnet.clone()),
            each(|underlay| yes(underlay.in_our_subnet)),
            each(|underlay| yes(underlay.has_us_in_its_subnet)),
            node.blocks.join(" "),
        ]
    };
    let header = ["NODE", "ADDRESS", "SUBNET", "IN OUR SUBNET", "WE IN ITS", "BLOCKS"];
    table::render(header, list.iter().map(row).collect())
}

fn yes(is_so: bool) -> String {
    if is_so { "yes" } else { "no" }.into()
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}
