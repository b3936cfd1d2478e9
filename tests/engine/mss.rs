//! The MSS of TCP, lowered where an IPPool asks for it: M13 without an ICMP error.

use std::net::Ipv4Addr;

use margay::buf::{Offload, Segmentation, Segments};
use margay::dataplane::PortId;
use margay::io::memory::MemoryFrame;

use crate::bed::*;
use crate::packets::*;

const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;

/// Pods and ways that differ in what they carry.
const MACHINE: Machine =
    Machine { pod_mtu: 9000, host_mtu: Some(1400), slots: 512, outer_ttl: TTL, icmp_source: None };
const TTL: margay::fib::OuterTtl = margay::fib::OuterTtl::Fixed(64);

/// Each way with its port, what the port puts in front, and the MSS that fits.
const WAYS: [(Ipv4Addr, PortId, usize, u16); 5] = [
    (BETA_IP, PortId::Endpoint(BETA), 14, 8960),
    (B_VXLAN, VXLAN, 22, 1410),
    (B_IPIP, PortId::Ipip, 20, 1440),
    (B_DIRECT, PortId::Direct, 0, 1460),
    (OUTSIDE, PortId::Host, 0, 1360),
];

/// The cluster in which these pools clamp.
fn clamping(pools: &[&str]) -> String {
    pools.iter().fold(CLUSTER.to_owned(), |lines, pool| {
        let line = CLUSTER.lines().find(|line| line.starts_with(&format!("pool {pool}"))).expect("a pool");
        lines.replace(line, &format!("{line} clamp"))
    })
}

fn bed() -> Bed {
    Bed::of(&clamping(&["10.65", "10.66", "10.67"]), MACHINE)
}

fn mss(value: u16) -> Vec<u8> {
    [&[2, 4][..], &value.to_be_bytes()].concat()
}

/// What leaves for `ip` from ALPHA, the IP packet and its offload.
#[track_caller]
fn leaves(bed: &mut Bed, ip: &Ip, offload: Offload, port: PortId, head: usize) -> (Ip, Offload) {
    let exchange = bed.one(ALPHA, MemoryFrame { offload, ..ip.sent_by(ALPHA_MAC) });
    let [(id, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
    assert_eq!(*id, port);
    (Ip::read(&frame.bytes[head..]), frame.offload)
}

/// RFC 6691: the MTU of the way less 40, whatever else is in the packet.
#[test]
fn m13_a_syn_leaves_with_what_the_way_carries() {
    for (dst, port, head, fits) in WAYS {
        for flags in [SYN, SYN_ACK, SYN | 0xc0] {
            for given in [fits + 1, 0xffff] {
                let ip = Ip::syn(ALPHA_IP, dst, flags, &mss(given), &[]);
                let wanted = Ip::syn(ALPHA_IP, dst, flags, &mss(fits), &[]);
                let (left, _) = leaves(&mut bed(), &ip, Offload::default(), port, head);
                assert_eq!(left, wanted.leaving_by(port));
            }
            // RFC 9293 3.7.1: a receiver's limit, which is its own to say.
            for given in [0, 1, 536, fits] {
                let ip = Ip::syn(ALPHA_IP, dst, flags, &mss(given), &[]);
                let (left, _) = leaves(&mut bed(), &ip, Offload::default(), port, head);
                assert_eq!(left, ip.leaving_by(port));
            }
        }
    }
}

/// What it says limits what is sent back, by the way that it came.
#[test]
fn m13_a_syn_that_arrives_is_lowered_to_the_way_back() {
    for (src, fits) in [(B_VXLAN, 1410), (B_IPIP, 1440), (B_DIRECT, 1460), (OUTSIDE, 1360)] {
        for flags in [SYN, SYN_ACK] {
            let ip = Ip::syn(src, ALPHA_IP, flags, &mss(9000), &[]);
            let wanted = Ip::syn(src, ALPHA_IP, flags, &mss(fits), &[]);
            let (port, frame) = match src {
                B_VXLAN => (VXLAN, ip.in_vxlan(PEER_B, VTEP_A, VTEP_B)),
                B_IPIP => (PortId::Ipip, ip.in_ipip(PEER_B, NODE)),
                B_DIRECT => (UNDERLAY, ip.on_underlay()),
                _ => (PortId::Host, ip.plain()),
            };
            let exchange = bed().one(port, frame);
            let [(id, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
            assert_eq!(*id, ALPHA.into());
            let wanted = if port == PortId::Host { wanted } else { wanted.hop() };
            assert_eq!(Ip::read(&frame.bytes[14..]), wanted);
        }
    }
    // Between this node's kernel and another node's pod.
    let ip = Ip::syn(OUTSIDE, B_VXLAN, SYN, &mss(9000), &[]);
    let exchange = bed().one(PortId::Host, ip.plain());
    assert_eq!(Ip::read(&exchange.out[0].1.bytes[22..]), Ip::syn(OUTSIDE, B_VXLAN, SYN, &mss(1360), &[]));
}

/// The smaller MTU of both directions: a pod whose interface takes less than the tunnel is not sent more.
#[test]
fn m13_the_way_back_counts_on_the_way_out() {
    let mut bed = Bed::of(&clamping(&["10.65"]), Machine { pod_mtu: 1300, ..MACHINE });
    let ip = Ip::syn(ALPHA_IP, B_VXLAN, SYN, &mss(1400), &[]);
    let (left, _) = leaves(&mut bed, &ip, Offload::default(), VXLAN, 22);
    assert_eq!(left, Ip::syn(ALPHA_IP, B_VXLAN, SYN, &mss(1260), &[]).hop());
}

/// Off by default; where it is on, it is so for whom an address of the pool is at either end.
#[test]
fn only_pools_that_ask_for_it_are_clamped() {
    let syn = |src, dst| Ip::syn(src, dst, SYN, &mss(9000), &[]);
    let out = |bed: &mut Bed, dst, port, head| {
        leaves(bed, &syn(ALPHA_IP, dst), Offload::default(), port, head).0
            != syn(ALPHA_IP, dst).leaving_by(port)
    };
    let inwards = |bed: &mut Bed, src| {
        let exchange = bed.one(PortId::Ipip, syn(src, ALPHA_IP).in_ipip(PEER_B, NODE));
        Ip::read(&exchange.out[0].1.bytes[14..]) != syn(src, ALPHA_IP).hop()
    };
    for (pools, outwards_clamped, inwards_clamped) in [
        (&[][..], [false, false, false], false),
        // ALPHA's own.
        (&["10.65"][..], [true, true, true], true),
        (&["10.66"][..], [false, true, false], true),
        (&["10.67"][..], [false, false, true], false),
    ] {
        let mut bed = Bed::of(&clamping(pools), MACHINE);
        let ways = [WAYS[1], WAYS[2], WAYS[3]];
        assert_eq!(
            ways.map(|(dst, port, head, _)| out(&mut bed, dst, port, head)),
            outwards_clamped,
            "{pools:?}"
        );
        assert_eq!(inwards(&mut bed, B_IPIP), inwards_clamped, "{pools:?}");
    }
}

#[test]
fn what_is_no_syn_stays_as_it_is() {
    let large = mss(9000);
    let mut cases: Vec<Ip> = [0x10, 0x18, 0x11, 0x04, SYN | 0x04, 0]
        .map(|flags| Ip::syn(ALPHA_IP, B_VXLAN, flags, &large, &[]))
        .into();
    let mut udp = Ip::syn(ALPHA_IP, B_VXLAN, SYN, &large, &[]);
    udp.protocol = UDP;
    cases.push(udp);
    // Fragments: the first has the header, a later one only looks like it.
    for fragment in [MF, MF | 3, 3] {
        cases.push(Ip::syn(ALPHA_IP, B_VXLAN, SYN, &large, &[]).fragment(fragment));
    }
    // Too short for a header, or a header that is too short or longer than the segment.
    for len in [13, 14, 19] {
        let mut ip = Ip::syn(ALPHA_IP, B_VXLAN, SYN, &large, &[]);
        ip.payload.truncate(len);
        cases.push(ip);
    }
    for offset in [0x40, 0xf0] {
        let mut ip = Ip::syn(ALPHA_IP, B_VXLAN, SYN, &large, &[]);
        ip.payload[12] = offset;
        cases.push(ip);
    }
    for ip in cases {
        let (left, _) = leaves(&mut bed(), &ip, Offload::default(), VXLAN, 22);
        assert_eq!(left, ip.hop());
    }
}

/// Each option list with what it is when it leaves.
#[test]
fn the_option_is_found_behind_others_and_nothing_else_changes() {
    let linux = |value: u16| [&mss(value)[..], &[4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7]].concat();
    let cases = [
        (linux(9000), linux(1410)),
        ([&[4, 2, 3, 3, 7][..], &mss(9000)].concat(), [&[4, 2, 3, 3, 7][..], &mss(1410)].concat()),
        // At an odd place, where its two bytes are halves of two words of the checksum.
        ([&[1][..], &mss(0x2345)].concat(), [&[1][..], &mss(1410)].concat()),
        ([&[3, 3, 7][..], &mss(0xffff)].concat(), [&[3, 3, 7][..], &mss(1410)].concat()),
        ([mss(9000), mss(100), mss(8000)].concat(), [mss(1410), mss(100), mss(1410)].concat()),
        // As far as it can be read.
        ([&mss(9000)[..], &[3, 0, 2, 4, 9, 9]].concat(), [&mss(1410)[..], &[3, 0, 2, 4, 9, 9]].concat()),
        ([&[3, 1][..], &mss(9000)].concat(), [&[3, 1][..], &mss(9000)].concat()),
        ([&[3, 99][..], &mss(9000)].concat(), [&[3, 99][..], &mss(9000)].concat()),
        ([&[2, 3, 9][..], &[2, 4]].concat(), [&[2, 3, 9][..], &[2, 4]].concat()),
        (vec![0xff; 40], vec![0xff; 40]),
        (vec![2; 40], vec![2; 40]),
    ];
    for (given, wanted) in cases {
        for data in [&b""[..], b"fast open"] {
            let ip = Ip::syn(ALPHA_IP, B_VXLAN, SYN, &given, data);
            let (left, _) = leaves(&mut bed(), &ip, Offload::default(), VXLAN, 22);
            assert_eq!(left, Ip::syn(ALPHA_IP, B_VXLAN, SYN, &wanted, data).hop(), "{given:?}");
        }
    }
    // Options of the IP header are in front of it all.
    let with_options = |options: &[u8]| Ip {
        options: vec![0x94, 4, 0, 0, 1, 1, 1, 0],
        ..Ip::syn(ALPHA_IP, B_VXLAN, SYN, options, &[])
    };
    let (left, _) = leaves(&mut bed(), &with_options(&mss(9000)), Offload::default(), VXLAN, 22);
    assert_eq!(left, with_options(&mss(1410)).hop());
    let (left, _) = leaves(&mut bed(), &with_options(&[]), Offload::default(), VXLAN, 22);
    assert_eq!(left, with_options(&mss(536)).hop());
}

/// As netfilter's TCPMSS: a sender that is told nothing assumes 536 (RFC 9293 3.7.1), and one that does not is told.
#[test]
fn a_syn_without_the_option_gets_one_where_there_is_room() {
    for (dst, port, head, _) in WAYS {
        for options in [&[][..], &[4, 2, 3, 3, 7], &[1, 1, 0, 0], &[8, 10, 1, 2, 3, 4, 5, 6, 7, 8]] {
            let ip = Ip::syn(ALPHA_IP, dst, SYN, options, &[]);
            let wanted = Ip::syn(ALPHA_IP, dst, SYN, &[&mss(536)[..], options].concat(), &[]);
            let (left, _) = leaves(&mut bed(), &ip, Offload::default(), port, head);
            assert_eq!(left, wanted.leaving_by(port));

            // Unfinished checksums: finished where no header can say that they are not.
            let (left, offload) =
                leaves(&mut bed(), &ip.clone().partial(), ip.partial_checksum(), port, head);
            let passed_on = offload == ip.partial_checksum();
            assert!(passed_on || offload == Offload::default());
            let wanted = if passed_on { wanted.partial() } else { wanted };
            assert_eq!(left, wanted.leaving_by(port));
        }
    }
    // Data behind it, or no room in the header: it stays.
    let full = [&[253, 36][..], &[0; 34], &[1; 4]].concat();
    for ip in
        [Ip::syn(ALPHA_IP, B_VXLAN, SYN, &[], b"fast open"), Ip::syn(ALPHA_IP, B_VXLAN, SYN, &full, &[])]
    {
        let (left, _) = leaves(&mut bed(), &ip, Offload::default(), VXLAN, 22);
        assert_eq!(left, ip.hop());
    }
    // Out of tunnels there is as much headroom as was stripped.
    let ip = Ip::syn(B_VXLAN, ALPHA_IP, SYN_ACK, &[], &[]);
    let exchange = bed().one(VXLAN, ip.in_vxlan(PEER_B, VTEP_A, VTEP_B));
    let wanted = Ip::syn(B_VXLAN, ALPHA_IP, SYN_ACK, &mss(536), &[]);
    assert_eq!(Ip::read(&exchange.out[0].1.bytes[14..]), wanted.hop());
}

/// A way that carries less than the 536 that is assumed.
#[test]
fn on_a_narrow_way_less_than_536_is_said() {
    let mut bed = Bed::of(&clamping(&["10.65"]), Machine { host_mtu: Some(300), ..MACHINE });
    let ip = Ip::syn(ALPHA_IP, OUTSIDE, SYN, &[], &[]);
    let (left, _) = leaves(&mut bed, &ip, Offload::default(), PortId::Host, 0);
    assert_eq!(left, Ip::syn(ALPHA_IP, OUTSIDE, SYN, &mss(260), &[]));
}

/// A partial checksum is that of the pseudo-header, which the option is no part of.
#[test]
fn m14_partial_checksums_stay_partial_and_are_right_when_finished() {
    for (dst, port, head, fits) in WAYS {
        for options in [mss(9000), [&[1][..], &mss(9000)].concat()] {
            let whole = Ip::syn(ALPHA_IP, dst, SYN, &options, b"data");
            let lowered = options.iter().copied().take(options.len() - 2).chain(fits.to_be_bytes());
            let wanted = Ip::syn(ALPHA_IP, dst, SYN, &lowered.collect::<Vec<_>>(), b"data");
            let (left, offload) =
                leaves(&mut bed(), &whole.clone().partial(), whole.partial_checksum(), port, head);
            let wanted = if offload == Offload::default() { wanted } else { wanted.partial() };
            assert_eq!(left, wanted.leaving_by(port), "{port:?}");
        }
    }
    // A super-frame whose first segment is a SYN (RFC 7413).
    let ip = Ip::syn(ALPHA_IP, B_VXLAN, SYN, &mss(9000), &[7; 3000]).partial();
    let segments = Some(Segments { kind: Segmentation::Tcp, size: 1000 });
    let offload = Offload { segments, ..ip.partial_checksum() };
    let (left, same) = leaves(&mut bed(), &ip, offload, VXLAN, 22);
    assert_eq!(same, offload);
    assert_eq!(left, Ip::syn(ALPHA_IP, B_VXLAN, SYN, &mss(1410), &[7; 3000]).partial().hop());
}

/// RFC 1624: what was damaged before must be found to be damaged behind.
#[test]
fn a_wrong_checksum_stays_wrong() {
    for options in [mss(9000), [&[1][..], &mss(9000)].concat(), Vec::new()] {
        for damage in [1, 0x100, 0x8000] {
            let mut ip = Ip::syn(ALPHA_IP, B_VXLAN, SYN, &options, &[]);
            let sum = word(&ip.payload, 16).wrapping_add(damage);
            ip.payload[16..18].copy_from_slice(&sum.to_be_bytes());
            let (left, _) = leaves(&mut bed(), &ip, Offload::default(), VXLAN, 22);
            assert_ne!(left.payload, ip.payload, "it is clamped");
            assert!(!left.is_summed());
        }
    }
}
