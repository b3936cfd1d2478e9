//! The machine: one file per kernel facility, and the only place for system calls.
//!
//! | file | facility |
//! |---|---|
//! | [`netns`] | network namespaces, setns(2) |
//! | `door` | a network namespace of a user's own, by a child process |
//! | [`netlink`] | links, addresses, routes, rules, neighbours |
//! | [`sysctl`] | settings of a network namespace |
//! | [`descriptors`] | descriptors over a Unix socket, SCM_RIGHTS |
//! | [`process`] | pidfd_open(2) |
//! | [`userns`] | root inside a user namespace |
//! | [`tun`] | TUN and TAP with virtio-net headers and queues |
//! | [`socket`] | raw, UDP and packet sockets |
//! | [`filter`] | classic BPF on sockets |
//! | [`ethtool`] | features of an interface, like segmentation offloads |
//! | [`scheduling`] | which cores, which priority |
//! | [`bpf`] | bpf(2): a program on an interface's egress |
//! | [`limits`] | resource limits |
//! | [`privileges`] | capabilities(7), no_new_privs |
//! | [`sandbox`] | seccomp(2), landlock(7) |
//! | [`mmsg`] | recvmmsg(2), sendmmsg(2) |
//! | [`xdp`] | AF_XDP sockets that only send |

#![allow(unsafe_code)]

pub mod bpf;
pub mod descriptors;
mod door;
pub mod ethtool;
pub mod filter;
pub mod ipsec;
pub mod limits;
pub mod mmsg;
pub mod netlink;
pub mod netns;
pub mod privileges;
pub mod process;
pub mod sandbox;
pub mod scheduling;
pub mod socket;
pub mod sysctl;
pub mod tun;
pub mod userns;
pub mod xdp;
