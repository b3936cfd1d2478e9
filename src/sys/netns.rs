//! Network namespaces: opened, made, entered.
//!
//! Contract: the calling thread never changes its namespace. Whatever must happen inside one runs on a thread
//! of its own ([`Netns::run`]), because a thread that failed to return would poison everything it does later.
//! A namespace lives as long as a handle, a process or a socket holds it: dropping the last handle of an
//! anonymous one removes it with every interface in it, also when the process is killed.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, parent_id};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::{prctl, signal::Signal};

use super::door::{self, Door};
use super::netlink::{LinkChange, Netlink};

/// What can go wrong with a namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The path leads nowhere: the process that kept the namespace has ended. A workload that was removed
    /// between two looks gives this; it is not a fault.
    #[error("network namespace {0} is not there: its workload has ended, or has not begun")]
    Gone(PathBuf),
    /// The path leads to something else, or to a bind mount whose namespace was removed.
    #[error("{0} is not a network namespace: name one like /proc/PID/ns/net or /run/netns/NAME")]
    NotANamespace(PathBuf),
    /// EPERM or EACCES.
    #[error(
        "{operation}: not permitted: this needs CAP_SYS_ADMIN in the user namespace that owns the network \
         namespace; run as root, or with user namespaces"
    )]
    Permission {
        /// What was attempted, with the path.
        operation: String,
    },
    /// Anything else.
    #[error("{operation}: {source}")]
    Io {
        /// What was attempted, with the path.
        operation: String,
        /// The system's word on it.
        source: io::Error,
    },
}

impl NetnsError {
    fn new(operation: String, path: &Path, source: io::Error) -> Self {
        match source.raw_os_error() {
            // ESRCH: the process ended between finding its entry in /proc and following the link.
            Some(libc::ENOENT | libc::ESRCH | libc::ENOTDIR) => Self::Gone(path.to_owned()),
            Some(libc::EINVAL) => Self::NotANamespace(path.to_owned()),
            Some(libc::EPERM | libc::EACCES) => Self::Permission { operation },
            _ => Self::Io { operation, source },
        }
    }
}

/// A handle on a network namespace, which it keeps alive.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    /// For error messages: where it was found, or `(anonymous)`.
    name: PathBuf,
}

impl Netns {
    /// Opens the namespace that `path` names: `/proc/PID/ns/net`, `/proc/PID/fd/N`, `/run/netns/NAME`.
    ///
    /// # Errors
    /// [`NetnsError::Gone`] where nothing is there.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, NetnsError> {
        let path = path.as_ref();
        let file = File::open(path)
            .map_err(|e| NetnsError::new(format!("open network namespace {}", path.display()), path, e))?;
        Ok(Self { fd: file.into(), name: path.to_owned() })
    }

    /// The namespace of a process.
    ///
    /// # Errors
    /// [`NetnsError::Gone`] where the process does not exist.
    pub fn of_process(pid: u32) -> Result<Self, NetnsError> {
        Self::open(format!("/proc/{pid}/ns/net"))
    }

    /// The namespace in which the calling thread is.
    ///
    /// # Errors
    /// Only where `/proc` is not mounted.
    pub fn current() -> Result<Self, NetnsError> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// Makes a namespace without a name, `lo` up, nothing else in it.
    ///
    /// # Errors
    /// [`NetnsError::Permission`] without CAP_SYS_ADMIN.
    pub fn create() -> Result<Self, NetnsError> {
        let io = |operation: &str, source| {
            NetnsError::new(operation.into(), Path::new("(new network namespace)"), source)
        };
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|e| io("make a network namespace", e.into()))?;
            let mut made = Self::current()?;
            made.name = PathBuf::from("(anonymous network namespace)");
            Netlink::open()
                .and_then(|mut netlink| netlink.set_link("lo", &[LinkChange::Up]))
                .map_err(|e| io("bring up lo in a new network namespace", io::Error::other(e)))?;
            Ok(made)
        })
        .map_err(|e| io("start a thread", e))?
    }

    /// Runs `work` inside the namespace, on a thread made for it, and returns what it returns. What `work`
    /// opens there (sockets, TAPs) stays in this namespace and can be used from any thread afterwards.
    ///
    /// A namespace of a user namespace that this user made, but that the process is not in, cannot be entered: then
    /// `work` runs outside, and only [`Netlink::open`] and [`tun::open`](super::tun::open) work inside, by a child process.
    ///
    /// A panic of `work` goes on in the caller.
    ///
    /// # Errors
    /// The namespace could not be entered; `work` was not called.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        on_thread(|| match self.enter() {
            Ok(()) => Ok(work()),
            Err(NetnsError::Permission { operation }) => match Door::to(self.as_fd()) {
                Ok(door) => Ok(door::by(door, work)),
                Err(_) => Err(NetnsError::Permission { operation }),
            },
            Err(error) => Err(error),
        })
        .map_err(|e| NetnsError::new("start a thread".into(), &self.name, e))?
    }

    /// A [`Netlink`] client of this namespace, usable from any thread.
    ///
    /// # Errors
    /// As [`Netns::run`]; a socket that cannot be made is [`NetnsError::Io`].
    pub fn netlink(&self) -> Result<Netlink, NetnsError> {
        self.run(Netlink::open)?.map_err(|e| NetnsError::Io {
            operation: format!("open netlink in {}", self.name.display()),
            source: io::Error::other(e),
        })
    }

    /// Moves the calling thread, for good. For a thread that is to live there; everything else uses
    /// [`Netns::run`].
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN; EINVAL where the handle is not of a network namespace.
    pub fn enter(&self) -> Result<(), NetnsError> {
        setns(&self.fd, CloneFlags::CLONE_NEWNET).map_err(|e| {
            let operation = format!("enter network namespace {}", self.name.display());
            NetnsError::new(operation, &self.name, e.into())
        })
    }

    /// A command that will run inside the namespace and not outlive this process: the kernel kills it when
    /// the *thread* that spawns it ends (PR_SET_PDEATHSIG), so spawn it from one that lasts.
    ///
    /// # Errors
    /// EMFILE.
    pub fn command(&self, program: impl AsRef<Path>) -> Result<Command, NetnsError> {
        let netns = self.try_clone()?;
        let parent = std::process::id();
        let mut command = Command::new(program.as_ref());
        let prepare = move || {
            setns(&netns.fd, CloneFlags::CLONE_NEWNET)?;
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // It may have ended before the line above; then nobody will ever send the signal.
            if parent_id() == parent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
        };
        // SAFETY: between fork and exec only async-signal-safe functions may run: these are three system
        // calls, and an error is returned as a bare number, so nothing allocates or takes a lock.
        unsafe { command.pre_exec(prepare) };
        Ok(command)
    }

    /// A path by which this and other processes of the same user can open the namespace, as long as this
    /// process keeps the handle.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd()))
    }

    /// What tells one namespace from another: device and inode of its nsfs file.
    ///
    /// # Errors
    /// The handle cannot be examined; does not happen on Linux.
    pub fn id(&self) -> Result<(u64, u64), NetnsError> {
        let io = |e| NetnsError::new(format!("examine {}", self.name.display()), &self.name, e);
        let file = File::from(self.fd.try_clone().map_err(io)?);
        let metadata = file.metadata().map_err(io)?;
        Ok((metadata.dev(), metadata.ino()))
    }

    /// Another handle on the same namespace.
    ///
    /// # Errors
    /// EMFILE.
    pub fn try_clone(&self) -> Result<Self, NetnsError> {
        let fd = self.fd.try_clone().map_err(|e| {
            NetnsError::new(format!("duplicate the handle of {}", self.name.display()), &self.name, e)
        })?;
        Ok(Self { fd, name: self.name.clone() })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Runs `work` on a thread of its own and waits for it; only the start of the thread can fail here.
fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, work)?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_namespace_has_lo_up_and_nothing_else() {
        let netns = Netns::create().unwrap();
        let links = netns.netlink().unwrap().links().unwrap();
        // Kernels with tunnel modules built in add their fall-back devices (tunl0, sit0, …), all down.
        let up: Vec<_> = links.iter().filter(|l| l.up).map(|l| l.name.as_str()).collect();
        assert_eq!(up, ["lo"]);
    }

    #[test]
    fn work_runs_inside_and_the_caller_stays_where_it_was() {
        let before = Netns::current().unwrap().id().unwrap();
        let netns = Netns::create().unwrap();
        let inside = netns.run(|| Netns::current().unwrap().id().unwrap()).unwrap();
        assert_eq!(inside, netns.id().unwrap());
        assert_ne!(inside, before);
        assert_eq!(Netns::current().unwrap().id().unwrap(), before);
    }

    #[test]
    fn a_panic_inside_reaches_the_caller() {
        let netns = Netns::create().unwrap();
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| netns.run(|| panic!("seven"))));
        assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"seven"));
    }

    #[test]
    fn the_path_leads_others_to_the_same_namespace_until_the_handle_is_dropped() {
        let netns = Netns::create().unwrap();
        let path = netns.path();
        assert_eq!(Netns::open(&path).unwrap().id().unwrap(), netns.id().unwrap());
        let status = std::process::Command::new("test").arg("-e").arg(&path).status().unwrap();
        assert!(status.success(), "another process finds {}", path.display());
        assert!(matches!(Netns::open("/proc/self/fd/999999"), Err(NetnsError::Gone(_))));
    }

    #[test]
    fn a_command_runs_inside_and_its_failure_is_reported() {
        let netns = Netns::create().unwrap();
        let mut command = netns.command("readlink").unwrap();
        let output = command.arg("/proc/self/ns/net").output().unwrap();
        let inode = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert_eq!(inode, format!("net:[{}]", netns.id().unwrap().1));
    }

    #[test]
    fn a_command_dies_with_the_thread_that_spawned_it() {
        let netns = Netns::create().unwrap();
        let spawn = || netns.command("sleep").unwrap().arg("60").spawn().unwrap();
        let mut child = std::thread::scope(|scope| scope.spawn(spawn).join().unwrap());
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL));
    }

    #[test]
    fn what_is_gone_and_what_is_no_namespace_are_told_apart() {
        // Larger than any pid can be (2^22).
        assert!(matches!(Netns::of_process(u32::MAX), Err(NetnsError::Gone(_))));
        let file = Netns::open("/proc/self/status").unwrap();
        assert!(matches!(file.run(|| ()), Err(NetnsError::NotANamespace(_))));
        let other_kind = Netns::open("/proc/self/ns/uts").unwrap();
        assert!(matches!(other_kind.run(|| ()), Err(NetnsError::NotANamespace(_))));
    }
}
