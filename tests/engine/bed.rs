//! A node in memory: one worker with a memory port of each kind, over the FIB that resources give.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use margay::buf::{Pool, SlotSize};
use margay::dataplane::{
    Balance, Command, Counters, Event, Neighbor, Party, Paths, PortId, Setup, Tally, Worker,
};
use margay::fib::{Attachment, EndpointId, Environment, Fib, OuterTtl, Publication};
use margay::io::Port;
use margay::io::memory::{MemoryFrame, MemoryPort, Wire};
use margay::resource::{Resources, parse};
use margay::rib::{NodePlan, plan};
use margay::slowpath::probe::Prober;
use margay::wire::{Family, MacAddr};

/// This node, the peers B and C, and A's pods. ALPHA's MAC is given, BETA's is not; GAMMA has two addresses.
pub const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
pub const VXLAN: PortId = PortId::Vxlan(Family::V4);
pub const UNDERLAY: PortId = PortId::Underlay(Family::V4);
pub const UNDERLAY_V6: PortId = PortId::Underlay(Family::V6);
pub const ERRORS: PortId = PortId::Errors(Family::V4);
pub const VXLAN_V6: PortId = PortId::Vxlan(Family::V6);
pub const ERRORS_V6: PortId = PortId::Errors(Family::V6);
pub const PEER_B: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);
pub const PEER_C: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 3);
/// A's VXLAN tunnel address: the source of its ICMP errors.
pub const TUNNEL_A: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 1);
pub const ALPHA: EndpointId = EndpointId(0);
pub const BETA: EndpointId = EndpointId(1);
pub const GAMMA: EndpointId = EndpointId(2);
pub const ALPHA_IP: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 2);
pub const BETA_IP: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 3);
pub const GAMMA_IP: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 4);
pub const GAMMA_IP_2: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 4);
pub const ALPHA_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x0a]);
pub const BETA_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x0b]);
pub const GAMMA_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x0c]);
pub const VTEP_A: MacAddr = MacAddr([0x66, 0, 0, 0, 0, 0x01]);
pub const VTEP_C: MacAddr = MacAddr([0x66, 0, 0, 0, 0, 3]);
pub const VTEP_B: MacAddr = MacAddr([0x66, 0, 0, 0, 0, 0x02]);
/// Pods of B, behind VXLAN, IPIP and no encapsulation; a pod of C behind VXLAN.
pub const B_VXLAN: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 66);
pub const B_IPIP: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 66);
pub const B_DIRECT: Ipv4Addr = Ipv4Addr::new(10, 67, 0, 66);
pub const C_VXLAN: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 130);
pub const C_IPIP: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 130);
/// In a pool, in nobody's block; in A's block, nobody's; outside.
pub const UNASSIGNED: Ipv4Addr = Ipv4Addr::new(10, 65, 9, 9);
pub const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 40);
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
/// MTU of the pods, as the daemon chooses it: that of VXLAN.
pub const POD_MTU: u16 = 1450;
pub const IPIP_MTU: u16 = 1480;
pub const UNDERLAY_MTU: u16 = 1500;

/// Three nodes, a pool of each mode, a block of each pool on each node.
pub const CLUSTER: &str = "
node a 192.168.77.1/24 vxlan=10.65.0.1 ipip=10.66.0.1 mac=66:00:00:00:00:01
node b 192.168.77.2/24 vxlan=10.65.0.65 ipip=10.66.0.65 mac=66:00:00:00:00:02
node c 192.168.77.3/24 mac=66:00:00:00:00:03
pool 10.65.0.0/16 vxlanMode
pool 10.66.0.0/16 ipipMode
pool 10.67.0.0/16
block 10.65.0.0/26 a
block 10.65.0.64/26 b
block 10.65.0.128/26 c
block 10.66.0.64/26 b
block 10.66.0.128/26 c
block 10.67.0.64/26 b
pod alpha a 10.65.0.2/32 mac=02:00:00:00:00:0a
pod beta a 10.65.0.3/32
pod gamma a 10.65.0.4/32,10.66.0.4/32 mac=02:00:00:00:00:0c
";

/// The same with IPv6: A and its peer B have both underlays, C has IPv4 alone. ALPHA is dual-stack, BETA and GAMMA have IPv6.
pub const CLUSTER6: &str = "
node a 192.168.77.1/24 vxlan=10.65.0.1 mac=66:00:00:00:00:01 ip6=fd00:77::1/64 vxlan6=fd00:10:65::1 mac6=66:00:00:00:06:01
node b 192.168.77.2/24 mac=66:00:00:00:00:02 ip6=fd00:77::2/64 vxlan6=fd00:10:65:1::1 mac6=66:00:00:00:06:02
node c 192.168.77.3/24 mac=66:00:00:00:00:03
pool 10.65.0.0/16 vxlanMode
pool fd00:10:65::/48 vxlanMode
pool fd00:10:67::/48
block 10.65.0.0/26 a
block 10.65.0.64/26 b
block fd00:10:65::/122 a
block fd00:10:65:1::/122 b
block fd00:10:65:2::/122 c
block fd00:10:67:1::/122 b
pod alpha a 10.65.0.2/32,fd00:10:65::2/128 mac=02:00:00:00:00:0a
pod beta a fd00:10:65::3/128 mac=02:00:00:00:00:0b
pod gamma a fd00:10:65::4/128
";

pub const NODE6: Ipv6Addr = v6("fd00:77::1");
pub const PEER_B6: Ipv6Addr = v6("fd00:77::2");
pub const TUNNEL_A6: Ipv6Addr = v6("fd00:10:65::1");
pub const ALPHA6: Ipv6Addr = v6("fd00:10:65::2");
pub const BETA6: Ipv6Addr = v6("fd00:10:65::3");
pub const GAMMA6: Ipv6Addr = v6("fd00:10:65::4");
/// Addresses that B and C have: behind VXLAN over IPv6, over IPv4, and behind no encapsulation.
pub const B_OVER_V6: Ipv6Addr = v6("fd00:10:65:1::5");
pub const C_OVER_V4: Ipv6Addr = v6("fd00:10:65:2::5");
pub const B_DIRECT6: Ipv6Addr = v6("fd00:10:67:1::5");
pub const OUTSIDE6: Ipv6Addr = v6("2606:4700::1111");
pub const GATEWAY6: Ipv6Addr = v6("fe80::ecee:eeff:feee:eeee");
pub const VTEP_A6: MacAddr = MacAddr([0x66, 0, 0, 0, 6, 1]);
pub const VTEP_B6: MacAddr = MacAddr([0x66, 0, 0, 0, 6, 2]);

/// An address in its text form: groups of hexadecimal digits, `::` once.
const fn v6(text: &str) -> Ipv6Addr {
    let (bytes, mut at) = (text.as_bytes(), 0);
    // The groups before the gap, and those after it.
    let (mut bits, mut before, mut after, mut is_after) = ([0_u128; 2], 0, 0, false);
    while at < bytes.len() {
        if bytes[at] == b':' {
            is_after |= at + 1 < bytes.len() && bytes[at + 1] == b':';
            at += 1;
            continue;
        }
        let mut group = 0;
        while at < bytes.len() && bytes[at] != b':' {
            let digit = if bytes[at] >= b'a' { bytes[at] - b'a' + 10 } else { bytes[at] - b'0' };
            group = group << 4 | digit as u128;
            at += 1;
        }
        bits[is_after as usize] = bits[is_after as usize] << 16 | group;
        match is_after {
            true => after += 1,
            false => before += 1,
        }
    }
    assert!(is_after && before + after < 8);
    Ipv6Addr::from_bits(bits[0] << (16 * (8 - before)) | bits[1])
}

/// Calico's resources from a line each.
pub fn resources(lines: &str) -> Resources {
    let mut text = String::new();
    for (index, line) in lines.lines().filter(|line| !line.is_empty()).enumerate() {
        let words: Vec<&str> = line.split(' ').collect();
        let option = |key: &str| words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        let line = |key: &str, value: Option<&str>| value.map(|value| format!("\n  {key}: {value}"));
        let (kind, name, spec) = match words[..] {
            ["node", name, address, ..] => {
                let ipip = option("ipip").map(|address| format!("ipv4IPIPTunnelAddr: {address}"));
                let ip4 = (address != "-").then(|| format!("ipv4Address: {address}, "));
                let ip6 = option("ip6").map(|address| format!("ipv6Address: '{address}', "));
                let bgp = [ip4, ip6, ipip].map(Option::unwrap_or_default).concat();
                let mut spec = format!("bgp: {{{bgp}}}");
                spec.extend(line("ipv4VXLANTunnelAddr", option("vxlan")));
                let quoted = |key| option(key).map(|value| format!("'{value}'"));
                spec.extend(line("ipv6VXLANTunnelAddr", quoted("vxlan6").as_deref()));
                spec.extend(line("vxlanTunnelMACAddrV6", quoted("mac6").as_deref()));
                spec.extend(line(
                    "vxlanTunnelMACAddr",
                    option("mac").map(|mac| format!("'{mac}'")).as_deref(),
                ));
                ("Node", name.to_owned(), spec)
            }
            ["pool", cidr, ..] => {
                let mode = words.iter().find(|word| word.ends_with("Mode"));
                let mode = mode.map_or(String::new(), |mode| format!("\n  {mode}: Always"));
                ("IPPool", format!("pool{index}"), format!("cidr: '{cidr}'{mode}"))
            }
            ["block", cidr, node] => {
                let spec = format!("cidr: '{cidr}'\n  node: {node}\n  state: confirmed");
                ("BlockAffinity", format!("block{index}"), spec)
            }
            ["pod", name, node, addresses, ..] => {
                let addresses = addresses.replace(',', "', '");
                let mut spec = format!("node: {node}\n  ipNetworks: ['{addresses}']");
                spec.extend(line("mac", option("mac").map(|mac| format!("'{mac}'")).as_deref()));
                let spoofed = option("spoofs").map(|prefixes| format!("[{prefixes}]"));
                spec.extend(line("allowSpoofedSourcePrefixes", spoofed.as_deref()));
                ("WorkloadEndpoint", name.to_owned(), spec)
            }
            ["felix", field, value] => {
                ("FelixConfiguration", "default".to_owned(), format!("{field}: {value}"))
            }
            _ => panic!("{line:?}", line = words),
        };
        let annotation = match kind {
            "WorkloadEndpoint" => format!("margay.dev/netns: /run/netns/{name}"),
            "IPPool" if words.contains(&"clamp") => "margay.dev/tcp-mss-clamp: auto".to_owned(),
            _ => String::new(),
        };
        text += &format!(
            "apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata:\n  name: {name}\n  annotations: \
             {{{annotation}}}\nspec:\n  {spec}\n---\n"
        );
    }
    Resources::build([parse("bed.yaml", &text)]).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

/// What the machine adds to the resources.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    pub pod_mtu: u16,
    pub host_mtu: Option<u16>,
    pub outer_ttl: OuterTtl,
    pub icmp_source: Option<Ipv4Addr>,
    pub slots: usize,
}

impl Default for Machine {
    fn default() -> Self {
        Machine {
            pod_mtu: POD_MTU,
            host_mtu: Some(UNDERLAY_MTU),
            outer_ttl: OuterTtl::default(),
            icmp_source: None,
            slots: 512,
        }
    }
}

/// The way of the daemon: text → resources → plan → FIB. Endpoint ids are places in the plan.
pub fn compile(lines: &str, node: &str, machine: Machine) -> Fib {
    // The text of the cluster that nearly every test uses is read once.
    static USUAL: OnceLock<NodePlan> = OnceLock::new();
    let read = || plan(&resources(lines), node).unwrap_or_else(|error| panic!("{error}"));
    let plan = match (lines, node) {
        (CLUSTER, "a") => USUAL.get_or_init(read).clone(),
        _ => read(),
    };
    let environment = Environment {
        endpoints: (0..plan.endpoints.len() as u32)
            .map(|id| Some(Attachment { id: EndpointId(id), mtu: machine.pod_mtu }))
            .collect(),
        peer_mtus: plan
            .peers
            .iter()
            .flat_map(|peer| peer.underlays.addresses())
            .map(|peer| (peer, UNDERLAY_MTU))
            .collect(),
        host_mtu: machine.host_mtu,
        outer_ttl: machine.outer_ttl,
        icmp_sources: machine.icmp_source.map(IpAddr::V4).into_iter().collect(),
    };
    Fib::compile(&plan, &environment).unwrap_or_else(|error| panic!("{error}"))
}

/// What one exchange brought: frames sent by each port, ports in the order of [`PORTS`], and the counts.
#[derive(Debug)]
pub struct Exchange {
    pub out: Vec<(PortId, MemoryFrame)>,
    pub tally: Tally,
}

/// The node.
pub struct Bed {
    worker: Worker,
    publication: Arc<Publication>,
    commands: Sender<Command>,
    events: Receiver<Event>,
    wires: Vec<(PortId, Wire)>,
    counters: Arc<Counters>,
    paths: Arc<Paths>,
    slots: usize,
    /// The time of each turn, where the test has a clock of its own.
    pub clock: Option<Instant>,
}

impl Bed {
    /// Node A of [`CLUSTER`], every port attached; BETA's MAC is known as if it had spoken before.
    pub fn new() -> Self {
        Self::on(Machine::default())
    }

    pub fn on(machine: Machine) -> Self {
        Self::of(CLUSTER, machine)
    }

    /// The same node of a cluster that differs in its pools.
    pub fn of(lines: &str, machine: Machine) -> Self {
        let bed = Self::bare(compile(lines, "a", machine), machine.slots);
        bed.with_ports([
            (ALPHA.into(), Some(Neighbor::fixed(ALPHA_MAC))),
            (BETA.into(), Some(Neighbor::learned(BETA_MAC))),
            (GAMMA.into(), Some(Neighbor::fixed(GAMMA_MAC))),
        ])
    }

    /// A worker without ports.
    pub fn bare(fib: Fib, slots: usize) -> Self {
        Self::over(&Publication::new(fib), slots)
    }

    /// The same over a publication that others share.
    pub fn over(publication: &Arc<Publication>, slots: usize) -> Self {
        let (commands, obeyed) = unbounded();
        let (tell, events) = bounded(64);
        let counters = Counters::new();
        let worker = Worker::new(Setup {
            index: 0,
            workers: 1,
            pool: Pool::new(slots, SlotSize::SuperFrame),
            fib: publication.reader(),
            commands: obeyed,
            events: tell,
            counters: Arc::clone(&counters),
        });
        let paths = Arc::new(Paths::default());
        // What an earlier bed over the same snapshot has learned.
        publication.reader().current().tunnels().for_each(|(_, tunnel)| tunnel.fit(None));
        let worker = worker.expect("epoll and eventfd").sharing(Arc::clone(&paths), None, true);
        let publication = Arc::clone(publication);
        Bed { worker, publication, commands, events, wires: Vec::new(), counters, paths, slots, clock: None }
    }

    /// The same asking its peers what their paths take.
    pub fn probing(self) -> Self {
        let prober = Arc::new(Prober::new(Instant::now()));
        Bed { worker: self.worker.sharing(Arc::clone(&self.paths), Some(prober), true), ..self }
    }

    /// What is known of the peers' paths.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Adds the node's own ports, and these endpoints.
    pub fn with_ports<const N: usize>(mut self, endpoints: [(PortId, Option<Arc<Neighbor>>); N]) -> Self {
        let fixed = [
            PortId::Ipip,
            VXLAN,
            PortId::Direct,
            UNDERLAY,
            PortId::Host,
            ERRORS,
            VXLAN_V6,
            ERRORS_V6,
            UNDERLAY_V6,
        ];
        for (id, neighbor) in fixed.into_iter().map(|id| (id, None)).chain(endpoints) {
            self.attach(id, neighbor);
        }
        self
    }

    pub fn attach(&mut self, id: PortId, neighbor: Option<Arc<Neighbor>>) {
        let wire = Wire::default();
        self.attach_port(id, Box::new(MemoryPort::new(&wire)), neighbor);
        self.wires.retain(|(known, _)| *known != id);
        self.wires.push((id, wire));
    }

    pub fn attach_port(&mut self, id: PortId, port: Box<dyn Port>, neighbor: Option<Arc<Neighbor>>) {
        self.wires.retain(|(known, _)| *known != id);
        self.commands.send(Command::Attach { id, port, receives: true, neighbor }).unwrap();
    }

    /// Closes a port; the next exchange begins with that.
    pub fn detach(&mut self, id: PortId) {
        self.wires.retain(|(known, _)| *known != id);
        let (done, _) = bounded(0);
        self.commands.send(Command::Detach { id, done }).unwrap();
    }

    /// Tells the worker something; the next exchange begins with that.
    pub fn tell(&self, command: Command) {
        self.commands.send(command).unwrap();
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// With whom what was dropped and punted so far is counted.
    pub fn parties(&self) -> BTreeMap<Party, Balance> {
        self.counters.by_party()
    }

    pub fn publish(&self, fib: Fib) {
        self.publication.publish(fib);
    }

    pub fn events(&self) -> impl Iterator<Item = Event> {
        self.events.try_iter()
    }

    /// Frames in, turns until they are all read, frames out. Every frame has one outcome, every slot is free.
    pub fn exchange(&mut self, frames: impl IntoIterator<Item = (PortId, MemoryFrame)>) -> Exchange {
        let before = self.counters.read();
        let mut most = 0;
        for (id, frame) in frames {
            let wire = self.wires.iter().find(|(known, _)| *known == id);
            wire.unwrap_or_else(|| panic!("{id:?} is attached")).1.push(frame);
            most += 1;
        }
        // Each port is read a batch a turn.
        for _ in 0..most / margay::io::BATCH + 1 {
            match self.clock {
                Some(now) => self.worker.turn_at(now),
                None => self.worker.turn(Some(Duration::ZERO)).expect("epoll_wait"),
            };
        }
        let (tally, free) = self.worker.inspect();
        assert_eq!(free, self.slots, "a slot leaked");
        assert_eq!(tally.input, tally.outcomes(), "a frame has no outcome, or two");
        let mut by_party = Balance::default();
        self.parties().values().for_each(|party| by_party += party);
        assert_eq!(
            (by_party.punted, by_party.dropped),
            (tally.punted, tally.dropped),
            "counted with one party"
        );
        let out = self.wires.iter().flat_map(|(id, wire)| wire.take().into_iter().map(|frame| (*id, frame)));
        Exchange { out: out.collect(), tally: since(&before, &tally) }
    }

    /// [`Self::exchange`] of one frame.
    pub fn one(&mut self, id: impl Into<PortId>, frame: MemoryFrame) -> Exchange {
        self.exchange([(id.into(), frame)])
    }
}

fn since(before: &Tally, after: &Tally) -> Tally {
    let mut difference = after.clone();
    difference.input -= before.input;
    let subtract = |to: &mut [u64], from: &[u64]| to.iter_mut().zip(from).for_each(|(to, from)| *to -= from);
    subtract(&mut difference.sent, &before.sent);
    subtract(&mut difference.punted, &before.punted);
    subtract(&mut difference.dropped, &before.dropped);
    subtract(&mut difference.anomalies, &before.anomalies);
    difference
}
