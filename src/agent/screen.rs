//! The start-up screen: what was found, what will be used, and why.

use std::fmt::Write;

use super::Agent;
use super::view::Status;

/// Endpoints that are listed by name; the others are counted.
const LISTED: usize = 12;

pub(super) fn render(agent: &Agent) -> String {
    let status = Status::of(agent);
    let mut out = format!("margay {} on node {}\n{status}", status.version, status.node);
    let mut line = |text: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  {:<10} {text}", "");
    };
    for attached in agent.endpoints.values().take(LISTED) {
        let addresses: Vec<String> = attached.plan.addresses.iter().map(ToString::to_string).collect();
        let mtu = match attached.mtu() {
            mtu if mtu == agent.mtu.bytes => String::new(),
            mtu => format!(", MTU {mtu} as it was given"),
        };
        line(format!("{} {}: {}{mtu}", attached.plan.workload, addresses.join(" "), attached.how));
    }
    if agent.endpoints.len() > LISTED {
        line(format!("… and {} more", agent.endpoints.len() - LISTED));
    }
    for (name, error) in agent.failed.iter().take(LISTED) {
        line(format!("{name}: NOT ATTACHED: {error}"));
    }
    out
}
