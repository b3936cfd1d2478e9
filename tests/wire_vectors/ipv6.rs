//! What `ipv6.py` had the kernel make: neighbour discovery, ICMPv6, and VXLAN between IPv6 nodes.

use std::net::Ipv6Addr;

use margay::wire::{Ecn, EtherType, Ethernet, Icmpv6, Icmpv6Type, Ipv4, Ipv6, MacAddr, Malformed, Protocol};
use margay::wire::{NeighborAdvertisement, NeighborSolicitation, Udp, Vni, Vxlan};
use margay::wire::{ecn, ethernet, icmpv6, ipv4, ipv6, ndp, udp, vxlan};

use crate::{Vector, read, vectors};

const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);
const POD_LINK: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x42, 0xaff, 0xfe41, 0x80a);
const POD: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x65, 0, 0, 0, 0, 0xa);
const LATER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x65, 0, 0, 0, 0, 0xb);
const POD_MAC: MacAddr = MacAddr([2, 0x42, 0x0a, 0x41, 8, 0x0a]);
const NODE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x78, 0, 0, 0, 0, 0, 2);
const PEER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x78, 0, 0, 0, 0, 0, 1);

fn discovery() -> Vec<Vector> {
    read("ndp-kernel-6.18-vectors.jsonl", "frame")
}

fn errors() -> Vec<Vector> {
    vectors("icmpv6-kernel-6.18-vectors.jsonl")
}

fn tunnel() -> Vec<Vector> {
    vectors("vxlan-v6-kernel-6.18-vectors.jsonl")
}

fn named(vectors: Vec<Vector>, name: &str) -> Vector {
    vectors.into_iter().find(|vector| vector.name == name).unwrap_or_else(|| panic!("no vector {name}"))
}

/// Takes a packet apart as far as `wire` reads, and puts it together from the fields that it read.
fn again(bytes: &[u8]) -> Vec<u8> {
    if bytes[0] >> 4 == 4 {
        return crate::again(bytes);
    }
    let packet = Ipv6::parse(bytes).unwrap();
    let mut out = vec![0xa5; ipv6::HEADER_LEN];
    ipv6::Header {
        traffic_class: packet.traffic_class(),
        flow_label: packet.flow_label(),
        payload_len: (packet.total_len() - ipv6::HEADER_LEN) as u16,
        next_header: packet.next_header(),
        hop_limit: packet.hop_limit(),
        src: packet.src(),
        dst: packet.dst(),
    }
    .write(out.first_chunk_mut().unwrap());
    out.extend(packet.extensions());
    out.extend(match packet.protocol() {
        _ if packet.is_fragment() => packet.payload().to_vec(),
        Protocol::UDP => udp_again(&packet),
        Protocol::ICMPV6 => icmp_again(&packet),
        _ => packet.payload().to_vec(),
    });
    out
}

fn udp_again(packet: &Ipv6<'_>) -> Vec<u8> {
    let datagram = Udp::parse(packet.payload()).unwrap();
    let mut out = vec![0xa5; udp::HEADER_LEN];
    udp::Header {
        src_port: datagram.src_port(),
        dst_port: datagram.dst_port(),
        len: datagram.len() as u16,
        checksum: datagram.checksum(),
    }
    .write(out.first_chunk_mut().unwrap());
    if datagram.dst_port() == vxlan::PORT {
        let tunnel = datagram.payload();
        let vni = u32::from_be_bytes([0, tunnel[4], tunnel[5], tunnel[6]]);
        let mut header = [0xa5; vxlan::HEADER_LEN];
        vxlan::write(&mut header, Vni(vni));
        header[0] = tunnel[0];
        out.extend(header);
        out.extend(frame_again(&tunnel[vxlan::HEADER_LEN..]));
    } else {
        out.extend(datagram.payload());
    }
    out
}

fn frame_again(bytes: &[u8]) -> Vec<u8> {
    let frame = Ethernet::parse(bytes).unwrap();
    let mut out = vec![0xa5; ethernet::HEADER_LEN];
    ethernet::write(out.first_chunk_mut().unwrap(), frame.dst(), frame.src(), frame.ethertype());
    // The two whose inner packet is no packet.
    match Ipv6::parse(frame.payload()) {
        Err(_) if frame.ethertype() == EtherType::IPV6 => out.extend(frame.payload()),
        _ => out.extend(again(frame.payload())),
    }
    out
}

fn icmp_again(packet: &Ipv6<'_>) -> Vec<u8> {
    let message = Icmpv6::parse(packet.payload()).unwrap();
    let (src, dst, kind) = (packet.src(), packet.dst(), message.kind());
    let header = icmpv6::Message { src, dst, kind, code: message.code(), rest: message.rest() };
    let mut out = vec![0xa5; packet.payload().len()];
    let len = header.write(&mut out, message.payload());
    let most = if kind.is_error() { icmpv6::MAX_ERROR_LEN } else { usize::MAX };
    assert_eq!(len, packet.payload().len().min(most));
    // What the script made too large is left as it is, and so is a checksum that it made wrong.
    if len == out.len() && message.verify(src, dst) { out } else { packet.payload().to_vec() }
}

#[test]
fn every_packet_is_read_and_written_again() {
    let (errors, tunnel) = (errors(), tunnel());
    assert_eq!((discovery().len(), errors.len(), tunnel.len()), (26, 16, 57), "vectors went missing");
    for vector in errors.iter().chain(&tunnel) {
        for bytes in [&vector.given].into_iter().chain(&vector.made) {
            assert_eq!(again(bytes), *bytes, "{}", vector.name);
        }
    }
    for vector in discovery() {
        for bytes in [&vector.given].into_iter().chain(&vector.made) {
            assert_eq!(frame_again(bytes), *bytes, "{}", vector.name);
        }
    }
}

/// The kernel answers what `check` lets through, and is silent about what it does not.
#[test]
fn the_kernel_answers_the_solicitations_that_are_right() {
    for vector in discovery() {
        let frame = Ethernet::parse(&vector.given).unwrap();
        let ip = Ipv6::parse(frame.payload()).unwrap();
        let message = Icmpv6::parse(ip.payload()).unwrap();
        if message.kind() == Icmpv6Type::ECHO_REQUEST {
            continue;
        }
        let asked = NeighborSolicitation::parse(&message).and_then(|asks| asks.check(&ip).map(|()| asks));
        let silent = match vector.name.as_str() {
            "cut within the target" => Some(Malformed::NdpTruncated),
            "option of length 0" | "option cut short" | "link-layer address of 14 bytes" => {
                Some(Malformed::NdpOption)
            }
            "hop limit 254" | "code 1" | "checksum wrong" | "target is a group" | "in a single fragment" => {
                Some(Malformed::NdpForbidden)
            }
            "probe with a link-layer address" | "probe to the address itself" | "router solicitation" => {
                Some(Malformed::NdpForbidden)
            }
            _ => None,
        };
        assert_eq!(asked.err(), silent, "{}", vector.name);
        let free = ["the pod's kernel probes an address that is free", "another address, not proxied"];
        assert_eq!(
            vector.made.is_empty(),
            silent.is_some() || free.contains(&&*vector.name),
            "{}",
            vector.name
        );
        if let Ok(asks) = asked {
            assert!(frame.dst() == MacAddr::GATEWAY || frame.dst() == ndp::multicast_mac(ip.dst()));
            assert!(ip.dst() == asks.target || ip.dst() == ndp::solicited_node(asks.target));
        }
    }
}

/// Each answer is right, tells the question's target, and goes to who asked, or to all where nobody says who asks.
#[test]
fn answers_are_as_the_kernel_gives_them() {
    let mut seen = 0;
    for vector in discovery() {
        let [made] = &vector.made[..] else { continue };
        let given = Ethernet::parse(&vector.given).unwrap();
        let question = Ipv6::parse(given.payload()).unwrap();
        let Ok(asks) = NeighborSolicitation::parse(&Icmpv6::parse(question.payload()).unwrap()) else {
            continue;
        };
        let frame = Ethernet::parse(made).unwrap();
        let ip = Ipv6::parse(frame.payload()).unwrap();
        let tells = NeighborAdvertisement::parse(&Icmpv6::parse(ip.payload()).unwrap()).unwrap();
        tells.check(&ip).unwrap();
        assert_eq!(tells.target, asks.target, "{}", vector.name);
        let probe = question.src().is_unspecified();
        assert_eq!(tells.solicited, !probe, "{}", vector.name);
        assert_eq!(ip.dst(), if probe { ndp::ALL_NODES } else { question.src() }, "{}", vector.name);
        assert_eq!(
            frame.dst(),
            if probe { ndp::multicast_mac(ip.dst()) } else { given.src() },
            "{}",
            vector.name
        );
        let multicast = question.dst().is_multicast();
        let link = if frame.src() == POD_MAC { POD_MAC } else { MacAddr::GATEWAY };
        assert_eq!(tells.target_link, multicast.then_some(link), "{}", vector.name);
        // A router says so of its own address, and overrides what was known but where it answers for another.
        assert_eq!(tells.router, asks.target == GATEWAY, "{}", vector.name);
        assert_eq!(tells.overrides, asks.target != LATER && multicast, "{}", vector.name);
        seen += 1;
    }
    assert_eq!(seen, 11);
}

/// The kernel's own question for a pod, and its pod's for its gateway, written by us.
#[test]
fn questions_are_as_the_kernel_asks_them() {
    for (name, target, mac) in [
        ("the node's kernel asks for the pod", POD, MacAddr::GATEWAY),
        ("the pod's kernel asks for its gateway", GATEWAY, POD_MAC),
    ] {
        let vector = named(discovery(), name);
        let frame = Ethernet::parse(&vector.given).unwrap();
        let ip = Ipv6::parse(frame.payload()).unwrap();
        assert_eq!(
            (frame.src(), ip.dst(), ip.hop_limit()),
            (mac, ndp::solicited_node(target), ndp::HOP_LIMIT)
        );
        let mut out = [0xa5; ndp::LEN_WITH_LINK];
        let asks = NeighborSolicitation { target, source_link: Some(mac) };
        assert_eq!(asks.write(&mut out, ip.src(), ip.dst()), ndp::LEN_WITH_LINK);
        assert_eq!(out, ip.payload());
    }
    // RFC 7527: the kernel's probe has a nonce, and no link-layer address.
    let probe = named(discovery(), "the pod's kernel probes an address that is free").given;
    let ip = Ipv6::parse(&probe[14..]).unwrap();
    let asks = NeighborSolicitation::parse(&Icmpv6::parse(ip.payload()).unwrap()).unwrap();
    assert_eq!(
        (ip.src(), asks),
        (Ipv6Addr::UNSPECIFIED, NeighborSolicitation { target: LATER, source_link: None })
    );
    assert_eq!(ip.payload()[24..26], [14, 1]);
}

/// Every error: what it is, what it says, and as much of the original as 1,280 bytes hold.
#[test]
fn errors_are_as_the_kernel_writes_them() {
    let mut seen = 0;
    for vector in errors() {
        let [made] = &vector.made[..] else { continue };
        let ip = Ipv6::parse(made).unwrap();
        let message = Icmpv6::parse(ip.payload()).unwrap();
        assert!(message.verify(ip.src(), ip.dst()), "{}", vector.name);
        let expected = match vector.name.as_str() {
            "ping the gateway" => continue,
            name if name.starts_with("hop limit") => {
                (Icmpv6Type::TIME_EXCEEDED, icmpv6::CODE_HOP_LIMIT_EXCEEDED, 0)
            }
            name if name.starts_with("too big") => (Icmpv6Type::PACKET_TOO_BIG, 0, 1430),
            "no route" => (Icmpv6Type::DESTINATION_UNREACHABLE, icmpv6::CODE_NO_ROUTE, 0),
            "prohibited" => (Icmpv6Type::DESTINATION_UNREACHABLE, icmpv6::CODE_PROHIBITED, 0),
            "node's port that nobody has" => {
                (Icmpv6Type::DESTINATION_UNREACHABLE, icmpv6::CODE_PORT_UNREACHABLE, 0)
            }
            // Where the Next Header stands, and the option.
            "node's protocol that nobody knows" => {
                (Icmpv6Type::PARAMETER_PROBLEM, icmpv6::CODE_UNKNOWN_NEXT_HEADER, 6)
            }
            "node gets an option that it must tell of" => {
                (Icmpv6Type::PARAMETER_PROBLEM, icmpv6::CODE_UNKNOWN_OPTION, 42)
            }
            other => panic!("{other}"),
        };
        assert_eq!((message.kind(), message.code(), message.word()), expected, "{}", vector.name);
        let room = usize::from(ipv6::MIN_MTU) - ipv6::HEADER_LEN - icmpv6::HEADER_LEN;
        assert_eq!(message.payload(), &vector.given[..vector.given.len().min(room)], "{}", vector.name);
        let quoted = Ipv6::parse_quoted(message.payload()).unwrap();
        assert_eq!(quoted.src(), ip.dst(), "{}", vector.name);
        seen += 1;
    }
    assert_eq!(seen, 13);
    // RFC 4443 2.4 e.1. That a redirect causes none either, e.2, is a rule that the kernel breaks.
    assert!(named(errors(), "too big, an error").made.is_empty());
    assert!(Icmpv6Type::REDIRECT.forbids_error());
    assert!(!named(errors(), "hop limit 1, a redirect").made.is_empty());
}

#[test]
fn an_echo_is_answered_as_the_kernel_answers_it() {
    let vector = named(errors(), "ping the gateway");
    let mut message = Ipv6::parse(&vector.given).unwrap().payload().to_vec();
    icmpv6::make_echo_reply(&mut message);
    let reply = Ipv6::parse(&vector.made[0]).unwrap();
    assert_eq!((reply.src(), reply.dst()), (GATEWAY, POD_LINK));
    assert_eq!(reply.payload(), message);
}

/// The headers of a tunnel packet, and what is in it.
fn inner(packet: &[u8]) -> (Ipv6<'_>, Udp<'_>, Ethernet<'_>) {
    let outer = Ipv6::parse(packet).unwrap();
    let datagram = Udp::parse(outer.payload()).unwrap();
    let frame = Ethernet::parse(Vxlan::parse(datagram.payload()).unwrap().payload()).unwrap();
    (outer, datagram, frame)
}

/// One hop less, whatever extension headers there are, and an outer header that is fixed but for length, mark and port.
#[test]
fn what_enters_a_tunnel_lost_one_hop_and_shows_its_mark() {
    let mut seen = 0;
    for vector in tunnel().iter().filter(|vector| vector.name.starts_with("encap")) {
        let [made] = &vector.made[..] else { panic!("{}", vector.name) };
        let (outer, datagram, frame) = inner(made);
        let mut expected = vector.given.clone();
        let inner_ecn = match vector.given[0] >> 4 {
            4 => {
                ipv4::decrement_ttl(&mut expected);
                assert_eq!(frame.ethertype(), EtherType::IPV4);
                Ipv4::parse(&vector.given).unwrap().ecn()
            }
            _ => {
                ipv6::decrement_hop_limit(&mut expected);
                assert_eq!(frame.ethertype(), EtherType::IPV6);
                Ipv6::parse(&vector.given).unwrap().ecn()
            }
        };
        assert_eq!(frame.payload(), expected, "{}", vector.name);
        // RFC 6040 4.1 has CE copied; the kernel follows RFC 3168 9.1.1 there and makes it ECT(0).
        let mark = if inner_ecn == Ecn::Ce { Ecn::Ect0 } else { ecn::encapsulate(inner_ecn) };
        assert_eq!(outer.traffic_class(), mark.bits(), "{}", vector.name);
        assert_eq!((outer.src(), outer.dst(), outer.hop_limit(), outer.flow_label()), (NODE, PEER, 64, 0));
        assert_eq!(outer.total_len(), expected.len() + 70, "{}", vector.name);
        assert_eq!((datagram.dst_port(), datagram.has_checksum()), (vxlan::PORT, true));
        assert!(datagram.verify(NODE.into(), PEER.into()), "{}", vector.name);
        assert_eq!(frame.dst(), "66:2d:bf:44:a6:8b".parse::<MacAddr>().unwrap());
        assert_eq!(frame.src(), "66:f9:37:c3:7e:94".parse::<MacAddr>().unwrap());
        seen += 1;
    }
    assert_eq!(seen, 25);
}

#[test]
fn what_leaves_a_tunnel_lost_one_hop_and_took_the_mark() {
    let mut seen = 0;
    for vector in tunnel().iter().filter(|vector| vector.name.starts_with("decap")) {
        let [made] = &vector.made[..] else { continue };
        let (outer, _, frame) = inner(&vector.given);
        let mut expected = frame.payload().to_vec();
        if frame.ethertype() == EtherType::IPV4 {
            ipv4::decrement_ttl(&mut expected);
        } else {
            let mark = ecn::decapsulate(outer.ecn(), Ipv6::parse(&expected).unwrap().ecn()).unwrap();
            ipv6::set_ecn(&mut expected, mark);
            ipv6::decrement_hop_limit(&mut expected);
        }
        assert_eq!(*made, expected, "{}", vector.name);
        seen += 1;
    }
    assert_eq!(seen, 22);
    let lost = named(tunnel(), "decap, outer ecn 3 inner ecn 0");
    assert!(lost.made.is_empty() && ecn::decapsulate(Ecn::Ce, Ecn::NotEct).is_err());
}

/// Extension headers and fragments of a kernel's making, by what the name says.
#[test]
fn extension_headers_are_walked_to_what_the_packet_carries() {
    for (name, protocol, header_len) in [
        ("no next header", Protocol::NO_NEXT_HEADER, 40),
        ("hop-by-hop options", Protocol::UDP, 48),
        ("destination options", Protocol::UDP, 48),
        ("routing header, nothing left", Protocol::UDP, 64),
        ("authentication header", Protocol::UDP, 64),
        ("every extension header", Protocol::UDP, 40 + 8 + 8 + 24 + 24 + 8),
        ("first fragment", Protocol::UDP, 48),
        ("later fragment", Protocol::UDP, 48),
        ("single fragment", Protocol::UDP, 48),
    ] {
        let vector = named(tunnel(), &format!("encap, {name}"));
        let ip = Ipv6::parse(&vector.given).unwrap();
        assert_eq!((ip.protocol(), ip.header_len()), (protocol, header_len), "{name}");
        assert_eq!(ip.is_fragment(), ["first fragment", "later fragment"].contains(&name), "{name}");
        assert_eq!(ip.is_later_fragment(), name == "later fragment", "{name}");
    }
    let pieces =
        [0, 1, 2].map(|number| named(tunnel(), &format!("encap, fragment {number} of a kernel's")).given);
    let pieces = pieces.each_ref().map(|piece| Ipv6::parse(piece).unwrap());
    let mut end = 0;
    for piece in &pieces {
        assert_eq!((piece.fragment_offset(), piece.id()), (end, pieces[0].id()));
        end += piece.payload().len();
        assert_eq!(piece.more_fragments(), end != 3008);
    }
    assert_eq!(end, 3008);
}

#[test]
fn what_the_kernel_drops_for_its_form_has_a_reason_here() {
    let dropped = |name: &str| {
        let vector = named(tunnel(), &format!("decap, {name}"));
        assert!(vector.made.is_empty(), "{name}");
        vector.given
    };
    let wrong = dropped("checksum wrong");
    assert!(!inner(&wrong).1.verify(PEER.into(), NODE.into()));
    // RFC 8200 8.1: but where it is let in.
    let zero = dropped("checksum zero");
    assert!(!inner(&zero).1.has_checksum());
    assert_eq!(named(tunnel(), "decap, checksum zero where it is let in").given, zero);
    assert_eq!(named(tunnel(), "decap, checksum zero where it is let in").made.len(), 1);
    assert_eq!(
        Ipv6::parse(inner(&dropped("inner ipv4 says ipv6")).2.payload()).unwrap_err(),
        Malformed::Ipv6Truncated
    );
    assert_eq!(
        Ipv6::parse(inner(&dropped("inner cut short")).2.payload()).unwrap_err(),
        Malformed::Ipv6PayloadLength
    );
    assert_eq!(Vxlan::parse(&dropped("vni 4097")[48..]).unwrap().vni(), Vni(4097));
    assert_eq!(Vxlan::parse(&dropped("no I flag")[48..]).unwrap_err(), Malformed::VxlanFlags);
}
