//! A client over HTTP: it writes at one process what it reads at another, each write once, and writes down what it was told.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ringforge_domain::{catalog::Command, ids::Scope, verdict::Outcome};
use ringforge_sim::{history::Logged, rng::Rng, tally::lock};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::{sleep, timeout},
};

/// How long an answer may take: a process may stand still meanwhile.
const PATIENCE: Duration = Duration::from_secs(25);
/// Between two writes.
const PACE: Duration = Duration::from_millis(30);

/// Where commands and questions are taken over HTTP.
#[derive(Default)]
pub struct Doors {
    /// Commands.
    pub gates: Mutex<Vec<String>>,
    /// Questions.
    pub answers: Mutex<Vec<String>>,
    /// No more is asked.
    pub closed: AtomicBool,
}

/// What a clerk was told of a write.
struct Told {
    number: u64,
    answer: Answer,
}

enum Answer {
    /// It took effect, at this position.
    Applied(u64),
    /// For certain, it did not.
    Refused(Value),
    /// Nobody knows.
    Unknown,
}

/// A client, with an entry of its own.
pub struct Clerk {
    doors: Arc<Doors>,
    key: String,
    path: String,
    told: Vec<Told>,
    /// Answers that showed what was written before.
    seen: u64,
}

impl Clerk {
    /// Begins: with a fleet's key, and its id.
    pub fn begin(doors: &Arc<Doors>, key: &str, fleet: &str, mut rng: Rng) -> JoinHandle<Self> {
        let path = format!("/v1/fleets/{fleet}/memory/{ENTRY}");
        let mut clerk = Self { doors: Arc::clone(doors), key: key.to_owned(), path, told: Vec::new(), seen: 0 };
        tokio::spawn(async move {
            while !clerk.doors.closed.load(Ordering::Relaxed) {
                clerk.write_and_read(&mut rng).await;
                sleep(PACE).await;
            }
            clerk
        })
    }

    async fn write_and_read(&mut self, rng: &mut Rng) {
        let number = self.told.len() as u64;
        let Some(gate) = one_of(&self.doors.gates, rng) else { return };
        let written = self.ask(&gate, "PUT", None, &json!({ "value": number }).to_string()).await;
        let (answer, version) = match written {
            Some(answer) if answer.status == 200 => {
                (Answer::Applied(answer.position()), answer.body["version"].as_u64())
            }
            Some(answer) if answer.body["outcome"] == "none" => (Answer::Refused(answer.body), None),
            _ => (Answer::Unknown, None),
        };
        let position = if let Answer::Applied(position) = answer { Some(position) } else { None };
        self.told.push(Told { number, answer });
        let (Some(position), Some(desk)) = (position, one_of(&self.doors.answers, rng)) else { return };
        let Some(read) = self.ask(&desk, "GET", Some(position), "").await else { return };
        assert_ne!(read.status, 404, "G5: {} was written at {position}, and is not there", self.path);
        if read.status == 200 {
            assert!(read.body["version"].as_u64() >= version, "G5: after {version:?} {} was read", read.body);
            self.seen += 1;
        }
    }

    /// Asks; `None`: there is no answer, or half of one.
    async fn ask(&self, address: &str, method: &str, position: Option<u64>, body: &str) -> Option<Http> {
        let position = position.map(|position| format!("X-RingForge-Min-Position: {position}\r\n"));
        let (position, length) = (position.unwrap_or_default(), body.len());
        let (path, key) = (&self.path, &self.key);
        let head = format!("{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n");
        let request = format!("{head}Authorization: Bearer {key}\r\n{position}\r\n{body}");
        let asked = timeout(PATIENCE, async {
            let address = address.strip_prefix("http://").unwrap_or(address);
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.map(|_| answer)
        });
        let answer = asked.await.unwrap_or_else(|_| panic!("{method} at {address} is not answered")).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Http { status, head: head.to_ascii_lowercase(), body: serde_json::from_str(body).ok()? })
    }

    /// G1, G2, G13: what it was told is what the log says. How many writes it was told of for certain, and how many answers showed
    /// them.
    pub fn check(&self, scope: Scope, logged: &Logged) -> (usize, u64) {
        let mut in_log = BTreeMap::new();
        for (event, verdict) in logged.told.iter().filter(|(event, _)| event.at.scope() == scope) {
            let Command::MemorySet(set) = &event.command else { continue };
            if set.key != ENTRY {
                continue;
            }
            let value = serde_json::to_string(&set.value).expect("JSON");
            let applied = matches!(verdict.outcome, Outcome::Applied(_));
            let before = in_log.insert(value, (event.at.position.offset.0, applied));
            assert!(before.is_none(), "G12: the write of {:?} stands in the log twice", set.value);
        }
        for Told { number, answer } in &self.told {
            let there = in_log.get(&number.to_string());
            match answer {
                Answer::Applied(position) => {
                    assert_eq!(there, Some(&(*position, true)), "G1: write {number} of {}", self.path);
                }
                Answer::Refused(said) => {
                    let effect = there.is_some_and(|(_, applied)| *applied);
                    assert!(!effect, "G2: write {number} of {} took effect, and was told {said}", self.path);
                }
                Answer::Unknown => {}
            }
        }
        let certain = self.told.iter().filter(|told| matches!(told.answer, Answer::Applied(_))).count();
        (certain, self.seen)
    }
}

/// The key of the entry.
const ENTRY: &str = "clerk/entry";

struct Http {
    status: u16,
    head: String,
    body: Value,
}

impl Http {
    fn position(&self) -> u64 {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let position = lines.filter(|(name, _)| *name == "x-ringforge-position").map(|(_, value)| value).next();
        position.and_then(|position| position.parse().ok()).expect("an ack has a position")
    }
}

fn one_of(addresses: &Mutex<Vec<String>>, rng: &mut Rng) -> Option<String> {
    let addresses = lock(addresses);
    if addresses.is_empty() { None } else { Some(rng.pick(&addresses).clone()) }
}
