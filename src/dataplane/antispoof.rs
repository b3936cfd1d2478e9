//! Which addresses a packet may come from and go to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::decap;
use crate::fib::{self, Action, Endpoint, Fib, PeerId};
use crate::lpm::Prefix;
use crate::verdict::DropReason;

/// An address that margay routes: what the families say differently of who may have it.
pub trait Address: fib::Address {
    /// Where a workload finds its gateway.
    const GATEWAY: Self;

    /// Sources that no router takes and destinations that none forwards to.
    fn is_martian(self) -> bool;
}

impl Address for Ipv4Addr {
    /// Calico's link-local next hop.
    const GATEWAY: Self = Ipv4Addr::new(169, 254, 1, 1);

    /// 0/8, 127/8, link-local 169.254/16, multicast and class E with the limited broadcast (RFC 1812 5.3.5 and 5.3.7,
    /// RFC 3927 7).
    #[inline(always)]
    fn is_martian(self) -> bool {
        let bits = self.to_bits();
        matches!(bits >> 24, 0 | 127 | 224..) || bits >> 16 == u32::from_be_bytes([0, 0, 169, 254])
    }
}

impl Address for Ipv6Addr {
    /// The link-local address that ee:ee:ee:ee:ee:ee makes, as Calico's host end of a veth has it.
    const GATEWAY: Self = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);

    /// Unspecified, loopback and what else embeds IPv4 in ::/96 and ::ffff:0:0/96, link-local fe80::/10, multicast
    /// ff00::/8 (RFC 4291 2.4 and 2.5, RFC 6890 2.2.3). Addresses for documentation are routed, as Linux does it.
    #[inline(always)]
    fn is_martian(self) -> bool {
        match self.octets() {
            [0xff, ..] | [0xfe, 0x80..=0xbf, ..] => true,
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, ..] => matches!([a, b], [0, 0] | [0xff, 0xff]),
            _ => false,
        }
    }
}

/// The same for an address of whichever family.
pub fn is_martian(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_martian(),
        IpAddr::V6(address) => address.is_martian(),
    }
}

/// Whether a workload may send from an address that is not its own: its resource names it, and a router may take it.
#[inline(always)]
pub fn may_spoof<A: Address>(endpoint: &Endpoint, source: A) -> bool {
    let allowed = endpoint.spoofed();
    !allowed.is_empty() && is_among(allowed, source)
}

#[cold]
fn is_among<A: Address>(prefixes: &[Prefix], source: A) -> bool {
    prefixes.iter().any(|prefix| prefix.contains(&source.into())) && !source.is_martian()
}

/// A workload must not speak the tunnels' protocols: what it forged would be taken for a node's. As in Felix,
/// `allowIPIPPacketsFromWorkloads` and `allowVXLANPacketsFromWorkloads` let it.
#[cold]
pub fn tunnel_from_workload(fib: &Fib, tunnel: decap::Kind) -> Result<(), DropReason> {
    let allowed = match tunnel {
        decap::Kind::Ipip => fib.node().allow_ipip_from_workloads,
        decap::Kind::Vxlan => fib.node().allow_vxlan_from_workloads,
    };
    if allowed { Ok(()) } else { Err(DropReason::TunnelFromWorkload) }
}

/// A packet out of the tunnel of `peer`, its outer source, must come from what the FIB sends back to that peer,
/// or from the peer itself (RFC 1812 5.3.8; standards S3 and S4). Whoever is no peer has no such source. Which peer it is.
#[inline(always)]
pub fn inner_source<A: Address>(fib: &Fib, source: A, peer: IpAddr) -> Result<PeerId, DropReason> {
    if source.is_martian() {
        return Err(DropReason::SourceMartian);
    }
    let of = |id| (id, fib.peer(id).address);
    let (id, owner) = match fib.lookup(source) {
        Action::Tunnel(tunnel) => (fib.tunnel(tunnel).peer, fib.tunnel(tunnel).remote),
        Action::Direct(adjacency) => of(fib.adjacency(adjacency).peer),
        Action::Deliver(_) | Action::Blackhole => return Err(DropReason::InnerSourceLocal),
        Action::Host if fib.is_local(source) => return Err(DropReason::InnerSourceLocal),
        // The peer's own address has no overlay route: it is found among the peers.
        Action::Host | Action::NoRoute => match fib.peer_at(source.into()) {
            Some(owner) => of(owner),
            None => return Err(DropReason::InnerSourceNotPeers),
        },
    };
    if owner != peer {
        return other_underlay(fib, id, peer);
    }
    Ok(id)
}

/// A node may send by its underlay of the other family than this node would.
#[cold]
fn other_underlay(fib: &Fib, owner: PeerId, peer: IpAddr) -> Result<PeerId, DropReason> {
    let sender = fib.peer_at(peer).filter(|sender| fib.peer(*sender).name == fib.peer(owner).name);
    sender.ok_or(DropReason::InnerSourceNotPeers)
}

/// The reason for a tunnel packet that was refused for `reason`: what a stranger sends is dropped for that,
/// whatever else is wrong with it. Asked afterwards, as what is right cannot be a stranger's.
#[cold]
pub fn blame(fib: &Fib, peer: IpAddr, reason: DropReason) -> DropReason {
    match fib.peer_at(peer) {
        Some(_) => reason,
        None => DropReason::UnknownPeer,
    }
}

/// A packet that arrived without encapsulation may come from anywhere but from this node. Which peer has its source, if
/// one does.
#[inline(always)]
pub fn direct_source<A: Address>(fib: &Fib, source: A) -> Result<Option<PeerId>, DropReason> {
    if source.is_martian() {
        return Err(DropReason::SourceMartian);
    }
    match fib.lookup(source) {
        Action::Deliver(_) | Action::Blackhole => Err(DropReason::InnerSourceLocal),
        Action::Host if fib.is_local(source) => Err(DropReason::InnerSourceLocal),
        Action::Tunnel(tunnel) => Ok(Some(fib.tunnel(tunnel).peer)),
        Action::Direct(adjacency) => Ok(Some(fib.adjacency(adjacency).peer)),
        Action::Host | Action::NoRoute => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn martians_are_those_of_rfc_1812_3927_and_6890() {
        for martian in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "169.254.0.1",
            "169.254.1.1",
            "224.0.0.1",
            "239.1.2.3",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::10.65.0.1",
            "::ffff:10.65.0.1",
            "fe80::1",
            "fe80::ecee:eeff:feee:eeee",
            "febf::1",
            "ff02::1",
            "ff0e::1",
        ] {
            assert!(is_martian(martian.parse().unwrap()), "{martian}");
        }
        for address in [
            "1.0.0.0",
            "10.65.0.1",
            "126.255.255.255",
            "128.0.0.1",
            "169.253.1.1",
            "169.255.1.1",
            "192.0.0.8",
            "223.255.255.255",
            "64:ff9b::a41:1",
            "2001:db8::1",
            "2001:4860::8888",
            "fd00:10:65::1",
            "fec0::1",
            "fe00::1",
            "0:1::1",
        ] {
            assert!(!is_martian(address.parse().unwrap()), "{address}");
        }
    }
}
