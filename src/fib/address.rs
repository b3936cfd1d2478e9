//! Which part of the snapshot is an address family's.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Endpoint, Fib, Node};
use crate::lpm::{self, Lpm};
use crate::wire::{MacAddr, ip};

/// An address that the FIB knows: [`Ipv4Addr`] or [`Ipv6Addr`].
pub trait Address: ip::Address + lpm::Address {
    /// The family's lookups.
    #[doc(hidden)]
    fn table(fib: &Fib) -> &Table<Self>;
    /// The family's addresses of an endpoint.
    #[doc(hidden)]
    fn owned(endpoint: &Endpoint) -> &Owned<Self>;
    /// What the family says of this node.
    #[doc(hidden)]
    fn home(node: &Node) -> &Home<Self>;
}

/// The lookups of one family.
#[derive(Debug)]
pub struct Table<A: lpm::Address> {
    /// To actions.
    pub(super) routes: Lpm<A>,
    /// From underlay addresses to peers.
    pub(super) peers: Lpm<A>,
}

/// Addresses of an endpoint, of one family.
#[derive(Debug, Clone)]
pub struct Owned<A> {
    /// The first one: nearly always the only one.
    pub(super) primary: Option<A>,
    pub(super) more: Box<[A]>,
}

/// This node in one family.
#[derive(Debug, Clone)]
pub struct Home<A> {
    /// Underlay address: the only accepted outer destination.
    pub(super) underlay: Option<A>,
    /// Own VTEP MAC on that underlay: the only accepted inner destination MAC.
    pub(super) vtep_mac: MacAddr,
    /// Source of ICMP errors.
    pub(super) icmp_source: Option<A>,
    /// Underlay address first, then tunnel addresses.
    pub(super) addresses: Box<[A]>,
}

impl<A: lpm::Address> Table<A> {
    pub(super) fn memory(&self) -> usize {
        self.routes.memory() + self.peers.memory()
    }
}

impl Address for Ipv4Addr {
    #[inline(always)]
    fn table(fib: &Fib) -> &Table<Self> {
        &fib.v4
    }

    #[inline(always)]
    fn owned(endpoint: &Endpoint) -> &Owned<Self> {
        &endpoint.v4
    }

    #[inline(always)]
    fn home(node: &Node) -> &Home<Self> {
        &node.v4
    }
}

impl Address for Ipv6Addr {
    #[inline(always)]
    fn table(fib: &Fib) -> &Table<Self> {
        &fib.v6
    }

    #[inline(always)]
    fn owned(endpoint: &Endpoint) -> &Owned<Self> {
        &endpoint.v6
    }

    #[inline(always)]
    fn home(node: &Node) -> &Home<Self> {
        &node.v6
    }
}
