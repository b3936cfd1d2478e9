//! From routes to a table, in three passes: sort; cut the address space into intervals of one value
//! each; lay the intervals out as nodes, bottom up.

use std::marker::PhantomData;
use std::net::IpAddr;

use super::{Address, Lpm, MAX_VALUE, NODE, Node, ROOT_SLOTS};

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
        if len > A::MAX_LEN {
            return Err(BuildError::Length { addr: addr.into(), len, max: A::MAX_LEN });
        }
        check_value(value)?;
        sorted.push(Route { key: addr.key() & !host_bits(len), len, value });
    }
    // Stable: of equal prefixes the last one stays last. Routes that come sorted cost one pass.
    sorted.sort_by_key(|route| (route.key, route.len));
    let edges = edges(default, &sorted);
    drop(sorted);

    let mut layout = Layout::default();
    layout.slots(default, &edges, 128 - 16, 0xffff)?;
    let mut root = vec![default; ROOT_SLOTS].into_boxed_slice();
    let mut end = ROOT_SLOTS;
    for run in layout.pending.drain(..).rev() {
        root[run.slot..end].fill(run.entry);
        end = run.slot;
    }
    Ok(Lpm {
        root: root.try_into().expect("made with ROOT_SLOTS"),
        nodes: layout.nodes.into(),
        runs: layout.runs.into(),
        family: PhantomData,
    })
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

/// The nodes and runs made so far.
#[derive(Default)]
struct Layout {
    nodes: Vec<Node>,
    runs: Vec<u32>,
    /// Runs of the nodes in the making, the root's first, the deepest node's last.
    pending: Vec<Run>,
}

/// A run of equal entries: from `slot` to the next run.
struct Run {
    slot: usize,
    entry: u32,
}

impl Layout {
    /// Leaves in `pending` the runs of a node (or the root): `edges` are those within it, `value` is what
    /// holds before the first, `shift` and `mask` take its slot from an address.
    fn slots(
        &mut self,
        mut value: u32,
        mut edges: &[Edge],
        shift: u32,
        mask: u128,
    ) -> Result<(), BuildError> {
        let base = self.pending.len();
        let slot_of = |edge: &Edge| ((edge.start >> shift) & mask) as usize;
        let mut free = 0;
        while let [first, ..] = edges {
            let slot = slot_of(first);
            if free < slot {
                self.push_run(base, free, value);
            }
            let inside = edges.iter().take_while(|edge| slot_of(edge) == slot).count();
            let (group, rest) = edges.split_at(inside);
            let below = (1 << shift) - 1;
            let entry = match group {
                [edge] if edge.start & below == 0 => edge.value,
                _ => self.node(value, group, shift - 8)?,
            };
            self.push_run(base, slot, entry);
            value = group[inside - 1].value;
            free = slot + 1;
            edges = rest;
        }
        if free as u128 <= mask {
            self.push_run(base, free, value);
        }
        Ok(())
    }

    fn push_run(&mut self, base: usize, slot: usize, entry: u32) {
        if self.pending[base..].last().is_none_or(|run| run.entry != entry) {
            self.pending.push(Run { slot, entry });
        }
    }

    /// Makes a node, after its children, and returns the entry that names it.
    fn node(&mut self, value: u32, edges: &[Edge], shift: u32) -> Result<u32, BuildError> {
        let base = self.pending.len();
        self.slots(value, edges, shift, 0xff)?;
        let index = u32::try_from(self.nodes.len()).ok().filter(|&index| index <= MAX_VALUE);
        let first = u32::try_from(self.runs.len()).ok().filter(|&first| first <= MAX_VALUE);
        let (Some(index), Some(first)) = (index, first) else { return Err(BuildError::Size) };

        let mut node = Node::default();
        let mut next = first;
        let mut runs = self.pending.drain(base..).peekable();
        for (chunk, end) in node.0.iter_mut().zip([64, 128, 192, 256]) {
            while let Some(run) = runs.next_if(|run| run.slot < end) {
                // Bit 0 of `starts` stands for slot 1; a start at slot 0 is shifted out.
                chunk.starts |= (1 << (run.slot % 64)) >> 1;
                self.runs.push(run.entry);
                next += 1;
            }
            chunk.last = next - 1;
        }
        self.nodes.push(node);
        Ok(NODE | index)
    }
}
