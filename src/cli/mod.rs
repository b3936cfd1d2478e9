//! The commands.

pub mod check;
pub mod demo;
pub mod dissect;
pub mod routes;
pub mod run;

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
    Demo(demo::Args),
}

/// Parses the command line and carries it out.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::run(&args),
        Command::Demo(args) => match demo::run(&args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("margay: {error}");
                ExitCode::FAILURE
            }
        },
    }
}
