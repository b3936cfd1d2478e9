//! The control socket: what a running daemon answers, by HTTP with JSON on a Unix socket.
//!
//! `socket` owns the place in the file system, `server` the thread that listens there and the routes below `/v1/`, `client`
//! is what the commands use. Everything that is answered is a type of [`agent::view`](crate::agent::view), made by the
//! agent in its own thread; a client that hangs, or many of them, keep neither the agent nor each other.

pub mod client;
mod routes;
pub mod server;
pub mod socket;

pub use routes::Version;

/// Where a daemon listens unless it is told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/margay/margay.sock";
/// Environment variable of the daemon and of the commands: another place.
pub const SOCKET_VARIABLE: &str = "MARGAY_CONTROL_SOCKET";

/// What goes wrong, as it is answered.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Failure {
    /// What is wrong, and what can be done about it.
    pub error: String,
}
