//! IPPool: which workload addresses there are, and how packets to them are encapsulated.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use serde_json::{Map, Value};

use super::Meta;
use super::section::{self, Report, Section};
use crate::lpm::Prefix;

/// `ipipMode` and `vxlanMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// This encapsulation is not used.
    Never,
    /// To every other node.
    Always,
    /// To nodes outside this node's subnet.
    CrossSubnet,
}

/// `allowedUses`, as far as routing depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoolUse {
    /// Workloads or tunnel addresses live here: nodes route to it.
    Nodes,
    /// Addresses of Services only (`allowedUses: [LoadBalancer]`): no route between nodes.
    LoadBalancerOnly,
}

/// What becomes of the maximum segment size in TCP's SYN on its way from or to a pool (`margay.dev/tcp-mss-clamp`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MssClamp {
    /// It stays.
    Off,
    /// It is lowered to what the way carries.
    Auto,
}

/// A range of workload addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpPool {
    /// Name and origin.
    pub meta: Meta,
    /// `spec.cidr`, canonical.
    pub cidr: Prefix,
    /// `spec.ipipMode`; `Never` where `vxlan_mode` is not.
    pub ipip_mode: Mode,
    /// `spec.vxlanMode`; `Never` where `ipip_mode` is not.
    pub vxlan_mode: Mode,
    /// `spec.blockSize`: prefix length of the blocks, 26 (IPv6: 122) unless given.
    pub block_size: u8,
    /// `spec.natOutgoing`.
    pub nat_outgoing: bool,
    /// `spec.disabled`: no new addresses; existing blocks are routed as before.
    pub disabled: bool,
    /// `spec.allowedUses`.
    pub usage: PoolUse,
    /// `margay.dev/tcp-mss-clamp`; `Off` unless given.
    pub mss_clamp: MssClamp,
}

const KIND: &str = "IPPool";

pub(super) fn read(meta: Meta, object: &Map<String, Value>, report: &mut Report<'_>) -> Option<IpPool> {
    let mut spec = Section::of(object, "spec", "spec", report);
    let cidr = section::canonical_prefix(&mut spec, "cidr", "10.65.0.0/16, fd00:10:65::/64", report);
    let ipip_mode = spec.text("ipipMode", MODES, report, mode).unwrap_or(Mode::Never);
    let vxlan_mode = spec.text("vxlanMode", MODES, report, mode).unwrap_or(Mode::Never);
    let block_size = spec.integer("blockSize", 0..=128, report);
    let nat_outgoing = spec.flag("natOutgoing", report).unwrap_or(false);
    let disabled = spec.flag("disabled", report).unwrap_or(false);
    let usage = usage(&mut spec, report);
    spec.finish(KIND, report);
    let mss_clamp = mss_clamp(object, report);

    if ipip_mode != Mode::Never && vxlan_mode != Mode::Never {
        report.problem(
            "spec.vxlanMode",
            format!("{vxlan_mode:?} excludes ipipMode {ipip_mode:?}: one of the two must be Never"),
        );
    }
    let cidr = cidr?;
    if cidr.addr().is_ipv6() && ipip_mode != Mode::Never {
        report.problem(
            "spec.ipipMode",
            format!("{ipip_mode:?} is not possible for IPv6 pool {cidr} (want Never, or vxlanMode)"),
        );
    }
    if let Some(range) = not_for_workloads(&cidr) {
        report.problem("spec.cidr", format!("{cidr} overlaps {range}, which is no range for workloads"));
    }
    let block_size = checked_block_size(block_size, &cidr, report)?;
    Some(IpPool { meta, cidr, ipip_mode, vxlan_mode, block_size, nat_outgoing, disabled, usage, mss_clamp })
}

const MODES: &str = "Never, Always or CrossSubnet";

fn mode(text: &str) -> Option<Mode> {
    Some(match text {
        "Never" => Mode::Never,
        "Always" => Mode::Always,
        "CrossSubnet" => Mode::CrossSubnet,
        _ => return None,
    })
}

fn usage(spec: &mut Section<'_>, report: &mut Report<'_>) -> PoolUse {
    let uses = spec.list("allowedUses", report);
    for (path, value) in &uses {
        if !matches!(value.as_str(), Some("Workload" | "Tunnel" | "LoadBalancer")) {
            report.wrong(path, value, "Workload, Tunnel or LoadBalancer");
        }
    }
    match !uses.is_empty() && uses.iter().all(|(_, value)| value.as_str() == Some("LoadBalancer")) {
        true => PoolUse::LoadBalancerOnly,
        false => PoolUse::Nodes,
    }
}

const MSS_CLAMP: &str = "margay.dev/tcp-mss-clamp";

fn mss_clamp(object: &Map<String, Value>, report: &mut Report<'_>) -> MssClamp {
    let mut metadata = Section::of(object, "metadata", "metadata", report);
    let mut annotations = metadata.section("annotations", "metadata.annotations", report);
    for key in annotations.keys("margay.dev/").filter(|key| *key != MSS_CLAMP) {
        let path = format!("metadata.annotations.{}", section::excerpt(key));
        report.problem(&path, format!("unknown (there is {MSS_CLAMP})"));
    }
    // Without quotes `off` is a boolean to some who write YAML.
    if annotations.value(MSS_CLAMP) == Some(&Value::Bool(false)) {
        return MssClamp::Off;
    }
    let clamp = annotations.text(MSS_CLAMP, "off or auto", report, |text| match text {
        "off" => Some(MssClamp::Off),
        "auto" => Some(MssClamp::Auto),
        _ => None,
    });
    clamp.unwrap_or(MssClamp::Off)
}

/// Calico's bounds: a block holds at least one address, and a pool at least one block.
fn checked_block_size(given: Option<u64>, cidr: &Prefix, report: &mut Report<'_>) -> Option<u8> {
    let (range, default) = match cidr {
        Prefix::V4(_) => (20..=32, 26),
        Prefix::V6(_) => (116..=128, 122),
    };
    let size = given.unwrap_or(default);
    if !range.contains(&size) {
        let want = format!("{size} is not from {} to {}", range.start(), range.end());
        report.problem("spec.blockSize", want);
        return None;
    }
    if size < u64::from(cidr.prefix_len()) {
        report.problem(
            "spec.blockSize",
            format!("a block of /{size} is larger than pool {cidr} (want {} or more)", cidr.prefix_len()),
        );
        return None;
    }
    u8::try_from(size).ok()
}

/// The special range that a pool must not touch (Calico refuses link-local pools; the others cannot
/// work either).
fn not_for_workloads(cidr: &Prefix) -> Option<Prefix> {
    let v4 = |a, b, length| Ipv4Net::new(Ipv4Addr::new(a, b, 0, 0), length).ok().map(Prefix::V4);
    let v6 = |first, sixth, length| {
        Ipv6Net::new(Ipv6Addr::new(first, 0, 0, 0, 0, sixth, 0, 0), length).ok().map(Prefix::V6)
    };
    let special = match cidr.addr() {
        IpAddr::V4(_) => [v4(169, 254, 16), v4(127, 0, 8), v4(224, 0, 4), None],
        IpAddr::V6(_) => [v6(0xfe80, 0, 10), v6(0xff00, 0, 8), v6(0, 0, 96), v6(0, 0xffff, 96)],
    };
    special.into_iter().flatten().find(|range| range.contains(cidr) || cidr.contains(range))
}
