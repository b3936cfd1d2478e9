//! The node's side of the underlay: its interface, and the sockets of each mode.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnet::Ipv4Net;
use socket2::Socket;

use super::descriptors::Descriptors;
use super::next_hops::Follower;
use super::rootless::Rootless;
use super::workers::TIMEKEEPER;
use super::{Config, IpipOffload, Site};
use crate::dataplane::PortId;
use crate::fib::OuterTtl;
use crate::io::Port;
use crate::io::express::{Express, MAX_MTU};
use crate::io::link::{Link, Super};
use crate::io::packet::PacketPort;
use crate::io::raw::RawPort;
use crate::io::udp::UdpPort;
use crate::rib::{Encap, NodePlan, Target};
use crate::sys::bpf;
use crate::sys::filter::Filter;
use crate::sys::ipsec;
use crate::sys::netlink::{self, LinkIndex, Netlink};
use crate::sys::socket::{self, Seen};
use crate::sys::xdp::Sender;
use crate::wire::MacAddr;

/// Source ports that VXLAN flows are spread over.
pub(super) const SOURCE_PORTS: usize = 16;

/// What is said where AF_XDP is wanted.
const NO_QUEUE: &str = "no AF_XDP socket";

/// Why the underlay cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UnderlayError {
    /// No interface has the node's address.
    #[error(
        "no interface of this machine has {0}, the address of Node {1}: correct spec.bgp.ipv4Address, or run margay where that address is"
    )]
    NoInterface(IpAddr, String),
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

/// The interface that holds the node's address.
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
    /// Each worker's packet socket: its filter follows this node's blocks.
    packet_sockets: Vec<Arc<Socket>>,
    blocks: Vec<Ipv4Net>,
    /// Each worker's AF_XDP socket for IPIP, if its queue is there; or why it leaves by packet sockets.
    pub(super) express: Result<Vec<Option<Arc<Mutex<Sender>>>>, String>,
    /// The peers' next hops; or why everything leaves by the raw socket.
    pub(super) next_hops: Result<Follower, String>,
}

/// What decides which sockets there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Needs {
    /// The interface that holds the node's address.
    pub(super) interface: Interface,
    address: IpAddr,
    /// A pool says IPIP.
    pub(super) ipip: bool,
    /// A pool says VXLAN: its UDP port.
    pub(super) vxlan: Option<u16>,
    /// The kernel has IPsec policies, or does not say.
    ipsec: bool,
    /// What leaves by the interface passes a queueing discipline, or the kernel does not say.
    is_queued: bool,
    /// The interface takes frames that a sender by AF_XDP has no room for.
    is_jumbo: bool,
}

impl Needs {
    fn has_tunnels(&self) -> bool {
        self.ipip || self.vxlan.is_some()
    }

    /// What `plan` needs on this machine.
    ///
    /// # Errors
    /// [`UnderlayError::NoInterface`].
    pub(super) fn of(
        plan: &NodePlan,
        link_of: impl Fn(&str) -> Option<netlink::Link>,
    ) -> Result<Self, UnderlayError> {
        let interface = pnet::datalink::interfaces()
            .into_iter()
            .find(|interface| interface.ips.iter().any(|network| network.ip() == plan.address))
            .ok_or_else(|| UnderlayError::NoInterface(plan.address, plan.node.clone()))?;
        // A tunnel address may be outside all pools: then its route alone asks for the encapsulation.
        let uses = |wanted| {
            let by_route = |target| matches!(target, Target::Peer { encap, .. } if encap == wanted);
            plan.pools.iter().any(|pool| pool.encap == wanted)
                || plan.routes.iter().any(|route| by_route(route.target))
        };
        let link = link_of(&interface.name);
        let is_jumbo = link.as_ref().is_some_and(|link| link.mtu > u32::from(MAX_MTU));
        let is_queued = Netlink::open().and_then(|mut netlink| netlink.is_queued(LinkIndex(interface.index)));
        let is_queued = is_queued.unwrap_or(true);
        Ok(Needs {
            interface: Interface {
                mac: link.filter(|link| link.is_ethernet).and_then(|link| link.mac),
                index: interface.index,
                name: interface.name,
            },
            address: plan.address,
            ipip: uses(Encap::Ipip),
            vxlan: uses(Encap::Vxlan).then_some(plan.settings.vxlan_port),
            ipsec: ipsec::has_policies().unwrap_or(true),
            is_queued,
            is_jumbo,
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
            return Self::open_rootless(needs, site, legacy, rootless);
        }
        let count = workers.count();
        let address = needs.address;
        let mut held = Descriptors::default();
        let sender = Arc::new(opened("the raw socket that sends to peers", socket::raw_sender())?);
        let next_hops = follower(&needs);
        let ipip = ipip_super(&needs, &next_hops, config)?;
        let express = match express_refused(&needs, &next_hops, config) {
            Some(reason) => Err(reason),
            None => express(&needs.interface, count, before),
        };
        let link = |kind| match &next_hops {
            Ok(follower) => link(&needs.interface, follower, kind).map(Some),
            Err(_) => Ok(None),
        };
        let mut ports: Vec<(usize, PortId, Box<dyn Port>)> = Vec::new();
        let mut packet_sockets = Vec::with_capacity(count);
        let senders = needs.vxlan.map(|_| vxlan_senders(address, count, legacy, &mut held)).transpose()?;
        let mut senders = senders.unwrap_or_default().into_iter();
        for index in 0..count {
            let of = format!("{index} of {count}");
            if needs.ipip {
                let open = || socket::ipip_receiver(address, &Filter::share_of_ipip(index, count));
                let receiver = held.socket(legacy, format!("ipip {address} {of}"), open);
                let receiver = opened("the raw socket for IPIP (protocol 4)", receiver)?;
                let ipip = match express.as_ref().ok().and_then(|senders| senders[index].as_ref()) {
                    Some(sender) => Super::Express(Express::new(Arc::clone(sender))),
                    None => ipip.clone(),
                };
                let port = RawPort::ipip(receiver, Arc::clone(&sender), link(ipip)?);
                ports.push((index, PortId::Ipip, Box::new(port)));
            }
            if let (Some(port), Some(senders)) = (needs.vxlan, senders.next()) {
                let receiver =
                    vxlan_receiver(SocketAddr::new(address, port), (index, count), legacy, &mut held)?;
                ports.push((index, PortId::Vxlan, Box::new(UdpPort::new(receiver, senders, port))));
            }
            let port = RawPort::direct(Arc::clone(&sender), link(Super::Whole)?);
            ports.push((index, PortId::Direct, Box::new(port)));

            let interface = &needs.interface;
            let open = || {
                let packet = socket::packet(interface.index, Seen::Ipv4, &Filter::nothing())?;
                if count > 1 {
                    socket::join_fanout(&packet, std::process::id() as u16)?;
                }
                Ok(packet)
            };
            let packet = held.socket(legacy, format!("underlay {} {of}", interface.index), open);
            let packet = Arc::new(opened(&format!("the packet socket on {}", interface.name), packet)?);
            packet_sockets.push(Arc::clone(&packet));
            ports.push((index, PortId::Underlay, Box::new(PacketPort::new(packet))));
        }
        if let (true, IpAddr::V4(local)) = (needs.has_tunnels(), address) {
            let receiver = held.socket(legacy, format!("errors {local}"), || socket::tunnel_errors(local));
            let receiver = opened("the raw socket for ICMP errors", receiver)?;
            let port = RawPort::errors(receiver, Arc::clone(&sender));
            // One for the node, at the worker that keeps the time of what is known.
            ports.push((TIMEKEEPER, PortId::Errors, Box::new(port)));
        }
        for (index, id, port) in ports {
            workers.attach(index, id, port, id != PortId::Direct, None);
        }
        if let Some(before) = before {
            for (id, was_there, is_there) in [
                (PortId::Ipip, before.needs.ipip, needs.ipip),
                (PortId::Vxlan, before.needs.vxlan.is_some(), needs.vxlan.is_some()),
                (PortId::Errors, before.needs.has_tunnels(), needs.has_tunnels()),
            ] {
                if was_there && !is_there {
                    workers.detach(id);
                }
            }
        }
        Ok(Underlay { needs, descriptors: held, packet_sockets, blocks: Vec::new(), express, next_hops })
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
        rootless: &Rootless,
    ) -> Result<Self, UnderlayError> {
        let workers = site.workers;
        let mut held = Descriptors::default();
        let Some(port) = needs.vxlan else {
            workers.detach(PortId::Vxlan);
            return Ok(Self::of_udp(needs, held, rootless));
        };
        let (local, count) = (SocketAddr::new(needs.address, port), workers.count());
        let mut ports = Vec::with_capacity(count);
        let senders = vxlan_senders(needs.address, count, legacy, &mut held)?;
        for (index, senders) in senders.into_iter().enumerate() {
            let receiver = vxlan_receiver(local, (index, count), legacy, &mut held)?;
            ports.push(UdpPort::new(receiver, senders, port));
        }
        // All of them before the workers lose what they had.
        for (index, port) in ports.into_iter().enumerate() {
            workers.attach(index, PortId::Vxlan, Box::new(port), true, None);
        }
        Ok(Self::of_udp(needs, held, rootless))
    }

    fn of_udp(needs: Needs, descriptors: Descriptors, Rootless { reason }: &Rootless) -> Self {
        let refused = || reason.clone();
        Underlay {
            needs,
            descriptors,
            packet_sockets: Vec::new(),
            blocks: Vec::new(),
            express: Err(refused()),
            next_hops: Err(refused()),
        }
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
        blocks: Vec<Ipv4Net>,
        peers: &BTreeSet<Ipv4Addr>,
    ) -> Result<(), UnderlayError> {
        self.follow_next_hops(|next_hops| next_hops.follow(peers));
        if self.blocks == blocks {
            return Ok(());
        }
        let filter = Filter::destined_to(&blocks);
        for socket in &self.packet_sockets {
            opened("the filter of the underlay's packet socket", filter.attach(socket))?;
        }
        self.blocks = blocks;
        Ok(())
    }
}

fn follower(needs: &Needs) -> Result<Follower, String> {
    if needs.ipsec {
        return Err(
            "the kernel has IPsec policies, or does not say, and a packet socket would pass them by".into()
        );
    }
    let interface = &needs.interface;
    let mac = interface.mac.ok_or_else(|| format!("{} is not an Ethernet interface", interface.name))?;
    Follower::new(interface, mac).map_err(|error| error.to_string())
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
    let (Some(mac), IpAddr::V4(local)) = (needs.interface.mac, needs.address) else {
        return Err(refused("it needs IPv4 over Ethernet".into()));
    };
    let ttl = match config.outer_ttl {
        OuterTtl::Fixed(ttl) => Some(ttl),
        OuterTtl::Inherit => None,
    };
    let program = bpf::attach_ipip(needs.interface.index, bpf::OuterIpip { mac, local, ttl });
    program.map(|program| Super::Prepended(Arc::new(program))).map_err(|error| refused(error.to_string()))
}

/// Why IPIP does not leave by AF_XDP.
fn express_refused(needs: &Needs, next_hops: &Result<Follower, String>, config: &Config) -> Option<String> {
    let name = &needs.interface.name;
    match next_hops {
        _ if config.ipip_offload != IpipOffload::Auto => Some("--ipip-offload".into()),
        _ if !needs.ipip => Some("there is no IPIP".into()),
        Err(reason) => Some(reason.clone()),
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
    let before = before.filter(|before| before.needs.interface.index == interface.index);
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
pub(super) fn own_prefixes(plan: &NodePlan) -> Vec<Ipv4Net> {
    let own =
        plan.routes.iter().filter(|route| matches!(route.target, Target::Blackhole | Target::Endpoint(_)));
    let prefixes = own.filter_map(|route| match route.prefix {
        ipnet::IpNet::V4(prefix) => Some(prefix),
        ipnet::IpNet::V6(_) => None,
    });
    Ipv4Net::aggregate(&prefixes.collect())
}

/// A worker's receiver of VXLAN, `index` of `count`.
fn vxlan_receiver(
    local: SocketAddr,
    (index, count): (usize, usize),
    legacy: &Descriptors,
    held: &mut Descriptors,
) -> Result<Socket, UnderlayError> {
    let name = format!("vxlan {local} {index} of {count}");
    let receiver = held.socket(legacy, name, || socket::vxlan_receiver(local));
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
