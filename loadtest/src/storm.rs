//! A storm: all agents lose their connection at once, miss some events, and come back with the last event they saw. All
//! must catch up without a gap and without a double, and what comes live afterwards must follow.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::value_parser;
use memchr::{memchr, memmem};
use tokio::{
    sync::Semaphore,
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    agent::{Door, Hello, connect, connect_all, name},
    check::{Faults, Receiver},
    dialect::{Dialect, Heard},
    figures::{Report, micros_each, shown_spread},
    process::{Place, Server, raise_open_files},
    quiet::{Meter, Noise, Rounds, rounds},
    socket::Socket,
    wire::{POSITION, Stamp, find_stamp},
};

/// Who is not back by then is lost.
const BACK_WITHIN: Duration = Duration::from_mins(2);
/// Doubles may come this long after the last one is back.
const LINGER: Duration = Duration::from_secs(1);

/// `ringforge-load storm`.
#[derive(Clone, Debug, clap::Args)]
pub struct Storm {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    rounds: Rounds,
    /// Agents.
    #[arg(long, default_value_t = 9_000, value_parser = value_parser!(u32).range(1..=19_000))]
    agents: u32,
    /// Fleets they are spread over.
    #[arg(long, default_value_t = 90, value_parser = value_parser!(u32).range(1..=1_000))]
    fleets: u32,
    /// Events that each of them misses.
    #[arg(long, default_value_t = 20, value_parser = value_parser!(u32).range(1..=1_000))]
    missed: u32,
    /// Milliseconds they stay away: longer than the server waits before it tells that they left.
    #[arg(long, default_value_t = 3_000, value_parser = value_parser!(u32).range(0..=600_000))]
    away_ms: u32,
    /// Connections under way at a time: fewer than a server's backlog holds.
    #[arg(long, default_value_t = 512, value_parser = value_parser!(u32).range(1..=4_000))]
    at_once: u32,
    /// Presence frames the agents ask for.
    #[arg(long, default_value = "each")]
    presence: String,
}

/// What one agent saw, over all its connections.
struct Member {
    receiver: Receiver,
    /// The newest event of the fleet that it saw.
    last: String,
    resumed: Option<Instant>,
    trouble: Option<String>,
}

type Shared<T> = Arc<Mutex<T>>;

fn with<T, R>(shared: &Mutex<T>, act: impl FnOnce(&mut T) -> R) -> R {
    act(&mut shared.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Member {
    fn new() -> Self {
        Self { receiver: Receiver::new(1, true), last: String::new(), resumed: None, trouble: None }
    }

    fn take(&mut self, line: &[u8]) {
        if let Some((stamp, _)) = find_stamp(line) {
            self.receiver.saw(0, stamp.sequence, POSITION.number(line));
        }
        if let Some(id) = text_behind(line, br#""event_id":""#) {
            id.clone_into(&mut self.last);
        }
        if line.starts_with(br#"{"type":"system""#) && memmem::find(line, br#""event":"resumed""#).is_some() {
            let recovered = memmem::find(line, br#""recovered":true"#).is_some();
            let again = self.resumed.replace(Instant::now()).is_some();
            if !recovered || again {
                self.trouble = Some(String::from_utf8_lossy(line).into_owned());
            }
        }
        if line.starts_with(br#"{"type":"error""#) {
            self.trouble = Some(String::from_utf8_lossy(line).into_owned());
        }
    }
}

/// The text that follows a key of JSON, up to its closing quote.
fn text_behind<'a>(line: &'a [u8], key: &[u8]) -> Option<&'a str> {
    let rest = &line[memmem::find(line, key)? + key.len()..];
    std::str::from_utf8(&rest[..memchr(b'"', rest)?]).ok()
}

/// Runs it.
///
/// # Errors
/// The server or a connection failed.
pub async fn run(storm: &Storm) -> Result<Report> {
    raise_open_files(u64::from(storm.agents + storm.fleets) + 200)?;
    let Storm { agents, fleets, missed, at_once, .. } = storm;
    let mut report =
        Report::new(format!("Storm: {agents} agents in {fleets} fleets dropped at once, {missed} events missed"));
    report.row("connections under way at a time", at_once);
    report.row("presence", &storm.presence);
    let found = rounds(storm.rounds, &mut report, async |_| round(storm).await).await?;
    let values = |value: fn(&Round) -> f64| found.iter().map(value).collect::<Vec<_>>();
    report.metric("back_s", "first connect to the last one caught up, s", &values(|round| round.back), 2);
    report.metric("agent_us", "server CPU an agent, us", &values(|round| round.agent_micros), 0);
    report.row("client CPU, % of its core", shown_spread(&values(|round| round.client_percent), 0));
    found.iter().flat_map(|round| &round.failures).for_each(|failure| report.fail_if(true, failure));
    Ok(report)
}

/// What one round found.
struct Round {
    back: f64,
    agent_micros: f64,
    client_percent: f64,
    failures: Vec<String>,
}

async fn round(storm: &Storm) -> Result<(Round, Noise)> {
    let server = Server::at(&storm.place, &[storm.fleets as usize])?;
    let doors = server.doors(storm.fleets as usize)?;
    let agents = storm.agents as usize;
    let mut publishers = Vec::new();
    for door in &doors {
        publishers.push(connect(door, "publisher", &Hello::default()).await?);
    }
    let members: Vec<Shared<Member>> = (0..agents).map(|_| Arc::new(Mutex::new(Member::new()))).collect();
    let mut tasks = Vec::new();
    for (agent, socket) in connect_all(&doors, 0..agents, &Hello::presence(&storm.presence)).await? {
        tasks.push(tokio::spawn(listen(socket, Arc::clone(&members[agent]))));
    }
    let mut sent = 0;
    publish(&mut publishers, &mut sent, 1).await?;
    seen_by_all(&members, sent, "the event before the storm").await?;

    tasks.drain(..).for_each(|task| task.abort());
    // The sockets close when their tasks are dropped, which is when the runtime next comes to them.
    sleep(Duration::from_millis(100)).await;
    publish(&mut publishers, &mut sent, storm.missed.into()).await?;
    sleep(Duration::from_millis(storm.away_ms.into())).await;

    let (meter, begun) = (Meter::start(&server)?, Instant::now());
    let tasks = come_back(storm, &doors, &members);
    let deadline = begun + BACK_WITHIN;
    let is_back = |member: &Shared<Member>| with(member, |member| member.resumed.is_some() || member.trouble.is_some());
    while !members.iter().all(is_back) && Instant::now() < deadline {
        sleep(Duration::from_millis(10)).await;
    }
    sleep(LINGER).await;
    let cost = meter.stop(&server)?;
    publish(&mut publishers, &mut sent, 1).await?;
    // What is missing is told by the faults.
    let _ = seen_by_all(&members, sent, "the event after the storm").await;
    tasks.iter().for_each(JoinHandle::abort);
    let (failures, last) = judge(&members, sent);
    let back = last.map_or(f64::NAN, |last| (last - begun).as_secs_f64());
    let agent_micros = micros_each(cost.server, storm.agents.into());
    Ok((Round { back, agent_micros, client_percent: cost.client_percent(), failures }, cost.noise))
}

/// What went wrong, and when the last one was back.
fn judge(members: &[Shared<Member>], sent: u64) -> (Vec<String>, Option<Instant>) {
    let (mut faults, mut failures, mut away, mut last) = (Faults::default(), Vec::new(), 0, None);
    for member in members {
        with(member, |member| {
            faults.add(&member.receiver.faults(&[sent]));
            failures.extend(member.trouble.take());
            away += u64::from(member.resumed.is_none());
            last = last.max(member.resumed);
        });
    }
    let troubled = failures.len();
    failures.truncate(1);
    if troubled > 1 {
        failures.push(format!("and {} more", troubled - 1));
    }
    if away > 0 {
        failures.push(format!("{away} agents were never resumed"));
    }
    if !faults.none() {
        failures.push(faults.to_string());
    }
    (failures, last)
}

async fn listen(mut socket: Socket, member: Shared<Member>) {
    let ended = loop {
        let take = |message: &[u8]| {
            with(&member, |member| message.split(|byte| *byte == b'\n').for_each(|line| member.take(line)));
        };
        if let Err(error) = socket.read(take).await {
            break error;
        }
    };
    with(&member, |member| member.trouble = Some(format!("{ended:#}")));
}

/// Everyone connects, as many at a time as may, and listens.
fn come_back(storm: &Storm, doors: &[Door], members: &[Shared<Member>]) -> Vec<JoinHandle<()>> {
    let turns = Arc::new(Semaphore::new(storm.at_once as usize));
    let doors: Arc<[Door]> = doors.into();
    let come = |(agent, member): (usize, &Shared<Member>)| {
        let (turns, doors, member) = (Arc::clone(&turns), Arc::clone(&doors), Arc::clone(member));
        let last_event_id = Some(with(&member, |member| member.last.clone()));
        let hello = Hello { last_event_id, ..Hello::presence(&storm.presence) };
        tokio::spawn(async move {
            let Ok(turn) = turns.acquire_owned().await else { return };
            let connected = connect(&doors[agent % doors.len()], &name(agent), &hello).await;
            drop(turn);
            match connected {
                Ok(socket) => listen(socket, member).await,
                Err(error) => with(&member, |member| member.trouble = Some(format!("{error:#}"))),
            }
        })
    };
    members.iter().enumerate().map(come).collect()
}

/// Publishes `count` more events in each fleet, all acknowledged.
async fn publish(publishers: &mut [Socket], sent: &mut u64, count: u64) -> Result<()> {
    for socket in publishers.iter_mut() {
        for sequence in *sent..*sent + count {
            let stamp = Stamp { publisher: 0, sequence, due: 0 };
            let number = usize::try_from(sequence).context("count the events")?;
            socket.feed(Dialect::Ringforge.publish(0, "publisher", number, stamp, 256).as_bytes());
        }
        socket.flush().await?;
    }
    for socket in publishers {
        let (mut acked, mut refused) = (0, None);
        while acked < count {
            socket
                .read(|message| {
                    Dialect::Ringforge.lines(message, |heard| match heard {
                        Heard::Ack(..) => acked += 1,
                        Heard::Refused(_, code) => refused = Some(code.to_owned()),
                        _ => {}
                    });
                })
                .await?;
            if let Some(code) = refused {
                bail!("an event was refused: {code}");
            }
        }
    }
    *sent += count;
    Ok(())
}

async fn seen_by_all(members: &[Shared<Member>], sent: u64, what: &str) -> Result<()> {
    let deadline = Instant::now() + BACK_WITHIN / 4;
    while !members.iter().all(|member| with(member, |member| member.receiver.complete(&[sent]))) {
        ensure!(Instant::now() < deadline, "not everyone saw {what}");
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESUMED: &str = r#"{"type":"system","event":"resumed","recovered":true,"delivered":2}"#;

    fn event(sequence: u64) -> String {
        format!(
            r#"{{"type":"activity","event_id":"evt_{sequence}","position":{},"data":"~0.{sequence}.0~"}}"#,
            sequence + 1
        )
    }

    fn failures(lines: &[String]) -> Vec<String> {
        let mut member = Member::new();
        for line in lines {
            member.take(line.as_bytes());
        }
        judge(&[Arc::new(Mutex::new(member))], 3).0
    }

    #[test]
    fn all_of_it_once_and_resumed_is_well() {
        assert!(failures(&[event(0), event(1), event(2), RESUMED.to_owned()]).is_empty());
    }

    #[test]
    fn a_gap_a_double_a_lost_agent_and_a_lost_place_are_found() {
        for lines in [
            vec![event(0), event(2), RESUMED.to_owned()],
            vec![event(0), event(1), event(1), event(2), RESUMED.to_owned()],
            vec![event(0), event(1), event(2)],
            vec![event(0), event(1), event(2), RESUMED.replace("true", "false")],
            vec![event(0), event(1), event(2), RESUMED.to_owned(), RESUMED.to_owned()],
            vec![event(0), event(1), event(2), RESUMED.to_owned(), r#"{"type":"error"}"#.to_owned()],
        ] {
            assert!(!failures(&lines).is_empty(), "{lines:?}");
        }
    }

    #[test]
    fn the_newest_event_is_remembered() {
        let mut member = Member::new();
        for line in [event(0), event(7), RESUMED.to_owned()] {
            member.take(line.as_bytes());
        }
        assert_eq!(member.last, "evt_7");
    }
}
