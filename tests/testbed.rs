//! The test bed proves itself on the kernel: two nodes as Felix sets them up, no daemon.

use std::net::IpAddr;
use std::time::Duration;

use margay::rib::{Attach, Encap, Target};
use margay::testbed::{
    Capture, Lab, LabSpec, Mode, NodeKind, Ping, Pod, Stack, Topology, ping, throughput, transfer, udp_echo,
};
use margay::wire::Family;

fn kernel_lab(mode: Mode, topology: Topology) -> Lab {
    kernels(LabSpec { topology, ..LabSpec::new(mode) })
}

fn kernels(spec: LabSpec) -> Lab {
    let spec = LabSpec { kinds: [NodeKind::Kernel; 2], ..spec };
    Lab::new(spec).expect("a lab needs root, or a user namespace of its own")
}

/// Every pair of pods can ping each other, both ways, in each family that they have.
fn all_reach_all(lab: &Lab) {
    let pods: Vec<&Pod> = lab.nodes.iter().flat_map(|node| &node.pods).collect();
    for from in &pods {
        for to in pods.iter().filter(|to| to.address != from.address) {
            for address in to.addresses() {
                let report = ping(&from.netns, address, Ping::default()).unwrap();
                assert_eq!((report.sent, report.lost()), (3, 0), "{} to {address}: {report:?}", from.name);
            }
        }
    }
}

#[test]
fn kernels_with_both_families() {
    for (mode, topology) in [
        (Mode::Vxlan, Topology::SameSubnet),
        (Mode::Vxlan, Topology::Routed),
        (Mode::None, Topology::SameSubnet),
        (Mode::None, Topology::Routed),
    ] {
        let lab = kernels(LabSpec { topology, ..LabSpec::dual(mode) });
        assert_eq!(lab.nodes.iter().flat_map(|node| &node.pods).flat_map(Pod::addresses).count(), 8);
        all_reach_all(&lab);
    }
}

#[test]
fn kernels_with_ipv6_alone() {
    let lab = kernels(LabSpec { underlay: Stack::V6, pods: Stack::V6, ..LabSpec::new(Mode::Vxlan) });
    assert_eq!(lab.spec.pod_mtu(), 1430);
    all_reach_all(&lab);
    let (a, b) = (&lab.nodes[0].pods[0], &lab.nodes[1].pods[1]);
    let moved = transfer(&a.netns, &b.netns, b.address, 1_000_000).unwrap();
    assert!(moved.intact(), "{moved:?}");
}

#[test]
fn kernel_vxlan_on_one_subnet() {
    let lab = kernel_lab(Mode::Vxlan, Topology::SameSubnet);
    all_reach_all(&lab);
}

#[test]
fn kernel_vxlan_behind_a_router() {
    all_reach_all(&kernel_lab(Mode::Vxlan, Topology::Routed));
}

#[test]
fn kernel_without_encapsulation_on_one_subnet_and_behind_a_router() {
    all_reach_all(&kernel_lab(Mode::None, Topology::SameSubnet));
    all_reach_all(&kernel_lab(Mode::None, Topology::Routed));
}

#[test]
fn tcp_arrives_whole_and_its_speed_is_measured() {
    let lab = kernel_lab(Mode::Vxlan, Topology::SameSubnet);
    let (a, b) = (&lab.nodes[0].pods[0], &lab.nodes[1].pods[1]);
    let moved = transfer(&a.netns, &b.netns, b.address, 3_000_001).unwrap();
    assert_eq!(moved.bytes, 3_000_001);
    assert!(moved.intact(), "{moved:?}");
    let back = transfer(&b.netns, &a.netns, a.address, 1).unwrap();
    assert_eq!((back.bytes, back.intact()), (1, true));
    let speed = throughput(&a.netns, &b.netns, b.address, Duration::from_millis(200)).unwrap();
    assert!(speed.bytes > 0 && speed.elapsed >= Duration::from_millis(150), "{speed:?}");
}

#[test]
fn udp_of_every_size_comes_back() {
    let lab = kernel_lab(Mode::Vxlan, Topology::SameSubnet);
    let (a, b) = (&lab.nodes[0].pods[0], &lab.nodes[1].pods[0]);
    let largest = lab.spec.pod_mtu() as usize - 28;
    let report = udp_echo(&a.netns, &b.netns, b.address, 0..=largest).unwrap();
    assert_eq!((report.returned, &report.failed[..]), (largest + 1, &[][..]));
    assert!(report.repeated < 10, "{report:?}");
}

/// The tools must be able to say no.
#[test]
fn a_broken_path_shows_as_loss() {
    let lab = kernel_lab(Mode::Vxlan, Topology::SameSubnet);
    let (a, b) = (&lab.nodes[0].pods[0], &lab.nodes[1].pods[0]);
    let brief = Ping { count: 2, patience: Duration::from_millis(50), ..Ping::default() };
    // Of node-b's block, but no pod's: the blackhole under the pods.
    let nobody: IpAddr = "10.65.0.120".parse().unwrap();
    assert_eq!(ping(&a.netns, nobody, brief).unwrap().lost(), 2);
    lab.nodes[1].netns.netlink().unwrap().delete_link("vxlan.calico").unwrap();
    assert_eq!(ping(&a.netns, b.address, brief).unwrap().lost(), 2);
    let report = udp_echo(&a.netns, &b.netns, b.address, 100..=100).unwrap();
    assert_eq!((report.returned, report.repeated, report.failed.len()), (0, 2, 1));
}

#[test]
fn a_capture_shows_the_underlay_and_a_pods_arp() {
    let lab = kernel_lab(Mode::Vxlan, Topology::SameSubnet);
    let (a, b) = (&lab.nodes[0].pods[0], &lab.nodes[1].pods[0]);
    let underlay = Capture::start(&lab.nodes[0].netns, "eth0").unwrap();
    let at_pod = Capture::start(&a.netns, "eth0").unwrap();
    let report = ping(&a.netns, b.address, Ping { count: 1, size: 100, ..Ping::default() }).unwrap();
    assert_eq!(report.lost(), 0);
    // 14 Ethernet, 20 IP, 8 UDP, 8 VXLAN, 14 Ethernet, 20 IP, 8 ICMP, 100.
    let tunnelled = underlay.stop().into_iter().filter(|frame| frame.bytes.len() == 192).count();
    assert_eq!(tunnelled, 2, "request and reply in VXLAN");
    let arp = at_pod.stop().into_iter().filter(|frame| frame.bytes[12..14] == [0x08, 0x06]).count();
    assert!(arp >= 2, "the pod asked for its gateway and was answered");
    let gateway = a.gateway(Family::V4).unwrap().expect("the pod has resolved its gateway");
    assert_eq!(gateway.mac.unwrap().to_string(), "ee:ee:ee:ee:ee:ee");
    a.forget_gateway().unwrap();
    assert_eq!(a.gateway(Family::V4).unwrap().and_then(|entry| entry.mac), None);
}

#[test]
fn a_lab_describes_itself_in_calicos_resources() {
    let mut lab = Lab::new(LabSpec::new(Mode::VxlanCrossSubnet)).unwrap();
    let read = |lab: &Lab, name: &str| std::fs::read_to_string(lab.resources.path().join(name)).unwrap();
    assert!(read(&lab, "pool.yaml").contains("ipipMode: Never\n  vxlanMode: CrossSubnet\n"));
    let node = read(&lab, "node-b.yaml");
    assert!(node.contains("ipv4Address: 192.168.77.2/24\n  ipv4VXLANTunnelAddr: 10.65.0.65\n"), "{node}");
    assert!(node.contains("cidr: 10.65.0.64/26\n  node: node-b\n"), "{node}");
    let pod = read(&lab, "workload-pod-b1.yaml");
    assert!(pod.contains("name: node--b-k8s-pod--b1-eth0\n"), "{pod}");
    assert!(pod.contains("margay.dev/netns: /proc/") && pod.contains("- 10.65.0.66/32\n"), "{pod}");

    let added = lab.add_pod(1).unwrap().name.clone();
    assert_eq!(added, "pod-b3");
    assert!(read(&lab, "workload-pod-b3.yaml").contains("- 10.65.0.68/32\n"));
    let gone = lab.remove_pod(1, 2).unwrap();
    assert_eq!(gone.name, "pod-b3");
    let dir = lab.resources.path().to_owned();
    assert!(!dir.join("workload-pod-b3.yaml").exists());
    drop(lab);
    assert!(!dir.exists(), "the directory goes with the lab");
}

/// The files mean what the lab is built for, by margay's own route calculation.
#[test]
fn every_modes_files_make_the_routes_that_its_name_says() {
    let modes = [
        (Mode::Ipip, Topology::SameSubnet, Encap::Ipip),
        (Mode::Vxlan, Topology::SameSubnet, Encap::Vxlan),
        (Mode::None, Topology::Routed, Encap::Direct),
        (Mode::IpipCrossSubnet, Topology::SameSubnet, Encap::Direct),
        (Mode::IpipCrossSubnet, Topology::Routed, Encap::Ipip),
        (Mode::VxlanCrossSubnet, Topology::Routed, Encap::Vxlan),
    ];
    for (mode, topology, encap) in modes {
        let lab = Lab::new(LabSpec { topology, ..LabSpec::new(mode) }).unwrap();
        let resources = margay::datastore::load(lab.resources.path()).unwrap();
        let plan = margay::rib::plan(&resources, "node-a").unwrap();
        assert_eq!(plan.endpoints.len(), 2);
        assert_eq!((plan.underlays.main_address(), &plan.warnings[..]), (lab.nodes[0].address(), &[][..]));
        let route = plan.routes.iter().find(|route| route.prefix == lab.nodes[1].block).unwrap();
        assert_eq!(
            route.target,
            Target::Peer { peer: 0, encap, underlay: Family::V4 },
            "{mode:?} {topology:?}"
        );
    }
}

#[test]
fn a_veth_pod_is_cabled_as_calicos_cni_plugin_does_it() {
    let lab = Lab::new(LabSpec { attach: Attach::Veth, ..LabSpec::new(Mode::Ipip) }).unwrap();
    let pod = &lab.nodes[0].pods[0];
    pod.wait(Duration::ZERO).unwrap();
    let inside = pod.netns.netlink().unwrap().link("eth0").unwrap();
    assert_eq!((inside.mac, inside.mtu), (Some(pod.mac), 1480));
    let mut node = lab.nodes[0].netns.netlink().unwrap();
    let outside = node.link(pod.host_interface.as_str()).unwrap();
    assert_eq!(outside.mac.unwrap().to_string(), "ee:ee:ee:ee:ee:ee");
}

#[test]
fn labs_that_cannot_be_are_refused() {
    let none = LabSpec { pods_per_node: 0, ..LabSpec::new(Mode::Vxlan) };
    assert!(Lab::new(none).is_err());
    let kernel_ipip = LabSpec { kinds: [NodeKind::Kernel, NodeKind::Margay], ..LabSpec::new(Mode::Ipip) };
    assert!(Lab::new(kernel_ipip).unwrap_err().to_string().contains("IPIP"));
}

#[test]
fn a_daemon_that_does_not_come_up_is_quoted() {
    let mut lab = Lab::new(LabSpec::new(Mode::Vxlan)).unwrap();
    let error = lab.start("/bin/false".as_ref(), &[]).unwrap_err().to_string();
    assert!(error.contains("the daemon of node-a ended before it was ready (exit status: 1)"), "{error}");
    let error = lab.start("/nonexistent".as_ref(), &[]).unwrap_err().to_string();
    assert!(error.contains("start /nonexistent: No such file"), "{error}");
}
