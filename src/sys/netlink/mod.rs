//! Route netlink: links, addresses, routes, neighbours and rules, without the `ip` program.
//!
//! Contract: synchronous, one request at a time, each acknowledged by the kernel before the call returns.
//! A [`Netlink`] belongs to the network namespace in which it was opened and may be used from any thread
//! afterwards. Whatever the kernel answers, nothing here panics.

mod address;
mod error;
mod link;
mod monitor;
mod neighbour;
mod nsid;
mod qdisc;
mod route;
mod rule;

use std::os::fd::{FromRawFd, IntoRawFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::door::{self, Wanted};
use crate::wire::Family;
use error::{Cause, Result};
pub use error::{ErrorKind, NetlinkError};
pub use link::{Link, LinkChange, LinkId, LinkIndex, VethEnd, Vxlan};
pub use monitor::{Change, Monitor, Topic};
pub use neighbour::Neighbour;
pub use netlink_packet_route::neighbour::NeighbourState;
pub use nsid::NetnsId;
pub use route::{LastingPath, NextHop, PathTo, Route, RouteKind, Scope};
pub use rule::Rule;

/// Larger than any message the kernel sends: it fills dumps in pieces of 32 KiB at most
/// (`netlink_dump` in the kernel's af_netlink.c).
const RECEIVE_BUFFER: usize = 64 << 10;

/// A list is asked for so often; after that an answer with a hole is better than none.
const DUMP_TRIES: usize = 4;

/// A family's number in netlink's messages.
fn number(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

/// A client of one network namespace's route netlink.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
    /// The kernel marked the latest list as interrupted by a change.
    inconsistent: bool,
}

impl std::fmt::Debug for Netlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Netlink").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Netlink {
    /// Opens a client for the namespace in which the calling thread is. No privilege is needed to read.
    ///
    /// # Errors
    /// The kernel or its sandbox has no route netlink, or descriptors are exhausted.
    pub fn open() -> Result<Self> {
        let open = || -> Result<Socket, Cause> {
            let mut socket = match door::fetch(Wanted::RouteNetlink) {
                // SAFETY: a descriptor that nobody else has, of a socket of route netlink.
                Some(opened) => unsafe { Socket::from_raw_fd(opened?.into_raw_fd()) },
                None => Socket::new(NETLINK_ROUTE)?,
            };
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // Both only improve error messages; kernels before 4.12 know neither.
            let _ = socket.set_cap_ack(true);
            let _ = socket.set_ext_ack(true);
            Ok(socket)
        };
        let socket = open().map_err(|cause| cause.during("open route netlink"))?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(RECEIVE_BUFFER), inconsistent: false })
    }

    /// Asks for a change and waits for the acknowledgement.
    fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), Cause> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK | flags).map(drop)
    }

    /// Asks for one object.
    fn get(&mut self, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Cause> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK)
    }

    /// Asks for every object of a kind; again while the table changes under the kernel's hands
    /// (NLM_F_DUMP_INTR), but not for ever.
    fn dump(&mut self, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Cause> {
        let mut answers = self.exchange(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
        for _ in 0..DUMP_TRIES - 1 {
            if !self.inconsistent {
                break;
            }
            answers = self.exchange(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
        }
        Ok(answers)
    }

    /// One request and its answers up to the acknowledgement or the end of the list.
    fn exchange(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, Cause> {
        self.inconsistent = false;
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut answers = Vec::new();
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if self.take(&mut answers)? {
                return Ok(answers);
            }
        }
    }

    /// Takes the messages of one datagram; true when the answer is complete.
    fn take(&mut self, answers: &mut Vec<RouteNetlinkMessage>) -> Result<bool, Cause> {
        let mut rest = &self.buffer[..];
        while !rest.is_empty() {
            let bytes = next_message(&mut rest)?;
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes)
                .map_err(|e| Cause::malformed(e.to_string()))?;
            if message.header.sequence_number != self.sequence {
                continue; // an answer to an earlier request that failed half-way
            }
            self.inconsistent |= message.header.flags & NLM_F_DUMP_INTR != 0;
            match message.payload {
                NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(true),
                NetlinkPayload::Error(error) => return Err(Cause::refused(&error)),
                NetlinkPayload::Done(done) if done.code == 0 => return Ok(true),
                NetlinkPayload::Done(done) => {
                    return Err(std::io::Error::from_raw_os_error(done.code.saturating_abs()).into());
                }
                NetlinkPayload::Overrun(_) => return Err(Cause::malformed("netlink overrun")),
                _ => {}
            }
        }
        Ok(false)
    }
}

/// Takes the next message off a datagram, or all of it when there is none. netlink(7): each message starts with
/// its length, and the next one at a multiple of four.
fn next_message<'a>(datagram: &mut &'a [u8]) -> Result<&'a [u8], Cause> {
    let rest = std::mem::take(datagram);
    let length = rest.first_chunk().map_or(0, |b| u32::from_ne_bytes(*b)) as usize;
    let Some(bytes) = rest.get(..length).filter(|b| !b.is_empty()) else {
        return Err(Cause::malformed("a netlink message longer than its datagram"));
    };
    *datagram = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    Ok(bytes)
}

#[cfg(test)]
mod tests;
