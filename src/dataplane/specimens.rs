//! The last frames of each drop reason: what an operator asks for after the fact.
//!
//! An attacker makes drops as fast as frames arrive, so only some of them are copied; the rest cost a look at one byte
//! and at the turn's time.

use std::time::{Duration, Instant};

use super::accounts::Party;
use super::packet;
use super::ports::PortId;
use super::tap;
use crate::capture::Link;
use crate::verdict::DropReason;

/// How many are kept of each reason.
pub const KEPT: usize = 4;
/// Bytes of each: an outer and an inner header, and what tells of the flow.
pub const HEAD: usize = 128;
/// So many of each reason are copied in one go, then none for a while.
const CREDIT: u8 = KEPT as u8;
const PAUSE: Duration = Duration::from_millis(100);

/// A frame that was dropped.
#[derive(Debug, Clone, Copy)]
pub struct Specimen {
    /// Since the beginning of 1970, UTC.
    pub time: Duration,
    /// With whom it was counted.
    pub party: Party,
    /// Where it came in; none of what the slow path made or kept.
    pub port: Option<PortId>,
    /// What its bytes begin with; of a frame out of a tunnel the tunnel's headers may be off already.
    pub link: Link,
    /// Bytes that it had.
    pub len: usize,
    head: [u8; HEAD],
}

impl Specimen {
    /// Of a frame whose bytes are these now.
    pub(super) fn new(party: Party, port: Option<PortId>, bytes: &[u8]) -> Self {
        let mut head = [0; HEAD];
        let kept = bytes.len().min(HEAD);
        head[..kept].copy_from_slice(&bytes[..kept]);
        // Of what had an Ethernet header it may be off: a packet parses with a right checksum only.
        let link = if packet::source(bytes).is_some() { Link::Ip } else { tap::link(port) };
        // The time is that of keeping: most are never kept, and ask no clock.
        Specimen { time: Duration::ZERO, party, port, link, len: bytes.len(), head }
    }

    /// Its first bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.head[..self.len.min(HEAD)]
    }
}

/// Those of one worker.
#[derive(Debug)]
pub struct Specimens {
    last: Box<[[Option<Specimen>; KEPT]; DropReason::COUNT]>,
    /// How many of each reason there were: the next one's place.
    count: [usize; DropReason::COUNT],
}

impl Default for Specimens {
    fn default() -> Self {
        Specimens { last: Box::new([[None; KEPT]; DropReason::COUNT]), count: [0; DropReason::COUNT] }
    }
}

impl Specimens {
    /// Of one reason, the oldest first.
    pub fn of(&self, reason: DropReason) -> impl Iterator<Item = &Specimen> {
        let next = self.count[reason.index()] % KEPT;
        let (newer, older) = self.last[reason.index()].split_at(next);
        older.iter().chain(newer).flatten()
    }

    pub(super) fn keep(&mut self, reason: DropReason, specimen: Specimen) {
        let count = &mut self.count[reason.index()];
        self.last[reason.index()][*count % KEPT] = Some(Specimen { time: tap::now(), ..specimen });
        *count += 1;
    }
}

/// How many more may be copied.
#[derive(Debug)]
pub(super) struct Credit {
    left: [u8; DropReason::COUNT],
    until: Instant,
}

impl Credit {
    pub(super) fn new(now: Instant) -> Self {
        Credit { left: [CREDIT; DropReason::COUNT], until: now }
    }

    /// Whether one more may be: nearly never, where there are many.
    #[inline]
    pub(super) fn allows(&self, reason: DropReason, now: Instant) -> bool {
        self.left[reason.index()] > 0 || now >= self.until
    }

    /// One more was.
    pub(super) fn take(&mut self, reason: DropReason, now: Instant) {
        if now >= self.until {
            *self = Credit { left: [CREDIT; DropReason::COUNT], until: now + PAUSE };
        }
        let left = &mut self.left[reason.index()];
        *left = left.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_kept_in_order() {
        let mut specimens = Specimens::default();
        for len in 1..=6 {
            let bytes = vec![len as u8; 100 * len];
            let specimen = Specimen::new(Party::Host, Some(PortId::Host), &bytes);
            specimens.keep(DropReason::TtlZero, specimen);
        }
        let lens: Vec<usize> = specimens.of(DropReason::TtlZero).map(|specimen| specimen.len).collect();
        assert_eq!(lens, [300, 400, 500, 600]);
        let kept: Vec<usize> =
            specimens.of(DropReason::TtlZero).map(|specimen| specimen.bytes().len()).collect();
        assert_eq!(kept, [HEAD; 4]);
        assert_eq!(specimens.of(DropReason::Blackhole).count(), 0);
    }

    #[test]
    fn many_are_not_copied_and_another_reason_has_its_own() {
        let start = Instant::now();
        let mut credit = Credit::new(start);
        let mut copied = |at: Instant, reason| {
            (0..1000)
                .filter(|_| {
                    let allowed = credit.allows(reason, at);
                    if allowed {
                        credit.take(reason, at);
                    }
                    allowed
                })
                .count()
        };
        assert_eq!(copied(start, DropReason::TtlZero), KEPT);
        assert_eq!(copied(start + PAUSE / 2, DropReason::TtlZero), 0);
        assert_eq!(copied(start + PAUSE / 2, DropReason::Blackhole), KEPT);
        assert_eq!(copied(start + PAUSE, DropReason::TtlZero), KEPT);
    }
}
