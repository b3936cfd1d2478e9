//! The compiled snapshot that workers read: prefixes to actions, actions to ready-made headers.
//!
//! A [`Fib`] is immutable, but for what each tunnel's path takes ([`Tunnel::fit`]). The agent compiles one from a
//! [`NodePlan`](crate::rib::NodePlan) and publishes it; workers pick it up between turns. What the FIB says is data ([`Action`]), carried out by the engine.

mod action;
mod address;
mod compile;
mod publication;
mod tunnel;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::lpm::Prefix;
use crate::wire::vxlan::Vni;
use crate::wire::{Family, MacAddr};

pub use action::{Action, AdjacencyId, EndpointId, PeerId, TunnelId};
pub use address::Address;
use address::{Home, Owned, Table};
pub use compile::{Attachment, CompileError, Environment, inner_mtu};
pub use publication::{Publication, Reader};
pub use tunnel::{Encapsulation, Inner, IpipHeader, LEAST_MTU, OuterTtl, Tunnel, VxlanHeader};

/// Bytes that VXLAN over IPv4 adds in front of the inner IP packet: 20 + 8 + 8 + 14.
pub const VXLAN_OVERHEAD: u16 = 50;
/// Bytes that VXLAN over IPv6 adds in front of the inner IP packet: 40 + 8 + 8 + 14.
pub const VXLAN_V6_OVERHEAD: u16 = 70;
/// Bytes that IPIP over IPv4 adds.
pub const IPIP_OVERHEAD: u16 = 20;

/// What workers know of an endpoint.
#[derive(Debug, Clone)]
pub struct Endpoint {
    v4: Owned<Ipv4Addr>,
    v6: Owned<Ipv6Addr>,
    /// Further sources that it may send from, by leave of its resource.
    spoofed: Box<[Prefix]>,
    /// IP MTU of the workload's interface, bytes.
    pub mtu: u16,
    /// A pool that one of its addresses is of wants the MSS of TCP clamped.
    pub clamps: bool,
}

impl Endpoint {
    /// True when `address` belongs to the workload.
    #[inline(always)]
    pub fn owns<A: Address>(&self, address: A) -> bool {
        let owned = A::owned(self);
        owned.primary == Some(address) || owned.more.contains(&address)
    }

    /// Prefixes whose addresses the workload may send from although they are not its own (Calico's
    /// `allowSpoofedSourcePrefixes`).
    #[inline(always)]
    pub fn spoofed(&self) -> &[Prefix] {
        &self.spoofed
    }

    /// An address of the workload, to ask for its MAC.
    pub fn address<A: Address>(&self) -> Option<A> {
        A::owned(self).primary
    }
}

/// A peer reached without encapsulation: the packet itself goes to it as next hop.
#[derive(Debug, Clone)]
pub struct Adjacency {
    /// The peer it belongs to.
    pub peer: PeerId,
    /// Next hop on the underlay; the node's kernel knows the way to it.
    pub next_hop: IpAddr,
    /// IP MTU on the way there, bytes.
    pub mtu: u16,
    /// The pool wants the MSS of TCP clamped.
    pub clamps: bool,
}

/// Another node, as the sender of tunnel packets: one for each of its underlay addresses.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Name of the Node resource.
    pub name: String,
    /// Underlay address: the only accepted outer source of its tunnel packets.
    pub address: IpAddr,
}

/// This node.
#[derive(Debug, Clone)]
pub struct Node {
    /// The only accepted VNI.
    pub vni: Vni,
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// Workloads may send IPIP of their own.
    pub allow_ipip_from_workloads: bool,
    /// Workloads may send VXLAN of their own.
    pub allow_vxlan_from_workloads: bool,
    /// IP MTU of the host interface, bytes.
    pub host_mtu: u16,
    v4: Home<Ipv4Addr>,
    v6: Home<Ipv6Addr>,
}

impl Node {
    /// Underlay address: the only accepted outer destination; `None` without an underlay of that family.
    #[inline]
    pub fn underlay(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.v4.underlay.map(IpAddr::V4),
            Family::V6 => self.v6.underlay.map(IpAddr::V6),
        }
    }

    /// Own VTEP MAC on an underlay: the only accepted inner destination MAC of what comes by it.
    #[inline(always)]
    pub fn vtep_mac(&self, underlay: Family) -> MacAddr {
        match underlay {
            Family::V4 => self.v4.vtep_mac,
            Family::V6 => self.v6.vtep_mac,
        }
    }

    /// Source of ICMP errors: the one configured, else the tunnel address, else the node address; `None` where the node
    /// has none of the family.
    pub fn icmp_source<A: Address>(&self) -> Option<A> {
        A::home(self).icmp_source
    }

    /// The node's underlay and tunnel addresses of one family.
    #[inline(always)]
    pub fn addresses<A: Address>(&self) -> &[A] {
        &A::home(self).addresses
    }
}

/// One immutable snapshot.
#[derive(Debug)]
pub struct Fib {
    v4: Table<Ipv4Addr>,
    v6: Table<Ipv6Addr>,
    endpoints: Vec<Option<Endpoint>>,
    tunnels: Vec<Tunnel>,
    adjacencies: Vec<Adjacency>,
    peers: Vec<Peer>,
    node: Node,
    clamps_any: bool,
}

impl Fib {
    /// What to do with a packet for `destination`: the action of the longest prefix that covers it.
    #[inline(always)]
    pub fn lookup<A: Address>(&self, destination: A) -> Action {
        Action::decode(A::table(self).routes.lookup(destination))
    }

    /// The same for an address of whichever family.
    pub fn lookup_any(&self, destination: IpAddr) -> Action {
        match destination {
            IpAddr::V4(address) => self.lookup(address),
            IpAddr::V6(address) => self.lookup(address),
        }
    }

    /// The peer whose underlay address this is.
    #[inline]
    pub fn peer_at(&self, address: IpAddr) -> Option<PeerId> {
        let id = match address {
            IpAddr::V4(address) => self.v4.peers.lookup(address),
            IpAddr::V6(address) => self.v6.peers.lookup(address),
        };
        (id != NO_PEER).then_some(PeerId(id))
    }

    /// The endpoint, unless it left since the frame was received.
    #[inline]
    pub fn endpoint(&self, id: EndpointId) -> Option<&Endpoint> {
        self.endpoints.get(id.0 as usize)?.as_ref()
    }

    /// A tunnel that an action named.
    #[inline]
    pub fn tunnel(&self, id: TunnelId) -> &Tunnel {
        &self.tunnels[id.0 as usize]
    }

    /// All tunnels, with the ids that actions name them by.
    pub fn tunnels(&self) -> impl Iterator<Item = (TunnelId, &Tunnel)> {
        (0..).map(TunnelId).zip(&self.tunnels)
    }

    /// An adjacency that an action named.
    #[inline]
    pub fn adjacency(&self, id: AdjacencyId) -> &Adjacency {
        &self.adjacencies[id.0 as usize]
    }

    /// A peer that [`Self::peer_at`], a tunnel or an adjacency named.
    #[inline]
    pub fn peer(&self, id: PeerId) -> &Peer {
        &self.peers[id.0 as usize]
    }

    /// All peers, in the order of their ids.
    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// True where a pool wants the MSS of TCP clamped.
    #[inline]
    pub fn clamps_any(&self) -> bool {
        self.clamps_any
    }

    /// True where the pool of what an action leads to wants the MSS of TCP clamped.
    pub fn clamps(&self, action: Action) -> bool {
        match action {
            Action::Deliver(id) => self.endpoint(id).is_some_and(|endpoint| endpoint.clamps),
            Action::Tunnel(id) => self.tunnel(id).clamps,
            Action::Direct(id) => self.adjacency(id).clamps,
            Action::Host | Action::Blackhole | Action::NoRoute => false,
        }
    }

    /// True for this node's own addresses.
    #[inline]
    pub fn is_local<A: Address>(&self, address: A) -> bool {
        self.node.addresses().contains(&address)
    }

    /// This node.
    #[inline]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Bytes of the lookup tables.
    pub fn memory(&self) -> usize {
        self.v4.memory() + self.v6.memory()
    }
}

/// What a table's `peers` answers for an address of no peer; ids stay below it.
const NO_PEER: u32 = (1 << 31) - 1;
