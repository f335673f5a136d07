//! Those who connect and never say who they are, in every way in which one can take one's time: each is gone at its deadline,
//! however busy it looks, and whoever is honest comes in meanwhile.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use ringforge_domain::limits::{HEADER_BYTES_MAX, HEADERS_MAX};
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    alone,
    process::{Process, raise_open_files},
    raw::{self, KEY, Op, Raw},
    support::{Client, Options, Server},
    until,
};

/// From accept to upgrade, and from there to `auth`, in these tests.
const DEADLINE: Duration = Duration::from_secs(1);
/// How long after it a connection may still be there on a busy machine: a goodbye takes two seconds at most.
const LATE: Duration = Duration::from_secs(4);
/// Of each kind.
const EACH: usize = 8;
/// From accept to upgrade, in that test: long enough to have all of them there at once.
const MANY_DEADLINE: Duration = Duration::from_secs(30);
/// Tasks that connect.
const TASKS: usize = 16;
/// Sockets of the long test that connect and say nothing.
const MANY: usize = 10_000;
/// So many of them come from one address.
const AN_ADDRESS: usize = 2_500;
/// Memory that one of them may cost, in kB: with its task and its buffers.
const KB_EACH: u64 = 32;

/// What a stranger does with its connection until it is cut off.
type Habit = Box<dyn Fn(Raw) -> Pin<Box<dyn Future<Output = ()> + Send>>>;

fn habit<T: Future<Output = ()> + Send + 'static>(habit: fn(Raw) -> T) -> Habit {
    Box::new(move |raw| Box::pin(habit(raw)))
}

/// Strangers with these habits, behind an upgrade or before it, are gone at their deadline as far as the server is concerned,
/// and an honest agent comes in before.
async fn are_gone_in_time(habits: &[Habit], upgraded: bool) {
    let ms = DEADLINE.as_millis();
    let config = format!("[timing]\nupgrade_timeout_ms = {ms}\nauth_timeout_ms = {ms}\n");
    let server = Server::start(Options { config, ..Options::default() });
    let (process, begun) = (Process(server.pid()), Instant::now());
    let (before, mut strangers) = (process.open_files(), JoinSet::new());
    for habit in habits.iter().flat_map(|habit| [habit; EACH]) {
        let raw = if upgraded { Raw::open(&server).await } else { Raw::connect(&server, "127.0.0.1").await };
        strangers.spawn(habit(raw));
    }
    let (mut honest, _) = Client::enter(server.ws_url(), server.first_key(), "honest", json!({})).await;
    assert_eq!(honest.ask(&json!({ "type": "ping", "ref": 1 })).await["type"], "pong");
    assert!(begun.elapsed() < DEADLINE, "an honest agent came in only after {:?}", begun.elapsed());
    assert!(process.open_files() > before + EACH, "there are strangers");
    honest.close().await;
    until("they are all gone", async || {
        assert!(begun.elapsed() < DEADLINE + LATE, "{} connections are still there", process.open_files() - before);
        process.open_files() <= before
    })
    .await;
}

async fn says_nothing(_raw: Raw) {
    std::future::pending::<()>().await;
}

async fn writes_its_head_byte_by_byte(mut raw: Raw) {
    raw.send(b"GET /ws HTTP/1.1\r\nHost: a\r\nX-Slow: ").await;
    loop {
        raw.send(b"x").await;
        tokio::time::sleep(DEADLINE / 10).await;
    }
}

async fn asks_for_health_again_and_again(mut raw: Raw) {
    loop {
        raw.send(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await;
        tokio::time::sleep(DEADLINE / 10).await;
    }
}

async fn asks_for_much_and_reads_nothing(mut raw: Raw) {
    let requests = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1_000);
    loop {
        raw.send(&requests).await;
        tokio::task::yield_now().await;
    }
}

async fn sends_a_body_without_end(mut raw: Raw) {
    raw.send(b"POST /ws HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n").await;
    loop {
        raw.send(&[b'x'; 1_000]).await;
        tokio::time::sleep(DEADLINE / 100).await;
    }
}

#[tokio::test]
async fn whoever_never_upgrades_is_cut_off_at_its_deadline() {
    let _alone = alone().await;
    let habits = [
        habit(says_nothing),
        habit(writes_its_head_byte_by_byte),
        habit(asks_for_health_again_and_again),
        habit(asks_for_much_and_reads_nothing),
        habit(sends_a_body_without_end),
    ];
    are_gone_in_time(&habits, false).await;
}

async fn authenticates_byte_by_byte(mut raw: Raw) {
    let auth = json!({ "type": "auth", "agent": { "name": "slow" } }).to_string();
    for byte in raw::text(&auth) {
        raw.send(&[byte]).await;
        tokio::time::sleep(DEADLINE / 10).await;
    }
}

async fn authenticates_in_fragments(mut raw: Raw) {
    raw.send(&raw::frame(Op::Text, false, b"{")).await;
    loop {
        raw.send(&raw::frame(Op::Continuation, false, b" ")).await;
        tokio::time::sleep(DEADLINE / 10).await;
    }
}

async fn shows_signs_of_life(mut raw: Raw) {
    loop {
        raw.send(&raw::frame(Op::Ping, true, b"")).await;
        tokio::time::sleep(DEADLINE / 5).await;
    }
}

#[tokio::test]
async fn whoever_never_authenticates_is_cut_off_at_its_deadline() {
    let _alone = alone().await;
    let habits = [
        habit(says_nothing),
        habit(authenticates_byte_by_byte),
        habit(authenticates_in_fragments),
        habit(shows_signs_of_life),
    ];
    are_gone_in_time(&habits, true).await;
}

#[tokio::test]
async fn heads_are_bounded_and_what_stands_behind_one_is_taken_in_order() {
    let server = Server::plain();
    let whole = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", KEY];
    let more = |count: usize| (0..count).map(|number| format!("X-{number}: x")).collect::<Vec<_>>();
    let ask = async |more: &[String]| {
        let lines: Vec<&str> = whole.into_iter().chain(more.iter().map(String::as_str)).collect();
        raw::ask(&server, "GET /ws HTTP/1.1", &lines).await
    };
    // `Host` is one of them.
    let room = HEADERS_MAX - whole.len() - 1;
    assert!(ask(&more(room)).await.starts_with("HTTP/1.1 101 "), "as many headers as may be");
    assert!(ask(&more(room + 1)).await.starts_with("HTTP/1.1 431 "), "one more");
    let long = |bytes: usize| vec![format!("X-Long: {}", "x".repeat(bytes))];
    assert!(ask(&long(HEADER_BYTES_MAX - 512)).await.starts_with("HTTP/1.1 101 "), "nearly as long as may be");
    assert!(ask(&long(HEADER_BYTES_MAX)).await.starts_with("HTTP/1.1 431 "), "too long");

    // Two requests, the upgrade and what comes after it in one segment.
    let health = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
    let upgrade = format!("GET /ws HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n", whole.join("\r\n"));
    let auth = json!({ "type": "auth", "api_key": server.first_key(), "agent": { "name": "hasty" } });
    let mut raw = Raw::connect(&server, "127.0.0.1").await;
    raw.send(&[health.repeat(2).as_bytes(), upgrade.as_bytes(), &raw::text(&auth.to_string())].concat()).await;
    for status in ["200", "200", "101"] {
        let answer = raw.answer().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    raw.frame_where(|frame| frame["type"] == "auth_ok").await;
    // Behind an upgrade there are no more requests.
    let mut raw = Raw::connect(&server, "127.0.0.1").await;
    raw.send(&[upgrade.as_bytes(), health.as_bytes()].concat()).await;
    assert!(raw.answer().await.starts_with("HTTP/1.1 101 "));
    assert_eq!(raw.closed().await, 1002);
}

/// As many as this machine allows, up to [`MANY`].
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make proof"]
async fn ten_thousand_that_connect_and_say_nothing_keep_nobody_out() {
    let _alone = alone().await;
    let files = usize::try_from(raise_open_files(2 * MANY as u64)).expect("a small number");
    let many = MANY.min(files - 500);
    let config = format!("[timing]\nupgrade_timeout_ms = {}\n", MANY_DEADLINE.as_millis());
    let server = Arc::new(Server::start(Options { config, ..Options::default() }));
    let process = Process(server.pid());
    let (mut ada, _) = Client::enter(server.ws_url(), server.first_key(), "ada", json!({})).await;
    let (before, memory) = (process.open_files(), process.resident_mb());
    let (begun, mut connecting) = (Instant::now(), JoinSet::new());
    for task in 0..TASKS {
        let server = Arc::clone(&server);
        connecting.spawn(async move {
            let mut some = Vec::new();
            for number in (task..many).step_by(TASKS) {
                some.push(Raw::connect(&server, &format!("127.0.0.{}", 1 + number / AN_ADDRESS)).await);
            }
            some
        });
    }
    let crowd = connecting.join_all().await;
    let connected = begun.elapsed();
    let (mut slowest, mut most, mut memory_most) = (Duration::ZERO, 0, 0);
    // Until all but those that are in are gone.
    while process.open_files() > before + 1 {
        assert!(
            begun.elapsed() < connected + MANY_DEADLINE + LATE,
            "{} are still there",
            process.open_files() - before
        );
        let since = Instant::now();
        let (honest, _) = Client::enter(server.ws_url(), server.first_key(), "honest", json!({})).await;
        honest.close().await;
        assert_eq!(
            ada.ask(&json!({ "type": "memory", "action": "set", "key": "k", "value": 1, "ref": 1 })).await["event"],
            "set_ok"
        );
        slowest = slowest.max(since.elapsed());
        (most, memory_most) = (most.max(process.open_files() - before), memory_most.max(process.resident_mb()));
    }
    let memory = memory_most.saturating_sub(memory);
    println!(
        "{many} connected in {connected:?}, {most} at once: {memory} MB; an honest agent took {slowest:?} at most"
    );
    // With a backlog of 128 they take longer than the first of them may stay.
    assert!(most > many * 9 / 10, "they were there at once: {most}");
    assert!(memory * 1_000 < KB_EACH * most as u64, "{memory} MB for {most}");
    assert!(slowest < MANY_DEADLINE / 10, "an honest agent and a command took {slowest:?}");
    drop(crowd);
}
