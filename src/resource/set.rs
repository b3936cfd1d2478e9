//! All resources of a source, and the rules that span them.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::IpAddr;
use std::path::Path;

use super::{
    Attach, BlockAffinity, Claim, FelixConfiguration, IpPool, Meta, Node, Notice, Parsed, Resource,
    ResourceError, WorkloadEndpoint,
};
use crate::lpm::Prefix;
use crate::wire::MacAddr;

/// The desired state: resources that are valid together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Nodes, by name.
    pub nodes: Vec<Node>,
    /// Pools, by prefix.
    pub pools: Vec<IpPool>,
    /// Block affinities in every state of claim, by prefix; a confirmed prefix has one node.
    pub blocks: Vec<BlockAffinity>,
    /// Endpoints of all nodes, by name.
    pub endpoints: Vec<WorkloadEndpoint>,
    /// Settings, by name.
    pub felix: Vec<FelixConfiguration>,
    /// What was accepted without effect, each once.
    pub notices: BTreeSet<Notice>,
}

impl Resources {
    /// Puts together what was parsed.
    ///
    /// # Errors
    /// Every mistake of the texts themselves, and every pair of resources that cannot both be: same
    /// kind and name, overlapping pools, one block confirmed for two nodes, one address for two.
    pub fn build(texts: impl IntoIterator<Item = Parsed>) -> Result<Resources, Vec<ResourceError>> {
        let mut all = Resources::default();
        let mut errors = Vec::new();
        for text in texts {
            errors.extend(text.errors);
            all.notices.extend(text.notices);
            text.resources.into_iter().for_each(|resource| all.push(resource));
        }
        all.sort();
        errors.extend(all.conflicts());
        if errors.is_empty() { Ok(all) } else { Err(errors) }
    }

    fn push(&mut self, resource: Resource) {
        match resource {
            Resource::Node(node) => self.nodes.push(node),
            Resource::IpPool(pool) => self.pools.push(pool),
            Resource::BlockAffinity(block) => self.blocks.push(block),
            Resource::WorkloadEndpoint(endpoint) => self.endpoints.push(endpoint),
            Resource::FelixConfiguration(felix) => self.felix.push(felix),
        }
    }

    fn sort(&mut self) {
        self.nodes.sort_by(|a, b| a.meta.name.cmp(&b.meta.name));
        self.pools.sort_by(|a, b| (a.cidr, &a.meta.name).cmp(&(b.cidr, &b.meta.name)));
        self.blocks.sort_by(|a, b| (a.cidr, &a.meta.name).cmp(&(b.cidr, &b.meta.name)));
        self.endpoints.sort_by(|a, b| a.meta.name.cmp(&b.meta.name));
        self.felix.sort_by(|a, b| a.meta.name.cmp(&b.meta.name));
    }

    fn conflicts(&self) -> Vec<ResourceError> {
        let mut conflicts = Conflicts::default();
        conflicts.names("Node", self.nodes.iter().map(|node| &node.meta));
        conflicts.names("IPPool", self.pools.iter().map(|pool| &pool.meta));
        conflicts.names("BlockAffinity", self.blocks.iter().map(|block| &block.meta));
        conflicts.names("WorkloadEndpoint", self.endpoints.iter().map(|endpoint| &endpoint.meta));
        conflicts.names("FelixConfiguration", self.felix.iter().map(|felix| &felix.meta));
        conflicts.pools(&self.pools);
        conflicts.blocks(&self.blocks);
        conflicts.addresses(&self.nodes, &self.endpoints);
        conflicts.macs(&self.nodes);
        conflicts.interfaces(&self.endpoints);
        conflicts.errors
    }
}

/// A resource and the field of it that a conflict is about.
#[derive(Clone, Copy)]
struct Place<'a> {
    kind: &'static str,
    meta: &'a Meta,
    path: &'static str,
}

const NAME: &str = "metadata.name";

#[derive(Default)]
struct Conflicts {
    errors: Vec<ResourceError>,
}

impl Conflicts {
    /// Reports `problem` at the later of two places, with the earlier one named behind it. Two of one
    /// kind and name are reported as such, not for each thing that they have in common besides.
    fn report(&mut self, here: Place<'_>, there: Place<'_>, problem: impl Display) {
        let same = here.kind == there.kind && here.meta.name == there.meta.name;
        if same && here.path != NAME {
            return;
        }
        let (here, there) = if here.meta.origin >= there.meta.origin { (here, there) } else { (there, here) };
        self.errors.push(ResourceError::Field {
            origin: here.meta.origin.clone(),
            subject: format!("{} {}", here.kind, here.meta.name),
            path: here.path.to_owned(),
            problem: format!("{problem} {} {} ({})", there.kind, there.meta.name, there.meta.origin),
        });
    }

    fn names<'a>(&mut self, kind: &'static str, metas: impl Iterator<Item = &'a Meta>) {
        let place = |meta| Place { kind, meta, path: NAME };
        let mut seen = BTreeMap::new();
        for meta in metas {
            match seen.entry(&meta.name) {
                Entry::Vacant(free) => drop(free.insert(meta)),
                Entry::Occupied(first) => self.report(place(meta), place(first.get()), "is already used by"),
            }
        }
    }

    /// Pools come sorted by prefix, so whatever a pool overlaps follows it directly.
    fn pools(&mut self, pools: &[IpPool]) {
        fn place(pool: &IpPool) -> Place<'_> {
            Place { kind: "IPPool", meta: &pool.meta, path: "spec.cidr" }
        }
        let mut widest: Option<&IpPool> = None;
        for pool in pools {
            match widest {
                Some(wide) if wide.cidr.contains(&pool.cidr) => {
                    let problem = if pool.meta.origin >= wide.meta.origin {
                        format!("{} overlaps {} of", pool.cidr, wide.cidr)
                    } else {
                        format!("{} overlaps {} of", wide.cidr, pool.cidr)
                    };
                    self.report(place(pool), place(wide), problem);
                }
                _ => widest = Some(pool),
            }
        }
    }

    fn blocks(&mut self, blocks: &[BlockAffinity]) {
        fn place(block: &BlockAffinity) -> Place<'_> {
            Place { kind: "BlockAffinity", meta: &block.meta, path: "spec.cidr" }
        }
        let mut holders: BTreeMap<Prefix, &BlockAffinity> = BTreeMap::new();
        for block in blocks.iter().filter(|block| block.claim == Claim::Confirmed) {
            let first = *holders.entry(block.cidr).or_insert(block);
            if first.node != block.node {
                let problem =
                    format!("{} is confirmed for both {} and {}: see", block.cidr, first.node, block.node);
                self.report(place(block), place(first), problem);
            }
        }
    }

    /// One address, one owner: nodes, tunnels and endpoints share the space that routes lead to. (One
    /// node may use one address for several tunnels, as in Calico.)
    fn addresses(&mut self, nodes: &[Node], endpoints: &[WorkloadEndpoint]) {
        let mut claims: Vec<(IpAddr, Place<'_>)> = Vec::new();
        for node in nodes {
            let place = |path| Place { kind: "Node", meta: &node.meta, path };
            let addresses = [
                (node.ipv4.map(|net| net.addr().into()), "spec.bgp.ipv4Address"),
                (node.ipv6.map(|net| net.addr().into()), "spec.bgp.ipv6Address"),
                (node.ipip_tunnel_addr.map(IpAddr::V4), "spec.bgp.ipv4IPIPTunnelAddr"),
                (node.vxlan_tunnel_addr.map(IpAddr::V4), "spec.ipv4VXLANTunnelAddr"),
                (node.vxlan_tunnel_addr_v6.map(IpAddr::V6), "spec.ipv6VXLANTunnelAddr"),
            ];
            claims.extend(addresses.into_iter().filter_map(|(address, path)| Some((address?, place(path)))));
        }
        for endpoint in endpoints {
            let place = Place { kind: "WorkloadEndpoint", meta: &endpoint.meta, path: "spec.ipNetworks" };
            claims.extend(endpoint.addresses.iter().map(|address| (*address, place)));
        }

        // A stable sort: of one address, the claims stay in the order above.
        claims.sort_by_key(|(address, _)| *address);
        for claims in claims.chunk_by(|a, b| a.0 == b.0) {
            let [(address, first), others @ ..] = claims else { continue };
            for (_, other) in others {
                self.report(*other, *first, format!("{address} already belongs to"));
            }
        }
    }

    /// A VTEP drops frames that carry its own MAC as source, so two nodes of one MAC cannot talk. Each family has VTEPs of
    /// its own.
    fn macs(&mut self, nodes: &[Node]) {
        let mut owners: BTreeMap<(MacAddr, &str), Place<'_>> = BTreeMap::new();
        for node in nodes {
            for (mac, path) in
                [(node.vtep_mac, "spec.vxlanTunnelMACAddr"), (node.vtep_mac_v6, "spec.vxlanTunnelMACAddrV6")]
            {
                let place = Place { kind: "Node", meta: &node.meta, path };
                match owners.entry((mac, path)) {
                    Entry::Vacant(free) => drop(free.insert(place)),
                    Entry::Occupied(first) => {
                        self.report(place, *first.get(), format!("{mac} already belongs to"));
                    }
                }
            }
        }
    }

    /// One interface serves one endpoint.
    fn interfaces(&mut self, endpoints: &[WorkloadEndpoint]) {
        let mut owners: BTreeMap<(&str, Option<&Path>, &str), Place<'_>> = BTreeMap::new();
        for endpoint in endpoints {
            let (key, path) = match (endpoint.attach, &endpoint.netns, &endpoint.interface_name) {
                (Attach::Tap, Some(netns), _) => {
                    ((&*endpoint.node, Some(&**netns), &*endpoint.endpoint), "spec.endpoint")
                }
                (Attach::Veth, _, Some(name)) => ((&*endpoint.node, None, &**name), "spec.interfaceName"),
                _ => continue,
            };
            let place = Place { kind: "WorkloadEndpoint", meta: &endpoint.meta, path };
            match owners.entry(key) {
                Entry::Vacant(free) => drop(free.insert(place)),
                Entry::Occupied(first) => {
                    let (_, netns, interface) = key;
                    let inside = netns.map(|netns| format!(" in {}", netns.display())).unwrap_or_default();
                    let problem = format!("{interface}{inside} already belongs to");
                    self.report(place, *first.get(), problem);
                }
            }
        }
    }
}
