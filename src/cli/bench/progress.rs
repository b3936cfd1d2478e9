//! What goes on, on standard error, where that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::contestant::Contestant;
use super::metric::Test;

/// A bar with a step for each test of each contestant in each round.
pub(super) struct Progress {
    bar: ProgressBar,
    rounds: u32,
}

impl Progress {
    pub(super) fn new(rounds: u32, entries: &[(Contestant, Vec<Test>)]) -> Self {
        let steps: usize = entries.iter().map(|(_, tests)| tests.len()).sum();
        let target = ProgressDrawTarget::stderr();
        let bar = ProgressBar::with_draw_target(Some(steps as u64 * u64::from(rounds)), target);
        // The template is a constant, and right.
        if let Ok(style) = ProgressStyle::with_template("{elapsed:>4} {bar:30} {pos}/{len} {msg}, {eta} left")
        {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(500));
        Self { bar, rounds }
    }

    /// A test begins, so the one before it is done.
    pub(super) fn show(&self, round: u32, contestant: Contestant, test: Test) {
        self.bar.inc(u64::from(!self.bar.message().is_empty()));
        let (rounds, name, test) = (self.rounds, contestant.name(), test.name());
        self.bar.set_message(format!("round {round} of {rounds}: {name} {test}"));
    }

    /// The bar goes away.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
