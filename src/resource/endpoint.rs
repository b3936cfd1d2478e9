//! WorkloadEndpoint: a workload's attachment, its node and its addresses.

use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::Meta;
use super::section::{self, A_MAC, A_NAME, Report, Section};
use crate::lpm::Prefix;
use crate::wire::MacAddr;

/// How an endpoint is attached to its workload (`margay.dev/attach`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Attach {
    /// A TAP that margay makes in the workload's network namespace.
    Tap,
    /// A veth whose host end, already there, margay serves by a packet socket.
    Veth,
}

/// Most queues of one TAP. The kernel allows 256, but each costs a descriptor and a worker that
/// reads it, and one endpoint gains nothing from more workers than a large machine gives the data plane.
pub const MAX_QUEUES: u16 = 16;

/// A workload's attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadEndpoint {
    /// `namespace/name` and origin.
    pub meta: Meta,
    /// `spec.node`.
    pub node: String,
    /// `namespace/pod`, or what `spec.workload` says where there is no `spec.pod`; for people.
    pub workload: String,
    /// `spec.endpoint`: the interface inside the workload, `eth0` unless given.
    pub endpoint: String,
    /// `spec.interfaceName`: the host end.
    pub interface_name: Option<String>,
    /// `spec.ipNetworks`, each a single host.
    pub addresses: Vec<IpAddr>,
    /// `spec.allowSpoofedSourcePrefixes`: further sources that it may send from.
    pub spoofed_sources: Vec<Prefix>,
    /// `spec.mac`.
    pub mac: Option<MacAddr>,
    /// `margay.dev/attach`.
    pub attach: Attach,
    /// `margay.dev/netns`, a process id turned into its path.
    pub netns: Option<PathBuf>,
    /// `margay.dev/queues`, 1 to [`MAX_QUEUES`].
    pub queues: u16,
}

const KIND: &str = "WorkloadEndpoint";

pub(super) fn read(
    meta: Meta,
    object: &Map<String, Value>,
    report: &mut Report<'_>,
) -> Option<WorkloadEndpoint> {
    let mut spec = Section::of(object, "spec", "spec", report);
    let node = spec.required("node", A_NAME, report, section::resource_name);
    let workload = workload(&mut spec, &meta, report);
    let endpoint = spec.text("endpoint", AN_INTERFACE, report, interface_name);
    let interface_name = spec.text("interfaceName", AN_INTERFACE, report, interface_name);
    let mac = mac(&mut spec, report);
    let addresses = addresses(&mut spec, report);
    let spoofed_sources = spoofed_sources(&mut spec, report);
    // Names that Calico repeats from elsewhere; they lead nowhere here.
    for known in ["orchestrator", "containerID", "serviceAccountName"] {
        spec.value(known);
    }
    spec.finish(KIND, report);

    let attachment = attachment(object, report);
    if attachment.attach == Attach::Veth && interface_name.is_none() {
        let want = "the veth's host end, because margay.dev/attach is veth";
        report.missing("spec.interfaceName", want);
    }
    Some(WorkloadEndpoint {
        meta,
        node: node?,
        workload,
        endpoint: endpoint.unwrap_or_else(|| "eth0".to_owned()),
        interface_name,
        addresses,
        spoofed_sources,
        mac,
        attach: attachment.attach,
        netns: attachment.netns,
        queues: attachment.queues,
    })
}

fn workload(spec: &mut Section<'_>, meta: &Meta, report: &mut Report<'_>) -> String {
    let pod = spec.text("pod", A_NAME, report, section::resource_name);
    let workload = spec.text("workload", "a text", report, |text| Some(section::excerpt(text)));
    let namespace = meta.name.split('/').next().unwrap_or_default();
    match (pod, workload) {
        (Some(pod), _) => format!("{namespace}/{pod}"),
        (None, Some(workload)) => workload,
        (None, None) => meta.name.clone(),
    }
}

const AN_INTERFACE: &str =
    "an interface name (1 to 15 characters, no '/', ':' or space, not \".\" or \"..\")";

/// What the kernel takes as a name (`dev_valid_name`), in printable ASCII.
fn interface_name(text: &str) -> Option<String> {
    let fits = (1..=15).contains(&text.len()) && text != "." && text != "..";
    let clean = text.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':');
    (fits && clean).then(|| text.to_owned())
}

fn mac(spec: &mut Section<'_>, report: &mut Report<'_>) -> Option<MacAddr> {
    let mac = spec.text("mac", A_MAC, report, section::unicast_mac)?;
    if mac == MacAddr::GATEWAY {
        report.problem("spec.mac", format!("{mac} is the host side's (want the workload's own)"));
    }
    Some(mac)
}

fn addresses(spec: &mut Section<'_>, report: &mut Report<'_>) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for (path, value) in spec.list("ipNetworks", report) {
        match value.as_str().and_then(single_host) {
            None => report.wrong(&path, value, "one host's address (e.g. 10.65.0.2/32, fd00:10:65::2/128)"),
            Some(address) if addresses.contains(&address) => {
                report.problem(&path, format!("{address} stands there twice"));
            }
            Some(address) => addresses.push(address),
        }
    }
    addresses
}

fn spoofed_sources(spec: &mut Section<'_>, report: &mut Report<'_>) -> Vec<Prefix> {
    let mut prefixes = Vec::new();
    for (path, value) in spec.list("allowSpoofedSourcePrefixes", report) {
        match value.as_str().and_then(|text| text.parse::<Prefix>().ok()) {
            None => report.wrong(&path, value, "a prefix (e.g. 192.0.2.0/24, 2001:db8::/64)"),
            Some(prefix) => prefixes.push(prefix.trunc()),
        }
    }
    prefixes
}

fn single_host(text: &str) -> Option<IpAddr> {
    let address = match text.parse::<Prefix>() {
        Ok(prefix) if prefix.prefix_len() == prefix.max_prefix_len() => prefix.addr(),
        Ok(_) => return None,
        Err(_) => text.parse().ok()?,
    };
    let usable = match address {
        IpAddr::V4(address) => section::usable_v4(address),
        IpAddr::V6(address) => section::usable_v6(address),
    };
    usable.then_some(address)
}

struct Attachment {
    attach: Attach,
    netns: Option<PathBuf>,
    queues: u16,
}

const ATTACH: &str = "margay.dev/attach";
const NETNS: &str = "margay.dev/netns";
const QUEUES: &str = "margay.dev/queues";

fn attachment(object: &Map<String, Value>, report: &mut Report<'_>) -> Attachment {
    let mut metadata = Section::of(object, "metadata", "metadata", report);
    let mut annotations = metadata.section("annotations", "metadata.annotations", report);
    let attach = annotations.text(ATTACH, "tap or veth", report, |text| match text {
        "tap" => Some(Attach::Tap),
        "veth" => Some(Attach::Veth),
        _ => None,
    });
    let netns = number_or_text(&mut annotations, NETNS, A_NETNS, report, netns_path);
    let want = format!("a whole number from 1 to {MAX_QUEUES}");
    let queues = number_or_text(&mut annotations, QUEUES, &want, report, |text| {
        text.parse().ok().filter(|queues| (1..=MAX_QUEUES).contains(queues))
    });
    for key in annotations.keys("margay.dev/") {
        if ![ATTACH, NETNS, QUEUES].contains(&key) {
            let path = format!("metadata.annotations.{}", section::excerpt(key));
            report.problem(&path, format!("unknown (there are {ATTACH}, {NETNS} and {QUEUES})"));
        }
    }
    Attachment { attach: attach.unwrap_or(Attach::Tap), netns, queues: queues.unwrap_or(1) }
}

/// Annotations are texts in Kubernetes; in a file written by hand a number without quotes is as clear.
fn number_or_text<T>(
    annotations: &mut Section<'_>,
    key: &'static str,
    want: &str,
    report: &mut Report<'_>,
    read: impl FnOnce(&str) -> Option<T>,
) -> Option<T> {
    match annotations.value(key) {
        Some(Value::Number(number)) => {
            let read = read(&number.to_string());
            if read.is_none() {
                report.wrong(&format!("metadata.annotations.{key}"), &Value::Number(number.clone()), want);
            }
            read
        }
        _ => annotations.text(key, want, report, read),
    }
}

const A_NETNS: &str = "an absolute path (e.g. /run/netns/pod-a) or a process id";

fn netns_path(text: &str) -> Option<PathBuf> {
    // PATH_MAX of Linux, its closing zero included.
    const PATH_MAX: usize = 4096;
    if text.starts_with('/') && text.len() < PATH_MAX && !text.contains(char::is_control) {
        return Some(PathBuf::from(text));
    }
    // Process ids are positive and fit i32 (kernel pid_t).
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let pid: i32 = text.parse().ok().filter(|pid| digits && *pid > 0)?;
    Some(PathBuf::from(format!("/proc/{pid}/ns/net")))
}
