//! Small UDP datagrams, as many as it takes, one way: how many of them arrive.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::SockRef;

use super::BedError;
use crate::sys::mmsg::{BATCH, Batch, Envelope};
use crate::sys::netns::Netns;

/// What the receiver's socket may hold, bytes: it must not be the receiver that loses.
const RECEIVE_BUFFER: usize = 64 << 20;
const SEND_BUFFER: usize = 4 << 20;
/// Nothing for so long, and nothing more will come.
const SETTLE: Duration = Duration::from_millis(200);
/// A sender that may send nothing for so long has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Above this rate, packets a second, a sender of single datagrams sleeps until half a batch is due: a sleep of less than
/// some 20 µs costs more than it saves.
const BATCHED: f64 = 50_000.0;

/// What to send.
#[derive(Debug, Clone, Copy)]
pub struct Blast {
    /// Bytes of each datagram, 8 to 1,472.
    pub payload: usize,
    /// Datagrams a second; as many as possible without it.
    pub rate: Option<f64>,
    /// For so long.
    pub duration: Duration,
    /// The sender gives the kernel 64 datagrams in one message (`UDP_SEGMENT`), and not a message for each.
    pub segmented: bool,
}

/// What became of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Delivery {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams received.
    pub received: u64,
    /// Datagrams that arrived after one which was sent later.
    pub out_of_order: u64,
    /// How long was sent.
    pub sending: Duration,
    /// From the first datagram that arrived to the last.
    pub receiving: Duration,
}

impl Delivery {
    /// Datagrams sent in a second.
    pub fn offered(&self) -> f64 {
        self.sent as f64 / self.sending.as_secs_f64().max(1e-9)
    }

    /// Datagrams delivered in a second: what waited in queues when the sender ended does not make it more.
    pub fn delivered(&self) -> f64 {
        self.received as f64 / self.sending.max(self.receiving).as_secs_f64().max(1e-9)
    }

    /// Lost of those sent, 0 to 1.
    pub fn loss(&self) -> f64 {
        if self.sent == 0 { 1.0 } else { 1.0 - self.received as f64 / self.sent as f64 }
    }
}

/// Sends datagrams from `from` to `address`, which `to` has, and counts those that arrive.
///
/// # Errors
/// Sockets could not be made, or the sender could send nothing for ten seconds. Loss is no error.
pub fn blast(from: &Netns, to: &Netns, address: IpAddr, blast: Blast) -> Result<Delivery, BedError> {
    if !(8..=1472).contains(&blast.payload) {
        return Err(BedError::Spec(format!("datagrams of {} bytes: 8 to 1472", blast.payload)));
    }
    let sink = to.run(|| sink(address))?.map_err(BedError::io(format!("receive UDP at {address}")))?;
    let target = sink.local_addr().map_err(BedError::io(format!("receive UDP at {address}")))?;
    let source = from.run(|| source(target, &blast))?;
    let source = source.map_err(BedError::io(format!("open a UDP socket to {target}")))?;
    let (count, ended) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(&sink, &count, &ended));
        let sender = scope.spawn(|| send(&source, blast));
        let sent = sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        settle(&count, sent.as_ref().map_or(0, |sent| sent.0));
        ended.store(true, Ordering::Relaxed);
        let arrived = receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let (sent, sending) = sent.map_err(BedError::io(format!("send UDP to {target}")))?;
        let delivery = arrived.map_err(BedError::io(format!("receive UDP at {target}")))?;
        Ok(Delivery { sent, sending, ..delivery })
    })
}

fn sink(address: IpAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddr::new(address, 0))?;
    // Beyond net.core.rmem_max only with CAP_NET_ADMIN over the machine; else as large as it may be.
    if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER)?;
    }
    Ok(socket)
}

fn source(target: SocketAddr, blast: &Blast) -> io::Result<UdpSocket> {
    let any: IpAddr = if target.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(target)?;
    if setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER).is_err() {
        SockRef::from(&socket).set_send_buffer_size(SEND_BUFFER)?;
    }
    if blast.segmented {
        setsockopt(&socket, sockopt::UdpGsoSegment, &(blast.payload as libc::c_int))?;
    }
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Waits until all have arrived, or nothing comes any more.
fn settle(count: &AtomicU64, sent: u64) {
    let (mut seen, mut since) = (count.load(Ordering::Relaxed), Instant::now());
    while seen < sent && since.elapsed() < SETTLE {
        std::thread::sleep(Duration::from_millis(5));
        let now = count.load(Ordering::Relaxed);
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
    }
}

/// Counts datagrams until `ended`. Each begins with its number.
fn receive(socket: &UdpSocket, count: &AtomicU64, ended: &AtomicBool) -> io::Result<Delivery> {
    let mut batch = Batch::default();
    let mut rooms = vec![[0; 8]; BATCH];
    let (mut delivery, mut next, mut first) = (Delivery::default(), 0, None);
    while !ended.load(Ordering::Relaxed) {
        if !ready(socket, PollFlags::POLLIN, Duration::from_millis(20))? {
            continue;
        }
        // A whole batch says that there may be more; less says that there was not.
        loop {
            let slices = rooms.iter_mut().map(|room| IoSliceMut::new(room));
            let received = match batch.receive(socket.as_fd(), slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                other => other?,
            };
            for number in rooms[..received].iter().map(|room| u64::from_le_bytes(*room)) {
                delivery.out_of_order += u64::from(number < next);
                next = next.max(number + 1);
            }
            delivery.received += received as u64;
            delivery.receiving = first.get_or_insert_with(Instant::now).elapsed();
            count.store(delivery.received, Ordering::Relaxed);
            if received < BATCH {
                break;
            }
        }
    }
    Ok(delivery)
}

/// Sends for as long and as fast as asked; how many, and in what time.
fn send(socket: &UdpSocket, blast: Blast) -> io::Result<(u64, Duration)> {
    // To the microsecond, not to the usual 50: the pauses at a given rate are of that order. Nothing is
    // wrong without it but the rate's evenness.
    let _ = prctl::set_timerslack(1);
    let mut batch = Batch::default();
    let mut bytes = vec![0x5a; BATCH * blast.payload];
    let (mut sent, started) = (0, Instant::now());
    let mut progress = started;
    while started.elapsed() < blast.duration {
        let Some(due) = due(&blast, sent, started.elapsed()) else { continue };
        for (index, datagram) in bytes.chunks_exact_mut(blast.payload).take(due).enumerate() {
            datagram[..8].copy_from_slice(&(sent + index as u64).to_le_bytes());
        }
        let taken = if blast.segmented {
            socket.send(&bytes[..due * blast.payload]).map(|_| due)
        } else {
            let mut outbox = batch.outbox();
            for datagram in bytes.chunks_exact(blast.payload).take(due) {
                outbox.begin(Envelope::default());
                outbox.body(datagram);
            }
            outbox.send(socket.as_fd(), 0)
        };
        match taken {
            Ok(taken) => {
                sent += taken as u64;
                progress = Instant::now();
            }
            Err(error) if progress.elapsed() < PATIENCE && passes(&error) => {
                ready(socket, PollFlags::POLLOUT, Duration::from_millis(20))?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok((sent, started.elapsed()))
}

/// How many to send in one call; `None` after a pause, when there was nothing to send yet.
fn due(blast: &Blast, sent: u64, elapsed: Duration) -> Option<usize> {
    let Some(rate) = blast.rate else { return Some(BATCH) };
    let due = rate * elapsed.as_secs_f64() - sent as f64;
    // Who segments has a whole batch to send: with the few that are due after a call it would be another sender.
    let least = if blast.segmented { BATCH as f64 } else { 1.0 };
    if due >= least {
        return Some((due as usize).min(BATCH));
    }
    let packets = match blast.segmented {
        true => least - due,
        false if rate > BATCHED => BATCH as f64 / 2.0,
        false => 1.0,
    };
    std::thread::sleep(Duration::from_secs_f64(packets / rate).min(Duration::from_millis(50)));
    None
}

/// Full queues, and what a receiver that is gone answers, are for the next try.
fn passes(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused)
        || error.raw_os_error() == Some(libc::ENOBUFS)
}

fn ready(socket: &UdpSocket, what: PollFlags, patience: Duration) -> io::Result<bool> {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO);
    match poll(&mut [PollFd::new(socket.as_fd(), what)], timeout) {
        Err(nix::errno::Errno::EINTR) => Ok(false),
        other => Ok(other? > 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LO: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn burst(rate: Option<f64>, segmented: bool) -> Delivery {
        let netns = Netns::create().unwrap();
        let duration = Duration::from_millis(100);
        blast(&netns, &netns, LO, Blast { payload: 64, rate, duration, segmented }).unwrap()
    }

    #[test]
    fn every_datagram_that_arrives_is_counted_once() {
        for segmented in [false, true] {
            let delivery = burst(Some(20_000.0), segmented);
            assert!(delivery.sent > 0 && delivery.sent <= 2_000 + BATCH as u64, "{delivery:?}");
            assert_eq!((delivery.received, delivery.out_of_order), (delivery.sent, 0), "{delivery:?}");
            // Who segments sends nothing but whole batches.
            assert!(!segmented || delivery.sent.is_multiple_of(BATCH as u64), "{delivery:?}");
            assert!(delivery.loss().abs() < 1e-9 && delivery.delivered() <= delivery.offered() + 1e-9);
        }
    }

    #[test]
    fn without_a_rate_the_kernel_is_the_limit() {
        assert!(burst(None, true).sent > 2_000 + BATCH as u64);
    }

    #[test]
    fn a_loss_of_a_quarter() {
        let delivery = Delivery {
            sent: 4_000,
            received: 3_000,
            sending: Duration::from_secs(2),
            receiving: Duration::from_secs(3),
            out_of_order: 0,
        };
        assert_eq!((delivery.offered(), delivery.delivered(), delivery.loss()), (2_000.0, 1_000.0, 0.25));
    }

    #[test]
    fn sizes_that_no_datagram_has() {
        let netns = Netns::create().unwrap();
        let tiny = Blast { payload: 7, rate: None, duration: Duration::ZERO, segmented: false };
        assert_eq!(
            blast(&netns, &netns, LO, tiny).unwrap_err().to_string(),
            "no such lab: datagrams of 7 bytes: 8 to 1472"
        );
    }
}
