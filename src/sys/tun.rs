//! TUN and TAP interfaces (`/dev/net/tun`, Linux Documentation/networking/tuntap.rst).
//!
//! An interface with a virtio-net header tells of partial checksums and super-frames, and can have several
//! queues; where the kernel or sandbox knows neither, the `tun-tap` crate opens a plain one.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::thread;
use std::time::Duration;

use libc::{c_char, c_short, c_ulong};

use super::door::{self, Wanted};
use super::limits;

/// What the interface carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// Ethernet frames.
    Tap,
    /// IP packets.
    Tun,
}

/// What the kernel leaves to the reader of an interface, best first; of either version of IP alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offloads {
    /// Partial checksums, TCP and UDP super-frames (Linux 6.2).
    Uso,
    /// Partial checksums and TCP super-frames.
    Tso,
    /// Partial checksums.
    Checksum,
    /// Virtio-net headers that say nothing.
    Nothing,
    /// No virtio-net header at all.
    Plain,
}

impl Offloads {
    /// True when each frame has a virtio-net header in front.
    pub fn has_header(self) -> bool {
        self != Offloads::Plain
    }

    /// True when TCP super-frames go to the reader and from the writer.
    pub fn has_tso(self) -> bool {
        matches!(self, Offloads::Uso | Offloads::Tso)
    }

    /// True when UDP super-frames do.
    pub fn has_uso(self) -> bool {
        self == Offloads::Uso
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Offloads::Uso => "virtio-net header, checksum, TSO4, TSO6, USO4 and USO6",
            Offloads::Tso => "virtio-net header, checksum, TSO4 and TSO6",
            Offloads::Checksum => "virtio-net header, checksum",
            Offloads::Nothing => "virtio-net header, no offload",
            Offloads::Plain => "plain",
        }
    }
}

/// An open interface: it goes away when the last queue is closed, unless it was made to persist.
#[derive(Debug)]
pub struct Interface {
    /// One descriptor a queue, non-blocking.
    pub queues: Vec<File>,
    /// What the kernel granted.
    pub offloads: Offloads,
}

/// Why an interface cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The device file.
    #[error("/dev/net/tun cannot be opened ({}): {}", .0, device_hint(.0))]
    Device(#[source] io::Error),
    /// The name is taken, or the caller lacks CAP_NET_ADMIN in this network namespace.
    #[error("interface {name} cannot be created ({source}): {}", hint(.source))]
    Create {
        /// Name of the interface.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Longer than 15 bytes.
    #[error("interface name {0:?} is longer than 15 bytes")]
    Name(String),
}

impl TunError {
    /// An interface of that name is there, and of another kind; or the kernel does not know a flag.
    pub fn is_other_kind(&self) -> bool {
        self.os_error() == Some(libc::EINVAL)
    }

    /// Somebody has the interface open.
    fn is_busy(&self) -> bool {
        self.os_error() == Some(libc::EBUSY)
    }

    fn os_error(&self) -> Option<i32> {
        match self {
            TunError::Create { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

fn device_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => limits::HOW_TO_RAISE,
        _ => "load the tun module, or run as root, or give this user access to it",
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => "it needs CAP_NET_ADMIN in the network namespace",
        Some(libc::EBUSY) | Some(libc::EEXIST) => "an interface of that name is there already and in use",
        Some(libc::EINVAL) => "an interface of that name and another kind is there already",
        _ => "see ip link",
    }
}

// linux/if_tun.h
const IFF_TUN: c_short = 0x0001;
const IFF_TAP: c_short = 0x0002;
const IFF_MULTI_QUEUE: c_short = 0x0100;
const IFF_NO_PI: c_short = 0x1000;
const IFF_VNET_HDR: c_short = 0x4000;
const TUNSETIFF: c_ulong = 0x4004_54ca;
const TUNSETPERSIST: c_ulong = 0x4004_54cb;
const TUNGETIFF: c_ulong = 0x8004_54d2;
const TUNSETOFFLOAD: c_ulong = 0x4004_54d0;
const TUN_F_CSUM: c_ulong = 0x01;
const TUN_F_TSO4: c_ulong = 0x02;
const TUN_F_TSO6: c_ulong = 0x04;
const TUN_F_TSO_ECN: c_ulong = 0x08;
const TUN_F_USO4: c_ulong = 0x20;
const TUN_F_USO6: c_ulong = 0x40;

/// Creates an interface in the network namespace of the calling thread.
///
/// # Errors
/// See [`TunError`].
pub fn open(name: &str, layer: Layer, queues: u16) -> Result<Interface, TunError> {
    match open_queues(name, layer, queues) {
        // A kernel that does not know one of the flags: one plain queue. A name that is taken says EINVAL as well, and
        // will say so again.
        Err(error) if error.is_other_kind() => open_plain(name, layer),
        other => other.map(negotiate),
    }
}

/// Opens an interface that persists from an earlier process, with what this one wants of it. Tries for a while: what a
/// process that was killed had open is closed a little later.
///
/// # Errors
/// See [`TunError`]; [`TunError::is_other_kind`] when it must be made anew for that.
pub fn reopen(name: &str, layer: Layer, queues: u16) -> Result<Interface, TunError> {
    const TRIES: u32 = 20;
    const PAUSE: Duration = Duration::from_millis(10);
    for _ in 1..TRIES {
        match open_queues(name, layer, queues) {
            Err(error) if error.is_busy() => thread::sleep(PAUSE),
            other => return other.map(negotiate),
        }
    }
    open_queues(name, layer, queues).map(negotiate)
}

/// An interface whose queues another process has opened and handed over, all of them.
///
/// # Errors
/// [`TunError::Create`] when it is gone.
pub fn adopt(name: &str, queues: Vec<OwnedFd>) -> Result<Interface, TunError> {
    let queues: Vec<File> = queues.into_iter().map(File::from).collect();
    let mut has_header = true;
    for file in &queues {
        let flags = interface_flags(file);
        let flags = flags.map_err(|source| TunError::Create { name: name.to_owned(), source })?;
        has_header &= flags & IFF_VNET_HDR != 0;
    }
    match has_header {
        true => Ok(negotiate(queues)),
        false => Ok(Interface { queues, offloads: Offloads::Plain }),
    }
}

/// Whether the interface of `queue` stays when its last queue is closed, with its addresses and routes.
///
/// # Errors
/// The interface is gone, or the system does not know it.
pub fn set_persistent(queue: &File, persists: bool) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes its flag by value and touches no memory.
    let done = unsafe { libc::ioctl(queue.as_raw_fd(), TUNSETPERSIST as _, c_ulong::from(persists)) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn open_queues(name: &str, layer: Layer, queues: u16) -> Result<Vec<File>, TunError> {
    let mut flags = IFF_NO_PI | IFF_VNET_HDR;
    flags |= match layer {
        Layer::Tap => IFF_TAP,
        Layer::Tun => IFF_TUN,
    };
    if queues > 1 {
        flags |= IFF_MULTI_QUEUE;
    }
    let mut files = Vec::with_capacity(usize::from(queues));
    for _ in 0..queues.max(1) {
        let file = device()?;
        set_interface(&file, name, flags)
            .map_err(|source| TunError::Create { name: name.to_owned(), source })?;
        files.push(file);
    }
    Ok(files)
}

fn negotiate(queues: Vec<File>) -> Interface {
    const TSO: c_ulong = TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    // An offload belongs to the interface: set on one queue, it holds for all.
    let granted = [
        // The kernel takes both versions of USO or neither, and knows those of TSO since the same release (2.6.27).
        (TUN_F_CSUM | TSO | TUN_F_USO4 | TUN_F_USO6, Offloads::Uso),
        (TUN_F_CSUM | TSO, Offloads::Tso),
        (TUN_F_CSUM, Offloads::Checksum),
        (0, Offloads::Nothing),
    ]
    .into_iter()
    .find(|(bits, _)| queues.iter().all(|file| set_offload(file, *bits).is_ok()));
    Interface { queues, offloads: granted.map_or(Offloads::Nothing, |(_, offloads)| offloads) }
}

/// Creates an interface of one queue without virtio-net header.
///
/// # Errors
/// See [`TunError`].
pub fn open_plain(name: &str, layer: Layer) -> Result<Interface, TunError> {
    let mode = match layer {
        Layer::Tap => tun_tap::Mode::Tap,
        Layer::Tun => tun_tap::Mode::Tun,
    };
    checked_name(name)?;
    device()?; // tun-tap's one error does not tell the device from the interface
    let interface = tun_tap::Iface::without_packet_info(name, mode)
        .map_err(|source| TunError::Create { name: name.to_owned(), source })?;
    let create = |source| TunError::Create { name: name.to_owned(), source };
    // SAFETY: the descriptor is open: `interface` holds it. F_DUPFD_CLOEXEC touches no memory.
    let fd = unsafe { libc::fcntl(interface.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 0) };
    if fd < 0 {
        return Err(create(io::Error::last_os_error()));
    }
    // SAFETY: `fd` was just made, and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: F_SETFL on an open descriptor touches no memory.
    if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } < 0 {
        return Err(create(io::Error::last_os_error()));
    }
    Ok(Interface { queues: vec![File::from(fd)], offloads: Offloads::Plain })
}

/// Whether `/dev/net/tun` can be opened by this process.
///
/// # Errors
/// [`TunError::Device`].
pub fn probe() -> Result<(), TunError> {
    device().map(drop)
}

fn device() -> Result<File, TunError> {
    if let Some(opened) = door::fetch(Wanted::Tun) {
        return opened.map(File::from).map_err(TunError::Device);
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")
        .map_err(TunError::Device)
}

/// The name as the kernel takes it: at most 15 bytes and a zero.
fn checked_name(name: &str) -> Result<[c_char; libc::IFNAMSIZ], TunError> {
    let mut bytes = [0; libc::IFNAMSIZ];
    if name.len() >= bytes.len() {
        return Err(TunError::Name(name.to_owned()));
    }
    for (to, from) in bytes.iter_mut().zip(name.bytes()) {
        *to = from as c_char;
    }
    Ok(bytes)
}

fn set_interface(file: &File, name: &str, flags: c_short) -> io::Result<()> {
    let name = checked_name(name).map_err(io::Error::other)?;
    // SAFETY: all zeros is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name = name;
    request.ifr_ifru.ifru_flags = flags;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which lives on this stack.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF as _, &mut request) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn interface_flags(file: &File) -> io::Result<c_short> {
    // SAFETY: all zeros is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: TUNGETIFF writes one `ifreq`, which lives on this stack.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), TUNGETIFF as _, &mut request) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: TUNGETIFF sets the flags of the union.
    Ok(unsafe { request.ifr_ifru.ifru_flags })
}

fn set_offload(file: &File, bits: c_ulong) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its bits by value and touches no memory.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETOFFLOAD as _, bits) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
