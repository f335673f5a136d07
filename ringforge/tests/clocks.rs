//! A wall clock that jumps by an hour, ahead and back, while agents are connected and between two lives of a server: commands
//! are acknowledged, what is due comes due, presence and resume work, and time never falls.

#![allow(clippy::disallowed_methods, reason = "a test runs on the machine's clock")]
#![cfg(target_os = "linux")]

#[path = "support.rs"]
mod support;

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use ringforge_domain::position::LogTime;
use serde_json::{Value, json};
use support::{Client, Got, Options, SOON, Server};

/// In microseconds.
const HOUR: i64 = 3_600_000_000;
/// Silence of 3 s ends a connection.
const CONFIG: &str = "[timing]\nping_interval_ms = 1000\nsilence_timeout_ms = 3000\nleave_grace_ms = 100\n";
const SILENCE: Duration = Duration::from_secs(3);
const TTL: Duration = Duration::from_secs(1);
/// How much later than at its time something may be seen on a busy machine.
const SLACK: Duration = Duration::from_secs(2);

/// A server whose wall clock is this far from the machine's.
struct Shifted {
    server: Server,
    by: File,
    /// Holds the file, and what reads it.
    _folder: tempfile::TempDir,
}

impl Shifted {
    /// `None`, and the test says so, where there is no compiler.
    fn start(by: i64) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let shim = shim(folder.path())?;
        let path = folder.path().join("by");
        fs::write(&path, by.to_ne_bytes()).expect("it is written");
        let text = |path: &Path| path.to_str().expect("text").to_owned();
        let environment = vec![("LD_PRELOAD".to_owned(), text(&shim)), ("SHIFTED_BY".to_owned(), text(&path))];
        let server = Server::start(Options { config: CONFIG.to_owned(), environment, ..Options::default() });
        let by = File::options().write(true).open(path).expect("it is there");
        Some(Self { server, by, _folder: folder })
    }

    /// Its clock jumps to this far from the machine's.
    fn shift(&self, by: i64) {
        self.by.write_all_at(&by.to_ne_bytes(), 0).expect("it is written");
    }

    async fn enter(&self, name: &str, last_event_id: Option<&Value>) -> Client {
        let more = last_event_id.map_or(json!({}), |id| json!({ "last_event_id": id }));
        Client::enter(self.server.ws_url(), self.server.first_key(), name, more).await.0
    }

    async fn watcher(&self, name: &str) -> Client {
        let mut client = self.enter(name, None).await;
        let watched = client.ask(&json!({ "type": "memory", "action": "subscribe", "ref": 0, "pattern": "*" })).await;
        assert_eq!(watched["event"], "subscribe_ok", "{watched}");
        client
    }
}

/// The clock, compiled.
fn shim(folder: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clocks/shifted.c");
    let shim = folder.join("shifted.so");
    let arguments = ["-shared", "-fPIC", "-O1", "-o"];
    match Command::new("cc").args(arguments).arg(&shim).arg(source).arg("-ldl").output() {
        Ok(output) if output.status.success() => Some(shim),
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(_) => {
            eprintln!("SKIPPED: clocks that jump, because there is no C compiler");
            None
        }
    }
}

fn set(key: &str, ttl: Option<Duration>) -> Value {
    let ttl = ttl.map(|ttl| ttl.as_secs());
    json!({ "type": "memory", "action": "set", "ref": key, "key": key, "value": 1, "ttl": ttl })
}

fn changed(frame: &Value, key: &str, change: &str) -> bool {
    frame["event"] == "changed" && frame["key"] == key && frame["change"] == change
}

/// The time that a frame shows.
fn time_of(frame: &Value) -> LogTime {
    frame["timestamp"].as_str().and_then(LogTime::parse).unwrap_or_else(|| panic!("no time in {frame}"))
}

/// The frame of `watcher` for which `wanted` holds. Nobody is silent for long meanwhile.
async fn sees(watcher: &mut Client, client: &mut Client, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + SOON;
    while Instant::now() < deadline {
        match watcher.next(Duration::from_millis(100)).await {
            Got::Frame(frame) if wanted(&frame) => return frame,
            Got::Closed(code) => panic!("thrown out: {code}"),
            Got::Frame(_) | Got::Nothing => {}
        }
        for each in [&mut *watcher, &mut *client] {
            each.send(&json!({ "type": "pong" })).await;
        }
    }
    panic!("no such frame in time");
}

/// Sets a key that is new; what is acknowledged, and the time at which `watcher` sees it.
async fn sets(client: &mut Client, watcher: &mut Client, key: &str) -> (Value, LogTime) {
    let ack = client.ask(&set(key, None)).await;
    assert_eq!(ack["event"], "set_ok", "{ack}");
    (ack, time_of(&sees(watcher, client, |frame| changed(frame, key, "create")).await))
}

/// An entry expires for whoever watches, at its time or, by a clock at half its pace, at twice that.
async fn entries_expire(client: &mut Client, watcher: &mut Client, key: &str) {
    let ack = client.ask(&set(key, Some(TTL))).await;
    assert_eq!(ack["event"], "set_ok", "{ack}");
    let begun = Instant::now();
    sees(watcher, client, |frame| changed(frame, key, "expire")).await;
    let took = begun.elapsed();
    assert!(took < 2 * TTL + SLACK, "{key} expired after {took:?}");
    let gone = client.ask(&json!({ "type": "memory", "action": "get", "ref": "gone", "key": key })).await;
    assert_eq!(gone["code"], "not_found", "{gone}");
}

/// Somebody who comes and says nothing more is gone in time; whoever says something is not.
async fn silence_is_noticed(shifted: &Shifted, client: &mut Client, watcher: &mut Client, name: &str) {
    let _silent = shifted.enter(name, None).await;
    let begun = Instant::now();
    sees(watcher, client, |frame| frame["event"] == "left" && frame["name"] == name).await;
    let took = begun.elapsed();
    assert!((SILENCE / 2..SILENCE + SLACK).contains(&took), "{name} was gone after {took:?}");
}

/// Whoever comes back sees what it missed, once.
async fn misses_nothing(shifted: &Shifted, client: &mut Client, other: &mut Client, seen: &Value, key: &str) {
    *client = shifted.enter("alice", Some(&seen["event_id"])).await;
    let mut frames = Vec::new();
    let resumed = loop {
        let frame = client.frame().await;
        if frame["event"] == "resumed" {
            break frame;
        }
        frames.push(frame);
    };
    assert_eq!(resumed["recovered"], true, "{resumed}");
    let count = frames.iter().filter(|frame| changed(frame, key, "create")).count();
    assert_eq!(count, 1, "{key} in {frames:?}");
    assert_eq!(other.ask(&json!({ "type": "ping", "ref": "here" })).await["type"], "pong");
}

/// An answer is the first one for as long as it is remembered.
async fn repetitions_are_known(client: &mut Client, key: &str) {
    let mut asked = set(key, None);
    asked["idempotency_key"] = json!(key);
    let first = client.ask(&asked).await;
    let again = client.ask(&asked).await;
    assert_eq!((&first["event"], &again["event"]), (&json!("set_ok"), &json!("set_ok")), "{first} {again}");
    assert_eq!((&again["duplicate"], &again["version"]), (&json!(true), &first["version"]), "{again}");
}

/// All of it, with keys that begin with `when`; the pace of the server's time as a part of ours.
async fn all_goes_on(shifted: &Shifted, alice: &mut Client, bob: &mut Client, when: &str) -> f64 {
    let key = |what: &str| format!("{when}/{what}");
    let (_, from) = sets(alice, bob, &key("first")).await;
    let begun = Instant::now();
    entries_expire(alice, bob, &key("short")).await;
    repetitions_are_known(alice, &key("once")).await;
    silence_is_noticed(shifted, alice, bob, &format!("silent-{when}")).await;
    let (seen, upto) = sets(alice, bob, &key("seen")).await;
    let took = begun.elapsed();
    let missed = bob.ask(&set(&key("missed"), None)).await;
    assert_eq!(missed["event"], "set_ok", "{missed}");
    misses_nothing(shifted, alice, bob, &seen, &key("missed")).await;
    Duration::from_micros(u64::try_from(upto.0 - from.0).expect("time does not fall")).as_secs_f64()
        / took.as_secs_f64()
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_is_followed_and_throws_nobody_out() {
    let Some(shifted) = Shifted::start(0) else { return };
    let (mut alice, mut bob) = (shifted.watcher("alice").await, shifted.watcher("bob").await);
    let ack = alice.ask(&set("long", Some(Duration::from_mins(30)))).await;
    assert_eq!(ack["event"], "set_ok", "{ack}");
    let (_, before) = sets(&mut alice, &mut bob, "before").await;
    shifted.shift(HOUR);
    let (_, after) = sets(&mut alice, &mut bob, "after").await;
    assert!(after >= before.plus(HOUR), "{before:?} {after:?}");
    let pace = all_goes_on(&shifted, &mut alice, &mut bob, "ahead").await;
    assert!((0.8..1.2).contains(&pace), "{pace}");
    let late = alice.ask(&json!({ "type": "memory", "action": "get", "ref": "late", "key": "long" })).await;
    assert_eq!(late["code"], "not_found", "{late}");
}

#[tokio::test]
async fn a_clock_that_is_set_back_goes_on_at_half_its_pace() {
    let Some(shifted) = Shifted::start(0) else { return };
    let (mut alice, mut bob) = (shifted.watcher("alice").await, shifted.watcher("bob").await);
    let ack = alice.ask(&set("before", Some(TTL))).await;
    assert_eq!(ack["event"], "set_ok", "{ack}");
    shifted.shift(-HOUR);
    sees(&mut bob, &mut alice, |frame| changed(frame, "before", "expire")).await;
    let pace = all_goes_on(&shifted, &mut alice, &mut bob, "back").await;
    assert!((0.3..0.7).contains(&pace), "{pace}");
    // Ahead again, by less than is missing: nothing to follow. Then all of it.
    shifted.shift(-HOUR / 2);
    shifted.shift(0);
    let pace = all_goes_on(&shifted, &mut alice, &mut bob, "right").await;
    assert!((0.8..1.2).contains(&pace), "{pace}");
}

#[tokio::test]
async fn a_clock_that_is_behind_after_a_restart_goes_on_where_the_log_ended() {
    let Some(mut shifted) = Shifted::start(HOUR) else { return };
    let (mut alice, mut bob) = (shifted.watcher("alice").await, shifted.watcher("bob").await);
    let (seen, before) = sets(&mut alice, &mut bob, "before").await;
    let ack = alice.ask(&set("due", Some(TTL))).await;
    assert_eq!(ack["event"], "set_ok", "{ack}");
    shifted.server.kill9();
    shifted.shift(0);
    shifted.server.restart();
    let last = |frame: &Value| frame["event_id"].clone();
    let mut alice = shifted.enter("alice", Some(&last(&ack))).await;
    let mut bob = shifted.enter("bob", Some(&last(&seen))).await;
    let gone = sees(&mut bob, &mut alice, |frame| changed(frame, "due", "expire")).await;
    assert!(time_of(&gone) >= before, "{gone}");
    let pace = all_goes_on(&shifted, &mut alice, &mut bob, "restarted").await;
    assert!((0.3..0.7).contains(&pace), "{pace}");
}
