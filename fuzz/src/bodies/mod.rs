//! What each fuzz target does with its input. The libFuzzer binaries of `fuzz/fuzz_targets` run these, and so
//! does `tests/fuzz_corpora.rs`, which replays the corpora with a stable compiler on every `cargo test`.
//!
//! A body takes any bytes. It panics when an invariant is broken or an oracle disagrees; that nothing
//! crashes comes on top.

pub mod engine;
mod filter;
mod frame;
mod ipv6;
mod model;
mod resource;
mod segment;
mod segmentation;
mod sequence;
mod wire;

/// One target: its name, which is that of its binary and its corpus, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target there is.
pub const TARGETS: &[Target] = &[
    ("arp", wire::arp),
    ("checksum", wire::checksum),
    ("cut", segmentation::cut_any),
    ("engine", engine::engine),
    ("engine_dual", engine::engine_dual),
    ("ethernet_ip", frame::ethernet_ip),
    ("filter", filter::filter),
    ("flow", frame::flow),
    ("icmpv4", segment::icmpv4),
    ("icmpv6", ipv6::icmpv6),
    ("ipv4", wire::ipv4),
    ("ipv6", ipv6::ipv6),
    ("join", segmentation::join_any),
    ("mac", wire::mac),
    ("ndp", ipv6::ndp),
    ("pcapng", filter::pcapng),
    ("resource", resource::resource),
    ("sequence", sequence::sequence),
    ("tcp", segment::tcp),
    ("udp", segment::udp),
    ("vxlan", wire::vxlan),
];

/// Runs the body of a target.
///
/// # Panics
/// When the input shows a fault, and when there is no such target.
pub fn run(target: &str, input: &[u8]) {
    let (_, body) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target of the list");
    body(input);
}

/// Whether a checksum field is right where an oracle, looking away from the field, says `expected`. Zero has
/// two forms in ones' complement.
fn is_right(field: u16, expected: u16) -> bool {
    field == expected || (field == 0xffff && expected == 0)
}
