//! Probing of path MTUs: paths of a test's own making, whose clock is the test's too.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use margay::buf::{Pool, SlotSize};
use margay::dataplane::paths::{Change, Evidence, News};
use margay::dataplane::{Paths, PortId};
use margay::fib::Fib;
use margay::io::memory::MemoryFrame;
use margay::slowpath::Made;
use margay::slowpath::probe::{CONFIRM, Prober, RAISE, SILENCE, Work};
use margay::verdict::{DropReason, PuntReason};

use crate::bed::*;
use crate::packets::*;

const STEP: Duration = Duration::from_millis(25);

/// Node A, its prober, and what lies behind it.
struct Underlay {
    fib: Fib,
    paths: Paths,
    prober: Prober,
    pool: Pool,
    now: Instant,
    /// Probes sent, with the peer and the inner size.
    sent: Vec<(IpAddr, usize)>,
    changes: Vec<Change>,
}

impl Underlay {
    fn new() -> Self {
        let now = Instant::now();
        Underlay {
            fib: compile(CLUSTER, "a", Machine::default()),
            paths: Paths::default(),
            prober: Prober::new(now),
            pool: Pool::new(64, SlotSize::SuperFrame),
            now,
            sent: Vec::new(),
            changes: Vec::new(),
        }
    }

    /// Lets time pass; `arrives` says whether a peer answers a probe of an inner size. Answers take a step.
    fn pass(&mut self, time: Duration, mut arrives: impl FnMut(IpAddr, usize) -> bool) {
        let end = self.now + time;
        let mut answers: Vec<(IpAddr, Ip)> = Vec::new();
        while self.now < end {
            let mut made = Vec::new();
            let mut changes = Vec::new();
            let now = self.now;
            let mut work = Work {
                fib: &self.fib,
                paths: &self.paths,
                now,
                pool: &mut self.pool,
                made: &mut made,
                changes: &mut changes,
            };
            if self.prober.deadline().is_some_and(|due| due <= now) {
                self.prober.tick(&mut work);
            }
            for (peer, answer) in answers.drain(..) {
                let _ = self.prober.answered(&mut work, peer, &answer.bytes());
            }
            self.paths.tick(&self.fib, now, &mut changes);
            let pool = &mut self.pool;
            for made in made {
                let Made::Probe(id, frame) = made else { panic!("{made:?}") };
                let tunnel = self.fib.tunnel(id);
                let probe = Ip::read(pool.bytes(&frame));
                assert_eq!((probe.src, IpAddr::V4(probe.dst)), (TUNNEL_A, tunnel.remote));
                assert_eq!((probe.fragment, probe.payload[0], checksum(&probe.payload)), (DF, 8, 0));
                self.sent.push((tunnel.remote, probe.len()));
                if arrives(tunnel.remote, probe.len()) {
                    answers.push((tunnel.remote, reply(&probe)));
                }
                pool.put(frame);
            }
            self.changes.extend(changes);
            self.now += STEP;
        }
        assert_eq!(self.pool.available(), self.pool.slots());
    }

    fn mtu(&self, peer: Ipv4Addr) -> u16 {
        let of = |(_, tunnel): (_, &margay::fib::Tunnel)| {
            (tunnel.remote == IpAddr::V4(peer)).then(|| tunnel.mtu())
        };
        self.fib.tunnels().filter_map(of).max().unwrap()
    }

    fn news(&mut self) -> Vec<News> {
        self.changes.drain(..).map(|change| change.news).collect()
    }
}

/// As a kernel answers.
fn reply(probe: &Ip) -> Ip {
    let echo = Ip::icmp(probe.dst, probe.src, [0, 0], &probe.payload[4..]);
    Ip { fragment: 0, ..echo }
}

const A_WHILE: Duration = Duration::from_secs(20);

#[test]
fn a_path_that_takes_everything_is_asked_once_a_minute() {
    let mut underlay = Underlay::new();
    underlay.pass(CONFIRM * 3 + Duration::from_secs(1), |_, _| true);
    // Of two tunnels to one peer the IPIP one is asked, as its packets have DF.
    let wanted = [PEER_B, PEER_C].map(|peer| (IpAddr::V4(peer), usize::from(IPIP_MTU)));
    assert_eq!(underlay.sent, wanted.repeat(4));
    assert_eq!(underlay.changes, []);
}

/// A black hole: what is longer vanishes, and nobody says so.
#[test]
fn m6_a_black_hole_is_found_to_the_byte() {
    for path in [576, 577, 1000, 1279, 1280, 1404, 1498, 1499] {
        let mut underlay = Underlay::new();
        let is_b = |peer| peer == IpAddr::V4(PEER_B);
        underlay.pass(A_WHILE, |peer, inner| !is_b(peer) || inner + 20 <= path);
        let path = path as u16;
        assert_eq!(underlay.mtu(PEER_B), path - 20);
        assert_eq!(underlay.mtu(PEER_C), IPIP_MTU);
        let change = Change { peer: PEER_B.into(), news: News::Mtu(path, Evidence::Probed) };
        assert_eq!(underlay.changes, [change], "told once");
        assert!(underlay.sent.len() < 50, "{}", underlay.sent.len());
    }
}

#[test]
fn a_black_hole_that_comes_later_is_found_within_a_minute_and_a_half() {
    let mut underlay = Underlay::new();
    underlay.pass(A_WHILE, |_, _| true);
    underlay.pass(CONFIRM + A_WHILE, |_, inner| inner + 20 <= 1400);
    assert_eq!((underlay.mtu(PEER_B), underlay.mtu(PEER_C)), (1380, 1380));
}

/// M8: what was found is asked for again before it is old, so that no packet falls into the hole meanwhile; and when the
/// path is whole again it is used.
#[test]
fn m8_what_was_found_is_kept_while_it_is_so_and_dropped_when_it_is_not() {
    let mut underlay = Underlay::new();
    let narrow = |_, inner: usize| inner + 20 <= 1400;
    underlay.pass(A_WHILE, narrow);
    assert_eq!(underlay.news().len(), 2);
    for _ in 0..20 {
        underlay.pass(RAISE / 4, narrow);
        assert_eq!((underlay.mtu(PEER_B), underlay.news()), (1380, vec![]));
    }
    underlay.pass(RAISE + CONFIRM + A_WHILE, |_, _| true);
    assert_eq!(underlay.mtu(PEER_B), IPIP_MTU);
    assert_eq!(underlay.news(), [News::MtuRestored, News::MtuRestored]);
}

/// Who answers nothing may be down, or configured so: nothing is concluded, and little is sent.
#[test]
fn a_silent_peer_is_left_as_configured() {
    let mut underlay = Underlay::new();
    underlay.pass(SILENCE * 10, |_, _| false);
    assert_eq!((underlay.mtu(PEER_B), underlay.changes.len()), (IPIP_MTU, 0));
    assert!(underlay.sent.len() < 130, "{}", underlay.sent.len());
}

/// Two in three probes of the full size are lost, as by congestion: never three in a row.
#[test]
fn loss_is_not_taken_for_a_small_mtu() {
    let mut underlay = Underlay::new();
    let mut count = 0;
    underlay.pass(Duration::from_secs(300), |peer, inner| {
        count += usize::from(peer == IpAddr::V4(PEER_B) && inner == usize::from(IPIP_MTU));
        inner < usize::from(IPIP_MTU) || peer != IpAddr::V4(PEER_B) || count.is_multiple_of(3)
    });
    assert_eq!((underlay.mtu(PEER_B), underlay.changes.len()), (IPIP_MTU, 0));
}

/// What a router says meanwhile is used.
#[test]
fn probes_and_routers_work_together() {
    let mut underlay = Underlay::new();
    let tunnel = underlay.fib.tunnels().find(|(_, tunnel)| tunnel.mtu() == IPIP_MTU).unwrap().1;
    let peer = tunnel.remote;
    underlay.paths.told(&underlay.fib, tunnel, 1400, underlay.now);
    underlay.pass(A_WHILE, |at, inner| at != peer || inner + 20 <= 1400);
    assert_eq!(underlay.changes, []);
    assert!(underlay.sent.contains(&(peer, 1380)), "{:?}", underlay.sent);
}

/// The whole worker: a probe leaves by the tunnel, its answer comes by the tunnel and stays; others go to the host.
#[test]
fn a_worker_sends_probes_and_takes_answers() {
    let mut bed = Bed::new().probing();
    let exchange = bed.exchange([]);
    let probes: Vec<Ip> = exchange.out.iter().map(|(_, frame)| Ip::read(&frame.bytes)).collect();
    let [to_b, to_c] = &probes[..] else { panic!("{exchange:?}") };
    assert_eq!((to_b.src, to_b.dst, to_c.dst), (NODE, PEER_B, PEER_C));
    assert_eq!((to_b.len(), to_b.fragment), (usize::from(UNDERLAY_MTU), DF));
    let answer = reply(&Ip::read(&to_b.payload));

    let take = |bed: &mut Bed, frame: MemoryFrame| {
        let exchange = bed.one(PortId::Ipip, frame);
        assert_eq!(exchange.out, []);
        assert_eq!(exchange.tally.punted[PuntReason::ProbeAnswer.index()], 1);
        exchange.tally.dropped[DropReason::ProbeUnasked.index()]
    };
    // Another's number, another peer's question.
    let mut guessed = answer.clone();
    guessed.payload[16] ^= 1;
    assert_eq!(
        take(&mut bed, Ip::icmp(PEER_B, TUNNEL_A, [0, 0], &guessed.payload[4..]).in_ipip(PEER_B, NODE)),
        1
    );
    let first = Ip { fragment: MF, payload: answer.payload[..800].to_vec(), ..answer.clone() };
    assert_eq!(take(&mut bed, first.in_ipip(PEER_B, NODE)), 0, "the first fragment says as much");
    assert_eq!(take(&mut bed, answer.in_ipip(PEER_B, NODE)), 1, "it is answered already");

    let pong = Ip::icmp(PEER_B, TUNNEL_A, [0, 0], b"\x00\x07\x00\x01an answer to somebody else");
    let exchange = bed.one(PortId::Ipip, pong.in_ipip(PEER_B, NODE));
    let [(PortId::Host, frame)] = &exchange.out[..] else { panic!("{exchange:?}") };
    assert_eq!(frame.bytes, pong.bytes());
}
