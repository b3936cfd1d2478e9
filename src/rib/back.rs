//! The other direction: how a peer sends to this node's pods.

use super::calculate::decide;
use super::explain::words;
use super::{Encap, NodePlan, Peer, PoolPlan, RouteClass, Rule};
use crate::lpm::Prefix;

/// How a peer sends to this node's addresses in one pool, by its own view of the same resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Back {
    /// The pool; `None` for addresses in none.
    pub pool: Option<Prefix>,
    /// How its packets travel.
    pub encap: Encap,
    /// The rule that it goes by, in a sentence.
    pub because: String,
}

impl NodePlan {
    /// How `peer`, one of this plan's, sends to this node's blocks and endpoints, pool by pool.
    pub fn back(&self, peer: &Peer) -> Vec<Back> {
        let is_own = |rule| matches!(rule, Rule::Block | Rule::LocalEndpoint);
        let is_here = |class| matches!(class, RouteClass::Blackhole | RouteClass::LocalWorkload);
        let own = self.routes.iter().filter(|route| is_here(route.class) && is_own(route.rule));
        let mut pools: Vec<Option<Prefix>> = own.map(|route| route.pool).collect();
        pools.sort();
        pools.dedup();
        pools.into_iter().map(|cidr| self.back_by(peer, cidr.and_then(|cidr| self.pool(cidr)))).collect()
    }

    fn back_by(&self, peer: &Peer, pool: Option<&PoolPlan>) -> Back {
        let (_, encap) = decide(None, pool, &peer.subnet, Some(self.address));
        let how = words(encap);
        let because = match pool {
            None => format!("no pool covers this node's addresses: {how}"),
            Some(pool) if !pool.cross_subnet => format!("pool {} says {}: {how}", pool.cidr, pool.mode()),
            Some(pool) => {
                let side = if peer.subnet.contains(&self.address) { "inside" } else { "outside" };
                format!(
                    "pool {} says {}; {} is {side} {}'s {}: {how}",
                    pool.cidr,
                    pool.mode(),
                    self.address,
                    peer.name,
                    peer.subnet
                )
            }
        };
        Back { pool: pool.map(|pool| pool.cidr), encap, because }
    }
}
