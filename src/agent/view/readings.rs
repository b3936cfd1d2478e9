//! Everything that is counted or measured, at one moment: what metrics are made of.

use std::time::{Duration, Instant};

use super::{Counted, Counters, Health, Peer, Tunnel};
use crate::agent::Agent;
use crate::agent::view::Status;
use crate::dataplane::Tally;

/// Everything that is counted or measured, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Readings {
    /// Of the daemon.
    pub version: String,
    /// Name of the Node resource.
    pub node: String,
    /// Since the agent began.
    pub uptime: Duration,
    /// Nothing is missing or wrong.
    pub is_healthy: bool,
    /// All frames.
    pub total: Tally,
    /// Frames by whom they are counted with.
    pub parties: Vec<Counted>,
    /// Peers, with what is known of the ways to them.
    pub peers: Vec<Peer>,
    /// Tunnels with their MTUs.
    pub tunnels: Vec<Tunnel>,
    /// Endpoints that are attached, and those that cannot be yet.
    pub endpoints: [usize; 2],
    /// Prefixes with a route.
    pub routes: usize,
    /// Lookup tables of the FIB, bytes.
    pub fib_bytes: usize,
    /// FIBs that were compiled and published, and those that could not be.
    pub fib_updates: [u64; 2],
    /// What the published ones took, in all.
    pub fib_update_time: Duration,
    /// How often the resources were read.
    pub reloads: u64,
    /// Of each worker: slots of its pool, and the fewest that were free so far.
    pub pools: Vec<[u64; 2]>,
}

impl Readings {
    pub(crate) fn of(agent: &Agent) -> Self {
        let Status { version, node, health, numbers, .. } = Status::of(agent);
        Readings {
            version,
            node,
            uptime: Instant::now().saturating_duration_since(agent.started),
            is_healthy: health == Health::Good,
            total: agent.workers.tally(),
            parties: Counters::of(agent).parties,
            peers: Peer::list(agent),
            tunnels: Tunnel::list(agent),
            endpoints: [numbers.endpoints_attached, numbers.endpoints_missing],
            routes: numbers.routes,
            fib_bytes: numbers.fib_bytes,
            fib_updates: [agent.updates.published, agent.updates.failed],
            fib_update_time: agent.updates.time,
            reloads: agent.reloads,
            pools: agent.workers.pools(),
        }
    }
}
