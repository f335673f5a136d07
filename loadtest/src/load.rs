//! The open-loop load that most measurements share: agents in fleets, events that are due at fixed times whether or not
//! the server keeps up, latency from the due time. Every receiver checks that it got every event of its fleet once and in
//! order, every publisher that each of its events was acknowledged once.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    agent::{Door, Hello, connect, connect_all, name},
    check::{Acks, Faults, Receiver},
    dialect::{Dialect, Heard},
    figures::{Latencies, Report, micros, per_second},
    pace::Pacer,
    process::Server,
    quiet::{Cost, Meter},
    socket::{Socket, unsent},
    wire::{Stamp, get, ping, set},
};

/// Events waiting in one publisher; a full queue is a failure of the run.
const QUEUE: usize = 1_024;
/// Events of the first second are checked but not measured.
pub const WARM_UP: Duration = Duration::from_secs(1);
/// What is on its way after the last event may take this long.
const DRAIN: Duration = Duration::from_secs(10);
/// Numbers of questions begin here: they are asked beside commands.
const QUESTIONS: usize = 1 << 40;
/// Each agent that asks does so as often in a second.
const QUESTIONS_A_SECOND: u32 = 20;
/// What is asked for.
const PROBE_KEY: &str = "load/0/0";
/// Bytes that the kernel holds for an agent that does not read.
const STALLED_WINDOW: u32 = 4 << 10;

/// What the agents of each fleet do.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Agents that read.
    pub agents: usize,
    /// Those of them that publish, taking turns.
    pub publishers: usize,
    /// Those of them that ask, a ping and a get by turns.
    pub asking: usize,
    /// Agents besides that never read.
    pub stalled: usize,
    /// Whether those who do not publish are at another edge; then it is measured what reaches them.
    pub across: bool,
    /// Events a second; 0: none.
    pub rate: u32,
    /// Bytes of each event's payload.
    pub bytes: usize,
    /// How they come in.
    pub hello: Hello,
}

/// Fleets that do the same.
#[derive(Clone, Debug)]
pub struct Group {
    /// One for each fleet.
    pub doors: Vec<Door>,
    /// What happens there.
    pub shape: Shape,
}

/// What the agents of a group saw together.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Events received, of the whole round.
    pub deliveries: u64,
    /// Events received that were measured.
    pub measured: u64,
    /// Those a second.
    pub rate: f64,
    /// From due to received.
    pub latencies: Latencies,
    /// From due to given to the publisher: the client's own delay.
    pub lateness: Latencies,
    /// From due to acknowledged.
    pub acks: Latencies,
    /// From due to `pong`.
    pub pongs: Latencies,
    /// From due to the entry.
    pub gets: Latencies,
    faults: Faults,
    unread: u64,
    unsent: u64,
    not_stalled: u64,
    ended: Vec<String>,
    refused: BTreeMap<String, u64>,
}

impl Outcome {
    /// Everything that must not have happened.
    pub fn check(&self, report: &mut Report, whose: &str) {
        let Self { faults, unread, unsent, not_stalled, ended, refused, .. } = self;
        report.fail_if(!faults.none(), format!("{whose}: {faults}"));
        report.fail_if(*unread > 0, format!("{whose}: {unread} messages were not what they should be"));
        report.fail_if(*unsent > 0, format!("{whose}: {unsent} events could not be sent"));
        report
            .fail_if(*not_stalled > 0, format!("{whose}: nothing waited for {not_stalled} readers that were to stall"));
        let first = ended.first().map(String::as_str).unwrap_or_default();
        report.fail_if(!ended.is_empty(), format!("{whose}: {} connections ended, the first: {first}", ended.len()));
        report.fail_if(!refused.is_empty(), format!("{whose}: refused: {refused:?}"));
    }

    /// Whether all of that is well.
    pub fn is_good(&self) -> bool {
        let mut report = Report::default();
        self.check(&mut report, "");
        report.passed()
    }
}

type Shared<T> = Arc<Mutex<T>>;

fn with<T, R>(shared: &Mutex<T>, act: impl FnOnce(&mut T) -> R) -> R {
    act(&mut shared.lock().unwrap_or_else(PoisonError::into_inner))
}

/// What one agent was sent and has to come.
struct Member {
    receiver: Receiver,
    /// Whether it is measured what reaches it.
    measures: bool,
    acks: Acks,
    acks_due: Vec<u64>,
    asked: Acks,
    asked_due: Vec<u64>,
}

/// One fleet while a round runs.
struct Fleet {
    door: Door,
    shape: Shape,
    agents: Vec<(String, Shared<Member>, mpsc::Sender<String>)>,
    sent: Vec<u64>,
    tally: Shared<Outcome>,
    stalled: Vec<Socket>,
}

/// Runs one round of some groups at the same time, `seconds` long, the first not measured.
///
/// # Errors
/// A server or a connection failed.
pub async fn round(server: &Server, groups: &[Group], seconds: u32) -> Result<(Vec<Outcome>, Cost)> {
    let begin = Instant::now();
    let (mut fleets, mut tasks, mut tallies) = (Vec::new(), Vec::new(), Vec::new());
    for group in groups {
        let tally: Shared<Outcome> = Arc::default();
        gather(group, &tally, begin, &mut fleets, &mut tasks).await?;
        tallies.push(tally);
    }
    // Everyone is connected; joins and rosters settle before the first event is due.
    let start = Instant::now() + Duration::from_millis(500);
    let driver = tokio::spawn(drive(fleets, begin, start, seconds));
    sleep_until(start + WARM_UP).await;
    let (meter, measured_from) = (Meter::start(server)?, Instant::now());
    let fleets = driver.await??;
    let sending = measured_from.elapsed();
    let deadline = Instant::now() + DRAIN;
    while !fleets.iter().all(Fleet::is_complete) && Instant::now() < deadline {
        sleep(Duration::from_millis(5)).await;
    }
    let cost = meter.stop(server)?;
    let unsent = unsent()?;
    for fleet in &fleets {
        for socket in &fleet.stalled {
            let reads_on = unsent.get(&socket.ports()?).is_none_or(|bytes| *bytes == 0);
            with(&fleet.tally, |tally| tally.not_stalled += u64::from(reads_on));
        }
    }
    tasks.iter().for_each(JoinHandle::abort);
    for fleet in &fleets {
        let faults = fleet.faults();
        with(&fleet.tally, |tally| tally.faults.add(&faults));
    }
    let outcomes = tallies.iter().map(|tally| {
        let mut outcome = with(tally, std::mem::take);
        outcome.rate = per_second(outcome.measured, sending);
        outcome
    });
    Ok((outcomes.collect(), cost))
}

/// Connects a group and lets it listen.
async fn gather(
    group: &Group,
    tally: &Shared<Outcome>,
    begin: Instant,
    fleets: &mut Vec<Fleet>,
    tasks: &mut Vec<JoinHandle<()>>,
) -> Result<()> {
    let Group { doors, shape } = group;
    let first = fleets.len();
    for door in doors {
        let stalled_hello = Hello { window: Some(STALLED_WINDOW), ..shape.hello.clone() };
        let mut stalled = Vec::new();
        for agent in 0..shape.stalled {
            stalled.push(connect(door, &format!("stalled-{agent}"), &stalled_hello).await?);
        }
        let (door, shape, tally) = (door.clone(), shape.clone(), Arc::clone(tally));
        fleets.push(Fleet { door, shape, agents: Vec::new(), sent: Vec::new(), tally, stalled });
    }
    let publishers = shape.publishers.min(shape.agents);
    let mut seats = Vec::with_capacity(doors.len() * shape.agents);
    for agent in 0..doors.len() * shape.agents {
        let door = &doors[agent % doors.len()];
        let across = shape.across && agent / doors.len() >= publishers;
        seats.push(if across { door.across()? } else { door.clone() });
    }
    let mut agents = connect_all(&seats, 0..seats.len(), &shape.hello).await?;
    // The first of each fleet publish.
    agents.sort_by_key(|(agent, _)| *agent);
    for (agent, mut socket) in agents {
        let fleet = &mut fleets[first + agent % doors.len()];
        if shape.asking > 0 && fleet.agents.is_empty() {
            // Acknowledged with a number that is no command's.
            socket.send(set(0, QUESTIONS.next_multiple_of(100), 8).as_bytes()).await?;
        }
        fleet.sent = vec![0; publishers];
        let member = Arc::new(Mutex::new(Member {
            receiver: Receiver::new(publishers, fleet.door.dialect.has_positions()),
            measures: !shape.across || fleet.agents.len() >= publishers,
            acks: Acks::default(),
            acks_due: Vec::new(),
            asked: Acks::default(),
            asked_due: Vec::new(),
        }));
        let (sender, outgoing) = mpsc::channel(QUEUE);
        fleet.agents.push((name(agent), Arc::clone(&member), sender));
        let listener = Listener { dialect: fleet.door.dialect, member, tally: Arc::clone(tally), begin };
        tasks.push(tokio::spawn(listener.listen(socket, outgoing)));
    }
    Ok(())
}

struct Listener {
    dialect: Dialect,
    member: Shared<Member>,
    tally: Shared<Outcome>,
    begin: Instant,
}

impl Listener {
    /// Sends what is due and looks at what comes, until the connection ends or the round aborts it.
    async fn listen(self, mut socket: Socket, mut outgoing: mpsc::Receiver<String>) {
        let ended = loop {
            let done = tokio::select! {
                done = socket.read(|message| self.see(message)) => done,
                Some(text) = outgoing.recv() => {
                    socket.feed(text.as_bytes());
                    while let Ok(text) = outgoing.try_recv() {
                        socket.feed(text.as_bytes());
                    }
                    socket.flush().await
                }
            };
            if let Err(error) = done {
                break error;
            }
        };
        with(&self.tally, |tally| tally.ended.push(format!("{ended:#}")));
    }

    fn see(&self, message: &[u8]) {
        let now = micros(self.begin.elapsed());
        with(&self.tally, |tally| {
            with(&self.member, |member| self.dialect.lines(message, |heard| member.take(heard, now, tally)));
        });
    }
}

impl Member {
    fn take(&mut self, heard: Heard<'_>, now: u64, tally: &mut Outcome) {
        match heard {
            Heard::Event(Stamp { publisher, sequence, due }, position) => {
                self.receiver.saw(publisher, sequence, position);
                tally.deliveries += 1;
                if due > 0 && self.measures {
                    tally.measured += 1;
                    tally.latencies.record_due(due, now);
                }
            }
            Heard::Ack(number, position) if number < QUESTIONS => {
                self.acks.applied(number, position);
                record(&mut tally.acks, self.acks_due.get(number), now);
            }
            Heard::Answer(number) if number >= QUESTIONS => {
                let number = number - QUESTIONS;
                self.asked.answered(number);
                let latencies = if number.is_multiple_of(2) { &mut tally.pongs } else { &mut tally.gets };
                record(latencies, self.asked_due.get(number), now);
            }
            Heard::Refused(number, code) => {
                *tally.refused.entry(code.to_owned()).or_default() += 1;
                match number {
                    Some(number) if number >= QUESTIONS => self.asked.refused(number - QUESTIONS),
                    Some(number) => self.acks.refused(number),
                    None => {}
                }
            }
            Heard::Unreadable => tally.unread += 1,
            Heard::Ack(..) | Heard::Answer(_) | Heard::Other => {}
        }
    }
}

fn record(latencies: &mut Latencies, due: Option<&u64>, now: u64) {
    if let Some(due) = due.filter(|due| **due > 0) {
        latencies.record_due(*due, now);
    }
}

impl Fleet {
    fn is_complete(&self) -> bool {
        self.agents.iter().all(|(_, member, _)| {
            with(member, |member| {
                let waits = self.door.dialect.acks() && member.acks.waiting() > 0;
                member.receiver.complete(&self.sent) && !waits && member.asked.waiting() == 0
            })
        })
    }

    fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        for (_, member, _) in &self.agents {
            with(member, |member| {
                faults.add(&member.receiver.faults(&self.sent));
                faults.missing += member.asked.waiting() as u64;
                if self.door.dialect.acks() {
                    faults.add(&member.acks.faults());
                }
            });
        }
        faults
    }

    /// Sends the event with this number.
    fn publish(&mut self, event: usize, due: u64) {
        let publisher = event % self.sent.len();
        let (name, member, sender) = &self.agents[publisher];
        let stamp = Stamp { publisher, sequence: self.sent[publisher], due };
        let number = with(member, |member| {
            member.acks_due.push(due);
            member.acks.sent()
        });
        let text = self.door.dialect.publish(self.door.fleet, name, number, stamp, self.shape.bytes);
        if sender.try_send(text).is_ok() {
            self.sent[publisher] += 1;
        } else {
            with(&self.tally, |tally| tally.unsent += 1);
        }
    }

    /// Asks the question with this number.
    fn ask(&mut self, question: usize, due: u64) {
        // From the last agent on: those of the first that publish wait for acks as well.
        let asker = self.agents.len() - 1 - question % self.shape.asking.min(self.agents.len());
        let (_, member, sender) = &self.agents[asker];
        let number = with(member, |member| {
            member.asked_due.push(due);
            member.asked.sent()
        });
        let reference = QUESTIONS + number;
        let text = if number.is_multiple_of(2) { ping(reference) } else { get(reference, PROBE_KEY) };
        if sender.try_send(text).is_err() {
            with(&self.tally, |tally| tally.unsent += 1);
        }
    }
}

/// What one fleet does next, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Next {
    due: Instant,
    fleet: usize,
    is_question: bool,
    number: u32,
    every: Duration,
}

/// Publishes all events when they are due. Returns the fleets with what was sent.
async fn drive(mut fleets: Vec<Fleet>, begin: Instant, start: Instant, seconds: u32) -> Result<Vec<Fleet>> {
    let mut agenda = BinaryHeap::new();
    let count = u32::try_from(fleets.len()).context("count the fleets")?;
    for (fleet, place) in fleets.iter().zip(0..) {
        let Shape { rate, asking, .. } = fleet.shape;
        let questions = QUESTIONS_A_SECOND * u32::try_from(asking).context("count those that ask")?;
        for (is_question, rate) in [(false, rate), (true, questions)] {
            if rate > 0 {
                let every = Duration::from_secs(1) / rate;
                // Fleets take turns within the interval, so that the load is even.
                let due = start + every * place / count;
                agenda.push(Reverse(Next { due, fleet: place as usize, is_question, number: 0, every }));
            }
        }
    }
    let (mut pacer, end) = (Pacer::new()?, start + Duration::from_secs(seconds.into()));
    while let Some(Reverse(next)) = agenda.pop() {
        if next.due >= end {
            continue;
        }
        pacer.until(next.due).await?;
        let fleet = &mut fleets[next.fleet];
        let is_measured = next.due >= start + WARM_UP;
        let due = if is_measured { micros(next.due - begin) } else { 0 };
        if next.is_question {
            fleet.ask(next.number as usize, due);
        } else {
            fleet.publish(next.number as usize, due);
        }
        if is_measured {
            with(&fleet.tally, |tally| tally.lateness.record_due(due, micros(begin.elapsed())));
        }
        agenda.push(Reverse(Next { due: next.due + next.every, number: next.number + 1, ..next }));
    }
    sleep_until(end).await;
    Ok(fleets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        let hello = Hello::default();
        Shape { agents: 3, publishers: 2, asking: 0, stalled: 0, across: false, rate: 100, bytes: 256, hello }
    }

    async fn bare() -> Vec<Door> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("ws://{}", listener.local_addr().expect("an address"));
        tokio::spawn(crate::bare::serve(listener));
        (0..2).map(|fleet| Door::bare(&url, fleet)).collect()
    }

    /// Two fleets on a bare server in this process: every delivery is accounted for.
    #[tokio::test]
    async fn the_bare_server_delivers_everything_to_its_fleet_only() {
        let group = Group { doors: bare().await, shape: shape() };
        let (tally, begin): (Shared<Outcome>, _) = (Arc::default(), Instant::now());
        let (mut fleets, mut tasks) = (Vec::new(), Vec::new());
        gather(&group, &tally, begin, &mut fleets, &mut tasks).await.expect("connections");
        // All due in the past: sent at once, without waiting for real time to pass.
        let start = begin.checked_sub(Duration::from_secs(1)).unwrap_or(begin);
        let fleets = drive(fleets, begin, start, 1).await.expect("driven");
        assert!(fleets.iter().all(|fleet| fleet.sent == [50, 50]));
        let complete = async {
            while !fleets.iter().all(Fleet::is_complete) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), complete).await.expect("everything arrives");
        assert!(fleets.iter().all(|fleet| fleet.faults().none()));
        let outcome = with(&tally, std::mem::take);
        assert_eq!(outcome.deliveries, 600);
        assert!(outcome.is_good());
    }

    #[tokio::test]
    async fn across_edges_it_is_measured_what_reaches_the_readers() {
        let mut doors = bare().await;
        assert!(doors[0].across().is_err());
        // The same server by another address.
        for door in &mut doors {
            door.far = Some(format!("{}?far", door.url));
        }
        let group = Group { doors, shape: Shape { across: true, ..shape() } };
        let begin = Instant::now().checked_sub(Duration::from_secs(2)).expect("the machine is up for longer");
        let tally: Shared<Outcome> = Arc::default();
        let (mut fleets, mut tasks) = (Vec::new(), Vec::new());
        gather(&group, &tally, begin, &mut fleets, &mut tasks).await.expect("connections");
        let fleets = drive(fleets, begin, begin, 2).await.expect("driven");
        let complete = async {
            while !fleets.iter().all(Fleet::is_complete) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), complete).await.expect("everything arrives");
        let outcome = with(&tally, std::mem::take);
        // Two fleets of three agents, one of whom reads; the first of two seconds is not measured.
        assert_eq!((outcome.deliveries, outcome.measured), (2 * 3 * 200, 2 * 100));
    }

    fn member() -> Member {
        let (receiver, acks, asked) = (Receiver::new(1, true), Acks::default(), Acks::default());
        Member { receiver, measures: true, acks, acks_due: Vec::new(), asked, asked_due: Vec::new() }
    }

    #[test]
    fn whatever_is_wrong_fails_the_round() {
        let event = |sequence| Heard::Event(Stamp { publisher: 0, sequence, due: 1 }, Some(sequence));
        for (heard, good) in [
            (vec![event(0), event(1)], true),
            (vec![Heard::Unreadable], false),
            (vec![Heard::Refused(None, "busy")], false),
        ] {
            let (mut member, mut tally) = (member(), Outcome::default());
            for heard in heard {
                member.take(heard, 5, &mut tally);
            }
            assert_eq!(tally.is_good(), good);
        }
        let ended = Outcome { ended: vec!["closed 1013".to_owned()], ..Outcome::default() };
        let not_stalled = Outcome { not_stalled: 1, ..Outcome::default() };
        assert!(!not_stalled.is_good());
        let unsent = Outcome { unsent: 1, ..Outcome::default() };
        let lost = Outcome { faults: Faults { missing: 1, ..Faults::default() }, ..Outcome::default() };
        assert!(!ended.is_good() && !unsent.is_good() && !lost.is_good());
    }

    #[test]
    fn latencies_count_from_the_due_time_by_kind() {
        let (mut member, mut tally) = (member(), Outcome::default());
        for due in [1_000, 2_000] {
            member.acks.sent();
            member.acks_due.push(due);
            member.asked.sent();
            member.asked_due.push(due);
        }
        for heard in [Heard::Ack(0, Some(1)), Heard::Answer(QUESTIONS), Heard::Answer(QUESTIONS + 1)] {
            member.take(heard, 5_000, &mut tally);
        }
        let p50 = |latencies: &Latencies| latencies.quantile_ms(0.5).round();
        assert_eq!([p50(&tally.acks), p50(&tally.pongs), p50(&tally.gets)].map(|ms| format!("{ms}")), ["4", "4", "3"]);
        assert_eq!((member.acks.waiting(), member.asked.waiting()), (1, 0));
    }
}
