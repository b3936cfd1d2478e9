//! Ports in memory: for tests, benches, fuzzing, and whoever embeds the engine.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{BATCH, Port, Rx, TxReport};
use crate::buf::{Frame, Offload, Pool};

/// A frame at the edge of the vRouter, with what a real port would tell of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryFrame {
    /// The bytes, from the first header that the port carries.
    pub bytes: Vec<u8>,
    /// What a virtio-net header would say.
    pub offload: Offload,
    /// Outer address of the peer, for tunnel ports.
    pub peer: std::net::IpAddr,
    /// Outer ECN, for a VXLAN port.
    pub ecn: crate::wire::Ecn,
    /// Hash of the inner flow, of frames that were sent.
    pub flow: u32,
}

impl MemoryFrame {
    /// A frame from a workload or the host: bytes alone.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        MemoryFrame {
            bytes: bytes.into(),
            offload: Offload::default(),
            peer: std::net::Ipv4Addr::UNSPECIFIED.into(),
            ecn: crate::wire::Ecn::NotEct,
            flow: 0,
        }
    }

    /// A frame from a tunnel socket.
    pub fn from_peer(bytes: impl Into<Vec<u8>>, peer: std::net::IpAddr) -> Self {
        MemoryFrame { peer, ..Self::new(bytes) }
    }
}

/// The outside of a [`MemoryPort`]: what it receives next, and what it sent.
#[derive(Debug, Clone, Default)]
pub struct Wire {
    queues: Arc<Mutex<Queues>>,
}

#[derive(Debug, Default)]
struct Queues {
    towards: VecDeque<MemoryFrame>,
    from: Vec<MemoryFrame>,
}

impl Wire {
    /// Lets the port receive `frame`.
    pub fn push(&self, frame: MemoryFrame) {
        self.lock().towards.push_back(frame);
    }

    /// Takes what the port sent since the last call.
    pub fn take(&self) -> Vec<MemoryFrame> {
        std::mem::take(&mut self.lock().from)
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A port whose other side is a [`Wire`].
#[derive(Debug, Default)]
pub struct MemoryPort {
    wire: Wire,
}

impl MemoryPort {
    /// The port of a wire.
    pub fn new(wire: &Wire) -> Self {
        MemoryPort { wire: wire.clone() }
    }
}

impl Port for MemoryPort {
    fn rx(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> io::Result<Rx> {
        let mut queues = self.wire.lock();
        for _ in 0..BATCH {
            if queues.towards.is_empty() {
                return Ok(Rx::Drained);
            }
            let Some(mut frame) = pool.take() else { return Ok(Rx::More) };
            let Some(next) = queues.towards.pop_front() else {
                pool.put(frame);
                return Ok(Rx::Drained);
            };
            let room = pool.room(&frame);
            let len = next.bytes.len().min(room.len());
            room[..len].copy_from_slice(&next.bytes[..len]);
            pool.filled(&mut frame, len);
            (frame.offload, frame.peer, frame.ecn) = (next.offload, next.peer, next.ecn);
            batch.push(frame);
        }
        Ok(Rx::More)
    }

    fn tx(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> TxReport {
        let mut queues = self.wire.lock();
        let sent = batch.len() as u64;
        for frame in batch.drain(..) {
            queues.from.push(MemoryFrame {
                bytes: pool.bytes(&frame).to_vec(),
                offload: frame.offload,
                peer: frame.peer,
                ecn: frame.ecn,
                flow: frame.flow,
            });
            pool.put(frame);
        }
        TxReport { sent, ..TxReport::default() }
    }

    fn readiness(&self) -> Option<RawFd> {
        None
    }
}
