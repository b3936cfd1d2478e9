//! Endpoints come and go while traffic flows, and what an endpoint looks like from inside the workload.

mod lab;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lab::{build, ip, margay, moves_tcp, reaches, reaches_once, start, until};
use margay::lpm::Prefix;
use margay::rib::Attach;
use margay::sys::netlink::{RouteKind, Scope};
use margay::sys::netns::Netns;
use margay::testbed::{Capture, Lab, LabSpec, Mode, Ping, Workdir, ping};
use margay::wire::{Family, MacAddr};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

const PATIENCE: Duration = Duration::from_secs(10);
/// Datagrams on their way, at most: far fewer than a TAP or a socket queues.
const OUTSTANDING: usize = 64;

/// Text of a pod's resource file.
fn resource(lab: &Lab, pod: &str) -> String {
    std::fs::read_to_string(lab.resources.path().join(format!("workload-{pod}.yaml"))).unwrap()
}

fn write(lab: &Lab, pod: &str, text: &str) {
    lab.resources.write(&format!("workload-{pod}.yaml"), text).unwrap();
}

fn output(lab: &mut Lab, node: usize) -> String {
    lab.nodes[node].daemon().expect("a margay node").output()
}

/// Traffic between two pods that counts what is lost, until told to end.
struct Traffic<'a> {
    from: &'a Netns,
    to: &'a Netns,
    address: IpAddr,
    end: &'a AtomicBool,
}

impl Traffic<'_> {
    /// Pings one after the other; how many were sent and how many lost.
    fn pings(&self) -> (usize, usize) {
        let (mut sent, mut lost) = (0, 0);
        let few = Ping {
            count: 20,
            interval: Duration::from_millis(1),
            patience: Duration::from_secs(2),
            ..Ping::default()
        };
        while !self.end.load(Ordering::Relaxed) {
            let report = ping(self.from, self.address, few).unwrap();
            sent += report.sent;
            lost += report.lost();
        }
        (sent, lost)
    }

    /// A numbered datagram each millisecond without waiting for an answer; how many were sent and how many lost.
    /// On a machine that is too slow for it the sender holds back, before a queue could overflow.
    fn stream(&self) -> (usize, usize) {
        let receiver = self.to.run(|| UdpSocket::bind(SocketAddr::new(self.address, 0))).unwrap().unwrap();
        let sender = self.from.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        receiver.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (sent, received) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| {
                while !self.end.load(Ordering::Relaxed) {
                    let number = sent.load(Ordering::Relaxed);
                    if number - received.load(Ordering::Relaxed) < OUTSTANDING {
                        sender.send(&number.to_be_bytes()).unwrap();
                        sent.store(number + 1, Ordering::Relaxed);
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            let (mut seen, mut buffer) = (Vec::new(), [0; 8]);
            let mut deadline = None;
            while !sending.is_finished() || seen.len() < sent.load(Ordering::Relaxed) {
                if receiver.recv(&mut buffer).is_ok() {
                    seen.push(usize::from_be_bytes(buffer));
                    received.store(seen.len(), Ordering::Relaxed);
                }
                if sending.is_finished()
                    && *deadline.get_or_insert_with(|| Instant::now() + PATIENCE) < Instant::now()
                {
                    break;
                }
            }
            seen.sort_unstable();
            let received = seen.len();
            seen.dedup();
            assert_eq!(seen.len(), received, "a datagram arrived twice");
            let sent = sent.load(Ordering::Relaxed);
            (sent, sent - received)
        })
    }
}

/// O6 of the standards: 20 endpoints come and go on both nodes; what the others send is not disturbed.
#[test]
fn endpoints_come_and_go_without_loss_to_others() {
    let mut lab = start(LabSpec::new(Mode::Vxlan), &[]);
    let [a, b] = &lab.nodes;
    let netns = |pod: &margay::testbed::Pod| pod.netns.try_clone().unwrap();
    let (a1, a2, b1) = (netns(&a.pods[0]), netns(&a.pods[1]), netns(&b.pods[0]));
    let (address_a2, address_b1) = (a.pods[1].address, b.pods[0].address);
    let end = AtomicBool::new(false);
    let local = Traffic { from: &a1, to: &a2, address: address_a2, end: &end };
    let across = Traffic { from: &a1, to: &b1, address: address_b1, end: &end };
    std::thread::scope(|scope| {
        let results = [
            ("pings on one node", scope.spawn(|| local.pings())),
            ("pings across", scope.spawn(|| across.pings())),
            ("UDP on one node", scope.spawn(|| local.stream())),
            ("UDP across", scope.spawn(|| across.stream())),
        ];
        // The daemons belong to this thread, so it is the one that works; a panic must not leave the others
        // waiting for the end.
        let churned = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| churn(&mut lab)));
        end.store(true, Ordering::Relaxed);
        for (what, thread) in results {
            let (sent, lost) = thread.join().unwrap();
            assert!(sent > 50, "{what}: {sent} are too few to tell");
            assert_eq!(lost, 0, "{what}: lost of {sent}");
        }
        churned.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

/// Adds ten pods to each node, one by one, and takes them away again.
fn churn(lab: &mut Lab) {
    for round in 0..20 {
        let node = round % 2;
        let pod = lab.add_pod(node).unwrap();
        pod.wait(PATIENCE).unwrap();
        if round % 5 == 0 {
            let (newest, other) = (&lab.nodes[node].pods[2 + round / 2], &lab.nodes[1 - node].pods[0]);
            // The peer knows the block, not the pod: nothing has to spread.
            reaches(&other.netns, newest.address, "a pod that was just added");
        }
    }
    // The resources change in other ways too: 400 blocks of node-b come and go.
    let blocks: String = (0..400).map(block_of_node_b).collect();
    lab.resources.write("blocks.yaml", &blocks).unwrap();
    for round in 0..20 {
        let gone = lab.remove_pod(round % 2, 2).unwrap();
        until("the TAP of a removed pod goes", || gone.netns.netlink().unwrap().link("eth0").is_err());
    }
}

fn block_of_node_b(number: usize) -> String {
    let (third, fourth) = (128 + number / 4, number % 4 * 64);
    format!(
        "---
apiVersion: projectcalico.org/v3
kind: BlockAffinity
metadata:
  name: node-b-{number}
spec:
  cidr: 10.65.{third}.{fourth}/26
  node: node-b
  state: confirmed
"
    )
}

#[test]
fn a_tap_is_what_calicos_cni_plugin_would_have_made() {
    let lab = start(LabSpec::new(Mode::Ipip), &[]);
    let pod = &lab.nodes[0].pods[0];
    let mut inside = pod.netns.netlink().unwrap();
    let link = inside.link("eth0").unwrap();
    assert_eq!((link.mac, link.mtu, link.running), (Some(pod.mac), 1480, true));
    let addresses = inside.addresses().unwrap();
    let own: Vec<Prefix> =
        addresses.iter().filter(|(dev, _)| *dev == link.index).map(|(_, address)| *address).collect();
    assert_eq!(own, [Prefix::from(pod.address)], "one address, of 32 bits, and none of IPv6");

    let routes = inside.routes(Family::V4).unwrap();
    let main: Vec<_> =
        routes.iter().filter(|route| route.table == 254 && route.kind == RouteKind::Unicast).collect();
    let gateway = main.iter().find(|route| route.dst == Prefix::from(ip("169.254.1.1"))).unwrap();
    assert_eq!((gateway.dev, gateway.scope, gateway.via), (Some(link.index), Scope::Link, None));
    let default = main.iter().find(|route| route.dst.prefix_len() == 0).unwrap();
    assert_eq!((default.dev, default.via), (Some(link.index), Some(ip("169.254.1.1"))));
    assert_eq!(main.len(), 2, "{main:?}");

    reaches(&pod.netns, lab.nodes[0].pods[1].address, "its neighbour");
    let known = pod.gateway(Family::V4).unwrap().expect("it asked for its gateway");
    assert_eq!(known.mac, Some(MacAddr([0xee; 6])));
}

#[test]
fn an_endpoint_comes_back_with_another_mac() {
    let mut lab = start(LabSpec::new(Mode::Vxlan), &[]);
    let text = resource(&lab, "pod-a1");
    let pod = &lab.nodes[0].pods[0];
    let other = MacAddr([0x02, 0, 0, 0, 0, 0x77]);
    assert_ne!(pod.mac, other);
    write(&lab, "pod-a1", &text.replace(&pod.mac.to_string(), &other.to_string()));
    until("the new MAC", || {
        pod.netns.netlink().unwrap().link("eth0").is_ok_and(|link| link.mac == Some(other))
    });
    pod.wait(PATIENCE).unwrap();
    // Neither the neighbour nor the other node may go on with the old address.
    reaches(&lab.nodes[0].pods[1].netns, pod.address, "the neighbour to the pod with a new MAC");
    reaches(&lab.nodes[1].pods[0].netns, pod.address, "the other node's pod to the pod with a new MAC");
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

/// S1: the interface stays as it is, as what changes is the FIB alone.
#[test]
fn what_an_endpoint_may_send_from_changes_while_it_runs() {
    let mut lab = start(LabSpec::new(Mode::Vxlan), &[]);
    let text = resource(&lab, "pod-a1");
    let [pod, neighbour, ..] = &lab.nodes[0].pods[..] else { panic!("two pods") };
    let mut netlink = pod.netns.netlink().unwrap();
    let eth0 = netlink.link("eth0").unwrap().index;
    let other = ip("192.0.2.9");
    netlink.add_address(eth0, Prefix::from(other)).unwrap();
    let (sender, receiver) = [(&pod.netns, other), (&neighbour.netns, neighbour.address)]
        .map(|(netns, address)| netns.run(|| UdpSocket::bind((address, 5000)).unwrap()).unwrap())
        .into();
    receiver.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let arrives = || {
        sender.send_to(b"from 192.0.2.9", (neighbour.address, 5000)).unwrap();
        receiver.recv_from(&mut [0; 32]).is_ok_and(|(_, from)| from.ip() == other)
    };
    assert!(!arrives(), "not before it is allowed");
    let felix = "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec: \
                 {workloadSourceSpoofing: Any}\n";
    lab.resources.write("felix.yaml", felix).unwrap();
    write(&lab, "pod-a1", &format!("{text}  allowSpoofedSourcePrefixes: [192.0.2.0/24]\n"));
    until("the source is allowed", arrives);
    lab.resources.remove("felix.yaml").unwrap();
    until("the source is not allowed", || !arrives());
    assert_eq!(pod.netns.netlink().unwrap().link("eth0").unwrap().index, eth0);
    assert!(!output(&mut lab, 0).contains("endpoint detached"));
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn an_interface_that_somebody_deletes_is_made_again() {
    let mut lab = start(LabSpec::new(Mode::Vxlan), &[]);
    let [a, b] = &lab.nodes;
    let before = a.pods[0].netns.netlink().unwrap().link("eth0").unwrap().index;
    a.pods[0].netns.netlink().unwrap().delete_link("eth0").unwrap();
    until("another eth0", || {
        a.pods[0].netns.netlink().unwrap().link("eth0").is_ok_and(|link| link.index != before)
    });
    a.pods[0].wait(PATIENCE).unwrap();
    reaches(&b.pods[0].netns, a.pods[0].address, "the pod with a new interface");
    assert!(output(&mut lab, 0).contains("endpoint detached"));
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

/// A lab, not started yet, where pod-a1's namespace is named by a path that the test can take away: the path
/// of a [`Netns`] is a descriptor's, and its number may soon be another's.
fn with_a_path_of_its_own() -> (Lab, Workdir, std::path::PathBuf) {
    let elsewhere = Workdir::new().unwrap();
    let link = elsewhere.path().join("netns");
    let lab = build(LabSpec::new(Mode::Vxlan));
    let netns = lab.nodes[0].pods[0].netns.path();
    let text = resource(&lab, "pod-a1");
    write(&lab, "pod-a1", &text.replace(&netns.display().to_string(), &link.display().to_string()));
    (lab, elsewhere, link)
}

/// Its resource stays for a while, as Kubernetes is not always in step.
#[test]
fn a_pod_whose_namespace_vanishes_is_let_go() {
    let (mut lab, _elsewhere, link) = with_a_path_of_its_own();
    symlink(lab.nodes[0].pods[0].netns.path(), &link).unwrap();
    lab.start(margay(), &[]).unwrap_or_else(|error| panic!("{error}"));
    let gone = lab.nodes[0].pods.remove(0);
    std::fs::remove_file(&link).unwrap();
    until("the TAP of a pod that is no more", || gone.netns.netlink().unwrap().link("eth0").is_err());
    no_answer_at(&lab, gone.address);
    drop(gone);
    reaches_once(&lab.nodes[0].pods[0], &lab.nodes[1].pods[0], 2);
    lab.resources.remove("workload-pod-a1.yaml").unwrap();
    until("the resources without it", || output(&mut lab, 0).contains("resources applied"));
    reaches_once(&lab.nodes[0].pods[0], &lab.nodes[1].pods[0], 2);
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

/// Docker names a pod's namespace by its first process.
#[test]
fn a_pod_whose_first_process_ends_is_let_go() {
    let mut lab = build(LabSpec::new(Mode::Vxlan));
    let pod = &lab.nodes[0].pods[0];
    let mut first = pod.netns.command("cat").unwrap().stdin(Stdio::piped()).spawn().unwrap();
    let text = resource(&lab, "pod-a1");
    let process = format!("/proc/{}/ns/net", first.id());
    write(&lab, "pod-a1", &text.replace(&pod.netns.path().display().to_string(), &process));
    lab.start(margay(), &[]).unwrap_or_else(|error| panic!("{error}"));
    drop(first.stdin.take());
    first.wait().unwrap();
    let gone = lab.nodes[0].pods.remove(0);
    until("the TAP of a pod that is no more", || gone.netns.netlink().unwrap().link("eth0").is_err());
    reaches_once(&lab.nodes[0].pods[0], &lab.nodes[1].pods[0], 2);
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

/// A namespace that is mounted on a file, as `ip netns` and container runtimes do.
struct Mounted(PathBuf);

impl Mounted {
    fn new(netns: &Netns, at: PathBuf) -> Self {
        std::fs::write(&at, "").unwrap();
        mount(Some(&netns.path()), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .unwrap_or_else(|error| panic!("mount on {}: {error}: this needs root", at.display()));
        Mounted(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn a_pod_whose_namespace_is_unmounted_is_let_go() {
    let (mut lab, _elsewhere, path) = with_a_path_of_its_own();
    let mounted = Mounted::new(&lab.nodes[0].pods[0].netns, path);
    lab.start(margay(), &[]).unwrap_or_else(|error| panic!("{error}"));
    let gone = lab.nodes[0].pods.remove(0);
    // The file stays.
    drop(mounted);
    until("the TAP of a pod that is no more", || gone.netns.netlink().unwrap().link("eth0").is_err());
    reaches_once(&lab.nodes[0].pods[0], &lab.nodes[1].pods[0], 2);
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_veth_that_vanishes_is_let_go() {
    let mut lab = start(LabSpec { attach: Attach::Veth, ..LabSpec::new(Mode::Vxlan) }, &[]);
    let gone = lab.nodes[0].pods.remove(0);
    let address = gone.address;
    // The veth goes with the namespace, and the packet socket hears of it.
    drop(gone);
    until("the daemon's word on it", || output(&mut lab, 0).contains("endpoint detached"));
    no_answer_at(&lab, address);
    reaches_once(&lab.nodes[0].pods[0], &lab.nodes[1].pods[0], 2);
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

fn no_answer_at(lab: &Lab, address: IpAddr) {
    let brief = Ping { count: 1, patience: Duration::from_millis(100), ..Ping::default() };
    assert_eq!(ping(&lab.nodes[1].pods[0].netns, address, brief).unwrap().lost(), 1, "nobody is there");
}

#[test]
fn a_namespace_may_come_later_than_its_resource() {
    let (mut lab, _elsewhere, link) = with_a_path_of_its_own();
    // Lab::start waits for every pod's interface, and this one's cannot be there yet.
    let pod = lab.nodes[0].pods.remove(0);
    lab.start(margay(), &[]).unwrap_or_else(|error| panic!("{error}"));
    assert!(output(&mut lab, 0).contains("NOT ATTACHED"), "{}", output(&mut lab, 0));
    reaches_once(&lab.nodes[0].pods[0], &lab.nodes[1].pods[0], 2);

    symlink(pod.netns.path(), &link).unwrap();
    pod.wait(PATIENCE).unwrap();
    reaches(&lab.nodes[1].pods[0].netns, pod.address, "the late pod");
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

/// A pod on a veth that has said nothing so far, and whose resource does not tell its MAC: the first packet
/// waits until the pod was asked, and arrives.
#[test]
fn a_mac_that_is_not_given_is_asked_for() {
    let spec = LabSpec { attach: Attach::Veth, ..LabSpec::new(Mode::Vxlan) };
    let mut lab = build(spec);
    for name in ["pod-a1", "pod-b1"] {
        let text = resource(&lab, name);
        let without: Vec<&str> = text.lines().filter(|line| !line.starts_with("  mac: ")).collect();
        assert_eq!(without.len() + 1, text.lines().count());
        write(&lab, name, &(without.join("\n") + "\n"));
    }
    lab.start(margay(), &[]).unwrap_or_else(|error| panic!("{error}"));
    let [a, b] = &lab.nodes;
    for from in [&b.pods[0], &a.pods[1]] {
        let silent = &a.pods[0];
        let capture = Capture::start(&silent.netns, "eth0").unwrap();
        let one = Ping { count: 1, patience: Duration::from_secs(5), ..Ping::default() };
        let report = ping(&from.netns, silent.address, one).unwrap();
        assert_eq!(report.lost(), 0, "{} to {}: {report}", from.name, silent.name);
        let frames = capture.stop();
        let asked = frames.iter().any(|frame| {
            // ARP, operation 1, target 10.65.0.2, from the gateway's MAC.
            let bytes = &frame.bytes[..];
            bytes.len() >= 42
                && bytes[6..14] == [0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0x08, 0x06]
                && bytes[20..22] == [0, 1]
                && bytes[38..42] == [10, 65, 0, 2]
        });
        assert_eq!(asked, from.name == "pod-b1", "asked once, then known");
    }
    moves_tcp(&a.pods[0], &b.pods[0], 1_000_000);
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

/// `margay.dev/queues: "2"`: the kernel spreads the pod's flows over the queues, and each has its worker.
#[test]
fn a_tap_of_two_queues_serves_both() {
    let mut lab = build(LabSpec::new(Mode::Vxlan));
    let text = resource(&lab, "pod-a1");
    let queues = "    margay.dev/attach: tap\n    margay.dev/queues: \"2\"\n";
    write(&lab, "pod-a1", &text.replace("    margay.dev/attach: tap\n", queues));
    lab.start(margay(), &["--workers", "2"]).unwrap_or_else(|error| panic!("{error}"));
    assert!(output(&mut lab, 0).contains("2 queue(s)"), "{}", output(&mut lab, 0));
    let [a, b] = &lab.nodes;
    reaches_once(&a.pods[0], &b.pods[0], 2);
    moves_tcp(&a.pods[0], &b.pods[0], 1_000_000);

    // To nobody, so that nothing but this pod's TAP gives the workers work.
    let flows: Vec<UdpSocket> =
        (0..16).map(|_| a.pods[0].netns.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap()).collect();
    let pid = lab.nodes[0].daemon().unwrap().pid();
    let waits = || [0, 1].map(|index| waits(pid, &format!("margay-{index}")));
    let before = waits();
    for _ in 0..100 {
        for flow in &flows {
            flow.send_to(b"flow", "10.65.0.60:9").unwrap();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let after = waits();
    assert!(after[0] >= before[0] + 10 && after[1] >= before[1] + 10, "waits: {before:?} then {after:?}");
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

/// How often a thread waited for work.
fn waits(pid: u32, name: &str) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    for task in tasks.map_while(Result::ok) {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        if read("comm").trim() == name {
            let status = read("status");
            let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap();
            return line.split_whitespace().nth(1).unwrap().parse().unwrap();
        }
    }
    panic!("no thread {name}");
}
