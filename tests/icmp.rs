//! What pods are told by ICMP, with the kernel's own sockets: T2, T3, T8 of the standards.

mod lab;

use std::net::IpAddr;

use lab::{ip, start, sysctl};
use margay::rib::Attach;
use margay::sys::netns::Netns;
use margay::testbed::{Hop, Lab, LabSpec, Mode, Probe, Topology, traceroute};

/// Who answers for a node.
fn speaker(lab: &Lab, node: usize) -> IpAddr {
    match lab.spec.mode {
        Mode::None => lab.nodes[node].address(),
        _ => lab.nodes[node].tunnel_address,
    }
}

/// Every router once, in order, then `to` itself.
#[track_caller]
fn shows(from: &Netns, to: IpAddr, routers: &[IpAddr]) {
    for (probe, at_last) in [(Probe::Udp, (3, 3)), (Probe::Icmp, (0, 0))] {
        let mut wanted: Vec<Vec<Hop>> =
            routers.iter().map(|router| vec![Hop { from: *router, said: (11, 0) }]).collect();
        wanted.push(vec![Hop { from: to, said: at_last }]);
        assert_eq!(traceroute(from, to, probe).unwrap(), wanted, "{probe:?} to {to}");
    }
}

/// RFC 1812 5.3.1, RFC 2003 3.1: a tunnel is one hop, and a node is one, also with its kernel.
#[test]
fn t2_t3_traceroute_shows_each_node_once() {
    for spec in [
        LabSpec::new(Mode::Ipip),
        LabSpec::new(Mode::Vxlan),
        LabSpec::new(Mode::None),
        LabSpec { attach: Attach::Veth, ..LabSpec::new(Mode::Vxlan) },
        LabSpec { topology: Topology::Routed, ..LabSpec::new(Mode::Ipip) },
        LabSpec { topology: Topology::Routed, ..LabSpec::new(Mode::None) },
    ] {
        let lab = start(spec, &[]);
        let [a, b] = &lab.nodes;
        let [near, far] = [speaker(&lab, 0), speaker(&lab, 1)];
        shows(&a.pods[0].netns, a.pods[1].address, &[near]);
        // The underlay's router is on the way of what is not encapsulated.
        let router = ip("192.168.77.254");
        let between = match (lab.spec.topology, lab.spec.mode) {
            (Topology::Routed, Mode::None) => vec![near, router, far],
            _ => vec![near, far],
        };
        shows(&a.pods[0].netns, b.pods[0].address, &between);
        // The kernel of the node has counted no hop of what it made. What goes back to a node's own address the other
        // kernel passes on, from the dummy address (RFC 7600): it takes nothing from its own.
        sysctl(&b.netns, "net/ipv4/ip_forward", "1");
        let mut between = between[1..].to_vec();
        if lab.spec.mode == Mode::None {
            between.pop();
            between.push(ip("192.0.0.8"));
        }
        shows(&a.netns, b.pods[0].address, &between);
    }
}

#[test]
fn t2_the_node_itself_is_no_hop_with_its_kernel_or_without() {
    for arguments in [&[][..], &["--host-interface", "none"]] {
        let lab = start(LabSpec::new(Mode::Vxlan), arguments);
        let [a, b] = &lab.nodes;
        let says = |to: IpAddr| traceroute(&a.pods[0].netns, to, Probe::Icmp).unwrap();
        let answers = |from| vec![Hop { from, said: (0, 0) }];
        assert_eq!(says(a.tunnel_address), [answers(a.tunnel_address)], "{arguments:?}");
        assert_eq!(says(ip("169.254.1.1")), [answers(ip("169.254.1.1"))], "{arguments:?}");
        let near = vec![Hop { from: a.tunnel_address, said: (11, 0) }];
        assert_eq!(says(b.tunnel_address), [near, answers(b.tunnel_address)], "{arguments:?}");
    }
}

/// RFC 1812 4.3.2.4.
#[test]
fn t8_the_source_of_errors_is_the_one_that_is_configured() {
    let lab = start(LabSpec::new(Mode::Ipip), &["--icmp-source", "10.65.0.9"]);
    let a = &lab.nodes[0];
    shows(&a.pods[0].netns, a.pods[1].address, &[ip("10.65.0.9")]);
}
