//! `margay run`: the daemon.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crossbeam::channel::{Receiver, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::manager;
use crate::agent::{self, Agent, Config, Counts, Ending, IpipOffload, Remote, Signal};
use crate::control::server::Server;
use crate::control::socket::Socket;
use crate::control::{DEFAULT_SOCKET, SOCKET_VARIABLE, web};
use crate::dataplane::antispoof::is_martian;
use crate::datastore;
use crate::fib::OuterTtl;
use crate::resource::FelixConfiguration;
use crate::sys::socket::ZeroChecksums;
use crate::sys::{limits, privileges, sandbox};
use crate::verdict::{Anomaly, DropReason, PuntReason, Sent};

/// Forward this node's pods' traffic, until SIGTERM or Ctrl-C.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
The resources are Calico's own (projectcalico.org/v3): Node, IPPool, BlockAffinity, WorkloadEndpoint and \
FelixConfiguration, as YAML or JSON files in one directory. A change of a file is applied by itself; SIGHUP reads \
all again. A resource that is wrong never stops what works: the daemon says what is wrong and keeps the last good \
state. FELIX_IPINIPMTU, FELIX_VXLANMTU, FELIX_VXLANMTUV6, FELIX_IPV6SUPPORT, FELIX_MTUIFACEPATTERN, FELIX_VXLANPORT and \
FELIX_VXLANVNI in the environment go before the FelixConfiguration, as in Calico.\n\n\
Needs CAP_NET_RAW and CAP_NET_ADMIN in this network namespace, /dev/net/tun, and CAP_SYS_ADMIN over the pods' \
namespaces; without them it does VXLAN alone, for pods in user namespaces of the same user. margay doctor says what will \
work here. Try it first: margay check DIR shows what each node would route where; margay demo shows it at work.")]
pub struct Args {
    /// Name of this machine's Node resource
    #[arg(long, env = "MARGAY_NODE", value_name = "NAME")]
    node: String,
    /// Directory of resources
    #[arg(long, env = "MARGAY_RESOURCES", value_name = "DIR")]
    resources: PathBuf,
    /// Worker threads [default: the number of cores]
    #[arg(long, env = "MARGAY_WORKERS", value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// Microseconds that a worker asks for work at most before it sleeps, 0 to 1000. It does so only while work comes
    /// that soon, so that an idle node uses no CPU: shorter round trips for more CPU time
    #[arg(long, env = "MARGAY_SPIN", value_name = "MICROSECONDS", default_value = "0", value_parser = clap::value_parser!(u16).range(..=1000))]
    spin: u16,
    /// Interface between pods and this node's kernel: pods reach the node and beyond by it, the node its pods.
    /// With "none" there is no way out, and no route means ICMP net unreachable
    #[arg(long, env = "MARGAY_HOST_INTERFACE", value_name = "NAME", default_value = "margay0")]
    host_interface: String,
    /// TTL of the outer header of IPIP packets: 1 to 255, or "inherit" to copy the inner one as Calico does
    #[arg(long, env = "MARGAY_IPIP_TTL", value_name = "TTL", default_value = "64", value_parser = outer_ttl)]
    ipip_ttl: OuterTtl,
    /// Source address of ICMP errors, which traceroute shows as this node; twice for one of each family. The peers must have
    /// a route for it to this node, or they drop it as forged [default: the node's tunnel address, else its own address]
    #[arg(long, env = "MARGAY_ICMP_SOURCE", value_name = "ADDRESS", value_delimiter = ',', value_parser = icmp_source)]
    icmp_source: Vec<IpAddr>,
    /// How IPIP leaves: "auto" by AF_XDP where the underlay interface has no queueing discipline, which is faster, but
    /// captures on this node do not show it; "off" by a packet socket, which they do; with "bpf" the kernel or the network
    /// card cuts TCP super-frames, after a small BPF program on the interface has put the outer header in front (Linux
    /// 6.6, CAP_BPF)
    #[arg(long, env = "MARGAY_IPIP_OFFLOAD", value_name = "HOW", default_value = "auto", value_parser = ipip_offload)]
    ipip_offload: IpipOffload,
    /// Take VXLAN over IPv6 without UDP checksum, for peers that send none (a kernel device with udp6zerocsumtx): nothing
    /// else guards its outer header. Otherwise this node's kernel drops it, as the standard says
    #[arg(long, env = "MARGAY_UDP6_ZERO_CHECKSUM")]
    udp6_zero_checksum: bool,
    /// Ask every peer again and again, by echo requests with DF through the tunnel, what its path takes: finds paths on
    /// which large packets vanish and no router says so. What is found is logged, and told to the pods as the MTU
    #[arg(long, env = "MARGAY_PROBE_PATH_MTU")]
    probe_path_mtu: bool,
    /// Where the daemon answers margay status, get, explain, drops and reload; "none" for nowhere. Who may connect may
    /// read everything and have the resources read again, nothing else; the daemon's user and root may take over
    #[arg(long, env = SOCKET_VARIABLE, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    control_socket: PathBuf,
    /// Group whose members may connect, by name or number [default: the daemon's own]
    #[arg(long, env = "MARGAY_CONTROL_GROUP", value_name = "GROUP")]
    control_group: Option<String>,
    /// Where metrics for Prometheus (/metrics), /liveness, /readiness and a status page (/) are; "none" for nowhere. Whoever
    /// reaches it may read [default: 127.0.0.1:9091, if it is free]
    #[arg(long, env = "MARGAY_WEB", value_name = "ADDRESS:PORT", value_parser = web_address)]
    web: Option<WebAddress>,
    /// Take over from the daemon that runs here, which answers at the control socket: what it has open goes over, no packet is
    /// lost, and it ends. If that fails it goes on, and this one ends with an error
    #[arg(long)]
    takeover: bool,
    /// What to log: error, warn, info, debug, trace, or a filter of tracing's EnvFilter
    #[arg(long, env = "MARGAY_LOG", value_name = "LEVEL", default_value = "info")]
    log: String,
    /// How to log
    #[arg(long, env = "MARGAY_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    /// A line for people
    Text,
    /// An object a line, its fields those of the event
    Json,
}

fn outer_ttl(text: &str) -> Result<OuterTtl, String> {
    match text.parse::<u8>() {
        _ if text == "inherit" => Ok(OuterTtl::Inherit),
        Ok(ttl @ 1..) => Ok(OuterTtl::Fixed(ttl)),
        _ => Err("want a number from 1 to 255, or inherit".into()),
    }
}

/// RFC 1812 4.3.2.4: an address of a router's, never 0.0.0.0 and the like.
fn icmp_source(text: &str) -> Result<IpAddr, String> {
    match text.parse() {
        Ok(address) if !is_martian(address) => Ok(address),
        _ => Err("want the address of one host, no loopback, link-local, multicast or reserved one".into()),
    }
}

/// Where the web is; nowhere.
#[derive(Debug, Clone, Copy)]
struct WebAddress(Option<SocketAddr>);

fn web_address(text: &str) -> Result<WebAddress, String> {
    match text.parse() {
        _ if text == "none" => Ok(WebAddress(None)),
        Ok(address) => Ok(WebAddress(Some(address))),
        Err(_) => Err("want an IP address and a port, like 0.0.0.0:9091, or none".into()),
    }
}

fn ipip_offload(text: &str) -> Result<IpipOffload, String> {
    match text {
        "auto" => Ok(IpipOffload::Auto),
        "off" => Ok(IpipOffload::Off),
        "bpf" => Ok(IpipOffload::Bpf),
        _ => Err("want auto, off or bpf".into()),
    }
}

/// Runs the daemon.
pub fn run(args: Args) -> ExitCode {
    match daemon(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("margay: {error}");
            ExitCode::FAILURE
        }
    }
}

fn daemon(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    let filter = tracing_subscriber::EnvFilter::try_new(&args.log)
        .map_err(|error| format!("--log {:?}: {error}", args.log))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    match args.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    // As long as it may be given to any group, and before the first thread.
    let has_socket = args.control_socket.as_os_str() != "none";
    let socket = (has_socket && !args.takeover)
        .then(|| Socket::listen(&args.control_socket, args.control_group.as_deref()))
        .transpose()?;
    let web = match args.web {
        Some(WebAddress(None)) => None,
        Some(WebAddress(Some(address))) => Some(web::listen(address)?),
        None => web::listen(web::DEFAULT_ADDRESS)
            .inspect_err(|error| tracing::info!(%error, "no metrics and no status page"))
            .ok(),
    };
    // Before the first thread: each begins with what its parent has.
    let loads_bpf = args.ipip_offload == IpipOffload::Bpf;
    privileges::keep_needed(loads_bpf)?;
    let floor = sandbox::confine_daemon(loads_bpf).map_err(|error| error.to_string());
    let workers =
        args.workers.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    // Before anything is made: a signal that comes while starting ends the daemon cleanly too.
    let (remote, requests) = agent::remote();
    let signals = signals(remote.clone())?;
    limits::raise_open_files();
    let watcher = datastore::watch(&args.resources)?;
    let config = Config {
        node: args.node,
        resources: args.resources,
        workers,
        spin: Duration::from_micros(args.spin.into()),
        host_interface: (args.host_interface != "none").then_some(args.host_interface),
        outer_ttl: args.ipip_ttl,
        icmp_sources: args.icmp_source,
        ipip_offload: args.ipip_offload,
        felix: FelixConfiguration::of_environment(|name| std::env::var(name).ok())?,
        zero_checksums: match args.udp6_zero_checksum {
            true => ZeroChecksums::Accepted,
            false => ZeroChecksums::Refused,
        },
        probe_path_mtu: args.probe_path_mtu,
        floor,
    };
    let (mut agent, predecessor) = match args.takeover {
        true => Agent::take_over(config, &args.control_socket).map(|(agent, other)| (agent, Some(other)))?,
        false => (Agent::start(config)?, None),
    };
    let socket = match agent.inherited_control() {
        Some(listener) => Some(Socket::inherit(listener, &args.control_socket)?),
        None => socket,
    };
    if let Some(socket) = &socket {
        agent.note_control(socket.descriptor()?);
    }
    let watchdog = manager::watchdog().or(agent.inherited_watchdog());
    if let Some(limit) = watchdog {
        agent.note_watchdog(limit);
        manager::live(remote.clone(), limit)?;
    }
    let server = Server::start(socket, web, remote)?;
    manager::ready(&agent, predecessor.is_some());
    drop(predecessor);
    say(&format!("{}margay: ready\n", agent.screen()));
    match agent.run(&watcher, &signals, &requests)? {
        Ending::Stopped(counts) => say(&summary(&counts)),
        Ending::HandedOver(counts) => {
            server.leave();
            say(&summary(&counts));
        }
    }
    Ok(())
}

/// To standard output, which may be closed: a daemon goes on without it.
fn say(text: &str) {
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// SIGHUP is for `remote`, the others are for who takes them.
fn signals(remote: Remote) -> std::io::Result<Receiver<Signal>> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    let (sender, receiver) = bounded(8);
    std::thread::Builder::new().name("margay-signals".into()).spawn(move || {
        for signal in signals.forever() {
            if signal == SIGHUP {
                manager::reload(&remote);
                continue;
            }
            manager::stopping();
            if sender.send(Signal::Stop).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// With how many a drop reason is listed by name.
const LISTED: usize = 4;

/// What was counted: every frame in exactly one line, of each drop reason with whom, and what was wrong with others beside it.
fn summary(counts: &Counts) -> String {
    let tally = &counts.total;
    let mut out = format!("margay: {} frames in\n", tally.input);
    let mut line = |count: u64, what, name, explanation| {
        if count > 0 {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "  {count:>12} {what:<7} {name:<22} {explanation}");
        }
        count > 0
    };
    for sent in Sent::ALL {
        line(tally.sent[sent.index()], "sent", sent.name(), sent.explanation());
    }
    for reason in PuntReason::ALL {
        line(tally.punted[reason.index()], "punted", reason.name(), reason.explanation());
    }
    for reason in DropReason::ALL {
        if line(tally.dropped[reason.index()], "dropped", reason.name(), reason.explanation()) {
            let by = counts.dropped_by(*reason);
            by.iter().take(LISTED).for_each(|(who, count)| {
                line(*count, "", "", who);
            });
            let others: u64 = by.iter().skip(LISTED).map(|(_, count)| count).sum();
            line(others, "", "", "others");
        }
    }
    for anomaly in Anomaly::ALL {
        line(tally.anomalies[anomaly.index()], "noted", anomaly.name(), anomaly.explanation());
    }
    out
}
