//! The kernel's notifications: what changes while one looks elsewhere.

use std::io::ErrorKind;
use std::os::fd::{AsRawFd, RawFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::RECEIVE_BUFFER;
use super::error::{Cause, Result};

/// What a [`Monitor`] listens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// Links come, go, change.
    Links,
    /// So do their addresses.
    Addresses,
}

impl Topic {
    /// linux/rtnetlink.h: enum rtnetlink_groups.
    fn groups(self) -> &'static [u32] {
        match self {
            Topic::Links => &[libc::RTNLGRP_LINK],
            Topic::Addresses => &[libc::RTNLGRP_IPV4_IFADDR, libc::RTNLGRP_IPV6_IFADDR],
        }
    }
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
