//! One daemon a network namespace.
//!
//! Two would share the traffic by chance: their sockets may have the same port (SO_REUSEPORT), raw sockets and
//! packet sockets are nobody's own, and each would take the other's kernel routes for what a predecessor left.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

/// unix(7): an abstract name belongs to the network namespace and goes away with the process, however it ends.
const NAME: &str = "margay/run";

/// Proof that this process is the only daemon of its network namespace, until dropped.
#[derive(Debug)]
pub(super) struct Sole(UnixListener);

impl Sole {
    /// Takes the place.
    ///
    /// # Errors
    /// `AddrInUse` where another daemon has it.
    pub(super) fn claim() -> io::Result<Self> {
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(NAME)?).map(Sole)
    }

    /// The proof of the daemon whose place is taken.
    pub(super) fn inherit(proof: OwnedFd) -> Self {
        Sole(proof.into())
    }
}

impl AsFd for Sole {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
