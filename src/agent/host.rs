//! The host interface: how pods reach their node and what is beyond, and how the node reaches its pods.
//!
//! Beside it, one thing is done to the node's kernel even without a host interface: what arrives on the
//! underlay for this node's blocks without encapsulation is margay's, and must neither be forwarded nor
//! answered by the kernel. A rule for each family sends it to a table of blackholes, as Calico's `blackhole` routes do.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use super::Site;
use super::descriptors::Descriptors;
use super::ipv6::{self, Ipv6Error};
use super::mark::Mark;
use crate::dataplane::PortId;
use crate::io::tap::TapPort;
use crate::lpm::Prefix;
use crate::rib::NodePlan;
use crate::sys::netlink::{
    ErrorKind, Link, LinkChange, LinkIndex, Netlink, NetlinkError, Route, RouteKind, Rule, Scope,
};
use crate::sys::tun::{self, Interface, Layer, TunError};
use crate::wire::Family;

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
    /// Why it has no IPv6 though there are pools of it.
    without_ipv6: Option<String>,
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
        let mut routes = netlink.routes(Family::V4)?;
        routes.extend(netlink.routes(Family::V6)?);
        routes.retain(|route| route.dev == Some(link.index) && route.protocol == PROTOCOL);
        Ok(State {
            addresses: addresses.map(|(_, address)| address.addr()).collect(),
            pools: routes.into_iter().map(|route| route.dst).collect(),
            // So that everything is looked at.
            mtu: 0,
        })
    }

    fn of(plan: &NodePlan, mtu: u16) -> Self {
        State {
            addresses: plan.tunnel_addresses().collect(),
            pools: plan.pools.iter().map(|pool| pool.cidr).collect(),
            mtu,
        }
    }

    fn pools_of(&self, family: Family) -> impl Iterator<Item = &Prefix> {
        self.pools.iter().filter(move |pool| Family::of(pool.addr()) == family)
    }

    /// What the kernel's own packets to pods come from: the tunnel address; a node without one has only its own.
    fn source(&self, family: Family, plan: &NodePlan) -> Option<IpAddr> {
        let tunnel = self.addresses.iter().copied().find(|address| Family::of(*address) == family);
        tunnel.or_else(|| plan.underlays.of(family).map(|underlay| underlay.address))
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
        let mut host = HostInterface {
            name: name.to_owned(),
            queue: Arc::clone(&queue),
            is_marked,
            how,
            state,
            without_ipv6: None,
        };
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
        let is_v4 = |address: &&IpAddr| address.is_ipv4();
        let outdated = self.state.addresses.iter().filter(|old| !state.addresses.contains(old));
        for address in outdated.filter(is_v4) {
            unless(ErrorKind::NotFound, netlink.delete_address(link.index, Prefix::from(*address)))?;
        }
        for address in state.addresses.iter().filter(is_v4) {
            unless(ErrorKind::Exists, netlink.add_address(link.index, Prefix::from(*address)))?;
        }
        // Nobody there has an answer to what the kernel would ask from a link-local address. On a link too narrow for IPv6 it is refused.
        let _ = netlink.set_link(link.index, &[LinkChange::NoLinkLocal]);
        netlink.set_link(link.index, &[LinkChange::Up])?;
        self.set_routes(&mut netlink, link.index, Family::V4, (&state, plan))?;
        let done = self.set_ipv6(&mut netlink, link.index, (&state, plan));
        self.note_ipv6(done);
        self.state = state;
        Ok(())
    }

    /// Why it has no IPv6 though there are pools of it.
    pub(super) fn without_ipv6(&self) -> Option<&str> {
        self.without_ipv6.as_deref()
    }

    fn set_ipv6(
        &self,
        netlink: &mut Netlink,
        dev: LinkIndex,
        (state, plan): (&State, &NodePlan),
    ) -> Result<(), Ipv6Error> {
        let addresses = state.addresses.iter().filter_map(|address| match address {
            IpAddr::V6(address) => Some(*address),
            IpAddr::V4(_) => None,
        });
        let addresses: Vec<Ipv6Addr> = addresses.collect();
        if addresses.is_empty() && state.pools_of(Family::V6).next().is_none() {
            return Ok(ipv6::clear(netlink, dev)?);
        }
        ipv6::set(netlink, &self.name, &addresses)?;
        Ok(self.set_routes(netlink, dev, Family::V6, (state, plan))?)
    }

    /// The pools of a family lead to it, and no others.
    fn set_routes(
        &self,
        netlink: &mut Netlink,
        dev: LinkIndex,
        family: Family,
        (state, plan): (&State, &NodePlan),
    ) -> Result<(), NetlinkError> {
        let (dev, prefsrc) = (Some(dev), state.source(family, plan));
        let route = |pool: &Prefix| Route {
            dev,
            scope: Scope::Link,
            prefsrc,
            protocol: PROTOCOL,
            ..Route::to(*pool)
        };
        for pool in self.state.pools_of(family).filter(|old| !state.pools.contains(old)) {
            // Whatever source it has.
            unless(ErrorKind::NotFound, netlink.delete_route(&Route { prefsrc: None, ..route(pool) }))?;
        }
        state.pools_of(family).try_for_each(|pool| netlink.replace_route(&route(pool)))
    }

    fn note_ipv6(&mut self, done: Result<(), Ipv6Error>) {
        let without = done.err().map(|error| error.to_string());
        if let Some(reason) = without.as_ref().filter(|_| without != self.without_ipv6) {
            tracing::warn!(
                reason,
                "the host interface has no IPv6: this node and pods reach each other by IPv4 alone"
            );
        }
        self.without_ipv6 = without;
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

/// The rules and the blackholes that keep the kernel from what is margay's. They outlast the daemon: what arrives while
/// there is none is lost, and not forwarded without a check.
#[derive(Debug)]
pub(super) struct Guard {
    guarded: Guarded,
    /// What a daemon that does not come to work has made goes with it.
    lasts: bool,
}

/// What is kept from the kernel.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Guarded {
    /// The underlay's interfaces. Whatever family their addresses are of: a neighbour on the link may try the other.
    pub(super) interfaces: BTreeSet<String>,
    /// What is margay's. IPv6 is guarded where there is some of it.
    pub(super) prefixes: BTreeSet<Prefix>,
}

impl Guarded {
    fn rules(&self) -> Vec<Rule> {
        let has_v6 = self.prefixes.iter().any(|prefix| prefix.addr().is_ipv6());
        let families = Family::ALL.into_iter().filter(|family| *family == Family::V4 || has_v6);
        families.flat_map(|family| self.interfaces.iter().map(move |name| rule(family, name))).collect()
    }
}

impl Guard {
    /// Goes on where an earlier daemon ended, with nothing unguarded in between.
    ///
    /// # Errors
    /// The kernel refuses; without CAP_NET_ADMIN in this namespace it does.
    pub(super) fn new(guarded: Guarded) -> Result<Self, NetlinkError> {
        let mut netlink = Netlink::open()?;
        let lasts = !our_rules(&mut netlink)?.is_empty();
        let prefixes = our_blackholes(&mut netlink)?.into_iter().map(|route| route.dst).collect();
        let mut guard = Guard { guarded: Guarded { prefixes, ..Guarded::default() }, lasts };
        guard.follow(guarded)?;
        Ok(guard)
    }

    /// Lets it outlast this process.
    pub(super) fn persist(&mut self) {
        self.lasts = true;
    }

    /// Guards this, and nothing else.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(super) fn follow(&mut self, guarded: Guarded) -> Result<(), NetlinkError> {
        if self.guarded == guarded {
            return Ok(());
        }
        let mut netlink = Netlink::open()?;
        let (found, wanted) = (our_rules(&mut netlink)?, guarded.rules());
        for rule in wanted.iter().filter(|rule| !found.contains(rule)) {
            where_there_is(rule.family, netlink.add_rule(rule))?;
        }
        for prefix in &guarded.prefixes {
            where_there_is(Family::of(prefix.addr()), netlink.replace_route(&blackhole(*prefix)))?;
        }
        for prefix in self.guarded.prefixes.difference(&guarded.prefixes) {
            unless(ErrorKind::NotFound, netlink.delete_route(&blackhole(*prefix)))?;
        }
        for rule in found.iter().filter(|rule| !wanted.contains(rule)) {
            unless(ErrorKind::NotFound, netlink.delete_rule(rule))?;
        }
        self.guarded = guarded;
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.lasts
            && let Err(error) = Netlink::open().and_then(|mut netlink| clear(&mut netlink))
        {
            tracing::warn!(%error, "the rules for the underlay could not be removed");
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
    match netlink.rules(Family::V6) {
        Ok(more) => rules.extend(more),
        Err(error) if error.kind == ErrorKind::Unsupported => {}
        Err(error) => return Err(error),
    }
    rules.retain(|rule| rule.table == TABLE && rule.protocol == PROTOCOL);
    Ok(rules)
}

fn our_blackholes(netlink: &mut Netlink) -> Result<Vec<Route>, NetlinkError> {
    let mut routes = netlink.routes(Family::V4)?;
    routes.extend(netlink.routes(Family::V6)?);
    routes.retain(|route| route.table == TABLE && route.protocol == PROTOCOL);
    Ok(routes)
}

fn rule(family: Family, interface: &str) -> Rule {
    let iif = Some(interface.to_owned());
    Rule { family, iif, table: TABLE, priority: PRIORITY, protocol: PROTOCOL }
}

fn blackhole(prefix: Prefix) -> Route {
    Route { kind: RouteKind::Blackhole, table: TABLE, protocol: PROTOCOL, ..Route::to(prefix) }
}

/// A kernel without IPv6 forwards none of it.
fn where_there_is(family: Family, result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match result {
        Err(error) if family == Family::V6 && error.kind == ErrorKind::Unsupported => Ok(()),
        other => other,
    }
}

fn unless(tolerated: ErrorKind, result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match result {
        Err(error) if error.kind == tolerated => Ok(()),
        other => other,
    }
}
