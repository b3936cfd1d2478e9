//! What is measured, and in which unit.

use clap::ValueEnum;
use serde::Serialize;

use super::contestant::Contestant;

/// What `--tests` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Test {
    /// TCP, one stream between pods of two nodes
    Tcp1,
    /// TCP, four streams
    Tcp4,
    /// UDP of 64 bytes, a message for each: delivered at full load, and the highest rate with < 0.1 % lost
    Udp,
    /// The same, the sender gives the kernel 64 at once (UDP_SEGMENT), which leave the pod as one super-frame
    UdpGso,
    /// The same, cut into single packets before they leave the pod: a sender that costs little
    UdpCut,
    /// Round trip of a UDP datagram of 64 bytes, p50 and p99
    Rtt,
    /// TCP, one stream between two pods of one node
    Local,
}

impl Test {
    /// In the order in which they are run and shown; `UdpCut` leaves a pod that cuts, so `UdpGso` comes first.
    pub(super) const ALL: [Self; 7] =
        [Self::Tcp1, Self::Tcp4, Self::Udp, Self::UdpGso, Self::UdpCut, Self::Rtt, Self::Local];

    /// As `--tests` calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tcp1 => "tcp1",
            Self::Tcp4 => "tcp4",
            Self::Udp => "udp",
            Self::UdpGso => "udp-gso",
            Self::UdpCut => "udp-cut",
            Self::Rtt => "rtt",
            Self::Local => "local",
        }
    }

    /// What it measures.
    pub(super) fn metrics(self) -> &'static [Metric] {
        match self {
            Self::Tcp1 => &[Metric::Tcp1],
            Self::Tcp4 => &[Metric::Tcp4],
            Self::Udp => &[Metric::UdpFull, Metric::UdpLossless],
            Self::UdpGso => &[Metric::UdpGsoFull, Metric::UdpGsoLossless],
            Self::UdpCut => &[Metric::UdpCutFull, Metric::UdpCutLossless],
            Self::Rtt => &[Metric::RttP50, Metric::RttP99],
            Self::Local => &[Metric::Local],
        }
    }
}

/// A figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Metric {
    Tcp1,
    Tcp4,
    UdpFull,
    UdpLossless,
    UdpGsoFull,
    UdpGsoLossless,
    UdpCutFull,
    UdpCutLossless,
    RttP50,
    RttP99,
    Local,
}

/// Which is the better value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Better {
    Higher,
    Lower,
}

impl Metric {
    /// For people.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Tcp1 => "TCP, 1 stream",
            Self::Tcp4 => "TCP, 4 streams",
            Self::UdpFull => "UDP 64 B, full load",
            Self::UdpLossless => "UDP 64 B, < 0.1 % lost",
            Self::UdpGsoFull => "UDP_SEGMENT, full load",
            Self::UdpGsoLossless => "UDP_SEGMENT, < 0.1 % lost",
            Self::UdpCutFull => "cut in the pod, full load",
            Self::UdpCutLossless => "cut in the pod, < 0.1 % lost",
            Self::RttP50 => "round trip, p50",
            Self::RttP99 => "round trip, p99",
            Self::Local => "TCP on one node, 1 stream",
        }
    }

    /// Of its value.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Tcp1 | Self::Tcp4 | Self::Local => "Gbit/s",
            Self::RttP50 | Self::RttP99 => "µs",
            _ => "kpps",
        }
    }

    /// What a second of a core is divided by; `None` where that says nothing.
    pub(super) fn work(self) -> Option<&'static str> {
        match self.unit() {
            "Gbit/s" => Some("Gbit"),
            "kpps" => Some("Mpkt"),
            _ => None,
        }
    }

    /// Which is the better value.
    pub(super) fn better(self) -> Better {
        if self.work().is_some() { Better::Higher } else { Better::Lower }
    }

    /// Whose value it is compared with.
    pub(super) fn reference(self) -> Contestant {
        if self == Self::Local { Contestant::KernelRoute } else { Contestant::KernelVxlan }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_have_one_name_for_command_line_and_results() {
        for test in Test::ALL {
            assert_eq!(test.to_possible_value().unwrap().get_name(), test.name());
            assert_eq!(serde_json::to_value(test).unwrap(), test.name());
        }
    }
}
