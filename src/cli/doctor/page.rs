//! What was found, as tables for people.

use std::fmt::Write;

use super::Report;
use super::facility::{Finding, State};
use super::modes::{Endpoints, Mode, Outlook, Privilege};

/// Capabilities that margay uses.
const USED: [&str; 8] = [
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_SYS_ADMIN",
    "CAP_SYS_PTRACE",
    "CAP_IPC_LOCK",
    "CAP_DAC_READ_SEARCH",
    "CAP_BPF",
    "CAP_PERFMON",
];

pub(super) fn render(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "margay {} on Linux {} ({}), user {}",
        report.margay, report.kernel, report.machine, report.user
    );
    let _ = writeln!(out, "{}\n", capabilities(&report.capabilities));
    let _ = writeln!(out, "{:<17} {:<8} FOUND", "FACILITY", "STATE");
    for finding in &report.facilities {
        let _ = writeln!(out, "{:<17} {:<8} {}", finding.facility.name(), state(finding), finding.found);
    }
    let _ = writeln!(out, "\n{:<6} {:<6} {:<12} MISSING", "MODE", "PODS", "WORKS");
    for outlook in &report.modes {
        let missing: Vec<&str> = outlook.missing.iter().map(|facility| facility.name()).collect();
        let line = format!(
            "{:<6} {:<6} {:<12} {}",
            mode(outlook),
            pods(outlook),
            works(outlook),
            missing.join(", ")
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
    let remedies: Vec<(&str, &str)> = report
        .facilities
        .iter()
        .filter_map(|finding| Some((finding.facility.name(), finding.remedy.as_deref()?)))
        .collect();
    if !remedies.is_empty() {
        let _ = writeln!(out, "\nHow to get what is missing:");
        for (name, remedy) in remedies {
            let _ = writeln!(out, "{name:<17} {remedy}");
        }
    }
    out
}

fn capabilities(held: &[String]) -> String {
    let (has, lacks): (Vec<&str>, Vec<&str>) =
        USED.iter().partition(|used| held.iter().any(|held| held == *used));
    match (&has[..], &lacks[..]) {
        ([], _) => "Of the capabilities that margay uses: none".into(),
        (has, []) => format!("Of the capabilities that margay uses: {}", has.join(" ")),
        (has, lacks) => {
            format!("Of the capabilities that margay uses: {}; not {}", has.join(" "), lacks.join(" "))
        }
    }
}

fn state(finding: &Finding) -> &'static str {
    match finding.state {
        State::Works => "works",
        State::Missing => "MISSING",
        State::Untried => "untried",
    }
}

fn mode(outlook: &Outlook) -> &'static str {
    match outlook.mode {
        Mode::Vxlan => "vxlan",
        Mode::Ipip => "ipip",
        Mode::None => "none",
    }
}

fn pods(outlook: &Outlook) -> &'static str {
    match outlook.endpoints {
        Endpoints::Tap => "tap",
        Endpoints::Veth => "veth",
    }
}

fn works(outlook: &Outlook) -> &'static str {
    match (outlook.works, outlook.privilege) {
        (false, _) => "no",
        (true, Privilege::Root) => "yes",
        (true, Privilege::Rootless) => "rootless",
    }
}
