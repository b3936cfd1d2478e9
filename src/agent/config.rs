//! How the daemon is set up.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::fib::OuterTtl;
use crate::resource::FelixConfiguration;
use crate::sys::socket::ZeroChecksums;

/// How the daemon is set up; everything else is in the resources.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of this machine's Node resource.
    pub node: String,
    /// Directory of resources.
    pub resources: PathBuf,
    /// Worker threads.
    pub workers: usize,
    /// How long a worker asks for work at most before it sleeps.
    pub spin: Duration,
    /// Name of the host interface; `None` for a node whose pods have no way to it.
    pub host_interface: Option<String>,
    /// TTL of IPIP outer headers.
    pub outer_ttl: OuterTtl,
    /// Sources of ICMP errors, one of a family at most; of a family without, the node's tunnel address, or its own where it has none.
    pub icmp_sources: Vec<IpAddr>,
    /// Who cuts IPIP's super-frames.
    pub ipip_offload: IpipOffload,
    /// What becomes of VXLAN over IPv6 without a UDP checksum.
    pub zero_checksums: ZeroChecksums,
    /// Settings that go before those of the resources.
    pub felix: FelixConfiguration,
    /// Ask each peer what its path takes.
    pub probe_path_mtu: bool,
    /// What the daemon's own threads never do is forbidden to them; or why it is not.
    pub floor: Result<(), String>,
}

/// How frames leave by IPIP, and who cuts their super-frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpipOffload {
    /// Margay cuts. By AF_XDP where the interface has no queueing discipline, else by a packet socket.
    Auto,
    /// Margay cuts. By a packet socket.
    Off,
    /// The kernel, or the network card, after a BPF program on the underlay interface has put the outer header in front.
    Bpf,
}
