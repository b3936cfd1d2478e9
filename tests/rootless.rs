//! `margay run` as an ordinary user: no capability in the node's network namespace, pods in user namespaces of that user.

mod lab;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lab::{NOBODY, build, margay_for_all, moves_tcp, reaches, reaches_once, until};
use margay::sys::netns::Netns;
use margay::testbed::{Lab, LabSpec, Mode, NodeKind, Pod, Steady, steady, transfer};
use margay::wire::Family;

/// A process that is killed at the end.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Nobody's process in a user and a network namespace of its own.
fn pod_process() -> Running {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "sleep", "600"]).uid(NOBODY).gid(NOBODY);
    let pod = Running(command.current_dir("/").spawn().unwrap());
    let name = format!("/proc/{}/comm", pod.0.id());
    until("a pod's process", || fs::read_to_string(&name).is_ok_and(|name| name.trim() == "sleep"));
    pod
}

/// The pods of node-a moved to namespaces of nobody's, and the files that say so readable to nobody.
fn give_to_nobody(lab: &mut Lab) -> Vec<Running> {
    fs::set_permissions(lab.resources.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let resources = lab.resources.path().to_owned();
    let give = |pod: &mut Pod| {
        let process = pod_process();
        let file = format!("workload-{}.yaml", pod.name);
        let text = fs::read_to_string(resources.join(&file)).unwrap();
        let path = format!("/proc/{}/ns/net", process.0.id());
        assert!(text.contains(pod.netns.path().to_str().unwrap()));
        fs::write(resources.join(file), text.replace(pod.netns.path().to_str().unwrap(), &path)).unwrap();
        pod.netns = Netns::open(path).unwrap();
        process
    };
    lab.nodes[0].pods.iter_mut().map(give).collect()
}

/// The daemon of node-a as nobody, in the node's network namespace.
fn run(lab: &Lab, program: &PathBuf) -> Child {
    run_with(lab, program, &["--control-socket", "none"])
}

fn run_with(lab: &Lab, program: &PathBuf, arguments: &[&str]) -> Child {
    let mut command = Command::new(program);
    command.args(["run", "--node", "node-a", "--resources"]).arg(lab.resources.path()).args(arguments);
    command.uid(NOBODY).gid(NOBODY).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // By a thread in the namespace: nobody's process could not enter it.
    lab.nodes[0].netns.run(|| command.spawn()).unwrap().unwrap()
}

/// What it says until it is ready, or all if it never is.
fn screen(daemon: &mut Child) -> String {
    let mut said = String::new();
    for line in BufReader::new(daemon.stdout.take().unwrap()).lines().map_while(Result::ok) {
        said += &line;
        said.push('\n');
        if line == "margay: ready" {
            return said;
        }
    }
    let mut error = String::new();
    daemon.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    panic!("the daemon did not start:\n{said}{error}");
}

fn vxlan_with(peer: NodeKind) -> Lab {
    build(LabSpec { kinds: [NodeKind::Margay, peer], ..LabSpec::new(Mode::Vxlan) })
}

#[test]
fn nobodys_pods_reach_each_other_and_a_calico_node_by_vxlan() {
    let (_dir, program) = margay_for_all();
    let mut lab = vxlan_with(NodeKind::Kernel);
    let _processes = give_to_nobody(&mut lab);
    let mut daemon = Running(run(&lab, &program));
    let screen = screen(&mut daemon.0);
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.0.id())).unwrap();
    assert!(status.contains("CapEff:\t0000000000000000") && status.contains("Uid:\t65534"), "{status}");
    for expected in [
        "rootless   VXLAN only",
        "no host interface",
        "no veth endpoints",
        "no guard rule",
        "endpoints  2 attached",
    ] {
        assert!(screen.contains(expected), "{expected:?} in:\n{screen}");
    }
    let [a, b] = &lab.nodes;
    for pod in &a.pods {
        pod.wait(Duration::from_secs(10)).unwrap();
    }
    reaches_once(&a.pods[0], &a.pods[1], 1);
    // The kernel's node is two hops: it routes from the tunnel to the pod.
    for (from, to) in [(&a.pods[0], &b.pods[0]), (&b.pods[1], &a.pods[1])] {
        reaches_once(from, to, 2);
    }
    moves_tcp(&a.pods[0], &b.pods[0], 1 << 20);

    end(&mut daemon);
    // What the pods have outlasts the daemon, and the next one takes it up.
    for pod in &a.pods {
        assert!(pod.netns.netlink().unwrap().link("eth0").is_ok(), "the TAP of {} is gone", pod.name);
    }
    let mut daemon = Running(run(&lab, &program));
    self::screen(&mut daemon.0);
    let [a, b] = &lab.nodes;
    reaches_once(&a.pods[0], &b.pods[0], 2);
    end(&mut daemon);
}

/// IPv6 takes no privilege more: VXLAN of each family over its own, and the pods' addresses in namespaces of nobody's.
#[test]
fn nobodys_pods_have_ipv6() {
    let (_dir, program) = margay_for_all();
    let kinds = [NodeKind::Margay, NodeKind::Kernel];
    let mut lab = build(LabSpec { kinds, ..LabSpec::dual(Mode::Vxlan) });
    let _processes = give_to_nobody(&mut lab);
    let mut daemon = Running(run(&lab, &program));
    let screen = screen(&mut daemon.0);
    assert!(screen.contains("endpoints  2 attached"), "{screen}");
    let [a, b] = &lab.nodes;
    for pod in &a.pods {
        pod.wait(Duration::from_secs(10)).unwrap();
    }
    let v6 = |pod: &Pod| pod.address_of(Family::V6).unwrap();
    for (from, to) in [(&a.pods[0], &a.pods[1]), (&a.pods[0], &b.pods[0]), (&b.pods[1], &a.pods[1])] {
        let what = format!("{} to {}", from.name, to.name);
        reaches(&from.netns, v6(to), &what);
        reaches(&from.netns, to.address, &what);
    }
    let (from, to) = (&a.pods[0], &b.pods[0]);
    for (from, to) in [(from, to), (to, from)] {
        let moved = transfer(&from.netns, &to.netns, v6(to), 1 << 20).unwrap();
        assert!(moved.bytes == 1 << 20 && moved.intact(), "{} to {}: {moved:?}", from.name, to.name);
    }
    end(&mut daemon);
}

/// Nobody's daemon hands over to nobody's: what it has open needs no privileges to be used.
#[test]
fn nobodys_daemon_takes_over_from_nobodys_without_loss() {
    let (dir, program) = margay_for_all();
    std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let control = dir.path().join("control");
    let arguments = ["--control-socket", control.to_str().unwrap()];
    let mut lab = vxlan_with(NodeKind::Kernel);
    let _processes = give_to_nobody(&mut lab);
    let mut daemon = Running(run_with(&lab, &program, &arguments));
    screen(&mut daemon.0);
    let [from, to] = [0, 1].map(|node| lab.nodes[node].pods[0].netns.try_clone().unwrap());
    lab.nodes[0].pods[0].wait(Duration::from_secs(10)).unwrap();
    let address = lab.nodes[1].pods[0].address;
    reaches_once(&lab.nodes[0].pods[0], &lab.nodes[1].pods[0], 2);

    let spec = Steady { payload: 200, count: 12_000, rate: 4_000.0, outstanding: 500 };
    let arrivals = std::thread::scope(|scope| {
        let stream = scope.spawn(|| steady(&from, &to, address, spec).unwrap());
        for _ in 0..3 {
            let mut next = Running(run_with(&lab, &program, &["--takeover", arguments[0], arguments[1]]));
            let screen = screen(&mut next.0);
            assert!(screen.contains("endpoints  2 attached"), "{screen}");
            assert_eq!(daemon.0.wait().unwrap().code(), Some(0));
            daemon = next;
        }
        stream.join().unwrap()
    });
    assert_eq!((arrivals.sent, arrivals.lost), (spec.count, 0), "{arrivals:?}");
    // It is whole: both ways, and between its own.
    let [a, b] = &lab.nodes;
    reaches_once(&a.pods[0], &a.pods[1], 1);
    reaches_once(&b.pods[1], &a.pods[1], 2);
    end(&mut daemon);
}

/// By SIGTERM, and well.
fn end(daemon: &mut Running) {
    let pid = nix::unistd::Pid::from_raw(daemon.0.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(daemon.0.wait().unwrap().code(), Some(0));
}

#[test]
fn other_modes_are_refused_with_the_reason() {
    let (_dir, program) = margay_for_all();
    for (mode, what) in [
        (Mode::Ipip, "pool 10.65.0.0/16 says IPIP"),
        (Mode::None, "pool 10.65.0.0/16 says no encapsulation"),
        (Mode::VxlanCrossSubnet, "10.65.0.64/26 of node-b is reached without encapsulation"),
    ] {
        let lab = build(LabSpec::new(mode));
        fs::set_permissions(lab.resources.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let output = run(&lab, &program).wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(
            error.contains(what) && error.contains("CAP_NET_RAW") && error.contains("vxlanMode"),
            "{error}"
        );
    }
}

/// A namespace that root made is not nobody's to enter: that is said of the endpoint, and the others work.
#[test]
fn a_pod_of_somebody_elses_is_not_attached_and_the_others_are() {
    let (_dir, program) = margay_for_all();
    let mut lab = vxlan_with(NodeKind::Kernel);
    let theirs = lab.nodes[0].pods.pop().unwrap();
    let _processes = give_to_nobody(&mut lab);
    let mut daemon = Running(run(&lab, &program));
    let screen = screen(&mut daemon.0);
    assert!(screen.contains("endpoints  1 attached, 1 not") && screen.contains("NOT ATTACHED"), "{screen}");
    let [a, b] = &lab.nodes;
    a.pods[0].wait(Duration::from_secs(10)).unwrap();
    reaches_once(&a.pods[0], &b.pods[0], 2);
    drop(theirs);
}
