//! What leaves the fast path: ICMP errors, fragmentation, and frames that wait for a workload's MAC.
//!
//! A punted frame comes in as the IP packet that was received. What is made of it goes out as packets for
//! [`Engine::originate`](crate::dataplane::Engine::originate), each counted as input of its own. All state is
//! the worker's, and bounded.

pub mod fragment;
pub mod icmp;
pub mod limit;
mod parked;

use std::net::Ipv4Addr;
use std::time::Instant;

use crate::buf::{Frame, Offload, Pool, Segmentation, Segments};
use crate::dataplane::engine::mtu;
use crate::dataplane::{Origin, Tables};
use crate::fib::{Action, EndpointId, Fib};
use crate::io::offload;
use crate::verdict::{DropReason, PuntReason};
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::transport::Transport;

use icmp::Error;
use limit::Limiter;
use parked::Parked;

/// The IPv4 dummy address (RFC 7600 3).
const DUMMY_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// What the slow path made of a punted frame.
#[derive(Debug)]
pub enum Made {
    /// A packet to route: an ICMP error or answer, or a fragment; and whose frame it was made of.
    Packet(Origin, Frame),
    /// An Ethernet frame for an endpoint: an ARP request.
    Question(EndpointId, Frame),
    /// Nothing of a frame of theirs, for this reason.
    Nothing(Origin, DropReason),
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
}

impl SlowPath {
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
            PuntReason::Gateway | PuntReason::NodeAddress => match icmp::echo_reply(pool.bytes_mut(&frame)) {
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
        };
        let written = self.limiter.error(tables.fib, now, origin, error, pool.bytes(&frame));
        pool.put(frame);
        made.push(Made::of(
            origin,
            written.and_then(|error| filled(pool, error.bytes(), Offload::default())),
        ));
    }

    /// What time brings: packets that waited are let go, and questions are asked again.
    pub fn tick(&mut self, tables: Tables<'_>, now: Instant, pool: &mut Pool, made: &mut Vec<Made>) {
        let SlowPath { limiter, parked } = self;
        parked.tick(tables, now, pool, made, |origin, packet| {
            // RFC 1812 5.2.7.1, 3.3.2: on a link of our own it is the host that cannot be reached.
            limiter.error(tables.fib, now, origin, Error::HostUnreachable, packet)
        });
    }

    /// When [`Self::tick`] is due; `None` when nothing waits.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        self.parked.deadline(now)
    }
}

impl Limiter {
    /// The error about `original`, if one may be sent.
    fn error(
        &mut self,
        fib: &Fib,
        now: Instant,
        origin: Origin,
        error: Error,
        original: &[u8],
    ) -> Result<icmp::Message, DropReason> {
        // What no error is due about does not use up what others may ask for.
        let about = Ipv4::parse(original)?;
        icmp::may_be_sent_about(&about)?;
        if !self.allows(origin, now) {
            return Err(DropReason::IcmpRateLimited);
        }
        Ok(icmp::Message::new(error, source(fib, about.src()), original))
    }
}

/// The address that an error to `destination` comes from. This node's kernel takes nothing from an address of its own,
/// be it to pass it on, so to it margay speaks as a router without one (RFC 7600).
fn source(fib: &Fib, destination: Ipv4Addr) -> Ipv4Addr {
    match fib.lookup(destination) {
        Action::Host => DUMMY_ADDRESS,
        _ => fib.node().icmp_source,
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
    let destination = Ipv4::parse(pool.bytes(frame)).map(|ip| tables.fib.lookup(ip.dst()));
    if origin != Origin::Host && destination != Ok(Action::Host) {
        ipv4::decrement_ttl(pool.bytes_mut(frame));
    }
}

fn too_big(tables: Tables<'_>, pool: &Pool, frame: &Frame) -> TooBig {
    let Ok(ip) = Ipv4::parse(pool.bytes(frame)) else { return TooBig::Hopeless };
    let action = tables.fib.lookup(ip.dst());
    let mtu = match action {
        Action::Blackhole | Action::NoRoute => return TooBig::Hopeless,
        action => mtu(tables.fib, action),
    };
    if ip.dont_fragment() {
        return TooBig::Tell(mtu);
    }
    let Some(mut segments) = frame.offload.segments else { return TooBig::Split(mtu) };
    let headers =
        Transport::parse(&ip).map_or(u16::MAX, |transport| ip.header_len() as u16 + transport.header_len);
    match segments.kind {
        Segmentation::UdpV4 => TooBig::Cut(segments, mtu),
        _ if headers >= mtu => TooBig::Hopeless,
        Segmentation::TcpV4 | Segmentation::TcpV4Ecn => {
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
