//! Row 31 of the fault matrix: readers that read nothing while the others work.

use std::time::{Duration, Instant};

use ringforge_domain::limits::{TAIL_BYTES_MAX, TAIL_STRETCH};
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    alone,
    crowd::{PATIENCE, numbered},
    process::{Process, raise_open_files},
    support::{Client, Got, Server},
};

/// Bytes that a stalled reader's kernel takes, about.
const WINDOW: u32 = 32 << 10;
/// Bytes of an event.
const BYTES: usize = 9_000;
/// How the last one ends.
const LAST: &str = "end";
/// Those who read.
const HEALTHY: usize = 8;
/// Memory that the stalled may cost, in MB.
const MEMORY_MB: u64 = 100;
/// The delay of an event for those who read, of 99 in 100, on a busy machine.
const DELAY: Duration = Duration::from_secs(1);

/// Events between two looks at whether the kernel takes still more for the stalled.
const LOOK: u64 = 25;
/// Events that are more than what an edge remembers of a fleet: only the log has them all.
const FORGOTTEN: u64 = (TAIL_STRETCH * TAIL_BYTES_MAX / BYTES) as u64;
/// Events once it does not, and the time between two.
const MEASURED: u64 = 150;
const EVERY: Duration = Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_stall_hold_up_nobody_and_catch_up() {
    stall(30, FORGOTTEN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make proof"]
async fn a_thousand_readers_that_stall_hold_up_nobody_and_catch_up() {
    stall(1_000, 0).await;
}

async fn stall(count: usize, more: u64) {
    let _alone = alone().await;
    raise_open_files(2 * count as u64 + 500);
    let server = Server::plain();
    let process = Process(server.pid());
    let none = json!({ "presence": "none" });
    let mut healthy = JoinSet::new();
    for number in 0..HEALTHY {
        let name = format!("healthy-{number}");
        let (client, _) = Client::enter(server.ws_url(), server.first_key(), &name, none.clone()).await;
        healthy.spawn(read(client));
    }
    let mut stalled = Vec::new();
    for number in 0..count {
        let narrow = Client::connect_narrow(server.ws_url(), WINDOW).await;
        let (mut client, _) = narrow.enters(server.first_key(), &format!("stalled-{number}"), none.clone()).await;
        // What comes next is read only in the end.
        client.frame_where(|frame| frame["event"] == "roster").await;
        stalled.push(client);
    }
    let memory = process.resident_mb();
    let (first, due) = speak(&server, more).await;
    let (held, grown) = (held_by_kernel(&server), process.resident_mb().saturating_sub(memory));
    let mut delays = Vec::new();
    for shown in healthy.join_all().await {
        delays.extend(shown[first..].iter().zip(&due).map(|(shown, due)| shown.saturating_duration_since(*due)));
    }
    delays.sort();
    let late = delays[delays.len() * 99 / 100];
    eprintln!(
        "{count} stalled: {grown} MB more; 99 of 100 events {late:?} late; the kernel holds {held} bytes of one at most"
    );
    assert!(grown < MEMORY_MB, "{count} stalled readers cost {grown} MB");
    assert!(late < DELAY, "others were shown events only after {late:?}");

    let begun = Instant::now();
    let mut catching_up = JoinSet::new();
    for client in stalled {
        catching_up.spawn(read(client));
    }
    let all = first + due.len();
    for shown in catching_up.join_all().await {
        assert_eq!(shown.len(), all, "a stalled reader saw everything in the end");
    }
    eprintln!("all caught up with {all} events within {:?}", begun.elapsed());
}

/// Reads all events, without a gap or a double, and tells when each came.
async fn read(mut client: Client) -> Vec<Instant> {
    let mut shown = Vec::new();
    loop {
        match client.next(PATIENCE).await {
            Got::Frame(frame) if frame["event"] == "broadcast" => {
                shown.push(Instant::now());
                assert_eq!(numbered(&frame), shown.len() as u64, "a gap or a double");
                if frame["activity"]["description"].as_str().is_some_and(|text| text.ends_with(LAST)) {
                    return shown;
                }
            }
            Got::Frame(frame) => assert_ne!(frame["type"], "error", "{frame}"),
            other => panic!("no event: {other:?}"),
        }
    }
}

/// Says so many events that the stalled do stall, `more`, and then some at an even pace: how many came before, and when each of
/// those was due.
async fn speak(server: &Server, more: u64) -> (usize, Vec<Instant>) {
    let none = json!({ "presence": "none" });
    let (mut publisher, _) = Client::enter(server.ws_url(), server.first_key(), "publisher", none).await;
    let filler = "x".repeat(BYTES);
    let mut said = 0;
    let mut say = async |end: &str| {
        said += 1;
        let event = json!({ "type": "activity", "action": "broadcast", "kind": "custom", "ref": said,
            "description": format!("{said} {filler}{end}") });
        assert_eq!(publisher.ask(&event).await["event"], "broadcast_ok");
    };
    let (mut before, mut held) = (0, None);
    while held != Some(held_by_kernel(server)) {
        held = Some(held_by_kernel(server));
        for _ in 0..LOOK {
            say("").await;
        }
        before += LOOK;
    }
    for _ in 0..more {
        say("").await;
    }
    before += more;
    let begun = Instant::now();
    let due = |number: u64| begun + EVERY * u32::try_from(number).expect("a small number");
    for number in 0..MEASURED {
        tokio::time::sleep_until(due(number).into()).await;
        say(if number + 1 == MEASURED { LAST } else { "" }).await;
    }
    (usize::try_from(before).expect("a small number"), (0..MEASURED).map(due).collect())
}

/// The most bytes that wait in the kernel for one connection of the server.
fn held_by_kernel(server: &Server) -> u64 {
    let port: u16 =
        server.ready["rest_url"].as_str().and_then(|url| url.rsplit(':').next()?.parse().ok()).expect("a port");
    let local = format!(":{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel tells its connections");
    let held = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let ours = fields.next()?.ends_with(&local);
        let (held, _) = fields.nth(2)?.split_once(':')?;
        ours.then(|| u64::from_str_radix(held, 16).ok())?
    };
    table.lines().filter_map(held).max().expect("there are some")
}
