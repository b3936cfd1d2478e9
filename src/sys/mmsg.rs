//! Many messages in one system call: recvmmsg(2) and sendmmsg(2).
//!
//! All memory that the calls need is allocated once, here; a batch allocates nothing.

use std::io::{self, IoSliceMut};
use std::marker::PhantomData;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Messages in one call.
pub const BATCH: usize = 64;
/// Slices of all messages of one call together.
const SLICES: usize = 1024;
/// Bytes of all messages' heads of one call together.
const HEADS: usize = 32 << 10;

/// Room for two control messages of up to 8 bytes of data each, as `cmsghdr` wants to be aligned.
#[derive(Clone, Copy)]
#[repr(align(8))]
struct Control([u8; 64]);

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
    slices: Box<[libc::iovec]>,
    names: Box<[Name]>,
    controls: Box<[Control]>,
    heads: Box<[u8]>,
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
                slices: vec![mem::zeroed(); SLICES].into_boxed_slice(),
                names: vec![mem::zeroed(); BATCH].into_boxed_slice(),
                controls: vec![mem::zeroed(); BATCH].into_boxed_slice(),
                heads: vec![0; HEADS].into_boxed_slice(),
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
    /// TOS or traffic class of its IP header, on a socket with `IP_RECVTOS` or `IPV6_RECVTCLASS`.
    pub tos: u8,
    /// It is several datagrams of this many bytes, the last one perhaps shorter: on a socket with `UDP_GRO`.
    pub segment: Option<u16>,
}

/// The envelope of a message to send.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Envelope {
    /// Destination, unless the socket is connected or bound to an interface.
    pub to: Option<SocketAddr>,
    /// TOS or traffic class of its IP header, by the version of `to`, if not zero: that of the socket otherwise.
    pub tos: u8,
    /// The kernel cuts it into datagrams of this many bytes (`UDP_SEGMENT`).
    pub segment: Option<u16>,
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
            self.slices[index] = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            // SAFETY: all zeros is a valid `mmsghdr`.
            let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
            header.msg_hdr.msg_name = (&raw mut self.names[index]).cast();
            header.msg_hdr.msg_namelen = mem::size_of::<Name>() as libc::socklen_t;
            header.msg_hdr.msg_iov = &raw mut self.slices[index];
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
        let (tos, segment) = self.controls[index].read(header.msg_hdr.msg_controllen as _);
        Received {
            len: header.msg_len as usize,
            truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            source: self.names[index].address(header.msg_hdr.msg_namelen),
            tos,
            segment,
        }
    }

    /// An empty outbox over these buffers.
    pub fn outbox<'a>(&mut self) -> Outbox<'_, 'a> {
        Outbox { batch: self, messages: 0, slices: 0, heads: 0, bodies: PhantomData }
    }
}

/// Messages that one system call is to send, each of any number of slices: heads, which are written here, and
/// bodies, which stay where they are.
#[derive(Debug)]
pub struct Outbox<'b, 'a> {
    batch: &'b mut Batch,
    messages: usize,
    slices: usize,
    heads: usize,
    bodies: PhantomData<&'a [u8]>,
}

impl<'a> Outbox<'_, 'a> {
    /// How many messages it holds.
    pub fn len(&self) -> usize {
        self.messages
    }

    /// True when it holds none.
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Whether it takes another message of so many slices and bytes of heads. An empty one takes
    /// [`BATCH`] slices of 256 bytes each and twice as many bodies.
    pub fn has_room(&self, slices: usize, heads: usize) -> bool {
        self.messages < BATCH && self.slices + slices <= SLICES && self.heads + heads <= HEADS
    }

    /// Begins a message: the heads and bodies that follow are its bytes.
    ///
    /// # Panics
    /// Without room for it, as the next two.
    pub fn begin(&mut self, envelope: Envelope) {
        let index = self.messages;
        // SAFETY: all zeros is a valid `mmsghdr`.
        let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
        header.msg_hdr.msg_iov = self.batch.slices[self.slices..].as_mut_ptr();
        if let Some(to) = envelope.to {
            header.msg_hdr.msg_namelen = self.batch.names[index].set(to);
            header.msg_hdr.msg_name = (&raw mut self.batch.names[index]).cast();
        }
        let len = self.batch.controls[index].write(envelope);
        if len > 0 {
            header.msg_hdr.msg_controllen = len as _;
            header.msg_hdr.msg_control = (&raw mut self.batch.controls[index]).cast();
        }
        self.batch.headers[index] = header;
        self.messages += 1;
    }

    /// Appends `len` bytes to the last message, for the caller to write.
    pub fn head(&mut self, len: usize) -> &mut [u8] {
        let range = self.heads..self.heads + len;
        self.heads = range.end;
        let head = &raw mut self.batch.heads[range.clone()];
        self.slice(libc::iovec { iov_base: head.cast(), iov_len: len });
        &mut self.batch.heads[range]
    }

    /// Appends bytes to the last message.
    pub fn body(&mut self, bytes: &'a [u8]) {
        self.slice(iovec(bytes));
    }

    fn slice(&mut self, slice: libc::iovec) {
        assert!(self.messages > 0, "a slice belongs to a message");
        self.batch.slices[self.slices] = slice;
        self.slices += 1;
        self.batch.headers[self.messages - 1].msg_hdr.msg_iovlen += 1;
    }

    /// Sends message `first` and those after it, without waiting; says how many the kernel took.
    ///
    /// # Errors
    /// Those of sendmmsg(2) for message `first`; an error of a later one is that of the next call.
    pub fn send(&mut self, socket: BorrowedFd<'_>, first: usize) -> io::Result<usize> {
        let headers = &mut self.batch.headers[first..self.messages];
        // SAFETY: the headers point at names, controls, heads and slices of `batch`, all of the lengths given
        // (`begin`, `head` and `slice` take them by checked indexes, and the boxes never move or shrink), and
        // at bytes that the caller lent for 'a, which outlives `self`; the kernel only reads them.
        let sent = unsafe {
            let flags = libc::MSG_DONTWAIT;
            libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), headers.len() as _, flags as _)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
    }

    /// Sends what message `index` holds as datagrams of their own, `slices` slices each, without waiting, until
    /// the kernel refuses one; says how many it took.
    ///
    /// # Errors
    /// Those of sendmsg(2) for datagram `first`.
    pub fn send_apart(
        &mut self,
        socket: BorrowedFd<'_>,
        index: usize,
        slices: usize,
        first: usize,
    ) -> io::Result<usize> {
        let whole = self.batch.headers[..self.messages][index].msg_hdr;
        // The C libraries differ in the field's type.
        let of_whole: usize = whole.msg_iovlen as _;
        let datagrams = of_whole.div_ceil(slices.max(1));
        let mut sent = 0;
        for datagram in first..datagrams {
            let start = datagram * slices;
            let mut header = whole;
            // SAFETY: `start` is below `msg_iovlen`, so the pointer stays within the message's slices.
            header.msg_iov = unsafe { whole.msg_iov.add(start) };
            header.msg_iovlen = slices.min(of_whole - start) as _;
            header.msg_controllen =
                self.batch.controls[index].without_segment(whole.msg_controllen as _) as _;
            // SAFETY: as in `send`; the slices are a part of those of that message.
            let done = unsafe { libc::sendmsg(socket.as_raw_fd(), &header, libc::MSG_DONTWAIT) };
            match (done, sent) {
                (0.., _) => sent += 1,
                (_, 0) => return Err(io::Error::last_os_error()),
                _ => break,
            }
        }
        Ok(sent)
    }

    /// Empties it.
    pub fn clear(&mut self) {
        (self.messages, self.slices, self.heads) = (0, 0, 0);
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
/// `CMSG_SPACE` of up to 8 bytes of data.
const CONTROL_SPACE: usize = CONTROL_HEADER + 8;
const _: () = assert!(2 * CONTROL_SPACE <= mem::size_of::<Control>());

impl Control {
    /// TOS or traffic class (zero without one) and segment size from what the kernel wrote.
    fn read(&self, len: usize) -> (u8, Option<u16>) {
        let (mut tos, mut segment) = (0, None);
        let mut at = 0;
        while at + CONTROL_HEADER <= len.min(self.0.len()) {
            // SAFETY: a whole `cmsghdr` lies at `at`, a multiple of 8, as `Control` is aligned; any bits are valid.
            let found: libc::cmsghdr = unsafe { std::ptr::read(self.0.as_ptr().add(at).cast()) };
            let data = &self.0[at + CONTROL_HEADER..];
            match (found.cmsg_level, found.cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_TOS) => tos = data.first().copied().unwrap_or(0),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    tos = data.first_chunk().map_or(0, |class| i32::from_ne_bytes(*class) as u8);
                }
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let size = data.first_chunk().map_or(0, |size| i32::from_ne_bytes(*size));
                    segment = u16::try_from(size).ok().filter(|size| *size > 0);
                }
                _ => {}
            }
            at += (found.cmsg_len as usize).max(CONTROL_HEADER).next_multiple_of(8);
        }
        (tos, segment)
    }

    /// Writes what `envelope` asks for, the segment size last; says how long that is.
    fn write(&mut self, envelope: Envelope) -> usize {
        let mut at = 0;
        if envelope.tos != 0 {
            let kind = match envelope.to {
                Some(SocketAddr::V6(_)) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
                _ => (libc::IPPROTO_IP, libc::IP_TOS),
            };
            at = self.put(at, kind, &i32::from(envelope.tos).to_ne_bytes());
        }
        if let Some(segment) = envelope.segment {
            at = self.put(at, (libc::SOL_UDP, libc::UDP_SEGMENT), &segment.to_ne_bytes());
        }
        at
    }

    fn put(&mut self, at: usize, (level, kind): (i32, i32), data: &[u8]) -> usize {
        // SAFETY: all zeros is a valid `cmsghdr`.
        let mut header: libc::cmsghdr = unsafe { mem::zeroed() };
        header.cmsg_len = (CONTROL_HEADER + data.len()) as _;
        (header.cmsg_level, header.cmsg_type) = (level, kind);
        let out = &mut self.0[at..at + CONTROL_SPACE];
        // SAFETY: `out` is longer than a `cmsghdr` and starts at 0 or `CONTROL_SPACE`, both aligned for one.
        unsafe { std::ptr::write(out.as_mut_ptr().cast(), header) };
        out[CONTROL_HEADER..CONTROL_HEADER + data.len()].copy_from_slice(data);
        at + CONTROL_SPACE
    }

    /// Length of what [`Self::write`] wrote without the segment size.
    fn without_segment(&self, len: usize) -> usize {
        let last = len.saturating_sub(CONTROL_SPACE);
        // SAFETY: a whole `cmsghdr` lies at 0 and at `CONTROL_SPACE`, both aligned; any bits are valid.
        let found: libc::cmsghdr = unsafe { std::ptr::read(self.0.as_ptr().add(last).cast()) };
        match (found.cmsg_level, found.cmsg_type) == (libc::SOL_UDP, libc::UDP_SEGMENT) {
            true => last,
            false => len,
        }
    }
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

    const LOOPBACKS: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];

    fn pair(loopback: &str) -> (UdpSocket, UdpSocket, Option<SocketAddr>) {
        let to = UdpSocket::bind(loopback).unwrap();
        let options = socket2::SockRef::from(&to);
        match to.local_addr().unwrap() {
            SocketAddr::V4(_) => options.set_recv_tos_v4(true).unwrap(),
            SocketAddr::V6(_) => options.set_recv_tclass_v6(true).unwrap(),
        }
        let from = UdpSocket::bind(loopback).unwrap();
        let address = to.local_addr().unwrap();
        (to, from, Some(address))
    }

    #[test]
    fn a_batch_arrives_with_sources_and_tos() {
        LOOPBACKS.iter().for_each(|loopback| arrives_over(loopback));
    }

    fn arrives_over(loopback: &str) {
        let (receiver, from, to) = pair(loopback);
        let mut batch = Batch::default();
        let mut outbox = batch.outbox();
        outbox.begin(Envelope { to, ..Envelope::default() });
        outbox.body(b"one");
        outbox.begin(Envelope { to, tos: 3, segment: None });
        outbox.head(4).copy_from_slice(b"two ");
        outbox.body(b"par");
        outbox.body(b"ts");
        assert_eq!(outbox.send(from.as_fd(), 0).unwrap(), 2);

        let (mut a, mut b) = ([0; 64], [0; 6]);
        let rooms = [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)];
        assert_eq!(batch.receive(receiver.as_fd(), rooms.into_iter()).unwrap(), 2);
        let source = Some(from.local_addr().unwrap());
        let first = Received { len: 3, truncated: false, source, tos: 0, segment: None };
        assert_eq!(batch.received(0), first);
        assert_eq!(batch.received(1), Received { len: 6, truncated: true, tos: 3, ..first });
        assert_eq!((&a[..3], &b[..]), (&b"one"[..], &b"two pa"[..]));

        let mut c = [0; 8];
        let empty = batch.receive(receiver.as_fd(), std::iter::once(IoSliceMut::new(&mut c)));
        assert_eq!(empty.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn the_kernel_cuts_and_joins_datagrams() {
        LOOPBACKS.iter().for_each(|loopback| cuts_and_joins_over(loopback));
    }

    fn cuts_and_joins_over(loopback: &str) {
        let (receiver, from, to) = pair(loopback);
        let mut batch = Batch::default();
        for gro in [false, true] {
            let mut outbox = batch.outbox();
            outbox.begin(Envelope { to, tos: 1, segment: Some(4) });
            outbox.body(b"1111");
            outbox.head(4).copy_from_slice(b"2222");
            outbox.body(b"33");
            assert_eq!(outbox.send(from.as_fd(), 0).unwrap(), 1);
            let mut rooms = [[0; 16]; 3];
            let slices = rooms.iter_mut().map(|room| IoSliceMut::new(room));
            let count = batch.receive(receiver.as_fd(), slices).unwrap();
            let received: Vec<_> = (0..count).map(|index| batch.received(index)).collect();
            assert!(received.iter().all(|message| message.tos == 1));
            match gro {
                false => assert_eq!(
                    received.iter().map(|m| (m.len, m.segment)).collect::<Vec<_>>(),
                    [(4, None), (4, None), (2, None)]
                ),
                true => {
                    assert_eq!((count, received[0].len, received[0].segment), (1, 10, Some(4)));
                    assert_eq!(rooms[0][..10], *b"1111222233");
                }
            }
            crate::sys::socket::receive_joined(&socket2::SockRef::from(&receiver)).unwrap();
        }
    }

    #[test]
    fn a_message_can_be_sent_apart() {
        LOOPBACKS.iter().for_each(|loopback| sent_apart_over(loopback));
    }

    fn sent_apart_over(loopback: &str) {
        let (receiver, from, to) = pair(loopback);
        let mut batch = Batch::default();
        let mut outbox = batch.outbox();
        outbox.begin(Envelope { to, tos: 1, segment: Some(2) });
        for (head, body) in [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")] {
            outbox.head(1).copy_from_slice(head);
            outbox.body(body);
        }
        assert_eq!(outbox.send_apart(from.as_fd(), 0, 2, 1).unwrap(), 2);
        let mut rooms = [[0; 16]; 3];
        let slices = rooms.iter_mut().map(|room| IoSliceMut::new(room));
        assert_eq!(batch.receive(receiver.as_fd(), slices).unwrap(), 2);
        assert_eq!((batch.received(0).tos, &rooms[0][..2], &rooms[1][..2]), (1, &b"b2"[..], &b"c3"[..]));
    }
}
