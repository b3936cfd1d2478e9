//! A namespace that this process may not enter, though what is in it obeys its user: what has to be opened inside is
//! opened by a child process, and passed out.
//!
//! Whoever made a user namespace has all capabilities over it and its network namespaces (user_namespaces(7)), but
//! setns(2) into a network namespace asks for CAP_SYS_ADMIN in the caller's own user namespace too, and only a process with
//! one thread may change that. So a child is made, which enters both, opens one descriptor, sends it (unix(7),
//! `SCM_RIGHTS`) and ends. A TAP or a netlink socket belongs to the namespace in which it was opened, and to use it the
//! capabilities that the user has are enough.

use std::cell::RefCell;
use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::ptr;

use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair,
};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork, geteuid};

/// What can be opened inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// `/dev/net/tun`, non-blocking: an interface that is made with it is there.
    Tun,
    /// A socket of route netlink.
    RouteNetlink,
}

/// A network namespace, with the user namespace that it belongs to.
#[derive(Debug)]
pub(super) struct Door {
    user: OwnedFd,
    net: OwnedFd,
}

thread_local! {
    /// By which the calling thread opens what it asks for.
    static DOOR: RefCell<Option<Door>> = const { RefCell::new(None) };
}

// linux/nsfs.h: _IO(0xb7, 0x1), Linux 4.9; _IO(0xb7, 0x4), Linux 4.11.
const NS_GET_USERNS: libc::c_ulong = 0xb701;
const NS_GET_OWNER_UID: libc::c_ulong = 0xb704;
const TUN: &CStr = c"/dev/net/tun";

impl Door {
    /// Of a network namespace that belongs to a user namespace which this process's user made.
    ///
    /// # Errors
    /// EPERM where it does not.
    pub(super) fn to(net: BorrowedFd<'_>) -> io::Result<Door> {
        // SAFETY: takes no pointers.
        let user = unsafe { libc::ioctl(net.as_raw_fd(), NS_GET_USERNS as _) };
        if user < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that the kernel has just made, and nobody else knows.
        let user = unsafe { OwnedFd::from_raw_fd(user) };
        let mut owner: libc::uid_t = 0;
        // SAFETY: the request writes one `uid_t`, which lives on this stack.
        let asked = unsafe { libc::ioctl(user.as_raw_fd(), NS_GET_OWNER_UID as _, &raw mut owner) };
        if asked < 0 {
            return Err(io::Error::last_os_error());
        }
        let user = File::from(user);
        let [theirs, own] = [user.metadata()?, fs::metadata("/proc/self/ns/user")?];
        if owner != geteuid().as_raw() || theirs.ino() == own.ino() {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        Ok(Door { user: user.into(), net: net.try_clone_to_owned()? })
    }

    /// Opens it inside.
    ///
    /// # Errors
    /// Those of setns(2), open(2) and socket(2).
    fn fetch(&self, wanted: Wanted) -> io::Result<OwnedFd> {
        let (near, far) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        // SAFETY: this process has other threads, so the child makes system calls only: no allocation, no lock.
        match unsafe { fork() }? {
            ForkResult::Child => {
                let errno = match self.open_inside(wanted) {
                    Ok(descriptor) => send(far.as_raw_fd(), descriptor),
                    Err(errno) => errno,
                };
                // SAFETY: ends the process at once; nothing of the parent's is flushed or dropped a second time.
                unsafe { libc::_exit(errno) }
            }
            ForkResult::Parent { child } => {
                drop(far);
                let received = receive(near.as_raw_fd());
                match waitpid(child, None)? {
                    WaitStatus::Exited(_, 0) => received,
                    WaitStatus::Exited(_, errno) => Err(io::Error::from_raw_os_error(errno)),
                    _ => Err(io::ErrorKind::Interrupted.into()),
                }
            }
        }
    }

    /// In the child process: moves it inside, for good. The error is an error number.
    fn open_inside(&self, wanted: Wanted) -> Result<RawFd, i32> {
        let errno = || io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        let namespaces = [(&self.user, libc::CLONE_NEWUSER), (&self.net, libc::CLONE_NEWNET)];
        for (namespace, kind) in namespaces {
            // SAFETY: takes no pointers.
            if unsafe { libc::setns(namespace.as_raw_fd(), kind) } < 0 {
                return Err(errno());
            }
        }
        let opened = match wanted {
            // SAFETY: the path ends with a zero.
            Wanted::Tun => unsafe {
                libc::open(TUN.as_ptr(), libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC)
            },
            // SAFETY: takes no pointers.
            Wanted::RouteNetlink => unsafe {
                libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE)
            },
        };
        if opened < 0 { Err(errno()) } else { Ok(opened) }
    }
}

/// Has the calling thread open what it asks for by `door`, while `work` runs.
pub(super) fn by<T>(door: Door, work: impl FnOnce() -> T) -> T {
    DOOR.set(Some(door));
    let done = work();
    DOOR.take();
    done
}

/// Whether the calling thread is outside the namespace that it works in.
pub(super) fn is_used() -> bool {
    DOOR.with_borrow(Option::is_some)
}

/// What the calling thread's door gives; `None` without one.
pub(super) fn fetch(wanted: Wanted) -> Option<io::Result<OwnedFd>> {
    DOOR.with_borrow(|door| door.as_ref().map(|door| door.fetch(wanted)))
}

/// Room for the control message of one descriptor, aligned as its header.
#[repr(C, align(8))]
struct Control([u8; 32]);

/// Sends a descriptor with one byte; the answer is an error number, or 0.
fn send(to: RawFd, descriptor: RawFd) -> i32 {
    let mut byte = 0_u8;
    let mut control = Control([0; 32]);
    let mut iov = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // SAFETY: all zeros is a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    let len = mem::size_of::<RawFd>() as u32;
    // SAFETY: CMSG_SPACE computes; CMSG_FIRSTHDR finds the header at the start of `control`, which is aligned and has
    // room for it and one descriptor: 24 bytes of 32. sendmsg reads what lives on this stack.
    let sent = unsafe {
        message.msg_controllen = libc::CMSG_SPACE(len) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(len) as _;
        ptr::write_unaligned(libc::CMSG_DATA(header).cast(), descriptor);
        libc::sendmsg(to, &raw const message, libc::MSG_NOSIGNAL)
    };
    if sent == 1 { 0 } else { io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) }
}

/// The descriptor that [`send`] sent.
fn receive(from: RawFd) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let mut iov = [IoSliceMut::new(&mut byte)];
    let mut control = cmsg_space!(RawFd);
    let message = recvmsg::<()>(from, &mut iov, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for message in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = message
            && let Some(descriptor) = descriptors.first()
        {
            // SAFETY: the kernel has just given it to this process, and nobody else knows it. There is one at most.
            return Ok(unsafe { OwnedFd::from_raw_fd(*descriptor) });
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}
