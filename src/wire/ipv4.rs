//! Internet Protocol, version 4 (RFC 791, RFC 1812 5.2.2).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |Version|  IHL  |    DSCP   |ECN|          Total Length         |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |         Identification        |0|D|M|     Fragment Offset     |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  Time to Live |    Protocol   |         Header Checksum       |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                         Source Address                        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                      Destination Address                      |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                    Options, IHL - 5 words                     |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use std::net::Ipv4Addr;

use super::checksum::{self, Sum};
use super::{Ecn, Malformed, Protocol};

/// Bytes of a header without options.
pub const MIN_HEADER_LEN: usize = 20;
/// Bytes of a header with all the options that fit (IHL 15).
pub const MAX_HEADER_LEN: usize = 60;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
/// Counts 8-byte units.
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// A packet: header, options, payload.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<'a> {
    fixed: &'a [u8; MIN_HEADER_LEN],
    /// Header and payload; never shorter than the header.
    packet: &'a [u8],
}

impl<'a> Ipv4<'a> {
    /// Checks what RFC 1812 5.2.2 has a router check, and the lengths; bytes after the total length are
    /// link-layer padding and no part of the packet.
    ///
    /// # Errors
    /// In this order: [`Malformed::Ipv4Truncated`] under 20 bytes, [`Malformed::Ipv4Version`],
    /// [`Malformed::Ipv4HeaderLength`], [`Malformed::Ipv4TotalLength`], [`Malformed::Ipv4Checksum`].
    #[inline(always)]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (fixed, header_len) = Self::parse_fixed(bytes)?;
        let total_len = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        if total_len < header_len {
            return Err(Malformed::Ipv4TotalLength);
        }
        let packet = bytes.get(..total_len).ok_or(Malformed::Ipv4TotalLength)?;
        let right = match header_len {
            MIN_HEADER_LEN => checksum::sum_20(fixed).is_right(),
            _ => options_add_up(&packet[..header_len]),
        };
        if !right {
            return Err(Malformed::Ipv4Checksum);
        }
        Ok(Ipv4 { fixed, packet })
    }

    /// For the original that an ICMP error quotes (RFC 792): as [`Ipv4::parse`], but the payload may end
    /// before the total length does, and neither the checksum nor the total length is checked (hosts are
    /// known to quote a header with fields changed on the way).
    ///
    /// # Errors
    /// [`Malformed::Ipv4Truncated`] when the header is not all there, [`Malformed::Ipv4Version`],
    /// [`Malformed::Ipv4HeaderLength`].
    #[inline]
    pub fn parse_quoted(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (fixed, header_len) = Self::parse_fixed(bytes)?;
        let total_len = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        let end = total_len.max(header_len).min(bytes.len());
        match bytes.get(..end) {
            Some(packet) if end >= header_len => Ok(Ipv4 { fixed, packet }),
            _ => Err(Malformed::Ipv4Truncated),
        }
    }

    #[inline(always)]
    fn parse_fixed(bytes: &'a [u8]) -> Result<(&'a [u8; MIN_HEADER_LEN], usize), Malformed> {
        let fixed: &[u8; MIN_HEADER_LEN] = bytes.first_chunk().ok_or(Malformed::Ipv4Truncated)?;
        match fixed[0] {
            0x45 => Ok((fixed, MIN_HEADER_LEN)),
            0x46..=0x4f => Ok((fixed, usize::from(fixed[0] & 0x0f) * 4)),
            0x40..=0x44 => Err(Malformed::Ipv4HeaderLength),
            _ => Err(Malformed::Ipv4Version),
        }
    }

    /// Bytes of the header, options included: 20 to 60.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.fixed[0] & 0x0f) * 4
    }

    /// Bytes of header and payload, as the header says; a quoted packet may have fewer at hand.
    #[inline]
    pub fn total_len(&self) -> usize {
        usize::from(self.word(2))
    }

    /// DSCP and ECN in one byte (RFC 2474, RFC 3168; type of service in RFC 791).
    #[inline]
    pub fn tos(&self) -> u8 {
        self.fixed[1]
    }

    /// Differentiated services codepoint, 0 to 63 (RFC 2474).
    #[inline]
    pub fn dscp(&self) -> u8 {
        self.tos() >> 2
    }

    /// Congestion notification (RFC 3168).
    #[inline]
    pub fn ecn(&self) -> Ecn {
        Ecn::from_tos(self.tos())
    }

    /// Identification: alike in the fragments of one datagram.
    #[inline]
    pub fn id(&self) -> u16 {
        self.word(4)
    }

    /// The sender forbids fragmentation (DF).
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        self.word(6) & DONT_FRAGMENT != 0
    }

    /// Not the last fragment (MF).
    #[inline]
    pub fn more_fragments(&self) -> bool {
        self.word(6) & MORE_FRAGMENTS != 0
    }

    /// Where the payload stands in that of the whole datagram, in bytes.
    #[inline]
    pub fn fragment_offset(&self) -> usize {
        usize::from(self.word(6) & FRAGMENT_OFFSET) * 8
    }

    /// A piece of a datagram, the first one included.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.word(6) & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0
    }

    /// A piece that does not begin with the transport header.
    #[inline]
    pub fn is_later_fragment(&self) -> bool {
        self.word(6) & FRAGMENT_OFFSET != 0
    }

    /// Time to live, in hops.
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.fixed[8]
    }

    /// What the payload is.
    #[inline]
    pub fn protocol(&self) -> Protocol {
        Protocol(self.fixed[9])
    }

    /// The checksum field.
    #[inline]
    pub fn checksum(&self) -> u16 {
        self.word(10)
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Ipv4Addr {
        self.address(12)
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> Ipv4Addr {
        self.address(16)
    }

    /// Everything between the destination address and the payload: 0 to 40 bytes.
    #[inline]
    pub fn options(&self) -> &'a [u8] {
        &self.packet[MIN_HEADER_LEN..self.header_len()]
    }

    /// The header, options included.
    #[inline]
    pub fn header(&self) -> &'a [u8] {
        &self.packet[..self.header_len()]
    }

    /// What follows the header, without link-layer padding.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.packet[self.header_len()..]
    }

    /// Header and payload, without link-layer padding.
    #[inline]
    pub fn packet(&self) -> &'a [u8] {
        self.packet
    }

    #[inline]
    fn address(&self, at: usize) -> Ipv4Addr {
        let f = self.fixed;
        Ipv4Addr::from([f[at], f[at + 1], f[at + 2], f[at + 3]])
    }

    #[inline]
    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.fixed[at], self.fixed[at + 1]])
    }
}

/// Hardly any packet has options; apart, they leave [`Ipv4::parse`] short enough to be inlined.
#[cold]
#[inline(never)]
fn options_add_up(header: &[u8]) -> bool {
    checksum::sum(header).is_right()
}

/// One hop less, in place; the checksum follows without a look at the rest of the header.
///
/// With eqn. 3 of RFC 1624, HC' = ~(~HC + ~m + m'). The word is TTL and protocol, so m' = m - 0x0100, and
/// in ones' complement ~m + m' = ~m + m + ~0x0100 = ~0x0100, whatever m: adding the constant 0xfeff to ~HC
/// is enough. A right checksum is never 0xffff (the sum of a header is not zero, it begins with 0x45), hence
/// ~HC is 1 at least, and neither is the result: it is what a full recomputation gives, bit by bit.
///
/// Expects a header that [`Ipv4::parse`] has accepted, and a TTL of 1 or more, which the caller has looked
/// at; a TTL of 0 stays 0. Fewer than 20 bytes are left alone.
#[inline]
pub fn decrement_ttl(header: &mut [u8]) {
    let Some(header) = header.first_chunk_mut::<MIN_HEADER_LEN>() else { return };
    if header[8] == 0 {
        return;
    }
    header[8] -= 1;
    let sum = Sum::of_word(!u16::from_be_bytes([header[10], header[11]])) + Sum::of_word(!0x0100);
    header[10..12].copy_from_slice(&sum.checksum().to_be_bytes());
}

/// Marks a packet in place; DSCP stays, the checksum follows (RFC 1624).
///
/// Expects a header that [`Ipv4::parse`] has accepted; fewer than 20 bytes are left alone.
#[inline]
pub fn set_ecn(header: &mut [u8], ecn: Ecn) {
    let Some(header) = header.first_chunk_mut::<MIN_HEADER_LEN>() else { return };
    let old = u16::from_be_bytes([header[0], header[1]]);
    header[1] = header[1] & !0b11 | ecn.bits();
    let new = u16::from_be_bytes([header[0], header[1]]);
    let checksum = checksum::update(u16::from_be_bytes([header[10], header[11]]), old, new);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// Sets the total length, bytes; the checksum follows (RFC 1624). Fewer than 20 bytes are left alone.
#[inline]
pub fn set_total_len(header: &mut [u8], len: u16) {
    let Some(header) = header.first_chunk_mut::<MIN_HEADER_LEN>() else { return };
    let old = u16::from_be_bytes([header[2], header[3]]);
    header[2..4].copy_from_slice(&len.to_be_bytes());
    let checksum = checksum::update(u16::from_be_bytes([header[10], header[11]]), old, len);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// The fields of a header to write; no options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// DSCP and ECN.
    pub tos: u8,
    /// Header and payload, in bytes.
    pub total_len: u16,
    /// Identification.
    pub id: u16,
    /// DF.
    pub dont_fragment: bool,
    /// MF.
    pub more_fragments: bool,
    /// In bytes; a multiple of 8, rounded down otherwise.
    pub fragment_offset: u16,
    /// Time to live, in hops.
    pub ttl: u8,
    /// What the payload is.
    pub protocol: Protocol,
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
}

impl Header {
    /// Writes the header with its checksum.
    #[inline]
    pub fn write(&self, out: &mut [u8; MIN_HEADER_LEN]) {
        let mut fragment = self.fragment_offset / 8;
        if self.dont_fragment {
            fragment |= DONT_FRAGMENT;
        }
        if self.more_fragments {
            fragment |= MORE_FRAGMENTS;
        }
        out[0] = 0x45;
        out[1] = self.tos;
        out[2..4].copy_from_slice(&self.total_len.to_be_bytes());
        out[4..6].copy_from_slice(&self.id.to_be_bytes());
        out[6..8].copy_from_slice(&fragment.to_be_bytes());
        out[8] = self.ttl;
        out[9] = self.protocol.0;
        out[10..12].copy_from_slice(&[0, 0]);
        out[12..16].copy_from_slice(&self.src.octets());
        out[16..20].copy_from_slice(&self.dst.octets());
        let checksum = checksum::sum_20(out).checksum();
        out[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel sent it: an IPIP packet's outer header (tests/vectors), and a payload of 4 bytes.
    const BYTES: [u8; 24] = [
        0x45, 0xb9, 0x00, 0x18, 0x33, 0x4c, 0x40, 0x00, 0x3f, 0x04, 0xea, 0x88, 192, 168, 78, 2, 192, 168,
        78, 1, 0xde, 0xad, 0xbe, 0xef,
    ];

    fn header() -> Header {
        Header {
            tos: 0xb9,
            total_len: 24,
            id: 0x334c,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            ttl: 63,
            protocol: Protocol::IPIP,
            src: Ipv4Addr::new(192, 168, 78, 2),
            dst: Ipv4Addr::new(192, 168, 78, 1),
        }
    }

    /// Corrects the checksum after a test has changed a field.
    fn refill(bytes: &mut [u8]) {
        let header_len = usize::from(bytes[0] & 0x0f) * 4;
        bytes[10..12].copy_from_slice(&[0, 0]);
        let checksum = checksum::checksum(&bytes[..header_len]);
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    }

    #[test]
    fn bytes_to_fields() {
        let packet = Ipv4::parse(&BYTES).unwrap();
        assert_eq!(packet.header_len(), 20);
        assert_eq!(packet.total_len(), 24);
        assert_eq!(packet.tos(), 0xb9);
        assert_eq!(packet.dscp(), 46);
        assert_eq!(packet.ecn(), Ecn::Ect1);
        assert_eq!(packet.id(), 0x334c);
        assert!(packet.dont_fragment());
        assert!(!packet.more_fragments());
        assert_eq!(packet.fragment_offset(), 0);
        assert!(!packet.is_fragment());
        assert!(!packet.is_later_fragment());
        assert_eq!(packet.ttl(), 63);
        assert_eq!(packet.protocol(), Protocol::IPIP);
        assert_eq!(packet.checksum(), 0xea88);
        assert_eq!(packet.src(), Ipv4Addr::new(192, 168, 78, 2));
        assert_eq!(packet.dst(), Ipv4Addr::new(192, 168, 78, 1));
        assert!(packet.options().is_empty());
        assert_eq!(packet.header(), &BYTES[..20]);
        assert_eq!(packet.payload(), [0xde, 0xad, 0xbe, 0xef]);
        assert_eq!(packet.packet(), BYTES);
    }

    #[test]
    fn fields_to_bytes() {
        let mut out = [0xa5; 20];
        header().write(&mut out);
        assert_eq!(out, BYTES[..20]);
    }

    #[test]
    fn the_three_kinds_of_fragment() {
        let mut out = [0xa5; 20];
        let whole = Header { total_len: 20, dont_fragment: false, ..header() };
        for (more_fragments, fragment_offset, fragment, later, bits) in [
            (false, 0, false, false, [0x00, 0x00]),
            (true, 0, true, false, [0x20, 0x00]),
            (true, 1480, true, true, [0x20, 0xb9]),
            (false, 65_528, true, true, [0x1f, 0xff]),
        ] {
            Header { more_fragments, fragment_offset, ..whole }.write(&mut out);
            assert_eq!(out[6..8], bits);
            let packet = Ipv4::parse(&out).unwrap();
            assert_eq!(packet.is_fragment(), fragment);
            assert_eq!(packet.is_later_fragment(), later);
            assert_eq!(packet.more_fragments(), more_fragments);
            assert_eq!(packet.fragment_offset(), usize::from(fragment_offset));
            assert!(!packet.dont_fragment());
        }
    }

    #[test]
    fn bytes_after_the_total_length_are_padding() {
        let mut padded = [0xa5; 46];
        padded[..24].copy_from_slice(&BYTES);
        assert_eq!(Ipv4::parse(&padded).unwrap().packet(), BYTES);
    }

    #[test]
    fn options_stand_between_header_and_payload() {
        let mut bytes = [0xa5; 32];
        bytes[..20].copy_from_slice(&BYTES[..20]);
        bytes[0] = 0x47;
        bytes[3] = 32;
        bytes[20..28].copy_from_slice(&[0x94, 0x04, 0, 0, 1, 1, 1, 0]);
        refill(&mut bytes);
        let packet = Ipv4::parse(&bytes).unwrap();
        assert_eq!(packet.options(), [0x94, 0x04, 0, 0, 1, 1, 1, 0]);
        assert_eq!(packet.header(), &bytes[..28]);
        assert_eq!(packet.payload(), [0xa5; 4]);

        // The options are under the checksum.
        bytes[21] ^= 1;
        assert_eq!(Ipv4::parse(&bytes).unwrap_err(), Malformed::Ipv4Checksum);
    }

    #[test]
    fn every_truncation_is_refused() {
        for len in 0..20 {
            assert_eq!(Ipv4::parse(&BYTES[..len]).unwrap_err(), Malformed::Ipv4Truncated, "{len}");
            assert_eq!(Ipv4::parse_quoted(&BYTES[..len]).unwrap_err(), Malformed::Ipv4Truncated, "{len}");
        }
        for len in 20..24 {
            assert_eq!(Ipv4::parse(&BYTES[..len]).unwrap_err(), Malformed::Ipv4TotalLength, "{len}");
        }
    }

    #[test]
    fn rfc_1812_5_2_2_what_a_router_refuses() {
        let refused = |at: usize, value: u8| {
            let mut bytes = BYTES;
            bytes[at] = value;
            refill(&mut bytes);
            Ipv4::parse(&bytes).unwrap_err()
        };
        for version in (0..16).filter(|version| *version != 4) {
            assert_eq!(refused(0, version << 4 | 5), Malformed::Ipv4Version);
        }
        for words in 0..5 {
            assert_eq!(refused(0, 0x40 | words), Malformed::Ipv4HeaderLength);
        }
        let mut longer_than_the_packet = BYTES;
        longer_than_the_packet[0] = 0x4f;
        assert_eq!(Ipv4::parse(&longer_than_the_packet).unwrap_err(), Malformed::Ipv4TotalLength);
        for total_len in [0, 19, 25, 255] {
            assert_eq!(refused(3, total_len), Malformed::Ipv4TotalLength, "{total_len}");
        }
        for bit in 32..160 {
            let mut bytes = BYTES;
            bytes[bit / 8] ^= 0x80 >> (bit % 8);
            assert_eq!(Ipv4::parse(&bytes).unwrap_err(), Malformed::Ipv4Checksum, "bit {bit}");
        }
    }

    #[test]
    fn a_quoted_original_may_be_cut_and_changed() {
        let mut bytes = BYTES;
        bytes[3] = 200;
        bytes[8] = 0;
        let packet = Ipv4::parse_quoted(&bytes).unwrap();
        assert_eq!(packet.total_len(), 200);
        assert_eq!(packet.packet(), bytes);
        bytes[3] = 0;
        assert!(Ipv4::parse_quoted(&bytes).unwrap().payload().is_empty());
        bytes[0] = 0x4f;
        assert_eq!(Ipv4::parse_quoted(&bytes).unwrap_err(), Malformed::Ipv4Truncated);
    }

    /// Every checksum that there is, and every TTL: the identification walks through all sums.
    #[test]
    fn rfc_1624_one_hop_less_equals_recomputation() {
        let mut checksums = vec![false; 0x1_0000];
        for id in 0..=u16::MAX {
            let ttl = (id % 255) as u8 + 1;
            let mut before = [0xa5; 20];
            let mut after = [0xa5; 20];
            Header { id, ttl, ..header() }.write(&mut before);
            Header { id, ttl: ttl - 1, ..header() }.write(&mut after);
            checksums[usize::from(u16::from_be_bytes([before[10], before[11]]))] = true;
            decrement_ttl(&mut before);
            assert_eq!(before, after, "id {id} ttl {ttl}");
        }
        assert!(checksums[0], "the case that eqn. 2 gets wrong");
    }

    #[test]
    fn rfc_1624_every_checksum_at_every_edge_of_the_ttl() {
        let mut seen = vec![false; 0x1_0000];
        for ttl in [1, 64, 255] {
            for protocol in [Protocol(0), Protocol(255)] {
                for id in 0..=u16::MAX {
                    let header = Header { id, ttl, protocol, ..header() };
                    let (mut before, mut after) = ([0xa5; 20], [0xa5; 20]);
                    header.write(&mut before);
                    Header { ttl: ttl - 1, ..header }.write(&mut after);
                    seen[usize::from(u16::from_be_bytes([before[10], before[11]]))] = true;
                    decrement_ttl(&mut before);
                    assert_eq!(before, after, "id {id} ttl {ttl} {protocol}");
                }
            }
        }
        assert_eq!(seen.iter().position(|seen| !seen), Some(0xffff), "all but 0xffff, which no header has");
    }

    #[test]
    fn rfc_1624_a_mark_equals_recomputation() {
        let marks = [Ecn::NotEct, Ecn::Ect1, Ecn::Ect0, Ecn::Ce];
        for id in 0..=u16::MAX {
            for from in marks {
                for to in marks {
                    let (mut before, mut after) = ([0xa5; 20], [0xa5; 20]);
                    Header { id, tos: 0xb8 | from.bits(), ..header() }.write(&mut before);
                    Header { id, tos: 0xb8 | to.bits(), ..header() }.write(&mut after);
                    set_ecn(&mut before, to);
                    assert_eq!(before, after, "id {id} {from:?} to {to:?}");
                }
            }
        }
    }

    #[test]
    fn no_hop_less_than_none_and_no_header_in_too_few_bytes() {
        let mut dead = [0xa5; 20];
        Header { ttl: 0, ..header() }.write(&mut dead);
        let before = dead;
        decrement_ttl(&mut dead);
        assert_eq!(dead, before);

        let mut short = [0xa5; 19];
        decrement_ttl(&mut short);
        set_ecn(&mut short, Ecn::NotEct);
        assert_eq!(short, [0xa5; 19]);
    }
}
