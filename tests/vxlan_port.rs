//! The VXLAN port on real sockets: what leaves in messages that the kernel cuts arrives as the frames that it was,
//! each flow in order, and where the kernel will not cut, datagram by datagram.

#![allow(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use margay::buf::{Frame, Offload, Pool, Segmentation, Segments, SlotSize};
use margay::io::offload::{MAX_HEAD, Outer, SuperFrame};
use margay::io::udp::UdpPort;
use margay::io::{Port, Rx, TxReport};
use margay::lpm::Prefix;
use margay::sys::filter::Filter;
use margay::sys::netlink::LinkChange;
use margay::sys::netns::Netns;
use margay::sys::socket::{self, Seen, ZeroChecksums};
use margay::wire::ip::Family;
use margay::wire::ipv4::{self, Ipv4};
use margay::wire::{Ecn, Ipv6, Protocol};
use socket2::Socket;

const PORT: u16 = 4789;
const SENDERS: usize = 4;

const fn here(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)),
    }
}

const fn there(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)),
    }
}

/// A namespace of its own, whose loopback has this MTU and both addresses of each family.
fn loopback(mtu: u32) -> Netns {
    let netns = Netns::create().expect("this test needs root, or a user namespace of its own");
    let mut netlink = netns.netlink().unwrap();
    netlink.set_link("lo", &[LinkChange::Up, LinkChange::Mtu(mtu)]).unwrap();
    let lo = netlink.link("lo").unwrap().index;
    for address in [here(Family::V6), there(Family::V6)] {
        netlink.add_address(lo, Prefix::new(address, 128).unwrap()).unwrap();
    }
    netns
}

fn port_at(address: IpAddr, prepare: impl Fn(&Socket)) -> UdpPort {
    let receiver = socket::vxlan_receiver(SocketAddr::new(address, PORT)).unwrap();
    let senders = (0..SENDERS).map(|_| socket::vxlan_sender((address, 0).into()).unwrap());
    UdpPort::new(receiver, senders.inspect(prepare).collect(), PORT)
}

/// Runs with a port at each of two addresses, for each family.
fn with_ports(
    mtu: u32,
    prepare: impl Fn(&Socket, Family) + Sync,
    test: impl Fn(UdpPort, UdpPort, Family) + Sync,
) {
    let netns = loopback(mtu);
    for family in Family::ALL {
        let port = |address| port_at(address, |socket| prepare(socket, family));
        netns.run(|| test(port(here(family)), port(there(family)), family)).unwrap();
    }
}

fn filled(pool: &mut Pool, bytes: &[u8], to: IpAddr, flow: u32) -> Frame {
    let mut frame = pool.take().expect("the pool has enough slots");
    pool.room(&frame)[..bytes.len()].copy_from_slice(bytes);
    pool.filled(&mut frame, bytes.len());
    (frame.peer, frame.ecn, frame.flow) = (to, Ecn::Ect0, flow);
    frame
}

/// A frame that tells its flow and its place in it.
fn numbered(flow: u32, number: u32, len: usize) -> Vec<u8> {
    let mut bytes = [flow.to_be_bytes(), number.to_be_bytes()].concat();
    bytes.resize(len, number as u8);
    bytes
}

/// A TCP super-frame behind VXLAN headers.
fn tcp_super(payload: usize, size: u16) -> (Vec<u8>, Segments) {
    let mut bytes = vec![0x11; 22 + 20];
    let header = ipv4::Header {
        tos: 0,
        total_len: (40 + payload) as u16,
        id: 1,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol: Protocol::TCP,
        src: Ipv4Addr::new(10, 65, 0, 2),
        dst: Ipv4Addr::new(10, 65, 1, 2),
    };
    header.write((&mut bytes[22..42]).try_into().unwrap());
    bytes.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
    bytes.extend((0..payload).map(|n| n as u8));
    (bytes, Segments { kind: Segmentation::Tcp, size })
}

fn cut(bytes: &[u8], segments: Segments) -> Vec<Vec<u8>> {
    let super_frame = SuperFrame::parse(bytes, Outer::Vxlan, segments).unwrap();
    let segment = |index| {
        let mut head = [0; MAX_HEAD];
        let head = &mut head[..super_frame.head_len()];
        super_frame.write_head(index, head);
        [head, super_frame.payload(index)].concat()
    };
    (0..super_frame.count()).map(segment).collect()
}

/// All that a port has, with every slot given back.
fn drain(port: &mut UdpPort, pool: &mut Pool, from: IpAddr) -> Vec<Vec<u8>> {
    let (mut all, mut batch) = (Vec::new(), Vec::new());
    loop {
        let more = port.rx(pool, &mut batch).unwrap();
        for frame in batch.drain(..) {
            assert_eq!((frame.peer, frame.ecn), (from, Ecn::Ect0));
            all.push(pool.bytes(&frame).to_vec());
            pool.put(frame);
        }
        if more == Rx::Drained {
            assert_eq!(pool.available(), pool.slots(), "every slot came back");
            return all;
        }
    }
}

/// Sends frames of several flows and sizes and two super-frames, and checks what arrives.
fn exchange(mut sender: UdpPort, mut receiver: UdpPort, family: Family) {
    let mut pool = Pool::new(256, SlotSize::SuperFrame);
    for round in 0..3 {
        let (mut batch, mut expected) = (Vec::new(), HashMap::<u32, Vec<Vec<u8>>>::new());
        for number in 0..150_u32 {
            let flow = number * 7 % 11;
            let len = [64, 1450, 64, 200][(number as usize + round) % 4];
            let bytes = numbered(flow, number, len);
            batch.push(filled(&mut pool, &bytes, there(family), flow));
            expected.entry(flow).or_default().push(bytes);
            if number == 40 || number == 90 {
                let (bytes, segments) = tcp_super(61_000, 1398);
                let mut frame = filled(&mut pool, &bytes, there(family), u32::from_be_bytes([0x11; 4]));
                frame.offload = Offload { checksum: None, segments: Some(segments) };
                batch.push(frame);
                expected.entry(0x1111_1111).or_default().extend(cut(&bytes, segments));
            }
        }
        let frames = batch.len() as u64;
        let TxReport { sent, full, failed, error } = sender.tx(&mut pool, &mut batch);
        assert_eq!((sent, full, failed), (frames, 0, 0), "{error:?}");
        assert_eq!(pool.available(), pool.slots(), "every slot came back");

        let mut received = HashMap::<u32, Vec<Vec<u8>>>::new();
        for bytes in drain(&mut receiver, &mut pool, here(family)) {
            let flow = u32::from_be_bytes(bytes[..4].try_into().unwrap());
            received.entry(flow).or_default().push(bytes);
        }
        for (flow, frames) in expected {
            let got = received.remove(&flow).unwrap_or_default();
            assert_eq!(got.len(), frames.len(), "flow {flow}");
            assert!(got == frames, "flow {flow} arrives as it was sent, in order");
        }
        assert!(received.is_empty());
    }
}

#[test]
fn what_the_kernel_cuts_arrives_as_it_was() {
    let (bytes, segments) = tcp_super(61_000, 1398);
    assert!(cut(&bytes, segments).iter().all(|segment| Ipv4::parse(&segment[22..]).is_ok()));
    with_ports(65536, |_, _| (), exchange);
}

/// A segment above the path's MTU: the kernel cuts no such message, but takes each datagram, and fragments it.
#[test]
fn a_small_path_mtu_leads_to_fragments() {
    with_ports(1280, |_, _| (), exchange);
}

/// As on devices and kernels that cannot cut datagrams: here because the checksum is switched off.
#[test]
fn a_kernel_that_does_not_cut_gets_datagrams() {
    let without_checksum = |socket: &Socket, family| {
        // Over IPv6 the kernel's own words for it are UDP_NO_CHECK6_TX and _RX (linux/udp.h).
        match family {
            Family::V4 => switch_on(socket, libc::SOL_SOCKET, libc::SO_NO_CHECK),
            Family::V6 => switch_on(socket, libc::SOL_UDP, 101),
        }
    };
    with_ports(65536, without_checksum, |sender, receiver, family| {
        // Two at one port would share what comes.
        drop(receiver);
        let local = SocketAddr::new(there(family), PORT);
        let receiver = socket::vxlan_receiver(local).unwrap();
        socket::set_zero_checksums(&receiver, ZeroChecksums::Accepted).unwrap();
        let senders = vec![socket::vxlan_sender((there(family), 0).into()).unwrap()];
        exchange(sender, UdpPort::new(receiver, senders, PORT), family);
    });
}

fn switch_on(socket: &Socket, level: i32, option: i32) {
    let on = 1_i32;
    // SAFETY: the option value is one int, which lives on this stack.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), 4) };
    assert_eq!(done, 0);
}

/// RFC 6437 2, RFC 6438 3: a flow has one label that is not zero, and different flows have different ones; also while
/// somebody else in the namespace has a label for himself alone.
#[test]
fn over_ipv6_a_flow_has_a_label() {
    let netns = loopback(65536);
    let (here, there) = (here(Family::V6), there(Family::V6));
    netns
        .run(|| {
            let manager = Socket::new(socket2::Domain::IPV6, socket2::Type::DGRAM, None).unwrap();
            lease_exclusively(&manager, there, 0x54321);
            let packet = socket::packet(1, Seen::Ipv6, &Filter::everything()).unwrap();
            let mut sender = port_at(here, |_| ());
            let mut pool = Pool::new(64, SlotSize::SuperFrame);
            for _ in 0..3 {
                let frames = (0..SENDERS as u32).map(|flow| (flow, numbered(flow, 1, 100)));
                let mut batch: Vec<Frame> =
                    frames.map(|(flow, bytes)| filled(&mut pool, &bytes, there, flow)).collect();
                assert_eq!(sender.tx(&mut pool, &mut batch).sent, SENDERS as u64);
            }
            let mut labels = HashMap::<u16, u32>::new();
            let mut batch = margay::sys::mmsg::Batch::default();
            let mut room = [0; 4096];
            let mut count = 0;
            let deadline = Instant::now() + Duration::from_secs(5);
            while count < 3 * SENDERS {
                assert!(Instant::now() < deadline, "{count} datagrams came within five seconds");
                let Ok(1) = batch.receive(packet.as_fd(), std::iter::once(IoSliceMut::new(&mut room))) else {
                    continue;
                };
                // Behind virtio-net and Ethernet headers.
                let ip = Ipv6::parse(&room[24..batch.received(0).len]).unwrap();
                if ip.protocol() != Protocol::UDP || ip.src() != here {
                    continue;
                }
                count += 1;
                let port = u16::from_be_bytes([ip.payload()[0], ip.payload()[1]]);
                let label = *labels.entry(port).or_insert(ip.flow_label());
                assert_eq!(label, ip.flow_label(), "one flow, one label");
                assert_ne!(label, 0);
            }
            let different: HashSet<u32> = labels.values().copied().collect();
            assert_eq!((labels.len(), different.len()), (SENDERS, SENDERS));
        })
        .unwrap();
}

/// `IPV6_FLOWLABEL_MGR` (linux/in6.h): a label for `socket` and nobody else.
fn lease_exclusively(socket: &Socket, to: IpAddr, label: u32) {
    let IpAddr::V6(to) = to else { unreachable!() };
    let mut request = [0_u8; 32];
    request[..16].copy_from_slice(&to.octets());
    request[16..20].copy_from_slice(&label.to_be_bytes());
    // IPV6_FL_A_GET, IPV6_FL_S_EXCL, IPV6_FL_F_CREATE | IPV6_FL_F_EXCL.
    (request[20], request[21], request[22]) = (0, 1, 3);
    // SAFETY: the option value is the 32 bytes of an `in6_flowlabel_req`, which live on this stack.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IPV6, 32, request.as_ptr().cast(), 32) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}
