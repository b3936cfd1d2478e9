//! BlockAffinity: which node holds a block of addresses.

use serde_json::{Map, Value};

use super::section::{self, A_NAME, Report, Section};
use super::{Meta, Notice};
use crate::lpm::Prefix;

/// How far the node's claim to the block has come (Calico claims in two phases).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Claim {
    /// The block is the node's.
    Confirmed,
    /// Claimed, not yet the node's: not routed.
    Pending,
    /// Being given back: not routed.
    PendingDeletion,
    /// `deleted: true`, a record on its way out: as if it were not there.
    Deleted,
}

/// A block of addresses and its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockAffinity {
    /// Name and origin.
    pub meta: Meta,
    /// `spec.cidr`, canonical, of any length.
    pub cidr: Prefix,
    /// `spec.node`.
    pub node: String,
    /// `spec.state` and `spec.deleted`.
    pub claim: Claim,
}

const KIND: &str = "BlockAffinity";

pub(super) fn read(
    meta: Meta,
    object: &Map<String, Value>,
    report: &mut Report<'_>,
) -> Option<BlockAffinity> {
    let mut spec = Section::of(object, "spec", "spec", report);
    let cidr = section::canonical_prefix(&mut spec, "cidr", "10.65.0.0/26, fd00:10:65::/122", report);
    let node = spec.required("node", A_NAME, report, section::resource_name);
    // Records of early Calico versions have no state: their claims are settled.
    let state = spec.text("state", "confirmed, pending or pendingDeletion", report, |text| {
        Some(match text {
            "confirmed" => Claim::Confirmed,
            "pending" => Claim::Pending,
            "pendingDeletion" => Claim::PendingDeletion,
            _ => return None,
        })
    });
    let deleted = deleted(&mut spec, report);
    let holder = spec.text("type", "host or virtual", report, |text| match text {
        "host" => Some(Holder::Node),
        "virtual" => Some(Holder::LoadBalancer),
        _ => None,
    });
    spec.finish(KIND, report);

    if matches!(holder, Some(Holder::LoadBalancer)) {
        report.notice(Notice::VirtualBlock);
        return None;
    }
    let claim = if deleted { Claim::Deleted } else { state.unwrap_or(Claim::Confirmed) };
    Some(BlockAffinity { meta, cidr: cidr?, node: node?, claim })
}

enum Holder {
    Node,
    LoadBalancer,
}

/// `spec.deleted` is a text in `crd.projectcalico.org/v1` and a boolean in later APIs.
fn deleted(spec: &mut Section<'_>, report: &mut Report<'_>) -> bool {
    match spec.value("deleted") {
        Some(Value::Bool(deleted)) => *deleted,
        _ => spec.text("deleted", "true or false", report, |text| text.parse().ok()).unwrap_or(false),
    }
}
