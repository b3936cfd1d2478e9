//! Packet sockets: the host end of a veth, and the underlay interface for packets without encapsulation.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

use socket2::Socket;

use super::burst::Burst;
use super::{BATCH, Port, Rx, TxReport, vnet};
use crate::buf::{Frame, Pool};
use crate::sys::mmsg::Envelope;
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
        PacketPort { socket, burst: Burst::new(BATCH) }
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
        let mut sending = self.burst.sending(self.socket.as_fd());
        for frame in batch.iter() {
            let bytes = pool.bytes(frame);
            let ip = bytes.get(ethernet::HEADER_LEN..).unwrap_or_default();
            let header = vnet::encode(frame.offload, ethernet::HEADER_LEN as u16, ip);
            sending.run(1);
            sending.message(Envelope::default(), 2, vnet::LEN, 0);
            sending.head(vnet::LEN).copy_from_slice(&header);
            sending.body(bytes);
        }
        sending.finish(&mut report);
        batch.drain(..).for_each(|frame| pool.put(frame));
        report
    }

    fn readiness(&self) -> Option<RawFd> {
        Some(self.socket.as_raw_fd())
    }
}
