//! ICMP errors that this node originates, and when it must not (RFC 792, RFC 1122 3.2.2, RFC 1812 4.3; RFC 4443 2.4).

mod v4;
mod v6;

use crate::dataplane::antispoof;
use crate::verdict::{DropReason, IcmpError};
use crate::wire::ip::View;

/// Longest error of either family, bytes: what fits in every link's packets of IPv6 (RFC 4443 2.4 c).
pub const MAX_LEN: usize = 1280;
/// TTL, or hop limit, of what this node originates.
const TTL: u8 = 64;

/// Which error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// Type 11 code 0 (RFC 1812 5.3.1); ICMPv6 type 3 code 0 (RFC 4443 3.3).
    TtlExceeded,
    /// Type 3 code 0 (RFC 1812 5.2.7.1); ICMPv6 type 1 code 0 (RFC 4443 3.1).
    NetUnreachable,
    /// Type 3 code 1 (RFC 1812 5.2.7.1, RFC 2003 4.4); ICMPv6 type 1 code 3 (RFC 4443 3.1, RFC 2473 8.2).
    HostUnreachable,
    /// Type 12 code 0 with the byte of the original that is wrong (RFC 2003 4.5); ICMPv6 type 4 code 0 (RFC 4443 3.4).
    ParameterProblem(u8),
    /// Type 3 code 4 with the MTU of the next hop, bytes (RFC 1191 4); ICMPv6 type 2 (RFC 4443 3.2).
    FragmentationNeeded(u16),
}

impl Error {
    /// What it counts as.
    pub fn kind(self) -> IcmpError {
        match self {
            Error::TtlExceeded => IcmpError::TimeExceeded,
            Error::NetUnreachable => IcmpError::NetUnreachable,
            Error::HostUnreachable => IcmpError::HostUnreachable,
            Error::ParameterProblem(_) => IcmpError::ParameterProblem,
            Error::FragmentationNeeded(_) => IcmpError::FragmentationNeeded,
        }
    }
}

/// A family's control messages: how they look, and what the rules about them say differently.
pub trait Control: antispoof::Address {
    /// Where a router without an address of its own speaks from, to this node's kernel and on a workload's link.
    const NAMELESS: Self;

    /// True for a packet of the family's control messages that may be answered with an error: one that is no error itself.
    /// Of a message that is cut short nobody knows.
    fn may_be_answered(message: &[u8]) -> bool;

    /// Writes the error about `original` as a whole packet, and says how long it is; 0 when `original` is none.
    fn write_error(out: &mut [u8; MAX_LEN], error: Error, source: Self, original: &[u8]) -> usize;

    /// As [`echo_reply`].
    ///
    /// # Errors
    /// The same.
    fn make_echo_reply(packet: &mut [u8]) -> Result<(), DropReason>;

    /// Fills `out` with an echo request in a packet that no router may fragment; `begin` is what its data begin with.
    fn write_echo_request(out: &mut [u8], addresses: (Self, Self), echo: (u16, u16), begin: &[u8]);

    /// Sequence number and data of an echo reply; `None` for any other message.
    fn echo_replied(message: &[u8]) -> Option<(u16, &[u8])>;
}

/// Whether an error about `original` may be sent at all.
///
/// # Errors
/// [`DropReason::IcmpNotDue`]: it is an ICMP error itself, a later fragment, or its source is no single host.
pub fn may_be_sent_about<'a, V>(original: &V) -> Result<(), DropReason>
where
    V: View<'a, Address: Control>,
{
    if original.is_later_fragment()
        || antispoof::is_martian(original.src().into())
        || antispoof::is_martian(original.dst().into())
    {
        return Err(DropReason::IcmpNotDue);
    }
    let is_control = original.protocol() == <V::Address as crate::wire::ip::Address>::ICMP;
    if is_control && !V::Address::may_be_answered(original.payload()) {
        return Err(DropReason::IcmpNotDue);
    }
    Ok(())
}

/// An error, ready to be sent.
#[derive(Debug)]
pub struct Message {
    bytes: [u8; MAX_LEN],
    len: usize,
}

impl Message {
    /// The error about `original`, a packet as it was received, or the beginning of one.
    pub fn new<A: Control>(error: Error, source: A, original: &[u8]) -> Self {
        let mut message = Message { bytes: [0; MAX_LEN], len: 0 };
        message.len = A::write_error(&mut message.bytes, error, source, original);
        message
    }

    /// The IP packet.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Turns an echo request for this node into the reply in place (RFC 1812 4.3.3.6, RFC 4443 4.2).
///
/// # Errors
/// [`DropReason::DestinationMartian`] for anything else: the gateway address offers nothing but an answer. Then
/// nothing was changed.
pub fn echo_reply<A: Control>(packet: &mut [u8]) -> Result<(), DropReason> {
    A::make_echo_reply(packet)
}

/// The bytes that data begin with, and zeros up to `len`.
fn padded(begin: &[u8], len: usize) -> Vec<u8> {
    let mut data = begin[..begin.len().min(len)].to_vec();
    data.resize(len, 0);
    data
}
