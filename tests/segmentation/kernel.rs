//! The kernel as oracle: a super-frame that comes in by a TAP and leaves by one without offloads is cut by the
//! kernel on the way.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use margay::buf::Segmentation;
use margay::io::tap::TapPort;
use margay::lpm::Prefix;
use margay::sys::netlink::LinkChange;
use margay::sys::tun::{self, Layer};
use margay::wire::ip::Family;
use margay::wire::{MacAddr, ipv4, ipv6};

use crate::streams::*;
use crate::taps::{Tap, receive};

/// Behind the router that the kernel is.
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 9, 0, 2), Ipv4Addr::new(10, 10, 0, 2)];
const ADDRESSES_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2), Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, 2)];

/// A TAP with super-frames, and one without any offload: the kernel forwards from one to the other.
fn router() -> (Tap, TapPort) {
    let tap = Tap::new(None);
    let mut plain = tap.netns.run(|| tun::open_plain("tap1", Layer::Tap)).unwrap().unwrap();
    let mut netlink = tap.netns.netlink().unwrap();
    netlink.set_link("tap1", &[LinkChange::NoLinkLocal, LinkChange::Mtu(9000), LinkChange::Up]).unwrap();
    let dev = netlink.link("tap1").unwrap().index;
    netlink.add_address(dev, Prefix::new([10, 10, 0, 1].into(), 24).unwrap()).unwrap();
    netlink.add_address(dev, Prefix::new("fd10::1".parse().unwrap(), 64).unwrap()).unwrap();
    for there in [ADDRESSES[1].into(), ADDRESSES_V6[1].into()] {
        netlink.set_neighbour(dev, there, MacAddr([2, 0, 0, 0, 0, 3])).unwrap();
    }
    for name in ["ipv4/ip_forward", "ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"] {
        let path = format!("/proc/sys/net/{name}");
        tap.netns.run(|| std::fs::write(&path, "1")).unwrap().unwrap();
    }
    let port = TapPort::new(Arc::new(plain.queues.remove(0)), Layer::Tap, plain.offloads);
    (tap, port)
}

#[test]
fn the_kernel_cuts_as_margay_does() {
    let (mut tap, mut plain) = router();
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    for round in 0..600 {
        println!("seed {seed}, round {round}");
        let family = Family::ALL[round as usize % 2];
        let chance = noise(seed.wrapping_add(round), 120);
        let mut choices = Choices(&chance);
        let mut stream = Stream { has_ethernet: true, ..Stream::any_of(family, &mut choices) };
        stream.ttl = stream.ttl.max(2);
        match &mut stream.ip {
            Ip::V4 { addresses, .. } => *addresses = ADDRESSES,
            Ip::V6 { addresses, .. } => *addresses = ADDRESSES_V6,
        }
        let mut whole = Loose { bytes: stream.whole(), offload: stream.offload() };
        whole.bytes[..6].copy_from_slice(&tap.mac.0);
        // CWR without the flag that tells of it.
        if choices.flag()
            && let Some(segments) = &mut whole.offload.segments
            && segments.kind == Segmentation::TcpEcn
        {
            segments.kind = Segmentation::Tcp;
        }
        let mine = stream.pieces();
        let ethertype = whole.bytes[12..14].to_vec();
        tap.send(&[whole]);
        // Neighbour discovery and reports of multicast groups are no segments of ours.
        let is_segment =
            |frame: &Loose| frame.bytes[12..14] == ethertype && frame.bytes[..6] == [2, 0, 0, 0, 0, 3];
        let kernels = receive(&mut plain, mine.len(), is_segment);
        for (index, (mut mine, kernels)) in mine.into_iter().zip(kernels).enumerate() {
            match family {
                Family::V4 => ipv4::decrement_ttl(&mut mine[14..]),
                Family::V6 => ipv6::decrement_hop_limit(&mut mine[14..]),
            }
            let mut kernels = kernels.bytes;
            for bytes in [&mut mine, &mut kernels] {
                one_zero(bytes, 14 + stream.ip.len() + usize::from(stream.field()));
            }
            assert!(
                mine[14..] == kernels[14..],
                "segment {index} of {stream:?}:\n{:?}\n{:?}",
                &mine[14..stream.head_len()],
                &kernels[14..stream.head_len()],
            );
        }
    }
}

/// Ones' complement has two zeros, and both are right in TCP's checksum field.
fn one_zero(bytes: &mut [u8], at: usize) {
    if bytes[at..at + 2] == [0, 0] {
        bytes[at..at + 2].fill(0xff);
    }
}
