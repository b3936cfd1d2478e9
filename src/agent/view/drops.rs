//! What was dropped, why, and with whom it is counted.

use serde::{Deserialize, Serialize};

use crate::agent::{Agent, counts};
use crate::verdict::DropReason;

/// What was dropped since the daemon began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drops {
    /// When this was read: since the agent began.
    pub uptime_milliseconds: u64,
    /// All frames that came in.
    pub input: u64,
    /// All that were dropped.
    pub dropped: u64,
    /// Those by reason, most first; no reason that never occurred.
    pub reasons: Vec<Reason>,
}

/// What was dropped for one reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    /// Its stable name.
    pub reason: String,
    /// Frames.
    pub count: u64,
    /// Between two readings, where there are two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_second: Option<f64>,
    /// What happened and what to do.
    pub explanation: String,
    /// With whom they are counted, most first.
    pub with: Vec<Share>,
}

/// Frames of one party.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// An endpoint's workload, a peer, the underlay, or this node's kernel.
    pub who: String,
    /// Frames.
    pub count: u64,
}

impl Drops {
    pub(crate) fn of(agent: &Agent) -> Self {
        let counts = counts::read(agent);
        let dropped = &counts.total.dropped;
        let of = |reason: &DropReason| Reason {
            reason: reason.name().into(),
            count: dropped[reason.index()],
            per_second: None,
            explanation: reason.explanation().into(),
            with: counts
                .dropped_by(*reason)
                .into_iter()
                .map(|(who, count)| Share { who: who.into(), count })
                .collect(),
        };
        let mut reasons: Vec<Reason> =
            DropReason::ALL.iter().filter(|reason| dropped[reason.index()] > 0).map(of).collect();
        reasons.sort_by_key(|reason| std::cmp::Reverse(reason.count));
        Drops {
            uptime_milliseconds: agent.started.elapsed().as_millis() as u64,
            input: counts.total.input,
            dropped: dropped.iter().sum(),
            reasons,
        }
    }

    /// The same, with what each reason came to a second since `before`; one that has not occurred before began at zero.
    pub fn since(mut self, before: &Drops) -> Self {
        let seconds = self.uptime_milliseconds.saturating_sub(before.uptime_milliseconds) as f64 / 1e3;
        for reason in &mut self.reasons {
            let earlier = before.reasons.iter().find(|earlier| earlier.reason == reason.reason);
            let more = reason.count.saturating_sub(earlier.map_or(0, |earlier| earlier.count));
            reason.per_second = (seconds > 0.0).then_some(more as f64 / seconds);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_what_came_since() {
        let reason = |name: &str, count| Reason {
            reason: name.into(),
            count,
            per_second: None,
            explanation: String::new(),
            with: Vec::new(),
        };
        let drops =
            |uptime_milliseconds, reasons| Drops { uptime_milliseconds, input: 0, dropped: 0, reasons };
        let before = drops(1_000, vec![reason("blackhole", 10)]);
        let after = drops(3_000, vec![reason("blackhole", 14), reason("ttl_zero", 3)]);
        let rates: Vec<_> = after.since(&before).reasons.into_iter().map(|r| r.per_second).collect();
        assert_eq!(rates, [Some(2.0), Some(1.5)]);
        let same = drops(1_000, vec![reason("blackhole", 10)]);
        assert_eq!(same.since(&before).reasons[0].per_second, None, "no time has passed");
    }
}
