//! Packet sockets: the host end of a veth, and the underlay interface for packets without encapsulation.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

use socket2::Socket;

use super::burst::{Burst, Way};
use super::offload::Outer;
use super::{Port, Rx, TxReport, in_order, vnet};
use crate::buf::{Frame, Offload, Pool};
use crate::wire::ethernet;

/// A packet socket with virtio-net headers. Every worker may send; one receives.
#[derive(Debug)]
pub struct PacketPort {
    socket: Arc<Socket>,
    burst: Burst,
}

impl PacketPort {
    /// A port over a socket that [`socket::packet`](crate::sys::socket::packet) made.
    pub fn new(socket: Arc<Socket>) -> Self {
        PacketPort { socket, burst: Burst::new() }
    }
}

impl Port for PacketPort {
    fn rx(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> io::Result<Rx> {
        self.burst.receive(self.socket.as_fd(), pool, batch, |pool, frame, _| {
            match pool.bytes(frame).first_chunk() {
                Some(header) => frame.offload = vnet::decode(header, ethernet::HEADER_LEN as u16),
                None => frame.truncate(0),
            }
            frame.strip(vnet::LEN);
        })
    }

    fn tx(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> TxReport {
        let mut report = TxReport::default();
        for frame in batch.iter_mut() {
            let ip = pool.bytes(frame).get(ethernet::HEADER_LEN..).unwrap_or_default();
            let header = vnet::encode(frame.offload, ethernet::HEADER_LEN as u16, ip);
            if let Some(out) = pool.prepend(frame) {
                *out = header;
                // The kernel cuts: what the header says is no longer for us to do.
                frame.offload = Offload::default();
            }
        }
        let order = in_order(batch.len());
        let way = Way { socket: self.socket.as_fd(), outer: Outer::None, address: |_: &Frame| (None, 0) };
        self.burst.send(way, pool, batch, order, &mut report);
        batch.drain(..).for_each(|frame| pool.put(frame));
        report
    }

    fn readiness(&self) -> Option<RawFd> {
        Some(self.socket.as_raw_fd())
    }
}
