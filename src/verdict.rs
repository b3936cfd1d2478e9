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
        FrameTruncated "frame_truncated" "Shorter than an Ethernet header. Look for what writes broken frames to the interface.",
        FrameNotForGateway "frame_not_for_gateway" "A workload sent IP to another station than the gateway. Compare the workload's neighbour entry for 169.254.1.1 or fe80::ecee:eeff:feee:eeee with ee:ee:ee:ee:ee:ee.",
        FrameMulticast "frame_multicast" "A workload sent IP by broadcast or multicast, as listener reports, mDNS and DHCP are. That is not routed; nothing needs to be done.",
        EtherTypeUnsupported "ethertype_unsupported" "Neither IPv4, IPv6 nor ARP. VLAN tags are not carried: look at what the workload sends.",
        ArpMalformed "arp_malformed" "ARP that is cut short or not Ethernet/IPv4 request or reply. Look at what the workload sends.",
        ArpNotAnswered "arp_not_answered" "ARP that must stay unanswered: the workload's own announcement or probe, or a reply. Nothing needs to be done.",
        ArpSpoofed "arp_spoofed" "ARP whose sender address is not the workload's; nothing was learned from it. Compare the workload's addresses with its WorkloadEndpoint's ipNetworks.",
        NdpMalformed "ndp_malformed" "Neighbour discovery that is cut short, or that RFC 4861 7.1 forbids: hop limit not 255, wrong checksum, code, option or target. Look at what the workload sends.",
        NdpNotAnswered "ndp_not_answered" "Neighbour discovery that must stay unanswered: the workload's own duplicate address detection or announcement, a search for routers, or a message that asks nothing. Nothing needs to be done.",
        NdpSpoofed "ndp_spoofed" "Neighbour discovery whose source, target or link-layer address is not the workload's; nothing was learned from it. Compare the workload's addresses with its WorkloadEndpoint's ipNetworks.",
        Ipv4Truncated "ipv4_truncated" "Shorter than its IPv4 header. Look at what its sender sends, and at the way in between.",
        Ipv4Version "ipv4_version" "IP version is not 4. Look at what its sender sends.",
        Ipv4HeaderLength "ipv4_header_length" "IHL below 5 or beyond the packet. Look at what its sender sends.",
        Ipv4TotalLength "ipv4_total_length" "Total length below the header's or beyond the frame. Look for a device on the way that cuts frames.",
        Ipv4Checksum "ipv4_checksum" "IPv4 header checksum is wrong. Look at the sender's offloads, and for a device that damages frames.",
        Ipv6Truncated "ipv6_truncated" "Shorter than its IPv6 header. Look at what its sender sends, and at the way in between.",
        Ipv6Version "ipv6_version" "IP version is not 6. Look at what its sender sends.",
        Ipv6PayloadLength "ipv6_payload_length" "Payload length beyond the frame, or a packet above 65,535 bytes. Look for a device on the way that cuts frames.",
        Ipv6Extensions "ipv6_extensions" "IPv6 extension headers that are cut short, more than 8, or longer than 256 bytes: what they hide cannot be judged (RFC 8504 5.3). Look at what its sender sends.",
        OffloadMalformed "offload_malformed" "The virtio-net header does not fit its frame. Switch the sender's offloads off: ethtool -K eth0 tx off tso off.",
        SourceNotOwned "source_not_owned" "A workload sent from an address that is not its own. If it should, add the address to its WorkloadEndpoint's ipNetworks.",
        SourceMartian "source_martian" "Source address is loopback, multicast, broadcast, link-local or reserved. Give the sender a routable address.",
        DestinationMartian "destination_martian" "Destination is multicast, broadcast, loopback, link-local or reserved, or the gateway's address and no ping. That is not routed: have the sender use another address.",
        TunnelFromWorkload "tunnel_from_workload" "A workload sent IPIP or VXLAN itself, which could forge other workloads' traffic. Have it use another protocol or port.",
        TtlZero "ttl_zero" "Arrived with TTL 0. Look for a routing loop, or a sender that sends so.",
        Blackhole "blackhole" "Destination is in this node's own block, but no endpoint has it. Whoever sends it has an old address; if not, see why the endpoint is not attached.",
        UnknownPeer "unknown_peer" "Tunnel packet from an address that no Node resource has. If it is a node, add its Node, or correct spec.bgp.ipv4Address or ipv6Address; if not, close the underlay to it.",
        OuterDestination "outer_destination" "Tunnel packet to another address than this node's. Compare this node's spec.bgp.ipv4Address or ipv6Address with what the peer has.",
        OuterFragment "outer_fragment" "A fragment of a tunnel packet: the kernel reassembles before margay sees it, so it came by another way. Look at who feeds the tunnel socket.",
        InnerNotIp "inner_not_ip" "Something else than IP inside the tunnel, or IPv6 inside IPIP. Look at what the peer sends; ARP does not go through Calico's tunnels.",
        InnerSourceLocal "inner_source_local" "A packet from the underlay claims to come from an address of this node or its workloads. Look for an address that two nodes use, or for a forger.",
        InnerSourceNotPeers "inner_source_not_peers" "Inner source belongs to another node than the one that sent the tunnel packet. Compare the BlockAffinities of both nodes; if they agree, it is forged.",
        TunnelNested "tunnel_nested" "A tunnel packet for this node came out of a tunnel: taken in, it would be unwrapped once more. Have its sender address the node directly.",
        TransitRefused "transit_refused" "From the underlay to an address that is not on this node: routing it back out could loop. Compare the sender's routes with the BlockAffinities.",
        EcnCongestionLost "ecn_congestion_lost" "Congestion marked on the way, but the inner packet cannot carry the mark (RFC 6040 4.2). The underlay is congested; ECN in the workloads turns the loss into a mark.",
        VxlanTruncated "vxlan_truncated" "Too short for the VXLAN and inner Ethernet headers. Look at who else sends to the VXLAN port.",
        VxlanFlags "vxlan_flags" "VXLAN header without the I flag. Look at who else sends to the VXLAN port.",
        VxlanUnknownVni "vxlan_unknown_vni" "VXLAN of another VNI. Give all nodes the same vxlanVNI in FelixConfiguration.",
        VxlanInnerMac "vxlan_inner_mac" "Inner MAC is not this node's VTEP MAC, or claims to be from it. Compare spec.vxlanTunnelMACAddr of this node's Node with what the peer has.",
        EndpointGone "endpoint_gone" "The route led to an endpoint whose interface is gone. It passes when the routes follow; if it goes on, see the log for the endpoint.",
        PortUnavailable "port_unavailable" "The route led to a tunnel or host interface that is not open on this node. See the log for why it was lost; it is opened again by itself.",
        NeighborQueueFull "neighbor_queue_full" "Too many frames wait for the workload's MAC address. Give the MAC in its WorkloadEndpoint, or see why it does not answer ARP or neighbour discovery.",
        NeighborUnresolved "neighbor_unresolved" "The workload did not answer ARP or neighbour discovery in time. See that its interface is up and has the address of its WorkloadEndpoint.",
        TooBigUnsplittable "too_big_unsplittable" "Larger than the MTU and neither fragmentation nor an ICMP error was possible. Raise the MTU of the way, or have the sender send less at once.",
        IcmpRateLimited "icmp_rate_limited" "An ICMP error was due, but the rate limit of its endpoint or peer was reached. Find out what it sends without success: see the punt reasons.",
        IcmpNotDue "icmp_not_due" "Undeliverable, and RFC 1122 3.2.2 forbids an ICMP error about it. Nothing needs to be done, unless there are many: see the punt reasons.",
        TunnelErrorMalformed "tunnel_error_malformed" "ICMP error that is cut short, or whose checksum is wrong. Look for a device on the way that damages packets.",
        TunnelErrorForeign "tunnel_error_foreign" "ICMP error about a packet that this node sent into no tunnel: its kernel's business, or forged. Nothing needs to be done, unless there are many.",
        TunnelErrorForged "tunnel_error_forged" "ICMP error whose quote this node did not send into the tunnel that it names. Look for who forges errors on the underlay.",
        TunnelErrorMtu "tunnel_error_mtu" "Fragmentation needed with an MTU below 68, or not below what was sent: not believed (RFC 1191 3). Look at the router that sends it, or for a forger.",
        TunnelErrorNoted "tunnel_error_noted" "ICMP error about a tunnel packet that the inner sender is not to be told of (RFC 2003 4), or whose quote is too short to find it. See the log for what was noted.",
        ProbeUnasked "probe_unasked" "Answer to a probe of the path MTU that this node does not wait for: a late one, or a forged one. Nothing needs to be done, unless there are many.",
        NoBuffer "no_buffer" "The buffer pool was empty. The slow path had too much at once: see the punt reasons for what.",
        TxQueueFull "tx_queue_full" "The interface or socket did not take the frame in time. The receiver is slower than the senders: give it more CPU time, or longer queues.",
        TxFailed "tx_failed" "The kernel refused to send. See the log for its error.",
    }
}

closed_list! {
    /// Why a frame left the fast path.
    PuntReason {
        TtlExpired "ttl_expired" "TTL ended here: ICMP time exceeded to the source (RFC 1812 5.3.1). A traceroute does that; if nobody runs one, look for a routing loop.",
        NoRoute "no_route" "No route: ICMP net unreachable to the source (RFC 1812 5.2.7.1). If there should be one, margay check shows the routes and their reasons.",
        TooBig "too_big" "Larger than the MTU: fragmented, or ICMP fragmentation needed with DF (RFC 1191 4). If it is much, set the workload's MTU to the one that the daemon shows.",
        NeighborUnresolved "neighbor_unresolved" "The workload's MAC address is asked for by ARP or neighbour discovery. Give the MAC in its WorkloadEndpoint, and nobody has to ask.",
        Gateway "gateway" "For the gateway address itself: pings are answered. Nothing needs to be done.",
        TunnelError "tunnel_error" "ICMP error to this node: if it is about a tunnel packet, it is noted for the peer and relayed to the inner sender (RFC 2003 4). See the log for what was noted.",
        ProbeAnswer "probe_answer" "A peer's answer to a probe of its path MTU. Nothing needs to be done.",
        NodeAddress "node_address" "For this node itself, which has no host interface: pings are answered. With a host interface the node's kernel gets it.",
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
        NeighborReply "neighbor_reply" "Answered: an ARP request or a neighbour solicitation turned into its reply.",
    }
}

closed_list! {
    /// What an ICMP error says that margay sent: counted beside the outcome of what it is about.
    IcmpError {
        TimeExceeded "time_exceeded" "The TTL ended here (type 11 code 0).",
        NetUnreachable "net_unreachable" "There is no route (type 3 code 0).",
        HostUnreachable "host_unreachable" "The workload does not answer, or the way to its node is broken (type 3 code 1).",
        FragmentationNeeded "fragmentation_needed" "Larger than the MTU, and DF is set (type 3 code 4).",
        ParameterProblem "parameter_problem" "A router on the underlay says so of the inner header (type 12 code 0).",
    }
}

closed_list! {
    /// What is wrong with a frame that goes on all the same: counted beside its outcome, and told now and then.
    Anomaly {
        EcnOverNotEct "ecn_over_not_ect" "A tunnel's outer header says ECT, the inner one Not-ECT: somebody rewrites the ECN field on the way (RFC 6040 4.2).",
        EcnEct1OverCe "ecn_ect1_over_ce" "A tunnel's outer header says ECT(1), the inner one CE: somebody rewrites the ECN field on the way (RFC 6040 4.2).",
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
            Malformed::Ipv6Truncated => DropReason::Ipv6Truncated,
            Malformed::Ipv6Version => DropReason::Ipv6Version,
            Malformed::Ipv6PayloadLength => DropReason::Ipv6PayloadLength,
            Malformed::Ipv6ExtensionTruncated | Malformed::Ipv6Extensions => DropReason::Ipv6Extensions,
            Malformed::NdpTruncated | Malformed::NdpOption | Malformed::NdpForbidden => {
                DropReason::NdpMalformed
            }
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
            says_what_to_do(reason.explanation());
        }
        PuntReason::ALL.iter().for_each(|reason| says_what_to_do(reason.explanation()));
        assert_eq!(PuntReason::ALL.iter().map(|r| r.name()).collect::<HashSet<_>>().len(), PuntReason::COUNT);
    }

    /// What happened, and then what to do, in one line.
    fn says_what_to_do(explanation: &str) {
        assert!(explanation.contains(". ") && explanation.ends_with('.'), "{explanation}");
        assert!(!explanation.contains('\n'), "{explanation}");
    }
}
