//! Who is measured.

use serde::Serialize;

use super::ModeArg;
use super::metric::Test;
use crate::rib::Attach;
use crate::testbed::{LabSpec, Mode, NodeKind, Stack};
use crate::wire::Family;

/// A way for packets to get from pod to pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Contestant {
    /// `vxlan.calico` or `vxlan-v6.calico` as Felix sets it up: what the others are compared with.
    KernelVxlan,
    /// Plain routes.
    KernelRoute,
    /// Margay with VXLAN over the traffic's own family.
    MargayVxlan,
    /// Margay with VXLAN over the other family, the only one that the nodes have.
    MargayVxlanOther,
    /// Margay with IPIP.
    MargayIpip,
    /// Margay without encapsulation.
    MargayNone,
}

impl Contestant {
    /// As the results call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::KernelVxlan => "kernel-vxlan",
            Self::KernelRoute => "kernel-route",
            Self::MargayVxlan => "margay-vxlan",
            Self::MargayVxlanOther => "margay-vxlan-other",
            Self::MargayIpip => "margay-ipip",
            Self::MargayNone => "margay-none",
        }
    }

    /// Moved by a margay daemon.
    pub(super) fn is_margay(self) -> bool {
        !matches!(self, Self::KernelVxlan | Self::KernelRoute)
    }

    /// Its nodes, for traffic of a family. To IPv6 belongs IPv4, as in the clusters that have it.
    pub(super) fn lab(self, attach: Attach, family: Family) -> LabSpec {
        let mode = match self {
            Self::KernelVxlan | Self::MargayVxlan | Self::MargayVxlanOther => Mode::Vxlan,
            Self::MargayIpip => Mode::Ipip,
            Self::KernelRoute | Self::MargayNone => Mode::None,
        };
        let kind = if self.is_margay() { NodeKind::Margay } else { NodeKind::Kernel };
        let pods = match family {
            Family::V4 => Stack::V4,
            Family::V6 => Stack::Dual,
        };
        let underlay = match (self, family) {
            (Self::MargayVxlanOther, Family::V4) => Stack::V6,
            (Self::MargayVxlanOther, Family::V6) => Stack::V4,
            _ => pods,
        };
        LabSpec { kinds: [kind; 2], attach, pods, underlay, ..LabSpec::new(mode) }
    }
}

/// Who takes part in which tests, the reference first. Two pods on one node know no encapsulation, so the test
/// with them is between those that have none. IPIP has no IPv6.
pub(super) fn entries(family: Family, modes: &[ModeArg], tests: &[Test]) -> Vec<(Contestant, Vec<Test>)> {
    let chosen = |mode| modes.contains(&mode);
    [
        (Contestant::KernelVxlan, true, false),
        (Contestant::KernelRoute, true, true),
        (Contestant::MargayVxlan, chosen(ModeArg::Vxlan), false),
        (Contestant::MargayVxlanOther, chosen(ModeArg::VxlanOther), false),
        (Contestant::MargayIpip, chosen(ModeArg::Ipip) && family == Family::V4, false),
        (Contestant::MargayNone, chosen(ModeArg::None), true),
    ]
    .into_iter()
    .map(|(contestant, across, local)| {
        let takes = |test: &Test| if *test == Test::Local { local } else { across };
        (contestant, Test::ALL.into_iter().filter(|test| tests.contains(test) && takes(test)).collect())
    })
    .filter(|(_, tests): &(_, Vec<Test>)| !tests.is_empty())
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_on_one_node_are_compared_without_encapsulation_whatever_the_modes() {
        let entries = entries(Family::V4, &[ModeArg::Ipip], &[Test::Local, Test::Tcp1]);
        assert_eq!(
            entries,
            [
                (Contestant::KernelVxlan, vec![Test::Tcp1]),
                (Contestant::KernelRoute, vec![Test::Tcp1, Test::Local]),
                (Contestant::MargayIpip, vec![Test::Tcp1]),
                (Contestant::MargayNone, vec![Test::Local]),
            ]
        );
    }

    #[test]
    fn ipv6_has_no_ipip() {
        let entries = entries(Family::V6, &[ModeArg::Ipip, ModeArg::None], &[Test::Tcp1]);
        let names: Vec<&str> = entries.iter().map(|(contestant, _)| contestant.name()).collect();
        assert_eq!(names, ["kernel-vxlan", "kernel-route", "margay-none"]);
    }

    #[test]
    fn vxlan_takes_the_traffics_family_where_the_nodes_have_it() {
        let mtu = |contestant: Contestant, family| contestant.lab(Attach::Tap, family).pod_mtu();
        for (family, own, other) in [(Family::V4, 1450, 1430), (Family::V6, 1430, 1450)] {
            assert_eq!(mtu(Contestant::KernelVxlan, family), own, "{family}");
            assert_eq!(mtu(Contestant::MargayVxlan, family), own, "{family}");
            assert_eq!(mtu(Contestant::MargayVxlanOther, family), other, "{family}");
        }
    }

    #[test]
    fn names_are_the_same_everywhere() {
        for contestant in [Contestant::KernelVxlan, Contestant::MargayVxlanOther, Contestant::MargayNone] {
            assert_eq!(serde_json::to_value(contestant).unwrap(), contestant.name());
        }
    }
}
