//! Who is attacked: an agent whose every word holds a canary, and what an attacker may have learnt of it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Client, Got, Server};

/// 128 bits in everything that the victim says.
pub const CANARY: &str = "c0ffee5e9a1d4b7782f3d6019be4a5c7";

/// What an attacker may have learnt: names and ids, never contents.
pub struct Victim {
    /// Its tenant.
    pub tenant_id: String,
    /// Its fleet.
    pub fleet_id: String,
    /// Its id.
    pub agent_id: String,
    /// Its session.
    pub session_id: String,
    /// What proves that it is itself.
    pub resume_token: String,
    /// Its name.
    pub name: String,
    /// Something it can do.
    pub capability: String,
    /// A tag it uses and has subscribed to.
    pub tag: String,
    /// A memory key it wrote.
    pub key: String,
    /// Another, which attackers only read.
    pub other_key: String,
    /// An event of its fleet.
    pub event_id: String,
    /// A message that was sent to it.
    pub message_id: String,
    /// One it has used.
    pub idempotency_key: String,
    /// Its connection.
    pub client: Client,
    /// A friend in its fleet.
    pub friend: Client,
    /// Everything it was shown.
    pub shown: Vec<Value>,
}

impl Victim {
    /// Comes in, subscribes to everything, says and writes everything.
    pub async fn settle(server: &Server) -> Self {
        let key = server.key("acme", "default");
        let agent = |name: &str| {
            json!({ "presence": "each", "agent": { "name": name, "capabilities": ["lockpicking", CANARY],
                "framework": CANARY, "version": CANARY, "metadata": { "m": CANARY } } })
        };
        let (mut client, welcome) = Client::enter(server.ws_url(), key, "vera", agent("vera")).await;
        let hidden = format!("friend-{CANARY}");
        let (friend, _) = Client::enter(server.ws_url(), key, &hidden, agent(&hidden)).await;
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let mut event_id = String::new();
        for (number, mut frame) in words(&hidden).into_iter().enumerate() {
            frame["ref"] = json!(number);
            let reply = client.ask(&frame).await;
            assert_ne!(reply["type"], "error", "{reply}");
            event_id = text(&reply["event_id"]);
        }
        let mut victim = Self {
            tenant_id: text(&server.tenant("acme")["id"]),
            fleet_id: text(&server.fleet("acme", "default")["id"]),
            agent_id: text(&welcome["agent_id"]),
            session_id: text(&welcome["session_id"]),
            resume_token: text(&welcome["resume_token"]),
            name: "vera".to_owned(),
            capability: "lockpicking".to_owned(),
            tag: "heist".to_owned(),
            key: "plan".to_owned(),
            other_key: "notes".to_owned(),
            event_id,
            message_id: String::new(),
            idempotency_key: "once".to_owned(),
            client,
            friend,
            shown: Vec::new(),
        };
        let send =
            json!({ "type": "direct", "action": "send", "to": "vera", "payload": CANARY, "ack": true, "ref": 1 });
        victim.message_id = text(&victim.friend.ask(&send).await["message_id"]);
        victim.client.frame_where(|frame| frame["event"] == "message").await;
        victim
    }

    /// Takes everything it was shown so far.
    pub async fn look(&mut self) {
        self.client.send(&json!({ "type": "ping", "ref": "now" })).await;
        while let Got::Frame(frame) = self.client.next(Duration::from_millis(300)).await {
            self.shown.push(frame);
        }
    }

    /// Its world is as it left it, and its subscriptions hold.
    pub async fn is_untouched(&mut self) {
        for key in [&self.key, &self.other_key] {
            let get = json!({ "type": "memory", "action": "get", "key": key, "ref": "get" });
            let found = self.client.ask(&get).await;
            assert_eq!(found["entry"]["version"], 1, "{found}");
            assert_eq!(found["entry"]["value"], CANARY, "{found}");
        }
        let roster = json!({ "type": "presence", "action": "roster", "ref": "roster" });
        let roster = self.client.ask(&roster).await;
        assert_eq!(roster["agents"].as_array().map(Vec::len), Some(2), "{roster}");
        let own = |agent: &&Value| agent["agent_id"] == self.agent_id.as_str();
        let own = roster["agents"].as_array().and_then(|agents| agents.iter().find(own)).expect("it is there");
        assert_eq!((&own["state"], &own["task"]), (&json!("busy"), &json!(CANARY)), "{own}");
        let said = json!({ "type": "activity", "action": "broadcast", "scope": "tagged", "tags": [self.tag],
            "kind": "alert", "description": "still here", "ref": 2 });
        self.friend.ask(&said).await;
        self.client.frame_where(|frame| frame["activity"]["description"] == "still here").await;
        let set = json!({ "type": "memory", "action": "set", "key": "new", "value": 1, "ref": 3 });
        self.friend.ask(&set).await;
        self.client.frame_where(|frame| frame["event"] == "changed" && frame["key"] == "new").await;
        let ack = json!({ "type": "direct", "action": "ack", "message_id": self.message_id, "ref": "ack" });
        assert_eq!(self.client.ask(&ack).await["event"], "ack_ok");
    }
}

fn words(friend: &str) -> Vec<Value> {
    let hidden = format!("hidden/{CANARY}");
    let write = |key: &str| {
        json!({ "type": "memory", "action": "set", "key": key, "value": CANARY, "tags": ["heist", CANARY],
            "metadata": { "m": 1, "c": CANARY } })
    };
    vec![
        json!({ "type": "presence", "action": "update", "state": "busy", "task": CANARY, "metadata": { "m": CANARY } }),
        json!({ "type": "activity", "action": "subscribe", "tags": ["heist", CANARY], "kinds": ["custom"] }),
        json!({ "type": "memory", "action": "subscribe", "pattern": "*", "values": true }),
        json!({ "type": "activity", "action": "broadcast", "scope": "tagged", "tags": ["heist"], "kind": "discovery",
            "description": CANARY, "data": { "d": CANARY }, "metadata": { "m": CANARY }, "event_tags": [CANARY] }),
        json!({ "type": "activity", "action": "broadcast", "kind": "discovery", "description": CANARY,
            "idempotency_key": "once" }),
        write("plan"),
        write("notes"),
        write(&hidden),
        json!({ "type": "direct", "action": "send", "to": friend, "payload": CANARY, "correlation_id": CANARY }),
    ]
}
