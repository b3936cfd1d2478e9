//! `ipv6Support: false`: the resources as if nobody had written of IPv6.

use std::net::IpAddr;

use crate::lpm::Prefix;
use crate::resource::Resources;

/// What to say where that left something out.
pub(super) const LEFT_OUT: &str = "FelixConfiguration's ipv6Support, or FELIX_IPV6SUPPORT, is false: IPv6 pools, blocks and \
                                   addresses are left out";

/// What is left of `resources` without IPv6. Nodes and endpoints stay, with the addresses that they have besides.
pub(super) fn without_ipv6(resources: &Resources) -> Resources {
    let is_v4 = |prefix: &Prefix| prefix.addr().is_ipv4();
    let mut left = resources.clone();
    left.pools.retain(|pool| is_v4(&pool.cidr));
    left.blocks.retain(|block| is_v4(&block.cidr));
    for node in &mut left.nodes {
        (node.ipv6, node.vxlan_tunnel_addr_v6) = (None, None);
    }
    for endpoint in &mut left.endpoints {
        endpoint.addresses.retain(IpAddr::is_ipv4);
        endpoint.spoofed_sources.retain(is_v4);
    }
    left
}
