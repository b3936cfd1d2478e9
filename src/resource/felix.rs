//! FelixConfiguration: the settings of the data plane.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::{Map, Value};

use super::section::{Report, Section};
use super::{Meta, Notice, Origin, ResourceError};

/// Which nodes a FelixConfiguration speaks to, as its name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// `default`: every node.
    Everywhere,
    /// `node.<name>`: this node, in preference to `default`, field by field.
    Node(String),
    /// Felix's environment variables: this node, in preference to all others.
    Environment,
}

/// An MTU setting. In Felix 0 means "find out", which as a node's own setting overrides a number
/// given for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MtuSetting {
    /// Derived from the underlay.
    Auto,
    /// Bytes of IP packet.
    Bytes(u16),
}

/// Settings of the data plane; `None` = not given here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FelixConfiguration {
    /// Name and origin.
    pub meta: Meta,
    /// Which nodes it speaks to.
    pub scope: Scope,
    /// `spec.vxlanPort`.
    pub vxlan_port: Option<u16>,
    /// `spec.vxlanVNI`, 1 to 2^24 - 1 (RFC 7348 section 5: 24 bits).
    pub vxlan_vni: Option<u32>,
    /// `spec.vxlanMTU`.
    pub vxlan_mtu: Option<MtuSetting>,
    /// `spec.vxlanMTUV6`.
    pub vxlan_mtu_v6: Option<MtuSetting>,
    /// `spec.ipipMTU`.
    pub ipip_mtu: Option<MtuSetting>,
    /// `spec.mtu`: of every endpoint.
    pub mtu: Option<MtuSetting>,
    /// `spec.mtuIfacePattern`: a regular expression that is one.
    pub mtu_iface_pattern: Option<String>,
    /// `spec.ipv6Support`.
    pub ipv6_support: Option<bool>,
    /// `spec.allowIPIPPacketsFromWorkloads`.
    pub allow_ipip_from_workloads: Option<bool>,
    /// `spec.allowVXLANPacketsFromWorkloads`.
    pub allow_vxlan_from_workloads: Option<bool>,
    /// `spec.workloadSourceSpoofing`: `Any` is true, `Disabled` is false.
    pub allow_spoofed_sources: Option<bool>,
}

const KIND: &str = "FelixConfiguration";

pub(super) fn read(
    meta: Meta,
    object: &Map<String, Value>,
    report: &mut Report<'_>,
) -> Option<FelixConfiguration> {
    let mut spec = Section::of(object, "spec", "spec", report);
    let vxlan_port = spec.integer("vxlanPort", 1..=65535, report);
    let vxlan_vni = spec.integer("vxlanVNI", 1..=(1 << 24) - 1, report);
    let vxlan_mtu = mtu(&mut spec, "vxlanMTU", MIN_MTU, report);
    let vxlan_mtu_v6 = mtu(&mut spec, "vxlanMTUV6", MIN_MTU_V6, report);
    let ipip_mtu = mtu(&mut spec, "ipipMTU", MIN_MTU, report);
    let mtu = mtu(&mut spec, "mtu", MIN_MTU, report);
    let mtu_iface_pattern = spec
        .text("mtuIfacePattern", A_PATTERN, report, |text| Regex::new(text).is_ok().then(|| text.to_owned()));
    let ipv6_support = spec.flag("ipv6Support", report);
    let allow_ipip_from_workloads = spec.flag("allowIPIPPacketsFromWorkloads", report);
    let allow_vxlan_from_workloads = spec.flag("allowVXLANPacketsFromWorkloads", report);
    let allow_spoofed_sources =
        spec.text("workloadSourceSpoofing", "Any or Disabled", report, |text| match text {
            "Any" => Some(true),
            "Disabled" => Some(false),
            _ => None,
        });
    spec.finish(KIND, report);

    let scope = match (meta.name.as_str(), meta.name.strip_prefix("node.")) {
        ("default", _) => Scope::Everywhere,
        (_, Some(node)) => Scope::Node(node.to_owned()),
        _ => {
            report.notice(Notice::UnusedFelixConfiguration { name: meta.name });
            return None;
        }
    };
    Some(FelixConfiguration {
        meta,
        scope,
        vxlan_port: vxlan_port.and_then(|port| u16::try_from(port).ok()),
        vxlan_vni: vxlan_vni.and_then(|vni| u32::try_from(vni).ok()),
        vxlan_mtu,
        vxlan_mtu_v6,
        ipip_mtu,
        mtu,
        mtu_iface_pattern,
        ipv6_support,
        allow_ipip_from_workloads,
        allow_vxlan_from_workloads,
        allow_spoofed_sources,
    })
}

/// Felix's names of environment variables, and the fields that they stand for.
const VARIABLES: [(&str, &str); 7] = [
    ("FELIX_IPINIPMTU", "ipipMTU"),
    ("FELIX_IPV6SUPPORT", "ipv6Support"),
    ("FELIX_MTUIFACEPATTERN", "mtuIfacePattern"),
    ("FELIX_VXLANMTU", "vxlanMTU"),
    ("FELIX_VXLANMTUV6", "vxlanMTUV6"),
    ("FELIX_VXLANPORT", "vxlanPort"),
    ("FELIX_VXLANVNI", "vxlanVNI"),
];

impl FelixConfiguration {
    /// What Felix's environment variables say; `value_of` gives a variable's value.
    ///
    /// # Errors
    /// A value that the field cannot have, with the variable's name.
    pub fn of_environment(value_of: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let mut spec = Map::new();
        for (variable, field) in VARIABLES {
            let Some(text) = value_of(variable) else { continue };
            let value = match field {
                "ipv6Support" => boolean(&text),
                _ => text.parse().ok().map(u64::into),
            };
            let value = value.unwrap_or(Value::String(text));
            configuration_of([(field.to_owned(), value.clone())].into_iter().collect())
                .map_err(|problem| format!("{variable}: {problem}"))?;
            spec.insert(field.to_owned(), value);
        }
        configuration_of(spec)
    }
}

/// Felix's words for yes and no (`config/param_types.go`).
fn boolean(text: &str) -> Option<Value> {
    Some(match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "y" | "t" => Value::Bool(true),
        "false" | "0" | "no" | "n" | "f" => Value::Bool(false),
        _ => return None,
    })
}

/// The configuration with this `spec`, or the first thing that is wrong with it.
fn configuration_of(spec: Map<String, Value>) -> Result<FelixConfiguration, String> {
    let origin = Origin { source: "environment".into(), document: 1, item: None };
    let (mut errors, mut notices) = (Vec::new(), BTreeSet::new());
    let meta = Meta { name: "default".to_owned(), origin: origin.clone() };
    let object = [("spec".to_owned(), Value::Object(spec))].into_iter().collect();
    let read = read(meta, &object, &mut Report::new(&origin, KIND, &mut errors, &mut notices));
    match (read, errors.into_iter().next()) {
        (Some(felix), None) => Ok(FelixConfiguration { scope: Scope::Environment, ..felix }),
        (_, Some(ResourceError::Field { problem, .. })) => Err(problem),
        (_, other) => Err(other.map_or_else(String::new, |error| error.to_string())),
    }
}

const A_PATTERN: &str = "a regular expression (e.g. ^eth.*)";

/// Every IPv4 link carries packets of this many octets (RFC 791 section 3.2).
const MIN_MTU: u64 = 68;

/// Every link that carries IPv6 carries packets of this many octets (RFC 8200 section 5).
const MIN_MTU_V6: u64 = 1280;

fn mtu(spec: &mut Section<'_>, key: &'static str, least: u64, report: &mut Report<'_>) -> Option<MtuSetting> {
    let value = spec.value(key)?;
    match value.as_u64() {
        Some(0) => Some(MtuSetting::Auto),
        Some(bytes) if (least..=65535).contains(&bytes) => u16::try_from(bytes).ok().map(MtuSetting::Bytes),
        _ => {
            let want = format!("0 (automatic) or a whole number from {least} to 65535");
            report.wrong(&format!("spec.{key}"), value, &want);
            None
        }
    }
}
