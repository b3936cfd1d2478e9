//! Captures for those who ask: begun in the workers, read by who asked, named as the resources name things.
//!
//! A capture is a file of pcapng that grows while somebody reads it. The agent begins it; reading needs no agent. It ends
//! with its reader.

mod trace;
mod words;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam::channel::{Receiver, TryRecvError};
use mio::Waker;
use serde::{Deserialize, Serialize};

use super::Agent;
use crate::capture::{FilterError, Header, Headers, Ip, Link, Packet, Pcapng};
use crate::dataplane::specimens::Specimen;
use crate::dataplane::tap::{self, Catch, MAX_SNAP, Record, Wanted};
use crate::dataplane::{Command, PortId};
use crate::fib::{EndpointId, Fib, Publication, Reader};
use crate::verdict::DropReason;

pub use trace::{ArrivalRequest, Onto, Onward, Probe, Step, Trace, TraceRequest, Traced};
use words::Names;

/// Captures at a time: each costs the workers a copy of every frame that it wants, and memory.
pub const CAPTURES: usize = 4;
/// Bytes of a frame that are kept unless more are asked for: all headers, and the beginning of what they carry.
pub const SNAP: usize = 256;
/// Records that are read in one go.
const BATCH: usize = 512;

/// A frame that was dropped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastDropped {
    /// When, in seconds since the beginning of 1970, UTC.
    pub unix_seconds: f64,
    /// With whom it is counted.
    pub who: String,
    /// Where it came in, or would have left.
    pub interface: String,
    /// It begins with an Ethernet header; otherwise with an IP header, or with a VXLAN header if it came by that interface.
    pub ethernet: bool,
    /// Bytes that it had.
    pub bytes: usize,
    /// The first of them, in hexadecimal digits.
    pub head: String,
}

/// What is to be captured.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureRequest {
    /// Only from and to this endpoint: its name, or its workload's (`namespace/pod`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Only from and to this peer: name of its Node, or its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Only what was dropped.
    #[serde(default)]
    pub dropped: bool,
    /// In tcpdump's language.
    #[serde(default)]
    pub filter: String,
    /// Bytes of each frame that are kept; 256 unless it says otherwise, 0 for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snaplen: Option<usize>,
    /// End after so many frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Comments say each step, a line each, not the outcome alone.
    #[serde(default)]
    pub steps: bool,
}

/// Why nothing is captured or traced.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The filter.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// No endpoint of this name.
    #[error(
        "no endpoint of this node is {0}, by its name or its workload's: margay get endpoints shows them"
    )]
    NoEndpoint(String),
    /// No peer of this name.
    #[error("no peer is {0}, by its Node's name or its address: margay get peers shows them")]
    NoPeer(String),
    /// There are captures enough.
    #[error("{CAPTURES} captures are running, and no more are allowed: end one of them first")]
    TooMany,
    /// What is to be injected is no packet, or none that would arrive.
    #[error("{0}")]
    Packet(String),
    /// All are in use.
    #[error(
        "nothing could be injected: the worker has no free buffer, as all its frames wait to be sent; try again, and see the pools in margay status"
    )]
    NoBuffer,
}

/// What the agent keeps for captures.
#[derive(Debug)]
pub(super) struct Captures {
    names: Arc<Publication<Names>>,
    running: Arc<AtomicUsize>,
}

impl Captures {
    pub(super) fn new() -> Self {
        Captures { names: Publication::new(Names::default()), running: Arc::default() }
    }

    /// Tells of new names, if there is a capture to use them.
    pub(super) fn follow(&self, agent: &Agent) {
        if self.running.load(Ordering::Relaxed) > 0 {
            self.names.publish(Names::of(agent));
        }
    }
}

/// A place among those that may run.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(running: &Arc<AtomicUsize>) -> Option<Self> {
        if running.fetch_add(1, Ordering::Relaxed) >= CAPTURES {
            running.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Place(Arc::clone(running)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Has the workers see that a capture has ended.
struct Wake(Vec<Arc<Waker>>);

impl Drop for Wake {
    fn drop(&mut self) {
        self.0.iter().for_each(|waker| drop(waker.wake()));
    }
}

/// A running capture, which its reader owns.
pub struct Capture {
    // First: the workers are woken when it is gone.
    catch: Catch,
    _wake: Wake,
    /// Closed when all workers see to it.
    begun: Receiver<()>,
    names: Reader<Names>,
    fib: Reader<Fib>,
    file: Pcapng,
    left: Option<u64>,
    steps: bool,
    _place: Place,
}

impl Capture {
    /// The next part of the file, perhaps empty. Never waits. The file begins when nothing more passes unseen.
    pub fn take(&mut self) -> Vec<u8> {
        if !self.has_begun() {
            return Vec::new();
        }
        self.names.refresh();
        self.fib.refresh();
        let Capture { catch, names, fib, file, left, steps, .. } = self;
        let (names, fib) = (names.current(), fib.current());
        let most = left.map_or(BATCH, |left| BATCH.min(usize::try_from(left).unwrap_or(BATCH)));
        let count = catch.take(most, |record, missed| {
            let comment = match steps {
                true => names.steps(fib, record).join("\n"),
                false => names.outcome(fib, record),
            };
            let packet = Packet {
                time: record.time,
                way: record.way,
                bytes: &record.bytes,
                len: record.len as u32,
                id: record.id,
                missed,
                comment: &comment,
            };
            file.add(&names.interface(record.port), &packet);
        });
        if let Some(left) = left {
            *left -= count as u64;
        }
        file.take()
    }

    /// A part of the file that says nothing.
    pub fn beat(&mut self) -> Vec<u8> {
        if !self.has_begun() {
            return Vec::new();
        }
        self.file.beat();
        self.file.take()
    }

    fn has_begun(&self) -> bool {
        self.begun.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// As many frames as were asked for have been taken.
    pub fn is_over(&self) -> bool {
        self.left == Some(0)
    }
}

impl Agent {
    /// Begins a capture.
    ///
    /// # Errors
    /// See [`CaptureError`].
    pub fn capture(&self, request: &CaptureRequest) -> Result<Capture, CaptureError> {
        let snap = match request.snaplen.unwrap_or(SNAP) {
            0 => MAX_SNAP,
            snap => snap.min(MAX_SNAP),
        };
        let wanted = Wanted {
            filter: request.filter.parse()?,
            endpoint: request.endpoint.as_deref().map(|name| self.endpoint_called(name)).transpose()?,
            peers: request.peer.as_deref().map_or(Ok(Vec::new()), |name| self.peer_called(name))?,
            dropped: request.dropped,
            snap,
        };
        let place = Place::take(&self.captures.running).ok_or(CaptureError::TooMany)?;
        self.captures.follow(self);
        let (catch, tap) = tap::tap(wanted);
        self.workers.tell_all(|| Command::Tap(tap.clone()));
        Ok(Capture {
            catch,
            _wake: Wake(self.workers.wakers()),
            begun: self.workers.turning(),
            names: self.captures.names.reader(),
            fib: self.publication.reader(),
            file: Pcapng::new(snap as u32, &format!("node {}, filter: {}", self.plan.node, request.filter)),
            left: request.count,
            steps: request.steps,
            _place: place,
        })
    }

    /// The last frames that were dropped for `reason`, the oldest first: of each worker as many as it keeps.
    pub fn last_dropped(&self, reason: DropReason) -> Vec<LastDropped> {
        let names = Names::of(self);
        let told = |specimen: &Specimen| LastDropped {
            unix_seconds: specimen.time.as_secs_f64(),
            who: names.party(specimen.party),
            interface: names.interface(specimen.port).name,
            ethernet: specimen.link == Link::Ethernet,
            bytes: specimen.len,
            head: hex(specimen.bytes()),
        };
        self.workers.specimens(reason).iter().map(told).collect()
    }

    fn endpoint_called(&self, name: &str) -> Result<EndpointId, CaptureError> {
        let mut endpoints = self.endpoints.values();
        let found = endpoints.find(|attached| attached.plan.name == name || attached.plan.workload == name);
        found.map(|attached| attached.id).ok_or_else(|| CaptureError::NoEndpoint(name.to_owned()))
    }

    /// Its addresses.
    fn peer_called(&self, name: &str) -> Result<Vec<IpAddr>, CaptureError> {
        let mut peers = self.plan.peers.iter();
        let found = peers
            .find(|peer| peer.name == name || peer.underlays.addresses().any(|own| own.to_string() == name));
        found
            .map(|peer| peer.underlays.addresses().collect())
            .ok_or_else(|| CaptureError::NoPeer(name.to_owned()))
    }
}

/// As hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What hexadecimal digits say; nothing where they are none.
pub fn unhex(digits: &str) -> Option<Vec<u8>> {
    let nibble = |digit: &u8| char::from(*digit).to_digit(16);
    let byte = |pair: &[u8]| Some((nibble(&pair[0])? << 4 | nibble(pair.get(1)?)?) as u8);
    digits.as_bytes().chunks(2).map(byte).collect()
}

/// The header of a record that the routes are asked about: of a tunnel's frame the inner one.
fn routed(fib: &Fib, record: &Record) -> Option<Ip> {
    let headers = Headers::of(tap::link(record.port), &record.bytes, fib.node().vxlan_port);
    let tunnels = usize::from(matches!(record.port, Some(PortId::Ipip | PortId::Vxlan(_))));
    let mut packets = headers.iter().filter_map(|header| match header {
        Header::Ip(ip) => Some(*ip),
        _ => None,
    });
    packets.nth(tunnels)
}
