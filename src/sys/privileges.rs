//! Privileges of this process: the daemon keeps what it works with, a worker nothing (capabilities(7)).

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;

/// What the daemon works with as long as it runs. Capabilities belong to threads; a thread begins with those of
/// the one that starts it.
const NEEDED: [Capability; 6] = [
    // Interfaces, addresses, routes, receive buffers.
    Capability::CAP_NET_ADMIN,
    // Raw and packet sockets.
    Capability::CAP_NET_RAW,
    // Frames of AF_XDP beyond RLIMIT_MEMLOCK, which all processes of a user share.
    Capability::CAP_IPC_LOCK,
    // Into the network namespace of a workload, setns(2), by the process that it belongs to, ptrace(2).
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_PTRACE,
    // Resources and namespaces' paths that belong to others.
    Capability::CAP_DAC_READ_SEARCH,
];

/// What loading a BPF program takes besides (`--ipip-offload bpf`).
const BPF: [Capability; 2] = [Capability::CAP_BPF, Capability::CAP_PERFMON];

/// Why a privilege could not be given up.
#[derive(Debug, thiserror::Error)]
#[error("privileges cannot be given up: {0}")]
pub struct PrivilegeError(String);

/// Keeps what the daemon needs, and what BPF does if it `loads_bpf`, of what the calling thread has. Nothing that the process may start later has more.
///
/// # Errors
/// The system refuses what it refuses to nobody: a seccomp filter that is too strict.
pub fn keep_needed(loads_bpf: bool) -> Result<(), PrivilegeError> {
    prctl::set_no_new_privs().map_err(|error| PrivilegeError(error.to_string()))?;
    let bpf: &[Capability] = if loads_bpf { &BPF } else { &[] };
    keep(&NEEDED.iter().chain(bpf).copied().collect())
}

/// Gives up every capability of the calling thread: what it may do is left in the descriptors that it has.
///
/// # Errors
/// As [`keep_needed`].
pub fn keep_none() -> Result<(), PrivilegeError> {
    keep(&CapsHashSet::new())
}

fn keep(wanted: &CapsHashSet) -> Result<(), PrivilegeError> {
    let refused = |error: caps::errors::CapsError| PrivilegeError(error.to_string());
    let held = caps::read(None, CapSet::Permitted).map_err(refused)?;
    let kept: CapsHashSet = held.intersection(wanted).copied().collect();
    // Inheritable first: it may not be left with what permitted has not, and no capability outlives exec.
    caps::clear(None, CapSet::Inheritable).map_err(refused)?;
    caps::set(None, CapSet::Effective, &kept).map_err(refused)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each in a thread of its own: capabilities are a thread's.
    fn in_a_thread<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(run).join().unwrap()
    }

    #[test]
    fn what_is_not_needed_goes_and_what_is_needed_stays() {
        let (before, after) = in_a_thread(|| {
            let held = || caps::read(None, CapSet::Effective).unwrap();
            let before = held();
            keep_needed(false).unwrap();
            (before, held())
        });
        let needed = CapsHashSet::from(NEEDED);
        assert_eq!(after, before.intersection(&needed).copied().collect());
    }

    #[test]
    fn a_worker_has_none_and_gets_none_back() {
        let (left, raised) = in_a_thread(|| {
            keep_none().unwrap();
            let left = caps::read(None, CapSet::Permitted).unwrap();
            (left, caps::raise(None, CapSet::Effective, Capability::CAP_NET_RAW).is_ok())
        });
        assert_eq!((left, raised), (CapsHashSet::new(), false));
    }
}
