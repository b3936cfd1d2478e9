//! From resources to one node's best routes, as Calico's calculation makes them.
//!
//! [`plan`] gives what the agent compiles into the FIB: the node itself, the peers it knows, its
//! endpoints, and the best route of each prefix with the rule that made it; [`NodePlan::explain`]
//! puts that rule into words.
//!
//! Everything is planned for both families, and by the same code: a prefix or an address knows which it is of.

mod back;
mod calculate;
mod explain;
mod families;
mod settings;
mod subnet;
mod underlay;
mod way;

use std::net::IpAddr;

use crate::lpm::Prefix;
use crate::wire::{Family, MacAddr};

pub use crate::resource::Attach;
pub use back::Back;
pub use calculate::{PlanError, plan};
pub use subnet::{Asymmetry, asymmetries};
pub use underlay::{Underlay, Underlays};

/// How packets towards a peer travel on the underlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Encap {
    /// IP in IP (RFC 2003), protocol 4.
    Ipip,
    /// VXLAN (RFC 7348) over UDP.
    Vxlan,
    /// No encapsulation: the packet itself is sent to the peer as next hop ("BGP mode").
    Direct,
}

/// Route classes, best first (the order of Felix's `routetable/defs.go`): of a local and a remote route
/// of one prefix, the lower class wins. Of two remote ones, which only a /32 block can bring about, the
/// endpoint's wins over the block's whatever their classes, as in Felix's `calc/l3_route_resolver.go`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteClass {
    /// A /32 (or /128) of an endpoint on this node.
    LocalWorkload,
    /// An address of the node itself that the overlay may reach: the node address or a tunnel address.
    LocalHost,
    /// A remote block, same subnet by a CrossSubnet VXLAN pool.
    VxlanSameSubnet,
    /// A remote block or borrowed address through VXLAN.
    VxlanTunnel,
    /// A remote block, same subnet by a CrossSubnet IPIP pool.
    IpipSameSubnet,
    /// A remote block or borrowed address through IPIP.
    IpipTunnel,
    /// A remote block or borrowed address without encapsulation.
    NoEncap,
    /// A block of this node's own: what no endpoint holds is dropped.
    Blackhole,
}

/// What a route leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// The endpoint at this index of [`NodePlan::endpoints`].
    Endpoint(usize),
    /// The peer at this index of [`NodePlan::peers`], reached in this way.
    Peer {
        /// Index into [`NodePlan::peers`].
        peer: usize,
        /// How packets travel there.
        encap: Encap,
        /// By which of the underlay's families. Only in VXLAN may it be another one than the route's own.
        underlay: Family,
    },
    /// This node's own kernel, through the host interface.
    Host,
    /// Nowhere: dropped, with a reason.
    Blackhole,
}

/// The best route of a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Canonical destination.
    pub prefix: Prefix,
    /// Why it won against others of the same prefix.
    pub class: RouteClass,
    /// Where it leads.
    pub target: Target,
    /// The pool that covers the prefix, if any; for a remote route it decided the encapsulation.
    pub pool: Option<Prefix>,
    /// What made it; [`NodePlan::explain`] says it in a sentence.
    pub rule: Rule,
}

/// The fact in the resources that a route comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// An address of an endpoint of this node.
    LocalEndpoint,
    /// This node's underlay address.
    NodeAddress,
    /// A node's IPIP tunnel address: this node's own, or a peer's.
    IpipTunnelAddress,
    /// A node's VXLAN tunnel address: this node's own, or a peer's.
    VxlanTunnelAddress,
    /// An address of a peer's endpoint outside that peer's blocks (Calico's `borrowed`).
    Borrowed {
        /// The longest block around it, another node's; `None` where no block holds it.
        from: Option<Prefix>,
    },
    /// A block of a peer, or of this node.
    Block,
}

/// Another node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Name of the Node resource.
    pub name: String,
    /// Where it is on the underlay: in one family or both.
    pub underlays: Underlays,
    /// `spec.bgp.ipv4IPIPTunnelAddr`.
    pub ipip_tunnel_addr: Option<IpAddr>,
    /// `spec.ipv4VXLANTunnelAddr` and `spec.ipv6VXLANTunnelAddr`, as far as given: the overlay's addresses, whatever the
    /// underlay's families are.
    pub vxlan_tunnel_addrs: Vec<IpAddr>,
}

/// One WorkloadEndpoint of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointPlan {
    /// `namespace/name` of the WorkloadEndpoint resource: unique, stable.
    pub name: String,
    /// `namespace/pod`, for people.
    pub workload: String,
    /// How it is attached.
    pub attach: Attach,
    /// TAP: name of the interface inside the workload's namespace (`spec.endpoint`, default `eth0`).
    /// veth: the host end (`spec.interfaceName`).
    pub interface: String,
    /// Path of the workload's network namespace, or `/proc/PID/ns/net` for a pid (`margay.dev/netns`);
    /// always there for a TAP.
    pub netns: Option<std::path::PathBuf>,
    /// Addresses, each a single host (`ipNetworks`); at least one.
    pub addresses: Vec<IpAddr>,
    /// `allowSpoofedSourcePrefixes`: sources that it may send from beside its addresses; none unless
    /// `workloadSourceSpoofing` is `Any`.
    pub spoofed_sources: Vec<Prefix>,
    /// `spec.mac`; learned when absent.
    pub mac: Option<MacAddr>,
    /// Queues of the TAP, 1 unless `margay.dev/queues` says more.
    pub queues: u16,
}

/// An IPPool, enabled or disabled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolPlan {
    /// `spec.cidr`.
    pub cidr: Prefix,
    /// Encapsulation that the pool allows; `Direct` where both modes are `Never`.
    pub encap: Encap,
    /// Mode is `CrossSubnet`.
    pub cross_subnet: bool,
    /// `spec.natOutgoing`.
    pub nat_outgoing: bool,
    /// `spec.disabled`: no new addresses, but routes of existing blocks remain.
    pub disabled: bool,
    /// The MSS of TCP is lowered to what the way carries (`margay.dev/tcp-mss-clamp: auto`).
    pub clamps: bool,
}

/// Felix's settings that apply, with Felix's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// UDP port of VXLAN, 4789.
    pub vxlan_port: u16,
    /// VNI, 4096.
    pub vxlan_vni: u32,
    /// `vxlanMTU`, of VXLAN over IPv4: bytes, at most; what fits into the underlay's packets counts where it is less.
    pub vxlan_mtu: Option<u16>,
    /// `vxlanMTUV6`, of VXLAN over IPv6: bytes, as `vxlanMTU`.
    pub vxlan_mtu_v6: Option<u16>,
    /// `ipipMTU`: bytes, as `vxlanMTU`.
    pub ipip_mtu: Option<u16>,
    /// `mtu`: bytes, of every endpoint; `None` = the smallest over the peers.
    pub mtu: Option<u16>,
    /// `mtuIfacePattern`: a valid regular expression; the underlay carries no more than the interfaces of these names.
    pub mtu_iface_pattern: Option<String>,
    /// `allowIPIPPacketsFromWorkloads`, false.
    pub allow_ipip_from_workloads: bool,
    /// `allowVXLANPacketsFromWorkloads`, false.
    pub allow_vxlan_from_workloads: bool,
}

/// Everything that one node's agent needs of the desired state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlan {
    /// Name of the Node resource.
    pub node: String,
    /// Where it is on the underlay: in one family or both.
    pub underlays: Underlays,
    /// `spec.bgp.ipv4IPIPTunnelAddr`.
    pub ipip_tunnel_addr: Option<IpAddr>,
    /// `spec.ipv4VXLANTunnelAddr` and `spec.ipv6VXLANTunnelAddr`, as far as given: the overlay's addresses, whatever the
    /// underlay's families are.
    pub vxlan_tunnel_addrs: Vec<IpAddr>,
    /// Every other Node that has an underlay address, by name.
    pub peers: Vec<Peer>,
    /// This node's WorkloadEndpoints, by name.
    pub endpoints: Vec<EndpointPlan>,
    /// All pools, by cidr; no two overlap.
    pub pools: Vec<PoolPlan>,
    /// Best routes, one a prefix, by prefix.
    pub routes: Vec<Route>,
    /// Felix's settings.
    pub settings: Settings,
    /// For people: what works but is probably not meant (asymmetric CrossSubnet, unknown nodes, …).
    pub warnings: Vec<String>,
}

impl NodePlan {
    /// The node's own addresses in the overlay: VXLAN's, IPv4 first, then IPIP's.
    pub fn tunnel_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.vxlan_tunnel_addrs.iter().copied().chain(self.ipip_tunnel_addr)
    }
}
