//! Longest prefix match, margay's and the crates that one would pick instead, side by side.
//!
//! A group is a table; in it each crate looks up the same 64 Ki addresses, nine in ten of them hits, by
//! the fastest API and key type that it has. All answers are compared before anything is timed.

#[path = "tables/mod.rs"]
mod tables;

use std::fmt::Display;
use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use ip_network::{Ipv4Network, Ipv6Network};
use ip_network_table::IpNetworkTable;
use iptrie::map::{LCTrieMap, RTrieMap};
use iptrie::{Ipv4Prefix, Ipv6Prefix};
use margay::lpm::{Address, Lpm};
use poptrie::Poptrie;
use prefix_trie::PrefixMap;

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
    let routes = tables::cluster(200, 250);
    table(&mut criterion, "cluster-450", &routes, &tables::addresses(&routes, ADDRESSES));
    let routes = tables::mixed(100_000 / scale);
    table(&mut criterion, "mixed-100k", &routes, &tables::addresses(&routes, ADDRESSES));
    let routes = tables::internet(1_000_000 / scale);
    table(&mut criterion, "internet-1M", &routes, &tables::addresses(&routes, ADDRESSES));
    let routes = tables::ipv6::cluster(200, 250);
    table(&mut criterion, "ipv6-cluster-450", &routes, &tables::ipv6::addresses(&routes, ADDRESSES));
    let routes = tables::ipv6::internet(100_000 / scale);
    table(&mut criterion, "ipv6-internet-100k", &routes, &tables::ipv6::addresses(&routes, ADDRESSES));
    criterion.final_summary();
}

/// Times every crate on one table.
fn table<A: Others>(criterion: &mut Criterion, name: &str, routes: &[(A, u8, u32)], addresses: &[A]) {
    let margay = Lpm::build(NO_ROUTE, routes.iter().copied()).expect("valid routes");
    eprintln!("{name}: {} routes, {} bytes", routes.len(), margay.memory());
    let expected: Vec<u32> = addresses.iter().map(|&addr| margay.lookup(addr)).collect();

    let mut group = criterion.benchmark_group(format!("lpm/{name}"));
    group.throughput(Throughput::Elements(ADDRESSES as u64));
    let mut side = Side { group: &mut group, addresses, expected: &expected };
    side.run("margay", |addr| margay.lookup(addr));
    side.run("poptrie", A::poptrie(routes));
    side.run("iptrie", A::iptrie(routes));
    side.run("ip_network_table", A::ip_network_table(routes));
    side.run("prefix-trie", A::prefix_trie(routes));

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
struct Side<'a, 'b, A> {
    group: &'a mut BenchmarkGroup<'b, WallTime>,
    addresses: &'a [A],
    expected: &'a [u32],
}

impl<A: Address + Display> Side<'_, '_, A> {
    fn run(&mut self, name: &str, lookup: impl Fn(A) -> u32) {
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

/// The other crates' tables for one family, each with its lookup.
trait Others: Address + Display {
    fn poptrie(routes: &[(Self, u8, u32)]) -> impl Fn(Self) -> u32;
    /// The compressed form, which iptrie's documentation recommends for lookups.
    fn iptrie(routes: &[(Self, u8, u32)]) -> impl Fn(Self) -> u32;
    fn ip_network_table(routes: &[(Self, u8, u32)]) -> impl Fn(Self) -> u32;
    fn prefix_trie(routes: &[(Self, u8, u32)]) -> impl Fn(Self) -> u32;
}

/// They share no trait over families: the same text for each.
macro_rules! others {
    ($address:ty, $bits:ty, $prefix:ty, $network:ty, $longest_match:ident) => {
        impl Others for $address {
            fn poptrie(routes: &[(Self, u8, u32)]) -> impl Fn(Self) -> u32 {
                let map: Poptrie<($bits, u8), u32> =
                    routes.iter().map(|&(addr, len, value)| ((addr.to_bits(), len), value)).collect();
                move |addr| map.lookup(addr.to_bits()).copied().unwrap_or(NO_ROUTE)
            }

            fn iptrie(routes: &[(Self, u8, u32)]) -> impl Fn(Self) -> u32 {
                let mut map: RTrieMap<$prefix, u32> =
                    RTrieMap::with_root_and_capacity(NO_ROUTE, routes.len());
                for &(addr, len, value) in routes {
                    map.insert(<$prefix>::new(addr, len).expect("a valid length"), value);
                }
                let map: LCTrieMap<$prefix, u32> = map.compress();
                move |addr| *map.lookup(&addr).1
            }

            fn ip_network_table(routes: &[(Self, u8, u32)]) -> impl Fn(Self) -> u32 {
                let mut map = IpNetworkTable::new();
                for &(addr, len, value) in routes {
                    map.insert(<$network>::new(addr, len).expect("no host bits"), value);
                }
                move |addr| map.$longest_match(addr).map_or(NO_ROUTE, |(_, &value)| value)
            }

            fn prefix_trie(routes: &[(Self, u8, u32)]) -> impl Fn(Self) -> u32 {
                let map: PrefixMap<($bits, u8), u32> =
                    routes.iter().map(|&(addr, len, value)| ((addr.to_bits(), len), value)).collect();
                let host = <$bits>::BITS as u8;
                move |addr| map.get_lpm(&(addr.to_bits(), host)).map_or(NO_ROUTE, |(_, &value)| value)
            }
        }
    };
}

others!(Ipv4Addr, u32, Ipv4Prefix, Ipv4Network, longest_match_ipv4);
others!(Ipv6Addr, u128, Ipv6Prefix, Ipv6Network, longest_match_ipv6);
