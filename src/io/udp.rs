//! UDP sockets as the underlay side of VXLAN tunnels.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use socket2::Socket;

use super::burst::{self, Burst, MAX_DATAGRAMS, MAX_MESSAGE, Way};
use super::offload::Outer;
use super::runs::Runs;
use super::{Port, Rx, TxReport, UNDERLAY_PATIENCE};
use crate::buf::{Frame, Pool};
use crate::sys::mmsg::Envelope;
use crate::wire::Ecn;

/// Messages received in one go: each may be 64 KB that the kernel joined, and what a batch holds is to stay in
/// the processor's cache.
const MESSAGES: usize = 8;

/// A worker's sockets: one receives, several send, each with a source port of its own.
///
/// A flow always takes the same source port, so the underlay's routers and the receiver's queues keep its
/// order and spread different flows (RFC 7348 5). The kernel writes the outer headers and their checksums, and
/// cuts what leaves in one message: a super-frame, or frames of one size to one peer, of any flows.
#[derive(Debug)]
pub struct UdpPort {
    receiver: Socket,
    senders: Vec<Socket>,
    port: u16,
    burst: Burst,
    runs: Runs<Key>,
    /// Most datagrams of a message.
    datagrams: usize,
}

/// What the frames of one message have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    sender: usize,
    peer: IpAddr,
    ecn: Ecn,
    len: usize,
    is_super: bool,
}

impl UdpPort {
    /// Sockets that [`sys::socket`](crate::sys::socket) made; `port` is the peers' VXLAN port.
    ///
    /// # Panics
    /// Without a sender.
    pub fn new(receiver: Socket, senders: Vec<Socket>, port: u16) -> Self {
        assert!(!senders.is_empty(), "a tunnel sends");
        let burst = Burst::new(MESSAGES);
        UdpPort { receiver, senders, port, burst, runs: Runs::new(), datagrams: MAX_DATAGRAMS }
    }

    fn group(&mut self, batch: &[Frame]) {
        let (senders, datagrams) = (self.senders.len(), self.datagrams);
        self.runs.clear();
        for (index, frame) in batch.iter().enumerate() {
            let sender = frame.flow as usize % senders;
            let is_super = frame.offload.segments.is_some();
            let key = Key { sender, peer: frame.peer, ecn: frame.ecn, len: frame.len(), is_super };
            self.runs.push(index, frame.flow, key, |run, key, frames| {
                !key.is_super && run == key && frames < datagrams && (frames + 1) * key.len <= MAX_MESSAGE
            });
        }
    }
}

impl Port for UdpPort {
    fn rx(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> io::Result<Rx> {
        self.burst.receive(self.receiver.as_fd(), pool, batch, |_, frame, message| {
            if let Some(source) = message.source {
                frame.peer = source.ip();
            }
            frame.ecn = Ecn::from_tos(message.tos);
        })
    }

    fn tx(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> TxReport {
        self.group(batch);
        let mut report = TxReport::default();
        let way = Way { outer: Outer::Vxlan, datagrams: self.datagrams };
        for (index, sender) in self.senders.iter().enumerate() {
            let mut sending = self.burst.sending(sender.as_fd(), UNDERLAY_PATIENCE);
            for (key, members) in self.runs.iter().filter(|(key, _)| key.sender == index) {
                let Some(first) = members.clone().next().map(|index| &batch[index]) else { continue };
                let envelope = burst::envelope(first, self.port);
                match first.offload.segments {
                    Some(segments) => sending.cut(envelope, pool.bytes(first), segments, &way),
                    None => {
                        let segment = (members.len() > 1).then_some(key.len as u16);
                        let frames = members.map(|index| pool.bytes(&batch[index]));
                        sending.whole(Envelope { segment, ..envelope }, frames);
                    }
                }
            }
            if sending.finish(&mut report) {
                self.datagrams = 1;
            }
        }
        batch.drain(..).for_each(|frame| pool.put(frame));
        report
    }

    fn readiness(&self) -> Option<RawFd> {
        Some(self.receiver.as_raw_fd())
    }
}
