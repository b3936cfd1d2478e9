//! What becomes of a frame: closed lists of outcomes, each with a counter.
//!
//! Every frame that a port receives ends in exactly one of: transmitted (one [`Sent`]), punted (one
//! [`PuntReason`]) or dropped (one [`DropReason`]). A frame without a verdict is a bug.

use std::fmt;

use crate::wire::Malformed;

/// A closed enum with, for each member, a stable name (metrics, logs) and one line for people.
macro_rules! closed_list {
    ($(#[$doc:meta])* $list:ident { $($member:ident $name:literal $explanation:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $list {
            $(#[doc = $explanation] $member,)+
        }

        impl $list {
            /// Every member, in the order of their indexes.
            pub const ALL: &'static [$list] = &[$($list::$member),+];
            /// How many members there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Position in [`Self::ALL`]: the index of the counter.
            #[inline]
            pub fn index(self) -> usize {
                self as usize
            }

            /// Stable name, `snake_case`.
            pub fn name(self) -> &'static str {
                match self { $($list::$member => $name,)+ }
            }

            /// What happened and what to do, in one line.
            pub fn explanation(self) -> &'static str {
                match self { $($list::$member => $explanation,)+ }
            }
        }

        impl fmt::Display for $list {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

closed_list! {
    /// Why a frame was dropped.
    DropReason {
        FrameTruncated "frame_truncated" "Shorter than an Ethernet header.",
        FrameNotForGateway "frame_not_for_gateway" "A workload sent IP to another MAC than the gateway's; broadcast and multicast are not routed.",
        EtherTypeUnsupported "ethertype_unsupported" "Neither IPv4 nor ARP; IPv6 and VLAN tags are not carried yet.",
        ArpMalformed "arp_malformed" "ARP that is cut short or not Ethernet/IPv4 request or reply.",
        ArpNotAnswered "arp_not_answered" "ARP that must stay unanswered: the workload's own announcement or probe, or a reply.",
        ArpSpoofed "arp_spoofed" "ARP whose sender address is not the workload's; nothing was learned from it.",
        Ipv4Truncated "ipv4_truncated" "Shorter than its IPv4 header.",
        Ipv4Version "ipv4_version" "IP version is not 4.",
        Ipv4HeaderLength "ipv4_header_length" "IHL below 5 or beyond the packet.",
        Ipv4TotalLength "ipv4_total_length" "Total length below the header's or beyond the frame.",
        Ipv4Checksum "ipv4_checksum" "IPv4 header checksum is wrong; look at the sender's offloads.",
        OffloadMalformed "offload_malformed" "The virtio-net header does not fit its frame.",
        SourceNotOwned "source_not_owned" "A workload sent from an address that is not in its WorkloadEndpoint's ipNetworks.",
        SourceMartian "source_martian" "Source address is loopback, multicast, broadcast, link-local or reserved.",
        DestinationMartian "destination_martian" "Destination is multicast, broadcast, loopback, link-local or reserved: not routed.",
        TunnelFromWorkload "tunnel_from_workload" "A workload sent IPIP or VXLAN itself, which could forge other workloads' traffic.",
        TtlZero "ttl_zero" "Arrived with TTL 0.",
        Blackhole "blackhole" "Destination is in this node's own block, but no endpoint has it.",
        UnknownPeer "unknown_peer" "Tunnel packet from an address that no Node resource has.",
        OuterDestination "outer_destination" "Tunnel packet to another address than this node's.",
        InnerNotIpv4 "inner_not_ipv4" "Something else than IPv4 inside the tunnel.",
        InnerSourceLocal "inner_source_local" "A tunnel packet claims to come from an address of this node or its workloads.",
        InnerSourceNotPeers "inner_source_not_peers" "Inner source belongs to another node than the one that sent the tunnel packet.",
        TunnelNested "tunnel_nested" "A tunnel packet for this node came out of a tunnel: taken in, it would be unwrapped once more.",
        TransitRefused "transit_refused" "From the underlay to an address that is not on this node: routing it back out could loop.",
        EcnCongestionLost "ecn_congestion_lost" "Congestion marked on the way, but the inner packet cannot carry the mark (RFC 6040 4.2).",
        VxlanTruncated "vxlan_truncated" "Too short for the VXLAN and inner Ethernet headers.",
        VxlanFlags "vxlan_flags" "VXLAN header without the I flag.",
        VxlanUnknownVni "vxlan_unknown_vni" "VXLAN of another VNI; compare vxlanVNI of both nodes.",
        VxlanInnerMac "vxlan_inner_mac" "Inner MAC is not this node's VTEP MAC, or claims to be from it; compare vxlanTunnelMACAddr.",
        EndpointGone "endpoint_gone" "The route led to an endpoint whose interface is gone.",
        PortUnavailable "port_unavailable" "The route led to a tunnel or host interface that is not open on this node.",
        NeighborQueueFull "neighbor_queue_full" "Too many frames wait for the workload's MAC address.",
        NeighborUnresolved "neighbor_unresolved" "The workload did not answer ARP in time.",
        TooBigUnsplittable "too_big_unsplittable" "Larger than the MTU and neither fragmentation nor an ICMP error was possible.",
        IcmpRateLimited "icmp_rate_limited" "An ICMP error was due, but the rate limit of its endpoint or peer was reached.",
        IcmpNotDue "icmp_not_due" "Undeliverable, and RFC 1122 3.2.2 forbids an ICMP error about it.",
        NoBuffer "no_buffer" "The buffer pool was empty.",
        TxQueueFull "tx_queue_full" "The interface or socket did not take the frame in time.",
        TxFailed "tx_failed" "The kernel refused to send; see the log for the error.",
    }
}

closed_list! {
    /// Why a frame left the fast path.
    PuntReason {
        TtlExpired "ttl_expired" "TTL ended here: ICMP time exceeded to the source (RFC 1812 5.3.1).",
        NoRoute "no_route" "No route: ICMP net unreachable to the source (RFC 1812 5.2.7.1).",
        TooBig "too_big" "Larger than the MTU: fragmented, or ICMP fragmentation needed with DF (RFC 1191 4).",
        NeighborUnresolved "neighbor_unresolved" "The workload's MAC address is asked for by ARP.",
        Gateway "gateway" "For the gateway address itself: pings are answered.",
    }
}

closed_list! {
    /// Where a transmitted frame went.
    Sent {
        Workload "workload" "To a workload of this node.",
        Ipip "ipip" "Into an IPIP tunnel.",
        Vxlan "vxlan" "Into a VXLAN tunnel.",
        Direct "direct" "To a peer as next hop, without encapsulation.",
        Host "host" "To this node's kernel.",
        ArpReply "arp_reply" "Answered: an ARP request turned into its reply.",
    }
}

impl From<Malformed> for DropReason {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::EthernetTruncated => DropReason::FrameTruncated,
            Malformed::ArpTruncated | Malformed::ArpUnsupported => DropReason::ArpMalformed,
            Malformed::Ipv4Truncated => DropReason::Ipv4Truncated,
            Malformed::Ipv4Version => DropReason::Ipv4Version,
            Malformed::Ipv4HeaderLength => DropReason::Ipv4HeaderLength,
            Malformed::Ipv4TotalLength => DropReason::Ipv4TotalLength,
            Malformed::Ipv4Checksum => DropReason::Ipv4Checksum,
            Malformed::VxlanTruncated => DropReason::VxlanTruncated,
            Malformed::VxlanFlags => DropReason::VxlanFlags,
            _ => DropReason::OffloadMalformed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_indexes_are_positions() {
        let names: HashSet<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
        for (i, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), i);
            assert!(reason.explanation().ends_with('.'), "{reason}");
        }
        assert_eq!(PuntReason::ALL.iter().map(|r| r.name()).collect::<HashSet<_>>().len(), PuntReason::COUNT);
    }
}
