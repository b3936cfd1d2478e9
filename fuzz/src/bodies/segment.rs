//! What stands on IP, against etherparse and pnet. The first 8 bytes of TCP's and UDP's input are source and
//! destination address, the rest is the IP payload.

use std::net::{IpAddr, Ipv4Addr};

use etherparse::{Icmpv4Slice, TcpHeaderSlice, UdpSlice};
use margay::wire::checksum::{is_partial, pseudo_header};
use margay::wire::tcp::{self, Flags};
use margay::wire::{Icmpv4, Icmpv4Type, Malformed, Protocol, Tcp, Udp};
use margay::wire::{icmpv4, udp};
use pnet::packet::icmp::IcmpPacket;
use pnet::packet::tcp::TcpPacket;
use pnet::packet::udp::UdpPacket;

fn split(input: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr, &[u8])> {
    let (src, rest) = input.split_first_chunk::<4>()?;
    let (dst, rest) = rest.split_first_chunk::<4>()?;
    // More does not fit an IP packet, nor pnet's 32-bit sum of words.
    Some((Ipv4Addr::from(*src), Ipv4Addr::from(*dst), &rest[..rest.len().min(65_515)]))
}

pub(super) fn udp(input: &[u8]) {
    let Some((src, dst, bytes)) = split(input) else { return };
    one_datagram(src, dst, bytes);

    let mut repaired = bytes.to_vec();
    if repaired.len() < udp::HEADER_LEN {
        return;
    }
    repaired[4..6].copy_from_slice(&(bytes.len() as u16).to_be_bytes());
    one_datagram(src, dst, &repaired);

    let (src_ip, dst_ip) = (IpAddr::from(src), IpAddr::from(dst));
    let len = repaired.len();
    udp::write_checksum(&mut repaired, pseudo_header(src_ip, dst_ip, Protocol::UDP, len).folded());
    let partial = Udp::parse(&repaired).expect("its length is right").checksum();
    assert!(is_partial(partial, src_ip, dst_ip, Protocol::UDP, len));
    one_datagram(src, dst, &repaired);

    udp::fill_checksum(&mut repaired, src_ip, dst_ip);
    let filled = Udp::parse(&repaired).expect("its length is right");
    assert!(filled.has_checksum() && filled.verify(src_ip, dst_ip));
    one_datagram(src, dst, &repaired);
}

fn one_datagram(src: Ipv4Addr, dst: Ipv4Addr, bytes: &[u8]) {
    // etherparse takes a length of 0 for "all there is", which only IPv6 jumbograms may say.
    let oracle = UdpSlice::from_slice(bytes).ok().filter(|oracle| oracle.length() != 0);
    let datagram = match Udp::parse(bytes) {
        Ok(datagram) => datagram,
        Err(error) => {
            assert!(oracle.is_none(), "{error}");
            assert_eq!(error == Malformed::UdpTruncated, bytes.len() < udp::HEADER_LEN);
            return;
        }
    };
    let oracle = oracle.expect("etherparse reads what we read");
    assert_eq!(datagram.src_port(), oracle.source_port());
    assert_eq!(datagram.dst_port(), oracle.destination_port());
    assert_eq!(datagram.len(), usize::from(oracle.length()));
    assert_eq!(datagram.checksum(), oracle.checksum());
    assert_eq!(datagram.payload(), oracle.payload());

    let second = UdpPacket::new(&bytes[..datagram.len()]).expect("pnet reads what we read");
    let expected = pnet::packet::udp::ipv4_checksum(&second, &src, &dst);
    let right = datagram.checksum() == 0 || super::is_right(datagram.checksum(), expected);
    assert_eq!(datagram.verify(src.into(), dst.into()), right);

    let mut out = [0xa5; udp::HEADER_LEN];
    udp::Header {
        src_port: datagram.src_port(),
        dst_port: datagram.dst_port(),
        len: datagram.len() as u16,
        checksum: datagram.checksum(),
    }
    .write(&mut out);
    assert_eq!(out, bytes[..udp::HEADER_LEN]);
}

pub(super) fn tcp(input: &[u8]) {
    let Some((src, dst, bytes)) = split(input) else { return };
    one_segment(src, dst, bytes);

    let mut repaired = bytes.to_vec();
    if repaired.len() < tcp::MIN_HEADER_LEN {
        return;
    }
    let words = (repaired[12] >> 4).clamp(5, (repaired.len() / 4).min(15) as u8);
    repaired[12] = words << 4 | repaired[12] & 0x0f;
    one_segment(src, dst, &repaired);
    tcp::fill_checksum(&mut repaired, src.into(), dst.into());
    assert!(Tcp::parse(&repaired).expect("its header length is right").verify(src.into(), dst.into()));
    one_segment(src, dst, &repaired);
    edited_in_place(&repaired);
}

fn one_segment(src: Ipv4Addr, dst: Ipv4Addr, bytes: &[u8]) {
    let oracle = TcpHeaderSlice::from_slice(bytes);
    let segment = match Tcp::parse(bytes) {
        Ok(segment) => segment,
        Err(error) => {
            assert!(oracle.is_err(), "{error}");
            return;
        }
    };
    let oracle = oracle.expect("etherparse reads what we read");
    assert_eq!(segment.src_port(), oracle.source_port());
    assert_eq!(segment.dst_port(), oracle.destination_port());
    assert_eq!(segment.seq(), oracle.sequence_number());
    assert_eq!(segment.ack(), oracle.acknowledgment_number());
    assert_eq!(segment.header_len(), oracle.slice().len());
    assert_eq!(segment.header(), oracle.slice());
    assert_eq!(segment.reserved() & 1 == 1, oracle.ns());
    for (flag, set) in [
        (Flags::FIN, oracle.fin()),
        (Flags::SYN, oracle.syn()),
        (Flags::RST, oracle.rst()),
        (Flags::PSH, oracle.psh()),
        (Flags::ACK, oracle.ack()),
        (Flags::URG, oracle.urg()),
        (Flags::ECE, oracle.ece()),
        (Flags::CWR, oracle.cwr()),
    ] {
        assert_eq!(segment.flags().contains(flag), set, "{flag:?}");
    }
    assert_eq!(segment.window(), oracle.window_size());
    assert_eq!(segment.checksum(), oracle.checksum());
    assert_eq!(segment.urgent(), oracle.urgent_pointer());
    assert_eq!(segment.options(), oracle.options());
    assert_eq!(segment.payload(), &bytes[segment.header_len()..]);

    let second = TcpPacket::new(bytes).expect("pnet reads what we read");
    let expected = pnet::packet::tcp::ipv4_checksum(&second, &src, &dst);
    assert_eq!(segment.verify(src.into(), dst.into()), super::is_right(segment.checksum(), expected));
}

/// What segmentation does to a header: each write changes its field alone, and can be taken back.
fn edited_in_place(bytes: &[u8]) {
    let before = Tcp::parse(bytes).expect("parsed before");
    let mut edited = bytes.to_vec();
    tcp::write_seq(&mut edited, !before.seq());
    tcp::write_flags(&mut edited, !before.flags());
    tcp::write_checksum(&mut edited, !before.checksum());
    let after = Tcp::parse(&edited).expect("the header length is as before");
    assert_eq!(
        (after.seq(), after.flags(), after.checksum()),
        (!before.seq(), !before.flags(), !before.checksum())
    );
    tcp::write_seq(&mut edited, before.seq());
    tcp::write_flags(&mut edited, before.flags());
    tcp::write_checksum(&mut edited, before.checksum());
    assert_eq!(edited, bytes);
}

pub(super) fn icmpv4(input: &[u8]) {
    let input = &input[..input.len().min(65_515)];
    let message = match Icmpv4::parse(input) {
        Ok(message) => message,
        Err(error) => {
            assert_eq!(error, Malformed::IcmpTruncated);
            assert!(input.len() < icmpv4::HEADER_LEN);
            return;
        }
    };
    // etherparse also wants timestamps to have their one length, which is no business of a router.
    if let Ok(oracle) = Icmpv4Slice::from_slice(input) {
        assert_eq!(message.kind().0, oracle.type_u8());
        assert_eq!(message.code(), oracle.code_u8());
        assert_eq!(message.checksum(), oracle.checksum());
        assert_eq!(message.rest(), oracle.bytes5to8());
    }
    let oracle = IcmpPacket::new(input).expect("pnet reads what we read");
    let expected = pnet::packet::icmp::checksum(&oracle);
    assert_eq!(message.verify(), super::is_right(message.checksum(), expected));
    assert_eq!(message.payload(), &input[icmpv4::HEADER_LEN..]);

    // The same message, written with room to spare and with too little.
    for room in [input.len() + 3, input.len(), input.len() / 2] {
        let mut out = vec![0xa5; room];
        let len =
            icmpv4::write_error(&mut out, message.kind(), message.code(), message.rest(), message.payload());
        assert!(out[len..].iter().all(|byte| *byte == 0xa5));
        let Ok(written) = Icmpv4::parse(&out[..len]) else {
            assert!(len == 0 && room < icmpv4::HEADER_LEN);
            continue;
        };
        assert_eq!(len, room.min(input.len()));
        assert!(written.verify());
        assert_eq!(written.payload(), &message.payload()[..len - icmpv4::HEADER_LEN]);
        answered(&out[..len]);
    }
}

/// An echo request becomes a right reply; anything else stays what it is.
fn answered(bytes: &[u8]) {
    let request = Icmpv4::parse(bytes).expect("parsed before");
    let mut answer = bytes.to_vec();
    icmpv4::make_echo_reply(&mut answer);
    if request.kind() != Icmpv4Type::ECHO_REQUEST {
        assert_eq!(answer, bytes);
        return;
    }
    let reply = Icmpv4::parse(&answer).expect("as long as before");
    assert_eq!(reply.kind(), Icmpv4Type::ECHO_REPLY);
    assert_eq!((reply.code(), reply.rest()), (request.code(), request.rest()));
    assert_eq!(reply.payload(), request.payload());
    assert!(reply.verify());
}
