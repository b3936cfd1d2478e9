//! The other direction: how a peer sends to this node's pods.

use super::way::{self, Ends, decide};
use super::{Encap, NodePlan, Peer, PoolPlan, RouteClass, Rule};
use crate::lpm::Prefix;
use crate::wire::Family;

/// How a peer sends to this node's addresses in one pool, by its own view of the same resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Back {
    /// The pool; `None` for addresses in none.
    pub pool: Option<Prefix>,
    /// How its packets travel; `None` where they cannot, as the two nodes lack a common family.
    pub encap: Option<Encap>,
    /// The rule that it goes by, in a sentence.
    pub because: String,
}

impl NodePlan {
    /// How `peer`, one of this plan's, sends to this node's blocks and endpoints of a family, pool by pool.
    pub fn back(&self, peer: &Peer, family: Family) -> Vec<Back> {
        let is_own = |rule| matches!(rule, Rule::Block | Rule::LocalEndpoint);
        let is_here = |class| matches!(class, RouteClass::Blackhole | RouteClass::LocalWorkload);
        let own = self.routes.iter().filter(|route| is_here(route.class) && is_own(route.rule));
        let own = own.filter(|route| Family::of(route.prefix.addr()) == family);
        let mut pools: Vec<Option<Prefix>> = own.map(|route| route.pool).collect();
        pools.sort();
        pools.dedup();
        let by = |cidr: Option<Prefix>| self.back_by(peer, family, cidr.and_then(|cidr| self.pool(cidr)));
        pools.into_iter().map(by).collect()
    }

    fn back_by(&self, peer: &Peer, family: Family, pool: Option<&PoolPlan>) -> Back {
        let ends = Ends { from: &peer.underlays, to: &self.underlays };
        let way = decide(None, pool, ends, family);
        let because = match pool {
            None => format!("no pool covers this node's addresses: {}", way::words(way, family)),
            Some(pool) => way::because(pool, ends, &format!("{}'s", peer.name), way),
        };
        Back { pool: pool.map(|pool| pool.cidr), encap: way.ok().map(|way| way.encap), because }
    }
}
