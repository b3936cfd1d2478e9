//! What the service manager is told, where there is one (sd_notify(3)): that the daemon is ready, reads its resources
//! again, stops, and that it is alive.

use std::io;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::agent::{Agent, Refused, Remote};

/// Ready; `is_main` for a daemon that the manager did not start, and which is the service's process from now on.
pub(super) fn ready(agent: &Agent, is_main: bool) {
    let status = format!("{} endpoints attached", agent.endpoints());
    let mut states = vec![NotifyState::Ready, NotifyState::Status(&status)];
    if is_main {
        states.push(NotifyState::MainPid(std::process::id()));
    }
    tell(&states);
}

/// Reads the resources again, between two words about it. What is wrong with them is logged.
pub(super) fn reload(remote: &Remote) {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "the service manager is not told of the reload"),
    }
    let read = remote.ask(Agent::reload, |_| tell(&[NotifyState::Ready]));
    if let Err(error) = read {
        tell(&[NotifyState::Ready]);
        tracing::warn!(%error, "the resources are not read again");
    }
}

/// Stopping.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// How long the manager waits for a sign of life, if it does.
pub(super) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// Tells the manager that the daemon is alive twice in `limit`: only the agent tells it, and only when every worker has
/// turned for it.
///
/// # Errors
/// The system gives no thread.
pub(super) fn live(remote: Remote, limit: Duration) -> io::Result<()> {
    std::thread::Builder::new().name("margay-watchdog".into()).spawn(move || {
        let alive = |is_alive| {
            if is_alive {
                tell(&[NotifyState::Watchdog]);
            }
        };
        while remote.ask(|agent| agent.is_alive(), alive) != Err(Refused::Ending) {
            std::thread::sleep(limit / 2);
        }
    })?;
    Ok(())
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager does not listen (NOTIFY_SOCKET)");
    }
}
