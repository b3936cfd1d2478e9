//! Super-frames: cut, and joined from what was cut.

use margay::buf::{MAX_SEGMENTS, Offload};
use margay::io::join::Takes;
use margay::io::offload::Outer;
use margay::io::vnet;
use margay::wire::ip::{Family, View};
use margay::wire::{Ipv4, Ipv6, transport::Transport};

#[path = "../../../tests/segmentation/streams.rs"]
pub(super) mod streams;

use streams::{BOTH, Choices, Loose, Stream, check, cut, joined, repair};

/// A virtio-net header and what follows it, cut behind each kind of outer header.
pub(super) fn cut_any(input: &[u8]) {
    let Some((header, bytes)) = input.split_first_chunk::<{ vnet::LEN }>() else { return };
    // No port receives more.
    let bytes = &bytes[..bytes.len().min(65_549)];
    for (outer, l2) in [(Outer::None, 0), (Outer::Ethernet, 14), (Outer::Ipip, 20), (Outer::Vxlan, 22)] {
        let ip = bytes.get(l2.into()..).unwrap_or_default();
        let offload = vnet::decode(header, l2, ip);
        assert_eq!(
            vnet::decode(&vnet::encode(offload, l2, ip), l2, ip),
            offload,
            "read, written and read again"
        );
        let Some(pieces) = few(offload).and_then(|offload| cut(bytes, outer, offload)) else { continue };
        let size = usize::from(offload.segments.expect("it was cut").size);
        match Family::of_packet(ip) {
            Some(Family::V6) => check_pieces::<Ipv6<'_>>(ip, &pieces, l2.into(), size),
            _ => check_pieces::<Ipv4<'_>>(ip, &pieces, l2.into(), size),
        }
    }
}

/// Each piece is a packet, and together they carry what the whole did.
fn check_pieces<'a, V: View<'a>>(whole: &'a [u8], pieces: &'a [Vec<u8>], l2: usize, size: usize) {
    let whole = V::parse(whole).expect("it was cut");
    let transport = Transport::parse(&whole).expect("it was cut");
    let payload = &whole.payload()[transport.header_len.into()..];
    assert_eq!(pieces.len(), payload.len().div_ceil(size).max(1));
    let mut rest = payload;
    for piece in pieces {
        let ip = V::parse(&piece[l2..]).expect("a segment is a packet");
        let (this, behind) = rest.split_at(size.min(rest.len()));
        assert!(ip.payload().ends_with(this) && ip.total_len() + l2 == piece.len());
        rest = behind;
    }
    assert!(rest.is_empty());
}

/// What the engine lets pass.
fn few(offload: Offload) -> Option<Offload> {
    let size = usize::from(offload.segments?.size);
    (65_535_usize.div_ceil(size.max(1)) <= MAX_SEGMENTS).then_some(offload)
}

/// Streams that take turns, bytes of their frames changed.
pub(super) fn join_any(input: &[u8]) {
    let mut choices = Choices(input);
    let takes = Takes { tcp: choices.flag(), udp: choices.flag() };
    let has_ethernet = choices.flag();
    let mut frames: Vec<Loose> = Vec::new();
    for _ in 0..=choices.below(3) {
        let stream = Stream { has_ethernet, ..Stream::any(&mut choices) };
        let pieces: Vec<Loose> = stream.pieces().into_iter().map(Loose::plain).collect();
        let whole = joined(&pieces, stream.l2(), BOTH);
        assert_eq!(whole.len(), 1, "{stream:?}");
        assert_eq!(whole[0].out, Loose { bytes: stream.whole(), offload: stream.offload() });
        // Among those of the streams before it.
        for piece in pieces.into_iter().take(20) {
            let at = frames.len() - choices.below(frames.len() + 1).min(20);
            frames.insert(at, piece);
        }
    }
    let l2 = if has_ethernet { 14 } else { 0 };
    while !choices.0.is_empty() {
        let index = choices.below(frames.len());
        let frame = &mut frames[index];
        let at = choices.below(frame.bytes.len().min(l2 + 130));
        frame.bytes[at] ^= choices.byte();
        match choices.byte() {
            0..100 => repair(&mut frame.bytes[l2..]),
            100..110 => frame.bytes.truncate(at.max(l2 + 40)),
            110..120 => {
                let flags = choices.byte();
                let start = if flags & 2 == 0 { 34 } else { 54 };
                frame.offload = vnet::decode(&[flags & 1, 0, 0, 0, 0, 0, start, 0, 16, 0], 14, &[]);
            }
            _ => {}
        }
    }
    check(&frames, l2, takes);
}
