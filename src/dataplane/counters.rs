//! Counters: one writer each, readable by anyone.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam::utils::CachePadded;

use super::accounts::{Balance, Ledger, Party};
use super::specimens::{Specimen, Specimens};
use crate::io::FRAMES;
use crate::verdict::{Anomaly, DropReason, IcmpError, PuntReason, Sent};

/// What a worker counted since its last turn: plain numbers, no sharing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Frames that ports received, and packets that the slow path made.
    pub input: u64,
    /// Frames transmitted, by where to.
    pub sent: [u64; Sent::COUNT],
    /// Frames that left the fast path, by reason.
    pub punted: [u64; PuntReason::COUNT],
    /// Frames dropped, by reason.
    pub dropped: [u64; DropReason::COUNT],
    /// What was wrong with frames beside their outcomes.
    pub anomalies: [u64; Anomaly::COUNT],
    /// ICMP errors that were made, by what they say; limited already.
    pub icmp_errors: [u64; IcmpError::COUNT],
    /// Batches that ports received, by how many frames: the first of one, each further one of up to twice as many.
    pub batches: [u64; BATCH_SIZES],
    /// Frames of all of them.
    pub batched: u64,
}

/// Classes of batches: 1, 2, up to 4, and so on to 1,024 frames.
pub const BATCH_SIZES: usize = 11;
const _: () = assert!(1 << (BATCH_SIZES - 1) >= FRAMES);

/// The class of a batch that has frames.
#[inline]
pub(super) fn batch_size(frames: usize) -> usize {
    (frames.next_power_of_two().trailing_zeros() as usize).min(BATCH_SIZES - 1)
}

impl Default for Tally {
    fn default() -> Self {
        Tally {
            input: 0,
            sent: [0; Sent::COUNT],
            punted: [0; PuntReason::COUNT],
            dropped: [0; DropReason::COUNT],
            anomalies: [0; Anomaly::COUNT],
            icmp_errors: [0; IcmpError::COUNT],
            batches: [0; BATCH_SIZES],
            batched: 0,
        }
    }
}

impl Tally {
    /// Sum of all outcomes; equals [`Self::input`] whenever no frame is in hand.
    pub fn outcomes(&self) -> u64 {
        self.sent.iter().chain(&self.punted).chain(&self.dropped).sum()
    }

    /// All counts, a kind in each group.
    fn groups(&self) -> [&[u64]; 8] {
        let one = std::slice::from_ref;
        let Tally { input, sent, punted, dropped, anomalies, icmp_errors, batches, batched } = self;
        [one(input), sent, punted, dropped, anomalies, icmp_errors, batches, one(batched)]
    }

    /// The same, to change.
    fn groups_mut(&mut self) -> [&mut [u64]; 8] {
        let Tally { input, sent, punted, dropped, anomalies, icmp_errors, batches, batched } = self;
        let (input, batched) = (std::slice::from_mut(input), std::slice::from_mut(batched));
        [input, sent, punted, dropped, anomalies, icmp_errors, batches, batched]
    }
}

impl std::ops::AddAssign<&Tally> for Tally {
    fn add_assign(&mut self, other: &Tally) {
        for (cell, more) in self.groups_mut().into_iter().flatten().zip(other.groups().into_iter().flatten())
        {
            *cell += more;
        }
    }
}

const CELLS: usize =
    2 + Sent::COUNT + PuntReason::COUNT + DropReason::COUNT + Anomaly::COUNT + IcmpError::COUNT + BATCH_SIZES;

/// One worker's totals, published once a turn, and its accounts.
#[derive(Debug)]
pub struct Counters {
    cells: CachePadded<[AtomicU64; CELLS]>,
    /// Its lock is taken when an account is opened or closed, and by who reads.
    ledger: Mutex<Ledger>,
    /// Fewest slots that were free after a batch was received.
    fewest_free: AtomicU64,
    specimens: Mutex<Specimens>,
}

impl Counters {
    /// All zero.
    pub fn new() -> Arc<Self> {
        let cells = CachePadded::new([const { AtomicU64::new(0) }; CELLS]);
        Arc::new(Counters {
            cells,
            ledger: Mutex::default(),
            fewest_free: AtomicU64::new(u64::MAX),
            specimens: Mutex::default(),
        })
    }

    /// Adds `tally` and clears it. Only the worker that owns the counters calls this, so a load and a
    /// store suffice where a shared counter would need a locked addition.
    pub fn publish(&self, tally: &mut Tally) {
        let mut rest = &self.cells[..];
        for counts in tally.groups_mut() {
            let (cells, others) = rest.split_at(counts.len());
            rest = others;
            // In most turns there is nothing of most kinds: one look at all of them, not one at each.
            if counts.iter().fold(0, |any, count| any | count) == 0 {
                continue;
            }
            for (cell, count) in cells.iter().zip(counts) {
                cell.store(cell.load(Ordering::Relaxed) + *count, Ordering::Relaxed);
                *count = 0;
            }
        }
    }

    /// Of the one worker that owns the counters.
    pub(super) fn note_free(&self, slots: usize) {
        if (slots as u64) < self.fewest_free.load(Ordering::Relaxed) {
            self.fewest_free.store(slots as u64, Ordering::Relaxed);
        }
    }

    /// Fewest slots of the pool that were free after a batch was received; `None` before the first.
    pub fn fewest_free(&self) -> Option<u64> {
        Some(self.fewest_free.load(Ordering::Relaxed)).filter(|slots| *slots != u64::MAX)
    }

    /// The totals so far.
    pub fn read(&self) -> Tally {
        let mut tally = Tally::default();
        for (count, cell) in tally.groups_mut().into_iter().flatten().zip(self.cells.iter()) {
            *count = cell.load(Ordering::Relaxed);
        }
        tally
    }

    /// What of the totals was dropped and punted, by whom it is counted with.
    pub fn by_party(&self) -> BTreeMap<Party, Balance> {
        self.ledger().iter().map(|(party, account)| (*party, account.read())).collect()
    }

    /// The last frames of each drop reason; the worker keeps none while this is held.
    pub fn specimens(&self) -> MutexGuard<'_, Specimens> {
        self.specimens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a frame that was dropped, unless somebody reads: a worker does not wait.
    pub(super) fn keep(&self, reason: DropReason, specimen: Specimen) {
        if let Ok(mut specimens) = self.specimens.try_lock() {
            specimens.keep(reason, specimen);
        }
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_counts_add_up() {
        let counters = Counters::new();
        let mut tally = Tally::default();
        for _ in 0..3 {
            tally.input += 2;
            tally.sent[Sent::Vxlan.index()] += 1;
            tally.dropped[DropReason::TxFailed.index()] += 1;
            counters.publish(&mut tally);
            assert_eq!(tally, Tally::default());
        }
        let total = counters.read();
        assert_eq!((total.input, total.outcomes()), (6, 6));
        assert_eq!(total.sent[Sent::Vxlan.index()], 3);
    }
}
