//! Which addresses a packet may come from and go to.

use std::net::{IpAddr, Ipv4Addr};

use super::decap;
use crate::fib::{Action, Endpoint, Fib, PeerId};
use crate::verdict::DropReason;

/// Where a workload finds its gateway (Calico's link-local next hop).
pub const GATEWAY_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// Sources that no router takes and destinations that none forwards to: 0/8, 127/8, link-local 169.254/16,
/// multicast and class E with the limited broadcast (RFC 1812 5.3.5 and 5.3.7, RFC 3927 7).
#[inline]
pub fn is_martian(address: Ipv4Addr) -> bool {
    match address.octets() {
        [0 | 127 | 224..=255, ..] | [169, 254, ..] => true,
        [1..=126 | 128..=223, ..] => false,
    }
}

/// Whether a workload may send from an address that is not its own: its resource names it, and a router may take it.
#[cold]
pub fn may_spoof(endpoint: &Endpoint, source: Ipv4Addr) -> bool {
    endpoint.may_spoof(source) && !is_martian(source)
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
pub fn inner_source(fib: &Fib, source: Ipv4Addr, peer: IpAddr) -> Result<PeerId, DropReason> {
    if is_martian(source) {
        return Err(DropReason::SourceMartian);
    }
    let of = |id| (id, fib.peer(id).address);
    let (id, owner) = match fib.lookup(source) {
        Action::Tunnel(tunnel) => (fib.tunnel(tunnel).peer, fib.tunnel(tunnel).remote),
        Action::Direct(adjacency) => of(fib.adjacency(adjacency).peer),
        Action::Deliver(_) | Action::Blackhole => return Err(DropReason::InnerSourceLocal),
        Action::Host if fib.is_local(source) => return Err(DropReason::InnerSourceLocal),
        // The peer's own address has no overlay route: it is found among the peers.
        Action::Host | Action::NoRoute => match fib.peer_at(source) {
            Some(owner) => of(owner),
            None => return Err(DropReason::InnerSourceNotPeers),
        },
    };
    if owner != peer {
        return Err(DropReason::InnerSourceNotPeers);
    }
    Ok(id)
}

/// The reason for a tunnel packet that was refused for `reason`: what a stranger sends is dropped for that,
/// whatever else is wrong with it. Asked afterwards, as what is right cannot be a stranger's.
#[cold]
pub fn blame(fib: &Fib, peer: IpAddr, reason: DropReason) -> DropReason {
    match peer {
        IpAddr::V4(address) if fib.peer_at(address).is_some() => reason,
        IpAddr::V4(_) | IpAddr::V6(_) => DropReason::UnknownPeer,
    }
}

/// A packet that arrived without encapsulation may come from anywhere but from this node. Which peer has its source, if
/// one does.
#[inline(always)]
pub fn direct_source(fib: &Fib, source: Ipv4Addr) -> Result<Option<PeerId>, DropReason> {
    if is_martian(source) {
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
    fn martians_are_those_of_rfc_1812_and_3927() {
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
        ] {
            assert!(!is_martian(address.parse().unwrap()), "{address}");
        }
    }
}
