//! `margay top`: who moves how much just now, live on a terminal or as tables.

mod batch;
mod live;
mod rates;
mod screen;
mod state;

use std::io::{self, IsTerminal};
use std::num::NonZeroU32;
use std::process::ExitCode;
use std::time::Duration;

use super::asking::{self, AskError, Whom};
use super::seconds;
use live::End;
use rates::Reading;

/// Watch rates by endpoint and peer, and what is dropped, live on a terminal
///
/// Keys: q or Esc ends; r, s, d, n sort by received, sent, dropped, name; / filters by name; p pauses; + and - change the interval;
/// Tab chooses the list that arrows and pages scroll.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Between two readings
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds, default_value = "1")]
    interval: f64,
    /// Print so many tables instead, one an interval, with plain numbers: for files and pipes
    #[arg(short, long, value_name = "COUNT")]
    batch: Option<NonZeroU32>,
    #[command(flatten)]
    whom: Whom,
}

pub(super) fn run(args: &Args) -> ExitCode {
    match show(args) {
        // As a shell reports a process that a signal ended.
        Ok(End::Signal(signal)) => ExitCode::from(128 + signal),
        Ok(End::Wanted) => asking::exit("top", Ok(())),
        Err(error) => asking::exit("top", Err(error)),
    }
}

fn show(args: &Args) -> Result<End, AskError> {
    let client = args.whom.client()?;
    let interval = Duration::from_secs_f64(args.interval);
    if let Some(count) = args.batch {
        batch::print(&client, interval, count)?;
        return Ok(End::Wanted);
    }
    if !io::stdout().is_terminal() {
        return Err(AskError::NoTerminal);
    }
    // Who cannot be asked at all is said as by every other command, before the screen is taken.
    let first = Reading::take(&client)?;
    live::watch(client, first, interval)
}
