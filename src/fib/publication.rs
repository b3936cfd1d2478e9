//! How a snapshot reaches the workers: one atomic compare a turn, a lock only when it changed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Fib;

/// The agent's side: holds the current snapshot.
#[derive(Debug)]
pub struct Publication {
    version: AtomicU64,
    current: Mutex<Arc<Fib>>,
}

impl Publication {
    /// Starts with `fib` as version 1.
    pub fn new(fib: Fib) -> Arc<Self> {
        Arc::new(Publication { version: AtomicU64::new(1), current: Mutex::new(Arc::new(fib)) })
    }

    /// Makes `fib` the current snapshot. Workers take it up at their next turn.
    pub fn publish(&self, fib: Fib) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(fib);
        // Release pairs with the reader's Acquire; the lock orders the snapshot itself.
        self.version.fetch_add(1, Ordering::Release);
    }

    /// A worker's side.
    pub fn reader(self: &Arc<Self>) -> Reader {
        let version = self.version.load(Ordering::Acquire);
        Reader { publication: Arc::clone(self), version, current: self.load() }
    }

    fn load(&self) -> Arc<Fib> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A worker's hold on the snapshot that it works with.
#[derive(Debug)]
pub struct Reader {
    publication: Arc<Publication>,
    version: u64,
    current: Arc<Fib>,
}

impl Reader {
    /// Takes up a newer snapshot if there is one. Called at most once a turn.
    #[inline]
    pub fn refresh(&mut self) {
        let version = self.publication.version.load(Ordering::Acquire);
        if version != self.version {
            // A publication between the two loads is seen again, and harmlessly, at the next turn.
            self.version = version;
            self.current = self.publication.load();
        }
    }

    /// The snapshot in hand.
    #[inline]
    pub fn fib(&self) -> &Arc<Fib> {
        &self.current
    }
}
