//! tshark reads what nodes send to each other, checksums on, in each mode and both families, and has nothing to complain of.
//!
//! It needs tshark (Debian: `apt-get install tshark`), and is not part of the default run:
//!
//! `cargo test --test tshark -- --ignored`

mod lab;

use std::fs;
use std::process::Command;

use lab::{build, margay};
use margay::sys::ethtool::set_features;
use margay::testbed::{Capture, Frame, Lab, LabSpec, Mode, Ping, ping, transfer, udp_echo};
use margay::wire::Family;
use tempfile::TempDir;

/// What is complained of: malformed, a wrong checksum, a warning or an error of tshark's experts.
const COMPLAINTS: &str = "_ws.malformed || ip.checksum.status == 0 || udp.checksum.status == 0 || tcp.checksum.status == 0 \
    || icmp.checksum.status == 0 || icmpv6.checksum.status == 0 || _ws.expert.severity >= 0x600000";

/// Checksums are looked at; what a capture of a part says of TCP's numbers is not.
const PREFERENCES: [&str; 4] = [
    "ip.check_checksum:TRUE",
    "udp.check_checksum:TRUE",
    "tcp.check_checksum:TRUE",
    "tcp.analyze_sequence_numbers:FALSE",
];

/// The classic format (draft-ietf-opsawg-pcap): microseconds, Ethernet.
fn pcap(frames: &[Frame]) -> Vec<u8> {
    let mut file = [0xa1b2_c3d4_u32, 0x0002_0004, 0, 0, 262_144, 1].map(u32::to_ne_bytes).concat();
    file[4..8].copy_from_slice(&[2_u16, 4].map(u16::to_ne_bytes).concat());
    for (index, frame) in (0_u32..).zip(frames) {
        let len = frame.bytes.len() as u32;
        file.extend([0, index, len, len].map(u32::to_ne_bytes).concat());
        file.extend(&frame.bytes);
    }
    file
}

fn tshark(file: &str, filter: &str) -> String {
    let mut command = Command::new("tshark");
    command.args(["-r", file, "-Y", filter, "-P", "-V"]);
    command.args(PREFERENCES.iter().flat_map(|preference| ["-o", preference]));
    let output = command.output().unwrap_or_else(|error| panic!("tshark ({error}): apt-get install tshark"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Pings, a stream each way, and datagrams that take fragments, from the first node's pod to the second's.
fn speaks(lab: &Lab, family: Family) {
    let (a, b) = (&lab.nodes[0].pods[0], &lab.nodes[1].pods[0]);
    let [from, to] = [a, b].map(|pod| pod.address_of(family).expect("a pod of that family"));
    let report = ping(&a.netns, to, Ping::default()).unwrap();
    assert_eq!(report.lost(), 0, "{from} to {to}");
    for (near, far, address) in [(a, b, to), (b, a, from)] {
        let moved = transfer(&near.netns, &far.netns, address, 2_000_000).unwrap();
        assert!(moved.intact(), "{from} to {to}: {moved:?}");
    }
    let report = udp_echo(&a.netns, &b.netns, to, 4_000..=4_002).unwrap();
    assert_eq!(report.returned, 3, "{from} to {to}");
}

fn has_nothing_to_complain_of(spec: LabSpec, families: &[Family]) {
    let what = format!("{:?} {families:?}", spec.mode);
    let mut lab = build(spec);
    lab.real_frames().unwrap();
    for node in &lab.nodes {
        // A virtual interface says that it adds checksums up, and nobody does; what it joined nobody has sent.
        let is_off = |feature: &str| feature.starts_with("tx-checksum") || feature.starts_with("rx-gro");
        let off = || set_features("eth0", |feature| is_off(feature).then_some(false));
        node.netns.run(off).unwrap().unwrap();
    }
    lab.start(margay(), &[]).unwrap_or_else(|error| panic!("{error}"));
    let capture = Capture::start(&lab.nodes[0].netns, "eth0").unwrap();
    families.iter().for_each(|family| speaks(&lab, *family));
    let frames = capture.stop();
    assert!(frames.len() > 1_000, "{what}: {} frames", frames.len());
    let place = TempDir::new().unwrap();
    let file = place.path().join("underlay.pcap");
    fs::write(&file, pcap(&frames)).unwrap();
    let file = file.to_str().unwrap();
    let complaints = tshark(file, COMPLAINTS);
    assert!(complaints.is_empty(), "{what}:\n{}", complaints.chars().take(4_000).collect::<String>());
    // It would have seen one: the same with a byte of each frame's end changed.
    let spoilt: Vec<Frame> = frames
        .into_iter()
        .take(200)
        .map(|mut frame| {
            if let Some(last) = frame.bytes.last_mut() {
                *last ^= 0x55;
            }
            frame
        })
        .collect();
    fs::write(file, pcap(&spoilt)).unwrap();
    assert!(!tshark(file, COMPLAINTS).is_empty(), "{what}: nothing is found in what is wrong");
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

#[test]
#[ignore = "needs tshark: cargo test --test tshark -- --ignored"]
fn of_ipip() {
    has_nothing_to_complain_of(LabSpec::new(Mode::Ipip), &[Family::V4]);
}

#[test]
#[ignore = "needs tshark: cargo test --test tshark -- --ignored"]
fn of_vxlan() {
    has_nothing_to_complain_of(LabSpec::dual(Mode::Vxlan), &Family::ALL);
}

#[test]
#[ignore = "needs tshark: cargo test --test tshark -- --ignored"]
fn of_no_encapsulation() {
    has_nothing_to_complain_of(LabSpec::dual(Mode::None), &Family::ALL);
}
