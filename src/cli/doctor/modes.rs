//! What of margay works with what was found.

use serde::Serialize;

use super::facility::{Facility, Finding, State};

/// How packets travel between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// UDP port 4789
    Vxlan,
    /// IP in IP, protocol 4
    Ipip,
    /// No encapsulation
    None,
}

/// How pods are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Endpoints {
    /// By a TAP in the pod's namespace.
    Tap,
    /// By a veth whose host end is here.
    Veth,
}

/// As whom margay runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Privilege {
    /// With capabilities over this network namespace.
    Root,
    /// Without.
    Rootless,
}

/// Whether a mode works with a kind of endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outlook {
    /// The mode.
    pub mode: Mode,
    /// The endpoints.
    pub endpoints: Endpoints,
    /// Whether.
    pub works: bool,
    /// As whom.
    pub privilege: Privilege,
    /// What it lacks.
    pub missing: Vec<Facility>,
}

/// Of every mode with every kind of endpoints.
pub(super) fn outlook(findings: &[Finding]) -> Vec<Outlook> {
    let has = |facility| {
        let found = findings.iter().find(|finding| finding.facility == facility);
        found.is_some_and(|finding| finding.state == State::Works)
    };
    // What could not be tried may work.
    let lacks = |facility| {
        let found = findings.iter().find(|finding| finding.facility == facility);
        found.is_none_or(|finding| finding.state == State::Missing)
    };
    let privilege = match has(Facility::RawSocket) && has(Facility::NetAdmin) {
        true => Privilege::Root,
        false => Privilege::Rootless,
    };
    let mut all = Vec::new();
    for mode in [Mode::Vxlan, Mode::Ipip, Mode::None] {
        for endpoints in [Endpoints::Tap, Endpoints::Veth] {
            let needed = [by_mode(mode), by_endpoints(endpoints)].concat();
            let mut missing: Vec<Facility> = needed.into_iter().filter(|needed| lacks(*needed)).collect();
            let enters = has(Facility::EnterNamespaces) || has(Facility::UserNamespaces);
            if endpoints == Endpoints::Tap && !enters {
                missing.extend([Facility::EnterNamespaces, Facility::UserNamespaces]);
            }
            missing.sort_unstable();
            missing.dedup();
            all.push(Outlook { mode, endpoints, works: missing.is_empty(), privilege, missing });
        }
    }
    all
}

fn by_mode(mode: Mode) -> &'static [Facility] {
    match mode {
        Mode::Vxlan => &[Facility::VxlanPort],
        Mode::Ipip => &[Facility::RawSocket, Facility::PacketSocket, Facility::NetAdmin, Facility::Protocol4],
        Mode::None => &[Facility::RawSocket, Facility::PacketSocket, Facility::NetAdmin],
    }
}

fn by_endpoints(endpoints: Endpoints) -> &'static [Facility] {
    match endpoints {
        Endpoints::Tap => &[Facility::TunDevice, Facility::Tap],
        Endpoints::Veth => &[Facility::NetAdmin, Facility::RawSocket, Facility::PacketSocket],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_but(missing: &[Facility]) -> Vec<Finding> {
        let find = |facility| match missing.contains(&facility) {
            true => Finding::missing(facility, "taken away"),
            false => Finding::works(facility, "there"),
        };
        Facility::ALL.into_iter().map(find).collect()
    }

    fn working(findings: &[Finding]) -> Vec<(Mode, Endpoints, Privilege)> {
        let works = outlook(findings).into_iter().filter(|outlook| outlook.works);
        works.map(|outlook| (outlook.mode, outlook.endpoints, outlook.privilege)).collect()
    }

    #[test]
    fn with_everything_everything_works() {
        assert_eq!(working(&all_but(&[])).len(), 6);
        assert!(working(&all_but(&[])).iter().all(|(.., privilege)| *privilege == Privilege::Root));
    }

    #[test]
    fn an_ordinary_user_has_vxlan_with_taps() {
        use Facility::{EnterNamespaces, IcmpSocket, NetAdmin, PacketSocket, RawSocket};
        let ordinary = all_but(&[EnterNamespaces, NetAdmin, RawSocket, IcmpSocket, PacketSocket]);
        assert_eq!(working(&ordinary), [(Mode::Vxlan, Endpoints::Tap, Privilege::Rootless)]);
    }

    #[test]
    fn without_tun_there_are_veths_and_without_the_port_there_is_no_vxlan() {
        let taps = |findings: &[Finding]| {
            working(findings).into_iter().filter(|(_, endpoints, _)| *endpoints == Endpoints::Tap).count()
        };
        assert_eq!(taps(&all_but(&[Facility::TunDevice])), 0);
        assert_eq!(working(&all_but(&[Facility::TunDevice])).len(), 3);
        let without = working(&all_but(&[Facility::VxlanPort]));
        assert!(without.len() == 4 && without.iter().all(|(mode, ..)| *mode != Mode::Vxlan));
    }
}
