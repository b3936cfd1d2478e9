//! What leaves the fast path: ICMP errors, fragmentation, and frames that wait for a workload's MAC.
//!
//! A punted frame comes in as the IP packet that was received. What is made of it goes out as packets for
//! [`Engine::originate`](crate::dataplane::Engine::originate), each counted as input of its own. All state is
//! the worker's, and bounded.

pub mod fragment;
pub mod icmp;
pub mod limit;
mod parked;
pub mod probe;
pub mod tunnel_error;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use crate::buf::{Frame, Offload, Pool, Segmentation, Segments};
use crate::dataplane::engine::mtu;
use crate::dataplane::paths::Change;
use crate::dataplane::{Origin, Paths, Tables, packet};
use crate::fib::{Action, EndpointId, Fib, TunnelId};
use crate::io::offload;
use crate::verdict::{DropReason, IcmpError, PuntReason};
use crate::wire::Family;
use crate::wire::ip::{self, Address as _, View};
use crate::wire::transport::Transport;

use icmp::{Control, Error};
use limit::Limiter;
use parked::Parked;
use probe::{Prober, Work};
use tunnel_error::{News, Relay};

/// What the slow path made of a punted frame.
#[derive(Debug)]
pub enum Made {
    /// A packet to route: an ICMP error or answer, or a fragment; and whose frame it was made of.
    Packet(Origin, Frame),
    /// An Ethernet frame for an endpoint: an ARP request or a neighbour solicitation.
    Question(EndpointId, Frame),
    /// A packet for this tunnel of the FIB in hand, whatever the tunnel's MTU.
    Probe(TunnelId, Frame),
    /// Nothing of a frame of theirs, for this reason.
    Nothing(Origin, DropReason),
    /// Nothing of this packet of theirs, which waited.
    Lost(Origin, DropReason, Vec<u8>),
}

impl Made {
    /// A packet, or nothing.
    fn of(origin: Origin, result: Result<Frame, DropReason>) -> Self {
        match result {
            Ok(frame) => Made::Packet(origin, frame),
            Err(reason) => Made::Nothing(origin, reason),
        }
    }
}

/// A frame that left the fast path.
#[derive(Debug)]
pub struct Punted {
    /// Why.
    pub reason: PuntReason,
    /// Who handed it to the vRouter, or the frame that it was made of.
    pub origin: Origin,
    /// The slow path made it: its hop here was counted before, or is none.
    pub is_made: bool,
    /// The IP packet.
    pub frame: Frame,
}

/// One worker's slow path.
#[derive(Debug, Default)]
pub struct SlowPath {
    limiter: Limiter,
    /// Packets that wait for their workload's MAC.
    parked: Parked,
    /// What is known of the peers' paths; shared by the workers.
    pub paths: Arc<Paths>,
    prober: Option<Arc<Prober>>,
    /// This worker keeps the time of what is shared.
    keeps_time: bool,
    changes: Vec<Change>,
}

impl SlowPath {
    /// That of one worker of those that share `paths`, and perhaps `prober`; one of them keeps their time.
    pub fn sharing(paths: Arc<Paths>, prober: Option<Arc<Prober>>, keeps_time: bool) -> Self {
        SlowPath { paths, prober, keeps_time, ..Self::default() }
    }

    /// When [`Self::tick`] has something to do; `None` when nothing waits.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        self.parked.deadline(now).into_iter().chain(self.shared_deadline()).min()
    }

    /// Whether [`Self::tick`] has something to do.
    #[inline]
    pub fn is_due(&self, now: Instant) -> bool {
        self.parked.deadline(now).is_some() || is_due(self.shared_deadline(), now)
    }

    #[inline]
    fn shared_deadline(&self) -> Option<Instant> {
        if !self.keeps_time {
            return None;
        }
        let prober = self.prober.as_ref().and_then(|prober| prober.deadline());
        self.paths.deadline().into_iter().chain(prober).min()
    }

    /// What time brings: packets that waited are let go, questions are asked again, old knowledge is forgotten.
    pub fn tick(&mut self, tables: Tables<'_>, now: Instant, pool: &mut Pool, made: &mut Vec<Made>) {
        let SlowPath { limiter, parked, .. } = self;
        parked.tick(tables, now, pool, made, |origin, packet| {
            // RFC 1812 5.2.7.1, 3.3.2: on a link of our own it is the host that cannot be reached.
            limiter.error_about(tables.fib, now, origin, Error::HostUnreachable, packet)
        });
        if !is_due(self.shared_deadline(), now) {
            return;
        }
        self.paths.tick(tables.fib, now, &mut self.changes);
        if let Some(prober) = self.prober.as_ref().filter(|prober| is_due(prober.deadline(), now)) {
            let (fib, paths, changes) = (tables.fib, &*self.paths, &mut self.changes);
            prober.tick(&mut Work { fib, paths, now, pool, made, changes });
        }
    }

    /// ICMP errors that were made since the last call, by what they say.
    pub fn told(&mut self) -> Option<[u64; IcmpError::COUNT]> {
        self.limiter.told.take()
    }

    /// What became known of paths since the last call.
    pub fn changes(&mut self) -> impl Iterator<Item = Change> {
        self.changes.drain(..)
    }

    /// Deals with a punted frame, whose slot it returns or passes on; `made` is filled with what came of it.
    pub fn punt(
        &mut self,
        tables: Tables<'_>,
        now: Instant,
        pool: &mut Pool,
        punted: Punted,
        made: &mut Vec<Made>,
    ) {
        let Punted { reason, origin, is_made, frame } = punted;
        let error = match reason {
            PuntReason::TtlExpired => Error::TtlExceeded,
            PuntReason::NoRoute => Error::NetUnreachable,
            PuntReason::TooBig => match too_big(tables, pool, &frame) {
                TooBig::Tell(mtu) => Error::FragmentationNeeded(mtu),
                smaller => {
                    if !is_made {
                        count_hop(tables, origin, pool, &frame);
                    }
                    return divide(pool, frame, smaller, |piece| made.push(Made::of(origin, piece)));
                }
            },
            PuntReason::Gateway | PuntReason::NodeAddress => match echo_reply(pool.bytes_mut(&frame)) {
                Ok(()) => return made.push(Made::Packet(origin, frame)),
                // Nothing else of the node can be reached.
                Err(_) if reason == PuntReason::NodeAddress => Error::NetUnreachable,
                Err(reason) => {
                    pool.put(frame);
                    return made.push(Made::Nothing(origin, reason));
                }
            },
            PuntReason::NeighborUnresolved => {
                return self.parked.park(tables, now, pool, (origin, frame), made);
            }
            PuntReason::TunnelError => {
                let (about, relayed) = self.tunnel_error(tables.fib, now, pool, &frame);
                made.push(Made::of(about.unwrap_or(origin), relayed));
                return pool.put(frame);
            }
            PuntReason::ProbeAnswer => {
                let answered = self.probe_answer(tables.fib, now, pool, (origin, &frame), made);
                made.extend(answered.err().map(|reason| Made::Nothing(origin, reason)));
                return pool.put(frame);
            }
        };
        let written = self.limiter.error_about(tables.fib, now, origin, error, pool.bytes(&frame));
        pool.put(frame);
        made.push(Made::of(
            origin,
            written.and_then(|error| filled(pool, error.bytes(), Offload::default())),
        ));
    }

    /// Notes what an ICMP error says of a tunnel, and makes of it the one that the inner sender is to get. Says to whose
    /// tunnel it was.
    fn tunnel_error(
        &mut self,
        fib: &Fib,
        now: Instant,
        pool: &mut Pool,
        frame: &Frame,
    ) -> (Option<Origin>, Result<Frame, DropReason>) {
        let report = match tunnel_error::read(fib, pool.bytes(frame)) {
            Ok(report) => report,
            Err(reason) => return (None, Err(reason)),
        };
        let tunnel = fib.tunnel(report.tunnel);
        self.changes.extend(match report.news {
            Some(News::PathMtu(mtu)) => self.paths.told(fib, tunnel, mtu, now),
            Some(News::Fault(fault)) => self.paths.failed(tunnel, fault, now),
            None => None,
        });
        let about = Origin::Peer(tunnel.remote);
        let error = match report.relay {
            Some(Relay::TunnelMtu) => Error::FragmentationNeeded(tunnel.mtu()),
            Some(Relay::As(error)) => error,
            None => return (Some(about), Err(DropReason::TunnelErrorNoted)),
        };
        let Some(inner) = report.inner else { return (Some(about), Err(DropReason::TunnelErrorNoted)) };
        let original = &pool.bytes(frame)[inner];
        let written = match Family::of_packet(original) {
            Some(Family::V6) => self.limiter.error_about_quoted::<Ipv6Addr>(fib, now, about, error, original),
            _ => self.limiter.error_about_quoted::<Ipv4Addr>(fib, now, about, error, original),
        };
        let relayed = written.and_then(|error| filled(pool, error.bytes(), Offload::default()));
        (Some(about), relayed)
    }

    fn probe_answer(
        &mut self,
        fib: &Fib,
        now: Instant,
        pool: &mut Pool,
        (origin, frame): (Origin, &Frame),
        made: &mut Vec<Made>,
    ) -> Result<(), DropReason> {
        let (Some(prober), Origin::Peer(peer)) = (&self.prober, origin) else {
            return Err(DropReason::ProbeUnasked);
        };
        let packet = pool.bytes(frame).to_vec();
        let (paths, changes) = (&*self.paths, &mut self.changes);
        prober.answered(&mut Work { fib, paths, now, pool, made, changes }, peer, &packet)
    }
}

fn is_due(deadline: Option<Instant>, now: Instant) -> bool {
    deadline.is_some_and(|deadline| deadline <= now)
}

impl Limiter {
    /// The error about the packet at the start of `original`, if one may be sent.
    fn error_about(
        &mut self,
        fib: &Fib,
        now: Instant,
        origin: Origin,
        error: Error,
        original: &[u8],
    ) -> Result<icmp::Message, DropReason> {
        match Family::of_packet(original) {
            Some(Family::V6) => {
                let original = <Ipv6Addr as ip::Address>::View::parse(original)?;
                self.error(fib, now, origin, error, &original)
            }
            _ => self.error(fib, now, origin, error, &<Ipv4Addr as ip::Address>::View::parse(original)?),
        }
    }

    /// The same of what another error quotes.
    fn error_about_quoted<A: Control>(
        &mut self,
        fib: &Fib,
        now: Instant,
        origin: Origin,
        error: Error,
        original: &[u8],
    ) -> Result<icmp::Message, DropReason> {
        self.error(fib, now, origin, error, &A::View::parse_quoted(original)?)
    }

    fn error<'a, V>(
        &mut self,
        fib: &Fib,
        now: Instant,
        origin: Origin,
        error: Error,
        original: &V,
    ) -> Result<icmp::Message, DropReason>
    where
        V: View<'a, Address: Control>,
    {
        // What no error is due about does not use up what others may ask for.
        icmp::may_be_sent_about(original)?;
        let source = source(fib, original.src()).ok_or(DropReason::IcmpNotDue)?;
        if !self.allows(origin, now) {
            return Err(DropReason::IcmpRateLimited);
        }
        self.told.get_or_insert_default()[error.kind().index()] += 1;
        Ok(icmp::Message::new(error, source, original.packet()))
    }
}

/// The address that an error to `destination` comes from. This node's kernel takes nothing from an address of its own,
/// be it to pass it on, so to it margay speaks as a router without one (RFC 7600). So it does to a workload where the
/// node has no address of the family; others would not know whose it is.
fn source<A: Control>(fib: &Fib, destination: A) -> Option<A> {
    match fib.lookup(destination) {
        Action::Host => Some(A::NAMELESS),
        Action::Deliver(_) => Some(fib.node().icmp_source().unwrap_or(A::NAMELESS)),
        _ => fib.node().icmp_source(),
    }
}

fn echo_reply(packet: &mut [u8]) -> Result<(), DropReason> {
    match Family::of_packet(packet) {
        Some(Family::V6) => icmp::echo_reply::<Ipv6Addr>(packet),
        _ => icmp::echo_reply::<Ipv4Addr>(packet),
    }
}

/// A slot with these bytes.
fn filled(pool: &mut Pool, bytes: &[u8], offload: Offload) -> Result<Frame, DropReason> {
    let mut frame = pool.take().ok_or(DropReason::NoBuffer)?;
    let room = pool.room(&frame);
    let len = bytes.len().min(room.len());
    room[..len].copy_from_slice(&bytes[..len]);
    pool.filled(&mut frame, len);
    frame.offload = offload;
    Ok(frame)
}

/// What can be done about a packet larger than the MTU of what it takes.
enum TooBig {
    /// DF: tell the source the MTU.
    Tell(u16),
    /// Split the inner packet to this MTU, then carry the fragments (RFC 791 3.2).
    Split(u16),
    /// A super-frame of datagrams, whose borders must stay: cut it, and split each to this MTU.
    Cut(Segments, u16),
    /// A TCP super-frame without DF: cut it smaller.
    Resegment(Offload),
    /// The headers leave no room, or the way is gone since.
    Hopeless,
}

/// One hop less for a packet that goes on in another form, by the rule of the engine's `forward`: this node's
/// kernel counts what comes from it or goes to it.
fn count_hop(tables: Tables<'_>, origin: Origin, pool: &mut Pool, frame: &Frame) {
    let action = packet::destination(pool.bytes(frame)).map(|destination| tables.fib.lookup_any(destination));
    if origin == Origin::Host || action == Some(Action::Host) {
        return;
    }
    match Family::of_packet(pool.bytes(frame)) {
        Some(Family::V6) => Ipv6Addr::decrement_hop_limit(pool.bytes_mut(frame)),
        _ => Ipv4Addr::decrement_hop_limit(pool.bytes_mut(frame)),
    }
}

fn too_big(tables: Tables<'_>, pool: &Pool, frame: &Frame) -> TooBig {
    match Family::of_packet(pool.bytes(frame)) {
        Some(Family::V6) => packet_too_big::<Ipv6Addr>(tables, pool, frame),
        _ => packet_too_big::<Ipv4Addr>(tables, pool, frame),
    }
}

fn packet_too_big<A: Control>(tables: Tables<'_>, pool: &Pool, frame: &Frame) -> TooBig {
    let Ok(ip) = A::View::parse(pool.bytes(frame)) else { return TooBig::Hopeless };
    let action = tables.fib.lookup(ip.dst());
    let mtu = match action {
        Action::Blackhole | Action::NoRoute => return TooBig::Hopeless,
        action => mtu::<A>(tables.fib, action),
    };
    if ip.dont_fragment() {
        return TooBig::Tell(mtu);
    }
    let Some(mut segments) = frame.offload.segments else { return TooBig::Split(mtu) };
    let headers =
        Transport::parse(&ip).map_or(u16::MAX, |transport| ip.header_len() as u16 + transport.header_len);
    match segments.kind {
        Segmentation::Udp => TooBig::Cut(segments, mtu),
        _ if headers >= mtu => TooBig::Hopeless,
        Segmentation::Tcp | Segmentation::TcpEcn => {
            segments.size = mtu - headers;
            TooBig::Resegment(Offload { segments: Some(segments), ..frame.offload })
        }
    }
}

/// Makes a packet small enough; `out` gets each piece.
fn divide(pool: &mut Pool, mut frame: Frame, how: TooBig, mut out: impl FnMut(Result<Frame, DropReason>)) {
    match how {
        TooBig::Resegment(offload) => {
            frame.offload = offload;
            return out(Ok(frame));
        }
        TooBig::Split(mtu) => {
            // No fragment has the bytes that are still to be added up.
            offload::complete_checksum(pool.bytes_mut(&frame), frame.offload);
            fragment::fragment(pool, &frame, mtu, out);
        }
        TooBig::Cut(segments, mtu) => fragment::datagrams(pool, &frame, segments, mtu, out),
        TooBig::Tell(_) | TooBig::Hopeless => out(Err(DropReason::TooBigUnsplittable)),
    }
    pool.put(frame);
}
