//! What a filter looks at: the headers of a frame, outermost first, whatever else is wrong with it.
//!
//! Contract: any bytes give headers, perhaps none; nothing allocates. Checksums and lengths are not looked at: a frame
//! that is dropped for them is to be found as well.

use std::net::Ipv4Addr;

use crate::wire::ethernet::{self, EtherType, Ethernet};
use crate::wire::{Protocol, arp, udp, vxlan};

/// What a captured frame begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// An Ethernet header.
    Ethernet,
    /// An IP header.
    Ip,
}

/// One header that can be asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// IPv4, with the ports behind it.
    Ip(Ip),
    /// ARP for IPv4.
    Arp {
        /// Sender's address.
        sender: Ipv4Addr,
        /// The address that is asked for, or answered to.
        target: Ipv4Addr,
    },
    /// IPv6, which margay does not carry.
    Ip6,
}

/// An IPv4 header, and the ports behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip {
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// What it carries.
    pub protocol: Protocol,
    /// Source and destination port; none in a later fragment, of other protocols, or where they are cut off.
    pub ports: Option<(u16, u16)>,
    /// A datagram for the VXLAN port.
    pub is_vxlan: bool,
}

/// Headers of one frame within another that are followed: what margay carries has two, and what it drops three.
const DEPTH: usize = 3;
/// Those of a frame before and after.
const ROOM: usize = 2 * DEPTH;

/// The headers of a frame, or of one before and after it was forwarded.
#[derive(Debug, Clone, Copy, Default)]
pub struct Headers {
    headers: [Option<Header>; ROOM],
    count: usize,
}

impl Headers {
    /// Of one frame; datagrams for `vxlan_port` hold another.
    pub fn of(link: Link, bytes: &[u8], vxlan_port: u16) -> Self {
        let mut headers = Headers::default();
        headers.add(link, bytes, vxlan_port);
        headers
    }

    /// Adds those of a frame.
    pub fn add(&mut self, link: Link, bytes: &[u8], vxlan_port: u16) {
        let mut link = link;
        let mut rest = bytes;
        for _ in 0..DEPTH {
            let Some(next) = self.one(link, rest, vxlan_port) else { return };
            (link, rest) = next;
        }
    }

    /// Outermost first, each frame's after the other's.
    pub fn iter(&self) -> impl Iterator<Item = &Header> {
        self.headers[..self.count].iter().flatten()
    }

    /// The innermost IPv4 header.
    pub fn innermost(&self) -> Option<&Ip> {
        self.headers[..self.count].iter().rev().flatten().find_map(|header| match header {
            Header::Ip(ip) => Some(ip),
            _ => None,
        })
    }

    /// Adds one, and hands over what is inside.
    fn one<'a>(&mut self, link: Link, bytes: &'a [u8], vxlan_port: u16) -> Option<(Link, &'a [u8])> {
        let packet = match link {
            Link::Ip => bytes,
            Link::Ethernet => {
                let ethernet = Ethernet::parse(bytes).ok()?;
                match ethernet.ethertype() {
                    EtherType::IPV4 | EtherType::IPV6 => ethernet.payload(),
                    EtherType::ARP => {
                        self.push(arp(ethernet.payload())?);
                        return None;
                    }
                    _ => return None,
                }
            }
        };
        if packet.first()? >> 4 == 6 {
            self.push(Header::Ip6);
            return None;
        }
        let (ip, payload) = ipv4(packet, vxlan_port)?;
        self.push(Header::Ip(ip));
        if ip.protocol == Protocol::IPIP {
            return Some((Link::Ip, payload));
        }
        let inner = payload.get(udp::HEADER_LEN + vxlan::HEADER_LEN..)?;
        ip.is_vxlan.then_some((Link::Ethernet, inner))
    }

    fn push(&mut self, header: Header) {
        if let Some(place) = self.headers.get_mut(self.count) {
            *place = Some(header);
            self.count += 1;
        }
    }
}

fn arp(bytes: &[u8]) -> Option<Header> {
    let arp = arp::Arp::parse(bytes).ok()?;
    Some(Header::Arp { sender: arp.sender_ip(), target: arp.target_ip() })
}

/// The header, and what follows it.
fn ipv4(bytes: &[u8], vxlan_port: u16) -> Option<(Ip, &[u8])> {
    let header: &[u8; 20] = bytes.first_chunk()?;
    if header[0] >> 4 != 4 {
        return None;
    }
    let address = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
    let payload = bytes.get(usize::from(header[0] & 15).max(5) * 4..).unwrap_or_default();
    let protocol = Protocol(header[9]);
    let is_later_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
    let ports = match *payload {
        [s0, s1, d0, d1, ..] if protocol.has_ports() && !is_later_fragment => {
            Some((u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])))
        }
        _ => None,
    };
    let is_vxlan = protocol == Protocol::UDP && ports.is_some_and(|(_, to)| to == vxlan_port);
    let payload = if is_later_fragment { &[] } else { payload };
    Some((Ip { src: address(12), dst: address(16), protocol, ports, is_vxlan }, payload))
}

const _: () = assert!(ethernet::HEADER_LEN == 14 && ROOM <= 8);

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn udp(src: [u8; 4], dst: [u8; 4], ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
        bytes.extend(src);
        bytes.extend(dst);
        bytes.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn headers_are_found_through_both_tunnels_and_where_they_are_cut() {
        let inner = udp([10, 0, 0, 1], [10, 0, 0, 2], [5, 53], b"");
        let mut ipip = udp([192, 0, 2, 1], [192, 0, 2, 2], [0, 0], b"")[..20].to_vec();
        ipip[9] = 4;
        ipip.extend(&inner);
        let vxlan = [&[8, 0, 0, 0, 0, 0, 1, 0][..], &[2; 12], &[8, 0], &inner].concat();
        let vxlan = udp([192, 0, 2, 1], [192, 0, 2, 2], [7, 4789], &vxlan);
        for outer in [&ipip, &vxlan] {
            let headers = Headers::of(Link::Ip, outer, 4789);
            assert_eq!(headers.iter().count(), 2, "{headers:?}");
            let inner = headers.innermost().unwrap();
            assert_eq!((inner.src.octets(), inner.ports), ([10, 0, 0, 1], Some((5, 53))));
            for len in 0..outer.len() {
                let headers = Headers::of(Link::Ip, &outer[..len], 4789);
                assert_eq!(headers.iter().count() >= 1, len >= 20, "{len}");
            }
        }
        // Another port is no tunnel.
        assert_eq!(Headers::of(Link::Ip, &vxlan, 8472).iter().count(), 1);
    }

    #[test]
    fn a_later_fragment_has_no_ports() {
        let mut packet = udp([10, 0, 0, 1], [10, 0, 0, 2], [5, 53], b"");
        packet[7] = 1;
        let headers = Headers::of(Link::Ip, &packet, 4789);
        assert_eq!(headers.innermost().unwrap().ports, None);
    }
}
