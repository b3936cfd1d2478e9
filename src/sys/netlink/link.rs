//! Links: what `ip link` does.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute,
    LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};

use super::Netlink;
use super::error::{Cause, Result};
use crate::wire::MacAddr;

/// Index of a link within its namespace. It stays the same when the link is renamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkIndex(pub u32);

/// Names a link in one of its two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkId<'a> {
    /// By name.
    Name(&'a str),
    /// By index.
    Index(LinkIndex),
}

impl<'a> From<&'a str> for LinkId<'a> {
    fn from(name: &'a str) -> Self {
        Self::Name(name)
    }
}

impl From<LinkIndex> for LinkId<'_> {
    fn from(index: LinkIndex) -> Self {
        Self::Index(index)
    }
}

impl fmt::Display for LinkId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Index(LinkIndex(index)) => write!(f, "#{index}"),
        }
    }
}

/// A link as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Index within the namespace.
    pub index: LinkIndex,
    /// Name, up to 15 characters.
    pub name: String,
    /// Ethernet address; `None` for a TUN and other links without one.
    pub mac: Option<MacAddr>,
    /// Its frames begin with an Ethernet header (`ARPHRD_ETHER`).
    pub is_ethernet: bool,
    /// IP MTU, bytes.
    pub mtu: u32,
    /// What IPv6 sends at most, bytes: less than `mtu` where a router or somebody else says so. `None` where the link has no
    /// IPv6: the kernel has none, or `mtu` is less than 1280.
    pub mtu_v6: Option<u32>,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// Up and with a carrier (`IFF_RUNNING`).
    pub running: bool,
    /// `veth`, `vxlan`, `tun`, `dummy`, …; `None` for hardware and `lo`.
    pub kind: Option<String>,
    /// What it stands on (`IFLA_LINK`): a veth's other end, by its index in the namespace where that is.
    pub link: Option<LinkIndex>,
    /// A remark (`IFLA_IFALIAS`).
    pub alias: Option<String>,
}

/// One change of a link; a request carries several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkChange {
    /// Administratively up.
    Up,
    /// Administratively down.
    Down,
    /// Ethernet address.
    Mac(MacAddr),
    /// IP MTU, bytes.
    Mtu(u32),
    /// New name. The link must be down on kernels before 6.2.
    Name(String),
    /// No ARP on this link (`IFF_NOARP`).
    NoArp,
    /// ARP on this link, undoing [`LinkChange::NoArp`].
    Arp,
    /// Packets that the device's queue holds.
    TxQueueLen(u32),
    /// Largest super-frame that the stack gives to the device, bytes.
    GsoMaxSize(u32),
    /// No IPv6 link-local address by itself (`addr_gen_mode none`), so no router solicitations either.
    /// Refused where the kernel has no IPv6.
    NoLinkLocal,
    /// An IPv6 link-local address by itself, made from the Ethernet address when the link comes up (`addr_gen_mode eui64`).
    /// Refused where the kernel has no IPv6.
    LinkLocal,
    /// Remark, up to 255 bytes; none when empty.
    Alias(String),
}

/// One end of a veth pair.
#[derive(Debug, Clone)]
pub struct VethEnd<'a> {
    /// Name, up to 15 characters.
    pub name: &'a str,
    /// Ethernet address; random when absent.
    pub mac: Option<MacAddr>,
    /// IP MTU, bytes; 1500 when absent.
    pub mtu: Option<u32>,
    /// Namespace it is made in; the client's own when absent.
    pub netns: Option<BorrowedFd<'a>>,
}

/// A VXLAN device as Felix makes `vxlan.calico`: `nolearning`, outer UDP checksums computed.
#[derive(Debug, Clone)]
pub struct Vxlan<'a> {
    /// Name, up to 15 characters.
    pub name: &'a str,
    /// VNI, 24 bits.
    pub vni: u32,
    /// UDP port, 4789.
    pub port: u16,
    /// Outer source address.
    pub local: IpAddr,
    /// Underlay link.
    pub dev: LinkIndex,
    /// Ethernet address of the VTEP.
    pub mac: MacAddr,
    /// IP MTU, bytes.
    pub mtu: u32,
}

impl Netlink {
    /// All links of the namespace.
    ///
    /// # Errors
    /// What the kernel answers; needs no privilege.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let answers = self
            .dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))
            .map_err(|cause| cause.during("list links"))?;
        Ok(answers.into_iter().filter_map(link_of).collect())
    }

    /// One link.
    ///
    /// # Errors
    /// [`super::ErrorKind::NoDevice`] where there is none.
    pub fn link<'a>(&mut self, id: impl Into<LinkId<'a>>) -> Result<Link> {
        let id = id.into();
        self.find_link(id).map_err(|cause| cause.during(format!("find link {id}")))
    }

    pub(super) fn find_link(&mut self, id: LinkId<'_>) -> Result<Link, Cause> {
        let mut message = LinkMessage::default();
        match id {
            LinkId::Name(name) => message.attributes.push(LinkAttribute::IfName(name.into())),
            LinkId::Index(LinkIndex(index)) => message.header.index = index,
        }
        let answers = self.get(RouteNetlinkMessage::GetLink(message))?;
        answers.into_iter().find_map(link_of).ok_or_else(Cause::no_device)
    }

    /// The link's name, or `#index` where it is gone: for messages.
    pub(super) fn name_of(&mut self, index: LinkIndex) -> String {
        self.find_link(index.into()).map_or_else(|_| LinkId::Index(index).to_string(), |link| link.name)
    }

    fn index_of(&mut self, id: LinkId<'_>) -> Result<LinkIndex, Cause> {
        match id {
            LinkId::Index(index) => Ok(index),
            LinkId::Name(_) => Ok(self.find_link(id)?.index),
        }
    }

    /// Changes a link, all in one request.
    ///
    /// # Errors
    /// [`super::ErrorKind::NoDevice`]; [`super::ErrorKind::Unsupported`] for what this kernel or device does not know.
    pub fn set_link<'a>(&mut self, id: impl Into<LinkId<'a>>, changes: &[LinkChange]) -> Result<()> {
        let id = id.into();
        let mut message = LinkMessage::default();
        for change in changes {
            apply(&mut message, change);
        }
        self.index_of(id)
            .and_then(|LinkIndex(index)| {
                message.header.index = index;
                self.change(RouteNetlinkMessage::SetLink(message), 0)
            })
            .map_err(|cause| cause.during(format!("set link {id} {changes:?}")))
    }

    /// Moves a link to another namespace. It is down afterwards and without addresses.
    ///
    /// # Errors
    /// [`super::ErrorKind::NoDevice`]; [`super::ErrorKind::Exists`] where the name is taken there.
    pub fn move_link<'a>(&mut self, id: impl Into<LinkId<'a>>, netns: BorrowedFd<'_>) -> Result<()> {
        let id = id.into();
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::NetNsFd(netns.as_raw_fd()));
        self.index_of(id)
            .and_then(|LinkIndex(index)| {
                message.header.index = index;
                self.change(RouteNetlinkMessage::SetLink(message), 0)
            })
            .map_err(|cause| cause.during(format!("move link {id} to another network namespace")))
    }

    /// Deletes a link.
    ///
    /// # Errors
    /// [`super::ErrorKind::NoDevice`]; [`super::ErrorKind::Unsupported`] for hardware and `lo`.
    pub fn delete_link<'a>(&mut self, id: impl Into<LinkId<'a>>) -> Result<()> {
        let id = id.into();
        self.index_of(id)
            .and_then(|LinkIndex(index)| {
                let mut message = LinkMessage::default();
                message.header.index = index;
                self.change(RouteNetlinkMessage::DelLink(message), 0)
            })
            .map_err(|cause| cause.during(format!("delete link {id}")))
    }

    /// Makes a veth pair, each end where it belongs from the start; both ends are down.
    ///
    /// # Errors
    /// [`super::ErrorKind::Exists`] where one of the names is taken; [`super::ErrorKind::Unsupported`] without veth.
    pub fn add_veth(&mut self, end: &VethEnd<'_>, peer: &VethEnd<'_>) -> Result<()> {
        let mut message = end.message();
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer.message()))),
        ]));
        self.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
            .map_err(|cause| cause.during(format!("add veth pair {} and {}", end.name, peer.name)))
    }

    /// Makes an IPIP device without addresses; it is down.
    ///
    /// # Errors
    /// [`super::ErrorKind::Unsupported`] without the kernel's ipip module.
    pub fn add_ipip(&mut self, name: &str) -> Result<()> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::IpIp)]));
        self.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
            .map_err(|cause| cause.during(format!("add ipip {name}")))
    }

    /// Makes a VXLAN device; it is down.
    ///
    /// # Errors
    /// [`super::ErrorKind::Exists`]: the name, or the VNI and port, are taken; [`super::ErrorKind::Unsupported`] without
    /// the kernel's vxlan module.
    pub fn add_vxlan(&mut self, vxlan: &Vxlan<'_>) -> Result<()> {
        let data = vec![
            InfoVxlan::Id(vxlan.vni),
            match vxlan.local {
                IpAddr::V4(local) => InfoVxlan::Local(local),
                IpAddr::V6(local) => InfoVxlan::Local6(local),
            },
            InfoVxlan::Link(vxlan.dev.0),
            InfoVxlan::Port(vxlan.port),
            InfoVxlan::Learning(false),
            InfoVxlan::UDPCsum(true),
        ];
        let end = VethEnd { name: vxlan.name, mac: Some(vxlan.mac), mtu: Some(vxlan.mtu), netns: None };
        let mut message = end.message();
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vxlan),
            LinkInfo::Data(InfoData::Vxlan(data)),
        ]));
        self.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL).map_err(|cause| {
            cause.during(format!("add vxlan {} vni {} port {}", vxlan.name, vxlan.vni, vxlan.port))
        })
    }
}

impl VethEnd<'_> {
    fn message(&self) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(self.name.into()));
        if let Some(MacAddr(octets)) = self.mac {
            message.attributes.push(LinkAttribute::Address(octets.to_vec()));
        }
        if let Some(mtu) = self.mtu {
            message.attributes.push(LinkAttribute::Mtu(mtu));
        }
        if let Some(netns) = self.netns {
            message.attributes.push(LinkAttribute::NetNsFd(netns.as_raw_fd()));
        }
        message
    }
}

fn apply(message: &mut LinkMessage, change: &LinkChange) {
    let mut flag = |flag: LinkFlags, set: bool| {
        message.header.flags.set(flag, set);
        message.header.change_mask |= flag;
    };
    let attribute = match change {
        LinkChange::Up => return flag(LinkFlags::Up, true),
        LinkChange::Down => return flag(LinkFlags::Up, false),
        LinkChange::NoArp => return flag(LinkFlags::Noarp, true),
        LinkChange::Arp => return flag(LinkFlags::Noarp, false),
        LinkChange::Mac(MacAddr(octets)) => LinkAttribute::Address(octets.to_vec()),
        LinkChange::Mtu(mtu) => LinkAttribute::Mtu(*mtu),
        LinkChange::Name(name) => LinkAttribute::IfName(name.clone()),
        LinkChange::TxQueueLen(packets) => LinkAttribute::TxQueueLen(*packets),
        LinkChange::GsoMaxSize(bytes) => LinkAttribute::GsoMaxSize(*bytes),
        LinkChange::Alias(alias) => LinkAttribute::IfAlias(alias.clone()),
        LinkChange::NoLinkLocal => addresses_by(In6AddrGenMode::None),
        LinkChange::LinkLocal => addresses_by(In6AddrGenMode::Eui64),
    };
    message.attributes.push(attribute);
}

fn addresses_by(mode: In6AddrGenMode) -> LinkAttribute {
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)])])
}

pub(super) fn link_of(answer: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = answer else { return None };
    let mut link = Link {
        index: LinkIndex(message.header.index),
        name: String::new(),
        mac: None,
        is_ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        mtu: 0,
        mtu_v6: None,
        up: message.header.flags.contains(LinkFlags::Up),
        running: message.header.flags.contains(LinkFlags::Running),
        kind: None,
        link: None,
        alias: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(octets) => link.mac = octets.try_into().ok().map(MacAddr),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::AfSpecUnspec(families) => link.mtu_v6 = families.iter().find_map(mtu_v6_of),
            LinkAttribute::Link(index) => link.link = Some(LinkIndex(index)),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(link)
}

fn mtu_v6_of(family: &AfSpecUnspec) -> Option<u32> {
    let AfSpecUnspec::Inet6(attributes) = family else { return None };
    attributes.iter().find_map(|attribute| match attribute {
        AfSpecInet6::DevConf(settings) => u32::try_from(settings.mtu6).ok(),
        _ => None,
    })
}
