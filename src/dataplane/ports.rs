//! A worker's ports, and the frames that wait to be sent by them in this turn.

use crate::buf::{Frame, Pool};
use crate::fib::EndpointId;
use crate::io::{FRAMES, Port, TxReport};
use crate::verdict::Sent;

/// Which port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PortId {
    /// IPIP tunnels: outer packets both ways.
    Ipip,
    /// VXLAN tunnels: payloads of UDP datagrams both ways.
    Vxlan,
    /// To peers without encapsulation.
    Direct,
    /// The underlay interface: frames for this node's blocks without encapsulation. Receives only.
    Underlay,
    /// The host interface: IP packets from and to this node's kernel.
    Host,
    /// ICMP errors that this node receives, about its tunnel packets and others. Receives only.
    Errors,
    /// A workload.
    Endpoint(EndpointId),
}

/// Places of the ports that are not endpoints.
const FIXED: usize = 6;

impl PortId {
    /// Its place in a dense table.
    pub(super) fn index(self) -> usize {
        match self {
            PortId::Ipip => 0,
            PortId::Vxlan => 1,
            PortId::Direct => 2,
            PortId::Underlay => 3,
            PortId::Host => 4,
            PortId::Errors => 5,
            PortId::Endpoint(id) => FIXED + id.0 as usize,
        }
    }

    fn sent(self) -> Sent {
        match self {
            PortId::Ipip => Sent::Ipip,
            PortId::Vxlan => Sent::Vxlan,
            PortId::Direct | PortId::Underlay | PortId::Errors => Sent::Direct,
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
    /// First and last of its frames in `queued`.
    queue: Option<(u16, u16)>,
    /// How many in the queue are ARP replies.
    replies: u64,
}

/// All ports of a worker.
#[derive(Default)]
pub(super) struct Ports {
    slots: Vec<Option<Slot>>,
    /// Places whose queues hold frames.
    dirty: Vec<usize>,
    /// The frames of all queues, and for each the next one of its queue: a queue costs a port nothing.
    queued: Vec<(Option<Frame>, u16)>,
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
        self.slots[index] = Some(Slot { id, port, receives, queue: None, replies: 0 });
        self.queued.reserve(FRAMES);
        self.batch.reserve(FRAMES);
    }

    pub(super) fn remove(&mut self, id: PortId) -> Option<Slot> {
        self.slots.get_mut(id.index())?.take()
    }

    pub(super) fn get(&mut self, index: usize) -> Option<&mut Slot> {
        self.slots.get_mut(index)?.as_mut()
    }

    /// Queues a frame; gives it back when there is no such port, or when all must be flushed first.
    #[inline(always)]
    pub(super) fn queue(&mut self, id: PortId, frame: Frame, is_reply: bool) -> Result<(), Refused> {
        let index = id.index();
        let Some(Some(slot)) = self.slots.get_mut(index) else { return Err(Refused::Absent(frame)) };
        if self.queued.len() == FRAMES {
            return Err(Refused::Full(frame));
        }
        let place = self.queued.len() as u16;
        slot.queue = match slot.queue {
            None => {
                self.dirty.push(index);
                Some((place, place))
            }
            Some((first, last)) => {
                self.queued[usize::from(last)].1 = place;
                Some((first, place))
            }
        };
        slot.replies += u64::from(is_reply);
        self.queued.push((Some(frame), NONE));
        Ok(())
    }

    /// Sends all that is queued, and hands each port's report to `tell`: where the frames went, how many of
    /// them were ARP replies, and how many bytes they all had. Before that, `to_peer` hears of each frame for a peer.
    #[inline]
    pub(super) fn flush(
        &mut self,
        pool: &mut Pool,
        to_peer: impl Fn(PortId, &Frame),
        mut tell: impl FnMut(PortId, Sent, u64, u64, TxReport),
    ) {
        for index in self.dirty.drain(..) {
            let Some(Some(slot)) = self.slots.get_mut(index) else { continue };
            let mut next = slot.queue.take().map_or(NONE, |(first, _)| first);
            let mut bytes = 0;
            while let Some((frame, after)) = self.queued.get_mut(usize::from(next)) {
                if let Some(frame) = frame.take() {
                    bytes += frame.len() as u64;
                    if let PortId::Ipip | PortId::Vxlan | PortId::Direct = slot.id {
                        to_peer(slot.id, &frame);
                    }
                    self.batch.push(frame);
                }
                next = *after;
            }
            let count = self.batch.len() as u64;
            let report = slot.port.tx(pool, &mut self.batch);
            let replies = std::mem::take(&mut slot.replies).min(report.sent);
            if report.sent < count {
                // Which ones the port does not say.
                bytes = bytes * report.sent / count;
            }
            tell(slot.id, slot.id.sent(), replies, bytes, report);
        }
        self.queued.clear();
    }
}

/// After the last frame of a queue: no place.
const NONE: u16 = u16::MAX;
const _: () = assert!(FRAMES < NONE as usize);

/// Why a frame was not queued.
pub(super) enum Refused {
    Absent(Frame),
    Full(Frame),
}
