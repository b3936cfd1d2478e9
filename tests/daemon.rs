//! The daemon as its operator meets it: what it refuses and with which words, what it keeps when a change is
//! wrong, and that nothing stays behind once it is cleaned up after it.

mod lab;

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lab::{NOBODY, build, margay, margay_for_all, reaches, start, until, until_ended};
use margay::rib::Attach;
use margay::sys::netlink::{LinkChange, Vxlan};
use margay::sys::netns::Netns;
use margay::testbed::{Lab, LabSpec, Mode, Ping, ping};
use margay::wire::{Family, MacAddr};
use nix::sys::signal::Signal;

/// How a command ended that is expected to end by itself.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    error: String,
}

impl Ended {
    /// It failed, with one line that has all of `words`.
    #[track_caller]
    fn refused_with(&self, words: &[&str]) {
        assert_eq!(self.code, Some(1), "{self:?}");
        let lines: Vec<&str> = self.error.lines().filter(|line| line.starts_with("margay: ")).collect();
        assert_eq!(lines.len(), 1, "one clear line: {self:?}");
        for word in words {
            assert!(lines[0].contains(word), "{word:?} in {:?}", lines[0]);
        }
        assert!(!self.error.contains("panicked"), "{self:?}");
    }
}

/// Runs a command to its end, ten seconds at most.
fn run(command: &mut Command) -> Ended {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut out, mut error) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let deadline = Instant::now() + Duration::from_secs(10);
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                child.kill().unwrap();
                break child.wait().unwrap();
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let read = |from: &mut dyn Read| {
        let mut text = String::new();
        from.read_to_string(&mut text).unwrap();
        text
    };
    Ended { code: status.code(), out: read(&mut out), error: read(&mut error) }
}

/// `margay run` in a namespace.
fn daemon(netns: &Netns, node: &str, resources: &Path) -> Command {
    let mut command = netns.command(margay()).unwrap();
    command.args(["run", "--control-socket", "none", "--node", node, "--resources"]).arg(resources);
    command
}

fn output(lab: &mut Lab) -> String {
    lab.nodes[0].daemon().expect("a margay node").output()
}

/// Everything that a daemon makes in its node's namespace and its pods'.
#[track_caller]
fn nothing_is_left(lab: &Lab) {
    for node in &lab.nodes {
        let mut netlink = node.netns.netlink().unwrap();
        let links: Vec<String> = netlink.links().unwrap().into_iter().map(|link| link.name).collect();
        let known = |name: &String| name == "lo" || name == "eth0" || name.starts_with("cali");
        assert!(links.iter().all(known), "{}: {links:?}", node.name);
        let rules = netlink.rules(Family::V4).unwrap();
        assert!(rules.iter().all(|rule| rule.table != 4789), "{}: {rules:?}", node.name);
        let routes = netlink.routes(Family::V4).unwrap();
        assert!(routes.iter().all(|route| route.table != 4789), "{}: {routes:?}", node.name);
        for pod in &node.pods {
            let inside = pod.netns.netlink().unwrap().link("eth0");
            assert_eq!(inside.is_ok(), pod.attach == Attach::Veth, "eth0 of {}: {inside:?}", pod.name);
        }
    }
}

/// `margay cleanup` on every node, after its daemon has ended: what outlasts it goes.
fn cleaned_up(lab: &Lab) {
    for node in &lab.nodes {
        let ended = run(node.netns.command(margay()).unwrap().arg("cleanup"));
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
    nothing_is_left(lab);
}

/// Puts a node's daemon to an end and waits for it; hands over all that it said.
fn end_with(lab: &mut Lab, node: usize, signal: Signal) -> String {
    let daemon = lab.nodes[node].daemon().unwrap();
    daemon.signal(signal).unwrap();
    until_ended(daemon.pid());
    let daemon = lab.nodes[node].daemon().unwrap();
    until("its last words", || signal == Signal::SIGKILL || daemon.output().contains("frames in"));
    daemon.output()
}

#[test]
fn sigterm_and_sigint_leave_what_was_made_to_cleanup_and_tell_what_was_counted() {
    for (attach, signal) in [(Attach::Tap, Signal::SIGTERM), (Attach::Veth, Signal::SIGINT)] {
        let mut lab = start(LabSpec { attach, ..LabSpec::new(Mode::None) }, &[]);
        let host_ends = |lab: &Lab| -> Vec<_> {
            let mut links = lab.nodes[0].netns.netlink().unwrap().links().unwrap();
            links.retain(|link| link.name.starts_with("cali"));
            links.into_iter().map(|link| (link.name, link.mac)).collect()
        };
        reaches(&lab.nodes[0].pods[0].netns, lab.nodes[1].pods[0].address, "across, before the end");
        // To an address of the node's block that nobody has.
        let pod = &lab.nodes[0].pods[1];
        let sent = pod.netns.run(|| std::net::UdpSocket::bind("0.0.0.0:0")?.send_to(b"?", "10.65.0.50:9"));
        assert_eq!(sent.unwrap().unwrap(), 1);
        // In the order of the pod's queue: then that was dealt with.
        reaches(&pod.netns, lab.nodes[0].pods[0].address, "its neighbour");
        // While it runs there is something that could stay.
        let mut netlink = lab.nodes[0].netns.netlink().unwrap();
        assert!(netlink.link("margay0").is_ok());
        assert!(netlink.rules(Family::V4).unwrap().iter().any(|rule| rule.table == 4789));
        assert!(netlink.routes(Family::V4).unwrap().iter().any(|route| route.table == 4789));
        let served = host_ends(&lab);
        assert!(served.iter().all(|(_, mac)| *mac != Some(MacAddr::GATEWAY)), "{served:?}");

        let said = end_with(&mut lab, 0, signal);
        assert!(said.contains("margay: ") && said.contains("sent"), "{signal}: {said}");
        // O10: how many, why, what to do, and who.
        let words = said.lines().skip_while(|line| !line.contains("dropped blackhole"));
        let words: Vec<Vec<&str>> = words.take(2).map(|line| line.split_whitespace().collect()).collect();
        assert!(words[0].len() > 10, "{signal}: {said}");
        assert_eq!((words[0][0], &words[1][..]), ("1", &["1", "default/pod-a2"][..]), "{signal}: {said}");
        // Exit status 0, or this says otherwise.
        lab.stop().unwrap_or_else(|error| panic!("{signal}: {error}"));
        assert!(netlink.link("margay0").is_ok(), "{signal}");
        assert!(netlink.rules(Family::V4).unwrap().iter().any(|rule| rule.table == 4789), "{signal}");
        assert_eq!(host_ends(&lab), served, "{signal}");
        assert!(lab.nodes[0].pods[0].netns.netlink().unwrap().link("eth0").is_ok(), "{signal}");
        cleaned_up(&lab);
        let restored = host_ends(&lab);
        assert!(restored.iter().all(|(_, mac)| *mac == Some(MacAddr::GATEWAY)), "{restored:?}");
    }
}

#[test]
fn after_kill_9_it_starts_again() {
    for attach in [Attach::Tap, Attach::Veth] {
        let mut lab = start(LabSpec { attach, ..LabSpec::new(Mode::Vxlan) }, &[]);
        for node in [0, 1] {
            end_with(&mut lab, node, Signal::SIGKILL);
        }
        // What stays of a daemon that could not clean up is in nobody's way.
        lab.start(margay(), &[]).unwrap_or_else(|error| panic!("{error}"));
        reaches(&lab.nodes[0].pods[0].netns, lab.nodes[1].pods[0].address, "across, after the restart");
        reaches(&lab.nodes[1].pods[0].netns, lab.nodes[0].pods[1].address, "and back");
        lab.stop().unwrap_or_else(|error| panic!("{error}"));
        cleaned_up(&lab);
    }
}

#[test]
fn a_wrong_resource_stops_nothing_and_a_right_one_is_taken_up() {
    let mut lab = start(LabSpec::new(Mode::Vxlan), &[]);
    let pool = std::fs::read_to_string(lab.resources.path().join("pool.yaml")).unwrap();
    let works = |lab: &Lab, when: &str| {
        reaches(&lab.nodes[0].pods[0].netns, lab.nodes[1].pods[0].address, when);
    };

    lab.resources.write("pool.yaml", &pool.replace("vxlanMode: Always", "vxlanMode: Sometimes")).unwrap();
    until("the complaint", || output(&mut lab).contains("the last good state stays"));
    let said = output(&mut lab);
    for word in ["ERROR", "pool.yaml", "spec.vxlanMode", "Sometimes", "CrossSubnet"] {
        assert!(said.contains(word), "{word} in {said}");
    }
    works(&lab, "with the last good state");

    // A pod that comes while the pool is wrong has to wait.
    let late = lab.add_pod(0).unwrap();
    let late = (late.netns.try_clone().unwrap(), late.address);
    works(&lab, "with a second change that cannot be applied");
    assert!(late.0.netlink().unwrap().link("eth0").is_err());

    lab.resources.write("pool.yaml", &pool).unwrap();
    until("the pod that waited", || late.0.netlink().unwrap().link("eth0").is_ok_and(|link| link.running));
    reaches(&lab.nodes[1].pods[0].netns, late.1, "the pod that waited");
    works(&lab, "with the right pool");
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn sighup_reads_all_again() {
    let mut lab = start(LabSpec::new(Mode::Vxlan), &[]);
    let count = |lab: &mut Lab| output(lab).matches("nothing to change").count();
    let before = count(&mut lab);
    lab.nodes[0].daemon().unwrap().signal(Signal::SIGHUP).unwrap();
    until("its word on it", || count(&mut lab) > before);
    reaches(&lab.nodes[0].pods[0].netns, lab.nodes[1].pods[0].address, "after SIGHUP");
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_host_interface_that_somebody_deletes_is_made_again() {
    let mut lab = start(LabSpec::new(Mode::Vxlan), &[]);
    let found = |lab: &Lab| {
        let mut netlink = lab.nodes[0].netns.netlink().unwrap();
        let link = netlink.link("margay0").ok()?;
        let of_it = netlink.addresses().unwrap().into_iter().filter(|(dev, _)| *dev == link.index);
        let addresses: Vec<_> = of_it.map(|(_, address)| address).collect();
        let mut routes = netlink.routes(Family::V4).unwrap();
        routes.retain(|route| route.dev == Some(link.index));
        let routes: Vec<_> = routes.into_iter().map(|route| (route.dst, route.prefsrc)).collect();
        Some((link.index, (link.mtu, link.up, addresses, routes)))
    };
    let (index, before) = found(&lab).unwrap();
    lab.nodes[0].netns.netlink().unwrap().delete_link("margay0").unwrap();
    until("another margay0 like the first", || {
        found(&lab).is_some_and(|(other, after)| other != index && after == before)
    });
    let said = output(&mut lab);
    assert!(said.contains("will be opened again") && said.contains("opened again side=Host"), "{said}");
    let [a, b] = &lab.nodes;
    reaches(&a.netns, a.pods[0].address, "the node to its pod");
    reaches(&a.netns, b.pods[0].address, "the node to another node's pod");
    reaches(&a.pods[0].netns, a.address(), "a pod to its node");
    reaches(&a.pods[0].netns, b.pods[0].address, "across");
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
    cleaned_up(&lab);
}

/// Nothing is encapsulated, so that the packet socket is needed, which does not survive that.
#[test]
fn an_underlay_that_goes_and_returns_is_opened_again() {
    let mut lab = start(LabSpec::new(Mode::None), &[]);
    let elsewhere = Netns::create().unwrap();
    let node = lab.nodes[0].netns.try_clone().unwrap();
    let index = node.netlink().unwrap().link("eth0").unwrap().index;
    node.netlink().unwrap().move_link("eth0", elsewhere.as_fd()).unwrap();
    until("the daemon's word on it", || output(&mut lab).contains("will be opened again"));
    elsewhere.netlink().unwrap().move_link("eth0", node.as_fd()).unwrap();
    let mut netlink = node.netlink().unwrap();
    assert_eq!(netlink.link("eth0").unwrap().index, index, "everything is as it was");
    netlink.set_link("eth0", &[LinkChange::Up]).unwrap();
    netlink.add_address(index, lab.nodes[0].underlay).unwrap();
    until("the daemon's word on that", || output(&mut lab).contains("opened again side=Underlay"));
    // The other node's kernel takes its time to believe in its carrier.
    let brief = Ping { count: 1, patience: Duration::from_millis(100), ..Ping::default() };
    let across = |lab: &Lab| ping(&lab.nodes[0].pods[0].netns, lab.nodes[1].pods[0].address, brief);
    until("an answer", || across(&lab).unwrap().lost() == 0);
    reaches(&lab.nodes[0].pods[0].netns, lab.nodes[1].pods[0].address, "across");
    reaches(&lab.nodes[1].pods[0].netns, lab.nodes[0].pods[1].address, "and back");
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
    cleaned_up(&lab);
}

#[test]
fn at_start_a_wrong_resource_is_one_clear_line() {
    let lab = build(LabSpec::new(Mode::Vxlan));
    let (netns, dir) = (&lab.nodes[0].netns, lab.resources.path());
    let pool = std::fs::read_to_string(dir.join("pool.yaml")).unwrap();
    // The second document of the file, and a field of it.
    let wrong = format!("{pool}---\n{}", pool.replace("name: pods", "name: more").replace("26", "99"));
    lab.resources.write("pool.yaml", &wrong).unwrap();
    run(&mut daemon(netns, "node-a", dir)).refused_with(&["pool.yaml", "document 2", "spec.blockSize", "99"]);
    lab.resources.write("pool.yaml", "kind: [").unwrap();
    run(&mut daemon(netns, "node-a", dir)).refused_with(&["pool.yaml"]);
    nothing_is_left(&lab);
}

#[test]
fn what_cannot_be_is_refused_with_what_to_do() {
    let lab = build(LabSpec::new(Mode::Vxlan));
    let (netns, dir) = (&lab.nodes[0].netns, lab.resources.path());
    run(&mut daemon(netns, "node-z", dir)).refused_with(&["node-z", "node-a", "node-b"]);
    run(&mut daemon(netns, "node-b", dir)).refused_with(&["192.168.77.2", "spec.bgp.ipv4Address"]);
    run(&mut daemon(netns, "node-a", &dir.join("absent"))).refused_with(&["absent"]);
    nothing_is_left(&lab);
}

#[test]
fn a_second_daemon_in_the_same_namespace_is_refused() {
    for mode in [Mode::Vxlan, Mode::None] {
        let mut lab = start(LabSpec::new(mode), &[]);
        let mut command = daemon(&lab.nodes[0].netns, "node-a", lab.resources.path());
        run(command.args(["--host-interface", "none"]))
            .refused_with(&["another margay", "network namespace"]);
        reaches(&lab.nodes[0].pods[0].netns, lab.nodes[1].pods[0].address, "the first is not disturbed");
        let rules = lab.nodes[0].netns.netlink().unwrap().rules(Family::V4).unwrap();
        assert!(rules.iter().any(|rule| rule.table == 4789), "nor are its rules");
        lab.stop().unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn a_vxlan_port_that_the_kernel_has_is_named() {
    let lab = build(LabSpec::new(Mode::Vxlan));
    let node = &lab.nodes[0];
    let mut netlink = node.netns.netlink().unwrap();
    let dev = netlink.link("eth0").unwrap().index;
    let mac = MacAddr([2, 0, 0, 0, 0, 1]);
    let local = node.address();
    let vxlan = Vxlan { name: "vxlan.calico", vni: 4096, port: 4789, local, dev, mac, mtu: 1450 };
    netlink.add_vxlan(&vxlan).unwrap();
    netlink.set_link("vxlan.calico", &[LinkChange::Up]).unwrap();
    let words = ["UDP port 4789", "vxlan device", "vxlanPort"];
    run(&mut daemon(&node.netns, "node-a", lab.resources.path())).refused_with(&words);
    netlink.delete_link("vxlan.calico").unwrap();
    nothing_is_left(&lab);
}

#[test]
fn a_missing_privilege_is_named() {
    let lab = build(LabSpec::new(Mode::Ipip));
    // The user that starts it may read the resources, so that only privileges are missing.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(lab.resources.path(), open).unwrap();
    let (_place, program) = margay_for_all();
    let mut command = Command::new(&program);
    command.args(["run", "--control-socket", "none", "--node", "node-a", "--resources"]);
    command.arg(lab.resources.path());
    command.uid(NOBODY).gid(NOBODY);
    // By a thread in the namespace: nobody's process could not enter it.
    let ended = lab.nodes[0].netns.run(|| run(&mut command)).unwrap();
    ended.refused_with(&["IPIP", "CAP_NET_RAW", "CAP_NET_ADMIN", "margay doctor"]);
    nothing_is_left(&lab);
}

/// S10 (good practice): the daemon holds what it needs, the threads that read packets nothing, and no child gets more.
#[test]
fn the_workers_have_no_privileges_and_the_rest_only_what_is_needed() {
    const NEEDED: [u64; 6] = [
        2,  // DAC_READ_SEARCH
        12, // NET_ADMIN
        13, // NET_RAW
        14, // IPC_LOCK
        19, // SYS_PTRACE
        21, // SYS_ADMIN
    ];
    let mut lab = start(LabSpec::new(Mode::Vxlan), &["--workers", "2"]);
    let tasks = format!("/proc/{}/task", lab.nodes[0].daemon().unwrap().pid());
    let mut workers = 0;
    for task in std::fs::read_dir(tasks).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":")).unwrap().trim()
        };
        let mask = |name: &str| u64::from_str_radix(field(name), 16).unwrap();
        let name = field("Name");
        let is_worker = name.strip_prefix("margay-").is_some_and(|rest| rest.parse::<u8>().is_ok());
        let allowed = if is_worker { 0 } else { NEEDED.iter().map(|bit| 1 << bit).sum() };
        for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
            assert_eq!(mask(set) & !allowed, 0, "{set} of {name}");
        }
        assert_eq!(field("NoNewPrivs"), "1", "{name}");
        // A filter, and a worker has one of its own beside the daemon's.
        let filters: u8 = field("Seccomp_filters").parse().unwrap();
        assert_eq!((field("Seccomp"), filters), ("2", 1 + u8::from(is_worker)), "{name}");
        workers += u8::from(is_worker);
    }
    assert_eq!(workers, 2);
    let screen = lab.nodes[0].daemon().unwrap().output();
    assert!(
        screen.contains("sandbox    workers without capabilities, seccomp") && !screen.contains("WITHOUT"),
        "{screen}"
    );
}

#[test]
fn its_environment_is_as_good_as_its_flags() {
    let lab = build(LabSpec::new(Mode::Vxlan));
    let mut command = lab.nodes[0].netns.command(margay()).unwrap();
    command.arg("run").env("MARGAY_NODE", "node-y").env("MARGAY_RESOURCES", lab.resources.path());
    command.env("MARGAY_CONTROL_SOCKET", "none");
    run(&mut command).refused_with(&["node-y"]);
    let ended = run(lab.nodes[0]
        .netns
        .command(margay())
        .unwrap()
        .args(["run", "--control-socket", "none", "--node", "node-a", "--resources"])
        .arg(lab.resources.path())
        .env("FELIX_IPINIPMTU", "none"));
    ended.refused_with(&["FELIX_IPINIPMTU", "none", "65535"]);
    // A flag goes before the variable, and a value that makes no sense is told with the flag's name.
    let ended = run(command.env("MARGAY_IPIP_TTL", "0"));
    assert!(ended.code == Some(2) && ended.error.contains("--ipip-ttl"), "{ended:?}");
    for address in ["0.0.0.0", "127.0.0.1", "169.254.1.1", "224.0.0.1", "255.255.255.255", "fe80::1", "pod"] {
        let ended = run(command.env_remove("MARGAY_IPIP_TTL").env("MARGAY_ICMP_SOURCE", address));
        assert!(ended.code == Some(2) && ended.error.contains("--icmp-source"), "T9: {address}: {ended:?}");
    }
    let ended = run(command.env_remove("MARGAY_ICMP_SOURCE").args(["--node", "node-x"]));
    ended.refused_with(&["node-x"]);
}

#[test]
fn help_teaches() {
    for (arguments, words) in [
        (&["--help"][..], &["run", "check", "demo", "Calico"][..]),
        (&["run", "--help"], &["--node", "--resources", "MARGAY_HOST_INTERFACE", "SIGHUP", "CAP_NET_RAW"]),
        (&["check", "--help"], &["DIR"]),
        (&["demo", "--help"], &["--mode", "ipip", "cross-subnet"]),
    ] {
        let ended = run(Command::new(margay()).args(arguments));
        assert_eq!(ended.code, Some(0), "{ended:?}");
        for word in words {
            assert!(ended.out.contains(word), "{word} in margay {arguments:?}: {}", ended.out);
        }
    }
}
