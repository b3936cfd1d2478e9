//! Other network namespaces as this one's numbers for them, and the links in them: what `ip netns list-id` and
//! `ip link` with `target-nsid` do (`RTM_GETNSID`, Linux 4.0; `IFLA_TARGET_NETNSID`, Linux 4.16).
//!
//! A number is given once and stands as long as both namespaces do, so one finds by it what a process that is no more
//! had made in a namespace to which no path leads any longer.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};

use super::error::Result;
use super::link::{Link, LinkIndex, link_of};
use super::{ErrorKind, Netlink};

/// This namespace's number for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetnsId(pub i32);

impl Netlink {
    /// The number of a namespace; it is given one if it has none.
    ///
    /// # Errors
    /// The kernel or sandbox knows no such numbers.
    pub fn give_netns_id(&mut self, netns: BorrowedFd<'_>) -> Result<NetnsId> {
        // -1: one that is free.
        let new = RouteNetlinkMessage::NewNsId(about(netns, &[NsidAttribute::Id(-1)]));
        let made = self.change(new, NLM_F_CREATE);
        if let Err(error) = made.map_err(|cause| cause.during("give a namespace a number"))
            && error.kind != ErrorKind::Exists
        {
            return Err(error);
        }
        let number = self.netns_id(netns)?;
        number.ok_or_else(|| super::Cause::no_device().during("ask for a namespace's number"))
    }

    /// The number of a namespace, if it has one.
    ///
    /// # Errors
    /// As [`Self::give_netns_id`].
    pub fn netns_id(&mut self, netns: BorrowedFd<'_>) -> Result<Option<NetnsId>> {
        let answers = self.get(RouteNetlinkMessage::GetNsId(about(netns, &[])));
        let answers = answers.map_err(|cause| cause.during("ask for a namespace's number"))?;
        Ok(answers.into_iter().find_map(number_of))
    }

    /// Every namespace that has a number.
    ///
    /// # Errors
    /// As [`Self::give_netns_id`].
    pub fn netns_ids(&mut self) -> Result<Vec<NetnsId>> {
        let answers = self.dump(RouteNetlinkMessage::GetNsId(NsidMessage::default()));
        let answers = answers.map_err(|cause| cause.during("list the numbers of namespaces"))?;
        Ok(answers.into_iter().filter_map(number_of).collect())
    }

    /// All links of another namespace.
    ///
    /// # Errors
    /// [`ErrorKind::NotPermitted`] without CAP_NET_ADMIN there; the namespace is gone.
    pub fn links_in(&mut self, NetnsId(id): NetnsId) -> Result<Vec<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfNetnsId(id));
        let answers = self.dump(RouteNetlinkMessage::GetLink(message));
        let answers = answers.map_err(|cause| cause.during(format!("list links of namespace {id}")))?;
        Ok(answers.into_iter().filter_map(link_of).collect())
    }

    /// Deletes a link of another namespace.
    ///
    /// # Errors
    /// As [`Self::links_in`].
    pub fn delete_link_in(&mut self, netns: NetnsId, link: LinkIndex) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = link.0;
        message.attributes.push(LinkAttribute::IfNetnsId(netns.0));
        let done = self.change(RouteNetlinkMessage::DelLink(message), 0);
        done.map_err(|cause| cause.during(format!("delete link {} of namespace {}", link.0, netns.0)))
    }
}

fn about(netns: BorrowedFd<'_>, more: &[NsidAttribute]) -> NsidMessage {
    let mut message = NsidMessage::default();
    message.attributes.push(NsidAttribute::Fd(netns.as_raw_fd().unsigned_abs()));
    message.attributes.extend_from_slice(more);
    message
}

fn number_of(answer: RouteNetlinkMessage) -> Option<NetnsId> {
    let RouteNetlinkMessage::NewNsId(message) = answer else { return None };
    message.attributes.into_iter().find_map(|attribute| match attribute {
        // -1: it has none.
        NsidAttribute::Id(id @ 0..) => Some(NetnsId(id)),
        _ => None,
    })
}
