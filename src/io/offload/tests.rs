//! Every cut is read back: by `wire`, by etherparse, and by a checksum that shares nothing with ours.

use std::net::{IpAddr, Ipv4Addr};

use etherparse::{Ethernet2Slice, Ipv4Slice, TcpSlice, UdpSlice};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::buf::{MAX_SEGMENTS, PartialChecksum};
use crate::io::vnet;
use crate::wire::{Protocol, tcp::Tcp};

const SRC: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 2);
const DST: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 66);
const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);
const OUTERS: [Outer; 5] = [Outer::None, Outer::Ethernet, Outer::Ipip, Outer::LinkIpip, Outer::Vxlan];
const ALL_FLAGS: u8 = 0xff;

/// RFC 1071 as it is written.
fn naive(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn pseudo(protocol: Protocol, len: usize) -> Vec<u8> {
    [&SRC.octets()[..], &DST.octets(), &[0, protocol.0], &(len as u16).to_be_bytes()].concat()
}

fn ip(src: Ipv4Addr, dst: Ipv4Addr, protocol: Protocol, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 20];
    ipv4::Header {
        tos: 0xb9,
        total_len: (20 + options.len() + payload.len()) as u16,
        id: 0xfffe,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 63,
        protocol,
        src,
        dst,
    }
    .write(bytes.first_chunk_mut().unwrap());
    bytes[0] += (options.len() / 4) as u8;
    bytes.extend(options);
    bytes[10..12].fill(0);
    let sum = naive(&bytes);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Sequence number near the end of its range, options of 12 bytes.
fn tcp_packet(flags: u8, ip_options: &[u8], data: &[u8]) -> Vec<u8> {
    let mut segment =
        vec![0xc0, 0, 0, 80, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 9, 0x80, flags, 1, 2, 0xde, 0xad, 0, 0];
    segment.extend([1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
    segment.extend(data);
    ip(SRC, DST, Protocol::TCP, ip_options, &segment)
}

fn udp_packet(data: &[u8]) -> Vec<u8> {
    let len = (8 + data.len()) as u16;
    let mut datagram = [0xc000, 53, len, 0xdead].map(u16::to_be_bytes).concat();
    datagram.extend(data);
    ip(SRC, DST, Protocol::UDP, &[], &datagram)
}

fn wrapped(outer: Outer, packet: &[u8]) -> Vec<u8> {
    let ethernet = [[2_u8; 6], [4; 6]].concat();
    match outer {
        Outer::None => packet.to_vec(),
        Outer::Ethernet => [&ethernet[..], &[8, 0], packet].concat(),
        Outer::Ipip => ip(NODE, PEER, Protocol::IPIP, &[], packet),
        Outer::LinkIpip => {
            [&[0xee; 10][..], &wrapped(Outer::Ethernet, &wrapped(Outer::Ipip, packet))].concat()
        }
        Outer::Vxlan => [&[8, 0, 0, 0, 0, 0x10, 0, 0], &ethernet[..], &[8, 0], packet].concat(),
    }
}

fn cut(bytes: &[u8], outer: Outer, kind: Segmentation, size: u16) -> Vec<Vec<u8>> {
    let super_frame = SuperFrame::parse(bytes, outer, Segments { kind, size }).expect("it can be cut");
    let pieces = (0..super_frame.count()).map(|index| {
        let mut head = [0xa5; MAX_HEAD];
        let len = super_frame.head_len();
        super_frame.write_head(index, &mut head[..len]);
        assert!(head[len..].iter().all(|byte| *byte == 0xa5), "nothing behind the head is written");
        [&head[..len], super_frame.payload(index)].concat()
    });
    pieces.collect()
}

/// What stands in front, checked; the IP packet.
fn unwrapped<'a>(outer: Outer, piece: &'a [u8], whole: &[u8], index: usize) -> &'a [u8] {
    match outer {
        Outer::None => piece,
        Outer::Ethernet => {
            let frame = Ethernet2Slice::from_slice_without_fcs(piece).unwrap();
            assert_eq!(frame.header_slice(), &whole[..14]);
            &piece[14..]
        }
        Outer::Ipip => {
            assert_eq!(naive(&piece[..20]), 0);
            let header = etherparse::Ipv4HeaderSlice::from_slice(piece).unwrap();
            assert_eq!(usize::from(header.total_len()), piece.len());
            assert_eq!(header.identification(), 0xfffe_u16.wrapping_add(index as u16));
            assert_eq!((header.source_addr(), header.destination_addr()), (NODE, PEER));
            &piece[20..]
        }
        Outer::LinkIpip => {
            assert_eq!(piece[..10], whole[..10]);
            let ipip = unwrapped(Outer::Ethernet, &piece[10..], &whole[10..], index);
            unwrapped(Outer::Ipip, ipip, &whole[24..], index)
        }
        Outer::Vxlan => {
            assert_eq!(piece[..22], whole[..22]);
            &piece[22..]
        }
    }
}

/// IP and TCP headers of a piece against the whole's; its data.
fn tcp_piece<'a>(bytes: &'a [u8], whole: &[u8], index: usize, size: u16, count: usize) -> &'a [u8] {
    let (piece, whole) = (Ipv4::parse(bytes).unwrap(), Ipv4::parse(whole).unwrap());
    assert_eq!(piece.total_len(), bytes.len());
    assert_eq!(naive(piece.header()), 0);
    assert_eq!(piece.id(), whole.id().wrapping_add(index as u16));
    let same =
        |ip: &Ipv4<'_>| (ip.tos(), ip.ttl(), ip.dont_fragment(), ip.src(), ip.dst(), ip.options().to_vec());
    assert_eq!(same(&piece), same(&whole));

    let segment = TcpSlice::from_slice(piece.payload()).unwrap();
    let before = Tcp::parse(whole.payload()).unwrap();
    assert_eq!(naive(&[pseudo(Protocol::TCP, piece.payload().len()), piece.payload().to_vec()].concat()), 0);
    assert_eq!(segment.sequence_number(), before.seq().wrapping_add(index as u32 * u32::from(size)));
    assert_eq!(segment.acknowledgment_number(), before.ack());
    assert_eq!(segment.options(), before.options());
    assert_eq!(segment.window_size(), before.window());
    let had = |flag| before.flags().contains(flag);
    let is_last = index + 1 == count;
    assert_eq!(segment.fin(), had(Flags::FIN) && is_last, "FIN ends the data");
    assert_eq!(segment.psh(), had(Flags::PSH) && is_last, "PSH ends the data");
    assert_eq!(segment.cwr(), had(Flags::CWR) && index == 0, "CWR answers once");
    assert_eq!(
        (segment.syn(), segment.rst(), segment.ack(), segment.urg(), segment.ece()),
        (had(Flags::SYN), had(Flags::RST), had(Flags::ACK), had(Flags::URG), had(Flags::ECE))
    );
    &bytes[bytes.len() - segment.payload().len()..]
}

fn check_tcp(packet: &[u8], outer: Outer, kind: Segmentation, size: u16) {
    let whole = wrapped(outer, packet);
    let pieces = cut(&whole, outer, kind, size);
    let data =
        &packet[packet.len() - Tcp::parse(Ipv4::parse(packet).unwrap().payload()).unwrap().payload().len()..];
    assert_eq!(pieces.len(), data.len().div_ceil(usize::from(size)).max(1));
    let mut joined: Vec<u8> = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        let piece = tcp_piece(unwrapped(outer, piece, &whole, index), packet, index, size, pieces.len());
        assert!(piece.len() == usize::from(size) || index + 1 == pieces.len());
        joined.extend(piece);
    }
    assert_eq!(joined, data);
}

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

/// The head of the second of three segments, literally: length, id, sequence, no CWR, FIN or PSH.
#[test]
fn a_middle_segment_literally() {
    let packet = tcp_packet(0x99, &[], &data(10));
    let pieces = cut(&packet, Outer::None, Segmentation::TcpEcn, 4);
    let wanted = [
        0x45, 0xb9, 0, 56, 0xff, 0xff, 0x40, 0, 0x3f, 6, 0x26, 0x42, 10, 65, 0, 2, 10, 65, 0, 66, //
        0xc0, 0, 0, 80, 0xff, 0xff, 0xff, 0xf4, 0, 0, 0, 9, 0x80, 0x10, 1, 2, 0x86, 0x83, 0, 0, //
        1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, // options as they were
        4, 5, 6, 7,
    ];
    assert_eq!(pieces[1], wanted);
    // Identification and sequence number go on past the ends of their ranges.
    assert_eq!(pieces[2][4..6], [0, 0]);
    assert_eq!(pieces[2][24..28], [0xff, 0xff, 0xff, 0xf8]);
}

/// The same over IPv6, behind a header of hop-by-hop options: the length, no id, no header checksum.
#[test]
fn a_middle_segment_over_ipv6_literally() {
    let mut packet = vec![0x6b, 0x91, 0x23, 0x45, 0, 50, 0, 63];
    packet.extend([0xfd, 0x65, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    packet.extend([0xfd, 0x65, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 66]);
    packet.extend([6, 0, 1, 4, 0, 0, 0, 0]);
    packet.extend(&tcp_packet(0x99, &[], &data(10))[20..]);
    let pieces = cut(&packet, Outer::None, Segmentation::TcpEcn, 4);
    let mut wanted = packet[..80].to_vec();
    wanted.extend([4, 5, 6, 7]);
    // Length; sequence number; no CWR, FIN or PSH.
    (wanted[5], wanted[48 + 7], wanted[48 + 13]) = (44, 0xf4, 0x10);
    // fd65+2 + fd65+1+66 + 6+36 as the pseudo-header, and all of the segment.
    let pseudo = [&packet[8..40], &[0, 0, 0, 36, 0, 0, 0, 6]].concat();
    wanted[64..66].fill(0);
    let sum = naive(&[&pseudo, &wanted[48..]].concat());
    wanted[64..66].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(pieces[1], wanted);
    assert_eq!(pieces.len(), 3);
    assert_eq!(pieces[2][4..6], [0, 42]);
}

/// Sizes around each border, and every flag alone and with all others.
#[test]
fn tcp_is_cut_by_the_rules_behind_each_outer_header() {
    for outer in OUTERS {
        for kind in [Segmentation::Tcp, Segmentation::TcpEcn] {
            for flags in (0..8).map(|bit| 1 << bit).chain([0, ALL_FLAGS]) {
                check_tcp(&tcp_packet(flags, &[], &data(100)), outer, kind, 30);
            }
            for len in [0, 1, 2, 29, 30, 31, 59, 60, 61, 1000] {
                check_tcp(&tcp_packet(ALL_FLAGS, &[0x94, 4, 0, 0], &data(len)), outer, kind, 30);
            }
        }
        for size in [1, 2, 3, 47, 48, 1398, 1460, 65535] {
            check_tcp(&tcp_packet(0x19, &[], &data(3000)), outer, Segmentation::Tcp, size);
        }
    }
}

/// What a workload may hand over at most, at the smallest segments that are allowed.
#[test]
fn the_largest_super_frame_is_cut_whole() {
    let packet = tcp_packet(0x18, &[], &data(65_535 - 52));
    check_tcp(&packet, Outer::Vxlan, Segmentation::Tcp, 48);
    assert!(cut(&packet, Outer::None, Segmentation::Tcp, 48).len() <= MAX_SEGMENTS);
}

#[test]
fn datagrams_are_cut_with_lengths_and_checksums_of_their_own() {
    for outer in OUTERS {
        for (len, size) in [(0, 10), (1, 10), (10, 10), (11, 10), (5000, 1472), (5001, 1)] {
            let packet = udp_packet(&data(len));
            let whole = wrapped(outer, &packet);
            let mut joined: Vec<u8> = Vec::new();
            for (index, piece) in cut(&whole, outer, Segmentation::Udp, size).iter().enumerate() {
                let ip = Ipv4Slice::from_slice(unwrapped(outer, piece, &whole, index)).unwrap();
                assert_eq!(naive(ip.header().slice()), 0);
                assert_eq!(ip.header().identification(), 0xfffe_u16.wrapping_add(index as u16));
                let bytes = ip.payload().payload;
                let datagram = UdpSlice::from_slice(bytes).unwrap();
                assert_eq!(usize::from(datagram.length()), bytes.len());
                assert_ne!(datagram.checksum(), 0);
                assert_eq!(naive(&[pseudo(Protocol::UDP, bytes.len()), bytes.to_vec()].concat()), 0);
                joined.extend_from_slice(datagram.payload());
            }
            assert_eq!(joined, data(len));
        }
    }
}

/// RFC 768: a sum of zero is written as its other form, as zero says "no checksum".
#[test]
fn a_udp_sum_of_zero_is_written_as_ones() {
    // The last word is chosen so that all adds up to zero.
    let sum_with = |word: u16| {
        let datagram = [&[0xc0, 0, 0, 53, 0, 10, 0, 0][..], &word.to_be_bytes()].concat();
        naive(&[pseudo(Protocol::UDP, 10), datagram].concat())
    };
    let word = sum_with(0);
    assert_eq!(sum_with(word), 0);
    let packet = udp_packet(&word.to_be_bytes());
    assert_eq!(cut(&packet, Outer::None, Segmentation::Udp, 100)[0][26..28], [0xff, 0xff]);

    let mut partial = packet.clone();
    let field = !naive(&pseudo(Protocol::UDP, 10));
    partial[26..28].copy_from_slice(&field.to_be_bytes());
    let checksum = Some(PartialChecksum { start: 20, field: 6 });
    let left = complete_checksum(&mut partial, Offload { checksum, segments: None });
    assert_eq!(left, Offload::default());
    assert_eq!(partial[26..28], [0xff, 0xff]);
}

#[test]
fn a_super_frame_keeps_what_is_to_be_done_to_it() {
    let mut packet = tcp_packet(0x18, &[], &data(100));
    let before = packet.clone();
    let offload = Offload {
        checksum: Some(PartialChecksum { start: 20, field: 16 }),
        segments: Some(Segments { kind: Segmentation::Tcp, size: 10 }),
    };
    assert_eq!(complete_checksum(&mut packet, offload), offload);
    assert_eq!(packet, before);
}

/// The engine checks first; what it did not see does no harm here.
#[test]
fn what_lies_outside_is_left_alone() {
    let before = tcp_packet(0x18, &[], &data(10));
    for (start, field) in [(61, 0), (62, 0), (63, 0), (20, 41), (20, 65535), (65535, 65535)] {
        let mut packet = before.clone();
        let checksum = Some(PartialChecksum { start, field });
        complete_checksum(&mut packet, Offload { checksum, segments: None });
        assert_eq!(packet, before, "{start} {field}");
    }
}

#[test]
fn what_is_no_whole_tcp_or_udp_packet_is_not_cut() {
    let segments = |size| Segments { kind: Segmentation::Tcp, size };
    let packet = tcp_packet(0x18, &[], &data(100));
    for outer in OUTERS {
        let whole = wrapped(outer, &packet);
        assert!(SuperFrame::parse(&whole, outer, segments(0)).is_none());
        for len in 0..whole.len() {
            assert!(SuperFrame::parse(&whole[..len], outer, segments(10)).is_none(), "{outer:?} {len}");
        }
        let icmp = wrapped(outer, &ip(SRC, DST, Protocol::ICMP, &[], &data(100)));
        assert!(SuperFrame::parse(&icmp, outer, segments(10)).is_none());
    }
}

/// Longest headers: the head has room for them, whatever stands in front.
#[test]
fn the_longest_headers_fit() {
    let mut segment = vec![0; 60];
    segment[12] = 0xf0;
    segment.extend(data(100));
    let packet = ip(SRC, DST, Protocol::TCP, &[1; 40], &segment);
    for outer in OUTERS {
        let pieces = cut(&wrapped(outer, &packet), outer, Segmentation::Tcp, 60);
        assert_eq!(pieces.len(), 2);
        assert_eq!(pieces[0].len(), outer.len() + 120 + 60);
    }
    let mut packet = vec![0; 40 + ipv6::MAX_EXTENSION_BYTES];
    let header = ipv6::Header {
        traffic_class: 0,
        flow_label: 0,
        payload_len: (ipv6::MAX_EXTENSION_BYTES + segment.len()) as u16,
        next_header: Protocol::DESTINATION_OPTIONS,
        hop_limit: 64,
        src: std::net::Ipv6Addr::from_bits(1),
        dst: std::net::Ipv6Addr::from_bits(2),
    };
    header.write(packet.first_chunk_mut().unwrap());
    (packet[40], packet[41]) = (Protocol::TCP.0, (ipv6::MAX_EXTENSION_BYTES / 8 - 1) as u8);
    packet.extend(&segment);
    for outer in [Outer::None, Outer::Ethernet, Outer::Vxlan] {
        let pieces = cut(&wrapped(outer, &packet), outer, Segmentation::Tcp, 60);
        assert_eq!(pieces[0].len(), outer.len() + 40 + ipv6::MAX_EXTENSION_BYTES + 60 + 60);
    }
}

proptest! {
    #[test]
    fn any_tcp_super_frame(
        payload in vec(any::<u8>(), 0..9000),
        size in 1_u16..3000,
        flags: u8,
        options in 0_usize..=10,
        outer in 0_usize..4,
        has_ecn: bool,
    ) {
        prop_assume!(payload.len().div_ceil(size.into()) <= MAX_SEGMENTS);
        let kind = if has_ecn { Segmentation::TcpEcn } else { Segmentation::Tcp };
        check_tcp(&tcp_packet(flags, &vec![1; options * 4], &payload), OUTERS[outer], kind, size);
    }

    /// The field holds the pseudo-header's sum; completed, the whole verifies.
    #[test]
    fn any_partial_checksum(payload in vec(any::<u8>(), 0..2000), is_tcp: bool) {
        let (mut packet, protocol, field) = match is_tcp {
            true => (tcp_packet(0x18, &[], &payload), Protocol::TCP, 16),
            false => (udp_packet(&payload), Protocol::UDP, 6),
        };
        let at = 20 + usize::from(field);
        let partial = checksum::pseudo_header(IpAddr::V4(SRC), IpAddr::V4(DST), protocol, packet.len() - 20);
        packet[at..at + 2].copy_from_slice(&partial.folded().to_be_bytes());
        let offload = Offload { checksum: Some(PartialChecksum { start: 20, field }), segments: None };
        prop_assert_eq!(complete_checksum(&mut packet, offload), Offload::default());
        prop_assert_eq!(naive(&[pseudo(protocol, packet.len() - 20), packet[20..].to_vec()].concat()), 0);
        prop_assert_ne!(&packet[at..at + 2], &[0, 0]);
    }

    /// A virtio-net header says what was put into it, for frames with and without an Ethernet header.
    #[test]
    fn a_virtio_net_header_comes_back(
        start in 20_u16..65_000,
        field: u16,
        size: u16,
        has_checksum: bool,
        kind in 0_usize..4,
        has_ethernet: bool,
    ) {
        use Segmentation::{Tcp, TcpEcn, Udp};
        let kinds = [None, Some(Tcp), Some(TcpEcn), Some(Udp)];
        let offload = Offload {
            checksum: has_checksum.then_some(PartialChecksum { start, field }),
            segments: kinds[kind].map(|kind| Segments { kind, size }),
        };
        let l2 = if has_ethernet { 14 } else { 0 };
        let packet = tcp_packet(0x18, &[], &data(10));
        let header = vnet::encode(offload, l2, &packet);
        prop_assert_eq!(vnet::decode(&header, l2, &packet), offload);
        let headers = u16::from_ne_bytes([header[2], header[3]]);
        prop_assert_eq!(headers, if kind == 0 { 0 } else { l2 + 20 + 32 });
    }

    /// Any header is read, and none makes what is read longer or shorter than it can be.
    #[test]
    fn any_virtio_net_header_is_read(header: [u8; vnet::LEN], l2 in 0_u16..20, version in 0_u8..16) {
        let offload = vnet::decode(&header, l2, &[version << 4]);
        if let Some(partial) = offload.checksum {
            prop_assert!(partial.start <= u16::MAX - l2);
        }
    }
}
