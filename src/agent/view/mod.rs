//! What others may know of the agent: plain data, built when asked for, the same for every reader: tables, JSON, YAML.
//!
//! Names are those of ARCHITECTURE.md; a quantity that is not a count has its unit in its name, but for MTUs, which are
//! IP MTUs in bytes everywhere.

mod account;
mod counters;
mod drops;
mod endpoint;
mod explain;
mod peer;
mod readings;
mod route;
mod status;

pub use account::{Account, Traffic};
pub use counters::{Counted, Counters, Kind};
pub use drops::{Drops, Reason, Share};
pub use endpoint::Endpoint;
pub use explain::{Back, Explanation, Mtu, Outer};
pub use peer::{Fault, Node, NodeUnderlay, PathMtu, Peer, Pool, Tunnel};
pub use readings::Readings;
pub use route::Route;
pub use status::{Frames, Health, Numbers, Status, Underlay, Use, Workers};
