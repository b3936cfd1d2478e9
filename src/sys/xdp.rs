//! AF_XDP sockets that only send (Linux Documentation/networking/af_xdp.rst), in copy mode: no XDP program, no BPF, any
//! driver.
//!
//! Frames are written to memory shared with the kernel and named in a ring; one system call sends many. The kernel
//! copies each and gives it to the driver itself: queueing disciplines, `tc` and captures do not see it. It names
//! the memory that is free again in a second ring.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes of a frame's place: the kernel takes powers of two from 2,048 to the size of a page.
pub const ROOM: usize = 2048;
/// Places, and entries of each ring: no ring is ever full while a place is free. What one batch of super-frames is cut
/// into fits several times.
const PLACES: u32 = 2048;
const _: () = assert!(PLACES.is_power_of_two());
/// The kernel wants a ring of memory to receive into, even of who does not; it stays empty.
const UNUSED: u32 = 1;

/// A sender of Ethernet frames by one queue of an interface.
#[derive(Debug)]
pub struct Sender {
    socket: OwnedFd,
    frames: Mapping,
    transmit: Ring<libc::xdp_desc>,
    completed: Ring<u64>,
    /// Places that neither the kernel has nor a frame.
    free: Vec<u32>,
}

impl Sender {
    /// Of queue `queue`, which nobody else may have an AF_XDP socket on.
    ///
    /// # Errors
    /// EAFNOSUPPORT without such sockets; EPERM without CAP_NET_RAW; EINVAL without that queue; EBUSY when somebody has
    /// it; ENOBUFS when so much memory may not be locked (`ulimit -l`).
    pub fn open(interface: u32, queue: u32) -> io::Result<Self> {
        // SAFETY: takes no pointers.
        let socket = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor, which nobody else has.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        let frames = Mapping::new(PLACES as usize * ROOM, None)?;
        // SAFETY: all zeros is a valid `xdp_umem_reg`.
        let mut memory: libc::xdp_umem_reg = unsafe { mem::zeroed() };
        memory.addr = frames.start.as_ptr() as u64;
        memory.len = frames.len as u64;
        memory.chunk_size = ROOM as u32;
        set_option(&socket, libc::XDP_UMEM_REG, &memory)?;
        set_option(&socket, libc::XDP_UMEM_FILL_RING, &UNUSED)?;
        set_option(&socket, libc::XDP_UMEM_COMPLETION_RING, &PLACES)?;
        set_option(&socket, libc::XDP_TX_RING, &PLACES)?;
        let offsets = offsets(&socket)?;
        let transmit = Ring::new(&socket, libc::XDP_PGOFF_TX_RING as u64, offsets.tx)?;
        let completed = Ring::new(&socket, libc::XDP_UMEM_PGOFF_COMPLETION_RING, offsets.cr)?;
        bind(&socket, interface, queue)?;
        Ok(Sender { socket, frames, transmit, completed, free: (0..PLACES).rev().collect() })
    }

    /// Whether there is room for so many frames.
    #[inline]
    pub fn has_room(&mut self, frames: usize) -> bool {
        if self.free.len() < frames {
            self.reclaim();
        }
        self.free.len() >= frames
    }

    /// Room for the next frame of `len` bytes, which the caller is to fill; `None` without.
    ///
    /// # Panics
    /// `len` is above [`ROOM`].
    #[inline]
    pub fn frame(&mut self, len: usize) -> Option<&mut [u8]> {
        assert!(len <= ROOM, "a frame has a place of {ROOM} bytes");
        let start = self.free.pop()? as usize * ROOM;
        self.transmit.push(libc::xdp_desc { addr: start as u64, len: len as u32, options: 0 });
        // SAFETY: `start + ROOM` is within the mapping, which lives as long as `self`; a place that was free is the
        // kernel's only after `publish`, which needs `self` again.
        Some(unsafe { std::slice::from_raw_parts_mut(self.frames.start.as_ptr().add(start), len) })
    }

    /// Frames that wait in the ring.
    pub fn waiting(&self) -> usize {
        self.transmit.waiting()
    }

    /// Has the kernel send what waits, as far as it does so at once: see [`Self::waiting`] for the rest.
    ///
    /// # Errors
    /// ENETDOWN while the interface is down, ENXIO when it is gone: then all that waits stays. EAGAIN when the kernel
    /// took nothing.
    pub fn send(&mut self) -> io::Result<()> {
        self.transmit.publish();
        loop {
            let before = self.waiting();
            if before == 0 {
                return Ok(());
            }
            // SAFETY: no bytes and no address.
            let sent = unsafe {
                libc::sendto(self.socket.as_raw_fd(), ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0)
            };
            // The kernel sends a bounded number in one go, and says EAGAIN; or EBUSY, having dropped one.
            if sent < 0 && self.waiting() == before {
                return Err(io::Error::last_os_error());
            }
        }
    }

    /// Takes back the places of frames that have left.
    fn reclaim(&mut self) {
        while let Some(address) = self.completed.pop() {
            self.free.push((address / ROOM as u64) as u32 % PLACES);
        }
    }
}

/// Memory from mmap(2).
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: it is this process's memory, wherever it is used from.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Memory of our own, or of a socket's at an offset.
    fn new(len: usize, of: Option<(&OwnedFd, u64)>) -> io::Result<Self> {
        let (flags, file, offset) = match of {
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0),
            Some((socket, offset)) => (libc::MAP_SHARED | libc::MAP_POPULATE, socket.as_raw_fd(), offset),
        };
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let start = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(ptr::null_mut(), len, access, flags, file, offset as libc::off_t)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(start.cast()).map(|start| Mapping { start, len }).ok_or(io::ErrorKind::Other.into())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped, and nothing of it is borrowed any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// One side of a ring of [`PLACES`] entries, of which the kernel has the other side.
///
/// The counters run on for ever and wrap; an entry's place is its counter's lower bits.
#[derive(Debug)]
struct Ring<T> {
    memory: Mapping,
    offsets: libc::xdp_ring_offset,
    /// Our counter, of what was pushed or popped.
    ours: u32,
    entry: std::marker::PhantomData<T>,
}

impl<T: Copy> Ring<T> {
    fn new(socket: &OwnedFd, at: u64, offsets: libc::xdp_ring_offset) -> io::Result<Self> {
        let len = offsets.desc as usize + PLACES as usize * mem::size_of::<T>();
        Ok(Ring {
            memory: Mapping::new(len, Some((socket, at)))?,
            offsets,
            ours: 0,
            entry: std::marker::PhantomData,
        })
    }

    fn counter(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: the kernel says that a counter of 32 bits, aligned, lies at this offset of the mapping, which lives
        // as long as `self`; both sides use it atomically.
        unsafe { &*self.memory.start.as_ptr().add(offset as usize).cast::<AtomicU32>() }
    }

    fn entry(&self, counter: u32) -> *mut T {
        let index = (counter & (PLACES - 1)) as usize;
        // SAFETY: `new` mapped `PLACES` entries from `desc` on.
        unsafe { self.memory.start.as_ptr().add(self.offsets.desc as usize).cast::<T>().add(index) }
    }

    /// Writes an entry. There is room: there are no more places than entries.
    fn push(&mut self, entry: T) {
        // SAFETY: within the mapping; the kernel reads it after `publish`.
        unsafe { self.entry(self.ours).write(entry) };
        self.ours = self.ours.wrapping_add(1);
    }

    /// Gives the kernel what was pushed.
    fn publish(&self) {
        self.counter(self.offsets.producer).store(self.ours, Ordering::Release);
    }

    /// Entries that were pushed and the kernel has not taken.
    fn waiting(&self) -> usize {
        self.ours.wrapping_sub(self.counter(self.offsets.consumer).load(Ordering::Acquire)) as usize
    }

    /// Takes the next entry that the kernel wrote.
    fn pop(&mut self) -> Option<T> {
        if self.counter(self.offsets.producer).load(Ordering::Acquire) == self.ours {
            return None;
        }
        // SAFETY: within the mapping, and written by the kernel before it moved its counter.
        let entry = unsafe { self.entry(self.ours).read() };
        self.ours = self.ours.wrapping_add(1);
        self.counter(self.offsets.consumer).store(self.ours, Ordering::Release);
        Some(entry)
    }
}

fn set_option<T>(socket: &OwnedFd, name: libc::c_int, value: &T) -> io::Result<()> {
    let (value, len) = (ptr::from_ref(value).cast(), mem::size_of::<T>() as libc::socklen_t);
    // SAFETY: the value is `len` bytes long and lives during the call.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_XDP, name, value, len) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn offsets(socket: &OwnedFd) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: all zeros is a valid `xdp_mmap_offsets`.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { mem::zeroed() };
    let mut len = mem::size_of_val(&offsets) as libc::socklen_t;
    let (name, out) = (libc::XDP_MMAP_OFFSETS, (&raw mut offsets).cast());
    // SAFETY: the kernel writes at most `len` bytes, all of integers.
    match unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_XDP, name, out, &mut len) } {
        // Before Linux 5.4 the structure was a shorter one.
        0.. if len as usize == mem::size_of_val(&offsets) => Ok(offsets),
        0.. => Err(io::ErrorKind::Unsupported.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn bind(socket: &OwnedFd, interface: u32, queue: u32) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as _,
        sxdp_flags: libc::XDP_COPY,
        sxdp_ifindex: interface,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: 0,
    };
    let len = mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: an address of that length, which lives during the call.
    match unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
