//! Asking what the path to each peer takes: echo requests with DF, padded to a size, through the tunnel to the peer
//! itself. Whoever is a node of the cluster answers them, margay or not.
//!
//! What routers say is not needed for it, so that it finds paths on which large packets vanish in silence (RFC 2923
//! 2.1). As with RFC 8899, a path is asked again and again whether it takes what is sent into it:
//!
//! | stage | asks with | answered | no answer |
//! |---|---|---|---|
//! | resting | nothing, until it is time | – | – |
//! | confirming | what the tunnel takes | resting | floor |
//! | floor | [`FLOOR`] | between floor and what was not answered | resting: the peer is silent, nothing is known |
//! | between | the middle of the longest that arrived and the shortest that did not | the lower bound | the upper bound; at the end the tunnel is fitted to the lower one |
//!
//! No answer means that to none of [`TRIES`]. A tunnel that takes less than is configured is asked for more after
//! [`RAISE`]: between, with what is configured first.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Made;
use super::icmp::Control;
use crate::buf::Pool;
use crate::dataplane::packet::Packet;
use crate::dataplane::paths::{Change, MTU_LIFETIME};
use crate::dataplane::{Deadline, Paths};
use crate::fib::{Encapsulation, Fib, Tunnel, TunnelId};
use crate::verdict::DropReason;
use crate::wire::ip::View;
use crate::wire::{Family, Ipv4, Ipv6, ipv6};

/// Outer packets of IPv4 that every path takes, or is of no use (RFC 791 3.1: what every host takes), bytes. Of IPv6 these
/// are [`ipv6::MIN_MTU`].
pub const FLOOR: u16 = 576;
/// How long an answer may take.
pub const ANSWER_TIME: Duration = Duration::from_millis(500);
/// Probes of one size before it counts as lost.
pub const TRIES: u8 = 3;
/// How often a path is asked whether it takes what is sent into it.
pub const CONFIRM: Duration = Duration::from_secs(60);
/// How long a peer that answers nothing is left alone.
pub const SILENCE: Duration = Duration::from_secs(10);
/// When more is tried: before what was learned gets old, so that it is found anew without a gap.
pub const RAISE: Duration = Duration::from_secs(540);
const _: () = assert!(RAISE.as_secs() < MTU_LIFETIME.as_secs());
/// Probes in one go, and the time between two such: 320 a second to all peers together.
const PER_TICK: usize = 16;
const TICK: Duration = Duration::from_millis(50);
/// What every probe's data begin with, before this process's number.
const MAGIC: [u8; 8] = *b"path mtu";
const DATA_AT: usize = MAGIC.len() + size_of::<u64>();

/// Asks all peers; shared by the workers, one of which keeps the time.
#[derive(Debug)]
pub struct Prober {
    due: Deadline,
    /// What nobody can guess who does not see the probes.
    number: u64,
    searches: Mutex<BTreeMap<IpAddr, Search>>,
}

impl Prober {
    /// One that begins at `now`.
    pub fn new(now: Instant) -> Self {
        let due = Deadline::never(now);
        due.set(Some(now));
        Prober { due, number: RandomState::new().hash_one(MAGIC), searches: Mutex::default() }
    }

    /// When [`Self::tick`] is due.
    #[inline]
    pub fn deadline(&self) -> Option<Instant> {
        self.due.get()
    }

    /// Sends what it is time for. A node without a tunnel address does not ask: the answers would not come back through
    /// the tunnel.
    pub fn tick(&self, work: &mut Work<'_>) {
        let (fib, now) = (work.fib, work.now);
        let mut tunnels = asked(fib);
        tunnels.retain(|remote, _| source_to(fib, *remote).is_some());
        let mut searches = self.lock();
        searches.retain(|peer, _| tunnels.contains_key(peer));
        let mut left = PER_TICK;
        for (peer, asked) in tunnels {
            let search = searches.entry(peer).or_insert_with(|| Search::new(now));
            if search.due > now || left == 0 {
                continue;
            }
            left -= 1;
            let step = search.step(asked.1, now);
            self.act(work, asked, step);
        }
        let next = searches.values().map(|search| search.due).min();
        self.due.set(Some(next.unwrap_or(now + SILENCE).max(now + TICK)));
    }

    /// Takes an answer from `peer`'s tunnel, and asks on at once.
    ///
    /// # Errors
    /// [`DropReason::ProbeUnasked`].
    pub fn answered(&self, work: &mut Work<'_>, peer: IpAddr, packet: &[u8]) -> Result<(), DropReason> {
        let unasked = DropReason::ProbeUnasked;
        let (size, data) = match Family::of_packet(packet) {
            Some(Family::V6) => Ipv6Addr::echo_replied(Ipv6::parse(packet)?.payload()),
            _ => Ipv4Addr::echo_replied(Ipv4::parse(packet)?.payload()),
        }
        .ok_or(unasked)?;
        if data.get(MAGIC.len()..DATA_AT) != Some(&self.number.to_be_bytes()) {
            return Err(unasked);
        }
        let mut searches = self.lock();
        let search = searches.get_mut(&peer).ok_or(unasked)?;
        let asked = asked(work.fib).remove(&peer).ok_or(unasked)?;
        let step = search.answered(asked.1, size, work.now).ok_or(unasked)?;
        self.act(work, asked, step);
        Ok(())
    }

    /// Does what a search wants.
    fn act(&self, work: &mut Work<'_>, (id, tunnel): (TunnelId, &Tunnel), step: Step) {
        match step {
            Step::Rest => {}
            Step::Found(size) => {
                let mtu = (size < tunnel.full_mtu()).then(|| size.saturating_add(tunnel.overhead()));
                work.changes.extend(work.paths.probed(work.fib, tunnel, mtu, work.now));
            }
            Step::Send(size) => {
                let Some(mut frame) = work.pool.take() else { return };
                let room = work.pool.room(&frame);
                let len = usize::from(size).min(room.len());
                self.write(&mut room[..len], work.fib, tunnel.remote);
                work.pool.filled(&mut frame, len);
                work.made.push(Made::Probe(id, frame));
            }
        }
    }

    /// The probe as long as `out`.
    fn write(&self, out: &mut [u8], fib: &Fib, peer: IpAddr) {
        let begin = [MAGIC, self.number.to_be_bytes()].concat();
        // The sequence number says which size is answered, also by the first fragment of a reply.
        let echo = (self.number as u16, out.len() as u16);
        match (source_to(fib, peer), peer) {
            (Some(IpAddr::V4(source)), IpAddr::V4(peer)) => {
                Control::write_echo_request(out, (source, peer), echo, &begin);
            }
            (Some(IpAddr::V6(source)), IpAddr::V6(peer)) => {
                Control::write_echo_request(out, (source, peer), echo, &begin);
            }
            _ => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, Search>> {
        self.searches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the prober works with, and where it puts what comes of it.
#[derive(Debug)]
pub struct Work<'a> {
    /// The FIB of this turn.
    pub fib: &'a Fib,
    /// What is known of the peers' paths.
    pub paths: &'a Paths,
    /// The time.
    pub now: Instant,
    /// Where probes' slots come from.
    pub pool: &'a mut Pool,
    /// Probes.
    pub made: &'a mut Vec<Made>,
    /// What became known.
    pub changes: &'a mut Vec<Change>,
}

/// Where probes to a peer come from, so that answers come through the tunnel: this node's tunnel address.
fn source_to(fib: &Fib, peer: IpAddr) -> Option<IpAddr> {
    match Family::of(peer) {
        Family::V4 => tunnel_address::<Ipv4Addr>(fib).map(IpAddr::V4),
        Family::V6 => tunnel_address::<Ipv6Addr>(fib).map(IpAddr::V6),
    }
}

fn tunnel_address<A: Control>(fib: &Fib) -> Option<A> {
    let (node, underlay) = (fib.node(), fib.node().underlay(A::FAMILY));
    node.addresses::<A>().iter().copied().find(|address| Some((*address).into()) != underlay)
}

/// True for the answer to a probe, be it one of this process's or not: an echo reply, or the first fragment of one.
#[inline]
pub fn is_answer<A: Control>(packet: &Packet<A>, bytes: &[u8]) -> bool {
    packet.protocol == A::ICMP && begins_like_an_answer::<A>(bytes)
}

#[cold]
fn begins_like_an_answer<A: Control>(bytes: &[u8]) -> bool {
    let Ok(ip) = A::View::parse(bytes) else { return false };
    !ip.is_later_fragment() && A::echo_replied(ip.payload()).is_some_and(|(_, data)| data.starts_with(&MAGIC))
}

/// A tunnel to each peer: the IPIP one where there are two, as its outer packets have DF.
fn asked(fib: &Fib) -> BTreeMap<IpAddr, (TunnelId, &Tunnel)> {
    let mut asked = BTreeMap::new();
    for (id, tunnel) in fib.tunnels() {
        let entry = asked.entry(tunnel.remote).or_insert((id, tunnel));
        if matches!(tunnel.encapsulation, Encapsulation::Ipip(_)) {
            *entry = (id, tunnel);
        }
    }
    asked
}

/// One peer's state.
#[derive(Debug)]
struct Search {
    stage: Stage,
    tries: u8,
    due: Instant,
    raise: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Resting,
    Confirming,
    Floor,
    /// Inner sizes: the longest that arrived, the shortest that did not.
    Between {
        good: u16,
        bad: u16,
    },
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Nothing.
    Rest,
    /// Ask with an inner packet of this size.
    Send(u16),
    /// This is the longest inner packet that arrives.
    Found(u16),
}

impl Search {
    fn new(now: Instant) -> Self {
        Search { stage: Stage::Resting, tries: 0, due: now, raise: now + RAISE }
    }

    /// What it asks with.
    fn size(&self, tunnel: &Tunnel) -> u16 {
        match self.stage {
            Stage::Resting | Stage::Confirming => tunnel.mtu(),
            Stage::Floor => floor(tunnel),
            Stage::Between { bad, .. } if bad > tunnel.full_mtu() => tunnel.full_mtu(),
            Stage::Between { good, bad } => good + (bad - good) / 2,
        }
    }

    /// The time has come.
    fn step(&mut self, tunnel: &Tunnel, now: Instant) -> Step {
        if self.stage == Stage::Resting {
            let may_raise = self.raise <= now && tunnel.mtu() < tunnel.full_mtu();
            self.enter(match may_raise {
                true => Stage::Between { good: tunnel.mtu(), bad: tunnel.full_mtu().saturating_add(1) },
                false => Stage::Confirming,
            });
        }
        if self.tries < TRIES {
            return self.ask(tunnel, now);
        }
        match self.stage {
            Stage::Confirming if floor(tunnel) < tunnel.mtu() => self.enter(Stage::Floor),
            Stage::Between { good, .. } => return self.narrow(tunnel, good, self.size(tunnel), now),
            Stage::Resting | Stage::Confirming | Stage::Floor => return self.rest(now + SILENCE),
        }
        self.ask(tunnel, now)
    }

    /// A probe of `size` was answered; `None` when nothing waits for it.
    fn answered(&mut self, tunnel: &Tunnel, size: u16, now: Instant) -> Option<Step> {
        let wanted = self.size(tunnel)..=tunnel.full_mtu();
        if self.stage == Stage::Resting || !wanted.contains(&size) {
            return None;
        }
        Some(match self.stage {
            Stage::Resting | Stage::Confirming => self.rest(now + CONFIRM),
            Stage::Floor => self.narrow(tunnel, floor(tunnel), tunnel.mtu(), now),
            Stage::Between { bad, .. } => self.narrow(tunnel, size, bad, now),
        })
    }

    fn narrow(&mut self, tunnel: &Tunnel, good: u16, bad: u16, now: Instant) -> Step {
        if bad.saturating_sub(good) <= 1 {
            self.rest(now + CONFIRM);
            self.raise = now + RAISE;
            return Step::Found(good);
        }
        self.enter(Stage::Between { good, bad });
        self.ask(tunnel, now)
    }

    fn ask(&mut self, tunnel: &Tunnel, now: Instant) -> Step {
        self.tries += 1;
        self.due = now + ANSWER_TIME;
        Step::Send(self.size(tunnel))
    }

    fn enter(&mut self, stage: Stage) {
        (self.stage, self.tries) = (stage, 0);
    }

    fn rest(&mut self, until: Instant) -> Step {
        self.enter(Stage::Resting);
        self.due = until;
        Step::Rest
    }
}

/// The inner packet that makes [`FLOOR`].
fn floor(tunnel: &Tunnel) -> u16 {
    let outer = if tunnel.remote.is_ipv6() { ipv6::MIN_MTU } else { FLOOR };
    outer - tunnel.overhead()
}
