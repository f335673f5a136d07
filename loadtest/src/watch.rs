//! Watchers of memory in one fleet: what one costs in memory beyond an idle agent, and what a change costs when all of
//! them are told. Every watcher must be told of every version, once and in order.

use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use clap::value_parser;
use memchr::memmem;
use tokio::{
    select,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::{
    agent::{self, Door, Hello, connect, connect_all},
    check::{Faults, Receiver},
    dialect::{Dialect, Heard},
    figures::{Latencies, Report, micros, micros_each, number},
    idle::SETTLE,
    pace::Pacer,
    process::{Place, Server, raise_open_files},
    quiet::{Meter, Noise, Rounds, rounds},
    socket::Socket,
    wire::{POSITION, Seen, VERSION, set, unwatch, watch},
};

/// A subscription that is not acknowledged by then has failed.
const ANSWERED_WITHIN: Duration = Duration::from_mins(1);
/// Agents of which none is read on before all are in.
const SEATED_TOGETHER: usize = 100;
/// What is watched.
const PATTERN: &str = "load/*";
/// Of those who come they are told nothing: ten thousand who came to ten thousand would be what is measured.
const PRESENCE: &str = "none";
/// Memory of two servers that do the same differs by less than this for each agent.
const NOISE_KILOBYTES: f64 = 1.0;
/// What is on its way after the last change may take this long.
const DRAIN: Duration = Duration::from_secs(10);

/// `ringforge-load watch`.
#[derive(Clone, Debug, clap::Args)]
pub struct Watch {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    rounds: Rounds,
    /// Agents that watch.
    #[arg(long, default_value_t = 2_000, value_parser = value_parser!(u32).range(1..=19_000))]
    watchers: u32,
    /// Changes a second; 0: memory is measured instead.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(0..=10_000))]
    rate: u32,
    /// Seconds of changes.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(1..=600))]
    seconds: u32,
}

/// What one round found.
#[derive(Default)]
struct Round {
    kilobytes_each: f64,
    notice_micros: f64,
    latencies: Latencies,
    notices: u64,
    failures: Vec<String>,
}

/// Runs it.
///
/// # Errors
/// The server or a connection failed.
pub async fn run(arguments: &Watch) -> Result<Report> {
    raise_open_files(u64::from(arguments.watchers) + 100)?;
    let Watch { watchers, rate, .. } = *arguments;
    let mut report = Report::new(format!("{watchers} watchers of memory in one fleet, {rate} changes/s"));
    let found = rounds(arguments.rounds, &mut report, async |_| round(arguments).await).await?;
    let values = |value: fn(&Round) -> f64| found.iter().map(value).collect::<Vec<_>>();
    if rate == 0 {
        report.metric("rss_kb", "RSS a watcher beyond an idle agent, kB", &values(|round| round.kilobytes_each), 2);
    } else {
        report.metric("notice_us", "server CPU a notice, us", &values(|round| round.notice_micros), 2);
        report.metric("p99_ms", "set due to notice p99, ms", &values(|round| round.latencies.quantile_ms(0.99)), 2);
        report.row("notices checked", found.iter().map(|round| round.notices).sum::<u64>());
    }
    for round in &found {
        report.fail_if(rate > 0 && round.notices == 0, "nobody was told of anything");
        round.failures.iter().for_each(|failure| report.fail_if(true, failure));
    }
    Ok(report)
}

/// What all watchers were told together.
#[derive(Default)]
struct Told {
    dues: Vec<u64>,
    notices: u64,
    latencies: Latencies,
    unread: u64,
    ended: u64,
}

type Shared<T> = Arc<Mutex<T>>;

fn with<T, R>(shared: &Mutex<T>, act: impl FnOnce(&mut T) -> R) -> R {
    act(&mut shared.lock().unwrap_or_else(PoisonError::into_inner))
}

async fn round(arguments: &Watch) -> Result<(Round, Noise)> {
    let idle = if arguments.rate == 0 { Some(idle(arguments).await?) } else { None };
    let server = Server::at(&arguments.place, &[1])?;
    let doors = server.doors(1)?;
    let (told, begin): (Shared<Told>, _) = (Arc::default(), Instant::now());
    let (mut receivers, mut tasks) = (Vec::new(), Vec::new());
    let meter = Meter::start(&server)?;
    seat(&doors, arguments.watchers as usize, &watch(0, PATTERN), |socket| {
        let receiver = Arc::new(Mutex::new(Receiver::new(1, true)));
        receivers.push(Arc::clone(&receiver));
        tasks.push(tokio::spawn(listen(socket, receiver, Arc::clone(&told), begin)));
    })
    .await?;
    sleep(SETTLE).await;
    let mut round = Round::default();
    if let Some(idle) = idle {
        round.kilobytes_each = (number(server.rss()?) - number(idle)) / 1e3 / number(arguments.watchers.into());
        round.failures.extend(unbelievable(round.kilobytes_each));
    }
    let mut noise = meter.stop(&server)?.noise;
    if arguments.rate > 0 {
        let meter = Meter::start(&server)?;
        let sent = change(arguments, &doors[0], &told, begin).await?;
        let deadline = Instant::now() + DRAIN;
        let complete = || receivers.iter().all(|receiver| with(receiver, |receiver| receiver.complete(&[sent])));
        while !complete() && Instant::now() < deadline {
            sleep(Duration::from_millis(5)).await;
        }
        let cost = meter.stop(&server)?;
        noise = noise.and(cost.noise);
        let mut faults = Faults::default();
        for receiver in &receivers {
            faults.add(&with(receiver, |receiver| receiver.faults(&[sent])));
        }
        if !faults.none() {
            round.failures.push(faults.to_string());
        }
        round.notices = with(&told, |told| told.notices);
        round.notice_micros = micros_each(cost.server, round.notices);
    }
    tasks.iter().for_each(JoinHandle::abort);
    let Told { latencies, unread, ended, .. } = with(&told, std::mem::take);
    if unread + ended > 0 {
        round.failures.push(format!("{unread} messages were not what they should be, {ended} connections ended"));
    }
    round.latencies = latencies;
    Ok((round, noise))
}

/// Resident memory of a server with as many agents that do not watch. A server of its own: what connecting needed for a
/// moment would be used again by the subscriptions, and hide them. For the same reason each of its agents sends a command
/// as well, one that leaves nothing behind.
async fn idle(arguments: &Watch) -> Result<u64> {
    let server = Server::at(&arguments.place, &[1])?;
    let mut tasks = Vec::new();
    seat(&server.doors(1)?, arguments.watchers as usize, &unwatch(0, PATTERN), |socket| {
        tasks.push(tokio::spawn(agent::listen(socket)));
    })
    .await?;
    sleep(SETTLE).await;
    let idle = server.rss();
    tasks.iter().for_each(JoinHandle::abort);
    idle
}

/// Connects so many agents, has each send `command`, and hands it over to be read: whoever is not read for long is closed.
async fn seat(doors: &[Door], count: usize, command: &str, mut seated: impl FnMut(Socket)) -> Result<()> {
    for first in (0..count).step_by(SEATED_TOGETHER) {
        let agents = first..count.min(first + SEATED_TOGETHER);
        for (_, mut socket) in connect_all(doors, agents, &Hello::presence(PRESENCE)).await? {
            let asked = timeout(ANSWERED_WITHIN, ask(&mut socket, command)).await;
            asked.map_err(|_| anyhow!("no answer to {command}")).flatten()?;
            seated(socket);
        }
    }
    Ok(())
}

/// Memory that cannot be: somebody else's work is in it, and nothing can be said.
fn unbelievable(kilobytes_each: f64) -> Option<String> {
    (kilobytes_each < -NOISE_KILOBYTES).then(|| format!("a watcher cannot cost {kilobytes_each:.2} kB"))
}

/// Sends a command and waits for its acknowledgement.
async fn ask(socket: &mut Socket, command: &str) -> Result<()> {
    socket.send(command.as_bytes()).await?;
    loop {
        let text = String::from_utf8(socket.next().await?)?;
        let seen = Seen::read(&text).with_context(|| format!("read {text}"))?;
        match seen.kind {
            "error" => bail!("refused: {text}"),
            "memory" if seen.is_ack() => return Ok(()),
            _ => {}
        }
    }
}

async fn listen(mut socket: Socket, receiver: Shared<Receiver>, told: Shared<Told>, begin: Instant) {
    let take = |message: &[u8]| {
        let now = micros(begin.elapsed());
        with(&told, |told| {
            with(&receiver, |receiver| {
                message.split(|byte| *byte == b'\n').for_each(|line| notice(line, now, receiver, told));
            });
        });
    };
    while socket.read(take).await.is_ok() {}
    with(&told, |told| told.ended += 1);
}

/// Looks at one line: a notice of the one key, or nothing that matters.
fn notice(line: &[u8], now: u64, receiver: &mut Receiver, told: &mut Told) {
    let is_notice =
        memmem::find(line, br#""event":"changed""#).is_some() && memmem::find(line, br#""load/0/0""#).is_some();
    let version = VERSION.number(line).filter(|version| is_notice && *version > 0);
    let Some(version) = version else {
        told.unread += u64::from(is_notice || line.starts_with(br#"{"type":"error""#));
        return;
    };
    receiver.saw(0, version - 1, POSITION.number(line));
    told.notices += 1;
    let due = usize::try_from(version - 1).ok().and_then(|place| told.dues.get(place));
    if let Some(due) = due {
        told.latencies.record_due(*due, now);
    }
}

/// Changes the one key at the given rate; how often it was changed.
async fn change(arguments: &Watch, door: &Door, told: &Mutex<Told>, begin: Instant) -> Result<u64> {
    let mut socket = connect(door, "setter", &Hello::presence(PRESENCE)).await?;
    let (mut pacer, start, mut acked) = (Pacer::new()?, Instant::now(), 0);
    let count = arguments.rate * arguments.seconds;
    for change in 0..count {
        let due = start + Duration::from_secs(1) * change / arguments.rate;
        {
            let mut wait = pin!(pacer.until(due));
            loop {
                select! {
                    biased;
                    waited = &mut wait => break waited?,
                    read = acks(&mut socket) => acked += read?,
                }
            }
        }
        with(told, |told| told.dues.push(micros(due - begin)));
        // All to the same key: the number stands only in `ref`.
        socket.send(set(0, change as usize * 100, 64).as_bytes()).await?;
    }
    while acked < count {
        acked += acks(&mut socket).await?;
    }
    Ok(count.into())
}

/// Reads what is there; how many changes it acknowledges.
async fn acks(socket: &mut Socket) -> Result<u32> {
    let (mut acked, mut refused) = (0, None);
    let take = |message: &[u8]| {
        Dialect::Ringforge.lines(message, |heard| match heard {
            Heard::Ack(..) => acked += 1,
            Heard::Refused(_, code) => refused = Some(code.to_owned()),
            _ => {}
        });
    };
    socket.read(take).await?;
    refused.map_or(Ok(acked), |code| Err(anyhow!("a change was refused: {code}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(version: u64) -> String {
        format!(
            r#"{{"type":"memory","event":"changed","event_id":"e","position":{},"change":"update","key":"load/0/0","version":{version}}}"#,
            version + 5
        )
    }

    #[test]
    fn every_version_is_told_once_and_in_order() {
        for (versions, faults) in [
            (vec![1, 2, 3], Faults::default()),
            (vec![1, 3], Faults { missing: 1, ..Faults::default() }),
            (vec![1, 2, 2, 3], Faults { duplicates: 1, positions: 1, ..Faults::default() }),
        ] {
            let (mut receiver, mut told) = (Receiver::new(1, true), Told { dues: vec![10, 20, 30], ..Told::default() });
            for version in &versions {
                notice(line(*version).as_bytes(), 1_030, &mut receiver, &mut told);
            }
            assert_eq!((receiver.faults(&[3]), told.notices), (faults, versions.len() as u64));
            assert_eq!(told.latencies.count(), told.notices);
        }
    }

    #[test]
    fn memory_that_cannot_be_is_a_failure() {
        assert!(unbelievable(-5.0).is_some());
        assert!(unbelievable(-0.5).is_none() && unbelievable(3.0).is_none());
    }

    #[test]
    fn what_is_no_good_notice_is_counted() {
        let (mut receiver, mut told) = (Receiver::new(1, true), Told::default());
        for line in [line(0), r#"{"type":"error","code":"busy"}"#.to_owned(), r#"{"type":"ping"}"#.to_owned()] {
            notice(line.as_bytes(), 0, &mut receiver, &mut told);
        }
        assert_eq!((told.unread, told.notices), (2, 0));
    }
}
