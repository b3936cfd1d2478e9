//! The kernel's IPsec policies (XFRM). What a packet socket sends passes them by, so where there are any it must not
//! send in the kernel's place.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_XFRM};

// linux/xfrm.h
pub(crate) const XFRM_MSG_NEWPOLICY: u16 = 0x13;
const XFRM_MSG_GETPOLICY: u16 = 0x15;
const XFRMNLGRP_POLICY: u32 = 4;
/// Bytes of `xfrm_userpolicy_id`: all zeros ask for every policy.
const POLICY_ID_LEN: usize = 64;

/// Bytes of a netlink message's header.
pub(crate) const HEADER_LEN: usize = 16;

/// Whether the network namespace of the calling thread has an IPsec policy. A kernel without XFRM has none.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN over the namespace.
pub fn has_policies() -> io::Result<bool> {
    let mut socket = match Socket::new(NETLINK_XFRM) {
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(false),
        other => other?,
    };
    socket.bind_auto()?;
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_DUMP;
    socket.send(&message(XFRM_MSG_GETPOLICY, flags, &[0; POLICY_ID_LEN]), 0)?;
    let mut answer = Vec::with_capacity(32 << 10);
    socket.recv(&mut answer, 0)?;
    // The first message tells: a policy, the end of the list, or an error.
    let Some(header) = answer.first_chunk::<HEADER_LEN>() else { return Ok(false) };
    match i32::from(u16::from_ne_bytes([header[4], header[5]])) {
        libc::NLMSG_ERROR => {
            let errno = answer[HEADER_LEN..].first_chunk().map_or(0, |errno| i32::from_ne_bytes(*errno));
            Err(io::Error::from_raw_os_error(-errno))
        }
        kind => Ok(kind == i32::from(XFRM_MSG_NEWPOLICY)),
    }
}

/// Tells that policies have changed: readable then.
#[derive(Debug)]
pub struct Policies {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Policies {
    /// Listens in the network namespace of the calling thread; `None` where the kernel has no XFRM.
    ///
    /// # Errors
    /// EPERM without CAP_NET_ADMIN over the namespace.
    pub fn listen() -> io::Result<Option<Self>> {
        let mut socket = match Socket::new(NETLINK_XFRM) {
            Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(None),
            other => other?,
        };
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.add_membership(XFRMNLGRP_POLICY)?;
        socket.set_non_blocking(true)?;
        Ok(Some(Policies { socket, buffer: Vec::with_capacity(4096) }))
    }

    /// Takes what was told, so that the next change is told too.
    pub fn drain(&mut self) {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, libc::MSG_TRUNC) {
                Ok(_) => {}
                // Changes that found no room: that is told by this error, once.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

impl AsRawFd for Policies {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// A message of XFRM netlink.
pub(crate) fn message(kind: u16, flags: libc::c_int, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len());
    bytes.extend(((HEADER_LEN + payload.len()) as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((flags as u16).to_ne_bytes());
    // Sequence number and sender.
    bytes.extend([0; 8]);
    bytes.extend(payload);
    bytes
}
