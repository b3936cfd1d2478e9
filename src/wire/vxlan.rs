//! Virtual eXtensible LAN (RFC 7348 5).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |R|R|R|R|I|R|R|R|            Reserved                           |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                VXLAN Network Identifier (VNI) |   Reserved    |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use std::fmt;

use super::Malformed;

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;
/// The UDP port that IANA assigned.
pub const PORT: u16 = 4789;

/// The VNI is valid.
const FLAG_I: u8 = 0x08;

/// VXLAN network identifier: 24 bits. Calico's is 4096 unless `vxlanVNI` says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vni(pub u32);

impl Vni {
    /// The largest there is.
    pub const MAX: Vni = Vni(0x00ff_ffff);
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A VXLAN header and the frame behind it.
#[derive(Clone, Copy, Debug)]
pub struct Vxlan<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Vxlan<'a> {
    /// Takes a UDP payload. Reserved bits are ignored, as RFC 7348 5 says ("MUST be ... ignored on
    /// receipt"); Linux drops packets that have one set, here margay differs from it on purpose.
    ///
    /// # Errors
    /// [`Malformed::VxlanTruncated`] under 8 bytes; [`Malformed::VxlanFlags`] without the I flag.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, payload): (&[u8; HEADER_LEN], _) =
            bytes.split_first_chunk().ok_or(Malformed::VxlanTruncated)?;
        if header[0] & FLAG_I == 0 {
            return Err(Malformed::VxlanFlags);
        }
        Ok(Vxlan { header, payload })
    }

    /// The network that the frame belongs to.
    #[inline]
    pub fn vni(&self) -> Vni {
        Vni(u32::from_be_bytes([0, self.header[4], self.header[5], self.header[6]]))
    }

    /// The inner Ethernet frame.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// Writes a header. Bits of `vni` above the 24th have no place and are left out.
#[inline]
pub fn write(out: &mut [u8; HEADER_LEN], vni: Vni) {
    let [_, a, b, c] = vni.0.to_be_bytes();
    *out = [FLAG_I, 0, 0, 0, a, b, c, 0];
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: [u8; 10] = [0x08, 0x00, 0x00, 0x00, 0x12, 0x34, 0x56, 0x00, 0xde, 0xad];

    #[test]
    fn bytes_to_fields() {
        let vxlan = Vxlan::parse(&BYTES).unwrap();
        assert_eq!(vxlan.vni(), Vni(0x123456));
        assert_eq!(vxlan.payload(), [0xde, 0xad]);
    }

    #[test]
    fn fields_to_bytes() {
        let mut out = [0xa5; HEADER_LEN];
        write(&mut out, Vni(0x123456));
        assert_eq!(out, BYTES[..HEADER_LEN]);
        write(&mut out, Vni::MAX);
        assert_eq!(out, [0x08, 0, 0, 0, 0xff, 0xff, 0xff, 0]);
    }

    #[test]
    fn every_truncation_is_refused() {
        for len in 0..HEADER_LEN {
            assert_eq!(Vxlan::parse(&BYTES[..len]).unwrap_err(), Malformed::VxlanTruncated, "{len}");
        }
        assert!(Vxlan::parse(&BYTES[..HEADER_LEN]).unwrap().payload().is_empty());
    }

    #[test]
    fn rfc_7348_5_the_i_flag_must_be_set() {
        for flags in 0..=255 {
            let mut bytes = BYTES;
            bytes[0] = flags;
            match Vxlan::parse(&bytes) {
                Ok(_) => assert!(flags & 0x08 != 0, "{flags:#x}"),
                Err(error) => {
                    assert_eq!(error, Malformed::VxlanFlags);
                    assert!(flags & 0x08 == 0, "{flags:#x}");
                }
            }
        }
    }

    /// V2: each of the reserved bits alone. The kernel drops these; we must not.
    #[test]
    fn rfc_7348_5_reserved_bits_are_ignored_unlike_linux() {
        let reserved = (0..64).filter(|bit| !(32..56).contains(bit) && *bit != 4);
        let mut seen = 0;
        for bit in reserved {
            let mut bytes = BYTES;
            bytes[bit / 8] ^= 0x80 >> (bit % 8);
            assert_eq!(Vxlan::parse(&bytes).unwrap().vni(), Vni(0x123456), "bit {bit}");
            seen += 1;
        }
        assert_eq!(seen, 39);
    }
}
