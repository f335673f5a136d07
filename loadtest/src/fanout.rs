//! Fan-out, open loop: events are due at fixed times whether or not the server keeps up; latency counts from the due
//! time. Every receiver checks that it got every event of its fleet once, in order.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Result, ensure};
use clap::value_parser;
use futures_util::SinkExt;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    agent::{Door, Socket, connect_all, next_text},
    check::{Faults, Receiver},
    figures::{Latencies, Report, micros_each, per_second, shown_spread},
    process::{Place, Server, own_cpu, raise_open_files},
    wire::{Seen, Stamp, broadcast},
};

/// Events waiting in one publisher; a full queue is a failure of the run.
const QUEUE: usize = 1_024;
/// Events of the first second are checked but not measured.
const WARM_UP: Duration = Duration::from_secs(1);
/// What is on its way after the last event may take this long.
const DRAIN: Duration = Duration::from_secs(10);

/// `ringforge-load fanout`.
#[derive(Clone, Debug, clap::Args)]
pub struct Fanout {
    #[command(flatten)]
    place: Place,
    /// Measure the bare server as well, before each round.
    #[arg(long)]
    bare: bool,
    /// Rounds, each with fresh servers.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Fleets.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(1..=1_000))]
    fleets: u32,
    /// Agents in each fleet.
    #[arg(long, default_value_t = 100, value_parser = value_parser!(u32).range(1..=10_000))]
    agents: u32,
    /// Agents in each fleet that publish, taking turns.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(1..=1_000))]
    publishers: u32,
    /// Events a second in each fleet.
    #[arg(long, default_value_t = 50, value_parser = value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Bytes of each event's payload.
    #[arg(long, default_value_t = 256, value_parser = value_parser!(u32).range(1..=60_000))]
    bytes: u32,
    /// Seconds of each round, the first not measured.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(2..=3_600))]
    seconds: u32,
    /// Presence frames the agents ask for: each, delta or none.
    #[arg(long, default_value = "none")]
    presence: String,
}

/// What one round found.
#[derive(Debug)]
struct Round {
    deliveries: u64,
    measured: u64,
    rate: f64,
    micros_each: f64,
    latencies: Latencies,
    lateness: Latencies,
    client_share: f64,
    unread: u64,
    unsent: u64,
    faults: Faults,
}

/// What all agents of a round count together.
#[derive(Default)]
struct Tally {
    deliveries: u64,
    measured: u64,
    latencies: Latencies,
    lateness: Latencies,
    unread: u64,
    unsent: u64,
}

type Shared<T> = Arc<Mutex<T>>;

fn with<T, R>(shared: &Mutex<T>, act: impl FnOnce(&mut T) -> R) -> R {
    act(&mut shared.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Runs all rounds.
///
/// # Errors
/// A server or a connection failed.
pub async fn run(fanout: &Fanout) -> Result<Report> {
    let has_server = fanout.place.server.is_some() || fanout.place.ready.is_some();
    ensure!(has_server || fanout.bare, "name a server, or measure the bare one: --server PATH, --bare");
    raise_open_files(u64::from(fanout.fleets * fanout.agents) + 100)?;
    let Fanout { fleets, agents, rate, bytes, seconds, rounds, .. } = fanout;
    let mut report =
        Report::new(format!("Fan-out: {fleets} fleets x {agents} agents x {rate} events/s of {bytes} bytes"));
    report.row("rounds", format!("{rounds} of {seconds} s, fresh servers each, the first second not measured"));
    let (mut bare, mut ringforge) = (Vec::new(), Vec::new());
    for _ in 0..*rounds {
        if fanout.bare {
            bare.push(round(fanout, &Server::bare()?).await?);
        }
        if has_server {
            ringforge.push(round(fanout, &Server::at(&fanout.place, fanout.fleets as usize)?).await?);
        }
    }
    for (name, rounds) in [("bare", &bare), ("ringforge", &ringforge)] {
        if !rounds.is_empty() {
            show(&mut report, name, rounds);
        }
    }
    if !bare.is_empty() && !ringforge.is_empty() {
        let ratios: Vec<f64> =
            ringforge.iter().zip(&bare).map(|(ours, ceiling)| ours.micros_each / ceiling.micros_each).collect();
        report.row("**ratio of server CPU a delivery to bare**, median (range)", shown_spread(&ratios, 2));
    }
    Ok(report)
}

fn show(report: &mut Report, name: &str, rounds: &[Round]) {
    let spread =
        |value: fn(&Round) -> f64, decimals| shown_spread(&rounds.iter().map(value).collect::<Vec<_>>(), decimals);
    report.row(format!("{name}: deliveries/s"), spread(|round| round.rate, 0));
    report.row(format!("{name}: server CPU a delivery, us"), spread(|round| round.micros_each, 2));
    report.row(format!("{name}: latency from due time p50, ms"), spread(|round| round.latencies.quantile_ms(0.5), 2));
    report.row(format!("{name}: latency from due time p99, ms"), spread(|round| round.latencies.quantile_ms(0.99), 2));
    report.row(format!("{name}: sent after due time p99, ms"), spread(|round| round.lateness.quantile_ms(0.99), 2));
    report.row(format!("{name}: client CPU, % of its core"), spread(|round| round.client_share * 100.0, 0));
    report.row(format!("{name}: deliveries checked"), rounds.iter().map(|round| round.deliveries).sum::<u64>());
    for round in rounds {
        let Round { faults, unread, unsent, measured, .. } = round;
        report.fail_if(!faults.none(), format!("{name}: {faults}"));
        report.fail_if(*unread > 0, format!("{name}: {unread} messages were errors or could not be read"));
        report.fail_if(*unsent > 0, format!("{name}: {unsent} events could not be sent"));
        report.fail_if(*measured == 0, format!("{name}: nothing was delivered"));
    }
}

/// One fleet while a round runs.
struct Fleet {
    publishers: Vec<mpsc::Sender<String>>,
    receivers: Vec<Shared<Receiver>>,
}

async fn round(fanout: &Fanout, server: &Server) -> Result<Round> {
    let doors = server.ready.doors(fanout.fleets as usize)?;
    let tally: Shared<Tally> = Arc::default();
    let begin = Instant::now();
    let (fleets, agents) = gather(fanout, &doors, &tally, begin).await?;
    // Everyone is connected; joins and rosters settle before the first event is due.
    let start = Instant::now() + Duration::from_millis(500);
    let drivers: Vec<_> = fleets
        .iter()
        .zip(0..)
        .map(|(fleet, number)| {
            let (publishers, fanout, tally) = (fleet.publishers.clone(), fanout.clone(), Arc::clone(&tally));
            tokio::spawn(async move { drive(&fanout, number, &publishers, &tally, begin, start).await })
        })
        .collect();
    sleep_until(start + WARM_UP).await;
    let (server_before, client_before, measured_from) = (server.cpu()?, own_cpu()?, Instant::now());
    let mut sent = Vec::new();
    for driver in drivers {
        sent.push(driver.await?);
    }
    let agents_each = u64::from(fanout.agents);
    let expected: u64 = sent.iter().flatten().sum::<u64>() * agents_each;
    let sending = measured_from.elapsed();
    let deadline = Instant::now() + DRAIN;
    while with(&tally, |tally| tally.deliveries) < expected && Instant::now() < deadline {
        sleep(Duration::from_millis(5)).await;
    }
    let (server_cpu, client_cpu) = (server.cpu_since(server_before)?, own_cpu()?.saturating_sub(client_before));
    let client_share = client_cpu.as_secs_f64() / measured_from.elapsed().as_secs_f64();
    for agent in agents {
        agent.abort();
    }
    let mut faults = Faults::default();
    for (fleet, sent) in fleets.iter().zip(&sent) {
        for receiver in &fleet.receivers {
            faults.add(&with(receiver, |receiver| receiver.faults(sent)));
        }
    }
    let tally = with(&tally, std::mem::take);
    let Tally { deliveries, measured, latencies, lateness, unread, unsent } = tally;
    let rate = per_second(measured, sending);
    let micros_each = micros_each(server_cpu, measured);
    Ok(Round { deliveries, measured, rate, micros_each, latencies, lateness, client_share, unread, unsent, faults })
}

/// Connects all agents and lets them listen.
async fn gather(
    fanout: &Fanout,
    doors: &[Door],
    tally: &Shared<Tally>,
    begin: Instant,
) -> Result<(Vec<Fleet>, Vec<tokio::task::JoinHandle<()>>)> {
    let (agents_each, publishers) = (fanout.agents as usize, fanout.publishers.min(fanout.agents) as usize);
    let mut fleets: Vec<Fleet> =
        doors.iter().map(|_| Fleet { publishers: Vec::new(), receivers: Vec::new() }).collect();
    let mut agents = Vec::new();
    for (agent, socket) in connect_all(doors, 0..doors.len() * agents_each, &fanout.presence).await? {
        let door = agent % doors.len();
        let receiver = Arc::new(Mutex::new(Receiver::new(publishers, doors[door].has_positions())));
        let (sender, outgoing) = mpsc::channel(QUEUE);
        let fleet = &mut fleets[door];
        fleet.receivers.push(Arc::clone(&receiver));
        if fleet.publishers.len() < publishers {
            fleet.publishers.push(sender);
        }
        let listener = Listener { receiver, tally: Arc::clone(tally), begin };
        agents.push(tokio::spawn(listener.listen(socket, outgoing)));
    }
    Ok((fleets, agents))
}

struct Listener {
    receiver: Shared<Receiver>,
    tally: Shared<Tally>,
    begin: Instant,
}

impl Listener {
    /// Sends what is due and looks at what comes, until the connection ends or the round aborts it. A connection that
    /// ends early shows as missing events.
    async fn listen(self, mut socket: Socket, mut outgoing: mpsc::Receiver<String>) {
        loop {
            tokio::select! {
                text = next_text(&mut socket) => match text {
                    Ok(text) => text.split('\n').for_each(|line| self.see(line)),
                    Err(_) => return,
                },
                Some(text) = outgoing.recv() => if socket.send(Message::text(text)).await.is_err() {
                    return;
                },
            }
        }
    }

    fn see(&self, text: &str) {
        let Ok(seen) = Seen::read(text) else { return with(&self.tally, |tally| tally.unread += 1) };
        if seen.kind == "error" {
            with(&self.tally, |tally| tally.unread += 1);
        }
        let Some(Stamp { publisher, sequence, due }) = seen.stamp() else { return };
        with(&self.receiver, |receiver| receiver.saw(publisher, sequence, seen.position));
        let now = micros(self.begin);
        with(&self.tally, |tally| {
            tally.deliveries += 1;
            // Events of the warm-up carry 0.
            if due > 0 {
                tally.measured += 1;
                tally.latencies.record_due(due, now);
            }
        });
    }
}

fn micros(begin: Instant) -> u64 {
    u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Publishes one fleet's events when they are due. Returns how many each publisher sent.
async fn drive(
    fanout: &Fanout,
    fleet: u32,
    publishers: &[mpsc::Sender<String>],
    tally: &Mutex<Tally>,
    begin: Instant,
    start: Instant,
) -> Vec<u64> {
    let mut sent = vec![0; publishers.len()];
    let every = Duration::from_secs(1) / fanout.rate;
    // Fleets take turns within the interval, so that the load is even.
    let first = start + every * fleet / fanout.fleets;
    for event in 0..fanout.rate * fanout.seconds {
        let due = first + every * event;
        sleep_until(due).await;
        let due_micros = u64::try_from((due - begin).as_micros()).unwrap_or(u64::MAX);
        let is_measured = due >= start + WARM_UP;
        let publisher = event as usize % publishers.len();
        let stamp = Stamp { publisher, sequence: sent[publisher], due: if is_measured { due_micros } else { 0 } };
        if publishers[publisher].try_send(broadcast(stamp, fanout.bytes as usize)).is_ok() {
            sent[publisher] += 1;
        } else {
            with(tally, |tally| tally.unsent += 1);
        }
        with(tally, |tally| tally.lateness.record_due(due_micros, micros(begin)));
    }
    sent
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two fleets on a bare server in this process: every delivery is accounted for.
    #[tokio::test]
    async fn the_bare_server_delivers_everything_to_its_fleet_only() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let server = tokio::spawn(crate::bare::serve(listener));
        let doors: Vec<Door> = (0..2).map(|fleet| Door::bare(format!("ws://{address}/fleet/{fleet}"))).collect();
        let fanout = Fanout {
            place: Place { server: None, ready: None, pid: None },
            bare: true,
            rounds: 1,
            fleets: 2,
            agents: 3,
            publishers: 2,
            rate: 100,
            bytes: 256,
            seconds: 2,
            presence: "none".to_owned(),
        };
        let (tally, begin): (Shared<Tally>, _) = (Arc::default(), Instant::now());
        let (fleets, agents) = gather(&fanout, &doors, &tally, begin).await.expect("connections");
        // All due in the past: sent at once, without waiting for real time to pass.
        let start = begin.checked_sub(Duration::from_secs(1)).unwrap_or(begin);
        let fanout = Fanout { seconds: 1, ..fanout };
        for (fleet, number) in fleets.iter().zip(0..) {
            let sent = drive(&fanout, number, &fleet.publishers, &tally, begin, start).await;
            assert_eq!(sent, [50, 50]);
            let complete = async {
                while !fleet.receivers.iter().all(|receiver| with(receiver, |receiver| receiver.complete(&sent))) {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), complete).await.expect("everything arrives");
            for receiver in &fleet.receivers {
                assert!(with(receiver, |receiver| receiver.faults(&sent)).none());
            }
        }
        assert_eq!(with(&tally, |tally| (tally.deliveries, tally.unread, tally.unsent)), (600, 0, 0));
        agents.iter().for_each(tokio::task::JoinHandle::abort);
        server.abort();
    }
}
