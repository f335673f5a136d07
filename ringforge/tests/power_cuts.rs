//! The power fails under load, again and again: whatever anybody was told is still there, with its effect, and whatever was
//! refused is not. Once on a disk that keeps only what was synced, in every way in which it may, once on a real file system.

#![allow(clippy::disallowed_methods, reason = "a test runs on the machine's clock")]

#[allow(dead_code, reason = "made for another test")]
#[path = "kill9/check.rs"]
mod check;
#[path = "power_cuts/disk.rs"]
mod disk;
#[allow(dead_code, reason = "made for another test")]
#[path = "kill9/observer.rs"]
mod observer;
#[path = "power_cuts/recorded.rs"]
mod recorded;
#[allow(dead_code, reason = "made for another test")]
#[path = "kill9/run.rs"]
mod run;
#[path = "support.rs"]
mod support;
#[allow(dead_code, reason = "made for another test")]
#[path = "kill9/writer.rs"]
mod writer;

use std::{
    collections::BTreeSet,
    io::Write as _,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use disk::{Disk, Loop, Recorded};
use observer::Observer;
use recorded::Left;
use ringforge_domain::ids::Scope;
use run::{END, OBSERVERS, Random, Run, TAG};
use serde_json::{Value, json};
use support::{Client, SOON, Server};
use writer::{Act, Known, Sent, Writer};

/// Clients that write.
const WRITERS: usize = 8;
/// Cuts of one disk; then a new one is taken.
const DISK_CUTS: u32 = 10;
/// Cuts of `make proof`, of each kind, unless `CUTS` says otherwise.
const CUTS: u32 = 50;
/// Commands in flight at each cut, at least.
const IN_FLIGHT_MIN: i64 = 8;

/// Says on the terminal what is not tested here; what tests print is not shown.
fn skipped(what: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}");
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn seed() -> u64 {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.subsec_nanos().into());
    let seed = number("RINGFORGE_SEED").unwrap_or_else(now);
    eprintln!("seed: RINGFORGE_SEED={seed}");
    seed
}

fn cuts() -> u32 {
    number("CUTS").map_or(CUTS, |cuts| u32::try_from(cuts).expect("a small number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_keeps_only_what_was_synced_keeps_whatever_was_acknowledged() {
    cut_again_and_again(Recorded::new, 3, seed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make proof"]
async fn a_disk_that_keeps_only_what_was_synced_keeps_whatever_was_acknowledged_in_many_cuts() {
    cut_again_and_again(Recorded::new, cuts(), seed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_system_that_loses_power_keeps_whatever_was_acknowledged() {
    cut_again_and_again(Loop::new, 2, seed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make proof"]
async fn a_file_system_that_loses_power_keeps_whatever_was_acknowledged_in_many_cuts() {
    cut_again_and_again(Loop::new, cuts(), seed()).await;
}

/// The first moments of a data directory: whenever the power fails, it comes up, and once it was ready, with the same keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_data_directory_survives_a_cut_at_any_moment() {
    first_moments(10, seed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make proof"]
async fn a_new_data_directory_survives_a_cut_at_any_of_many_moments() {
    first_moments(4 * cuts(), seed()).await;
}

async fn cut_again_and_again<D: Disk>(new_disk: impl Fn() -> Option<D>, cuts: u32, seed: u64) {
    let (mut left, begun) = (cuts, Instant::now());
    let mut random = Random(seed);
    while left > 0 {
        let Some(mut disk) = new_disk() else { return };
        let these = left.min(DISK_CUTS);
        under_load(&mut disk, these, &mut random).await;
        left -= these;
    }
    eprintln!("{cuts} cuts in {:?}", begun.elapsed());
}

/// The life of one disk.
async fn under_load(disk: &mut impl Disk, cuts: u32, random: &mut Random) {
    let mut server = Server::start(disk.options());
    let tenants = server.ready["tenants"].clone();
    let run = Arc::new(Run::new(server.first_key(), random.below(u64::MAX)));
    let mut watching = Vec::new();
    for name in OBSERVERS {
        let (observer, client) = Observer::enter(Arc::clone(&run), server.ws_url(), name).await;
        watching.push(tokio::spawn(observer.watch(client)));
    }
    run.begin(server.ws_url());
    let writing: Vec<_> =
        (0..WRITERS).map(|number| tokio::spawn(Writer::new(Arc::clone(&run), number).write())).collect();
    for _ in 0..cuts {
        tokio::time::sleep(Duration::from_millis(random.below(600))).await;
        let patience = Instant::now() + SOON;
        while run.in_flight.load(Ordering::Relaxed) < IN_FLIGHT_MIN {
            assert!(Instant::now() < patience, "too few commands in flight for a cut");
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
        disk.cut(&mut server, random);
        disk.start(&mut server, random);
        assert_eq!(server.ready["tenants"], tenants, "the same tenants, fleets and keys");
        run.begin(server.ws_url());
    }
    run.stopping.store(true, Ordering::Relaxed);
    let mut sent: Vec<Sent> = Vec::new();
    for writer in writing {
        sent.extend(writer.await.expect("a writer comes to its end"));
    }
    sent.sort_by(|one, other| one.name.cmp(&other.name));
    let acked = sent.iter().filter(|sent| matches!(sent.known, Known::Acked(_))).count();
    eprintln!("{} commands, {acked} acknowledged, {cuts} cuts", sent.len());
    assert!(acked > 10 * cuts as usize, "there was a load");
    let seen = the_end(&run, &server, watching).await;
    outside(&run, &server, &sent, &seen).await;
    assert_eq!(server.terminate(), Some(0));
    let scope = Scope { tenant: id(&tenants[0]["id"]), fleet: id(&tenants[0]["fleets"][0]["id"]) };
    check::by_the_log(&check::logged(&server.data(), scope).await, &sent);
}

fn id<T: std::str::FromStr>(text: &Value) -> T {
    text.as_str().and_then(|text| text.parse().ok()).expect("the ready line has ids")
}

/// One last broadcast, and what observers saw until then.
async fn the_end(
    run: &Run,
    server: &Server,
    watching: Vec<tokio::task::JoinHandle<observer::Seen>>,
) -> Vec<observer::Seen> {
    let (mut client, _) = Client::enter(server.ws_url(), &run.key, "last", json!({ "presence": "none" })).await;
    let end = json!({ "type": "activity", "action": "broadcast", "scope": "tagged", "tags": [TAG], "ref": 1,
        "kind": "custom", "description": END });
    assert_eq!(client.ask(&end).await["event"], "broadcast_ok");
    let mut seen = Vec::new();
    for observer in watching {
        seen.push(observer.await.expect("an observer comes to its end"));
    }
    seen
}

/// What agents can see of it.
async fn outside(run: &Run, server: &Server, sent: &[Sent], seen: &[observer::Seen]) {
    let key = |sent: &Sent| match &sent.act {
        Act::Set { key, .. } | Act::Count { key } | Act::Delete { key, .. } => Some(key.clone()),
        Act::Broadcast | Act::Direct { .. } => None,
    };
    let keys: BTreeSet<String> = sent.iter().filter_map(key).collect();
    let (mut reader, _) = Client::enter(server.ws_url(), &run.key, "reader", json!({ "presence": "none" })).await;
    let record = check::Record::read(&mut reader, &keys).await;
    let messages = seen.iter().flat_map(observer::Seen::named_in_messages).collect();
    check::commands(&record, sent, &messages);
    check::versions(&record, sent);
    for seen in seen {
        check::observed(&record, seen);
    }
    assert!(seen[0].events == seen[1].events, "two observers agree on everything, its order included");
}

/// One start of a new data directory is recorded until an agent was answered; then the power fails at these many of its moments.
async fn first_moments(moments: u32, seed: u64) {
    let Some(disk) = Recorded::new() else { return };
    let mut random = Random(seed);
    let mut server = Server::start(disk.options());
    let (tenants, ready_at) = (server.ready["tenants"].clone(), disk.trace().len());
    let set = json!({ "type": "memory", "action": "set", "key": "first", "value": 1, "ref": 1 });
    let (mut client, _) = Client::enter(server.ws_url(), server.first_key(), "first", json!({})).await;
    let answer = client.ask(&set).await;
    let answered_at = disk.trace().len();
    server.kill9();
    let trace = disk.trace();
    let mut after_answer = 0;
    for moment in 0..moments {
        // The earliest, the moment of being ready, the moment of the answer, the last; any in between.
        let upto = match moment {
            0 => 0,
            1 => ready_at,
            2 => answered_at,
            3 => trace.len(),
            _ => usize::try_from(random.below(trace.len() as u64)).expect("a small number"),
        };
        let left = if moment < 4 { Left::Nothing } else { Left::any(&mut random, upto) };
        disk.restore(&trace.image(&recorded::Image::new(), upto, left), &mut random);
        server.with_options(|options| options.environment.clear());
        eprintln!("a cut at record {upto} of {} leaves {left:?}", trace.len());
        server.restart();
        if upto >= ready_at {
            assert_eq!(server.ready["tenants"], tenants, "the same tenants, fleets and keys");
        }
        if upto >= answered_at {
            let more = json!({ "last_event_id": answer["event_id"] });
            let (mut client, _) = Client::enter(server.ws_url(), server.first_key(), "first", more).await;
            let resumed = client.frame_where(|frame| frame["event"] == "resumed").await;
            assert_eq!(resumed["recovered"], true, "{resumed}");
            let get = json!({ "type": "memory", "action": "get", "key": "first", "ref": 2 });
            let entry = client.ask(&get).await;
            assert_eq!((&entry["entry"]["version"], &entry["entry"]["event_id"]), (&json!(1), &answer["event_id"]));
            after_answer += 1;
        }
        server.kill9();
    }
    assert!(after_answer > 0, "no cut came after an answer");
}
