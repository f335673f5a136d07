//! One agent over real sockets: the one that the simulation drives over its pipes.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use ringforge_sim::{
    history::{self, Resume},
    rng::Rng,
    tally::lock,
    vocabulary::{
        clients::{Client, Phase},
        commands,
        faults::Disturbance,
    },
};
use serde_json::json;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config, tungstenite::Message};

use crate::{
    run::{Life, Mood, Run, Woken},
    support::SOON,
};

/// The last thing that anyone says.
const END: &str = "the end";
/// Commands that one agent keeps unanswered.
const WINDOW: usize = 12;
/// The same of one whose values are large.
const HEAVY_WINDOW: usize = 3;
/// In calm, the time between two commands of an agent, in milliseconds: anything below this.
const PACE_MS: u64 = 40;
/// How often an agent looks whether anything has changed.
const LOOK: Duration = Duration::from_millis(20);
/// How often, per mille, one that could ask may disturb instead.
const DISTURBING: u64 = 250;
/// How often, per mille, one hangs up before it is let in.
const IMPATIENT: u64 = 30;
/// What a sleeper reads before it falls asleep, in frames.
const LULLABY: usize = 20;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// How a connection ended.
enum Parting {
    /// For both sides.
    Gone,
    /// The server does not know it.
    Forgotten,
}

/// An agent.
pub struct Agent {
    run: Arc<Run>,
    client: Client,
    peers: Vec<String>,
    rng: Rng,
    /// The life of the server that it last connected to.
    life: u32,
    /// Whether that ended before it could go on from there.
    crossed: bool,
    /// Sockets that it forgot without closing them.
    forgotten: Vec<Socket>,
    /// Who said a last word.
    last_words: BTreeSet<String>,
    /// The mood in which everyone says one thing, and in which it said it over this connection.
    has_said: Option<Mood>,
    deaf_until: Instant,
}

impl Agent {
    /// One that has not connected yet. `peers`: the names of its fleet.
    pub fn new(run: Arc<Run>, client: Client, peers: Vec<String>, rng: Rng) -> Self {
        Self {
            run,
            client,
            peers,
            rng,
            life: 0,
            crossed: false,
            forgotten: Vec::new(),
            last_words: BTreeSet::new(),
            has_said: None,
            deaf_until: Instant::now(),
        }
    }

    /// Lives through every life of the server.
    pub async fn live(mut self) -> history::Agent {
        while let Some(life) = self.run.life().await {
            let foreign = self.run.foreign(self.client.fleet);
            let key = &self.run.keys[self.client.fleet];
            let auth = self.client.connect(key, foreign.as_deref(), &mut self.rng);
            match self.connect(&life, auth).await {
                Some(socket) => self.stay(socket).await,
                None => tokio::time::sleep(LOOK).await,
            }
        }
        let is_in = self.client.phase == Phase::Inside;
        self.client.tell(is_in)
    }

    /// Comes in, watches everything, leaves, comes back when it is woken, and lives as others do from then on.
    pub async fn sleep(mut self, number: usize) -> history::Agent {
        let fleet = self.client.fleet;
        let mut socket = self.come_back().await;
        self.read(&mut socket, |client| client.phase == Phase::Inside).await;
        let watch = json!({ "type": "memory", "action": "subscribe", "pattern": "**", "values": true });
        let frame = self.client.send(watch, None);
        self.write(&mut socket, frame).await;
        self.read(&mut socket, |client| client.diary.links[0].frames.len() >= LULLABY).await;
        drop(socket);
        self.gone();
        let (before, slept) = (self.run.acknowledged(fleet), self.life);
        self.run.asleep.fetch_add(1, Ordering::Relaxed);
        self.run.sleep(number).await;

        let missed = self.run.acknowledged(fleet) - before;
        let mut socket = self.come_back().await;
        self.read(&mut socket, |client| client.heard().is_some_and(|frame| frame["event"] == "resumed")).await;
        let arrived = self.run.acknowledged(fleet) - before - missed;
        lock(&self.run.woken).push(Woken { missed, lives: self.life - slept, arrived });
        self.stay(socket).await;
        self.live().await
    }

    /// Connects once more, while the server is up.
    async fn come_back(&mut self) -> Socket {
        let life = self.run.life().await.expect("the server is up");
        let auth = self.client.come_back(&self.run.keys[self.client.fleet], &mut self.rng);
        self.connect(&life, auth).await.expect("the server is up")
    }

    /// Opens a connection and asks to be let in; `None`: nobody is there.
    async fn connect(&mut self, life: &Life, auth: String) -> Option<Socket> {
        (self.has_said, self.deaf_until) = (None, Instant::now());
        if self.life < life.number {
            self.forgotten.clear();
            self.crossed = self.life > 0;
        }
        let newest = self.client.newest().map(|(position, _)| position);
        if matches!(self.client.link().resume, Resume::After(position) if Some(position) < newest) {
            self.run.tally.note("situation: resume from an early event");
        }
        let url = self.rng.pick(&life.urls);
        let connecting = timeout(SOON, connect_async_with_config(url, None, true));
        let mut socket = connecting.await.ok().and_then(Result::ok)?.0;
        self.life = life.number;
        self.write(&mut socket, auth).await.then_some(socket)
    }

    /// Stays until the connection ends.
    async fn stay(&mut self, mut socket: Socket) {
        let waits = !self.rng.chance(IMPATIENT) || self.run.mood().is_quiet();
        if waits && let Parting::Forgotten = self.attend(&mut socket).await {
            self.forgotten.push(socket);
        }
        self.gone();
    }

    /// Asks, reads and disturbs.
    async fn attend(&mut self, socket: &mut Socket) -> Parting {
        let (mut turn, mut heard) = (Instant::now(), Instant::now());
        loop {
            let (now, mood) = (Instant::now(), self.run.mood());
            let hurries = mood == Mood::Hurry && !self.client.heavy;
            if self.may_ask(mood) && (now >= turn || hurries) {
                if let Some(parting) = self.act(socket, mood).await {
                    return parting;
                }
                turn = now + Duration::from_millis(self.rng.below(PACE_MS));
                continue;
            }
            if self.is_deaf() {
                sleep_until(self.deaf_until.min(now + LOOK)).await;
                heard = Instant::now();
                continue;
            }
            match timeout_at(now + LOOK, socket.next()).await {
                Ok(Some(Ok(Message::Text(text)))) => {
                    heard = Instant::now();
                    self.hear(socket, text.as_str()).await;
                }
                Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => {}
                Ok(_) => return Parting::Gone,
                Err(_) => {
                    let waits = self.client.unanswered() > 0 || self.client.phase == Phase::Entering;
                    let late = waits && heard.elapsed() > 2 * SOON;
                    assert!(!late, "{}: {} commands are not answered", self.client.name, self.client.unanswered());
                }
            }
        }
    }

    fn is_deaf(&self) -> bool {
        Instant::now() < self.deaf_until && !self.run.mood().is_quiet()
    }

    fn may_ask(&self, mood: Mood) -> bool {
        let window = if self.client.heavy { HEAVY_WINDOW } else { WINDOW };
        let some = match mood {
            Mood::Calm | Mood::Hurry => self.client.unanswered() < window,
            Mood::Ending | Mood::Farewell => self.has_said != Some(mood),
            Mood::Over => false,
        };
        some && self.client.phase == Phase::Inside
    }

    /// Does something; perhaps that is the end of the connection.
    async fn act(&mut self, socket: &mut Socket, mood: Mood) -> Option<Parting> {
        if mood.is_quiet() {
            self.has_said = Some(mood);
            let says = match mood {
                Mood::Farewell => {
                    json!({ "type": "activity", "action": "broadcast", "kind": "custom", "description": END })
                }
                _ => json!({ "type": "ping" }),
            };
            let frame = self.client.send(says, None);
            return (!self.write(socket, frame).await).then_some(Parting::Gone);
        }
        if self.rng.chance(DISTURBING)
            && let Some(disturbance) = Disturbance::draw(self.client.heavy, &mut self.rng)
        {
            return self.disturb(socket, disturbance).await;
        }
        let frame = self.client.ask(&self.peers, false, &mut self.rng);
        (!self.write(socket, frame).await).then_some(Parting::Gone)
    }

    async fn disturb(&mut self, socket: &mut Socket, disturbance: Disturbance) -> Option<Parting> {
        match disturbance {
            Disturbance::HangUp => {
                self.run.tally.note("fault: socket killed");
                Some(Parting::Gone)
            }
            Disturbance::HalfOpen => {
                self.run.tally.note("fault: socket half open");
                Some(Parting::Forgotten)
            }
            Disturbance::Deaf(time) => {
                self.run.tally.note("fault: peer reads nothing");
                self.deaf_until = Instant::now() + time;
                None
            }
            Disturbance::Storm => {
                for body in commands::storm(&mut self.rng) {
                    let frame = self.client.send(body, None);
                    self.write(socket, frame).await;
                }
                Some(Parting::Gone)
            }
        }
    }

    /// `false`: it cannot be written to.
    async fn write(&mut self, socket: &mut Socket, frame: String) -> bool {
        let written = timeout(SOON, socket.send(Message::text(frame))).await;
        self.tell();
        written.is_ok_and(|written| written.is_ok())
    }

    /// Reads until this holds. The server must stay.
    async fn read(&mut self, socket: &mut Socket, until: impl Fn(&Client) -> bool) {
        while !until(&self.client) {
            match timeout(2 * SOON, socket.next()).await {
                Ok(Some(Ok(Message::Text(text)))) => self.hear(socket, text.as_str()).await,
                Ok(Some(Ok(Message::Ping(_)))) => {}
                other => panic!("{}: the connection broke off: {other:?}", self.client.name),
            }
        }
    }

    async fn hear(&mut self, socket: &mut Socket, text: &str) {
        let (unanswered, fleet) = (self.client.unanswered(), self.client.fleet);
        let reply = self.client.hear(text);
        self.run.frames.fetch_add(1, Ordering::Relaxed);
        let frame = self.client.heard().expect("it has just read one");
        self.run.tally.read(frame);
        if self.client.unanswered() < unanswered && frame["position"].is_u64() && frame["duplicate"].is_null() {
            self.run.acknowledge(fleet);
        }
        if frame["activity"]["description"] == END {
            self.last_words.insert(frame["from"]["agent_id"].as_str().expect("an author").to_owned());
        }
        if frame["event"] == "resumed" {
            let went_on = frame["recovered"] == true && self.crossed;
            self.crossed = false;
            if went_on {
                self.run.tally.note("situation: resume crossed a restart");
            }
        }
        self.tell();
        if let Some(reply) = reply {
            self.write(socket, reply).await;
        }
    }

    /// The connection is no more.
    fn gone(&mut self) {
        if let Some((_, event_id)) = self.client.newest() {
            self.run.show(self.client.fleet, event_id);
        }
        if self.run.mood() != Mood::Over {
            self.client.phase = Phase::Away;
        }
        self.tell();
    }

    /// Lets others see how it is.
    fn tell(&self) {
        let state = &self.run.states[self.client.number];
        let inside = self.client.phase == Phase::Inside;
        let in_flight = if inside && !self.is_deaf() { self.client.unanswered() } else { 0 };
        let settled = inside && self.has_said.is_some() && in_flight == 0;
        state.inside.store(inside, Ordering::Relaxed);
        state.settled.store(settled, Ordering::Relaxed);
        state.in_flight.store(in_flight, Ordering::Relaxed);
        state.last_words.store(self.last_words.len(), Ordering::Relaxed);
    }
}
