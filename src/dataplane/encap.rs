//! Into a tunnel: the ready-made header goes into the headroom, and what differs by packet is patched.

use super::packet::Packet;
use crate::buf::{Frame, Pool};
use crate::fib::{Encapsulation, Inner, Tunnel, VxlanHeader};
use crate::io::offload;
use crate::verdict::DropReason;
use crate::wire::ip::Address;
use crate::wire::{Family, ecn};

use super::engine::Verdict;

/// Identifications for outer IPv4 headers, never zero (the kernel would replace it, RFC 6864 4).
///
/// Worker `i` of `n` takes i + 1, i + 1 + n, …: two workers never give the same one to one peer before
/// 65,536 / n packets have passed.
#[derive(Debug)]
pub struct OuterIds {
    next: u16,
    step: u16,
}

impl OuterIds {
    /// The ids of worker `index` of `workers`.
    pub fn new(index: usize, workers: usize) -> Self {
        OuterIds { next: index as u16, step: workers.max(1) as u16 }
    }

    /// The first of `count` ids; the others follow it, one apart each.
    #[inline]
    fn take(&mut self, count: u16) -> u16 {
        self.next = self.next.wrapping_add(self.step);
        if self.next == 0 {
            self.next = self.step;
        }
        let id = self.next;
        self.next = self.next.wrapping_add(count.saturating_sub(1));
        id
    }
}

/// Puts the tunnel's headers in front of the IP packet that `frame` holds.
#[inline(always)]
pub fn encapsulate<A: Address>(
    tunnel: &Tunnel,
    ids: &mut OuterIds,
    pool: &mut Pool,
    frame: &mut Frame,
    packet: &Packet<A>,
) -> Result<Verdict, DropReason> {
    if !frame.offload.is_nothing() {
        frame.offload = offload::complete_checksum(pool.bytes_mut(frame), frame.offload);
    }
    frame.peer = tunnel.remote;
    frame.peer_index = tunnel.peer.0;
    let outer_ecn = ecn::encapsulate(packet.ecn);
    match &tunnel.encapsulation {
        Encapsulation::Ipip(header) => {
            let inner = Inner {
                len: packet.len,
                ecn: outer_ecn,
                dont_fragment: packet.dont_fragment,
                ttl: packet.ttl,
            };
            let count = frame.offload.segments.map_or(1, |segments| packet.len / segments.size + 1);
            let out = pool.prepend(frame).ok_or(DropReason::OffloadMalformed)?;
            header.write(out, inner, ids.take(count));
            Ok(Verdict::Ipip)
        }
        Encapsulation::Vxlan(header) => {
            frame.ecn = outer_ecn;
            frame.flow = packet.flow(pool.bytes(frame)).hash();
            let out = pool.prepend::<{ VxlanHeader::LEN }>(frame).ok_or(DropReason::OffloadMalformed)?;
            header.write::<A>(out);
            Ok(Verdict::Vxlan(Family::of(tunnel.remote)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_never_zero_and_differ_between_workers() {
        let (mut a, mut b) = (OuterIds::new(0, 2), OuterIds::new(1, 2));
        for _ in 0..200_000 {
            let (x, y) = (a.take(1), b.take(1));
            assert!(x != 0 && y != 0 && x != y);
        }
        let mut ids = OuterIds::new(0, 1);
        assert_eq!(ids.take(3), 1);
        assert_eq!(ids.take(1), 4);
    }
}
