//! Resident memory of a daemon, measured: `cargo test --release --test memory -- --ignored --nocapture`.
//!
//! Not part of the default run: a thousand namespaces take their time, and a debug build has other figures.
//! `MARGAY_BINARY=target/release/margay cargo test --test memory -- --ignored --nocapture` measures a program that
//! was built before.

mod lab;

use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use lab::{build, margay};
use margay::sys::limits;
use margay::sys::netns::Netns;
use margay::testbed::{Lab, LabSpec, Mode, throughput};

/// Blocks of /26 that peers have.
const PEERS: u32 = 100;

/// A daemon of node-a that serves so many endpoints, with so many routes to peers.
struct Loaded {
    lab: Lab,
    daemon: Child,
    /// Hears of each change that was applied.
    applied: Receiver<()>,
    pods: Vec<Netns>,
}

impl Loaded {
    fn start(endpoints: u32, routes: u32) -> Self {
        let binary = match std::env::var_os("MARGAY_BINARY") {
            Some(path) => std::fs::canonicalize(path).unwrap(),
            None if cfg!(debug_assertions) => {
                panic!("this is about a release build: see the head of tests/memory.rs")
            }
            None => margay().to_owned(),
        };
        limits::raise_open_files();
        let lab = build(LabSpec { pods_per_node: 1, ..LabSpec::new(Mode::Vxlan) });
        lab.resources.remove("workload-pod-a1.yaml").unwrap();
        lab.resources.write("pool.yaml", POOL).unwrap();
        lab.resources.write("peers.yaml", &peers()).unwrap();
        for (file, first) in (0..routes).step_by(1000).enumerate() {
            let text = (first..routes.min(first + 1000)).map(block).collect::<String>();
            lab.resources.write(&format!("blocks-{file}.yaml"), &text).unwrap();
        }
        let pods: Vec<Netns> = (0..endpoints).map(|_| Netns::create().unwrap()).collect();
        let mut text = OWN_BLOCK.to_owned();
        pods.iter().enumerate().for_each(|(number, netns)| text += &workload(number as u32, netns));
        lab.resources.write("workloads.yaml", &text).unwrap();

        let started = Instant::now();
        let mut daemon = lab.nodes[0]
            .netns
            .command(binary)
            .unwrap()
            .args(["run", "--control-socket", "none", "--node", "node-a", "--resources"])
            .arg(lab.resources.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (tell, applied) = channel();
        let log = BufReader::new(daemon.stderr.take().unwrap()).lines().map_while(Result::ok);
        std::thread::spawn(move || {
            for _ in log.filter(|line| line.contains("resources applied")) {
                let _ = tell.send(());
            }
        });
        let said = BufReader::new(daemon.stdout.take().unwrap()).lines().map_while(Result::ok);
        let screen: Vec<String> = said.take_while(|line| line != "margay: ready").collect();
        let has = |what: &str| screen.iter().any(|line| line.split_whitespace().eq(what.split_whitespace()));
        assert!(has(&format!("endpoints {endpoints} attached, 0 not")), "{screen:#?}");
        println!("{endpoints} endpoints, {routes} routes: ready after {:.1?}", started.elapsed());
        Loaded { lab, daemon, applied, pods }
    }

    /// A field of `/proc/PID/status`, MiB.
    fn status(&self, field: &str) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.daemon.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }

    /// Resident memory, MiB, as it is after the start, after a change of one route, and after traffic that
    /// fills the workers' batches with super-frames.
    fn resident(&self) -> [f64; 3] {
        let after_start = self.status("VmRSS");
        let started = Instant::now();
        self.lab.resources.write("extra.yaml", &block(200_000)).unwrap();
        self.applied.recv_timeout(Duration::from_secs(60)).expect("the change is applied within a minute");
        let took = started.elapsed();
        let after_change = self.status("VmRSS");
        let second = Duration::from_secs(1);
        let speed = throughput(&self.pods[0], &self.pods[1], address(1).into(), second).unwrap();
        let after_traffic = self.status("VmRSS");
        println!(
            "  resident {after_start:.1} MiB after the start; after a change, which took {took:.1?}, \
             {after_change:.1} MiB; after a second of TCP at {:.1} Gbit/s {after_traffic:.1} MiB; {:.1} MiB at most",
            speed.bits_per_second() / 1e9,
            self.status("VmHWM")
        );
        [after_start, after_change, after_traffic]
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

const POOL: &str = "apiVersion: projectcalico.org/v3
kind: IPPool
metadata:
  name: pods
spec:
  cidr: 10.0.0.0/8
  blockSize: 26
  vxlanMode: Always
";

/// What the endpoints' addresses are of.
const OWN_BLOCK: &str = "apiVersion: projectcalico.org/v3
kind: BlockAffinity
metadata:
  name: node-a-own
spec:
  cidr: 10.64.0.0/16
  node: node-a
  state: confirmed
";

fn peers() -> String {
    let mut text = String::new();
    for peer in 0..PEERS {
        let address = Ipv4Addr::from_bits(0xac10_0001 + peer);
        let _ = write!(
            text,
            "---
apiVersion: projectcalico.org/v3
kind: Node
metadata:
  name: peer-{peer}
spec:
  bgp:
    ipv4Address: {address}/16
  ipv4VXLANTunnelAddr: {}
",
            Ipv4Addr::from_bits(0x0a80_0000 + peer * 64)
        );
    }
    text
}

fn block(number: u32) -> String {
    let address = Ipv4Addr::from_bits(0x0a80_0000 + number * 64);
    let peer = number % PEERS;
    format!(
        "---
apiVersion: projectcalico.org/v3
kind: BlockAffinity
metadata:
  name: peer-{peer}-{number}
spec:
  cidr: {address}/26
  node: peer-{peer}
  state: confirmed
"
    )
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a40_0001 + number)
}

fn workload(number: u32, netns: &Netns) -> String {
    let address = address(number);
    format!(
        "---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata:
  name: node--a-k8s-pod{number}-eth0
  namespace: default
  annotations:
    margay.dev/netns: {}
spec:
  orchestrator: k8s
  node: node-a
  pod: pod{number}
  endpoint: eth0
  interfaceName: cali{number}
  ipNetworks:
    - {address}/32
  mac: 02:00:00:00:{:02x}:{:02x}
",
        netns.path().display(),
        number >> 8,
        number & 0xff
    )
}

#[test]
#[ignore = "measures a release build; see the head of this file"]
fn ten_endpoints_and_a_thousand_routes_in_40_mib() {
    let resident = Loaded::start(10, 1_000).resident();
    assert!(resident.iter().all(|mib| *mib < 40.0), "{resident:?} MiB");
}

#[test]
#[ignore = "measures a release build; see the head of this file"]
fn a_thousand_endpoints_and_a_hundred_thousand_routes_in_150_mib() {
    let resident = Loaded::start(1_000, 100_000).resident();
    assert!(resident.iter().all(|mib| *mib < 150.0), "{resident:?} MiB");
}
