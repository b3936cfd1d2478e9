//! What passed, and what did not, with whom: the counters behind rates and metrics.

use serde::{Deserialize, Serialize};

use crate::agent::Agent;
use crate::agent::endpoint::Attached;
use crate::dataplane::{self, Exceptions, Form, Party};
use crate::verdict::{DropReason, PuntReason};

/// All counters by whom they are counted with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// When this was read: since the agent began.
    pub uptime_milliseconds: u64,
    /// Endpoints, peers and the rest.
    pub parties: Vec<Account>,
}

/// What is counted with one party.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// What it is.
    pub kind: Kind,
    /// An endpoint's or a peer's; empty for the others.
    pub name: String,
    /// An endpoint's: `namespace/pod`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// What it handed in, by form; forms in which nothing did are left out.
    pub received: Vec<Passed>,
    /// What was sent to it.
    pub sent: Vec<Passed>,
    /// Frames of it that left the fast path, by reason.
    pub punted: Vec<Count>,
    /// Frames of it, or that it did not take, that were dropped, by reason.
    pub dropped: Vec<Count>,
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

/// Frames in one form. A super-frame is one, as on the kernel's interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// `plain`, `ipip` or `vxlan`.
    pub form: String,
    /// Frames.
    pub frames: u64,
    /// Bytes of them as they stand at the edge: `plain` at an endpoint with the Ethernet header, `ipip` with the outer IPv4
    /// header, `vxlan` with the VXLAN and inner Ethernet headers.
    pub bytes: u64,
}

/// Frames for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Its stable name.
    pub reason: String,
    /// Frames.
    pub count: u64,
}

impl Traffic {
    pub(crate) fn of(agent: &Agent) -> Self {
        let parties = agent.workers.by_party();
        let mut parties: Vec<Account> =
            parties.into_iter().map(|(party, counted)| Account::of(agent, party, &counted)).collect();
        parties.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        Traffic { uptime_milliseconds: agent.started.elapsed().as_millis() as u64, parties }
    }
}

impl Account {
    fn of(agent: &Agent, party: Party, counted: &Exceptions) -> Self {
        let (kind, name, workload) = match party {
            Party::Endpoint(id) => match agent.endpoints.values().find(|attached| attached.id == id) {
                Some(Attached { plan, .. }) => {
                    (Kind::Endpoint, plan.name.clone(), Some(plan.workload.clone()))
                }
                None => (Kind::Endpoint, format!("endpoint {}", id.0), None),
            },
            Party::Peer(address) => {
                let peer = agent.plan.peers.iter().find(|peer| peer.address == address);
                (Kind::Peer, peer.map_or_else(|| address.to_string(), |peer| peer.name.clone()), None)
            }
            Party::Underlay => (Kind::Underlay, String::new(), None),
            Party::Host => (Kind::Host, String::new(), None),
            Party::Gone => (Kind::Gone, String::new(), None),
        };
        let punted = PuntReason::ALL.iter().map(|reason| (reason.name(), counted.punted[reason.index()]));
        let dropped = DropReason::ALL.iter().map(|reason| (reason.name(), counted.dropped[reason.index()]));
        Account {
            kind,
            name,
            workload,
            received: passed(&counted.received),
            sent: passed(&counted.sent),
            punted: occurred(punted),
            dropped: occurred(dropped),
        }
    }
}

fn passed(traffic: &[dataplane::Traffic]) -> Vec<Passed> {
    let forms = Form::ALL.iter().zip(traffic).filter(|(_, traffic)| traffic.frames > 0);
    let of = |(form, traffic): (&Form, &dataplane::Traffic)| Passed {
        form: form.name().into(),
        frames: traffic.frames,
        bytes: traffic.bytes,
    };
    forms.map(of).collect()
}

fn occurred<'a>(reasons: impl Iterator<Item = (&'a str, u64)>) -> Vec<Count> {
    let counts = reasons.filter(|(_, count)| *count > 0);
    counts.map(|(reason, count)| Count { reason: reason.into(), count }).collect()
}
