//! What both versions of IP have in common: the rules that are the same are written once, over these.
//!
//! An address type stands for its family: [`Ipv4Addr`] or [`Ipv6Addr`]. Code over an [`Address`] is compiled for each.

use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::ethernet::EtherType;
use super::{Ecn, Ipv4, Ipv6, Malformed, Protocol, flow, ipv4, ipv6};

/// A version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// That of an address.
    #[inline]
    pub const fn of(address: IpAddr) -> Family {
        match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// The other one.
    #[inline]
    pub const fn other(self) -> Family {
        match self {
            Family::V4 => Family::V6,
            Family::V6 => Family::V4,
        }
    }

    /// That of the packet at the start of `bytes`, by the first four bits; `None` where these are no version.
    #[inline(always)]
    pub const fn of_packet(bytes: &[u8]) -> Option<Family> {
        match bytes {
            [0x40..=0x4f, ..] => Some(Family::V4),
            [0x60..=0x6f, ..] => Some(Family::V6),
            _ => None,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// An address of one family, and what that family does to a header in place.
///
/// The functions that edit take a slice that begins with a header which was parsed before.
pub trait Address: Copy + Eq + Hash + Ord + fmt::Debug + fmt::Display + Into<IpAddr> {
    /// The family.
    const FAMILY: Family;
    /// Its number in an Ethernet header.
    const ETHERTYPE: EtherType;
    /// Its control messages: ICMP or ICMPv6.
    const ICMP: Protocol;
    /// Bytes of a header without options and extensions.
    const MIN_HEADER_LEN: usize;

    /// A parsed packet.
    type View<'a>: View<'a, Address = Self>;

    /// The address, if it is of this family.
    fn of(address: IpAddr) -> Option<Self>;

    /// Two addresses in 64 bits: IPv4's as they are, this one in the upper half; IPv6's mixed.
    fn pair(self, dst: Self) -> u64;

    /// One hop less; the caller has seen that it is 1 or more.
    fn decrement_hop_limit(header: &mut [u8]);

    /// Marks a packet; DSCP stays.
    fn set_ecn(header: &mut [u8], ecn: Ecn);

    /// Sets the length of header and payload together, bytes.
    fn set_total_len(header: &mut [u8], len: u16);
}

/// A packet of either version: header, what belongs to the header, payload.
pub trait View<'a>: Copy {
    /// Its addresses' family.
    type Address: Address<View<'a> = Self>;

    /// Checks what a router checks, and the lengths; bytes after the packet's end are no part of it.
    ///
    /// # Errors
    /// What is wrong with it, in the family's own words.
    fn parse(bytes: &'a [u8]) -> Result<Self, Malformed>;

    /// For what an ICMP error quotes: the payload may end early.
    ///
    /// # Errors
    /// The header is not all there, or of another version.
    fn parse_quoted(bytes: &'a [u8]) -> Result<Self, Malformed>;

    /// Source address.
    fn src(&self) -> Self::Address;

    /// Destination address.
    fn dst(&self) -> Self::Address;

    /// Bytes of header and payload, as the header says; 65,535 at most.
    fn total_len(&self) -> usize;

    /// Bytes before the payload: with options, and with the extension headers that were walked.
    fn header_len(&self) -> usize;

    /// DSCP and ECN in one byte: IPv4's TOS, IPv6's traffic class.
    fn traffic_class(&self) -> u8;

    /// Congestion notification (RFC 3168).
    #[inline(always)]
    fn ecn(&self) -> Ecn {
        Ecn::from_tos(self.traffic_class())
    }

    /// Hops that it may still take: IPv4's TTL, IPv6's hop limit.
    fn hop_limit(&self) -> u8;

    /// What the payload is.
    fn protocol(&self) -> Protocol;

    /// No router may fragment it: DF, or IPv6.
    fn dont_fragment(&self) -> bool;

    /// A piece of a datagram, the first one included.
    fn is_fragment(&self) -> bool;

    /// A piece that does not begin with the transport header.
    fn is_later_fragment(&self) -> bool;

    /// Each segment of its payload may have a copy of its headers, checksums over its addresses: no fragment header
    /// is among them, no authentication (RFC 4302), and no routing header that names another last destination
    /// (RFC 8200 8.1).
    fn has_common_headers(&self) -> bool;

    /// Header, options and extension headers.
    #[inline(always)]
    fn header(&self) -> &'a [u8] {
        &self.packet()[..self.header_len()]
    }

    /// What follows [`Self::header`], without link-layer padding.
    #[inline(always)]
    fn payload(&self) -> &'a [u8] {
        &self.packet()[self.header_len()..]
    }

    /// Header and payload, without link-layer padding.
    fn packet(&self) -> &'a [u8];
}

impl Address for Ipv4Addr {
    const FAMILY: Family = Family::V4;
    const ETHERTYPE: EtherType = EtherType::IPV4;
    const ICMP: Protocol = Protocol::ICMP;
    const MIN_HEADER_LEN: usize = ipv4::MIN_HEADER_LEN;

    type View<'a> = Ipv4<'a>;

    #[inline(always)]
    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }

    #[inline(always)]
    fn pair(self, dst: Self) -> u64 {
        u64::from(self.to_bits()) << 32 | u64::from(dst.to_bits())
    }

    #[inline(always)]
    fn decrement_hop_limit(header: &mut [u8]) {
        ipv4::decrement_ttl(header);
    }

    #[inline(always)]
    fn set_ecn(header: &mut [u8], ecn: Ecn) {
        ipv4::set_ecn(header, ecn);
    }

    #[inline(always)]
    fn set_total_len(header: &mut [u8], len: u16) {
        ipv4::set_total_len(header, len);
    }
}

impl Address for Ipv6Addr {
    const FAMILY: Family = Family::V6;
    const ETHERTYPE: EtherType = EtherType::IPV6;
    const ICMP: Protocol = Protocol::ICMPV6;
    const MIN_HEADER_LEN: usize = ipv6::HEADER_LEN;

    type View<'a> = Ipv6<'a>;

    #[inline(always)]
    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address),
        }
    }

    #[inline(always)]
    fn pair(self, dst: Self) -> u64 {
        flow::mix_addresses(self.to_bits(), dst.to_bits())
    }

    #[inline(always)]
    fn decrement_hop_limit(header: &mut [u8]) {
        ipv6::decrement_hop_limit(header);
    }

    #[inline(always)]
    fn set_ecn(header: &mut [u8], ecn: Ecn) {
        ipv6::set_ecn(header, ecn);
    }

    #[inline(always)]
    fn set_total_len(header: &mut [u8], len: u16) {
        ipv6::set_total_len(header, len);
    }
}

impl<'a> View<'a> for Ipv4<'a> {
    type Address = Ipv4Addr;

    #[inline(always)]
    fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        Ipv4::parse(bytes)
    }

    #[inline(always)]
    fn parse_quoted(bytes: &'a [u8]) -> Result<Self, Malformed> {
        Ipv4::parse_quoted(bytes)
    }

    #[inline(always)]
    fn src(&self) -> Ipv4Addr {
        Ipv4::src(self)
    }

    #[inline(always)]
    fn dst(&self) -> Ipv4Addr {
        Ipv4::dst(self)
    }

    #[inline(always)]
    fn total_len(&self) -> usize {
        Ipv4::total_len(self)
    }

    #[inline(always)]
    fn header_len(&self) -> usize {
        Ipv4::header_len(self)
    }

    #[inline(always)]
    fn traffic_class(&self) -> u8 {
        self.tos()
    }

    #[inline(always)]
    fn hop_limit(&self) -> u8 {
        self.ttl()
    }

    #[inline(always)]
    fn protocol(&self) -> Protocol {
        Ipv4::protocol(self)
    }

    #[inline(always)]
    fn dont_fragment(&self) -> bool {
        Ipv4::dont_fragment(self)
    }

    #[inline(always)]
    fn is_fragment(&self) -> bool {
        Ipv4::is_fragment(self)
    }

    #[inline(always)]
    fn is_later_fragment(&self) -> bool {
        Ipv4::is_later_fragment(self)
    }

    #[inline(always)]
    fn has_common_headers(&self) -> bool {
        true
    }

    #[inline(always)]
    fn packet(&self) -> &'a [u8] {
        Ipv4::packet(self)
    }
}

impl<'a> View<'a> for Ipv6<'a> {
    type Address = Ipv6Addr;

    #[inline(always)]
    fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        Ipv6::parse(bytes)
    }

    #[inline(always)]
    fn parse_quoted(bytes: &'a [u8]) -> Result<Self, Malformed> {
        Ipv6::parse_quoted(bytes)
    }

    #[inline(always)]
    fn src(&self) -> Ipv6Addr {
        Ipv6::src(self)
    }

    #[inline(always)]
    fn dst(&self) -> Ipv6Addr {
        Ipv6::dst(self)
    }

    #[inline(always)]
    fn total_len(&self) -> usize {
        Ipv6::total_len(self)
    }

    #[inline(always)]
    fn header_len(&self) -> usize {
        Ipv6::header_len(self)
    }

    #[inline(always)]
    fn traffic_class(&self) -> u8 {
        Ipv6::traffic_class(self)
    }

    #[inline(always)]
    fn hop_limit(&self) -> u8 {
        Ipv6::hop_limit(self)
    }

    #[inline(always)]
    fn protocol(&self) -> Protocol {
        Ipv6::protocol(self)
    }

    #[inline(always)]
    fn dont_fragment(&self) -> bool {
        true
    }

    #[inline(always)]
    fn is_fragment(&self) -> bool {
        Ipv6::is_fragment(self)
    }

    #[inline(always)]
    fn is_later_fragment(&self) -> bool {
        Ipv6::is_later_fragment(self)
    }

    #[inline(always)]
    fn has_common_headers(&self) -> bool {
        Ipv6::has_common_headers(self)
    }

    #[inline(always)]
    fn packet(&self) -> &'a [u8] {
        Ipv6::packet(self)
    }
}
