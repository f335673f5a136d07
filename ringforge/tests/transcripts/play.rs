//! Plays one scenario against a server, in one shape.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use serde_json::{Map, Value, json};

use crate::{
    pattern::{Extent, Known, filled, matches},
    scenario::{Scenario, Step, What},
    shape::Shape,
    support::{Client, Got, Server},
};

/// How long nothing may come where nothing shall come.
const QUIET: Duration = Duration::from_millis(80);
/// The same, when news are lost and the log is looked at once a second.
const QUIET_LOSSY: Duration = Duration::from_millis(1_200);
/// How long what must be seen may take. In processes apart the projectors of a former life are missed after six seconds; one that
/// died while it joined the others, after as long again.
const PATIENCE: Duration = Duration::from_secs(40);

/// A scenario being played.
pub struct Player<'a> {
    scenario: &'a Scenario,
    shape: Shape,
    extent: Extent,
    lossy: bool,
    clients: BTreeMap<String, Client>,
    names: BTreeMap<String, Value>,
    known: Known,
}

/// The tenant that a scenario has to itself.
pub fn tenant(scenario: &Scenario, shape: Shape) -> String {
    format!("{}-{}", scenario.name.replace('_', "-"), shape.text())
}

/// Plays it to the end; nobody may see anything more then.
///
/// # Errors
/// The line, and what was different.
pub async fn play(scenario: &Scenario, shape: Shape, server: &Mutex<Server>, lossy: bool) -> Result<(), String> {
    let extent = if scenario.needs.at_least { Extent::AtLeast } else { Extent::Exactly };
    let (clients, names, known) = (BTreeMap::new(), BTreeMap::new(), Known::new());
    let mut player = Player { scenario, shape, extent, lossy, clients, names, known };
    player.know(&locked(server));
    let (name, about, shape) = (&scenario.name, &scenario.needs.about, shape.text());
    for step in &scenario.steps {
        let done = player.step(step, server).await;
        done.map_err(|why| format!("{name}.jsonl:{} ({shape}) {}: {why}\n  about: {about}", step.line, step.who))?;
    }
    player.end().await.map_err(|why| format!("{name}.jsonl, at its end ({shape}): {why}\n  about: {about}"))
}

impl Player<'_> {
    /// Remembers the keys and ids of the tenant.
    fn know(&mut self, server: &Server) {
        let tenant = server.tenant(&tenant(self.scenario, self.shape)).clone();
        let mut know = |name: &str, value: &Value| self.known.insert(name.to_owned(), value.clone());
        know("operator_key", &server.ready["operator_key"]);
        know("admin_key", &tenant["admin_key"]);
        know("tenant", &tenant["id"]);
        for fleet in tenant["fleets"].as_array().into_iter().flatten() {
            let slug = fleet["slug"].as_str().unwrap_or_default();
            know(&format!("fleet.{slug}"), &fleet["id"]);
            know(&format!("key.{slug}"), &fleet["agent_key"]);
            if slug == "default" {
                know("fleet", &fleet["id"]);
                know("key", &fleet["agent_key"]);
            }
        }
    }

    async fn step(&mut self, step: &Step, server: &Mutex<Server>) -> Result<(), String> {
        let who = step.who.as_str();
        let url = locked(server).next_url().to_owned();
        match &step.what {
            What::Connect(headers) => self.connect(who, headers, &url).await,
            What::Auth(with) => self.auth(who, with).await,
            What::Enter { with, joined } => {
                self.connect(who, &Map::new(), &url).await?;
                self.auth(who, with).await?;
                self.entered(who, with, *joined).await
            }
            What::Leave => {
                let client = self.clients.remove(who).ok_or("is not connected")?;
                client.close().await;
                Ok(())
            }
            What::Send(frame) => {
                let frame = self.shape.sent(filled(frame, &self.known)?);
                self.client(who)?.send(&frame).await;
                Ok(())
            }
            What::Text(text) => {
                let text = filled(text, &self.known)?;
                let text = text.as_str().map_or_else(|| text.to_string(), str::to_owned);
                self.client(who)?.send_text(&text).await;
                Ok(())
            }
            What::Binary(text) => {
                self.client(who)?.send_binary(text.clone().into_bytes()).await;
                Ok(())
            }
            What::See(frames) => self.see(who, frames).await,
            What::SeeFlat(frame) => {
                let got = self.next(who).await?;
                self.compare(frame, &got)
            }
            What::SeeClose(code) => match self.client(who)?.next(PATIENCE).await {
                Got::Closed(got) if got == *code => {
                    self.clients.remove(who);
                    Ok(())
                }
                other => Err(format!("should be closed with {code}, not {}", said(&other))),
            },
            What::Quiet => self.quiet(who).await,
            What::Server(what) => tokio::task::block_in_place(|| serve(what, &mut locked(server))),
            What::Wait(ms) => {
                tokio::time::sleep(Duration::from_millis(*ms)).await;
                Ok(())
            }
        }
    }

    fn client(&mut self, who: &str) -> Result<&mut Client, String> {
        self.clients.get_mut(who).ok_or_else(|| "is not connected".to_owned())
    }

    async fn next(&mut self, who: &str) -> Result<Value, String> {
        match self.client(who)?.next(PATIENCE).await {
            Got::Frame(frame) => Ok(frame),
            other => Err(format!("should see a frame, not {}", said(&other))),
        }
    }

    fn compare(&mut self, expected: &Value, got: &Value) -> Result<(), String> {
        let mut known = self.known.clone();
        let compared = matches(expected, got, self.extent, &mut known);
        if compared.is_ok() {
            self.known = known;
        }
        compared.map_err(|why| format!("{why}\n  expected {expected}\n  got      {got}"))
    }

    async fn connect(&mut self, who: &str, headers: &Map<String, Value>, url: &str) -> Result<(), String> {
        let mut more = Vec::new();
        for (name, value) in headers {
            let value = filled(value, &self.known)?;
            match (name.as_str(), value.as_str()) {
                ("bearer", Some(token)) => more.push(("authorization", format!("Bearer {token}"))),
                _ => return Err(format!("there is no header {name}")),
            }
        }
        self.clients.insert(who.to_owned(), Client::connect_with(url, &more).await);
        let greeting = json!({ "type": "auth_required", "version": "1.0", "versions": ["1.0"], "server": "<server>" });
        let got = self.next(who).await?;
        self.compare(&greeting, &got)
    }

    async fn auth(&mut self, who: &str, with: &Map<String, Value>) -> Result<(), String> {
        let mut auth = Map::from_iter([
            ("type".to_owned(), json!("auth")),
            ("api_key".to_owned(), json!("$key")),
            ("agent".to_owned(), json!({ "name": who })),
        ]);
        auth.extend(with.clone());
        auth.retain(|_, value| !value.is_null());
        self.names.insert(who.to_owned(), auth.get("agent").cloned().unwrap_or_default());
        let frame = self.shape.sent(filled(&Value::Object(auth), &self.known)?);
        let client = self.client(who)?;
        client.batch = with.get("batch") == Some(&json!(true));
        client.send(&frame).await;
        Ok(())
    }

    /// What everybody sees who comes in: `auth_ok`, the roster, that it joined.
    async fn entered(&mut self, who: &str, with: &Map<String, Value>, joined: bool) -> Result<(), String> {
        let got = self.next(who).await?;
        let fields = if self.shape == Shape::Wrapped { &got["payload"] } else { &got };
        let slug = with.get("fleet").and_then(Value::as_str).unwrap_or("default");
        let fleet = if slug == "default" { "$fleet".to_owned() } else { format!("$fleet.{slug}") };
        let expected = json!({
            "type": "auth_ok", "agent_id": format!("<agent_id:{who}>"), "name": self.names[who]["name"],
            "session_id": "<session_id>", "resume_token": "<resume_token>",
            "fleet": { "id": fleet, "name": slug, "tenant_id": "$tenant" },
            "config": fields["config"], "server": { "version": "<version>", "node": "<node>" },
        });
        let (token, session) = (fields["resume_token"].clone(), fields["session_id"].clone());
        self.compare(&self.shape.seen(expected), &got)?;
        self.known.insert(format!("{who}.token"), token);
        self.known.insert(format!("{who}.session"), session);
        let roster = self.next(who).await?;
        if roster["event"] != "roster" {
            return Err(format!("should see the roster, not {roster}"));
        }
        if joined { self.see(who, &[json!(format!("joined {who}"))]).await } else { Ok(()) }
    }

    /// Sees these frames next, in any order.
    async fn see(&mut self, who: &str, frames: &[Value]) -> Result<(), String> {
        let mut wanted: Vec<Value> = Vec::new();
        for frame in frames {
            wanted.push(self.shape.seen(self.meant(frame)?));
        }
        while !wanted.is_empty() {
            let got = self.next(who).await?;
            let compared: Vec<Result<(), String>> =
                wanted.clone().iter().map(|frame| matches(frame, &got, self.extent, &mut self.known.clone())).collect();
            match compared.iter().position(Result::is_ok) {
                Some(at) => {
                    let frame = wanted.remove(at);
                    self.compare(&frame, &got)?;
                }
                None if self.extent == Extent::AtLeast && may_stand_between(&got) => {}
                None => return wanted.first().map_or(Ok(()), |frame| self.compare(frame, &got)),
            }
        }
        Ok(())
    }

    /// `joined bob` and `left bob` as the whole frame.
    fn meant(&self, frame: &Value) -> Result<Value, String> {
        let Some(text) = frame.as_str() else { return Ok(frame.clone()) };
        let (event, who) = text.split_once(' ').ok_or_else(|| format!("what is {text}?"))?;
        let state = match event {
            "joined" => "online",
            "left" => "offline",
            _ => return Err(format!("what is {text}?")),
        };
        let profile = self.names.get(who).ok_or_else(|| format!("nobody is called {who}"))?;
        let capabilities = profile.get("capabilities").cloned().unwrap_or_else(|| json!([]));
        Ok(json!({
            "type": "presence", "event": event, "event_id": "<event_id>", "position": "<position>",
            "agent_id": format!("<agent_id:{who}>"), "name": profile["name"], "state": state, "task": null,
            "capabilities": capabilities, "load": null, "since": "<time>", "timestamp": "<time>",
        }))
    }

    async fn quiet(&mut self, who: &str) -> Result<(), String> {
        let wait = if self.lossy { QUIET_LOSSY } else { QUIET };
        let at_least = self.extent == Extent::AtLeast;
        match self.client(who)?.next(wait).await {
            Got::Nothing => Ok(()),
            Got::Frame(frame) if at_least && may_stand_between(&frame) => Ok(()),
            other => Err(format!("should see nothing, not {}", said(&other))),
        }
    }

    /// Nobody sees anything more: a question is answered after the verdicts of all commands before it, and what these
    /// showed to others has arrived a moment later.
    async fn end(&mut self) -> Result<(), String> {
        let open: Vec<String> = self.clients.keys().cloned().collect();
        for who in &open {
            let question = json!({ "type": "presence", "action": "roster", "limit": 1, "ref": "almost" });
            self.client(who)?.send(&question).await;
            loop {
                let got = self.next(who).await?;
                if got["ref"] == "almost" {
                    break;
                }
                if self.extent == Extent::Exactly || !may_stand_between(&got) {
                    return Err(format!("{who} also saw {got}"));
                }
            }
        }
        tokio::time::sleep(if self.lossy { QUIET_LOSSY } else { QUIET }).await;
        for who in open {
            self.client(&who)?.send(&json!({ "type": "ping", "ref": "the end" })).await;
            let got = loop {
                let got = self.next(&who).await?;
                if self.extent == Extent::Exactly || !may_stand_between(&got) {
                    break got;
                }
            };
            let pong = json!({ "type": "pong", "ref": "the end" });
            matches(&pong, &got, Extent::Exactly, &mut Known::new()).map_err(|_| format!("{who} also saw {got}"))?;
        }
        Ok(())
    }
}

fn locked(server: &Mutex<Server>) -> MutexGuard<'_, Server> {
    server.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn serve(what: &str, server: &mut Server) -> Result<(), String> {
    match what {
        "stop" => server.ask_to_end(),
        "ended" => return if server.ended() == Some(0) { Ok(()) } else { Err("did not end well".to_owned()) },
        "kill" => server.kill9(),
        "lose the log" => server.lose_the_log(),
        "start" => return server.try_restart(),
        other => return Err(format!("the server cannot {other}")),
    }
    Ok(())
}

/// What `at_least` scenarios let pass: acks and pings.
fn may_stand_between(frame: &Value) -> bool {
    frame["type"] == "ping" || frame["event"].as_str().is_some_and(|event| event.ends_with("_ok"))
}

fn said(got: &Got) -> String {
    match got {
        Got::Frame(frame) => frame.to_string(),
        Got::Closed(code) => format!("the end ({code})"),
        Got::Nothing => "nothing".to_owned(),
    }
}
