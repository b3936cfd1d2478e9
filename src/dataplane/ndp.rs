//! Neighbour discovery in user space: the workload's every question is answered at once with the gateway's MAC.
//!
//! Calico lets the kernel do this (`proxy_ndp=1` and routes). The link has two ends, the workload and its gateway; what
//! link-local addresses say to each other on it is dealt with here, and never routed (RFC 4291 2.5.6):
//!
//! | the workload sends | |
//! |---|---|
//! | a solicitation for its own address, or for a link-local one that is not the gateway's | silence: duplicate address detection finds it free |
//! | any other solicitation | an advertisement, from the gateway |
//! | an advertisement for its own address | its MAC is learned |
//! | an echo request to the gateway, from a link-local address | the reply |
//! | a search for routers | silence: the way out is a route that the agent makes |

use std::net::Ipv6Addr;

use super::antispoof::{self, Address};
use super::neighbor::Neighbors;
use crate::buf::{Frame, Pool};
use crate::fib::{Endpoint, EndpointId};
use crate::slowpath::icmp;
use crate::verdict::DropReason;
use crate::wire::ethernet::{self, EtherType, Ethernet};
use crate::wire::ndp::{self, NeighborAdvertisement, NeighborSolicitation};
use crate::wire::{Icmpv6, Icmpv6Type, Ipv6, MacAddr, Protocol, ipv6};

/// Where the next header stands in a packet, its source address, and behind the fixed header an ICMPv6 message's type.
const NEXT_HEADER_AT: usize = 6;
const SOURCE_AT: usize = 8;

/// Bytes in front of an ICMPv6 message.
const HEADERS: usize = ethernet::HEADER_LEN + ipv6::HEADER_LEN;

/// True for an IPv6 packet of this link: neighbour discovery, or ICMPv6 from a link-local address.
#[inline(always)]
pub fn is_of_the_link(packet: &[u8]) -> bool {
    packet.get(NEXT_HEADER_AT) == Some(&Protocol::ICMPV6.0) && is_of_the_link_by_type(packet)
}

#[cold]
fn is_of_the_link_by_type(packet: &[u8]) -> bool {
    let kind = packet.get(ipv6::HEADER_LEN).map(|kind| Icmpv6Type(*kind));
    let is_link_local = matches!(packet.get(SOURCE_AT..), Some([0xfe, 0x80..=0xbf, ..]));
    is_link_local || kind.is_some_and(Icmpv6Type::is_neighbor_discovery)
}

/// Turns a question into its answer in place (RFC 4861 7.2.4 and 7.2.8). What must stay unanswered is an error.
#[cold]
pub fn answer(
    pool: &mut Pool,
    frame: &mut Frame,
    id: EndpointId,
    endpoint: &Endpoint,
    neighbors: &Neighbors,
) -> Result<(), DropReason> {
    let ethernet = Ethernet::parse(pool.bytes(frame))?;
    let ip = Ipv6::parse(ethernet.payload())?;
    let message = Icmpv6::parse(ip.payload()).map_err(|_| DropReason::NdpMalformed)?;
    let (asker, src) = (ethernet.src(), ip.src());
    // A source that it may use is one that its kernel asks from as well.
    let is_its = |address: Ipv6Addr| endpoint.owns(address) || antispoof::may_spoof(endpoint, address);
    let is_from_it = is_its(src) || src.is_unicast_link_local();
    match message.kind() {
        Icmpv6Type::NEIGHBOR_SOLICITATION => {
            let question = NeighborSolicitation::parse(&message)?;
            question.check(&ip)?;
            let (target, probe) = (question.target, src.is_unspecified());
            let is_its_link = question.source_link.is_none_or(|link| link == asker);
            if !(probe || is_from_it) || !is_its_link || asker.is_multicast() {
                return Err(DropReason::NdpSpoofed);
            }
            if !probe {
                neighbors.learn(id, asker);
            }
            if is_its(target) || (target.is_unicast_link_local() && target != Ipv6Addr::GATEWAY) {
                return Err(DropReason::NdpNotAnswered);
            }
            advertise(pool, frame, target, (!probe).then_some((asker, src)));
            Ok(())
        }
        Icmpv6Type::NEIGHBOR_ADVERTISEMENT => {
            let news = NeighborAdvertisement::parse(&message)?;
            news.check(&ip)?;
            let is_its_link = news.target_link.is_none_or(|link| link == asker);
            let is_of_it = is_its(news.target) || news.target.is_unicast_link_local();
            if !is_from_it || !is_of_it || !is_its_link {
                return Err(DropReason::NdpSpoofed);
            }
            neighbors.learn(id, asker);
            Err(DropReason::NdpNotAnswered)
        }
        Icmpv6Type::ECHO_REQUEST if ip.dst() == Ipv6Addr::GATEWAY && ethernet.dst() == MacAddr::GATEWAY => {
            let len = ip.total_len();
            frame.truncate(ethernet::HEADER_LEN + len);
            let Some((header, packet)) = pool.bytes_mut(frame).split_first_chunk_mut() else {
                return Err(DropReason::FrameTruncated);
            };
            icmp::echo_reply::<Ipv6Addr>(packet)?;
            ethernet::write(header, asker, MacAddr::GATEWAY, EtherType::IPV6);
            Ok(())
        }
        _ => Err(DropReason::NdpNotAnswered),
    }
}

/// Fills the frame with the gateway's advertisement of `target` to who asked, or to all where nobody has an address yet.
///
/// As a forwarding host answers for others: a router, and nothing that was known is to be forgotten.
fn advertise(pool: &mut Pool, frame: &mut Frame, target: Ipv6Addr, asker: Option<(MacAddr, Ipv6Addr)>) {
    let (to, dst) = asker.unwrap_or((ndp::multicast_mac(ndp::ALL_NODES), ndp::ALL_NODES));
    let news = NeighborAdvertisement {
        target,
        router: true,
        solicited: asker.is_some(),
        overrides: target == Ipv6Addr::GATEWAY,
        target_link: Some(MacAddr::GATEWAY),
    };
    write(pool, frame, to, dst, |out| news.write(out, Ipv6Addr::GATEWAY, dst));
}

/// Fills a new frame with the question for a workload's MAC, asked as the gateway.
pub fn request(pool: &mut Pool, frame: &mut Frame, address: Ipv6Addr) {
    let dst = ndp::solicited_node(address);
    let question = NeighborSolicitation { target: address, source_link: Some(MacAddr::GATEWAY) };
    write(pool, frame, ndp::multicast_mac(dst), dst, |out| question.write(out, Ipv6Addr::GATEWAY, dst));
}

/// A whole frame around a message with a link-layer address, from the gateway.
fn write(
    pool: &mut Pool,
    frame: &mut Frame,
    to: MacAddr,
    dst: Ipv6Addr,
    message: impl FnOnce(&mut [u8]) -> usize,
) {
    pool.filled(frame, HEADERS + ndp::LEN_WITH_LINK);
    let out = pool.bytes_mut(frame);
    if let Some((header, packet)) = out.split_first_chunk_mut()
        && let Some((ip, body)) = packet.split_first_chunk_mut()
    {
        ethernet::write(header, to, MacAddr::GATEWAY, EtherType::IPV6);
        let header = ipv6::Header {
            traffic_class: 0,
            flow_label: 0,
            payload_len: ndp::LEN_WITH_LINK as u16,
            next_header: Protocol::ICMPV6,
            hop_limit: ndp::HOP_LIMIT,
            src: Ipv6Addr::GATEWAY,
            dst,
        };
        header.write(ip);
        message(body);
    }
}
