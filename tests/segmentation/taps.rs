//! Through real TAPs and veth pairs: what is written as one arrives as the bytes that it was made of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use margay::buf::{Frame, Pool, SlotSize};
use margay::io::packet::PacketPort;
use margay::io::tap::TapPort;
use margay::io::{Port, TxReport};
use margay::lpm::Prefix;
use margay::sys::filter::Filter;
use margay::sys::netlink::{LinkChange, LinkIndex, VethEnd};
use margay::sys::netns::Netns;
use margay::sys::socket::{self, Seen};
use margay::sys::tun::{self, Layer, Offloads};
use margay::wire::MacAddr;
use margay::wire::ip::Family;
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};

use crate::streams::*;

/// A TAP in a namespace of its own.
pub(crate) struct Tap {
    pub(crate) netns: Netns,
    pub(crate) dev: LinkIndex,
    pub(crate) mac: MacAddr,
    pub(crate) port: TapPort,
}

const HERE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const HERE_V6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1);
const THERE_V6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2);
const THERE_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const POD_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

fn here(family: Family) -> IpAddr {
    match family {
        Family::V4 => HERE.into(),
        Family::V6 => HERE_V6.into(),
    }
}

fn there(family: Family) -> IpAddr {
    match family {
        Family::V4 => THERE.into(),
        Family::V6 => THERE_V6.into(),
    }
}

impl Tap {
    /// With the addresses 10.9.0.1 and fd09::1; 10.9.0.2 and fd09::2 are neighbours. Its port believes in `offloads`, or in what it has.
    pub(crate) fn new(offloads: Option<Offloads>) -> Tap {
        let netns = Netns::create().expect("this test needs root, or a user namespace of its own");
        let mut interface = netns.run(|| tun::open("tap0", Layer::Tap, 1)).unwrap().unwrap();
        assert_eq!(interface.offloads, Offloads::Uso, "this test needs Linux 6.2");
        let mut netlink = netns.netlink().unwrap();
        netlink.set_link("tap0", &[LinkChange::NoLinkLocal, LinkChange::Mtu(9000)]).unwrap();
        netlink.set_link("tap0", &[LinkChange::Up]).unwrap();
        let link = netlink.link("tap0").unwrap();
        for (family, len) in [(Family::V4, 24), (Family::V6, 64)] {
            netlink.add_address(link.index, Prefix::new(here(family), len).unwrap()).unwrap();
            netlink.set_neighbour(link.index, there(family), THERE_MAC).unwrap();
        }
        let queue = Arc::new(interface.queues.remove(0));
        let port = TapPort::new(queue, Layer::Tap, offloads.unwrap_or(interface.offloads));
        Tap { netns, dev: link.index, mac: link.mac.unwrap(), port }
    }

    /// Sends frames into the namespace, all of which are taken.
    pub(crate) fn send(&mut self, frames: &[Loose]) {
        let TxReport { sent, full, failed, error } = in_pool(frames, |pool, batch| self.port.tx(pool, batch));
        assert_eq!((sent, full, failed), (frames.len() as u64, 0, 0), "{error:?}");
    }

    fn socket(&self, family: Family) -> UdpSocket {
        bound(&self.netns, family)
    }
}

/// A UDP socket at port 5000 of 10.9.0.1 or fd09::1, that can be reached: the kernel takes an address of IPv6 in
/// before it knows the route to it.
fn bound(netns: &Netns, family: Family) -> UdpSocket {
    let socket = netns.run(|| UdpSocket::bind((here(family), 5000))).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let reaches_itself =
        || socket.send_to(b"?", (here(family), 5000)).is_ok() && socket.recv(&mut [0; 1]).is_ok();
    assert!((0..50).any(|_| reaches_itself()), "{} within five seconds", here(family));
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

/// What a port receives until `count` frames that are `wanted` have come.
pub(crate) fn receive(port: &mut impl Port, count: usize, wanted: impl Fn(&Loose) -> bool) -> Vec<Loose> {
    let mut pool = Pool::new(128, SlotSize::SuperFrame);
    let mut batch: Vec<Frame> = Vec::new();
    let mut found = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(5);
    while found.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} frames came within five seconds", found.len());
        port.rx(&mut pool, &mut batch).unwrap();
        for frame in batch.drain(..) {
            let loose = Loose { bytes: pool.bytes(&frame).to_vec(), offload: frame.offload };
            if wanted(&loose) {
                found.push(loose);
            }
            pool.put(frame);
        }
    }
    found
}

/// Towards port 5000 of 10.9.0.1 or fd09::1, behind an Ethernet header for its interface.
fn towards(mac: MacAddr, stream: Stream) -> (Stream, Vec<Loose>) {
    let mut stream = Stream { has_ethernet: true, ports: [6000, 5000], ttl: 64, tos: 0, ..stream };
    match &mut stream.ip {
        Ip::V4 { addresses, .. } => *addresses = [THERE, HERE],
        Ip::V6 { addresses, .. } => *addresses = [THERE_V6, HERE_V6],
    }
    let mut pieces = stream.pieces();
    for piece in &mut pieces {
        piece[..6].copy_from_slice(&mac.0);
        piece[6..12].copy_from_slice(&THERE_MAC.0);
    }
    (stream, pieces.into_iter().map(Loose::plain).collect())
}

fn stream(family: Family, is_tcp: bool, size: u16, len: usize) -> Stream {
    let chance = [u8::from(is_tcp)];
    Stream { size, payload: noise(7, len), ..Stream::any_of(family, &mut Choices(&chance)) }
}

/// A packet socket at the inside of an interface, that sees one version of IP.
fn watcher(netns: &Netns, dev: LinkIndex, family: Family) -> PacketPort {
    let seen = match family {
        Family::V4 => Seen::Ipv4,
        Family::V6 => Seen::Ipv6,
    };
    let socket = netns.run(|| socket::packet(dev.0, seen, &Filter::everything()));
    PacketPort::new(Arc::new(socket.unwrap().unwrap()))
}

/// TCP or UDP, not the messages of neighbour discovery.
fn is_stream(frame: &Loose) -> bool {
    let at = if frame.bytes[12..14] == [8, 0] { 23 } else { 20 };
    [6, 17].contains(&frame.bytes[at])
}

#[test]
fn a_run_of_segments_arrives_as_one_super_frame() {
    let mut tap = Tap::new(None);
    for family in Family::ALL {
        let mut inside = watcher(&tap.netns, tap.dev, family);
        for (is_tcp, size, len) in [(true, 1398, 44 * 1398 - 5), (true, 10, 128 * 10), (false, 1000, 60_000)]
        {
            let (stream, pieces) = towards(tap.mac, stream(family, is_tcp, size, len));
            tap.send(&pieces);
            let [super_frame] = &receive(&mut inside, 1, is_stream)[..] else { unreachable!() };
            assert_eq!(super_frame.bytes[14..], stream.whole()[14..]);
            assert_eq!(super_frame.offload, stream.offload());
        }
    }
}

#[test]
fn joined_datagrams_reach_a_socket_one_by_one() {
    for offloads in [None, Some(Offloads::Tso)] {
        let mut tap = Tap::new(offloads);
        for family in Family::ALL {
            let socket = tap.socket(family);
            for (size, len) in [(1000, 60_000), (64, 64 * 64), (1, 64), (1472, 2000)] {
                let (stream, pieces) = towards(tap.mac, stream(family, false, size, len));
                tap.send(&pieces);
                for chunk in stream.payload.chunks(size.into()) {
                    let mut buffer = [0; 2000];
                    let len = socket.recv(&mut buffer).unwrap();
                    assert!(&buffer[..len] == chunk, "{size}: {len} bytes");
                }
            }
        }
    }
}

/// What a socket sends with UDP_SEGMENT leaves its TAP whole, and goes whole into another, or cut into one whose
/// kernel knows nothing of it.
#[test]
fn a_udp_super_frame_goes_from_tap_to_tap() {
    let mut from = Tap::new(None);
    for family in Family::ALL {
        let sender = from.socket(family);
        setsockopt(&sender, UdpGsoSegment, &1000).unwrap();
        for offloads in [None, Some(Offloads::Tso)] {
            let mut to = Tap::new(offloads);
            let receiver = to.socket(family);
            let payload = noise(5, 40_500);
            sender.send_to(&payload, (there(family), 5000)).unwrap();
            let [mut frame] = <[Loose; 1]>::try_from(receive(&mut from.port, 1, is_stream)).unwrap();
            assert_eq!(frame.offload.segments.map(|segments| segments.size), Some(1000));
            // Its way back: the addresses change places, which no checksum sees.
            frame.bytes[..6].copy_from_slice(&to.mac.0);
            match family {
                Family::V4 => frame.bytes[26..34].rotate_left(4),
                Family::V6 => frame.bytes[22..54].rotate_left(16),
            }
            to.send(&[frame]);
            for chunk in payload.chunks(1000) {
                let mut buffer = [0; 2000];
                let len = receiver.recv(&mut buffer).unwrap();
                assert!(&buffer[..len] == chunk, "{len} bytes");
            }
        }
    }
}

/// A TAP that takes TCP super-frames alone gets runs of TCP, and each datagram for itself.
#[test]
fn datagrams_are_not_joined_for_a_tap_without_uso() {
    let mut tap = Tap::new(Some(Offloads::Tso));
    for family in Family::ALL {
        let mut inside = watcher(&tap.netns, tap.dev, family);
        let (_, datagrams) = towards(tap.mac, stream(family, false, 1000, 5000));
        let (segments, pieces) = towards(tap.mac, stream(family, true, 1000, 5000));
        tap.send(&[datagrams.clone(), pieces].concat());
        let arrived = receive(&mut inside, 6, is_stream);
        for datagram in datagrams {
            assert!(arrived.contains(&datagram));
        }
        assert!(arrived.iter().any(|frame| frame.offload == segments.offload()));
    }
}

/// The host end of a pod's veth: the packet socket writes what the TAP would have got.
#[test]
fn runs_reach_a_veth_as_super_frames() {
    let netns = || Netns::create().expect("this test needs root, or a user namespace of its own");
    let (host, pod) = (netns(), netns());
    let mut netlink = host.netlink().unwrap();
    let end = |name, mac| VethEnd { name, mac: Some(mac), mtu: Some(1500), netns: None };
    let outside = end("veth0", THERE_MAC);
    netlink.add_veth(&outside, &VethEnd { netns: Some(pod.as_fd()), ..end("eth0", POD_MAC) }).unwrap();
    netlink.set_link("veth0", &[LinkChange::Up]).unwrap();
    let mut inside = pod.netlink().unwrap();
    inside.set_link("eth0", &[LinkChange::Up]).unwrap();
    let dev = inside.link("eth0").unwrap().index;
    inside.add_address(dev, Prefix::new(HERE.into(), 24).unwrap()).unwrap();
    inside.add_address(dev, Prefix::new(HERE_V6.into(), 64).unwrap()).unwrap();

    let deadline = Instant::now() + Duration::from_secs(5);
    while !netlink.link("veth0").unwrap().running {
        assert!(Instant::now() < deadline, "the veth has a carrier within five seconds");
    }
    let dev_of_host = netlink.link("veth0").unwrap().index.0;
    let socket = host.run(|| socket::packet(dev_of_host, Seen::All, &Filter::nothing()));
    let mut sender = PacketPort::new(Arc::new(socket.unwrap().unwrap()));
    for family in Family::ALL {
        let mut inside = watcher(&pod, dev, family);
        let receiver = bound(&pod, family);
        for (is_tcp, size, len) in [(true, 1398, 44 * 1398 - 5), (false, 1000, 60_000), (false, 64, 64 * 64)]
        {
            let (stream, pieces) = towards(POD_MAC, stream(family, is_tcp, size, len));
            let report = in_pool(&pieces, |pool, batch| sender.tx(pool, batch));
            assert_eq!((report.sent, report.failed), (pieces.len() as u64, 0), "{:?}", report.error);
            let [super_frame] = &receive(&mut inside, 1, is_stream)[..] else { unreachable!() };
            assert_eq!(super_frame.bytes[14..], stream.whole()[14..]);
            assert_eq!(super_frame.offload, stream.offload());
            for chunk in stream.payload.chunks(size.into()).filter(|_| !is_tcp) {
                let mut buffer = [0; 2000];
                let len = receiver.recv(&mut buffer).unwrap();
                assert!(&buffer[..len] == chunk, "{size}: {len} bytes");
            }
        }
    }
}
