//! What margay uses of a machine, by name.

use serde::{Deserialize, Serialize};

/// Something that a kernel or sandbox has and permits, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Facility {
    /// `/dev/net/tun` is there and can be opened.
    TunDevice,
    /// An interface can be made with it (TUNSETIFF).
    Tap,
    /// Frames with a virtio-net header.
    VnetHeader,
    /// Super-frames of TCP and of UDP.
    TapOffloads,
    /// Several queues.
    TapQueues,
    /// Namespaces for ordinary users.
    UserNamespaces,
    /// The workloads' namespaces can be entered by who did not make them.
    EnterNamespaces,
    /// Interfaces, addresses, routes and rules of this namespace.
    NetAdmin,
    /// Raw sockets.
    RawSocket,
    /// A raw socket for ICMP.
    IcmpSocket,
    /// Packet sockets with a virtio-net header.
    PacketSocket,
    /// Packet sockets that pass by the queueing discipline.
    QdiscBypass,
    /// IPv6 in the kernel.
    Ipv6,
    /// The UDP port of VXLAN is free.
    VxlanPort,
    /// One send that becomes many datagrams.
    UdpGso,
    /// Many datagrams that become one.
    UdpGro,
    /// AF_XDP sockets.
    AfXdp,
    /// A BPF program on an interface's egress.
    Bpf,
    /// IP in IP passes from one namespace to another.
    Protocol4,
    /// Notices of changes.
    NetlinkMonitor,
    /// The kernel's own IPIP.
    KernelIpip,
    /// The kernel's own VXLAN.
    KernelVxlan,
    /// Filters of system calls.
    Seccomp,
    /// Closed files.
    Landlock,
}

impl Facility {
    /// In the order in which they are shown.
    pub const ALL: [Facility; 24] = [
        Self::TunDevice,
        Self::Tap,
        Self::VnetHeader,
        Self::TapOffloads,
        Self::TapQueues,
        Self::UserNamespaces,
        Self::EnterNamespaces,
        Self::NetAdmin,
        Self::Ipv6,
        Self::VxlanPort,
        Self::UdpGso,
        Self::UdpGro,
        Self::RawSocket,
        Self::IcmpSocket,
        Self::PacketSocket,
        Self::QdiscBypass,
        Self::Protocol4,
        Self::AfXdp,
        Self::Bpf,
        Self::NetlinkMonitor,
        Self::KernelIpip,
        Self::KernelVxlan,
        Self::Seccomp,
        Self::Landlock,
    ];

    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::TunDevice => "tun-device",
            Self::Tap => "tap",
            Self::VnetHeader => "vnet-header",
            Self::TapOffloads => "tap-offloads",
            Self::TapQueues => "tap-queues",
            Self::UserNamespaces => "user-namespaces",
            Self::EnterNamespaces => "enter-namespaces",
            Self::NetAdmin => "net-admin",
            Self::Ipv6 => "ipv6",
            Self::VxlanPort => "vxlan-port",
            Self::UdpGso => "udp-gso",
            Self::UdpGro => "udp-gro",
            Self::RawSocket => "raw-socket",
            Self::IcmpSocket => "icmp-socket",
            Self::PacketSocket => "packet-socket",
            Self::QdiscBypass => "qdisc-bypass",
            Self::Protocol4 => "protocol4",
            Self::AfXdp => "af-xdp",
            Self::Bpf => "bpf",
            Self::NetlinkMonitor => "netlink-monitor",
            Self::KernelIpip => "kernel-ipip",
            Self::KernelVxlan => "kernel-vxlan",
            Self::Seccomp => "seccomp",
            Self::Landlock => "landlock",
        }
    }

    /// How to get it, where that is the same everywhere.
    pub(super) fn remedy(self) -> &'static str {
        match self {
            Self::TunDevice => {
                "modprobe tun; in a container pass the device (--device /dev/net/tun); for ordinary users chmod 666 /dev/net/tun"
            }
            Self::Tap => "run as root or with CAP_NET_ADMIN, or let users make user namespaces",
            Self::VnetHeader | Self::TapOffloads | Self::TapQueues => {
                "a newer kernel (USO: Linux 6.2); without it margay works, slower"
            }
            Self::UserNamespaces => "see user_namespaces(7)",
            Self::EnterNamespaces => {
                "run as root or with CAP_SYS_ADMIN; or rootless, with workloads in user namespaces of this user"
            }
            Self::NetAdmin => {
                "run as root or with CAP_NET_ADMIN: no host interface, no veth endpoints and no guard rule otherwise"
            }
            Self::RawSocket | Self::IcmpSocket | Self::PacketSocket => "run as root or with CAP_NET_RAW",
            Self::QdiscBypass => "margay does without",
            Self::Ipv6 => {
                "a kernel with IPv6, started without ipv6.disable=1; sysctl -w net.ipv6.conf.all.disable_ipv6=0; without it margay does IPv4 alone"
            }
            Self::VxlanPort => {
                "end or move who has it, or set vxlanPort in the FelixConfiguration of every node"
            }
            Self::UdpGso => "Linux 4.18; without it margay works, slower",
            Self::UdpGro => "Linux 5.0; without it margay works, slower",
            Self::AfXdp => {
                "CAP_NET_RAW, CAP_IPC_LOCK and CONFIG_XDP_SOCKETS; without it IPIP leaves by a packet socket"
            }
            Self::Bpf => {
                "Linux 6.6, and CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN in the first user namespace; only --ipip-offload bpf needs it"
            }
            Self::Protocol4 => "the kernel, or a filter in it, drops IP in IP: use VXLAN",
            Self::NetlinkMonitor => "without it margay looks for changes every second",
            Self::KernelIpip | Self::KernelVxlan => "margay does without",
            Self::Seccomp => {
                "CONFIG_SECCOMP_FILTER, and a sandbox that permits seccomp(2); margay runs without"
            }
            Self::Landlock => "Linux 5.13 with lsm=landlock,…; margay runs without",
        }
    }
}

/// What was found of a facility.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It was tried and works.
    Works,
    /// It was tried and does not.
    Missing,
    /// It could not be tried.
    Untried,
}

/// One facility, tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Which.
    pub facility: Facility,
    /// Whether it works.
    pub state: State,
    /// What happened.
    pub found: String,
    /// How to get what is missing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub remedy: Option<String>,
}

impl Finding {
    pub(super) fn works(facility: Facility, found: impl Into<String>) -> Self {
        Finding { facility, state: State::Works, found: found.into(), remedy: None }
    }

    pub(super) fn missing(facility: Facility, found: impl ToString) -> Self {
        let remedy = Some(facility.remedy().to_owned());
        Finding { facility, state: State::Missing, found: found.to_string(), remedy }
    }

    pub(super) fn untried(facility: Facility, found: impl Into<String>) -> Self {
        Finding { facility, state: State::Untried, found: found.into(), remedy: None }
    }

    /// It works and `found` says how, or what refused.
    pub(super) fn of<T, E: ToString>(facility: Facility, tried: Result<T, E>, found: &str) -> Self {
        match tried {
            Ok(_) => Self::works(facility, found),
            Err(error) => Self::missing(facility, error),
        }
    }
}
