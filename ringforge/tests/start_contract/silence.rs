//! Logs are JSON lines without keys and payloads, even when everything is logged.

use serde_json::{Value, json};

use crate::{
    doors,
    support::{Client, Options, Server},
};

/// In everything that an agent says.
const CANARY: &str = "canary7d1f0c5e9b3a4826";

#[tokio::test]
async fn the_finest_log_tells_no_key_and_no_payload() {
    let environment = vec![("RINGFORGE_LOG".to_owned(), "trace".to_owned())];
    let mut server = Server::start(Options { environment, ..Options::default() });
    let key = server.first_key().to_owned();
    let bearer = [("authorization", format!("Bearer {key}"))];
    let mut by_bearer = Client::connect_with(server.ws_url(), &bearer).await;
    by_bearer.send(&json!({ "type": "auth", "agent": { "name": "bearer" } })).await;
    by_bearer.frame_where(|frame| frame["type"] == "auth_ok").await;
    let (mut client, welcome) = Client::enter(server.ws_url(), &key, CANARY, json!({})).await;
    let other = if key.ends_with('x') { 'y' } else { 'x' };
    let wrong = format!("{}{other}", &key[..key.len() - 1]);
    let mut stranger = Client::connect(server.ws_url()).await;
    stranger.send(&json!({ "type": "auth", "api_key": wrong })).await;
    stranger.closed().await;
    let with_cursor = json!({ "type": "auth", "api_key": key, "agent": { "name": CANARY, "metadata": { "m": CANARY } },
        "agent_id": CANARY, "resume_token": CANARY, "last_event_id": CANARY });
    let mut thief = Client::connect(server.ws_url()).await;
    thief.send(&with_cursor).await;
    thief.closed().await;
    let (resumed, _) = Client::enter(server.ws_url(), &key, "resumed", json!({ "last_event_id": CANARY })).await;
    resumed.close().await;
    let address = server.ws_url().replace("ws://", "");
    let request = format!("GET /ws?api_key={key}&token={CANARY} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(doors::request(address.trim_end_matches("/ws"), &request).starts_with("HTTP/1.1 400 "));
    for (number, mut frame) in everything().into_iter().enumerate() {
        frame["ref"] = json!(number);
        client.ask(&frame).await;
    }
    client.send_text(&format!("{{not json {CANARY}")).await;
    client.frame_where(|frame| frame["code"] == "invalid_message").await;
    client.close().await;
    assert_eq!(server.terminate(), Some(0));
    let token = welcome["resume_token"].as_str().expect("a token").to_owned();
    let log = server.stderr();
    assert!(log.contains("session began") && log.contains("draining"), "there is a log: {log}");
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        assert!(line["level"].is_string() && line["timestamp"].is_string(), "{line}");
    }
    let seal = std::fs::read_to_string(server.data().join("credentials.json")).expect("the keys");
    let seal: Value = serde_json::from_str(&seal).expect("JSON");
    let admin = server.ready["tenants"][0]["admin_key"].as_str().expect("a key");
    let operator = server.ready["operator_key"].as_str().expect("a key");
    let seal = seal["seal_key"].as_str().expect("a key");
    for secret in [CANARY, &key, &wrong, &token, admin, operator, seal] {
        let found = log.lines().find(|line| line.contains(secret));
        assert!(found.is_none(), "a secret is in the log: {found:?}");
    }
}

fn everything() -> Vec<Value> {
    vec![
        json!({ "type": "presence", "action": "update", "state": "busy", "task": CANARY, "metadata": { "m": CANARY } }),
        json!({ "type": "activity", "action": "broadcast", "kind": "custom", "description": CANARY, "event_tags": [CANARY] }),
        json!({ "type": "memory", "action": "set", "key": CANARY, "value": CANARY, "idempotency_key": CANARY }),
        json!({ "type": "memory", "action": "set", "key": CANARY, "value": 0, "expected_version": 9 }),
        json!({ "type": "memory", "action": "query", "text_search": CANARY }),
        json!({ "type": "memory", "action": "get", "key": CANARY }),
        json!({ "type": "direct", "action": "send", "to": CANARY, "payload": CANARY, "correlation_id": CANARY }),
        json!({ "type": "direct", "action": "send", "to": CANARY, "payload": CANARY, "ttl": -1 }),
        json!({ "type": "memory", "action": "subscribe", "pattern": CANARY, "snapshot": true, "values": true }),
        json!({ "type": "memory", "action": "history", "key": CANARY, "cursor": CANARY }),
        json!({ "type": "replay", "action": "request", "kinds": [CANARY] }),
        json!({ "type": "replay", "action": "request", "streams": ["memory", "direct", "presence"] }),
        json!({ "type": CANARY, "action": CANARY }),
    ]
}
