//! Namespaces for the demo, tests and benches: two nodes, their pods, the underlay, and the traffic to prove
//! that packets arrive.
//!
//! Contract: every namespace is anonymous, every process dies with the thread that started it, every wait is
//! bounded. Nothing of the host's own network is touched, and a lab that is dropped, or whose process is
//! killed, leaves no interface, route or process behind.
//!
//! ```text
//!  pod-a1 ─┐                          ┌─ pod-b1     10.65.0.66
//!          ├─ node-a ══ eth0 ══ node-b┤             block 10.65.0.64/26
//!  pod-a2 ─┘  192.168.77.1   .77.2    └─ pod-b2     10.65.0.67
//!                  └── router ──┘     (Topology::Routed: node-b is 192.168.78.2)
//! ```

mod blast;
mod capture;
mod daemon;
mod ipsec;
mod kernel;
mod lab;
mod meter;
mod ping;
mod pod;
mod real_frames;
mod resources;
mod round_trip;
mod steady;
mod stream;
mod streams;
mod traceroute;
mod udp;
mod workdir;

use std::io;

pub use blast::{Blast, Delivery, blast};
pub use capture::{Capture, Frame};
pub use daemon::Daemon;
pub use ipsec::add_ipsec_policy;
pub use lab::{Lab, LabSpec, Mode, Node, NodeKind, Stack, Topology};
pub use meter::{Meter, Usage, counter, peak_memory};
pub use ping::{Ping, PingReport, ping};
pub use pod::{Pod, gateway_address};
pub use round_trip::{RoundTrips, round_trips};
pub use steady::{Arrivals, Steady, steady};
pub use stream::{Transfer, transfer, trickle};
pub use streams::{Streams, Throughput, throughput};
pub use traceroute::{Hop, Probe, traceroute};
pub use udp::{UdpReport, udp_echo};
pub use workdir::Workdir;

use crate::sys::netlink::NetlinkError;
use crate::sys::netns::NetnsError;

/// Why a lab could not be built, or its traffic not be run.
#[derive(Debug, thiserror::Error)]
pub enum BedError {
    /// A namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A link, address, route, neighbour.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Sockets and files.
    #[error("{operation}: {source}")]
    Io {
        /// What was attempted.
        operation: String,
        /// The system's word on it.
        source: io::Error,
    },
    /// A daemon that did not start.
    #[error("the daemon of {node} {reason}; it said:\n{output}")]
    Daemon {
        /// Its node.
        node: String,
        /// What it did, or did not.
        reason: String,
        /// All it printed.
        output: String,
    },
    /// A lab that cannot exist.
    #[error("no such lab: {0}")]
    Spec(String),
}

impl BedError {
    /// To be used with `map_err`.
    fn io(operation: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let operation = operation.into();
        move |source| Self::Io { operation, source }
    }
}
