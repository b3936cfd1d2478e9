//! What one parse of a packet found, in a form that outlives the borrow of its bytes.

use std::net::IpAddr;

use crate::buf::{MAX_SEGMENTS, Offload, Segmentation, Segments};
use crate::verdict::DropReason;
use crate::wire::ecn::Ecn;
use crate::wire::flow::Flow;
use crate::wire::ip::{Address, View};
use crate::wire::transport::Transport;
use crate::wire::{Family, Ipv4, Ipv6, Malformed, Protocol};

/// A packet of family `A` that parsed.
#[derive(Debug, Clone, Copy)]
pub struct Packet<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Total length, bytes.
    pub len: u16,
    /// Length of the header with what was walked of it, bytes.
    pub header_len: u16,
    /// TTL or hop limit as received.
    pub ttl: u8,
    /// What it carries.
    pub protocol: Protocol,
    /// ECN field.
    pub ecn: Ecn,
    /// No router may fragment it.
    pub dont_fragment: bool,
    /// A fragment, be it the first.
    pub is_fragment: bool,
}

impl<A: Address> Packet<A> {
    /// Parses the packet at the start of `bytes`.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        Ok(Self::of(&A::View::parse(bytes)?))
    }

    /// The facts of a view.
    #[inline(always)]
    pub fn of(ip: &A::View<'_>) -> Self {
        Packet {
            src: ip.src(),
            dst: ip.dst(),
            // A packet has 65,535 bytes at most, its headers are among them.
            len: ip.total_len() as u16,
            header_len: ip.header_len() as u16,
            ttl: ip.hop_limit(),
            protocol: ip.protocol(),
            ecn: ip.ecn(),
            dont_fragment: ip.dont_fragment(),
            is_fragment: ip.is_fragment(),
        }
    }

    /// Which flow it is of; `bytes` begin with it.
    #[inline(always)]
    pub fn flow(&self, bytes: &[u8]) -> Flow {
        let payload = if self.is_fragment { None } else { bytes.get(usize::from(self.header_len)..) };
        Flow::between(self.src, self.dst, self.protocol, payload.unwrap_or_default())
    }
}

/// The source address of the packet that `bytes` are, of whichever family; `None` if they are none. IPv6 has no checksum:
/// that nothing follows it is asked for instead.
pub fn source(bytes: &[u8]) -> Option<IpAddr> {
    match Family::of_packet(bytes)? {
        Family::V4 => Some(Ipv4::parse(bytes).ok()?.src().into()),
        Family::V6 => Some(Ipv6::parse(bytes).ok().filter(|ip| ip.total_len() == bytes.len())?.src().into()),
    }
}

/// The destination address of the packet at the start of `bytes`, of whichever family; `None` if it does not parse.
pub fn destination(bytes: &[u8]) -> Option<IpAddr> {
    match Family::of_packet(bytes)? {
        Family::V4 => Some(Ipv4::parse(bytes).ok()?.dst().into()),
        Family::V6 => Some(Ipv6::parse(bytes).ok()?.dst().into()),
    }
}

/// Checks what a virtio-net header says against the packet that it describes; later steps rely on it.
///
/// # Errors
/// [`DropReason::OffloadMalformed`].
pub fn check_offload<'a>(ip: &impl View<'a>, offload: Offload) -> Result<(), DropReason> {
    if let Some(partial) = offload.checksum {
        let field = usize::from(partial.start) + usize::from(partial.field);
        // Written in place of the ports, it would make others of them than were looked at.
        let ports_end = ip.header_len() + 4;
        let inside = usize::from(partial.start) >= ip.header_len()
            && (ports_end..).contains(&field)
            && field + 2 <= ip.total_len();
        if !inside || ip.is_later_fragment() {
            return Err(DropReason::OffloadMalformed);
        }
    }
    let Some(segments) = offload.segments else { return Ok(()) };
    let transport = Transport::parse(ip).ok_or(DropReason::OffloadMalformed)?;
    let matches = match segments.kind {
        Segmentation::Tcp | Segmentation::TcpEcn => transport.protocol == Protocol::TCP,
        Segmentation::Udp => transport.protocol == Protocol::UDP,
    };
    let payload = ip.payload().len() - usize::from(transport.header_len);
    if !matches || segments.size == 0 || payload.div_ceil(usize::from(segments.size)) > MAX_SEGMENTS {
        return Err(DropReason::OffloadMalformed);
    }
    Ok(())
}

/// IP length of the segments of a super-frame that [`check_offload`] accepted, the last one aside.
pub fn segment_len<'a>(ip: &impl View<'a>, segments: Segments) -> usize {
    let transport = Transport::parse(ip).map_or(0, |transport| usize::from(transport.header_len));
    let headers = ip.header_len() + transport;
    headers + usize::from(segments.size).min(ip.total_len() - headers)
}
