//! A few frames through a whole node with ports in memory, one after the other.

#[allow(dead_code, reason = "the engine's tests use the rest")]
#[path = "../../../tests/engine/bed.rs"]
pub mod bed;
#[allow(dead_code, reason = "the engine's tests use the rest")]
#[path = "../../../tests/engine/packets.rs"]
pub mod packets;
#[allow(dead_code, reason = "the engine's tests use the rest")]
#[path = "../../../tests/engine/packets6.rs"]
pub mod packets6;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, OnceLock};

use etherparse::{ArpPacketSlice, Ipv4HeaderSlice, Ipv6HeaderSlice};
use margay::buf::{MAX_SEGMENTS, Offload, PartialChecksum, Segmentation, Segments};
use margay::dataplane::antispoof::{Address, is_martian};
use margay::dataplane::{Neighbor, PortId};
use margay::fib::{EndpointId, Publication};
use margay::io::memory::MemoryFrame;
use margay::io::offload::{MAX_HEAD, Outer, SuperFrame};
use margay::wire::{Ecn, Family, MacAddr};

use bed::*;
use packets::*;
use packets6::{ICMPV6, Ip6};

/// Frames of one input that are looked at.
const MAX_FRAMES: usize = 12;
/// A node, and what may be expected of it.
struct Site {
    cluster: &'static str,
    ports: &'static [PortId],
    /// Where tunnel packets come from: peers, itself and a stranger.
    senders: &'static [IpAddr],
    /// ALPHA's, BETA's and GAMMA's addresses.
    owned: [&'static [IpAddr]; 3],
    /// Where its own packets come from.
    own: &'static [IpAddr],
}

const SITE: Site = Site {
    cluster: CLUSTER,
    ports: &[
        PortId::Endpoint(ALPHA),
        PortId::Endpoint(BETA),
        PortId::Endpoint(GAMMA),
        PortId::Ipip,
        PortId::Vxlan(Family::V4),
        PortId::Underlay(Family::V4),
        PortId::Host,
    ],
    senders: &[
        IpAddr::V4(PEER_B),
        IpAddr::V4(PEER_C),
        IpAddr::V4(NODE),
        IpAddr::V4(Ipv4Addr::new(192, 168, 77, 99)),
    ],
    owned: [&[IpAddr::V4(ALPHA_IP)], &[IpAddr::V4(BETA_IP)], &[IpAddr::V4(GAMMA_IP), IpAddr::V4(GAMMA_IP_2)]],
    own: &[
        IpAddr::V4(TUNNEL_A),
        IpAddr::V4(Ipv4Addr::GATEWAY),
        IpAddr::V4(DUMMY_ADDRESS),
        IpAddr::V6(Ipv6Addr::GATEWAY),
    ],
};

const DUAL: Site = Site {
    cluster: CLUSTER6,
    ports: &[
        PortId::Endpoint(ALPHA),
        PortId::Endpoint(BETA),
        PortId::Endpoint(GAMMA),
        PortId::Vxlan(Family::V4),
        PortId::Vxlan(Family::V6),
        PortId::Underlay(Family::V6),
        PortId::Host,
    ],
    senders: &[
        IpAddr::V6(PEER_B6),
        IpAddr::V4(PEER_B),
        IpAddr::V4(PEER_C),
        IpAddr::V6(NODE6),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 0x99)),
    ],
    owned: [&[IpAddr::V4(ALPHA_IP), IpAddr::V6(ALPHA6)], &[IpAddr::V6(BETA6)], &[IpAddr::V6(GAMMA6)]],
    own: &[
        IpAddr::V4(TUNNEL_A),
        IpAddr::V4(Ipv4Addr::GATEWAY),
        IpAddr::V4(DUMMY_ADDRESS),
        IpAddr::V6(TUNNEL_A6),
        IpAddr::V6(Ipv6Addr::GATEWAY),
    ],
};

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

    fn frame(&self, site: &Site) -> (PortId, MemoryFrame) {
        let port = site.ports[usize::from(self.port) % site.ports.len()];
        let mut bytes = self.bytes.clone();
        if self.flags & 4 != 0 {
            let first = inner_at(port, &bytes);
            [first, 0].iter().filter(|at| **at == first || port == PortId::Ipip).for_each(|at| {
                if let Some(ip) = bytes.get_mut(*at..).filter(|ip| ip.len() >= 20 && ip[0] >> 4 != 6) {
                    repair(ip);
                }
            });
        }
        let mut offload = Offload::default();
        // Tunnel sockets have no virtio-net header that could say anything.
        let has_header = !matches!(port, PortId::Ipip | PortId::Vxlan(_));
        if has_header && self.flags & 1 != 0 {
            let [start, field] = self.checksum.map(u16::from);
            offload.checksum = Some(PartialChecksum { start, field });
        }
        if has_header && self.flags & 2 != 0 {
            let kind = match self.kind % 3 {
                0 => Segmentation::Tcp,
                1 => Segmentation::TcpEcn,
                _ => Segmentation::Udp,
            };
            offload.segments = Some(Segments { kind, size: self.size });
        }
        let peer = site.senders[usize::from(self.peer_and_ecn >> 2) % site.senders.len()];
        let frame = MemoryFrame::from_peer(bytes, peer);
        (port, MemoryFrame { offload, ecn: Ecn::from_tos(self.peer_and_ecn), ..frame })
    }
}

/// Where the packet that would be forwarded begins in a frame of this port.
fn inner_at(port: PortId, bytes: &[u8]) -> usize {
    match port {
        PortId::Endpoint(_) | PortId::Underlay(_) => 14,
        PortId::Vxlan(_) => 22,
        PortId::Ipip => bytes.first().map_or(20, |first| usize::from(first & 0xf) * 4),
        PortId::Host | PortId::Direct | PortId::Errors(_) => 0,
    }
}

/// Of what this node says to its own kernel (RFC 7600).
const DUMMY_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// What may be found again on its way out: addresses, protocol, identification, TTL.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    port: PortId,
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    id: u16,
    ttl: u8,
}

fn seen(port: PortId, frame: &MemoryFrame) -> Option<Seen> {
    let ip = frame.bytes.get(inner_at(port, &frame.bytes)..).filter(|ip| ip.len() >= 20)?;
    if ip[0] >> 4 == 6 {
        let ip = ip.get(..40)?;
        let address = |at: usize| Some(IpAddr::from(*ip[at..].first_chunk::<16>()?));
        return Some(Seen { port, src: address(8)?, dst: address(24)?, protocol: ip[6], id: 0, ttl: ip[7] });
    }
    let address = |at: usize| Some(IpAddr::from(*ip[at..].first_chunk::<4>()?));
    Some(Seen { port, src: address(12)?, dst: address(16)?, protocol: ip[9], id: word(ip, 4), ttl: ip[8] })
}

/// Each frame alone, so that what leaves is known to come from it, or to have waited for BETA's MAC.
pub(super) fn engine(input: &[u8]) {
    static NODE_A: OnceLock<Arc<Publication>> = OnceLock::new();
    run(&SITE, &NODE_A, input);
}

/// The same on a node of both families.
pub(super) fn engine_dual(input: &[u8]) {
    static NODE_A: OnceLock<Arc<Publication>> = OnceLock::new();
    run(&DUAL, &NODE_A, input);
}

fn run(site: &Site, fib: &OnceLock<Arc<Publication>>, mut input: &[u8]) {
    let fib = fib.get_or_init(|| Publication::new(compile(site.cluster, "a", Machine::default())));
    let mut bed = Bed::over(fib, 96).with_ports([
        (ALPHA.into(), Some(Neighbor::fixed(ALPHA_MAC))),
        (BETA.into(), Some(Neighbor::unknown())),
        (GAMMA.into(), Some(Neighbor::fixed(GAMMA_MAC))),
    ]);
    let mut before = Vec::new();
    for _ in 0..MAX_FRAMES {
        let Some(record) = Record::read(&mut input) else { break };
        let (port, frame) = record.frame(site);
        before.extend(seen(port, &frame));
        // Every frame has one outcome and no slot leaks: the exchange asserts it.
        for (to, frame) in bed.one(port, frame).out {
            leaves(site, to, &frame, &before);
        }
    }
}

fn leaves(site: &Site, to: PortId, frame: &MemoryFrame, before: &[Seen]) {
    let (outer, head) = match to {
        PortId::Endpoint(_) => {
            assert_eq!(frame.bytes[6..12], MacAddr::GATEWAY.0);
            if frame.bytes[12..14] == [0x08, 0x06] {
                assert_eq!(frame.bytes.len(), 42);
                ArpPacketSlice::from_slice(&frame.bytes[14..]).expect("a message that etherparse reads");
                return;
            }
            assert!([[0x08, 0x00], [0x86, 0xdd]].contains(&[frame.bytes[12], frame.bytes[13]]));
            // But for neighbour discovery: to those that have no address yet, and to the group of who is asked for.
            let to_group = matches!(frame.bytes[..6], [0x33, 0x33, 0, 0, 0, 1] | [0x33, 0x33, 0xff, ..]);
            assert!(frame.bytes[0] & 1 == 0 || to_group);
            (Outer::Ethernet, 14)
        }
        PortId::Ipip => {
            let outer = Ip::read(&frame.bytes);
            assert_eq!((outer.src, IpAddr::V4(outer.dst), outer.protocol), (NODE, frame.peer, IPIP));
            assert!(outer.options.is_empty() && outer.ttl == 64 && outer.id != 0);
            (Outer::Ipip, 20)
        }
        PortId::Vxlan(underlay) => {
            assert_eq!(frame.bytes[..8], [8, 0, 0, 0, 0, 0x10, 0, 0]);
            assert_eq!(Family::of(frame.peer), underlay);
            let own = if underlay == Family::V4 { VTEP_A } else { VTEP_A6 };
            assert_eq!(frame.bytes[14..20], own.0);
            (Outer::Vxlan, 22)
        }
        PortId::Direct | PortId::Host => (Outer::None, 0),
        PortId::Underlay(_) | PortId::Errors(_) => {
            panic!("nothing is sent by a port that only receives")
        }
    };
    if matches!(to, PortId::Ipip | PortId::Vxlan(_) | PortId::Direct) {
        let peers = [IpAddr::V4(PEER_B), IpAddr::V4(PEER_C), IpAddr::V6(PEER_B6)];
        assert!(peers.contains(&frame.peer));
        // The port without encapsulation hands it on, or finishes it.
        let is_finished = frame.offload.checksum.is_none() || frame.offload.segments.is_some();
        assert!(is_finished || to == PortId::Direct, "{to:?} {:?}", frame.offload);
    }
    // Version, lengths, checksum, no byte too many; and etherparse says the same.
    let bytes = &frame.bytes[head..];
    if bytes[0] >> 4 == 6 {
        let ip = Ip6::read(bytes);
        let oracle = Ipv6HeaderSlice::from_slice(bytes).expect("a header that etherparse reads");
        assert_eq!((oracle.hop_limit(), usize::from(oracle.payload_length())), (ip.hops, ip.payload.len()));
        assert!(ip.hops > 0);
        let (src, dst) = (IpAddr::V6(ip.src), IpAddr::V6(ip.dst));
        let is_own = ip.next == ICMPV6 && [64, 255].contains(&ip.hops) && site.own.contains(&src);
        // The gateway speaks with whoever is on its link.
        assert!(is_own || !is_martian(dst) || to == PortId::Host, "{ip:?}");
        may_leave(site, to, (src, dst), (ip.next, 0, ip.hops), is_own, before);
        if let Some(segments) = frame.offload.segments {
            cut(&frame.bytes, outer, head, segments);
        }
        return;
    }
    let ip = Ip::read(bytes);
    let oracle = Ipv4HeaderSlice::from_slice(bytes).expect("a header that etherparse reads");
    assert_eq!((oracle.ttl(), usize::from(oracle.total_len())), (ip.ttl, bytes.len()));
    assert!(ip.ttl > 0);
    assert!(!is_martian(ip.dst.into()) || matches!(to, PortId::Host), "{ip:?}");
    let is_own = ip.protocol == ICMP && ip.ttl == 64 && site.own.contains(&ip.src.into());
    may_leave(site, to, (ip.src.into(), ip.dst.into()), (ip.protocol, ip.id, ip.ttl), is_own, before);
    if let Some(segments) = frame.offload.segments {
        cut(&frame.bytes, outer, head, segments);
    }
}

/// A packet that came in, a hop later unless this node's kernel counts the hop; or one that this node says itself.
fn may_leave(
    site: &Site,
    to: PortId,
    (src, dst): (IpAddr, IpAddr),
    (protocol, id, ttl): (u8, u16, u8),
    is_own: bool,
    before: &[Seen],
) {
    let came = before.iter().any(|seen| {
        let same = seen.src == src
            && seen.dst == dst
            && seen.protocol == protocol
            // The datagrams of a super-frame that had to be cut are numbered from its own id on.
            && usize::from(id.wrapping_sub(seen.id)) < if protocol == UDP { MAX_SEGMENTS } else { 1 };
        let hop = match (seen.port, to) {
            (PortId::Host, _) | (_, PortId::Host) => seen.ttl == ttl,
            _ => seen.ttl == ttl.wrapping_add(1),
        };
        let from_underlay = matches!(seen.port, PortId::Ipip | PortId::Vxlan(_) | PortId::Underlay(_));
        let to_underlay = matches!(to, PortId::Ipip | PortId::Vxlan(_) | PortId::Direct);
        let owned = match seen.port {
            PortId::Endpoint(EndpointId(id)) => site.owned[id as usize].contains(&src),
            _ => true,
        };
        same && hop && owned && !(from_underlay && to_underlay)
    });
    assert!(is_own || came, "{to:?} {src} to {dst}, {protocol} {id} {ttl}: {before:?}");
}

/// The first segments and the last are packets with right checksums.
fn cut(bytes: &[u8], outer: Outer, head_len: usize, segments: Segments) {
    let super_frame = SuperFrame::parse(bytes, outer, segments).unwrap_or_else(|| {
        panic!("what leaves can be cut: {segments:?} of {:02x?}", &bytes[..bytes.len().min(160)])
    });
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
        if segment[head_len] >> 4 == 6 {
            let ip = Ip6::read(&segment[head_len..]);
            let field = if ip.next == TCP { 16 } else { 6 };
            assert!(![TCP, UDP].contains(&ip.next) || ip.clone().summed(field) == ip, "{ip:?}");
            continue;
        }
        let ip = Ip::read(&segment[head_len..]);
        assert!(ip.is_summed(), "{ip:?}");
    }
}
