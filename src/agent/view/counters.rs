//! What passed, and what did not, with whom: the counters behind rates and metrics.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Traffic;
use super::account::forms;
use crate::agent::endpoint::Attached;
use crate::agent::{Agent, counts};
use crate::dataplane::{Balance, Party};
use crate::verdict::{DropReason, PuntReason};

/// All counters by whom they are counted with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// When this was read: since the agent began.
    pub uptime_milliseconds: u64,
    /// Endpoints, peers and the rest.
    pub parties: Vec<Counted>,
}

/// What is counted with one party.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// What it is.
    pub kind: Kind,
    /// An endpoint's or a peer's; empty for the others.
    pub name: String,
    /// An endpoint's: `namespace/pod`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// What it handed in, by form: `plain`, `ipip`, `vxlan`; no form that never occurred.
    pub received: BTreeMap<String, Traffic>,
    /// What was sent to it, by form.
    pub sent: BTreeMap<String, Traffic>,
    /// Frames of it that left the fast path, by reason; none that never occurred.
    pub punted: BTreeMap<String, u64>,
    /// Frames of it, or that it did not take, that were dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
}

/// Who frames are counted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A workload of this node.
    Endpoint,
    /// Another node.
    Peer,
    /// The underlay: who is no peer, and this node's sockets on it.
    Underlay,
    /// This node's kernel.
    Host,
    /// Endpoints and peers that are gone.
    Gone,
}

impl Kind {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Endpoint => "endpoint",
            Kind::Peer => "peer",
            Kind::Underlay => "underlay",
            Kind::Host => "host",
            Kind::Gone => "gone",
        }
    }
}

impl Counters {
    pub(crate) fn of(agent: &Agent) -> Self {
        let parties = counts::by_party(agent);
        let mut parties: Vec<Counted> =
            parties.into_iter().map(|(party, counted)| Counted::of(agent, party, &counted)).collect();
        parties.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        Counters { uptime_milliseconds: agent.started.elapsed().as_millis() as u64, parties }
    }
}

impl Counted {
    fn of(agent: &Agent, party: Party, counted: &Balance) -> Self {
        let (kind, name, workload) = match party {
            Party::Endpoint(id) => match agent.endpoints.values().find(|attached| attached.id == id) {
                Some(Attached { plan, .. }) => {
                    (Kind::Endpoint, plan.name.clone(), Some(plan.workload.clone()))
                }
                None => (Kind::Endpoint, format!("endpoint {}", id.0), None),
            },
            Party::Peer(address) => {
                let peer = agent.plan.peers.iter().find(|peer| peer.underlays.have(address));
                (Kind::Peer, peer.map_or_else(|| address.to_string(), |peer| peer.name.clone()), None)
            }
            Party::Underlay => (Kind::Underlay, String::new(), None),
            Party::Host => (Kind::Host, String::new(), None),
            Party::Gone => (Kind::Gone, String::new(), None),
        };
        let punted = PuntReason::ALL.iter().map(|reason| (reason.name(), counted.punted[reason.index()]));
        let dropped = DropReason::ALL.iter().map(|reason| (reason.name(), counted.dropped[reason.index()]));
        Counted {
            kind,
            name,
            workload,
            received: forms(&counted.received),
            sent: forms(&counted.sent),
            punted: occurred(punted),
            dropped: occurred(dropped),
        }
    }
}

fn occurred<'a>(reasons: impl Iterator<Item = (&'a str, u64)>) -> BTreeMap<String, u64> {
    reasons.filter(|(_, count)| *count > 0).map(|(reason, count)| (reason.to_owned(), count)).collect()
}
