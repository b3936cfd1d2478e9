//! ICMP errors about this node's tunnel packets: which packet, which tunnel, what it means (RFC 2003 4).
//!
//! Anyone can forge an error (RFC 5927). What is believed must quote a packet that this node sends: from its address,
//! into a tunnel to a peer, in the encapsulation of that tunnel, and around an inner packet that the FIB would take that
//! way. Nothing here changes anything.

use std::net::IpAddr;
use std::ops::Range;

use crate::dataplane::paths::Fault;
use crate::fib::{Action, Encapsulation, Fib, LEAST_MTU, Tunnel, TunnelId, VxlanHeader};
use crate::verdict::DropReason;
use crate::wire::ethernet::{EtherType, Ethernet};
use crate::wire::flow::FIRST_DYNAMIC_PORT;
use crate::wire::icmpv4::{self, Icmpv4, Icmpv4Type};
use crate::wire::ipv4::Ipv4;
use crate::wire::vxlan::Vxlan;
use crate::wire::{Malformed, Protocol, checksum, udp};

use super::icmp::Error;

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

/// Reads an IPv4 packet that the kernel received.
///
/// # Errors
/// Why it is not believed.
pub fn read(fib: &Fib, packet: &[u8]) -> Result<Report, DropReason> {
    let ip = Ipv4::parse(packet)?;
    let message = match Icmpv4::parse(ip.payload()) {
        Ok(message) if ip.protocol() == Protocol::ICMP && !ip.is_fragment() && message.verify() => message,
        _ => return Err(DropReason::TunnelErrorMalformed),
    };
    if !message.kind().is_error() || IpAddr::V4(ip.dst()) != fib.node().address {
        return Err(DropReason::TunnelErrorForeign);
    }
    let outer = Ipv4::parse_quoted(message.payload()).map_err(|_| DropReason::TunnelErrorMalformed)?;
    if IpAddr::V4(outer.src()) != fib.node().address || outer.is_later_fragment() {
        return Err(DropReason::TunnelErrorForeign);
    }
    let (id, tunnel) = quoted_tunnel(fib, &outer)?;
    let inner = quoted_inner(fib, tunnel, outer.payload())?;
    if inner.is_some_and(|inner| !would_take(fib, tunnel, &inner)) {
        return Err(DropReason::TunnelErrorForged);
    }
    // Where the inner header begins and ends in the quote.
    let start = outer.header_len() + headers_len(tunnel);
    let header = inner.map(|inner| start..start + inner.header_len());
    let (news, relay) = meaning(tunnel, &outer, &message, header)?;
    let at = ip.header_len() + icmpv4::HEADER_LEN + start;
    let inner = inner.map(|inner| at..at + inner.packet().len());
    Ok(Report { tunnel: id, news, relay, inner })
}

/// The tunnel that the quoted packet was sent into.
fn quoted_tunnel<'a>(fib: &'a Fib, outer: &Ipv4<'_>) -> Result<(TunnelId, &'a Tunnel), DropReason> {
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
    // Asked first: strangers cost one lookup.
    fib.peer_at(outer.dst()).ok_or(DropReason::TunnelErrorForeign)?;
    let remote = IpAddr::V4(outer.dst());
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

/// The inner packet as far as it is quoted; `None` when the quote ends before its payload.
fn quoted_inner<'a>(fib: &Fib, tunnel: &Tunnel, payload: &'a [u8]) -> Result<Option<Ipv4<'a>>, DropReason> {
    let Some(bytes) = payload.get(headers_len(tunnel)..) else { return Ok(None) };
    if let Encapsulation::Vxlan(_) = tunnel.encapsulation {
        let forged = |_| DropReason::TunnelErrorForged;
        let vxlan = Vxlan::parse(&payload[udp::HEADER_LEN..]).map_err(forged)?;
        let ethernet = Ethernet::parse(vxlan.payload()).map_err(forged)?;
        if vxlan.vni() != fib.node().vni
            || ethernet.src() != fib.node().vtep_mac
            || ethernet.ethertype() != EtherType::IPV4
        {
            return Err(DropReason::TunnelErrorForged);
        }
    }
    // No router changes what a tunnel carries.
    match Ipv4::parse_quoted(bytes) {
        Ok(inner) if checksum::sum(inner.header()).is_right() => Ok(Some(inner)),
        Err(Malformed::Ipv4Truncated) => Ok(None),
        Ok(_) | Err(_) => Err(DropReason::TunnelErrorForged),
    }
}

/// Whether this node sends such a packet into that tunnel: from a workload or its kernel, to where the FIB says so, or
/// to the peer itself, as probes are.
fn would_take(fib: &Fib, tunnel: &Tunnel, inner: &Ipv4<'_>) -> bool {
    let from_here =
        matches!(fib.lookup(inner.src()), Action::Deliver(_) | Action::Host) || fib.is_local(inner.src());
    let to_there = match fib.lookup(inner.dst()) {
        // There may be two alike, for pools whose settings differ.
        Action::Tunnel(id) => is_alike(fib.tunnel(id), tunnel),
        _ => IpAddr::V4(inner.dst()) == tunnel.remote,
    };
    from_here && to_there
}

/// RFC 2003 4, and RFC 1812 5.2.7.1 for the codes that are younger.
fn meaning(
    tunnel: &Tunnel,
    outer: &Ipv4<'_>,
    message: &Icmpv4<'_>,
    inner_header: Option<Range<usize>>,
) -> Result<(Option<News>, Option<Relay>), DropReason> {
    let fault = |fault| Some(News::Fault(fault));
    let net = Some(Relay::As(Error::NetUnreachable));
    let host = Some(Relay::As(Error::HostUnreachable));
    Ok(match (message.kind(), message.code()) {
        (Icmpv4Type::DESTINATION_UNREACHABLE, icmpv4::CODE_FRAGMENTATION_NEEDED) => {
            let mtu = believable_mtu(tunnel, outer, message.next_hop_mtu())?;
            (Some(News::PathMtu(mtu)), Some(Relay::TunnelMtu))
        }
        (Icmpv4Type::DESTINATION_UNREACHABLE, code) => match code {
            // 4.1: the sender knows nothing of protocol 4.
            icmpv4::CODE_PROTOCOL_UNREACHABLE => (fault(Fault::ProtocolUnreachable), net),
            // 4.1: nor of the port.
            icmpv4::CODE_PORT_UNREACHABLE => (fault(Fault::PortUnreachable), None),
            // Net unknown, prohibited, unreachable for the TOS.
            icmpv4::CODE_NET_UNREACHABLE | 6 | 9 | 11 => (fault(Fault::NetUnreachable), net),
            // Host unknown, isolated, prohibited, unreachable for the TOS; a filter.
            icmpv4::CODE_HOST_UNREACHABLE | 7 | 8 | 10 | 12..=15 => (fault(Fault::HostUnreachable), host),
            // 4.1: source route failed, and what has no meaning.
            _ => (None, None),
        },
        // 4.4. With missing fragments, or a TTL that the inner sender chose, the way is none the worse.
        (Icmpv4Type::TIME_EXCEEDED, icmpv4::CODE_TTL_EXCEEDED) if !inherits_ttl(tunnel) => {
            (fault(Fault::TimeExceeded), host)
        }
        (Icmpv4Type::TIME_EXCEEDED, _) => (None, host),
        // 4.5: what stands in front of the inner header is not the sender's.
        (Icmpv4Type::PARAMETER_PROBLEM, 0) => {
            let pointer = message.rest()[0];
            let inside = inner_header.filter(|header| header.contains(&usize::from(pointer)));
            let relay = inside.map(|header| Error::ParameterProblem(pointer - header.start as u8));
            (None, relay.map(Relay::As))
        }
        // 4.2, 4.3: source quench and redirect.
        _ => (None, None),
    })
}

fn is_alike(a: &Tunnel, b: &Tunnel) -> bool {
    a.remote == b.remote
        && std::mem::discriminant(&a.encapsulation) == std::mem::discriminant(&b.encapsulation)
}

fn inherits_ttl(tunnel: &Tunnel) -> bool {
    matches!(&tunnel.encapsulation, Encapsulation::Ipip(header) if header.inherits_ttl())
}

/// M7 (RFC 1191 3, RFC 5927 7): a router asks for smaller packets only if it could not split this one, of a size
/// that every link takes at least, and that is less than what was sent.
fn believable_mtu(tunnel: &Tunnel, outer: &Ipv4<'_>, mtu: u16) -> Result<u16, DropReason> {
    if !outer.dont_fragment() {
        return Err(DropReason::TunnelErrorForged);
    }
    let sent = outer.total_len().min(usize::from(tunnel.full_mtu()) + usize::from(tunnel.overhead()));
    if mtu < LEAST_MTU || usize::from(mtu) >= sent {
        return Err(DropReason::TunnelErrorMtu);
    }
    Ok(mtu)
}
