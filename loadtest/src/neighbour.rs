//! What agents feel of others: of broadcasts while they ask, of readers that stall, of a tenant that is loud. Each compares
//! two loads in the same round, without and with the other.

use anyhow::{Context, Result};
use clap::value_parser;

use crate::{
    fanout::Size,
    figures::{Latencies, Report, number, shown_spread},
    load::{Group, Outcome, Shape, round},
    process::{Place, Server, raise_open_files},
    quiet::{Noise, Rounds, rounds},
};

/// What the other does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Other {
    /// Agents ask while broadcasts come.
    Replies,
    /// Some agents of each fleet never read.
    Stalled,
    /// A second tenant, at a multiple of the rate, with a few readers that stall.
    Tenant,
}

/// `ringforge-load neighbour`.
#[derive(Clone, Debug, clap::Args)]
pub struct Neighbour {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    rounds: Rounds,
    #[command(flatten)]
    size: Size,
    /// What the other does.
    #[arg(long, value_enum)]
    other: Other,
    /// Events a second in each fleet.
    #[arg(long, default_value_t = 50, value_parser = value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Agents of each fleet that ask, 20 times a second each.
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u32).range(1..=1_000))]
    asking: u32,
    /// Agents in all that stall, for `stalled`.
    #[arg(long, default_value_t = 1_000, value_parser = value_parser!(u32).range(1..=10_000))]
    stalled: u32,
    /// The loud tenant's rate, as a multiple of the other's.
    #[arg(long, default_value_t = 20, value_parser = value_parser!(u32).range(1..=1_000))]
    times: u32,
}

/// One load of a round.
struct Load {
    /// Of the agents that are looked at.
    outcome: Outcome,
    /// Of the others, if there are any.
    loud: Option<Outcome>,
    /// Resident memory at its end.
    rss: f64,
    noise: Noise,
}

/// Runs it.
///
/// # Errors
/// A server or a connection failed.
pub async fn run(neighbour: &Neighbour) -> Result<Report> {
    raise_open_files(neighbour.size.sockets() * 2 + u64::from(neighbour.stalled) + 100)?;
    let Size { fleets, agents, .. } = neighbour.size;
    let (rate, other) = (neighbour.rate, neighbour.other);
    let mut report = Report::new(format!("Beside {other:?}: {fleets} fleets x {agents} agents x {rate} events/s"));
    let one = async |_| {
        let (alone, beside) = shapes(neighbour);
        let alone = load(neighbour, alone, None).await?;
        let beside = load(neighbour, beside.0, beside.1).await?;
        let noise = alone.noise.and(beside.noise);
        Ok(((alone, beside), noise))
    };
    let found = rounds(neighbour.rounds, &mut report, one).await?;
    for (alone, beside) in &found {
        alone.outcome.check(&mut report, "alone");
        beside.outcome.check(&mut report, "beside");
        if let Some(loud) = &beside.loud {
            loud.check(&mut report, "the other");
        }
    }
    if other == Other::Replies {
        replies(&mut report, &found);
        return Ok(report);
    }
    let values = |value: &dyn Fn(&Load, &Load) -> f64| found.iter().map(|(a, b)| value(a, b)).collect::<Vec<_>>();
    let p99 = |load: &Load| load.outcome.latencies.quantile_ms(0.99);
    report.metric(
        "p99_ratio",
        "p99 of the others, as a ratio to alone",
        &values(&|alone, beside| p99(beside) / p99(alone)),
        2,
    );
    report.row("p99 alone, ms", shown_spread(&values(&|alone, _| p99(alone)), 2));
    report.row("p99 beside, ms", shown_spread(&values(&|_, beside| p99(beside)), 2));
    report.metric(
        "rss_mb",
        "RSS beside, more than alone, MB",
        &values(&|alone, beside| (beside.rss - alone.rss) / 1e6),
        1,
    );
    if other == Other::Tenant {
        let rates = values(&|_, beside| beside.loud.as_ref().map_or(0.0, |loud| loud.rate));
        report.row("deliveries/s of the other", shown_spread(&rates, 0));
    }
    Ok(report)
}

fn replies(report: &mut Report, found: &[(Load, Load)]) {
    let values = |value: &dyn Fn(&Load, &Load) -> f64| found.iter().map(|(a, b)| value(a, b)).collect::<Vec<_>>();
    let p99 = |latencies: &Latencies| latencies.quantile_ms(0.99);
    for (what, latencies) in [
        ("ping to pong", (|load: &Load| &load.outcome.pongs) as fn(&Load) -> &Latencies),
        ("get to entry", |load| &load.outcome.gets),
    ] {
        report.row(
            format!("{what} p99 without broadcasts, ms"),
            shown_spread(&values(&|alone, _| p99(latencies(alone))), 2),
        );
        report.row(
            format!("{what} p99 under broadcasts, ms"),
            shown_spread(&values(&|_, beside| p99(latencies(beside))), 2),
        );
        report.fail_if(
            values(&|alone, beside| number(latencies(alone).count().min(latencies(beside).count()))).contains(&0.0),
            format!("{what}: nothing was answered"),
        );
    }
    let events = values(&|_, beside| p99(&beside.outcome.latencies));
    report.row("broadcasts p99, ms", shown_spread(&events, 2));
    let behind =
        values(&|_, beside| p99(&beside.outcome.pongs).max(p99(&beside.outcome.gets)) / p99(&beside.outcome.latencies));
    report.metric("behind_ratio", "the slower reply's p99, as a ratio to the broadcasts' p99", &behind, 2);
}

/// What happens alone, and what beside the other, with the other's own shape if it has fleets of its own.
fn shapes(neighbour: &Neighbour) -> (Shape, (Shape, Option<Shape>)) {
    let shape = neighbour.size.shape(neighbour.rate);
    match neighbour.other {
        Other::Replies => {
            let beside = Shape { asking: neighbour.asking as usize, ..shape };
            (Shape { rate: 0, ..beside.clone() }, (beside, None))
        }
        Other::Stalled => {
            let stalled = neighbour.stalled.div_ceil(neighbour.size.fleets) as usize;
            (shape.clone(), (Shape { stalled, ..shape }, None))
        }
        Other::Tenant => {
            let stalled = shape.agents.div_ceil(20);
            let loud = Shape {
                stalled,
                agents: shape.agents - stalled,
                rate: neighbour.rate * neighbour.times,
                ..shape.clone()
            };
            (shape.clone(), (shape, Some(loud)))
        }
    }
}

/// Runs one load on a fresh server with two tenants.
async fn load(neighbour: &Neighbour, shape: Shape, loud: Option<Shape>) -> Result<Load> {
    let Size { fleets, seconds, .. } = neighbour.size;
    let fleets = fleets as usize;
    let server = Server::at(&neighbour.place, &[fleets, fleets])?;
    let mut doors = server.doors(2 * fleets)?;
    let others = doors.split_off(fleets);
    let mut groups = vec![Group { doors, shape }];
    groups.extend(loud.map(|shape| Group { doors: others, shape }));
    let (outcomes, cost) = round(&server, &groups, seconds).await?;
    let mut outcomes = outcomes.into_iter();
    let outcome = outcomes.next().context("the first group")?;
    Ok(Load { outcome, loud: outcomes.next(), rss: number(server.rss()?), noise: cost.noise })
}
