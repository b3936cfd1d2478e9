//! The calculation: what Felix's `calc/l3_route_resolver.go` makes of nodes, pools, blocks and endpoints.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use super::{
    Attach, Encap, EndpointPlan, NodePlan, Peer, PoolPlan, Route, RouteClass, Rule, Settings, Target,
    asymmetries,
};
use crate::lpm::Prefix;
use crate::resource::{
    Claim, FelixConfiguration, IpPool, Mode, MssClamp, MtuSetting, Node, PoolUse, ResourceError, Resources,
    Scope, WorkloadEndpoint,
};

/// The resources are valid, but this node cannot run from them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No Node resource has the name.
    #[error("no Node resource is named {node:?} (there {})", known_nodes(known))]
    UnknownNode {
        /// The name asked for.
        node: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// The node or its endpoints lack something that only their own node needs.
    #[error("{}", lines(.0))]
    Incomplete(Vec<ResourceError>),
}

fn known_nodes(known: &[String]) -> String {
    const SHOWN: usize = 10;
    let names = known.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match known.len() {
        0 => "are none".to_owned(),
        1 => format!("is {names}"),
        n if n <= SHOWN => format!("are {names}"),
        n => format!("are {names} and {} more", n - SHOWN),
    }
}

fn lines(errors: &[ResourceError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Calculates what `node` has to do.
///
/// # Errors
/// `node` is no Node resource, has no IPv4 address, or one of its endpoints is a TAP and does not
/// name its network namespace.
pub fn plan(resources: &Resources, node: &str) -> Result<NodePlan, PlanError> {
    let here = resources.nodes.iter().find(|candidate| candidate.meta.name == node).ok_or_else(|| {
        let known = resources.nodes.iter().map(|node| node.meta.name.clone()).collect();
        PlanError::UnknownNode { node: node.to_owned(), known }
    })?;
    let address = here.ipv4.ok_or_else(|| {
        let problem = "missing: want this node's underlay address with prefix length (e.g. 10.0.0.5/24)";
        PlanError::Incomplete(vec![ResourceError::Field {
            origin: here.meta.origin.clone(),
            subject: format!("Node {node}"),
            path: "spec.bgp.ipv4Address".to_owned(),
            problem: problem.to_owned(),
        }])
    })?;
    let calculation = Calculation::new(resources, here, address);
    let endpoints = local_endpoints(resources, node)?;
    Ok(calculation.finish(endpoints))
}

/// Where a node of the cluster is, as seen from this one.
#[derive(Clone, Copy)]
enum Place {
    Here,
    Peer(usize),
    /// A Node without an IPv4 address.
    Unreachable,
}

/// One node's view of the cluster.
struct Calculation<'r> {
    resources: &'r Resources,
    here: &'r Node,
    address: Ipv4Net,
    places: HashMap<&'r str, Place>,
    peers: Vec<Peer>,
    pools: Vec<PoolPlan>,
    blocks: Blocks,
    /// Blocks and endpoints that get no route, counted by the node that they name.
    lost: BTreeMap<&'r str, Lost>,
    warnings: Vec<String>,
}

#[derive(Default)]
struct Lost {
    blocks: usize,
    endpoints: usize,
}

impl<'r> Calculation<'r> {
    fn new(resources: &'r Resources, here: &'r Node, address: Ipv4Net) -> Self {
        let mut places = HashMap::new();
        let mut peers = Vec::new();
        for node in &resources.nodes {
            let place = match node.ipv4 {
                _ if node.meta.name == here.meta.name => Place::Here,
                None => Place::Unreachable,
                Some(address) => {
                    peers.push(peer(node, address));
                    Place::Peer(peers.len() - 1)
                }
            };
            places.insert(node.meta.name.as_str(), place);
        }
        let pools = resources.pools.iter().filter(|pool| pool.cidr.addr().is_ipv4()).map(pool_plan).collect();
        let mut calculation = Calculation {
            resources,
            here,
            address,
            places,
            peers,
            pools,
            blocks: Blocks::default(),
            lost: BTreeMap::new(),
            warnings: Vec::new(),
        };
        calculation.blocks = calculation.routed_blocks();
        calculation
    }

    fn finish(mut self, endpoints: Vec<EndpointPlan>) -> NodePlan {
        let routes = self.routes(&endpoints);
        self.warn();
        NodePlan {
            node: self.here.meta.name.clone(),
            address: self.address.addr().into(),
            subnet: Prefix::V4(self.address.trunc()),
            ipip_tunnel_addr: self.here.ipip_tunnel_addr.map(IpAddr::V4),
            vxlan_tunnel_addr: self.here.vxlan_tunnel_addr.map(IpAddr::V4),
            vtep_mac: self.here.vtep_mac,
            peers: self.peers,
            endpoints,
            pools: self.pools,
            routes,
            settings: settings(self.resources, &self.here.meta.name),
            warnings: self.warnings,
        }
    }

    /// Confirmed IPv4 blocks of known nodes, each prefix once.
    fn routed_blocks(&mut self) -> Blocks {
        let mut routed: Vec<Block> = Vec::new();
        let load_balancers: Vec<Prefix> = self
            .resources
            .pools
            .iter()
            .filter(|pool| pool.usage == PoolUse::LoadBalancerOnly)
            .map(|pool| pool.cidr)
            .collect();
        for block in self.resources.blocks.iter().filter(|block| block.claim == Claim::Confirmed) {
            let Prefix::V4(prefix) = block.cidr else { continue };
            let twice = routed.last().is_some_and(|last| last.prefix == prefix);
            if twice || covering(&load_balancers, |pool| *pool, &block.cidr).is_some() {
                continue;
            }
            match self.places.get(block.node.as_str()) {
                Some(Place::Here) => routed.push(Block { prefix, holder: Holder::Here, around: None }),
                Some(Place::Peer(peer)) => {
                    routed.push(Block { prefix, holder: Holder::Peer(*peer), around: None });
                }
                Some(Place::Unreachable) | None => self.lost.entry(&block.node).or_default().blocks += 1,
            }
        }
        Blocks::new(routed)
    }

    /// The best route of each prefix: candidates come best first, and the first of a prefix stays.
    fn routes(&mut self, endpoints: &[EndpointPlan]) -> Vec<Route> {
        let mut routes = Vec::new();
        self.local_workloads(endpoints, &mut routes);
        self.own_addresses(&mut routes);
        self.remote_endpoints(&mut routes);
        self.tunnel_addresses(&mut routes);
        self.remote_blocks(&mut routes);
        self.blackholes(&mut routes);
        routes.sort_by_key(|route| route.prefix);
        routes.dedup_by_key(|route| route.prefix);
        routes
    }

    fn local_workloads(&self, endpoints: &[EndpointPlan], routes: &mut Vec<Route>) {
        for (index, endpoint) in endpoints.iter().enumerate() {
            for address in &endpoint.addresses {
                let (class, target) = (RouteClass::LocalWorkload, Target::Endpoint(index));
                routes.push(self.route((*address).into(), class, target, Rule::LocalEndpoint));
            }
        }
    }

    fn own_addresses(&self, routes: &mut Vec<Route>) {
        let own = [
            (Some(self.address.addr()), Rule::NodeAddress),
            (self.here.vxlan_tunnel_addr, Rule::VxlanTunnelAddress),
            (self.here.ipip_tunnel_addr, Rule::IpipTunnelAddress),
        ];
        for (address, rule) in own {
            let Some(address) = address else { continue };
            routes.push(self.route(IpAddr::V4(address).into(), RouteClass::LocalHost, Target::Host, rule));
        }
    }

    /// Addresses of peers' endpoints that no block leads to that peer for.
    fn remote_endpoints(&mut self, routes: &mut Vec<Route>) {
        for endpoint in &self.resources.endpoints {
            let peer = match self.places.get(endpoint.node.as_str()) {
                Some(Place::Here) => continue,
                Some(Place::Peer(peer)) => *peer,
                Some(Place::Unreachable) | None => {
                    self.lost.entry(&endpoint.node).or_default().endpoints += 1;
                    continue;
                }
            };
            for address in endpoint.addresses.iter().copied() {
                let IpAddr::V4(v4) = address else { continue };
                let block = self.blocks.longest(v4);
                if block.is_some_and(|block| block.holder == Holder::Peer(peer)) {
                    continue;
                }
                let rule = Rule::Borrowed { from: block.map(|block| Prefix::V4(block.prefix)) };
                routes.push(self.remote(address.into(), peer, None, rule));
            }
        }
    }

    fn tunnel_addresses(&self, routes: &mut Vec<Route>) {
        for (index, peer) in self.peers.iter().enumerate() {
            let tunnels = [
                (peer.vxlan_tunnel_addr, Encap::Vxlan, Rule::VxlanTunnelAddress),
                (peer.ipip_tunnel_addr, Encap::Ipip, Rule::IpipTunnelAddress),
            ];
            for (address, encap, rule) in tunnels {
                let Some(address) = address else { continue };
                routes.push(self.remote(address.into(), index, Some(encap), rule));
            }
        }
    }

    fn remote_blocks(&self, routes: &mut Vec<Route>) {
        for block in &self.blocks.sorted {
            let Holder::Peer(peer) = block.holder else { continue };
            routes.push(self.remote(Prefix::V4(block.prefix), peer, None, Rule::Block));
        }
    }

    fn blackholes(&self, routes: &mut Vec<Route>) {
        for block in &self.blocks.sorted {
            // A block of one address is all endpoint: nothing of it can be free.
            if block.holder == Holder::Here && block.prefix.prefix_len() < block.prefix.max_prefix_len() {
                let (class, target) = (RouteClass::Blackhole, Target::Blackhole);
                routes.push(self.route(Prefix::V4(block.prefix), class, target, Rule::Block));
            }
        }
    }

    /// A route to a peer: the pool decides, unless the prefix is a tunnel address, which has the
    /// encapsulation of `own`.
    fn remote(&self, prefix: Prefix, peer: usize, own: Option<Encap>, rule: Rule) -> Route {
        let pool = self.pool(&prefix);
        let address = self.peers.get(peer).map(|peer| peer.address);
        let (class, encap) = decide(own, pool, &Prefix::V4(self.address.trunc()), address);
        self.route(prefix, class, Target::Peer { peer, encap }, rule)
    }

    fn route(&self, prefix: Prefix, class: RouteClass, target: Target, rule: Rule) -> Route {
        Route { prefix, class, target, pool: self.pool(&prefix).map(|pool| pool.cidr), rule }
    }

    fn pool(&self, prefix: &Prefix) -> Option<&PoolPlan> {
        covering(&self.pools, |pool| pool.cidr, prefix)
    }

    fn warn(&mut self) {
        for (name, lost) in &self.lost {
            let why = match self.places.contains_key(name) {
                true => "has no spec.bgp.ipv4Address",
                false => "is no Node resource",
            };
            let lost = format!("{} and {}", count(lost.blocks, "block"), count(lost.endpoints, "endpoint"));
            self.warnings.push(format!("{name} {why}: no route to its {lost}"));
        }
        let nodes = self.peers.iter().map(|peer| (peer.name.as_str(), peer.address));
        let here = (self.here.meta.name.as_str(), self.address.addr().into());
        for (name, address) in nodes.chain([here]) {
            if let Some(pool) = covering(&self.pools, |pool| pool.cidr, &address.into()) {
                let warning = format!("the address {address} of {name} lies in pool {}", pool.cidr);
                self.warnings.push(warning);
            }
        }
        let here = &self.here.meta.name;
        let may_spoof = felix(self.resources, here, |felix| felix.allow_spoofed_sources).unwrap_or(false);
        for endpoint in &self.resources.endpoints {
            let ours = endpoint.node == self.here.meta.name;
            let name = &endpoint.meta.name;
            if ours && !endpoint.addresses.iter().any(IpAddr::is_ipv4) {
                self.warnings.push(format!("endpoint {name} has no IPv4 address: it is not served"));
            }
            if ours && !may_spoof && !endpoint.spoofed_sources.is_empty() {
                let warning = "allowSpoofedSourcePrefixes has no effect unless FelixConfiguration's workloadSourceSpoofing is Any";
                self.warnings.push(format!("endpoint {name}: {warning}"));
            }
        }
        // One wrong mask is at odds with every peer; the first few pairs tell it.
        const SHOWN: usize = 10;
        let asymmetries = asymmetries(self.resources, Some(&self.here.meta.name));
        self.warnings.extend(asymmetries.iter().take(SHOWN).map(ToString::to_string));
        if asymmetries.len() > SHOWN {
            let more = asymmetries.len() - SHOWN;
            let name = &self.here.meta.name;
            self.warnings.push(format!("CrossSubnet is asymmetric between {name} and {more} more nodes"));
        }
    }
}

/// How a node whose underlay subnet is `here` sends to one at `there`: by what `pool` says of the destination, or by the
/// encapsulation of its `own` that a tunnel address has.
pub(super) fn decide(
    own: Option<Encap>,
    pool: Option<&PoolPlan>,
    here: &Prefix,
    there: Option<IpAddr>,
) -> (RouteClass, Encap) {
    let encap = own.or(pool.map(|pool| pool.encap)).unwrap_or(Encap::Direct);
    let cross_subnet = pool.is_some_and(|pool| pool.cross_subnet && pool.encap == encap);
    // Felix: `poolIsCrossSubnet && localNode.V4CIDR.Contains(remoteNode.V4Addr)`, the local mask only.
    let near = cross_subnet && there.is_some_and(|there| here.contains(&there));
    match (encap, near) {
        (Encap::Vxlan, true) => (RouteClass::VxlanSameSubnet, Encap::Direct),
        (Encap::Vxlan, false) => (RouteClass::VxlanTunnel, Encap::Vxlan),
        (Encap::Ipip, true) => (RouteClass::IpipSameSubnet, Encap::Direct),
        (Encap::Ipip, false) => (RouteClass::IpipTunnel, Encap::Ipip),
        (Encap::Direct, _) => (RouteClass::NoEncap, Encap::Direct),
    }
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Who holds a routed block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    Here,
    Peer(usize),
}

struct Block {
    prefix: Ipv4Net,
    holder: Holder,
    /// Index of the smallest block around it.
    around: Option<usize>,
}

/// Blocks, nested ones included, for longest match.
#[derive(Default)]
struct Blocks {
    sorted: Vec<Block>,
}

impl Blocks {
    /// `sorted` is in the order of prefixes, each once: a block comes right before what it holds.
    fn new(mut sorted: Vec<Block>) -> Self {
        let mut open: Vec<usize> = Vec::new();
        for index in 0..sorted.len() {
            let prefix = sorted[index].prefix;
            while open.pop_if(|outer| !sorted[*outer].prefix.contains(&prefix)).is_some() {}
            sorted[index].around = open.last().copied();
            open.push(index);
        }
        Blocks { sorted }
    }

    /// The longest block that holds `address`.
    fn longest(&self, address: Ipv4Addr) -> Option<&Block> {
        // The last block that begins at or before the address lies, by its order, inside the one
        // looked for; at most 32 steps outwards find it.
        let after = self.sorted.partition_point(|block| block.prefix.network() <= address);
        let mut candidate = after.checked_sub(1);
        while let Some(block) = candidate.and_then(|index| self.sorted.get(index)) {
            if block.prefix.contains(&address) {
                return Some(block);
            }
            candidate = block.around;
        }
        None
    }
}

/// The element of `sorted`, which do not overlap, that covers `prefix`.
fn covering<'a, T>(sorted: &'a [T], cidr: impl Fn(&T) -> Prefix, prefix: &Prefix) -> Option<&'a T> {
    let after = sorted.partition_point(|element| cidr(element) <= *prefix);
    sorted.get(after.checked_sub(1)?).filter(|element| cidr(element).contains(prefix))
}

fn peer(node: &Node, address: Ipv4Net) -> Peer {
    Peer {
        name: node.meta.name.clone(),
        address: address.addr().into(),
        subnet: Prefix::V4(address.trunc()),
        ipip_tunnel_addr: node.ipip_tunnel_addr.map(IpAddr::V4),
        vxlan_tunnel_addr: node.vxlan_tunnel_addr.map(IpAddr::V4),
        vtep_mac: node.vtep_mac,
    }
}

/// Felix's `poolTypeForPool`: VXLAN, else IPIP, else none.
fn pool_plan(pool: &IpPool) -> PoolPlan {
    let (encap, mode) = match (pool.vxlan_mode, pool.ipip_mode) {
        (Mode::Never, Mode::Never) => (Encap::Direct, Mode::Never),
        (Mode::Never, mode) => (Encap::Ipip, mode),
        (mode, _) => (Encap::Vxlan, mode),
    };
    PoolPlan {
        cidr: pool.cidr,
        encap,
        cross_subnet: mode == Mode::CrossSubnet,
        nat_outgoing: pool.nat_outgoing,
        disabled: pool.disabled,
        clamps: pool.mss_clamp == MssClamp::Auto,
    }
}

fn local_endpoints(resources: &Resources, node: &str) -> Result<Vec<EndpointPlan>, PlanError> {
    let mut errors = Vec::new();
    let mut plans = Vec::new();
    let may_spoof = felix(resources, node, |felix| felix.allow_spoofed_sources).unwrap_or(false);
    for endpoint in resources.endpoints.iter().filter(|endpoint| endpoint.node == node) {
        let addresses: Vec<IpAddr> = endpoint.addresses.iter().copied().filter(IpAddr::is_ipv4).collect();
        if addresses.is_empty() {
            continue;
        }
        if endpoint.attach == Attach::Tap && endpoint.netns.is_none() {
            errors.push(ResourceError::Field {
                origin: endpoint.meta.origin.clone(),
                subject: format!("WorkloadEndpoint {}", endpoint.meta.name),
                path: "metadata.annotations.margay.dev/netns".to_owned(),
                problem: format!(
                    "missing on {node}, which makes its TAP: want the path of the workload's network namespace, \
                     or a process id"
                ),
            });
        }
        plans.push(endpoint_plan(endpoint, addresses, may_spoof));
    }
    if errors.is_empty() { Ok(plans) } else { Err(PlanError::Incomplete(errors)) }
}

fn endpoint_plan(endpoint: &WorkloadEndpoint, addresses: Vec<IpAddr>, may_spoof: bool) -> EndpointPlan {
    let interface = match (endpoint.attach, &endpoint.interface_name) {
        (Attach::Veth, Some(host_end)) => host_end.clone(),
        _ => endpoint.endpoint.clone(),
    };
    let spoofed = endpoint.spoofed_sources.iter().filter(|_| may_spoof);
    let spoofed = spoofed.filter_map(|prefix| match prefix {
        Prefix::V4(prefix) => Some(*prefix),
        Prefix::V6(_) => None,
    });
    EndpointPlan {
        name: endpoint.meta.name.clone(),
        workload: endpoint.workload.clone(),
        attach: endpoint.attach,
        interface,
        netns: endpoint.netns.clone(),
        addresses,
        spoofed_sources: spoofed.collect(),
        mac: endpoint.mac,
        queues: endpoint.queues,
    }
}

/// What Felix is told: by its environment, the node's own configuration, `default`, field by field.
fn felix<T>(
    resources: &Resources,
    node: &str,
    field: impl Fn(&FelixConfiguration) -> Option<T>,
) -> Option<T> {
    let of = |scope: Scope| resources.felix.iter().find(|felix| felix.scope == scope);
    let layers = [of(Scope::Environment), of(Scope::Node(node.to_owned())), of(Scope::Everywhere)];
    layers.into_iter().flatten().find_map(field)
}

fn settings(resources: &Resources, node: &str) -> Settings {
    let bytes = |setting: Option<MtuSetting>| match setting {
        Some(MtuSetting::Bytes(bytes)) => Some(bytes),
        Some(MtuSetting::Auto) | None => None,
    };
    let allowed =
        |field: fn(&FelixConfiguration) -> Option<bool>| felix(resources, node, field).unwrap_or(false);
    Settings {
        vxlan_port: felix(resources, node, |felix| felix.vxlan_port).unwrap_or(4789),
        vxlan_vni: felix(resources, node, |felix| felix.vxlan_vni).unwrap_or(4096),
        vxlan_mtu: bytes(felix(resources, node, |felix| felix.vxlan_mtu)),
        ipip_mtu: bytes(felix(resources, node, |felix| felix.ipip_mtu)),
        mtu: bytes(felix(resources, node, |felix| felix.mtu)),
        allow_ipip_from_workloads: allowed(|felix| felix.allow_ipip_from_workloads),
        allow_vxlan_from_workloads: allowed(|felix| felix.allow_vxlan_from_workloads),
        mtu_iface_pattern: felix(resources, node, |felix| felix.mtu_iface_pattern.clone()),
    }
}
