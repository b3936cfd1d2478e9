//! What lasts: traffic over changes of the resources, and what pods have over the end of the daemon.

mod lab;

use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lab::{build, margay, packets, reaches, start, until, until_ended};
use margay::rib::Attach;
use margay::sys::netlink::{Link, LinkChange};
use margay::sys::netns::Netns;
use margay::testbed::{
    Arrivals, Capture, Lab, LabSpec, Mode, Ping, Steady, Transfer, Workdir, ping, steady, trickle,
};
use margay::wire::{Family, MacAddr};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// 100 Mbit/s of 1,000-byte datagrams, for eight seconds. That is a tenth of what margay forwards on one core of a slow machine. Of
/// the queues on the way the shortest is that of a CPU's softirqs, which holds 1,000 packets (`net.core.netdev_max_backlog`):
/// where the machine is busy with other things the sender holds back before that overflows.
const STREAM: Steady = Steady { payload: 1_000, count: 100_000, rate: 12_500.0, outstanding: 500 };

fn netns(lab: &Lab, node: usize, pod: usize) -> (Netns, IpAddr) {
    let pod = &lab.nodes[node].pods[pod];
    (pod.netns.try_clone().unwrap(), pod.address)
}

/// Has something done again and again while a stream flows from the first pod of node-a to that of node-b; how often,
/// and what arrived. The daemons belong to the calling thread, so it is the one that works.
fn while_it_flows(lab: &mut Lab, spec: Steady, mut work: impl FnMut(&mut Lab, usize)) -> (usize, Arrivals) {
    let (from, _) = netns(lab, 0, 0);
    let (to, address) = netns(lab, 1, 0);
    std::thread::scope(|scope| {
        let stream = scope.spawn(|| steady(&from, &to, address, spec).unwrap());
        let mut rounds = 0;
        while !stream.is_finished() {
            work(lab, rounds);
            rounds += 1;
        }
        (rounds, stream.join().unwrap())
    })
}

/// Ends the daemons, whose last words say where something was lost.
fn nothing_lost(mut lab: Lab, arrivals: Arrivals, spec: Steady, what: &str) {
    let words = [0, 1].map(|node| {
        end(&mut lab, node, Signal::SIGTERM);
        let said = lab.nodes[node].daemon().unwrap().output();
        said.lines().skip_while(|line| !line.contains("frames in")).collect::<Vec<_>>().join("\n")
    });
    let Arrivals { sent, lost, repeated, .. } = arrivals;
    assert_eq!((sent, lost, repeated), (spec.count, 0, 0), "{what}: {arrivals:?}\n{}", words.join("\n"));
}

/// A pool of an encapsulation that the lab has not yet.
fn pool(mode: Mode) -> String {
    let (ipip, vxlan) = if mode == Mode::Vxlan { ("Always", "Never") } else { ("Never", "Always") };
    format!(
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: more}}\nspec: {{cidr: 10.66.0.0/16, \
         blockSize: 26, ipipMode: {ipip}, vxlanMode: {vxlan}}}\n"
    )
}

/// A block that moves from one node to the other.
fn block(node: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: BlockAffinity\nmetadata: {{name: roaming}}\nspec: {{cidr: 10.65.200.0/26, \
         node: {node}, state: confirmed}}\n"
    )
}

/// Pools and endpoints come and go and a block moves; each change is read by both daemons before the next one is made.
fn change(lab: &mut Lab, mode: Mode, round: usize) {
    let read = |lab: &mut Lab| {
        lab.nodes.each_mut().map(|node| {
            let said = node.daemon().unwrap().output();
            said.matches("resources applied").count() + said.matches("nothing to change").count()
        })
    };
    let before = read(lab);
    match round % 8 {
        0 | 4 => lab.resources.write("more.yaml", &pool(mode)).unwrap(),
        2 | 6 => lab.resources.remove("more.yaml").unwrap(),
        1 | 5 => lab.resources.write("block.yaml", &block(["node-a", "node-b"][round / 4 % 2])).unwrap(),
        3 => drop(lab.add_pod(round / 8 % 2).unwrap()),
        _ => drop(lab.remove_pod(round / 8 % 2, 2).unwrap()),
    }
    until("both daemons read it", || read(lab).iter().zip(before).all(|(now, before)| *now > before));
}

#[test]
fn resources_change_while_traffic_flows_without_loss() {
    for (mode, attach) in [(Mode::Vxlan, Attach::Tap), (Mode::Ipip, Attach::Tap), (Mode::None, Attach::Veth)]
    {
        let mut lab = start(LabSpec { attach, ..LabSpec::new(mode) }, &["--workers", "2"]);
        let spec = Steady { count: STREAM.count / 2, ..STREAM };
        let (rounds, arrivals) = while_it_flows(&mut lab, spec, |lab, round| change(lab, mode, round));
        assert!(rounds >= 8, "{mode:?}: every kind of change, in {rounds} rounds");
        nothing_lost(lab, arrivals, spec, &format!("{mode:?}, {rounds} changes"));
    }
}

/// Ends a node's daemon and waits until it has.
fn end(lab: &mut Lab, node: usize, signal: Signal) {
    let daemon = lab.nodes[node].daemon().unwrap();
    daemon.signal(signal).unwrap();
    until_ended(daemon.pid());
}

fn restart(lab: &mut Lab, node: usize, arguments: &[&str]) {
    let before = lab.restart(node, margay(), arguments).unwrap_or_else(|error| panic!("{error}"));
    drop(before);
}

fn eth0(netns: &Netns) -> Link {
    netns.netlink().unwrap().link("eth0").unwrap()
}

/// What a pod has: its interface, addresses and routes.
fn belongings(netns: &Netns) -> impl PartialEq + std::fmt::Debug + use<> {
    let mut netlink = netns.netlink().unwrap();
    let link = netlink.link("eth0").unwrap();
    let addresses = netlink.addresses().unwrap();
    let mut routes = netlink.routes(Family::V4).unwrap();
    routes.retain(|route| route.dev == Some(link.index));
    (link.index, link.mac, link.mtu, link.up, addresses, routes)
}

#[test]
fn tcp_connections_live_on_over_the_daemons_end() {
    for (attach, signal) in
        [(Attach::Tap, Signal::SIGTERM), (Attach::Tap, Signal::SIGKILL), (Attach::Veth, Signal::SIGKILL)]
    {
        let mut lab = start(LabSpec { attach, ..LabSpec::new(Mode::Vxlan) }, &[]);
        let (from, _) = netns(&lab, 0, 0);
        let (to, address) = netns(&lab, 1, 0);
        let before = belongings(&from);
        let ended = AtomicBool::new(false);
        let moved: Transfer = std::thread::scope(|scope| {
            let stream = scope.spawn(|| trickle(&from, &to, address, &ended));
            for node in [0, 1, 0] {
                reaches(&lab.nodes[0].pods[1].netns, address, "while it runs");
                end(&mut lab, node, signal);
                restart(&mut lab, node, &[]);
            }
            reaches(&lab.nodes[0].pods[1].netns, address, "after the last restart");
            ended.store(true, Ordering::Relaxed);
            stream.join().unwrap().unwrap_or_else(|error| panic!("{attach:?} {signal}: {error}"))
        });
        assert!(moved.intact() && moved.bytes > 0, "{attach:?} {signal}: {moved:?}");
        assert_eq!(belongings(&from), before, "{attach:?} {signal}: the same interface with all that it had");
        lab.stop().unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Nobody speaks for a node while it has no daemon: not its kernel to the pods, not the pods by another way.
#[test]
fn between_two_daemons_nothing_is_answered_and_nothing_takes_another_way() {
    for (attach, signal) in [(Attach::Tap, Signal::SIGKILL), (Attach::Veth, Signal::SIGTERM)] {
        let mut lab = start(LabSpec { attach, ..LabSpec::new(Mode::None) }, &[]);
        lab::sysctl(&lab.nodes[0].netns, "net/ipv4/ip_forward", "1");
        let (pod, own) = netns(&lab, 0, 0);
        let (far, address) = netns(&lab, 1, 0);
        let before = belongings(&pod);
        end(&mut lab, 0, signal);

        assert_eq!(belongings(&pod), before, "{attach:?} {signal}");
        let underlay = Capture::start(&lab.nodes[0].netns, "eth0").unwrap();
        let brief = Ping { count: 2, patience: Duration::from_millis(100), ..Ping::default() };
        for (from, to) in [(&pod, address), (&far, own), (&lab.nodes[0].netns, own)] {
            let report = ping(from, to, brief).unwrap();
            assert_eq!(
                (report.lost(), report.errors.len()),
                (2, 0),
                "{attach:?} {signal}, to {to}: {report}"
            );
        }
        let seen = packets(&underlay.stop());
        // What the other node sends here is all that there is, and nobody answers it.
        assert!(seen.iter().all(|packet| packet.source == address), "{attach:?} {signal}: {seen:?}");

        restart(&mut lab, 0, &[]);
        reaches(&pod, address, "out, after the restart");
        reaches(&far, own, "in, after the restart");
        reaches(&lab.nodes[0].netns, own, "the node to its pod, after the restart");
        lab.stop().unwrap_or_else(|error| panic!("{error}"));
    }
}

/// What the resources no longer have when a daemon starts goes, as soon as they are read without an error.
#[test]
fn what_nobody_wants_any_more_goes_with_the_next_daemon() {
    let mut lab = start(LabSpec { pods_per_node: 3, ..LabSpec::new(Mode::Vxlan) }, &[]);
    end(&mut lab, 0, Signal::SIGKILL);
    let gone = lab.remove_pod(0, 2).unwrap();
    let moved = lab.remove_pod(0, 1).unwrap();
    let has_eth0 = |netns: &Netns| netns.netlink().unwrap().link("eth0").is_ok();
    // A resource that is wrong: nobody knows yet what is wanted.
    lab.resources.write("wrong.yaml", "kind: IPPool\nmetadata: {name: x}\n").unwrap();
    let refused = lab.restart(0, margay(), &[]).unwrap_err().to_string();
    assert!(refused.contains("wrong.yaml"), "{refused}");
    assert!(
        has_eth0(&gone.netns) && has_eth0(&moved.netns),
        "nothing goes while it is not known what is wanted"
    );
    lab.resources.remove("wrong.yaml").unwrap();

    restart(&mut lab, 0, &["--host-interface", "none"]);
    assert!(!has_eth0(&gone.netns) && !has_eth0(&moved.netns));
    assert!(lab.nodes[0].netns.netlink().unwrap().link("margay0").is_err(), "nor is there a host interface");
    reaches(&lab.nodes[0].pods[0].netns, lab.nodes[1].pods[0].address, "who stays");
    let said = lab.nodes[0].daemon().unwrap().output();
    assert_eq!(said.matches("left by an earlier daemon").count(), 3, "{said}");
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

fn rewrite(lab: &Lab, pod: &str, from: &str, to: &str) {
    let file = format!("workload-{pod}.yaml");
    let text = std::fs::read_to_string(lab.resources.path().join(&file)).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    lab.resources.write(&file, &text.replace(from, to)).unwrap();
}

#[test]
fn a_tap_gets_what_the_next_daemon_wants_of_it() {
    let mut lab = start(LabSpec::new(Mode::Vxlan), &["--workers", "2"]);
    let (pod, _) = netns(&lab, 0, 0);
    let (far, address) = netns(&lab, 1, 0);
    let before = eth0(&pod);
    end(&mut lab, 0, Signal::SIGKILL);
    // Another MAC, another MTU, another address: of the same interface.
    let mac = MacAddr([2, 0, 0, 0, 0, 0x77]);
    rewrite(&lab, "pod-a1", &before.mac.unwrap().to_string(), &mac.to_string());
    rewrite(&lab, "pod-a1", "10.65.0.2/32", "10.65.0.9/32");
    let felix = "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec: {mtu: 1400}\n";
    lab.resources.write("felix.yaml", felix).unwrap();
    restart(&mut lab, 0, &["--workers", "2"]);
    let after = eth0(&pod);
    assert_eq!((after.index, after.mac, after.mtu), (before.index, Some(mac), 1400));
    reaches(&pod, address, "out");
    reaches(&far, lab::ip("10.65.0.9"), "in");

    // More queues: another kind of interface, which is made anew.
    end(&mut lab, 0, Signal::SIGTERM);
    let queues = "margay.dev/attach: tap\n    margay.dev/queues: \"2\"\n";
    rewrite(&lab, "pod-a1", "margay.dev/attach: tap\n", queues);
    restart(&mut lab, 0, &["--workers", "2"]);
    assert_ne!(eth0(&pod).index, before.index);
    assert!(lab.nodes[0].daemon().unwrap().output().contains("2 queue(s)"));
    reaches(&pod, address, "by two queues");
    let two = eth0(&pod).index;
    end(&mut lab, 0, Signal::SIGKILL);
    restart(&mut lab, 0, &["--workers", "2"]);
    assert_eq!(eth0(&pod).index, two, "and an interface of two queues lasts as well");
    reaches(&pod, address, "by two queues, again");
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

/// Names the namespace of each pod's veth, so that margay may set the MTU of both ends.
fn name_namespaces(lab: &Lab) {
    for pod in lab.nodes.iter().flat_map(|node| &node.pods) {
        let named =
            format!("margay.dev/attach: veth\n    margay.dev/netns: {}\n", pod.netns.path().display());
        rewrite(lab, &pod.name, "margay.dev/attach: veth\n", &named);
    }
}

/// kill -9 leaves a veth with margay's MAC and MTU; the next daemon knows what it was.
#[test]
fn what_a_veth_was_is_known_over_kill_9() {
    let mut lab = build(LabSpec { attach: Attach::Veth, ..LabSpec::new(Mode::None) });
    name_namespaces(&lab);
    lab.start(margay(), &[]).unwrap_or_else(|error| panic!("{error}"));
    let (pod, _) = netns(&lab, 0, 0);
    let name = lab.nodes[0].pods[0].host_interface.clone();
    let host_end = |lab: &Lab| lab.nodes[0].netns.netlink().unwrap().link(name.as_str()).unwrap();
    assert_eq!((eth0(&pod).mtu, host_end(&lab).mtu), (1500, 1500));
    let felix = |mtu: u16| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: default}}\nspec: {{mtu: {mtu}}}\n"
        )
    };
    lab.resources.write("felix.yaml", &felix(1300)).unwrap();
    until("the lower MTU", || eth0(&pod).mtu == 1300 && host_end(&lab).mtu == 1300);
    end(&mut lab, 0, Signal::SIGKILL);
    assert_eq!((eth0(&pod).mtu, host_end(&lab).mtu), (1300, 1300));
    assert_ne!(host_end(&lab).mac, Some(MacAddr::GATEWAY), "the kernel still takes nothing from the pod");

    lab.resources.remove("felix.yaml").unwrap();
    restart(&mut lab, 0, &[]);
    until("the MTU that it was given", || eth0(&pod).mtu == 1500 && host_end(&lab).mtu == 1500);
    reaches(&pod, lab.nodes[1].pods[0].address, "with it");
    lab.resources.write("felix.yaml", &felix(1300)).unwrap();
    until("the lower MTU again", || eth0(&pod).mtu == 1300 && host_end(&lab).mtu == 1300);
    end(&mut lab, 0, Signal::SIGKILL);

    // Without another daemon, and without the resources.
    let out = clean_up(&lab.nodes[0].netns);
    assert!(out.contains(&name), "{out}");
    let restored = host_end(&lab);
    assert_eq!((restored.mac, restored.mtu, restored.alias), (Some(MacAddr::GATEWAY), 1500, None));
    assert_eq!(eth0(&pod).mtu, 1500);
}

fn clean_up(netns: &Netns) -> String {
    let mut command: Command = netns.command(margay()).unwrap();
    let done = command.arg("cleanup").output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn somebody_elses_remark_on_a_veth_stays() {
    let mut lab = build(LabSpec { attach: Attach::Veth, ..LabSpec::new(Mode::Vxlan) });
    let name = lab.nodes[0].pods[0].host_interface.clone();
    let host_end = |lab: &Lab| lab.nodes[0].netns.netlink().unwrap().link(name.as_str()).unwrap();
    let remark = LinkChange::Alias("rack 7".into());
    lab.nodes[0].netns.netlink().unwrap().set_link(name.as_str(), &[remark]).unwrap();
    lab.start(margay(), &[]).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(host_end(&lab).alias.as_deref(), Some("rack 7"));
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn cleanup_is_not_for_a_node_that_works() {
    let mut lab = start(LabSpec::new(Mode::Vxlan), &[]);
    let refused = lab.nodes[0].netns.command(margay()).unwrap().arg("cleanup").output().unwrap();
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && error.contains("another margay"), "{error}");
    reaches(&lab.nodes[0].pods[0].netns, lab.nodes[1].pods[0].address, "nothing was touched");
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
    let said = clean_up(&lab.nodes[0].netns);
    for what in ["margay0 (host)", "eth0 of a workload", "its table"] {
        assert!(said.contains(what), "{what} in {said}");
    }
    assert!(lab.nodes[0].pods.iter().all(|pod| pod.netns.netlink().unwrap().link("eth0").is_err()));
    assert!(clean_up(&lab.nodes[0].netns).contains("nothing"));
    assert!(
        lab.nodes[1].pods.iter().all(|pod| pod.netns.netlink().unwrap().link("eth0").is_ok()),
        "another node's"
    );
}

/// 5,000 packets a second and then some: a rate at which queues hold what arrives in the milliseconds in which nobody reads.
const MODEST: Steady = Steady { payload: 200, count: 30_000, rate: 6_000.0, outstanding: 500 };

#[test]
fn another_daemon_takes_over_without_loss() {
    for (mode, attach) in [
        (Mode::Vxlan, Attach::Tap),
        (Mode::Ipip, Attach::Tap),
        (Mode::None, Attach::Veth),
        (Mode::VxlanCrossSubnet, Attach::Tap),
    ] {
        let mut lab = start(LabSpec { attach, ..LabSpec::new(mode) }, &["--workers", "2"]);
        let (pod, _) = netns(&lab, 0, 0);
        let before = belongings(&pod);
        let (rounds, arrivals) = while_it_flows(&mut lab, MODEST, |lab, round| {
            let node = round % 2;
            let old = lab.take_over(node, margay(), &["--workers", "2"]);
            let old = old.unwrap_or_else(|error| panic!("{error}")).unwrap();
            until_ended(old.pid());
            let told = ["another daemon has taken over", "frames in"];
            until("its last words", || told.iter().all(|words| old.output().contains(words)));
            reaches(&lab.nodes[0].pods[1].netns, lab.nodes[1].pods[0].address, "after a takeover");
        });
        assert!(rounds >= 2, "{mode:?}: {rounds} are too few to tell");
        assert_eq!(belongings(&pod), before, "{mode:?}");
        // It is complete: it follows its resources, answers, and ends as any other.
        let status = lab.nodes[0].daemon().unwrap().control_socket();
        let status =
            Command::new(margay()).arg("status").env("MARGAY_CONTROL_SOCKET", status).output().unwrap();
        assert!(status.status.success(), "{status:?}");
        let new = lab.add_pod(0).unwrap();
        let attached = format!("workload=default/{} ", new.name);
        until("the new pod", || lab.nodes[0].daemon().unwrap().output().contains(&attached));
        reaches(&lab.nodes[1].pods[0].netns, lab.nodes[0].pods[2].address, "a pod that came later");
        nothing_lost(lab, arrivals, MODEST, &format!("{mode:?}, {rounds} takeovers"));
    }
}

/// A pod that has to ask for its gateway again has room for few packets meanwhile.
#[test]
fn a_pod_knows_its_gateway_over_a_takeover() {
    let mut lab = start(LabSpec::new(Mode::Vxlan), &[]);
    let (pod, _) = netns(&lab, 0, 0);
    let knows = || {
        let table = pod.run(|| std::fs::read_to_string("/proc/thread-self/net/arp")).unwrap().unwrap();
        table.contains("169.254.1.1")
    };
    reaches(&pod, lab.nodes[1].pods[0].address, "before a takeover");
    assert!(knows());
    let old = lab.take_over(0, margay(), &[]).unwrap().unwrap();
    until_ended(old.pid());
    assert!(knows());
}

/// The new daemon's side, spoken by hand.
struct Successor(UnixStream);

impl Successor {
    fn new(lab: &mut Lab, hello: &str) -> Self {
        let mut stream = UnixStream::connect(lab.nodes[0].daemon().unwrap().control_socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let request = "POST /v1/takeover HTTP/1.1\r\nHost: margay\r\nConnection: Upgrade\r\nUpgrade: margay-takeover\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        let mut successor = Successor(stream);
        successor.say(hello);
        successor
    }

    fn say(&mut self, text: &str) {
        self.0.write_all(&(text.len() as u32).to_be_bytes()).unwrap();
        self.0.write_all(text.as_bytes()).unwrap();
    }

    fn hear(&mut self) -> String {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).unwrap();
        let mut text = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }
}

fn hello(version: u32, lab: &Lab, node: &str) -> String {
    let netns = lab.nodes[0].netns.id().unwrap().1;
    format!("{{\"takeover\":{version},\"margay\":\"9.9.9\",\"netns\":{netns},\"node\":\"{node}\"}}")
}

/// Wherever the new daemon fails, the old one goes on, and not a packet is lost.
#[test]
fn a_takeover_that_fails_changes_nothing() {
    let mut lab = start(LabSpec::new(Mode::Vxlan), &[]);
    let (rounds, arrivals) = while_it_flows(&mut lab, MODEST, |lab, round| {
        let said =
            |lab: &mut Lab| lab.nodes[0].daemon().unwrap().output().matches("this one goes on").count();
        let before = said(lab);
        match round % 6 {
            // It does not speak at all.
            0 => drop(Successor::new(lab, "{}")),
            // Another version, another node: refused with the reason.
            1 | 2 => {
                let hello = if round % 6 == 1 { hello(99, lab, "node-a") } else { hello(1, lab, "node-x") };
                let mut successor = Successor::new(lab, &hello);
                let refused = successor.hear();
                let why = if round % 6 == 1 { "version 1 of the takeover, not 99" } else { "not of node-x" };
                assert!(refused.contains("refused") && refused.contains(why), "{refused}");
            }
            // It ends with everything in its hands.
            3 => {
                let hello = hello(1, lab, "node-a");
                let mut successor = Successor::new(lab, &hello);
                let offer = successor.hear();
                for what in [
                    "tap ",
                    "host margay0",
                    "vxlan 192.168.77.1:4789 0 of",
                    "vxlan senders",
                    "underlay",
                    "sole",
                    "control",
                ] {
                    assert!(offer.contains(what), "{what} in {offer}");
                }
            }
            // It ends when the workers of the old one rest.
            4 => {
                let hello = hello(1, lab, "node-a");
                let mut successor = Successor::new(lab, &hello);
                successor.hear();
                // As many messages with descriptors as there are; their bytes are zeros and no length of a message.
                successor.say("{\"ready\":true}");
                let mut bytes = [0; 4096];
                let mut heard = Vec::new();
                while !String::from_utf8_lossy(&heard).contains("path_mtus") {
                    let length = successor.0.read(&mut bytes).unwrap();
                    heard.extend_from_slice(&bytes[..length]);
                }
            }
            // A real one with an option that cannot be.
            _ => {
                let refused =
                    lab.take_over(0, margay(), &["--ipip-offload", "bpf", "--host-interface", "lo"]);
                let refused = refused.unwrap_err().to_string();
                assert!(refused.contains("lo"), "{refused}");
            }
        }
        until("the old daemon's word on it", || said(lab) > before);
        let what = format!("after a takeover that failed in way {}", round % 6);
        reaches(&lab.nodes[0].pods[1].netns, lab.nodes[1].pods[0].address, &what);
    });
    assert!(rounds >= 6, "{rounds}: every kind of failure");
    nothing_lost(lab, arrivals, MODEST, &format!("{rounds} takeovers that failed"));
}

#[test]
fn without_a_daemon_there_is_nothing_to_take_over() {
    let mut lab = start(LabSpec::new(Mode::Vxlan), &[]);
    end(&mut lab, 0, Signal::SIGTERM);
    let refused = lab.take_over(0, margay(), &[]).unwrap_err().to_string();
    assert!(refused.contains("no daemon answers at") && refused.contains("without --takeover"), "{refused}");
}

/// Where the daemon's words to its service manager arrive.
struct Manager {
    socket: UnixDatagram,
    place: Workdir,
}

impl Manager {
    fn new() -> Self {
        let place = Workdir::new().unwrap();
        let socket = UnixDatagram::bind(place.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Manager { socket, place }
    }

    fn start(&self, lab: &Lab, control: &Path, arguments: &[&str]) -> Child {
        let mut command = lab.nodes[0].netns.command(margay()).unwrap();
        command.args(["run", "--node", "node-a", "--resources"]).arg(lab.resources.path());
        command.arg("--control-socket").arg(control).args(arguments);
        command.env("NOTIFY_SOCKET", self.place.path().join("notify"));
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// What is said next, but for signs of life.
    fn hears(&self) -> String {
        loop {
            let said = self.word();
            if !said.contains("WATCHDOG=1") {
                return said;
            }
        }
    }

    fn word(&self) -> String {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).expect("a word of the daemon's");
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    fn forgets(&self) {
        self.socket.set_nonblocking(true).unwrap();
        while self.socket.recv(&mut [0; 4096]).is_ok() {}
        self.socket.set_nonblocking(false).unwrap();
    }
}

#[test]
fn the_service_manager_is_told_what_the_daemon_does() {
    let lab = build(LabSpec::new(Mode::Vxlan));
    let manager = Manager::new();
    let control = manager.place.path().join("control");
    // The command is the child itself, so that its process id is the one that the manager watches.
    let mut first = {
        let mut command = lab.nodes[0].netns.command(margay()).unwrap();
        command.args(["run", "--node", "node-a", "--resources"]).arg(lab.resources.path());
        command.arg("--control-socket").arg(&control);
        command.env("NOTIFY_SOCKET", manager.place.path().join("notify")).env("WATCHDOG_USEC", "200000");
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let said = manager.hears();
    assert!(
        said.contains("READY=1") && said.contains("STATUS=2 endpoints") && !said.contains("MAINPID"),
        "{said}"
    );
    assert!(manager.word().contains("WATCHDOG=1"), "and that it lives");
    let signal = |child: &Child, signal| kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
    signal(&first, Signal::SIGHUP);
    let said = manager.hears();
    assert!(said.contains("RELOADING=1") && said.contains("MONOTONIC_USEC="), "{said}");
    assert_eq!(manager.hears().trim(), "READY=1");

    let mut second = manager.start(&lab, &control, &["--takeover"]);
    let said = manager.hears();
    assert!(said.contains("READY=1") && said.contains(&format!("MAINPID={}", second.id())), "{said}");
    assert!(first.wait().unwrap().success());
    manager.forgets();
    assert!(
        manager.word().contains("WATCHDOG=1"),
        "it lives as the other did, without having been told how long it may take"
    );

    // A process that stands still says nothing: that is what the manager waits for.
    signal(&second, Signal::SIGSTOP);
    manager.forgets();
    manager.socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert!(manager.socket.recv(&mut [0; 64]).is_err());
    manager.socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    signal(&second, Signal::SIGCONT);
    signal(&second, Signal::SIGTERM);
    assert_eq!(manager.hears().trim(), "STOPPING=1");
    assert!(second.wait().unwrap().success());
}

/// A service manager takes the end of its main process for the end of the service.
#[test]
fn the_old_daemon_stays_until_the_service_manager_knows_of_the_new_one() {
    let lab = build(LabSpec::new(Mode::Vxlan));
    let manager = Manager::new();
    let control = manager.place.path().join("control");
    let mut first = manager.start(&lab, &control, &[]);
    assert!(manager.hears().contains("READY=1"));

    // It does not listen for a while.
    let junk = UnixDatagram::unbound().unwrap();
    junk.set_nonblocking(true).unwrap();
    while junk.send_to(b"X_JUNK=1", manager.place.path().join("notify")).is_ok() {}
    let mut second = manager.start(&lab, &control, &["--takeover"]);
    // The last of its threads to begin, after it has taken over.
    until("the second daemon serves the control socket", || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", second.id())).unwrap();
        let names =
            threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok());
        names.into_iter().any(|name| name.trim() == "margay-control")
    });
    std::thread::sleep(Duration::from_millis(500));
    assert!(first.try_wait().unwrap().is_none(), "the first one has ended");
    while !manager.word().contains(&format!("MAINPID={}", second.id())) {}
    assert!(first.wait().unwrap().success());
    kill(Pid::from_raw(second.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(second.wait().unwrap().success());
}

/// systemd has a say in what the unit means; what can be held true without it is that it names what margay needs.
#[test]
fn the_unit_allows_what_the_daemon_needs_and_names_what_there_is() {
    let unit = include_str!("../contrib/margay.service");
    let value = |key: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    for family in ["AF_INET", "AF_NETLINK", "AF_PACKET", "AF_UNIX", "AF_XDP"] {
        assert!(value("RestrictAddressFamilies").contains(&family.to_owned()), "{family}");
    }
    for capability in ["NET_ADMIN", "NET_RAW", "IPC_LOCK", "SYS_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH"] {
        assert!(value("CapabilityBoundingSet").contains(&format!("CAP_{capability}")), "{capability}");
    }
    let help = Command::new(margay()).args(["run", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(unit.contains("margay run --takeover") && help.contains("--takeover"));
}
