//! Frames: of a path, one for each flow.

use std::net::{IpAddr, Ipv4Addr};

use margay::fib::{EndpointId, Inner, IpipHeader, OuterTtl, VxlanHeader};
use margay::rib::Encap;
use margay::wire::ethernet::{self, EtherType};
use margay::wire::vxlan::Vni;
use margay::wire::{Ecn, MacAddr, Protocol, arp, checksum, ipv4, tcp};

use super::tables::Random;
use super::{NODE, Path, SENDER, VTEP, WORKLOADS, peer_address, workload_address};

/// A frame of 64 bytes (60 and checksum on a wire; here there is none, and four bytes of data more).
const FRAME: usize = 64;
const PACKET: usize = FRAME - ethernet::HEADER_LEN;

/// What a port receives: the frame and its outer source.
#[derive(Clone)]
pub(crate) struct Input {
    /// Longest with a VXLAN header: 50 + 22; the rest is not the frame's.
    pub(crate) bytes: [u8; 80],
    pub(crate) len: usize,
    pub(crate) peer: IpAddr,
}

pub(crate) fn mac_of(id: EndpointId) -> MacAddr {
    let [_, b, c, d] = id.0.to_be_bytes();
    MacAddr([0x02, 0, 0, b, c, d])
}

pub(super) fn peer_vtep(index: usize) -> MacAddr {
    let [.., a, b] = index.to_be_bytes();
    MacAddr([0x66, 0, 0, 1, a, b])
}

/// A frame of a random flow.
pub(super) fn input(remote: &[(Ipv4Addr, u8, usize, Encap)], path: Path, random: &mut Random) -> Input {
    let mut over = |encap| loop {
        let (net, len, peer, by) = remote[random.below(remote.len())];
        if by == encap {
            let host = random.next() as u32 & !(u32::MAX << (32 - len));
            return (Ipv4Addr::from(u32::from(net) | host), peer);
        }
    };
    let there = match path {
        Path::WorkloadToVxlan | Path::VxlanToDelivery => over(Encap::Vxlan),
        Path::WorkloadToDirect | Path::UnderlayToDelivery => over(Encap::Direct),
        _ => over(Encap::Ipip),
    };
    let outside = Ipv4Addr::from(0x0800_0000 | random.below(1 << 24) as u32);
    let pod = workload_address(EndpointId(1 + random.below(WORKLOADS - 1) as u32));
    let sender = workload_address(SENDER);
    let (src, dst) = match path {
        Path::WorkloadToVxlan | Path::WorkloadToIpip | Path::WorkloadToDirect => (sender, there.0),
        Path::WorkloadToLocal => (sender, pod),
        Path::WorkloadToHost | Path::Arp => (sender, outside),
        Path::WorkloadDropped => (outside, there.0),
        Path::VxlanToDelivery | Path::IpipToDelivery | Path::UnderlayToDelivery => (there.0, pod),
    };
    let inner = packet(src, dst, random);
    let peer = peer_address(there.1);
    match path {
        Path::Arp => question(dst),
        Path::VxlanToDelivery => {
            let header = VxlanHeader::new(Vni(4096), peer_vtep(there.1), VTEP);
            let mut bytes = [0; VxlanHeader::LEN];
            header.write::<Ipv4Addr>(&mut bytes);
            join(&bytes, &inner, peer)
        }
        Path::IpipToDelivery => {
            let mut header = [0; ipv4::MIN_HEADER_LEN];
            let inner_facts = Inner { len: PACKET as u16, ecn: Ecn::NotEct, dont_fragment: true, ttl: 63 };
            IpipHeader::new(peer, NODE, OuterTtl::Fixed(64)).write(&mut header, inner_facts, 1);
            join(&header, &inner, peer)
        }
        _ => join(&ethernet_header(EtherType::IPV4), &inner, peer),
    }
}

fn join(header: &[u8], body: &[u8], peer: Ipv4Addr) -> Input {
    let mut bytes = [0; 80];
    bytes[..header.len()].copy_from_slice(header);
    bytes[header.len()..][..body.len()].copy_from_slice(body);
    Input { bytes, len: header.len() + body.len(), peer: IpAddr::V4(peer) }
}

fn ethernet_header(ethertype: EtherType) -> [u8; ethernet::HEADER_LEN] {
    let mut header = [0; ethernet::HEADER_LEN];
    ethernet::write(&mut header, MacAddr::GATEWAY, mac_of(SENDER), ethertype);
    header
}

fn question(target_ip: Ipv4Addr) -> Input {
    let mut body = [0; arp::LEN];
    arp::Message {
        op: arp::Operation::Request,
        sender_mac: mac_of(SENDER),
        sender_ip: workload_address(SENDER),
        target_mac: MacAddr([0; 6]),
        target_ip,
    }
    .write(&mut body);
    join(&ethernet_header(EtherType::ARP), &body, Ipv4Addr::UNSPECIFIED)
}

/// An IPv4 packet of [`PACKET`] bytes with right checksums: TCP or UDP, one as often as the other.
fn packet(src: Ipv4Addr, dst: Ipv4Addr, random: &mut Random) -> [u8; PACKET] {
    let protocol = if random.below(2) == 0 { Protocol::TCP } else { Protocol::UDP };
    let mut packet = [0; PACKET];
    let (header, body) = packet.split_first_chunk_mut().expect("longer than a header");
    ipv4::Header {
        tos: 0,
        total_len: PACKET as u16,
        id: random.next() as u16,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol,
        src,
        dst,
    }
    .write(header);
    for byte in body.iter_mut() {
        *byte = random.next() as u8;
    }
    let field = match protocol {
        Protocol::TCP => {
            body[12] = (tcp::MIN_HEADER_LEN as u8 / 4) << 4;
            16
        }
        _ => {
            body[4..6].copy_from_slice(&((PACKET - ipv4::MIN_HEADER_LEN) as u16).to_be_bytes());
            6
        }
    };
    // Not DNS or a tunnel by chance.
    let port = 1024 + random.below(3000) as u16;
    body[2..4].copy_from_slice(&port.to_be_bytes());
    body[field..field + 2].fill(0);
    let sum = checksum::transport_checksum(IpAddr::V4(src), IpAddr::V4(dst), protocol, body);
    body[field..field + 2].copy_from_slice(&sum.max(1).to_be_bytes());
    packet
}
