//! `kill -9` again and again, at random moments, while the agents of several fleets of two tenants ask, watch, disturb, leave
//! and come back: the same agents as in the simulation, over real sockets. The log and the read models are then read from the
//! files, and the same checkers judge everything that happened. The seed decides what agents do, not when.

#![allow(clippy::disallowed_methods, reason = "a test runs on the machine's clock")]

#[path = "torture/agent.rs"]
mod agent;
#[path = "torture/conditions.rs"]
mod conditions;
#[path = "torture/crowd.rs"]
mod crowd;
#[path = "torture/run.rs"]
mod run;
#[path = "support.rs"]
mod support;
#[path = "torture/telling.rs"]
mod telling;

use std::{
    panic::{AssertUnwindSafe, resume_unwind},
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use conditions::{Conditions, GAP_MIN, IN_FLIGHT_MIN, MET};
use crowd::Crowd;
use futures_util::FutureExt as _;
use ringforge_adapters::{log::embedded::EmbeddedLog, reads::sqlite::SqliteReads};
use ringforge_domain::{ids::Scope, position::Partition};
use ringforge_ports::{clock::SystemClock, log::Log as _, names, reads::Reads};
use ringforge_sim::{
    check::check,
    history::{self, History},
    rng::Rng,
    tally::lock,
};
use run::{Mood, Run};
use serde_json::Value;
use support::{Options, Server};

/// The fleets: tenant, slug, and how many agents. Those of the first are kept busiest.
const FLEETS: [(&str, &str, usize); 3] = [("acme", "main", 15), ("acme", "side", 4), ("evil", "main", 5)];
/// The agents of the first fleet that miss most of the run. Each comes back while the load goes on.
const SLEEPERS: usize = 3;
/// Kills between two looks at the files.
const KILLS: u32 = 25;
/// How often, per mille, a start is no good either: killed before it is ready, or while everyone comes back.
const UNTIMELY: u64 = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make proof"]
async fn killed_at_any_moment_it_keeps_its_promises() {
    let seed = seed();
    let kills = std::env::var("CYCLES").map_or(KILLS, |kills| kills.parse().expect("CYCLES is a number"));
    let rounds = kills.div_ceil(KILLS);
    for number in 0..rounds {
        round(seed.wrapping_add(number.into()), (kills + number) / rounds).await;
    }
}

/// One server's lives, in which it is killed so often under load, and what comes of it.
async fn round(seed: u64, kills: u32) {
    eprintln!("seed: RINGFORGE_SEED={seed}");
    let tenant = |name: &str| {
        let fleets = FLEETS.iter().filter(|fleet| fleet.0 == name).map(|fleet| fleet.1.to_owned());
        (name.to_owned(), fleets.collect())
    };
    let mut server = Server::start(Options { tenants: vec![tenant("acme"), tenant("evil")], ..Options::default() });
    let judged = AssertUnwindSafe(Torture::begin(&mut server, seed).run(kills)).catch_unwind().await;
    if let Err(panic) = judged {
        eprintln!("seed: RINGFORGE_SEED={seed}; its files stay in {}", server.leave_behind().display());
        resume_unwind(panic);
    }
}

fn seed() -> u64 {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.subsec_nanos().into());
    std::env::var("RINGFORGE_SEED").ok().map_or_else(now, |seed| seed.parse().expect("RINGFORGE_SEED is a number"))
}

/// A run as it goes on.
struct Torture<'a> {
    server: &'a mut Server,
    rng: Rng,
    run: Arc<Run>,
    crowd: Crowd,
    scopes: Vec<Scope>,
    lives: u32,
    conditions: Conditions,
}

impl<'a> Torture<'a> {
    /// Everyone is on the way in.
    fn begin(server: &'a mut Server, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let scope = |(tenant, fleet, _): &(&str, &str, usize)| {
            let (tenant, fleet) = (&server.tenant(tenant)["id"], &server.fleet(tenant, fleet)["id"]);
            Scope { tenant: id(tenant), fleet: id(fleet) }
        };
        let scopes = FLEETS.iter().map(scope).collect();
        let keys = FLEETS.iter().map(|(tenant, fleet, _)| server.key(tenant, fleet).to_owned()).collect();
        let run = Arc::new(Run::new(keys, FLEETS.iter().map(|fleet| fleet.2).sum()));
        let crowd = Crowd::begin(&run, &FLEETS.map(|fleet| fleet.2), SLEEPERS, &mut rng);
        run.begin(1, vec![server.ws_url().to_owned()]);
        let conditions = Conditions { in_flight_min: usize::MAX, ..Conditions::default() };
        Self { server, rng, run, crowd, scopes, lives: 1, conditions }
    }

    /// To the end, and judges it.
    async fn run(mut self, kills: u32) {
        let run = Arc::clone(&self.run);
        self.crowd.until("everyone who shall sleep sleeps", || run.asleep.load(Ordering::Relaxed) == SLEEPERS).await;
        let before = run.acknowledged(0);
        while self.conditions.kills < kills {
            self.kill_under_load().await;
            self.start_again().await;
        }
        self.wake_the_sleepers(before).await;
        self.crowd.come_to_rest().await;
        run.feel(Mood::Over);
        self.server.kill9();
        let agents = self.crowd.tell().await;
        let history = history_of(self.server, &self.scopes, agents).await;
        let sent: usize = history.agents.iter().map(|agent| agent.diary.sent.len()).sum();
        eprintln!("{sent} commands, {} frames, {:?}", run.frames.load(Ordering::Relaxed), self.conditions);
        check(&history, &run.tally).unwrap_or_else(|broken| panic!("{broken:#}"));
        self.conditions.met(kills);
        conditions::reached(&history, &run.tally, &MET);
    }

    async fn kill_under_load(&mut self) {
        self.pause(1_500).await;
        self.run.feel(Mood::Hurry);
        self.pause(60).await;
        let run = Arc::clone(&self.run);
        self.crowd.until("there is enough to kill", || run.in_flight() >= IN_FLIGHT_MIN).await;
        let in_flight = run.in_flight();
        self.kill();
        self.conditions.kills += 1;
        self.conditions.in_flight_min = self.conditions.in_flight_min.min(in_flight);
        run.feel(Mood::Calm);
    }

    fn kill(&mut self) {
        self.server.kill9();
        self.run.end();
        self.run.tally.note("fault: everything restarted");
    }

    /// Sometimes it is killed before it is ready, or while everyone comes back.
    async fn start_again(&mut self) {
        while self.rng.chance(UNTIMELY) {
            let after = Duration::from_millis(self.rng.below(300));
            self.server.restart_and_kill9(after);
            self.conditions.untimely += 1;
        }
        loop {
            self.server.restart();
            self.lives += 1;
            self.run.begin(self.lives, vec![self.server.ws_url().to_owned()]);
            if !self.rng.chance(UNTIMELY) {
                return;
            }
            self.pause(200).await;
            self.kill();
            self.conditions.untimely += 1;
        }
    }

    async fn wake_the_sleepers(&mut self, before: u64) {
        let run = Arc::clone(&self.run);
        run.feel(Mood::Hurry);
        self.crowd.until("enough was missed", || run.acknowledged(0) - before >= GAP_MIN).await;
        for number in 0..SLEEPERS {
            run.wake(number + 1);
            self.crowd.until("who slept is back", || lock(&run.woken).len() > number).await;
        }
        self.conditions.woken.clone_from(&lock(&run.woken));
    }

    /// Any time below this.
    async fn pause(&mut self, millis: u64) {
        tokio::time::sleep(Duration::from_millis(self.rng.below(millis))).await;
    }
}

/// Everything that happened, with what the files of a server say that was killed.
async fn history_of(server: &Server, fleets: &[Scope], agents: Vec<history::Agent>) -> History {
    let log = EmbeddedLog::open(&server.data().join(names::LOG_FILE), 2, SystemClock::start()).expect("the log opens");
    let generation = log.bounds(Partition::POOL).await.expect("the log has bounds").generation;
    let reads = SqliteReads::open(&server.data().join(names::reads_file(generation))).await;
    let reads: Arc<dyn Reads> = reads.expect("the read models open");
    let history = telling::history(&*log, &reads, fleets, agents).await;
    log.close().await;
    history
}

fn id<T: std::str::FromStr>(text: &Value) -> T {
    let id = text.as_str().and_then(|text| text.parse().ok());
    id.expect("the ready line has ids")
}
