//! `margay trace`: a packet's way, step by step.

use std::io::{self, Write};
use std::net::Ipv4Addr;

use super::asking::{AskError, Whom};
use super::capture::{follow, print};
use super::dissect;
use crate::agent::capture::{CaptureRequest, Probe, Trace, TraceRequest};

/// A packet's way through this node, step by step: of packets that come, or of one that is injected
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
With --from and --to a packet is injected at an endpoint, as if its workload had sent it: the daemon's own engine decides about \
it. Unless --send is given it goes no farther: nothing is sent, answered, learned or counted. Without them, packets are followed \
that match FILTER (see margay capture --help) until Ctrl-C.\n\n\
  margay trace --from default/web --to 10.65.0.66 --tcp 80\n  \
margay trace --from default/web --to 10.65.0.66 --icmp --send\n  \
margay trace --count 2 icmp and host 10.65.0.66")]
pub struct Args {
    /// Inject a packet at this endpoint: its name, or its workload's (namespace/pod)
    #[arg(long, value_name = "ENDPOINT", requires = "to", conflicts_with_all = ["filter", "count"])]
    from: Option<String>,
    /// Where the injected packet goes
    #[arg(long, value_name = "ADDRESS", requires = "from")]
    to: Option<Ipv4Addr>,
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
    /// End after so many frames; before and after are two
    #[arg(short, long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    whom: Whom,
    /// In tcpdump's language
    #[arg(value_name = "FILTER", trailing_var_arg = true)]
    filter: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// The daemon refuses, or what it says cannot be written.
pub(super) fn run(args: &Args) -> Result<(), AskError> {
    let client = args.whom.client()?;
    let (Some(from), Some(to)) = (args.from.clone(), args.to) else {
        let (filter, count) = (args.filter.join(" "), args.count);
        let request = CaptureRequest { filter, count, steps: true, ..CaptureRequest::default() };
        return follow(&client, &request, &mut |block| print(block, true));
    };
    let (probe, port) = match (args.tcp, args.udp) {
        (Some(port), _) => (Probe::Tcp, Some(port)),
        (None, Some(port)) => (Probe::Udp, Some(port)),
        (None, None) => (Probe::Icmp, None),
    };
    let request = TraceRequest { from, to, probe, port, send: args.send };
    let query = serde_urlencoded::to_string(&request).map_err(|error| AskError::Form(error.to_string()))?;
    let trace: Trace = client.post(&format!("/v1/trace?{query}"))?;
    Ok(io::stdout().lock().write_all(text(&trace).as_bytes())?)
}

fn text(trace: &Trace) -> String {
    let mut text = String::new();
    for frame in &trace.frames {
        let way = if frame.received { "in" } else { "out" };
        let bytes = dissect::of_digits(frame.ethernet, &frame.bytes);
        text += &format!("{} {way}: {bytes}\n", frame.interface);
        for step in &frame.steps {
            text += &format!("    {}: {}\n", step.name, step.text);
        }
    }
    text += match trace.sent {
        true => "The packet was really sent, as if the workload had sent it.\n",
        false => "Nothing was sent: the packet was only considered (--send sends it).\n",
    };
    text
}
