//! The start-up screen: what was found, what will be used, and why.

use std::fmt::Write;
use std::time::Duration;

use super::underlay::SOURCE_PORTS;
use super::{Agent, IpipOffload};
use crate::rib::Target;

/// Endpoints that are listed by name; the others are counted.
const LISTED: usize = 12;

pub(super) fn render(agent: &Agent) -> String {
    let (plan, needs) = (&agent.plan, agent.underlay.needs());
    let mut out = format!("margay {} on node {}\n", env!("CARGO_PKG_VERSION"), plan.node);
    let mut line = |what: &str, text: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  {what:<10} {text}");
    };
    let underlay = &needs.interface;
    line(
        "underlay",
        format!(
            "{} in {} on {}, MTU {}",
            plan.address,
            plan.subnet,
            underlay.name,
            agent.paths.interface_mtu()
        ),
    );
    let spin = match agent.config.spin {
        Duration::ZERO => String::new(),
        limit => format!(" after they asked for {limit:?} at most"),
    };
    line("workers", format!("{}, run to completion, woken by readiness{spin}", agent.workers.count()));
    match needs.vxlan {
        Some(port) => line(
            "vxlan",
            format!(
                "UDP {port}, VNI {}, VTEP {}; {SOURCE_PORTS} source ports",
                plan.settings.vxlan_vni, plan.vtep_mac
            ),
        ),
        None => line("vxlan", "off: no pool has vxlanMode".into()),
    }
    match needs.ipip {
        true => {
            let cut = match agent.config.ipip_offload {
                IpipOffload::Auto | IpipOffload::Off => "cut by margay",
                IpipOffload::Bpf => "of TCP cut by the kernel, their outer headers by BPF",
            };
            let ttl = agent.config.outer_ttl;
            line("ipip", format!("protocol 4 in by raw socket, outer TTL {ttl:?}, super-frames {cut}"));
        }
        false => line("ipip", "off: no pool has ipipMode".into()),
    }
    line("direct", format!("in by packet socket on {}", underlay.name));
    line(
        "next hops",
        match &agent.underlay.next_hops {
            Ok(_) => format!(
                "ipip and direct out by packet socket on {}, by raw socket to who is not resolved{}",
                underlay.name,
                express(agent)
            ),
            Err(reason) => format!("ipip and direct out by raw socket: {reason}"),
        },
    );
    match &agent.host {
        Some(host) => line("host", host.how.clone()),
        None => line("host", "none: what has no route is answered with ICMP net unreachable".into()),
    }
    line("MTU", format!("of endpoints {}", agent.mtu));
    let clamping: Vec<String> =
        plan.pools.iter().filter(|pool| pool.clamps).map(|pool| pool.cidr.to_string()).collect();
    if !clamping.is_empty() {
        line("", format!("MSS of TCP lowered to it from and to {}", clamping.join(" ")));
    }
    line("peers", plan.peers.len().to_string());
    let blocks = plan.routes.iter().filter(|route| matches!(route.target, Target::Blackhole)).count();
    line("routes", format!("{}, {blocks} of them blocks of this node", plan.routes.len()));
    line("endpoints", format!("{} attached, {} not", agent.endpoints.len(), agent.failed.len()));
    for attached in agent.endpoints.values().take(LISTED) {
        let addresses: Vec<String> = attached.plan.addresses.iter().map(ToString::to_string).collect();
        let mtu = match attached.mtu() {
            mtu if mtu == agent.mtu.bytes => String::new(),
            mtu => format!(", MTU {mtu} as it was given"),
        };
        line("", format!("{} {}: {}{mtu}", attached.plan.workload, addresses.join(" "), attached.how));
    }
    if agent.endpoints.len() > LISTED {
        line("", format!("… and {} more", agent.endpoints.len() - LISTED));
    }
    for (name, error) in agent.failed.iter().take(LISTED) {
        line("", format!("{name}: NOT ATTACHED: {error}"));
    }
    out
}

/// What is to be said of AF_XDP, if anything.
fn express(agent: &Agent) -> String {
    match &agent.underlay.express {
        Ok(senders) => format!(
            "; ipip of {} of {} workers by AF_XDP, which captures do not show (--ipip-offload off)",
            senders.iter().flatten().count(),
            senders.len()
        ),
        Err(reason) if agent.config.ipip_offload == IpipOffload::Auto && agent.underlay.needs().ipip => {
            format!("; not by AF_XDP: {reason}")
        }
        Err(_) => String::new(),
    }
}
