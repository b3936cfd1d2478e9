//! Headers as they stand on the wire.
//!
//! Contract: `parse` checks, once, every length and field that the accessors rely on; after it
//! nothing can fail or panic. A view never looks beyond the slice it was given, nor copies it: it is two
//! references, to pass by value. Checksums above the IP header are not part of `parse`, as they cost a
//! pass over the payload and a router has no business with them; `verify` looks when somebody must know.
//!
//! Writers take the output as an array of the header's size and write every byte of it. The functions that
//! edit in place take a slice that begins with a header which was parsed before; they leave a slice alone that
//! is too short to be one.

pub mod arp;
pub mod checksum;
pub mod ecn;
pub mod ethernet;
pub mod flow;
pub mod icmpv4;
pub mod icmpv6;
pub mod ip;
pub mod ipv4;
pub mod ipv6;
pub mod mac;
mod malformed;
pub mod ndp;
mod protocol;
pub mod tcp;
pub mod transport;
pub mod udp;
pub mod vxlan;

pub use arp::Arp;
pub use ecn::Ecn;
pub use ethernet::{EtherType, Ethernet};
pub use icmpv4::{Icmpv4, Icmpv4Type};
pub use icmpv6::{Icmpv6, Icmpv6Type};
pub use ip::Family;
pub use ipv4::Ipv4;
pub use ipv6::Ipv6;
pub use mac::MacAddr;
pub use malformed::Malformed;
pub use ndp::{NeighborAdvertisement, NeighborSolicitation};
pub use protocol::Protocol;
pub use tcp::Tcp;
pub use udp::Udp;
pub use vxlan::{Vni, Vxlan};
