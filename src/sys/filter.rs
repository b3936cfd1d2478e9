//! Classic BPF programs for sockets: what a worker's socket takes of what the kernel offers it.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
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
const LDX_W_IMM: u16 = 0x01;
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

const PROTOCOL_IPIP: u32 = libc::IPPROTO_IPIP as u32;
const PROTOCOL_UDP: u32 = libc::IPPROTO_UDP as u32;
/// Most instructions that the kernel takes (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;

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

    /// For a raw ICMP or ICMPv6 socket: errors about IPIP and UDP packets from `source`.
    pub fn errors_about_tunnels(source: IpAddr) -> Self {
        match source {
            IpAddr::V4(source) => {
                // X is the length of the IP header, which a raw ICMP socket sees.
                let mut code = vec![instruction(LDX_B_MSH, 0, 0, 0)];
                // Places in the message, after its header of 8 bytes: of the quoted header protocol and source.
                let words = [source.to_bits()];
                code.extend(errors(
                    &[3, 4, 5, 11, 12],
                    (8 + 12, &words),
                    (8 + 9, &[PROTOCOL_IPIP, PROTOCOL_UDP]),
                ));
                Filter { code }
            }
            IpAddr::V6(source) => {
                // X is zero: of IPv6 a raw socket sees the message.
                let mut code = vec![instruction(LDX_W_IMM, 0, 0, 0)];
                let words = words(source.to_bits());
                // A fragment of UDP is one, too.
                let protocols = [PROTOCOL_UDP, libc::IPPROTO_FRAGMENT as u32];
                code.extend(errors(&[1, 2, 3, 4], (8 + 8, &words), (8 + 6, &protocols)));
                Filter { code }
            }
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

    /// Frames to this machine's MAC whose destination is in one of `prefixes`, for a packet socket that sees one version
    /// of IP, whose prefixes these are. With more prefixes than a program can hold it keeps all that are for this
    /// machine.
    pub fn destined_to<N: Copy + Into<IpNet>>(prefixes: &[N]) -> Self {
        let mut code = vec![
            instruction(LD_W_ABS, 0, 0, VLAN_TAG_PRESENT),
            instruction(JEQ_K, 1, 0, 0),
            instruction(RET_K, 0, 0, DROP),
            instruction(LD_W_ABS, 0, 0, PACKET_TYPE),
            // PACKET_HOST is 0.
            instruction(JEQ_K, 1, 0, 0),
            instruction(RET_K, 0, 0, DROP),
        ];
        let to_machine = code.len();
        for prefix in prefixes {
            match (*prefix).into() {
                IpNet::V4(net) => {
                    code.extend(inside(14 + 16, &[(net.network().to_bits(), net.netmask().to_bits())]));
                }
                IpNet::V6(net) => {
                    let (network, mask) = (words(net.network().to_bits()), words(net.netmask().to_bits()));
                    let pairs: [(u32, u32); 4] = std::array::from_fn(|word| (network[word], mask[word]));
                    code.extend(inside(14 + 24, &pairs));
                }
            }
        }
        code.push(instruction(RET_K, 0, 0, DROP));
        if code.len() > MAX_INSTRUCTIONS {
            code.truncate(to_machine);
            code.push(instruction(RET_K, 0, 0, KEEP));
        }
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

/// Keeps a frame whose words from `at` on, masked, are these; goes on behind itself with others.
fn inside(at: u32, words: &[(u32, u32)]) -> Vec<SockFilter> {
    let parts = (at..).step_by(4).zip(words.iter().take_while(|(_, mask)| *mask != 0));
    let len = |mask: u32| if mask == u32::MAX { 2 } else { 3 };
    let mut left: u8 = parts.clone().map(|(_, (_, mask))| len(*mask)).sum();
    let mut code = Vec::new();
    for (place, (word, mask)) in parts {
        left -= len(*mask);
        code.push(instruction(LD_W_ABS, 0, 0, place));
        if *mask != u32::MAX {
            code.push(instruction(ALU_AND_K, 0, 0, *mask));
        }
        // Over the words that are left and the return.
        code.push(instruction(JEQ_K, 0, left + 1, *word));
    }
    code.push(instruction(RET_K, 0, 0, KEEP));
    code
}

/// Keeps a control message, X bytes from the start, of one of `kinds` whose words from `source` on are these and whose
/// byte at `protocol` is one of those; drops all others.
fn errors(
    kinds: &[u32],
    (source, words): (u32, &[u32]),
    (protocol, protocols): (u32, &[u32]),
) -> Vec<SockFilter> {
    let mut code = vec![instruction(LD_B_IND, 0, 0, 0)];
    code.extend(one_of(kinds));
    for (place, word) in (source..).step_by(4).zip(words) {
        code.push(instruction(LD_W_IND, 0, 0, place));
        code.extend(one_of(&[*word]));
    }
    code.push(instruction(LD_B_IND, 0, 0, protocol));
    code.extend(one_of(protocols));
    code.push(instruction(RET_K, 0, 0, KEEP));
    code
}

/// Drops what is none of `values`; goes on behind itself with others.
fn one_of(values: &[u32]) -> Vec<SockFilter> {
    let count = values.len();
    // Over the values that are left and the return.
    let jump = |(index, value): (usize, &u32)| instruction(JEQ_K, (count - index) as u8, 0, *value);
    let mut code: Vec<SockFilter> = values.iter().enumerate().map(jump).collect();
    code.push(instruction(RET_K, 0, 0, DROP));
    code
}

/// An IPv6 address, or a mask of one, by 32 bits.
fn words(bits: u128) -> [u32; 4] {
    [96, 64, 32, 0].map(|shift| (bits >> shift) as u32)
}

fn instruction(code: u16, jump_true: u8, jump_false: u8, k: u32) -> SockFilter {
    SockFilter::new(code, jump_true, jump_false, k)
}
