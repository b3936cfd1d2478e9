//! Frames of a batch, put into runs that each leave in one go.
//!
//! The order within a flow stays by construction: a frame joins no run that lies before one which already has a
//! frame of its flow, and runs leave in the order in which they were begun.

use super::FRAMES;

/// Places that flows hash to. Two flows in one place only keep each other from earlier runs.
const FLOWS: usize = 256;
/// How many runs back a frame looks for one to join.
const LOOK_BACK: usize = 16;

/// The runs of one batch. All memory is allocated once.
#[derive(Debug)]
pub(super) struct Runs<K> {
    runs: Vec<Run<K>>,
    /// By frame: the next one of its run.
    next: Box<[u16]>,
    /// By flow: the first run that a frame of it may join.
    earliest: Box<[u16; FLOWS]>,
}

/// Frames that leave together.
#[derive(Debug)]
pub(super) struct Run<K> {
    /// What its frames have in common, and how far it got.
    pub(super) key: K,
    first: u16,
    last: u16,
    len: u16,
}

impl<K> Runs<K> {
    pub(super) fn new() -> Self {
        Runs {
            runs: Vec::with_capacity(FRAMES),
            next: vec![0; FRAMES].into_boxed_slice(),
            earliest: Box::new([0; FLOWS]),
        }
    }

    /// Forgets the last batch.
    pub(super) fn clear(&mut self) {
        self.runs.clear();
        self.earliest.fill(0);
    }

    /// Puts frame `index`, of a flow with this hash, into the first run that `joins` says yes to (given the run's
    /// key, which it may change, this `key`, and how many frames the run has), or into a new one.
    pub(super) fn push(
        &mut self,
        index: usize,
        flow: u32,
        key: K,
        joins: impl Fn(&mut K, &K, usize) -> bool,
    ) {
        let place = (flow % FLOWS as u32) as usize;
        let index = index as u16;
        let from = usize::from(self.earliest[place]).max(self.runs.len().saturating_sub(LOOK_BACK));
        for at in from..self.runs.len() {
            let run = &mut self.runs[at];
            if joins(&mut run.key, &key, usize::from(run.len)) {
                self.next[usize::from(run.last)] = index;
                run.last = index;
                run.len += 1;
                self.earliest[place] = at as u16;
                return;
            }
        }
        self.earliest[place] = self.runs.len() as u16;
        self.runs.push(Run { key, first: index, last: index, len: 1 });
    }

    /// All runs, in the order in which they were begun.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, Members<'_>)> {
        self.runs.iter().map(|run| (&run.key, Members { next: &self.next, at: run.first, left: run.len }))
    }
}

/// The frames of a run, in order.
#[derive(Debug, Clone)]
pub(super) struct Members<'a> {
    next: &'a [u16],
    at: u16,
    left: u16,
}

impl Iterator for Members<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        let at = usize::from(self.at);
        self.at = self.next[at];
        Some(at)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for Members<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of (flow, size) as runs of equal sizes, at most `most` each.
    fn runs(frames: &[(u32, u16)], most: usize) -> Vec<Vec<usize>> {
        let mut runs = Runs::new();
        for (index, (flow, size)) in frames.iter().enumerate() {
            runs.push(index, *flow, *size, |run, size, len| run == size && len < most);
        }
        runs.iter().map(|(_, members)| members.collect()).collect()
    }

    #[test]
    fn equal_frames_of_different_flows_leave_together() {
        let frames = [(1, 64), (2, 64), (3, 100), (1, 64), (4, 100), (2, 64)];
        assert_eq!(runs(&frames, 64), [vec![0, 1, 3, 5], vec![2, 4]]);
        assert_eq!(runs(&frames, 2), [vec![0, 1], vec![2, 4], vec![3, 5]]);
    }

    #[test]
    fn no_frame_overtakes_one_of_its_flow() {
        let frames = [(1, 64), (2, 64), (1, 100), (1, 64), (2, 64), (2, 100)];
        assert_eq!(runs(&frames, 64), [vec![0, 1, 4], vec![2, 5], vec![3]]);
    }

    #[test]
    fn order_within_a_flow_stays() {
        let mut state = 1_u32;
        for _ in 0..200 {
            let mut random = |below: u32| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 16) % below
            };
            let frames: Vec<_> = (0..200).map(|_| (random(300), random(3) as u16)).collect();
            let order: Vec<usize> = runs(&frames, 1 + random(64) as usize).concat();
            let mut seen = std::collections::HashMap::new();
            for index in &order {
                let before = seen.insert(frames[*index].0, *index);
                assert!(before.is_none_or(|before| before < *index));
            }
            assert_eq!(order.len(), frames.len());
        }
    }
}
