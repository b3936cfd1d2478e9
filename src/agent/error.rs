//! Why the daemon does not start, or does not take a change.

use std::io;

use crate::datastore::LoadError;
use crate::fib::CompileError;
use crate::rib::PlanError;
use crate::sys::netlink::NetlinkError;
use crate::sys::netns::NetnsError;

use super::host::HostError;
use super::takeover::TakeoverError;
use super::underlay::UnderlayError;

/// Why the daemon does not start, or does not take a change.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The resources.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// This node's part of them.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// What the engine cannot do.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The underlay's sockets.
    #[error(transparent)]
    Underlay(#[from] UnderlayError),
    /// The host interface.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Kernel routes and rules.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// What the resources ask for is forbidden here.
    #[error("{0}")]
    Forbidden(String),
    /// Another daemon, or no Unix sockets at all.
    #[error("{}", not_alone(.0))]
    NotAlone(#[source] io::Error),
    /// This process's own network namespace.
    #[error(transparent)]
    Namespace(NetnsError),
    /// The daemon that runs keeps its place.
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
    /// Threads, epoll.
    #[error("the worker threads cannot be started: {0}")]
    Workers(#[source] io::Error),
    /// The last of the worker threads ended by itself.
    #[error("no worker thread is left: see the log")]
    WorkersEnded,
}

impl AgentError {
    /// The same resources may do when the machine has changed.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            AgentError::Load(error) => error.may_pass(),
            AgentError::Plan(_) | AgentError::Compile(_) | AgentError::Forbidden(_) => false,
            _ => true,
        }
    }
}

fn not_alone(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another margay runs in this network namespace: end it first, or run this one in another namespace".into()
        }
        _ => format!("cannot tell whether another margay runs in this network namespace: {error}"),
    }
}
