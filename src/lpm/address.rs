//! How a table sees the addresses of either family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address that [`Lpm`](super::Lpm) can look up: [`Ipv4Addr`] or [`Ipv6Addr`].
pub trait Address: Copy + Into<IpAddr> + sealed::Bits {}

impl Address for Ipv4Addr {}
impl Address for Ipv6Addr {}

pub(super) mod sealed {
    /// An address as a row of bits; outside of `lpm` nobody can implement or call this.
    pub trait Bits {
        /// Bits of an address.
        const BITS: u8;

        /// The address's bits from the top; the rest is zero.
        fn key(self) -> u128;
    }
}

impl sealed::Bits for Ipv4Addr {
    const BITS: u8 = 32;

    #[inline]
    fn key(self) -> u128 {
        u128::from(self.to_bits()) << 96
    }
}

impl sealed::Bits for Ipv6Addr {
    const BITS: u8 = 128;

    #[inline]
    fn key(self) -> u128 {
        self.to_bits()
    }
}
