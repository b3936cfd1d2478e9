//! What became of a frame, in words: names of the resources, the route with its rule, the outcome.
//!
//! The engine decided already: what is said here is read from the record, and explained by the tables that the engine had.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::routed;
use crate::agent::{Agent, counts};
use crate::buf::Segmentation;
use crate::capture::{Header, Headers, Interface, Ip, Way};
use crate::dataplane::engine::mtu;
use crate::dataplane::tap::{self, Outcome, Record};
use crate::dataplane::{Party, PortId, Verdict};
use crate::fib::{Action, EndpointId, Fib};
use crate::rib::{NodePlan, Route};
use crate::verdict::DropReason;

/// Names of what the workers know by numbers.
#[derive(Debug, Default)]
pub(super) struct Names {
    plan: Option<NodePlan>,
    /// Workloads by their endpoints' ids.
    workloads: BTreeMap<EndpointId, String>,
}

impl Names {
    pub(super) fn of(agent: &Agent) -> Self {
        let attached = agent.endpoints.values();
        Names {
            plan: Some(agent.plan.clone()),
            workloads: attached.map(|attached| (attached.id, attached.plan.workload.clone())).collect(),
        }
    }

    /// Where a frame was seen.
    pub(super) fn interface(&self, port: Option<PortId>) -> Interface {
        let made_up = "outer headers are the kernel's and made up here: source port, id and checksum are not those on the wire";
        let (name, description) = match port {
            Some(PortId::Endpoint(id)) => (self.workload(id), "endpoint of a workload"),
            Some(PortId::Ipip) => ("ipip".into(), "IPIP tunnels"),
            Some(PortId::Vxlan(_)) => {
                return interface("vxlan".into(), &format!("VXLAN tunnels; {made_up}"), port);
            }
            Some(PortId::Direct) => ("direct".into(), "to peers without encapsulation"),
            Some(PortId::Underlay(_)) => ("underlay".into(), "from the underlay without encapsulation"),
            Some(PortId::Host) => ("host".into(), "this node's kernel"),
            Some(PortId::Errors(_)) => ("errors".into(), "ICMP errors to this node"),
            None => ("slowpath".into(), "what margay makes itself, or kept waiting"),
        };
        interface(name, description, port)
    }

    /// What became of it, in one line.
    pub(super) fn outcome(&self, fib: &Fib, record: &Record) -> String {
        let made = match (record.port, record.from) {
            (None, Some(from)) => format!("made of a frame of {}: ", self.party(from)),
            _ => String::new(),
        };
        let by = || match self.route(fib, record) {
            Some(route) => format!(" by route {}", route.prefix),
            None => String::new(),
        };
        let said = match record.outcome {
            Outcome::Forwarded(verdict) => format!("{}{}", self.verdict(verdict, record.to), by()),
            Outcome::Sent => format!("sent{}", self.to(record)),
            Outcome::Kept => format!("would leave here{}: not sent", self.to(record)),
            outcome => self.exception(outcome),
        };
        format!("{made}{said}{}", segments(record))
    }

    /// Each step of it.
    pub(super) fn steps(&self, fib: &Fib, record: &Record) -> Vec<String> {
        if record.way == Way::Out {
            let encapsulated = outer(fib, record).map(|outer| format!("encapsulation: {outer}"));
            let socket = format!("socket: {}", self.outcome(fib, record));
            return encapsulated.into_iter().chain([socket]).collect();
        }
        let mut steps = vec![self.received(record)];
        let forwarded = match record.outcome {
            Outcome::Forwarded(verdict) => Some(verdict),
            _ => None,
        };
        if let Some(Verdict::Reply(_)) = forwarded {
            steps.push("neighbor: answered with the gateway's MAC".into());
            return steps;
        }
        if is_checked(record.outcome) {
            steps.extend(outer(fib, record).map(|outer| format!("decapsulation: {outer}")));
            steps.extend(self.antispoof(fib, record));
        }
        if let Some(ip) = routed(fib, record) {
            steps.push(self.lookup(fib, ip.dst));
            if forwarded.is_some() && record.segments.is_none() {
                steps.push(fits(fib, ip.dst));
            }
        }
        match forwarded {
            Some(verdict) => {
                if let Verdict::Workload(id) = verdict {
                    steps.push(format!("neighbor: the MAC of {} is known", self.workload(id)));
                }
                steps.push(format!("verdict: {}{}", self.verdict(verdict, record.to), segments(record)));
            }
            None => steps.push(format!("verdict: {}", self.exception(record.outcome))),
        }
        steps
    }

    fn received(&self, record: &Record) -> String {
        let from = record.from.map_or("margay".into(), |from| self.party(from));
        match record.port {
            Some(port) => {
                format!("received: {} bytes at {} from {from}", record.len, self.interface(Some(port)).name)
            }
            None => format!("made: {} bytes, of a frame of {from}", record.len),
        }
    }

    /// Of a frame that passed it.
    fn antispoof(&self, fib: &Fib, record: &Record) -> Option<String> {
        let source = routed(fib, record)?.src;
        Some(match (record.port?, record.from?) {
            (PortId::Endpoint(_), from) => format!("antispoof: {source} may be sent by {}", self.party(from)),
            (PortId::Ipip | PortId::Vxlan(_), from) => {
                format!("antispoof: {source} may come from {}", self.party(from))
            }
            (PortId::Underlay(_), _) => {
                format!("antispoof: {source} is of no workload or tunnel of this node")
            }
            _ => return None,
        })
    }

    fn lookup(&self, fib: &Fib, destination: IpAddr) -> String {
        match self.plan.as_ref().and_then(|plan| Some((plan, plan.routes_to(destination).next()?))) {
            Some((plan, route)) => {
                format!("lookup: {destination} is in {}: {}", route.prefix, plan.explain(route))
            }
            None => match fib.lookup_any(destination) {
                Action::Host => format!("lookup: {destination} is in no route: the node's kernel takes it"),
                _ => format!("lookup: {destination} is in no route"),
            },
        }
    }

    fn route(&self, fib: &Fib, record: &Record) -> Option<&Route> {
        self.plan.as_ref()?.routes_to(routed(fib, record)?.dst).next()
    }

    fn verdict(&self, verdict: Verdict, to: Option<IpAddr>) -> String {
        let peer = to.map_or(String::new(), |to| self.party(Party::Peer(to)));
        match verdict {
            Verdict::Workload(id) => format!("to {}", self.workload(id)),
            Verdict::Reply(id) => format!("answered to {}", self.workload(id)),
            Verdict::Ipip => format!("to IPIP tunnel to {peer}"),
            Verdict::Vxlan(_) => format!("to VXLAN tunnel to {peer}"),
            Verdict::Direct => format!("to {peer} without encapsulation"),
            Verdict::Host => "to this node's kernel".into(),
            Verdict::Punt(reason) => format!("punted: {reason}: {}", reason.explanation()),
        }
    }

    fn exception(&self, outcome: Outcome) -> String {
        let dropped = |reason: DropReason| format!("dropped: {reason}: {}", reason.explanation());
        match outcome {
            Outcome::Dropped(reason) => dropped(reason),
            Outcome::Punted(reason, None) => format!("punted: {reason}: {}", reason.explanation()),
            Outcome::Punted(reason, Some(drop)) => format!("punted: {reason}; {}", dropped(drop)),
            Outcome::Refused { reason, lost } => {
                format!("perhaps one of {lost} that were not taken in this turn; {}", dropped(reason))
            }
            Outcome::Forwarded(_) | Outcome::Sent | Outcome::Kept => String::new(),
        }
    }

    fn to(&self, record: &Record) -> String {
        record.to.map_or(String::new(), |to| format!(" to {}", self.party(Party::Peer(to))))
    }

    pub(super) fn party(&self, party: Party) -> String {
        let peers = self.plan.as_ref().map_or(&[][..], |plan| &plan.peers);
        counts::name_of(party, peers, |id| self.workloads.get(&id).cloned())
    }

    /// Name of the peer that has an address, or the address.
    pub(super) fn node(&self, address: IpAddr) -> String {
        let mut peers = self.plan.iter().flat_map(|plan| &plan.peers);
        let known = peers.find(|peer| peer.underlays.have(address));
        known.map_or_else(|| address.to_string(), |peer| peer.name.clone())
    }

    fn workload(&self, id: EndpointId) -> String {
        self.party(Party::Endpoint(id))
    }
}

fn interface(name: String, description: &str, port: Option<PortId>) -> Interface {
    Interface { name, description: description.to_owned(), link: tap::link(port) }
}

/// Whether a frame that came in got as far as the lookup: its headers and its source are right.
fn is_checked(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Forwarded(_) | Outcome::Punted(..) => true,
        Outcome::Dropped(reason) => matches!(reason, DropReason::Blackhole | DropReason::TransitRefused),
        Outcome::Sent | Outcome::Refused { .. } | Outcome::Kept => false,
    }
}

/// The outer header of a tunnel's frame.
fn outer(fib: &Fib, record: &Record) -> Option<String> {
    let what = match record.port? {
        PortId::Ipip => "IPIP (protocol 4)".to_owned(),
        PortId::Vxlan(_) => format!("VXLAN (UDP port {}, VNI {})", fib.node().vxlan_port, fib.node().vni.0),
        _ => return None,
    };
    let headers = Headers::of(tap::link(record.port), &record.bytes, fib.node().vxlan_port);
    let Header::Ip(Ip { src, dst, .. }) = headers.iter().next()? else { return None };
    Some(format!("{what} from {src} to {dst}"))
}

/// Of a packet that was not too long.
fn fits(fib: &Fib, destination: IpAddr) -> String {
    let mtu = match destination {
        IpAddr::V4(destination) => mtu::<Ipv4Addr>(fib, fib.lookup(destination)),
        IpAddr::V6(destination) => mtu::<Ipv6Addr>(fib, fib.lookup(destination)),
    };
    match mtu {
        u16::MAX => "MTU: nothing is sent that could be too long".into(),
        mtu => format!("MTU: it fits into the {mtu} bytes that this way takes"),
    }
}

fn segments(record: &Record) -> String {
    let Some(segments) = record.segments else { return String::new() };
    let kind = match segments.kind {
        Segmentation::Tcp | Segmentation::TcpEcn => "TCP",
        Segmentation::Udp => "UDP",
    };
    format!("; super-frame: {kind} segments of {} bytes", segments.size)
}
