//! Many agents in several fleets that count what they are shown, and publishers that number what they say. They go on through
//! every life of the server.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    process::raise_open_files,
    support::{Client, Got, Options, Server},
};

/// The tenant of all of them.
const TENANT: &str = "crowd";
/// How long whoever finds nobody waits at most before it tries again.
const BACKOFF_MS: u64 = 1_000;
/// Events of a publisher that wait for their acknowledgement.
const WINDOW: u64 = 64;
/// The shortest wait.
const NAP: Duration = Duration::from_millis(1);
/// How long anything may take in a crowd on a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// How many there are.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Fleets.
    pub fleets: usize,
    /// Agents of each.
    pub agents: usize,
    /// The time between two events of a fleet.
    pub every: Duration,
}

/// What is known of one agent.
#[derive(Debug, Default)]
pub struct Seen {
    /// The number of the last event it was shown.
    pub last: AtomicU64,
    /// When it was last let in, and had caught up with what it missed.
    pub back: Mutex<Option<Instant>>,
}

/// All of them.
pub struct Crowd {
    /// Where the server is.
    place: watch::Sender<String>,
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    /// What is known of each agent, by fleet.
    pub seen: Vec<Vec<Arc<Seen>>>,
    /// The number of the last event of each fleet that was acknowledged.
    pub said: Vec<Arc<AtomicU64>>,
}

impl Size {
    /// A server for them.
    pub fn server(self, config: &str) -> Server {
        raise_open_files(2 * (self.fleets * self.agents) as u64 + 500);
        let fleets = (0..self.fleets).map(fleet).collect();
        let tenants = vec![(TENANT.to_owned(), fleets)];
        Server::start(Options { config: config.to_owned(), tenants, ..Options::default() })
    }

    /// Everybody comes in; nobody says anything yet.
    pub async fn gather(self, server: &Server) -> Crowd {
        let mut crowd = Crowd {
            place: watch::Sender::new(server.ws_url().to_owned()),
            tasks: JoinSet::new(),
            stop: Arc::default(),
            seen: (0..self.fleets).map(|_| (0..self.agents).map(|_| Arc::default()).collect()).collect(),
            said: (0..self.fleets).map(|_| Arc::default()).collect(),
        };
        for number in 0..self.fleets * self.agents {
            let (fleet_number, number) = (number % self.fleets, number / self.fleets);
            let key = key(server, fleet_number).to_owned();
            let seen = Arc::clone(&crowd.seen[fleet_number][number]);
            let agent = Agent { key, name: format!("agent-{number}"), cursor: Value::Null, seen };
            crowd.tasks.spawn(agent.stay(crowd.place.subscribe()));
            pause(number).await;
        }
        crowd.until("everybody is in", |crowd| crowd.backs().iter().flatten().all(Option::is_some)).await;
        crowd
    }

    /// Every fleet has a publisher from now on.
    pub fn speak(self, server: &Server, crowd: &mut Crowd) {
        for (number, said) in crowd.said.iter().enumerate() {
            let publisher = Publisher {
                key: key(server, number).to_owned(),
                every: self.every,
                said: Arc::clone(said),
                stop: Arc::clone(&crowd.stop),
            };
            crowd.tasks.spawn(publisher.stay(crowd.place.subscribe()));
        }
    }
}

/// The key of a fleet.
pub fn key(server: &Server, number: usize) -> &str {
    server.key(TENANT, &fleet(number))
}

fn fleet(number: usize) -> String {
    format!("fleet-{number}")
}

impl Crowd {
    /// Where the server is from now on.
    pub fn find(&self, server: &Server) {
        self.place.send_replace(server.ws_url().to_owned());
    }

    /// When each was last let in, by fleet.
    pub fn backs(&self) -> Vec<Vec<Option<Instant>>> {
        let back = |seen: &Arc<Seen>| *seen.back.lock().expect("no panic while the lock is held");
        self.seen.iter().map(|fleet| fleet.iter().map(back).collect()).collect()
    }

    /// All events that were acknowledged.
    pub fn said(&self) -> u64 {
        self.said.iter().map(|said| said.load(Ordering::Relaxed)).sum()
    }

    /// Waits until it is so, and notices what goes wrong meanwhile.
    pub async fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "{what}");
            if let Some(ended) = self.tasks.try_join_next() {
                ended.expect("an agent goes on");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Nobody says any more, and everybody was shown everything, once and in order.
    pub async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let publishers = self.said.len();
        for _ in 0..publishers {
            let ended = tokio::time::timeout(PATIENCE, self.tasks.join_next()).await.expect("publishers end");
            ended.expect("there are some").expect("nobody saw a gap or a double");
        }
        self.until("everybody was shown everything", |crowd| {
            let whole = |(fleet, said): (&Vec<Arc<Seen>>, &Arc<AtomicU64>)| {
                let said = said.load(Ordering::Relaxed);
                fleet.iter().all(|seen| seen.last.load(Ordering::Relaxed) == said)
            };
            crowd.seen.iter().zip(&crowd.said).all(whole)
        })
        .await;
    }
}

/// One that looks.
struct Agent {
    key: String,
    name: String,
    /// The last event it was shown.
    cursor: Value,
    seen: Arc<Seen>,
}

impl Agent {
    async fn stay(mut self, place: watch::Receiver<String>) {
        loop {
            let url = place.borrow().clone();
            let more = json!({ "presence": "delta", "last_event_id": self.cursor });
            if let Some(mut client) = enter(&url, &self.key, &self.name, more).await {
                if self.cursor.is_null() {
                    self.is_back();
                }
                while let Got::Frame(frame) = client.next(PATIENCE).await {
                    self.take(&frame);
                }
            }
            back_off().await;
        }
    }

    fn is_back(&self) {
        *self.seen.back.lock().expect("no panic while the lock is held") = Some(Instant::now());
    }

    fn take(&mut self, frame: &Value) {
        match (frame["type"].as_str(), frame["event"].as_str()) {
            (_, Some("resumed")) => {
                assert_eq!(frame["recovered"], true, "{}: {frame}", self.name);
                self.is_back();
            }
            (Some("activity"), Some("broadcast")) => {
                let last = self.seen.last.load(Ordering::Relaxed);
                let number = numbered(frame);
                assert_eq!(number, last + 1, "{} saw a gap or a double", self.name);
                self.seen.last.store(number, Ordering::Relaxed);
                self.cursor = frame["event_id"].clone();
            }
            _ => {}
        }
    }
}

/// The number of an event.
pub fn numbered(frame: &Value) -> u64 {
    let text = frame["activity"]["description"].as_str().and_then(|text| text.split(' ').next());
    text.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no event of ours: {frame}"))
}

/// What says this number.
pub fn event(number: u64) -> Value {
    json!({ "type": "activity", "action": "broadcast", "kind": "custom", "description": format!("{number} events"),
        "idempotency_key": format!("event-{number}"), "ref": number })
}

/// One that numbers what it says, and says it again until it is acknowledged.
struct Publisher {
    key: String,
    every: Duration,
    said: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Publisher {
    async fn stay(self, place: watch::Receiver<String>) {
        loop {
            let url = place.borrow().clone();
            let entered = enter(&url, &self.key, "publisher", json!({ "presence": "none" })).await;
            if let Some(mut client) = entered
                && self.speak(&mut client).await
            {
                return;
            }
            back_off().await;
        }
    }

    /// Says one after another when each is due, and first what was not acknowledged before; `false` if the server went away.
    async fn speak(&self, client: &mut Client) -> bool {
        let said = || self.said.load(Ordering::Relaxed);
        let (mut sent, mut due) = (said(), Instant::now());
        loop {
            let stops = self.stop.load(Ordering::Relaxed);
            while !stops && Instant::now() >= due && sent - said() < WINDOW {
                sent += 1;
                client.send(&event(sent)).await;
                due += self.every;
            }
            if stops && sent == said() {
                return true;
            }
            match client.next(due.saturating_duration_since(Instant::now()).max(NAP)).await {
                Got::Frame(frame) if frame["ref"] == said() + 1 => {
                    assert_eq!(frame["event"], "broadcast_ok", "{frame}");
                    self.said.store(said() + 1, Ordering::Relaxed);
                }
                Got::Frame(_) | Got::Nothing => {}
                Got::Closed(_) => return false,
            }
        }
    }
}

/// Between two that come in: not more at a time than a listener has room for.
pub async fn pause(number: usize) {
    if number % 8 == 7 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Comes in, with more patience than others have; `None` if there is nobody, or it shall try again.
pub async fn enter(url: &str, key: &str, name: &str, more: Value) -> Option<Client> {
    let mut client = Client::try_connect(url).await?;
    let mut auth = json!({ "type": "auth", "api_key": key, "agent": { "name": name } });
    let more = if let Value::Object(more) = more { more } else { serde_json::Map::new() };
    auth.as_object_mut().expect("an object").extend(more);
    client.send(&auth).await;
    loop {
        let Got::Frame(frame) = client.next(PATIENCE).await else { return None };
        match frame["type"].as_str() {
            Some("auth_required") => {}
            Some("auth_ok") => return Some(client),
            _ => {
                assert_eq!(frame["retry"], true, "{name} is turned away: {frame}");
                return None;
            }
        }
    }
}

/// Waits for a while, nobody as long as another.
async fn back_off() {
    let ms = RandomState::new().hash_one(0) % BACKOFF_MS;
    tokio::time::sleep(Duration::from_millis(ms)).await;
}
