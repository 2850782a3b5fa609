//! What was measured, as a table, as JSON, and against the bars.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;

use crate::machine::Machine;

/// A figure of each of some subjects, taken in turns.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measurement {
    /// Such as `down/chacha20`; a filter goes by it.
    pub(crate) name: String,
    /// What was measured, for people.
    pub(crate) title: String,
    /// What the figures are in.
    pub(crate) unit: &'static str,
    pub(crate) series: Vec<Series>,
}

/// One subject's figures.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Series {
    pub(crate) subject: String,
    pub(crate) median: f64,
    /// In the order of the turns.
    pub(crate) runs: Vec<f64>,
    /// Of bulk streams: seconds of the processor for each GB moved, by program.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) processor: BTreeMap<String, f64>,
}

impl Series {
    pub(crate) fn new(subject: impl ToString, runs: Vec<f64>) -> Self {
        let subject = subject.to_string();
        Self { subject, median: median(&runs), runs, processor: BTreeMap::new() }
    }
}

/// A demand on a figure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Bar {
    pub(crate) what: String,
    pub(crate) measured: f64,
    pub(crate) at_least: Option<f64>,
    pub(crate) at_most: Option<f64>,
    pub(crate) ok: Option<bool>,
}

/// All of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) repetitions: usize,
    /// Whether the runs were too short for figures to be quoted.
    pub(crate) quick: bool,
    pub(crate) measurements: Vec<Measurement>,
    pub(crate) bars: Vec<Bar>,
}

/// The middle one, or what is between the two in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = [sorted.len().saturating_sub(1) / 2, sorted.len() / 2];
    let [low, high] = middle.map(|at| sorted.get(at).copied().unwrap_or(f64::NAN));
    low.midpoint(high)
}

/// The value that so many in a hundred are not above.
pub(crate) fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    let at = (percent / 100.0 * last as f64).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

impl Measurement {
    pub(crate) fn of(&self, subject: impl ToString) -> Option<&Series> {
        let subject = subject.to_string();
        self.series.iter().find(|series| series.subject == subject)
    }

    /// How a subject compares with another: the median over the turns, so that
    /// what slows the machine for a while slows both.
    pub(crate) fn ratio(&self, subject: impl ToString, to: impl ToString) -> Option<f64> {
        let (of, to) = (self.of(subject)?, self.of(to)?);
        let ratios: Vec<f64> = of.runs.iter().zip(&to.runs).map(|(a, b)| a / b).collect();
        (!ratios.is_empty()).then(|| median(&ratios))
    }

    /// As a table.
    pub(crate) fn table(&self) -> String {
        let mut out = format!("\n{}\n", self.title);
        let base = self.series.first().map(|series| series.subject.clone()).unwrap_or_default();
        let compared = if self.series.len() > 1 { format!("/ {base}") } else { String::new() };
        let _ = writeln!(
            out,
            "  {:<24} {:>12} {:>22} {:>14}",
            self.name, self.unit, "lowest .. highest", compared
        );
        for series in &self.series {
            let low = percentile(&series.runs, 0.0);
            let high = percentile(&series.runs, 100.0);
            let range = format!("{} .. {}", figure(low), figure(high));
            let ratio = match self.ratio(&series.subject, &base) {
                Some(ratio) if self.series.len() > 1 => format!("{ratio:.2}"),
                _ => String::new(),
            };
            let median = figure(series.median);
            let _ = writeln!(out, "  {:<24} {median:>12} {range:>22} {ratio:>14}", series.subject);
        }
        out + &self.processor_table()
    }

    fn processor_table(&self) -> String {
        let programs: BTreeSet<&String> =
            self.series.iter().flat_map(|series| series.processor.keys()).collect();
        if programs.is_empty() {
            return String::new();
        }
        let mut out = format!("  {:<24}", "processor, s/GB");
        for program in &programs {
            let _ = write!(out, " {program:>11}");
        }
        for series in &self.series {
            let _ = write!(out, "\n  {:<24}", series.subject);
            for program in &programs {
                let spent = series.processor.get(*program).map_or("-".to_owned(), |s| figure(*s));
                let _ = write!(out, " {spent:>11}");
            }
        }
        out + "\n"
    }
}

/// A number with three digits that count.
fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// The bars as a table.
pub(crate) fn bars_table(bars: &[Bar]) -> String {
    let mut out = format!("\n{:<50} {:>9} {:>10}\n", "against the bars", "measured", "bar");
    for bar in bars {
        let limit = match (bar.at_least, bar.at_most) {
            (Some(least), _) => format!(">= {least}"),
            (None, Some(most)) => format!("<= {most}"),
            (None, None) => String::new(),
        };
        let verdict = match bar.ok {
            Some(true) => "ok",
            Some(false) => "missed",
            None => "",
        };
        let _ = writeln!(out, "{:<50} {:>9} {limit:>10} {verdict}", bar.what, figure(bar.measured));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles_are_those_of_the_sorted_values() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
        let values: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 0.0), 0.0);
        assert_eq!(percentile(&values, 99.0), 99.0);
        assert_eq!(percentile(&values, 100.0), 100.0);
    }

    /// A machine that is ten times slower for a turn changes no ratio.
    #[test]
    fn a_ratio_is_taken_turn_by_turn() {
        let measurement = Measurement {
            name: "down/x".to_owned(),
            title: String::new(),
            unit: "MB/s",
            series: vec![
                Series::new("a", vec![100.0, 10.0, 100.0]),
                Series::new("b", vec![50.0, 5.0, 49.0]),
            ],
        };
        assert_eq!(measurement.ratio("b", "a"), Some(0.5));
        assert_eq!(measurement.ratio("b", "c"), None);
    }
}
