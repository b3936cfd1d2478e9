//! The route calculation, from the text of resources to one node's routes.

use std::path::Path;

use margay::datastore;
use margay::rib::{NodePlan, Target, plan};

/// Each route as `prefix class target`, in order.
fn lines(plan: &NodePlan) -> Vec<String> {
    let target = |target| match target {
        Target::Endpoint(index) => format!("endpoint {}", plan.endpoints[index].name),
        Target::Peer { peer, encap } => format!("{} {encap:?}", plan.peers[peer].name),
        Target::Host => "host".to_owned(),
        Target::Blackhole => "blackhole".to_owned(),
    };
    plan.routes
        .iter()
        .map(|route| format!("{} {:?} {}", route.prefix, route.class, target(route.target)))
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
