//! Many frames through one socket: receive a batch, send a batch, with bounded patience.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use super::offload::{MAX_HEAD, Outer, SuperFrame};
use super::{PATIENCE, Rx, TxReport};
use crate::buf::{Frame, Pool, Segments};
use crate::sys::mmsg::{self, BATCH, Batch, Message, Received};

/// The memory that batches on one socket need, allocated once.
#[derive(Debug)]
pub(super) struct Burst {
    batch: Batch,
    /// Slots that the next receive fills.
    waiting: Vec<Frame>,
    /// Headers of a super-frame's segments.
    heads: Box<[Head]>,
}

/// How frames leave by a socket.
pub(super) struct Way<'a, A> {
    /// The socket.
    pub(super) socket: BorrowedFd<'a>,
    /// What stands in front of a frame's IP packet.
    pub(super) outer: Outer,
    /// Where a frame goes to, and with which TOS.
    pub(super) address: A,
}

#[derive(Debug, Clone, Copy)]
struct Head {
    bytes: [u8; MAX_HEAD],
    len: usize,
}

impl Burst {
    pub(super) fn new() -> Self {
        Burst {
            batch: Batch::default(),
            waiting: Vec::with_capacity(BATCH),
            heads: vec![Head { bytes: [0; MAX_HEAD], len: 0 }; BATCH].into_boxed_slice(),
        }
    }

    /// Appends to `frames` what `socket` has, after `look` took from each message what its port needs.
    pub(super) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        pool: &mut Pool,
        frames: &mut Vec<Frame>,
        look: impl Fn(&Pool, &mut Frame, Received),
    ) -> io::Result<Rx> {
        while self.waiting.len() < BATCH {
            let Some(frame) = pool.take() else { break };
            self.waiting.push(frame);
        }
        let asked = self.waiting.len();
        let received = self.batch.receive(socket, pool.rooms(&self.waiting));
        let taken = *received.as_ref().unwrap_or(&0);
        for (index, mut frame) in self.waiting.drain(..).enumerate() {
            if index >= taken {
                pool.put(frame);
                continue;
            }
            let message = self.batch.received(index);
            pool.filled(&mut frame, message.len);
            look(pool, &mut frame, message);
            frames.push(frame);
        }
        match received {
            // As many as there were slots for: the socket may have more.
            Ok(taken) if taken == asked => Ok(Rx::More),
            Ok(_) => Ok(Rx::Drained),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => Ok(Rx::Drained),
                io::ErrorKind::Interrupted => Ok(Rx::More),
                // What ICMP said of packets sent earlier, or that a packet socket's interface was set down,
                // which may come up again: nothing is wrong with the socket.
                io::ErrorKind::NetworkDown
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable => Ok(Rx::More),
                _ => Err(error),
            },
        }
    }

    /// Sends the frames that `order` names, in that order.
    pub(super) fn send(
        &mut self,
        way: Way<'_, impl Fn(&Frame) -> (Option<SocketAddr>, u8)>,
        pool: &Pool,
        frames: &[Frame],
        order: &[u16],
        report: &mut TxReport,
    ) {
        let frame = |index: u16| &frames[usize::from(index)];
        let cut = |index: &u16| frame(*index).offload.segments;
        for run in order.chunk_by(|a, b| cut(a).is_none() && cut(b).is_none()) {
            match run.first().and_then(cut) {
                Some(segments) => {
                    let frame = frame(run[0]);
                    let address = (way.address)(frame);
                    self.cut(&way, address, pool.bytes(frame), segments, report);
                }
                None => {
                    let message = |index: usize| {
                        let frame = frame(run[index]);
                        let (to, tos) = (way.address)(frame);
                        Message { to, head: pool.bytes(frame), body: &[], tos }
                    };
                    send(&mut self.batch, way.socket, run.len(), message, report);
                }
            }
        }
    }

    fn cut<A>(
        &mut self,
        way: &Way<'_, A>,
        (to, tos): (Option<SocketAddr>, u8),
        bytes: &[u8],
        segments: Segments,
        report: &mut TxReport,
    ) {
        let Some(super_frame) = SuperFrame::parse(bytes, way.outer, segments) else {
            report.failed += 1;
            return;
        };
        let mut pieces = TxReport::default();
        for start in (0..super_frame.count()).step_by(BATCH) {
            let count = BATCH.min(super_frame.count() - start);
            for (index, head) in self.heads[..count].iter_mut().enumerate() {
                head.len = super_frame.write_head(start + index, &mut head.bytes);
            }
            let heads = &self.heads;
            let message = |index: usize| {
                let head = &heads[index];
                Message { to, head: &head.bytes[..head.len], body: super_frame.payload(start + index), tos }
            };
            send(&mut self.batch, way.socket, count, message, &mut pieces);
        }
        report.add_whole(pieces);
    }
}

/// Sends message 0 to `count` - 1. One that the kernel refuses does not keep the others back.
fn send<'a>(
    batch: &mut Batch,
    socket: BorrowedFd<'_>,
    count: usize,
    message: impl Fn(usize) -> Message<'a>,
    report: &mut TxReport,
) {
    let mut next = 0;
    let mut waited = false;
    while next < count {
        let end = count.min(next + BATCH);
        match batch.send(socket, (next..end).map(&message)) {
            Ok(sent) => {
                next += sent;
                report.sent += sent as u64;
                waited = false;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_full(&error) && !waited => {
                mmsg::wait_writable(socket, PATIENCE);
                waited = true;
            }
            Err(error) if is_full(&error) => {
                report.full += (count - next) as u64;
                return;
            }
            Err(error) => {
                next += 1;
                report.refuse(error);
            }
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}
