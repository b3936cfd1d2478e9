//! Out of a tunnel: check the outer headers, strip them, carry congestion marks inwards.

use std::net::IpAddr;

use super::packet::Packet;
use crate::buf::{Frame, PartialChecksum, Pool, Segmentation, Segments};
use crate::fib::{Fib, VxlanHeader};
use crate::verdict::{Anomaly, DropReason};
use crate::wire::ethernet::{EtherType, Ethernet};
use crate::wire::ip::{Address, View};
use crate::wire::ipv4::Ipv4;
use crate::wire::transport::Transport;
use crate::wire::vxlan::Vxlan;
use crate::wire::{Ecn, Family, Protocol, checksum, ecn};

/// What a tunnel socket receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An outer IPv4 packet of protocol 4.
    Ipip,
    /// The payload of a UDP datagram; outer source and ECN stand in the frame.
    Vxlan,
}

/// What came out of a tunnel.
#[derive(Debug, Clone, Copy)]
pub struct Decapsulated<A> {
    /// The inner packet.
    pub packet: Packet<A>,
    /// What is wrong with it, although it goes on.
    pub anomaly: Option<Anomaly>,
}

/// Strips the outer headers of what a tunnel socket received, which says what is behind them: the family, and the outer
/// ECN field.
#[inline(always)]
pub fn strip(fib: &Fib, kind: Kind, pool: &Pool, frame: &mut Frame) -> Result<(Family, Ecn), DropReason> {
    let bytes = pool.bytes(frame);
    match kind {
        Kind::Ipip => {
            let outer = Ipv4::parse(bytes)?;
            if Some(IpAddr::V4(outer.dst())) != fib.node().underlay(Family::V4) {
                return Err(DropReason::OuterDestination);
            }
            // M10: the kernel reassembles for a raw socket. A piece would be taken for a whole packet.
            if outer.is_fragment() {
                return Err(DropReason::OuterFragment);
            }
            if outer.protocol() != Protocol::IPIP {
                return Err(DropReason::InnerNotIp);
            }
            let (outer_ecn, len, header_len) = (outer.ecn(), outer.total_len(), outer.header_len());
            // I10: what follows the outer total length is no part of the packet.
            frame.truncate(len);
            frame.strip(header_len);
            Ok((Family::V4, outer_ecn))
        }
        Kind::Vxlan => {
            let family = vxlan_family(fib, Family::of(frame.peer), bytes)?;
            frame.strip(VxlanHeader::LEN);
            Ok((family, frame.ecn))
        }
    }
}

/// Takes the inner packet of a frame whose outer headers are gone: whole and trimmed, its ECN field set.
#[inline(always)]
pub fn inner<A: Address>(
    outer_ecn: Ecn,
    pool: &mut Pool,
    frame: &mut Frame,
) -> Result<Decapsulated<A>, DropReason> {
    let ip = A::View::parse(pool.bytes(frame))?;
    let mut packet = Packet::of(&ip);
    frame.offload.checksum = recognise_checksum(&ip);
    frame.truncate(usize::from(packet.len));
    let mut anomaly = None;
    if outer_ecn != packet.ecn {
        anomaly = carry_mark(outer_ecn, pool.bytes_mut(frame), &mut packet)?;
    }
    Ok(Decapsulated { packet, anomaly })
}

/// The outer header says otherwise than the inner one (RFC 6040 4.2): the inner one follows it, or does not.
fn carry_mark<A: Address>(
    outer: Ecn,
    ip: &mut [u8],
    packet: &mut Packet<A>,
) -> Result<Option<Anomaly>, DropReason> {
    let marked = ecn::decapsulate(outer, packet.ecn).map_err(|_| DropReason::EcnCongestionLost)?;
    let anomaly = ecn::is_dangerous(outer, packet.ecn).then_some(match packet.ecn {
        Ecn::Ce => Anomaly::EcnEct1OverCe,
        _ => Anomaly::EcnOverNotEct,
    });
    if marked != packet.ecn {
        A::set_ecn(ip, marked);
        packet.ecn = marked;
    }
    Ok(anomaly)
}

/// VXLAN as Calico's device takes it, but for reserved bits: RFC 7348 5 says to ignore them. Says what is inside.
#[inline(always)]
fn vxlan_family(fib: &Fib, underlay: Family, bytes: &[u8]) -> Result<Family, DropReason> {
    let vxlan = Vxlan::parse(bytes)?;
    if vxlan.vni() != fib.node().vni {
        return Err(DropReason::VxlanUnknownVni);
    }
    let ethernet = Ethernet::parse(vxlan.payload()).map_err(|_| DropReason::VxlanTruncated)?;
    let own = fib.node().vtep_mac(underlay);
    if ethernet.dst() != own || ethernet.src() == own {
        return Err(DropReason::VxlanInnerMac);
    }
    match ethernet.ethertype() {
        EtherType::IPV4 => Ok(Family::V4),
        EtherType::IPV6 => Ok(Family::V6),
        _ => Err(DropReason::InnerNotIp),
    }
}

/// Finds out whether a peer left the transport checksum undone, for no header tells: a kernel's tunnel device
/// over a virtual underlay sends inner packets with the pseudo-header's sum only.
#[inline(always)]
fn recognise_checksum<'a>(ip: &impl View<'a>) -> Option<PartialChecksum> {
    // No branch between the two: nobody can guess which one comes next.
    let (is_tcp, is_udp) = (ip.protocol() == Protocol::TCP, ip.protocol() == Protocol::UDP);
    if !(is_tcp | is_udp) {
        return None;
    }
    let field = 6 + 10 * usize::from(is_tcp);
    let payload = ip.payload();
    let value = u16::from_be_bytes(*payload.get(field..)?.first_chunk()?);
    let (src, dst) = (ip.src().into(), ip.dst().into());
    if !checksum::is_partial(value, src, dst, ip.protocol(), payload.len()) {
        return None;
    }
    // Only what has a transport header has a checksum to finish; hardly any packet comes as far as here.
    let transport = Transport::parse(ip)?;
    // A header length is 60 at most.
    Some(PartialChecksum { start: ip.header_len() as u16, field: transport.checksum_field() })
}

/// The same kernel sends super-frames that nobody cut: a packet of TCP larger than `mtu`, that of the
/// interface that it leaves by, is one.
#[cold]
pub fn recognise_segments<A: Address>(packet: &[u8], mtu: u16) -> Option<Segments> {
    let ip = A::View::parse(packet).ok()?;
    let transport = Transport::parse(&ip)?;
    let headers = ip.header_len() as u16 + transport.header_len;
    let is_super = transport.protocol == Protocol::TCP && ip.total_len() > usize::from(mtu) && headers < mtu;
    is_super.then(|| Segments { kind: Segmentation::Tcp, size: mtu - headers })
}
