//! The kernel's packets (`tests/vectors`), through `wire` alone: fields as each vector's name says, headers written
//! again byte by byte, and the edits in place that turn one side of a vector into the other. Which packets
//! the engine takes and where it sends them is not seen here.

mod ipv6;

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use margay::wire::{Ecn, EtherType, Ethernet, Icmpv4, Icmpv4Type, Ipv4, MacAddr, Malformed, Protocol};
use margay::wire::{Udp, Vni, Vxlan};
use margay::wire::{ecn, ethernet, icmpv4, ipv4, udp, vxlan};

struct Vector {
    name: String,
    given: Vec<u8>,
    made: Vec<Vec<u8>>,
}

fn vectors(file: &str) -> Vec<Vector> {
    read(file, "ip")
}

/// `of` is what a file's vectors are: `ip` packets or `frame`s.
fn read(file: &str, of: &str) -> Vec<Vector> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(file);
    let text = fs::read_to_string(path).unwrap();
    let vectors = text.lines().map(|line| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        Vector {
            name: value["name"].as_str().unwrap().to_owned(),
            given: hex(value[format!("in_{of}")].as_str().unwrap()),
            made: value[format!("out_{of}")]
                .as_array()
                .unwrap()
                .iter()
                .map(|out| hex(out.as_str().unwrap()))
                .collect(),
        }
    });
    vectors.collect()
}

fn ipip() -> Vec<Vector> {
    vectors("ipip-kernel-6.1-vectors.jsonl")
}

fn vxlan() -> Vec<Vector> {
    vectors("vxlan-kernel-6.18-vectors.jsonl")
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).unwrap() as u8;
    text.as_bytes().chunks(2).map(|pair| digit(&pair[0]) << 4 | digit(&pair[1])).collect()
}

/// Takes a packet apart as far as `wire` reads, and puts it together from the fields that it read.
fn again(bytes: &[u8]) -> Vec<u8> {
    let packet = Ipv4::parse(bytes).unwrap();
    let mut out = vec![0xa5; 20];
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
    .write(out.first_chunk_mut().unwrap());
    out.extend(match packet.protocol() {
        _ if packet.is_later_fragment() => packet.payload().to_vec(),
        Protocol::UDP => udp_again(&packet),
        Protocol::ICMP => icmp_again(&packet),
        // The vector whose inner packet is cut short.
        Protocol::IPIP if Ipv4::parse(packet.payload()).is_ok() => again(packet.payload()),
        _ => packet.payload().to_vec(),
    });
    out
}

fn udp_again(packet: &Ipv4<'_>) -> Vec<u8> {
    // The first of two fragments has the whole datagram's length.
    let Ok(datagram) = Udp::parse(packet.payload()) else {
        assert!(packet.more_fragments());
        return packet.payload().to_vec();
    };
    assert!(datagram.verify(packet.src().into(), packet.dst().into()));
    let mut out = vec![0xa5; 8];
    udp::Header {
        src_port: datagram.src_port(),
        dst_port: datagram.dst_port(),
        len: datagram.len() as u16,
        checksum: datagram.checksum(),
    }
    .write(out.first_chunk_mut().unwrap());
    if datagram.dst_port() != vxlan::PORT {
        out.extend(datagram.payload());
        return out;
    }
    let tunnel = Vxlan::parse(datagram.payload()).unwrap();
    let mut header = [0xa5; 8];
    vxlan::write(&mut header, tunnel.vni());
    // Reserved bits are not read, and so cannot be written again (RFC 7348 5).
    header[0] |= datagram.payload()[0];
    header[7] |= datagram.payload()[7];
    out.extend(header);
    let Ok(frame) = Ethernet::parse(tunnel.payload()) else { return out };
    let mut header = [0xa5; 14];
    ethernet::write(&mut header, frame.dst(), frame.src(), frame.ethertype());
    out.extend(header);
    out.extend(match frame.ethertype() {
        EtherType::IPV4 => again(frame.payload()),
        _ => frame.payload().to_vec(),
    });
    out
}

fn icmp_again(packet: &Ipv4<'_>) -> Vec<u8> {
    let message = Icmpv4::parse(packet.payload()).unwrap();
    assert!(message.verify());
    assert!(message.kind().is_error());
    assert!(Ipv4::parse_quoted(message.payload()).is_ok());
    let mut out = vec![0xa5; packet.payload().len()];
    let len =
        icmpv4::write_error(&mut out, message.kind(), message.code(), message.rest(), message.payload());
    assert_eq!(len, out.len());
    out
}

#[test]
fn every_packet_is_read_and_written_again() {
    let (ipip, vxlan) = (ipip(), vxlan());
    assert_eq!((ipip.len(), vxlan.len()), (31, 32), "vectors went missing");
    for vector in ipip.iter().chain(&vxlan) {
        for packet in vector.made.iter().chain([&vector.given]) {
            assert_eq!(again(packet), *packet, "{}", vector.name);
        }
    }
}

/// "tos 0xb9 df1 ttl64", "df0", "len 1480 df1", "outer ecn 3 inner ecn 1": the words that made the packet.
#[test]
fn fields_are_what_the_name_says() {
    let mut seen = 0;
    for vector in ipip().iter().chain(&vxlan()) {
        let outer = Ipv4::parse(&vector.given).unwrap();
        let inner = inner_of(&outer);
        let name = vector.name.strip_prefix("decap ").unwrap_or(&vector.name);
        let words: Vec<&str> = name.split(' ').collect();
        let number = |word: &str| match word.strip_prefix("0x") {
            Some(hex) => u8::from_str_radix(hex, 16).unwrap(),
            None => word.parse().unwrap(),
        };
        match words[..] {
            ["tos", tos, "df1", ..] => {
                assert_eq!(outer.tos(), number(tos), "{name}");
                assert!(outer.dont_fragment(), "{name}");
            }
            ["df0", ..] => assert!(!outer.dont_fragment(), "{name}"),
            ["ttl", ttl] => assert_eq!(outer.ttl(), number(ttl), "{name}"),
            ["outer", "ttl", ttl] => assert_eq!(outer.ttl(), number(ttl), "{name}"),
            ["inner", "ttl", ttl] => assert_eq!(inner.unwrap().ttl(), number(ttl), "{name}"),
            ["len", len, df, ..] => {
                assert_eq!(outer.total_len().to_string(), len, "{name}");
                assert_eq!(outer.dont_fragment(), df == "df1", "{name}");
            }
            ["outer", "ecn", outside, "inner", "ecn", inside] => {
                assert_eq!(outer.ecn().bits(), number(outside), "{name}");
                assert_eq!(inner.unwrap().ecn().bits(), number(inside), "{name}");
            }
            ["outer", "dscp", "ef", "inner", inside] => {
                assert_eq!(outer.dscp(), 46, "{name}");
                assert_eq!(inner.unwrap().tos(), number(inside), "{name}");
            }
            _ => continue,
        }
        seen += 1;
    }
    assert_eq!(seen, 47);
}

/// What a tunnel packet carries, if that is an IPv4 packet for us.
fn inner_of<'a>(outer: &Ipv4<'a>) -> Option<Ipv4<'a>> {
    if outer.protocol() == Protocol::IPIP {
        return Ipv4::parse(outer.payload()).ok();
    }
    let datagram = Udp::parse(outer.payload()).ok().filter(|datagram| datagram.dst_port() == vxlan::PORT)?;
    let frame = Ethernet::parse(Vxlan::parse(datagram.payload()).ok()?.payload()).ok()?;
    Ipv4::parse(frame.payload()).ok()
}

/// T2, E1: on its way in, the inner packet loses a hop and the outer header copies its mark.
#[test]
fn what_enters_a_tunnel_lost_one_hop_and_shows_its_mark() {
    let mut seen = 0;
    for vector in ipip().iter().chain(&vxlan()) {
        let given = Ipv4::parse(&vector.given).unwrap();
        let ([made], None) = (&vector.made[..], inner_of(&given)) else { continue };
        let outer = Ipv4::parse(made).unwrap();
        let Some(inner) = inner_of(&outer) else { continue };
        let mut expected = vector.given.clone();
        ipv4::decrement_ttl(&mut expected);
        assert_eq!(inner.packet(), expected, "{}", vector.name);
        assert_eq!(outer.ecn(), ecn::encapsulate(given.ecn()), "{}", vector.name);
        assert_eq!(outer.total_len(), made.len(), "{}", vector.name);
        seen += 1;
    }
    assert_eq!(seen, 18);
}

/// E2, E3, T3: on its way out, the inner packet loses a hop and takes figure 4's mark, nothing else changes.
#[test]
fn what_leaves_a_tunnel_lost_one_hop_and_took_the_mark() {
    let mut seen = 0;
    for vector in ipip().iter().chain(&vxlan()) {
        let outer = Ipv4::parse(&vector.given).unwrap();
        let (Some(inner), [made]) = (inner_of(&outer), &vector.made[..]) else { continue };
        if inner.ttl() == 1 {
            continue;
        }
        let mut expected = inner.packet().to_vec();
        ipv4::decrement_ttl(&mut expected);
        ipv4::set_ecn(&mut expected, ecn::decapsulate(outer.ecn(), inner.ecn()).unwrap());
        assert_eq!(*made, expected, "{}", vector.name);
        seen += 1;
    }
    assert_eq!(seen, 30);
}

/// An outer header is fixed but for length, identification, mark, and what follows from them.
#[test]
fn outer_headers_are_calicos() {
    let plain = |vectors: Vec<Vector>| vectors.into_iter().next().unwrap().made.remove(0);

    let bytes = plain(ipip());
    let outer = Ipv4::parse(&bytes).unwrap();
    assert_eq!(outer.protocol(), Protocol::IPIP);
    assert_eq!(outer.ttl(), 63, "inherited");
    assert!(outer.dont_fragment());
    assert_eq!((outer.src(), outer.dst()), ([192, 168, 78, 2].into(), [192, 168, 78, 1].into()));

    let bytes = plain(vxlan());
    let outer = Ipv4::parse(&bytes).unwrap();
    assert_eq!(outer.protocol(), Protocol::UDP);
    assert_eq!(outer.ttl(), 64);
    assert!(!outer.dont_fragment());
    let datagram = Udp::parse(outer.payload()).unwrap();
    assert_eq!(datagram.dst_port(), 4789);
    assert!(datagram.has_checksum());
    assert!(!datagram.verify(IpAddr::from(outer.src()), IpAddr::from(outer.src())));
    let tunnel = Vxlan::parse(datagram.payload()).unwrap();
    assert_eq!(tunnel.vni(), Vni(4096));
    let frame = Ethernet::parse(tunnel.payload()).unwrap();
    assert_eq!(frame.dst(), "66:2d:bf:44:a6:8b".parse::<MacAddr>().unwrap());
    assert_eq!(frame.src(), "66:f9:37:c3:7e:94".parse::<MacAddr>().unwrap());
    assert_eq!(frame.ethertype(), EtherType::IPV4);
}

#[test]
fn what_the_kernel_drops_for_its_form_has_a_reason_here() {
    let given = |vectors: &[Vector], name: &str| -> Vec<u8> {
        let vector = vectors.iter().find(|vector| vector.name == name);
        let vector = vector.unwrap_or_else(|| panic!("no vector {name}"));
        assert!(vector.made.is_empty(), "{name}");
        vector.given.clone()
    };

    let cut = given(&ipip(), "inner len 19 trunc");
    assert_eq!(Ipv4::parse(&cut[20..]).unwrap_err(), Malformed::Ipv4Truncated);
    let cut = given(&vxlan(), "truncated after vxlan hdr");
    let tunnel = Vxlan::parse(&cut[28..]).unwrap();
    assert_eq!(Ethernet::parse(tunnel.payload()).unwrap_err(), Malformed::EthernetTruncated);
    let not_ip = given(&vxlan(), "ethertype ipv6 garbage");
    assert_eq!(Ethernet::parse(&not_ip[36..]).unwrap().ethertype(), EtherType::IPV6);
    assert_eq!(Vxlan::parse(&given(&vxlan(), "vni 4097")[28..]).unwrap().vni(), Vni(4097));
}

/// V2. The kernel drops these three; RFC 7348 5 has the bits ignored, and so does margay.
#[test]
fn reserved_bits_that_the_kernel_drops_are_ignored() {
    for name in ["flags 0x0c", "flags 0x88 (GBP)", "reserved2 nonzero"] {
        let vector = vxlan().into_iter().find(|vector| vector.name == name).unwrap();
        assert!(vector.made.is_empty(), "{name}");
        assert_eq!(Vxlan::parse(&vector.given[28..]).unwrap().vni(), Vni(4096), "{name}");
    }
}

/// M1, M6: the MTU that a "fragmentation needed" tells, and whose packet it quotes.
#[test]
fn fragmentation_needed_tells_the_mtu_and_quotes_the_tunnel_packet() {
    let vector = ipip().into_iter().find(|vector| vector.name == "frag-needed mtu 1300").unwrap();
    let packet = Ipv4::parse(&vector.given).unwrap();
    let message = Icmpv4::parse(packet.payload()).unwrap();
    assert_eq!(message.kind(), Icmpv4Type::DESTINATION_UNREACHABLE);
    assert_eq!(message.code(), icmpv4::CODE_FRAGMENTATION_NEEDED);
    assert_eq!(message.next_hop_mtu(), 1300);
    let outer = Ipv4::parse_quoted(message.payload()).unwrap();
    assert_eq!(outer.protocol(), Protocol::IPIP);
    assert_eq!(outer.total_len(), 1448);
    let inner = Ipv4::parse_quoted(outer.payload()).unwrap();
    assert_eq!(inner.total_len(), 1428);
    assert_eq!(inner.ecn(), Ecn::NotEct);
    assert_eq!(inner.payload().len(), 8);
}
