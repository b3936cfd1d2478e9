//! Real daemons on nodes in namespaces: margay to margay in each mode, and margay to the kernel's own
//! forwarding set up as Felix does it.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use margay::cli::dissect;
use margay::rib::Attach;
use margay::testbed::{Capture, Lab, LabSpec, Mode, NodeKind, Ping, Pod, Topology, ping, transfer, udp_echo};

const MARGAY: &str = env!("CARGO_BIN_EXE_margay");

fn started(spec: LabSpec) -> Lab {
    let mut lab = Lab::new(spec).expect("a lab needs root, or a user namespace of its own");
    lab.start(Path::new(MARGAY), &[]).unwrap();
    lab
}

/// Every pair of pods can ping each other; TCP and UDP of every size arrive whole, within a node and across,
/// from both sides.
fn prove(lab: &Lab) {
    let pods: Vec<&Pod> = lab.nodes.iter().flat_map(|node| &node.pods).collect();
    for from in &pods {
        for to in pods.iter().filter(|to| to.address != from.address) {
            let report = ping(&from.netns, to.address, Ping::default()).unwrap();
            assert_eq!(report.lost(), 0, "{} to {}: {report}", from.name, to.name);
        }
    }
    let [a, b] = &lab.nodes;
    let pairs = [(&a.pods[0], &b.pods[0]), (&b.pods[0], &a.pods[0]), (&a.pods[0], &a.pods[1])];
    let largest = lab.spec.pod_mtu() as usize - 28;
    for (from, to) in pairs {
        let way = format!("{} to {}", from.name, to.name);
        let moved = transfer(&from.netns, &to.netns, to.address, 8 << 20).unwrap();
        assert!(moved.intact() && moved.bytes == 8 << 20, "{way}: {moved:?}");
        let report = udp_echo(&from.netns, &to.netns, to.address, 0..=largest).unwrap();
        assert_eq!((report.returned, &report.failed[..]), (largest + 1, &[][..]), "{way}");
        assert!(report.repeated < 10, "{way}: {report:?}");
    }
}

/// What two pings across look like at eth0 of node-a: the second level of headers begins with `inner`, or
/// there is none.
fn on_the_underlay(lab: &Lab, inner: Option<&str>, outer: &str) {
    let [a, b] = &lab.nodes;
    let (from, to) = (&a.pods[0], &b.pods[0]);
    let capture = Capture::start(&a.netns, "eth0").unwrap();
    assert_eq!(ping(&from.netns, to.address, Ping { count: 2, ..Ping::default() }).unwrap().lost(), 0);
    let frames = capture.stop();
    let seen: Vec<_> = frames
        .iter()
        .filter(|frame| dissect::concerns(&frame.bytes, Lab::pool()))
        .map(|frame| dissect::frame(&frame.bytes))
        .collect();
    assert_eq!(seen.len(), 4, "{seen:#?}");
    for frame in &seen {
        assert!(frame.levels[0].contains(outer), "{frame}");
        match inner {
            Some(text) => assert!(frame.levels[1].starts_with(text), "{frame}"),
            None => assert_eq!(frame.levels.len(), 1, "{frame}"),
        }
    }
}

#[test]
fn ipip() {
    let lab = started(LabSpec::new(Mode::Ipip));
    prove(&lab);
    on_the_underlay(&lab, Some("10.65.0."), "IPIP (4) ");
}

#[test]
fn vxlan() {
    let lab = started(LabSpec::new(Mode::Vxlan));
    prove(&lab);
    on_the_underlay(&lab, Some("VXLAN vni 4096 66:"), ".4789: UDP ttl 6");
}

#[test]
fn no_encapsulation() {
    let lab = started(LabSpec::new(Mode::None));
    prove(&lab);
    on_the_underlay(&lab, None, "10.65.0.");
}

#[test]
fn no_encapsulation_behind_a_router() {
    let lab = started(LabSpec { topology: Topology::Routed, ..LabSpec::new(Mode::None) });
    prove(&lab);
    on_the_underlay(&lab, None, "10.65.0.");
}

#[test]
fn cross_subnet_encapsulates_between_subnets_only() {
    let near = started(LabSpec::new(Mode::IpipCrossSubnet));
    on_the_underlay(&near, None, "10.65.0.");
    prove(&near);
    let far = started(LabSpec { topology: Topology::Routed, ..LabSpec::new(Mode::IpipCrossSubnet) });
    on_the_underlay(&far, Some("10.65.0."), "IPIP (4) ");
    prove(&far);
    let vxlan = started(LabSpec { topology: Topology::Routed, ..LabSpec::new(Mode::VxlanCrossSubnet) });
    on_the_underlay(&vxlan, Some("VXLAN vni 4096 66:"), ".4789: UDP ttl 6");
    prove(&vxlan);
}

#[test]
fn pods_on_veths() {
    for mode in [Mode::Ipip, Mode::Vxlan, Mode::None] {
        prove(&started(LabSpec { attach: Attach::Veth, ..LabSpec::new(mode) }));
    }
}

#[test]
fn a_larger_underlay() {
    prove(&started(LabSpec { underlay_mtu: 9000, ..LabSpec::new(Mode::Vxlan) }));
}

#[test]
fn a_kernel_node_with_vxlan() {
    let kinds = [NodeKind::Kernel, NodeKind::Margay];
    prove(&started(LabSpec { kinds, ..LabSpec::new(Mode::Vxlan) }));
    prove(&started(LabSpec { kinds, topology: Topology::Routed, ..LabSpec::new(Mode::Vxlan) }));
    prove(&started(LabSpec { kinds, attach: Attach::Veth, ..LabSpec::new(Mode::Vxlan) }));
}

#[test]
fn a_kernel_node_without_encapsulation() {
    let kinds = [NodeKind::Margay, NodeKind::Kernel];
    prove(&started(LabSpec { kinds, ..LabSpec::new(Mode::None) }));
}

#[test]
fn pods_come_and_go_while_others_talk() {
    let mut lab = started(LabSpec::new(Mode::Vxlan));
    let talker = lab.nodes[0].pods[0].netns.try_clone().unwrap();
    let target = lab.nodes[1].pods[0].address;
    let through = Ping { count: 1500, interval: Duration::from_millis(2), ..Ping::default() };
    let talk = std::thread::spawn(move || ping(&talker, target, through).unwrap());
    for _ in 0..5 {
        let patience = Duration::from_secs(5);
        let new = lab.add_pod(0).unwrap();
        new.wait(patience).unwrap();
        let (netns, address) = (new.netns.try_clone().unwrap(), new.address);
        // Its interface is configured a moment before the workers know its route.
        let hello = Ping { count: 1, patience: Duration::from_millis(100), ..Ping::default() };
        let heard = (0..50).any(|_| ping(&netns, target, hello).unwrap().lost() == 0);
        assert!(heard, "a new pod is heard");
        assert_eq!(ping(&netns, target, Ping::default()).unwrap().lost(), 0, "and stays so");
        let last = lab.nodes[0].pods.len() - 1;
        let gone = lab.remove_pod(0, last).unwrap();
        assert!(silent(&lab, address), "{} is unreachable once removed", gone.name);
    }
    let report = talk.join().unwrap();
    assert_eq!(report.lost(), 0, "{report}");
}

/// No pod answers at `address`, within five seconds from now.
fn silent(lab: &Lab, address: IpAddr) -> bool {
    let from = &lab.nodes[1].pods[0].netns;
    let one = Ping { count: 1, patience: Duration::from_millis(100), ..Ping::default() };
    (0..50).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        ping(from, address, one).unwrap().lost() == 1
    })
}

#[test]
fn a_daemon_that_ends_takes_away_what_it_made() {
    let mut lab = started(LabSpec::new(Mode::Ipip));
    lab.stop().unwrap();
    for node in &lab.nodes {
        let links = node.netns.netlink().unwrap().links().unwrap();
        assert!(links.iter().all(|link| !link.name.starts_with("margay")), "{links:?}");
        for pod in &node.pods {
            assert!(pod.netns.netlink().unwrap().link("eth0").is_err(), "the TAP of {} is gone", pod.name);
        }
    }
}
