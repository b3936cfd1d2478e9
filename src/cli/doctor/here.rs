//! What is tried in this process's own namespaces. Nothing of it changes them.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::facility::{Facility, Finding, State};
use super::{PATIENCE, VXLAN_PORT, port};
use crate::sys::filter::Filter;
use crate::sys::netlink::{ErrorKind, LinkChange, LinkIndex, Monitor, Netlink, Topic};
use crate::sys::socket::{self, Seen};
use crate::sys::{process, sandbox, sysctl, tun, userns};
use crate::wire::ip::Family;

/// Settings that forbid user namespaces, with the value that does.
const USERNS_SETTINGS: [(&str, &str); 3] = [
    ("user.max_user_namespaces", "0"),
    ("kernel.unprivileged_userns_clone", "0"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1"),
];

/// Everything that is tried here.
pub(super) fn findings() -> Vec<Finding> {
    let mut found = vec![
        Finding::of(Facility::TunDevice, tun::probe(), "/dev/net/tun can be opened"),
        user_namespaces(),
        enter_namespaces(),
        net_admin(),
        Finding::of(Facility::Ipv6, ipv6(), "sockets and interfaces of IPv6"),
        vxlan_port(),
        Finding::of(
            Facility::RawSocket,
            socket::raw_sender(Family::V4),
            "a raw socket for IPIP and for what is not encapsulated",
        ),
        Finding::of(
            Facility::IcmpSocket,
            Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)),
            "a raw socket for ICMP errors about tunnels",
        ),
        Finding::of(Facility::PacketSocket, packet_socket(), "a packet socket with PACKET_VNET_HDR"),
        Finding::of(
            Facility::QdiscBypass,
            socket::bypasses_queueing(),
            "PACKET_QDISC_BYPASS; margay does not use it",
        ),
        Finding::of(
            Facility::NetlinkMonitor,
            Monitor::open(&[Topic::Links, Topic::Addresses, Topic::Neighbours, Topic::Paths]),
            "notices of links, addresses, neighbours and routes",
        ),
    ];
    found.extend(segmentation());
    found.extend(confinement());
    found
}

fn user_namespaces() -> Finding {
    let facility = Facility::UserNamespaces;
    let tried = process::in_child(PATIENCE, |mut file| {
        let outcome = userns::become_root().map_or_else(|error| error.to_string(), |()| String::new());
        // Without a reader there is nobody to tell.
        let _ = io::Write::write_all(&mut file, format!("{outcome}\n").as_bytes());
    });
    let outcome = match tried {
        Ok(said) => String::from_utf8_lossy(&said).into_owned(),
        Err(error) => return Finding::untried(facility, error.to_string()),
    };
    match outcome.strip_suffix('\n') {
        Some("") => Finding::works(facility, "a user and a network namespace of one's own"),
        Some(error) => {
            // The kernel's word is before the general advice.
            let refused = error.splitn(3, ": ").take(2).collect::<Vec<_>>().join(": ");
            let settings = forbidding_settings();
            let remedy = if settings.is_empty() {
                "the kernel, its security module or the container's seccomp profile forbids them: see user_namespaces(7)"
                    .to_owned()
            } else {
                format!(
                    "as root: sysctl -w {}",
                    settings.iter().map(|(name, _)| undo(name)).collect::<Vec<_>>().join(" ")
                )
            };
            let by: String = settings.iter().map(|(name, value)| format!("; {name} = {value}")).collect();
            Finding { remedy: Some(remedy), ..Finding::missing(facility, format!("{refused}{by}")) }
        }
        None => Finding::missing(facility, "the system did not answer in time"),
    }
}

fn forbidding_settings() -> Vec<(&'static str, String)> {
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/")));
    let settings = USERNS_SETTINGS.iter().filter_map(|(name, forbids)| {
        let value = read(name).ok()?.trim().to_owned();
        (value == *forbids).then_some((*name, value))
    });
    settings.collect()
}

fn undo(setting: &str) -> String {
    match setting {
        "user.max_user_namespaces" => format!("{setting}=10000"),
        "kernel.unprivileged_userns_clone" => format!("{setting}=1"),
        _ => format!("{setting}=0"),
    }
}

/// Only said, not tried: there may be nothing to enter.
fn enter_namespaces() -> Finding {
    use caps::{CapSet, Capability::CAP_SYS_ADMIN, has_cap};
    let facility = Facility::EnterNamespaces;
    match has_cap(None, CapSet::Effective, CAP_SYS_ADMIN) {
        Ok(true) => Finding::works(facility, "CAP_SYS_ADMIN, over the namespaces of its own user namespace"),
        Ok(false) => Finding::missing(facility, "no CAP_SYS_ADMIN: only namespaces of this user's own"),
        Err(error) => Finding::untried(facility, error.to_string()),
    }
}

/// Asks for a change of a link that no namespace has: who may not change links is told so first.
fn net_admin() -> Finding {
    const NONE_SUCH: LinkIndex = LinkIndex(i32::MAX as u32);
    let facility = Facility::NetAdmin;
    let asked = Netlink::open().and_then(|mut netlink| netlink.set_link(NONE_SUCH, &[LinkChange::Up]));
    match asked {
        Err(error) if error.kind == ErrorKind::NotPermitted => {
            Finding::missing(facility, "no CAP_NET_ADMIN over this network namespace")
        }
        Ok(()) => Finding::works(facility, "CAP_NET_ADMIN over this network namespace"),
        Err(error) if error.kind == ErrorKind::NoDevice => {
            Finding::works(facility, "CAP_NET_ADMIN over this network namespace")
        }
        Err(error) => Finding::missing(facility, error),
    }
}

/// A socket can be had where interfaces may not have it.
fn ipv6() -> Result<(), String> {
    const SETTING: &str = "net/ipv6/conf/all/disable_ipv6";
    bound(Ipv6Addr::UNSPECIFIED.into(), 0).map_err(|error| error.to_string())?;
    match sysctl::read(SETTING) {
        Ok(value) if value == "1" => Err("net.ipv6.conf.all.disable_ipv6 = 1".into()),
        // Where it cannot be read nothing says that it is so.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A UDP socket of this address's family alone, as margay's are.
fn bound(address: IpAddr, port: u16) -> io::Result<Socket> {
    let address = SocketAddr::new(address, port);
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Of both families: without IPv6 its port is nobody's.
fn vxlan_port() -> Finding {
    let facility = Facility::VxlanPort;
    let everywhere = bound(Ipv4Addr::UNSPECIFIED.into(), VXLAN_PORT).and_then(|_| {
        bound(Ipv6Addr::UNSPECIFIED.into(), VXLAN_PORT).map(drop).or_else(|error| match error.kind() {
            io::ErrorKind::AddrInUse => Err(error),
            _ => Ok(()),
        })
    });
    match everywhere {
        Ok(()) => Finding::works(facility, format!("UDP {VXLAN_PORT} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Finding::missing(facility, format!("UDP {VXLAN_PORT} is taken by {}", port::holders(VXLAN_PORT)))
        }
        Err(error) => Finding::missing(facility, error),
    }
}

/// On the loopback interface, and nothing passes its filter.
fn packet_socket() -> io::Result<Socket> {
    let lo = Netlink::open().and_then(|mut netlink| netlink.link("lo")).map_err(io::Error::other)?;
    socket::packet(lo.index.0, Seen::Ipv4, &Filter::nothing())
}

/// A message of two datagrams to oneself.
fn segmentation() -> [Finding; 2] {
    const SIZE: usize = 100;
    let send = || -> io::Result<(UdpSocket, UdpSocket)> {
        let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        receiver.set_read_timeout(Some(Duration::from_secs(1)))?;
        sender.connect(receiver.local_addr()?)?;
        Ok((receiver, sender))
    };
    let both = [Facility::UdpGso, Facility::UdpGro];
    let (receiver, sender) = match send() {
        Ok(sockets) => sockets,
        Err(error) => {
            return both.map(|facility| Finding::untried(facility, format!("no UDP on lo: {error}")));
        }
    };
    let joins = setsockopt(&receiver, sockopt::UdpGroSegment, &true);
    let cut = setsockopt(&sender, sockopt::UdpGsoSegment, &(SIZE as i32))
        .map_err(io::Error::from)
        .and_then(|()| sender.send(&[7; 2 * SIZE]));
    let mut buffer = [0; 4 * SIZE];
    let received = cut.and_then(|_| receiver.recv(&mut buffer));
    let gso = match received {
        Ok(len) if len == SIZE || len == 2 * SIZE => {
            Finding::works(Facility::UdpGso, "one send became two datagrams (UDP_SEGMENT)")
        }
        Ok(len) => Finding::missing(Facility::UdpGso, format!("{len} bytes arrived instead of {SIZE}")),
        Err(error) => Finding::missing(Facility::UdpGso, error),
    };
    let gro = match joins {
        Err(error) => Finding::missing(Facility::UdpGro, error),
        Ok(()) if gso.state != State::Works => {
            Finding::untried(Facility::UdpGro, "the option is known; nothing was there to be joined")
        }
        Ok(()) => Finding::works(Facility::UdpGro, "datagrams are handed over together (UDP_GRO)"),
    };
    [gso, gro]
}

/// In a thread that then has nothing left to do.
fn confinement() -> [Finding; 2] {
    let confined = std::thread::Builder::new().spawn(sandbox::confine_worker).map(|thread| thread.join());
    let Ok(Ok(confined)) = confined else {
        return [Facility::Seccomp, Facility::Landlock]
            .map(|facility| Finding::untried(facility, "the system gives no thread"));
    };
    [
        Finding::of(Facility::Seccomp, confined.seccomp, "workers get a filter of system calls"),
        match confined.landlock {
            Ok(version) => {
                Finding::works(Facility::Landlock, format!("ABI {version}: workers can open no file"))
            }
            Err(reason) => Finding::missing(Facility::Landlock, reason),
        },
    ]
}
