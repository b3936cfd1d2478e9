//! Frames as text, one header after the other, in the manner of `tcpdump -nve`.
//!
//! Contract: any bytes give a text. What is cut short is shown as far as it goes, with `[truncated]`; checksums
//! are not looked at, because a capture sees them before the hardware fills them in.
//!
//! ```
//! let ipip = [
//!     0x45, 0, 0, 48, 0, 17, 0x40, 0, 63, 4, 0, 0, 192, 168, 77, 1, 192, 168, 77, 2, // outer
//!     0x45, 0, 0, 28, 0, 3, 0x40, 0, 63, 1, 0, 0, 10, 65, 0, 2, 10, 65, 0, 66, // inner
//!     8, 0, 0, 0, 0, 7, 0, 1,
//! ];
//! assert_eq!(
//!     margay::cli::dissect::packet(&ipip).to_string(),
//!     "192.168.77.1 > 192.168.77.2: IPIP (4) ttl 63 id 17 DF len 48 | \
//!      10.65.0.2 > 10.65.0.66: ICMP echo request id 7 seq 1 ttl 63 id 3 DF len 28"
//! );
//! ```

use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr};

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{
    ArpOperation, ArpPacketSlice, EtherType, Ethernet2HeaderSlice, Icmpv4Slice, Icmpv4Type, IpNumber,
    Ipv4HeaderSlice, TcpHeaderSlice, UdpHeaderSlice,
};

use crate::agent::capture::unhex;
use crate::capture::Link;
use crate::wire::icmpv6::{self, Icmpv6, Icmpv6Type};
use crate::wire::{Ipv6, MacAddr, NeighborAdvertisement, NeighborSolicitation, Protocol};

/// Headers within headers are followed so deep.
const DEPTH: usize = 4;
const VXLAN_PORT: u16 = 4789;

/// A frame's headers: one text for the outer ones and one for each level inside.
///
/// `{}` writes them on one line with ` | ` in between, `{:#}` on lines of their own, each deeper than the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dissection {
    /// Outermost first; never empty.
    pub levels: Vec<String>,
}

impl fmt::Display for Dissection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, level) in self.levels.iter().enumerate() {
            match depth {
                0 => {}
                _ if f.alternate() => write!(f, "\n{:indent$}", "", indent = 4 * depth)?,
                _ => f.write_str(" | ")?,
            }
            f.write_str(level)?;
        }
        Ok(())
    }
}

/// What an Ethernet frame is.
pub fn frame(bytes: &[u8]) -> Dissection {
    let mut levels = Levels(vec![String::new()]);
    levels.ethernet(bytes);
    Dissection { levels: levels.0 }
}

/// What an IP packet is.
pub fn packet(bytes: &[u8]) -> Dissection {
    let mut levels = Levels(vec![String::new()]);
    levels.ip(bytes);
    Dissection { levels: levels.0 }
}

/// What a frame is that begins with this.
pub fn of(link: Link, bytes: &[u8]) -> Dissection {
    match link {
        Link::Ethernet => frame(bytes),
        Link::Ip => packet(bytes),
    }
}

/// The same of hexadecimal digits, as the daemon tells of frames.
pub fn of_digits(ethernet: bool, digits: &str) -> Dissection {
    let bytes = unhex(digits).unwrap_or_default();
    of(if ethernet { Link::Ethernet } else { Link::Ip }, &bytes)
}

/// True where the frame carries a packet within a packet, or the packet itself is of the overlay `prefix`.
pub fn concerns(bytes: &[u8], prefix: crate::lpm::Prefix) -> bool {
    let Ok(ethernet) = Ethernet2HeaderSlice::from_slice(bytes) else { return false };
    let Some(Facts { ip, payload }) = Facts::of(&bytes[14..]) else { return false };
    matches!(ethernet.ether_type(), EtherType::IPV4 | EtherType::IPV6)
        && (matches!(ip.protocol(), IpNumber::IPV4 | IpNumber::IPV6)
            || prefix.contains(&ip.source())
            || prefix.contains(&ip.destination())
            || UdpHeaderSlice::from_slice(payload)
                .is_ok_and(|udp| ip.protocol() == IpNumber::UDP && udp.destination_port() == VXLAN_PORT))
}

/// The texts so far; the last one is being written.
struct Levels(Vec<String>);

/// What an IP header says, to be written behind what the payload says.
struct Facts<'a> {
    ip: Ip<'a>,
    payload: &'a [u8],
}

/// A header of either version.
enum Ip<'a> {
    V4(Ipv4HeaderSlice<'a>),
    V6(Ipv6<'a>),
}

impl<'a> Facts<'a> {
    /// `None` where the header is cut short or malformed; the payload may end early.
    fn of(bytes: &'a [u8]) -> Option<Self> {
        if bytes.first()? >> 4 == 6 {
            let ip = Ipv6::parse_quoted(bytes).ok()?;
            return Some(Facts { ip: Ip::V6(ip), payload: ip.payload() });
        }
        let ip = Ipv4HeaderSlice::from_slice(bytes).ok()?;
        let end = bytes.len().min(usize::from(ip.total_len()));
        // A total length below the header's own leaves nothing.
        let payload = bytes.get(ip.slice().len()..end).unwrap_or_default();
        Some(Facts { ip: Ip::V4(ip), payload })
    }
}

impl Ip<'_> {
    fn source(&self) -> IpAddr {
        match self {
            Ip::V4(ip) => ip.source_addr().into(),
            Ip::V6(ip) => ip.src().into(),
        }
    }

    fn destination(&self) -> IpAddr {
        match self {
            Ip::V4(ip) => ip.destination_addr().into(),
            Ip::V6(ip) => ip.dst().into(),
        }
    }

    fn protocol(&self) -> IpNumber {
        match self {
            Ip::V4(ip) => ip.protocol(),
            Ip::V6(ip) => ip.protocol().0.into(),
        }
    }

    /// Only a first fragment has the payload's header.
    fn is_later_fragment(&self) -> bool {
        match self {
            Ip::V4(ip) => ip.fragments_offset().value() != 0,
            Ip::V6(ip) => ip.is_later_fragment(),
        }
    }

    /// Bytes before the payload, and with it.
    fn lengths(&self) -> (usize, usize) {
        match self {
            Ip::V4(ip) => (ip.slice().len(), ip.total_len().into()),
            Ip::V6(ip) => (ip.header_len(), ip.total_len()),
        }
    }
}

/// The extension headers that were walked, in words.
fn extensions(ip: &Ipv6<'_>) -> Vec<&'static str> {
    let mut names = Vec::new();
    let (mut next, mut rest) = (ip.next_header(), ip.extensions());
    while let [following, units, ..] = *rest {
        let (name, len) = match next {
            Protocol::FRAGMENT => ("fragment", 8),
            Protocol::AH => ("authentication", (usize::from(units) + 2) * 4),
            Protocol::HOP_BY_HOP => ("hop-by-hop options", (usize::from(units) + 1) * 8),
            Protocol::ROUTING => ("routing", (usize::from(units) + 1) * 8),
            _ => ("destination options", (usize::from(units) + 1) * 8),
        };
        names.push(name);
        next = Protocol(following);
        rest = rest.get(len..).unwrap_or_default();
    }
    names
}

impl Levels {
    fn add(&mut self, text: impl fmt::Display) {
        if let Some(last) = self.0.last_mut() {
            // A String takes every text.
            let _ = write!(last, "{text}");
        }
    }

    /// Begins the next level; false where that is too deep.
    fn deeper(&mut self) -> bool {
        let room = self.0.len() < DEPTH;
        if room {
            self.0.push(String::new());
        }
        room
    }

    fn ethernet(&mut self, bytes: &[u8]) {
        let Ok(header) = Ethernet2HeaderSlice::from_slice(bytes) else {
            return self.add(format_args!("Ethernet [truncated] len {}", bytes.len()));
        };
        self.add(format_args!("{} > {}: ", MacAddr(header.source()), MacAddr(header.destination())));
        let payload = &bytes[header.slice().len()..];
        match header.ether_type() {
            EtherType::IPV4 | EtherType::IPV6 => self.ip(payload),
            EtherType::ARP => self.arp(payload),
            other => self.add(format_args!("ethertype 0x{:04x} len {}", other.0, payload.len())),
        }
    }

    /// RFC 826.
    fn arp(&mut self, bytes: &[u8]) {
        let Ok(arp) = ArpPacketSlice::from_slice(bytes) else {
            return self.add("ARP [truncated]");
        };
        let (Ok(sender), Ok(target)) = (
            <[u8; 4]>::try_from(arp.sender_protocol_addr()).map(Ipv4Addr::from),
            <[u8; 4]>::try_from(arp.target_protocol_addr()).map(Ipv4Addr::from),
        ) else {
            return self.add("ARP for another protocol than IPv4");
        };
        match (arp.operation(), <[u8; 6]>::try_from(arp.sender_hw_addr())) {
            (ArpOperation::REQUEST, _) => self.add(format_args!("ARP who-has {target} tell {sender}")),
            (ArpOperation::REPLY, Ok(mac)) => {
                self.add(format_args!("ARP reply {sender} is-at {}", MacAddr(mac)));
            }
            (other, _) => self.add(format_args!("ARP operation {}", other.0)),
        }
    }

    fn ip(&mut self, bytes: &[u8]) {
        let Some(facts) = Facts::of(bytes) else {
            let name = if bytes.first().is_some_and(|first| first >> 4 == 6) { "IPv6" } else { "IPv4" };
            return self.add(format_args!("{name} [truncated or malformed] len {}", bytes.len()));
        };
        let Facts { ip, payload } = &facts;
        let (source, destination) = (ip.source(), ip.destination());
        if ip.is_later_fragment() {
            self.add(format_args!("{source} > {destination}: fragment of proto {}", ip.protocol().0));
            return self.tail(ip);
        }
        match (ip.protocol(), ip) {
            (IpNumber::UDP, _) => self.udp(&facts),
            (IpNumber::TCP, _) => self.tcp(&facts),
            (IpNumber::ICMP, Ip::V4(_)) => {
                self.add(format_args!("{source} > {destination}: ICMP "));
                self.icmp(&facts);
            }
            (IpNumber::IPV6_ICMP, Ip::V6(packet)) => {
                self.add(format_args!("{source} > {destination}: ICMPv6 "));
                self.icmpv6(&facts, packet);
            }
            (inner @ (IpNumber::IPV4 | IpNumber::IPV6), _) => {
                let name = if inner == IpNumber::IPV4 { "IPIP" } else { "IPv6" };
                self.add(format_args!("{source} > {destination}: {name} ({})", inner.0));
                self.tail(ip);
                if self.deeper() {
                    self.ip(payload);
                }
            }
            (IpNumber::IPV6_NO_NEXT_HEADER, Ip::V6(_)) => {
                self.add(format_args!("{source} > {destination}: no next header"));
                self.tail(ip);
            }
            (other, _) => {
                self.add(format_args!("{source} > {destination}: proto {}", other.0));
                self.tail(ip);
            }
        }
    }

    /// What the header says besides addresses and protocol.
    fn tail(&mut self, ip: &Ip<'_>) {
        match ip {
            Ip::V4(ip) => self.tail_v4(ip),
            Ip::V6(ip) => self.tail_v6(ip),
        }
        self.add(format_args!(" len {}", ip.lengths().1));
    }

    fn tail_v4(&mut self, ip: &Ipv4HeaderSlice<'_>) {
        self.add(format_args!(" ttl {} id {}", ip.ttl(), ip.identification()));
        if ip.dont_fragment() {
            self.add(" DF");
        }
        if ip.is_fragmenting_payload() {
            self.add(format_args!(" offset {}", ip.fragments_offset().byte_offset()));
            self.add(if ip.more_fragments() { " MF" } else { "" });
        }
        let tos = ip.dcp().value() << 2 | ip.ecn().value();
        if tos != 0 {
            self.add(format_args!(" tos 0x{tos:02x}"));
        }
    }

    fn tail_v6(&mut self, ip: &Ipv6<'_>) {
        self.add(format_args!(" hlim {}", ip.hop_limit()));
        if let Some(id) = ip.id() {
            self.add(format_args!(" id {id} offset {}", ip.fragment_offset()));
            self.add(if ip.more_fragments() { " MF" } else { "" });
        }
        if ip.traffic_class() != 0 {
            self.add(format_args!(" class 0x{:02x}", ip.traffic_class()));
        }
        if ip.flow_label() != 0 {
            self.add(format_args!(" flow 0x{:05x}", ip.flow_label()));
        }
        let extensions = extensions(ip);
        if !extensions.is_empty() {
            self.add(format_args!(" ({})", extensions.join(", ")));
        }
    }

    fn udp(&mut self, facts: &Facts<'_>) {
        let Facts { ip, payload } = facts;
        let Ok(udp) = UdpHeaderSlice::from_slice(payload) else {
            return self.cut_short(facts, "UDP");
        };
        let (from, to) = (udp.source_port(), udp.destination_port());
        self.add(format_args!("{}.{from} > {}.{to}: UDP", ip.source(), ip.destination()));
        self.tail(ip);
        if to == VXLAN_PORT && self.deeper() {
            self.vxlan(&payload[udp.slice().len()..]);
        }
    }

    /// RFC 7348 section 5.
    fn vxlan(&mut self, bytes: &[u8]) {
        let Some((header, inner)) = bytes.split_first_chunk::<8>() else {
            return self.add("VXLAN [truncated]");
        };
        let [flags, _, _, _, v0, v1, v2, _] = *header;
        self.add("VXLAN");
        if flags != 0x08 {
            self.add(format_args!(" flags 0x{flags:02x}"));
        }
        self.add(format_args!(" vni {} ", u32::from_be_bytes([0, v0, v1, v2])));
        self.ethernet(inner);
    }

    fn tcp(&mut self, facts: &Facts<'_>) {
        let Facts { ip, payload } = facts;
        let Ok(tcp) = TcpHeaderSlice::from_slice(payload) else {
            return self.cut_short(facts, "TCP");
        };
        let letters = [
            (tcp.syn(), 'S'),
            (tcp.fin(), 'F'),
            (tcp.rst(), 'R'),
            (tcp.psh(), 'P'),
            (tcp.ack(), '.'),
            (tcp.urg(), 'U'),
            (tcp.ece(), 'E'),
            (tcp.cwr(), 'W'),
        ];
        let flags: String = letters.iter().filter(|(set, _)| *set).map(|(_, letter)| letter).collect();
        self.add(format_args!(
            "{}.{} > {}.{}: TCP [{flags}] seq {}",
            ip.source(),
            tcp.source_port(),
            ip.destination(),
            tcp.destination_port(),
            tcp.sequence_number()
        ));
        if tcp.ack() {
            self.add(format_args!(" ack {}", tcp.acknowledgment_number()));
        }
        // The IP header's word on it: the capture may hold less.
        let (header_len, total_len) = ip.lengths();
        self.add(format_args!(" data {}", total_len.saturating_sub(header_len + tcp.slice().len())));
        self.tail(ip);
    }

    /// An ICMP error quotes eight bytes of payload at least (RFC 792): the ports.
    fn cut_short(&mut self, facts: &Facts<'_>, name: &str) {
        let Facts { ip, payload } = facts;
        let (source, destination) = (ip.source(), ip.destination());
        match payload.first_chunk() {
            Some(&[s0, s1, d0, d1]) => self.add(format_args!(
                "{source}.{} > {destination}.{}: {name} [truncated]",
                u16::from_be_bytes([s0, s1]),
                u16::from_be_bytes([d0, d1])
            )),
            None => self.add(format_args!("{source} > {destination}: {name} [truncated]")),
        }
        self.tail(ip);
    }

    /// RFC 792; an error's quotation is the next level.
    fn icmp(&mut self, facts: &Facts<'_>) {
        let Facts { ip, payload } = facts;
        let Ok(icmp) = Icmpv4Slice::from_slice(payload) else {
            self.add("[truncated]");
            return self.tail(ip);
        };
        let quoted = match icmp.icmp_type() {
            Icmpv4Type::EchoRequest(echo) => {
                self.add(format_args!("echo request id {} seq {}", echo.id, echo.seq));
                None
            }
            Icmpv4Type::EchoReply(echo) => {
                self.add(format_args!("echo reply id {} seq {}", echo.id, echo.seq));
                None
            }
            Icmpv4Type::DestinationUnreachable(why) => {
                match why {
                    DestUnreachableHeader::Network => self.add("net unreachable"),
                    DestUnreachableHeader::Host => self.add("host unreachable"),
                    DestUnreachableHeader::Protocol => self.add("protocol unreachable"),
                    DestUnreachableHeader::Port => self.add("port unreachable"),
                    DestUnreachableHeader::FragmentationNeeded { next_hop_mtu } => {
                        self.add(format_args!("fragmentation needed (mtu {next_hop_mtu})"));
                    }
                    _ => self.add(format_args!("unreachable code {}", icmp.code_u8())),
                }
                Some(icmp.payload())
            }
            Icmpv4Type::TimeExceeded(_) => {
                self.add("time exceeded");
                Some(icmp.payload())
            }
            _ => {
                self.add(format_args!("type {} code {}", icmp.type_u8(), icmp.code_u8()));
                None
            }
        };
        self.tail(ip);
        if let Some(quoted) = quoted
            && self.deeper()
        {
            self.add("about ");
            self.ip(quoted);
        }
    }

    /// RFC 4443; an error's quotation is the next level.
    fn icmpv6(&mut self, facts: &Facts<'_>, packet: &Ipv6<'_>) {
        let Facts { ip, payload } = facts;
        let Ok(icmp) = Icmpv6::parse(payload) else {
            self.add("[truncated]");
            return self.tail(ip);
        };
        let (id, seq) = (icmp.echo_id(), icmp.echo_seq());
        match icmp.kind() {
            Icmpv6Type::DESTINATION_UNREACHABLE => match unreachable(icmp.code()) {
                Some(why) => self.add(why),
                None => self.add(format_args!("unreachable code {}", icmp.code())),
            },
            Icmpv6Type::PACKET_TOO_BIG => self.add(format_args!("packet too big (mtu {})", icmp.word())),
            Icmpv6Type::TIME_EXCEEDED if icmp.code() == icmpv6::CODE_REASSEMBLY_EXCEEDED => {
                self.add("reassembly time exceeded");
            }
            Icmpv6Type::TIME_EXCEEDED => self.add("time exceeded"),
            Icmpv6Type::PARAMETER_PROBLEM => {
                self.add(match icmp.code() {
                    icmpv6::CODE_UNKNOWN_NEXT_HEADER => "unknown next header",
                    icmpv6::CODE_UNKNOWN_OPTION => "unknown option",
                    _ => "parameter problem",
                });
                self.add(format_args!(" (at byte {})", icmp.word()));
            }
            Icmpv6Type::ECHO_REQUEST => self.add(format_args!("echo request id {id} seq {seq}")),
            Icmpv6Type::ECHO_REPLY => self.add(format_args!("echo reply id {id} seq {seq}")),
            Icmpv6Type::LISTENER_QUERY => self.add("listener query"),
            Icmpv6Type::LISTENER_REPORT | Icmpv6Type::LISTENER_REPORT_V2 => self.add("listener report"),
            Icmpv6Type::LISTENER_DONE => self.add("listener done"),
            Icmpv6Type::ROUTER_SOLICITATION => self.add("router solicitation"),
            Icmpv6Type::ROUTER_ADVERTISEMENT => self.add("router advertisement"),
            Icmpv6Type::NEIGHBOR_SOLICITATION => self.solicitation(&icmp, packet),
            Icmpv6Type::NEIGHBOR_ADVERTISEMENT => self.advertisement(&icmp),
            Icmpv6Type::REDIRECT => self.add("redirect"),
            kind => self.add(format_args!("type {} code {}", kind.0, icmp.code())),
        }
        self.tail(ip);
        if icmp.kind().is_error() && self.deeper() {
            self.add("about ");
            self.ip(icmp.payload());
        }
    }

    /// RFC 4861 4.3.
    fn solicitation(&mut self, icmp: &Icmpv6<'_>, packet: &Ipv6<'_>) {
        let asks = match NeighborSolicitation::parse(icmp) {
            Ok(asks) => asks,
            Err(error) => return self.add(format_args!("neighbour solicitation [{error}]")),
        };
        match (packet.src().is_unspecified(), asks.source_link) {
            (true, _) => self.add(format_args!("is {} free", asks.target)),
            (false, Some(mac)) => self.add(format_args!("who-has {} tell {mac}", asks.target)),
            (false, None) => self.add(format_args!("who-has {}", asks.target)),
        }
    }

    /// RFC 4861 4.4.
    fn advertisement(&mut self, icmp: &Icmpv6<'_>) {
        let tells = match NeighborAdvertisement::parse(icmp) {
            Ok(tells) => tells,
            Err(error) => return self.add(format_args!("neighbour advertisement [{error}]")),
        };
        match tells.target_link {
            Some(mac) => self.add(format_args!("{} is-at {mac}", tells.target)),
            None => self.add(format_args!("{} is here", tells.target)),
        }
        let flags =
            [(tells.router, " router"), (tells.solicited, " solicited"), (tells.overrides, " override")];
        flags.iter().filter(|(set, _)| *set).for_each(|(_, name)| self.add(name));
    }
}

/// RFC 4443 3.1.
fn unreachable(code: u8) -> Option<&'static str> {
    Some(match code {
        icmpv6::CODE_NO_ROUTE => "no route",
        icmpv6::CODE_PROHIBITED => "prohibited",
        icmpv6::CODE_BEYOND_SCOPE => "beyond scope of source",
        icmpv6::CODE_ADDRESS_UNREACHABLE => "address unreachable",
        icmpv6::CODE_PORT_UNREACHABLE => "port unreachable",
        icmpv6::CODE_SOURCE_POLICY => "source not allowed",
        icmpv6::CODE_REJECT_ROUTE => "route says to refuse",
        _ => return None,
    })
}

#[cfg(test)]
#[path = "dissect_tests.rs"]
mod tests;
