//! From text to a filter: recursive descent, bounded in length and depth.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::{Direction, Expression, FilterError, Kind, Test, Value};
use crate::wire::{Family, Protocol};

/// Longest text, bytes; a worker evaluates what it says for each frame.
const LENGTH: usize = 4096;
/// Parentheses and negations within each other.
const DEPTH: usize = 32;
/// Tests in all: a chain of them is as deep as it is long.
const TESTS: usize = 128;

const TERM: &str =
    "a test such as \"host ADDRESS\", \"net ADDRESS/LENGTH\", \"port NUMBER\", \"tcp\", or \"(\"";
const ADDRESS: &str = "an IP address (names are not looked up)";
const NET: &str = "a network such as 10.65.0.0/16 or fd00:10:65::/64";
const PORT: &str = "a port number (0 to 65535; names are not looked up)";
const RANGE: &str = "a range of ports such as 8000-8080";
const PROTOCOL: &str = "a protocol number (0 to 255), or icmp, icmp6, tcp, udp, sctp, ipip or gre";

/// The filter of a text; `None` for one that says nothing.
pub(super) fn parse(text: &str) -> Result<Option<Expression>, FilterError> {
    if text.len() > LENGTH {
        let expected = format!("a filter of at most {LENGTH} characters");
        return Err(FilterError { column: LENGTH + 1, expected, found: "more".into() });
    }
    let tokens = tokens(text);
    if tokens.is_empty() {
        return Ok(None);
    }
    let end = text.chars().count() + 1;
    let mut parser = Parser { tokens, at: 0, end, last: None, tests: 0 };
    let expression = parser.filter(0)?;
    match parser.peek() {
        None => Ok(Some(expression)),
        Some(_) => Err(parser.wrong("\"and\", \"or\" or the end")),
    }
}

#[derive(Debug, Clone, Copy)]
struct Token<'a> {
    text: &'a str,
    column: usize,
}

/// Words, and each of `( ) !` by itself. `&&` and `||` are words, wherever they stand.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut chars = text.char_indices().enumerate().peekable();
    while let Some((place, (start, first))) = chars.next() {
        if first.is_whitespace() {
            continue;
        }
        let mut end = start + first.len_utf8();
        let is_word = |c: char| !c.is_whitespace() && !"()!&|".contains(c);
        let joins = |c: char| if "&|".contains(first) { c == first } else { is_word(first) && is_word(c) };
        while let Some((_, (at, c))) = chars.next_if(|(_, (_, c))| joins(*c)) {
            end = at + c.len_utf8();
        }
        tokens.push(Token { text: &text[start..end], column: place + 1 });
    }
    tokens
}

/// The words in front of a value, which the next value may do without.
#[derive(Debug, Clone, Copy)]
struct Words {
    kind: Option<Kind>,
    direction: Direction,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Host,
    Net,
    Port,
    PortRange,
    Protocol,
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    end: usize,
    last: Option<Words>,
    tests: usize,
}

impl<'a> Parser<'a> {
    fn filter(&mut self, depth: usize) -> Result<Expression, FilterError> {
        let mut left = self.term(depth)?;
        loop {
            let is_and = match self.peek() {
                Some("and" | "&&") => true,
                Some("or" | "||") => false,
                _ => return Ok(left),
            };
            self.at += 1;
            let right = Box::new(self.term(depth)?);
            left = match is_and {
                true => Expression::And(Box::new(left), right),
                false => Expression::Or(Box::new(left), right),
            };
        }
    }

    fn term(&mut self, depth: usize) -> Result<Expression, FilterError> {
        if depth > DEPTH {
            return Err(self.wrong(&format!("at most {DEPTH} levels of parentheses and \"not\"")));
        }
        match self.peek() {
            Some("not" | "!") => {
                self.at += 1;
                Ok(Expression::Not(Box::new(self.term(depth + 1)?)))
            }
            Some("(") => {
                self.at += 1;
                let inner = self.filter(depth + 1)?;
                match self.peek() {
                    Some(")") => self.at += 1,
                    _ => return Err(self.wrong("\"and\", \"or\" or \")\"")),
                }
                Ok(inner)
            }
            _ => self.test().map(Expression::Test),
        }
    }

    fn test(&mut self) -> Result<Test, FilterError> {
        self.tests += 1;
        if self.tests > TESTS {
            return Err(self.wrong(&format!("at most {TESTS} tests")));
        }
        let start = self.at;
        let kind = self.kind()?;
        let direction = self.direction()?;
        let what = self.what();
        let words = match (kind, direction, what) {
            (kind, direction, Some(what)) => Words { kind, direction: direction.unwrap_or_default(), what },
            // "src 10.0.0.1", as "src host 10.0.0.1".
            (kind, Some(direction), None) => Words { kind, direction, what: self.guess() },
            // "tcp", unless an address follows: "ip 10.0.0.1" is no filter of tcpdump's either.
            (Some(kind), None, None) => {
                return Ok(Test { kind: Some(kind), direction: Direction::Either, value: Value::Any });
            }
            (None, None, None) => match self.last {
                Some(words) if self.is_value() => Words { what: self.as_before(words.what), ..words },
                _ if self.is_address() => {
                    Words { kind: None, direction: Direction::Either, what: self.guess() }
                }
                _ => return Err(self.wrong(TERM)),
            },
        };
        self.last = Some(words);
        let test = self.value(words)?;
        self.agree(start, &test)?;
        Ok(test)
    }

    /// `tcp`, `ip proto 47`, `vxlan`.
    fn kind(&mut self) -> Result<Option<Kind>, FilterError> {
        let kind = match self.peek() {
            Some("ip") => Kind::Ip(Family::V4),
            Some("ip6") => Kind::Ip(Family::V6),
            Some("arp") => Kind::Arp,
            Some("vxlan") => Kind::Vxlan,
            Some(word) => match named(word) {
                Some((family, protocol)) => Kind::Protocol(family, protocol),
                None => return Ok(None),
            },
            None => return Ok(None),
        };
        self.at += 1;
        Ok(Some(kind))
    }

    fn direction(&mut self) -> Result<Option<Direction>, FilterError> {
        let one = |word| match word {
            Some("src") => Some(Direction::Source),
            Some("dst") => Some(Direction::Destination),
            _ => None,
        };
        let Some(first) = one(self.peek()) else { return Ok(None) };
        self.at += 1;
        let joined = match self.peek() {
            Some("or" | "||") => Direction::Either,
            Some("and" | "&&") => Direction::Both,
            _ => return Ok(Some(first)),
        };
        let second = one(self.tokens.get(self.at + 1).map(|token| token.text));
        if second.is_none_or(|second| second == first) {
            return Ok(Some(first));
        }
        self.at += 2;
        Ok(Some(joined))
    }

    fn what(&mut self) -> Option<What> {
        let what = match self.peek()? {
            "host" => What::Host,
            "net" => What::Net,
            "port" => What::Port,
            "portrange" => What::PortRange,
            "proto" => What::Protocol,
            _ => return None,
        };
        self.at += 1;
        Some(what)
    }

    /// An address with a length is a network.
    fn guess(&self) -> What {
        if self.peek().is_some_and(|word| word.contains('/')) { What::Net } else { What::Host }
    }

    fn as_before(&self, what: What) -> What {
        match what {
            What::Host | What::Net => self.guess(),
            // "port 80 or 8000-8080".
            What::Port | What::PortRange if self.peek().is_some_and(|word| word.contains('-')) => {
                What::PortRange
            }
            What::PortRange => What::Port,
            what => what,
        }
    }

    fn is_value(&self) -> bool {
        self.peek().is_some_and(|word| word.starts_with(|c: char| c.is_ascii_digit()) || is_ipv6(word))
    }

    fn is_address(&self) -> bool {
        self.is_value() && self.peek().is_some_and(|word| word.contains('.') || is_ipv6(word))
    }

    fn value(&mut self, words: Words) -> Result<Test, FilterError> {
        let Words { kind, direction, what } = words;
        let value = match what {
            What::Host => Value::Net(self.one(ADDRESS, |word| word.parse::<IpAddr>().ok())?.into()),
            What::Net => self.net()?,
            What::Port => self.one(PORT, |word| word.parse().ok()).map(|port| Value::Ports(port..=port))?,
            What::PortRange => self.one(RANGE, range)?,
            What::Protocol => {
                let number = |word: &str| word.parse().ok().map(Protocol);
                let name = |word: &str| named(word).map(|(_, protocol)| protocol);
                let protocol =
                    self.one(PROTOCOL, |word| name(word.trim_start_matches('\\')).or_else(|| number(word)))?;
                let family = match kind {
                    Some(Kind::Ip(family)) => Some(family),
                    _ => None,
                };
                let kind = Some(Kind::Protocol(family, protocol));
                return Ok(Test { kind, direction, value: Value::Any });
            }
        };
        Ok(Test { kind, direction, value })
    }

    /// `10.65.0.0/16`, `10.65`, `10.65.0.0 mask 255.255.0.0` and `fd00:10:65::/64`.
    fn net(&mut self) -> Result<Value, FilterError> {
        let start = self.at;
        let net = self.one(NET, net)?;
        let net = match (net, self.peek()) {
            (IpNet::V4(net), Some("mask")) => {
                self.at += 1;
                let mask = self.one("a mask such as 255.255.0.0", |word| word.parse::<Ipv4Addr>().ok())?;
                let masked = Ipv4Net::with_netmask(net.addr(), mask).ok();
                masked.ok_or_else(|| self.wrong_at(self.at - 1, "a mask of ones, then zeros"))?.into()
            }
            _ => net,
        };
        if net.trunc() != net {
            return Err(self.wrong_at(start, &format!("no bits behind the mask: {}", net.trunc())));
        }
        Ok(Value::Net(net))
    }

    /// What tcpdump refuses, as it can never be true or is not what it seems to be.
    fn agree(&self, start: usize, test: &Test) -> Result<(), FilterError> {
        let (fits, why) = match (&test.value, test.kind) {
            (Value::Any, _) | (_, None) => return Ok(()),
            (Value::Ports(_), Some(Kind::Ip(_))) => return Ok(()),
            (Value::Ports(_), Some(Kind::Protocol(_, protocol))) => {
                (protocol.has_ports(), "a protocol that has ports, such as tcp or udp")
            }
            (Value::Ports(_), _) => (false, "a protocol that has ports, such as tcp or udp"),
            (Value::Net(net), Some(kind)) => match net {
                IpNet::V4(_) => (
                    matches!(kind, Kind::Arp | Kind::Ip(Family::V4)),
                    "ip or arp, whose addresses these are, or \"and\" behind the protocol",
                ),
                IpNet::V6(_) => (
                    kind == Kind::Ip(Family::V6),
                    "ip6, whose addresses these are, or \"and\" behind the protocol",
                ),
            },
        };
        if fits { Ok(()) } else { Err(self.wrong_at(start, why)) }
    }

    fn one<T>(&mut self, expected: &str, read: impl FnOnce(&str) -> Option<T>) -> Result<T, FilterError> {
        let value = self.peek().and_then(read).ok_or_else(|| self.wrong(expected))?;
        self.at += 1;
        Ok(value)
    }

    fn peek(&self) -> Option<&'a str> {
        self.tokens.get(self.at).map(|token| token.text)
    }

    fn wrong(&self, expected: &str) -> FilterError {
        self.wrong_at(self.at, expected)
    }

    fn wrong_at(&self, place: usize, expected: &str) -> FilterError {
        let (column, found) = match self.tokens.get(place) {
            Some(token) => (token.column, format!("{:?}", token.text)),
            None => (self.end, "the end".to_owned()),
        };
        FilterError { column, expected: expected.to_owned(), found }
    }
}

/// In packets of which family, and its number.
fn named(word: &str) -> Option<(Option<Family>, Protocol)> {
    Some(match word {
        "icmp" => (Some(Family::V4), Protocol::ICMP),
        "icmp6" => (Some(Family::V6), Protocol::ICMPV6),
        "tcp" => (None, Protocol::TCP),
        "udp" => (None, Protocol::UDP),
        "sctp" => (None, Protocol::SCTP),
        "ipip" => (None, Protocol::IPIP),
        "gre" => (None, Protocol::GRE),
        _ => return None,
    })
}

/// An address, or a network.
fn is_ipv6(word: &str) -> bool {
    matches!(net(word), Some(IpNet::V6(_)))
}

/// As in tcpdump, `10.65` is 10.65.0.0/16, and an IPv6 address without a length is itself.
fn net(word: &str) -> Option<IpNet> {
    if let Ok(net) = word.parse() {
        return Some(net);
    }
    if let Ok(IpAddr::V6(address)) = word.parse() {
        return Some(IpAddr::V6(address).into());
    }
    let (octets, len) = match word.split_once('/') {
        Some((octets, len)) => (octets, Some(len.parse::<u8>().ok()?)),
        None => (word, None),
    };
    let mut address = [0; 4];
    let mut count = 0;
    for octet in octets.split('.') {
        *address.get_mut(count)? = octet.parse().ok()?;
        count += 1;
    }
    Ipv4Net::new(address.into(), len.unwrap_or(8 * count as u8)).ok().map(IpNet::V4)
}

fn range(word: &str) -> Option<Value> {
    let (from, to) = word.split_once('-')?;
    let (from, to) = (from.parse::<u16>().ok()?, to.parse::<u16>().ok()?);
    // As in tcpdump, in either order.
    Some(Value::Ports(from.min(to)..=from.max(to)))
}
