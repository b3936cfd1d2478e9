//! Two nodes with pods, cabled.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::pod::{link_local, quiet};
use super::{BedError, Daemon, Pod, Workdir, kernel, resources};
use crate::lpm::Prefix;
use crate::rib::Attach;
use crate::sys::netlink::{LinkChange, Netlink, Route, VethEnd};
use crate::sys::netns::Netns;
use crate::sys::sysctl;
use crate::wire::Family;

/// How long a daemon may take to say that it is ready, and a pod to get its interface.
const PATIENCE: Duration = Duration::from_secs(10);

/// Encapsulation of the lab's pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `ipipMode: Always`.
    Ipip,
    /// `vxlanMode: Always`.
    Vxlan,
    /// Both `Never`.
    None,
    /// `ipipMode: CrossSubnet`.
    IpipCrossSubnet,
    /// `vxlanMode: CrossSubnet`.
    VxlanCrossSubnet,
}

impl Mode {
    /// Bytes that the outer headers take (Calico's overheads).
    pub fn overhead(self) -> u32 {
        match self {
            Self::Ipip | Self::IpipCrossSubnet => 20,
            Self::Vxlan | Self::VxlanCrossSubnet => 50,
            Self::None => 0,
        }
    }
}

/// Which versions of IP something has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stack {
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
    /// Both.
    Dual,
}

impl Stack {
    /// Whether it has this one.
    pub fn has(self, family: Family) -> bool {
        match self {
            Stack::V4 => family == Family::V4,
            Stack::V6 => family == Family::V6,
            Stack::Dual => true,
        }
    }

    /// Those that it has, IPv4 first.
    pub fn families(self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(move |family| self.has(*family))
    }
}

/// What lies between the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// One subnet, one cable.
    SameSubnet,
    /// Two subnets and a router, which knows the pods' blocks where nothing is encapsulated.
    Routed,
}

/// Who moves a node's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// A margay daemon.
    Margay,
    /// The kernel, set up as Felix does it: `vxlan.calico`, or plain routes without encapsulation. Its pods
    /// are attached by veth.
    Kernel,
}

/// What lab to build.
#[derive(Debug, Clone)]
pub struct LabSpec {
    /// Encapsulation.
    pub mode: Mode,
    /// What lies between the nodes.
    pub topology: Topology,
    /// Who moves the packets of node-a and of node-b.
    pub kinds: [NodeKind; 2],
    /// How margay's pods are attached.
    pub attach: Attach,
    /// 1 to 60.
    pub pods_per_node: u8,
    /// IP MTU of the underlay, 576 to 65535 bytes.
    pub underlay_mtu: u32,
    /// The nodes' addresses.
    pub underlay: Stack,
    /// The pods' addresses; an IPv6 pool has no IPIP, and no encapsulation where IPv4's is IPIP.
    pub pods: Stack,
}

impl LabSpec {
    /// Two margay nodes on one subnet with two pods each, on TAPs; underlay MTU 1500.
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            topology: Topology::SameSubnet,
            kinds: [NodeKind::Margay; 2],
            attach: Attach::Tap,
            pods_per_node: 2,
            underlay_mtu: 1500,
            underlay: Stack::V4,
            pods: Stack::V4,
        }
    }

    /// Two margay nodes as [`LabSpec::new`] makes them, which and whose pods have both families.
    pub fn dual(mode: Mode) -> Self {
        Self { underlay: Stack::Dual, pods: Stack::Dual, ..Self::new(mode) }
    }

    /// IP MTU of the pods, bytes: the underlay's without the outer headers.
    pub fn pod_mtu(&self) -> u32 {
        let overhead = |family| self.mode_of(family).overhead() + self.longer_header(family);
        self.underlay_mtu.saturating_sub(self.pods.families().map(overhead).max().unwrap_or(0))
    }

    /// How packets of a family travel.
    pub(super) fn mode_of(&self, family: Family) -> Mode {
        match self.mode {
            Mode::Ipip | Mode::IpipCrossSubnet if family == Family::V6 => Mode::None,
            mode => mode,
        }
    }

    /// VXLAN goes over the family of its packets where the nodes have that, else over the other one; IPv6 takes 20 bytes
    /// more.
    fn longer_header(&self, family: Family) -> u32 {
        let by_v6 = self.underlay.has(Family::V6) && (family == Family::V6 || !self.underlay.has(Family::V4));
        let is_vxlan = matches!(self.mode, Mode::Vxlan | Mode::VxlanCrossSubnet);
        if by_v6 && is_vxlan { 20 } else { 0 }
    }

    fn check(&self) -> Result<(), BedError> {
        let refuse = |what: String| Err(BedError::Spec(what));
        if !(1..=60).contains(&self.pods_per_node) {
            return refuse(format!("{} pods on a node: 1 to 60", self.pods_per_node));
        }
        if !(576..=65535).contains(&self.underlay_mtu) {
            return refuse(format!("underlay MTU {}: 576 to 65535 bytes", self.underlay_mtu));
        }
        let has_kernel = self.kinds.contains(&NodeKind::Kernel);
        if has_kernel && self.mode.overhead() == 20 {
            return refuse("kernel nodes have no IPIP: the module is seldom there".into());
        }
        for family in self.pods.families().filter(|family| !self.underlay.has(*family)) {
            let is_vxlan = matches!(self.mode, Mode::Vxlan | Mode::VxlanCrossSubnet);
            if has_kernel || !is_vxlan {
                return refuse(format!("pods of {family} and nodes without: VXLAN between margays alone"));
            }
        }
        Ok(())
    }
}

/// A node of a lab.
#[derive(Debug)]
pub struct Node {
    /// First of the fields, so that it ends before its namespace loses its handle.
    daemon: Option<Daemon>,
    /// `node-a` or `node-b`.
    pub name: String,
    /// Who moves its packets.
    pub kind: NodeKind,
    /// Its network namespace.
    pub netns: Netns,
    /// Its underlay address with the subnet's length; IPv4 if it has both.
    pub underlay: Prefix,
    /// That of IPv6.
    pub underlay_v6: Option<Prefix>,
    /// Its block of the pool; IPv4's if there are two.
    pub block: Prefix,
    /// That of the IPv6 pool.
    pub block_v6: Option<Prefix>,
    /// Its tunnel address, of the block.
    pub tunnel_address: IpAddr,
    /// That of the IPv6 block.
    pub tunnel_address_v6: Option<IpAddr>,
    /// Its pods.
    pub pods: Vec<Pod>,
    /// The suffix of the next pod's address and name.
    next_pod: u8,
}

impl Node {
    /// Its daemon, once started.
    pub fn daemon(&mut self) -> Option<&mut Daemon> {
        self.daemon.as_mut()
    }

    /// Where its daemon is asked, once started.
    pub fn control_socket(&self) -> Option<PathBuf> {
        self.daemon.as_ref().map(Daemon::control_socket)
    }

    /// Its underlay address; IPv4 if it has both.
    pub fn address(&self) -> IpAddr {
        self.underlay.addr()
    }

    /// Its underlay address of a family, with the subnet's length.
    pub fn underlay_of(&self, family: Family) -> Option<Prefix> {
        of_family(family, self.underlay, self.underlay_v6, |underlay| underlay.addr())
    }

    /// Its block of a family's pool.
    pub fn block_of(&self, family: Family) -> Option<Prefix> {
        of_family(family, self.block, self.block_v6, |block| block.addr())
    }

    /// Its tunnel address of a family's block.
    pub fn tunnel_address_of(&self, family: Family) -> Option<IpAddr> {
        of_family(family, self.tunnel_address, self.tunnel_address_v6, |address| *address)
    }

    fn add_pod(&mut self, spec: &LabSpec) -> Result<&Pod, BedError> {
        let number = self.next_pod;
        self.next_pod += 1;
        // The block's first address but one is the node's tunnel address.
        let blocks = Family::ALL.into_iter().filter_map(|family| self.block_of(family));
        let addresses = blocks.map(|block| nth(block, 1 + number)).collect();
        let letter = self.name.trim_start_matches("node-");
        let attach = match self.kind {
            NodeKind::Margay => spec.attach,
            NodeKind::Kernel => Attach::Veth,
        };
        let name = format!("pod-{letter}{number}");
        let pod = Pod::create(name, addresses, attach, spec.pod_mtu(), &self.netns)?;
        if self.kind == NodeKind::Kernel {
            kernel::adopt(self, &pod)?;
        }
        self.pods.push(pod);
        Ok(&self.pods[self.pods.len() - 1])
    }
}

/// Two nodes with their pods, and the files that describe them.
///
/// The daemons are killed when the thread that called [`Lab::start`] ends.
#[derive(Debug)]
pub struct Lab {
    /// What was asked for.
    pub spec: LabSpec,
    /// node-a and node-b. First of the fields that hold something, so that daemons end before their files go.
    pub nodes: [Node; 2],
    /// The resource files.
    pub resources: Workdir,
    /// The router of [`Topology::Routed`].
    pub router: Option<Netns>,
}

impl Lab {
    /// The only IPPool of a family in every lab: 10.65.0.0/16 and fd10:65::/64.
    pub fn pool(family: Family) -> Prefix {
        match family {
            Family::V4 => prefix([10, 65, 0, 0], 16),
            Family::V6 => prefix([0xfd10, 0x65, 0, 0, 0, 0, 0, 0], 64),
        }
    }

    /// Builds namespaces, cables, pods, kernel nodes and files; daemons wait for [`Lab::start`].
    ///
    /// # Errors
    /// A privilege or kernel facility is missing, or the lab makes no sense.
    pub fn new(spec: LabSpec) -> Result<Self, BedError> {
        spec.check()?;
        let other_subnet = if spec.topology == Topology::Routed { 78 } else { 77 };
        let node = |name: &str, kind, subnet, host, block: u8| -> Result<Node, BedError> {
            let (underlay, underlay_v6) = both(spec.underlay, |family| host_of(family, subnet, host));
            let (block, block_v6) = both(spec.pods, |family| match family {
                Family::V4 => prefix([10, 65, 0, block], 26),
                Family::V6 => prefix([0xfd10, 0x65, 0, 0, 0, 0, 0, block.into()], 122),
            });
            Ok(Node {
                name: name.into(),
                kind,
                netns: Netns::create()?,
                underlay,
                underlay_v6,
                block,
                block_v6,
                tunnel_address: nth(block, 1),
                tunnel_address_v6: block_v6.map(|block| nth(block, 1)),
                pods: Vec::new(),
                daemon: None,
                next_pod: 1,
            })
        };
        let nodes =
            [node("node-a", spec.kinds[0], 77, 1, 0)?, node("node-b", spec.kinds[1], other_subnet, 2, 64)?];
        let mut lab = Self { spec, nodes, resources: Workdir::new()?, router: None };
        lab.cable()?;
        let [a, b] = &mut lab.nodes;
        kernel::set_up(a, b, &lab.spec)?;
        kernel::set_up(b, a, &lab.spec)?;
        for node in &mut lab.nodes {
            for _ in 0..lab.spec.pods_per_node {
                node.add_pod(&lab.spec)?;
            }
        }
        resources::write(&lab)?;
        Ok(lab)
    }

    /// The underlay: eth0 of both nodes, and the router.
    fn cable(&mut self) -> Result<(), BedError> {
        let [a, b] = &self.nodes;
        let mtu = Some(self.spec.underlay_mtu);
        match self.spec.topology {
            Topology::SameSubnet => {
                let addresses = |node: &Node| {
                    self.spec.underlay.families().filter_map(|family| node.underlay_of(family)).collect()
                };
                join((&a.netns, "eth0", addresses(a)), (&b.netns, "eth0", addresses(b)), mtu)?;
            }
            Topology::Routed => {
                let router = Netns::create()?;
                let families: Vec<Family> = self.spec.underlay.families().collect();
                let mut netlink = router.netlink()?;
                for (node, port, subnet) in [(a, "a", 77), (b, "b", 78)] {
                    let gateways = families.iter().map(|family| host_of(*family, subnet, 254)).collect();
                    let addresses = families.iter().filter_map(|family| node.underlay_of(*family)).collect();
                    join((&node.netns, "eth0", addresses), (&router, port, gateways), mtu)?;
                    for family in &families {
                        forward(&router, *family)?;
                        let via = Some(host_of(*family, subnet, 254).addr());
                        node.netns.netlink()?.add_route(&Route { via, ..Route::default_of(*family) })?;
                        let via = node.underlay_of(*family).map(|underlay| underlay.addr());
                        let is_plain = self.spec.mode_of(*family) == Mode::None;
                        if let Some(block) = node.block_of(*family).filter(|_| is_plain) {
                            netlink.add_route(&Route { via, ..Route::to(block) })?;
                        }
                    }
                }
                self.router = Some(router);
            }
        }
        Ok(())
    }

    /// Starts the daemons, `BINARY run --node NAME --resources DIR` and `arguments`, and waits until they are
    /// ready and every pod has its interface.
    ///
    /// # Errors
    /// One did not come up in ten seconds, or ended; with all that it printed.
    pub fn start(&mut self, binary: &Path, arguments: &[&str]) -> Result<(), BedError> {
        let margays = (0..2).filter(|node| self.nodes[*node].kind == NodeKind::Margay);
        for node in margays.collect::<Vec<_>>() {
            let daemon = self.launch(node, binary, arguments)?;
            self.nodes[node].daemon = Some(daemon);
        }
        for node in &mut self.nodes {
            if let Some(daemon) = &mut node.daemon {
                daemon.wait_ready(PATIENCE)?;
            }
            for pod in &node.pods {
                pod.wait(PATIENCE).map_err(|missing| match &node.daemon {
                    Some(daemon) => daemon.failed(format!("is up, but {missing}")),
                    None => missing,
                })?;
            }
        }
        Ok(())
    }

    /// Starts a node's daemon in the place of one that has ended, which is handed back, and waits until it is ready.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart(
        &mut self,
        node: usize,
        binary: &Path,
        arguments: &[&str],
    ) -> Result<Option<Daemon>, BedError> {
        let mut daemon = self.launch(node, binary, arguments)?;
        daemon.wait_ready(PATIENCE)?;
        Ok(self.nodes[node].daemon.replace(daemon))
    }

    /// Starts a daemon that takes over from the node's, which is handed back, and waits until it is ready.
    ///
    /// # Errors
    /// As [`Self::start`]; the node has none; then it keeps the one that it has.
    pub fn take_over(
        &mut self,
        node: usize,
        binary: &Path,
        arguments: &[&str],
    ) -> Result<Option<Daemon>, BedError> {
        let files = self.resources.path();
        let node = &mut self.nodes[node];
        let Some(before) = &node.daemon else {
            return Err(BedError::Spec(format!("{} has no daemon", node.name)));
        };
        let mut daemon = before.succeed(binary, &node.netns, files, arguments)?;
        daemon.wait_ready(PATIENCE)?;
        Ok(node.daemon.replace(daemon))
    }

    /// A daemon for a node, beside the one that it may have.
    ///
    /// # Errors
    /// The program cannot be run.
    pub fn launch(&self, node: usize, binary: &Path, arguments: &[&str]) -> Result<Daemon, BedError> {
        let node = &self.nodes[node];
        Daemon::start(binary, &node.name, &node.netns, self.resources.path(), arguments)
    }

    /// Stops the daemons in the orderly way.
    ///
    /// # Errors
    /// One ended with a failure, or had to be killed; with all that it printed.
    pub fn stop(&mut self) -> Result<(), BedError> {
        for node in &mut self.nodes {
            if let Some(daemon) = node.daemon.take() {
                daemon.stop()?;
            }
        }
        Ok(())
    }

    /// One more pod on a node, while everything runs. Give it time with [`Pod::wait`].
    ///
    /// # Errors
    /// As [`Lab::new`].
    pub fn add_pod(&mut self, node: usize) -> Result<&Pod, BedError> {
        self.nodes[node].add_pod(&self.spec)?;
        let node = &self.nodes[node];
        let pod = &node.pods[node.pods.len() - 1];
        resources::write_pod(self, node, pod)?;
        Ok(pod)
    }

    /// Takes a pod from a node: its file first, so that the daemon lets go of it, and hands back what is left.
    ///
    /// # Errors
    /// Its file cannot be removed.
    pub fn remove_pod(&mut self, node: usize, pod: usize) -> Result<Pod, BedError> {
        let pod = self.nodes[node].pods.remove(pod);
        self.resources.remove(&resources::pod_file(&pod))?;
        Ok(pod)
    }
}

/// A veth between two namespaces with addresses at each end, up.
fn join(
    near: (&Netns, &str, Vec<Prefix>),
    far: (&Netns, &str, Vec<Prefix>),
    mtu: Option<u32>,
) -> Result<(), BedError> {
    let mut at_near = near.0.netlink()?;
    let mut at_far = far.0.netlink()?;
    at_near.add_veth(
        &VethEnd { name: near.1, mac: None, mtu, netns: None },
        &VethEnd { name: far.1, mac: None, mtu, netns: Some(far.0.as_fd()) },
    )?;
    let up = |netlink: &mut Netlink, name: &str, addresses: Vec<Prefix>| -> Result<(), BedError> {
        quiet(netlink, name);
        netlink.set_link(name, &[LinkChange::Up])?;
        let link = netlink.link(name)?;
        // A router asks for its neighbours from its link-local address (RFC 4861 7.2.2).
        let has_v6 = addresses.iter().any(|address| address.addr().is_ipv6());
        let link_local = link.mac.filter(|_| has_v6).map(link_local);
        let mut addresses = addresses.into_iter().chain(link_local);
        Ok(addresses.try_for_each(|address| netlink.add_address(link.index, address))?)
    };
    up(&mut at_near, near.1, near.2)?;
    up(&mut at_far, far.1, far.2)
}

/// What there is of a family: IPv4's is the first, if there is one.
fn of_family<T: Copy>(family: Family, first: T, v6: Option<T>, address: impl Fn(&T) -> IpAddr) -> Option<T> {
    match family {
        Family::V4 => Some(first).filter(|first| address(first).is_ipv4()),
        Family::V6 => v6,
    }
}

/// The first, and IPv6's.
fn both<T>(stack: Stack, of: impl Fn(Family) -> T) -> (T, Option<T>) {
    let first = if stack.has(Family::V4) { Family::V4 } else { Family::V6 };
    (of(first), stack.has(Family::V6).then(|| of(Family::V6)))
}

/// A host of a subnet of the underlay: 192.168.77.2/24, fd77::2/64.
fn host_of(family: Family, subnet: u8, host: u8) -> Prefix {
    match family {
        Family::V4 => prefix([192, 168, subnet, host], 24),
        Family::V6 => {
            // The same digits: 77 is 0x77.
            let subnet = 0xfd00 + u16::from(subnet / 10 * 16 + subnet % 10);
            prefix([subnet, 0, 0, 0, 0, 0, 0, host.into()], 64)
        }
    }
}

/// The address `number` of a block.
fn nth(block: Prefix, number: u8) -> IpAddr {
    match block.network() {
        IpAddr::V4(base) => Ipv4Addr::from_bits(base.to_bits() + u32::from(number)).into(),
        IpAddr::V6(base) => Ipv6Addr::from_bits(base.to_bits() + u128::from(number)).into(),
    }
}

fn prefix(address: impl Into<IpAddr>, length: u8) -> Prefix {
    Prefix::new_assert(address.into(), length)
}

/// Has a namespace forward packets of a family.
pub(super) fn forward(netns: &Netns, family: Family) -> Result<(), BedError> {
    match family {
        Family::V4 => write_sysctl(netns, "net/ipv4/ip_forward", "1"),
        Family::V6 => write_sysctl(netns, "net/ipv6/conf/all/forwarding", "1"),
    }
}

/// Sets a sysctl of a namespace.
pub(super) fn write_sysctl(netns: &Netns, name: &str, value: &str) -> Result<(), BedError> {
    netns.run(|| sysctl::write(name, value))?.map_err(BedError::io(format!("set {name} to {value}")))
}
