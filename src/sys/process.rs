//! Processes: the end of one, as a descriptor; one that looks at something and is gone.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, alarm, fork, pipe2};

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

/// Runs `work` in a child process and returns what it wrote to the file that it is given. After `patience` the child is
/// killed, and what it wrote until then is the answer. Namespaces that it entered or made go with it.
///
/// # Errors
/// The calling process has more than one thread, or the system gives no process.
pub fn in_child(patience: Duration, work: impl FnOnce(File)) -> io::Result<Vec<u8>> {
    let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        return Err(io::Error::other("a process with more than one thread cannot be copied"));
    }
    let (ear, mouth) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: with one thread no lock is held by another, so the child may do whatever the parent may.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop(ear);
            // Should the parent be killed: alarm(2) ends a process that did not ask otherwise.
            alarm::set(patience.as_secs() as u32 + 1);
            let _ = catch_unwind(AssertUnwindSafe(|| work(File::from(mouth))));
            // SAFETY: ends the process at once; nothing of the parent's is flushed or dropped a second time.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            drop(mouth);
            let said = listen(ear.into(), Instant::now() + patience);
            // One that has ended is a zombie until it is waited for: its number is nobody else's.
            let _ = kill(child, Signal::SIGKILL);
            let _ = waitpid(child, None);
            said
        }
    }
}

/// All that comes until the other side is closed, or the time is over.
fn listen(mut ear: File, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(ear.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Ok(said),
            Ok(_) => match ear.read(&mut buffer)? {
                0 => return Ok(said),
                len => said.extend_from_slice(&buffer[..len]),
            },
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

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

    #[test]
    fn a_process_with_threads_is_not_copied() {
        let refused = std::thread::spawn(|| in_child(Duration::ZERO, |_| ())).join().unwrap();
        assert!(refused.unwrap_err().to_string().contains("more than one thread"));
    }
}
