//! The sum, the cut and the join, each beside the crates that one would pick instead.
//!
//! All answers are compared before anything is timed.

#[path = "../tests/segmentation/streams.rs"]
mod streams;

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput};
use etherparse::checksum::u64_16bit_word;
use margay::io::join::join;
use margay::io::offload::{MAX_HEAD, SuperFrame};
use margay::wire::checksum;
use streams::{BOTH, Ip, Loose, Stream, Transport, in_pool, joined, noise};
use tun_rs::{GROTable, VIRTIO_NET_HDR_LEN, VirtioNetHdr, gso_split};

/// Payload of a segment in a pod of MTU 1450 with timestamps.
const MSS: u16 = 1398;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20)
        .configure_from_args();
    sum(&mut criterion);
    cut(&mut criterion);
    join_segments(&mut criterion);
    criterion.final_summary();
}

fn sum(criterion: &mut Criterion) {
    for len in [64, 1398, 60_000] {
        let bytes = noise(1, len);
        let mut group = criterion.benchmark_group(format!("checksum/{len}"));
        group.throughput(Throughput::Bytes(len as u64));
        let wanted = checksum::checksum(&bytes);
        assert_eq!(internet_checksum::checksum(&bytes), wanted.to_be_bytes());
        assert_eq!(etherparse_sum(&bytes), wanted);
        assert_eq!(pnet::packet::util::checksum(&bytes, usize::MAX), wanted);
        assert_eq!(tun_rs::checksum(&bytes, 0), !wanted);
        group.bench_function("margay", |b| b.iter(|| checksum::checksum(black_box(&bytes))));
        group.bench_function("internet-checksum", |b| {
            b.iter(|| internet_checksum::checksum(black_box(&bytes)));
        });
        group.bench_function("etherparse", |b| b.iter(|| etherparse_sum(black_box(&bytes))));
        group.bench_function("pnet", |b| {
            b.iter(|| pnet::packet::util::checksum(black_box(&bytes), usize::MAX));
        });
        group.bench_function("tun-rs", |b| b.iter(|| tun_rs::checksum(black_box(&bytes), 0)));
        group.finish();
    }
}

fn etherparse_sum(bytes: &[u8]) -> u16 {
    u64_16bit_word::ones_complement(u64_16bit_word::add_slice(0, bytes)).to_be()
}

fn v4() -> Ip {
    let addresses = [[10, 65, 0, 2], [10, 65, 0, 66]].map(Ipv4Addr::from);
    Ip::V4 { id: 1, dont_fragment: true, addresses }
}

fn v6() -> Ip {
    let addresses = [1, 2].map(|host| Ipv6Addr::new(0xfd00, 0x65, 0, 0, 0, 0, 0, host));
    Ip::V6 { flow_label: 0x12345, extensions: Vec::new(), addresses }
}

/// TCP with timestamps (over IPv4 with DF), `len` bytes of payload; not behind an Ethernet header: that is how tun-rs has it.
fn stream(ip: Ip, len: usize) -> Stream {
    Stream {
        has_ethernet: false,
        tos: 0,
        ttl: 63,
        ip,
        ports: [49152, 80],
        transport: Transport::Tcp {
            seq: 1,
            ack: 1,
            window: 500,
            flags: 0x10,
            options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
        },
        size: MSS,
        payload: noise(2, len),
    }
}

/// Of margay: a head for each segment, and a slice of the payload where it lies. Of tun-rs: whole packets.
fn cut(criterion: &mut Criterion) {
    for (family, ip, gso_type) in [("", v4(), 1), ("-v6", v6(), 4)] {
        let stream = stream(ip, 60_000);
        let (mut whole, offload) = (stream.whole(), stream.offload());
        let (count, head_len) = (60_000_usize.div_ceil(MSS.into()), stream.head_len());
        let mut group = criterion.benchmark_group(format!("cut{family}/60000"));
        group.throughput(Throughput::Bytes(60_000));

        let segments = offload.segments.expect("a super-frame");
        let bytes = whole.clone();
        group.bench_function("margay", |b| {
            let mut heads = vec![[0; MAX_HEAD]; count];
            b.iter(|| {
                let super_frame =
                    SuperFrame::parse(black_box(&bytes), stream.outer(), segments).expect("it can be cut");
                for (index, head) in heads.iter_mut().enumerate() {
                    super_frame.write_head(index, &mut head[..super_frame.head_len()]);
                    black_box((&head, super_frame.payload(index)));
                }
            });
        });

        let header = VirtioNetHdr {
            flags: 1,
            gso_type,
            hdr_len: head_len as u16,
            gso_size: MSS,
            csum_start: head_len as u16 - 32,
            csum_offset: 16,
        };
        let mut out = vec![vec![0; 1500]; count];
        let mut sizes = vec![0; count];
        assert_eq!(gso_split(&mut whole, header, &mut out, &mut sizes, 0, gso_type == 4).ok(), Some(count));
        let theirs: Vec<&[u8]> = out.iter().zip(&sizes).map(|(bytes, len)| &bytes[..*len]).collect();
        assert_eq!(theirs, stream.pieces());
        let untouched = stream.whole();
        group.bench_function("tun-rs", |b| {
            b.iter(|| {
                // It leaves its input changed.
                whole[..head_len].copy_from_slice(&untouched[..head_len]);
                gso_split(black_box(&mut whole), header, &mut out, &mut sizes, 0, gso_type == 4)
            });
        });
        group.finish();
    }
}

/// Of margay: the new head, and slices of the payloads where they lie. Of tun-rs: the payloads put together.
fn join_segments(criterion: &mut Criterion) {
    for (family, ip) in [("", v4()), ("-v6", v6())] {
        let stream = stream(ip, 44 * usize::from(MSS));
        let pieces = stream.pieces();
        let frames: Vec<Loose> = pieces.iter().cloned().map(Loose::plain).collect();
        assert_eq!(joined(&frames, 0, BOTH).len(), 1);
        let mut group = criterion.benchmark_group(format!("join{family}/44"));
        group.throughput(Throughput::Bytes(44 * u64::from(MSS)));
        in_pool(&frames, |pool, batch| {
            group.bench_function("margay", |b| {
                b.iter(|| {
                    join(pool, black_box(batch), 0, BOTH, |run| {
                        let mut head = [0; MAX_HEAD];
                        black_box(run.write_head(&mut head));
                        run.payloads().for_each(|payload| {
                            black_box(payload);
                        });
                    });
                });
            });
        });

        let buffers = || -> Vec<Vec<u8>> {
            let mut buffers: Vec<Vec<u8>> =
                pieces.iter().map(|piece| [&[0; VIRTIO_NET_HDR_LEN][..], piece].concat()).collect();
            buffers[0].reserve(65_536);
            buffers
        };
        let whole_len = stream.whole().len();
        let mut table = GROTable::new();
        group.bench_function("tun-rs", |b| {
            b.iter_batched_ref(
                &buffers,
                |buffers| {
                    table.apply_gro(buffers, VIRTIO_NET_HDR_LEN, true).expect("it joins");
                    assert_eq!(buffers[0].len(), VIRTIO_NET_HDR_LEN + whole_len);
                },
                BatchSize::PerIteration,
            );
        });
        group.finish();
    }
}
