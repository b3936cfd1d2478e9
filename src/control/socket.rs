//! The place of the control socket in the file system: taken before privileges are given up, given back at the end.
//!
//! A name in the file system outlives who bound it. Whether somebody still listens shows in connecting: the kernel refuses
//! what is left of a dead daemon. Between that and binding anew no other may do the same, so the directory is locked
//! (flock(2)) as long as it takes.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{Mode, umask};
use nix::unistd::Group;
use socket2::{Domain, SockAddr, Socket as AnySocket, Type};

/// Everything but reading and writing by owner and group, which is what connecting takes.
const FORBIDDEN: Mode = Mode::from_bits_truncate(0o117);

/// A socket that listens, and its name; the name goes when it is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    name: Name,
}

/// A name in the file system, as far as it is still ours.
#[derive(Debug)]
pub(super) struct Name {
    path: PathBuf,
    inode: (u64, u64),
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
#[error("control socket {path}: {problem}", path = path.display())]
pub struct SocketError {
    path: PathBuf,
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(
        "another daemon listens there: give this one a place of its own (--control-socket PATH), or none (--control-socket none)"
    )]
    Taken,
    #[error(
        "there is something that is no socket: remove it, or choose another place (--control-socket PATH)"
    )]
    NotASocket,
    #[error("no group is named {0:?} (--control-group)")]
    NoGroup(String),
    #[error("it cannot be given to the group {0} (--control-group): {1}: be root, or a member of it")]
    Group(String, #[source] io::Error),
    #[error(
        "{0}: {1}: choose a place that can be written to (--control-socket PATH), or none (--control-socket none)"
    )]
    Place(&'static str, #[source] io::Error),
}

impl Socket {
    /// Listens at `path`, for this process's user and `group` (a name or a number), or its own group. Makes the last
    /// directory of `path` where it is missing. The process's file mode mask is another meanwhile: no other thread may
    /// make files.
    ///
    /// # Errors
    /// Another daemon listens there, or the place cannot be used.
    pub fn listen(path: &Path, group: Option<&str>) -> Result<Self, SocketError> {
        let listen = || {
            let group = group.map(|name| Ok((name, group_id(name)?))).transpose()?;
            let _lock = lock_directory(path)?;
            clear(path)?;
            let mask = umask(FORBIDDEN);
            let bound = UnixListener::bind(path);
            umask(mask);
            let listener = bound.map_err(place("cannot be bound"))?;
            let found = fs::symlink_metadata(path).map_err(place("cannot be found again"))?;
            let name = Name { path: path.to_owned(), inode: (found.dev(), found.ino()) };
            if let Some((name, id)) = group {
                chown(path, None, Some(id)).map_err(|error| Problem::Group(name.to_owned(), error))?;
            }
            Ok(Socket { listener, name })
        };
        listen().map_err(|problem| SocketError { path: path.to_owned(), problem })
    }

    /// The socket at `path` on which the daemon listened whose place is taken.
    ///
    /// # Errors
    /// It is not there any more.
    pub fn inherit(listener: OwnedFd, path: &Path) -> Result<Self, SocketError> {
        let found = fs::symlink_metadata(path).map_err(place("cannot be found again"));
        let found = found.map_err(|problem| SocketError { path: path.to_owned(), problem })?;
        let name = Name { path: path.to_owned(), inode: (found.dev(), found.ino()) };
        Ok(Socket { listener: listener.into(), name })
    }

    /// What the next daemon is to listen on.
    ///
    /// # Errors
    /// Too many open files.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.name.path
    }

    pub(super) fn into_parts(self) -> (UnixListener, Name) {
        (self.listener, self.name)
    }
}

impl Name {
    /// It is another's now.
    pub(super) fn leave(mut self) {
        self.inode = (0, 0);
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let is_ours = |found: fs::Metadata| (found.dev(), found.ino()) == self.inode;
        if fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            // Who cannot remove it leaves it to the next daemon.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn place(what: &'static str) -> impl FnOnce(io::Error) -> Problem {
    move |error| Problem::Place(what, error)
}

fn group_id(name: &str) -> Result<u32, Problem> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let found = Group::from_name(name).map_err(|error| Problem::Group(name.to_owned(), error.into()))?;
    found.map(|group| group.gid.as_raw()).ok_or_else(|| Problem::NoGroup(name.to_owned()))
}

fn lock_directory(path: &Path) -> Result<Flock<File>, Problem> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match fs::create_dir(directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(Problem::Place("its directory cannot be made", error));
        }
        _ => {}
    }
    let file = File::open(directory).map_err(place("its directory cannot be opened"))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| Problem::Place("its directory cannot be locked", error.into()))
}

/// Removes what a dead daemon has left.
fn clear(path: &Path) -> Result<(), Problem> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Problem::Place("cannot be looked at", error)),
        Ok(found) if !found.file_type().is_socket() => return Err(Problem::NotASocket),
        Ok(_) => {}
    }
    match connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(place("what a dead daemon has left cannot be removed"))
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Err(Problem::Place("somebody else's", error))
        }
        // Who is too busy to be connected to at once (EAGAIN) is alive as well.
        _ => Err(Problem::Taken),
    }
}

/// Without waiting.
fn connect(path: &Path) -> io::Result<()> {
    let socket = AnySocket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}
