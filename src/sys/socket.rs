//! The sockets of the underlay and of veth endpoints, made by socket2; what it does not know is set here.

use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use super::filter::Filter;
use crate::wire::ip::Family;

/// Receive buffer that a tunnel socket asks for, bytes: a burst of a few milliseconds at 10 Gbit/s. The system's own
/// limit (`net.core.rmem_max`, 208 KiB unless set) holds three super-frames.
pub const RECEIVE_BUFFER: usize = 4 << 20;
/// Send buffer, bytes: of these the kernel allows `net.core.wmem_max`, and then twice as many, for its own data as
/// well; with 1,500-byte packets that is 680 kB on their way. A full socket takes more when half of that has left.
/// Half must be more than leaves while a thread is woken (100 µs: 27 Gbit/s), and so little that it leaves within
/// the patience of `io` (100 ms: 27 Mbit/s), as what does not is lost.
const SEND_BUFFER: usize = 512 << 10;

/// A raw socket that receives protocol 4, outer header included.
///
/// While it is open the kernel answers no IPIP packet with ICMP protocol unreachable.
///
/// # Errors
/// EPERM without CAP_NET_RAW.
pub fn ipip_receiver(local: IpAddr, share: &Filter) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_IPIP)))?;
    share.attach(&socket)?;
    socket.bind(&SocketAddr::new(local, 0).into())?;
    tunnel_buffers(&socket)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A raw socket that sends packets of one version with the header that they have, to a next hop of our choice.
///
/// # Errors
/// EPERM without CAP_NET_RAW; EAFNOSUPPORT for a version that the kernel does not have.
pub fn raw_sender(family: Family) -> io::Result<Socket> {
    // It never receives: IPPROTO_RAW matches no packet.
    let socket = Socket::new(domain(family), Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    match family {
        Family::V4 => {
            socket.set_header_included_v4(true)?;
            // DF is in our header; the kernel's path MTU discovery must not set its own.
            set_option(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
        }
        Family::V6 => socket.set_header_included_v6(true)?,
    }
    tunnel_buffers(&socket)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A raw socket that receives the ICMP or ICMPv6 errors to `local` about what it sent by IPIP and UDP; the kernel deals
/// with them as well. Of IPv6 it receives the message without the header in front of it, its checksum verified.
///
/// # Errors
/// EPERM without CAP_NET_RAW.
pub fn tunnel_errors(local: impl Into<IpAddr>) -> io::Result<Socket> {
    let local = local.into();
    let socket = match local {
        IpAddr::V4(_) => Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?,
        IpAddr::V6(_) => {
            let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
            // A bit for each type that is kept away (RFC 3542 3.2): errors are those under 128 (RFC 4443 2.1).
            let errors_only: [u32; 8] = [0, 0, 0, 0, u32::MAX, u32::MAX, u32::MAX, u32::MAX];
            set_option(&socket, libc::IPPROTO_ICMPV6, ICMPV6_FILTER, errors_only)?;
            socket
        }
    };
    Filter::errors_about_tunnels(local).attach(&socket)?;
    socket.bind(&SocketAddr::new(local, 0).into())?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// What becomes of datagrams without a checksum that come over IPv6. Over IPv4 they are always received (RFC 768).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ZeroChecksums {
    /// The kernel drops them (RFC 8200 8.1).
    #[default]
    Refused,
    /// They are received: for a tunnel whose peers send so by arrangement (RFC 6935 5, RFC 6936 4).
    Accepted,
}

/// Says what becomes of datagrams without a checksum that come over IPv6: a new socket refuses them.
///
/// # Errors
/// It is no UDP socket.
pub fn set_zero_checksums(socket: &Socket, zero_checksums: ZeroChecksums) -> io::Result<()> {
    let accepts = zero_checksums == ZeroChecksums::Accepted;
    set_option(socket, libc::SOL_UDP, UDP_NO_CHECK6_RX, i32::from(accepts))
}

/// One of the workers' receivers of VXLAN: the kernel spreads flows over them by outer addresses and ports.
///
/// # Errors
/// EADDRINUSE when something else, like a kernel vxlan device, holds the port.
pub fn vxlan_receiver(local: SocketAddr) -> io::Result<Socket> {
    let socket = tunnel_socket(local)?;
    match local {
        SocketAddr::V4(_) => socket.set_recv_tos_v4(true)?,
        SocketAddr::V6(_) => socket.set_recv_tclass_v6(true)?,
    }
    // Where the kernel cannot join, each datagram comes by itself.
    let _ = receive_joined(&socket);
    socket.bind(&local.into())?;
    tunnel_buffers(&socket)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A sender of VXLAN with a source port that only other senders like it may have; it takes nothing in.
///
/// DF stays clear whatever the inner packet says, as a Calico node's device has it (`df unset`); over IPv6 the kernel
/// makes fragments of what is longer than the path's MTU, as it does for a device of its own.
///
/// Over IPv6 a flow label is the kernel's hash of outer addresses and ports (RFC 6438 3), of which the source port is the
/// inner flow's: packets of one flow have one label, whatever messages they leave in. It needs no lease, and no flow
/// that somebody else manages keeps it away. Where `net.ipv6.auto_flowlabels` is 0 there are no labels.
///
/// # Errors
/// Those of socket(2) and bind(2); EADDRINUSE when `local`'s port is taken.
pub fn vxlan_sender(local: SocketAddr) -> io::Result<Socket> {
    let socket = tunnel_socket(local)?;
    Filter::nothing().attach(&socket)?;
    socket.bind(&local.into())?;
    match local {
        SocketAddr::V4(_) => {
            set_option(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
        }
        SocketAddr::V6(_) => {
            set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)?;
            set_option(&socket, libc::IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, 1)?;
        }
    }
    tunnel_buffers(&socket)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A UDP socket that shares its port, and of IPv6 has it for that alone: the other family has sockets of its own.
fn tunnel_socket(local: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, None)?;
    socket.set_reuse_port(true)?;
    if local.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn domain(family: Family) -> Domain {
    match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    }
}

/// Lets a UDP socket receive datagrams that the kernel joined, each with the size of its segments (`UDP_GRO`,
/// Linux 5.0).
///
/// # Errors
/// `ENOPROTOOPT` on kernels before.
pub fn receive_joined(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// What a packet socket sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Every frame that arrives at the interface.
    All,
    /// IPv4 alone.
    Ipv4,
    /// IPv6 alone.
    Ipv6,
}

/// A packet socket on one interface, with virtio-net headers both ways; it sees no frame that this
/// machine sends.
///
/// # Errors
/// EPERM without CAP_NET_RAW in the namespace; ENODEV when the interface is gone.
pub fn packet(interface: u32, seen: Seen, filter: &Filter) -> io::Result<Socket> {
    let ethertype = match seen {
        Seen::All => libc::ETH_P_ALL,
        Seen::Ipv4 => libc::ETH_P_IP,
        Seen::Ipv6 => libc::ETH_P_IPV6,
    } as u16;
    // Protocol 0: it receives nothing before it is bound, and filtered.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    set_option(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
    set_option(&socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
    filter.attach(&socket)?;
    socket.bind(&link_address(interface, ethertype))?;
    tunnel_buffers(&socket)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A packet socket that sends Ethernet frames by one interface, a virtio-net header in front of each, and receives
/// nothing.
///
/// They pass the interface's queueing discipline, as the kernel's own do: what bypasses it (`PACKET_QDISC_BYPASS`)
/// is not seen by captures, is lost where a full queue would have held it, and cannot be super-frames.
///
/// # Errors
/// As [`packet`].
pub fn link_sender(interface: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    set_option(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
    // Protocol 0 matches no frame.
    socket.bind(&link_address(interface, 0))?;
    tunnel_buffers(&socket)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Whether packet sockets can pass by queueing disciplines here (`PACKET_QDISC_BYPASS`, Linux 3.14).
///
/// # Errors
/// EPERM without CAP_NET_RAW; ENOPROTOOPT.
pub fn bypasses_queueing() -> io::Result<()> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    set_option(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)
}

/// Lets the packet sockets of one `group` share an interface's frames, a flow always to the same one.
///
/// # Errors
/// Those of `PACKET_FANOUT`, packet(7).
pub fn join_fanout(socket: &Socket, group: u16) -> io::Result<()> {
    let argument = i32::from(group) | (libc::PACKET_FANOUT_HASH as i32) << 16;
    set_option(socket, libc::SOL_PACKET, libc::PACKET_FANOUT, argument)
}

// linux/if_packet.h, Linux 4.20
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
// linux/icmpv6.h
const ICMPV6_FILTER: libc::c_int = 1;
// linux/udp.h, Linux 3.16
const UDP_NO_CHECK6_RX: libc::c_int = 102;
// linux/in6.h, Linux 3.17
const IPV6_AUTOFLOWLABEL: libc::c_int = 70;

fn link_address(interface: u32, ethertype: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is smaller than, and no more aligned than, the storage; all zeros is valid.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as _;
    link.sll_protocol = ethertype.to_be();
    link.sll_ifindex = interface as _;
    // SAFETY: the storage holds a `sockaddr_ll`, and that many bytes of it are set.
    unsafe { SockAddr::new(storage, mem::size_of::<libc::sockaddr_ll>() as _) }
}

fn tunnel_buffers(socket: &Socket) -> io::Result<()> {
    // Without CAP_NET_ADMIN over the namespace only up to `net.core.rmem_max`.
    if set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER as i32).is_err() {
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    }
    socket.set_send_buffer_size(SEND_BUFFER)
}

/// Sets an option whose value is a number or an array of them.
fn set_option<T: Copy>(socket: &Socket, level: i32, name: i32, value: T) -> io::Result<()> {
    // SAFETY: the value lives on this stack, and that many bytes of it are read; the callers' types, integers and
    // arrays of them, have no padding.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            mem::size_of::<T>() as libc::socklen_t,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
