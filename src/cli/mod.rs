//! The commands.

pub mod asking;
pub mod bench;
pub mod capture;
pub mod check;
pub mod cleanup;
pub mod demo;
pub mod dissect;
pub mod doctor;
pub mod drops;
pub mod explain;
pub mod get;
pub mod machine;
mod manager;
pub mod manual;
pub mod reload;
mod routes;
pub mod run;
pub mod status;
mod table;
pub mod top;
pub mod trace;
pub mod version;

use std::fmt::Display;
use std::process::ExitCode;

use clap::Parser;

/// A userspace vRouter for pods, wire-compatible with Calico
///
/// Margay does what a Calico node does with its kernel (tunl0, vxlan.calico, proxy ARP for 169.254.1.1, routes) in
/// one ordinary process, for hosts whose kernel, privileges or sandbox forbid those.
#[derive(Debug, Parser)]
#[command(name = "margay", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Run(run::Args),
    Check(check::Args),
    Cleanup(cleanup::Args),
    Doctor(doctor::Args),
    Demo(demo::Args),
    Bench(bench::Args),
    Status(status::Args),
    Capture(capture::Args),
    Trace(trace::Args),
    Get(get::Args),
    Explain(explain::Args),
    Drops(drops::Args),
    Top(top::Args),
    Reload(reload::Args),
    Version(version::Args),
    Completions(manual::Completions),
    Man(manual::Man),
}

/// Parses the command line and carries it out.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::run(&args),
        Command::Cleanup(args) => exit(cleanup::run(args)),
        Command::Doctor(args) => doctor::run(&args),
        Command::Demo(args) => exit(demo::run(&args)),
        Command::Bench(args) => exit(bench::run(&args)),
        Command::Capture(args) => asking::exit("capture", capture::run(&args)),
        Command::Trace(args) => asking::exit("trace", trace::run(&args)),
        Command::Status(args) => asking::exit("status", status::run(&args)),
        Command::Get(args) => asking::exit("get", get::run(&args)),
        Command::Explain(args) => asking::exit("explain", explain::run(&args)),
        Command::Drops(args) => asking::exit("drops", drops::run(&args)),
        Command::Top(args) => top::run(&args),
        Command::Reload(args) => asking::exit("reload", reload::run(&args)),
        Command::Completions(args) => exit(manual::completions(&args)),
        Command::Man(args) => exit(manual::man(&args)),
        Command::Version(args) => asking::exit("version", version::run(&args)),
    }
}

fn exit(result: Result<(), impl Display>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("margay: {error}");
            ExitCode::FAILURE
        }
    }
}

/// How long something is measured.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=60.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number from 0.1 to 60".into()),
    }
}
