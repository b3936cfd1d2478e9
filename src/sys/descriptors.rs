//! Descriptors over a Unix socket (SCM_RIGHTS, unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Descriptors that one message takes (SCM_MAX_FD in the kernel's scm.h).
const MOST: usize = 253;

/// Sends descriptors, which stay open here. Each message has one byte beside them, which [`receive`] takes.
///
/// # Errors
/// The other end is gone, or does not read in time; ETOOMANYREFS when more are under way than this user may have open.
pub fn send(stream: &UnixStream, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    for some in descriptors.chunks(MOST) {
        let raw: Vec<RawFd> = some.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&[0])], &rights, MsgFlags::MSG_NOSIGNAL, None)?;
    }
    Ok(())
}

/// Receives `count` descriptors that [`send`] sent in one call.
///
/// # Errors
/// The other end is gone, or sends something else, or not in time; this process may not have so many open.
pub fn receive(stream: &UnixStream, count: usize) -> io::Result<Vec<OwnedFd>> {
    let mut received = Vec::with_capacity(count);
    while received.len() < count {
        let before = received.len();
        let (mut byte, mut space) = ([0], cmsg_space!([RawFd; MOST]));
        let mut slices = [IoSliceMut::new(&mut byte)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
        let is_cut = message.flags.contains(MsgFlags::MSG_CTRUNC);
        for control in message.cmsgs()? {
            let ControlMessageOwned::ScmRights(raw) = control else { continue };
            // SAFETY: descriptors that the kernel has just made for this message, and nobody else knows.
            received.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
        if is_cut {
            return Err(io::Error::other("too many open files: raise the limit (ulimit -n)"));
        }
        if received.len() == before {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(received)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    #[test]
    fn descriptors_arrive_in_order_and_lead_to_the_same_files() {
        let (near, far) = UnixStream::pair().unwrap();
        let pipes: Vec<_> = (0..300).map(|_| nix::unistd::pipe().unwrap()).collect();
        let ends: Vec<BorrowedFd<'_>> = pipes.iter().map(|(read, _)| read.as_fd()).collect();
        send(&near, &ends).unwrap();
        (&near).write_all(b"after").unwrap();
        let received = receive(&far, ends.len()).unwrap();
        assert_eq!(received.len(), 300);
        for ((number, (_, write)), read) in pipes.iter().enumerate().zip(received) {
            let mut write = File::from(write.try_clone().unwrap());
            write.write_all(&(number as u32).to_le_bytes()).unwrap();
            let mut bytes = [0; 4];
            File::from(read).read_exact(&mut bytes).unwrap();
            assert_eq!(u32::from_le_bytes(bytes), number as u32);
        }
        let mut rest = [0; 5];
        (&far).read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"after");
        drop(near);
        assert_eq!(receive(&far, 1).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
