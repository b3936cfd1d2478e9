//! ICMP (RFC 792).

use std::net::Ipv4Addr;

use super::{Control, Error, MAX_LEN, TTL};
use crate::verdict::DropReason;
use crate::wire::icmpv4::{self, Icmpv4, Icmpv4Type};
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::{Protocol, checksum};

/// Longest error, bytes: what every host can receive (RFC 1812 4.3.2.3).
const LONGEST: usize = 576;
/// Precedence "internetwork control" (RFC 1812 4.3.2.5), as Linux has it.
const TOS: u8 = 0xc0;

impl Control for Ipv4Addr {
    /// The IPv4 dummy address (RFC 7600 3): this node's kernel takes nothing from an address of its own.
    const NAMELESS: Self = Ipv4Addr::new(192, 0, 0, 8);

    fn may_be_answered(message: &[u8]) -> bool {
        Icmpv4::parse(message).is_ok_and(|message| !message.kind().is_error())
    }

    fn write_error(out: &mut [u8; MAX_LEN], error: Error, source: Self, original: &[u8]) -> usize {
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
        let Some((header, body)) = out[..LONGEST].split_first_chunk_mut() else { return 0 };
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

    fn make_echo_reply(packet: &mut [u8]) -> Result<(), DropReason> {
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

    fn write_echo_request(out: &mut [u8], (src, dst): (Self, Self), (id, seq): (u16, u16), begin: &[u8]) {
        let total_len = out.len() as u16;
        let Some((header, message)) = out.split_first_chunk_mut() else { return };
        ipv4::Header {
            tos: 0,
            total_len,
            // Atomic, so any value will do (RFC 6864 4.1).
            id: total_len,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            ttl: TTL,
            protocol: Protocol::ICMP,
            src,
            dst,
        }
        .write(header);
        let data = super::padded(begin, message.len().saturating_sub(icmpv4::HEADER_LEN));
        icmpv4::write_echo(message, Icmpv4Type::ECHO_REQUEST, id, seq, &data);
    }

    fn echo_replied(message: &[u8]) -> Option<(u16, &[u8])> {
        let reply = Icmpv4::parse(message).ok()?;
        (reply.kind() == Icmpv4Type::ECHO_REPLY).then(|| (reply.echo_seq(), reply.payload()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Message, may_be_sent_about};
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
        let error = Message::new(Error::FragmentationNeeded(1450), Ipv4Addr::new(10, 65, 0, 1), &original);
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
