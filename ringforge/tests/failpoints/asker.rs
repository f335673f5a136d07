//! An agent that asks everything there is to ask, again and again, and comes into one fleet after the other: so every call
//! of every port is made all the time.

use std::sync::{Arc, atomic::Ordering};

use serde_json::{Value, json};

use crate::{
    run::Run,
    support::{Client, Got, SOON},
};

/// Fleets it goes through, besides the one with the load.
pub const FLEETS: usize = 12;

/// Asks until the run stops. Every question is answered in time or the connection ends, and what is refused may be tried
/// again.
pub async fn ask(run: Arc<Run>, keys: Vec<String>) {
    let mut cursors: Vec<Value> = vec![Value::Null; keys.len()];
    for at in (0..keys.len()).cycle() {
        if run.stopping.load(Ordering::Relaxed) {
            return;
        }
        let mut tries = run.tries();
        let mut client = loop {
            let (url, more) = (tries.url().await, json!({ "last_event_id": cursors[at], "presence": "none" }));
            if let Some((client, _)) = Client::try_enter(&url, &keys[at], "asker", more).await {
                break client;
            }
        };
        if let Some(event) = visit(&mut client).await {
            cursors[at] = event;
            client.close().await;
        }
    }
}

/// Asks everything once, and tells an event to come back after; `None` if the connection ended.
async fn visit(client: &mut Client) -> Option<Value> {
    client.send(&json!({ "type": "presence", "action": "heartbeat" })).await;
    let set =
        answer(client, json!({ "type": "memory", "action": "set", "key": "asked", "value": 1 }), "set_ok").await?;
    for (question, wanted) in [
        (json!({ "type": "memory", "action": "get", "key": "asked" }), "entry"),
        (json!({ "type": "memory", "action": "query", "text_search": "asked" }), "query_result"),
        (json!({ "type": "memory", "action": "history", "key": "asked" }), "history"),
        (json!({ "type": "presence", "action": "roster" }), "roster"),
        (json!({ "type": "replay", "action": "request", "limit": 5 }), "end"),
    ] {
        answer(client, question, wanted).await?;
    }
    Some(set["event_id"].clone())
}

/// Sends a frame until it is answered as wanted.
async fn answer(client: &mut Client, mut frame: Value, wanted: &str) -> Option<Value> {
    for number in 0.. {
        frame["ref"] = json!(number);
        client.send(&frame).await;
        loop {
            let answer = match client.next(SOON).await {
                Got::Frame(answer) if answer["ref"] == json!(number) => answer,
                Got::Frame(_) => continue,
                Got::Closed(_) => return None,
                Got::Nothing => panic!("not answered in time: {frame}"),
            };
            if answer["event"] == wanted {
                return Some(answer);
            }
            if answer["type"] == "error" {
                let again = answer["retryable"] == true || answer["code"] == "not_found";
                assert!(again, "refused for good: {frame}, {answer}");
                break;
            }
        }
    }
    None
}
