//! Slots of one size in one allocation, and the list of free ones.
//!
//! What the engine calls for each packet is inlined for certain: left to itself the compiler finds too many
//! callers, and a call costs as much as what it does.

use std::io::IoSliceMut;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Frame;

/// Bytes in front of what receive fills. The deepest prefix that forwarding adds is Ethernet 14, outer
/// IPv6 40, UDP 8, VXLAN 8, inner Ethernet 14 and a virtio-net header of 12: 96, rounded to cache lines.
pub const HEADROOM: usize = 128;
const _: () = assert!(HEADROOM >= 14 + 40 + 8 + 8 + 14 + 12 && HEADROOM.is_multiple_of(64));

/// What a slot can receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotSize {
    /// Frames up to 2 KiB less headroom: enough where no super-frame can arrive.
    Frame,
    /// Super-frames: the greatest IP packet, an Ethernet header, and what a tunnel added to it.
    SuperFrame,
}

impl SlotSize {
    /// Bytes from the start of one slot to the next. The odd cache line keeps the first lines of
    /// neighbouring slots out of the same cache set.
    const fn stride(self) -> usize {
        match self {
            SlotSize::Frame => 2048 + 64,
            SlotSize::SuperFrame => HEADROOM + 65536 + 256 + 64,
        }
    }
}

/// A worker's buffers.
#[derive(Debug)]
pub struct Pool {
    id: u32,
    stride: usize,
    memory: Box<[u8]>,
    free: Vec<u32>,
    /// How many frames have a part of each slot, beside the first.
    shares: Box<[u16]>,
    slots: usize,
}

impl Pool {
    /// `count` slots, allocated at once; the system backs a page with memory when it is first written.
    pub fn new(count: usize, size: SlotSize) -> Self {
        static NEXT_ID: AtomicU32 = AtomicU32::new(0);
        // Frames know their place by 32 bits.
        let count = count.min(u32::MAX as usize / size.stride());
        Pool {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            stride: size.stride(),
            memory: vec![0; count * size.stride()].into_boxed_slice(),
            // Taken from the end: the lowest slots are used most, and stay in the cache.
            free: (0..count as u32).rev().collect(),
            shares: vec![0; count].into_boxed_slice(),
            slots: count,
        }
    }

    /// An empty frame with full headroom, or `None` when all slots are in use.
    #[inline(always)]
    pub fn take(&mut self) -> Option<Frame> {
        let slot = self.free.pop()?;
        Some(Frame::new(self.id, slot, slot * self.stride as u32, HEADROOM as u32))
    }

    /// Returns a frame's slot, or its part of one.
    #[inline(always)]
    pub fn put(&mut self, frame: Frame) {
        // A foreign slot in the free list would make two frames of one slot: `rooms` relies on this.
        assert_eq!(frame.pool, self.id, "a frame goes back to the pool that made it");
        match &mut self.shares[frame.slot as usize] {
            0 => {
                debug_assert!(self.free.len() < self.slots);
                self.free.push(frame.slot);
            }
            others => *others -= 1,
        }
    }

    /// Cuts a frame into parts of `size` bytes, the last one perhaps shorter: frames of their own, in one slot.
    /// Each part's bytes are its own to change, and its headroom is what is stripped from it.
    ///
    /// # Panics
    /// When `size` is 0.
    pub fn divide(&mut self, mut frame: Frame, size: u16, parts: &mut Vec<Frame>) {
        assert!(size > 0, "parts have bytes");
        while frame.len() > usize::from(size) {
            let end = frame.start + u32::from(size);
            parts.push(Frame { end, ..frame });
            self.shares[frame.slot as usize] += 1;
            (frame.start, frame.floor) = (end, end);
        }
        parts.push(frame);
    }

    /// Slots not in use.
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// All slots.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// The frame's bytes.
    #[inline(always)]
    pub fn bytes(&self, frame: &Frame) -> &[u8] {
        self.check(frame);
        &self.memory[frame.start as usize..frame.end as usize]
    }

    /// The frame's bytes, to change.
    #[inline(always)]
    pub fn bytes_mut(&mut self, frame: &Frame) -> &mut [u8] {
        self.check(frame);
        &mut self.memory[frame.start as usize..frame.end as usize]
    }

    /// Copies `len` bytes between frames: from offset `from_at` of `from` to offset `to_at` of `to`.
    ///
    /// # Panics
    /// When the ranges do not lie within the frames.
    pub fn copy(&mut self, from: &Frame, from_at: usize, to: &Frame, to_at: usize, len: usize) {
        assert!(from_at + len <= from.len() && to_at + len <= to.len(), "a copy stays within its frames");
        self.check(from);
        self.check(to);
        let source = from.start as usize + from_at;
        let target = to.start as usize + to_at;
        self.memory.copy_within(source..source + len, target);
    }

    /// Everything after the headroom, for receive to fill; [`Self::filled`] says how much it did.
    #[inline]
    pub fn room(&mut self, frame: &Frame) -> &mut [u8] {
        let base = self.base(frame);
        &mut self.memory[base + HEADROOM..base + self.stride]
    }

    /// Says that receive filled the first `len` bytes after the headroom.
    #[inline]
    pub fn filled(&self, frame: &mut Frame, len: usize) {
        debug_assert_eq!(frame.floor as usize, self.base(frame), "a part of a slot is not filled");
        frame.start = frame.floor + HEADROOM as u32;
        frame.end = frame.start + len.min(self.stride - HEADROOM) as u32;
    }

    /// Puts `N` bytes in front of the frame and returns them to be written; `None` if the headroom is
    /// used up, which a frame from receive cannot reach by the headers that forwarding adds. (A part of a slot
    /// comes out of a tunnel: what is put in front is never more than what was stripped.)
    #[inline(always)]
    pub fn prepend<const N: usize>(&mut self, frame: &mut Frame) -> Option<&mut [u8; N]> {
        self.check(frame);
        if ((frame.start - frame.floor) as usize) < N {
            return None;
        }
        frame.start -= N as u32;
        self.memory[frame.start as usize..].first_chunk_mut()
    }

    /// The rooms of several frames at once, for one system call that fills them all.
    ///
    /// # Panics
    /// If a frame is of another pool, or a part of a slot.
    pub fn rooms<'a>(&'a mut self, frames: &'a [Frame]) -> impl Iterator<Item = IoSliceMut<'a>> {
        let (id, stride) = (self.id, self.stride);
        let memory = self.memory.as_mut_ptr();
        let shares = &self.shares;
        frames.iter().map(move |frame| {
            assert_eq!(frame.pool, id, "a frame is received into the pool that made it");
            assert_eq!(shares[frame.slot as usize], 0, "a slot is filled for one frame");
            // SAFETY: `slot < count` for every frame that this pool made (`take` and `divide` are the only
            // sources of frames, and a frame cannot be cloned), so the range lies within `memory`. No two
            // live frames have the same slot unless it is shared, so the slices are disjoint. `self` is
            // borrowed for 'a.
            let room = unsafe {
                let room = memory.add(frame.slot as usize * stride + HEADROOM);
                std::slice::from_raw_parts_mut(room, stride - HEADROOM)
            };
            IoSliceMut::new(room)
        })
    }

    #[inline(always)]
    fn base(&self, frame: &Frame) -> usize {
        self.check(frame);
        frame.slot as usize * self.stride
    }

    #[inline(always)]
    fn check(&self, frame: &Frame) {
        debug_assert_eq!(frame.pool, self.id, "a frame is used with the pool that made it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_pool_says_so_and_a_returned_slot_is_used_again() {
        let mut pool = Pool::new(2, SlotSize::Frame);
        let first = pool.take().unwrap();
        let second = pool.take().unwrap();
        assert!(pool.take().is_none());
        pool.put(first);
        assert_eq!(pool.available(), 1);
        let again = pool.take().unwrap();
        pool.put(again);
        pool.put(second);
        assert_eq!(pool.available(), pool.slots());
    }

    #[test]
    fn headers_go_into_the_headroom_and_the_payload_stays_where_it_is() {
        let mut pool = Pool::new(1, SlotSize::Frame);
        let mut frame = pool.take().unwrap();
        pool.room(&frame)[..4].copy_from_slice(b"body");
        pool.filled(&mut frame, 4);
        let before = pool.bytes(&frame).as_ptr();
        pool.prepend::<4>(&mut frame).unwrap().copy_from_slice(b"head");
        assert_eq!(pool.bytes(&frame), b"headbody");
        frame.strip(4);
        assert_eq!(pool.bytes(&frame).as_ptr(), before);
        frame.truncate(2);
        assert_eq!(pool.bytes(&frame), b"bo");
        frame.strip(99);
        assert!(frame.is_empty());
        pool.put(frame);
    }

    #[test]
    fn the_headroom_ends_and_says_so() {
        let mut pool = Pool::new(1, SlotSize::Frame);
        let mut frame = pool.take().unwrap();
        assert!(pool.prepend::<HEADROOM>(&mut frame).is_some());
        assert!(pool.prepend::<1>(&mut frame).is_none());
        pool.put(frame);
    }

    #[test]
    fn parts_share_a_slot_until_the_last_is_returned() {
        let mut pool = Pool::new(1, SlotSize::Frame);
        let mut frame = pool.take().unwrap();
        pool.room(&frame)[..10].copy_from_slice(b"aaaabbbbcc");
        pool.filled(&mut frame, 10);
        frame.flow = 7;
        let mut parts = Vec::new();
        pool.divide(frame, 4, &mut parts);
        assert_eq!(
            parts.iter().map(|part| pool.bytes(part)).collect::<Vec<_>>(),
            [&b"aaaa"[..], b"bbbb", b"cc"]
        );
        assert!(parts.iter().all(|part| part.flow == 7));
        let second = &mut parts[1];
        second.strip(2);
        assert!(pool.prepend::<3>(second).is_none(), "that would be of the first part");
        *pool.prepend::<2>(second).unwrap() = *b"BB";
        assert_eq!(pool.bytes(&parts[0]), b"aaaa");
        assert_eq!(pool.bytes(&parts[1]), b"BBbb");
        for part in parts {
            assert_eq!(pool.available(), 0);
            pool.put(part);
        }
        assert_eq!(pool.available(), 1);
    }

    #[test]
    fn rooms_are_disjoint() {
        let mut pool = Pool::new(3, SlotSize::SuperFrame);
        let mut frames: Vec<Frame> = std::iter::from_fn(|| pool.take()).collect();
        for (n, mut room) in pool.rooms(&frames).enumerate() {
            room.fill(n as u8);
        }
        for (n, frame) in frames.iter_mut().enumerate() {
            pool.filled(frame, usize::MAX);
            assert!(frame.len() >= 65535 + 14);
            assert!(pool.bytes(frame).iter().all(|byte| *byte == n as u8));
        }
        frames.into_iter().for_each(|frame| pool.put(frame));
    }
}
