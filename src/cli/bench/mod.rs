//! `margay bench`: margay and the kernel side by side, on two nodes in namespaces of this machine.
//!
//! Everything is built anew for each contestant in each round, one after the other, so that a ratio compares
//! what was measured minutes apart and not hours.

mod contestant;
mod machine_facts;
mod measure;
mod metric;
mod outputs;
mod page;
mod plot;
mod progress;
mod report;
mod scene;
mod table;

use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::cli::machine::{self, AttachArg, Machine, MachineError};
use crate::cli::seconds;
use crate::sys::scheduling;
use crate::wire::Family;
use contestant::Contestant;
use machine_facts::Facts;
use metric::Test;
use outputs::Outputs;
use progress::Progress;
use report::{Outcome, Report};
use scene::Stage;

/// Measure margay beside the kernel's routing and VXLAN on this machine
///
/// Builds two nodes with pods in network namespaces of its own, moves TCP and UDP from pod to pod by margay (a real
/// daemon on each node), by the kernel's VXLAN and by its plain routing, all of them in every round, and shows
/// medians, spread and the ratio to kernel VXLAN. Touches nothing of this machine's own network and leaves nothing
/// behind. Needs root, or a system that lets its users make user namespaces.
#[derive(Debug, Clone, clap::Args, serde::Serialize)]
#[command(after_help = "\
Other work on the machine spoils the figures: watch the spread. Exit status: 0 if everything was measured, 1 if not.")]
pub struct Args {
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// How long each measurement takes; the search for the highest rate without loss takes several of half as long
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    pub seconds: f64,
    /// Margay's modes, separated by commas
    #[arg(long, value_enum, value_name = "MODE,…", value_delimiter = ',', default_value = "vxlan,ipip,none")]
    pub modes: Vec<ModeArg>,
    /// What the traffic between the pods is; for IPv6, pods and nodes have both families
    #[arg(long, value_enum, default_value_t = FamilyArg::Ipv4)]
    pub family: FamilyArg,
    /// What to measure, separated by commas
    #[arg(
        long,
        value_enum,
        value_name = "TEST,…",
        value_delimiter = ',',
        default_value = "tcp1,tcp4,udp,rtt,local"
    )]
    pub tests: Vec<Test>,
    /// What crosses the cable between the nodes
    #[arg(long, value_enum, default_value_t = UnderlayArg::Wire)]
    pub underlay: UnderlayArg,
    /// How margay's pods are attached: by a TAP in the pod, or by a veth as Calico's CNI plugin makes it
    #[arg(long, value_enum, default_value_t = AttachArg::Auto)]
    pub attach: AttachArg,
    /// Keep everything, senders and receivers too, to so many cores [default: all]
    #[arg(long, value_name = "N")]
    pub cores: Option<NonZeroUsize>,
    /// Worker threads of each daemon [default: half the cores, as two nodes share them]
    #[arg(long, value_name = "N")]
    pub workers: Option<NonZeroUsize>,
    /// TCP congestion control
    #[arg(long, value_name = "NAME", default_value = "cubic")]
    pub congestion: String,
    /// Write every figure to this file (docs/bench.md has the schema); rewritten after each round
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a page with plots to this file, complete in itself; rewritten after each round
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// What `--modes` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModeArg {
    /// VXLAN on UDP port 4789, over the traffic's own family
    Vxlan,
    /// VXLAN over the other family, as between nodes that have no other
    VxlanOther,
    /// IP in IP, protocol 4; of IPv4 only
    Ipip,
    /// No encapsulation
    None,
}

/// What `--family` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FamilyArg {
    /// IPv4
    Ipv4,
    /// IPv6
    Ipv6,
}

impl From<FamilyArg> for Family {
    fn from(family: FamilyArg) -> Self {
        match family {
            FamilyArg::Ipv4 => Self::V4,
            FamilyArg::Ipv6 => Self::V6,
        }
    }
}

/// What `--underlay` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnderlayArg {
    /// Real frames of 1,500 bytes, as on a NIC: segmentation offloads off, GRO on
    Wire,
    /// A veth as it is: super-frames of 64 KB cross it uncut, which flatters the kernel most
    Veth,
}

/// Why not everything was measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The machine does not allow what is needed.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// `--cores` asks for more than there are.
    #[error("--cores {wanted}: this process may use {there} of the machine's cores: ask for 1 to {there}")]
    Cores {
        /// What was asked for.
        wanted: usize,
        /// What there is.
        there: usize,
    },
    /// A file for the results.
    #[error("{path}: {source}: name a file in a directory that can be written to")]
    File {
        /// Which.
        path: PathBuf,
        /// The system's word on it.
        source: io::Error,
    },
    /// Some measurements failed.
    #[error("not everything could be measured: {}", .0.join("; "))]
    Failed(Vec<String>),
    /// Standard output takes no more, or a facility of the system fails.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Runs the benchmark on standard output, progress on standard error. Call it before any thread is started: without
/// privileges it moves the process to a user namespace, which only a process with one thread can do.
///
/// # Errors
/// What could not be measured; the rest was printed.
pub fn run(args: &Args) -> Result<(), BenchError> {
    let binary = std::env::current_exe()?;
    let machine = Machine::prepare(args.attach)?;
    let outputs = Outputs::open(args)?;
    let cores = keep_to(args.cores)?;
    machine::end_on_signals("bench")?;
    let facts = Facts::gather(cores);
    table::announce(&facts, args, &machine.remarks)?;

    let stage = Stage {
        binary: &binary,
        family: args.family.into(),
        attach: machine.attach,
        arguments: daemon_arguments(args, &machine, cores),
        real_frames: args.underlay == UnderlayArg::Wire,
        duration: Duration::from_secs_f64(args.seconds),
        congestion: &args.congestion,
    };
    let entries = contestant::entries(args.family.into(), &args.modes, &args.tests);
    let progress = Progress::new(args.rounds, &entries);
    let mut outcomes: Vec<Outcome> = Vec::new();
    for round in 1..=args.rounds {
        for (contestant, tests) in order(&entries, round) {
            for (test, figures) in
                stage.play(*contestant, tests, |test| progress.show(round, *contestant, test))
            {
                outcomes.push(Outcome { round, contestant: *contestant, test, figures });
            }
        }
        outputs.write(&Report::new(&facts, args, &entries, &outcomes))?;
    }
    progress.finish();

    table::write(&Report::new(&facts, args, &entries, &outcomes), &mut io::stdout().lock())?;
    let failures: Vec<String> = outcomes.iter().filter_map(Outcome::failure).collect();
    if failures.is_empty() { Ok(()) } else { Err(BenchError::Failed(failures)) }
}

/// Keeps this process and all that it starts to the first of its cores; says how many.
fn keep_to(wanted: Option<NonZeroUsize>) -> Result<usize, BenchError> {
    let there = scheduling::cores()?;
    let Some(wanted) = wanted.map(NonZeroUsize::get) else { return Ok(there.len()) };
    let chosen = there.get(..wanted).ok_or(BenchError::Cores { wanted, there: there.len() })?;
    scheduling::pin(chosen)?;
    Ok(wanted)
}

fn daemon_arguments(args: &Args, machine: &Machine, cores: usize) -> Vec<String> {
    let mut all: Vec<String> = machine.arguments.iter().map(ToString::to_string).collect();
    let workers = args.workers.map_or((cores / 2).max(1), NonZeroUsize::get);
    all.extend(["--workers".into(), workers.to_string()]);
    all
}

/// Who plays when: the reference first, the others in turns, so that nobody always comes after the same one.
fn order(entries: &[(Contestant, Vec<Test>)], round: u32) -> impl Iterator<Item = &(Contestant, Vec<Test>)> {
    let (first, others) = entries.split_at(entries.len().min(1));
    let turn = (round as usize - 1) % others.len().max(1);
    first.iter().chain(&others[turn..]).chain(&others[..turn])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_begins_each_round_and_the_others_take_turns() {
        let entries = contestant::entries(Family::V4, &[ModeArg::Vxlan, ModeArg::None], &[Test::Tcp1]);
        let names = |round| -> Vec<&str> { order(&entries, round).map(|(entry, _)| entry.name()).collect() };
        assert_eq!(names(1), ["kernel-vxlan", "kernel-route", "margay-vxlan", "margay-none"]);
        assert_eq!(names(3), ["kernel-vxlan", "margay-none", "kernel-route", "margay-vxlan"]);
        assert_eq!(names(4), names(1));
    }
}
