//! What one parse of a packet found, in a form that outlives the borrow of its bytes.

use std::net::Ipv4Addr;

use crate::buf::{MAX_SEGMENTS, Offload, Segmentation, Segments};
use crate::verdict::DropReason;
use crate::wire::ecn::Ecn;
use crate::wire::flow::Flow;
use crate::wire::ipv4::Ipv4;
use crate::wire::transport::Transport;
use crate::wire::{Malformed, Protocol};

/// An IPv4 packet that parsed.
#[derive(Debug, Clone, Copy)]
pub struct Packet {
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// Total length, bytes.
    pub len: u16,
    /// Header length, bytes.
    pub header_len: u8,
    /// Time to live as received.
    pub ttl: u8,
    /// What it carries.
    pub protocol: Protocol,
    /// ECN field.
    pub ecn: Ecn,
    /// DF.
    pub dont_fragment: bool,
    /// A fragment, be it the first.
    pub is_fragment: bool,
    /// What its flow is.
    pub flow: Flow,
}

impl Packet {
    /// Parses the packet at the start of `bytes`.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        Ok(Self::of(&Ipv4::parse(bytes)?))
    }

    /// The facts of a view.
    #[inline(always)]
    pub fn of(ip: &Ipv4<'_>) -> Self {
        Packet {
            src: ip.src(),
            dst: ip.dst(),
            // Both come from fields of 16 and 6 bits.
            len: ip.total_len() as u16,
            header_len: ip.header_len() as u8,
            ttl: ip.ttl(),
            protocol: ip.protocol(),
            ecn: ip.ecn(),
            dont_fragment: ip.dont_fragment(),
            is_fragment: ip.is_fragment(),
            flow: Flow::of(ip),
        }
    }
}

/// Checks what a virtio-net header says against the packet that it describes; later steps rely on it.
///
/// # Errors
/// [`DropReason::OffloadMalformed`].
pub fn check_offload(ip: &Ipv4<'_>, offload: Offload) -> Result<(), DropReason> {
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
        Segmentation::TcpV4 | Segmentation::TcpV4Ecn => transport.protocol == Protocol::TCP,
        Segmentation::UdpV4 => transport.protocol == Protocol::UDP,
    };
    let payload = ip.payload().len() - usize::from(transport.header_len);
    if !matches || segments.size == 0 || payload.div_ceil(usize::from(segments.size)) > MAX_SEGMENTS {
        return Err(DropReason::OffloadMalformed);
    }
    Ok(())
}

/// IP length of the segments of a super-frame that [`check_offload`] accepted, the last one aside.
pub fn segment_len(ip: &Ipv4<'_>, segments: Segments) -> usize {
    let transport = Transport::parse(ip).map_or(0, |transport| usize::from(transport.header_len));
    let headers = ip.header_len() + transport;
    headers + usize::from(segments.size).min(ip.total_len() - headers)
}
