//! Captures in the worker: each frame before and after, with what became of it, and the last frames of each drop reason.

use std::time::Duration;

use crossbeam::channel::bounded;
use margay::buf::Pool;
use margay::capture::Way;
use margay::dataplane::specimens::KEPT;
use margay::dataplane::tap::{Catch, Outcome, Record, Wanted, tap};
use margay::dataplane::worker::{Entrance, Injection};
use margay::dataplane::{Command, Neighbor, Party, PortId, Tally, Verdict};
use margay::io::memory::MemoryFrame;
use margay::io::{Port, Rx, TxReport};
use margay::verdict::{DropReason, PuntReason};

use crate::bed::*;
use crate::packets::*;

fn all() -> Wanted {
    Wanted { snap: 65_535, ..Wanted::default() }
}

fn filtered(filter: &str) -> Wanted {
    Wanted { filter: filter.parse().unwrap(), ..all() }
}

/// A capture that has begun.
fn capture(bed: &mut Bed, wanted: Wanted) -> Catch {
    let (catch, tap) = tap(wanted);
    bed.tell(Command::Tap(tap));
    bed.exchange([]);
    catch
}

fn records(catch: &mut Catch) -> Vec<Record> {
    let mut records = Vec::new();
    catch.take(usize::MAX, |record, missed| {
        assert_eq!(missed, 0);
        records.push(record.clone());
    });
    records
}

fn outcomes(records: &[Record]) -> Vec<(Option<PortId>, Way, Outcome)> {
    records.iter().map(|record| (record.port, record.way, record.outcome)).collect()
}

#[test]
fn a_frame_is_captured_before_and_after_with_its_outer_header() {
    let mut bed = Bed::new();
    let mut catch = capture(&mut bed, all());
    let to_b = Ip::udp(ALPHA_IP, B_IPIP, 9);
    let sent = bed.one(ALPHA, to_b.sent_by(ALPHA_MAC)).out.remove(0).1;
    let [before, after] = &records(&mut catch)[..] else { panic!("two records") };
    assert_eq!(before.bytes, to_b.sent_by(ALPHA_MAC).bytes, "as it was received: TTL 64, Ethernet header");
    assert_eq!(after.bytes, sent.bytes, "as it left: outer header");
    assert_eq!((before.len, after.len), (before.bytes.len(), after.bytes.len()));
    assert_eq!(before.id, after.id);
    assert_eq!(before.to, Some(PEER_B.into()));
    assert!(before.time <= after.time && before.time > Duration::from_secs(1_600_000_000));
    assert_eq!(
        outcomes(&[before.clone(), after.clone()]),
        [
            (Some(ALPHA.into()), Way::In, Outcome::Forwarded(Verdict::Ipip)),
            (Some(PortId::Ipip), Way::Out, Outcome::Sent)
        ]
    );
}

/// Of VXLAN the kernel writes the outer headers and takes them off: a record has them nevertheless.
#[test]
fn vxlan_has_its_outer_headers_both_ways() {
    let mut bed = Bed::new();
    let mut catch = capture(&mut bed, all());
    bed.one(ALPHA, Ip::udp(ALPHA_IP, B_VXLAN, 9).sent_by(ALPHA_MAC));
    bed.one(VXLAN, Ip::udp(B_VXLAN, ALPHA_IP, 9).in_vxlan(PEER_B, VTEP_A, VTEP_B));
    let records = records(&mut catch);
    assert_eq!(records.len(), 4);
    for (record, src, dst) in [(&records[1], NODE, PEER_B), (&records[2], PEER_B, NODE)] {
        let outer = Ip::read(&record.bytes);
        assert_eq!((outer.src, outer.dst, outer.protocol), (src, dst, UDP));
        assert_eq!(word(&outer.payload, 2), 4789);
        assert_eq!(usize::from(word(&outer.payload, 4)), outer.payload.len());
        let inner = Ip::read(&outer.payload[8 + 8 + 14..]);
        assert_eq!(inner.payload, Ip::udp(ALPHA_IP, B_VXLAN, 9).payload[..].to_vec().tap_ports(&inner));
    }
    assert_eq!(records[2].from, Some(Party::Peer(PEER_B.into())));
    assert_eq!(records[3].port, Some(ALPHA.into()));
}

/// The same payload whichever way it went: ports and data, with the checksum of that packet.
trait TapPorts {
    fn tap_ports(self, ip: &Ip) -> Vec<u8>;
}

impl TapPorts for Vec<u8> {
    fn tap_ports(self, ip: &Ip) -> Vec<u8> {
        Ip { payload: self, ..ip.clone() }.summed().payload
    }
}

#[test]
fn what_is_dropped_or_punted_says_why() {
    let mut bed = Bed::new();
    let mut catch = capture(&mut bed, all());
    bed.one(ALPHA, Ip::udp(OUTSIDE, BETA_IP, 1).sent_by(ALPHA_MAC));
    // An error about an error is not due.
    bed.one(ALPHA, Ip::icmp(ALPHA_IP, BETA_IP, [11, 0], &[0; 12]).ttl(1).sent_by(ALPHA_MAC));
    bed.one(ALPHA, Ip::udp(ALPHA_IP, BETA_IP, 1).ttl(1).sent_by(ALPHA_MAC));
    let records = records(&mut catch);
    assert_eq!(
        outcomes(&records),
        [
            (Some(ALPHA.into()), Way::In, Outcome::Dropped(DropReason::SourceNotOwned)),
            (
                Some(ALPHA.into()),
                Way::In,
                Outcome::Punted(PuntReason::TtlExpired, Some(DropReason::IcmpNotDue))
            ),
            (Some(ALPHA.into()), Way::In, Outcome::Punted(PuntReason::TtlExpired, None)),
            // What the slow path made of it, before and after as well.
            (None, Way::In, Outcome::Forwarded(Verdict::Workload(ALPHA))),
            (Some(ALPHA.into()), Way::Out, Outcome::Sent),
        ]
    );
    assert_eq!(Ip::read(&records[3].bytes).payload[0], 11);
}

#[test]
fn a_packet_that_waited_in_vain_is_captured_as_dropped() {
    let mut bed = Bed::new();
    bed.attach(BETA.into(), Some(Neighbor::unknown()));
    let mut catch = capture(&mut bed, Wanted { dropped: true, ..all() });
    let start = std::time::Instant::now();
    bed.clock = Some(start);
    let waits = Ip::udp(ALPHA_IP, BETA_IP, 1);
    bed.one(ALPHA, waits.sent_by(ALPHA_MAC));
    assert_eq!(outcomes(&records(&mut catch)), []);
    for second in 1..=4 {
        bed.clock = Some(start + Duration::from_secs(second));
        bed.exchange([]);
    }
    let records = records(&mut catch);
    let reason = DropReason::NeighborUnresolved;
    assert_eq!(outcomes(&records), [(None, Way::In, Outcome::Dropped(reason))]);
    assert_eq!(records[0].bytes, waits.hop().bytes());
    assert_eq!(bed.counters().specimens().of(reason).next().unwrap().bytes(), waits.hop().bytes());
}

/// A port that takes none, or only the first.
struct Full {
    takes: usize,
}

impl Port for Full {
    fn rx(&mut self, _: &mut Pool, _: &mut Vec<margay::buf::Frame>) -> std::io::Result<Rx> {
        Ok(Rx::Drained)
    }

    fn tx(&mut self, pool: &mut Pool, batch: &mut Vec<margay::buf::Frame>) -> TxReport {
        let sent = batch.len().min(self.takes);
        let full = (batch.len() - sent) as u64;
        batch.drain(..).for_each(|frame| pool.put(frame));
        TxReport { sent: sent as u64, full, ..TxReport::default() }
    }

    fn readiness(&self) -> Option<std::os::fd::RawFd> {
        None
    }
}

#[test]
fn what_a_port_does_not_take_is_captured_with_the_reason() {
    let mut bed = Bed::new();
    bed.attach_port(BETA.into(), Box::new(Full { takes: 1 }), Some(Neighbor::learned(BETA_MAC)));
    bed.detach(VXLAN);
    let mut catch = capture(&mut bed, Wanted { dropped: true, ..all() });
    let to_beta = (PortId::from(ALPHA), Ip::udp(ALPHA_IP, BETA_IP, 1).sent_by(ALPHA_MAC));
    bed.exchange([to_beta.clone(), to_beta]);
    bed.one(ALPHA, Ip::udp(ALPHA_IP, B_VXLAN, 1).sent_by(ALPHA_MAC));
    let refused = Outcome::Refused { reason: DropReason::TxQueueFull, lost: 1 };
    assert_eq!(
        outcomes(&records(&mut catch)),
        [
            (Some(BETA.into()), Way::Out, refused),
            (Some(BETA.into()), Way::Out, refused),
            (Some(VXLAN), Way::Out, Outcome::Dropped(DropReason::PortUnavailable)),
        ]
    );
}

#[test]
fn only_what_is_wanted_is_captured() {
    let udp = |dst| (PortId::from(ALPHA), Ip::udp(ALPHA_IP, dst, 1).sent_by(ALPHA_MAC));
    let frames = || {
        [
            udp(B_VXLAN),
            udp(C_IPIP),
            udp(BETA_IP),
            (PortId::from(GAMMA), Ip::tcp(GAMMA_IP, BETA_IP, 1).sent_by(GAMMA_MAC)),
            (VXLAN, Ip::udp(B_VXLAN, BETA_IP, 1).in_vxlan(PEER_B, VTEP_A, VTEP_B)),
        ]
    };
    for (wanted, expected) in [
        (all(), 10),
        (Wanted { endpoint: Some(ALPHA), ..all() }, 6),
        (Wanted { endpoint: Some(BETA), ..all() }, 6),
        (Wanted { peers: vec![PEER_B.into()], ..all() }, 4),
        (Wanted { peers: vec![PEER_C.into(), PEER_B.into()], ..all() }, 6),
        (Wanted { peers: vec![PEER_C.into()], endpoint: Some(BETA), ..all() }, 0),
        (Wanted { dropped: true, ..all() }, 0),
        (filtered("tcp"), 2),
        (filtered("vxlan"), 4),
        (filtered("host 192.168.77.3"), 2),
        (filtered("udp and not vxlan"), 4),
    ] {
        let mut bed = Bed::new();
        let what = format!("{wanted:?}");
        let mut catch = capture(&mut bed, wanted);
        bed.exchange(frames());
        assert_eq!(records(&mut catch).len(), expected, "{what}");
    }
}

#[test]
fn the_head_is_kept_and_a_super_frame_stays_whole() {
    let mut bed = Bed::new();
    let mut catch = capture(&mut bed, Wanted { snap: 60, ..filtered("tcp port 80") });
    let ip = Ip::tcp(ALPHA_IP, B_VXLAN, 20_000).partial();
    let mut frame = ip.sent_by(ALPHA_MAC);
    frame.offload = super_frame(&ip, 1398);
    bed.one(ALPHA, frame);
    let records = records(&mut catch);
    let sizes: Vec<_> = records.iter().map(|record| (record.bytes.len(), record.len)).collect();
    assert_eq!(sizes, [(60, 14 + ip.len()), (60, 28 + 8 + 14 + ip.len())]);
    assert!(records.iter().all(|record| record.segments.is_some_and(|segments| segments.size == 1398)));
}

#[test]
fn what_does_not_fit_is_counted_and_a_capture_that_nobody_reads_ends() {
    let mut bed = Bed::new();
    let mut catch = capture(&mut bed, all());
    let frame = (PortId::from(ALPHA), Ip::udp(ALPHA_IP, BETA_IP, 1).sent_by(ALPHA_MAC));
    // Records as large as these are 256.
    bed.exchange(std::iter::repeat_n(frame.clone(), 300));
    let mut missed = 0;
    let count = catch.take(usize::MAX, |_, more| missed += more);
    assert_eq!((count, missed), (256, 344));
    bed.exchange([frame.clone()]);
    assert_eq!(records(&mut catch).len(), 2, "there is room again");
    // Two at once, and one of them ends.
    let mut other = capture(&mut bed, all());
    drop(catch);
    bed.exchange([frame.clone()]);
    bed.exchange([frame]);
    assert_eq!(records(&mut other).len(), 4);
}

#[test]
fn the_last_frames_of_each_reason_are_kept_as_they_came() {
    let mut bed = Bed::new();
    bed.clock = Some(std::time::Instant::now());
    let forged =
        |n: u8| (PortId::from(ALPHA), Ip::udp([10, 99, 0, n].into(), BETA_IP, 300).sent_by(ALPHA_MAC));
    bed.exchange((1..=50).map(forged));
    let stranger = Ip::udp(B_VXLAN, BETA_IP, 1).in_vxlan(OUTSIDE, VTEP_A, VTEP_B);
    bed.one(VXLAN, stranger.clone());
    bed.one(VXLAN, Ip::udp(B_VXLAN, BETA_IP, 1).ttl(0).in_vxlan(PEER_B, VTEP_A, VTEP_B));
    let kept = bed.counters().specimens();
    let of = |reason| kept.of(reason).copied().collect::<Vec<_>>();
    let spoofed = of(DropReason::SourceNotOwned);
    assert_eq!(spoofed.len(), KEPT, "the others of the moment are not copied");
    assert!(spoofed.iter().all(|frame| frame.party == Party::Endpoint(ALPHA)));
    assert_eq!(spoofed[0].bytes(), &forged(1).1.bytes[..128]);
    assert_eq!(spoofed[0].len, forged(1).1.bytes.len());
    let unwrapped = &stranger.bytes[8 + 14..];
    assert_eq!(of(DropReason::UnknownPeer)[0].bytes(), unwrapped, "the tunnel's headers are off already");
    let inner = of(DropReason::TtlZero)[0];
    assert_eq!((inner.link, inner.party), (margay::capture::Link::Ip, Party::Peer(PEER_B.into())));
    assert_eq!(Ip::read(inner.bytes()).dst, BETA_IP);
}

fn inject(bed: &mut Bed, packet: &Ip, send: bool) -> (Vec<Record>, Exchange) {
    inject_at(bed, Entrance::Workload(ALPHA), packet.bytes(), send)
}

fn inject_at(bed: &mut Bed, entrance: Entrance, bytes: Vec<u8>, send: bool) -> (Vec<Record>, Exchange) {
    let (tell, told) = bounded(1);
    let tell = Box::new(move |records| tell.send(records).unwrap());
    bed.tell(Command::Inject(Injection { entrance, bytes, send, tap: tap(all()), tell }));
    let exchange = bed.exchange([]);
    (told.try_recv().unwrap(), exchange)
}

#[test]
fn a_frame_is_considered_without_being_sent() {
    let mut bed = Bed::new();
    let mut other = capture(&mut bed, all());
    let outcome = |records: &[Record]| outcomes(records).pop().unwrap().2;
    let (records, exchange) = inject(&mut bed, &Ip::udp(ALPHA_IP, B_IPIP, 1), false);
    assert_eq!((exchange.out.len(), exchange.tally.input), (0, 0));
    assert_eq!(outcomes(&records)[0].2, Outcome::Forwarded(Verdict::Ipip));
    assert_eq!(outcome(&records), Outcome::Kept);
    assert_eq!(Ip::read(&records[1].bytes).dst, PEER_B);
    for (packet, expected) in [
        (Ip::udp(OUTSIDE, B_IPIP, 1), Outcome::Dropped(DropReason::SourceNotOwned)),
        (Ip::udp(ALPHA_IP, NOBODY, 1), Outcome::Dropped(DropReason::Blackhole)),
        (Ip::udp(ALPHA_IP, B_VXLAN, 1500), Outcome::Punted(PuntReason::TooBig, None)),
    ] {
        let (records, exchange) = inject(&mut bed, &packet, false);
        assert_eq!((exchange.out.len(), exchange.tally.input), (0, 0));
        assert_eq!(outcome(&records), expected);
    }
    assert_eq!(other.take(usize::MAX, |_, _| {}), 0, "nothing has happened");
}

#[test]
fn a_frame_is_sent_as_if_the_workload_had() {
    let mut bed = Bed::new();
    let mut other = capture(&mut bed, all());
    let (records, exchange) = inject(&mut bed, &Ip::udp(ALPHA_IP, B_IPIP, 1), true);
    assert_eq!((exchange.out.len(), exchange.tally.input), (1, 1));
    assert_eq!(records[1].outcome, Outcome::Sent);
    assert_eq!(records[1].bytes, exchange.out[0].1.bytes);
    let (records, exchange) = inject(&mut bed, &Ip::udp(ALPHA_IP, B_IPIP, 1).ttl(1), true);
    assert_eq!((exchange.out.len(), exchange.tally.input), (1, 2));
    assert_eq!(records.len(), 3, "the ICMP error is the workload's");
    assert_eq!(other.take(usize::MAX, |_, _| {}), 5, "others see it too");
}

/// Nobody's MAC is made up for others.
#[test]
fn what_is_injected_teaches_no_mac() {
    let mut bed = Bed::new();
    let unknown = Neighbor::unknown();
    bed.attach(ALPHA.into(), Some(std::sync::Arc::clone(&unknown)));
    inject(&mut bed, &Ip::udp(ALPHA_IP, B_IPIP, 1), true);
    assert_eq!(unknown.mac(), None);
}

/// What arrives of a peer is considered as it would be, and neither counted nor noted.
#[test]
fn what_a_peer_sends_is_considered_without_arriving() {
    let underlay = |port, frame: &MemoryFrame| Entrance::Underlay { port, peer: frame.peer, ecn: frame.ecn };
    let nested = Ip::udp(B_IPIP, ALPHA_IP, 1).tos(0);
    let marked = Ip::new(PEER_B, NODE, IPIP, nested.bytes()).tos(1);
    for (port, frame, expected) in [
        (PortId::Ipip, Ip::udp(B_IPIP, ALPHA_IP, 1).in_ipip(PEER_B, NODE), None),
        (PortId::Ipip, MemoryFrame::from_peer(marked.bytes(), PEER_B.into()), None),
        (VXLAN, Ip::udp(B_VXLAN, ALPHA_IP, 1).in_vxlan(PEER_B, VTEP_A, VTEP_B), None),
        (PortId::Ipip, Ip::udp(B_IPIP, NOBODY, 1).in_ipip(PEER_B, NODE), Some(DropReason::Blackhole)),
        (PortId::Ipip, Ip::udp(B_IPIP, ALPHA_IP, 1).in_ipip(OUTSIDE, NODE), Some(DropReason::UnknownPeer)),
        (UNDERLAY, Ip::udp(ALPHA_IP, BETA_IP, 1).on_underlay(), Some(DropReason::InnerSourceLocal)),
    ] {
        let mut bed = Bed::new();
        bed.exchange([]);
        let before = bed.parties();
        let (considered, exchange) = inject_at(&mut bed, underlay(port, &frame), frame.bytes.clone(), false);
        assert_eq!((exchange.out.len(), exchange.tally.input), (0, 0));
        assert_eq!(exchange.tally.anomalies, Tally::default().anomalies);
        assert_eq!(bed.parties(), before, "{port:?}: nothing has happened");

        let mut catch = capture(&mut bed, all());
        bed.one(port, frame);
        let arrived = records(&mut catch);
        assert_eq!(considered[0].outcome, arrived[0].outcome);
        assert_eq!(considered[0].bytes, arrived[0].bytes);
        match expected {
            Some(reason) => assert_eq!(considered[0].outcome, Outcome::Dropped(reason)),
            None => {
                assert_eq!(considered[0].outcome, Outcome::Forwarded(Verdict::Workload(ALPHA)));
                assert_eq!(
                    (considered[1].bytes.clone(), considered[1].outcome),
                    (arrived[1].bytes.clone(), Outcome::Kept)
                );
            }
        }
    }
}

#[test]
fn without_a_buffer_nothing_is_injected_and_that_is_answered() {
    let mut bed = Bed::on(Machine { slots: 0, ..Machine::default() });
    let (records, exchange) = inject(&mut bed, &Ip::udp(ALPHA_IP, B_IPIP, 1), true);
    assert_eq!((records.len(), exchange.tally.input), (0, 0));
}
