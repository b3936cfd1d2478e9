//! UDP of every size, there and back.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::BedError;
use crate::sys::netns::Netns;

/// A datagram is sent so often before its size counts as lost.
const TRIES: usize = 3;
const PATIENCE: Duration = Duration::from_millis(500);

/// What came back.
#[derive(Debug, Clone, Default)]
pub struct UdpReport {
    /// Sizes that came back with the same contents.
    pub returned: usize,
    /// Datagrams that had to be sent once more.
    pub repeated: usize,
    /// Sizes that did not come back, or with other contents, and what happened.
    pub failed: Vec<(usize, String)>,
}

/// Sends one datagram of each size (bytes of payload) from `from` to `address`, which `to` has and where they
/// are sent back, and compares the contents.
///
/// # Errors
/// Sockets could not be made. A size that does not come back is part of the report.
pub fn udp_echo(
    from: &Netns,
    to: &Netns,
    address: IpAddr,
    sizes: RangeInclusive<usize>,
) -> Result<UdpReport, BedError> {
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let bind = |netns: &Netns, at: IpAddr, patience| -> Result<UdpSocket, BedError> {
        let open = || {
            let socket = UdpSocket::bind(SocketAddr::new(at, 0))?;
            socket.set_read_timeout(Some(patience))?;
            Ok(socket)
        };
        netns.run(open)?.map_err(BedError::io(format!("open a UDP socket at {at}")))
    };
    let server = bind(to, address, Duration::from_millis(20))?;
    let client = bind(from, any, PATIENCE)?;
    server
        .local_addr()
        .and_then(|target| client.connect(target))
        .map_err(BedError::io(format!("connect UDP to {address}")))?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| send_back(&server, &done));
        let mut report = UdpReport::default();
        for size in sizes {
            match there_and_back(&client, size, &mut report.repeated) {
                Ok(()) => report.returned += 1,
                Err(what) => report.failed.push((size, what)),
            }
        }
        done.store(true, Ordering::Relaxed);
        Ok(report)
    })
}

fn send_back(server: &UdpSocket, done: &AtomicBool) {
    let mut buffer = vec![0; 65536];
    while !done.load(Ordering::Relaxed) {
        if let Ok((length, peer)) = server.recv_from(&mut buffer) {
            let _ = server.send_to(&buffer[..length], peer);
        }
    }
}

fn there_and_back(client: &UdpSocket, size: usize, repeated: &mut usize) -> Result<(), String> {
    // Contents that differ from size to size and within, so that a shift or a mix-up shows.
    let sent: Vec<u8> = (0..size).map(|n| (n ^ (n >> 8) ^ size.wrapping_mul(37)) as u8).collect();
    let mut buffer = vec![0xa5; 65536];
    let mut last = String::new();
    for attempt in 0..TRIES {
        *repeated += usize::from(attempt > 0);
        client.send(&sent).map_err(|e| format!("not sent: {e}"))?;
        loop {
            match client.recv(&mut buffer) {
                // The echo of an earlier size that was late.
                Ok(length) if length != size => {}
                Ok(length) if buffer[..length] == sent[..] => return Ok(()),
                Ok(_) => return Err("came back with other contents".into()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    last = "did not come back".into();
                    break;
                }
                Err(e) => {
                    last = e.to_string();
                    break;
                }
            }
        }
    }
    Err(last)
}
