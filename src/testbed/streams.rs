//! TCP at full speed: streams that run until they are told to stop, and what has arrived so far.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::BedError;
use super::stream::connect;
use crate::sys::netns::Netns;

/// Bytes of one read or write: what iperf3 takes.
const CHUNK: usize = 128 << 10;

/// What a [`throughput`] measured.
#[derive(Debug, Clone, Copy)]
pub struct Throughput {
    /// Bytes received.
    pub bytes: u64,
    /// In so much time.
    pub elapsed: Duration,
}

impl Throughput {
    /// Bits of payload a second.
    pub fn bits_per_second(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Sends over TCP from `from` to `address`, which `to` has, as fast as it goes, for `duration`.
///
/// # Errors
/// No connection, or it stood still for ten seconds.
pub fn throughput(
    from: &Netns,
    to: &Netns,
    address: IpAddr,
    duration: Duration,
) -> Result<Throughput, BedError> {
    let streams = Streams::start(from, to, address, 1, None)?;
    let started = Instant::now();
    std::thread::sleep(duration);
    let (bytes, elapsed) = (streams.received(), started.elapsed());
    streams.stop()?;
    Ok(Throughput { bytes, elapsed })
}

/// Running streams, a thread for each end; they end when dropped. Socket buffers are the kernel's to size.
#[derive(Debug)]
pub struct Streams {
    shared: Arc<Shared>,
    /// Both ends of each.
    ends: Vec<TcpStream>,
    threads: Vec<JoinHandle<io::Result<()>>>,
    target: IpAddr,
}

#[derive(Debug, Default)]
struct Shared {
    received: AtomicU64,
    stopping: AtomicBool,
}

impl Streams {
    /// Starts `count` streams from `from` to `address`, which `to` has, under a congestion control other than
    /// the system's if one is named.
    ///
    /// # Errors
    /// No connection, or no such congestion control.
    pub fn start(
        from: &Netns,
        to: &Netns,
        address: IpAddr,
        count: usize,
        congestion: Option<&str>,
    ) -> Result<Self, BedError> {
        let mut streams =
            Self { shared: Arc::default(), ends: Vec::new(), threads: Vec::new(), target: address };
        for _ in 0..count {
            let (near, far) = connect(from, to, address, congestion)?;
            for end in [&near, &far] {
                streams.ends.push(end.try_clone().map_err(BedError::io("duplicate a socket"))?);
            }
            let (sending, receiving) = (Arc::clone(&streams.shared), Arc::clone(&streams.shared));
            streams.threads.push(std::thread::spawn(move || sending.send(near)));
            streams.threads.push(std::thread::spawn(move || receiving.receive(far)));
        }
        Ok(streams)
    }

    /// Bytes that have arrived, all streams together.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    /// Ends the streams.
    ///
    /// # Errors
    /// One of them broke, or stood still for ten seconds, before this was called.
    pub fn stop(mut self) -> Result<(), BedError> {
        self.end();
        for thread in std::mem::take(&mut self.threads) {
            let ended = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            ended.map_err(BedError::io(format!("TCP to {}", self.target)))?;
        }
        Ok(())
    }

    fn end(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        for end in &self.ends {
            // It may be closed already.
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn send(&self, mut stream: TcpStream) -> io::Result<()> {
        let chunk = vec![0x6d; CHUNK];
        loop {
            if let Err(error) = stream.write_all(&chunk) {
                return self.ended(error);
            }
        }
    }

    fn receive(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK];
        loop {
            match stream.read(&mut chunk) {
                Ok(0) => return self.ended(io::ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => self.received.fetch_add(bytes as u64, Ordering::Relaxed),
                Err(error) => return self.ended(error),
            };
        }
    }

    /// An end of a stream that was asked for is no error.
    fn ended(&self, error: io::Error) -> io::Result<()> {
        if self.stopping.load(Ordering::Relaxed) { Ok(()) } else { Err(error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_count_what_arrives_and_stop_when_told() {
        let netns = Netns::create().unwrap();
        let streams = Streams::start(&netns, &netns, [127, 0, 0, 1].into(), 3, None).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while streams.received() < 4 * CHUNK as u64 {
            assert!(Instant::now() < deadline, "{} bytes", streams.received());
            std::thread::sleep(Duration::from_millis(1));
        }
        streams.stop().unwrap();
    }

    #[test]
    fn a_stream_that_breaks_is_an_error() {
        let netns = Netns::create().unwrap();
        let streams = Streams::start(&netns, &netns, [127, 0, 0, 1].into(), 1, None).unwrap();
        streams.ends[1].shutdown(Shutdown::Both).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !streams.threads.iter().all(JoinHandle::is_finished) {
            assert!(Instant::now() < deadline, "it goes on");
            std::thread::sleep(Duration::from_millis(1));
        }
        let error = streams.stop().unwrap_err().to_string();
        assert!(error.starts_with("TCP to 127.0.0.1: "), "{error}");
    }

    #[test]
    fn a_congestion_control_that_is_not_there() {
        let netns = Netns::create().unwrap();
        let error = Streams::start(&netns, &netns, [127, 0, 0, 1].into(), 1, Some("no-such")).unwrap_err();
        assert!(error.to_string().starts_with("use TCP congestion control no-such: "), "{error}");
    }
}
