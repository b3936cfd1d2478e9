//! `margay demo`: two nodes and their pods on this machine, and what their packets look like on the way.

mod scene;
mod summary;

use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::time::Duration;

use crate::cli::machine::{self, AttachArg, Machine, MachineError};
use crate::cli::seconds;
use crate::testbed::{BedError, LabSpec, Mode, Stack, Topology};
use crate::wire::Family;
use scene::{OnWire, Outcome, Scene};

/// Build two nodes with two pods each on this machine and show their packets
///
/// Makes network namespaces of its own, starts a real daemon for each node, pings and moves TCP between
/// the pods, and shows routes, ARP or neighbour discovery for the gateway and the packets on the underlay with outer and inner
/// headers. Touches nothing of this machine's own network and leaves nothing behind. Needs root, or a
/// system that lets its users make user namespaces.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Exit status: 0 if everything that was shown worked, 1 if not.")]
pub struct Args {
    /// How packets travel between the nodes
    #[arg(long, value_enum, default_value_t = ModeArg::All)]
    pub mode: ModeArg,
    /// How pods are attached: by a TAP in the pod, or by a veth as Calico's CNI plugin makes it
    #[arg(long, value_enum, default_value_t = AttachArg::Auto)]
    pub attach: AttachArg,
    /// How long each TCP throughput is measured
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    pub seconds: f64,
}

/// What `--mode` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ModeArg {
    /// IP in IP, protocol 4
    Ipip,
    /// VXLAN on UDP port 4789
    Vxlan,
    /// No encapsulation
    None,
    /// IP in IP between subnets only
    CrossSubnet,
    /// Pods with IPv4 and IPv6, in VXLAN over each and without encapsulation
    DualStack,
    /// One after the other
    All,
}

/// Why the demo did not show what it is for.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The machine does not allow what it needs.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// Something that was shown did not work.
    #[error("the demo failed: {}", .0.join("; "))]
    Failed(Vec<String>),
    /// A lab could not be built.
    #[error(transparent)]
    Bed(#[from] BedError),
    /// Standard output takes no more.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

/// Runs the demo on standard output. Call it before any thread is started: without privileges it moves the
/// process to a user namespace, which only a process with one thread can do.
///
/// # Errors
/// What did not work, in one line; the rest was printed.
pub fn run(args: &Args) -> Result<(), DemoError> {
    let binary = std::env::current_exe()?;
    let machine = Machine::prepare(args.attach)?;
    machine::end_on_signals("demo")?;
    match show(args, &machine, binary, &mut io::stdout().lock()) {
        // The reader had enough (`margay demo | head`).
        Err(DemoError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

fn show(args: &Args, machine: &Machine, binary: PathBuf, out: &mut dyn Write) -> Result<(), DemoError> {
    for remark in &machine.remarks {
        writeln!(out, "{remark}")?;
    }
    // What leaves is shown as captures on both nodes see it.
    let arguments = [machine.arguments, &["--ipip-offload", "off"]].concat();
    let mut outcomes = Vec::new();
    for Show { title, spec, on_wire, family, .. } in shows(args.mode) {
        let scene = Scene {
            title,
            spec: LabSpec { attach: machine.attach, ..spec },
            on_wire,
            family,
            binary: &binary,
            arguments: &arguments,
            duration: Duration::from_secs_f64(args.seconds),
        };
        outcomes.push(scene.play(out)?);
    }
    summary::write(&outcomes, out)?;
    let failures: Vec<String> = outcomes.iter().filter_map(Outcome::failure).collect();
    if failures.is_empty() { Ok(()) } else { Err(DemoError::Failed(failures)) }
}

/// What is to be shown, and by which mode.
struct Show {
    mode: ModeArg,
    title: &'static str,
    spec: LabSpec,
    on_wire: OnWire,
    family: Family,
}

/// What each mode shows.
fn shows(mode: ModeArg) -> Vec<Show> {
    let v4 = |mode, title, spec, on_wire| Show { mode, title, spec, on_wire, family: Family::V4 };
    let v6 =
        |title, spec, on_wire| Show { mode: ModeArg::DualStack, title, spec, on_wire, family: Family::V6 };
    let routed = |mode| LabSpec { topology: Topology::Routed, ..LabSpec::new(mode) };
    let over_v4 = LabSpec { underlay: Stack::V4, ..LabSpec::dual(Mode::Vxlan) };
    let mut shows = vec![
        v4(ModeArg::Ipip, "IPIP", LabSpec::new(Mode::Ipip), OnWire::Ipip),
        v4(ModeArg::Vxlan, "VXLAN", LabSpec::new(Mode::Vxlan), OnWire::Vxlan),
        v4(ModeArg::None, "no encapsulation", LabSpec::new(Mode::None), OnWire::Plain),
        v4(
            ModeArg::CrossSubnet,
            "CrossSubnet, one subnet",
            LabSpec::new(Mode::IpipCrossSubnet),
            OnWire::Plain,
        ),
        v4(ModeArg::CrossSubnet, "CrossSubnet, two subnets", routed(Mode::IpipCrossSubnet), OnWire::Ipip),
        v6("IPv6 in VXLAN over IPv6", LabSpec::dual(Mode::Vxlan), OnWire::Vxlan),
        v6("IPv6 in VXLAN over IPv4", over_v4, OnWire::Vxlan),
        v6("IPv6, no encapsulation", LabSpec::dual(Mode::None), OnWire::Plain),
    ];
    shows.retain(|show| mode == ModeArg::All || mode == show.mode);
    shows
}
