//! IPv6 packets, built byte by byte: what the code under test does is not used.

use std::net::{IpAddr, Ipv6Addr};

use margay::buf::{Offload, PartialChecksum};
use margay::io::memory::MemoryFrame;
use margay::wire::{Ecn, MacAddr};

use super::packets::{TCP, UDP, checksum, ethernet, vxlan, word};

pub const ICMPV6: u8 = 58;
pub const FRAGMENT: u8 = 44;

/// An IPv6 packet without extension headers, but what its payload begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ip6 {
    pub class: u8,
    pub label: u32,
    pub hops: u8,
    pub next: u8,
    pub src: Ipv6Addr,
    pub dst: Ipv6Addr,
    pub payload: Vec<u8>,
}

impl Ip6 {
    /// Hop limit 64.
    pub fn new(src: Ipv6Addr, dst: Ipv6Addr, next: u8, payload: Vec<u8>) -> Self {
        Ip6 { class: 0, label: 0x12345, hops: 64, next, src, dst, payload }
    }

    /// UDP from port 1000 to 2000, `len` bytes of data.
    pub fn udp(src: Ipv6Addr, dst: Ipv6Addr, len: usize) -> Self {
        Self::datagram(src, dst, (1000, 2000), &(0..len).map(|n| n as u8).collect::<Vec<_>>())
    }

    pub fn datagram(src: Ipv6Addr, dst: Ipv6Addr, ports: (u16, u16), data: &[u8]) -> Self {
        let mut payload = [ports.0, ports.1, 8 + data.len() as u16, 0].map(u16::to_be_bytes).concat();
        payload.extend(data);
        Self::new(src, dst, UDP, payload).summed(6)
    }

    /// TCP, sequence number 1000, with these flags, options and data.
    pub fn tcp(src: Ipv6Addr, dst: Ipv6Addr, flags: u8, options: &[u8], len: usize) -> Self {
        let words = 5 + options.len().div_ceil(4);
        let mut payload = [3000_u16, 80].map(u16::to_be_bytes).concat();
        payload.extend([0, 0, 3, 0xe8, 0, 0, 0, 1, (words as u8) << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        payload.extend(options);
        payload.resize(words * 4, 0);
        payload.extend((0..len).map(|n| n as u8));
        Self::new(src, dst, TCP, payload).summed(16)
    }

    /// An ICMPv6 message of this type and code.
    pub fn icmp(src: Ipv6Addr, dst: Ipv6Addr, head: [u8; 2], rest: &[u8]) -> Self {
        Self::new(src, dst, ICMPV6, [&head[..], &[0, 0], rest].concat()).summed(2)
    }

    pub fn echo(src: Ipv6Addr, dst: Ipv6Addr) -> Self {
        Self::icmp(src, dst, [128, 0], b"\x00\x07\x00\x01echo")
    }

    /// A solicitation for `target`, hop limit 255, with the asker's link-layer address.
    pub fn solicitation(src: Ipv6Addr, dst: Ipv6Addr, target: Ipv6Addr, link: Option<MacAddr>) -> Self {
        let option = link.map_or(Vec::new(), |link| [&[1, 1][..], &link.0].concat());
        Self::icmp(src, dst, [135, 0], &[&[0; 4][..], &target.octets(), &option].concat()).hops(255)
    }

    /// An advertisement of `target`, hop limit 255, with these flags.
    pub fn advertisement(
        (src, dst): (Ipv6Addr, Ipv6Addr),
        flags: u8,
        target: Ipv6Addr,
        link: MacAddr,
    ) -> Self {
        let rest = [&[flags, 0, 0, 0][..], &target.octets(), &[2, 1], &link.0].concat();
        Self::icmp(src, dst, [136, 0], &rest).hops(255)
    }

    pub fn hops(self, hops: u8) -> Self {
        Ip6 { hops, ..self }
    }

    pub fn class(self, class: u8) -> Self {
        Ip6 { class, ..self }
    }

    /// The same one hop later.
    pub fn hop(&self) -> Self {
        Ip6 { hops: self.hops - 1, ..self.clone() }
    }

    fn pseudo_header(&self) -> Vec<u8> {
        let len = self.payload.len() as u32;
        [&self.src.octets()[..], &self.dst.octets(), &len.to_be_bytes(), &[0, 0, 0, self.next]].concat()
    }

    /// With a right checksum in this field of the payload.
    pub fn summed(mut self, field: usize) -> Self {
        self.payload[field..field + 2].fill(0);
        let sum = match checksum(&[self.pseudo_header(), self.payload.clone()].concat()) {
            0 => 0xffff,
            sum => sum,
        };
        self.payload[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        self
    }

    /// With the sum of the pseudo-header in this field, and what a virtio-net header says then.
    pub fn partial(mut self, field: usize) -> (Self, Offload) {
        let sum = !checksum(&self.pseudo_header());
        self.payload[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        let checksum = Some(PartialChecksum { start: 40, field: field as u16 });
        (self, Offload { checksum, ..Offload::default() })
    }

    pub fn bytes(&self) -> Vec<u8> {
        let first = 0x6000_0000 | u32::from(self.class) << 20 | self.label;
        let mut bytes = first.to_be_bytes().to_vec();
        bytes.extend((self.payload.len() as u16).to_be_bytes());
        bytes.extend([self.next, self.hops]);
        bytes.extend(self.src.octets());
        bytes.extend(self.dst.octets());
        bytes.extend(&self.payload);
        bytes
    }

    /// A whole packet, no byte more.
    #[track_caller]
    pub fn read(bytes: &[u8]) -> Self {
        assert_eq!(bytes[0] >> 4, 6, "version");
        assert_eq!(usize::from(word(bytes, 4)) + 40, bytes.len(), "payload length");
        let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[at..at + 16]).unwrap());
        let first = u32::from_be_bytes(bytes[..4].try_into().unwrap());
        Ip6 {
            class: (first >> 20) as u8,
            label: first & 0xf_ffff,
            hops: bytes[7],
            next: bytes[6],
            src: address(8),
            dst: address(24),
            payload: bytes[40..].to_vec(),
        }
    }

    /// As a workload with this MAC sends it.
    pub fn sent_by(&self, mac: MacAddr) -> MemoryFrame {
        ethernet(MacAddr::GATEWAY, mac, 0x86dd, &self.bytes())
    }

    /// As the engine delivers it to a workload with this MAC.
    pub fn delivered_to(&self, mac: MacAddr) -> MemoryFrame {
        ethernet(mac, MacAddr::GATEWAY, 0x86dd, &self.bytes())
    }

    /// As it stands in a host interface.
    pub fn plain(&self) -> MemoryFrame {
        MemoryFrame::new(self.bytes())
    }

    /// As it comes without encapsulation.
    pub fn on_underlay(&self) -> MemoryFrame {
        ethernet(MacAddr([2; 6]), MacAddr([4; 6]), 0x86dd, &self.bytes())
    }

    /// Out of a peer's VXLAN tunnel, VNI 4096.
    pub fn in_vxlan(&self, from: IpAddr, dst: MacAddr, src: MacAddr) -> MemoryFrame {
        let mut frame = MemoryFrame::from_peer(vxlan(dst, src, 0x86dd, &self.bytes()), from);
        frame.ecn = Ecn::from_tos(self.class);
        frame
    }
}
