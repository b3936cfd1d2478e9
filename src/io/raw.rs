//! Raw IPv4 sockets: IPIP both ways, and packets without encapsulation out.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

use socket2::Socket;

use super::burst::{self, Burst, Way};
use super::offload::Outer;
use super::{BATCH, Port, Rx, TxReport, UNDERLAY_PATIENCE};
use crate::buf::{Frame, Pool};
use crate::sys::mmsg::Envelope;

/// A sender of whole IPv4 packets to `frame.peer`, and perhaps a receiver of protocol 4.
///
/// As a tunnel it carries outer packets; as the way to peers without encapsulation, the packets themselves:
/// the kernel takes the next hop from the address given with each, not from the packet.
#[derive(Debug)]
pub struct RawPort {
    receiver: Option<Socket>,
    sender: Arc<Socket>,
    outer: Outer,
    burst: Burst,
}

impl RawPort {
    /// An IPIP tunnel's port.
    pub fn ipip(receiver: Socket, sender: Arc<Socket>) -> Self {
        RawPort { receiver: Some(receiver), sender, outer: Outer::Ipip, burst: Burst::new(BATCH) }
    }

    /// The way to peers without encapsulation; what they send comes by the underlay's packet socket.
    pub fn direct(sender: Arc<Socket>) -> Self {
        RawPort { receiver: None, sender, outer: Outer::None, burst: Burst::new(BATCH) }
    }
}

impl Port for RawPort {
    fn rx(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> io::Result<Rx> {
        let Some(receiver) = &self.receiver else { return Ok(Rx::Drained) };
        self.burst.receive(receiver.as_fd(), pool, batch, |_, frame, message| {
            if let Some(source) = message.source {
                frame.peer = source.ip();
            }
        })
    }

    fn tx(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> TxReport {
        let mut report = TxReport::default();
        let way = Way { outer: self.outer, datagrams: 1 };
        let mut sending = self.burst.sending(self.sender.as_fd(), UNDERLAY_PATIENCE);
        for frame in batch.iter() {
            // TOS stands in the header that we wrote.
            let envelope = Envelope { tos: 0, ..burst::envelope(frame, 0) };
            match frame.offload.segments {
                Some(segments) => sending.cut(envelope, pool.bytes(frame), segments, &way),
                None => sending.whole(envelope, std::iter::once(pool.bytes(frame))),
            }
        }
        sending.finish(&mut report);
        batch.drain(..).for_each(|frame| pool.put(frame));
        report
    }

    fn readiness(&self) -> Option<RawFd> {
        self.receiver.as_ref().map(|receiver| receiver.as_raw_fd())
    }
}
