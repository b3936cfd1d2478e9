//! Packets that wait until a workload's MAC is known: a short queue for each endpoint, and questions by ARP or neighbour discovery.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use super::icmp::Message;
use super::{Made, filled};
use crate::buf::{Frame, Offload, Pool};
use crate::dataplane::neighbor::Resolution;
use crate::dataplane::{Origin, Tables, arp, ndp, packet};
use crate::fib::{Action, EndpointId};
use crate::verdict::DropReason;

/// Packets that wait for one workload.
const MAX_PACKETS: usize = 64;
/// Packets that wait in all, so that a worker's memory is bounded: 64 MiB at the worst.
const MAX_TOTAL: usize = 1024;
/// Time between two questions.
const RETRY: Duration = Duration::from_secs(1);
/// Questions before giving up.
const QUESTIONS: u32 = 3;
/// How often the worker looks whether another one has learned the answer.
const LOOK: Duration = Duration::from_millis(5);

/// What one worker has parked.
#[derive(Debug, Default)]
pub(super) struct Parked {
    waiting: HashMap<EndpointId, Waiting>,
    total: usize,
}

#[derive(Debug)]
struct Waiting {
    packets: Vec<Packet>,
    asked: u32,
    ask_again: Instant,
}

#[derive(Debug)]
struct Packet {
    origin: Origin,
    bytes: Vec<u8>,
    offload: Offload,
}

impl Parked {
    /// Takes a packet in, and asks if nobody did. The packet is copied: slots are for what moves.
    pub(super) fn park(
        &mut self,
        tables: Tables<'_>,
        now: Instant,
        pool: &mut Pool,
        (origin, frame): (Origin, Frame),
        made: &mut Vec<Made>,
    ) {
        let action = action(tables, pool.bytes(&frame));
        let Some(Action::Deliver(id)) = action else {
            pool.put(frame);
            return made.push(Made::Nothing(origin, DropReason::EndpointGone));
        };
        let entry =
            self.waiting.entry(id).or_insert(Waiting { packets: Vec::new(), asked: 0, ask_again: now });
        if entry.packets.len() >= MAX_PACKETS || self.total >= MAX_TOTAL {
            made.push(Made::Nothing(origin, DropReason::NeighborQueueFull));
        } else {
            let (bytes, offload) = (pool.bytes(&frame).to_vec(), frame.offload);
            entry.packets.push(Packet { origin, bytes, offload });
            self.total += 1;
        }
        pool.put(frame);
        ask(tables, id, entry, now, pool, made);
    }

    /// Lets go of what can be sent, asks again for the rest, and gives up on who never answers: `tell` makes the
    /// error about each of their packets.
    pub(super) fn tick(
        &mut self,
        tables: Tables<'_>,
        now: Instant,
        pool: &mut Pool,
        made: &mut Vec<Made>,
        mut tell: impl FnMut(Origin, &[u8]) -> Result<Message, DropReason>,
    ) {
        let total = &mut self.total;
        self.waiting.retain(|id, waiting| {
            let reason = match tables.neighbors.resolve(*id) {
                Resolution::Known(_) => None,
                Resolution::Absent => Some(DropReason::EndpointGone),
                Resolution::Unknown if waiting.asked < QUESTIONS || now < waiting.ask_again => {
                    ask(tables, *id, waiting, now, pool, made);
                    return true;
                }
                Resolution::Unknown => Some(DropReason::NeighborUnresolved),
            };
            *total -= waiting.packets.len();
            for Packet { origin, bytes, offload } in waiting.packets.drain(..) {
                // S6: it may be for another workload by now, but what came in does not leave the node again.
                let action = action(tables, &bytes);
                let leaves =
                    matches!(action, Some(Action::Tunnel(_) | Action::Direct(_) | Action::Host) | None);
                let Some(reason) = reason.or(leaves.then_some(DropReason::EndpointGone)) else {
                    made.push(Made::of(origin, filled(pool, &bytes, offload)));
                    continue;
                };
                // The packet has its reason; that no error is sent besides needs none.
                let error = match reason {
                    DropReason::NeighborUnresolved => tell(origin, &bytes).ok(),
                    _ => None,
                };
                made.push(Made::Lost(origin, reason, bytes));
                let error = error.and_then(|error| filled(pool, error.bytes(), Offload::default()).ok());
                made.extend(error.map(|error| Made::Packet(origin, error)));
            }
            false
        });
    }

    /// When [`Self::tick`] is due; `None` when nothing waits.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        (!self.waiting.is_empty()).then(|| now + LOOK)
    }
}

/// What the FIB says of a packet; `None` of what is none.
fn action(tables: Tables<'_>, packet: &[u8]) -> Option<Action> {
    Some(tables.fib.lookup_any(packet::destination(packet)?))
}

fn ask(
    tables: Tables<'_>,
    id: EndpointId,
    waiting: &mut Waiting,
    now: Instant,
    pool: &mut Pool,
    made: &mut Vec<Made>,
) {
    if now < waiting.ask_again || waiting.asked >= QUESTIONS {
        return;
    }
    let Some(endpoint) = tables.fib.endpoint(id) else { return };
    let Some(mut question) = pool.take() else { return };
    // Both answers say the same: a workload has one MAC.
    match (endpoint.address::<Ipv4Addr>(), endpoint.address::<Ipv6Addr>()) {
        (Some(address), _) => arp::request(pool, &mut question, address),
        (None, Some(address)) => ndp::request(pool, &mut question, address),
        (None, None) => return pool.put(question),
    }
    waiting.asked += 1;
    waiting.ask_again = now + RETRY;
    made.push(Made::Question(id, question));
}
