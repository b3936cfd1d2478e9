//! Filters in tcpdump's language (pcap-filter(7)), for what is common:
//!
//! ```text
//! filter    = term { ("and" | "or") term }          equal precedence, from left to right, as in tcpdump
//! term      = { "not" } ( "(" filter ")" | test | value )
//! test      = [ protocol ] [ direction ] [ kind ] value | protocol | "proto" number-or-name
//! protocol  = ip | ip6 | arp | icmp | icmp6 | tcp | udp | sctp | vxlan | ipip | ("ip" | "ip6") "proto" number-or-name
//! direction = src | dst | "src or dst" | "src and dst"
//! kind      = host | net | port | portrange
//! ```
//!
//! `&&`, `||` and `!` may be written. A value without words in front of it takes those of the test before it: `port 80 or 443`.
//!
//! Addresses and networks are of either family. What an IPv6 packet carries, and its ports, are found behind its extension
//! headers, where tcpdump looks at the first header alone.
//!
//! A frame has several headers once it is encapsulated, and a capture shows it before and after. A test is true when
//! it is true of any one of them; so `not port 22` leaves out what has port 22 inside a tunnel, too. `vxlan` and `ipip` are
//! true of packets in these tunnels.
//!
//! ```
//! use margay::capture::{Filter, Headers, Link};
//!
//! let filter: Filter = "icmp and net 10.65.0.0/16".parse()?;
//! let ping = [
//!     0x45, 0, 0, 28, 0, 3, 0x40, 0, 63, 1, 0, 0, 10, 65, 0, 2, 10, 65, 0, 66, //
//!     8, 0, 0, 0, 0, 7, 0, 1,
//! ];
//! assert!(filter.matches(&Headers::of(Link::Ip, &ping, 4789)));
//! # Ok::<(), margay::capture::FilterError>(())
//! ```

mod parse;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::IpNet;

use super::headers::{Header, Headers, Ip};
use crate::wire::{Family, Protocol};

/// Why a text is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("filter, column {column}: expected {expected}, found {found}")]
pub struct FilterError {
    /// Where, in characters from 1.
    pub column: usize,
    /// What could stand there.
    pub expected: String,
    /// What stands there.
    pub found: String,
}

/// A filter that was understood; an empty one matches all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    expression: Option<Expression>,
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        Ok(Filter { expression: parse::parse(text)? })
    }
}

impl Filter {
    /// Whether a frame with these headers is wanted. Allocates nothing.
    pub fn matches(&self, headers: &Headers) -> bool {
        self.expression.as_ref().is_none_or(|expression| expression.is_true(headers))
    }

    /// True where nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.expression.is_none()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Expression {
    And(Box<Expression>, Box<Expression>),
    Or(Box<Expression>, Box<Expression>),
    Not(Box<Expression>),
    Test(Test),
}

impl Expression {
    fn is_true(&self, headers: &Headers) -> bool {
        match self {
            Expression::And(a, b) => a.is_true(headers) && b.is_true(headers),
            Expression::Or(a, b) => a.is_true(headers) || b.is_true(headers),
            Expression::Not(a) => !a.is_true(headers),
            Expression::Test(test) => headers.iter().any(|header| test.is_true(header)),
        }
    }
}

/// One question, to be answered by one header.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Test {
    kind: Option<Kind>,
    direction: Direction,
    value: Value,
}

/// What kind of header it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ip(Family),
    Arp,
    /// In packets of one family, or of both.
    Protocol(Option<Family>, Protocol),
    Vxlan,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Direction {
    Source,
    Destination,
    #[default]
    Either,
    Both,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    /// The kind alone is asked for.
    Any,
    Net(IpNet),
    Ports(RangeInclusive<u16>),
}

impl Test {
    fn is_true(&self, header: &Header) -> bool {
        if !self.kind.is_none_or(|kind| kind.is_of(header)) {
            return false;
        }
        match (&self.value, header) {
            (Value::Any, _) => true,
            (Value::Net(net), Header::Ip(Ip { src, dst, .. })) => {
                self.direction.holds(net.contains(src), net.contains(dst))
            }
            (Value::Net(net), Header::Arp { sender, target }) => {
                let within = |address| net.contains(&IpAddr::V4(address));
                self.direction.holds(within(*sender), within(*target))
            }
            (Value::Ports(ports), Header::Ip(Ip { ports: Some((src, dst)), .. })) => {
                self.direction.holds(ports.contains(src), ports.contains(dst))
            }
            _ => false,
        }
    }
}

impl Direction {
    fn holds(self, source: bool, destination: bool) -> bool {
        match self {
            Direction::Source => source,
            Direction::Destination => destination,
            Direction::Either => source || destination,
            Direction::Both => source && destination,
        }
    }
}

impl Kind {
    fn is_of(self, header: &Header) -> bool {
        match (self, header) {
            (Kind::Arp, Header::Arp { .. }) => true,
            (Kind::Ip(family), Header::Ip(ip)) => ip.family() == family,
            (Kind::Protocol(family, protocol), Header::Ip(ip)) => {
                ip.protocol == protocol && family.is_none_or(|family| ip.family() == family)
            }
            (Kind::Vxlan, Header::Ip(ip)) => ip.is_vxlan,
            _ => false,
        }
    }
}
