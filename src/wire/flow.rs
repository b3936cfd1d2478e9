//! Which packets belong together: one hash per flow, for the tunnel's source port and the like.

use super::Protocol;
use super::ip::{Address, View};

/// Odd constants with bits well mixed (fractions of pi, from SHA-2's and wyhash's family of choices): their
/// values matter little, that they stay does, as two nodes or two versions agree on a flow's port.
const KEY_ADDRESSES: u64 = 0x243f_6a88_85a3_08d3;
const KEY_PORTS: u64 = 0x1319_8a2e_0370_7345;
const KEY_LAST: u64 = 0xa409_3822_299f_31d1;

/// First of the dynamic ports (RFC 6335 6).
pub const FIRST_DYNAMIC_PORT: u16 = 49152;

/// What names a flow: addresses and protocol, and the ports where each packet of the flow has them: not in a
/// fragment, be it the first, as the others of its datagram have none and must go the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// IPv4: source address in the upper half. IPv6: both, mixed.
    addresses: u64,
    protocol: Protocol,
    /// Source port in the upper half; 0 where there are none.
    ports: u32,
}

impl Flow {
    /// The flow that `packet` belongs to.
    #[inline(always)]
    pub fn of<'a>(packet: &impl View<'a>) -> Flow {
        let payload = if packet.is_fragment() { &[] } else { packet.payload() };
        Flow::between(packet.src(), packet.dst(), packet.protocol(), payload)
    }

    /// The flow of a packet that carries `payload`; of a fragment, nothing.
    #[inline(always)]
    pub fn between<A: Address>(src: A, dst: A, protocol: Protocol, payload: &[u8]) -> Flow {
        let ports = match payload.first_chunk() {
            Some(ports) if protocol.has_ports() => u32::from_be_bytes(*ports),
            _ => 0,
        };
        Flow { addresses: src.pair(dst), protocol, ports }
    }

    /// The same in every process and on every machine; no defence against somebody who picks ports to
    /// collide, which costs them the spread of their own traffic.
    #[inline]
    pub const fn hash(self) -> u32 {
        let rest = (self.protocol.0 as u64) << 32 | self.ports as u64;
        let mixed = multiply_mix(self.addresses ^ KEY_ADDRESSES, rest ^ KEY_PORTS);
        (multiply_mix(mixed ^ KEY_LAST, KEY_ADDRESSES) >> 32) as u32
    }
}

/// The hash of the flow that `packet` belongs to.
#[inline]
pub fn flow_hash<'a>(packet: &impl View<'a>) -> u32 {
    Flow::of(packet).hash()
}

/// Two IPv6 addresses in 64 bits.
#[inline]
pub(super) const fn mix_addresses(src: u128, dst: u128) -> u64 {
    let src = multiply_mix((src >> 64) as u64 ^ KEY_ADDRESSES, src as u64 ^ KEY_PORTS);
    let dst = multiply_mix((dst >> 64) as u64 ^ KEY_LAST, dst as u64 ^ KEY_ADDRESSES);
    // Not the same in both directions, and never a sum of equals.
    src ^ dst.rotate_left(32)
}

/// Both halves of the 128-bit product: every bit of either factor reaches the middle of the result.
#[inline]
const fn multiply_mix(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

/// A UDP source port for a flow: 49152 to 65535 (RFC 7348 5).
#[inline]
pub const fn udp_source_port(hash: u32) -> u16 {
    // The upper 14 bits of the hash: whoever takes the lower ones for a choice of its own is independent.
    FIRST_DYNAMIC_PORT | (hash >> 18) as u16
}

#[cfg(test)]
mod tests {
    use super::super::{Ipv4, Ipv6, ipv4, ipv6};
    use super::*;

    const HEADER: ipv4::Header = ipv4::Header {
        tos: 0,
        total_len: 28,
        id: 1,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol: Protocol::UDP,
        src: std::net::Ipv4Addr::new(10, 65, 8, 10),
        dst: std::net::Ipv4Addr::new(10, 65, 9, 20),
    };

    fn hash_of(header: ipv4::Header, payload: [u8; 8]) -> u32 {
        let mut bytes = [0xa5; 28];
        let (head, body) = bytes.split_first_chunk_mut().unwrap();
        header.write(head);
        body.copy_from_slice(&payload);
        flow_hash(&Ipv4::parse(&bytes).unwrap())
    }

    const PORTS: [u8; 8] = [0xc0, 0x01, 0x00, 0x35, 0x00, 0x08, 0x00, 0x00];

    /// Two nodes, or the versions before and after an upgrade, must agree.
    #[test]
    fn the_hash_is_for_ever() {
        assert_eq!(hash_of(HEADER, PORTS), 0x9f65_0a83);
    }

    const V6: ipv6::Header = ipv6::Header {
        traffic_class: 0,
        flow_label: 0,
        payload_len: 8,
        next_header: Protocol::UDP,
        hop_limit: 64,
        src: std::net::Ipv6Addr::new(0xfd00, 0x10, 0x65, 0, 0, 0, 0, 0xa),
        dst: std::net::Ipv6Addr::new(0xfd00, 0x10, 0x65, 1, 0, 0, 0, 0x14),
    };

    fn hash_of_v6(header: ipv6::Header, payload: [u8; 8]) -> u32 {
        let mut bytes = [0xa5; 48];
        let (head, body) = bytes.split_first_chunk_mut().unwrap();
        header.write(head);
        body.copy_from_slice(&payload);
        flow_hash(&Ipv6::parse(&bytes).unwrap())
    }

    #[test]
    fn the_hash_of_ipv6_is_for_ever() {
        assert_eq!(hash_of_v6(V6, PORTS), 0x4a2c_f0dd);
    }

    #[test]
    fn every_bit_that_names_a_flow_of_ipv6_matters() {
        let expected = hash_of_v6(V6, PORTS);
        for bit in 0..128 {
            let src = (V6.src.to_bits() ^ 1 << bit).into();
            assert_ne!(hash_of_v6(ipv6::Header { src, ..V6 }, PORTS), expected, "source bit {bit}");
            let dst = (V6.dst.to_bits() ^ 1 << bit).into();
            assert_ne!(hash_of_v6(ipv6::Header { dst, ..V6 }, PORTS), expected, "destination bit {bit}");
        }
        let changed = ipv6::Header { traffic_class: 3, flow_label: 9, hop_limit: 1, ..V6 };
        assert_eq!(hash_of_v6(changed, PORTS), expected);
        let back = ipv6::Header { src: V6.dst, dst: V6.src, ..V6 };
        assert_ne!(hash_of_v6(back, PORTS), expected);
    }

    #[test]
    fn what_differs_within_a_flow_does_not_matter() {
        let expected = hash_of(HEADER, PORTS);
        assert_eq!(hash_of(ipv4::Header { id: 2, tos: 0xb8, ttl: 3, ..HEADER }, PORTS), expected);
        let mut other_data = PORTS;
        other_data[7] = 0x77;
        assert_eq!(hash_of(HEADER, other_data), expected);
    }

    #[test]
    fn every_bit_that_names_a_flow_matters() {
        let expected = hash_of(HEADER, PORTS);
        for bit in 0..32 {
            let mut ports = PORTS;
            ports[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(hash_of(HEADER, ports), expected, "port bit {bit}");
            let src = (HEADER.src.to_bits() ^ 1 << bit).into();
            assert_ne!(hash_of(ipv4::Header { src, ..HEADER }, PORTS), expected, "source bit {bit}");
            let dst = (HEADER.dst.to_bits() ^ 1 << bit).into();
            assert_ne!(hash_of(ipv4::Header { dst, ..HEADER }, PORTS), expected, "destination bit {bit}");
        }
        assert_ne!(hash_of(ipv4::Header { protocol: Protocol::TCP, ..HEADER }, PORTS), expected);
    }

    #[test]
    fn every_fragment_of_a_datagram_hashes_alike() {
        let first = ipv4::Header { dont_fragment: false, more_fragments: true, ..HEADER };
        let expected = hash_of(first, PORTS);
        let middle = ipv4::Header { fragment_offset: 8, ..first };
        assert_eq!(hash_of(middle, *b"anything"), expected);
        let last = ipv4::Header { more_fragments: false, fragment_offset: 16, ..first };
        assert_eq!(hash_of(last, *b"whatever"), expected);
    }

    #[test]
    fn only_protocols_with_ports_are_searched_for_ports() {
        let icmp = ipv4::Header { protocol: Protocol::ICMP, ..HEADER };
        assert_eq!(hash_of(icmp, [8; 8]), hash_of(icmp, [0; 8]));
        for number in 0..=255 {
            let header = ipv4::Header { protocol: Protocol(number), ..HEADER };
            let reads_ports = hash_of(header, [8; 8]) != hash_of(header, [0; 8]);
            assert_eq!(reads_ports, [6, 17, 33, 132, 136].contains(&number), "{}", header.protocol);
        }
    }

    #[test]
    fn a_payload_too_short_for_ports_is_a_flow_too() {
        let mut bytes = [0xa5; 23];
        let (head, _) = bytes.split_first_chunk_mut().unwrap();
        ipv4::Header { total_len: 23, ..HEADER }.write(head);
        let other = hash_of(HEADER, [0; 8]);
        assert_eq!(flow_hash(&Ipv4::parse(&bytes).unwrap()), other);
    }

    #[test]
    fn source_ports_are_dynamic_ports() {
        assert_eq!(udp_source_port(0), 49152);
        assert_eq!(udp_source_port(u32::MAX), 65535);
        assert_eq!(udp_source_port(0x0003_ffff), 49152, "the lower bits are left to others");
    }

    /// Flows as they are in a cluster: one client, ports that count up. 4,096 of them over 64 buckets are
    /// 64 a bucket; chi-square with 63 degrees of freedom stays under 110 in all but one case of 5,000.
    #[test]
    fn neighbouring_flows_spread() {
        for (name, bucket) in [
            ("upper", (|hash| usize::from(udp_source_port(hash) >> 8) & 63) as fn(u32) -> usize),
            ("port's lower", |hash| usize::from(udp_source_port(hash)) & 63),
            ("lower", |hash| hash as usize & 63),
        ] {
            let mut counts = [0_u32; 64];
            for port in 0..4096_u16 {
                let mut ports = PORTS;
                ports[..2].copy_from_slice(&(32768 + port).to_be_bytes());
                counts[bucket(hash_of(HEADER, ports))] += 1;
            }
            let chi_square: f64 = counts.iter().map(|n| (f64::from(*n) - 64.0).powi(2) / 64.0).sum();
            assert!(chi_square < 110.0, "{name} bits: {chi_square}");
        }
    }
}
