//! What is counted with one endpoint or peer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::dataplane::{self, Balance, Form, Party};

/// What is counted with one endpoint or peer since it is there. A super-frame is one frame.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Account {
    /// What it handed in, by form: `plain`, `ipip`, `vxlan`; no form that never occurred.
    pub received: BTreeMap<String, Traffic>,
    /// What was sent to it, by form.
    pub sent: BTreeMap<String, Traffic>,
    /// Frames that it handed in and that left the fast path.
    pub punted: u64,
    /// Frames that it handed in, or did not take, and that were dropped.
    pub dropped: u64,
}

/// How much passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Frames.
    pub frames: u64,
    /// Bytes of them, as they stand at the edge.
    pub bytes: u64,
}

impl Account {
    pub(super) fn of(by_party: &BTreeMap<Party, Balance>, party: Party) -> Self {
        let Some(balance) = by_party.get(&party) else { return Account::default() };
        Account {
            received: forms(&balance.received),
            sent: forms(&balance.sent),
            punted: balance.punted.iter().sum(),
            dropped: balance.dropped.iter().sum(),
        }
    }

    /// Frames received and sent, in whatever form.
    pub fn frames(&self) -> (u64, u64) {
        let sum = |of: &BTreeMap<String, Traffic>| of.values().map(|traffic| traffic.frames).sum();
        (sum(&self.received), sum(&self.sent))
    }
}

/// Without those that never occurred.
pub(super) fn forms(of: &[dataplane::Traffic; Form::ALL.len()]) -> BTreeMap<String, Traffic> {
    let passed = Form::ALL.into_iter().zip(of).filter(|(_, traffic)| traffic.frames > 0);
    let named = passed.map(|(form, dataplane::Traffic { frames, bytes })| {
        (form.name().to_owned(), Traffic { frames: *frames, bytes: *bytes })
    });
    named.collect()
}
