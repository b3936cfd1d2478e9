//! Where resources come from: a directory of files, read as a whole and watched.
//!
//! Watch first, then load: a change between the two is then announced rather than lost.

mod directory;
mod watch;

pub use directory::{FileError, LoadError, load};
pub use watch::{Changed, Sight, Watcher, watch};
