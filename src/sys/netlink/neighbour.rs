//! Neighbours and bridge forwarding entries: what `ip neigh` and `bridge fdb` do.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::error::Result;
use super::{LinkIndex, Netlink, number};
use crate::wire::{Family, MacAddr};

/// An entry of the neighbour table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// Its Ethernet address, once resolved.
    pub mac: Option<MacAddr>,
    /// The link it is on.
    pub dev: LinkIndex,
    /// What the kernel thinks of it.
    pub state: NeighbourState,
}

impl Netlink {
    /// Sets a permanent neighbour, in the place of what was known about the address.
    ///
    /// # Errors
    /// [`super::ErrorKind::NoDevice`].
    pub fn set_neighbour(&mut self, dev: LinkIndex, address: IpAddr, mac: MacAddr) -> Result<()> {
        let mut message = message(number(Family::of(address)), dev, NeighbourState::Permanent);
        message.attributes.push(NeighbourAttribute::Destination(wire_address(address)));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        self.change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE).map_err(
            |cause| cause.during(format!("set neighbour {address} at {mac} dev {}", self.name_of(dev))),
        )
    }

    /// Tells the kernel that a neighbour is used, as if it had sent something there itself (`NTF_USE`): an entry
    /// that is stale is verified. Not for a permanent one, which would cease to be that.
    ///
    /// # Errors
    /// [`super::ErrorKind::NotFound`].
    pub fn use_neighbour(&mut self, dev: LinkIndex, address: IpAddr) -> Result<()> {
        let mut message = message(number(Family::of(address)), dev, NeighbourState::None);
        message.header.flags = NeighbourFlags::Use;
        message.attributes.push(NeighbourAttribute::Destination(wire_address(address)));
        self.change(RouteNetlinkMessage::NewNeighbour(message), 0)
            .map_err(|cause| cause.during(format!("use neighbour {address} dev {}", self.name_of(dev))))
    }

    /// Forgets a neighbour.
    ///
    /// # Errors
    /// [`super::ErrorKind::NotFound`].
    pub fn delete_neighbour(&mut self, dev: LinkIndex, address: IpAddr) -> Result<()> {
        let mut message = message(number(Family::of(address)), dev, NeighbourState::None);
        message.attributes.push(NeighbourAttribute::Destination(wire_address(address)));
        self.change(RouteNetlinkMessage::DelNeighbour(message), 0)
            .map_err(|cause| cause.during(format!("delete neighbour {address} dev {}", self.name_of(dev))))
    }

    /// The neighbours of a family, on every link.
    ///
    /// # Errors
    /// What the kernel answers; needs no privilege.
    pub fn neighbours(&mut self, family: Family) -> Result<Vec<Neighbour>> {
        let mut message = NeighbourMessage::default();
        message.header.family = number(family);
        let answers = self
            .dump(RouteNetlinkMessage::GetNeighbour(message))
            .map_err(|cause| cause.during("list neighbours"))?;
        let neighbour = |answer| match answer {
            RouteNetlinkMessage::NewNeighbour(message) => neighbour_of(message),
            _ => None,
        };
        Ok(answers.into_iter().filter_map(neighbour).collect())
    }

    /// What is known about one neighbour.
    ///
    /// # Errors
    /// As [`Netlink::neighbours`].
    pub fn neighbour(&mut self, dev: LinkIndex, address: IpAddr) -> Result<Option<Neighbour>> {
        let all = self.neighbours(Family::of(address))?;
        Ok(all.into_iter().find(|n| n.dev == dev && n.address == address))
    }

    /// Sets where a VXLAN device sends frames for `mac`: a permanent forwarding entry of its own
    /// (`bridge fdb replace … self permanent`).
    ///
    /// # Errors
    /// [`super::ErrorKind::NoDevice`].
    pub fn set_fdb(&mut self, dev: LinkIndex, mac: MacAddr, dst: IpAddr) -> Result<()> {
        let mut message = message(AddressFamily::Bridge, dev, NeighbourState::Permanent);
        message.header.flags = NeighbourFlags::Own;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        message.attributes.push(NeighbourAttribute::Destination(wire_address(dst)));
        self.change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
            .map_err(|cause| cause.during(format!("set fdb entry {mac} dst {dst} dev {}", self.name_of(dev))))
    }
}

fn message(family: AddressFamily, dev: LinkIndex, state: NeighbourState) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    message.header.ifindex = dev.0;
    message.header.state = state;
    message
}

fn wire_address(address: IpAddr) -> NeighbourAddress {
    match address {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    }
}

pub(super) fn neighbour_of(message: NeighbourMessage) -> Option<Neighbour> {
    let (mut address, mut mac) = (None, None);
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::V4(v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::V6(v6)),
            NeighbourAttribute::LinkLayerAddress(octets) => mac = octets.try_into().ok().map(MacAddr),
            _ => {}
        }
    }
    let (dev, state) = (LinkIndex(message.header.ifindex), message.header.state);
    Some(Neighbour { address: address?, mac, dev, state })
}
