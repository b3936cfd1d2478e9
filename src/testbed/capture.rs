//! Frames as they pass an interface, in both directions.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pnet::datalink::{self, Channel, Config, DataLinkReceiver, NetworkInterface};

use super::BedError;
use crate::sys::netns::Netns;

/// Frames beyond this number are not kept.
const LIMIT: usize = 10_000;
/// What has not arrived so long after the end was asked for does not arrive.
const SETTLE: Duration = Duration::from_millis(30);

/// A frame and when it passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Since the start of the capture.
    pub at: Duration,
    /// From the destination address on. A checksum that the kernel left to the hardware is not filled in.
    pub bytes: Vec<u8>,
}

/// A running capture; ends when dropped.
#[derive(Debug)]
pub struct Capture {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Frame>>>,
}

impl Capture {
    /// Starts to keep what passes `interface` of `netns`. It listens when this returns.
    ///
    /// # Errors
    /// No packet socket (CAP_NET_RAW), or no such interface.
    pub fn start(netns: &Netns, interface: &str) -> Result<Self, BedError> {
        let link = netns.netlink()?.link(interface)?;
        let target = NetworkInterface {
            name: link.name,
            description: String::new(),
            index: link.index.0,
            mac: None,
            ips: Vec::new(),
            flags: 0,
        };
        let config = Config {
            // A super-frame is up to 64 KiB and its header.
            read_buffer_size: 68 << 10,
            read_timeout: Some(SETTLE),
            promiscuous: false,
            ..Config::default()
        };
        let opened = netns.run(|| datalink::channel(&target, config))?;
        let receiver = match opened.map_err(BedError::io(format!("capture on {interface}")))? {
            Channel::Ethernet(_, receiver) => receiver,
            _ => return Err(BedError::Spec(format!("{interface} is no Ethernet link"))),
        };
        let end = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&end);
        let thread = std::thread::spawn(move || keep(receiver, &seen));
        Ok(Self { end, thread: Some(thread) })
    }

    /// Ends the capture, after what is on its way has arrived, and hands over the frames in their order.
    pub fn stop(mut self) -> Vec<Frame> {
        self.end.store(true, Ordering::Relaxed);
        let thread = self.thread.take();
        thread.and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

/// Reads until the end is asked for and nothing comes any more.
fn keep(mut receiver: Box<dyn DataLinkReceiver>, end: &AtomicBool) -> Vec<Frame> {
    let started = Instant::now();
    let (mut frames, mut ended) = (Vec::new(), None);
    loop {
        if end.load(Ordering::Relaxed) && ended.is_none() {
            ended = Some(Instant::now());
        }
        match receiver.next() {
            Ok(bytes) if frames.len() < LIMIT => {
                frames.push(Frame { at: started.elapsed(), bytes: bytes.to_vec() });
            }
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) && ended.is_none() => {}
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            // Nothing more within SETTLE, or the interface is gone.
            Err(_) => return frames,
        }
        // Traffic that never pauses does not hold the capture open either.
        if ended.is_some_and(|at| at.elapsed() > 10 * SETTLE) {
            return frames;
        }
    }
}
