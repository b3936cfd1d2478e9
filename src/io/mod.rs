//! Ports: where a worker's frames come from and go to.
//!
//! Batches exist here, at the edges. A port receives into slots of the worker's pool, and sends from them;
//! what the kernel leaves to us (partial checksums, super-frames) is described by the frame's
//! [`Offload`](crate::buf::Offload), and done in [`offload`] where a port cannot pass it on.

use std::io;
use std::os::fd::RawFd;

use crate::buf::{Frame, Pool};

mod burst;
pub mod express;
pub mod join;
pub mod link;
pub mod memory;
pub mod offload;
pub mod packet;
pub mod raw;
mod runs;
pub mod tap;
pub mod udp;
pub mod vnet;

/// Messages that a port receives or sends in one go.
pub const BATCH: usize = crate::sys::mmsg::BATCH;

/// Most frames of a batch: a message may be several datagrams that the kernel joined.
pub const FRAMES: usize = 1024;

/// How long a full interface or socket may hold a worker up, in milliseconds: it reads nothing meanwhile, so what
/// would follow waits in the endpoints' queues. For a workload that does not take what is sent to it:
const PATIENCE: i32 = 2;
/// For an underlay that is slower than the workloads: see `SEND_BUFFER` in `sys/socket.rs`.
const UNDERLAY_PATIENCE: i32 = 100;

/// What a port that was read has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rx {
    /// Perhaps more: read again.
    More,
    /// Nothing: wait for readiness.
    Drained,
}

/// What became of the frames that a port was given to send.
#[derive(Debug, Default)]
pub struct TxReport {
    /// Taken by the kernel.
    pub sent: u64,
    /// Not taken in time, and dropped.
    pub full: u64,
    /// Refused, and dropped.
    pub failed: u64,
    /// Why the last one was refused.
    pub error: Option<io::Error>,
}

impl TxReport {
    fn refuse(&mut self, error: io::Error) {
        self.failed += 1;
        self.error = Some(error);
    }
}

/// An edge of the vRouter.
pub trait Port: Send {
    /// Appends received frames to `batch`, at most [`FRAMES`] and of at most as many messages as the pool has slots
    /// for.
    ///
    /// # Errors
    /// The interface is gone, or the kernel gave another reason to give up this port.
    fn rx(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> io::Result<Rx>;

    /// Sends all of `batch`, at most [`FRAMES`], each flow in order, and returns their slots to the pool.
    fn tx(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> TxReport;

    /// What tells of readiness to receive; `None` for a port that is always asked.
    fn readiness(&self) -> Option<RawFd>;
}
