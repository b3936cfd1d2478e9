//! Calico's resources: from any text to the plan of every node in it.

use margay::resource::{Parsed, ResourceError, Resources, parse};
use margay::rib::{Encap, NodePlan, PlanError, RouteClass, Target, plan};
use margay::wire::Family;
use serde_json::Value;

const NAME: &str = "fuzz.yaml";

/// Any text: the same answer twice, mistakes of one line that name the text, and where there is no mistake a
/// plan for each node.
pub(super) fn resource(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let parsed = parse(NAME, text);
    assert_eq!(parse(NAME, text), parsed);
    for error in &parsed.errors {
        readable(error);
    }
    for notice in &parsed.notices {
        assert!(!notice.to_string().is_empty());
    }
    same_in_another_form(text, &parsed);

    let resources = match Resources::build([parsed.clone()]) {
        Ok(resources) => resources,
        Err(errors) => {
            assert!(errors.starts_with(&parsed.errors) && !errors.is_empty());
            return errors.iter().for_each(readable);
        }
    };
    assert!(parsed.errors.is_empty());
    for node in &resources.nodes {
        match plan(&resources, &node.meta.name) {
            Ok(plan) => sound(&plan),
            Err(PlanError::Incomplete(errors)) => errors.iter().for_each(readable),
            Err(error) => panic!("the node is there: {error}"),
        }
    }
}

fn readable(error: &ResourceError) {
    let text = error.to_string();
    assert!(text.starts_with(NAME), "{text}");
    assert!(!text.contains('\n'), "{text:?}");
}

/// JSON says the same whatever its blanks, and read as the YAML that it is.
fn same_in_another_form(text: &str, parsed: &Parsed) {
    let broken =
        |parsed: &Parsed| parsed.errors.iter().any(|error| matches!(error, ResourceError::Text { .. }));
    let Ok(value @ Value::Object(_)) = serde_json::from_str(text) else { return };
    // A repeated key, which serde_json's own values do not see.
    if broken(parsed) {
        return;
    }
    assert_eq!(parse(NAME, &value.to_string()), *parsed);
    assert_eq!(parse(NAME, &format!("{value:#}")), *parsed);
}

/// What holds for every plan.
fn sound(plan: &NodePlan) {
    assert!(plan.routes.is_sorted_by(|a, b| a.prefix < b.prefix), "sorted, one a prefix");
    for route in &plan.routes {
        assert!(!plan.explain(route).is_empty());
        match route.target {
            Target::Endpoint(index) => {
                assert_eq!(route.class, RouteClass::LocalWorkload);
                assert!(plan.endpoints[index].addresses.contains(&route.prefix.addr()));
            }
            Target::Peer { peer, encap, underlay } => {
                let peer = &plan.peers[peer];
                assert_ne!(peer.name, plan.node);
                assert!(peer.underlays.of(underlay).is_some() && plan.underlays.of(underlay).is_some());
                assert!(encap == Encap::Vxlan || underlay == Family::of(route.prefix.addr()));
                assert!(encap != Encap::Ipip || underlay == Family::V4);
            }
            Target::Host => assert_eq!(route.class, RouteClass::LocalHost),
            Target::Blackhole => assert_eq!(route.class, RouteClass::Blackhole),
        }
    }
    for (index, endpoint) in plan.endpoints.iter().enumerate() {
        for address in &endpoint.addresses {
            let to_it = |route: &&margay::rib::Route| {
                route.prefix.addr() == *address && route.target == Target::Endpoint(index)
            };
            assert!(plan.routes.iter().find(to_it).is_some(), "{address} of {}", endpoint.name);
        }
    }
}
