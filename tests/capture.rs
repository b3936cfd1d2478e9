//! `margay capture` and `margay trace` against daemons that forward. The files are read by hand here: what margay's own
//! reader thinks of them is no proof.

mod lab;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use lab::{Packet, margay, reaches, start, until};
use margay::rib::Attach;
use margay::testbed::{Lab, LabSpec, Mode, Ping, ping};
use tempfile::TempDir;

const ETHERNET: u16 = 1;
const RAW: u16 = 101;

/// A frame of a file.
#[derive(Debug)]
struct Frame {
    interface: String,
    link: u16,
    inbound: bool,
    /// Of workers that were read at different times the order may be another.
    time: u64,
    id: u64,
    bytes: Vec<u8>,
    len: usize,
    comment: String,
}

impl Frame {
    /// The outermost packet.
    fn packet(&self) -> Packet {
        let ip = if self.link == ETHERNET { &self.bytes[14..] } else { &self.bytes };
        Packet::parse(ip).unwrap_or_else(|| panic!("IPv4: {self:?}"))
    }
}

fn half(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_ne_bytes(bytes[at..at + 2].try_into().unwrap()))
}

fn word(bytes: &[u8], at: usize) -> usize {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// Code and value of each option.
fn options(mut bytes: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let mut options = Vec::new();
    loop {
        let (code, len) = (half(bytes, 0), half(bytes, 2));
        if code == 0 {
            assert_eq!(bytes, [0; 4], "the end of options is the end of the block");
            return options;
        }
        options.push((code, bytes[4..4 + len].to_vec()));
        bytes = &bytes[4 + len.next_multiple_of(4)..];
    }
}

fn text(options: &[(usize, Vec<u8>)], code: usize) -> String {
    let found = options.iter().find(|(known, _)| *known == code);
    found.map_or_else(String::new, |(_, value)| String::from_utf8(value.clone()).unwrap())
}

/// All frames of a file of pcapng, every block checked (draft-ietf-opsawg-pcapng 3 and 4).
fn frames(mut file: &[u8]) -> Vec<Frame> {
    let (mut interfaces, mut frames) = (Vec::new(), Vec::new());
    assert_eq!(file[..4], [0x0a, 0x0d, 0x0d, 0x0a], "a section first");
    while !file.is_empty() {
        let (kind, len) = (word(file, 0), word(file, 4));
        let (block, rest) = file.split_at(len);
        assert_eq!(word(block, len - 4), len, "the length stands at both ends");
        let body = &block[8..len - 4];
        match kind {
            0x0a0d_0d0a => {
                assert_eq!((word(body, 0), half(body, 4), half(body, 6)), (0x1a2b_3c4d, 1, 0));
                options(&body[16..]);
            }
            1 => {
                let options = options(&body[8..]);
                assert!(options.contains(&(9, vec![9])), "nanoseconds");
                interfaces.push((text(&options, 2), half(body, 0) as u16));
            }
            6 => {
                let (interface, link) = interfaces[word(body, 0)].clone();
                let (kept, len) = (word(body, 12), word(body, 16));
                let options = options(&body[20 + kept.next_multiple_of(4)..]);
                let number = |code| {
                    let value = &options.iter().find(|(known, _)| *known == code).expect("an option").1;
                    value.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
                };
                let (flags, id) = (number(2), number(5));
                assert!(matches!(flags, 1 | 2), "inbound or outbound");
                let comment = text(&options, 1);
                let bytes = body[20..20 + kept].to_vec();
                let time = (word(body, 4) as u64) << 32 | word(body, 8) as u64;
                frames.push(Frame { interface, link, inbound: flags == 1, time, id, bytes, len, comment });
            }
            other => panic!("block of type {other}"),
        }
        file = rest;
    }
    frames
}

fn command(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = Command::new(margay());
    command.args(arguments).env("MARGAY_CONTROL_SOCKET", lab.nodes[0].control_socket().unwrap());
    command
}

fn run(lab: &Lab, arguments: &[&str]) -> Output {
    command(lab, arguments).output().unwrap()
}

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A capture into a file that has begun.
fn capture(lab: &Lab, file: &Path, arguments: &[&str]) -> Running {
    let arguments = [&["capture", "-w", file.to_str().unwrap()], arguments].concat();
    let running = Running(command(lab, &arguments).spawn().unwrap());
    until("the capture's beginning", || fs::metadata(file).is_ok_and(|file| file.len() > 0));
    running
}

/// What a capture that ends by itself has caught.
fn caught(mut running: Running, file: &Path) -> Vec<Frame> {
    let mut ended = None;
    until("the capture's end", || {
        ended = running.0.try_wait().unwrap();
        ended.is_some()
    });
    assert!(ended.unwrap().success());
    let mut frames = frames(&fs::read(file).unwrap());
    frames.sort_by_key(|frame| (frame.time, frame.id, !frame.inbound));
    frames
}

fn one_ping(lab: &Lab, to: IpAddr) {
    let _ = ping(&lab.nodes[0].pods[0].netns, to, Ping { count: 1, ..Ping::default() });
}

#[test]
fn a_ping_is_captured_before_and_after_in_each_mode() {
    let place = TempDir::new().unwrap();
    for (mode, attach, tunnel) in [
        (Mode::Vxlan, Attach::Tap, "vxlan"),
        (Mode::Ipip, Attach::Tap, "ipip"),
        (Mode::None, Attach::Veth, "direct"),
    ] {
        let lab = start(LabSpec { attach, ..LabSpec::new(mode) }, &[]);
        let (pod, there) = (&lab.nodes[0].pods[0], &lab.nodes[1].pods[0]);
        reaches(&pod.netns, there.address, "before the capture");
        let file = place.path().join(tunnel);
        let running =
            capture(&lab, &file, &["--count", "4", "icmp", "and", "host", &there.address.to_string()]);
        one_ping(&lab, there.address);
        let [request, sent, back, delivered] = &caught(running, &file)[..] else { panic!("four frames") };

        // Where, and in which direction.
        let from = if tunnel == "direct" { "underlay" } else { tunnel };
        let seen = [request, sent, back, delivered].map(|frame| (frame.interface.as_str(), frame.inbound));
        let name = format!("default/{}", pod.name);
        assert_eq!(seen, [(&*name, true), (tunnel, false), (from, true), (&*name, false)]);
        let link = if tunnel == "direct" { ETHERNET } else { RAW };
        assert_eq!([request.link, sent.link, back.link, delivered.link], [ETHERNET, RAW, link, ETHERNET]);
        assert_eq!((request.id, back.id), (sent.id, delivered.id));
        assert_ne!(request.id, back.id);

        // What, before and after.
        let inner = request.packet();
        assert_eq!((inner.source, inner.destination, inner.ttl), (pod.address, there.address, 64));
        assert_eq!(request.len, request.bytes.len());
        let outer = sent.packet();
        let nodes = (lab.nodes[0].address(), lab.nodes[1].address());
        match mode {
            Mode::None => assert_eq!((outer.source, outer.ttl), (pod.address, 63)),
            _ => assert_eq!((outer.source, outer.destination), nodes),
        }
        let inside = match mode {
            Mode::Vxlan => &outer.payload[8 + 8 + 14..],
            Mode::Ipip => &outer.payload[..],
            _ => &sent.bytes[..],
        };
        let inside = Packet::parse(inside).unwrap();
        assert_eq!((inside.source, inside.ttl, &inside.payload), (pod.address, 63, &inner.payload));
        assert_eq!(delivered.packet().destination, pod.address);

        // Why.
        let block = lab.nodes[1].block.to_string();
        for word in ["to ", "node node-b", "by route", &block] {
            assert!(request.comment.contains(word), "{word}: {}", request.comment);
        }
        assert!(sent.comment.contains("sent to node node-b"), "{}", sent.comment);
        assert!(back.comment.contains(&format!("to {name} by route {}/32", pod.address)), "{}", back.comment);
    }
}

#[test]
fn what_is_dropped_says_why() {
    let place = TempDir::new().unwrap();
    let lab = start(LabSpec::new(Mode::Vxlan), &[]);
    let file = place.path().join("dropped");
    let running = capture(&lab, &file, &["--dropped", "--count", "1", "icmp"]);
    reaches(&lab.nodes[0].pods[0].netns, lab.nodes[1].pods[0].address, "what is not dropped");
    one_ping(&lab, "10.65.0.50".parse().unwrap());
    let frames = caught(running, &file);
    assert_eq!(frames.len(), 1);
    let comment = &frames[0].comment;
    assert!(comment.starts_with("dropped: blackhole: Destination is in this node's own block"), "{comment}");
    assert_eq!(frames[0].packet().destination, "10.65.0.50".parse::<IpAddr>().unwrap());

    // The last of each reason, whether a capture ran or not.
    let told = String::from_utf8(run(&lab, &["drops"]).stdout).unwrap();
    let last = told.lines().find(|line| line.contains("  last ")).unwrap_or_else(|| panic!("{told}"));
    assert!(last.contains("default/pod-a1: ") && last.contains("> 10.65.0.50: ICMP echo request"), "{last}");
}

#[test]
fn an_endpoint_and_a_peer_can_be_chosen_and_lines_are_for_people() {
    let lab = start(LabSpec::new(Mode::Ipip), &[]);
    let there = lab.nodes[1].pods[0].address;
    let name = format!("default/{}", lab.nodes[0].pods[0].name);
    for choice in [["--endpoint", &name], ["--peer", "node-b"]] {
        let arguments = [&["capture", "--count", "4"][..], &choice, &["icmp"]].concat();
        let mut child = command(&lab, &arguments).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let running = Running(child);
        let mut lines = out.lines();
        // Nothing tells of its beginning but what it shows.
        let first = std::thread::scope(|scope| {
            let first = scope.spawn(|| lines.next().unwrap().unwrap());
            until("a line", || {
                one_ping(&lab, there);
                first.is_finished()
            });
            first.join().unwrap()
        });
        assert!(first.contains(" in: ") && first.contains("ICMP echo re"), "{first}");
        assert!(first.contains(" → to "), "{first}");
        assert_eq!(lines.map_while(Result::ok).count(), 3);
        drop(running);
    }
    for choice in [["--endpoint", "default/nobody"], ["--peer", "node-z"]] {
        let refused = run(&lab, &["capture", choice[0], choice[1]]);
        let error = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && error.contains(choice[1]), "{error}");
    }
}

#[test]
fn mistakes_and_full_disks_are_told_and_captures_are_bounded() {
    let place = TempDir::new().unwrap();
    let lab = start(LabSpec::new(Mode::Vxlan), &[]);
    let failed = |arguments: &[&str]| {
        let output = run(&lab, arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let error = failed(&["capture", "tcp", "port", "http"]);
    assert!(error.contains("column 10: expected a port number"), "{error}");

    let files: Vec<_> = (0..5).map(|number| place.path().join(format!("{number}"))).collect();
    let mut running: Vec<_> = files[..4].iter().map(|file| capture(&lab, file, &[])).collect();
    let error = failed(&["capture", "-w", files[4].to_str().unwrap()]);
    assert!(error.contains("4 captures are running"), "{error}");
    running.pop();
    let last = place.path().join("last");
    until("room for another", || {
        let file = last.to_str().unwrap();
        let Running(child) = &mut Running(command(&lab, &["capture", "-w", file]).spawn().unwrap());
        until("an answer", || {
            fs::metadata(&last).is_ok_and(|file| file.len() > 0) || child.try_wait().unwrap().is_some()
        });
        fs::metadata(&last).is_ok_and(|file| file.len() > 0)
    });
    // All the others see what passes.
    reaches(&lab.nodes[0].pods[0].netns, lab.nodes[1].pods[0].address, "with captures");
    for file in &files[..3] {
        until("its frames", || frames_so_far(file) >= 4);
    }
    drop(running);
    // The daemon may not know yet that the others have gone.
    until("the disk's complaint", || {
        let error = failed(&["capture", "-w", "/dev/full"]);
        error.contains("/dev/full") && error.contains("No space left on device")
    });
    reaches(&lab.nodes[0].pods[0].netns, lab.nodes[1].pods[0].address, "after all that");
}

/// Of a file that may still be written.
fn frames_so_far(file: &Path) -> usize {
    let bytes = fs::read(file).unwrap();
    let mut end = 0;
    while bytes.len() >= end + 8 && bytes.len() >= end + word(&bytes, end + 4) {
        end += word(&bytes, end + 4);
    }
    frames(&bytes[..end]).len()
}

#[test]
fn a_ring_keeps_the_newest_in_files_that_each_read_alone() {
    let place = TempDir::new().unwrap();
    let lab = start(LabSpec::new(Mode::Ipip), &[]);
    let base = place.path().join("ring");
    let there = lab.nodes[1].pods[0].address;
    let arguments = ["capture", "-w", base.to_str().unwrap(), "--ring", "2K/3", "--count", "80", "icmp"];
    let mut running = Running(command(&lab, &arguments).spawn().unwrap());
    let ring = |number: usize| place.path().join(format!("ring.{number}"));
    until("the capture's end", || {
        one_ping(&lab, there);
        running.0.try_wait().unwrap().is_some()
    });
    let kept: Vec<usize> = (1..=3).map(|number| frames(&fs::read(ring(number)).unwrap()).len()).collect();
    assert!(kept.iter().all(|count| *count > 0) && kept.iter().sum::<usize>() < 80, "{kept:?}");
    assert!(!base.exists() && !ring(4).exists());
}

#[test]
fn a_packet_is_traced_without_being_sent_and_sent_when_asked() {
    let lab = start(LabSpec::new(Mode::Vxlan), &[]);
    let (pod, there) = (&lab.nodes[0].pods[0], &lab.nodes[1].pods[0]);
    let name = format!("default/{}", pod.name);
    let address = there.address.to_string();
    let trace = |arguments: &[&str]| {
        let output = run(&lab, &[&["trace", "--from", &name, "--to"], arguments].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    };
    let told = trace(&[&address, "--tcp", "80"]);
    let block = lab.nodes[1].block.to_string();
    for word in [
        "TCP [S]",
        "received: 54 bytes at default/pod-a1",
        "antispoof: ",
        &format!("lookup: {address} is in {block}: block {block} of node-b; pool"),
        "MTU: it fits into the 1450 bytes",
        "verdict: to VXLAN tunnel to node node-b",
        "VXLAN vni 4096",
        "socket: would leave here to node node-b: not sent",
        "Nothing was sent",
    ] {
        assert!(told.contains(word), "{word}: {told}");
    }
    let told = trace(&["10.65.0.50", "--udp", "53"]);
    assert!(told.contains("verdict: dropped: blackhole") && told.contains("Nothing was sent"), "{told}");

    // The other node's pod gets the one that is really sent.
    let arrival = margay::testbed::Capture::start(&there.netns, "eth0").unwrap();
    let told = trace(&[&address, "--icmp"]);
    assert!(told.contains("Nothing was sent"), "{told}");
    let told = trace(&[&address, "--icmp", "--send"]);
    assert!(told.contains("socket: sent to node node-b") && told.contains("really sent"), "{told}");
    let follow = [&["trace", "--count", "2", "icmp", "and", "dst", &address][..]].concat();
    let mut child = command(&lab, &follow).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut running = Running(child);
    until("the trace's end", || {
        one_ping(&lab, there.address);
        running.0.try_wait().unwrap().is_some()
    });
    let mut told = String::new();
    out.read_to_string(&mut told).unwrap();
    for word in ["received: ", "lookup: ", "verdict: to VXLAN tunnel", "socket: sent to node node-b"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    let arrived = lab::packets(&arrival.stop());
    let injected = |packet: &&Packet| packet.payload.ends_with(b"margay trace") && packet.icmp() == Some(8);
    assert_eq!(arrived.iter().filter(injected).count(), 1, "considered once, sent once");
}
