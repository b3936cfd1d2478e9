//! A deadline that threads share: one load asks for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// An instant, or none.
#[derive(Debug)]
pub struct Deadline {
    epoch: Instant,
    nanos: AtomicU64,
}

const NEVER: u64 = u64::MAX;

impl Deadline {
    /// None; `epoch` is before all that will be.
    pub fn never(epoch: Instant) -> Self {
        Deadline { epoch, nanos: AtomicU64::new(NEVER) }
    }

    /// Sets it; what is before the epoch is the epoch.
    pub fn set(&self, due: Option<Instant>) {
        let nanos = |due: Instant| due.saturating_duration_since(self.epoch).as_nanos();
        let nanos = due.map_or(NEVER, |due| u64::try_from(nanos(due)).unwrap_or(NEVER));
        // Relaxed: who finds it due takes a lock for the rest.
        self.nanos.store(nanos, Ordering::Relaxed);
    }

    /// When it is.
    #[inline]
    pub fn get(&self) -> Option<Instant> {
        match self.nanos.load(Ordering::Relaxed) {
            NEVER => None,
            nanos => Some(self.epoch + Duration::from_nanos(nanos)),
        }
    }
}
