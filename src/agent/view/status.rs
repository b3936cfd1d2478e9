//! The node at a glance.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::agent::host::HostInterface;
use crate::agent::underlay::{SOURCE_PORTS, Uplink};
use crate::agent::{Agent, IpipOffload, Side};
use crate::rib::Target;
use crate::sys::limits;

/// Whether the node does all that its resources ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It does.
    Good,
    /// It forwards, but something is missing or wrong: [`Status::problems`] says what.
    Degraded,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Health::Good => "good",
            Health::Degraded => "degraded",
        })
    }
}

/// The node at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Of the daemon.
    pub version: String,
    /// Name of the Node resource.
    pub node: String,
    /// Its process.
    pub pid: u32,
    /// Whether all is as it should be.
    pub health: Health,
    /// What is not, each with what can be done about it where that is known.
    pub problems: Vec<String>,
    /// Since the agent began.
    pub uptime_seconds: u64,
    /// Directory of resources.
    pub resources: PathBuf,
    /// Since the resources were read last and found good.
    pub resources_read_seconds_ago: u64,
    /// The node's sides of the underlay: one for each of its addresses, IPv4 first.
    pub underlays: Vec<Underlay>,
    /// The worker threads.
    pub workers: Workers,
    /// Which ways there are out of the node and into it, and how they are made on this machine.
    pub uses: Vec<Use>,
    /// MTU of endpoints.
    pub endpoint_mtu: u16,
    /// Why it is that.
    pub endpoint_mtu_because: String,
    /// Pools from and to which the MSS of TCP is lowered to what the way carries.
    pub mss_clamped: Vec<String>,
    /// How many there are of what.
    pub numbers: Numbers,
    /// All frames so far.
    pub frames: Frames,
}

/// The node's side of the underlay, of one family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Underlay {
    /// The node's address.
    pub address: String,
    /// The subnet that CrossSubnet compares with.
    pub subnet: String,
    /// The interface that has the address.
    pub interface: String,
    /// Its IP MTU, bytes.
    pub mtu: u16,
}

/// The worker threads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workers {
    /// How many.
    pub count: usize,
    /// How long one asks for work at most before it sleeps.
    pub spin_microseconds: u64,
}

/// A facility: whether it is used, and how or why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// `sandbox`, `vxlan`, `ipip`, `host`, `direct`, `next hops`; or `rootless`, and nothing with what that lacks.
    pub what: String,
    /// It is in use.
    pub used: bool,
    /// By which means; or why it is not.
    pub how: String,
}

/// How many there are of what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbers {
    /// Other nodes.
    pub peers: usize,
    /// Those among them to which the way is broken, as ICMP errors say.
    pub peers_broken: usize,
    /// Prefixes with a route.
    pub routes: usize,
    /// Blocks of this node among them.
    pub blocks: usize,
    /// Endpoints that are attached.
    pub endpoints_attached: usize,
    /// Endpoints that cannot be attached yet.
    pub endpoints_missing: usize,
    /// Lookup tables of the FIB.
    pub fib_bytes: usize,
}

/// Frames so far: each is in exactly one of the last three, but for those in hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frames {
    /// That ports received, and packets that the slow path made.
    pub input: u64,
    /// Transmitted.
    pub sent: u64,
    /// That left the fast path.
    pub punted: u64,
    /// Dropped.
    pub dropped: u64,
}

impl Status {
    pub(crate) fn of(agent: &Agent) -> Self {
        let plan = &agent.plan;
        let problems = problems(agent);
        let tally = agent.workers.tally();
        let blocks = plan.routes.iter().filter(|route| matches!(route.target, Target::Blackhole)).count();
        let known = agent.workers.paths().snapshot();
        let (endpoint_mtu, endpoint_mtu_because) = (agent.mtu.bytes, agent.mtu.because().to_string());
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            node: plan.node.clone(),
            pid: std::process::id(),
            health: if problems.is_empty() { Health::Good } else { Health::Degraded },
            problems,
            uptime_seconds: agent.started.elapsed().as_secs(),
            resources: agent.config.resources.clone(),
            resources_read_seconds_ago: agent.read_at.elapsed().as_secs(),
            underlays: underlays(agent),
            workers: Workers {
                count: agent.workers.count(),
                spin_microseconds: agent.config.spin.as_micros() as u64,
            },
            uses: uses(agent),
            endpoint_mtu,
            endpoint_mtu_because,
            mss_clamped: plan
                .pools
                .iter()
                .filter(|pool| pool.clamps)
                .map(|pool| pool.cidr.to_string())
                .collect(),
            numbers: Numbers {
                peers: plan.peers.len(),
                peers_broken: known.values().filter(|path| path.fault.is_some()).count(),
                routes: plan.routes.len(),
                blocks,
                endpoints_attached: agent.endpoints.len(),
                endpoints_missing: agent.failed.len(),
                fib_bytes: agent.publication.current().memory(),
            },
            frames: Frames {
                input: tally.input,
                sent: tally.sent.iter().sum(),
                punted: tally.punted.iter().sum(),
                dropped: tally.dropped.iter().sum(),
            },
        }
    }
}

/// The part of the start-up screen that is about the node: a line each, what it is in front.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |what: &str, text: String| writeln!(f, "  {what:<10} {text}");
        for Underlay { address, subnet, interface, mtu } in &self.underlays {
            line("underlay", format!("{address} in {subnet} on {interface}, MTU {mtu}"))?;
        }
        let spin = match self.workers.spin_microseconds {
            0 => String::new(),
            limit => format!(" after they asked for {:?} at most", Duration::from_micros(limit)),
        };
        line("workers", format!("{}, run to completion, woken by readiness{spin}", self.workers.count))?;
        for Use { what, how, .. } in &self.uses {
            line(what, how.clone())?;
        }
        line("MTU", format!("of endpoints {}: {}", self.endpoint_mtu, self.endpoint_mtu_because))?;
        if !self.mss_clamped.is_empty() {
            line("", format!("MSS of TCP lowered to it from and to {}", self.mss_clamped.join(" ")))?;
        }
        let Numbers { peers, peers_broken, routes, blocks, endpoints_attached, endpoints_missing, .. } =
            &self.numbers;
        let broken = match peers_broken {
            0 => String::new(),
            count => format!(", the way to {count} of them is broken: see margay get peers"),
        };
        line("peers", format!("{peers}{broken}"))?;
        line("routes", format!("{routes}, {blocks} of them blocks of this node"))?;
        line("endpoints", format!("{endpoints_attached} attached, {endpoints_missing} not"))
    }
}

fn problems(agent: &Agent) -> Vec<String> {
    let wrong = agent
        .wrong
        .iter()
        .map(|wrong| format!("resources not applied, the last good state stays: {}", wrong.what));
    let lost = agent.lost.iter().map(|(side, reason)| {
        let side = match side {
            Side::Underlay => "the underlay",
            Side::Host => "the host interface",
        };
        format!("{side} is lost, will be opened again: {reason}")
    });
    let failed = agent
        .failed
        .iter()
        .map(|(name, error)| format!("endpoint {name} is not attached, will be tried again: {error}"));
    let crowded = agent.crowded.iter().map(|limit| {
        format!("too many open files (limit {limit}): what is open goes on, {}", limits::HOW_TO_RAISE)
    });
    let absent = agent.underlay.needs().absent(&agent.plan);
    let absent = absent.map(|(family, reason)| format!("no other node is reached by {family}: {reason}"));
    let without_ipv6 = agent.endpoints.iter().filter_map(|(name, attached)| {
        let reason = attached.without_ipv6()?;
        Some(format!("endpoint {name} has no IPv6, will be tried again: {reason}"))
    });
    let host = agent.host.as_ref().and_then(HostInterface::without_ipv6);
    let host = host.map(|reason| format!("the host interface has no IPv6: {reason}"));
    let found = agent.faults().into_iter().chain(wrong).chain(lost).chain(absent).chain(crowded);
    found.chain(failed).chain(host).chain(without_ipv6).collect()
}

fn underlays(agent: &Agent) -> Vec<Underlay> {
    let underlay = |uplink: &Uplink| {
        let own = agent.plan.underlays.of(uplink.family());
        Underlay {
            address: uplink.address.to_string(),
            subnet: own.map(|own| own.subnet.to_string()).unwrap_or_default(),
            interface: uplink.interface.name.clone(),
            mtu: agent.paths.interface_mtu(uplink.family()),
        }
    };
    agent.underlay.needs().uplinks().iter().map(underlay).collect()
}

fn uses(agent: &Agent) -> Vec<Use> {
    let (plan, needs) = (&agent.plan, agent.underlay.needs());
    let used = |what: &str, used: bool, how: String| Use { what: what.into(), used, how };
    let interface = interfaces(agent);
    let mut uses = sandboxes(agent);
    uses.extend([
        match needs.vxlan {
            Some(port) => {
                let settings = &plan.settings;
                let vteps: Vec<String> =
                    plan.underlays.iter().map(|underlay| underlay.vtep_mac.to_string()).collect();
                let (vni, vteps) = (settings.vxlan_vni, vteps.join(" and "));
                let how = format!("UDP {port}, VNI {vni}, VTEP {vteps}; {SOURCE_PORTS} source ports");
                used("vxlan", true, how)
            }
            None => used("vxlan", false, "off: no pool has vxlanMode".into()),
        },
        match needs.ipip {
            true => {
                let cut = match agent.config.ipip_offload {
                    IpipOffload::Auto | IpipOffload::Off => "cut by margay",
                    IpipOffload::Bpf => "of TCP cut by the kernel, their outer headers by BPF",
                };
                let ttl = agent.config.outer_ttl;
                let how = format!("protocol 4 in by raw socket, outer TTL {ttl:?}, super-frames {cut}");
                used("ipip", true, how)
            }
            false => used("ipip", false, "off: no pool has ipipMode".into()),
        },
        match &agent.host {
            Some(host) => used("host", true, host.how.clone()),
            None => {
                used("host", false, "none: what has no route is answered with ICMP net unreachable".into())
            }
        },
    ]);
    match &agent.rootless {
        Some(rootless) => {
            uses.push(used("rootless", true, format!("VXLAN only: {}", rootless.reason)));
            uses.extend(rootless.lines().map(|lacks| used("", false, lacks)));
        }
        None => {
            uses.push(used("direct", true, format!("in by packet socket on {interface}")));
            uses.push(next_hops(agent));
        }
    }
    uses
}

/// What confines the threads.
fn sandboxes(agent: &Agent) -> Vec<Use> {
    let sandbox = |used, how| Use { what: "sandbox".into(), used, how };
    let of_workers = agent.workers.confinement().map(|confinement| {
        let is_whole = confinement.seccomp.is_ok() && confinement.landlock.is_ok();
        sandbox(is_whole, format!("workers without capabilities, {confinement}"))
    });
    let of_all = agent.config.floor.as_ref().err();
    let of_all =
        of_all.map(|reason| sandbox(false, format!("the daemon's other threads WITHOUT seccomp: {reason}")));
    of_workers.into_iter().chain(of_all).collect()
}

fn next_hops(agent: &Agent) -> Use {
    let (used, how) = match &agent.underlay.next_hops {
        Ok(_) => {
            let (interface, express) = (interfaces(agent), express(agent));
            let how = format!(
                "ipip and direct out by packet socket on {interface}, by raw socket to who is not resolved{express}"
            );
            (true, how)
        }
        Err(reason) => (false, format!("ipip and direct out by raw socket: {reason}")),
    };
    Use { what: "next hops".into(), used, how }
}

/// Their names.
fn interfaces(agent: &Agent) -> String {
    let uplinks = agent.underlay.needs().uplinks();
    let names: BTreeSet<&str> = uplinks.iter().map(|uplink| uplink.interface.name.as_str()).collect();
    names.into_iter().collect::<Vec<_>>().join(" and ")
}

/// What is to be said of AF_XDP, if anything.
fn express(agent: &Agent) -> String {
    match &agent.underlay.express {
        Ok(senders) => format!(
            "; ipip of {} of {} workers by AF_XDP, which captures do not show (--ipip-offload off)",
            senders.iter().flatten().count(),
            senders.len()
        ),
        Err(reason) if agent.config.ipip_offload == IpipOffload::Auto && agent.underlay.needs().ipip => {
            format!("; not by AF_XDP: {reason}")
        }
        Err(_) => String::new(),
    }
}
