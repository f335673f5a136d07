//! Every point of the ports on the real binary, once each: the process ends there, the call fails there, the call is late
//! there. Under load nothing acknowledged is lost, nothing refused takes effect, what is repeated has one effect and one
//! answer, whoever watches sees every event once and in order; and the server is itself again without help.

#![allow(clippy::disallowed_methods, reason = "a test runs on the machine's clock")]

#[path = "failpoints/asker.rs"]
mod asker;
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
    collections::{BTreeSet, VecDeque},
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use observer::{Observer, Seen};
use ringforge_domain::ids::Scope;
use ringforge_ports::{
    names,
    points::{Call, Point, Side},
};
use run::{END, OBSERVERS, Run, TAG};
use serde_json::{Value, json};
use support::{Client, Options, SOON, Server};
use writer::{Act, Sent, Writer};

/// Clients that write.
const WRITERS: usize = 3;
/// Answers before and after the fault.
const ANSWERS: u64 = 60;
/// Servers at a time.
const AT_ONCE: usize = 6;
/// Passages of each point that a first start may end at.
const STARTS: u64 = 8;
/// What never happens in the product, and why.
const UNREACHABLE: [(Call, &str); 1] = [(Call::LogTrim, "nothing is trimmed until there are checkpoints")];
/// Shorter than [`DELAY`]: what is late is late for those who wait for it.
const CONFIG: &str = "[timing]\nreply_timeout_ms = 600\nleave_grace_ms = 100\n";
const DELAY: &str = "delay:1000";

fn points() -> impl Iterator<Item = Point> {
    Point::ALL.into_iter().filter(|point| UNREACHABLE.iter().all(|(call, _)| point.call != *call))
}

#[test]
fn where_it_matters_most_a_server_may_end() {
    let all = [Call::LogAppend, Call::LogRead, Call::ReadsCommit, Call::LivePublish];
    let points = points().filter(|point| all.contains(&point.call) && point.side == Side::After);
    for_each(points, |point| holds(point, "exit"));
}

#[test]
#[ignore = "long: make proof"]
fn a_server_may_end_at_every_point() {
    for_each(points(), |point| holds(point, "exit"));
}

#[test]
#[ignore = "long: make proof"]
fn a_call_may_fail_at_every_point() {
    for_each(points(), |point| holds(point, "error"));
}

#[test]
#[ignore = "long: make proof"]
fn a_call_may_be_late_at_every_point() {
    for_each(points(), |point| holds(point, DELAY));
}

#[test]
#[ignore = "long: make proof"]
fn a_first_start_may_end_at_every_point() {
    let ended = AtomicU64::new(0);
    for_each(points(), |point| {
        let mut server = Server::plain();
        for passage in 1..=STARTS {
            server.kill9();
            server.lose_the_log();
            fs::remove_file(server.data().join(names::CREDENTIALS_FILE)).expect("it is deleted");
            server.with_options(|options| options.faults = vec![format!("{point}=exit@start+{passage}")]);
            if server.try_restart().is_ok() {
                break;
            }
            ended.fetch_add(1, Ordering::Relaxed);
            server.with_options(|options| options.faults.clear());
            server.restart();
            block_on(works(&server));
        }
    });
    println!("{ended:?} starts ended");
    assert!(ended.into_inner() >= 10, "few starts came to their end");
}

/// Whoever comes in can write and read.
async fn works(server: &Server) {
    let (mut client, _) = Client::enter(server.ws_url(), server.first_key(), "a", json!({})).await;
    let set = json!({ "type": "memory", "action": "set", "key": "k", "value": 1, "ref": 1 });
    assert_eq!(client.ask(&set).await["event"], "set_ok");
    let get = json!({ "type": "memory", "action": "get", "key": "k", "ref": 2 });
    assert_eq!(client.ask(&get).await["entry"]["value"], 1);
}

/// Checks all of them, some at a time, and tells which failed.
fn for_each(points: impl Iterator<Item = Point>, check: impl Fn(Point) + Sync) {
    let (points, failed) = (Mutex::new(points.collect::<VecDeque<_>>()), Mutex::new(Vec::new()));
    let next = || points.lock().expect("no panic while the lock is held").pop_front();
    std::thread::scope(|threads| {
        for _ in 0..AT_ONCE {
            threads.spawn(|| {
                while let Some(point) = next() {
                    if catch_unwind(AssertUnwindSafe(|| check(point))).is_err() {
                        failed.lock().expect("no panic while the lock is held").push(point.to_string());
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no panic while the lock is held");
    assert!(failed.is_empty(), "{} points failed: {failed:?}", failed.len());
}

fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work);
}

/// A passage that happens under the load: most calls are made all the time, others a few times a second.
fn passage(point: Point) -> u64 {
    let all_the_time =
        [Call::LogAppend, Call::LogRead, Call::ReadsCommit, Call::ReadsLoad, Call::LivePublish, Call::LiveHear];
    if all_the_time.contains(&point.call) { 30 } else { 5 }
}

fn holds(point: Point, act: &str) {
    block_on(under_load(point, act));
}

async fn under_load(point: Point, act: &str) {
    let fleets = ["default".to_owned()].into_iter().chain((0..asker::FLEETS).map(|at| format!("fleet-{at}")));
    let tenants = vec![("dev".to_owned(), fleets.collect())];
    let mut server = Server::start(Options { config: CONFIG.to_owned(), tenants, ..Options::default() });
    let run = Arc::new(Run::new(server.first_key(), 1));
    let mut watching = Vec::new();
    for name in OBSERVERS {
        let (observer, client) = Observer::enter(Arc::clone(&run), server.ws_url(), name).await;
        watching.push(tokio::spawn(observer.watch(client)));
    }
    run.begin(server.ws_url());
    let writing: Vec<_> =
        (0..WRITERS).map(|number| tokio::spawn(Writer::new(Arc::clone(&run), number).write())).collect();
    let keys = (0..asker::FLEETS).map(|at| server.key("dev", &format!("fleet-{at}")).to_owned()).collect();
    let asking = tokio::spawn(asker::ask(Arc::clone(&run), keys));
    answered(&run, &format!("before {point}={act}")).await;

    // Whoever is inside now comes back, so that the fault also meets those who do.
    server.kill9();
    server.with_options(|options| options.faults = vec![format!("{point}={act}@{}", passage(point))]);
    server.restart();
    run.begin(server.ws_url());
    struck(&server, point).await;
    server.with_options(|options| options.faults.clear());
    if act == "exit" {
        assert_eq!(server.ended(), None, "it was to end as if killed");
        server.restart();
        run.begin(server.ws_url());
    }
    answered(&run, &format!("after {point}={act}")).await;

    run.stopping.store(true, Ordering::Relaxed);
    let mut sent: Vec<Sent> = Vec::new();
    for writer in writing {
        sent.extend(writer.await.expect("a writer comes to its end"));
    }
    sent.sort_by(|one, other| one.name.cmp(&other.name));
    asking.await.expect("whoever asks comes to an end");
    let (mut reader, _) = Client::enter(server.ws_url(), &run.key, "reader", json!({ "presence": "none" })).await;
    let end = json!({ "type": "activity", "action": "broadcast", "scope": "tagged", "tags": [TAG], "ref": 1,
        "kind": "custom", "description": END });
    assert_eq!(reader.ask(&end).await["event"], "broadcast_ok");
    let mut seen = Vec::new();
    for observer in watching {
        seen.push(observer.await.expect("an observer comes to its end"));
    }
    check_all(&mut server, &mut reader, &sent, &seen).await;
}

/// Waits until more commands are answered.
async fn answered(run: &Run, when: &str) {
    let (answered, deadline) = (run.answered.load(Ordering::Relaxed), Instant::now() + 3 * SOON);
    while run.answered.load(Ordering::Relaxed) < answered + ANSWERS {
        assert!(Instant::now() < deadline, "commands are no longer answered {when}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until the fault has happened.
async fn struck(server: &Server, point: Point) {
    let (said, deadline) = (format!("\"point\":\"{point}\""), Instant::now() + 2 * SOON);
    while !server.stderr().contains(&said) {
        assert!(Instant::now() < deadline, "{point} is not passed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn check_all(server: &mut Server, reader: &mut Client, sent: &[Sent], seen: &[Seen]) {
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
    let fleet = server.ready["tenants"][0].clone();
    assert_eq!(server.terminate(), Some(0));
    let scope = Scope { tenant: id(&fleet["id"]), fleet: id(&fleet["fleets"][0]["id"]) };
    check::by_the_log(&check::logged(&server.data(), scope).await, sent);
}

fn id<T: std::str::FromStr>(text: &Value) -> T {
    let id = text.as_str().and_then(|text| text.parse().ok());
    id.expect("the ready line has ids")
}
