//! Row 30 of the fault matrix: no file descriptor is left for another connection.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    alone,
    process::Process,
    raw::Raw,
    support::{Client, Options, Server},
    until,
};

/// Open files of the server: its own, and not many connections.
const FILES: usize = 80;
/// How long it has none left.
const STARVED: Duration = Duration::from_secs(2);

#[tokio::test]
async fn without_descriptors_whoever_is_in_is_served_and_the_rest_wait() {
    let _alone = alone().await;
    let before = format!("ulimit -n {FILES}");
    // Whoever asks for health and whoever waits stays on the line.
    let config = "[timing]\nupgrade_timeout_ms = 60000\n".to_owned();
    let server = Server::start(Options { config, before, ..Options::default() });
    let process = Process(server.pid());
    let (mut ada, _) = Client::enter(server.ws_url(), server.first_key(), "ada", json!({})).await;
    let mut health = Raw::connect(&server, "127.0.0.1").await;
    assert_eq!(ready(&mut health).await, (200, true));

    let mut crowd = Vec::new();
    until("all descriptors are taken", async || {
        crowd.push(Raw::connect(&server, "127.0.0.1").await);
        process.open_files() >= FILES && crowd.len() > FILES
    })
    .await;
    until("it says that it takes nobody", async || ready(&mut health).await == (503, false)).await;

    let (since, used) = (Instant::now(), process.cpu());
    let mut asked = 0;
    while since.elapsed() < STARVED {
        let set = json!({ "type": "memory", "action": "set", "key": "k", "value": asked, "ref": asked });
        assert_eq!(ada.ask(&set).await["event"], "set_ok");
        let get = json!({ "type": "memory", "action": "get", "key": "k", "ref": "get" });
        assert_eq!(ada.ask(&get).await["entry"]["value"], asked);
        assert_eq!(ready(&mut health).await, (503, false));
        asked += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let used = process.cpu().saturating_sub(used);
    assert!(used < STARVED / 4, "it spins: {used:?} of CPU time");
    assert!(asked > 4, "whoever is in is served: {asked}");

    // Also if nobody else comes.
    drop(crowd);
    until("it takes somebody again", async || ready(&mut health).await == (200, true)).await;
    let (mut bob, _) = Client::enter(server.ws_url(), server.first_key(), "bob", json!({})).await;
    let get = json!({ "type": "memory", "action": "get", "key": "k", "ref": 1 });
    assert_eq!(bob.ask(&get).await["entry"]["value"], asked - 1);
}

/// What `/health/ready` says: its status, and whether connections are accepted.
async fn ready(health: &mut Raw) -> (u16, bool) {
    health.send(b"GET /health/ready HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let answer = health.answer().await;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let body: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").expect("a body").1).expect("JSON");
    (status, body["accepts"] == "ok")
}
