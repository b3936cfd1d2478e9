//! Where does a node send a packet? Longest prefix match as a library user sees it.
//!
//! ```text
//! cargo run --example lpm_lookup                 # some addresses
//! cargo run --example lpm_lookup -- 10.244.3.9   # yours
//! ```

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};

use margay::lpm::{Lpm, Prefix, longest_match};

/// A node's routes in a small cluster: everything else goes to the host; two blocks are other nodes',
/// one is this node's own with a pod in it, and one pod has moved from node-b to node-c.
const ROUTES: [(&str, &str); 6] = [
    ("0.0.0.0/0", "the host"),
    ("10.244.3.0/26", "drop: nobody has this address here"),
    ("10.244.3.9/32", "the pod behind endpoint web"),
    ("10.244.7.64/26", "node-b by VXLAN"),
    ("10.244.9.128/26", "node-c by VXLAN"),
    ("10.244.7.77/32", "node-c by VXLAN"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let routes: Vec<(Prefix, &str)> = ROUTES
        .iter()
        .map(|&(prefix, action)| Ok((prefix.parse()?, action)))
        .collect::<Result<_, ipnet::AddrParseError>>()?;

    // A table maps prefixes to numbers: here the index of the route. Its default is for addresses that
    // no prefix holds; 0.0.0.0/0 leaves none.
    let numbered = routes.iter().enumerate().filter_map(|(index, (prefix, _))| match prefix {
        Prefix::V4(prefix) => Some((prefix.addr(), prefix.prefix_len(), index as u32)),
        Prefix::V6(_) => None,
    });
    let table: Lpm<Ipv4Addr> = Lpm::build(0, numbered)?;
    println!("{} routes, {} KiB\n", routes.len(), table.memory() >> 10);

    let mut asked: Vec<Ipv4Addr> =
        std::env::args().skip(1).map(|text| text.parse()).collect::<Result<_, _>>()?;
    if asked.is_empty() {
        asked = [[10, 244, 3, 9], [10, 244, 3, 10], [10, 244, 7, 76], [10, 244, 7, 77], [192, 0, 2, 1]]
            .map(Ipv4Addr::from)
            .to_vec();
    }
    for addr in asked {
        // The fast path: what a worker does for each packet.
        let (_, action) = routes[table.lookup(addr) as usize];
        // For people: the same answer with its prefix, found by reading every route.
        let (prefix, same) = longest_match(IpAddr::V4(addr), routes.iter().copied()).ok_or("no route")?;
        assert_eq!(action, same);
        println!("{:<15} {:<18} {action}", addr.to_string(), prefix.to_string());
    }
    Ok(())
}
