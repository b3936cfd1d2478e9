//! What came of it: a row for each figure of each contestant, with every round's value.

use serde::Serialize;

use super::Args;
use super::contestant::Contestant;
use super::machine_facts::Facts;
use super::measure::Figure;
use super::metric::{Better, Metric, Test};

/// One test of one contestant in one round.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) round: u32,
    pub(super) contestant: Contestant,
    pub(super) test: Test,
    pub(super) figures: Result<Vec<Figure>, String>,
}

impl Outcome {
    /// What failed, in a line.
    pub(super) fn failure(&self) -> Option<String> {
        let error = self.figures.as_ref().err()?;
        let first = error.lines().next().unwrap_or_default();
        Some(format!("round {}, {} {}: {first}", self.round, self.contestant.name(), self.test.name()))
    }
}

/// The results, as the JSON file has them.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    /// Of this layout; grows when a field changes its meaning or goes.
    schema: u32,
    pub(super) machine: &'a Facts,
    pub(super) options: &'a Args,
    /// Cores that processes which have nothing to do with it kept busy meanwhile.
    pub(super) others_cores: f64,
    /// By metric, then contestant.
    pub(super) rows: Vec<Row>,
}

/// One figure of one contestant.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Row {
    pub(super) metric: Metric,
    pub(super) title: &'static str,
    pub(super) unit: &'static str,
    pub(super) better: Better,
    pub(super) contestant: Contestant,
    /// Whose value it is compared with.
    pub(super) reference: Contestant,
    /// Of the rounds' values.
    pub(super) median: Option<f64>,
    /// The largest value less the smallest, percent of the median.
    pub(super) spread_percent: Option<f64>,
    /// Median of the ratios to the reference's value of the same round.
    pub(super) ratio: Option<f64>,
    /// What the next two are seconds for: Gbit or Mpkt.
    pub(super) cpu_per: Option<&'static str>,
    /// Cores' seconds of all daemons; nothing where the kernel does it all.
    pub(super) daemons_cpu: Option<f64>,
    /// Cores' seconds of the whole machine.
    pub(super) machine_cpu: Option<f64>,
    /// The most memory that one daemon had resident, MiB.
    pub(super) daemon_peak_mib: Option<f64>,
    pub(super) rounds: Vec<Round>,
}

/// One round's value.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Round {
    round: u32,
    #[serde(flatten)]
    pub(super) figure: Option<Figure>,
    /// To the reference's value of this round.
    ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl<'a> Report<'a> {
    pub(super) fn new(
        machine: &'a Facts,
        options: &'a Args,
        entries: &[(Contestant, Vec<Test>)],
        outcomes: &[Outcome],
    ) -> Self {
        let rows = rows(entries, outcomes);
        Self { schema: 1, machine, options, others_cores: others_cores(&rows), rows }
    }

    /// The rows of one metric after the other.
    pub(super) fn by_metric(&self) -> impl Iterator<Item = &[Row]> {
        self.rows.chunk_by(|a, b| a.metric == b.metric)
    }
}

fn others_cores(rows: &[Row]) -> f64 {
    let figures = || rows.iter().flat_map(|row| &row.rounds).filter_map(|round| round.figure.as_ref());
    let sum = |of: fn(&Figure) -> f64| figures().map(of).sum::<f64>();
    sum(|figure| figure.others_cpu_seconds) / sum(|figure| figure.seconds).max(1e-9)
}

pub(super) fn rows(entries: &[(Contestant, Vec<Test>)], outcomes: &[Outcome]) -> Vec<Row> {
    let mut rows = Vec::new();
    for test in Test::ALL {
        for metric in test.metrics() {
            for (contestant, _) in entries.iter().filter(|(_, tests)| tests.contains(&test)) {
                rows.push(Row::new(*metric, *contestant, rounds(test, *metric, *contestant, outcomes)));
            }
        }
    }
    rows
}

fn rounds(test: Test, metric: Metric, contestant: Contestant, outcomes: &[Outcome]) -> Vec<Round> {
    let value = |outcome: &Outcome| {
        outcome.figures.as_ref().ok()?.iter().find(|figure| figure.metric == metric).cloned()
    };
    let of = |who: Contestant| outcomes.iter().filter(move |o| o.contestant == who && o.test == test);
    of(contestant)
        .map(|outcome| {
            let figure = value(outcome);
            let reference = of(metric.reference()).find(|other| other.round == outcome.round).and_then(value);
            let ratio = figure.as_ref().zip(reference.filter(|reference| reference.value > 0.0));
            Round {
                round: outcome.round,
                ratio: ratio.map(|(figure, reference)| figure.value / reference.value),
                figure,
                error: outcome.figures.as_ref().err().cloned(),
            }
        })
        .collect()
}

impl Row {
    fn new(metric: Metric, contestant: Contestant, rounds: Vec<Round>) -> Self {
        let figures = || rounds.iter().filter_map(|round| round.figure.as_ref());
        let values: Vec<f64> = figures().map(|figure| figure.value).collect();
        let middle = median(values.clone());
        let per_work = |seconds: fn(&Figure) -> f64| {
            median(figures().filter_map(|figure| Some(seconds(figure) / figure.work?)).collect())
        };
        let span =
            values.iter().copied().fold(f64::MIN, f64::max) - values.iter().copied().fold(f64::MAX, f64::min);
        Self {
            metric,
            title: metric.title(),
            unit: metric.unit(),
            better: metric.better(),
            contestant,
            reference: metric.reference(),
            median: middle,
            spread_percent: middle.filter(|middle| *middle > 0.0).map(|middle| span / middle * 100.0),
            ratio: median(rounds.iter().filter_map(|round| round.ratio).collect()),
            cpu_per: metric.work(),
            daemons_cpu: per_work(|figure| figure.daemons_cpu_seconds).filter(|_| contestant.is_margay()),
            machine_cpu: per_work(|figure| figure.machine_cpu_seconds),
            daemon_peak_mib: figures().filter_map(|figure| figure.daemon_peak_mib).reduce(f64::max),
            rounds,
        }
    }
}

/// Of an even number, the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A figure of `value` that took its daemons a second for four units of work.
    pub(in crate::cli::bench) fn figure(metric: Metric, value: f64) -> Figure {
        Figure {
            metric,
            value,
            work: metric.work().map(|_| 4.0),
            seconds: 2.0,
            daemons_cpu_seconds: 1.0,
            machine_cpu_seconds: 2.0,
            others_cpu_seconds: 0.5,
            daemon_peak_mib: Some(value),
            details: [("retransmits", 3.0)].into(),
        }
    }

    pub(in crate::cli::bench) fn outcome(round: u32, contestant: Contestant, value: f64) -> Outcome {
        Outcome { round, contestant, test: Test::Tcp1, figures: Ok(vec![figure(Metric::Tcp1, value)]) }
    }

    pub(in crate::cli::bench) fn two() -> Vec<(Contestant, Vec<Test>)> {
        vec![(Contestant::KernelVxlan, vec![Test::Tcp1]), (Contestant::MargayVxlan, vec![Test::Tcp1])]
    }

    #[test]
    fn medians_of_odd_and_even_numbers() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn a_ratio_compares_what_was_measured_in_the_same_round() {
        use Contestant::{KernelVxlan, MargayVxlan};
        // The machine was half as fast in the second round, for both.
        let outcomes = [
            outcome(1, KernelVxlan, 8.0),
            outcome(1, MargayVxlan, 6.0),
            outcome(2, KernelVxlan, 4.0),
            outcome(2, MargayVxlan, 3.0),
        ];
        let rows = rows(&two(), &outcomes);
        assert_eq!(rows.len(), 2);
        let [kernel, margay] = [&rows[0], &rows[1]];
        assert_eq!((kernel.ratio, margay.ratio), (Some(1.0), Some(0.75)));
        assert_eq!((margay.median, margay.daemon_peak_mib), (Some(4.5), Some(6.0)));
        assert_eq!(margay.spread_percent, Some(3.0 / 4.5 * 100.0));
        assert_eq!((margay.daemons_cpu, margay.machine_cpu), (Some(0.25), Some(0.5)));
        assert_eq!(kernel.daemons_cpu, None, "there are none");
        assert_eq!(others_cores(&rows), 0.25, "half a second of two");
    }

    #[test]
    fn what_failed_is_a_row_too() {
        let error =
            Outcome { figures: Err("broken\nand more".into()), ..outcome(1, Contestant::MargayVxlan, 0.0) };
        assert_eq!(error.failure().unwrap(), "round 1, margay-vxlan tcp1: broken");
        let rows = rows(&two(), &[outcome(1, Contestant::KernelVxlan, 8.0), error]);
        assert_eq!((rows[1].median, rows[1].ratio), (None, None));
        let json = serde_json::to_value(&rows[1].rounds).unwrap();
        assert_eq!(json[0]["error"], "broken\nand more");
    }

    #[test]
    fn a_reference_that_got_nothing_through_compares_with_nothing() {
        use Contestant::{KernelVxlan, MargayVxlan};
        let rows = rows(&two(), &[outcome(1, KernelVxlan, 0.0), outcome(1, MargayVxlan, 1.0)]);
        assert_eq!((rows[1].median, rows[1].ratio), (Some(1.0), None));
        assert_eq!(rows[0].spread_percent, None);
    }
}
