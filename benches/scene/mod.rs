//! One node as the benches and the allocation test see it: 10,000 routes, 200 peers, 110 workloads (as many as
//! a kubelet takes), and for each way through the engine 1,000 flows of 64-byte frames.
//!
//! Each bench or test that includes this module uses a part of it.
#![allow(dead_code)]

pub(crate) mod callgrind;
mod flows;
mod replay;
#[path = "../tables/mod.rs"]
mod tables;

use std::collections::HashSet;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use margay::buf::{Frame, Pool, SlotSize};
use margay::dataplane::decap::Kind;
use margay::dataplane::tap::{self, Catch, Wanted};
use margay::dataplane::{
    Command, Counters, Engine, Neighbor, Neighbors, PortId, Setup, Tables, Verdict, Worker,
};
use margay::fib::{Attachment, EndpointId, Environment, Fib, OuterTtl, Publication};
use margay::io::{BATCH, Port};
use margay::lpm::Prefix;
use margay::rib::{
    Attach, Encap, EndpointPlan, NodePlan, Peer, Route, RouteClass, Rule, Settings, Target, Underlay,
    Underlays,
};
use margay::verdict::DropReason;
use margay::wire::{Family, MacAddr};

pub(crate) use flows::Input;
pub(crate) use replay::{Replay, Silent};
use tables::Random;

const ROUTES: usize = 10_000;
const PEERS: usize = 200;
const WORKLOADS: usize = 110;
const FLOWS: usize = 1_000;
/// Of each encapsulation; the rest up to [`ROUTES`] are single addresses.
const BLOCKS: usize = 3_000;

const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
/// The workload that all frames from workloads are from.
const SENDER: EndpointId = EndpointId(0);
const VTEP: MacAddr = MacAddr([0x66, 0, 0, 0, 0, 1]);

/// A way through the engine: who hands the frame over, and where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    WorkloadToVxlan,
    WorkloadToIpip,
    WorkloadToDirect,
    WorkloadToLocal,
    WorkloadToHost,
    WorkloadDropped,
    Arp,
    VxlanToDelivery,
    IpipToDelivery,
    UnderlayToDelivery,
}

impl Path {
    pub(crate) const ALL: [Path; 10] = [
        Path::WorkloadToVxlan,
        Path::WorkloadToIpip,
        Path::WorkloadToDirect,
        Path::WorkloadToLocal,
        Path::WorkloadToHost,
        Path::WorkloadDropped,
        Path::Arp,
        Path::VxlanToDelivery,
        Path::IpipToDelivery,
        Path::UnderlayToDelivery,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Path::WorkloadToVxlan => "from_workload_to_vxlan",
            Path::WorkloadToIpip => "from_workload_to_ipip",
            Path::WorkloadToDirect => "from_workload_to_direct",
            Path::WorkloadToLocal => "from_workload_to_local",
            Path::WorkloadToHost => "from_workload_to_host",
            Path::WorkloadDropped => "from_workload_dropped",
            Path::Arp => "arp_answer",
            Path::VxlanToDelivery => "from_vxlan_to_delivery",
            Path::IpipToDelivery => "from_ipip_to_delivery",
            Path::UnderlayToDelivery => "from_underlay_to_delivery",
        }
    }

    /// The port that its frames come in by.
    pub(crate) fn port(self) -> PortId {
        match self {
            Path::VxlanToDelivery => PortId::Vxlan(Family::V4),
            Path::IpipToDelivery => PortId::Ipip,
            Path::UnderlayToDelivery => PortId::Underlay(Family::V4),
            _ => PortId::Endpoint(SENDER),
        }
    }

    /// True for what the engine must say of every one of its frames.
    pub(crate) fn ends_in(self, verdict: Result<Verdict, DropReason>) -> bool {
        match self {
            Path::WorkloadToVxlan => verdict == Ok(Verdict::Vxlan(Family::V4)),
            Path::WorkloadToIpip => verdict == Ok(Verdict::Ipip),
            Path::WorkloadToDirect => verdict == Ok(Verdict::Direct),
            Path::WorkloadToHost => verdict == Ok(Verdict::Host),
            Path::WorkloadDropped => verdict == Err(DropReason::SourceNotOwned),
            Path::Arp => verdict == Ok(Verdict::Reply(SENDER)),
            _ => matches!(verdict, Ok(Verdict::Workload(_))),
        }
    }
}

/// The node.
pub(crate) struct Scene {
    publication: Arc<Publication>,
    /// Remote routes: network, its length, the peer's index, how packets go there.
    remote: Vec<(Ipv4Addr, u8, usize, Encap)>,
}

impl Scene {
    pub(crate) fn new() -> Scene {
        Self::with_routes(ROUTES - WORKLOADS - WORKLOADS.div_ceil(64))
    }

    /// The same with another number of routes to peers.
    pub(crate) fn with_routes(count: usize) -> Scene {
        let remote = remote_routes(count);
        let publication = Publication::new(compile(&remote));
        Scene { publication, remote }
    }

    /// [`FLOWS`] frames, each of another flow.
    pub(crate) fn inputs(&self, path: Path) -> Vec<Input> {
        let mut random = Random::new(path as u64);
        (0..FLOWS).map(|_| flows::input(&self.remote, path, &mut random)).collect()
    }

    /// A worker that receives frames of `paths` for ever and sends to ports that throw them away.
    pub(crate) fn worker(&self, paths: &[Path]) -> Worker {
        self.worker_among(paths, 0)
    }

    /// The same while somebody captures.
    pub(crate) fn worker_watched(&self, paths: &[Path], wanted: Wanted) -> (Worker, Catch) {
        let (catch, tap) = tap::tap(wanted);
        (self.worker_told(paths, 0, Some(Command::Tap(tap))), catch)
    }

    /// The same as the first, and it serves so many endpoints more that never have a frame.
    pub(crate) fn worker_among(&self, paths: &[Path], idle: usize) -> Worker {
        self.worker_told(paths, idle, None)
    }

    fn worker_told(&self, paths: &[Path], idle: usize, told: Option<Command>) -> Worker {
        let (commands, orders) = crossbeam::channel::unbounded();
        let (events, _) = crossbeam::channel::unbounded();
        let attach = |id, receives| Command::Attach {
            id,
            port: Box::new(Replay::new(Vec::new())),
            receives,
            neighbor: match id {
                PortId::Endpoint(endpoint) => Some(neighbor(endpoint)),
                _ => None,
            },
        };
        for id in [
            PortId::Vxlan(Family::V4),
            PortId::Ipip,
            PortId::Direct,
            PortId::Underlay(Family::V4),
            PortId::Host,
        ] {
            commands.send(attach(id, false)).expect("the receiver lives");
        }
        for endpoint in endpoints() {
            commands.send(attach(endpoint.into(), false)).expect("the receiver lives");
        }
        let mut ports: Vec<(PortId, Vec<Input>)> = Vec::new();
        for path in paths {
            match ports.iter_mut().find(|(id, _)| *id == path.port()) {
                Some((_, inputs)) => inputs.extend(self.inputs(*path)),
                None => ports.push((path.port(), self.inputs(*path))),
            }
        }
        for (id, inputs) in ports {
            let Command::Attach { neighbor, .. } = attach(id, true) else { unreachable!() };
            let port = Box::new(Replay::new(inputs));
            commands
                .send(Command::Attach { id, port, receives: true, neighbor })
                .expect("the receiver lives");
        }
        for number in 0..idle as u32 {
            let port: Box<dyn Port> = Box::new(Silent::new());
            let id = EndpointId(WORKLOADS as u32 + number);
            let attach =
                Command::Attach { id: id.into(), port, receives: true, neighbor: Some(neighbor(id)) };
            commands.send(attach).expect("the receiver lives");
        }
        told.into_iter().for_each(|command| commands.send(command).expect("the receiver lives"));
        Worker::new(Setup {
            index: 0,
            workers: 1,
            pool: Pool::new(4 * BATCH, SlotSize::Frame),
            fib: self.publication.reader(),
            commands: orders,
            events,
            counters: Counters::new(),
        })
        .expect("an epoll descriptor")
    }
}

/// The engine alone, with the frames of one path.
pub(crate) struct Bare {
    engine: Engine,
    path: Path,
    fib: Arc<Fib>,
    neighbors: Neighbors,
    pool: Pool,
    batch: Vec<Frame>,
    port: Replay,
}

impl Bare {
    /// # Panics
    /// When a frame does not end as it should.
    pub(crate) fn new(scene: &Scene, path: Path) -> Bare {
        let mut neighbors = Neighbors::default();
        for endpoint in endpoints() {
            neighbors.insert(endpoint, neighbor(endpoint));
        }
        let mut bare = Bare {
            engine: Engine::new(0, 1),
            path,
            fib: Arc::clone(scene.publication.reader().current()),
            neighbors,
            pool: Pool::new(4 * BATCH, SlotSize::Frame),
            batch: Vec::with_capacity(BATCH),
            port: Replay::new(scene.inputs(path)),
        };
        for _ in 0..FLOWS.div_ceil(BATCH) {
            bare.turn(|verdict| assert!(path.ends_in(verdict), "{path:?}: {verdict:?}"));
        }
        bare
    }

    /// [`BATCH`] frames into slots, through the engine, and the slots given back.
    #[inline]
    pub(crate) fn turn(&mut self, mut tell: impl FnMut(Result<Verdict, DropReason>)) {
        self.port.fill(&mut self.pool, &mut self.batch);
        let mut batch = std::mem::take(&mut self.batch);
        for mut frame in batch.drain(..) {
            tell(self.forward(&mut frame));
            self.pool.put(frame);
        }
        self.batch = batch;
    }

    /// What [`Self::turn`] does besides forwarding.
    #[inline]
    pub(crate) fn idle_turn(&mut self) {
        self.port.fill(&mut self.pool, &mut self.batch);
        for frame in self.batch.drain(..) {
            self.pool.put(black_box(frame));
        }
    }

    /// What the engine makes of one frame.
    pub(crate) fn output(&mut self, input: &Input) -> Vec<u8> {
        let mut frame = Replay::new(vec![input.clone()]).receive(&mut self.pool).expect("a slot");
        assert!(self.path.ends_in(self.forward(&mut frame)));
        let bytes = self.pool.bytes(&frame).to_vec();
        self.pool.put(frame);
        bytes
    }

    #[inline]
    fn forward(&mut self, frame: &mut Frame) -> Result<Verdict, DropReason> {
        let tables = Tables { fib: &self.fib, neighbors: &self.neighbors };
        let (engine, pool) = (&mut self.engine, &mut self.pool);
        match self.path {
            Path::VxlanToDelivery => engine.from_tunnel(tables, Kind::Vxlan, pool, frame),
            Path::IpipToDelivery => engine.from_tunnel(tables, Kind::Ipip, pool, frame),
            Path::UnderlayToDelivery => engine.from_underlay(tables, pool, frame),
            _ => engine.from_workload(tables, SENDER, pool, frame),
        }
    }
}

fn endpoints() -> impl Iterator<Item = EndpointId> {
    (0..WORKLOADS as u32).map(EndpointId)
}

fn neighbor(id: EndpointId) -> Arc<Neighbor> {
    Neighbor::learned(flows::mac_of(id))
}

/// Two blocks from 10.64.0.0 on, full from their first address.
fn workload_address(id: EndpointId) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 64, 0, 0)) + id.0)
}

fn peer_address(index: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(192, 168, 1, 0)) + index as u32)
}

/// A pool of 2^20 addresses for each encapsulation, their blocks in random places.
fn pool_of(encap: Encap) -> Ipv4Addr {
    match encap {
        Encap::Ipip => Ipv4Addr::new(10, 80, 0, 0),
        Encap::Vxlan => Ipv4Addr::new(10, 96, 0, 0),
        Encap::Direct => Ipv4Addr::new(10, 112, 0, 0),
    }
}

fn remote_routes(count: usize) -> Vec<(Ipv4Addr, u8, usize, Encap)> {
    let mut random = Random::new(7);
    let (mut routes, mut seen) = (Vec::new(), HashSet::new());
    let each = count / 3;
    for encap in [Encap::Ipip, Encap::Vxlan, Encap::Direct] {
        let end = routes.len() + each;
        let blocks = routes.len() + BLOCKS.min(each);
        while routes.len() < end {
            let len = if routes.len() < blocks { 26 } else { 32 };
            let host = random.below(1 << 20) as u32 & u32::MAX << (32 - len);
            let net = Ipv4Addr::from(u32::from(pool_of(encap)) + host);
            if seen.insert((net, len)) {
                routes.push((net, len as u8, random.below(PEERS), encap));
            }
        }
    }
    routes
}

fn underlay(address: Ipv4Addr, len: u8, vtep_mac: MacAddr) -> Underlays {
    let subnet = Prefix::new(IpAddr::V4(address), len).expect("a valid length");
    Underlays { v4: Some(Underlay { address: IpAddr::V4(address), subnet, vtep_mac }), v6: None }
}

fn compile(remote: &[(Ipv4Addr, u8, usize, Encap)]) -> Fib {
    let route = |net: Ipv4Addr, len, class, target, rule| Route {
        prefix: Prefix::new(IpAddr::V4(net), len).expect("a valid length"),
        class,
        target,
        pool: None,
        rule,
    };
    let mut routes = Vec::new();
    for &(net, len, peer, encap) in remote {
        let target = Target::Peer { peer, encap, underlay: Family::V4 };
        routes.push(route(net, len, RouteClass::NoEncap, target, Rule::Block));
    }
    for (index, id) in endpoints().enumerate() {
        let (net, target) = (workload_address(id), Target::Endpoint(index));
        routes.push(route(net, 32, RouteClass::LocalWorkload, target, Rule::LocalEndpoint));
        if index % 64 == 0 {
            routes.push(route(net, 26, RouteClass::Blackhole, Target::Blackhole, Rule::Block));
        }
    }
    let peer = |index| Peer {
        name: format!("node-{index}"),
        underlays: underlay(peer_address(index), 32, flows::peer_vtep(index)),
        ipip_tunnel_addr: None,
        vxlan_tunnel_addrs: Vec::new(),
    };
    let endpoint = |id| EndpointPlan {
        name: format!("default/{id:?}"),
        workload: format!("default/{id:?}"),
        attach: Attach::Tap,
        interface: "eth0".into(),
        netns: None,
        addresses: vec![IpAddr::V4(workload_address(id))],
        spoofed_sources: Vec::new(),
        mac: None,
        queues: 1,
    };
    let plan = NodePlan {
        node: "here".into(),
        underlays: underlay(NODE, 16, VTEP),
        ipip_tunnel_addr: None,
        vxlan_tunnel_addrs: Vec::new(),
        peers: (0..PEERS).map(peer).collect(),
        endpoints: endpoints().map(endpoint).collect(),
        pools: Vec::new(),
        routes,
        settings: Settings {
            vxlan_port: 4789,
            vxlan_vni: 4096,
            vxlan_mtu: None,
            vxlan_mtu_v6: None,
            ipip_mtu: None,
            mtu: None,
            mtu_iface_pattern: None,
            allow_ipip_from_workloads: false,
            allow_vxlan_from_workloads: false,
        },
        warnings: Vec::new(),
    };
    let environment = Environment {
        endpoints: endpoints().map(|id| Some(Attachment { id, mtu: 1450 })).collect(),
        peer_mtus: (0..PEERS).map(|peer| (peer_address(peer).into(), 1500)).collect(),
        host_mtu: Some(1500),
        outer_ttl: OuterTtl::default(),
        icmp_sources: Vec::new(),
    };
    Fib::compile(&plan, &environment).expect("a valid plan")
}
