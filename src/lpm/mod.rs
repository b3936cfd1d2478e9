//! Longest prefix match: immutable tables, built once, read by any number of threads.
//!
//! # Layout
//!
//! The first 16 bits of an address index `root`. An entry, there as in every node, is either the answer
//! or names the node that goes on with the next bits. Prefixes are expanded beforehand: the entry of a
//! slot is what the longest prefix over it says, so a lookup walks down and never back up.
//!
//! Neighbouring slots are mostly equal, and a node keeps each *run* of equal entries once. Two kinds of
//! node differ in how they find the run of a slot:
//!
//! - **Sparse**: 16 bits, 65,536 slots in at most eight runs. Seven numbers say where runs start, and
//!   three comparisons find the one that holds a slot. The entries are in the same cache line.
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
//! An IPv4 lookup is thus one step (up to /16), two (where a /16 is sparsely divided, or up to /24) or
//! three. The dense node is Lulea's idea (Degermark et al., SIGCOMM 1997) with the counting of Poptrie
//! (Asai and Ohara, SIGCOMM 2015), the sparse one that of DXR (Zec, Rizzo and Mikuc, SIGCOMM CCR 2012).
//! Sparse nodes halve the memory of 100,000 scattered routes, and with it the time of a lookup that has
//! to wait for memory; they also carry an IPv6 lookup over a long common prefix in big steps.
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

/// The rest of a node's name: its index among those of its kind.
const INDEX: u32 = SPARSE - 1;

/// Slots of the root: one for each value of an address's first 16 bits.
const ROOT_SLOTS: usize = 1 << 16;

/// Runs of a sparse node, but for the first one: 2^n - 1, so that n comparisons tell them apart.
const SPARSE_STARTS: usize = 7;

/// A compiled table: the value of the longest prefix that holds an address.
///
/// It cannot be changed, so a change builds another: 100,000 routes take about ten milliseconds.
#[derive(Debug, Clone)]
pub struct Lpm<A: Address> {
    root: Box<[u32; ROOT_SLOTS]>,
    sparse: Box<[Sparse]>,
    dense: Box<[Dense]>,
    /// Entries of the dense nodes' runs, node after node.
    runs: Box<[u32]>,
    family: PhantomData<A>,
}

/// The entries of 65,536 slots that make at most eight runs; one cache line.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Sparse {
    /// Slots at which the runs after the first one start, ascending; unused ones are 65,535.
    starts: [u16; SPARSE_STARTS],
    /// The runs' entries; unused ones repeat the last.
    entries: [u32; SPARSE_STARTS + 1],
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
    /// A length beyond the family's, a value above [`MAX_VALUE`], or more nodes than 30 bits can count.
    pub fn build(default: u32, routes: impl IntoIterator<Item = (A, u8, u32)>) -> Result<Lpm<A>, BuildError> {
        build::build(default, routes)
    }

    /// The value of the longest prefix that holds `addr`, or the table's default (RFC 1812, 5.2.4.3).
    #[inline]
    pub fn lookup(&self, addr: A) -> u32 {
        let mut rest = addr.key();
        let mut entry = self.root[(rest >> 112) as usize];
        rest <<= 16;
        // A step takes 8 bits or more, so that `level` bits at least are behind us.
        for level in (16..A::BITS).step_by(8) {
            if entry & NODE == 0 {
                return entry;
            }
            let index = (entry & INDEX) as usize;
            if level + 16 <= A::BITS && entry & SPARSE != 0 {
                entry = self.sparse[index].entry((rest >> 112) as u16);
                rest <<= 16;
            } else {
                let chunk = self.dense[index].0[(rest >> 126) as usize];
                entry = self.runs[chunk.run((rest >> 120) as u8)];
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
            + size_of_val(&*self.dense)
            + size_of_val(&*self.runs)
    }
}

impl Sparse {
    /// The entry of `slot`.
    #[inline]
    fn entry(&self, slot: u16) -> u32 {
        let mut run = 0;
        for half in [4, 2, 1] {
            run += half * usize::from(self.starts[run + half - 1] <= slot);
        }
        self.entries[run]
    }
}

impl Chunk {
    /// Index in `runs` of the run that holds `slot`, of which the lowest six bits matter here.
    #[inline]
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
    use std::net::Ipv4Addr;

    /// `count` /32 routes in 10.0.0.0/16 with nothing between them alike: twice as many run starts.
    fn hosts(count: u32) -> Lpm<Ipv4Addr> {
        let routes = (1..=count).map(|n| (Ipv4Addr::from(0x0a00_0000 + n * 1000), 32, n));
        Lpm::build(0, routes).expect("valid routes")
    }

    #[test]
    fn eight_runs_in_a_slot_of_the_root_are_sparse_and_nine_are_dense() {
        // Three hosts make seven runs with what is around them; a fourth at the end makes eight.
        let end = (Ipv4Addr::new(10, 0, 255, 255), 32, 9);
        let three = (1..=3).map(|n| (Ipv4Addr::from(0x0a00_0000 + n * 1000), 32, n));
        let eight = Lpm::build(0, three.chain([end])).expect("valid routes");
        assert_eq!((eight.sparse.len(), eight.dense.len()), (1, 0));
        assert_eq!(eight.lookup(end.0), 9);
        assert_eq!(eight.lookup(Ipv4Addr::new(10, 0, 255, 254)), 0);

        let nine = hosts(4);
        assert_eq!((nine.sparse.len(), nine.dense.len()), (0, 5));
    }

    #[test]
    fn a_node_is_one_cache_line() {
        assert_eq!((size_of::<Sparse>(), size_of::<Dense>()), (64, 64));
    }

    #[test]
    fn neighbours_of_one_value_need_no_node() {
        let halves = [(Ipv4Addr::new(10, 0, 0, 0), 17, 1), (Ipv4Addr::new(10, 0, 128, 0), 17, 1)];
        let table = Lpm::build(0, halves).expect("valid routes");
        assert_eq!((table.sparse.len(), table.dense.len()), (0, 0));
        assert_eq!(table.lookup(Ipv4Addr::new(10, 0, 200, 1)), 1);
    }
}
