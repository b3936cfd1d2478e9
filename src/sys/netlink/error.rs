//! What the kernel refused, and on which object.

use std::fmt;
use std::io;

use netlink_packet_core::ErrorMessage;

/// Short for this module.
pub(super) type Result<T, E = NetlinkError> = std::result::Result<T, E>;

/// A request that failed: what was attempted on which object, and why not.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {source}{}", hint(*.kind))]
pub struct NetlinkError {
    /// Like `add route 10.65.0.0/16 dev margay0`.
    pub operation: String,
    /// What a program reacts to.
    pub kind: ErrorKind,
    /// The error number, with the kernel's own sentence where it gave one.
    pub source: io::Error,
}

/// The errors that callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// EEXIST: the object is there already.
    Exists,
    /// ENOENT, ESRCH, EADDRNOTAVAIL: no such route, address, neighbour, rule.
    NotFound,
    /// ENODEV, ENXIO: no such link.
    NoDevice,
    /// EPERM, EACCES.
    NotPermitted,
    /// ENETUNREACH, EHOSTUNREACH: no route leads there.
    Unreachable,
    /// EOPNOTSUPP, EAFNOSUPPORT, ENOPROTOOPT: this kernel cannot.
    Unsupported,
    /// EBUSY.
    Busy,
    /// An answer that could not be understood.
    Malformed,
    /// Any other error number.
    Other,
}

fn hint(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotPermitted => ": this needs CAP_NET_ADMIN in the namespace; run as root",
        ErrorKind::Unsupported => ": this kernel lacks it (module not loaded, or a sandbox)",
        _ => "",
    }
}

/// Why a request failed, before it is known for whom.
#[derive(Debug)]
pub(super) struct Cause {
    kind: ErrorKind,
    source: io::Error,
}

impl Cause {
    pub(super) fn malformed(what: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Malformed, source: io::Error::other(what.into()) }
    }

    pub(super) fn no_device() -> Self {
        io::Error::from_raw_os_error(libc::ENODEV).into()
    }

    /// A negative acknowledgement, with the sentence that newer kernels attach.
    pub(super) fn refused(error: &ErrorMessage) -> Self {
        let cause = Self::from(error.to_io());
        match kernel_sentence(&error.header) {
            Some(text) => {
                Self { source: io::Error::new(cause.source.kind(), Said { text, by: cause.source }), ..cause }
            }
            None => cause,
        }
    }

    pub(super) fn during(self, operation: impl Into<String>) -> NetlinkError {
        NetlinkError { operation: operation.into(), kind: self.kind, source: self.source }
    }
}

impl From<io::Error> for Cause {
    fn from(source: io::Error) -> Self {
        let kind = match source.raw_os_error().unwrap_or(0) {
            libc::EEXIST => ErrorKind::Exists,
            libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL => ErrorKind::NotFound,
            libc::ENODEV | libc::ENXIO => ErrorKind::NoDevice,
            libc::EPERM | libc::EACCES => ErrorKind::NotPermitted,
            libc::ENETUNREACH | libc::EHOSTUNREACH => ErrorKind::Unreachable,
            libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::ENOPROTOOPT => ErrorKind::Unsupported,
            libc::EBUSY => ErrorKind::Busy,
            _ => ErrorKind::Other,
        };
        Self { kind, source }
    }
}

/// An error number and the kernel's sentence about it.
#[derive(Debug)]
struct Said {
    text: String,
    by: io::Error,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (the kernel says: {})", self.by, self.text)
    }
}

impl std::error::Error for Said {}

/// Finds NLMSGERR_ATTR_MSG in what follows the error number: with NETLINK_CAP_ACK the request's 16-byte
/// header alone, then attributes (linux/netlink.h, `struct nlmsgerr`).
fn kernel_sentence(after_code: &[u8]) -> Option<String> {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let mut rest = after_code.get(16..)?;
    loop {
        let (&[l0, l1, t0, t1], _) = rest.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = rest.get(4..length)?;
        if u16::from_ne_bytes([t0, t1]) == NLMSGERR_ATTR_MSG {
            return Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_sentence_is_found_behind_the_echoed_header() {
        let mut after_code = vec![0xa5; 16];
        after_code.extend([8, 0, 2, 0, 1, 2, 3, 4]); // NLMSGERR_ATTR_OFFS
        after_code.extend([9, 0, 1, 0]);
        after_code.extend(b"nope\0\0\0\0");
        assert_eq!(kernel_sentence(&after_code).as_deref(), Some("nope"));
        for cut in 0..after_code.len() {
            let _ = kernel_sentence(&after_code[..cut]);
        }
        assert_eq!(kernel_sentence(&[0; 40]), None, "an attribute of length 0 ends the search");
    }
}
