//! What a node has to do with a packet, written down a second time: lists, linear searches, and nothing of the
//! engine's own code. Slow and plain, so that it can be believed.

use std::net::{IpAddr, Ipv4Addr};

use margay::buf::Offload;
use margay::dataplane::PortId;
use margay::fib::EndpointId;
use margay::io::memory::MemoryFrame;
use margay::wire::{Ecn, MacAddr};

use super::engine::bed::*;
use super::engine::packets::*;

pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The node's own addresses beside [`NODE`].
const TUNNELS: [Ipv4Addr; 2] = [TUNNEL_A, Ipv4Addr::new(10, 66, 0, 1)];
const HOST_MTU: usize = UNDERLAY_MTU as usize;

/// Where a prefix leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    Pod(usize),
    Ipip(Ipv4Addr),
    Vxlan(Ipv4Addr),
    Direct(Ipv4Addr),
    Host,
    Blackhole,
    Nowhere,
}

#[derive(Debug, Clone, Copy)]
pub struct Route {
    pub net: Ipv4Addr,
    pub len: u8,
    pub to: To,
}

pub fn covers(net: Ipv4Addr, len: u8, address: Ipv4Addr) -> bool {
    (0..u32::from(len)).all(|bit| {
        let of = |address: Ipv4Addr| address.to_bits() >> (31 - bit) & 1;
        of(net) == of(address)
    })
}

#[derive(Debug, Clone)]
pub struct Pod {
    pub addresses: Vec<Ipv4Addr>,
    /// Further sources that are allowed.
    pub spoofed: Vec<(Ipv4Addr, u8)>,
    /// The snapshot has it.
    pub served: bool,
    /// Its port is open.
    pub attached: bool,
    pub fixed: bool,
    pub mac: Option<MacAddr>,
}

impl Pod {
    fn may_spoof(&self, source: Ipv4Addr) -> bool {
        self.spoofed.iter().any(|(net, len)| covers(*net, *len, source)) && !is_martian(source)
    }
}

/// What must come out, or may.
#[derive(Debug, Clone)]
pub enum Wanted {
    Packet {
        to: To,
        ip: Ip,
        offload: Option<Offload>,
    },
    /// The packet in pieces of at most this size.
    Pieces {
        to: To,
        ip: Ip,
        mtu: usize,
    },
    /// The datagrams of a super-frame, each in pieces of at most this size.
    Datagrams {
        to: To,
        ip: Ip,
        mtu: usize,
    },
    /// An ICMP error about the packet, unless the rate limit or a rule forbids it; about a super-frame that became datagrams one
    /// for each.
    Error {
        to: To,
        about: Ip,
        head: [u8; 2],
        mtu: Option<u16>,
        is_each: bool,
    },
    /// Whatever answer the gateway's address or the node's gives to a ping.
    Answer {
        to: To,
        asked: Ip,
    },
    Reply(usize, MemoryFrame),
    Question(usize),
}

#[derive(Debug)]
struct Waiting {
    pod: usize,
    held: Vec<Wanted>,
    asked: u32,
    /// Milliseconds.
    again: u64,
}

#[derive(Debug)]
pub struct Model {
    pub pods: Vec<Pod>,
    pub routes: Vec<Route>,
    pub peers: Vec<Ipv4Addr>,
    pub may_tunnel: bool,
    /// Milliseconds.
    pub now: u64,
    waiting: Vec<Waiting>,
}

/// Where a packet came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Pod,
    Tunnel,
    Underlay,
    Host,
}

/// Why nothing comes out: the model does not say more.
struct Dropped;

impl Model {
    pub fn new(pods: Vec<Pod>, routes: Vec<Route>, peers: Vec<Ipv4Addr>) -> Self {
        Model { pods, routes, peers, may_tunnel: false, now: 0, waiting: Vec::new() }
    }

    /// The longest prefix of a route that is in force.
    pub fn route(&self, address: Ipv4Addr) -> To {
        let in_force = |route: &&Route| match route.to {
            To::Pod(pod) => self.pods[pod].served,
            To::Ipip(peer) | To::Vxlan(peer) | To::Direct(peer) => self.peers.contains(&peer),
            _ => true,
        };
        let best = self
            .routes
            .iter()
            .filter(in_force)
            .filter(|route| covers(route.net, route.len, address))
            .max_by_key(|route| route.len);
        best.map_or(To::Host, |route| route.to)
    }

    /// What comes out for one frame, and for what waits.
    pub fn step(&mut self, input: Option<(PortId, &MemoryFrame)>) -> Vec<Wanted> {
        let mut out = Vec::new();
        if let Some((port, frame)) = input {
            let _ = self.receive(port, frame, &mut out);
        }
        self.let_go(&mut out);
        out
    }

    fn receive(&mut self, port: PortId, frame: &MemoryFrame, out: &mut Vec<Wanted>) -> Result<(), Dropped> {
        let bytes = &frame.bytes[..];
        match port {
            PortId::Endpoint(EndpointId(id)) => self.of_pod(id as usize, frame, out),
            PortId::Ipip => {
                let outer = read(bytes).ok_or(Dropped)?;
                let is_whole = outer.fragment & (MF | 0x1fff) == 0;
                if outer.dst != NODE || outer.protocol != IPIP || !is_whole {
                    return Err(Dropped);
                }
                let ecn = Ecn::from_tos(outer.tos);
                self.of_tunnel(frame, ecn, read(&outer.payload), out)
            }
            PortId::Vxlan(_) => {
                let is_ours = bytes.len() >= 22 && bytes[0] & 8 != 0 && bytes[4..7] == [0, 0x10, 0];
                if !is_ours
                    || bytes[8..14] != VTEP_A.0
                    || bytes[14..20] == VTEP_A.0
                    || bytes[20..22] != [8, 0]
                {
                    return Err(Dropped);
                }
                self.of_tunnel(frame, frame.ecn, read(&bytes[22..]), out)
            }
            PortId::Underlay(_) => {
                let ip = read(ethernet_payload(bytes, [8, 0])?).ok_or(Dropped)?;
                let is_ours = match self.route(ip.src) {
                    To::Pod(_) | To::Blackhole => true,
                    To::Host => is_local(ip.src),
                    _ => false,
                };
                if is_martian(ip.src) || is_ours {
                    return Err(Dropped);
                }
                self.arrive(ip, From::Underlay, frame.offload, out)
            }
            PortId::Host => self.of_host(frame, out),
            PortId::Direct | PortId::Errors(_) => panic!("receives nothing"),
        }
    }

    fn of_pod(&mut self, id: usize, frame: &MemoryFrame, out: &mut Vec<Wanted>) -> Result<(), Dropped> {
        let (bytes, pod) = (&frame.bytes[..], &self.pods[id]);
        if !pod.served || bytes.len() < 14 {
            return Err(Dropped);
        }
        let source = MacAddr(bytes[6..12].try_into().expect("six"));
        if bytes[12..14] == [8, 6] {
            return self.arp(id, &bytes[14..], source, out);
        }
        let ip = read(ethernet_payload(bytes, [8, 0])?).ok_or(Dropped)?;
        if bytes[..6] != MacAddr::GATEWAY.0 || !(pod.addresses.contains(&ip.src) || pod.may_spoof(ip.src)) {
            return Err(Dropped);
        }
        if is_tunnel(&ip) && !self.may_tunnel {
            return Err(Dropped);
        }
        self.learn(id, source);
        self.forward(ip, From::Pod, frame.offload, out)
    }

    fn arp(&mut self, id: usize, arp: &[u8], source: MacAddr, out: &mut Vec<Wanted>) -> Result<(), Dropped> {
        let pod = &self.pods[id];
        if arp.len() < 28 || arp[..7] != [0, 1, 8, 0, 6, 4, 0] || ![1, 2].contains(&arp[7]) {
            return Err(Dropped);
        }
        let address = |at: usize| Ipv4Addr::new(arp[at], arp[at + 1], arp[at + 2], arp[at + 3]);
        let (op, sender, target) = (arp[7], address(14), address(24));
        let is_probe = op == 1 && sender == Ipv4Addr::UNSPECIFIED;
        let is_true = source.0 == arp[8..14] && source.0[0] & 1 == 0;
        let may_be = |address| pod.addresses.contains(&address) || pod.may_spoof(address);
        if !is_true || !(is_probe || may_be(sender)) {
            return Err(Dropped);
        }
        let is_own = may_be(target);
        if !is_probe {
            self.learn(id, source);
        }
        if op == 1 && !is_own {
            let reply = super::engine::packets::arp(source, 2, (MacAddr::GATEWAY, target), (source, sender));
            out.push(Wanted::Reply(id, reply));
        }
        Ok(())
    }

    fn learn(&mut self, id: usize, mac: MacAddr) {
        let pod = &mut self.pods[id];
        if !pod.fixed && mac.0[0] & 1 == 0 {
            pod.mac = Some(mac);
        }
    }

    fn of_tunnel(
        &mut self,
        frame: &MemoryFrame,
        outer: Ecn,
        inner: Option<Ip>,
        out: &mut Vec<Wanted>,
    ) -> Result<(), Dropped> {
        let mut ip = inner.ok_or(Dropped)?;
        // RFC 6040, figure 4: rows are the inner codepoint, columns the outer one, each in the order of its bits:
        // Not-ECT, ECT(1), ECT(0), CE.
        const FIGURE_4: [[Option<u8>; 4]; 4] = [
            [Some(0), Some(0), Some(0), None],
            [Some(1), Some(1), Some(1), Some(3)],
            [Some(2), Some(1), Some(2), Some(3)],
            [Some(3), Some(3), Some(3), Some(3)],
        ];
        let marked = FIGURE_4[usize::from(ip.tos & 3)][usize::from(outer.bits())].ok_or(Dropped)?;
        ip.tos = ip.tos & 0xfc | marked;
        let IpAddr::V4(peer) = frame.peer else { return Err(Dropped) };
        let owner = match self.route(ip.src) {
            To::Ipip(peer) | To::Vxlan(peer) | To::Direct(peer) => peer,
            To::Pod(_) | To::Blackhole => return Err(Dropped),
            To::Host if is_local(ip.src) => return Err(Dropped),
            To::Host | To::Nowhere => ip.src,
        };
        if is_martian(ip.src) || owner != peer || !self.peers.contains(&peer) {
            return Err(Dropped);
        }
        self.arrive(ip, From::Tunnel, Offload::default(), out)
    }

    fn arrive(&mut self, ip: Ip, from: From, offload: Offload, out: &mut Vec<Wanted>) -> Result<(), Dropped> {
        match self.route(ip.dst) {
            To::Host if ip.ttl == 0 || ip.dst == GATEWAY => Err(Dropped),
            To::Host if is_local(ip.dst) => {
                if is_tunnel(&ip) {
                    return Err(Dropped);
                }
                self.answer(&ip, out);
                self.send(To::Host, ip, None, out);
                Ok(())
            }
            To::Pod(_) | To::Host => self.forward(ip, from, offload, out),
            _ => Err(Dropped),
        }
    }

    fn of_host(&mut self, frame: &MemoryFrame, out: &mut Vec<Wanted>) -> Result<(), Dropped> {
        let ip = read(&frame.bytes).ok_or(Dropped)?;
        let to = self.route(ip.dst);
        let loops = matches!(to, To::Ipip(peer) | To::Vxlan(peer) if peer == ip.src);
        if is_martian(ip.src) || loops {
            return Err(Dropped);
        }
        if to == To::Host {
            self.error([3, 0], None, ip, out);
            return Ok(());
        }
        self.forward(ip, From::Host, frame.offload, out)
    }

    fn forward(
        &mut self,
        mut ip: Ip,
        from: From,
        offload: Offload,
        out: &mut Vec<Wanted>,
    ) -> Result<(), Dropped> {
        let to = self.route(ip.dst);
        if ip.dst == GATEWAY {
            self.answer(&ip, out);
            return Ok(());
        }
        if is_martian(ip.dst) || ip.ttl == 0 {
            return Err(Dropped);
        }
        if to == To::Nowhere {
            self.error([3, 0], None, ip, out);
            return Ok(());
        }
        // A node is one hop: what goes to its kernel or comes from there is counted there.
        let counts = from != From::Host && to != To::Host;
        if counts && ip.ttl == 1 {
            self.error([11, 0], None, ip, out);
            return Ok(());
        }
        let mtu = self.mtu(to);
        let segments = offload.segments;
        let largest = match segments {
            Some(segments) => ip.len() - ip.payload.len() + transport_len(&ip) + usize::from(segments.size),
            // What a kernel's tunnel sent uncut is cut to fit.
            None if from == From::Tunnel && is_super_frame(&ip, mtu) => mtu,
            None => ip.len(),
        };
        let is_too_big = largest.min(ip.len()) > mtu;
        if to == To::Blackhole {
            return Err(Dropped);
        }
        if is_too_big && ip.fragment & DF != 0 {
            self.error([3, 4], Some(mtu as u16), ip, out);
            return Ok(());
        }
        ip.ttl -= u8::from(counts);
        if is_too_big {
            match segments {
                None => return self.pieces(to, ip, mtu, out),
                Some(_) if ip.protocol == UDP => {
                    self.out(to, Wanted::Datagrams { to, ip, mtu }, out);
                    return Ok(());
                }
                Some(_) => {}
            }
        }
        if to == To::Host && is_local(ip.dst) {
            self.answer(&ip, out);
        }
        let tunnels = matches!(to, To::Ipip(_) | To::Vxlan(_));
        if tunnels && offload.checksum.is_some() && segments.is_none() {
            ip = ip.summed();
        }
        // A super-frame that is cut smaller has another size of segments than it came with; what a tunnel's
        // packets left undone is found out, not told.
        let is_same = !is_too_big && !tunnels && from != From::Tunnel;
        self.send(to, ip, is_same.then_some(offload), out);
        Ok(())
    }

    /// A ping of an address that is this node's may be answered here.
    fn answer(&mut self, asked: &Ip, out: &mut Vec<Wanted>) {
        let is_whole = asked.fragment & (MF | 0x1fff) == 0 && asked.options.is_empty();
        let is_echo = asked.payload.len() >= 8 && asked.payload[0] == 8 && checksum(&asked.payload) == 0;
        if asked.protocol == ICMP && is_whole && is_echo {
            let to = self.route(asked.src);
            self.out(to, Wanted::Answer { to, asked: asked.clone() }, out);
        }
    }

    fn mtu(&self, to: To) -> usize {
        match to {
            To::Pod(_) => POD_MTU.into(),
            To::Ipip(_) => IPIP_MTU.into(),
            To::Vxlan(_) => usize::from(UNDERLAY_MTU) - 50,
            To::Direct(_) => UNDERLAY_MTU.into(),
            To::Host => HOST_MTU,
            To::Blackhole | To::Nowhere => usize::MAX,
        }
    }

    fn pieces(&mut self, to: To, ip: Ip, mtu: usize, out: &mut Vec<Wanted>) -> Result<(), Dropped> {
        // No datagram is that long: pieces of it would be others' (M11).
        if usize::from(ip.fragment & 0x1fff) * 8 + ip.len() > 65_535 {
            return Err(Dropped);
        }
        self.out(to, Wanted::Pieces { to, ip, mtu }, out);
        Ok(())
    }

    fn send(&mut self, to: To, ip: Ip, offload: Option<Offload>, out: &mut Vec<Wanted>) {
        self.out(to, Wanted::Packet { to, ip, offload }, out);
    }

    fn error(&mut self, head: [u8; 2], mtu: Option<u16>, about: Ip, out: &mut Vec<Wanted>) {
        self.errors(head, mtu, about, false, out);
    }

    fn errors(&mut self, head: [u8; 2], mtu: Option<u16>, about: Ip, is_each: bool, out: &mut Vec<Wanted>) {
        let is_error = about.protocol == ICMP
            && (about.payload.len() < 8 || [3, 4, 5, 11, 12].contains(&about.payload[0]));
        if about.fragment & 0x1fff != 0 || is_martian(about.src) || is_martian(about.dst) || is_error {
            return;
        }
        let to = self.route(about.src);
        if matches!(to, To::Nowhere | To::Blackhole) {
            return;
        }
        self.out(to, Wanted::Error { to, about, head, mtu, is_each }, out);
    }

    /// Out of the node, or among those that wait for the pod's MAC.
    fn out(&mut self, to: To, wanted: Wanted, out: &mut Vec<Wanted>) {
        let To::Pod(pod) = to else { return out.push(wanted) };
        if !self.pods[pod].attached {
            return;
        }
        if self.pods[pod].mac.is_some() {
            return out.push(wanted);
        }
        let now = self.now;
        let index = self.waiting.iter().position(|waiting| waiting.pod == pod).unwrap_or_else(|| {
            self.waiting.push(Waiting { pod, held: Vec::new(), asked: 0, again: now });
            self.waiting.len() - 1
        });
        self.waiting[index].held.push(wanted);
        self.ask(index, out);
    }

    fn ask(&mut self, index: usize, out: &mut Vec<Wanted>) {
        let waiting = &mut self.waiting[index];
        if self.now < waiting.again || waiting.asked >= 3 || !self.pods[waiting.pod].served {
            return;
        }
        waiting.asked += 1;
        waiting.again = self.now + 1000;
        out.push(Wanted::Question(waiting.pod));
    }

    /// The end of each turn: who can be sent to, who is asked again, who is given up.
    fn let_go(&mut self, out: &mut Vec<Wanted>) {
        // All whose time is over first: what then becomes of their packets may wait anew.
        let mut ended = Vec::new();
        let mut index = 0;
        while index < self.waiting.len() {
            let waiting = &self.waiting[index];
            let pod = &self.pods[waiting.pod];
            let is_known = pod.attached && pod.mac.is_some();
            let goes_on = pod.attached && (waiting.asked < 3 || self.now < waiting.again);
            if !is_known && goes_on {
                self.ask(index, out);
                index += 1;
                continue;
            }
            let is_given_up = pod.attached && !is_known;
            ended.push((is_known, is_given_up, self.waiting.remove(index).held));
        }
        for (is_known, is_given_up, held) in ended {
            for mut held in held {
                let (to, dst) = match &mut held {
                    Wanted::Datagrams { to, ip, .. } => {
                        if is_given_up {
                            self.errors([3, 1], None, ip.clone(), true, out);
                        }
                        (to, ip.dst)
                    }
                    Wanted::Packet { to, ip, .. } | Wanted::Pieces { to, ip, .. } => {
                        if is_given_up {
                            self.error([3, 1], None, ip.clone(), out);
                        }
                        (to, ip.dst)
                    }
                    Wanted::Error { to, about: asked, .. } | Wanted::Answer { to, asked, .. } => {
                        (to, asked.src)
                    }
                    Wanted::Reply(..) | Wanted::Question(_) => continue,
                };
                // For another pod of the node by now, perhaps; it does not leave the node any more.
                *to = self.route(dst);
                if let to @ To::Pod(_) = *to
                    && is_known
                {
                    self.out(to, held, out);
                }
            }
        }
    }

    /// More may wait than a node lets: what it leaves out then is not said here.
    pub fn is_sure(&self) -> bool {
        // A packet is at most that many pieces.
        const PIECES: usize = 6;
        self.waiting.iter().all(|waiting| waiting.held.len() * PIECES <= 64)
    }

    /// Takes from `out` what was wanted; what is not there, or is left over, is a fault.
    pub fn compare(&self, mut wanted: Vec<Wanted>, mut out: Vec<(PortId, MemoryFrame)>) {
        // Those take all that looks like them: the others choose first.
        wanted.sort_by_key(|wanted| {
            matches!(
                wanted,
                Wanted::Datagrams { .. } | Wanted::Answer { .. } | Wanted::Error { is_each: true, .. }
            )
        });
        let mut taken = Vec::new();
        for wanted in wanted {
            match &wanted {
                Wanted::Packet { to, ip, offload } => {
                    let is_it = |frame: &(PortId, MemoryFrame)| {
                        let same_offload = offload.is_none_or(|offload| offload == frame.1.offload);
                        self.unwrap(*to, frame).is_some_and(|found| found == *ip) && same_offload
                    };
                    let at = out.iter().position(is_it);
                    // A ping of the node's own addresses may be answered, or left to the kernel.
                    let is_ping = ip.protocol == ICMP && is_local(ip.dst);
                    assert!(at.is_some() || is_ping, "missing {wanted:?} in {out:?}");
                    at.map(|at| out.remove(at));
                }
                Wanted::Pieces { to, ip, mtu } => {
                    // A checksum that was left to the hardware is finished first.
                    let wholes = [ip.payload.clone(), ip.clone().summed().payload];
                    let mut next = usize::from(ip.fragment & 0x1fff) * 8;
                    let mut payload = Vec::new();
                    while payload.len() < ip.payload.len() {
                        let is_next = |frame: &(PortId, MemoryFrame)| {
                            self.unwrap(*to, frame).filter(|piece| {
                                let offset = usize::from(piece.fragment & 0x1fff) * 8;
                                let names = |ip: &Ip| (ip.src, ip.dst, ip.id, ip.protocol, ip.ttl, ip.tos);
                                // Another packet may have the same names: then its payload differs.
                                let is_part =
                                    |whole: &Vec<u8>| whole[payload.len()..].starts_with(&piece.payload);
                                offset == next
                                    && names(piece) == names(ip)
                                    && !piece.payload.is_empty()
                                    && wholes.iter().any(is_part)
                            })
                        };
                        let found =
                            out.iter().enumerate().find_map(|(at, frame)| Some((at, is_next(frame)?)));
                        let (at, piece) =
                            found.unwrap_or_else(|| panic!("no piece at {next} of {wanted:?} in {out:?}"));
                        out.remove(at);
                        assert!(piece.len() <= *mtu, "{piece:?}");
                        next += piece.payload.len();
                        payload.extend(piece.payload);
                        let more = payload.len() < ip.payload.len() || ip.fragment & MF != 0;
                        assert_eq!(piece.fragment & MF != 0, more);
                    }
                    assert!(wholes.contains(&payload));
                }
                Wanted::Datagrams { to, ip, mtu } => {
                    let names = |ip: &Ip| (ip.src, ip.dst, ip.protocol, ip.ttl, ip.tos);
                    // The first super-frame of a flow has taken those of the others.
                    if taken.contains(&names(ip)) {
                        continue;
                    }
                    taken.push(names(ip));
                    let is_one = |frame: &(PortId, MemoryFrame)| {
                        self.unwrap(*to, frame)
                            .is_some_and(|one| names(&one) == names(ip) && one.len() <= *mtu)
                    };
                    let pieces: Vec<_> = out.extract_if(.., |frame| is_one(frame)).collect();
                    assert!(!pieces.is_empty(), "missing {wanted:?} in {out:?}");
                }
                Wanted::Error { to, about, head, mtu, is_each } => {
                    let is_it = |frame: &(PortId, MemoryFrame)| {
                        self.unwrap(*to, frame).is_some_and(|error| {
                            let quotes =
                                error.payload.len() >= 28 && error.payload[20..28] == about.bytes()[12..20];
                            error.protocol == ICMP
                                && error.dst == about.src
                                && error.payload.starts_with(head)
                                && checksum(&error.payload) == 0
                                && error.len() <= 576
                                && quotes
                                && mtu.is_none_or(|mtu| word(&error.payload, 6) == mtu)
                        })
                    };
                    match is_each {
                        true => out.retain(|frame| !is_it(frame)),
                        false => drop(out.iter().position(is_it).map(|at| out.remove(at))),
                    }
                }
                Wanted::Answer { to, asked } => {
                    // Of one that the way back is too narrow for, each piece.
                    out.retain(|frame| {
                        let names = |ip: Ip| (ip.protocol, ip.src, ip.dst) == (ICMP, asked.dst, asked.src);
                        !self.unwrap(*to, frame).is_some_and(names)
                    });
                }
                Wanted::Reply(pod, reply) => {
                    let reply = (EndpointId(*pod as u32).into(), reply.clone());
                    let at = out.iter().position(|frame| *frame == reply);
                    // Without its port nothing is sent.
                    let at = at.unwrap_or_else(|| panic!("missing {wanted:?} in {out:?}"));
                    out.remove(at);
                }
                Wanted::Question(pod) => {
                    let gateway = (MacAddr::GATEWAY, GATEWAY);
                    let target = (MacAddr([0; 6]), self.pods[*pod].addresses[0]);
                    let question = arp(MacAddr::BROADCAST, 1, gateway, target);
                    let at = out
                        .iter()
                        .position(|frame| *frame == (EndpointId(*pod as u32).into(), question.clone()));
                    out.remove(at.unwrap_or_else(|| panic!("missing {wanted:?} in {out:?}")));
                }
            }
        }
        assert!(out.is_empty(), "nobody wanted {out:?}");
    }

    /// The packet in a frame that left towards `to`, if that is where it left to; what stands in front must be right.
    fn unwrap(&self, to: To, (port, frame): &(PortId, MemoryFrame)) -> Option<Ip> {
        let bytes = &frame.bytes[..];
        match (to, *port) {
            (To::Pod(pod), PortId::Endpoint(EndpointId(id))) if pod == id as usize => {
                let mac = self.pods[pod].mac?;
                (bytes[..6] == mac.0 && bytes[6..14] == [&MacAddr::GATEWAY.0[..], &[8, 0]].concat())
                    .then(|| Ip::read(&bytes[14..]))
            }
            (To::Ipip(peer), PortId::Ipip) if frame.peer == peer => {
                let outer = Ip::read(bytes);
                let inner = Ip::read(&outer.payload);
                let wanted = Ip { id: outer.id, ..Ip::new(NODE, peer, IPIP, outer.payload.clone()) };
                assert_eq!(outer, wanted.tos(inner.tos & 3).fragment(inner.fragment & DF));
                assert_ne!(outer.id, 0);
                Some(inner)
            }
            (To::Vxlan(peer), PortId::Vxlan(_)) if frame.peer == peer => {
                let vtep = if peer == PEER_B { VTEP_B } else { VTEP_C };
                assert_eq!(bytes[..22], vxlan(vtep, VTEP_A, 0x0800, &[])[..]);
                let inner = Ip::read(&bytes[22..]);
                assert_eq!(frame.ecn.bits(), inner.tos & 3);
                Some(inner)
            }
            (To::Direct(peer), PortId::Direct) if frame.peer == peer => Some(Ip::read(bytes)),
            (To::Host, PortId::Host) => Some(Ip::read(bytes)),
            _ => None,
        }
    }
}

pub const VTEP_C: MacAddr = MacAddr([0x66, 0, 0, 0, 0, 0x03]);

fn is_local(address: Ipv4Addr) -> bool {
    address == NODE || TUNNELS.contains(&address)
}

/// RFC 1812 5.3.5 and 5.3.7, RFC 3927 7.
pub fn is_martian(address: Ipv4Addr) -> bool {
    [("0.0.0.0", 8), ("127.0.0.0", 8), ("169.254.0.0", 16), ("224.0.0.0", 4), ("240.0.0.0", 4)]
        .iter()
        .any(|(net, len)| covers(net.parse().expect("an address"), *len, address))
}

fn is_tunnel(ip: &Ip) -> bool {
    let first = ip.fragment & 0x1fff == 0;
    ip.protocol == IPIP
        || ip.protocol == UDP && first && ip.payload.len() >= 4 && word(&ip.payload, 2) == 4789
}

fn ethernet_payload(bytes: &[u8], ethertype: [u8; 2]) -> Result<&[u8], Dropped> {
    (bytes.len() >= 14 && bytes[12..14] == ethertype).then(|| &bytes[14..]).ok_or(Dropped)
}

/// A packet at the start of `bytes`, if there is a whole one (RFC 1812 5.2.2).
pub fn read(bytes: &[u8]) -> Option<Ip> {
    let header_len = usize::from(bytes.first()? & 0xf) * 4;
    if bytes.len() < 20 || bytes[0] >> 4 != 4 || header_len < 20 {
        return None;
    }
    let total = usize::from(word(bytes, 2));
    if total < header_len || total > bytes.len() || checksum(&bytes[..header_len]) != 0 {
        return None;
    }
    Some(Ip::read(&bytes[..total]))
}

fn transport_len(ip: &Ip) -> usize {
    if ip.protocol == UDP { 8 } else { usize::from(ip.payload[12] >> 4) * 4 }
}

/// TCP that a kernel's tunnel sent uncut.
fn is_super_frame(ip: &Ip, mtu: usize) -> bool {
    let is_tcp = ip.protocol == TCP && ip.fragment & (MF | 0x1fff) == 0 && ip.payload.len() >= 20;
    is_tcp && transport_len(ip) >= 20 && transport_len(ip) <= ip.payload.len() && ip.len() > mtu
}
