//! What is counted and measured, as OpenMetrics text: for Prometheus.
//!
//! Names follow Prometheus's conventions below `margay_`. What Felix counts too has Felix's name, and Felix's way of
//! naming: dashboards that are there go on.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use std::collections::BTreeMap;

use crate::agent::view::{Counted, Kind, Readings, Traffic};
use crate::verdict::{Anomaly, DropReason, IcmpError, PuntReason, Sent};

/// Of [`encode`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The readings as OpenMetrics text.
pub fn encode(readings: Readings) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(readings)));
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = text::encode(&mut out, &registry);
    out
}

/// Of [`plain`]'s text.
pub const PLAIN_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The same text in the format that Prometheus had before: for who does not ask for OpenMetrics. There a counter is described by
/// the name that its samples have, and units and the end are not said.
pub fn plain(openmetrics: &str) -> String {
    let counters: Vec<&str> = openmetrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut out = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines().filter(|line| !line.starts_with("# UNIT ") && *line != "# EOF") {
        let described =
            ["# HELP ", "# TYPE "].into_iter().find_map(|word| Some((word, line.strip_prefix(word)?)));
        match described.and_then(|(word, rest)| Some((word, rest.split_once(' ')?))) {
            Some((word, (name, rest))) if counters.contains(&name) => {
                out.extend([word, name, "_total ", rest]);
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

#[derive(Debug)]
struct Scrape(Readings);

type Labels<'a> = Vec<(&'a str, &'a str)>;
type Samples<'a, T> = Vec<(Labels<'a>, T)>;

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Page(encoder);
        node(&mut out, &self.0)?;
        frames(&mut out, &self.0)?;
        endpoints(&mut out, &self.0)?;
        peers(&mut out, &self.0)?;
        others(&mut out, &self.0)?;
        fib(&mut out, &self.0)?;
        felix(&mut out, &self.0)
    }
}

fn node(out: &mut Page<'_>, readings: &Readings) -> fmt::Result {
    let labels = vec![("version", &*readings.version), ("node", &*readings.node)];
    out.gauges("margay_build_info", "The daemon's version and node; always 1", None, vec![(labels, 1.0)])?;
    out.gauge("margay_uptime", "Since the daemon began", Some(Unit::Seconds), readings.uptime.as_secs_f64())?;
    let is_healthy = f64::from(u8::from(readings.is_healthy));
    out.gauge(
        "margay_healthy",
        "1 when nothing is missing or wrong; margay status says what",
        None,
        is_healthy,
    )?;
    let [attached, missing] = readings.endpoints;
    let states =
        vec![(vec![("state", "attached")], attached as f64), (vec![("state", "missing")], missing as f64)];
    out.gauges(
        "margay_endpoints",
        "Endpoints that are attached, and those that cannot be yet",
        None,
        states,
    )?;
    let workers: Vec<String> = (0..readings.pools.len()).map(|worker| worker.to_string()).collect();
    let pools = |which: usize| {
        let of = workers.iter().zip(&readings.pools);
        of.map(|(worker, slots)| (vec![("worker", &**worker)], slots[which] as f64)).collect()
    };
    out.gauges("margay_pool_slots", "Buffers of a worker", None, pools(0))?;
    out.gauges(
        "margay_pool_slots_fewest_free",
        "Fewest buffers of a worker that were free so far",
        None,
        pools(1),
    )
}

fn frames(out: &mut Page<'_>, readings: &Readings) -> fmt::Result {
    let total = &readings.total;
    let all = |label: &'static str, rows: Vec<(&'static str, u64)>| -> Samples<'static, u64> {
        rows.into_iter().map(|(name, count)| (vec![(label, name)], count)).collect()
    };
    let about = "Frames that ports received, and packets that the slow path made";
    out.counter("margay_input_frames", about, total.input)?;
    let sent = Sent::ALL.iter().map(|sent| (sent.name(), total.sent[sent.index()])).collect();
    out.counters("margay_sent_frames", "Frames transmitted, by where to", None, all("to", sent))?;
    let punted = PuntReason::ALL.iter().map(|reason| (reason.name(), total.punted[reason.index()])).collect();
    out.counters(
        "margay_punted_frames",
        "Frames that left the fast path, by reason",
        None,
        all("reason", punted),
    )?;
    let dropped =
        DropReason::ALL.iter().map(|reason| (reason.name(), total.dropped[reason.index()])).collect();
    out.counters("margay_dropped_frames", "Frames dropped, by reason", None, all("reason", dropped))?;
    let noted =
        Anomaly::ALL.iter().map(|anomaly| (anomaly.name(), total.anomalies[anomaly.index()])).collect();
    out.counters(
        "margay_noted_frames",
        "Frames that went on although something is wrong with them",
        None,
        all("anomaly", noted),
    )?;
    let errors =
        IcmpError::ALL.iter().map(|error| (error.name(), total.icmp_errors[error.index()])).collect();
    out.counters("margay_icmp_errors", "ICMP errors made, by what they say", None, all("error", errors))?;
    let bounds: Vec<(f64, u64)> =
        total.batches.iter().enumerate().map(|(at, n)| (f64::from(1 << at), *n)).collect();
    out.histogram(
        "margay_batch_frames",
        "Frames that a port handed over at once",
        None,
        total.batched as f64,
        &bounds,
    )
}

/// By endpoint: what it sent and got, and what did not simply pass.
fn endpoints(out: &mut Page<'_>, readings: &Readings) -> fmt::Result {
    let accounts = readings.parties.iter().filter(|account| account.kind == Kind::Endpoint);
    let rows: Vec<(&Counted, Labels<'_>)> = accounts
        .map(|account| {
            let workload = account.workload.as_deref().unwrap_or_default();
            (account, vec![("endpoint", &*account.name), ("workload", workload)])
        })
        .collect();
    by_party(out, "margay_endpoint", "an endpoint", &rows, false)
}

/// By peer, and by the form in which frames travel.
fn peers(out: &mut Page<'_>, readings: &Readings) -> fmt::Result {
    let accounts = readings.parties.iter().filter(|account| account.kind == Kind::Peer);
    let rows: Vec<(&Counted, Labels<'_>)> =
        accounts.map(|account| (account, vec![("peer", &*account.name)])).collect();
    by_party(out, "margay_peer", "a peer", &rows, true)?;
    let mtus =
        readings.peers.iter().map(|peer| (vec![("peer", &*peer.name)], f64::from(peer.takes()))).collect();
    out.gauges(
        "margay_peer_path_mtu",
        "Greatest outer packet that the path to a peer takes, as far as known",
        Some(Unit::Bytes),
        mtus,
    )?;
    let faults = readings
        .peers
        .iter()
        .map(|peer| (vec![("peer", &*peer.name)], f64::from(u8::from(peer.fault.is_some()))));
    out.gauges(
        "margay_peer_fault",
        "1 while ICMP errors say that the way to a peer is broken",
        None,
        faults.collect(),
    )?;
    let tunnels = readings.tunnels.iter().map(|tunnel| {
        let labels = vec![
            ("peer", &*tunnel.peer),
            ("form", &*tunnel.encapsulation),
            // A peer has one on the underlay of each family.
            ("remote", &*tunnel.remote),
            ("clamped", if tunnel.mss_clamped { "yes" } else { "no" }),
        ];
        (labels, f64::from(tunnel.mtu))
    });
    out.gauges("margay_tunnel_mtu", "Greatest inner packet of a tunnel", Some(Unit::Bytes), tunnels.collect())
}

/// The node's kernel, strangers on the underlay, and who is gone.
fn others(out: &mut Page<'_>, readings: &Readings) -> fmt::Result {
    let is_other = |account: &&Counted| !matches!(account.kind, Kind::Endpoint | Kind::Peer);
    let accounts = readings.parties.iter().filter(is_other);
    let rows: Vec<(&Counted, Labels<'_>)> =
        accounts.map(|account| (account, vec![("party", account.kind.name())])).collect();
    by_party(out, "margay_other", "this node's kernel, the underlay, or who is gone", &rows, true)
}

fn fib(out: &mut Page<'_>, readings: &Readings) -> fmt::Result {
    out.gauge("margay_fib_size", "Lookup tables of the FIB", Some(Unit::Bytes), readings.fib_bytes as f64)?;
    let [_, failed] = readings.fib_updates;
    let about = "FIBs that could not be compiled: the last good one stays";
    out.counter("margay_fib_failures", about, failed)?;
    out.counter("margay_reloads", "How often the resources were read", readings.reloads)
}

/// As Felix names them.
fn felix(out: &mut Page<'_>, readings: &Readings) -> fmt::Result {
    let [attached, _] = readings.endpoints;
    out.gauge(
        "felix_active_local_endpoints",
        "Endpoints of this node that are attached",
        None,
        attached as f64,
    )?;
    out.gauge("felix_cluster_num_hosts", "Nodes", None, readings.peers.len() as f64 + 1.0)?;
    out.gauge("felix_route_table_num_routes", "Prefixes with a route", None, readings.routes as f64)?;
    let [published, _] = readings.fib_updates;
    let seconds = readings.fib_update_time.as_secs_f64();
    let name = "felix_int_dataplane_apply_time";
    out.histogram(
        name,
        "To compile a FIB and to publish it",
        Some(Unit::Seconds),
        seconds,
        &[(f64::MAX, published)],
    )
}

/// What every party has.
fn by_party(
    out: &mut Page<'_>,
    prefix: &str,
    whose: &str,
    rows: &[(&Counted, Labels<'_>)],
    forms: bool,
) -> fmt::Result {
    type Of<T> = fn(&Counted) -> &BTreeMap<String, T>;
    let both: [(&str, &str, Of<Traffic>); 2] =
        [("received", "from", |account| &account.received), ("sent", "to", |account| &account.sent)];
    for (what, direction, of) in both {
        let (mut frames, mut bytes) = (Samples::new(), Samples::new());
        for (account, labels) in rows {
            for (form, traffic) in of(account) {
                let mut labels = labels.clone();
                labels.extend(forms.then_some(("form", &**form)));
                frames.push((labels.clone(), traffic.frames));
                bytes.push((labels, traffic.bytes));
            }
        }
        let about = format!("{direction} {whose}");
        out.counters(&format!("{prefix}_{what}_frames"), &format!("Frames {about}"), None, frames)?;
        let about = format!("Bytes of frames {about}");
        out.counters(&format!("{prefix}_{what}"), &about, Some(Unit::Bytes), bytes)?;
    }
    let both: [(&str, Of<u64>); 2] =
        [("punted", |account| &account.punted), ("dropped", |account| &account.dropped)];
    for (what, of) in both {
        let mut samples = Samples::new();
        for (account, labels) in rows {
            for (reason, count) in of(account) {
                let labels = labels.iter().copied().chain([("reason", &**reason)]).collect();
                samples.push((labels, *count));
            }
        }
        let about = format!("Frames of {whose} that were {what}, by reason");
        out.counters(&format!("{prefix}_{what}_frames"), &about, None, samples)?;
    }
    Ok(())
}

/// The page that is written.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn counters(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        samples: Samples<'_, u64>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        for (labels, value) in samples {
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        samples: Samples<'_, f64>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for (labels, value) in samples {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, unit: Option<Unit>, value: f64) -> fmt::Result {
        let only = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        ConstGauge::new(value).encode(only)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let only = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(only)
    }

    /// Of counts in each class, with the greatest value of the class.
    fn histogram(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        sum: f64,
        classes: &[(f64, u64)],
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Histogram)?;
        let count = classes.iter().map(|(_, count)| count).sum();
        let mut buckets = classes.to_vec();
        if buckets.last().is_none_or(|(bound, _)| *bound < f64::MAX) {
            buckets.push((f64::MAX, 0));
        }
        family.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}
