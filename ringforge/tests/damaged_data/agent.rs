//! An agent that writes, and one that asks for everything that was written.

use serde_json::{Value, json};

use crate::support::{Client, Got, SOON, Server};

/// Memory keys of a load.
pub const KEYS: usize = 12;

/// Comes into the first fleet.
pub async fn enter(server: &Server, name: &str) -> Client {
    Client::enter(server.ws_url(), server.first_key(), name, json!({ "presence": "none" })).await.0
}

/// What the `number`th write puts there.
pub fn value(number: usize) -> String {
    format!("<<value {number:06}>>")
}

/// Writes `from..upto`, and gives the acknowledgements.
pub async fn write(client: &mut Client, from: usize, upto: usize) -> Vec<Value> {
    for number in from..upto {
        let key = format!("key {:03}", number % KEYS);
        let set = json!({ "type": "memory", "action": "set", "key": key, "value": value(number), "ref": number,
            "tags": [format!("tag {}", number % 5)] });
        client.send(&set).await;
    }
    let mut acks = Vec::new();
    while acks.len() < upto - from {
        let ack = client.frame_where(|frame| frame["ref"].is_number()).await;
        assert_eq!(ack["event"], "set_ok", "{ack}");
        acks.push(ack);
    }
    acks
}

/// Everything that was written, as it is told: entries, histories, a replay. `None`: not all of it is told any more.
pub async fn answers(server: &Server) -> Option<Vec<Value>> {
    let more = json!({ "presence": "none" });
    let (mut client, _) = Client::try_enter(server.ws_url(), server.first_key(), "reader", more).await?;
    let mut told =
        ask(&mut client, json!({ "type": "memory", "action": "list", "limit": 100, "values": true })).await?;
    for key in 0..KEYS {
        let key = format!("key {key:03}");
        told.extend(
            ask(&mut client, json!({ "type": "memory", "action": "history", "key": key, "limit": 100 })).await?,
        );
    }
    for tag in 0..5 {
        let tagged = json!({ "type": "memory", "action": "query", "tags": [format!("tag {tag}")], "limit": 100 });
        told.extend(ask(&mut client, tagged).await?);
    }
    let replay = json!({ "type": "replay", "action": "request", "streams": ["memory"], "limit": 1_000 });
    told.extend(ask(&mut client, replay).await?);
    client.close().await;
    Some(told)
}

/// All frames that answer a question; `None` if it fails.
async fn ask(client: &mut Client, mut question: Value) -> Option<Vec<Value>> {
    question["ref"] = json!("question");
    client.send(&question).await;
    let mut told = Vec::new();
    loop {
        match client.next(SOON).await {
            Got::Frame(frame) if frame["ref"] != "question" => {}
            Got::Frame(frame) if frame["type"] == "error" => return None,
            Got::Frame(mut frame) => {
                // When it was asked is another time each time.
                frame["to"].take();
                let more = matches!(frame["event"].as_str(), Some("start" | "item"));
                told.push(frame);
                if !more {
                    return Some(told);
                }
            }
            Got::Closed(_) => return None,
            Got::Nothing => panic!("not answered: {question}"),
        }
    }
}
