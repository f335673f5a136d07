//! An agent of the first ring, over a WebSocket in the simulated network.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    rc::Rc,
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use ringforge_sim::{
    history,
    rng::Rng,
    tally::Tally,
    vocabulary::clients::{Client, Phase},
};
use serde_json::json;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};
use turmoil::net::TcpStream;

use crate::{SERVER, server::PORT};

/// The last thing that anyone says.
const END: &str = "the end";
/// Commands that one agent keeps unanswered.
const WINDOW: usize = 8;
/// The time between two commands, in milliseconds: anything below this.
const PACE_MS: u64 = 300;
/// How often an agent looks whether anything has changed.
const LOOK: Duration = Duration::from_millis(100);
/// How long it waits for an answer before it takes the connection for dead.
const SOON: Duration = Duration::from_secs(5);
/// How often, per mille, it hangs up instead of asking.
const HANGING_UP: u64 = 20;

type Socket = WebSocketStream<TcpStream>;

/// How agents go about what they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// They ask now and then.
    #[default]
    Calm,
    /// Once everyone is in, everyone says a last word, and asks nothing more.
    Farewell,
    /// It is over.
    Over,
}

/// How one agent is.
#[derive(Clone, Debug, Default)]
pub struct State {
    inside: bool,
    settled: bool,
    heard: BTreeSet<String>,
}

/// What all agents share.
#[derive(Default)]
pub struct Run {
    /// How they feel.
    pub mood: Cell<Mood>,
    /// How each of them is.
    pub states: RefCell<Vec<State>>,
    /// Frames that anyone read.
    pub frames: Cell<u64>,
    /// What they met.
    pub tally: Tally,
    /// What they told in the end.
    pub told: RefCell<Vec<history::Agent>>,
}

impl Run {
    /// Everyone is in. Whoever is cut off later resumes over the last words that were said meanwhile.
    fn is_complete(&self) -> bool {
        self.states.borrow().iter().all(|state| state.inside)
    }

    /// Everyone is in and has heard everyone's last word.
    pub fn is_settled(&self) -> bool {
        let states = self.states.borrow();
        states.iter().all(|state| state.settled && state.heard.len() == states.len())
    }
}

/// An agent.
pub struct Agent {
    run: Rc<Run>,
    client: Client,
    peers: Vec<String>,
    api_key: String,
    rng: Rng,
    has_ended: bool,
}

impl Agent {
    /// One that has not connected yet.
    pub fn new(run: Rc<Run>, client: Client, peers: Vec<String>, api_key: String, rng: Rng) -> Self {
        Self { run, client, peers, api_key, rng, has_ended: false }
    }

    /// Its index.
    pub fn number(&self) -> usize {
        self.client.number
    }

    /// Comes, stays and comes back until all is over.
    pub async fn live(mut self) -> turmoil::Result {
        while self.run.mood.get() != Mood::Over {
            self.has_ended = false;
            let auth = match self.run.mood.get() {
                Mood::Calm => self.client.connect(&self.api_key, None, &mut self.rng),
                // Last words are heard, whenever they were said.
                _ => self.client.come_back(&self.api_key, &mut self.rng),
            };
            if let Ok(Some(mut socket)) = timeout(SOON, connect(auth)).await {
                self.attend(&mut socket).await;
            }
            if self.run.mood.get() != Mood::Over {
                self.client.phase = Phase::Away;
                self.tell();
                tokio::time::sleep(LOOK).await;
            }
        }
        let is_in = self.client.phase == Phase::Inside;
        self.run.told.borrow_mut().push(self.client.tell(is_in));
        Ok(())
    }

    /// Asks and reads until the connection ends.
    async fn attend(&mut self, socket: &mut Socket) {
        let (mut turn, mut heard) = (Instant::now(), Instant::now());
        loop {
            let now = Instant::now();
            let inside = self.client.phase == Phase::Inside;
            let ask = match self.run.mood.get() {
                Mood::Calm => inside && now >= turn && self.client.unanswered() < WINDOW,
                Mood::Farewell => inside && !self.has_ended && self.run.is_complete(),
                Mood::Over => return,
            };
            if ask {
                turn = now + Duration::from_millis(self.rng.below(PACE_MS));
                if self.client.unanswered() == 0 {
                    heard = now;
                }
                if !self.act(socket).await {
                    return;
                }
            }
            match timeout_at(now + LOOK, socket.next()).await {
                Ok(Some(Ok(Message::Text(text)))) => {
                    heard = Instant::now();
                    if !self.hear(socket, text.as_str()).await {
                        return;
                    }
                }
                Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => {}
                Ok(_) => return,
                Err(_) => {
                    let waits = self.client.unanswered() > 0 || !inside;
                    if waits && heard.elapsed() > SOON {
                        return;
                    }
                }
            }
        }
    }

    /// `false`: it hangs up, or cannot write.
    async fn act(&mut self, socket: &mut Socket) -> bool {
        if self.run.mood.get() == Mood::Farewell {
            self.has_ended = true;
            let end = json!({ "type": "activity", "action": "broadcast", "kind": "custom", "description": END });
            let frame = self.client.send(end, None);
            return write(socket, frame).await;
        }
        if self.rng.chance(HANGING_UP) {
            self.run.tally.note("fault: socket killed");
            return false;
        }
        let frame = self.client.ask(&self.peers, false, &mut self.rng);
        write(socket, frame).await
    }

    async fn hear(&mut self, socket: &mut Socket, text: &str) -> bool {
        let reply = self.client.hear(text);
        self.run.frames.set(self.run.frames.get() + 1);
        let frame = self.client.heard().expect("it has just read one");
        self.run.tally.read(frame);
        if frame["activity"]["description"] == END {
            let author = frame["from"]["agent_id"].as_str().expect("an author").to_owned();
            self.run.states.borrow_mut()[self.client.number].heard.insert(author);
        }
        self.tell();
        match reply {
            Some(reply) => write(socket, reply).await,
            None => true,
        }
    }

    /// Lets others see how it is.
    fn tell(&self) {
        let inside = self.client.phase == Phase::Inside;
        let state = &mut self.run.states.borrow_mut()[self.client.number];
        (state.inside, state.settled) = (inside, inside && self.has_ended && self.client.unanswered() == 0);
    }
}

/// Opens a connection and asks to be let in; `None`: nobody is there.
async fn connect(auth: String) -> Option<Socket> {
    let stream = TcpStream::connect((SERVER, PORT)).await.ok()?;
    let mut socket = client_async(format!("ws://{SERVER}:{PORT}/ws"), stream).await.ok()?.0;
    write(&mut socket, auth).await.then_some(socket)
}

/// `false`: it cannot be written to.
async fn write(socket: &mut Socket, frame: String) -> bool {
    matches!(timeout(SOON, socket.send(Message::text(frame))).await, Ok(Ok(())))
}
