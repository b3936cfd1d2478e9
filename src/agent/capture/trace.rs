//! One packet, injected at an endpoint and followed: the engine decides, as for every other. And the far side of it: what
//! a peer sends, considered as if it had arrived.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{IpHeaders, Ipv4Header, Ipv6FlowLabel, Ipv6Header, PacketBuilder};
use serde::{Deserialize, Serialize};

use super::words::Names;
use super::{Agent, CaptureError, hex, unhex};
use crate::agent::underlay::own_prefixes;
use crate::capture::{Link, Way};
use crate::dataplane::tap::{self, Outcome, Record, Wanted};
use crate::dataplane::worker::{Entrance, Injection};
use crate::dataplane::{Command, PortId};
use crate::fib::Fib;
use crate::wire::ip::{Address, View};
use crate::wire::{Ecn, Family, Protocol, ethernet, udp};

/// The packet to be injected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceRequest {
    /// The endpoint that seems to send it: its name, or its workload's.
    pub from: String,
    /// Where to.
    pub to: IpAddr,
    /// What it carries.
    pub probe: Probe,
    /// Destination port of TCP and UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Send it; otherwise it is only considered.
    #[serde(default)]
    pub send: bool,
}

/// What an injected packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// A SYN.
    Tcp,
    /// A datagram.
    Udp,
    /// An echo request: of ICMP, or of ICMPv6.
    Icmp,
}

/// What another node sends to this one, to be considered as if it had arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArrivalRequest {
    /// How it was sent.
    pub interface: Onto,
    /// The IP packet as it leaves the other node, outer headers first, in hexadecimal digits.
    pub packet: String,
}

/// How a packet leaves for another node; the names are those of a capture's interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Onto {
    /// Within an IPIP tunnel.
    Ipip,
    /// Within a VXLAN tunnel.
    Vxlan,
    /// Without encapsulation.
    Direct,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// The node that says so.
    pub node: String,
    /// It was sent; otherwise nothing happened but that it was considered.
    pub sent: bool,
    /// The node that it goes on to.
    pub onward: Option<Onward>,
    /// At each place that it passed, and what was made of it.
    pub frames: Vec<Traced>,
}

/// Where a packet goes on to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Onward {
    /// Name of the Node, or the address where none has it.
    pub node: String,
    /// Its address.
    pub address: IpAddr,
    /// How it is sent there.
    pub interface: Onto,
    /// It as it leaves, in hexadecimal digits, as [`ArrivalRequest`] takes it.
    pub packet: String,
}

/// A frame at one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traced {
    /// Name of the interface.
    pub interface: String,
    /// It came in there; otherwise it goes out.
    pub received: bool,
    /// It begins with an Ethernet header; otherwise with an IP header.
    pub ethernet: bool,
    /// The frame, in hexadecimal digits.
    pub bytes: String,
    /// What was done with it.
    pub steps: Vec<Step>,
}

/// One step of the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Which: received, antispoof, lookup, MTU, neighbor, verdict, socket.
    pub name: String,
    /// What came of it.
    pub text: String,
}

/// Source port, identifier: of a packet that nobody waits for an answer to.
const NUMBER: u16 = 47_890;
/// TTL, hop limit.
const HOPS: u8 = 64;
/// Data: who it is from, for whoever captures it elsewhere.
const DATA: &[u8] = b"margay trace";
/// Bytes of a frame that are shown, and how many frames: what was injected, and an ICMP error about it.
const SNAP: usize = 1024;
const RECORDS: usize = 16;

/// What is told of an injected packet; nothing where it could not even be injected.
type Told = Result<Trace, CaptureError>;

impl Agent {
    /// Injects a packet; `answer` gets what became of it, in a worker's thread.
    ///
    /// # Errors
    /// There is no such endpoint, it has no address of the destination's family, or the packet cannot be made.
    pub fn trace(
        &self,
        request: &TraceRequest,
        answer: impl FnOnce(Told) + Send + 'static,
    ) -> Result<(), CaptureError> {
        let endpoint = self.endpoint_called(&request.from)?;
        let family = Family::of(request.to);
        let mut attached = self.endpoints.values();
        let address = attached.find(|attached| attached.id == endpoint).and_then(|attached| {
            attached.plan.addresses.iter().copied().find(|address| Family::of(*address) == family)
        });
        let wrong = || CaptureError::Packet(format!("{} has no {family} address", request.from));
        let packet = packet(address.ok_or_else(wrong)?, request)?;
        self.inject(Entrance::Workload(endpoint), packet, request.send, answer);
        Ok(())
    }

    /// Considers what another node sends, as if it had arrived; nothing comes of it. `answer` gets what would, in a
    /// worker's thread.
    ///
    /// # Errors
    /// It is no packet, or one that would not reach the workers.
    pub fn consider(
        &self,
        request: &ArrivalRequest,
        answer: impl FnOnce(Told) + Send + 'static,
    ) -> Result<(), CaptureError> {
        let bytes = unhex(&request.packet).ok_or("the packet is not in hexadecimal digits".to_owned());
        let arrival = bytes.and_then(|bytes| match Family::of_packet(&bytes) {
            Some(Family::V4) => self.arrival::<Ipv4Addr>(request.interface, &bytes),
            Some(Family::V6) => self.arrival::<Ipv6Addr>(request.interface, &bytes),
            None => Err("it is no IP packet".into()),
        });
        let (entrance, bytes) = arrival.map_err(CaptureError::Packet)?;
        self.inject(entrance, bytes, false, answer);
        Ok(())
    }

    fn inject(
        &self,
        entrance: Entrance,
        bytes: Vec<u8>,
        send: bool,
        answer: impl FnOnce(Told) + Send + 'static,
    ) {
        let (names, fib, node) = (Names::of(self), self.publication.reader(), self.plan.node.clone());
        let tell = Box::new(move |records: Vec<Record>| {
            let frames = records.iter().map(|record| traced(&names, fib.current(), record));
            answer(match records.is_empty() {
                true => Err(CaptureError::NoBuffer),
                false => Ok(Trace {
                    node,
                    sent: send,
                    onward: records.iter().find_map(|record| onward(&names, record)),
                    frames: frames.collect(),
                }),
            });
        });
        let tap = tap::tap_of(Wanted { snap: SNAP, ..Wanted::default() }, RECORDS);
        let injection = Injection { entrance, bytes, send, tap, tell };
        // Each can send everything; the agent ends with the last of them.
        let worker = (0..).find(|index| !self.ended.contains_key(index)).unwrap_or_default();
        self.workers.tell(worker, Command::Inject(injection));
    }

    /// The port that takes it, and what that port receives; or why none does.
    fn arrival<A: Address>(&self, interface: Onto, bytes: &[u8]) -> Result<(Entrance, Vec<u8>), String> {
        let node = &self.plan.node;
        let family = A::FAMILY;
        let ip = A::View::parse(bytes).map_err(|error| format!("it is no {family} packet: {error}"))?;
        let destination: IpAddr = ip.dst().into();
        if interface != Onto::Direct && !self.plan.underlays.have(destination) {
            let own = self.plan.underlays.of(family);
            let own = own.map_or_else(|| format!("no {family} address"), |own| own.address.to_string());
            return Err(format!(
                "it goes to {destination}, but {node} has {own}: both nodes need the same Node resources"
            ));
        }
        let needs = self.underlay.needs();
        let underlay = |port| Entrance::Underlay { port, peer: ip.src().into(), ecn: ip.ecn() };
        match interface {
            Onto::Ipip if family == Family::V6 => Err("IPIP is within IPv4 alone".into()),
            Onto::Ipip if !needs.ipip => Err(format!(
                "{node} has no socket for IPIP, as no pool or route of its asks for it: both nodes need the same IPPools"
            )),
            Onto::Ipip => Ok((underlay(PortId::Ipip), ip.packet().to_vec())),
            Onto::Vxlan => {
                let port = needs.vxlan.ok_or_else(|| format!("{node} has no socket for VXLAN, as no pool or route of its asks for it: both nodes need the same IPPools"))?;
                let datagram = udp::Udp::parse(ip.payload()).ok().filter(|_| ip.protocol() == Protocol::UDP);
                let datagram = datagram.ok_or("it is no datagram")?;
                if datagram.dst_port() != port {
                    return Err(format!(
                        "it goes to UDP port {}, but {node} takes VXLAN at {port}: both nodes need the same vxlanPort",
                        datagram.dst_port()
                    ));
                }
                Ok((underlay(PortId::Vxlan(family)), datagram.payload().to_vec()))
            }
            Onto::Direct if self.rootless.is_some() => {
                Err(format!("{node} takes nothing but VXLAN: it runs without raw sockets"))
            }
            Onto::Direct if !own_prefixes(&self.plan).iter().any(|own| own.contains(&destination)) => {
                Err(format!("{node} leaves it to its kernel: {destination} is in no block of its"))
            }
            Onto::Direct => {
                // Nobody asks for the MACs.
                let mut frame = vec![0; ethernet::HEADER_LEN];
                frame[12..].copy_from_slice(&A::ETHERTYPE.0.to_be_bytes());
                frame.extend_from_slice(ip.packet());
                let (peer, ecn) = (Ipv4Addr::UNSPECIFIED.into(), Ecn::NotEct);
                Ok((Entrance::Underlay { port: PortId::Underlay(family), peer, ecn }, frame))
            }
        }
    }
}

/// Where a record of a frame that leaves says that it goes.
fn onward(names: &Names, record: &Record) -> Option<Onward> {
    let address = record.to.filter(|_| matches!(record.outcome, Outcome::Sent | Outcome::Kept))?;
    let interface = match record.port? {
        PortId::Ipip => Onto::Ipip,
        PortId::Vxlan(_) => Onto::Vxlan,
        PortId::Direct => Onto::Direct,
        PortId::Endpoint(_) | PortId::Underlay(_) | PortId::Host | PortId::Errors(_) => return None,
    };
    Some(Onward { node: names.node(address), address, interface, packet: hex(&record.bytes) })
}

fn traced(names: &Names, fib: &Fib, record: &Record) -> Traced {
    Traced {
        interface: names.interface(record.port).name,
        received: record.way == Way::In,
        ethernet: tap::link(record.port) == Link::Ethernet,
        bytes: hex(&record.bytes),
        steps: names.steps(fib, record).iter().map(|step| Step::of(step)).collect(),
    }
}

impl Step {
    /// Of a line of a capture's comment.
    pub fn of(text: &str) -> Self {
        let (name, text) = text.split_once(": ").unwrap_or(("", text));
        Step { name: name.to_owned(), text: text.to_owned() }
    }
}

fn packet(source: IpAddr, request: &TraceRequest) -> Result<Vec<u8>, CaptureError> {
    let wrong = |text: &str| CaptureError::Packet(text.to_owned());
    let port = || request.port.ok_or_else(|| wrong("want a destination port: --tcp PORT or --udp PORT"));
    // Which one it is, for who finds it on another node: by chance, as the standard library has it.
    let number = RandomState::new().hash_one(request.to);
    let ip = match (source, request.to) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => IpHeaders::Ipv4(
            Ipv4Header {
                identification: number as u16,
                time_to_live: HOPS,
                source: source.octets(),
                destination: destination.octets(),
                ..Ipv4Header::default()
            },
            Default::default(),
        ),
        (IpAddr::V6(source), IpAddr::V6(destination)) => IpHeaders::Ipv6(
            Ipv6Header {
                flow_label: Ipv6FlowLabel::try_new(number as u32 & Ipv6FlowLabel::MAX_U32)
                    .unwrap_or_default(),
                hop_limit: HOPS,
                source: source.octets(),
                destination: destination.octets(),
                ..Ipv6Header::default()
            },
            Default::default(),
        ),
        _ => return Err(wrong("source and destination are of different families")),
    };
    let ip = PacketBuilder::ip(ip);
    let mut packet = Vec::new();
    match (request.probe, request.to) {
        (Probe::Tcp, _) => ip.tcp(NUMBER, port()?, 1, 65_535).syn().write(&mut packet, &[]),
        (Probe::Udp, _) => ip.udp(NUMBER, port()?).write(&mut packet, DATA),
        (Probe::Icmp, IpAddr::V4(_)) => ip.icmpv4_echo_request(NUMBER, 1).write(&mut packet, DATA),
        (Probe::Icmp, IpAddr::V6(_)) => ip.icmpv6_echo_request(NUMBER, 1).write(&mut packet, DATA),
    }
    .map_err(|error| wrong(&error.to_string()))?;
    Ok(packet)
}
