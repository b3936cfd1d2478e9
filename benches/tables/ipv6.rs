//! The same for IPv6: a cluster's table, and one like the Internet's.

use std::collections::HashSet;
use std::net::Ipv6Addr;

use super::Random;

/// An address, a prefix length and a value.
pub(crate) type Route = (Ipv6Addr, u8, u32);

/// A node's table in a Calico cluster: `blocks` /122 blocks of fd00:10:244::/64 in random places (a value per
/// node), the first of them its own, and in those a /128 for each of `endpoints` pods.
pub(crate) fn cluster(blocks: usize, endpoints: usize) -> Vec<Route> {
    let mut random = Random::new(1);
    let pool = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0).to_bits();
    let mut table = Table::default();
    while table.routes.len() < blocks {
        table.add(pool | u128::from(random.next()), 122, table.routes.len() as u32);
    }
    for endpoint in 0..endpoints {
        let block = table.routes[endpoint / 64].0.to_bits();
        table.add(block + endpoint as u128 % 64, 128, 1000 + endpoint as u32);
    }
    table.routes
}

/// Share of each prefix length, /28 first, in 1,000 routes of the Internet's IPv6 table, after the yearly reports on
/// BGP at potaroo.net: not quite half of them are /48, one in nine is /32, and one in ten each /40 and /44.
const INTERNET_LENGTHS: [usize; 21] =
    [4, 28, 3, 2, 115, 22, 14, 8, 45, 6, 12, 10, 95, 5, 22, 8, 95, 12, 35, 22, 437];

/// Where the registries give out addresses.
const REGISTRIES: [u16; 6] = [0x2001, 0x2400, 0x2600, 0x2800, 0x2a00, 0x2c00];

/// A table that looks like the Internet's: lengths as above; allocations from /28 to /32 in the registries' space; nine
/// in ten longer prefixes cut from a recent allocation, next to each other. 1,000 values in no order.
pub(crate) fn internet(count: usize) -> Vec<Route> {
    let mut random = Random::new(3);
    // A holder: an allocation, and the next address in it that has not been announced.
    let mut holders: Vec<(u128, u8, u128)> = Vec::new();
    let mut table = Table::default();
    while table.routes.len() < count {
        let len = draw_length(&mut random);
        let value = random.below(1000) as u32;
        if len <= 32 || holders.len() < 64 {
            let net = allocation(&mut random) & mask(len.min(32));
            holders.push((net, len.min(32), net));
            table.add(net, len.min(32), value);
            continue;
        }
        let back = if random.below(10) == 0 { holders.len() } else { holders.len().min(512) };
        let recent = holders.len() - 1 - random.below(back);
        let (net, size, next) = &mut holders[recent];
        let start = next.wrapping_add(!mask(len)) & mask(len);
        if start & mask(*size) != *net {
            *next = *net;
            continue;
        }
        *next = start.wrapping_add(1 << (128 - len));
        table.add(start, len, value);
    }
    table.routes
}

/// `count` addresses to look up: nine in ten within a random route of `routes`, one in ten anywhere.
pub(crate) fn addresses(routes: &[Route], count: usize) -> Vec<Ipv6Addr> {
    let mut random = Random::new(4);
    let draw = |_| {
        let anywhere = u128::from(random.next()) << 64 | u128::from(random.next());
        if random.below(10) == 0 {
            return Ipv6Addr::from_bits(anywhere);
        }
        let (net, len, _) = routes[random.below(routes.len())];
        Ipv6Addr::from_bits(net.to_bits() | anywhere & !mask(len))
    };
    (0..count).map(draw).collect()
}

/// Routes without duplicates.
#[derive(Default)]
struct Table {
    routes: Vec<Route>,
    seen: HashSet<(u128, u8)>,
}

impl Table {
    fn add(&mut self, net: u128, len: u8, value: u32) {
        let net = net & mask(len);
        if self.seen.insert((net, len)) {
            self.routes.push((net.into(), len, value));
        }
    }
}

fn draw_length(random: &mut Random) -> u8 {
    let mut ticket = random.below(INTERNET_LENGTHS.iter().sum());
    let mut len = 28;
    for share in INTERNET_LENGTHS {
        if ticket < share {
            break;
        }
        ticket -= share;
        len += 1;
    }
    len
}

/// In the fuller first sixteenth of a registry's /12.
fn allocation(random: &mut Random) -> u128 {
    let registry = REGISTRIES[random.below(REGISTRIES.len())];
    u128::from(registry) << 112 | (random.below(1 << 16) as u128) << 96
}

/// The network mask of a length, 0 for 0.
fn mask(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
}
