//! The simulation, second ring: the real accept loop, edge, gate, projector and timers over a network that is late, cut and
//! silent, with the ports in memory. The agents are those of the first ring, over real sockets; the same checkers judge what
//! happened. The seed decides what agents do, how the network is and what goes wrong, but not in which order the
//! runtime wakes what waits: nearly always the same seed is the same life.

#![allow(clippy::disallowed_methods, reason = "a test reads its sizes, and health asks how long the server is up")]

#[path = "turmoil/agent.rs"]
mod agent;
#[path = "turmoil/server.rs"]
mod server;

use std::{rc::Rc, sync::Arc, time::Duration};

use agent::{Agent, Mood, Run};
use ringforge_sim::{check::check, history::History, rng::Rng, tally::Tally, vocabulary::clients::Client};
use server::Installation;
use turmoil::Sim;

/// Where the server is.
const SERVER: &str = "server";
/// Seeds of an ordinary test.
const FEW: u64 = 8;
/// How long things go wrong.
const TROUBLE: Duration = Duration::from_secs(12);
/// How long nothing may happen until all counts as over: what was set to expire has.
const QUIET: Duration = Duration::from_secs(10);
/// Everything ends within this.
const PATIENCE: Duration = Duration::from_mins(5);
/// What a few seeds must have met, as the first ring calls it: a crash, a cut and a network that holds everything back; agents
/// that hang up and come back.
const MET: [&str; 8] = [
    "fault: everything restarted",
    "fault: socket half open",
    "fault: peer reads nothing",
    "fault: socket killed",
    "situation: resume recovered",
    "situation: duplicate answered",
    "situation: memory read after a write was seen",
    "situation: final presence after each change",
];

#[test]
fn a_few_seeds_keep_every_promise() {
    judge_all(FEW);
}

#[test]
#[ignore = "long: make proof"]
fn many_seeds_keep_every_promise() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    match number("RINGFORGE_SEED") {
        Some(seed) => judge(seed, &Tally::default()),
        None => judge_all(number("TURMOIL").unwrap_or(500)),
    }
}

#[test]
fn a_frame_that_is_lost_is_found() {
    let mut history = live(1, &Tally::default());
    let lost = history.agents.iter_mut().filter(|agent| agent.is_in).find_map(|agent| {
        let frames = &mut agent.diary.links.last_mut()?.frames;
        let at = frames.iter().rposition(|frame| frame["type"] == "activity" && frame["event"] == "broadcast")?;
        Some(frames.remove(at))
    });
    assert!(lost.is_some(), "nobody was pushed anything");
    assert!(check(&history, &Tally::default()).is_err(), "nobody misses {lost:?}");
}

fn judge_all(count: u64) {
    let tally = Tally::default();
    (1..=count).for_each(|seed| judge(seed, &tally));
    if count < FEW {
        return;
    }
    let all = tally.all();
    let met = |what: &str| all.iter().any(|(name, count)| name == what && *count > 0);
    let missing: Vec<_> = MET.into_iter().filter(|what| !met(what)).collect();
    assert!(missing.is_empty(), "never met: {missing:?}");
}

fn judge(seed: u64, tally: &Tally) {
    let again = format!(
        "RINGFORGE_SEED={seed} cargo test -p ringforge --test turmoil -- --ignored --exact many_seeds_keep_every_promise"
    );
    let judged = std::panic::catch_unwind(|| check(&live(seed, tally), tally));
    match judged {
        Ok(Ok(())) => {}
        Ok(Err(broken)) => panic!("{broken:#}\nagain: {again}"),
        Err(panic) => {
            eprintln!("again: {again}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// Everything that happens with this seed.
fn live(seed: u64, tally: &Tally) -> History {
    let mut rng = Rng::new(seed);
    let installation = Installation::new(seed);
    let mut sim = turmoil::Builder::new()
        .rng_seed(rng.word())
        .tick_duration(Duration::from_millis(5))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(*rng.pick(&[5, 50, 300])))
        .simulation_duration(2 * PATIENCE)
        .tcp_capacity(1_024)
        .build();
    let installed = Arc::clone(&installation);
    sim.host(SERVER, move || server::serve(Arc::clone(&installed)));
    let run = Rc::new(Run { tally: tally.clone(), ..Run::default() });
    let clients: Vec<Client> = (0..3 + rng.index(3)).map(|number| Client::new(number, 0, false, &mut rng)).collect();
    let peers: Vec<String> = clients.iter().map(|client| client.name.clone()).collect();
    for client in clients {
        run.states.borrow_mut().push(agent::State::default());
        let agent = Agent::new(Rc::clone(&run), client, peers.clone(), installation.api_key(), rng.fork());
        sim.client(peers[agent.number()].as_str(), agent.live());
    }
    trouble(&mut sim, &peers, &mut rng, tally);
    run.mood.set(Mood::Farewell);
    rest(&mut sim, &run);
    run.mood.set(Mood::Over);
    while !step(&mut sim) {}
    installation.tell(run.told.take())
}

fn step(sim: &mut Sim<'_>) -> bool {
    sim.step().expect("nobody fails")
}

fn pass(sim: &mut Sim<'_>, time: Duration) {
    let until = sim.elapsed() + time;
    while sim.elapsed() < until {
        step(sim);
    }
}

/// One thing goes wrong after the other.
fn trouble(sim: &mut Sim<'_>, peers: &[String], rng: &mut Rng, tally: &Tally) {
    while sim.elapsed() < TROUBLE {
        pass(sim, Duration::from_millis(100 + rng.below(1_500)));
        let (peer, time) = (rng.pick(peers).as_str(), Duration::from_millis(20 + rng.below(1_500)));
        match rng.below(4) {
            0 => {
                tally.note("fault: everything restarted");
                sim.crash(SERVER);
                pass(sim, time);
                sim.bounce(SERVER);
            }
            1 => {
                tally.note("fault: socket half open");
                sim.partition(SERVER, peer);
                pass(sim, time);
                sim.repair(SERVER, peer);
            }
            _ => {
                tally.note("fault: peer reads nothing");
                sim.hold(SERVER, peer);
                pass(sim, time);
                sim.release(SERVER, peer);
            }
        }
    }
}

/// Until everyone is in and has said and heard everything.
fn rest(sim: &mut Sim<'_>, run: &Run) {
    let (began, mut frames, mut since) = (sim.elapsed(), 0, sim.elapsed());
    loop {
        step(sim);
        let now = sim.elapsed();
        assert!(now < began + PATIENCE, "it does not come to rest: {:?}", run.states.borrow());
        if std::mem::replace(&mut frames, run.frames.get()) != run.frames.get() || !run.is_settled() {
            since = now;
        }
        if now > since + QUIET {
            return;
        }
    }
}
