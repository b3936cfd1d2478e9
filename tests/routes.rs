//! The route calculation, from the text of resources to one node's routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use margay::cli::check;
use margay::datastore;
use margay::lpm::Prefix;
use margay::resource::{Resource, Resources, parse};
use margay::rib::{Encap, NodePlan, Route, RouteClass, Rule, Settings, Target, asymmetries, plan};
use margay::wire::Family;
use proptest::prelude::*;

/// Each route as `prefix class target`, in order; with the underlay's family where it is not the prefix's own.
fn lines(plan: &NodePlan) -> Vec<String> {
    let target = |prefix: Prefix, target| match target {
        Target::Endpoint(index) => format!("endpoint {}", plan.endpoints[index].name),
        Target::Peer { peer, encap, underlay } => {
            let over = match underlay == Family::of(prefix.addr()) {
                true => String::new(),
                false => format!(" over {underlay}"),
            };
            format!("{} {encap:?}{over}", plan.peers[peer].name)
        }
        Target::Host => "host".to_owned(),
        Target::Blackhole => "blackhole".to_owned(),
    };
    plan.routes
        .iter()
        .map(|route| format!("{} {:?} {}", route.prefix, route.class, target(route.prefix, route.target)))
        .collect()
}

#[test]
fn the_example_of_two_nodes() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/two-nodes");
    let resources = datastore::load(&directory).unwrap_or_else(|error| panic!("{error}"));
    assert!(resources.notices.is_empty(), "{:?}", resources.notices);
    let plan = plan(&resources, "node-a").unwrap();
    assert_eq!(
        lines(&plan),
        [
            "10.65.0.0/26 Blackhole blackhole",
            "10.65.0.1/32 LocalHost host",
            "10.65.0.2/32 LocalWorkload endpoint default/node--a-k8s-pod--a-eth0",
            "10.65.0.64/26 VxlanTunnel node-b Vxlan",
            "10.65.0.65/32 VxlanTunnel node-b Vxlan",
            "192.168.77.1/32 LocalHost host",
        ]
    );
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
}

#[test]
fn the_example_of_two_families() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/dual-stack");
    let resources = datastore::load(&directory).unwrap_or_else(|error| panic!("{error}"));
    assert!(resources.notices.is_empty(), "{:?}", resources.notices);
    let plan = plan(&resources, "node-b").unwrap();
    assert_eq!(
        lines(&plan),
        [
            "10.65.0.0/26 VxlanSameSubnet node-a Direct",
            "10.65.0.1/32 VxlanSameSubnet node-a Direct",
            "10.65.0.64/26 Blackhole blackhole",
            "10.65.0.65/32 LocalHost host",
            "10.65.0.66/32 LocalWorkload endpoint default/node--b-k8s-pod--b-eth0",
            "192.168.77.2/32 LocalHost host",
            "fd00:10:65::/122 VxlanTunnel node-a Vxlan",
            "fd00:10:65::1/128 VxlanTunnel node-a Vxlan",
            "fd00:10:65::40/122 Blackhole blackhole",
            "fd00:10:65::41/128 LocalHost host",
            "fd00:10:65::42/128 LocalWorkload endpoint default/node--b-k8s-pod--b-eth0",
            "fd00:77::2/128 LocalHost host",
        ]
    );
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
}

/// A cluster in a few lines: each line is one resource.
///
/// * `node NAME [ADDRESS/LENGTH] [ADDRESS/LENGTH] [ipip=ADDRESS] [vxlan=ADDRESS] [vxlan6=ADDRESS]`
/// * `pool PREFIX [ipip=MODE] [vxlan=MODE] [disabled] [lb]`
/// * `block PREFIX NODE [STATE]`
/// * `pod NAME NODE ADDRESS…`
/// * `felix NAME FIELD=VALUE…`
fn cluster(lines: &str) -> Resources {
    let mut text = String::new();
    for (index, line) in lines.lines().map(str::trim).filter(|line| !line.is_empty()).enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let option = |key: &str| words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        let flag = |flag: &str| words.contains(&flag);
        let (kind, name, spec) = match words[0] {
            "node" => {
                let address =
                    |family: char| words[2..].iter().find(|word| word.contains('/') && word.contains(family));
                let fields = [
                    ("ipv4Address", address('.').copied()),
                    ("ipv6Address", address(':').copied()),
                    ("ipv4IPIPTunnelAddr", option("ipip")),
                ];
                let bgp = fields.iter().filter_map(|(key, value)| Some(format!("{key}: \"{}\"", (*value)?)));
                let mut spec = format!("bgp: {{{}}}", bgp.collect::<Vec<_>>().join(", "));
                spec += &option("vxlan").map(|a| format!("\n  ipv4VXLANTunnelAddr: {a}")).unwrap_or_default();
                spec +=
                    &option("vxlan6").map(|a| format!("\n  ipv6VXLANTunnelAddr: {a}")).unwrap_or_default();
                ("Node", words[1].to_owned(), spec)
            }
            "pool" => {
                let mut spec = format!("cidr: {}\n  disabled: {}", words[1], flag("disabled"));
                spec += &option("ipip").map(|mode| format!("\n  ipipMode: {mode}")).unwrap_or_default();
                spec += &option("vxlan").map(|mode| format!("\n  vxlanMode: {mode}")).unwrap_or_default();
                spec += if flag("lb") { "\n  allowedUses: [LoadBalancer]" } else { "" };
                ("IPPool", format!("pool{index}"), spec)
            }
            "block" => {
                let state = words.get(3).unwrap_or(&"confirmed");
                let spec = format!("cidr: {}\n  node: {}\n  state: {state}", words[1], words[2]);
                ("BlockAffinity", format!("block{index}"), spec)
            }
            "pod" => {
                let spec = format!("node: {}\n  ipNetworks: [{}]", words[2], words[3..].join(", "));
                ("WorkloadEndpoint", words[1].to_owned(), spec)
            }
            "felix" => {
                let fields = words[2..].iter().map(|word| word.replace('=', ": "));
                ("FelixConfiguration", words[1].to_owned(), fields.collect::<Vec<_>>().join("\n  "))
            }
            other => panic!("{other}"),
        };
        let netns = match kind {
            "WorkloadEndpoint" => format!("\n  annotations:\n    margay.dev/netns: /run/netns/{name}"),
            _ => String::new(),
        };
        text += &format!(
            "apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata:\n  name: {name}{netns}\nspec:\n  {spec}\n---\n"
        );
    }
    Resources::build([parse("test.yaml", &text)]).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

fn plan_of(lines: &str, node: &str) -> NodePlan {
    plan(&cluster(lines), node).unwrap_or_else(|error| panic!("{error}"))
}

/// The route to `prefix` as `class target: rule`.
fn explained(plan: &NodePlan, prefix: &str) -> String {
    let index = plan
        .routes
        .iter()
        .position(|route| route.prefix.to_string() == prefix)
        .unwrap_or_else(|| panic!("no route to {prefix} in {:#?}", lines(plan)));
    let line = lines(plan).swap_remove(index);
    format!("{}: {}", line.strip_prefix(prefix).unwrap().trim(), plan.explain(&plan.routes[index]))
}

/// Each mode, to a peer inside and one outside the local mask. 10.0.1.3 is outside of /24, inside of /16.
#[test]
fn the_pool_and_the_local_mask_decide() {
    let inside = "10.0.0.2 is inside this node's 10.0.0.0/24";
    let outside = "10.0.1.3 is outside this node's 10.0.0.0/24";
    for (mode, near, far) in [
        (
            "ipip=Always",
            "IpipTunnel b Ipip: block 10.65.0.64/26 of b; pool 10.65.0.0/16 says ipip Always: ipip".to_owned(),
            "IpipTunnel c Ipip: block 10.65.0.128/26 of c; pool 10.65.0.0/16 says ipip Always: ipip".to_owned(),
        ),
        (
            "ipip=CrossSubnet",
            format!(
                "IpipSameSubnet b Direct: block 10.65.0.64/26 of b; pool 10.65.0.0/16 says ipip CrossSubnet; {inside}: no encapsulation"
            ),
            format!(
                "IpipTunnel c Ipip: block 10.65.0.128/26 of c; pool 10.65.0.0/16 says ipip CrossSubnet; {outside}: ipip"
            ),
        ),
        (
            "vxlan=Always",
            "VxlanTunnel b Vxlan: block 10.65.0.64/26 of b; pool 10.65.0.0/16 says vxlan Always: vxlan".to_owned(),
            "VxlanTunnel c Vxlan: block 10.65.0.128/26 of c; pool 10.65.0.0/16 says vxlan Always: vxlan".to_owned(),
        ),
        (
            "vxlan=CrossSubnet",
            format!(
                "VxlanSameSubnet b Direct: block 10.65.0.64/26 of b; pool 10.65.0.0/16 says vxlan CrossSubnet; {inside}: no encapsulation"
            ),
            format!(
                "VxlanTunnel c Vxlan: block 10.65.0.128/26 of c; pool 10.65.0.0/16 says vxlan CrossSubnet; {outside}: vxlan"
            ),
        ),
        (
            "ipip=Never vxlan=Never",
            "NoEncap b Direct: block 10.65.0.64/26 of b; pool 10.65.0.0/16 says ipip Never and vxlan Never: no encapsulation".to_owned(),
            "NoEncap c Direct: block 10.65.0.128/26 of c; pool 10.65.0.0/16 says ipip Never and vxlan Never: no encapsulation".to_owned(),
        ),
    ] {
        // A disabled pool gives out no addresses, but its blocks are routed as before.
        for disabled in ["", "disabled"] {
            let plan = plan_of(
                &format!(
                    "node a 10.0.0.1/24\n node b 10.0.0.2/24\n node c 10.0.1.3/24\n pool 10.65.0.0/16 {mode} {disabled}\n \
                     block 10.65.0.0/26 a\n block 10.65.0.64/26 b\n block 10.65.0.128/26 c"
                ),
                "a",
            );
            assert_eq!(explained(&plan, "10.65.0.64/26"), near);
            assert_eq!(explained(&plan, "10.65.0.128/26"), far);
            assert_eq!(
                explained(&plan, "10.65.0.0/26"),
                "Blackhole blackhole: block 10.65.0.0/26 of this node: what no endpoint holds is dropped"
            );
            assert_eq!(plan.warnings, [""; 0]);
        }
    }
}

#[test]
fn a_32_as_node_address_makes_every_peer_another_subnet() {
    let text = "node a 10.0.0.1/32\n node b 10.0.0.2/24\n pool 10.65.0.0/16 vxlan=CrossSubnet\n block 10.65.0.64/26 b\n \
                block 10.65.0.0/26 a";
    assert_eq!(
        explained(&plan_of(text, "a"), "10.65.0.64/26"),
        "VxlanTunnel b Vxlan: block 10.65.0.64/26 of b; pool 10.65.0.0/16 says vxlan CrossSubnet; \
         10.0.0.2 is outside this node's 10.0.0.1/32: vxlan"
    );
    // The other node decides by its own mask, and differently.
    assert!(explained(&plan_of(text, "b"), "10.65.0.0/26").starts_with("VxlanSameSubnet a Direct: "));
}

#[test]
fn asymmetric_cross_subnet_is_a_warning_on_both_nodes() {
    let nodes = "node a 10.0.0.1/32\n node b 10.0.0.2/24\n node c 10.0.1.3/24";
    let text = format!("{nodes}\n pool 10.65.0.0/16 ipip=CrossSubnet");
    let warning = "CrossSubnet is asymmetric between b and a: b (10.0.0.2/24) sees 10.0.0.1 inside its subnet and does \
                   not encapsulate, a (10.0.0.1/32) sees 10.0.0.2 outside its subnet and encapsulates; give both the \
                   same prefix length in spec.bgp.ipv4Address";
    assert_eq!(plan_of(&text, "a").warnings, [warning]);
    assert_eq!(plan_of(&text, "b").warnings, [warning]);
    assert_eq!(plan_of(&text, "c").warnings, [""; 0]);
    let all = asymmetries(&cluster(&text), None);
    assert_eq!(all.iter().map(ToString::to_string).collect::<Vec<_>>(), [warning]);

    // Without a CrossSubnet pool the masks say nothing.
    assert_eq!(plan_of(&format!("{nodes}\n pool 10.65.0.0/16 ipip=Always"), "a").warnings, [""; 0]);
}

#[test]
fn one_wrong_mask_among_many_nodes_does_not_flood() {
    let nodes: String = (2..42).map(|n| format!("node n{n} 10.0.0.{n}/24\n")).collect();
    let plan = plan_of(&format!("node a 10.0.0.1/32\n{nodes} pool 10.65.0.0/16 ipip=CrossSubnet"), "a");
    assert_eq!(plan.warnings.len(), 11);
    assert_eq!(plan.warnings[10], "CrossSubnet is asymmetric between a and 30 more nodes");
}

#[test]
fn without_a_pool_there_is_no_encapsulation() {
    let plan =
        plan_of("node a 10.0.0.1/24\n node b 10.9.0.2/24\n block 10.70.0.0/26 b\n pod p b 10.71.0.1", "a");
    assert_eq!(
        explained(&plan, "10.70.0.0/26"),
        "NoEncap b Direct: block 10.70.0.0/26 of b; no pool covers it: no encapsulation"
    );
    assert_eq!(
        explained(&plan, "10.71.0.1/32"),
        "NoEncap b Direct: 10.71.0.1 of an endpoint on b, in no block; no pool covers it: no encapsulation"
    );
    assert_eq!(plan.routes.iter().filter(|route| route.pool.is_some()).count(), 0);
}

#[test]
fn each_block_takes_the_mode_of_its_own_pool() {
    let plan = plan_of(
        "node a 10.0.0.1/24\n node b 10.0.0.2/24\n pool 10.65.0.0/16 ipip=Always\n pool 10.66.0.0/16 vxlan=Always\n \
         pool 10.67.0.0/16\n block 10.65.0.0/26 b\n block 10.66.0.0/26 b\n block 10.67.0.0/26 b\n block 10.64.0.0/14 b",
        "a",
    );
    assert_eq!(
        lines(&plan),
        [
            "10.0.0.1/32 LocalHost host",
            // Larger than any pool: none covers it.
            "10.64.0.0/14 NoEncap b Direct",
            "10.65.0.0/26 IpipTunnel b Ipip",
            "10.66.0.0/26 VxlanTunnel b Vxlan",
            "10.67.0.0/26 NoEncap b Direct",
        ]
    );
}

#[test]
fn a_borrowed_address_has_a_route_of_its_own() {
    let text = "node a 10.0.0.1/24\n node b 10.0.0.2/24\n node c 10.0.1.3/24\n pool 10.65.0.0/16 ipip=CrossSubnet\n \
                block 10.65.0.0/26 a\n block 10.65.0.64/26 b\n pod in-own b 10.65.0.65\n pod from-c c 10.65.0.66\n \
                pod from-a b 10.65.0.7";
    let plan = plan_of(text, "a");
    assert_eq!(
        lines(&plan),
        [
            "10.0.0.1/32 LocalHost host",
            "10.65.0.0/26 Blackhole blackhole",
            "10.65.0.7/32 IpipSameSubnet b Direct",
            "10.65.0.64/26 IpipSameSubnet b Direct",
            "10.65.0.66/32 IpipTunnel c Ipip",
        ]
    );
    assert_eq!(
        explained(&plan, "10.65.0.66/32"),
        "IpipTunnel c Ipip: 10.65.0.66 of an endpoint on c, borrowed from block 10.65.0.64/26; pool 10.65.0.0/16 says \
         ipip CrossSubnet; 10.0.1.3 is outside this node's 10.0.0.0/24: ipip"
    );
    // On the borrower itself it is a local workload; on the lender, b, a route to the borrower.
    assert!(
        explained(&plan_of(text, "c"), "10.65.0.66/32")
            .starts_with("LocalWorkload endpoint default/from-c: ")
    );
    assert!(explained(&plan_of(text, "b"), "10.65.0.66/32").starts_with("IpipTunnel c Ipip: "));
}

#[test]
fn of_nested_blocks_the_longest_holds_the_address() {
    let text = "node a 10.0.0.1/24\n node b 10.0.0.2/24\n node c 10.0.0.3/24\n pool 10.65.0.0/16 vxlan=Always\n \
                block 10.65.0.0/24 b\n block 10.65.0.64/26 c\n block 10.65.0.80/28 a\n block 10.65.0.72/29 b\n \
                pod b1 b 10.65.0.1\n pod b2 b 10.65.0.65\n pod b3 b 10.65.0.73\n pod b4 b 10.65.0.200\n \
                pod c1 c 10.65.0.66\n pod c2 c 10.65.0.3\n pod c3 c 10.65.0.96\n pod c4 c 10.65.0.85\n \
                pod a1 a 10.65.0.81";
    let plan = plan_of(text, "a");
    assert_eq!(
        lines(&plan),
        [
            "10.0.0.1/32 LocalHost host",
            "10.65.0.0/24 VxlanTunnel b Vxlan",
            "10.65.0.3/32 VxlanTunnel c Vxlan",
            "10.65.0.64/26 VxlanTunnel c Vxlan",
            "10.65.0.65/32 VxlanTunnel b Vxlan",
            "10.65.0.72/29 VxlanTunnel b Vxlan",
            "10.65.0.80/28 Blackhole blackhole",
            "10.65.0.81/32 LocalWorkload endpoint default/a1",
            "10.65.0.85/32 VxlanTunnel c Vxlan",
        ]
    );
}

#[test]
fn a_block_of_one_address() {
    let text = "node a 10.0.0.1/24\n node b 10.0.0.2/24\n node c 10.9.0.3/24\n pool 10.65.0.0/16 vxlan=CrossSubnet\n \
                block 10.65.0.1/32 a\n block 10.65.0.2/32 b\n block 10.65.0.3/32 b\n block 10.65.0.4/32 a\n \
                pod a1 a 10.65.0.1\n pod b2 b 10.65.0.2\n pod c3 c 10.65.0.3";
    assert_eq!(
        lines(&plan_of(text, "a")),
        [
            "10.0.0.1/32 LocalHost host",
            "10.65.0.1/32 LocalWorkload endpoint default/a1",
            "10.65.0.2/32 VxlanSameSubnet b Direct",
            // The endpoint wins over the block of another node, although that node's class is better.
            "10.65.0.3/32 VxlanTunnel c Vxlan",
            // No blackhole for 10.65.0.4/32: none of it can be free beside an endpoint.
        ]
    );
}

#[test]
fn tunnel_addresses_are_reached_by_their_own_tunnel() {
    let nodes = "node a 10.0.0.1/24 ipip=10.65.0.1 vxlan=10.65.0.2\n node b 10.0.0.2/24 ipip=10.65.0.65 vxlan=10.65.0.66\n \
                 node c 10.9.0.3/24 ipip=10.65.0.129 vxlan=10.65.0.130";
    let tunnels = |mode: &str| {
        let plan = plan_of(&format!("{nodes}\n pool 10.65.0.0/16 {mode}"), "a");
        ["10.65.0.1/32", "10.65.0.2/32", "10.65.0.65/32", "10.65.0.66/32", "10.65.0.129/32", "10.65.0.130/32"]
            .map(|prefix| explained(&plan, prefix))
    };
    assert_eq!(
        tunnels("vxlan=CrossSubnet"),
        [
            "LocalHost host: this node's ipip tunnel address",
            "LocalHost host: this node's vxlan tunnel address",
            // CrossSubnet is a rule of the vxlan pool: ipip does not take part.
            "IpipTunnel b Ipip: ipip tunnel address of b: ipip",
            "VxlanSameSubnet b Direct: vxlan tunnel address of b; pool 10.65.0.0/16 says vxlan CrossSubnet; 10.0.0.2 is \
             inside this node's 10.0.0.0/24: no encapsulation",
            "IpipTunnel c Ipip: ipip tunnel address of c: ipip",
            "VxlanTunnel c Vxlan: vxlan tunnel address of c; pool 10.65.0.0/16 says vxlan CrossSubnet; 10.9.0.3 is outside \
             this node's 10.0.0.0/24: vxlan",
        ]
    );
    assert_eq!(
        tunnels("ipip=Always")[2..4],
        [
            "IpipTunnel b Ipip: ipip tunnel address of b; pool 10.65.0.0/16 says ipip Always: ipip",
            "VxlanTunnel b Vxlan: vxlan tunnel address of b: vxlan",
        ]
    );
}

#[test]
fn what_is_not_confirmed_is_not_routed() {
    let plan = plan_of(
        "node a 10.0.0.1/24\n node b 10.0.0.2/24\n pool 10.65.0.0/16\n block 10.65.0.0/26 a pending\n \
         block 10.65.0.64/26 b pendingDeletion\n block 10.65.0.128/26 b pending\n pod p b 10.65.0.65",
        "a",
    );
    assert_eq!(lines(&plan), ["10.0.0.1/32 LocalHost host", "10.65.0.65/32 NoEncap b Direct"]);
}

#[test]
fn a_load_balancer_pool_is_not_routed() {
    let plan =
        plan_of("node a 10.0.0.1/24\n node b 10.0.0.2/24\n pool 10.65.0.0/16 lb\n block 10.65.0.0/26 b", "a");
    assert_eq!(lines(&plan), ["10.0.0.1/32 LocalHost host"]);
}

#[test]
fn unknown_nodes_are_warnings_and_no_routes() {
    let plan = plan_of(
        "node a 10.0.0.1/24\n pool 10.65.0.0/16\n block 10.65.0.0/26 x\n block 10.65.0.64/26 x\n pod p x 10.65.0.65\n \
         pod q y 10.65.0.66",
        "a",
    );
    assert_eq!(lines(&plan), ["10.0.0.1/32 LocalHost host"]);
    assert_eq!(
        plan.warnings,
        [
            "x is no Node resource: no route to its 2 blocks and 1 endpoint",
            "y is no Node resource: no route to its 0 blocks and 1 endpoint",
        ]
    );
}

#[test]
fn node_addresses_inside_a_pool_are_a_warning() {
    let plan = plan_of("node a 10.65.0.1/24\n node b 10.65.9.2/24\n pool 10.65.0.0/16", "a");
    assert_eq!(
        plan.warnings,
        [
            "the address 10.65.9.2 of b lies in pool 10.65.0.0/16",
            "the address 10.65.0.1 of a lies in pool 10.65.0.0/16"
        ]
    );
}

#[test]
fn an_endpoint_without_an_address_is_a_warning() {
    let plan = plan_of("node a 10.0.0.1/24\n pod p a fd00::40 10.65.0.2\n pod q a", "a");
    assert_eq!(plan.endpoints.len(), 1);
    assert_eq!(plan.warnings, ["endpoint default/q has no address: it is not served"]);
}

/// Two nodes with an address of each family, two pools, and pods with both.
#[test]
fn both_families_have_routes_of_their_own() {
    let plan = plan_of(
        "node a 10.0.0.1/24 fd77::1/64 vxlan=10.65.0.1 vxlan6=fd00::1 ipip=10.65.0.3\n \
         node b 10.0.0.2/24 fd77::2/64 vxlan=10.65.0.65 vxlan6=fd00::41\n pool 10.65.0.0/16 ipip=Always\n \
         pool fd00::/48 vxlan=Always\n block 10.65.0.0/26 a\n block fd00::/122 a\n block 10.65.0.64/26 b\n \
         block fd00::40/122 b\n pod p a 10.65.0.2 fd00::2\n pod q b 10.65.0.66 fd00::42 fd00::9 fd01::9",
        "a",
    );
    assert_eq!(
        lines(&plan),
        [
            "10.0.0.1/32 LocalHost host",
            "10.65.0.0/26 Blackhole blackhole",
            "10.65.0.1/32 LocalHost host",
            "10.65.0.2/32 LocalWorkload endpoint default/p",
            "10.65.0.3/32 LocalHost host",
            "10.65.0.64/26 IpipTunnel b Ipip",
            "10.65.0.65/32 VxlanTunnel b Vxlan",
            "fd00::/122 Blackhole blackhole",
            "fd00::1/128 LocalHost host",
            "fd00::2/128 LocalWorkload endpoint default/p",
            "fd00::9/128 VxlanTunnel b Vxlan",
            "fd00::40/122 VxlanTunnel b Vxlan",
            "fd00::41/128 VxlanTunnel b Vxlan",
            "fd01::9/128 NoEncap b Direct",
            "fd77::1/128 LocalHost host",
        ]
    );
    assert_eq!(plan.warnings, [""; 0]);
    assert_eq!(
        explained(&plan, "fd00::9/128"),
        "VxlanTunnel b Vxlan: fd00::9 of an endpoint on b, borrowed from block fd00::/122; pool fd00::/48 says vxlan \
         Always: vxlan"
    );
    // 66: and the sha1 of the name alone for IPv4, of the name and -v6 for IPv6.
    let macs = plan.underlays.iter().map(|underlay| underlay.vtep_mac.to_string());
    assert_eq!(macs.collect::<Vec<_>>(), ["66:86:f7:e4:37:fa", "66:b0:25:93:68:b9"]);
    let tunnels: Vec<String> = plan.tunnel_addresses().map(|address| address.to_string()).collect();
    assert_eq!(tunnels, ["10.65.0.1", "fd00::1", "10.65.0.3"]);
}

/// The subnet of the packets' own family counts: here the nodes share that of IPv6 and not that of IPv4.
#[test]
fn cross_subnet_compares_the_subnets_of_the_packets_family() {
    let plan = plan_of(
        "node a 10.0.0.1/24 fd77::1/64\n node b 10.0.1.2/24 fd77::2/64\n node c 10.0.0.3/24 fd78::3/64\n \
         pool 10.65.0.0/16 vxlan=CrossSubnet\n pool fd00::/48 vxlan=CrossSubnet\n block 10.65.0.64/26 b\n \
         block fd00::40/122 b\n block 10.65.0.128/26 c\n block fd00::80/122 c\n block fd00::/122 a",
        "a",
    );
    let explained = |prefix| explained(&plan, prefix);
    assert!(explained("10.65.0.64/26").starts_with("VxlanTunnel b Vxlan: "));
    assert_eq!(
        explained("fd00::40/122"),
        "VxlanSameSubnet b Direct: block fd00::40/122 of b; pool fd00::/48 says vxlan CrossSubnet; fd77::2 is inside \
         this node's fd77::/64: no encapsulation"
    );
    assert!(explained("10.65.0.128/26").starts_with("VxlanSameSubnet c Direct: "));
    assert_eq!(
        explained("fd00::80/122"),
        "VxlanTunnel c Vxlan: block fd00::80/122 of c; pool fd00::/48 says vxlan CrossSubnet; fd78::3 is outside \
         this node's fd77::/64: vxlan"
    );
    let back = |family| plan.back(&plan.peers[1], family);
    assert_eq!(back(Family::V4), []);
    let [back] = &back(Family::V6)[..] else { panic!("one pool") };
    assert_eq!((back.encap, back.pool.unwrap().to_string()), (Some(Encap::Vxlan), "fd00::/48".to_owned()));
    assert_eq!(
        back.because,
        "pool fd00::/48 says vxlan CrossSubnet; fd77::1 is outside c's fd78::/64: vxlan"
    );
}

/// Where the nodes share no address of the packets' family, they share no subnet of it either.
#[test]
fn vxlan_goes_over_the_other_family_where_the_packets_own_is_missing() {
    for mode in ["Always", "CrossSubnet"] {
        let pools = format!(
            "pool 10.65.0.0/16 vxlan={mode}\n pool fd00::/48 vxlan={mode}\n block 10.65.0.64/26 b\n block fd00::40/122 b"
        );
        let over_v4 = plan_of(
            &format!(
                "node a 10.0.0.1/24 fd77::1/64 vxlan6=fd00::1\n node b 10.9.0.2/24 vxlan6=fd00::41\n {pools}"
            ),
            "a",
        );
        assert_eq!(
            lines(&over_v4)[1..],
            [
                "10.65.0.64/26 VxlanTunnel b Vxlan",
                "fd00::1/128 LocalHost host",
                "fd00::40/122 VxlanTunnel b Vxlan over IPv4",
                "fd00::41/128 VxlanTunnel b Vxlan over IPv4",
                "fd77::1/128 LocalHost host",
            ]
        );
        assert_eq!(
            explained(&over_v4, "fd00::40/122"),
            format!(
                "VxlanTunnel b Vxlan over IPv4: block fd00::40/122 of b; pool fd00::/48 says vxlan {mode}; the two nodes \
                 have no IPv6 in common: vxlan over IPv4"
            )
        );
        let over_v6 = plan_of(&format!("node a fd77::1/64\n node b 10.0.0.2/24 fd77:9::2/64\n {pools}"), "a");
        assert_eq!(
            lines(&over_v6),
            [
                "10.65.0.64/26 VxlanTunnel b Vxlan over IPv6",
                "fd00::40/122 VxlanTunnel b Vxlan",
                "fd77::1/128 LocalHost host",
            ]
        );
        assert_eq!((over_v4.warnings.len(), over_v6.warnings.len()), (0, 0));
    }
}

#[test]
fn without_a_common_family_there_is_no_route_and_a_warning_that_says_what_to_do() {
    let resources = "pool 10.65.0.0/16 ipip=Always\n pool 10.66.0.0/16 vxlan=Always\n pool fd00::/48\n \
                     block 10.65.0.64/26 b\n block 10.66.0.64/26 b\n block fd00::40/122 b\n block fd00::/122 a\n \
                     block 10.65.0.0/26 a\n pod p b fd01::1 fd00::41";
    let plan = |nodes: &str| plan_of(&format!("{nodes}\n {resources}"), "a");
    let to_b = |plan: &NodePlan| {
        let is_to_b = |route: &&Route| matches!(route.target, Target::Peer { .. });
        plan.routes.iter().filter(is_to_b).map(|route| route.prefix.to_string()).collect::<Vec<_>>().join(" ")
    };

    let without_v6 = plan("node a 10.0.0.1/24 fd77::1/64\n node b 10.0.0.2/24");
    assert_eq!(to_b(&without_v6), "10.65.0.64/26 10.66.0.64/26");
    assert_eq!(
        without_v6.warnings,
        [
            "b has no spec.bgp.ipv6Address: no route without encapsulation to its fd01::1/128 and 1 more; give it one, or \
          use vxlanMode in an IPPool"
        ]
    );
    let [back] = &without_v6.back(&without_v6.peers[0], Family::V6)[..] else { panic!("one pool") };
    assert_eq!(back.encap, None);
    assert_eq!(
        back.because,
        "pool fd00::/48 says ipip Never and vxlan Never; the two nodes have no IPv6 in common: no way"
    );

    let without_v4 = plan("node a fd77::1/64\n node b 10.0.0.2/24 fd77::2/64");
    assert_eq!(to_b(&without_v4), "10.66.0.64/26 fd00::40/122 fd01::1/128");
    assert_eq!(
        without_v4.warnings,
        [
            "a has no spec.bgp.ipv4Address: no route by ipip to other nodes' 10.65.0.64/26; give it one, or use vxlanMode in \
          the IPPool"
        ]
    );

    let without_any = plan("node a 10.0.0.1/24\n node b fd77::2/64");
    assert_eq!(to_b(&without_any), "");
    assert_eq!(
        without_any.warnings,
        [
            "b has no spec.bgp.ipv4Address: no route by ipip to its 10.65.0.64/26; give it one, or use vxlanMode in the \
             IPPool",
            "b has no spec.bgp.ipv4Address, and there is no other family in common: no route by vxlan to its \
             10.66.0.64/26; give both nodes an address of the same family",
            "a has no spec.bgp.ipv6Address: no route without encapsulation to other nodes' fd01::1/128 and 1 more; give \
             it one, or use vxlanMode in an IPPool",
        ]
    );
}

#[test]
fn many_nodes_without_a_common_family_do_not_flood() {
    let nodes: String =
        (2..42).map(|n| format!("node n{n} 10.0.0.{n}/24\n block fd00::{n}:0/122 n{n}\n")).collect();
    let plan = plan_of(&format!("node a fd77::1/64\n pool fd00::/48\n {nodes}"), "a");
    assert_eq!(plan.warnings.len(), 11);
    assert_eq!(plan.warnings[10], "30 more nodes have no address of a family that a needs");
}

#[test]
fn asymmetric_cross_subnet_is_told_of_each_family() {
    let text = "node a 10.0.0.1/24 fd77::1/64\n node b 10.0.0.2/24 fd77::2/128\n pool fd00::/48 vxlan=CrossSubnet\n \
                pool 10.65.0.0/16 vxlan=CrossSubnet";
    assert_eq!(
        plan_of(text, "a").warnings,
        [
            "CrossSubnet is asymmetric between a and b: a (fd77::1/64) sees fd77::2 inside its subnet and does not \
          encapsulate, b (fd77::2/128) sees fd77::1 outside its subnet and encapsulates; give both the same prefix length \
          in spec.bgp.ipv6Address"
        ]
    );
    // A pool of the other family says nothing of these masks.
    assert_eq!(
        plan_of(&text.replace("fd00::/48 vxlan=CrossSubnet", "fd00::/48 vxlan=Always"), "a").warnings,
        [""; 0]
    );
}

#[test]
fn without_ipv6_support_ipv6_is_left_out() {
    let text = "node a 10.0.0.1/24 fd77::1/64 vxlan6=fd00::1\n node b 10.0.0.2/24 fd77::2/64\n node c fd77::3/64\n \
                pool fd00::/48 vxlan=Always\n pool 10.65.0.0/16\n block fd00::40/122 b\n block 10.65.0.64/26 b\n \
                pod p a 10.65.0.2 fd00::2";
    let off = "felix default ipv6Support=false";
    let plan = plan_of(&format!("{text}\n {off}"), "a");
    assert_eq!(
        lines(&plan),
        [
            "10.0.0.1/32 LocalHost host",
            "10.65.0.2/32 LocalWorkload endpoint default/p",
            "10.65.0.64/26 NoEncap b Direct"
        ]
    );
    assert_eq!((plan.peers.len(), plan.pools.len(), plan.underlays.v6), (1, 1, None));
    assert_eq!(
        plan.warnings,
        [
            "FelixConfiguration's ipv6Support, or FELIX_IPV6SUPPORT, is false: IPv6 pools, blocks and addresses are left out"
        ]
    );
    assert_eq!(
        error_of(&format!("{text}\n {off}"), "c"),
        "test.yaml, document 3: Node c: spec.bgp: ipv4Address is missing, and ipv6Address does not count as ipv6Support \
         is false: want this node's underlay address with prefix length (e.g. ipv4Address: 10.0.0.5/24), or one of each \
         family"
    );
    // Of this node's own configuration, as of every field; and no word where nothing is left out.
    assert_eq!(plan_of(&format!("{text}\n {off}\n felix node.a ipv6Support=true"), "a").peers.len(), 2);
    assert_eq!(plan_of(&format!("node a 10.0.0.1/24\n {off}"), "a").warnings, [""; 0]);
}

fn error_of(lines: &str, node: &str) -> String {
    plan(&cluster(lines), node).unwrap_err().to_string()
}

#[test]
fn an_mtu_that_ends_ipv6_is_a_warning() {
    let text = "node a 10.0.0.1/24\n felix default mtu=1279 vxlanMTU=1280 vxlanMTUV6=1280";
    assert_eq!(plan_of(&format!("{text}\n pod p a 10.65.0.2"), "a").warnings, [""; 0]);
    let plan = plan_of(&format!("{text}\n pod p a 10.65.0.2 fd00::2"), "a");
    assert_eq!(
        plan.warnings,
        [
            "FelixConfiguration's mtu of 1279 is below the 1280 bytes that IPv6 needs (RFC 8200 section 5): endpoints of a \
          cannot use their IPv6 addresses"
        ]
    );
    assert_eq!((plan.settings.vxlan_mtu, plan.settings.vxlan_mtu_v6), (Some(1280), Some(1280)));
}

/// A cluster of numbers, which have an address in each family.
#[derive(Debug, Clone)]
struct Numbers {
    /// Each node's place in the underlay, and its prefix length.
    nodes: Vec<(u32, u8)>,
    /// Modes of the pools.
    pools: Vec<&'static str>,
    /// Number of the first address, prefix length, node.
    blocks: Vec<(u32, u8, usize)>,
    /// Node and numbers of addresses.
    pods: Vec<(usize, Vec<u32>)>,
}

fn numbers() -> impl Strategy<Value = Numbers> {
    let mode =
        prop_oneof![Just("vxlan=Always"), Just("vxlan=CrossSubnet"), Just("vxlan=Never"), Just("disabled")];
    let address = (0..4u32, 0..96u32).prop_map(|(pool, host)| 0x0a40_0000 + (pool << 16) + host);
    (2..5usize).prop_flat_map(move |count| {
        let node = (0..3u32, prop_oneof![Just(8u8), Just(24), Just(30), Just(32)]);
        let block = (address.clone(), 24..=32u8, 0..count);
        let pod = (0..count, proptest::collection::vec(address.clone(), 1..3));
        (
            proptest::collection::vec(node, count),
            proptest::collection::vec(mode.clone(), 0..4),
            proptest::collection::vec(block, 0..8),
            proptest::collection::vec(pod, 0..6),
        )
            .prop_map(|(nodes, pools, mut blocks, mut pods)| {
                let place = |(index, (net, length)): (usize, (u32, u8))| {
                    (0xac10_0001 + (net << 8) + index as u32, length)
                };
                let nodes = nodes.into_iter().enumerate().map(place).collect();
                for (first, length, _) in &mut blocks {
                    *first &= u32::MAX << (32 - *length);
                }
                blocks.sort();
                blocks.dedup_by_key(|(first, length, _)| (*first, *length));
                let mut used = std::collections::BTreeSet::new();
                for (_, addresses) in &mut pods {
                    addresses.retain(|address| used.insert(*address));
                }
                Numbers { nodes, pools, blocks, pods }
            })
    })
}

impl Numbers {
    /// The cluster in these families.
    fn cluster(&self, families: &[Family]) -> Resources {
        let mut text = String::new();
        let each = |number: u32, length: u8| {
            families.iter().map(move |family| match family {
                Family::V4 => format!("{}/{length}", Ipv4Addr::from(number)),
                Family::V6 => format!("{}/{}", v6(number), length + 96),
            })
        };
        for (index, (address, length)) in self.nodes.iter().enumerate() {
            let addresses: Vec<String> = each(*address, *length).collect();
            text += &format!("node n{index} {}\n", addresses.join(" "));
        }
        for (index, mode) in self.pools.iter().enumerate() {
            each(0x0a40_0000 + ((index as u32) << 16), 16)
                .for_each(|cidr| text += &format!("pool {cidr} {mode}\n"));
        }
        for (first, length, node) in &self.blocks {
            each(*first, *length).for_each(|cidr| text += &format!("block {cidr} n{node}\n"));
        }
        for (index, (node, addresses)) in self.pods.iter().enumerate() {
            let addresses: Vec<String> = addresses.iter().flat_map(|address| each(*address, 32)).collect();
            text += &format!("pod p{index} n{node} {}\n", addresses.join(" "));
        }
        cluster(&text)
    }
}

fn v6(number: u32) -> Ipv6Addr {
    Ipv6Addr::from((0xfd00 << 112) | u128::from(number))
}

/// A route of numbers as the other family has it.
fn in_v6(route: &Route) -> Route {
    let prefix = |prefix: Prefix| match prefix.addr() {
        IpAddr::V4(address) => Prefix::new(v6(address.into()).into(), prefix.prefix_len() + 96).unwrap(),
        IpAddr::V6(_) => panic!("{prefix} is no IPv4"),
    };
    let target = match route.target {
        Target::Peer { peer, encap, underlay } => Target::Peer { peer, encap, underlay: underlay.other() },
        other => other,
    };
    let rule = match route.rule {
        Rule::Borrowed { from } => Rule::Borrowed { from: from.map(prefix) },
        other => other,
    };
    Route { prefix: prefix(route.prefix), target, pool: route.pool.map(prefix), rule, ..route.clone() }
}

proptest! {
    /// One rule for both families: a cluster of IPv6 is planned as the same one of IPv4, and both together as each alone.
    #[test]
    fn what_is_planned_does_not_depend_on_the_family(numbers in numbers()) {
        let [v4, v6, both] = [&[Family::V4][..], &[Family::V6], &Family::ALL].map(|families| numbers.cluster(families));
        for node in 0..numbers.nodes.len() {
            let [v4, v6, both] = [&v4, &v6, &both].map(|resources| plan(resources, &format!("n{node}")).unwrap());
            let mapped: Vec<Route> = v4.routes.iter().map(in_v6).collect();
            prop_assert_eq!(&mapped, &v6.routes);
            let together: Vec<Route> = v4.routes.iter().chain(&v6.routes).cloned().collect();
            prop_assert_eq!(&together, &both.routes);
            prop_assert_eq!(v4.warnings.len(), v6.warnings.len());
            for (a, b) in v4.peers.iter().zip(&v6.peers) {
                let back = |plan: &NodePlan, peer, family| {
                    plan.back(peer, family).into_iter().map(|back| back.encap).collect::<Vec<_>>()
                };
                prop_assert_eq!(back(&v4, a, Family::V4), back(&v6, b, Family::V6));
            }
            for route in &both.routes {
                if route.class == RouteClass::LocalWorkload {
                    prop_assert_eq!(both.routes_to(route.prefix.addr()).next(), Some(route));
                }
            }
        }
    }
}

/// S1: the endpoint's own word counts where `workloadSourceSpoofing` lets it, the node's setting before the default.
#[test]
fn allowed_sources_count_where_felix_says_so() {
    let node = "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: a}\nspec: {bgp: {ipv4Address: 10.0.0.1/24}}\n";
    let endpoint = "---\napiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata: {name: p, annotations: \
                    {margay.dev/netns: /run/netns/p}}\nspec: {node: a, ipNetworks: [10.65.0.2], \
                    allowSpoofedSourcePrefixes: [192.0.2.0/24, fd00::/64]}\n";
    let felix = |name: &str, value: &str| {
        format!(
            "---\napiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: {name}}}\nspec: \
             {{workloadSourceSpoofing: {value}}}\n"
        )
    };
    for (felix, allowed) in [
        (String::new(), false),
        (felix("default", "Any"), true),
        (felix("default", "Any") + &felix("node.a", "Disabled"), false),
        (felix("default", "Disabled") + &felix("node.a", "Any"), true),
    ] {
        let text = format!("{node}{endpoint}{felix}");
        let plan = plan(&Resources::build([parse("x", &text)]).unwrap(), "a").unwrap();
        let sources: Vec<String> =
            plan.endpoints[0].spoofed_sources.iter().map(ToString::to_string).collect();
        let warning = "endpoint default/p: allowSpoofedSourcePrefixes has no effect unless FelixConfiguration's \
                       workloadSourceSpoofing is Any";
        match allowed {
            true => {
                assert_eq!((sources.join(" "), plan.warnings.len()), ("192.0.2.0/24 fd00::/64".to_owned(), 0))
            }
            false => assert_eq!((sources.len(), &plan.warnings[..]), (0, &[warning.to_owned()][..])),
        }
    }
}

#[test]
fn a_node_that_cannot_run_is_told_why() {
    let parse = |text: &str| Resources::build([parse("test.yaml", text)]).unwrap();
    let header = "apiVersion: projectcalico.org/v3\nkind: ";
    let error = |text: &str, node: &str| plan(&parse(text), node).unwrap_err().to_string();

    assert_eq!(error("", "a"), "no Node resource is named \"a\" (there are none)");
    let nodes: String =
        (0..12).map(|n| format!("{header}Node\nmetadata: {{name: n{n:02}}}\n---\n")).collect();
    assert_eq!(
        error(&nodes, "a"),
        "no Node resource is named \"a\" (there are n00, n01, n02, n03, n04, n05, n06, n07, n08, n09 and 2 more)"
    );
    assert_eq!(
        error(&nodes, "n01"),
        "test.yaml, document 2: Node n01: spec.bgp: ipv4Address and ipv6Address are missing: want this node's underlay \
         address with prefix length (e.g. ipv4Address: 10.0.0.5/24), or one of each family"
    );

    let text = format!(
        "{header}Node\nmetadata: {{name: a}}\nspec: {{bgp: {{ipv4Address: 10.0.0.1/24}}}}\n---\n\
         {header}Node\nmetadata: {{name: b}}\nspec: {{bgp: {{ipv4Address: 10.0.0.2/24}}}}\n---\n\
         {header}WorkloadEndpoint\nmetadata: {{name: p}}\nspec: {{node: a, ipNetworks: [10.65.0.2]}}\n"
    );
    assert_eq!(
        error(&text, "a"),
        "test.yaml, document 3: WorkloadEndpoint default/p: metadata.annotations.margay.dev/netns: missing on a, which \
         makes its TAP: want the path of the workload's network namespace, or a process id"
    );
    // On other nodes the same endpoint needs no namespace.
    assert!(plan(&parse(&text), "b").is_ok());
}

#[test]
fn settings_come_from_the_node_then_from_default_then_from_felix() {
    let node = "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: a}\nspec: {bgp: {ipv4Address: 10.0.0.1/24}}\n";
    let felix = |name: &str, spec: &str| {
        format!(
            "---\napiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
        )
    };
    let settings = |texts: &[String]| {
        let text = format!("{node}{}", texts.concat());
        plan(&Resources::build([parse("x", &text)]).unwrap(), "a").unwrap().settings
    };
    let none = Settings {
        vxlan_port: 4789,
        vxlan_vni: 4096,
        vxlan_mtu: None,
        vxlan_mtu_v6: None,
        ipip_mtu: None,
        mtu: None,
        mtu_iface_pattern: None,
        allow_ipip_from_workloads: false,
        allow_vxlan_from_workloads: false,
    };
    assert_eq!(settings(&[]), none);
    assert_eq!(settings(&[felix("node.b", "vxlanPort: 1"), felix("other", "vxlanPort: 2")]), none);
    let default = felix("default", "vxlanPort: 4790, vxlanVNI: 7, vxlanMTU: 1400, ipipMTU: 1401, mtu: 1300");
    assert_eq!(
        settings(&[
            default,
            felix("node.a", "vxlanVNI: 8, vxlanMTU: 0, ipipMTU: 1402, mtuIfacePattern: ^en")
        ]),
        Settings {
            vxlan_port: 4790,
            vxlan_vni: 8,
            ipip_mtu: Some(1402),
            mtu: Some(1300),
            mtu_iface_pattern: Some("^en".into()),
            ..none
        }
    );
}

/// 100,000 blocks, nested in pairs, and 100,000 endpoints, most of them borrowed: no step may be
/// quadratic. (The bound is for a debug build on a busy machine.)
#[test]
fn a_large_cluster_is_planned_in_time() {
    let mut parsed = parse("x", "");
    let nodes = 100u32;
    let small = cluster(
        "node n0 172.16.0.1/24\n pool 10.0.0.0/8 vxlan=CrossSubnet\n block 10.0.0.0/26 n0\n pod p n0 11.0.0.1",
    );
    for n in 0..nodes {
        let mut node = small.nodes[0].clone();
        node.meta.name = format!("n{n}");
        node.vtep_mac = margay::resource::vtep_mac_v4(&node.meta.name);
        node.vtep_mac_v6 = margay::resource::vtep_mac_v6(&node.meta.name);
        node.ipv4 = Some(format!("172.16.0.{}/24", n + 1).parse().unwrap());
        parsed.resources.push(Resource::Node(node));
    }
    parsed.resources.push(Resource::IpPool(small.pools[0].clone()));
    for n in 0..100_000u32 {
        let mut block = small.blocks[0].clone();
        block.meta.name = format!("b{n}");
        let length = if n % 2 == 0 { 26 } else { 27 };
        block.cidr = format!("{}/{length}", Ipv4Addr::from(0x0a00_0000 + n / 2 * 64)).parse().unwrap();
        block.node = format!("n{}", n % nodes);
        parsed.resources.push(Resource::BlockAffinity(block));
        let mut endpoint = small.endpoints[0].clone();
        endpoint.meta.name = format!("default/e{n}");
        endpoint.node = format!("n{}", n % 7);
        endpoint.addresses = vec![Ipv4Addr::from(0x0a00_0000 + n * 32 + 1).into()];
        endpoint.netns = Some(format!("/run/netns/{n}").into());
        parsed.resources.push(Resource::WorkloadEndpoint(endpoint));
    }
    let resources = Resources::build([parsed]).unwrap_or_else(|errors| panic!("{}", errors[0]));
    let plan = plan(&resources, "n99").unwrap();
    assert!(plan.routes.len() > 150_000, "{}", plan.routes.len());
}

/// The answer of `margay check`: table, warnings, and the verdict.
#[test]
fn check_prints_tables_and_says_what_is_wrong() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/two-nodes");
    let check = |directory: &Path, node: Option<&str>| {
        let args = check::Args { directory: directory.to_owned(), node: node.map(str::to_owned) };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let verdict = check::check(&args, &mut out, &mut err).unwrap();
        (verdict, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    };
    let (verdict, out, err) = check(&example, Some("node-b"));
    assert_eq!((verdict, err.as_str()), (check::Verdict::Valid, ""));
    let (first, table) = out.split_once('\n').unwrap();
    assert!(first.ends_with("two-nodes: 2 nodes, 1 pool, 2 blocks, 2 endpoints"), "{first}");
    assert_eq!(
        table,
        "\nnode-b, 192.168.77.2 in 192.168.77.0/24:
  PREFIX           TO                     HOW    CLASS           BECAUSE
  10.65.0.0/26     192.168.77.1 (node-a)  vxlan  vxlan tunnel    block 10.65.0.0/26 of node-a; pool 10.65.0.0/16 says vxlan Always: vxlan
  10.65.0.1/32     192.168.77.1 (node-a)  vxlan  vxlan tunnel    vxlan tunnel address of node-a; pool 10.65.0.0/16 says vxlan Always: vxlan
  10.65.0.64/26    nowhere                drop   blackhole       block 10.65.0.64/26 of this node: what no endpoint holds is dropped
  10.65.0.65/32    this node              host   local host      this node's vxlan tunnel address
  10.65.0.66/32    default/pod-b eth0     local  local workload  endpoint default/node--b-k8s-pod--b-eth0 of this node
  192.168.77.2/32  this node              host   local host      this node's own address
"
    );
    let (verdict, out, err) = check(&example.with_file_name("dual-stack"), Some("node-b"));
    assert_eq!((verdict, err.as_str()), (check::Verdict::Valid, ""));
    let table = out.split_once('\n').unwrap().1;
    assert!(
        table.starts_with("\nnode-b, 192.168.77.2 in 192.168.77.0/24 and fd00:77::2 in fd00:77::/64:\n"),
        "{table}"
    );
    let line = "  fd00:10:65::/122    fd00:77::1 (node-a)    vxlan  vxlan tunnel       block fd00:10:65::/122 of node-a; pool \
                fd00:10:65::/64 says vxlan Always: vxlan\n";
    assert!(table.contains(line), "{table}");
    let (verdict, out, _) = check(&example, None);
    assert_eq!(verdict, check::Verdict::Valid);
    assert!(out.contains("\nnode-a, 192.168.77.1 in 192.168.77.0/24:\n") && out.contains("\nnode-b, "));
    let (verdict, _, err) = check(&example, Some("node-c"));
    assert_eq!(verdict, check::Verdict::Wrong);
    assert_eq!(err, "error: no Node resource is named \"node-c\" (there are node-a, node-b)\n");

    let directory = tempfile::tempdir().unwrap();
    let header = "apiVersion: projectcalico.org/v3\nkind: ";
    let node = |name: &str, address: &str| {
        format!("{header}Node\nmetadata: {{name: {name}}}\nspec: {{bgp: {{ipv4Address: {address}}}}}\n---\n")
    };
    let pool = format!(
        "{header}IPPool\nmetadata: {{name: p}}\nspec: {{cidr: 10.65.0.0/16, ipipMode: CrossSubnet, nodeSelector: all()}}\n"
    );
    let file = directory.path().join("all.yaml");
    std::fs::write(&file, node("a", "10.0.0.1/24") + &node("b", "10.0.0.2/32") + &node("c", "\"\"") + &pool)
        .unwrap();
    let (verdict, _, err) = check(directory.path(), None);
    assert_eq!(verdict, check::Verdict::Valid);
    let starts: Vec<&str> = err.lines().map(|line| line.split(": ").nth(1).unwrap()).collect();
    assert_eq!(err.matches("CrossSubnet is asymmetric").count(), 1, "{err}");
    assert_eq!(
        starts[..2],
        [
            "IPPool spec.nodeSelector is not used",
            "c has neither spec.bgp.ipv4Address nor spec.bgp.ipv6Address"
        ]
    );

    std::fs::write(&file, "a: b\n---\nc: [").unwrap();
    let (verdict, out, err) = check(directory.path(), None);
    assert_eq!((verdict, out.as_str()), (check::Verdict::Wrong, ""));
    assert!(
        err.lines().count() == 3 && err.lines().all(|line| line.starts_with("error: all.yaml, document ")),
        "{err}"
    );
}
