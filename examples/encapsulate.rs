//! Puts a pod's packet into VXLAN and into IPIP as a Calico node would, and takes both apart again.
//!
//! `cargo run --example encapsulate`

use std::net::Ipv4Addr;

use margay::wire::{
    Ecn, EtherType, Ethernet, Icmpv4Type, Ipv4, MacAddr, Malformed, Protocol, Udp, Vni, Vxlan,
};
use margay::wire::{ecn, ethernet, flow, icmpv4, ipv4, udp, vxlan};

const NODE_A: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
const NODE_B: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);
const VTEP_A: MacAddr = MacAddr([0x66, 0xf9, 0x37, 0xc3, 0x7e, 0x94]);
const VTEP_B: MacAddr = MacAddr([0x66, 0x2d, 0xbf, 0x44, 0xa6, 0x8b]);

fn main() -> Result<(), Malformed> {
    let mut packet = ping(Ipv4Addr::new(10, 65, 0, 2), Ipv4Addr::new(10, 65, 0, 66));
    // The node is a router: one hop less, checksum included.
    ipv4::decrement_ttl(&mut packet);

    for tunnelled in [into_ipip(&packet)?, into_vxlan(&packet)?] {
        println!("{} bytes on the underlay:", tunnelled.len());
        let mut inner = show(&tunnelled, 1)?.to_vec();
        assert_eq!(inner, packet);

        // The far end, as if a router on the way had marked the outer header: the mark goes on inside.
        if let Ok(mark) = ecn::decapsulate(Ecn::Ce, Ipv4::parse(&inner)?.ecn()) {
            ipv4::set_ecn(&mut inner, mark);
        }
        println!("  delivered with ECN {:?}\n", Ipv4::parse(&inner)?.ecn());
    }
    Ok(())
}

/// An echo request whose sender knows ECN.
fn ping(src: Ipv4Addr, dst: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0; 84];
    let (header, message) = packet.split_first_chunk_mut().expect("room for a header");
    icmpv4::write_echo(message, Icmpv4Type::ECHO_REQUEST, 7, 1, &[b'm'; 56]);
    ip_header(Protocol::ICMP, 84, src, dst, Ecn::Ect0).write(header);
    packet
}

fn ip_header(protocol: Protocol, total_len: usize, src: Ipv4Addr, dst: Ipv4Addr, ecn: Ecn) -> ipv4::Header {
    ipv4::Header {
        tos: ecn.bits(),
        total_len: total_len as u16,
        id: 1,
        dont_fragment: false,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol,
        src,
        dst,
    }
}

/// RFC 2003: one more IP header in front.
fn into_ipip(packet: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut outer = [0; ipv4::MIN_HEADER_LEN];
    let mark = ecn::encapsulate(Ipv4::parse(packet)?.ecn());
    ip_header(Protocol::IPIP, outer.len() + packet.len(), NODE_A, NODE_B, mark).write(&mut outer);
    Ok([&outer, packet].concat())
}

/// RFC 7348: IP, UDP, VXLAN and Ethernet in front, 50 bytes; the source port stands for the flow.
fn into_vxlan(packet: &[u8]) -> Result<Vec<u8>, Malformed> {
    let inner = Ipv4::parse(packet)?;
    let (mut ip, mut datagram) = ([0; 20], [0; udp::HEADER_LEN]);
    let (mut tunnel, mut frame) = ([0; vxlan::HEADER_LEN], [0; ethernet::HEADER_LEN]);
    ethernet::write(&mut frame, VTEP_B, VTEP_A, EtherType::IPV4);
    vxlan::write(&mut tunnel, Vni(4096));
    let len = datagram.len() + tunnel.len() + frame.len() + packet.len();
    let src_port = flow::udp_source_port(flow::flow_hash(&inner));
    udp::Header { src_port, dst_port: vxlan::PORT, len: len as u16, checksum: 0 }.write(&mut datagram);
    ip_header(Protocol::UDP, ip.len() + len, NODE_A, NODE_B, ecn::encapsulate(inner.ecn())).write(&mut ip);
    Ok([&ip[..], &datagram, &tunnel, &frame, packet].concat())
}

/// Prints a header a line and returns the packet that is not a tunnel's.
fn show(bytes: &[u8], depth: usize) -> Result<&[u8], Malformed> {
    let ip = Ipv4::parse(bytes)?;
    let margin = "  ".repeat(depth);
    println!("{margin}{} > {} {} ttl {} ECN {:?}", ip.src(), ip.dst(), ip.protocol(), ip.ttl(), ip.ecn());
    match ip.protocol() {
        Protocol::IPIP => show(ip.payload(), depth + 1),
        Protocol::UDP => {
            let datagram = Udp::parse(ip.payload())?;
            let tunnel = Vxlan::parse(datagram.payload())?;
            let frame = Ethernet::parse(tunnel.payload())?;
            println!("{margin}port {} > {}, VNI {}", datagram.src_port(), datagram.dst_port(), tunnel.vni());
            println!("{margin}{} > {} {:?}", frame.src(), frame.dst(), frame.ethertype());
            show(frame.payload(), depth + 1)
        }
        _ => Ok(ip.packet()),
    }
}
