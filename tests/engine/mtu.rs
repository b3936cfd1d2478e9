//! MTU and fragments: M1 to M4, M9, M11.

use margay::buf::{Offload, Segmentation, Segments};
use std::net::{IpAddr, Ipv4Addr};

use margay::dataplane::PortId;
use margay::dataplane::engine::mtu;
use margay::fib::{Environment, Fib, OuterTtl};
use margay::io::memory::MemoryFrame;
use margay::verdict::DropReason;

use crate::bed::*;
use crate::packets::*;

/// Pods that may send more than any tunnel takes.
fn bed() -> Bed {
    Bed::on(Machine { pod_mtu: 9000, host_mtu: Some(1400), ..Machine::default() })
}

/// Each way with its port, its MTU and what the port puts in front.
const WAYS: [(std::net::Ipv4Addr, PortId, u16, usize); 4] = [
    (B_VXLAN, VXLAN, 1450, 22),
    (B_IPIP, PortId::Ipip, IPIP_MTU, 20),
    (B_DIRECT, PortId::Direct, UNDERLAY_MTU, 0),
    (OUTSIDE, PortId::Host, 1400, 0),
];

/// RFC 1191 4.
#[test]
fn m1_df_and_too_big_is_told_the_exact_mtu_and_exactly_the_mtu_passes() {
    for (dst, port, mtu, head) in WAYS {
        let fits = Ip::udp(ALPHA_IP, dst, usize::from(mtu) - 28);
        let exchange = bed().one(ALPHA, fits.sent_by(ALPHA_MAC));
        assert_eq!(exchange.out.len(), 1);
        assert_eq!(exchange.out[0].0, port);
        assert_eq!(Ip::read(&exchange.out[0].1.bytes[head..]), fits.leaving_by(port));

        let over = Ip::udp(ALPHA_IP, dst, usize::from(mtu) - 27);
        let exchange = bed().one(ALPHA, over.sent_by(ALPHA_MAC));
        let [(id, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
        assert_eq!(*id, ALPHA.into());
        let error = Ip::read(&frame.bytes[14..]);
        assert_eq!((error.src, error.dst), (TUNNEL_A, ALPHA_IP));
        assert_eq!(error.payload[..2], [3, 4]);
        assert_eq!(error.payload[4..8], [0, 0, (mtu >> 8) as u8, mtu as u8], "{port:?}");
        assert_eq!(error.payload[8..], over.bytes()[..548], "as it was received");
    }
}

#[test]
fn m1_towards_a_pod_the_pods_mtu_is_told_through_the_tunnel() {
    let over = Ip::udp(B_IPIP, ALPHA_IP, 1423);
    let exchange = Bed::new().one(PortId::Ipip, over.in_ipip(PEER_B, NODE));
    let [(PortId::Ipip, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
    let error = Ip::read(&Ip::read(&frame.bytes).payload);
    assert_eq!((error.src, error.dst), (TUNNEL_A, B_IPIP));
    assert_eq!(error.payload[..8], [3, 4, error.payload[2], error.payload[3], 0, 0, 0x05, 0xaa]);
}

/// M14: what has to fit is a segment of a super-frame, not the frame; the last one may be shorter.
#[test]
fn m1_m14_super_frames_are_judged_by_their_segments() {
    let pod = (BETA_IP, BETA.into(), 9000, 14);
    for (dst, port, mtu, head) in WAYS.into_iter().chain([pod]) {
        let tcp = Ip::tcp(ALPHA_IP, dst, 40_000).partial();
        let udp = Ip::udp(ALPHA_IP, dst, 40_000).partial();
        for (ip, kind, headers) in [(tcp, Segmentation::Tcp, 40), (udp, Segmentation::Udp, 28)] {
            let segments =
                |size| Offload { segments: Some(Segments { kind, size }), ..ip.partial_checksum() };
            let send =
                |size| bed().one(ALPHA, MemoryFrame { offload: segments(size), ..ip.sent_by(ALPHA_MAC) });

            let exchange = send(mtu - headers);
            let [(id, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
            assert_eq!((*id, frame.offload), (port, segments(mtu - headers)), "{kind:?}");
            assert_eq!(Ip::read(&frame.bytes[head..]), ip.leaving_by(port));

            let exchange = send(mtu - headers + 1);
            let [(id, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
            assert_eq!(*id, ALPHA.into(), "{port:?} {kind:?}");
            let error = Ip::read(&frame.bytes[14..]);
            assert_eq!(error.payload[..2], [3, 4]);
            assert_eq!(word(&error.payload, 6), mtu, "{port:?} {kind:?}");
        }
    }
}

/// Felix's settings lower what a tunnel carries. They do not raise it: what would not fit outside would have to be
/// fragmented there (RFC 7348 4.3).
#[test]
fn m5_a_tunnels_mtu_is_that_of_the_path_to_its_peer_less_the_headers() {
    let plan = |felix: &str| {
        let mut plan = margay::rib::plan(&resources(CLUSTER), "a").unwrap();
        let mtu = |name: &str| felix.split(' ').find_map(|word| word.strip_prefix(name)?.parse().ok());
        (plan.settings.vxlan_mtu, plan.settings.ipip_mtu) = (mtu("vxlan="), mtu("ipip="));
        plan
    };
    // The peers are B and C.
    for (felix, paths, wanted) in [
        ("", [1500, 1500], [1450, 1450, 1480, 1480, 1500]),
        ("", [1400, 9000], [1350, 8950, 1380, 8980, 1400]),
        ("vxlan=1300 ipip=1301", [1500, 1340], [1300, 1290, 1301, 1301, 1500]),
        ("vxlan=1451 ipip=65535", [1500, 1501], [1450, 1451, 1480, 1481, 1500]),
    ] {
        let environment = Environment {
            endpoints: vec![None; 3],
            peer_mtus: [PEER_B, PEER_C].map(IpAddr::V4).into_iter().zip(paths).collect(),
            host_mtu: None,
            outer_ttl: OuterTtl::default(),
            icmp_sources: Vec::new(),
        };
        let fib = Fib::compile(&plan(felix), &environment).unwrap();
        let mtus =
            [B_VXLAN, C_VXLAN, B_IPIP, C_IPIP, B_DIRECT].map(|dst| mtu::<Ipv4Addr>(&fib, fib.lookup(dst)));
        assert_eq!(mtus, wanted, "{felix:?} {paths:?}");
    }
}

/// RFC 2003 3.1.
#[test]
fn m2_df_outside_is_df_inside() {
    for fragment in [DF, 0, MF, DF | MF, 7] {
        let ip = Ip::udp(ALPHA_IP, B_IPIP, 32).fragment(fragment);
        let exchange = bed().one(ALPHA, ip.sent_by(ALPHA_MAC));
        assert_eq!(Ip::read(&exchange.out[0].1.bytes).fragment, fragment & DF);
    }
}

/// Put together, the pieces are `whole`, as it would leave if it fitted.
#[track_caller]
fn together(pieces: &[Ip], mtu: u16, whole: &Ip) {
    let (start, flags) = (whole.fragment & 0x1fff, whole.fragment & MF);
    let mut payload: Vec<u8> = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        let is_last = index + 1 == pieces.len();
        assert!(piece.len() <= usize::from(mtu));
        assert_eq!(piece.fragment & 0x1fff, start + (payload.len() / 8) as u16);
        assert_eq!(piece.fragment & 0xe000, if is_last { flags } else { MF });
        assert!(is_last || piece.payload.len() % 8 == 0);
        assert_eq!((piece.id, piece.tos, piece.ttl), (whole.id, whole.tos, whole.ttl));
        payload.extend(&piece.payload);
    }
    assert_eq!(payload, whole.payload);
}

/// RFC 791 3.2: the inner packet is split, then each piece is encapsulated.
#[test]
fn m3_without_df_the_packet_is_split_and_each_piece_carried() {
    for (dst, port, mtu, head) in WAYS {
        for over in [1, 2, 1000, 5000] {
            let ip = Ip::udp(ALPHA_IP, dst, usize::from(mtu) - 28 + over).fragment(0).tos(0x28);
            let exchange = bed().one(ALPHA, ip.sent_by(ALPHA_MAC));
            assert!(exchange.out.iter().all(|(id, _)| *id == port));
            let pieces: Vec<Ip> =
                exchange.out.iter().map(|(_, frame)| Ip::read(&frame.bytes[head..])).collect();
            assert_eq!(pieces.len(), (ip.payload.len()).div_ceil((usize::from(mtu) - 20) / 8 * 8));
            together(&pieces, mtu, &ip.leaving_by(port));
        }
    }
}

/// The kernel counts the hop of what is split on its way from the host, or to it: a TTL of 1 stays as well.
#[test]
fn t2_fragments_from_and_to_the_host_keep_the_ttl() {
    let mut bed = Bed::on(Machine { host_mtu: Some(1400), ..Machine::default() });
    for ttl in [1, 64] {
        let to_host = Ip::udp(ALPHA_IP, OUTSIDE, 1400).fragment(0).ttl(ttl);
        let pod = (BETA_IP, BETA.into(), POD_MTU, 14);
        let from_host = |dst| Ip::udp(OUTSIDE, dst, 2000).fragment(0).ttl(ttl);
        let cases = WAYS.into_iter().chain([pod]).map(|(dst, port, mtu, head)| match port {
            PortId::Host => (ALPHA.into(), to_host.sent_by(ALPHA_MAC), to_host.clone(), port, mtu, head),
            _ => (PortId::Host, from_host(dst).plain(), from_host(dst), port, mtu, head),
        });
        for (from, frame, whole, port, mtu, head) in cases {
            let exchange = bed.one(from, frame);
            assert_eq!(exchange.out.len(), 2, "{port:?}");
            assert!(exchange.out.iter().all(|(id, _)| *id == port));
            let pieces: Vec<Ip> =
                exchange.out.iter().map(|(_, frame)| Ip::read(&frame.bytes[head..])).collect();
            together(&pieces, mtu, &whole);
        }
    }
}

/// The pieces go their own ways outside: each outer header has an id of its own.
#[test]
fn m3_outer_ids_differ() {
    let ip = Ip::udp(ALPHA_IP, B_IPIP, 4000).fragment(0);
    let exchange = bed().one(ALPHA, ip.sent_by(ALPHA_MAC));
    let mut ids: Vec<u16> = exchange.out.iter().map(|(_, frame)| Ip::read(&frame.bytes).id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 3);
    assert!(!ids.contains(&0));
}

/// M14: the checksum is that of the whole datagram, so it must be finished before the datagram is split.
#[test]
fn m3_a_partial_checksum_is_finished_before_the_split() {
    for (dst, port, mtu, head) in WAYS {
        let whole = Ip::udp(ALPHA_IP, dst, 2000).fragment(0);
        let mut frame = whole.clone().partial().sent_by(ALPHA_MAC);
        frame.offload = whole.partial_checksum();
        let exchange = bed().one(ALPHA, frame);
        let pieces: Vec<Ip> = exchange.out.iter().map(|(_, frame)| Ip::read(&frame.bytes[head..])).collect();
        together(&pieces, mtu, &whole.leaving_by(port));
        assert!(exchange.out.iter().all(|(_, frame)| frame.offload == Default::default()));
    }
}

/// RFC 791 3.1: router alert is copied to each fragment, record route stays on the first.
#[test]
fn m4_fragments_are_split_again_and_only_copied_options_stay() {
    for fragment in [MF | 100, 100] {
        let ip = Ip::udp(ALPHA_IP, B_VXLAN, 2992).fragment(fragment);
        let exchange = bed().one(ALPHA, ip.sent_by(ALPHA_MAC));
        let pieces: Vec<Ip> = exchange.out.iter().map(|(_, frame)| Ip::read(&frame.bytes[22..])).collect();
        together(&pieces, 1450, &ip.hop());
    }
    let options = vec![7, 7, 4, 0, 0, 0, 0, 1, 0x94, 4, 0, 0];
    let ip = Ip { options: options.clone(), ..Ip::udp(ALPHA_IP, B_VXLAN, 3000).fragment(0) };
    let exchange = bed().one(ALPHA, ip.sent_by(ALPHA_MAC));
    let pieces: Vec<Ip> = exchange.out.iter().map(|(_, frame)| Ip::read(&frame.bytes[22..])).collect();
    assert_eq!(pieces[0].options, options);
    assert!(pieces.len() == 3 && pieces[1..].iter().all(|piece| piece.options == [0x94, 4, 0, 0]));
}

/// RFC 1812 4.2.2.7: no reassembly, no order, no state; the pieces of one datagram take one way.
#[test]
fn m9_a_pods_own_fragments_are_forwarded_in_any_order() {
    let pieces = [(MF, 1), (MF | 3, 2), (6, 3)].map(|(fragment, fill)| {
        let payload = vec![fill; 24];
        Ip { fragment, ..Ip::new(ALPHA_IP, B_VXLAN, UDP, payload) }
    });
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 2, 1]] {
        let frames = order.map(|index| (ALPHA.into(), pieces[index].sent_by(ALPHA_MAC)));
        let exchange = Bed::new().exchange(frames);
        let out: Vec<Ip> = exchange.out.iter().map(|(_, frame)| Ip::read(&frame.bytes[22..])).collect();
        assert_eq!(out, order.map(|index| pieces[index].hop()));
        assert!(exchange.out.iter().all(|(_, frame)| frame.flow == exchange.out[0].1.flow));
    }
}

/// An MTU that leaves no room for 8 bytes of payload beside the options.
#[test]
fn m3_what_cannot_be_split_is_dropped_with_a_reason() {
    let mut bed = Bed::on(Machine { host_mtu: Some(67), ..Machine::default() });
    let ip = Ip { options: vec![1; 40], ..Ip::udp(ALPHA_IP, OUTSIDE, 100).fragment(0) };
    let exchange = bed.one(ALPHA, ip.sent_by(ALPHA_MAC));
    assert_eq!(exchange.out, []);
    assert_eq!(exchange.tally.dropped[DropReason::TooBigUnsplittable.index()], 1);
}

/// What is for the node itself has arrived: the MTU of the interface to its kernel stands in nobody's way.
#[test]
fn m1_what_is_for_the_node_itself_is_not_measured() {
    let large = Ip::udp(B_IPIP, NODE, 1452);
    let exchange = bed().one(PortId::Ipip, large.in_ipip(PEER_B, NODE));
    let [(PortId::Host, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
    assert_eq!(frame.bytes, large.bytes());
}

/// M3, M9: of a super-frame without DF the datagrams keep their borders, each with an id of its own, and each is split
/// like one that came alone.
#[test]
fn m3_a_super_frame_of_datagrams_is_cut_and_each_datagram_split() {
    for (dst, port, mtu, head) in WAYS {
        for (size, len) in [(2000, 9000), (usize::from(mtu) - 27, 5000), (4000, 4001)] {
            let whole = Ip::udp(ALPHA_IP, dst, len).fragment(0);
            let kind = margay::buf::Segmentation::Udp;
            let segments = Some(margay::buf::Segments { kind, size: size as u16 });
            let mut frame = whole.clone().partial().sent_by(ALPHA_MAC);
            frame.offload = margay::buf::Offload { segments, ..whole.partial_checksum() };
            let exchange = bed().one(ALPHA, frame);
            assert!(exchange.out.iter().all(|(id, _)| *id == port));
            let mut pieces = exchange.out.iter().map(|(_, frame)| Ip::read(&frame.bytes[head..])).peekable();
            for (index, data) in whole.payload[8..].chunks(size).enumerate() {
                let id = whole.id.wrapping_add(index as u16);
                let datagram = Ip { id, ..Ip::datagram(ALPHA_IP, dst, (1000, 2000), data).fragment(0) };
                let of_it: Vec<Ip> = std::iter::from_fn(|| pieces.next_if(|piece| piece.id == id)).collect();
                if datagram.len() <= usize::from(mtu) {
                    assert_eq!(of_it, [datagram.leaving_by(port)], "the last one fits");
                } else {
                    together(&of_it, mtu, &datagram.leaving_by(port));
                }
            }
            assert_eq!(pieces.next(), None);
        }
    }
}

/// A piece that would end beyond the longest packet: its second half would have an offset that begins anew at 0, where
/// the ports stand (RFC 3128).
#[test]
fn m11_no_offset_wraps_when_a_fragment_is_split() {
    for host_mtu in [28, 500] {
        let mut bed = Bed::on(Machine { pod_mtu: 9000, host_mtu: Some(host_mtu), ..Machine::default() });
        let payload = vec![0x41; 1000];
        let ip = Ip::new(ALPHA_IP, OUTSIDE, UDP, payload).fragment(0x1fff);
        let exchange = bed.one(ALPHA, ip.sent_by(ALPHA_MAC));
        assert_eq!(exchange.out, []);
        assert_eq!(exchange.tally.dropped[DropReason::TooBigUnsplittable.index()], 1);
        // The last one that is possible goes.
        let last = Ip::new(ALPHA_IP, OUTSIDE, UDP, vec![0x41; 515]).fragment((65000 / 8) as u16);
        let exchange = bed.one(ALPHA, last.sent_by(ALPHA_MAC));
        let pieces: Vec<Ip> = exchange.out.iter().map(|(_, frame)| Ip::read(&frame.bytes)).collect();
        together(&pieces, host_mtu, &last);
    }
}
