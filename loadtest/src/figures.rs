//! Numbers and how they are shown: latencies, medians, a report as a Markdown table.

use std::{fmt, time::Duration};

use hdrhistogram::Histogram;

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

/// Median and range as text, with this many decimals.
pub fn shown_spread(values: &[f64], decimals: usize) -> String {
    let (median, low, high) = spread(values);
    format!("{median:.decimals$} ({low:.decimals$} to {high:.decimals$})")
}

/// What a run found: a table, and what must not have happened.
#[derive(Debug, Default)]
pub struct Report {
    title: String,
    rows: Vec<(String, String)>,
    failures: Vec<String>,
}

impl Report {
    /// An empty one.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), ..Self::default() }
    }

    /// One more line.
    pub fn row(&mut self, what: impl Into<String>, value: impl fmt::Display) {
        self.rows.push((what.into(), value.to_string()));
    }

    /// Something that must not happen, if it did.
    pub fn fail_if(&mut self, happened: bool, what: impl Into<String>) {
        if happened {
            self.failures.push(what.into());
        }
    }

    /// Whether nothing happened that must not.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "### {}\n\n| what | measured |\n|---|---|", self.title)?;
        for (what, value) in &self.rows {
            writeln!(out, "| {what} | {value} |")?;
        }
        for failure in &self.failures {
            writeln!(out, "| **FAILED** | {failure} |")?;
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
        assert_eq!(
            report.to_string(),
            "### idle\n\n| what | measured |\n|---|---|\n| agents | 5 |\n| **FAILED** | 1 missing |\n"
        );
    }
}
