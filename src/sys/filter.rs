//! Classic BPF programs for sockets: what a worker's socket takes of what the kernel offers it.

use std::io;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use socket2::{SockFilter, Socket};

/// A program: the kernel runs it on each packet and keeps what it says to keep.
#[derive(Debug)]
pub struct Filter {
    code: Vec<SockFilter>,
}

// Opcodes, linux/bpf_common.h.
const LD_W_ABS: u16 = 0x20;
const LD_W_IND: u16 = 0x40;
const LD_H_IND: u16 = 0x48;
const LD_B_IND: u16 = 0x50;
const LDX_B_MSH: u16 = 0xb1;
const ALU_AND_K: u16 = 0x54;
const ALU_XOR_X: u16 = 0xac;
const ALU_MUL_K: u16 = 0x24;
const ALU_RSH_K: u16 = 0x74;
const ALU_MOD_K: u16 = 0x94;
const TAX: u16 = 0x07;
const JEQ_K: u16 = 0x15;
const RET_K: u16 = 0x06;

// Offsets with a meaning of their own, linux/filter.h.
const PACKET_TYPE: u32 = (-0x1000_i32 + 4) as u32;
const VLAN_TAG_PRESENT: u32 = (-0x1000_i32 + 48) as u32;

const KEEP: u32 = u32::MAX;
const DROP: u32 = 0;
/// Prefixes that one program can hold: the kernel takes 4,096 instructions, three a prefix.
const MAX_PREFIXES: usize = 1_000;

impl Filter {
    /// Everything.
    pub fn everything() -> Self {
        Filter { code: vec![instruction(RET_K, 0, 0, KEEP)] }
    }

    /// Nothing: for sockets that only send.
    pub fn nothing() -> Self {
        Filter { code: vec![instruction(RET_K, 0, 0, DROP)] }
    }

    /// Worker `index`'s share of `workers` of the packets of a raw IPIP socket, by the inner addresses: a
    /// flow stays with one worker. Without outer options; a packet with them goes to where it falls.
    pub fn share_of_ipip(index: usize, workers: usize) -> Self {
        if workers < 2 {
            return Self::everything();
        }
        Filter {
            code: vec![
                instruction(LD_W_ABS, 0, 0, 20 + 12),
                instruction(TAX, 0, 0, 0),
                instruction(LD_W_ABS, 0, 0, 20 + 16),
                instruction(ALU_XOR_X, 0, 0, 0),
                // Neighbouring addresses differ in their last bits: multiply, and take the upper half.
                instruction(ALU_MUL_K, 0, 0, 0x9e37_79b1),
                instruction(ALU_RSH_K, 0, 0, 16),
                instruction(ALU_MOD_K, 0, 0, workers as u32),
                instruction(JEQ_K, 0, 1, index as u32),
                instruction(RET_K, 0, 0, KEEP),
                instruction(RET_K, 0, 0, DROP),
            ],
        }
    }

    /// For a raw ICMP socket, which is given all that arrives in its namespace: echo replies of one `id`, and
    /// errors. What others ask and are answered does not fill the socket's buffer.
    pub fn echo_replies(id: u16) -> Self {
        const ECHO_REPLY: u32 = 0;
        const ECHO_REQUEST: u32 = 8;
        Filter {
            code: vec![
                // X is the length of the IP header.
                instruction(LDX_B_MSH, 0, 0, 0),
                instruction(LD_B_IND, 0, 0, 0),
                instruction(JEQ_K, 3, 0, ECHO_REQUEST),
                instruction(JEQ_K, 0, 3, ECHO_REPLY),
                instruction(LD_H_IND, 0, 0, 4),
                instruction(JEQ_K, 1, 0, u32::from(id)),
                instruction(RET_K, 0, 0, DROP),
                instruction(RET_K, 0, 0, KEEP),
            ],
        }
    }

    /// For a raw ICMP socket: errors about IPIP and UDP packets from `source`.
    pub fn errors_about_tunnels(source: Ipv4Addr) -> Self {
        // In the message: its type; of the quoted header protocol and source.
        const KIND: u32 = 0;
        const PROTOCOL: u32 = 8 + 9;
        const SOURCE: u32 = 8 + 12;
        Filter {
            code: vec![
                // X is the length of the IP header.
                instruction(LDX_B_MSH, 0, 0, 0),
                instruction(LD_B_IND, 0, 0, KIND),
                instruction(JEQ_K, 4, 0, 3),
                instruction(JEQ_K, 3, 0, 4),
                instruction(JEQ_K, 2, 0, 5),
                instruction(JEQ_K, 1, 0, 11),
                instruction(JEQ_K, 0, 5, 12),
                instruction(LD_W_IND, 0, 0, SOURCE),
                instruction(JEQ_K, 0, 3, source.to_bits()),
                instruction(LD_B_IND, 0, 0, PROTOCOL),
                instruction(JEQ_K, 2, 0, libc::IPPROTO_IPIP as u32),
                instruction(JEQ_K, 1, 0, libc::IPPROTO_UDP as u32),
                instruction(RET_K, 0, 0, DROP),
                instruction(RET_K, 0, 0, KEEP),
            ],
        }
    }

    /// Ethernet frames without VLAN tag: a packet socket would hand them on with the tag taken off.
    pub fn untagged() -> Self {
        Filter {
            code: vec![
                instruction(LD_W_ABS, 0, 0, VLAN_TAG_PRESENT),
                instruction(JEQ_K, 0, 1, 0),
                instruction(RET_K, 0, 0, KEEP),
                instruction(RET_K, 0, 0, DROP),
            ],
        }
    }

    /// IPv4 frames to this machine's MAC whose destination is in one of `prefixes`. With more prefixes than
    /// a program can hold it keeps all that are for this machine.
    pub fn destined_to(prefixes: &[Ipv4Net]) -> Self {
        let mut code = vec![
            instruction(LD_W_ABS, 0, 0, VLAN_TAG_PRESENT),
            instruction(JEQ_K, 1, 0, 0),
            instruction(RET_K, 0, 0, DROP),
            instruction(LD_W_ABS, 0, 0, PACKET_TYPE),
            // PACKET_HOST is 0.
            instruction(JEQ_K, 1, 0, 0),
            instruction(RET_K, 0, 0, DROP),
        ];
        if prefixes.len() > MAX_PREFIXES {
            code.push(instruction(RET_K, 0, 0, KEEP));
            return Filter { code };
        }
        for prefix in prefixes {
            code.extend([
                instruction(LD_W_ABS, 0, 0, 14 + 16),
                instruction(ALU_AND_K, 0, 0, u32::from(prefix.netmask())),
                instruction(JEQ_K, 0, 1, u32::from(prefix.network())),
                instruction(RET_K, 0, 0, KEEP),
            ]);
        }
        code.push(instruction(RET_K, 0, 0, DROP));
        Filter { code }
    }

    /// Puts the program on a socket, in place of the one there.
    ///
    /// # Errors
    /// Those of `SO_ATTACH_FILTER`, socket(7).
    pub fn attach(&self, socket: &Socket) -> io::Result<()> {
        socket.attach_filter(&self.code)
    }
}

fn instruction(code: u16, jump_true: u8, jump_false: u8, k: u32) -> SockFilter {
    SockFilter::new(code, jump_true, jump_false, k)
}
