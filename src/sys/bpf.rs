//! One BPF program, and its place on an interface: the outer IPv4 header of IPIP, put in front of super-frames
//! after the packet socket and before the kernel cuts them.
//!
//! A packet socket takes no super-frame of IPIP, for its virtio-net header cannot say that there are two IP headers. So it gets
//! the inner packet as a super-frame, with a mark by which the program on the way out knows it:
//!
//! ```text
//!  from the socket   | next hop 6 | peer 4, id 2 | 08 00 |              | inner IPv4 …
//!  on the wire       | next hop 6 | own MAC 6    | 08 00 | outer IPv4 20 | inner IPv4 …
//! ```
//! What differs by packet stands in the place of the source address; what is the same for all is part of the
//! program. It is a list of some eighty instructions (RFC 9669), so no compiler and no loader is needed.

use std::ffi::CStr;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::wire::MacAddr;

/// `SO_MARK` of the socket whose super-frames are for the program. It takes the mark off what it has dealt with.
pub const MARK: u32 = 0x6d67_6970;

/// What the outer headers of one node have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OuterIpip {
    /// The interface's Ethernet address.
    pub mac: MacAddr,
    /// The node's underlay address.
    pub local: Ipv4Addr,
    /// TTL; the inner packet's if absent.
    pub ttl: Option<u8>,
}

/// Why the program cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// bpf(2), `BPF_PROG_LOAD`.
    #[error("the BPF program cannot be loaded ({source}): {}", load_hint(.source))]
    Load {
        /// What the kernel said.
        source: io::Error,
    },
    /// bpf(2), `BPF_LINK_CREATE`.
    #[error("the BPF program cannot be attached ({source}): {}", attach_hint(.source))]
    Attach {
        /// What the kernel said.
        source: io::Error,
    },
}

fn load_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "it needs CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN, in the first user namespace"
        }
        Some(libc::ENOSYS) => "this kernel or sandbox has no bpf(2)",
        _ => "this kernel does not take it; Linux 6.6 does",
    }
}

fn attach_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "it needs CAP_NET_ADMIN in this network namespace, and CAP_BPF",
        Some(libc::ENODEV) => "the interface is gone",
        _ => "it needs tcx, which Linux has since 6.6",
    }
}

/// The program at work on an interface's egress; gone when this is dropped, or the process ends.
#[derive(Debug)]
pub struct Attached(#[expect(dead_code, reason = "holds the link, which holds the program")] OwnedFd);

/// Loads the program and attaches it to what leaves by `interface`.
///
/// # Errors
/// See [`BpfError`].
pub fn attach_ipip(interface: u32, outer: OuterIpip) -> Result<Attached, BpfError> {
    let program = load(&ipip(outer)).map_err(|source| BpfError::Load { source })?;
    link(&program, interface).map(Attached).map_err(|source| BpfError::Attach { source })
}

/// linux/bpf.h: `struct bpf_insn`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Instruction {
    code: u8,
    /// Destination in the lower four bits, source in the upper ones; the other way on big-endian machines.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A register: R0 is a call's result, R1 to R5 its arguments, R6 to R9 outlive it, R10 is the end of the stack.
type Register = u8;
const R0: Register = 0;
const R1: Register = 1;
const R2: Register = 2;
const R3: Register = 3;
const R4: Register = 4;
const R5: Register = 5;
/// The program's own: the packet's context, the peer, the id.
const CONTEXT: Register = 6;
const PEER: Register = 7;
const ID: Register = 8;
const STACK: Register = 10;

/// Sizes of loads and stores.
const BYTE: u8 = 0x10;
const HALF: u8 = 0x08;
const WORD: u8 = 0x00;

fn instruction(code: u8, to: Register, from: Register, offset: i16, immediate: i32) -> Instruction {
    let registers = if cfg!(target_endian = "little") { to | from << 4 } else { to << 4 | from };
    Instruction { code, registers, offset, immediate }
}

fn set(to: Register, value: i32) -> Instruction {
    instruction(0xb7, to, 0, 0, value)
}

fn copy(to: Register, from: Register) -> Instruction {
    instruction(0xbf, to, from, 0, 0)
}

fn add(to: Register, value: i32) -> Instruction {
    instruction(0x07, to, 0, 0, value)
}

fn add_register(to: Register, from: Register) -> Instruction {
    instruction(0x0f, to, from, 0, 0)
}

fn and(to: Register, value: i32) -> Instruction {
    instruction(0x57, to, 0, 0, value)
}

fn xor(to: Register, value: i32) -> Instruction {
    instruction(0xa7, to, 0, 0, value)
}

fn shift_right(to: Register, bits: i32) -> Instruction {
    instruction(0x77, to, 0, 0, bits)
}

/// The lower 16 bits between the machine's order and the network's; the others become zero.
fn network_order(to: Register) -> Instruction {
    instruction(0xdc, to, 0, 0, 16)
}

fn load_from(size: u8, to: Register, base: Register, offset: i16) -> Instruction {
    instruction(0x61 | size, to, base, offset, 0)
}

fn store(size: u8, base: Register, offset: i16, from: Register) -> Instruction {
    instruction(0x63 | size, base, from, offset, 0)
}

fn store_value(size: u8, base: Register, offset: i16, value: i32) -> Instruction {
    instruction(0x62 | size, base, 0, offset, value)
}

/// Goes on `over` instructions later unless the register has this value.
fn unless_equal(register: Register, value: i32, over: i16) -> Instruction {
    instruction(0x55, register, 0, over, value)
}

fn if_equal(register: Register, value: i32, over: i16) -> Instruction {
    instruction(0x15, register, 0, over, value)
}

fn call(helper: i32) -> Instruction {
    instruction(0x85, 0, 0, 0, helper)
}

fn exit() -> Instruction {
    instruction(0x95, 0, 0, 0, 0)
}

// linux/bpf.h: helpers.
const SKB_STORE_BYTES: i32 = 9;
const SKB_LOAD_BYTES: i32 = 26;
const CSUM_DIFF: i32 = 28;
const SKB_ADJUST_ROOM: i32 = 50;

// linux/bpf.h: `struct __sk_buff`.
const SKB_MARK: i16 = 8;
const SKB_GSO_SIZE: i16 = 176;

const BPF_ADJ_ROOM_MAC: i32 = 1;
/// `BPF_F_ADJ_ROOM_FIXED_GSO`: segments stay as large as they are, for there is room for the outer header.
const FIXED_GSO: i32 = 1;
/// `BPF_F_ADJ_ROOM_ENCAP_L3_IPV4`: what is put in front is an outer header, so the kernel cuts both.
const ENCAP_L3_IPV4: i32 = 2;
const TCX_NEXT: i32 = -1;
const TCX_DROP: i32 = 2;

/// Bytes from the Ethernet source address to the end of the first IPv4 header without options, on the stack.
const COPIED: i32 = 6 + 2 + 20;
const FROM: i16 = -32;
const IP: i16 = FROM + 8;

/// See the module.
fn ipip(outer: OuterIpip) -> Vec<Instruction> {
    let [a, b, c, d, e, f] = outer.mac.0;
    let at = |field: i16| IP + field;
    let mut program = vec![copy(CONTEXT, R1)];
    // Whatever is not a super-frame of ours goes on as it is.
    program.extend([
        load_from(WORD, R2, CONTEXT, SKB_MARK),
        if_equal(R2, MARK as i32, 2),
        set(R0, TCX_NEXT),
        exit(),
        load_from(WORD, R2, CONTEXT, SKB_GSO_SIZE),
        unless_equal(R2, 0, 2),
        set(R0, TCX_NEXT),
        exit(),
    ]);
    // The two addresses' place and the inner header, to the stack.
    program.extend([
        copy(R1, CONTEXT),
        set(R2, 6),
        copy(R3, STACK),
        add(R3, FROM.into()),
        set(R4, COPIED),
        call(SKB_LOAD_BYTES),
        if_equal(R0, 0, 2),
        set(R0, TCX_DROP),
        exit(),
        load_from(WORD, PEER, STACK, FROM),
        load_from(HALF, ID, STACK, FROM + 4),
        store_value(WORD, STACK, FROM, i32::from_ne_bytes([a, b, c, d])),
        store_value(HALF, STACK, FROM + 4, i16::from_ne_bytes([e, f]).into()),
    ]);
    // The inner header becomes the outer one: no options, ECN alone of the TOS (RFC 6040), 20 bytes longer, the DF bit alone.
    program.extend([
        store_value(BYTE, STACK, at(0), 0x45),
        load_from(BYTE, R2, STACK, at(1)),
        and(R2, 3),
        store(BYTE, STACK, at(1), R2),
        load_from(HALF, R2, STACK, at(2)),
        network_order(R2),
        add(R2, 20),
        network_order(R2),
        store(HALF, STACK, at(2), R2),
        store(HALF, STACK, at(4), ID),
        load_from(BYTE, R2, STACK, at(6)),
        and(R2, 0x40),
        store(BYTE, STACK, at(6), R2),
        store_value(BYTE, STACK, at(7), 0),
        store_value(BYTE, STACK, at(9), libc::IPPROTO_IPIP),
        store_value(HALF, STACK, at(10), 0),
        store_value(WORD, STACK, at(12), i32::from_ne_bytes(outer.local.octets())),
        store(WORD, STACK, at(16), PEER),
    ]);
    program.extend(outer.ttl.map(|ttl| store_value(BYTE, STACK, at(8), ttl.into())));
    // Its checksum: the sum of its words, folded twice, inverted (RFC 1071).
    program.extend([
        set(R1, 0),
        set(R2, 0),
        copy(R3, STACK),
        add(R3, at(0).into()),
        set(R4, 20),
        set(R5, 0),
        call(CSUM_DIFF),
    ]);
    for _ in 0..2 {
        program.extend([copy(R2, R0), shift_right(R2, 16), and(R0, 0xffff), add_register(R0, R2)]);
    }
    program.extend([xor(R0, 0xffff), store(HALF, STACK, at(10), R0)]);
    program.extend([
        copy(R1, CONTEXT),
        set(R2, 20),
        set(R3, BPF_ADJ_ROOM_MAC),
        set(R4, FIXED_GSO | ENCAP_L3_IPV4),
        call(SKB_ADJUST_ROOM),
        if_equal(R0, 0, 2),
        set(R0, TCX_DROP),
        exit(),
        copy(R1, CONTEXT),
        set(R2, 6),
        copy(R3, STACK),
        add(R3, FROM.into()),
        set(R4, COPIED),
        set(R5, 0),
        call(SKB_STORE_BYTES),
        if_equal(R0, 0, 2),
        set(R0, TCX_DROP),
        exit(),
        set(R2, 0),
        store(WORD, CONTEXT, SKB_MARK, R2),
        set(R0, TCX_NEXT),
        exit(),
    ]);
    program
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_TCX_EGRESS: u32 = 47;

/// The head of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes what is not there for zero.
#[repr(C)]
struct Load {
    program_type: u32,
    count: u32,
    instructions: u64,
    license: u64,
}

/// The same for `BPF_LINK_CREATE`.
#[repr(C)]
struct Link {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    // The helpers that it calls are for programs under the GPL or this.
    const LICENSE: &CStr = c"Dual MIT/GPL";
    let attributes = Load {
        program_type: BPF_PROG_TYPE_SCHED_CLS,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
    };
    bpf(BPF_PROG_LOAD, &attributes)
}

fn link(program: &OwnedFd, interface: u32) -> io::Result<OwnedFd> {
    let attributes =
        Link { program: program.as_raw_fd() as u32, interface, attach_type: BPF_TCX_EGRESS, flags: 0 };
    bpf(BPF_LINK_CREATE, &attributes)
}

/// bpf(2) with a command that gives a descriptor.
fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: `attributes` is a `repr(C)` struct without padding of the size given; the addresses in it are of
    // memory that the callers hold until this returns, and that the kernel only reads.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), std::mem::size_of::<T>())
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given it to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::netns::Netns;

    #[test]
    fn the_kernel_takes_the_program_and_lets_it_go() {
        let outer = OuterIpip {
            mac: MacAddr([2, 0, 0, 0xff, 0xff, 0xff]),
            local: Ipv4Addr::new(192, 0, 2, 255),
            ttl: Some(64),
        };
        Netns::create()
            .unwrap()
            .run(|| {
                let attached = attach_ipip(1, outer).unwrap_or_else(|error| panic!("{error}"));
                drop(attached);
                attach_ipip(1, OuterIpip { ttl: None, ..outer }).unwrap_or_else(|error| panic!("{error}"));
                assert!(matches!(attach_ipip(4_000_000, outer), Err(BpfError::Attach { .. })));
            })
            .unwrap();
    }
}
