//! Whether a worker that has nothing to do asks again for a while, or sleeps at once.
//!
//! To be woken takes longer than to forward a packet many times over; to ask all the time takes a core. So a worker
//! asks only while the answer comes soon:
//!
//! | state | wait | next |
//! |---|---|---|
//! | asks | short, or less than [`MISSES`] long ones in a row | asks |
//! | asks | long for the [`MISSES`]th time | sleeps |
//! | sleeps | short | asks |
//! | sleeps | long for the [`PAUSE`]th time | asks, once: one more long wait, and it sleeps again |
//!
//! A wait is short when it ends within the limit. Where nothing happens for long, asking takes at most the limit once in
//! `PAUSE` waits: nothing at all, as such waits do not end.

use std::time::Duration;

/// Long waits in a row after which a worker no longer asks.
const MISSES: u32 = 4;
/// Long waits in a row while it sleeps, until it asks again.
const PAUSE: u32 = 64;

/// The policy of one worker.
#[derive(Debug)]
pub(super) struct Spin {
    limit: Duration,
    /// Long waits in a row.
    long: u32,
}

impl Spin {
    /// Asks for at most `limit` in one wait; with zero it never does.
    pub(super) fn new(limit: Duration) -> Self {
        Spin { limit, long: 0 }
    }

    /// How long the next wait may ask before it sleeps.
    pub(super) fn time(&self) -> Duration {
        match self.long {
            MISSES.. if self.long < MISSES + PAUSE => Duration::ZERO,
            _ => self.limit,
        }
    }

    /// Whether waits have to be measured.
    pub(super) fn is_on(&self) -> bool {
        !self.limit.is_zero()
    }

    /// Takes in how long the latest wait was.
    pub(super) fn waited(&mut self, time: Duration) {
        self.long = match self.long {
            _ if time <= self.limit => 0,
            tried if tried >= MISSES + PAUSE => MISSES,
            long => long + 1,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(50);
    const LONG: Duration = Duration::from_micros(51);

    fn after(waits: impl IntoIterator<Item = Duration>) -> Spin {
        let mut spin = Spin::new(LIMIT);
        waits.into_iter().for_each(|time| spin.waited(time));
        spin
    }

    fn long(count: u32) -> impl Iterator<Item = Duration> {
        (0..count).map(|_| LONG)
    }

    #[test]
    fn it_asks_while_work_comes_soon() {
        assert_eq!(after([]).time(), LIMIT);
        assert_eq!(after([LIMIT; 1000]).time(), LIMIT);
        assert_eq!(after(long(MISSES - 1)).time(), LIMIT);
        assert_eq!(after(long(MISSES - 1).chain([LIMIT]).chain(long(MISSES - 1))).time(), LIMIT);
    }

    #[test]
    fn it_sleeps_when_nothing_came_several_times() {
        for waits in MISSES..MISSES + PAUSE {
            assert_eq!(after(long(waits)).time(), Duration::ZERO, "after {waits} long waits");
        }
        assert_eq!(after(long(MISSES + 1).chain([LIMIT])).time(), LIMIT, "until one was short");
    }

    #[test]
    fn now_and_then_it_tries_again() {
        let mut spin = after(long(MISSES));
        let asked = (0..10 * (PAUSE + 1)).filter(|_| {
            let asks = spin.time() > Duration::ZERO;
            spin.waited(LONG);
            asks
        });
        assert_eq!(asked.count(), 10);
    }

    #[test]
    fn without_a_limit_it_never_asks() {
        let mut spin = Spin::new(Duration::ZERO);
        assert!(!spin.is_on() && spin.time().is_zero());
        spin.waited(Duration::ZERO);
        assert!(spin.time().is_zero());
    }
}
