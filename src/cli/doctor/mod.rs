//! `margay doctor`: what this machine has of what margay uses, tried one by one, and which modes will work.

mod facility;
mod here;
mod inside;
mod modes;
mod page;
mod port;

use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

pub use facility::{Facility, Finding, State};
pub use modes::{Endpoints, Mode, Outlook, Privilege};

/// The port that is asked for: IANA's and Calico's.
const VXLAN_PORT: u16 = 4789;
/// How long the facilities that are tried in a child process may take, all of them.
const PATIENCE: Duration = Duration::from_secs(10);

/// Say which modes will work on this machine, what is missing for the others, and how to get it
///
/// Tries each facility that margay uses. Interfaces, tunnels and packets are tried in network namespaces made for it,
/// which are gone at the end; what is tried in this one (sockets, UDP port 4789) changes nothing and is closed
/// again. Run it as the user, and in the container, that margay will run in.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Exit status: 0 if pods on TAPs will reach other nodes by --mode, 1 if not.")]
pub struct Args {
    /// The mode that the exit status is about
    #[arg(long, value_enum, default_value_t = Mode::Vxlan)]
    mode: Mode,
    /// A table for people, or JSON for programs
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    Table,
    Json,
}

/// All that was found.
#[derive(Debug, Serialize)]
struct Report {
    margay: &'static str,
    /// Release of the kernel.
    kernel: String,
    machine: String,
    user: u32,
    /// The effective ones.
    capabilities: Vec<String>,
    facilities: Vec<Finding>,
    modes: Vec<Outlook>,
}

/// Tries everything, and prints what was found. Call it before any thread is started.
pub fn run(args: &Args) -> ExitCode {
    let report = examine();
    let text = match args.output {
        Form::Table => page::render(&report),
        // Strings, numbers and lists: there is nothing that JSON cannot have.
        Form::Json => serde_json::to_string_pretty(&report).unwrap_or_default() + "\n",
    };
    // A reader that has gone needs nothing.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
    let is_wanted = |outlook: &&Outlook| outlook.mode == args.mode && outlook.endpoints == Endpoints::Tap;
    match report.modes.iter().find(is_wanted) {
        Some(outlook) if outlook.works => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn examine() -> Report {
    // Child processes first: only a process with one thread can have them.
    let mut facilities = inside::findings();
    facilities.extend(here::findings());
    facilities.sort_by_key(|finding| Facility::ALL.iter().position(|facility| *facility == finding.facility));
    let names = nix::sys::utsname::uname().ok();
    let name = |of: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
        names.as_ref().map_or_else(String::new, |names| of(names).to_string_lossy().into_owned())
    };
    let held = caps::read(None, caps::CapSet::Effective).unwrap_or_default();
    let mut capabilities: Vec<String> = held.iter().map(ToString::to_string).collect();
    capabilities.sort_unstable();
    Report {
        margay: env!("CARGO_PKG_VERSION"),
        kernel: name(|names| names.release()),
        machine: name(|names| names.machine()),
        user: nix::unistd::geteuid().as_raw(),
        capabilities,
        modes: modes::outlook(&facilities),
        facilities,
    }
}
