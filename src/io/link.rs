//! Out by the link layer: frames with the next hop's Ethernet address, past the kernel's routing.
//!
//! A packet socket costs the kernel about half of what a raw IPv4 socket does: no route is looked up and no netfilter hook
//! called. Who the next hop of a peer is follows the kernel's own tables ([`NextHops`]); a peer that is not there
//! is left to the raw socket, where the kernel finds it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::channel::Sender;
use socket2::Socket;

use super::offload::Outer;
use super::vnet;
use crate::buf::{Frame, Offload, Pool};
use crate::fib::Reader;
use crate::wire::ethernet;

/// The next hop of a peer.
#[derive(Debug, Clone)]
pub struct NextHop {
    /// The peer's underlay address.
    pub peer: Ipv4Addr,
    /// From this node's interface to the next hop, IPv4.
    pub header: [u8; ethernet::HEADER_LEN],
    /// Whether it is worth keeping.
    pub usage: Arc<Usage>,
}

/// Whether something was sent to a peer since that was last asked.
#[derive(Debug)]
pub struct Usage {
    peer: Ipv4Addr,
    is_used: AtomicBool,
    tell: Sender<Ipv4Addr>,
}

impl Usage {
    /// Of `peer`, by whose address it is told when something is sent.
    pub fn new(peer: Ipv4Addr, tell: Sender<Ipv4Addr>) -> Arc<Self> {
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
pub struct NextHops(Vec<NextHop>);

impl NextHops {
    /// In any order, each peer once.
    pub fn new(mut hops: Vec<NextHop>) -> Self {
        hops.sort_unstable_by_key(|hop| hop.peer);
        NextHops(hops)
    }

    /// The next hop of `peer`.
    #[inline]
    pub fn of(&self, peer: IpAddr) -> Option<&NextHop> {
        let IpAddr::V4(peer) = peer else { return None };
        let place = self.0.binary_search_by_key(&peer, |hop| hop.peer).ok()?;
        Some(&self.0[place])
    }
}

/// What of a super-frame is left to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Super {
    /// Nothing: margay cuts, because no virtio-net header can say "IPIP".
    Cut,
    /// All: it goes whole, with partial checksums, behind a virtio-net header.
    Whole,
}

/// One worker's way out by one interface.
#[derive(Debug)]
pub struct Link {
    pub(super) socket: Socket,
    hops: Reader<NextHops>,
    kind: Super,
}

impl Link {
    /// Over a socket that [`socket::link_sender`](crate::sys::socket::link_sender) made, with a virtio-net header
    /// for [`Super::Whole`].
    pub fn new(socket: Socket, hops: Reader<NextHops>, kind: Super) -> Self {
        Link { socket, hops, kind }
    }

    /// Takes up what is known of next hops. Once a batch.
    #[inline]
    pub(super) fn refresh(&mut self) {
        self.hops.refresh();
    }

    /// Puts in front of an IPv4 packet what the socket wants, if the next hop of its peer is known.
    #[inline]
    pub(super) fn dress(&self, pool: &mut Pool, frame: &mut Frame) -> bool {
        let Some(hop) = self.hops.current().of(frame.peer) else { return false };
        hop.usage.note();
        match self.kind {
            Super::Cut => match pool.prepend(frame) {
                Some(out) => *out = hop.header,
                None => return false,
            },
            Super::Whole => {
                let vnet = vnet::encode(frame.offload, hop.header.len() as u16, pool.bytes(frame));
                let Some(out) = pool.prepend::<{ vnet::LEN + ethernet::HEADER_LEN }>(frame) else {
                    return false;
                };
                out[..vnet::LEN].copy_from_slice(&vnet);
                out[vnet::LEN..].copy_from_slice(&hop.header);
                frame.offload = Offload::default();
            }
        }
        true
    }

    /// What stands in front of the IP packet that a super-frame carries, given what does without a link header.
    pub(super) fn outer(&self, inner: Outer) -> Outer {
        match inner {
            Outer::Ipip => Outer::EthernetIpip,
            _ => Outer::Ethernet,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam::channel::{bounded, unbounded};

    #[test]
    fn the_first_use_is_told_and_what_is_not_heard_is_told_again() {
        let (tell, told) = bounded(1);
        let peer = Ipv4Addr::new(192, 0, 2, 1);
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
        let hop = |last: u8| {
            let peer = Ipv4Addr::new(192, 0, 2, last);
            NextHop { peer, header: [last; 14], usage: Usage::new(peer, unbounded().0) }
        };
        let hops = NextHops::new(vec![hop(7), hop(200), hop(3)]);
        for last in [3, 7, 200] {
            assert_eq!(hops.of(IpAddr::from([192, 0, 2, last])).unwrap().header, [last; 14]);
        }
        assert!(hops.of(IpAddr::from([192, 0, 2, 8])).is_none());
        assert!(hops.of("2001:db8::7".parse().unwrap()).is_none());
    }
}
