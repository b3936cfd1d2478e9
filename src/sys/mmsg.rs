//! Many messages in one system call: recvmmsg(2) and sendmmsg(2).
//!
//! All memory that the calls need is allocated once, here; a batch allocates nothing.

use std::io::{self, IoSliceMut};
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Messages in one call.
pub const BATCH: usize = 64;

/// Room for one control message of up to 8 bytes of data, as `cmsghdr` wants to be aligned.
#[derive(Clone, Copy)]
#[repr(align(8))]
struct Control([u8; 32]);

/// An address as the kernel writes and reads it.
#[derive(Clone, Copy)]
#[repr(C)]
union Name {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

/// The buffers of batched calls on one socket.
pub struct Batch {
    headers: Box<[libc::mmsghdr]>,
    slices: Box<[[libc::iovec; 2]]>,
    names: Box<[Name]>,
    controls: Box<[Control]>,
}

// SAFETY: the raw pointers inside point into this value's own boxes, or at slices that were borrowed for
// the length of a call that is over; every call writes them anew before it uses them.
unsafe impl Send for Batch {}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").finish_non_exhaustive()
    }
}

impl Default for Batch {
    fn default() -> Self {
        // SAFETY: all zeros (null pointers, zero lengths, family 0) is valid for each of these C structs.
        unsafe {
            Batch {
                headers: vec![mem::zeroed(); BATCH].into_boxed_slice(),
                slices: vec![mem::zeroed(); BATCH].into_boxed_slice(),
                names: vec![mem::zeroed(); BATCH].into_boxed_slice(),
                controls: vec![mem::zeroed(); BATCH].into_boxed_slice(),
            }
        }
    }
}

/// What one received message was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes in the buffer.
    pub len: usize,
    /// The message was longer than the buffer.
    pub truncated: bool,
    /// Who sent it, on an IP socket.
    pub source: Option<SocketAddr>,
    /// TOS of its IP header, on a socket with `IP_RECVTOS`.
    pub tos: u8,
}

/// One message to send.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Destination, unless the socket is connected or bound to an interface.
    pub to: Option<SocketAddr>,
    /// First bytes.
    pub head: &'a [u8],
    /// The bytes after them.
    pub body: &'a [u8],
    /// TOS of its IP header if not zero: that of the socket otherwise.
    pub tos: u8,
}

impl Batch {
    /// Receives into `rooms`, without waiting; says how many messages came.
    ///
    /// # Errors
    /// Those of recvmmsg(2); `WouldBlock` when there is nothing.
    pub fn receive<'a>(
        &mut self,
        socket: BorrowedFd<'_>,
        rooms: impl Iterator<Item = IoSliceMut<'a>>,
    ) -> io::Result<usize> {
        let mut count = 0;
        for (index, mut room) in rooms.take(BATCH).enumerate() {
            self.slices[index][0] = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            // SAFETY: all zeros is a valid `mmsghdr`.
            let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
            header.msg_hdr.msg_name = (&raw mut self.names[index]).cast();
            header.msg_hdr.msg_namelen = mem::size_of::<Name>() as libc::socklen_t;
            header.msg_hdr.msg_iov = self.slices[index].as_mut_ptr();
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = (&raw mut self.controls[index]).cast();
            header.msg_hdr.msg_controllen = mem::size_of::<Control>() as _;
            self.headers[index] = header;
            count = index + 1;
        }
        // SAFETY: the first `count` headers point at names, controls and slices of `self`, all of the
        // lengths given, and at rooms that the caller lent for 'a, which outlives this call.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count as _,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        if received < 0 { Err(io::Error::last_os_error()) } else { Ok(received as usize) }
    }

    /// Message `index` of the last [`Self::receive`].
    pub fn received(&self, index: usize) -> Received {
        let header = &self.headers[index];
        Received {
            len: header.msg_len as usize,
            truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            source: self.names[index].address(header.msg_hdr.msg_namelen),
            tos: self.controls[index].tos(header.msg_hdr.msg_controllen),
        }
    }

    /// Sends up to [`BATCH`] messages, without waiting; says how many the kernel took.
    ///
    /// # Errors
    /// Those of sendmmsg(2) for the first message; an error of a later one is that of the next call.
    pub fn send<'a>(
        &mut self,
        socket: BorrowedFd<'_>,
        messages: impl Iterator<Item = Message<'a>>,
    ) -> io::Result<usize> {
        let mut count = 0;
        for (index, message) in messages.take(BATCH).enumerate() {
            // SAFETY: all zeros is a valid `mmsghdr`.
            let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
            self.slices[index] = [iovec(message.head), iovec(message.body)];
            header.msg_hdr.msg_iov = self.slices[index].as_mut_ptr();
            header.msg_hdr.msg_iovlen = if message.body.is_empty() { 1 } else { 2 };
            if let Some(to) = message.to {
                header.msg_hdr.msg_namelen = self.names[index].set(to);
                header.msg_hdr.msg_name = (&raw mut self.names[index]).cast();
            }
            if message.tos != 0 {
                header.msg_hdr.msg_controllen = self.controls[index].set_tos(message.tos) as _;
                header.msg_hdr.msg_control = (&raw mut self.controls[index]).cast();
            }
            self.headers[index] = header;
            count = index + 1;
        }
        // SAFETY: the first `count` headers point at names, controls and slices of `self`, all of the
        // lengths given, and at bytes that the caller lent for 'a, which outlives this call; the kernel
        // only reads them.
        let sent = unsafe {
            libc::sendmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), count as _, libc::MSG_DONTWAIT as _)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
    }
}

fn iovec(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

impl Name {
    fn address(&self, len: libc::socklen_t) -> Option<SocketAddr> {
        if (len as usize) < mem::size_of::<libc::sockaddr_in>() {
            return None;
        }
        // SAFETY: every bit pattern is valid for these fields, and the union is initialised as a whole.
        unsafe {
            match i32::from(self.family) {
                libc::AF_INET => {
                    let address = Ipv4Addr::from(self.v4.sin_addr.s_addr.to_ne_bytes());
                    Some(SocketAddr::new(IpAddr::V4(address), u16::from_be(self.v4.sin_port)))
                }
                libc::AF_INET6 if len as usize >= mem::size_of::<libc::sockaddr_in6>() => {
                    let address = Ipv6Addr::from(self.v6.sin6_addr.s6_addr);
                    Some(SocketAddr::new(IpAddr::V6(address), u16::from_be(self.v6.sin6_port)))
                }
                _ => None,
            }
        }
    }

    fn set(&mut self, address: SocketAddr) -> libc::socklen_t {
        let len = match address {
            SocketAddr::V4(address) => {
                self.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as _,
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                    sin_zero: [0; 8],
                };
                mem::size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(address) => {
                self.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as _,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                    sin6_scope_id: address.scope_id(),
                };
                mem::size_of::<libc::sockaddr_in6>()
            }
        };
        len as libc::socklen_t
    }
}

/// Length of a control message's header (16 on 64-bit): the data follows it.
const CONTROL_HEADER: usize = mem::size_of::<libc::cmsghdr>();

impl Control {
    /// The TOS byte of an `IP_TOS` message, zero without one.
    fn tos(&self, len: usize) -> u8 {
        let header = libc::cmsghdr { cmsg_len: (CONTROL_HEADER + 1) as _, ..ip_tos(1) };
        if len <= CONTROL_HEADER {
            return 0;
        }
        // SAFETY: `Control` is aligned for, and longer than, a `cmsghdr`, any bits of which are valid.
        let found: libc::cmsghdr = unsafe { std::ptr::read(self.0.as_ptr().cast()) };
        match (found.cmsg_level, found.cmsg_type) == (header.cmsg_level, header.cmsg_type) {
            true => self.0[CONTROL_HEADER],
            false => 0,
        }
    }

    fn set_tos(&mut self, tos: u8) -> usize {
        let header = ip_tos(mem::size_of::<libc::c_int>());
        // SAFETY: `Control` is aligned for, and longer than, a `cmsghdr`.
        unsafe { std::ptr::write(self.0.as_mut_ptr().cast(), header) };
        let value = libc::c_int::from(tos).to_ne_bytes();
        self.0[CONTROL_HEADER..CONTROL_HEADER + value.len()].copy_from_slice(&value);
        // CMSG_SPACE: the data padded to the alignment of the header.
        CONTROL_HEADER + mem::size_of::<usize>()
    }
}

fn ip_tos(data: usize) -> libc::cmsghdr {
    // SAFETY: all zeros is a valid `cmsghdr`.
    let mut header: libc::cmsghdr = unsafe { mem::zeroed() };
    header.cmsg_len = (CONTROL_HEADER + data) as _;
    header.cmsg_level = libc::IPPROTO_IP;
    header.cmsg_type = libc::IP_TOS;
    header
}

/// Waits until `socket` takes more, at most `milliseconds`.
pub fn wait_writable(socket: BorrowedFd<'_>, milliseconds: i32) -> bool {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: one `pollfd`, which lives on this stack.
    unsafe { libc::poll(&mut poll, 1, milliseconds) > 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    #[test]
    fn a_batch_arrives_with_sources_and_tos() {
        let to = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket2::SockRef::from(&to).set_recv_tos_v4(true).unwrap();
        let from = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = Some(to.local_addr().unwrap());
        let messages = [
            Message { to: address, head: b"one", body: b"", tos: 0 },
            Message { to: address, head: b"two ", body: b"parts", tos: 3 },
        ];
        let mut batch = Batch::default();
        assert_eq!(batch.send(from.as_fd(), messages.into_iter()).unwrap(), 2);

        let (mut a, mut b) = ([0; 64], [0; 6]);
        let rooms = [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)];
        assert_eq!(batch.receive(to.as_fd(), rooms.into_iter()).unwrap(), 2);
        let source = Some(from.local_addr().unwrap());
        assert_eq!(batch.received(0), Received { len: 3, truncated: false, source, tos: 0 });
        assert_eq!(batch.received(1), Received { len: 6, truncated: true, source, tos: 3 });
        assert_eq!((&a[..3], &b[..]), (&b"one"[..], &b"two pa"[..]));

        let mut c = [0; 8];
        let empty = batch.receive(to.as_fd(), std::iter::once(IoSliceMut::new(&mut c)));
        assert_eq!(empty.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
