//! Neighbour discovery for IPv6 (RFC 4861): who has an address, and on which link-layer address.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |Type (135, 136)|   Code (0)    |          Checksum             |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |R|S|O|          Reserved: in a solicitation all of it          |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                  Target Address, 16 bytes                     |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | Option: type  | Length, by 8  |  Link-layer address, or else  |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! `parse` reads a message by itself; `check` asks what the packet around it must be (RFC 4861 7.1), before anybody
//! believes it.

use std::net::Ipv6Addr;

use super::icmpv6::{self, Icmpv6, Icmpv6Type};
use super::{Ipv6, MacAddr, Malformed};

/// Hop limit of every message: no router has touched it (RFC 4861 3.1).
pub const HOP_LIMIT: u8 = 255;
/// Every node on the link (RFC 4291 2.7.1).
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Bytes of a solicitation or an advertisement without options.
pub const MIN_LEN: usize = icmpv6::HEADER_LEN + 16;
/// Bytes with a link-layer address.
pub const LEN_WITH_LINK: usize = MIN_LEN + LINK_OPTION_LEN;
/// Most options that are walked: those of RFC 4861 and of RFC 3971, all of them, and as many again.
pub const MAX_OPTIONS: usize = 16;

/// Type, length, and six bytes (RFC 2464 6).
const LINK_OPTION_LEN: usize = 8;
const SOURCE_LINK: u8 = 1;
const TARGET_LINK: u8 = 2;

const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// Who has the target? Sent from the unspecified address it is duplicate address detection: the sender means to
/// take the target (RFC 4862 5.4), and an answer means "conflict" to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighborSolicitation {
    /// The address asked for.
    pub target: Ipv6Addr,
    /// Where the sender is.
    pub source_link: Option<MacAddr>,
}

/// The sender has the target, or answers for who has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighborAdvertisement {
    /// The address that it is about.
    pub target: Ipv6Addr,
    /// The sender is a router.
    pub router: bool,
    /// It answers a solicitation of who gets it.
    pub solicited: bool,
    /// What was known of the target before is to be forgotten.
    pub overrides: bool,
    /// Where the target is.
    pub target_link: Option<MacAddr>,
}

impl NeighborSolicitation {
    /// Takes a message of type 135.
    ///
    /// # Errors
    /// [`Malformed::NdpTruncated`], [`Malformed::NdpOption`] (RFC 4861 4.6), or [`Malformed::NdpForbidden`] for
    /// another type and a target that is a group.
    pub fn parse(message: &Icmpv6<'_>) -> Result<Self, Malformed> {
        let (target, source_link) = parse(message, Icmpv6Type::NEIGHBOR_SOLICITATION, SOURCE_LINK)?;
        Ok(NeighborSolicitation { target, source_link })
    }

    /// What RFC 4861 7.1.1 has a receiver check of the packet that carries it.
    ///
    /// # Errors
    /// [`Malformed::NdpForbidden`].
    pub fn check(&self, ip: &Ipv6<'_>) -> Result<(), Malformed> {
        let probe = ip.src().is_unspecified();
        let probe_is_right = is_solicited_node(ip.dst()) && self.source_link.is_none();
        allowed(is_on_link(ip) && (!probe || probe_is_right))
    }

    /// Writes the message for a packet between `src` and `dst`, and returns its length: 24 bytes, or 32 with
    /// the sender's link-layer address. An `out` under that takes nothing: 0.
    pub fn write(&self, out: &mut [u8], src: Ipv6Addr, dst: Ipv6Addr) -> usize {
        let kind = Icmpv6Type::NEIGHBOR_SOLICITATION;
        let header = icmpv6::Message { src, dst, kind, code: 0, rest: [0; 4] };
        write(out, header, self.target, (SOURCE_LINK, self.source_link))
    }
}

impl NeighborAdvertisement {
    /// Takes a message of type 136.
    ///
    /// # Errors
    /// As [`NeighborSolicitation::parse`].
    pub fn parse(message: &Icmpv6<'_>) -> Result<Self, Malformed> {
        let (target, target_link) = parse(message, Icmpv6Type::NEIGHBOR_ADVERTISEMENT, TARGET_LINK)?;
        let flag = |bit| message.rest()[0] & bit != 0;
        let (router, solicited, overrides) = (flag(ROUTER), flag(SOLICITED), flag(OVERRIDE));
        Ok(NeighborAdvertisement { target, router, solicited, overrides, target_link })
    }

    /// What RFC 4861 7.1.2 has a receiver check of the packet that carries it.
    ///
    /// # Errors
    /// [`Malformed::NdpForbidden`].
    pub fn check(&self, ip: &Ipv6<'_>) -> Result<(), Malformed> {
        allowed(is_on_link(ip) && !(ip.dst().is_multicast() && self.solicited))
    }

    /// As [`NeighborSolicitation::write`].
    pub fn write(&self, out: &mut [u8], src: Ipv6Addr, dst: Ipv6Addr) -> usize {
        let flag = |is: bool, bit| if is { bit } else { 0 };
        let flags =
            flag(self.router, ROUTER) | flag(self.solicited, SOLICITED) | flag(self.overrides, OVERRIDE);
        let kind = Icmpv6Type::NEIGHBOR_ADVERTISEMENT;
        let header = icmpv6::Message { src, dst, kind, code: 0, rest: [flags, 0, 0, 0] };
        write(out, header, self.target, (TARGET_LINK, self.target_link))
    }
}

/// The group that an address's owner listens to for solicitations (RFC 4291 2.7.1).
#[inline]
pub const fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    let low = u16::from_be_bytes([b, c]);
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | a as u16, low)
}

/// Where a group's packets go on Ethernet (RFC 2464 7).
#[inline]
pub const fn multicast_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

fn is_solicited_node(address: Ipv6Addr) -> bool {
    address == solicited_node(address)
}

/// RFC 4861 7.1.1 and 7.1.2 where they agree, and RFC 6980 5: no fragment header, be it for a single fragment. That the
/// code is 0 `parse` has seen.
fn is_on_link(ip: &Ipv6<'_>) -> bool {
    let verifies = || Icmpv6::parse(ip.payload()).is_ok_and(|message| message.verify(ip.src(), ip.dst()));
    ip.hop_limit() == HOP_LIMIT && ip.id().is_none() && verifies()
}

fn allowed(is: bool) -> Result<(), Malformed> {
    if is { Ok(()) } else { Err(Malformed::NdpForbidden) }
}

/// Target, and link-layer address of the option of type `wanted`.
fn parse(
    message: &Icmpv6<'_>,
    kind: Icmpv6Type,
    wanted: u8,
) -> Result<(Ipv6Addr, Option<MacAddr>), Malformed> {
    allowed(message.kind() == kind && message.code() == 0)?;
    let Some((target, options)) = message.payload().split_first_chunk::<16>() else {
        return Err(Malformed::NdpTruncated);
    };
    let target = Ipv6Addr::from(*target);
    allowed(!target.is_multicast())?;
    Ok((target, link_option(options, wanted)?))
}

/// The first option of type `wanted` (RFC 4861 4.6.1); others are skipped, but must have a length.
fn link_option(mut options: &[u8], wanted: u8) -> Result<Option<MacAddr>, Malformed> {
    let mut found = None;
    for _ in 0..MAX_OPTIONS {
        let Some(&[kind, units, a, b, c, d, e, f]) = options.first_chunk::<LINK_OPTION_LEN>() else { break };
        let len = usize::from(units) * 8;
        if len == 0 || len > options.len() {
            return Err(Malformed::NdpOption);
        }
        if kind == wanted && found.is_none() {
            // Ethernet's takes one unit (RFC 2464 6).
            if len != LINK_OPTION_LEN {
                return Err(Malformed::NdpOption);
            }
            found = Some(MacAddr([a, b, c, d, e, f]));
        }
        options = &options[len..];
    }
    if options.is_empty() { Ok(found) } else { Err(Malformed::NdpOption) }
}

fn write(
    out: &mut [u8],
    header: icmpv6::Message,
    target: Ipv6Addr,
    (kind, link): (u8, Option<MacAddr>),
) -> usize {
    let mut body = [0; LEN_WITH_LINK - icmpv6::HEADER_LEN];
    body[..16].copy_from_slice(&target.octets());
    body[16..18].copy_from_slice(&[kind, 1]);
    body[18..].copy_from_slice(&link.map_or([0; 6], |mac| mac.0));
    let body = if link.is_some() { &body[..] } else { &body[..16] };
    match out.get_mut(..icmpv6::HEADER_LEN + body.len()) {
        Some(out) => header.write(out, body),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Protocol, ipv6};
    use super::*;

    const POD: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x42, 0xaff, 0xfe41, 0x80a);
    const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);
    const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xffee, 0xeeee);
    const MAC: MacAddr = MacAddr([2, 0x42, 0x0a, 0x41, 8, 0x0a]);

    /// A pod asks for its gateway.
    const SOLICITATION: [u8; 32] = [
        135, 0, 0x9c, 0xd9, 0, 0, 0, 0, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0xec, 0xee, 0xee, 0xff, 0xfe, 0xee,
        0xee, 0xee, 1, 1, 2, 0x42, 0x0a, 0x41, 8, 0x0a,
    ];
    const ASKS: NeighborSolicitation = NeighborSolicitation { target: GATEWAY, source_link: Some(MAC) };

    /// The gateway's answer.
    const ADVERTISEMENT: [u8; 32] = [
        136, 0, 0x28, 0x2d, 0xe0, 0, 0, 0, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0xec, 0xee, 0xee, 0xff, 0xfe, 0xee,
        0xee, 0xee, 2, 1, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee,
    ];
    const ANSWERS: NeighborAdvertisement = NeighborAdvertisement {
        target: GATEWAY,
        router: true,
        solicited: true,
        overrides: true,
        target_link: Some(MacAddr::GATEWAY),
    };

    fn packet(hop_limit: u8, (src, dst): (Ipv6Addr, Ipv6Addr), message: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; ipv6::HEADER_LEN];
        let header = ipv6::Header {
            traffic_class: 0,
            flow_label: 0,
            payload_len: message.len() as u16,
            next_header: Protocol::ICMPV6,
            hop_limit,
            src,
            dst,
        };
        header.write(bytes.first_chunk_mut().unwrap());
        bytes.extend(message);
        bytes
    }

    fn solicitation(message: &[u8]) -> Result<NeighborSolicitation, Malformed> {
        NeighborSolicitation::parse(&Icmpv6::parse(message).unwrap())
    }

    fn advertisement(message: &[u8]) -> Result<NeighborAdvertisement, Malformed> {
        NeighborAdvertisement::parse(&Icmpv6::parse(message).unwrap())
    }

    #[test]
    fn bytes_to_fields() {
        assert_eq!(solicitation(&SOLICITATION), Ok(ASKS));
        assert_eq!(advertisement(&ADVERTISEMENT), Ok(ANSWERS));
        assert_eq!(solicitation(&ADVERTISEMENT), Err(Malformed::NdpForbidden));
        assert_eq!(advertisement(&SOLICITATION), Err(Malformed::NdpForbidden));
    }

    #[test]
    fn fields_to_bytes() {
        let mut out = [0xa5; 34];
        assert_eq!(ASKS.write(&mut out, POD, GROUP), 32);
        assert_eq!((&out[..32], &out[32..]), (&SOLICITATION[..], &[0xa5; 2][..]));
        let mut out = [0xa5; 34];
        assert_eq!(ANSWERS.write(&mut out, GATEWAY, POD), 32);
        assert_eq!((&out[..32], &out[32..]), (&ADVERTISEMENT[..], &[0xa5; 2][..]));

        let mut out = [0xa5; 34];
        let probe = NeighborSolicitation { target: POD, source_link: None };
        assert_eq!(probe.write(&mut out, Ipv6Addr::UNSPECIFIED, solicited_node(POD)), 24);
        assert_eq!(solicitation(&out[..24]), Ok(probe));
        assert_eq!(out[24..], [0xa5; 10]);
        assert_eq!(ASKS.write(&mut [0; 31], POD, GROUP), 0);
        assert_eq!(probe.write(&mut [0; 23], POD, GROUP), 0);
    }

    #[test]
    fn every_flag_is_its_own() {
        for bits in 0..8_u8 {
            let flags = NeighborAdvertisement {
                router: bits & 4 != 0,
                solicited: bits & 2 != 0,
                overrides: bits & 1 != 0,
                ..ANSWERS
            };
            let mut out = [0xa5; 32];
            flags.write(&mut out, GATEWAY, POD);
            assert_eq!(out[4..8], [bits << 5, 0, 0, 0]);
            assert_eq!(advertisement(&out), Ok(flags));
        }
    }

    #[test]
    fn rfc_4861_4_6_options_are_walked_by_their_length() {
        let with = |options: &[u8]| solicitation(&[&SOLICITATION[..24], options].concat());
        let link = &SOLICITATION[24..];
        assert_eq!(with(&[]).unwrap().source_link, None);
        // A nonce of RFC 3971, and what nobody knows.
        let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
        let unknown = [&[253, 2][..], &[9; 14]].concat();
        assert_eq!(with(&[&nonce[..], &unknown, link].concat()), Ok(ASKS));
        // The first one counts; that of the other side is none.
        let other = [1, 1, 9, 9, 9, 9, 9, 9];
        assert_eq!(with(&[link, &other].concat()), Ok(ASKS));
        assert_eq!(with(&ADVERTISEMENT[24..]).unwrap().source_link, None);

        let zero = [253, 0, 0, 0, 0, 0, 0, 0];
        for wrong in
            [&zero[..], &[253, 2, 0, 0, 0, 0, 0, 0], &[1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]
        {
            assert_eq!(with(wrong), Err(Malformed::NdpOption), "{wrong:?}");
            assert_eq!(with(&[&nonce, wrong].concat()), Err(Malformed::NdpOption), "{wrong:?}");
        }
        assert!(with(&nonce.repeat(MAX_OPTIONS)).is_ok());
        assert_eq!(with(&nonce.repeat(MAX_OPTIONS + 1)), Err(Malformed::NdpOption));
    }

    #[test]
    fn every_truncation_is_refused() {
        for len in icmpv6::HEADER_LEN..SOLICITATION.len() {
            let want = match len {
                24 => Ok(NeighborSolicitation { source_link: None, ..ASKS }),
                0..24 => Err(Malformed::NdpTruncated),
                _ => Err(Malformed::NdpOption),
            };
            assert_eq!(solicitation(&SOLICITATION[..len]), want, "{len}");
        }
    }

    #[test]
    fn rfc_4861_7_1_1_what_a_solicitation_must_be() {
        let check = |hop_limit, addresses, message: &[u8]| {
            let bytes = packet(hop_limit, addresses, message);
            let ip = Ipv6::parse(&bytes).unwrap();
            solicitation(ip.payload()).and_then(|asks| asks.check(&ip))
        };
        let no = Err(Malformed::NdpForbidden);
        assert_eq!(check(255, (POD, GROUP), &SOLICITATION), Ok(()));
        for hop_limit in 0..255 {
            assert_eq!(check(hop_limit, (POD, GROUP), &SOLICITATION), no, "{hop_limit}");
        }
        assert_eq!(check(255, (POD, POD), &SOLICITATION), no, "the checksum");
        let changed = |at: usize| {
            let mut message = SOLICITATION;
            message[at] ^= 1;
            check(255, (POD, GROUP), &message)
        };
        assert_eq!((changed(1), changed(3)), (no, no), "code and checksum");

        let asked = |asks: NeighborSolicitation, src, dst| {
            let mut out = [0xa5; 32];
            let len = asks.write(&mut out, src, dst);
            check(255, (src, dst), &out[..len])
        };
        assert_eq!(asked(NeighborSolicitation { target: ALL_NODES, ..ASKS }, POD, GROUP), no);
        assert_eq!(asked(ASKS, POD, GATEWAY), Ok(()), "a unicast one asks whether it still is there");
        let nobody = Ipv6Addr::UNSPECIFIED;
        let probe = NeighborSolicitation { source_link: None, ..ASKS };
        assert_eq!(asked(probe, nobody, GROUP), Ok(()));
        assert_eq!(asked(ASKS, nobody, GROUP), no, "a probe with a link-layer address");
        assert_eq!(asked(probe, nobody, GATEWAY), no, "a probe that is not for the group");
        assert_eq!(asked(probe, nobody, ALL_NODES), no);
    }

    #[test]
    fn rfc_4861_7_1_2_what_an_advertisement_must_be() {
        let told = |answers: NeighborAdvertisement, dst| {
            let mut out = [0xa5; 32];
            let len = answers.write(&mut out, GATEWAY, dst);
            let bytes = packet(255, (GATEWAY, dst), &out[..len]);
            let ip = Ipv6::parse(&bytes).unwrap();
            advertisement(ip.payload()).and_then(|answers| answers.check(&ip))
        };
        let no = Err(Malformed::NdpForbidden);
        assert_eq!(told(ANSWERS, POD), Ok(()));
        assert_eq!(told(ANSWERS, ALL_NODES), no, "nobody has solicited it");
        let unsolicited = NeighborAdvertisement { solicited: false, ..ANSWERS };
        assert_eq!(told(unsolicited, ALL_NODES), Ok(()));
        assert_eq!(told(NeighborAdvertisement { target: GROUP, ..ANSWERS }, POD), no);
    }

    #[test]
    fn rfc_6980_5_never_in_a_fragment() {
        let atomic = [&[Protocol::ICMPV6.0, 0, 0, 0, 0, 0, 0, 1][..], &SOLICITATION].concat();
        let mut bytes = packet(255, (POD, GROUP), &atomic);
        bytes[6] = Protocol::FRAGMENT.0;
        let ip = Ipv6::parse(&bytes).unwrap();
        let asks = solicitation(ip.payload()).unwrap();
        assert_eq!(asks.check(&ip), Err(Malformed::NdpForbidden));
    }

    #[test]
    fn groups_and_where_they_are() {
        assert_eq!(solicited_node(GATEWAY), GROUP);
        assert_eq!(solicited_node(POD), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff41, 0x80a));
        assert_eq!(multicast_mac(GROUP).to_string(), "33:33:ff:ee:ee:ee");
        assert_eq!(multicast_mac(ALL_NODES).to_string(), "33:33:00:00:00:01");
    }
}
