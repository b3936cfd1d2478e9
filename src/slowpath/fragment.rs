//! IPv4 fragmentation (RFC 791 3.2), of packets and of fragments.

use crate::buf::{Frame, Pool, Segments};
use crate::io::offload::{MAX_HEAD, Outer, SuperFrame};
use crate::verdict::DropReason;
use crate::wire::checksum;
use crate::wire::ipv4::{self, Ipv4};

/// Splits the packet in `frame` so that no piece is longer than `mtu` bytes, header included, and hands out each piece,
/// or the reason why it is none.
pub fn fragment(pool: &mut Pool, frame: &Frame, mtu: u16, mut out: impl FnMut(Result<Frame, DropReason>)) {
    let Ok(ip) = Ipv4::parse(pool.bytes(frame)) else {
        return out(Err(DropReason::TooBigUnsplittable));
    };
    let (header_len, total) = (ip.header_len(), ip.payload().len());
    let (first_offset, last_has_more) = (ip.fragment_offset(), ip.more_fragments());
    let mut headers = Headers::of(&ip);
    // Each piece but the last carries a multiple of 8 bytes.
    let size = usize::from(mtu).saturating_sub(header_len) / 8 * 8;
    // What would end beyond the longest packet there is, is no piece of one: its offset has no place in 13 bits.
    let is_possible = header_len + first_offset + total <= usize::from(u16::MAX);
    if size == 0 || !is_possible {
        return out(Err(DropReason::TooBigUnsplittable));
    }
    for start in (0..total).step_by(size) {
        let len = size.min(total - start);
        let header = headers.piece(first_offset + start, len, start + len < total || last_has_more);
        let Some(mut piece) = pool.take() else {
            out(Err(DropReason::NoBuffer));
            continue;
        };
        pool.filled(&mut piece, header.len() + len);
        pool.bytes_mut(&piece)[..header.len()].copy_from_slice(header);
        pool.copy(frame, header_len + start, &piece, header.len(), len);
        out(Ok(piece));
    }
}

/// Cuts a super-frame of datagrams into its datagrams, and splits those that are longer than `mtu` bytes.
pub fn datagrams(
    pool: &mut Pool,
    frame: &Frame,
    segments: Segments,
    mtu: u16,
    mut out: impl FnMut(Result<Frame, DropReason>),
) {
    let mut head = [0; MAX_HEAD];
    let (mut index, mut start) = (0, 0);
    loop {
        let Some(whole) = SuperFrame::parse(pool.bytes(frame), Outer::None, segments) else {
            return out(Err(DropReason::OffloadMalformed));
        };
        if index == whole.count() {
            return;
        }
        let (head_len, len) = (whole.head_len(), whole.payload(index).len());
        let head = &mut head[..head_len];
        whole.write_head(index, head);
        match pool.take() {
            None => out(Err(DropReason::NoBuffer)),
            Some(mut datagram) => {
                pool.filled(&mut datagram, head_len + len);
                pool.bytes_mut(&datagram)[..head_len].copy_from_slice(head);
                pool.copy(frame, head_len + start, &datagram, head_len, len);
                if datagram.len() <= usize::from(mtu) {
                    out(Ok(datagram));
                } else {
                    fragment(pool, &datagram, mtu, &mut out);
                    pool.put(datagram);
                }
            }
        }
        index += 1;
        start += len;
    }
}

/// The header of the first piece, then that of the others: they keep only the options that say so.
struct Headers {
    bytes: [u8; 60],
    len: usize,
    copied_len: usize,
    copied: [u8; 60],
    first: bool,
}

impl Headers {
    fn of(ip: &Ipv4<'_>) -> Self {
        let mut bytes = [0; 60];
        bytes[..ip.header_len()].copy_from_slice(ip.header());
        let mut copied = bytes;
        let options = copied_options(ip.options(), &mut copied[ipv4::MIN_HEADER_LEN..]);
        let copied_len = ipv4::MIN_HEADER_LEN + options;
        copied[0] = 0x40 | (copied_len / 4) as u8;
        // Of a later fragment all options are copied ones already.
        let first = ip.fragment_offset() == 0;
        Headers { bytes, len: ip.header_len(), copied_len, copied, first }
    }

    fn piece(&mut self, offset: usize, payload: usize, more: bool) -> &[u8] {
        let header = match self.first {
            true => &mut self.bytes[..self.len],
            false => &mut self.copied[..self.copied_len],
        };
        self.first = false;
        let total = (header.len() + payload) as u16;
        // The offset of a packet that parsed, plus a part of its payload: at most 13 bits of 8 bytes.
        let flags = (offset / 8) as u16 & 0x1fff | if more { 0x2000 } else { 0 };
        header[2..4].copy_from_slice(&total.to_be_bytes());
        header[6..8].copy_from_slice(&flags.to_be_bytes());
        header[10..12].fill(0);
        let sum = checksum::checksum(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }
}

/// Writes the options whose copied flag is set (RFC 791 3.1) to `out`, padded to a multiple of 4 bytes with
/// end-of-list; says how many bytes that is. What cannot be read ends the list.
fn copied_options(mut options: &[u8], out: &mut [u8]) -> usize {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const COPIED: u8 = 0x80;
    let mut written = 0;
    while let [kind, rest @ ..] = options {
        match *kind {
            END => break,
            NO_OPERATION => options = rest,
            kind => {
                let Some(len) = rest.first().map(|len| usize::from(*len)) else { break };
                if len < 2 || len > options.len() {
                    break;
                }
                if kind & COPIED != 0 {
                    out[written..written + len].copy_from_slice(&options[..len]);
                    written += len;
                }
                options = &options[len..];
            }
        }
    }
    let padded = written.next_multiple_of(4);
    out[written..padded].fill(END);
    padded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::SlotSize;
    use crate::wire::Protocol;

    fn split(packet: &[u8], mtu: u16) -> Vec<Vec<u8>> {
        let mut pool = Pool::new(256, SlotSize::SuperFrame);
        let mut frame = pool.take().unwrap();
        pool.room(&frame)[..packet.len()].copy_from_slice(packet);
        pool.filled(&mut frame, packet.len());
        let mut made = Vec::new();
        fragment(&mut pool, &frame, mtu, |piece| made.push(piece.unwrap()));
        pool.put(frame);
        let mut bytes = |piece| {
            let bytes = pool.bytes(&piece).to_vec();
            pool.put(piece);
            bytes
        };
        let pieces = made.into_iter().map(&mut bytes).collect();
        assert_eq!(pool.available(), pool.slots());
        pieces
    }

    fn packet(offset: u16, more_fragments: bool, options: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 20];
        let header = ipv4::Header {
            tos: 0x28,
            total_len: (20 + options.len() + payload.len()) as u16,
            id: 0x1234,
            dont_fragment: false,
            more_fragments,
            fragment_offset: offset,
            ttl: 63,
            protocol: Protocol::UDP,
            src: [10, 65, 0, 2].into(),
            dst: [10, 65, 1, 2].into(),
        };
        header.write(bytes.first_chunk_mut().unwrap());
        bytes[0] = 0x45 + (options.len() / 4) as u8;
        bytes.extend_from_slice(options);
        bytes[10..12].fill(0);
        let sum = checksum::checksum(&bytes);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    fn check(original: &[u8], pieces: &[Vec<u8>], mtu: usize) {
        let whole = Ipv4::parse(original).unwrap();
        let mut next = whole.fragment_offset();
        let mut payload = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            let ip = Ipv4::parse(piece).expect("length and checksum are right");
            assert!(piece.len() <= mtu);
            assert_eq!((ip.id(), ip.src(), ip.dst(), ip.tos()), (whole.id(), whole.src(), whole.dst(), 0x28));
            assert_eq!(ip.fragment_offset(), next);
            let last = index + 1 == pieces.len();
            assert_eq!(ip.more_fragments(), !last || whole.more_fragments());
            next += ip.payload().len();
            payload.extend_from_slice(ip.payload());
        }
        assert_eq!(payload, whole.payload());
    }

    /// M3: the kernel's own sizes for VXLAN and IPIP.
    #[test]
    fn pieces_are_as_large_as_the_mtu_allows_and_put_together_give_the_packet() {
        let payload: Vec<u8> = (0..1480_u32).map(|n| n as u8).collect();
        let original = packet(0, false, &[], &payload);
        let pieces = split(&original, 1480);
        assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [1476, 44]);
        for mtu in [28, 68, 576, 1450, 1480, 1499] {
            check(&original, &split(&original, mtu), usize::from(mtu));
        }
    }

    /// M4.
    #[test]
    fn a_fragment_is_split_again() {
        let original = packet(2960, true, &[], &[0x5a; 800]);
        check(&original, &split(&original, 300), 300);
    }

    /// M4: router alert (copied) stays, record route (not copied) is on the first piece alone.
    #[test]
    fn only_copied_options_are_on_later_pieces() {
        let options = [7, 7, 4, 0, 0, 0, 0, 1, 0x94, 4, 0, 0];
        let original = packet(0, false, &options, &[0x5a; 400]);
        let pieces = split(&original, 128);
        check(&original, &pieces, 128);
        assert_eq!(Ipv4::parse(&pieces[0]).unwrap().options(), options);
        for piece in &pieces[1..] {
            assert_eq!(Ipv4::parse(piece).unwrap().options(), [0x94, 4, 0, 0]);
        }
    }
}
