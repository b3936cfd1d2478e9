//! The lab as Calico resources: what the daemons read.

use std::fmt::Write;

use super::lab::{Lab, Mode, Node};
use super::{BedError, Pod};
use crate::rib::Attach;

/// Writes all files of the lab.
pub(super) fn write(lab: &Lab) -> Result<(), BedError> {
    lab.resources.write("pool.yaml", &pool(lab.spec.mode))?;
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

fn pool(mode: Mode) -> String {
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
  name: pods
spec:
  cidr: {cidr}
  blockSize: 26
  ipipMode: {ipip}
  vxlanMode: {vxlan}
  natOutgoing: false
",
        cidr = Lab::pool()
    )
}

fn node(node: &Node, mode: Mode) -> String {
    let Node { name, tunnel_address, block, .. } = node;
    // Calico gives a node the tunnel addresses that its pools' modes need, and no others.
    let (ipip, vxlan) = match mode {
        Mode::Ipip | Mode::IpipCrossSubnet => {
            (format!("    ipv4IPIPTunnelAddr: {tunnel_address}\n"), String::new())
        }
        Mode::Vxlan | Mode::VxlanCrossSubnet => {
            (String::new(), format!("  ipv4VXLANTunnelAddr: {tunnel_address}\n"))
        }
        Mode::None => Default::default(),
    };
    let block_name = block.to_string().replace(['.', '/'], "-");
    format!(
        "apiVersion: projectcalico.org/v3
kind: Node
metadata:
  name: {name}
spec:
  bgp:
    ipv4Address: {address}
{ipip}{vxlan}---
apiVersion: projectcalico.org/v3
kind: BlockAffinity
metadata:
  name: {name}-{block_name}
spec:
  cidr: {block}
  node: {name}
  state: confirmed
",
        address = node.underlay,
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
  ipNetworks:
    - {address}/32
  mac: {mac}
",
        node = node.name,
        pod = pod.name,
        interface = pod.host_interface,
        address = pod.address,
        mac = pod.mac,
    );
    text
}
