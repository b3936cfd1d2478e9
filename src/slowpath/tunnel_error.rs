//! ICMP errors about this node's tunnel packets: which packet, which tunnel, what it means (RFC 2003 4, RFC 2473 8).
//!
//! Anyone can forge an error (RFC 5927). What is believed must quote a packet that this node sends: from its address,
//! into a tunnel to a peer, in the encapsulation of that tunnel, and around an inner packet that the FIB would take that
//! way. Nothing here changes anything.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use crate::dataplane::paths::Fault;
use crate::fib::{Action, Encapsulation, Fib, LEAST_MTU, Tunnel, TunnelId, VxlanHeader};
use crate::verdict::DropReason;
use crate::wire::ethernet::{EtherType, Ethernet};
use crate::wire::flow::FIRST_DYNAMIC_PORT;
use crate::wire::ip::View;
use crate::wire::vxlan::Vxlan;
use crate::wire::{
    Family, Icmpv4, Icmpv4Type, Icmpv6, Icmpv6Type, Ipv4, Ipv6, Malformed, Protocol, checksum, icmpv4,
    icmpv6, ipv6, udp,
};

use super::icmp::{Control, Error};

/// What an error says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The tunnel that its quote was sent into.
    pub tunnel: TunnelId,
    /// What it says of the way to the peer.
    pub news: Option<News>,
    /// What the inner sender is to be told (RFC 2003 4.1 to 4.5), if anything.
    pub relay: Option<Relay>,
    /// What is quoted of the inner packet: its place in the packet that was read. `None` when the quote is too short for
    /// its header.
    pub inner: Option<Range<usize>>,
}

/// News of the way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// It takes outer packets of so many bytes.
    PathMtu(u16),
    /// It is broken.
    Fault(Fault),
}

/// What the inner sender is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relay {
    /// The MTU of the tunnel, as it is then.
    TunnelMtu,
    /// This.
    As(Error),
}

/// Reads a packet that the kernel received on an underlay.
///
/// # Errors
/// Why it is not believed.
pub fn read(fib: &Fib, packet: &[u8]) -> Result<Report, DropReason> {
    match Family::of_packet(packet) {
        Some(Family::V6) => read_of::<Ipv6Addr>(fib, packet),
        _ => read_of::<Ipv4Addr>(fib, packet),
    }
}

fn read_of<A: Underlay>(fib: &Fib, packet: &[u8]) -> Result<Report, DropReason> {
    let ip = A::View::parse(packet)?;
    if ip.protocol() != A::ICMP || ip.is_fragment() {
        return Err(DropReason::TunnelErrorMalformed);
    }
    let message = A::message(ip.src(), ip.dst(), ip.payload()).ok_or(DropReason::TunnelErrorMalformed)?;
    if !message.is_error || Some(ip.dst().into()) != fib.node().underlay(A::FAMILY) {
        return Err(DropReason::TunnelErrorForeign);
    }
    let outer = A::View::parse_quoted(message.quoted).map_err(|_| DropReason::TunnelErrorMalformed)?;
    if Some(outer.src().into()) != fib.node().underlay(A::FAMILY) || outer.is_later_fragment() {
        return Err(DropReason::TunnelErrorForeign);
    }
    let (id, tunnel) = quoted_tunnel(fib, &outer)?;
    let inner = quoted_inner(fib, tunnel, outer.payload())?;
    if inner.is_some_and(|inner| !would_take(fib, tunnel, inner)) {
        return Err(DropReason::TunnelErrorForged);
    }
    // Where the inner header begins and ends in the quote.
    let start = outer.header_len() + headers_len(tunnel);
    let header = inner.map(|inner| start..start + inner.header_len);
    let (news, relay) = A::meaning(tunnel, &outer, &message, header)?;
    let at = ip.header_len() + MESSAGE_HEADER_LEN + start;
    let inner = inner.map(|inner| at..at + inner.len);
    Ok(Report { tunnel: id, news, relay, inner })
}

/// What stands in front of a quote, in either family.
const MESSAGE_HEADER_LEN: usize = icmpv4::HEADER_LEN;
const _: () = assert!(MESSAGE_HEADER_LEN == icmpv6::HEADER_LEN);

/// A control message of either family, whose checksum is right.
struct Message<'a> {
    is_error: bool,
    kind: u8,
    code: u8,
    rest: [u8; 4],
    quoted: &'a [u8],
}

/// What errors of a family say of an underlay.
trait Underlay: Control {
    /// The message that a packet carries; `None` if it is damaged.
    fn message(src: Self, dst: Self, payload: &[u8]) -> Option<Message<'_>>;

    /// What an error says about `outer`, of `tunnel`, whose inner header stands there in the quote.
    fn meaning(
        tunnel: &Tunnel,
        outer: &Self::View<'_>,
        message: &Message<'_>,
        inner_header: Option<Range<usize>>,
    ) -> Result<(Option<News>, Option<Relay>), DropReason>;
}

/// The tunnel that the quoted packet was sent into.
fn quoted_tunnel<'a, 'b, V: View<'b>>(fib: &'a Fib, outer: &V) -> Result<(TunnelId, &'a Tunnel), DropReason> {
    let is_ipip = match (outer.protocol(), outer.payload()) {
        (Protocol::IPIP, _) => true,
        (Protocol::UDP, [a, b, c, d, ..]) => {
            let (src, dst) = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
            if src < FIRST_DYNAMIC_PORT || dst != fib.node().vxlan_port {
                return Err(DropReason::TunnelErrorForeign);
            }
            false
        }
        _ => return Err(DropReason::TunnelErrorForeign),
    };
    let remote = outer.dst().into();
    // Asked first: strangers cost one lookup.
    fib.peer_at(remote).ok_or(DropReason::TunnelErrorForeign)?;
    let is_it = |tunnel: &Tunnel| {
        tunnel.remote == remote && is_ipip == matches!(tunnel.encapsulation, Encapsulation::Ipip(_))
    };
    let found = fib.tunnels().find(|(_, tunnel)| is_it(tunnel));
    found.ok_or(DropReason::TunnelErrorForeign)
}

/// Bytes between the outer header and the inner one.
fn headers_len(tunnel: &Tunnel) -> usize {
    match tunnel.encapsulation {
        Encapsulation::Ipip(_) => 0,
        Encapsulation::Vxlan(_) => udp::HEADER_LEN + VxlanHeader::LEN,
    }
}

/// What a quote has of an inner packet.
#[derive(Debug, Clone, Copy)]
struct Inner {
    src: IpAddr,
    dst: IpAddr,
    header_len: usize,
    /// Bytes that are quoted.
    len: usize,
}

impl Inner {
    fn of<'a, V: View<'a>>(ip: &V) -> Self {
        let (src, dst) = (ip.src().into(), ip.dst().into());
        Inner { src, dst, header_len: ip.header_len(), len: ip.packet().len() }
    }
}

/// The inner packet as far as it is quoted; `None` when the quote ends before its payload.
fn quoted_inner(fib: &Fib, tunnel: &Tunnel, payload: &[u8]) -> Result<Option<Inner>, DropReason> {
    let Some(bytes) = payload.get(headers_len(tunnel)..) else { return Ok(None) };
    let mut family = Family::V4;
    if let Encapsulation::Vxlan(_) = tunnel.encapsulation {
        let forged = |_| DropReason::TunnelErrorForged;
        let vxlan = Vxlan::parse(&payload[udp::HEADER_LEN..]).map_err(forged)?;
        let ethernet = Ethernet::parse(vxlan.payload()).map_err(forged)?;
        if vxlan.vni() != fib.node().vni || ethernet.src() != fib.node().vtep_mac(Family::of(tunnel.remote)) {
            return Err(DropReason::TunnelErrorForged);
        }
        family = match ethernet.ethertype() {
            EtherType::IPV4 => Family::V4,
            EtherType::IPV6 => Family::V6,
            _ => return Err(DropReason::TunnelErrorForged),
        };
    }
    let inner = match family {
        // No router changes what a tunnel carries.
        Family::V4 => {
            Ipv4::parse_quoted(bytes).map(|ip| checksum::sum(ip.header()).is_right().then(|| Inner::of(&ip)))
        }
        Family::V6 => Ipv6::parse_quoted(bytes).map(|ip| Some(Inner::of(&ip))),
    };
    match inner {
        Ok(Some(inner)) => Ok(Some(inner)),
        Err(Malformed::Ipv4Truncated | Malformed::Ipv6Truncated) => Ok(None),
        Ok(None) | Err(_) => Err(DropReason::TunnelErrorForged),
    }
}

/// Whether this node sends such a packet into that tunnel: from a workload or its kernel, to where the FIB says so, or
/// to the peer itself, as probes are.
fn would_take(fib: &Fib, tunnel: &Tunnel, inner: Inner) -> bool {
    let is_local = match inner.src {
        IpAddr::V4(src) => fib.is_local(src),
        IpAddr::V6(src) => fib.is_local(src),
    };
    let from_here = matches!(fib.lookup_any(inner.src), Action::Deliver(_) | Action::Host) || is_local;
    let to_there = match fib.lookup_any(inner.dst) {
        // There may be two alike, for pools whose settings differ.
        Action::Tunnel(id) => is_alike(fib.tunnel(id), tunnel),
        _ => inner.dst == tunnel.remote,
    };
    from_here && to_there
}

const NET: Option<Relay> = Some(Relay::As(Error::NetUnreachable));
const HOST: Option<Relay> = Some(Relay::As(Error::HostUnreachable));

const fn fault(fault: Fault) -> Option<News> {
    Some(News::Fault(fault))
}

/// RFC 2003 4, and RFC 1812 5.2.7.1 for the codes that are younger.
impl Underlay for Ipv4Addr {
    fn message(_: Self, _: Self, payload: &[u8]) -> Option<Message<'_>> {
        let message = Icmpv4::parse(payload).ok().filter(Icmpv4::verify)?;
        let (kind, code, rest) = (message.kind(), message.code(), message.rest());
        Some(Message { is_error: kind.is_error(), kind: kind.0, code, rest, quoted: message.payload() })
    }

    fn meaning(
        tunnel: &Tunnel,
        outer: &Ipv4<'_>,
        message: &Message<'_>,
        inner_header: Option<Range<usize>>,
    ) -> Result<(Option<News>, Option<Relay>), DropReason> {
        Ok(match (Icmpv4Type(message.kind), message.code) {
            (Icmpv4Type::DESTINATION_UNREACHABLE, icmpv4::CODE_FRAGMENTATION_NEEDED) => {
                let [_, _, high, low] = message.rest;
                let mtu = believable_mtu(tunnel, outer, u16::from_be_bytes([high, low]), LEAST_MTU)?;
                (Some(News::PathMtu(mtu)), Some(Relay::TunnelMtu))
            }
            (Icmpv4Type::DESTINATION_UNREACHABLE, code) => match code {
                // 4.1: the sender knows nothing of protocol 4.
                icmpv4::CODE_PROTOCOL_UNREACHABLE => (fault(Fault::ProtocolUnreachable), NET),
                // 4.1: nor of the port.
                icmpv4::CODE_PORT_UNREACHABLE => (fault(Fault::PortUnreachable), None),
                // Net unknown, prohibited, unreachable for the TOS.
                icmpv4::CODE_NET_UNREACHABLE | 6 | 9 | 11 => (fault(Fault::NetUnreachable), NET),
                // Host unknown, isolated, prohibited, unreachable for the TOS; a filter.
                icmpv4::CODE_HOST_UNREACHABLE | 7 | 8 | 10 | 12..=15 => (fault(Fault::HostUnreachable), HOST),
                // 4.1: source route failed, and what has no meaning.
                _ => (None, None),
            },
            // 4.4. With missing fragments, or a TTL that the inner sender chose, the way is none the worse.
            (Icmpv4Type::TIME_EXCEEDED, icmpv4::CODE_TTL_EXCEEDED) if !inherits_ttl(tunnel) => {
                (fault(Fault::TimeExceeded), HOST)
            }
            (Icmpv4Type::TIME_EXCEEDED, _) => (None, HOST),
            // 4.5: what stands in front of the inner header is not the sender's.
            (Icmpv4Type::PARAMETER_PROBLEM, 0) => {
                let pointer = message.rest[0];
                let inside = inner_header.filter(|header| header.contains(&usize::from(pointer)));
                let relay = inside.map(|header| Error::ParameterProblem(pointer - header.start as u8));
                (None, relay.map(Relay::As))
            }
            // 4.2, 4.3: source quench and redirect.
            _ => (None, None),
        })
    }
}

/// RFC 2473 8, with the codes of RFC 4443 3.
impl Underlay for Ipv6Addr {
    fn message(src: Self, dst: Self, payload: &[u8]) -> Option<Message<'_>> {
        let message = Icmpv6::parse(payload).ok().filter(|message| message.verify(src, dst))?;
        let (kind, code, rest) = (message.kind(), message.code(), message.rest());
        Some(Message { is_error: kind.is_error(), kind: kind.0, code, rest, quoted: message.payload() })
    }

    fn meaning(
        tunnel: &Tunnel,
        outer: &Ipv6<'_>,
        message: &Message<'_>,
        _: Option<Range<usize>>,
    ) -> Result<(Option<News>, Option<Relay>), DropReason> {
        Ok(match (Icmpv6Type(message.kind), message.code) {
            (Icmpv6Type::PACKET_TOO_BIG, _) => {
                let mtu = u16::try_from(u32::from_be_bytes(message.rest)).unwrap_or(u16::MAX);
                (
                    Some(News::PathMtu(believable_mtu(tunnel, outer, mtu, ipv6::MIN_MTU)?)),
                    Some(Relay::TunnelMtu),
                )
            }
            (Icmpv6Type::DESTINATION_UNREACHABLE, code) => match code {
                // The peer does not listen for VXLAN.
                icmpv6::CODE_PORT_UNREACHABLE => (fault(Fault::PortUnreachable), None),
                icmpv6::CODE_ADDRESS_UNREACHABLE => (fault(Fault::HostUnreachable), HOST),
                // No route, prohibited, refused by policy or by a reject route.
                icmpv6::CODE_NO_ROUTE
                | icmpv6::CODE_PROHIBITED
                | icmpv6::CODE_SOURCE_POLICY
                | icmpv6::CODE_REJECT_ROUTE => (fault(Fault::NetUnreachable), NET),
                _ => (None, None),
            },
            (Icmpv6Type::TIME_EXCEEDED, icmpv6::CODE_HOP_LIMIT_EXCEEDED) => {
                (fault(Fault::TimeExceeded), HOST)
            }
            (Icmpv6Type::TIME_EXCEEDED, _) => (None, HOST),
            // A parameter problem is one of the outer headers, which the sender has not made.
            _ => (None, None),
        })
    }
}

fn is_alike(a: &Tunnel, b: &Tunnel) -> bool {
    a.remote == b.remote
        && std::mem::discriminant(&a.encapsulation) == std::mem::discriminant(&b.encapsulation)
}

fn inherits_ttl(tunnel: &Tunnel) -> bool {
    matches!(&tunnel.encapsulation, Encapsulation::Ipip(header) if header.inherits_ttl())
}

/// M7 (RFC 1191 3, RFC 8201 4, RFC 5927 7): a router asks for smaller packets only if it could not split this one, of a size
/// that every link takes at least, and that is less than what was sent.
fn believable_mtu<'a, V: View<'a>>(
    tunnel: &Tunnel,
    outer: &V,
    mtu: u16,
    least: u16,
) -> Result<u16, DropReason> {
    if !outer.dont_fragment() {
        return Err(DropReason::TunnelErrorForged);
    }
    let sent = outer.total_len().min(usize::from(tunnel.full_mtu()) + usize::from(tunnel.overhead()));
    if mtu < least || usize::from(mtu) >= sent {
        return Err(DropReason::TunnelErrorMtu);
    }
    Ok(mtu)
}
