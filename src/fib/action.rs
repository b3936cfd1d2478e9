//! What the FIB says of a destination, and the ids that it says it with.

/// An endpoint of this node. Ids are given by the agent and stay with the endpoint over snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(pub u32);

/// A tunnel of one snapshot: a peer and an encapsulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TunnelId(pub u32);

/// An adjacency of one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AdjacencyId(pub u32);

/// A peer of one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerId(pub u32);

/// What to do with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// To a workload of this node.
    Deliver(EndpointId),
    /// Into a tunnel.
    Tunnel(TunnelId),
    /// To a peer as next hop, without encapsulation.
    Direct(AdjacencyId),
    /// To this node's kernel through the host interface.
    Host,
    /// This node's own block, and nobody has the address.
    Blackhole,
    /// Nothing covers the destination.
    NoRoute,
}

/// Bits of an id inside an encoded action; the three above them say which action.
const ID_BITS: u32 = 28;
/// One more than the greatest id that an action can carry.
pub(super) const ID_LIMIT: u32 = 1 << ID_BITS;

impl Action {
    /// 31 bits for the lookup table: three of kind, 28 of id. One load answers the whole question.
    #[inline]
    pub fn encode(self) -> u32 {
        let (kind, id) = match self {
            Action::Deliver(id) => (0, id.0),
            Action::Tunnel(id) => (1, id.0),
            Action::Direct(id) => (2, id.0),
            Action::Host => (3, 0),
            Action::Blackhole => (4, 0),
            Action::NoRoute => (5, 0),
        };
        debug_assert!(id < ID_LIMIT);
        kind << ID_BITS | id
    }

    /// The inverse of [`Self::encode`].
    #[inline]
    pub fn decode(code: u32) -> Action {
        let id = code & (ID_LIMIT - 1);
        match code >> ID_BITS {
            0 => Action::Deliver(EndpointId(id)),
            1 => Action::Tunnel(TunnelId(id)),
            2 => Action::Direct(AdjacencyId(id)),
            3 => Action::Host,
            4 => Action::Blackhole,
            _ => Action::NoRoute,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_survives_the_table() {
        let last = ID_LIMIT - 1;
        for action in [
            Action::Deliver(EndpointId(0)),
            Action::Deliver(EndpointId(last)),
            Action::Tunnel(TunnelId(last)),
            Action::Direct(AdjacencyId(7)),
            Action::Host,
            Action::Blackhole,
            Action::NoRoute,
        ] {
            assert!(action.encode() < 1 << 31);
            assert_eq!(Action::decode(action.encode()), action);
        }
    }
}
