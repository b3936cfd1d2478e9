//! One contestant in one round: its nodes built, measured, and taken down.

use std::path::Path;
use std::time::Duration;

use super::contestant::Contestant;
use super::measure::{Bed, Figure, address};
use super::metric::Test;
use crate::rib::Attach;
use crate::testbed::{BedError, Lab, Ping, Pod, peak_memory, ping};
use crate::wire::Family;

/// What is the same for all.
pub(super) struct Stage<'a> {
    /// The program whose daemons are measured.
    pub(super) binary: &'a Path,
    /// Of the traffic.
    pub(super) family: Family,
    /// How margay's pods are attached.
    pub(super) attach: Attach,
    /// What the daemons are told besides node and files.
    pub(super) arguments: Vec<String>,
    /// Nothing longer than the MTU crosses the underlay.
    pub(super) real_frames: bool,
    /// Of a measurement.
    pub(super) duration: Duration,
    /// TCP congestion control.
    pub(super) congestion: &'a str,
}

impl Stage<'_> {
    /// Runs the tests; each gives its figures or the reason why there are none. `before` is told of each.
    pub(super) fn play(
        &self,
        contestant: Contestant,
        tests: &[Test],
        before: impl Fn(Test),
    ) -> Vec<(Test, Result<Vec<Figure>, String>)> {
        let mut built = self.build(contestant);
        let mut results = Vec::new();
        for test in tests {
            before(*test);
            let result = match &mut built {
                Ok(lab) => self.measure(lab, *test),
                Err(reason) => Err(reason.clone()),
            };
            results.push((*test, result));
        }
        results
    }

    /// Nodes, pods and daemons, all of whom reach each other.
    fn build(&self, contestant: Contestant) -> Result<Lab, String> {
        let build = || -> Result<Lab, BedError> {
            let mut lab = Lab::new(contestant.lab(self.attach, self.family))?;
            if self.real_frames {
                lab.real_frames()?;
            }
            let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
            lab.start(self.binary, &arguments)?;
            Ok(lab)
        };
        let lab = build().map_err(|error| error.to_string())?;
        let [a, b] = &lab.nodes;
        for (from, to) in [(&a.pods[0], &b.pods[0]), (&b.pods[0], &a.pods[0]), (&a.pods[0], &a.pods[1])] {
            reaches(from, to, self.family)?;
        }
        Ok(lab)
    }

    fn measure(&self, lab: &mut Lab, test: Test) -> Result<Vec<Figure>, String> {
        let daemons: Vec<u32> =
            lab.nodes.iter_mut().filter_map(|node| node.daemon()).map(|daemon| daemon.pid()).collect();
        let [a, b] = &lab.nodes;
        let bed = Bed {
            from: &a.pods[0],
            to: &b.pods[0],
            neighbour: &a.pods[1],
            family: self.family,
            daemons,
            duration: self.duration,
            congestion: self.congestion,
        };
        let figures = bed.run(test);
        alive(lab)?;
        figures.map_err(|error| error.to_string())
    }
}

fn reaches(from: &Pod, to: &Pod, family: Family) -> Result<(), String> {
    // The kernel's proxy ARP may take most of a second for its first answer.
    let patient = Ping { patience: Duration::from_secs(2), ..Ping::default() };
    let report = address(to, family)
        .and_then(|address| ping(&from.netns, address, patient))
        .map_err(|error| error.to_string())?;
    match report.lost() {
        0 => Ok(()),
        _ => Err(format!("{} does not reach {}: ping: {report}", from.name, to.name)),
    }
}

/// A daemon that has ended says why.
fn alive(lab: &mut Lab) -> Result<(), String> {
    for node in &mut lab.nodes {
        let name = node.name.clone();
        let Some(daemon) = node.daemon() else { continue };
        // A process that has ended has no memory.
        if peak_memory(daemon.pid()).is_none() {
            return Err(format!("the daemon of {name} has ended; it said:\n{}", daemon.output()));
        }
    }
    Ok(())
}
