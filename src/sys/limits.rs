//! Resource limits of this process.

use std::io;
use std::os::fd::AsFd;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit of open files to what the system allows: an endpoint takes one for each queue.
pub fn raise_open_files() {
    // A refusal shows later, with its reason, when a file cannot be opened.
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// What to do about [`crowded`].
pub const HOW_TO_RAISE: &str =
    "raise the limit (prlimit --nofile=LIMIT:LIMIT --pid PID; LimitNOFILE= in a systemd unit; ulimit -n)";
/// Descriptors that are open at a time while an endpoint is attached.
const ROOM: usize = 8;

/// The limit of open files, when it has no room for another endpoint, nor for a look at the system.
pub fn crowded() -> Option<u64> {
    let held: io::Result<Vec<_>> = (0..ROOM).map(|_| io::stderr().as_fd().try_clone_to_owned()).collect();
    match held {
        Err(error) if error.raw_os_error() == Some(libc::EMFILE) => {
            Some(getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft))
        }
        _ => None,
    }
}
