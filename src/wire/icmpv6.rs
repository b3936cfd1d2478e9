//! Internet Control Message Protocol for IPv6 (RFC 4443).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |     Type      |     Code      |          Checksum             |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |     Rest of the header: zero, or as type and code have it     |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  Echo: data. Error: as much of the original as there is room  |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! Unlike ICMP's, the checksum covers a pseudo-header (RFC 4443 2.3): it holds for one pair of addresses.

use std::fmt;
use std::net::Ipv6Addr;

use super::checksum::{self, pseudo_header};
use super::{Malformed, Protocol, ipv6};

/// Bytes before data or quoted original.
pub const HEADER_LEN: usize = 8;
/// Most bytes of an error: with its IPv6 header no more than the least MTU (RFC 4443 2.4 c).
pub const MAX_ERROR_LEN: usize = ipv6::MIN_MTU as usize - ipv6::HEADER_LEN;

/// What a message is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Icmpv6Type(pub u8);

impl Icmpv6Type {
    /// The packet cannot be delivered; the code says why.
    pub const DESTINATION_UNREACHABLE: Icmpv6Type = Icmpv6Type(1);
    /// Larger than the link's MTU, which the rest of the header says.
    pub const PACKET_TOO_BIG: Icmpv6Type = Icmpv6Type(2);
    /// The hop limit ran out (code 0), or the time to reassemble (code 1).
    pub const TIME_EXCEEDED: Icmpv6Type = Icmpv6Type(3);
    /// A header field is wrong; the rest of the header says where.
    pub const PARAMETER_PROBLEM: Icmpv6Type = Icmpv6Type(4);
    /// Asks for an echo.
    pub const ECHO_REQUEST: Icmpv6Type = Icmpv6Type(128);
    /// Answer to an echo request.
    pub const ECHO_REPLY: Icmpv6Type = Icmpv6Type(129);
    /// A router asks who listens to which groups (RFC 2710).
    pub const LISTENER_QUERY: Icmpv6Type = Icmpv6Type(130);
    /// Somebody listens to a group (RFC 2710).
    pub const LISTENER_REPORT: Icmpv6Type = Icmpv6Type(131);
    /// Nobody listens any more (RFC 2710).
    pub const LISTENER_DONE: Icmpv6Type = Icmpv6Type(132);
    /// Are there routers? (RFC 4861 4.1)
    pub const ROUTER_SOLICITATION: Icmpv6Type = Icmpv6Type(133);
    /// A router says what it is good for (RFC 4861 4.2).
    pub const ROUTER_ADVERTISEMENT: Icmpv6Type = Icmpv6Type(134);
    /// Who has an address? (RFC 4861 4.3)
    pub const NEIGHBOR_SOLICITATION: Icmpv6Type = Icmpv6Type(135);
    /// The sender has an address (RFC 4861 4.4).
    pub const NEIGHBOR_ADVERTISEMENT: Icmpv6Type = Icmpv6Type(136);
    /// There is a better first hop (RFC 4861 4.5).
    pub const REDIRECT: Icmpv6Type = Icmpv6Type(137);
    /// Who listens to what, in version 2 (RFC 3810 5.2).
    pub const LISTENER_REPORT_V2: Icmpv6Type = Icmpv6Type(143);

    /// True for a message about another packet: the types without the high bit (RFC 4443 2.1).
    #[inline]
    pub const fn is_error(self) -> bool {
        self.0 < 128
    }

    /// True for a message that never causes an error itself: an error, or a redirect (RFC 4443 2.4 e).
    #[inline]
    pub const fn forbids_error(self) -> bool {
        self.is_error() || self.0 == Icmpv6Type::REDIRECT.0
    }

    /// True for the five messages of RFC 4861, which never leave their link.
    #[inline]
    pub const fn is_neighbor_discovery(self) -> bool {
        matches!(self.0, 133..=137)
    }
}

impl fmt::Debug for Icmpv6Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Icmpv6Type({})", self.0)
    }
}

/// Code of [`Icmpv6Type::DESTINATION_UNREACHABLE`]: no route.
pub const CODE_NO_ROUTE: u8 = 0;
/// Code of [`Icmpv6Type::DESTINATION_UNREACHABLE`]: forbidden by a filter.
pub const CODE_PROHIBITED: u8 = 1;
/// Code of [`Icmpv6Type::DESTINATION_UNREACHABLE`]: the source address does not reach so far.
pub const CODE_BEYOND_SCOPE: u8 = 2;
/// Code of [`Icmpv6Type::DESTINATION_UNREACHABLE`]: the host does not answer, or whatever has no code of its own.
pub const CODE_ADDRESS_UNREACHABLE: u8 = 3;
/// Code of [`Icmpv6Type::DESTINATION_UNREACHABLE`]: nobody listens.
pub const CODE_PORT_UNREACHABLE: u8 = 4;
/// Code of [`Icmpv6Type::DESTINATION_UNREACHABLE`]: the source address is not allowed here.
pub const CODE_SOURCE_POLICY: u8 = 5;
/// Code of [`Icmpv6Type::DESTINATION_UNREACHABLE`]: the route says to refuse.
pub const CODE_REJECT_ROUTE: u8 = 6;
/// Code of [`Icmpv6Type::TIME_EXCEEDED`]: the hop limit ran out on the way.
pub const CODE_HOP_LIMIT_EXCEEDED: u8 = 0;
/// Code of [`Icmpv6Type::TIME_EXCEEDED`]: fragments were missing for too long.
pub const CODE_REASSEMBLY_EXCEEDED: u8 = 1;
/// Code of [`Icmpv6Type::PARAMETER_PROBLEM`]: a field has a wrong value.
pub const CODE_ERRONEOUS_FIELD: u8 = 0;
/// Code of [`Icmpv6Type::PARAMETER_PROBLEM`]: the host does not know the protocol or extension header.
pub const CODE_UNKNOWN_NEXT_HEADER: u8 = 1;
/// Code of [`Icmpv6Type::PARAMETER_PROBLEM`]: the host does not know the option.
pub const CODE_UNKNOWN_OPTION: u8 = 2;

/// A message.
#[derive(Clone, Copy, Debug)]
pub struct Icmpv6<'a> {
    header: &'a [u8; HEADER_LEN],
    message: &'a [u8],
}

impl<'a> Icmpv6<'a> {
    /// Takes an IP payload, all of which is the message. The checksum is not looked at: see
    /// [`Icmpv6::verify`].
    ///
    /// # Errors
    /// [`Malformed::IcmpTruncated`] when there are fewer than 8 bytes.
    #[inline]
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let header = message.first_chunk().ok_or(Malformed::IcmpTruncated)?;
        Ok(Icmpv6 { header, message })
    }

    /// What the message is.
    #[inline]
    pub fn kind(&self) -> Icmpv6Type {
        Icmpv6Type(self.header[0])
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

    /// True when the checksum is right between these addresses.
    #[inline]
    pub fn verify(&self, src: Ipv6Addr, dst: Ipv6Addr) -> bool {
        let pseudo = pseudo_header(src.into(), dst.into(), Protocol::ICMPV6, self.message.len());
        (pseudo + checksum::sum(self.message)).is_right()
    }

    /// The second four bytes of the header, which mean something else in each type.
    #[inline]
    pub fn rest(&self) -> [u8; 4] {
        [self.header[4], self.header[5], self.header[6], self.header[7]]
    }

    /// The same as a number: the MTU of a [`Icmpv6Type::PACKET_TOO_BIG`] in bytes; of a
    /// [`Icmpv6Type::PARAMETER_PROBLEM`] where in the original the fault stands, in bytes, which may be
    /// beyond the quote.
    #[inline]
    pub fn word(&self) -> u32 {
        u32::from_be_bytes(self.rest())
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

    /// Data of an echo; the quoted original of an error ([`super::Ipv6::parse_quoted`]).
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.message[HEADER_LEN..]
    }
}

/// The fields of a message to write, and the addresses that its checksum holds for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Source address of the packet.
    pub src: Ipv6Addr,
    /// Destination address of the packet.
    pub dst: Ipv6Addr,
    /// What it is.
    pub kind: Icmpv6Type,
    /// The kind within the kind.
    pub code: u8,
    /// The second four bytes: [`u32::to_be_bytes`] of an MTU or a pointer, [`echo_rest`], or zeros.
    pub rest: [u8; 4],
}

impl Message {
    /// Writes the message with an echo's data, or an error's quote: an IPv6 packet or the beginning of one.
    /// Returns its length. `payload` is cut to what fits in `out`, in an error also to
    /// [`MAX_ERROR_LEN`]. An `out` under 8 bytes takes nothing: 0.
    pub fn write(&self, out: &mut [u8], payload: &[u8]) -> usize {
        let Some((header, body)) = out.split_first_chunk_mut::<HEADER_LEN>() else { return 0 };
        let room = if self.kind.is_error() { MAX_ERROR_LEN - HEADER_LEN } else { body.len() };
        let payload = &payload[..payload.len().min(room).min(body.len())];
        let len = HEADER_LEN + payload.len();
        header[..4].copy_from_slice(&[self.kind.0, self.code, 0, 0]);
        header[4..].copy_from_slice(&self.rest);
        let pseudo = pseudo_header(self.src.into(), self.dst.into(), Protocol::ICMPV6, len);
        let checksum = (pseudo + checksum::sum(header) + checksum::sum(payload)).checksum();
        header[2..4].copy_from_slice(&checksum.to_be_bytes());
        body[..payload.len()].copy_from_slice(payload);
        len
    }
}

/// The second four bytes of an echo request or reply.
#[inline]
pub const fn echo_rest(id: u16, seq: u16) -> [u8; 4] {
    (((id as u32) << 16) | seq as u32).to_be_bytes()
}

/// Turns an echo request into the reply in place: only the type changes, the checksum follows (RFC 1624). It
/// holds for the same two addresses the other way round: a request to a group is answered from another
/// one, and its reply is to be written anew. Any other message is left alone.
pub fn make_echo_reply(message: &mut [u8]) {
    let Some(header) = message.first_chunk_mut::<HEADER_LEN>() else { return };
    if header[0] != Icmpv6Type::ECHO_REQUEST.0 {
        return;
    }
    let old = u16::from_be_bytes([header[0], header[1]]);
    header[0] = Icmpv6Type::ECHO_REPLY.0;
    let new = u16::from_be_bytes([header[0], header[1]]);
    // No sum is zero, as the pseudo-header has the protocol's number: the update is exact.
    let checksum = checksum::update(u16::from_be_bytes([header[2], header[3]]), old, new);
    header[2..4].copy_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const SRC: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x65, 0, 0, 0, 0, 0xa);
    const DST: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x65, 1, 0, 0, 0, 0x14);
    /// The sum by hand: fd00+10+65+a + fd00+10+65+1+14 + c + 3a + 8000 + 1234 + 5 + 6162 + 6364.
    const REQUEST: [u8; 12] = [128, 0, 0xad, 0xae, 0x12, 0x34, 0x00, 0x05, b'a', b'b', b'c', b'd'];

    const ECHO: Message =
        Message { src: SRC, dst: DST, kind: Icmpv6Type::ECHO_REQUEST, code: 0, rest: echo_rest(0x1234, 5) };

    #[test]
    fn bytes_to_fields() {
        let icmp = Icmpv6::parse(&REQUEST).unwrap();
        assert_eq!((icmp.kind(), icmp.code()), (Icmpv6Type::ECHO_REQUEST, 0));
        assert_eq!(icmp.checksum(), 0xadae);
        assert!(icmp.verify(SRC, DST) && icmp.verify(DST, SRC));
        assert!(!icmp.verify(SRC, SRC));
        assert_eq!((icmp.echo_id(), icmp.echo_seq()), (0x1234, 5));
        assert_eq!((icmp.rest(), icmp.word()), ([0x12, 0x34, 0x00, 0x05], 0x1234_0005));
        assert_eq!(icmp.payload(), b"abcd");
    }

    #[test]
    fn fields_to_bytes() {
        let mut out = [0xa5; 14];
        assert_eq!(ECHO.write(&mut out, b"abcd"), 12);
        assert_eq!(out[..12], REQUEST);
        assert_eq!(out[12..], [0xa5, 0xa5]);
    }

    #[test]
    fn rfc_4443_3_2_an_error_with_its_mtu() {
        let too_big = Message { kind: Icmpv6Type::PACKET_TOO_BIG, rest: 1430_u32.to_be_bytes(), ..ECHO };
        let mut out = [0xa5; 48];
        let len = too_big.write(&mut out, &[0x60; 40]);
        assert_eq!(out[..2], [2, 0]);
        assert_eq!(out[4..8], [0, 0, 0x05, 0x96]);
        assert_eq!(out[8..], [0x60; 40]);
        let icmp = Icmpv6::parse(&out[..len]).unwrap();
        assert!(icmp.verify(SRC, DST));
        assert_eq!(icmp.word(), 1430);
    }

    #[test]
    fn rfc_4443_2_4_c_an_error_stays_within_the_least_mtu() {
        let error = Message { kind: Icmpv6Type::TIME_EXCEEDED, rest: [0; 4], ..ECHO };
        let mut out = [0xa5; 3000];
        assert_eq!(error.write(&mut out, &[7; 2000]), 1240);
        assert!(out[1240..].iter().all(|byte| *byte == 0xa5));
        assert!(Icmpv6::parse(&out[..1240]).unwrap().verify(SRC, DST));
        assert_eq!(ECHO.write(&mut out, &[7; 2000]), 2008, "an echo is as long as it is");
    }

    #[test]
    fn the_quote_is_cut_to_the_room_there_is() {
        let error = Message { kind: Icmpv6Type::TIME_EXCEEDED, rest: [0; 4], ..ECHO };
        for room in 0..40 {
            let mut out = [0xa5; 40];
            let len = error.write(&mut out[..room], &[7; 20]);
            assert_eq!(len, if room < HEADER_LEN { 0 } else { room.min(28) }, "{room}");
            assert!(out[len..].iter().all(|byte| *byte == 0xa5), "{room}");
            assert!(len == 0 || Icmpv6::parse(&out[..len]).unwrap().verify(SRC, DST), "{room}");
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        for len in 0..HEADER_LEN {
            assert_eq!(Icmpv6::parse(&REQUEST[..len]).unwrap_err(), Malformed::IcmpTruncated, "{len}");
        }
        assert!(Icmpv6::parse(&REQUEST[..HEADER_LEN]).unwrap().payload().is_empty());
    }

    #[test]
    fn rfc_4443_4_2_a_reply_is_the_request_with_another_type() {
        for id in 0..=u16::MAX {
            let request = Message { rest: echo_rest(id, 5), ..ECHO };
            let mut message = [0xa5; 12];
            request.write(&mut message, b"abcd");
            make_echo_reply(&mut message);
            let mut expected = [0xa5; 12];
            Message { kind: Icmpv6Type::ECHO_REPLY, src: DST, dst: SRC, ..request }
                .write(&mut expected, b"abcd");
            assert_eq!(message, expected, "{id}");
        }
        let mut reply = REQUEST;
        reply[0] = 129;
        let before = reply;
        make_echo_reply(&mut reply);
        assert_eq!(reply, before);
    }

    #[test]
    fn rfc_4443_2_1_errors_and_what_never_causes_one() {
        let all = || (0..=255).map(Icmpv6Type);
        assert!(all().all(|kind| kind.is_error() == (kind.0 & 0x80 == 0)));
        assert!(all().all(|kind| kind.forbids_error() == (kind.is_error() || kind.0 == 137)));
        let discovery: Vec<u8> =
            all().filter(|kind| kind.is_neighbor_discovery()).map(|kind| kind.0).collect();
        assert_eq!(discovery, [133, 134, 135, 136, 137]);
    }
}
