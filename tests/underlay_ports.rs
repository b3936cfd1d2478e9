//! The underlay's ports, over either version of IP: packets without encapsulation by the raw socket and by the link
//! layer, to who takes what is for its own blocks, and the errors that come back.

#[path = "segmentation/streams.rs"]
mod streams;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::unbounded;
use ipnet::IpNet;
use margay::buf::{Frame, Offload, Pool, SlotSize};
use margay::fib::Publication;
use margay::io::link::{Link, NextHop, NextHops, Super, Usage};
use margay::io::packet::PacketPort;
use margay::io::raw::{Exit, RawPort};
use margay::io::{Port, Rx};
use margay::lpm::Prefix;
use margay::sys::filter::Filter;
use margay::sys::netlink::{LinkChange, LinkIndex, VethEnd};
use margay::sys::netns::Netns;
use margay::sys::socket::{self, Seen};
use margay::wire::ethernet::{self, EtherType};
use margay::wire::ip::Family;
use margay::wire::{Ipv6, MacAddr, Protocol, checksum, ipv6};
use streams::{Choices, Ip, Loose, Stream, noise};

const HERE_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const THERE_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

fn node(family: Family, last: u8) -> IpAddr {
    match family {
        Family::V4 => [192, 0, 2, last].into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()).into(),
    }
}

/// This node and another, and the cable between them.
struct Cable {
    here: Netns,
    dev: LinkIndex,
    there: Netns,
    there_dev: LinkIndex,
}

fn cable() -> Cable {
    let netns = || Netns::create().expect("this test needs root, or a user namespace of its own");
    let (here, there) = (netns(), netns());
    let end = |mac, netns| VethEnd { name: "eth0", mac: Some(mac), mtu: Some(9000), netns };
    let mut netlink = here.netlink().unwrap();
    netlink.add_veth(&end(HERE_MAC, None), &end(THERE_MAC, Some(there.as_fd()))).unwrap();
    let dev = up(&here, 1, (2, THERE_MAC));
    let there_dev = up(&there, 2, (1, HERE_MAC));
    // What is sent before the kernel has seen the carrier is lost.
    let deadline = Instant::now() + Duration::from_secs(5);
    let runs = |netns: &Netns| netns.netlink().unwrap().link("eth0").unwrap().running;
    while !(runs(&here) && runs(&there)) {
        assert!(Instant::now() < deadline, "the cable has a carrier within five seconds");
    }
    Cable { here, dev, there, there_dev }
}

fn up(netns: &Netns, last: u8, (other, mac): (u8, MacAddr)) -> LinkIndex {
    let mut netlink = netns.netlink().unwrap();
    netlink.set_link("eth0", &[LinkChange::NoLinkLocal, LinkChange::Up]).unwrap();
    let dev = netlink.link("eth0").unwrap().index;
    for (family, len) in [(Family::V4, 24), (Family::V6, 64)] {
        netlink.add_address(dev, Prefix::new(node(family, last), len).unwrap()).unwrap();
        netlink.set_neighbour(dev, node(family, other), mac).unwrap();
    }
    dev
}

/// A super-frame's worth of a flow to a pod of the other node; addresses of `Stream::any`, whose destinations these
/// blocks hold.
fn stream(family: Family, round: u32) -> Stream {
    let chance = noise(round, 120);
    let mut stream = Stream::any_of(family, &mut Choices(&chance));
    // The kernel would give an IPv4 packet an id that has none.
    if let Ip::V4 { id, .. } = &mut stream.ip {
        *id |= 1;
    }
    Stream { has_ethernet: false, ..stream }
}

fn blocks(family: Family) -> [IpNet; 2] {
    match family {
        Family::V4 => ["10.99.0.0/26", "10.65.1.0/24"].map(|block| block.parse().unwrap()),
        Family::V6 => ["fd65:9::/122", "fd65:1::/106"].map(|block| block.parse().unwrap()),
    }
}

/// The other node's packet socket, that takes what is for `blocks`.
fn receiver(cable: &Cable, family: Family, blocks: &[IpNet]) -> PacketPort {
    let seen = match family {
        Family::V4 => Seen::Ipv4,
        Family::V6 => Seen::Ipv6,
    };
    let filter = Filter::destined_to(blocks);
    let socket = cable.there.run(|| socket::packet(cable.there_dev.0, seen, &filter));
    PacketPort::new(Arc::new(socket.unwrap().unwrap()))
}

/// A port to both families' peers; by the link layer to those of `hops`.
fn direct(cable: &Cable, hops: Vec<NextHop>) -> RawPort {
    let publication = Publication::new(NextHops::new(hops));
    let exit = |family| {
        let sender = socket::raw_sender(family).unwrap();
        let link = Link::new(socket::link_sender(cable.dev.0).unwrap(), publication.reader(), Super::Whole);
        Some(Exit::new(Arc::new(sender), Some(link)))
    };
    cable.here.run(|| RawPort::direct(exit(Family::V4), exit(Family::V6))).unwrap()
}

fn hop(family: Family) -> NextHop {
    let mut header = [0; ethernet::HEADER_LEN];
    let ethertype = match family {
        Family::V4 => EtherType::IPV4,
        Family::V6 => EtherType::IPV6,
    };
    ethernet::write(&mut header, THERE_MAC, HERE_MAC, ethertype);
    let peer = node(family, 2);
    NextHop { peer, header, usage: Usage::new(peer, unbounded().0) }
}

/// Sends to the other node, all of which is taken; what its port receives of that, which is to be so many frames,
/// without Ethernet headers.
fn carry(
    sender: &mut RawPort,
    (receiver, count): (&mut PacketPort, usize),
    family: Family,
    sent: &[Loose],
) -> Vec<Loose> {
    let mut pool = Pool::new(256, SlotSize::SuperFrame);
    let mut batch = Vec::new();
    for loose in sent {
        let mut frame = pool.take().unwrap();
        pool.room(&frame)[..loose.bytes.len()].copy_from_slice(&loose.bytes);
        pool.filled(&mut frame, loose.bytes.len());
        (frame.peer, frame.offload) = (node(family, 2), loose.offload);
        batch.push(frame);
    }
    let report = sender.tx(&mut pool, &mut batch);
    assert_eq!((report.sent, report.failed), (sent.len() as u64, 0), "{:?}", report.error);
    receive(receiver, count, &mut pool)
        .into_iter()
        .map(|loose| Loose { bytes: loose.bytes[14..].to_vec(), ..loose })
        .collect()
}

/// What a port receives: `count` frames, which may be on their way still, and what more there is then.
fn receive(port: &mut impl Port, count: usize, pool: &mut Pool) -> Vec<Loose> {
    let (mut found, mut batch): (_, Vec<Frame>) = (Vec::new(), Vec::new());
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let more = port.rx(pool, &mut batch).unwrap();
        for frame in batch.drain(..) {
            found.push(Loose { bytes: pool.bytes(&frame).to_vec(), offload: frame.offload });
            pool.put(frame);
        }
        if more == Rx::Drained && (found.len() >= count || Instant::now() > deadline) {
            return found;
        }
    }
}

/// The kernel is told the next hop with the packet, which names somebody behind it.
#[test]
fn packets_leave_by_the_raw_socket_to_the_peer_that_they_name() {
    let cable = cable();
    let mut sender = direct(&cable, Vec::new());
    for family in Family::ALL {
        let mut receiver = receiver(&cable, family, &blocks(family));
        for round in 0..20 {
            let stream = stream(family, round);
            let whole = Loose { bytes: stream.whole(), offload: stream.offload() };
            let pieces: Vec<Loose> = stream.pieces().into_iter().map(Loose::plain).collect();
            let arrived = carry(&mut sender, (&mut receiver, pieces.len()), family, &[whole]);
            assert_eq!(arrived, pieces, "{stream:?}");
            let unfinished = Offload { segments: None, ..stream.offload() };
            let mut short = Stream { payload: vec![7; 100], ..stream };
            short.size = 100;
            let sent = Loose { bytes: short.whole(), offload: unfinished };
            let arrived = carry(&mut sender, (&mut receiver, 1), family, &[sent]);
            assert_eq!(arrived, [Loose::plain(short.pieces().swap_remove(0))]);
        }
    }
}

#[test]
fn packets_leave_by_the_link_layer_whole() {
    let cable = cable();
    let mut sender = direct(&cable, Family::ALL.map(hop).to_vec());
    for family in Family::ALL {
        let mut receiver = receiver(&cable, family, &blocks(family));
        for round in 0..20 {
            let stream = stream(family, round);
            let whole = Loose { bytes: stream.whole(), offload: stream.offload() };
            let arrived = carry(&mut sender, (&mut receiver, 1), family, std::slice::from_ref(&whole));
            assert_eq!(arrived, [whole], "{stream:?}");
        }
    }
}

/// Prefixes that end anywhere in the address, and more than a program can hold.
#[test]
fn the_underlay_port_takes_what_is_for_this_nodes_blocks_alone() {
    let cable = cable();
    let mut sender = direct(&cable, Vec::new());
    let count = |sender: &mut RawPort, family, blocks: &[IpNet], destinations: &[IpAddr], expected| {
        let mut receiver = receiver(&cable, family, blocks);
        let to = |dst: &IpAddr| {
            let mut stream = stream(family, 1);
            stream.payload.truncate(100);
            match (&mut stream.ip, dst) {
                (Ip::V4 { addresses, .. }, IpAddr::V4(dst)) => addresses[1] = *dst,
                (Ip::V6 { addresses, .. }, IpAddr::V6(dst)) => addresses[1] = *dst,
                _ => unreachable!("a destination of the other family"),
            }
            Loose::plain(stream.pieces().swap_remove(0))
        };
        let sent: Vec<Loose> = destinations.iter().map(to).collect();
        carry(sender, (&mut receiver, expected), family, &sent).len()
    };
    for len in [1, 8, 31, 32, 33, 64, 96, 97, 106, 122, 127, 128] {
        let inside: Ipv6Addr = "fd65:abcd:1234:5678:9abc:def0:1234:5678".parse().unwrap();
        let outside = Ipv6Addr::from_bits(inside.to_bits() ^ 1 << (128 - len));
        let block = IpNet::new(inside.into(), len).unwrap().trunc();
        let none: IpNet = "fd99::/64".parse().unwrap();
        let destinations = [outside.into(), inside.into()];
        assert_eq!(count(&mut sender, Family::V6, &[none, block], &destinations, 1), 1, "/{len}");
    }
    for len in [1, 8, 24, 26, 31, 32] {
        let inside = Ipv4Addr::new(10, 65, 171, 205);
        let outside = Ipv4Addr::from_bits(inside.to_bits() ^ 1 << (32 - len));
        let block = IpNet::new(inside.into(), len).unwrap().trunc();
        let destinations = [outside.into(), inside.into()];
        assert_eq!(count(&mut sender, Family::V4, &[block], &destinations, 1), 1, "/{len}");
    }
    let many: Vec<IpNet> = (0..2000_u128)
        .map(|index| IpNet::new(Ipv6Addr::from_bits(0xfd << 120 | index << 64).into(), 64).unwrap())
        .collect();
    let somewhere = [node(Family::V6, 9)];
    assert_eq!(count(&mut sender, Family::V6, &many[..300], &somewhere, 0), 0);
    assert_eq!(count(&mut sender, Family::V6, &many, &somewhere, 1), 1, "the engine looks itself");
}

/// A frame for a family that has no way out fails, and is counted.
#[test]
fn a_family_without_a_socket_is_refused() {
    let cable = cable();
    let sender = cable.here.run(|| socket::raw_sender(Family::V4)).unwrap().unwrap();
    let mut port = RawPort::direct(Some(Exit::new(Arc::new(sender), None)), None);
    let mut pool = Pool::new(2, SlotSize::SuperFrame);
    let mut frame = pool.take().unwrap();
    frame.peer = node(Family::V6, 2);
    let report = port.tx(&mut pool, &mut vec![frame]);
    assert_eq!((report.sent, report.failed, pool.available()), (0, 1, 2));
}

/// An ICMPv6 message of loopback, its checksum right.
fn control(kind: u8, body: &[u8]) -> Vec<u8> {
    let local = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let mut message = vec![kind, 0, 0, 0, 0, 0, 5, 0];
    message.extend(body);
    let sum = checksum::transport_checksum(local, local, Protocol::ICMPV6, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    packet(Ipv6Addr::LOCALHOST, Protocol::ICMPV6, &message)
}

fn packet(src: Ipv6Addr, next_header: Protocol, payload: &[u8]) -> Vec<u8> {
    let header = ipv6::Header {
        traffic_class: 0,
        flow_label: 0,
        payload_len: payload.len() as u16,
        next_header,
        hop_limit: 64,
        src,
        dst: Ipv6Addr::LOCALHOST,
    };
    let mut bytes = [0; ipv6::HEADER_LEN];
    header.write(&mut bytes);
    [&bytes, payload].concat()
}

/// RFC 4443 2.1: errors have types under 128; those about tunnels quote UDP of this node, or a fragment of it.
#[test]
fn icmpv6_errors_about_tunnels_come_with_a_header() {
    let netns = Netns::create().expect("this test needs root, or a user namespace of its own");
    netns.netlink().unwrap().set_link("lo", &[LinkChange::Up]).unwrap();
    let test = || {
        let local = Ipv6Addr::LOCALHOST;
        let mut port = RawPort::errors(socket::tunnel_errors(local).unwrap(), local.into());
        let sender = socket::raw_sender(Family::V6).unwrap();
        let mut pool = Pool::new(64, SlotSize::SuperFrame);
        let mut receives = |sent: &[&[u8]], count| {
            for bytes in sent {
                let to = SocketAddr::new(local.into(), 0);
                sender.send_to(bytes, &to.into()).unwrap();
            }
            receive(&mut port, count, &mut pool)
        };
        let ours = packet(local, Protocol::UDP, &[0xc0, 1, 0x12, 0xb5, 0, 8, 0, 0]);
        for kind in [1, 2, 3, 4] {
            let sent = control(kind, &ours);
            let [error] = &receives(&[&sent], 1)[..] else { panic!("type {kind} arrives") };
            let (got, want) = (Ipv6::parse(&error.bytes).unwrap(), Ipv6::parse(&sent).unwrap());
            assert_eq!((got.src(), got.dst(), got.protocol()), (want.src(), want.dst(), want.protocol()));
            assert_eq!(got.payload(), want.payload());
        }
        let fragment = packet(local, Protocol::FRAGMENT, &[17, 0, 0, 1, 0, 0, 0, 1]);
        // Other messages, quotes of others and of other protocols, and what is damaged: before one that comes.
        let others = packet(Ipv6Addr::from_bits(2), Protocol::UDP, &[0; 8]);
        let mut damaged = control(1, &ours);
        damaged[41] ^= 1;
        let kept_away = [
            control(128, &ours),
            control(5, &ours),
            control(1, &others),
            control(1, &packet(local, Protocol::TCP, &[0; 20])),
            control(1, &ours[..20]),
            damaged,
        ];
        for sent in kept_away {
            let arrived = receives(&[&sent, &control(2, &fragment)], 1);
            assert_eq!(arrived.len(), 1);
            assert_eq!(Ipv6::parse(&arrived[0].bytes).unwrap().payload()[0], 2);
        }
    };
    netns.run(test).unwrap();
}
