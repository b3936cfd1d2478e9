//! Packet sockets: the host end of a veth, and the underlay interface for packets without encapsulation.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

use socket2::Socket;

use super::burst::{Burst, Sending};
use super::join::{Run, Takes, join};
use super::offload::MAX_HEAD;
use super::{BATCH, PATIENCE, Port, Rx, TxReport, vnet};
use crate::buf::{Frame, Pool, Segmentation};
use crate::sys::mmsg::Envelope;
use crate::wire::ethernet;

/// A packet socket with virtio-net headers. Every worker may send; one receives.
#[derive(Debug)]
pub struct PacketPort {
    socket: Arc<Socket>,
    burst: Burst,
    takes: Takes,
}

impl PacketPort {
    /// A port over a socket that [`socket::packet`](crate::sys::socket::packet) made.
    pub fn new(socket: Arc<Socket>) -> Self {
        PacketPort { socket, burst: Burst::new(BATCH), takes: Takes { tcp: true, udp: true } }
    }
}

impl Port for PacketPort {
    fn rx(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> io::Result<Rx> {
        self.burst.receive(self.socket.as_fd(), pool, batch, |pool, frame, _| {
            vnet::receive(pool, frame, ethernet::HEADER_LEN);
        })
    }

    fn tx(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> TxReport {
        let mut report = TxReport::default();
        let mut sending = self.burst.sending(self.socket.as_fd(), PATIENCE);
        let mut joined_udp = false;
        join(pool, batch, ethernet::HEADER_LEN, self.takes, |run| {
            sending.run(run.count());
            if run.count() == 1 {
                send_alone(pool, run.first(), &mut sending);
            } else {
                joined_udp |= send_run(&run, &mut sending) == Some(Segmentation::Udp);
            }
        });
        sending.finish(&mut report);
        // Linux before 6.2 does not know UDP super-frames, and there is nothing to ask beforehand.
        if joined_udp && report.error.as_ref().is_some_and(|error| error.raw_os_error() == Some(libc::EINVAL))
        {
            self.takes.udp = false;
        }
        batch.drain(..).for_each(|frame| pool.put(frame));
        report
    }

    fn readiness(&self) -> Option<RawFd> {
        Some(self.socket.as_raw_fd())
    }
}

/// A frame as it is.
fn send_alone<'a>(pool: &'a Pool, frame: &Frame, sending: &mut Sending<'_, 'a>) {
    let bytes = pool.bytes(frame);
    let ip = bytes.get(ethernet::HEADER_LEN..).unwrap_or_default();
    let header = vnet::encode(frame.offload, ethernet::HEADER_LEN as u16, ip);
    sending.message(Envelope::default(), 2, vnet::LEN, 0);
    sending.head(vnet::LEN).copy_from_slice(&header);
    sending.body(bytes);
}

/// A run of frames as one; says of what.
fn send_run<'a>(run: &Run<'a, '_>, sending: &mut Sending<'_, 'a>) -> Option<Segmentation> {
    let mut head = [0; MAX_HEAD];
    let (len, offload) = run.write_head(&mut head);
    sending.message(Envelope::default(), 1 + run.count(), vnet::LEN + len, 0);
    let (header, rest) = sending.head(vnet::LEN + len).split_at_mut(vnet::LEN);
    header.copy_from_slice(&vnet::encode_head(
        offload,
        run.family(),
        ethernet::HEADER_LEN as u16,
        len as u16,
    ));
    rest.copy_from_slice(&head[..len]);
    run.payloads().for_each(|payload| sending.body(payload));
    offload.segments.map(|segments| segments.kind)
}
