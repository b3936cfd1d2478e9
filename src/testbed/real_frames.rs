//! Interfaces whose packets are as long as the MTU allows, and no longer.

use std::io;

use super::{BedError, Lab, Pod};
use crate::sys::ethtool;
use crate::sys::netns::Netns;

impl Lab {
    /// Lets nothing but real frames cross the underlay, as between two NICs: a veth hands super-frames of
    /// 64 KB over whole, and whoever makes them looks faster than he is. Segmentation offloads are switched
    /// off at both ends, so that the kernel cuts before it sends; GRO is switched on, as NICs' drivers have it.
    ///
    /// # Errors
    /// This kernel's veth cannot do that.
    pub fn real_frames(&self) -> Result<(), BedError> {
        for node in &self.nodes {
            set(&node.netns, "eth0", as_on_a_nic)?;
        }
        let ports = ["a", "b"];
        self.router
            .iter()
            .try_for_each(|router| ports.iter().try_for_each(|port| set(router, port, as_on_a_nic)))
    }
}

impl Pod {
    /// Lets the datagrams that a sender gives to the kernel at once (`UDP_SEGMENT`) leave the pod one by one,
    /// from here on, and not as a super-frame.
    ///
    /// # Errors
    /// The kernel cannot tell, or change, what the interface takes.
    pub fn cut_datagrams(&self) -> Result<(), BedError> {
        set(&self.netns, "eth0", |feature| (feature == "tx-udp-segmentation").then_some(false))
    }
}

fn set(netns: &Netns, interface: &str, wanted: impl Fn(&str) -> Option<bool> + Send) -> Result<(), BedError> {
    let operation = format!("change offloads of {interface}");
    let left =
        netns.run(|| ethtool::set_features(interface, wanted))?.map_err(BedError::io(operation.clone()))?;
    if left.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = left.iter().map(|feature| feature.name.as_str()).collect();
    Err(BedError::Io { operation, source: io::Error::other(format!("fixed: {}", names.join(", "))) })
}

/// `tx-tcp-segmentation`, `tx-udp-segmentation`, `tx-udp_tnl-segmentation` and their like.
fn as_on_a_nic(feature: &str) -> Option<bool> {
    match feature {
        "tx-gso-list" => Some(false),
        "rx-gro" => Some(true),
        _ if feature.ends_with("segmentation") => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testbed::{Blast, Capture, LabSpec, Mode, NodeKind, blast, transfer};
    use std::time::Duration;

    /// Lengths of the longest frames that cross the underlay of kernel nodes while TCP goes from pod to pod.
    fn longest(real: bool) -> usize {
        let kinds = [NodeKind::Kernel; 2];
        let lab = Lab::new(LabSpec { kinds, ..LabSpec::new(Mode::Vxlan) }).unwrap();
        if real {
            lab.real_frames().unwrap();
        }
        let [a, b] = &lab.nodes;
        // As they leave: GRO joins them again where they arrive.
        let capture = Capture::start(&a.netns, "eth0").unwrap();
        let (from, to) = (&a.pods[0], &b.pods[0]);
        assert!(transfer(&from.netns, &to.netns, to.address, 2_000_000).unwrap().intact());
        capture.stop().iter().map(|frame| frame.bytes.len()).max().unwrap()
    }

    #[test]
    fn a_veth_carries_super_frames_unless_told_otherwise() {
        assert!(longest(false) > 1514);
        // Ethernet header and MTU.
        assert_eq!(longest(true), 1514);
    }

    #[test]
    fn datagrams_leave_a_pod_at_once_unless_told_otherwise() {
        let kinds = [NodeKind::Kernel; 2];
        let lab = Lab::new(LabSpec { kinds, ..LabSpec::new(Mode::None) }).unwrap();
        let [from, to] = lab.nodes.each_ref().map(|node| &node.pods[0]);
        let at_once = Blast { payload: 64, rate: None, duration: Duration::from_millis(20), segmented: true };
        let longest = || {
            let capture = Capture::start(&from.netns, "eth0").unwrap();
            blast(&from.netns, &to.netns, to.address, at_once).unwrap();
            capture.stop().iter().map(|frame| frame.bytes.len()).max().unwrap()
        };
        // Headers of Ethernet, IPv4 and UDP.
        assert_eq!(longest(), 42 + 64 * 64);
        from.cut_datagrams().unwrap();
        assert_eq!(longest(), 42 + 64);
    }
}
