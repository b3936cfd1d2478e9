//! One mode: a lab, shown step by step.

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::cli::dissect::{self, Dissection};
use crate::lpm::Prefix;
use crate::testbed::{
    BedError, Capture, Frame, Lab, LabSpec, Node, NodeKind, Ping, Pod, Topology, ping, throughput, transfer,
};

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

    /// Notes a failure and says so.
    fn fail(&mut self, out: &mut dyn Write, what: impl Into<String>) -> io::Result<()> {
        let what = what.into();
        writeln!(out, "  FAILED: {what}")?;
        // The summary has room for the first line of it; the rest has just been printed.
        self.failures.push(what.lines().next().unwrap_or_default().to_owned());
        Ok(())
    }
}

impl Scene<'_> {
    /// Builds the lab, shows it, and takes it down.
    ///
    /// # Errors
    /// Only that `out` takes no more: everything else is part of the outcome.
    pub(super) fn play(&self, out: &mut dyn Write) -> io::Result<Outcome> {
        let mut outcome = Outcome {
            title: self.title,
            on_wire: self.on_wire,
            local: Figures::default(),
            remote: Figures::default(),
            failures: Vec::new(),
        };
        writeln!(out, "\n━━ {} {:━<width$}\n", self.title, "", width = 90 - self.title.len().min(80))?;
        let mut lab = match Lab::new(self.spec.clone()) {
            Ok(lab) => lab,
            Err(e) => {
                outcome.fail(out, e.to_string())?;
                return Ok(outcome);
            }
        };
        picture(&lab, out)?;
        if let Err(e) = lab.start(self.binary, self.arguments) {
            outcome.fail(out, e.to_string())?;
            return Ok(outcome);
        }
        self.routes(&lab, &mut outcome, out)?;
        let [a, b] = &lab.nodes;
        let (here, neighbour) = (&a.pods[0], &a.pods[1]);
        let there = &b.pods[0];
        arp(here, neighbour, &mut outcome, out)?;
        outcome.local = self.reach("on one node", here, neighbour, &mut outcome, out)?;
        self.underlay(a, here, there, &mut outcome, out)?;
        outcome.remote = self.reach("across nodes", here, there, &mut outcome, out)?;
        if !outcome.failures.is_empty() {
            quote(&mut lab, out)?;
        }
        if let Err(e) = lab.stop() {
            outcome.fail(out, e.to_string())?;
        }
        Ok(outcome)
    }

    /// The routing table of each node, as `margay check` prints it.
    fn routes(&self, lab: &Lab, outcome: &mut Outcome, out: &mut dyn Write) -> io::Result<()> {
        for node in lab.nodes.iter().filter(|node| node.kind == NodeKind::Margay) {
            heading(out, &format!("Routes of {}", node.name))?;
            let files = lab.resources.path();
            let check =
                Command::new(self.binary).arg("check").arg(files).args(["--node", &node.name]).output();
            match check {
                Ok(output) if output.status.success() => {
                    let text = String::from_utf8_lossy(&output.stdout);
                    // The table is what is indented.
                    for line in text.lines().filter(|line| line.starts_with("  ")) {
                        writeln!(out, "{line}")?;
                    }
                }
                Ok(output) => outcome.fail(out, String::from_utf8_lossy(&output.stderr).trim().to_owned())?,
                Err(e) => outcome.fail(out, format!("margay check: {e}"))?,
            }
        }
        Ok(())
    }

    /// Round trips and TCP between two pods.
    fn reach(
        &self,
        place: &str,
        from: &Pod,
        to: &Pod,
        outcome: &mut Outcome,
        out: &mut dyn Write,
    ) -> io::Result<Figures> {
        heading(out, &format!("{} to {}, {place}", from.name, to.name))?;
        let mut figures = Figures::default();
        // Without an answer to the first, the others would only take their time.
        match ping(&from.netns, to.address, Ping { count: 1, ..Ping::default() }) {
            Ok(report) if report.lost() == 0 => {}
            Ok(report) => {
                outcome.fail(out, format!("ping {place}: {report}"))?;
                return Ok(figures);
            }
            Err(e) => {
                outcome.fail(out, e.to_string())?;
                return Ok(figures);
            }
        }
        let many = Ping { count: 20, interval: Duration::from_millis(5), ..Ping::default() };
        match ping(&from.netns, to.address, many) {
            Ok(report) if report.lost() == 0 => {
                figures.round_trip = report.median();
                writeln!(out, "  ping  {report}")?;
            }
            Ok(report) => outcome.fail(out, format!("ping {place}: {report}"))?,
            Err(e) => outcome.fail(out, e.to_string())?,
        }
        for (from, to) in [(from, to), (to, from)] {
            let route = format!("{} > {}", from.name, to.name);
            match transfer(&from.netns, &to.netns, to.address, MOVED) {
                Ok(moved) if moved.intact() && moved.bytes == MOVED => writeln!(
                    out,
                    "  TCP   {route}: {} MiB, hash {:016x} at both ends",
                    MOVED >> 20,
                    moved.received_hash
                )?,
                Ok(moved) => outcome.fail(out, format!("TCP {route}: not what was sent: {moved:?}"))?,
                Err(e) => outcome.fail(out, format!("TCP {route}: {e}"))?,
            }
        }
        match throughput(&from.netns, &to.netns, to.address, self.duration) {
            Ok(measured) => {
                figures.bits_per_second = Some(measured.bits_per_second());
                let gigabits = measured.bits_per_second() / 1e9;
                writeln!(out, "  TCP   {:.1?}: {gigabits:.2} Gbit/s", measured.elapsed)?;
            }
            Err(e) => outcome.fail(out, format!("TCP {place}: {e}"))?,
        }
        Ok(figures)
    }

    /// Two pings across, as they pass the first node's underlay interface.
    fn underlay(
        &self,
        node: &Node,
        from: &Pod,
        to: &Pod,
        outcome: &mut Outcome,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        heading(
            out,
            &format!("{} pings {}: eth0 of {}, outer and inner headers", from.name, to.name, node.name),
        )?;
        // The first ping resolves what has to be resolved.
        let two = Ping { count: 2, ..Ping::default() };
        let captured = ping(&from.netns, to.address, Ping { count: 1, ..two })
            .and_then(|_| during(node, || ping(&from.netns, to.address, two)));
        let (report, frames) = match captured {
            Ok(both) => both,
            Err(e) => return outcome.fail(out, e.to_string()),
        };
        let pool = Prefix::new(IpAddr::from([10, 65, 0, 0]), 16).unwrap_or(node.block);
        let frames: Vec<Frame> =
            frames.into_iter().filter(|frame| dissect::concerns(&frame.bytes, pool)).collect();
        print(&frames, out)?;
        let forms: Vec<OnWire> =
            frames.iter().map(|frame| OnWire::of(&dissect::frame(&frame.bytes))).collect();
        if report.lost() > 0 {
            outcome.fail(out, format!("ping across nodes: {report}"))?;
        } else if forms.len() < 2 * report.sent || forms.iter().any(|form| *form != self.on_wire) {
            let want = self.on_wire.name();
            outcome.fail(out, format!("the underlay should show {want} packets only, both ways"))?;
        }
        Ok(())
    }
}

/// What passes a node's underlay interface while `work` runs.
fn during<T>(node: &Node, work: impl FnOnce() -> Result<T, BedError>) -> Result<(T, Vec<Frame>), BedError> {
    let capture = Capture::start(&node.netns, "eth0")?;
    Ok((work()?, capture.stop()))
}

/// The pod's first question, and what it knows afterwards.
fn arp(pod: &Pod, other: &Pod, outcome: &mut Outcome, out: &mut dyn Write) -> io::Result<()> {
    heading(out, &format!("ARP of {} for its gateway 169.254.1.1", pod.name))?;
    let asked = pod.forget_gateway().and_then(|()| {
        let capture = Capture::start(&pod.netns, "eth0")?;
        ping(&pod.netns, other.address, Ping { count: 1, ..Ping::default() })?;
        let frames = capture.stop();
        Ok((frames, pod.gateway()?))
    });
    let (frames, gateway) = match asked {
        Ok(both) => both,
        Err(e) => return outcome.fail(out, e.to_string()),
    };
    let is_arp = |frame: &Frame| frame.bytes.get(12..14) == Some(&[0x08, 0x06]);
    let frames: Vec<Frame> = frames.into_iter().filter(is_arp).collect();
    print(&frames, out)?;
    match gateway.and_then(|entry| Some((entry.mac?, entry.state))) {
        Some((mac, state)) => writeln!(out, "  neighbour 169.254.1.1 lladdr {mac} {state:?}"),
        None => outcome.fail(out, format!("{} got no answer to ARP for 169.254.1.1", pod.name)),
    }
}

/// What the daemons said, when something failed.
fn quote(lab: &mut Lab, out: &mut dyn Write) -> io::Result<()> {
    for node in &mut lab.nodes {
        let Some(said) = node.daemon().map(|daemon| daemon.output()) else { continue };
        heading(out, &format!("The daemon of {} said", node.name))?;
        for line in said.lines() {
            writeln!(out, "  {line}")?;
        }
    }
    Ok(())
}

/// Nodes, pods and what is between.
fn picture(lab: &Lab, out: &mut dyn Write) -> io::Result<()> {
    let [a, b] = &lab.nodes;
    let between = match lab.spec.topology {
        Topology::SameSubnet => "════",
        Topology::Routed => "══ router ══",
    };
    writeln!(out, "  {} {} {between} {} {}", a.name, a.underlay, b.underlay, b.name)?;
    for node in &lab.nodes {
        let pods: Vec<String> = node.pods.iter().map(|pod| format!("{} {}", pod.name, pod.address)).collect();
        writeln!(out, "  {} block {}: {}", node.name, node.block, pods.join(", "))?;
    }
    let attach = match lab.spec.attach {
        crate::rib::Attach::Tap => "TAP",
        crate::rib::Attach::Veth => "veth",
    };
    let (pods, underlay) = (lab.spec.pod_mtu(), lab.spec.underlay_mtu);
    writeln!(out, "  pods by {attach}; MTU: underlay {underlay}, pods {pods}")
}

fn heading(out: &mut dyn Write, text: &str) -> io::Result<()> {
    writeln!(out, "\n{text}")
}

/// Frames with the time since the first, a line for each level of headers.
fn print(frames: &[Frame], out: &mut dyn Write) -> io::Result<()> {
    for frame in frames {
        let since = frame.at.saturating_sub(frames[0].at);
        write!(out, "  {:.6}  ", since.as_secs_f64())?;
        for (depth, level) in dissect::frame(&frame.bytes).levels.iter().enumerate() {
            if depth > 0 {
                write!(out, "{:indent$}", "", indent = 12 + 4 * depth)?;
            }
            writeln!(out, "{level}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testbed::Mode;

    /// The show itself, with the kernel in the place of the daemons.
    fn shown(spec: LabSpec, on_wire: OnWire) -> (Outcome, String) {
        let scene = Scene {
            title: "rehearsal",
            spec: LabSpec { kinds: [NodeKind::Kernel; 2], ..spec },
            on_wire,
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
