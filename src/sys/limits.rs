//! Resource limits of this process.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit of open files to what the system allows: an endpoint takes one for each queue.
pub fn raise_open_files() {
    // A refusal shows later, with its reason, when a file cannot be opened.
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
