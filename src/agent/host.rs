//! The host interface: how pods reach their node and what is beyond, and how the node reaches its pods.
//!
//! Beside it, one thing is done to the node's kernel even without a host interface: what arrives on the
//! underlay for this node's blocks without encapsulation is margay's, and must neither be forwarded nor
//! answered by the kernel. A rule sends it to a table of blackholes, as Calico's `blackhole` routes do.

use std::fs::File;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::Ipv4Net;

use super::Site;
use super::descriptors::Descriptors;
use super::mark::Mark;
use crate::dataplane::PortId;
use crate::io::tap::TapPort;
use crate::lpm::Prefix;
use crate::rib::NodePlan;
use crate::sys::netlink::{
    ErrorKind, Family, Link, LinkChange, Netlink, NetlinkError, Route, RouteKind, Rule,
};
use crate::sys::tun::{self, Interface, Layer, TunError};

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

/// The TUN towards this node's kernel. It stays when the daemon ends, and its addresses and routes with it: what is for
/// pods must not leave by another way meanwhile.
#[derive(Debug)]
pub(super) struct HostInterface {
    name: String,
    queue: Arc<File>,
    /// The kernel has taken the remark by which a later daemon knows it.
    is_marked: bool,
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
    /// What an earlier daemon gave it.
    fn found(netlink: &mut Netlink, link: &Link) -> Result<Self, NetlinkError> {
        let addresses = netlink.addresses()?.into_iter().filter(|(dev, _)| *dev == link.index);
        let routes = netlink.routes(Family::V4)?.into_iter();
        let routes = routes.filter(|route| route.dev == Some(link.index) && route.protocol == PROTOCOL);
        Ok(State {
            addresses: addresses.map(|(_, address)| address.addr()).filter(IpAddr::is_ipv4).collect(),
            pools: routes.map(|route| route.dst).collect(),
            // So that everything is looked at.
            mtu: 0,
        })
    }

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
    /// Makes the interface, or takes over the one that is there from an earlier daemon, and gives it to the workers:
    /// each can send, the first receives.
    ///
    /// # Errors
    /// See [`HostError`].
    pub(super) fn open(name: &str, plan: &NodePlan, mtu: u16, site: Site<'_>) -> Result<Self, HostError> {
        let mut netlink = Netlink::open()?;
        let interface = open_tun(&mut netlink, name, &site.legacy.descriptors)?;
        let link = netlink.link(name)?;
        let mark = Mark::Made { owner: site.owner, purpose: "host".into() };
        let is_marked = netlink.set_link(link.index, &[LinkChange::Alias(mark.to_string())]).is_ok();
        let how = format!("TUN {name}, {}", interface.offloads.name());
        let queues: Vec<_> = interface.queues.into_iter().map(Arc::new).collect();
        let Some(queue) = queues.first().map(Arc::clone) else {
            let source = std::io::ErrorKind::NotFound.into();
            return Err(TunError::Create { name: name.to_owned(), source }.into());
        };
        let state = State::found(&mut netlink, &link)?;
        let mut host =
            HostInterface { name: name.to_owned(), queue: Arc::clone(&queue), is_marked, how, state };
        host.follow(plan, mtu)?;
        for index in 0..site.workers.count() {
            let port = TapPort::new(Arc::clone(&queue), Layer::Tun, interface.offloads);
            site.workers.attach(index, PortId::Host, Box::new(port), index == 0, None);
        }
        Ok(host)
    }

    /// Lets it outlast this process.
    pub(super) fn persist(&self) {
        if self.is_marked
            && let Err(error) = tun::set_persistent(&self.queue, true)
        {
            tracing::warn!(%error, "the host interface will go when the daemon ends");
        }
    }

    /// What another daemon needs to go on with it.
    pub(super) fn descriptor(&self) -> (String, &File) {
        (descriptor_name(&self.name), &self.queue)
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

fn open_tun(netlink: &mut Netlink, name: &str, legacy: &Descriptors) -> Result<Interface, HostError> {
    if let Some(queues) = legacy.copies(&descriptor_name(name))
        && let Ok(interface) = tun::adopt(name, queues)
    {
        return Ok(interface);
    }
    let found = netlink.link(name).ok();
    let ours = found.filter(|link| matches!(Mark::of(link), Some(Mark::Made { .. })));
    if let Some(link) = ours {
        match tun::reopen(name, Layer::Tun, 1) {
            Err(error) if error.is_other_kind() => netlink.delete_link(link.index)?,
            other => return Ok(other?),
        }
    }
    Ok(tun::open(name, Layer::Tun, 1)?)
}

fn descriptor_name(interface: &str) -> String {
    format!("host {interface}")
}

/// The rule and the blackholes that keep the kernel from what is margay's. They outlast the daemon: what arrives while
/// there is none is lost, and not forwarded without a check.
#[derive(Debug)]
pub(super) struct Guard {
    interface: String,
    prefixes: Vec<Ipv4Net>,
    /// What a daemon that does not come to work has made goes with it.
    lasts: bool,
}

impl Guard {
    /// Goes on where an earlier daemon ended, with nothing unguarded in between.
    ///
    /// # Errors
    /// The kernel refuses; without CAP_NET_ADMIN in this namespace it does.
    pub(super) fn new(interface: &str) -> Result<Self, NetlinkError> {
        let mut netlink = Netlink::open()?;
        let rules = our_rules(&mut netlink)?;
        let wanted = rule(interface);
        if !rules.contains(&wanted) {
            netlink.add_rule(&wanted)?;
        }
        for other in rules.iter().filter(|found| **found != wanted) {
            unless(ErrorKind::NotFound, netlink.delete_rule(other))?;
        }
        let prefixes = our_blackholes(&mut netlink)?.into_iter().filter_map(|route| match route.dst {
            Prefix::V4(prefix) => Some(prefix),
            Prefix::V6(_) => None,
        });
        let prefixes = prefixes.collect();
        Ok(Guard { interface: interface.to_owned(), prefixes, lasts: !rules.is_empty() })
    }

    /// Lets it outlast this process.
    pub(super) fn persist(&mut self) {
        self.lasts = true;
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
        if !self.lasts
            && let Err(error) = Netlink::open().and_then(|mut netlink| clear(&mut netlink))
        {
            tracing::warn!(%error, "the rule for the underlay could not be removed");
        }
    }
}

/// Removes our rules and our table; says whether there was anything.
///
/// # Errors
/// The kernel refuses.
pub(super) fn clear(netlink: &mut Netlink) -> Result<bool, NetlinkError> {
    let (rules, routes) = (our_rules(netlink)?, our_blackholes(netlink)?);
    for rule in &rules {
        unless(ErrorKind::NotFound, netlink.delete_rule(rule))?;
    }
    for route in &routes {
        unless(ErrorKind::NotFound, netlink.delete_route(route))?;
    }
    Ok(!rules.is_empty() || !routes.is_empty())
}

fn our_rules(netlink: &mut Netlink) -> Result<Vec<Rule>, NetlinkError> {
    let mut rules = netlink.rules(Family::V4)?;
    rules.retain(|rule| rule.table == TABLE && rule.protocol == PROTOCOL);
    Ok(rules)
}

fn our_blackholes(netlink: &mut Netlink) -> Result<Vec<Route>, NetlinkError> {
    let mut routes = netlink.routes(Family::V4)?;
    routes.retain(|route| route.table == TABLE && route.protocol == PROTOCOL);
    Ok(routes)
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
