//! A limit on the ICMP errors that anyone can make this node send (RFC 1812 4.3.2.8).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::dataplane::Origin;
use crate::verdict::IcmpError;

/// Errors at once, after a pause: what a traceroute of 30 hops with three probes each asks for.
const BURST: u32 = 100;
/// Time that earns one more.
const INTERVAL: Duration = Duration::from_millis(10);
/// Origins that have a bucket of their own; beyond that the oldest knowledge is forgotten.
const MAX_ORIGINS: usize = 4096;

/// A token bucket for each origin of undeliverable packets.
#[derive(Debug, Default)]
pub struct Limiter {
    buckets: HashMap<Origin, Bucket>,
    /// Errors that were made since somebody asked.
    pub(super) told: Option<[u64; IcmpError::COUNT]>,
}

#[derive(Debug)]
struct Bucket {
    tokens: u32,
    filled: Instant,
}

impl Limiter {
    /// Whether one more error may be sent on behalf of `origin`.
    pub fn allows(&mut self, origin: Origin, now: Instant) -> bool {
        if self.buckets.len() >= MAX_ORIGINS && !self.buckets.contains_key(&origin) {
            // A full bucket says the same as none.
            self.buckets.retain(|_, bucket| now.saturating_duration_since(bucket.filled) < INTERVAL * BURST);
            if self.buckets.len() >= MAX_ORIGINS {
                return false;
            }
        }
        let bucket = self.buckets.entry(origin).or_insert(Bucket { tokens: BURST, filled: now });
        let earned = now.saturating_duration_since(bucket.filled).as_nanos() / INTERVAL.as_nanos();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if earned > 0 {
            bucket.tokens = bucket.tokens.saturating_add(earned).min(BURST);
            bucket.filled = now;
        }
        let allowed = bucket.tokens > 0;
        bucket.tokens = bucket.tokens.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fib::EndpointId;

    #[test]
    fn a_burst_passes_then_the_rate_and_others_are_not_hurt() {
        let mut limiter = Limiter::default();
        let (noisy, quiet) = (Origin::Workload(EndpointId(1)), Origin::Workload(EndpointId(2)));
        let start = Instant::now();
        let allowed = (0..1000).filter(|_| limiter.allows(noisy, start)).count();
        assert_eq!(allowed, BURST as usize);
        assert!(limiter.allows(quiet, start));
        let later = start + INTERVAL * 3;
        assert_eq!((0..1000).filter(|_| limiter.allows(noisy, later)).count(), 3);
    }

    #[test]
    fn memory_is_bounded() {
        let mut limiter = Limiter::default();
        let now = Instant::now();
        for id in 0..2 * MAX_ORIGINS as u32 {
            limiter.allows(Origin::Workload(EndpointId(id)), now);
        }
        assert!(limiter.buckets.len() <= MAX_ORIGINS);
        assert!(limiter.allows(Origin::Host, now + INTERVAL * BURST));
    }
}
