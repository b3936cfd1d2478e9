//! Raw IPv4 sockets: IPIP both ways, and packets without encapsulation out; by the link layer where that can be.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

use socket2::Socket;

use super::burst::{self, Burst, Sending, Way};
use super::link::{Link, Super};
use super::offload::{Outer, complete_checksum};
use super::{BATCH, FRAMES, Port, Rx, TxReport, UNDERLAY_PATIENCE};
use crate::buf::{Frame, Pool};
use crate::sys::mmsg::Envelope;

/// A sender of whole IPv4 packets to `frame.peer`, and perhaps a receiver of protocol 4.
///
/// As a tunnel it carries outer packets; as the way to peers without encapsulation, the packets themselves:
/// the kernel takes the next hop from the address given with each, not from the packet. Frames for a peer whose
/// next hop is known leave by the link layer, all others by the raw socket; in order either way.
#[derive(Debug)]
pub struct RawPort {
    receiver: Option<Socket>,
    sender: Arc<Socket>,
    link: Option<Link>,
    outer: Outer,
    burst: Burst,
    /// Places in the batch of what leaves by the one, and by the other.
    by_link: Vec<u16>,
    by_raw: Vec<u16>,
}

impl RawPort {
    /// An IPIP tunnel's port.
    pub fn ipip(receiver: Socket, sender: Arc<Socket>, link: Option<Link>) -> Self {
        Self::new(Some(receiver), sender, link, Outer::Ipip)
    }

    /// The way to peers without encapsulation; what they send comes by the underlay's packet socket.
    pub fn direct(sender: Arc<Socket>, link: Option<Link>) -> Self {
        Self::new(None, sender, link, Outer::None)
    }

    /// The ICMP errors that this node receives; nothing is sent by it.
    pub fn errors(receiver: Socket, sender: Arc<Socket>) -> Self {
        Self::new(Some(receiver), sender, None, Outer::None)
    }

    fn new(receiver: Option<Socket>, sender: Arc<Socket>, link: Option<Link>, outer: Outer) -> Self {
        let order = || Vec::with_capacity(FRAMES);
        RawPort { receiver, sender, link, outer, burst: Burst::new(BATCH), by_link: order(), by_raw: order() }
    }

    /// Makes each frame ready for the way that it takes.
    fn part(&mut self, pool: &mut Pool, batch: &mut [Frame]) {
        if let Some(link) = &mut self.link {
            link.refresh();
        }
        for (index, frame) in batch.iter_mut().enumerate() {
            if self.link.as_ref().is_some_and(|link| link.dress(pool, frame)) {
                self.by_link.push(index as u16);
                continue;
            }
            if self.outer == Outer::None {
                frame.offload = complete_checksum(pool.bytes_mut(frame), frame.offload);
            }
            self.by_raw.push(index as u16);
        }
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
        self.part(pool, batch);
        if let Some(Link { kind: Super::Express(express), .. }) = &self.link {
            report.sent += express.send(pool, batch, &mut self.by_link);
        }
        let frame = |index: &u16| &batch[usize::from(*index)];
        if let Some(link) = self.link.as_ref().filter(|_| !self.by_link.is_empty()) {
            let mut sending = self.burst.sending(link.socket.as_fd(), UNDERLAY_PATIENCE);
            // Of what goes without encapsulation nothing is left to cut.
            let way = Way { outer: Outer::LinkIpip, datagrams: 1 };
            for frame in self.by_link.iter().map(frame) {
                send(&mut sending, Envelope::default(), pool, frame, &way);
            }
            sending.finish(&mut report);
        }
        if !self.by_raw.is_empty() {
            let mut sending = self.burst.sending(self.sender.as_fd(), UNDERLAY_PATIENCE);
            let way = Way { outer: self.outer, datagrams: 1 };
            for frame in self.by_raw.iter().map(frame) {
                // TOS stands in the header that we wrote.
                let envelope = Envelope { tos: 0, ..burst::envelope(frame, 0) };
                send(&mut sending, envelope, pool, frame, &way);
            }
            sending.finish(&mut report);
        }
        self.by_link.clear();
        self.by_raw.clear();
        batch.drain(..).for_each(|frame| pool.put(frame));
        report
    }

    fn readiness(&self) -> Option<RawFd> {
        self.receiver.as_ref().map(|receiver| receiver.as_raw_fd())
    }
}

fn send<'a>(sending: &mut Sending<'_, 'a>, envelope: Envelope, pool: &'a Pool, frame: &Frame, way: &Way) {
    match frame.offload.segments {
        Some(segments) => sending.cut(envelope, pool.bytes(frame), segments, way),
        None => sending.whole(envelope, std::iter::once(pool.bytes(frame))),
    }
}
