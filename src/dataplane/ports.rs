//! A worker's ports: each with the frames that wait to be sent by it in this turn.

use crate::buf::{Frame, Pool};
use crate::fib::EndpointId;
use crate::io::{BATCH, Port, TxReport};
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
    /// A workload.
    Endpoint(EndpointId),
}

/// Places of the ports that are not endpoints.
const FIXED: usize = 5;

impl PortId {
    /// Its place in a dense table.
    pub(super) fn index(self) -> usize {
        match self {
            PortId::Ipip => 0,
            PortId::Vxlan => 1,
            PortId::Direct => 2,
            PortId::Underlay => 3,
            PortId::Host => 4,
            PortId::Endpoint(id) => FIXED + id.0 as usize,
        }
    }

    fn sent(self) -> Sent {
        match self {
            PortId::Ipip => Sent::Ipip,
            PortId::Vxlan => Sent::Vxlan,
            PortId::Direct | PortId::Underlay => Sent::Direct,
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
    queue: Vec<Frame>,
    /// How many in the queue are ARP replies.
    replies: u64,
}

/// All ports of a worker.
#[derive(Default)]
pub(super) struct Ports {
    slots: Vec<Option<Slot>>,
    /// Places whose queues hold frames.
    dirty: Vec<usize>,
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
        self.slots[index] = Some(Slot { id, port, receives, queue: Vec::with_capacity(BATCH), replies: 0 });
    }

    pub(super) fn remove(&mut self, id: PortId) -> Option<Slot> {
        self.slots.get_mut(id.index())?.take()
    }

    pub(super) fn get(&mut self, index: usize) -> Option<&mut Slot> {
        self.slots.get_mut(index)?.as_mut()
    }

    /// Queues a frame; gives it back when there is no such port, or when its queue must be flushed first.
    #[inline(always)]
    pub(super) fn queue(&mut self, id: PortId, frame: Frame, is_reply: bool) -> Result<(), Refused> {
        let index = id.index();
        let Some(Some(slot)) = self.slots.get_mut(index) else { return Err(Refused::Absent(frame)) };
        if slot.queue.len() == BATCH {
            return Err(Refused::Full(frame));
        }
        if slot.queue.is_empty() {
            self.dirty.push(index);
        }
        slot.replies += u64::from(is_reply);
        slot.queue.push(frame);
        Ok(())
    }

    /// Sends all that is queued, and hands each port's report to `tell`: where the frames went, how many of
    /// them were ARP replies.
    #[inline]
    pub(super) fn flush(&mut self, pool: &mut Pool, mut tell: impl FnMut(PortId, Sent, u64, TxReport)) {
        for index in self.dirty.drain(..) {
            let Some(Some(slot)) = self.slots.get_mut(index) else { continue };
            let report = slot.port.tx(pool, &mut slot.queue);
            let replies = std::mem::take(&mut slot.replies).min(report.sent);
            tell(slot.id, slot.id.sent(), replies, report);
        }
    }
}

/// Why a frame was not queued.
pub(super) enum Refused {
    Absent(Frame),
    Full(Frame),
}
