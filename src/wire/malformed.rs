//! Why bytes are not the header that they were taken for.

/// The reason a `parse` refused its input. One enum for every header, so that the engine can count
/// each reason on its own; the text says what was wrong, not what to do, as nobody but the sender can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    /// Fewer than 14 bytes.
    #[error("Ethernet header cut short")]
    EthernetTruncated,
    /// Fewer than 28 bytes.
    #[error("ARP message cut short")]
    ArpTruncated,
    /// Hardware type, protocol type, an address length or the opcode is not that of a request or
    /// reply for IPv4 over Ethernet (RFC 826).
    #[error("ARP message is not a request or reply for IPv4 over Ethernet")]
    ArpUnsupported,
    /// Fewer than 20 bytes, or fewer than the header length says.
    #[error("IPv4 header cut short")]
    Ipv4Truncated,
    /// The version nibble is not 4.
    #[error("IP version is not 4")]
    Ipv4Version,
    /// The header length (IHL) is under 5 words.
    #[error("IPv4 header length is under 20 bytes")]
    Ipv4HeaderLength,
    /// The total length is under the header length, or over the bytes that there are.
    #[error("IPv4 total length does not fit the header or the bytes received")]
    Ipv4TotalLength,
    /// The header does not add up (RFC 791 3.1).
    #[error("IPv4 header checksum is wrong")]
    Ipv4Checksum,
    /// Fewer than 40 bytes.
    #[error("IPv6 header cut short")]
    Ipv6Truncated,
    /// The version nibble is not 6.
    #[error("IP version is not 6")]
    Ipv6Version,
    /// The payload length is over the bytes that there are, or ends beyond 65,535 bytes.
    #[error("IPv6 payload length does not fit the bytes received")]
    Ipv6PayloadLength,
    /// An extension header ends beyond the packet (RFC 8200 4).
    #[error("IPv6 extension header cut short")]
    Ipv6ExtensionTruncated,
    /// More extension headers, or longer ones, than are walked (RFC 8504 5.3).
    #[error("too many or too long IPv6 extension headers")]
    Ipv6Extensions,
    /// Fewer than 8 bytes.
    #[error("UDP header cut short")]
    UdpTruncated,
    /// The length field is under 8, or over the bytes that there are (RFC 768).
    #[error("UDP length does not fit the header or the bytes received")]
    UdpLength,
    /// Fewer than 20 bytes, or fewer than the data offset says.
    #[error("TCP header cut short")]
    TcpTruncated,
    /// The data offset is under 5 words (RFC 9293 3.1).
    #[error("TCP data offset is under 20 bytes")]
    TcpHeaderLength,
    /// Fewer than 8 bytes.
    #[error("ICMP header cut short")]
    IcmpTruncated,
    /// A neighbour solicitation or advertisement of fewer than 24 bytes.
    #[error("neighbour discovery message cut short")]
    NdpTruncated,
    /// An option of length zero, one that ends beyond the message, a link-layer address that is not
    /// Ethernet's (RFC 4861 4.6), or more options than are walked.
    #[error("neighbour discovery option is malformed")]
    NdpOption,
    /// Code, target, or the packet's addresses, hop limit or checksum are what no such message has
    /// (RFC 4861 7.1).
    #[error("neighbour discovery message that RFC 4861 7.1 forbids")]
    NdpForbidden,
    /// Fewer than 8 bytes.
    #[error("VXLAN header cut short")]
    VxlanTruncated,
    /// The I flag is not set (RFC 7348 5).
    #[error("VXLAN header without the I flag")]
    VxlanFlags,
}
