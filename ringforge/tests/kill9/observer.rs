//! A client that only looks: everything it was shown, in that order, across all its connections.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Value, json};

use crate::{
    run::{END, Run, TAG},
    support::{Client, Got, SOON},
};

/// Everything that one observer was shown.
#[derive(Debug, Default)]
pub struct Seen {
    /// Broadcasts and memory changes: position and what was shown, in the order of arrival.
    pub events: Vec<(u64, Value)>,
    /// Direct messages by id; a crash may deliver one twice.
    pub messages: BTreeMap<String, String>,
    /// How often it came back.
    pub resumes: u32,
    /// Whether the last broadcast was among them.
    pub ended: bool,
    cursor: Option<String>,
}

/// One observer.
pub struct Observer {
    run: Arc<Run>,
    name: String,
    /// What it saw.
    pub seen: Seen,
}

impl Observer {
    /// Comes in for the first time and subscribes; from its last acknowledgement on it sees everything.
    pub async fn enter(run: Arc<Run>, url: &str, name: &str) -> (Self, Client) {
        let (mut client, _) = Client::enter(url, &run.key, name, json!({ "presence": "none" })).await;
        client.ask(&json!({ "type": "memory", "action": "subscribe", "pattern": "*", "values": true, "ref": 1 })).await;
        let tags = json!({ "type": "activity", "action": "subscribe", "tags": [TAG], "ref": 2 });
        let subscribed = client.ask(&tags).await;
        let mut observer = Self { run, name: name.to_owned(), seen: Seen::default() };
        observer.take(&subscribed);
        (observer, client)
    }

    /// Watches every life of the server, from a first connection on, until the last broadcast.
    pub async fn watch(mut self, mut client: Client) -> Seen {
        let run = Arc::clone(&self.run);
        while !self.look(&mut client).await {
            let mut tries = run.tries();
            client = loop {
                if let Some(client) = self.resume(&tries.url().await).await {
                    break client;
                }
            };
        }
        client.close().await;
        self.seen
    }

    /// Comes back where it left; `None` if the server went away.
    pub async fn resume(&mut self, url: &str) -> Option<Client> {
        let more = json!({ "presence": "none", "last_event_id": self.seen.cursor });
        let (client, _) = Client::try_enter(url, &self.run.key, &self.name, more).await?;
        self.seen.resumes += 1;
        Some(client)
    }

    /// Reads until the last broadcast (true) or the end of the connection.
    pub async fn look(&mut self, client: &mut Client) -> bool {
        loop {
            match client.next(SOON).await {
                Got::Frame(frame) => self.take(&frame),
                Got::Closed(_) => return false,
                Got::Nothing => panic!("{} sees nothing any more", self.name),
            }
            if self.seen.ended {
                return true;
            }
        }
    }

    /// Takes one frame.
    pub fn take(&mut self, frame: &Value) {
        let seen = &mut self.seen;
        let event = frame["event"].as_str().unwrap_or_default();
        match (frame["type"].as_str().unwrap_or_default(), event) {
            ("system", "resumed") => assert_eq!(frame["recovered"], true, "{}: {frame}", self.name),
            ("direct", "message") => {
                let text = |value: &Value| value.as_str().expect("a string").to_owned();
                seen.messages.insert(text(&frame["message_id"]), text(&frame["payload"]["by"]));
            }
            ("activity", "broadcast") | ("memory", "changed") => {
                let position = frame["position"].as_u64().expect("an event has a position");
                let last = seen.events.last().map_or(0, |(position, _)| *position);
                assert!(position > last, "{}: position {position} after {last}", self.name);
                seen.ended |= frame["activity"]["description"] == END;
                seen.events.push((position, frame.clone()));
                seen.cursor = frame["event_id"].as_str().map(str::to_owned);
            }
            _ if seen.cursor.is_none() => seen.cursor = frame["event_id"].as_str().map(str::to_owned),
            _ => {}
        }
    }
}

impl Seen {
    /// What it saw of messages: the commands' names.
    pub fn named_in_messages(&self) -> BTreeSet<&str> {
        self.messages.values().map(String::as_str).collect()
    }
}
