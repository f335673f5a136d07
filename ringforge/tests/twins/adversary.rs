//! The neighbour: a tenant that does all it can to be noticed. Its agents have the other's names and use its keys, tags and
//! kinds, send what they have learnt of it, flood, and leave sockets open. Everything it says holds one of its canaries.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use ringforge_sim::{
    rng::Rng,
    tally::lock,
    vocabulary::{clients::Client, commands},
};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config, tungstenite::Message};

use crate::normal::{id_prefix, words};

/// Agents at a time, each over one connection after another.
const ATTACKERS: usize = 6;
/// Frames that one sends before it looks at the answers.
const BURST: u64 = 64;
/// Sockets that one leaves open.
const LEFT_OPEN_MAX: usize = 8;
/// How long one listens for answers at most.
const LISTEN: Duration = Duration::from_millis(500);
/// What is learnt of the other is forgotten beyond this.
const LOOT_MAX: usize = 4_096;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Ids of the victim, as if somebody told.
#[derive(Default)]
pub struct Loot(Mutex<Vec<String>>);

impl Loot {
    /// Every id in a frame.
    pub fn take(&self, frame: &Value) {
        let text = frame.to_string();
        let mut loot = lock(&self.0);
        loot.extend(words(&text).map(|(word, _)| word).filter(|word| id_prefix(word).is_some()).map(str::to_owned));
        let surplus = loot.len().saturating_sub(LOOT_MAX);
        loot.drain(..surplus);
    }

    fn one(&self, prefix: &str, rng: &mut Rng) -> String {
        let loot = lock(&self.0);
        let known: Vec<&String> = loot.iter().filter(|id| id.starts_with(prefix)).collect();
        if known.is_empty() { format!("{prefix}nothing") } else { (*rng.pick(&known)).clone() }
    }
}

/// How to get in.
#[derive(Clone)]
pub struct Way {
    /// Where agents connect.
    pub url: String,
    /// The adversary's keys, one for each of its fleets.
    pub keys: Vec<String>,
    /// A key of the victim.
    pub victim: String,
    /// A fleet of the victim.
    pub fleet: String,
}

/// What the attackers have together.
pub struct Adversary {
    /// 128 bits each, in everything that an attacker says.
    pub canaries: Vec<String>,
    /// Every id that an attacker was given.
    pub ids: Mutex<BTreeSet<String>>,
    /// Commands that were answered.
    pub answered: AtomicU64,
    /// Connections that came in.
    pub entered: AtomicU64,
    /// Connections that were refused.
    pub refused: AtomicU64,
    way: Way,
    loot: Arc<Loot>,
    stopping: AtomicBool,
}

impl Adversary {
    /// Its attackers are on the way.
    pub fn attack(way: Way, loot: Arc<Loot>, seed: u64) -> (Arc<Self>, Vec<JoinHandle<()>>) {
        let mut rng = Rng::new(!seed);
        let canaries = (0..ATTACKERS).map(|_| format!("{:016x}{:016x}", rng.word(), rng.word())).collect();
        let adversary = Arc::new(Self {
            canaries,
            ids: Mutex::default(),
            answered: AtomicU64::new(0),
            entered: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            way,
            loot,
            stopping: AtomicBool::new(false),
        });
        let attackers = (0..ATTACKERS).map(|number| {
            let attacker =
                Attacker { adversary: Arc::clone(&adversary), number, rng: rng.fork(), left_open: Vec::new() };
            tokio::spawn(attacker.go_on())
        });
        let attackers = attackers.collect();
        (adversary, attackers)
    }

    /// That is enough.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    fn stops(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

/// One attacker.
struct Attacker {
    adversary: Arc<Adversary>,
    number: usize,
    rng: Rng,
    left_open: Vec<Socket>,
}

impl Attacker {
    async fn go_on(mut self) {
        while !self.adversary.stops() {
            let Ok((mut socket, _)) = connect_async_with_config(&self.adversary.way.url, None, true).await else {
                continue;
            };
            if self.rng.chance(100) {
                self.leave_open(socket);
                continue;
            }
            let auth = self.auth();
            if socket.send(Message::text(auth.to_string())).await.is_err() || !self.is_let_in(&mut socket).await {
                self.adversary.refused.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            self.adversary.entered.fetch_add(1, Ordering::Relaxed);
            self.flood(&mut socket).await;
            match self.rng.below(3) {
                0 => self.leave_open(socket),
                1 => drop(socket.close(None).await),
                _ => {}
            }
        }
    }

    fn leave_open(&mut self, socket: Socket) {
        if self.left_open.len() == LEFT_OPEN_MAX {
            self.left_open.remove(0);
        }
        self.left_open.push(socket);
    }

    fn canary(&self) -> &str {
        &self.adversary.canaries[self.number]
    }

    fn stolen(&mut self, prefix: &str) -> String {
        self.adversary.loot.one(prefix, &mut self.rng)
    }

    /// One of the victim's agents, by name, or one that nobody has.
    fn name(&mut self) -> String {
        let victim = format!("agent{}", self.rng.below(8));
        if self.rng.chance(700) { victim } else { format!("{victim}-{}", self.canary()) }
    }

    fn auth(&mut self) -> Value {
        let (canary, name) = (self.canary().to_owned(), self.name());
        let key = self.rng.pick(&self.adversary.way.keys).clone();
        let mut auth = json!({ "type": "auth", "api_key": key, "presence": self.rng.pick(&["each", "delta"]),
            "agent": { "name": name, "capabilities": ["sim", canary], "framework": canary, "version": canary,
                "metadata": { "m": canary } } });
        match self.rng.below(12) {
            0 => auth["last_event_id"] = json!(self.stolen("evt_")),
            1 => {
                auth["agent_id"] = json!(self.stolen("ag_"));
                auth["resume_token"] = json!(self.stolen("rt_"));
            }
            2 => auth["fleet"] = json!(self.adversary.way.fleet),
            3 => auth["api_key"] = json!(almost(&self.adversary.way.victim)),
            _ => {}
        }
        auth
    }

    async fn is_let_in(&mut self, socket: &mut Socket) -> bool {
        loop {
            let Ok(Some(Ok(message))) = timeout(10 * LISTEN, socket.next()).await else { return false };
            let Message::Text(text) = message else { continue };
            match self.hear(text.as_str())["type"].as_str() {
                Some("auth_ok") => return true,
                Some("auth_error") => return false,
                _ => {}
            }
        }
    }

    /// A few bursts.
    async fn flood(&mut self, socket: &mut Socket) {
        let fleet = 0;
        let mut client = Client::new(self.number, fleet, false, &mut self.rng);
        for _ in 0..=self.rng.below(8) {
            let burst = 1 + self.rng.below(BURST);
            for number in 0..burst {
                let text = self.attack(&mut client, number);
                if self.adversary.stops() || socket.feed(Message::text(text)).await.is_err() {
                    return;
                }
            }
            if socket.flush().await.is_err() {
                return;
            }
            let (patience, mut answers) = (Instant::now() + LISTEN, 0);
            while answers < burst && Instant::now() < patience {
                let Ok(Some(Ok(message))) = timeout(LISTEN, socket.next()).await else { break };
                let Message::Text(text) = message else { continue };
                let frame = self.hear(text.as_str());
                answers += u64::from(!frame["ref"].is_null());
            }
            self.adversary.answered.fetch_add(answers, Ordering::Relaxed);
        }
    }

    /// Notes what it was given.
    fn hear(&mut self, text: &str) -> Value {
        let frame: Value = serde_json::from_str(text).expect("frames are JSON");
        let given = ["agent_id", "session_id", "resume_token", "event_id", "message_id"];
        let given = given.iter().filter_map(|field| frame[*field].as_str());
        lock(&self.adversary.ids).extend(given.chain(frame["from"]["agent_id"].as_str()).map(str::to_owned));
        frame
    }

    /// A frame, or what is none.
    fn attack(&mut self, client: &mut Client, number: u64) -> String {
        let canary = self.canary().to_owned();
        let mut frame = match self.rng.below(100) {
            0..50 => {
                let peers = [self.name(), self.stolen("ag_")];
                commands::wish(client, &peers, false, &mut self.rng)
            }
            50..96 => self.forged(&canary),
            96..98 => json!({ "type": "memory", "action": "set", "key": "k/1",
                "value": canary.repeat(1 << self.rng.below(15)) }),
            _ => return self.garbage(&canary),
        };
        // In every field that there is room in; who does not know it takes no notice.
        let more = json!({ "ref": format!("{canary}-{number}"), "metadata": { "m": canary } });
        let fields = frame.as_object_mut().expect("frames are objects");
        for (name, value) in more.as_object().expect("an object") {
            fields.entry(name).or_insert_with(|| value.clone());
        }
        if self.rng.chance(300) {
            frame["idempotency_key"] = json!(format!("{}{canary}", self.rng.below(20)));
        }
        if frame["type"] == "activity" && frame["action"] == "broadcast" {
            frame["description"] = json!(canary);
            frame["event_tags"] = json!([canary]);
        }
        frame.to_string()
    }

    /// With what it learnt of the victim.
    fn forged(&mut self, canary: &str) -> Value {
        let (agent, event, message) = (self.stolen("ag_"), self.stolen("evt_"), self.stolen("msg_"));
        let key = (*self.rng.pick(&commands::KEYS)).to_owned();
        match self.rng.below(16) {
            0 => json!({ "type": "direct", "action": "send", "to": agent, "message": canary, "ack": true }),
            1 => json!({ "type": "direct", "action": "ack", "message_id": message }),
            2 => json!({ "type": "direct", "action": "send", "to": self.name(), "message": canary,
                "correlation_id": canary }),
            3 => json!({ "type": "activity", "action": "broadcast", "kind": "alert", "scope": "direct", "to": agent }),
            4 => json!({ "type": "activity", "action": "broadcast", "kind": "discovery", "caused_by": event,
                "agent_id": agent, "from": agent, "data": canary }),
            5 => json!({ "type": "activity", "action": "broadcast", "kind": "discovery", "scope": "tagged",
                "tags": ["red", canary], "fleet": self.adversary.way.fleet }),
            6 => json!({ "type": "memory", "action": "set", "key": key, "value": canary, "tags": ["red", canary] }),
            7 => json!({ "type": "memory", "action": "set", "key": format!("k/{canary}"), "value": "a needle" }),
            8 => json!({ "type": "memory", "action": "delete", "key": key }),
            9 => json!({ "type": "memory", "action": "history", "key": key, "cursor": event }),
            10 => json!({ "type": "memory", "action": "query", "author": agent, "text_search": canary }),
            11 => json!({ "type": "replay", "action": "request", "order": "oldest", "cursor": event,
                "agents": [agent], "streams": ["activity", "presence", "memory", "direct"], "limit": 50 }),
            12 => json!({ "type": "presence", "action": "update", "state": "busy", "task": canary,
                "agent_id": agent }),
            13 => json!({ "type": "memory", "action": "subscribe", "pattern": "**", "values": true,
                "snapshot": self.rng.chance(100) }),
            14 => {
                json!({ "type": "memory", "action": "subscribe", "pattern": format!("{canary}/{}/*", self.rng.below(400)) })
            }
            _ => json!({ "type": "activity", "action": "subscribe",
                "tags": ["red", "green", "blue", format!("{}{}", &canary[..8], self.rng.below(400))] }),
        }
    }

    fn garbage(&mut self, canary: &str) -> String {
        match self.rng.below(4) {
            0 => format!("[{canary:?}]"),
            1 => format!("{{\"type\":\"memory\",\"action\":{canary:?},\"ref\":1}}"),
            2 => json!({ "type": "session", "action": "started", "name": canary, "ref": canary }).to_string(),
            _ => format!("{{\"type\":{canary:?}"),
        }
    }
}

/// A key that is another in its last character.
fn almost(key: &str) -> String {
    let (rest, last) = key.split_at(key.len() - 1);
    format!("{rest}{}", if last == "0" { "1" } else { "0" })
}
