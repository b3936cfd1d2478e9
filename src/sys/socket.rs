//! The sockets of the underlay and of veth endpoints, made by socket2; what it does not know is set here.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use super::filter::Filter;

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

/// A raw socket that sends IPv4 packets with the header that it is given, to a next hop of our choice.
///
/// # Errors
/// EPERM without CAP_NET_RAW.
pub fn raw_sender() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    socket.set_header_included_v4(true)?;
    // It never receives: IPPROTO_RAW matches no packet. DF is in our header; the kernel's path MTU
    // discovery must not set its own.
    set_option(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
    tunnel_buffers(&socket)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A raw socket that receives the ICMP errors to `local` about what it sent by IPIP and UDP; the kernel deals with them
/// as well.
///
/// # Errors
/// EPERM without CAP_NET_RAW.
pub fn tunnel_errors(local: Ipv4Addr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
    Filter::errors_about_tunnels(local).attach(&socket)?;
    socket.bind(&SocketAddr::new(local.into(), 0).into())?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// One of the workers' receivers of VXLAN: the kernel spreads flows over them by outer addresses and ports.
///
/// # Errors
/// EADDRINUSE when something else, like a kernel vxlan device, holds the port.
pub fn vxlan_receiver(local: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, None)?;
    socket.set_reuse_port(true)?;
    if local.is_ipv4() {
        socket.set_recv_tos_v4(true)?;
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
/// DF stays clear whatever the inner packet says, as a Calico node's device has it (`df unset`).
///
/// # Errors
/// Those of socket(2) and bind(2); EADDRINUSE when `local`'s port is taken.
pub fn vxlan_sender(local: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, None)?;
    Filter::nothing().attach(&socket)?;
    socket.set_reuse_port(true)?;
    socket.bind(&local.into())?;
    set_option(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
    tunnel_buffers(&socket)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
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

fn set_option(socket: &Socket, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the option value is one int, which lives on this stack.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            mem::size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
