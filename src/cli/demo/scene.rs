//! One mode: a lab, shown step by step.

use std::fmt::Display;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use crate::agent::view::Route;
use crate::cli::dissect::{self, Dissection};
use crate::cli::routes;
use crate::datastore;
use crate::rib::{self, Attach};
use crate::sys::netns::Netns;
use crate::testbed::{
    BedError, Capture, Frame, Lab, LabSpec, Node, Ping, PingReport, Pod, Topology, Transfer, gateway_address,
    ping, throughput, transfer,
};
use crate::wire::Family;

/// Bytes that TCP moves each way to be compared.
const MOVED: u64 = 8 << 20;

/// The form in which a packet must cross the underlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnWire {
    /// IP in IP.
    Ipip,
    /// VXLAN.
    Vxlan,
    /// As the pod sent it.
    Plain,
}

impl OnWire {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ipip => "IPIP",
            Self::Vxlan => "VXLAN",
            Self::Plain => "plain",
        }
    }

    fn of(frame: &Dissection) -> Self {
        match frame.levels.get(1) {
            Some(inner) if inner.starts_with("VXLAN") => Self::Vxlan,
            Some(_) => Self::Ipip,
            None => Self::Plain,
        }
    }
}

/// What is to be shown.
pub(super) struct Scene<'a> {
    pub(super) title: &'static str,
    pub(super) spec: LabSpec,
    pub(super) on_wire: OnWire,
    /// Of the addresses that are used; what else a pod has is only tried.
    pub(super) family: Family,
    pub(super) binary: &'a Path,
    pub(super) arguments: &'a [&'a str],
    /// Of each throughput measurement.
    pub(super) duration: Duration,
}

/// What came of it. A figure is missing where it could not be measured.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) title: &'static str,
    pub(super) on_wire: OnWire,
    pub(super) local: Figures,
    pub(super) remote: Figures,
    pub(super) failures: Vec<String>,
}

/// What was measured between two pods.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) round_trip: Option<Duration>,
    pub(super) bits_per_second: Option<f64>,
}

impl Outcome {
    /// What failed first, and how much more.
    pub(super) fn failure(&self) -> Option<String> {
        let first = self.failures.first()?;
        Some(match self.failures.len() - 1 {
            0 => format!("{}: {first}", self.title),
            more => format!("{}: {first} (and {more} more)", self.title),
        })
    }
}

/// Where the show is printed, and what failed so far.
struct Stage<'a> {
    out: &'a mut dyn Write,
    failures: Vec<String>,
}

impl Stage<'_> {
    fn heading(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "\n{text}")
    }

    fn line(&mut self, text: impl Display) -> io::Result<()> {
        writeln!(self.out, "  {text}")
    }

    /// Notes a failure and says so.
    fn fail(&mut self, what: impl Display) -> io::Result<()> {
        let what = what.to_string();
        self.line(format_args!("FAILED: {what}"))?;
        // The summary has room for the first line of it; the rest has just been printed.
        self.failures.push(what.lines().next().unwrap_or_default().to_owned());
        Ok(())
    }

    /// The value, or a failure noted.
    fn take<T, E: Display>(&mut self, step: &str, result: Result<T, E>) -> io::Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(e) => self.fail(format_args!("{step}: {e}")).map(|()| None),
        }
    }

    /// Frames with the time since the first, a line for each level of headers.
    fn frames(&mut self, frames: &[Frame]) -> io::Result<()> {
        for frame in frames {
            let since = frame.at.saturating_sub(frames[0].at);
            write!(self.out, "  {:.6}  ", since.as_secs_f64())?;
            for (depth, level) in dissect::frame(&frame.bytes).levels.iter().enumerate() {
                let indent = if depth == 0 { 0 } else { 8 + 4 * depth };
                writeln!(self.out, "{:indent$}{level}", "")?;
            }
        }
        Ok(())
    }
}

impl Scene<'_> {
    /// Builds the lab, shows it, and takes it down.
    ///
    /// # Errors
    /// Only that `out` takes no more: everything else is part of the outcome.
    pub(super) fn play(&self, out: &mut dyn Write) -> io::Result<Outcome> {
        writeln!(out, "\n━━ {} {:━<width$}\n", self.title, "", width = 90 - self.title.len().min(80))?;
        let mut stage = Stage { out, failures: Vec::new() };
        let (local, remote) = match stage.take("build the lab", Lab::new(self.spec.clone()))? {
            Some(mut lab) => self.acts(&mut lab, &mut stage)?,
            None => Default::default(),
        };
        Ok(Outcome { title: self.title, on_wire: self.on_wire, local, remote, failures: stage.failures })
    }

    fn acts(&self, lab: &mut Lab, stage: &mut Stage<'_>) -> io::Result<(Figures, Figures)> {
        picture(lab, stage)?;
        let started = lab.start(self.binary, self.arguments);
        if stage.take("start", started)?.is_none() {
            return Ok(Default::default());
        }
        routes(lab, stage)?;
        let [a, b] = &lab.nodes;
        let (here, neighbour, there) = (&a.pods[0], &a.pods[1], &b.pods[0]);
        self.gateway(here, neighbour, stage)?;
        let local = self.reach("on one node", here, neighbour, stage)?;
        self.beside(here, there, stage)?;
        self.underlay(a, here, there, stage)?;
        let remote = self.reach("across nodes", here, there, stage)?;
        if !stage.failures.is_empty() {
            quote(lab, stage)?;
        }
        stage.take("stop", lab.stop())?;
        Ok((local, remote))
    }

    /// The pod's address that is used.
    fn address(&self, pod: &Pod) -> IpAddr {
        pod.address_of(self.family).unwrap_or(pod.address)
    }

    /// The pods' other addresses.
    fn beside(&self, from: &Pod, to: &Pod, stage: &mut Stage<'_>) -> io::Result<()> {
        for address in to.addresses().filter(|address| *address != self.address(to)) {
            stage.heading(&format!("{} to {}, {}", from.name, to.name, Family::of(address)))?;
            let report = answered(ping(&from.netns, address, Ping::default()));
            if let Some(report) = stage.take(&format!("ping {address}"), report)? {
                stage.line(format_args!("ping  {report}"))?;
            }
        }
        Ok(())
    }

    /// The pod's first question, and what it knows afterwards.
    fn gateway(&self, pod: &Pod, other: &Pod, stage: &mut Stage<'_>) -> io::Result<()> {
        let gateway = gateway_address(self.family);
        let protocol = match self.family {
            Family::V4 => "ARP",
            Family::V6 => "neighbour discovery",
        };
        stage.heading(&format!("{protocol} of {} for its gateway {gateway}", pod.name))?;
        let one = Ping { count: 1, ..Ping::default() };
        let asked = pod
            .forget_gateway()
            .and_then(|()| during(&pod.netns, || ping(&pod.netns, self.address(other), one)))
            .and_then(|(_, frames)| Ok((frames, pod.gateway(self.family)?)));
        let Some((frames, known)) = stage.take(protocol, asked)? else { return Ok(()) };
        let frames: Vec<Frame> = frames.into_iter().filter(asks_for_neighbours).collect();
        stage.frames(&frames)?;
        match known.and_then(|entry| Some((entry.mac?, entry.state))) {
            Some((mac, state)) => stage.line(format_args!("neighbour {gateway} lladdr {mac} {state:?}")),
            None => stage.fail(format_args!("{} got no answer to {protocol} for {gateway}", pod.name)),
        }
    }

    /// Round trips and TCP between two pods.
    fn reach(&self, place: &str, from: &Pod, to: &Pod, stage: &mut Stage<'_>) -> io::Result<Figures> {
        stage.heading(&format!("{} to {}, {place}", from.name, to.name))?;
        let address = self.address(to);
        let mut figures = Figures::default();
        // Without an answer to the first, the others would only take their time.
        let first = answered(ping(&from.netns, address, Ping { count: 1, ..Ping::default() }));
        if stage.take(&format!("ping {place}"), first)?.is_none() {
            return Ok(figures);
        }
        let many = Ping { count: 20, interval: Duration::from_millis(5), ..Ping::default() };
        let report = answered(ping(&from.netns, address, many));
        if let Some(report) = stage.take(&format!("ping {place}"), report)? {
            figures.round_trip = report.median();
            stage.line(format_args!("ping  {report}"))?;
        }
        for (from, to) in [(from, to), (to, from)] {
            let way = format!("TCP   {} > {}", from.name, to.name);
            let moved = intact(transfer(&from.netns, &to.netns, self.address(to), MOVED));
            if let Some(moved) = stage.take(&way, moved)? {
                let (mebibytes, hash) = (MOVED >> 20, moved.received_hash);
                stage.line(format_args!("{way}: {mebibytes} MiB, hash {hash:016x} at both ends"))?;
            }
        }
        let measured = throughput(&from.netns, &to.netns, address, self.duration);
        if let Some(measured) = stage.take(&format!("TCP {place}"), measured)? {
            figures.bits_per_second = Some(measured.bits_per_second());
            let (elapsed, gigabits) = (measured.elapsed, measured.bits_per_second() / 1e9);
            stage.line(format_args!("TCP   {elapsed:.1?}: {gigabits:.2} Gbit/s"))?;
        }
        Ok(figures)
    }

    /// Two pings across, as they pass the first node's underlay interface.
    fn underlay(&self, node: &Node, from: &Pod, to: &Pod, stage: &mut Stage<'_>) -> io::Result<()> {
        let (source, target, on) = (&from.name, &to.name, &node.name);
        stage.heading(&format!("{source} pings {target}: eth0 of {on}, outer and inner headers"))?;
        let (two, address) = (Ping { count: 2, ..Ping::default() }, self.address(to));
        // The first ping resolves what has to be resolved.
        let captured = ping(&from.netns, address, Ping { count: 1, ..two })
            .and_then(|_| during(&node.netns, || ping(&from.netns, address, two)));
        let Some((report, frames)) = stage.take("ping across nodes", captured)? else { return Ok(()) };
        let overlay = |frame: &Frame| dissect::concerns(&frame.bytes, Lab::pool(self.family));
        let frames: Vec<Frame> = frames.into_iter().filter(overlay).collect();
        stage.frames(&frames)?;
        let as_announced = |frame: &Frame| OnWire::of(&dissect::frame(&frame.bytes)) == self.on_wire;
        if report.lost() > 0 {
            stage.fail(format_args!("ping across nodes: {report}"))
        } else if frames.len() < 2 * report.sent || !frames.iter().all(as_announced) {
            let form = self.on_wire.name();
            stage.fail(format_args!("the underlay should show {form} packets only, both ways"))
        } else {
            Ok(())
        }
    }
}

/// A ping that lost something is a failure.
fn answered(result: Result<PingReport, BedError>) -> Result<PingReport, String> {
    match result {
        Ok(report) if report.lost() == 0 => Ok(report),
        Ok(report) => Err(report.to_string()),
        Err(e) => Err(e.to_string()),
    }
}

/// A transfer whose ends differ is a failure.
fn intact(result: Result<Transfer, BedError>) -> Result<Transfer, String> {
    match result {
        Ok(moved) if moved.intact() && moved.bytes == MOVED => Ok(moved),
        Ok(moved) => Err(format!("not what was sent: {moved:?}")),
        Err(e) => Err(e.to_string()),
    }
}

/// What passes `eth0` of a namespace while `work` runs.
fn during<T>(netns: &Netns, work: impl FnOnce() -> Result<T, BedError>) -> Result<(T, Vec<Frame>), BedError> {
    let capture = Capture::start(netns, "eth0")?;
    Ok((work()?, capture.stop()))
}

/// Nodes, pods and what is between.
fn picture(lab: &Lab, stage: &mut Stage<'_>) -> io::Result<()> {
    let [a, b] = &lab.nodes;
    let between = match lab.spec.topology {
        Topology::SameSubnet => "════",
        Topology::Routed => "══ router ══",
    };
    for family in Family::ALL {
        if let (Some(near), Some(far)) = (a.underlay_of(family), b.underlay_of(family)) {
            stage.line(format_args!("{} {near} {between} {far} {}", a.name, b.name))?;
        }
    }
    for (node, family) in lab.nodes.iter().flat_map(|node| Family::ALL.map(|family| (node, family))) {
        let Some(block) = node.block_of(family) else { continue };
        let pods = node.pods.iter().filter_map(|pod| Some((&pod.name, pod.address_of(family)?)));
        let pods: Vec<String> = pods.map(|(name, address)| format!("{name} {address}")).collect();
        stage.line(format_args!("{} block {block}: {}", node.name, pods.join(", ")))?;
    }
    let attach = match lab.spec.attach {
        Attach::Tap => "TAP",
        Attach::Veth => "veth",
    };
    let (pods, underlay) = (lab.spec.pod_mtu(), lab.spec.underlay_mtu);
    stage.line(format_args!("pods by {attach}; MTU: underlay {underlay}, pods {pods}"))
}

/// The routing table of each node, made from the same files as the daemon's.
fn routes(lab: &Lab, stage: &mut Stage<'_>) -> io::Result<()> {
    let loaded = datastore::load(lab.resources.path());
    let Some(resources) = stage.take("read the resources", loaded)? else { return Ok(()) };
    for node in &lab.nodes {
        stage.heading(&format!("Routes of {}", node.name))?;
        if let Some(plan) = stage.take("plan", rib::plan(&resources, &node.name))? {
            routes::table(&Route::all(&plan)).lines().try_for_each(|line| stage.line(line))?;
        }
    }
    Ok(())
}

/// ARP, and neighbour solicitations and advertisements (ICMPv6 135 and 136).
fn asks_for_neighbours(frame: &Frame) -> bool {
    match frame.bytes.get(12..14) {
        Some([0x08, 0x06]) => true,
        Some([0x86, 0xdd]) => {
            frame.bytes.get(20) == Some(&58) && matches!(frame.bytes.get(54), Some(135 | 136))
        }
        _ => false,
    }
}

/// What the daemons said, when something failed.
fn quote(lab: &mut Lab, stage: &mut Stage<'_>) -> io::Result<()> {
    for node in &mut lab.nodes {
        let Some(said) = node.daemon().map(|daemon| daemon.output()) else { continue };
        stage.heading(&format!("The daemon of {} said", node.name))?;
        said.lines().try_for_each(|line| stage.line(line))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testbed::{Mode, NodeKind};

    /// The show itself, with the kernel in the place of the daemons.
    fn shown(spec: LabSpec, on_wire: OnWire) -> (Outcome, String) {
        let scene = Scene {
            title: "rehearsal",
            spec: LabSpec { kinds: [NodeKind::Kernel; 2], ..spec },
            on_wire,
            family: Family::V4,
            binary: "/nonexistent".as_ref(),
            arguments: &[],
            duration: Duration::from_millis(100),
        };
        let mut out = Vec::new();
        let outcome = scene.play(&mut out).unwrap();
        (outcome, String::from_utf8(out).unwrap())
    }

    #[test]
    fn arp_and_both_headers_are_shown() {
        let (outcome, text) = shown(LabSpec::new(Mode::Vxlan), OnWire::Vxlan);
        assert_eq!(outcome.failures, [""; 0], "{text}");
        assert!(text.contains("Routes of node-b\n  PREFIX"), "{text}");
        assert!(text.contains("ARP who-has 169.254.1.1 tell 10.65.0.2\n"), "{text}");
        assert!(text.contains("ARP reply 169.254.1.1 is-at ee:ee:ee:ee:ee:ee\n"), "{text}");
        assert!(text.contains("neighbour 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee Reachable\n"), "{text}");
        let inner = text.lines().filter(|line| line.contains("VXLAN vni 4096 66:"));
        assert_eq!(
            inner.filter(|line| line.contains("10.65.0.2 > 10.65.0.66: ICMP echo request")).count(),
            2
        );
        assert!(text.contains("pod-b1 > pod-a1: 8 MiB, hash"), "{text}");
        assert!(outcome.remote.round_trip.is_some() && outcome.local.bits_per_second.is_some());
    }

    #[test]
    fn packets_in_another_form_than_announced_are_a_failure() {
        let (outcome, text) = shown(LabSpec::new(Mode::None), OnWire::Ipip);
        assert_eq!(outcome.failures, ["the underlay should show IPIP packets only, both ways"], "{text}");
    }
}
