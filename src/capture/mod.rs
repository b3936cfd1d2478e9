//! What a capture is made of, without its I/O: which frames are wanted ([`Filter`] over [`Headers`]), and the file
//! that they become ([`Pcapng`]).
//!
//! Workers copy frames (`dataplane::tap`), the agent names what is in them, and hands over the file.

mod filter;
mod headers;
mod pcapng;

pub use filter::{Filter, FilterError};
pub use headers::{Header, Headers, Ip, Link};
pub use pcapng::{Interface, Packet, Pcapng, Way};
