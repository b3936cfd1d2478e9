//! Where resources come from: a directory, watched.
