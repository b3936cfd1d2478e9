//! `margay version`: of this program and of the daemon that runs.

use super::asking::{AskError, Asking};
use crate::control::Version;
use crate::control::client::ClientError;

/// Show the version of this program, and of the daemon if one runs
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    asking: Asking,
}

/// Both.
#[derive(Debug, serde::Serialize)]
struct Versions {
    client: &'static str,
    /// `None`: none listens at the socket.
    daemon: Option<String>,
}

pub(super) fn run(args: &Args) -> Result<(), AskError> {
    let daemon = match args.asking.client()?.get::<Version>("/v1/version") {
        Ok(Version { version }) => Some(version),
        Err(ClientError::NoDaemon(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let versions = Versions { client: env!("CARGO_PKG_VERSION"), daemon };
    args.asking.print(&versions, |Versions { client, daemon }| {
        let daemon = daemon.as_deref().unwrap_or("none runs here");
        format!("margay  {client}\ndaemon  {daemon}\n")
    })
}
