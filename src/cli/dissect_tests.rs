use proptest::prelude::*;

use super::*;

const ETHERNET: [u8; 12] = [0x02, 0, 0, 0, 0, 0x0b, 0x02, 0, 0, 0, 0, 0x0a];

fn ethernet(ethertype: u16, rest: &[&[u8]]) -> Vec<u8> {
    [&ETHERNET[..], &ethertype.to_be_bytes(), &rest.concat()].concat()
}

/// 10.65.0.2 > 10.65.0.66, TTL 63, id 3, DF.
fn inner(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = 20 + payload.len() as u8;
    let header = [0x45, 0, 0, length, 0, 3, 0x40, 0, 63, protocol, 0, 0, 10, 65, 0, 2, 10, 65, 0, 66];
    [&header[..], payload].concat()
}

const ECHO: [u8; 12] = [8, 0, 0, 0, 0, 7, 0, 1, b'p', b'i', b'n', b'g'];

#[test]
fn arp_both_ways() {
    let request = ethernet(
        0x0806,
        &[&[0, 1, 8, 0, 6, 4, 0, 1], &ETHERNET[6..], &[10, 65, 0, 2], &[0; 6], &[169, 254, 1, 1]],
    );
    assert_eq!(
        frame(&request).to_string(),
        "02:00:00:00:00:0a > 02:00:00:00:00:0b: ARP who-has 169.254.1.1 tell 10.65.0.2"
    );
    let reply = ethernet(
        0x0806,
        &[&[0, 1, 8, 0, 6, 4, 0, 2], &[0xee; 6], &[169, 254, 1, 1], &ETHERNET[6..], &[10, 65, 0, 2]],
    );
    assert_eq!(
        frame(&reply).to_string(),
        "02:00:00:00:00:0a > 02:00:00:00:00:0b: ARP reply 169.254.1.1 is-at ee:ee:ee:ee:ee:ee"
    );
}

#[test]
fn ipip_has_outer_and_inner_header() {
    let inner = inner(1, &ECHO);
    let outer = [0x45, 2, 0, 52, 0xb2, 0x09, 0, 0, 63, 4, 0, 0, 192, 168, 77, 1, 192, 168, 77, 2];
    let frame = frame(&ethernet(0x0800, &[&outer, &inner]));
    assert_eq!(
        format!("{frame:#}"),
        "02:00:00:00:00:0a > 02:00:00:00:00:0b: 192.168.77.1 > 192.168.77.2: IPIP (4) ttl 63 id 45577 \
         tos 0x02 len 52\n    \
         10.65.0.2 > 10.65.0.66: ICMP echo request id 7 seq 1 ttl 63 id 3 DF len 32"
    );
}

#[test]
fn vxlan_shows_vni_and_inner_ethernet() {
    let inner = inner(17, &[0x1f, 0x90, 0, 53, 0, 8, 0, 0]);
    let outer = [
        0x45, 0, 0, 78, 0, 9, 0, 0, 64, 17, 0, 0, 192, 168, 77, 1, 192, 168, 77, 2, // IPv4
        0xc0, 0x08, 0x12, 0xb5, 0, 58, 0, 0, // UDP to 4789
        0x08, 0, 0, 0, 0, 0x10, 0, 0, // VXLAN, VNI 4096
        0x66, 1, 2, 3, 4, 5, 0x66, 6, 7, 8, 9, 10, 0x08, 0,
    ];
    assert_eq!(
        packet(&[&outer[..], &inner].concat()).to_string(),
        "192.168.77.1.49160 > 192.168.77.2.4789: UDP ttl 64 id 9 len 78 | \
         VXLAN vni 4096 66:06:07:08:09:0a > 66:01:02:03:04:05: \
         10.65.0.2.8080 > 10.65.0.66.53: UDP ttl 63 id 3 DF len 28"
    );
}

#[test]
fn tcp_shows_flags_numbers_and_data() {
    let tcp = [0x9c, 0x40, 0x14, 0x51, 0, 0, 0, 5, 0, 0, 0, 9, 0x50, 0x18, 1, 0, 0, 0, 0, 0, b'h', b'i'];
    assert_eq!(
        packet(&inner(6, &tcp)).to_string(),
        "10.65.0.2.40000 > 10.65.0.66.5201: TCP [P.] seq 5 ack 9 data 2 ttl 63 id 3 DF len 42"
    );
}

#[test]
fn an_icmp_error_shows_what_it_is_about() {
    // Eight bytes of a TCP header are quoted: ports and sequence number.
    let quoted = inner(6, &[0x9c, 0x40, 0x14, 0x51, 0, 0, 0, 5]);
    let error = [&[3, 4, 0, 0, 0, 0, 0x05, 0xc8][..], &quoted].concat();
    assert_eq!(
        packet(&inner(1, &error)).to_string(),
        "10.65.0.2 > 10.65.0.66: ICMP fragmentation needed (mtu 1480) ttl 63 id 3 DF len 56 | \
         about 10.65.0.2.40000 > 10.65.0.66.5201: TCP [truncated] ttl 63 id 3 DF len 28"
    );
}

#[test]
fn a_later_fragment_has_no_ports() {
    let mut fragment = inner(17, &[0xff; 16]);
    fragment[6..8].copy_from_slice(&[0x20, 182]);
    assert_eq!(
        packet(&fragment).to_string(),
        "10.65.0.2 > 10.65.0.66: fragment of proto 17 ttl 63 id 3 offset 1456 MF len 36"
    );
}

/// fd00:10:65::2 > fd00:10:65::66, hop limit 63.
fn inner6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let header = [0x60, 0, 0, 0, 0, payload.len() as u8, next_header, 63];
    let address = |last| [0xfd, 0, 0, 0x10, 0, 0x65, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    [&header[..], &address(2), &address(0x66), payload].concat()
}

fn is6(next_header: u8, payload: &[u8], text: &str) {
    let text = format!("fd00:10:65::2{text}");
    assert_eq!(packet(&inner6(next_header, payload)).to_string(), text);
}

#[test]
fn ipv6_shows_what_ipv4_does() {
    is6(58, &[128, 0, 0, 0, 0, 7, 0, 1], " > fd00:10:65::66: ICMPv6 echo request id 7 seq 1 hlim 63 len 48");
    let tcp = [0x9c, 0x40, 0x14, 0x51, 0, 0, 0, 5, 0, 0, 0, 9, 0x50, 0x18, 1, 0, 0, 0, 0, 0, b'h', b'i'];
    is6(6, &tcp, ".40000 > fd00:10:65::66.5201: TCP [P.] seq 5 ack 9 data 2 hlim 63 len 62");
    is6(59, &[], " > fd00:10:65::66: no next header hlim 63 len 40");
    is6(200, &[], " > fd00:10:65::66: proto 200 hlim 63 len 40");
    is6(
        4,
        &inner(1, &ECHO),
        " > fd00:10:65::66: IPIP (4) hlim 63 len 72 | \
        10.65.0.2 > 10.65.0.66: ICMP echo request id 7 seq 1 ttl 63 id 3 DF len 32",
    );
    let mut marked = inner6(17, &[0x1f, 0x90, 0, 53, 0, 8, 0, 0]);
    marked[..4].copy_from_slice(&[0x6b, 0x91, 0x23, 0x45]);
    assert_eq!(
        packet(&marked).to_string(),
        "fd00:10:65::2.8080 > fd00:10:65::66.53: UDP hlim 63 class 0xb9 flow 0x12345 len 48"
    );
}

#[test]
fn extension_headers_and_fragments_of_ipv6() {
    let udp = [0x1f, 0x90, 0, 53, 0, 8, 0, 0];
    let chain =
        [&[60, 0, 5, 2, 0, 0, 1, 0][..], &[44, 0, 1, 4, 0, 0, 0, 0], &[17, 0, 0, 1, 0, 0, 0, 9], &udp];
    is6(
        0,
        &chain.concat(),
        ".8080 > fd00:10:65::66.53: UDP hlim 63 id 9 offset 0 MF (hop-by-hop options, destination options, fragment) len 72",
    );
    is6(
        44,
        &[&[17, 0, 0x05, 0xa8, 0, 0, 0, 9][..], &udp].concat(),
        " > fd00:10:65::66: fragment of proto 17 hlim 63 id 9 offset 1448 (fragment) len 56",
    );
}

#[test]
fn vxlan_over_ipv6_has_either_family_inside() {
    let inside = |ethertype: [u8; 2], packet: &[u8]| {
        let header = [0xc0, 0x08, 0x12, 0xb5, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0x10, 0, 0];
        inner6(17, &[&header[..], &[0x66, 1, 2, 3, 4, 5, 0x66, 6, 7, 8, 9, 10], &ethertype, packet].concat())
    };
    assert_eq!(
        packet(&inside([8, 0], &inner(17, &[0x1f, 0x90, 0, 53, 0, 8, 0, 0]))).to_string(),
        "fd00:10:65::2.49160 > fd00:10:65::66.4789: UDP hlim 63 len 98 | \
         VXLAN vni 4096 66:06:07:08:09:0a > 66:01:02:03:04:05: \
         10.65.0.2.8080 > 10.65.0.66.53: UDP ttl 63 id 3 DF len 28"
    );
    let six = inner6(17, &[0x1f, 0x90, 0, 53, 0, 8, 0, 0]);
    let text = packet(&inside([0x86, 0xdd], &six)).levels;
    assert_eq!(
        text[1],
        "VXLAN vni 4096 66:06:07:08:09:0a > 66:01:02:03:04:05: \
         fd00:10:65::2.8080 > fd00:10:65::66.53: UDP hlim 63 len 48"
    );
}

#[test]
fn icmpv6_errors_in_words() {
    let quoted = inner6(6, &[0x9c, 0x40, 0x14, 0x51, 0, 0, 0, 5]);
    for (header, words) in [
        ([1, 0, 0, 0, 0, 0, 0, 0], "no route"),
        ([1, 3, 0, 0, 0, 0, 0, 0], "address unreachable"),
        ([1, 4, 0, 0, 0, 0, 0, 0], "port unreachable"),
        ([1, 9, 0, 0, 0, 0, 0, 0], "unreachable code 9"),
        ([2, 0, 0, 0, 0, 0, 0x05, 0x96], "packet too big (mtu 1430)"),
        ([3, 0, 0, 0, 0, 0, 0, 0], "time exceeded"),
        ([3, 1, 0, 0, 0, 0, 0, 0], "reassembly time exceeded"),
        ([4, 1, 0, 0, 0, 0, 0, 6], "unknown next header (at byte 6)"),
        ([127, 2, 0, 0, 0, 0, 0, 6], "type 127 code 2"),
    ] {
        let text = format!(
            " > fd00:10:65::66: ICMPv6 {words} hlim 63 len 96 | \
             about fd00:10:65::2.40000 > fd00:10:65::66.5201: TCP [truncated] hlim 63 len 48"
        );
        is6(58, &[&header[..], &quoted].concat(), &text);
    }
    is6(58, &[143, 0, 0, 0, 0, 0, 0, 0], " > fd00:10:65::66: ICMPv6 listener report hlim 63 len 48");
    is6(58, &[133, 0, 0, 0, 0, 0, 0, 0], " > fd00:10:65::66: ICMPv6 router solicitation hlim 63 len 48");
    is6(58, &[128, 0], " > fd00:10:65::66: ICMPv6 [truncated] hlim 63 len 42");
}

#[test]
fn neighbour_discovery_both_ways() {
    let gateway = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0xec, 0xee, 0xee, 0xff, 0xfe, 0xee, 0xee, 0xee];
    let asks = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &gateway, &[1, 1, 2, 0, 0, 0, 0, 0x0a]].concat();
    is6(
        58,
        &asks,
        " > fd00:10:65::66: ICMPv6 who-has fe80::ecee:eeff:feee:eeee tell 02:00:00:00:00:0a hlim 63 len 72",
    );
    is6(58, &asks[..24], " > fd00:10:65::66: ICMPv6 who-has fe80::ecee:eeff:feee:eeee hlim 63 len 64");
    is6(
        58,
        &asks[..20],
        " > fd00:10:65::66: ICMPv6 neighbour solicitation [neighbour discovery message cut short] hlim 63 len 60",
    );
    let mut probe = inner6(58, &asks[..24]);
    probe[8..24].fill(0);
    assert_eq!(
        packet(&probe).to_string(),
        ":: > fd00:10:65::66: ICMPv6 is fe80::ecee:eeff:feee:eeee free hlim 63 len 64"
    );
    let tells =
        [&[136, 0, 0, 0, 0xe0, 0, 0, 0][..], &gateway, &[2, 1, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee]].concat();
    is6(
        58,
        &tells,
        " > fd00:10:65::66: ICMPv6 fe80::ecee:eeff:feee:eeee is-at ee:ee:ee:ee:ee:ee router solicited override \
         hlim 63 len 72",
    );
}

#[test]
fn what_belongs_to_the_overlay_is_recognised() {
    let overlay = "10.65.0.0/16".parse().unwrap();
    assert!(concerns(&ethernet(0x0800, &[&inner(1, &ECHO)]), overlay));
    assert!(!concerns(&ethernet(0x0806, &[&inner(1, &ECHO)]), overlay));
    assert!(!concerns(&ethernet(0x0800, &[&inner(1, &ECHO)]), "10.66.0.0/16".parse().unwrap()));
    let outer = [0x45, 0, 0, 52, 0, 9, 0, 0, 63, 4, 0, 0, 192, 168, 77, 1, 192, 168, 77, 2];
    assert!(concerns(&ethernet(0x0800, &[&outer, &inner(1, &ECHO)]), overlay));
    let six = ethernet(0x86dd, &[&inner6(58, &[128, 0, 0, 0, 0, 7, 0, 1])]);
    assert!(concerns(&six, "fd00:10:65::/64".parse().unwrap()));
    assert!(!concerns(&six, overlay) && !concerns(&six, "fd00:10:66::/64".parse().unwrap()));
    let vxlan = ethernet(0x86dd, &[&inner6(17, &[0xc0, 8, 0x12, 0xb5, 0, 8, 0, 0])]);
    assert!(concerns(&vxlan, overlay));
}

#[test]
fn headers_in_headers_end_somewhere() {
    let mut nested = inner(1, &ECHO);
    for _ in 0..9 {
        nested = inner(4, &nested);
    }
    assert_eq!(packet(&nested).levels.len(), DEPTH);
}

#[test]
fn every_truncation_gives_a_text() {
    let quoted = inner(6, &[0x9c, 0x40, 0x14, 0x51, 0, 0, 0, 5]);
    let error = [&[3, 4, 0, 0, 0, 0, 0x05, 0xc8][..], &quoted].concat();
    let whole = ethernet(0x0800, &[&inner(4, &inner(1, &error))]);
    let error = [&[2, 0, 0, 0, 0, 0, 5, 0x96][..], &inner6(58, &[135; 32])].concat();
    let six = ethernet(0x86dd, &[&inner6(60, &[&[58, 0, 1, 4, 0, 0, 0, 0][..], &error].concat())]);
    for whole in [whole, six] {
        for length in 0..whole.len() {
            let text = frame(&whole[..length]).to_string();
            assert!(!text.is_empty() && !text.ends_with(": "), "{length}: {text}");
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_give_a_text(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(!frame(&bytes).to_string().is_empty());
        prop_assert!(!packet(&bytes).to_string().is_empty());
        concerns(&bytes, "10.65.0.0/16".parse().unwrap());
    }

    /// Random bytes that get past the first two headers.
    #[test]
    fn random_bytes_within_an_ipv4_frame(
        protocol in prop_oneof![Just(1u8), Just(4), Just(6), Just(17)],
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        port in prop_oneof![Just([0x12u8, 0xb5]), any::<[u8; 2]>()],
    ) {
        let mut bytes = bytes;
        if let Some(destination) = bytes.get_mut(2..4) {
            destination.copy_from_slice(&port);
        }
        let packet = ethernet(0x0800, &[&inner(protocol, &bytes)]);
        prop_assert!(frame(&packet).to_string().contains("10.65.0.2"));
        concerns(&packet, "10.65.0.0/16".parse().unwrap());
    }

    #[test]
    fn random_bytes_within_an_ipv6_frame(
        next_header in prop::sample::select(vec![0_u8, 4, 6, 17, 41, 43, 44, 51, 58, 60]),
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        kind in 127_u8..140,
    ) {
        let mut bytes = bytes;
        if let (58, Some(first)) = (next_header, bytes.first_mut()) {
            *first = kind;
        }
        let packet = ethernet(0x86dd, &[&inner6(next_header, &bytes)]);
        prop_assert!(frame(&packet).to_string().contains("fd00:10:65::2"));
        concerns(&packet, "fd00::/16".parse().unwrap());
    }
}
