//! UDP sockets as the underlay side of VXLAN tunnels.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use socket2::Socket;

use super::burst::{Burst, Way};
use super::offload::Outer;
use super::{BATCH, Port, Rx, TxReport};
use crate::buf::{Frame, Pool};
use crate::wire::Ecn;

/// A worker's sockets: one receives, several send, each with a source port of its own.
///
/// A flow always takes the same source port, so the underlay's routers and the receiver's queues keep its
/// order and spread different flows (RFC 7348 5). The kernel writes the outer headers and their checksums.
#[derive(Debug)]
pub struct UdpPort {
    receiver: Socket,
    senders: Vec<Sender>,
    port: u16,
    burst: Burst,
}

#[derive(Debug)]
struct Sender {
    socket: Socket,
    /// Frames of the batch in hand that go by this socket.
    order: Vec<u16>,
}

impl UdpPort {
    /// Sockets that [`sys::socket`](crate::sys::socket) made; `port` is the peers' VXLAN port.
    ///
    /// # Panics
    /// Without a sender.
    pub fn new(receiver: Socket, senders: Vec<Socket>, port: u16) -> Self {
        assert!(!senders.is_empty(), "a tunnel sends");
        let senders =
            senders.into_iter().map(|socket| Sender { socket, order: Vec::with_capacity(BATCH) }).collect();
        UdpPort { receiver, senders, port, burst: Burst::new() }
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
        let mut report = TxReport::default();
        let senders = self.senders.len() as u32;
        for (index, frame) in batch.iter().enumerate() {
            self.senders[(frame.flow % senders) as usize].order.push(index as u16);
        }
        let address = |frame: &Frame| (Some(SocketAddr::new(frame.peer, self.port)), frame.ecn.bits());
        for Sender { socket, order } in self.senders.iter_mut().filter(|sender| !sender.order.is_empty()) {
            let way = Way { socket: socket.as_fd(), outer: Outer::Vxlan, address };
            self.burst.send(way, pool, batch, order, &mut report);
            order.clear();
        }
        batch.drain(..).for_each(|frame| pool.put(frame));
        report
    }

    fn readiness(&self) -> Option<RawFd> {
        Some(self.receiver.as_raw_fd())
    }
}
