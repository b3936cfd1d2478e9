//! Packet buffers: fixed slots in one allocation, handed around as [`Frame`]s.
//!
//! A [`Pool`] belongs to one worker. A [`Frame`] owns its slot, or its part of one that the kernel filled with
//! several datagrams: it cannot be copied, and the slot that receive filled is the slot that transmit reads; a
//! header is prepended into the headroom in front, which for a part are the headers that were stripped from it.
//! Nothing here grows: an empty pool is an answer (`None`), not an allocation.

#![allow(unsafe_code)]

mod frame;
mod pool;

pub use frame::{Frame, MAX_SEGMENTS, Offload, PartialChecksum, Segmentation, Segments};
pub use pool::{HEADROOM, Pool, SlotSize};
