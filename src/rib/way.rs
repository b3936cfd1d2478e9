//! How one node sends to another, and the words for it.

use super::{Encap, PoolPlan, RouteClass, Underlays};
use crate::wire::Family;

/// Where packets begin to travel on the underlay, and where they end.
#[derive(Clone, Copy)]
pub(super) struct Ends<'a> {
    pub(super) from: &'a Underlays,
    pub(super) to: &'a Underlays,
}

/// How packets travel between two nodes.
#[derive(Clone, Copy)]
pub(super) struct Way {
    pub(super) class: RouteClass,
    pub(super) encap: Encap,
    /// The family of the underlay's addresses.
    pub(super) underlay: Family,
}

impl Ends<'_> {
    /// Both have an address of it.
    pub(super) fn share(self, family: Family) -> bool {
        self.from.of(family).is_some() && self.to.of(family).is_some()
    }

    /// Felix: `poolIsCrossSubnet && localNode.V4CIDR.Contains(remoteNode.V4Addr)`, the local mask only; for an IPv6 pool,
    /// the same of the nodes' IPv6.
    fn are_near(self, family: Family) -> bool {
        let (from, to) = (self.from.of(family), self.to.of(family));
        from.zip(to).is_some_and(|(from, to)| from.subnet.contains(&to.address))
    }
}

/// How packets of a family travel: by what `pool` says of their destination, or by the encapsulation of its `own` that a
/// tunnel address has. Without a common family that this encapsulation could use, not at all.
///
/// VXLAN goes over the packets' own family, as by Calico's two devices; where the nodes do not share it, over the
/// other. Then they share no subnet either.
///
/// # Errors
/// The encapsulation that would be needed.
pub(super) fn decide(
    own: Option<Encap>,
    pool: Option<&PoolPlan>,
    ends: Ends<'_>,
    family: Family,
) -> Result<Way, Encap> {
    let encap = own.or(pool.map(|pool| pool.encap)).unwrap_or(Encap::Direct);
    let is_cross_subnet = pool.is_some_and(|pool| pool.cross_subnet && pool.encap == encap);
    let is_near = is_cross_subnet && ends.are_near(family);
    let (class, sent) = match (encap, is_near) {
        (Encap::Vxlan, true) => (RouteClass::VxlanSameSubnet, Encap::Direct),
        (Encap::Vxlan, false) => (RouteClass::VxlanTunnel, Encap::Vxlan),
        (Encap::Ipip, true) => (RouteClass::IpipSameSubnet, Encap::Direct),
        (Encap::Ipip, false) => (RouteClass::IpipTunnel, Encap::Ipip),
        (Encap::Direct, _) => (RouteClass::NoEncap, Encap::Direct),
    };
    let over = |underlay| Way { class, encap: sent, underlay };
    match sent {
        _ if ends.share(family) => Ok(over(family)),
        Encap::Vxlan if ends.share(family.other()) => Ok(over(family.other())),
        _ => Err(encap),
    }
}

/// What `pool` says of packets of its family, and what follows from it: "pool 10.65.0.0/16 says vxlan CrossSubnet;
/// 192.168.77.2 is inside this node's 192.168.77.0/24: no encapsulation". The sender is `whose`.
pub(super) fn because(pool: &PoolPlan, ends: Ends<'_>, whose: &str, way: Result<Way, Encap>) -> String {
    let family = Family::of(pool.cidr.addr());
    let (says, how) = (format!("pool {} says {}", pool.cidr, pool.mode()), words(way, family));
    match (ends.from.of(family), ends.to.of(family)) {
        (Some(from), Some(to)) if pool.cross_subnet => {
            let side = if from.subnet.contains(&to.address) { "inside" } else { "outside" };
            format!("{says}; {} is {side} {whose} {}: {how}", to.address, from.subnet)
        }
        (Some(_), Some(_)) => format!("{says}: {how}"),
        _ => format!("{says}; the two nodes have no {family} in common: {how}"),
    }
}

/// How packets of a family travel; the underlay's family where it is the other one.
pub(super) fn words(way: Result<Way, Encap>, family: Family) -> String {
    match way {
        Ok(Way { encap, underlay, .. }) if underlay != family => format!("{} over {underlay}", name(encap)),
        Ok(Way { encap, .. }) => name(encap).into(),
        Err(_) => "no way".into(),
    }
}

fn name(encap: Encap) -> &'static str {
    match encap {
        Encap::Ipip => "ipip",
        Encap::Vxlan => "vxlan",
        Encap::Direct => "no encapsulation",
    }
}
