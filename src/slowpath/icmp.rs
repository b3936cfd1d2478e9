//! ICMP errors that this node originates, and when it must not (RFC 792, RFC 1122 3.2.2, RFC 1812 4.3).

use std::net::Ipv4Addr;

use crate::dataplane::antispoof::is_martian;
use crate::verdict::{DropReason, IcmpError};
use crate::wire::icmpv4::{self, Icmpv4, Icmpv4Type};
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::{Protocol, checksum};

/// Longest error, bytes: what every host can receive (RFC 1812 4.3.2.3).
pub const MAX_LEN: usize = 576;
/// Precedence "internetwork control" (RFC 1812 4.3.2.5), as Linux has it.
const TOS: u8 = 0xc0;
/// TTL of what this node originates.
const TTL: u8 = 64;

/// Which error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// Type 11 code 0 (RFC 1812 5.3.1).
    TtlExceeded,
    /// Type 3 code 0 (RFC 1812 5.2.7.1).
    NetUnreachable,
    /// Type 3 code 1 (RFC 1812 5.2.7.1, RFC 2003 4.4).
    HostUnreachable,
    /// Type 12 code 0 with the byte of the original that is wrong (RFC 2003 4.5).
    ParameterProblem(u8),
    /// Type 3 code 4 with the MTU of the next hop, bytes (RFC 1191 4).
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

/// Whether an error about `original` may be sent at all.
///
/// # Errors
/// [`DropReason::IcmpNotDue`]: it is an ICMP error itself, a later fragment, or its source is no single host.
pub fn may_be_sent_about(original: &Ipv4<'_>) -> Result<(), DropReason> {
    if original.is_later_fragment() || is_martian(original.src()) || is_martian(original.dst()) {
        return Err(DropReason::IcmpNotDue);
    }
    if original.protocol() != Protocol::ICMP {
        return Ok(());
    }
    // Of a message that is cut short nobody knows that it is no error.
    match Icmpv4::parse(original.payload()) {
        Ok(message) if !message.kind().is_error() => Ok(()),
        _ => Err(DropReason::IcmpNotDue),
    }
}

/// An error, ready to be sent.
#[derive(Debug)]
pub struct Message {
    bytes: [u8; MAX_LEN],
    len: usize,
}

impl Message {
    /// The error about `original`, a packet as it was received, or the beginning of one.
    pub fn new(error: Error, source: Ipv4Addr, original: &[u8]) -> Self {
        let mut message = Message { bytes: [0; MAX_LEN], len: 0 };
        message.len = write(&mut message.bytes, error, source, original);
        message
    }

    /// The IP packet.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Says how long the packet is.
fn write(out: &mut [u8; MAX_LEN], error: Error, source: Ipv4Addr, original: &[u8]) -> usize {
    const UNREACHABLE: Icmpv4Type = Icmpv4Type::DESTINATION_UNREACHABLE;
    let (kind, code, rest) = match error {
        Error::TtlExceeded => (Icmpv4Type::TIME_EXCEEDED, icmpv4::CODE_TTL_EXCEEDED, [0; 4]),
        Error::NetUnreachable => (UNREACHABLE, icmpv4::CODE_NET_UNREACHABLE, [0; 4]),
        Error::HostUnreachable => (UNREACHABLE, icmpv4::CODE_HOST_UNREACHABLE, [0; 4]),
        Error::ParameterProblem(pointer) => (Icmpv4Type::PARAMETER_PROBLEM, 0, [pointer, 0, 0, 0]),
        Error::FragmentationNeeded(mtu) => {
            (UNREACHABLE, icmpv4::CODE_FRAGMENTATION_NEEDED, icmpv4::mtu_rest(mtu))
        }
    };
    let Ok(quoted) = Ipv4::parse_quoted(original) else { return 0 };
    let Some((header, body)) = out.split_first_chunk_mut() else { return 0 };
    let len = ipv4::MIN_HEADER_LEN + icmpv4::write_error(body, kind, code, rest, original);
    ipv4::Header {
        tos: TOS,
        total_len: len as u16,
        // Atomic, so any value will do (RFC 6864 4.1); a checksum over the quote differs from error to error.
        id: checksum::checksum(&original[..original.len().min(28)]) | 1,
        dont_fragment: false,
        more_fragments: false,
        fragment_offset: 0,
        ttl: TTL,
        protocol: Protocol::ICMP,
        src: source,
        dst: quoted.src(),
    }
    .write(header);
    len
}

/// Turns an echo request for this node into the reply in place (RFC 1812 4.3.3.6).
///
/// # Errors
/// [`DropReason::DestinationMartian`] for anything else: the gateway address offers nothing but an answer. Then
/// nothing was changed.
pub fn echo_reply(packet: &mut [u8]) -> Result<(), DropReason> {
    let ip = Ipv4::parse(packet)?;
    let is_request = ip.protocol() == Protocol::ICMP
        && !ip.is_fragment()
        && ip.options().is_empty()
        && Icmpv4::parse(ip.payload())
            .is_ok_and(|message| message.kind() == Icmpv4Type::ECHO_REQUEST && message.verify());
    if !is_request {
        return Err(DropReason::DestinationMartian);
    }
    let header = ipv4::Header {
        tos: ip.tos(),
        total_len: ip.total_len() as u16,
        id: ip.id(),
        // The way back may be narrower, and nobody would hear of it.
        dont_fragment: false,
        more_fragments: false,
        fragment_offset: 0,
        ttl: TTL,
        protocol: Protocol::ICMP,
        src: ip.dst(),
        dst: ip.src(),
    };
    if let Some((out, message)) = packet.split_first_chunk_mut() {
        header.write(out);
        icmpv4::make_echo_reply(message);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(protocol: Protocol, src: [u8; 4], fragment_offset: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 20 + payload.len()];
        let header = ipv4::Header {
            tos: 0,
            total_len: bytes.len() as u16,
            id: 7,
            dont_fragment: false,
            more_fragments: false,
            fragment_offset,
            ttl: 1,
            protocol,
            src: src.into(),
            dst: [10, 65, 1, 2].into(),
        };
        header.write(bytes.first_chunk_mut().unwrap());
        bytes[20..].copy_from_slice(payload);
        bytes
    }

    #[test]
    fn an_error_quotes_up_to_576_bytes_in_all() {
        let original = packet(Protocol::UDP, [10, 65, 0, 2], 0, &[0x41; 1400]);
        let error = Message::new(Error::FragmentationNeeded(1450), [10, 65, 0, 1].into(), &original);
        assert_eq!(error.bytes().len(), 576);
        let ip = Ipv4::parse(error.bytes()).unwrap();
        assert_eq!((ip.tos(), ip.ttl(), ip.dont_fragment()), (0xc0, 64, false));
        assert_eq!(ip.dst(), Ipv4Addr::new(10, 65, 0, 2));
        let message = Icmpv4::parse(ip.payload()).unwrap();
        assert!(message.verify());
        assert_eq!(message.next_hop_mtu(), 1450);
        assert_eq!(message.payload(), &original[..548]);
    }

    /// T5 (RFC 1122 3.2.2).
    #[test]
    fn no_error_about_errors_later_fragments_and_bad_sources() {
        let about = |bytes: &[u8]| may_be_sent_about(&Ipv4::parse(bytes).unwrap());
        let pod = [10, 65, 0, 2];
        assert_eq!(about(&packet(Protocol::UDP, pod, 0, &[0; 8])), Ok(()));
        assert_eq!(about(&packet(Protocol::ICMP, pod, 0, &[8, 0, 0, 0, 0, 0, 0, 0])), Ok(()));
        for kind in [3, 4, 5, 11, 12] {
            let error = packet(Protocol::ICMP, pod, 0, &[kind, 0, 0, 0, 0, 0, 0, 0]);
            assert_eq!(about(&error), Err(DropReason::IcmpNotDue), "type {kind}");
        }
        assert_eq!(about(&packet(Protocol::ICMP, pod, 0, &[])), Err(DropReason::IcmpNotDue));
        assert_eq!(about(&packet(Protocol::UDP, pod, 8, &[0; 8])), Err(DropReason::IcmpNotDue));
        for source in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255, 255, 255, 255]] {
            assert_eq!(about(&packet(Protocol::UDP, source, 0, &[0; 8])), Err(DropReason::IcmpNotDue));
        }
    }
}
