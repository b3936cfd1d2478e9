//! Out by the link layer: frames with the next hop's Ethernet address, past the kernel's routing.
//!
//! A packet socket costs the kernel about half of what a raw socket does: no route is looked up and no netfilter hook
//! called. Who the next hop of a peer is follows the kernel's own tables ([`NextHops`]); a peer that is not there
//! is left to the raw socket, where the kernel finds it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::channel::Sender;
use socket2::Socket;

use super::express::Express;
use super::offload::LINK_LEN;
use super::vnet;
use crate::buf::{Frame, Offload, Pool, Segmentation};
use crate::fib::Reader;
use crate::sys::bpf;
use crate::wire::{ethernet, ipv4};

/// The next hop of a peer.
#[derive(Debug, Clone)]
pub struct NextHop {
    /// The peer's underlay address.
    pub peer: IpAddr,
    /// From this node's interface to the next hop, for packets of the address's version.
    pub header: [u8; ethernet::HEADER_LEN],
    /// Whether it is worth keeping.
    pub usage: Arc<Usage>,
}

/// Whether something was sent to a peer since that was last asked.
#[derive(Debug)]
pub struct Usage {
    peer: IpAddr,
    is_used: AtomicBool,
    tell: Sender<IpAddr>,
}

impl Usage {
    /// Of `peer`, by whose address it is told when something is sent.
    pub fn new(peer: IpAddr, tell: Sender<IpAddr>) -> Arc<Self> {
        Arc::new(Usage { peer, is_used: AtomicBool::new(false), tell })
    }

    /// Asks, and begins anew.
    pub fn take(&self) -> bool {
        self.is_used.swap(false, Ordering::Relaxed)
    }

    /// Something is sent. A cache line that all workers read is written by the first of them only.
    #[inline(always)]
    fn note(&self) {
        if !self.is_used.load(Ordering::Relaxed) {
            self.begin();
        }
    }

    #[cold]
    fn begin(&self) {
        if !self.is_used.swap(true, Ordering::Relaxed) && self.tell.try_send(self.peer).is_err() {
            // There is more news than room: the next frame tells.
            self.is_used.store(false, Ordering::Relaxed);
        }
    }
}

impl PartialEq for NextHop {
    fn eq(&self, other: &Self) -> bool {
        (self.peer, self.header) == (other.peer, other.header) && Arc::ptr_eq(&self.usage, &other.usage)
    }
}

/// The peers that can be reached by the link layer.
#[derive(Debug, Default, PartialEq)]
pub struct NextHops {
    v4: Vec<(Ipv4Addr, NextHop)>,
    v6: Vec<(Ipv6Addr, NextHop)>,
}

impl NextHops {
    /// In any order, each peer once.
    pub fn new(hops: Vec<NextHop>) -> Self {
        let mut sorted = NextHops::default();
        for hop in hops {
            match hop.peer {
                IpAddr::V4(peer) => sorted.v4.push((peer, hop)),
                IpAddr::V6(peer) => sorted.v6.push((peer, hop)),
            }
        }
        sorted.v4.sort_unstable_by_key(|(peer, _)| *peer);
        sorted.v6.sort_unstable_by_key(|(peer, _)| *peer);
        sorted
    }

    /// The next hop of `peer`.
    #[inline]
    pub fn of(&self, peer: IpAddr) -> Option<&NextHop> {
        match peer {
            IpAddr::V4(peer) => find(&self.v4, peer),
            IpAddr::V6(peer) => find(&self.v6, peer),
        }
    }
}

#[inline(always)]
fn find<A: Ord + Copy>(hops: &[(A, NextHop)], peer: A) -> Option<&NextHop> {
    let place = hops.binary_search_by_key(&peer, |(peer, _)| *peer).ok()?;
    Some(&hops[place].1)
}

/// What is left to the kernel of a super-frame.
#[derive(Debug, Clone)]
pub enum Super {
    /// Nothing: margay cuts, because no virtio-net header can say "IPIP".
    Cut,
    /// Nothing, and its segments and all other frames leave past the packet socket, as far as that takes them.
    Express(Express),
    /// All: it goes whole, with partial checksums.
    Whole,
    /// IPIP's of TCP go whole and without their outer headers, which the program puts there before the kernel cuts.
    Prepended(Arc<bpf::Attached>),
}

/// One worker's way out by one interface.
#[derive(Debug)]
pub struct Link {
    pub(super) socket: Socket,
    hops: Reader<NextHops>,
    pub(super) kind: Super,
}

impl Link {
    /// Over a socket that [`socket::link_sender`](crate::sys::socket::link_sender) made.
    pub fn new(socket: Socket, hops: Reader<NextHops>, kind: Super) -> Self {
        Link { socket, hops, kind }
    }

    /// Takes up what is known of next hops. Once a batch.
    #[inline]
    pub(super) fn refresh(&mut self) {
        self.hops.refresh();
    }

    /// Puts in front of a packet what the socket wants, if the next hop of its peer is known. What the kernel
    /// does not do is left in the frame's offload.
    #[inline]
    pub(super) fn dress(&self, pool: &mut Pool, frame: &mut Frame) -> bool {
        let Some(hop) = self.hops.current().of(frame.peer) else { return false };
        hop.usage.note();
        match &self.kind {
            Super::Cut | Super::Express(_) => front(pool, frame, Offload::default(), &hop.header),
            Super::Whole => front(pool, frame, frame.offload, &hop.header) && done(frame),
            Super::Prepended(_) if is_tcp(frame.offload) => {
                leave_outer(pool, frame, &hop.header).is_some() && done(frame)
            }
            Super::Prepended(_) => front(pool, frame, Offload::default(), &hop.header),
        }
    }
}

fn is_tcp(offload: Offload) -> bool {
    // Of UDP nobody could tell where a datagram ends, should it arrive uncut.
    let kind = offload.segments.map(|segments| segments.kind);
    matches!(kind, Some(Segmentation::Tcp | Segmentation::TcpEcn))
}

/// The kernel does all that was to be done.
fn done(frame: &mut Frame) -> bool {
    frame.offload = Offload::default();
    true
}

/// Puts both headers in front of the IP packet; false, and nothing done, without room for them.
#[inline(always)]
fn front(pool: &mut Pool, frame: &mut Frame, offload: Offload, link: &[u8; ethernet::HEADER_LEN]) -> bool {
    let vnet = vnet::encode(offload, ethernet::HEADER_LEN as u16, pool.bytes(frame));
    let Some(out) = pool.prepend::<LINK_LEN>(frame) else { return false };
    out[..vnet::LEN].copy_from_slice(&vnet);
    out[vnet::LEN..].copy_from_slice(link);
    true
}

/// Puts both headers in the place of the outer IPv4 header, of which the Ethernet source address keeps what
/// differs by packet: see [`bpf`].
fn leave_outer(pool: &mut Pool, frame: &mut Frame, link: &[u8; ethernet::HEADER_LEN]) -> Option<()> {
    let (outer, inner) = pool.bytes(frame).split_first_chunk::<{ ipv4::MIN_HEADER_LEN }>()?;
    let vnet = vnet::encode(frame.offload, ethernet::HEADER_LEN as u16, inner);
    let mut link = *link;
    link[6..10].copy_from_slice(&outer[16..20]);
    link[10..12].copy_from_slice(&outer[4..6]);
    pool.prepend::<{ LINK_LEN - ipv4::MIN_HEADER_LEN }>(frame)?;
    let out = pool.bytes_mut(frame);
    out[..vnet::LEN].copy_from_slice(&vnet);
    out[vnet::LEN..LINK_LEN].copy_from_slice(&link);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam::channel::{bounded, unbounded};

    #[test]
    fn the_first_use_is_told_and_what_is_not_heard_is_told_again() {
        let (tell, told) = bounded(1);
        let peer = IpAddr::from([192, 0, 2, 1]);
        let (usage, other) = (Usage::new(peer, tell.clone()), Usage::new(peer, tell));
        usage.note();
        usage.note();
        other.note();
        assert_eq!(told.try_iter().count(), 1);
        assert!(usage.take() && !usage.take() && !other.take());
        other.note();
        assert!(told.try_recv().is_ok() && other.take());
    }

    #[test]
    fn a_peer_is_found_in_any_order() {
        let v4 = |last: u8| IpAddr::from([192, 0, 2, last]);
        let v6 = |last: u8| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()]);
        let hop = |peer, last| NextHop { peer, header: [last; 14], usage: Usage::new(peer, unbounded().0) };
        let all = [7, 200, 3].into_iter().flat_map(|last| [hop(v4(last), last), hop(v6(last), last + 1)]);
        let hops = NextHops::new(all.collect());
        for last in [3, 7, 200] {
            assert_eq!(hops.of(v4(last)).unwrap().header, [last; 14]);
            assert_eq!(hops.of(v6(last)).unwrap().header, [last + 1; 14]);
        }
        assert!(hops.of(v4(8)).is_none() && hops.of(v6(8)).is_none());
    }
}
