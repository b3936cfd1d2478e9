//! The commands.

pub mod demo;
pub mod dissect;
