//! `margay reload`: have the running daemon read its resources again.

use super::asking::{AskError, Asking};
use crate::agent::Reloaded;

/// Have the running daemon read its resources again, and wait until they are applied
///
/// A change of a file is applied by itself; this tells when, and what is wrong: then what works stays as it is, and the
/// exit status is 1.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    asking: Asking,
}

pub(super) fn run(args: &Args) -> Result<(), AskError> {
    let reloaded: Reloaded = args.asking.client()?.post("/v1/reload")?;
    args.asking.print(&reloaded, |Reloaded { changed, routes, endpoints }| {
        let what = if *changed { "applied" } else { "read: nothing to change" };
        format!("resources {what}; {routes} routes, {endpoints} endpoints attached\n")
    })
}
