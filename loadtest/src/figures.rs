//! Numbers and how they are shown: latencies, medians, a report as a Markdown table.

use std::{fmt, time::Duration};

use hdrhistogram::Histogram;

use crate::bars::{BARS, Bar};

/// The longest latency told apart, in microseconds.
const LONGEST_MICROS: u64 = 60_000_000;

/// Latencies in microseconds. Longer than a minute counts as a minute.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_MICROS, 3).expect("the bounds are in order"))
    }
}

impl Latencies {
    /// One more.
    pub fn record(&mut self, micros: u64) {
        self.0.saturating_record(micros.max(1));
    }

    /// One more: from when it was due, whenever it was really sent. A late sender makes it longer, never shorter.
    pub fn record_due(&mut self, due_micros: u64, seen_micros: u64) {
        self.record(seen_micros.saturating_sub(due_micros));
    }

    /// Those of another one as well.
    pub fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("the bounds are the same");
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// A quantile in milliseconds; 0 if there is none.
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        millis(self.0.value_at_quantile(quantile))
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|quantile| self.quantile_ms(quantile));
        write!(out, "{p50:.2} / {p99:.2} / {max:.2} ms")
    }
}

#[expect(clippy::cast_precision_loss, reason = "a minute in microseconds is exact in an f64")]
fn millis(micros: u64) -> f64 {
    micros as f64 / 1e3
}

/// Microseconds between two times.
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A count as a number to divide.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
pub fn number(count: u64) -> f64 {
    count as f64
}

/// `count` per second.
pub fn per_second(count: u64, time: Duration) -> f64 {
    number(count) / time.as_secs_f64().max(1e-9)
}

/// CPU microseconds for each of `count`.
pub fn micros_each(cpu: Duration, count: u64) -> f64 {
    cpu.as_secs_f64() * 1e6 / number(count.max(1))
}

/// The median, the smallest and the largest; zeros of nothing.
pub fn spread(values: &[f64]) -> (f64, f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else { return (0.0, 0.0, 0.0) };
    let middle = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
    (median, *first, *last)
}

/// The slope of the straight line through these points; not a number of fewer than two.
pub fn slope(points: &[(f64, f64)]) -> f64 {
    let count = number(points.len() as u64);
    let mean = |value: fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let rise: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    rise / points.iter().map(|point| (point.0 - x).powi(2)).sum::<f64>()
}

/// Median and range as text, with this many decimals.
pub fn shown_spread(values: &[f64], decimals: usize) -> String {
    let (median, low, high) = spread(values);
    format!("{median:.decimals$} ({low:.decimals$} to {high:.decimals$})")
}

/// What a run found: a table, and what must not have happened.
#[derive(Debug, Default)]
pub struct Report {
    title: String,
    rows: Vec<Row>,
    failures: Vec<String>,
}

#[derive(Debug)]
struct Row {
    what: String,
    shown: String,
    /// The figure's name and value, if it can be judged.
    metric: Option<(&'static str, f64)>,
    bar: Option<&'static Bar>,
}

impl Report {
    /// An empty one.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), ..Self::default() }
    }

    /// One more line.
    pub fn row(&mut self, what: impl Into<String>, value: impl fmt::Display) {
        self.rows.push(Row { what: what.into(), shown: value.to_string(), metric: None, bar: None });
    }

    /// One more line, with a figure that has a name: the median of its values.
    pub fn metric(&mut self, metric: &'static str, what: impl Into<String>, values: &[f64], decimals: usize) {
        let (median, ..) = spread(values);
        let median = if values.is_empty() { f64::NAN } else { median };
        let shown = if values.len() == 1 { format!("{median:.decimals$}") } else { shown_spread(values, decimals) };
        let what = format!("**{}**", what.into());
        self.rows.push(Row { what, shown, metric: Some((metric, median)), bar: None });
    }

    /// Something that must not happen, if it did.
    pub fn fail_if(&mut self, happened: bool, what: impl Into<String>) {
        if happened {
            self.failures.push(what.into());
        }
    }

    /// Puts the bars of a row beside its figures. A figure that is not there is a failure.
    pub fn judge(&mut self, row: &str) {
        let mut bars = BARS.iter().filter(|bar| bar.row == row).peekable();
        self.fail_if(bars.peek().is_none(), format!("there are no bars for `{row}`"));
        for bar in bars {
            let measured = self.rows.iter_mut().find(|row| row.metric.is_some_and(|(name, _)| name == bar.metric));
            match measured {
                Some(row) => row.bar = Some(bar),
                None => self.failures.push(format!("`{}` of `{row}` was not measured", bar.metric)),
            }
        }
    }

    /// The first of those.
    pub fn first_failure(&self) -> Option<String> {
        self.failures.first().cloned()
    }

    /// Whether nothing happened that must not. A bar that is missed is no failure.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "### {}\n\n| what | measured | bar | moonshot | |\n|---|---|---|---|---|", self.title)?;
        for Row { what, shown, metric, bar } in &self.rows {
            match (metric, bar) {
                (Some((_, value)), Some(bar)) => {
                    let (sign, verdict) = (bar.sign(), bar.verdict(*value));
                    writeln!(out, "| {what} | {shown} | {sign} {} | {sign} {} | {verdict} |", bar.bar, bar.moonshot)?;
                }
                _ => writeln!(out, "| {what} | {shown} | | | |")?,
            }
        }
        for failure in &self.failures {
            writeln!(out, "| **FAILED** | {failure} | | | |")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_counts_from_when_it_was_due() {
        let mut latencies = Latencies::default();
        // Due every millisecond, but the sender stood still: all five went out and came at 5 ms.
        for due in [1_000, 2_000, 3_000, 4_000, 5_000] {
            latencies.record_due(due, 5_000);
        }
        assert_eq!(latencies.count(), 5);
        assert!((latencies.quantile_ms(1.0) - 4.0).abs() < 0.01, "{latencies}");
        assert!((latencies.quantile_ms(0.5) - 2.0).abs() < 0.01, "{latencies}");
    }

    #[test]
    fn latencies_stay_within_bounds() {
        let mut latencies = Latencies::default();
        latencies.record_due(10, 5);
        latencies.record(u64::MAX);
        assert!(latencies.quantile_ms(0.1) <= 0.01 && latencies.quantile_ms(1.0) >= 60_000.0, "{latencies}");
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), (2.0, 1.0, 3.0));
        assert_eq!(spread(&[4.0, 1.0]), (2.5, 1.0, 4.0));
        assert_eq!(spread(&[]), (0.0, 0.0, 0.0));
    }

    #[test]
    fn a_failure_is_shown_and_fails() {
        let mut report = Report::new("idle");
        report.row("agents", 5);
        report.fail_if(false, "not this");
        assert!(report.passed());
        report.fail_if(true, "1 missing");
        assert!(!report.passed());
        let head = "### idle\n\n| what | measured | bar | moonshot | |\n|---|---|---|---|---|\n";
        assert_eq!(report.to_string(), format!("{head}| agents | 5 | | | |\n| **FAILED** | 1 missing | | | |\n"));
    }

    #[test]
    fn a_figure_is_judged_by_its_row_and_must_be_there() {
        let mut report = Report::new("replay");
        report.metric("p50_ms", "p50, ms", &[2.0, 1.0, 4.0], 1);
        report.metric("p99_ms", "p99, ms", &[13.0], 0);
        report.judge("replay");
        assert!(report.passed());
        let text = report.to_string();
        assert!(text.contains("| **p50, ms** | 2.0 (1.0 to 4.0) | <= 3 | <= 0.5 | met |"), "{text}");
        assert!(text.contains("| **p99, ms** | 13 | <= 12 | <= 2.5 | **missed** |"), "{text}");
        report.judge("query");
        assert!(report.passed());
        report.judge("storm");
        assert!(report.to_string().contains("| **FAILED** | `back_s` of `storm` was not measured |"));
        let mut report = Report::new("no such row");
        report.judge("no such row");
        assert!(!report.passed());
    }

    #[test]
    fn memory_is_a_slope() {
        assert!((slope(&[(1.0, 105.0), (2.0, 110.0), (3.0, 115.0)]) - 5.0).abs() < 1e-9);
        assert!(slope(&[(1.0, 9.0), (2.0, 8.0)]) < 0.0);
        assert!(slope(&[(1.0, 9.0)]).is_nan() && slope(&[]).is_nan());
    }

    #[test]
    fn nothing_measured_is_a_bar_missed() {
        let mut report = Report::new("query");
        report.metric("p99_ms", "p99", &[], 0);
        report.judge("query");
        assert!(report.to_string().contains("**missed**"));
    }
}
