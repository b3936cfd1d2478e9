//! The virtio-net header in front of a frame (Virtual I/O Device 1.2, 5.1.6; linux/virtio_net.h).
//!
//! ```text
//!  0       1        2        4        6            8             10
//! | flags | gso    | hdr_len | gso    | csum_start | csum_offset |
//! |       | type   |         | size   |            |             |
//! ```
//! Numbers are of the machine's byte order: that is how TUN and packet sockets have them.

use crate::buf::{Frame, Offload, PartialChecksum, Pool, Segmentation, Segments};
use crate::wire::ip::{Family, View};
use crate::wire::transport::Transport;
use crate::wire::{Ipv4, Ipv6};

/// Bytes of the header.
pub const LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// Takes the header off a received frame, whose IP packet begins `l2` bytes after it. One that is shorter is empty then.
pub(super) fn receive(pool: &Pool, frame: &mut Frame, l2: usize) {
    match pool.bytes(frame).split_first_chunk() {
        Some((header, bytes)) => {
            frame.offload = decode(header, l2 as u16, bytes.get(l2..).unwrap_or_default());
        }
        None => frame.truncate(0),
    }
    frame.strip(LEN);
}

/// What the header says of a frame of `l2` bytes and the IP packet `ip`.
///
/// A header that makes no sense, or speaks of another version of IP, gives [`Offload::IMPOSSIBLE`], which no packet
/// fits.
pub fn decode(header: &[u8; LEN], l2: u16, ip: &[u8]) -> Offload {
    let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let mut offload = Offload::default();
    if header[0] & NEEDS_CSUM != 0 {
        let Some(start) = word(6).checked_sub(l2) else { return Offload::IMPOSSIBLE };
        offload.checksum = Some(PartialChecksum { start, field: word(8) });
    }
    if header[1] == GSO_NONE {
        return offload;
    }
    let (kind, is_ecn) = (header[1] & !GSO_ECN, header[1] & GSO_ECN != 0);
    let kind = match (kind, is_ecn, Family::of_packet(ip)) {
        (GSO_TCPV4, false, Some(Family::V4)) | (GSO_TCPV6, false, Some(Family::V6)) => Segmentation::Tcp,
        (GSO_TCPV4, true, Some(Family::V4)) | (GSO_TCPV6, true, Some(Family::V6)) => Segmentation::TcpEcn,
        (GSO_UDP_L4, false, Some(_)) => Segmentation::Udp,
        _ => return Offload::IMPOSSIBLE,
    };
    offload.segments = Some(Segments { kind, size: word(4) });
    offload
}

/// The header for a frame of `l2` bytes and the IP packet `ip`.
pub fn encode(offload: Offload, l2: u16, ip: &[u8]) -> [u8; LEN] {
    if offload.segments.is_none() {
        return encode_head(offload, Family::V4, l2, 0);
    }
    // Only of a super-frame does the header say how long the others are, and of which version.
    let (family, headers) = match Family::of_packet(ip) {
        Some(Family::V6) => (Family::V6, headers::<Ipv6<'_>>(ip)),
        _ => (Family::V4, headers::<Ipv4<'_>>(ip)),
    };
    encode_head(offload, family, l2, headers.map_or(0, |headers| l2 + headers))
}

fn headers<'a, V: View<'a>>(ip: &'a [u8]) -> Option<u16> {
    let ip = V::parse(ip).ok()?;
    Some(ip.header_len() as u16 + Transport::parse(&ip)?.header_len)
}

/// The header for a frame of `l2` bytes and an IP packet, `headers` bytes with the transport header.
pub fn encode_head(offload: Offload, family: Family, l2: u16, headers: u16) -> [u8; LEN] {
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
        let tcp = match family {
            Family::V4 => GSO_TCPV4,
            Family::V6 => GSO_TCPV6,
        };
        gso = match segments.kind {
            Segmentation::Tcp => tcp,
            Segmentation::TcpEcn => tcp | GSO_ECN,
            Segmentation::Udp => GSO_UDP_L4,
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
            segments: Some(Segments { kind: Segmentation::TcpEcn, size: 1398 }),
        };
        for (ip, gso) in [([0x45], 0x81), ([0x60], 0x84)] {
            let header = encode(offload, 14, &ip);
            assert_eq!(header[0..2], [1, gso]);
            assert_eq!(header[4..6], 1398_u16.to_ne_bytes());
            assert_eq!(header[6..8], 34_u16.to_ne_bytes());
            assert_eq!(decode(&header, 14, &ip), offload);
            assert_eq!(decode(&[0; LEN], 14, &ip), Offload::default());
            assert_eq!(encode(Offload::default(), 14, &ip), [0; LEN]);
        }
    }

    #[test]
    fn a_start_at_the_end_of_the_longest_packet_does_not_wrap_around() {
        let checksum = Some(PartialChecksum { start: 65533, field: 0 });
        let header = encode(Offload { checksum, segments: None }, 14, &[]);
        assert_eq!(header[6..8], u16::MAX.to_ne_bytes());
    }

    #[test]
    fn nonsense_fits_no_packet() {
        // UDP fragmentation, long gone; UDP datagrams with CWR; each of TCP with the other version's packet.
        for (gso, ip) in [(3, 0x45), (0x85, 0x45), (1, 0x60), (4, 0x45), (0x81, 0x60), (0x84, 0x45), (1, 0)] {
            let mut header = [0; LEN];
            header[1] = gso;
            assert_eq!(decode(&header, 14, &[ip]), Offload::IMPOSSIBLE, "{gso:#x} {ip:#x}");
        }
        let mut header = [0; LEN];
        header[0] = NEEDS_CSUM; // starts before the IP header
        assert_eq!(decode(&header, 14, &[0x45]), Offload::IMPOSSIBLE);
    }
}
