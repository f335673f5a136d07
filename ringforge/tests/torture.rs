//! `kill -9` again and again, at random moments, while the agents of several fleets of two tenants ask, watch, disturb, leave
//! and come back: the same agents as in the simulation, over real sockets. The log and the read models are then read from the
//! files, and the same checkers judge everything that happened. The seed decides what agents do, not when.

#![allow(clippy::disallowed_methods, reason = "a test runs on the machine's clock")]

#[path = "torture/agent.rs"]
mod agent;
#[path = "torture/conditions.rs"]
mod conditions;
#[path = "torture/run.rs"]
mod run;
#[path = "support.rs"]
mod support;
#[path = "torture/telling.rs"]
mod telling;

use std::{
    panic::{AssertUnwindSafe, resume_unwind},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use agent::Agent;
use conditions::{Conditions, GAP_MIN, IN_FLIGHT_MIN};
use futures_util::FutureExt as _;
use ringforge_domain::ids::Scope;
use ringforge_sim::{check::check, history, rng::Rng, tally::lock, vocabulary::clients::Client};
use run::{Mood, Run};
use serde_json::Value;
use support::{Options, Server};
use tokio::task::JoinHandle;

/// The fleets: tenant, slug, and how many agents. Those of the first are kept busiest.
const FLEETS: [(&str, &str, usize); 3] = [("acme", "main", 15), ("acme", "side", 4), ("evil", "main", 5)];
/// The agents of the first fleet that miss most of the run. Each comes back while the load goes on.
const SLEEPERS: usize = 3;
/// The agent that writes large values: the first of the second fleet.
const HEAVY: usize = FLEETS[0].2;
/// Kills between two looks at the files.
const KILLS: u32 = 25;
/// How often, per mille, a start is no good either: killed before it is ready, or while everyone comes back.
const UNTIMELY: u64 = 200;
/// How long any condition may take to be met.
const PATIENCE: Duration = Duration::from_secs(90);
/// When nobody has read anything for so long, nothing more happens.
const QUIET: Duration = Duration::from_millis(2_500);
/// How long after the last command what it asked for may still happen: its time to live, and what timers take.
const AFTERMATH: Duration = Duration::from_millis(6_500);

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
    agents: Vec<JoinHandle<history::Agent>>,
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
        let agents = people(&run, &mut rng);
        run.begin(1, server.ws_url());
        let conditions = Conditions { in_flight_min: usize::MAX, ..Conditions::default() };
        Self { server, rng, run, agents, scopes, lives: 1, conditions }
    }

    /// To the end, and judges it.
    async fn run(mut self, kills: u32) {
        let run = Arc::clone(&self.run);
        self.until("everyone who shall sleep sleeps", || run.asleep.load(Ordering::Relaxed) == SLEEPERS).await;
        let before = run.acknowledged(0);
        while self.conditions.kills < kills {
            self.kill_under_load().await;
            self.start_again().await;
        }
        self.wake_the_sleepers(before).await;
        self.come_to_rest().await;
        run.feel(Mood::Over);
        self.server.kill9();
        let mut agents = Vec::new();
        for agent in self.agents {
            agents.push(agent.await.expect("an agent comes to its end"));
        }
        let history = telling::history(&self.server.data(), &self.scopes, agents).await;
        let sent: usize = history.agents.iter().map(|agent| agent.diary.sent.len()).sum();
        eprintln!("{sent} commands, {} frames, {:?}", run.frames.load(Ordering::Relaxed), self.conditions);
        check(&history, &run.tally).unwrap_or_else(|broken| panic!("{broken:#}"));
        self.conditions.met(kills);
        conditions::reached(&history, &run.tally);
    }

    async fn kill_under_load(&mut self) {
        self.pause(1_500).await;
        self.run.feel(Mood::Hurry);
        self.pause(60).await;
        let run = Arc::clone(&self.run);
        self.until("there is enough to kill", || run.in_flight() >= IN_FLIGHT_MIN).await;
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
            self.run.begin(self.lives, self.server.ws_url());
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
        self.until("enough was missed", || run.acknowledged(0) - before >= GAP_MIN).await;
        for number in 0..SLEEPERS {
            run.wake(number + 1);
            self.until("who slept is back", || lock(&run.woken).len() > number).await;
        }
        self.conditions.woken.clone_from(&lock(&run.woken));
    }

    /// Everyone is in, has heard everything, and nothing more happens.
    async fn come_to_rest(&mut self) {
        let (run, began) = (Arc::clone(&self.run), Instant::now());
        let all_in = || run.states.iter().all(|state| state.settled.load(Ordering::Relaxed));
        run.feel(Mood::Ending);
        self.until("everyone is back", all_in).await;
        run.feel(Mood::Farewell);
        let fleets = FLEETS.iter().flat_map(|(_, _, size)| std::iter::repeat_n(*size, *size));
        let heard = || {
            let words = run.states.iter().map(|state| state.last_words.load(Ordering::Relaxed));
            words.eq(fleets.clone())
        };
        self.until("everyone has heard everyone's last word", heard).await;
        let (mut frames, mut since) = (0, Instant::now());
        self.until("nothing more happens", || {
            let now = run.frames.load(Ordering::Relaxed);
            if std::mem::replace(&mut frames, now) != now {
                since = Instant::now();
            }
            since.elapsed() > QUIET && began.elapsed() > AFTERMATH && all_in()
        })
        .await;
    }

    /// Any time below this.
    async fn pause(&mut self, millis: u64) {
        tokio::time::sleep(Duration::from_millis(self.rng.below(millis))).await;
    }

    async fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let patience = Instant::now() + PATIENCE;
        while !is_so() {
            let states = || self.run.states.iter().enumerate().collect::<Vec<_>>();
            assert!(Instant::now() < patience, "not in time: {what}; of the agents {:?}", states());
            assert!(!self.agents.iter().any(JoinHandle::is_finished), "an agent ended before {what}");
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
    }
}

fn people(run: &Arc<Run>, rng: &mut Rng) -> Vec<JoinHandle<history::Agent>> {
    let fleets = FLEETS.iter().enumerate().flat_map(|(fleet, (_, _, size))| std::iter::repeat_n(fleet, *size));
    let clients = fleets.enumerate().map(|(number, fleet)| {
        let mut client = Client::new(number, fleet, number == HEAVY, rng);
        // Some look on in every way.
        client.presence = ["none", "none", "each", "delta"][number % 4];
        client
    });
    let clients: Vec<Client> = clients.collect();
    let names = |fleet| clients.iter().filter(move |peer| peer.fleet == fleet).map(|peer| peer.name.clone());
    let peers: Vec<Vec<String>> = (0..FLEETS.len()).map(|fleet| names(fleet).collect()).collect();
    let spawned = clients.into_iter().map(|client| {
        let (number, peers) = (client.number, peers[client.fleet].clone());
        let agent = Agent::new(Arc::clone(run), client, peers, rng.fork());
        if number < SLEEPERS { tokio::spawn(agent.sleep(number)) } else { tokio::spawn(agent.live()) }
    });
    spawned.collect()
}

fn id<T: std::str::FromStr>(text: &Value) -> T {
    let id = text.as_str().and_then(|text| text.parse().ok());
    id.expect("the ready line has ids")
}
