//! The engine: a frame's way from the port that received it to the port that sends it.
//!
//! The straight line is in [`engine`]; what it calls stands beside it, a file for each step. A
//! [`worker`] runs it: rx batch, forward each, flush. Nothing here knows resources or opens anything.
//!
//! The engine hands to [`slowpath`](crate::slowpath) what it punts; the slow path hands back packets to
//! send. Those two modules may use each other.

pub mod accounts;
pub mod antispoof;
pub mod arp;
pub mod counters;
mod deadline;
pub mod decap;
pub mod encap;
pub mod engine;
mod mss;
pub mod ndp;
pub mod neighbor;
pub mod packet;
pub mod paths;
mod ports;
mod ready;
pub mod specimens;
mod spin;
pub mod tap;
pub mod worker;

pub use accounts::{Balance, Form, Party, Traffic};
pub use counters::{Counters, Tally};
pub use deadline::Deadline;
pub use engine::{Engine, Origin, Tables, Verdict};
pub use neighbor::{Neighbor, Neighbors};
pub use paths::Paths;
pub use ports::PortId;
pub use worker::{Command, Event, Setup, Worker};
