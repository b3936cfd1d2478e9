//! Descriptors by name, so that one can serve in another's place: what waits in a socket is not lost when its port is
//! opened again, or when another daemon takes over.
//!
//! A name says all that must be the same for that: the kind, the address or interface, which of how many.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use socket2::Socket;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Descriptors(BTreeMap<String, Vec<OwnedFd>>);

impl Descriptors {
    pub(super) fn insert(&mut self, name: String, descriptors: Vec<OwnedFd>) {
        self.0.insert(name, descriptors);
    }

    /// Notes `opened`, which stays with the caller.
    ///
    /// # Errors
    /// Too many open files.
    pub(super) fn note(&mut self, name: String, opened: &[impl AsFd]) -> io::Result<()> {
        let copies = opened.iter().map(|one| one.as_fd().try_clone_to_owned()).collect::<io::Result<_>>()?;
        self.insert(name, copies);
        Ok(())
    }

    /// Copies of those of that name; `None` where there are none.
    pub(super) fn copies(&self, name: &str) -> Option<Vec<OwnedFd>> {
        self.0.get(name)?.iter().map(|one| one.try_clone().ok()).collect()
    }

    /// The sockets of that name that `legacy` has, or new ones; noted either way.
    ///
    /// # Errors
    /// Those of `open`; too many open files.
    pub(super) fn sockets(
        &mut self,
        legacy: &Descriptors,
        name: String,
        open: impl FnOnce() -> io::Result<Vec<Socket>>,
    ) -> io::Result<Vec<Socket>> {
        let sockets = match legacy.copies(&name) {
            Some(copies) => copies.into_iter().map(Socket::from).collect(),
            None => open()?,
        };
        self.note(name, &sockets)?;
        Ok(sockets)
    }

    /// As [`Self::sockets`], for one.
    ///
    /// # Errors
    /// As there.
    pub(super) fn socket(
        &mut self,
        legacy: &Descriptors,
        name: String,
        open: impl FnOnce() -> io::Result<Socket>,
    ) -> io::Result<Socket> {
        let mut sockets = self.sockets(legacy, name, || open().map(|socket| vec![socket]))?;
        sockets.pop().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Vec<BorrowedFd<'_>>)> {
        self.0.iter().map(|(name, all)| (name.as_str(), all.iter().map(AsFd::as_fd).collect()))
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_socket_of_the_same_name_is_used_again_with_what_waits_in_it() {
        let open = || Ok(Socket::from(UdpSocket::bind("127.0.0.1:0")?));
        let mut before = Descriptors::default();
        let first = before.socket(&Descriptors::default(), "a".into(), open).unwrap();
        let address = first.local_addr().unwrap();
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"?", address.as_socket().unwrap()).unwrap();
        drop(first);

        let mut after = Descriptors::default();
        let again = after.socket(&before, "a".into(), || panic!("it is there")).unwrap();
        drop(before);
        assert_eq!(UdpSocket::from(again).recv(&mut [0; 8]).unwrap(), 1);
        let other = after.socket(&Descriptors::default(), "b".into(), open).unwrap();
        assert_ne!(other.local_addr().unwrap().as_socket(), address.as_socket());
        assert_eq!(
            after.iter().map(|(name, all)| (name, all.len())).collect::<Vec<_>>(),
            [("a", 1), ("b", 1)]
        );
    }
}
