//! A port that costs next to nothing: it receives the same frames for ever, and throws away what it sends.

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, RawFd};

use margay::buf::{Frame, Pool};
use margay::io::{BATCH, Port, Rx, TxReport};

use super::Input;

/// See the module.
pub(crate) struct Replay {
    inputs: Vec<Input>,
    next: usize,
}

impl Replay {
    pub(crate) fn new(inputs: Vec<Input>) -> Replay {
        Replay { inputs, next: 0 }
    }

    /// The next [`BATCH`] frames.
    #[inline]
    pub(crate) fn fill(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) {
        batch.extend((0..BATCH).map_while(|_| self.receive(pool)));
    }

    /// The next frame; copying 64 bytes is what receiving them costs at the least.
    #[inline]
    pub(crate) fn receive(&mut self, pool: &mut Pool) -> Option<Frame> {
        let mut frame = pool.take()?;
        let input = &self.inputs[self.next];
        self.next = if self.next + 1 == self.inputs.len() { 0 } else { self.next + 1 };
        *pool.room(&frame).first_chunk_mut()? = input.bytes;
        pool.filled(&mut frame, input.len);
        frame.peer = input.peer;
        Some(frame)
    }
}

impl Port for Replay {
    fn rx(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> io::Result<Rx> {
        self.fill(pool, batch);
        Ok(Rx::More)
    }

    fn tx(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> TxReport {
        let sent = batch.len() as u64;
        batch.drain(..).for_each(|frame| pool.put(frame));
        TxReport { sent, ..TxReport::default() }
    }

    fn readiness(&self) -> Option<RawFd> {
        None
    }
}

/// A port that waits for readiness which never comes.
pub(crate) struct Silent(UdpSocket);

impl Silent {
    pub(crate) fn new() -> Silent {
        Silent(UdpSocket::bind("127.0.0.1:0").expect("a UDP socket"))
    }
}

impl Port for Silent {
    fn rx(&mut self, _: &mut Pool, _: &mut Vec<Frame>) -> io::Result<Rx> {
        unreachable!("nobody sends to it")
    }

    fn tx(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> TxReport {
        let sent = batch.len() as u64;
        batch.drain(..).for_each(|frame| pool.put(frame));
        TxReport { sent, ..TxReport::default() }
    }

    fn readiness(&self) -> Option<RawFd> {
        Some(self.0.as_raw_fd())
    }
}
