//! Super-frames as workloads could hand them over, made from a few bytes of chance: by tests, by the kernel's
//! oracle and by the fuzz targets alike.
#![allow(dead_code, reason = "every user takes a part of it")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use margay::buf::{Frame, Offload, PartialChecksum, Pool, Segmentation, Segments, SlotSize};
use margay::io::join::{Takes, join};
use margay::io::offload::{MAX_HEAD, Outer, SuperFrame, complete_checksum};
use margay::wire::flow::Flow;
use margay::wire::ip::{Address, Family, View};
use margay::wire::{Ipv4, Ipv6, Protocol, checksum, ipv6};

pub(crate) const BOTH: Takes = Takes { tcp: true, udp: true };

/// Bytes of chance; zeros when they are used up.
#[derive(Debug, Clone)]
pub(crate) struct Choices<'a>(pub(crate) &'a [u8]);

impl Choices<'_> {
    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(crate) fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    pub(crate) fn long(&mut self) -> u32 {
        u32::from(self.word()) << 16 | u32::from(self.word())
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// 0 to `end` - 1.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::from(self.word()) % end.max(1)
    }
}

/// One super-frame's worth of a flow.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    /// Behind an Ethernet header.
    pub(crate) has_ethernet: bool,
    /// TOS or traffic class.
    pub(crate) tos: u8,
    /// TTL or hop limit.
    pub(crate) ttl: u8,
    pub(crate) ip: Ip,
    pub(crate) ports: [u16; 2],
    pub(crate) transport: Transport,
    /// Payload bytes of each segment but the last.
    pub(crate) size: u16,
    pub(crate) payload: Vec<u8>,
}

/// What the versions of IP have each for itself.
#[derive(Debug, Clone)]
pub(crate) enum Ip {
    V4 {
        id: u16,
        dont_fragment: bool,
        addresses: [Ipv4Addr; 2],
    },
    V6 {
        flow_label: u32,
        /// Kinds of extension headers, and what follows the next one's kind in each.
        extensions: Vec<(Protocol, Vec<u8>)>,
        addresses: [Ipv6Addr; 2],
    },
}

impl Ip {
    fn any(choices: &mut Choices<'_>, family: Family) -> Ip {
        match family {
            Family::V4 => Ip::V4 {
                id: choices.word(),
                dont_fragment: choices.flag(),
                addresses: [[10, 65, 0, choices.byte()].into(), [10, 65, 1, choices.byte()].into()],
            },
            Family::V6 => Ip::V6 {
                flow_label: choices.long() & 0xf_ffff,
                extensions: any_extensions(choices),
                addresses: [0, 1].map(|net| Ipv6Addr::new(0xfd65, net, 0, 0, 0, 0, 0, choices.word())),
            },
        }
    }

    pub(crate) fn family(&self) -> Family {
        match self {
            Ip::V4 { .. } => Family::V4,
            Ip::V6 { .. } => Family::V6,
        }
    }

    /// Bytes of the header with all extension headers.
    pub(crate) fn len(&self) -> usize {
        match self {
            Ip::V4 { .. } => 20,
            Ip::V6 { extensions, .. } => {
                40 + extensions.iter().map(|(_, rest)| 1 + rest.len()).sum::<usize>()
            }
        }
    }

    pub(crate) fn addresses(&self) -> [IpAddr; 2] {
        match self {
            Ip::V4 { addresses, .. } => addresses.map(IpAddr::V4),
            Ip::V6 { addresses, .. } => addresses.map(IpAddr::V6),
        }
    }

    /// The header of a packet with so much behind it.
    fn header(&self, (tos, ttl): (u8, u8), protocol: Protocol, len: usize) -> Vec<u8> {
        let total = (self.len() + len) as u16;
        match self {
            Ip::V4 { id, dont_fragment, addresses: [src, dst] } => {
                let (id, total) = (id.to_be_bytes(), total.to_be_bytes());
                let flags = if *dont_fragment { 0x40 } else { 0 };
                let mut bytes = vec![0x45, tos, total[0], total[1], id[0], id[1], flags, 0];
                bytes.extend([ttl, protocol.0, 0, 0]);
                bytes.extend([src.octets(), dst.octets()].concat());
                repair_ip(&mut bytes);
                bytes
            }
            Ip::V6 { flow_label, extensions, addresses: [src, dst] } => {
                let kinds: Vec<Protocol> =
                    extensions.iter().map(|(kind, _)| *kind).chain([protocol]).collect();
                let mut bytes = vec![0; 40];
                let header = ipv6::Header {
                    traffic_class: tos,
                    flow_label: *flow_label,
                    payload_len: total - 40,
                    next_header: kinds[0],
                    hop_limit: ttl,
                    src: *src,
                    dst: *dst,
                };
                header.write(bytes.first_chunk_mut().unwrap());
                for ((_, rest), next) in extensions.iter().zip(&kinds[1..]) {
                    bytes.push(next.0);
                    bytes.extend(rest);
                }
                bytes
            }
        }
    }
}

/// None mostly, else some that a router and the receiver pass by: options that may be skipped, a routing header whose
/// last segment has been reached.
fn any_extensions(choices: &mut Choices<'_>) -> Vec<(Protocol, Vec<u8>)> {
    let kinds = [Protocol::HOP_BY_HOP, Protocol::DESTINATION_OPTIONS, Protocol::ROUTING];
    let which = choices.byte();
    let mut extensions = Vec::new();
    for (bit, kind) in kinds.into_iter().enumerate() {
        if which & 0xc0 != 0 || which >> bit & 1 == 0 {
            continue;
        }
        let units = choices.below(3);
        let len = 8 * (units + 1);
        let mut rest = match kind {
            Protocol::ROUTING => vec![units as u8, 253, 0],
            // An experimental option, to be skipped by who does not know it (RFC 4727 3.6).
            _ => vec![units as u8, 0x1e, (len - 4) as u8],
        };
        rest.resize_with(len - 1, || choices.byte());
        extensions.push((kind, rest));
    }
    extensions
}

#[derive(Debug, Clone)]
pub(crate) enum Transport {
    Tcp { seq: u32, ack: u32, window: u16, flags: u8, options: Vec<u8> },
    Udp,
}

impl Stream {
    /// Any that the joiner must give back whole: two segments or more, up to what a run may hold.
    pub(crate) fn any(choices: &mut Choices<'_>) -> Stream {
        let family = if choices.flag() { Family::V6 } else { Family::V4 };
        Self::any_of(family, choices)
    }

    /// Of one version of IP.
    pub(crate) fn any_of(family: Family, choices: &mut Choices<'_>) -> Stream {
        let is_tcp = choices.flag();
        let most = if is_tcp { 128 } else { 64 };
        let size = match choices.below(4) {
            0 => 1 + choices.below(30),
            1 => 1398,
            _ => 1 + choices.below(3000),
        };
        let ip = Ip::any(choices, family);
        let most = ((65_535 - ip.len() - 60) / size).min(most);
        let full = 1 + choices.below(most - 1);
        let len = full * size + 1 + choices.below(size);
        Stream {
            has_ethernet: choices.flag(),
            tos: choices.byte(),
            ttl: choices.byte().max(1),
            ip,
            ports: [choices.word(), choices.word()],
            transport: match is_tcp {
                true => Transport::Tcp {
                    seq: choices.long(),
                    ack: choices.long(),
                    window: choices.word(),
                    // Any but SYN, RST and URG.
                    flags: choices.byte() & 0xd9,
                    options: (0..choices.below(11) * 4).map(|_| choices.byte()).collect(),
                },
                false => Transport::Udp,
            },
            size: size as u16,
            payload: noise(choices.long(), len),
        }
    }

    pub(crate) fn l2(&self) -> usize {
        if self.has_ethernet { 14 } else { 0 }
    }

    pub(crate) fn outer(&self) -> Outer {
        if self.has_ethernet { Outer::Ethernet } else { Outer::None }
    }

    pub(crate) fn protocol(&self) -> Protocol {
        match self.transport {
            Transport::Tcp { .. } => Protocol::TCP,
            Transport::Udp => Protocol::UDP,
        }
    }

    /// Where its transport checksum stands in its header.
    pub(crate) fn field(&self) -> u16 {
        match self.transport {
            Transport::Tcp { .. } => 16,
            Transport::Udp => 6,
        }
    }

    /// Bytes of all headers.
    pub(crate) fn head_len(&self) -> usize {
        self.l2() + self.ip.len() + self.transport_header().len()
    }

    /// What a virtio-net header says of it.
    pub(crate) fn offload(&self) -> Offload {
        let kind = match self.transport {
            Transport::Tcp { flags, .. } if flags & 0x80 != 0 => Segmentation::TcpEcn,
            Transport::Tcp { .. } => Segmentation::Tcp,
            Transport::Udp => Segmentation::Udp,
        };
        Offload {
            checksum: Some(PartialChecksum { start: self.ip.len() as u16, field: self.field() }),
            segments: Some(Segments { kind, size: self.size }),
        }
    }

    /// The whole, with only the pseudo-header in its checksum.
    pub(crate) fn whole(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = Vec::new();
        if self.has_ethernet {
            bytes.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
            bytes.extend(match self.ip.family() {
                Family::V4 => [8, 0],
                Family::V6 => [0x86, 0xdd],
            });
        }
        let transport = self.transport_header();
        let len = transport.len() + self.payload.len();
        bytes.extend(self.ip.header((self.tos, self.ttl), self.protocol(), len));
        bytes.extend(transport);
        bytes.extend(&self.payload);
        let [src, dst] = self.ip.addresses();
        let sum = checksum::pseudo_header(src, dst, self.protocol(), len).folded();
        let at = self.l2() + self.ip.len() + usize::from(self.field());
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    fn transport_header(&self) -> Vec<u8> {
        let mut header: Vec<u8> = self.ports.iter().flat_map(|port| port.to_be_bytes()).collect();
        match &self.transport {
            Transport::Tcp { seq, ack, window, flags, options } => {
                header.extend(seq.to_be_bytes());
                header.extend(ack.to_be_bytes());
                header.extend([(((20 + options.len()) / 4) << 4) as u8, *flags]);
                header.extend(window.to_be_bytes());
                header.extend([0; 4]);
                header.extend(options);
            }
            Transport::Udp => {
                header.extend(((8 + self.payload.len()) as u16).to_be_bytes());
                header.extend([0; 2]);
            }
        }
        header
    }

    /// Its segments, as margay cuts them.
    pub(crate) fn pieces(&self) -> Vec<Vec<u8>> {
        cut(&self.whole(), self.outer(), self.offload()).expect("it can be cut")
    }
}

/// The segments of a super-frame; `None` for what is none.
pub(crate) fn cut(bytes: &[u8], outer: Outer, offload: Offload) -> Option<Vec<Vec<u8>>> {
    let super_frame = SuperFrame::parse(bytes, outer, offload.segments?)?;
    let pieces = (0..super_frame.count()).map(|index| {
        let mut head = [0xa5; MAX_HEAD];
        let len = super_frame.head_len();
        super_frame.write_head(index, &mut head[..len]);
        [&head[..len], super_frame.payload(index)].concat()
    });
    Some(pieces.collect())
}

/// Bytes without a pattern.
pub(crate) fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut state = u64::from(seed) | 1 << 40;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Makes the checksum of an IPv4 header at the front right, of as much of it as there is.
pub(crate) fn repair_ip(ip: &mut [u8]) {
    if ip[0] >> 4 == 6 {
        return;
    }
    let len = (usize::from(ip[0] & 15) * 4).clamp(20, ip.len());
    ip[10..12].fill(0);
    let sum = checksum::checksum(&ip[..len]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Makes both checksums of a TCP or UDP packet without IPv4 options right; of one that is cut short, the first.
pub(crate) fn repair(ip: &mut [u8]) {
    repair_ip(ip);
    let (start, protocol, src, dst) = match Ipv6::parse_quoted(ip) {
        Ok(v6) => (v6.header_len(), v6.protocol(), v6.src().into(), v6.dst().into()),
        Err(_) => {
            let address = |at: usize| IpAddr::from([ip[at], ip[at + 1], ip[at + 2], ip[at + 3]]);
            (20, Protocol(ip[9]), address(12), address(16))
        }
    };
    let at = start + if protocol == Protocol::TCP { 16 } else { 6 };
    if ip.len() < at + 2 {
        return;
    }
    ip[at..at + 2].fill(0);
    let sum = match checksum::transport_checksum(src, dst, protocol, &ip[start..]) {
        0 => 0xffff_u16,
        sum => sum,
    };
    ip[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// A frame outside of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loose {
    pub(crate) bytes: Vec<u8>,
    pub(crate) offload: Offload,
}

impl Loose {
    pub(crate) fn plain(bytes: Vec<u8>) -> Loose {
        Loose { bytes, offload: Offload::default() }
    }

    /// With its checksum in full.
    fn completed(&self, l2: usize) -> Loose {
        let mut bytes = self.bytes.clone();
        let offload = complete_checksum(&mut bytes[l2..], self.offload);
        Loose { bytes, offload }
    }
}

/// What became of some frames: the indexes of each run's, and the frame that it is written as.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) frames: Vec<usize>,
    pub(crate) out: Loose,
}

/// The frames in slots of a pool, for a while.
pub(crate) fn in_pool<T>(frames: &[Loose], then: impl FnOnce(&mut Pool, &mut Vec<Frame>) -> T) -> T {
    let mut pool = Pool::new(frames.len(), SlotSize::SuperFrame);
    let mut batch = Vec::new();
    for loose in frames {
        let mut frame = pool.take().unwrap();
        pool.room(&frame)[..loose.bytes.len()].copy_from_slice(&loose.bytes);
        pool.filled(&mut frame, loose.bytes.len());
        frame.offload = loose.offload;
        batch.push(frame);
    }
    let done = then(&mut pool, &mut batch);
    batch.into_iter().for_each(|frame| pool.put(frame));
    done
}

/// Runs of `frames`, in the order in which they are written.
pub(crate) fn joined(frames: &[Loose], l2: usize, takes: Takes) -> Vec<Joined> {
    in_pool(frames, |pool, batch| {
        // A mark that `join` does not look at: which frame this is.
        batch.iter_mut().enumerate().for_each(|(index, frame)| frame.flow = index as u32);
        let mut runs = Vec::new();
        join(pool, batch, l2, takes, |run| {
            let out = if run.count() == 1 {
                Loose { bytes: pool.bytes(run.first()).to_vec(), offload: run.first().offload }
            } else {
                let mut head = [0xa5; MAX_HEAD];
                let (len, offload) = run.write_head(&mut head);
                let mut bytes = head[..len].to_vec();
                run.payloads().for_each(|payload| bytes.extend(payload));
                Loose { bytes, offload }
            };
            runs.push(Joined { frames: run.frames().map(|frame| frame.flow as usize).collect(), out });
        });
        runs
    })
}

/// Checks what must hold for whatever was joined: each frame left once and those of a flow in their order; a
/// lone frame is as it was; a super-frame, cut, gives the frames that it was made of.
pub(crate) fn check(frames: &[Loose], l2: usize, takes: Takes) {
    let runs = joined(frames, l2, takes);
    let outer = if l2 > 0 { Outer::Ethernet } else { Outer::None };
    let order: Vec<usize> = runs.iter().flat_map(|run| run.frames.clone()).collect();
    let mut sorted = order.clone();
    sorted.sort_unstable();
    assert!(sorted.into_iter().eq(0..frames.len()), "each once: {order:?}");
    // None: nothing may overtake it, nor it others.
    let flow = |index: usize| {
        let bytes = &frames[index].bytes;
        let ip = bytes.get(l2..)?;
        match (Family::of_packet(ip)?, bytes.get(12..14)) {
            (Family::V4, ethertype) if l2 == 0 || ethertype == Some(&[8, 0]) => flow_of::<Ipv4<'_>>(ip),
            (Family::V6, ethertype) if l2 == 0 || ethertype == Some(&[0x86, 0xdd]) => flow_of::<Ipv6<'_>>(ip),
            _ => None,
        }
    };
    let may_pass = |a: usize, b: usize| flow(a).zip(flow(b)).is_some_and(|(a, b)| a != b);
    for (position, index) in order.iter().enumerate() {
        let before = order[..position].iter().find(|before| *before > index && !may_pass(**before, *index));
        assert_eq!(before, None, "{index} is late: {order:?}");
    }
    for run in &runs {
        let [index] = run.frames[..] else {
            check_super_frame(frames, run, l2, outer);
            continue;
        };
        assert_eq!(run.out, frames[index]);
    }
}

fn flow_of<'a, V: View<'a>>(packet: &'a [u8]) -> Option<(Family, Flow)> {
    let ip = V::parse(packet).ok()?;
    let is_known = ip.protocol().has_ports() && !ip.is_fragment();
    is_known.then(|| (<V::Address as Address>::FAMILY, Flow::of(&ip)))
}

fn check_super_frame(frames: &[Loose], run: &Joined, l2: usize, outer: Outer) {
    assert!(run.out.bytes.len() - l2 <= 65_535);
    let pieces = cut(&run.out.bytes, outer, run.out.offload).expect("a super-frame can be cut");
    assert_eq!(pieces.len(), run.frames.len(), "{:?}", run.out.offload);
    for (mut piece, index) in pieces.into_iter().zip(&run.frames) {
        let mut before = frames[*index].completed(l2).bytes;
        if before[l2] >> 4 == 4 && before[l2 + 6] & 0x40 != 0 {
            // DF: the id means nothing (RFC 6864 4.1).
            for bytes in [&mut piece, &mut before] {
                bytes[l2 + 4..l2 + 6].fill(0);
                repair_ip(&mut bytes[l2..]);
            }
        }
        assert_eq!(piece, before, "frame {index}");
    }
}
