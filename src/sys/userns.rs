//! User namespaces: root over namespaces of one's own, without being root.

use std::fs;
use std::io;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

/// The process could not become root in a namespace of its own.
#[derive(Debug, thiserror::Error)]
#[error(
    "{step}: {source}: this system does not let unprivileged users make namespaces; run as root, or see \
     user_namespaces(7) (kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)"
)]
pub struct UsernsError {
    step: &'static str,
    source: io::Error,
}

/// Moves the process into a new user and network namespace in which it is root. Files, devices and signals
/// outside keep seeing the user it was.
///
/// # Errors
/// The system forbids it, or the process has more than one thread (EINVAL).
pub fn become_root() -> Result<(), UsernsError> {
    let (user, group) = (geteuid(), getegid());
    let during = |step| move |source: io::Error| UsernsError { step, source };
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)
        .map_err(|e| during("make a user namespace")(e.into()))?;
    // user_namespaces(7): an unprivileged writer may map itself alone, and its group only without setgroups.
    fs::write("/proc/self/setgroups", "deny").map_err(during("write /proc/self/setgroups"))?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1")).map_err(during("write /proc/self/uid_map"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1")).map_err(during("write /proc/self/gid_map"))
}
