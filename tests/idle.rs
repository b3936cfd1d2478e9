//! A daemon that has nothing to do: its threads sleep.
//!
//! How often they wake is the same on every machine, and held by every run of the tests. What that costs is measured:
//! `MARGAY_BINARY=target/release/margay cargo test --test idle -- --ignored --nocapture`.

mod lab;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::{build, margay, moves_tcp, start};
use margay::rib::Attach;
use margay::sys::limits;
use margay::sys::netlink::{LinkChange, VethEnd};
use margay::sys::netns::Netns;
use margay::testbed::{Lab, LabSpec, Mode};

const ENDPOINTS: usize = 100;

/// Node-a serves so many endpoints, and has come to rest.
struct Idle {
    lab: Lab,
    /// Beside the lab's own pod.
    _pods: Vec<Netns>,
}

impl Idle {
    fn start(binary: &Path, attach: Attach, arguments: &[&str]) -> Self {
        limits::raise_open_files();
        let mut lab = build(LabSpec { pods_per_node: 1, attach, ..LabSpec::new(Mode::Vxlan) });
        let pods: Vec<Netns> = (1..ENDPOINTS).map(|number| add(&lab, attach, number)).collect();
        lab.start(binary, arguments).unwrap_or_else(|error| panic!("{error}"));
        let screen = lab.nodes[0].daemon().unwrap().output();
        let attached = format!("endpoints  {ENDPOINTS} attached, 0 not");
        assert!(screen.contains(&attached), "{screen}");
        // Interfaces that have just come up have something to say.
        std::thread::sleep(Duration::from_secs(3));
        Idle { lab, _pods: pods }
    }

    /// The files of each thread, with its name.
    fn threads(&mut self) -> Vec<(String, PathBuf)> {
        let pid = self.lab.nodes[0].daemon().unwrap().pid();
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap().path());
        tasks.map(|task| (fs::read_to_string(task.join("comm")).unwrap().trim().to_owned(), task)).collect()
    }

    /// How often each thread has gone to sleep so far.
    fn sleeps(&mut self) -> Vec<(String, u64)> {
        let of = |(name, task): (String, PathBuf)| {
            let status = fs::read_to_string(task.join("status")).unwrap();
            let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap();
            (name, line.split_whitespace().nth(1).unwrap().parse().unwrap())
        };
        self.threads().into_iter().map(of).collect()
    }

    /// How many threads are not asleep now.
    fn awake(&mut self) -> u32 {
        let is_awake = |(_, task): &(String, PathBuf)| {
            let stat = fs::read_to_string(task.join("stat")).unwrap();
            // proc(5): the name in brackets, then the state.
            !stat.rsplit(')').next().unwrap().starts_with(" S")
        };
        self.threads().iter().filter(|thread| is_awake(thread)).count() as u32
    }

    /// CPU time of all threads so far, user's and system's.
    fn cpu(&mut self) -> Duration {
        let of = |(_, task): (String, PathBuf)| {
            let schedstat = fs::read_to_string(task.join("schedstat"))
                .unwrap_or_else(|error| panic!("this needs a kernel with CONFIG_SCHED_INFO: {error}"));
            schedstat.split_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        Duration::from_nanos(self.threads().into_iter().map(of).sum())
    }
}

/// One more workload of node-a.
fn add(lab: &Lab, attach: Attach, number: usize) -> Netns {
    let pod = Netns::create().unwrap();
    let mut annotations = String::from("    margay.dev/attach: veth");
    match attach {
        Attach::Tap => {
            annotations =
                format!("    margay.dev/attach: tap\n    margay.dev/netns: {}", pod.path().display());
        }
        Attach::Veth => {
            let node = &lab.nodes[0].netns;
            let host_end = format!("cali{number}");
            let end = |name, netns| VethEnd { name, mac: None, mtu: None, netns };
            let mut inside = pod.netlink().unwrap();
            inside.add_veth(&end("eth0", None), &end(&host_end, Some(node.as_fd()))).unwrap();
            // No IPv6 chatter.
            inside.set_link("eth0", &[LinkChange::NoLinkLocal]).unwrap();
            inside.set_link("eth0", &[LinkChange::Up]).unwrap();
            let mut outside = node.netlink().unwrap();
            outside.set_link(host_end.as_str(), &[LinkChange::NoLinkLocal]).unwrap();
            outside.set_link(host_end.as_str(), &[LinkChange::Up]).unwrap();
        }
    }
    let workload = format!(
        "apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata:
  name: node--a-k8s-idle{number}-eth0
  namespace: default
  annotations:
{annotations}
spec:
  orchestrator: k8s
  node: node-a
  pod: idle{number}
  endpoint: eth0
  interfaceName: cali{number}
  ipNetworks:
    - 10.65.1.{number}/32
"
    );
    lab.resources.write(&format!("workload-idle{number}.yaml"), &workload).unwrap();
    pod
}

#[test]
fn nobody_wakes_where_nothing_happens() {
    const TIME: Duration = Duration::from_secs(4);
    const SAMPLES: u32 = 80;
    for (attach, arguments) in
        [(Attach::Tap, &[][..]), (Attach::Veth, &[]), (Attach::Tap, &["--spin", "1000"])]
    {
        let what = format!("{attach:?} {arguments:?}");
        let mut idle = Idle::start(margay(), attach, arguments);
        let before = idle.sleeps();
        let mut awake = 0;
        for _ in 0..SAMPLES {
            std::thread::sleep(TIME / SAMPLES);
            awake += idle.awake();
        }
        let after = idle.sleeps();
        assert!(after.len() >= 6, "{what}: {after:?}");
        let wakes: BTreeMap<&str, u64> = std::iter::zip(&before, &after)
            .map(|((name, before), (_, after))| (name.as_str(), after - before))
            .collect();
        for (name, woke) in &wakes {
            let most = match *name {
                // Others may mount something, which is told to everyone; then the agent has a look.
                "margay-notices" => 40,
                "margay" => 2 + wakes["margay-notices"],
                // The directory of resources is looked at every two seconds, and the look itself is notified.
                "margay-watch" => 10,
                other if other.starts_with("notify-rs") => 10,
                _ => 2,
            };
            assert!(*woke <= most, "{what}: {name} woke {woke} times in {TIME:?}: {wakes:?}");
        }
        // Who spins wakes nobody, but does not sleep either.
        assert!(awake < SAMPLES / 10, "{what}: {awake} threads seen awake in {SAMPLES} looks");
    }
}

/// A worker that asks for work finds it as one that sleeps does.
#[test]
fn workers_that_spin_forward() {
    let mut lab = start(LabSpec::new(Mode::Vxlan), &["--spin", "100"]);
    let said = lab.nodes[0].daemon().unwrap().output();
    assert!(said.contains("asked for 100µs at most"), "{said}");
    let [a, b] = &lab.nodes;
    moves_tcp(&a.pods[0], &b.pods[0], 10_000_000);
    moves_tcp(&a.pods[0], &a.pods[1], 10_000_000);
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

#[test]
#[ignore = "measures a release build; see the head of this file"]
fn a_hundred_endpoints_cost_less_than_a_thousandth_of_a_core() {
    const TIME: Duration = Duration::from_secs(20);
    let binary = match std::env::var_os("MARGAY_BINARY") {
        Some(path) => fs::canonicalize(path).unwrap(),
        None if cfg!(debug_assertions) => {
            panic!("this is about a release build: see the head of tests/idle.rs")
        }
        None => margay().to_owned(),
    };
    let mut shares = Vec::new();
    for attach in [Attach::Tap, Attach::Veth] {
        let mut idle = Idle::start(&binary, attach, &[]);
        let (before, sleeps) = (idle.cpu(), idle.sleeps());
        std::thread::sleep(TIME);
        let (after, then) = (idle.cpu(), idle.sleeps());
        let share = (after - before).as_secs_f64() / TIME.as_secs_f64();
        println!("{attach:?}: {:.4} % of a core", share * 100.0);
        for ((name, before), (_, after)) in sleeps.iter().zip(&then) {
            println!("  {name:<16} {:.1} times a second", (after - before) as f64 / TIME.as_secs_f64());
        }
        shares.push(share);
    }
    assert!(shares.iter().all(|share| *share < 0.001), "{shares:?} of a core");
}
