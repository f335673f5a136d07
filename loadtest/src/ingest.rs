//! Ingest: publishers that wait for their acks, one at a time (closed loop) or with a window in flight. Every ack must
//! arrive once and positions must rise in the order in which a publisher sent.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use clap::value_parser;
use futures_util::SinkExt;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    agent::{Socket, connect_all, next_text},
    check::{Acks, Faults},
    figures::{Latencies, Report, micros_each, per_second},
    process::{Place, Server, own_cpu, raise_open_files},
    wire::{Seen, quiet_broadcast, set},
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
}

/// `ringforge-load ingest`.
#[derive(Clone, Debug, clap::Args)]
pub struct Ingest {
    #[command(flatten)]
    place: Place,
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

/// Runs it.
///
/// # Errors
/// The server or a connection failed.
pub async fn run(ingest: &Ingest) -> Result<Report> {
    raise_open_files(u64::from(ingest.publishers) + 100)?;
    let Ingest { kind, window, .. } = *ingest;
    let bytes = ingest.bytes as usize;
    let server = Server::at(&ingest.place, ingest.fleets as usize)?;
    let doors = server.ready.doors(ingest.fleets as usize)?;
    let sockets = connect_all(&doors, 0..ingest.publishers as usize, "none").await?;
    let tally: Arc<Mutex<Tally>> = Arc::default();
    let from = Instant::now() + WARM_UP;
    let until = from + Duration::from_secs(ingest.seconds.into()).saturating_sub(WARM_UP);
    let publishers: Vec<_> = sockets
        .into_iter()
        .map(|(publisher, mut socket)| {
            let tally = Arc::clone(&tally);
            let make = move |number| {
                (Instant::now() < until).then(|| match kind {
                    Kind::Broadcast => quiet_broadcast(number, bytes),
                    Kind::MemorySet => set(publisher, number, bytes),
                })
            };
            tokio::spawn(async move { publish(&mut socket, window as usize, make, from..until, &tally).await })
        })
        .collect();
    tokio::time::sleep_until(from.into()).await;
    let (server_before, client_before) = (server.cpu()?, own_cpu()?);
    tokio::time::sleep_until(until.into()).await;
    let (server_cpu, client_cpu) = (server.cpu_since(server_before)?, own_cpu()?.saturating_sub(client_before));
    let (mut faults, mut sent) = (Faults::default(), 0);
    for publisher in publishers {
        let acks = publisher.await??;
        faults.add(&acks.faults());
        sent += acks.count();
    }
    let tally = std::mem::take(&mut *tally.lock().unwrap_or_else(PoisonError::into_inner));
    let acked = tally.latencies.count();
    let time = until - from;
    let mut report = Report::new(format!("Ingest of {kind:?}: {} publishers x {window} in flight", ingest.publishers));
    report.row("payload, fleets, seconds measured", format!("{bytes} bytes, {}, {}", ingest.fleets, time.as_secs()));
    report.row("**acked/s**", format!("{:.0}", per_second(acked, time)));
    report.row("**ack latency p50 / p99 / max**", &tally.latencies);
    report.row("server CPU a command, us", format!("{:.1}", micros_each(server_cpu, acked)));
    report.row("server CPU, % of its core", format!("{:.0}", 100.0 * server_cpu.as_secs_f64() / time.as_secs_f64()));
    report.row("client CPU, % of its core", format!("{:.0}", 100.0 * client_cpu.as_secs_f64() / time.as_secs_f64()));
    report.row("acks checked", sent);
    report.fail_if(acked == 0, "nothing was acknowledged");
    report.fail_if(!faults.none(), faults.to_string());
    report.fail_if(!tally.refusals.is_empty(), format!("refused: {}", tally.refusals()));
    Ok(report)
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
) -> Result<Acks> {
    let mut acks = Acks::default();
    let mut sent_at: Vec<Instant> = Vec::new();
    let mut has_more = true;
    loop {
        while has_more && acks.waiting() < window {
            let Some(text) = make(acks.count()) else {
                has_more = false;
                break;
            };
            acks.sent();
            sent_at.push(Instant::now());
            socket.feed(Message::text(text)).await.context("send")?;
        }
        socket.flush().await.context("send")?;
        if acks.waiting() == 0 {
            return Ok(acks);
        }
        let Ok(text) = timeout(ANSWER_WITHIN, next_text(socket)).await else { return Ok(acks) };
        for line in text?.split('\n') {
            answer(line, &mut acks, &sent_at, &measured, tally)?;
        }
    }
}

/// Counts a message if it is an answer; a publisher sees its own events as well.
fn answer(
    line: &str,
    acks: &mut Acks,
    sent_at: &[Instant],
    measured: &std::ops::Range<Instant>,
    tally: &Mutex<Tally>,
) -> Result<()> {
    let seen = Seen::read(line).map_err(|error| anyhow!("{error} in {line}"))?;
    if seen.kind == "error" {
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        *tally.refusals.entry(seen.code().to_owned()).or_default() += 1;
    }
    let Some(number) = seen.number() else { return Ok(()) };
    if seen.kind == "error" {
        acks.refused(number);
    } else if seen.is_ack() {
        acks.applied(number, seen.position);
        let now = Instant::now();
        if let (true, Some(sent)) = (measured.contains(&now), sent_at.get(number)) {
            let micros = u64::try_from((now - *sent).as_micros()).unwrap_or(u64::MAX);
            tally.lock().unwrap_or_else(PoisonError::into_inner).latencies.record(micros);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_once_and_own_events_are_not_answers() {
        let tally = Mutex::new(Tally::default());
        let mut acks = Acks::default();
        let now = Instant::now();
        let (sent_at, measured) = ([now; 3], now..now + Duration::from_mins(1));
        for _ in 0..3 {
            acks.sent();
        }
        for line in [
            r#"{"type":"activity","event":"broadcast_ok","ref":0,"position":7}"#,
            r#"{"type":"activity","event":"broadcast","position":7,"activity":{"data":{}}}"#,
            r#"{"type":"error","ref":1,"code":"busy"}"#,
        ] {
            answer(line, &mut acks, &sent_at, &measured, &tally).expect("readable");
        }
        assert_eq!(acks.faults(), Faults { missing: 1, ..Faults::default() });
        let tally = tally.into_inner().expect("not poisoned");
        assert_eq!((tally.refusals(), tally.latencies.count()), ("1 busy".to_owned(), 1));
        let mut acks = Acks::default();
        assert!(answer("no JSON", &mut acks, &[], &measured, &Mutex::default()).is_err());
    }
}
