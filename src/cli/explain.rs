//! `margay explain`: what becomes of a packet for an address, and why.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::asking::{AskError, Asking};
use crate::agent::view::{Explanation, Route};

/// Explain what the running daemon does with a packet for an address, and why
///
/// Shows the route that decides and the rule that made it, the encapsulation and its outer header, the greatest packet
/// that goes there and what limits it, and how the other node answers, by its own view of the same resources: under
/// CrossSubnet the two may differ.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Destination
    address: IpAddr,
    #[command(flatten)]
    asking: Asking,
}

pub(super) fn run(args: &Args) -> Result<(), AskError> {
    let explanation: Explanation = args.asking.client()?.get(&format!("/v1/explain/{}", args.address))?;
    args.asking.print(&explanation, text)
}

fn text(explanation: &Explanation) -> String {
    let mut out = format!("{} from {}: {}\n", explanation.address, explanation.node, explanation.action);
    let mut line = |what: &str, text: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  {what:<9} {text}");
    };
    for problem in &explanation.problems {
        line("PROBLEM", problem.clone());
    }
    match &explanation.route {
        Some(Route { prefix, to, class, because, .. }) => {
            line("route", format!("{prefix} to {to}, {class}"));
            line("because", because.clone());
        }
        None => line("route", "none: no block, endpoint or tunnel address covers it".into()),
    }
    if let Some(outer) = &explanation.outer {
        let (source, destination) = (&outer.source, &outer.destination);
        line("outer", format!("{} {source} to {destination}, {}", outer.encapsulation, outer.details));
    }
    if let Some(mtu) = &explanation.mtu {
        line("MTU", format!("{}: {}", mtu.bytes, mtu.because));
    }
    for back in &explanation.back {
        line("back", format!("{}: {}", back.how, back.because));
    }
    if explanation.symmetric == Some(false) {
        let text =
            "the two directions differ: both work, but path MTU, firewalls and captures differ by direction";
        line("", text.into());
    }
    for Route { prefix, to, because, .. } in &explanation.covered {
        line("covered", format!("{prefix} to {to}: {because}"));
    }
    out
}
