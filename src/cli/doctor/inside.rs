//! What is tried in network namespaces made for it, which go with the child process that made them.

use std::error::Error;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use caps::{CapSet, Capability};
use etherparse::{IpNumber, Ipv4Header};

use super::facility::{Facility, Finding};
use super::{PATIENCE, VXLAN_PORT};
use crate::lpm::Prefix;
use crate::sys::bpf::{self, OuterIpip};
use crate::sys::filter::Filter;
use crate::sys::netlink::{ErrorKind, Link, LinkChange, Netlink, NetlinkError, VethEnd, Vxlan};
use crate::sys::netns::{Netns, NetnsError};
use crate::sys::tun::{self, Layer};
use crate::sys::xdp::Sender;
use crate::sys::{process, socket, userns};
use crate::wire::MacAddr;
use crate::wire::ip::Family;

/// Addresses for documentation, RFC 5737.
const NEAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

const TRIED: [Facility; 9] = [
    Facility::Tap,
    Facility::VnetHeader,
    Facility::TapOffloads,
    Facility::TapQueues,
    Facility::Protocol4,
    Facility::AfXdp,
    Facility::Bpf,
    Facility::KernelIpip,
    Facility::KernelVxlan,
];

/// Everything that is tried in namespaces, each in its turn: what comes after one that hangs is not tried.
pub(super) fn findings() -> Vec<Finding> {
    let said = process::in_child(PATIENCE, |mut file| {
        if let Err(error) = try_all(&mut file) {
            rest(error.as_ref(), |finding| tell(&mut file, &finding));
        }
    });
    let mut found: Vec<Finding> = said
        .unwrap_or_default()
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    for facility in TRIED {
        if found.iter().all(|finding| finding.facility != facility) {
            found.push(Finding::untried(facility, "the system did not answer in time"));
        }
    }
    // Of two answers the first is the one that was tried.
    found.sort_by_key(|finding| finding.facility);
    found.dedup_by_key(|finding| finding.facility);
    found
}

/// No namespace, so nothing is tried in one.
fn rest(error: &dyn Error, mut tell: impl FnMut(Finding)) {
    let error = error.to_string();
    // What to do about it stands with the user namespaces.
    let why = format!("no namespace to try it in: {}", error.split(": ").next().unwrap_or_default());
    TRIED.into_iter().for_each(|facility| tell(Finding::untried(facility, why.as_str())));
}

fn tell(file: &mut File, finding: &Finding) {
    if let Ok(mut line) = serde_json::to_vec(finding) {
        line.push(b'\n');
        // Without a reader there is nobody to tell.
        let _ = file.write_all(&line);
    }
}

fn try_all(file: &mut File) -> Result<(), Box<dyn Error>> {
    // What leaves by the underlay leaves from the node's own namespace.
    let raw = socket::raw_sender(Family::V4);
    // Before there is a second thread.
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_ADMIN)? {
        userns::become_root()?;
    }
    let near = Netns::create()?;
    for finding in taps(&near)? {
        tell(file, &finding);
    }
    let cabled = Netns::create().map(|far| (cable(&near, &far), far));
    match cabled {
        Ok((Ok(link), far)) => {
            tell(file, &protocol4(&near, &far));
            let (xdp, bpf) = match raw {
                Ok(_) => by_link(&near, &link)?,
                Err(error) => {
                    let missing =
                        |facility| Finding::missing(facility, format!("no raw sockets here: {error}"));
                    (missing(Facility::AfXdp), missing(Facility::Bpf))
                }
            };
            tell(file, &xdp);
            tell(file, &bpf);
        }
        Ok((Err(error), _)) => untried_links(file, &error),
        Err(error) => untried_links(file, &error),
    }
    for finding in kernel_tunnels(&near)? {
        tell(file, &finding);
    }
    Ok(())
}

fn untried_links(file: &mut File, error: &impl Display) {
    for facility in [Facility::Protocol4, Facility::AfXdp, Facility::Bpf] {
        tell(file, &Finding::untried(facility, format!("there is no veth to try it on: {error}")));
    }
}

fn taps(netns: &Netns) -> Result<[Finding; 4], NetnsError> {
    let all = [Facility::Tap, Facility::VnetHeader, Facility::TapOffloads, Facility::TapQueues];
    let one = match netns.run(|| tun::open("margay0", Layer::Tap, 1))? {
        Ok(interface) => interface,
        Err(error) => return Ok(all.map(|facility| Finding::missing(facility, &error))),
    };
    let offloads = one.offloads;
    let several = netns.run(|| tun::open("margay1", Layer::Tap, 2))?;
    let whether = |has: bool, facility, found: &str| match has {
        true => Finding::works(facility, found),
        false => Finding::missing(facility, format!("the kernel grants: {}", offloads.name())),
    };
    Ok([
        Finding::works(Facility::Tap, "a TAP can be made in a namespace of one's own"),
        whether(offloads.has_header(), Facility::VnetHeader, "frames with a virtio-net header"),
        whether(offloads.has_uso(), Facility::TapOffloads, "super-frames of TCP and UDP (TSO, USO)"),
        match several {
            Ok(interface) if interface.queues.len() == 2 => {
                Finding::works(Facility::TapQueues, "an interface with two queues")
            }
            Ok(_) => Finding::missing(Facility::TapQueues, "one queue, where two were asked for"),
            Err(error) => Finding::missing(Facility::TapQueues, error),
        },
    ])
}

/// A veth between the two, with an address at each end.
fn cable(near: &Netns, far: &Netns) -> io::Result<Link> {
    let joined = || -> Result<Link, NetlinkError> {
        let open = |netns: &Netns| netns.run(Netlink::open).map_err(io::Error::other);
        let (mut at_near, mut at_far) = match (open(near), open(far)) {
            (Ok(near), Ok(far)) => (near?, far?),
            // Both were entered a moment ago.
            _ => (Netlink::open()?, Netlink::open()?),
        };
        at_near.add_veth(
            &VethEnd { name: "margay2", mac: None, mtu: None, netns: None },
            &VethEnd { name: "margay2", mac: None, mtu: None, netns: Some(far.as_fd()) },
        )?;
        for (netlink, address) in [(&mut at_near, NEAR), (&mut at_far, FAR)] {
            let link = netlink.link("margay2")?;
            netlink.set_link(link.index, &[LinkChange::Up])?;
            let address = Prefix::new(address.into(), 24).unwrap_or(Prefix::from(IpAddr::V4(address)));
            netlink.add_address(link.index, address)?;
        }
        at_near.link("margay2")
    };
    joined().map_err(io::Error::other)
}

/// An IPIP packet from the one to the other, by raw sockets.
fn protocol4(near: &Netns, far: &Netns) -> Finding {
    let facility = Facility::Protocol4;
    let header = |protocol, len, source: Ipv4Addr, destination: Ipv4Addr| {
        let header = Ipv4Header::new(len, 64, protocol, source.octets(), destination.octets());
        header.map(|header| header.to_bytes().to_vec()).unwrap_or_default()
    };
    let payload = header(IpNumber::EXPERIMENTAL_AND_TESTING_0, 0, NEAR, FAR);
    let packet = [header(IpNumber::IPV4, payload.len() as u16, NEAR, FAR), payload.clone()].concat();
    let passed = || -> io::Result<bool> {
        let all = Filter::share_of_ipip(0, 1);
        let open = || socket::ipip_receiver(FAR.into(), &all);
        let mut receiver = far.run(open).map_err(io::Error::other)??;
        receiver.set_nonblocking(false)?;
        receiver.set_read_timeout(Some(Duration::from_secs(1)))?;
        let sender = near.run(|| socket::raw_sender(Family::V4)).map_err(io::Error::other)??;
        sender.send_to(&packet, &SocketAddr::new(FAR.into(), 0).into())?;
        let mut received = [0; 128];
        let len = receiver.read(&mut received)?;
        Ok(received[..len].ends_with(&payload))
    };
    match passed() {
        Ok(true) => Finding::works(facility, "an IPIP packet passed between two namespaces"),
        Ok(false) => Finding::missing(facility, "another packet arrived than was sent"),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            Finding::missing(facility, "an IPIP packet did not arrive within a second")
        }
        Err(error) => Finding::missing(facility, error),
    }
}

/// AF_XDP and BPF on an Ethernet interface.
fn by_link(netns: &Netns, link: &Link) -> Result<(Finding, Finding), NetnsError> {
    let index = link.index.0;
    let xdp = netns.run(|| Sender::open(index, 0).map(drop))?;
    let outer = OuterIpip { mac: link.mac.unwrap_or(MacAddr([2; 6])), local: NEAR, ttl: Some(64) };
    let bpf = netns.run(|| bpf::attach_ipip(index, outer).map(drop))?;
    Ok((
        Finding::of(Facility::AfXdp, xdp, "an AF_XDP socket on a veth"),
        Finding::of(Facility::Bpf, bpf, "a program on a veth's egress (tcx)"),
    ))
}

fn kernel_tunnels(netns: &Netns) -> Result<[Finding; 2], NetnsError> {
    let ipip = || Netlink::open()?.add_ipip("margay3");
    let vxlan = || {
        let mut netlink = Netlink::open()?;
        let dev = netlink.link("lo")?.index;
        let vxlan = Vxlan {
            name: "margay4",
            vni: 4096,
            port: VXLAN_PORT,
            local: NEAR.into(),
            dev,
            mac: MacAddr([2; 6]),
            mtu: 1450,
        };
        netlink.add_vxlan(&vxlan)
    };
    Ok([
        kernel_tunnel(Facility::KernelIpip, "ipip", || netns.run(ipip))?,
        kernel_tunnel(Facility::KernelVxlan, "vxlan", || netns.run(vxlan))?,
    ])
}

/// To try one whose module is not loaded would load it, which stays.
fn kernel_tunnel(
    facility: Facility,
    module: &str,
    add: impl FnOnce() -> Result<Result<(), NetlinkError>, NetnsError>,
) -> Result<Finding, NetnsError> {
    if is_loadable(module) {
        return Ok(Finding::works(facility, format!("the module {module}, which is not loaded")));
    }
    Ok(match add()? {
        Err(error) if error.kind == ErrorKind::Unsupported => {
            Finding::missing(facility, "this kernel has none")
        }
        tried => Finding::of(facility, tried, "a device can be made"),
    })
}

/// Whether the module is on the disk, and not in the kernel.
fn is_loadable(module: &str) -> bool {
    let Ok(kernel) = nix::sys::utsname::uname() else { return false };
    let release = kernel.release().to_string_lossy().into_owned();
    let on_disk = fs::read_to_string(format!("/lib/modules/{release}/modules.dep")).unwrap_or_default();
    let is_it = |line: &str| {
        let file = line.split(':').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
        file.split('.').next() == Some(module)
    };
    on_disk.lines().any(is_it) && !fs::exists(format!("/sys/module/{module}")).unwrap_or(false)
}
