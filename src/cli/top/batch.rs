//! Tables with plain numbers, for files and pipes.

use std::io::{self, Write as _};
use std::num::NonZeroU32;
use std::thread;
use std::time::Duration;

use super::rates::{COLUMNS, NAMES, Path, Picture, Reading, Row};
use super::state::{Sort, sorted};
use crate::agent::view::{Reason, Share};
use crate::cli::asking::AskError;
use crate::cli::table;
use crate::control::client::Client;

/// Prints so many tables, each of an interval.
pub(super) fn print(client: &Client, interval: Duration, count: NonZeroU32) -> Result<(), AskError> {
    let mut before = Reading::take(client)?;
    for _ in 0..count.get() {
        thread::sleep(interval);
        let now = Reading::take(client)?;
        io::stdout().lock().write_all(text(&Picture::of(Some(&before), &now)).as_bytes())?;
        before = now;
    }
    Ok(())
}

fn text(picture: &Picture) -> String {
    let Picture { title, health, uptime, problems, endpoints, peers, drops, .. } = picture;
    let mut out = format!("{title}: {health}, {uptime}\n");
    problems.iter().for_each(|problem| out += &format!("PROBLEM {problem}\n"));
    let [a, b, c, d, e, f] = NAMES;
    let rows = sorted(endpoints, Sort::Received, "").into_iter();
    let rows = rows.map(|row| {
        let [a, b, c, d, e, f] = numbers(row);
        [a, b, c, d, e, f, row.name.clone()]
    });
    let of_endpoints = table::render([a, b, c, d, e, f, "ENDPOINT"], rows.collect());
    let rows = sorted(peers, Sort::Received, "").into_iter();
    let rows = rows.map(|row| {
        let [a, b, c, d, e, f] = numbers(row);
        [a, b, c, d, e, f, or_dash(&row.how), path(row.path), row.name.clone()]
    });
    let of_peers = table::render([a, b, c, d, e, f, "HOW", "MTU", "PEER"], rows.collect());
    let of_drops = table::render(["DROPS/S", "TOTAL", "REASON", "WITH"], drops.iter().map(dropped).collect());
    for table in [of_endpoints, of_peers, of_drops].iter().filter(|table| !table.is_empty()) {
        out += "\n";
        out += table;
    }
    out + "\n"
}

fn numbers(row: &Row) -> [String; COLUMNS] {
    row.rates
        .map_or_else(|| std::array::from_fn(|_| "-".into()), |rates| rates.map(|rate| format!("{rate:.1}")))
}

fn dropped(reason: &Reason) -> [String; 4] {
    let rate = reason.per_second.map_or_else(|| "-".into(), |rate| format!("{rate:.1}"));
    [rate, reason.count.to_string(), reason.reason.clone(), with(&reason.with)]
}

/// With whom drops are counted: `default/pod-a 12, node-b 3`.
pub(super) fn with(shares: &[Share]) -> String {
    let shares: Vec<_> = shares.iter().map(|Share { who, count }| format!("{who} {count}")).collect();
    shares.join(", ")
}

/// As it stands in its column.
pub(super) fn path(path: Path) -> String {
    match path {
        Path::None => "-".into(),
        Path::Takes(bytes) => bytes.to_string(),
        Path::Broken => "BROKEN".into(),
    }
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::super::rates::tests::{party, reading, reason};
    use super::*;
    use crate::agent::view::Kind;

    #[test]
    fn a_table_has_plain_numbers_and_who_moves_most_first() {
        let pods = |a, b| vec![party(Kind::Endpoint, "pod-a", a), party(Kind::Endpoint, "pod-b", b)];
        let before = reading(1_000, pods([0; COLUMNS], [0; COLUMNS]));
        let mut after = reading(3_000, pods([1, 100, 0, 0, 0, 0], [200_000, 20_000_000, 3, 300, 2, 0]));
        after.drops.reasons = vec![reason("blackhole", 2)];
        after.status.problems = vec!["endpoint default/pod-c is not attached".into()];
        let expected = "\
margay 0.1.0 on node node-a: good, up 00:01:02
PROBLEM endpoint default/pod-c is not attached

RECEIVED/S       BIT/S  SENT/S   BIT/S  DROPS/S  PUNTS/S  ENDPOINT
  100000.0  80000000.0     1.5  1200.0      1.0      0.0  default/pod-b
       0.5       400.0     0.0     0.0      0.0      0.0  default/pod-a

RECEIVED/S  BIT/S  SENT/S  BIT/S  DROPS/S  PUNTS/S  HOW     MTU  PEER
       0.0    0.0     0.0    0.0      0.0      0.0  vxlan  1500  node-b

DROPS/S  TOTAL  REASON     WITH
    1.0      2  blackhole  default/pod-a 2

";
        assert_eq!(text(&Picture::of(Some(&before), &after)), expected);
    }
}
