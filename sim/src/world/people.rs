//! What agents do: connect, ask, read, go deaf, go away, repeat.

use std::{collections::VecDeque, time::Duration};

use ringforge_ports::clock::Clock;

use super::{Line, World};
use crate::{
    history::Resume,
    socket::Socket,
    vocabulary::{clients::Phase, commands, faults::Disturbance},
};

impl World {
    /// One agent does something.
    pub(super) fn act(&mut self) {
        let who = self.rng.index(self.clients.len());
        match self.clients[who].phase {
            Phase::Away => self.connect(who),
            Phase::Entering if self.rng.chance(20) => self.disturb(who, Disturbance::HangUp),
            Phase::Entering => {}
            Phase::Inside => match Disturbance::draw(self.clients[who].heavy, &mut self.rng) {
                Some(disturbance) => self.disturb(who, disturbance),
                None => self.ask(who),
            },
        }
    }

    /// Opens a connection, perhaps going on from an earlier event.
    pub(super) fn connect(&mut self, who: usize) {
        let place = self.rng.index(self.processes.len());
        let Some(process) = self.processes[place].clone().or_else(|| self.processes.iter().flatten().next().cloned())
        else {
            return;
        };
        let fleet = self.clients[who].fleet;
        let foreign = self.clients.iter().filter(|other| other.fleet != fleet).find_map(|other| other.newest());
        let foreign = foreign.map(|(_, event_id)| event_id.to_owned());
        let before = self.line_of(who).map_or((0, 0), |line| self.lines[line].crossed);
        let client = &mut self.clients[who];
        let mut socket = Socket::open(process, self.tally.clone());
        let auth = client.connect(&self.homes[fleet].api_key, foreign.as_deref(), &mut self.rng);
        let link = client.diary.links.len() - 1;
        if matches!(client.diary.links[link].resume, Resume::After(at) if client.newest().is_some_and(|(newest, _)| at < newest))
        {
            self.tally.note("situation: resume from an early event");
        }
        self.tally.tell(|| format!("{} connects to edge {place}: {:?}", client.name, client.diary.links[link].resume));
        socket.up.push_back(auth);
        self.lines.push(Line {
            client: who,
            link,
            socket: Some(socket),
            listening: true,
            deaf_until: Duration::ZERO,
            chance: self.rng.fork(),
            crossed: before,
        });
    }

    /// A client's newest connection.
    pub(super) fn line_of(&self, who: usize) -> Option<usize> {
        self.lines.iter().rposition(|line| line.client == who)
    }

    pub(super) fn disturb(&mut self, who: usize, disturbance: Disturbance) {
        let Some(line) = self.line_of(who) else { return };
        self.tally.tell(|| format!("{}: {disturbance:?}", self.clients[who].name));
        match disturbance {
            Disturbance::HangUp => {
                self.tally.note("fault: socket killed");
                self.hang_up(line);
            }
            Disturbance::HalfOpen => {
                self.tally.note("fault: socket half open");
                self.lost(line);
            }
            Disturbance::Deaf(time) => {
                self.tally.note("fault: peer reads nothing");
                self.lines[line].deaf_until = self.clock.monotonic() + time;
            }
            Disturbance::Storm => self.storm(who, line),
        }
    }

    /// The server sees that the socket is gone.
    pub(super) fn hang_up(&mut self, line: usize) {
        self.lost(line);
        if let Some(socket) = &mut self.lines[line].socket {
            socket.hang_up();
        }
    }

    /// The client's side is gone: what it had not read it never will.
    pub(super) fn lost(&mut self, line: usize) {
        self.lines[line].listening = false;
        let who = self.lines[line].client;
        if self.line_of(who) == Some(line) {
            self.clients[who].phase = Phase::Away;
        }
    }

    pub(super) fn ask(&mut self, who: usize) {
        let Some(line) = self.line_of(who) else { return };
        let fleet = self.clients[who].fleet;
        let peers = self.clients.iter().filter(|peer| peer.fleet == fleet).map(|peer| peer.name.clone());
        let peers: Vec<String> = peers.collect();
        let loud = self.rng.chance(self.loud);
        let Some(socket) = &mut self.lines[line].socket else { return };
        let frame = self.clients[who].ask(&peers, loud, &mut self.rng);
        self.tally.tell(|| format!("{} sends {}", self.clients[who].name, short(&frame)));
        socket.up.push_back(frame);
    }

    /// Asks much at once and does not wait for the answers. It is read before anything else happens, as far as it can be.
    fn storm(&mut self, who: usize, line: usize) {
        for body in commands::storm(&mut self.rng) {
            let Some(socket) = &mut self.lines[line].socket else { return };
            let frame = self.clients[who].send(body, None);
            socket.up.push_back(frame);
        }
        let unread = |world: &Self| world.lines[line].socket.as_ref().is_some_and(|socket| !socket.up.is_empty());
        while unread(self) && self.serve_line(line) {}
        self.lost(line);
    }

    /// One agent reads.
    pub(super) fn listen(&mut self) {
        let who = self.rng.index(self.clients.len());
        let now = self.clock.monotonic();
        let count = 1 + self.rng.below(6);
        if let Some(line) = self.line_of(who).filter(|line| self.lines[*line].deaf_until <= now) {
            self.listen_to(line, count);
        }
    }

    /// A client takes so many messages; `false` if there were none.
    pub(super) fn listen_to(&mut self, line: usize, count: u64) -> bool {
        if !self.lines[line].listening {
            return false;
        }
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let taken = self.lines[line].socket.as_mut().map(|socket| socket.read(count)).unwrap_or_default();
        let some = !taken.is_empty();
        self.deliver(line, taken);
        some
    }

    /// A client takes these messages, the goodbye perhaps among them.
    pub(super) fn deliver(&mut self, line: usize, messages: VecDeque<Option<String>>) {
        for message in messages {
            if !self.lines[line].listening {
                return;
            }
            match message {
                Some(text) => {
                    self.trace.text(&text);
                    self.hear(line, &text);
                }
                None => self.lost(line),
            }
        }
        if self.lines[line].socket.is_none() {
            self.lost(line);
        }
    }

    fn hear(&mut self, line: usize, text: &str) {
        let who = self.lines[line].client;
        let oldest = self.journal.oldest(self.homes[self.clients[who].fleet].partition);
        let client = &mut self.clients[who];
        self.tally.tell(|| format!("{} reads {}", client.name, short(text)));
        let reply = client.hear(text);
        if let (Some(socket), Some(reply)) = (&mut self.lines[line].socket, reply) {
            socket.up.push_back(reply);
        }
        let Some(frame) = client.heard() else { return };
        self.tally.read(frame);
        if frame["type"] == "system" && frame["event"] == "resumed" {
            let recovered = frame["recovered"] == true;
            client.link().oldest = oldest.0;
            self.resumed(line, recovered);
        }
    }

    fn resumed(&mut self, line: usize, recovered: bool) {
        let (projectors, everything) = self.lines[line].crossed;
        if recovered && projectors < self.dead.0 {
            self.tally.note("situation: resume crossed a projector's death");
        }
        if recovered && everything < self.dead.1 {
            self.tally.note("situation: resume crossed a restart");
        }
        self.lines[line].crossed = self.dead;
    }

    /// Whoever should be there in the end connects; whoever should not goes.
    pub(super) fn return_home(&mut self) {
        self.lines.iter_mut().for_each(|line| line.deaf_until = Duration::ZERO);
        for who in 0..self.clients.len() {
            let away = self.clients[who].phase == Phase::Away;
            match (self.absent.contains(&who), away) {
                (false, true) => self.connect(who),
                (true, false) => {
                    if let Some(line) = self.line_of(who) {
                        self.hang_up(line);
                    }
                }
                _ => {}
            }
        }
        // Nobody is at the other end of these.
        for line in 0..self.lines.len() {
            if self.lines[line].socket.is_some() && !self.lines[line].listening {
                self.hang_up(line);
            }
        }
    }
}

/// The beginning of a text.
fn short(text: &str) -> String {
    text.chars().take(SHORT).collect()
}

/// Characters of a frame that are told.
const SHORT: usize = 220;
