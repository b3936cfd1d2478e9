//! CrossSubnet, where each node decides by its own mask.

use std::fmt;

use crate::lpm::Prefix;
use crate::resource::{Mode, Node, Resources};
use crate::wire::Family;

/// Two nodes that decide differently about each other under CrossSubnet: packets go one way
/// encapsulated and come back plain. Both forms are accepted everywhere, so traffic flows, but path
/// MTU, firewalls and captures differ by direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asymmetry {
    /// The node that sees the other inside its subnet and sends plain packets.
    pub plain: String,
    /// Its address and mask.
    pub plain_address: Prefix,
    /// The node that sees the other outside its subnet and encapsulates.
    pub encapsulating: String,
    /// Its address and mask.
    pub encapsulating_address: Prefix,
}

impl fmt::Display for Asymmetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Asymmetry { plain, plain_address, encapsulating, encapsulating_address } = self;
        write!(
            f,
            "CrossSubnet is asymmetric between {plain} and {encapsulating}: {plain} ({plain_address}) sees {} \
             inside its subnet and does not encapsulate, {encapsulating} ({encapsulating_address}) sees {} \
             outside its subnet and encapsulates; give both the same prefix length in {}",
            encapsulating_address.addr(),
            plain_address.addr(),
            address_field(Family::of(plain_address.addr())),
        )
    }
}

/// Where a Node says its address of a family.
pub(super) fn address_field(family: Family) -> &'static str {
    match family {
        Family::V4 => "spec.bgp.ipv4Address",
        Family::V6 => "spec.bgp.ipv6Address",
    }
}

/// The asymmetric pairs, once for each family, by name: those of `node`, or of all nodes. None in a family without a
/// CrossSubnet pool.
pub fn asymmetries(resources: &Resources, node: Option<&str>) -> Vec<Asymmetry> {
    Family::ALL.into_iter().flat_map(|family| asymmetries_of(family, resources, node)).collect()
}

fn asymmetries_of(family: Family, resources: &Resources, node: Option<&str>) -> Vec<Asymmetry> {
    let mut pools = resources.pools.iter().filter(|pool| Family::of(pool.cidr.addr()) == family);
    if !pools.any(|pool| [pool.ipip_mode, pool.vxlan_mode].contains(&Mode::CrossSubnet)) {
        return Vec::new();
    }
    let nodes: Vec<(&Node, Prefix)> =
        resources.nodes.iter().filter_map(|node| Some((node, node.network(family)?))).collect();
    let mut found = Vec::new();
    for (index, a) in nodes.iter().enumerate() {
        for b in &nodes[index + 1..] {
            if node.is_none_or(|node| a.0.meta.name == node || b.0.meta.name == node) {
                found.extend(between(*a, *b));
            }
        }
    }
    found
}

fn between(a: (&Node, Prefix), b: (&Node, Prefix)) -> Option<Asymmetry> {
    let (plain, encapsulating) = match (a.1.contains(&b.1.addr()), b.1.contains(&a.1.addr())) {
        (true, false) => (a, b),
        (false, true) => (b, a),
        _ => return None,
    };
    Some(Asymmetry {
        plain: plain.0.meta.name.clone(),
        plain_address: plain.1,
        encapsulating: encapsulating.0.meta.name.clone(),
        encapsulating_address: encapsulating.1,
    })
}
