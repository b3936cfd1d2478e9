//! Headers as they stand on the wire.
//!
//! Contract: `parse` checks, once, every length and field that the accessors rely on; after it
//! nothing can fail or panic. A view never looks beyond the slice it was given.

pub mod mac;

pub use mac::MacAddr;
