//! Where a node is on the underlay: an address of each family, or of one.

use std::net::{IpAddr, Ipv4Addr};

use crate::lpm::Prefix;
use crate::resource::Node;
use crate::wire::{Family, MacAddr};

/// A node on the underlay of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Underlay {
    /// `spec.bgp.ipv4Address` or `spec.bgp.ipv6Address`, without the length.
    pub address: IpAddr,
    /// The subnet that the same field gives: what the node compares with under CrossSubnet.
    pub subnet: Prefix,
    /// The MAC of its VTEP: inner source of VXLAN packets from it, inner destination of those to it.
    pub vtep_mac: MacAddr,
}

/// A node's underlays. Those of a [`NodePlan`](super::NodePlan) and of its peers are never both absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Underlays {
    /// Over IPv4.
    pub v4: Option<Underlay>,
    /// Over IPv6.
    pub v6: Option<Underlay>,
}

impl Underlays {
    /// What `node` says of itself.
    pub(super) fn of_node(node: &Node) -> Self {
        let underlay = |family, vtep_mac| {
            let network = node.network(family)?;
            Some(Underlay { address: network.addr(), subnet: network.trunc(), vtep_mac })
        };
        Underlays { v4: underlay(Family::V4, node.vtep_mac), v6: underlay(Family::V6, node.vtep_mac_v6) }
    }

    /// That of a family.
    pub fn of(&self, family: Family) -> Option<&Underlay> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }

    /// Those that there are, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = &Underlay> {
        self.v4.iter().chain(&self.v6)
    }

    /// Their addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.iter().map(|underlay| underlay.address)
    }

    /// The first of these: the one that stands for the node where only one can.
    pub fn main_address(&self) -> IpAddr {
        self.addresses().next().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// Whether it is the node's address in its family.
    pub fn have(&self, address: IpAddr) -> bool {
        self.of(Family::of(address)).is_some_and(|underlay| underlay.address == address)
    }

    /// None: the node takes no part.
    pub fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }
}
