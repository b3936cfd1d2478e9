//! Attaching endpoints: a TAP in the workload's namespace, or the host end of a veth.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use socket2::Socket;

use super::Site;
use super::ipv6::{self, Ipv6Error};
use super::mark::Mark;
use super::workers::Workers;
use crate::dataplane::antispoof::Address as _;
use crate::dataplane::{Neighbor, PortId};
use crate::fib::EndpointId;
use crate::io::packet::PacketPort;
use crate::io::tap::TapPort;
use crate::lpm::Prefix;
use crate::rib::{Attach, EndpointPlan};
use crate::sys::filter::Filter;
use crate::sys::netlink::{
    ErrorKind, Link, LinkChange, LinkIndex, Netlink, NetlinkError, NetnsId, Route, Scope,
};
use crate::sys::netns::{Netns, NetnsError};
use crate::sys::socket::{self, Seen};
use crate::sys::tun::{self, Interface, Layer, TunError};
use crate::wire::{Family, MacAddr};

/// What the host end of a veth gets for a MAC while margay serves it.
///
/// The workload sends to the gateway's ee:ee:ee:ee:ee:ee. As the host end has another address, the host's own
/// IP stack takes those frames for somebody else's and drops them, while the packet socket sees them.
const HOST_END_MAC: MacAddr = MacAddr([0x02, 0xee, 0xee, 0xee, 0xee, 0xee]);
/// Greatest super-frame that a workload's stack may hand over: with an outer header it stays below 64 KiB.
const GSO_MAX_SIZE: u32 = 61_000;

/// Frames that wait in a TAP while no worker reads it: with the kernel's 500 to 1,000 a workload that sends 150,000
/// small packets a second loses some whenever the worker is not scheduled for a few milliseconds.
const QUEUE_LEN: u32 = 4096;

/// Why an endpoint is not attached.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttachError {
    /// Its namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// Its TAP.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// The configuration of its interface.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Its packet socket.
    #[error("packet socket on {0}: {1}: it needs CAP_NET_RAW")]
    Socket(String, #[source] std::io::Error),
    /// The namespace does not have the other end of its veth.
    #[error("the other end of {0} is not in the namespace that margay.dev/netns names")]
    NoPeer(String),
    /// Two endpoints in one place.
    #[error("{0} of that namespace is the interface of endpoint {1} already")]
    Taken(String, String),
    /// A TAP without a namespace: `rib` does not let that pass.
    #[error("margay.dev/netns is missing")]
    NoNetns,
}

/// An endpoint that is attached.
#[derive(Debug)]
pub(super) struct Attached {
    /// Its id in the FIB.
    pub(super) id: EndpointId,
    /// What it was attached for.
    pub(super) plan: EndpointPlan,
    /// For the start-up screen and the log.
    pub(super) how: String,
    kind: Kind,
    mtu: Mtu,
    /// What is known of the workload's MAC.
    neighbor: Arc<Neighbor>,
    /// Why it has no IPv6 though the workload has an address of it; IPv4 is served.
    without_ipv6: Option<String>,
}

/// The MTU of an endpoint's interface, bytes. Margay sets it to what the underlay lets it be, but never above
/// what somebody else chose for it.
#[derive(Debug, Clone, Copy)]
struct Mtu {
    /// What the underlay lets it be.
    computed: u16,
    /// What somebody else chose.
    given: Option<u16>,
    /// What the interface has.
    current: u16,
}

impl Mtu {
    fn wanted(self) -> u16 {
        self.given.map_or(self.computed, |given| given.min(self.computed))
    }
}

#[derive(Debug)]
enum Kind {
    Tap(Tap),
    /// The host end as it was found, and the namespace of the other end, where the resource names it.
    Veth {
        before: Link,
        netns: Option<PathBuf>,
        /// The kernel has taken the remark by which a later daemon knows what was found.
        is_marked: bool,
        socket: Arc<Socket>,
    },
}

#[derive(Debug)]
struct Tap {
    /// Where its namespace is, and which one that is. An open TAP keeps its namespace alive, so the workload's end shows
    /// only in that its path leads nowhere, or to another namespace.
    path: PathBuf,
    namespace: (u64, u64),
    /// The same place by numbers.
    at: (Option<NetnsId>, LinkIndex),
    queues: Vec<Arc<File>>,
    /// The kernel has taken the remark by which a later daemon knows the interface.
    is_marked: bool,
    /// It is from an earlier daemon.
    is_old: bool,
}

impl Attached {
    /// Whether it is what `plan` wants. Which sources are allowed is the FIB's alone.
    pub(super) fn serves(&self, plan: &EndpointPlan) -> bool {
        EndpointPlan { spoofed_sources: self.plan.spoofed_sources.clone(), ..plan.clone() } == self.plan
    }
}

/// Makes an endpoint's interface, or takes over the one that an earlier daemon made, and gives its port to the workers:
/// each can send, one receives each queue. From a new interface the workload cannot send before [`Attached::raise`].
///
/// # Errors
/// See [`AttachError`]; then nothing is left of what was made.
pub(super) fn attach(
    id: EndpointId,
    plan: &EndpointPlan,
    mtu: u16,
    site: Site<'_>,
) -> Result<Attached, AttachError> {
    match plan.attach {
        Attach::Tap => attach_tap(id, plan, mtu, site),
        Attach::Veth => attach_veth(id, plan, mtu, site),
    }
}

fn attach_tap(
    id: EndpointId,
    plan: &EndpointPlan,
    mtu: u16,
    site: Site<'_>,
) -> Result<Attached, AttachError> {
    let workers = site.workers;
    let path = plan.netns.clone().ok_or(AttachError::NoNetns)?;
    let netns = Netns::open(&path)?;
    let namespace = netns.id()?;
    if let Some(other) = site.endpoints.values().find(|other| other.is_at(namespace, &plan.interface)) {
        return Err(AttachError::Taken(plan.interface.clone(), other.plan.name.clone()));
    }
    // A worker receives one queue of an endpoint at most.
    let queues = plan.queues.min(workers.count() as u16);
    let held = site.legacy.descriptors.copies(&tap_name(plan, namespace, queues.into()));
    let made = netns.run(|| make_tap(plan, mtu, queues, held))??;
    // Where a namespace has no number, a TAP that nobody wants any more is found only by its path.
    let number = Netlink::open().and_then(|mut netlink| netlink.give_netns_id(netns.as_fd())).ok();
    let mark = Mark::Made { owner: site.owner, purpose: plan.name.clone() };
    let alias = [LinkChange::Alias(mark.to_string())];
    let is_marked = netns.netlink()?.set_link(made.link.index, &alias).is_ok();

    let neighbor = match plan.mac {
        Some(mac) => Neighbor::fixed(mac),
        None => {
            let known = site.legacy.macs.get(&plan.name).copied().or(made.link.mac);
            Neighbor::learned(known.unwrap_or(MacAddr([0; 6])))
        }
    };
    let offloads = made.interface.offloads;
    let count = made.interface.queues.len();
    let how = format!("TAP {}, {}, {count} queue(s)", plan.interface, offloads.name());
    let queues: Vec<_> = made.interface.queues.into_iter().map(Arc::new).collect();
    for index in 0..workers.count() {
        // The id's own worker and those after it receive a queue each; everyone sends by some queue.
        let position = (index + workers.count() - id.0 as usize % workers.count()) % workers.count();
        let file = Arc::clone(&queues[position % queues.len()]);
        let port = TapPort::new(file, Layer::Tap, offloads);
        let receives = position < queues.len();
        workers.attach(index, id.into(), Box::new(port), receives, Some(Arc::clone(&neighbor)));
    }
    let at = (number, made.link.index);
    let kind = Kind::Tap(Tap { path, namespace, at, queues, is_marked, is_old: made.is_old });
    let mtu = Mtu { computed: mtu, given: None, current: mtu };
    let mut attached = Attached { id, plan: plan.clone(), how, kind, mtu, neighbor, without_ipv6: None };
    attached.note_ipv6(made.ipv6);
    Ok(attached)
}

/// What a TAP's descriptors are called.
fn tap_name(plan: &EndpointPlan, (dev, inode): (u64, u64), queues: usize) -> String {
    format!("tap {dev}:{inode} {} of {queues}", plan.interface)
}

struct MadeTap {
    interface: Interface,
    link: Link,
    is_old: bool,
    ipv6: Result<(), Ipv6Error>,
}

/// Runs inside the workload's namespace: everything but what lets the workload send.
fn make_tap(
    plan: &EndpointPlan,
    mtu: u16,
    queues: u16,
    held: Option<Vec<OwnedFd>>,
) -> Result<MadeTap, AttachError> {
    let mut netlink = Netlink::open()?;
    let was_open = held.is_some();
    let (interface, is_old) = open_tap(&mut netlink, plan, queues, held)?;
    let name = plan.interface.as_str();
    let Link { index, mac, .. } = netlink.link(name)?;
    let mut changes = vec![LinkChange::Mtu(mtu.into()), LinkChange::TxQueueLen(QUEUE_LEN)];
    // Told a MAC, be it the one that it has, the pod's kernel forgets its gateway's and asks again at once. That is what it has to do
    // where nobody had its interface open: what it asked meanwhile was lost, and it would wait a second. Where somebody had, it
    // must not: of what it sends until it has its answer it keeps some hundred packets.
    let forgets = is_old && !was_open;
    changes.extend(plan.mac.or(mac).filter(|wanted| forgets || mac != Some(*wanted)).map(LinkChange::Mac));
    netlink.set_link(index, &changes)?;
    if interface.offloads.has_tso() {
        // Kernels before 3.10 do not know it: then super-frames are of 64 KiB, and still fit a slot.
        unless_unsupported(netlink.set_link(index, &[LinkChange::GsoMaxSize(GSO_MAX_SIZE)]))?;
    }
    set_addresses(&mut netlink, index, plan)?;
    let ipv6 = match &ipv6_addresses(plan)[..] {
        [] => ipv6::clear(&mut netlink, index).map_err(Ipv6Error::from),
        addresses => ipv6::set(&mut netlink, name, addresses),
    };
    Ok(MadeTap { interface, link: netlink.link(index)?, is_old, ipv6 })
}

/// The interface, and whether it is from an earlier daemon.
fn open_tap(
    netlink: &mut Netlink,
    plan: &EndpointPlan,
    queues: u16,
    held: Option<Vec<OwnedFd>>,
) -> Result<(Interface, bool), AttachError> {
    let name = plan.interface.as_str();
    if let Some(Ok(interface)) = held.map(|held| tun::adopt(name, held)) {
        return Ok((interface, true));
    }
    let found = netlink.link(name).ok();
    let ours = found.filter(|link| matches!(Mark::of(link), Some(Mark::Made { .. })));
    if let Some(link) = ours {
        match tun::reopen(name, Layer::Tap, queues) {
            Err(error) if error.is_other_kind() => netlink.delete_link(link.index)?,
            other => return Ok((other?, true)),
        }
    }
    Ok((tun::open(name, Layer::Tap, queues)?, false))
}

/// The plan's addresses of IPv4 and no others.
fn set_addresses(netlink: &mut Netlink, dev: LinkIndex, plan: &EndpointPlan) -> Result<(), NetlinkError> {
    let wanted: Vec<Prefix> = plan
        .addresses
        .iter()
        .filter(|address| address.is_ipv4())
        .map(|address| Prefix::from(*address))
        .collect();
    let found = netlink.addresses()?.into_iter().filter(|(link, _)| *link == dev);
    let found: Vec<Prefix> =
        found.map(|(_, address)| address).filter(|address| address.addr().is_ipv4()).collect();
    for address in found.iter().filter(|address| !wanted.contains(address)) {
        netlink.delete_address(dev, *address)?;
    }
    for address in wanted.iter().filter(|address| !found.contains(address)) {
        netlink.add_address(dev, *address)?;
    }
    Ok(())
}

fn ipv6_addresses(plan: &EndpointPlan) -> Vec<Ipv6Addr> {
    let addresses = plan.addresses.iter().filter_map(|address| match address {
        IpAddr::V6(address) => Some(*address),
        IpAddr::V4(_) => None,
    });
    addresses.collect()
}

/// Runs inside the workload's namespace: up, and the routes that Calico's CNI plugin gives a pod of IPv4.
fn raise_tap(plan: &EndpointPlan, is_old: bool) -> Result<(), AttachError> {
    let mut netlink = Netlink::open()?;
    let name = plan.interface.as_str();
    netlink.set_link(name, &[LinkChange::Up])?;
    if plan.addresses.iter().all(IpAddr::is_ipv6) {
        return Ok(());
    }
    let dev = Some(netlink.link(name)?.index);
    let via = Some(Ipv4Addr::GATEWAY.into());
    for route in [
        Route { dev, scope: Scope::Link, ..Route::to(host(Ipv4Addr::GATEWAY)) },
        Route { dev, via, ..Route::default_of(Family::V4) },
    ] {
        match netlink.add_route(&route) {
            Err(error) if is_old && error.kind == ErrorKind::Exists => {}
            other => other?,
        }
    }
    Ok(())
}

fn attach_veth(
    id: EndpointId,
    plan: &EndpointPlan,
    mtu: u16,
    site: Site<'_>,
) -> Result<Attached, AttachError> {
    let workers = site.workers;
    let mut netlink = Netlink::open()?;
    let name = plan.interface.as_str();
    let link = netlink.link(name)?;
    let found = bytes(link.mtu);
    let (before, given) = match Mark::of(&link) {
        Some(Mark::Serves { mac, given, set, .. }) => {
            // What margay did not set somebody else chose since.
            let given = if found == set { given } else { found };
            (Link { mac: Some(mac), ..link.clone() }, given)
        }
        _ => (link.clone(), found),
    };
    // A remark of somebody else's stays, and then nothing can be noted.
    let is_marked = link.alias.is_none() || Mark::of(&link).is_some();
    let how = format!("veth host end {name}, packet socket");
    let socket = Arc::new(open_host_end(&mut netlink, &link, &site)?);
    let neighbor = match (plan.mac, site.legacy.macs.get(&plan.name)) {
        (Some(mac), _) => Neighbor::fixed(mac),
        (None, Some(mac)) => Neighbor::learned(*mac),
        (None, None) => Neighbor::unknown(),
    };
    for index in 0..workers.count() {
        let port = PacketPort::new(Arc::clone(&socket));
        let receives = index == id.0 as usize % workers.count();
        workers.attach(index, id.into(), Box::new(port), receives, Some(Arc::clone(&neighbor)));
    }
    let kind = Kind::Veth { before, netns: plan.netns.clone(), is_marked, socket };
    let mtu = Mtu { computed: mtu, given: Some(given), current: found };
    let mut attached = Attached { id, plan: plan.clone(), how, kind, mtu, neighbor, without_ipv6: None };
    attached.mark_veth(found);
    // Where it cannot be set it stays, and what is too large is told to the workload packet by packet.
    if let Err(error) = attached.lower_mtu().and_then(|()| attached.raise_mtu()) {
        tracing::warn!(endpoint = %plan.name, %error, "the MTU could not be set");
    }
    Ok(attached)
}

/// Takes the host end out of the host's hands: another MAC, no ARP, no address of IPv6; then opens the socket.
fn open_host_end(netlink: &mut Netlink, link: &Link, site: &Site<'_>) -> Result<Socket, AttachError> {
    netlink.set_link(link.index, &[LinkChange::Mac(HOST_END_MAC), LinkChange::NoArp])?;
    // Nobody in the host answers for it to the workload's neighbour discovery.
    ipv6::clear(netlink, link.index)?;
    let held = site.legacy.descriptors.copies(&veth_name(link)).and_then(|mut held| held.pop());
    match held {
        Some(held) => Ok(held.into()),
        None => socket::packet(link.index.0, Seen::All, &Filter::untagged())
            .map_err(|error| AttachError::Socket(link.name.clone(), error)),
    }
}

/// What a veth's descriptor is called.
fn veth_name(host_end: &Link) -> String {
    format!("veth {} {}", host_end.index.0, host_end.name)
}

impl Attached {
    /// Lets the workload send, and the interface outlast this process. Called when the FIB has the endpoint's route: its
    /// first packet is not lost.
    ///
    /// # Errors
    /// The namespace or the interface is gone, or has routes of its own.
    pub(super) fn raise(&mut self) -> Result<(), AttachError> {
        match &self.kind {
            Kind::Tap(tap) => {
                Netns::open(&tap.path)?.run(|| raise_tap(&self.plan, tap.is_old))??;
                if let (true, Some(queue)) = (tap.is_marked, tap.queues.first())
                    && let Err(error) = tun::set_persistent(queue, true)
                {
                    tracing::warn!(endpoint = %self.plan.name, %error, "the interface will go when the daemon ends");
                }
                if self.without_ipv6.is_none() {
                    self.set_ipv6()?;
                }
                Ok(())
            }
            Kind::Veth { before, .. } => Ok(Netlink::open()?.set_link(before.index, &[LinkChange::Up])?),
        }
    }

    /// Takes the endpoint from the workers and removes what margay made; a veth is left as it was found.
    /// What has gone already is no error.
    pub(super) fn detach(self, workers: &Workers) {
        if let Kind::Tap(Tap { queues, .. }) = &self.kind {
            // It goes with its last queue, wherever its namespace is.
            queues.iter().for_each(|queue| drop(tun::set_persistent(queue, false)));
        }
        workers.detach(PortId::Endpoint(self.id));
        self.restore();
    }

    /// What another daemon needs to go on with it.
    pub(super) fn descriptors(&self) -> (String, Vec<BorrowedFd<'_>>) {
        match &self.kind {
            Kind::Tap(Tap { namespace, queues, .. }) => {
                let name = tap_name(&self.plan, *namespace, queues.len());
                (name, queues.iter().map(|queue| queue.as_fd()).collect())
            }
            Kind::Veth { before, socket, .. } => (veth_name(before), vec![socket.as_fd()]),
        }
    }

    /// The workload's MAC, if it is known.
    pub(super) fn mac(&self) -> Option<MacAddr> {
        self.neighbor.mac()
    }

    /// By what path its namespace is found, where it is by one.
    pub(super) fn path(&self) -> Option<&Path> {
        match &self.kind {
            Kind::Tap(tap) => Some(&tap.path),
            Kind::Veth { .. } => None,
        }
    }

    /// Whether it is the TAP `link` of the namespace with this number.
    pub(super) fn is_tap(&self, netns: NetnsId, link: LinkIndex) -> bool {
        matches!(&self.kind, Kind::Tap(tap) if tap.at == (Some(netns), link))
    }

    fn is_at(&self, place: (u64, u64), interface: &str) -> bool {
        matches!(&self.kind, Kind::Tap(tap) if tap.namespace == place && self.plan.interface == interface)
    }

    /// Whether the workload's namespace is no longer where it was, or its host end's index not one that
    /// `is_there`.
    pub(super) fn is_orphan(&self, is_there: impl FnOnce(u32) -> bool) -> bool {
        match &self.kind {
            Kind::Tap(Tap { path, namespace, .. }) => {
                !fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == *namespace)
            }
            Kind::Veth { before, .. } => !is_there(before.index.0),
        }
    }

    /// IP MTU of the interface as the FIB is to have it, bytes: never more than the interface has, and less before it
    /// is lowered.
    pub(super) fn mtu(&self) -> u16 {
        match &self.kind {
            Kind::Veth { netns: None, .. } => self.mtu.current,
            _ => self.mtu.wanted().min(self.mtu.current),
        }
    }

    /// Notes what the underlay lets the MTU be, bytes.
    pub(super) fn want_mtu(&mut self, computed: u16) {
        self.mtu.computed = computed;
    }

    /// Looks what MTU a veth has; true when somebody has changed it. Nobody delivers more to a veth than that, while a
    /// TAP takes whatever comes.
    pub(super) fn find_mtu(&mut self) -> bool {
        let Kind::Veth { before, .. } = &self.kind else { return false };
        let link = Netlink::open().and_then(|mut netlink| netlink.link(before.index));
        let Some(found) = link.ok().map(|link| bytes(link.mtu)) else { return false };
        let is_other = found != self.mtu.current;
        self.note_mtu(found);
        is_other
    }

    /// Raises the MTU to what it is to be, if that is more: before the FIB says so.
    ///
    /// # Errors
    /// The namespace or the interface is gone.
    pub(super) fn raise_mtu(&mut self) -> Result<(), AttachError> {
        if self.mtu.wanted() > self.mtu.current { self.set_mtu() } else { Ok(()) }
    }

    /// Lowers the MTU to what it is to be, if that is less: after the FIB has said so.
    ///
    /// # Errors
    /// As [`Self::raise_mtu`].
    pub(super) fn lower_mtu(&mut self) -> Result<(), AttachError> {
        if self.mtu.wanted() < self.mtu.current { self.set_mtu() } else { Ok(()) }
    }

    fn set_mtu(&mut self) -> Result<(), AttachError> {
        match &self.kind {
            Kind::Tap(tap) => {
                let mut netlink = Netns::open(&tap.path)?.netlink()?;
                let link = netlink.link(self.plan.interface.as_str())?;
                self.note_mtu(bytes(link.mtu));
                let wanted = self.mtu.wanted();
                netlink.set_link(link.index, &[LinkChange::Mtu(wanted.into())])?;
                let least = self.mtu.current.min(wanted);
                self.mtu.current = wanted;
                // An interface that is too narrow for it loses all that it had of IPv6.
                if least < ipv6::MIN_MTU {
                    self.set_ipv6()?;
                }
            }
            Kind::Veth { netns: None, .. } => {}
            Kind::Veth { before, netns: Some(netns), .. } => {
                let wanted = self.mtu.wanted();
                // First, as what margay set must never be taken for what somebody chose.
                self.mark_veth(wanted);
                set_veth_mtu(before, netns, wanted)?;
                self.mtu.current = wanted;
            }
        }
        Ok(())
    }

    /// Why it has no IPv6 though the workload has an address of it.
    pub(super) fn without_ipv6(&self) -> Option<&str> {
        self.without_ipv6.as_deref()
    }

    /// Tries again to give the workload IPv6, if it has none and should.
    ///
    /// # Errors
    /// The namespace is gone.
    pub(super) fn retry_ipv6(&mut self) -> Result<(), AttachError> {
        if self.without_ipv6.is_some() { self.set_ipv6() } else { Ok(()) }
    }

    /// The workload's addresses of IPv6, and its default route.
    fn set_ipv6(&mut self) -> Result<(), AttachError> {
        let (Kind::Tap(tap), addresses) = (&self.kind, ipv6_addresses(&self.plan)) else { return Ok(()) };
        if addresses.is_empty() {
            return Ok(());
        }
        let name = self.plan.interface.as_str();
        let set = || {
            let mut netlink = Netlink::open()?;
            ipv6::set(&mut netlink, name, &addresses)?;
            let dev = netlink.link(name)?.index;
            ipv6::add_default_route(&mut netlink, dev)
        };
        let done = Netns::open(&tap.path)?.run(set)?;
        self.note_ipv6(done);
        Ok(())
    }

    fn note_ipv6(&mut self, done: Result<(), Ipv6Error>) {
        let without = done.err().map(|error| error.to_string());
        if without != self.without_ipv6 {
            match &without {
                Some(reason) => {
                    tracing::warn!(endpoint = %self.plan.name, reason, "the workload has no IPv6, will be tried again");
                }
                None => tracing::info!(endpoint = %self.plan.name, "the workload has IPv6"),
            }
        }
        self.without_ipv6 = without;
    }

    /// Notes on a veth what it was, and the MTU that margay gives it.
    fn mark_veth(&self, set: u16) {
        let Kind::Veth { before, netns, is_marked: true, .. } = &self.kind else { return };
        let (Some(mac), Some(given)) = (before.mac, self.mtu.given) else { return };
        let mark = Mark::Serves { mac, given, set, netns: netns.clone() };
        let mark = [LinkChange::Alias(mark.to_string())];
        if let Err(error) = Netlink::open().and_then(|mut netlink| netlink.set_link(before.index, &mark)) {
            tracing::debug!(endpoint = %self.plan.name, %error, "what the veth was could not be noted");
        }
    }

    /// What is not what margay has set somebody else chose.
    fn note_mtu(&mut self, found: u16) {
        if found != self.mtu.current {
            (self.mtu.given, self.mtu.current) = (Some(found), found);
        }
    }
}

/// Sets the MTU of both ends. A veth drops what is larger than the MTU of the end that it reaches, so the larger of the
/// two is never the sender's: the workload's end is lowered first and raised last.
pub(super) fn set_veth_mtu(host_end: &Link, netns: &Path, mtu: u16) -> Result<(), AttachError> {
    let change = [LinkChange::Mtu(mtu.into())];
    let mut inside = Netns::open(netns)?.netlink()?;
    let mut outside = Netlink::open()?;
    let links = inside.links()?;
    let is_peer = |link: &&Link| link.link == Some(host_end.index) && Some(link.index) == host_end.link;
    let peer = links.iter().find(is_peer).ok_or_else(|| AttachError::NoPeer(host_end.name.clone()))?;
    if u32::from(mtu) < peer.mtu {
        inside.set_link(peer.index, &change)?;
        outside.set_link(host_end.index, &change)?;
    } else {
        outside.set_link(host_end.index, &change)?;
        inside.set_link(peer.index, &change)?;
    }
    Ok(())
}

impl Attached {
    fn restore(&self) {
        let Kind::Veth { before, netns, is_marked, .. } = &self.kind else { return };
        let mut restored = Netlink::open()
            .and_then(|mut netlink| restore_host_end(&mut netlink, before.index, before.mac))
            .map_err(AttachError::from);
        if let (Some(netns), Some(given)) = (netns, self.mtu.given)
            && self.mtu.current != given
        {
            restored = restored.and_then(|()| set_veth_mtu(before, netns, given));
        }
        if *is_marked {
            let unmarked = [LinkChange::Alias(String::new())];
            restored = restored.and_then(|()| Ok(Netlink::open()?.set_link(before.index, &unmarked)?));
        }
        let is_gone = |error: &AttachError| matches!(error, AttachError::Netlink(error) if error.kind == ErrorKind::NoDevice);
        if let Err(error) = restored
            && !is_gone(&error)
        {
            tracing::warn!(endpoint = %self.plan.name, %error, "the veth could not be restored");
        }
    }
}

/// Gives the host end of a veth back its MAC and what the kernel gives every interface.
///
/// # Errors
/// It is gone.
pub(super) fn restore_host_end(
    netlink: &mut Netlink,
    dev: LinkIndex,
    mac: Option<MacAddr>,
) -> Result<(), NetlinkError> {
    let mut changes = vec![LinkChange::Arp];
    changes.extend(mac.map(LinkChange::Mac));
    netlink.set_link(dev, &changes)?;
    ipv6::restore(netlink, dev, mac);
    Ok(())
}

fn bytes(mtu: u32) -> u16 {
    u16::try_from(mtu).unwrap_or(u16::MAX)
}

fn unless_unsupported(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match result {
        Err(error) if matches!(error.kind, ErrorKind::Unsupported | ErrorKind::Other) => Ok(()),
        other => other,
    }
}

fn host(address: Ipv4Addr) -> Prefix {
    Prefix::from(IpAddr::V4(address))
}
