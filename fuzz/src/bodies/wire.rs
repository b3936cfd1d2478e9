//! One header at a time, against etherparse and pnet.

use etherparse::{ArpOperation, ArpPacketSlice, Ipv4HeaderSlice};
use margay::wire::checksum;
use margay::wire::{Arp, Ecn, Ipv4, MacAddr, Malformed, Vni, Vxlan};
use margay::wire::{arp, ipv4, vxlan};
use pnet::packet::Packet;
use pnet::packet::ipv4::Ipv4Packet;
use pnet::packet::vxlan::VxlanPacket;

/// Any message: taken when etherparse reads a request or reply for IPv4 over Ethernet, and writing its fields
/// makes the same bytes.
pub(super) fn arp(input: &[u8]) {
    let oracle = ArpPacketSlice::from_slice(input).ok().filter(|oracle| {
        oracle.hw_addr_type().0 == 1
            && oracle.proto_addr_type().0 == 0x0800
            && oracle.hw_addr_size() == 6
            && oracle.proto_addr_size() == 4
            && matches!(oracle.operation(), ArpOperation::REQUEST | ArpOperation::REPLY)
    });
    let message = match Arp::parse(input) {
        Ok(message) => message,
        Err(error) => {
            assert!(oracle.is_none(), "{error}");
            assert_eq!(error == Malformed::ArpTruncated, input.len() < arp::LEN);
            return;
        }
    };
    let oracle = oracle.expect("etherparse reads what we read");
    assert_eq!(message.op() == arp::Operation::Request, oracle.operation() == ArpOperation::REQUEST);
    assert_eq!(message.sender_mac().0, oracle.sender_hw_addr());
    assert_eq!(message.sender_ip().octets(), oracle.sender_protocol_addr());
    assert_eq!(message.target_mac().0, oracle.target_hw_addr());
    assert_eq!(message.target_ip().octets(), oracle.target_protocol_addr());

    let mut out = [0xa5; arp::LEN];
    arp::Message {
        op: message.op(),
        sender_mac: message.sender_mac(),
        sender_ip: message.sender_ip(),
        target_mac: message.target_mac(),
        target_ip: message.target_ip(),
    }
    .write(&mut out);
    assert_eq!(out, input[..arp::LEN]);
}

/// A packet as it comes, then with version, length and checksum made right so that the fields behind them
/// are reached too.
pub(super) fn ipv4(input: &[u8]) {
    one_packet(input);
    let mut repaired = input.to_vec();
    if repair(&mut repaired) {
        assert!(Ipv4::parse(&repaired).is_ok(), "{repaired:02x?}");
        one_packet(&repaired);
    }
}

/// Makes an IPv4 header that parses of any 20 bytes or more, keeping what can be kept.
pub(super) fn repair(bytes: &mut [u8]) -> bool {
    let available = bytes.len().min(0xffff);
    if available < ipv4::MIN_HEADER_LEN {
        return false;
    }
    let words = (bytes[0] & 0x0f).max(5).min((available / 4).min(15) as u8);
    bytes[0] = 0x40 | words;
    let header_len = usize::from(words) * 4;
    let total_len = usize::from(u16::from_be_bytes([bytes[2], bytes[3]])).clamp(header_len, available);
    bytes[2..4].copy_from_slice(&(total_len as u16).to_be_bytes());
    bytes[10..12].copy_from_slice(&[0, 0]);
    let checksum = header_checksum(bytes);
    bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    true
}

/// As pnet has it: etherparse forgets the reserved flag on the way.
fn header_checksum(bytes: &[u8]) -> u16 {
    pnet::packet::ipv4::checksum(&Ipv4Packet::new(bytes).expect("at least 20 bytes"))
}

fn one_packet(input: &[u8]) {
    let oracle = Ipv4HeaderSlice::from_slice(input).ok().filter(|oracle| {
        let fits = usize::from(oracle.total_len()) <= input.len() && oracle.payload_len().is_ok();
        fits && super::is_right(oracle.header_checksum(), header_checksum(input))
    });
    let packet = match Ipv4::parse(input) {
        Ok(packet) => packet,
        Err(error) => {
            assert!(oracle.is_none(), "{error}");
            return;
        }
    };
    let oracle = oracle.expect("etherparse reads what we read");
    same_fields(&packet, &oracle);
    assert_eq!(packet.packet(), &input[..usize::from(oracle.total_len())]);

    let quoted = Ipv4::parse_quoted(input).expect("the quoted form asks for less");
    assert_eq!(quoted.packet(), packet.packet());
    // Half of it as a quote: the same header, as long as that is there.
    let half = &input[..input.len() / 2];
    match Ipv4::parse_quoted(half) {
        Ok(quoted) => same_fields(&quoted, &oracle),
        Err(error) => {
            assert_eq!(error, Malformed::Ipv4Truncated);
            assert!(half.len() < packet.header_len());
        }
    }

    if packet.options().is_empty() && oracle.slice()[6] & 0x80 == 0 {
        written_again(&packet);
    }
    edited_in_place(&packet);
}

fn same_fields(packet: &Ipv4<'_>, oracle: &Ipv4HeaderSlice<'_>) {
    assert_eq!(packet.header(), oracle.slice());
    assert_eq!(packet.header_len(), oracle.slice().len());
    assert_eq!(packet.total_len(), usize::from(oracle.total_len()));
    assert_eq!(packet.dscp(), oracle.dcp().value());
    assert_eq!(packet.ecn().bits(), oracle.ecn().value());
    assert_eq!(packet.tos(), packet.dscp() << 2 | packet.ecn().bits());
    assert_eq!(packet.id(), oracle.identification());
    assert_eq!(packet.dont_fragment(), oracle.dont_fragment());
    assert_eq!(packet.more_fragments(), oracle.more_fragments());
    assert_eq!(packet.fragment_offset(), usize::from(oracle.fragments_offset().value()) * 8);
    assert_eq!(packet.is_fragment(), oracle.is_fragmenting_payload());
    assert_eq!(packet.is_later_fragment(), packet.fragment_offset() != 0);
    assert_eq!(packet.ttl(), oracle.ttl());
    assert_eq!(packet.protocol().0, oracle.protocol().0);
    assert_eq!(packet.checksum(), oracle.header_checksum());
    assert_eq!(packet.src(), oracle.source_addr());
    assert_eq!(packet.dst(), oracle.destination_addr());
    assert_eq!(packet.options(), oracle.options());
}

fn written_again(packet: &Ipv4<'_>) {
    let mut out = [0xa5; ipv4::MIN_HEADER_LEN];
    ipv4::Header {
        tos: packet.tos(),
        total_len: packet.total_len() as u16,
        id: packet.id(),
        dont_fragment: packet.dont_fragment(),
        more_fragments: packet.more_fragments(),
        fragment_offset: packet.fragment_offset() as u16,
        ttl: packet.ttl(),
        protocol: packet.protocol(),
        src: packet.src(),
        dst: packet.dst(),
    }
    .write(&mut out);
    let (written, given) = (u16::from_be_bytes([out[10], out[11]]), packet.checksum());
    assert!(super::is_right(given, written));
    out[10..12].copy_from_slice(&given.to_be_bytes());
    assert_eq!(&out, packet.header());
}

/// After an edit the packet still parses, and differs in that field alone.
fn edited_in_place(packet: &Ipv4<'_>) {
    let mut edited = packet.packet().to_vec();
    ipv4::decrement_ttl(&mut edited);
    assert_eq!(Ipv4::parse(&edited).expect("still right").ttl(), packet.ttl().saturating_sub(1));
    for ecn in [Ecn::NotEct, Ecn::Ect1, Ecn::Ect0, Ecn::Ce] {
        ipv4::set_ecn(&mut edited, ecn);
        let marked = Ipv4::parse(&edited).expect("still right");
        assert_eq!((marked.ecn(), marked.dscp()), (ecn, packet.dscp()));
    }
    edited[1] = packet.tos();
    edited[8] = packet.ttl();
    edited[10..12].copy_from_slice(&packet.checksum().to_be_bytes());
    assert_eq!(edited, packet.packet());
}

/// Against pnet, which takes any flags; ours wants the I flag and nothing else (RFC 7348 5).
pub(super) fn vxlan(input: &[u8]) {
    let oracle = VxlanPacket::new(input).filter(|oracle| oracle.get_flags() & 0x08 != 0);
    let packet = match Vxlan::parse(input) {
        Ok(packet) => packet,
        Err(error) => {
            assert!(oracle.is_none(), "{error}");
            assert_eq!(error == Malformed::VxlanTruncated, input.len() < vxlan::HEADER_LEN);
            return;
        }
    };
    let oracle = oracle.expect("pnet reads what we read");
    assert_eq!(packet.vni(), Vni(oracle.get_vni()));
    assert!(packet.vni() <= Vni::MAX);
    assert_eq!(packet.payload(), oracle.payload());

    let mut out = [0xa5; vxlan::HEADER_LEN];
    vxlan::write(&mut out, packet.vni());
    assert_eq!(out, [0x08, 0, 0, 0, input[4], input[5], input[6], 0]);
}

/// The sum of all bytes, of pieces of even length put together, and after the change of one word, against
/// pnet's. The first byte says where to cut.
pub(super) fn checksum(input: &[u8]) {
    let Some((cut, bytes)) = input.split_first() else { return };
    // pnet looks away from the word at an index; the one after the last does not exist.
    let oracle = |bytes: &[u8]| match bytes.len() {
        0 => 0xffff,
        len => pnet::packet::util::checksum(bytes, len),
    };
    let whole = checksum::sum(bytes);
    assert_eq!(whole.checksum(), oracle(bytes));
    assert_eq!(checksum::checksum(bytes), oracle(bytes));

    let at = (usize::from(*cut) * 2).min(bytes.len() & !1);
    let (head, tail) = bytes.split_at(at);
    assert_eq!(checksum::sum(head) + checksum::sum(tail), whole);

    let Some(&[a, b]) = tail.first_chunk() else { return };
    let (old, new) = (u16::from_be_bytes([a, b]), !u16::from_be_bytes([a, b]).rotate_left(3));
    let mut changed = bytes.to_vec();
    changed[at..at + 2].copy_from_slice(&new.to_be_bytes());
    let updated = checksum::update(whole.checksum(), old, new);
    // Zero has two forms only where all the rest is zero: a sum that no real header has.
    let expected = oracle(&changed);
    assert!(super::is_right(updated, expected) || (updated == 0 && expected == 0xffff));
}

/// Text is an address exactly when writing that address gives the text again, but for case.
pub(super) fn mac(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(mac) = text.parse::<MacAddr>() {
        assert_eq!(mac.to_string(), text.to_ascii_lowercase());
    }
    if let Some(octets) = input.first_chunk::<6>() {
        assert_eq!(MacAddr(*octets).to_string().parse(), Ok(MacAddr(*octets)));
    }
}
