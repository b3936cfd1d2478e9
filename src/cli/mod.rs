//! The commands.

pub mod check;
pub mod dissect;
pub mod routes;
