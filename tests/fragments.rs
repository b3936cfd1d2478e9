//! Fragments of tunnel packets: the kernel reassembles them before margay's sockets see anything (M10 to M12).
//!
//! The fragments are made by hand and sent by a raw socket in the peer's namespace. What is seen is what arrives in
//! the pod: a datagram that is whole and right, or nothing.

mod lab;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use etherparse::{Ipv4Header, PacketBuilder};
use lab::{packets, reaches, start, sysctl, until};
use margay::testbed::{Capture, Lab, LabSpec, Mode};
use nix::sys::signal::Signal;
use socket2::{Domain, Protocol, Socket, Type};

const PORT: u16 = 7000;
const SILENCE: Duration = Duration::from_millis(300);

/// node-a with a pod that listens, and node-b's underlay address to send from.
struct Bed {
    lab: Lab,
    listener: UdpSocket,
    sender: Socket,
}

/// A part of a tunnel packet's payload.
#[derive(Debug, Clone)]
struct Piece {
    offset: usize,
    bytes: Vec<u8>,
    is_last: bool,
}

impl Bed {
    fn new(mode: Mode, arguments: &[&str]) -> Self {
        let lab = start(LabSpec::new(mode), arguments);
        let [a, b] = &lab.nodes;
        let listener = a.pods[0].netns.run(|| UdpSocket::bind(("0.0.0.0", PORT))).unwrap().unwrap();
        listener.set_read_timeout(Some(SILENCE)).unwrap();
        let open = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)));
        let sender = b.netns.run(open).unwrap().unwrap();
        Bed { lab, listener, sender }
    }

    /// What a tunnel packet of a pod of node-b's carries behind its outer IP header: a datagram with `data` for the
    /// listener, from `source`.
    fn tunnel_payload_from(&self, source: IpAddr, data: &[u8]) -> Vec<u8> {
        let (IpAddr::V4(source), IpAddr::V4(target)) = (source, self.lab.nodes[0].pods[0].address) else {
            panic!("pods have IPv4")
        };
        let builder = PacketBuilder::ipv4(source.octets(), target.octets(), 64).udp(PORT, PORT);
        let mut inner = Vec::new();
        builder.write(&mut inner, data).unwrap();
        match self.lab.spec.mode {
            Mode::Ipip => inner,
            _ => {
                // UDP without a checksum, VXLAN with VNI 4096, both VTEPs' MACs: 66: and sha1 of the node's name.
                let len = (8 + 8 + 14 + inner.len()) as u16;
                let udp = [50000, 4789, len, 0].map(u16::to_be_bytes).concat();
                let vxlan = [0x08, 0, 0, 0, 0, 0x10, 0, 0];
                let (a, b) = ([0x66, 0x07, 0x02, 0xc1, 0xcc, 0x60], [0x66, 0x89, 0x3a, 0x22, 0x7a, 0xac]);
                [&udp[..], &vxlan, &a, &b, &[8, 0], &inner].concat()
            }
        }
    }

    fn tunnel_payload(&self, data: &[u8]) -> Vec<u8> {
        self.tunnel_payload_from(self.lab.nodes[1].pods[0].address, data)
    }

    /// Sends fragments of one tunnel packet, each as it is.
    fn send(&self, pieces: &[Piece]) {
        static ID: AtomicU16 = AtomicU16::new(1);
        let id = ID.fetch_add(1, Ordering::Relaxed);
        let protocol = if self.lab.spec.mode == Mode::Ipip { 4 } else { 17 };
        let v4 = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets(),
            IpAddr::V6(_) => panic!("the underlay has IPv4"),
        };
        let [a, b] = &self.lab.nodes;
        for piece in pieces {
            let mut header = Ipv4Header::new(
                piece.bytes.len() as u16,
                64,
                protocol.into(),
                v4(b.address()),
                v4(a.address()),
            )
            .unwrap();
            header.identification = id;
            header.dont_fragment = false;
            let mut packet = header.to_bytes().to_vec();
            let flags = (piece.offset / 8) as u16 | if piece.is_last { 0 } else { 0x2000 };
            packet[6..8].copy_from_slice(&flags.to_be_bytes());
            packet.extend(&piece.bytes);
            let target = SocketAddr::new(a.address(), 0);
            self.sender.send_to(&packet, &target.into()).unwrap();
        }
    }

    /// What the pod got until it was quiet for a while.
    fn heard(&self) -> Vec<Vec<u8>> {
        let mut buffer = [0; 65536];
        let next = || {
            let len = self.listener.recv(&mut buffer).ok()?;
            Some(buffer[..len].to_vec())
        };
        std::iter::from_fn(next).collect()
    }

    /// After whatever came before, a packet in pieces arrives.
    #[track_caller]
    fn is_well(&self) {
        let data = data(9, 1200);
        self.send(&cut(&self.tunnel_payload(&data), 400));
        assert_eq!(self.heard(), [data], "{:?}", self.lab.spec.mode);
    }
}

/// Bytes that differ from place to place and from `seed` to `seed`.
fn data(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|n| (n / 8) as u8 ^ seed.wrapping_mul(37)).collect()
}

/// Pieces of `size` bytes, a multiple of 8, in order.
fn cut(payload: &[u8], size: usize) -> Vec<Piece> {
    let last = (payload.len() - 1) / size;
    let piece = |(index, bytes): (usize, &[u8])| Piece {
        offset: index * size,
        bytes: bytes.to_vec(),
        is_last: index == last,
    };
    payload.chunks(size).enumerate().map(piece).collect()
}

const MODES: [Mode; 2] = [Mode::Ipip, Mode::Vxlan];

/// RFC 1122 3.3.2: each order of four pieces, and each piece twice.
#[test]
fn m10_outer_fragments_arrive_in_any_order_and_twice() {
    for mode in MODES {
        // With two workers there is a socket of each; the packet is whole before it is decided whose it is.
        let bed = Bed::new(mode, &["--workers", "2"]);
        let mut wanted = Vec::new();
        for order in 0..24_usize {
            let data = data(order as u8, 1300);
            let mut left = cut(&bed.tunnel_payload(&data), 400);
            assert_eq!(left.len(), 4);
            let pieces = [order % 4, order / 4 % 3, order / 12, 0].map(|place| left.remove(place));
            // The last to come makes it whole: once more would be the first of another packet.
            let twice = &pieces[order % 3];
            bed.send(&[&pieces[..3], std::slice::from_ref(twice), &pieces[3..]].concat());
            wanted.push(data);
        }
        assert_eq!(bed.heard(), wanted, "{mode:?}");
    }
}

/// RFC 1858, RFC 3128: however small the first piece is, margay sees the whole: what it refuses stays refused.
#[test]
fn m11_tiny_first_fragments_hide_nothing() {
    for mode in MODES {
        let bed = Bed::new(mode, &[]);
        let good = data(1, 100);
        bed.send(&cut(&bed.tunnel_payload(&good), 8));
        assert_eq!(bed.heard(), [good], "{mode:?}");
        // A source of node-a's own, spread over pieces.
        let forged = bed.tunnel_payload_from(bed.lab.nodes[0].pods[1].address, &data(2, 100));
        bed.send(&cut(&forged, 8));
        assert_eq!(bed.heard(), [[0; 0]; 0], "{mode:?}");
    }
}

/// RFC 815, RFC 5722: what overlaps with other content never gives a packet, and takes no other with it.
#[test]
fn m11_overlaps_never_give_mixed_content() {
    for mode in MODES {
        let bed = Bed::new(mode, &[]);
        let whole = bed.tunnel_payload(&data(1, 1200));
        let other = bed.tunnel_payload(&data(2, 1200));
        let piece = |payload: &[u8], from: usize, to: usize| Piece {
            offset: from,
            bytes: payload[from..to].to_vec(),
            is_last: to == payload.len(),
        };
        let end = whole.len();
        let [first, middle, last] =
            [(0, 400), (400, 800), (800, end)].map(|(from, to)| piece(&whole, from, to));
        let empty = Piece { offset: 400, bytes: Vec::new(), is_last: false };
        let beyond = Piece { offset: 65528, bytes: vec![0x41; 1000], is_last: true };
        for (what, pieces) in [
            ("by one unit at the front", vec![first.clone(), piece(&other, 392, 800), last.clone()]),
            ("by one unit at the end", vec![first.clone(), piece(&other, 400, 808), last.clone()]),
            ("over the first", vec![first.clone(), piece(&other, 0, 800), last.clone()]),
            ("over the last", vec![last.clone(), piece(&other, 400, end), first.clone()]),
            ("the headers before", vec![piece(&other, 0, 24), first.clone(), middle.clone(), last.clone()]),
            ("inside, later", vec![first.clone(), last.clone(), piece(&other, 400, 808), middle.clone()]),
            ("teardrop", vec![piece(&whole, 0, 40), Piece { is_last: true, ..piece(&other, 24, 28) }]),
            ("beyond the longest packet", vec![first.clone(), middle.clone(), beyond]),
            (
                "an end that moves",
                vec![last.clone(), Piece { is_last: true, ..middle.clone() }, first.clone()],
            ),
        ] {
            bed.send(&pieces);
            assert_eq!(bed.heard(), [[0; 0]; 0], "{mode:?}: {what}");
            bed.is_well();
        }
        // What lies within a piece that is there already is a duplicate to the kernel, whatever it says.
        bed.send(&[first.clone(), piece(&other, 0, 24), middle.clone(), last.clone()]);
        assert_eq!(bed.heard(), [data(1, 1200)], "{mode:?}: over the headers");
        // A piece of nothing says nothing.
        bed.send(&[first, empty, middle, last]);
        let heard = bed.heard();
        assert!(heard.is_empty() || heard == [data(1, 1200)], "{mode:?}: zero length: {heard:?}");
        bed.is_well();
    }
}

/// RFC 1122 3.3.2: what is never completed takes bounded memory for a bounded time, and the sender is told.
#[test]
fn m12_what_is_never_completed_is_bounded_and_forgotten() {
    const LIMIT: u64 = 256 << 10;
    for mode in MODES {
        let bed = Bed::new(mode, &[]);
        let [a, b] = &bed.lab.nodes;
        sysctl(&a.netns, "net/ipv4/ipfrag_low_thresh", &(LIMIT / 2).to_string());
        sysctl(&a.netns, "net/ipv4/ipfrag_high_thresh", &LIMIT.to_string());
        sysctl(&a.netns, "net/ipv4/ipfrag_time", "2");
        let capture = Capture::start(&b.netns, "eth0").unwrap();
        let first = &cut(&bed.tunnel_payload(&data(1, 1200)), 1000)[..1];
        for _ in 0..2_000 {
            bed.send(first);
        }
        assert!((1..=2 * LIMIT).contains(&held(&a.netns)), "{mode:?}: {} bytes", held(&a.netns));
        // What is whole passes meanwhile.
        reaches(&b.pods[0].netns, a.pods[0].address, "whole packets");
        until("all is forgotten", || held(&a.netns) == 0);
        bed.is_well();
        let told: BTreeSet<(IpAddr, u8)> = packets(&capture.stop())
            .into_iter()
            .filter(|packet| packet.icmp() == Some(11))
            .map(|packet| (packet.source, packet.payload[1]))
            .collect();
        assert_eq!(told, BTreeSet::from([(a.address(), 1)]), "{mode:?}: reassembly time exceeded");
    }
}

/// Bytes that the reassembly of a namespace holds.
fn held(netns: &margay::sys::netns::Netns) -> u64 {
    let read = || std::fs::read_to_string("/proc/thread-self/net/sockstat").unwrap();
    let text = netns.run(read).unwrap();
    let line = text.lines().find(|line| line.starts_with("FRAG:")).unwrap();
    line.split_whitespace().last().unwrap().parse().unwrap()
}

/// Neither the tunnel's socket nor the underlay's packet socket has seen a piece.
#[test]
fn m10_margay_itself_sees_no_outer_fragment() {
    for mode in MODES {
        let mut bed = Bed::new(mode, &[]);
        (0..20).for_each(|_| bed.is_well());
        let daemon = bed.lab.nodes[0].daemon().unwrap();
        daemon.signal(Signal::SIGTERM).unwrap();
        until("its last words", || daemon.output().contains("frames in"));
        let said = daemon.output();
        let words = said.split_once("frames in").unwrap();
        let received: u64 = words.0.split_whitespace().last().unwrap().parse().unwrap();
        assert!(
            (20..60).contains(&received),
            "{mode:?}: a frame for each packet, not for each piece: {said}"
        );
        assert!(!words.1.contains("dropped"), "{mode:?}: {said}");
    }
}
