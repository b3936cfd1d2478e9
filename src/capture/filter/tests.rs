//! Each construct on frames that it takes and frames that it does not, as tcpdump does.

use proptest::prelude::*;

use super::*;
use crate::capture::Link;

/// An IPv4 packet with ports, or what stands in their place.
fn packet(protocol: u8, src: [u8; 4], dst: [u8; 4], ports: [u16; 2]) -> Vec<u8> {
    let mut bytes = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0];
    bytes.extend(src);
    bytes.extend(dst);
    bytes.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
    bytes.extend([0; 16]);
    bytes
}

fn headers(packet: &[u8]) -> Headers {
    Headers::of(Link::Ip, packet, 4789)
}

fn arp() -> Headers {
    let mut frame = [&[0xff; 6][..], &[2; 6], &[8, 6], &[0, 1, 8, 0, 6, 4, 0, 1], &[2; 6]].concat();
    frame.extend([10, 65, 0, 2]);
    frame.extend([0; 6]);
    frame.extend([169, 254, 1, 1]);
    Headers::of(Link::Ethernet, &frame, 4789)
}

#[track_caller]
fn takes(filter: &str, headers: &Headers, expected: bool) {
    let parsed: Filter = filter.parse().unwrap_or_else(|error| panic!("{filter}: {error}"));
    assert_eq!(parsed.matches(headers), expected, "{filter:?} of {headers:?}");
}

const A: [u8; 4] = [10, 65, 0, 2];
const B: [u8; 4] = [10, 65, 0, 66];

#[test]
fn every_construct_is_true_of_what_it_says() {
    let tcp = headers(&packet(6, A, B, [40000, 80]));
    let udp = headers(&packet(17, A, B, [53, 53]));
    let icmp = headers(&packet(1, B, A, [0x0800, 0]));
    let gre = headers(&packet(47, B, A, [0, 0]));
    for (filter, expected) in [
        ("", [true, true, true, true, true]),
        ("ip", [true, true, true, true, false]),
        ("arp", [false, false, false, false, true]),
        ("tcp", [true, false, false, false, false]),
        ("udp", [false, true, false, false, false]),
        ("icmp", [false, false, true, false, false]),
        ("ip proto 47", [false, false, false, true, false]),
        ("proto gre or ip proto \\tcp", [true, false, false, true, false]),
        ("ip6", [false; 5]),
        ("host 10.65.0.2", [true, true, true, true, true]),
        ("ip host 10.65.0.2", [true, true, true, true, false]),
        ("arp host 10.65.0.2", [false, false, false, false, true]),
        ("10.65.0.2", [true, true, true, true, true]),
        ("src 10.65.0.2", [true, true, false, false, true]),
        ("dst host 10.65.0.2", [false, false, true, true, false]),
        ("src or dst host 169.254.1.1", [false, false, false, false, true]),
        ("src and dst net 10.65.0.0/16", [true, true, true, true, false]),
        ("net 10.65", [true, true, true, true, true]),
        ("net 10.65.0.64 mask 255.255.255.192", [true, true, true, true, false]),
        ("src net 10.65.0.64/26", [false, false, true, true, false]),
        ("port 80", [true, false, false, false, false]),
        ("src port 53 and dst port 53", [false, true, false, false, false]),
        ("src and dst port 53", [false, true, false, false, false]),
        ("tcp port 53", [false; 5]),
        ("tcp dst port 80", [true, false, false, false, false]),
        ("port 80 or 53", [true, true, false, false, false]),
        ("portrange 79-81", [true, false, false, false, false]),
        ("portrange 81-79 or 53", [true, true, false, false, false]),
        ("port 7 or 50-60", [false, true, false, false, false]),
        ("not tcp", [false, true, true, true, true]),
        ("!tcp && !arp", [false, true, true, true, false]),
        ("not (tcp || udp)", [false, false, true, true, true]),
        ("tcp or udp and port 53", [false, true, false, false, false]),
        ("tcp or (udp and port 53)", [true, true, false, false, false]),
        ("not host 10.65.0.66 and 10.65.0.3", [false; 5]),
    ] {
        for (headers, expected) in [&tcp, &udp, &icmp, &gre, &arp()].into_iter().zip(expected) {
            takes(filter, headers, expected);
        }
    }
}

/// fd00::2 to fd00:1::66, with what stands behind the fixed header.
fn packet6(next_header: u8, rest: &[u8]) -> Vec<u8> {
    let fixed = [0x60, 0, 0, 0, 0, rest.len() as u8, next_header, 64];
    let (src, dst) = ([0xfd, 0, 0, 0], [0xfd, 0, 0, 1]);
    [&fixed[..], &src, &[0; 11], &[2], &dst, &[0; 11], &[0x66], rest].concat()
}

#[test]
fn ipv6_as_ipv4() {
    let ports = [0x9c, 0x40, 0, 80, 0, 0, 0, 0];
    let tcp = headers(&packet6(6, &ports));
    let behind = headers(&packet6(60, &[&[17, 0, 1, 4, 0, 0, 0, 0][..], &ports].concat()));
    let icmp6 = headers(&packet6(58, &[128, 0, 0, 0, 0, 0, 0, 0]));
    let later = headers(&packet6(44, &[&[6, 0, 0, 8, 0, 0, 0, 1][..], &ports].concat()));
    let four = headers(&packet(6, A, B, [40000, 80]));
    for (filter, expected) in [
        ("ip6", [true, true, true, true, false]),
        ("ip", [false, false, false, false, true]),
        ("icmp6", [false, false, true, false, false]),
        ("icmp", [false; 5]),
        ("tcp", [true, false, false, true, true]),
        ("udp", [false, true, false, false, false]),
        ("ip6 proto 17", [false, true, false, false, false]),
        ("ip proto tcp", [false, false, false, false, true]),
        ("proto tcp", [true, false, false, true, true]),
        ("ip6 proto icmp6", [false, false, true, false, false]),
        ("port 80", [true, true, false, false, true]),
        ("ip6 dst port 80", [true, true, false, false, false]),
        ("tcp port 80 and ip6", [true, false, false, false, false]),
        ("host fd00::2", [true, true, true, true, false]),
        ("fd00::2", [true, true, true, true, false]),
        ("src fd00:0::0:2", [true, true, true, true, false]),
        ("dst host fd00::2", [false; 5]),
        ("ip6 host fd00:1::66", [true, true, true, true, false]),
        ("net fd00::/16", [true, true, true, true, false]),
        ("src and dst net fd00::/32", [false; 5]),
        ("src net fd00::/32", [true, true, true, true, false]),
        ("net fd00::2", [true, true, true, true, false]),
        ("host ::1 or fd00::2 or 10.65.0.2", [true; 5]),
        ("net fe80::/10 or 10.65.0.0/16", [false, false, false, false, true]),
        ("not ip6", [false, false, false, false, true]),
    ] {
        for (headers, expected) in [&tcp, &behind, &icmp6, &later, &four].into_iter().zip(expected) {
            takes(filter, headers, expected);
        }
    }
}

#[test]
fn a_test_is_true_of_any_header_before_and_after() {
    let inner = packet(6, A, B, [40000, 22]);
    let mut outer = packet(4, [192, 0, 2, 1], [192, 0, 2, 2], [0, 0])[..20].to_vec();
    outer.extend(&inner);
    let mut pair = Headers::of(Link::Ip, &inner, 4789);
    pair.add(Link::Ip, &outer, 4789);
    for (filter, before, both) in [
        ("host 192.0.2.2", false, true),
        ("ipip", false, true),
        ("ipip and tcp port 22", false, true),
        ("port 22", true, true),
        ("not port 22", false, false),
        ("not host 192.0.2.2", true, false),
    ] {
        takes(filter, &headers(&inner), before);
        takes(filter, &pair, both);
        takes(filter, &headers(&outer), both);
    }
}

#[test]
fn a_mistake_is_told_with_its_place() {
    for (filter, column, expected, found) in [
        ("host", 5, "an IP address", "the end"),
        ("host web", 6, "an IP address", "\"web\""),
        ("tcp port http", 10, "a port number", "\"http\""),
        ("port 65536", 6, "a port number", "\"65536\""),
        ("portrange 80", 11, "a range of ports", "\"80\""),
        ("net 10.65.0.1/16", 5, "10.65.0.0/16", "\"10.65.0.1/16\""),
        ("net 10.0.0.0/33", 5, "a network", "\"10.0.0.0/33\""),
        ("net 10.0.0.0 mask 255.0.255.0", 19, "a mask of ones", "\"255.0.255.0\""),
        ("tcp and", 8, "a test such as", "the end"),
        ("(tcp or udp", 12, "\")\"", "the end"),
        ("tcp udp", 5, "\"and\", \"or\" or the end", "\"udp\""),
        ("tcp)", 4, "the end", "\")\""),
        ("80", 1, "a test such as", "\"80\""),
        ("icmp port 7", 1, "a protocol that has ports", "\"icmp\""),
        ("ip6 host 10.0.0.1", 1, "ip or arp", "\"ip6\""),
        ("ip host fd00::1", 1, "ip6", "\"ip\""),
        ("arp host fd00::1", 1, "ip6", "\"arp\""),
        ("icmp6 port 7", 1, "a protocol that has ports", "\"icmp6\""),
        ("host fd00::g", 6, "an IP address", "\"fd00::g\""),
        ("net fd00::1/64", 5, "fd00::/64", "\"fd00::1/64\""),
        ("net fd00::/129", 5, "a network", "\"fd00::/129\""),
        ("net fd00:: mask 255.0.0.0", 12, "the end", "\"mask\""),
        ("tcp and (udp host 10.0.0.1)", 10, "\"and\" behind the protocol", "\"udp\""),
        ("ip proto 256", 10, "a protocol number", "\"256\""),
        ("ether[0] & 1 = 0", 1, "a test such as", "\"ether[0]\""),
        ("tcp & udp", 5, "\"and\"", "\"&\""),
        ("é tcp", 1, "a test such as", "\"é\""),
    ] {
        let error = filter.parse::<Filter>().expect_err(filter);
        assert_eq!((error.column, error.found.as_str()), (column, found), "{filter}: {error}");
        assert!(error.expected.contains(expected), "{filter}: {error}");
    }
}

#[test]
fn length_and_depth_are_bounded() {
    for text in ["(".repeat(4000), "not ".repeat(1000), vec!["tcp"; 600].join(" or "), "x".repeat(5000)] {
        assert!(text.parse::<Filter>().is_err());
    }
    assert!(vec!["tcp"; 128].join(" or ").parse::<Filter>().is_ok());
}

proptest! {
    /// Words of the language in any order: an answer, never a panic, and a place within the text.
    #[test]
    fn any_words_have_an_answer(words in prop::collection::vec(prop::sample::select(vec![
        "tcp", "host", "net", "port", "portrange", "src", "dst", "and", "or", "not", "(", ")", "10.0.0.1", "10.0.0.0/8",
        "80", "80-90", "proto", "ip", "ip6", "icmp6", "fd00::1", "fd00::/16", "vxlan", "ipip", "mask", "!", "&&", "||", "255.0.0.0", "é",
    ]), 0..12), packet in prop::collection::vec(any::<u8>(), 0..80)) {
        let text = words.join(" ");
        match text.parse::<Filter>() {
            Ok(filter) => {
                let headers = Headers::of(Link::Ip, &packet, 4789);
                let not: Result<Filter, _> = format!("not ({text})").parse();
                if let Ok(not) = not {
                    prop_assert_ne!(filter.matches(&headers), not.matches(&headers));
                }
            }
            Err(error) => prop_assert!((1..=text.chars().count() + 1).contains(&error.column), "{}", error),
        }
    }

    #[test]
    fn any_text_has_an_answer(text in ".{0,60}") {
        let _ = text.parse::<Filter>();
    }
}
