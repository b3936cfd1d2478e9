//! The node's side of the underlay: its interfaces, and the sockets of each mode and family.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use pnet::datalink::NetworkInterface;
use socket2::Socket;

use super::descriptors::Descriptors;
use super::next_hops::Follower;
use super::rootless::Rootless;
use super::workers::{TIMEKEEPER, Workers};
use super::{Config, IpipOffload, Site};
use crate::dataplane::PortId;
use crate::fib::OuterTtl;
use crate::io::Port;
use crate::io::express::{Express, MAX_MTU};
use crate::io::link::{Link, Super};
use crate::io::packet::PacketPort;
use crate::io::raw::{Exit, RawPort};
use crate::io::udp::UdpPort;
use crate::rib::{Encap, NodePlan, Target};
use crate::sys::bpf;
use crate::sys::filter::Filter;
use crate::sys::ipsec;
use crate::sys::netlink::{self, LinkIndex, Netlink};
use crate::sys::socket::{self, Seen, ZeroChecksums};
use crate::sys::xdp::Sender;
use crate::wire::{Family, MacAddr};

/// Source ports that VXLAN flows are spread over.
pub(super) const SOURCE_PORTS: usize = 16;

/// What is said where AF_XDP is wanted.
const NO_QUEUE: &str = "no AF_XDP socket";

/// Why the underlay cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UnderlayError {
    /// No interface has the node's address.
    #[error(
        "no interface of this machine has {address}, the address of Node {node}: correct spec.bgp.{}, or run margay where that address is",
        field(.address)
    )]
    NoInterface {
        /// The address.
        address: IpAddr,
        /// The Node resource.
        node: String,
    },
    /// `--ipip-offload`.
    #[error("--ipip-offload bpf: {0}; or do without: --ipip-offload off")]
    IpipOffload(String),
    /// A socket.
    #[error("{what} cannot be opened ({source}): {}", hint(.source))]
    Socket {
        /// Which socket, and what for.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
}

fn field(address: &IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "ipv4Address",
        IpAddr::V6(_) => "ipv6Address",
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "it needs CAP_NET_RAW; run as root, or grant the capability",
        Some(libc::EADDRINUSE) => {
            "something else in this network namespace has it, perhaps a kernel vxlan device (ip -d link show type vxlan) or another margay; remove it, or set vxlanPort"
        }
        Some(libc::EADDRNOTAVAIL) => "the node's address is not on this machine",
        Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT) => {
            "this kernel or sandbox does not know such sockets"
        }
        Some(libc::EMFILE) => "too many open files: raise the limit (ulimit -n)",
        _ => "see the system's documentation of this error",
    }
}

/// Where the node is on the underlay of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Uplink {
    /// The node's address.
    pub(super) address: IpAddr,
    /// The interface that holds it.
    pub(super) interface: Interface,
}

impl Uplink {
    /// That of the address.
    pub(super) fn family(&self) -> Family {
        Family::of(self.address)
    }
}

/// An interface of the underlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interface {
    /// Name.
    pub(super) name: String,
    /// Index.
    pub(super) index: u32,
    /// Its Ethernet address, if it is of that kind.
    pub(super) mac: Option<MacAddr>,
}

/// What is open on the underlay.
#[derive(Debug)]
pub(super) struct Underlay {
    needs: Needs,
    /// What it receives by, and VXLAN's senders.
    descriptors: Descriptors,
    /// What the workers have of it.
    ports: Vec<PortId>,
    /// Each worker's packet sockets, one for each family: their filters follow this node's blocks.
    packet_sockets: Vec<(Family, Arc<Socket>)>,
    blocks: Vec<IpNet>,
    /// Each worker's AF_XDP socket for IPIP, if its queue is there; or why it leaves by packet sockets.
    pub(super) express: Result<Vec<Option<Arc<Mutex<Sender>>>>, String>,
    /// The peers' next hops; or why everything leaves by the raw socket.
    pub(super) next_hops: Result<Follower, String>,
}

/// What decides which sockets there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Needs {
    /// One for each of the node's addresses that this machine has, IPv4's first; there is one at least.
    uplinks: Vec<Uplink>,
    /// The node's address that it has not: the other family goes on alone.
    absent: Option<IpAddr>,
    /// A pool says IPIP.
    pub(super) ipip: bool,
    /// A pool says VXLAN: its UDP port.
    pub(super) vxlan: Option<u16>,
    /// The kernel has IPsec policies, or does not say.
    ipsec: bool,
    /// What leaves by IPv4's interface passes a queueing discipline, or the kernel does not say.
    is_queued: bool,
    /// IPv4's interface takes frames that a sender by AF_XDP has no room for.
    is_jumbo: bool,
}

impl Needs {
    /// Where the node is on the underlay, IPv4 first.
    pub(super) fn uplinks(&self) -> &[Uplink] {
        &self.uplinks
    }

    /// Which of the node's families reaches no other node, and why.
    pub(super) fn absent(&self, plan: &NodePlan) -> Option<(Family, UnderlayError)> {
        let address = self.absent?;
        Some((Family::of(address), UnderlayError::NoInterface { address, node: plan.node.clone() }))
    }

    fn uplink(&self, family: Family) -> Option<&Uplink> {
        self.uplinks.iter().find(|uplink| uplink.family() == family)
    }

    /// The one that IPIP needs.
    fn ipip_uplink(&self) -> Option<&Uplink> {
        self.uplink(Family::V4).filter(|_| self.ipip)
    }

    fn has_tunnels(&self, family: Family) -> bool {
        self.vxlan.is_some() || (self.ipip && family == Family::V4)
    }

    /// What `plan` needs on this machine.
    ///
    /// # Errors
    /// [`UnderlayError::NoInterface`], if it has none of the node's addresses.
    pub(super) fn of(
        plan: &NodePlan,
        link_of: impl Fn(&str) -> Option<netlink::Link>,
    ) -> Result<Self, UnderlayError> {
        let interfaces = pnet::datalink::interfaces();
        let uplink = |address: IpAddr| {
            let has =
                |interface: &&NetworkInterface| interface.ips.iter().any(|network| network.ip() == address);
            let found = interfaces.iter().find(has).ok_or(address)?;
            let mac = link_of(&found.name).filter(|link| link.is_ethernet).and_then(|link| link.mac);
            let interface = Interface { name: found.name.clone(), index: found.index, mac };
            Ok(Uplink { address, interface })
        };
        let (uplinks, absent): (Vec<_>, Vec<_>) =
            plan.underlays.addresses().map(uplink).partition(Result::is_ok);
        let uplinks: Vec<Uplink> = uplinks.into_iter().flatten().collect();
        let absent = absent.into_iter().find_map(Result::err);
        if let (true, Some(address)) = (uplinks.is_empty(), absent) {
            return Err(UnderlayError::NoInterface { address, node: plan.node.clone() });
        }
        // A tunnel address may be outside all pools: then its route alone asks for the encapsulation.
        let uses = |wanted| {
            let by_route = |target| matches!(target, Target::Peer { encap, .. } if encap == wanted);
            plan.pools.iter().any(|pool| pool.encap == wanted)
                || plan.routes.iter().any(|route| by_route(route.target))
        };
        let v4 = uplinks.iter().find(|uplink| uplink.family() == Family::V4);
        let link = v4.and_then(|uplink| link_of(&uplink.interface.name));
        let is_queued = v4.is_some_and(|uplink| {
            let index = LinkIndex(uplink.interface.index);
            Netlink::open().and_then(|mut netlink| netlink.is_queued(index)).unwrap_or(true)
        });
        Ok(Needs {
            uplinks,
            absent,
            ipip: uses(Encap::Ipip),
            vxlan: uses(Encap::Vxlan).then_some(plan.settings.vxlan_port),
            ipsec: ipsec::has_policies().unwrap_or(true),
            is_queued,
            is_jumbo: link.is_some_and(|link| link.mtu > u32::from(MAX_MTU)),
        })
    }
}

impl Underlay {
    /// Opens the sockets, but for those that `legacy` has, and gives each worker its own.
    ///
    /// # Errors
    /// [`UnderlayError::Socket`]; then the workers have kept what they had.
    pub(super) fn open(
        needs: Needs,
        site: Site<'_>,
        legacy: &Descriptors,
        before: Option<&Underlay>,
    ) -> Result<Self, UnderlayError> {
        let Site { config, workers, .. } = site;
        if let Some(rootless) = site.rootless {
            return Self::open_rootless(needs, site, legacy, (rootless, before));
        }
        let count = workers.count();
        let mut held = Descriptors::default();
        let next_hops = follower(&needs);
        let ipip = ipip_super(&needs, &next_hops, config)?;
        let express = match (express_refused(&needs, &next_hops, config), needs.ipip_uplink()) {
            (Some(reason), _) => Err(reason),
            (None, Some(uplink)) => express(&uplink.interface, count, before),
            (None, None) => Err("there is no IPv4".into()),
        };
        let exits = Exits::of(&needs, &next_hops)?;
        let mut ports = vxlan_ports(&needs, (count, config.zero_checksums), legacy, &mut held)?;
        let mut packet_sockets = Vec::with_capacity(count);
        for index in 0..count {
            let of = format!("{index} of {count}");
            if let Some(Uplink { address, .. }) = needs.ipip_uplink() {
                let open = || socket::ipip_receiver(*address, &Filter::share_of_ipip(index, count));
                let receiver = held.socket(legacy, format!("ipip {address} {of}"), open);
                let receiver = opened("the raw socket for IPIP (protocol 4)", receiver)?;
                let ipip = match express.as_ref().ok().and_then(|senders| senders[index].as_ref()) {
                    Some(sender) => Super::Express(Express::new(Arc::clone(sender))),
                    None => ipip.clone(),
                };
                if let Some(exit) = exits.exit(Family::V4, ipip)? {
                    ports.push((index, PortId::Ipip, Box::new(RawPort::ipip(receiver, exit))));
                }
            }
            let port =
                RawPort::direct(exits.exit(Family::V4, Super::Whole)?, exits.exit(Family::V6, Super::Whole)?);
            ports.push((index, PortId::Direct, Box::new(port)));
            for uplink in &needs.uplinks {
                let packet = packet_socket(uplink, (index, count), legacy, &mut held)?;
                packet_sockets.push((uplink.family(), Arc::clone(&packet)));
                let id = PortId::Underlay(uplink.family());
                ports.push((index, id, Box::new(PacketPort::new(packet))));
            }
        }
        for uplink in needs.uplinks.iter().filter(|uplink| needs.has_tunnels(uplink.family())) {
            let address = uplink.address;
            let receiver =
                held.socket(legacy, format!("errors {address}"), || socket::tunnel_errors(address));
            let receiver = opened("the raw socket for ICMP errors", receiver)?;
            let port = RawPort::errors(receiver, address);
            // One for the node, at the worker that keeps the time of what is known.
            ports.push((TIMEKEEPER, PortId::Errors(uplink.family()), Box::new(port)));
        }
        let ports = give(workers, ports, before);
        Ok(Underlay {
            needs,
            descriptors: held,
            ports,
            packet_sockets,
            blocks: Vec::new(),
            express,
            next_hops,
        })
    }

    /// What it receives by, and VXLAN's senders.
    pub(super) fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    /// IPIP is to leave by AF_XDP and does not, as its queue could not be had.
    pub(super) fn awaits_express(&self) -> bool {
        matches!(&self.express, Err(reason) if reason.starts_with(NO_QUEUE))
    }

    /// Has the kernel send what AF_XDP's rings hold still: of a full socket it takes the rest with the next batch, and none
    /// will come.
    pub(super) fn drain(&self) {
        const TRIES: u32 = 50;
        const PAUSE: Duration = Duration::from_millis(1);
        for sender in self.express.iter().flatten().flatten() {
            let mut sender = sender.lock().unwrap_or_else(PoisonError::into_inner);
            let mut tries = 0..TRIES;
            while sender.send().is_err() && tries.next().is_some() {
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// Has everything opened anew the next time: what it was bound to is gone.
    pub(super) fn forget(&mut self) {
        self.descriptors.clear();
    }

    /// UDP sockets alone.
    fn open_rootless(
        needs: Needs,
        site: Site<'_>,
        legacy: &Descriptors,
        (rootless, before): (&Rootless, Option<&Underlay>),
    ) -> Result<Self, UnderlayError> {
        let mut held = Descriptors::default();
        let receive = (site.workers.count(), site.config.zero_checksums);
        let ports = vxlan_ports(&needs, receive, legacy, &mut held)?;
        let ports = give(site.workers, ports, before);
        let refused = || rootless.reason.clone();
        Ok(Underlay {
            needs,
            descriptors: held,
            ports,
            packet_sockets: Vec::new(),
            blocks: Vec::new(),
            express: Err(refused()),
            next_hops: Err(refused()),
        })
    }

    /// What it was opened for.
    pub(super) fn needs(&self) -> &Needs {
        &self.needs
    }

    /// Has the next hops followed, if they are.
    pub(super) fn follow_next_hops(&mut self, follow: impl FnOnce(&mut Follower)) {
        if let Ok(next_hops) = &mut self.next_hops {
            follow(next_hops);
        }
    }

    /// Takes in what arrives without encapsulation for this node's `blocks`, and nothing else; sends to `peers`
    /// by the link layer where it can.
    ///
    /// # Errors
    /// The kernel refuses the filter.
    pub(super) fn follow(
        &mut self,
        blocks: Vec<IpNet>,
        peers: &BTreeSet<IpAddr>,
    ) -> Result<(), UnderlayError> {
        self.follow_next_hops(|next_hops| next_hops.follow(peers));
        if self.blocks == blocks {
            return Ok(());
        }
        for (family, socket) in &self.packet_sockets {
            let blocks = blocks.iter().copied().filter(|block| Family::of(block.addr()) == *family);
            let filter = Filter::destined_to(&blocks.collect::<Vec<IpNet>>());
            opened("the filter of the underlay's packet socket", filter.attach(socket))?;
        }
        self.blocks = blocks;
        Ok(())
    }
}

/// A worker's port, which is to be given to it.
type New = (usize, PortId, Box<dyn Port>);

/// Gives the workers these ports in the place of those that they had; says which.
fn give(workers: &Workers, ports: Vec<New>, before: Option<&Underlay>) -> Vec<PortId> {
    let mut given = Vec::with_capacity(ports.len());
    for (index, id, port) in ports {
        workers.attach(index, id, port, id != PortId::Direct, None);
        given.push(id);
    }
    let had = before.map_or(&[][..], |before| &before.ports);
    for id in had.iter().filter(|id| !given.contains(id)).copied().collect::<HashSet<_>>() {
        workers.detach(id);
    }
    given
}

/// Each worker's way in and out by VXLAN, on each uplink.
fn vxlan_ports(
    needs: &Needs,
    (count, zero_checksums): (usize, ZeroChecksums),
    legacy: &Descriptors,
    held: &mut Descriptors,
) -> Result<Vec<New>, UnderlayError> {
    let mut ports: Vec<New> = Vec::new();
    let Some(port) = needs.vxlan else { return Ok(ports) };
    for uplink in &needs.uplinks {
        let local = SocketAddr::new(uplink.address, port);
        let senders = vxlan_senders(uplink.address, count, legacy, held)?;
        for (index, senders) in senders.into_iter().enumerate() {
            let receiver = vxlan_receiver(local, (index, count), zero_checksums, legacy, held)?;
            let id = PortId::Vxlan(uplink.family());
            ports.push((index, id, Box::new(UdpPort::new(receiver, senders, port))));
        }
    }
    Ok(ports)
}

/// A worker's socket for what arrives at an uplink without encapsulation, `index` of `count`.
fn packet_socket(
    uplink: &Uplink,
    (index, count): (usize, usize),
    legacy: &Descriptors,
    held: &mut Descriptors,
) -> Result<Arc<Socket>, UnderlayError> {
    // A group is of one version.
    let own = std::process::id() as u16;
    let (seen, version, group) = match uplink.family() {
        Family::V4 => (Seen::Ipv4, "", own),
        Family::V6 => (Seen::Ipv6, "v6 ", !own),
    };
    let interface = &uplink.interface;
    let open = || {
        let packet = socket::packet(interface.index, seen, &Filter::nothing())?;
        if count > 1 {
            socket::join_fanout(&packet, group)?;
        }
        Ok(packet)
    };
    let name = format!("underlay {version}{} {index} of {count}", interface.index);
    let packet = held.socket(legacy, name, open);
    Ok(Arc::new(opened(&format!("the packet socket on {}", interface.name), packet)?))
}

/// What sends whole packets: a raw socket for each family, and where the next hops are known the link layer.
struct Exits<'a> {
    uplinks: Vec<(&'a Uplink, Arc<Socket>)>,
    next_hops: Option<&'a Follower>,
}

impl<'a> Exits<'a> {
    fn of(needs: &'a Needs, next_hops: &'a Result<Follower, String>) -> Result<Self, UnderlayError> {
        let open = |uplink: &'a Uplink| {
            let sender = socket::raw_sender(uplink.family());
            Ok((uplink, Arc::new(opened("the raw socket that sends to peers", sender)?)))
        };
        let uplinks = needs.uplinks.iter().map(open).collect::<Result<_, UnderlayError>>()?;
        Ok(Exits { uplinks, next_hops: next_hops.as_ref().ok() })
    }

    fn exit(&self, family: Family, kind: Super) -> Result<Option<Exit>, UnderlayError> {
        let Some((uplink, sender)) = self.uplinks.iter().find(|(uplink, _)| uplink.family() == family) else {
            return Ok(None);
        };
        let next_hops = self.next_hops.filter(|_| uplink.interface.mac.is_some());
        let link = next_hops.map(|follower| link(&uplink.interface, follower, kind)).transpose()?;
        Ok(Some(Exit::new(Arc::clone(sender), link)))
    }
}

fn follower(needs: &Needs) -> Result<Follower, String> {
    if needs.ipsec {
        return Err(
            "the kernel has IPsec policies, or does not say, and a packet socket would pass them by".into()
        );
    }
    let is_ethernet = |uplink: &&Uplink| uplink.interface.mac.is_some();
    if !needs.uplinks.iter().any(|uplink| is_ethernet(&uplink)) {
        let names: BTreeSet<&str> =
            needs.uplinks.iter().map(|uplink| uplink.interface.name.as_str()).collect();
        let names: Vec<&str> = names.into_iter().collect();
        return Err(format!("{} is not an Ethernet interface", names.join(" and ")));
    }
    Follower::new(&needs.uplinks).map_err(|error| error.to_string())
}

fn link(interface: &Interface, follower: &Follower, kind: Super) -> Result<Link, UnderlayError> {
    let what = format!("the packet socket that sends by {}", interface.name);
    let socket = opened(&what, socket::link_sender(interface.index))?;
    if matches!(kind, Super::Prepended(_)) {
        opened(&what, socket.set_mark(bpf::MARK))?;
    }
    Ok(Link::new(socket, follower.publication().reader(), kind))
}

/// What becomes of IPIP's super-frames.
fn ipip_super(
    needs: &Needs,
    next_hops: &Result<Follower, String>,
    config: &Config,
) -> Result<Super, UnderlayError> {
    if config.ipip_offload != IpipOffload::Bpf || !needs.ipip {
        return Ok(Super::Cut);
    }
    let refused = |reason: String| UnderlayError::IpipOffload(reason);
    if let Err(reason) = next_hops {
        return Err(refused(reason.clone()));
    }
    let found = needs.ipip_uplink().and_then(|uplink| Some((uplink, uplink.interface.mac?)));
    let Some((Uplink { address: IpAddr::V4(local), interface }, mac)) = found else {
        return Err(refused("it needs IPv4 over Ethernet".into()));
    };
    let local = *local;
    let ttl = match config.outer_ttl {
        OuterTtl::Fixed(ttl) => Some(ttl),
        OuterTtl::Inherit => None,
    };
    let program = bpf::attach_ipip(interface.index, bpf::OuterIpip { mac, local, ttl });
    program.map(|program| Super::Prepended(Arc::new(program))).map_err(|error| refused(error.to_string()))
}

/// Why IPIP does not leave by AF_XDP.
fn express_refused(needs: &Needs, next_hops: &Result<Follower, String>, config: &Config) -> Option<String> {
    let Some(Uplink { interface, .. }) = needs.ipip_uplink() else { return Some("there is no IPIP".into()) };
    let name = &interface.name;
    match next_hops {
        _ if config.ipip_offload != IpipOffload::Auto => Some("--ipip-offload".into()),
        Err(reason) => Some(reason.clone()),
        Ok(_) if interface.mac.is_none() => Some(format!("{name} is not an Ethernet interface")),
        // It would pass by what somebody put there, or the driver's queue with what would have held it back.
        Ok(_) if needs.is_queued => Some(format!("{name} has a queueing discipline")),
        Ok(_) if needs.is_jumbo => Some(format!("the MTU of {name} is above {MAX_MTU}")),
        Ok(_) => None,
    }
}

/// Worker `i` has queue `i`: the first one at least.
fn express(
    interface: &Interface,
    workers: usize,
    before: Option<&Underlay>,
) -> Result<Vec<Option<Arc<Mutex<Sender>>>>, String> {
    let is_same = |before: &&Underlay| {
        before.needs.uplink(Family::V4).is_some_and(|uplink| uplink.interface.index == interface.index)
    };
    let before = before.filter(is_same);
    let open = |queue: usize| match before.and_then(|before| before.express.as_ref().ok()?[queue].as_ref()) {
        Some(sender) => Ok(Arc::clone(sender)),
        None => open_express(interface.index, queue as u32).map(|sender| Arc::new(Mutex::new(sender))),
    };
    let mut senders = vec![Some(open(0).map_err(|error| format!("{NO_QUEUE} ({error})"))?)];
    senders.extend((1..workers).map(|queue| open(queue).ok()));
    Ok(senders)
}

/// Tries for a while: the kernel frees the queue of a daemon that has ended a little later.
fn open_express(interface: u32, queue: u32) -> io::Result<Sender> {
    const TRIES: u32 = 20;
    const PAUSE: Duration = Duration::from_millis(10);
    for _ in 1..TRIES {
        match Sender::open(interface, queue) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
    Sender::open(interface, queue)
}

/// This node's own blocks and its endpoints' addresses outside them: what peers send here.
pub(super) fn own_prefixes(plan: &NodePlan) -> Vec<IpNet> {
    let own =
        plan.routes.iter().filter(|route| matches!(route.target, Target::Blackhole | Target::Endpoint(_)));
    IpNet::aggregate(&own.map(|route| route.prefix).collect())
}

/// A worker's receiver of VXLAN, `index` of `count`.
fn vxlan_receiver(
    local: SocketAddr,
    (index, count): (usize, usize),
    zero_checksums: ZeroChecksums,
    legacy: &Descriptors,
    held: &mut Descriptors,
) -> Result<Socket, UnderlayError> {
    let name = format!("vxlan {local} {index} of {count}");
    let receiver = held.socket(legacy, name, || socket::vxlan_receiver(local)).and_then(|receiver| {
        // One that was taken over has what its daemon was told.
        socket::set_zero_checksums(&receiver, zero_checksums).map(|()| receiver)
    });
    opened(&format!("UDP port {} for VXLAN", local.port()), receiver)
}

/// Each worker's senders of VXLAN. Sender `i` of every worker has the same source port: a flow keeps its port, and so
/// its order and its worker at the peer, whichever worker here has its frames.
fn vxlan_senders(
    address: IpAddr,
    workers: usize,
    legacy: &Descriptors,
    held: &mut Descriptors,
) -> Result<Vec<Vec<Socket>>, UnderlayError> {
    let name = format!("vxlan senders {address} of {workers}");
    let open = || open_vxlan_senders(address, workers);
    let all = opened("a UDP socket to send VXLAN", held.sockets(legacy, name, open))?;
    let mut senders: Vec<Vec<Socket>> = (0..workers).map(|_| Vec::with_capacity(SOURCE_PORTS)).collect();
    for (place, socket) in all.into_iter().enumerate() {
        senders[place % workers].push(socket);
    }
    Ok(senders)
}

/// A socket for each worker with the first source port, then one for each with the second, and so on.
fn open_vxlan_senders(address: IpAddr, workers: usize) -> io::Result<Vec<Socket>> {
    let mut senders = Vec::with_capacity(SOURCE_PORTS * workers);
    // RFC 7348 5: 49152 to 65535. Somebody else may have some of these ports: then the next one.
    let first = 49152 + (std::process::id() as u16 & 0x3fff);
    let mut candidates = (0..0x4000).map(|offset| 49152 + ((first - 49152 + offset) & 0x3fff));
    while senders.len() < SOURCE_PORTS * workers {
        let Some(candidate) = candidates.next() else { break };
        let sockets = (0..workers).map(|_| socket::vxlan_sender(SocketAddr::new(address, candidate)));
        match sockets.collect::<io::Result<Vec<_>>>() {
            Ok(sockets) => senders.extend(sockets),
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => {}
            Err(error) => return Err(error),
        }
    }
    match senders.is_empty() {
        true => Err(io::Error::from_raw_os_error(libc::EADDRINUSE)),
        false => Ok(senders),
    }
}

fn opened<T>(what: &str, result: io::Result<T>) -> Result<T, UnderlayError> {
    result.map_err(|source| UnderlayError::Socket { what: what.to_owned(), source })
}
