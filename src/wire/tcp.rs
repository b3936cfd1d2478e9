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
