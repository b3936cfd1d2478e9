//! `margay demo` as its users run it.

mod lab;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use lab::processes_naming;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

const MARGAY: &str = env!("CARGO_BIN_EXE_margay");
/// What is nobody's on every system.
const NOBODY: u32 = 65534;

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn the_demo_shows_routes_arp_and_both_headers() {
    let output = Command::new(MARGAY).args(["demo", "--mode", "ipip", "--seconds", "0.1"]).output().unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    for expected in [
        "10.65.0.64/26",
        "ARP who-has 169.254.1.1 tell 10.65.0.2",
        "ARP reply 169.254.1.1 is-at ee:ee:ee:ee:ee:ee",
        "192.168.77.1 > 192.168.77.2: IPIP (4) ttl",
        "10.65.0.2 > 10.65.0.66: ICMP echo request",
        "summary",
    ] {
        assert!(text.contains(expected), "{expected} is missing in:\n{text}");
    }
    assert!(!text.contains("FAILED"), "{text}");
}

#[test]
fn the_demo_shows_pods_with_both_families() {
    let output =
        Command::new(MARGAY).args(["demo", "--mode", "dual-stack", "--seconds", "0.1"]).output().unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    for expected in [
        "fd10:65::40/122",
        "neighbour discovery of pod-a1 for its gateway fe80::ecee:eeff:feee:eeee",
        "neighbour fe80::ecee:eeff:feee:eeee lladdr ee:ee:ee:ee:ee:ee",
        "fd10:65::2 > fd10:65::42: ICMPv6 echo request",
        "IPv6 in VXLAN over IPv6",
        "IPv6 in VXLAN over IPv4",
        "IPv6, no encapsulation",
        "pod-a1 to pod-b1, IPv4",
    ] {
        assert!(text.contains(expected), "{expected} is missing in:\n{text}");
    }
    assert!(!text.contains("FAILED"), "{text}");
}

/// In a user namespace, as anybody may run it where the system allows such.
#[test]
fn the_demo_runs_without_root() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let binary = dir.path().join("margay");
    // The build directory may be closed to others.
    fs::copy(MARGAY, &binary).unwrap();
    let mut command = Command::new(&binary);
    command.args(["demo", "--mode", "vxlan", "--attach", "veth", "--seconds", "0.1"]).current_dir("/");
    if Uid::effective().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().unwrap();
    let text = text(&output);
    assert!(output.status.success(), "this test needs user namespaces for everybody:\n{text}");
    assert!(text.contains("VXLAN vni 4096") && !text.contains("FAILED"), "{text}");
}

#[test]
fn ctrl_c_ends_it_at_once_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let mut demo = Command::new(MARGAY)
        .args(["demo", "--mode", "vxlan", "--seconds", "60"])
        .env("TMPDIR", dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    // From here on it measures for a minute, if nobody asks it to end.
    assert!(lines.map_while(Result::ok).any(|line| line.contains("pod-a2 > pod-a1")));
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        3,
        "the files of the lab, and a place for each daemon's socket"
    );
    let daemons = processes_naming(dir.path().to_str().unwrap());
    assert_eq!(daemons.len(), 2, "a daemon for each node");

    kill(Pid::from_raw(demo.id().cast_signed()), Signal::SIGINT).unwrap();
    let status = demo.wait().unwrap();
    assert_eq!(status.code(), Some(128 + 2));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !processes_naming(dir.path().to_str().unwrap()).is_empty() {
        assert!(Instant::now() < deadline, "the daemons {daemons:?} are still there");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_it_cannot_do_is_one_clear_line() {
    let output = Command::new(MARGAY).args(["demo", "--seconds", "0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("a number from 0.1 to 60"), "{}", text(&output));
}
