//! Ingest: publishers that wait for their acks, one at a time (closed loop) or with a window in flight. Every ack must
//! arrive once and positions must rise in the order in which a publisher sent.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use clap::value_parser;
use tokio::time::timeout;

use crate::{
    agent::{Hello, connect_all, name},
    apart::{Counted, between, show_counted},
    check::{Acks, Faults, Receiver},
    dialect::{Dialect, Heard},
    figures::{Latencies, Report, micros, micros_each, number, per_second, shown_spread},
    peer::Systems,
    process::{Server, raise_open_files},
    quiet::{Cost, Meter, Noise, Rounds, rounds, show_parts},
    socket::Socket,
    wire::{Stamp, compare_and_set, get, quiet_broadcast, set},
};

/// Answers of the first second are checked but not measured.
const WARM_UP: Duration = Duration::from_secs(1);
/// No answer for so long ends a publisher; what it waits for counts as missing.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// What is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Tagged activity that nobody subscribed to: only the author sees it.
    Broadcast,
    /// One of the publisher's hundred keys.
    MemorySet,
    /// The publisher's one key, from the version it knows.
    MemoryCas,
    /// Reads the publisher's one key.
    MemoryGet,
}

/// `ringforge-load ingest`.
#[derive(Clone, Debug, clap::Args)]
pub struct Ingest {
    #[command(flatten)]
    systems: Systems,
    #[command(flatten)]
    rounds: Rounds,
    /// What is published.
    #[arg(long, value_enum, default_value_t = Kind::Broadcast)]
    kind: Kind,
    /// Publishers.
    #[arg(long, default_value_t = 64, value_parser = value_parser!(u32).range(1..=10_000))]
    publishers: u32,
    /// Fleets they are spread over.
    #[arg(long, default_value_t = 8, value_parser = value_parser!(u32).range(1..=1_000))]
    fleets: u32,
    /// Commands of one publisher in flight; 1 is closed loop.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u32).range(1..=1_000))]
    window: u32,
    /// Bytes of each payload.
    #[arg(long, default_value_t = 256, value_parser = value_parser!(u32).range(1..=60_000))]
    bytes: u32,
    /// Seconds, the first not measured.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(2..=600))]
    seconds: u32,
    /// Of roles apart: before each round, as long as that, a bare round trip through their broker.
    #[arg(long)]
    round_trip: bool,
}

/// What all publishers count together.
#[derive(Debug, Default)]
pub struct Tally {
    latencies: Latencies,
    refusals: BTreeMap<String, u64>,
}

impl Tally {
    /// What was refused, by code; empty if nothing was.
    pub fn refusals(&self) -> String {
        self.refusals.iter().map(|(code, count)| format!("{count} {code}")).collect::<Vec<_>>().join(", ")
    }
}

/// What one round found.
struct Round {
    acked: u64,
    latencies: Latencies,
    lag: Duration,
    cost: Cost,
    sent: usize,
    /// What servers below counted meanwhile.
    counted: Counted,
    /// What was measured of their broker alone.
    bare: Counted,
    /// What is where in them.
    facts: Vec<String>,
    failures: Vec<String>,
}

/// Runs it.
///
/// # Errors
/// A server or a connection failed.
pub async fn run(ingest: &Ingest) -> Result<Report> {
    raise_open_files(u64::from(ingest.publishers) + 100)?;
    let systems = ingest.systems.list()?;
    let Ingest { kind, publishers, window, bytes, seconds, .. } = *ingest;
    let mut report = Report::new(format!("Ingest of {kind:?}: {publishers} publishers x {window} in flight"));
    report.row("payload, fleets, seconds a round", format!("{bytes} bytes, {}, {seconds}", ingest.fleets));
    let one = async |_| {
        let (mut found, mut noise) = (Vec::new(), Noise::default());
        for system in &systems {
            let mut server = ingest.systems.start(*system, ingest.fleets as usize).await?;
            let bare = if ingest.round_trip { round_trip(ingest, &mut server)? } else { Counted::new() };
            let round = Round { bare, ..round(ingest, *system, &mut server).await? };
            noise = noise.and(round.cost.noise);
            found.push(round);
        }
        Ok((found, noise))
    };
    let found = rounds(ingest.rounds, &mut report, one).await?;
    for (place, system) in systems.iter().enumerate() {
        show(&mut report, *system, &found.iter().map(|round| &round[place]).collect::<Vec<_>>());
    }
    Ok(report)
}

fn show(report: &mut Report, system: Dialect, rounds: &[&Round]) {
    let values = |value: &dyn Fn(&Round) -> f64| rounds.iter().map(|round| value(round)).collect::<Vec<_>>();
    let name = system.name();
    for (metric, what, values, decimals) in [
        ("acked_s", "acked/s", values(&|round| per_second(round.acked, round.cost.wall)), 0),
        ("ack_p50_ms", "ack latency p50, ms", values(&|round| round.latencies.quantile_ms(0.5)), 2),
        ("ack_p99_ms", "ack latency p99, ms", values(&|round| round.latencies.quantile_ms(0.99)), 2),
        ("lag_ms", "last command to last ack and own event, ms", values(&|round| round.lag.as_secs_f64() * 1e3), 1),
    ] {
        if system == Dialect::Ringforge {
            report.metric(metric, format!("{name}: {what}"), &values, decimals);
        } else {
            report.row(format!("{name}: {what}"), shown_spread(&values, decimals));
        }
    }
    above_bare(report, rounds);
    let each = values(&|round| micros_each(round.cost.server, round.acked));
    report.row(format!("{name}: server CPU a command, us"), shown_spread(&each, 1));
    let whole = rounds.first().map_or("its core", |round| round.cost.whole());
    report.row(
        format!("{name}: server CPU, % of {whole}"),
        shown_spread(&values(&|round| round.cost.server_percent()), 0),
    );
    show_parts(report, "a command", &rounds.iter().map(|round| (&round.cost, round.acked)).collect::<Vec<_>>());
    let counted: Vec<_> = rounds.iter().map(|round| (&round.counted, number(round.sent as u64))).collect();
    show_counted(report, "a command", &counted);
    for (what, fact) in
        rounds.last().into_iter().flat_map(|round| &round.facts).filter_map(|fact| fact.split_once(": "))
    {
        report.row(what, fact);
    }
    report.row(
        format!("{name}: client CPU, % of its core"),
        shown_spread(&values(&|round| round.cost.client_percent()), 0),
    );
    report.row(format!("{name}: acks checked"), rounds.iter().map(|round| round.sent).sum::<usize>());
    for round in rounds {
        report.fail_if(round.acked == 0, format!("{name}: nothing was acknowledged"));
        round.failures.iter().for_each(|failure| report.fail_if(true, format!("{name}: {failure}")));
    }
}

/// What the broker alone needs, if that was measured: shown, and how much more we need.
fn above_bare(report: &mut Report, rounds: &[&Round]) {
    for (metric, name, quantile) in [("above_p50_ms", "p50_ms", 0.5), ("above_p99_ms", "p99_ms", 0.99)] {
        let bare = |round: &Round| round.bare.iter().find(|(other, _)| other == name).map(|(_, value)| *value);
        let bares: Vec<f64> = rounds.iter().filter_map(|round| bare(round)).collect();
        if !bares.is_empty() {
            let more = rounds.iter().filter_map(|round| Some(round.latencies.quantile_ms(quantile) - bare(round)?));
            let percent = quantile * 100.0;
            report.row(format!("bare produce to consume p{percent:.0}, ms"), shown_spread(&bares, 2));
            report.metric(metric, format!("ack latency p{percent:.0} above that, ms"), &more.collect::<Vec<_>>(), 2);
        }
    }
}

fn round_trip(ingest: &Ingest, server: &mut Server) -> Result<Counted> {
    let apart = server.apart().context("--round-trip is for roles apart")?;
    apart.round_trip(ingest.seconds, ingest.bytes)
}

async fn round(ingest: &Ingest, system: Dialect, server: &mut Server) -> Result<Round> {
    let Ingest { kind, window, bytes, seconds, .. } = *ingest;
    let doors = server.doors(ingest.fleets as usize)?;
    let mut sockets = connect_all(&doors, 0..ingest.publishers as usize, &Hello::default()).await?;
    let tally: Arc<Mutex<Tally>> = Arc::default();
    if kind == Kind::MemoryGet {
        for (publisher, socket) in &mut sockets {
            let make = |number| (number < 1).then(|| set(*publisher, number, bytes as usize));
            publish(socket, 1, make, Instant::now()..Instant::now(), &tally).await?;
        }
    }
    let before = server.counted()?;
    let from = Instant::now() + WARM_UP;
    let until = from + Duration::from_secs(seconds.into()).saturating_sub(WARM_UP);
    let publishers: Vec<_> = sockets
        .into_iter()
        .map(|(publisher, mut socket)| {
            let (tally, fleet) = (Arc::clone(&tally), doors[publisher % doors.len()].fleet);
            let make = move |number| {
                (Instant::now() < until).then(|| command(kind, system, fleet, publisher, number, bytes as usize))
            };
            tokio::spawn(async move {
                let flight = publish(&mut socket, window as usize, make, from..until, &tally).await?;
                anyhow::Ok((flight, Instant::now()))
            })
        })
        .collect();
    tokio::time::sleep_until(from.into()).await;
    let (meter, fsyncs) = (Meter::start(server)?, server.fsyncs());
    tokio::time::sleep_until(until.into()).await;
    let (cost, fsyncs) = (meter.stop(server)?, server.fsyncs() - fsyncs);
    let (mut faults, mut sent, mut last, mut failures) = (Faults::default(), 0, until, Vec::new());
    for publisher in publishers {
        let (flight, ended) = publisher.await??;
        faults.add(&flight.faults());
        sent += flight.acks.count();
        last = last.max(ended);
        if kind == Kind::Broadcast && system == Dialect::Ringforge && flight.own.is_none() {
            failures.push("a publisher saw none of its own events".to_owned());
        }
    }
    let tally = std::mem::take(&mut *tally.lock().unwrap_or_else(PoisonError::into_inner));
    if !faults.none() {
        failures.push(faults.to_string());
    }
    if !tally.refusals.is_empty() {
        failures.push(format!("refused: {}", tally.refusals()));
    }
    let is_slowed = system == Dialect::Ringforge && ingest.systems.is_slowed();
    failures.extend(not_felt(is_slowed, fsyncs));
    let counted = between(&before, &server.counted()?);
    let facts = server.apart().map_or_else(|| Ok(Vec::new()), |apart| apart.facts());
    let facts = facts.unwrap_or_else(|error| {
        failures.push(format!("{error:#}"));
        Vec::new()
    });
    let (acked, latencies, lag) = (tally.latencies.count(), tally.latencies, last - until);
    Ok(Round { acked, latencies, lag, cost, sent, counted, bare: Counted::new(), facts, failures })
}

/// A delay that never happened: the server makes things durable in another way than by the calls that are slower.
fn not_felt(is_slowed: bool, fsyncs: u64) -> Option<String> {
    (is_slowed && fsyncs == 0).then(|| "the server made nothing durable by fsync: the delay was not felt".to_owned())
}

/// The command with this number. Other servers know only events; theirs go to the fleet.
fn command(kind: Kind, system: Dialect, fleet: usize, publisher: usize, number: usize, bytes: usize) -> String {
    if system != Dialect::Ringforge {
        let stamp = Stamp { publisher: 0, sequence: number as u64, due: 0 };
        return system.publish(fleet, &name(publisher), number, stamp, bytes);
    }
    match kind {
        Kind::Broadcast => quiet_broadcast(number, bytes),
        Kind::MemorySet => set(publisher, number, bytes),
        Kind::MemoryCas => compare_and_set(publisher, number, bytes),
        Kind::MemoryGet => get(number, &format!("load/{publisher}/0")),
    }
}

/// Publishes what `make` makes of each number until it makes nothing, and waits for the last answer. Latencies are
/// kept of answers that come within `measured`.
///
/// # Errors
/// The connection failed.
pub async fn publish(
    socket: &mut Socket,
    window: usize,
    mut make: impl FnMut(usize) -> Option<String>,
    measured: std::ops::Range<Instant>,
    tally: &Mutex<Tally>,
) -> Result<Flight> {
    let mut flight = Flight { acks: Acks::default(), sent_at: Vec::new(), own: None };
    let mut has_more = true;
    loop {
        while has_more && flight.acks.waiting() < window {
            let Some(text) = make(flight.acks.count()) else {
                has_more = false;
                break;
            };
            flight.acks.sent();
            flight.sent_at.push(Instant::now());
            socket.feed(text.as_bytes());
        }
        socket.flush().await?;
        if flight.is_complete() {
            return Ok(flight);
        }
        let mut failure = None;
        let dialect = socket.dialect();
        let take = |message: &[u8]| {
            let now = Instant::now();
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            dialect.lines(message, |heard| {
                // Where events go to the fleet, they are of others as well.
                if dialect != Dialect::Ringforge && matches!(heard, Heard::Event(..)) {
                    return;
                }
                failure = failure.take().or(flight.take(&heard, now, &measured, &mut tally).err());
            });
        };
        let Ok(read) = timeout(ANSWER_WITHIN, socket.read(take)).await else { return Ok(flight) };
        read?;
        if let Some(failure) = failure {
            return Err(failure);
        }
    }
}

/// What one publisher has under way.
#[derive(Debug)]
pub struct Flight {
    /// What its commands were answered.
    pub acks: Acks,
    sent_at: Vec<Instant>,
    /// Its own events, if it sees any.
    own: Option<Receiver>,
}

impl Flight {
    /// What went wrong: with the answers, and with its own events if there were any.
    pub fn faults(&self) -> Faults {
        let mut faults = self.acks.faults();
        if let Some(own) = &self.own {
            faults.add(&own.faults(&[self.acks.count() as u64]));
        }
        faults
    }

    fn is_complete(&self) -> bool {
        let sent = [self.acks.count() as u64];
        self.acks.waiting() == 0 && self.own.as_ref().is_none_or(|own| own.complete(&sent))
    }

    /// Counts what came; a publisher sees its own events as well.
    fn take(
        &mut self,
        heard: &Heard<'_>,
        now: Instant,
        measured: &std::ops::Range<Instant>,
        tally: &mut Tally,
    ) -> Result<()> {
        let number = match *heard {
            Heard::Event(stamp, position) => {
                self.own.get_or_insert_with(|| Receiver::new(1, true)).saw(0, stamp.sequence, position);
                return Ok(());
            }
            Heard::Ack(number, position) => {
                self.acks.applied(number, position);
                number
            }
            Heard::Answer(number) => {
                self.acks.answered(number);
                number
            }
            Heard::Refused(number, code) => {
                *tally.refusals.entry(code.to_owned()).or_default() += 1;
                if let Some(number) = number {
                    self.acks.refused(number);
                }
                return Ok(());
            }
            Heard::Unreadable => return Err(anyhow!("a message that cannot be read")),
            Heard::Other => return Ok(()),
        };
        if let (true, Some(sent)) = (measured.contains(&now), self.sent_at.get(number)) {
            tally.latencies.record(micros(now - *sent));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(heard: &[Heard<'_>]) -> (Flight, Tally) {
        let (now, mut tally) = (Instant::now(), Tally::default());
        let mut flight = Flight { acks: Acks::default(), sent_at: vec![now; 3], own: None };
        while flight.acks.count() < 3 {
            flight.acks.sent();
        }
        for heard in heard {
            flight.take(heard, now, &(now..now + Duration::from_mins(1)), &mut tally).expect("readable");
        }
        (flight, tally)
    }

    fn own(sequence: u64) -> Heard<'static> {
        Heard::Event(Stamp { publisher: 0, sequence, due: 0 }, Some(sequence + 1))
    }

    #[test]
    fn answers_are_counted_once_and_own_events_are_not_answers() {
        let (flight, tally) = taken(&[Heard::Ack(0, Some(7)), own(0), Heard::Refused(Some(1), "busy"), own(1), own(2)]);
        assert_eq!(flight.faults(), Faults { missing: 1, ..Faults::default() });
        assert_eq!((tally.refusals(), tally.latencies.count()), ("1 busy".to_owned(), 1));
    }

    #[test]
    fn an_own_event_that_is_missing_is_waited_for_and_a_fault() {
        let acks = [Heard::Ack(0, Some(1)), Heard::Ack(1, Some(2)), Heard::Ack(2, Some(3))];
        assert!(taken(&acks).0.is_complete());
        let mut heard = Vec::from(acks);
        heard.extend([own(0), own(2)]);
        let (flight, _) = taken(&heard);
        assert!(!flight.is_complete());
        assert_eq!(flight.faults(), Faults { missing: 1, ..Faults::default() });
    }

    #[test]
    fn a_delay_that_is_not_felt_is_a_failure() {
        assert!(not_felt(true, 0).is_some());
        assert!(not_felt(true, 1).is_none() && not_felt(false, 0).is_none());
    }

    #[test]
    fn what_cannot_be_read_ends_a_publisher() {
        let (mut flight, mut tally) = taken(&[]);
        let now = Instant::now();
        assert!(flight.take(&Heard::Unreadable, now, &(now..now), &mut tally).is_err());
    }
}
