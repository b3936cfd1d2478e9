//! Explicit congestion notification through a tunnel (RFC 3168, RFC 6040).

/// The two low bits of the TOS byte (RFC 3168 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ecn {
    /// The transport does not know ECN.
    NotEct = 0b00,
    /// The transport knows ECN; the "other" codepoint (RFC 8311).
    Ect1 = 0b01,
    /// The transport knows ECN.
    Ect0 = 0b10,
    /// A router on the way was congested.
    Ce = 0b11,
}

/// Outside: congestion was experienced; inside: a transport that does not know what that means. To
/// drop is the only signal left (RFC 6040 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("congestion experienced outside, no ECN inside")]
pub struct CongestionUnheard;

impl Ecn {
    /// The two low bits; the others (DSCP) are ignored.
    #[inline]
    pub const fn from_tos(tos: u8) -> Ecn {
        match tos & 0b11 {
            0b00 => Ecn::NotEct,
            0b01 => Ecn::Ect1,
            0b10 => Ecn::Ect0,
            _ => Ecn::Ce,
        }
    }

    /// The two bits.
    #[inline]
    pub const fn bits(self) -> u8 {
        self as u8
    }
}

/// What the outer header says at the tunnel's entry: the same (RFC 6040 4.1, normal mode).
#[inline]
pub const fn encapsulate(inner: Ecn) -> Ecn {
    inner
}

/// What the inner header says after the tunnel's exit (RFC 6040 4.2, figure 4).
///
/// ```text
///             arriving outer
///   inner   | Not-ECT   ECT(0)    ECT(1)    CE
///   --------+-----------------------------------
///   Not-ECT | Not-ECT   Not-ECT   Not-ECT   drop
///   ECT(0)  | ECT(0)    ECT(0)    ECT(1)    CE
///   ECT(1)  | ECT(1)    ECT(1)    ECT(1)    CE
///   CE      | CE        CE        CE        CE
/// ```
///
/// # Errors
/// [`CongestionUnheard`] for the cell that says drop.
#[inline]
pub const fn decapsulate(outer: Ecn, inner: Ecn) -> Result<Ecn, CongestionUnheard> {
    match (outer, inner) {
        (Ecn::Ce, Ecn::NotEct) => Err(CongestionUnheard),
        (Ecn::Ce, _) => Ok(Ecn::Ce),
        (Ecn::Ect1, Ecn::Ect0) => Ok(Ecn::Ect1),
        (_, inner) => Ok(inner),
    }
}

/// The combinations of figure 4 that nobody makes and that may hide congestion ("!!!"), the one aside that is
/// dropped: the outer header came to say ECT where its inner one does not, or takes back what the inner one says.
#[inline]
pub const fn is_dangerous(outer: Ecn, inner: Ecn) -> bool {
    matches!((outer, inner), (Ecn::Ect0 | Ecn::Ect1, Ecn::NotEct) | (Ecn::Ect1, Ecn::Ce))
}

#[cfg(test)]
mod tests {
    use super::Ecn::{Ce, Ect0, Ect1, NotEct};
    use super::*;

    #[test]
    fn codepoints() {
        for (bits, ecn) in [(0, NotEct), (1, Ect1), (2, Ect0), (3, Ce)] {
            assert_eq!(Ecn::from_tos(bits), ecn);
            assert_eq!(Ecn::from_tos(0b1011_1000 | bits), ecn, "DSCP is no part of it");
            assert_eq!(ecn.bits(), bits);
        }
    }

    #[test]
    fn rfc_6040_4_1_the_entry_copies() {
        for ecn in [NotEct, Ect1, Ect0, Ce] {
            assert_eq!(encapsulate(ecn), ecn);
        }
    }

    #[test]
    fn rfc_6040_figure_4_what_is_dangerous() {
        let all = [NotEct, Ect0, Ect1, Ce];
        let pairs = all.into_iter().flat_map(|outer| all.map(|inner| (outer, inner)));
        let dangerous: Vec<_> = pairs.filter(|(outer, inner)| is_dangerous(*outer, *inner)).collect();
        assert_eq!(dangerous, [(Ect0, NotEct), (Ect1, NotEct), (Ect1, Ce)]);
    }

    #[test]
    fn rfc_6040_figure_4_the_exit() {
        let figure = [
            (NotEct, [Ok(NotEct), Ok(NotEct), Ok(NotEct), Err(CongestionUnheard)]),
            (Ect0, [Ok(Ect0), Ok(Ect0), Ok(Ect1), Ok(Ce)]),
            (Ect1, [Ok(Ect1), Ok(Ect1), Ok(Ect1), Ok(Ce)]),
            (Ce, [Ok(Ce), Ok(Ce), Ok(Ce), Ok(Ce)]),
        ];
        for (inner, row) in figure {
            for (outer, expected) in [NotEct, Ect0, Ect1, Ce].into_iter().zip(row) {
                assert_eq!(decapsulate(outer, inner), expected, "outer {outer:?}, inner {inner:?}");
            }
        }
    }
}
