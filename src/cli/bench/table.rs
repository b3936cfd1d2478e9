//! The results for a terminal.

use std::io::{self, Write};

use super::machine_facts::Facts;
use super::report::{Report, Row};
use super::{Args, ModeArg, UnderlayArg};
use crate::wire::Family;

/// Other work of so many cores is tolerated.
const QUIET: f64 = 0.1;

/// What is going to be measured, before it takes its time.
pub(super) fn announce(facts: &Facts, args: &Args, remarks: &[String]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for remark in remarks {
        writeln!(out, "{remark}")?;
    }
    if facts.debug_build {
        writeln!(out, "This is a debug build: its figures mean nothing. Build with --release.")?;
    }
    if Family::from(args.family) == Family::V6 && args.modes.contains(&ModeArg::Ipip) {
        writeln!(out, "Without margay-ipip: IPIP carries IPv4 only, as in Calico.")?;
    }
    writeln!(out, "{}", conditions(facts, args))
}

/// Machine and options in a line.
pub(super) fn conditions(facts: &Facts, args: &Args) -> String {
    let Facts { margay, kernel, cpu, cores, .. } = facts;
    let underlay = match args.underlay {
        UnderlayArg::Wire => "real 1,500-byte frames on the underlay",
        UnderlayArg::Veth => "super-frames on the underlay",
    };
    let family = Family::from(args.family);
    let Args { rounds, seconds, congestion, .. } = args;
    format!(
        "margay {margay}, Linux {kernel}, {cpu}, {}, {underlay}, {family}, TCP {congestion}, {} of {seconds} s",
        count(*cores, "core"),
        count(*rounds as usize, "round"),
    )
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// A block for each metric, a line for each contestant, units in the header.
pub(super) fn write(report: &Report<'_>, out: &mut dyn Write) -> io::Result<()> {
    for rows in report.by_metric() {
        let first = &rows[0];
        let per = first.cpu_per.map(|work| format!("s/{work}"));
        let (daemons, machine, memory) = match per.is_some() {
            true => ("daemons", "machine", "memory"),
            false => ("", "", "memory"),
        };
        let per = per.unwrap_or_default();
        let against = format!("to {}", first.reference.name());
        writeln!(out)?;
        let header = [
            [first.title, "median", "spread", "ratio", daemons, machine, memory],
            ["", first.unit, "%", &against, &per, &per, "MiB"],
        ];
        header.iter().try_for_each(|line| write_line(line, out))?;
        for row in rows {
            let cells = cells(row);
            write_line(&cells.each_ref().map(String::as_str), out)?;
        }
    }
    writeln!(out)?;
    disturbance(report).map_or(Ok(()), |warning| writeln!(out, "{warning}"))
}

/// A warning where the machine had so much else to do that the figures say more about that.
pub(super) fn disturbance(report: &Report<'_>) -> Option<String> {
    let others = report.others_cores;
    (others > QUIET).then(|| {
        format!(
            "Other processes kept {others:.1} of the machine's cores busy meanwhile: these figures are not margay's \
             nor the kernel's best. Measure again on a quiet machine."
        )
    })
}

/// What one row shows, without its title's column first.
pub(super) fn cells(row: &Row) -> [String; 7] {
    let number = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".into(), |value| format!("{value:.digits$}"))
    };
    let cost = |value| if row.cpu_per.is_some() { number(value, 3) } else { String::new() };
    [
        row.contestant.name().into(),
        number(row.median, if row.unit == "Gbit/s" { 2 } else { 1 }),
        number(row.spread_percent, 1),
        number(row.ratio, 2),
        cost(row.daemons_cpu),
        cost(row.machine_cpu),
        number(row.daemon_peak_mib, 1),
    ]
}

fn write_line(cells: &[&str; 7], out: &mut dyn Write) -> io::Result<()> {
    let [name, median, spread, ratio, daemons, machine, memory] = cells;
    let line = format!("  {name:<27}{median:>9}{spread:>9}{ratio:>17}{daemons:>10}{machine:>10}{memory:>9}");
    writeln!(out, "{}", line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::super::contestant::Contestant;
    use super::super::report::tests::{outcome, two};
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn units_stand_in_the_header_and_what_is_missing_is_a_dash() {
        let args = Line::parse_from(["bench"]).args;
        let facts = Facts::gather(2);
        let outcomes = [outcome(1, Contestant::KernelVxlan, 8.0), outcome(1, Contestant::MargayVxlan, 6.0)];
        let mut out = Vec::new();
        write(&Report::new(&facts, &args, &two(), &outcomes), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[2], ["Gbit/s", "%", "to", "kernel-vxlan", "s/Gbit", "s/Gbit", "MiB"]);
        assert_eq!(lines[3], ["kernel-vxlan", "8.00", "0.0", "1.00", "-", "0.500", "8.0"]);
        assert_eq!(lines[4], ["margay-vxlan", "6.00", "0.0", "0.75", "0.250", "0.500", "6.0"]);
        let ends = |line: &str, word: &str| line.find(word).map(|at| at + word.len());
        let all: Vec<&str> = text.lines().collect();
        assert!(text.contains("Other processes kept 0.2 of the machine's cores busy"), "{text}");
        assert_eq!(ends(all[1], "median"), ends(all[4], "6.00"), "{text}");
    }
}
