//! What agents do: connect, ask, read, go deaf, go away, repeat.

use std::{collections::VecDeque, time::Duration};

use ringforge_ports::clock::Clock;
use serde_json::{Value, json};

use super::{Link, World};
use crate::{
    client::{Client, KEYS, Phase, Sent, flat, what},
    socket::Socket,
};

impl World {
    /// One agent does something.
    pub(super) fn act(&mut self) {
        let who = self.rng.index(self.clients.len());
        match self.clients[who].phase {
            Phase::Away => self.connect(who),
            Phase::Entering if self.rng.chance(20) => self.go(who),
            Phase::Entering => {}
            Phase::Inside if self.rng.chance(12) => self.go(who),
            Phase::Inside if self.rng.chance(15) => self.go_deaf(who),
            Phase::Inside if self.clients[who].heavy && self.rng.chance(14) => self.storm(who),
            Phase::Inside => self.ask(who),
        }
    }

    /// Opens a connection, perhaps going on from an earlier event.
    pub(super) fn connect(&mut self, who: usize) {
        let place = self.rng.index(self.processes.len());
        let Some(process) = self.processes[place].clone().or_else(|| self.processes.iter().flatten().next().cloned())
        else {
            return;
        };
        let resume = self.resume(who);
        let client = &mut self.clients[who];
        let before = client.link.map_or((0, 0), |link| self.links[link].crossed);
        let mut socket = Socket::open(process, self.tally.clone());
        let api_key = &self.homes[client.fleet].api_key;
        let auth = client.auth(api_key, resume.as_ref().map(|(_, event_id)| event_id), &mut self.rng);
        socket.up.push_back(auth.to_string());
        client.link = Some(self.links.len());
        client.phase = Phase::Entering;
        self.links.push(Link {
            client: who,
            socket: Some(socket),
            written: Vec::new(),
            listening: true,
            resume: resume.map(|(position, _)| position),
            session: None,
            frames: Vec::new(),
            crossed: before,
        });
    }

    /// From where to go on: mostly after the newest event it saw, sometimes after any.
    fn resume(&mut self, who: usize) -> Option<(u64, String)> {
        let seen = &self.clients[who].seen;
        let newest = seen.last_key_value()?;
        if self.rng.chance(120) {
            return None;
        }
        if self.rng.chance(250) {
            let at = self.rng.index(seen.len());
            self.tally.note("situation: resume from an early event");
            return seen.iter().nth(at).map(|(position, event_id)| (*position, event_id.clone()));
        }
        Some((*newest.0, newest.1.clone()))
    }

    /// Closes its socket, or only forgets it.
    fn go(&mut self, who: usize) {
        let Some(link) = self.clients[who].link else { return };
        self.clients[who].phase = Phase::Away;
        self.links[link].listening = false;
        if self.rng.chance(300) {
            self.tally.note("fault: socket half open");
            return;
        }
        self.tally.note("fault: socket killed");
        self.hang_up(link);
    }

    /// The server sees that the socket is gone.
    pub(super) fn hang_up(&mut self, link: usize) {
        self.lost(link);
        if let Some(socket) = &mut self.links[link].socket {
            socket.hang_up();
        }
    }

    /// The client's side is gone: what it had not read it never will.
    pub(super) fn lost(&mut self, link: usize) {
        self.links[link].listening = false;
        let who = self.links[link].client;
        if self.clients[who].link == Some(link) {
            self.clients[who].phase = Phase::Away;
        }
    }

    fn go_deaf(&mut self, who: usize) {
        self.tally.note("fault: peer reads nothing");
        let time = Duration::from_millis(200 + self.rng.below(3_000));
        self.clients[who].deaf_until = self.clock.monotonic() + time;
    }

    fn ask(&mut self, who: usize) {
        let Some(link) = self.clients[who].link else { return };
        let again = self.repeat(who);
        let (body, key) = if let Some(known) = again {
            known
        } else {
            let fleet = self.clients[who].fleet;
            let peers: Vec<String> =
                self.clients.iter().filter(|peer| peer.fleet == fleet).map(|peer| peer.name.clone()).collect();
            let loud = self.rng.chance(self.loud);
            let mut body = self.clients[who].wish(&peers, loud, &mut self.rng);
            let key = self.rng.chance(400).then(|| format!("key{}", self.sent.len()));
            if let Some(key) = &key {
                body["idempotency_key"] = json!(key);
            }
            (body, key)
        };
        self.send(who, link, body, key);
    }

    /// Asks much at once and does not wait for the answers. It is read before anything else happens, as far as it can be.
    fn storm(&mut self, who: usize) {
        let Some(link) = self.clients[who].link else { return };
        for body in Client::storm(&mut self.rng) {
            self.send(who, link, body, None);
        }
        let unread = |world: &Self| world.links[link].socket.as_ref().is_some_and(|socket| !socket.up.is_empty());
        while unread(self) && self.serve_link(link) {}
        self.lost(link);
    }

    fn send(&mut self, who: usize, link: usize, body: Value, key: Option<String>) {
        let reference = self.clients[who].reference();
        let mut frame = body.clone();
        frame["ref"] = json!(reference);
        let Some(socket) = &mut self.links[link].socket else { return };
        socket.up.push_back(frame.to_string());
        let client = &mut self.clients[who];
        client.open.push(self.sent.len());
        if key.is_some() {
            client.keyed.push(self.sent.len());
        }
        self.sent.push(Sent { client: who, link, reference, body, key, answer: None });
    }

    /// A command to send once more: one without an answer, or any.
    fn repeat(&mut self, who: usize) -> Option<(Value, Option<String>)> {
        if !self.rng.chance(120) {
            return None;
        }
        let client = &self.clients[who];
        let open: Vec<usize> = client.open.iter().copied().filter(|at| self.sent[*at].key.is_some()).collect();
        let from = if open.is_empty() { &client.keyed } else { &open };
        if from.is_empty() {
            return None;
        }
        let sent = &self.sent[*self.rng.pick(from)];
        Some((sent.body.clone(), sent.key.clone()))
    }

    /// One agent reads.
    pub(super) fn listen(&mut self) {
        let who = self.rng.index(self.clients.len());
        let now = self.clock.monotonic();
        let count = 1 + self.rng.below(6);
        if let Some(link) = self.clients[who].link.filter(|_| self.clients[who].deaf_until <= now) {
            self.listen_to(link, count);
        }
    }

    /// A client takes so many messages; `false` if there were none.
    pub(super) fn listen_to(&mut self, link: usize, count: u64) -> bool {
        if !self.links[link].listening {
            return false;
        }
        let mut taken = VecDeque::new();
        if let Some(socket) = &mut self.links[link].socket {
            let count = usize::try_from(count).unwrap_or(usize::MAX).min(socket.down.len());
            taken.extend(socket.down.drain(..count));
        }
        let some = !taken.is_empty();
        self.deliver(link, taken);
        some
    }

    /// A client takes these messages, the goodbye perhaps among them.
    pub(super) fn deliver(&mut self, link: usize, messages: VecDeque<Option<String>>) {
        for message in messages {
            if !self.links[link].listening {
                return;
            }
            match message {
                Some(text) => {
                    self.trace.text(&text);
                    self.hear(link, flat(&text));
                }
                None => self.lost(link),
            }
        }
        if self.links[link].socket.is_none() {
            self.lost(link);
        }
    }

    fn hear(&mut self, link: usize, frame: Value) {
        let who = self.links[link].client;
        self.clients[who].learn(&frame);
        match (frame["type"].as_str().unwrap_or(""), frame["event"].as_str()) {
            ("auth_ok", _) => self.welcomed(link, &frame),
            ("ping", _) => {
                if let Some(socket) = &mut self.links[link].socket {
                    socket.up.push_back(json!({ "type": "pong" }).to_string());
                }
            }
            ("system", Some("resumed")) => self.resumed(link, &frame),
            // All keys together are fewer than a page has places.
            ("memory", Some("list_result")) if frame["has_more"] == true => {
                debug_assert!(frame["entries"].as_array().is_some_and(|entries| entries.len() < KEYS.len()), "{frame}");
                self.tally.note("situation: page of memory cut by its bytes");
            }
            _ => {}
        }
        if let Some(reference) = frame["ref"].as_str()
            && what(&frame).is_none()
            && let Some(at) = self.clients[who].open.iter().copied().find(|at| self.sent[*at].reference == reference)
        {
            if frame["outcome"] != "unknown" {
                self.clients[who].open.retain(|open| *open != at);
            }
            if frame["duplicate"] == true {
                self.tally.note("situation: duplicate answered");
            }
            self.sent[at].answer = Some(frame.clone());
        }
        self.links[link].frames.push(frame);
    }

    fn welcomed(&mut self, link: usize, frame: &Value) {
        let known = |name: &str| frame[name].as_str().map(str::to_owned);
        let who = self.links[link].client;
        self.links[link].session = known("session_id");
        let client = &mut self.clients[who];
        client.phase = Phase::Inside;
        client.agent = known("agent_id");
        client.resume_token = known("resume_token");
    }

    fn resumed(&mut self, link: usize, frame: &Value) {
        if frame["recovered"] == true {
            self.tally.note("situation: resume recovered");
            let (projectors, everything) = self.links[link].crossed;
            if projectors < self.dead.0 {
                self.tally.note("situation: resume crossed a projector's death");
            }
            if everything < self.dead.1 {
                self.tally.note("situation: resume crossed a restart");
            }
        }
        self.links[link].crossed = self.dead;
    }

    /// Whoever should be there in the end connects; whoever should not goes.
    pub(super) fn return_home(&mut self) {
        for who in 0..self.clients.len() {
            self.clients[who].deaf_until = Duration::ZERO;
            let away = self.clients[who].phase == Phase::Away;
            match (self.absent.contains(&who), away) {
                (false, true) => self.connect(who),
                (true, false) => {
                    if let Some(link) = self.clients[who].link {
                        self.hang_up(link);
                    }
                }
                _ => {}
            }
        }
        // Nobody is at the other end of these.
        for link in 0..self.links.len() {
            if self.links[link].socket.is_some() && !self.links[link].listening {
                self.hang_up(link);
            }
        }
    }
}
