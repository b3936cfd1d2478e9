//! Against the running kernel, in namespaces that the tests make.

use std::net::IpAddr;
use std::os::fd::AsFd;

use super::*;
use crate::lpm::Prefix;
use crate::sys::netns::Netns;
use crate::wire::{Family, MacAddr};

const MAC_A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const MAC_B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);

fn bed() -> (Netns, Netlink) {
    let netns = Netns::create().expect("these tests need root, or a user namespace of their own");
    let netlink = netns.netlink().unwrap();
    (netns, netlink)
}

fn pair(netlink: &mut Netlink, name: &str) -> LinkIndex {
    let end = VethEnd { name, mac: None, mtu: None, netns: None };
    netlink.add_veth(&end, &VethEnd { name: "peer0", ..end }).unwrap();
    netlink.link(name).unwrap().index
}

/// A link that is up, has a carrier and an address.
fn ready(netlink: &mut Netlink, name: &str, address: &str) -> LinkIndex {
    let index = pair(netlink, name);
    netlink.set_link(index, &[LinkChange::Up]).unwrap();
    netlink.set_link("peer0", &[LinkChange::Up]).unwrap();
    netlink.add_address(index, address.parse().unwrap()).unwrap();
    index
}

#[test]
fn a_veth_pair_is_made_with_both_ends_where_they_belong() {
    let (_here, mut near) = bed();
    let (there, mut far) = bed();
    near.add_veth(
        &VethEnd { name: "cali12345678901", mac: Some(MacAddr::GATEWAY), mtu: Some(1450), netns: None },
        &VethEnd { name: "eth0", mac: Some(MAC_B), mtu: Some(1400), netns: Some(there.as_fd()) },
    )
    .unwrap();
    let link = near.link("cali12345678901").unwrap();
    assert_eq!((link.mac, link.mtu, link.up), (Some(MacAddr::GATEWAY), 1450, false));
    assert_eq!(link.kind.as_deref(), Some("veth"));
    let peer = far.link("eth0").unwrap();
    assert_eq!((peer.mac, peer.mtu, peer.up), (Some(MAC_B), 1400, false));
    assert_eq!(far.link(peer.index).unwrap().name, "eth0");

    let again = VethEnd { name: "cali12345678901", mac: None, mtu: None, netns: None };
    let other = VethEnd { name: "other", mac: None, mtu: None, netns: None };
    assert_eq!(near.add_veth(&again, &other).unwrap_err().kind, ErrorKind::Exists);
}

#[test]
fn every_change_of_a_link_arrives() {
    let (_netns, mut netlink) = bed();
    let index = pair(&mut netlink, "d0");
    netlink
        .set_link(index, &[LinkChange::Name("margay0".into()), LinkChange::Mac(MAC_A), LinkChange::Mtu(1300)])
        .unwrap();
    netlink
        .set_link(
            "margay0",
            &[
                LinkChange::NoArp,
                LinkChange::TxQueueLen(77),
                LinkChange::GsoMaxSize(30000),
                LinkChange::NoLinkLocal,
                LinkChange::Up,
            ],
        )
        .unwrap();
    let link = netlink.link("margay0").unwrap();
    assert_eq!((link.index, link.mac, link.mtu, link.up), (index, Some(MAC_A), 1300, true));
    let v6 = netlink.addresses().unwrap().into_iter().any(|(dev, a)| dev == index && a.addr().is_ipv6());
    assert!(!v6, "no link-local address was made");
    netlink.set_link(index, &[LinkChange::Down]).unwrap();
    assert!(!netlink.link(index).unwrap().up);
    netlink.delete_link(index).unwrap();
    assert_eq!(netlink.link(index).unwrap_err().kind, ErrorKind::NoDevice);
}

#[test]
fn a_link_moves_to_another_namespace() {
    let (_here, mut near) = bed();
    let (there, mut far) = bed();
    pair(&mut near, "d0");
    near.move_link("d0", there.as_fd()).unwrap();
    assert_eq!(near.link("d0").unwrap_err().kind, ErrorKind::NoDevice);
    assert_eq!(far.link("d0").unwrap().name, "d0");
}

#[test]
fn addresses_come_and_go() {
    let (netns, mut netlink) = bed();
    let dev = ready(&mut netlink, "d0", "192.168.77.1/24");
    let v6 = "fd00::1/64".parse().unwrap();
    netlink.add_address(dev, v6).unwrap();
    let mine = |netlink: &mut Netlink| -> Vec<String> {
        let all = netlink.addresses().unwrap().into_iter();
        all.filter(|(d, a)| *d == dev && !a.to_string().starts_with("fe80"))
            .map(|(_, a)| a.to_string())
            .collect()
    };
    assert_eq!(mine(&mut netlink), ["192.168.77.1/24", "fd00::1/64"]);
    let at_once = netns.run(|| std::net::UdpSocket::bind("[fd00::1]:0").map(drop)).unwrap();
    at_once.expect("no wait for an answer of somebody who has it already");
    assert_eq!(netlink.add_address(dev, v6).unwrap_err().kind, ErrorKind::Exists);
    netlink.delete_address(dev, v6).unwrap();
    assert_eq!(mine(&mut netlink), ["192.168.77.1/24"]);
    assert_eq!(netlink.delete_address(dev, v6).unwrap_err().kind, ErrorKind::NotFound);
}

#[test]
fn a_route_is_read_back_as_it_was_written() {
    let (_netns, mut netlink) = bed();
    let dev = ready(&mut netlink, "d0", "192.168.77.1/24");
    let full = Route {
        via: Some("10.65.0.128".parse().unwrap()),
        dev: Some(dev),
        onlink: true,
        prefsrc: Some("192.168.77.1".parse().unwrap()),
        protocol: 80,
        metric: Some(7),
        mtu: Some(1400),
        ..Route::to("10.65.0.128/26".parse().unwrap())
    };
    let link = Route { dev: Some(dev), scope: Scope::Link, ..Route::to("169.254.1.1/32".parse().unwrap()) };
    let hole = Route { kind: RouteKind::Blackhole, ..Route::to("10.65.0.0/26".parse().unwrap()) };
    let table = Route { dev: Some(dev), table: 1000, ..Route::default_of(Family::V4) };
    for route in [&full, &link, &hole, &table] {
        netlink.add_route(route).unwrap();
        assert!(netlink.routes(Family::V4).unwrap().contains(route), "{route:?}");
        assert_eq!(netlink.add_route(route).unwrap_err().kind, ErrorKind::Exists);
        netlink.replace_route(route).unwrap();
    }
    for route in [&full, &link, &hole, &table] {
        netlink.delete_route(route).unwrap();
        assert!(!netlink.routes(Family::V4).unwrap().contains(route), "{route:?}");
        assert_eq!(netlink.delete_route(route).unwrap_err().kind, ErrorKind::NotFound);
    }
}

/// The kernel gives IPv6 routes a metric, and those to nowhere a link.
#[test]
fn routes_of_ipv6_come_and_go() {
    let (_netns, mut netlink) = bed();
    let dev = ready(&mut netlink, "d0", "fd00::1/64");
    let lo = netlink.link("lo").unwrap().index;
    let metric = Some(1024);
    let pool = "fd10:65::/48".parse().unwrap();
    let gateway =
        Route { via: Some("fe80::ecee:eeff:feee:eeee".parse().unwrap()), ..Route::default_of(Family::V6) };
    let gateway = Route { dev: Some(dev), metric, ..gateway };
    let source = Some("fd00::1".parse().unwrap());
    let by_link = Route { dev: Some(dev), prefsrc: source, protocol: 80, mtu: Some(1400), ..Route::to(pool) };
    let by_link = Route { metric, ..by_link };
    let hole = Route { kind: RouteKind::Blackhole, table: 4789, protocol: 80, ..Route::to(pool) };
    let as_read = Route { dev: Some(lo), metric, ..hole.clone() };
    for (route, as_read) in [(&gateway, &gateway), (&by_link, &by_link), (&hole, &as_read)] {
        netlink.add_route(route).unwrap();
        let routes = netlink.routes(Family::V6).unwrap();
        assert!(routes.contains(as_read), "{as_read:?} {routes:?}");
        assert_eq!(netlink.add_route(route).unwrap_err().kind, ErrorKind::Exists);
        netlink.replace_route(route).unwrap();
        let count = |routes: &[Route]| routes.iter().filter(|found| found == &as_read).count();
        assert_eq!(count(&netlink.routes(Family::V6).unwrap()), 1);
        netlink.delete_route(route).unwrap();
        assert_eq!(count(&netlink.routes(Family::V6).unwrap()), 0);
        assert_eq!(netlink.delete_route(route).unwrap_err().kind, ErrorKind::NotFound);
    }
}

#[test]
fn a_link_without_room_for_ipv6_has_none() {
    let (_netns, mut netlink) = bed();
    let dev = ready(&mut netlink, "d0", "192.168.77.1/24");
    assert_eq!(netlink.link(dev).unwrap().mtu_v6, Some(1500));
    netlink.set_link(dev, &[LinkChange::Mtu(1279)]).unwrap();
    assert_eq!(netlink.link(dev).unwrap().mtu_v6, None);
    assert!(netlink.add_address(dev, "fd00::1/128".parse().unwrap()).is_err());
}

/// The kernel does some things for IPv6 a while after it was told to: whether this is so within five seconds.
fn soon(mut is: impl FnMut() -> bool) -> bool {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while !is() {
        if std::time::Instant::now() > until {
            return false;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    true
}

#[test]
fn a_link_local_address_comes_with_the_link_or_does_not() {
    for (change, expected) in [(LinkChange::LinkLocal, true), (LinkChange::NoLinkLocal, false)] {
        let (_netns, mut netlink) = bed();
        pair(&mut netlink, "d0");
        netlink.set_link("peer0", &[change.clone(), LinkChange::Mac(MAC_A), LinkChange::Up]).unwrap();
        netlink.set_link("d0", &[LinkChange::NoLinkLocal, LinkChange::Up]).unwrap();
        let wanted: IpAddr = "fe80::ff:fe00:a".parse().unwrap();
        let mut is_there = || netlink.addresses().unwrap().iter().any(|(_, net)| net.addr() == wanted);
        match expected {
            true => assert!(soon(is_there), "{change:?}"),
            // What would come is not waited for: it comes a while after.
            false => assert!(!is_there(), "{change:?}"),
        }
    }
}

#[test]
fn errors_name_the_operation_and_the_object() {
    let (_netns, mut netlink) = bed();
    let dev = ready(&mut netlink, "margay0", "192.168.77.1/24");
    let route = Route {
        via: Some("10.0.0.1".parse().unwrap()),
        dev: Some(dev),
        ..Route::to("10.65.0.0/16".parse().unwrap())
    };
    let error = netlink.add_route(&route).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable);
    let text = error.to_string();
    assert!(text.starts_with("add route 10.65.0.0/16 via 10.0.0.1 dev margay0: "), "{text}");
    assert!(text.contains("Nexthop has invalid gateway"), "the kernel's own sentence: {text}");

    let text = netlink.set_link("nosuch0", &[LinkChange::Up]).unwrap_err().to_string();
    assert!(text.starts_with("set link nosuch0 [Up]: No such device"), "{text}");
}

#[test]
fn the_path_to_an_address() {
    let (_netns, mut netlink) = bed();
    let dev = ready(&mut netlink, "d0", "192.168.77.1/24");
    netlink.set_link(dev, &[LinkChange::Mtu(1400)]).unwrap();
    let at = |text: &str| -> IpAddr { text.parse().unwrap() };
    assert_eq!(netlink.path_to(at("10.9.9.9")).unwrap_err().kind, ErrorKind::Unreachable);
    let route =
        Route { via: Some(at("192.168.77.2")), mtu: Some(1300), ..Route::to("10.9.0.0/16".parse().unwrap()) };
    netlink.add_route(&route).unwrap();
    let far = netlink.path_to(at("10.9.9.9")).unwrap();
    assert_eq!(
        far,
        PathTo {
            kind: RouteKind::Unicast,
            dev,
            gateway: Some(at("192.168.77.2")),
            prefsrc: Some(at("192.168.77.1")),
            mtu: 1300,
        }
    );
    let near = netlink.path_to(at("192.168.77.9")).unwrap();
    assert_eq!((near.gateway, near.mtu), (None, 1400));
    assert_eq!(netlink.path_to(at("192.168.77.1")).unwrap().kind, RouteKind::Local);
}

#[test]
fn a_next_hop_is_where_packets_go_as_they_are() {
    let (_netns, mut netlink) = bed();
    let dev = ready(&mut netlink, "d0", "192.168.77.1/24");
    let at = |last: u8| IpAddr::from([192, 168, 77, last]);
    let far = IpAddr::from([10, 9, 9, 9]);
    assert_eq!(netlink.next_hop(far).unwrap_err().kind, ErrorKind::Unreachable);
    assert_eq!(netlink.next_hop(at(1)).unwrap(), None, "this host itself");
    assert_eq!(netlink.next_hop(at(255)).unwrap(), None, "everybody");
    assert_eq!(netlink.next_hop(at(9)).unwrap(), Some(NextHop { dev, address: at(9), mtu: None }));
    let via = Some(at(2));
    let route = Route { via, mtu: Some(1300), ..Route::to("10.9.0.0/16".parse().unwrap()) };
    netlink.add_route(&route).unwrap();
    assert_eq!(netlink.next_hop(far).unwrap(), Some(NextHop { dev, address: at(2), mtu: Some(1300) }));
    let route = Route { kind: RouteKind::Blackhole, ..Route::to("10.9.9.0/24".parse().unwrap()) };
    netlink.add_route(&route).unwrap();
    assert!(netlink.next_hop(far).is_err());
}

#[test]
fn next_hops_and_lasting_paths_of_ipv6() {
    let (_netns, mut netlink) = bed();
    let dev = ready(&mut netlink, "d0", "fd00::1/64");
    let at = |text: &str| -> IpAddr { text.parse().unwrap() };
    let far = at("fd09::9");
    assert_eq!(netlink.next_hop(far).unwrap_err().kind, ErrorKind::Unreachable);
    assert!(soon(|| netlink.next_hop(at("fd00::1")).unwrap().is_none()), "this host itself");
    let near = at("fd00::9");
    assert_eq!(netlink.next_hop(near).unwrap(), Some(NextHop { dev, address: near, mtu: None }));
    assert_eq!(netlink.lasting_path(near).unwrap(), Some(LastingPath { dev, mtu: None }));
    let via = at("fe80::2");
    let route =
        Route { via: Some(via), dev: Some(dev), mtu: Some(1300), ..Route::to("fd09::/64".parse().unwrap()) };
    netlink.add_route(&route).unwrap();
    assert_eq!(netlink.next_hop(far).unwrap(), Some(NextHop { dev, address: via, mtu: Some(1300) }));
    assert_eq!(netlink.lasting_path(far).unwrap(), Some(LastingPath { dev, mtu: Some(1300) }));
}

/// The changes that come until one is among them that was waited for.
fn told(monitor: &mut Monitor, wanted: impl Fn(&Change) -> bool) -> Change {
    loop {
        if let Some(change) = monitor.wait().unwrap().into_iter().find(&wanted) {
            return change;
        }
    }
}

#[test]
fn a_monitor_tells_of_neighbours_routes_and_links() {
    let (netns, mut netlink) = bed();
    let dev = ready(&mut netlink, "d0", "192.168.77.1/24");
    let mut monitor =
        netns.run(|| Monitor::open(&[Topic::Links, Topic::Neighbours, Topic::Paths])).unwrap().unwrap();
    let address: IpAddr = "192.168.77.2".parse().unwrap();
    netlink.set_neighbour(dev, address, MAC_B).unwrap();
    let neighbour = Neighbour { address, mac: Some(MAC_B), dev, state: NeighbourState::Permanent };
    let is_neighbour = |change: &Change| matches!(change, Change::Neighbour(n) if n.address == address);
    assert_eq!(told(&mut monitor, is_neighbour), Change::Neighbour(neighbour));
    netlink.delete_neighbour(dev, address).unwrap();
    told(&mut monitor, |change| matches!(change, Change::NeighbourGone(n) if n.address == address));
    netlink.add_route(&Route { dev: Some(dev), ..Route::to("10.9.0.0/16".parse().unwrap()) }).unwrap();
    told(&mut monitor, |change| *change == Change::Other);
    netlink.set_link(dev, &[LinkChange::Down]).unwrap();
    told(&mut monitor, |change| *change == Change::Other);
}

#[test]
fn a_monitor_tells_of_both_families() {
    let (netns, mut netlink) = bed();
    let dev = ready(&mut netlink, "d0", "fd00::1/64");
    let mut monitor = netns.run(|| Monitor::open(&[Topic::Neighbours, Topic::Paths])).unwrap().unwrap();
    let address: IpAddr = "fe80::2".parse().unwrap();
    netlink.set_neighbour(dev, address, MAC_B).unwrap();
    let neighbour = Neighbour { address, mac: Some(MAC_B), dev, state: NeighbourState::Permanent };
    assert_eq!(told(&mut monitor, |change| *change != Change::Other), Change::Neighbour(neighbour));
    netlink.add_route(&Route { dev: Some(dev), ..Route::to("fd01::/64".parse().unwrap()) }).unwrap();
    told(&mut monitor, |change| *change == Change::Other);
    let rule = Rule { family: Family::V6, iif: None, table: 1001, priority: 90, protocol: 80 };
    netlink.add_rule(&rule).unwrap();
    told(&mut monitor, |change| *change == Change::Other);
}

#[test]
fn a_monitor_that_is_not_heard_says_that_something_was_missed() {
    let (netns, mut netlink) = bed();
    let dev = ready(&mut netlink, "d0", "192.168.77.1/24");
    let mut monitor =
        netns.run(|| Monitor::open(&[Topic::Links, Topic::Neighbours, Topic::Paths])).unwrap().unwrap();
    // More than the default receive buffer of a socket holds.
    for n in 0..4000u32 {
        let dst = Prefix::new(IpAddr::V4((0x0a00_0000 + n).into()), 32).unwrap();
        netlink.add_route(&Route { dev: Some(dev), ..Route::to(dst) }).unwrap();
    }
    told(&mut monitor, |change| *change == Change::Missed);
}

/// That the forwarding entry leads where it says is for `tests/testbed.rs`, which pings through it.
#[test]
fn neighbours_and_vxlan_forwarding_entries() {
    let (_netns, mut netlink) = bed();
    let dev = ready(&mut netlink, "d0", "192.168.77.1/24");
    let vxlan = Vxlan {
        name: "vxlan.calico",
        vni: 4096,
        port: 4789,
        local: "192.168.77.1".parse().unwrap(),
        dev,
        mac: MAC_A,
        mtu: 1450,
    };
    netlink.add_vxlan(&vxlan).unwrap();
    netlink.set_link("vxlan.calico", &[LinkChange::Up]).unwrap();
    let link = netlink.link("vxlan.calico").unwrap();
    assert_eq!((link.kind.as_deref(), link.mac, link.mtu), (Some("vxlan"), Some(MAC_A), 1450));

    let peer = "10.65.0.128".parse().unwrap();
    netlink.set_neighbour(link.index, peer, MAC_B).unwrap();
    netlink.set_fdb(link.index, MAC_B, "192.168.77.2".parse().unwrap()).unwrap();
    let entry = netlink.neighbour(link.index, peer).unwrap().unwrap();
    assert_eq!((entry.mac, entry.state), (Some(MAC_B), NeighbourState::Permanent));
    netlink.delete_neighbour(link.index, peer).unwrap();
    assert_eq!(netlink.neighbour(link.index, peer).unwrap(), None);
}

#[test]
fn rules_come_and_go() {
    let (_netns, mut netlink) = bed();
    for family in Family::ALL {
        let rule = Rule { family, iif: Some("cali123".into()), table: 1001, priority: 90, protocol: 80 };
        netlink.add_rule(&rule).unwrap();
        assert_eq!(netlink.add_rule(&rule).unwrap_err().kind, ErrorKind::Exists);
        assert!(netlink.rules(family).unwrap().contains(&rule));
        assert!(!netlink.rules(family.other()).unwrap().iter().any(|other| other.table == rule.table));
        netlink.delete_rule(&rule).unwrap();
        assert!(!netlink.rules(family).unwrap().contains(&rule));
        assert_eq!(netlink.delete_rule(&rule).unwrap_err().kind, ErrorKind::NotFound);
    }
}

#[test]
fn a_client_stays_with_its_namespace_and_a_dump_may_be_long() {
    let (_netns, mut netlink) = bed();
    let dev = ready(&mut netlink, "d0", "192.168.77.1/24");
    // More than one 32 KiB piece of the kernel's answer.
    for n in 0..2000u32 {
        let dst = Prefix::new(IpAddr::V4((0x0a00_0000 + n).into()), 32).unwrap();
        netlink.add_route(&Route { dev: Some(dev), ..Route::to(dst) }).unwrap();
    }
    let routes = std::thread::spawn(move || netlink.routes(Family::V4).unwrap()).join().unwrap();
    assert_eq!(routes.iter().filter(|r| r.dst.to_string().starts_with("10.")).count(), 2000);
}
