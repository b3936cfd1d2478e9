//! An underlay that is slower than the pods: what cannot leave yet waits where it came from.

mod lab;

use std::io::{Error, Read};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lab::{build, margay, until};
use margay::rib::Attach;
use margay::testbed::{Lab, LabSpec, Mode, Pod, transfer};
use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

// linux/pkt_sched.h
const TC_H_ROOT: u32 = u32::MAX;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_BURST: u16 = 6;

/// Has a node's underlay send so many bytes a second, and keep what is more: the sockets fill. A token bucket
/// (`tc qdisc replace dev eth0 root tbf`), asked for by route netlink.
fn slow_down(lab: &Lab, node: usize, bytes_per_second: u32) {
    let netns = &lab.nodes[node].netns;
    let underlay = netns.netlink().unwrap().link("eth0").unwrap().index;
    let answer = netns.run(|| ask(&token_bucket(underlay.0, bytes_per_second))).unwrap().unwrap();
    // nlmsgerr: the error stands after the header of 16 bytes.
    let errno = -i32::from_ne_bytes(answer[16..20].try_into().unwrap());
    assert_eq!(errno, 0, "this test needs a kernel with sch_tbf: {}", Error::from_raw_os_error(errno));
}

/// One request of route netlink, and the answer.
fn ask(request: &[u8]) -> std::io::Result<Vec<u8>> {
    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(libc::NETLINK_ROUTE.into()))?;
    socket.send(request)?;
    let mut answer = vec![0; 4096];
    let len = (&socket).read(&mut answer)?;
    answer.truncate(len);
    Ok(answer)
}

/// RTM_NEWQDISC of a tbf (linux/pkt_sched.h) with a burst of 128 KB and room for a gigabyte.
fn token_bucket(interface: u32, bytes_per_second: u32) -> Vec<u8> {
    const BURST: u32 = 128_000;
    let rate = |rate: u32| {
        // tc_ratespec: cell_log, linklayer Ethernet, overhead, cell_align, mpu, rate.
        [&[0, 1, 0, 0, 0, 0, 0, 0][..], &rate.to_ne_bytes()].concat()
    };
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
    let attribute = |kind: u16, data: &[u8]| {
        let len = (4 + data.len()) as u16;
        let mut bytes = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), data].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    // tc_tbf_qopt: rate, no peak rate, limit in bytes, buffer and mtu, which TCA_TBF_BURST gives in bytes.
    let parameters = [rate(bytes_per_second), rate(0), words(&[1 << 30, 0, 0])].concat();
    let options = [attribute(TCA_TBF_PARMS, &parameters), attribute(TCA_TBF_BURST, &words(&[BURST]))];
    let attributes = [attribute(libc::TCA_KIND, b"tbf\0"), attribute(libc::TCA_OPTIONS, &options.concat())];
    // tcmsg: family, interface, handle, parent, info.
    let message = [words(&[0, interface, 0, TC_H_ROOT, 0]), attributes.concat()].concat();
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
    let kind = [libc::RTM_NEWQDISC.to_ne_bytes(), flags.to_ne_bytes()].concat();
    [words(&[16 + message.len() as u32]), kind, words(&[1, 0]), message].concat()
}

/// Datagrams of one flow, far more than the underlay takes, until told to end.
fn flood(from: &Pod, to: &Pod, end: &AtomicBool) {
    let socket = from.netns.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    socket.set_nonblocking(true).unwrap();
    while !end.load(Ordering::Relaxed) {
        for _ in 0..64 {
            // The pod's own queue may be full.
            let _ = socket.send_to(&[0; 1400], (to.address, 9));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// One pod floods the underlay, two others send to the other node as well, and two talk on the same node.
fn nothing_is_lost(spec: LabSpec) {
    const ACROSS: u64 = 1_000_000;
    const LOCAL: u64 = 5_000_000;
    let what = format!("{:?}, {:?}", spec.mode, spec.attach);
    let mut lab = build(LabSpec { pods_per_node: 5, ..spec });
    slow_down(&lab, 0, 12_500_000);
    lab.start(margay(), &[]).unwrap_or_else(|error| panic!("{what}: {error}"));
    let [a, b] = &lab.nodes;
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| flood(&a.pods[0], &b.pods[0], &end));
        let transfers = [
            (&a.pods[1], &b.pods[1], ACROSS),
            (&a.pods[2], &b.pods[2], ACROSS),
            (&a.pods[3], &a.pods[4], LOCAL),
        ];
        let transfers = transfers.map(|(from, to, bytes)| {
            let moved = scope.spawn(move || transfer(&from.netns, &to.netns, to.address, bytes));
            (format!("{what}: {} to {}", from.name, to.name), bytes, moved)
        });
        let done = transfers.map(|(what, bytes, moved)| (what, bytes, moved.join()));
        end.store(true, Ordering::Relaxed);
        for (what, bytes, moved) in done {
            let moved = moved.unwrap().unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(moved.bytes == bytes && moved.intact(), "{what}: {moved:?}");
        }
    });
    let daemon = lab.nodes[0].daemon().unwrap();
    daemon.signal(Signal::SIGTERM).unwrap();
    until("the summary", || daemon.output().contains("frames in"));
    let said = daemon.output();
    assert!(!said.contains("tx_queue_full"), "{what}: {said}");
}

#[test]
fn a_slow_underlay_loses_nothing_of_bulk_transfers_by_vxlan() {
    nothing_is_lost(LabSpec::new(Mode::Vxlan));
}

#[test]
fn a_slow_underlay_loses_nothing_of_bulk_transfers_by_ipip() {
    nothing_is_lost(LabSpec { attach: Attach::Veth, ..LabSpec::new(Mode::Ipip) });
}
