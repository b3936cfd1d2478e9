//! Node: a peer of the underlay.

use ipnet::{Ipv4Net, Ipv6Net};
use serde_json::{Map, Value};
use sha1::{Digest, Sha1};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::Meta;
use super::section::{self, A_MAC, Report, Section};
use crate::lpm::Prefix;
use crate::wire::{Family, MacAddr};

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Name and origin.
    pub meta: Meta,
    /// `spec.bgp.ipv4Address`: the underlay address with its subnet's length (host bits kept).
    /// Without a length it is a /32, as Calico reads it.
    pub ipv4: Option<Ipv4Net>,
    /// `spec.bgp.ipv6Address`, likewise; without a length a /128.
    pub ipv6: Option<Ipv6Net>,
    /// `spec.bgp.ipv4IPIPTunnelAddr`.
    pub ipip_tunnel_addr: Option<Ipv4Addr>,
    /// `spec.ipv4VXLANTunnelAddr`.
    pub vxlan_tunnel_addr: Option<Ipv4Addr>,
    /// `spec.ipv6VXLANTunnelAddr`.
    pub vxlan_tunnel_addr_v6: Option<Ipv6Addr>,
    /// `spec.vxlanTunnelMACAddr`, or [`vtep_mac_v4`] of the name.
    pub vtep_mac: MacAddr,
    /// `spec.vxlanTunnelMACAddrV6`, or [`vtep_mac_v6`] of the name.
    pub vtep_mac_v6: MacAddr,
}

impl Node {
    /// The underlay address of a family, with its subnet's length (host bits kept).
    pub fn network(&self, family: Family) -> Option<Prefix> {
        match family {
            Family::V4 => self.ipv4.map(Prefix::V4),
            Family::V6 => self.ipv6.map(Prefix::V6),
        }
    }
}

/// The VTEP MAC that every Calico node derives for itself and its peers: `66:` and five octets of
/// sha1 of the node's name (Felix `calc/vxlan_resolver.go`, `vtepMACForHost`).
pub fn vtep_mac_v4(node: &str) -> MacAddr {
    vtep_mac(node)
}

/// As [`vtep_mac_v4`], of the IPv6 device: the name with `-v6` behind it.
pub fn vtep_mac_v6(node: &str) -> MacAddr {
    vtep_mac(&format!("{node}-v6"))
}

fn vtep_mac(text: &str) -> MacAddr {
    let hash = Sha1::digest(text.as_bytes());
    // 0x66 is the letter f; as a first octet it means "locally administered, one station".
    MacAddr([0x66, hash[0], hash[1], hash[2], hash[3], hash[4]])
}

const KIND: &str = "Node";

pub(super) fn read(meta: Meta, object: &Map<String, Value>, report: &mut Report<'_>) -> Option<Node> {
    let mut spec = Section::of(object, "spec", "spec", report);
    let mut bgp = spec.section("bgp", "spec.bgp", report);

    let want = "an IPv4 address with prefix length (e.g. 10.0.0.5/24)";
    let ipv4 = bgp.text("ipv4Address", want, report, |text| {
        let address: Ipv4Net = text.parse().ok().or_else(|| Some(text.parse::<Ipv4Addr>().ok()?.into()))?;
        section::usable_v4(address.addr()).then_some(address)
    });
    let want = "a global or unique local IPv6 address with prefix length (e.g. 2001:db8::5/64)";
    let ipv6 = bgp.text("ipv6Address", want, report, |text| {
        let address: Ipv6Net = text.parse().ok().or_else(|| Some(text.parse::<Ipv6Addr>().ok()?.into()))?;
        section::usable_v6(address.addr()).then_some(address)
    });
    let want = "an IPv4 address (e.g. 10.65.0.1)";
    let ipip_tunnel_addr = bgp.text("ipv4IPIPTunnelAddr", want, report, section::ipv4);
    let vxlan_tunnel_addr = spec.text("ipv4VXLANTunnelAddr", want, report, section::ipv4);
    let want = "a global or unique local IPv6 address (e.g. fd00:10:65::1)";
    let vxlan_tunnel_addr_v6 = spec.text("ipv6VXLANTunnelAddr", want, report, section::ipv6);
    let vtep_mac = spec.text("vxlanTunnelMACAddr", A_MAC, report, section::unicast_mac);
    let vtep_mac_v6_given = spec.text("vxlanTunnelMACAddrV6", A_MAC, report, section::unicast_mac);

    bgp.finish(KIND, report);
    spec.finish(KIND, report);
    Some(Node {
        vtep_mac: vtep_mac.unwrap_or_else(|| vtep_mac_v4(&meta.name)),
        vtep_mac_v6: vtep_mac_v6_given.unwrap_or_else(|| vtep_mac_v6(&meta.name)),
        meta,
        ipv4,
        ipv6,
        ipip_tunnel_addr,
        vxlan_tunnel_addr,
        vxlan_tunnel_addr_v6,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first three also stand in Calico's own tests (`felix/calc/states_for_test.go`).
    #[test]
    fn vtep_macs_are_those_of_calico() {
        for (node, v4) in [
            ("localhostname", "66:48:f6:56:dc:f1"),
            ("remotehostname", "66:3e:ca:a4:db:65"),
            ("remotehostname2", "66:40:18:59:1f:16"),
            ("node1", "66:f9:37:c3:7e:94"),
            ("node2", "66:2d:bf:44:a6:8b"),
            ("kind-worker", "66:46:b3:ce:05:5d"),
        ] {
            assert_eq!(vtep_mac_v4(node).to_string(), v4, "{node}");
        }
        assert_eq!(vtep_mac_v6("remotehostname").to_string(), "66:a0:68:c9:4c:79");
        assert_eq!(vtep_mac_v6("node1").to_string(), "66:0f:35:f2:60:df");
    }
}
