//! Watching a directory of resources.
//!
//! What the system tells of changes (inotify) is only a hint when to look; whether anything changed is
//! decided by a fingerprint of what [`super::load`] would read. So nothing depends on how an editor
//! saves, on links that are swapped behind the files (a mounted ConfigMap), or on a directory that goes
//! and comes back: what no hint announces, the next regular look finds.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, after, bounded, select};
use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use super::directory::file_names;

/// The directory is not what it was: load it again. Several changes may make one of these. A directory
/// that has gone is a change too; loading then says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed;

/// How soon a change is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// At once, by the system's notification.
    Notified,
    /// Within two seconds, by looking: the system gives no notification, for this reason.
    Polled(String),
}

/// A quiet time of this length ends a burst of changes, so that a half-copied set of files is not read.
const QUIET: Duration = Duration::from_millis(100);
/// A burst that does not end is cut here.
const LONGEST_BURST: Duration = Duration::from_secs(1);
/// Time between looks that no hint asked for.
const LOOK: Duration = Duration::from_secs(2);

/// A directory under watch, until dropped.
#[derive(Debug)]
pub struct Watcher {
    changes: Receiver<Changed>,
    sight: Sight,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Where changes are announced. One that nobody has taken yet stands for all that follow it.
    pub fn changes(&self) -> &Receiver<Changed> {
        &self.changes
    }

    /// How soon changes are seen.
    pub fn sight(&self) -> &Sight {
        &self.sight
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // The thread ends when its stop channel closes.
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Watches `directory`, which need not exist yet.
///
/// # Errors
/// The system gives no thread.
pub fn watch(directory: &Path) -> io::Result<Watcher> {
    watch_every(directory, LOOK)
}

fn watch_every(directory: &Path, look_every: Duration) -> io::Result<Watcher> {
    let (announce, changes) = bounded(1);
    let (stop, stopped) = bounded(0);
    let (hint, hints) = bounded(1);
    let (notifier, sight) = match notifier(hint) {
        Ok(notifier) => (Some(notifier), Sight::Notified),
        Err(error) => (None, Sight::Polled(error.to_string())),
    };
    let mut look = Look { directory: directory.to_owned(), notifier, watched: None, seen: None, look_every };
    look.anything_new();
    let thread = std::thread::Builder::new()
        .name("margay-watch".into())
        .spawn(move || run(&mut look, &hints, &stopped, &announce))?;
    Ok(Watcher { changes, sight, stop: Some(stop), thread: Some(thread) })
}

/// Hints are not queued: one is as good as many.
fn notifier(hint: Sender<()>) -> notify::Result<RecommendedWatcher> {
    notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own look at the directory is an access as well.
        let reading = event.is_ok_and(|event| match event.kind {
            EventKind::Access(access) => access != AccessKind::Close(AccessMode::Write),
            _ => false,
        });
        if !reading {
            let _ = hint.try_send(());
        }
    })
}

fn run(look: &mut Look, hints: &Receiver<()>, stopped: &Receiver<()>, announce: &Sender<Changed>) {
    loop {
        select! {
            recv(stopped) -> _ => return,
            recv(hints) -> hint => match hint {
                Ok(()) => wait_for_quiet(hints),
                // Without a notifier the channel is closed: look by the clock alone.
                Err(_) => select! {
                    recv(stopped) -> _ => return,
                    recv(after(look.look_every)) -> _ => {}
                },
            },
            recv(after(look.look_every)) -> _ => {}
        }
        if look.anything_new() {
            // Full means that an announcement waits already.
            let _ = announce.try_send(Changed);
        }
    }
}

fn wait_for_quiet(hints: &Receiver<()>) {
    let end = Instant::now() + LONGEST_BURST;
    while Instant::now() < end && hints.recv_timeout(QUIET).is_ok() {}
}

/// What identifies the content of a file without reading it. The time is that of the inode's last
/// change, which no program can set back.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fingerprint {
    name: std::ffi::OsString,
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

struct Look {
    directory: PathBuf,
    notifier: Option<RecommendedWatcher>,
    /// Device and inode of the directory that the notifier watches.
    watched: Option<(u64, u64)>,
    /// `None`: there was no directory to be read.
    seen: Option<Vec<Fingerprint>>,
    /// Time between looks that no hint asked for.
    look_every: Duration,
}

impl Look {
    fn anything_new(&mut self) -> bool {
        // The notifier first: what changes after the look is then a hint.
        self.follow_directory();
        let seen = self.fingerprints();
        let new = seen != self.seen;
        self.seen = seen;
        new
    }

    /// A watch holds on to the inode: after a rename or a swapped link the path leads to another one.
    fn follow_directory(&mut self) {
        let Some(notifier) = &mut self.notifier else { return };
        let current = fs::metadata(&self.directory).ok().map(|meta| (meta.dev(), meta.ino()));
        if current == self.watched {
            return;
        }
        // Fails where the directory has gone and taken its watch along.
        let _ = notifier.unwatch(&self.directory);
        let watching = notifier.watch(&self.directory, RecursiveMode::NonRecursive).is_ok();
        self.watched = current.filter(|_| watching);
    }

    fn fingerprints(&self) -> Option<Vec<Fingerprint>> {
        let names = file_names(&self.directory).ok()?;
        let fingerprint = |name| {
            // A link to nothing is a change when it begins to lead somewhere.
            let (device, inode, size, changed) = match fs::metadata(self.directory.join(&name)) {
                Ok(meta) => (meta.dev(), meta.ino(), meta.size(), (meta.ctime(), meta.ctime_nsec())),
                Err(_) => (0, 0, 0, (0, 0)),
            };
            Fingerprint { name, device, inode, size, changed }
        };
        Some(names.into_iter().map(fingerprint).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::fs::symlink;

    /// Patience with a busy machine: only a change that never comes takes so long.
    const SOON: Duration = Duration::from_secs(60);

    fn watched() -> (tempfile::TempDir, PathBuf, Watcher) {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("resources");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("a.yaml"), "a").unwrap();
        let watcher = watch(&directory).unwrap();
        (parent, directory, watcher)
    }

    fn changes(watcher: &Watcher) -> bool {
        watcher.changes().recv_timeout(SOON).is_ok()
    }

    fn stays(watcher: &Watcher) -> bool {
        watcher.changes().recv_timeout(LOOK + 2 * QUIET).is_err()
    }

    #[test]
    fn a_burst_of_writes_makes_no_more_changes_than_writes() {
        const WRITES: usize = 20;
        let (_parent, directory, watcher) = watched();
        for round in 0..WRITES {
            fs::write(directory.join("a.yaml"), format!("round {round}")).unwrap();
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(changes(&watcher));
        // How many are put together depends on the machine; each write alone is three notifications.
        let more = std::iter::from_fn(|| watcher.changes().recv_timeout(LOOK + 2 * QUIET).ok()).count();
        assert!(more < WRITES, "{more} changes more");
    }

    #[test]
    fn where_the_system_notifies_nobody_has_to_look() {
        let (_parent, directory, _) = watched();
        let watcher = watch_every(&directory, Duration::from_secs(86_400)).unwrap();
        assert_eq!(watcher.sight(), &Sight::Notified);
        fs::write(directory.join("b.yaml"), "b").unwrap();
        assert!(changes(&watcher));
    }

    #[test]
    fn a_file_renamed_over_another_is_a_change() {
        let (_parent, directory, watcher) = watched();
        let temporary = directory.join(".a.yaml.tmp");
        fs::write(&temporary, "b").unwrap();
        fs::rename(&temporary, directory.join("a.yaml")).unwrap();
        assert!(changes(&watcher));
    }

    #[test]
    fn a_removed_file_is_a_change() {
        let (_parent, directory, watcher) = watched();
        fs::remove_file(directory.join("a.yaml")).unwrap();
        assert!(changes(&watcher));
    }

    #[test]
    fn files_that_are_no_resources_are_no_change() {
        let (_parent, directory, watcher) = watched();
        fs::write(directory.join(".hidden.yaml"), "x").unwrap();
        fs::write(directory.join("notes.txt"), "x").unwrap();
        fs::read(directory.join("a.yaml")).unwrap();
        assert!(stays(&watcher));
    }

    /// As kubelet updates a mounted ConfigMap: files are links through `..data`, which is swapped.
    #[test]
    fn a_swapped_config_map_is_a_change() {
        let (_parent, directory, _) = watched();
        for (version, text) in [("..1", "one"), ("..2", "two")] {
            fs::create_dir(directory.join(version)).unwrap();
            fs::write(directory.join(version).join("map.yaml"), text).unwrap();
        }
        symlink("..1", directory.join("..data")).unwrap();
        symlink("..data/map.yaml", directory.join("map.yaml")).unwrap();
        let watcher = watch(&directory).unwrap();
        symlink("..2", directory.join("..data_tmp")).unwrap();
        fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
        assert!(changes(&watcher));
        assert_eq!(fs::read_to_string(directory.join("map.yaml")).unwrap(), "two");
    }

    #[test]
    fn a_change_behind_a_link_is_seen() {
        let (parent, directory, _) = watched();
        let elsewhere = parent.path().join("elsewhere.yaml");
        fs::write(&elsewhere, "one").unwrap();
        symlink(&elsewhere, directory.join("link.yaml")).unwrap();
        let watcher = watch(&directory).unwrap();
        fs::write(&elsewhere, "two").unwrap();
        assert!(changes(&watcher));
    }

    #[test]
    fn a_directory_that_goes_and_returns_is_watched_again() {
        let (parent, directory, watcher) = watched();
        fs::rename(&directory, parent.path().join("away")).unwrap();
        assert!(changes(&watcher), "going is a change");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("a.yaml"), "again").unwrap();
        assert!(changes(&watcher), "returning is a change");
        fs::write(directory.join("a.yaml"), "and again").unwrap();
        assert!(changes(&watcher), "so is what happens there then");
    }
}
