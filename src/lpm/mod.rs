//! Longest prefix match: immutable tables, built once, read by any number of threads.
//!
//! # Layout
//!
//! The first 16 bits of an address index `root`. An entry, there as in every node, is either the answer
//! or names the node that goes on with the next bits. Prefixes are expanded beforehand: the entry of a
//! slot is what the longest prefix over it says, so a lookup walks down and never back up.
//!
//! Neighbouring slots are mostly equal, and a node keeps each *run* of equal entries once. Two kinds of
//! node differ in how they find the run of a slot, a third has none:
//!
//! - **Sparse**: 16 bits, 65,536 slots in at most eleven runs. Ten numbers say where runs start, four
//!   comparisons find the one that holds a slot, and all is in one cache line.
//! - **Dense**: 8 bits, 256 slots. Bitmaps in one cache line say where runs start, counting their bits
//!   finds the run, and its entry is in an array that all dense nodes share:
//!
//! ```text
//! slot     0 1 2 3 4 5 6 7 …
//! entry    A A A B B A A A …
//! starts   1 0 0 1 0 1 0 0 …
//! runs     A B A …
//! ```
//!
//! - **Path**: where all that is left lies under one prefix, more than 16 bits longer. Compares these bits
//!   at once, and has one entry for what they hold and another for the rest.
//!
//! Where a table has few dense nodes, as a cluster's has, they are unpacked: one entry for each slot.
//!
//! An IPv4 lookup is thus one step (up to /16), two (up to /24, or where few prefixes divide a /16) or
//! three; paths are for IPv6, where a pool is a long prefix and a block in it another. The dense node is
//! Lulea's idea (Degermark et al., SIGCOMM 1997) with the counting of Poptrie (Asai and Ohara, SIGCOMM
//! 2015), the sparse one that of DXR (Zec, Rizzo and Mikuc, SIGCOMM CCR 2012), the path that of PATRICIA
//! (Morrison, JACM 1968). Sparse nodes halve the memory of 100,000 scattered routes, and with it the time
//! of a lookup that has to wait for memory.
//!
//! # Contract
//!
//! A lookup never fails, allocates or takes more steps than the address has octets. What is wrong with
//! routes shows at [`Lpm::build`], as a [`BuildError`].

mod address;
mod build;

pub use address::Address;
pub use build::BuildError;

use std::marker::PhantomData;
use std::net::IpAddr;

/// An IP prefix of either family, in canonical form (host bits zero) wherever margay stores one.
pub type Prefix = ipnet::IpNet;

/// The largest value that a table can hold: 31 bits, for the top bit marks the name of a node.
pub const MAX_VALUE: u32 = !NODE;

/// Marks an entry that names a node; any other is a value.
const NODE: u32 = 1 << 31;

/// Marks, next to [`NODE`], that the node is a sparse one.
const SPARSE: u32 = 1 << 30;

/// Marks, next to [`NODE`], that the node is a path.
const PATH: u32 = 1 << 29;

/// The rest of a node's name: its index among those of its kind.
const INDEX: u32 = PATH - 1;

/// Slots of the root: one for each value of an address's first 16 bits.
const ROOT_SLOTS: usize = 1 << 16;

/// Runs of a sparse node, but for the first one: what fills a cache line with two bytes for a start and
/// four for an entry.
const SPARSE_STARTS: usize = 10;

const _: () = assert!(size_of::<Sparse>() == 64 && size_of::<Dense>() == 64 && size_of::<Path>() == 64);

/// Dense nodes that a table unpacks, at most. A node is 1 KiB then, so this is 512 KiB: half of the
/// second-level cache of a server's core, which the root has a quarter of.
const UNPACKED_NODES: usize = 512;

/// A compiled table: the value of the longest prefix that holds an address.
///
/// It cannot be changed, so a change builds another: 100,000 routes in no order take some 20 milliseconds.
#[derive(Debug, Clone)]
pub struct Lpm<A: Address> {
    root: Box<[u32; ROOT_SLOTS]>,
    sparse: Box<[Sparse]>,
    paths: Box<[Path]>,
    octets: Octets,
    family: PhantomData<A>,
}

/// The entries of 65,536 slots that make eleven runs or fewer; one cache line.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Sparse {
    /// Slots at which the runs after the first one start, ascending; unused ones are 65,535.
    starts: [u16; SPARSE_STARTS],
    /// The runs' entries; unused ones repeat the last.
    entries: [u32; SPARSE_STARTS + 1],
}

/// The bits that lead to all that is left of a slot to tell apart; one cache line.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Path {
    /// The bits that must follow, from the top; the rest is zero.
    bits: u128,
    /// Ones for as many bits.
    mask: u128,
    /// How many these are.
    len: u8,
    /// The entry where the bits are equal.
    inside: u32,
    /// The entry where they are not: a value.
    outside: u32,
}

/// All nodes that stand for an octet. One form for a whole table, so that the branch on it is always
/// the same.
#[derive(Debug, Clone)]
enum Octets {
    /// One load a step.
    Unpacked(Box<[[u32; 256]]>),
    /// Two loads a step, and as little memory as the runs allow.
    Packed {
        nodes: Box<[Dense]>,
        /// Entries of the nodes' runs, node after node.
        runs: Box<[u32]>,
    },
}

/// The entries of 256 slots; one cache line.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
struct Dense([Chunk; 4]);

/// The entries of 64 slots of a dense node.
#[derive(Debug, Clone, Copy, Default)]
struct Chunk {
    /// Bit `i` is set where a run starts at slot `i + 1`. What starts at slot 0 need not be said, as
    /// counting goes backwards from the last run.
    starts: u64,
    /// Index in `runs` of the run that holds slot 63.
    last: u32,
}

impl<A: Address> Lpm<A> {
    /// Compiles `routes`, each an address, a prefix length and the value for what the prefix holds.
    ///
    /// Host bits of the address are ignored. Of routes with one prefix the last one wins. `default` is
    /// the value where no prefix matches; a route of length 0 takes its place. Routes in ascending order
    /// are the fastest to sort.
    ///
    /// # Errors
    ///
    /// A length beyond the family's, a value above [`MAX_VALUE`], or more nodes than 29 bits can count.
    pub fn build(default: u32, routes: impl IntoIterator<Item = (A, u8, u32)>) -> Result<Lpm<A>, BuildError> {
        build::build(default, routes)
    }

    /// The value of the longest prefix that holds `addr`, or the table's default (RFC 1812, 5.2.4.3).
    ///
    /// Inlined wherever it is called: with the table's addresses in the caller's registers a lookup in a
    /// cluster's table takes half the time.
    #[inline(always)]
    pub fn lookup(&self, addr: A) -> u32 {
        match &self.octets {
            Octets::Unpacked(nodes) => self.walk(addr, |node, octet| nodes[node][usize::from(octet)]),
            Octets::Packed { nodes, runs } => self.walk(addr, |node, octet| {
                let chunk = nodes[node].0[usize::from(octet >> 6)];
                runs[chunk.run(octet)]
            }),
        }
    }

    /// A lookup, given what takes a dense node's index and an octet to an entry.
    #[inline(always)]
    fn walk(&self, addr: A, dense: impl Fn(usize, u8) -> u32) -> u32 {
        let mut rest = addr.key();
        let mut entry = self.root[(rest >> 112) as usize];
        rest <<= 16;
        // A step takes 8 bits or more, so that `level` bits at least are behind us.
        for level in (16..A::BITS).step_by(8) {
            if entry & NODE == 0 {
                return entry;
            }
            let index = (entry & INDEX) as usize;
            // In IPv4's last step, and for its paths, there is nothing to ask: the compiler leaves it out.
            let long = A::BITS > 32;
            if (long || level == 16) && entry & SPARSE != 0 {
                entry = self.sparse[index].entry((rest >> 112) as u16);
                rest <<= 16;
            } else if long && entry & PATH != 0 {
                let path = &self.paths[index];
                if rest & path.mask != path.bits {
                    return path.outside;
                }
                entry = path.inside;
                rest <<= path.len;
            } else {
                entry = dense(index, (rest >> 120) as u8);
                rest <<= 8;
            }
        }
        entry
    }

    /// Bytes of memory that the table holds.
    pub fn memory(&self) -> usize {
        size_of_val(self)
            + size_of_val(&*self.root)
            + size_of_val(&*self.sparse)
            + size_of_val(&*self.paths)
            + match &self.octets {
                Octets::Unpacked(nodes) => size_of_val(&**nodes),
                Octets::Packed { nodes, runs } => size_of_val(&**nodes) + size_of_val(&**runs),
            }
    }
}

impl Sparse {
    /// The entry of `slot`.
    #[inline(always)]
    fn entry(&self, slot: u16) -> u32 {
        let mut run = 0;
        // Each part either is over at `slot`, or what is left to tell apart is fewer starts than it has,
        // which the later parts cover: 2 after the 3, 3 after the 4, 1 after the 2.
        for part in [3, 4, 2, 1] {
            run += part * usize::from(self.starts[run + part - 1] <= slot);
        }
        self.entries[run]
    }
}

impl Chunk {
    /// Index in `runs` of the run that holds `slot`, of which the lowest six bits matter here.
    #[inline(always)]
    fn run(self, slot: u8) -> usize {
        let later = (self.starts >> (slot & 63)).count_ones();
        (self.last - later) as usize
    }
}

/// Which of `routes` an address takes: the definition of longest prefix match, for people who ask why.
///
/// Reads every route, so it is for the control side; [`Lpm::lookup`] is for packets. Of equal prefixes
/// the last one wins, as in [`Lpm::build`].
pub fn longest_match<T>(addr: IpAddr, routes: impl IntoIterator<Item = (Prefix, T)>) -> Option<(Prefix, T)> {
    routes
        .into_iter()
        .filter(|(prefix, _)| prefix.contains(&addr))
        .max_by_key(|(prefix, _)| prefix.prefix_len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// The shape of a table: sparse and dense nodes, and whether these are unpacked.
    fn shape(table: &Lpm<Ipv4Addr>) -> (usize, usize, bool) {
        match &table.octets {
            Octets::Unpacked(nodes) => (table.sparse.len(), nodes.len(), true),
            Octets::Packed { nodes, .. } => (table.sparse.len(), nodes.len(), false),
        }
    }

    /// An IPv6 table, and how many paths and other nodes it has.
    fn paths(routes: &[(&str, u8, u32)]) -> (Lpm<Ipv6Addr>, (usize, usize)) {
        let routes = routes.iter().map(|&(addr, len, value)| (addr.parse().expect("an address"), len, value));
        let table = Lpm::build(0, routes).expect("valid routes");
        let Octets::Unpacked(dense) = &table.octets else { panic!("too few nodes to be packed") };
        let nodes = (table.paths.len(), table.sparse.len() + dense.len());
        (table, nodes)
    }

    fn ask(table: &Lpm<Ipv6Addr>, addr: &str) -> u32 {
        table.lookup(addr.parse().expect("an address"))
    }

    fn table(routes: impl IntoIterator<Item = ([u8; 4], u8, u32)>) -> Lpm<Ipv4Addr> {
        Lpm::build(0, routes.into_iter().map(|(addr, len, value)| (addr.into(), len, value)))
            .expect("valid routes")
    }

    #[test]
    fn eleven_runs_in_a_slot_of_the_root_are_sparse_and_twelve_are_dense() {
        // A host makes two runs, itself and what comes after it; one at the end of the slot makes one.
        let host = |n: u8| ([10, 0, n, 7], 32, u32::from(n));
        let end = ([10, 0, 255, 255], 32, 99);
        let eleven = table((1..=5).map(host));
        assert_eq!(shape(&eleven), (1, 0, true));
        for n in 1..=5 {
            assert_eq!(eleven.lookup([10, 0, n, 6].into()), 0);
            assert_eq!(eleven.lookup([10, 0, n, 7].into()), u32::from(n));
            assert_eq!(eleven.lookup([10, 0, n, 8].into()), 0);
        }
        let twelve = table((1..=5).map(host).chain([end]));
        assert_eq!(shape(&twelve), (0, 7, true));
        let ten = table((1..=4).map(host).chain([end]));
        assert_eq!(shape(&ten), (1, 0, true));
        assert_eq!(ten.lookup([10, 0, 255, 254].into()), 0);
        assert_eq!(ten.lookup([10, 0, 255, 255].into()), 99);
    }

    #[test]
    fn many_dense_nodes_stay_packed_and_answer_the_same() {
        // A host in every sixteenth /24 makes a /16 one dense node over sixteen.
        let hosts = |nets: u8| {
            table((0..nets).flat_map(|b| (0..16).map(move |c| ([10, b, c * 16, 3], 32, u32::from(b) + 1))))
        };
        let (few, many) = (hosts(30), hosts(31));
        assert_eq!((shape(&few), shape(&many)), ((0, 510, true), (0, 527, false)));
        for addr in [[10, 0, 0, 3], [10, 0, 0, 4], [10, 29, 240, 2], [10, 29, 240, 3], [10, 29, 241, 3]] {
            assert_eq!(few.lookup(addr.into()), many.lookup(addr.into()), "{addr:?}");
        }
        assert_eq!((many.lookup([10, 30, 240, 3].into()), many.lookup([10, 30, 240, 4].into())), (31, 0));
    }

    #[test]
    fn neighbours_of_one_value_need_no_node() {
        let halves = table([([10, 0, 0, 0], 17, 1), ([10, 0, 128, 0], 17, 1)]);
        assert_eq!(shape(&halves), (0, 0, true));
        assert_eq!(halves.lookup([10, 0, 200, 1].into()), 1);
    }
    #[test]
    fn a_lone_prefix_is_one_path_and_a_divided_one_goes_on_below_it() {
        let (lone, nodes) = paths(&[("fd00:10:244::40", 122, 1)]);
        assert_eq!(nodes, (1, 0));
        for (addr, value) in [
            ("fd00:10:244::3f", 0),
            ("fd00:10:244::40", 1),
            ("fd00:10:244::7f", 1),
            ("fd00:10:244::80", 0),
            ("fd00:10:245::40", 0),
            ("fd00:10:244:8000::40", 0),
        ] {
            assert_eq!(ask(&lone, addr), value, "{addr}");
        }
        let (pods, nodes) = paths(&[("fd00:10:244::40", 122, 1), ("fd00:10:244::41", 128, 2)]);
        assert_eq!(nodes, (1, 1));
        assert_eq!((ask(&pods, "fd00:10:244::40"), ask(&pods, "fd00:10:244::41")), (1, 2));
        assert_eq!((ask(&pods, "fd00:10:244::3f"), ask(&pods, "fd00:10:244::80")), (0, 0));
    }

    #[test]
    fn a_path_is_longer_than_a_step_and_has_one_value_around_it() {
        let (short, nodes) = paths(&[("fd00:1::", 32, 1)]);
        assert_eq!(nodes, (0, 1));
        assert_eq!((ask(&short, "fd00:1::"), ask(&short, "fd00:2::")), (1, 0));
        // Halves that differ have no way through them; two blocks have one as far as they agree.
        let halves = [("fd00::", 17, 1), ("fd00:8000::", 17, 2)];
        assert_eq!(paths(&halves).1, (0, 1));
        let (two, nodes) = paths(&[("fd00:10:244::40", 122, 1), ("fd00:10:244::ff40", 122, 2)]);
        assert_eq!(nodes, (1, 1));
        assert_eq!((ask(&two, "fd00:10:244::7f"), ask(&two, "fd00:10:244::ff7f")), (1, 2));
        assert_eq!((ask(&two, "fd00:10:244::ff80"), ask(&two, "fd00:10:243::40")), (0, 0));
        // Nothing is before a prefix that starts with its slot.
        let (start, nodes) = paths(&[("fd00::", 16, 3), ("fd00::", 128, 1)]);
        assert_eq!((nodes, ask(&start, "fd00::"), ask(&start, "fd00::1")), ((1, 0), 1, 3));
    }
}
