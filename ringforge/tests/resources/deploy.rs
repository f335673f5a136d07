//! Row 35 of the fault matrix: the server is told to end while many are connected and write.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{sync::Barrier, task::JoinSet};

use crate::{
    alone,
    crowd::{PATIENCE, Size, enter, key, pause},
    support::{Client, Got},
};

/// How long the end may take.
const END: Duration = Duration::from_secs(10);
/// Commands that each writer keeps unanswered.
const WINDOW: u64 = 8;
/// One of so many agents writes.
const WRITES: usize = 5;
/// Told to those who shall come back.
const RECONNECT_MS: u64 = 700;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_under_load_leaves_no_outcome_unknown() {
    end_under_load(Size { fleets: 4, agents: 25, every: Duration::ZERO }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make proof"]
async fn an_end_with_two_thousand_under_load_leaves_no_outcome_unknown() {
    end_under_load(Size { fleets: 20, agents: 100, every: Duration::ZERO }).await;
}

/// What a writer knows in the end.
struct Wrote {
    name: String,
    number: usize,
    sent: u64,
    acked: u64,
}

async fn end_under_load(size: Size) {
    let _alone = alone().await;
    let agents = size.fleets * size.agents;
    let mut server = size.server(&format!("[timing]\nreconnect_after_ms = {RECONNECT_MS}\n"));
    let (mut tasks, begin) = (JoinSet::new(), Arc::new(Barrier::new(agents + 1)));
    for number in 0..agents {
        let (name, key) = (format!("agent-{number}"), key(&server, number % size.fleets).to_owned());
        let (url, begin) = (server.ws_url().to_owned(), Arc::clone(&begin));
        tasks.spawn(async move {
            let client = enter(&url, &key, &name, json!({ "presence": "none" })).await.expect("it comes in");
            begin.wait().await;
            write(client, name, number).await
        });
        pause(number).await;
    }
    begin.wait().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(tasks.try_join_next().is_none(), "everybody is still there");
    let told = Instant::now();
    server.ask_to_end();
    let ended = tokio::task::spawn_blocking(move || (server.ended(), server));
    let wrote = tasks.join_all().await;
    let (code, mut server) = ended.await.expect("it ends");
    let took = told.elapsed();
    assert_eq!(code, Some(0), "{}", server.stderr());
    assert!(took <= END, "it took {took:?}");

    server.restart();
    let mut readers = Vec::new();
    for fleet in 0..size.fleets {
        readers.push(Client::enter(server.ws_url(), key(&server, fleet), "reader", json!({})).await.0);
    }
    let (mut acked, mut sent) = (0, 0);
    for Wrote { name, number, sent: mine, acked: answered } in wrote.into_iter().filter(|wrote| wrote.sent > 0) {
        let get = json!({ "type": "memory", "action": "get", "key": name, "ref": name });
        let entry = readers[number % size.fleets].ask(&get).await;
        // What was not answered before the goodbye has no effect.
        let found = ["version", "value"].map(|field| entry["entry"][field].as_u64().unwrap_or(0));
        assert_eq!(found, [answered; 2], "{name} was told {answered} of {mine}");
        acked += answered;
        sent += mine;
    }
    eprintln!("{agents} agents, {acked} commands answered of {sent} sent, ended in {took:?}");
    assert!(acked > 0, "there was a load");
}

/// Writes without a pause until the server says that it ends, and hears the rest.
async fn write(mut client: Client, name: String, number: usize) -> Wrote {
    let (mut wrote, mut told, writes) =
        (Wrote { name, number, sent: 0, acked: 0 }, false, number.is_multiple_of(WRITES));
    loop {
        while writes && !told && wrote.sent - wrote.acked < WINDOW {
            wrote.sent += 1;
            let set =
                json!({ "type": "memory", "action": "set", "key": wrote.name, "value": wrote.sent, "ref": wrote.sent });
            client.send(&set).await;
        }
        match client.next(PATIENCE).await {
            Got::Frame(frame) if frame["event"] == "maintenance" => {
                assert_eq!(frame["reconnect_after_ms"], RECONNECT_MS);
                told = true;
            }
            Got::Frame(frame) if frame["event"] == "set_ok" => {
                wrote.acked += 1;
                assert_eq!(frame["ref"], wrote.acked, "answers come in the order of the questions");
            }
            Got::Frame(frame) => assert_ne!(frame["type"], "error", "{frame}"),
            Got::Closed(code) => {
                assert_eq!((code, told), (1012, true), "{}: told to come back, then goodbye", wrote.name);
                return wrote;
            }
            Got::Nothing => panic!("{} hears nothing", wrote.name),
        }
    }
}
