//! One packet, injected at an endpoint and followed: the engine decides, as for every other.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use etherparse::PacketBuilder;
use serde::{Deserialize, Serialize};

use super::words::Names;
use super::{Agent, CaptureError, hex};
use crate::capture::{Link, Way};
use crate::dataplane::Command;
use crate::dataplane::tap::{self, Wanted};
use crate::dataplane::worker::Injection;
use crate::fib::Fib;

/// The packet to be injected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceRequest {
    /// The endpoint that seems to send it: its name, or its workload's.
    pub from: String,
    /// Where to.
    pub to: Ipv4Addr,
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
    /// An echo request.
    Icmp,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// It was sent; otherwise nothing happened but that it was considered.
    pub sent: bool,
    /// At each place that it passed, and what was made of it.
    pub frames: Vec<Traced>,
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
    /// Which: received, antispoof, lookup, MTU, ARP, verdict, socket.
    pub name: String,
    /// What came of it.
    pub text: String,
}

/// Source port, identifier: of a packet that nobody waits for an answer to.
const NUMBER: u16 = 47_890;
/// Data: who it is from, for whoever captures it elsewhere.
const DATA: &[u8] = b"margay trace";
/// Bytes of a frame that are shown, and how many frames: what was injected, and an ICMP error about it.
const SNAP: usize = 1024;
const RECORDS: usize = 16;

impl Agent {
    /// Injects a packet; `answer` gets what became of it, in a worker's thread.
    ///
    /// # Errors
    /// There is no such endpoint, or the packet cannot be made.
    pub fn trace(
        &self,
        request: &TraceRequest,
        answer: impl FnOnce(Trace) + Send + 'static,
    ) -> Result<(), CaptureError> {
        let endpoint = self.endpoint_called(&request.from)?;
        let mut attached = self.endpoints.values();
        let address = attached.find(|attached| attached.id == endpoint).and_then(|attached| {
            attached.plan.addresses.iter().find_map(|address| match address {
                IpAddr::V4(address) => Some(*address),
                IpAddr::V6(_) => None,
            })
        });
        let source = address.ok_or_else(|| CaptureError::NoEndpoint(request.from.clone()))?;
        let packet = packet(source, request)?;
        let (names, fib, sent) = (Names::of(self), self.publication.reader(), request.send);
        let tell = Box::new(move |records: Vec<tap::Record>| {
            let fib: &Arc<Fib> = fib.current();
            let frames = records.iter().map(|record| Traced {
                interface: names.interface(record.port).name,
                received: record.way == Way::In,
                ethernet: tap::link(record.port) == Link::Ethernet,
                bytes: hex(&record.bytes),
                steps: names.steps(fib, record).iter().map(|step| Step::of(step)).collect(),
            });
            answer(Trace { sent, frames: frames.collect() });
        });
        let tap = tap::tap_of(Wanted { snap: SNAP, ..Wanted::default() }, RECORDS);
        let injection = Injection { endpoint, packet, send: request.send, tap, tell };
        // Each can send everything; the agent ends with the last of them.
        let worker = (0..).find(|index| !self.ended.contains_key(index)).unwrap_or_default();
        self.workers.tell(worker, Command::Inject(injection));
        Ok(())
    }
}

impl Step {
    fn of(text: &str) -> Self {
        let (name, text) = text.split_once(": ").unwrap_or(("", text));
        Step { name: name.to_owned(), text: text.to_owned() }
    }
}

fn packet(source: Ipv4Addr, request: &TraceRequest) -> Result<Vec<u8>, CaptureError> {
    let wrong = |text: &str| CaptureError::Packet(text.to_owned());
    let port = || request.port.ok_or_else(|| wrong("want a destination port: --tcp PORT or --udp PORT"));
    let ip = PacketBuilder::ipv4(source.octets(), request.to.octets(), 64);
    let mut packet = Vec::new();
    match request.probe {
        Probe::Tcp => ip.tcp(NUMBER, port()?, 1, 65_535).syn().write(&mut packet, &[]),
        Probe::Udp => ip.udp(NUMBER, port()?).write(&mut packet, DATA),
        Probe::Icmp => ip.icmpv4_echo_request(NUMBER, 1).write(&mut packet, DATA),
    }
    .map_err(|error| wrong(&error.to_string()))?;
    Ok(packet)
}
