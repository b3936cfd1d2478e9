//! The table at the end.

use std::io::{self, Write};
use std::time::Duration;

use super::scene::Outcome;

/// A line for each mode: what was on the wire, how fast, and whether all went well.
pub(super) fn write(outcomes: &[Outcome], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\n━━ summary {:━<81}\n", "")?;
    writeln!(
        out,
        "  {:<26}{:<9}{:>13}{:>13}{:>15}{:>15}",
        "", "on the", "round trip", "round trip", "TCP", "TCP"
    )?;
    writeln!(
        out,
        "  {:<26}{:<9}{:>13}{:>13}{:>15}{:>15}",
        "mode", "underlay", "one node", "across", "one node", "across"
    )?;
    for outcome in outcomes {
        writeln!(
            out,
            "  {:<26}{:<9}{:>13}{:>13}{:>15}{:>15}  {}",
            outcome.title,
            outcome.on_wire.name(),
            time(outcome.local.round_trip),
            time(outcome.remote.round_trip),
            speed(outcome.local.bits_per_second),
            speed(outcome.remote.bits_per_second),
            if outcome.failures.is_empty() { "ok" } else { "FAILED" },
        )?;
    }
    writeln!(out)
}

fn time(round_trip: Option<Duration>) -> String {
    round_trip.map_or_else(|| "-".into(), |time| format!("{:.3} ms", time.as_secs_f64() * 1e3))
}

fn speed(bits_per_second: Option<f64>) -> String {
    bits_per_second.map_or_else(|| "-".into(), |bits| format!("{:.2} Gbit/s", bits / 1e9))
}

#[cfg(test)]
mod tests {
    use super::super::scene::{Figures, OnWire};
    use super::*;

    #[test]
    fn what_could_not_be_measured_is_a_dash() {
        let outcome = Outcome {
            title: "VXLAN",
            on_wire: OnWire::Vxlan,
            local: Figures { round_trip: Some(Duration::from_micros(83)), bits_per_second: Some(1.234e9) },
            remote: Figures::default(),
            failures: vec!["ping".into()],
        };
        let mut out = Vec::new();
        write(&[outcome], &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let line = text.lines().find(|line| line.contains("VXLAN")).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words, ["VXLAN", "VXLAN", "0.083", "ms", "-", "1.23", "Gbit/s", "-", "FAILED"]);
    }
}
