//! The lab as Calico resources: what the daemons read.

use std::fmt::Write;

use super::lab::{Lab, Mode, Node};
use super::{BedError, Pod};
use crate::lpm::Prefix;
use crate::rib::Attach;
use crate::wire::Family;

/// Writes all files of the lab.
pub(super) fn write(lab: &Lab) -> Result<(), BedError> {
    for family in lab.spec.pods.families() {
        let name = match family {
            Family::V4 => "pool.yaml",
            Family::V6 => "pool-v6.yaml",
        };
        lab.resources.write(name, &pool(family, lab.spec.mode_of(family)))?;
    }
    for node in &lab.nodes {
        lab.resources.write(&format!("{}.yaml", node.name), &self::node(node, lab.spec.mode))?;
        for pod in &node.pods {
            write_pod(lab, node, pod)?;
        }
    }
    Ok(())
}

/// Writes the file of one pod.
pub(super) fn write_pod(lab: &Lab, node: &Node, pod: &Pod) -> Result<(), BedError> {
    lab.resources.write(&pod_file(pod), &workload(node, pod))
}

/// Name of the file of one pod.
pub(super) fn pod_file(pod: &Pod) -> String {
    format!("workload-{}.yaml", pod.name)
}

fn pool(family: Family, mode: Mode) -> String {
    let (name, size) = match family {
        Family::V4 => ("pods", 26),
        Family::V6 => ("pods-v6", 122),
    };
    let (ipip, vxlan) = match mode {
        Mode::Ipip => ("Always", "Never"),
        Mode::Vxlan => ("Never", "Always"),
        Mode::None => ("Never", "Never"),
        Mode::IpipCrossSubnet => ("CrossSubnet", "Never"),
        Mode::VxlanCrossSubnet => ("Never", "CrossSubnet"),
    };
    format!(
        "apiVersion: projectcalico.org/v3
kind: IPPool
metadata:
  name: {name}
spec:
  cidr: {cidr}
  blockSize: {size}
  ipipMode: {ipip}
  vxlanMode: {vxlan}
  natOutgoing: false
",
        cidr = Lab::pool(family)
    )
}

fn node(node: &Node, mode: Mode) -> String {
    let name = &node.name;
    let (mut bgp, mut spec, mut blocks) = (String::new(), String::new(), String::new());
    for family in Family::ALL {
        let version = match family {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        };
        if let Some(address) = node.underlay_of(family) {
            let _ = writeln!(bgp, "    {version}Address: {address}");
        }
        // Calico gives a node the tunnel addresses that its pools' modes need, and no others.
        let _ = match (mode, node.tunnel_address_of(family)) {
            (Mode::Ipip | Mode::IpipCrossSubnet, Some(address)) if family == Family::V4 => {
                writeln!(bgp, "    ipv4IPIPTunnelAddr: {address}")
            }
            (Mode::Vxlan | Mode::VxlanCrossSubnet, Some(address)) => {
                writeln!(spec, "  {version}VXLANTunnelAddr: {address}")
            }
            _ => Ok(()),
        };
        if let Some(block) = node.block_of(family) {
            blocks += &self::block(name, block);
        }
    }
    format!(
        "apiVersion: projectcalico.org/v3
kind: Node
metadata:
  name: {name}
spec:
  bgp:
{bgp}{spec}{blocks}"
    )
}

fn block(node: &str, block: Prefix) -> String {
    let name = block.to_string().replace(['.', ':', '/'], "-");
    format!(
        "---
apiVersion: projectcalico.org/v3
kind: BlockAffinity
metadata:
  name: {node}-{name}
spec:
  cidr: {block}
  node: {node}
  state: confirmed
"
    )
}

fn workload(node: &Node, pod: &Pod) -> String {
    let mut text = format!(
        "apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata:
  name: {name}
  namespace: default
  annotations:
",
        name = pod.resource_name(node)
    );
    // With a veth the host end says it all; the daemon has no business inside.
    let _ = match pod.attach {
        Attach::Tap => {
            writeln!(text, "    margay.dev/netns: {}\n    margay.dev/attach: tap", pod.netns.path().display())
        }
        Attach::Veth => writeln!(text, "    margay.dev/attach: veth"),
    };
    let _ = write!(
        text,
        "spec:
  orchestrator: k8s
  node: {node}
  pod: {pod}
  endpoint: eth0
  interfaceName: {interface}
  mac: {mac}
  ipNetworks:
",
        node = node.name,
        pod = pod.name,
        interface = pod.host_interface,
        mac = pod.mac,
    );
    for address in pod.addresses() {
        let _ = writeln!(text, "    - {}", Prefix::from(address));
    }
    text
}
