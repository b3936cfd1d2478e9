//! Longest prefix match against a naive model: statements F7, F8 and F12 of the forwarding standards.
//!
//! The model is a list of routes of which a lookup reads every one. The tables get random routes that
//! nest and overlap, are withdrawn and come back; each is asked at the edges of every prefix, where
//! mistakes live, and at random addresses. What this cannot see: how fast an answer comes.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use margay::lpm::{Address, BuildError, Lpm, MAX_VALUE, Prefix, longest_match};
use proptest::prelude::*;

const DEFAULT: u32 = 77;

/// What the model needs to know of a family.
trait Family: Address + Debug + Ord {
    const WIDTH: u8;
    fn from_key(key: u128) -> Self;
    fn to_key(self) -> u128;

    fn all_ones() -> u128 {
        u128::MAX >> (128 - Self::WIDTH)
    }

    fn host_bits(len: u8) -> u128 {
        Self::all_ones().checked_shr(len.into()).unwrap_or(0)
    }
}

impl Family for Ipv4Addr {
    const WIDTH: u8 = 32;
    fn from_key(key: u128) -> Self {
        (key as u32).into()
    }
    fn to_key(self) -> u128 {
        u32::from(self).into()
    }
}

impl Family for Ipv6Addr {
    const WIDTH: u8 = 128;
    fn from_key(key: u128) -> Self {
        key.into()
    }
    fn to_key(self) -> u128 {
        self.into()
    }
}

/// Every route, by first address and length.
#[derive(Default)]
struct Model {
    routes: BTreeMap<(u128, u8), u32>,
}

impl Model {
    fn lookup<A: Family>(&self, addr: A) -> u32 {
        let holds = |net: u128, len: u8| addr.to_key() & !A::host_bits(len) == net;
        let matching = self.routes.iter().filter(|((net, len), _)| holds(*net, *len));
        matching.max_by_key(|((_, len), _)| *len).map_or(DEFAULT, |(_, &value)| value)
    }

    fn compile<A: Family>(&self) -> Lpm<A> {
        let routes = self.routes.iter().map(|(&(net, len), &value)| (A::from_key(net), len, value));
        Lpm::build(DEFAULT, routes).expect("valid routes")
    }

    /// Compares the table with the model at the first and last address of each prefix of `asked`, at
    /// their neighbours, at what differs from the last of them in one bit, and at both ends of the
    /// address space.
    fn check<A: Family>(&self, asked: &[(u128, u8)]) {
        let table = self.compile::<A>();
        let edges = asked.iter().flat_map(|&(net, len)| {
            let last = net | A::host_bits(len);
            [net, last, net.wrapping_sub(1), last.wrapping_add(1), net | (A::host_bits(len) / 3)]
        });
        let flipped =
            asked.last().into_iter().flat_map(|&(net, _)| (0..A::WIDTH).map(move |bit| net ^ 1 << bit));
        for key in edges.chain(flipped).chain([0, u128::MAX]) {
            let addr = A::from_key(key & A::all_ones());
            assert_eq!(table.lookup(addr), self.lookup(addr), "{addr:?} among {:x?}", self.routes);
        }
    }
}

/// One change to the routes.
#[derive(Debug, Clone)]
enum Change {
    Add { bits: u128, len: u8, value: u32 },
    Withdraw { which: prop::sample::Index },
}

/// Prefixes that nest: addresses differ from each other in few octets, and lengths favour the extremes
/// and the borders of the table's levels.
fn change<A: Family>() -> impl Strategy<Value = Change> {
    let octet =
        prop_oneof![4 => prop::sample::select(vec![0u8, 1, 10, 127, 128, 254, 255]), 1 => any::<u8>()];
    let bits = prop::collection::vec(octet, usize::from(A::WIDTH) / 8)
        .prop_map(|octets| octets.iter().fold(0, |key, &octet| key << 8 | u128::from(octet)));
    let border = prop::sample::select(vec![0, 1, 7, 8, 15, 16, 17, 23, 24, 25, 26, 30]);
    let len = prop_oneof![2 => 0..=A::WIDTH, 2 => border, 1 => A::WIDTH - 8..=A::WIDTH, 2 => Just(A::WIDTH)];
    // Few values, so that neighbours and nested prefixes often agree and their runs merge.
    let value = prop_oneof![4 => 0u32..4, 1 => Just(DEFAULT), 1 => Just(MAX_VALUE), 1 => 0..=MAX_VALUE];
    prop_oneof![
        3 => (bits, len, value).prop_map(|(bits, len, value)| Change::Add { bits, len, value }),
        1 => any::<prop::sample::Index>().prop_map(|which| Change::Withdraw { which }),
    ]
}

/// Batches of changes, with a rebuild and a full comparison after each.
fn follow<A: Family>(batches: &[Vec<Change>]) {
    let mut model = Model::default();
    // Withdrawn prefixes stay here: they are asked as well.
    let mut seen = Vec::new();
    for batch in batches {
        for change in batch {
            match change {
                Change::Add { bits, len, value } => {
                    let key = (bits & !A::host_bits(*len), *len);
                    model.routes.insert(key, *value);
                    seen.push(key);
                }
                Change::Withdraw { which } => {
                    let nth = which.index(model.routes.len().max(1));
                    if let Some(&key) = model.routes.keys().nth(nth) {
                        model.routes.remove(&key);
                    }
                }
            }
        }
        model.check::<A>(&seen);
    }
}

fn batches<A: Family>() -> impl Strategy<Value = Vec<Vec<Change>>> {
    prop::collection::vec(prop::collection::vec(change::<A>(), 1..40), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn f7_f8_ipv4_follows_the_model_through_adds_and_withdrawals(batches in batches::<Ipv4Addr>()) {
        follow::<Ipv4Addr>(&batches);
    }

    #[test]
    fn f7_f8_ipv6_follows_the_model_through_adds_and_withdrawals(batches in batches::<Ipv6Addr>()) {
        follow::<Ipv6Addr>(&batches);
    }
}

/// 20,000 prefixes over each other in 2^18 addresses, `below` bits wide each, from `base` on; the model
/// paints them on a canvas, short prefixes first, and every address is asked. So many /24s are divided
/// here that the table keeps its nodes packed, which the small tables above do not.
fn thousands_of_overlapping_prefixes<A: Family>(base: u128, below: u32) {
    const BITS: u32 = 18;
    let mut seed = 12u64;
    let mut random = move |bound: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % bound
    };
    let top = u32::from(A::WIDTH) - below - BITS;
    let mut routes = BTreeMap::new();
    while routes.len() < 20_000 {
        // Half of the prefixes are hosts or nearly.
        let len = if random(2) == 0 { random(19) } else { 16 + random(3) } as u32;
        let slot = random(1 << BITS) as usize >> (BITS - len) << (BITS - len);
        routes.insert((len, slot), random(1 << 31) as u32);
    }
    let mut canvas = vec![DEFAULT; 1 << BITS];
    for (&(len, slot), &value) in &routes {
        canvas[slot..slot + (1 << (BITS - len))].fill(value);
    }
    let key = |slot: usize| base | (slot as u128) << below;
    let table = Lpm::build(
        DEFAULT,
        routes.iter().map(|(&(len, slot), &value)| (A::from_key(key(slot)), (top + len) as u8, value)),
    )
    .expect("valid routes");
    for (slot, &value) in canvas.iter().enumerate() {
        for addr in [key(slot), key(slot) | ((1 << below) - 1)].map(A::from_key) {
            assert_eq!(table.lookup(addr), value, "{addr:?}");
        }
    }
    for bit in BITS + below..A::WIDTH.into() {
        let addr = A::from_key(base ^ 1 << bit);
        assert_eq!(table.lookup(addr), DEFAULT, "{addr:?}");
    }
}

#[test]
fn f12_thousands_of_overlapping_ipv4_prefixes_answer_like_the_model() {
    thousands_of_overlapping_prefixes::<Ipv4Addr>(0x0a40_0000, 0);
    thousands_of_overlapping_prefixes::<Ipv4Addr>(0xfffc_0000, 0);
    thousands_of_overlapping_prefixes::<Ipv4Addr>(0x8000_0000, 13);
}

#[test]
fn f12_thousands_of_overlapping_ipv6_prefixes_answer_like_the_model() {
    thousands_of_overlapping_prefixes::<Ipv6Addr>(0xfd00_0010_0244_0000_0000_0000_0000_0000, 0);
    thousands_of_overlapping_prefixes::<Ipv6Addr>(0x2001_0db8_0000_0000_0000_0000_0000_0000, 61);
    thousands_of_overlapping_prefixes::<Ipv6Addr>(0, 110);
}

fn v4(routes: &[(&str, u8, u32)]) -> Lpm<Ipv4Addr> {
    let routes = routes.iter().map(|&(addr, len, value)| (addr.parse().expect("an address"), len, value));
    Lpm::build(DEFAULT, routes).expect("valid routes")
}

fn ask(table: &Lpm<Ipv4Addr>, addr: &str) -> u32 {
    table.lookup(addr.parse().expect("an address"))
}

#[test]
fn f7_edges_of_31_and_32_and_of_the_address_space() {
    let table = v4(&[
        ("0.0.0.0", 0, 1),
        ("0.0.0.0", 32, 2),
        ("255.255.255.255", 32, 3),
        ("10.0.0.254", 31, 4),
        ("10.0.1.0", 31, 5),
        ("10.0.1.1", 32, 6),
    ]);
    let answers = [
        ("0.0.0.0", 2),
        ("0.0.0.1", 1),
        ("10.0.0.253", 1),
        ("10.0.0.254", 4),
        ("10.0.0.255", 4),
        ("10.0.1.0", 5),
        ("10.0.1.1", 6),
        ("10.0.1.2", 1),
        ("255.255.255.254", 1),
        ("255.255.255.255", 3),
    ];
    for (addr, value) in answers {
        assert_eq!(ask(&table, addr), value, "{addr}");
    }
}

#[test]
fn f8_the_shorter_prefix_takes_over_on_withdrawal_and_yields_on_return() {
    let block = ("10.244.7.64", 26, 1);
    let pod = ("10.244.7.65", 32, 2);
    assert_eq!(ask(&v4(&[block, pod]), "10.244.7.65"), 2);
    assert_eq!(ask(&v4(&[block]), "10.244.7.65"), 1);
    assert_eq!(ask(&v4(&[pod, block]), "10.244.7.65"), 2);
    assert_eq!(ask(&v4(&[]), "10.244.7.65"), DEFAULT);
}

#[test]
fn the_last_of_equal_prefixes_wins_and_host_bits_do_not_matter() {
    let table = v4(&[("10.0.0.0", 24, 1), ("10.0.0.9", 32, 3), ("10.0.0.77", 24, 2)]);
    assert_eq!(ask(&table, "10.0.0.0"), 2);
    assert_eq!(ask(&table, "10.0.0.255"), 2);
    assert_eq!(ask(&table, "10.0.0.9"), 3);
}

#[test]
fn what_does_not_fit_is_refused_with_the_reason() {
    let addr = Ipv4Addr::new(10, 0, 0, 0);
    let build = |default, len, value| Lpm::build(default, [(addr, len, value)]).map(drop);
    assert_eq!(build(0, 32, MAX_VALUE), Ok(()));
    assert_eq!(build(0, 33, 1), Err(BuildError::Length { addr: addr.into(), len: 33, max: 32 }));
    assert_eq!(build(0, 32, MAX_VALUE + 1), Err(BuildError::Value { value: 1 << 31 }));
    assert_eq!(build(u32::MAX, 32, 1), Err(BuildError::Value { value: u32::MAX }));
    let long = Lpm::build(0, [(Ipv6Addr::LOCALHOST, 129, 1)]).map(drop);
    assert_eq!(long, Err(BuildError::Length { addr: Ipv6Addr::LOCALHOST.into(), len: 129, max: 128 }));
}

#[test]
fn memory_stays_small() {
    let blocks = (0..200).map(|n| (Ipv4Addr::from(0x0af4_0000 + n * 64), 26, n));
    let pods = (0..250).map(|n| (Ipv4Addr::from(0x0af4_0000 + n), 32, 1000 + n));
    let table = Lpm::build(DEFAULT, blocks.chain(pods)).expect("valid routes");
    assert!(table.memory() < 512 << 10, "{}", table.memory());
}

#[test]
fn people_are_told_which_prefix_matched() {
    let prefix = |text: &str| text.parse::<Prefix>().expect("a prefix");
    let routes = [
        (prefix("0.0.0.0/0"), "default"),
        (prefix("10.244.7.64/26"), "block"),
        (prefix("10.244.7.65/32"), "pod"),
        (prefix("10.244.7.65/32"), "pod, again"),
        (prefix("::/0"), "default of the other family"),
    ];
    let why = |addr: [u8; 4]| longest_match(IpAddr::from(addr), routes);
    assert_eq!(why([10, 244, 7, 65]), Some((prefix("10.244.7.65/32"), "pod, again")));
    assert_eq!(why([10, 244, 7, 66]), Some((prefix("10.244.7.64/26"), "block")));
    assert_eq!(why([10, 244, 7, 128]), Some((prefix("0.0.0.0/0"), "default")));
    assert_eq!(longest_match(IpAddr::from([10, 0, 0, 1]), routes[1..].iter().copied()), None);
}
