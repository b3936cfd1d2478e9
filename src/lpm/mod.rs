//! Longest prefix match: immutable tables, built once, read by any number of threads.
//!
//! # Layout
//!
//! The first 16 bits of an address index `root`; each further octet is one step through a `Node`.
//! An entry, in the root as in a node, is either the answer or the index of the next node (top bit).
//!
//! A node stands for 256 entries, and neighbouring entries are mostly equal: it keeps each *run* of
//! equal entries once, in the array `runs` that all nodes share, and in bitmaps where runs start.
//! A step counts bits to find its run, so it reads one cache line of nodes and one word of runs:
//!
//! ```text
//! slot     0 1 2 3 4 5 6 7 …          prefixes are already expanded: the entry of a slot
//! entry    A A A B B A A A …          is what the longest prefix over it says
//! starts   1 0 0 1 0 1 0 0 …
//! runs     A B A …
//! ```
//!
//! The idea is Lulea's (Degermark et al., SIGCOMM 1997) with the counting of Poptrie (Asai and Ohara,
//! SIGCOMM 2015); the wide root and the wide nodes make three steps of what takes six there.
//!
//! # Contract
//!
//! A lookup never fails, allocates or loops further than the address is long. What is wrong with
//! routes shows at [`Lpm::build`], as a [`BuildError`].

mod address;
mod build;

pub use address::Address;
pub use build::BuildError;

use std::marker::PhantomData;
use std::net::IpAddr;

/// An IP prefix of either family, in canonical form (host bits zero) wherever margay stores one.
pub type Prefix = ipnet::IpNet;

/// The largest value that a table can hold: 31 bits, for the top bit marks the index of a node.
pub const MAX_VALUE: u32 = !NODE;

/// Marks an entry that is the index of a node, not a value.
const NODE: u32 = 1 << 31;

/// Slots of the root: one for each value of an address's first 16 bits.
const ROOT_SLOTS: usize = 1 << 16;

/// A compiled table: the value of the longest prefix that holds an address.
///
/// It cannot be changed, so a change builds another: 100,000 routes take milliseconds.
#[derive(Debug, Clone)]
pub struct Lpm<A: Address> {
    root: Box<[u32; ROOT_SLOTS]>,
    nodes: Box<[Node]>,
    runs: Box<[u32]>,
    family: PhantomData<A>,
}

/// The entries of 256 slots, as runs; one cache line.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
struct Node([Chunk; 4]);

/// The entries of 64 slots.
#[derive(Debug, Clone, Copy, Default)]
struct Chunk {
    /// Bit `i` is set where a run starts at slot `i + 1`. What starts at slot 0 is not said: counting
    /// goes backwards from the last run.
    starts: u64,
    /// Index in `runs` of the run that holds slot 63.
    last: u32,
}

impl<A: Address> Lpm<A> {
    /// Compiles `routes`, each an address, a prefix length and the value for what the prefix holds.
    ///
    /// Host bits of the address are ignored. Of routes with one prefix the last one wins. `default` is
    /// the value where no prefix matches; a route of length 0 takes its place.
    ///
    /// # Errors
    ///
    /// A length beyond the family's, a value above [`MAX_VALUE`], or more nodes than 31 bits can count.
    pub fn build(default: u32, routes: impl IntoIterator<Item = (A, u8, u32)>) -> Result<Lpm<A>, BuildError> {
        build::build(default, routes)
    }

    /// The value of the longest prefix that holds `addr`, or the table's default.
    #[inline]
    pub fn lookup(&self, addr: A) -> u32 {
        let mut entry = self.root[usize::from(addr.head())];
        for level in 0..A::LEVELS {
            if entry & NODE == 0 {
                return entry;
            }
            entry = self.step(entry, addr.octet(level));
        }
        entry
    }

    /// The entry of slot `octet` in the node that `entry` names.
    #[inline]
    fn step(&self, entry: u32, octet: u8) -> u32 {
        let chunk = &self.nodes[(entry & !NODE) as usize].0[usize::from(octet >> 6)];
        let later = (chunk.starts >> (octet & 63)).count_ones();
        self.runs[(chunk.last - later) as usize]
    }

    /// Bytes of memory that the table holds.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.root) + size_of_val(&*self.nodes) + size_of_val(&*self.runs)
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
