//! The workloads' MAC addresses.
//!
//! An entry is shared by the workers: the one that receives from an endpoint learns, all of them read.
//!
//! | state | becomes | by |
//! |---|---|---|
//! | unknown | known | a frame whose source address belongs to the endpoint |
//! | known | known (other MAC) | the same: the workload changed its MAC |
//! | fixed | – | the resource gave the MAC: nothing that the workload sends changes it |
//!
//! Nothing is learned from a claim: antispoofing comes first.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::fib::EndpointId;
use crate::wire::MacAddr;

/// One workload's MAC address, packed with its state in 64 bits so that readers need no lock.
#[derive(Debug)]
pub struct Neighbor(AtomicU64);

const KNOWN: u64 = 1 << 48;
const FIXED: u64 = 1 << 49;

impl Neighbor {
    /// `mac` as the resource gives it.
    pub fn fixed(mac: MacAddr) -> Arc<Self> {
        Arc::new(Neighbor(AtomicU64::new(pack(mac) | KNOWN | FIXED)))
    }

    /// `mac` as the interface had it when it was made.
    pub fn learned(mac: MacAddr) -> Arc<Self> {
        Arc::new(Neighbor(AtomicU64::new(pack(mac) | KNOWN)))
    }

    /// To be learned, or asked for.
    pub fn unknown() -> Arc<Self> {
        Arc::new(Neighbor(AtomicU64::new(0)))
    }

    /// The address, if known.
    #[inline(always)]
    pub fn mac(&self) -> Option<MacAddr> {
        // Relaxed: the value stands alone, nothing else is published with it.
        let entry = self.0.load(Ordering::Relaxed);
        (entry & KNOWN != 0).then(|| unpack(entry))
    }

    #[inline(always)]
    fn learn(&self, mac: MacAddr) {
        let entry = self.0.load(Ordering::Relaxed);
        if entry & FIXED == 0 && entry != pack(mac) | KNOWN {
            self.change(mac);
        }
    }

    #[cold]
    fn change(&self, mac: MacAddr) {
        if !mac.is_multicast() {
            self.0.store(pack(mac) | KNOWN, Ordering::Relaxed);
        }
    }
}

fn pack(mac: MacAddr) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

fn unpack(entry: u64) -> MacAddr {
    let mut octets = [0; 6];
    octets.copy_from_slice(&entry.to_le_bytes()[..6]);
    MacAddr(octets)
}

/// A worker's view of all endpoints' neighbours.
#[derive(Debug, Default)]
pub struct Neighbors {
    by_endpoint: Vec<Option<Arc<Neighbor>>>,
}

/// What is known of an endpoint's MAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// Send to this address.
    Known(MacAddr),
    /// Ask for it.
    Unknown,
    /// There is no such endpoint any more.
    Absent,
}

impl Neighbors {
    /// Adds or replaces an endpoint's entry.
    pub fn insert(&mut self, id: EndpointId, neighbor: Arc<Neighbor>) {
        let index = id.0 as usize;
        if self.by_endpoint.len() <= index {
            self.by_endpoint.resize(index + 1, None);
        }
        self.by_endpoint[index] = Some(neighbor);
    }

    /// Forgets an endpoint.
    pub fn remove(&mut self, id: EndpointId) {
        if let Some(entry) = self.by_endpoint.get_mut(id.0 as usize) {
            *entry = None;
        }
    }

    /// The endpoint's MAC.
    #[inline(always)]
    pub fn resolve(&self, id: EndpointId) -> Resolution {
        match self.by_endpoint.get(id.0 as usize) {
            Some(Some(neighbor)) => neighbor.mac().map_or(Resolution::Unknown, Resolution::Known),
            _ => Resolution::Absent,
        }
    }

    /// Takes `mac` from a frame that antispoofing let pass.
    #[inline(always)]
    pub fn learn(&self, id: EndpointId, mac: MacAddr) {
        if let Some(Some(neighbor)) = self.by_endpoint.get(id.0 as usize) {
            neighbor.learn(mac);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
    const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);

    #[test]
    fn a_mac_is_learned_and_learned_anew() {
        let mut neighbors = Neighbors::default();
        assert_eq!(neighbors.resolve(EndpointId(3)), Resolution::Absent);
        neighbors.insert(EndpointId(3), Neighbor::unknown());
        assert_eq!(neighbors.resolve(EndpointId(3)), Resolution::Unknown);
        neighbors.learn(EndpointId(3), A);
        assert_eq!(neighbors.resolve(EndpointId(3)), Resolution::Known(A));
        neighbors.learn(EndpointId(3), B);
        assert_eq!(neighbors.resolve(EndpointId(3)), Resolution::Known(B));
        neighbors.learn(EndpointId(3), MacAddr::BROADCAST);
        assert_eq!(neighbors.resolve(EndpointId(3)), Resolution::Known(B));
        neighbors.remove(EndpointId(3));
        assert_eq!(neighbors.resolve(EndpointId(3)), Resolution::Absent);
    }

    #[test]
    fn a_given_mac_is_not_changed_by_what_the_workload_sends() {
        let mut neighbors = Neighbors::default();
        neighbors.insert(EndpointId(0), Neighbor::fixed(A));
        neighbors.learn(EndpointId(0), B);
        assert_eq!(neighbors.resolve(EndpointId(0)), Resolution::Known(A));
    }
}
