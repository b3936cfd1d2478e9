//! Path MTUs and errors of a real underlay: two nodes, and a router between them whose kernel forwards and says by
//! ICMP what it cannot.

mod lab;

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use lab::{Packet, UNREACHABLE, build, margay, packets, sysctl, until};
use margay::sys::netlink::LinkChange;
use margay::testbed::{Capture, Frame, Lab, LabSpec, Mode, Ping, Pod, Stack, Topology, ping, transfer};
use margay::wire::Family;

const MEGABYTE: u64 = 1_000_000;

fn routed(mode: Mode) -> Lab {
    build(LabSpec { topology: Topology::Routed, ..LabSpec::new(mode) })
}

/// Nodes and pods of IPv6 alone, by VXLAN.
fn routed_v6() -> Lab {
    let stack = Stack::V6;
    let spec = LabSpec { underlay: stack, pods: stack, ..LabSpec::new(Mode::Vxlan) };
    build(LabSpec { topology: Topology::Routed, ..spec })
}

fn v6(pod: &Pod) -> IpAddr {
    pod.address_of(Family::V6).expect("a pod with IPv6")
}

fn started(mut lab: Lab, arguments: &[&str]) -> Lab {
    lab.start(margay(), arguments).unwrap_or_else(|error| panic!("{error}"));
    lab
}

/// The router's link to node-b takes less than the nodes and pods believe. What node-a sends is told so; what node-b
/// sends is thrown away at the router's end of the link, without a word.
fn narrow(lab: &Lab, mtu: u32) {
    let mut netlink = lab.router.as_ref().unwrap().netlink().unwrap();
    netlink.set_link("b", &[LinkChange::Mtu(mtu)]).unwrap();
}

/// MTUs of ICMP fragmentation needed and of ICMPv6 packet too big, and who said so.
fn told(frames: &[Frame]) -> Vec<(IpAddr, u32)> {
    let word = |bytes: &[u8]| Some(u32::from_be_bytes(bytes.get(4..8)?.try_into().ok()?));
    let of_ipv4 = |frame: &Frame| {
        let packet = Packet::of_frame(&frame.bytes)?;
        let is_it = packet.icmp() == Some(UNREACHABLE) && packet.payload[1] == 4;
        is_it.then(|| Some((packet.source, word(&packet.payload)? & 0xffff)))?
    };
    let of_ipv6 = |frame: &Frame| {
        let ip = frame.bytes.get(12..)?.strip_prefix(&[0x86, 0xdd])?;
        let source: [u8; 16] = ip.get(8..24)?.try_into().ok()?;
        let is_it = ip[6] == 58 && *ip.get(40)? == 2;
        is_it.then(|| Some((Ipv6Addr::from(source).into(), word(&ip[40..])?)))?
    };
    frames.iter().filter_map(|frame| of_ipv4(frame).or_else(|| of_ipv6(frame))).collect()
}

/// Outer packets of VXLAN over IPv6, or of its fragments, that are longer than so many bytes.
fn longer_than(frames: &[Frame], bytes: usize) -> usize {
    let is_ipv6 = |frame: &&Frame| frame.bytes.get(12..14) == Some(&[0x86, 0xdd]);
    frames.iter().filter(is_ipv6).filter(|frame| frame.bytes.len() > 14 + bytes).count()
}

fn said(lab: &mut Lab, node: usize, text: &str) -> usize {
    lab.nodes[node].daemon().unwrap().output().matches(text).count()
}

/// M6, M13: TCP of pods with an MTU of 1,480 through a path of 1,400, by path MTU discovery alone; the pod is told the
/// path's MTU without the outer header.
#[test]
fn m13_tcp_finds_its_way_through_a_narrow_underlay() {
    let lab = routed(Mode::Ipip);
    narrow(&lab, 1400);
    let mut lab = started(lab, &[]);
    let [from, to] = [&lab.nodes[0].pods[0], &lab.nodes[1].pods[0]];
    let capture = Capture::start(&from.netns, "eth0").unwrap();
    let moved =
        transfer(&from.netns, &to.netns, to.address, MEGABYTE).unwrap_or_else(|error| panic!("{error}"));
    assert!(moved.bytes == MEGABYTE && moved.intact(), "{moved:?}");
    let told = told(&capture.stop());
    assert!(!told.is_empty());
    assert!(told.iter().all(|told| *told == (lab.nodes[0].tunnel_address, 1380)), "{told:?}");

    // Another pod is told by margay itself: its first packet need not reach the router.
    let [from, to] = [&lab.nodes[0].pods[1], &lab.nodes[1].pods[1]];
    let at_router = Capture::start(lab.router.as_ref().unwrap(), "a").unwrap();
    let large = Ping { count: 1, size: 1452, patience: Duration::from_millis(500), ..Ping::default() };
    let report = ping(&from.netns, to.address, large).unwrap();
    assert_eq!(report.errors.keys().collect::<Vec<_>>(), ["ICMP type 3 code 4 from 10.65.0.1"]);
    let seen = packets(&at_router.stop());
    assert!(seen.iter().all(|packet| packet.protocol != 4), "{seen:?}");
    assert_eq!(said(&mut lab, 0, "path MTU of a peer"), 1, "told once");
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

/// The same by ICMPv6, for VXLAN over IPv6: 70 bytes less than the path.
#[test]
fn m13_ipv6_finds_its_way_through_a_narrow_underlay() {
    let lab = routed_v6();
    narrow(&lab, 1400);
    let mut lab = started(lab, &[]);
    let tunnel = lab.nodes[0].tunnel_address_of(Family::V6).unwrap();
    let [from, to] = [&lab.nodes[0].pods[0], &lab.nodes[1].pods[0]];
    let capture = Capture::start(&from.netns, "eth0").unwrap();
    let moved = transfer(&from.netns, &to.netns, v6(to), MEGABYTE).unwrap_or_else(|error| panic!("{error}"));
    assert!(moved.bytes == MEGABYTE && moved.intact(), "{moved:?}");
    let heard = told(&capture.stop());
    assert!(!heard.is_empty());
    assert!(heard.iter().all(|told| *told == (tunnel, 1330)), "{heard:?}");

    let [from, to] = [&lab.nodes[0].pods[1], &lab.nodes[1].pods[1]];
    let at_router = Capture::start(lab.router.as_ref().unwrap(), "a").unwrap();
    let at_pod = Capture::start(&from.netns, "eth0").unwrap();
    let large = Ping { count: 1, size: 1430 - 48, patience: Duration::from_millis(500), ..Ping::default() };
    ping(&from.netns, v6(to), large).unwrap();
    assert_eq!(told(&at_pod.stop()), [(tunnel, 1330)], "margay tells another pod by itself");
    assert_eq!(longer_than(&at_router.stop(), 1400), 0);
    assert_eq!(said(&mut lab, 0, "path MTU of a peer"), 1, "told once");
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

/// I4: a TTL that ends on the way, in both encapsulations.
#[test]
fn i4_time_exceeded_inside_the_tunnel_is_host_unreachable_to_the_pod() {
    for (mode, arguments) in [(Mode::Ipip, &["--ipip-ttl", "1"][..]), (Mode::Vxlan, &[])] {
        let lab = routed(mode);
        // The TTL of UDP is the kernel's.
        sysctl(&lab.nodes[0].netns, "net/ipv4/ip_default_ttl", "1");
        let mut lab = started(lab, arguments);
        let brief = Ping { count: 2, patience: Duration::from_millis(500), ..Ping::default() };
        let report = ping(&lab.nodes[0].pods[0].netns, lab.nodes[1].pods[0].address, brief).unwrap();
        let errors: Vec<_> = report.errors.iter().map(|(text, times)| (text.as_str(), *times)).collect();
        assert_eq!(errors, [("ICMP type 3 code 1 from 10.65.0.1", 2)], "{mode:?}");
        assert_eq!(said(&mut lab, 0, "the way to a peer is broken"), 1, "{mode:?}: told once");
    }
}

/// I5: the router does not find the peer.
#[test]
fn i5_host_unreachable_is_relayed() {
    let lab = started(routed(Mode::Ipip), &[]);
    let [a, b] = &lab.nodes;
    b.netns.netlink().unwrap().set_link("eth0", &[LinkChange::Down]).unwrap();
    let brief = Ping { count: 1, patience: Duration::from_millis(200), ..Ping::default() };
    until("the pod is told", || {
        let report = ping(&a.pods[0].netns, b.pods[0].address, brief).unwrap();
        report.errors.keys().any(|text| text == "ICMP type 3 code 1 from 10.65.0.1")
    });
}

/// Large packets from node-b vanish, and no ICMP says so: probes find it, and TCP goes on.
fn a_black_hole_is_found(lab: Lab, family: Family, mtu: u32) {
    narrow(&lab, 1400);
    let mut lab = started(lab, &["--probe-path-mtu"]);
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while said(&mut lab, 1, "path MTU of a peer") == 0 {
        assert!(std::time::Instant::now() < deadline, "{}", lab.nodes[1].daemon().unwrap().output());
        std::thread::sleep(Duration::from_millis(50));
    }
    let [a, b] = &lab.nodes;
    let address = |pod: &Pod| pod.address_of(family).expect("a pod of this family");
    let headers = if family == Family::V4 { 28 } else { 48 };
    let size = b.pods[0].mtu as usize - headers;
    let large = Ping { count: 1, size, patience: Duration::from_millis(500), ..Ping::default() };
    let capture = Capture::start(&b.pods[0].netns, "eth0").unwrap();
    ping(&b.pods[0].netns, address(&a.pods[0]), large).unwrap();
    assert_eq!(told(&capture.stop()), [(b.tunnel_address_of(family).unwrap(), mtu)]);
    let (from, to) = (&b.pods[1], &a.pods[1]);
    let moved =
        transfer(&from.netns, &to.netns, address(to), MEGABYTE).unwrap_or_else(|error| panic!("{error}"));
    assert!(moved.bytes == MEGABYTE && moved.intact(), "{moved:?}");
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

// A veth takes four bytes more, for a VLAN tag.

#[test]
fn a_black_hole_is_found_by_probing() {
    a_black_hole_is_found(routed(Mode::Ipip), Family::V4, 1404 - 20);
}

#[test]
fn a_black_hole_of_ipv6_is_found_by_probing() {
    a_black_hole_is_found(routed_v6(), Family::V6, 1404 - 70);
}

/// The peer's kernel answers probes as well.
#[test]
fn a_path_without_a_hole_is_left_alone() {
    let mut lab = started(routed(Mode::Vxlan), &["--probe-path-mtu"]);
    let capture = Capture::start(lab.router.as_ref().unwrap(), "b").unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let [a, b] = &lab.nodes;
    let probes = packets(&capture.stop()).into_iter().filter(|packet| packet.payload.len() == 1480);
    let (from_a, from_b): (Vec<_>, Vec<_>) = probes.partition(|packet| packet.source == a.address());
    assert!(!from_a.is_empty() || !from_b.is_empty(), "questions or answers");
    assert!(from_b.iter().all(|packet| packet.destination == a.address() && packet.source == b.address()));
    for node in 0..2 {
        assert_eq!(said(&mut lab, node, "path MTU of a peer"), 0);
    }
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}
