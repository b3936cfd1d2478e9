//! Headers that do not fit their packets, at every edge and at every depth: F4, I9, V5, V9.
//!
//! What this cannot see: what the kernel's sockets drop before it gets here (`tests/vxlan_port.rs`).

use margay::dataplane::PortId;
use margay::io::memory::MemoryFrame;
use margay::verdict::DropReason;
use margay::wire::MacAddr;

use crate::bed::*;
use crate::packets::*;

/// A place where an IPv4 header is read.
struct Edge {
    name: &'static str,
    port: PortId,
    /// The right packet.
    ip: Ip,
    /// The frame around the bytes of a packet.
    frame: fn(&[u8]) -> MemoryFrame,
}

fn edges() -> [Edge; 6] {
    let outer = |payload: &[u8]| Ip::new(PEER_B, NODE, IPIP, payload.to_vec());
    [
        Edge {
            name: "from a workload",
            port: ALPHA.into(),
            ip: Ip::udp(ALPHA_IP, BETA_IP, 10),
            frame: |ip| ethernet(MacAddr::GATEWAY, ALPHA_MAC, 0x0800, ip),
        },
        Edge {
            name: "IPIP, outside",
            port: PortId::Ipip,
            ip: outer(&Ip::udp(B_IPIP, ALPHA_IP, 10).bytes()),
            frame: |ip| MemoryFrame::from_peer(ip, PEER_B.into()),
        },
        Edge {
            name: "IPIP, inside",
            port: PortId::Ipip,
            ip: Ip::udp(B_IPIP, ALPHA_IP, 10),
            frame: |ip| {
                MemoryFrame::from_peer(Ip::new(PEER_B, NODE, IPIP, ip.to_vec()).bytes(), PEER_B.into())
            },
        },
        Edge {
            name: "VXLAN",
            port: VXLAN,
            ip: Ip::udp(B_VXLAN, ALPHA_IP, 10),
            frame: |ip| MemoryFrame::from_peer(vxlan(VTEP_A, VTEP_B, 0x0800, ip), PEER_B.into()),
        },
        Edge {
            name: "from the underlay",
            port: UNDERLAY,
            ip: Ip::udp(B_DIRECT, ALPHA_IP, 10),
            frame: |ip| ethernet(MacAddr([2; 6]), MacAddr([4; 6]), 0x0800, ip),
        },
        Edge {
            name: "from the host",
            port: PortId::Host,
            ip: Ip::udp(OUTSIDE, ALPHA_IP, 10),
            frame: |ip| MemoryFrame::new(ip),
        },
    ]
}

/// One way to spoil a header, and what it is dropped for.
struct Case {
    name: String,
    bytes: Vec<u8>,
    reason: DropReason,
}

fn spoil(bytes: &[u8], name: String, reason: DropReason, change: impl Fn(&mut [u8])) -> Case {
    let mut bytes = bytes.to_vec();
    change(&mut bytes);
    repair(&mut bytes);
    Case { name, bytes, reason }
}

/// Each field with each wrong value, every truncation; the checksum is right wherever it is not the case itself.
fn cases(ip: &Ip) -> Vec<Case> {
    use DropReason::{Ipv4Checksum, Ipv4HeaderLength, Ipv4TotalLength, Ipv4Truncated, Ipv4Version};
    let bytes = &ip.bytes()[..];
    let mut cases = Vec::new();
    for version in (0..16).filter(|version| *version != 4) {
        let change = |b: &mut [u8]| b[0] = version << 4 | 5;
        cases.push(spoil(bytes, format!("version {version}"), Ipv4Version, change));
    }
    for ihl in 0..5 {
        cases.push(spoil(bytes, format!("IHL {ihl}"), Ipv4HeaderLength, |b| b[0] = 0x40 | ihl));
    }
    let right = bytes.len() as u16;
    for total in (0..20).chain([right + 1, right + 8, 0x8000, 65535]) {
        let change = |b: &mut [u8]| b[2..4].copy_from_slice(&total.to_be_bytes());
        cases.push(spoil(bytes, format!("total length {total}"), Ipv4TotalLength, change));
    }
    for (ihl, total) in [(6, 20), (6, 23), (15, 20), (15, 59)] {
        let change = |b: &mut [u8]| {
            b[0] = 0x40 | ihl;
            b[2..4].copy_from_slice(&[0, total]);
        };
        cases.push(spoil(bytes, format!("IHL {ihl} past total length {total}"), Ipv4TotalLength, change));
    }
    for bit in 0..16 {
        let mut bytes = bytes.to_vec();
        bytes[10 + bit / 8] ^= 0x80 >> (bit % 8);
        cases.push(Case { name: format!("checksum, bit {bit}"), bytes, reason: Ipv4Checksum });
    }
    for len in 0..bytes.len() {
        let reason = if len < 20 { Ipv4Truncated } else { Ipv4TotalLength };
        cases.push(Case { name: format!("cut to {len}"), bytes: bytes[..len].to_vec(), reason });
    }
    cases
}

/// RFC 1812 5.2.2, before anything else and whoever sent it.
#[test]
fn f4_i9_v9_a_header_that_does_not_fit_is_dropped_at_every_edge() {
    let mut bed = Bed::new();
    for Edge { name: edge, port, ip, frame } in edges() {
        assert_eq!(bed.one(port, frame(&ip.bytes())).out.len(), 1, "{edge}: the right one");
        for Case { name, bytes, reason } in cases(&ip) {
            let exchange = bed.one(port, frame(&bytes));
            assert_eq!(exchange.out, [], "{edge}: {name}");
            // Nothing but its version tells what the kernel hands over: it says that it is IPv6.
            if port == PortId::Host && bytes.first().is_some_and(|first| first >> 4 == 6) {
                continue;
            }
            assert_eq!(exchange.tally.dropped[reason.index()], 1, "{edge}: {name}: {:?}", exchange.tally);
        }
    }
}

/// One bit of a header changed on the way, and nothing repaired: the checksum finds each.
#[test]
fn f4_i9_no_single_bit_passes() {
    let mut bed = Bed::new();
    for Edge { name, port, ip, frame } in edges() {
        for bit in 0..160 {
            let mut bytes = ip.bytes();
            bytes[bit / 8] ^= 0x80 >> (bit % 8);
            assert_eq!(bed.one(port, frame(&bytes)).out, [], "{name}: bit {bit}");
        }
    }
}

/// The same frames cut at each byte, whatever is there: the Ethernet header, the outer one, the VXLAN header.
#[test]
fn f4_i9_v9_no_truncation_of_a_frame_passes() {
    let mut bed = Bed::new();
    for Edge { name, port, ip, frame } in edges() {
        let whole = frame(&ip.bytes());
        for len in 0..whole.bytes.len() {
            let cut = MemoryFrame { bytes: whole.bytes[..len].to_vec(), ..whole.clone() };
            let exchange = bed.one(port, cut);
            assert_eq!(exchange.out, [], "{name}: cut to {len}");
            assert_eq!(exchange.tally.dropped.iter().sum::<u64>(), 1, "{name}: cut to {len}");
        }
    }
}

/// The transport's lengths are the receiver's business: a router passes on what the IP header holds.
#[test]
fn f2_what_is_wrong_behind_the_ip_header_is_not_this_nodes_business() {
    let mut bed = Bed::new();
    let udp = Ip::udp(ALPHA_IP, BETA_IP, 10);
    for len in [0, 7, 19, 65535_u16] {
        let mut ip = udp.clone();
        ip.payload[4..6].copy_from_slice(&len.to_be_bytes());
        let exchange = bed.one(ALPHA, ip.sent_by(ALPHA_MAC));
        assert_eq!(exchange.out, [(BETA.into(), ip.hop().delivered_to(BETA_MAC))], "{len}");
    }
    for len in 0..8 {
        let ip = Ip { payload: udp.payload[..len].to_vec(), ..udp.clone() };
        let exchange = bed.one(ALPHA, ip.sent_by(ALPHA_MAC));
        assert_eq!(exchange.out, [(BETA.into(), ip.hop().delivered_to(BETA_MAC))], "{len}");
    }
}
