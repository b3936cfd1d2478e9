//! Metrics, health and the status page, as Prometheus, a service manager and a browser ask for them.

mod lab;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use lab::{reaches, start, until};
use margay::testbed::{Lab, LabSpec, Mode};
use margay::wire::Family;

const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9091);

/// Status line with headers, and body.
fn get(lab: &Lab, path: &str) -> (String, String) {
    get_as(lab, path, "*/*")
}

fn get_as(lab: &Lab, path: &str, accept: &str) -> (String, String) {
    let mut stream = lab.nodes[0].netns.run(|| TcpStream::connect(ADDRESS)).unwrap().unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: margay\r\nAccept: {accept}\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

/// The value of a sample, by how its line begins.
fn value(metrics: &str, sample: &str) -> f64 {
    let line =
        metrics.lines().find(|line| line.strip_prefix(sample).is_some_and(|rest| rest.starts_with(' ')));
    let line = line.unwrap_or_else(|| panic!("no {sample} in:\n{metrics}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn what_passes_is_in_the_metrics() {
    let lab = start(LabSpec::dual(Mode::Vxlan), &[]);
    let (from, to) = (&lab.nodes[0].pods[0], &lab.nodes[1].pods[0]);
    reaches(&from.netns, to.address, "before");
    let sent = |metrics: &str| value(metrics, "margay_sent_frames_total{to=\"vxlan\"}");
    let peer =
        |metrics: &str| value(metrics, "margay_peer_sent_frames_total{peer=\"node-b\",form=\"vxlan\"}");
    // As Prometheus asks.
    let (head, before) =
        get_as(&lab, "/metrics", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
    assert!(head.starts_with("http/1.1 200") && head.contains("application/openmetrics-text"), "{head}");
    assert!(before.ends_with("# EOF\n"));
    reaches(&from.netns, to.address, "after");
    let (head, after) = get(&lab, "/metrics");
    assert!(head.contains("text/plain; version=0.0.4") && !after.contains("# EOF"), "{head}");
    assert!(sent(&after) > sent(&before) && peer(&after) > peer(&before), "{after}");
    assert!(value(&after, "margay_peer_received_bytes_total{peer=\"node-b\",form=\"vxlan\"}") > 0.0);
    assert_eq!(value(&after, "margay_healthy"), 1.0);
    assert_eq!(value(&after, "felix_active_local_endpoints"), 2.0);
    assert_eq!(value(&after, "felix_cluster_num_hosts"), 2.0);
    for (family, mtu) in [(Family::V4, 1450.0), (Family::V6, 1430.0)] {
        let remote = lab.nodes[1].underlay_of(family).unwrap().addr();
        let labels = format!("peer=\"node-b\",form=\"vxlan\",remote=\"{remote}\",clamped=\"no\"");
        assert_eq!(value(&after, &format!("margay_tunnel_mtu_bytes{{{labels}}}")), mtu);
    }
    // Every sample belongs to a family that was described before it, and no sample is there twice.
    let mut samples: Vec<&str> = after
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, _)| name)
        .collect();
    let families: Vec<&str> =
        after.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    for sample in &samples {
        let name = sample.split('{').next().unwrap();
        let of = |family: &&&str| {
            name.strip_prefix(**family).is_some_and(|rest| ["", "_bucket", "_sum", "_count"].contains(&rest))
        };
        assert!(families.iter().any(|family| of(&family)), "{sample}");
    }
    let count = samples.len();
    samples.sort_unstable();
    samples.dedup();
    assert_eq!(samples.len(), count);
}

#[test]
fn health_is_felixs() {
    let lab = start(LabSpec::new(Mode::Vxlan), &[]);
    for path in ["/liveness", "/readiness"] {
        assert!(get(&lab, path).0.starts_with("http/1.1 204"), "{path}");
    }
    // Wrong resources: it goes on, but is not what was asked for.
    lab.resources.write("broken.yaml", "kind: IPPool\n").unwrap();
    until("not ready", || get(&lab, "/readiness").0.starts_with("http/1.1 503"));
    let (_, body) = get(&lab, "/readiness");
    assert!(body.contains("broken.yaml"), "{body}");
    assert!(get(&lab, "/liveness").0.starts_with("http/1.1 204"));
    assert_eq!(value(&get(&lab, "/metrics").1, "margay_healthy"), 0.0);
}

#[test]
fn the_page_needs_nothing_from_elsewhere_and_changes_nothing() {
    let lab = start(LabSpec::new(Mode::Ipip), &[]);
    let (head, page) = get(&lab, "/");
    assert!(
        head.starts_with("http/1.1 200") && head.contains("content-security-policy: default-src 'none'"),
        "{head}"
    );
    for part in ["page.css", "page.js"] {
        assert!(page.contains(part));
        let (head, text) = get(&lab, &format!("/{part}"));
        assert!(head.starts_with("http/1.1 200") && !text.is_empty(), "{head}");
        let elsewhere = text.replace("http://www.w3.org/2000/svg", "");
        assert!(!elsewhere.contains("://"), "{part} fetches something");
    }
    // What it draws is there; what changes something, or shows what pods say, is not.
    for path in ["/v1/status", "/v1/counters", "/v1/endpoints", "/v1/peers", "/v1/drops"] {
        assert!(get(&lab, path).0.starts_with("http/1.1 200"), "{path}");
    }
    for path in ["/v1/reload", "/v1/capture", "/v1/trace", "/v1/takeover"] {
        assert!(get(&lab, path).0.starts_with("http/1.1 404"), "{path}");
    }
}
