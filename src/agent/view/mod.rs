//! What others may know of the agent: plain data, built when asked for, the same for every reader: tables, JSON, YAML.
//!
//! Names are those of ARCHITECTURE.md; a quantity that is not a count has its unit in its name, but for MTUs, which are
//! IP MTUs in bytes everywhere.

mod drops;
mod endpoint;
mod explain;
mod peer;
mod route;
mod status;

use std::collections::BTreeMap;

use crate::dataplane::{Exceptions, Party};

pub use drops::{Drops, Reason, Share};
pub use endpoint::Endpoint;
pub use explain::{Back, Explanation, Mtu, Outer};
pub use peer::{Fault, Node, PathMtu, Peer, Pool, Tunnel};
pub use route::Route;
pub use status::{Frames, Health, Numbers, Status, Underlay, Use, Workers};

/// Frames that left the fast path and frames that were dropped, as counted with `party`.
fn exceptions(by_party: &BTreeMap<Party, Exceptions>, party: Party) -> (u64, u64) {
    by_party.get(&party).map_or((0, 0), |counted| (counted.punted.iter().sum(), counted.dropped.iter().sum()))
}
