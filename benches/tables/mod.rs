//! Route tables and addresses to look up, the same on every machine: generators with fixed seeds.
//!
//! Each bench that includes this module uses a part of it.
#![allow(dead_code)]

pub(crate) mod ipv6;

use std::collections::HashSet;
use std::net::Ipv4Addr;

/// An address, a prefix length and a value: what `Lpm::build` takes.
pub(crate) type Route = (Ipv4Addr, u8, u32);

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): small, and good enough to draw tables.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; the bias of the modulus does not matter here.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// A node's table in a Calico cluster: `blocks` /26 blocks of 10.244.0.0/16 in random places (a value per
/// node), the first of them its own, and in those a /32 for each of `endpoints` pods.
pub(crate) fn cluster(blocks: usize, endpoints: usize) -> Vec<Route> {
    let mut random = Random::new(1);
    let pool = u32::from(Ipv4Addr::new(10, 244, 0, 0));
    let mut table = Table::default();
    while table.routes.len() < blocks {
        let block = pool + 64 * random.below(1 << 10) as u32;
        table.add(block, 26, table.routes.len() as u32);
    }
    for endpoint in 0..endpoints {
        let block = u32::from(table.routes[endpoint / 64].0);
        table.add(block + endpoint as u32 % 64, 32, 1000 + endpoint as u32);
    }
    table.routes
}

/// Prefixes of every length from /16 to /32, equally often, anywhere among the unicast addresses; 1,000
/// values in no order. Harder than what a cluster makes: no locality, and deep everywhere.
pub(crate) fn mixed(count: usize) -> Vec<Route> {
    let mut random = Random::new(2);
    let mut table = Table::default();
    while table.routes.len() < count {
        let len = 16 + random.below(17) as u8;
        table.add(unicast(&mut random), len, random.below(1000) as u32);
    }
    table.routes
}

/// Share of each prefix length, /8 first, in 10,000 routes of the Internet's IPv4 table, after the
/// yearly reports on BGP at potaroo.net: three in five are /24, one in five /22 or /23.
const INTERNET_LENGTHS: [u32; 17] = [1, 1, 1, 1, 3, 6, 12, 22, 140, 85, 145, 265, 455, 530, 1120, 1010, 6203];

/// A table that looks like the Internet's: lengths as above; space given out in allocations from /12 to
/// /20 that fill some /8s densely and others thinly; nine in ten longer prefixes cut from a recent
/// allocation, next to each other, and with its aggregate often announced too. Values as in [`mixed`].
pub(crate) fn internet(count: usize) -> Vec<Route> {
    let mut random = Random::new(3);
    // A holder: an allocation, and the next address in it that has not been announced.
    let mut holders: Vec<(u32, u8, u32)> = Vec::new();
    let mut table = Table::default();
    while table.routes.len() < count {
        let len = draw_length(&mut random);
        let value = random.below(1000) as u32;
        if len < 17 || random.below(10) == 0 {
            table.add(unicast(&mut random), len, value);
            continue;
        }
        if holders.len() < 64 || random.below(24) == 0 {
            let size = 12 + random.below(9) as u8;
            // The smaller of two draws: low /8s (in this picture) are fuller than high ones.
            let net = u32::from(unicast(&mut random)).min(u32::from(unicast(&mut random))) & mask(size);
            holders.push((net, size, net));
            table.add(net, size, value);
        }
        let recent = holders.len() - 1 - random.below(holders.len().min(512));
        let (net, size, next) = &mut holders[recent];
        if *size >= len {
            continue;
        }
        let start = next.wrapping_add(!mask(len)) & mask(len);
        if start & mask(*size) != *net {
            *next = *net;
            continue;
        }
        *next = start.wrapping_add(1 << (32 - len));
        table.add(start, len, value);
    }
    table.routes
}

/// `count` addresses to look up: nine in ten within a random route of `routes`, one in ten anywhere.
pub(crate) fn addresses(routes: &[Route], count: usize) -> Vec<Ipv4Addr> {
    let mut random = Random::new(4);
    let draw = |_| {
        let anywhere = random.next() as u32;
        if random.below(10) == 0 {
            return Ipv4Addr::from(anywhere);
        }
        let (net, len, _) = routes[random.below(routes.len())];
        Ipv4Addr::from(u32::from(net) | anywhere & !mask(len))
    };
    (0..count).map(draw).collect()
}

/// Routes without duplicates.
#[derive(Default)]
struct Table {
    routes: Vec<Route>,
    seen: HashSet<(u32, u8)>,
}

impl Table {
    fn add(&mut self, net: impl Into<Ipv4Addr>, len: u8, value: u32) {
        let net = u32::from(net.into()) & mask(len);
        if self.seen.insert((net, len)) {
            self.routes.push((net.into(), len, value));
        }
    }
}

fn draw_length(random: &mut Random) -> u8 {
    let mut ticket = random.below(INTERNET_LENGTHS.iter().sum::<u32>() as usize) as u32;
    let mut len = 8;
    for share in INTERNET_LENGTHS {
        if ticket < share {
            break;
        }
        ticket -= share;
        len += 1;
    }
    len
}

/// An address from 1.0.0.0 to 223.255.255.255, without 10/8 and 127/8.
fn unicast(random: &mut Random) -> Ipv4Addr {
    loop {
        let addr = Ipv4Addr::from(random.next() as u32);
        if !matches!(addr.octets()[0], 0 | 10 | 127 | 224..) {
            return addr;
        }
    }
}

/// The network mask of a length, 0 for 0.
fn mask(len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)
}
