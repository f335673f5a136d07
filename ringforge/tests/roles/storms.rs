//! What comes all at once, or for long: members of the projectors' group that come and go, an edge that ends under load, read models
//! that are locked. Nothing stalls for good, and whatever was acknowledged is there.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    apart,
    cluster::Servers,
    support::{Client, Got, Options, Server},
};

/// How soon after a storm everything is level again: whoever was killed last is missed after six seconds.
const LEVEL: Duration = Duration::from_secs(40);
/// How long a test may wait for what must come.
const PATIENCE: Duration = Duration::from_secs(90);
/// Commands that an edge is sent which is told to end.
const SENT: u32 = 300;
/// Sooner than a client of the tests gives up.
const REPLY_TIMEOUT: (&str, &str) = ("RINGFORGE__TIMING__REPLY_TIMEOUT_MS", "3000");

fn set(number: u32) -> Value {
    json!({ "type": "memory", "action": "set", "key": format!("k/{number}"), "value": number, "ref": number })
}

/// Asks until it is acknowledged: a repetition sets the same.
async fn acknowledged(agent: &mut Client, number: u32) {
    let begun = Instant::now();
    while agent.ask(&set(number)).await["event"] != "set_ok" {
        assert!(begun.elapsed() < PATIENCE, "{number} is never acknowledged");
    }
}

/// How many keys there are.
async fn count(agent: &mut Client) -> usize {
    let (mut found, mut cursor) = (0, Value::Null);
    loop {
        let mut list = json!({ "type": "memory", "action": "list", "prefix": "k/", "limit": 100, "ref": "list" });
        if cursor.is_string() {
            list["cursor"] = cursor;
        }
        let page = agent.ask(&list).await;
        found += page["entries"].as_array().unwrap_or_else(|| panic!("a page: {page}")).len();
        cursor = page["next_cursor"].clone();
        if !cursor.is_string() {
            return found;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn projectors_that_come_and_go_all_the_time_stall_nothing() {
    let name = "projectors_that_come_and_go_all_the_time_stall_nothing";
    let Some(mut server) = apart(name, &[REPLY_TIMEOUT]) else { return };
    let (url, key) = (server.ws_url().to_owned(), server.first_key().to_owned());
    let (mut agent, _) = Client::enter(&url, &key, "ada", json!({ "presence": "none" })).await;
    let (storms, done) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU32::new(0)));
    let writer = tokio::spawn({
        let (storms, done) = (Arc::clone(&storms), Arc::clone(&done));
        async move {
            while storms.load(Ordering::Relaxed) {
                acknowledged(&mut agent, done.load(Ordering::Relaxed)).await;
                done.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            agent
        }
    });
    let projectors = Server::numbers("projectors");
    for at in 0..7 {
        let one = projectors[at % projectors.len()];
        tokio::task::block_in_place(|| {
            server.kill9_one(one);
            server.restart_one(one);
        });
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let (calm, so_far) = (Instant::now(), done.load(Ordering::Relaxed));
    // Two more: the first may have been on its way.
    while done.load(Ordering::Relaxed) < so_far + 2 {
        assert!(calm.elapsed() < LEVEL, "nothing is acknowledged any more");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    storms.store(false, Ordering::Relaxed);
    let mut agent = writer.await.expect("every command is acknowledged");
    assert_eq!(count(&mut agent).await, done.load(Ordering::Relaxed) as usize);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_ends_under_load_answers_whatever_it_took() {
    let Some(mut server) = apart("an_edge_that_ends_under_load_answers_whatever_it_took", &[]) else { return };
    let [ends, stays] = *Server::numbers("edge") else { panic!("there are two edges") };
    let url = |server: &Server, edge: usize| server.ready_of(edge)["ws_url"].as_str().expect("an address").to_owned();
    let (mut agent, _) =
        Client::enter(&url(&server, ends), server.first_key(), "ada", json!({ "presence": "none" })).await;
    let (mut acked, mut unknown, mut closed) = (0, 0, None);
    for number in 0..SENT {
        agent.send(&set(number)).await;
        if number == SENT / 2 {
            agent.frame_where(|frame| frame["event"] == "set_ok").await;
            acked = 1;
            server.signal(ends, "TERM");
        }
    }
    while closed.is_none() {
        match agent.next(PATIENCE).await {
            Got::Frame(frame) if frame["event"] == "set_ok" => acked += 1,
            // What is not decided in time may yet be done.
            Got::Frame(frame) if frame["outcome"] == "unknown" => unknown += 1,
            Got::Frame(_) => {}
            Got::Closed(code) => closed = Some(code),
            Got::Nothing => panic!("neither a frame nor a goodbye"),
        }
    }
    assert_eq!(closed, Some(1012));
    let begun = Instant::now();
    while server.alive_one(ends) {
        assert!(begun.elapsed() < Duration::from_secs(10), "it does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (mut agent, _) =
        Client::enter(&url(&server, stays), server.first_key(), "ben", json!({ "presence": "none" })).await;
    let there = count(&mut agent).await;
    assert!(
        (acked..=acked + unknown).contains(&there),
        "{there} are there; {acked} were acknowledged, {unknown} unknown"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locked_read_models_delay_commands_and_lose_none() {
    let Some(servers) = Servers::of("locked_read_models_delay_commands_and_lose_none") else { return };
    let environment = servers.install();
    let reads = environment.iter().find(|(name, _)| name.ends_with("READS")).map(|(_, url)| url.clone());
    let server = Server::start(Options { environment, apart: true, ..Options::default() });
    let (mut agent, _) = Client::enter(server.ws_url(), server.first_key(), "ada", json!({ "presence": "none" })).await;
    acknowledged(&mut agent, 0).await;
    let locked = "BEGIN; LOCK TABLE ringforge.rows IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(6); COMMIT";
    let mut lock = Command::new("psql");
    let reads = reads.expect("read models");
    lock.arg(&reads).args(["--quiet", "--output", "/dev/null", "--command", locked]);
    let mut lock = lock.spawn().expect("psql runs");
    let held = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted AND relation = 'ringforge.rows'::regclass";
    let begun = Instant::now();
    loop {
        let asked = Command::new("psql").args([&reads, "-Atc", held]).output().expect("psql runs");
        if asked.stdout.starts_with(b"1") {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "the lock is not held: {asked:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let begun = Instant::now();
    agent.send(&set(1)).await;
    // What needs no read models is answered meanwhile.
    let pong = agent.ask(&json!({ "type": "ping", "ref": "ping" })).await;
    assert_eq!(pong["type"], "pong", "{pong}");
    assert!(lock.try_wait().is_ok_and(|ended| ended.is_none()), "it was not answered before: {:?}", begun.elapsed());
    let done = agent.reply(&json!(1)).await;
    assert_eq!(done["event"], "set_ok", "{done}");
    assert!(lock.wait().is_ok_and(|status| status.success()), "the lock was held");
    assert_eq!(count(&mut agent).await, 2);
}
