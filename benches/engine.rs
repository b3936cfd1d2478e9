//! What a packet costs: the engine alone, a worker's whole turn, and the same headers by other crates.
//!
//! - `engine/PATH`: 64 frames copied into slots, forwarded, and their slots given back, as a batch goes;
//!   `engine/nothing` is the copying and giving back alone, for who wants to subtract it.
//! - `turn/PATH`: `Worker::turn` with ports that only copy in and throw away: what a worker adds (readiness,
//!   clock, queues, counters).
//! - `encapsulate/HEADERS`: parse a frame, decrement the TTL and put the tunnel's headers in front, as one
//!   would do it by etherparse and by pnet: no lookup, no antispoofing, no MTU. margay does all of it, its
//!   copying into slots included.

#[path = "scene/mod.rs"]
mod scene;

use std::hint::black_box;
use std::io::Write;
use std::time::{Duration, Instant};

use criterion::{Bencher, Criterion, Throughput};
use etherparse::{EtherType, Ethernet2Header, Ethernet2Slice, IpNumber, Ipv4Header};
use margay::io::BATCH;
use pnet::packet::Packet;
use pnet::packet::ethernet::{EtherTypes, EthernetPacket, MutableEthernetPacket};
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::{self, Ipv4Flags, Ipv4Packet, MutableIpv4Packet};
use pnet::packet::vxlan::MutableVxlanPacket;
use pnet::util::MacAddr;
use scene::{Bare, Input, Path, Scene};

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30)
        .configure_from_args();
    let scene = Scene::new();
    engine(&mut criterion, &scene);
    turn(&mut criterion, &scene);
    encapsulate(&mut criterion, &scene, "vxlan", Path::WorkloadToVxlan, [etherparse_vxlan, pnet_vxlan]);
    encapsulate(&mut criterion, &scene, "ipip", Path::WorkloadToIpip, [etherparse_ipip, pnet_ipip]);
    criterion.final_summary();
}

/// Turns between two looks at the clock: some 20 microseconds, seldom interrupted, and long for the clock.
const WINDOW: u64 = 8;

/// What criterion's own loop does, but that of a sample's windows the median counts: where other programs
/// want the core too, the mean tells how often they had it.
fn steady(bencher: &mut Bencher<'_>, mut turn: impl FnMut()) {
    let mut windows = Vec::new();
    bencher.iter_custom(|turns| {
        windows.clear();
        windows.extend((0..turns.div_ceil(WINDOW)).map(|_| {
            let start = Instant::now();
            (0..WINDOW).for_each(|_| turn());
            start.elapsed()
        }));
        let middle = windows.len() / 2;
        let (_, median, _) = windows.select_nth_unstable(middle);
        median.mul_f64(turns as f64 / WINDOW as f64)
    });
}

fn engine(criterion: &mut Criterion, scene: &Scene) {
    let mut group = criterion.benchmark_group("engine");
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut bare = Bare::new(scene, Path::WorkloadToVxlan);
    group.bench_function("nothing", |bencher| steady(bencher, || bare.idle_turn()));
    for path in Path::ALL {
        let mut bare = Bare::new(scene, path);
        group.bench_function(path.name(), |bencher| {
            steady(bencher, || {
                bare.turn(|verdict| {
                    let _ = black_box(verdict);
                })
            })
        });
    }
    group.finish();
}

fn turn(criterion: &mut Criterion, scene: &Scene) {
    let mut group = criterion.benchmark_group("turn");
    group.throughput(Throughput::Elements(BATCH as u64));
    for path in Path::ALL {
        let mut worker = scene.worker(&[path]);
        group.bench_function(path.name(), |bencher| {
            steady(bencher, || {
                worker.turn(Some(Duration::ZERO)).expect("epoll works");
            })
        });
    }
    group.finish();
}

/// Longest packet that the comparison makes.
type Out = [u8; 128];
type Encapsulate = fn(&[u8], &mut Out) -> usize;

fn encapsulate(criterion: &mut Criterion, scene: &Scene, name: &str, path: Path, others: [Encapsulate; 2]) {
    let inputs = scene.inputs(path);
    let mut bare = Bare::new(scene, path);
    let mut group = criterion.benchmark_group(format!("encapsulate/{name}"));
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, other) in ["etherparse", "pnet"].into_iter().zip(others) {
        for input in &inputs {
            let (ours, theirs) = (bare.output(input), made_by(other, input));
            // All but the outer header, which names another peer there, is the same.
            let from = ours.len() - (input.len - 14);
            assert_eq!(ours.len(), theirs.len(), "{name}");
            assert_eq!(ours[from..], theirs[from..], "{name}");
        }
    }
    group.bench_function("margay", |bencher| {
        steady(bencher, || {
            bare.turn(|verdict| {
                let _ = black_box(verdict);
            })
        })
    });
    for (name, other) in ["etherparse", "pnet"].into_iter().zip(others) {
        let (mut out, mut next) = ([[0; 128]; BATCH], 0);
        group.bench_function(name, |bencher| {
            steady(bencher, || {
                for out in &mut out {
                    let input = &inputs[next % inputs.len()];
                    next += 1;
                    black_box(other(black_box(&input.bytes[..input.len]), out));
                }
            })
        });
    }
    group.finish();
}

fn made_by(other: Encapsulate, input: &Input) -> Vec<u8> {
    let mut out = [0; 128];
    let len = other(&input.bytes[..input.len], &mut out);
    out[..len].to_vec()
}

const HERE: [u8; 4] = [192, 168, 0, 1];
const PEER: [u8; 4] = [192, 168, 1, 9];
const VTEPS: [[u8; 6]; 2] = [[0x66, 0, 0, 0, 0, 1], [0x66, 0, 0, 1, 0, 9]];

fn etherparse_forward(frame: &[u8]) -> (Ipv4Header, &[u8]) {
    let ethernet = Ethernet2Slice::from_slice_without_fcs(frame).expect("a frame");
    let (mut ip, rest) = Ipv4Header::from_slice(ethernet.payload_slice()).expect("a packet");
    assert_eq!(ip.calc_header_checksum(), ip.header_checksum);
    ip.time_to_live -= 1;
    let payload = &rest[..usize::from(ip.payload_len().expect("a length"))];
    (ip, payload)
}

fn etherparse_ipip(frame: &[u8], out: &mut Out) -> usize {
    let (ip, payload) = etherparse_forward(frame);
    let outer = Ipv4Header::new(ip.total_len, 64, IpNumber::IPV4, HERE, PEER).expect("it fits");
    let mut rest = &mut out[..];
    outer.write(&mut rest).expect("room");
    ip.write(&mut rest).expect("room");
    rest.write_all(payload).expect("room");
    128 - rest.len()
}

fn etherparse_vxlan(frame: &[u8], out: &mut Out) -> usize {
    let (ip, payload) = etherparse_forward(frame);
    let mut rest = &mut out[..];
    rest.write_all(&[0x08, 0, 0, 0, 0x00, 0x10, 0x00, 0x00]).expect("room");
    let [source, destination] = VTEPS;
    Ethernet2Header { source, destination, ether_type: EtherType::IPV4 }.write(&mut rest).expect("room");
    ip.write(&mut rest).expect("room");
    rest.write_all(payload).expect("room");
    128 - rest.len()
}

/// Copies the packet of `frame` to `at`, one hop less, and says where it ends.
fn pnet_forward(frame: &[u8], out: &mut Out, at: usize) -> usize {
    let ethernet = EthernetPacket::new(frame).expect("a frame");
    let ip = Ipv4Packet::new(ethernet.payload()).expect("a packet");
    assert_eq!(ipv4::checksum(&ip), ip.get_checksum());
    let len = usize::from(ip.get_total_length());
    out[at..at + len].copy_from_slice(&ip.packet()[..len]);
    let mut ip = MutableIpv4Packet::new(&mut out[at..at + len]).expect("a packet");
    ip.set_ttl(ip.get_ttl() - 1);
    ip.set_checksum(ipv4::checksum(&ip.to_immutable()));
    at + len
}

fn pnet_ipip(frame: &[u8], out: &mut Out) -> usize {
    let end = pnet_forward(frame, out, Ipv4Packet::minimum_packet_size());
    let mut outer = MutableIpv4Packet::new(&mut out[..end]).expect("room");
    outer.set_version(4);
    outer.set_header_length(5);
    outer.set_total_length(end as u16);
    outer.set_flags(Ipv4Flags::DontFragment);
    outer.set_ttl(64);
    outer.set_next_level_protocol(IpNextHeaderProtocols::IpIp);
    outer.set_source(HERE.into());
    outer.set_destination(PEER.into());
    outer.set_checksum(0);
    outer.set_checksum(ipv4::checksum(&outer.to_immutable()));
    end
}

fn pnet_vxlan(frame: &[u8], out: &mut Out) -> usize {
    let end = pnet_forward(frame, out, 22);
    let mut vxlan = MutableVxlanPacket::new(&mut out[..8]).expect("room");
    vxlan.set_flags(0x08);
    vxlan.set_vni(4096);
    let mut ethernet = MutableEthernetPacket::new(&mut out[8..22]).expect("room");
    let [source, destination] = VTEPS.map(MacAddr::from);
    ethernet.set_source(source);
    ethernet.set_destination(destination);
    ethernet.set_ethertype(EtherTypes::Ipv4);
    end
}
