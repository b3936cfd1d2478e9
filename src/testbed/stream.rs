//! TCP between namespaces: so many bytes, compared.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::BedError;
use crate::sys::netns::Netns;

/// A stream that stands still for so long has failed.
const PATIENCE: Duration = Duration::from_secs(10);
const CHUNK: usize = 64 << 10;

/// What a [`transfer`] moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// Bytes received.
    pub bytes: u64,
    /// FNV-1a of what was sent.
    pub sent_hash: u64,
    /// FNV-1a of what was received.
    pub received_hash: u64,
}

impl Transfer {
    /// Everything arrived as it was sent.
    pub fn intact(&self) -> bool {
        self.sent_hash == self.received_hash
    }
}

/// Sends `bytes` pseudo-random bytes over TCP from `from` to `address`, which `to` has.
///
/// # Errors
/// No connection, or it stood still for ten seconds.
pub fn transfer(from: &Netns, to: &Netns, address: IpAddr, bytes: u64) -> Result<Transfer, BedError> {
    move_bytes(from, to, address, |sent| (sent < bytes).then(|| Piece { bytes: bytes - sent, pause: None }))
}

/// Sends a little now and then over one TCP connection from `from` to `address`, which `to` has, until told to `end`.
///
/// # Errors
/// As [`transfer`].
pub fn trickle(from: &Netns, to: &Netns, address: IpAddr, end: &AtomicBool) -> Result<Transfer, BedError> {
    const PIECE: Piece = Piece { bytes: 4 << 10, pause: Some(Duration::from_millis(2)) };
    move_bytes(from, to, address, |_| (!end.load(Ordering::Relaxed)).then_some(PIECE))
}

/// What is sent in one go, and how long after that nothing is.
struct Piece {
    bytes: u64,
    pause: Option<Duration>,
}

/// Sends piece after piece; `next` is told how many bytes were sent, and says what follows.
fn move_bytes(
    from: &Netns,
    to: &Netns,
    address: IpAddr,
    next: impl Fn(u64) -> Option<Piece>,
) -> Result<Transfer, BedError> {
    let (sender, receiver) = connect(from, to, address, None)?;
    std::thread::scope(|scope| {
        let received = scope.spawn(move || receive(receiver));
        let sent_hash = send(sender, next).map_err(BedError::io(format!("send to {address} over TCP")))?;
        let (bytes, received_hash) = received
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            .map_err(BedError::io(format!("receive at {address} over TCP")))?;
        Ok(Transfer { bytes, sent_hash, received_hash })
    })
}

/// Both ends of a new connection, under a congestion control other than the system's if one is named.
///
/// It is named before the connection begins: one that began under BBR is paced by timers for as long as it lives, whatever
/// it is told later (`sk_pacing_status`).
pub(super) fn connect(
    from: &Netns,
    to: &Netns,
    address: IpAddr,
    congestion: Option<&str>,
) -> Result<(TcpStream, TcpStream), BedError> {
    let listener = to
        .run(|| TcpListener::bind(SocketAddr::new(address, 0)))?
        .map_err(BedError::io(format!("listen at {address}")))?;
    let target = listener.local_addr().map_err(BedError::io(format!("listen at {address}")))?;
    let near = from
        .run(|| Socket::new(Domain::for_address(target), Type::STREAM, None))?
        .map_err(BedError::io("open a TCP socket"))?;
    if let Some(name) = congestion {
        near.set_tcp_congestion(name.as_bytes())
            .map_err(BedError::io(format!("use TCP congestion control {name}")))?;
    }
    near.connect_timeout(&target.into(), PATIENCE).map_err(BedError::io(format!("connect to {target}")))?;
    let near = TcpStream::from(near);
    // The handshake is done, so this does not wait.
    let (far, _) = listener.accept().map_err(BedError::io(format!("accept at {target}")))?;
    for stream in [&near, &far] {
        stream
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
            .map_err(BedError::io("set a time limit"))?;
    }
    Ok((near, far))
}

fn send(mut stream: TcpStream, next: impl Fn(u64) -> Option<Piece>) -> io::Result<u64> {
    let (mut hash, mut state, mut sent) = (Fnv::new(), 0x6d61_7267_6179_u64, 0);
    let mut chunk = vec![0; CHUNK];
    while let Some(piece) = next(sent) {
        let length = CHUNK.min(usize::try_from(piece.bytes).unwrap_or(CHUNK));
        for word in chunk.chunks_exact_mut(8) {
            // xorshift64: never repeats within a transfer.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        hash.add(&chunk[..length]);
        stream.write_all(&chunk[..length])?;
        sent += length as u64;
        piece.pause.into_iter().for_each(std::thread::sleep);
    }
    Ok(hash.0)
}

fn receive(mut stream: TcpStream) -> io::Result<(u64, u64)> {
    let (mut hash, mut bytes) = (Fnv::new(), 0);
    let mut chunk = vec![0; CHUNK];
    loop {
        match stream.read(&mut chunk)? {
            0 => return Ok((bytes, hash.0)),
            n => {
                hash.add(&chunk[..n]);
                bytes += n as u64;
            }
        }
    }
}

/// FNV-1a, 64 bits.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fnv_1a() {
        let mut hash = Fnv::new();
        hash.add(b"foobar");
        assert_eq!(hash.0, 0x8594_4171_f739_67e8);
    }
}
