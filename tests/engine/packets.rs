//! Packets as a test says them and reads them: plain fields, with a checksum of its own that shares nothing
//! with the code under test.

use std::net::{IpAddr, Ipv4Addr};

use margay::buf::{Offload, PartialChecksum, Segmentation, Segments};
use margay::dataplane::PortId;
use margay::io::memory::MemoryFrame;
use margay::wire::{Ecn, MacAddr};

/// An IPv4 packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ip {
    pub tos: u8,
    pub id: u16,
    /// The flags and the offset in units of 8 bytes, as they stand in the header.
    pub fragment: u16,
    pub ttl: u8,
    pub protocol: u8,
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

pub const DF: u16 = 0x4000;
pub const MF: u16 = 0x2000;
pub const ICMP: u8 = 1;
pub const IPIP: u8 = 4;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

impl Ip {
    /// DF, TTL 64, id 0x1234.
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: Vec<u8>) -> Self {
        Ip { tos: 0, id: 0x1234, fragment: DF, ttl: 64, protocol, src, dst, options: Vec::new(), payload }
    }

    /// UDP from port 1000 to 2000, `len` bytes of data.
    pub fn udp(src: Ipv4Addr, dst: Ipv4Addr, len: usize) -> Self {
        Self::datagram(src, dst, (1000, 2000), &(0..len).map(|n| n as u8).collect::<Vec<_>>())
    }

    pub fn datagram(src: Ipv4Addr, dst: Ipv4Addr, ports: (u16, u16), data: &[u8]) -> Self {
        let len = 8 + data.len() as u16;
        let mut payload = [ports.0, ports.1, len, 0].map(u16::to_be_bytes).concat();
        payload.extend(data);
        Self::new(src, dst, UDP, payload).summed()
    }

    /// TCP, sequence number 1000, ACK and PSH, `len` bytes of data.
    pub fn tcp(src: Ipv4Addr, dst: Ipv4Addr, len: usize) -> Self {
        let mut payload = [3000_u16, 80].map(u16::to_be_bytes).concat();
        payload.extend([0, 0, 3, 0xe8, 0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
        payload.extend((0..len).map(|n| (n % 251) as u8));
        Self::new(src, dst, TCP, payload).summed()
    }

    /// What opens a TCP connection, or answers that: these control bits, these options, padded, then data.
    pub fn syn(src: Ipv4Addr, dst: Ipv4Addr, flags: u8, options: &[u8], data: &[u8]) -> Self {
        let header_len = (20 + options.len()).next_multiple_of(4);
        let mut payload = [3000_u16, 80].map(u16::to_be_bytes).concat();
        payload.extend([
            0,
            0,
            3,
            0xe8,
            0,
            0,
            0,
            1,
            (header_len as u8 / 4) << 4,
            flags,
            0xff,
            0xff,
            0,
            0,
            0,
            0,
        ]);
        payload.extend(options);
        payload.resize(header_len, 0);
        payload.extend(data);
        Self::new(src, dst, TCP, payload).summed()
    }

    /// An ICMP message of this type and code with a right checksum.
    pub fn icmp(src: Ipv4Addr, dst: Ipv4Addr, head: [u8; 2], rest: &[u8]) -> Self {
        let mut payload = [&head[..], &[0, 0], rest].concat();
        let sum = checksum(&payload);
        payload[2..4].copy_from_slice(&sum.to_be_bytes());
        Self::new(src, dst, ICMP, payload)
    }

    pub fn echo(src: Ipv4Addr, dst: Ipv4Addr) -> Self {
        Self::icmp(src, dst, [8, 0], b"\x00\x07\x00\x01echo")
    }

    pub fn ttl(self, ttl: u8) -> Self {
        Ip { ttl, ..self }
    }

    pub fn tos(self, tos: u8) -> Self {
        Ip { tos, ..self }
    }

    pub fn fragment(self, fragment: u16) -> Self {
        Ip { fragment, ..self }
    }

    /// The same one hop later.
    pub fn hop(&self) -> Self {
        Ip { ttl: self.ttl - 1, ..self.clone() }
    }

    /// What a packet that did not come from the host is when it leaves by this port: one hop later, but to the
    /// host, whose kernel is of the same node (RFC 1812 5.3.1).
    pub fn leaving_by(&self, port: PortId) -> Self {
        if port == PortId::Host { self.clone() } else { self.hop() }
    }

    fn field(&self) -> usize {
        if self.protocol == TCP { 16 } else { 6 }
    }

    fn pseudo_header(&self) -> Vec<u8> {
        let len = self.payload.len() as u16;
        [&self.src.octets()[..], &self.dst.octets(), &[0, self.protocol], &len.to_be_bytes()].concat()
    }

    /// TCP or UDP with a right checksum.
    pub fn summed(mut self) -> Self {
        let field = self.field();
        self.payload[field..field + 2].fill(0);
        let sum = match checksum(&[self.pseudo_header(), self.payload.clone()].concat()) {
            0 => 0xffff,
            sum => sum,
        };
        self.payload[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        self
    }

    /// TCP or UDP with the sum of the pseudo-header in place of the checksum.
    pub fn partial(mut self) -> Self {
        let (field, sum) = (self.field(), !checksum(&self.pseudo_header()));
        self.payload[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        self
    }

    /// Whether the transport checksum is right.
    pub fn is_summed(&self) -> bool {
        self.clone().summed() == *self
    }

    pub fn partial_checksum(&self) -> Offload {
        let start = 20 + self.options.len() as u16;
        let checksum = Some(PartialChecksum { start, field: self.field() as u16 });
        Offload { checksum, ..Offload::default() }
    }

    pub fn len(&self) -> usize {
        20 + self.options.len() + self.payload.len()
    }

    pub fn bytes(&self) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        assert!(header_len.is_multiple_of(4) && header_len <= 60);
        let mut bytes = vec![0x40 | (header_len / 4) as u8, self.tos];
        bytes.extend((self.len() as u16).to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([self.ttl, self.protocol, 0, 0]);
        bytes.extend(self.src.octets());
        bytes.extend(self.dst.octets());
        bytes.extend(&self.options);
        repair(&mut bytes);
        bytes.extend(&self.payload);
        bytes
    }

    /// A whole packet, no byte more: version, lengths and checksum must be right.
    #[track_caller]
    pub fn read(bytes: &[u8]) -> Self {
        assert_eq!(bytes[0] >> 4, 4, "version");
        let header_len = usize::from(bytes[0] & 0xf) * 4;
        assert_eq!(usize::from(word(bytes, 2)), bytes.len(), "total length");
        assert_eq!(checksum(&bytes[..header_len]), 0, "header checksum");
        let address = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap());
        Ip {
            tos: bytes[1],
            id: word(bytes, 4),
            fragment: word(bytes, 6),
            ttl: bytes[8],
            protocol: bytes[9],
            src: address(12),
            dst: address(16),
            options: bytes[20..header_len].to_vec(),
            payload: bytes[header_len..].to_vec(),
        }
    }

    /// As a workload with this MAC sends it.
    pub fn sent_by(&self, mac: MacAddr) -> MemoryFrame {
        ethernet(MacAddr::GATEWAY, mac, 0x0800, &self.bytes())
    }

    /// As the engine delivers it to a workload with this MAC.
    pub fn delivered_to(&self, mac: MacAddr) -> MemoryFrame {
        ethernet(mac, MacAddr::GATEWAY, 0x0800, &self.bytes())
    }

    /// As it stands in a host interface.
    pub fn plain(&self) -> MemoryFrame {
        MemoryFrame::new(self.bytes())
    }

    /// As it comes without encapsulation.
    pub fn on_underlay(&self) -> MemoryFrame {
        ethernet(MacAddr([2; 6]), MacAddr([4; 6]), 0x0800, &self.bytes())
    }

    /// Out of a peer's IPIP tunnel to this node.
    pub fn in_ipip(&self, from: Ipv4Addr, to: Ipv4Addr) -> MemoryFrame {
        let outer = Ip::new(from, to, IPIP, self.bytes()).tos(self.tos & 3).fragment(self.fragment & DF);
        MemoryFrame::from_peer(outer.bytes(), IpAddr::V4(from))
    }

    /// Out of a peer's VXLAN tunnel, VNI 4096.
    pub fn in_vxlan(&self, from: Ipv4Addr, dst: MacAddr, src: MacAddr) -> MemoryFrame {
        let mut frame = MemoryFrame::from_peer(vxlan(dst, src, 0x0800, &self.bytes()), IpAddr::V4(from));
        frame.ecn = Ecn::from_tos(self.tos);
        frame
    }
}

/// VXLAN of VNI 4096 around an Ethernet frame.
pub fn vxlan(dst: MacAddr, src: MacAddr, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let header = [0x08, 0, 0, 0, 0, 0x10, 0, 0];
    [&header[..], &ethernet(dst, src, ethertype, payload).bytes].concat()
}

pub fn ethernet(dst: MacAddr, src: MacAddr, ethertype: u16, payload: &[u8]) -> MemoryFrame {
    MemoryFrame::new([&dst.0[..], &src.0, &ethertype.to_be_bytes(), payload].concat())
}

/// An ARP message in a frame from its sender.
pub fn arp(to: MacAddr, op: u8, sender: (MacAddr, Ipv4Addr), target: (MacAddr, Ipv4Addr)) -> MemoryFrame {
    let message =
        [&[0, 1, 8, 0, 6, 4, 0, op][..], &sender.0.0, &sender.1.octets(), &target.0.0, &target.1.octets()];
    ethernet(to, sender.0, 0x0806, &message.concat())
}

/// What a virtio-net header says of a TCP super-frame with a partial checksum.
pub fn super_frame(ip: &Ip, size: u16) -> Offload {
    Offload { segments: Some(Segments { kind: Segmentation::Tcp, size }), ..ip.partial_checksum() }
}

/// Makes the header checksum of the header at the front right.
pub fn repair(bytes: &mut [u8]) {
    let header_len = (usize::from(bytes[0] & 0xf) * 4).clamp(20, bytes.len());
    bytes[10..12].fill(0);
    let sum = checksum(&bytes[..header_len]);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
}

pub fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// RFC 1071 as it is written.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u64 = 0;
    for pair in bytes.chunks(2) {
        sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
