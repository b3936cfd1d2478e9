//! Address resolution for IPv4 over Ethernet (RFC 826, RFC 5227).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |       Hardware type (1)       |    Protocol type (0x0800)     |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | HW length (6) |Prot length (4)|           Operation           |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                          Sender MAC                           |
//! +                               +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                               |       Sender IP (0-15)        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |       Sender IP (16-31)       |                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+                               +
//! |                          Target MAC                           |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                           Target IP                           |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use std::net::Ipv4Addr;

use super::{MacAddr, Malformed};

/// Bytes of a message for IPv4 over Ethernet.
pub const LEN: usize = 28;

/// Hardware type Ethernet, protocol type IPv4, address lengths 6 and 4: the only kind there is here.
const IPV4_OVER_ETHERNET: [u8; 6] = [0x00, 0x01, 0x08, 0x00, 6, 4];

/// What a message wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender has the sender address.
    Reply,
}

/// A message for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug)]
pub struct Arp<'a> {
    bytes: &'a [u8; LEN],
    op: Operation,
}

impl<'a> Arp<'a> {
    /// Takes an Ethernet payload; bytes after the message are padding and ignored.
    ///
    /// # Errors
    /// [`Malformed::ArpTruncated`] under 28 bytes; [`Malformed::ArpUnsupported`] for any other
    /// hardware, protocol, length or operation (RFC 826, "packet reception": such a message is dropped).
    #[inline]
    pub fn parse(payload: &'a [u8]) -> Result<Self, Malformed> {
        let bytes: &[u8; LEN] = payload.first_chunk().ok_or(Malformed::ArpTruncated)?;
        if bytes[..6] != IPV4_OVER_ETHERNET {
            return Err(Malformed::ArpUnsupported);
        }
        let op = match [bytes[6], bytes[7]] {
            [0, 1] => Operation::Request,
            [0, 2] => Operation::Reply,
            _ => return Err(Malformed::ArpUnsupported),
        };
        Ok(Arp { bytes, op })
    }

    /// Request or reply.
    #[inline]
    pub fn op(&self) -> Operation {
        self.op
    }

    /// The address that the sender claims to have.
    #[inline]
    pub fn sender_mac(&self) -> MacAddr {
        self.mac_at::<8>()
    }

    /// The address that the sender claims to have.
    #[inline]
    pub fn sender_ip(&self) -> Ipv4Addr {
        self.ip_at::<14>()
    }

    /// Zero or anything in a request; the asker in a reply.
    #[inline]
    pub fn target_mac(&self) -> MacAddr {
        self.mac_at::<18>()
    }

    /// The address asked for.
    #[inline]
    pub fn target_ip(&self) -> Ipv4Addr {
        self.ip_at::<24>()
    }

    /// A request by somebody who has no address yet and asks whether the target is taken (RFC 5227
    /// 1.1: the sender address is all zero). An answer means "conflict" to the asker.
    #[inline]
    pub fn is_probe(&self) -> bool {
        self.op == Operation::Request && self.sender_ip().is_unspecified()
    }

    /// The sender tells its own address, as request (RFC 5227 1.1) or as gratuitous reply (RFC 5944 4.6).
    #[inline]
    pub fn is_announcement(&self) -> bool {
        self.sender_ip() == self.target_ip()
    }

    #[inline]
    fn mac_at<const AT: usize>(&self) -> MacAddr {
        let mut octets = [0; 6];
        octets.copy_from_slice(&self.bytes[AT..AT + 6]);
        MacAddr(octets)
    }

    #[inline]
    fn ip_at<const AT: usize>(&self) -> Ipv4Addr {
        let b = self.bytes;
        Ipv4Addr::new(b[AT], b[AT + 1], b[AT + 2], b[AT + 3])
    }
}

/// The fields of a message to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Request or reply.
    pub op: Operation,
    /// The address of whoever sends this.
    pub sender_mac: MacAddr,
    /// The IP address that belongs to `sender_mac`.
    pub sender_ip: Ipv4Addr,
    /// Zero in a request; the asker in a reply.
    pub target_mac: MacAddr,
    /// The address asked for, or the asker's in a reply.
    pub target_ip: Ipv4Addr,
}

impl Message {
    /// Writes the message.
    #[inline]
    pub fn write(&self, out: &mut [u8; LEN]) {
        out[0..6].copy_from_slice(&IPV4_OVER_ETHERNET);
        out[6..8].copy_from_slice(&match self.op {
            Operation::Request => [0, 1],
            Operation::Reply => [0, 2],
        });
        out[8..14].copy_from_slice(&self.sender_mac.0);
        out[14..18].copy_from_slice(&self.sender_ip.octets());
        out[18..24].copy_from_slice(&self.target_mac.0);
        out[24..28].copy_from_slice(&self.target_ip.octets());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pod asks for its gateway, as captured on a Calico node.
    const REQUEST: [u8; LEN] = [
        0x00, 0x01, 0x08, 0x00, 0x06, 0x04, 0x00, 0x01, 0x02, 0x42, 0x0a, 0x41, 0x08, 0x0a, 10, 65, 8, 10,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 169, 254, 1, 1,
    ];
    const POD: MacAddr = MacAddr([0x02, 0x42, 0x0a, 0x41, 0x08, 0x0a]);

    fn message() -> Message {
        Message {
            op: Operation::Request,
            sender_mac: POD,
            sender_ip: Ipv4Addr::new(10, 65, 8, 10),
            target_mac: MacAddr([0; 6]),
            target_ip: Ipv4Addr::new(169, 254, 1, 1),
        }
    }

    #[test]
    fn bytes_to_fields() {
        let arp = Arp::parse(&REQUEST).unwrap();
        assert_eq!(arp.op(), Operation::Request);
        assert_eq!(arp.sender_mac(), POD);
        assert_eq!(arp.sender_ip(), Ipv4Addr::new(10, 65, 8, 10));
        assert_eq!(arp.target_mac(), MacAddr([0; 6]));
        assert_eq!(arp.target_ip(), Ipv4Addr::new(169, 254, 1, 1));
        assert!(!arp.is_probe());
        assert!(!arp.is_announcement());
    }

    #[test]
    fn fields_to_bytes() {
        let mut out = [0xa5; LEN];
        message().write(&mut out);
        assert_eq!(out, REQUEST);

        let mut out = [0xa5; LEN];
        Message { op: Operation::Reply, target_mac: MacAddr::GATEWAY, ..message() }.write(&mut out);
        assert_eq!(out[6..8], [0, 2]);
        assert_eq!(out[18..24], [0xee; 6]);
        assert_eq!(Arp::parse(&out).unwrap().op(), Operation::Reply);
    }

    #[test]
    fn a_request_padded_to_the_shortest_frame_is_read() {
        let mut padded = [0xa5; 46];
        padded[..LEN].copy_from_slice(&REQUEST);
        assert_eq!(Arp::parse(&padded).unwrap().target_ip(), Ipv4Addr::new(169, 254, 1, 1));
    }

    #[test]
    fn every_truncation_is_refused() {
        for len in 0..LEN {
            assert_eq!(Arp::parse(&REQUEST[..len]).unwrap_err(), Malformed::ArpTruncated, "{len}");
        }
    }

    #[test]
    fn any_other_kind_is_refused() {
        for at in 0..8 {
            for bit in 0..8 {
                let mut bytes = REQUEST;
                bytes[at] ^= 1 << bit;
                assert_eq!(Arp::parse(&bytes).unwrap_err(), Malformed::ArpUnsupported, "byte {at} bit {bit}");
            }
        }
        let mut reverse_arp = REQUEST;
        reverse_arp[7] = 3;
        assert_eq!(Arp::parse(&reverse_arp).unwrap_err(), Malformed::ArpUnsupported);
    }

    #[test]
    fn probes_and_announcements_are_told_apart() {
        let mut out = [0xa5; LEN];
        Message { sender_ip: Ipv4Addr::UNSPECIFIED, ..message() }.write(&mut out);
        assert!(Arp::parse(&out).unwrap().is_probe());
        assert!(!Arp::parse(&out).unwrap().is_announcement());

        Message { op: Operation::Reply, sender_ip: Ipv4Addr::UNSPECIFIED, ..message() }.write(&mut out);
        assert!(!Arp::parse(&out).unwrap().is_probe());

        for op in [Operation::Request, Operation::Reply] {
            Message { op, target_ip: Ipv4Addr::new(10, 65, 8, 10), ..message() }.write(&mut out);
            assert!(Arp::parse(&out).unwrap().is_announcement());
            assert!(!Arp::parse(&out).unwrap().is_probe());
        }
    }
}
