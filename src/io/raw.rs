//! Raw IPv4 sockets: IPIP both ways, and packets without encapsulation out.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

use socket2::Socket;

use super::burst::{Burst, Way};
use super::offload::Outer;
use super::{Port, Rx, TxReport, in_order};
use crate::buf::{Frame, Pool};

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
        RawPort { receiver: Some(receiver), sender, outer: Outer::Ipip, burst: Burst::new() }
    }

    /// The way to peers without encapsulation; what they send comes by the underlay's packet socket.
    pub fn direct(sender: Arc<Socket>) -> Self {
        RawPort { receiver: None, sender, outer: Outer::None, burst: Burst::new() }
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
        let order = in_order(batch.len());
        let address = |frame: &Frame| (Some(SocketAddr::new(frame.peer, 0)), 0);
        let way = Way { socket: self.sender.as_fd(), outer: self.outer, address };
        self.burst.send(way, pool, batch, order, &mut report);
        batch.drain(..).for_each(|frame| pool.put(frame));
        report
    }

    fn readiness(&self) -> Option<RawFd> {
        self.receiver.as_ref().map(|receiver| receiver.as_raw_fd())
    }
}
