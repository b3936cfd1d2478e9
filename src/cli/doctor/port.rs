//! Who has a UDP port of this network namespace, as far as `/proc` and route netlink tell.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::sys::netlink::{Link, Netlink};

/// A socket that has the port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Holder {
    inode: u64,
    user: u32,
}

/// For people: who has UDP port `port`.
pub(super) fn holders(port: u16) -> String {
    let tables = ["udp", "udp6"].map(|name| fs::read_to_string(format!("/proc/thread-self/net/{name}")));
    let holders: BTreeSet<Holder> = tables.iter().flatten().flat_map(|table| sockets(table, port)).collect();
    if holders.is_empty() {
        return "somebody whom /proc does not show".into();
    }
    holders.iter().map(describe).collect::<Vec<_>>().join(", ")
}

/// The sockets of a table like `/proc/net/udp` that have a port.
fn sockets(table: &str, port: u16) -> impl Iterator<Item = Holder> {
    table.lines().filter_map(move |line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let local = fields.get(1)?.rsplit(':').next()?;
        let is_it = u16::from_str_radix(local, 16).is_ok_and(|local| local == port);
        is_it.then_some(())?;
        Some(Holder { user: fields.get(7)?.parse().ok()?, inode: fields.get(9)?.parse().ok()? })
    })
}

fn describe(holder: &Holder) -> String {
    if let Some(process) = process_with(holder.inode) {
        return process;
    }
    let devices = vxlan_devices();
    match devices.is_empty() {
        true => format!("a process of user {} that cannot be seen from here, or the kernel", holder.user),
        false => format!("the kernel (vxlan device {})", devices.join(", ")),
    }
}

/// A device that is up has a socket, which is no process's.
fn vxlan_devices() -> Vec<String> {
    let links = Netlink::open().and_then(|mut netlink| netlink.links()).unwrap_or_default();
    let is_one = |link: &Link| link.up && link.kind.as_deref() == Some("vxlan");
    links.into_iter().filter(is_one).map(|link| link.name).collect()
}

fn process_with(inode: u64) -> Option<String> {
    let wanted = format!("socket:[{inode}]");
    let has_it = |process: &Path| {
        let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        descriptors
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .any(|target| target == Path::new(&wanted))
    };
    let processes = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path());
    let process = processes
        .filter(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes()[0].is_ascii_digit()))
        .find(|path| has_it(path))?;
    let name = fs::read_to_string(process.join("comm")).ok()?;
    Some(format!("{} (process {})", name.trim(), process.file_name()?.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_port_is_found() {
        let socket = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let who = holders(socket.local_addr().unwrap().port());
        assert!(who.contains(&format!("(process {})", std::process::id())), "{who}");
    }

    #[test]
    fn the_table_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
            42: 00000000:12B5 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 77 2 0000000000000000 0\n\
            43: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 1234 2 0000000000000000 0\n";
        assert_eq!(sockets(table, 4789).collect::<Vec<_>>(), [Holder { inode: 77, user: 0 }]);
        assert_eq!(sockets(table, 53).collect::<Vec<_>>(), [Holder { inode: 1234, user: 101 }]);
    }
}
