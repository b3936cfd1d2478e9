//! What the commands that ask a daemon have in common: whom they ask, and how they print what it says.

use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use crate::control::client::{Client, ClientError};
use crate::control::{DEFAULT_SOCKET, SOCKET_VARIABLE};

/// Whom to ask.
#[derive(Debug, Clone, clap::Args)]
pub struct Whom {
    /// Control socket of the daemon
    #[arg(long, env = SOCKET_VARIABLE, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    control_socket: PathBuf,
}

impl Whom {
    /// Who answers.
    pub(super) fn client(&self) -> Result<Client, AskError> {
        Client::new(&self.control_socket).map_err(AskError::System)
    }

    /// Where it listens.
    pub(super) fn socket(&self) -> &Path {
        &self.control_socket
    }
}

/// Whom to ask, and how to print what it says.
#[derive(Debug, Clone, clap::Args)]
pub struct Asking {
    #[command(flatten)]
    whom: Whom,
    /// How to print the answer: for people or for programs
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// As the daemon sends it
    Json,
    /// The same as YAML
    Yaml,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("cannot ask: {0}")]
    System(#[source] io::Error),
    #[error("cannot write the answer: {0}")]
    Output(#[from] io::Error),
    #[error("cannot write the answer: {0}")]
    Form(String),
    #[error("{0}")]
    Far(String),
    #[error("standard output is no terminal: --batch COUNT prints tables")]
    NoTerminal,
    #[error("the terminal does not do what is asked of it: {0}")]
    Terminal(#[source] io::Error),
}

impl Asking {
    /// Who answers.
    pub(super) fn client(&self) -> Result<Client, AskError> {
        self.whom.client()
    }

    /// Where it listens.
    pub(super) fn socket(&self) -> &Path {
        self.whom.socket()
    }

    /// How answers are printed.
    pub(super) fn format(&self) -> Format {
        self.output
    }

    /// Prints an answer; `table` is how people read it.
    pub(super) fn print<T: Serialize>(
        &self,
        answer: &T,
        table: impl FnOnce(&T) -> String,
    ) -> Result<(), AskError> {
        let text = match self.output {
            Format::Table => table(answer),
            Format::Json => serde_json::to_string_pretty(answer).map_err(unsaid)? + "\n",
            Format::Yaml => serde_saphyr::to_string(answer).map_err(unsaid)?,
        };
        Ok(io::stdout().lock().write_all(text.as_bytes())?)
    }
}

pub(super) fn unsaid(error: impl std::fmt::Display) -> AskError {
    AskError::Form(error.to_string())
}

/// Ends a command of this name.
pub(super) fn exit(command: &str, result: Result<(), AskError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader had enough (`margay get routes | head`).
        Err(AskError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            error.to_string().lines().for_each(|line| eprintln!("margay {command}: {line}"));
            ExitCode::FAILURE
        }
    }
}
