//! Headers on top of each other, as the engine takes a frame apart.

use etherparse::{EtherType as OracleType, Ethernet2HeaderSlice};
use margay::wire::flow::{flow_hash, udp_source_port};
use margay::wire::ip::View;
use margay::wire::{Arp, EtherType, Ethernet, Family, Icmpv4, Icmpv6, Icmpv6Type, Ipv4, Ipv6};
use margay::wire::{NeighborAdvertisement, NeighborSolicitation, Protocol, Tcp, Udp, Vxlan};
use margay::wire::{ethernet, ipv4, ipv6, vxlan};

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
    match header[12..] {
        [0x08, 0x00] => repair_packet(Family::V4, payload),
        [0x86, 0xdd] => repair_packet(Family::V6, payload),
        _ => {}
    }
}

fn repair_packet(family: Family, bytes: &mut [u8]) {
    let (header_len, total_len, protocol) = match family {
        Family::V4 if super::wire::repair(bytes) => extent(&Ipv4::parse(bytes).expect("repaired")),
        Family::V6 if super::ipv6::repair(bytes) => match Ipv6::parse(bytes) {
            Ok(ip) => extent(&ip),
            Err(_) => return,
        },
        _ => return,
    };
    let payload = &mut bytes[header_len..total_len];
    let len = payload.len() as u16;
    match protocol {
        Protocol::IPIP => repair_packet(Family::V4, payload),
        Protocol::IPV6 => repair_packet(Family::V6, payload),
        Protocol::UDP if len >= 16 => {
            payload[4..6].copy_from_slice(&len.to_be_bytes());
            // The I flag, wherever the datagram goes.
            payload[8] |= 0x08;
            repair_frame(&mut payload[16..]);
        }
        _ => {}
    }
}

fn extent<'a>(ip: &impl View<'a>) -> (usize, usize, Protocol) {
    (ip.header_len(), ip.total_len(), ip.protocol())
}

fn frame(bytes: &[u8]) {
    let Ok(frame) = Ethernet::parse(bytes) else { return };
    within(frame.payload(), bytes, ethernet::HEADER_LEN);
    match frame.ethertype() {
        EtherType::ARP => drop(Arp::parse(frame.payload())),
        EtherType::IPV4 => packet::<Ipv4<'_>>(frame.payload()),
        EtherType::IPV6 => packet::<Ipv6<'_>>(frame.payload()),
        _ => {}
    }
}

fn packet<'a, V: View<'a>>(bytes: &'a [u8]) {
    let Ok(ip) = V::parse(bytes) else { return };
    within(ip.payload(), bytes, ip.header_len());
    let payload = ip.payload();
    match ip.protocol() {
        Protocol::IPIP => packet::<Ipv4<'_>>(payload),
        Protocol::IPV6 => packet::<Ipv6<'_>>(payload),
        Protocol::ICMP => {
            let Ok(icmp) = Icmpv4::parse(payload) else { return };
            within(icmp.payload(), payload, 8);
            if icmp.kind().is_error() {
                quoted::<Ipv4<'_>>(icmp.payload());
            }
        }
        Protocol::ICMPV6 => {
            let Ok(icmp) = Icmpv6::parse(payload) else { return };
            within(icmp.payload(), payload, 8);
            match icmp.kind() {
                kind if kind.is_error() => quoted::<Ipv6<'_>>(icmp.payload()),
                Icmpv6Type::NEIGHBOR_SOLICITATION => drop(NeighborSolicitation::parse(&icmp)),
                Icmpv6Type::NEIGHBOR_ADVERTISEMENT => drop(NeighborAdvertisement::parse(&icmp)),
                _ => {}
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

fn quoted<'a, V: View<'a>>(bytes: &'a [u8]) {
    let Ok(ip) = V::parse_quoted(bytes) else { return };
    within(ip.payload(), bytes, ip.header_len());
    match ip.protocol() {
        Protocol::IPIP => quoted::<Ipv4<'_>>(ip.payload()),
        Protocol::IPV6 => quoted::<Ipv6<'_>>(ip.payload()),
        _ => {}
    }
}

/// `part` stands in `whole` behind a header of `header_len` bytes.
fn within(part: &[u8], whole: &[u8], header_len: usize) {
    assert_eq!(part.as_ptr(), whole[header_len..].as_ptr());
    assert!(part.len() <= whole.len() - header_len);
}

/// The hash depends on addresses, protocol and, but for fragments, ports alone: a packet that was made of
/// nothing else has the same. The first four bits say which family's.
pub(super) fn flow(input: &[u8]) {
    let mut bytes = input.to_vec();
    match Family::of_packet(input) {
        Some(Family::V6) => flow_of_ipv6(&mut bytes),
        _ => flow_of_ipv4(&mut bytes),
    }
}

fn flow_of_ipv4(bytes: &mut [u8]) {
    if !super::wire::repair(bytes) {
        return;
    }
    let packet = Ipv4::parse(bytes).expect("repaired");
    let ports = ports(&packet);
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
    same_flow(&packet, &Ipv4::parse(&bare).expect("just made"));
}

fn flow_of_ipv6(bytes: &mut [u8]) {
    if !super::ipv6::repair(bytes) {
        return;
    }
    let Ok(packet) = Ipv6::parse(bytes) else { return };
    let ports = ports(&packet);
    // A fragment header with an offset of 8 bytes keeps what has no ports from having some.
    let mut bare = [0; ipv6::HEADER_LEN + 12];
    let (header, rest) = bare.split_first_chunk_mut().expect("room for a header");
    rest[..8].copy_from_slice(&[packet.protocol().0, 0, 0, 8, 0, 0, 0, 0]);
    let next_header = match ports {
        Some(ports) => {
            rest[..4].copy_from_slice(&ports);
            packet.protocol()
        }
        None => Protocol::FRAGMENT,
    };
    ipv6::Header {
        traffic_class: 0,
        flow_label: 0,
        payload_len: 12,
        next_header,
        hop_limit: 1,
        src: packet.src(),
        dst: packet.dst(),
    }
    .write(header);
    same_flow(&packet, &Ipv6::parse(&bare).expect("just made"));
}

fn ports<'a>(packet: &impl View<'a>) -> Option<[u8; 4]> {
    match packet.payload() {
        [a, b, c, d, ..] if [6, 17, 33, 132, 136].contains(&packet.protocol().0) && !packet.is_fragment() => {
            Some([*a, *b, *c, *d])
        }
        _ => None,
    }
}

fn same_flow<'a>(packet: &impl View<'a>, bare: &impl View<'a>) {
    let hash = flow_hash(packet);
    assert_eq!(flow_hash(bare), hash);
    assert!(udp_source_port(hash) >= 49152);
}
