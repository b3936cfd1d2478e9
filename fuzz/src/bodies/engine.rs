//! A few frames through a whole node with ports in memory, one after the other.

#[allow(dead_code, reason = "the engine's tests use the rest")]
#[path = "../../../tests/engine/bed.rs"]
pub mod bed;
#[allow(dead_code, reason = "the engine's tests use the rest")]
#[path = "../../../tests/engine/packets.rs"]
pub mod packets;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, OnceLock};

use etherparse::{ArpPacketSlice, Ipv4HeaderSlice};
use margay::buf::{MAX_SEGMENTS, Offload, PartialChecksum, Segmentation, Segments};
use margay::dataplane::antispoof::{GATEWAY_ADDRESS, is_martian};
use margay::dataplane::{Neighbor, PortId};
use margay::fib::Publication;
use margay::io::memory::MemoryFrame;
use margay::io::offload::{MAX_HEAD, Outer, SuperFrame};
use margay::wire::{Ecn, MacAddr};

use bed::*;
use packets::*;

/// Frames of one input that are looked at.
const MAX_FRAMES: usize = 12;
const PORTS: [PortId; 7] = [
    PortId::Endpoint(ALPHA),
    PortId::Endpoint(BETA),
    PortId::Endpoint(GAMMA),
    PortId::Ipip,
    PortId::Vxlan,
    PortId::Underlay,
    PortId::Host,
];
const PEERS: [Ipv4Addr; 4] = [PEER_B, PEER_C, NODE, Ipv4Addr::new(192, 168, 77, 99)];

/// One frame of an input. It stands there as `[port, flags, peer and ECN, start, field, kind, size, len, bytes]`.
#[derive(Debug, Clone)]
pub struct Record {
    pub port: u8,
    /// 1: partial checksum, 2: segments, 4: make the IP headers' checksums right first.
    pub flags: u8,
    pub peer_and_ecn: u8,
    pub checksum: [u8; 2],
    pub kind: u8,
    pub size: u16,
    pub bytes: Vec<u8>,
}

impl Record {
    #[allow(dead_code, reason = "the corpora's test alone writes seeds")]
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend([self.port, self.flags, self.peer_and_ecn, self.checksum[0], self.checksum[1], self.kind]);
        out.extend(self.size.to_be_bytes());
        out.extend((self.bytes.len() as u16).to_be_bytes());
        out.extend(&self.bytes);
    }

    /// The last one may be cut short.
    fn read(input: &mut &[u8]) -> Option<Self> {
        let (head, rest) = input.split_first_chunk::<10>()?;
        let len = usize::from(u16::from_be_bytes([head[8], head[9]])).min(rest.len());
        let (bytes, rest) = rest.split_at(len);
        *input = rest;
        Some(Record {
            port: head[0],
            flags: head[1],
            peer_and_ecn: head[2],
            checksum: [head[3], head[4]],
            kind: head[5],
            size: u16::from_be_bytes([head[6], head[7]]),
            bytes: bytes.to_vec(),
        })
    }

    fn frame(&self) -> (PortId, MemoryFrame) {
        let port = PORTS[usize::from(self.port) % PORTS.len()];
        let mut bytes = self.bytes.clone();
        if self.flags & 4 != 0 {
            let first = inner_at(port, &bytes);
            [first, 0].iter().filter(|at| **at == first || port == PortId::Ipip).for_each(|at| {
                if let Some(ip) = bytes.get_mut(*at..).filter(|ip| ip.len() >= 20) {
                    repair(ip);
                }
            });
        }
        let mut offload = Offload::default();
        // Tunnel sockets have no virtio-net header that could say anything.
        let has_header = !matches!(port, PortId::Ipip | PortId::Vxlan);
        if has_header && self.flags & 1 != 0 {
            let [start, field] = self.checksum.map(u16::from);
            offload.checksum = Some(PartialChecksum { start, field });
        }
        if has_header && self.flags & 2 != 0 {
            let kind = match self.kind % 3 {
                0 => Segmentation::TcpV4,
                1 => Segmentation::TcpV4Ecn,
                _ => Segmentation::UdpV4,
            };
            offload.segments = Some(Segments { kind, size: self.size });
        }
        let peer = IpAddr::V4(PEERS[usize::from(self.peer_and_ecn >> 2) % PEERS.len()]);
        let frame = MemoryFrame::from_peer(bytes, peer);
        (port, MemoryFrame { offload, ecn: Ecn::from_tos(self.peer_and_ecn), ..frame })
    }
}

/// Where the packet that would be forwarded begins in a frame of this port.
fn inner_at(port: PortId, bytes: &[u8]) -> usize {
    match port {
        PortId::Endpoint(_) | PortId::Underlay => 14,
        PortId::Vxlan => 22,
        PortId::Ipip => bytes.first().map_or(20, |first| usize::from(first & 0xf) * 4),
        PortId::Host | PortId::Direct | PortId::Errors => 0,
    }
}

/// Of what this node says to its own kernel (RFC 7600).
const DUMMY_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// What may be found again on its way out: addresses, protocol, identification, TTL.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    port: PortId,
    src: [u8; 4],
    dst: [u8; 4],
    protocol: u8,
    id: u16,
    ttl: u8,
}

fn seen(port: PortId, frame: &MemoryFrame) -> Option<Seen> {
    let ip = frame.bytes.get(inner_at(port, &frame.bytes)..).filter(|ip| ip.len() >= 20)?;
    let address = |at: usize| [ip[at], ip[at + 1], ip[at + 2], ip[at + 3]];
    Some(Seen { port, src: address(12), dst: address(16), protocol: ip[9], id: word(ip, 4), ttl: ip[8] })
}

/// Each frame alone, so that what leaves is known to come from it, or to have waited for BETA's MAC.
pub(super) fn engine(mut input: &[u8]) {
    static NODE_A: OnceLock<Arc<Publication>> = OnceLock::new();
    let fib = NODE_A.get_or_init(|| Publication::new(compile(CLUSTER, "a", Machine::default())));
    let mut bed = Bed::over(fib, 96).with_ports([
        (ALPHA.into(), Some(Neighbor::fixed(ALPHA_MAC))),
        (BETA.into(), Some(Neighbor::unknown())),
        (GAMMA.into(), Some(Neighbor::fixed(GAMMA_MAC))),
    ]);
    let mut before = Vec::new();
    for _ in 0..MAX_FRAMES {
        let Some(record) = Record::read(&mut input) else { break };
        let (port, frame) = record.frame();
        before.extend(seen(port, &frame));
        // Every frame has one outcome and no slot leaks: the exchange asserts it.
        for (to, frame) in bed.one(port, frame).out {
            leaves(to, &frame, &before);
        }
    }
}

fn leaves(to: PortId, frame: &MemoryFrame, before: &[Seen]) {
    let (outer, head) = match to {
        PortId::Endpoint(_) => {
            assert_eq!(frame.bytes[6..12], MacAddr::GATEWAY.0);
            if frame.bytes[12..14] == [0x08, 0x06] {
                assert_eq!(frame.bytes.len(), 42);
                ArpPacketSlice::from_slice(&frame.bytes[14..]).expect("a message that etherparse reads");
                return;
            }
            assert_eq!(frame.bytes[12..14], [0x08, 0x00]);
            assert_eq!(frame.bytes[0] & 1, 0, "never to a group");
            (Outer::Ethernet, 14)
        }
        PortId::Ipip => {
            let outer = Ip::read(&frame.bytes);
            assert_eq!((outer.src, IpAddr::V4(outer.dst), outer.protocol), (NODE, frame.peer, IPIP));
            assert!(outer.options.is_empty() && outer.ttl == 64 && outer.id != 0);
            (Outer::Ipip, 20)
        }
        PortId::Vxlan => {
            assert_eq!(frame.bytes[..8], [8, 0, 0, 0, 0, 0x10, 0, 0]);
            assert_eq!(frame.bytes[14..22], [&VTEP_A.0[..], &[8, 0]].concat());
            (Outer::Vxlan, 22)
        }
        PortId::Direct | PortId::Host => (Outer::None, 0),
        PortId::Underlay | PortId::Errors => panic!("nothing is sent by a port that only receives"),
    };
    if matches!(to, PortId::Ipip | PortId::Vxlan | PortId::Direct) {
        assert!([PEER_B, PEER_C].map(IpAddr::V4).contains(&frame.peer));
        // The port without encapsulation hands it on, or finishes it.
        let is_finished = frame.offload.checksum.is_none() || frame.offload.segments.is_some();
        assert!(is_finished || to == PortId::Direct, "{to:?} {:?}", frame.offload);
    }
    // Version, lengths, checksum, no byte too many; and etherparse says the same.
    let bytes = &frame.bytes[head..];
    let ip = Ip::read(bytes);
    let oracle = Ipv4HeaderSlice::from_slice(bytes).expect("a header that etherparse reads");
    assert_eq!((oracle.ttl(), usize::from(oracle.total_len())), (ip.ttl, bytes.len()));
    assert!(ip.ttl > 0);
    assert!(!is_martian(ip.dst) || matches!(to, PortId::Host), "{ip:?}");
    may_leave(to, &ip, before);
    if let Some(segments) = frame.offload.segments {
        cut(&frame.bytes, outer, head, segments);
    }
}

/// A packet that came in, a hop later unless this node's kernel counts the hop; or one that this node says itself.
fn may_leave(to: PortId, ip: &Ip, before: &[Seen]) {
    let is_own =
        ip.protocol == ICMP && ip.ttl == 64 && [TUNNEL_A, GATEWAY_ADDRESS, DUMMY_ADDRESS].contains(&ip.src);
    let came = before.iter().any(|seen| {
        let same = seen.src == ip.src.octets()
            && seen.dst == ip.dst.octets()
            && seen.protocol == ip.protocol
            // The datagrams of a super-frame that had to be cut are numbered from its own id on.
            && usize::from(ip.id.wrapping_sub(seen.id)) < if ip.protocol == UDP { MAX_SEGMENTS } else { 1 };
        let hop = match (seen.port, to) {
            (PortId::Host, _) | (_, PortId::Host) => seen.ttl == ip.ttl,
            _ => seen.ttl == ip.ttl.wrapping_add(1),
        };
        let from_underlay = matches!(seen.port, PortId::Ipip | PortId::Vxlan | PortId::Underlay);
        let to_underlay = matches!(to, PortId::Ipip | PortId::Vxlan | PortId::Direct);
        let owned = match seen.port {
            PortId::Endpoint(ALPHA) => ip.src == ALPHA_IP,
            PortId::Endpoint(BETA) => ip.src == BETA_IP,
            PortId::Endpoint(_) => [GAMMA_IP, GAMMA_IP_2].contains(&ip.src),
            _ => true,
        };
        same && hop && owned && !(from_underlay && to_underlay)
    });
    assert!(is_own || came, "{to:?} {ip:?} {before:?}");
}

/// The first segments and the last are packets with right checksums.
fn cut(bytes: &[u8], outer: Outer, head_len: usize, segments: Segments) {
    let super_frame = SuperFrame::parse(bytes, outer, segments).expect("what leaves can be cut");
    let count = super_frame.count();
    assert!(count <= MAX_SEGMENTS);
    for index in (0..count.min(3)).chain([count - 1]) {
        let mut head = [0xa5; MAX_HEAD];
        let len = super_frame.head_len();
        super_frame.write_head(index, &mut head[..len]);
        let segment = [&head[..len], super_frame.payload(index)].concat();
        if outer == Outer::Ipip {
            Ip::read(&segment);
        }
        let ip = Ip::read(&segment[head_len..]);
        assert!(ip.is_summed(), "{ip:?}");
    }
}
