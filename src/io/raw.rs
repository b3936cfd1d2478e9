//! Raw sockets: IPIP both ways, and packets without encapsulation out; by the link layer where that can be.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

use socket2::Socket;

use super::burst::{self, Burst, Sending, Way};
use super::link::{Link, Super};
use super::offload::{Outer, complete_checksum};
use super::{BATCH, FRAMES, Port, Rx, TxReport, UNDERLAY_PATIENCE};
use crate::buf::{Frame, Pool};
use crate::sys::mmsg::Envelope;
use crate::wire::{Protocol, ipv6};

/// A sender of whole packets to `frame.peer`, and perhaps a receiver of protocol 4, or of ICMP errors.
///
/// As a tunnel it carries outer packets; as the way to peers without encapsulation, the packets themselves:
/// the kernel takes the next hop from the address given with each, not from the packet. Frames for a peer whose
/// next hop is known leave by the link layer, all others by the raw socket; in order either way.
#[derive(Debug)]
pub struct RawPort {
    receiver: Option<Socket>,
    /// What the receiver's packets had for destination, where it gives them without their IPv6 header.
    headless: Option<Ipv6Addr>,
    /// To peers of either family.
    exits: [Option<Exit>; 2],
    outer: Outer,
    burst: Burst,
}

/// The ways to peers of one family.
#[derive(Debug)]
pub struct Exit {
    sender: Arc<Socket>,
    link: Option<Link>,
    /// Places in the batch of what leaves by the one, and by the other.
    by_link: Vec<u16>,
    by_raw: Vec<u16>,
}

impl Exit {
    /// By `sender`, a socket of this family that [`socket::raw_sender`](crate::sys::socket::raw_sender) made, and by
    /// `link` where that can be.
    pub fn new(sender: Arc<Socket>, link: Option<Link>) -> Self {
        let order = || Vec::with_capacity(FRAMES);
        Exit { sender, link, by_link: order(), by_raw: order() }
    }
}

impl RawPort {
    /// An IPIP tunnel's port.
    pub fn ipip(receiver: Socket, exit: Exit) -> Self {
        Self::new(Some(receiver), [Some(exit), None], Outer::Ipip)
    }

    /// The way to peers without encapsulation, of IPv4 and of IPv6; what they send comes by the underlay's packet
    /// socket.
    pub fn direct(v4: Option<Exit>, v6: Option<Exit>) -> Self {
        Self::new(None, [v4, v6], Outer::None)
    }

    /// The ICMP or ICMPv6 errors to `local`; nothing is sent by it.
    pub fn errors(receiver: Socket, local: IpAddr) -> Self {
        let headless = match local {
            IpAddr::V4(_) => None,
            IpAddr::V6(local) => Some(local),
        };
        RawPort { headless, ..Self::new(Some(receiver), [None, None], Outer::None) }
    }

    fn new(receiver: Option<Socket>, exits: [Option<Exit>; 2], outer: Outer) -> Self {
        RawPort { receiver, headless: None, exits, outer, burst: Burst::new(BATCH) }
    }

    /// Makes each frame ready for the way that it takes.
    fn part(&mut self, pool: &mut Pool, batch: &mut [Frame], report: &mut TxReport) {
        for exit in self.exits.iter_mut().flatten() {
            exit.link.iter_mut().for_each(Link::refresh);
        }
        for (index, frame) in batch.iter_mut().enumerate() {
            let Some(exit) = &mut self.exits[place(frame.peer)] else {
                report.refuse(io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
                continue;
            };
            if exit.link.as_ref().is_some_and(|link| link.dress(pool, frame)) {
                exit.by_link.push(index as u16);
                continue;
            }
            if self.outer == Outer::None {
                frame.offload = complete_checksum(pool.bytes_mut(frame), frame.offload);
            }
            exit.by_raw.push(index as u16);
        }
    }
}

/// Of the exit to an address.
#[inline(always)]
fn place(peer: IpAddr) -> usize {
    match peer {
        IpAddr::V4(_) => 0,
        IpAddr::V6(_) => 1,
    }
}

/// Puts a header in front of a message that came without, for who verifies and reads it: of the one that it had,
/// the addresses are known.
fn restore_header(pool: &mut Pool, frame: &mut Frame, dst: Ipv6Addr) {
    let IpAddr::V6(src) = frame.peer else { return };
    let header = ipv6::Header {
        traffic_class: 0,
        flow_label: 0,
        payload_len: frame.len().min(usize::from(u16::MAX) - ipv6::HEADER_LEN) as u16,
        next_header: Protocol::ICMPV6,
        hop_limit: 0,
        src,
        dst,
    };
    if let Some(out) = pool.prepend(frame) {
        header.write(out);
    }
}

impl Port for RawPort {
    fn rx(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> io::Result<Rx> {
        let Some(receiver) = &self.receiver else { return Ok(Rx::Drained) };
        let headless = self.headless;
        self.burst.receive(receiver.as_fd(), pool, batch, |pool, frame, message| {
            if let Some(source) = message.source {
                frame.peer = source.ip();
            }
            if let Some(dst) = headless {
                restore_header(pool, frame, dst);
            }
        })
    }

    fn tx(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> TxReport {
        let mut report = TxReport::default();
        self.part(pool, batch, &mut report);
        let RawPort { exits, burst, outer, .. } = self;
        for exit in exits.iter_mut().flatten() {
            exit.send(*outer, burst, pool, batch, &mut report);
        }
        batch.drain(..).for_each(|frame| pool.put(frame));
        report
    }

    fn readiness(&self) -> Option<RawFd> {
        self.receiver.as_ref().map(|receiver| receiver.as_raw_fd())
    }
}

impl Exit {
    /// Sends its frames of the batch.
    fn send(&mut self, outer: Outer, burst: &mut Burst, pool: &Pool, batch: &[Frame], report: &mut TxReport) {
        if let Some(Link { kind: Super::Express(express), .. }) = &self.link {
            report.sent += express.send(pool, batch, &mut self.by_link);
        }
        let frame = |index: &u16| &batch[usize::from(*index)];
        if let Some(link) = self.link.as_ref().filter(|_| !self.by_link.is_empty()) {
            let mut sending = burst.sending(link.socket.as_fd(), UNDERLAY_PATIENCE);
            // Of what goes without encapsulation nothing is left to cut.
            let way = Way { outer: Outer::LinkIpip, datagrams: 1 };
            for frame in self.by_link.iter().map(frame) {
                send(&mut sending, Envelope::default(), pool, frame, &way);
            }
            sending.finish(report);
        }
        if !self.by_raw.is_empty() {
            let mut sending = burst.sending(self.sender.as_fd(), UNDERLAY_PATIENCE);
            let way = Way { outer, datagrams: 1 };
            for frame in self.by_raw.iter().map(frame) {
                // TOS stands in the header that we wrote.
                let envelope = Envelope { tos: 0, ..burst::envelope(frame, 0) };
                send(&mut sending, envelope, pool, frame, &way);
            }
            sending.finish(report);
        }
        self.by_link.clear();
        self.by_raw.clear();
    }
}

fn send<'a>(sending: &mut Sending<'_, 'a>, envelope: Envelope, pool: &'a Pool, frame: &Frame, way: &Way) {
    match frame.offload.segments {
        Some(segments) => sending.cut(envelope, pool.bytes(frame), segments, way),
        None => sending.whole(envelope, std::iter::once(pool.bytes(frame))),
    }
}
