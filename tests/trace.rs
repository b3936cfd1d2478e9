//! `margay trace --far`: a packet's way over two nodes, as both daemons tell of it.

mod lab;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use etherparse::{IpNumber, PacketBuilder};
use lab::{Packet, build, margay, reaches, start, until};
use margay::agent::capture::Trace;
use margay::control::client::Client;
use margay::rib::Attach;
use margay::sys::netlink::LinkChange;
use margay::testbed::{Capture, Frame, Lab, LabSpec, Mode, Ping, Stack, ping};
use margay::wire::Family;
use serde_json::Value;
use tempfile::TempDir;

fn socket(lab: &Lab, node: usize) -> PathBuf {
    lab.nodes[node].control_socket().unwrap()
}

fn trace(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = Command::new(margay());
    command.arg("trace").args(arguments).env("MARGAY_CONTROL_SOCKET", socket(lab, 0));
    command
}

/// A packet from the first pod of node-a, with node-b's part.
fn far(lab: &Lab, far: &Path, arguments: &[&str]) -> Output {
    let from = format!("default/{}", lab.nodes[0].pods[0].name);
    let arguments = [&["--from", &from, "--far", far.to_str().unwrap()], arguments].concat();
    trace(lab, &arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What it prints if all goes well.
fn told(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

/// All are there, in this order.
fn in_order(text: &str, words: &[&str]) {
    words.iter().fold(text, |rest, word| match rest.split_once(word) {
        Some((_, rest)) => rest,
        None => panic!("{word:?} is missing, or not after what stands before it: {text}"),
    });
}

#[test]
fn both_nodes_tell_of_a_packet_that_is_sent_or_considered() {
    for (mode, attach, out, tunnel) in [
        (Mode::Vxlan, Attach::Tap, "vxlan", "VXLAN (UDP port 4789, VNI 4096)"),
        (Mode::Ipip, Attach::Tap, "ipip", "IPIP (protocol 4)"),
        (Mode::None, Attach::Veth, "direct", ""),
    ] {
        let lab = start(LabSpec { attach, ..LabSpec::new(mode) }, &[]);
        let (pod, there) = (&lab.nodes[0].pods[0], &lab.nodes[1].pods[0]);
        reaches(&pod.netns, there.address, "before the trace: all MACs are known");
        let to = there.address.to_string();
        let (name, other) = (format!("default/{}", pod.name), format!("default/{}", there.name));
        let [a, b] = &lab.nodes;
        let (received, from) =
            if out == "direct" { ("underlay", "underlay in: ") } else { (out, "in: 192.168.77.1") };
        let [encapsulated, decapsulated] = ["encapsulation", "decapsulation"].map(|step| match tunnel {
            "" => String::new(),
            tunnel => format!("{step}: {tunnel} from {} to {}", a.address(), b.address()),
        });
        let arrival = Capture::start(&there.netns, "eth0").unwrap();
        for (probe, send) in [("tcp", true), ("udp", true), ("tcp", false)] {
            let probe = format!("--{probe}");
            let arguments =
                [&["--to", &to, &probe, "4711"][..], if send { &["--send"] } else { &[] }].concat();
            let told = told(&far(&lab, &socket(&lab, 1), &arguments));
            let (left, arrived, end) = match send {
                true => ("sent to node node-b", "socket: sent", "really sent"),
                false => (
                    "would leave here to node node-b: not sent",
                    "socket: would leave here",
                    "Nothing was sent: each node",
                ),
            };
            in_order(
                &told,
                &[
                    "node-a:\n",
                    &format!("{name} in: "),
                    "antispoof: ",
                    &format!("lookup: {to} is in {}", b.block),
                    &format!("\n{out} out: "),
                    &encapsulated,
                    &format!("socket: {left}"),
                    "\nnode-b:\n",
                    from,
                    &format!(" bytes at {received} from node node-a"),
                    &decapsulated,
                    "antispoof: ",
                    &format!("lookup: {to} is in {to}/32: endpoint "),
                    &format!("verdict: to {other}"),
                    &format!("\n{other} out: "),
                    arrived,
                    end,
                ],
            );
        }
        let arrived = lab::packets(&arrival.stop());
        let injected = |packet: &&Packet| packet.payload.get(..4) == Some(&[0xbb, 0x12, 0x12, 0x67]);
        assert_eq!(arrived.iter().filter(injected).count(), 2, "considered once, sent twice");
    }
}

/// IPv6 as IPv4: every probe, over every way that IPv6 has.
#[test]
fn both_nodes_tell_of_an_ipv6_packet() {
    for (mode, underlay, out) in [
        (Mode::Vxlan, Stack::Dual, "vxlan"),
        (Mode::Vxlan, Stack::V4, "vxlan"),
        (Mode::None, Stack::Dual, "direct"),
    ] {
        let lab = start(LabSpec { underlay, ..LabSpec::dual(mode) }, &[]);
        let [a, b] = &lab.nodes;
        let (pod, there) = (&a.pods[0], &b.pods[0]);
        let [from, to] = [pod, there].map(|pod| pod.address_of(Family::V6).unwrap());
        reaches(&pod.netns, to, "before the trace: all MACs are known");
        let over = if underlay == Stack::V4 { Family::V4 } else { Family::V6 };
        let [near, far_end] = [a, b].map(|node| node.underlay_of(over).unwrap().addr());
        let [encapsulated, decapsulated] = ["encapsulation", "decapsulation"].map(|step| match out {
            "vxlan" => format!("{step}: VXLAN (UDP port 4789, VNI 4096) from {near} to {far_end}"),
            _ => String::new(),
        });
        let received = if out == "direct" { "underlay" } else { out };
        let (name, other) = (format!("default/{}", pod.name), format!("default/{}", there.name));
        let arrival = Capture::start(&there.netns, "eth0").unwrap();
        for (probe, seen) in [
            (&["--tcp", "4711"][..], format!("{from}.47890 > {to}.4711: TCP [S]")),
            (&["--udp", "4711"], format!("{from}.47890 > {to}.4711: UDP")),
            (&["--icmp"], format!("{from} > {to}: ICMPv6 echo request")),
        ] {
            for send in [&["--send"][..], &[]] {
                let to = to.to_string();
                let told = told(&far(&lab, &socket(&lab, 1), &[&["--to", &to][..], probe, send].concat()));
                let end = if send.is_empty() { "Nothing was sent: each node" } else { "really sent" };
                in_order(
                    &told,
                    &[
                        "node-a:\n",
                        &format!("{name} in: "),
                        &seen,
                        &format!("antispoof: {from} may be sent by {name}"),
                        &format!("lookup: {to} is in {}", b.block_of(Family::V6).unwrap()),
                        &format!("\n{out} out: "),
                        &seen,
                        &encapsulated,
                        "\nnode-b:\n",
                        &format!("{received} in: "),
                        &seen,
                        &format!(" bytes at {received} from node node-a"),
                        &decapsulated,
                        &format!("antispoof: {from} "),
                        &format!("lookup: {to} is in {to}/128: endpoint "),
                        &format!("verdict: to {other}"),
                        &format!("\n{other} out: "),
                        &seen,
                        end,
                    ],
                );
            }
        }
        let injected = |frame: &&Frame| {
            let is_from_it = frame.bytes.get(12..14) == Some(&[0x86, 0xdd])
                && IpAddr::from(<[u8; 16]>::try_from(&frame.bytes[22..38]).unwrap()) == from;
            is_from_it && frame.bytes.windows(2).any(|pair| pair == 47_890_u16.to_be_bytes())
        };
        assert_eq!(arrival.stop().iter().filter(injected).count(), 3, "considered thrice, sent thrice");
    }
}

#[test]
fn an_address_of_the_family_is_needed() {
    let lab = start(LabSpec::new(Mode::Vxlan), &[]);
    let output = far(&lab, &socket(&lab, 1), &["--to", "fd10:65::42"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = text(&output.stderr);
    assert!(error.contains("default/pod-a1 has no IPv6 address"), "{error}");
}

/// It is shown waiting, the question is the node's own, and it is shown when it goes.
#[test]
fn a_packet_that_waits_for_a_mac_at_the_far_node_is_seen_to_its_end() {
    let mut lab = build(LabSpec { attach: Attach::Veth, ..LabSpec::new(Mode::Vxlan) });
    for file in fs::read_dir(lab.resources.path()).unwrap().map(|file| file.unwrap().path()) {
        let resources = fs::read_to_string(&file).unwrap();
        let says_no_mac = resources.lines().filter(|line| !line.trim_start().starts_with("mac:"));
        fs::write(&file, says_no_mac.collect::<Vec<_>>().join("\n")).unwrap();
    }
    lab.start(margay(), &[]).unwrap();
    let there = &lab.nodes[1].pods[0];
    let to = there.address.to_string();
    let told = told(&far(&lab, &socket(&lab, 1), &["--to", &to, "--udp", "53", "--send"]));
    let out = format!("default/{} out: ", there.name);
    in_order(
        &told,
        &["node-b:\n", "antispoof: ", "verdict: punted: neighbor_unresolved", &out, "socket: sent"],
    );
}

#[test]
fn a_drop_at_the_far_node_is_named() {
    for mode in [Mode::Vxlan, Mode::Ipip] {
        let lab = start(LabSpec::new(mode), &[]);
        for send in [true, false] {
            let arguments =
                [&["--to", "10.65.0.99", "--tcp", "80"][..], if send { &["--send"] } else { &[] }].concat();
            let told = told(&far(&lab, &socket(&lab, 1), &arguments));
            in_order(
                &told,
                &[
                    "node-a:\n",
                    "node-b:\n",
                    "decapsulation: ",
                    "antispoof: 10.65.0.2 may come from node node-a",
                    "lookup: 10.65.0.99 is in 10.65.0.64/26: block 10.65.0.64/26 of this node",
                    "verdict: dropped: blackhole: ",
                ],
            );

            let arguments = [&arguments[..], &["-o", "json"]].concat();
            let told: Value =
                serde_json::from_slice(&far(&lab, &socket(&lab, 1), &arguments).stdout).unwrap();
            assert_eq!(told["sent"], send);
            assert_eq!(told["onward"]["node"], "node-b");
            let [near, far] = &told["nodes"].as_array().unwrap()[..] else { panic!("two nodes: {told}") };
            assert_eq!((&near["node"], &far["node"]), (&"node-a".into(), &"node-b".into()));
            assert_eq!(
                (near["frames"].as_array().unwrap().len(), far["frames"].as_array().unwrap().len()),
                (2, 1)
            );
            let steps = far["frames"][0]["steps"].as_array().unwrap();
            let last = steps.last().unwrap();
            assert_eq!(last["name"], "verdict");
            assert!(last["text"].as_str().unwrap().starts_with("dropped: blackhole: "), "{last}");
        }
    }
}

#[test]
fn what_does_not_arrive_is_told_with_what_to_look_at() {
    let lab = start(LabSpec::new(Mode::Vxlan), &[]);
    let to = lab.nodes[1].pods[0].address.to_string();
    reaches(&lab.nodes[0].pods[0].netns, lab.nodes[1].pods[0].address, "before the cable is cut");
    // Not this node's packet, or nobody's but its own.
    let told_to_other = told(&far(&lab, &socket(&lab, 0), &["--to", &to, "--send"]));
    in_order(
        &told_to_other,
        &["node-a sends it to node-b, not here", "It goes on to node-b (192.168.77.2), which no --far"],
    );
    let neighbor = lab.nodes[0].pods[1].address.to_string();
    for send in [&["--send"][..], &[]] {
        let told = told(&far(&lab, &socket(&lab, 1), &[&["--to", &neighbor][..], send].concat()));
        assert!(told.contains("node-a sends it to no other node"), "{told}");
    }

    lab.nodes[1].netns.netlink().unwrap().set_link("eth0", &[LinkChange::Down]).unwrap();
    let told = told(&far(&lab, &socket(&lab, 1), &["--to", &to, "--send"]));
    in_order(
        &told,
        &["socket: sent to node node-b", "node-b:\n", "node-b did not see it within 2s", "VXLAN's UDP port"],
    );
}

/// Answers each request for a path, and 404 to all others, for ever.
fn pretend(socket: &Path, path: &'static str, answer: &'static str) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let first = lines.next().unwrap_or_default();
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            let (status, body) = match first.split(' ').nth(1) == Some(path) {
                true => ("200 OK", answer),
                false => ("404 Not Found", r#"{"error":"there is nothing of the kind"}"#),
            };
            let head =
                format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
        }
    });
}

#[test]
fn a_far_node_that_cannot_be_asked_is_told_after_the_near_part() {
    let lab = start(LabSpec::new(Mode::Ipip), &[]);
    let to = lab.nodes[1].pods[0].address.to_string();
    let place = TempDir::new().unwrap();
    let [nobody, closed, older] = ["nobody", "closed", "older"].map(|name| place.path().join(name));
    // As ssh -L behaves that does not get through.
    let listener = UnixListener::bind(&closed).unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    pretend(&older, "/v1/status", r#"{"node":"node-b","version":"0.0.1","of":"long ago"}"#);
    for (socket, expected) in [
        (&nobody, &["no daemon listens there: forward", "ssh -L"][..]),
        (&closed, &["look whether a margay daemon runs at its other end"]),
        (&older, &["there is nothing of the kind", "its daemon is margay 0.0.1, this is "]),
    ] {
        for send in [&["--send"][..], &[]] {
            let output = far(&lab, socket, &[&["--to", &to, "--udp", "53"][..], send].concat());
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            in_order(
                &text(&output.stdout),
                &["node-a:\n", "verdict: to IPIP tunnel to node node-b", "ipip out: "],
            );
            let error = text(&output.stderr);
            assert_eq!(error.lines().count(), 1, "{error}");
            assert!(error.contains(&format!("--far {}: ", socket.display())), "{error}");
            expected.iter().for_each(|word| assert!(error.contains(word), "{word}: {error}"));
        }
    }
    let output = far(&lab, &nobody, &["--to", &to, "-o", "yaml"]);
    in_order(&text(&output.stdout), &["sent: false", "node: node-a", "remark: ", "no daemon listens there"]);
}

#[test]
fn what_would_not_arrive_is_refused_with_the_reason() {
    let lab = start(LabSpec::new(Mode::Vxlan), &[]);
    let client = Client::new(&socket(&lab, 1)).unwrap();
    let refused = |interface: &str, packet: &str| {
        let arrival = format!("/v1/trace/arrival?interface={interface}&packet={packet}");
        client.post::<Trace>(&arrival).unwrap_err().to_string()
    };
    let header = |protocol, to: [u8; 4]| {
        let mut packet = Vec::new();
        let ip = PacketBuilder::ipv4([192, 168, 77, 1], to, 64);
        match protocol {
            17 => ip.udp(1, 8472).write(&mut packet, &[0; 60]).unwrap(),
            _ => ip.write(&mut packet, IpNumber(protocol), &[0; 60]).unwrap(),
        }
        packet.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let header_v6 = || {
        let mut packet = Vec::new();
        let [from, to] = ["fd10:77::1", "fd10:77::9"].map(|address| address.parse::<Ipv6Addr>().unwrap());
        PacketBuilder::ipv6(from.octets(), to.octets(), 64)
            .udp(1, 4789)
            .write(&mut packet, &[0; 60])
            .unwrap();
        packet.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    for (interface, packet, why) in [
        ("vxlan", "4".into(), "not in hexadecimal digits"),
        ("vxlan", "450g".into(), "not in hexadecimal digits"),
        ("vxlan", "4500".into(), "no IPv4 packet"),
        ("vxlan", "6500".into(), "no IPv6 packet"),
        ("vxlan", "0000".into(), "no IP packet"),
        ("vxlan", header_v6(), "it goes to fd10:77::9, but node-b has no IPv6 address"),
        ("vxlan", header(17, [192, 168, 77, 9]), "it goes to 192.168.77.9, but node-b has 192.168.77.2"),
        ("vxlan", header(17, [192, 168, 77, 2]), "it goes to UDP port 8472, but node-b takes VXLAN at 4789"),
        ("vxlan", header(6, [192, 168, 77, 2]), "no datagram"),
        ("ipip", header(4, [192, 168, 77, 2]), "node-b has no socket for IPIP"),
        ("direct", header(1, [10, 65, 0, 2]), "node-b leaves it to its kernel: 10.65.0.2"),
    ] {
        let refused = refused(interface, &packet);
        assert!(refused.contains(why), "{why}: {refused}");
    }
}

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is told of pings until it ends by itself.
fn followed(lab: &Lab, arguments: &[&str]) -> (String, bool) {
    let child = trace(lab, arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut running = Running(child);
    let mut ended = None;
    until("the trace's end", || {
        // So that what is late is not taken for the next one's.
        std::thread::sleep(Duration::from_millis(200));
        let _ = ping(
            &lab.nodes[0].pods[0].netns,
            lab.nodes[1].pods[0].address,
            Ping { count: 1, ..Ping::default() },
        );
        ended = running.0.try_wait().unwrap();
        ended.is_some()
    });
    let mut told = String::new();
    running.0.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    (told, ended.unwrap().success())
}

#[test]
fn packets_that_come_are_followed_over_both_nodes() {
    let lab = start(LabSpec::new(Mode::Vxlan), &[]);
    let to = lab.nodes[1].pods[0].address.to_string();
    let filter = ["icmp", "and", "dst", &to];
    let far = socket(&lab, 1);
    let far = ["--far", far.to_str().unwrap()];

    let (told, _) = followed(&lab, &[&far[..], &["--count", "12"], &filter].concat());
    let places = [
        ("node-a", "default/pod-a1", true),
        ("node-a", "vxlan", false),
        ("node-b", "vxlan", true),
        ("node-b", "default/pod-b1", false),
    ];
    for (node, interface, is_received) in places {
        let word = format!(" {node} {interface} {}: ", if is_received { "in" } else { "out" });
        assert!(told.contains(&word), "{word}: {told}");
    }
    let (told, _) = followed(&lab, &[&far[..], &["--count", "12", "-o", "json"], &filter].concat());
    let mut records: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 12);
    // A daemon that is kept from running tells late.
    records
        .sort_by(|a, b| a["unix_seconds"].as_f64().unwrap().total_cmp(&b["unix_seconds"].as_f64().unwrap()));
    let begins = |record: &Value| record["node"] == "node-a" && record["received"] == true;
    let first = records.iter().position(begins).unwrap();
    for (record, (node, interface, is_received)) in records[first..].iter().zip(places) {
        let place = (&record["node"], &record["interface"], &record["received"]);
        assert_eq!(place, (&node.into(), &interface.into(), &is_received.into()), "{told}");
        assert!(!record["steps"].as_array().unwrap().is_empty());
    }
    let (told, _) = followed(&lab, &[&["--count", "2", "-o", "yaml"][..], &filter].concat());
    assert_eq!(told.matches("---\n").count(), 2);
    assert_eq!(told.matches("node: node-a").count(), 2);

    // The near part goes on without a far one.
    let (told, is_good) =
        followed(&lab, &[&["--far", "/nowhere/b.sock", "--count", "2"][..], &filter].concat());
    assert!(told.contains(" node-a vxlan out: ") && !is_good, "{told}");
}
