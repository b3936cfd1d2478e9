//! Headers on top of each other, as the engine takes a frame apart.

use etherparse::{EtherType as OracleType, Ethernet2HeaderSlice};
use margay::wire::flow::{flow_hash, udp_source_port};
use margay::wire::{Arp, EtherType, Ethernet, Icmpv4, Ipv4, Protocol, Tcp, Udp, Vxlan};
use margay::wire::{ethernet, ipv4, vxlan};

/// A frame, down to whatever it ends in. Every payload lies within what carries it and gets shorter at each
/// step, so that it ends.
pub(super) fn ethernet_ip(input: &[u8]) {
    let oracle = Ethernet2HeaderSlice::from_slice(input);
    match Ethernet::parse(input) {
        Err(error) => assert!(oracle.is_err(), "{error}"),
        Ok(frame) => {
            let oracle = oracle.expect("etherparse reads what we read");
            assert_eq!(frame.dst().0, oracle.destination());
            assert_eq!(frame.src().0, oracle.source());
            assert_eq!(OracleType(frame.ethertype().0), oracle.ether_type());
            assert_eq!(frame.payload(), &input[ethernet::HEADER_LEN..]);
            let mut out = [0xa5; ethernet::HEADER_LEN];
            ethernet::write(&mut out, frame.dst(), frame.src(), frame.ethertype());
            assert_eq!(out, input[..ethernet::HEADER_LEN]);
        }
    }
    frame(input);
    let mut repaired = input.to_vec();
    repair_frame(&mut repaired);
    frame(&repaired);
}

/// Makes lengths and checksums right all the way down: hardly any random packet gets behind them.
fn repair_frame(bytes: &mut [u8]) {
    let Some((header, payload)) = bytes.split_first_chunk_mut::<{ ethernet::HEADER_LEN }>() else { return };
    if header[12..] == [0x08, 0x00] {
        repair_packet(payload);
    }
}

fn repair_packet(bytes: &mut [u8]) {
    if !super::wire::repair(bytes) {
        return;
    }
    let ip = Ipv4::parse(bytes).expect("repaired");
    let (header_len, total_len, protocol) = (ip.header_len(), ip.total_len(), ip.protocol());
    let payload = &mut bytes[header_len..total_len];
    let len = payload.len() as u16;
    match protocol {
        Protocol::IPIP => repair_packet(payload),
        Protocol::UDP if len >= 16 => {
            payload[4..6].copy_from_slice(&len.to_be_bytes());
            // The I flag, wherever the datagram goes.
            payload[8] |= 0x08;
            repair_frame(&mut payload[16..]);
        }
        _ => {}
    }
}

fn frame(bytes: &[u8]) {
    let Ok(frame) = Ethernet::parse(bytes) else { return };
    within(frame.payload(), bytes, ethernet::HEADER_LEN);
    match frame.ethertype() {
        EtherType::ARP => drop(Arp::parse(frame.payload())),
        EtherType::IPV4 => packet(frame.payload()),
        _ => {}
    }
}

fn packet(bytes: &[u8]) {
    let Ok(ip) = Ipv4::parse(bytes) else { return };
    within(ip.payload(), bytes, ip.header_len());
    let payload = ip.payload();
    match ip.protocol() {
        Protocol::IPIP => packet(payload),
        Protocol::ICMP => {
            let Ok(icmp) = Icmpv4::parse(payload) else { return };
            within(icmp.payload(), payload, 8);
            if icmp.kind().is_error() {
                quoted(icmp.payload());
            }
        }
        Protocol::TCP => {
            let Ok(tcp) = Tcp::parse(payload) else { return };
            within(tcp.payload(), payload, tcp.header_len());
            within(tcp.options(), payload, 20);
        }
        Protocol::UDP => {
            let Ok(udp) = Udp::parse(payload) else { return };
            within(udp.payload(), payload, 8);
            if udp.dst_port() != vxlan::PORT {
                return;
            }
            let Ok(inner) = Vxlan::parse(udp.payload()) else { return };
            within(inner.payload(), udp.payload(), 8);
            frame(inner.payload());
        }
        _ => {}
    }
}

fn quoted(bytes: &[u8]) {
    let Ok(ip) = Ipv4::parse_quoted(bytes) else { return };
    within(ip.payload(), bytes, ip.header_len());
    if ip.protocol() == Protocol::IPIP {
        quoted(ip.payload());
    }
}

/// `part` stands in `whole` behind a header of `header_len` bytes.
fn within(part: &[u8], whole: &[u8], header_len: usize) {
    assert_eq!(part.as_ptr(), whole[header_len..].as_ptr());
    assert!(part.len() <= whole.len() - header_len);
}

/// The hash depends on addresses, protocol and, but for fragments, ports alone: a packet that was made of
/// nothing else has the same.
pub(super) fn flow(input: &[u8]) {
    let mut bytes = input.to_vec();
    if !super::wire::repair(&mut bytes) {
        return;
    }
    let packet = Ipv4::parse(&bytes).expect("repaired");
    let ports = match packet.payload() {
        [a, b, c, d, ..] if [6, 17, 33, 132, 136].contains(&packet.protocol().0) && !packet.is_fragment() => {
            Some([*a, *b, *c, *d])
        }
        _ => None,
    };

    let mut bare = [0; 24];
    let (header, payload) = bare.split_first_chunk_mut().expect("room for a header");
    payload.copy_from_slice(&ports.unwrap_or_default());
    ipv4::Header {
        tos: 0,
        total_len: 24,
        id: 0,
        dont_fragment: false,
        more_fragments: false,
        fragment_offset: if ports.is_some() { 0 } else { 8 },
        ttl: 1,
        protocol: packet.protocol(),
        src: packet.src(),
        dst: packet.dst(),
    }
    .write(header);
    let hash = flow_hash(&packet);
    assert_eq!(flow_hash(&Ipv4::parse(&bare).expect("just made")), hash);
    assert!(udp_source_port(hash) >= 49152);
}
