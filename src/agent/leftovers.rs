//! What daemons of this namespace have left that nobody wants any more: found by its [`Mark`], wherever it is.

use std::os::fd::AsFd;

use super::endpoint::{restore_host_end, set_veth_mtu};
use super::host;
use super::mark::{Mark, Owner};
use super::sole::Sole;
use super::{AgentError, Attached};
use crate::sys::netlink::{ErrorKind, Link, LinkChange, Netlink, NetlinkError, NetnsId};
use crate::sys::netns::Netns;

/// Removes what a daemon has left in this network namespace and in the workloads', and says what it was.
///
/// # Errors
/// A daemon runs; the kernel refuses.
pub fn clean_up() -> Result<Vec<String>, AgentError> {
    let _sole = Sole::claim().map_err(AgentError::NotAlone)?;
    let owner = Owner::here().map_err(AgentError::Namespace)?;
    let mut removed = remove(owner, |_| false)?;
    if host::clear(&mut Netlink::open()?)? {
        removed.push("the rule for the underlay and its table".into());
    }
    Ok(removed)
}

/// Where something was found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found<'a> {
    /// `None` for the daemon's own namespace.
    pub(super) netns: Option<NetnsId>,
    pub(super) link: &'a Link,
    pub(super) mark: &'a Mark,
}

impl Found<'_> {
    /// Whether `attached` is what was found.
    pub(super) fn is(&self, attached: &Attached) -> bool {
        match self.netns {
            Some(netns) => attached.is_tap(netns, self.link.index),
            None => attached.plan.interface == self.link.name,
        }
    }
}

/// Removes all that is of `owner` and not `wanted`; says what it was.
///
/// # Errors
/// The kernel refuses. A namespace that may not be looked into is passed by.
pub(super) fn remove(owner: Owner, wanted: impl Fn(Found<'_>) -> bool) -> Result<Vec<String>, NetlinkError> {
    let mut netlink = Netlink::open()?;
    let mut removed = Vec::new();
    // Where there are no such numbers, only this namespace is looked into. It may have a number of its own.
    let mut others = netlink.netns_ids().unwrap_or_default();
    let own = Netns::current().ok().and_then(|own| netlink.netns_id(own.as_fd()).ok()?);
    others.retain(|netns| Some(*netns) != own);
    for netns in std::iter::once(None).chain(others.into_iter().map(Some)) {
        let links = match netns {
            None => netlink.links()?,
            Some(netns) => netlink.links_in(netns).unwrap_or_default(),
        };
        for link in &links {
            let Some(mark) = Mark::of(link) else { continue };
            let is_ours = match &mark {
                Mark::Made { .. } => mark.is_made_by(owner),
                // A node serves the veths of its own namespace alone.
                Mark::Serves { .. } => netns.is_none(),
            };
            if is_ours && !wanted(Found { netns, link, mark: &mark }) {
                match let_go(&mut netlink, netns, link, &mark) {
                    Err(error) if error.kind == ErrorKind::NoDevice => {}
                    other => removed.push(other?),
                }
            }
        }
    }
    Ok(removed)
}

fn let_go(
    netlink: &mut Netlink,
    netns: Option<NetnsId>,
    link: &Link,
    mark: &Mark,
) -> Result<String, NetlinkError> {
    match (mark, netns) {
        (Mark::Made { purpose, .. }, None) => {
            netlink.delete_link(link.index)?;
            Ok(format!("{} ({purpose})", link.name))
        }
        (Mark::Made { purpose, .. }, Some(netns)) => {
            netlink.delete_link_in(netns, link.index)?;
            Ok(format!("{} of a workload ({purpose})", link.name))
        }
        (Mark::Serves { mac, given, set, netns }, _) => {
            let unmarked = LinkChange::Alias(String::new());
            restore_host_end(netlink, link.index, Some(*mac))?;
            netlink.set_link(link.index, &[unmarked])?;
            if let Some(netns) = netns
                && given != set
                && link.mtu == u32::from(*set)
                && let Err(error) = set_veth_mtu(link, netns, *given)
            {
                tracing::warn!(interface = %link.name, %error, "the MTU could not be restored");
            }
            Ok(format!("margay's MAC and MTU of {}", link.name))
        }
    }
}
