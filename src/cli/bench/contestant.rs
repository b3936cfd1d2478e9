//! Who is measured.

use serde::Serialize;

use super::ModeArg;
use super::metric::Test;
use crate::rib::Attach;
use crate::testbed::{LabSpec, Mode, NodeKind};

/// A way for packets to get from pod to pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Contestant {
    /// `vxlan.calico` as Felix sets it up: what the others are compared with.
    KernelVxlan,
    /// Plain routes.
    KernelRoute,
    /// Margay with VXLAN.
    MargayVxlan,
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
            Self::MargayIpip => "margay-ipip",
            Self::MargayNone => "margay-none",
        }
    }

    /// Moved by a margay daemon.
    pub(super) fn is_margay(self) -> bool {
        !matches!(self, Self::KernelVxlan | Self::KernelRoute)
    }

    /// Its nodes.
    pub(super) fn lab(self, attach: Attach) -> LabSpec {
        let mode = match self {
            Self::KernelVxlan | Self::MargayVxlan => Mode::Vxlan,
            Self::MargayIpip => Mode::Ipip,
            Self::KernelRoute | Self::MargayNone => Mode::None,
        };
        let kind = if self.is_margay() { NodeKind::Margay } else { NodeKind::Kernel };
        LabSpec { kinds: [kind; 2], attach, ..LabSpec::new(mode) }
    }
}

/// Who takes part in which tests, the reference first. Two pods on one node know no encapsulation, so the test
/// with them is between those that have none.
pub(super) fn entries(modes: &[ModeArg], tests: &[Test]) -> Vec<(Contestant, Vec<Test>)> {
    let chosen = |mode| modes.contains(&mode);
    [
        (Contestant::KernelVxlan, true, false),
        (Contestant::KernelRoute, true, true),
        (Contestant::MargayVxlan, chosen(ModeArg::Vxlan), false),
        (Contestant::MargayIpip, chosen(ModeArg::Ipip), false),
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
        let entries = entries(&[ModeArg::Ipip], &[Test::Local, Test::Tcp1]);
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
    fn names_are_the_same_everywhere() {
        for contestant in [Contestant::KernelVxlan, Contestant::MargayNone] {
            assert_eq!(serde_json::to_value(contestant).unwrap(), contestant.name());
        }
    }
}
