//! One daemon takes over from another: what it has open goes over a Unix socket, and no frame is lost.
//!
//! | who | says | and then |
//! |---|---|---|
//! | new | `Hello`: version, namespace, node | waits |
//! | old | `Answer::Offer`, then the descriptors; or `Answer::Refused` | goes on forwarding |
//! | new | `Ready`: all is open, its workers rest | waits |
//! | old | `Left`: its workers rest, what it knew | waits |
//! | new | `Running`: its workers run | works, and tells the service manager that it is the service's process |
//! | new | closes the stream | |
//! | old | – | ends, and leaves everything as it is |
//!
//! Between `Left` and `Running` nobody reads: what arrives waits in the queues of the TAPs and sockets, which are the same
//! for both. Whatever fails before `Running`, or takes too long, ends the stream, and the old one goes on (its workers run again).
//! Of the messages only the first two must be the same in all versions: the old one refuses a version that it does not
//! know, and the new one takes of the descriptors those whose names it knows.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::mark::Owner;
use super::{Agent, AgentError, Config, Legacy};
use crate::dataplane::paths::Evidence;
use crate::sys::descriptors;

/// Where on the control socket, and to what the connection is upgraded.
pub const TARGET: &str = "/v1/takeover";
/// See [`TARGET`].
pub const PROTOCOL: &str = "margay-takeover";
const VERSION: u32 = 1;
/// Until the new daemon has read its resources and opened what it needs.
const PREPARATION: Duration = Duration::from_secs(20);
/// For everything else: far more than it takes.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a message, at most: a hundred for each endpoint.
const LIMIT: u32 = 16 << 20;

/// Why nothing was taken over; the other daemon goes on.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// No daemon there.
    #[error(
        "no daemon answers at {0} ({1}): name the control socket of the one that runs here (--control-socket), or start without --takeover"
    )]
    NoDaemon(String, #[source] io::Error),
    /// It says no.
    #[error("the daemon that runs does not hand over: {0}")]
    Refused(String),
    /// The conversation failed.
    #[error("the daemon that runs does not hand over: {0}; it goes on")]
    Stream(#[from] io::Error),
}

#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    takeover: u32,
    margay: String,
    /// Inode of the network namespace.
    netns: u64,
    node: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Refused(String),
    Offer(Offer),
}

#[derive(Debug, Serialize, Deserialize)]
struct Offer {
    takeover: u32,
    margay: String,
    /// Names in the order in which the descriptors follow, and how many each has.
    descriptors: Vec<(String, usize)>,
    /// The workloads' MACs, by the endpoints' names.
    macs: BTreeMap<String, String>,
    /// How long the service manager waits for a sign of life, milliseconds.
    watchdog: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Ready {
    ready: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Left {
    path_mtus: Vec<PathMtu>,
}

#[derive(Debug, Serialize, Deserialize)]
struct PathMtu {
    peer: IpAddr,
    mtu: u16,
    is_probed: bool,
    seconds_left: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Running {
    running: bool,
}

/// The daemon whose place was taken, which ends when this is dropped, or after five seconds.
#[derive(Debug)]
pub struct Predecessor {
    _stream: UnixStream,
}

impl Agent {
    /// Takes over from the daemon whose control socket is at `path`; without an error that one ends, when its service
    /// manager knows who goes on.
    ///
    /// # Errors
    /// As [`Self::start`], and [`TakeoverError`]; the other one goes on.
    pub fn take_over(config: Config, path: &Path) -> Result<(Self, Predecessor), AgentError> {
        let mut stream = connect(path)?;
        let hello = Hello {
            takeover: VERSION,
            margay: env!("CARGO_PKG_VERSION").into(),
            netns: Owner::here().map_err(AgentError::Namespace)?.inode(),
            node: config.node.clone(),
        };
        say(&mut stream, &hello)?;
        let offer = match hear::<Answer>(&mut stream)? {
            Answer::Offer(offer) => offer,
            Answer::Refused(reason) => return Err(TakeoverError::Refused(reason).into()),
        };
        let watchdog = offer.watchdog.map(Duration::from_millis);
        let legacy = receive(&stream, offer)?;
        let control = legacy.descriptors.copies(CONTROL);
        let mut agent = Agent::prepare(config, legacy)?;
        control.into_iter().for_each(|control| agent.beside.insert(CONTROL.into(), control));
        agent.watchdog = watchdog;
        say(&mut stream, &Ready { ready: true })?;
        let left: Left = hear(&mut stream)?;
        agent.inherit(left.path_mtus);
        agent.workers.begin().map_err(AgentError::Workers)?;
        say(&mut stream, &Running { running: true })?;
        agent.settle_in();
        if agent.underlay.awaits_express() {
            // The other one has the queue until it has ended.
            agent.miss_queue();
        }
        Ok((agent, Predecessor { _stream: stream }))
    }

    /// The control socket of the daemon whose place was taken, if it had one.
    pub fn inherited_control(&self) -> Option<OwnedFd> {
        self.beside.copies(CONTROL)?.pop()
    }

    /// Notes the control socket for the daemon that will take this one's place.
    pub fn note_control(&mut self, listener: OwnedFd) {
        self.beside.insert(CONTROL.into(), vec![listener]);
    }

    /// How long the service manager waits for a sign of life, as the daemon knew whose place was taken.
    pub fn inherited_watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Notes how long the service manager waits, for the daemon that will take this one's place: it is not told.
    pub fn note_watchdog(&mut self, limit: Duration) {
        self.watchdog = Some(limit);
    }

    /// Hands everything to the daemon at the other end of `stream`. When this was done [`Self::run`] ends; otherwise
    /// everything goes on.
    pub fn hand_over(&mut self, mut stream: UnixStream) {
        match self.try_hand_over(&mut stream) {
            Ok(version) => {
                tracing::info!(%version, "another daemon has taken over");
                self.is_handed_over = true;
            }
            Err(error) => {
                tracing::warn!(%error, "another daemon wanted to take over, and did not: this one goes on");
                if let Err(error) = self.workers.begin() {
                    tracing::error!(%error, "the workers cannot be started again");
                }
            }
        }
    }

    fn try_hand_over(&mut self, stream: &mut UnixStream) -> Result<String, TakeoverError> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let hello: Hello = hear(stream)?;
        if let Some(reason) = self.refusal(&hello) {
            say(stream, &Answer::Refused(reason.clone()))?;
            return Err(TakeoverError::Refused(reason));
        }
        self.offer(stream)?;
        stream.set_read_timeout(Some(PREPARATION))?;
        hear::<Ready>(stream)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        self.workers.rest();
        self.underlay.drain();
        say(stream, &Left { path_mtus: self.path_mtus() })?;
        hear::<Running>(stream)?;
        // Until the end of the stream: were this process to end before the service manager knows of the other one, that
        // would be the end of the service, and the other one ended with it.
        let _ = stream.read(&mut [0]);
        Ok(hello.margay)
    }

    fn refusal(&self, hello: &Hello) -> Option<String> {
        if hello.takeover != VERSION {
            return Some(format!("it knows version {VERSION} of the takeover, not {}", hello.takeover));
        }
        if hello.netns != self.owner.inode() {
            return Some("it runs in another network namespace".into());
        }
        let node = &self.config.node;
        (hello.node != *node).then(|| format!("it is the daemon of node {node}, not of {}", hello.node))
    }

    fn offer(&self, stream: &mut UnixStream) -> Result<(), TakeoverError> {
        let mut all: Vec<(String, Vec<BorrowedFd<'_>>)> =
            self.endpoints.values().map(|attached| attached.descriptors()).collect();
        all.extend(self.host.iter().map(|host| {
            let (name, queue) = host.descriptor();
            (name, vec![queue.as_fd()])
        }));
        all.extend(self.underlay.descriptors().iter().map(|(name, some)| (name.to_owned(), some)));
        all.extend(self.beside.iter().map(|(name, some)| (name.to_owned(), some)));
        all.push((SOLE.into(), vec![self.sole.as_fd()]));
        let macs = self.endpoints.iter().filter_map(|(name, attached)| Some((name, attached.mac()?)));
        let offer = Offer {
            takeover: VERSION,
            margay: env!("CARGO_PKG_VERSION").into(),
            descriptors: all.iter().map(|(name, some)| (name.clone(), some.len())).collect(),
            macs: macs.map(|(name, mac)| (name.clone(), mac.to_string())).collect(),
            watchdog: self.watchdog.map(|limit| limit.as_millis() as u64),
        };
        say(stream, &Answer::Offer(offer))?;
        let flat: Vec<BorrowedFd<'_>> = all.into_iter().flat_map(|(_, some)| some).collect();
        Ok(descriptors::send(stream, &flat)?)
    }

    fn path_mtus(&self) -> Vec<PathMtu> {
        let now = Instant::now();
        let known = self.workers.paths().snapshot().into_iter();
        let mtus = known.filter_map(|(peer, path)| {
            let (mtu, evidence, until) = path.mtu?;
            let seconds_left = until.saturating_duration_since(now).as_secs();
            Some(PathMtu { peer, mtu, is_probed: evidence == Evidence::Probed, seconds_left })
        });
        mtus.collect()
    }

    fn inherit(&self, mtus: Vec<PathMtu>) {
        let known = mtus.into_iter().map(|PathMtu { peer, mtu, is_probed, seconds_left }| {
            let evidence = if is_probed { Evidence::Probed } else { Evidence::Told };
            (peer, (mtu, evidence, Instant::now() + Duration::from_secs(seconds_left)))
        });
        self.workers.paths().inherit(self.publication.reader().current(), known);
    }
}

/// Whether who is at the other end may have the daemon's sockets, and the agent's time, and not only ask what it does: its own
/// user, and root.
pub(crate) fn may_take_over(connection: &impl AsFd) -> bool {
    let user = getsockopt(connection, PeerCredentials).map(|peer| peer.uid());
    user.is_ok_and(|user| user == 0 || user == geteuid().as_raw())
}

/// What the descriptor is called that only one daemon of a namespace has.
pub(super) const SOLE: &str = "sole";
/// What the socket is called on which the commands ask.
const CONTROL: &str = "control";

/// The descriptors and what else was offered.
fn receive(stream: &UnixStream, offer: Offer) -> Result<Legacy, TakeoverError> {
    let mut legacy = Legacy::default();
    let count = offer.descriptors.iter().map(|(_, count)| count).sum();
    let mut received = descriptors::receive(stream, count)?.into_iter();
    for (name, count) in offer.descriptors {
        let some: Vec<OwnedFd> = received.by_ref().take(count).collect();
        legacy.descriptors.insert(name, some);
    }
    let macs = offer.macs.into_iter().filter_map(|(name, mac)| Some((name, mac.parse().ok()?)));
    legacy.macs = macs.collect();
    Ok(legacy)
}

/// A connection to the control socket, upgraded (RFC 9110 7.8).
fn connect(path: &Path) -> Result<UnixStream, TakeoverError> {
    let no_daemon = |error| TakeoverError::NoDaemon(path.display().to_string(), error);
    let mut stream = UnixStream::connect(path).map_err(no_daemon)?;
    stream.set_read_timeout(Some(PREPARATION))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "POST {TARGET} HTTP/1.1\r\nHost: margay\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\nContent-Length: 0\r\n\r\n"
    )?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
        if head.len() > 4096 {
            return Err(io::Error::other("its answer is no HTTP").into());
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let status = head.lines().next().unwrap_or_default();
    match status.split(' ').nth(1) {
        Some("101") => Ok(stream),
        Some("403") => Err(TakeoverError::Refused("only its own user and root may take over".into())),
        _ => Err(TakeoverError::Refused(format!("it answers {status:?}, and may be older than --takeover"))),
    }
}

/// A message: its length in four bytes, big-endian, then JSON.
fn say(stream: &mut UnixStream, message: &impl Serialize) -> Result<(), TakeoverError> {
    let text = serde_json::to_vec(message).map_err(io::Error::from)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes())?;
    Ok(stream.write_all(&text)?)
}

fn hear<T: DeserializeOwned>(stream: &mut UnixStream) -> Result<T, TakeoverError> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::other("the other one ended, and its log says why"),
        _ => error,
    })?;
    let length = u32::from_be_bytes(length);
    if length > LIMIT {
        return Err(io::Error::other(format!("a message of {length} bytes")).into());
    }
    let mut text = Vec::new();
    stream.take(length.into()).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text).map_err(io::Error::from)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_heard_as_they_are_said_and_nothing_after_them() {
        let (mut near, mut far) = UnixStream::pair().unwrap();
        say(&mut near, &Ready { ready: true }).unwrap();
        say(&mut near, &Answer::Refused("no".into())).unwrap();
        assert!(hear::<Ready>(&mut far).unwrap().ready);
        assert!(matches!(hear::<Answer>(&mut far).unwrap(), Answer::Refused(reason) if reason == "no"));
        near.write_all(&u32::MAX.to_be_bytes()).unwrap();
        assert!(hear::<Ready>(&mut far).unwrap_err().to_string().contains("4294967295 bytes"));
        near.write_all(&3u32.to_be_bytes()).unwrap();
        drop(near);
        assert!(hear::<Ready>(&mut far).is_err());
    }
}
