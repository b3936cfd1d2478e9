//! Every reason to drop and every reason to punt, provoked.

use std::io;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use margay::buf::{Frame, Offload, Pool, SlotSize};
use margay::dataplane::{Event, Neighbor, Neighbors, PortId, Tables, Tally};
use margay::fib::EndpointId;
use margay::io::memory::MemoryFrame;
use margay::io::{Port, Rx, TxReport};
use margay::slowpath::{Made, Punted, SlowPath};
use margay::verdict::{DropReason, PuntReason};
use margay::wire::MacAddr;

use crate::bed::*;
use crate::dual;
use crate::packets::*;
use crate::packets6::*;

/// A packet that would go through, for a case to spoil.
fn good() -> Ip {
    Ip::udp(ALPHA_IP, BETA_IP, 10)
}

/// ALPHA's frame after its IP header was spoiled, and the header checksum made right again.
fn spoiled(spoil: impl Fn(&mut [u8])) -> MemoryFrame {
    let mut frame = good().sent_by(ALPHA_MAC);
    spoil(&mut frame.bytes[14..]);
    repair(&mut frame.bytes[14..]);
    frame
}

fn from_alpha(frame: MemoryFrame) -> Tally {
    Bed::new().one(ALPHA, frame).tally
}

fn from(port: PortId, frame: MemoryFrame) -> Tally {
    Bed::new().one(port, frame).tally
}

fn alpha6(ip: Ip6) -> Tally {
    dual::bed().one(ALPHA, ip.sent_by(ALPHA_MAC)).tally
}

/// The same with a packet that would go through, after it was spoiled.
fn spoiled6(spoil: impl Fn(&mut [u8])) -> Tally {
    let mut frame = Ip6::udp(ALPHA6, BETA6, 10).sent_by(ALPHA_MAC);
    spoil(&mut frame.bytes[14..]);
    dual::bed().one(ALPHA, frame).tally
}

/// What provokes it, and the counts after that.
fn provoke(reason: DropReason) -> Tally {
    use DropReason as R;
    let pod = |ip: Ip| from_alpha(ip.sent_by(ALPHA_MAC));
    let from_b = |ip: Ip| from(VXLAN, ip.in_vxlan(PEER_B, VTEP_A, VTEP_B));
    let vxlan_bytes = |bytes: Vec<u8>| from(VXLAN, MemoryFrame::from_peer(bytes, PEER_B.into()));
    let inner = || Ip::udp(B_VXLAN, ALPHA_IP, 10);
    match reason {
        R::FrameTruncated => from_alpha(MemoryFrame::new(vec![0xee; 13])),
        R::FrameNotForGateway => from_alpha(good().delivered_to(BETA_MAC)),
        R::FrameMulticast => from_alpha(good().delivered_to(MacAddr::BROADCAST)),
        R::EtherTypeUnsupported => from_alpha(ethernet(MacAddr::GATEWAY, ALPHA_MAC, 0x8100, &good().bytes())),
        R::ArpMalformed => from_alpha(ethernet(MacAddr::BROADCAST, ALPHA_MAC, 0x0806, &[0; 27])),
        R::ArpNotAnswered => {
            let own = (ALPHA_MAC, ALPHA_IP);
            from_alpha(arp(MacAddr::BROADCAST, 1, own, own))
        }
        R::ArpSpoofed => from_alpha(arp(
            MacAddr::BROADCAST,
            1,
            (ALPHA_MAC, BETA_IP),
            (MacAddr([0; 6]), [169, 254, 1, 1].into()),
        )),
        R::NdpMalformed => alpha6(Ip6::solicitation(ALPHA6, GATEWAY6, GATEWAY6, None).hops(254)),
        R::NdpNotAnswered => alpha6(Ip6::solicitation(ALPHA6, ALPHA6, ALPHA6, None)),
        R::NdpSpoofed => alpha6(Ip6::solicitation(BETA6, GATEWAY6, GATEWAY6, None)),
        R::Ipv6Truncated => from_alpha(ethernet(MacAddr::GATEWAY, ALPHA_MAC, 0x86dd, &[0x60; 39])),
        R::Ipv6Version => spoiled6(|ip| ip[0] = 0x45),
        R::Ipv6PayloadLength => spoiled6(|ip| ip[5] += 1),
        R::Ipv6Extensions => alpha6(Ip6::new(ALPHA6, BETA6, 60, vec![17, 1, 0, 0, 0, 0, 0, 0])),
        R::Ipv4Truncated => from_alpha(ethernet(MacAddr::GATEWAY, ALPHA_MAC, 0x0800, &[0x45; 19])),
        R::Ipv4Version => from_alpha(spoiled(|ip| ip[0] = 0x55)),
        R::Ipv4HeaderLength => from_alpha(spoiled(|ip| ip[0] = 0x44)),
        R::Ipv4TotalLength => from_alpha(spoiled(|ip| ip[3] += 1)),
        R::Ipv4Checksum => {
            let mut frame = good().sent_by(ALPHA_MAC);
            frame.bytes[14 + 10] ^= 1;
            from_alpha(frame)
        }
        R::OffloadMalformed => {
            let frame = good().sent_by(ALPHA_MAC);
            from_alpha(MemoryFrame { offload: Offload::IMPOSSIBLE, ..frame })
        }
        R::SourceNotOwned => pod(Ip::udp(BETA_IP, B_VXLAN, 10)),
        R::SourceMartian => from_b(Ip::udp([127, 0, 0, 1].into(), ALPHA_IP, 10)),
        R::DestinationMartian => pod(Ip::udp(ALPHA_IP, [224, 0, 0, 1].into(), 10)),
        R::TunnelFromWorkload => pod(Ip::new(ALPHA_IP, NODE, IPIP, good().bytes())),
        R::TtlZero => pod(good().ttl(0)),
        R::Blackhole => pod(Ip::udp(ALPHA_IP, NOBODY, 10)),
        R::UnknownPeer => from(VXLAN, inner().in_vxlan([192, 168, 77, 99].into(), VTEP_A, VTEP_B)),
        R::OuterDestination => {
            let inner = Ip::udp(B_IPIP, ALPHA_IP, 10);
            from(PortId::Ipip, inner.in_ipip(PEER_B, [192, 168, 77, 255].into()))
        }
        R::OuterFragment => {
            let outer = Ip::new(PEER_B, NODE, IPIP, Ip::udp(B_IPIP, ALPHA_IP, 10).bytes()).fragment(MF);
            from(PortId::Ipip, MemoryFrame::from_peer(outer.bytes(), PEER_B.into()))
        }
        R::InnerNotIp => vxlan_bytes(vxlan(VTEP_A, VTEP_B, 0x0806, &[0; 28])),
        R::InnerSourceLocal => from_b(Ip::udp(ALPHA_IP, BETA_IP, 10)),
        R::InnerSourceNotPeers => from_b(Ip::udp(C_VXLAN, ALPHA_IP, 10)),
        R::TunnelNested => from_b(Ip::new(PEER_B, NODE, IPIP, inner().bytes())),
        R::TransitRefused => from_b(Ip::udp(B_VXLAN, C_VXLAN, 10)),
        R::EcnCongestionLost => {
            let mut frame = inner().in_vxlan(PEER_B, VTEP_A, VTEP_B);
            frame.ecn = margay::wire::Ecn::Ce;
            from(VXLAN, frame)
        }
        R::VxlanTruncated => vxlan_bytes(vec![8, 0, 0, 0, 0, 0x10, 0]),
        R::VxlanFlags => {
            let mut frame = inner().in_vxlan(PEER_B, VTEP_A, VTEP_B);
            frame.bytes[0] = 0xf7;
            from(VXLAN, frame)
        }
        R::VxlanUnknownVni => {
            let mut frame = inner().in_vxlan(PEER_B, VTEP_A, VTEP_B);
            frame.bytes[6] = 1;
            from(VXLAN, frame)
        }
        R::VxlanInnerMac => from(VXLAN, inner().in_vxlan(PEER_B, VTEP_B, VTEP_B)),
        R::EndpointGone => {
            let mut bed = Bed::new();
            bed.detach(BETA.into());
            bed.one(ALPHA, good().sent_by(ALPHA_MAC)).tally
        }
        R::PortUnavailable => {
            let mut bed = Bed::new();
            bed.detach(VXLAN);
            bed.one(ALPHA, Ip::udp(ALPHA_IP, B_VXLAN, 10).sent_by(ALPHA_MAC)).tally
        }
        R::NeighborQueueFull => {
            let mut bed = Bed::new();
            bed.attach(BETA.into(), Some(Neighbor::unknown()));
            bed.exchange((0..65).map(|_| (ALPHA.into(), good().sent_by(ALPHA_MAC)))).tally
        }
        R::NeighborUnresolved => given_up(),
        R::TooBigUnsplittable => {
            // No room for 8 bytes of payload beside the options.
            let mut bed = Bed::on(Machine { host_mtu: Some(67), ..Machine::default() });
            let ip = Ip { options: vec![1; 40], ..Ip::udp(ALPHA_IP, OUTSIDE, 100).fragment(0) };
            bed.one(ALPHA, ip.sent_by(ALPHA_MAC)).tally
        }
        R::IcmpRateLimited => {
            let expired = || (ALPHA.into(), good().ttl(1).sent_by(ALPHA_MAC));
            Bed::new().exchange((0..200).map(|_| expired())).tally
        }
        R::IcmpNotDue => pod(Ip::icmp(ALPHA_IP, BETA_IP, [3, 1], &[0; 12]).ttl(1)),
        R::TunnelErrorMalformed => error(&[3, 1, 0, 0, 0, 0, 0, 0], &[0x45; 19]),
        R::TunnelErrorForeign => error(&[3, 3, 0, 0, 0, 0, 0, 0], &Ip::udp(NODE, PEER_B, 8).bytes()),
        R::TunnelErrorForged => error(&[3, 1, 0, 0, 0, 0, 0, 0], &outer(Ip::udp(B_IPIP, ALPHA_IP, 8))),
        R::TunnelErrorMtu => error(&[3, 4, 0, 0, 0, 0, 0, 67], &outer(Ip::udp(ALPHA_IP, B_IPIP, 1400))),
        R::TunnelErrorNoted => error(&[5, 0, 0, 0, 0, 0, 0, 0], &outer(Ip::udp(ALPHA_IP, B_IPIP, 8))),
        R::ProbeUnasked => from_b(Ip::icmp(PEER_B, TUNNEL_A, [0, 0], b"\x00\x07\x05\xaapath mtu")),
        R::NoBuffer => {
            // The only slot holds the packet that is to be split.
            let mut bed = Bed::on(Machine { slots: 1, ..Machine::default() });
            bed.one(ALPHA, Ip::udp(ALPHA_IP, B_VXLAN, 1423).fragment(0).sent_by(ALPHA_MAC)).tally
        }
        R::TxQueueFull => refused(|count| TxReport { full: count, ..TxReport::default() }),
        R::TxFailed => refused(|count| TxReport {
            failed: count,
            error: Some(io::ErrorKind::PermissionDenied.into()),
            ..TxReport::default()
        }),
    }
}

/// An ICMP error from a router to this node.
fn error(head: &[u8; 8], quoted: &[u8]) -> Tally {
    let rest = [&head[4..], quoted].concat();
    let ip = Ip::icmp([192, 0, 2, 1].into(), NODE, [head[0], head[1]], &rest);
    from(ERRORS, ip.plain())
}

/// As this node's IPIP packet to B is quoted.
fn outer(inner: Ip) -> Vec<u8> {
    Ip::new(NODE, PEER_B, IPIP, inner.bytes()).bytes()
}

/// A port that takes nothing.
struct Refusing(fn(u64) -> TxReport);

impl Port for Refusing {
    fn rx(&mut self, _: &mut Pool, _: &mut Vec<Frame>) -> io::Result<Rx> {
        Ok(Rx::Drained)
    }

    fn tx(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> TxReport {
        let report = (self.0)(batch.len() as u64);
        batch.drain(..).for_each(|frame| pool.put(frame));
        report
    }

    fn readiness(&self) -> Option<RawFd> {
        None
    }
}

fn refused(report: fn(u64) -> TxReport) -> Tally {
    let mut bed = Bed::new();
    bed.attach_port(BETA.into(), Box::new(Refusing(report)), Some(Neighbor::fixed(BETA_MAC)));
    let tally = bed.one(ALPHA, good().sent_by(ALPHA_MAC)).tally;
    let told = bed.events().any(|event| matches!(event, Event::SendRefused { id, .. } if id == BETA.into()));
    assert_eq!(told, tally.dropped[DropReason::TxFailed.index()] > 0, "a refusal is told, a full queue not");
    tally
}

/// Three questions, a second apart, and a second for the last answer: the clock is the test's.
fn given_up() -> Tally {
    let fib = compile(CLUSTER, "a", Machine::default());
    let mut neighbors = Neighbors::default();
    neighbors.insert(BETA, Neighbor::unknown());
    let tables = Tables { fib: &fib, neighbors: &neighbors };
    let (mut slowpath, mut pool) = (SlowPath::default(), Pool::new(4, SlotSize::SuperFrame));
    let start = Instant::now();
    let bytes = good().bytes();
    let mut frame = pool.take().unwrap();
    pool.room(&frame)[..bytes.len()].copy_from_slice(&bytes);
    pool.filled(&mut frame, bytes.len());
    let reason = PuntReason::NeighborUnresolved;
    let origin = margay::dataplane::Origin::Workload(ALPHA);
    let mut made = Vec::new();
    let mut tally = Tally { input: 1, ..Tally::default() };
    tally.punted[reason.index()] = 1;
    slowpath.punt(tables, start, &mut pool, Punted { reason, origin, is_made: false, frame }, &mut made);

    let mut questions = Vec::new();
    for milliseconds in (0..=3000).step_by(5) {
        slowpath.tick(tables, start + Duration::from_millis(milliseconds), &mut pool, &mut made);
        for made in made.drain(..) {
            tally.input += 1;
            match made {
                Made::Question(id, frame) => {
                    assert_eq!(id, BETA);
                    pool.put(frame);
                    questions.push(milliseconds);
                    tally.sent[0] += 1;
                }
                Made::Lost(origin, reason, packet) => {
                    assert_eq!(origin, margay::dataplane::Origin::Workload(ALPHA));
                    assert_eq!(milliseconds, 3000, "after the last question's second");
                    assert_eq!(packet, bytes);
                    tally.dropped[reason.index()] += 1;
                }
                // RFC 1812 5.2.7.1: the host that cannot be reached is told of besides.
                Made::Packet(origin, frame) => {
                    assert_eq!(origin, margay::dataplane::Origin::Workload(ALPHA));
                    let error = Ip::read(pool.bytes(&frame));
                    assert_eq!(
                        (error.src, error.dst, &error.payload[..2]),
                        (TUNNEL_A, ALPHA_IP, &[3, 1][..])
                    );
                    assert_eq!(error.payload[8..], bytes);
                    pool.put(frame);
                    tally.sent[0] += 1;
                }
                Made::Probe(..) | Made::Nothing(..) => panic!("nobody asked"),
            }
        }
    }
    assert_eq!(questions, [0, 1000, 2000]);
    assert_eq!(pool.available(), pool.slots());
    assert_eq!(tally.sent[0], 4, "three questions and an error");
    assert_eq!(slowpath.deadline(start), None);
    tally
}

#[test]
fn every_drop_reason_is_provoked() {
    for reason in DropReason::ALL {
        let tally = provoke(*reason);
        assert!(tally.dropped[reason.index()] > 0, "{reason}: {tally:?}");
        assert_eq!(tally.input, tally.outcomes(), "{reason}");
        for other in DropReason::ALL.iter().filter(|other| *other != reason) {
            assert_eq!(tally.dropped[other.index()], 0, "{reason} also counted {other}");
        }
    }
}

#[test]
fn every_punt_reason_is_provoked() {
    for reason in PuntReason::ALL {
        let pod = |ip: Ip| from_alpha(ip.sent_by(ALPHA_MAC));
        let tally = match reason {
            PuntReason::TtlExpired => pod(good().ttl(1)),
            PuntReason::NoRoute => pod(Ip::udp(ALPHA_IP, UNASSIGNED, 10)),
            PuntReason::TooBig => pod(Ip::udp(ALPHA_IP, B_VXLAN, 1423)),
            PuntReason::NeighborUnresolved => {
                let mut bed = Bed::new();
                bed.attach(BETA.into(), Some(Neighbor::unknown()));
                bed.one(ALPHA, good().sent_by(ALPHA_MAC)).tally
            }
            PuntReason::Gateway => pod(Ip::echo(ALPHA_IP, [169, 254, 1, 1].into())),
            PuntReason::NodeAddress => {
                let mut bed = Bed::on(Machine { host_mtu: None, ..Machine::default() });
                bed.one(ALPHA, Ip::echo(ALPHA_IP, TUNNEL_A).sent_by(ALPHA_MAC)).tally
            }
            PuntReason::TunnelError => provoke(DropReason::TunnelErrorNoted),
            PuntReason::ProbeAnswer => provoke(DropReason::ProbeUnasked),
        };
        assert_eq!(tally.punted[reason.index()], 1, "{reason}: {tally:?}");
        assert_eq!(tally.punted.iter().sum::<u64>(), 1, "{reason} alone");
    }
}

/// A port that gives an error on receive is closed; its neighbours go on.
#[test]
fn a_lost_port_takes_no_other_with_it() {
    struct Lost;
    impl Port for Lost {
        fn rx(&mut self, _: &mut Pool, _: &mut Vec<Frame>) -> io::Result<Rx> {
            Err(io::ErrorKind::NotConnected.into())
        }
        fn tx(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> TxReport {
            batch.drain(..).for_each(|frame| pool.put(frame));
            TxReport::default()
        }
        fn readiness(&self) -> Option<RawFd> {
            None
        }
    }
    // Alone, it leaves nothing to read; as the last and as the first of several, the others stay.
    let mut bed = Bed::bare(compile(CLUSTER, "a", Machine::default()), 8);
    bed.attach_port(GAMMA.into(), Box::new(Lost), None);
    bed.exchange([]);
    assert!(matches!(bed.events().next(), Some(Event::PortLost { id, .. }) if id == GAMMA.into()));

    bed.attach_port(GAMMA.into(), Box::new(Lost), None);
    bed.attach(ALPHA.into(), Some(Neighbor::fixed(ALPHA_MAC)));
    bed.attach(BETA.into(), Some(Neighbor::fixed(BETA_MAC)));
    bed.attach_port(EndpointId(7).into(), Box::new(Lost), None);
    for _ in 0..3 {
        let there = (ALPHA.into(), good().sent_by(ALPHA_MAC));
        let back = Ip::udp(BETA_IP, ALPHA_IP, 3);
        let exchange = bed.exchange([there, (BETA.into(), back.sent_by(BETA_MAC))]);
        let to_alpha = (ALPHA.into(), back.hop().delivered_to(ALPHA_MAC));
        let to_beta = (BETA.into(), good().hop().delivered_to(BETA_MAC));
        assert_eq!(exchange.out, [to_alpha, to_beta]);
    }
    assert_eq!(bed.events().count(), 2);
}

/// The sender of an unknown peer's frame is not believed by its look: only the socket's word counts.
#[test]
fn an_ipv6_peer_is_unknown() {
    let mut frame = Ip::udp(B_VXLAN, ALPHA_IP, 10).in_vxlan(PEER_B, VTEP_A, VTEP_B);
    frame.peer = IpAddr::V6(PEER_B.to_ipv6_mapped());
    let tally = from(VXLAN, frame);
    assert_eq!(tally.dropped[DropReason::UnknownPeer.index()], 1);
}
