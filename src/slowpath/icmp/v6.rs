//! ICMPv6 (RFC 4443).

use std::net::Ipv6Addr;

use super::{Control, Error, MAX_LEN, TTL};
use crate::dataplane::antispoof::Address;
use crate::verdict::DropReason;
use crate::wire::Protocol;
use crate::wire::icmpv6::{self, Icmpv6, Icmpv6Type};
use crate::wire::ipv6::{self, Ipv6};

impl Control for Ipv6Addr {
    /// The gateway's link-local address: it is on every workload's link, and on the kernel's.
    const NAMELESS: Self = <Ipv6Addr as Address>::GATEWAY;

    fn may_be_answered(message: &[u8]) -> bool {
        Icmpv6::parse(message).is_ok_and(|message| !message.kind().forbids_error())
    }

    fn write_error(out: &mut [u8; MAX_LEN], error: Error, source: Self, original: &[u8]) -> usize {
        const UNREACHABLE: Icmpv6Type = Icmpv6Type::DESTINATION_UNREACHABLE;
        let (kind, code, word) = match error {
            Error::TtlExceeded => (Icmpv6Type::TIME_EXCEEDED, icmpv6::CODE_HOP_LIMIT_EXCEEDED, 0),
            Error::NetUnreachable => (UNREACHABLE, icmpv6::CODE_NO_ROUTE, 0),
            Error::HostUnreachable => (UNREACHABLE, icmpv6::CODE_ADDRESS_UNREACHABLE, 0),
            Error::ParameterProblem(pointer) => {
                (Icmpv6Type::PARAMETER_PROBLEM, icmpv6::CODE_ERRONEOUS_FIELD, u32::from(pointer))
            }
            Error::FragmentationNeeded(mtu) => (Icmpv6Type::PACKET_TOO_BIG, 0, u32::from(mtu)),
        };
        let Ok(quoted) = Ipv6::parse_quoted(original) else { return 0 };
        let Some((header, body)) = out.split_first_chunk_mut() else { return 0 };
        let message =
            icmpv6::Message { src: source, dst: quoted.src(), kind, code, rest: word.to_be_bytes() };
        let len = message.write(body, original);
        header_of(message.src, message.dst, len, 0).write(header);
        ipv6::HEADER_LEN + len
    }

    fn make_echo_reply(packet: &mut [u8]) -> Result<(), DropReason> {
        let ip = Ipv6::parse(packet)?;
        let is_request = ip.protocol() == Protocol::ICMPV6
            && ip.extensions().is_empty()
            && Icmpv6::parse(ip.payload()).is_ok_and(|message| {
                message.kind() == Icmpv6Type::ECHO_REQUEST && message.verify(ip.src(), ip.dst())
            });
        if !is_request {
            return Err(DropReason::DestinationMartian);
        }
        let header = header_of(ip.dst(), ip.src(), ip.payload().len(), ip.traffic_class());
        if let Some((out, message)) = packet.split_first_chunk_mut() {
            header.write(out);
            icmpv6::make_echo_reply(message);
        }
        Ok(())
    }

    fn write_echo_request(out: &mut [u8], (src, dst): (Self, Self), (id, seq): (u16, u16), begin: &[u8]) {
        let Some((header, body)) = out.split_first_chunk_mut() else { return };
        header_of(src, dst, body.len(), 0).write(header);
        let rest = icmpv6::echo_rest(id, seq);
        let message = icmpv6::Message { src, dst, kind: Icmpv6Type::ECHO_REQUEST, code: 0, rest };
        let data = super::padded(begin, body.len().saturating_sub(icmpv6::HEADER_LEN));
        message.write(body, &data);
    }

    fn echo_replied(message: &[u8]) -> Option<(u16, &[u8])> {
        let reply = Icmpv6::parse(message).ok()?;
        (reply.kind() == Icmpv6Type::ECHO_REPLY).then(|| (reply.echo_seq(), reply.payload()))
    }
}

/// The header of a message of `len` bytes.
fn header_of(src: Ipv6Addr, dst: Ipv6Addr, len: usize, traffic_class: u8) -> ipv6::Header {
    ipv6::Header {
        traffic_class,
        flow_label: 0,
        payload_len: len as u16,
        next_header: Protocol::ICMPV6,
        hop_limit: TTL,
        src,
        dst,
    }
}
