//! Super-frames and partial checksums, from and to each kind of port.

use margay::buf::{Offload, PartialChecksum, Segmentation, Segments};
use margay::dataplane::PortId;
use margay::io::memory::MemoryFrame;
use margay::io::offload::{MAX_HEAD, Outer, SuperFrame};
use margay::verdict::DropReason;

use crate::bed::*;
use crate::packets::*;

/// Each way out of ALPHA: where to, by which port, behind how many bytes, as what it is cut.
const WAYS: [(std::net::Ipv4Addr, PortId, usize, Outer); 5] = [
    (BETA_IP, PortId::Endpoint(BETA), 14, Outer::Ethernet),
    (B_VXLAN, VXLAN, 22, Outer::Vxlan),
    (B_IPIP, PortId::Ipip, 20, Outer::Ipip),
    (B_DIRECT, PortId::Direct, 0, Outer::None),
    (OUTSIDE, PortId::Host, 0, Outer::None),
];

fn from_alpha(ip: &Ip, offload: Offload) -> Exchange {
    Bed::new().one(ALPHA, MemoryFrame { offload, ..ip.sent_by(ALPHA_MAC) })
}

/// The inner packets that a port without offloads makes of a super-frame.
fn cut(frame: &MemoryFrame, outer: Outer, head_len: usize) -> Vec<Ip> {
    let segments = frame.offload.segments.expect("a super-frame");
    let super_frame = SuperFrame::parse(&frame.bytes, outer, segments).expect("it can be cut");
    let pieces = (0..super_frame.count()).map(|index| {
        let mut head = [0xa5; MAX_HEAD];
        let len = super_frame.head_len();
        super_frame.write_head(index, &mut head[..len]);
        let bytes = [&head[..len], super_frame.payload(index)].concat();
        if outer == Outer::Ipip {
            assert_eq!(Ip::read(&bytes).payload.len(), bytes.len() - 20);
        }
        Ip::read(&bytes[head_len..])
    });
    pieces.collect()
}

/// M14: one frame all the way, its bytes but the hop as they were; each piece of it a right segment.
#[test]
fn a_tcp_super_frame_goes_as_one_to_each_kind_of_port() {
    for (dst, port, head, outer) in WAYS {
        for len in [2 * 1400, 9999, 60_000] {
            let whole = Ip::tcp(ALPHA_IP, dst, len);
            let ip = whole.clone().partial();
            let offload = super_frame(&ip, 1398);
            let exchange = from_alpha(&ip, offload);
            let [(id, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
            assert_eq!(*id, port);
            assert_eq!(frame.offload, offload);
            let wanted = ip.leaving_by(port);
            assert_eq!(Ip::read(&frame.bytes[head..]), wanted);

            let pieces = cut(frame, outer, head);
            assert_eq!(pieces.len(), len.div_ceil(1398));
            let data: Vec<u8> = pieces.iter().flat_map(|piece| piece.payload[20..].to_vec()).collect();
            assert_eq!(data, whole.payload[20..]);
            let mut seq = 1000_u32;
            for (index, piece) in pieces.iter().enumerate() {
                assert!(piece.is_summed());
                assert!(piece.len() <= usize::from(POD_MTU));
                assert_eq!((piece.ttl, piece.id), (wanted.ttl, 0x1234 + index as u16));
                assert_eq!(piece.payload[4..8], seq.to_be_bytes());
                seq += piece.payload.len() as u32 - 20;
            }
        }
    }
}

/// M14: what a sender with UDP_SEGMENT hands over goes as one, too; each piece of it is a datagram of its own.
#[test]
fn a_udp_super_frame_goes_as_one_to_each_kind_of_port() {
    for (dst, port, head, outer) in WAYS {
        for (len, size) in [(2 * 1400, 1400), (9999, 1000), (64 * 64, 64), (60_000, 1422)] {
            let whole = Ip::udp(ALPHA_IP, dst, len);
            let ip = whole.clone().partial();
            let segments = Some(Segments { kind: Segmentation::Udp, size });
            let offload = Offload { segments, ..ip.partial_checksum() };
            let exchange = from_alpha(&ip, offload);
            let [(id, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
            assert_eq!((*id, frame.offload), (port, offload));
            let wanted = ip.leaving_by(port);
            assert_eq!(Ip::read(&frame.bytes[head..]), wanted);

            let pieces = cut(frame, outer, head);
            assert_eq!(pieces.len(), len.div_ceil(size.into()));
            let data: Vec<u8> = pieces.iter().flat_map(|piece| piece.payload[8..].to_vec()).collect();
            assert_eq!(data, whole.payload[8..]);
            for (index, piece) in pieces.iter().enumerate() {
                assert!(piece.is_summed());
                assert_eq!(usize::from(word(&piece.payload, 4)), piece.payload.len());
                assert_eq!((piece.ttl, piece.id), (wanted.ttl, 0x1234 + index as u16));
                assert_eq!(piece.payload[..4], whole.payload[..4], "ports");
            }
        }
    }
}

/// No router can cut a datagram's segments smaller: the sender is told, or the frame is dropped.
#[test]
fn a_udp_super_frame_whose_segments_are_too_big_is_told() {
    let ip = Ip::udp(ALPHA_IP, B_VXLAN, 30_000).partial();
    let segments = Some(Segments { kind: Segmentation::Udp, size: 1423 });
    let offload = Offload { segments, ..ip.partial_checksum() };
    let mut bed = Bed::on(Machine { pod_mtu: 9000, ..Machine::default() });
    let exchange = bed.one(ALPHA, MemoryFrame { offload, ..ip.sent_by(ALPHA_MAC) });
    let [(id, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
    assert_eq!(*id, ALPHA.into());
    assert_eq!((frame.bytes[34], frame.bytes[35], word(&frame.bytes, 40)), (3, 4, 1450));
}

/// Ids of the outer headers are taken for all pieces: the next packet's follows after them.
#[test]
fn the_pieces_of_a_super_frame_have_outer_ids_of_their_own() {
    let large = Ip::tcp(ALPHA_IP, B_IPIP, 10 * 1398).partial();
    let small = Ip::udp(ALPHA_IP, B_IPIP, 1);
    let first = MemoryFrame { offload: super_frame(&large, 1398), ..large.sent_by(ALPHA_MAC) };
    let frames = [first, small.sent_by(ALPHA_MAC)].map(|frame| (ALPHA.into(), frame));
    let exchange = Bed::new().exchange(frames);
    let [(_, first), (_, second)] = &exchange.out[..] else { panic!("{exchange:?}") };
    let segments = first.offload.segments.unwrap();
    let super_frame = SuperFrame::parse(&first.bytes, Outer::Ipip, segments).unwrap();
    let mut head = [0; MAX_HEAD];
    let len = super_frame.head_len();
    super_frame.write_head(9, &mut head[..len]);
    assert!(word(&second.bytes, 4) > word(&head, 4), "{} {}", word(&second.bytes, 4), word(&head, 4));
}

/// Tunnel sockets send bytes: what is partial is finished. Ports with virtio-net headers pass it on.
#[test]
fn a_partial_checksum_is_completed_where_no_header_can_say_it() {
    for (dst, port, head, _) in WAYS {
        for whole in [Ip::udp(ALPHA_IP, dst, 33), Ip::tcp(ALPHA_IP, dst, 33), Ip::udp(ALPHA_IP, dst, 0)] {
            let ip = whole.clone().partial();
            let offload = ip.partial_checksum();
            let exchange = from_alpha(&ip, offload);
            let [(id, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
            assert_eq!(*id, port);
            let passed_on = matches!(port, PortId::Endpoint(_) | PortId::Host | PortId::Direct);
            let (wanted, left) = if passed_on { (&ip, offload) } else { (&whole, Offload::default()) };
            assert_eq!(Ip::read(&frame.bytes[head..]), wanted.leaving_by(port));
            assert_eq!(frame.offload, left);
        }
    }
}

/// A kernel's tunnel device over a virtual underlay: the packet says nothing, its checksum field tells.
#[test]
fn a_partial_checksum_from_a_tunnel_is_recognised() {
    for whole in [Ip::udp(B_VXLAN, ALPHA_IP, 33), Ip::tcp(B_VXLAN, ALPHA_IP, 33)] {
        for (ip, offload) in
            [(whole.clone().partial(), whole.partial_checksum()), (whole.clone(), Offload::default())]
        {
            for (port, frame) in
                [(VXLAN, ip.in_vxlan(PEER_B, VTEP_A, VTEP_B)), (PortId::Ipip, ip.in_ipip(PEER_B, NODE))]
            {
                let exchange = Bed::new().one(port, frame);
                let [(_, out)] = &exchange.out[..] else { panic!("{exchange:?}") };
                assert_eq!(out.offload, offload);
                assert_eq!(Ip::read(&out.bytes[14..]), ip.hop());
            }
        }
    }
}

#[test]
fn a_super_frame_from_a_tunnel_is_recognised_by_its_size() {
    let ip = Ip::tcp(B_VXLAN, ALPHA_IP, 20_000).partial();
    let exchange = Bed::new().one(VXLAN, ip.in_vxlan(PEER_B, VTEP_A, VTEP_B));
    let [(_, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
    assert_eq!(frame.offload, super_frame(&ip, POD_MTU - 40));
    assert!(cut(frame, Outer::Ethernet, 14).iter().all(|piece| piece.is_summed()));
    // A datagram of that size was never cut, and is no super-frame.
    let ip = Ip::udp(B_VXLAN, ALPHA_IP, 20_000);
    let exchange = Bed::new().one(VXLAN, ip.in_vxlan(PEER_B, VTEP_A, VTEP_B));
    assert!(exchange.out.iter().all(|(id, _)| *id == VXLAN), "fragmentation needed, back to B");
}

/// RFC 1191 for TCP with offloads: one segment is what has to fit, not the frame.
#[test]
fn a_super_frame_whose_segments_are_too_big_is_told_or_cut_smaller() {
    let bed = || Bed::on(Machine { pod_mtu: 9000, ..Machine::default() });
    let ip = Ip::tcp(ALPHA_IP, B_VXLAN, 30_000).partial();
    let frame = MemoryFrame { offload: super_frame(&ip, 1411), ..ip.sent_by(ALPHA_MAC) };
    let exchange = bed().one(ALPHA, frame);
    let [(id, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
    assert_eq!(*id, ALPHA.into());
    assert_eq!(frame.bytes[14 + 20..14 + 22], [3, 4]);
    assert_eq!(word(&frame.bytes, 14 + 26), 1450);

    let ip = ip.fragment(0);
    let frame = MemoryFrame { offload: super_frame(&ip, 1411), ..ip.sent_by(ALPHA_MAC) };
    let exchange = bed().one(ALPHA, frame);
    let [(VXLAN, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
    assert_eq!(frame.offload, super_frame(&ip, 1410));
    assert_eq!(Ip::read(&frame.bytes[22..]), ip.hop(), "one hop");
    assert!(cut(frame, Outer::Vxlan, 22).iter().all(|piece| piece.is_summed() && piece.len() <= 1450));
}

/// The kernel counts the hop of what is cut smaller on its way from the host, or to it.
#[test]
fn t2_a_super_frame_cut_smaller_from_and_to_the_host_keeps_its_ttl() {
    let mut bed = Bed::on(Machine { pod_mtu: 9000, host_mtu: Some(1400), ..Machine::default() });
    for ttl in [1, 64] {
        let ip = Ip::tcp(ALPHA_IP, OUTSIDE, 30_000).partial().fragment(0).ttl(ttl);
        let frame = MemoryFrame { offload: super_frame(&ip, 1361), ..ip.sent_by(ALPHA_MAC) };
        let exchange = bed.one(ALPHA, frame);
        let [(PortId::Host, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
        assert_eq!(frame.offload, super_frame(&ip, 1360));
        assert_eq!(Ip::read(&frame.bytes), ip);

        let ip = Ip::tcp(OUTSIDE, B_VXLAN, 30_000).partial().fragment(0).ttl(ttl);
        let frame = MemoryFrame { offload: super_frame(&ip, 1411), ..ip.plain() };
        let exchange = bed.one(PortId::Host, frame);
        let [(VXLAN, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
        assert_eq!(frame.offload, super_frame(&ip, 1410));
        assert_eq!(Ip::read(&frame.bytes[22..]), ip);
    }
}

#[test]
fn offloads_that_do_not_fit_their_packet_are_dropped() {
    let tcp = Ip::tcp(ALPHA_IP, BETA_IP, 3000).partial();
    let udp = Ip::udp(ALPHA_IP, BETA_IP, 3000).partial();
    let segments = |kind, size| Offload { segments: Some(Segments { kind, size }), ..tcp.partial_checksum() };
    let checksum =
        |start, field| Offload { checksum: Some(PartialChecksum { start, field }), ..Offload::default() };
    let cases = [
        (&tcp, segments(Segmentation::Udp, 1000)),
        (&udp, segments(Segmentation::Tcp, 1000)),
        (&tcp, segments(Segmentation::Tcp, 0)),
        // More pieces than one frame may cause.
        (&tcp, segments(Segmentation::Tcp, 1)),
        (&tcp, Offload::IMPOSSIBLE),
        (&tcp, checksum(0, 10)),
        (&tcp, checksum(19, 16)),
        (&tcp, checksum(20, 3020)),
        (&tcp, checksum(3039, 0)),
        (&tcp, checksum(u16::MAX, u16::MAX)),
    ];
    for (ip, offload) in cases {
        for dst in [BETA_IP, B_IPIP] {
            let ip = Ip { dst, ..ip.clone() };
            let exchange = from_alpha(&ip, offload);
            assert_eq!(exchange.out, [], "{offload:?}");
            assert_eq!(exchange.tally.dropped[DropReason::OffloadMalformed.index()], 1, "{offload:?}");
        }
    }
    // Fragments have no transport header to cut by; a later one has no checksum to finish.
    for (fragment, offload) in [(MF, segments(Segmentation::Tcp, 1000)), (1, tcp.partial_checksum())] {
        let exchange = from_alpha(&tcp.clone().fragment(fragment), offload);
        assert_eq!(exchange.tally.dropped[DropReason::OffloadMalformed.index()], 1);
    }
    // From the host and the underlay too.
    let ip = Ip::tcp(B_DIRECT, ALPHA_IP, 10);
    for (port, frame) in [(PortId::Host, ip.plain()), (UNDERLAY, ip.on_underlay())] {
        let exchange = Bed::new().one(port, MemoryFrame { offload: Offload::IMPOSSIBLE, ..frame });
        assert_eq!(exchange.tally.dropped[DropReason::OffloadMalformed.index()], 1);
    }
}
