//! The control socket and the commands that use it, against daemons that forward.

mod lab;

use std::path::Path;
use std::process::{Command, Output};

use lab::{margay, reaches, start};
use margay::testbed::{Lab, LabSpec, Mode};
use serde_json::Value;

/// Runs `margay ARGUMENTS` for the daemon at `socket`.
fn ask(socket: &Path, arguments: &[&str]) -> Output {
    Command::new(margay()).args(arguments).env("MARGAY_CONTROL_SOCKET", socket).output().unwrap()
}

/// What it prints; it must succeed.
#[track_caller]
fn answer(socket: &Path, arguments: &[&str]) -> String {
    let output = ask(socket, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && error.is_empty(), "{arguments:?}: {}: {error}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn json(socket: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&answer(socket, &[arguments, &["-o", "json"]].concat())).unwrap()
}

fn stop(mut lab: Lab) {
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn status_tells_of_a_daemon_that_forwards() {
    let lab = start(LabSpec::new(Mode::Vxlan), &["--workers", "2"]);
    reaches(&lab.nodes[0].pods[0].netns, lab.nodes[1].pods[0].address, "across");
    let socket = lab.nodes[0].control_socket().unwrap();
    let status = json(&socket, &["status"]);
    assert_eq!(status["node"], "node-a");
    assert_eq!(status["health"], "good");
    assert_eq!(status["workers"]["count"], 2);
    assert_eq!(status["underlay"]["address"], lab.nodes[0].address().to_string());
    let table = answer(&socket, &["status"]);
    assert!(table.starts_with("margay ") && table.contains("on node node-a: good"), "{table}");
    assert!(answer(&socket, &["status", "-o", "yaml"]).contains("node: node-a\n"));
    let version = json(&socket, &["version"]);
    assert_eq!(version["daemon"], env!("CARGO_PKG_VERSION"));
    stop(lab);
    assert!(!socket.exists(), "it is removed at the end");
}
