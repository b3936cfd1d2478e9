//! Captures: what a worker copies of the frames that pass it, while somebody looks.
//!
//! A frame has a record as it was received, with what became of it, and one as it was handed to the port that sends
//! it, with its outer header. Records are buffers that are made with the capture: a worker takes an empty one, fills it,
//! and puts it where the reader finds it; where none is empty the record is missed, and counted. No worker waits,
//! allocates or wakes anybody. A super-frame is one record: it is captured as it passes, before anybody cuts it.
//!
//! For VXLAN the kernel writes and strips the outer IPv4 and UDP header: a record has them made up, so that it can be
//! read. Addresses, lengths and the destination port are right; source port, identification and UDP checksum are zero, the TTL is 64.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crossbeam::queue::ArrayQueue;

use super::accounts::Party;
use super::engine::Verdict;
use super::ports::PortId;
use crate::buf::{Frame, Pool, Segments};
use crate::capture::{Filter, Headers, Link, Way};
use crate::fib::{EndpointId, Fib};
use crate::verdict::{DropReason, PuntReason};
use crate::wire::{Family, Protocol, ipv4, ipv6, udp};

/// Most bytes of a frame that a capture keeps: a super-frame, and what a tunnel adds.
pub const MAX_SNAP: usize = 65_535 + 128;
/// Bytes that a filter sees at least, whatever is kept: an outer and an inner header with options.
const SEEN: usize = 256;
/// Memory of a capture's records, bytes, and the bounds of their number.
const MEMORY: usize = 16 << 20;
const RECORDS: std::ops::RangeInclusive<usize> = 256..=8192;
/// In front of what a VXLAN port sends and receives, at most.
const MADE_UP: usize = ipv6::HEADER_LEN + udp::HEADER_LEN;

/// Which frames are wanted: those that meet all that is said.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Headers before or after forwarding.
    pub filter: Filter,
    /// From or to this endpoint.
    pub endpoint: Option<EndpointId>,
    /// From or to a peer with one of these addresses, if there are any.
    pub peers: Vec<IpAddr>,
    /// Only what was dropped.
    pub dropped: bool,
    /// Bytes of each that are kept.
    pub snap: usize,
}

/// What became of a frame, as far as it is known when the record is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Of a frame that came in: handed to this port.
    Forwarded(Verdict),
    /// It left the fast path; and what the slow path dropped of it at once, if anything.
    Punted(PuntReason, Option<DropReason>),
    /// Dropped.
    Dropped(DropReason),
    /// Of a frame that goes out: its port took it.
    Sent,
    /// It may be one of those that its port did not take, `lost` of all that it was given in that turn.
    Refused {
        /// Why.
        reason: DropReason,
        /// How many were not taken.
        lost: u64,
    },
    /// Of a frame that was injected: it would leave by its port, but was not given to it.
    Kept,
}

impl Outcome {
    fn is_drop(self) -> bool {
        matches!(self, Outcome::Dropped(_) | Outcome::Punted(_, Some(_)) | Outcome::Refused { .. })
    }
}

/// A frame at a port.
#[derive(Debug, Clone)]
pub struct Record {
    /// The same before and after forwarding.
    pub id: u64,
    /// Since the beginning of 1970, UTC.
    pub time: Duration,
    /// The port that it came in by, or goes out by; none of what the slow path made or kept.
    pub port: Option<PortId>,
    /// Which of both.
    pub way: Way,
    /// Who handed it in, or the frame that it was made of.
    pub from: Option<Party>,
    /// The peer that it is sent to.
    pub to: Option<IpAddr>,
    /// Its bytes: as many as are kept.
    pub bytes: Vec<u8>,
    /// How many it has.
    pub len: usize,
    /// It is a super-frame.
    pub segments: Option<Segments>,
    /// What became of it.
    pub outcome: Outcome,
}

impl Record {
    fn empty(snap: usize) -> Self {
        Record {
            id: 0,
            time: Duration::ZERO,
            port: None,
            way: Way::In,
            from: None,
            to: None,
            bytes: Vec::with_capacity(snap),
            len: 0,
            segments: None,
            outcome: Outcome::Sent,
        }
    }
}

/// What the bytes of a port's records begin with.
pub fn link(port: Option<PortId>) -> Link {
    match port {
        Some(PortId::Endpoint(_) | PortId::Underlay(_)) => Link::Ethernet,
        _ => Link::Ip,
    }
}

/// Between the workers and one reader.
#[derive(Debug)]
struct Queue {
    empty: ArrayQueue<Box<Record>>,
    full: ArrayQueue<Box<Record>>,
    missed: AtomicU64,
    is_closed: AtomicBool,
}

/// A capture as the workers have it.
#[derive(Debug, Clone)]
pub struct Tap {
    wanted: Arc<Wanted>,
    queue: Arc<Queue>,
}

/// A capture as its reader has it; dropping it ends the capture.
#[derive(Debug)]
pub struct Catch {
    queue: Arc<Queue>,
    #[expect(clippy::vec_box, reason = "the boxes go round: the queue moves and the sort swaps pointers")]
    taken: Vec<Box<Record>>,
}

/// A capture: its reader's side, and the side that each worker gets a clone of.
pub fn tap(wanted: Wanted) -> (Catch, Tap) {
    let count = MEMORY / (wanted.snap + size_of::<Record>());
    tap_of(wanted, count.clamp(*RECORDS.start(), *RECORDS.end()))
}

/// The same with so many records.
pub fn tap_of(wanted: Wanted, count: usize) -> (Catch, Tap) {
    let snap = wanted.snap.clamp(1, MAX_SNAP);
    let count = count.max(1);
    let queue = Queue {
        empty: ArrayQueue::new(count),
        full: ArrayQueue::new(count),
        missed: AtomicU64::new(0),
        is_closed: AtomicBool::new(false),
    };
    for _ in 0..count {
        // As many as there is room for.
        let _ = queue.empty.push(Box::new(Record::empty(snap)));
    }
    let queue = Arc::new(queue);
    let tap = Tap { wanted: Arc::new(Wanted { snap, ..wanted }), queue: Arc::clone(&queue) };
    (Catch { queue, taken: Vec::with_capacity(count) }, tap)
}

impl Catch {
    /// Hands over at most `most` records in the order of time, each frame's together, and with each how many were missed
    /// since the last; says how many there were. Of different workers, one may come later than one that was handed over.
    pub fn take(&mut self, most: usize, mut read: impl FnMut(&Record, u64)) -> usize {
        while self.taken.len() < most.min(self.taken.capacity()) {
            let Some(record) = self.queue.full.pop() else { break };
            self.taken.push(record);
        }
        self.taken.sort_unstable_by_key(|record| (record.time, record.id, record.way == Way::Out));
        let count = self.taken.len();
        for record in self.taken.drain(..) {
            read(&record, self.queue.missed.swap(0, Ordering::Relaxed));
            // It came from there, so there is room.
            let _ = self.queue.empty.push(record);
        }
        count
    }
}

impl Drop for Catch {
    fn drop(&mut self) {
        self.queue.is_closed.store(true, Ordering::Relaxed);
    }
}

/// The head of a frame, with what is made up in front.
#[derive(Debug, Default)]
struct Head {
    bytes: Vec<u8>,
    len: usize,
    segments: Option<Segments>,
}

/// The frame in hand.
#[derive(Debug, Clone, Copy)]
struct Hand {
    id: u64,
    port: Option<PortId>,
    from: Option<Party>,
    /// It came from somewhere, so there is a record of it as it was.
    has_before: bool,
}

/// A worker's captures; none, nearly always.
#[derive(Debug)]
pub(super) struct Taps {
    taps: Vec<Tap>,
    hand: Hand,
    before: Head,
    after: Head,
    headers: Headers,
    /// Records of what is queued at ports, and whose they are.
    queued: Vec<(usize, Box<Record>)>,
    /// Ports that did not take all that they were given in this turn.
    refused: Vec<(PortId, DropReason, u64)>,
    time: Duration,
    /// Bytes of a frame that somebody wants.
    most: usize,
}

/// Ids of one worker's frames are no other's.
const WORKER_SHIFT: u32 = 48;

impl Taps {
    pub(super) fn new(worker: usize) -> Self {
        Taps {
            taps: Vec::new(),
            hand: Hand { id: (worker as u64) << WORKER_SHIFT, port: None, from: None, has_before: false },
            before: Head::default(),
            after: Head::default(),
            headers: Headers::default(),
            queued: Vec::new(),
            refused: Vec::new(),
            time: Duration::ZERO,
            most: SEEN,
        }
    }

    #[inline(always)]
    pub(super) fn is_on(&self) -> bool {
        !self.taps.is_empty()
    }

    pub(super) fn add(&mut self, tap: Tap) {
        self.taps.push(tap);
        self.resize();
    }

    /// Has these alone; hands over those before.
    pub(super) fn replace(&mut self, taps: Vec<Tap>) -> Vec<Tap> {
        self.settle();
        let before = std::mem::replace(&mut self.taps, taps);
        self.resize();
        before
    }

    /// What is copied has its room before it comes.
    fn resize(&mut self) {
        self.most = self.taps.iter().map(|tap| tap.wanted.snap).fold(SEEN, usize::max);
        for head in [&mut self.before, &mut self.after] {
            head.bytes.clear();
            head.bytes.reserve(MADE_UP + self.most);
        }
        self.queued.reserve(crate::io::FRAMES * self.taps.len());
    }

    /// A batch begins.
    pub(super) fn begin(&mut self) {
        self.time = now();
    }

    /// A frame came in by `port`, or from the slow path; nothing has changed it yet.
    pub(super) fn received(
        &mut self,
        fib: &Fib,
        port: Option<PortId>,
        from: Party,
        pool: &Pool,
        frame: &Frame,
    ) {
        self.hand = Hand { id: self.hand.id + 1, port, from: Some(from), has_before: true };
        self.before.copy(fib, (port, Way::In), (pool, frame), self.most);
        self.headers = Headers::of(link(port), &self.before.bytes, fib.node().vxlan_port);
    }

    /// The slow path asks a workload something.
    pub(super) fn asked(&mut self) {
        self.hand = Hand { id: self.hand.id + 1, port: None, from: None, has_before: false };
        self.headers = Headers::default();
    }

    /// A packet that waited in the slow path was dropped.
    pub(super) fn lost(&mut self, fib: &Fib, from: Party, packet: &[u8], reason: DropReason) {
        self.hand = Hand { id: self.hand.id + 1, port: None, from: Some(from), has_before: true };
        self.before.bytes.clear();
        self.before.bytes.extend_from_slice(&packet[..packet.len().min(self.most)]);
        (self.before.len, self.before.segments) = (packet.len(), None);
        self.headers = Headers::of(Link::Ip, &self.before.bytes, fib.node().vxlan_port);
        self.ended(Outcome::Dropped(reason));
    }

    /// The frame in hand was dropped, or left the fast path.
    pub(super) fn ended(&mut self, outcome: Outcome) {
        if !self.hand.has_before {
            return;
        }
        for tap in &self.taps {
            if tap.wanted.wants(&self.hand, None, &self.headers) && (!tap.wanted.dropped || outcome.is_drop())
            {
                let Some(mut record) = tap.empty() else { continue };
                self.before.fill(&mut record, &tap.wanted);
                let Hand { id, port, from, .. } = self.hand;
                (record.id, record.port, record.way, record.from) = (id, port, Way::In, from);
                (record.to, record.time, record.outcome) = (None, self.time, outcome);
                tap.push(record);
            }
        }
    }

    /// The frame in hand goes on to the port that the verdict names, unless it is only kept.
    pub(super) fn forwarded(
        &mut self,
        fib: &Fib,
        verdict: Verdict,
        outcome: Outcome,
        (pool, frame): (&Pool, &Frame),
    ) {
        let Some(port) = port_of(verdict) else { return };
        let to = matches!(verdict, Verdict::Ipip | Verdict::Vxlan(_) | Verdict::Direct).then_some(frame.peer);
        self.after.copy(fib, (Some(port), Way::Out), (pool, frame), self.most);
        self.headers.add(link(Some(port)), &self.after.bytes, fib.node().vxlan_port);
        let Hand { id, from, .. } = self.hand;
        for (index, tap) in self.taps.iter().enumerate() {
            if !tap.wanted.wants(&self.hand, Some((port, to)), &self.headers) {
                continue;
            }
            if self.hand.has_before
                && !tap.wanted.dropped
                && let Some(mut record) = tap.empty()
            {
                self.before.fill(&mut record, &tap.wanted);
                (record.id, record.port, record.way, record.from) = (id, self.hand.port, Way::In, from);
                (record.to, record.time, record.outcome) = (to, self.time, Outcome::Forwarded(verdict));
                tap.push(record);
            }
            if let Some(mut record) = tap.empty() {
                self.after.fill(&mut record, &tap.wanted);
                (record.id, record.port, record.way, record.from) = (id, Some(port), Way::Out, from);
                (record.to, record.time, record.outcome) = (to, self.time, outcome);
                self.queued.push((index, record));
            }
        }
    }

    /// There is no port for the frame in hand.
    pub(super) fn unsent(&mut self, reason: DropReason) {
        let id = self.hand.id;
        for (_, record) in self.queued.iter_mut().rev().take_while(|(_, record)| record.id == id) {
            record.outcome = Outcome::Dropped(reason);
        }
    }

    /// A port did not take so many of what it was given.
    pub(super) fn refused(&mut self, port: PortId, reason: DropReason, count: u64) {
        self.refused.push((port, reason, count));
    }

    /// The end of a turn: what was queued has been sent, or not. Captures that nobody reads any more end.
    pub(super) fn settle(&mut self) {
        for (index, mut record) in self.queued.drain(..) {
            let refused = self.refused.iter().find(|(port, ..)| Some(*port) == record.port);
            if let (Outcome::Sent, Some(&(_, reason, lost))) = (record.outcome, refused) {
                record.outcome = Outcome::Refused { reason, lost };
            }
            let tap = &self.taps[index];
            match !tap.wanted.dropped || record.outcome.is_drop() {
                true => tap.push(record),
                false => drop(tap.queue.empty.push(record)),
            }
        }
        self.refused.clear();
        self.taps.retain(|tap| !tap.queue.is_closed.load(Ordering::Relaxed));
    }
}

impl Tap {
    fn empty(&self) -> Option<Box<Record>> {
        let record = self.queue.empty.pop();
        if record.is_none() {
            self.queue.missed.fetch_add(1, Ordering::Relaxed);
        }
        record
    }

    fn push(&self, record: Box<Record>) {
        // There is room for all that there are.
        let _ = self.queue.full.push(record);
    }
}

impl Wanted {
    /// Whether a frame is wanted that goes `to`, if it goes on.
    fn wants(&self, hand: &Hand, to: Option<(PortId, Option<IpAddr>)>, headers: &Headers) -> bool {
        let is_endpoint = |id: EndpointId| {
            let port = Some(PortId::Endpoint(id));
            hand.port == port || hand.from == Some(Party::Endpoint(id)) || to.map(|(port, _)| port) == port
        };
        let is_peer =
            |peer: &IpAddr| hand.from == Some(Party::Peer(*peer)) || to.and_then(|(_, to)| to) == Some(*peer);
        let is_wanted_peer = self.peers.is_empty() || self.peers.iter().any(is_peer);
        self.endpoint.is_none_or(is_endpoint) && is_wanted_peer && self.filter.matches(headers)
    }
}

impl Head {
    fn copy(
        &mut self,
        fib: &Fib,
        (port, way): (Option<PortId>, Way),
        (pool, frame): (&Pool, &Frame),
        most: usize,
    ) {
        self.bytes.clear();
        self.len = frame.len();
        self.segments = frame.offload.segments;
        if let Some(PortId::Vxlan(_)) = port {
            make_up(fib, way, frame, &mut self.bytes);
            self.len += self.bytes.len();
        }
        self.bytes.extend_from_slice(&pool.bytes(frame)[..frame.len().min(most)]);
    }

    fn fill(&self, record: &mut Record, wanted: &Wanted) {
        record.bytes.clear();
        record.bytes.extend_from_slice(&self.bytes[..self.bytes.len().min(wanted.snap)]);
        (record.len, record.segments) = (self.len, self.segments);
    }
}

/// Writes the headers that the kernel puts around a VXLAN frame, or has taken off.
fn make_up(fib: &Fib, way: Way, frame: &Frame, out: &mut Vec<u8>) {
    let own = fib.node().underlay(Family::of(frame.peer)).unwrap_or(frame.peer);
    let (src, dst) = match way {
        Way::In => (frame.peer, own),
        Way::Out => (own, frame.peer),
    };
    // A super-frame may be longer than a length can say; zero is what the kernel's own captures have then.
    let len = |overhead| u16::try_from(frame.len() + overhead).unwrap_or(0);
    let mut datagram = [0; udp::HEADER_LEN];
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut ip = [0; ipv4::MIN_HEADER_LEN];
            ipv4::Header {
                tos: frame.ecn as u8,
                total_len: len(ip.len() + datagram.len()),
                id: 0,
                dont_fragment: false,
                more_fragments: false,
                fragment_offset: 0,
                ttl: 64,
                protocol: Protocol::UDP,
                src,
                dst,
            }
            .write(&mut ip);
            out.extend_from_slice(&ip);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut ip = [0; ipv6::HEADER_LEN];
            ipv6::Header {
                traffic_class: frame.ecn as u8,
                flow_label: 0,
                payload_len: len(datagram.len()),
                next_header: Protocol::UDP,
                hop_limit: 64,
                src,
                dst,
            }
            .write(&mut ip);
            out.extend_from_slice(&ip);
        }
        _ => return,
    }
    let dst_port = fib.node().vxlan_port;
    udp::Header { src_port: 0, dst_port, len: len(udp::HEADER_LEN), checksum: 0 }.write(&mut datagram);
    out.extend_from_slice(&datagram);
}

/// The port that a verdict hands a frame to.
pub(super) fn port_of(verdict: Verdict) -> Option<PortId> {
    Some(match verdict {
        Verdict::Workload(id) | Verdict::Reply(id) => PortId::Endpoint(id),
        Verdict::Ipip => PortId::Ipip,
        Verdict::Vxlan(underlay) => PortId::Vxlan(underlay),
        Verdict::Direct => PortId::Direct,
        Verdict::Host => PortId::Host,
        Verdict::Punt(_) => return None,
    })
}

/// Wall clock, as captures have it.
pub(super) fn now() -> Duration {
    SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default()
}
