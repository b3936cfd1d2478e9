//! Routes: what `ip route` does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteScope, RouteType,
};

use super::error::{Cause, Result};
use super::{LinkId, LinkIndex, Netlink, number};
use crate::lpm::Prefix;
use crate::wire::Family;

/// What a route does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RouteKind {
    /// Sends it on.
    Unicast,
    /// Delivers it to this host.
    Local,
    /// Drops it without a word.
    Blackhole,
    /// Drops it, with ICMP host unreachable.
    Unreachable,
    /// Broadcast, multicast and whatever else a table holds.
    Other,
}

/// How far away the destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Anywhere: what a route via a gateway is.
    Universe,
    /// On the link itself.
    Link,
    /// This host.
    Host,
    /// Another number.
    Other(u8),
}

/// A route of the kernel. Start from [`Route::to`] and set what differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination; a length of 0 is the default route.
    pub dst: Prefix,
    /// Gateway.
    pub via: Option<IpAddr>,
    /// Link.
    pub dev: Option<LinkIndex>,
    /// What it does.
    pub kind: RouteKind,
    /// How far the destination is.
    pub scope: Scope,
    /// The gateway counts as directly connected though no prefix of the link covers it (`onlink`).
    pub onlink: bool,
    /// Table: 254 is `main`, 255 is `local`.
    pub table: u32,
    /// Source address of packets that this host sends by it.
    pub prefsrc: Option<IpAddr>,
    /// Who made it: 3 `boot`, 4 `static`, 80 Calico.
    pub protocol: u8,
    /// Among equal prefixes the lowest wins; the kernel's default is 0 for IPv4 and 1024 for IPv6.
    pub metric: Option<u32>,
    /// IP MTU of the path, bytes.
    pub mtu: Option<u32>,
}

impl Route {
    /// Table `main`.
    pub const MAIN: u32 = 254;
    /// Protocol of what an administrator made.
    pub const STATIC: u8 = 4;

    /// A unicast route in table `main`, without link or gateway yet.
    pub fn to(dst: Prefix) -> Self {
        Self {
            dst,
            via: None,
            dev: None,
            kind: RouteKind::Unicast,
            scope: Scope::Universe,
            onlink: false,
            table: Self::MAIN,
            prefsrc: None,
            protocol: Self::STATIC,
            metric: None,
            mtu: None,
        }
    }

    /// The default route of a family.
    pub fn default_of(family: Family) -> Self {
        Self::to(match family {
            Family::V4 => Prefix::V4(ipnet::Ipv4Net::default()),
            Family::V6 => Prefix::V6(ipnet::Ipv6Net::default()),
        })
    }
}

/// What the kernel does with packets of its own towards an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTo {
    /// [`RouteKind::Local`] where the address is this host's own.
    pub kind: RouteKind,
    /// Link that they leave by.
    pub dev: LinkIndex,
    /// Next hop where it is not the address itself.
    pub gateway: Option<IpAddr>,
    /// Source address that the kernel would choose.
    pub prefsrc: Option<IpAddr>,
    /// IP MTU of the path, bytes: what was learned or set for it, else the link's.
    pub mtu: u32,
}

/// What lets packets for an address through, as long as nobody changes it: not what was learned on the way and will be
/// forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastingPath {
    /// Link that they leave by.
    pub dev: LinkIndex,
    /// IP MTU that the route was given, bytes; without it the link's counts.
    pub mtu: Option<u32>,
}

/// The neighbour that packets for an address are handed to, where that is all that happens to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// Link that they leave by.
    pub dev: LinkIndex,
    /// The gateway, or the address itself.
    pub address: IpAddr,
    /// IP MTU that was set for the path, or learned on it, bytes.
    pub mtu: Option<u32>,
}

impl Netlink {
    /// Adds a route.
    ///
    /// # Errors
    /// [`super::ErrorKind::Exists`], [`super::ErrorKind::NoDevice`], [`super::ErrorKind::Unreachable`] where
    /// the gateway is not on the link and `onlink` is not set.
    pub fn add_route(&mut self, route: &Route) -> Result<()> {
        self.change(RouteNetlinkMessage::NewRoute(message(route)), NLM_F_CREATE | NLM_F_EXCL)
            .map_err(|cause| self.explain("add", route, cause))
    }

    /// Adds a route, or puts it in the place of the one with the same destination, table and metric.
    ///
    /// # Errors
    /// As [`Netlink::add_route`] but for `Exists`.
    pub fn replace_route(&mut self, route: &Route) -> Result<()> {
        self.change(RouteNetlinkMessage::NewRoute(message(route)), NLM_F_CREATE | NLM_F_REPLACE)
            .map_err(|cause| self.explain("replace", route, cause))
    }

    /// Deletes a route.
    ///
    /// # Errors
    /// [`super::ErrorKind::NotFound`].
    pub fn delete_route(&mut self, route: &Route) -> Result<()> {
        self.change(RouteNetlinkMessage::DelRoute(message(route)), 0)
            .map_err(|cause| self.explain("delete", route, cause))
    }

    /// All routes of a family, in every table.
    ///
    /// # Errors
    /// What the kernel answers; needs no privilege.
    pub fn routes(&mut self, family: Family) -> Result<Vec<Route>> {
        let mut message = RouteMessage::default();
        message.header.address_family = number(family);
        let answers =
            self.dump(RouteNetlinkMessage::GetRoute(message)).map_err(|cause| cause.during("list routes"))?;
        // A kernel without the family lists those that it has.
        let routes = answers.into_iter().filter_map(route_of);
        Ok(routes.filter(|route| Family::of(route.dst.addr()) == family).collect())
    }

    /// How the kernel reaches an address.
    ///
    /// # Errors
    /// [`super::ErrorKind::Unreachable`] without a route.
    pub fn path_to(&mut self, address: IpAddr) -> Result<PathTo> {
        let path =
            self.find_path(address).map_err(|cause| cause.during(format!("get route to {address}")))?;
        Ok(path)
    }

    /// Who packets for an address go to next. `None` where they go nowhere, or more is done to them on the way:
    /// delivery to this host, encapsulation, a gateway of the other family.
    ///
    /// # Errors
    /// [`super::ErrorKind::Unreachable`] without a route.
    pub fn next_hop(&mut self, address: IpAddr) -> Result<Option<NextHop>> {
        let answers =
            self.find_route(address).map_err(|cause| cause.during(format!("get route to {address}")))?;
        Ok(answers.iter().find_map(|answer| next_hop_of(answer, address)))
    }

    /// What lets packets for an address through. `None` where they do not leave by a link.
    ///
    /// # Errors
    /// [`super::ErrorKind::Unreachable`] without a route.
    pub fn lasting_path(&mut self, address: IpAddr) -> Result<Option<LastingPath>> {
        let find = |netlink: &mut Self, flags| {
            let answers = netlink.find_route_by(address, flags);
            answers.map_err(|cause| cause.during(format!("get route to {address}")))
        };
        let answers = find(self, RouteFlags::empty())?;
        let Some(mut path) = answers.iter().find_map(lasting_path_of) else { return Ok(None) };
        if answers.iter().any(is_learned) {
            // The route itself, in place of what the kernel made of it (Linux 4.13).
            let routes = find(self, RouteFlags::FibMatch)?;
            path.mtu = routes.iter().filter(|route| !is_learned(route)).find_map(metric_of);
        }
        Ok(Some(path))
    }

    fn find_route(&mut self, address: IpAddr) -> Result<Vec<RouteNetlinkMessage>, Cause> {
        self.find_route_by(address, RouteFlags::empty())
    }

    fn find_route_by(
        &mut self,
        address: IpAddr,
        flags: RouteFlags,
    ) -> Result<Vec<RouteNetlinkMessage>, Cause> {
        let mut message = RouteMessage::default();
        message.header.flags = flags;
        message.header.address_family = number(Family::of(address));
        message.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
        message.attributes.push(RouteAttribute::Destination(address.into()));
        self.get(RouteNetlinkMessage::GetRoute(message))
    }

    fn find_path(&mut self, address: IpAddr) -> Result<PathTo, Cause> {
        let answers = self.find_route(address)?;
        let route = answers
            .into_iter()
            .find_map(route_of)
            .ok_or_else(|| Cause::malformed("no route in the kernel's answer"))?;
        let dev = route.dev.ok_or_else(|| Cause::malformed("a route without link in the kernel's answer"))?;
        let mtu = match route.mtu {
            Some(mtu) => mtu,
            None => self.find_link(dev.into())?.mtu,
        };
        Ok(PathTo { kind: route.kind, dev, gateway: route.via, prefsrc: route.prefsrc, mtu })
    }

    fn explain(&mut self, verb: &str, route: &Route, cause: Cause) -> super::NetlinkError {
        use std::fmt::Write;
        let mut text = format!("{verb} route {}", route.dst);
        if let Some(via) = route.via {
            let _ = write!(text, " via {via}");
        }
        if let Some(dev) = route.dev {
            let name = self.name_of(dev);
            let _ = write!(text, " dev {}", LinkId::Name(&name));
        }
        if route.table != Route::MAIN {
            let _ = write!(text, " table {}", route.table);
        }
        cause.during(text)
    }
}

fn message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = number(Family::of(route.dst.addr()));
    header.destination_prefix_length = route.dst.prefix_len();
    // The header's table has 8 bits; larger numbers stand in the attribute alone.
    header.table = u8::try_from(route.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    header.protocol = route.protocol.into();
    header.scope = match route.scope {
        Scope::Universe => RouteScope::Universe,
        Scope::Link => RouteScope::Link,
        Scope::Host => RouteScope::Host,
        Scope::Other(scope) => scope.into(),
    };
    header.kind = match route.kind {
        RouteKind::Unicast => RouteType::Unicast,
        RouteKind::Local => RouteType::Local,
        RouteKind::Blackhole => RouteType::BlackHole,
        RouteKind::Unreachable => RouteType::Unreachable,
        RouteKind::Other => RouteType::Unspec,
    };
    if route.onlink {
        header.flags |= RouteFlags::Onlink;
    }
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(route.table));
    if route.dst.prefix_len() > 0 {
        attributes.push(RouteAttribute::Destination(route.dst.addr().into()));
    }
    attributes.extend(route.via.map(|via| RouteAttribute::Gateway(via.into())));
    attributes.extend(route.dev.map(|LinkIndex(dev)| RouteAttribute::Oif(dev)));
    attributes.extend(route.prefsrc.map(|source| RouteAttribute::PrefSource(source.into())));
    attributes.extend(route.metric.map(RouteAttribute::Priority));
    attributes.extend(route.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
    message
}

fn route_of(answer: RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = answer else { return None };
    let header = &message.header;
    let any = match u8::from(header.address_family) as i32 {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let mut dst = any;
    let mut route = Route {
        kind: match header.kind {
            RouteType::Unicast => RouteKind::Unicast,
            RouteType::Local => RouteKind::Local,
            RouteType::BlackHole => RouteKind::Blackhole,
            RouteType::Unreachable => RouteKind::Unreachable,
            _ => RouteKind::Other,
        },
        scope: match header.scope {
            RouteScope::Universe => Scope::Universe,
            RouteScope::Link => Scope::Link,
            RouteScope::Host => Scope::Host,
            other => Scope::Other(other.into()),
        },
        onlink: header.flags.contains(RouteFlags::Onlink),
        table: header.table.into(),
        protocol: header.protocol.into(),
        ..Route::to(Prefix::from(any))
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(a) => dst = ip_of(a)?,
            RouteAttribute::Gateway(a) => route.via = ip_of(a),
            RouteAttribute::Oif(index) => route.dev = Some(LinkIndex(*index)),
            RouteAttribute::PrefSource(a) => route.prefsrc = ip_of(a),
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Priority(metric) => route.metric = Some(*metric),
            RouteAttribute::Metrics(metrics) => route.mtu = mtu_of(metrics),
            _ => {}
        }
    }
    route.dst = Prefix::new(dst, header.destination_prefix_length).ok()?;
    Some(route)
}

fn next_hop_of(answer: &RouteNetlinkMessage, address: IpAddr) -> Option<NextHop> {
    let RouteNetlinkMessage::NewRoute(message) = answer else { return None };
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let (mut dev, mut hop, mut mtu) = (None, address, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => dev = Some(LinkIndex(*index)),
            RouteAttribute::Gateway(gateway) => hop = ip_of(gateway)?,
            RouteAttribute::Via(_) | RouteAttribute::EncapType(_) | RouteAttribute::Encap(_) => return None,
            RouteAttribute::Metrics(metrics) => mtu = mtu_of(metrics),
            _ => {}
        }
    }
    Some(NextHop { dev: dev?, address: hop, mtu })
}

fn lasting_path_of(answer: &RouteNetlinkMessage) -> Option<LastingPath> {
    let RouteNetlinkMessage::NewRoute(message) = answer else { return None };
    let dev = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(LinkIndex(*index)),
        _ => None,
    });
    let leaves = message.header.kind == RouteType::Unicast;
    dev.filter(|_| leaves).map(|dev| LastingPath { dev, mtu: metric_of(answer) })
}

fn metric_of(answer: &RouteNetlinkMessage) -> Option<u32> {
    let RouteNetlinkMessage::NewRoute(message) = answer else { return None };
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => mtu_of(metrics),
        _ => None,
    })
}

/// What is learned expires.
fn is_learned(answer: &RouteNetlinkMessage) -> bool {
    let RouteNetlinkMessage::NewRoute(message) = answer else { return false };
    message
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, RouteAttribute::CacheInfo(info) if info.expires != 0))
}

fn mtu_of(metrics: &[RouteMetric]) -> Option<u32> {
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
