//! Whose an interface is: margay's remark on those that outlast the daemon.
//!
//! The kernel keeps it with the interface (`ip link` shows it as alias), also when the daemon is killed, and forgets it
//! with the interface. So it is never out of date, as a file could be, and needs no directory to write to.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::sys::netlink::Link;
use crate::sys::netns::{Netns, NetnsError};
use crate::wire::MacAddr;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mark {
    /// Margay made it.
    Made {
        /// Whose it is.
        owner: Owner,
        /// For people: `host`, or the endpoint.
        purpose: String,
    },
    /// The host end of a veth, which somebody else made and margay serves.
    Serves {
        /// The MAC that it had.
        mac: MacAddr,
        /// The MTU that it had, bytes.
        given: u16,
        /// The MTU that margay gave it, bytes.
        set: u16,
        /// The namespace of its other end, where margay may set the MTU.
        netns: Option<PathBuf>,
    },
}

/// The daemons of one network namespace, which follow each other: its inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner(u64);

impl Owner {
    /// That of the calling thread's namespace.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub(super) fn here() -> Result<Self, NetnsError> {
        Ok(Owner(Netns::current()?.id()?.1))
    }

    pub(super) fn inode(self) -> u64 {
        self.0
    }
}

/// The kernel takes 255 bytes (IFALIASZ).
const LIMIT: usize = 250;

impl Mark {
    /// What `link` says.
    pub(super) fn of(link: &Link) -> Option<Self> {
        Self::parse(link.alias.as_deref()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        match words.next()? {
            "margay/made" => {
                let owner = Owner(words.next()?.parse().ok()?);
                Some(Mark::Made { owner, purpose: words.collect::<Vec<_>>().join(" ") })
            }
            "margay/serves" => {
                let mac = words.next()?.parse().ok()?;
                let mut mtu = || words.next()?.parse().ok();
                let (given, set) = (mtu()?, mtu()?);
                let netns = words.collect::<Vec<_>>().join(" ");
                let netns = (!netns.is_empty()).then(|| PathBuf::from(netns));
                Some(Mark::Serves { mac, given, set, netns })
            }
            _ => None,
        }
    }

    /// Whether it is on what daemons of `owner`'s namespace made.
    pub(super) fn is_made_by(&self, owner: Owner) -> bool {
        matches!(self, Mark::Made { owner: other, .. } if *other == owner)
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mark::Made { owner: Owner(netns), purpose } => {
                let mut text = format!("margay/made {netns} {purpose}");
                while text.len() > LIMIT {
                    text.pop();
                }
                f.write_str(&text)
            }
            Mark::Serves { mac, given, set, netns } => {
                let text = format!("margay/serves {mac} {given} {set}");
                match netns.as_deref().and_then(Path::to_str) {
                    Some(netns) if text.len() + 1 + netns.len() <= LIMIT => write!(f, "{text} {netns}"),
                    _ => f.write_str(&text),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_as_they_are_written() {
        let owner = Owner(4_026_531_840);
        let made = Mark::Made { owner, purpose: "default/node--a-k8s-pod-eth0".into() };
        let serves = |netns: Option<&str>| {
            let netns = netns.map(PathBuf::from);
            Mark::Serves { mac: MacAddr::GATEWAY, given: 1500, set: 1450, netns }
        };
        for mark in [made, serves(None), serves(Some("/run/netns/a pod"))] {
            assert_eq!(Mark::parse(&mark.to_string()), Some(mark));
        }
        assert_eq!(Mark::parse(&serves(Some(&"x".repeat(300))).to_string()), Some(serves(None)));
        let long = Mark::Made { owner, purpose: "ä".repeat(400) }.to_string();
        assert!(long.len() <= LIMIT && Mark::parse(&long).unwrap().is_made_by(owner));
        for text in ["", "margay", "margay/made", "margay/made x", "margay/serves 1 2", "somebody's uplink"] {
            assert_eq!(Mark::parse(text), None, "{text:?}");
        }
    }
}
