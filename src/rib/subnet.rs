//! CrossSubnet, where each node decides by its own mask.

use std::fmt;

use ipnet::Ipv4Net;

use crate::resource::{IpPool, Mode, Node, Resources};

/// Two nodes that decide differently about each other under CrossSubnet: packets go one way
/// encapsulated and come back plain. Both forms are accepted everywhere, so traffic flows, but path
/// MTU, firewalls and captures differ by direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asymmetry {
    /// The node that sees the other inside its subnet and sends plain packets.
    pub plain: String,
    /// Its address and mask.
    pub plain_address: Ipv4Net,
    /// The node that sees the other outside its subnet and encapsulates.
    pub encapsulating: String,
    /// Its address and mask.
    pub encapsulating_address: Ipv4Net,
}

impl fmt::Display for Asymmetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Asymmetry { plain, plain_address, encapsulating, encapsulating_address } = self;
        write!(
            f,
            "CrossSubnet is asymmetric between {plain} and {encapsulating}: {plain} ({plain_address}) sees {} \
             inside its subnet and does not encapsulate, {encapsulating} ({encapsulating_address}) sees {} \
             outside its subnet and encapsulates; give both the same prefix length in spec.bgp.ipv4Address",
            encapsulating_address.addr(),
            plain_address.addr(),
        )
    }
}

/// The asymmetric pairs, each once, by name: those of `node`, or of all nodes. None without a
/// CrossSubnet pool.
pub fn asymmetries(resources: &Resources, node: Option<&str>) -> Vec<Asymmetry> {
    if !resources.pools.iter().any(is_cross_subnet) {
        return Vec::new();
    }
    let nodes: Vec<(&Node, Ipv4Net)> =
        resources.nodes.iter().filter_map(|node| Some((node, node.ipv4?))).collect();
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

fn between(a: (&Node, Ipv4Net), b: (&Node, Ipv4Net)) -> Option<Asymmetry> {
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

fn is_cross_subnet(pool: &IpPool) -> bool {
    pool.cidr.addr().is_ipv4() && [pool.ipip_mode, pool.vxlan_mode].contains(&Mode::CrossSubnet)
}
