//! Longest prefix match, margay's and the crates that one would pick instead, side by side.
//!
//! A group is a table; in it each crate looks up the same 64 Ki addresses, nine in ten of them hits, by
//! the fastest API and key type that it has. All answers are compared before anything is timed.

#[path = "tables/mod.rs"]
mod tables;

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use ip_network::Ipv4Network;
use ip_network_table::IpNetworkTable;
use iptrie::Ipv4Prefix;
use iptrie::map::{LCTrieMap, RTrieMap};
use margay::lpm::Lpm;
use poptrie::Poptrie;
use prefix_trie::PrefixMap;
use tables::Route;

/// What a lookup answers where no route matches.
const NO_ROUTE: u32 = 999_999;

/// Addresses of a pass: more than a branch predictor learns by heart.
const ADDRESSES: usize = 1 << 16;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20)
        .configure_from_args();
    // A smoke run (`--test`) shows that everything works; a small table shows that as well as a large one.
    let smoke = std::env::args().any(|arg| arg == "--test");
    let scale = if smoke { 100 } else { 1 };
    table(&mut criterion, "cluster-450", &tables::cluster(200, 250));
    table(&mut criterion, "mixed-100k", &tables::mixed(100_000 / scale));
    table(&mut criterion, "internet-1M", &tables::internet(1_000_000 / scale));
    criterion.final_summary();
}

/// Times every crate on one table.
fn table(criterion: &mut Criterion, name: &str, routes: &[Route]) {
    let addresses = tables::addresses(routes, ADDRESSES);
    let margay = Lpm::build(NO_ROUTE, routes.iter().copied()).expect("valid routes");
    eprintln!("{name}: {} routes, {} bytes", routes.len(), margay.memory());
    let expected: Vec<u32> = addresses.iter().map(|&addr| margay.lookup(addr)).collect();

    let mut group = criterion.benchmark_group(format!("lpm/{name}"));
    group.throughput(Throughput::Elements(ADDRESSES as u64));
    let mut side = Side { group: &mut group, addresses: &addresses, expected: &expected };
    side.run("margay", |addr| margay.lookup(addr));

    let other = poptrie(routes);
    side.run("poptrie", |addr| other.lookup(addr.to_bits()).copied().unwrap_or(NO_ROUTE));

    let other = iptrie(routes);
    side.run("iptrie", |addr| *other.lookup(&addr).1);

    let other = ip_network_table(routes);
    side.run("ip_network_table", |addr| other.longest_match_ipv4(addr).map_or(NO_ROUTE, |(_, &value)| value));

    let other = prefix_trie(routes);
    side.run("prefix-trie", |addr| {
        other.get_lpm(&(addr.to_bits(), 32)).map_or(NO_ROUTE, |(_, &value)| value)
    });

    group.throughput(Throughput::Elements(routes.len() as u64));
    group.sample_size(10);
    group.bench_function("build/margay", |bencher| {
        bencher.iter_batched(
            || routes.to_vec(),
            |routes| Lpm::build(NO_ROUTE, routes).expect("valid routes"),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

/// One table's group with what every crate in it is asked.
struct Side<'a, 'b> {
    group: &'a mut BenchmarkGroup<'b, WallTime>,
    addresses: &'a [Ipv4Addr],
    expected: &'a [u32],
}

impl Side<'_, '_> {
    fn run(&mut self, name: &str, lookup: impl Fn(Ipv4Addr) -> u32) {
        for (&addr, &expected) in self.addresses.iter().zip(self.expected) {
            assert_eq!(lookup(addr), expected, "{name}: {addr}");
        }
        self.group.bench_function(name, |bencher| {
            bencher.iter(|| {
                self.addresses.iter().fold(0, |sum: u32, &addr| sum.wrapping_add(lookup(black_box(addr))))
            })
        });
    }
}

fn poptrie(routes: &[Route]) -> Poptrie<(u32, u8), u32> {
    routes.iter().map(|&(addr, len, value)| ((addr.to_bits(), len), value)).collect()
}

/// The compressed form, which iptrie's documentation recommends for lookups.
fn iptrie(routes: &[Route]) -> LCTrieMap<Ipv4Prefix, u32> {
    let mut map = RTrieMap::with_root_and_capacity(NO_ROUTE, routes.len());
    for &(addr, len, value) in routes {
        map.insert(Ipv4Prefix::new(addr, len).expect("a valid length"), value);
    }
    map.compress()
}

fn ip_network_table(routes: &[Route]) -> IpNetworkTable<u32> {
    let mut map = IpNetworkTable::new();
    for &(addr, len, value) in routes {
        map.insert(Ipv4Network::new(addr, len).expect("no host bits"), value);
    }
    map
}

fn prefix_trie(routes: &[Route]) -> PrefixMap<(u32, u8), u32> {
    routes.iter().map(|&(addr, len, value)| ((addr.to_bits(), len), value)).collect()
}
