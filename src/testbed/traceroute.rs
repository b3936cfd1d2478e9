//! Who is on the way: probes with one hop more each.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Slice, Icmpv4Type, Ipv4HeaderSlice};
use socket2::{Domain, Protocol, Socket, Type};

use super::BedError;
use crate::sys::filter::Filter;
use crate::sys::netns::Netns;

/// Who has not answered by then does not.
const PATIENCE: Duration = Duration::from_millis(500);
/// Farther is nobody.
const MAX_HOPS: u8 = 8;
/// Port of the first probe, as traceroute has it; it and those above are nobody's.
const PORT: u16 = 33434;
/// Identifier of the echo requests: a namespace's raw sockets hear each other's replies.
const ID: u16 = 0x7472;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// A datagram to a port where nobody listens.
    Udp,
    /// An echo request.
    Icmp,
}

/// Who answered a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// From where.
    pub from: IpAddr,
    /// ICMP type and code.
    pub said: (u8, u8),
}

/// Sends probes with TTL 1, 2 … until one has arrived, or nobody can be expected any more. An entry for each: who
/// answered, in the order of their answers; duplicates count.
///
/// # Errors
/// No raw socket, or no route.
pub fn traceroute(from: &Netns, to: IpAddr, probe: Probe) -> Result<Vec<Vec<Hop>>, BedError> {
    let open = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4));
    let ears = from.run(open)?.map_err(BedError::io("open a raw ICMP socket (CAP_NET_RAW)"))?;
    Filter::echo_replies(ID).attach(&ears).map_err(BedError::io("filter a raw ICMP socket"))?;
    let open = || Socket::new(Domain::IPV4, Type::DGRAM, None);
    let datagrams = from.run(open)?.map_err(BedError::io("open a UDP socket"))?;
    let mouth = if probe == Probe::Udp { &datagrams } else { &ears };
    let mut hops = Vec::new();
    for ttl in 1..=MAX_HOPS {
        mouth.set_ttl_v4(ttl.into()).map_err(BedError::io("set a TTL"))?;
        let message = match probe {
            Probe::Udp => b"margay".to_vec(),
            Probe::Icmp => {
                let echo = Icmpv4Type::EchoRequest(IcmpEchoHeader { id: ID, seq: ttl.into() });
                Icmpv4Header::with_checksum(echo, &[]).to_bytes().to_vec()
            }
        };
        let target = SocketAddr::new(to, PORT + u16::from(ttl));
        match mouth.send_to(&message, &target.into()) {
            Ok(_) => {}
            // What an earlier probe was told.
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable) => {}
            Err(e) => return Err(BedError::io(format!("send a probe to {to}"))(e)),
        }
        let heard = listen(&ears, to, probe, ttl)?;
        let is_end = heard.iter().any(|hop| hop.said.0 != TIME_EXCEEDED);
        hops.push(heard);
        if is_end {
            break;
        }
    }
    Ok(hops)
}

const TIME_EXCEEDED: u8 = 11;

/// The answers to the probe with this TTL: after the first one, what comes soon.
fn listen(mut ears: &Socket, to: IpAddr, probe: Probe, ttl: u8) -> Result<Vec<Hop>, BedError> {
    let (mut hops, mut deadline) = (Vec::new(), Instant::now() + PATIENCE);
    let mut buffer = vec![0; 65536];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(hops);
        }
        ears.set_read_timeout(Some(left)).map_err(BedError::io("set a time limit"))?;
        let length = match ears.read(&mut buffer) {
            Ok(length) => length,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
            Err(e) => return Err(BedError::io("receive an ICMP message")(e)),
        };
        let Some(hop) = answer(&buffer[..length], to, probe, ttl) else { continue };
        hops.push(hop);
        deadline = deadline.min(Instant::now() + PATIENCE / 10);
    }
}

/// Who says what in answer to the probe; `None` for what is about something else.
fn answer(packet: &[u8], to: IpAddr, probe: Probe, ttl: u8) -> Option<Hop> {
    let ip = Ipv4HeaderSlice::from_slice(packet).ok()?;
    let icmp = Icmpv4Slice::from_slice(&packet[ip.slice().len()..]).ok()?;
    let is_ours = match icmp.icmp_type() {
        Icmpv4Type::EchoReply(echo) => probe == Probe::Icmp && (echo.id, echo.seq) == (ID, ttl.into()),
        Icmpv4Type::TimeExceeded(_) | Icmpv4Type::DestinationUnreachable(_) => {
            let quoted = Ipv4HeaderSlice::from_slice(icmp.payload()).ok()?;
            let rest = icmp.payload().get(quoted.slice().len()..)?;
            // The port of UDP, the sequence number of an echo request.
            let (at, number) = match probe {
                Probe::Udp => (2, PORT + u16::from(ttl)),
                Probe::Icmp => (6, ttl.into()),
            };
            IpAddr::V4(quoted.destination_addr()) == to && rest.get(at..at + 2)? == number.to_be_bytes()
        }
        _ => false,
    };
    let from = ip.source_addr().into();
    is_ours.then_some(Hop { from, said: (icmp.type_u8(), icmp.code_u8()) })
}
