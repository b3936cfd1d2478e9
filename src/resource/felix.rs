//! FelixConfiguration: the settings of the data plane.

use regex::Regex;
use serde_json::{Map, Value};

use super::section::{Report, Section};
use super::{Meta, Notice};

/// Which nodes a FelixConfiguration speaks to, as its name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// `default`: every node.
    Everywhere,
    /// `node.<name>`: this node, in preference to `default`, field by field.
    Node(String),
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
    /// `spec.ipipMTU`.
    pub ipip_mtu: Option<MtuSetting>,
    /// `spec.mtu`: of every endpoint.
    pub mtu: Option<MtuSetting>,
    /// `spec.mtuIfacePattern`: a regular expression that is one.
    pub mtu_iface_pattern: Option<String>,
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
    let vxlan_mtu = mtu(&mut spec, "vxlanMTU", report);
    let ipip_mtu = mtu(&mut spec, "ipipMTU", report);
    let mtu = mtu(&mut spec, "mtu", report);
    let mtu_iface_pattern = spec
        .text("mtuIfacePattern", A_PATTERN, report, |text| Regex::new(text).is_ok().then(|| text.to_owned()));
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
        ipip_mtu,
        mtu,
        mtu_iface_pattern,
    })
}

const A_PATTERN: &str = "a regular expression (e.g. ^eth.*)";

/// Every IPv4 link carries packets of this many octets (RFC 791 section 3.2).
const MIN_MTU: u64 = 68;

fn mtu(spec: &mut Section<'_>, key: &'static str, report: &mut Report<'_>) -> Option<MtuSetting> {
    let value = spec.value(key)?;
    match value.as_u64() {
        Some(0) => Some(MtuSetting::Auto),
        Some(bytes @ MIN_MTU..=65535) => u16::try_from(bytes).ok().map(MtuSetting::Bytes),
        _ => {
            let want = format!("0 (automatic) or a whole number from {MIN_MTU} to 65535");
            report.wrong(&format!("spec.{key}"), value, &want);
            None
        }
    }
}
