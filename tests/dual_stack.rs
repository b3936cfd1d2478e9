//! Nodes and pods of both families, and of IPv6 alone: pods reach each other by IPv6 over every way that IPv6 has, the node
//! and its pods reach each other, and the nodes' kernels keep silent, as with IPv4 (`tests/nodes.rs`).

mod lab;

use std::fs::Permissions;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use lab::{build, margay, reaches, start, sysctl, until};
use margay::rib::Attach;
use margay::sys::netlink::{LinkChange, NeighbourState, RouteKind};
use margay::sys::socket;
use margay::testbed::{
    Capture, Frame, Lab, LabSpec, Mode, NodeKind, Ping, Pod, Stack, Topology, Workdir, ping, transfer,
    udp_echo,
};
use margay::wire::{Family, MacAddr, udp};

const MEGABYTE: u64 = 1_000_000;

/// What crosses the underlay: the outer packet's version, and whether it is VXLAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wears {
    VxlanOver(Family),
    Nothing,
}

fn v6(pod: &Pod) -> IpAddr {
    pod.address_of(Family::V6).expect("a pod with IPv6")
}

/// A lab whose nodes forward, as those of a cluster do: what they forward or answer of margay's shows.
fn forwarding_lab(spec: LabSpec) -> Lab {
    let lab = start(spec, &[]);
    for node in &lab.nodes {
        sysctl(&node.netns, "net/ipv4/ip_forward", "1");
        sysctl(&node.netns, "net/ipv6/conf/all/forwarding", "1");
    }
    lab
}

/// What a frame of the underlay wears around an ICMPv6 echo between pods; `None` for all else.
fn wears(frame: &Frame) -> Option<Wears> {
    let inner_is_echo = |ip: &[u8]| {
        ip.first().is_some_and(|version| version >> 4 == 6)
            && ip.get(6) == Some(&58)
            && ip.get(8..10) == Some(&[0xfd, 0x10])
            && matches!(ip.get(40), Some(128 | 129))
    };
    let ethertype = frame.bytes.get(12..14)?;
    let ip = frame.bytes.get(14..)?;
    let (family, udp) = match ethertype {
        [0x08, 0x00] if ip.get(9) == Some(&17) => (Family::V4, ip.get(20..)?),
        [0x86, 0xdd] if inner_is_echo(ip) => return Some(Wears::Nothing),
        [0x86, 0xdd] if ip.get(6) == Some(&17) => (Family::V6, ip.get(40..)?),
        _ => return None,
    };
    let is_vxlan = udp.get(2..4) == Some(&4789_u16.to_be_bytes());
    // UDP, VXLAN, Ethernet.
    (is_vxlan && inner_is_echo(udp.get(8 + 8 + 14..)?)).then_some(Wears::VxlanOver(family))
}

fn answered(from: &Pod, to: IpAddr, what: &str) {
    reaches(&from.netns, to, what);
}

fn moves_tcp_v6(a: &Pod, b: &Pod, bytes: u64) {
    for (from, to) in [(a, b), (b, a)] {
        let moved = transfer(&from.netns, &to.netns, v6(to), bytes)
            .unwrap_or_else(|error| panic!("{} to {}: {error}", from.name, to.name));
        assert!(moved.bytes == bytes && moved.intact(), "{} to {}: {moved:?}", from.name, to.name);
    }
}

/// UDP that just fits, that takes two fragments, and that takes many.
fn echoes_udp_v6(a: &Pod, b: &Pod) {
    let mtu = a.mtu as usize;
    for sizes in [0..=2, mtu - 50..=mtu, 8_000..=8_000, 20_000..=20_000] {
        let expected = sizes.clone().count();
        let report = udp_echo(&a.netns, &b.netns, v6(b), sizes).unwrap();
        assert_eq!((report.returned, &report.failed[..]), (expected, &[][..]), "{} to {}", a.name, b.name);
    }
}

/// Everything that pods expect of IPv6.
fn everything(spec: LabSpec, expected: Wears) {
    let mut lab = forwarding_lab(spec);
    let [a, b] = &lab.nodes;
    let (near, far) = (&a.pods[0], &b.pods[0]);
    for (from, to) in [(near, &a.pods[1]), (near, far), (&b.pods[1], &a.pods[1])] {
        answered(from, v6(to), &format!("{} to {}", from.name, to.name));
    }
    let underlay = Capture::start(&a.netns, "eth0").unwrap();
    answered(near, v6(far), "across, seen on the underlay");
    let frames = underlay.stop();
    let seen: Vec<Wears> = frames.iter().filter_map(wears).collect();
    assert_eq!(seen, vec![expected; 6], "three requests and three replies");
    assert!(!frames.iter().any(is_of_a_kernel), "a kernel has spoken");
    nodes_and_pods_reach_each_other(&lab);
    moves_tcp_v6(near, far, 8 * MEGABYTE);
    moves_tcp_v6(near, &a.pods[1], 8 * MEGABYTE);
    echoes_udp_v6(near, far);
    if lab.spec.pods.has(Family::V4) {
        answered(near, far.address, "IPv4 beside it");
    }
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

/// An ICMPv6 error or redirect, or ICMP's.
fn is_of_a_kernel(frame: &Frame) -> bool {
    let ip = frame.bytes.get(14..).unwrap_or_default();
    match frame.bytes.get(12..14) {
        Some([0x86, 0xdd]) => ip.get(6) == Some(&58) && matches!(ip.get(40), Some(1..=4 | 137)),
        Some([0x08, 0x00]) => ip.get(9) == Some(&1) && matches!(ip.get(20), Some(3 | 5 | 11)),
        _ => false,
    }
}

fn nodes_and_pods_reach_each_other(lab: &Lab) {
    let [a, b] = &lab.nodes;
    let (near, far) = (&a.pods[0], &b.pods[0]);
    reaches(&a.netns, v6(near), "node-a to its own pod");
    if let Some(own) = a.underlay_of(Family::V6) {
        answered(near, own.addr(), "a pod to its node");
    }
    if lab.spec.mode == Mode::Vxlan {
        reaches(&a.netns, v6(far), "node-a to a pod of node-b");
        let [own, other] = [a, b].map(|node| node.tunnel_address_of(Family::V6).unwrap());
        answered(near, own, "a pod to its node's tunnel address");
        answered(near, other, "a pod to the other node's tunnel address");
        reaches(&b.netns, own, "node-b to node-a's tunnel address");
    }
}

#[test]
fn vxlan_of_each_family_over_its_own() {
    everything(LabSpec::dual(Mode::Vxlan), Wears::VxlanOver(Family::V6));
}

#[test]
fn vxlan_over_ipv4_where_the_nodes_have_that_alone() {
    let spec = LabSpec { underlay: Stack::V4, ..LabSpec::dual(Mode::Vxlan) };
    everything(spec, Wears::VxlanOver(Family::V4));
}

#[test]
fn vxlan_over_ipv6_where_the_nodes_have_that_alone() {
    let spec = LabSpec { underlay: Stack::V6, ..LabSpec::dual(Mode::Vxlan) };
    everything(spec, Wears::VxlanOver(Family::V6));
}

#[test]
fn ipv6_alone() {
    let spec = LabSpec { underlay: Stack::V6, pods: Stack::V6, ..LabSpec::new(Mode::Vxlan) };
    everything(spec, Wears::VxlanOver(Family::V6));
}

#[test]
fn no_encapsulation_on_one_subnet() {
    everything(LabSpec::dual(Mode::None), Wears::Nothing);
}

#[test]
fn no_encapsulation_behind_a_router() {
    let spec = LabSpec { topology: Topology::Routed, ..LabSpec::dual(Mode::None) };
    everything(spec, Wears::Nothing);
}

#[test]
fn vxlan_cross_subnet() {
    everything(LabSpec::dual(Mode::VxlanCrossSubnet), Wears::Nothing);
    let spec = LabSpec { topology: Topology::Routed, ..LabSpec::dual(Mode::VxlanCrossSubnet) };
    everything(spec, Wears::VxlanOver(Family::V6));
}

/// IPIP is IPv4's; an IPv6 pool beside it has no encapsulation.
#[test]
fn ipip_beside_ipv6_without_encapsulation() {
    everything(LabSpec::dual(Mode::Ipip), Wears::Nothing);
}

#[test]
fn pods_on_veths() {
    let spec = LabSpec { attach: Attach::Veth, ..LabSpec::dual(Mode::Vxlan) };
    everything(spec, Wears::VxlanOver(Family::V6));
}

/// A Calico node's `vxlan-v6.calico` as the peer.
#[test]
fn a_kernel_is_the_peer() {
    for (mode, wears) in [(Mode::Vxlan, Wears::VxlanOver(Family::V6)), (Mode::None, Wears::Nothing)] {
        everything_with_a_kernel(mode, wears);
    }
}

fn everything_with_a_kernel(mode: Mode, expected: Wears) {
    let kinds = [NodeKind::Margay, NodeKind::Kernel];
    let mut lab = start(LabSpec { kinds, ..LabSpec::dual(mode) }, &[]);
    let [a, b] = &lab.nodes;
    let underlay = Capture::start(&b.netns, "eth0").unwrap();
    answered(&a.pods[0], v6(&b.pods[0]), "margay's pod to the kernel's");
    answered(&b.pods[1], v6(&a.pods[1]), "the kernel's pod to margay's");
    let seen: Vec<Wears> = underlay.stop().iter().filter_map(wears).collect();
    assert_eq!(seen, vec![expected; 12]);
    moves_tcp_v6(&a.pods[0], &b.pods[0], 8 * MEGABYTE);
    echoes_udp_v6(&a.pods[0], &b.pods[0]);
    answered(&a.pods[0], b.pods[0].address, "IPv4 beside it");
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

/// What a pod is given: its /128 without waiting for duplicates, a link-local address, the gateway, no router's word.
#[test]
fn a_pods_interface() {
    let lab = start(LabSpec::dual(Mode::Vxlan), &[]);
    let pod = &lab.nodes[0].pods[0];
    let mut netlink = pod.netns.netlink().unwrap();
    let link = netlink.link("eth0").unwrap();
    assert_eq!((link.mtu, link.mtu_v6), (1430, Some(1430)));
    let mine = netlink.addresses().unwrap().into_iter().filter(|(dev, _)| *dev == link.index);
    let mut mine: Vec<String> = mine.map(|(_, address)| address.to_string()).collect();
    mine.sort();
    let link_local = format!("{}/64", pod.mac.link_local());
    assert_eq!(mine, ["10.65.0.2/32".to_owned(), "fd10:65::2/128".to_owned(), link_local]);
    let gateway: IpAddr = "fe80::ecee:eeff:feee:eeee".parse().unwrap();
    let routes = netlink.routes(Family::V6).unwrap();
    let default: Vec<_> = routes.iter().filter(|route| route.dst.prefix_len() == 0).collect();
    assert!(default.iter().any(|route| (route.via, route.dev) == (Some(gateway), Some(link.index))));
    answered(pod, v6(&lab.nodes[0].pods[1]), "its neighbour");
    let known = pod.gateway(Family::V6).unwrap().expect("it asked for its gateway");
    assert_eq!(known.mac, Some(MacAddr::GATEWAY));
    assert_ne!(known.state, NeighbourState::Permanent);
    let setting = "net/ipv6/conf/eth0/accept_ra";
    assert_eq!(pod.netns.run(|| margay::sys::sysctl::read(setting)).unwrap().unwrap(), "0");
}

/// The node's kernel neither forwards nor answers what is margay's: a rule for each family, and a blackhole for the
/// node's block.
#[test]
fn the_nodes_kernel_is_kept_away() {
    let lab = start(LabSpec::dual(Mode::Vxlan), &[]);
    let node = &lab.nodes[0];
    let mut netlink = node.netns.netlink().unwrap();
    for family in Family::ALL {
        let rules = netlink.rules(family).unwrap();
        let ours: Vec<_> = rules.iter().filter(|rule| rule.table == 4789).collect();
        assert_eq!(ours.len(), 1, "{family}");
        assert_eq!(ours[0].iif.as_deref(), Some("eth0"));
        let routes = netlink.routes(family).unwrap();
        let holes: Vec<_> = routes.iter().filter(|route| route.table == 4789).collect();
        assert_eq!(holes.len(), 1, "{family}");
        assert_eq!((holes[0].kind, holes[0].dst), (RouteKind::Blackhole, node.block_of(family).unwrap()));
    }
}

/// RFC 6935 5, RFC 6936 4: what has no UDP checksum is dropped, unless the daemon was told to take it.
#[test]
fn vxlan_over_ipv6_without_checksum_is_taken_where_that_was_asked_for() {
    for (arguments, taken) in [(&[][..], 1), (&["--udp6-zero-checksum"][..], 2)] {
        // One worker has one socket: what was sent first is there first.
        let lab = start(LabSpec::dual(Mode::Vxlan), &[&["--workers", "1"][..], arguments].concat());
        let [a, b] = &lab.nodes;
        let (near, far) = (&a.pods[0], &b.pods[0]);
        let underlay = Capture::start(&b.netns, "eth0").unwrap();
        answered(near, v6(far), "with checksums");
        let frames = underlay.stop();
        let is_request = |frame: &&Frame| {
            wears(frame) == Some(Wears::VxlanOver(Family::V6)) && frame.bytes.get(124) == Some(&128)
        };
        let request = &frames.iter().find(is_request).expect("a request").bytes[14..];

        let arrival = Capture::start(&far.netns, "eth0").unwrap();
        let sender = a.netns.run(|| socket::raw_sender(Family::V6)).unwrap().unwrap();
        let [from, to] = [a, b].map(|node| node.underlay_of(Family::V6).unwrap().addr());
        let without = {
            let mut packet = request.to_vec();
            udp::write_checksum(&mut packet[40..], 0);
            packet
        };
        let with = {
            let mut packet = request.to_vec();
            udp::fill_checksum(&mut packet[40..], from, to);
            packet
        };
        for packet in [without, with] {
            sender.send_to(&packet, &SocketAddr::new(to, 0).into()).unwrap();
        }
        answered(near, v6(far), "after them");
        let arrived = arrival.stop();
        let is_request = |frame: &&Frame| {
            frame.bytes.get(12..14) == Some(&[0x86, 0xdd]) && frame.bytes.get(54) == Some(&128)
        };
        assert_eq!(arrived.iter().filter(is_request).count(), 3 + taken, "{arguments:?}");
    }
}

/// An interface that is too narrow for IPv6 has none, which is said, and IPv4 goes on; when it is wide enough again, IPv6 does.
#[test]
fn a_way_too_narrow_for_ipv6() {
    let mut lab = start(LabSpec::dual(Mode::Vxlan), &[]);
    let set = |lab: &Lab, mtu: u32| {
        for node in &lab.nodes {
            node.netns.netlink().unwrap().set_link("eth0", &[LinkChange::Mtu(mtu)]).unwrap();
        }
    };
    set(&lab, 1300);
    let pod_has = |lab: &Lab, mtu: u32| {
        let pods = lab.nodes.iter().flat_map(|node| &node.pods);
        pods.into_iter()
            .all(|pod| pod.netns.netlink().unwrap().link("eth0").is_ok_and(|link| link.mtu == mtu))
    };
    until("pods of 1230", || pod_has(&lab, 1230));
    answered(&lab.nodes[0].pods[0], lab.nodes[1].pods[0].address, "IPv4");
    let said = lab.nodes[0].daemon().unwrap().output();
    assert!(said.contains("its MTU of 1230 is less than the 1280 that IPv6 asks of a link"), "{said}");
    set(&lab, 1500);
    until("pods of 1430", || pod_has(&lab, 1430));
    let [a, b] = &lab.nodes;
    until("IPv6 again", || {
        let brief = Ping { count: 1, patience: Duration::from_millis(200), ..Ping::default() };
        ping(&a.pods[0].netns, v6(&b.pods[0]), brief).is_ok_and(|report| report.lost() == 0)
    });
    moves_tcp_v6(&a.pods[0], &b.pods[0], MEGABYTE);
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

/// A node that lacks its address of one family serves the other, whatever becomes of the resources meanwhile.
#[test]
fn one_family_goes_on_without_the_other() {
    let mut lab = build(LabSpec::dual(Mode::Vxlan));
    let set = |lab: &Lab, is_there: bool| {
        let mut netlink = lab.nodes[0].netns.netlink().unwrap();
        let eth0 = netlink.link("eth0").unwrap().index;
        let address = lab.nodes[0].underlay_of(Family::V6).unwrap();
        let done = match is_there {
            true => netlink.add_address(eth0, address),
            false => netlink.delete_address(eth0, address),
        };
        done.unwrap();
    };
    let brief = Ping { count: 1, patience: Duration::from_millis(200), ..Ping::default() };
    let is_answered = |from: &Pod, to| ping(&from.netns, to, brief).is_ok_and(|report| report.lost() == 0);
    set(&lab, false);
    lab.start(margay(), &[]).unwrap_or_else(|error| panic!("{error}"));
    let missing = "no other node is reached by IPv6";
    for what in ["from the start", "later"] {
        let [a, b] = &lab.nodes;
        until("no IPv6", || !is_answered(&a.pods[0], v6(&b.pods[0])));
        answered(&a.pods[0], b.pods[0].address, what);
        answered(&a.pods[0], v6(&a.pods[1]), "on the node");
        let said = lab.nodes[0].daemon().unwrap().output();
        assert!(
            said.contains(missing) && said.contains("no interface of this machine has fd77::1"),
            "{said}"
        );
        let control = lab.nodes[0].control_socket().unwrap();
        let peers = Command::new(margay()).args(["get", "peers", "--control-socket"]).arg(control).output();
        let peers = String::from_utf8(peers.unwrap().stdout).unwrap();
        assert!(peers.contains(" 1500 - "), "no way to its other address:\n{peers}");
        lab.add_pod(0).unwrap();
        let [a, b] = &lab.nodes;
        let new = a.pods.last().unwrap();
        new.wait(Duration::from_secs(10)).unwrap();
        answered(new, b.pods[0].address, what);
        set(&lab, true);
        until("IPv6", || is_answered(new, v6(&b.pods[0])));
        moves_tcp_v6(new, &b.pods[0], MEGABYTE);
        set(&lab, false);
    }
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

/// Where IPv6 is switched off and `/proc/sys` is read-only, as in a container, that is said with what to do, and IPv4 goes on; when
/// somebody has switched it on, IPv6 does.
#[test]
fn ipv6_that_is_switched_off() {
    let lab = build(LabSpec::dual(Mode::Vxlan));
    for pod in lab.nodes.iter().flat_map(|node| &node.pods) {
        sysctl(&pod.netns, "net/ipv6/conf/default/disable_ipv6", "1");
    }
    let place = Workdir::new().unwrap();
    let program = place.path().join("margay-in-a-container");
    let script = format!(
        "#!/bin/sh\nexec unshare --mount sh -c 'mount --bind /proc/sys /proc/sys && \
         mount -o remount,bind,ro /proc/sys && exec {} \"$@\"' margay \"$@\"\n",
        margay().display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let daemons = [0, 1].map(|node| lab.launch(node, &program, &[]).unwrap());
    let [a, b] = &lab.nodes;
    let (near, far) = (&a.pods[0], &b.pods[0]);
    let brief = Ping { count: 1, patience: Duration::from_millis(200), ..Ping::default() };
    until("IPv4", || ping(&near.netns, far.address, brief).is_ok_and(|report| report.lost() == 0));
    assert_eq!(ipv6_addresses(near), 0);

    for pod in lab.nodes.iter().flat_map(|node| &node.pods) {
        sysctl(&pod.netns, "net/ipv6/conf/eth0/disable_ipv6", "0");
    }
    // A notice about a link has the daemon look, as half a minute does.
    for node in &lab.nodes {
        let named = LinkChange::Alias("the way out".to_owned());
        node.netns.netlink().unwrap().set_link("eth0", &[named]).unwrap();
    }
    until("IPv6", || ping(&near.netns, v6(far), brief).is_ok_and(|report| report.lost() == 0));
    assert_eq!(ipv6_addresses(near), 2, "its own, and a link-local one");
    moves_tcp_v6(near, far, MEGABYTE);
    let said = daemons[0].output();
    let reason = "net.ipv6.conf.eth0.disable_ipv6 is 1 there and cannot be set";
    assert!(said.contains(reason) && said.contains("set it to 0"), "{said}");
}

/// How many addresses of IPv6 a pod's interface has.
fn ipv6_addresses(pod: &Pod) -> usize {
    let mut netlink = pod.netns.netlink().unwrap();
    let eth0 = netlink.link("eth0").unwrap().index;
    let all = netlink.addresses().unwrap();
    all.iter().filter(|(link, address)| *link == eth0 && address.addr().is_ipv6()).count()
}

/// The next daemon goes on with what the last one made; one that takes over, while traffic flows.
#[test]
fn a_daemon_follows_another() {
    let mut lab = build(LabSpec::dual(Mode::Vxlan));
    lab.start(margay(), &[]).unwrap_or_else(|error| panic!("{error}"));
    let check = |lab: &Lab, what: &str| {
        let [a, b] = &lab.nodes;
        answered(&a.pods[0], v6(&b.pods[0]), what);
        answered(&b.pods[0], v6(&a.pods[1]), what);
    };
    check(&lab, "at first");
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
    lab.start(margay(), &[]).unwrap_or_else(|error| panic!("{error}"));
    check(&lab, "after a new start");
    let before = lab.take_over(0, margay(), &[]).unwrap_or_else(|error| panic!("{error}"));
    drop(before);
    check(&lab, "after a take-over");
    lab.add_pod(0).unwrap();
    let new = lab.nodes[0].pods.last().unwrap();
    new.wait(Duration::from_secs(10)).unwrap();
    answered(new, v6(&lab.nodes[1].pods[0]), "a new pod");
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}
