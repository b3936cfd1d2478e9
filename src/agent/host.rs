//! The host interface: how pods reach their node and what is beyond, and how the node reaches its pods.
//!
//! Beside it, one thing is done to the node's kernel even without a host interface: what arrives on the
//! underlay for this node's blocks without encapsulation is margay's, and must neither be forwarded nor
//! answered by the kernel. A rule sends it to a table of blackholes, as Calico's `blackhole` routes do.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::Ipv4Net;

use super::workers::Workers;
use crate::dataplane::PortId;
use crate::io::tap::TapPort;
use crate::lpm::Prefix;
use crate::rib::NodePlan;
use crate::sys::netlink::{ErrorKind, Family, LinkChange, Netlink, NetlinkError, Route, RouteKind, Rule};
use crate::sys::tun::{self, Layer, TunError};

/// Who made our routes and rules, as Calico marks its own (`proto 80`).
const PROTOCOL: u8 = 80;
/// Table of the blackholes, and priority of the rule that leads there: after `local`, before `main`.
const TABLE: u32 = 4789;
const PRIORITY: u32 = 1000;

/// Why there is no host interface.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The TUN.
    #[error("{0}; or do without: --host-interface none")]
    Tun(#[from] TunError),
    /// Its addresses and routes.
    #[error("{0}; or do without: --host-interface none")]
    Netlink(#[from] NetlinkError),
}

/// The TUN towards this node's kernel. It goes away with its descriptor, and its routes with it.
#[derive(Debug)]
pub(super) struct HostInterface {
    name: String,
    /// For the start-up screen.
    pub(super) how: String,
    state: State,
}

/// What the interface was given.
#[derive(Debug, Default, PartialEq, Eq)]
struct State {
    addresses: Vec<IpAddr>,
    pools: Vec<Prefix>,
    mtu: u16,
}

impl State {
    fn of(plan: &NodePlan, mtu: u16) -> Self {
        let tunnels = [plan.vxlan_tunnel_addr, plan.ipip_tunnel_addr];
        State {
            addresses: tunnels.into_iter().flatten().collect(),
            pools: plan.pools.iter().map(|pool| pool.cidr).collect(),
            mtu,
        }
    }
}

impl HostInterface {
    /// Makes the interface and gives it to the workers: each can send, the first receives.
    ///
    /// # Errors
    /// See [`HostError`].
    pub(super) fn open(name: &str, plan: &NodePlan, mtu: u16, workers: &Workers) -> Result<Self, HostError> {
        let interface = tun::open(name, Layer::Tun, 1)?;
        let how = format!("TUN {name}, {}", interface.offloads.name());
        let mut host = HostInterface { name: name.to_owned(), how, state: State::default() };
        host.follow(plan, mtu)?;
        for file in interface.queues {
            let file = Arc::new(file);
            for index in 0..workers.count() {
                let port = TapPort::new(Arc::clone(&file), Layer::Tun, interface.offloads);
                workers.attach(index, PortId::Host, Box::new(port), index == 0, None);
            }
        }
        Ok(host)
    }

    /// Gives it the addresses and routes of `plan`.
    ///
    /// # Errors
    /// The kernel refuses one of them.
    pub(super) fn follow(&mut self, plan: &NodePlan, mtu: u16) -> Result<(), HostError> {
        let state = State::of(plan, mtu);
        if self.state == state {
            return Ok(());
        }
        let mut netlink = Netlink::open()?;
        let link = netlink.link(self.name.as_str())?;
        netlink.set_link(link.index, &[LinkChange::Mtu(mtu.into())])?;
        unless(ErrorKind::Unsupported, netlink.set_link(link.index, &[LinkChange::NoLinkLocal]))?;
        for address in self.state.addresses.iter().filter(|old| !state.addresses.contains(old)) {
            unless(ErrorKind::NotFound, netlink.delete_address(link.index, Prefix::from(*address)))?;
        }
        for address in &state.addresses {
            unless(ErrorKind::Exists, netlink.add_address(link.index, Prefix::from(*address)))?;
        }
        netlink.set_link(link.index, &[LinkChange::Up])?;
        // The kernel's own packets to pods come from the tunnel address; a node without one has only its own.
        let source = state.addresses.first().copied().unwrap_or(plan.address);
        let route = |pool: &Prefix| Route {
            dev: Some(link.index),
            scope: crate::sys::netlink::Scope::Link,
            prefsrc: Some(source),
            protocol: PROTOCOL,
            ..Route::to(*pool)
        };
        for pool in self.state.pools.iter().filter(|old| !state.pools.contains(old)) {
            unless(ErrorKind::NotFound, netlink.delete_route(&route(pool)))?;
        }
        for pool in &state.pools {
            netlink.replace_route(&route(pool))?;
        }
        self.state = state;
        Ok(())
    }
}

/// The rule and the blackholes that keep the kernel from what is margay's; removed when dropped.
#[derive(Debug)]
pub(super) struct Guard {
    interface: String,
    prefixes: Vec<Ipv4Net>,
}

impl Guard {
    /// Begins anew: what an earlier process may have left is removed.
    ///
    /// # Errors
    /// The kernel refuses; without CAP_NET_ADMIN in this namespace it does.
    pub(super) fn new(interface: &str) -> Result<Self, NetlinkError> {
        let mut netlink = Netlink::open()?;
        clear(&mut netlink)?;
        netlink.add_rule(&rule(interface))?;
        Ok(Guard { interface: interface.to_owned(), prefixes: Vec::new() })
    }

    /// The underlay interface that it guards.
    pub(super) fn interface(&self) -> &str {
        &self.interface
    }

    /// Guards these prefixes, and no others.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(super) fn follow(&mut self, prefixes: &[Ipv4Net]) -> Result<(), NetlinkError> {
        if self.prefixes == prefixes {
            return Ok(());
        }
        let mut netlink = Netlink::open()?;
        for prefix in self.prefixes.iter().filter(|old| !prefixes.contains(old)) {
            unless(ErrorKind::NotFound, netlink.delete_route(&blackhole(*prefix)))?;
        }
        for prefix in prefixes {
            netlink.replace_route(&blackhole(*prefix))?;
        }
        self.prefixes = prefixes.to_vec();
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(error) = Netlink::open().and_then(|mut netlink| clear(&mut netlink)) {
            tracing::warn!(%error, "the rule for the underlay could not be removed");
        }
    }
}

/// Removes our rules and our table.
fn clear(netlink: &mut Netlink) -> Result<(), NetlinkError> {
    let ours = |rule: &Rule| rule.table == TABLE && rule.protocol == PROTOCOL;
    for rule in netlink.rules(Family::V4)?.iter().filter(|rule| ours(rule)) {
        unless(ErrorKind::NotFound, netlink.delete_rule(rule))?;
    }
    let routes = netlink.routes(Family::V4)?;
    for route in routes.iter().filter(|route| route.table == TABLE && route.protocol == PROTOCOL) {
        unless(ErrorKind::NotFound, netlink.delete_route(route))?;
    }
    Ok(())
}

fn rule(interface: &str) -> Rule {
    Rule {
        family: Family::V4,
        iif: Some(interface.to_owned()),
        table: TABLE,
        priority: PRIORITY,
        protocol: PROTOCOL,
    }
}

fn blackhole(prefix: Ipv4Net) -> Route {
    Route { kind: RouteKind::Blackhole, table: TABLE, protocol: PROTOCOL, ..Route::to(Prefix::V4(prefix)) }
}

fn unless(tolerated: ErrorKind, result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match result {
        Err(error) if error.kind == tolerated => Ok(()),
        other => other,
    }
}
