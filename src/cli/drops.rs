//! `margay drops`: what the running daemon dropped, why, and of whom.

use std::fmt::Write as _;
use std::time::Duration;

use super::asking::{AskError, Asking};
use super::seconds;
use crate::agent::view::{Drops, Reason, Share};

/// Show what the running daemon dropped: reasons with counts, of whom, and what to do about it
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Read twice, so many seconds apart, and show rates as well
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds)]
    interval: Option<f64>,
    /// Go on until Ctrl-C, a reading every --interval [default: 1 second]
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    asking: Asking,
}

/// Who is named with a reason; the others are summed up.
const LISTED: usize = 4;

pub(super) fn run(args: &Args) -> Result<(), AskError> {
    let client = args.asking.client()?;
    let read = || client.get::<Drops>("/v1/drops");
    let mut drops = read()?;
    let interval = match (args.interval, args.watch) {
        (None, false) => return args.asking.print(&drops, table),
        (interval, _) => Duration::from_secs_f64(interval.unwrap_or(1.0)),
    };
    loop {
        std::thread::sleep(interval);
        let next = read()?;
        args.asking.print(&next.clone().since(&drops), table)?;
        if !args.watch {
            return Ok(());
        }
        drops = next;
    }
}

fn table(drops: &Drops) -> String {
    let mut out = format!("{} of {} frames dropped\n", drops.dropped, drops.input);
    for Reason { reason, count, per_second, explanation, with } in &drops.reasons {
        let rate = per_second.map_or_else(String::new, |rate| format!("  {rate:.1}/s"));
        let named = with.iter().take(LISTED).map(|Share { who, count }| format!("{who} {count}"));
        let others: u64 = with.iter().skip(LISTED).map(|share| share.count).sum();
        let others = (others > 0).then(|| format!("others {others}"));
        let with: Vec<String> = named.chain(others).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{count:>12}{rate}  {reason}: {}", with.join(", "));
        let _ = writeln!(out, "{:>12}  {explanation}", "");
    }
    out
}
