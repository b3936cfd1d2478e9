//! `margay bench` as its users run it: everything is measured, if only for a moment; the figures mean nothing.

mod lab;

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use lab::processes_naming;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use serde_json::Value;

const MARGAY: &str = env!("CARGO_BIN_EXE_margay");
/// What is nobody's on every system.
const NOBODY: u32 = 65534;

fn bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(MARGAY);
    command.arg("bench").args(arguments);
    command
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn rows(json: &Path) -> (Value, Vec<(String, String)>) {
    let report: Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    let name = |row: &Value, field: &str| row[field].as_str().unwrap().to_owned();
    let rows = report["rows"].as_array().unwrap();
    let names = rows.iter().map(|row| (name(row, "metric"), name(row, "contestant"))).collect();
    (report, names)
}

#[test]
fn every_mode_and_test_has_its_row_in_the_table_the_json_and_the_page() {
    let dir = tempfile::tempdir().unwrap();
    let (json, html) = (dir.path().join("bench.json"), dir.path().join("bench.html"));
    let output =
        bench(&["--rounds", "1", "--seconds", "0.1", "--tests", "tcp1,tcp4,udp,udp-gso,udp-cut,rtt,local"])
            .args(["--workers", "1", "--json"])
            .arg(&json)
            .arg("--html")
            .arg(&html)
            .output()
            .unwrap();
    let text = text(&output);
    assert!(output.status.success(), "this test needs root, or user namespaces: {text}");
    assert!(output.stderr.is_empty(), "no progress where there is no terminal: {text}");

    let (report, names) = rows(&json);
    let mut expected = Vec::new();
    for metric in [
        "tcp1",
        "tcp4",
        "udp-full",
        "udp-lossless",
        "udp-gso-full",
        "udp-gso-lossless",
        "udp-cut-full",
        "udp-cut-lossless",
        "rtt-p50",
        "rtt-p99",
        "local",
    ] {
        let across = ["kernel-vxlan", "kernel-route", "margay-vxlan", "margay-ipip", "margay-none"];
        let local = ["kernel-route", "margay-none"];
        let contestants = if metric == "local" { &local[..] } else { &across[..] };
        expected.extend(contestants.iter().map(|contestant| (metric.to_owned(), contestant.to_string())));
    }
    assert_eq!(names, expected, "{text}");
    assert_eq!((&report["schema"], &report["options"]["underlay"]), (&1.into(), &"wire".into()));
    assert_eq!(report["machine"]["margay"], env!("CARGO_PKG_VERSION"));
    for row in report["rows"].as_array().unwrap() {
        let round = &row["rounds"][0];
        assert_eq!(round["round"], 1, "{row}");
        assert!(round["value"].is_f64() && row["median"] == round["value"], "{row}");
        assert!(row["unit"].is_string() && round["details"].is_object(), "{row}");
        let margay = row["contestant"].as_str().unwrap().starts_with("margay");
        assert_eq!(row["daemon_peak_mib"].is_f64(), margay, "{row}");
        let is_reference = row["contestant"] == row["reference"];
        assert!(!is_reference || row["ratio"].is_null() || row["ratio"] == 1.0, "{row}");
    }
    for value in ["tcp1", "tcp4", "udp-full", "rtt-p50", "local"] {
        let rows = report["rows"].as_array().unwrap().iter().filter(|row| row["metric"] == value);
        for row in rows {
            assert!(row["median"].as_f64().unwrap() > 0.0 && row["ratio"].is_f64(), "{row}");
        }
    }

    for title in ["TCP, 4 streams", "UDP_SEGMENT, full load", "round trip, p99", "TCP on one node, 1 stream"]
    {
        assert!(text.contains(title), "{title} is missing in:\n{text}");
    }
    let page = fs::read_to_string(&html).unwrap();
    assert_eq!(page.matches("<svg").count(), 11);
    assert_eq!(page.matches("<td>margay-ipip</td>").count(), 10);
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
    for outside in ["<script", "<link", "<img", "<iframe", "src=", "href=", "url(", "@import"] {
        assert!(!page.contains(outside), "the page must be complete in itself: {outside}");
    }
    // The only address is the name of the SVG namespace, which nobody fetches.
    assert_eq!(page.matches("://").count(), page.matches("\"http://www.w3.org/2000/svg\"").count());
}

#[test]
fn ipv6_is_measured_as_ipv4_is_without_ipip() {
    let dir = tempfile::tempdir().unwrap();
    let (json, html) = (dir.path().join("bench.json"), dir.path().join("bench.html"));
    let output = bench(&["--family", "ipv6", "--rounds", "1", "--seconds", "0.1", "--workers", "1"])
        .args(["--modes", "vxlan,vxlan-other,ipip,none", "--json"])
        .arg(&json)
        .arg("--html")
        .arg(&html)
        .output()
        .unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("Without margay-ipip: IPIP carries IPv4 only"), "{text}");
    assert!(text.contains("real 1,500-byte frames on the underlay, IPv6, TCP cubic"), "{text}");

    let (report, names) = rows(&json);
    let mut expected = Vec::new();
    for metric in ["tcp1", "tcp4", "udp-full", "udp-lossless", "rtt-p50", "rtt-p99", "local"] {
        let across = ["kernel-vxlan", "kernel-route", "margay-vxlan", "margay-vxlan-other", "margay-none"];
        let local = ["kernel-route", "margay-none"];
        let contestants = if metric == "local" { &local[..] } else { &across[..] };
        expected.extend(contestants.iter().map(|contestant| (metric.to_owned(), contestant.to_string())));
    }
    assert_eq!(names, expected, "{text}");
    assert_eq!(report["options"]["family"], "ipv6");
    for row in report["rows"].as_array().unwrap().iter().filter(|row| row["metric"] != "udp-lossless") {
        assert!(row["median"].as_f64().unwrap() > 0.0 && row["ratio"].is_f64(), "{row}");
    }
    let page = fs::read_to_string(&html).unwrap();
    assert!(page.contains(", IPv6, ") && page.matches("<svg").count() == 7);
}

#[test]
fn ipv4_crosses_nodes_that_have_ipv6_only() {
    let output = bench(&["--rounds", "1", "--seconds", "0.1", "--modes", "vxlan-other", "--tests", "tcp1"])
        .output()
        .unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("margay-vxlan-other") && text.contains(", IPv4, "), "{text}");
}

#[test]
fn a_chosen_mode_and_test_on_one_core() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("bench.json");
    // What was there before goes, also where it was longer.
    fs::write(&json, "x".repeat(100_000)).unwrap();
    let output = bench(&["--rounds", "2", "--seconds", "0.1", "--modes", "none", "--tests", "tcp1"])
        .args(["--underlay", "veth", "--cores", "1", "--attach", "veth", "--json"])
        .arg(&json)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let (report, names) = rows(&json);
    let contestants: Vec<&str> = names.iter().map(|(_, contestant)| contestant.as_str()).collect();
    assert_eq!(contestants, ["kernel-vxlan", "kernel-route", "margay-none"]);
    assert_eq!(report["machine"]["cores"], 1);
    assert_eq!(report["rows"][2]["rounds"].as_array().unwrap().len(), 2);
    assert!(text(&output).contains("1 core, super-frames on the underlay, IPv4"), "{}", text(&output));
}

/// In a user namespace, as anybody may run it where the system allows such.
#[test]
fn it_runs_without_root() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let binary = dir.path().join("margay");
    // The build directory may be closed to others.
    fs::copy(MARGAY, &binary).unwrap();
    let mut command = Command::new(&binary);
    command
        .args(["bench", "--rounds", "1", "--seconds", "0.1", "--modes", "vxlan", "--tests", "udp"])
        .current_dir("/");
    if Uid::effective().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().unwrap();
    let text = text(&output);
    assert!(output.status.success(), "this test needs user namespaces for everybody:\n{text}");
    assert!(text.contains("in a user namespace of its own") && text.contains("margay-vxlan"), "{text}");
}

#[test]
fn ctrl_c_ends_it_at_once_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = bench(&["--seconds", "60", "--modes", "vxlan", "--tests", "local"])
        .env("TMPDIR", dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The kernel's turn comes first, for a minute: it has no daemons, but files.
    until("the files of the lab", || fs::read_dir(dir.path()).unwrap().count() == 1);
    kill(Pid::from_raw(bench.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(bench.wait().unwrap().code(), Some(128 + 2));
    let mut said = String::new();
    bench.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("margay bench: stopped; nothing is left behind"), "{said}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn ctrl_c_ends_the_daemons_too() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    let mut bench = bench(&["--seconds", "1", "--rounds", "100", "--modes", "vxlan", "--tests", "tcp1"])
        .env("TMPDIR", dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("a daemon for each node", || processes_naming(place).len() == 2);
    kill(Pid::from_raw(bench.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(bench.wait().unwrap().code(), Some(128 + 15));
    until("no daemon is left", || processes_naming(place).is_empty());
}

/// Waits for a condition; `what` says what never came.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn wrong_arguments_say_what_to_do() {
    for (arguments, status, advice) in [
        (&["--seconds", "0"][..], 2, "a number from 0.1 to 60"),
        (&["--rounds", "0"], 2, "0 is not in 1..=100"),
        (&["--modes", "gre"], 2, "[possible values: vxlan, vxlan-other, ipip, none]"),
        (&["--family", "inet6"], 2, "[possible values: ipv4, ipv6]"),
        (&["--tests", "tcp9"], 2, "[possible values: tcp1, tcp4, udp, udp-gso, udp-cut, rtt, local]"),
        (&["--underlay", "dsl"], 2, "[possible values: wire, veth]"),
        (&["--cores", "4096"], 1, "--cores 4096: this process may use"),
        (&["--json", "/nonexistent/x.json"], 1, "name a file in a directory that can be written to"),
        (&["--html", "/proc"], 1, "/proc: "),
    ] {
        let output = bench(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {}", text(&output));
        assert!(text(&output).contains(advice), "{arguments:?}: {}", text(&output));
        assert!(!text(&output).contains("panicked"), "{}", text(&output));
    }
}

#[test]
fn what_could_not_be_measured_is_said_and_the_rest_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("bench.json");
    let output = bench(&["--rounds", "1", "--seconds", "0.1", "--modes", "vxlan", "--tests", "tcp1,rtt"])
        .args(["--congestion", "no-such", "--json"])
        .arg(&json)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = text(&output);
    assert!(text.contains("round 1, margay-vxlan tcp1: use TCP congestion control no-such: "), "{text}");
    let (report, _) = rows(&json);
    let row = |metric: &str| {
        let mut rows = report["rows"].as_array().unwrap().iter();
        rows.find(|row| row["metric"] == metric && row["contestant"] == "margay-vxlan").unwrap().clone()
    };
    assert!(row("tcp1")["median"].is_null() && row("tcp1")["rounds"][0]["error"].is_string());
    assert!(row("rtt-p50")["median"].as_f64().unwrap() > 0.0);
}
