//! A pod: a namespace, and for `veth` the cabling that Calico's CNI plugin would do.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use sha1::{Digest, Sha1};

use super::{BedError, Node};
use crate::lpm::Prefix;
use crate::rib::Attach;
use crate::sys::netlink::{LinkChange, Neighbour, Netlink, Route, Scope, VethEnd};
use crate::sys::netns::Netns;
use crate::wire::{Family, MacAddr};

/// The gateway that every pod has (Calico's `169.254.1.1`, and the link-local address of ee:ee:ee:ee:ee:ee).
pub fn gateway_address(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(169, 254, 1, 1).into(),
        Family::V6 => MacAddr::GATEWAY.link_local().into(),
    }
}

/// A pod of a lab.
#[derive(Debug)]
pub struct Pod {
    /// Name; its Kubernetes namespace is `default`.
    pub name: String,
    /// Its network namespace.
    pub netns: Netns,
    /// Its address; IPv4's if it has both.
    pub address: IpAddr,
    /// Its address of IPv6.
    pub address_v6: Option<IpAddr>,
    /// The address of its `eth0`.
    pub mac: MacAddr,
    /// IP MTU of its `eth0`, bytes.
    pub mtu: u32,
    /// How it is attached.
    pub attach: Attach,
    /// Name of the host end of its veth, by Calico's rule.
    pub host_interface: String,
}

impl Pod {
    /// An empty namespace; with [`Attach::Veth`] also the veth pair, the pod's end configured, the host's end
    /// in the node's namespace.
    pub(super) fn create(
        name: String,
        addresses: Vec<IpAddr>,
        attach: Attach,
        mtu: u32,
        node: &Netns,
    ) -> Result<Self, BedError> {
        let Some(address) = addresses.first().copied() else {
            return Err(BedError::Spec(format!("{name} without an address")));
        };
        let digest = Sha1::digest(&name);
        let pod = Self {
            netns: Netns::create()?,
            address,
            address_v6: addresses.into_iter().find(IpAddr::is_ipv6),
            // Locally administered, the rest from the name: the same in every run.
            mac: MacAddr([0x02, digest[0], digest[1], digest[2], digest[3], digest[4]]),
            mtu,
            attach,
            host_interface: host_interface("default", &name),
            name,
        };
        if attach == Attach::Veth {
            pod.cable(node)?;
        }
        Ok(pod)
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        Family::ALL.into_iter().filter_map(|family| self.address_of(family))
    }

    /// Its address of a family.
    pub fn address_of(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => Some(self.address).filter(IpAddr::is_ipv4),
            Family::V6 => self.address_v6,
        }
    }

    /// What the CNI plugin does: pair, addresses, `169.254.1.1 dev eth0 scope link`, default routes by the gateways.
    fn cable(&self, node: &Netns) -> Result<(), BedError> {
        let mut inside = self.netns.netlink()?;
        inside.add_veth(
            &VethEnd { name: "eth0", mac: Some(self.mac), mtu: Some(self.mtu), netns: None },
            &VethEnd {
                name: &self.host_interface,
                mac: Some(MacAddr::GATEWAY),
                mtu: Some(self.mtu),
                netns: Some(node.as_fd()),
            },
        )?;
        quiet(&mut inside, "eth0");
        let mut outside = node.netlink()?;
        quiet(&mut outside, &self.host_interface);
        outside.set_link(self.host_interface.as_str(), &[LinkChange::Up])?;
        inside.set_link("eth0", &[LinkChange::Up])?;
        let dev = inside.link("eth0")?.index;
        for family in Family::ALL {
            let Some(address) = self.address_of(family) else { continue };
            inside.add_address(dev, Prefix::from(address))?;
            let via = gateway_address(family);
            if family == Family::V4 {
                let on_link = Route { dev: Some(dev), scope: Scope::Link, ..Route::to(Prefix::from(via)) };
                inside.add_route(&on_link)?;
            } else {
                // What the kernel does by itself, without its second of looking for duplicates.
                inside.add_address(dev, link_local(self.mac))?;
                let end = outside.link(self.host_interface.as_str())?.index;
                outside.add_address(end, link_local(MacAddr::GATEWAY))?;
            }
            inside.add_route(&Route { via: Some(via), dev: Some(dev), ..Route::default_of(family) })?;
        }
        Ok(())
    }

    /// Waits until `eth0` is there with its addresses and the default routes: a TAP is made by the daemon.
    ///
    /// # Errors
    /// It is not, after `patience`.
    pub fn wait(&self, patience: Duration) -> Result<(), BedError> {
        let deadline = Instant::now() + patience;
        let mut netlink = self.netns.netlink()?;
        while !self.configured(&mut netlink) {
            if Instant::now() > deadline {
                return Err(BedError::Io {
                    operation: format!(
                        "gave {} no eth0 with {:?} and default routes",
                        self.name,
                        self.addresses().collect::<Vec<_>>()
                    ),
                    source: std::io::ErrorKind::TimedOut.into(),
                });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn configured(&self, netlink: &mut Netlink) -> bool {
        let Ok(link) = netlink.link("eth0") else { return false };
        let all = netlink.addresses().unwrap_or_default();
        let has =
            |wanted: IpAddr| all.iter().any(|(dev, address)| *dev == link.index && address.addr() == wanted);
        let mut leads = |address: IpAddr| {
            let family = Family::of(address);
            netlink.routes(family).is_ok_and(|all| {
                all.iter()
                    .any(|route| route.dst.prefix_len() == 0 && route.via == Some(gateway_address(family)))
            })
        };
        link.running && self.addresses().all(|address| has(address) && leads(address))
    }

    /// What the pod knows about its gateway of a family; `None` before its first packet.
    ///
    /// # Errors
    /// It has no `eth0`.
    pub fn gateway(&self, family: Family) -> Result<Option<Neighbour>, BedError> {
        let mut netlink = self.netns.netlink()?;
        let dev = netlink.link("eth0")?.index;
        Ok(netlink.neighbour(dev, gateway_address(family))?)
    }

    /// Forgets what the pod knows about its gateways, so that it asks once more.
    ///
    /// # Errors
    /// It has no `eth0`.
    pub fn forget_gateway(&self) -> Result<(), BedError> {
        let mut netlink = self.netns.netlink()?;
        let dev = netlink.link("eth0")?.index;
        for family in Family::ALL {
            // Nothing known is what we wanted.
            let _ = netlink.delete_neighbour(dev, gateway_address(family));
        }
        Ok(())
    }

    /// Name of its WorkloadEndpoint, by Calico's rule.
    pub fn resource_name(&self, node: &Node) -> String {
        let dashed = |text: &str| text.replace('-', "--");
        format!("{}-k8s-{}-eth0", dashed(&node.name), dashed(&self.name))
    }
}

/// The address that the kernel makes by itself, which then waits for a second.
pub(super) fn link_local(mac: MacAddr) -> Prefix {
    Prefix::new_assert(mac.link_local().into(), 64)
}

/// Calico's rule for the host end: `cali` and the first 11 hexadecimal digits of sha1 of `namespace.pod`.
fn host_interface(namespace: &str, pod: &str) -> String {
    use std::fmt::Write;
    let mut name = String::from("cali");
    for octet in Sha1::digest(format!("{namespace}.{pod}")) {
        let _ = write!(name, "{octet:02x}");
    }
    name.truncate(15);
    name
}

/// No IPv6 of the kernel's own making on a link, where it has IPv6 at all.
pub(super) fn quiet(netlink: &mut Netlink, link: &str) {
    let _ = netlink.set_link(link, &[LinkChange::NoLinkLocal]);
}

#[cfg(test)]
mod tests {
    use super::host_interface;

    #[test]
    fn host_ends_are_named_as_calico_names_them() {
        // The first two stand in Calico's own tests.
        assert_eq!(host_interface("default", "podA"), "cali7f94ce7c295");
        assert_eq!(host_interface("testNamespace", "simplePod"), "caliedff4356bd6");
        assert_eq!(host_interface("kube-system", "coredns-0"), "cali8c346e38bf4");
    }
}
