//! Proxy ARP in user space: the workload's every question is answered at once with the gateway's MAC.
//!
//! Calico lets the kernel do this (`proxy_arp=1`), which stays silent without a default route and waits
//! for `proxy_delay`; here neither matters.

use std::net::Ipv4Addr;

use super::neighbor::Neighbors;
use crate::buf::{Frame, Pool};
use crate::fib::{Endpoint, EndpointId};
use crate::verdict::DropReason;
use crate::wire::MacAddr;
use crate::wire::arp::{self, Arp, Operation};
use crate::wire::ethernet::{self, EtherType, Ethernet};

use super::antispoof::{self, Address};

/// Turns a request into its reply in place (RFC 826, RFC 1027). What must stay unanswered is an error.
pub fn answer(
    pool: &mut Pool,
    frame: &mut Frame,
    id: EndpointId,
    endpoint: &Endpoint,
    neighbors: &Neighbors,
) -> Result<(), DropReason> {
    let ethernet = Ethernet::parse(pool.bytes(frame))?;
    let arp = Arp::parse(ethernet.payload())?;
    let (asker, asker_ip, target) = (arp.sender_mac(), arp.sender_ip(), arp.target_ip());

    // RFC 5227 2.1: a probe asks with an empty sender address. For the workload's own address, silence
    // says that it is free; for any other the gateway answers, as it does to everybody.
    // A source that it may use is one that its kernel asks from as well.
    let is_its = |address: Ipv4Addr| endpoint.owns(address) || antispoof::may_spoof(endpoint, address);
    if !arp.is_probe() && !is_its(asker_ip) {
        return Err(DropReason::ArpSpoofed);
    }
    if ethernet.src() != asker || asker.is_multicast() {
        return Err(DropReason::ArpSpoofed);
    }
    if !arp.is_probe() {
        neighbors.learn(id, asker);
    }
    if arp.op() != Operation::Request || is_its(target) {
        return Err(DropReason::ArpNotAnswered);
    }

    let reply = arp::Message {
        op: Operation::Reply,
        sender_mac: MacAddr::GATEWAY,
        sender_ip: target,
        target_mac: asker,
        target_ip: asker_ip,
    };
    frame.truncate(ethernet::HEADER_LEN + arp::LEN);
    write(pool.bytes_mut(frame), asker, &reply);
    Ok(())
}

/// Fills a new frame with the question for a workload's MAC, asked as the gateway.
pub fn request(pool: &mut Pool, frame: &mut Frame, address: Ipv4Addr) {
    let question = arp::Message {
        op: Operation::Request,
        sender_mac: MacAddr::GATEWAY,
        sender_ip: Ipv4Addr::GATEWAY,
        target_mac: MacAddr([0; 6]),
        target_ip: address,
    };
    pool.filled(frame, ethernet::HEADER_LEN + arp::LEN);
    write(pool.bytes_mut(frame), MacAddr::BROADCAST, &question);
}

/// `out` is exactly one Ethernet header and one ARP message long, as both callers made it.
fn write(out: &mut [u8], to: MacAddr, message: &arp::Message) {
    if let Some((header, body)) = out.split_first_chunk_mut()
        && let Some(body) = body.first_chunk_mut()
    {
        ethernet::write(header, to, MacAddr::GATEWAY, EtherType::ARP);
        message.write(body);
    }
}
