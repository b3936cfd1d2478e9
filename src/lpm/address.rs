//! How a table sees the addresses of either family.

use std::net::{Ipv4Addr, Ipv6Addr};

/// An address that [`Lpm`](super::Lpm) can look up: [`Ipv4Addr`] or [`Ipv6Addr`].
pub trait Address: Copy + Into<std::net::IpAddr> + sealed::Bits {}

impl Address for Ipv4Addr {}
impl Address for Ipv6Addr {}

pub(super) mod sealed {
    /// An address as a row of bits; outside of `lpm` nobody can implement or call this.
    pub trait Bits {
        /// Octets after the first two, each one step of a lookup.
        const LEVELS: usize;
        /// The length of a host prefix.
        const MAX_LEN: u8 = 16 + 8 * Self::LEVELS as u8;

        /// The first 16 bits.
        fn head(self) -> u16;

        /// The octet of a level: level 0 is the third octet.
        fn octet(self, level: usize) -> u8;

        /// All bits, from the top.
        fn key(self) -> u128;
    }
}

impl sealed::Bits for Ipv4Addr {
    const LEVELS: usize = 2;

    #[inline]
    fn head(self) -> u16 {
        (self.to_bits() >> 16) as u16
    }

    #[inline]
    fn octet(self, level: usize) -> u8 {
        self.octets()[2 + level]
    }

    fn key(self) -> u128 {
        u128::from(self.to_bits()) << 96
    }
}

impl sealed::Bits for Ipv6Addr {
    const LEVELS: usize = 14;

    #[inline]
    fn head(self) -> u16 {
        self.segments()[0]
    }

    #[inline]
    fn octet(self, level: usize) -> u8 {
        self.octets()[2 + level]
    }

    fn key(self) -> u128 {
        self.to_bits()
    }
}
