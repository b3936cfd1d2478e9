//! Replays the corpora of the fuzz targets, with the targets' own bodies, on a stable compiler.

#[expect(unreachable_pub, reason = "the fuzz package's own library makes it public")]
#[path = "../fuzz/src/bodies/mod.rs"]
mod bodies;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn names_in(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_seed_keeps_every_invariant() {
    for (target, _) in bodies::TARGETS {
        let dir = fuzz_dir().join("corpus").join(target);
        let seeds = names_in(&dir);
        assert!(!seeds.is_empty(), "{} has no seed", dir.display());
        for seed in seeds {
            println!("{target}/{seed}");
            let input = fs::read(dir.join(&seed)).unwrap();
            bodies::run(target, &input);
            // What a search found is found whole, under its hash.
            if seed.len() == 40 && seed.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                continue;
            }
            // A cut seed is an input as well.
            for len in 0..input.len().min(128) {
                bodies::run(target, &input[..len]);
            }
        }
    }
}

/// Sequences by chance, always the same ones: a search on every test run, though a short one.
#[test]
fn what_chance_brings_follows_the_model() {
    for seed in 0..400 {
        let input = chance(seed, 300);
        println!("{seed}");
        bodies::run("sequence", &input);
    }
}

fn chance(seed: u32, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// A corpus without a body would never be replayed, a body without a binary never be fuzzed.
#[test]
fn targets_binaries_and_corpora_are_the_same_list() {
    let targets: BTreeSet<String> = bodies::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(targets.len(), bodies::TARGETS.len(), "a name stands twice");
    assert_eq!(names_in(&fuzz_dir().join("corpus")), targets);

    let binaries = names_in(&fuzz_dir().join("fuzz_targets"));
    assert_eq!(binaries, targets.iter().map(|name| format!("{name}.rs")).collect());
    let manifest = fs::read_to_string(fuzz_dir().join("Cargo.toml")).unwrap();
    for name in &targets {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} in Cargo.toml");
        let binary = fs::read_to_string(fuzz_dir().join("fuzz_targets").join(format!("{name}.rs"))).unwrap();
        assert!(binary.contains(&format!("bodies::run(\"{name}\", input)")), "{name} runs its own body");
    }
}

/// Writes the first seeds: packets of the kernel's (`tests/vectors`) taken apart, and a few by hand for what
/// the kernel sent none of. What fuzzing finds is added beside them by hand.
///
/// `cargo test --test fuzz_corpora -- --ignored`
#[test]
#[ignore = "writes into fuzz/corpus"]
fn write_the_seeds() {
    let ipip = vectors("ipip-kernel-6.1-vectors.jsonl");
    let vxlan = vectors("vxlan-kernel-6.18-vectors.jsonl");
    let macs = [0x66, 0xf9, 0x37, 0xc3, 0x7e, 0x94, 0x66, 0x2d, 0xbf, 0x44, 0xa6, 0x8b];
    let frame = |ethertype: [u8; 2], payload: &[u8]| [&macs, &ethertype[..], payload].concat();

    let packets = [
        ("udp", in_of(&ipip, "tos 0xb9 df1 ttl64")),
        ("ipip", in_of(&ipip, "outer ecn 3 inner ecn 2")),
        ("ipip-cut-inside", in_of(&ipip, "inner len 19 trunc")),
        ("ipv6-inside", in_of(&ipip, "inner is ipv6 (p=41)")),
        ("fragmentation-needed", in_of(&ipip, "frag-needed mtu 1300")),
        ("time-exceeded", out_of(&ipip, "inner ttl 1", 0)),
        ("last-fragment", out_of(&ipip, "len 1500 df0", 1)[20..].to_vec()),
        ("vxlan", in_of(&vxlan, "csum ok")),
        ("vxlan-reserved-bit", in_of(&vxlan, "reserved2 nonzero")),
        ("vxlan-cut", in_of(&vxlan, "truncated after vxlan hdr")),
        ("reserved-flag", hex("45000026123480004011c66dc0a84e320a41080a045708ae001200004141414141414141")),
        ("options", hex("47000020123400004011000ac0a84e320a41080a94040000010101000000000000")),
    ];
    for (name, packet) in &packets {
        write("ipv4", name, packet);
        write("flow", name, packet);
        write("ethernet_ip", name, &frame([0x08, 0x00], packet));
        write("checksum", name, &[&[5], &packet[..]].concat());
        let Some(payload) = packet.get(20..).filter(|_| packet[0] == 0x45) else { continue };
        match packet[9] {
            1 => write("icmpv4", name, payload),
            17 => write("udp", name, &[&packet[12..20], payload].concat()),
            _ => {}
        }
        if packet[9] == 17 && payload[2..4] == [0x12, 0xb5] {
            write("vxlan", name, &payload[8..]);
        }
    }
    write("icmpv4", "echo-request", &hex("080021001234000561626364"));
    write("icmpv4", "echo-request-zeros", &hex("0800f7ff00000000"));

    let segment = "0a41080a0a410914c00100500123456789abcdef601812344310000701010100616263";
    write("tcp", "data", &hex(segment));
    write("tcp", "syn", &hex("0a41080a0a410914c001005001234567000000007002faf00000000002040582010303070402"));

    let arp = |op, sender: &str, target: &str| {
        hex(&format!("000108000604000{op}02420a41080a{sender}000000000000{target}"))
    };
    for (name, message) in [
        ("request", arp(1, "0a41080a", "a9fe0101")),
        ("reply", arp(2, "0a41080a", "a9fe0101")),
        ("probe", arp(1, "00000000", "0a41080a")),
        ("announcement", arp(1, "0a41080a", "0a41080a")),
        ("reverse", arp(3, "0a41080a", "a9fe0101")),
    ] {
        write("arp", name, &message);
        write("ethernet_ip", &format!("arp-{name}"), &frame([0x08, 0x06], &message));
    }
    ipv6_seeds();
    for name in ["nodes", "pool", "pods"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/two-nodes");
        write("resource", name, &fs::read(path.join(format!("{name}.yaml"))).unwrap());
    }
    let dual_stack = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/dual-stack");
    let files = ["nodes", "pools", "pods"].map(|name| dual_stack.join(format!("{name}.yaml")));
    let texts = files.map(|path| fs::read_to_string(path).unwrap());
    write("resource", "dual-stack", texts.join("---\n").as_bytes());
    engine_seeds();
    engine_dual_seeds();
    segmentation_seeds();
    write("mac", "lower", b"66:f9:37:c3:7e:94");
    write("mac", "upper", b"EE:EE:EE:EE:EE:EE");
    write("mac", "dashes", b"66-f9-37-c3-7e-94");
}

/// The kernel's IPv6, taken apart as the targets want it.
fn ipv6_seeds() {
    let name_of = |vector: &serde_json::Value| {
        let name = vector["name"].as_str().unwrap();
        name.replace(", ", "-").replace(['\'', ','], "").replace(' ', "-")
    };
    let solicitations = vectors("ndp-kernel-6.18-vectors.jsonl");
    for vector in &solicitations {
        let given = hex(vector["in_frame"].as_str().unwrap());
        // Addresses, and what stands behind the fixed header.
        write("ndp", &name_of(vector), &given[22..]);
        if let Some(made) = vector["out_frame"][0].as_str() {
            write("ndp", &format!("{}-answer", name_of(vector)), &hex(made)[22..]);
        }
    }
    for name in ["gateway, from the pod's address", "gateway, probed with a nonce"] {
        let vector = named(&solicitations, name);
        write("ethernet_ip", &format!("ndp-{}", name_of(vector)), &hex(vector["in_frame"].as_str().unwrap()));
    }
    for vector in &vectors("icmpv6-kernel-6.18-vectors.jsonl") {
        for (packet, side) in [(&vector["in_ip"], "given"), (&vector["out_ip"][0], "made")] {
            let Some(packet) = packet.as_str().map(hex).filter(|packet| packet[6] == 58) else { continue };
            // A quote says no more after its first bytes.
            let end = packet.len().min(200);
            write("icmpv6", &format!("{}-{side}", name_of(vector)), &packet[8..end]);
        }
    }
    let tunnel = vectors("vxlan-v6-kernel-6.18-vectors.jsonl");
    for name in [
        "encap, tc 0xb9",
        "encap, no next header",
        "encap, every extension header",
        "encap, authentication header",
        "encap, first fragment",
        "encap, later fragment",
        "encap, single fragment",
        "encap, fragment 2 of a kernel's",
        "decap, inner ipv4",
        "decap, inner tc 0xb8 outer tc 0",
        "decap, behind destination options",
        "decap, inner cut short",
    ] {
        let vector = named(&tunnel, name);
        let packet = in_of(&tunnel, name);
        write("ipv6", &name_of(vector), &packet);
        write("flow", &format!("ipv6-{}", name_of(vector)), &packet);
        let macs = [0x66, 0xf9, 0x37, 0xc3, 0x7e, 0x94, 0x66, 0x2d, 0xbf, 0x44, 0xa6, 0x8b];
        write(
            "ethernet_ip",
            &format!("ipv6-{}", name_of(vector)),
            &[&macs, &[0x86, 0xdd][..], &packet].concat(),
        );
    }
}

/// Frames for the node of `tests/engine`: each port, each mode, each way to leave the fast path.
fn engine_seeds() {
    use bodies::engine::{Record, packets::*};
    use margay::wire::MacAddr;

    let record = |port, frame: margay::io::memory::MemoryFrame| Record {
        port,
        flags: 4,
        peer_and_ecn: 0,
        checksum: [20, 6],
        kind: 0,
        size: 1398,
        bytes: frame.bytes,
    };
    let seed = |name, records: &[Record]| {
        let mut input = Vec::new();
        records.iter().for_each(|record| record.write(&mut input));
        write("engine", name, &input);
    };
    let address = |text: &str| text.parse().unwrap();
    let (alpha, beta, node, peer) =
        (address("10.65.0.2"), address("10.65.0.3"), address("192.168.77.1"), address("192.168.77.2"));
    let remotes = ["10.65.0.66", "10.66.0.66", "10.67.0.66"].map(address);
    let mac = |last| MacAddr([2, 0, 0, 0, 0, last]);
    let vtep = |last| MacAddr([0x66, 0, 0, 0, 0, last]);
    let to = |dst| Ip::udp(alpha, dst, 4);

    let everywhere = [remotes[0], remotes[1], remotes[2], address("192.0.2.7"), node];
    seed("pod-to-everywhere", &everywhere.map(|dst| record(0, to(dst).sent_by(mac(10)))));
    let back = |src| Ip::udp(src, alpha, 4);
    let tunnels = [
        record(3, back(remotes[1]).in_ipip(peer, node)),
        record(4, back(remotes[0]).in_vxlan(peer, vtep(1), vtep(2))),
        record(5, back(remotes[2]).on_underlay()),
        record(6, back(address("192.0.2.7")).plain()),
        record(4, Ip::udp(remotes[0], node, 4).in_vxlan(peer, vtep(1), vtep(2))),
        record(4, Ip::new(peer, node, IPIP, back(remotes[1]).bytes()).in_vxlan(peer, vtep(1), vtep(2))),
    ];
    seed("everywhere-to-pod", &tunnels);
    let gateway = (MacAddr([0; 6]), address("169.254.1.1"));
    let asked = [
        record(0, to(beta).sent_by(mac(10))),
        record(1, arp(MacAddr::BROADCAST, 1, (mac(11), beta), gateway)),
        record(0, Ip::echo(alpha, gateway.1).sent_by(mac(10))),
    ];
    seed("neighbour-unknown", &asked);
    let errors = [
        record(0, to(beta).ttl(1).sent_by(mac(10))),
        record(0, to(address("10.65.9.9")).sent_by(mac(10))),
        record(4, back(remotes[0]).ttl(1).in_vxlan(peer, vtep(1), vtep(2))),
        record(0, Ip::udp(alpha, remotes[0], 1430).sent_by(mac(10))),
        record(0, Ip::udp(alpha, remotes[1], 1500).fragment(0).sent_by(mac(10))),
    ];
    seed("errors-and-fragments", &errors);
    let large = |dst| Record {
        flags: 7,
        checksum: [20, 16],
        ..record(0, Ip::tcp(alpha, dst, 3000).partial().sent_by(mac(10)))
    };
    seed("super-frame", &[large(remotes[0]), large(remotes[1])]);
    let arrived = Ip::tcp(remotes[1], alpha, 3000).partial().in_ipip(peer, node);
    let datagrams = Ip::udp(alpha, remotes[1], 3000).partial().sent_by(mac(10));
    let datagrams = Record { flags: 7, kind: 2, ..record(0, datagrams) };
    seed("super-frame-from-tunnel", &[record(3, arrived), datagrams]);
}

/// The same for a node of both families: what goes everywhere and comes from everywhere, and neighbour discovery.
fn engine_dual_seeds() {
    use bodies::engine::{Record, bed::*, packets6::*};
    use margay::wire::MacAddr;

    let record = |port, peer: u8, frame: margay::io::memory::MemoryFrame| Record {
        port,
        flags: 0,
        peer_and_ecn: peer << 2,
        checksum: [40, 16],
        kind: 0,
        size: 1370,
        bytes: frame.bytes,
    };
    let seed = |name, records: &[Record]| {
        let mut input = Vec::new();
        records.iter().for_each(|record| record.write(&mut input));
        write("engine_dual", name, &input);
    };
    let from_alpha = |ip: Ip6| record(0, 0, ip.sent_by(ALPHA_MAC));
    let everywhere = [BETA6, GAMMA6, B_OVER_V6, C_OVER_V4, B_DIRECT6, OUTSIDE6, NODE6, GATEWAY6];
    seed("pod-to-everywhere", &everywhere.map(|dst| from_alpha(Ip6::udp(ALPHA6, dst, 4))));
    let (over_v6, over_v4) = (Ip6::udp(B_OVER_V6, ALPHA6, 4), Ip6::udp(C_OVER_V4, ALPHA6, 4));
    let back = [
        record(4, 0, over_v6.in_vxlan(PEER_B6.into(), VTEP_A6, VTEP_B6)),
        record(3, 1, over_v6.in_vxlan(PEER_B.into(), VTEP_A, VTEP_B)),
        record(3, 2, over_v4.in_vxlan(PEER_C.into(), VTEP_A, VTEP_C)),
        record(5, 0, Ip6::udp(B_DIRECT6, ALPHA6, 4).on_underlay()),
        record(6, 0, Ip6::udp(OUTSIDE6, ALPHA6, 4).plain()),
    ];
    seed("everywhere-to-pod", &back);
    let discovery = [
        from_alpha(Ip6::solicitation(ALPHA6, GATEWAY6, GATEWAY6, Some(ALPHA_MAC))),
        from_alpha(Ip6::solicitation(ALPHA6, GATEWAY6, BETA6, None)),
        from_alpha(Ip6::udp(ALPHA6, GAMMA6, 4)),
        record(
            2,
            0,
            Ip6::advertisement((GAMMA6, GATEWAY6), 0x60, GAMMA6, MacAddr([2, 0, 0, 0, 0, 12]))
                .sent_by(GAMMA_MAC),
        ),
        from_alpha(Ip6::echo(ALPHA6, GATEWAY6)),
    ];
    seed("neighbour-discovery", &discovery);
    let errors = [
        from_alpha(Ip6::udp(ALPHA6, BETA6, 4).hops(1)),
        from_alpha(Ip6::udp(ALPHA6, B_OVER_V6, 1400)),
        from_alpha(Ip6::new(ALPHA6, B_OVER_V6, 60, [&[17, 0, 1, 4, 0, 0, 0, 0][..], &[9; 16]].concat())),
        from_alpha(Ip6::new(
            ALPHA6,
            B_OVER_V6,
            FRAGMENT,
            [&[17, 0, 0, 1, 0, 0, 0, 7][..], &[9; 16]].concat(),
        )),
    ];
    seed("errors-and-extensions", &errors);
    let large = Ip6::tcp(ALPHA6, B_OVER_V6, 0x10, &[], 3000).partial(16).0;
    seed("super-frame", &[Record { flags: 3, ..from_alpha(large) }]);
}

/// A super-frame of each kind, and streams to be cut and joined.
fn segmentation_seeds() {
    use bodies::engine::packets::*;

    let (alpha, beta) = ("10.65.0.2".parse().unwrap(), "10.65.0.3".parse().unwrap());
    let tcp = Ip::tcp(alpha, beta, 3000).partial().bytes();
    let udp = Ip::udp(alpha, beta, 3000).partial().bytes();
    // Flags, kind, length of the headers, size, start and field of the checksum.
    let header = |kind: u8, field: u8| [1, kind, 0, 0, 0x78, 5, 34, 0, field, 0];
    let ethernet = [&[2; 12][..], &[8, 0]].concat();
    let vxlan = [&[8, 0, 0, 0, 0, 0x10, 0, 0][..], &ethernet].concat();
    write("cut", "tcp", &[&header(1, 16)[..], &tcp].concat());
    write("cut", "tcp-ecn-ethernet", &[&header(0x81, 16)[..], &ethernet, &tcp].concat());
    write("cut", "udp-ethernet", &[&header(5, 6)[..], &ethernet, &udp].concat());
    write("cut", "udp-vxlan", &[&header(5, 6)[..], &vxlan, &udp].concat());
    let ipip = Ip::new(alpha, beta, IPIP, tcp).bytes();
    write("cut", "tcp-ipip", &[&header(1, 16)[..], &ipip].concat());

    let chance = |seed: u8, len: usize| -> Vec<u8> {
        let mut state = u32::from(seed) + 1;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..len).map(|_| next()).collect()
    };
    // What is taken and behind what, how many streams, TCP or not, and the rest as it comes.
    write("join", "tcp", &[&[1, 1, 1, 0, 0, 1][..], &chance(1, 60)].concat());
    write("join", "udp", &[&[1, 1, 0, 0, 0, 0][..], &chance(2, 60)].concat());
    write("join", "tcp-alone-is-taken", &[&[1, 0, 1, 0, 1, 0][..], &chance(3, 150)].concat());
    write("join", "three-streams", &[&[1, 1, 1, 0, 2, 1][..], &chance(4, 400)].concat());
    write("join", "zeros", &[1, 1, 1]);
}

type Vectors = Vec<serde_json::Value>;

fn vectors(file: &str) -> Vectors {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(file);
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn named<'a>(vectors: &'a Vectors, name: &str) -> &'a serde_json::Value {
    vectors.iter().find(|vector| vector["name"] == name).unwrap_or_else(|| panic!("no vector {name}"))
}

fn in_of(vectors: &Vectors, name: &str) -> Vec<u8> {
    hex(named(vectors, name)["in_ip"].as_str().unwrap())
}

fn out_of(vectors: &Vectors, name: &str, index: usize) -> Vec<u8> {
    hex(named(vectors, name)["out_ip"][index].as_str().unwrap())
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).unwrap() as u8;
    text.as_bytes().chunks(2).map(|pair| digit(&pair[0]) << 4 | digit(&pair[1])).collect()
}

fn write(target: &str, name: &str, input: &[u8]) {
    let dir = fuzz_dir().join("corpus").join(target);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(name), input).unwrap();
}
