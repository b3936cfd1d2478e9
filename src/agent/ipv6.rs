//! IPv6 on the interfaces that margay makes: a workload's TAP, and the host interface.
//!
//! Where something is in its way there is an error, and IPv4 is served all the same.
//!
//! An address can be used at once, without duplicate address detection: nobody else has it, as IPAM gives each to one
//! workload. The link-local address is the one that the kernel would make of the MAC (RFC 4291, appendix A); it is made here as
//! the kernel would detect duplicates of its own.

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use crate::dataplane::antispoof::Address as _;
use crate::lpm::Prefix;
use crate::sys::netlink::{ErrorKind, LinkChange, LinkIndex, Netlink, NetlinkError, Route};
use crate::sys::sysctl;
use crate::wire::{Family, MacAddr};

/// Least MTU of a link with IPv6, bytes (RFC 8200 5): on a narrower one the kernel has none.
pub(super) const MIN_MTU: u16 = 1280;

/// Why an interface has no IPv6.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ipv6Error {
    /// The interface is too narrow.
    #[error(
        "its MTU of {0} is less than the {MIN_MTU} that IPv6 asks of a link: raise the underlay's MTU, or FelixConfiguration's where one is set"
    )]
    Narrow(u32),
    /// No IPv6 in the kernel.
    #[error("this kernel has no IPv6 (not built in, or ipv6.disable=1)")]
    NoKernel,
    /// `disable_ipv6`, and it stays.
    #[error("net.ipv6.conf.{0}.disable_ipv6 is 1 there and cannot be set ({1}): set it to 0")]
    Disabled(String, #[source] io::Error),
    /// Its addresses and route.
    #[error(transparent)]
    Netlink(NetlinkError),
}

impl From<NetlinkError> for Ipv6Error {
    fn from(error: NetlinkError) -> Self {
        match error.kind {
            ErrorKind::Unsupported => Ipv6Error::NoKernel,
            _ => Ipv6Error::Netlink(error),
        }
    }
}

/// Gives the interface `name` of the calling thread's namespace these addresses of IPv6 and no others, beside a link-local
/// one. Can be repeated at any time.
///
/// # Errors
/// See [`Ipv6Error`].
pub(super) fn set(netlink: &mut Netlink, name: &str, addresses: &[Ipv6Addr]) -> Result<(), Ipv6Error> {
    let link = netlink.link(name)?;
    if link.mtu < MIN_MTU.into() {
        return Err(Ipv6Error::Narrow(link.mtu));
    }
    netlink.set_link(link.index, &[LinkChange::NoLinkLocal])?;
    let enabled = enable(name);
    let mut wanted: Vec<Prefix> =
        addresses.iter().map(|address| Prefix::from(IpAddr::V6(*address))).collect();
    wanted.extend(link.mac.map(link_local));
    match (keep(netlink, link.index, &wanted), enabled) {
        (Err(error), Err(reason)) if error.kind == ErrorKind::NotPermitted => {
            Err(Ipv6Error::Disabled(name.to_owned(), reason))
        }
        (other, _) => Ok(other?),
    }
}

/// Takes from an interface what it has of IPv6: nobody answers there, and nothing is sent that nobody asked for.
///
/// # Errors
/// The interface is gone.
pub(super) fn clear(netlink: &mut Netlink, dev: LinkIndex) -> Result<(), NetlinkError> {
    match netlink.set_link(dev, &[LinkChange::NoLinkLocal]) {
        Ok(()) => keep(netlink, dev, &[]),
        // It has none: the kernel has not, or the interface is too narrow.
        Err(error) if matches!(error.kind, ErrorKind::Unsupported | ErrorKind::Other) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Gives an interface back the link-local address that the kernel gives each, where it can have one.
pub(super) fn restore(netlink: &mut Netlink, dev: LinkIndex, mac: Option<MacAddr>) {
    let _ = netlink.set_link(dev, &[LinkChange::LinkLocal]);
    let _ = mac.map(|mac| netlink.add_address(dev, link_local(mac)));
}

/// The way out of a workload that Calico's CNI plugin gives it, once its interface is up. Who the gateway is the workload's
/// kernel asks by neighbour discovery.
///
/// # Errors
/// The interface has no IPv6, or the workload another default route.
pub(super) fn add_default_route(netlink: &mut Netlink, dev: LinkIndex) -> Result<(), Ipv6Error> {
    let via = Some(Ipv6Addr::GATEWAY.into());
    let route = Route { dev: Some(dev), via, onlink: true, ..Route::default_of(Family::V6) };
    match netlink.add_route(&route) {
        Err(error) if error.kind == ErrorKind::Exists => {
            let is_it = |found: &Route| (found.dst, found.dev, found.via) == (route.dst, route.dev, via);
            if netlink.routes(Family::V6)?.iter().any(is_it) { Ok(()) } else { Err(error.into()) }
        }
        other => Ok(other?),
    }
}

/// The address that the kernel makes of a MAC.
fn link_local(mac: MacAddr) -> Prefix {
    Prefix::new_assert(mac.link_local().into(), 64)
}

/// Lets the interface have IPv6, and no router tell it anything: no address, route or MTU of its own making.
fn enable(name: &str) -> io::Result<()> {
    let of = |setting: &str| format!("net/ipv6/conf/{name}/{setting}");
    // Nobody sends router advertisements to it but by a mistake of somebody's.
    let _ = sysctl::write(&of("accept_ra"), "0");
    sysctl::write(&of("disable_ipv6"), "0")
}

/// The wanted addresses and no others.
fn keep(netlink: &mut Netlink, dev: LinkIndex, wanted: &[Prefix]) -> Result<(), NetlinkError> {
    let found = netlink.addresses()?.into_iter().filter(|(link, _)| *link == dev);
    let found: Vec<Prefix> =
        found.map(|(_, address)| address).filter(|address| address.addr().is_ipv6()).collect();
    for address in found.iter().filter(|address| !wanted.contains(address)) {
        netlink.delete_address(dev, *address)?;
    }
    for address in wanted.iter().filter(|address| !found.contains(address)) {
        netlink.add_address(dev, *address)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::netlink::VethEnd;
    use crate::sys::netns::Netns;

    fn bed() -> (Netns, Netlink) {
        let netns = Netns::create().expect("these tests need root, or a user namespace of their own");
        let mut netlink = netns.netlink().unwrap();
        let end = |name| VethEnd { name, mac: None, mtu: None, netns: None };
        netlink.add_veth(&end("eth0"), &end("peer0")).unwrap();
        (netns, netlink)
    }

    fn addresses(netlink: &mut Netlink) -> Vec<String> {
        let dev = netlink.link("eth0").unwrap().index;
        let all = netlink.addresses().unwrap().into_iter().filter(|(link, _)| *link == dev);
        all.map(|(_, address)| address.to_string()).collect()
    }

    #[test]
    fn the_gateway_is_the_link_local_address_of_its_mac() {
        assert_eq!(link_local(MacAddr::GATEWAY).addr(), IpAddr::V6(Ipv6Addr::GATEWAY));
    }

    #[test]
    fn addresses_are_those_that_are_wanted() {
        let (netns, mut netlink) = bed();
        netlink.set_link("eth0", &[LinkChange::Mac(MacAddr([2, 0, 0, 0, 0, 1]))]).unwrap();
        let [a, b] = ["fd10:65::2", "fd10:65::3"].map(|text| text.parse::<Ipv6Addr>().unwrap());
        netns.run(|| sysctl::write("net/ipv6/conf/eth0/disable_ipv6", "1")).unwrap().unwrap();
        let mut set = |wanted: &[Ipv6Addr]| {
            netns.run(|| set(&mut netlink, "eth0", wanted)).unwrap().unwrap();
            addresses(&mut netlink)
        };
        let link_local = "fe80::ff:fe00:1/64";
        assert_eq!(set(&[a]), ["fd10:65::2/128", link_local]);
        assert_eq!(set(&[a]), ["fd10:65::2/128", link_local]);
        assert_eq!(set(&[b]), ["fd10:65::3/128", link_local]);
        let accept_ra = netns.run(|| sysctl::read("net/ipv6/conf/eth0/accept_ra")).unwrap().unwrap();
        assert_eq!(accept_ra, "0");
        let dev = netlink.link("eth0").unwrap().index;
        clear(&mut netlink, dev).unwrap();
        assert_eq!(addresses(&mut netlink), [""; 0]);
    }

    #[test]
    fn what_is_in_the_way_is_named() {
        let (netns, mut netlink) = bed();
        netlink.set_link("eth0", &[LinkChange::Mtu(1250)]).unwrap();
        let wanted = ["fd10:65::2".parse().unwrap()];
        let refused = netns.run(|| set(&mut netlink, "eth0", &wanted)).unwrap().unwrap_err().to_string();
        assert!(refused.starts_with("its MTU of 1250 is less than the 1280"), "{refused}");
        let dev = netlink.link("eth0").unwrap().index;
        clear(&mut netlink, dev).expect("there is nothing to take away");
    }
}
