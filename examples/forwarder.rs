//! A forwarder between two TAPs, out of the library's parts: a FIB, a worker, two ports. Each TAP is the eth0 of
//! a network namespace; one pings the other.
//!
//! `cargo run --example forwarder` (as root)

use std::collections::HashMap;
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crossbeam::channel;
use margay::buf::{Pool, SlotSize};
use margay::dataplane::{Command, Counters, Neighbor, PortId, Setup, Worker, antispoof::Address};
use margay::fib::{Attachment, EndpointId, Environment, Fib, OuterTtl, Publication};
use margay::io::tap::TapPort;
use margay::lpm::Prefix;
use margay::resource::{Resources, parse};
use margay::sys::netlink::{LinkChange, Netlink, Route, Scope};
use margay::sys::netns::Netns;
use margay::sys::tun::{self, Interface, Layer};
use margay::testbed::{Ping, ping};
use margay::wire::{Family, MacAddr};

const PODS: [&str; 2] = ["10.65.0.2", "10.65.0.3"];

fn main() -> Result<(), Box<dyn Error>> {
    // What to forward: resources → plan → snapshot, as the daemon does it.
    let resources = Resources::build([parse("example", &yaml())]).map_err(|errors| format!("{errors:?}"))?;
    let plan = margay::rib::plan(&resources, "node-a")?;
    let environment = Environment {
        endpoints: [0, 1].map(|id| Some(Attachment { id: EndpointId(id), mtu: 1500 })).into(),
        peer_mtus: HashMap::new(),
        host_mtu: None,
        outer_ttl: OuterTtl::default(),
        icmp_sources: Vec::new(),
    };
    let publication = Publication::new(Fib::compile(&plan, &environment)?);

    // Who forwards: one worker, which receives its ports as commands.
    let (commands, receiver) = channel::unbounded();
    let (events, _told) = channel::bounded(16);
    let counters = Counters::new();
    let mut worker = Worker::new(Setup {
        index: 0,
        workers: 1,
        pool: Pool::new(256, SlotSize::SuperFrame),
        fib: publication.reader(),
        commands: receiver,
        events,
        counters: Arc::clone(&counters),
    })?;
    let namespaces = [Netns::create()?, Netns::create()?];
    for (id, (netns, address)) in (0..).zip(namespaces.iter().zip(PODS)) {
        let (mut tap, mac) = netns.run(|| pod(address))?.map_err(|error| error.to_string())?;
        let queue = Arc::new(tap.queues.remove(0));
        let port = Box::new(TapPort::new(queue, Layer::Tap, tap.offloads));
        let neighbor = Some(Neighbor::learned(mac));
        let id = PortId::Endpoint(EndpointId(id));
        commands.send(Command::Attach { id, port, receives: true, neighbor })?;
    }
    let waker = worker.waker();
    waker.wake()?;
    let thread = std::thread::spawn(move || worker.run());

    let report = ping(&namespaces[0], PODS[1].parse()?, Ping::default())?;
    println!("ping {} > {}: {report}", PODS[0], PODS[1]);
    commands.send(Command::Stop)?;
    waker.wake()?;
    thread.join().map_err(|_| "the worker panicked")??;
    let tally = counters.read();
    println!("{} frames in, {} with an outcome: {:?}", tally.input, tally.outcomes(), tally.sent);
    if report.lost() == 0 { Ok(()) } else { Err("packets were lost".into()) }
}

/// An eth0 as a Calico pod has it, in the calling thread's namespace.
fn pod(address: &str) -> Result<(Interface, MacAddr), Box<dyn Error + Send + Sync>> {
    let interface = tun::open("eth0", Layer::Tap, 1)?;
    let mut netlink = Netlink::open()?;
    let link = netlink.link("eth0")?;
    netlink.add_address(link.index, Prefix::from(address.parse::<IpAddr>()?))?;
    netlink.set_link("eth0", &[LinkChange::Up])?;
    let gateway: Ipv4Addr = Ipv4Addr::GATEWAY;
    let dev = Some(link.index);
    netlink.add_route(&Route {
        dev,
        scope: Scope::Link,
        ..Route::to(Prefix::from(IpAddr::from(gateway)))
    })?;
    netlink.add_route(&Route { dev, via: Some(gateway.into()), ..Route::default_of(Family::V4) })?;
    let mac = link.mac.ok_or("a TAP has a MAC")?;
    Ok((interface, mac))
}

fn yaml() -> String {
    let node = "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: node-a}\nspec: {bgp: {ipv4Address: 192.168.77.1/24}}";
    let pods = PODS.iter().enumerate().map(|(n, ip)| format!("\n---\napiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata:\n  name: node--a-k8s-pod{n}-eth0\n  namespace: default\n  annotations: {{margay.dev/netns: /run/netns/pod{n}}}\nspec: {{node: node-a, pod: pod{n}, endpoint: eth0, ipNetworks: [{ip}/32]}}"));
    pods.fold(node.to_owned(), |text, pod| text + &pod)
}
