//! What others may know of the agent: plain data, built when asked for, the same for every reader: tables, JSON, YAML.
//!
//! Names are those of ARCHITECTURE.md; a quantity that is not a count has its unit in its name.

mod status;

pub use status::{Frames, Health, Numbers, Status, Underlay, Use, Workers};
