//! Internet Control Message Protocol for IPv4 (RFC 792, RFC 1191, RFC 1812 4.3).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |     Type      |     Code      |          Checksum             |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |     Rest of the header: zero, or as type and code have it     |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  Echo: data. Error: the original's header and first bytes     |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use super::{Malformed, checksum};

/// Bytes before data or quoted original.
pub const HEADER_LEN: usize = 8;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Icmpv4Type(pub u8);

impl Icmpv4Type {
    /// Answer to an echo request.
    pub const ECHO_REPLY: Icmpv4Type = Icmpv4Type(0);
    /// The packet cannot be delivered; the code says why.
    pub const DESTINATION_UNREACHABLE: Icmpv4Type = Icmpv4Type(3);
    /// Slow down (deprecated by RFC 6633).
    pub const SOURCE_QUENCH: Icmpv4Type = Icmpv4Type(4);
    /// There is a better first hop.
    pub const REDIRECT: Icmpv4Type = Icmpv4Type(5);
    /// Asks for an echo.
    pub const ECHO_REQUEST: Icmpv4Type = Icmpv4Type(8);
    /// TTL ran out (code 0), or the time to reassemble (code 1).
    pub const TIME_EXCEEDED: Icmpv4Type = Icmpv4Type(11);
    /// A header field is wrong.
    pub const PARAMETER_PROBLEM: Icmpv4Type = Icmpv4Type(12);

    /// True for a message about another packet, which never causes an error itself (RFC 1122 3.2.2).
    #[inline]
    pub const fn is_error(self) -> bool {
        matches!(
            self,
            Icmpv4Type::DESTINATION_UNREACHABLE
                | Icmpv4Type::SOURCE_QUENCH
                | Icmpv4Type::REDIRECT
                | Icmpv4Type::TIME_EXCEEDED
                | Icmpv4Type::PARAMETER_PROBLEM
        )
    }
}

/// Code of [`Icmpv4Type::DESTINATION_UNREACHABLE`]: no route.
pub const CODE_NET_UNREACHABLE: u8 = 0;
/// Code of [`Icmpv4Type::DESTINATION_UNREACHABLE`]: the host does not answer.
pub const CODE_HOST_UNREACHABLE: u8 = 1;
/// Code of [`Icmpv4Type::DESTINATION_UNREACHABLE`]: the host does not know the protocol.
pub const CODE_PROTOCOL_UNREACHABLE: u8 = 2;
/// Code of [`Icmpv4Type::DESTINATION_UNREACHABLE`]: nobody listens.
pub const CODE_PORT_UNREACHABLE: u8 = 3;
/// Code of [`Icmpv4Type::DESTINATION_UNREACHABLE`]: too big and DF set (RFC 1191: with the MTU).
pub const CODE_FRAGMENTATION_NEEDED: u8 = 4;
/// Code of [`Icmpv4Type::DESTINATION_UNREACHABLE`]: forbidden by a filter (RFC 1812 5.2.7.1).
pub const CODE_PROHIBITED: u8 = 13;
/// Code of [`Icmpv4Type::TIME_EXCEEDED`]: TTL ran out on the way.
pub const CODE_TTL_EXCEEDED: u8 = 0;
/// Code of [`Icmpv4Type::TIME_EXCEEDED`]: fragments were missing for too long.
pub const CODE_REASSEMBLY_EXCEEDED: u8 = 1;

/// A message.
#[derive(Clone, Copy, Debug)]
pub struct Icmpv4<'a> {
    header: &'a [u8; HEADER_LEN],
    message: &'a [u8],
}

impl<'a> Icmpv4<'a> {
    /// Takes an IP payload, all of which is the message. The checksum is not looked at: see
    /// [`Icmpv4::verify`].
    ///
    /// # Errors
    /// [`Malformed::IcmpTruncated`] when there are fewer than 8 bytes.
    #[inline]
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let header = message.first_chunk().ok_or(Malformed::IcmpTruncated)?;
        Ok(Icmpv4 { header, message })
    }

    /// What the message is.
    #[inline]
    pub fn kind(&self) -> Icmpv4Type {
        Icmpv4Type(self.header[0])
    }

    /// The kind within the kind.
    #[inline]
    pub fn code(&self) -> u8 {
        self.header[1]
    }

    /// The checksum field.
    #[inline]
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// True when the checksum is right.
    #[inline]
    pub fn verify(&self) -> bool {
        checksum::sum(self.message).is_right()
    }

    /// The second four bytes of the header, which mean something else in each type.
    #[inline]
    pub fn rest(&self) -> [u8; 4] {
        [self.header[4], self.header[5], self.header[6], self.header[7]]
    }

    /// Of an echo request or reply.
    #[inline]
    pub fn echo_id(&self) -> u16 {
        u16::from_be_bytes([self.header[4], self.header[5]])
    }

    /// Of an echo request or reply.
    #[inline]
    pub fn echo_seq(&self) -> u16 {
        u16::from_be_bytes([self.header[6], self.header[7]])
    }

    /// Of a destination unreachable with [`CODE_FRAGMENTATION_NEEDED`], in bytes (RFC 1191 4); 0 from a
    /// router older than that.
    #[inline]
    pub fn next_hop_mtu(&self) -> u16 {
        u16::from_be_bytes([self.header[6], self.header[7]])
    }

    /// Data of an echo; the quoted original of an error ([`super::Ipv4::parse_quoted`]).
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.message[HEADER_LEN..]
    }
}

/// Writes an error about `quoted`, an IPv4 packet or the beginning of one, and returns its length. The quote
/// is cut to what fits in `out`: the caller bounds that so that the whole datagram stays within 576 bytes
/// (RFC 1812 4.3.2.3). An `out` under 8 bytes takes nothing: 0.
pub fn write_error(out: &mut [u8], kind: Icmpv4Type, code: u8, rest: [u8; 4], quoted: &[u8]) -> usize {
    write(out, [kind.0, code], rest, quoted)
}

/// Writes an echo request or reply and returns its length; `out` and `data` as in [`write_error`].
pub fn write_echo(out: &mut [u8], kind: Icmpv4Type, id: u16, seq: u16, data: &[u8]) -> usize {
    let ([a, b], [c, d]) = (id.to_be_bytes(), seq.to_be_bytes());
    write(out, [kind.0, 0], [a, b, c, d], data)
}

fn write(out: &mut [u8], kind_and_code: [u8; 2], rest: [u8; 4], payload: &[u8]) -> usize {
    let Some((header, body)) = out.split_first_chunk_mut::<HEADER_LEN>() else { return 0 };
    let payload = &payload[..payload.len().min(body.len())];
    header[0..2].copy_from_slice(&kind_and_code);
    header[2..4].copy_from_slice(&[0, 0]);
    header[4..8].copy_from_slice(&rest);
    let checksum = (checksum::sum(header) + checksum::sum(payload)).checksum();
    header[2..4].copy_from_slice(&checksum.to_be_bytes());
    body[..payload.len()].copy_from_slice(payload);
    HEADER_LEN + payload.len()
}

/// The second four bytes of a [`CODE_FRAGMENTATION_NEEDED`] (RFC 1191 4); `mtu` in bytes.
#[inline]
pub const fn mtu_rest(mtu: u16) -> [u8; 4] {
    let [high, low] = mtu.to_be_bytes();
    [0, 0, high, low]
}

/// Turns an echo request into the reply in place: only the type changes, the checksum follows (RFC 1624).
/// Any other message is left alone.
pub fn make_echo_reply(message: &mut [u8]) {
    let Some(header) = message.first_chunk_mut::<HEADER_LEN>() else { return };
    if header[0] != Icmpv4Type::ECHO_REQUEST.0 {
        return;
    }
    let old = u16::from_be_bytes([header[0], header[1]]);
    header[0] = Icmpv4Type::ECHO_REPLY.0;
    let new = u16::from_be_bytes([header[0], header[1]]);
    let mut checksum = checksum::update(u16::from_be_bytes([header[2], header[3]]), old, new);
    if checksum == 0 {
        // A reply to identifier 0, sequence number 0 and data of zeros is zero all over: the one message
        // whose sum is zero, hence its checksum 0xffff, which the update cannot know from 0.
        header[2..4].copy_from_slice(&[0, 0]);
        checksum = checksum::checksum(message);
    }
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&checksum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: [u8; 12] = [8, 0, 0x21, 0x00, 0x12, 0x34, 0x00, 0x05, b'a', b'b', b'c', b'd'];

    #[test]
    fn bytes_to_fields() {
        let icmp = Icmpv4::parse(&REQUEST).unwrap();
        assert_eq!(icmp.kind(), Icmpv4Type::ECHO_REQUEST);
        assert_eq!(icmp.code(), 0);
        assert_eq!(icmp.checksum(), 0x2100);
        assert!(icmp.verify());
        assert_eq!(icmp.echo_id(), 0x1234);
        assert_eq!(icmp.echo_seq(), 5);
        assert_eq!(icmp.rest(), [0x12, 0x34, 0x00, 0x05]);
        assert_eq!(icmp.payload(), b"abcd");
    }

    #[test]
    fn fields_to_bytes() {
        let mut out = [0xa5; 14];
        assert_eq!(write_echo(&mut out, Icmpv4Type::ECHO_REQUEST, 0x1234, 5, b"abcd"), 12);
        assert_eq!(out[..12], REQUEST);
        assert_eq!(out[12..], [0xa5, 0xa5]);
    }

    #[test]
    fn rfc_1191_4_an_error_with_its_mtu() {
        let quoted = [0x45, 0x00, 0x05, 0xdc];
        let mut out = [0xa5; 12];
        let unreachable = Icmpv4Type::DESTINATION_UNREACHABLE;
        let len = write_error(&mut out, unreachable, CODE_FRAGMENTATION_NEEDED, mtu_rest(1450), &quoted);
        assert_eq!(out[..len], [3, 4, 0xac, 0x75, 0, 0, 0x05, 0xaa, 0x45, 0x00, 0x05, 0xdc]);
        let icmp = Icmpv4::parse(&out[..len]).unwrap();
        assert!(icmp.verify());
        assert_eq!(icmp.next_hop_mtu(), 1450);
    }

    #[test]
    fn the_quote_is_cut_to_the_room_there_is() {
        for room in 0..40 {
            let mut out = [0xa5; 40];
            let len =
                write_error(&mut out[..room], Icmpv4Type::TIME_EXCEEDED, CODE_TTL_EXCEEDED, [0; 4], &[7; 20]);
            assert_eq!(len, if room < HEADER_LEN { 0 } else { room.min(28) }, "{room}");
            assert!(out[len..].iter().all(|byte| *byte == 0xa5), "{room}");
            assert!(len == 0 || Icmpv4::parse(&out[..len]).unwrap().verify(), "{room}");
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        for len in 0..HEADER_LEN {
            assert_eq!(Icmpv4::parse(&REQUEST[..len]).unwrap_err(), Malformed::IcmpTruncated, "{len}");
        }
        assert!(Icmpv4::parse(&REQUEST[..HEADER_LEN]).unwrap().payload().is_empty());
    }

    #[test]
    fn rfc_792_a_reply_is_the_request_with_another_type() {
        for id in 0..=u16::MAX {
            let mut message = [0xa5; 12];
            write_echo(&mut message, Icmpv4Type::ECHO_REQUEST, id, 5, b"abcd");
            make_echo_reply(&mut message);
            let mut expected = [0xa5; 12];
            write_echo(&mut expected, Icmpv4Type::ECHO_REPLY, id, 5, b"abcd");
            assert!(Icmpv4::parse(&message).unwrap().verify(), "{id}");
            assert_eq!(message, expected, "{id}");
        }

        let mut zeros = [8, 0, 0xf7, 0xff, 0, 0, 0, 0, 0, 0];
        assert!(Icmpv4::parse(&zeros).unwrap().verify());
        make_echo_reply(&mut zeros);
        assert_eq!(zeros, [0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0]);
        assert!(Icmpv4::parse(&zeros).unwrap().verify());

        let mut error = [3, 4, 0xac, 0x75, 0, 0, 0x05, 0xaa, 0x45, 0x00, 0x05, 0xdc];
        make_echo_reply(&mut error);
        assert_eq!(error[..2], [3, 4]);
    }

    #[test]
    fn rfc_1122_3_2_2_errors_and_queries() {
        let errors: Vec<u8> = (0..=255).filter(|kind| Icmpv4Type(*kind).is_error()).collect();
        assert_eq!(errors, [3, 4, 5, 11, 12]);
    }
}
