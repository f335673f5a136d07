//! Projectors that catch up: a log that others wrote, read models that are empty, and the time until all of it is projected.
//! Nothing else runs meanwhile.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::value_parser;
use futures_util::future::try_join_all;

use crate::{
    agent::{Hello, connect_all},
    apart::{between, show_counted},
    check::Faults,
    figures::{Report, number, per_second},
    ingest::{Tally, publish},
    process::{Place, Server},
    quiet::{Meter, Rounds, rounds, show_parts},
    wire::quiet_broadcast,
};

/// Commands of one publisher in flight while the log is written.
const WINDOW: usize = 64;
/// What takes longer to be projected has failed.
const PROJECTED_WITHIN: Duration = Duration::from_mins(5);

/// `ringforge-load catch-up`.
#[derive(Clone, Debug, clap::Args)]
pub struct CatchUp {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    rounds: Rounds,
    /// Events, all of one fleet and so of one partition.
    #[arg(long, default_value_t = 300_000, value_parser = value_parser!(u32).range(1_000..=10_000_000))]
    events: u32,
    /// Who writes them.
    #[arg(long, default_value_t = 16, value_parser = value_parser!(u32).range(1..=64))]
    publishers: u32,
    /// Bytes of each payload.
    #[arg(long, default_value_t = 256, value_parser = value_parser!(u32).range(1..=60_000))]
    bytes: u32,
}

/// Runs it.
///
/// # Errors
/// A server or a connection failed, or it takes too long.
pub async fn run(arguments: &CatchUp) -> Result<Report> {
    let CatchUp { events, bytes, .. } = *arguments;
    let mut server = Server::at(&arguments.place, &[1])?;
    let mut report = Report::new(format!("Projectors catch up with {events} events of {bytes} bytes in one partition"));
    write(arguments, &server, &mut report).await?;
    let apart = server.apart().context("projectors alone are measured of roles apart")?;
    let upto = apart.applied()?;
    ensure!(upto >= events.into(), "only {upto} events of {events} are in one partition");
    apart.end()?;
    let one = async |_| {
        let apart = server.apart().context("roles apart")?;
        // Those of the round before.
        apart.end()?;
        apart.empty()?;
        let (before, following) = (server.counted()?, server.apart().context("roles apart")?.follow()?);
        let begun = Instant::now();
        server.apart().context("roles apart")?.project()?;
        let meter = Meter::start(&server)?;
        let seen = following.until(upto, PROJECTED_WITHIN)?;
        let cost = meter.stop(&server)?;
        let (rate, start) = pace(&seen, begun).context("it was projected before anybody looked")?;
        let (noise, counted) = (cost.noise, between(&before, &server.counted()?));
        Ok(((rate, start, cost, counted), noise))
    };
    let found = rounds(arguments.rounds, &mut report, one).await?;
    let column = |value: fn(&(f64, Duration)) -> f64| -> Vec<f64> {
        found.iter().map(|(rate, start, ..)| value(&(*rate, *start))).collect()
    };
    report.metric("events_s", "events/s, from the last look at nothing to all", &column(|round| round.0), 0);
    report.metric(
        "start_ms",
        "before that, from the start of the process, ms",
        &column(|round| round.1.as_secs_f64() * 1e3),
        0,
    );
    show_parts(&mut report, "an event", &found.iter().map(|(_, _, cost, _)| (cost, upto)).collect::<Vec<_>>());
    let counted: Vec<_> = found.iter().map(|(.., counted)| (counted, number(upto))).collect();
    show_counted(&mut report, "an event", &counted);
    Ok(report)
}

/// Events a second from the last look at which nothing was projected, or else the first, and when that was, from `begun`.
fn pace(seen: &[(Instant, u64)], begun: Instant) -> Option<(f64, Duration)> {
    let (from, before) = seen.iter().rfind(|(_, applied)| *applied == 0).or(seen.first())?;
    let (to, applied) = seen.last().filter(|(at, _)| at > from)?;
    Some((per_second(applied - before, *to - *from), from.saturating_duration_since(begun)))
}

/// Writes the events; all must be acknowledged.
async fn write(arguments: &CatchUp, server: &Server, report: &mut Report) -> Result<()> {
    let CatchUp { events, publishers, bytes, .. } = *arguments;
    let sockets = connect_all(&server.doors(1)?, 0..publishers as usize, &Hello::default()).await?;
    let (begun, tally, each) = (Instant::now(), Mutex::new(Tally::default()), events.div_ceil(publishers) as usize);
    let write = async |mut socket| {
        let make = |number| (number < each).then(|| quiet_broadcast(number, bytes as usize));
        publish(&mut socket, WINDOW, make, begun..begun, &tally).await
    };
    let flights = try_join_all(sockets.into_iter().map(|(_, socket)| write(socket))).await.context("write the log")?;
    report.row("written before, a second", format!("{:.0}", per_second(events.into(), begun.elapsed())));
    let mut faults = Faults::default();
    for flight in &flights {
        faults.add(&flight.faults());
    }
    report.fail_if(!faults.none(), format!("written before: {faults}"));
    let refusals = tally.into_inner().map(|tally| tally.refusals()).unwrap_or_default();
    report.fail_if(!refusals.is_empty(), format!("written before, refused: {refusals}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_counts_from_the_last_look_at_nothing() {
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let (rate, start) =
            pace(&[(at(100), 0), (at(500), 0), (at(600), 40), (at(1_500), 1_000)], begun).expect("a pace");
        assert!((rate - 1_000.0).abs() < 1e-6 && start == Duration::from_millis(500));
        let (rate, _) = pace(&[(at(100), 200), (at(1_100), 500)], begun).expect("a pace");
        assert!((rate - 300.0).abs() < 1e-6);
        assert_eq!(pace(&[(at(100), 5)], begun), None);
    }
}
