//! Joining: segments of one flow that follow each other leave as one super-frame.
//!
//! What is joined is what the kernel's own GRO would join (Linux net/ipv4/af_inet.c `inet_gro_receive`,
//! tcp_offload.c `tcp_gro_receive`, udp_offload.c `udp_gro_receive_segment`; net/ipv6/ip6_offload.c
//! `ipv6_gro_receive`), and nothing is lost by it: the super-frame, cut by the rules of segmentation, gives the frames
//! that it was made of, identifications aside where DF says that they mean nothing (RFC 6864 4.1). The payload stays
//! where it is.
//!
//! The order within a flow stays: a flow has one place for its open run, and whatever else of it comes there
//! first sends the run off. Two flows of one place send each other's runs off, which costs a join, never order.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::offload::MAX_HEAD;
use crate::buf::{Frame, Offload, PartialChecksum, Pool, Segmentation, Segments};
use crate::wire::checksum::{self, Sum};
use crate::wire::flow::Flow;
use crate::wire::ip::{Address, Family, View};
use crate::wire::tcp::{self, Flags, Tcp};
use crate::wire::udp::{self, Udp};
use crate::wire::{EtherType, Ethernet, Ipv4, Ipv6, Protocol, ipv4, ipv6};

/// What an interface takes as super-frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Takes {
    /// TCP.
    pub tcp: bool,
    /// UDP datagrams.
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
    /// Of these, bytes of the IP header, extension headers included.
    ip_len: u16,
    /// Payload bytes of each frame but the last.
    size: u16,
    /// Payload bytes of all frames.
    len: u16,
    family: Family,
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

    /// The version of its packets. Means nothing for a run of one.
    pub fn family(&self) -> Family {
        self.shape.family
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
        let (ip, transport) = out[self.l2..].split_at_mut(shape.ip_len.into());
        let transport_len = transport.len() + usize::from(shape.len);
        let total_len = ip.len() + transport_len;
        match shape.family {
            Family::V4 => Ipv4Addr::set_len(ip, total_len as u16),
            Family::V6 => Ipv6Addr::set_len(ip, total_len as u16),
        }
        let (field, kind) = match shape.is_tcp {
            true => (TCP_CHECKSUM, self.tcp(transport)),
            false => {
                transport[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes());
                (UDP_CHECKSUM, Segmentation::Udp)
            }
        };
        let at = usize::from(field);
        let sum = match shape.family {
            Family::V4 => shape.pseudo_header::<Ipv4Addr>(ip, transport_len).folded(),
            Family::V6 => shape.pseudo_header::<Ipv6Addr>(ip, transport_len).folded(),
        };
        transport[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let checksum = Some(PartialChecksum { start: shape.ip_len, field });
        (head_len, Offload { checksum, segments: Some(Segments { kind, size: shape.size }) })
    }

    fn tcp(&self, header: &mut [u8]) -> Segmentation {
        let last = self.pool.bytes(&self.frames[usize::from(self.shape.last)]);
        let flags = flags(header) | flags(&last[self.l2 + usize::from(self.shape.ip_len)..]) & ENDS;
        tcp::write_flags(header, flags);
        match flags.intersects(Flags::CWR) {
            true => Segmentation::TcpEcn,
            false => Segmentation::Tcp,
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
    ip_len: usize,
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
            match family(self.pool.bytes(frame), self.l2) {
                Some(Family::V4) => self.take::<Ipv4Addr>(index as u16, frame, takes, write),
                Some(Family::V6) => self.take::<Ipv6Addr>(index as u16, frame, takes, write),
                None => self.other(index as u16, write),
            }
        }
        self.close_all(write);
    }

    #[inline(always)]
    fn take<A: Rules>(
        &mut self,
        index: u16,
        frame: &Frame,
        takes: Takes,
        write: &mut impl FnMut(Run<'a, '_>),
    ) {
        match kind::<A>(self.pool.bytes(frame), frame.offload, self.l2, takes) {
            Kind::Segment(segment) => self.add::<A>(index, &segment, write),
            Kind::OfFlow(place) => {
                self.close(place, write);
                self.write(Shape::alone(index), write);
            }
            Kind::Other => self.other(index, write),
        }
    }

    fn other(&mut self, index: u16, write: &mut impl FnMut(Run<'a, '_>)) {
        self.close_all(write);
        self.write(Shape::alone(index), write);
    }

    #[inline(always)]
    fn add<A: Rules>(&mut self, index: u16, segment: &Segment, write: &mut impl FnMut(Run<'a, '_>)) {
        let place = segment.place;
        let shape = match self.open[place].and_then(|shape| self.extended::<A>(shape, index, segment)) {
            Some(shape) => shape,
            None => {
                self.close(place, write);
                Shape::begin::<A>(index, segment)
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
    #[inline(always)]
    fn extended<A: Rules>(&mut self, shape: Shape, index: u16, segment: &Segment) -> Option<Shape> {
        let bytes = |index: u16| self.pool.bytes(&self.frames[usize::from(index)]);
        let (first, this) = (bytes(shape.first), bytes(index));
        let len = usize::from(shape.len) + segment.len;
        let fits = segment.is_tcp == shape.is_tcp
            && shape.family == A::FAMILY
            && segment.head_len == usize::from(shape.head_len)
            && A::ip_len(segment.ip_len as u16) == A::ip_len(shape.ip_len)
            && segment.len <= usize::from(shape.size)
            && segment.head_len - self.l2 + len <= usize::from(u16::MAX);
        let joins = fits
            && shape.is_followed_by::<A>(self.l2, first, this)
            && (shape.is_verified || shape.is_right::<A>(&first[self.l2..]))
            && (segment.is_partial || shape.is_right::<A>(&this[self.l2..]));
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
            ip_len: 0,
            size: 0,
            len: 0,
            family: Family::V4,
            is_tcp: false,
            is_verified: false,
        }
    }

    fn begin<A: Rules>(index: u16, segment: &Segment) -> Shape {
        let len = segment.len as u16;
        Shape {
            head_len: segment.head_len as u16,
            ip_len: segment.ip_len as u16,
            size: len,
            len,
            family: A::FAMILY,
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
    #[inline(always)]
    fn is_followed_by<A: Rules>(&self, l2: usize, first: &[u8], this: &[u8]) -> bool {
        let transport = l2 + A::ip_len(self.ip_len);
        same(first, this, 0, l2)
            && A::is_followed(&first[l2..], &this[l2..], self.count, A::ip_len(self.ip_len))
            && (!self.is_tcp
                || self.is_followed_in_tcp(&first[transport..self.head_len.into()], &this[transport..]))
    }

    #[inline(always)]
    fn is_followed_in_tcp(&self, first: &[u8], this: &[u8]) -> bool {
        let seq = |header: &[u8]| u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let differ = Flags(flags(first).0 ^ flags(this).0);
        seq(this) == seq(first).wrapping_add(self.len.into())
            // Acknowledgment, data offset; window; urgent pointer and options.
            && same(first, this, 8, 13)
            && same(first, this, 14, 16)
            && same(first, this, 18, first.len())
            && !differ.intersects(!(ENDS | Flags::CWR))
            // The window is reduced once: CWR again is another answer (RFC 3168 6.1.2).
            && !flags(this).intersects(Flags::CWR)
    }

    /// True when the transport checksum of one of its packets is right.
    #[inline(always)]
    fn is_right<A: Rules>(&self, packet: &[u8]) -> bool {
        let (ip, segment) = packet.split_at(A::ip_len(self.ip_len));
        (self.pseudo_header::<A>(ip, segment.len()) + checksum::sum(segment)).is_right()
    }

    /// The pseudo-header's sum.
    #[inline(always)]
    fn pseudo_header<A: Rules>(&self, ip: &[u8], len: usize) -> Sum {
        let protocol = if self.is_tcp { Protocol::TCP } else { Protocol::UDP };
        A::sum_addresses(ip) + Sum::of_word(protocol.0.into()) + Sum::of_word(len as u16)
    }
}

/// What is a rule of one version of IP.
trait Rules: Address {
    /// Bytes of the headers in front of TCP and UDP, in a run of whose first frame they are `measured`.
    fn ip_len(measured: u16) -> usize;

    /// Nothing may be joined to it.
    fn is_odd(ip: &Self::View<'_>) -> bool;

    /// True when the IP header of `this` packet, `len` bytes as that of the `first`, and its ports are those of the segment
    /// that is `count` behind it.
    fn is_followed(first: &[u8], this: &[u8], count: u16, len: usize) -> bool;

    /// Gives a header the length of the whole packet.
    fn set_len(ip: &mut [u8], total_len: u16);

    /// The sum of source and destination.
    fn sum_addresses(ip: &[u8]) -> Sum;
}

impl Rules for Ipv4Addr {
    #[inline(always)]
    fn ip_len(_: u16) -> usize {
        ipv4::MIN_HEADER_LEN
    }

    /// Options; the bit that must be zero.
    #[inline(always)]
    fn is_odd(ip: &Ipv4<'_>) -> bool {
        ip.header_len() > ipv4::MIN_HEADER_LEN || ip.packet()[6] & 0x80 != 0
    }

    #[inline(always)]
    fn is_followed(first: &[u8], this: &[u8], count: u16, _: usize) -> bool {
        let is_numbered =
            word(first, 6) & DONT_FRAGMENT != 0 || word(this, 4) == word(first, 4).wrapping_add(count);
        // Version, TOS; DF, TTL, protocol; addresses, ports.
        same(first, this, 0, 2)
            && same(first, this, 6, 10)
            && same(first, this, 12, ipv4::MIN_HEADER_LEN + 4)
            && is_numbered
    }

    #[inline(always)]
    fn set_len(ip: &mut [u8], total_len: u16) {
        ip[2..4].copy_from_slice(&total_len.to_be_bytes());
        ip[10..12].fill(0);
        let sum = checksum::checksum(ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
    }

    #[inline(always)]
    fn sum_addresses(ip: &[u8]) -> Sum {
        Sum::of_word(word(ip, 12))
            + Sum::of_word(word(ip, 14))
            + Sum::of_word(word(ip, 16))
            + Sum::of_word(word(ip, 18))
    }
}

impl Rules for Ipv6Addr {
    #[inline(always)]
    fn ip_len(measured: u16) -> usize {
        measured.into()
    }

    #[inline(always)]
    fn is_odd(ip: &Ipv6<'_>) -> bool {
        !ip.has_common_headers()
    }

    #[inline(always)]
    fn is_followed(first: &[u8], this: &[u8], _: u16, len: usize) -> bool {
        // Version, traffic class, flow label; all that follows the length, and ports.
        same(first, this, 0, 4) && same(first, this, 6, len + 4)
    }

    #[inline(always)]
    fn set_len(ip: &mut [u8], total_len: u16) {
        ipv6::set_total_len(ip, total_len);
    }

    #[inline(always)]
    fn sum_addresses(ip: &[u8]) -> Sum {
        checksum::sum(&ip[8..ipv6::HEADER_LEN])
    }
}

#[inline(always)]
fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// True when both have the same bytes there.
#[inline(always)]
fn same(first: &[u8], this: &[u8], from: usize, to: usize) -> bool {
    first[from..to] == this[from..to]
}

/// The version of a frame's packet, by its Ethernet header if it has one.
#[inline(always)]
fn family(bytes: &[u8], l2: usize) -> Option<Family> {
    if l2 == 0 {
        return Family::of_packet(bytes);
    }
    match Ethernet::parse(bytes).map(|frame| frame.ethertype()) {
        Ok(EtherType::IPV4) => Some(Family::V4),
        Ok(EtherType::IPV6) => Some(Family::V6),
        _ => None,
    }
}

#[inline(always)]
fn kind<A: Rules>(bytes: &[u8], offload: Offload, l2: usize, takes: Takes) -> Kind {
    let packet = bytes.get(l2..).unwrap_or_default();
    let Ok(ip) = A::View::parse(packet) else { return Kind::Other };
    if ip.is_fragment() || !ip.protocol().has_ports() {
        return Kind::Other;
    }
    let place = Flow::of(&ip).hash() as usize % PLACES;
    // Padding, or bytes that are not the packet's, are odd as well.
    let is_odd = A::is_odd(&ip) || ip.total_len() < packet.len();
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

#[inline(always)]
fn tcp_segment<'a>(ip: &impl View<'a>, offload: Offload) -> Option<Segment> {
    let tcp = Tcp::parse(ip.payload()).ok()?;
    if tcp.flags().intersects(ALONE) || tcp.payload().is_empty() {
        return None;
    }
    Some(Segment {
        place: 0,
        head_len: ip.header_len() + tcp.header_len(),
        ip_len: ip.header_len(),
        len: tcp.payload().len(),
        is_tcp: true,
        is_partial: is_partial(ip, offload, TCP_CHECKSUM, tcp.checksum())?,
        ends: tcp.flags().intersects(ENDS),
    })
}

#[inline(always)]
fn udp_segment<'a>(ip: &impl View<'a>, offload: Offload) -> Option<Segment> {
    let udp = Udp::parse(ip.payload()).ok()?;
    if !udp.has_checksum() || udp.len() < ip.payload().len() || udp.payload().is_empty() {
        return None;
    }
    Some(Segment {
        place: 0,
        head_len: ip.header_len() + udp::HEADER_LEN,
        ip_len: ip.header_len(),
        len: udp.payload().len(),
        is_tcp: false,
        is_partial: is_partial(ip, offload, UDP_CHECKSUM, udp.checksum())?,
        ends: false,
    })
}

/// Whether the transport checksum is unfinished; `None` when it is in a way of its own.
#[inline(always)]
fn is_partial<'a>(ip: &impl View<'a>, offload: Offload, field: u16, checksum: u16) -> Option<bool> {
    let Some(partial) = offload.checksum else { return Some(false) };
    let expected = PartialChecksum { start: ip.header_len() as u16, field };
    (partial == expected && checksum == pseudo_header(ip)).then_some(true)
}

/// What an unfinished checksum field holds.
fn pseudo_header<'a>(ip: &impl View<'a>) -> u16 {
    checksum::pseudo_header(ip.src().into(), ip.dst().into(), ip.protocol(), ip.payload().len()).folded()
}
