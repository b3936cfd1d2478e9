//! A steady stream of numbered UDP datagrams, one way: which of them do not arrive, or twice, and how long none did.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::SockRef;

use super::BedError;
use crate::sys::netns::Netns;

/// What the receiver's socket may hold, bytes: it must not be the receiver that loses.
const RECEIVE_BUFFER: usize = 64 << 20;
/// Nothing for so long after the last was sent, and nothing more will come.
const SETTLE: Duration = Duration::from_secs(2);
/// Most datagrams that are sent without a look at the time, unless more are due since the sender was late for so long: on a
/// machine with other things to do it wakes that late, and a high rate would not be reached without making up for it. More
/// would be bursts that no queue holds.
const BURST: u64 = 64;
const LATE: Duration = Duration::from_millis(5);
/// Datagrams that are outstanding at most before the first has arrived: the sender's kernel keeps some 90 for a neighbour whose
/// MAC it still asks for (`unres_qlen_bytes`), and drops the oldest of more.
const FIRST: u64 = 32;
/// When the sender has to hold back, and when there is nothing to send yet.
const PAUSE: Duration = Duration::from_micros(500);

/// What to send.
#[derive(Debug, Clone, Copy)]
pub struct Steady {
    /// Bytes of each datagram, 8 to 1,472.
    pub payload: usize,
    /// Datagrams.
    pub count: u64,
    /// Datagrams a second.
    pub rate: f64,
    /// The sender holds back while so many have not arrived: on a machine that is too slow for the rate nothing is lost
    /// for that alone.
    pub outstanding: u64,
}

/// What became of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Arrivals {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that did not arrive.
    pub lost: u64,
    /// Datagrams that arrived once more.
    pub repeated: u64,
    /// Datagrams that arrived after one which was sent later.
    pub out_of_order: u64,
    /// Longest time in which none arrived.
    pub gap: Duration,
    /// How long was sent.
    pub sending: Duration,
    /// From the first to the last that arrived.
    pub arriving: Duration,
}

/// Sends datagrams from `from` to `address`, which `to` has, and watches what arrives.
///
/// # Errors
/// Sockets could not be made, or not be used. Loss is no error.
pub fn steady(from: &Netns, to: &Netns, address: IpAddr, spec: Steady) -> Result<Arrivals, BedError> {
    let open = |netns: &Netns, at: IpAddr| -> Result<UdpSocket, BedError> {
        let bound = netns.run(|| UdpSocket::bind(SocketAddr::new(at, 0)))?;
        bound.map_err(BedError::io(format!("open a UDP socket at {at}")))
    };
    let sink = open(to, address)?;
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let source = open(from, any)?;
    let ready = || -> io::Result<()> {
        // Beyond net.core.rmem_max only with CAP_NET_ADMIN over the machine; else as large as it may be.
        if setsockopt(&sink, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            SockRef::from(&sink).set_recv_buffer_size(RECEIVE_BUFFER)?;
        }
        sink.set_read_timeout(Some(Duration::from_millis(20)))?;
        source.connect(sink.local_addr()?)
    };
    ready().map_err(BedError::io(format!("connect UDP to {address}")))?;
    let (arrived, ended) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(&sink, spec, &arrived, &ended));
        let sent = send(&source, spec, &arrived);
        ended.store(true, Ordering::Relaxed);
        let arrivals = receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let (sent, sending) = sent.map_err(BedError::io(format!("send UDP to {address}")))?;
        let arrivals = arrivals.map_err(BedError::io(format!("receive UDP at {address}")))?;
        Ok(Arrivals { sent, sending, ..arrivals })
    })
}

fn send(socket: &UdpSocket, spec: Steady, arrived: &AtomicU64) -> io::Result<(u64, Duration)> {
    // To the microsecond, not to the usual 50. Nothing is wrong without it but the rate's evenness.
    let _ = prctl::set_timerslack(1);
    let mut datagram = vec![0x5a; spec.payload];
    let (mut sent, started) = (0, Instant::now());
    // What was held back is not made up for.
    let burst = f64::max(BURST as f64, spec.rate * LATE.as_secs_f64());
    let mut owed = 0.0;
    let mut last = started;
    // Bounded, should nothing arrive any more: then what is left is not sent.
    let limit = Duration::from_secs_f64(spec.count as f64 / spec.rate) * 8 + Duration::from_secs(10);
    while sent < spec.count && started.elapsed() < limit {
        let now = Instant::now();
        owed = f64::min(owed + spec.rate * (now - last).as_secs_f64(), burst);
        last = now;
        let come = arrived.load(Ordering::Relaxed).min(sent);
        let outstanding = if come == 0 { spec.outstanding.min(FIRST) } else { spec.outstanding };
        let room = outstanding.saturating_sub(sent - come);
        let due = (owed as u64).min(room).min(spec.count - sent);
        for _ in 0..due {
            datagram[..8].copy_from_slice(&sent.to_le_bytes());
            match socket.send(&datagram) {
                Ok(_) => sent += 1,
                // What a receiver or a node that is gone answers: the datagram is gone too, and counts.
                Err(error) if is_an_answer(&error) => sent += 1,
                Err(error) => return Err(error),
            }
        }
        owed -= due as f64;
        if due == 0 {
            std::thread::sleep(PAUSE);
        }
    }
    Ok((sent, started.elapsed()))
}

fn is_an_answer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable)
        || error.raw_os_error() == Some(libc::ENOBUFS)
}

fn receive(
    socket: &UdpSocket,
    spec: Steady,
    arrived: &AtomicU64,
    ended: &AtomicBool,
) -> io::Result<Arrivals> {
    let mut seen = vec![false; spec.count as usize];
    let mut arrivals = Arrivals::default();
    let mut buffer = vec![0; spec.payload + 1];
    let (mut count, mut next) = (0, 0);
    let (mut first, mut last): (Option<Instant>, Option<Instant>) = (None, None);
    let mut quiet: Option<Instant> = None;
    while count < spec.count {
        match socket.recv(&mut buffer) {
            Ok(8..) => {}
            Ok(_) => continue,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                if ended.load(Ordering::Relaxed) && quiet.get_or_insert_with(Instant::now).elapsed() > SETTLE
                {
                    break;
                }
                continue;
            }
            Err(error) => return Err(error),
        }
        let (now, number) =
            (Instant::now(), buffer.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)));
        quiet = None;
        arrivals.gap = arrivals.gap.max(last.map_or(Duration::ZERO, |last| now - last));
        arrivals.arriving = now - *first.get_or_insert(now);
        last = Some(now);
        match seen.get_mut(number as usize) {
            Some(seen) if !*seen => *seen = true,
            _ => {
                arrivals.repeated += 1;
                continue;
            }
        }
        arrivals.out_of_order += u64::from(number < next);
        next = next.max(number + 1);
        count += 1;
        arrived.store(count, Ordering::Relaxed);
    }
    arrivals.lost = spec.count - count;
    Ok(arrivals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_datagram_arrives_once_where_nothing_is_lost() {
        let netns = Netns::create().unwrap();
        let spec = Steady { payload: 64, count: 2_000, rate: 20_000.0, outstanding: 100 };
        let arrivals = steady(&netns, &netns, IpAddr::from([127, 0, 0, 1]), spec).unwrap();
        let Arrivals { sent, lost, repeated, out_of_order, .. } = arrivals;
        assert_eq!((sent, lost, repeated, out_of_order), (2_000, 0, 0, 0), "{arrivals:?}");
    }
}
