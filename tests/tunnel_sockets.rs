//! What the kernel's sockets keep from the engine, with packets that no kernel would send: V3 to V5, S7; and S9:
//! which of them are open at all.

mod lab;

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lab::start;
use margay::sys::filter::Filter;
use margay::sys::netlink::LinkChange;
use margay::sys::netns::Netns;
use margay::sys::socket::{self, ZeroChecksums};
use margay::testbed::{LabSpec, Mode};
use margay::wire::ip::Family;
use margay::wire::{Protocol, ipv6, udp};
use socket2::Socket;

const HERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const VXLAN: u16 = 4789;

/// In a namespace of its own with nothing but a loopback.
fn on_loopback(test: impl FnOnce() + Send) {
    let netns = Netns::create().expect("this test needs root, or a user namespace of its own");
    netns.netlink().unwrap().set_link("lo", &[LinkChange::Up]).unwrap();
    netns.run(test).unwrap();
}

fn sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn ip(protocol: u8, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x45, 0];
    bytes.extend((20 + payload.len() as u16).to_be_bytes());
    bytes.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
    bytes.extend([HERE.octets(), to.octets()].concat());
    let header = sum(&bytes);
    bytes[10..12].copy_from_slice(&header.to_be_bytes());
    [&bytes, payload].concat()
}

/// A datagram for VXLAN with these fields as they are.
fn datagram(to: Ipv4Addr, port: u16, len: u16, checksum: Option<u16>, data: &[u8]) -> Vec<u8> {
    let mut udp = [50_000, port, len, 0].map(u16::to_be_bytes).concat();
    udp.extend(data);
    let pseudo = [&HERE.octets()[..], &to.octets(), &[0, 17], &len.to_be_bytes()].concat();
    let end = usize::from(len).clamp(8, udp.len());
    let right = sum(&[&pseudo, &udp[..end]].concat());
    udp[6..8].copy_from_slice(&checksum.unwrap_or(right).to_be_bytes());
    ip(17, to, &udp)
}

fn send(packet: &[u8], to: impl Into<IpAddr>) {
    let to = to.into();
    let sender = socket::raw_sender(Family::of(to)).unwrap();
    sender.set_broadcast(true).unwrap();
    let sent = sender.send_to(packet, &SocketAddr::new(to, 0).into()).unwrap();
    assert_eq!(sent, packet.len());
}

fn vxlan(local: IpAddr) -> Socket {
    socket::vxlan_receiver(SocketAddr::new(local, VXLAN)).unwrap()
}

/// What a socket has: over a loopback it is there as soon as it was sent.
fn received(socket: &Socket) -> Option<Vec<u8>> {
    socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 2048];
    match (&mut &*socket).read(&mut buffer) {
        Ok(len) => Some(buffer[..len].to_vec()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("{error}"),
    }
}

/// RFC 768, RFC 1122 4.1.3, RFC 7348 5.
#[test]
fn v3_v4_v5_the_kernel_drops_datagrams_that_do_not_fit() {
    on_loopback(|| {
        let socket = vxlan(THERE.into());
        let data = [7; 30];
        let try_it = |port, len, checksum| {
            send(&datagram(THERE, port, len, checksum, &data), THERE);
            received(&socket)
        };
        assert_eq!(try_it(VXLAN, 38, None).as_deref(), Some(&data[..]), "a right checksum");
        assert_eq!(try_it(VXLAN, 38, Some(0)).as_deref(), Some(&data[..]), "none");
        assert_eq!(try_it(VXLAN, 38, Some(1)), None, "a wrong one");
        for port in [4788, 4790, 8472, 0, 50_000] {
            assert_eq!(try_it(port, 38, None), None, "port {port}");
        }
        for len in [0, 1, 7, 39, 1500, 65535] {
            assert_eq!(try_it(VXLAN, len, None), None, "length {len}");
            assert_eq!(try_it(VXLAN, len, Some(0)), None, "length {len} without checksum");
        }
        // What follows a datagram is no part of it (I10).
        assert_eq!(try_it(VXLAN, 28, None).as_deref(), Some(&data[..20]));
        assert_eq!(try_it(VXLAN, 8, None).as_deref(), Some(&[][..]));
        // And after all that, it still listens.
        assert!(try_it(VXLAN, 38, None).is_some());
    });
}

/// A datagram over IPv6, its checksum right unless it is given.
fn datagram_v6(port: u16, checksum: Option<u16>, data: &[u8]) -> Vec<u8> {
    let len = (8 + data.len()) as u16;
    let mut datagram = [50_000, port, len, 0].map(u16::to_be_bytes).concat();
    datagram.extend(data);
    udp::fill_checksum(&mut datagram, LOOPBACK_V6.into(), LOOPBACK_V6.into());
    if let Some(checksum) = checksum {
        udp::write_checksum(&mut datagram, checksum);
    }
    ip_v6(Protocol::UDP, &datagram)
}

const LOOPBACK_V6: Ipv6Addr = Ipv6Addr::LOCALHOST;

fn ip_v6(next_header: Protocol, payload: &[u8]) -> Vec<u8> {
    let header = ipv6::Header {
        traffic_class: 0,
        flow_label: 0,
        payload_len: payload.len() as u16,
        next_header,
        hop_limit: 64,
        src: LOOPBACK_V6,
        dst: LOOPBACK_V6,
    };
    let mut bytes = [0; ipv6::HEADER_LEN];
    header.write(&mut bytes);
    [&bytes, payload].concat()
}

/// RFC 8200 8.1, RFC 6935 5, RFC 6936 4 (1): no checksum is an exception that a port is told of.
#[test]
fn over_ipv6_the_kernel_drops_datagrams_without_checksum_unless_told() {
    on_loopback(|| {
        let socket = vxlan(LOOPBACK_V6.into());
        // A socket that goes from one daemon to another may be told anew.
        for told in [None, Some(ZeroChecksums::Accepted), Some(ZeroChecksums::Refused)] {
            told.into_iter().for_each(|told| socket::set_zero_checksums(&socket, told).unwrap());
            let data = [7; 30];
            let try_it = |port, checksum| {
                send(&datagram_v6(port, checksum, &data), LOOPBACK_V6);
                received(&socket)
            };
            assert_eq!(try_it(VXLAN, None).as_deref(), Some(&data[..]), "a right checksum");
            let without = (told == Some(ZeroChecksums::Accepted)).then_some(&data[..]);
            assert_eq!(try_it(VXLAN, Some(0)).as_deref(), without, "none");
            assert_eq!(try_it(VXLAN, Some(1)), None, "a wrong one");
            assert_eq!(try_it(4788, None), None, "another port");
        }
    });
}

/// The other family's datagrams come to a socket of that family, which may have the same port.
#[test]
fn a_socket_of_ipv6_takes_no_ipv4() {
    on_loopback(|| {
        let v6 = vxlan(Ipv6Addr::UNSPECIFIED.into());
        let v4 = vxlan(Ipv4Addr::UNSPECIFIED.into());
        send(&datagram(THERE, VXLAN, 38, None, &[7; 30]), THERE);
        assert!(received(&v6).is_none() && received(&v4).is_some());
        send(&datagram_v6(VXLAN, None, &[7; 30]), LOOPBACK_V6);
        assert!(received(&v6).is_some() && received(&v4).is_none());
    });
}

/// RFC 1122 3.2.1.3: the tunnels' sockets are those of one address.
#[test]
fn s7_other_destinations_do_not_reach_the_sockets() {
    on_loopback(|| {
        let receiver = vxlan(THERE.into());
        let ipip = socket::ipip_receiver(IpAddr::V4(THERE), &Filter::share_of_ipip(0, 1)).unwrap();
        // Who listens to every address sees that the others came.
        let any = socket::ipip_receiver(Ipv4Addr::UNSPECIFIED.into(), &Filter::share_of_ipip(0, 1)).unwrap();
        let inner = ip(17, THERE, &[0; 8]);
        let broadcast = Ipv4Addr::new(127, 255, 255, 255);
        for (to, arrives) in [(THERE, true), (broadcast, false), (HERE, false)] {
            send(&datagram(to, VXLAN, 38, None, &[7; 30]), to);
            assert_eq!(received(&receiver).is_some(), arrives, "VXLAN to {to}");
            send(&ip(4, to, &inner), to);
            assert_eq!(received(&ipip).is_some(), arrives, "IPIP to {to}");
            assert!(received(&any).is_some(), "IPIP to {to} is sent");
        }
    });
}

/// The tunnel sockets of a node in this mode: of protocol 4, and of the VXLAN port.
fn open_sockets(mode: Mode) -> (usize, usize) {
    let lab = start(LabSpec::new(mode), &["--workers", "1"]);
    let lines = |file: &str, field: usize, local: &str| {
        let path = format!("/proc/thread-self/net/{file}");
        let text = lab.nodes[0].netns.run(|| fs::read_to_string(&path)).unwrap().unwrap();
        let is_it =
            |line: &&str| line.split_whitespace().nth(field).is_some_and(|word| word.ends_with(local));
        text.lines().skip(1).filter(is_it).count()
    };
    // The kernel writes a raw socket's protocol, and a UDP socket's port, in hexadecimal behind the address.
    (lines("raw", 1, ":0004"), lines("udp", 1, ":12B5"))
}

#[test]
fn s9_an_encapsulation_that_no_pool_has_has_no_socket() {
    assert_eq!(open_sockets(Mode::Ipip), (1, 0));
    assert_eq!(open_sockets(Mode::Vxlan), (0, 1));
    assert_eq!(open_sockets(Mode::None), (0, 0));
}
