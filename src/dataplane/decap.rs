//! Out of a tunnel: check the outer headers, strip them, carry congestion marks inwards.

use std::net::IpAddr;

use super::packet::Packet;
use crate::buf::{Frame, PartialChecksum, Pool, Segmentation, Segments};
use crate::fib::{Fib, VxlanHeader};
use crate::verdict::{Anomaly, DropReason};
use crate::wire::ethernet::{EtherType, Ethernet};
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::transport::Transport;
use crate::wire::vxlan::Vxlan;
use crate::wire::{Ecn, Protocol, checksum, ecn};

/// What a tunnel socket receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An outer IPv4 packet of protocol 4.
    Ipip,
    /// The payload of a UDP datagram; outer addresses and ECN stand in the frame.
    Vxlan,
}

/// What came out of a tunnel.
#[derive(Debug, Clone, Copy)]
pub struct Decapsulated {
    /// The inner packet.
    pub packet: Packet,
    /// What is wrong with it, although it goes on.
    pub anomaly: Option<Anomaly>,
}

/// Strips the outer headers. What remains is the inner IPv4 packet, whole and trimmed, its ECN field set.
#[inline(always)]
pub fn decapsulate(
    fib: &Fib,
    kind: Kind,
    pool: &mut Pool,
    frame: &mut Frame,
) -> Result<Decapsulated, DropReason> {
    let bytes = pool.bytes(frame);
    let (outer_ecn, stripped) = match kind {
        Kind::Ipip => {
            let outer = Ipv4::parse(bytes)?;
            if IpAddr::V4(outer.dst()) != fib.node().address {
                return Err(DropReason::OuterDestination);
            }
            // M10: the kernel reassembles for a raw socket. A piece would be taken for a whole packet.
            if outer.is_fragment() {
                return Err(DropReason::OuterFragment);
            }
            if outer.protocol() != Protocol::IPIP {
                return Err(DropReason::InnerNotIpv4);
            }
            // I10: what follows the outer total length is no part of the packet.
            frame.truncate(outer.total_len());
            (outer.ecn(), outer.header_len())
        }
        Kind::Vxlan => {
            strip_vxlan(fib, bytes)?;
            (frame.ecn, VxlanHeader::LEN)
        }
    };
    frame.strip(stripped);

    let ip = Ipv4::parse(pool.bytes(frame))?;
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
fn carry_mark(outer: Ecn, ip: &mut [u8], packet: &mut Packet) -> Result<Option<Anomaly>, DropReason> {
    let marked = ecn::decapsulate(outer, packet.ecn).map_err(|_| DropReason::EcnCongestionLost)?;
    let anomaly = ecn::is_dangerous(outer, packet.ecn).then_some(match packet.ecn {
        Ecn::Ce => Anomaly::EcnEct1OverCe,
        _ => Anomaly::EcnOverNotEct,
    });
    if marked != packet.ecn {
        ipv4::set_ecn(ip, marked);
        packet.ecn = marked;
    }
    Ok(anomaly)
}

/// VXLAN as Calico's device takes it, but for reserved bits: RFC 7348 5 says to ignore them.
#[inline(always)]
fn strip_vxlan(fib: &Fib, bytes: &[u8]) -> Result<(), DropReason> {
    let vxlan = Vxlan::parse(bytes)?;
    if vxlan.vni() != fib.node().vni {
        return Err(DropReason::VxlanUnknownVni);
    }
    let ethernet = Ethernet::parse(vxlan.payload()).map_err(|_| DropReason::VxlanTruncated)?;
    if ethernet.dst() != fib.node().vtep_mac || ethernet.src() == fib.node().vtep_mac {
        return Err(DropReason::VxlanInnerMac);
    }
    if ethernet.ethertype() != EtherType::IPV4 {
        return Err(DropReason::InnerNotIpv4);
    }
    Ok(())
}

/// Finds out whether a peer left the transport checksum undone, for no header tells: a kernel's tunnel device
/// over a virtual underlay sends inner packets with the pseudo-header's sum only.
#[inline(always)]
fn recognise_checksum(ip: &Ipv4<'_>) -> Option<PartialChecksum> {
    let field = match ip.protocol() {
        Protocol::TCP => 16,
        Protocol::UDP => 6,
        _ => return None,
    };
    let payload = ip.payload();
    let value = u16::from_be_bytes(*payload.get(field..)?.first_chunk()?);
    let (src, dst) = (IpAddr::V4(ip.src()), IpAddr::V4(ip.dst()));
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
pub fn recognise_segments(packet: &[u8], mtu: u16) -> Option<Segments> {
    let ip = Ipv4::parse(packet).ok()?;
    let transport = Transport::parse(&ip)?;
    let headers = ip.header_len() as u16 + transport.header_len;
    let is_super = transport.protocol == Protocol::TCP && ip.total_len() > usize::from(mtu) && headers < mtu;
    is_super.then(|| Segments { kind: Segmentation::TcpV4, size: mtu - headers })
}
