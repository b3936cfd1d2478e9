//! The tests themselves, between pods of a lab that runs.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::metric::{Metric, Test};
use crate::testbed::{
    BedError, Blast, Delivery, Meter, Pod, Streams, Usage, blast, counter, peak_memory, round_trips,
};
use crate::wire::Family;

/// Of what was sent, what may be lost where it says that nothing is.
const TOLERATED: f64 = 0.001;
/// Less than this of the rate that was asked for was sent or delivered: somebody could not keep up.
const KEPT: f64 = 0.97;
/// The search for the highest rate ends when it is known this well, or after so many steps.
const PRECISE: f64 = 0.03;
const STEPS: usize = 7;
const PAYLOAD: usize = 64;

/// One measured value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Figure {
    /// What it is, and hence its unit.
    #[serde(skip)]
    pub(super) metric: Metric,
    /// In the metric's unit.
    pub(super) value: f64,
    /// Gigabits or million packets that were received meanwhile.
    pub(super) work: Option<f64>,
    /// How long the clocks ran.
    pub(super) seconds: f64,
    /// Cores' seconds of the daemons meanwhile.
    pub(super) daemons_cpu_seconds: f64,
    /// Cores' seconds of the whole machine without `others`.
    pub(super) machine_cpu_seconds: f64,
    /// Cores' seconds of processes that have nothing to do with it.
    pub(super) others_cpu_seconds: f64,
    /// The most memory that one of the daemons had resident since its start, MiB.
    pub(super) daemon_peak_mib: Option<f64>,
    /// What else is known about it.
    pub(super) details: BTreeMap<&'static str, f64>,
}

/// Pods to measure between.
pub(super) struct Bed<'a> {
    /// Sends.
    pub(super) from: &'a Pod,
    /// Receives, on the other node.
    pub(super) to: &'a Pod,
    /// Receives, on the sender's node.
    pub(super) neighbour: &'a Pod,
    /// Of the addresses that they use.
    pub(super) family: Family,
    /// Processes of the daemons.
    pub(super) daemons: Vec<u32>,
    /// Of a measurement.
    pub(super) duration: Duration,
    /// TCP congestion control.
    pub(super) congestion: &'a str,
}

impl Bed<'_> {
    /// Runs one test.
    pub(super) fn run(&self, test: Test) -> Result<Vec<Figure>, BedError> {
        match test {
            Test::Tcp1 => Ok(vec![self.tcp(Metric::Tcp1, self.to, 1)?]),
            Test::Tcp4 => Ok(vec![self.tcp(Metric::Tcp4, self.to, 4)?]),
            Test::Local => Ok(vec![self.tcp(Metric::Local, self.neighbour, 1)?]),
            Test::Udp => self.udp([Metric::UdpFull, Metric::UdpLossless], false),
            Test::UdpGso => self.udp([Metric::UdpGsoFull, Metric::UdpGsoLossless], true),
            Test::UdpCut => {
                // For good: this lab sends no datagrams at once any more.
                self.from.cut_datagrams()?;
                self.udp([Metric::UdpCutFull, Metric::UdpCutLossless], true)
            }
            Test::Rtt => self.round_trips(),
        }
    }

    /// What arrives per second once the streams have found their speed.
    fn tcp(&self, metric: Metric, to: &Pod, count: usize) -> Result<Figure, BedError> {
        let retransmitted = || counter(&self.from.netns, "Tcp", "RetransSegs");
        let congestion = Some(self.congestion);
        let streams =
            Streams::start(&self.from.netns, &to.netns, address(to, self.family)?, count, congestion)?;
        sleep((self.duration / 4).min(Duration::from_millis(500)));
        let (meter, retransmits) = (Meter::start(self.daemons.clone())?, retransmitted()?);
        let (bytes, started) = (streams.received(), Instant::now());
        sleep(self.duration);
        let (bytes, elapsed) = (streams.received() - bytes, started.elapsed());
        let (usage, retransmits) = (meter.usage()?, retransmitted()? - retransmits);
        streams.stop()?;
        let gigabits = bytes as f64 * 8.0 / 1e9;
        if bytes == 0 {
            return Err(BedError::Spec(format!("nothing arrived at {} by TCP", to.name)));
        }
        let details = [("retransmits", retransmits as f64)];
        Ok(self.figure(metric, gigabits / elapsed.as_secs_f64(), Some(gigabits), usage, &details))
    }

    /// Delivered at full load, and the highest rate at which next to nothing is lost.
    fn udp(&self, [full, lossless]: [Metric; 2], segmented: bool) -> Result<Vec<Figure>, BedError> {
        let unbound = Blast { payload: PAYLOAD, rate: None, duration: self.duration, segmented };
        // Caches, neighbours, flows.
        self.blast(full, Blast { duration: self.duration / 8, ..unbound })?;
        let (most, delivery) = self.blast(full, unbound)?;
        if delivery.received == 0 {
            return Err(BedError::Spec(format!("nothing arrived at {} by UDP", self.to.name)));
        }
        let found = match delivery.loss() < TOLERATED {
            true => Some(Figure { metric: lossless, ..most.clone() }),
            false => self.highest_without_loss(lossless, unbound, delivery.delivered())?,
        };
        let nothing = || self.figure(lossless, 0.0, None, Usage::default(), &[]);
        Ok(vec![most, found.unwrap_or_else(nothing)])
    }

    /// By bisection; a step that fails is tried once more, since whatever else runs on the machine can make it
    /// fail. `None` if every rate lost too much.
    fn highest_without_loss(
        &self,
        metric: Metric,
        unbound: Blast,
        delivered: f64,
    ) -> Result<Option<Figure>, BedError> {
        let (mut low, mut high, mut best) = (0.0, 1.4 * delivered, None);
        for _ in 0..STEPS {
            let rate = f64::midpoint(low, high);
            let step = Blast { rate: Some(rate), duration: self.duration / 2, ..unbound };
            // What a deep queue holds back is not lost, but it is not delivered at this rate either.
            let good = |delivery: &Delivery| {
                delivery.loss() < TOLERATED && delivery.offered().min(delivery.delivered()) > KEPT * rate
            };
            let mut tried = self.blast(metric, step)?;
            if !good(&tried.1) {
                tried = self.blast(metric, step)?;
            }
            if good(&tried.1) {
                (low, best) = (rate, Some(tried.0));
            } else {
                high = rate;
            }
            if high - low < PRECISE * high {
                break;
            }
        }
        Ok(best)
    }

    /// One run of datagrams.
    fn blast(&self, metric: Metric, what: Blast) -> Result<(Figure, Delivery), BedError> {
        let protocol = match self.family {
            Family::V4 => "Udp",
            Family::V6 => "Udp6",
        };
        let overflows = || counter(&self.to.netns, protocol, "RcvbufErrors");
        let address = address(self.to, self.family)?;
        let (meter, before) = (Meter::start(self.daemons.clone())?, overflows()?);
        let delivery = blast(&self.from.netns, &self.to.netns, address, what)?;
        let (usage, overflows) = (meter.usage()?, overflows()? - before);
        let details = [
            ("sent", delivery.sent as f64),
            ("received", delivery.received as f64),
            ("offered_kpps", delivery.offered() / 1e3),
            ("loss", delivery.loss()),
            ("out_of_order", delivery.out_of_order as f64),
            ("lost_by_receiver", overflows as f64),
        ];
        let millions = delivery.received as f64 / 1e6;
        let figure = self.figure(metric, delivery.delivered() / 1e3, Some(millions), usage, &details);
        Ok((figure, delivery))
    }

    fn round_trips(&self) -> Result<Vec<Figure>, BedError> {
        let address = address(self.to, self.family)?;
        let meter = Meter::start(self.daemons.clone())?;
        let trips = round_trips(&self.from.netns, &self.to.netns, address, self.duration)?;
        let usage = meter.usage()?;
        let details = [("count", trips.count() as f64), ("lost", trips.lost as f64)];
        [(Metric::RttP50, 0.5), (Metric::RttP99, 0.99)]
            .into_iter()
            .map(|(metric, part)| {
                let nothing = || BedError::Spec(format!("nothing came back from {} by UDP", self.to.name));
                let micros = trips.percentile(part).ok_or_else(nothing)?.as_secs_f64() * 1e6;
                // No work to divide by: the spinners take what time there is.
                Ok(self.figure(metric, micros, None, usage, &details))
            })
            .collect()
    }

    fn figure(
        &self,
        metric: Metric,
        value: f64,
        work: Option<f64>,
        usage: Usage,
        details: &[(&'static str, f64)],
    ) -> Figure {
        let peak = self.daemons.iter().filter_map(|pid| peak_memory(*pid)).max();
        Figure {
            metric,
            value,
            work,
            seconds: usage.elapsed.as_secs_f64(),
            daemons_cpu_seconds: usage.daemons,
            machine_cpu_seconds: usage.machine,
            others_cpu_seconds: usage.others,
            daemon_peak_mib: peak.map(|bytes| bytes as f64 / f64::from(1 << 20)),
            details: details.iter().copied().collect(),
        }
    }
}

/// A pod's address of a family.
///
/// # Errors
/// It has none.
pub(super) fn address(pod: &Pod, family: Family) -> Result<IpAddr, BedError> {
    pod.address_of(family).ok_or_else(|| BedError::Spec(format!("{} has no {family} address", pod.name)))
}

#[cfg(test)]
mod tests {
    use super::super::contestant::Contestant;
    use super::*;
    use crate::rib::Attach;
    use crate::testbed::Lab;

    #[test]
    fn traffic_is_of_the_family_that_was_asked_for() {
        for family in Family::ALL {
            let lab = Lab::new(Contestant::KernelRoute.lab(Attach::Veth, family)).unwrap();
            let [a, b] = &lab.nodes;
            let bed = Bed {
                from: &a.pods[0],
                to: &b.pods[0],
                neighbour: &a.pods[1],
                family,
                daemons: Vec::new(),
                duration: Duration::from_millis(50),
                congestion: "cubic",
            };
            for (test, receiver) in
                [(Test::Tcp1, bed.to), (Test::Udp, bed.to), (Test::Rtt, bed.to), (Test::Local, bed.neighbour)]
            {
                let received =
                    || ["Ip", "Ip6"].map(|version| counter(&receiver.netns, version, "InReceives").unwrap());
                let before = received();
                bed.run(test).unwrap();
                let after = received();
                let (own, other) = if family == Family::V4 { (0, 1) } else { (1, 0) };
                assert!(after[own] > before[own], "{family} {test:?}");
                assert_eq!(after[other], before[other], "{family} {test:?}");
            }
        }
    }
}
