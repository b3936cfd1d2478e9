//! What was counted, with names: for the last words, for the log, and for whoever asks.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Agent;
use crate::dataplane::{Balance, Party, Tally};
use crate::fib::EndpointId;
use crate::rib::Peer;
use crate::verdict::DropReason;

/// How often drops are logged at most.
const INTERVAL: Duration = Duration::from_secs(30);
/// Lines that are logged at a time.
const LINES: usize = 8;

/// All counts until a moment.
#[derive(Debug, Clone)]
pub struct Counts {
    /// Of all frames.
    pub total: Tally,
    /// Of what was punted and dropped, with whom it is counted: endpoints and peers by name.
    pub parties: Vec<(String, Balance)>,
}

impl Counts {
    /// With whom the drops for `reason` are counted, and how many: most first.
    pub fn dropped_by(&self, reason: DropReason) -> Vec<(&str, u64)> {
        let count = |balance: &Balance| balance.dropped[reason.index()];
        let mut by: Vec<(&str, u64)> =
            self.parties.iter().map(|(who, balance)| (who.as_str(), count(balance))).collect();
        by.retain(|(_, count)| *count > 0);
        by.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        by
    }
}

/// A snapshot of all workers' counts.
pub(super) fn read(agent: &Agent) -> Counts {
    let parties = by_party(agent).into_iter().map(|(party, balance)| (name(agent, party), balance)).collect();
    Counts { total: agent.workers.tally(), parties }
}

/// What all workers count with each party: with a node once, whichever of its addresses the frames came from and went to.
pub(super) fn by_party(agent: &Agent) -> BTreeMap<Party, Balance> {
    let mut all = agent.workers.by_party();
    for peer in &agent.plan.peers {
        let one = Party::Peer(peer.underlays.main_address());
        for address in peer.underlays.addresses().skip(1) {
            if let Some(balance) = all.remove(&Party::Peer(address)) {
                *all.entry(one).or_default() += &balance;
            }
        }
    }
    all
}

fn name(agent: &Agent, party: Party) -> String {
    name_of(party, &agent.plan.peers, |id| {
        let attached = agent.endpoints.values().find(|attached| attached.id == id);
        attached.map(|attached| attached.plan.workload.to_string())
    })
}

/// With the peers that there are, and what knows the workload of an endpoint.
pub(super) fn name_of(
    party: Party,
    peers: &[Peer],
    workload: impl FnOnce(EndpointId) -> Option<String>,
) -> String {
    match party {
        Party::Endpoint(id) => workload(id).unwrap_or_else(|| format!("endpoint {}", id.0)),
        Party::Peer(address) => {
            let peer = peers.iter().find(|peer| peer.underlays.have(address));
            peer.map_or_else(|| format!("peer {address}"), |peer| format!("node {}", peer.name))
        }
        Party::Underlay => "the underlay".into(),
        Party::Host => "this node's kernel".into(),
        Party::Gone => "endpoints and peers that are gone".into(),
    }
}

/// What of the drops was logged already.
#[derive(Debug)]
pub(super) struct Log {
    told: BTreeMap<Party, [u64; DropReason::COUNT]>,
    last: Instant,
}

impl Log {
    pub(super) fn new(now: Instant) -> Self {
        Log { told: BTreeMap::new(), last: now }
    }

    /// What was dropped since it was last asked, most first; nothing before the time has come.
    fn news(
        &mut self,
        now: Instant,
        read: impl FnOnce() -> BTreeMap<Party, Balance>,
    ) -> Vec<(Party, DropReason, u64)> {
        if now.saturating_duration_since(self.last) < INTERVAL {
            return Vec::new();
        }
        self.last = now;
        let counted = read();
        self.told.retain(|party, _| counted.contains_key(party));
        let mut news = Vec::new();
        for (party, balance) in counted {
            let told = self.told.entry(party).or_insert([0; DropReason::COUNT]);
            for reason in DropReason::ALL {
                let (told, count) = (&mut told[reason.index()], balance.dropped[reason.index()]);
                // Less than before: another endpoint has the id.
                let more = count.checked_sub(*told).unwrap_or(count);
                *told = count;
                if more > 0 {
                    news.push((party, *reason, more));
                }
            }
        }
        news.sort_by_key(|(.., count)| std::cmp::Reverse(*count));
        news
    }
}

/// Logs what was dropped since the last time: the most frequent line by line, the rest in one.
pub(super) fn log(agent: &mut Agent, now: Instant) {
    let workers = &agent.workers;
    let news = agent.drops.news(now, || workers.by_party());
    for (party, reason, count) in news.iter().take(LINES) {
        let who = name(agent, *party);
        tracing::info!(count, %reason, %who, "dropped: {}", reason.explanation());
    }
    let rest: u64 = news.iter().skip(LINES).map(|(.., count)| count).sum();
    if rest > 0 {
        tracing::info!(count = rest, "dropped for other reasons, or of others");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(counts: [(Party, DropReason, u64); 2]) -> BTreeMap<Party, Balance> {
        let mut all: BTreeMap<Party, Balance> = BTreeMap::new();
        for (party, reason, count) in counts {
            all.entry(party).or_default().dropped[reason.index()] = count;
        }
        all
    }

    #[test]
    fn what_is_new_is_told_once_in_a_while() {
        let (pod, peer) = (Party::Endpoint(EndpointId(1)), Party::Peer([192, 168, 77, 2].into()));
        let (spoof, ecn) = (DropReason::SourceNotOwned, DropReason::EcnCongestionLost);
        let start = Instant::now();
        let mut log = Log::new(start);
        let early = log.news(start + INTERVAL / 2, || panic!("too early to look"));
        assert_eq!(early, []);
        let news = log.news(start + INTERVAL, || counted([(pod, spoof, 3), (peer, ecn, 5)]));
        assert_eq!(news, [(peer, ecn, 5), (pod, spoof, 3)]);
        // The endpoint's id is another's meanwhile, who begins at zero.
        let news = log.news(start + INTERVAL * 2, || counted([(pod, spoof, 1), (peer, ecn, 5)]));
        assert_eq!(news, [(pod, spoof, 1)]);
    }

    #[test]
    fn drops_are_listed_by_who_has_most() {
        let of = |count| {
            let mut balance = Balance::default();
            balance.dropped[DropReason::TtlZero.index()] = count;
            balance
        };
        let parties =
            vec![("default/a".into(), of(1)), ("default/b".into(), of(0)), ("node b".into(), of(7))];
        let counts = Counts { total: Tally::default(), parties };
        assert_eq!(counts.dropped_by(DropReason::TtlZero), [("node b", 7), ("default/a", 1)]);
        assert_eq!(counts.dropped_by(DropReason::Blackhole), []);
    }
}
