//! What the kernel left to us: partial checksums are finished, super-frames are cut.
//!
//! A cut copies headers only: segment `i` is a head written here and a slice of the payload where it lies. IPv6's
//! extension headers are headers, and every segment has them.

use super::vnet;
use crate::buf::{Offload, Segmentation, Segments};
use crate::wire::checksum::{self, Sum};
use crate::wire::ip::{Address, Family, View};
use crate::wire::tcp::{self, Flags};
use crate::wire::transport::Transport;
use crate::wire::{Ipv4, Ipv6, ethernet, ipv4, ipv6, udp, vxlan};

/// Finishes a partial checksum in an IP packet that is not a super-frame (each segment of one gets its
/// checksum when it is cut).
///
/// The field already holds the pseudo-header's sum, so the sum from `start` to the end, the field
/// included, is the whole; its complement goes into the field.
///
/// Says what remains to be done: nothing, or the segments.
#[inline]
pub fn complete_checksum(ip: &mut [u8], offload: Offload) -> Offload {
    if offload.segments.is_some() {
        return offload;
    }
    if let Some(partial) = offload.checksum
        && let Some(bytes) = ip.get_mut(usize::from(partial.start)..)
    {
        let sum = match checksum::checksum(bytes) {
            // UDP says "no checksum" with zero; ones' complement has another zero to say it with (RFC 768).
            0 => 0xffff_u16,
            sum => sum,
        };
        let field = usize::from(partial.field);
        if let Some(field) = bytes.get_mut(field..field + 2) {
            field.copy_from_slice(&sum.to_be_bytes());
        }
    }
    Offload::default()
}

/// What stands in front of a super-frame's IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outer {
    /// Nothing.
    None,
    /// An Ethernet header: the same for each segment.
    Ethernet,
    /// An outer IPv4 header: each segment gets an id, a length and a checksum of its own.
    Ipip,
    /// A virtio-net header, an Ethernet header and an outer IPv4 header.
    LinkIpip,
    /// VXLAN and inner Ethernet headers: the same for each segment.
    Vxlan,
}

impl Outer {
    const fn len(self) -> usize {
        match self {
            Outer::None => 0,
            Outer::Ethernet => ethernet::HEADER_LEN,
            Outer::Ipip => ipv4::MIN_HEADER_LEN,
            Outer::LinkIpip => LINK_LEN + ipv4::MIN_HEADER_LEN,
            Outer::Vxlan => vxlan::HEADER_LEN + ethernet::HEADER_LEN,
        }
    }

    /// Where the outer IPv4 header begins, if there is one.
    const fn ipv4(self) -> Option<usize> {
        match self {
            Outer::Ipip => Some(0),
            Outer::LinkIpip => Some(LINK_LEN),
            Outer::None | Outer::Ethernet | Outer::Vxlan => None,
        }
    }
}

/// Bytes that a packet socket wants in front of an IP packet.
pub(super) const LINK_LEN: usize = vnet::LEN + ethernet::HEADER_LEN;

/// Longest head of a segment, bytes: the longest of what may stand in front of IPv6 (IPIP carries IPv4, which has 60 at
/// most), the longest headers that are walked there, TCP.
pub const MAX_HEAD: usize =
    Outer::Vxlan.len() + ipv6::HEADER_LEN + ipv6::MAX_EXTENSION_BYTES + tcp::MAX_HEADER_LEN;
const _: () = assert!(MAX_HEAD >= Outer::LinkIpip.len() + 60 + tcp::MAX_HEADER_LEN);

/// A super-frame about to be cut.
#[derive(Debug, Clone, Copy)]
pub struct SuperFrame<'a> {
    head: &'a [u8],
    payload: &'a [u8],
    outer: Outer,
    family: Family,
    ip_header_len: usize,
    /// What all segments have in common of what their transport checksums add up: addresses and protocol.
    common: Sum,
    /// Place of the transport checksum.
    field: usize,
    segments: Segments,
}

impl<'a> SuperFrame<'a> {
    /// `bytes` from the outer header on; `None` when they are not the TCP or UDP packet that `segments`
    /// says, which the engine has checked.
    pub fn parse(bytes: &'a [u8], outer: Outer, segments: Segments) -> Option<Self> {
        let packet = bytes.get(outer.len()..)?;
        match Family::of_packet(packet)? {
            Family::V4 => Self::of::<Ipv4<'a>>(bytes, packet, outer, segments),
            Family::V6 => Self::of::<Ipv6<'a>>(bytes, packet, outer, segments),
        }
    }

    fn of<V: View<'a>>(bytes: &'a [u8], packet: &'a [u8], outer: Outer, segments: Segments) -> Option<Self> {
        let ip = V::parse(packet).ok()?;
        let transport = Transport::parse(&ip)?;
        let head_len = outer.len() + ip.header_len() + usize::from(transport.header_len);
        let (head, payload) = bytes.get(..outer.len() + ip.total_len())?.split_at_checked(head_len)?;
        let fits = segments.size > 0 && head_len <= MAX_HEAD;
        fits.then(|| SuperFrame {
            head,
            payload,
            outer,
            family: <V::Address as Address>::FAMILY,
            ip_header_len: ip.header_len(),
            common: checksum::pseudo_header(ip.src().into(), ip.dst().into(), transport.protocol, 0),
            field: transport.checksum_field().into(),
            segments,
        })
    }

    /// How many segments it is cut into: one at least.
    pub fn count(&self) -> usize {
        self.payload.len().div_ceil(usize::from(self.segments.size)).max(1)
    }

    /// Bytes of each segment's headers.
    pub fn head_len(&self) -> usize {
        self.head.len()
    }

    /// Payload of segment `index`.
    pub fn payload(&self, index: usize) -> &'a [u8] {
        let size = usize::from(self.segments.size);
        let start = (index * size).min(self.payload.len());
        &self.payload[start..(start + size).min(self.payload.len())]
    }

    /// Writes the headers of segment `index` to `out`.
    ///
    /// What differs from the super-frame's headers, by the rules that every TCP segmenter keeps: outer and
    /// inner length, and of IPv4 identification and checksum; sequence number; FIN and PSH on the last segment
    /// alone (RFC 9293 3.10.2), CWR on the first alone (RFC 3168 6.1.2); transport checksum, in full.
    ///
    /// # Panics
    /// Unless `out` has [`Self::head_len`] bytes.
    pub fn write_head(&self, index: usize, out: &mut [u8]) {
        let payload = self.payload(index);
        out.copy_from_slice(self.head);
        let (outer, inner) = out.split_at_mut(self.outer.len());
        let inner_len = inner.len() + payload.len();
        if let Some(start) = self.outer.ipv4() {
            let outer = &mut outer[start..];
            number(outer, outer.len() + inner_len, index);
        }
        let (ip, transport) = inner.split_at_mut(self.ip_header_len);
        match self.family {
            Family::V4 => number(ip, inner_len, index),
            Family::V6 => ipv6::set_total_len(ip, inner_len as u16),
        }
        match self.segments.kind {
            Segmentation::Tcp | Segmentation::TcpEcn => self.tcp(transport, index),
            Segmentation::Udp => {
                let len = (udp::HEADER_LEN + payload.len()) as u16;
                transport[4..6].copy_from_slice(&len.to_be_bytes());
            }
        }
        self.checksum(transport, payload);
    }

    fn tcp(&self, header: &mut [u8], index: usize) {
        let Ok(parsed) = tcp::Tcp::parse(header) else { return };
        let (seq, mut flags) = (parsed.seq(), parsed.flags());
        if index + 1 < self.count() {
            flags = flags & !(Flags::FIN | Flags::PSH);
        }
        if index > 0 {
            flags = flags & !Flags::CWR;
        }
        // At most 65,535 segments of at most 65,535 bytes; sequence numbers wrap (RFC 9293 3.4).
        let offset = (index * usize::from(self.segments.size)) as u32;
        tcp::write_seq(header, seq.wrapping_add(offset));
        tcp::write_flags(header, flags);
    }

    fn checksum(&self, transport: &mut [u8], payload: &[u8]) {
        let field = self.field..self.field + 2;
        transport[field.clone()].fill(0);
        let len = transport.len() + payload.len();
        // The header's length is even, so the sums of header and payload may be added.
        let sum = self.common + Sum::of_word(len as u16) + checksum::sum(transport) + checksum::sum(payload);
        let sum = match sum.checksum() {
            0 => 0xffff,
            sum => sum,
        };
        transport[field].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Gives an IPv4 header its segment's length, identification and checksum.
fn number(header: &mut [u8], total_len: usize, index: usize) {
    let id = u16::from_be_bytes([header[4], header[5]]).wrapping_add(index as u16);
    header[2..4].copy_from_slice(&(total_len as u16).to_be_bytes());
    header[4..6].copy_from_slice(&id.to_be_bytes());
    header[10..12].fill(0);
    let sum = checksum::checksum(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests;
