//! TCP and UDP headers as far as offloads are concerned: how long, and where the checksum stands.

use super::Protocol;
use super::ip::View;
use super::tcp::Tcp;
use super::udp::{self, Udp};

/// The transport header of an unfragmented packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Its length in bytes: 8 for UDP, 20 to 60 for TCP.
    pub header_len: u16,
}

impl Transport {
    /// `None` for other protocols, fragments, headers that do not parse, and behind headers that segments cannot
    /// have [in common](View::has_common_headers).
    pub fn parse<'a>(ip: &impl View<'a>) -> Option<Transport> {
        let protocol = ip.protocol();
        let header_len = match protocol {
            _ if ip.is_fragment() || !ip.has_common_headers() => return None,
            Protocol::TCP => Tcp::parse(ip.payload()).ok()?.header_len(),
            Protocol::UDP => Udp::parse(ip.payload()).ok().map(|_| udp::HEADER_LEN)?,
            _ => return None,
        };
        Some(Transport { protocol, header_len: header_len as u16 })
    }

    /// Place of the checksum in the header, bytes (RFC 9293 3.1, RFC 768).
    pub fn checksum_field(self) -> u16 {
        match self.protocol {
            Protocol::TCP => 16,
            _ => 6,
        }
    }
}
