//! What is asked of the product: for each row of the results its bars, and how far one could dream. A run is judged by
//! the row it was started for (`--row`); the sizes that belong to a row are in `bench.sh`.

/// What one figure of a row must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bar {
    /// The row.
    pub row: &'static str,
    /// The figure, by the name under which it is measured.
    pub metric: &'static str,
    /// What must be reached.
    pub bar: f64,
    /// What would be splendid.
    pub moonshot: f64,
    better: Better,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Better {
    Less,
    More,
}

impl Bar {
    /// What a measured value is, beside this bar.
    pub fn verdict(&self, value: f64) -> &'static str {
        let reaches = |mark: f64| match self.better {
            Better::Less => value <= mark,
            Better::More => value >= mark,
        };
        match (reaches(self.bar), reaches(self.moonshot)) {
            (_, true) => "met, and the moonshot",
            (true, false) => "met",
            // Not a number, too.
            (false, false) => "**missed**",
        }
    }

    /// The sign before the value.
    pub fn sign(&self) -> &'static str {
        match self.better {
            Better::Less => "<=",
            Better::More => ">=",
        }
    }
}

const fn less(row: &'static str, metric: &'static str, bar: f64, moonshot: f64) -> Bar {
    Bar { row, metric, bar, moonshot, better: Better::Less }
}

const fn more(row: &'static str, metric: &'static str, bar: f64, moonshot: f64) -> Bar {
    Bar { row, metric, bar, moonshot, better: Better::More }
}

/// All of them. Units are those of the metric's name in the report.
pub const BARS: &[Bar] = &[
    less("start", "subscribed_ms", 300.0, 50.0),
    less("start", "rss_mb", 50.0, 20.0),
    less("start", "binary_mb", 40.0, 20.0),
    less("idle", "rss_kb", 12.0, 7.0),
    less("idle", "connect_us", 300.0, 150.0),
    less("fanout", "ratio", 1.6, 1.2),
    less("fanout", "p99_ms", 5.0, 3.0),
    less("small-fleets", "ratio", 2.0, 1.5),
    less("durable", "delivery_us", 18.0, 15.0),
    less("durable", "ack_p99_ms", 20.0, 8.0),
    less("fanout-300k", "p99_ms", 50.0, 25.0),
    less("fanout-600k", "p99_ms", 60.0, 25.0),
    more("peak", "deliveries_s", 1e6, 2e6),
    less("peak", "p99_ms", 100.0, 60.0),
    less("one-publisher", "ack_p50_ms", 1.0, 0.3),
    less("one-publisher", "ack_p99_ms", 5.0, 1.5),
    more("closed-loop", "acked_s", 15e3, 50e3),
    less("closed-loop", "ack_p99_ms", 15.0, 4.0),
    more("pipelined", "acked_s", 25e3, 60e3),
    less("pipelined", "lag_ms", 1e3, 1e3),
    more("closed-loop-slow-disk", "acked_s", 6e3, 8e3),
    more("pipelined-slow-disk", "acked_s", 20e3, 50e3),
    more("memory-cas", "acked_s", 12e3, 40e3),
    more("memory-get", "acked_s", 50e3, 70e3),
    less("watchers", "rss_kb", 2.0, 1.0),
    less("notices", "notice_us", 12.0, 8.0),
    less("notices", "p99_ms", 60.0, 20.0),
    less("storm", "back_s", 4.0, 1.5),
    less("storm", "agent_us", 400.0, 150.0),
    less("join", "cpu_s", 1.0, 0.4),
    less("join", "frames_share", 0.05, 0.02),
    less("join", "complete_s", 0.5, 0.2),
    less("join", "bytes_ratio", 1.5, 1.0),
    less("replay", "p50_ms", 3.0, 0.5),
    less("replay", "p99_ms", 12.0, 2.5),
    less("query", "p99_ms", 25.0, 5.0),
    less("rebuild", "rebuild_s", 10.0, 3.0),
    // A reply behind the broadcasts would wait at least as long as they do.
    less("replies", "behind_ratio", 1.0, 0.5),
    less("stalled", "rss_mb", 100.0, 100.0),
    less("stalled", "p99_ratio", 1.5, 1.5),
    less("neighbour", "p99_ratio", 1.5, 1.5),
    // Roles apart, on Kafka, Postgres and Redis.
    less("cluster-acked", "above_p50_ms", 2.0, 1.0),
    less("cluster-acked", "above_p99_ms", 15.0, 5.0),
    more("cluster-ingest", "acked_s", 4e3, 10e3),
    more("cluster-pipelined", "acked_s", 20e3, 30e3),
    less("cluster-pipelined", "lag_ms", 2e3, 5e2),
    less("cluster-across", "p50_ms", 10.0, 3.0),
    less("cluster-across", "p99_ms", 100.0, 20.0),
    less("cluster-newest", "p99_ms", 50.0, 10.0),
    less("cluster-scattered", "p99_ms", 200.0, 50.0),
    more("cluster-catch-up", "events_s", 30e3, 60e3),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_judged_by_its_direction() {
        let cost = less("a", "b", 2.0, 1.0);
        assert_eq!(
            [0.5, 1.0, 1.5, 2.0, 2.1].map(|value| cost.verdict(value)),
            ["met, and the moonshot", "met, and the moonshot", "met", "met", "**missed**"]
        );
        let rate = more("a", "b", 2.0, 3.0);
        assert_eq!([1.9, 2.0, 3.0].map(|value| rate.verdict(value)), ["**missed**", "met", "met, and the moonshot"]);
        assert_eq!(cost.verdict(f64::NAN), "**missed**");
    }

    #[test]
    fn moonshots_are_not_below_their_bars() {
        for (index, bar) in BARS.iter().enumerate() {
            assert_ne!(bar.verdict(bar.moonshot), "**missed**", "{bar:?}");
            assert!(!BARS[..index].iter().any(|other| (other.row, other.metric) == (bar.row, bar.metric)), "{bar:?}");
        }
    }
}
