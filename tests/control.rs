//! The control socket and the commands that use it: against daemons that forward, and against what hinders them.

mod lab;

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use lab::{NOBODY, build, margay, margay_for_all, reaches, start, until, until_ended};
use margay::control::socket::Socket;
use margay::testbed::{Lab, LabSpec, Mode, Node, Ping, Workdir, ping};
use margay::wire::Family;
use nix::sys::signal::Signal;
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

/// It fails, with all of `words` on standard error and nothing on standard output.
#[track_caller]
fn refused(output: Output, words: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(1), &b""[..]), "{error}");
    for word in words {
        assert!(error.contains(word), "{word:?} in {error}");
    }
    assert!(!error.contains("panicked"), "{error}");
}

fn socket_of(lab: &Lab, node: usize) -> std::path::PathBuf {
    lab.nodes[node].control_socket().unwrap()
}

fn stop(mut lab: Lab) {
    lab.stop().unwrap_or_else(|error| panic!("{error}"));
}

/// A request as it is, and all that comes back until the daemon closes the connection.
fn raw(socket: &Path, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    // The daemon may close before it has read all.
    let _ = stream.write_all(request);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

/// Status line and body of a `method` of `path`, by hand.
fn http(socket: &Path, method: &str, path: &str) -> (String, Value) {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: margay\r\nConnection: close\r\n\r\n");
    let answer = raw(socket, request.as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), serde_json::from_str(body).unwrap())
}

/// A peer on two underlays is one peer with two addresses and two tunnels.
#[test]
fn every_command_tells_of_both_families() {
    let lab = start(LabSpec::dual(Mode::Vxlan), &["--workers", "2"]);
    let socket = &socket_of(&lab, 0);
    let [near, far] = [&lab.nodes[0], &lab.nodes[1]];
    for family in Family::ALL {
        reaches(&near.pods[0].netns, far.pods[0].address_of(family).unwrap(), "across");
    }
    let both = |addresses: [IpAddr; 2]| serde_json::json!(addresses.map(|address| address.to_string()));
    let addresses = |node: &Node| both(Family::ALL.map(|family| node.underlay_of(family).unwrap().addr()));
    let status = json(socket, &["status"]);
    let underlays = status["underlays"].as_array().unwrap().iter().map(|own| own["address"].clone());
    assert_eq!(Value::from_iter(underlays), addresses(near));
    assert_eq!(status["endpoint_mtu"], 1430);

    let endpoint = json(socket, &["get", "endpoints"])[0].clone();
    assert_eq!(
        endpoint["addresses"],
        both(Family::ALL.map(|family| near.pods[0].address_of(family).unwrap()))
    );
    let peer = || json(socket, &["get", "peers"])[0].clone();
    until("the counts of both underlays", || {
        let frames = |direction: &str| peer()[direction]["vxlan"]["frames"].as_u64();
        frames("received") >= Some(6) && frames("sent") >= Some(6)
    });
    assert_eq!(json(socket, &["get", "peers"]).as_array().unwrap().len(), 1);
    assert_eq!((&peer()["addresses"], &peer()["underlay_mtus"]), (&addresses(far), &[1500, 1500].into()));
    let table = answer(socket, &["get", "peers"]);
    assert!(table.contains("  1500 1500  "), "{table}");

    let tunnels = json(socket, &["get", "tunnels"]);
    let tunnels: Vec<(&Value, &Value, &Value)> = tunnels
        .as_array()
        .unwrap()
        .iter()
        .map(|tunnel| (&tunnel["local"], &tunnel["remote"], &tunnel["mtu"]))
        .collect();
    let ([local, remote], mtus) = ([addresses(near), addresses(far)], [1450.into(), 1430.into()]);
    let expected: Vec<_> = (0..2).map(|index| (&local[index], &remote[index], &mtus[index])).collect();
    assert_eq!(tunnels, expected);
    let top = answer(socket, &["top", "--batch", "1"]);
    assert_eq!(top.matches("node-b").count(), 1, "{top}");
}

/// One lab for all that only looks.
#[test]
fn every_command_tells_of_a_daemon_that_forwards() {
    let lab = start(LabSpec::new(Mode::Vxlan), &["--workers", "2"]);
    reaches(&lab.nodes[0].pods[0].netns, lab.nodes[1].pods[0].address, "across");
    let socket = &socket_of(&lab, 0);
    let [near, far] = [&lab.nodes[0], &lab.nodes[1]];

    let status = json(socket, &["status"]);
    assert_eq!((&status["node"], &status["health"]), (&"node-a".into(), &"good".into()));
    assert_eq!(status["workers"]["count"], 2);
    assert_eq!(status["underlays"][0]["address"], near.address().to_string());
    assert_eq!(status["endpoint_mtu"], 1450);
    assert_eq!(status["numbers"]["endpoints_attached"], 2);
    assert!(status["frames"]["sent"].as_u64().unwrap() >= 6, "three pings and their answers: {status}");
    let table = answer(socket, &["status"]);
    assert!(table.contains("on node node-a: good"), "{table}");
    assert!(table.contains("1450: underlay eth0 1500 - VXLAN 50"), "{table}");
    assert!(answer(socket, &["status", "-o", "yaml"]).contains("node: node-a\n"));

    let routes = json(socket, &["get", "routes"]);
    let block = |route: &&Value| route["prefix"] == far.block.to_string();
    let route = routes.as_array().unwrap().iter().find(block).unwrap();
    assert_eq!((&route["how"], &route["peer"]), (&"vxlan".into(), &"node-b".into()));
    assert!(route["because"].as_str().unwrap().contains("says vxlan Always"), "{route}");

    let endpoints = json(socket, &["get", "endpoints"]);
    assert_eq!(endpoints.as_array().unwrap().len(), 2);
    assert_eq!(endpoints[0]["addresses"][0], near.pods[0].address.to_string());
    assert_eq!((&endpoints[0]["attached"], &endpoints[0]["mtu"]), (&true.into(), &1450.into()));

    let peers = json(socket, &["get", "peers"]);
    assert_eq!((&peers[0]["name"], &peers[0]["underlay_mtus"]), (&"node-b".into(), &[1500].into()));
    assert_eq!(peers[0]["encapsulations"], serde_json::json!(["vxlan"]));
    // Three requests and their answers, and what else the pods' stacks say.
    let passed = |account: &Value, direction: &str, form: &str| account[direction][form]["frames"].as_u64();
    let peer = || json(socket, &["get", "peers"])[0].clone();
    until("the counts of the peer", || {
        let peer = peer();
        passed(&peer, "received", "vxlan") == Some(3) && passed(&peer, "sent", "vxlan") == Some(3)
    });
    assert!(peer()["sent"]["vxlan"]["bytes"].as_u64().unwrap() >= 3 * 84);
    let endpoint = json(socket, &["get", "endpoints"])[0].clone();
    assert!(passed(&endpoint, "received", "plain") >= Some(3), "{endpoint}");
    let tunnels = json(socket, &["get", "tunnels"]);
    assert_eq!(
        (&tunnels[0]["remote"], &tunnels[0]["mtu"]),
        (&far.address().to_string().into(), &1450.into())
    );
    assert_eq!(json(socket, &["get", "pools"])[0]["mode"], "vxlan Always");
    let nodes = json(socket, &["get", "nodes"]);
    let is_near = &nodes[1]["underlays"][0]["in_our_subnet"];
    assert_eq!((&nodes[0]["is_this"], is_near), (&true.into(), &true.into()));
    assert_eq!(nodes[1]["blocks"][0], far.block.to_string());
    for what in ["routes", "endpoints", "peers", "tunnels", "pools", "nodes"] {
        let table = answer(socket, &["get", what]);
        let header = table.lines().next().unwrap();
        assert!(header.chars().all(|c| c == ' ' || c.is_uppercase()) && table.lines().count() > 1, "{table}");
        let yaml = answer(socket, &["get", what, "-o", "yaml"]);
        assert!(yaml.starts_with("- ") || yaml.starts_with("-\n"), "{yaml}");
    }

    explains(&lab, socket);
    counts_drops(&lab, socket);
    speaks_http(socket);

    let version = json(socket, &["version"]);
    assert_eq!(
        (&version["client"], &version["daemon"]),
        (&version["daemon"], &env!("CARGO_PKG_VERSION").into())
    );
    assert_eq!(json(socket, &["reload"])["changed"], false);
    stop(lab);
    assert!(!socket.exists(), "it is removed at the end");
}

fn explains(lab: &Lab, socket: &Path) {
    let far = lab.nodes[1].pods[0].address.to_string();
    let across = json(socket, &["explain", &far]);
    assert_eq!(across["route"]["prefix"], lab.nodes[1].block.to_string());
    assert_eq!((&across["outer"]["encapsulation"], &across["mtu"]["bytes"]), (&"vxlan".into(), &1450.into()));
    assert_eq!((&across["back"][0]["how"], &across["symmetric"]), (&"vxlan".into(), &true.into()));
    let table = answer(socket, &["explain", &far]);
    for words in
        ["sent to node node-b", "says vxlan Always", "UDP port 4789, VNI 4096", "1450: underlay eth0 1500"]
    {
        assert!(table.contains(words), "{words} in {table}");
    }
    let near = json(socket, &["explain", &lab.nodes[0].pods[1].address.to_string()]);
    assert!(near["route"]["endpoint"].is_string(), "{near}");
    assert_eq!(near["covered"][0]["how"], "drop", "the node's own block: {near}");
    let nobodys = json(socket, &["explain", "10.65.0.60"]);
    assert_eq!(nobodys["action"], "dropped: blackhole");
    assert!(nobodys["problems"][0].as_str().unwrap().contains("WorkloadEndpoint"), "{nobodys}");
    let unassigned = json(socket, &["explain", "10.65.200.1"]);
    assert!(unassigned["problems"][0].as_str().unwrap().contains("BlockAffinity"), "{unassigned}");
    assert_eq!(ask(socket, &["explain", "pod"]).status.code(), Some(2));
}

/// What a pod sends to an address that nobody has is counted, with the pod.
fn counts_drops(lab: &Lab, socket: &Path) {
    let pod = &lab.nodes[0].pods[0];
    let brief = Ping { count: 5, patience: Duration::from_millis(1), ..Ping::default() };
    ping(&pod.netns, "10.65.0.60".parse().unwrap(), brief).unwrap();
    let reason = || {
        let drops = json(socket, &["drops"]);
        drops["reasons"].as_array().unwrap().iter().find(|reason| reason["reason"] == "blackhole").cloned()
    };
    // Workers publish their counts once a turn.
    until("the count", || reason().is_some_and(|reason| reason["count"] == 5));
    let reason = reason().unwrap();
    assert_eq!(reason["with"], serde_json::json!([{"who": format!("default/{}", pod.name), "count": 5}]));
    assert!(reason["explanation"].as_str().unwrap().contains("no endpoint has it"), "{reason}");
    let twice = json(socket, &["drops", "--interval", "0.1"]);
    let rates: Vec<_> =
        twice["reasons"].as_array().unwrap().iter().map(|reason| &reason["per_second"]).collect();
    assert!(rates.iter().all(|rate| rate.is_number()), "{twice}");
    let table = answer(socket, &["drops"]);
    assert!(table.contains(&format!("5  blackhole: default/{} 5\n", pod.name)), "{table}");
    let endpoints = json(socket, &["get", "endpoints"]);
    assert!(endpoints[0]["dropped"].as_u64().unwrap() >= 5, "{endpoints}");
}

/// What curl would see, and what nobody should send.
fn speaks_http(socket: &Path) {
    let (status, body) = http(socket, "GET", "/v1/version");
    assert_eq!((&status[..], &body["version"]), ("HTTP/1.1 200 OK", &env!("CARGO_PKG_VERSION").into()));
    let (status, body) = http(socket, "GET", "/v1/nothing");
    assert!(
        status.contains("404") && body["error"].as_str().unwrap().contains("/v1/nothing"),
        "{status} {body}"
    );
    let (status, body) = http(socket, "POST", "/v1/status");
    assert!(status.contains("405") && body["error"].as_str().unwrap().contains("POST"), "{status} {body}");
    let (status, body) = http(socket, "GET", "/v1/reload");
    assert!(status.contains("405") && body["error"].is_string(), "reading changes nothing: {status} {body}");
    let (status, body) = http(socket, "GET", "/v1/explain/10.65.0.256");
    assert!(
        status.contains("400") && body["error"].as_str().unwrap().contains("10.65.0.256"),
        "{status} {body}"
    );
    let (status, body) = http(socket, "GET", "/v1/explain/fd00::1");
    assert!(status.contains("200") && body["address"] == "fd00::1", "{status} {body}");
    let path = "x".repeat(100_000);
    let answer = raw(socket, format!("GET /v1/{path} HTTP/1.1\r\nHost: m\r\n\r\n").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    let headers = "X: y\r\n".repeat(100_000);
    let answer = raw(socket, format!("GET /v1/version HTTP/1.1\r\n{headers}\r\n").as_bytes());
    assert!(!answer.contains("200 OK"), "{answer}");
    // A body that nobody asked for, and far more of it promised.
    let answer =
        raw(socket, b"GET /v1/version HTTP/1.1\r\nHost: m\r\nContent-Length: 99999999999\r\n\r\nhello");
    assert!(answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.1 4"), "{answer}");
    for nonsense in [&b"\0\xff\r\n\r\n"[..], b"", b"GET", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let answer = raw(socket, nonsense);
        assert!(!answer.contains("200 OK"), "{answer}");
    }
    assert!(http(socket, "GET", "/v1/status").0.contains("200"), "it still answers");
}

#[test]
fn clients_that_hang_hinder_nobody() {
    let lab = start(LabSpec::new(Mode::None), &[]);
    let socket = socket_of(&lab, 0);
    let hanging = |request: &'static [u8]| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(request).unwrap();
        stream
    };
    let few: Vec<_> = (0..16).map(|_| hanging(b"GET /v1/sta")).collect();
    assert_eq!(json(&socket, &["status"])["health"], "good");
    // More than there are places: they are shown out in time, and whoever waited is served.
    let many: Vec<_> = (0..64).map(|_| hanging(b"GET /v1/status HTTP/1.1\r\n")).collect();
    reaches(&lab.nodes[0].pods[0].netns, lab.nodes[1].pods[0].address, "nor are packets");
    assert_eq!(json(&socket, &["status"])["health"], "good");
    drop((few, many));
    stop(lab);
}

#[test]
fn cross_subnet_is_explained_in_both_directions() {
    let lab = start(LabSpec::new(Mode::VxlanCrossSubnet), &[]);
    let [a, b] = [socket_of(&lab, 0), socket_of(&lab, 1)];
    let [near, far] = [0, 1].map(|node: usize| lab.nodes[node].pods[0].address.to_string());
    let both = json(&a, &["explain", &far]);
    assert_eq!(
        (&both["route"]["how"], &both["outer"], &both["mtu"]["bytes"]),
        (&"plain".into(), &Value::Null, &1500.into())
    );
    assert_eq!((&both["back"][0]["how"], &both["symmetric"]), (&"plain".into(), &true.into()));

    // node-b sees nobody in its subnet.
    let file = lab.resources.path().join("node-b.yaml");
    let node = fs::read_to_string(file).unwrap();
    lab.resources.write("node-b.yaml", &node.replace("192.168.77.2/24", "192.168.77.2/32")).unwrap();
    let differs = || json(&a, &["explain", &far])["symmetric"] == false;
    until("the change", || differs() && json(&b, &["explain", &near])["symmetric"] == false);
    let [there, here] = [json(&a, &["explain", &far]), json(&b, &["explain", &near])];
    // What one node says of the other is what that one says of itself.
    assert_eq!((&there["route"]["how"], &there["back"][0]["how"]), (&"plain".into(), &"vxlan".into()));
    assert_eq!((&here["route"]["how"], &here["back"][0]["how"]), (&"vxlan".into(), &"plain".into()));
    let because = there["back"][0]["because"].as_str().unwrap();
    assert!(because.contains("192.168.77.1 is outside node-b's 192.168.77.2/32: vxlan"), "{because}");
    assert!(answer(&a, &["explain", &far]).contains("the two directions differ"));
    let underlay = &json(&a, &["get", "nodes"])[1]["underlays"][0];
    assert_eq!(
        (&underlay["in_our_subnet"], &underlay["has_us_in_its_subnet"]),
        (&true.into(), &false.into())
    );
    stop(lab);
}

#[test]
fn a_reload_tells_what_is_wrong_and_what_works_stays() {
    let lab = start(LabSpec::new(Mode::Vxlan), &[]);
    let socket = socket_of(&lab, 0);
    let good = fs::read_to_string(lab.resources.path().join("pool.yaml")).unwrap();
    lab.resources.write("pool.yaml", &good.replace("26", "99")).unwrap();
    refused(ask(&socket, &["reload"]), &["pool.yaml", "spec.blockSize"]);
    let (status, body) = http(&socket, "POST", "/v1/reload");
    assert!(
        status.contains("422") && body["error"].as_str().unwrap().contains("blockSize"),
        "{status} {body}"
    );
    let status = json(&socket, &["status"]);
    assert_eq!(status["health"], "degraded");
    assert!(status["problems"][0].as_str().unwrap().contains("pool.yaml"), "{status}");
    assert!(answer(&socket, &["status"]).contains("PROBLEM"));
    reaches(&lab.nodes[0].pods[0].netns, lab.nodes[1].pods[0].address, "the last good state");
    lab.resources.write("pool.yaml", &good).unwrap();
    assert!(answer(&socket, &["reload"]).contains("endpoints attached"));
    assert_eq!(json(&socket, &["status"])["health"], "good");
    stop(lab);
}

#[test]
fn an_endpoint_that_is_missing_is_a_problem() {
    let lab = start(LabSpec::new(Mode::Vxlan), &[]);
    let socket = socket_of(&lab, 0);
    let pod = &lab.nodes[0].pods[0];
    let file = format!("workload-{}.yaml", pod.name);
    let text = fs::read_to_string(lab.resources.path().join(&file)).unwrap();
    let path = pod.netns.path().display().to_string();
    lab.resources.write(&file, &text.replace(&path, "/nowhere/ns")).unwrap();
    answer(&socket, &["reload"]);
    let status = json(&socket, &["status"]);
    assert_eq!(status["health"], "degraded");
    assert!(status["problems"][0].as_str().unwrap().contains("/nowhere/ns"), "{status}");
    assert!(answer(&socket, &["get", "endpoints"]).contains("NOT ATTACHED"));
    let explained = json(&socket, &["explain", &pod.address.to_string()]);
    assert!(explained["problems"][0].as_str().unwrap().contains("/nowhere/ns"), "{explained}");
    stop(lab);
}

#[test]
fn without_a_daemon_is_said_what_to_do() {
    let place = Workdir::new().unwrap();
    let path = place.path().join("margay.sock");
    refused(ask(&path, &["status"]), &["no daemon", "margay run", "--control-socket"]);
    drop(UnixListener::bind(&path).unwrap());
    refused(ask(&path, &["drops"]), &["no daemon"]);
    assert_eq!(json(&path, &["version"])["daemon"], Value::Null);
}

#[test]
fn the_socket_is_for_its_group_only() {
    let (place, program) = margay_for_all();
    let path = place.path().join("new/margay.sock");
    let socket = Socket::listen(&path, Some("12345")).unwrap();
    let found = fs::metadata(&path).unwrap();
    assert_eq!((found.mode() & 0o7777, found.gid()), (0o660, 12345));

    let mut command = Command::new(&program);
    command.args(["status", "--control-socket"]).arg(&path).uid(NOBODY).gid(NOBODY);
    refused(command.output().unwrap(), &["12345", "member"]);
    drop(socket);
    assert!(!path.exists());
    let error = Socket::listen(&path, Some("no-such-group")).unwrap_err().to_string();
    assert!(error.contains("no-such-group") && !path.exists(), "{error}");
}

#[test]
fn a_member_of_the_group_may_ask_and_not_take_over() {
    let lab = start(LabSpec::new(Mode::Vxlan), &[]);
    let socket = socket_of(&lab, 0);
    let (_place, program) = margay_for_all();
    fs::set_permissions(socket.parent().unwrap(), fs::Permissions::from_mode(0o750)).unwrap();
    fs::set_permissions(lab.resources.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let group = fs::metadata(&socket).unwrap().gid();
    let as_member = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments).arg("--control-socket").arg(&socket).uid(NOBODY).gid(group);
        command.output().unwrap()
    };
    let told = as_member(&["status"]);
    assert!(told.status.success(), "{told:?}");
    let resources = lab.resources.path().to_str().unwrap();
    let node = &lab.nodes[0].name;
    refused(
        as_member(&["run", "--takeover", "--node", node, "--resources", resources]),
        &["only its own user and root may take over"],
    );
    assert_eq!(json(&socket, &["status"])["health"], "good");
}

#[test]
fn a_dead_daemons_socket_is_replaced_and_a_living_ones_never() {
    let mut lab = start(LabSpec::new(Mode::Vxlan), &[]);
    let socket = socket_of(&lab, 0);
    let run = |lab: &Lab, node: usize, socket: &Path| {
        let mut command = lab.nodes[node].netns.command(margay()).unwrap();
        command.args(["run", "--node", &lab.nodes[node].name, "--resources"]).arg(lab.resources.path());
        command.arg("--control-socket").arg(socket);
        command
    };
    // In another namespace, where it could run.
    let other = build(LabSpec::new(Mode::Vxlan));
    refused(run(&other, 0, &socket).output().unwrap(), &["another daemon", "--control-socket"]);
    assert_eq!(json(&socket, &["status"])["health"], "good", "the first is not disturbed");

    let daemon = lab.nodes[0].daemon().unwrap();
    daemon.signal(Signal::SIGKILL).unwrap();
    until_ended(daemon.pid());
    assert!(socket.exists(), "nobody was left to remove it");
    let mut next = run(&lab, 0, &socket).spawn().unwrap();
    until("the next daemon's answer", || ask(&socket, &["status"]).status.success());
    assert_eq!(json(&socket, &["status"])["pid"], next.id());
    next.kill().unwrap();
    next.wait().unwrap();

    // What is no socket is nobody's to remove.
    let file = lab.resources.path().join("precious");
    fs::write(&file, "data").unwrap();
    refused(run(&lab, 0, &file).output().unwrap(), &["no socket", "--control-socket"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "data");
    refused(run(&lab, 0, Path::new("/proc/margay.sock")).output().unwrap(), &["--control-socket"]);
}

#[test]
fn completions_and_manual_pages_come_with_the_program() {
    let place = Workdir::new().unwrap();
    let nowhere = place.path().join("none");
    for (shell, words) in [("bash", "_margay"), ("zsh", "#compdef margay"), ("fish", "complete -c margay")] {
        let script = answer(&nowhere, &["completions", shell]);
        assert!(script.contains(words) && script.contains("endpoints"), "{shell}");
    }
    answer(&nowhere, &["man", place.path().to_str().unwrap()]);
    for (page, words) in
        [("margay.1", "userspace vRouter"), ("margay-run.1", "resources"), ("margay-drops.1", "interval")]
    {
        let text = fs::read_to_string(place.path().join(page)).unwrap();
        assert!(text.contains(words), "{page}");
    }
    refused(ask(&nowhere, &["man", "/proc/nowhere"]), &["/proc/nowhere"]);
}
