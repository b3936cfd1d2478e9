//! Attaching endpoints: a TAP in the workload's namespace, or the host end of a veth.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use socket2::Socket;

use super::workers::Workers;
use crate::dataplane::antispoof::GATEWAY_ADDRESS;
use crate::dataplane::{Neighbor, PortId};
use crate::fib::EndpointId;
use crate::io::packet::PacketPort;
use crate::io::tap::TapPort;
use crate::lpm::Prefix;
use crate::rib::{Attach, EndpointPlan};
use crate::sys::filter::Filter;
use crate::sys::netlink::{ErrorKind, Family, Link, LinkChange, Netlink, NetlinkError, Route, Scope};
use crate::sys::netns::{Netns, NetnsError};
use crate::sys::socket::{self, Seen};
use crate::sys::tun::{self, Interface, Layer, TunError};
use crate::wire::MacAddr;

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
}

#[derive(Debug)]
enum Kind {
    /// Where its namespace is, and which one that is. An open TAP keeps its namespace alive, so the
    /// workload's end shows only in that its path leads nowhere, or to another namespace.
    Tap { path: PathBuf, namespace: (u64, u64) },
    /// The host end as it was found.
    Veth(Link),
}

/// Makes an endpoint's interface and gives its port to the workers: each can send, one receives each queue.
/// The workload cannot send before [`Attached::raise`].
///
/// # Errors
/// See [`AttachError`]; then nothing is left of it.
pub(super) fn attach(
    id: EndpointId,
    plan: &EndpointPlan,
    mtu: u16,
    workers: &Workers,
) -> Result<Attached, AttachError> {
    match plan.attach {
        Attach::Tap => attach_tap(id, plan, mtu, workers),
        Attach::Veth => attach_veth(id, plan, workers),
    }
}

fn attach_tap(
    id: EndpointId,
    plan: &EndpointPlan,
    mtu: u16,
    workers: &Workers,
) -> Result<Attached, AttachError> {
    let path = plan.netns.clone().ok_or(AttachError::NoNetns)?;
    let netns = Netns::open(&path)?;
    let kind = Kind::Tap { namespace: netns.id()?, path };
    // A worker receives one queue of an endpoint at most.
    let queues = plan.queues.min(workers.count() as u16);
    let (interface, mac) = netns.run(|| make_tap(plan, mtu, queues))??;

    let neighbor = match plan.mac {
        Some(mac) => Neighbor::fixed(mac),
        None => Neighbor::learned(mac),
    };
    let offloads = interface.offloads;
    let how = format!("TAP {}, {}, {} queue(s)", plan.interface, offloads.name(), interface.queues.len());
    let queues: Vec<_> = interface.queues.into_iter().map(Arc::new).collect();
    for index in 0..workers.count() {
        // The id's own worker and those after it receive a queue each; everyone sends by some queue.
        let position = (index + workers.count() - id.0 as usize % workers.count()) % workers.count();
        let file = Arc::clone(&queues[position % queues.len()]);
        let port = TapPort::new(file, Layer::Tap, offloads);
        workers.attach(index, id.into(), Box::new(port), position < queues.len(), neighbor.clone().into());
    }
    Ok(Attached { id, plan: plan.clone(), how, kind })
}

/// Runs inside the workload's namespace: everything but what lets the workload send.
fn make_tap(plan: &EndpointPlan, mtu: u16, queues: u16) -> Result<(Interface, MacAddr), AttachError> {
    let interface = tun::open(&plan.interface, Layer::Tap, queues)?;
    let mut netlink = Netlink::open()?;
    let name = plan.interface.as_str();
    let link = netlink.link(name)?;
    let mut changes = vec![LinkChange::Mtu(mtu.into()), LinkChange::TxQueueLen(QUEUE_LEN)];
    changes.extend(plan.mac.map(LinkChange::Mac));
    netlink.set_link(name, &changes)?;
    if interface.offloads.has_tso() {
        // Kernels before 3.10 do not know it: then super-frames are of 64 KiB, and still fit a slot.
        unless_unsupported(netlink.set_link(name, &[LinkChange::GsoMaxSize(GSO_MAX_SIZE)]))?;
    }
    // Where the kernel has no IPv6, there is no link-local address to do without.
    unless_unsupported(netlink.set_link(name, &[LinkChange::NoLinkLocal]))?;
    // An address of the other family would be one that nothing is routed to.
    for address in plan.addresses.iter().filter(|address| address.is_ipv4()) {
        netlink.add_address(link.index, Prefix::from(*address))?;
    }
    let mac = netlink.link(name)?.mac.unwrap_or(MacAddr([0; 6]));
    Ok((interface, mac))
}

/// Runs inside the workload's namespace: up, and the routes that Calico's CNI plugin gives a pod.
fn raise_tap(plan: &EndpointPlan) -> Result<(), AttachError> {
    let mut netlink = Netlink::open()?;
    let name = plan.interface.as_str();
    netlink.set_link(name, &[LinkChange::Up])?;
    let dev = Some(netlink.link(name)?.index);
    netlink.add_route(&Route { dev, scope: Scope::Link, ..Route::to(host(GATEWAY_ADDRESS)) })?;
    let via = Some(GATEWAY_ADDRESS.into());
    netlink.add_route(&Route { dev, via, ..Route::default_of(Family::V4) })?;
    Ok(())
}

fn attach_veth(id: EndpointId, plan: &EndpointPlan, workers: &Workers) -> Result<Attached, AttachError> {
    let mut netlink = Netlink::open()?;
    let name = plan.interface.as_str();
    let before = netlink.link(name)?;
    let kind = Kind::Veth(before.clone());
    let attached =
        Attached { id, plan: plan.clone(), how: format!("veth host end {name}, packet socket"), kind };
    let socket = Arc::new(open_host_end(&mut netlink, &before)?);
    let neighbor = plan.mac.map_or_else(Neighbor::unknown, Neighbor::fixed);
    for index in 0..workers.count() {
        let port = PacketPort::new(Arc::clone(&socket));
        let receives = index == id.0 as usize % workers.count();
        workers.attach(index, id.into(), Box::new(port), receives, Some(Arc::clone(&neighbor)));
    }
    Ok(attached)
}

/// Takes the host end out of the host's hands: another MAC, no ARP, no IPv6 address; then opens the socket.
fn open_host_end(netlink: &mut Netlink, link: &Link) -> Result<Socket, AttachError> {
    let name = link.name.as_str();
    netlink.set_link(link.index, &[LinkChange::Mac(HOST_END_MAC), LinkChange::NoArp])?;
    unless_unsupported(netlink.set_link(link.index, &[LinkChange::NoLinkLocal]))?;
    let socket = socket::packet(link.index.0, Seen::All, &Filter::untagged())
        .map_err(|error| AttachError::Socket(name.to_owned(), error))?;
    Ok(socket)
}

impl Attached {
    /// Lets the workload send. Called when the FIB has the endpoint's route: its first packet is not lost.
    ///
    /// # Errors
    /// The namespace or the interface is gone, or has routes of its own.
    pub(super) fn raise(&self) -> Result<(), AttachError> {
        match &self.kind {
            Kind::Tap { path, .. } => Netns::open(path)?.run(|| raise_tap(&self.plan))?,
            Kind::Veth(link) => Ok(Netlink::open()?.set_link(link.index, &[LinkChange::Up])?),
        }
    }

    /// Takes the endpoint from the workers and removes what margay made; a veth is left as it was found.
    /// What has gone already is no error.
    pub(super) fn detach(self, workers: &Workers) {
        workers.detach(PortId::Endpoint(self.id));
    }

    /// By what path its namespace is found, where it is by one.
    pub(super) fn path(&self) -> Option<&Path> {
        match &self.kind {
            Kind::Tap { path, .. } => Some(path),
            Kind::Veth(_) => None,
        }
    }

    /// Whether the workload's namespace is no longer where it was, or its host end's index not one that
    /// `is_there`.
    pub(super) fn is_orphan(&self, is_there: impl FnOnce(u32) -> bool) -> bool {
        match &self.kind {
            Kind::Tap { path, namespace } => {
                !fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == *namespace)
            }
            Kind::Veth(link) => !is_there(link.index.0),
        }
    }

    /// Sets the MTU of a TAP that is in use, bytes.
    ///
    /// # Errors
    /// The namespace or the interface is gone.
    pub(super) fn set_mtu(&self, mtu: u16) -> Result<(), AttachError> {
        if let Kind::Tap { path, .. } = &self.kind {
            let mut netlink = Netns::open(path)?.netlink()?;
            netlink.set_link(self.plan.interface.as_str(), &[LinkChange::Mtu(mtu.into())])?;
        }
        Ok(())
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let Kind::Veth(before) = &self.kind else { return };
        let mut changes = vec![LinkChange::Arp];
        changes.extend(before.mac.map(LinkChange::Mac));
        let restored = Netlink::open().and_then(|mut netlink| netlink.set_link(before.index, &changes));
        if let Err(error) = restored
            && error.kind != ErrorKind::NoDevice
        {
            tracing::warn!(endpoint = %self.plan.name, %error, "the veth could not be restored");
        }
    }
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
