//! What leaves by the link layer, and when: once the kernel has resolved a peer's next hop, and as long as that is
//! the way that the kernel would take.
//!
//! The kernel counts the octets of the IP packets that it sends (`IpExt: OutOctets`); those of a packet socket
//! are not among them. That is how the two ways are told apart.

mod lab;

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use lab::{Packet, build, moves_tcp, packets, reaches, start, sysctl, until};
use margay::lpm::Prefix;
use margay::sys::netlink::{LinkChange, Route, VethEnd};
use margay::sys::netns::Netns;
use margay::sys::tun::{self, Layer};
use margay::testbed::{Capture, Lab, LabSpec, Mode, Ping, Pod, Topology, add_ipsec_policy, ping};
use margay::wire::MacAddr;

const MEGABYTE: u64 = 1_000_000;

/// Octets of IP that the kernel of a namespace has sent.
fn sent_by_the_kernel(netns: &Netns) -> u64 {
    let text = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/netstat")).unwrap().unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("IpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let column = names.split(' ').position(|name| name == "OutOctets").unwrap();
    values.split(' ').nth(column).unwrap().parse().unwrap()
}

/// What the kernels of both nodes send while pods move a megabyte each way.
fn kernels_share(lab: &Lab) -> [u64; 2] {
    let [a, b] = &lab.nodes;
    let before = [a, b].map(|node| sent_by_the_kernel(&node.netns));
    moves_tcp(&a.pods[0], &b.pods[0], MEGABYTE);
    let after = [a, b].map(|node| sent_by_the_kernel(&node.netns));
    [after[0] - before[0], after[1] - before[1]]
}

fn answers(from: &Pod, to: IpAddr) -> bool {
    let brief = Ping { count: 1, patience: Duration::from_millis(200), ..Ping::default() };
    ping(&from.netns, to, brief).is_ok_and(|report| report.lost() == 0)
}

#[test]
fn once_resolved_the_kernel_has_no_part_in_it() {
    for mode in [Mode::Ipip, Mode::None] {
        for topology in [Topology::SameSubnet, Topology::Routed] {
            let mut lab = start(LabSpec { topology, ..LabSpec::new(mode) }, &[]);
            // Not one is lost while the next hop is resolved, nor when the way changes.
            reaches(&lab.nodes[0].pods[0].netns, lab.nodes[1].pods[0].address, "the first packets");
            until("both leave by the link", || kernels_share(&lab).iter().all(|sent| *sent < MEGABYTE / 10));
            lab.stop().unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

/// Nobody tells: node-b's kernel is asked again because node-a sends to it.
#[test]
fn a_peer_with_another_mac_is_found_again() {
    for mode in [Mode::Ipip, Mode::None] {
        let lab = start(LabSpec::new(mode), &[]);
        let [a, b] = &lab.nodes;
        for (name, value) in
            [("base_reachable_time_ms", "200"), ("delay_first_probe_time", "0"), ("retrans_time_ms", "100")]
        {
            sysctl(&a.netns, &format!("net/ipv4/neigh/eth0/{name}"), value);
        }
        until("node-a sends by the link", || kernels_share(&lab)[0] < MEGABYTE / 10);
        let other = LinkChange::Mac(MacAddr([2, 0x77, 0, 0, 0, 0x0b]));
        b.netns.netlink().unwrap().set_link("eth0", &[other]).unwrap();
        until("node-a has found it", || answers(&a.pods[0], b.pods[0].address));
        until("and sends by the link again", || kernels_share(&lab)[0] < MEGABYTE / 10);
    }
}

#[test]
fn a_neighbour_that_the_kernel_forgot_is_resolved_again() {
    let lab = start(LabSpec::new(Mode::Ipip), &[]);
    let [a, b] = &lab.nodes;
    until("node-a sends by the link", || kernels_share(&lab)[0] < MEGABYTE / 10);
    let mut netlink = a.netns.netlink().unwrap();
    let eth0 = netlink.link("eth0").unwrap().index;
    netlink.delete_neighbour(eth0, b.address()).unwrap();
    reaches(&a.pods[0].netns, b.pods[0].address, "while it is resolved");
    until("by the link again", || kernels_share(&lab)[0] < MEGABYTE / 10);
}

/// A peer whose route leaves by another interface is the kernel's to reach, and back by the first one.
#[test]
fn a_route_by_another_interface_is_followed() {
    let lab = start(LabSpec::new(Mode::Ipip), &[]);
    let [a, b] = &lab.nodes;
    until("node-a sends by the link", || kernels_share(&lab)[0] < MEGABYTE / 10);

    let (mut at_a, mut at_b) = (a.netns.netlink().unwrap(), b.netns.netlink().unwrap());
    let [near, far] = ["192.168.90.1", "192.168.90.2"].map(lab::ip);
    at_a.add_veth(
        &VethEnd { name: "eth1", mac: None, mtu: None, netns: None },
        &VethEnd { name: "eth1", mac: None, mtu: None, netns: Some(b.netns.as_fd()) },
    )
    .unwrap();
    for (netlink, address) in [(&mut at_a, near), (&mut at_b, far)] {
        netlink.set_link("eth1", &[LinkChange::Up]).unwrap();
        let eth1 = netlink.link("eth1").unwrap().index;
        netlink.add_address(eth1, Prefix::new(address, 24).unwrap()).unwrap();
    }
    for netns in [&a.netns, &b.netns] {
        sysctl(netns, "net/ipv4/conf/all/rp_filter", "0");
        sysctl(netns, "net/ipv4/conf/eth1/rp_filter", "0");
    }
    let detour = Route { via: Some(far), ..Route::to(Prefix::from(b.address())) };
    at_a.add_route(&detour).unwrap();

    let by_eth1 = || {
        let capture = Capture::start(&a.netns, "eth1").unwrap();
        let answered = answers(&a.pods[0], b.pods[0].address);
        let is_ipip = |packet: &Packet| packet.protocol == 4 && packet.destination == b.address();
        let seen = packets(&capture.stop()).iter().filter(|packet| is_ipip(packet)).count();
        answered && seen == 1
    };
    until("packets take the detour", by_eth1);
    moves_tcp(&a.pods[0], &b.pods[0], MEGABYTE);

    at_a.delete_route(&detour).unwrap();
    until("by the link again", || kernels_share(&lab)[0] < MEGABYTE / 10);
}

/// A packet socket would send in clear what a policy says is to be encrypted.
#[test]
fn a_node_with_ipsec_policies_leaves_it_to_the_kernel() {
    for mode in [Mode::Ipip, Mode::None] {
        let mut lab = start(LabSpec::new(mode), &[]);
        until("both leave by the link", || kernels_share(&lab).iter().all(|sent| *sent < MEGABYTE / 10));
        lab.nodes[0].netns.run(add_ipsec_policy).unwrap().expect("this test needs a kernel with XFRM");
        until("node-a's leave by its kernel", || kernels_share(&lab)[0] > MEGABYTE);
        assert!(kernels_share(&lab)[1] < MEGABYTE / 10, "node-b has no policies");
        lab.stop().unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Without Ethernet there are no next hops to send to: all is the raw socket's.
#[test]
fn an_underlay_without_ethernet_is_left_to_the_kernel() {
    let lab = build(LabSpec::new(Mode::Ipip));
    let node = &lab.nodes[0];
    let tunnel = node.netns.run(|| tun::open("tun0", Layer::Tun, 1)).unwrap().unwrap();
    let mut netlink = node.netns.netlink().unwrap();
    netlink.delete_link("eth0").unwrap();
    netlink.set_link("tun0", &[LinkChange::Up]).unwrap();
    let tun0 = netlink.link("tun0").unwrap().index;
    netlink.add_address(tun0, node.underlay).unwrap();
    let mut command = node.netns.command(lab::margay()).unwrap();
    command
        .args(["run", "--control-socket", "none", "--node", "node-a", "--resources"])
        .arg(lab.resources.path());
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let line = lines.map_while(Result::ok).find(|line| line.contains("next hops"));
    child.kill().unwrap();
    child.wait().unwrap();
    let mut command = node.netns.command(lab::margay()).unwrap();
    command.args([
        "run",
        "--control-socket",
        "none",
        "--node",
        "node-a",
        "--ipip-offload",
        "bpf",
        "--resources",
    ]);
    let refused = command.arg(lab.resources.path()).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("--ipip-offload off"), "{said}");
    let line = line.expect("a line about next hops");
    assert!(line.contains("raw socket") && line.contains("tun0 is not an Ethernet interface"), "{line}");
    drop(tunnel);
}
