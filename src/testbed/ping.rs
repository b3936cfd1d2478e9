//! Echo requests from inside a namespace.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Slice, Icmpv4Type, Ipv4HeaderSlice};
use socket2::{Domain, Protocol, Socket, Type};

use super::BedError;
use crate::sys::filter::Filter;
use crate::sys::netns::Netns;

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
    /// What the network said instead of an answer, like `ICMP type 3 code 1 from 10.65.0.1`, and how often.
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
    let open = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4));
    let socket = from.run(open)?.map_err(BedError::io("open a raw ICMP socket (CAP_NET_RAW)"))?;
    Filter::echo_replies(id).attach(&socket).map_err(BedError::io("filter a raw ICMP socket"))?;
    let payload: Vec<u8> = (0..ping.size).map(|n| n as u8).collect();
    let mut report = PingReport::default();
    for seq in 0..ping.count {
        let started = Instant::now();
        let header =
            Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(IcmpEchoHeader { id, seq }), &payload);
        let message = [&header.to_bytes()[..], &payload].concat();
        report.sent += 1;
        match socket.send_to(&message, &SocketAddr::new(to, 0).into()) {
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

/// The time at which the reply arrived; `None` if it did not until `deadline`.
fn wait_reply(
    mut socket: &Socket,
    (from, id, seq): (IpAddr, u16, u16),
    payload: &[u8],
    deadline: Instant,
    report: &mut PingReport,
) -> Result<Option<Instant>, BedError> {
    let mut buffer = vec![0; 65536];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left)).map_err(BedError::io("set a time limit"))?;
        let length = match socket.read(&mut buffer) {
            Ok(length) => length,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
            Err(e) => return Err(BedError::io("receive an echo reply")(e)),
        };
        let now = Instant::now();
        let Ok(ip) = Ipv4HeaderSlice::from_slice(&buffer[..length]) else { continue };
        let Ok(icmp) = Icmpv4Slice::from_slice(&buffer[ip.slice().len()..length]) else { continue };
        match icmp.icmp_type() {
            Icmpv4Type::EchoReply(echo) if (echo.id, echo.seq) == (id, seq) => {
                if IpAddr::V4(ip.source_addr()) == from && icmp.payload() == payload {
                    return Ok(Some(now));
                }
                report.error(format!("a reply from {} that differs", ip.source_addr()));
            }
            Icmpv4Type::EchoReply(_) | Icmpv4Type::EchoRequest(_) => {}
            _ => report.error(format!(
                "ICMP type {} code {} from {}",
                icmp.type_u8(),
                icmp.code_u8(),
                ip.source_addr()
            )),
        }
    }
}
