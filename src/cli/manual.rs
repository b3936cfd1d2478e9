//! `margay completions` and `margay man`: what packages install beside the program.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;

/// Print a completion script for a shell
///
/// For bash: margay completions bash > /usr/share/bash-completion/completions/margay
#[derive(Debug, Clone, clap::Args)]
pub struct Completions {
    /// For which shell
    shell: Shell,
}

/// Write the manual pages, one for each command
#[derive(Debug, Clone, clap::Args)]
pub struct Man {
    /// Where to: margay.1, margay-run.1 and so on
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub(super) fn completions(args: &Completions) -> Result<(), String> {
    // Whole first: what writes it does not expect a reader that has had enough.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "margay", &mut script);
    io::stdout().write_all(&script).map_err(|error| format!("cannot write the script: {error}"))
}

pub(super) fn man(args: &Man) -> Result<(), String> {
    let directory = &args.directory;
    clap_mangen::generate_to(Cli::command(), directory)
        .map_err(|error| format!("cannot write manual pages to {}: {error}", directory.display()))
}
