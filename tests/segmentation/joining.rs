//! What is joined, and what is not.

use std::net::{Ipv4Addr, Ipv6Addr};

use margay::buf::{Offload, PartialChecksum, Segmentation, Segments};
use margay::io::join::{MAX_RUN, Takes};
use margay::wire::Protocol;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::streams::*;

const TCP: usize = 14 + 20;

fn v4() -> Ip {
    let addresses = [[10, 65, 0, 2], [10, 65, 0, 66]].map(Ipv4Addr::from);
    Ip::V4 { id: 0xfffe, dont_fragment: false, addresses }
}

fn v6() -> Ip {
    let addresses = [2, 66].map(|host| Ipv6Addr::new(0xfd65, 0, 0, 1, 0, 0, 0, host));
    Ip::V6 { flow_label: 0xabcde, extensions: Vec::new(), addresses }
}

/// With extension headers of 8 bytes.
fn v6_with(kinds: &[Protocol], third: u8) -> Ip {
    let Ip::V6 { flow_label, addresses, .. } = v6() else { unreachable!() };
    let extensions = kinds.iter().map(|kind| (*kind, vec![0, 1, third, 0, 0, 0, 0])).collect();
    Ip::V6 { flow_label, extensions, addresses }
}

/// Three segments of 1,000 bytes behind Ethernet headers, without flags but ACK, with options.
fn tcp_over(ip: Ip) -> Stream {
    Stream {
        has_ethernet: true,
        tos: 2,
        ttl: 63,
        ip,
        ports: [49152, 80],
        transport: Transport::Tcp {
            seq: 0xffff_ff00,
            ack: 9,
            window: 500,
            flags: 0x10,
            options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
        },
        size: 1000,
        payload: noise(1, 3000),
    }
}

fn tcp() -> Stream {
    tcp_over(v4())
}

fn udp_over(ip: Ip) -> Stream {
    Stream { transport: Transport::Udp, ..tcp_over(ip) }
}

fn udp() -> Stream {
    udp_over(v4())
}

/// Each protocol over each version.
fn all() -> [Stream; 4] {
    [tcp(), udp(), tcp_over(v6()), udp_over(v6())]
}

/// Where the transport header begins.
fn transport_at(stream: &Stream) -> usize {
    stream.l2() + stream.ip.len()
}

fn loose(pieces: Vec<Vec<u8>>) -> Vec<Loose> {
    pieces.into_iter().map(Loose::plain).collect()
}

/// Which frames leave together.
fn runs(frames: &[Loose]) -> Vec<Vec<usize>> {
    check(frames, 14, BOTH);
    joined(frames, 14, BOTH).into_iter().map(|run| run.frames).collect()
}

/// The runs after `edit` of the middle one of three segments, whose checksums are made right again.
fn runs_with(stream: &Stream, edit: impl Fn(&mut Vec<u8>)) -> Vec<Vec<usize>> {
    let mut pieces = stream.pieces();
    edit(&mut pieces[1]);
    repair(&mut pieces[1][14..]);
    runs(&loose(pieces))
}

#[test]
fn three_segments_become_what_they_were_cut_from() {
    let with_extensions = || v6_with(&[Protocol::HOP_BY_HOP, Protocol::DESTINATION_OPTIONS], 4);
    for stream in all().into_iter().chain([tcp_over(with_extensions()), udp_over(with_extensions())]) {
        let [run] = &joined(&loose(stream.pieces()), 14, BOTH)[..] else { panic!("one run") };
        assert_eq!(run.frames, [0, 1, 2]);
        assert_eq!((&run.out.bytes, run.out.offload), (&stream.whole(), stream.offload()));
    }
}

/// Each field that must be as in the first segment, each flag, and what is next.
#[test]
fn a_segment_that_the_kernel_would_not_join_is_not_joined() {
    let cases: [(&str, usize, u8); 20] = [
        ("destination MAC", 5, 1),
        ("source MAC", 11, 1),
        ("DSCP", 15, 0x80),
        ("ECN", 15, 1),
        ("id, as DF is clear", 19, 1),
        ("DF", 20, 0x40),
        ("the reserved bit", 20, 0x80),
        ("TTL", 22, 1),
        ("source", 29, 1),
        ("destination", 33, 1),
        ("source port", TCP, 1),
        ("destination port", TCP + 2, 1),
        ("sequence number", TCP + 7, 1),
        ("sequence number, far", TCP + 4, 0x80),
        ("acknowledgment", TCP + 11, 1),
        ("reserved bits", TCP + 12, 1),
        ("window", TCP + 15, 1),
        ("urgent pointer", TCP + 19, 1),
        ("options", TCP + 20, 7),
        ("options, last", TCP + 31, 7),
    ];
    for (what, at, bits) in cases {
        let runs = runs_with(&tcp(), |piece| piece[at] ^= bits);
        assert!(!runs.iter().any(|run| run.len() > 1 && run.contains(&1)), "{what}: {runs:?}");
    }
    for stream in [tcp(), tcp_over(v6())] {
        for flag in [0x02, 0x04, 0x10, 0x20, 0x40, 0x80] {
            let runs = runs_with(&stream, |piece| piece[transport_at(&stream) + 13] ^= flag);
            assert!(!runs.iter().any(|run| run.starts_with(&[0, 1])), "{flag:#x}: {runs:?}");
        }
    }
    for at in [5, 11, 15, 19, 20, 22, 29, 33, TCP, TCP + 2] {
        let runs = runs_with(&udp(), |piece| piece[at] ^= 0x40);
        assert!(!runs.iter().any(|run| run.len() > 1 && run.contains(&1)), "{at}: {runs:?}");
    }
}

/// The same over IPv6: every bit of its header but those of the length, and extension headers.
#[test]
fn a_segment_that_the_kernel_would_not_join_over_ipv6_is_not_joined() {
    for ip in [v6(), v6_with(&[Protocol::DESTINATION_OPTIONS], 4)] {
        for stream in [tcp_over(ip.clone()), udp_over(ip)] {
            let start = transport_at(&stream);
            // The ports too.
            for at in (0..18).chain(20..start + 4) {
                let runs = runs_with(&stream, |piece| piece[at] ^= 0x10);
                let is_apart = !runs.iter().any(|run| run.len() > 1 && run.contains(&1));
                assert!(is_apart, "byte {at}: {runs:?}");
            }
        }
    }
    // Extension headers that one frame alone has.
    let (with, without) = (tcp_over(v6_with(&[Protocol::HOP_BY_HOP], 4)), tcp_over(v6()));
    let mut pieces = without.pieces();
    pieces[1] = with.pieces().swap_remove(1);
    assert_eq!(runs(&loose(pieces)), [[0], [1], [2]]);
}

/// What stands behind a fragment header or an authentication, or is on its way to another last destination
/// (RFC 8200 8.1), is never joined, nor cut.
#[test]
fn headers_of_one_packet_alone_are_not_repeated() {
    let cases = [(Protocol::FRAGMENT, 0), (Protocol::AH, 0), (Protocol::ROUTING, 1)];
    for (kind, third) in cases {
        for stream in [tcp_over(v6()), udp_over(v6())] {
            let frames: Vec<Loose> = stream.pieces().iter().map(|piece| behind(piece, kind, third)).collect();
            assert_eq!(runs(&frames), [[0], [1], [2]], "{kind:?}");
            let whole = behind(&stream.whole(), kind, third);
            assert_eq!(cut(&whole.bytes, stream.outer(), stream.offload()), None, "{kind:?}");
            let passed = behind(&stream.whole(), Protocol::ROUTING, 0);
            assert!(cut(&passed.bytes, stream.outer(), stream.offload()).is_some());
        }
    }
}

/// An IPv6 frame with an extension header put behind its fixed header.
fn behind(frame: &[u8], kind: Protocol, third: u8) -> Loose {
    let mut bytes = frame.to_vec();
    let next = std::mem::replace(&mut bytes[20], kind.0);
    bytes.splice(54..54, [next, 0, 0, third, 0, 0, 0, 0]);
    let len = (bytes.len() - 54) as u16;
    bytes[18..20].copy_from_slice(&len.to_be_bytes());
    Loose::plain(bytes)
}

/// RFC 6864 4.1: with DF the id means nothing.
#[test]
fn ids_count_only_where_fragments_may_be_made() {
    for mut stream in [tcp(), udp()] {
        let Ip::V4 { dont_fragment, .. } = &mut stream.ip else { unreachable!() };
        *dont_fragment = true;
        assert_eq!(runs_with(&stream, |piece| piece[18] ^= 0x55), [[0, 1, 2]]);
    }
}

#[test]
fn push_and_fin_end_a_run_and_are_its_own() {
    for stream in [tcp(), tcp_over(v6())] {
        let at = transport_at(&stream) + 13;
        for flag in [0x01, 0x08, 0x09] {
            assert_eq!(runs_with(&stream, |piece| piece[at] |= flag), [vec![0, 1], vec![2]]);
            let mut pieces = stream.pieces();
            pieces[1][at] |= flag;
            repair(&mut pieces[1][14..]);
            let joined = joined(&loose(pieces), 14, BOTH);
            assert_eq!(joined[0].out.bytes[at], 0x10 | flag);
        }
        // The first that has one stays alone.
        let mut pieces = stream.pieces();
        pieces[0][at] |= 0x08;
        repair(&mut pieces[0][14..]);
        assert_eq!(runs(&loose(pieces)), [vec![0], vec![1, 2]]);
    }
}

#[test]
fn a_shorter_segment_ends_a_run_and_a_longer_one_begins_another() {
    for mut stream in all() {
        stream.payload.truncate(2500);
        let mut pieces = stream.pieces();
        pieces.push(pieces[2].clone());
        assert_eq!(runs(&loose(pieces))[0], [0, 1, 2]);
        // The middle one shorter by a byte, or longer: what follows is not next.
        for (change, expected) in [(999, vec![vec![0, 1], vec![2]]), (1001, vec![vec![0], vec![1], vec![2]])]
        {
            let mut pieces = stream.pieces();
            pieces[1].resize(stream.head_len() + change, 0);
            let len = (stream.head_len() + change - 14) as u16;
            match stream.ip {
                Ip::V4 { .. } => pieces[1][16..18].copy_from_slice(&len.to_be_bytes()),
                Ip::V6 { .. } => pieces[1][18..20].copy_from_slice(&(len - 40).to_be_bytes()),
            }
            if let Transport::Udp = stream.transport {
                let at = transport_at(&stream) + 4;
                let len = len - stream.ip.len() as u16;
                pieces[1][at..at + 2].copy_from_slice(&len.to_be_bytes());
            }
            repair(&mut pieces[1][14..]);
            let found = runs(&loose(pieces));
            assert_eq!(found[0], expected[0], "{change}");
            assert!(found.len() >= 2, "{change} {found:?}");
        }
    }
}

/// RFC 3168 6.1.2: CWR belongs to the first segment of a super-frame alone.
#[test]
fn cwr_on_the_first_segment_is_carried_by_the_kind() {
    for mut stream in [tcp(), tcp_over(v6())] {
        let Transport::Tcp { flags, .. } = &mut stream.transport else { unreachable!() };
        *flags = 0x90;
        let joined = joined(&loose(stream.pieces()), 14, BOTH);
        let segments = Some(Segments { kind: Segmentation::TcpEcn, size: 1000 });
        assert_eq!((joined.len(), joined[0].out.offload.segments), (1, segments));
        let at = transport_at(&stream) + 13;
        assert_eq!(runs_with(&stream, |piece| piece[at] |= 0x80), [vec![0], vec![1, 2]]);
    }
}

#[test]
fn a_wrong_checksum_is_passed_on_as_it_is_and_joined_with_nothing() {
    for stream in all() {
        for index in 0..3 {
            let mut pieces = stream.pieces();
            let last = pieces[index].len() - 1;
            pieces[index][last] ^= 1;
            let runs = runs(&loose(pieces));
            assert!(runs.contains(&vec![index]), "{index}: {runs:?}");
        }
    }
}

#[test]
fn unfinished_checksums_are_joined_as_they_are() {
    for stream in all() {
        let mut frames = loose(stream.pieces());
        for frame in &mut frames {
            let start = transport_at(&stream);
            let len = frame.bytes.len() - start;
            let (protocol, [src, dst]) = (stream.protocol(), stream.ip.addresses());
            let sum = margay::wire::checksum::pseudo_header(src, dst, protocol, len);
            let at = start + usize::from(stream.field());
            frame.bytes[at..at + 2].copy_from_slice(&sum.folded().to_be_bytes());
            frame.offload.checksum = stream.offload().checksum;
        }
        check(&frames, 14, BOTH);
        let runs = joined(&frames, 14, BOTH);
        assert_eq!((runs.len(), &runs[0].out.bytes), (1, &stream.whole()));
        // One that says something else of itself.
        let start = stream.ip.len() as u16 + 4;
        frames[1].offload.checksum = Some(PartialChecksum { start, field: stream.field() - 4 });
        assert_eq!(joined(&frames, 14, BOTH).len(), 3);
    }
}

#[test]
fn what_may_not_be_joined_stays_alone_and_keeps_its_place() {
    type Edit = fn(&mut Loose);
    let edits: [(&str, Edit); 9] = [
        ("no payload", |frame| {
            frame.bytes.truncate(66);
            frame.bytes[16..18].copy_from_slice(&52_u16.to_be_bytes());
            repair(&mut frame.bytes[14..]);
        }),
        ("a fragment", |frame| {
            frame.bytes[20] |= 0x20;
            repair_ip(&mut frame.bytes[14..]);
        }),
        ("a later fragment", |frame| {
            frame.bytes[21] |= 1;
            repair_ip(&mut frame.bytes[14..]);
        }),
        ("padding", |frame| frame.bytes.push(0)),
        ("a super-frame", |frame| {
            frame.offload.segments = Some(Segments { kind: Segmentation::Tcp, size: 100 });
        }),
        ("ARP", |frame| frame.bytes[13] = 6),
        ("another version than Ethernet says", |frame| frame.bytes[12..14].copy_from_slice(&[0x86, 0xdd])),
        ("another protocol", |frame| {
            frame.bytes[23] = 47;
            repair_ip(&mut frame.bytes[14..]);
        }),
        ("half a header", |frame| frame.bytes.truncate(40)),
    ];
    for (what, edit) in edits {
        let mut frames = loose(tcp().pieces());
        edit(&mut frames[1]);
        assert_eq!(runs(&frames), [[0], [1], [2]], "{what}");
    }
    for stream in [udp(), udp_over(v6())] {
        let mut frames = loose(stream.pieces());
        frames[1].bytes[transport_at(&stream) + 6..][..2].fill(0);
        assert_eq!(runs(&frames), [[0], [1], [2]], "a datagram without checksum");
    }
    let edits: [(&str, Edit); 5] = [
        ("no payload", |frame| {
            frame.bytes.truncate(86);
            frame.bytes[18..20].copy_from_slice(&32_u16.to_be_bytes());
            repair(&mut frame.bytes[14..]);
        }),
        ("a fragment", |frame| *frame = behind(&frame.bytes, Protocol::FRAGMENT, 1)),
        ("padding", |frame| frame.bytes.push(0)),
        ("a super-frame", |frame| {
            frame.offload.segments = Some(Segments { kind: Segmentation::Tcp, size: 100 });
        }),
        ("neighbour discovery", |frame| frame.bytes[20] = 58),
    ];
    for (what, edit) in edits {
        let mut frames = loose(tcp_over(v6()).pieces());
        edit(&mut frames[1]);
        assert_eq!(runs(&frames), [[0], [1], [2]], "{what}");
    }
    // IP options.
    let mut frames = loose(tcp().pieces());
    frames.iter_mut().for_each(|frame| {
        frame.bytes.splice(34..34, [1; 4]);
        frame.bytes[14] = 0x46;
        let len = (frame.bytes.len() - 14) as u16;
        frame.bytes[16..18].copy_from_slice(&len.to_be_bytes());
        repair_ip(&mut frame.bytes[14..]);
    });
    assert_eq!(runs(&frames), [[0], [1], [2]]);
}

#[test]
fn only_what_the_interface_takes_is_joined() {
    let counts = |takes| all().map(|stream| joined(&loose(stream.pieces()), 14, takes).len());
    assert_eq!(counts(Takes { tcp: true, udp: false }), [1, 3, 1, 3]);
    assert_eq!(counts(Takes { tcp: false, udp: true }), [3, 1, 3, 1]);
}

/// 128 segments, 64 datagrams (`UDP_GRO_CNT_MAX`), 65,535 bytes; and a batch longer than is looked at together.
#[test]
fn a_run_ends_where_it_is_full() {
    let lens = |stream: Stream| runs(&loose(stream.pieces())).iter().map(Vec::len).collect::<Vec<_>>();
    let stream = |stream: Stream, size: u16, count: usize| Stream {
        size,
        payload: noise(3, usize::from(size) * count),
        ..stream
    };
    assert_eq!(lens(stream(tcp(), 10, 300)), [MAX_RUN, MAX_RUN, 44]);
    assert_eq!(lens(stream(udp(), 10, 150)), [64, 64, 22]);
    assert_eq!(lens(stream(tcp_over(v6()), 10, 300)), [MAX_RUN, MAX_RUN, 44]);
    assert_eq!(lens(stream(udp_over(v6()), 10, 150)), [64, 64, 22]);
    // 20 + 32 + 44 * 1488 is 65,524, and 40 + 32 + 44 * 1487 is 65,500: one segment more would not fit.
    for (ip, size) in [(v4(), 1488), (v6(), 1487)] {
        let mut frames = loose(stream(tcp_over(ip.clone()), size, 44).pieces());
        let mut next = stream(tcp_over(ip), size, 2);
        if let Ip::V4 { id, .. } = &mut next.ip {
            *id = id.wrapping_add(44);
        }
        let Transport::Tcp { seq, .. } = &mut next.transport else { unreachable!() };
        *seq = seq.wrapping_add(44 * u32::from(size));
        frames.extend(loose(next.pieces()));
        assert_eq!(runs(&frames).iter().map(Vec::len).collect::<Vec<_>>(), [44, 2]);
    }

    let pieces: Vec<Vec<u8>> = (0..7).flat_map(|_| stream(tcp(), 10, 100).pieces()).collect();
    check(&loose(pieces), 14, BOTH);
}

#[test]
fn flows_that_take_turns_are_joined_each_for_itself() {
    let other = Stream { ports: [49153, 80], ..tcp() };
    let streams = [tcp(), other, udp(), tcp_over(v6())].map(|stream| loose(stream.pieces()));
    let frames: Vec<Loose> =
        (0..3).flat_map(|index| streams.each_ref().map(|stream| stream[index].clone())).collect();
    let mut runs = runs(&frames);
    runs.sort();
    assert_eq!(runs, [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]);
}

#[test]
fn an_offload_that_is_no_frame_of_ours_does_no_harm() {
    let mut frames = loose(tcp().pieces());
    frames[1].offload = Offload::IMPOSSIBLE;
    assert_eq!(runs(&frames), [[0], [1], [2]]);
}

proptest! {
    #[test]
    fn joining_gives_back_what_was_cut(chance in vec(any::<u8>(), 0..80)) {
        let stream = Stream::any(&mut Choices(&chance));
        let frames = loose(stream.pieces());
        let runs = joined(&frames, stream.l2(), BOTH);
        prop_assert_eq!(runs.len(), 1, "{:?}", runs.iter().map(|run| run.frames.len()).collect::<Vec<_>>());
        prop_assert_eq!(&runs[0].out.bytes, &stream.whole());
        prop_assert_eq!(runs[0].out.offload, stream.offload());
    }

    /// Streams that take turns, with bytes of their headers changed, checksums made right again or not.
    #[test]
    fn whatever_is_joined_can_be_cut_again(
        chances in vec(vec(any::<u8>(), 0..80), 1..5),
        turns in vec(any::<u8>(), 0..100),
        edits in vec((any::<u16>(), any::<u16>(), any::<u8>(), any::<bool>(), any::<bool>()), 0..20),
    ) {
        let mut streams: Vec<Vec<Vec<u8>>> = chances.iter().map(|chance| {
            let stream = Stream::any(&mut Choices(chance));
            let mut pieces = Stream { has_ethernet: true, ..stream }.pieces();
            pieces.truncate(20);
            pieces.reverse();
            pieces
        }).collect();
        let mut frames = Vec::new();
        for turn in turns.iter().copied().chain(std::iter::repeat_n(0, 100)) {
            let count = streams.len();
            if let Some(piece) = streams[usize::from(turn) % count].pop() {
                frames.push(Loose::plain(piece));
            }
        }
        for (frame, at, value, repairs, to_start) in edits {
            let count = frames.len();
            let Some(frame) = frames.get_mut(usize::from(frame) % count.max(1)) else { continue };
            let len = if to_start { frame.bytes.len().min(130) } else { frame.bytes.len() };
            frame.bytes[usize::from(at) % len] = value;
            if repairs {
                repair(&mut frame.bytes[14..]);
            }
        }
        check(&frames, 14, BOTH);
    }
}
