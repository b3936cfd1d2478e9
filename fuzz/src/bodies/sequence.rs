//! Frames at every edge, routes, endpoints and peers that come and go, and time that passes, one after the other:
//! what comes out is what the model says, no frame more and none less.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use margay::buf::Segmentation;
use margay::buf::{Offload, Segments};
use margay::dataplane::{Neighbor, PortId};
use margay::fib::{Attachment, EndpointId, Environment, Fib, OuterTtl};
use margay::io::memory::MemoryFrame;
use margay::rib::{Encap, NodePlan, Route as PlanRoute, RouteClass, Rule, Target, plan};
use margay::wire::{Ecn, Family, MacAddr};

use super::engine::bed::*;
use super::engine::packets::*;
use super::model::{GATEWAY, Model, Pod, Route, To, VTEP_C};
use super::segmentation::streams::Choices;

/// What one input does at most.
const MAX_STEPS: usize = 32;
const MACS: [MacAddr; 3] = [ALPHA_MAC, BETA_MAC, GAMMA_MAC];
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 99);
const PEERS: [Ipv4Addr; 4] = [PEER_B, PEER_C, NODE, STRANGER];
const SPOOFED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
/// Addresses that mean something, and the edges of what does.
const ADDRESSES: [Ipv4Addr; 28] = [
    ALPHA_IP,
    BETA_IP,
    GAMMA_IP,
    GAMMA_IP_2,
    B_VXLAN,
    B_IPIP,
    B_DIRECT,
    C_VXLAN,
    C_IPIP,
    UNASSIGNED,
    NOBODY,
    OUTSIDE,
    NODE,
    TUNNEL_A,
    PEER_B,
    PEER_C,
    STRANGER,
    SPOOFED,
    GATEWAY,
    Ipv4Addr::new(10, 65, 0, 63),
    Ipv4Addr::new(10, 65, 0, 64),
    Ipv4Addr::new(10, 65, 255, 255),
    Ipv4Addr::new(10, 66, 0, 1),
    Ipv4Addr::new(127, 0, 0, 1),
    Ipv4Addr::new(224, 0, 0, 1),
    Ipv4Addr::new(255, 255, 255, 255),
    Ipv4Addr::new(0, 0, 0, 0),
    Ipv4Addr::new(169, 254, 9, 9),
];

struct Node {
    bed: Bed,
    model: Model,
    base: NodePlan,
    start: Instant,
    /// For who looks for a fault.
    last: Option<(PortId, MemoryFrame)>,
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:02x?}\n{:#?}\n{:#?}", self.last, self.model.pods, self.model.routes);
        }
    }
}

pub(super) fn sequence(input: &[u8]) {
    let mut choices = Choices(input);
    let mut node = Node::new(choices.byte());
    for _ in 0..MAX_STEPS {
        if choices.0.is_empty() || !node.model.is_sure() {
            break;
        }
        match choices.byte() % 16 {
            0 => node.change_routes(&mut choices),
            1 => node.change_endpoint(&mut choices),
            2 => node.change_peers(&mut choices),
            3 => node.pass(&mut choices),
            _ => node.frame(&mut choices),
        }
    }
}

fn route(net: Ipv4Addr, len: u8, to: To) -> Route {
    Route { net, len, to }
}

impl Node {
    fn new(settings: u8) -> Self {
        static BASE: OnceLock<NodePlan> = OnceLock::new();
        let base = BASE.get_or_init(|| plan(&resources(CLUSTER), "a").expect("a plan")).clone();
        let pod = |addresses: &[Ipv4Addr], fixed: bool, mac: MacAddr| Pod {
            addresses: addresses.to_vec(),
            spoofed: Vec::new(),
            served: true,
            attached: true,
            fixed,
            mac: fixed.then_some(mac),
        };
        let mut pods = vec![
            pod(&[ALPHA_IP], true, ALPHA_MAC),
            pod(&[BETA_IP], false, BETA_MAC),
            pod(&[GAMMA_IP, GAMMA_IP_2], settings & 1 == 0, GAMMA_MAC),
        ];
        if settings & 2 != 0 {
            pods[0].spoofed.push((Ipv4Addr::new(198, 51, 100, 0), 24));
        }
        let net = |a, b, c, d| Ipv4Addr::new(a, b, c, d);
        let routes = vec![
            route(net(10, 65, 0, 0), 16, To::Nowhere),
            route(net(10, 66, 0, 0), 16, To::Nowhere),
            route(net(10, 67, 0, 0), 16, To::Nowhere),
            route(ALPHA_IP, 32, To::Pod(0)),
            route(BETA_IP, 32, To::Pod(1)),
            route(GAMMA_IP, 32, To::Pod(2)),
            route(GAMMA_IP_2, 32, To::Pod(2)),
            route(NODE, 32, To::Host),
            route(TUNNEL_A, 32, To::Host),
            route(net(10, 66, 0, 1), 32, To::Host),
            route(net(10, 65, 0, 0), 26, To::Blackhole),
            route(net(10, 65, 0, 64), 26, To::Vxlan(PEER_B)),
            route(net(10, 65, 0, 128), 26, To::Vxlan(PEER_C)),
            route(net(10, 66, 0, 64), 26, To::Ipip(PEER_B)),
            route(net(10, 66, 0, 128), 26, To::Ipip(PEER_C)),
            route(net(10, 67, 0, 64), 26, To::Direct(PEER_B)),
        ];
        let mut model = Model::new(pods, routes, vec![PEER_B, PEER_C]);
        model.may_tunnel = settings & 4 != 0;
        let fib = fib(&base, &model);
        let mut bed = Bed::bare(fib, 96).with_ports([]);
        let start = Instant::now();
        bed.clock = Some(start);
        let mut node = Node { bed, model, base, start, last: None };
        (0..3).for_each(|pod| node.attach(pod));
        node
    }

    fn publish(&self) {
        self.bed.publish(fib(&self.base, &self.model));
    }

    fn attach(&mut self, pod: usize) {
        let state = &mut self.model.pods[pod];
        (state.attached, state.mac) = (true, state.fixed.then_some(MACS[pod]));
        let neighbor = if state.fixed { Neighbor::fixed(MACS[pod]) } else { Neighbor::unknown() };
        self.bed.attach(EndpointId(pod as u32).into(), Some(neighbor));
    }

    /// A turn with one frame, or none.
    fn turn(&mut self, input: Option<(PortId, MemoryFrame)>) {
        let wanted = self.model.step(input.as_ref().map(|(port, frame)| (*port, frame)));
        self.bed.clock = Some(self.start + Duration::from_millis(self.model.now));
        // Every frame has one outcome and no slot leaks: the exchange asserts it.
        self.last.clone_from(&input);
        let exchange = self.bed.exchange(input);
        self.model.compare(wanted, exchange.out);
    }

    fn change_routes(&mut self, choices: &mut Choices<'_>) {
        // The first ones are the node's own and its pools: they stay.
        const OWN: usize = 10;
        let routes = &mut self.model.routes;
        let peer = PEERS[choices.below(2)];
        let to = match choices.byte() % 8 {
            0 => To::Ipip(peer),
            1 => To::Vxlan(peer),
            2 => To::Direct(peer),
            3 => To::Host,
            4 => To::Blackhole,
            _ => {
                if routes.len() > OWN {
                    routes.remove(OWN + choices.below(routes.len() - OWN));
                }
                return self.publish();
            }
        };
        let len = choices.byte() % 33;
        let address = ADDRESSES[choices.below(ADDRESSES.len())].to_bits();
        let net = Ipv4Addr::from_bits(address & u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0));
        let known = |route: &Route| (route.net, route.len) == (net, len);
        if !routes[..OWN].iter().any(known) {
            routes.retain(|route| !known(route));
            routes.push(route(net, len, to));
        }
        self.publish();
    }

    fn change_endpoint(&mut self, choices: &mut Choices<'_>) {
        let pod = choices.below(3);
        match choices.byte() % 4 {
            0 => {
                self.model.pods[pod].served ^= true;
                self.publish();
            }
            1 => {
                let state = &mut self.model.pods[pod];
                (state.attached, state.mac) = (false, None);
                self.bed.detach(EndpointId(pod as u32).into());
            }
            _ => self.attach(pod),
        }
        self.turn(None);
    }

    fn change_peers(&mut self, choices: &mut Choices<'_>) {
        let peer = PEERS[choices.below(2)];
        match self.model.peers.iter().position(|known| *known == peer) {
            Some(at) => drop(self.model.peers.remove(at)),
            None => self.model.peers.push(peer),
        }
        self.publish();
    }

    fn pass(&mut self, choices: &mut Choices<'_>) {
        self.model.now += [1, 10, 999, 1000, 1001, 3000, 60_000, 600_000][choices.below(8)];
        self.turn(None);
    }

    fn frame(&mut self, choices: &mut Choices<'_>) {
        let port = match choices.byte() % 8 {
            pod @ 0..3 => EndpointId(pod.into()).into(),
            3 | 4 => PortId::Ipip,
            5 => PortId::Vxlan(Family::V4),
            6 => PortId::Underlay(Family::V4),
            _ => PortId::Host,
        };
        if let PortId::Endpoint(EndpointId(pod)) = port
            && !self.model.pods[pod as usize].attached
        {
            return;
        }
        let frame = frame(port, choices);
        // The model knows IPv4 alone; `engine_dual` has the other.
        if port == PortId::Host && Family::of_packet(&frame.bytes) == Some(Family::V6) {
            return;
        }
        self.turn(Some((port, frame)));
    }
}

/// A frame that is right, or nearly.
fn frame(port: PortId, choices: &mut Choices<'_>) -> MemoryFrame {
    let mac = MACS[choices.below(3)];
    let kind = choices.byte();
    if kind & 15 == 15 && matches!(port, PortId::Endpoint(_)) {
        let sender = ADDRESSES[choices.below(ADDRESSES.len())];
        let target = (MacAddr([0; 6]), ADDRESSES[choices.below(ADDRESSES.len())]);
        let question = arp(MacAddr::BROADCAST, 1 + (kind >> 4 & 1), (mac, sender), target);
        return changed(port, question, choices);
    }
    let (mut ip, offload) = packet(choices);
    for _ in 0..nesting(kind) {
        ip = Ip { tos: ip.tos, fragment: ip.fragment & DF, ..Ip::new(ip.src, ip.dst, IPIP, ip.bytes()) };
    }
    let offload = if nesting(kind) > 0 { Offload::default() } else { offload };
    let outer = choices.byte();
    let peer = PEERS[usize::from(outer >> 2) % 4];
    let frame = match port {
        PortId::Endpoint(_) => MemoryFrame { offload, ..ip.sent_by(mac) },
        PortId::Underlay(_) => MemoryFrame { offload, ..ip.on_underlay() },
        PortId::Host => MemoryFrame { offload, ..ip.plain() },
        PortId::Ipip => {
            let to = if outer & 0x70 == 0x70 { STRANGER } else { NODE };
            let outer = Ip::new(peer, to, IPIP, ip.bytes()).tos(outer & 3);
            MemoryFrame::from_peer(outer.bytes(), IpAddr::V4(peer))
        }
        PortId::Vxlan(_) | PortId::Direct | PortId::Errors(_) => {
            let from = if peer == PEER_B { VTEP_B } else { VTEP_C };
            MemoryFrame { ecn: Ecn::from_tos(outer), ..ip.in_vxlan(peer, VTEP_A, from) }
        }
    };
    // What a virtio-net header says of a frame that is changed is another target's.
    if frame.offload == Offload::default() { changed(port, frame, choices) } else { frame }
}

/// How many times a packet is wrapped before.
fn nesting(kind: u8) -> usize {
    match kind >> 4 {
        14 => 1,
        15 => 16,
        _ => 0,
    }
}

fn packet(choices: &mut Choices<'_>) -> (Ip, Offload) {
    let src = ADDRESSES[choices.below(ADDRESSES.len())];
    let dst = ADDRESSES[choices.below(ADDRESSES.len())];
    let len = [0, 1, 8, 100, 1391, 1400, 1422, 1423, 1452, 1453, 1472, 1473, 3000, 4000][choices.below(14)];
    let flags = choices.byte();
    let ip = match choices.byte() % 8 {
        0 => Ip::tcp(src, dst, len),
        1 => Ip::echo(src, dst),
        2 => Ip::icmp(src, dst, [choices.byte() % 20, 0], &vec![0; len]),
        3 => Ip::new(src, dst, choices.byte(), vec![0x5a; len]),
        4 => Ip::datagram(src, dst, (50000, 4789), &vec![8; len]),
        _ => Ip::udp(src, dst, len),
    };
    let ip = Ip {
        tos: choices.byte(),
        id: choices.word(),
        ttl: [64, 64, 64, 0, 1, 2, 255, 64][usize::from(flags & 7)],
        fragment: if flags & 8 == 0 { DF } else { 0 },
        ..ip
    };
    let has_checksum = [TCP, UDP].contains(&ip.protocol) && ip.payload.len() >= 20;
    match flags >> 4 {
        0 => (Ip { fragment: ip.fragment & DF | choices.word() & 0x3fff, ..ip }, Offload::default()),
        1 => (Ip { options: vec![1; 4 * (1 + choices.below(10))], ..ip }, Offload::default()),
        2 if has_checksum => {
            let ip = ip.partial();
            let offload = ip.partial_checksum();
            (ip, offload)
        }
        3 | 4 if has_checksum && ip.payload.len() > 1000 && transport_is_ours(&ip) => {
            let ip = ip.partial();
            let kind = if ip.protocol == TCP { Segmentation::Tcp } else { Segmentation::Udp };
            let size = [500, 1398, 1408, 1410, 1411, 1422, 1423, 1460][choices.below(8)];
            let offload = Offload { segments: Some(Segments { kind, size }), ..ip.partial_checksum() };
            (ip, offload)
        }
        // A kernel's tunnel leaves checksums undone and says so nowhere.
        5 if has_checksum => (ip.partial(), Offload::default()),
        _ => (ip, Offload::default()),
    }
}

/// One of ours, not bytes of any kind under the number of TCP or UDP.
fn transport_is_ours(ip: &Ip) -> bool {
    ip.payload[0] != 0x5a
}

/// The frame with a few bytes changed or cut off, and perhaps the header checksums made right again.
fn changed(port: PortId, mut frame: MemoryFrame, choices: &mut Choices<'_>) -> MemoryFrame {
    let how = choices.byte();
    if how < 160 {
        return frame;
    }
    let bytes = &mut frame.bytes;
    for _ in 0..how & 3 {
        let at = choices.below(bytes.len().min(96));
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= choices.byte();
        }
    }
    match how >> 2 & 7 {
        0 => bytes.truncate(choices.below(bytes.len() + 1)),
        1 => bytes.extend(vec![0xa5; choices.below(64)]),
        _ => {}
    }
    if how & 32 != 0 {
        let at = match port {
            PortId::Endpoint(_) | PortId::Underlay(_) => 14,
            PortId::Vxlan(_) => 22,
            PortId::Ipip | PortId::Host | PortId::Direct | PortId::Errors(_) => 0,
        };
        if port == PortId::Ipip && bytes.len() >= 40 {
            repair(&mut bytes[20..]);
        }
        if bytes.len() >= at + 20 {
            repair(&mut bytes[at..]);
        }
    }
    frame
}

/// The model's lists as a snapshot, the way that the agent makes one.
fn fib(base: &NodePlan, model: &Model) -> Fib {
    let mut plan = base.clone();
    plan.peers.retain(|peer| model.peers.iter().any(|known| peer.underlays.have((*known).into())));
    let place = |address: Ipv4Addr| plan.peers.iter().position(|peer| peer.underlays.have(address.into()));
    let target = |to: To| {
        let way = |address, encap| Some(Target::Peer { peer: place(address)?, encap, underlay: Family::V4 });
        match to {
            To::Pod(pod) => Some(Target::Endpoint(pod)),
            To::Ipip(peer) => way(peer, Encap::Ipip),
            To::Vxlan(peer) => way(peer, Encap::Vxlan),
            To::Direct(peer) => way(peer, Encap::Direct),
            To::Host => Some(Target::Host),
            To::Blackhole => Some(Target::Blackhole),
            To::Nowhere => None,
        }
    };
    let routes = model.routes.iter().filter_map(|route| {
        let prefix = ipnet::Ipv4Net::new(route.net, route.len).expect("32 bits at most");
        Some(PlanRoute {
            prefix: prefix.into(),
            class: RouteClass::NoEncap,
            target: target(route.to)?,
            pool: None,
            rule: Rule::Block,
        })
    });
    plan.routes = routes.collect();
    for (endpoint, pod) in plan.endpoints.iter_mut().zip(&model.pods) {
        let net = |(net, len): &(Ipv4Addr, u8)| ipnet::Ipv4Net::new(*net, *len).expect("32 bits at most");
        endpoint.spoofed_sources = pod.spoofed.iter().map(net).map(Into::into).collect();
    }
    plan.settings.allow_ipip_from_workloads = model.may_tunnel;
    plan.settings.allow_vxlan_from_workloads = model.may_tunnel;
    let attached = model.pods.iter().enumerate().map(|(id, pod)| {
        let attachment = Attachment { id: EndpointId(id as u32), mtu: POD_MTU };
        pod.served.then_some(attachment)
    });
    let environment = Environment {
        endpoints: attached.collect(),
        peer_mtus: plan
            .peers
            .iter()
            .flat_map(|peer| peer.underlays.addresses())
            .map(|peer| (peer, UNDERLAY_MTU))
            .collect(),
        host_mtu: Some(UNDERLAY_MTU),
        outer_ttl: OuterTtl::default(),
        icmp_sources: Vec::new(),
    };
    Fib::compile(&plan, &environment).expect("few routes")
}
