//! Where resources come from: a directory of files, read as a whole and watched.

mod directory;

pub use directory::{FileError, LoadError, load};
