//! The calculation: what Felix's `calc/l3_route_resolver.go` makes of nodes, pools, blocks and endpoints.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::families;
use super::settings::{felix, settings};
use super::subnet::address_field;
use super::way::{Ends, Way, decide};
use super::{
    Attach, Encap, EndpointPlan, NodePlan, Peer, PoolPlan, Route, RouteClass, Rule, Target, Underlays,
    asymmetries,
};
use crate::lpm::Prefix;
use crate::resource::{
    Claim, IpPool, Mode, MssClamp, Node, PoolUse, ResourceError, Resources, WorkloadEndpoint,
};
use crate::wire::Family;
use crate::wire::ipv6::MIN_MTU;

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
/// `node` is no Node resource, has no address on the underlay, or one of its endpoints is a TAP and does not
/// name its network namespace.
pub fn plan(resources: &Resources, node: &str) -> Result<NodePlan, PlanError> {
    match felix(resources, node, |felix| felix.ipv6_support) {
        Some(false) => {
            let without = families::without_ipv6(resources);
            let left_out = (without != *resources).then(|| families::LEFT_OUT.to_owned());
            let missing = "ipv4Address is missing, and ipv6Address does not count as ipv6Support is false";
            let mut plan = plan_of(&without, node, missing)?;
            plan.warnings.splice(0..0, left_out);
            Ok(plan)
        }
        Some(true) | None => plan_of(resources, node, "ipv4Address and ipv6Address are missing"),
    }
}

/// `missing` says what a node without an underlay lacks.
fn plan_of(resources: &Resources, node: &str, missing: &str) -> Result<NodePlan, PlanError> {
    let here = resources.nodes.iter().find(|candidate| candidate.meta.name == node).ok_or_else(|| {
        let known = resources.nodes.iter().map(|node| node.meta.name.clone()).collect();
        PlanError::UnknownNode { node: node.to_owned(), known }
    })?;
    let underlays = Underlays::of_node(here);
    if underlays.is_empty() {
        let want = "this node's underlay address with prefix length (e.g. ipv4Address: 10.0.0.5/24), or one of each family";
        return Err(PlanError::Incomplete(vec![ResourceError::Field {
            origin: here.meta.origin.clone(),
            subject: format!("Node {node}"),
            path: "spec.bgp".to_owned(),
            problem: format!("{missing}: want {want}"),
        }]));
    }
    let calculation = Calculation::new(resources, here, underlays);
    let endpoints = local_endpoints(resources, node)?;
    Ok(calculation.finish(endpoints))
}

/// Where a node of the cluster is, as seen from this one.
#[derive(Clone, Copy)]
enum Place {
    Here,
    Peer(usize),
    /// A Node without an address on the underlay.
    Unreachable,
}

/// One node's view of the cluster.
struct Calculation<'r> {
    resources: &'r Resources,
    here: &'r Node,
    underlays: Underlays,
    places: HashMap<&'r str, Place>,
    peers: Vec<Peer>,
    pools: Vec<PoolPlan>,
    blocks: Blocks,
    /// Blocks and endpoints that get no route, counted by the node that they name.
    lost: BTreeMap<&'r str, Lost>,
    /// Prefixes of peers that get no route, by what it would take.
    cut_off: BTreeMap<Lack, Vec<Prefix>>,
    warnings: Vec<String>,
}

#[derive(Default)]
struct Lost {
    blocks: usize,
    endpoints: usize,
}

/// Why there is no way to a peer: the encapsulation and the packets' family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Lack {
    encap: Encap,
    family: Family,
    /// Who it is that has no address of the family; `None`: this node.
    peer: Option<usize>,
}

impl<'r> Calculation<'r> {
    fn new(resources: &'r Resources, here: &'r Node, underlays: Underlays) -> Self {
        let mut places = HashMap::new();
        let mut peers = Vec::new();
        for node in &resources.nodes {
            let peer = peer(node);
            let place = match peer.underlays.is_empty() {
                _ if node.meta.name == here.meta.name => Place::Here,
                true => Place::Unreachable,
                false => {
                    peers.push(peer);
                    Place::Peer(peers.len() - 1)
                }
            };
            places.insert(node.meta.name.as_str(), place);
        }
        let pools = resources.pools.iter().map(pool_plan).collect();
        let mut calculation = Calculation {
            resources,
            here,
            underlays,
            places,
            peers,
            pools,
            blocks: Blocks::default(),
            lost: BTreeMap::new(),
            cut_off: BTreeMap::new(),
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
            underlays: self.underlays,
            ipip_tunnel_addr: self.here.ipip_tunnel_addr.map(IpAddr::V4),
            vxlan_tunnel_addrs: vxlan_tunnel_addrs(self.here),
            peers: self.peers,
            endpoints,
            pools: self.pools,
            routes,
            settings: settings(self.resources, &self.here.meta.name),
            warnings: self.warnings,
        }
    }

    /// Confirmed blocks of known nodes, each prefix once.
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
            let prefix = block.cidr;
            let twice = routed.last().is_some_and(|last| last.prefix == prefix);
            if twice || covering(&load_balancers, |pool| *pool, &prefix).is_some() {
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
        let own = self.underlays.addresses().map(|address| (address, Rule::NodeAddress));
        let vxlan = vxlan_tunnel_addrs(self.here).into_iter();
        let vxlan = vxlan.map(|address| (address, Rule::VxlanTunnelAddress));
        let ipip = self.here.ipip_tunnel_addr.map(|address| (address.into(), Rule::IpipTunnelAddress));
        for (address, rule) in own.chain(vxlan).chain(ipip) {
            routes.push(self.route(address.into(), RouteClass::LocalHost, Target::Host, rule));
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
                let block = self.blocks.longest(address);
                if block.is_some_and(|block| block.holder == Holder::Peer(peer)) {
                    continue;
                }
                let rule = Rule::Borrowed { from: block.map(|block| block.prefix) };
                routes.extend(self.remote(address.into(), peer, None, rule));
            }
        }
    }

    fn tunnel_addresses(&mut self, routes: &mut Vec<Route>) {
        for index in 0..self.peers.len() {
            let peer = &self.peers[index];
            let vxlan = peer.vxlan_tunnel_addrs.iter().copied();
            let vxlan = vxlan.map(|address| (address, Encap::Vxlan, Rule::VxlanTunnelAddress));
            let ipip = peer.ipip_tunnel_addr.map(|address| (address, Encap::Ipip, Rule::IpipTunnelAddress));
            for (address, encap, rule) in vxlan.chain(ipip).collect::<Vec<_>>() {
                routes.extend(self.remote(address.into(), index, Some(encap), rule));
            }
        }
    }

    fn remote_blocks(&mut self, routes: &mut Vec<Route>) {
        for index in 0..self.blocks.sorted.len() {
            let Block { prefix, holder: Holder::Peer(peer), .. } = self.blocks.sorted[index] else {
                continue;
            };
            routes.extend(self.remote(prefix, peer, None, Rule::Block));
        }
    }

    fn blackholes(&self, routes: &mut Vec<Route>) {
        for block in &self.blocks.sorted {
            // A block of one address is all endpoint: nothing of it can be free.
            if block.holder == Holder::Here && block.prefix.prefix_len() < block.prefix.max_prefix_len() {
                let (class, target) = (RouteClass::Blackhole, Target::Blackhole);
                routes.push(self.route(block.prefix, class, target, Rule::Block));
            }
        }
    }

    /// A route to a peer, if there is a way: the pool decides, unless the prefix is a tunnel address, which has the
    /// encapsulation of `own`.
    fn remote(&mut self, prefix: Prefix, peer: usize, own: Option<Encap>, rule: Rule) -> Option<Route> {
        let family = Family::of(prefix.addr());
        let ends = Ends { from: &self.underlays, to: &self.peers.get(peer)?.underlays };
        match decide(own, self.pool(&prefix), ends, family) {
            Ok(Way { class, encap, underlay }) => {
                Some(self.route(prefix, class, Target::Peer { peer, encap, underlay }, rule))
            }
            Err(encap) => {
                let lacking = self.underlays.of(family).is_some().then_some(peer);
                self.cut_off.entry(Lack { encap, family, peer: lacking }).or_default().push(prefix);
                None
            }
        }
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
                true => "has neither spec.bgp.ipv4Address nor spec.bgp.ipv6Address",
                false => "is no Node resource",
            };
            let lost = format!("{} and {}", count(lost.blocks, "block"), count(lost.endpoints, "endpoint"));
            self.warnings.push(format!("{name} {why}: no route to its {lost}"));
        }
        self.warn_of_cut_off();
        let nodes = self.peers.iter().map(|peer| (&peer.name, &peer.underlays));
        for (name, underlays) in nodes.chain([(&self.here.meta.name, &self.underlays)]) {
            for address in underlays.addresses() {
                if let Some(pool) = covering(&self.pools, |pool| pool.cidr, &address.into()) {
                    let warning = format!("the address {address} of {name} lies in pool {}", pool.cidr);
                    self.warnings.push(warning);
                }
            }
        }
        let here = &self.here.meta.name;
        let may_spoof = felix(self.resources, here, |felix| felix.allow_spoofed_sources).unwrap_or(false);
        for endpoint in &self.resources.endpoints {
            let ours = endpoint.node == self.here.meta.name;
            let name = &endpoint.meta.name;
            if ours && endpoint.addresses.is_empty() {
                self.warnings.push(format!("endpoint {name} has no address: it is not served"));
            }
            if ours && !may_spoof && !endpoint.spoofed_sources.is_empty() {
                let warning = "allowSpoofedSourcePrefixes has no effect unless FelixConfiguration's workloadSourceSpoofing is Any";
                self.warnings.push(format!("endpoint {name}: {warning}"));
            }
        }
        self.warn_of_small_mtus();
        // One wrong mask is at odds with every peer; the first few pairs tell it.
        let asymmetries = asymmetries(self.resources, Some(&self.here.meta.name));
        self.warnings.extend(asymmetries.iter().take(SHOWN).map(ToString::to_string));
        if asymmetries.len() > SHOWN {
            let more = asymmetries.len() - SHOWN;
            let name = &self.here.meta.name;
            self.warnings.push(format!("CrossSubnet is asymmetric between {name} and {more} more nodes"));
        }
    }

    /// Linux takes its IPv6 addresses from an interface below [`MIN_MTU`].
    fn warn_of_small_mtus(&mut self) {
        let here = &self.here.meta.name;
        let mut own = self.resources.endpoints.iter().filter(|endpoint| endpoint.node == *here);
        if !own.any(|endpoint| endpoint.addresses.iter().any(IpAddr::is_ipv6)) {
            return;
        }
        let settings = settings(self.resources, here);
        for (name, bytes) in
            [("mtu", settings.mtu), ("vxlanMTU", settings.vxlan_mtu), ("ipipMTU", settings.ipip_mtu)]
        {
            if let Some(bytes) = bytes.filter(|bytes| *bytes < MIN_MTU) {
                self.warnings.push(format!(
                    "FelixConfiguration's {name} of {bytes} is below the {MIN_MTU} bytes that IPv6 needs (RFC 8200 \
                     section 5): endpoints of {here} cannot use their IPv6 addresses"
                ));
            }
        }
    }

    fn warn_of_cut_off(&mut self) {
        let here = &self.here.meta.name;
        for (lack, prefixes) in self.cut_off.iter().take(SHOWN) {
            let peer = lack.peer.and_then(|peer| self.peers.get(peer)).map(|peer| &peer.name);
            let (who, whose) = (peer.unwrap_or(here), if peer.is_some() { "its" } else { "other nodes'" });
            let field = address_field(lack.family);
            let what = match prefixes.as_slice() {
                [one] => one.to_string(),
                [first, rest @ ..] => format!("{first} and {} more", rest.len()),
                [] => continue,
            };
            self.warnings.push(match lack.encap {
                Encap::Vxlan => format!(
                    "{who} has no {field}, and there is no other family in common: no route by vxlan to {whose} {what}; \
                     give both nodes an address of the same family"
                ),
                Encap::Ipip => format!(
                    "{who} has no {field}: no route by ipip to {whose} {what}; give it one, or use vxlanMode in the IPPool"
                ),
                Encap::Direct => format!(
                    "{who} has no {field}: no route without encapsulation to {whose} {what}; give it one, or use \
                     vxlanMode in an IPPool"
                ),
            });
        }
        if self.cut_off.len() > SHOWN {
            let more = self.cut_off.len() - SHOWN;
            self.warnings.push(format!("{more} more nodes have no address of a family that {here} needs"));
        }
    }
}

/// Warnings of one kind that are written out; of others only the number.
const SHOWN: usize = 10;

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
    prefix: Prefix,
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
    fn longest(&self, address: IpAddr) -> Option<&Block> {
        // The last block that begins at or before the address lies, by its order, inside the one
        // looked for; at most 128 steps outwards find it.
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

fn peer(node: &Node) -> Peer {
    Peer {
        name: node.meta.name.clone(),
        underlays: Underlays::of_node(node),
        ipip_tunnel_addr: node.ipip_tunnel_addr.map(IpAddr::V4),
        vxlan_tunnel_addrs: vxlan_tunnel_addrs(node),
    }
}

fn vxlan_tunnel_addrs(node: &Node) -> Vec<IpAddr> {
    let (v4, v6) = (node.vxlan_tunnel_addr.map(IpAddr::V4), node.vxlan_tunnel_addr_v6.map(IpAddr::V6));
    v4.into_iter().chain(v6).collect()
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
        if endpoint.addresses.is_empty() {
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
        plans.push(endpoint_plan(endpoint, may_spoof));
    }
    if errors.is_empty() { Ok(plans) } else { Err(PlanError::Incomplete(errors)) }
}

fn endpoint_plan(endpoint: &WorkloadEndpoint, may_spoof: bool) -> EndpointPlan {
    let interface = match (endpoint.attach, &endpoint.interface_name) {
        (Attach::Veth, Some(host_end)) => host_end.clone(),
        _ => endpoint.endpoint.clone(),
    };
    EndpointPlan {
        name: endpoint.meta.name.clone(),
        workload: endpoint.workload.clone(),
        attach: endpoint.attach,
        interface,
        netns: endpoint.netns.clone(),
        addresses: endpoint.addresses.clone(),
        spoofed_sources: if may_spoof { endpoint.spoofed_sources.clone() } else { Vec::new() },
        mac: endpoint.mac,
        queues: endpoint.queues,
    }
}
