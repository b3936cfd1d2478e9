//! Ethernet II header (IEEE 802.3 3.2).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                          Destination                          |
//! +                               +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                               |                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+                               +
//! |                            Source                             |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |           EtherType           |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use std::fmt;

use super::{MacAddr, Malformed};

/// Bytes of the header; no VLAN tag is ever part of it.
pub const HEADER_LEN: usize = 14;

/// What the payload is. Values under 0x0600 are an 802.3 length instead: no protocol that we carry.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4 (RFC 894).
    pub const IPV4: EtherType = EtherType(0x0800);
    /// ARP (RFC 826).
    pub const ARP: EtherType = EtherType(0x0806);
    /// A customer VLAN tag follows (IEEE 802.1Q).
    pub const VLAN: EtherType = EtherType(0x8100);
    /// IPv6 (RFC 2464).
    pub const IPV6: EtherType = EtherType(0x86dd);
    /// A service VLAN tag follows (IEEE 802.1ad).
    pub const QINQ: EtherType = EtherType(0x88a8);
}

impl fmt::Debug for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            EtherType::IPV4 => f.write_str("IPv4"),
            EtherType::ARP => f.write_str("ARP"),
            EtherType::VLAN => f.write_str("VLAN"),
            EtherType::IPV6 => f.write_str("IPv6"),
            EtherType::QINQ => f.write_str("QinQ"),
            EtherType(other) => write!(f, "0x{other:04x}"),
        }
    }
}

/// A frame: header and payload.
#[derive(Clone, Copy, Debug)]
pub struct Ethernet<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Ethernet<'a> {
    /// # Errors
    /// [`Malformed::EthernetTruncated`] when there are fewer than 14 bytes.
    #[inline]
    pub fn parse(frame: &'a [u8]) -> Result<Self, Malformed> {
        let (header, payload) = frame.split_first_chunk().ok_or(Malformed::EthernetTruncated)?;
        Ok(Ethernet { header, payload })
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> MacAddr {
        let [a, b, c, d, e, f, ..] = *self.header;
        MacAddr([a, b, c, d, e, f])
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> MacAddr {
        let [.., a, b, c, d, e, f, _, _] = *self.header;
        MacAddr([a, b, c, d, e, f])
    }

    /// What the payload is.
    #[inline]
    pub fn ethertype(&self) -> EtherType {
        EtherType(u16::from_be_bytes([self.header[12], self.header[13]]))
    }

    /// Everything after the header: padding of short frames included (RFC 894), as only the payload
    /// knows its own length.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// Writes a header.
#[inline]
pub fn write(out: &mut [u8; HEADER_LEN], dst: MacAddr, src: MacAddr, ethertype: EtherType) {
    out[0..6].copy_from_slice(&dst.0);
    out[6..12].copy_from_slice(&src.0);
    out[12..14].copy_from_slice(&ethertype.0.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: [u8; 18] = [
        0x66, 0x2d, 0xbf, 0x44, 0xa6, 0x8b, 0x66, 0xf9, 0x37, 0xc3, 0x7e, 0x94, 0x08, 0x00, 0xde, 0xad, 0xbe,
        0xef,
    ];
    const DST: MacAddr = MacAddr([0x66, 0x2d, 0xbf, 0x44, 0xa6, 0x8b]);
    const SRC: MacAddr = MacAddr([0x66, 0xf9, 0x37, 0xc3, 0x7e, 0x94]);

    #[test]
    fn bytes_to_fields() {
        let frame = Ethernet::parse(&FRAME).unwrap();
        assert_eq!(frame.dst(), DST);
        assert_eq!(frame.src(), SRC);
        assert_eq!(frame.ethertype(), EtherType::IPV4);
        assert_eq!(frame.payload(), [0xde, 0xad, 0xbe, 0xef]);
    }

    #[test]
    fn fields_to_bytes() {
        let mut out = [0xa5; HEADER_LEN];
        write(&mut out, DST, SRC, EtherType::IPV4);
        assert_eq!(out, FRAME[..HEADER_LEN]);
    }

    #[test]
    fn every_truncation_is_refused() {
        for len in 0..HEADER_LEN {
            assert_eq!(Ethernet::parse(&FRAME[..len]).unwrap_err(), Malformed::EthernetTruncated, "{len}");
        }
        assert!(Ethernet::parse(&FRAME[..HEADER_LEN]).unwrap().payload().is_empty());
    }
}
