//! One frame: its place in a slot, and what receive and forwarding found out about it.

use std::net::{IpAddr, Ipv4Addr};

use crate::wire::ecn::Ecn;

/// A frame, packet or datagram in a slot of the [`Pool`](super::Pool) that made it, alone or as one of the parts
/// that [`Pool::divide`](super::Pool::divide) made of a slot.
#[derive(Debug)]
#[must_use = "a frame that is not put back takes its slot with it"]
pub struct Frame {
    pub(super) pool: u32,
    pub(super) slot: u32,
    /// Where its bytes begin and end in the pool's memory.
    pub(super) start: u32,
    pub(super) end: u32,
    /// Where its part of the slot begins there: headers are put in front no farther than this.
    pub(super) floor: u32,
    /// What the sender left to the hardware, or to us.
    pub offload: Offload,
    /// Received from a tunnel: outer source. To be sent into one: outer destination.
    pub peer: IpAddr,
    /// Received from a peer, or to be sent to one: which of the FIB's peers; `u32::MAX` for none of them.
    pub peer_index: u32,
    /// Outer ECN: as received from a tunnel socket, or to be sent by one.
    pub ecn: Ecn,
    /// Hash of the inner flow: chooses the source port of an outer UDP header.
    pub flow: u32,
}

impl Frame {
    /// An empty one in the slot that begins at `floor`.
    pub(super) fn new(pool: u32, slot: u32, floor: u32, headroom: u32) -> Self {
        Frame {
            pool,
            slot,
            start: floor + headroom,
            end: floor + headroom,
            floor,
            offload: Offload::default(),
            peer: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            peer_index: 0,
            ecn: Ecn::NotEct,
            flow: 0,
        }
    }

    /// Takes it away. What stays in its place is no frame: it owns nothing, and no pool takes it.
    #[inline(always)]
    pub fn take(&mut self) -> Frame {
        std::mem::replace(self, Frame::new(u32::MAX, 0, 0, 0))
    }

    /// Whether it was [taken](Self::take) from here.
    pub(crate) fn is_taken(&self) -> bool {
        self.pool == u32::MAX
    }

    /// Bytes from the first to the last.
    #[inline]
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// True when there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.end == self.start
    }

    /// Takes `count` bytes off the front; they become headroom. More than there are takes all.
    #[inline]
    pub fn strip(&mut self, count: usize) {
        let count = count.min(self.len());
        self.start += count as u32;
    }

    /// Keeps the first `len` bytes. A longer `len` keeps all.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        let len = len.min(self.len());
        self.end = self.start + len as u32;
    }
}

/// What a virtio-net header says of a frame, with offsets from the start of its IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// The transport checksum is unfinished.
    pub checksum: Option<PartialChecksum>,
    /// The frame stands for several: a super-frame.
    pub segments: Option<Segments>,
}

impl Offload {
    /// Everything is done: the frame is one packet with a whole checksum.
    #[inline]
    pub fn is_nothing(&self) -> bool {
        self.checksum.is_none() && self.segments.is_none()
    }

    /// What no packet fits, for a virtio-net header that makes no sense: segments of no bytes.
    pub const IMPOSSIBLE: Offload =
        Offload { checksum: None, segments: Some(Segments { kind: Segmentation::Tcp, size: 0 }) };
}

/// Most segments that a super-frame may be cut into: 65,535 bytes at the smallest MSS that Linux uses
/// (`TCP_MIN_SND_MSS`, 48). It bounds the work that one frame from a workload can cause.
pub const MAX_SEGMENTS: usize = 65535_usize.div_ceil(48);

/// The checksum field holds the pseudo-header sum only; the rest is still to be added (`NEEDS_CSUM`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartialChecksum {
    /// First byte to sum, from the start of the IP packet.
    pub start: u16,
    /// Place of the 16-bit checksum field, from `start`.
    pub field: u16,
}

/// How a super-frame is to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segments {
    /// What is cut.
    pub kind: Segmentation,
    /// Payload bytes of each segment but the last, above 0.
    pub size: u16,
}

/// What a super-frame holds, in packets of whatever version its own header is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segmentation {
    /// TCP (`VIRTIO_NET_HDR_GSO_TCPV4`, `_TCPV6`), without the CWR rule of `_GSO_ECN`.
    Tcp,
    /// TCP whose first segment alone keeps CWR (`VIRTIO_NET_HDR_GSO_ECN`, RFC 3168 6.1.2).
    TcpEcn,
    /// UDP datagrams (`VIRTIO_NET_HDR_GSO_UDP_L4`).
    Udp,
}
