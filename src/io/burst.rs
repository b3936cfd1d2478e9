//! Many frames through one socket: receive a batch, send a batch, with bounded patience.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use super::offload::{Outer, SuperFrame};
use super::{FRAMES, Rx, TxReport};
use crate::buf::{Frame, Pool, Segments};
use crate::sys::mmsg::{self, BATCH, Batch, Envelope, Outbox, Received};

/// Most datagrams that the kernel cuts from one message (`UDP_MAX_SEGMENTS` before Linux 6.9; since then 128).
pub(super) const MAX_DATAGRAMS: usize = 64;
/// Most bytes of such a message: what fits one IP packet, with a margin for the outer headers.
pub(super) const MAX_MESSAGE: usize = 65_400;

/// The memory that batches on one socket need, allocated once.
#[derive(Debug)]
pub(super) struct Burst {
    batch: Batch,
    /// Slots that the next receive fills.
    waiting: Vec<Frame>,
    /// How many messages are received in one go.
    messages: usize,
    fates: Vec<Fate>,
    owners: Vec<Owner>,
}

impl Burst {
    /// For a socket of which `messages` are received in one go, at most [`BATCH`].
    pub(super) fn new(messages: usize) -> Self {
        Burst {
            batch: Batch::default(),
            waiting: Vec::with_capacity(messages),
            messages,
            fates: Vec::with_capacity(FRAMES),
            owners: Vec::with_capacity(BATCH),
        }
    }

    /// Appends to `frames` what `socket` has, after `look` took from each message what its port needs. A message
    /// of several datagrams becomes a frame for each.
    pub(super) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        pool: &mut Pool,
        frames: &mut Vec<Frame>,
        look: impl Fn(&mut Pool, &mut Frame, Received),
    ) -> io::Result<Rx> {
        while self.waiting.len() < self.messages {
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
            match message.segment {
                // More parts than a batch has room for would be the kernel's mistake: then they are no datagrams.
                Some(size) => {
                    let least = frame.len().div_ceil(FRAMES / self.messages) as u16;
                    pool.divide(frame, size.max(least), frames);
                }
                None => frames.push(frame),
            }
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

    /// Begins to send by `socket`, which may keep us waiting so many milliseconds when it is full.
    pub(super) fn sending<'b, 'a>(&'b mut self, socket: BorrowedFd<'b>, wait: i32) -> Sending<'b, 'a> {
        self.fates.clear();
        self.owners.clear();
        Sending {
            socket,
            wait,
            outbox: self.batch.outbox(),
            fates: &mut self.fates,
            owners: &mut self.owners,
            patience: Patience::Fresh,
            cannot_cut: false,
        }
    }
}

/// What became of the frames of one run, or of one super-frame: the worst of what became of its messages.
#[derive(Debug)]
struct Fate {
    frames: u64,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    Sent,
    Full,
    Failed(io::Error),
}

/// What a message in the outbox belongs to.
#[derive(Debug, Clone, Copy)]
struct Owner {
    /// Index of its fate.
    fate: usize,
    /// Slices of each datagram that the kernel is to cut from it; 0: it is one.
    slices: usize,
}

/// How long the socket has kept us waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    Fresh,
    Waited,
    Lost,
}

/// A batch on its way through a socket: runs of frames, each of one message or more.
#[derive(Debug)]
pub(super) struct Sending<'b, 'a> {
    socket: BorrowedFd<'b>,
    wait: i32,
    outbox: Outbox<'b, 'a>,
    fates: &'b mut Vec<Fate>,
    owners: &'b mut Vec<Owner>,
    patience: Patience,
    cannot_cut: bool,
}

/// How frames leave by a socket.
pub(super) struct Way {
    /// What stands in front of a frame's IP packet.
    pub(super) outer: Outer,
    /// Most datagrams of one message: [`MAX_DATAGRAMS`] where the kernel cuts them (`UDP_SEGMENT`), else 1.
    pub(super) datagrams: usize,
}

impl<'a> Sending<'_, 'a> {
    /// Begins a run of so many frames: what becomes of its messages becomes of each of them.
    pub(super) fn run(&mut self, frames: usize) {
        self.fates.push(Fate { frames: frames as u64, outcome: Outcome::Sent });
    }

    /// Begins a message of the run, of so many slices and bytes of heads. `cut` says how many slices each
    /// datagram has if the kernel is to cut it into several.
    pub(super) fn message(&mut self, envelope: Envelope, slices: usize, heads: usize, cut: usize) {
        if !self.outbox.has_room(slices, heads) {
            self.flush();
        }
        self.outbox.begin(envelope);
        self.owners.push(Owner { fate: self.fates.len() - 1, slices: cut });
    }

    /// Bytes of the message for the caller to write.
    pub(super) fn head(&mut self, len: usize) -> &mut [u8] {
        self.outbox.head(len)
    }

    /// Bytes of the message that stay where they are.
    pub(super) fn body(&mut self, bytes: &'a [u8]) {
        self.outbox.body(bytes);
    }

    /// A run of whole frames of one size, to one address.
    pub(super) fn whole(&mut self, envelope: Envelope, frames: impl ExactSizeIterator<Item = &'a [u8]>) {
        let count = frames.len();
        self.run(count);
        self.message(envelope, count, 0, usize::from(count > 1));
        frames.for_each(|bytes| self.body(bytes));
    }

    /// A super-frame, cut: a head written here and a slice of the payload for each segment.
    pub(super) fn cut(&mut self, envelope: Envelope, bytes: &'a [u8], segments: Segments, way: &Way) {
        self.run(1);
        let Some(super_frame) = SuperFrame::parse(bytes, way.outer, segments) else {
            return self.failed(self.fates.len() - 1, io::ErrorKind::InvalidData.into());
        };
        let (head, count) = (super_frame.head_len(), super_frame.count());
        let size = head + usize::from(segments.size);
        let most = way.datagrams.min(MAX_MESSAGE / size).max(1);
        for start in (0..count).step_by(most) {
            let datagrams = most.min(count - start);
            let segment = (datagrams > 1).then_some(size as u16);
            let slices = if datagrams > 1 { 2 } else { 0 };
            self.message(Envelope { segment, ..envelope }, 2 * datagrams, head * datagrams, slices);
            for index in start..start + datagrams {
                super_frame.write_head(index, self.head(head));
                self.body(super_frame.payload(index));
            }
        }
    }

    /// Sends what is left, and counts what became of every frame. Says whether the kernel turned out not to cut
    /// datagrams for this socket.
    pub(super) fn finish(mut self, report: &mut TxReport) -> bool {
        self.flush();
        for fate in self.fates.drain(..) {
            match fate.outcome {
                Outcome::Sent => report.sent += fate.frames,
                Outcome::Full => report.full += fate.frames,
                Outcome::Failed(error) => {
                    report.failed += fate.frames;
                    report.error = Some(error);
                }
            }
        }
        self.cannot_cut
    }

    /// Empties the outbox. A message that the kernel refuses does not keep the others back.
    fn flush(&mut self) {
        let mut next = 0;
        while next < self.outbox.len() {
            let Owner { fate, slices } = self.owners[next];
            match self.outbox.send(self.socket, next) {
                Ok(sent) => {
                    next += sent;
                    self.patience = Patience::Fresh;
                }
                Err(error) if slices > 0 && is_uncut(&error) => {
                    // A segment larger than the path's MTU is no reason not to let the kernel cut the next message.
                    self.cannot_cut |= error.raw_os_error() != Some(libc::EMSGSIZE);
                    self.apart(next);
                    next += 1;
                }
                Err(error) => match self.bear(error) {
                    Ok(()) if self.patience == Patience::Lost => {
                        (next..self.outbox.len()).for_each(|index| self.full(self.owners[index].fate));
                        break;
                    }
                    Ok(()) => {}
                    Err(error) => {
                        self.failed(fate, error);
                        next += 1;
                    }
                },
            }
        }
        self.outbox.clear();
        self.owners.clear();
    }

    /// Sends each datagram of a message that the kernel will not cut: so small a path MTU leads to fragments.
    #[cold]
    fn apart(&mut self, index: usize) {
        let Owner { fate, slices } = self.owners[index];
        let mut next = 0;
        loop {
            match self.outbox.send_apart(self.socket, index, slices, next) {
                Ok(0) => return,
                Ok(sent) => next += sent,
                Err(error) => match self.bear(error) {
                    Ok(()) if self.patience == Patience::Lost => return self.full(fate),
                    Ok(()) => {}
                    Err(error) => return self.failed(fate, error),
                },
            }
        }
    }

    /// Waits for a full socket, once; gives back an error that says something else.
    fn bear(&mut self, error: io::Error) -> io::Result<()> {
        if error.kind() == io::ErrorKind::Interrupted {
            return Ok(());
        }
        if error.kind() != io::ErrorKind::WouldBlock && error.raw_os_error() != Some(libc::ENOBUFS) {
            return Err(error);
        }
        self.patience = match self.patience {
            Patience::Fresh => {
                mmsg::wait_writable(self.socket, self.wait);
                Patience::Waited
            }
            _ => Patience::Lost,
        };
        Ok(())
    }

    fn full(&mut self, fate: usize) {
        if let outcome @ Outcome::Sent = &mut self.fates[fate].outcome {
            *outcome = Outcome::Full;
        }
    }

    fn failed(&mut self, fate: usize, error: io::Error) {
        self.fates[fate].outcome = Outcome::Failed(error);
    }
}

/// What the kernel says when it cannot cut a message, while it would take each datagram by itself: the device or
/// the socket's route cannot have it (EIO, EINVAL, EOPNOTSUPP), or the path MTU is smaller than a segment.
fn is_uncut(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EOPNOTSUPP | libc::EMSGSIZE))
}

/// The destination of a frame for a socket that speaks IP: its peer, at `port` if it has ports.
pub(super) fn envelope(frame: &Frame, port: u16) -> Envelope {
    Envelope { to: Some(SocketAddr::new(frame.peer, port)), tos: frame.ecn.bits(), segment: None }
}
