//! From routes to a table, in three passes: sort; cut the address space into intervals of one value
//! each; lay the intervals out as nodes, bottom up.

use std::marker::PhantomData;
use std::net::IpAddr;

use super::{
    Address, Dense, INDEX, Lpm, MAX_VALUE, NODE, Octets, PATH, Path, ROOT_SLOTS, SPARSE, SPARSE_STARTS,
    Sparse, UNPACKED_NODES,
};

/// Why a table cannot be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A prefix is longer than an address of its family.
    #[error("prefix {addr}/{len}: the length can be {max} at most")]
    Length {
        /// The prefix's address.
        addr: IpAddr,
        /// Its length in bits.
        len: u8,
        /// What the family allows.
        max: u8,
    },
    /// A value, or the default, does not fit into 31 bits.
    #[error("value {value}: it can be {MAX_VALUE} at most")]
    Value {
        /// The value.
        value: u32,
    },
    /// The table would have more nodes or runs than an entry can count: tens of millions of routes.
    #[error("too many routes for one table")]
    Size,
}

/// A route with the address's bits from the top, whatever the family.
struct Route {
    key: u128,
    len: u8,
    value: u32,
}

/// Where an interval of one value starts; it ends where the next one starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Edge {
    start: u128,
    value: u32,
}

pub(super) fn build<A: Address>(
    default: u32,
    routes: impl IntoIterator<Item = (A, u8, u32)>,
) -> Result<Lpm<A>, BuildError> {
    check_value(default)?;
    let mut sorted = Vec::new();
    for (addr, len, value) in routes {
        if len > A::BITS {
            return Err(BuildError::Length { addr: addr.into(), len, max: A::BITS });
        }
        check_value(value)?;
        sorted.push(Route { key: addr.key() & !host_bits(len), len, value });
    }
    // Stable: of equal prefixes the last one stays last. Routes that come sorted cost one pass.
    sorted.sort_by_key(|route| (route.key, route.len));
    let edges = edges(default, &sorted);
    drop(sorted);

    let mut layout = Layout { unused: 128 - u32::from(A::BITS), ..Layout::default() };
    layout.slots(default, &edges, 128 - 16, 0xffff)?;
    let mut root = vec![default; ROOT_SLOTS].into_boxed_slice();
    let mut end = ROOT_SLOTS;
    for run in layout.pending.drain(..).rev() {
        root[run.slot..end].fill(run.entry);
        end = run.slot;
    }
    Ok(Lpm {
        root: root.try_into().expect("made with ROOT_SLOTS"),
        sparse: layout.sparse.into(),
        paths: layout.paths.into(),
        octets: match layout.dense.len() {
            ..=UNPACKED_NODES => Octets::Unpacked(unpack(&layout.dense, &layout.runs)),
            _ => Octets::Packed { nodes: layout.dense.into(), runs: layout.runs.into() },
        },
        family: PhantomData,
    })
}

/// Gives every slot of dense nodes its entry.
fn unpack(nodes: &[Dense], runs: &[u32]) -> Box<[[u32; 256]]> {
    let entry = |node: &Dense, slot: usize| runs[node.0[slot / 64].run(slot as u8)];
    nodes.iter().map(|node| std::array::from_fn(|slot| entry(node, slot))).collect()
}

fn check_value(value: u32) -> Result<(), BuildError> {
    if value > MAX_VALUE {
        return Err(BuildError::Value { value });
    }
    Ok(())
}

/// The bits below a prefix of `len` bits.
fn host_bits(len: u8) -> u128 {
    u128::MAX.checked_shr(len.into()).unwrap_or(0)
}

/// Cuts the address space at every address where the longest prefix's value changes.
///
/// Sorted routes come outer before inner, so a stack holds the prefixes around the current place.
fn edges(default: u32, sorted: &[Route]) -> Vec<Edge> {
    let mut edges = Vec::with_capacity(2 * sorted.len() + 1);
    let mut open = vec![(u128::MAX, default)];
    push_edge(&mut edges, 0, default);
    for route in sorted {
        close_until(&mut edges, &mut open, |end| end < route.key);
        push_edge(&mut edges, route.key, route.value);
        open.push((route.key | host_bits(route.len), route.value));
    }
    // What ends with the address space has nothing after it.
    close_until(&mut edges, &mut open, |end| end < u128::MAX);
    edges
}

/// Leaves the innermost prefixes that are over: behind each, the value of the one around it goes on.
fn close_until(edges: &mut Vec<Edge>, open: &mut Vec<(u128, u32)>, over: impl Fn(u128) -> bool) {
    while let [.., (_, outer), (end, _)] = open[..]
        && over(end)
    {
        push_edge(edges, end + 1, outer);
        open.pop();
    }
}

/// Adds an edge; a later one at the same address overrules, and one that changes nothing is left out.
fn push_edge(edges: &mut Vec<Edge>, start: u128, value: u32) {
    edges.pop_if(|last| last.start == start);
    if edges.last().is_none_or(|last| last.value != value) {
        edges.push(Edge { start, value });
    }
}

/// The nodes made so far.
#[derive(Default)]
struct Layout {
    /// Bits of a key that addresses of this family do not have.
    unused: u32,
    sparse: Vec<Sparse>,
    paths: Vec<Path>,
    dense: Vec<Dense>,
    runs: Vec<u32>,
    /// Runs of what is in the making: the root's first, those of the deepest node last.
    pending: Vec<Run>,
}

/// A run of equal entries: from `slot` to the next run.
struct Run {
    slot: usize,
    entry: u32,
}

impl Layout {
    /// Leaves in `pending` the runs of the root or of a node with slots 0 to `max`, each `shift` bits
    /// wide. `edges` are those within it, and `value` is what holds before the first.
    fn slots(&mut self, mut value: u32, edges: &[Edge], shift: u32, max: u16) -> Result<(), BuildError> {
        let base = self.pending.len();
        let mut free = 0;
        for group in by_slot(edges, shift) {
            let slot = usize::from((group[0].start >> shift) as u16 & max);
            if free < slot {
                self.push_run(base, free, value);
            }
            let entry = match undivided(group, shift) {
                true => group[0].value,
                false => self.node(value, group, shift)?,
            };
            self.push_run(base, slot, entry);
            value = group[group.len() - 1].value;
            free = slot + 1;
        }
        if free <= usize::from(max) {
            self.push_run(base, free, value);
        }
        Ok(())
    }

    fn push_run(&mut self, base: usize, slot: usize, entry: u32) {
        if self.pending[base..].last().is_none_or(|run| run.entry != entry) {
            self.pending.push(Run { slot, entry });
        }
    }

    /// Makes a node, after its children, of a slot `bits` wide, and returns the entry that names it.
    fn node(&mut self, value: u32, edges: &[Edge], bits: u32) -> Result<u32, BuildError> {
        if let Some(way) = Way::through(value, edges, bits) {
            return self.path(value, way, bits);
        }
        let base = self.pending.len();
        if bits >= self.unused + 16 && fits_sparse(edges, bits - 16) {
            self.slots(value, edges, bits - 16, 0xffff)?;
            return self.sparse_node(base);
        }
        self.slots(value, edges, bits - 8, 0xff)?;
        self.dense_node(base)
    }

    /// Makes a path of a slot `bits` wide.
    fn path(&mut self, value: u32, way: Way<'_>, bits: u32) -> Result<u32, BuildError> {
        let len = bits - way.bits;
        let inside = match undivided(way.edges, way.bits) {
            true => way.edges[0].value,
            false => self.node(value, way.edges, way.bits)?,
        };
        let index = index(&self.paths)?;
        let mask = !host_bits(len as u8);
        let bits = way.edges[0].start << (128 - bits) & mask;
        self.paths.push(Path { bits, mask, len: len as u8, inside, outside: way.outside });
        Ok(NODE | PATH | index)
    }

    /// Makes a sparse node of the runs from `base`.
    fn sparse_node(&mut self, base: usize) -> Result<u32, BuildError> {
        let index = index(&self.sparse)?;
        let runs = &self.pending[base..];
        let last = runs[runs.len() - 1].entry;
        let mut node = Sparse { starts: [u16::MAX; SPARSE_STARTS], entries: [last; SPARSE_STARTS + 1] };
        for (entry, run) in node.entries.iter_mut().zip(runs) {
            *entry = run.entry;
        }
        for (start, run) in node.starts.iter_mut().zip(&runs[1..]) {
            *start = run.slot as u16;
        }
        self.sparse.push(node);
        self.pending.truncate(base);
        Ok(NODE | SPARSE | index)
    }

    /// Makes a dense node of the runs from `base`.
    fn dense_node(&mut self, base: usize) -> Result<u32, BuildError> {
        let index = index(&self.dense)?;
        let mut node = Dense::default();
        let mut runs = self.pending.drain(base..).peekable();
        for (chunk, end) in node.0.iter_mut().zip([64, 128, 192, 256]) {
            while let Some(run) = runs.next_if(|run| run.slot < end) {
                // Bit 0 stands for slot 1; a start at slot 0 is shifted out.
                chunk.starts |= (1 << (run.slot % 64)) >> 1;
                self.runs.push(run.entry);
            }
            // The first run starts at slot 0, so there is one by now.
            chunk.last = u32::try_from(self.runs.len() - 1).map_err(|_| BuildError::Size)?;
        }
        self.dense.push(node);
        Ok(NODE | index)
    }
}

/// What of a slot lies under one longer prefix.
struct Way<'a> {
    /// The edges under it.
    edges: &'a [Edge],
    /// How many bits it leaves.
    bits: u32,
    /// The value of all around it.
    outside: u32,
}

impl<'a> Way<'a> {
    /// The longest prefix over all that `edges` divide of a slot `bits` wide, if it is more than 16 bits
    /// longer, which is what a sparse node would take in a step, and what is around it has one value.
    /// `value` is what holds before the first edge.
    fn through(value: u32, edges: &'a [Edge], bits: u32) -> Option<Way<'a>> {
        let [first, .., last] = edges else { return None };
        // The last edge may be the end of it, so that the address before counts.
        let left = 128 - (first.start ^ (last.start - 1)).leading_zeros();
        let exact = Way::of(value, edges, bits, left)?;
        match undivided(exact.edges, left) {
            true => Some(exact),
            // Nodes below it take whole octets.
            false => Way::of(value, edges, bits, left.next_multiple_of(8)),
        }
    }

    /// The same for the prefix of `first` that leaves `left` bits.
    fn of(value: u32, edges: &'a [Edge], bits: u32, left: u32) -> Option<Way<'a>> {
        if left + 16 >= bits {
            return None;
        }
        let hosts = host_bits(128 - left as u8);
        let (start, end) = (edges[0].start & !hosts, edges[0].start | hosts);
        let (within, after) = edges.split_at(edges.partition_point(|edge| edge.start <= end));
        let outside = after.last().or(within.last())?.value;
        // Nothing is before it where it starts with its slot.
        let slot = host_bits(128 - bits as u8);
        if value != outside && start & slot != 0 {
            return None;
        }
        Some(Way { edges: within, bits: left, outside })
    }
}

/// The index of the next node of a kind.
fn index<T>(nodes: &[T]) -> Result<u32, BuildError> {
    u32::try_from(nodes.len()).ok().filter(|&index| index <= INDEX).ok_or(BuildError::Size)
}

/// Groups edges by the slot, `shift` bits wide, that they are in.
fn by_slot(edges: &[Edge], shift: u32) -> impl Iterator<Item = &[Edge]> {
    edges.chunk_by(move |a, b| a.start >> shift == b.start >> shift)
}

/// Whether the edges of a slot leave it in one piece.
fn undivided(group: &[Edge], shift: u32) -> bool {
    group.len() == 1 && group[0].start.trailing_zeros() >= shift
}

/// Whether a sparse node can hold what `edges` make of slots `shift` bits wide.
fn fits_sparse(edges: &[Edge], shift: u32) -> bool {
    let mut starts = 0;
    for group in by_slot(edges, shift) {
        let slot = (group[0].start >> shift) as u16;
        // A divided slot is a run of its own, and what comes after it another at most.
        starts += usize::from(slot > 0) + usize::from(!undivided(group, shift));
        if starts > SPARSE_STARTS {
            return false;
        }
    }
    true
}
