//! Joining: segments of one flow that follow each other leave as one super-frame.
//!
//! What is joined is what the kernel's own GRO would join (Linux net/ipv4/af_inet.c `inet_gro_receive`,
//! tcp_offload.c `tcp_gro_receive`, udp_offload.c `udp_gro_receive_segment`), and nothing is lost by it: the
//! super-frame, cut by the rules of segmentation, gives the frames that it was made of, identifications aside
//! where DF says that they mean nothing (RFC 6864 4.1). The payload stays where it is.
//!
//! The order within a flow stays: a flow has one place for its open run, and whatever else of it comes there
//! first sends the run off. Two flows of one place send each other's runs off, which costs a join, never order.

use std::net::IpAddr;

use super::offload::MAX_HEAD;
use crate::buf::{Frame, Offload, PartialChecksum, Pool, Segmentation, Segments};
use crate::wire::flow::Flow;
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::tcp::{self, Flags, Tcp};
use crate::wire::udp::{self, Udp};
use crate::wire::{EtherType, Ethernet, Protocol, checksum};

/// What an interface takes as super-frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Takes {
    /// TCP over IPv4.
    pub tcp: bool,
    /// UDP datagrams over IPv4.
    pub udp: bool,
}

/// Most frames in a run: it bounds the slices that a write is made of.
pub const MAX_RUN: usize = 128;

/// Most datagrams in a run, as in the kernel (`UDP_GRO_CNT_MAX`).
const MAX_DATAGRAMS: usize = 64;

/// Frames that are looked at together; a longer batch is taken in pieces.
const CHUNK: usize = 512;

/// Places for open runs.
const PLACES: usize = 32;

/// Gives `frames`, whose IP packets begin after `l2` bytes (0 or an Ethernet header), to `write` as runs: each
/// frame once, those of a flow in their order.
pub fn join<'a>(
    pool: &'a Pool,
    frames: &'a [Frame],
    l2: usize,
    takes: Takes,
    mut write: impl FnMut(Run<'a, '_>),
) {
    for frames in frames.chunks(CHUNK) {
        Joiner { pool, frames, l2, next: [0; CHUNK], open: [const { None }; PLACES] }.run(takes, &mut write);
    }
}

/// Frames that leave together.
#[derive(Debug)]
pub struct Run<'a, 'n> {
    pool: &'a Pool,
    frames: &'a [Frame],
    /// The frame after each.
    next: &'n [u16],
    l2: usize,
    shape: Shape,
}

/// A run's frames, and what the next one is compared with.
#[derive(Debug, Clone, Copy)]
struct Shape {
    first: u16,
    last: u16,
    count: u16,
    /// Bytes from the front to the payload, in each frame.
    head_len: u16,
    /// Payload bytes of each frame but the last.
    size: u16,
    /// Payload bytes of all frames.
    len: u16,
    /// TCP, not UDP.
    is_tcp: bool,
    /// The first frame's checksum was found right, or is not there yet.
    is_verified: bool,
}

impl<'a> Run<'a, '_> {
    /// Frames in it: one at least.
    pub fn count(&self) -> usize {
        self.shape.count.into()
    }

    /// Its first frame: all of it where there is but one.
    pub fn first(&self) -> &'a Frame {
        &self.frames[usize::from(self.shape.first)]
    }

    /// Its frames, in order.
    pub fn frames(&self) -> impl Iterator<Item = &'a Frame> {
        let &Run { frames, next, shape, .. } = self;
        std::iter::successors(Some(shape.first), move |index| Some(next[usize::from(*index)]))
            .take(shape.count.into())
            .map(move |index| &frames[usize::from(index)])
    }

    /// Their payloads. Means nothing for a run of one.
    pub fn payloads(&self) -> impl Iterator<Item = &'a [u8]> {
        let (pool, head_len) = (self.pool, usize::from(self.shape.head_len));
        self.frames().map(move |frame| &pool.bytes(frame)[head_len..])
    }

    /// Writes the super-frame's headers to the front of `out`; how long they are, and what a virtio-net header
    /// is to say of it. Means nothing for a run of one.
    ///
    /// They are the first frame's, but for lengths and checksums, and for FIN and PSH, which only the last
    /// frame can have.
    pub fn write_head(&self, out: &mut [u8; MAX_HEAD]) -> (usize, Offload) {
        let shape = &self.shape;
        let head_len = usize::from(shape.head_len);
        let out = &mut out[..head_len];
        out.copy_from_slice(&self.pool.bytes(self.first())[..head_len]);
        let (ip, transport) = out[self.l2..].split_at_mut(ipv4::MIN_HEADER_LEN);
        let transport_len = transport.len() + usize::from(shape.len);
        let total_len = ip.len() + transport_len;
        ip[2..4].copy_from_slice(&(total_len as u16).to_be_bytes());
        ip[10..12].fill(0);
        let sum = checksum::checksum(ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let (field, kind) = match shape.is_tcp {
            true => (TCP_CHECKSUM, self.tcp(transport)),
            false => {
                transport[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes());
                (UDP_CHECKSUM, Segmentation::UdpV4)
            }
        };
        let at = usize::from(field);
        transport[at..at + 2].copy_from_slice(&pseudo_header(ip, transport_len).folded().to_be_bytes());
        let checksum = Some(PartialChecksum { start: ipv4::MIN_HEADER_LEN as u16, field });
        (head_len, Offload { checksum, segments: Some(Segments { kind, size: shape.size }) })
    }

    fn tcp(&self, header: &mut [u8]) -> Segmentation {
        let last = self.pool.bytes(&self.frames[usize::from(self.shape.last)]);
        let flags = flags(header) | flags(&last[self.l2 + ipv4::MIN_HEADER_LEN..]) & ENDS;
        tcp::write_flags(header, flags);
        match flags.intersects(Flags::CWR) {
            true => Segmentation::TcpV4Ecn,
            false => Segmentation::TcpV4,
        }
    }
}

/// Places of the checksums in their headers.
const TCP_CHECKSUM: u16 = 16;
const UDP_CHECKSUM: u16 = 6;

const DONT_FRAGMENT: u16 = 0x4000;

/// Flags that end a run; its last frame may have them.
const ENDS: Flags = Flags(Flags::FIN.0 | Flags::PSH.0);
/// Flags of segments that stay alone.
const ALONE: Flags = Flags(Flags::SYN.0 | Flags::RST.0 | Flags::URG.0);

/// The control bits of a TCP header.
fn flags(header: &[u8]) -> Flags {
    Flags(header[13])
}

/// The pseudo-header's sum for an IP header without options.
fn pseudo_header(ip: &[u8], len: usize) -> checksum::Sum {
    let address = |at: usize| IpAddr::from([ip[at], ip[at + 1], ip[at + 2], ip[at + 3]]);
    checksum::pseudo_header(address(12), address(16), Protocol(ip[9]), len)
}

/// What a frame can do to the runs.
enum Kind {
    /// Begin one, or go on with one.
    Segment(Segment),
    /// Nothing, but it has a place in its flow.
    OfFlow(usize),
    /// Nothing; its flow is not known, as of a fragment.
    Other,
}

/// A frame that may be joined.
struct Segment {
    /// Its flow's.
    place: usize,
    head_len: usize,
    /// Payload bytes: 1 at least.
    len: usize,
    is_tcp: bool,
    is_partial: bool,
    /// Nothing may follow it.
    ends: bool,
}

struct Joiner<'a> {
    pool: &'a Pool,
    frames: &'a [Frame],
    l2: usize,
    next: [u16; CHUNK],
    open: [Option<Shape>; PLACES],
}

impl<'a> Joiner<'a> {
    fn run(mut self, takes: Takes, write: &mut impl FnMut(Run<'a, '_>)) {
        for (index, frame) in self.frames.iter().enumerate() {
            match kind(self.pool.bytes(frame), frame.offload, self.l2, takes) {
                Kind::Segment(segment) => self.add(index as u16, &segment, write),
                Kind::OfFlow(place) => {
                    self.close(place, write);
                    self.write(Shape::alone(index as u16), write);
                }
                Kind::Other => {
                    self.close_all(write);
                    self.write(Shape::alone(index as u16), write);
                }
            }
        }
        self.close_all(write);
    }

    fn add(&mut self, index: u16, segment: &Segment, write: &mut impl FnMut(Run<'a, '_>)) {
        let place = segment.place;
        let shape = match self.open[place].and_then(|shape| self.extended(shape, index, segment)) {
            Some(shape) => shape,
            None => {
                self.close(place, write);
                Shape::begin(index, segment)
            }
        };
        match shape.is_closed_by(segment) {
            true => {
                self.open[place] = None;
                self.write(shape, write);
            }
            false => self.open[place] = Some(shape),
        }
    }

    /// The run with the segment at its end, if it may go there.
    fn extended(&mut self, shape: Shape, index: u16, segment: &Segment) -> Option<Shape> {
        let bytes = |index: u16| self.pool.bytes(&self.frames[usize::from(index)]);
        let (first, this) = (bytes(shape.first), bytes(index));
        let len = usize::from(shape.len) + segment.len;
        let fits = segment.is_tcp == shape.is_tcp
            && segment.head_len == usize::from(shape.head_len)
            && segment.len <= usize::from(shape.size)
            && segment.head_len - self.l2 + len <= usize::from(u16::MAX);
        let joins = fits
            && shape.is_followed_by(self.l2, first, this)
            && (shape.is_verified || is_right(&first[self.l2..]))
            && (segment.is_partial || is_right(&this[self.l2..]));
        if !joins {
            return None;
        }
        self.next[usize::from(shape.last)] = index;
        Some(Shape { last: index, count: shape.count + 1, len: len as u16, is_verified: true, ..shape })
    }

    fn close_all(&mut self, write: &mut impl FnMut(Run<'a, '_>)) {
        for place in 0..PLACES {
            self.close(place, write);
        }
    }

    fn close(&mut self, place: usize, write: &mut impl FnMut(Run<'a, '_>)) {
        if let Some(shape) = self.open[place].take() {
            self.write(shape, write);
        }
    }

    fn write(&self, shape: Shape, write: &mut impl FnMut(Run<'a, '_>)) {
        write(Run { pool: self.pool, frames: self.frames, next: &self.next, l2: self.l2, shape });
    }
}

impl Shape {
    /// A frame that nothing is known of.
    fn alone(index: u16) -> Shape {
        Shape {
            first: index,
            last: index,
            count: 1,
            head_len: 0,
            size: 0,
            len: 0,
            is_tcp: false,
            is_verified: false,
        }
    }

    fn begin(index: u16, segment: &Segment) -> Shape {
        let len = segment.len as u16;
        Shape {
            head_len: segment.head_len as u16,
            size: len,
            len,
            is_tcp: segment.is_tcp,
            is_verified: segment.is_partial,
            ..Shape::alone(index)
        }
    }

    /// True when nothing may follow `segment`, the last one in it.
    fn is_closed_by(&self, segment: &Segment) -> bool {
        let most = if self.is_tcp { MAX_RUN } else { MAX_DATAGRAMS };
        segment.ends || segment.len < usize::from(self.size) || usize::from(self.count) == most
    }

    /// True when the headers of `this` frame are what those of the `first` become in the run's next segment.
    fn is_followed_by(&self, l2: usize, first: &[u8], this: &[u8]) -> bool {
        let same = |from: usize, to: usize| first[from..to] == this[from..to];
        let word = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        // Ethernet, version, TOS; DF, TTL, protocol; addresses and ports.
        let is_same_flow =
            same(0, l2 + 2) && same(l2 + 6, l2 + 10) && same(l2 + 12, l2 + ipv4::MIN_HEADER_LEN + 4);
        let is_numbered = word(first, l2 + 6) & DONT_FRAGMENT != 0
            || word(this, l2 + 4) == word(first, l2 + 4).wrapping_add(self.count);
        if !is_same_flow || !is_numbered {
            return false;
        }
        let tcp = l2 + ipv4::MIN_HEADER_LEN;
        !self.is_tcp || self.is_followed_in_tcp(&first[tcp..self.head_len.into()], &this[tcp..])
    }

    fn is_followed_in_tcp(&self, first: &[u8], this: &[u8]) -> bool {
        let seq = |header: &[u8]| u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let same = |from: usize, to: usize| first[from..to] == this[from..to];
        let differ = Flags(flags(first).0 ^ flags(this).0);
        seq(this) == seq(first).wrapping_add(self.len.into())
            // Acknowledgment, data offset; window; urgent pointer and options.
            && same(8, 13)
            && same(14, 16)
            && same(18, first.len())
            && !differ.intersects(!(ENDS | Flags::CWR))
            // The window is reduced once: CWR again is another answer (RFC 3168 6.1.2).
            && !flags(this).intersects(Flags::CWR)
    }
}

fn kind(bytes: &[u8], offload: Offload, l2: usize, takes: Takes) -> Kind {
    if l2 > 0 && Ethernet::parse(bytes).is_ok_and(|frame| frame.ethertype() != EtherType::IPV4) {
        return Kind::Other;
    }
    let packet = bytes.get(l2..).unwrap_or_default();
    let Ok(ip) = Ipv4::parse(packet) else { return Kind::Other };
    if ip.is_fragment() || !ip.protocol().has_ports() {
        return Kind::Other;
    }
    let place = Flow::of(&ip).hash() as usize % PLACES;
    // Options; padding, or bytes that are not the packet's; the bit that must be zero.
    let is_odd =
        ip.header_len() > ipv4::MIN_HEADER_LEN || ip.total_len() < packet.len() || packet[6] & 0x80 != 0;
    let segment = match ip.protocol() {
        _ if is_odd || offload.segments.is_some() => None,
        Protocol::TCP if takes.tcp => tcp_segment(&ip, offload),
        Protocol::UDP if takes.udp => udp_segment(&ip, offload),
        _ => None,
    };
    match segment {
        Some(segment) => Kind::Segment(Segment { place, head_len: l2 + segment.head_len, ..segment }),
        None => Kind::OfFlow(place),
    }
}

fn tcp_segment(ip: &Ipv4<'_>, offload: Offload) -> Option<Segment> {
    let tcp = Tcp::parse(ip.payload()).ok()?;
    if tcp.flags().intersects(ALONE) || tcp.payload().is_empty() {
        return None;
    }
    Some(Segment {
        place: 0,
        head_len: ipv4::MIN_HEADER_LEN + tcp.header_len(),
        len: tcp.payload().len(),
        is_tcp: true,
        is_partial: is_partial(ip, offload, TCP_CHECKSUM, tcp.checksum())?,
        ends: tcp.flags().intersects(ENDS),
    })
}

fn udp_segment(ip: &Ipv4<'_>, offload: Offload) -> Option<Segment> {
    let udp = Udp::parse(ip.payload()).ok()?;
    if !udp.has_checksum() || udp.len() < ip.payload().len() || udp.payload().is_empty() {
        return None;
    }
    Some(Segment {
        place: 0,
        head_len: ipv4::MIN_HEADER_LEN + udp::HEADER_LEN,
        len: udp.payload().len(),
        is_tcp: false,
        is_partial: is_partial(ip, offload, UDP_CHECKSUM, udp.checksum())?,
        ends: false,
    })
}

/// Whether the transport checksum is unfinished; `None` when it is in a way of its own.
fn is_partial(ip: &Ipv4<'_>, offload: Offload, field: u16, checksum: u16) -> Option<bool> {
    let Some(partial) = offload.checksum else { return Some(false) };
    let expected = PartialChecksum { start: ipv4::MIN_HEADER_LEN as u16, field };
    let sum = pseudo_header(ip.header(), ip.payload().len()).folded();
    (partial == expected && checksum == sum).then_some(true)
}

/// True when the transport checksum of a packet without options is right.
fn is_right(packet: &[u8]) -> bool {
    let (ip, segment) = packet.split_at(ipv4::MIN_HEADER_LEN);
    (pseudo_header(ip, segment.len()) + checksum::sum(segment)).is_right()
}
