//! What the slow path made: sent like what was received, or dropped.

use std::sync::Arc;

use super::Worker;
use crate::buf::Frame;
use crate::dataplane::engine::{Origin, Tables, Verdict};
use crate::dataplane::specimens::Specimen;
use crate::dataplane::tap::Outcome;
use crate::fib::Fib;
use crate::slowpath::{Made, Punted};
use crate::verdict::DropReason;

impl Worker {
    /// Sends what the slow path made; each piece is an input of its own.
    pub(super) fn originate(&mut self) {
        if self.made.is_empty() {
            return;
        }
        let fib = Arc::clone(self.fib.current());
        let mut made = std::mem::take(&mut self.made);
        for made in made.drain(..) {
            self.tally.input += 1;
            match made {
                Made::Nothing(origin, reason) => self.count_drop(&fib, origin, reason),
                Made::Lost(origin, reason, packet) => self.lose(&fib, origin, reason, &packet),
                Made::Question(id, frame) => {
                    if self.taps.is_on() {
                        self.taps.begin();
                        self.taps.asked();
                    }
                    self.carry_out(&fib, Verdict::Workload(id), frame);
                }
                Made::Probe(tunnel, mut frame) => {
                    self.observe(&fib, Origin::Underlay, &frame);
                    let tables = Tables { fib: &fib, neighbors: &self.neighbors };
                    match self.engine.probe(tables, tunnel, &mut self.pool, &mut frame) {
                        Ok(verdict) => self.carry_out(&fib, verdict, frame),
                        Err(reason) => self.give_up(&fib, Origin::Underlay, reason, frame),
                    }
                }
                Made::Packet(origin, mut frame) => {
                    self.observe(&fib, origin, &frame);
                    let tables = Tables { fib: &fib, neighbors: &self.neighbors };
                    match self.engine.originate(tables, &mut self.pool, &mut frame) {
                        Ok(Verdict::Punt(reason)) => {
                            self.punt(&fib, None, Punted { reason, origin, is_made: true, frame });
                        }
                        Ok(verdict) => self.carry_out(&fib, verdict, frame),
                        Err(reason) => self.give_up(&fib, origin, reason, frame),
                    }
                }
            }
        }
        // What a packet of the slow path's own led to, like a question: kept for the next time.
        made.append(&mut self.made);
        self.made = made;
    }

    /// A packet of the slow path's own, for captures.
    fn observe(&mut self, fib: &Fib, origin: Origin, frame: &Frame) {
        if self.taps.is_on() {
            self.taps.begin();
            self.taps.received(fib, None, origin.into(), &self.pool, frame);
        }
    }

    /// The same where it goes on.
    fn carry_out(&mut self, fib: &Fib, verdict: Verdict, frame: Frame) {
        if self.taps.is_on() {
            self.taps.forwarded(fib, verdict, Outcome::Sent, (&self.pool, &frame));
        }
        if self.ports.is_full() {
            self.flush();
        }
        let place = self.ports.hold(frame);
        self.queue(verdict, place);
    }

    /// The same where it does not.
    fn give_up(&mut self, fib: &Fib, origin: Origin, reason: DropReason, frame: Frame) {
        if self.taps.is_on() {
            self.taps.ended(Outcome::Dropped(reason));
        }
        self.count_drop(fib, origin, reason);
        if self.credit.allows(reason, self.now) {
            self.keep(reason, Specimen::new(origin.into(), None, self.pool.bytes(&frame)));
        }
        self.pool.put(frame);
    }

    /// A packet waited in the slow path, and goes nowhere.
    fn lose(&mut self, fib: &Fib, origin: Origin, reason: DropReason, packet: &[u8]) {
        self.count_drop(fib, origin, reason);
        if self.credit.allows(reason, self.now) {
            self.keep(reason, Specimen::new(origin.into(), None, packet));
        }
        if self.taps.is_on() {
            self.taps.begin();
            self.taps.lost(fib, origin.into(), packet, reason);
        }
    }
}
