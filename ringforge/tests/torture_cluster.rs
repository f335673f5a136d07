//! An installation with every role in processes of its own, on Kafka, Postgres, Redis and S3, while all of them are killed, stopped,
//! emptied and cut off from each other, again and again, and agents ask, watch, disturb, leave and come back. Then everything is
//! read from Kafka and Postgres, and the simulation's checkers judge what happened. The seed decides what is done to whom.

#![cfg(feature = "cluster")]
#![allow(clippy::disallowed_methods, reason = "a test runs on the machine's clock")]

#[path = "torture/agent.rs"]
mod agent;
#[path = "torture_cluster/broker.rs"]
mod broker;
#[path = "torture_cluster/clerk.rs"]
mod clerk;
#[path = "support/cluster.rs"]
mod cluster;
#[path = "torture/conditions.rs"]
mod conditions;
#[path = "torture/crowd.rs"]
mod crowd;
#[path = "torture_cluster/faults.rs"]
mod faults;
#[path = "torture_cluster/lost.rs"]
mod lost;
#[path = "torture_cluster/objects.rs"]
mod objects;
#[path = "torture_cluster/proxy.rs"]
mod proxy;
#[path = "torture/run.rs"]
mod run;
#[path = "torture_cluster/servers.rs"]
mod servers;
#[path = "support.rs"]
mod support;
#[path = "torture/telling.rs"]
mod telling;

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, resume_unwind},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clerk::{Clerk, Doors};
use cluster::Servers;
use crowd::Crowd;
use faults::{BROKERS, Fault, HANDS, Kind, Loss, ONE_OF_EACH, THREE_BROKERS, deal};
use futures_util::FutureExt as _;
use proxy::{Proxy, Way};
use ringforge_adapters::{
    log::kafka::{Cluster, KafkaLog},
    reads::postgres::PostgresReads,
};
use ringforge_domain::ids::Scope;
use ringforge_ports::{log::Log as _, reads::Reads};
use ringforge_sim::tally::lock;
use ringforge_sim::{check::check, rng::Rng};
use run::{Mood, Run};
use serde_json::Value;
use servers::{Own, Store};
use support::{Options, Server};
use tokio::{
    sync::Mutex,
    task::{JoinHandle, block_in_place},
};

/// Held by a test as long as it has servers of its own: there is no room for those of two.
static ALONE: Mutex<()> = Mutex::const_new(());
/// The fleets: tenant, slug, and how many agents.
const FLEETS: [(&str, &str, usize); 3] = [("acme", "main", 8), ("acme", "side", 3), ("evil", "main", 4)];
/// Cycles, if nobody says how many.
const CYCLES: usize = HANDS;
/// Acknowledged commands of a fleet after which it is at work again.
const AT_WORK: u64 = 20;
/// Minutes from one checkpoint to the next.
const CHECKPOINTS: &str = "0.03";
/// How long whatever was written may take to be applied.
const APPLIED: Duration = Duration::from_secs(30);

/// What agents must have met.
const MET: [&str; 12] = [
    "fault: socket killed",
    "fault: peer reads nothing",
    "situation: resume recovered",
    "situation: resume from an early event",
    "situation: resume crossed a restart",
    "situation: compare-and-set held",
    "situation: compare-and-set conflict",
    "situation: key set again after a deletion",
    "situation: expiry recorded by a timer",
    "situation: duplicate answered",
    "situation: memory read after a write was seen",
    "situation: snapshot during writes",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make proof"]
async fn whatever_is_killed_or_cut_off_the_cluster_keeps_its_promises() {
    rounds("whatever_is_killed_or_cut_off_the_cluster_keeps_its_promises", 1, &ONE_OF_EACH).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make torture-rf3"]
async fn three_brokers_lose_nothing_and_go_on_without_one() {
    rounds("three_brokers_lose_nothing_and_go_on_without_one", BROKERS, &THREE_BROKERS).await;
}

/// As many cycles as are asked for, in installations with so many brokers.
async fn rounds(name: &str, brokers: usize, deck: &[Kind]) {
    if Servers::of(name).is_none() {
        return;
    }
    let _alone = ALONE.lock().await;
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.subsec_nanos().into());
    let said = std::env::var("RINGFORGE_SEED").ok();
    let seed: u64 = said.map_or_else(now, |seed| seed.parse().expect("RINGFORGE_SEED is a number"));
    let cycles = std::env::var("CYCLES").map_or(CYCLES, |cycles| cycles.parse().expect("CYCLES is a number"));
    for round in 0..cycles.div_ceil(HANDS) {
        let left = cycles - round * HANDS;
        Torture::round(seed.wrapping_add(round as u64), brokers, deck, left.min(HANDS)).await;
    }
}

/// An installation as it is tortured.
struct Torture {
    own: Own,
    server: Server,
    rng: Rng,
    run: Arc<Run>,
    crowd: Crowd,
    /// Where whoever asks over HTTP does it: a clerk for each fleet.
    doors: Arc<Doors>,
    clerks: Vec<JoinHandle<Clerk>>,
    scopes: Vec<Scope>,
    /// How often an edge has begun.
    lives: u32,
    /// How often a process had ended by itself.
    ended: u32,
}

impl Torture {
    /// One installation, in which so many cycles happen, and what comes of it.
    async fn round(seed: u64, brokers: usize, deck: &[Kind], cycles: usize) {
        eprintln!("seed: RINGFORGE_SEED={seed}");
        let mut torture = block_in_place(|| Self::begin(seed, brokers));
        let judged = AssertUnwindSafe(torture.go_through(deck, cycles)).catch_unwind().await;
        if let Err(panic) = judged {
            let left = torture.server.leave_behind().display().to_string();
            eprintln!("seed: RINGFORGE_SEED={seed}; what the processes said stays in {left}");
            resume_unwind(panic);
        }
    }

    fn begin(seed: u64, brokers: usize) -> Self {
        let own = Own::begin(Server::PROCESSES, brokers);
        let tenant = |name: &str| {
            let fleets = FLEETS.iter().filter(|fleet| fleet.0 == name).map(|fleet| fleet.1.to_owned());
            (name.to_owned(), fleets.collect())
        };
        let mut environment = own.environment.clone();
        environment.push(("RINGFORGE__CHECKPOINTS__EVERY_MINUTES".to_owned(), CHECKPOINTS.to_owned()));
        let server = Server::start(Options {
            environment,
            each: own.each(),
            tenants: vec![tenant("acme"), tenant("evil")],
            apart: true,
            ..Options::default()
        });
        let mut rng = Rng::new(seed);
        let scope = |(tenant, fleet, _): &(&str, &str, usize)| {
            let (tenant, fleet) = (&server.tenant(tenant)["id"], &server.fleet(tenant, fleet)["id"]);
            Scope { tenant: id(tenant), fleet: id(fleet) }
        };
        let scopes: Vec<Scope> = FLEETS.iter().map(scope).collect();
        let keys: Vec<_> = FLEETS.iter().map(|(tenant, fleet, _)| server.key(tenant, fleet).to_owned()).collect();
        let doors = Arc::default();
        let clerk = |(scope, key): (&Scope, &String)| Clerk::begin(&doors, key, &scope.fleet.to_string(), rng.fork());
        let clerks = scopes.iter().zip(&keys).map(clerk).collect();
        let sizes = FLEETS.map(|fleet| fleet.2);
        let run = Arc::new(Run::new(keys, sizes.iter().sum()));
        let crowd = Crowd::begin(&run, &sizes, 0, &mut rng);
        let mut torture = Self { own, server, rng, run, crowd, doors, clerks, scopes, lives: 0, ended: 0 };
        torture.know(1);
        torture
    }

    async fn go_through(&mut self, deck: &[Kind], cycles: usize) {
        self.at_work().await;
        for (number, faults) in deal(deck, cycles, &mut self.rng).into_iter().enumerate() {
            self.cycle(number + 1, &faults).await;
        }
        self.judge(cycles).await;
    }

    /// Does all this, makes it good, and waits until everyone is at work again.
    async fn cycle(&mut self, number: usize, faults: &[Fault]) {
        for fault in faults {
            eprintln!("cycle {number}: {fault}");
        }
        let hurries = self.rng.chance(300);
        self.run.feel(if hurries { Mood::Hurry } else { Mood::Calm });
        let (began, before) = (Instant::now(), self.acknowledged());
        let mut harmed = Vec::new();
        // Processes start again once what they need is there.
        let late = |fault: &&Fault| matches!(fault.kind, Kind::Kill(_) | Kind::KillAll);
        let begins = faults.iter().map(|fault| (false, fault.from, true, fault));
        let ends = faults.iter().map(|fault| (late(&fault), fault.until, false, fault));
        let mut steps: Vec<_> = begins.chain(ends).collect();
        steps.sort_by_key(|(late, at, ..)| (*late, *at));
        for (_, at, begins, fault) in steps {
            tokio::time::sleep(at.saturating_sub(began.elapsed())).await;
            if !begins && fault.kind.goes_on() {
                self.all_went_on(fault, &harmed);
            }
            block_in_place(|| if begins { self.harm(fault) } else { self.heal(fault) });
            if begins {
                harmed = self.acknowledged();
            }
        }
        block_in_place(|| self.start_the_dead(number));
        self.run.feel(Mood::Calm);
        let healed = Instant::now();
        self.at_work().await;
        let acknowledged = self.acknowledged().iter().sum::<u64>() - before.iter().sum::<u64>();
        let (took, healed) = (began.elapsed().as_millis(), healed.elapsed().as_millis());
        eprintln!("cycle {number}: {acknowledged} commands in {took} ms; at work {healed} ms after all was made good");
    }

    fn harm(&mut self, fault: &Fault) {
        let process = fault.process;
        match fault.kind {
            Kind::Kill(_) => {
                self.server.kill9_one(process);
                self.know(0);
            }
            Kind::KillAll => {
                self.server.kill9();
                self.know(0);
            }
            Kind::Stop(_) => self.signal(process, "STOP"),
            Kind::Flush => self.own.flush(),
            Kind::Down(store) | Kind::Bereft(store) => self.own.kill(store),
            Kind::Broker(Loss::Killed | Loss::Torn) => self.own.broker("kill", process),
            Kind::Broker(Loss::Frozen) => self.own.broker("freeze", process),
            Kind::TwoBrokers => two(process).into_iter().for_each(|broker| self.own.broker("kill", broker)),
            Kind::Freeze(store) => self.own.freeze(store),
            Kind::Way(store, harm) => self.own.way(process, store).set(harm.way(fault.slow)),
            Kind::Cut => self.own.way(process, Store::Postgres).cut_after_commit(),
        }
    }

    fn heal(&mut self, fault: &Fault) {
        let process = fault.process;
        match fault.kind {
            Kind::Kill(_) => self.start(process),
            Kind::KillAll => (0..Server::PROCESSES).for_each(|process| self.start(process)),
            Kind::Stop(_) => self.signal(process, "CONT"),
            Kind::Flush => {}
            Kind::Down(store) | Kind::Bereft(store) => self.own.again(store),
            Kind::Broker(loss) => {
                if loss == Loss::Torn {
                    self.own.broker("tear", process);
                }
                self.own.broker(if loss == Loss::Frozen { "thaw" } else { "again" }, process);
            }
            // The first may not be ready before the other is there.
            Kind::TwoBrokers => {
                let own = &self.own;
                std::thread::scope(|threads| {
                    for broker in two(process) {
                        threads.spawn(move || own.broker("again", broker));
                    }
                });
            }
            Kind::Freeze(store) => self.own.thaw(store),
            Kind::Way(store, _) => self.own.way(process, store).set(Way::Open),
            Kind::Cut => {
                let cuts = self.own.way(process, Store::Postgres).disarm();
                eprintln!("process {process}: {cuts} of its commits were cut off so far");
            }
        }
    }

    /// Starts a process again, if it can.
    fn start(&mut self, process: usize) {
        if self.server.alive_one(process) {
            return;
        }
        match self.server.try_restart_one(process) {
            Ok(()) => self.know(u32::from(Server::numbers("edge").contains(&process))),
            Err(why) => eprintln!("process {process} does not start now: {}", tail(&why)),
        }
    }

    /// Nothing is harmed any more: whoever could not go on meanwhile, or not start, does now.
    fn start_the_dead(&mut self, cycle: usize) {
        for process in 0..Server::PROCESSES {
            if !self.server.alive_one(process) {
                eprintln!("cycle {cycle}: process {process} had ended: {}", tail(&self.server.stderr()));
                self.ended += 1;
                self.start(process);
                assert!(self.server.alive_one(process), "process {process} does not start though all is there");
            }
        }
    }

    fn signal(&mut self, process: usize, signal: &str) {
        if self.server.alive_one(process) {
            self.server.signal(process, signal);
        }
    }

    /// Whoever asks does it at whichever processes are there. So many edges are new.
    fn know(&mut self, new: u32) {
        self.lives += new;
        let edges = self.addresses("edge", "ws_url");
        if edges.is_empty() {
            self.run.end();
        } else {
            self.run.begin(self.lives, edges);
        }
        *lock(&self.doors.gates) = self.addresses("command-api", "rest_url");
        *lock(&self.doors.answers) = self.addresses("query-api", "rest_url");
    }

    fn addresses(&mut self, role: &str, field: &str) -> Vec<String> {
        let alive: Vec<usize> =
            Server::numbers(role).into_iter().filter(|number| self.server.alive_one(*number)).collect();
        let url = |number: usize| self.server.ready_of(number)[field].as_str().expect("an address").to_owned();
        alive.into_iter().map(url).collect()
    }

    fn acknowledged(&self) -> Vec<u64> {
        (0..FLEETS.len()).map(|fleet| self.run.acknowledged(fleet)).collect()
    }

    /// While Redis or S3 was away (G20), or one of several brokers, the commands of every fleet were acknowledged.
    fn all_went_on(&self, fault: &Fault, before: &[u64]) {
        let since: Vec<u64> = self.acknowledged().iter().zip(before).map(|(now, before)| now - before).collect();
        eprintln!("meanwhile {since:?} commands were acknowledged");
        assert!(since.iter().all(|since| *since >= AT_WORK), "{fault}: meanwhile there were {since:?} in all");
    }

    /// Waits until the commands of every fleet are acknowledged.
    async fn at_work(&self) {
        let before = self.acknowledged();
        let all = || self.acknowledged().iter().zip(&before).all(|(now, before)| now - before >= AT_WORK);
        self.crowd.until("every fleet is at work", all).await;
    }

    /// All comes to rest, and is judged.
    async fn judge(&mut self, cycles: usize) {
        let run = Arc::clone(&self.run);
        self.doors.closed.store(true, Ordering::Relaxed);
        let mut clerks = Vec::new();
        for clerk in self.clerks.drain(..) {
            clerks.push(clerk.await.expect("a clerk comes to its end"));
        }
        self.crowd.come_to_rest().await;
        let log = KafkaLog::open(&Cluster::at(self.own.url(Store::Kafka)).expect("an address")).await;
        let log = log.expect("the log opens");
        let reads = PostgresReads::open(self.own.url(Store::Postgres)).await.expect("the read models open");
        let reads: Arc<dyn Reads> = Arc::new(reads);
        applied(&log, &reads).await;
        run.feel(Mood::Over);
        block_in_place(|| self.server.kill9());
        let agents = self.crowd.tell().await;
        let history = telling::history(&*log, &reads, &self.scopes, agents).await;
        let sent: usize = history.agents.iter().map(|agent| agent.diary.sent.len()).sum();
        let answers =
            || history.agents.iter().flat_map(|agent| &agent.diary.sent).filter_map(|sent| sent.answer.as_ref());
        let unknown = answers().filter(|answer| answer["outcome"] == "unknown").count();
        let away = answers().filter(|answer| answer["code"] == "unavailable").count();
        eprintln!("{unknown} answers were unknown, {away} that something is away");
        let (frames, cuts) = (run.frames.load(Ordering::Relaxed), self.own.ways().map(Proxy::disarm).sum::<u64>());
        let Self { lives, ended, .. } = self;
        eprintln!("{sent} commands, {frames} frames, {lives} edges, {cuts} cuts, {ended} ends of their own");
        check(&history, &run.tally).unwrap_or_else(|broken| panic!("{broken:#}"));
        for (clerk, fleet) in clerks.iter().zip(&history.fleets) {
            let (written, read) = clerk.check(fleet.scope, &history.logs[&fleet.partition]);
            eprintln!("over HTTP {written} writes were acknowledged, and {read} read elsewhere");
            assert!(written > 0 && read > 0, "nobody was answered over HTTP");
        }
        let checkpoints = objects::check(&log, self.own.url(Store::S3)).await;
        eprintln!("{checkpoints} partitions have a checkpoint, which holds what their log folds to");
        conditions::reached(&history, &run.tally, if cycles == HANDS { &MET } else { &[] });
        log.close().await;
    }
}

/// Waits until all that the log has is applied.
async fn applied(log: &KafkaLog, reads: &Arc<dyn Reads>) {
    let began = Instant::now();
    for partition in log.partitions().iter() {
        loop {
            let end = log.bounds(partition).await.expect("the log has bounds").end;
            let applied = reads.load(partition, &BTreeSet::new()).await.expect("they are there").applied.upto;
            if applied == end {
                break;
            }
            assert!(began.elapsed() < APPLIED, "partition {} stands at {applied:?} of {end:?}", partition.0);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A broker and the one after it.
fn two(broker: usize) -> [usize; 2] {
    [broker, (broker + 1) % BROKERS]
}

/// The last of what was said.
fn tail(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

fn id<T: std::str::FromStr>(text: &Value) -> T {
    let id = text.as_str().and_then(|text| text.parse().ok());
    id.expect("the ready line has ids")
}
