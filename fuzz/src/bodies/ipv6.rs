//! IPv6 with its extension headers, ICMPv6 and neighbour discovery, against etherparse and pnet.

use std::net::Ipv6Addr;

use etherparse::icmpv6::{
    NdpOptionSlice, NdpOptionsIterator, NeighborAdvertisementPayloadSlice, NeighborSolicitationPayloadSlice,
};
use etherparse::{
    Icmpv6Slice, Icmpv6Type as OracleType, IpAuthHeaderSlice, Ipv6ExtensionsSlice, Ipv6FragmentHeaderSlice,
    Ipv6HeaderSlice, Ipv6RawExtHeaderSlice,
};
use margay::wire::ipv6::{HEADER_LEN, MAX_EXTENSION_BYTES, MAX_EXTENSIONS};
use margay::wire::{Ecn, Icmpv6, Icmpv6Type, Ipv6, MacAddr, Malformed, Protocol};
use margay::wire::{NeighborAdvertisement, NeighborSolicitation, icmpv6, ipv6, ndp};
use pnet::packet::icmpv6::Icmpv6Packet;

/// A packet as it comes; with version and length made right; and with an extension header for its first.
pub(super) fn ipv6(input: &[u8]) {
    one_packet(input);
    let mut repaired = input.to_vec();
    if !repair(&mut repaired) {
        return;
    }
    one_packet(&repaired);
    let extensions = [0, 43, 44, 51, 60];
    repaired[6] = extensions[usize::from(repaired[6]) % extensions.len()];
    one_packet(&repaired);
}

/// Makes a fixed header that parses of any 40 bytes or more, keeping what can be kept.
pub(super) fn repair(bytes: &mut [u8]) -> bool {
    let Some(available) = bytes.len().min(0xffff).checked_sub(HEADER_LEN) else { return false };
    bytes[0] = 0x60 | bytes[0] & 0x0f;
    let len = usize::from(u16::from_be_bytes([bytes[4], bytes[5]])).min(available);
    bytes[4..6].copy_from_slice(&(len as u16).to_be_bytes());
    true
}

fn one_packet(input: &[u8]) {
    let oracle = Ipv6HeaderSlice::from_slice(input).ok();
    let whole = oracle.as_ref().and_then(|oracle| {
        let total_len = HEADER_LEN + usize::from(oracle.payload_length());
        input.get(HEADER_LEN..total_len).filter(|_| total_len <= 0xffff)
    });
    let walked = oracle.as_ref().zip(whole).map(|(oracle, rest)| walk(oracle.next_header().0, rest));
    let packet = match Ipv6::parse(input) {
        Ok(packet) => packet,
        Err(error) => {
            match walked {
                None => assert!(!is_about_extensions(error), "{error}"),
                Some(walked) => {
                    assert!(walked.is_none() && is_about_extensions(error), "{error}: {walked:?}")
                }
            }
            return;
        }
    };
    let oracle = oracle.expect("etherparse reads what we read");
    same_fields(&packet, &oracle);
    let walked = walked.flatten().expect("etherparse walks what we walk");
    let ours = Walked {
        len: packet.extensions().len(),
        protocol: packet.protocol().0,
        fragment: packet.is_fragment(),
        offset: packet.fragment_offset(),
        id: packet.id(),
    };
    assert_eq!(ours, walked);
    assert_eq!(packet.is_later_fragment(), walked.offset != 0);
    assert_eq!(packet.total_len(), packet.packet().len());
    assert_eq!(packet.packet(), &input[..packet.total_len()]);
    assert_eq!([packet.header(), packet.payload()].concat(), packet.packet());

    let quoted = Ipv6::parse_quoted(input).expect("the quoted form asks for less");
    assert_eq!((quoted.packet(), quoted.header_len()), (packet.packet(), packet.header_len()));
    // What is left of it as a quote: the same fields, and no more headers than there are bytes.
    for len in [input.len() / 2, packet.header_len() - 1, packet.header_len()] {
        match Ipv6::parse_quoted(&input[..len]) {
            Ok(quoted) => {
                same_fields(&quoted, &oracle);
                assert!(quoted.header_len() <= packet.header_len().min(len));
            }
            Err(error) => assert!(error == Malformed::Ipv6Truncated && len < HEADER_LEN),
        }
    }
    written_again(&packet);
    edited_in_place(&packet);
}

fn is_about_extensions(error: Malformed) -> bool {
    matches!(error, Malformed::Ipv6ExtensionTruncated | Malformed::Ipv6Extensions)
}

#[derive(Debug, PartialEq)]
struct Walked {
    len: usize,
    protocol: u8,
    fragment: bool,
    offset: usize,
    id: Option<u32>,
}

/// Extension headers one by one as etherparse reads each, up to a fragment that is not the first; `None` for what is
/// cut short or beyond our bounds.
fn walk(first: u8, rest: &[u8]) -> Option<Walked> {
    let mut walked = Walked { len: 0, protocol: first, fragment: false, offset: 0, id: None };
    for count in 0.. {
        let at = &rest[walked.len..];
        let (len, next) = match walked.protocol {
            0 if count == 0 => options(at)?,
            43 | 60 => options(at)?,
            44 => {
                let header = Ipv6FragmentHeaderSlice::from_slice(at).ok()?;
                walked.fragment |= header.is_fragmenting_payload();
                walked.offset = usize::from(header.fragment_offset().value()) * 8;
                walked.id = Some(header.identification());
                (8, header.next_header().0)
            }
            // One of 8 bytes, which etherparse does not know and who has the key refuses.
            51 if at.len() >= 8 && at[1] == 0 => (8, at[0]),
            51 => {
                let header = IpAuthHeaderSlice::from_slice(at).ok()?;
                (header.slice().len(), header.next_header().0)
            }
            _ => break,
        };
        walked.len += len;
        walked.protocol = next;
        if count == MAX_EXTENSIONS || walked.len > MAX_EXTENSION_BYTES {
            return None;
        }
        if walked.offset != 0 {
            return Some(walked);
        }
    }
    // All of them at once. It refuses hop-by-hop options elsewhere, which to us are what the packet carries.
    if let Ok((headers, next, _)) = Ipv6ExtensionsSlice::from_slice(first.into(), rest) {
        assert_eq!((headers.slice().len(), next.0), (walked.len, walked.protocol));
        assert_eq!(headers.is_fragmenting_payload(), walked.fragment);
    }
    // RFC 7112: a first fragment has the beginning of what it carries, unless that is nothing.
    let is_cut = walked.fragment && rest.len() < walked.len + 8 && walked.protocol != 59;
    (!is_cut).then_some(walked)
}

fn options(bytes: &[u8]) -> Option<(usize, u8)> {
    let header = Ipv6RawExtHeaderSlice::from_slice(bytes).ok()?;
    Some((header.slice().len(), header.next_header().0))
}

fn same_fields(packet: &Ipv6<'_>, oracle: &Ipv6HeaderSlice<'_>) {
    assert_eq!(packet.traffic_class(), oracle.traffic_class());
    assert_eq!(packet.ecn().bits(), oracle.ecn().value());
    assert_eq!(packet.flow_label(), oracle.flow_label().value());
    assert_eq!(packet.total_len(), HEADER_LEN + usize::from(oracle.payload_length()));
    assert_eq!(packet.next_header().0, oracle.next_header().0);
    assert_eq!(packet.hop_limit(), oracle.hop_limit());
    assert_eq!(packet.src(), oracle.source_addr());
    assert_eq!(packet.dst(), oracle.destination_addr());
}

fn written_again(packet: &Ipv6<'_>) {
    let mut out = [0xa5; HEADER_LEN];
    ipv6::Header {
        traffic_class: packet.traffic_class(),
        flow_label: packet.flow_label(),
        payload_len: (packet.total_len() - HEADER_LEN) as u16,
        next_header: packet.next_header(),
        hop_limit: packet.hop_limit(),
        src: packet.src(),
        dst: packet.dst(),
    }
    .write(&mut out);
    assert_eq!(out, packet.packet()[..HEADER_LEN]);
}

/// After an edit the packet still parses, and differs in that field alone.
fn edited_in_place(packet: &Ipv6<'_>) {
    let mut edited = packet.packet().to_vec();
    ipv6::decrement_hop_limit(&mut edited);
    assert_eq!(Ipv6::parse(&edited).expect("still right").hop_limit(), packet.hop_limit().saturating_sub(1));
    for ecn in [Ecn::NotEct, Ecn::Ect1, Ecn::Ect0, Ecn::Ce] {
        ipv6::set_ecn(&mut edited, ecn);
        let marked = Ipv6::parse(&edited).expect("still right");
        assert_eq!((marked.ecn(), marked.flow_label()), (ecn, packet.flow_label()));
        assert_eq!(marked.traffic_class() >> 2, packet.traffic_class() >> 2);
    }
    // A first fragment keeps the beginning of what it carries.
    let payload = packet.payload().len();
    let shorter = packet.header_len() + (payload / 2).max(payload.min(8));
    ipv6::set_total_len(&mut edited, shorter as u16);
    assert_eq!(Ipv6::parse(&edited).expect("its headers are all there").total_len(), shorter);

    ipv6::set_total_len(&mut edited, packet.total_len() as u16);
    ipv6::set_ecn(&mut edited, packet.ecn());
    edited[7] = packet.hop_limit();
    assert_eq!(edited, packet.packet());
}

/// Source and destination address of 16 bytes each, then as many bytes as an IP packet can hold.
fn split(input: &[u8]) -> Option<(Ipv6Addr, Ipv6Addr, &[u8])> {
    let (src, rest) = input.split_first_chunk::<16>()?;
    let (dst, rest) = rest.split_first_chunk::<16>()?;
    Some((Ipv6Addr::from(*src), Ipv6Addr::from(*dst), &rest[..rest.len().min(65_495)]))
}

pub(super) fn icmpv6(input: &[u8]) {
    let Some((src, dst, bytes)) = split(input) else { return };
    let oracle = Icmpv6Slice::from_slice(bytes);
    let message = match Icmpv6::parse(bytes) {
        Ok(message) => message,
        Err(error) => {
            assert_eq!(error, Malformed::IcmpTruncated);
            assert!(oracle.is_err() && bytes.len() < icmpv6::HEADER_LEN);
            return;
        }
    };
    let oracle = oracle.expect("etherparse reads what we read");
    assert_eq!(message.kind().0, oracle.type_u8());
    assert_eq!(message.code(), oracle.code_u8());
    assert_eq!(message.checksum(), oracle.checksum());
    assert_eq!(message.rest(), oracle.bytes5to8());
    assert_eq!(message.payload(), oracle.payload());
    match oracle.icmp_type() {
        OracleType::PacketTooBig { mtu } => assert_eq!(message.word(), mtu),
        OracleType::ParameterProblem(problem) => assert_eq!(message.word(), problem.pointer),
        OracleType::EchoRequest(echo) | OracleType::EchoReply(echo) => {
            assert_eq!((message.echo_id(), message.echo_seq()), (echo.id, echo.seq));
        }
        _ => {}
    }
    let second = Icmpv6Packet::new(bytes).expect("pnet reads what we read");
    let expected = pnet::packet::icmpv6::checksum(&second, &src, &dst);
    assert_eq!(message.verify(src, dst), super::is_right(message.checksum(), expected));

    // The same message, written with room to spare and with too little.
    let (kind, code, rest) = (message.kind(), message.code(), message.rest());
    for room in [bytes.len() + 3, bytes.len(), bytes.len() / 2] {
        let mut out = vec![0xa5; room];
        let len = icmpv6::Message { src, dst, kind, code, rest }.write(&mut out, message.payload());
        assert!(out[len..].iter().all(|byte| *byte == 0xa5));
        let Ok(written) = Icmpv6::parse(&out[..len]) else {
            assert!(len == 0 && room < icmpv6::HEADER_LEN);
            continue;
        };
        let most = if kind.is_error() { icmpv6::MAX_ERROR_LEN } else { usize::MAX };
        assert_eq!(len, room.min(bytes.len()).min(most));
        assert!(written.verify(src, dst));
        assert_eq!((written.kind(), written.code(), written.rest()), (kind, code, rest));
        assert_eq!(written.payload(), &message.payload()[..len - icmpv6::HEADER_LEN]);
        answered(src, dst, &out[..len]);
    }
}

/// An echo request becomes a right reply; anything else stays what it is.
fn answered(src: Ipv6Addr, dst: Ipv6Addr, bytes: &[u8]) {
    let request = Icmpv6::parse(bytes).expect("parsed before");
    let mut answer = bytes.to_vec();
    icmpv6::make_echo_reply(&mut answer);
    if request.kind() != Icmpv6Type::ECHO_REQUEST {
        assert_eq!(answer, bytes);
        return;
    }
    let reply = Icmpv6::parse(&answer).expect("as long as before");
    assert_eq!(reply.kind(), Icmpv6Type::ECHO_REPLY);
    assert_eq!((reply.code(), reply.rest()), (request.code(), request.rest()));
    assert_eq!(reply.payload(), request.payload());
    assert!(reply.verify(dst, src));
}

/// Addresses, and a message which is made a solicitation and an advertisement.
pub(super) fn ndp(input: &[u8]) {
    let Some((src, dst, bytes)) = split(input) else { return };
    let Ok(message) = Icmpv6::parse(bytes) else { return };
    discovered(src, dst, &message);
    for kind in [Icmpv6Type::NEIGHBOR_SOLICITATION, Icmpv6Type::NEIGHBOR_ADVERTISEMENT] {
        let mut repaired = vec![0; bytes.len()];
        let header = icmpv6::Message { src, dst, kind, code: 0, rest: message.rest() };
        header.write(&mut repaired, message.payload());
        discovered(src, dst, &Icmpv6::parse(&repaired).expect("as long as before"));
    }
}

fn discovered(src: Ipv6Addr, dst: Ipv6Addr, message: &Icmpv6<'_>) {
    let mut packet = vec![0; HEADER_LEN + icmpv6::HEADER_LEN];
    ipv6::Header {
        traffic_class: 0,
        flow_label: 0,
        payload_len: (icmpv6::HEADER_LEN + message.payload().len()) as u16,
        next_header: Protocol::ICMPV6,
        hop_limit: ndp::HOP_LIMIT,
        src,
        dst,
    }
    .write(packet.first_chunk_mut().expect("room for a header"));
    let [a, b] = message.checksum().to_be_bytes();
    packet[HEADER_LEN..HEADER_LEN + 4].copy_from_slice(&[message.kind().0, message.code(), a, b]);
    packet[HEADER_LEN + 4..].copy_from_slice(&message.rest());
    packet.extend(message.payload());
    let ip = Ipv6::parse(&packet).expect("just made");

    let (payload, verifies) = (message.payload(), message.verify(src, dst));
    match NeighborSolicitation::parse(message) {
        Ok(asks) => {
            let oracle = NeighborSolicitationPayloadSlice::from_slice(payload).expect("etherparse reads it");
            assert_eq!((message.kind().0, message.code()), (135, 0));
            assert_eq!(asks.target, oracle.target_address());
            assert_eq!(Ok(asks.source_link), link(oracle.options_iterator(), 1));
            let probe = src.is_unspecified();
            let wrong_probe = probe && (dst != ndp::solicited_node(dst) || asks.source_link.is_some());
            assert_eq!(asks.check(&ip).is_ok(), verifies && !wrong_probe);

            let mut out = [0xa5; 40];
            let len = asks.write(&mut out, src, dst);
            let written = Icmpv6::parse(&out[..len]).expect("long enough");
            assert!(written.verify(src, dst));
            assert_eq!(NeighborSolicitation::parse(&written), Ok(asks));
        }
        Err(error) => refused(message, Icmpv6Type::NEIGHBOR_SOLICITATION, 1, error),
    }
    match NeighborAdvertisement::parse(message) {
        Ok(tells) => {
            let oracle = NeighborAdvertisementPayloadSlice::from_slice(payload).expect("etherparse reads it");
            let bytes = &packet[HEADER_LEN..];
            let OracleType::NeighborAdvertisement(flags) =
                Icmpv6Slice::from_slice(bytes).expect("long enough").icmp_type()
            else {
                panic!("etherparse takes it for something else");
            };
            assert_eq!(
                (tells.router, tells.solicited, tells.overrides),
                (flags.router, flags.solicited, flags.r#override)
            );
            assert_eq!(tells.target, oracle.target_address());
            assert_eq!(Ok(tells.target_link), link(oracle.options_iterator(), 2));
            let forbidden = tells.solicited && dst.is_multicast();
            assert_eq!(tells.check(&ip).is_ok(), verifies && !forbidden);

            let mut out = [0xa5; 40];
            let len = tells.write(&mut out, src, dst);
            let written = Icmpv6::parse(&out[..len]).expect("long enough");
            assert!(written.verify(src, dst));
            assert_eq!(NeighborAdvertisement::parse(&written), Ok(tells));
        }
        Err(error) => refused(message, Icmpv6Type::NEIGHBOR_ADVERTISEMENT, 2, error),
    }
}

/// A reason to refuse is one that an oracle sees as well.
fn refused(message: &Icmpv6<'_>, kind: Icmpv6Type, wanted: u8, error: Malformed) {
    let payload = message.payload();
    match error {
        Malformed::NdpTruncated => assert!(payload.len() < 16),
        Malformed::NdpOption => {
            assert!(link(NdpOptionsIterator::from_slice(&payload[16..]), wanted).is_err())
        }
        Malformed::NdpForbidden => {
            assert!(message.kind() != kind || message.code() != 0 || payload[0] == 0xff);
        }
        other => panic!("{other}"),
    }
}

/// The first link-layer address among options as etherparse finds them. What it asks of options that are not looked
/// at here, their sizes, is not asked.
fn link(options: NdpOptionsIterator<'_>, wanted: u8) -> Result<Option<MacAddr>, ()> {
    let mut rest = options.rest();
    let mut found = None;
    let mut count = 0;
    while !rest.is_empty() {
        let (header, _) = etherparse::icmpv6::NdpOptionHeader::from_slice(rest).map_err(drop)?;
        let option = rest.get(..header.byte_len()).filter(|option| !option.is_empty()).ok_or(())?;
        rest = &rest[option.len()..];
        count += 1;
        if header.option_type.0 != wanted || found.is_some() {
            continue;
        }
        let address = match NdpOptionsIterator::from_slice(option).next() {
            Some(Ok(NdpOptionSlice::SourceLinkLayerAddress(option))) => option.link_layer_address(),
            Some(Ok(NdpOptionSlice::TargetLinkLayerAddress(option))) => option.link_layer_address(),
            other => panic!("{other:?}"),
        };
        found = Some(MacAddr(address.try_into().map_err(drop)?));
    }
    if count > ndp::MAX_OPTIONS { Err(()) } else { Ok(found) }
}
