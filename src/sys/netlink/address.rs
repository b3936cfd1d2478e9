//! Addresses: what `ip address` does.

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};

use super::error::Result;
use super::{LinkIndex, Netlink, number};
use crate::wire::Family;

impl Netlink {
    /// Gives `address` to a link; its host bits are the address, its length the subnet's. One of IPv6 can be used at once:
    /// whether others on the link have it already is not asked (`IFA_F_NODAD`).
    ///
    /// # Errors
    /// [`super::ErrorKind::Exists`], [`super::ErrorKind::NoDevice`]. Of IPv6: [`super::ErrorKind::Unsupported`] where the kernel
    /// has none, [`super::ErrorKind::NotPermitted`] where it is switched off for the link (`disable_ipv6`).
    pub fn add_address(&mut self, dev: LinkIndex, address: IpNet) -> Result<()> {
        let message = RouteNetlinkMessage::NewAddress(message(dev, address));
        self.change(message, NLM_F_CREATE | NLM_F_EXCL)
            .map_err(|cause| cause.during(format!("add address {address} dev {}", self.name_of(dev))))
    }

    /// Takes `address` from a link.
    ///
    /// # Errors
    /// [`super::ErrorKind::NotFound`], [`super::ErrorKind::NoDevice`].
    pub fn delete_address(&mut self, dev: LinkIndex, address: IpNet) -> Result<()> {
        let message = RouteNetlinkMessage::DelAddress(message(dev, address));
        self.change(message, 0)
            .map_err(|cause| cause.during(format!("delete address {address} dev {}", self.name_of(dev))))
    }

    /// Every address of the namespace with its link.
    ///
    /// # Errors
    /// What the kernel answers; needs no privilege.
    pub fn addresses(&mut self) -> Result<Vec<(LinkIndex, IpNet)>> {
        let answers = self
            .dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))
            .map_err(|cause| cause.during("list addresses"))?;
        Ok(answers.into_iter().filter_map(address_of).collect())
    }
}

fn message(dev: LinkIndex, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = number(Family::of(address.addr()));
    message.header.prefix_len = address.prefix_len();
    message.header.index = dev.0;
    // IPv4 has a local and a peer address, the same on everything but point-to-point links.
    message.attributes.push(AddressAttribute::Address(address.addr()));
    message.attributes.push(AddressAttribute::Local(address.addr()));
    if address.addr().is_ipv6() {
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

fn address_of(answer: RouteNetlinkMessage) -> Option<(LinkIndex, IpNet)> {
    let RouteNetlinkMessage::NewAddress(message) = answer else { return None };
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(a) => local = Some(*a),
            AddressAttribute::Address(a) => address = Some(*a),
            _ => {}
        }
    }
    let net = IpNet::new(local.or(address)?, message.header.prefix_len).ok()?;
    Some((LinkIndex(message.header.index), net))
}
