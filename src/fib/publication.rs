//! How a snapshot reaches the workers: one atomic compare a turn, a lock only when it changed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Fib;

/// The agent's side: holds the current snapshot.
#[derive(Debug)]
pub struct Publication<T = Fib> {
    version: AtomicU64,
    current: Mutex<Arc<T>>,
}

impl<T> Publication<T> {
    /// Starts with `first` as version 1.
    pub fn new(first: T) -> Arc<Self> {
        Arc::new(Publication { version: AtomicU64::new(1), current: Mutex::new(Arc::new(first)) })
    }

    /// Makes `next` the current snapshot. Workers take it up when they look for one.
    pub fn publish(&self, next: T) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(next);
        // Release pairs with the reader's Acquire; the lock orders the snapshot itself.
        self.version.fetch_add(1, Ordering::Release);
    }

    /// A worker's side.
    pub fn reader(self: &Arc<Self>) -> Reader<T> {
        let version = self.version.load(Ordering::Acquire);
        Reader { publication: Arc::clone(self), version, current: self.current() }
    }

    /// What was published last.
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A worker's hold on the snapshot that it works with.
#[derive(Debug)]
pub struct Reader<T = Fib> {
    publication: Arc<Publication<T>>,
    version: u64,
    current: Arc<T>,
}

impl<T> Reader<T> {
    /// Takes up a newer snapshot if there is one, and says whether there was. Called at most once a turn, or a batch.
    #[inline]
    pub fn refresh(&mut self) -> bool {
        let version = self.publication.version.load(Ordering::Acquire);
        let is_newer = version != self.version;
        if is_newer {
            // A publication between the two loads is seen again, and harmlessly, at the next turn.
            self.version = version;
            self.current = self.publication.current();
        }
        is_newer
    }

    /// The snapshot in hand.
    #[inline]
    pub fn current(&self) -> &Arc<T> {
        &self.current
    }
}
