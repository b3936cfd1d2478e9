//! What a filter looks at: the headers of a frame, outermost first, whatever else is wrong with it.
//!
//! Contract: any bytes give headers, perhaps none; nothing allocates. Checksums and lengths are not looked at: a frame
//! that is dropped for them is to be found as well.

use std::net::{IpAddr, Ipv4Addr};

use crate::wire::ethernet::{self, EtherType, Ethernet};
use crate::wire::{Family, Ipv6, Protocol, arp, udp, vxlan};

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
    /// IP, with the ports behind it.
    Ip(Ip),
    /// ARP for IPv4.
    Arp {
        /// Sender's address.
        sender: Ipv4Addr,
        /// The address that is asked for, or answered to.
        target: Ipv4Addr,
    },
}

/// An IP header, and the ports behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip {
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
    /// What it carries, behind IPv6's extension headers.
    pub protocol: Protocol,
    /// Source and destination port; none in a later fragment, of other protocols, or where they are cut off.
    pub ports: Option<(u16, u16)>,
    /// A datagram for the VXLAN port.
    pub is_vxlan: bool,
}

impl Ip {
    /// Of which version it is.
    pub fn family(&self) -> Family {
        Family::of(self.src)
    }
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

    /// The innermost IP header.
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
        let (ip, payload) = match Family::of_packet(packet)? {
            Family::V4 => ipv4(packet, vxlan_port)?,
            Family::V6 => ipv6(packet, vxlan_port)?,
        };
        self.push(Header::Ip(ip));
        if matches!(ip.protocol, Protocol::IPIP | Protocol::IPV6) {
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
    let address =
        |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]).into();
    let payload = bytes.get(usize::from(header[0] & 15).max(5) * 4..).unwrap_or_default();
    let is_later_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
    let payload = if is_later_fragment { &[] } else { payload };
    Some((Ip::new([address(12), address(16)], Protocol(header[9]), payload, vxlan_port), payload))
}

/// The header, and what follows it and its extension headers.
fn ipv6(bytes: &[u8], vxlan_port: u16) -> Option<(Ip, &[u8])> {
    let ip = Ipv6::parse_quoted(bytes).ok()?;
    let payload = if ip.is_later_fragment() { &[] } else { ip.payload() };
    Some((Ip::new([ip.src().into(), ip.dst().into()], ip.protocol(), payload, vxlan_port), payload))
}

impl Ip {
    fn new([src, dst]: [IpAddr; 2], protocol: Protocol, payload: &[u8], vxlan_port: u16) -> Self {
        let ports = match *payload {
            [s0, s1, d0, d1, ..] if protocol.has_ports() => {
                Some((u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])))
            }
            _ => None,
        };
        let is_vxlan = protocol == Protocol::UDP && ports.is_some_and(|(_, to)| to == vxlan_port);
        Ip { src, dst, protocol, ports, is_vxlan }
    }
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
            assert_eq!((inner.src, inner.ports), ([10, 0, 0, 1].into(), Some((5, 53))));
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

    /// fd00::LAST to fd00::9, with what follows the fixed header.
    fn ipv6(last: u8, next_header: u8, rest: &[u8]) -> Vec<u8> {
        let address = |last| [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
        let fixed = [0x60, 0, 0, 0, 0, rest.len() as u8, next_header, 64];
        [&fixed[..], &address(last), &address(9), rest].concat()
    }

    #[test]
    fn either_family_is_found_in_the_other() {
        let udp6 = [0, 5, 0, 53, 0, 8, 0, 0];
        let inner = ipv6(1, 60, &[&[17, 0, 1, 4, 0, 0, 0, 0][..], &udp6].concat());
        let vxlan = [&[8, 0, 0, 0, 0, 0, 1, 0][..], &[2; 12], &[0x86, 0xdd], &inner].concat();
        let datagram = [&[0, 7, 0x12, 0xb5, 0, 0, 0, 0][..], &vxlan].concat();
        for outer in [
            ipv6(2, 17, &datagram),
            udp([192, 0, 2, 1], [192, 0, 2, 2], [7, 4789], &vxlan),
            ipv6(2, 41, &inner),
            ipv6(2, 0, &[&[17, 0, 5, 2, 0, 0, 1, 0][..], &datagram].concat()),
        ] {
            let headers = Headers::of(Link::Ip, &outer, 4789);
            let inner = headers.innermost().unwrap();
            let found = (headers.iter().count(), inner.src, inner.protocol, inner.ports);
            assert_eq!(found, (2, "fd00::1".parse().unwrap(), Protocol::UDP, Some((5, 53))));
        }
        let inner = udp([10, 0, 0, 1], [10, 0, 0, 2], [5, 53], b"");
        let headers = Headers::of(Link::Ip, &ipv6(2, 4, &inner), 4789);
        assert_eq!(headers.innermost().unwrap().family(), Family::V4);
        for len in 0..ipv6(2, 17, &datagram).len() {
            let headers = Headers::of(Link::Ip, &ipv6(2, 17, &datagram)[..len], 4789);
            assert_eq!(headers.iter().count() >= 1, len >= 40, "{len}");
        }
        let later = ipv6(2, 44, &[&[17, 0, 0, 8, 0, 0, 0, 1][..], &udp6].concat());
        assert_eq!(Headers::of(Link::Ip, &later, 4789).innermost().unwrap().ports, None);
    }
}
