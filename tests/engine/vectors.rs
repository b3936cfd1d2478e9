//! The kernel's packets (`tests/vectors`) through the whole engine, set up as the vectors' node.
//!
//! Compared are all bytes but the outer identification and the checksum that follows from it. Of VXLAN the
//! socket writes outer IP and UDP: the comparison is of what it is given: payload, ECN, peer.
//!
//! The hosts between which the vectors' kernel forwards, .50 and .60, are workloads here, ALPHA and BETA, so
//! that margay alone is the node that the kernel was there: one hop.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use margay::dataplane::{Neighbor, PortId};
use margay::fib::OuterTtl;
use margay::io::memory::MemoryFrame;
use margay::verdict::{DropReason, PuntReason};
use margay::wire::{Ecn, MacAddr};

use crate::bed::*;
use crate::packets::*;

struct Vector {
    name: String,
    given: Vec<u8>,
    made: Vec<Vec<u8>>,
}

fn vectors(file: &str) -> Vec<Vector> {
    let hex = |value: &serde_json::Value| {
        let digit = |byte: &u8| char::from(*byte).to_digit(16).unwrap() as u8;
        let text = value.as_str().unwrap().as_bytes();
        text.chunks(2).map(|pair| digit(&pair[0]) << 4 | digit(&pair[1])).collect::<Vec<u8>>()
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(file);
    let vectors = fs::read_to_string(path).unwrap();
    let vectors = vectors.lines().map(|line| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        Vector {
            name: value["name"].as_str().unwrap().to_owned(),
            given: hex(&value["in_ip"]),
            made: value["out_ip"].as_array().unwrap().iter().map(hex).collect(),
        }
    });
    vectors.collect()
}

/// What a vector's packet brought; workloads' frames without their Ethernet headers.
#[derive(Debug)]
struct Result {
    out: Vec<(PortId, MemoryFrame)>,
    dropped: Option<DropReason>,
    punted: Option<PuntReason>,
}

fn run(cluster: &str, pod_mtu: u16, port: PortId, frame: MemoryFrame) -> Result {
    let machine = Machine { pod_mtu, outer_ttl: OuterTtl::Inherit, ..Machine::default() };
    let mut bed = Bed::bare(compile(cluster, "node", machine), 16).with_ports([
        (ALPHA.into(), Some(Neighbor::fixed(ALPHA_MAC))),
        (BETA.into(), Some(Neighbor::fixed(BETA_MAC))),
    ]);
    let exchange = bed.one(port, frame);
    let dropped = DropReason::ALL.iter().find(|reason| exchange.tally.dropped[reason.index()] > 0);
    let punted = PuntReason::ALL.iter().find(|reason| exchange.tally.punted[reason.index()] > 0);
    let out = exchange.out.into_iter().map(|(id, frame)| (id, unframed(id, frame))).collect();
    Result { out, dropped: dropped.copied(), punted: punted.copied() }
}

/// The packet of a frame to a workload; what goes to others as it is.
fn unframed(id: PortId, mut frame: MemoryFrame) -> MemoryFrame {
    let mac = match id {
        PortId::Endpoint(ALPHA) => ALPHA_MAC,
        PortId::Endpoint(_) => BETA_MAC,
        _ => return frame,
    };
    let header: Vec<u8> = frame.bytes.drain(..14).collect();
    assert_eq!(header, [&mac.0[..], &MacAddr::GATEWAY.0, &[8, 0]].concat());
    frame
}

/// A vector's packet as ALPHA sends it.
fn from_alpha(packet: &[u8]) -> (PortId, MemoryFrame) {
    (ALPHA.into(), ethernet(MacAddr::GATEWAY, ALPHA_MAC, 0x0800, packet))
}

/// An outer packet with its identification, and the checksum over it, left out.
fn anonymous(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[4..6].fill(0);
    bytes[10..12].fill(0);
    bytes
}

/// An ICMP error of the kernel's against ours: it chooses its own source (by the route back), TOS and
/// identification, and quotes the same packet with the same type, code and MTU.
#[track_caller]
fn same_error(ours: &Ip, kernels: &Ip, source: Ipv4Addr) {
    assert_eq!((ours.src, ours.dst), (source, kernels.dst));
    assert_eq!(ours.protocol, ICMP);
    assert_eq!(ours.tos, kernels.tos);
    assert_eq!(ours.payload, kernels.payload);
    assert_eq!(checksum(&ours.payload), 0);
}

const IPIP_NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 78, 2);
const IPIP_PEER: Ipv4Addr = Ipv4Addr::new(192, 168, 78, 1);
const IPIP_TUNNEL: Ipv4Addr = Ipv4Addr::new(10, 65, 9, 64);
const IPIP_CLUSTER: &str = "
node node 192.168.78.2/24 ipip=10.65.9.64
node peer 192.168.78.1/24
pool 10.65.0.0/16 ipipMode
block 10.65.8.0/26 peer
pod alpha node 192.168.78.50/32 mac=02:00:00:00:00:0a
pod beta node 192.168.78.60/32 mac=02:00:00:00:00:0b
";

/// What the kernel does otherwise, and margay on purpose so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Difference {
    /// S2: margay knows its peers.
    UnknownPeer,
    /// The raw socket takes protocol 4 alone: nothing for margay to answer. The kernel's own stack may.
    NotTaken,
    /// V2, RFC 7348 5: reserved bits are ignored.
    ReservedBits,
}

fn difference(file: &str, name: &str) -> Option<Difference> {
    match (file, name) {
        ("ipip", "unknown source outer") => Some(Difference::UnknownPeer),
        ("ipip", "inner is ipv6 (p=41)" | "frag-needed mtu 1300") => Some(Difference::NotTaken),
        ("vxlan", "flags 0x0c" | "flags 0x88 (GBP)" | "reserved2 nonzero") => Some(Difference::ReservedBits),
        _ => None,
    }
}

#[test]
fn ipip_as_the_kernels_tunl0() {
    let (mut entered, mut left, mut errors, mut differ) = (0, 0, 0, 0);
    for Vector { name, given, made } in vectors("ipip-kernel-6.1-vectors.jsonl") {
        println!("{name}");
        let is_outer = given[16..20] == IPIP_NODE.octets();
        let (port, frame) = match is_outer {
            true => {
                let source = Ipv4Addr::new(given[12], given[13], given[14], given[15]);
                (PortId::Ipip, MemoryFrame::from_peer(given.clone(), source.into()))
            }
            false => from_alpha(&given),
        };
        let result = run(IPIP_CLUSTER, 1480, port, frame);
        let out: Vec<Vec<u8>> = result.out.iter().map(|(_, frame)| frame.bytes.clone()).collect();
        match difference("ipip", &name) {
            Some(difference) => {
                differ += 1;
                match difference {
                    Difference::UnknownPeer => {
                        assert_eq!(made.len(), 1);
                        assert_eq!((out.len(), result.dropped), (0, Some(DropReason::UnknownPeer)));
                    }
                    Difference::NotTaken => {
                        assert_eq!((out.len(), result.dropped), (0, Some(DropReason::InnerNotIp)));
                    }
                    Difference::ReservedBits => unreachable!("no VXLAN here"),
                }
            }
            None if made.is_empty() => {
                assert_eq!(name, "inner len 19 trunc");
                assert_eq!((out.len(), result.dropped), (0, Some(DropReason::Ipv4Truncated)));
            }
            None if name == "inner ttl 1" => {
                errors += 1;
                let (ours, kernels) = (Ip::read(&out[0]), Ip::read(&made[0]));
                // The outer header of what a node says itself has its own TTL, DF clear.
                assert_eq!((ours.src, ours.dst, ours.ttl), (kernels.src, kernels.dst, 64));
                same_error(&Ip::read(&ours.payload), &Ip::read(&kernels.payload), IPIP_TUNNEL);
            }
            None if name == "len 1481 df1" => {
                errors += 1;
                assert_eq!(result.punted, Some(PuntReason::TooBig));
                let [(PortId::Endpoint(ALPHA), frame)] = &result.out[..] else { panic!("{result:?}") };
                same_error(&Ip::read(&frame.bytes), &Ip::read(&made[0]), IPIP_TUNNEL);
            }
            None if is_outer => {
                left += 1;
                assert_eq!(out, made);
                assert!(result.out.iter().all(|(id, _)| *id == BETA.into()));
            }
            None => {
                entered += 1;
                let bare = |packets: &[Vec<u8>]| packets.iter().map(|p| anonymous(p)).collect::<Vec<_>>();
                assert_eq!(bare(&out), bare(&made));
                for (id, frame) in &result.out {
                    assert_eq!((*id, frame.peer), (PortId::Ipip, IpAddr::V4(IPIP_PEER)));
                    Ip::read(&frame.bytes);
                }
            }
        }
    }
    assert_eq!((entered, left, errors, differ), (12, 13, 2, 3), "every vector was one of these");
}

const VXLAN_NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 79, 2);
const VXLAN_PEER: Ipv4Addr = Ipv4Addr::new(192, 168, 79, 1);
const VXLAN_CLUSTER: &str = "
node node 192.168.79.2/24 mac=66:f9:37:c3:7e:94
node peer 192.168.79.1/24 mac=66:2d:bf:44:a6:8b
pool 10.65.0.0/16 vxlanMode
block 10.65.8.0/26 peer
pod alpha node 192.168.79.50/32 mac=02:00:00:00:00:0a
pod beta node 192.168.79.60/32 mac=02:00:00:00:00:0b
";

/// What the UDP socket makes of a packet for its port: payload, sender, ECN.
fn received(packet: &[u8]) -> MemoryFrame {
    let ip = Ip::read(packet);
    assert_eq!((ip.protocol, ip.dst, word(&ip.payload, 2)), (UDP, VXLAN_NODE, 4789));
    let mut frame = MemoryFrame::from_peer(&ip.payload[8..], ip.src.into());
    frame.ecn = Ecn::from_tos(ip.tos);
    frame
}

#[test]
fn vxlan_as_the_kernels_vxlan_calico() {
    let (mut entered, mut left, mut errors, mut dropped, mut differ) = (0, 0, 0, 0, 0);
    let mut flows = Vec::new();
    for Vector { name, given, made } in vectors("vxlan-kernel-6.18-vectors.jsonl") {
        println!("{name}");
        let is_outer = given[16..20] == VXLAN_NODE.octets();
        let (port, frame) = match is_outer {
            true => (VXLAN, received(&given)),
            false => from_alpha(&given),
        };
        let result = run(VXLAN_CLUSTER, 1450, port, frame);
        let out: Vec<Vec<u8>> = result.out.iter().map(|(_, frame)| frame.bytes.clone()).collect();
        match difference("vxlan", &name) {
            Some(difference) => {
                differ += 1;
                assert_eq!((difference, made.len()), (Difference::ReservedBits, 0));
                assert_eq!(out, [Ip::read(&given[50..]).hop().bytes()]);
                assert_eq!(result.out[0].0, BETA.into());
            }
            None if made.is_empty() => {
                dropped += 1;
                let reason = match name.as_str() {
                    "vni 4097" => DropReason::VxlanUnknownVni,
                    "dst mac other" | "src mac own" => DropReason::VxlanInnerMac,
                    "ethertype ipv6 garbage" => DropReason::Ipv6Truncated,
                    "truncated after vxlan hdr" => DropReason::VxlanTruncated,
                    _ => panic!("{name}"),
                };
                assert_eq!((out.len(), result.dropped), (0, Some(reason)));
            }
            None if name == "len 1451 df1" => {
                errors += 1;
                let [(PortId::Endpoint(ALPHA), frame)] = &result.out[..] else { panic!("{result:?}") };
                same_error(&Ip::read(&frame.bytes), &Ip::read(&made[0]), VXLAN_NODE);
            }
            None if is_outer => {
                left += 1;
                assert_eq!(out, made);
                assert!(result.out.iter().all(|(id, _)| *id == BETA.into()));
            }
            None => {
                entered += 1;
                let kernels: Vec<Ip> = made.iter().map(|packet| Ip::read(packet)).collect();
                assert_eq!(out, kernels.iter().map(|ip| ip.payload[8..].to_vec()).collect::<Vec<_>>());
                for ((id, frame), kernels) in result.out.iter().zip(&kernels) {
                    assert_eq!((*id, frame.peer), (VXLAN, IpAddr::V4(VXLAN_PEER)));
                    assert_eq!(frame.ecn, Ecn::from_tos(kernels.tos));
                    flows.push(frame.flow);
                }
            }
        }
    }
    assert_eq!((entered, left, errors, dropped, differ), (7, 16, 1, 5, 3), "every vector was one of these");
    flows.dedup();
    assert_eq!(flows.len(), 1, "one flow has one source port");
}

/// E1: what the kernel does with CE inside is no vector: RFC 3168 style, where margay follows RFC 6040.
#[test]
fn inner_ce_is_shown_outside() {
    let packet = Ip::udp([192, 168, 78, 50].into(), [10, 65, 8, 10].into(), 10).tos(3);
    let result = run(IPIP_CLUSTER, 1480, ALPHA.into(), packet.sent_by(ALPHA_MAC));
    assert_eq!(Ip::read(&result.out[0].1.bytes).tos, 3);
}
