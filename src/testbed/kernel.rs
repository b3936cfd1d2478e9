//! A node whose packets the kernel moves, set up as Felix does it.

use sha1::{Digest, Sha1};

use super::lab::{LabSpec, Mode, Node, NodeKind, Topology, forward, write_sysctl};
use super::{BedError, Pod};
use crate::lpm::Prefix;
use crate::sys::netlink::{LinkChange, Route, RouteKind, Scope, Vxlan};
use crate::wire::{Family, MacAddr};

/// Routing protocol number of Felix's routes (`proto 80`).
const FELIX: u8 = 80;

/// Everything of a kernel node but its pods. Does nothing for other kinds.
pub(super) fn set_up(node: &Node, peer: &Node, spec: &LabSpec) -> Result<(), BedError> {
    if node.kind != NodeKind::Kernel {
        return Ok(());
    }
    spec.pods.families().try_for_each(|family| set_up_family(node, peer, spec, family))
}

fn set_up_family(node: &Node, peer: &Node, spec: &LabSpec, family: Family) -> Result<(), BedError> {
    let missing = || BedError::Spec(format!("a kernel node without {family}"));
    let ends = |node: &Node| {
        let (underlay, block) = (node.underlay_of(family)?, node.block_of(family)?);
        Some((underlay.addr(), block, node.tunnel_address_of(family)?))
    };
    let (own, block, tunnel_address) = ends(node).ok_or_else(missing)?;
    let (address, peer_block, peer_tunnel_address) = ends(peer).ok_or_else(missing)?;
    forward(&node.netns, family)?;
    let mut netlink = node.netns.netlink()?;
    let eth0 = netlink.link("eth0")?.index;
    if spec.topology == Topology::SameSubnet && family == Family::V4 {
        // Proxy ARP answers for 169.254.1.1 only where a route leads there by another link (Calico #3270).
        let out = Route { dev: Some(eth0), scope: Scope::Link, ..Route::default_of(Family::V4) };
        netlink.add_route(&out)?;
    }
    netlink.add_route(&Route { kind: RouteKind::Blackhole, protocol: FELIX, ..Route::to(block) })?;
    let to_peer = Route { protocol: FELIX, ..Route::to(peer_block) };
    let tunnel = match spec.mode_of(family) {
        Mode::Vxlan => true,
        Mode::VxlanCrossSubnet => spec.topology == Topology::Routed,
        Mode::None | Mode::Ipip | Mode::IpipCrossSubnet => false,
    };
    if !tunnel {
        // Behind a router the next hop is the router's business: its default route leads there.
        let via = match spec.topology {
            Topology::SameSubnet => address,
            Topology::Routed => netlink.path_to(address)?.gateway.unwrap_or(address),
        };
        netlink.add_route(&Route { via: Some(via), ..to_peer })?;
        return Ok(());
    }
    let (name, suffix) = match family {
        Family::V4 => ("vxlan.calico", ""),
        Family::V6 => ("vxlan-v6.calico", "-v6"),
    };
    let [mac, peer_mac] = [node, peer].map(|node| vtep_mac(&format!("{}{suffix}", node.name)));
    let (vni, port, mtu) = (4096, 4789, spec.pod_mtu());
    netlink.add_vxlan(&Vxlan { name, vni, port, local: own, dev: eth0, mac, mtu })?;
    super::pod::quiet(&mut netlink, name);
    netlink.set_link(name, &[LinkChange::Up])?;
    let vxlan = netlink.link(name)?.index;
    netlink.add_address(vxlan, Prefix::from(tunnel_address))?;
    netlink.set_neighbour(vxlan, peer_tunnel_address, peer_mac)?;
    netlink.set_fdb(vxlan, peer_mac, address)?;
    let via = Some(peer_tunnel_address);
    netlink.add_route(&Route { via, dev: Some(vxlan), onlink: true, ..to_peer })?;
    Ok(())
}

/// The host's side of a pod on a veth: route, proxy ARP, the pod's MAC. The gateway of IPv6 is its address.
pub(super) fn adopt(node: &Node, pod: &Pod) -> Result<(), BedError> {
    let link = &pod.host_interface;
    write_sysctl(&node.netns, &format!("net/ipv4/conf/{link}/proxy_arp"), "1")?;
    // Not exported to user namespaces by older kernels; the first ping then waits for up to 0.8 s.
    let _ = write_sysctl(&node.netns, &format!("net/ipv4/neigh/{link}/proxy_delay"), "0");
    let mut netlink = node.netns.netlink()?;
    let dev = netlink.link(link.as_str())?.index;
    for address in pod.addresses() {
        let route = Route { dev: Some(dev), scope: Scope::Link, ..Route::to(Prefix::from(address)) };
        netlink.add_route(&route)?;
        netlink.set_neighbour(dev, address, pod.mac)?;
    }
    Ok(())
}

/// Felix's rule (`vtepMACForHost`): `66:` and the first five octets of sha1 of the node's name, with `-v6` for IPv6.
fn vtep_mac(node: &str) -> MacAddr {
    let digest = Sha1::digest(node);
    MacAddr([0x66, digest[0], digest[1], digest[2], digest[3], digest[4]])
}

#[cfg(test)]
mod tests {
    use super::vtep_mac;

    #[test]
    fn vteps_have_the_addresses_that_felix_gives_them() {
        assert_eq!(vtep_mac("localhostname").to_string(), "66:48:f6:56:dc:f1");
        assert_eq!(vtep_mac("node1").to_string(), "66:f9:37:c3:7e:94");
        assert_eq!(vtep_mac("node1-v6").to_string(), "66:0f:35:f2:60:df");
    }
}
