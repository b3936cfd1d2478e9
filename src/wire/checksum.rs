//! The Internet checksum (RFC 1071, RFC 1624).
//!
//! Ones' complement addition of 16-bit words: associative, commutative, and the same in either byte
//! order (RFC 1071 2), hence the loops add native words as wide as the machine likes and swap once.

// One call: the loop that is compiled for AVX2, on a machine that has it.
#![allow(unsafe_code)]

use std::net::IpAddr;
use std::ops::Add;

use super::Protocol;

/// A sum that is not yet complemented: what can be added to other sums.
///
/// Pieces may be summed apart and added when each but the last has an even length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Sum(u16);

impl Sum {
    /// The sum of one 16-bit word.
    #[inline]
    pub const fn of_word(word: u16) -> Sum {
        Sum(word)
    }

    /// The folded 16-bit sum, not complemented: what a partial checksum field holds.
    #[inline]
    pub const fn folded(self) -> u16 {
        self.0
    }

    /// The complement: what a full checksum field holds.
    #[inline]
    pub const fn checksum(self) -> u16 {
        !self.0
    }

    /// True when the summed bytes included a right checksum (all ones, RFC 1071 1).
    #[inline]
    pub const fn is_right(self) -> bool {
        self.0 == 0xffff
    }
}

impl Add for Sum {
    type Output = Sum;

    /// Addition with end-around carry.
    #[inline]
    fn add(self, other: Sum) -> Sum {
        let (sum, carry) = self.0.overflowing_add(other.0);
        // After a carry `sum` is 0xfffe at most: adding it back cannot overflow.
        Sum(sum + u16::from(carry))
    }
}

/// Sums bytes; an odd last byte counts as the high half of a word (RFC 1071 4.1).
pub fn sum(bytes: &[u8]) -> Sum {
    #[cfg(target_arch = "x86_64")]
    if bytes.len() >= WIDE && is_x86_feature_detected!("avx2") {
        // SAFETY: `sum_avx2` asks for nothing but a machine that has AVX2, which was just seen.
        return unsafe { sum_avx2(bytes) };
    }
    let (blocks, rest) = bytes.as_chunks::<32>();
    from_native(sum_blocks::<32, 4>(blocks) + sum_rest(rest))
}

/// Bytes from which on the wider loop pays for its longer way in and out.
#[cfg(target_arch = "x86_64")]
const WIDE: usize = 256;

/// The loop of [`sum`] over more lanes and compiled for wider registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(bytes: &[u8]) -> Sum {
    let (blocks, rest) = bytes.as_chunks::<64>();
    let (halves, rest) = rest.as_chunks::<32>();
    from_native(sum_blocks::<64, 16>(blocks) + sum_blocks::<32, 4>(halves) + sum_rest(rest))
}

/// 32-bit words in 64-bit sums, side by side in `LANES` lanes, which the compiler turns into vector additions.
/// No overflow under 2^34 bytes a lane.
#[inline(always)]
fn sum_blocks<const BLOCK: usize, const LANES: usize>(blocks: &[[u8; BLOCK]]) -> u64 {
    let mut lanes = [0_u64; LANES];
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (lane, word) in words.iter().enumerate() {
            lanes[lane % LANES] += u64::from(u32::from_ne_bytes(*word));
        }
    }
    lanes.iter().map(|lane| fold_to_32(*lane)).sum()
}

/// What is shorter than a block.
#[inline(always)]
fn sum_rest(rest: &[u8]) -> u64 {
    let mut total = 0;
    let (pairs, rest) = rest.as_chunks::<8>();
    for pair in pairs {
        total += fold_to_32(u64::from_ne_bytes(*pair));
    }
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    total
        + match *rest {
            [a] => u64::from(u16::from_ne_bytes([a, 0])),
            [a, b] => u64::from(u16::from_ne_bytes([a, b])),
            // Four bytes, the last of them padding.
            [a, b, c] => u64::from(u32::from_ne_bytes([a, b, c, 0])),
            _ => 0,
        }
}

/// Sums an IPv4 header without options: [`sum`] of a length known to the compiler.
#[inline(always)]
pub(super) fn sum_20(bytes: &[u8; 20]) -> Sum {
    let (words, _) = bytes.as_chunks::<4>();
    from_native(words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum())
}

/// Half of the carries: the result is 2^33 at most.
#[inline]
const fn fold_to_32(wide: u64) -> u64 {
    (wide & 0xffff_ffff) + (wide >> 32)
}

/// Folds a sum of native words and brings it into network order.
#[inline(always)]
fn from_native(wide: u64) -> Sum {
    let (sum, carry) = (wide as u32).overflowing_add((wide >> 32) as u32);
    // Cannot overflow, for the reason that [`Sum::add`] has.
    let sum = sum + u32::from(carry);
    let folded = Sum(sum as u16) + Sum((sum >> 16) as u16);
    Sum(folded.0.to_be())
}

/// The checksum of bytes whose checksum field is zero.
#[inline]
pub fn checksum(bytes: &[u8]) -> u16 {
    sum(bytes).checksum()
}

/// The checksum after one 16-bit word that it covers has changed (RFC 1624 eqn. 3).
///
/// A checksum HC is the complement of a sum C. Replacing the word m by m' makes C' = C - m + m', and
/// in ones' complement -m is ~m, so HC' = ~C' = ~(~HC + ~m + m'). RFC 1141's shorter HC + m - m'
/// can give 0xffff where a recomputation gives 0x0000; this cannot, except from a sum of zero, which no
/// real header has.
#[inline]
pub fn update(checksum: u16, old_word: u16, new_word: u16) -> u16 {
    (Sum(!checksum) + Sum(!old_word) + Sum(new_word)).checksum()
}

/// The sum of the pseudo-header of TCP and UDP over IPv4 (RFC 768, RFC 9293 3.1) or IPv6 (RFC 8200
/// 8.1); `len` is the length of the transport header and its payload in bytes.
#[inline]
pub fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: Protocol, len: usize) -> Sum {
    // Both forms hold the same words in another order, but for the upper half of the length, which is zero
    // for whatever fits a packet of IPv4.
    let (protocol, len) = (u16::from(protocol.0).to_be(), (len as u32).to_be());
    from_native(native(src) + native(dst) + u64::from(protocol) + u64::from(len))
}

/// The sum of an address's 32-bit words as they stand in memory.
#[inline(always)]
fn native(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => u64::from(u32::from_ne_bytes(v4.octets())),
        IpAddr::V6(v6) => {
            let octets = v6.octets();
            let (words, _) = octets.as_chunks::<4>();
            words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum()
        }
    }
}

/// The checksum of a TCP or UDP segment, or of whatever uses the same pseudo-header.
///
/// With the segment's checksum field zero this is the value to write (UDP: 0xffff for 0, RFC 768);
/// with the field filled in, 0 says that it is right.
#[inline]
pub fn transport_checksum(src: IpAddr, dst: IpAddr, protocol: Protocol, segment: &[u8]) -> u16 {
    (pseudo_header(src, dst, protocol, segment.len()) + sum(segment)).checksum()
}

/// True when a checksum field holds the folded pseudo-header sum alone, not complemented: what Linux
/// leaves there for a device that is to add up the rest (`CHECKSUM_PARTIAL`), and what a tunnel packet that
/// never crossed such a device arrives with. `len` is as for [`pseudo_header`].
///
/// A full checksum may have that value by chance (one in 65,536). Nobody is hurt: completing a partial P
/// over data D gives ~(P + D), and a full checksum F that equals P is ~(P + D) already.
#[inline]
pub fn is_partial(field: u16, src: IpAddr, dst: IpAddr, protocol: Protocol, len: usize) -> bool {
    field == pseudo_header(src, dst, protocol, len).folded()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071 as it is written: word by word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn rfc_1071_example() {
        // Section 3: 0001 f203 f4f5 f6f7 adds up to ddf2.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&bytes).folded(), 0xddf2);
        assert_eq!(checksum(&bytes), 0x220d);
    }

    #[test]
    fn as_the_naive_sum_at_every_length() {
        let bytes: Vec<u8> = (0..2048_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for len in 0..bytes.len() {
            assert_eq!(sum(&bytes[..len]).folded(), naive(&bytes[..len]), "{len}");
        }
    }

    #[test]
    fn as_the_naive_sum_wherever_the_bytes_begin() {
        let bytes: Vec<u8> = (0..3000_u32).map(|i| (i.wrapping_mul(2_246_822_519) >> 24) as u8).collect();
        for start in 0..64 {
            for len in (240..400).chain([1398, 1460, 2900]) {
                let bytes = &bytes[start..start + len];
                assert_eq!(sum(bytes).folded(), naive(bytes), "{start} {len}");
            }
        }
    }

    #[test]
    fn all_ones_carry_all_the_way() {
        for len in [1, 2, 3, 20, 31, 32, 33, 255, 256, 257, 1500, 65_535] {
            let bytes = vec![0xff; len];
            assert_eq!(sum(&bytes).folded(), naive(&bytes), "{len}");
        }
        assert_eq!(sum(&[]), Sum(0));
        assert_eq!(sum(&[0; 40]), Sum(0));
    }

    #[test]
    fn twenty_bytes_as_the_general_sum() {
        let mut bytes = [0_u8; 20];
        for seed in 0..1000_u32 {
            for (i, byte) in bytes.iter_mut().enumerate() {
                *byte = (seed.wrapping_mul(2_654_435_761).rotate_left(i as u32) >> 11) as u8;
            }
            assert_eq!(sum_20(&bytes), sum(&bytes));
        }
        assert_eq!(sum_20(&[0xff; 20]), sum(&[0xff; 20]));
    }

    #[test]
    fn rfc_1624_4_the_example_that_rfc_1141_got_wrong() {
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn partial_is_the_pseudo_header_alone() {
        let src = IpAddr::from([10, 65, 8, 10]);
        let dst = IpAddr::from([10, 65, 9, 20]);
        // 0a41 + 080a + 0a41 + 0914 + 0006 + 05b4
        assert_eq!(pseudo_header(src, dst, Protocol::TCP, 1460).folded(), 0x2b5a);
        assert!(is_partial(0x2b5a, src, dst, Protocol::TCP, 1460));
        assert!(!is_partial(!0x2b5a, src, dst, Protocol::TCP, 1460));
        assert!(!is_partial(0x2b5a, src, dst, Protocol::UDP, 1460));
        assert!(!is_partial(0x2b5a, src, dst, Protocol::TCP, 1461));
        // IPv6's length has 32 bits (RFC 8200 8.1): 0x0001_0000 adds 1.
        assert_eq!(pseudo_header(src, dst, Protocol::TCP, 0x1_0000 + 1460).folded(), 0x2b5b);
    }
}
