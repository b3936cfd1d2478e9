//! TCP's maximum segment size, lowered to what the way carries: for those whom no ICMP error reaches.
//!
//! Each end of a connection says in its SYN how large the segments may be that it receives (RFC 9293 3.7.1, RFC 6691).
//! Where an IPPool asks for it, what stands there is lowered to the MTU of the way less the headers without
//! options (40 bytes, IPv6 60), as netfilter's `TCPMSS --clamp-mss-to-pmtu` does it: the smaller MTU of the way on and of the way back
//! to the sender, for its segments come by that.
//!
//! | the SYN has | it leaves with |
//! |---|---|
//! | a larger MSS, or several | the MSS that the way carries, in each |
//! | one that fits | what it had: a receiver's limit is never raised |
//! | none, and nothing behind the header | an MSS of 536 at most, IPv6 1,220 |
//! | none, and data behind the header, or no room for an option | what it had |
//! | options that cannot be read to the end | what it had from there on |
//!
//! Without the option a sender has to assume 536, with IPv6 1,220 (RFC 9293 3.7.1), and some assume what their own link carries: netfilter
//! says it to them, and so does margay.
//!
//! Segments behind an authentication header and fragments stay as they are: a SYN that is one is nobody's but a scanner's.

use super::engine::mtu;
use super::packet::Packet;
use crate::buf::{Frame, PartialChecksum, Pool};
use crate::fib::{Action, Fib};
use crate::slowpath::icmp::Control;
use crate::wire::ip::{Address, View};
use crate::wire::tcp::{self, Flags, MSS_OPTION_LEN, MssOptions, Tcp};
use crate::wire::{Family, Protocol, checksum};

/// Headers of a segment without options (RFC 6691: an MSS counts without them, whatever is there).
const fn headers<A: Address>() -> u16 {
    (A::MIN_HEADER_LEN + tcp::MIN_HEADER_LEN) as u16
}

/// What a sender assumes that is told nothing (RFC 9293 3.7.1).
const fn default_mss<A: Address>() -> u16 {
    match A::FAMILY {
        Family::V4 => 536,
        Family::V6 => 1220,
    }
}

/// Places in a TCP header: the data offset's word, the control bits, the checksum.
const OFFSET_AT: usize = 12;
const FLAGS_AT: usize = 13;
const CHECKSUM_AT: usize = 16;

/// Whether the packet opens a connection, or answers one that does.
fn is_syn<A>(pool: &Pool, frame: &Frame, packet: &Packet<A>) -> bool {
    packet.protocol == Protocol::TCP
        && pool
            .bytes(frame)
            .get(usize::from(packet.header_len) + FLAGS_AT)
            .is_some_and(|flags| Flags(*flags) & (Flags::SYN | Flags::RST) == Flags::SYN)
}

/// Lowers the MSS of a SYN on its way by `action`, if a pool at either end of the way asks for it. `frame` holds the IP
/// packet. Out of line, and the packet by value, so that a node without such a pool keeps it in registers.
#[cold]
#[inline(never)]
pub(super) fn clamp<A: Control>(
    fib: &Fib,
    pool: &mut Pool,
    frame: &mut Frame,
    packet: Packet<A>,
    action: Action,
) -> Packet<A> {
    if !is_syn(pool, frame, &packet) {
        return packet;
    }
    let back = fib.lookup(packet.src);
    if packet.is_fragment || !(fib.clamps(action) || fib.clamps(back)) {
        return packet;
    }
    // What is not even as long as the headers carries no TCP, whatever is said to it.
    // What an authentication header covers would be refused at the other end (RFC 4302 3.4.4).
    if !A::View::parse(pool.bytes(frame)).is_ok_and(|ip| ip.has_common_headers()) {
        return packet;
    }
    let way = mtu::<A>(fib, action).min(mtu::<A>(fib, back));
    let Some(limit) = way.checked_sub(headers::<A>()).filter(|limit| *limit > 0) else { return packet };

    let header_len = usize::from(packet.header_len);
    let partial = is_partial(frame, &packet);
    let segment = &mut pool.bytes_mut(frame)[header_len..];
    let Ok(tcp) = Tcp::parse(segment) else { return packet };
    let is_bare = tcp.payload().is_empty() && frame.offload.segments.is_none();
    let has_room = tcp.header_len() < tcp::MAX_HEADER_LEN && packet.len + MSS_OPTION_LEN as u16 <= way;
    // The values are written where they were found; the copy is what is read meanwhile.
    let mut copy = [0; tcp::MAX_HEADER_LEN];
    let header = &mut copy[..tcp.header_len()];
    header.copy_from_slice(tcp.header());
    let mut sizes = MssOptions::of(header);
    let mut has_one = false;
    for (at, size) in sizes.by_ref() {
        has_one = true;
        if size > limit {
            lower(segment, at, limit, partial);
        }
    }
    if !has_one && !sizes.is_broken() && is_bare && has_room {
        return insert(pool, frame, packet, limit.min(default_mss::<A>()));
    }
    packet
}

/// Whether the checksum field holds the sum of the pseudo-header alone.
fn is_partial<A>(frame: &Frame, packet: &Packet<A>) -> bool {
    frame.offload.checksum == Some(PartialChecksum { start: packet.header_len, field: CHECKSUM_AT as u16 })
}

/// What stands in the header is no part of a partial checksum: it is added later, as it is then.
fn lower(segment: &mut [u8], at: usize, value: u16, partial: bool) {
    match partial {
        true => segment[at..at + 2].copy_from_slice(&value.to_be_bytes()),
        false => tcp::update_word(segment, at, value),
    }
}

/// Puts an MSS option behind the fixed header of a segment that has room for it and no data. The headers move into the
/// headroom, as what follows the frame may be another's; without headroom nothing happens.
///
/// The checksum follows by what is added and changed (RFC 1624), so that a wrong one stays wrong: the length in the
/// pseudo-header, the word of the data offset, the option's two words. A partial one has the first of them only.
fn insert<A: Control>(pool: &mut Pool, frame: &mut Frame, mut packet: Packet<A>, mss: u16) -> Packet<A> {
    if pool.prepend::<MSS_OPTION_LEN>(frame).is_none() {
        return packet;
    }
    let partial = is_partial(frame, &packet);
    let header_len = usize::from(packet.header_len);
    let bytes = pool.bytes_mut(frame);
    bytes.copy_within(MSS_OPTION_LEN..MSS_OPTION_LEN + header_len + tcp::MIN_HEADER_LEN, 0);
    packet.len += MSS_OPTION_LEN as u16;
    A::set_total_len(bytes, packet.len);

    let segment = &mut bytes[header_len..];
    let word = |segment: &[u8], at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
    let (len, offset) = (segment.len() as u16, word(segment, OFFSET_AT));
    let checksum = word(segment, CHECKSUM_AT);
    tcp::insert_mss(segment, mss);
    let with_len = |checksum| checksum::update(checksum, len - MSS_OPTION_LEN as u16, len);
    let checksum = match partial {
        true => !with_len(!checksum),
        false => {
            let mut checksum = checksum::update(with_len(checksum), offset, word(segment, OFFSET_AT));
            for at in [tcp::MIN_HEADER_LEN, tcp::MIN_HEADER_LEN + 2] {
                checksum = checksum::update(checksum, 0, word(segment, at));
            }
            checksum
        }
    };
    tcp::write_checksum(segment, checksum);
    packet
}
