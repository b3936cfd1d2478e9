//! What leaves the fast path.
