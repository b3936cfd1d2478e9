//! A node whose packets the kernel moves, set up as Felix does it.

use sha1::{Digest, Sha1};

use super::lab::{LabSpec, Mode, Node, NodeKind, Topology, write_sysctl};
use super::{BedError, Pod};
use crate::lpm::Prefix;
use crate::sys::netlink::{Family, LinkChange, Route, RouteKind, Scope, Vxlan};
use crate::wire::MacAddr;

/// Routing protocol number of Felix's routes (`proto 80`).
const FELIX: u8 = 80;

/// Everything of a kernel node but its pods. Does nothing for other kinds.
pub(super) fn set_up(node: &Node, peer: &Node, spec: &LabSpec) -> Result<(), BedError> {
    if node.kind != NodeKind::Kernel {
        return Ok(());
    }
    write_sysctl(&node.netns, "net/ipv4/ip_forward", "1")?;
    let mut netlink = node.netns.netlink()?;
    let eth0 = netlink.link("eth0")?.index;
    if spec.topology == Topology::SameSubnet {
        // Proxy ARP answers for 169.254.1.1 only where a route leads there by another link (Calico #3270).
        let out = Route { dev: Some(eth0), scope: Scope::Link, ..Route::default_of(Family::V4) };
        netlink.add_route(&out)?;
    }
    netlink.add_route(&Route { kind: RouteKind::Blackhole, protocol: FELIX, ..Route::to(node.block) })?;
    let to_peer = Route { protocol: FELIX, ..Route::to(peer.block) };
    let tunnel = match spec.mode {
        Mode::Vxlan => true,
        Mode::VxlanCrossSubnet => spec.topology == Topology::Routed,
        Mode::None | Mode::Ipip | Mode::IpipCrossSubnet => false,
    };
    if !tunnel {
        // Behind a router the next hop is the router's business: its default route leads there.
        let via = match spec.topology {
            Topology::SameSubnet => peer.address(),
            Topology::Routed => netlink.path_to(peer.address())?.gateway.unwrap_or(peer.address()),
        };
        netlink.add_route(&Route { via: Some(via), ..to_peer })?;
        return Ok(());
    }
    netlink.add_vxlan(&Vxlan {
        name: "vxlan.calico",
        vni: 4096,
        port: 4789,
        local: node.address(),
        dev: eth0,
        mac: vtep_mac(&node.name),
        mtu: spec.pod_mtu(),
    })?;
    super::pod::quiet(&mut netlink, "vxlan.calico");
    netlink.set_link("vxlan.calico", &[LinkChange::Up])?;
    let vxlan = netlink.link("vxlan.calico")?.index;
    netlink.add_address(vxlan, Prefix::from(node.tunnel_address))?;
    netlink.set_neighbour(vxlan, peer.tunnel_address, vtep_mac(&peer.name))?;
    netlink.set_fdb(vxlan, vtep_mac(&peer.name), peer.address())?;
    let via = Some(peer.tunnel_address);
    netlink.add_route(&Route { via, dev: Some(vxlan), onlink: true, ..to_peer })?;
    Ok(())
}

/// The host's side of a pod on a veth: route, proxy ARP, the pod's MAC.
pub(super) fn adopt(node: &Node, pod: &Pod) -> Result<(), BedError> {
    let link = &pod.host_interface;
    write_sysctl(&node.netns, &format!("net/ipv4/conf/{link}/proxy_arp"), "1")?;
    // Not exported to user namespaces by older kernels; the first ping then waits for up to 0.8 s.
    let _ = write_sysctl(&node.netns, &format!("net/ipv4/neigh/{link}/proxy_delay"), "0");
    let mut netlink = node.netns.netlink()?;
    let dev = netlink.link(link.as_str())?.index;
    let route = Route { dev: Some(dev), scope: Scope::Link, ..Route::to(Prefix::from(pod.address)) };
    netlink.add_route(&route)?;
    netlink.set_neighbour(dev, pod.address, pod.mac)?;
    Ok(())
}

/// Felix's rule (`vtepMACForHost`): `66:` and the first five octets of sha1 of the node's name.
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
    }
}
