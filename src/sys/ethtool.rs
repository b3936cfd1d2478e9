//! Features of an interface: what `ethtool -k` shows and `ethtool -K` sets (linux/ethtool.h).

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

// linux/sockios.h, linux/ethtool.h
const SIOCETHTOOL: libc::c_ulong = 0x8946;
const GSTRINGS: u32 = 0x1b;
const GSSET_INFO: u32 = 0x37;
const GFEATURES: u32 = 0x3a;
const SFEATURES: u32 = 0x3b;
const SS_FEATURES: u32 = 4;
/// Bytes of a feature's name, padded with zeros (`ETH_GSTRING_LEN`).
const NAME: usize = 32;

/// One feature of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// The kernel's name, like `tx-udp-segmentation`.
    pub name: String,
    /// In use.
    pub active: bool,
}

/// All features that the kernel knows, for `interface` of the calling thread's namespace.
///
/// # Errors
/// ENODEV; EOPNOTSUPP for an interface, or a sandbox, without ethtool.
pub fn features(interface: &str) -> io::Result<Vec<Feature>> {
    Interface::open(interface)?.features()
}

/// Switches features of `interface` on and off, as `wanted` says for each name; `None` leaves one as it is.
/// Hands back the features whose state is not the wanted one: the interface cannot change them.
///
/// # Errors
/// As [`features`]; EPERM without CAP_NET_ADMIN.
pub fn set_features(interface: &str, wanted: impl Fn(&str) -> Option<bool>) -> io::Result<Vec<Feature>> {
    let interface = Interface::open(interface)?;
    let before = interface.features()?;
    // struct ethtool_sfeatures: cmd, size, then { valid, requested } for each 32 features.
    let words = before.len().div_ceil(32);
    let mut request = vec![SFEATURES, words as u32];
    request.resize(2 + 2 * words, 0);
    for (index, feature) in before.iter().enumerate() {
        let (block, bit) = (2 + 2 * (index / 32), 1 << (index % 32));
        let Some(on) = wanted(&feature.name).filter(|on| *on != feature.active) else { continue };
        request[block] |= bit;
        request[block + 1] |= if on { bit } else { 0 };
    }
    interface.call(&mut request)?;
    let differs = |feature: &Feature| wanted(&feature.name).is_some_and(|on| on != feature.active);
    Ok(interface.features()?.into_iter().filter(differs).collect())
}

/// An interface's name beside a socket of its namespace.
struct Interface {
    socket: UdpSocket,
    name: [libc::c_char; libc::IFNAMSIZ],
}

impl Interface {
    fn open(interface: &str) -> io::Result<Self> {
        let mut name = [0; libc::IFNAMSIZ];
        if interface.len() >= name.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (to, from) in name.iter_mut().zip(interface.bytes()) {
            *to = from as libc::c_char;
        }
        Ok(Self { socket: UdpSocket::bind("0.0.0.0:0")?, name })
    }

    fn features(&self) -> io::Result<Vec<Feature>> {
        // struct ethtool_sset_info: cmd, reserved, 64 bits of which sets, then the length of each.
        let mut sets = [GSSET_INFO, 0, 0, 0, 0];
        // The 64 bits lie in two words, in the machine's order; set 4 is in the lower one.
        sets[if cfg!(target_endian = "little") { 2 } else { 3 }] = 1 << SS_FEATURES;
        self.call(&mut sets)?;
        let count = sets[4] as usize;
        // struct ethtool_gstrings: cmd, set, length, then the names.
        let mut names = vec![GSTRINGS, SS_FEATURES, count as u32];
        names.resize(3 + count * NAME / 4, 0);
        self.call(&mut names)?;
        // struct ethtool_gfeatures: cmd, size, then { available, requested, active, never_changed }.
        let words = count.div_ceil(32);
        let mut states = vec![GFEATURES, words as u32];
        states.resize(2 + 4 * words, 0);
        self.call(&mut states)?;
        let feature = |(index, name): (usize, &[u32])| Feature {
            name: text(name),
            active: states[2 + 4 * (index / 32) + 2] >> (index % 32) & 1 == 1,
        };
        Ok(names[3..].chunks_exact(NAME / 4).enumerate().map(feature).collect())
    }

    /// Carries out the command in `request`, whose first word names it.
    fn call(&self, request: &mut [u32]) -> io::Result<()> {
        let mut argument = libc::ifreq {
            ifr_name: self.name,
            ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: request.as_mut_ptr().cast() },
        };
        // SAFETY: the kernel reads an `ifreq`, which lives on this stack, and reads and writes the command's
        // structure at `ifru_data`: every caller above makes it as long as the lengths inside it say.
        let done = unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut argument) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn text(words: &[u32]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::netlink::VethEnd;
    use crate::sys::netns::Netns;

    fn veth() -> Netns {
        let netns = Netns::create().unwrap();
        let end = |name| VethEnd { name, mac: None, mtu: None, netns: None };
        netns.netlink().unwrap().add_veth(&end("near"), &end("far")).unwrap();
        netns
    }

    fn active(netns: &Netns, interface: &str, feature: &str) -> bool {
        let features = netns.run(|| features(interface)).unwrap().unwrap();
        features.iter().find(|f| f.name == feature).unwrap_or_else(|| panic!("no {feature}")).active
    }

    #[test]
    fn a_veth_stops_and_starts_to_carry_super_frames() {
        let netns = veth();
        assert!(active(&netns, "near", "tx-tcp-segmentation"));
        assert!(!active(&netns, "near", "rx-gro-list"));
        let swap = |name: &str| match name {
            "tx-tcp-segmentation" => Some(false),
            "rx-gro-list" => Some(true),
            _ => None,
        };
        assert_eq!(netns.run(|| set_features("near", swap)).unwrap().unwrap(), []);
        assert!(!active(&netns, "near", "tx-tcp-segmentation"));
        assert!(active(&netns, "near", "rx-gro-list"));
        assert!(active(&netns, "near", "tx-tcp6-segmentation"), "nobody asked for that");
        assert!(active(&netns, "far", "tx-tcp-segmentation"), "the other end is another interface");
    }

    #[test]
    fn what_cannot_be_changed_is_handed_back() {
        let netns = veth();
        let all_on = |name: &str| (name == "tx-nocache-copy" || name == "loopback").then_some(true);
        let left = netns.run(|| set_features("near", all_on)).unwrap().unwrap();
        assert_eq!(left, [Feature { name: "loopback".into(), active: false }]);
    }

    #[test]
    fn an_interface_that_is_not_there() {
        let error = veth().run(|| features("nowhere")).unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        assert_eq!(features("a-name-beyond-all-limits").unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
