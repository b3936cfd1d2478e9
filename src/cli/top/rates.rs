//! From two readings to what passed a second, by whom.

use std::collections::BTreeMap;

use crate::agent::view::{Counted, Counters, Drops, Health, Kind, Peer, Reason, Status, Traffic};
use crate::cli::status::period;
use crate::control::client::{Client, ClientError};

/// All that is shown, as the daemon says it.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub(super) status: Status,
    pub(super) counters: Counters,
    pub(super) peers: Vec<Peer>,
    pub(super) drops: Drops,
}

/// How many numbers are told of everybody.
pub(super) const COLUMNS: usize = 6;
pub(super) const RECEIVED_BITS: usize = 1;
pub(super) const SENT_BITS: usize = 3;
pub(super) const DROPPED: usize = 4;
const PUNTED: usize = 5;
/// What they are. Received is what the party handed in.
pub(super) const NAMES: [&str; COLUMNS] = ["RECEIVED/S", "BIT/S", "SENT/S", "BIT/S", "DROPS/S", "PUNTS/S"];

/// Frames and bits a second, in the order of [`NAMES`].
pub(super) type Rates = [f64; COLUMNS];

/// An endpoint, a peer, or who else frames are counted with.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    /// An endpoint's workload, a node.
    pub(super) name: String,
    /// Found by the filter as well.
    pub(super) alias: String,
    /// A peer's encapsulations.
    pub(super) how: String,
    /// What a peer's path takes, bytes.
    pub(super) path: Path,
    /// None without an earlier reading.
    pub(super) rates: Option<Rates>,
}

/// The underlay's way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    /// Who the row tells of is no peer.
    None,
    /// Greatest outer packet, bytes.
    Takes(u16),
    /// ICMP errors say so.
    Broken,
}

/// What is to be seen after a reading.
#[derive(Debug, Clone)]
pub(super) struct Picture {
    /// `margay 0.1.0 on node node-a`
    pub(super) title: String,
    pub(super) health: Health,
    /// `up 00:01:02`
    pub(super) uptime: String,
    pub(super) problems: Vec<String>,
    pub(super) total: Option<Rates>,
    pub(super) endpoints: Vec<Row>,
    pub(super) peers: Vec<Row>,
    /// Most a second first.
    pub(super) drops: Vec<Reason>,
}

impl Reading {
    /// Asks for one.
    pub(super) fn take(client: &Client) -> Result<Self, ClientError> {
        Ok(Reading {
            status: client.get("/v1/status")?,
            counters: client.get("/v1/counters")?,
            peers: client.get("/v1/peers")?,
            drops: client.get("/v1/drops")?,
        })
    }

    /// The same daemon's, earlier.
    fn follows(&self, before: &Reading) -> bool {
        self.status.pid == before.status.pid
            && self.counters.uptime_milliseconds > before.counters.uptime_milliseconds
    }
}

impl Picture {
    /// What `now` says, with what came to pass since `before`.
    pub(super) fn of(before: Option<&Reading>, now: &Reading) -> Self {
        let before = before.filter(|before| now.follows(before));
        let since = before.map(|before| Since::new(&before.counters, &now.counters));
        let Status { version, node, health, problems, uptime_seconds, .. } = &now.status;
        let drops = match before {
            Some(before) => now.drops.clone().since(&before.drops),
            None => now.drops.clone(),
        };
        Picture {
            title: format!("margay {version} on node {node}"),
            health: *health,
            uptime: format!("up {}", period(*uptime_seconds)),
            problems: problems.clone(),
            total: since.as_ref().map(Since::total),
            endpoints: endpoints(since.as_ref(), now),
            peers: peers(since.as_ref(), now),
            drops: most_first(drops.reasons),
        }
    }
}

fn endpoints(since: Option<&Since<'_>>, now: &Reading) -> Vec<Row> {
    let all = now.counters.parties.iter().filter(|party| party.kind == Kind::Endpoint);
    let row = |party: &Counted| Row {
        name: party.workload.clone().unwrap_or_else(|| party.name.clone()),
        alias: party.name.clone(),
        how: String::new(),
        path: Path::None,
        rates: since.map(|since| since.of(Kind::Endpoint, &party.name)),
    };
    all.map(row).collect()
}

/// The peers, and the rest that is no endpoint: the underlay where it is no peer, and this node's kernel.
fn peers(since: Option<&Since<'_>>, now: &Reading) -> Vec<Row> {
    let peer = |peer: &Peer| Row {
        name: peer.name.clone(),
        alias: peer.addresses.join(" "),
        how: peer.encapsulations.join(" "),
        path: match peer.fault {
            Some(_) => Path::Broken,
            None => Path::Takes(peer.takes()),
        },
        rates: since.map(|since| since.of(Kind::Peer, &peer.name)),
    };
    let rest = [(Kind::Underlay, "(the underlay)"), (Kind::Host, "(this node's kernel)")];
    let rest = rest.into_iter().filter(|(kind, _)| is_counted(&now.counters, *kind));
    let rest = rest.map(|(kind, name)| Row {
        name: name.into(),
        alias: String::new(),
        how: String::new(),
        path: Path::None,
        rates: since.map(|since| since.of(kind, "")),
    });
    now.peers.iter().map(peer).chain(rest).collect()
}

fn is_counted(counters: &Counters, kind: Kind) -> bool {
    counters.parties.iter().any(|party| party.kind == kind && counts(party) != [0; COLUMNS])
}

/// Two readings of the counters.
struct Since<'a> {
    seconds: f64,
    before: Counts<'a>,
    now: Counts<'a>,
}

type Counts<'a> = BTreeMap<(Kind, &'a str), [u64; COLUMNS]>;

impl<'a> Since<'a> {
    fn new(before: &'a Counters, now: &'a Counters) -> Self {
        let all = |of: &'a Counters| -> Counts<'a> {
            of.parties.iter().map(|party| ((party.kind, &*party.name), counts(party))).collect()
        };
        let milliseconds = now.uptime_milliseconds.saturating_sub(before.uptime_milliseconds);
        Since { seconds: milliseconds as f64 / 1e3, before: all(before), now: all(now) }
    }

    fn of(&self, kind: Kind, name: &str) -> Rates {
        let of = |all: &Counts<'_>| all.get(&(kind, name)).copied().unwrap_or_default();
        self.rates(of(&self.before), of(&self.now))
    }

    /// Those who are gone among them: their counts are kept.
    fn total(&self) -> Rates {
        let sum = |all: &Counts<'_>| {
            let add = |sum: [u64; COLUMNS], one: &[u64; COLUMNS]| {
                std::array::from_fn(|column| sum[column].saturating_add(one[column]))
            };
            all.values().fold([0; COLUMNS], add)
        };
        self.rates(sum(&self.before), sum(&self.now))
    }

    /// Who was not there before, or began anew since, began at zero.
    fn rates(&self, before: [u64; COLUMNS], now: [u64; COLUMNS]) -> Rates {
        std::array::from_fn(|column| {
            let more = now[column].checked_sub(before[column]).unwrap_or(now[column]);
            let unit = if column == RECEIVED_BITS || column == SENT_BITS { 8.0 } else { 1.0 };
            more as f64 * unit / self.seconds
        })
    }
}

/// In the order of [`NAMES`], but bytes for bits.
fn counts(party: &Counted) -> [u64; COLUMNS] {
    let frames = |traffic: &Traffic| traffic.frames;
    let bytes = |traffic: &Traffic| traffic.bytes;
    let mut counts = [0; COLUMNS];
    counts[0] = party.received.values().map(frames).sum();
    counts[RECEIVED_BITS] = party.received.values().map(bytes).sum();
    counts[2] = party.sent.values().map(frames).sum();
    counts[SENT_BITS] = party.sent.values().map(bytes).sum();
    counts[DROPPED] = party.dropped.values().sum();
    counts[PUNTED] = party.punted.values().sum();
    counts
}

fn most_first(mut reasons: Vec<Reason>) -> Vec<Reason> {
    let rate = |reason: &Reason| reason.per_second.unwrap_or(0.0);
    reasons.sort_by(|a, b| rate(b).total_cmp(&rate(a)).then(b.count.cmp(&a.count)));
    reasons
}

/// Three digits and what they are counted in: `0`, `0.5`, `17`, `1.23k`, `45.6M`.
pub(super) fn scaled(number: f64) -> String {
    let mut rest = number;
    let mut unit = "";
    for next in ["k", "M", "G", "T", "P"] {
        // What would be rounded to four digits.
        if rest < 999.5 {
            break;
        }
        (rest, unit) = (rest / 1000.0, next);
    }
    let decimals = match (rest, unit) {
        (rest, "") if !(0.05..9.95).contains(&rest) => 0,
        (_, "") => 1,
        (rest, _) if rest < 9.995 => 2,
        (rest, _) if rest < 99.95 => 1,
        _ => 0,
    };
    format!("{rest:.decimals$}{unit}")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::agent::view::{PathMtu, Share};

    /// A reading after so many milliseconds.
    pub(in crate::cli::top) fn reading(uptime_milliseconds: u64, parties: Vec<Counted>) -> Reading {
        let status = r#"{"version": "0.1.0", "node": "node-a", "pid": 7, "health": "good", "problems": [],
            "uptime_seconds": 62, "resources": "/etc/margay", "resources_read_seconds_ago": 1,
            "underlays": [{"address": "192.168.77.1", "subnet": "192.168.77.0/24", "interface": "eth0", "mtu": 1500}],
            "workers": {"count": 2, "spin_microseconds": 0}, "uses": [], "endpoint_mtu": 1450,
            "endpoint_mtu_because": "underlay", "mss_clamped": [],
            "numbers": {"peers": 1, "peers_broken": 0, "routes": 6, "blocks": 1, "endpoints_attached": 1,
                "endpoints_missing": 0, "fib_bytes": 1},
            "frames": {"input": 1, "sent": 1, "punted": 0, "dropped": 0}}"#;
        let peer = r#"[{"name": "node-b", "addresses": ["192.168.77.2"], "encapsulations": ["vxlan"], "routes": 2,
            "underlay_mtus": [1500], "path_mtu": null, "fault": null, "ipip_tunnel_address": null,
            "vxlan_tunnel_addresses": [], "vtep_macs": ["66:00:00:00:00:01"],
            "received": {}, "sent": {}, "punted": 0, "dropped": 0}]"#;
        Reading {
            status: serde_json::from_str(status).unwrap(),
            counters: Counters { uptime_milliseconds, parties },
            peers: serde_json::from_str(peer).unwrap(),
            drops: Drops { uptime_milliseconds, input: 0, dropped: 0, reasons: Vec::new() },
        }
    }

    /// Counts in the order of [`NAMES`], but bytes for bits.
    pub(in crate::cli::top) fn party(kind: Kind, name: &str, counts: [u64; COLUMNS]) -> Counted {
        let [frames_in, bytes_in, frames_out, bytes_out, dropped, punted] = counts;
        let traffic = |frames, bytes| BTreeMap::from([("plain".to_owned(), Traffic { frames, bytes })]);
        Counted {
            kind,
            name: name.into(),
            workload: (kind == Kind::Endpoint).then(|| format!("default/{name}")),
            received: traffic(frames_in, bytes_in),
            sent: traffic(frames_out, bytes_out),
            punted: BTreeMap::from([("ttl_one".to_owned(), punted)]),
            dropped: BTreeMap::from([("blackhole".to_owned(), dropped)]),
        }
    }

    /// What was dropped, without rate.
    pub(in crate::cli::top) fn reason(name: &str, count: u64) -> Reason {
        Reason {
            reason: name.into(),
            count,
            per_second: None,
            explanation: String::new(),
            with: vec![Share { who: "default/pod-a".into(), count }],
            last: Vec::new(),
        }
    }

    #[test]
    fn rates_are_what_came_since_the_earlier_reading() {
        let before = reading(1_000, vec![party(Kind::Endpoint, "pod-a", [10, 1_000, 20, 2_000, 1, 2])]);
        let after = reading(3_000, vec![party(Kind::Endpoint, "pod-a", [14, 1_500, 30, 2_000, 2, 2])]);
        let picture = Picture::of(Some(&before), &after);
        let row = &picture.endpoints[0];
        assert_eq!((&*row.name, &*row.alias), ("default/pod-a", "pod-a"));
        assert_eq!(row.rates, Some([2.0, 2_000.0, 5.0, 0.0, 0.5, 0.0]));
        assert_eq!(picture.total, row.rates);
        assert_eq!(picture.peers[0].rates, Some([0.0; COLUMNS]), "nothing is counted with the peer yet");
    }

    #[test]
    fn without_an_earlier_reading_of_the_same_daemon_there_is_no_rate() {
        let now = reading(1_000, vec![party(Kind::Endpoint, "pod-a", [9; COLUMNS])]);
        assert_eq!(Picture::of(None, &now).endpoints[0].rates, None);
        assert_eq!(Picture::of(Some(&now), &now).total, None, "no time has passed");
        let later_began = reading(5_000, Vec::new());
        assert_eq!(Picture::of(Some(&later_began), &now).total, None, "the daemon began anew");
        let mut other = reading(500, Vec::new());
        other.status.pid = 8;
        assert_eq!(Picture::of(Some(&other), &now).total, None, "another daemon");
    }

    #[test]
    fn who_is_new_or_began_anew_began_at_zero() {
        let before = reading(1_000, vec![party(Kind::Endpoint, "pod-a", [100; COLUMNS])]);
        let parties = vec![
            party(Kind::Endpoint, "pod-a", [3, 30, 0, 0, 0, 0]),
            party(Kind::Endpoint, "pod-b", [5, 50, 0, 0, 0, 0]),
        ];
        let rows = Picture::of(Some(&before), &reading(2_000, parties)).endpoints;
        assert_eq!(rows[0].rates, Some([3.0, 240.0, 0.0, 0.0, 0.0, 0.0]));
        assert_eq!(rows[1].rates, Some([5.0, 400.0, 0.0, 0.0, 0.0, 0.0]));
    }

    #[test]
    fn a_peers_path_is_what_is_known_of_it() {
        let mut now = reading(
            1_000,
            vec![party(Kind::Host, "", [1; COLUMNS]), party(Kind::Underlay, "", [0; COLUMNS])],
        );
        let paths = |reading: &Reading| {
            let rows = Picture::of(None, reading).peers;
            rows.into_iter().map(|row| (row.name, row.path)).collect::<Vec<_>>()
        };
        let kernel = ("(this node's kernel)".to_owned(), Path::None);
        assert_eq!(paths(&now), [("node-b".into(), Path::Takes(1500)), kernel.clone()]);
        now.peers[0].path_mtu = Some(PathMtu { bytes: 1400, because: String::new(), for_seconds: 9 });
        assert_eq!(paths(&now)[0].1, Path::Takes(1400));
        now.peers[0].fault = Some(crate::agent::view::Fault { what: String::new(), for_seconds: 9 });
        assert_eq!(paths(&now)[0].1, Path::Broken);
    }

    #[test]
    fn what_is_dropped_most_now_stands_first() {
        let mut before = reading(1_000, Vec::new());
        before.drops.reasons = vec![reason("blackhole", 100), reason("ttl_zero", 1)];
        let mut after = reading(2_000, Vec::new());
        after.drops.reasons = vec![reason("blackhole", 101), reason("ttl_zero", 4), reason("no_route", 1)];
        let drops = Picture::of(Some(&before), &after).drops;
        let rates: Vec<_> = drops.iter().map(|drop| (&*drop.reason, drop.per_second)).collect();
        assert_eq!(rates, [("ttl_zero", Some(3.0)), ("blackhole", Some(1.0)), ("no_route", Some(1.0))]);
    }

    #[test]
    fn a_number_has_three_digits_at_most() {
        let cases = [
            (0.0, "0"),
            (0.04, "0"),
            (0.5, "0.5"),
            (9.94, "9.9"),
            (9.96, "10"),
            (999.4, "999"),
            (999.6, "1.00k"),
            (1_234.0, "1.23k"),
            (9_996.0, "10.0k"),
            (99_960.0, "100k"),
            (999_499.0, "999k"),
            (999_500.0, "1.00M"),
            (12.3e9, "12.3G"),
            (4e12, "4.00T"),
            (u64::MAX as f64, "18447P"),
        ];
        for (number, text) in cases {
            assert_eq!(scaled(number), text, "{number}");
        }
    }
}
