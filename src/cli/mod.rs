//! The commands.

pub mod dissect;
