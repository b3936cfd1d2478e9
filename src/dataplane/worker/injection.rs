//! A frame that nobody sent, as if it had been received.

use std::net::IpAddr;
use std::sync::Arc;

use super::Worker;
use super::seen::Eyes;
use crate::buf::Frame;
use crate::dataplane::accounts::Accounts;
use crate::dataplane::neighbor::Resolution;
use crate::dataplane::tap::{Catch, Record, Tap};
use crate::dataplane::{Counters, PortId};
use crate::fib::EndpointId;
use crate::wire::ethernet::{self, EtherType};
use crate::wire::{Ecn, Family, MacAddr};

/// Where an injected frame seems to come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entrance {
    /// An endpoint: its workload seems to have sent the IP packet.
    Workload(EndpointId),
    /// A port of the underlay, which receives the bytes as they are.
    Underlay {
        /// Which.
        port: PortId,
        /// Outer source of what comes by a tunnel.
        peer: IpAddr,
        /// Outer ECN of what comes by VXLAN.
        ecn: Ecn,
    },
}

/// A frame that nobody sent.
pub struct Injection {
    /// Where.
    pub entrance: Entrance,
    /// The packet, or what the port receives.
    pub bytes: Vec<u8>,
    /// Carry out what the engine decides; otherwise nothing is sent, answered or counted.
    pub send: bool,
    /// Copies it, and nothing else.
    pub tap: (Catch, Tap),
    /// Gets the records: the frame as it went in, as it left, and what the slow path made.
    pub tell: Box<dyn FnOnce(Vec<Record>) + Send>,
}

impl Worker {
    /// A frame as if it had been received.
    #[cold]
    pub(super) fn inject(&mut self, injection: Injection) {
        let Injection { entrance, bytes, send, tap: (mut catch, tap), tell } = injection;
        let Some(frame) = self.injected(entrance, &bytes) else { return tell(Vec::new()) };
        let id = match entrance {
            Entrance::Workload(endpoint) => PortId::Endpoint(endpoint),
            Entrance::Underlay { port, .. } => port,
        };
        match send {
            true => {
                self.taps.add(tap);
                self.ports.hold(frame);
                self.forward(id);
                self.originate();
                self.flush();
            }
            false => {
                let others = self.taps.replace(vec![tap]);
                // What is counted and noted of it, nobody reads.
                let accounts = std::mem::replace(&mut self.accounts, Accounts::new(&Counters::new()));
                let fib = Arc::clone(self.fib.current());
                self.ports.hold(frame);
                self.pass_seen(&fib, id, Eyes::Consider);
                self.flush();
                self.engine.noted();
                self.accounts = accounts;
                self.taps.replace(others);
            }
        }
        self.taps.settle();
        let mut records = Vec::new();
        catch.take(usize::MAX, |record, _| records.push(record.clone()));
        drop(catch);
        self.taps.settle();
        tell(records);
    }

    /// What a workload sends has its gateway's MAC and its own; where its own is not known, it is one that nobody learns.
    fn injected(&mut self, entrance: Entrance, bytes: &[u8]) -> Option<Frame> {
        const NOT_LEARNED: MacAddr = MacAddr([0x01, 0, 0, 0, 0, 0]);
        let mut frame = self.pool.take()?;
        let room = self.pool.room(&frame);
        let headers = match entrance {
            Entrance::Workload(endpoint) => {
                let source = match self.neighbors.resolve(endpoint) {
                    Resolution::Known(mac) => mac,
                    Resolution::Unknown | Resolution::Absent => NOT_LEARNED,
                };
                let kind = match Family::of_packet(bytes) {
                    Some(Family::V6) => EtherType::IPV6,
                    Some(Family::V4) | None => EtherType::IPV4,
                };
                if let Some(header) = room.first_chunk_mut() {
                    ethernet::write(header, MacAddr::GATEWAY, source, kind);
                }
                ethernet::HEADER_LEN
            }
            Entrance::Underlay { peer, ecn, .. } => {
                (frame.peer, frame.ecn) = (peer, ecn);
                0
            }
        };
        let len = bytes.len().min(room.len() - headers);
        room[headers..][..len].copy_from_slice(&bytes[..len]);
        self.pool.filled(&mut frame, headers + len);
        Some(frame)
    }
}
