//! The tenant whose life is compared. One driver moves all its agents: the next thing happens once everyone has been shown
//! what came of the one before, so the seed alone decides the order of its log.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use ringforge_sim::{
    history::{Link, Resume},
    rng::Rng,
    vocabulary::{
        clients::{Client, Phase},
        commands::{self, KEYS},
    },
};
use serde_json::{Value, json};
use tokio::{net::TcpStream, sync::mpsc};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config, tungstenite::Message};

use crate::adversary::Loot;

/// The agents of each fleet, all of one tenant.
pub const AGENTS: [usize; 2] = [5, 3];
/// The first agent of each fleet: it never leaves, watches everything, and tells the others when a step is over.
const CLERKS: [usize; 2] = [0, AGENTS[0]];
/// The second: it never leaves either, and is told of presence with all that is gathered for others like it.
const GATHERERS: [usize; 2] = [CLERKS[0] + 1, CLERKS[1] + 1];
/// Presence of an agent that changes again within this is told later, together with what happens meanwhile.
const FLAPPING: Duration = Duration::from_millis(1_100);
/// How long anything may take that must happen.
const PATIENCE: Duration = Duration::from_mins(1);
/// Messages of all connections that wait for the driver.
const UNREAD_MAX: usize = 1_024;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What came over a connection.
struct Heard {
    who: usize,
    link: usize,
    /// `Err`: its end, with the close code.
    said: Result<String, u16>,
}

/// A tenant with its agents.
pub struct Tenant {
    /// The agents and what they wrote down.
    pub clients: Vec<Client>,
    /// Every message of every connection, and how each ended.
    pub bytes: Vec<String>,
    url: String,
    keys: Vec<String>,
    lines: Vec<Option<SplitSink<Socket, Message>>>,
    heard: mpsc::Receiver<Heard>,
    post: mpsc::Sender<Heard>,
    /// Each agent's last connection that has ended, counted from 1.
    ended: Vec<usize>,
    /// Of each agent, the last step of whose end it knows.
    ticked: Vec<u64>,
    ticks: u64,
    /// Messages that wait for an agent that is away.
    mail: Vec<Vec<String>>,
    /// When everyone was last told of an agent's presence.
    told: Vec<Option<Instant>>,
    loot: Arc<Loot>,
    rng: Rng,
}

impl Tenant {
    /// One whose agents have not come in yet. `keys`: the key of each fleet.
    pub fn new(url: &str, keys: Vec<String>, seed: u64, loot: Arc<Loot>) -> Self {
        let mut rng = Rng::new(seed);
        let fleets = AGENTS.iter().enumerate().flat_map(|(fleet, size)| std::iter::repeat_n(fleet, *size));
        let mut clients: Vec<Client> =
            fleets.enumerate().map(|(number, fleet)| Client::new(number, fleet, false, &mut rng)).collect();
        for (clerk, gatherer) in CLERKS.into_iter().zip(GATHERERS) {
            (clients[clerk].presence, clients[gatherer].presence) = ("each", "delta");
        }
        let (post, heard) = mpsc::channel(UNREAD_MAX);
        Self {
            bytes: Vec::new(),
            url: url.to_owned(),
            keys,
            lines: clients.iter().map(|_| None).collect(),
            heard,
            post,
            ended: vec![0; clients.len()],
            ticked: vec![0; clients.len()],
            ticks: 0,
            mail: vec![Vec::new(); clients.len()],
            told: vec![None; clients.len()],
            loot,
            rng,
            clients,
        }
    }

    /// Lives for so many steps.
    pub async fn live(mut self, steps: usize) -> Self {
        let others = (0..self.clients.len()).filter(|who| !GATHERERS.contains(who));
        for who in GATHERERS.into_iter().chain(others) {
            self.enter(who).await;
        }
        for clerk in CLERKS {
            let watch = json!({ "type": "memory", "action": "subscribe", "pattern": "**", "values": true });
            self.ask(clerk, watch, None).await;
        }
        for _ in 0..steps {
            let who = self.rng.index(self.clients.len());
            self.step(who).await;
            self.tick(self.clients[who].fleet).await;
        }
        self
    }

    /// An agent does something.
    async fn step(&mut self, who: usize) {
        let (is_clerk, stays) = (CLERKS.contains(&who), CLERKS.contains(&who) || GATHERERS.contains(&who));
        match self.rng.below(100) {
            _ if self.lines[who].is_none() => self.enter(who).await,
            0..8 if !stays => self.leave(who).await,
            8..18 if !stays => self.take_over(who).await,
            0..40 if is_clerk => self.send(who).await,
            18..24 => self.expire(who).await,
            24..45 => {
                let question = questions(&self.peers(who), &mut self.rng);
                self.ask(who, question, None).await;
            }
            _ => self.wish(who).await,
        }
    }

    fn peers(&self, who: usize) -> Vec<String> {
        let fleet = self.clients[who].fleet;
        self.clients.iter().filter(|peer| peer.fleet == fleet).map(|peer| peer.name.clone()).collect()
    }

    /// What agents ask everywhere, but for what time decides; now and then once more.
    async fn wish(&mut self, who: usize) {
        let keyed = self.clients[who].diary.sent.iter().filter(|sent| sent.key.is_some());
        let again: Vec<_> = keyed.map(|sent| (sent.body.clone(), sent.key.clone())).collect();
        if !again.is_empty() && self.rng.chance(100) {
            let (body, key) = self.rng.pick(&again).clone();
            return self.ask(who, body, key).await;
        }
        let peers = self.peers(who);
        let mut body = loop {
            let body = commands::wish(&mut self.clients[who], &peers, false, &mut self.rng);
            match (body["type"].as_str(), body["action"].as_str()) {
                // Clerks send messages; they see what becomes of them. Heartbeats are told when there is time.
                (Some("direct"), Some("send")) | (Some("presence"), Some("heartbeat")) => {}
                (Some("memory"), Some("unsubscribe")) if CLERKS.contains(&who) => {}
                _ => break body,
            }
        };
        body.as_object_mut().expect("frames are objects").remove("ttl");
        let repeatable = body["action"] != "subscribe" && self.rng.chance(400);
        let key = repeatable.then(|| format!("key{}", self.clients[who].diary.sent.len()));
        if let Some(key) = &key {
            body["idempotency_key"] = json!(key);
        }
        if body["action"] == "update" { self.change(who, body, key).await } else { self.ask(who, body, key).await }
    }

    /// Asks and waits for all that is said to it.
    async fn ask(&mut self, who: usize, body: Value, key: Option<String>) {
        let snapshot = body["snapshot"] == true;
        let replay = body["type"] == "replay";
        let before = self.link(who).frames.len();
        let frame = self.clients[who].send(body, key);
        self.write(who, frame).await;
        let sent = self.clients[who].diary.sent.len() - 1;
        self.until("an answer", |tenant| tenant.clients[who].diary.sent[sent].answer.is_some()).await;
        let answered = &self.clients[who].diary.sent[sent];
        if answered.answer.as_ref().is_some_and(|answer| answer["type"] == "error") {
            return;
        }
        let reference = json!(answered.reference);
        self.until("the rest of an answer", |tenant| {
            let mut frames = tenant.link(who).frames[before..].iter();
            let ended = |frame: &Value| frame["event"] == "end" && frame["ref"] == reference;
            (!snapshot || frames.clone().any(|frame| frame["event"] == "synced")) && (!replay || frames.any(ended))
        })
        .await;
    }

    /// Changes its state. Whoever watches is told before anything else happens.
    async fn change(&mut self, who: usize, body: Value, key: Option<String>) {
        let clerk = CLERKS[self.clients[who].fleet];
        self.ask(clerk, json!({ "type": "presence", "action": "roster" }), None).await;
        let id = self.id(who);
        let roster = self.clients[clerk].heard().expect("it was answered");
        let entry = roster["agents"].as_array().into_iter().flatten().find(|entry| entry["agent_id"] == id.as_str());
        let (was, becomes) = (entry.expect("it is there")["state"].clone(), body["state"].clone());
        let seen = self.calm(who).await;
        self.ask(who, body, key).await;
        let answer = self.clients[who].diary.sent.last().and_then(|sent| sent.answer.as_ref()).expect("answered");
        if was != becomes && answer["duplicate"].is_null() {
            self.until_told(&seen, who, becomes.as_str().expect("a state")).await;
        }
    }

    /// A clerk sends a message and hears what becomes of it.
    async fn send(&mut self, clerk: usize) {
        let fleet = self.clients[clerk].fleet;
        let others: Vec<usize> =
            (0..self.clients.len()).filter(|who| *who != clerk && self.clients[*who].fleet == fleet).collect();
        let to = *self.rng.pick(&others);
        let ack = self.rng.chance(500);
        let name = self.clients[to].name.clone();
        let send = json!({ "type": "direct", "action": "send", "to": name, "message": { "hello": 1 }, "ack": ack });
        self.ask(clerk, send, None).await;
        let answer = self.clients[clerk].diary.sent.last().and_then(|sent| sent.answer.as_ref()).expect("answered");
        let message = answer["message_id"].as_str().expect("a message has an id").to_owned();
        if self.lines[to].is_some() {
            self.until_delivered(clerk, message).await;
        } else {
            self.mail[to].push(message);
        }
    }

    async fn until_delivered(&mut self, clerk: usize, message: String) {
        self.until("a delivery", |tenant| {
            let told = |frame: &Value| frame["event"] == "delivered" && frame["message_id"] == message.as_str();
            tenant.link(clerk).frames.iter().rev().any(told)
        })
        .await;
    }

    /// Writes what ends at once, and waits for its end.
    async fn expire(&mut self, who: usize) {
        let clerk = CLERKS[self.clients[who].fleet];
        let key = *self.rng.pick(&KEYS);
        let before = self.link(clerk).frames.len();
        let set = json!({ "type": "memory", "action": "set", "key": key, "value": 7, "ttl": 0.05 });
        self.ask(who, set, None).await;
        self.until("an expiry", |tenant| {
            let over =
                |frame: &Value| frame["event"] == "changed" && frame["change"] == "expire" && frame["key"] == key;
            tenant.link(clerk).frames[before..].iter().any(over)
        })
        .await;
    }

    /// Comes in for the first time or once more, and everyone knows.
    async fn enter(&mut self, who: usize) {
        let seen = self.calm(who).await;
        self.connect(who).await;
        self.until_told(&seen, who, "online").await;
        let clerk = CLERKS[self.clients[who].fleet];
        for message in std::mem::take(&mut self.mail[who]) {
            self.until_delivered(clerk, message).await;
        }
    }

    /// Comes in while it is in.
    async fn take_over(&mut self, who: usize) {
        let old = self.clients[who].diary.links.len();
        self.connect(who).await;
        self.until("the end of the one before", |tenant| tenant.ended[who] == old).await;
    }

    /// Leaves, and everyone knows.
    async fn leave(&mut self, who: usize) {
        let seen = self.calm(who).await;
        let link = self.clients[who].diary.links.len();
        let mut socket = self.lines[who].take().expect("it is in");
        socket.close().await.expect("it can say goodbye");
        self.until("its end", |tenant| tenant.ended[who] == link).await;
        self.clients[who].phase = Phase::Away;
        self.until_told(&seen, who, "offline").await;
    }

    async fn connect(&mut self, who: usize) {
        let fleet = self.clients[who].fleet;
        let foreign = self.clients.iter().filter(|other| other.fleet != fleet).find_map(Client::newest);
        let foreign = foreign.map(|(_, event_id)| event_id.to_owned());
        let auth = self.clients[who].connect(&self.keys[fleet], foreign.as_deref(), &mut self.rng);
        let link = self.clients[who].diary.links.len();
        let (socket, upgraded) = connect_async_with_config(&self.url, None, true).await.expect("it connects");
        self.bytes.extend(upgraded.headers().iter().map(|(name, value)| format!("{name}: {value:?}")));
        let (writes, reads) = socket.split();
        self.lines[who] = Some(writes);
        tokio::spawn(listen(reads, who, link, self.post.clone()));
        self.write(who, auth).await;
        self.until("somebody's entrance", |tenant| {
            let link = tenant.link(who);
            let resumed = |frame: &Value| frame["type"] == "system" && frame["event"] == "resumed";
            tenant.clients[who].phase == Phase::Inside
                && (link.resume == Resume::Fresh || link.frames.iter().any(resumed))
        })
        .await;
    }

    /// Everyone in the fleet is shown that a step is over, and so everything before it.
    async fn tick(&mut self, fleet: usize) {
        self.ticks += 1;
        let tick = json!({ "type": "activity", "action": "broadcast", "kind": "custom", "data": self.ticks });
        self.ask(CLERKS[fleet], tick, None).await;
        self.until("the end of a step", |tenant| {
            let there = |who: &usize| tenant.clients[*who].fleet == fleet && tenant.lines[*who].is_some();
            (0..tenant.clients.len()).filter(there).all(|who| tenant.ticked[who] == tenant.ticks)
        })
        .await;
    }

    /// Waits until a change of an agent's presence is told at once. How much each agent has read by then, and over which link.
    async fn calm(&self, who: usize) -> Vec<(usize, usize)> {
        if let Some(told) = self.told[who] {
            tokio::time::sleep(FLAPPING.saturating_sub(told.elapsed())).await;
        }
        let read = |links: &Vec<Link>| (links.len(), links.last().map_or(0, |link| link.frames.len()));
        self.clients.iter().map(|client| read(&client.diary.links)).collect()
    }

    /// Until everyone who watches presence was told this of an agent. Then nothing of it is still to be told.
    async fn until_told(&mut self, seen: &[(usize, usize)], whom: usize, state: &str) {
        let (fleet, id) = (self.clients[whom].fleet, self.id(whom));
        self.until("presence", |tenant| {
            (0..tenant.clients.len()).filter(|who| tenant.lines[*who].is_some()).all(|who| {
                let client = &tenant.clients[who];
                // Who has come back since has read nothing on this link before.
                let (link, read) = seen[who];
                let before = if client.diary.links.len() == link { read } else { 0 };
                let none = client.fleet != fleet || client.presence == "none";
                none || tenant.link(who).frames[before..].iter().any(|frame| tells(frame, &id, state))
            })
        })
        .await;
        self.told[whom] = Some(Instant::now());
    }

    fn link(&self, who: usize) -> &Link {
        self.clients[who].diary.links.last().expect("it has connected")
    }

    fn id(&self, who: usize) -> String {
        self.clients[who].diary.id.clone().expect("it was in")
    }

    async fn write(&mut self, who: usize, frame: String) {
        let line = self.lines[who].as_mut().expect("it is in");
        line.send(Message::text(frame)).await.expect("it can be written to");
    }

    /// Reads until this holds.
    async fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let patience = tokio::time::Instant::now() + PATIENCE;
        while !is_so(self) {
            let heard = tokio::time::timeout_at(patience, self.heard.recv()).await;
            let heard = heard.unwrap_or_else(|_| panic!("not in time: {what}")).expect("we send too");
            self.take(heard).await;
        }
    }

    async fn take(&mut self, Heard { who, link, said }: Heard) {
        let is_newest = self.clients[who].diary.links.len() == link;
        match said {
            Ok(text) => {
                self.bytes.push(text.clone());
                if !is_newest {
                    return;
                }
                let reply = self.clients[who].hear(&text);
                let frame = self.clients[who].heard().expect("it has just read one");
                if frame["type"] == "activity" {
                    self.ticked[who] = frame["activity"]["data"].as_u64().unwrap_or(self.ticked[who]);
                }
                self.loot.take(frame);
                if let Some(reply) = reply {
                    self.write(who, reply).await;
                }
            }
            Err(code) => {
                self.ended[who] = link;
                self.bytes.push(format!("closed: {code}"));
                assert!(!is_newest || self.lines[who].is_none(), "agent{who} was thrown out: {code}");
            }
        }
    }
}

async fn listen(mut reads: SplitStream<Socket>, who: usize, link: usize, post: mpsc::Sender<Heard>) {
    let mut code = 1006;
    while let Some(Ok(message)) = reads.next().await {
        match message {
            Message::Text(text) => {
                let heard = Heard { who, link, said: Ok(text.as_str().to_owned()) };
                if post.send(heard).await.is_err() {
                    return;
                }
            }
            Message::Close(close) => code = close.map_or(1005, |close| close.code.into()),
            _ => {}
        }
    }
    // Nobody needs to know any more.
    let _ = post.send(Heard { who, link, said: Err(code) }).await;
}

/// Whether a frame tells that an agent is in this state.
fn tells(frame: &Value, id: &str, state: &str) -> bool {
    let of = |entry: &Value| entry["agent_id"] == id && entry["state"] == state;
    let lists = ["joined", "changed", "left"];
    let deltas = || lists.iter().filter_map(|list| frame[*list].as_array()).flatten();
    frame["type"] == "presence" && frame["ref"].is_null() && (of(frame) || deltas().any(of))
}

/// What the simulation does not ask.
fn questions(peers: &[String], rng: &mut Rng) -> Value {
    let key = *rng.pick(&KEYS);
    match rng.below(10) {
        0 => json!({ "type": "memory", "action": "set", "key": key, "value": "a needle", "tags": ["red"],
            "metadata": { "m": 1 } }),
        1 => json!({ "type": "memory", "action": "query", "tags": ["red"] }),
        2 => json!({ "type": "memory", "action": "query", "text_search": "needle", "sort": "updated_at" }),
        3 => json!({ "type": "memory", "action": "query", "author": rng.pick(peers), "limit": 2 }),
        4 => json!({ "type": "memory", "action": "history", "key": key, "limit": 3 }),
        5 => json!({ "type": "memory", "action": "list", "limit": 2, "values": true }),
        6 => json!({ "type": "presence", "action": "roster", "limit": 2 }),
        7 => json!({ "type": "replay", "action": "request", "order": "oldest", "limit": 20,
            "streams": ["activity", "memory", "direct"] }),
        8 => json!({ "type": "direct", "action": "ack", "message_id": "msg_0000000000000000000001" }),
        _ => json!({ "type": "memory", "action": "set", "key": key, "value": 1, "expected_version": 1_000,
            "reads": [{ "key": key, "version": 3 }] }),
    }
}
