//! Resources from text: what is accepted, and the exact words for what is not.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use margay::datastore::{self, FileError, LoadError};
use margay::resource::{
    Attach, Claim, FelixConfiguration, Mode, MssClamp, MtuSetting, Parsed, PoolUse, Resource, Resources,
    Scope, parse,
};
use proptest::prelude::*;

/// One resource as YAML: kind, name, and the lines of its spec.
fn yaml(kind: &str, name: &str, spec: &str) -> String {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!("apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata:\n  name: {name}\nspec:\n{spec}")
}

fn errors(parsed: &Parsed) -> Vec<String> {
    parsed.errors.iter().map(ToString::to_string).collect()
}

fn one(text: &str) -> Resource {
    let mut parsed = parse("test.yaml", text);
    assert_eq!(errors(&parsed), [""; 0]);
    assert_eq!(parsed.resources.len(), 1);
    parsed.resources.remove(0)
}

/// The only error of one resource, without `test.yaml, document 1: `.
fn error_of(kind: &str, spec: &str) -> String {
    let parsed = parse("test.yaml", &yaml(kind, "it", spec));
    let errors = errors(&parsed);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert!(parsed.resources.is_empty(), "a wrong resource was let through");
    errors[0].strip_prefix("test.yaml, document 1: ").unwrap().to_owned()
}

fn conflicts(texts: &[String]) -> Vec<String> {
    match Resources::build([parse("test.yaml", &texts.join("---\n"))]) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn a_node_with_everything() {
    let Resource::Node(node) = one(&yaml(
        "Node",
        "node1",
        "bgp:\n  ipv4Address: 10.0.0.5/24\n  ipv6Address: 2001:db8::5/64\n  ipv4IPIPTunnelAddr: 10.65.0.1\n\
         ipv4VXLANTunnelAddr: 10.65.0.2\nipv6VXLANTunnelAddr: fd00::2\nvxlanTunnelMACAddr: 02:00:00:00:00:01\n\
         vxlanTunnelMACAddrV6: 02:00:00:00:00:02",
    )) else {
        panic!("not a node")
    };
    assert_eq!(node.ipv4.unwrap().to_string(), "10.0.0.5/24");
    assert_eq!(node.ipv6.unwrap().to_string(), "2001:db8::5/64");
    assert_eq!(node.ipip_tunnel_addr, Some(Ipv4Addr::new(10, 65, 0, 1)));
    assert_eq!(node.vxlan_tunnel_addr, Some(Ipv4Addr::new(10, 65, 0, 2)));
    assert_eq!(node.vxlan_tunnel_addr_v6.unwrap().to_string(), "fd00::2");
    assert_eq!(node.vtep_mac.to_string(), "02:00:00:00:00:01");
    assert_eq!(node.vtep_mac_v6.to_string(), "02:00:00:00:00:02");
}

#[test]
fn a_node_without_length_is_a_32_and_has_the_mac_of_its_name() {
    let Resource::Node(node) = one(&yaml("Node", "node1", "bgp:\n  ipv4Address: 10.0.0.5")) else {
        panic!("not a node")
    };
    assert_eq!(node.ipv4.unwrap().to_string(), "10.0.0.5/32");
    assert_eq!(node.vtep_mac.to_string(), "66:f9:37:c3:7e:94");
    assert_eq!(node.vtep_mac_v6.to_string(), "66:0f:35:f2:60:df");
}

#[test]
fn a_pool_and_its_defaults() {
    let Resource::IpPool(pool) = one(&yaml("IPPool", "it", "cidr: 10.65.0.0/16")) else {
        panic!("not a pool")
    };
    assert_eq!((pool.ipip_mode, pool.vxlan_mode, pool.block_size), (Mode::Never, Mode::Never, 26));
    assert_eq!((pool.nat_outgoing, pool.disabled, pool.usage), (false, false, PoolUse::Nodes));

    let spec = "cidr: fd00:10::/64\nvxlanMode: CrossSubnet\nipipMode: \"\"\nnatOutgoing: true\ndisabled: true\n\
                allowedUses: [LoadBalancer]";
    let Resource::IpPool(pool) = one(&yaml("IPPool", "it", spec)) else { panic!("not a pool") };
    assert_eq!((pool.ipip_mode, pool.vxlan_mode, pool.block_size), (Mode::Never, Mode::CrossSubnet, 122));
    assert_eq!((pool.nat_outgoing, pool.disabled, pool.usage), (true, true, PoolUse::LoadBalancerOnly));
}

#[test]
fn a_block_affinity_in_each_state() {
    for (spec, claim) in [
        ("", Claim::Confirmed),
        ("state: confirmed", Claim::Confirmed),
        ("state: pending", Claim::Pending),
        ("state: pendingDeletion", Claim::PendingDeletion),
        ("state: confirmed\ndeleted: true", Claim::Deleted),
        ("state: confirmed\ndeleted: \"true\"", Claim::Deleted),
        ("state: confirmed\ndeleted: \"false\"\ntype: host", Claim::Confirmed),
    ] {
        let text = yaml("BlockAffinity", "it", &format!("cidr: 10.65.0.0/26\nnode: node-a\n{spec}"));
        let Resource::BlockAffinity(block) = one(&text) else { panic!("not a block") };
        assert_eq!((block.claim, block.node.as_str()), (claim, "node-a"), "{spec}");
    }
}

#[test]
fn a_virtual_block_is_noted_and_left_out() {
    let parsed = parse("x", &yaml("BlockAffinity", "it", "cidr: 10.65.0.0/26\nnode: lb\ntype: virtual"));
    assert_eq!((parsed.resources.len(), errors(&parsed).len(), parsed.notices.len()), (0, 0, 1));
}

#[test]
fn an_endpoint_and_its_defaults() {
    let Resource::WorkloadEndpoint(endpoint) = one(&yaml(
        "WorkloadEndpoint",
        "it",
        "node: node-a\nipNetworks: [10.65.0.2/32, 10.65.0.3, fd00::3/128]",
    )) else {
        panic!("not an endpoint")
    };
    assert_eq!(endpoint.meta.name, "default/it");
    assert_eq!(endpoint.workload, "default/it");
    assert_eq!(endpoint.endpoint, "eth0");
    assert_eq!((endpoint.attach, endpoint.netns, endpoint.queues), (Attach::Tap, None, 1));
    let addresses: Vec<IpAddr> = ["10.65.0.2", "10.65.0.3", "fd00::3"].map(|a| a.parse().unwrap()).into();
    assert_eq!(endpoint.addresses, addresses);
}

/// `annotations` are lines of YAML.
fn endpoint(annotations: &str, spec: &str) -> String {
    let annotations: String = annotations.lines().map(|line| format!("    {line}\n")).collect();
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata:\n  name: it\n  namespace: web\n  \
         annotations:\n{annotations}spec:\n  node: node-a\n{spec}"
    )
}

#[test]
fn the_attachment_stands_in_annotations() {
    let text = endpoint(
        "margay.dev/netns: 1234\nmargay.dev/attach: veth\nmargay.dev/queues: \"4\"\nother.dev/x: y",
        "interfaceName: cali0123456789a\npod: shop\nmac: 02:00:00:00:00:07\nendpoint: net1\n\
         ipNetworks: [10.65.0.2/32]",
    );
    let Resource::WorkloadEndpoint(endpoint) = one(&text) else { panic!("not an endpoint") };
    assert_eq!(endpoint.meta.name, "web/it");
    assert_eq!(endpoint.workload, "web/shop");
    assert_eq!(endpoint.netns.as_deref(), Some(Path::new("/proc/1234/ns/net")));
    assert_eq!((endpoint.attach, endpoint.queues), (Attach::Veth, 4));
    assert_eq!(endpoint.interface_name.as_deref(), Some("cali0123456789a"));
    assert_eq!(endpoint.endpoint, "net1");
    assert_eq!(endpoint.mac.unwrap().to_string(), "02:00:00:00:00:07");
}

#[test]
fn felix_settings_and_their_scope() {
    let Resource::FelixConfiguration(felix) = one(&yaml(
        "FelixConfiguration",
        "node.node-a",
        "vxlanPort: 4790\nvxlanVNI: 16777215\nvxlanMTU: 0\nvxlanMTUV6: 1380\nipv6Support: true\nipipMTU: 1400\nallowIPIPPacketsFromWorkloads: true\n\
         allowVXLANPacketsFromWorkloads: false\nworkloadSourceSpoofing: Any",
    )) else {
        panic!("not a FelixConfiguration")
    };
    assert_eq!(felix.scope, Scope::Node("node-a".into()));
    assert_eq!((felix.vxlan_port, felix.vxlan_vni), (Some(4790), Some(0xff_ffff)));
    assert_eq!(felix.vxlan_mtu, Some(MtuSetting::Auto));
    assert_eq!((felix.vxlan_mtu_v6, felix.ipv6_support), (Some(MtuSetting::Bytes(1380)), Some(true)));
    assert_eq!((felix.ipip_mtu, felix.mtu), (Some(MtuSetting::Bytes(1400)), None));
    let allowed = (felix.allow_ipip_from_workloads, felix.allow_vxlan_from_workloads);
    assert_eq!((allowed, felix.allow_spoofed_sources), ((Some(true), Some(false)), Some(true)));
}

/// Canonical or not, of both families.
#[test]
fn allowed_sources_of_an_endpoint() {
    let spec = "node: a\nallowSpoofedSourcePrefixes: [192.0.2.7/24, fd00::/64, 0.0.0.0/0]";
    let Resource::WorkloadEndpoint(endpoint) = one(&yaml("WorkloadEndpoint", "x", spec)) else {
        panic!("not a WorkloadEndpoint")
    };
    let prefixes: Vec<String> = endpoint.spoofed_sources.iter().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["192.0.2.0/24", "fd00::/64", "0.0.0.0/0"]);
}

/// Felix's names, Felix's order: the environment, the node's own, everybody's.
#[test]
fn felix_settings_in_the_environment() {
    let of = |variables: &[(&str, &str)]| {
        let variables: Vec<(String, String)> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        FelixConfiguration::of_environment(move |name| {
            variables.iter().find_map(|(known, value)| (known == name).then(|| value.clone()))
        })
    };
    let none = of(&[]).unwrap();
    assert_eq!((none.scope, none.vxlan_mtu, none.vxlan_port), (Scope::Environment, None, None));
    let some = of(&[
        ("FELIX_IPINIPMTU", "1400"),
        ("FELIX_VXLANMTU", "0"),
        ("FELIX_MTUIFACEPATTERN", "^en"),
        ("FELIX_MTU", "x"),
    ]);
    let some = some.unwrap();
    assert_eq!((some.ipip_mtu, some.vxlan_mtu), (Some(MtuSetting::Bytes(1400)), Some(MtuSetting::Auto)));
    assert_eq!((some.mtu_iface_pattern.as_deref(), some.mtu), (Some("^en"), None));
    for (value, supported) in [("false", false), ("0", false), ("N", false), ("True", true), ("1", true)] {
        assert_eq!(of(&[("FELIX_IPV6SUPPORT", value)]).unwrap().ipv6_support, Some(supported), "{value}");
    }
    for (variable, value, error) in [
        ("FELIX_VXLANMTU", "large", "\"large\" is not 0 (automatic) or a whole number from 68 to 65535"),
        ("FELIX_MTUIFACEPATTERN", "(", "\"(\" is not a regular expression (e.g. ^eth.*)"),
        ("FELIX_VXLANMTUV6", "1000", "1000 is not 0 (automatic) or a whole number from 1280 to 65535"),
        ("FELIX_IPV6SUPPORT", "maybe", "\"maybe\" is not true or false"),
        ("FELIX_VXLANPORT", "65536", "65536 is not a whole number from 1 to 65535"),
    ] {
        assert_eq!(of(&[(variable, value)]).unwrap_err(), format!("{variable}: {error}"));
    }

    let felix =
        |name, mtu| yaml("FelixConfiguration", name, &format!("vxlanMTU: {mtu}\nipipMTU: {mtu}\nmtu: {mtu}"));
    let node = yaml("Node", "a", "bgp: {ipv4Address: 10.0.0.1/24}");
    let text = [node, felix("default", 1300), felix("node.a", 1200)].join("---\n");
    let mut resources = Resources::build([parse("test.yaml", &text)]).unwrap();
    resources.felix.push(of(&[("FELIX_VXLANMTU", "1100")]).unwrap());
    let settings = margay::rib::plan(&resources, "a").unwrap().settings;
    assert_eq!((settings.vxlan_mtu, settings.ipip_mtu, settings.mtu), (Some(1100), Some(1200), Some(1200)));
}

#[test]
fn each_wrong_field_is_named_with_what_is_allowed() {
    let cases = [
        (
            "Node",
            "bgp:\n  ipv4Address: 10.0.0.300/24",
            "Node it: spec.bgp.ipv4Address: \"10.0.0.300/24\" is not an IPv4 address with prefix length (e.g. 10.0.0.5/24)",
        ),
        (
            "Node",
            "bgp:\n  ipv4Address: 224.0.0.1/24",
            "Node it: spec.bgp.ipv4Address: \"224.0.0.1/24\" is not an IPv4 address with prefix length (e.g. 10.0.0.5/24)",
        ),
        (
            "Node",
            "bgp:\n  ipv6Address: 10.0.0.5/24",
            "Node it: spec.bgp.ipv6Address: \"10.0.0.5/24\" is not a global or unique local IPv6 address with prefix length (e.g. 2001:db8::5/64)",
        ),
        (
            "Node",
            "bgp:\n  ipv6Address: fe80::5/64",
            "Node it: spec.bgp.ipv6Address: \"fe80::5/64\" is not a global or unique local IPv6 address with prefix length (e.g. 2001:db8::5/64)",
        ),
        (
            "Node",
            "bgp:\n  ipv6Address: ::ffff:10.0.0.5/120",
            "Node it: spec.bgp.ipv6Address: \"::ffff:10.0.0.5/120\" is not a global or unique local IPv6 address with prefix length (e.g. 2001:db8::5/64)",
        ),
        (
            "Node",
            "bgp:\n  ipv4IPIPTunnelAddr: 10.65.0.1/32",
            "Node it: spec.bgp.ipv4IPIPTunnelAddr: \"10.65.0.1/32\" is not an IPv4 address (e.g. 10.65.0.1)",
        ),
        (
            "Node",
            "ipv4VXLANTunnelAddr: 7",
            "Node it: spec.ipv4VXLANTunnelAddr: 7 is not an IPv4 address (e.g. 10.65.0.1)",
        ),
        (
            "Node",
            "ipv6VXLANTunnelAddr: no",
            "Node it: spec.ipv6VXLANTunnelAddr: \"no\" is not a global or unique local IPv6 address (e.g. fd00:10:65::1)",
        ),
        (
            "Node",
            "ipv6VXLANTunnelAddr: fd00::1/128",
            "Node it: spec.ipv6VXLANTunnelAddr: \"fd00::1/128\" is not a global or unique local IPv6 address (e.g. fd00:10:65::1)",
        ),
        (
            "Node",
            "vxlanTunnelMACAddrV6: 33:33:00:00:00:01",
            "Node it: spec.vxlanTunnelMACAddrV6: \"33:33:00:00:00:01\" is not a unicast Ethernet address (e.g. 66:f9:37:c3:7e:94)",
        ),
        (
            "Node",
            "vxlanTunnelMACAddr: 01:00:00:00:00:00",
            "Node it: spec.vxlanTunnelMACAddr: \"01:00:00:00:00:00\" is not a unicast Ethernet address (e.g. 66:f9:37:c3:7e:94)",
        ),
        ("Node", "bgp: [1]", "Node it: spec.bgp: a list is not an object"),
        (
            "IPPool",
            "natOutgoing: true",
            "IPPool it: spec.cidr: missing: want a prefix (e.g. 10.65.0.0/16, fd00:10:65::/64)",
        ),
        (
            "IPPool",
            "cidr: 10.65.0.0",
            "IPPool it: spec.cidr: \"10.65.0.0\" is not a prefix (e.g. 10.65.0.0/16, fd00:10:65::/64)",
        ),
        (
            "IPPool",
            "cidr: 10.65.1.0/16",
            "IPPool it: spec.cidr: 10.65.1.0/16 has host bits set (want 10.65.0.0/16)",
        ),
        (
            "IPPool",
            "cidr: 169.254.3.0/24",
            "IPPool it: spec.cidr: 169.254.3.0/24 overlaps 169.254.0.0/16, which is no range for workloads",
        ),
        (
            "IPPool",
            "cidr: fe80:1::/64",
            "IPPool it: spec.cidr: fe80:1::/64 overlaps fe80::/10, which is no range for workloads",
        ),
        (
            "IPPool",
            "cidr: ::/0",
            "IPPool it: spec.cidr: ::/0 overlaps fe80::/10, which is no range for workloads",
        ),
        (
            "IPPool",
            "cidr: ::ffff:10.65.0.0/112",
            "IPPool it: spec.cidr: ::ffff:10.65.0.0/112 overlaps ::ffff:0.0.0.0/96, which is no range for workloads",
        ),
        ("IPPool", "cidr: fd00::1/64", "IPPool it: spec.cidr: fd00::1/64 has host bits set (want fd00::/64)"),
        (
            "IPPool",
            "cidr: 10.65.0.0/16\nvxlanMode: always",
            "IPPool it: spec.vxlanMode: \"always\" is not Never, Always or CrossSubnet",
        ),
        (
            "IPPool",
            "cidr: 10.65.0.0/16\nvxlanMode: Always\nipipMode: CrossSubnet",
            "IPPool it: spec.vxlanMode: Always excludes ipipMode CrossSubnet: one of the two must be Never",
        ),
        (
            "IPPool",
            "cidr: fd00::/64\nipipMode: Always",
            "IPPool it: spec.ipipMode: Always is not possible for IPv6 pool fd00::/64 (want Never, or vxlanMode)",
        ),
        ("IPPool", "cidr: 10.65.0.0/16\nblockSize: 19", "IPPool it: spec.blockSize: 19 is not from 20 to 32"),
        ("IPPool", "cidr: fd00::/64\nblockSize: 64", "IPPool it: spec.blockSize: 64 is not from 116 to 128"),
        (
            "IPPool",
            "cidr: fd00::/124",
            "IPPool it: spec.blockSize: a block of /122 is larger than pool fd00::/124 (want 124 or more)",
        ),
        (
            "IPPool",
            "cidr: 10.65.0.0/27",
            "IPPool it: spec.blockSize: a block of /26 is larger than pool 10.65.0.0/27 (want 27 or more)",
        ),
        (
            "IPPool",
            "cidr: 10.65.0.0/16\nblockSize: wide",
            "IPPool it: spec.blockSize: \"wide\" is not a whole number from 0 to 128",
        ),
        (
            "IPPool",
            "cidr: 10.65.0.0/16\nnatOutgoing: yes",
            "IPPool it: spec.natOutgoing: \"yes\" is not true or false",
        ),
        (
            "IPPool",
            "cidr: 10.65.0.0/16\nallowedUses: [Pods]",
            "IPPool it: spec.allowedUses[0]: \"Pods\" is not Workload, Tunnel or LoadBalancer",
        ),
        (
            "BlockAffinity",
            "cidr: 10.65.0.0/26",
            "BlockAffinity it: spec.node: missing: want a name (lower-case letters, digits, '-' and '.', at most 253 characters, first and last a letter or digit)",
        ),
        (
            "BlockAffinity",
            "cidr: 10.65.0.1/26\nnode: a",
            "BlockAffinity it: spec.cidr: 10.65.0.1/26 has host bits set (want 10.65.0.0/26)",
        ),
        (
            "BlockAffinity",
            "cidr: fd00::41/122\nnode: a",
            "BlockAffinity it: spec.cidr: fd00::41/122 has host bits set (want fd00::40/122)",
        ),
        (
            "BlockAffinity",
            "cidr: 10.65.0.0/26\nnode: a\nstate: Confirmed",
            "BlockAffinity it: spec.state: \"Confirmed\" is not confirmed, pending or pendingDeletion",
        ),
        (
            "BlockAffinity",
            "cidr: 10.65.0.0/26\nnode: a\ndeleted: 1",
            "BlockAffinity it: spec.deleted: 1 is not true or false",
        ),
        (
            "BlockAffinity",
            "cidr: 10.65.0.0/26\nnode: a\ntype: pool",
            "BlockAffinity it: spec.type: \"pool\" is not host or virtual",
        ),
        (
            "WorkloadEndpoint",
            "node: a\nipNetworks: [10.65.0.2/31]",
            "WorkloadEndpoint default/it: spec.ipNetworks[0]: \"10.65.0.2/31\" is not one host's address (e.g. 10.65.0.2/32, fd00:10:65::2/128)",
        ),
        (
            "WorkloadEndpoint",
            "node: a\nipNetworks: [\"fd00::2/64\"]",
            "WorkloadEndpoint default/it: spec.ipNetworks[0]: \"fd00::2/64\" is not one host's address (e.g. 10.65.0.2/32, fd00:10:65::2/128)",
        ),
        (
            "WorkloadEndpoint",
            "node: a\nipNetworks: [\"fe80::2\"]",
            "WorkloadEndpoint default/it: spec.ipNetworks[0]: \"fe80::2\" is not one host's address (e.g. 10.65.0.2/32, fd00:10:65::2/128)",
        ),
        (
            "WorkloadEndpoint",
            "node: a\nipNetworks: [10.65.0.2, 10.65.0.2/32]",
            "WorkloadEndpoint default/it: spec.ipNetworks[1]: 10.65.0.2 stands there twice",
        ),
        (
            "WorkloadEndpoint",
            "node: a\nipNetworks: 10.65.0.2",
            "WorkloadEndpoint default/it: spec.ipNetworks: \"10.65.0.2\" is not a list",
        ),
        (
            "WorkloadEndpoint",
            "node: a\nendpoint: a/b",
            "WorkloadEndpoint default/it: spec.endpoint: \"a/b\" is not an interface name (1 to 15 characters, no '/', ':' or space, not \".\" or \"..\")",
        ),
        (
            "WorkloadEndpoint",
            "node: a\ninterfaceName: cali0123456789ab",
            "WorkloadEndpoint default/it: spec.interfaceName: \"cali0123456789ab\" is not an interface name (1 to 15 characters, no '/', ':' or space, not \".\" or \"..\")",
        ),
        (
            "WorkloadEndpoint",
            "node: a\nmac: ee:ee:ee:ee:ee:ee",
            "WorkloadEndpoint default/it: spec.mac: ee:ee:ee:ee:ee:ee is the host side's (want the workload's own)",
        ),
        (
            "WorkloadEndpoint",
            "node: a\nmac: 02-00-00-00-00-01",
            "WorkloadEndpoint default/it: spec.mac: \"02-00-00-00-00-01\" is not a unicast Ethernet address (e.g. 66:f9:37:c3:7e:94)",
        ),
        (
            "WorkloadEndpoint",
            "node: a\nallowSpoofedSourcePrefixes: [192.0.2.1]",
            "WorkloadEndpoint default/it: spec.allowSpoofedSourcePrefixes[0]: \"192.0.2.1\" is not a prefix (e.g. 192.0.2.0/24, 2001:db8::/64)",
        ),
        (
            "FelixConfiguration",
            "workloadSourceSpoofing: Enabled",
            "FelixConfiguration it: spec.workloadSourceSpoofing: \"Enabled\" is not Any or Disabled",
        ),
        (
            "FelixConfiguration",
            "allowIPIPPacketsFromWorkloads: yes",
            "FelixConfiguration it: spec.allowIPIPPacketsFromWorkloads: \"yes\" is not true or false",
        ),
        (
            "FelixConfiguration",
            "vxlanPort: 0",
            "FelixConfiguration it: spec.vxlanPort: 0 is not a whole number from 1 to 65535",
        ),
        (
            "FelixConfiguration",
            "vxlanVNI: 16777216",
            "FelixConfiguration it: spec.vxlanVNI: 16777216 is not a whole number from 1 to 16777215",
        ),
        (
            "FelixConfiguration",
            "ipipMTU: 67",
            "FelixConfiguration it: spec.ipipMTU: 67 is not 0 (automatic) or a whole number from 68 to 65535",
        ),
        (
            "FelixConfiguration",
            "vxlanMTU: 14.5",
            "FelixConfiguration it: spec.vxlanMTU: 14.5 is not 0 (automatic) or a whole number from 68 to 65535",
        ),
        (
            "FelixConfiguration",
            "vxlanMTUV6: 1279",
            "FelixConfiguration it: spec.vxlanMTUV6: 1279 is not 0 (automatic) or a whole number from 1280 to 65535",
        ),
        (
            "FelixConfiguration",
            "ipv6Support: yes",
            "FelixConfiguration it: spec.ipv6Support: \"yes\" is not true or false",
        ),
        (
            "FelixConfiguration",
            "mtuIfacePattern: eth(0",
            "FelixConfiguration it: spec.mtuIfacePattern: \"eth(0\" is not a regular expression (e.g. ^eth.*)",
        ),
    ];
    for (kind, spec, error) in cases {
        assert_eq!(error_of(kind, spec), error);
    }
}

#[test]
fn each_wrong_annotation_is_named_with_what_is_allowed() {
    let start = "test.yaml, document 1: WorkloadEndpoint web/it: ";
    for (annotation, error) in [
        (
            "margay.dev/attach: macvlan",
            "metadata.annotations.margay.dev/attach: \"macvlan\" is not tap or veth",
        ),
        (
            "margay.dev/attach: veth",
            "spec.interfaceName: missing: want the veth's host end, because margay.dev/attach is veth",
        ),
        (
            "margay.dev/netns: run/netns/a",
            "metadata.annotations.margay.dev/netns: \"run/netns/a\" is not an absolute path (e.g. /run/netns/pod-a) or a process id",
        ),
        (
            "margay.dev/netns: 0",
            "metadata.annotations.margay.dev/netns: 0 is not an absolute path (e.g. /run/netns/pod-a) or a process id",
        ),
        (
            "margay.dev/queues: 17",
            "metadata.annotations.margay.dev/queues: 17 is not a whole number from 1 to 16",
        ),
        (
            "margay.dev/queues: \"0\"",
            "metadata.annotations.margay.dev/queues: \"0\" is not a whole number from 1 to 16",
        ),
        (
            "margay.dev/queue: 2",
            "metadata.annotations.margay.dev/queue: unknown (there are margay.dev/attach, margay.dev/netns and margay.dev/queues)",
        ),
    ] {
        let parsed = parse("test.yaml", &endpoint(annotation, "ipNetworks: [10.65.0.2/32]"));
        assert_eq!(errors(&parsed), [format!("{start}{error}")]);
    }
}

/// A pool with one line among its annotations.
fn annotated_pool(annotation: &str) -> String {
    let head = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: it\n  annotations:\n";
    format!("{head}    {annotation}\nspec:\n  cidr: 10.65.0.0/16\n")
}

#[test]
fn a_pools_mss_is_clamped_where_its_annotation_says_so() {
    let clamp = |text: &str| match one(text) {
        Resource::IpPool(pool) => pool.mss_clamp,
        other => panic!("{other:?}"),
    };
    assert_eq!(clamp(&yaml("IPPool", "it", "cidr: 10.65.0.0/16")), MssClamp::Off);
    for (value, wanted) in [
        ("auto", MssClamp::Auto),
        ("\"auto\"", MssClamp::Auto),
        ("off", MssClamp::Off),
        ("\"off\"", MssClamp::Off),
        ("\"\"", MssClamp::Off),
    ] {
        assert_eq!(clamp(&annotated_pool(&format!("margay.dev/tcp-mss-clamp: {value}"))), wanted, "{value}");
    }
    assert_eq!(clamp(&annotated_pool("other.dev/tcp-mss-clamp: auto")), MssClamp::Off);

    let start = "test.yaml, document 1: IPPool it: metadata.annotations.margay.dev/";
    for (annotation, error) in [
        ("margay.dev/tcp-mss-clamp: Auto", "tcp-mss-clamp: \"Auto\" is not off or auto"),
        ("margay.dev/tcp-mss-clamp: 1400", "tcp-mss-clamp: 1400 is not off or auto"),
        ("margay.dev/tcp-mss-clamp: true", "tcp-mss-clamp: true is not off or auto"),
        ("margay.dev/mss-clamp: auto", "mss-clamp: unknown (there is margay.dev/tcp-mss-clamp)"),
    ] {
        let parsed = parse("test.yaml", &annotated_pool(annotation));
        assert_eq!(errors(&parsed), [format!("{start}{error}")]);
    }
}

#[test]
fn what_is_no_resource_is_named() {
    for (text, error) in [
        (
            "just text",
            "test.yaml, document 1: \"just text\" is not an object with apiVersion, kind, metadata and spec",
        ),
        ("kind: Node", "test.yaml, document 1: apiVersion: missing: want projectcalico.org/v3"),
        (
            "apiVersion: projectcalico.org/v3",
            "test.yaml, document 1: kind: missing: want a kind such as Node or IPPool",
        ),
        (
            "apiVersion: projectcalico.org/v4\nkind: IPPool",
            "test.yaml, document 1: IPPool: apiVersion: \"projectcalico.org/v4\" is not projectcalico.org/v3 or crd.projectcalico.org/v1",
        ),
        (
            "apiVersion: projectcalico.org/v3\nkind: IPPool\nspec: {cidr: 10.0.0.0/8}",
            "test.yaml, document 1: IPPool: metadata.name: missing: want a name (lower-case letters, digits, '-' and '.', at most 253 characters, first and last a letter or digit)",
        ),
        (
            "apiVersion: projectcalico.org/v3\nkind: NodeList\nitems: 3",
            "test.yaml, document 1: items: 3 is not a list of objects",
        ),
        (
            "apiVersion: v1\nkind: List\nitems: [{kind: List, items: []}]",
            "test.yaml, document 1, item 1: items: a list inside a list is not a resource",
        ),
        (
            "{\"kind\": \"Node\"",
            "test.yaml, document 1: not JSON: EOF while parsing an object at line 1 column 15",
        ),
        (
            "{\"a\": 1, \"a\": 2}",
            "test.yaml, document 1: not JSON: key \"a\" stands twice in one object at line 1 column 16",
        ),
    ] {
        let parsed = parse("test.yaml", text);
        assert_eq!(errors(&parsed), [error]);
    }
    for name in ["Node-B", "-a", "a-", "a..b", "a b", "a/b", ""] {
        let parsed = parse("test.yaml", &yaml("Node", &format!("\"{name}\""), "bgp: {}"));
        assert_eq!(parsed.errors.len(), 1, "{name:?}");
    }
}

#[test]
fn yaml_that_cannot_be_read_names_the_document() {
    let text = format!("{}---\na: [1, 2\n---\n", yaml("Node", "node-a", "bgp: {}"));
    let parsed = parse("test.yaml", &text);
    assert_eq!(parsed.errors.len(), 1);
    assert!(errors(&parsed)[0].starts_with("test.yaml, document 2: not YAML: "), "{:?}", errors(&parsed));
    let parsed = parse("test.yaml", "a: 1\na: 2");
    assert!(errors(&parsed)[0].starts_with("test.yaml, document 1: not YAML: "), "{:?}", errors(&parsed));
}

#[test]
fn every_mistake_is_reported_not_the_first_only() {
    let text = [
        yaml("IPPool", "p", "cidr: x\nvxlanMode: y\nnatOutgoing: z"),
        yaml("Node", "n", "bgp: {ipv4Address: a, ipv6Address: b}"),
    ];
    assert_eq!(parse("x", &text.join("---\n")).errors.len(), 5);
}

#[test]
fn resources_that_cannot_both_be_are_named_both() {
    let node = |name: &str, address: &str| yaml("Node", name, &format!("bgp:\n  ipv4Address: {address}"));
    let pool = |name: &str, cidr: &str| yaml("IPPool", name, &format!("cidr: {cidr}"));
    let block = |name: &str, cidr: &str, node: &str, state: &str| {
        yaml("BlockAffinity", name, &format!("cidr: {cidr}\nnode: {node}\nstate: {state}"))
    };
    let wep = |name: &str, more: &str| yaml("WorkloadEndpoint", name, &format!("node: a\n{more}"));
    let cases: [(Vec<String>, &str); 13] = [
        (
            vec![node("a", "10.0.0.1/24"), node("a", "10.0.0.2/24")],
            "test.yaml, document 2: Node a: metadata.name: is already used by Node a (test.yaml, document 1)",
        ),
        (
            vec![pool("a", "10.0.0.0/8"), pool("b", "10.65.0.0/16")],
            "test.yaml, document 2: IPPool b: spec.cidr: 10.65.0.0/16 overlaps 10.0.0.0/8 of IPPool a (test.yaml, document 1)",
        ),
        (
            vec![pool("b", "10.65.0.0/16"), pool("a", "10.0.0.0/8")],
            "test.yaml, document 2: IPPool a: spec.cidr: 10.0.0.0/8 overlaps 10.65.0.0/16 of IPPool b (test.yaml, document 1)",
        ),
        (
            vec![block("x", "10.65.0.0/26", "a", "confirmed"), block("y", "10.65.0.0/26", "b", "confirmed")],
            "test.yaml, document 2: BlockAffinity y: spec.cidr: 10.65.0.0/26 is confirmed for both a and b: see BlockAffinity x (test.yaml, document 1)",
        ),
        (
            vec![node("a", "10.0.0.1/24"), node("b", "10.0.0.1/16")],
            "test.yaml, document 2: Node b: spec.bgp.ipv4Address: 10.0.0.1 already belongs to Node a (test.yaml, document 1)",
        ),
        (
            vec![node("a", "10.0.0.1/24"), yaml("Node", "b", "ipv4VXLANTunnelAddr: 10.0.0.1")],
            "test.yaml, document 2: Node b: spec.ipv4VXLANTunnelAddr: 10.0.0.1 already belongs to Node a (test.yaml, document 1)",
        ),
        (
            vec![wep("x", "ipNetworks: [10.65.0.2/32]"), wep("y", "ipNetworks: [10.65.0.3, 10.65.0.2]")],
            "test.yaml, document 2: WorkloadEndpoint default/y: spec.ipNetworks: 10.65.0.2 already belongs to WorkloadEndpoint default/x (test.yaml, document 1)",
        ),
        (
            vec![
                yaml("Node", "a", "vxlanTunnelMACAddr: 02:00:00:00:00:01"),
                yaml("Node", "b", "vxlanTunnelMACAddr: 02:00:00:00:00:01"),
            ],
            "test.yaml, document 2: Node b: spec.vxlanTunnelMACAddr: 02:00:00:00:00:01 already belongs to Node a (test.yaml, document 1)",
        ),
        (
            vec![
                yaml("Node", "a", "vxlanTunnelMACAddrV6: 02:00:00:00:00:01"),
                yaml("Node", "b", "vxlanTunnelMACAddrV6: 02:00:00:00:00:01"),
            ],
            "test.yaml, document 2: Node b: spec.vxlanTunnelMACAddrV6: 02:00:00:00:00:01 already belongs to Node a (test.yaml, document 1)",
        ),
        (
            vec![pool("a", "fd00::/48"), pool("b", "fd00:0:0:65::/64")],
            "test.yaml, document 2: IPPool b: spec.cidr: fd00:0:0:65::/64 overlaps fd00::/48 of IPPool a (test.yaml, document 1)",
        ),
        (
            vec![
                yaml("Node", "a", "bgp: {ipv6Address: \"fd77::1/64\"}"),
                wep("x", "ipNetworks: [\"fd77:0::1/128\"]"),
            ],
            "test.yaml, document 2: WorkloadEndpoint default/x: spec.ipNetworks: fd77::1 already belongs to Node a (test.yaml, document 1)",
        ),
        (
            vec![
                endpoint("margay.dev/attach: veth", "interfaceName: cali1"),
                endpoint("margay.dev/attach: veth", "interfaceName: cali1").replace("name: it", "name: that"),
            ],
            "test.yaml, document 2: WorkloadEndpoint web/that: spec.interfaceName: cali1 already belongs to WorkloadEndpoint web/it (test.yaml, document 1)",
        ),
        (
            vec![
                endpoint("margay.dev/netns: /run/netns/a", "endpoint: eth0"),
                endpoint("margay.dev/netns: /run/netns/a", "").replace("name: it", "name: that"),
            ],
            "test.yaml, document 2: WorkloadEndpoint web/that: spec.endpoint: eth0 in /run/netns/a already belongs to WorkloadEndpoint web/it (test.yaml, document 1)",
        ),
    ];
    for (texts, error) in cases {
        assert_eq!(conflicts(&texts), [error]);
    }
}

#[test]
fn resources_that_can_both_be_are_accepted() {
    let cases = [
        vec![
            yaml("BlockAffinity", "x", "cidr: 10.65.0.0/26\nnode: a\nstate: confirmed"),
            yaml("BlockAffinity", "y", "cidr: 10.65.0.0/26\nnode: b\nstate: pending"),
            yaml("BlockAffinity", "z", "cidr: 10.65.0.0/24\nnode: b\nstate: confirmed"),
        ],
        vec![yaml("IPPool", "x", "cidr: 10.64.0.0/16"), yaml("IPPool", "y", "cidr: 10.65.0.0/16")],
        // The VTEPs of the two families do not meet.
        vec![
            yaml("Node", "a", "vxlanTunnelMACAddr: 02:00:00:00:00:01"),
            yaml("Node", "b", "vxlanTunnelMACAddrV6: 02:00:00:00:00:01"),
        ],
        vec![yaml("Node", "a", "ipv4VXLANTunnelAddr: 10.65.0.1\nbgp: {ipv4IPIPTunnelAddr: 10.65.0.1}")],
        vec![endpoint("", ""), endpoint("", "").replace("namespace: web", "namespace: db")],
    ];
    for texts in cases {
        assert_eq!(conflicts(&texts), [""; 0]);
    }
}

#[test]
fn unused_kinds_and_fields_are_noted_once() {
    let text = [
        yaml("IPPool", "a", "cidr: 10.64.0.0/16\nnodeSelector: all()\nassignmentMode: Manual"),
        yaml("IPPool", "b", "cidr: 10.65.0.0/16\nnodeSelector: all()"),
        yaml("NetworkPolicy", "c", "order: 1"),
        yaml("NetworkPolicy", "d", "order: 1"),
        yaml("FelixConfiguration", "e", "bpfEnabled: true"),
        yaml("Node", "f", "bgp:\n  asNumber: 64512"),
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: f\n".to_owned(),
        yaml("IPPool", "g", "cidr: fd00::/64"),
    ];
    let parsed = parse("x", &text.join("---\n"));
    assert_eq!(errors(&parsed), [""; 0]);
    let notices: Vec<String> = parsed.notices.iter().map(ToString::to_string).collect();
    assert_eq!(
        notices,
        [
            "kind NetworkPolicy (projectcalico.org/v3) is not used",
            "kind Node (v1) is not used",
            "FelixConfiguration spec.bpfEnabled is not used",
            "IPPool spec.assignmentMode is not used",
            "IPPool spec.nodeSelector is not used",
            "Node spec.bgp.asNumber is not used",
            "FelixConfiguration e is not used: only `default` and `node.<name>` are",
        ]
    );
}

#[test]
fn json_and_yaml_say_the_same() {
    let objects = [
        r#"{"apiVersion": "projectcalico.org/v3", "kind": "Node", "metadata": {"name": "no", "labels": {"a": "b"}},
            "spec": {"bgp": {"ipv4Address": "10.0.0.5/24", "asNumber": 64512}}, "status": {}}"#,
        r#"{"apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": {"name": "p"},
            "spec": {"cidr": "10.65.0.0/16", "blockSize": 24, "ipipMode": "CrossSubnet", "natOutgoing": true}}"#,
        r#"{"apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint", "metadata": {"name": "w",
            "annotations": {"margay.dev/queues": 2}}, "spec": {"node": "no", "ipNetworks": ["10.65.0.2/32"]}}"#,
    ];
    let json = parse("x", &objects.join("\n"));
    let yaml = "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata:\n  name: no\n  labels: {a: b}\nspec:\n  bgp:\n    \
                ipv4Address: 10.0.0.5/24\n    asNumber: 64512\nstatus: {}\n---\n# A comment\napiVersion: crd.projectcalico.org/v1\n\
                kind: IPPool\nmetadata: &m\n  name: p\nspec:\n  cidr: 10.65.0.0/16\n  blockSize: 24\n  ipipMode: CrossSubnet\n  \
                natOutgoing: true\n---\n---\napiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata:\n  name: w\n  \
                annotations:\n    margay.dev/queues: 2\nspec:\n  node: no\n  ipNetworks:\n  - 10.65.0.2/32\n";
    let yaml = parse("x", yaml);
    assert_eq!(errors(&json), [""; 0]);
    assert_eq!(json.resources.len(), 3);
    assert_eq!(json, yaml);

    // Each JSON object is YAML as it stands: behind a document marker it is read as such.
    let flow = parse("x", &format!("---\n{}", objects.join("\n---\n")));
    assert_eq!(flow, json);

    // Typed lists give their items the type; plain ones do not.
    let item = r#"{"metadata": {"name": "no"}, "spec": {"bgp": {"ipv4Address": "10.0.0.5/24"}}}"#;
    let list = format!(r#"{{"apiVersion": "projectcalico.org/v3", "kind": "NodeList", "items": [{item}]}}"#);
    let parsed = parse("x", &list);
    assert_eq!((parsed.resources.len(), errors(&parsed).len()), (1, 0));
    let list = format!(r#"{{"apiVersion": "v1", "kind": "List", "items": [{}, {item}]}}"#, objects[0]);
    let parsed = parse("x", &list);
    assert_eq!(parsed.resources.len(), 1);
    assert_eq!(
        errors(&parsed),
        [
            "x, document 1, item 2: apiVersion: missing: want projectcalico.org/v3",
            "x, document 1, item 2: kind: missing: want a kind such as Node or IPPool",
        ]
    );
}

#[test]
fn absurd_texts_end_in_an_error_soon() {
    let bomb = {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let inner = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{inner}]\n"));
        }
        text
    };
    for text in [
        bomb,
        "[".repeat(100_000),
        "{\"a\":".repeat(100_000),
        format!("a: {}", "[".repeat(100_000)),
        (0..10_000).map(|depth| format!("{}a:\n", " ".repeat(depth % 500))).collect(),
        format!("? {}", "x".repeat(1 << 20)),
        "a: !!binary x".to_owned(),
        "a: &x [*x]".to_owned(),
        "\0".to_owned(),
        " ".repeat(resource_limit() + 1),
    ] {
        let parsed = parse("x", &text);
        assert!(!parsed.errors.is_empty(), "accepted: {}", text.chars().take(60).collect::<String>());
        assert!(errors(&parsed).iter().all(|error| error.len() < 1000), "an endless message");
    }
}

fn resource_limit() -> usize {
    margay::resource::MAX_TEXT
}

/// Large texts are no absurd ones: neither format's limits stand in their way.
#[test]
fn many_resources_in_one_text() {
    let address = |n: u32| Ipv4Addr::from(0x0a00_0000 + n);
    let text: String = (0..5_000)
        .map(|n| {
            yaml("WorkloadEndpoint", &format!("w{n}"), &format!("node: a\nipNetworks: [{}]", address(n)))
                + "---\n"
        })
        .collect();
    let parsed = parse("x", &text);
    assert_eq!(errors(&parsed), [""; 0]);
    assert_eq!(Resources::build([parsed]).unwrap().endpoints.len(), 5_000);

    let item = |n| {
        let address = address(n);
        format!(r#"{{"metadata": {{"name": "w{n}"}}, "spec": {{"node": "a", "ipNetworks": ["{address}"]}}}}"#)
    };
    let items = (0..100_000).map(item).collect::<Vec<_>>().join(",");
    let text = format!(
        r#"{{"apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpointList", "items": [{items}]}}"#
    );
    let parsed = parse("x", &text);
    assert_eq!(errors(&parsed), [""; 0]);
    assert_eq!(Resources::build([parsed]).unwrap().endpoints.len(), 100_000);
}

#[test]
fn a_directory_is_read_whole_and_every_mistake_of_it_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    assert_eq!(datastore::load(directory.path()).unwrap(), Resources::default());

    std::fs::write(path("b.yml"), yaml("Node", "b", "bgp: {ipv4Address: 10.0.0.2/24}")).unwrap();
    std::fs::write(path("a.json"), r#"{"apiVersion":"v1","kind":"List","items":[]}"#).unwrap();
    std::fs::write(path(".hidden.yaml"), "nonsense").unwrap();
    std::fs::write(path("notes.txt"), "nonsense").unwrap();
    std::fs::create_dir(path("sub.yaml")).unwrap();
    std::os::unix::fs::symlink("b.yml", path("c")).unwrap();
    assert_eq!(datastore::load(directory.path()).unwrap().nodes.len(), 1);

    std::os::unix::fs::symlink("b.yml", path("c.yaml")).unwrap();
    let error = datastore::load(directory.path()).unwrap_err().to_string();
    assert_eq!(
        error,
        "c.yaml, document 1: Node b: metadata.name: is already used by Node b (b.yml, document 1)"
    );

    std::fs::remove_file(path("c.yaml")).unwrap();
    std::fs::write(path("d.yaml"), yaml("Node", "d", "bgp: {ipv4Address: x}")).unwrap();
    std::fs::write(path("e.yaml"), b"a: \xff").unwrap();
    std::os::unix::fs::symlink("nowhere", path("f.yaml")).unwrap();
    std::fs::File::create(path("g.yaml")).unwrap().set_len(resource_limit() as u64 + 1).unwrap();
    let error = datastore::load(directory.path()).unwrap_err();
    let LoadError::Content { files, resources } = &error else { panic!("{error}") };
    assert!(matches!(
        files[..],
        [FileError::NotText { position: 3, .. }, FileError::Io { .. }, FileError::TooLarge { .. }]
    ));
    assert_eq!(resources.len(), 1);
    assert_eq!(error.to_string().lines().count(), 4);

    let gone = path("gone");
    let error = datastore::load(&gone).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}: the directory of resources cannot be read: ", gone.display())));
}

proptest! {
    #[test]
    fn any_text_ends_in_resources_or_errors(text in any::<String>()) {
        parse("x", &text);
    }

    #[test]
    fn any_bytes_end_in_resources_or_errors(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        parse("x", &String::from_utf8_lossy(&bytes));
    }

    /// A valid text with a hole, a doubled piece, or another piece of YAML in it.
    #[test]
    fn any_damage_ends_in_resources_or_errors(
        cut in 0usize..1500,
        length in 0usize..80,
        put in prop_oneof![
            Just(String::new()),
            "[\\[\\]{}:,&*!|>'\"%@`#? \n-]{1,6}",
            Just("- ".to_owned()),
            Just("999999999999999999999999".to_owned()),
            Just("-1".to_owned()),
            Just("0.0.0.0/0".to_owned()),
            Just("::/0".to_owned()),
            Just("255.255.255.255/32".to_owned()),
            Just("null".to_owned()),
        ],
    ) {
        let mut text = [
            yaml("Node", "a", "bgp:\n  ipv4Address: 10.0.0.5/24\nvxlanTunnelMACAddr: 02:00:00:00:00:01"),
            yaml("IPPool", "p", "cidr: 10.65.0.0/16\nblockSize: 26\nvxlanMode: Always\nallowedUses: [Tunnel]"),
            yaml("IPPool", "q", "cidr: fd00:10:65::/64\nblockSize: 122\nvxlanMode: CrossSubnet"),
            yaml("Node", "b", "bgp:\n  ipv6Address: fd77::2/64\nipv6VXLANTunnelAddr: fd00:10:65::41"),
            yaml("BlockAffinity", "b", "cidr: 10.65.0.0/26\nnode: a\nstate: confirmed"),
            yaml("BlockAffinity", "c", "cidr: fd00:10:65::40/122\nnode: b"),
            endpoint("margay.dev/netns: /n", "ipNetworks:\n- 10.65.0.2/32\n- fd00:10:65::2/128\nmac: 02:00:00:00:00:02"),
            yaml("FelixConfiguration", "default", "vxlanPort: 4789\nvxlanMTU: 1400"),
        ].join("---\n");
        let start = cut.min(text.len());
        let end = (start + length).min(text.len());
        text.replace_range(start..end, &put);
        if let Ok(resources) = Resources::build([parse("x", &text)]) {
            let _ = margay::rib::plan(&resources, "a");
        }
    }
}
