//! The kernel's notifications: what changes while one looks elsewhere.

use std::io::ErrorKind;
use std::os::fd::{AsRawFd, RawFd};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::error::{Cause, Result};
use super::neighbour::neighbour_of;
use super::{Neighbour, RECEIVE_BUFFER, next_message};

/// What a [`Monitor`] listens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// Links come, go, change.
    Links,
    /// So do their addresses.
    Addresses,
    /// Entries of the neighbour tables, of both families.
    Neighbours,
    /// What leads where: routes and rules of both families.
    Paths,
}

impl Topic {
    /// linux/rtnetlink.h: enum rtnetlink_groups.
    fn groups(self) -> &'static [u32] {
        match self {
            Topic::Links => &[libc::RTNLGRP_LINK],
            Topic::Addresses => &[libc::RTNLGRP_IPV4_IFADDR, libc::RTNLGRP_IPV6_IFADDR],
            Topic::Neighbours => &[libc::RTNLGRP_NEIGH],
            Topic::Paths => &[
                libc::RTNLGRP_IPV4_ROUTE,
                libc::RTNLGRP_IPV4_RULE,
                libc::RTNLGRP_IPV6_ROUTE,
                libc::RTNLGRP_IPV6_RULE,
            ],
        }
    }
}

/// A change that a [`Monitor`] tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// An entry of the neighbour table is new, or is otherwise.
    Neighbour(Neighbour),
    /// An entry of the neighbour table is gone.
    NeighbourGone(Neighbour),
    /// Something else.
    Other,
    /// Changes came faster than they were taken: everything must be asked again.
    Missed,
}

/// A listener in one network namespace; usable from any thread.
pub struct Monitor {
    socket: Socket,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").finish_non_exhaustive()
    }
}

impl Monitor {
    /// Listens in the namespace in which the calling thread is, from now on. No privilege is needed.
    ///
    /// # Errors
    /// As [`Netlink::open`](super::Netlink::open).
    pub fn open(topics: &[Topic]) -> Result<Self> {
        let open = || -> Result<Socket, Cause> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            for group in topics.iter().flat_map(|topic| topic.groups()) {
                socket.add_membership(*group)?;
            }
            Ok(socket)
        };
        let socket = open().map_err(|cause| cause.during("listen to route netlink"))?;
        Ok(Monitor { socket, buffer: Vec::with_capacity(RECEIVE_BUFFER) })
    }

    /// Waits for the next changes.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn wait(&mut self) -> Result<Vec<Change>> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => return Ok(changes(&self.buffer)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(vec![Change::Missed]),
                Err(error) => return Err(Cause::from(error).during("receive from route netlink")),
            }
        }
    }

    /// Takes all notifications that wait, and says whether there were any. Those that the kernel had no room for
    /// count as well.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn drain(&mut self) -> Result<bool> {
        let mut any = false;
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, libc::MSG_DONTWAIT) {
                Ok(_) => any = true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(any),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => any = true,
                Err(error) => return Err(Cause::from(error).during("receive from route netlink")),
            }
        }
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// The changes of one datagram. One that cannot be understood may have been any.
fn changes(datagram: &[u8]) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut rest = datagram;
    while !rest.is_empty() {
        let message = next_message(&mut rest).and_then(|bytes| {
            NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes)
                .map_err(|error| Cause::malformed(error.to_string()))
        });
        let Ok(message) = message else {
            changes.push(Change::Missed);
            continue;
        };
        let NetlinkPayload::InnerMessage(message) = message.payload else { continue };
        let change = match message {
            RouteNetlinkMessage::NewNeighbour(message) => neighbour_of(message).map(Change::Neighbour),
            RouteNetlinkMessage::DelNeighbour(message) => neighbour_of(message).map(Change::NeighbourGone),
            _ => Some(Change::Other),
        };
        changes.extend(change);
    }
    changes
}
