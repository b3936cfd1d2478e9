//! What tells the agent that the machine around it has changed, so that it need not look again and again.
//!
//! | of what | told by |
//! |---|---|
//! | the node's links and their addresses | route netlink |
//! | its IPsec policies | XFRM netlink |
//! | a path to a workload's namespace that is a link or a file | inotify, on its directory |
//! | one that leads to a process, `/proc/PID/…` | the process's end |
//! | one where the namespace is mounted, as in `/run/netns` | `/proc/self/mountinfo` |
//!
//! A notice says that something may have changed, never what: that is found by looking. What no notice tells (a
//! process that enters another namespace, a directory above that is renamed) the agent's own regular look finds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use crate::sys::ipsec::Policies;
use crate::sys::netlink::{Monitor, Topic};
use crate::sys::process;

/// Time between two notices at least: what comes in a burst is looked at together.
const QUIET: Duration = Duration::from_millis(50);
/// Links that a path is followed through at most, as the kernel does (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

const STOP: Token = Token(0);
const CHANGE: Token = Token(1);

/// What is told, until dropped.
pub(super) struct Notices {
    told: Receiver<()>,
    registry: Registry,
    inotify: Option<Arc<Inotify>>,
    watched: BTreeMap<Source, Watched>,
    /// Nothing was missing at the start.
    hears: bool,
    /// Each place can be watched.
    sees: bool,
    waker: Waker,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What tells of a change of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Directory(PathBuf),
    Process(i32),
    /// Nothing does.
    Nothing,
}

enum Watched {
    Directory(WatchDescriptor),
    /// Registered as long as it is open.
    Process {
        _end: OwnedFd,
    },
}

/// What the thread reads.
struct Ears {
    poll: Poll,
    monitor: Option<Monitor>,
    policies: Option<Policies>,
    inotify: Option<Arc<Inotify>>,
    /// Its changes need no reading, it only has to be open.
    _mounts: Option<File>,
}

impl Notices {
    /// Listens from now on, in the namespace of the calling thread. What the system does not tell is no error: see
    /// [`Self::is_complete`].
    ///
    /// # Errors
    /// The system gives no thread, epoll instance or eventfd.
    pub(super) fn start() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), STOP)?;
        let registry = poll.registry().try_clone()?;
        let listen = |fd: RawFd, interest| registry.register(&mut SourceFd(&fd), CHANGE, interest);

        let monitor = Monitor::open(&[Topic::Links, Topic::Addresses]).map_err(io::Error::other);
        let monitor = monitor.and_then(|monitor| {
            listen(monitor.as_raw_fd(), Interest::READABLE)?;
            Ok(monitor)
        });
        let policies = match Policies::listen() {
            // Who may not hear of policies may not ask for them either: nothing depends on them.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
            other => other,
        };
        let policies = policies.and_then(|policies| {
            policies.as_ref().map_or(Ok(()), |policies| listen(policies.as_raw_fd(), Interest::READABLE))?;
            Ok(policies)
        });
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).map_err(io::Error::from);
        let inotify = inotify.and_then(|inotify| {
            listen(inotify.as_fd().as_raw_fd(), Interest::READABLE)?;
            Ok(Arc::new(inotify))
        });
        let mounts = File::open("/proc/self/mountinfo").and_then(|mounts| {
            listen(mounts.as_raw_fd(), Interest::PRIORITY)?;
            Ok(mounts)
        });
        let silent = [
            ("links and addresses", monitor.as_ref().err()),
            ("IPsec policies", policies.as_ref().err()),
            ("files", inotify.as_ref().err()),
            ("mounts", mounts.as_ref().err()),
        ];
        for (what, error) in silent.iter().filter_map(|(what, error)| Some((what, error.as_ref()?))) {
            tracing::info!(%what, %error, "the system does not tell of changes: they are looked for every second");
        }
        let hears = silent.iter().all(|(_, error)| error.is_none());

        let inotify = inotify.ok();
        let mut ears = Ears {
            poll,
            monitor: monitor.ok(),
            policies: policies.ok().flatten(),
            inotify: inotify.clone(),
            _mounts: mounts.ok(),
        };
        let (tell, told) = bounded(1);
        let (stop, stopped) = bounded(0);
        let thread = std::thread::Builder::new()
            .name("margay-notices".into())
            .spawn(move || ears.listen(&tell, &stopped))?;
        let (stop, thread) = (Some(stop), Some(thread));
        Ok(Notices {
            told,
            registry,
            inotify,
            watched: BTreeMap::new(),
            hears,
            sees: true,
            waker,
            stop,
            thread,
        })
    }

    /// Where notices come. One that nobody has taken yet stands for all that follow it.
    pub(super) fn told(&self) -> &Receiver<()> {
        &self.told
    }

    /// Whether every change is told that can be.
    pub(super) fn is_complete(&self) -> bool {
        self.hears && self.sees
    }

    /// Watches the places that these paths lead through, and no others. What happened before is not told.
    pub(super) fn follow<'a>(&mut self, paths: impl Iterator<Item = &'a Path>) {
        let wanted: BTreeSet<Source> = paths.flat_map(sources).collect();
        let old = std::mem::take(&mut self.watched);
        self.sees = true;
        for source in wanted {
            match (self.watch(&source), &source) {
                (Ok(watched), _) => {
                    self.watched.insert(source, watched);
                }
                // It has gone, and whoever looks next finds that.
                (Err(error), Source::Directory(_)) if error.kind() == io::ErrorKind::NotFound => {}
                (Err(error), Source::Process(_)) if error.raw_os_error() == Some(libc::ESRCH) => {}
                (Err(error), _) => {
                    tracing::debug!(?source, %error, "cannot be watched, is looked at every second");
                    self.sees = false;
                }
            }
        }
        let Some(inotify) = &self.inotify else { return };
        let kept: Vec<WatchDescriptor> = self.watched.values().filter_map(Watched::directory).collect();
        for watch in old.values().filter_map(Watched::directory).filter(|old| !kept.contains(old)) {
            // The kernel has removed that of a directory that has gone.
            let _ = inotify.rm_watch(watch);
        }
    }

    /// A directory that is watched already gives the same descriptor again, whatever the path.
    fn watch(&self, source: &Source) -> io::Result<Watched> {
        match source {
            Source::Directory(path) => {
                let inotify = self.inotify.as_ref().ok_or(io::ErrorKind::Unsupported)?;
                let watch = inotify.add_watch(
                    path,
                    AddWatchFlags::IN_CREATE
                        | AddWatchFlags::IN_DELETE
                        | AddWatchFlags::IN_MOVE
                        | AddWatchFlags::IN_DELETE_SELF
                        | AddWatchFlags::IN_MOVE_SELF
                        | AddWatchFlags::IN_ONLYDIR,
                )?;
                Ok(Watched::Directory(watch))
            }
            Source::Process(pid) => {
                let end = process::end_of(*pid)?;
                self.registry.register(&mut SourceFd(&end.as_raw_fd()), CHANGE, Interest::READABLE)?;
                Ok(Watched::Process { _end: end })
            }
            Source::Nothing => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Drop for Notices {
    fn drop(&mut self) {
        // The thread ends when its stop channel closes.
        self.stop = None;
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Watched {
    fn directory(&self) -> Option<WatchDescriptor> {
        match self {
            Watched::Directory(watch) => Some(*watch),
            Watched::Process { .. } => None,
        }
    }
}

impl Ears {
    fn listen(&mut self, tell: &Sender<()>, stopped: &Receiver<()>) {
        let mut events = Events::with_capacity(64);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return tracing::error!(%error, "changes of the machine are no longer told");
                }
                _ => {}
            }
            // Each event is told once; so that there is a next one, what came is read.
            if let Some(monitor) = &mut self.monitor {
                let _ = monitor.drain();
            }
            if let Some(policies) = &mut self.policies {
                policies.drain();
            }
            if let Some(inotify) = &self.inotify {
                while matches!(inotify.read_events(), Ok(_) | Err(Errno::EINTR)) {}
            }
            // Full means that a notice waits already.
            let _ = tell.try_send(());
            if stopped.recv_timeout(QUIET) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    }
}

/// What tells that `path` leads elsewhere.
fn sources(path: &Path) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut at = path.to_owned();
    for _ in 0..MAX_LINKS {
        if let Ok(inside) = at.strip_prefix("/proc") {
            let first = inside.iter().next().and_then(|first| first.to_str()?.parse().ok());
            sources.push(first.map_or(Source::Nothing, Source::Process));
            break;
        }
        let Some(directory) = at.parent() else { break };
        sources.push(Source::Directory(directory.to_owned()));
        let Ok(target) = fs::read_link(&at) else { break };
        at = directory.join(target);
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::fs::symlink;
    use std::process::{Command, Stdio};

    use crate::sys::netlink::VethEnd;
    use crate::sys::netns::Netns;

    /// Patience with a busy machine: only a notice that never comes takes so long.
    const SOON: Duration = Duration::from_secs(60);

    fn told(notices: &Notices) -> bool {
        notices.told().recv_timeout(SOON).is_ok()
    }

    /// Whether nothing comes for a while.
    fn quiet(notices: &Notices) -> bool {
        notices.told().recv_timeout(4 * QUIET).is_err()
    }

    #[test]
    fn a_path_is_followed_to_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let (a, b) = (directory.path().join("a"), directory.path().join("deeper/b"));
        fs::create_dir(directory.path().join("deeper")).unwrap();
        symlink("deeper/b", &a).unwrap();
        symlink("/proc/4321/ns/net", &b).unwrap();
        let expected = [
            Source::Directory(directory.path().to_owned()),
            Source::Directory(directory.path().join("deeper")),
            Source::Process(4321),
        ];
        assert_eq!(sources(&a), expected);
        assert_eq!(sources(Path::new("/proc/self/ns/net")), [Source::Nothing]);
        assert_eq!(sources(Path::new("/run/netns/none")), [Source::Directory("/run/netns".into())]);
        symlink(&a, directory.path().join("deeper/c")).unwrap();
        fs::remove_file(&a).unwrap();
        symlink("deeper/c", &a).unwrap();
        assert_eq!(sources(&a).len(), MAX_LINKS, "a circle ends");
    }

    #[test]
    fn what_a_path_leads_to_is_told_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        let mut notices = Notices::start().unwrap();
        notices.follow([link.as_path()].into_iter());
        assert!(notices.is_complete());
        symlink("/proc/1/ns/net", &link).unwrap();
        assert!(told(&notices), "it comes");
        fs::remove_file(&link).unwrap();
        assert!(told(&notices), "it goes");
        assert!(quiet(&notices));

        let elsewhere = other.path().join("link");
        notices.follow([elsewhere.as_path()].into_iter());
        // That a watch has ended may be told as well.
        while !quiet(&notices) {}
        symlink("/proc/1/ns/net", &link).unwrap();
        assert!(quiet(&notices), "nobody follows it");
        notices.follow([link.as_path(), elsewhere.as_path()].into_iter());
        fs::rename(&link, &elsewhere).unwrap();
        assert!(told(&notices), "it moves");
    }

    #[test]
    fn a_directory_that_returns_is_watched_when_it_is_followed_again() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("netns");
        let link = directory.join("link");
        fs::create_dir(&directory).unwrap();
        let mut notices = Notices::start().unwrap();
        notices.follow([link.as_path()].into_iter());
        fs::remove_dir(&directory).unwrap();
        assert!(told(&notices));
        notices.follow([link.as_path()].into_iter());
        fs::create_dir(&directory).unwrap();
        notices.follow([link.as_path()].into_iter());
        assert!(quiet(&notices));
        symlink("/proc/1/ns/net", &link).unwrap();
        assert!(told(&notices));
    }

    #[test]
    fn the_end_of_a_process_is_told() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let path = PathBuf::from(format!("/proc/{}/ns/net", child.id()));
        let mut notices = Notices::start().unwrap();
        notices.follow([path.as_path()].into_iter());
        assert!(notices.is_complete() && quiet(&notices));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(told(&notices));
        notices.follow([path.as_path()].into_iter());
        assert!(notices.is_complete(), "one that has ended is no riddle");
    }

    #[test]
    fn where_nothing_tells_that_is_known() {
        let mut notices = Notices::start().unwrap();
        notices.follow([Path::new("/proc/self/ns/net")].into_iter());
        assert!(!notices.is_complete());
        notices.follow(std::iter::empty());
        assert!(notices.is_complete());
    }

    #[test]
    fn a_link_and_an_address_are_told() {
        let netns = Netns::create().expect("this test needs root, or a user namespace of its own");
        let notices = netns.run(Notices::start).unwrap().unwrap();
        let mut netlink = netns.netlink().unwrap();
        let end = |name| VethEnd { name, mac: None, mtu: None, netns: None };
        netlink.add_veth(&end("a"), &end("b")).unwrap();
        assert!(told(&notices));
        while !quiet(&notices) {}
        let index = netlink.link("a").unwrap().index;
        netlink.add_address(index, "10.1.2.3/24".parse().unwrap()).unwrap();
        assert!(told(&notices));
    }
}
