//! One small UDP datagram there and back, again and again: how long it takes.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::BedError;
use crate::sys::netns::Netns;
use crate::sys::scheduling;

/// Bytes of the datagram.
const PAYLOAD: usize = 64;
/// A datagram that is not back by then is lost.
const PATIENCE: Duration = Duration::from_millis(500);

/// Times there and back.
#[derive(Debug, Clone, Default)]
pub struct RoundTrips {
    /// Of each datagram that came back, shortest first.
    sorted: Vec<Duration>,
    /// Datagrams that did not.
    pub lost: usize,
}

impl RoundTrips {
    /// Datagrams that came back.
    pub fn count(&self) -> usize {
        self.sorted.len()
    }

    /// The time that `part` of them, 0 to 1, took at most; `None` if nothing came back.
    pub fn percentile(&self, part: f64) -> Option<Duration> {
        let rank = (part * self.sorted.len() as f64).ceil() as usize;
        self.sorted.get(rank.saturating_sub(1)).copied()
    }
}

/// Sends a datagram from `from` to `address`, which `to` has and where it is sent back, as often as it goes in
/// `duration`. Both ends are kept to one core, and spinners of the lowest priority keep all cores from
/// halting: what it takes to wake a core, which a virtual machine makes long, is not the path's.
///
/// # Errors
/// Sockets could not be made. A datagram that is lost is part of the result.
pub fn round_trips(
    from: &Netns,
    to: &Netns,
    address: IpAddr,
    duration: Duration,
) -> Result<RoundTrips, BedError> {
    let open = || UdpSocket::bind(SocketAddr::new(address, 0));
    let server = to.run(open)?.map_err(BedError::io(format!("open a UDP socket at {address}")))?;
    let target = server.local_addr().map_err(BedError::io(format!("open a UDP socket at {address}")))?;
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let open = || -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        socket.connect(target)?;
        Ok(socket)
    };
    let client = from.run(open)?.map_err(BedError::io(format!("open a UDP socket to {target}")))?;
    let cores = scheduling::cores().map_err(BedError::io("list the cores"))?;
    let core = cores[..cores.len().min(1)].to_vec();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for core in &cores {
            scope.spawn(|| spin(*core, &done));
        }
        scope.spawn(|| send_back(&server, &core, &done));
        let played = scope.spawn(|| play(&client, &core, duration));
        let played = played.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        done.store(true, Ordering::Relaxed);
        played.map_err(BedError::io(format!("exchange UDP with {target}")))
    })
}

/// Keeps a core from halting. Without the priority it would be in the way, so rather not at all.
fn spin(core: usize, done: &AtomicBool) {
    if scheduling::only_when_idle().and_then(|()| scheduling::pin(&[core])).is_err() {
        return;
    }
    while !done.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
}

fn send_back(server: &UdpSocket, core: &[usize], done: &AtomicBool) -> io::Result<()> {
    scheduling::pin(core)?;
    server.set_read_timeout(Some(Duration::from_millis(20)))?;
    let mut buffer = [0; PAYLOAD];
    while !done.load(Ordering::Relaxed) {
        if let Ok((length, peer)) = server.recv_from(&mut buffer) {
            // If it cannot be sent, the other end counts a loss.
            let _ = server.send_to(&buffer[..length], peer);
        }
    }
    Ok(())
}

fn play(client: &UdpSocket, core: &[usize], duration: Duration) -> io::Result<RoundTrips> {
    scheduling::pin(core)?;
    client.set_read_timeout(Some(PATIENCE))?;
    let (mut trips, mut number) = (RoundTrips::default(), 0_u64);
    let (mut datagram, mut answer) = ([0x5a; PAYLOAD], [0; PAYLOAD]);
    let started = Instant::now();
    while started.elapsed() < duration {
        number += 1;
        datagram[..8].copy_from_slice(&number.to_le_bytes());
        let sent = Instant::now();
        client.send(&datagram)?;
        loop {
            match client.recv(&mut answer) {
                Ok(_) if answer == datagram => {
                    trips.sorted.push(sent.elapsed());
                    break;
                }
                // One that was given up for lost.
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) => {
                    trips.lost += 1;
                    break;
                }
                Err(e) => return Err(e),
            }
        }
    }
    trips.sorted.sort_unstable();
    Ok(trips)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_come_back() {
        let netns = Netns::create().unwrap();
        let lo = [127, 0, 0, 1].into();
        let trips = round_trips(&netns, &netns, lo, Duration::from_millis(50)).unwrap();
        assert!(trips.count() > 0 && trips.lost == 0, "{trips:?}");
        assert!(trips.percentile(0.5) <= trips.percentile(0.99));
    }

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let ms = Duration::from_millis;
        let trips = RoundTrips { sorted: (1..=200).map(ms).collect(), lost: 0 };
        assert_eq!(trips.percentile(0.5), Some(ms(100)));
        assert_eq!(trips.percentile(0.99), Some(ms(198)));
        assert_eq!(RoundTrips { sorted: vec![ms(7)], lost: 0 }.percentile(0.99), Some(ms(7)));
        assert_eq!(RoundTrips::default().percentile(0.5), None);
    }
}
