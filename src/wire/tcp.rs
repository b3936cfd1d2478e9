//! Transmission Control Protocol (RFC 9293).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |          Source Port          |       Destination Port        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                        Sequence Number                        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                    Acknowledgment Number                      |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  Data |       |C|E|U|A|P|R|S|F|                               |
//! | Offset| Rsrvd |W|C|R|C|S|S|Y|I|            Window             |
//! |       |       |R|E|G|K|H|T|N|N|                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |           Checksum            |         Urgent Pointer        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                Options, data offset - 5 words                 |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use std::net::IpAddr;
use std::ops::{BitAnd, BitOr, Not};

use super::{Malformed, Protocol, checksum};

/// Bytes of a header without options.
pub const MIN_HEADER_LEN: usize = 20;
/// Bytes of a header with all the options that fit (data offset 15).
pub const MAX_HEADER_LEN: usize = 60;

/// Bytes of the option that holds the maximum segment size (RFC 9293 3.2): kind, length, value.
pub const MSS_OPTION_LEN: usize = 4;

/// Option kinds (RFC 9293 3.2).
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;

/// The eight control bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Flags = Flags(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Flags = Flags(0x02);
    /// Reset the connection.
    pub const RST: Flags = Flags(0x04);
    /// Push.
    pub const PSH: Flags = Flags(0x08);
    /// The acknowledgment field counts.
    pub const ACK: Flags = Flags(0x10);
    /// The urgent pointer counts.
    pub const URG: Flags = Flags(0x20);
    /// ECN echo (RFC 3168).
    pub const ECE: Flags = Flags(0x40);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: Flags = Flags(0x80);

    /// True when every flag of `others` is set.
    #[inline]
    pub const fn contains(self, others: Flags) -> bool {
        self.0 & others.0 == others.0
    }

    /// True when a flag of `others` is set.
    #[inline]
    pub const fn intersects(self, others: Flags) -> bool {
        self.0 & others.0 != 0
    }
}

impl BitOr for Flags {
    type Output = Flags;
    #[inline]
    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

impl BitAnd for Flags {
    type Output = Flags;
    #[inline]
    fn bitand(self, other: Flags) -> Flags {
        Flags(self.0 & other.0)
    }
}

impl Not for Flags {
    type Output = Flags;
    #[inline]
    fn not(self) -> Flags {
        Flags(!self.0)
    }
}

/// A segment: header, options, payload.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<'a> {
    fixed: &'a [u8; MIN_HEADER_LEN],
    /// Header and payload; never shorter than the header.
    segment: &'a [u8],
}

impl<'a> Tcp<'a> {
    /// Takes an IP payload, all of which is the segment. The checksum is not looked at: see [`Tcp::verify`].
    ///
    /// # Errors
    /// [`Malformed::TcpTruncated`] when the header is not all there, [`Malformed::TcpHeaderLength`] when the
    /// data offset is under 5.
    #[inline]
    pub fn parse(segment: &'a [u8]) -> Result<Self, Malformed> {
        let fixed: &[u8; MIN_HEADER_LEN] = segment.first_chunk().ok_or(Malformed::TcpTruncated)?;
        let header_len = usize::from(fixed[12] >> 4) * 4;
        if header_len < MIN_HEADER_LEN {
            return Err(Malformed::TcpHeaderLength);
        }
        if header_len > segment.len() {
            return Err(Malformed::TcpTruncated);
        }
        Ok(Tcp { fixed, segment })
    }

    /// Source port.
    #[inline]
    pub fn src_port(&self) -> u16 {
        self.word(0)
    }

    /// Destination port.
    #[inline]
    pub fn dst_port(&self) -> u16 {
        self.word(2)
    }

    /// Sequence number of the first byte of the payload (of the SYN, if that is set).
    #[inline]
    pub fn seq(&self) -> u32 {
        u32::from_be_bytes([self.fixed[4], self.fixed[5], self.fixed[6], self.fixed[7]])
    }

    /// The sequence number that the sender expects next.
    #[inline]
    pub fn ack(&self) -> u32 {
        u32::from_be_bytes([self.fixed[8], self.fixed[9], self.fixed[10], self.fixed[11]])
    }

    /// Bytes of the header, options included: 20 to 60.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.fixed[12] >> 4) * 4
    }

    /// The four bits between data offset and flags: zero, or a new use of them (AccECN's AE).
    #[inline]
    pub fn reserved(&self) -> u8 {
        self.fixed[12] & 0x0f
    }

    /// The control bits.
    #[inline]
    pub fn flags(&self) -> Flags {
        Flags(self.fixed[13])
    }

    /// Receive window, not scaled.
    #[inline]
    pub fn window(&self) -> u16 {
        self.word(14)
    }

    /// The checksum field.
    #[inline]
    pub fn checksum(&self) -> u16 {
        self.word(16)
    }

    /// Urgent pointer; counts with [`Flags::URG`].
    #[inline]
    pub fn urgent(&self) -> u16 {
        self.word(18)
    }

    /// Everything between the urgent pointer and the payload: 0 to 40 bytes.
    #[inline]
    pub fn options(&self) -> &'a [u8] {
        &self.segment[MIN_HEADER_LEN..self.header_len()]
    }

    /// The header, options included.
    #[inline]
    pub fn header(&self) -> &'a [u8] {
        &self.segment[..self.header_len()]
    }

    /// What follows the header.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.segment[self.header_len()..]
    }

    /// True when the checksum is right.
    #[inline]
    pub fn verify(&self, src: IpAddr, dst: IpAddr) -> bool {
        checksum::transport_checksum(src, dst, Protocol::TCP, self.segment) == 0
    }

    #[inline]
    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.fixed[at], self.fixed[at + 1]])
    }
}

/// The maximum segment sizes that a header states, and where: `(offset from the start of the header, value)`.
///
/// The list ends with the header, or with its end-of-list option, or where an option has a length that cannot be:
/// there the receiver stops reading as well (Linux's `tcp_parse_options`), and [`Self::is_broken`] says so.
#[derive(Debug, Clone)]
pub struct MssOptions<'a> {
    header: &'a [u8],
    at: usize,
    is_broken: bool,
}

impl<'a> MssOptions<'a> {
    /// Of a header with its options and no byte more.
    pub fn of(header: &'a [u8]) -> Self {
        MssOptions { header, at: MIN_HEADER_LEN, is_broken: false }
    }

    /// True when the list ended at a length that cannot be.
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }
}

impl Iterator for MssOptions<'_> {
    type Item = (usize, u16);

    fn next(&mut self) -> Option<(usize, u16)> {
        // Each step goes on by a byte at least: 40 steps at most.
        loop {
            match *self.header.get(self.at..)? {
                [] | [END, ..] => return None,
                [NO_OPERATION, ..] => self.at += 1,
                [MSS, 4, high, low, ..] => {
                    let value_at = self.at + 2;
                    self.at += MSS_OPTION_LEN;
                    return Some((value_at, u16::from_be_bytes([high, low])));
                }
                [_, len, ..] if len >= 2 && self.at + usize::from(len) <= self.header.len() => {
                    self.at += usize::from(len);
                }
                _ => {
                    self.is_broken = true;
                    return None;
                }
            }
        }
    }
}

/// Overwrites two bytes of a segment and brings its checksum up to date (RFC 1624 eqn. 3). `at` counts from the start
/// of the header; a place that is not there is left alone.
///
/// The checksum adds words that begin at even places. A value that begins at an odd one is the low half of a word and
/// the high half of the next, and adds to the sum as it would with its halves exchanged (RFC 1071 2(B)).
pub fn update_word(segment: &mut [u8], at: usize, value: u16) {
    let Some(place) = segment.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) else { return };
    let old = u16::from_be_bytes(std::mem::replace(place, value.to_be_bytes()));
    let (old, new) = if at.is_multiple_of(2) { (old, value) } else { (old.swap_bytes(), value.swap_bytes()) };
    if let Some(header) = segment.first_chunk::<MIN_HEADER_LEN>() {
        let checksum = u16::from_be_bytes([header[16], header[17]]);
        write_checksum(segment, checksum::update(checksum, old, new));
    }
}

/// Writes an MSS option right behind the fixed header, for which the caller has made room of [`MSS_OPTION_LEN`] bytes, and
/// counts it in the data offset. The checksum does not follow. False, and nothing is written, where the data offset
/// cannot grow or there are fewer bytes.
pub fn insert_mss(segment: &mut [u8], mss: u16) -> bool {
    let Some(header) = segment.first_chunk_mut::<{ MIN_HEADER_LEN + MSS_OPTION_LEN }>() else { return false };
    if header[12] >> 4 == 0xf {
        return false;
    }
    header[12] += 0x10;
    let [high, low] = mss.to_be_bytes();
    header[MIN_HEADER_LEN..].copy_from_slice(&[MSS, MSS_OPTION_LEN as u8, high, low]);
    true
}

/// Overwrites the sequence number in place; the checksum does not follow. Fewer than 20 bytes are left
/// alone, here and below.
#[inline]
pub fn write_seq(segment: &mut [u8], seq: u32) {
    if let Some(header) = segment.first_chunk_mut::<MIN_HEADER_LEN>() {
        header[4..8].copy_from_slice(&seq.to_be_bytes());
    }
}

/// Overwrites the control bits in place; the checksum does not follow.
#[inline]
pub fn write_flags(segment: &mut [u8], flags: Flags) {
    if let Some(header) = segment.first_chunk_mut::<MIN_HEADER_LEN>() {
        header[13] = flags.0;
    }
}

/// Overwrites the checksum in place.
#[inline]
pub fn write_checksum(segment: &mut [u8], checksum: u16) {
    if let Some(header) = segment.first_chunk_mut::<MIN_HEADER_LEN>() {
        header[16..18].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Makes the checksum of a whole segment (header and payload, no byte more) in place.
#[inline]
pub fn fill_checksum(segment: &mut [u8], src: IpAddr, dst: IpAddr) {
    write_checksum(segment, 0);
    let checksum = checksum::transport_checksum(src, dst, Protocol::TCP, segment);
    write_checksum(segment, checksum);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SRC: [u8; 4] = [10, 65, 8, 10];
    const DST: [u8; 4] = [10, 65, 9, 20];
    /// PSH and ACK with 4 bytes of options and 3 of data.
    const BYTES: [u8; 27] = [
        0xc0, 0x01, 0x00, 0x50, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x60, 0x18, 0x12, 0x34, 0x43,
        0x10, 0x00, 0x07, 0x01, 0x01, 0x01, 0x00, b'a', b'b', b'c',
    ];

    #[test]
    fn bytes_to_fields() {
        let tcp = Tcp::parse(&BYTES).unwrap();
        assert_eq!(tcp.src_port(), 0xc001);
        assert_eq!(tcp.dst_port(), 80);
        assert_eq!(tcp.seq(), 0x0123_4567);
        assert_eq!(tcp.ack(), 0x89ab_cdef);
        assert_eq!(tcp.header_len(), 24);
        assert_eq!(tcp.reserved(), 0);
        assert_eq!(tcp.flags(), Flags::PSH | Flags::ACK);
        assert!(tcp.flags().contains(Flags::ACK));
        assert!(!tcp.flags().contains(Flags::ACK | Flags::FIN));
        assert!(tcp.flags().intersects(Flags::ACK | Flags::FIN));
        assert_eq!(tcp.window(), 0x1234);
        assert_eq!(tcp.urgent(), 7);
        assert_eq!(tcp.options(), [1, 1, 1, 0]);
        assert_eq!(tcp.header(), &BYTES[..24]);
        assert_eq!(tcp.payload(), b"abc");
        assert_eq!(tcp.checksum(), 0x4310);
        assert!(tcp.verify(SRC.into(), DST.into()));
        assert!(!tcp.verify(SRC.into(), SRC.into()));
    }

    #[test]
    fn fields_are_edited_in_place_and_nothing_else() {
        let mut bytes = BYTES;
        write_seq(&mut bytes, 0x0a0b_0c0d);
        write_flags(&mut bytes, Flags::CWR | Flags::FIN);
        write_checksum(&mut bytes, 0x0e0f);
        let mut expected = BYTES;
        expected[4..8].copy_from_slice(&[0x0a, 0x0b, 0x0c, 0x0d]);
        expected[13] = 0x81;
        expected[16..18].copy_from_slice(&[0x0e, 0x0f]);
        assert_eq!(bytes, expected);

        let mut short = [0xa5; 19];
        write_seq(&mut short, 0);
        write_flags(&mut short, Flags::SYN);
        write_checksum(&mut short, 0);
        assert_eq!(short, [0xa5; 19]);
    }

    /// A header with these options, padded.
    fn with_options(options: &[u8]) -> Vec<u8> {
        let len = (MIN_HEADER_LEN + options.len()).next_multiple_of(4);
        let mut header = BYTES[..MIN_HEADER_LEN].to_vec();
        header[12] = (len as u8 / 4) << 4;
        header.extend(options);
        header.resize(len, 0);
        header
    }

    #[test]
    fn segment_sizes_are_found_wherever_they_stand() {
        for (options, found, is_broken) in [
            (&[][..], &[][..], false),
            (&[2, 4, 5, 0xb4], &[(22, 1460)], false),
            (&[1, 2, 4, 5, 0xb4], &[(23, 1460)], false),
            (&[4, 2, 3, 3, 7, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 2, 4, 1, 2], &[(37, 0x102)], false),
            (&[2, 4, 5, 0xb4, 2, 4, 2, 0x18], &[(22, 1460), (26, 536)], false),
            (&[0, 2, 4, 5, 0xb4], &[], false),
            // One of another length is not this option; its bytes are not read as options.
            (&[2, 3, 5, 2, 6, 2, 4, 0, 0], &[], false),
            (&[5, 6, 2, 4, 9, 9], &[], false),
            (&[2, 4, 5, 0xb4, 3, 0, 0, 0], &[(22, 1460)], true),
            (&[3, 1, 2, 4], &[], true),
            (&[3, 9, 2, 4], &[], true),
            (&[1, 1, 1, 2], &[], true),
            (&[1, 2, 4, 5], &[], true),
        ] {
            let header = with_options(options);
            let mut sizes = MssOptions::of(&header);
            assert_eq!(sizes.by_ref().collect::<Vec<_>>(), found, "{options:?}");
            assert_eq!(sizes.is_broken(), is_broken, "{options:?}");
        }
        assert_eq!(MssOptions::of(&[2; 19]).next(), None);
        assert_eq!(MssOptions::of(&with_options(&[0xff; 40])).next(), None);
    }

    #[test]
    fn rfc_1624_a_word_is_changed_and_the_checksum_with_it_at_even_and_odd_places() {
        for at in (0..15).chain(18..26) {
            let mut bytes = BYTES;
            fill_checksum(&mut bytes, SRC.into(), DST.into());
            update_word(&mut bytes, at, 0xfedc);
            assert_eq!(bytes[at..at + 2], [0xfe, 0xdc]);
            let updated = bytes;
            fill_checksum(&mut bytes, SRC.into(), DST.into());
            assert_eq!(updated, bytes, "{at}");
        }
        let mut bytes = BYTES;
        update_word(&mut bytes, 26, 0);
        update_word(&mut bytes, 99, 0);
        assert_eq!(bytes, BYTES);
    }

    #[test]
    fn an_option_goes_behind_the_fixed_header_where_the_offset_can_grow() {
        let mut bytes = [0xa5; 60];
        bytes[12] = 0xe8;
        assert!(insert_mss(&mut bytes, 536));
        assert_eq!((bytes[12], &bytes[20..25]), (0xf8, &[2, 4, 2, 0x18, 0xa5][..]));
        let before = bytes;
        assert!(!insert_mss(&mut bytes, 1));
        assert!(!insert_mss(&mut bytes[..23], 1));
        assert_eq!(bytes, before);
    }

    #[test]
    fn every_truncation_is_refused() {
        for len in 0..24 {
            assert_eq!(Tcp::parse(&BYTES[..len]).unwrap_err(), Malformed::TcpTruncated, "{len}");
        }
        assert!(Tcp::parse(&BYTES[..24]).unwrap().payload().is_empty());
    }

    #[test]
    fn rfc_9293_3_1_a_data_offset_under_five_is_refused() {
        for words in 0..5 {
            let mut bytes = BYTES;
            bytes[12] = words << 4;
            assert_eq!(Tcp::parse(&bytes).unwrap_err(), Malformed::TcpHeaderLength, "{words}");
        }
    }
}
