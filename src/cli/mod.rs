//! The commands.

pub mod check;
pub mod demo;
pub mod dissect;
pub mod routes;
