//! What is known of the way to a peer, and for how long: I8, M8. The clock is the test's.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use margay::dataplane::Paths;
use margay::dataplane::paths::{Change, Evidence, FAULT_LIFETIME, Fault, MTU_LIFETIME, News};
use margay::fib::{Encapsulation, Fib, Tunnel};

use crate::bed::*;

const A_MOMENT: Duration = Duration::from_millis(1);

fn ipip(fib: &Fib, peer: std::net::Ipv4Addr) -> &Tunnel {
    let is_it = |tunnel: &&Tunnel| {
        tunnel.remote == IpAddr::V4(peer) && matches!(tunnel.encapsulation, Encapsulation::Ipip(_))
    };
    fib.tunnels().map(|(_, tunnel)| tunnel).find(is_it).unwrap()
}

fn ticked(paths: &Paths, fib: &Fib, now: Instant) -> Vec<News> {
    let mut changes = Vec::new();
    paths.tick(fib, now, &mut changes);
    changes
        .into_iter()
        .map(|Change { peer, news }| (peer == IpAddr::V4(PEER_B)).then_some(news).unwrap())
        .collect()
}

/// RFC 1191 6.3.
#[test]
fn m8_a_learned_mtu_expires_after_ten_minutes() {
    let (fib, paths, start) = (compile(CLUSTER, "a", Machine::default()), Paths::default(), Instant::now());
    let tunnel = ipip(&fib, PEER_B);
    assert_eq!((paths.deadline(), tunnel.mtu()), (None, IPIP_MTU));
    assert!(paths.told(&fib, tunnel, 1400, start).is_some());
    assert_eq!((tunnel.mtu(), ipip(&fib, PEER_C).mtu()), (1380, IPIP_MTU), "of that peer alone");
    // What arrives meanwhile does not prolong it, nor does a greater one replace it.
    for (mtu, after) in [(1400, 300), (1450, 400)] {
        assert_eq!(paths.told(&fib, tunnel, mtu, start + Duration::from_secs(after)), None);
        assert_eq!(tunnel.mtu(), 1380);
    }
    assert_eq!(MTU_LIFETIME, Duration::from_secs(600));
    let end = start + MTU_LIFETIME;
    assert!(paths.deadline().is_some_and(|due| end - A_MOMENT < due && due < end + A_MOMENT));
    assert_eq!(ticked(&paths, &fib, end - A_MOMENT), []);
    assert_eq!(tunnel.mtu(), 1380);
    assert_eq!(ticked(&paths, &fib, end), [News::MtuExpired]);
    assert_eq!((tunnel.mtu(), paths.deadline()), (IPIP_MTU, None));
    assert!(paths.snapshot().is_empty());
    // It can be learned again.
    assert!(paths.told(&fib, tunnel, 1400, end).is_some());
}

#[test]
fn m6_the_mtu_of_each_encapsulation_is_the_paths_without_its_own_overhead() {
    let (fib, paths) = (compile(CLUSTER, "a", Machine::default()), Paths::default());
    paths.told(&fib, ipip(&fib, PEER_B), 1000, Instant::now());
    let mut mtus: Vec<_> = fib.tunnels().map(|(_, tunnel)| (tunnel.remote, tunnel.mtu())).collect();
    mtus.sort();
    let [b, c] = [PEER_B, PEER_C].map(IpAddr::V4);
    assert_eq!(mtus, [(b, 950), (b, 980), (c, 1450), (c, IPIP_MTU)]);
}

#[test]
fn i8_a_fault_lasts_a_minute_after_the_last_error_and_is_told_once() {
    let (fib, paths, start) = (compile(CLUSTER, "a", Machine::default()), Paths::default(), Instant::now());
    let tunnel = ipip(&fib, PEER_B);
    let at = |seconds| start + Duration::from_secs(seconds);
    let change = Change { peer: PEER_B.into(), news: News::Fault(Fault::HostUnreachable) };
    assert_eq!(paths.failed(tunnel, Fault::HostUnreachable, start), Some(change));
    for (seconds, fault) in [(1, Fault::NetUnreachable), (30, Fault::HostUnreachable)] {
        assert_eq!(paths.failed(tunnel, fault, at(seconds)), None, "no news");
        assert_eq!(paths.snapshot()[&IpAddr::V4(PEER_B)].fault, Some((fault, at(seconds) + FAULT_LIFETIME)));
    }
    assert_eq!(ticked(&paths, &fib, at(89)), []);
    assert_eq!(ticked(&paths, &fib, at(90)), [News::FaultOver]);
    assert!(paths.snapshot().is_empty());
    assert_eq!(tunnel.mtu(), IPIP_MTU, "packets are tried all the same");
}

/// Probes see what is, routers what is too large: more is believed from probes alone.
#[test]
fn m8_probes_may_raise_what_was_learned() {
    let (fib, paths, now) = (compile(CLUSTER, "a", Machine::default()), Paths::default(), Instant::now());
    let tunnel = ipip(&fib, PEER_B);
    let news = |change: Option<Change>| change.map(|change| change.news);
    assert_eq!(news(paths.probed(&fib, tunnel, None, now)), None, "as configured is no news");
    assert_eq!(news(paths.probed(&fib, tunnel, Some(1300), now)), Some(News::Mtu(1300, Evidence::Probed)));
    assert_eq!(news(paths.probed(&fib, tunnel, Some(1300), now)), None);
    assert_eq!(news(paths.probed(&fib, tunnel, Some(1404), now)), Some(News::Mtu(1404, Evidence::Probed)));
    assert_eq!(tunnel.mtu(), 1384);
    assert_eq!(news(paths.probed(&fib, tunnel, None, now)), Some(News::MtuRestored));
    assert_eq!((tunnel.mtu(), paths.snapshot().len(), paths.deadline()), (IPIP_MTU, 0, None));
}
