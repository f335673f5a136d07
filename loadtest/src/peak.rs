//! The most deliveries a second that one core makes with nothing lost, nobody closed, and in time: the rate rises until a
//! round is no longer good, then the last good rate is measured in rounds.

use anyhow::{Context, Result};
use clap::value_parser;

use crate::{
    fanout::Size,
    figures::{Report, number, shown_spread},
    load::{Group, Outcome, round},
    process::{Place, Server, raise_open_files},
    quiet::{Cost, Rounds, rounds},
};

/// Share of what was due that must be delivered within the round.
const KEPT_UP: f64 = 0.98;

/// `ringforge-load peak`.
#[derive(Clone, Debug, clap::Args)]
pub struct Peak {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    rounds: Rounds,
    #[command(flatten)]
    size: Size,
    /// Events a second in each fleet to begin with.
    #[arg(long, default_value_t = 400, value_parser = value_parser!(u32).range(1..=10_000))]
    from: u32,
    /// Each step is so many per cent above the one before.
    #[arg(long, default_value_t = 15, value_parser = value_parser!(u32).range(1..=400))]
    step: u32,
    /// Steps at most.
    #[arg(long, default_value_t = 20, value_parser = value_parser!(u32).range(1..=100))]
    steps: u32,
    /// The p99 that is still good, in milliseconds.
    #[arg(long, default_value_t = 100.0)]
    p99_ms: f64,
}

/// Why a round was not good, if it was not.
fn trouble(outcome: &Outcome, due_a_second: f64, p99_ms: f64) -> Option<String> {
    let p99 = outcome.latencies.quantile_ms(0.99);
    let mut report = Report::default();
    outcome.check(&mut report, "lost or closed");
    if !report.passed() {
        return report.first_failure();
    }
    if outcome.rate < due_a_second * KEPT_UP {
        return Some(format!("{:.0} deliveries/s of {due_a_second:.0}", outcome.rate));
    }
    (p99 > p99_ms).then(|| format!("p99 {p99:.1} ms"))
}

/// Climbs (or comes down first, from a rate that is not good), then measures.
///
/// # Errors
/// A server or a connection failed.
pub async fn run(peak: &Peak) -> Result<Report> {
    raise_open_files(peak.size.sockets() + 100)?;
    let Size { fleets, agents, bytes, seconds, batch, .. } = peak.size;
    let title = format!("Most deliveries/s: {fleets} fleets x {agents} agents, events of {bytes} bytes");
    let mut report = Report::new(title + if batch { ", batch" } else { "" });
    let at = async |rate: u32| {
        let server = Server::at(&peak.place, &[fleets as usize])?;
        let doors = server.doors(fleets as usize)?;
        let (mut outcomes, cost) = round(&server, &[Group { doors, shape: peak.size.shape(rate) }], seconds).await?;
        anyhow::Ok((outcomes.pop().context("one group")?, cost))
    };
    let due = |rate: u32| number(rate.into()) * number(peak.size.sockets());
    let (mut rate, mut good) = (peak.from, None);
    for _ in 0..peak.steps {
        let (outcome, cost) = at(rate).await?;
        // Once more: what somebody else did is not the server's fault.
        let again = trouble(&outcome, due(rate), peak.p99_ms).is_some() && cost.noise.percent() > peak.rounds.others;
        let (outcome, cost) = if again { at(rate).await? } else { (outcome, cost) };
        if let Some(trouble) = trouble(&outcome, due(rate), peak.p99_ms) {
            let client = cost.client_percent();
            let shown = format!("{trouble}; client at {client:.0} % of its core");
            report.row(format!("not at {:.0} deliveries/s", due(rate)), shown);
            if good.is_some() || rate == 1 {
                break;
            }
            rate /= 2;
        } else {
            good = Some(rate);
            rate += (rate * peak.step / 100).max(1);
        }
    }
    let Some(mut good) = good else {
        report.fail_if(true, "no rate was good");
        return Ok(report);
    };
    // What was good once, at the edge, need not be good in every round.
    let mut found: Vec<(Outcome, Cost)> = Vec::new();
    for _ in 0..peak.steps {
        let one = async |_| {
            let (outcome, cost) = at(good).await?;
            let noise = cost.noise;
            Ok(((outcome, cost), noise))
        };
        found = rounds(peak.rounds, &mut report, one).await?;
        let bad = found.iter().find_map(|(outcome, _)| trouble(outcome, due(good), peak.p99_ms));
        let Some(bad) = bad.filter(|_| good > 1) else { break };
        report.row(format!("not in every round at {:.0} deliveries/s", due(good)), bad);
        good = (good * 100 / (100 + peak.step)).max(1);
    }
    let values = |value: &dyn Fn(&Outcome, &Cost) -> f64| found.iter().map(|(o, c)| value(o, c)).collect::<Vec<_>>();
    report.metric("deliveries_s", "deliveries/s", &values(&|outcome, _| outcome.rate), 0);
    report.metric(
        "p99_ms",
        "latency from due time p99, ms",
        &values(&|outcome, _| outcome.latencies.quantile_ms(0.99)),
        2,
    );
    report.row("server CPU, % of its core", shown_spread(&values(&|_, cost| cost.server_percent()), 0));
    report.row("client CPU, % of its core", shown_spread(&values(&|_, cost| cost.client_percent()), 0));
    for (outcome, _) in &found {
        outcome.check(&mut report, "ringforge");
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(rate: f64, micros: u64) -> Outcome {
        let mut outcome = Outcome::default();
        outcome.rate = rate;
        outcome.latencies.record(micros);
        outcome
    }

    #[test]
    fn a_round_is_good_only_if_it_keeps_up_in_time() {
        assert_eq!(trouble(&outcome(990.0, 90_000), 1_000.0, 100.0), None);
        assert!(trouble(&outcome(970.0, 90_000), 1_000.0, 100.0).is_some());
        assert!(trouble(&outcome(1_000.0, 110_000), 1_000.0, 100.0).is_some());
    }
}
