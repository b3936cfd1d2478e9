//! What is left to a daemon that may not open raw sockets: VXLAN, by ordinary UDP sockets.

use std::fs;
use std::io;

use crate::rib::{Encap, NodePlan, Target};
use crate::sys::socket;
use crate::wire::ip::Family;

/// What is not there without CAP_NET_RAW and CAP_NET_ADMIN, and what that means: for the start-up screen.
const LACKS: [&str; 6] = [
    "no IPIP and nothing without encapsulation, neither in nor out: CAP_NET_RAW",
    "no host interface, so pods and this node do not reach each other: CAP_NET_ADMIN",
    "no veth endpoints: CAP_NET_RAW, CAP_NET_ADMIN",
    "TAP endpoints only where this user made the user namespace of the pod",
    "no ICMP errors about the underlay: who cannot be reached is not told to pods: CAP_NET_RAW",
    "no guard rule: what the underlay sends to pods without encapsulation the node's kernel deals with: CAP_NET_ADMIN",
];

/// Bytes of a receive buffer that may be had without privileges.
const RECEIVE_LIMIT: &str = "/proc/sys/net/core/rmem_max";

/// A daemon without raw sockets.
#[derive(Debug, Clone)]
pub(super) struct Rootless {
    /// Why there are none.
    pub(super) reason: String,
}

impl Rootless {
    /// Whether raw sockets are forbidden here. Another reason why there are none is not a matter of privileges, and is
    /// told by who needs one.
    pub(super) fn find() -> Option<Self> {
        let refused = socket::raw_sender(Family::V4).err()?;
        let is_forbidden = refused.kind() == io::ErrorKind::PermissionDenied;
        is_forbidden.then(|| Rootless { reason: format!("raw sockets are forbidden ({refused})") })
    }

    /// Whether VXLAN is all that `plan` asks for; or which resource asks for more, and what to do.
    pub(super) fn check(&self, plan: &NodePlan) -> Result<(), String> {
        let refuse = |what: String| {
            let reason = &self.reason;
            Err(format!(
                "{what}, which needs CAP_NET_RAW and CAP_NET_ADMIN in this network namespace, and {reason}: run as root, \
                 grant the capabilities, or use pools with vxlanMode: Always, all that an ordinary user can have \
                 (margay doctor says more)"
            ))
        };
        for pool in plan.pools.iter().filter(|pool| !pool.disabled) {
            match pool.encap {
                Encap::Vxlan => {}
                Encap::Ipip => return refuse(format!("pool {} says IPIP", pool.cidr)),
                Encap::Direct => return refuse(format!("pool {} says no encapsulation", pool.cidr)),
            }
        }
        for route in &plan.routes {
            match route.target {
                Target::Peer { encap: Encap::Ipip, .. } => {
                    return refuse(format!("{} is reached by IPIP", route.prefix));
                }
                Target::Peer { encap: Encap::Direct, peer, .. } => {
                    let peer = plan.peers.get(peer).map_or("?", |peer| &peer.name);
                    return refuse(format!("{} of {peer} is reached without encapsulation", route.prefix));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A line for each thing that is missing.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        let limit = fs::read_to_string(RECEIVE_LIMIT).ok().and_then(|limit| limit.trim().parse().ok());
        let buffers = limit.filter(|limit| *limit < socket::RECEIVE_BUFFER).map(|limit: usize| {
            let wanted = socket::RECEIVE_BUFFER;
            format!("receive buffers of {limit} bytes, not {wanted}, so bursts are lost: net.core.rmem_max, CAP_NET_ADMIN")
        });
        LACKS.into_iter().map(str::to_owned).chain(buffers)
    }
}
