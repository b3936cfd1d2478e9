//! One packet that is injected, at the nodes that it passes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use etherparse::Ethernet2HeaderSlice;
use hyper::StatusCode;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::far::{self, Identity, Said};
use super::{Args, text, traced};
use crate::agent::capture::{
    ArrivalRequest, CaptureRequest, Onto, Onward, Probe, Trace, TraceRequest, Traced, unhex,
};
use crate::capture::Way;
use crate::capture::read::Frame;
use crate::cli::asking::{AskError, unsaid};
use crate::control::client::{Client, ClientError};
use crate::wire::Family;
use crate::wire::ip::{Address, View};

/// How long a packet that was sent may take to the other node, and a MAC there to be found.
const WAIT: Duration = Duration::from_secs(2);

/// What is known of the packet.
#[derive(Debug, Serialize)]
struct Report {
    /// It was sent; otherwise it was only considered, by every node.
    sent: bool,
    /// Where the first node sends it.
    onward: Option<Onward>,
    /// What became of it at each, the one first where it was injected.
    nodes: Vec<Seen>,
}

/// What is known of it at one node.
#[derive(Debug, Serialize)]
struct Seen {
    /// Name of the Node, if it could be asked.
    node: Option<String>,
    /// Where it was asked, if that was said with `--far`.
    socket: Option<PathBuf>,
    /// At each place that it passed, and what was made of it.
    frames: Vec<Traced>,
    /// Why there is nothing.
    remark: Option<String>,
    /// It could not be asked.
    #[serde(skip)]
    is_missing: bool,
}

/// Injects it and prints what became of it.
pub(super) fn run(args: &Args, request: &TraceRequest) -> Result<(), AskError> {
    let client = args.asking.client()?;
    let (near, far) = match (&args.far[..], request.send) {
        ([], _) => (inject(&client, request)?, Vec::new()),
        (sockets, false) => {
            let near = inject(&client, request)?;
            let far = sockets.iter().map(|socket| consider(socket, &near)).collect();
            (near, far)
        }
        (sockets, true) => send(&client, request, sockets)?,
    };
    let Trace { node, sent, onward, frames } = near;
    let mut nodes = vec![Seen { node: Some(node), socket: None, frames, remark: None, is_missing: false }];
    nodes.extend(far);
    let report = Report { sent, onward, nodes };
    args.asking.print(&report, table)?;
    let missing = report.nodes.into_iter().filter(|seen| seen.is_missing);
    far::all_missing(missing.filter_map(|seen| seen.remark).collect())
}

fn inject(client: &Client, request: &TraceRequest) -> Result<Trace, AskError> {
    post(client, "/v1/trace", request)
}

fn post<T: DeserializeOwned>(client: &Client, path: &str, request: &impl Serialize) -> Result<T, AskError> {
    let query = serde_urlencoded::to_string(request).map_err(unsaid)?;
    Ok(client.post(&format!("{path}?{query}"))?)
}

/// What a far node would do with the packet that the near one would send.
fn consider(socket: &Path, near: &Trace) -> Seen {
    let mut known = None;
    let mut ask = || {
        let client = far::client(socket)?;
        let identity = known.insert(far::identify(&client)?);
        let arrival = near
            .onward
            .as_ref()
            .filter(|onward| onward.node == identity.node)
            .map(|onward| ArrivalRequest { interface: onward.interface, packet: onward.packet.clone() });
        let Some(arrival) = arrival else { return Ok((Vec::new(), Some(elsewhere(near)))) };
        match post::<Trace>(&client, "/v1/trace/arrival", &arrival) {
            Ok(trace) => Ok((trace.frames, None)),
            // No socket of its takes such a packet.
            Err(AskError::Client(ClientError::Refused { status: StatusCode::BAD_REQUEST, error })) => {
                Ok((Vec::new(), Some(format!("it would not arrive: {error}"))))
            }
            Err(error) => Err(error),
        }
    };
    let asked = ask();
    Seen::of(socket, known.as_ref(), asked)
}

/// Sends it while the far nodes are listened to.
fn send(
    client: &Client,
    request: &TraceRequest,
    sockets: &[PathBuf],
) -> Result<(Trace, Vec<Seen>), AskError> {
    // Nobody knows its source but the daemon.
    let considered = inject(client, &TraceRequest { send: false, ..request.clone() })?;
    let filter = filter(&header(&considered)?, request);
    let (out, said) = sync_channel(far::QUEUE);
    for (number, socket) in sockets.iter().enumerate() {
        let request = CaptureRequest { filter: filter.clone(), steps: true, ..CaptureRequest::default() };
        far::listen(number, far::client(socket)?, request, out.clone());
    }
    let mut watches: Vec<Watch> = sockets.iter().map(|_| Watch::default()).collect();
    listen(&said, &mut watches, far::PATIENCE, |watch| watch.is_begun);
    let near = inject(client, request)?;
    let header = header(&near)?;
    listen(&said, &mut watches, WAIT, |watch| watch.is_elsewhere(&near) || watch.has_all(&header));
    let seen = watches.into_iter().zip(sockets).map(|(watch, socket)| watch.seen(socket, &near, &header));
    let seen = seen.collect();
    Ok((near, seen))
}

/// A far node that is listened to.
#[derive(Debug, Default)]
struct Watch {
    known: Option<Identity>,
    is_begun: bool,
    frames: Vec<Frame>,
    ended: Option<Result<(), AskError>>,
}

/// Takes what is said until all is, or `patience` is over.
fn listen(
    said: &Receiver<(usize, Said)>,
    watches: &mut [Watch],
    patience: Duration,
    is_enough: impl Fn(&Watch) -> bool,
) {
    let deadline = Instant::now() + patience;
    while !watches.iter().all(|watch| watch.ended.is_some() || is_enough(watch)) {
        let Ok((number, said)) = said.recv_timeout(deadline.saturating_duration_since(Instant::now())) else {
            return;
        };
        let watch = &mut watches[number];
        match said {
            Said::Known(identity) => watch.known = Some(identity),
            Said::Begun => watch.is_begun = true,
            Said::Frame(frame) => watch.frames.push(frame),
            Said::Ended(ended) => watch.ended = Some(ended),
        }
    }
}

impl Watch {
    /// The packet goes to another node.
    fn is_elsewhere(&self, near: &Trace) -> bool {
        let node = self.known.as_ref().map(|known| &known.node);
        node != near.onward.as_ref().map(|onward| &onward.node)
    }

    /// The packet, wherever it was seen.
    fn frames_of(&self, header: &[u8]) -> impl Iterator<Item = &Frame> {
        let has_it = |frame: &&Frame| frame.bytes.windows(header.len()).any(|other| is_same(header, other));
        self.frames.iter().filter(has_it)
    }

    /// It went on, or was dropped: nothing more comes.
    fn has_all(&self, header: &[u8]) -> bool {
        self.frames_of(header).any(|frame| frame.way == Way::Out || frame.comment.contains("dropped: "))
    }

    fn seen(self, socket: &Path, near: &Trace, header: &[u8]) -> Seen {
        let frames: Vec<Traced> = self.frames_of(header).map(traced).collect();
        let is_elsewhere = self.is_elsewhere(near);
        let asked = match (self.ended, self.is_begun) {
            (Some(Err(error)), _) => Err(error),
            (None, false) => Err(AskError::Far(format!("no answer within {:?}", far::PATIENCE))),
            _ => {
                let remark = match &near.onward {
                    _ if !frames.is_empty() => None,
                    Some(onward) if !is_elsewhere => Some(unseen(&near.node, onward)),
                    _ => Some(elsewhere(near)),
                };
                Ok((frames, remark))
            }
        };
        Seen::of(socket, self.known.as_ref(), asked)
    }
}

impl Seen {
    /// With what was seen, or what is to be said instead.
    fn of(
        socket: &Path,
        known: Option<&Identity>,
        asked: Result<(Vec<Traced>, Option<String>), AskError>,
    ) -> Self {
        let node = known.map(|known| known.node.clone());
        let is_missing = asked.is_err();
        let (frames, remark) = match asked {
            Ok(seen) => seen,
            Err(error) => (Vec::new(), Some(far::missing(socket, known, &error))),
        };
        Seen { node, socket: Some(socket.to_owned()), frames, remark, is_missing }
    }
}

/// Why a node has nothing to do with it.
fn elsewhere(near: &Trace) -> String {
    let node = &near.node;
    match &near.onward {
        Some(onward) => format!("{node} sends it to {}, not here", onward.node),
        None => format!("{node} sends it to no other node"),
    }
}

/// What to look at when it was sent and did not arrive.
fn unseen(near: &str, Onward { node, address, interface, .. }: &Onward) -> String {
    let what = match interface {
        Onto::Ipip => "IP protocol 4",
        Onto::Vxlan => "VXLAN's UDP port",
        Onto::Direct => "packets with pods' addresses",
    };
    format!(
        "{node} did not see it within {WAIT:?}, though {near} sent it to {address}: look whether that is {node}'s address, whether \
         something between them drops {what} (tcpdump on both underlay interfaces tells; firewalls, a cloud's rules), and at margay \
         status on {node}"
    )
}

/// The packet's header as it was injected, without options or extensions: there are none.
fn header(trace: &Trace) -> Result<Vec<u8>, AskError> {
    let strange = || unsaid("the daemon does not say what it injected: is it of this version?");
    let injected = trace.frames.first().and_then(|frame| unhex(&frame.bytes)).ok_or_else(strange)?;
    let ethernet = Ethernet2HeaderSlice::from_slice(&injected).map_err(|_| strange())?;
    let packet = &injected[ethernet.slice().len()..];
    let len = match Family::of_packet(packet).ok_or_else(strange)? {
        Family::V4 => Ipv4Addr::MIN_HEADER_LEN,
        Family::V6 => Ipv6Addr::MIN_HEADER_LEN,
    };
    packet.get(..len).map(<[u8]>::to_vec).ok_or_else(strange)
}

/// The same packet, wherever it is on its way: but for traffic class, hop limit and IPv4's checksum.
fn is_same(header: &[u8], other: &[u8]) -> bool {
    let family = Family::of_packet(header);
    let stays = |place| match (family, place) {
        (Some(Family::V4), 1 | 8 | 10 | 11) | (Some(Family::V6), 7) => 0,
        // The traffic class lies between version and flow label.
        (Some(Family::V6), 0) => 0xf0,
        (Some(Family::V6), 1) => 0x0f,
        _ => 0xff,
    };
    header.iter().zip(other).enumerate().all(|(place, (a, b))| (a ^ b) & stays(place) == 0)
}

/// What finds it, and little else.
fn filter(header: &[u8], request: &TraceRequest) -> String {
    let source = match request.to {
        IpAddr::V4(_) => source::<Ipv4Addr>(header).map(IpAddr::V4),
        IpAddr::V6(_) => source::<Ipv6Addr>(header).map(IpAddr::V6),
    };
    let source = source.map(|source| format!(" and src host {source}")).unwrap_or_default();
    let (protocol, port) = match (request.probe, request.port) {
        (Probe::Tcp, Some(port)) => ("tcp", format!(" and dst port {port}")),
        (Probe::Udp, Some(port)) => ("udp", format!(" and dst port {port}")),
        (Probe::Tcp, None) => ("tcp", String::new()),
        (Probe::Udp, None) => ("udp", String::new()),
        (Probe::Icmp, _) if request.to.is_ipv6() => ("icmp6", String::new()),
        (Probe::Icmp, _) => ("icmp", String::new()),
    };
    format!("{protocol}{source} and dst host {}{port}", request.to)
}

fn source<A: Address>(header: &[u8]) -> Option<A> {
    A::View::parse_quoted(header).ok().map(|ip| ip.src())
}

fn table(report: &Report) -> String {
    let mut out = String::new();
    let has_far = report.nodes.len() > 1;
    // What is missing is told as an error.
    for seen in report.nodes.iter().filter(|seen| !seen.is_missing) {
        if has_far {
            out += &format!("{}:\n", seen.node.as_deref().unwrap_or_default());
        }
        out += &seen.frames.iter().map(text).collect::<String>();
        out += &seen.remark.iter().map(|remark| format!("{remark}\n")).collect::<String>();
    }
    // Whose sockets they are is known of all.
    let is_no_other = |onward: &&Onward| {
        let mut others = report.nodes.iter().map(|seen| seen.node.as_deref());
        others.all(|node| node.is_some_and(|node| node != onward.node))
    };
    if let Some(Onward { node, address, .. }) = report.onward.as_ref().filter(is_no_other).filter(|_| has_far)
    {
        out += &format!("It goes on to {node} ({address}), which no --far belongs to.\n");
    }
    out += match (report.sent, has_far) {
        (true, _) => "The packet was really sent, as if the workload had sent it.\n",
        (false, false) => "Nothing was sent: the packet was only considered (--send sends it).\n",
        (false, true) => {
            "Nothing was sent: each node only considered the packet, and nothing between them was tried (--send sends it).\n"
        }
    };
    out
}
