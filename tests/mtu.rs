//! M1, M5, M13: pods get the MTU that the underlay leaves them and keep it when that changes; TCP finds its size by
//! ICMP, and without ICMP where a pool has the MSS clamped.

mod lab;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use lab::{build, margay, moves_tcp, packets, reaches, start, sysctl, until};
use margay::lpm::Prefix;
use margay::rib::Attach;
use margay::sys::netlink::{LinkChange, Route, RouteKind, Scope, VethEnd};
use margay::sys::netns::Netns;
use margay::testbed::{Capture, Lab, LabSpec, Mode, Pod};
use margay::wire::Family;

fn felix(lab: &Lab, spec: &str) {
    let text = format!(
        "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata:\n  name: default\nspec:\n  {spec}\n"
    );
    lab.resources.write("felix.yaml", &text).unwrap();
}

fn set_mtu(netns: &Netns, name: &str, mtu: u32) {
    netns.netlink().unwrap().set_link(name, &[LinkChange::Mtu(mtu)]).unwrap();
}

/// The MTU of both ends of the underlay.
fn set_underlay(lab: &Lab, mtu: u32) {
    lab.nodes.iter().for_each(|node| set_mtu(&node.netns, "eth0", mtu));
}

fn mtu_of(netns: &Netns, name: &str) -> u32 {
    netns.netlink().unwrap().link(name).unwrap().mtu
}

#[track_caller]
fn become_mtu(lab: &Lab, wanted: u32) {
    for pod in lab.nodes.iter().flat_map(|node| &node.pods) {
        until(&format!("MTU {wanted} in {}", pod.name), || mtu_of(&pod.netns, "eth0") == wanted);
    }
}

fn said(lab: &mut Lab, what: &str) {
    until(&format!("{what:?} in what the daemon says"), || {
        lab.nodes[0].daemon().expect("a margay node").output().contains(what)
    });
}

/// What a sender is told that sends too much: the path MTU that the kernel of the namespace has learned.
fn told_mtu(from: &Netns, to: IpAddr) -> u32 {
    let (any, headers): (IpAddr, _) = if to.is_ipv4() { ([0; 4].into(), 28) } else { ([0; 16].into(), 48) };
    let socket = from.run(|| UdpSocket::bind(SocketAddr::new(any, 0))).unwrap().unwrap();
    socket.connect(SocketAddr::new(to, 9)).unwrap();
    let mut netlink = from.netlink().unwrap();
    let mut path = || netlink.path_to(to).unwrap().mtu;
    let before = path();
    let datagram = vec![0; before as usize - headers];
    until("the word that it is too much", || {
        // What is learned, or that nobody listens, is an error of a later send.
        let _ = socket.send(&datagram);
        path() < before
    });
    path()
}

#[test]
fn the_pods_mtu_follows_the_underlays_interface() {
    for (mode, overhead, reason) in
        [(Mode::Vxlan, 50, " - VXLAN 50"), (Mode::Ipip, 20, " - IPIP 20"), (Mode::None, 0, "\n")]
    {
        let mut lab = start(LabSpec::new(mode), &[]);
        said(&mut lab, &format!("MTU        of endpoints {}: underlay eth0 1500{reason}", 1500 - overhead));
        for underlay in [1400, 2000, 1500] {
            set_underlay(&lab, underlay);
            become_mtu(&lab, underlay - overhead);
            said(
                &mut lab,
                &format!("MTU of endpoints {}: underlay eth0 {underlay}{reason}", underlay - overhead),
            );
            let [a, b] = &lab.nodes;
            until("the host interface's MTU", || mtu_of(&a.netns, "margay0") == underlay - overhead);
            moves_tcp(&a.pods[0], &b.pods[0], 1 << 20);
        }
        // A pod that comes later has it as well.
        set_underlay(&lab, 1300);
        become_mtu(&lab, 1300 - overhead);
        lab.add_pod(0).unwrap();
        until("the new pod", || {
            let link = lab.nodes[0].pods[2].netns.netlink().unwrap().link("eth0");
            link.is_ok_and(|link| link.running && link.mtu == 1300 - overhead)
        });
        lab.stop().unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn the_pods_mtu_follows_the_mtu_of_a_route_to_a_peer() {
    let mut lab = start(LabSpec::new(Mode::Vxlan), &[]);
    let mut netlink = lab.nodes[0].netns.netlink().unwrap();
    let dev = netlink.link("eth0").unwrap().index;
    let route = Route {
        dev: Some(dev),
        scope: Scope::Link,
        mtu: Some(1300),
        ..Route::to(lab.nodes[1].address().into())
    };
    netlink.add_route(&route).unwrap();
    let pods = |wanted| {
        let pods = &lab.nodes[0].pods;
        until(&format!("MTU {wanted}"), || pods.iter().all(|pod| mtu_of(&pod.netns, "eth0") == wanted));
    };
    pods(1250);
    let route = Route { mtu: Some(1320), ..route };
    netlink.replace_route(&route).unwrap();
    pods(1270);
    netlink.delete_route(&route).unwrap();
    pods(1450);
    said(&mut lab, "MTU of endpoints 1250: route to node-b (192.168.77.2) 1300 - VXLAN 50");
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

/// Settings lower the MTU; what does not fit they cannot make fit.
#[test]
fn settings_lower_the_mtu_and_say_so() {
    for (mode, spec, mtu, reason) in [
        (Mode::Vxlan, "vxlanMTU: 1400", 1400, "1400: Felix's vxlanMTU"),
        (Mode::Vxlan, "vxlanMTU: 1451", 1450, "1450: underlay eth0 1500 - VXLAN 50"),
        (Mode::Ipip, "ipipMTU: 1399", 1399, "1399: Felix's ipipMTU"),
        (Mode::Ipip, "ipipMTU: 9000", 1480, "1480: underlay eth0 1500 - IPIP 20"),
        (Mode::Vxlan, "mtu: 1234", 1234, "1234: Felix's mtu"),
        (
            Mode::Vxlan,
            "mtuIfacePattern: ^other",
            1350,
            "1350: other 1400, as mtuIfacePattern says - VXLAN 50",
        ),
        (Mode::Vxlan, "mtuIfacePattern: ^bond", 1450, "1450: underlay eth0 1500 - VXLAN 50"),
    ] {
        let mut lab = build(LabSpec::new(mode));
        for node in &lab.nodes {
            let mut netlink = node.netns.netlink().unwrap();
            let end = |name, mtu| VethEnd { name, mac: None, mtu: Some(mtu), netns: None };
            netlink.add_veth(&end("other", 1400), &end("another", 9000)).unwrap();
        }
        felix(&lab, spec);
        lab.start(margay(), &[]).unwrap_or_else(|error| panic!("{error}"));
        become_mtu(&lab, mtu);
        said(&mut lab, reason);
        if spec.contains("bond") {
            said(&mut lab, "mtuIfacePattern \"^bond\" matches no interface");
        }
        lab.stop().unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Pods whose interface takes more than any tunnel: their kernels learn what does.
#[test]
fn m1_m13_a_sender_is_told_the_exact_mtu_and_tcp_goes_on_with_it() {
    for (mode, overhead) in [(Mode::Vxlan, 50), (Mode::Ipip, 20)] {
        let mut lab = build(LabSpec::new(mode));
        felix(&lab, "mtu: 1500");
        lab.start(margay(), &[]).unwrap_or_else(|error| panic!("{error}"));
        become_mtu(&lab, 1500);
        let [a, b] = &lab.nodes;
        moves_tcp(&a.pods[0], &b.pods[0], 1 << 20);
        assert_eq!(told_mtu(&a.pods[0].netns, b.pods[1].address), 1500 - overhead);

        // The FIB follows while it runs, and nothing is fragmented outside.
        set_underlay(&lab, 1400);
        for (from, to) in [(&a.pods[1], &b.pods[0]), (&b.pods[1], &a.pods[0])] {
            until("the FIB", || told_mtu(&from.netns, to.address) == 1400 - overhead);
        }
        let capture = Capture::start(&b.netns, "eth0").unwrap();
        moves_tcp(&a.pods[1], &b.pods[1], 1 << 20);
        let fragments = capture.stop().into_iter().filter(|frame| {
            // MF, or an offset.
            frame.bytes.get(20..22).is_some_and(|field| field[0] & 0x3f != 0 || field[1] != 0)
                && frame.bytes[12..14] == [0x08, 0x00]
        });
        assert_eq!(fragments.count(), 0, "M5: tunnel packets are whole");
        lab.stop().unwrap_or_else(|error| panic!("{error}"));
    }
}

/// A veth has the MTU that it was given, unless that is too large and its other end can be reached.
#[test]
fn a_veths_mtu_is_lowered_with_both_ends_and_never_raised_above_what_it_was() {
    let spec = LabSpec { attach: Attach::Veth, ..LabSpec::new(Mode::Vxlan) };
    let mut lab = build(spec);
    let file = format!("workload-{}.yaml", lab.nodes[0].pods[0].name);
    let text = std::fs::read_to_string(lab.resources.path().join(&file)).unwrap();
    let attach = "    margay.dev/attach: veth\n";
    let netns = format!("{attach}    margay.dev/netns: {}\n", lab.nodes[0].pods[0].netns.path().display());
    lab.resources.write(&file, &text.replace(attach, &netns)).unwrap();
    let ends = |lab: &Lab, pod: usize| {
        let (node, pod) = (&lab.nodes[0].netns, &lab.nodes[0].pods[pod]);
        (mtu_of(&pod.netns, "eth0"), mtu_of(node, &pod.host_interface))
    };
    let give = |lab: &Lab, pod: usize, mtu| {
        let (node, pod) = (&lab.nodes[0].netns, &lab.nodes[0].pods[pod]);
        set_mtu(&pod.netns, "eth0", mtu);
        set_mtu(node, &pod.host_interface, mtu);
    };
    give(&lab, 1, 1300);
    lab.start(margay(), &[]).unwrap_or_else(|error| panic!("{error}"));
    said(&mut lab, "packet socket, MTU 1300 as it was given");
    let pods = |lab: &Lab, first: u32, second: u32| {
        until(&format!("MTUs {first} and {second}"), || {
            ends(lab, 0) == (first, first) && ends(lab, 1) == (second, second)
        });
    };
    set_underlay(&lab, 1400);
    pods(&lab, 1350, 1300);
    assert_eq!(told_mtu(&lab.nodes[0].pods[0].netns, lab.nodes[0].pods[1].address), 1300);
    set_underlay(&lab, 2000);
    pods(&lab, 1450, 1300);
    // Somebody gives it another one while it is served: the FIB has that.
    give(&lab, 1, 1200);
    let pod = |node: usize, pod: usize| &lab.nodes[node].pods[pod];
    until("the FIB", || told_mtu(&pod(1, 0).netns, pod(0, 1).address) == 1200);
    set_underlay(&lab, 1400);
    pods(&lab, 1350, 1200);
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        (ends(&lab, 0), ends(&lab, 1)),
        ((1350, 1350), (1200, 1200)),
        "what pods have outlasts the daemon"
    );
    // The next one knows what was somebody's choice and what was its predecessor's.
    lab.start(margay(), &[]).unwrap_or_else(|error| panic!("{error}"));
    set_underlay(&lab, 2000);
    pods(&lab, 1450, 1200);
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

/// What the kernel has learned of a way and will forget is not for the pods' interfaces.
#[test]
fn a_learned_mtu_is_not_a_lasting_one() {
    for (network, length) in [("192.168.", 24), ("fd00:", 64)] {
        learned_and_lasting(network, length);
    }
}

/// Two networks that begin with `network`, and a router between them.
fn learned_and_lasting(network: &str, length: u8) {
    let dot = if length == 24 { "." } else { "::" };
    let at = |subnet: u8, host: u8| -> IpAddr { format!("{network}{subnet}{dot}{host}").parse().unwrap() };
    let [near, router, far] = [(); 3].map(|()| Netns::create().unwrap());
    let join = |a: (&Netns, &str, IpAddr, u32), b: (&Netns, &str, IpAddr)| {
        let end = |name, mtu, netns| VethEnd { name, mac: None, mtu: Some(mtu), netns };
        a.0.netlink().unwrap().add_veth(&end(a.1, a.3, None), &end(b.1, 1500, Some(b.0.as_fd()))).unwrap();
        for (netns, name, address) in [(a.0, a.1, a.2), (b.0, b.1, b.2)] {
            let mut netlink = netns.netlink().unwrap();
            let dev = netlink.link(name).unwrap().index;
            netlink.add_address(dev, Prefix::new(address, length).unwrap()).unwrap();
            netlink.set_link(name, &[LinkChange::Up]).unwrap();
        }
    };
    join((&router, "a", at(1, 254), 1500), (&near, "eth0", at(1, 1)));
    join((&router, "b", at(2, 254), 1300), (&far, "eth0", at(2, 1)));
    sysctl(&router, "net/ipv4/ip_forward", "1");
    sysctl(&router, "net/ipv6/conf/all/forwarding", "1");
    let address = at(2, 1);
    for (netns, subnet) in [(&near, 1), (&far, 2)] {
        let via = Some(at(subnet, 254));
        netns.netlink().unwrap().add_route(&Route { via, ..Route::default_of(Family::of(address)) }).unwrap();
    }
    assert_eq!(told_mtu(&near, address), 1300);
    let mut netlink = near.netlink().unwrap();
    assert_eq!(netlink.next_hop(address).unwrap().unwrap().mtu, Some(1300), "learned");
    let path = netlink.lasting_path(address).unwrap().unwrap();
    assert_eq!((path.dev, path.mtu), (netlink.link("eth0").unwrap().index, None));
    // That which somebody has set lasts, learned or not.
    let via = Some(at(1, 254));
    let route = Route { via, mtu: Some(1400), ..Route::to(Prefix::new(at(2, 0), length).unwrap()) };
    netlink.add_route(&route).unwrap();
    assert_eq!(netlink.lasting_path(address).unwrap().unwrap().mtu, Some(1400));
    assert_eq!(told_mtu(&near, address), 1300);
    assert_eq!(netlink.lasting_path(address).unwrap().unwrap().mtu, Some(1400));
    // To this host itself nothing leaves.
    assert_eq!(netlink.lasting_path(at(1, 1)).unwrap(), None);
}

/// So many bytes over a new TCP connection; false where they do not arrive.
fn arrives(from: &Pod, to: &Pod, bytes: usize) -> bool {
    let listener = to.netns.run(|| TcpListener::bind(SocketAddr::new(to.address, 0))).unwrap().unwrap();
    let target = listener.local_addr().unwrap();
    let patience = Duration::from_secs(3);
    let near = from.netns.run(|| TcpStream::connect_timeout(&target, patience)).unwrap();
    let (mut near, (mut far, _)) = (near.unwrap(), listener.accept().unwrap());
    far.set_read_timeout(Some(patience)).unwrap();
    near.set_write_timeout(Some(patience)).unwrap();
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || near.write_all(&vec![7; bytes]).map(|()| near));
        let mut received = vec![0; bytes];
        let arrived = far.read_exact(&mut received).is_ok() && received.iter().all(|byte| *byte == 7);
        drop(far);
        let _ = sender.join().unwrap();
        arrived
    })
}

/// Nothing that the node says reaches the pod: what comes from the addresses of its errors is taken for forged.
fn deafen(lab: &Lab) {
    for (node, pod) in lab.nodes.iter().flat_map(|node| node.pods.iter().map(move |pod| (node, pod))) {
        sysctl(&pod.netns, "net/ipv4/conf/all/rp_filter", "1");
        let mut netlink = pod.netns.netlink().unwrap();
        for address in [node.tunnel_address, node.address()] {
            netlink.add_route(&Route { kind: RouteKind::Blackhole, ..Route::to(address.into()) }).unwrap();
        }
    }
}

/// M13 where it fails: pods that send 1,500 bytes and hear no ICMP. With the MSS clamped they never send so much.
#[test]
fn m13_with_the_mss_clamped_tcp_needs_no_icmp() {
    for mode in [Mode::Vxlan, Mode::Ipip] {
        let mut lab = build(LabSpec::new(mode));
        felix(&lab, "mtu: 1500");
        lab.start(margay(), &[]).unwrap_or_else(|error| panic!("{error}"));
        become_mtu(&lab, 1500);
        deafen(&lab);
        let across = |lab: &Lab, bytes| {
            let [a, b] = &lab.nodes;
            [(&a.pods[0], &b.pods[0]), (&b.pods[1], &a.pods[1])].map(|(from, to)| arrives(from, to, bytes))
        };
        assert_eq!(across(&lab, 1000), [true, true], "{mode:?}: small segments pass");
        assert_eq!(across(&lab, 100_000), [false, false], "{mode:?}: and large ones vanish");

        let pool = std::fs::read_to_string(lab.resources.path().join("pool.yaml")).unwrap();
        let clamped = "  name: pods\n  annotations:\n    margay.dev/tcp-mss-clamp: auto\n";
        lab.resources.write("pool.yaml", &pool.replace("  name: pods\n", clamped)).unwrap();
        until("the clamped pool", || across(&lab, 100_000) == [true, true]);
        // Not one segment was too large: nobody had to be told.
        let capture = Capture::start(&lab.nodes[0].pods[0].netns, "eth0").unwrap();
        assert_eq!(across(&lab, 1 << 20), [true, true]);
        let seen = packets(&capture.stop());
        assert!(seen.len() > 10 && seen.iter().all(|packet| packet.icmp().is_none()));
        reaches(&lab.nodes[0].pods[0].netns, lab.nodes[1].pods[0].address, "across");
        lab.stop().unwrap_or_else(|error| panic!("{error}"));
    }
}
