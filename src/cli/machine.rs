//! What this machine allows those commands that build nodes and pods, and how such a command ends when it is
//! told to.

use std::fs::{self, OpenOptions};
use std::io;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::rib::Attach;
use crate::sys::userns::{self, UsernsError};
use crate::testbed::Workdir;

const TUN: &str = "/dev/net/tun";

/// What `--attach` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachArg {
    /// TAP where /dev/net/tun can be opened, else veth
    Auto,
    /// TAP
    Tap,
    /// Veth
    Veth,
}

/// The machine does not allow what is needed.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Neither root nor a user namespace.
    #[error(transparent)]
    Privilege(#[from] UsernsError),
    /// `/dev/net/tun` is closed.
    #[error("{TUN} cannot be opened ({0}), so there can be no TAP: run as root, or use --attach veth")]
    Tun(#[source] io::Error),
}

/// How nodes and pods are made here.
pub(super) struct Machine {
    /// How pods are attached.
    pub(super) attach: Attach,
    /// What the daemons are told besides node and files.
    pub(super) arguments: &'static [&'static str],
    /// What the reader should know about it.
    pub(super) remarks: Vec<String>,
}

impl Machine {
    /// Gets the privileges, in a user namespace if need be, which only a process with one thread can do; and
    /// looks at what there is.
    pub(super) fn prepare(attach: AttachArg) -> Result<Self, MachineError> {
        let mut remarks = Vec::new();
        if !may_make_namespaces() {
            userns::become_root()?;
            remarks.push("Not root: everything runs in a user namespace of its own.".into());
        }
        let tun = OpenOptions::new().read(true).write(true).open(TUN);
        let (attach, arguments): (_, &[&str]) = match (attach, tun) {
            (AttachArg::Tap, Err(e)) => return Err(MachineError::Tun(e)),
            (AttachArg::Auto, Err(e)) => {
                remarks.push(format!(
                    "{TUN} cannot be opened ({e}): pods are attached by veth, and there is no interface \
                     margay0 to the host."
                ));
                (Attach::Veth, &["--host-interface", "none"])
            }
            (AttachArg::Veth, Err(_)) => (Attach::Veth, &["--host-interface", "none"]),
            (AttachArg::Veth, Ok(_)) => (Attach::Veth, &[]),
            (AttachArg::Tap | AttachArg::Auto, Ok(_)) => (Attach::Tap, &[]),
        };
        Ok(Self { attach, arguments, remarks })
    }
}

/// True with CAP_SYS_ADMIN, which root may lack in a container.
fn may_make_namespaces() -> bool {
    const CAP_SYS_ADMIN: u32 = 21;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|capabilities| capabilities >> CAP_SYS_ADMIN & 1 == 1)
}

/// Ends the process at once on Ctrl-C and its like. The kernel kills the daemons with it, and with the last
/// handle the namespaces go; only the directory of files has to be removed.
pub(super) fn end_on_signals(command: &'static str) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            Workdir::remove_all();
            eprintln!("\nmargay {command}: stopped; nothing is left behind");
            // As a shell reports a process that a signal ended.
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}
