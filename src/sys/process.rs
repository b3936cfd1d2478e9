//! Processes: the end of one, as a descriptor.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// A descriptor that becomes readable when process `pid` ends; pidfd_open(2), Linux 5.3.
///
/// # Errors
/// ESRCH where there is none; ENOSYS.
pub fn end_of(pid: libc::pid_t) -> io::Result<OwnedFd> {
    // SAFETY: two integers; nothing of ours is touched.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that the kernel has just made, and nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::process::{Command, Stdio};

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    #[test]
    fn the_end_of_a_process_can_be_waited_for() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let end = end_of(child.id().cast_signed()).unwrap();
        let mut polled = [PollFd::new(end.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut polled, PollTimeout::ZERO).unwrap(), 0, "it runs");
        drop(child.stdin.take());
        assert_eq!(poll(&mut polled, PollTimeout::NONE).unwrap(), 1);
        child.wait().unwrap();
        assert_eq!(end_of(-1).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
