//! What the tests in namespaces share: a lab that runs, and claims about its traffic.
#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::fs::Permissions;
use std::io::{Error, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use etherparse::Ipv4HeaderSlice;
use margay::sys::netns::Netns;
use margay::sys::sysctl;
use margay::testbed::{Capture, Frame, Lab, LabSpec, Ping, Pod, Workdir, ping, transfer, udp_echo};
use socket2::{Domain, Socket, Type};

/// The program under test.
pub(crate) fn margay() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_margay"))
}

/// What is nobody's on every system.
pub(crate) const NOBODY: u32 = 65534;

/// The program where everybody may run it, as the build directory may be closed to others; and a directory that everybody may
/// look into.
pub(crate) fn margay_for_all() -> (Workdir, PathBuf) {
    let place = Workdir::new().unwrap();
    std::fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    let program = place.path().join("margay");
    // By another process: one that a test forks meanwhile would have the copy open for writing, and until it has begun its own
    // program nobody could run it (ETXTBSY).
    let copied = Command::new("cp").args([margay(), &program]).status().unwrap();
    assert!(copied.success(), "cp: {copied}");
    (place, program)
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

/// Waits until a child is a zombie of one thread: ended, and not waited for.
pub(crate) fn until_ended(pid: u32) {
    let process = format!("/proc/{pid}");
    until("the daemon's end", || {
        let threads = std::fs::read_dir(format!("{process}/task")).map_or(0, Iterator::count);
        let state = std::fs::read_to_string(format!("{process}/stat")).unwrap_or_default();
        threads == 1 && state.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z"))
    });
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

/// Sets a sysctl of a namespace.
pub(crate) fn sysctl(netns: &Netns, name: &str, value: &str) {
    netns.run(|| sysctl::write(name, value)).unwrap().unwrap_or_else(|error| panic!("{name}: {error}"));
}

// linux/pkt_sched.h
const TC_H_ROOT: u32 = u32::MAX;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_BURST: u16 = 6;

/// Has a node's underlay send so many bytes a second, and keep what is more: the sockets fill. A token bucket
/// (`tc qdisc replace dev eth0 root tbf`), asked for by route netlink.
pub(crate) fn slow_down(netns: &Netns, bytes_per_second: u32) {
    let underlay = netns.netlink().unwrap().link("eth0").unwrap().index;
    let answer = netns.run(|| ask(&token_bucket(underlay.0, bytes_per_second))).unwrap().unwrap();
    // nlmsgerr: the error stands after the header of 16 bytes.
    let errno = -i32::from_ne_bytes(answer[16..20].try_into().unwrap());
    assert_eq!(errno, 0, "this test needs a kernel with sch_tbf: {}", Error::from_raw_os_error(errno));
}

/// One request of route netlink, and the answer.
fn ask(request: &[u8]) -> std::io::Result<Vec<u8>> {
    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(libc::NETLINK_ROUTE.into()))?;
    socket.send(request)?;
    let mut answer = vec![0; 4096];
    let len = (&socket).read(&mut answer)?;
    answer.truncate(len);
    Ok(answer)
}

/// RTM_NEWQDISC of a tbf (linux/pkt_sched.h) with a burst of 128 KB and room for a gigabyte.
fn token_bucket(interface: u32, bytes_per_second: u32) -> Vec<u8> {
    const BURST: u32 = 128_000;
    let rate = |rate: u32| {
        // tc_ratespec: cell_log, linklayer Ethernet, overhead, cell_align, mpu, rate.
        [&[0, 1, 0, 0, 0, 0, 0, 0][..], &rate.to_ne_bytes()].concat()
    };
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
    let attribute = |kind: u16, data: &[u8]| {
        let len = (4 + data.len()) as u16;
        let mut bytes = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), data].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    // tc_tbf_qopt: rate, no peak rate, limit in bytes, buffer and mtu, which TCA_TBF_BURST gives in bytes.
    let parameters = [rate(bytes_per_second), rate(0), words(&[1 << 30, 0, 0])].concat();
    let options = [attribute(TCA_TBF_PARMS, &parameters), attribute(TCA_TBF_BURST, &words(&[BURST]))];
    let attributes = [attribute(libc::TCA_KIND, b"tbf\0"), attribute(libc::TCA_OPTIONS, &options.concat())];
    // tcmsg: family, interface, handle, parent, info.
    let message = [words(&[0, interface, 0, TC_H_ROOT, 0]), attributes.concat()].concat();
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
    let kind = [libc::RTM_NEWQDISC.to_ne_bytes(), flags.to_ne_bytes()].concat();
    [words(&[16 + message.len() as u32]), kind, words(&[1, 0]), message].concat()
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
