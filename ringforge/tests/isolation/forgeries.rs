//! What is made up or taken from elsewhere: event ids as cursors, and names and ids of agents of other fleets.

use serde_json::{Value, json};

use crate::{
    support::{Client, Server},
    victim::Victim,
    world,
};

/// An agent that asks in one of the two shapes.
struct Asker {
    client: Client,
    wrapped: bool,
    number: u32,
}

impl Asker {
    /// The answer, flat and without what differs from one question to the next.
    async fn ask(&mut self, mut frame: Value) -> Value {
        self.number += 1;
        frame["ref"] = json!(self.number);
        if self.wrapped {
            let mut payload = frame.clone();
            let envelope = payload.as_object_mut().expect("an object");
            envelope.retain(|name, _| !["type", "action", "ref"].contains(&name.as_str()));
            frame =
                json!({ "type": frame["type"], "action": frame["action"], "ref": frame["ref"], "payload": payload });
        }
        let mut reply = self.client.ask(&frame).await;
        let answer = reply.as_object_mut().expect("an object");
        if let Some(Value::Object(payload)) = answer.remove("payload") {
            answer.extend(payload);
        }
        for changing in ["ref", "event_id", "position"] {
            answer.remove(changing);
        }
        reply
    }
}

async fn enter(server: &Server, (tenant, fleet): (&str, &str), wrapped: bool) -> Asker {
    let key = server.key(tenant, fleet);
    let mut client = Client::connect(server.ws_url()).await;
    let (auth, fields) = (json!({ "type": "auth" }), json!({ "api_key": key, "agent": { "name": "asker" } }));
    let mut frame = if wrapped { json!({ "payload": fields }) } else { fields };
    frame.as_object_mut().expect("an object").extend(auth.as_object().expect("an object").clone());
    client.send(&frame).await;
    client.frame_where(|frame| frame["type"] == "auth_ok").await;
    Asker { client, wrapped, number: 0 }
}

/// An event of a fleet.
async fn event(server: &Server, tenant: &str, fleet: &str) -> String {
    let (mut client, _) = Client::enter(server.ws_url(), server.key(tenant, fleet), "author", json!({})).await;
    let set = json!({ "type": "memory", "action": "set", "key": "k", "value": 1, "ref": 1 });
    client.ask(&set).await["event_id"].as_str().expect("an event id").to_owned()
}

/// Made from a good one: another character at every place, shorter, longer, in pieces.
fn forged(good: &str) -> Vec<String> {
    let changed = (0..good.len()).map(|at| {
        let other = if &good[at..=at] == "0" { "1" } else { "0" };
        format!("{}{other}{}", &good[..at], &good[at + 1..])
    });
    let odd = [
        String::new(),
        good[..good.len() - 1].to_owned(),
        good[1..].to_owned(),
        format!("{good}0"),
        format!("{good} "),
        format!("{good}{good}"),
        good.to_uppercase(),
        good.replace("evt_", "EVT_"),
        "evt_".to_owned(),
        format!("evt_{}", "z".repeat(good.len() - 4)),
        format!("evt_{}", "0".repeat(good.len() - 4)),
        "0".to_owned(),
        "-1".to_owned(),
    ];
    changed.chain(odd).filter(|text| text != good).collect()
}

#[tokio::test]
async fn a_forged_or_foreign_cursor_opens_nothing() {
    let (server, elsewhere) = (world(), world());
    let good = event(&server, "acme", "default").await;
    let mut foreign = vec![event(&elsewhere, "acme", "default").await];
    for (tenant, fleet) in crate::LAIRS {
        foreign.push(event(&server, tenant, fleet).await);
    }
    let every: Vec<String> = forged(&good).into_iter().chain(foreign.clone()).collect();
    for wrapped in [false, true] {
        let mut asker = enter(&server, ("acme", "default"), wrapped).await;
        for (area, action) in [("replay", "request"), ("memory", "history")] {
            let with = |cursor: &str| json!({ "type": area, "action": action, "key": "k", "cursor": cursor });
            for cursor in &every {
                let refused = asker.ask(with(cursor)).await;
                assert_eq!(
                    (&refused["code"], &refused["details"]["field"]),
                    (&json!("invalid_message"), &json!("cursor")),
                    "{area} `{cursor}` got {refused}"
                );
            }
            assert_ne!(asker.ask(with(&good)).await["type"], "error");
        }
        for (action, cursor) in
            [("query", "o-1"), ("query", "o4294967296"), ("query", "1"), ("query", &good), ("list", &good)]
        {
            let refused = asker.ask(json!({ "type": "memory", "action": action, "cursor": cursor })).await;
            assert_eq!(refused["code"], "invalid_message", "{action} {cursor}");
        }
    }
    let samples = forged(&good).into_iter().step_by(6).chain(foreign);
    for (at, event_id) in samples.enumerate() {
        let more = json!({ "last_event_id": event_id });
        let name = format!("resumer-{at}");
        let (mut client, _) = Client::enter(server.ws_url(), server.key("acme", "default"), &name, more).await;
        client.frame().await;
        let resumed = client.frame().await;
        assert_eq!(
            (&resumed["event"], &resumed["recovered"]),
            (&json!("resumed"), &json!(false)),
            "{event_id}: {resumed}"
        );
        assert_eq!(resumed["reason"], "invalid", "{event_id}: {resumed}");
    }
    let more = json!({ "last_event_id": good });
    let (mut client, _) = Client::enter(server.ws_url(), server.key("acme", "default"), "resumer", more).await;
    assert_eq!(client.frame_where(|frame| frame["event"] == "resumed").await["recovered"], true);
}

#[tokio::test]
async fn an_agent_of_another_fleet_is_as_unknown_as_one_that_never_was() {
    let server = world();
    let victim = Victim::settle(&server).await;
    let last = if victim.agent_id.ends_with('0') { '1' } else { '0' };
    let never = format!("{}{last}", &victim.agent_id[..victim.agent_id.len() - 1]);
    for (lair, wrapped) in
        [(crate::LAIRS[0], false), (crate::LAIRS[0], true), (crate::LAIRS[1], false), (crate::LAIRS[1], true)]
    {
        let mut asker = enter(&server, lair, wrapped).await;
        for send in [
            json!({ "type": "direct", "action": "send", "message": 1 }),
            json!({ "type": "activity", "action": "broadcast", "scope": "direct", "kind": "custom" }),
        ] {
            let mut told = Vec::new();
            for to in [&never, "nobody", &victim.agent_id, &victim.name] {
                let mut frame = send.clone();
                frame["to"] = json!(to);
                told.push(asker.ask(frame).await);
            }
            assert_eq!(told[0]["code"], "not_found", "{told:?}");
            assert!(told.iter().all(|reply| *reply == told[0]), "{told:?}");
        }
    }
}
