//! `margay status`: the running daemon at a glance.

use std::fmt::Write as _;

use super::asking::{AskError, Asking};
use crate::agent::view::{Frames, Status};

/// Show the running daemon at a glance: health, workers, sockets, what this host permits and what is used
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    asking: Asking,
}

pub(super) fn run(args: &Args) -> Result<(), AskError> {
    let status: Status = args.asking.client()?.get("/v1/status")?;
    args.asking.print(&status, table)
}

fn table(status: &Status) -> String {
    let mut out = format!(
        "margay {} on node {}: {}, up {}, pid {}\n",
        status.version,
        status.node,
        status.health,
        period(status.uptime_seconds),
        status.pid
    );
    for problem in &status.problems {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  PROBLEM    {problem}");
    }
    let read = period(status.resources_read_seconds_ago);
    let _ = writeln!(out, "  resources  {}, read {read} ago", status.resources.display());
    let Frames { input, sent, punted, dropped } = &status.frames;
    let _ = write!(out, "{status}");
    let _ = writeln!(out, "  FIB        {} KiB of lookup tables", status.numbers.fib_bytes.div_ceil(1024));
    let _ = writeln!(out, "  frames     {input} in: {sent} sent, {punted} punted, {dropped} dropped");
    out
}

/// `3 days 04:05:06`
pub(super) fn period(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let clock = format!("{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60);
    match days {
        0 => clock,
        1 => format!("1 day {clock}"),
        _ => format!("{days} days {clock}"),
    }
}
