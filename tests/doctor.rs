//! `margay doctor`, as root and as nobody, with everything there and with something taken away.

mod lab;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::Command;

use lab::{NOBODY, margay_for_all};
use margay::sys::netlink::{LinkChange, Vxlan};
use margay::sys::netns::Netns;
use margay::wire::MacAddr;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

/// What it said, and how it ended.
struct Said {
    code: Option<i32>,
    json: Value,
}

impl Said {
    fn of(command: &mut Command) -> Said {
        let output = command.args(["-o", "json"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let json = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)));
        Said { code: output.status.code(), json }
    }

    /// State of a facility, what was found, and how to get it.
    fn facility(&self, name: &str) -> (&str, &str, &str) {
        let all = self.json["facilities"].as_array().unwrap();
        let it =
            all.iter().find(|finding| finding["facility"] == name).unwrap_or_else(|| panic!("no {name}"));
        let text = |field: &str| it[field].as_str().unwrap_or_default();
        (text("state"), text("found"), text("remedy"))
    }

    /// Modes that work, as `vxlan tap`.
    fn working(&self) -> Vec<String> {
        let modes = self.json["modes"].as_array().unwrap().iter();
        modes
            .filter(|mode| mode["works"] == true)
            .map(|mode| format!("{} {}", mode["mode"].as_str().unwrap(), mode["endpoints"].as_str().unwrap()))
            .collect()
    }
}

/// The doctor in a namespace, as who the test is.
fn doctor(netns: &Netns) -> Command {
    let mut command = netns.command(env!("CARGO_BIN_EXE_margay")).unwrap();
    command.arg("doctor");
    command
}

fn links(netns: &Netns) -> Vec<String> {
    netns.netlink().unwrap().links().unwrap().into_iter().map(|link| link.name).collect()
}

#[test]
fn root_has_every_mode_and_nothing_is_left() {
    let netns = Netns::create().unwrap();
    let before = links(&netns);
    let said = Said::of(&mut doctor(&netns));
    assert_eq!(said.code, Some(0));
    assert_eq!(said.working(), ["vxlan tap", "vxlan veth", "ipip tap", "ipip veth", "none tap", "none veth"]);
    for facility in
        ["tun-device", "tap", "vnet-header", "raw-socket", "packet-socket", "vxlan-port", "protocol4"]
    {
        assert_eq!(said.facility(facility).0, "works", "{:?}", said.facility(facility));
    }
    assert_eq!(links(&netns), before);
}

#[test]
fn nobody_has_vxlan_with_taps_and_is_told_what_the_others_lack() {
    let (_dir, program) = margay_for_all();
    let netns = Netns::create().unwrap();
    // By a thread in the namespace: nobody's process could not enter it.
    let run = |mode: &str| {
        let mut command = Command::new(&program);
        command.args(["doctor", "--mode", mode]).uid(NOBODY).gid(NOBODY).current_dir("/");
        netns.run(|| Said::of(&mut command)).unwrap()
    };
    let said = run("vxlan");
    assert_eq!((said.code, said.working()), (Some(0), vec!["vxlan tap".to_owned()]), "{}", said.json);
    assert_eq!(said.json["modes"][0]["privilege"], "rootless");
    let (state, _, remedy) = said.facility("raw-socket");
    assert!(state == "missing" && remedy.contains("CAP_NET_RAW"), "{remedy}");
    assert_eq!(said.facility("user-namespaces").0, "works", "this test needs user namespaces for everybody");
    assert_eq!(run("ipip").code, Some(1));
}

#[test]
fn whoever_has_the_port_is_named() {
    let netns = Netns::create().unwrap();
    netns.netlink().unwrap().set_link("lo", &[LinkChange::Up]).unwrap();
    for address in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let _socket = netns.run(|| UdpSocket::bind((address, 4789))).unwrap().unwrap();
        let said = Said::of(&mut doctor(&netns));
        let (state, found, remedy) = said.facility("vxlan-port");
        assert_eq!((said.code, state), (Some(1), "missing"));
        assert!(found.contains(&format!("(process {})", std::process::id())), "{found}");
        assert!(remedy.contains("vxlanPort"), "{remedy}");
        assert_eq!(said.working(), ["ipip tap", "ipip veth", "none tap", "none veth"]);
    }

    let mut netlink = netns.netlink().unwrap();
    let dev = netlink.link("lo").unwrap().index;
    let local = Ipv4Addr::LOCALHOST.into();
    let mac = MacAddr([2; 6]);
    netlink
        .add_vxlan(&Vxlan { name: "vxlan.calico", vni: 4096, port: 4789, local, dev, mac, mtu: 1450 })
        .unwrap();
    netlink.set_link("vxlan.calico", &[LinkChange::Up]).unwrap();
    let said = Said::of(&mut doctor(&netns));
    let (state, found, _) = said.facility("vxlan-port");
    assert!(state == "missing" && found.contains("the kernel (vxlan device vxlan.calico)"), "{found}");
}

#[test]
fn a_namespace_without_ipv6_is_told() {
    let netns = Netns::create().unwrap();
    let said = Said::of(&mut doctor(&netns));
    assert_eq!(said.facility("ipv6").0, "works");
    lab::sysctl(&netns, "net/ipv6/conf/all/disable_ipv6", "1");
    let said = Said::of(&mut doctor(&netns));
    let (state, found, remedy) = said.facility("ipv6");
    assert_eq!((said.code, state, found), (Some(0), "missing", "net.ipv6.conf.all.disable_ipv6 = 1"));
    assert!(remedy.contains("IPv4 alone"), "{remedy}");
}

#[test]
fn without_the_tun_device_there_are_veths() {
    let netns = Netns::create().unwrap();
    let mut command = doctor(&netns);
    // A child begins in the mount namespace of the thread that starts it.
    let without_tun = || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let nothing: Option<&str> = None;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).unwrap();
        mount(Some("none"), "/dev/net", Some("tmpfs"), MsFlags::empty(), nothing).unwrap();
        Said::of(&mut command)
    };
    let said = std::thread::scope(|scope| scope.spawn(without_tun).join().unwrap());
    let (state, found, remedy) = said.facility("tun-device");
    assert!(
        state == "missing" && found.contains("No such file") && remedy.contains("modprobe tun"),
        "{found}"
    );
    assert_eq!((said.code, said.facility("tap").0), (Some(1), "missing"));
    assert_eq!(said.working(), ["vxlan veth", "ipip veth", "none veth"]);
}

/// As in a container without capabilities, where no namespace can be made.
#[test]
fn what_forbids_user_namespaces_is_named() {
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" doctor -o json";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "setpriv", "--bounding-set=-sys_admin"]);
    command.args(["sh", "-c", script, env!("CARGO_BIN_EXE_margay")]);
    let output = command.output().unwrap();
    let json = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let said = Said { code: output.status.code(), json };
    let (state, found, remedy) = said.facility("user-namespaces");
    assert!(state == "missing" && found.contains("user.max_user_namespaces = 0"), "{found}");
    assert!(remedy.contains("sysctl -w user.max_user_namespaces="), "{remedy}");
    assert_eq!((said.code, said.facility("tap").0), (Some(1), "untried"), "{}", said.json);
}

#[test]
fn the_table_says_what_is_missing_and_how_to_get_it() {
    let netns = Netns::create().unwrap();
    let _socket = netns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 4789))).unwrap().unwrap();
    let output = doctor(&netns).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for expected in [
        "FACILITY          STATE    FOUND",
        "vxlan-port        MISSING  UDP 4789 is taken by",
        "vxlan  tap   no     vxlan-port",
        "ipip   tap   yes    -",
        "HOW TO GET IT",
    ] {
        assert!(text.contains(expected), "{expected:?} is missing in:\n{text}");
    }
}
