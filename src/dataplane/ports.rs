//! A worker's ports, and the frames in its hand: received by one port, to be sent by others in this turn.
//!
//! A frame stays at its place in the hand from when it was received until it is sent: to queue it is to note its place.

use std::io;

use crate::buf::{Frame, Pool};
use crate::fib::EndpointId;
use crate::io::{FRAMES, Port, Rx, TxReport};
use crate::verdict::Sent;
use crate::wire::Family;

/// Which port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PortId {
    /// IPIP tunnels: outer packets both ways.
    Ipip,
    /// VXLAN tunnels over an underlay of this family: payloads of UDP datagrams both ways.
    Vxlan(Family),
    /// To peers without encapsulation.
    Direct,
    /// The underlay interface of this family: frames for this node's blocks without encapsulation. Receives only.
    Underlay(Family),
    /// The host interface: IP packets from and to this node's kernel.
    Host,
    /// ICMP errors that this node receives on an underlay, about its tunnel packets and others. Receives only.
    Errors(Family),
    /// A workload.
    Endpoint(EndpointId),
}

/// Places of the ports that are not endpoints.
const FIXED: usize = 9;

impl PortId {
    /// Its place in a dense table.
    #[inline(always)]
    pub(super) fn index(self) -> usize {
        match self {
            PortId::Ipip => 0,
            PortId::Vxlan(Family::V4) => 1,
            PortId::Direct => 2,
            PortId::Underlay(Family::V4) => 3,
            PortId::Host => 4,
            PortId::Errors(Family::V4) => 5,
            PortId::Vxlan(Family::V6) => 6,
            PortId::Errors(Family::V6) => 7,
            PortId::Underlay(Family::V6) => 8,
            PortId::Endpoint(id) => FIXED + id.0 as usize,
        }
    }

    fn sent(self) -> Sent {
        match self {
            PortId::Ipip => Sent::Ipip,
            PortId::Vxlan(_) => Sent::Vxlan,
            PortId::Direct | PortId::Underlay(_) | PortId::Errors(_) => Sent::Direct,
            PortId::Host => Sent::Host,
            PortId::Endpoint(_) => Sent::Workload,
        }
    }
}

/// One port with its queue.
pub(super) struct Slot {
    pub(super) id: PortId,
    pub(super) port: Box<dyn Port>,
    /// This worker receives from it.
    pub(super) receives: bool,
    /// Places of the first and the last frame of its queue; none while it is empty.
    first: u16,
    last: u16,
    /// How many in the queue are ARP replies.
    replies: u64,
}

/// All ports of a worker.
#[derive(Default)]
pub(super) struct Ports {
    slots: Vec<Option<Slot>>,
    /// Places whose queues hold frames.
    dirty: Vec<usize>,
    /// All frames that the worker has.
    hand: Vec<Frame>,
    /// For each the place of the next one of its queue: a queue costs a port nothing.
    next: Vec<u16>,
    /// A queue on its way out.
    batch: Vec<Frame>,
}

impl std::fmt::Debug for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.slots.iter().flatten().map(|slot| slot.id)).finish()
    }
}

impl Ports {
    pub(super) fn insert(&mut self, id: PortId, port: Box<dyn Port>, receives: bool) {
        let index = id.index();
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        self.slots[index] = Some(Slot { id, port, receives, first: NONE, last: NONE, replies: 0 });
        self.hand.reserve(FRAMES);
        self.next.reserve(FRAMES);
        self.batch.reserve(FRAMES);
    }

    pub(super) fn remove(&mut self, id: PortId) -> Option<Slot> {
        self.slots.get_mut(id.index())?.take()
    }

    pub(super) fn get(&mut self, index: usize) -> Option<&mut Slot> {
        self.slots.get_mut(index)?.as_mut()
    }

    /// Takes a batch in hand, which was empty; `None` when there is no such port.
    pub(super) fn receive(&mut self, index: usize, pool: &mut Pool) -> Option<io::Result<Rx>> {
        debug_assert!(self.hand.is_empty(), "what was received before has been sent");
        let slot = self.slots.get_mut(index)?.as_mut()?;
        let received = slot.port.rx(pool, &mut self.hand);
        self.next.resize(self.hand.len(), NONE);
        Some(received)
    }

    /// Takes a frame in hand, and says where; all must be flushed first when the hand is full.
    pub(super) fn hold(&mut self, frame: Frame) -> usize {
        self.hand.push(frame);
        self.next.push(NONE);
        self.hand.len() - 1
    }

    pub(super) fn is_full(&self) -> bool {
        self.hand.len() >= FRAMES
    }

    /// The frames in hand; each is queued, or [taken](Frame::take) from there.
    #[inline(always)]
    pub(super) fn hand(&mut self) -> &mut [Frame] {
        &mut self.hand
    }

    /// Queues the frame at a place in hand; false when there is no such port.
    #[inline(always)]
    pub(super) fn queue(&mut self, id: PortId, place: usize, is_reply: bool) -> bool {
        let index = id.index();
        let Some(Some(slot)) = self.slots.get_mut(index) else { return false };
        match slot.first {
            NONE => {
                self.dirty.push(index);
                slot.first = place as u16;
            }
            _ => self.next[usize::from(slot.last)] = place as u16,
        }
        slot.last = place as u16;
        slot.replies += u64::from(is_reply);
        true
    }

    /// Sends all that is queued; the hand is empty then. `leaving` hears of each port's frames before, `tell` has the port's
    /// report after: where the frames went, how many of them were ARP replies, and how many bytes those had that were sent.
    #[inline]
    pub(super) fn flush(
        &mut self,
        pool: &mut Pool,
        leaving: impl Fn(PortId, &[Frame]),
        mut tell: impl FnMut(PortId, Sent, u64, u64, TxReport),
    ) {
        for index in self.dirty.drain(..) {
            let Some(Some(slot)) = self.slots.get_mut(index) else { continue };
            let mut place = std::mem::replace(&mut slot.first, NONE);
            let mut bytes = 0;
            while let (Some(frame), Some(next)) =
                (self.hand.get_mut(usize::from(place)), self.next.get(usize::from(place)))
            {
                bytes += frame.len() as u64;
                self.batch.push(frame.take());
                place = *next;
            }
            let count = self.batch.len() as u64;
            leaving(slot.id, &self.batch);
            let report = slot.port.tx(pool, &mut self.batch);
            let replies = std::mem::take(&mut slot.replies).min(report.sent);
            if report.sent < count {
                // Which ones the port does not say.
                bytes = bytes * report.sent / count;
            }
            tell(slot.id, slot.id.sent(), replies, bytes, report);
        }
        debug_assert!(
            self.hand.iter().all(Frame::is_taken),
            "what is in hand is queued, or taken from there"
        );
        self.hand.clear();
        self.next.clear();
    }
}

/// After the last frame of a queue: no place.
const NONE: u16 = u16::MAX;
const _: () = assert!(FRAMES < NONE as usize);
