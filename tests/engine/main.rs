//! The whole engine with ports in memory: frames in, a worker's turn, frames out.
//!
//! A test named after a statement (`a1_…`, `i9_…`) shows that one; where it comes from stands beside it. What
//! this cannot see: the kernel's sockets and interfaces.

mod accounts;
mod arp;
#[expect(unreachable_pub, reason = "the engine's fuzz target uses it as well")]
mod bed;
mod capture;
mod dual;
mod dual_errors;
mod errors;
mod forwarding;
mod malformed;
mod mss;
mod mtu;
mod ndp;
mod neighbors;
mod offloads;
#[expect(unreachable_pub, reason = "the engine's fuzz target uses it as well")]
mod packets;
#[expect(unreachable_pub, reason = "the engine's fuzz target uses it as well")]
mod packets6;
mod paths;
mod probes;
mod reasons;
mod security;
mod tunnel_errors;
mod tunnels;
mod vectors;
