//! The straight line: what happens to one frame, from the port it came in by to a verdict.
//!
//! Four ways in ([`Engine::from_workload`], [`Engine::from_tunnel`], [`Engine::from_underlay`],
//! [`Engine::from_host`]), one way through (`forward`). Each line is a guard; `?` is a
//! drop with its reason.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::antispoof;
use super::neighbor::{Neighbors, Resolution};
use super::packet::{self, Packet};
use super::{arp, decap, encap, mss, ndp};
use crate::buf::{Frame, Offload, Pool};
use crate::fib::{Action, Endpoint, EndpointId, Fib, TunnelId};
use crate::slowpath::{icmp::Control, probe};
use crate::verdict::{Anomaly, DropReason, PuntReason};
use crate::wire::ecn::Ecn;
use crate::wire::ethernet::{self, EtherType, Ethernet};
use crate::wire::ip::View;
use crate::wire::{Family, MacAddr, Protocol, ipv6};

/// What the engine decided for a frame. The frame's bytes are ready for the port that the verdict names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// An Ethernet frame for a workload.
    Workload(EndpointId),
    /// An Ethernet frame back to the endpoint that it came from: an ARP reply or a neighbour advertisement.
    Reply(EndpointId),
    /// An outer IPv4 packet for the raw socket, to `frame.peer`.
    Ipip,
    /// A VXLAN header and what follows it, for the UDP socket of this underlay, to `frame.peer`.
    Vxlan(Family),
    /// The packet itself, to `frame.peer` as next hop.
    Direct,
    /// An IP packet for this node's kernel.
    Host,
    /// Leaves the fast path: the frame is the IP packet as it was received, but for
    /// [`PuntReason::NeighborUnresolved`]: then it is ready but for the Ethernet header.
    Punt(PuntReason),
}

/// Who handed a packet to the vRouter: ICMP errors about it are limited by this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A workload of this node.
    Workload(EndpointId),
    /// A peer, through a tunnel.
    Peer(IpAddr),
    /// The underlay, without encapsulation.
    Underlay,
    /// This node's kernel.
    Host,
}

/// What the engine reads and never writes.
#[derive(Debug, Clone, Copy)]
pub struct Tables<'a> {
    /// The snapshot of this turn.
    pub fib: &'a Fib,
    /// MACs of the workloads.
    pub neighbors: &'a Neighbors,
}

/// One worker's forwarding state.
#[derive(Debug)]
pub struct Engine {
    ids: encap::OuterIds,
    noted: Option<Noted>,
}

/// Anomalies since [`Engine::noted`] was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noted {
    /// How many of each.
    pub counts: [u64; Anomaly::COUNT],
    /// The last one, and the peer that sent it.
    pub last: (Anomaly, IpAddr),
}

impl Engine {
    /// The engine of worker `index` of `workers`.
    pub fn new(index: usize, workers: usize) -> Self {
        Engine { ids: encap::OuterIds::new(index, workers), noted: None }
    }

    /// What was noted since the last call; nearly always nothing.
    #[inline]
    pub fn noted(&mut self) -> Option<Noted> {
        self.noted.take()
    }

    #[cold]
    fn note(&mut self, anomaly: Anomaly, peer: IpAddr) {
        let last = (anomaly, peer);
        let noted = self.noted.get_or_insert(Noted { counts: [0; Anomaly::COUNT], last });
        noted.counts[anomaly.index()] += 1;
        noted.last = last;
    }

    /// A frame that the workload behind `endpoint` sent.
    #[inline]
    pub fn from_workload(
        &mut self,
        tables: Tables<'_>,
        endpoint: EndpointId,
        pool: &mut Pool,
        frame: &mut Frame,
    ) -> Result<Verdict, DropReason> {
        let known = tables.fib.endpoint(endpoint).ok_or(DropReason::EndpointGone)?;
        let ethernet = Ethernet::parse(pool.bytes(frame))?;
        match ethernet.ethertype() {
            EtherType::IPV4 => self.packet_from_workload::<Ipv4Addr>(tables, (endpoint, known), pool, frame),
            EtherType::IPV6 if ndp::is_of_the_link(ethernet.payload()) => {
                ndp::answer(pool, frame, endpoint, known, tables.neighbors)?;
                Ok(reply(frame, endpoint))
            }
            EtherType::IPV6 => self.packet_from_workload::<Ipv6Addr>(tables, (endpoint, known), pool, frame),
            EtherType::ARP => {
                arp::answer(pool, frame, endpoint, known, tables.neighbors)?;
                Ok(reply(frame, endpoint))
            }
            _ => Err(DropReason::EtherTypeUnsupported),
        }
    }

    #[inline(always)]
    fn packet_from_workload<A: Control>(
        &mut self,
        tables: Tables<'_>,
        (endpoint, known): (EndpointId, &Endpoint),
        pool: &mut Pool,
        frame: &mut Frame,
    ) -> Result<Verdict, DropReason> {
        let ethernet = Ethernet::parse(pool.bytes(frame))?;
        if ethernet.dst() != MacAddr::GATEWAY {
            return Err(match ethernet.dst().is_multicast() {
                true => DropReason::FrameMulticast,
                false => DropReason::FrameNotForGateway,
            });
        }
        let ip = A::View::parse(ethernet.payload())?;
        if !known.owns(ip.src()) && !antispoof::may_spoof(known, ip.src()) {
            return Err(DropReason::SourceNotOwned);
        }
        if let Some(tunnel) = tunnel_of(tables.fib, &ip) {
            antispoof::tunnel_from_workload(tables.fib, tunnel)?;
        }
        check_offload(&ip, frame)?;
        tables.neighbors.learn(endpoint, ethernet.src());
        let packet: Packet<A> = Packet::of(&ip);

        frame.strip(ethernet::HEADER_LEN);
        frame.truncate(usize::from(packet.len));
        self.forward(tables, pool, frame, packet, Way::to(tables.fib, packet.dst))
    }

    /// A packet that this node's kernel sent to the host interface.
    #[inline]
    pub fn from_host(
        &mut self,
        tables: Tables<'_>,
        pool: &mut Pool,
        frame: &mut Frame,
    ) -> Result<Verdict, DropReason> {
        match Family::of_packet(pool.bytes(frame)) {
            Some(Family::V6) => self.packet_from_host::<Ipv6Addr>(tables, pool, frame),
            _ => self.packet_from_host::<Ipv4Addr>(tables, pool, frame),
        }
    }

    #[inline(always)]
    fn packet_from_host<A: Control>(
        &mut self,
        tables: Tables<'_>,
        pool: &mut Pool,
        frame: &mut Frame,
    ) -> Result<Verdict, DropReason> {
        let ip = A::View::parse(pool.bytes(frame))?;
        check_offload(&ip, frame)?;
        let packet: Packet<A> = Packet::of(&ip);
        if packet.src.is_martian() {
            return Err(DropReason::SourceMartian);
        }

        frame.truncate(usize::from(packet.len));
        match tables.fib.lookup(packet.dst) {
            // RFC 2003 3.2: from the tunnel's far end and back into the tunnel is a loop.
            Action::Tunnel(id) if tables.fib.tunnel(id).remote == packet.src.into() => {
                Err(DropReason::TransitRefused)
            }
            // The kernel asked margay because it had no better route: sending it back would loop.
            Action::Host => Ok(Verdict::Punt(PuntReason::NoRoute)),
            action => {
                if let Some(reason) = undeliverable(tables.fib, &packet, action)? {
                    return Ok(Verdict::Punt(reason));
                }
                if exceeds(mtu::<A>(tables.fib, action), &packet, pool, frame) {
                    return Ok(Verdict::Punt(PuntReason::TooBig));
                }
                self.carry(tables, pool, frame, packet, action)
            }
        }
    }

    /// An outer packet from a tunnel socket; `frame.peer` is its source.
    #[inline]
    pub fn from_tunnel(
        &mut self,
        tables: Tables<'_>,
        tunnel: decap::Kind,
        pool: &mut Pool,
        frame: &mut Frame,
    ) -> Result<Verdict, DropReason> {
        let peer = frame.peer;
        let blame = |reason| antispoof::blame(tables.fib, peer, reason);
        let (family, outer_ecn) = decap::strip(tables.fib, tunnel, pool, frame).map_err(blame)?;
        match family {
            Family::V4 => self.packet_from_tunnel::<Ipv4Addr>(tables, outer_ecn, pool, frame),
            Family::V6 => self.packet_from_tunnel::<Ipv6Addr>(tables, outer_ecn, pool, frame),
        }
    }

    #[inline(always)]
    fn packet_from_tunnel<A: Control>(
        &mut self,
        tables: Tables<'_>,
        outer_ecn: Ecn,
        pool: &mut Pool,
        frame: &mut Frame,
    ) -> Result<Verdict, DropReason> {
        let peer = frame.peer;
        let blame = |reason| antispoof::blame(tables.fib, peer, reason);
        let decap::Decapsulated { packet: inner, anomaly } =
            decap::inner::<A>(outer_ecn, pool, frame).map_err(blame)?;
        frame.peer_index = antispoof::inner_source(tables.fib, inner.src, peer).map_err(blame)?.0;
        if let Some(anomaly) = anomaly {
            self.note(anomaly, peer);
        }
        let way = Way::to(tables.fib, inner.dst);
        if inner.len > way.mtu {
            frame.offload.segments = decap::recognise_segments::<A>(pool.bytes(frame), way.mtu);
        }
        self.arrive(tables, pool, frame, inner, way)
    }

    /// A packet without encapsulation that reached the underlay interface.
    #[inline]
    pub fn from_underlay(
        &mut self,
        tables: Tables<'_>,
        pool: &mut Pool,
        frame: &mut Frame,
    ) -> Result<Verdict, DropReason> {
        match Ethernet::parse(pool.bytes(frame))?.ethertype() {
            EtherType::IPV4 => self.packet_from_underlay::<Ipv4Addr>(tables, pool, frame),
            EtherType::IPV6 => self.packet_from_underlay::<Ipv6Addr>(tables, pool, frame),
            _ => Err(DropReason::EtherTypeUnsupported),
        }
    }

    #[inline(always)]
    fn packet_from_underlay<A: Control>(
        &mut self,
        tables: Tables<'_>,
        pool: &mut Pool,
        frame: &mut Frame,
    ) -> Result<Verdict, DropReason> {
        let ethernet = Ethernet::parse(pool.bytes(frame))?;
        let ip = A::View::parse(ethernet.payload())?;
        let peer = antispoof::direct_source(tables.fib, ip.src())?;
        check_offload(&ip, frame)?;
        let packet: Packet<A> = Packet::of(&ip);

        frame.peer_index = peer.map_or(u32::MAX, |peer| peer.0);
        frame.strip(ethernet::HEADER_LEN);
        frame.truncate(usize::from(packet.len));
        self.arrive(tables, pool, frame, packet, Way::to(tables.fib, packet.dst))
    }

    /// A packet that the slow path made: routed, not forwarded, so its TTL stays.
    ///
    /// # Errors
    /// [`DropReason::IcmpNotDue`] when there is no way to its destination.
    pub fn originate(
        &mut self,
        tables: Tables<'_>,
        pool: &mut Pool,
        frame: &mut Frame,
    ) -> Result<Verdict, DropReason> {
        match Family::of_packet(pool.bytes(frame)) {
            Some(Family::V6) => self.originate_packet::<Ipv6Addr>(tables, pool, frame),
            _ => self.originate_packet::<Ipv4Addr>(tables, pool, frame),
        }
    }

    fn originate_packet<A: Control>(
        &mut self,
        tables: Tables<'_>,
        pool: &mut Pool,
        frame: &mut Frame,
    ) -> Result<Verdict, DropReason> {
        let packet: Packet<A> = Packet::parse(pool.bytes(frame))?;
        match tables.fib.lookup(packet.dst) {
            Action::NoRoute => Err(DropReason::IcmpNotDue),
            // The way back may be narrower than the one that its cause came by.
            action if exceeds(mtu::<A>(tables.fib, action), &packet, pool, frame) => {
                Ok(Verdict::Punt(PuntReason::TooBig))
            }
            action => self.carry(tables, pool, frame, packet, action),
        }
    }

    /// A packet that the slow path made for a tunnel, of whatever length: it asks what the path takes.
    ///
    /// # Errors
    /// It is no packet.
    pub fn probe(
        &mut self,
        tables: Tables<'_>,
        tunnel: TunnelId,
        pool: &mut Pool,
        frame: &mut Frame,
    ) -> Result<Verdict, DropReason> {
        let action = Action::Tunnel(tunnel);
        match Family::of_packet(pool.bytes(frame)) {
            Some(Family::V6) => {
                let packet: Packet<Ipv6Addr> = Packet::parse(pool.bytes(frame))?;
                self.carry(tables, pool, frame, packet, action)
            }
            _ => {
                let packet: Packet<Ipv4Addr> = Packet::parse(pool.bytes(frame))?;
                self.carry(tables, pool, frame, packet, action)
            }
        }
    }

    /// What came from the underlay stays on this node, or goes nowhere: no transit, so no loops.
    #[inline(always)]
    fn arrive<A: Control>(
        &mut self,
        tables: Tables<'_>,
        pool: &mut Pool,
        frame: &mut Frame,
        packet: Packet<A>,
        way: Way,
    ) -> Result<Verdict, DropReason> {
        match way.action {
            // RFC 2003 3.1: also where the way ends.
            Action::Host if packet.ttl == 0 => Err(DropReason::TtlZero),
            // Asked for by margay itself, host interface or not.
            Action::Host | Action::NoRoute
                if probe::is_answer(&packet, pool.bytes(frame)) && tables.fib.is_local(packet.dst) =>
            {
                Ok(Verdict::Punt(PuntReason::ProbeAnswer))
            }
            // The end of the way: no MTU lies behind it.
            Action::Host if tables.fib.is_local(packet.dst) => {
                match tunnel_of(tables.fib, &A::View::parse(pool.bytes(frame))?) {
                    Some(_) => Err(DropReason::TunnelNested),
                    None => Ok(Verdict::Host),
                }
            }
            // The gateway's address is this link's: nobody but a workload may ask for it (RFC 3927 7).
            Action::Host if packet.dst == A::GATEWAY => Err(DropReason::DestinationMartian),
            Action::Blackhole => Err(DropReason::Blackhole),
            Action::Tunnel(_) | Action::Direct(_) => Err(DropReason::TransitRefused),
            Action::NoRoute if !tables.fib.is_local(packet.dst) => Err(DropReason::TransitRefused),
            Action::Deliver(_) | Action::Host | Action::NoRoute => {
                self.forward(tables, pool, frame, packet, way)
            }
        }
    }

    /// Checks destination, TTL and MTU, counts the hop, and carries out what the FIB says.
    ///
    /// A node is one hop (RFC 1812 5.3.1), and margay and the node's kernel are one node: what goes to the
    /// kernel is counted there, if it goes on, and what comes from it has been.
    #[inline(always)]
    fn forward<A: Control>(
        &mut self,
        tables: Tables<'_>,
        pool: &mut Pool,
        frame: &mut Frame,
        mut packet: Packet<A>,
        Way { action, mtu }: Way,
    ) -> Result<Verdict, DropReason> {
        if let Some(reason) = undeliverable(tables.fib, &packet, action)? {
            return Ok(Verdict::Punt(reason));
        }
        if packet.ttl == 1 && action != Action::Host {
            return Ok(Verdict::Punt(PuntReason::TtlExpired));
        }
        if exceeds(mtu, &packet, pool, frame) {
            return Ok(Verdict::Punt(PuntReason::TooBig));
        }
        if action != Action::Host {
            A::decrement_hop_limit(pool.bytes_mut(frame));
            packet.ttl -= 1;
        }
        self.carry(tables, pool, frame, packet, action)
    }

    /// Carries out an action: the frame, an IP packet, becomes what the port sends.
    #[inline(always)]
    fn carry<A: Control>(
        &mut self,
        tables: Tables<'_>,
        pool: &mut Pool,
        frame: &mut Frame,
        mut packet: Packet<A>,
        action: Action,
    ) -> Result<Verdict, DropReason> {
        if tables.fib.clamps_any() {
            packet = mss::clamp(tables.fib, pool, frame, packet, action);
        }
        match action {
            Action::Deliver(id) => match tables.neighbors.resolve(id) {
                Resolution::Known(mac) => {
                    let header = pool.prepend(frame).ok_or(DropReason::OffloadMalformed)?;
                    ethernet::write(header, mac, MacAddr::GATEWAY, A::ETHERTYPE);
                    Ok(Verdict::Workload(id))
                }
                Resolution::Unknown => Ok(Verdict::Punt(PuntReason::NeighborUnresolved)),
                Resolution::Absent => Err(DropReason::EndpointGone),
            },
            Action::Tunnel(id) => {
                encap::encapsulate(tables.fib.tunnel(id), &mut self.ids, pool, frame, &packet)
            }
            Action::Direct(id) => {
                let adjacency = tables.fib.adjacency(id);
                frame.peer = adjacency.next_hop;
                frame.peer_index = adjacency.peer.0;
                Ok(Verdict::Direct)
            }
            Action::Host => Ok(Verdict::Host),
            Action::Blackhole => Err(DropReason::Blackhole),
            Action::NoRoute => Ok(Verdict::Punt(PuntReason::NoRoute)),
        }
    }
}

/// What was a question is its answer now: whole, whatever the asker's virtio-net header said of the question.
fn reply(frame: &mut Frame, endpoint: EndpointId) -> Verdict {
    frame.offload = Offload::default();
    Verdict::Reply(endpoint)
}

/// Where a packet goes, and the IP MTU of that, bytes.
#[derive(Debug, Clone, Copy)]
struct Way {
    action: Action,
    mtu: u16,
}

impl Way {
    #[inline(always)]
    fn to<A: Control>(fib: &Fib, destination: A) -> Way {
        let action = fib.lookup(destination);
        Way { action, mtu: mtu::<A>(fib, action) }
    }
}

/// IP MTU of what an action takes, bytes; `u16::MAX` where nothing is sent. What every link takes of IPv6 every way takes
/// (RFC 8200 5): a tunnel that is narrower is fragmented outside.
#[inline(always)]
pub fn mtu<A: Control>(fib: &Fib, action: Action) -> u16 {
    let mtu = match action {
        Action::Deliver(id) => fib.endpoint(id).map_or(u16::MAX, |endpoint| endpoint.mtu),
        Action::Tunnel(id) => fib.tunnel(id).mtu(),
        Action::Direct(id) => fib.adjacency(id).mtu,
        Action::Host => fib.node().host_mtu,
        Action::Blackhole | Action::NoRoute => u16::MAX,
    };
    match A::FAMILY {
        Family::V4 => mtu,
        Family::V6 => mtu.max(ipv6::MIN_MTU),
    }
}

/// What keeps a packet from its destination, whatever its TTL and length.
#[inline(always)]
fn undeliverable<A: Control>(
    fib: &Fib,
    packet: &Packet<A>,
    action: Action,
) -> Result<Option<PuntReason>, DropReason> {
    if packet.dst == A::GATEWAY {
        return Ok(Some(PuntReason::Gateway));
    }
    if packet.dst.is_martian() {
        return Err(DropReason::DestinationMartian);
    }
    if packet.ttl == 0 {
        return Err(DropReason::TtlZero);
    }
    if action == Action::NoRoute {
        // Without a host interface nothing but margay answers for the node.
        let reason = if fib.is_local(packet.dst) { PuntReason::NodeAddress } else { PuntReason::NoRoute };
        return Ok(Some(reason));
    }
    Ok(None)
}

/// True when what will stand on the wire is larger than `mtu`: of a super-frame, its segments.
#[inline(always)]
fn exceeds<A: Control>(mtu: u16, packet: &Packet<A>, pool: &Pool, frame: &Frame) -> bool {
    packet.len > mtu && !segments_fit::<A>(mtu, pool, frame)
}

#[cold]
fn segments_fit<A: Control>(mtu: u16, pool: &Pool, frame: &Frame) -> bool {
    let Some(segments) = frame.offload.segments else { return false };
    A::View::parse(pool.bytes(frame)).is_ok_and(|ip| packet::segment_len(&ip, segments) <= usize::from(mtu))
}

/// What a virtio-net header says must lie inside the packet that it describes.
#[inline]
fn check_offload<'a>(ip: &impl View<'a>, frame: &Frame) -> Result<(), DropReason> {
    if frame.offload.is_nothing() {
        return Ok(());
    }
    packet::check_offload(ip, frame.offload)
}

/// The tunnel that a packet would be taken for by a node that it reaches.
#[inline(always)]
fn tunnel_of<'a>(fib: &Fib, ip: &impl View<'a>) -> Option<decap::Kind> {
    if ip.protocol() == Protocol::IPIP {
        return Some(decap::Kind::Ipip);
    }
    // The port alone, not the length: of a first fragment, the datagram is longer than what is here. Port and
    // protocol at once, because both together hardly ever fit, while nobody can guess between TCP and UDP.
    let [_, _, high, low, ..] = *ip.payload() else { return None };
    let to = u32::from_be_bytes([0, ip.protocol().0, high, low]);
    let vxlan = u32::from(Protocol::UDP.0) << 16 | u32::from(fib.node().vxlan_port);
    (to == vxlan && !ip.is_later_fragment()).then_some(decap::Kind::Vxlan)
}
