//! The VXLAN port on real sockets: what leaves in messages that the kernel cuts arrives as the frames that it was,
//! each flow in order, and where the kernel will not cut, datagram by datagram.

#![allow(unsafe_code)]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

use margay::buf::{Frame, Offload, Pool, Segmentation, Segments, SlotSize};
use margay::io::offload::{MAX_HEAD, Outer, SuperFrame};
use margay::io::udp::UdpPort;
use margay::io::{Port, Rx, TxReport};
use margay::sys::netlink::LinkChange;
use margay::sys::netns::Netns;
use margay::sys::socket;
use margay::wire::ipv4::{self, Ipv4};
use margay::wire::{Ecn, Protocol};
use socket2::Socket;

const PORT: u16 = 4789;
const HERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const SENDERS: usize = 4;

/// Runs in a namespace of its own, whose loopback has this MTU, with a port at each of two addresses.
fn with_ports(mtu: u32, prepare: impl Fn(&Socket) + Sync, test: impl FnOnce(UdpPort, UdpPort) + Send) {
    let netns = Netns::create().expect("this test needs root, or a user namespace of its own");
    netns.netlink().unwrap().set_link("lo", &[LinkChange::Up, LinkChange::Mtu(mtu)]).unwrap();
    let port = |address| {
        let receiver = socket::vxlan_receiver(SocketAddr::new(IpAddr::V4(address), PORT)).unwrap();
        let senders = (0..SENDERS).map(|_| socket::vxlan_sender((address, 0).into()).unwrap());
        UdpPort::new(receiver, senders.inspect(&prepare).collect(), PORT)
    };
    netns.run(|| test(port(HERE), port(THERE))).unwrap();
}

fn filled(pool: &mut Pool, bytes: &[u8], flow: u32) -> Frame {
    let mut frame = pool.take().expect("the pool has enough slots");
    pool.room(&frame)[..bytes.len()].copy_from_slice(bytes);
    pool.filled(&mut frame, bytes.len());
    (frame.peer, frame.ecn, frame.flow) = (IpAddr::V4(THERE), Ecn::Ect0, flow);
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
    (bytes, Segments { kind: Segmentation::TcpV4, size })
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
fn drain(port: &mut UdpPort, pool: &mut Pool) -> Vec<Vec<u8>> {
    let (mut all, mut batch) = (Vec::new(), Vec::new());
    loop {
        let more = port.rx(pool, &mut batch).unwrap();
        for frame in batch.drain(..) {
            assert_eq!((frame.peer, frame.ecn), (IpAddr::V4(HERE), Ecn::Ect0));
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
fn exchange(mut here: UdpPort, mut there: UdpPort) {
    let mut pool = Pool::new(256, SlotSize::SuperFrame);
    for round in 0..3 {
        let (mut batch, mut expected) = (Vec::new(), HashMap::<u32, Vec<Vec<u8>>>::new());
        for number in 0..150_u32 {
            let flow = number * 7 % 11;
            let len = [64, 1450, 64, 200][(number as usize + round) % 4];
            let bytes = numbered(flow, number, len);
            batch.push(filled(&mut pool, &bytes, flow));
            expected.entry(flow).or_default().push(bytes);
            if number == 40 || number == 90 {
                let (bytes, segments) = tcp_super(61_000, 1398);
                let mut frame = filled(&mut pool, &bytes, u32::from_be_bytes([0x11; 4]));
                frame.offload = Offload { checksum: None, segments: Some(segments) };
                batch.push(frame);
                expected.entry(0x1111_1111).or_default().extend(cut(&bytes, segments));
            }
        }
        let frames = batch.len() as u64;
        let TxReport { sent, full, failed, error } = here.tx(&mut pool, &mut batch);
        assert_eq!((sent, full, failed), (frames, 0, 0), "{error:?}");
        assert_eq!(pool.available(), pool.slots(), "every slot came back");

        let mut received = HashMap::<u32, Vec<Vec<u8>>>::new();
        for bytes in drain(&mut there, &mut pool) {
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
    with_ports(65536, |_| (), exchange);
}

/// A segment above the path's MTU: the kernel cuts no such message, but takes each datagram, and fragments it.
#[test]
fn a_small_path_mtu_leads_to_fragments() {
    with_ports(1280, |_| (), exchange);
}

/// As on devices and kernels that cannot cut datagrams: here because the checksum is switched off.
#[test]
fn a_kernel_that_does_not_cut_gets_datagrams() {
    let without_checksum = |socket: &Socket| {
        let on = 1_i32;
        // SAFETY: the option value is one int, which lives on this stack.
        let done = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_NO_CHECK,
                (&raw const on).cast(),
                4,
            )
        };
        assert_eq!(done, 0);
    };
    with_ports(65536, without_checksum, exchange);
}
