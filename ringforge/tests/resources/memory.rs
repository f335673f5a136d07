//! Too little memory: the server works within its bound, or it dies and comes back. Whatever it acknowledged is there, and
//! nothing that it shows is wrong.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    alone,
    crowd::{PATIENCE, enter},
    skipped,
    support::{Client, Got, Options, Server},
};

/// Those who write, each its own keys.
const WRITERS: usize = 4;
/// Keys of each.
const KEYS: usize = 3;
/// Bytes of a value, about, at most.
const BYTES: u64 = 900_000;
/// A bound that large values break, and one that they do not.
const TIGHT_MB: u64 = 64;
const ENOUGH_MB: u64 = 512;
/// How long a start may take: without memory it may wait for some.
const START: Duration = Duration::from_secs(10);
/// How often it may die while it starts.
const STARTS: u32 = 5;
/// How long whoever is refused waits.
const AGAIN: Duration = Duration::from_millis(20);
/// How long a busy machine may take to use up what there is.
const SQUEEZE_MAX: Duration = Duration::from_secs(30);

/// What a writer knows of a key: the last version that it sent, and the last that was acknowledged.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    sent: u64,
    acked: u64,
}

/// The value of a version of a key, and of no other.
fn value(key: &str, version: u64) -> String {
    let word = format!("{key}@{version} ");
    let bytes = 1_000 + version.wrapping_mul(0x9E37_79B9_7F4A_7C15) % BYTES;
    word.repeat(usize::try_from(bytes).expect("a small number") / word.len())
}

fn named(writer: usize, key: usize) -> String {
    format!("{writer}/{key}")
}

/// What came of a server with a bound.
struct Squeezed {
    /// Large values that were acknowledged.
    acked: u64,
    /// How often it was started.
    lives: u32,
}

/// Large values are written while what the shell does before bounds the server, for so long and until it had so many lives;
/// then everything is looked at without a bound.
async fn squeeze(before: String, duration: Duration, lives_min: u32) -> Squeezed {
    // Whatever waits for memory that does not come is told so soon.
    let config = "[timing]\nreply_timeout_ms = 1000\n".to_owned();
    let mut server = Server::start(Options { config, ready_within: Some(START), ..Options::default() });
    server.kill9();
    server.with_options(|options| options.before = before);
    let place = watch::Sender::new(server.ws_url().to_owned());
    let (stop, mut writers) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
    for number in 0..WRITERS {
        let (key, place, stop) = (server.first_key().to_owned(), place.subscribe(), Arc::clone(&stop));
        writers.spawn(async move { (number, write(number, &key, &place, &stop).await) });
    }
    let (begun, mut lives) = (Instant::now(), 0);
    while begun.elapsed() < duration || (lives < lives_min && begun.elapsed() < SQUEEZE_MAX) {
        if !server.alive() {
            lives += 1;
            if (0..STARTS).all(|_| begun.elapsed() > duration || server.try_restart().is_err()) {
                break;
            }
            place.send_replace(server.ws_url().to_owned());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.store(true, Ordering::Relaxed);
    if server.alive() {
        server.kill9();
    }
    let known = writers.join_all().await;
    server.with_options(|options| options.before.clear());
    server.restart();
    let (mut reader, _) = Client::enter(server.ws_url(), server.first_key(), "reader", json!({})).await;
    let mut acked = 0;
    for (number, keys) in known {
        for (at, known) in keys.into_iter().enumerate() {
            let name = named(number, at);
            let found = reader.ask(&json!({ "type": "memory", "action": "get", "key": name, "ref": name })).await;
            is_right(&name, known, &found);
            acked += known.acked;
        }
    }
    eprintln!("{acked} large values were acknowledged in {lives} lives");
    Squeezed { acked, lives }
}

/// What is shown of a key is what its one writer wrote last.
fn is_right(name: &str, known: Known, shown: &Value) {
    if shown["code"] == "not_found" {
        assert_eq!(known.acked, 0, "{name} was acknowledged");
        return;
    }
    let version = shown["entry"]["version"].as_u64().unwrap_or_else(|| panic!("{name}: {shown}"));
    assert!((known.acked..=known.sent).contains(&version), "{name} has version {version}, not {known:?}");
    assert!(shown["entry"]["value"] == value(name, version), "{name} has not the value of version {version}");
}

/// Writes through every life of the server, and looks at what it wrote.
async fn write(number: usize, key: &str, place: &watch::Receiver<String>, stop: &AtomicBool) -> [Known; KEYS] {
    let mut known = [Known::default(); KEYS];
    let mut turn = 0;
    while !stop.load(Ordering::Relaxed) {
        let url = place.borrow().clone();
        let entered = enter(&url, key, &format!("writer-{number}"), json!({ "presence": "none" })).await;
        let Some(mut client) = entered else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        while !stop.load(Ordering::Relaxed) {
            turn += 1;
            let at = turn % KEYS;
            if one_turn(&mut client, &named(number, at), &mut known[at]).await.is_none() {
                break;
            }
        }
    }
    known
}

/// Writes the next version of a key, and reads what there is; `None` if the server went away.
async fn one_turn(client: &mut Client, name: &str, known: &mut Known) -> Option<()> {
    let next = known.acked + 1;
    known.sent = next;
    let set = json!({ "type": "memory", "action": "set", "key": name, "value": value(name, next), "ref": "set",
        "expected_version": known.acked, "idempotency_key": format!("{name}@{next}") });
    let answer = ask(client, &set).await?;
    if answer["event"] == "set_ok" {
        assert_eq!(answer["version"], next, "{answer}");
        known.acked = next;
    } else {
        assert_ne!(answer["code"], "conflict", "a version was lost or invented: {answer}");
        assert_eq!(answer["retryable"], true, "{answer}");
        tokio::time::sleep(AGAIN).await;
    }
    let shown = ask(client, &json!({ "type": "memory", "action": "get", "key": name, "ref": "get" })).await?;
    if shown["retryable"] != true {
        is_right(name, *known, &shown);
    }
    Some(())
}

async fn ask(client: &mut Client, frame: &Value) -> Option<Value> {
    client.send(frame).await;
    while let Got::Frame(answer) = client.next(PATIENCE).await {
        if answer["ref"] == frame["ref"] {
            return Some(answer);
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_for_its_memory_comes_back_with_everything() {
    let _alone = alone().await;
    in_a_group(Duration::from_millis(1_500)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_refused_memory_loses_nothing() {
    let _alone = alone().await;
    without_addresses(&[1_000], Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make proof"]
async fn a_server_with_too_little_memory_for_long_loses_nothing() {
    let _alone = alone().await;
    in_a_group(Duration::from_secs(10)).await;
    without_addresses(&[200, 400, 1_000, 1_500], Duration::from_secs(4)).await;
}

/// The kernel kills whoever takes more than there is.
async fn in_a_group(duration: Duration) {
    let Some(group) = Group::new(TIGHT_MB) else { return };
    let Squeezed { acked, lives } = squeeze(group.before(), duration, 2).await;
    assert!(lives > 1, "{TIGHT_MB} MB are not too little");
    assert!(acked > 10, "it does not come back to work");
    drop(group);
    let Some(group) = Group::new(ENOUGH_MB) else { return };
    let Squeezed { lives, .. } = squeeze(group.before(), duration, 1).await;
    assert_eq!(lives, 1, "{ENOUGH_MB} MB are enough");
}

/// The kernel refuses memory: it may die, or say so until there is some again. Some bounds it cannot even start with.
async fn without_addresses(bounds_mb: &[u64], duration: Duration) {
    for bound in bounds_mb {
        squeeze(format!("ulimit -v {}", bound * 1_000), duration, 1).await;
    }
}

/// A control group that bounds the memory of whoever enters it.
struct Group(PathBuf);

impl Group {
    /// An empty one of so many MB; `None`, and said so, where none can be had.
    fn new(mb: u64) -> Option<Self> {
        let bounds = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        for (root, bound) in bounds {
            let group = Self(Path::new(root).join(format!("ringforge-{}", process::id())));
            if fs::create_dir(&group.0).is_ok() && fs::write(group.0.join(bound), (mb << 20).to_string()).is_ok() {
                return Some(group);
            }
        }
        skipped("memory bounded by a control group, because none can be made");
        None
    }

    /// What the shell does to enter it.
    fn before(&self) -> String {
        format!("echo $$ > {}/cgroup.procs", self.0.display())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It may be there no more.
        let _ = fs::remove_dir(&self.0);
    }
}
