//! Two nodes with pods, cabled.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::Ipv4Net;

use super::pod::quiet;
use super::{BedError, Daemon, Pod, Workdir, kernel, resources};
use crate::lpm::Prefix;
use crate::rib::Attach;
use crate::sys::netlink::{Family, LinkChange, Netlink, Route, VethEnd};
use crate::sys::netns::Netns;

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
        }
    }

    /// IP MTU of the pods, bytes: the underlay's without the outer headers.
    pub fn pod_mtu(&self) -> u32 {
        self.underlay_mtu.saturating_sub(self.mode.overhead())
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
    /// Its underlay address with the subnet's length.
    pub underlay: Prefix,
    /// Its block of the pool.
    pub block: Prefix,
    /// Its tunnel address, of the block.
    pub tunnel_address: IpAddr,
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

    /// Its underlay address.
    pub fn address(&self) -> IpAddr {
        self.underlay.addr()
    }

    fn add_pod(&mut self, spec: &LabSpec) -> Result<&Pod, BedError> {
        let IpAddr::V4(base) = self.block.network() else {
            return Err(BedError::Spec("blocks are IPv4".into()));
        };
        let number = self.next_pod;
        self.next_pod += 1;
        // .1 of the block is the node's tunnel address.
        let address = Ipv4Addr::from_bits(base.to_bits() + 1 + u32::from(number));
        let letter = self.name.trim_start_matches("node-");
        let attach = match self.kind {
            NodeKind::Margay => spec.attach,
            NodeKind::Kernel => Attach::Veth,
        };
        let name = format!("pod-{letter}{number}");
        let pod = Pod::create(name, address.into(), attach, spec.pod_mtu(), &self.netns)?;
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
    /// The only IPPool of every lab: 10.65.0.0/16.
    pub fn pool() -> Prefix {
        Prefix::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 65, 0, 0), 16))
    }

    /// Builds namespaces, cables, pods, kernel nodes and files; daemons wait for [`Lab::start`].
    ///
    /// # Errors
    /// A privilege or kernel facility is missing, or the lab makes no sense.
    pub fn new(spec: LabSpec) -> Result<Self, BedError> {
        if !(1..=60).contains(&spec.pods_per_node) {
            return Err(BedError::Spec(format!("{} pods on a node: 1 to 60", spec.pods_per_node)));
        }
        if !(576..=65535).contains(&spec.underlay_mtu) {
            return Err(BedError::Spec(format!("underlay MTU {}: 576 to 65535 bytes", spec.underlay_mtu)));
        }
        if spec.kinds.contains(&NodeKind::Kernel) && spec.mode.overhead() == 20 {
            return Err(BedError::Spec("kernel nodes have no IPIP: the module is seldom there".into()));
        }
        let other_subnet = if spec.topology == Topology::Routed { 78 } else { 77 };
        let node = |name: &str, kind, subnet, host, block| -> Result<Node, BedError> {
            Ok(Node {
                name: name.into(),
                kind,
                netns: Netns::create()?,
                underlay: prefix([192, 168, subnet, host], 24)?,
                block: prefix([10, 65, 0, block], 26)?,
                tunnel_address: Ipv4Addr::new(10, 65, 0, block + 1).into(),
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
                join((&a.netns, "eth0", a.underlay), (&b.netns, "eth0", b.underlay), mtu)?;
            }
            Topology::Routed => {
                let router = Netns::create()?;
                write_sysctl(&router, "net/ipv4/ip_forward", "1")?;
                let mut netlink = router.netlink()?;
                for (node, port, subnet) in [(a, "a", 77), (b, "b", 78)] {
                    let gateway = prefix([192, 168, subnet, 254], 24)?;
                    join((&node.netns, "eth0", node.underlay), (&router, port, gateway), mtu)?;
                    let default = Route { via: Some(gateway.addr()), ..Route::default_of(Family::V4) };
                    node.netns.netlink()?.add_route(&default)?;
                    if self.spec.mode == Mode::None {
                        netlink.add_route(&Route { via: Some(node.address()), ..Route::to(node.block) })?;
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

/// A veth between two namespaces with an address at each end, up.
fn join(near: (&Netns, &str, Prefix), far: (&Netns, &str, Prefix), mtu: Option<u32>) -> Result<(), BedError> {
    let mut at_near = near.0.netlink()?;
    let mut at_far = far.0.netlink()?;
    at_near.add_veth(
        &VethEnd { name: near.1, mac: None, mtu, netns: None },
        &VethEnd { name: far.1, mac: None, mtu, netns: Some(far.0.as_fd()) },
    )?;
    let up = |netlink: &mut Netlink, name: &str, address: Prefix| -> Result<(), BedError> {
        quiet(netlink, name);
        netlink.set_link(name, &[LinkChange::Up])?;
        let dev = netlink.link(name)?.index;
        Ok(netlink.add_address(dev, address)?)
    };
    up(&mut at_near, near.1, near.2)?;
    up(&mut at_far, far.1, far.2)
}

fn prefix(octets: [u8; 4], length: u8) -> Result<Prefix, BedError> {
    Prefix::new(IpAddr::V4(octets.into()), length).map_err(|e| BedError::Spec(e.to_string()))
}

/// Sets `/proc/sys/NAME` of a namespace.
pub(super) fn write_sysctl(netns: &Netns, name: &str, value: &str) -> Result<(), BedError> {
    let path = format!("/proc/sys/{name}");
    netns.run(|| std::fs::write(&path, value))?.map_err(BedError::io(format!("write {value} to {path}")))
}
