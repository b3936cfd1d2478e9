//! The ports that may have something to receive: each once, in the order in which they told of it.
//!
//! What a turn costs depends on how many are ready, not on how many there are.

/// Places of ports.
#[derive(Debug, Default)]
pub(super) struct Ready {
    list: Vec<usize>,
    /// By place: whether it is in the list.
    listed: Vec<bool>,
}

impl Ready {
    /// Makes room for a port, so that [`Self::insert`] allocates nothing.
    pub(super) fn make_room(&mut self, place: usize) {
        if self.listed.len() <= place {
            self.listed.resize(place + 1, false);
        }
        self.list.reserve(self.listed.len() - self.list.len());
    }

    /// Adds a port that there is room for, if it is not there already.
    pub(super) fn insert(&mut self, place: usize) {
        let Some(listed) = self.listed.get_mut(place) else { return };
        if !std::mem::replace(listed, true) {
            self.list.push(place);
        }
    }

    /// The port at this position.
    pub(super) fn get(&self, position: usize) -> Option<usize> {
        self.list.get(position).copied()
    }

    /// Removes the port at this position; the last one takes it.
    pub(super) fn swap_remove(&mut self, position: usize) {
        let place = self.list.swap_remove(position);
        self.listed[place] = false;
    }

    /// Removes a port, wherever it is.
    pub(super) fn remove(&mut self, place: usize) {
        if self.listed.get(place) == Some(&true) {
            self.listed[place] = false;
            self.list.retain(|other| *other != place);
        }
    }

    /// Whether no port is ready.
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(places: &[usize]) -> Ready {
        let mut ready = Ready::default();
        places.iter().for_each(|place| ready.make_room(*place));
        places.iter().for_each(|place| ready.insert(*place));
        ready
    }

    #[test]
    fn a_port_is_there_once() {
        let mut ready = of(&[3, 7, 3]);
        assert_eq!(ready.list, [3, 7]);
        ready.swap_remove(0);
        ready.insert(3);
        ready.insert(3);
        assert_eq!(ready.list, [7, 3]);
        ready.remove(7);
        ready.remove(7);
        assert_eq!((ready.get(0), ready.get(1)), (Some(3), None));
        ready.remove(3);
        assert!(ready.is_empty());
        ready.insert(7);
        assert_eq!(ready.list, [7]);
    }

    #[test]
    fn a_port_that_was_never_attached_is_not_ready() {
        let mut ready = of(&[1]);
        ready.insert(usize::MAX);
        ready.remove(usize::MAX);
        assert_eq!(ready.list, [1]);
    }

    #[test]
    fn nothing_is_allocated_for_a_port_that_has_room() {
        let mut ready = Ready::default();
        (0..100).rev().for_each(|place| ready.make_room(place));
        let before = ready.list.capacity();
        (0..100).for_each(|place| ready.insert(place));
        assert_eq!((ready.list.len(), ready.list.capacity()), (100, before));
    }
}
