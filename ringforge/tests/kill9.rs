//! `kill -9` under load, ten times: what was acknowledged is there, what was refused is not, and whoever watches sees
//! everything once and in one order. The run says which conditions it met; one that missed them fails.

#![allow(clippy::disallowed_methods, reason = "a test runs on the machine's clock")]

#[path = "kill9/check.rs"]
mod check;
#[path = "kill9/observer.rs"]
mod observer;
#[path = "kill9/run.rs"]
mod run;
#[path = "support.rs"]
mod support;
#[path = "kill9/writer.rs"]
mod writer;

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use observer::{Observer, Seen};
use ringforge_domain::{ids::Scope, limits::TAIL_UPDATES_MAX};
use run::{END, OBSERVERS, Random, Run, TAG};
use serde_json::{Value, json};
use support::{Client, Got, SOON, Server};
use writer::{Act, Known, Sent, Writer};

/// Clients that write.
const WRITERS: usize = 20;
/// Kills of one run.
const KILLS: u32 = 10;
/// Commands in flight at each kill, at least.
const IN_FLIGHT_MIN: i64 = 64;
/// Agents that miss most of the run. Each comes back while the load goes on; one of them must meet [`RATE_MIN`].
const SLEEPERS: usize = 3;
/// Events that a sleeper misses, at least: ten times what an edge keeps in memory.
const GAP_MIN: u64 = 10 * TAIL_UPDATES_MAX as u64;
/// Events a second that arrive while a sleeper comes back, at least.
const RATE_MIN: f64 = 500.0;
/// How long any condition may take to be met.
const PATIENCE: Duration = Duration::from_mins(1);

/// What a run was like.
#[derive(Debug, Default)]
struct Conditions {
    kills: u32,
    in_flight_min: i64,
    gap_min: u64,
    lives_slept: u32,
    rate_best: f64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_kills_under_load_lose_nothing_and_invent_nothing() {
    let seed = seed();
    println!("seed: RINGFORGE_SEED={seed}");
    let mut server = Server::plain();
    let fleet = server.ready["tenants"][0].clone();
    let run = Arc::new(Run::new(server.first_key(), seed));

    let mut watching = Vec::new();
    for name in OBSERVERS {
        let (observer, client) = Observer::enter(Arc::clone(&run), server.ws_url(), name).await;
        watching.push(tokio::spawn(observer.watch(client)));
    }
    let mut asleep = Vec::new();
    for number in 0..SLEEPERS {
        asleep.push(Observer::enter(Arc::clone(&run), server.ws_url(), &format!("sleeper-{number}")).await);
    }
    run.begin(server.ws_url());
    let writing: Vec<_> =
        (0..WRITERS).map(|number| tokio::spawn(Writer::new(Arc::clone(&run), number).write())).collect();
    let mut sleepers = Vec::new();
    for (mut sleeper, client) in asleep {
        fall_asleep(&mut sleeper, client).await;
        sleepers.push(sleeper);
    }

    let mut conditions = Conditions { in_flight_min: i64::MAX, gap_min: u64::MAX, ..Conditions::default() };
    kill_again_and_again(&run, &mut server, &mut conditions).await;
    for mut sleeper in sleepers {
        let client = if conditions.rate_best < RATE_MIN {
            wake_up(&run, &server, &mut sleeper, &mut conditions).await
        } else {
            sleeper.resume(server.ws_url()).await.expect("the server is up")
        };
        watching.push(tokio::spawn(sleeper.watch(client)));
    }

    run.stopping.store(true, Ordering::Relaxed);
    let mut sent: Vec<Sent> = Vec::new();
    for writer in writing {
        sent.extend(writer.await.expect("a writer comes to its end"));
    }
    sent.sort_by(|one, other| one.name.cmp(&other.name));
    let mut shown = Vec::new();
    let (mut reader, _) = Client::enter(server.ws_url(), &run.key, "reader", json!({ "presence": "none" })).await;
    let end = json!({ "type": "activity", "action": "broadcast", "scope": "tagged", "tags": [TAG], "ref": 1,
        "kind": "custom", "description": END });
    assert_eq!(reader.ask(&end).await["event"], "broadcast_ok");
    for observer in watching {
        shown.push(observer.await.expect("an observer comes to its end"));
    }
    println!("{} commands, {conditions:?}", sent.len());
    check_outside(&mut reader, &sent, &shown).await;

    assert_eq!(server.terminate(), Some(0));
    let scope = Scope { tenant: id(&fleet["id"]), fleet: id(&fleet["fleets"][0]["id"]) };
    let logged = check::logged(&server.data(), scope).await;
    check::by_the_log(&logged, &sent);
    met(&conditions, &shown);
    reached(&sent);
}

fn seed() -> u64 {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.subsec_nanos().into());
    std::env::var("RINGFORGE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(now)
}

fn id<T: std::str::FromStr>(text: &Value) -> T {
    let id = text.as_str().and_then(|text| text.parse().ok());
    id.expect("the ready line has ids")
}

/// A sleeper sees the load begin, then leaves.
async fn fall_asleep(sleeper: &mut Observer, mut client: Client) {
    while sleeper.seen.events.len() < 10 {
        let Got::Frame(frame) = client.next(SOON).await else { panic!("the load does not begin") };
        sleeper.take(&frame);
    }
    client.close().await;
}

async fn kill_again_and_again(run: &Run, server: &mut Server, conditions: &mut Conditions) {
    let mut random = Random(run.seed);
    while conditions.kills < KILLS {
        tokio::time::sleep(Duration::from_millis(300 + random.below(1_200))).await;
        let patience = Instant::now() + PATIENCE;
        while run.in_flight.load(Ordering::Relaxed) < IN_FLIGHT_MIN {
            assert!(Instant::now() < patience, "too few commands in flight to kill");
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
        let in_flight = run.in_flight.load(Ordering::Relaxed);
        server.kill9();
        conditions.kills += 1;
        conditions.in_flight_min = conditions.in_flight_min.min(in_flight);
        server.restart();
        run.begin(server.ws_url());
    }
    conditions.lives_slept = conditions.kills;
}

/// A sleeper comes back, once it has missed enough, while the load goes on.
async fn wake_up(run: &Arc<Run>, server: &Server, sleeper: &mut Observer, conditions: &mut Conditions) -> Client {
    let last = sleeper.seen.events.last().map_or(0, |(position, _)| *position);
    let head = || run.head.load(Ordering::Relaxed);
    let (answered, patience) = (run.answered.load(Ordering::Relaxed), Instant::now() + PATIENCE);
    while head() - last < GAP_MIN || run.answered.load(Ordering::Relaxed) == answered {
        assert!(Instant::now() < patience, "the sleeper has missed too little: {} of {GAP_MIN}", head() - last);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    conditions.gap_min = conditions.gap_min.min(head() - last);
    // One fleet only: its positions count its events.
    let (before, since) = (head(), Instant::now());
    let mut client = sleeper.resume(server.ws_url()).await.expect("the server is up");
    loop {
        let Got::Frame(frame) = client.next(SOON).await else { panic!("the resume broke off") };
        sleeper.take(&frame);
        if frame["event"] == "resumed" {
            break;
        }
    }
    let arrived = u32::try_from(head() - before).expect("a small number");
    conditions.rate_best = conditions.rate_best.max(f64::from(arrived) / since.elapsed().as_secs_f64());
    client
}

fn met(conditions: &Conditions, seen: &[Seen]) {
    assert_eq!(conditions.kills, KILLS);
    assert!(conditions.in_flight_min >= IN_FLIGHT_MIN, "{conditions:?}");
    assert!(conditions.gap_min >= GAP_MIN, "{conditions:?}");
    assert!(conditions.lives_slept >= 1, "{conditions:?}");
    assert!(conditions.rate_best >= RATE_MIN, "{conditions:?}");
    assert!(seen[..2].iter().all(|seen| seen.resumes >= KILLS / 2), "observers came back after kills");
}

/// A run that never got into these situations shows nothing about them.
fn reached(sent: &[Sent]) {
    let some = |what: &str, is: &dyn Fn(&Sent) -> bool| assert!(sent.iter().any(is), "no {what} in this run");
    let code = |sent: &Sent, wanted: &str| matches!(&sent.known, Known::Refused(reply) if reply["code"] == wanted);
    let duplicate = |sent: &Sent| matches!(&sent.known, Known::Acked(reply) if reply["duplicate"] == true);
    some("conflict", &|sent| code(sent, "conflict"));
    some("delete of nothing", &|sent| code(sent, "not_found"));
    some("delete", &|sent| matches!((&sent.act, &sent.known), (Act::Delete { .. }, Known::Acked(_))));
    some("command that stayed unknown", &|sent| matches!(sent.known, Known::Unknown));
    some("command that was repeated and had taken effect", &duplicate);
    some("command that was repeated and had not", &|sent| {
        sent.times > 1 && matches!(sent.known, Known::Acked(_)) && !duplicate(sent)
    });
}

async fn check_outside(reader: &mut Client, sent: &[Sent], seen: &[Seen]) {
    let keys: BTreeSet<String> = sent
        .iter()
        .filter_map(|sent| match &sent.act {
            Act::Set { key, .. } | Act::Count { key } | Act::Delete { key, .. } => Some(key.clone()),
            Act::Broadcast | Act::Direct { .. } => None,
        })
        .collect();
    let record = check::Record::read(reader, &keys).await;
    let messages = seen.iter().flat_map(Seen::named_in_messages).collect();
    check::commands(&record, sent, &messages);
    check::versions(&record, sent);
    for seen in seen {
        check::observed(&record, seen);
    }
    assert!(seen[0].events == seen[1].events, "two observers agree on everything, its order included");
    for sleeper in &seen[2..] {
        assert!(seen[0].events == sleeper.events, "who slept saw what those saw who watched");
    }
}
