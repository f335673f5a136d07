//! Replay: a long history of which few events match, then the time until all of those have come. The items must be
//! exactly those, in order.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use clap::value_parser;
use tokio::time::{sleep, timeout};

use crate::{
    agent::{Hello, connect},
    apart::{Counted, between, show_counted},
    figures::{Latencies, Report, micros, per_second},
    ingest::{Tally, publish},
    process::{Place, Server},
    quiet::{Cost, Meter, Rounds, rounds, show_parts},
    socket::Socket,
    wire::{Seen, WANTED_KIND, WANTED_TAG, find_stamp, history, replay},
};

/// Events in flight while the history is written: less than a connection's send queue holds.
const FILL_WINDOW: usize = 64;
/// A replay that takes longer has failed.
const REPLAYED_WITHIN: Duration = Duration::from_secs(30);

/// `ringforge-load replay`.
#[derive(Clone, Debug, clap::Args)]
pub struct Replay {
    #[command(flatten)]
    place: Place,
    /// Events of the history.
    #[arg(long, default_value_t = 100_000, value_parser = value_parser!(u32).range(1..=10_000_000))]
    events: u32,
    /// Events that match, evenly spread.
    #[arg(long, default_value_t = 100, value_parser = value_parser!(u32).range(1..=1_000))]
    matches: u32,
    /// The newest match instead, all in a row.
    #[arg(long)]
    newest: bool,
    #[command(flatten)]
    rounds: Rounds,
    /// Replays by each filter in a round.
    #[arg(long, default_value_t = 40, value_parser = value_parser!(u32).range(1..=10_000))]
    replays: u32,
    /// Pause between replays: a server may bound the items a second.
    #[arg(long, default_value_t = 120, value_parser = value_parser!(u32).range(0..=60_000))]
    pause_ms: u32,
    /// Bytes of each payload.
    #[arg(long, default_value_t = 256, value_parser = value_parser!(u32).range(1..=60_000))]
    bytes: u32,
}

/// What one round found.
struct Round {
    /// By kinds, by tags.
    latencies: [Latencies; 2],
    cost: Cost,
    /// What servers below counted meanwhile.
    counted: Counted,
}

/// Runs it.
///
/// # Errors
/// The server, the connection or a replay failed.
pub async fn run(arguments: &Replay) -> Result<Report> {
    let Replay { events, matches, replays, .. } = *arguments;
    ensure!(matches <= events, "no more matches than events");
    let server = Server::at(&arguments.place, &[1])?;
    let mut socket = connect(&server.doors(1)?[0], "load-0", &Hello::default()).await?;
    let (first, every) = if arguments.newest { (events - matches, 1) } else { (0, events / matches) };
    let wanted: Vec<u64> = (0..matches).map(|item| u64::from(first + item * every)).collect();
    let which = if arguments.newest { "the newest".to_owned() } else { format!("one in {every}") };
    let mut report = Report::new(format!("Replay of {matches} events among {events}, {which}"));
    let is_wanted = |number: usize| wanted.binary_search(&(number as u64)).is_ok();
    fill(&mut socket, events, |number| history(number, arguments.bytes as usize, is_wanted(number)), &mut report)
        .await?;

    let one = async |_| {
        let (meter, before) = (Meter::start(&server)?, server.counted()?);
        let mut latencies = [Latencies::default(), Latencies::default()];
        for round in 0..replays as usize {
            for (filter, (name, value)) in [("kinds", WANTED_KIND), ("tags", WANTED_TAG)].into_iter().enumerate() {
                let begun = Instant::now();
                let asked = timeout(REPLAYED_WITHIN, ask(&mut socket, round, name, value, &wanted)).await;
                asked
                    .map_err(|_| anyhow!("no end in {REPLAYED_WITHIN:?}"))
                    .flatten()
                    .with_context(|| format!("replay {round} by {name}"))?;
                latencies[filter].record(micros(begun.elapsed()));
                sleep(Duration::from_millis(arguments.pause_ms.into())).await;
            }
        }
        let cost = meter.stop(&server)?;
        let (noise, counted) = (cost.noise, between(&before, &server.counted()?));
        Ok((Round { latencies, cost, counted }, noise))
    };
    let found = rounds(arguments.rounds, &mut report, one).await?;
    let worse = |quantile: f64| -> Vec<f64> {
        let slower = |Round { latencies: [kinds, tags], .. }: &Round| {
            kinds.quantile_ms(quantile).max(tags.quantile_ms(quantile))
        };
        found.iter().map(slower).collect()
    };
    report.metric("p50_ms", "request to end p50, ms, the slower filter", &worse(0.5), 2);
    report.metric("p99_ms", "request to end p99, ms, the slower filter", &worse(0.99), 2);
    for Round { latencies: [kinds, tags], cost, .. } in &found {
        report.row("by kinds; by tags: p50 / p99 / max", format!("{kinds}; {tags}"));
        let each = cost.server.as_secs_f64() * 1e3 / f64::from(replays * 2);
        report.row("server CPU a replay, ms", format!("{each:.1}"));
    }
    let each: Vec<_> = found.iter().map(|round| (&round.cost, u64::from(replays) * 2)).collect();
    show_parts(&mut report, "a replay", &each);
    let each: Vec<_> = found.iter().map(|round| (&round.counted, f64::from(replays * 2))).collect();
    show_counted(&mut report, "a replay", &each);
    report.row("replays checked", found.len() * replays as usize * 2);
    Ok(report)
}

/// Writes this many things, all of which must be acknowledged.
///
/// # Errors
/// The connection failed.
pub async fn fill(socket: &mut Socket, count: u32, make: impl Fn(usize) -> String, report: &mut Report) -> Result<()> {
    let (begun, tally) = (Instant::now(), Mutex::new(Tally::default()));
    let next = |number: usize| (number < count as usize).then(|| make(number));
    let flight = publish(socket, FILL_WINDOW, next, begun..begun, &tally).await.context("write what is to be found")?;
    let faults = flight.faults();
    report.row("written before by one agent, a second", format!("{:.0}", per_second(count.into(), begun.elapsed())));
    report.fail_if(!faults.none(), format!("written before: {faults}"));
    let refusals = tally.into_inner().map(|tally| tally.refusals()).unwrap_or_default();
    report.fail_if(!refusals.is_empty(), format!("written before, refused: {refusals}"));
    sleep(Duration::from_secs(1)).await;
    Ok(())
}

/// One replay, from the request to its end: it must bring exactly the events `wanted`, by their numbers, in order.
///
/// # Errors
/// It brought anything else, or was refused.
pub async fn ask(socket: &mut Socket, number: usize, filter: &str, value: &str, wanted: &[u64]) -> Result<()> {
    socket.send(replay(number, filter, value, wanted.len() as u64).as_bytes()).await?;
    let mut items = Items { number, wanted, seen: 0 };
    loop {
        for line in String::from_utf8(socket.next().await?)?.split('\n') {
            if items.take(line)? {
                return Ok(());
            }
        }
    }
}

/// What a replay must be: exactly `wanted`, in order.
struct Items<'a> {
    number: usize,
    wanted: &'a [u64],
    seen: usize,
}

impl Items<'_> {
    /// Looks at one message; true: it was the end. Frames of other things are passed over.
    fn take(&mut self, line: &str) -> Result<bool> {
        let message = Seen::read(line).with_context(|| format!("read {line}"))?;
        ensure!(message.kind != "error", "refused: {line}");
        if message.kind != "replay" || message.number() != Some(self.number) {
            return Ok(false);
        }
        let all = self.wanted.len() as u64;
        match message.event() {
            "start" => ensure!(message.total == Some(all), "total {:?} instead of {all}", message.total),
            "item" => {
                let original = message.original.context("an item without its frame")?;
                Seen::read(original.get()).context("read an item's frame")?;
                let sequence = find_stamp(original.get().as_bytes()).context("an item of another kind")?.0.sequence;
                let expected = self.wanted.get(self.seen);
                ensure!(expected == Some(&sequence), "event {sequence} instead of {expected:?}");
                ensure!(message.index == Some(self.seen as u64), "index {:?} instead of {}", message.index, self.seen);
                self.seen += 1;
            }
            "end" => {
                ensure!(self.seen == self.wanted.len(), "{} items instead of {all}", self.seen);
                ensure!(message.delivered == Some(all), "delivered {:?} instead of {all}", message.delivered);
                return Ok(true);
            }
            other => return Err(anyhow!("an unknown replay frame {other}")),
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(index: u64, sequence: u64) -> String {
        format!(
            r#"{{"type":"replay","event":"item","ref":4,"index":{index},"original":{{"type":"activity","event":"broadcast","activity":{{"data":"~0.{sequence}.0~"}}}}}}"#
        )
    }

    fn replayed(lines: &[String]) -> Result<bool> {
        let mut items = Items { number: 4, wanted: &[0, 10], seen: 0 };
        let mut ended = false;
        for line in lines {
            ended = items.take(line)?;
        }
        Ok(ended)
    }

    #[test]
    fn exactly_the_wanted_items_are_accepted() {
        let start = r#"{"type":"replay","event":"start","ref":4,"total":2}"#.to_owned();
        let end = r#"{"type":"replay","event":"end","ref":4,"delivered":2}"#.to_owned();
        let other = r#"{"type":"presence","event":"joined"}"#.to_owned();
        let good = [start.clone(), item(0, 0), other, item(1, 10), end.clone()];
        assert!(replayed(&good).expect("good"));
        for bad in [
            vec![r#"{"type":"replay","event":"start","ref":4,"total":3}"#.to_owned()],
            vec![start.clone(), item(0, 10)],
            vec![start.clone(), item(1, 0)],
            vec![start.clone(), item(0, 0), end.clone()],
            vec![start.clone(), item(0, 0), item(1, 10), item(2, 20)],
            vec![start, item(0, 0), item(1, 0), end],
            vec![r#"{"type":"error","ref":4,"code":"busy"}"#.to_owned()],
        ] {
            assert!(replayed(&bad).is_err(), "{bad:?}");
        }
    }
}
