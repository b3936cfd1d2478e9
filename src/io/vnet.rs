//! The virtio-net header in front of a frame (Virtual I/O Device 1.2, 5.1.6; linux/virtio_net.h).
//!
//! ```text
//!  0       1        2        4        6            8             10
//! | flags | gso    | hdr_len | gso    | csum_start | csum_offset |
//! |       | type   |         | size   |            |             |
//! ```
//! Numbers are of the machine's byte order: that is how TUN and packet sockets have them.

use crate::buf::{Offload, PartialChecksum, Segmentation, Segments};
use crate::wire::ipv4::Ipv4;
use crate::wire::transport::Transport;

/// Bytes of the header.
pub const LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// What the header says of a frame whose IP packet begins `l2` bytes after it.
///
/// A header that makes no sense gives [`Offload::IMPOSSIBLE`], which no packet fits.
pub fn decode(header: &[u8; LEN], l2: u16) -> Offload {
    let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let mut offload = Offload::default();
    if header[0] & NEEDS_CSUM != 0 {
        let Some(start) = word(6).checked_sub(l2) else { return Offload::IMPOSSIBLE };
        offload.checksum = Some(PartialChecksum { start, field: word(8) });
    }
    let kind = match header[1] {
        GSO_NONE => return offload,
        GSO_TCPV4 => Segmentation::TcpV4,
        kind if kind == GSO_TCPV4 | GSO_ECN => Segmentation::TcpV4Ecn,
        GSO_UDP_L4 => Segmentation::UdpV4,
        _ => return Offload::IMPOSSIBLE,
    };
    offload.segments = Some(Segments { kind, size: word(4) });
    offload
}

/// The header for a frame of `l2` bytes and the IP packet `ip`.
pub fn encode(offload: Offload, l2: u16, ip: &[u8]) -> [u8; LEN] {
    let headers = || {
        let ip = Ipv4::parse(ip).ok()?;
        Some(l2 + ip.header_len() as u16 + Transport::parse(&ip)?.header_len)
    };
    // Only of a super-frame does the header say how long the others are.
    encode_head(offload, l2, offload.segments.and_then(|_| headers()).unwrap_or(0))
}

/// The header for a frame of `l2` bytes and an IP packet, `headers` bytes with the transport header.
pub fn encode_head(offload: Offload, l2: u16, headers: u16) -> [u8; LEN] {
    let mut header = [0; LEN];
    let mut set = |at: usize, value: u16| header[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    let (mut flags, mut gso) = (0, GSO_NONE);
    if let Some(partial) = offload.checksum {
        flags = NEEDS_CSUM;
        // Past 64 KiB it lies outside of every packet: the kernel refuses such a frame.
        set(6, partial.start.saturating_add(l2));
        set(8, partial.field);
    }
    if let Some(segments) = offload.segments {
        gso = match segments.kind {
            Segmentation::TcpV4 => GSO_TCPV4,
            Segmentation::TcpV4Ecn => GSO_TCPV4 | GSO_ECN,
            Segmentation::UdpV4 => GSO_UDP_L4,
        };
        set(4, segments.size);
        // All headers: the kernel puts them where it can look at them.
        set(2, headers);
    }
    header[0] = flags;
    header[1] = gso;
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        let offload = Offload {
            checksum: Some(PartialChecksum { start: 20, field: 16 }),
            segments: Some(Segments { kind: Segmentation::TcpV4Ecn, size: 1398 }),
        };
        let header = encode(offload, 14, &[]);
        assert_eq!(header[0..2], [1, 0x81]);
        assert_eq!(header[4..6], 1398_u16.to_ne_bytes());
        assert_eq!(header[6..8], 34_u16.to_ne_bytes());
        assert_eq!(decode(&header, 14), offload);
        assert_eq!(decode(&[0; LEN], 14), Offload::default());
        assert_eq!(encode(Offload::default(), 14, &[]), [0; LEN]);
    }

    #[test]
    fn a_start_at_the_end_of_the_longest_packet_does_not_wrap_around() {
        let checksum = Some(PartialChecksum { start: 65533, field: 0 });
        let header = encode(Offload { checksum, segments: None }, 14, &[]);
        assert_eq!(header[6..8], u16::MAX.to_ne_bytes());
    }

    #[test]
    fn nonsense_fits_no_packet() {
        let mut header = [0; LEN];
        header[1] = 3; // UDP fragmentation, long gone
        assert_eq!(decode(&header, 14), Offload::IMPOSSIBLE);
        header = [0; LEN];
        header[0] = NEEDS_CSUM; // starts before the IP header
        assert_eq!(decode(&header, 14), Offload::IMPOSSIBLE);
    }
}
