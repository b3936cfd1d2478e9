//! What the tests in namespaces share: a lab that runs, and claims about its traffic.
#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use etherparse::Ipv4HeaderSlice;
use margay::sys::netns::Netns;
use margay::testbed::{Capture, Frame, Lab, LabSpec, Ping, Pod, ping, transfer, udp_echo};

/// The program under test.
pub(crate) fn margay() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_margay"))
}

/// A lab with its daemons running.
pub(crate) fn start(spec: LabSpec, arguments: &[&str]) -> Lab {
    let mut lab = build(spec);
    lab.start(margay(), arguments).unwrap_or_else(|error| panic!("{error}"));
    lab
}

/// A lab whose daemons are not started yet.
pub(crate) fn build(spec: LabSpec) -> Lab {
    Lab::new(spec)
        .unwrap_or_else(|error| panic!("these tests need root, or a user namespace of their own: {error}"))
}

/// Waits for a condition; `what` says what never came.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not within ten seconds: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Processes that have `text` in an argument. One that has ended but was not waited for has no arguments.
pub(crate) fn processes_naming(text: &str) -> Vec<String> {
    let naming = |pid: &String| {
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).contains(text)
    };
    let all =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    all.filter(|name| name.bytes().all(|b| b.is_ascii_digit())).filter(naming).collect()
}

/// Sets `/proc/sys/NAME` of a namespace.
pub(crate) fn sysctl(netns: &Netns, name: &str, value: &str) {
    let path = format!("/proc/sys/{name}");
    netns.run(|| std::fs::write(&path, value)).unwrap().unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// An IPv4 packet of a capture.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) ttl: u8,
    pub(crate) protocol: u8,
    pub(crate) payload: Vec<u8>,
}

impl Packet {
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let header = Ipv4HeaderSlice::from_slice(bytes).ok()?;
        Some(Packet {
            source: header.source_addr().into(),
            destination: header.destination_addr().into(),
            ttl: header.ttl(),
            protocol: header.protocol().0,
            payload: bytes.get(header.slice().len()..usize::from(header.total_len()))?.to_vec(),
        })
    }

    /// What an Ethernet frame carries, if that is IPv4.
    pub(crate) fn of_frame(frame: &[u8]) -> Option<Self> {
        (frame.get(12..14)? == [0x08, 0x00]).then(|| Self::parse(&frame[14..]))?
    }

    /// ICMP type; `None` for other protocols.
    pub(crate) fn icmp(&self) -> Option<u8> {
        (self.protocol == 1).then(|| self.payload.first().copied())?
    }
}

pub(crate) const ECHO_REPLY: u8 = 0;
pub(crate) const UNREACHABLE: u8 = 3;
pub(crate) const REDIRECT: u8 = 5;
pub(crate) const ECHO_REQUEST: u8 = 8;

/// The packets of a capture.
pub(crate) fn packets(frames: &[Frame]) -> Vec<Packet> {
    frames.iter().filter_map(|frame| Packet::of_frame(&frame.bytes)).collect()
}

/// Every request is answered.
pub(crate) fn reaches(from: &Netns, to: IpAddr, what: &str) {
    let report = ping(from, to, Ping { patience: Duration::from_secs(5), ..Ping::default() }).unwrap();
    assert_eq!((report.lost(), report.errors.len()), (0, 0), "{what}: {report}");
}

/// Every request arrives once and is answered once, and each way `hops` routers count the TTL down.
pub(crate) fn reaches_once(from: &Pod, to: &Pod, hops: u8) {
    const COUNT: u16 = 5;
    let [near, far] = [from, to].map(|pod| Capture::start(&pod.netns, "eth0").unwrap());
    let what = format!("{} to {}", from.name, to.name);
    let request = Ping { count: COUNT, patience: Duration::from_secs(5), ..Ping::default() };
    let report = ping(&from.netns, to.address, request).unwrap();
    assert_eq!((report.lost(), report.errors.len()), (0, 0), "{what}: {report}");
    for (capture, kind) in [(far, ECHO_REQUEST), (near, ECHO_REPLY)] {
        let packets = packets(&capture.stop());
        let ttls: Vec<u8> =
            packets.iter().filter(|packet| packet.icmp() == Some(kind)).map(|packet| packet.ttl).collect();
        assert_eq!(ttls, vec![64 - hops; usize::from(COUNT)], "{what}: TTLs of ICMP type {kind}");
        let other = packets.iter().find(|packet| !matches!(packet.icmp(), Some(ECHO_REQUEST | ECHO_REPLY)));
        assert!(other.is_none(), "{what}: nobody has anything else to say: {other:?}");
    }
}

/// TCP, so many bytes each way.
pub(crate) fn moves_tcp(a: &Pod, b: &Pod, bytes: u64) {
    for (from, to) in [(a, b), (b, a)] {
        let moved = transfer(&from.netns, &to.netns, to.address, bytes)
            .unwrap_or_else(|error| panic!("{} to {}: {error}", from.name, to.name));
        assert!(moved.bytes == bytes && moved.intact(), "{} to {}: {moved:?}", from.name, to.name);
    }
}

/// UDP of every size from nothing to the MTU, which takes two fragments, and some that take many.
pub(crate) fn echoes_every_udp_size(from: &Pod, to: &Pod) {
    let mtu = from.mtu as usize;
    for sizes in [0..=mtu, 8_000..=8_001, 20_000..=20_000] {
        let expected = sizes.clone().count();
        let report = udp_echo(&from.netns, &to.netns, to.address, sizes).unwrap();
        assert_eq!(
            (report.returned, &report.failed[..]),
            (expected, &[][..]),
            "{} to {}",
            from.name,
            to.name
        );
    }
}

/// `a.b.c.d`
pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse::<Ipv4Addr>().unwrap().into()
}
