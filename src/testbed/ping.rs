//! Echo requests from inside a namespace.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, Ipv4HeaderSlice};
use socket2::{Domain, Protocol, Socket, Type};

use super::BedError;
use crate::sys::filter::Filter;
use crate::sys::netns::Netns;
use crate::wire::Family;

/// What to send.
#[derive(Debug, Clone, Copy)]
pub struct Ping {
    /// Echo requests.
    pub count: u16,
    /// Bytes after the ICMP header; 56 makes a packet of 84.
    pub size: usize,
    /// From one request to the next.
    pub interval: Duration,
    /// How long to wait for each reply.
    pub patience: Duration,
}

impl Default for Ping {
    /// Three of 56 bytes, 10 ms apart, a second of patience.
    fn default() -> Self {
        Self { count: 3, size: 56, interval: Duration::from_millis(10), patience: Duration::from_secs(1) }
    }
}

/// What came back.
#[derive(Debug, Clone, Default)]
pub struct PingReport {
    /// Requests sent.
    pub sent: usize,
    /// Round-trip time of each answered request, in their order.
    pub round_trips: Vec<Duration>,
    /// What the network said instead of an answer, like `ICMP type 3 code 1 from 10.65.0.1` or
    /// `ICMPv6 type 1 code 0 from fd10:65::1`, and how often.
    pub errors: BTreeMap<String, usize>,
}

impl PingReport {
    fn error(&mut self, text: String) {
        *self.errors.entry(text).or_default() += 1;
    }

    /// Requests without an answer.
    pub fn lost(&self) -> usize {
        self.sent - self.round_trips.len()
    }

    /// The median round-trip time; `None` if nothing came back.
    pub fn median(&self) -> Option<Duration> {
        let mut sorted = self.round_trips.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }
}

impl fmt::Display for PingReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sent, {} lost", self.sent, self.lost())?;
        if let Some(median) = self.median() {
            write!(f, ", median round trip {:.3} ms", median.as_secs_f64() * 1e3)?;
        }
        self.errors.iter().try_for_each(|(text, times)| write!(f, ", {times} times {text}"))
    }
}

/// Sends echo requests from `from` to `to` and waits for each reply, whose contents must be the request's.
///
/// # Errors
/// No raw socket, or no route. A request that is not answered is no error but a loss.
pub fn ping(from: &Netns, to: IpAddr, ping: Ping) -> Result<PingReport, BedError> {
    // Tells the replies of concurrent pings apart.
    static NEXT_ID: AtomicU16 = AtomicU16::new(1);
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    let family = Family::of(to);
    let socket =
        from.run(|| open(family, id))?.map_err(BedError::io("open a raw ICMP socket (CAP_NET_RAW)"))?;
    let payload: Vec<u8> = (0..ping.size).map(|n| n as u8).collect();
    let mut report = PingReport::default();
    for seq in 0..ping.count {
        let started = Instant::now();
        let message = request(family, id, seq, &payload);
        report.sent += 1;
        match socket.send_to(&message, SocketAddr::new(to, 0)) {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::HostUnreachable => report.error(e.to_string()),
            Err(e) => return Err(BedError::io(format!("send an echo request to {to}"))(e)),
        }
        if let Some(after) =
            wait_reply(&socket, (to, id, seq), &payload, started + ping.patience, &mut report)?
        {
            report.round_trips.push(after - started);
        }
        if seq + 1 < ping.count {
            std::thread::sleep(ping.interval.saturating_sub(started.elapsed()));
        }
    }
    Ok(report)
}

/// A raw socket; what sends and receives datagrams does so by any of them.
fn open(family: Family, id: u16) -> io::Result<UdpSocket> {
    let (domain, protocol) = match family {
        Family::V4 => (Domain::IPV4, Protocol::ICMPV4),
        Family::V6 => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    if family == Family::V4 {
        Filter::echo_replies(id).attach(&socket)?;
    }
    Ok(socket.into())
}

fn request(family: Family, id: u16, seq: u16, payload: &[u8]) -> Vec<u8> {
    let echo = IcmpEchoHeader { id, seq };
    let header = match family {
        Family::V4 => Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), payload).to_bytes(),
        // The kernel makes the checksum (RFC 3542 3.1).
        Family::V6 => {
            return [&Icmpv6Header::new(Icmpv6Type::EchoRequest(echo)).to_bytes()[..], payload].concat();
        }
    };
    [&header[..], payload].concat()
}

/// The time at which the reply arrived; `None` if it did not until `deadline`.
fn wait_reply(
    socket: &UdpSocket,
    (from, id, seq): (IpAddr, u16, u16),
    payload: &[u8],
    deadline: Instant,
    report: &mut PingReport,
) -> Result<Option<Instant>, BedError> {
    let family = Family::of(from);
    let mut buffer = vec![0; 65536];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left)).map_err(BedError::io("set a time limit"))?;
        let (length, source) = match socket.recv_from(&mut buffer) {
            Ok((length, source)) => (length, source.ip()),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
            Err(e) => return Err(BedError::io("receive an echo reply")(e)),
        };
        let now = Instant::now();
        match said(family, &buffer[..length]) {
            Said::Reply { to, payload: returned } if to == (id, seq) => {
                if source == from && returned == payload {
                    return Ok(Some(now));
                }
                report.error(format!("a reply from {source} that differs"));
            }
            Said::Error(kind, code) => {
                let version = if family == Family::V4 { "" } else { "v6" };
                report.error(format!("ICMP{version} type {kind} code {code} from {source}"));
            }
            Said::Reply { .. } | Said::Nothing => {}
        }
    }
}

/// What an ICMP message means to who has sent an echo request.
enum Said<'a> {
    /// The reply to the request with this identifier and sequence number.
    Reply { to: (u16, u16), payload: &'a [u8] },
    /// Something else, by type and code.
    Error(u8, u8),
    /// What is not about requests.
    Nothing,
}

/// Of IPv4 with the IP header, as the kernel gives it to raw sockets.
fn said(family: Family, message: &[u8]) -> Said<'_> {
    let icmp = match family {
        Family::V4 => Ipv4HeaderSlice::from_slice(message).map_or(&[][..], |ip| &message[ip.slice().len()..]),
        Family::V6 => message,
    };
    let Some(([kind, code, _, _, i0, i1, s0, s1], payload)) = icmp.split_first_chunk() else {
        return Said::Nothing;
    };
    match (family, kind) {
        (Family::V4, 0) | (Family::V6, 129) => {
            Said::Reply { to: (u16::from_be_bytes([*i0, *i1]), u16::from_be_bytes([*s0, *s1])), payload }
        }
        // Requests; of IPv6 all that is no error (RFC 4443 2.1), as neighbour discovery.
        (Family::V4, 8) | (Family::V6, 128..) => Said::Nothing,
        _ => Said::Error(*kind, *code),
    }
}
