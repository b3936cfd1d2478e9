//! User Datagram Protocol (RFC 768).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |          Source Port          |       Destination Port        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |             Length            |           Checksum            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use std::net::IpAddr;

use super::{Malformed, Protocol, checksum};

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;

/// A datagram: header and payload.
#[derive(Clone, Copy, Debug)]
pub struct Udp<'a> {
    header: &'a [u8; HEADER_LEN],
    /// Header and payload.
    datagram: &'a [u8],
}

impl<'a> Udp<'a> {
    /// Takes an IP payload. The length field decides; bytes after it are not the datagram's. The checksum
    /// is not looked at: see [`Udp::verify`].
    ///
    /// # Errors
    /// [`Malformed::UdpTruncated`] under 8 bytes; [`Malformed::UdpLength`] when the length field is under 8
    /// (0 means something in IPv6 jumbograms only, RFC 2675 4) or says more than there is.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let header: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(Malformed::UdpTruncated)?;
        let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        if len < HEADER_LEN {
            return Err(Malformed::UdpLength);
        }
        let datagram = bytes.get(..len).ok_or(Malformed::UdpLength)?;
        Ok(Udp { header, datagram })
    }

    /// Source port.
    #[inline]
    pub fn src_port(&self) -> u16 {
        u16::from_be_bytes([self.header[0], self.header[1]])
    }

    /// Destination port.
    #[inline]
    pub fn dst_port(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// Bytes of header and payload: 8 or more.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "the length of a header field, never empty")]
    pub fn len(&self) -> usize {
        self.datagram.len()
    }

    /// The checksum field.
    #[inline]
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.header[6], self.header[7]])
    }

    /// The sender made a checksum (0 says that it did not; IPv4 only, RFC 8200 8.1).
    #[inline]
    pub fn has_checksum(&self) -> bool {
        self.checksum() != 0
    }

    /// True when the checksum is right, or absent and the datagram came over IPv4.
    #[inline]
    pub fn verify(&self, src: IpAddr, dst: IpAddr) -> bool {
        if !self.has_checksum() {
            return src.is_ipv4();
        }
        checksum::transport_checksum(src, dst, Protocol::UDP, self.datagram) == 0
    }

    /// What follows the header.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.datagram[HEADER_LEN..]
    }
}

/// The fields of a header to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Header and payload, in bytes.
    pub len: u16,
    /// 0 for none.
    pub checksum: u16,
}

impl Header {
    /// Writes the header.
    #[inline]
    pub fn write(&self, out: &mut [u8; HEADER_LEN]) {
        out[0..2].copy_from_slice(&self.src_port.to_be_bytes());
        out[2..4].copy_from_slice(&self.dst_port.to_be_bytes());
        out[4..6].copy_from_slice(&self.len.to_be_bytes());
        out[6..8].copy_from_slice(&self.checksum.to_be_bytes());
    }
}

/// Overwrites the checksum field in place. Fewer than 8 bytes are left alone.
#[inline]
pub fn write_checksum(datagram: &mut [u8], checksum: u16) {
    let Some(header) = datagram.first_chunk_mut::<HEADER_LEN>() else { return };
    header[6..8].copy_from_slice(&checksum.to_be_bytes());
}

/// Makes the checksum of a whole datagram (header and payload, no byte more) in place; one that comes out
/// as 0 is sent as all ones (RFC 768).
#[inline]
pub fn fill_checksum(datagram: &mut [u8], src: IpAddr, dst: IpAddr) {
    write_checksum(datagram, 0);
    let checksum = match checksum::transport_checksum(src, dst, Protocol::UDP, datagram) {
        0 => 0xffff,
        checksum => checksum,
    };
    write_checksum(datagram, checksum);
}

#[cfg(test)]
mod tests {
    use super::super::checksum::Sum;
    use super::*;

    const SRC: [u8; 4] = [10, 65, 8, 10];
    const DST: [u8; 4] = [10, 65, 9, 20];
    const BYTES: [u8; 11] = [0xda, 0xe8, 0x12, 0xb5, 0x00, 0x0b, 0x28, 0x38, b'a', b'b', b'c'];

    #[test]
    fn bytes_to_fields() {
        let udp = Udp::parse(&BYTES).unwrap();
        assert_eq!(udp.src_port(), 56040);
        assert_eq!(udp.dst_port(), 4789);
        assert_eq!(udp.len(), 11);
        assert_eq!(udp.checksum(), 0x2838);
        assert!(udp.has_checksum());
        assert!(udp.verify(SRC.into(), DST.into()));
        assert!(!udp.verify(SRC.into(), SRC.into()));
        assert_eq!(udp.payload(), b"abc");
    }

    #[test]
    fn fields_to_bytes() {
        let mut out = [0xa5; HEADER_LEN];
        Header { src_port: 56040, dst_port: 4789, len: 11, checksum: 0x2838 }.write(&mut out);
        assert_eq!(out, BYTES[..HEADER_LEN]);

        let mut out = BYTES;
        write_checksum(&mut out, 0xa5a5);
        fill_checksum(&mut out, SRC.into(), DST.into());
        assert_eq!(out, BYTES);
    }

    #[test]
    fn rfc_768_lengths_that_do_not_fit_are_refused() {
        for len in 0..BYTES.len() {
            let expected = if len < HEADER_LEN { Malformed::UdpTruncated } else { Malformed::UdpLength };
            assert_eq!(Udp::parse(&BYTES[..len]).unwrap_err(), expected, "{len}");
        }
        for len in [0, 1, 7, 12, 255] {
            let mut bytes = BYTES;
            bytes[5] = len;
            assert_eq!(Udp::parse(&bytes).unwrap_err(), Malformed::UdpLength, "{len}");
        }
        let mut header_only = BYTES;
        header_only[5] = 8;
        assert!(Udp::parse(&header_only).unwrap().payload().is_empty());
    }

    #[test]
    fn rfc_768_no_checksum_is_right_over_ipv4_only() {
        let mut bytes = BYTES;
        write_checksum(&mut bytes, 0);
        let udp = Udp::parse(&bytes).unwrap();
        assert!(!udp.has_checksum());
        assert!(udp.verify(SRC.into(), DST.into()));
        let v6 = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]);
        assert!(!udp.verify(v6, v6));
    }

    #[test]
    fn rfc_768_a_checksum_of_zero_is_sent_as_all_ones() {
        let mut bytes = BYTES;
        // The payload's first word takes up the sum: what is left to say is zero.
        write_checksum(&mut bytes, 0);
        let missing = checksum::transport_checksum(SRC.into(), DST.into(), Protocol::UDP, &bytes);
        let word = (Sum::of_word(u16::from_be_bytes([b'a', b'b'])) + Sum::of_word(missing)).folded();
        bytes[8..10].copy_from_slice(&word.to_be_bytes());
        fill_checksum(&mut bytes, SRC.into(), DST.into());
        let udp = Udp::parse(&bytes).unwrap();
        assert_eq!(udp.checksum(), 0xffff);
        assert!(udp.verify(SRC.into(), DST.into()));
    }

    /// An IPv6 datagram, so that the other pseudo-header is held to something (RFC 8200 8.1).
    #[test]
    fn over_ipv6() {
        let src = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]);
        let dst = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 2]);
        let mut bytes = BYTES;
        fill_checksum(&mut bytes, src, dst);
        // fd00+1 + fd00+2 + 17 + 11 + dae8+12b5+0b + 6162+6300
        assert_eq!(Udp::parse(&bytes).unwrap().checksum(), 0x53d3);
    }
}
