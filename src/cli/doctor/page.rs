//! What was found, as tables for people.

use std::fmt::Write;

use super::Report;
use super::facility::{Finding, State};
use super::modes::{Endpoints, Mode, Outlook, Privilege};
use crate::cli::table;

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
    let facilities = report.facilities.iter();
    let found = facilities
        .clone()
        .map(|finding| [finding.facility.name().into(), state(finding).into(), finding.found.clone()]);
    out += &table::render(["FACILITY", "STATE", "FOUND"], found.collect());
    let modes = report.modes.iter().map(|outlook| {
        let missing: Vec<&str> = outlook.missing.iter().map(|facility| facility.name()).collect();
        let missing = if missing.is_empty() { "-".into() } else { missing.join(", ") };
        [mode(outlook).into(), pods(outlook).into(), works(outlook).into(), missing]
    });
    out.push('\n');
    out += &table::render(["MODE", "PODS", "WORKS", "MISSING"], modes.collect());
    let remedies =
        facilities.filter_map(|finding| Some([finding.facility.name().into(), finding.remedy.clone()?]));
    out.push('\n');
    out += &table::render(["MISSING", "HOW TO GET IT"], remedies.collect());
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
