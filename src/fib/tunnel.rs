//! Tunnels with ready-made outer headers: encapsulation copies one, then patches what differs by packet.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU16, Ordering};

use crate::wire::checksum;
use crate::wire::ecn::Ecn;
use crate::wire::ethernet::{self, EtherType};
use crate::wire::ipv4;
use crate::wire::vxlan::{self, Vni};
use crate::wire::{Family, MacAddr, Protocol, ip};

use super::PeerId;

/// TTL of an IPIP packet's outer header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OuterTtl {
    /// The same for all, enough to reach the far end (RFC 2003 3.1).
    Fixed(u8),
    /// The inner TTL, as Calico's `tunl0` does it.
    Inherit,
}

impl Default for OuterTtl {
    fn default() -> Self {
        OuterTtl::Fixed(64)
    }
}

/// A way to a peer.
#[derive(Debug)]
pub struct Tunnel {
    /// The peer at the far end.
    pub peer: PeerId,
    /// Its underlay address: outer destination.
    pub remote: IpAddr,
    /// The pool of what it leads to wants the MSS of TCP clamped.
    pub clamps: bool,
    /// The ready-made headers.
    pub encapsulation: Encapsulation,
    /// Greatest inner IP packet as configured, bytes.
    full_mtu: u16,
    /// The same with what is known of the path. The one cell of a snapshot that changes: as a part of the tunnel it
    /// costs a packet nothing.
    mtu: AtomicU16,
}

/// The least MTU that every link has (RFC 791 3.2), bytes.
pub const LEAST_MTU: u16 = 68;

impl Tunnel {
    /// A tunnel whose path takes what is configured: inner packets of `mtu` bytes. `clamps` is the field.
    pub fn new(
        peer: PeerId,
        remote: IpAddr,
        (mtu, clamps): (u16, bool),
        encapsulation: Encapsulation,
    ) -> Self {
        Tunnel { peer, remote, clamps, encapsulation, full_mtu: mtu, mtu: AtomicU16::new(mtu) }
    }

    /// Greatest inner IP packet that fits, bytes.
    #[inline(always)]
    pub fn mtu(&self) -> u16 {
        // Relaxed: the value stands alone, nothing else is published with it.
        self.mtu.load(Ordering::Relaxed)
    }

    /// The same as configured, whatever the path takes.
    pub fn full_mtu(&self) -> u16 {
        self.full_mtu
    }

    /// Bytes in front of the inner packet.
    pub fn overhead(&self) -> u16 {
        match self.encapsulation {
            Encapsulation::Ipip(_) => super::IPIP_OVERHEAD,
            Encapsulation::Vxlan(_) if self.remote.is_ipv6() => super::VXLAN_V6_OVERHEAD,
            Encapsulation::Vxlan(_) => super::VXLAN_OVERHEAD,
        }
    }

    /// Fits the tunnel into a path that takes outer packets of `path_mtu` bytes, or whatever is configured.
    pub fn fit(&self, path_mtu: Option<u16>) {
        let path = path_mtu.map_or(u16::MAX, |mtu| mtu.saturating_sub(self.overhead()).max(LEAST_MTU));
        self.mtu.store(self.full_mtu.min(path), Ordering::Relaxed);
    }
}

/// Ready-made headers of one tunnel.
#[derive(Debug, Clone)]
pub enum Encapsulation {
    /// IP in IP (RFC 2003).
    Ipip(IpipHeader),
    /// VXLAN (RFC 7348): the part that margay writes; the UDP socket adds outer IP and UDP.
    Vxlan(VxlanHeader),
}

/// The outer IPv4 header of an IPIP tunnel with length, id, DF, ECN (and TTL, if inherited) still zero.
#[derive(Debug, Clone)]
pub struct IpipHeader {
    template: [u8; ipv4::MIN_HEADER_LEN],
    /// Ones' complement sum of the template, so that a packet adds only the fields it changes.
    sum: u32,
    ttl: OuterTtl,
}

/// What an inner packet contributes to its outer header.
#[derive(Debug, Clone, Copy)]
pub struct Inner {
    /// Total length of the inner packet, bytes.
    pub len: u16,
    /// Its ECN field.
    pub ecn: Ecn,
    /// Its DF bit.
    pub dont_fragment: bool,
    /// Its TTL, after the forwarding decrement.
    pub ttl: u8,
}

impl IpipHeader {
    /// Headers from `local` to `remote`.
    pub fn new(local: Ipv4Addr, remote: Ipv4Addr, ttl: OuterTtl) -> Self {
        let fixed = match ttl {
            OuterTtl::Fixed(ttl) => ttl,
            OuterTtl::Inherit => 0,
        };
        let mut template = [0; ipv4::MIN_HEADER_LEN];
        ipv4::Header {
            tos: 0,
            total_len: 0,
            id: 0,
            dont_fragment: false,
            more_fragments: false,
            fragment_offset: 0,
            ttl: fixed,
            protocol: Protocol::IPIP,
            src: local,
            dst: remote,
        }
        .write(&mut template);
        template[10..12].fill(0);
        let sum = u32::from(!checksum::checksum(&template));
        IpipHeader { template, sum, ttl }
    }

    /// The outer TTL is the inner one: how far a packet gets is its sender's wish.
    pub fn inherits_ttl(&self) -> bool {
        self.ttl == OuterTtl::Inherit
    }

    /// Writes the outer header for one packet.
    ///
    /// The checksum is the template's sum plus the words that differ (RFC 1071 2(A): the sum may be taken
    /// in parts): first word (ECN), total length, id, flags, and the TTL's word.
    #[inline]
    pub fn write(&self, out: &mut [u8; ipv4::MIN_HEADER_LEN], inner: Inner, id: u16) {
        let tos = inner.ecn as u8;
        let total_len = inner.len.saturating_add(super::IPIP_OVERHEAD);
        let flags: u16 = if inner.dont_fragment { 0x4000 } else { 0 };
        let ttl = match self.ttl {
            OuterTtl::Fixed(_) => 0,
            OuterTtl::Inherit => inner.ttl,
        };
        let sum = self.sum
            + u32::from(tos)
            + u32::from(total_len)
            + u32::from(id)
            + u32::from(flags)
            + (u32::from(ttl) << 8);
        let folded = (sum & 0xffff) + (sum >> 16);
        let folded = (folded & 0xffff) + (folded >> 16);

        *out = self.template;
        out[1] = tos;
        out[2..4].copy_from_slice(&total_len.to_be_bytes());
        out[4..6].copy_from_slice(&id.to_be_bytes());
        out[6..8].copy_from_slice(&flags.to_be_bytes());
        out[8] |= ttl;
        out[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    }
}

/// VXLAN and inner Ethernet header of a tunnel: the same for every packet of a family, with IPv4's EtherType as they lie here.
#[derive(Debug, Clone)]
pub struct VxlanHeader {
    bytes: [u8; VxlanHeader::LEN],
}

impl VxlanHeader {
    /// VXLAN header 8, inner Ethernet header 14.
    pub const LEN: usize = vxlan::HEADER_LEN + ethernet::HEADER_LEN;

    /// Headers from the VTEP `local` to the VTEP `remote`.
    pub fn new(vni: Vni, local: MacAddr, remote: MacAddr) -> Self {
        let (mut outer, mut inner) = ([0; vxlan::HEADER_LEN], [0; ethernet::HEADER_LEN]);
        vxlan::write(&mut outer, vni);
        ethernet::write(&mut inner, remote, local, EtherType::IPV4);
        let mut bytes = [0; Self::LEN];
        bytes[..vxlan::HEADER_LEN].copy_from_slice(&outer);
        bytes[vxlan::HEADER_LEN..].copy_from_slice(&inner);
        VxlanHeader { bytes }
    }

    /// Writes what stands in front of an inner packet of family `A`.
    #[inline(always)]
    pub fn write<A: ip::Address>(&self, out: &mut [u8; Self::LEN]) {
        *out = self.bytes;
        if A::FAMILY != Family::V4 {
            out[Self::LEN - 2..].copy_from_slice(&A::ETHERTYPE.0.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ipv4::Ipv4;

    const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
    const REMOTE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);

    #[test]
    fn an_outer_header_is_the_one_that_parses_back() {
        for ttl in [OuterTtl::Fixed(64), OuterTtl::Inherit] {
            for (len, ecn, dont_fragment, id) in
                [(60, Ecn::Ce, true, 1), (1480, Ecn::NotEct, false, 0xffff), (20, Ecn::Ect0, true, 0x8000)]
            {
                let mut bytes = [0xa5; 20];
                let inner = Inner { len, ecn, dont_fragment, ttl: 63 };
                IpipHeader::new(LOCAL, REMOTE, ttl).write(&mut bytes, inner, id);
                let mut packet = vec![0; usize::from(len) + 20];
                packet[..20].copy_from_slice(&bytes);
                let outer = Ipv4::parse(&packet).expect("checksum and length are right");
                assert_eq!((outer.src(), outer.dst()), (LOCAL, REMOTE));
                assert_eq!(outer.protocol(), Protocol::IPIP);
                assert_eq!(outer.total_len(), usize::from(len) + 20);
                assert_eq!((outer.id(), outer.dont_fragment(), outer.ecn()), (id, dont_fragment, ecn));
                assert_eq!(outer.ttl(), if ttl == OuterTtl::Inherit { 63 } else { 64 });
            }
        }
    }

    #[test]
    fn vxlan_headers_are_those_of_calico() {
        let header = VxlanHeader::new(
            Vni(4096),
            MacAddr([0x66, 0x2d, 0xbf, 0x44, 0xa6, 0x8b]),
            MacAddr([0x66, 0xf9, 0x37, 0xc3, 0x7e, 0x94]),
        );
        let want = [
            0x08, 0, 0, 0, 0x00, 0x10, 0x00, 0x00, // I flag, VNI 4096
            0x66, 0xf9, 0x37, 0xc3, 0x7e, 0x94, 0x66, 0x2d, 0xbf, 0x44, 0xa6, 0x8b, 0x08, 0x00,
        ];
        let mut bytes = [0; VxlanHeader::LEN];
        header.write::<Ipv4Addr>(&mut bytes);
        assert_eq!(bytes, want);
        header.write::<std::net::Ipv6Addr>(&mut bytes);
        assert_eq!((&bytes[..20], &bytes[20..]), (&want[..20], &[0x86, 0xdd][..]));
    }
}
