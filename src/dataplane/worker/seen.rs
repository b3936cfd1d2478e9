//! Forwarding while somebody looks: frame by frame, each shown as it came and as it went.

use super::Worker;
use crate::dataplane::engine::Verdict;
use crate::dataplane::tap::Outcome;
use crate::dataplane::{PortId, accounts};
use crate::fib::Fib;
use crate::verdict::DropReason;

/// Who looks at frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Eyes {
    /// Captures.
    Captures,
    /// Who wants to know what would become of a frame: nothing does.
    Consider,
}

impl Worker {
    /// The same, each frame by itself, while somebody looks; where they are only considered, nothing is carried out.
    #[cold]
    pub(super) fn pass_seen(&mut self, fib: &Fib, id: PortId, eyes: Eyes) {
        self.taps.begin();
        for place in 0..self.ports.hand().len() {
            self.show_received(fib, id, place);
            self.decide(fib, id, place..place + 1);
            let Some(verdict) = self.verdicts.pop() else { continue };
            self.show_verdict(fib, verdict, place, eyes);
            match eyes {
                Eyes::Captures => self.follow(fib, id, verdict, place),
                Eyes::Consider => self.pool.put(self.ports.hand()[place].take()),
            }
        }
    }

    #[cold]
    fn show_received(&mut self, fib: &Fib, id: PortId, place: usize) {
        let frame = &self.ports.hand()[place];
        let origin = accounts::origin(fib, id, &self.pool, frame);
        self.taps.received(fib, Some(id), origin.into(), &self.pool, frame);
    }

    /// What is punted is told when the slow path has done with it, unless nobody asks that.
    #[cold]
    fn show_verdict(&mut self, fib: &Fib, verdict: Result<Verdict, DropReason>, place: usize, eyes: Eyes) {
        let frame = &self.ports.hand()[place];
        match (verdict, eyes) {
            (Ok(Verdict::Punt(reason)), Eyes::Consider) => self.taps.ended(Outcome::Punted(reason, None)),
            (Ok(Verdict::Punt(_)), _) => {}
            (Ok(verdict), Eyes::Consider) => {
                self.taps.forwarded(fib, verdict, Outcome::Kept, (&self.pool, frame));
            }
            (Ok(verdict), _) => self.taps.forwarded(fib, verdict, Outcome::Sent, (&self.pool, frame)),
            (Err(reason), _) => self.taps.ended(Outcome::Dropped(reason)),
        }
    }
}
