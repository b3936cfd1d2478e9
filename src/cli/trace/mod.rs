//! `margay trace`: a packet's way, step by step; on other nodes too whose control sockets can be reached.
//!
//! The daemons do not know of each other: the command asks each, and puts together what they say.

mod far;
mod inject;
mod live;

use std::net::IpAddr;
use std::path::PathBuf;

use super::asking::{AskError, Asking};
use super::dissect;
use crate::agent::capture::{Probe, Step, TraceRequest, Traced, hex};
use crate::capture::read::Frame;
use crate::capture::{Link, Way};

/// A packet's way, step by step: of packets that come, or of one that is injected
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
With --from and --to a packet is injected at an endpoint, as if its workload had sent it: the daemon's own engine decides about \
it. Unless --send is given it goes no farther: nothing is sent, answered, learned or counted. Without them, packets are followed \
that match FILTER (see margay capture --help) until Ctrl-C.\n\n\
With --far another node's daemon is asked as well: where the packet is sent, what becomes of it there; else what would.\n\n\
  margay trace --from default/web --to 10.65.0.66 --tcp 80\n  \
margay trace --from default/web --to 10.65.0.66 --icmp --send\n  \
margay trace --count 2 icmp and host 10.65.0.66\n\n  \
ssh -fNL /tmp/node-b.sock:/run/margay/margay.sock node-b\n  \
margay trace --from default/web --to 10.65.0.66 --tcp 80 --send --far /tmp/node-b.sock")]
pub struct Args {
    /// Inject a packet at this endpoint: its name, or its workload's (namespace/pod)
    #[arg(long, value_name = "ENDPOINT", requires = "to", conflicts_with_all = ["filter", "count"])]
    from: Option<String>,
    /// Where the injected packet goes: an IPv4 or IPv6 address
    #[arg(long, value_name = "ADDRESS", requires = "from")]
    to: Option<IpAddr>,
    /// Inject a SYN to this port
    #[arg(long, value_name = "PORT", requires = "from", conflicts_with_all = ["udp", "icmp"])]
    tcp: Option<u16>,
    /// Inject a datagram to this port
    #[arg(long, value_name = "PORT", requires = "from", conflicts_with = "icmp")]
    udp: Option<u16>,
    /// Inject an echo request, as without --tcp and --udp
    #[arg(long, requires = "from")]
    icmp: bool,
    /// Really send it
    #[arg(long, requires = "from")]
    send: bool,
    /// Show another node's part as well, whose control socket is here (ssh -L); may be repeated
    #[arg(long, value_name = "SOCKET")]
    far: Vec<PathBuf>,
    /// End after so many frames, of all nodes; before and after are two
    #[arg(short, long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    asking: Asking,
    /// In tcpdump's language
    #[arg(value_name = "FILTER", trailing_var_arg = true)]
    filter: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// A daemon refuses, or what it says cannot be written.
pub(super) fn run(args: &Args) -> Result<(), AskError> {
    let (Some(from), Some(to)) = (args.from.clone(), args.to) else {
        return live::run(args);
    };
    let (probe, port) = match (args.tcp, args.udp) {
        (Some(port), _) => (Probe::Tcp, Some(port)),
        (None, Some(port)) => (Probe::Udp, Some(port)),
        (None, None) => (Probe::Icmp, None),
    };
    inject::run(args, &TraceRequest { from, to, probe, port, send: args.send })
}

/// A frame with its steps, as a daemon tells of one that it injected.
fn traced(frame: &Frame) -> Traced {
    Traced {
        interface: frame.interface.clone(),
        received: frame.way == Way::In,
        ethernet: frame.link == Link::Ethernet,
        bytes: hex(&frame.bytes),
        steps: frame.comment.lines().map(Step::of).collect(),
    }
}

/// The steps, a line each.
fn steps(traced: &Traced) -> String {
    traced.steps.iter().map(|step| format!("    {}: {}\n", step.name, step.text)).collect()
}

/// A frame with its steps, for people.
fn text(traced: &Traced) -> String {
    let way = if traced.received { "in" } else { "out" };
    let bytes = dissect::of_digits(traced.ethernet, &traced.bytes);
    format!("{} {way}: {bytes}\n{}", traced.interface, steps(traced))
}
