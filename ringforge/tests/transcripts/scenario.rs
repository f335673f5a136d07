//! Scenario files: one JSON object a line, the first says what is needed, the others are steps in order.

use std::{fs, path::Path};

use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The first line.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Needs {
    /// What it is about.
    pub about: String,
    /// Settings that differ from the defaults, as in a config file.
    #[serde(default)]
    pub config: Map<String, Value>,
    /// Fleets of its tenant; `default` is always there.
    #[serde(default)]
    pub fleets: Vec<String>,
    /// Faults it is about. Such a scenario runs once, not again with the faults of others.
    #[serde(default)]
    pub faults: Vec<String>,
    /// Whether it needs a server of its own, because what it does is counted by address.
    #[serde(default)]
    pub alone: bool,
    /// Whether frames may have more fields than expected, and acks and pings may stand between: for frames quoted from elsewhere.
    #[serde(default)]
    pub at_least: bool,
}

/// Where a step comes from and what it says.
#[derive(Clone, Debug)]
pub struct Step {
    /// Line in its file.
    pub line: usize,
    /// Who does it: a connection, or `server`.
    pub who: String,
    /// What.
    pub what: What,
}

/// What a step does.
#[derive(Clone, Debug)]
pub enum What {
    /// `{"alice": "connect"}`: opens a socket, sees `auth_required`. With `headers`.
    Connect(Map<String, Value>),
    /// `{"alice": "auth", "with": {..}}`: sends `auth` with the fleet's key and its name; `with` wins.
    Auth(Map<String, Value>),
    /// `{"alice": "enter", "with": {..}}`: connects, authenticates, sees `auth_ok`, a roster and that it joined.
    Enter {
        /// More fields of `auth`.
        with: Map<String, Value>,
        /// Whether it sees that it joined.
        joined: bool,
    },
    /// `{"alice": "leave"}`: says goodbye.
    Leave,
    /// `{"alice>": {..}}`: sends a frame.
    Send(Value),
    /// `{"alice>text": ".."}`: sends text as it is. `{"alice>raw": {..}}`: a frame that is not wrapped.
    Text(Value),
    /// `{"alice>binary": ".."}`: sends it as a binary message.
    Binary(String),
    /// `{"alice<": {..}}`: sees this frame next; of a list, these in any order. `"joined bob"` and `"left bob"` stand for
    /// the whole presence frame of an agent that entered.
    See(Vec<Value>),
    /// `{"alice<flat": {..}}`: sees this frame, whatever the shape of the connection.
    SeeFlat(Value),
    /// `{"alice<close": 4409}`: sees the end.
    SeeClose(u16),
    /// `{"alice": "quiet"}`: sees nothing for a moment.
    Quiet,
    /// `{"server": "stop"}` asks it to end, `ended` waits until it has, well; `kill` is `kill -9`; `lose the log` deletes
    /// everything but the keys; `start` starts it over what is there.
    Server(String),
    /// `{"wait_ms": 300}`: lets a time to live pass.
    Wait(u64),
}

/// One file.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its file's name without the ending.
    pub name: String,
    /// The first line.
    pub needs: Needs,
    /// The other lines.
    pub steps: Vec<Step>,
}

impl Scenario {
    /// All of them, by name.
    pub fn all() -> Vec<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
        let files = fs::read_dir(&folder).expect("the scenarios are there").map(|file| file.expect("a file").path());
        let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|ending| ending == "jsonl")).collect();
        files.sort();
        files.iter().map(|path| Self::read(path)).collect()
    }

    fn read(path: &Path) -> Self {
        let name = path.file_stem().expect("a name").to_string_lossy();
        Self::parse(&name, &fs::read_to_string(path).expect("a scenario can be read"))
    }

    /// From the text of a file.
    pub fn parse(name: &str, text: &str) -> Self {
        let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let (_, first) = lines.next().unwrap_or_else(|| panic!("{name} is empty"));
        let needs = serde_json::from_str(first).unwrap_or_else(|error| panic!("{name}:1: {error}"));
        let steps = lines.flat_map(|(at, line)| {
            let fields: Map<String, Value> =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{name}:{}: {error}", at + 1));
            let times = fields.get("times").and_then(Value::as_u64).unwrap_or(1);
            let step = step(at + 1, &fields).unwrap_or_else(|why| panic!("{name}:{}: {why}", at + 1));
            (0..times).filter_map(move |_| step.clone())
        });
        Self { needs, steps: steps.collect(), name: name.to_owned() }
    }

    /// Whether it deletes the files of its server's log.
    pub fn loses_the_log(&self) -> bool {
        self.steps.iter().any(|step| matches!(&step.what, What::Server(does) if does == "lose the log"))
    }

    /// Whether it ends and starts its server, or must not share it.
    pub fn alone(&self) -> bool {
        self.needs.alone || self.steps.iter().any(|step| matches!(step.what, What::Server(_)))
    }
}

fn step(line: usize, fields: &Map<String, Value>) -> Result<Option<Step>, String> {
    let (head, value) = fields.iter().next().filter(|(name, _)| *name != "with").ok_or("an empty step")?;
    // The order of a map is that of the alphabet: find the one that is no option.
    let options = ["with", "joined", "headers", "note", "times"];
    let (head, value) = fields.iter().find(|(name, _)| !options.contains(&name.as_str())).unwrap_or((head, value));
    if head == "note" {
        return Ok(None);
    }
    let with = |name: &str| fields.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
    let (who, how) = match head.find(['>', '<']) {
        Some(at) => (&head[..at], &head[at..]),
        None => (head.as_str(), ""),
    };
    let what = match (who, how, value) {
        ("wait_ms", "", Value::Number(ms)) => What::Wait(ms.as_u64().ok_or("wait_ms is a number")?),
        ("server", "", Value::String(what)) => What::Server(what.clone()),
        (_, "", Value::String(what)) => match what.as_str() {
            "connect" => What::Connect(with("headers")),
            "auth" => What::Auth(with("with")),
            "enter" => What::Enter { with: with("with"), joined: fields.get("joined") != Some(&json!(false)) },
            "leave" => What::Leave,
            "quiet" => What::Quiet,
            other => return Err(format!("nobody can {other}")),
        },
        (_, ">", frame) => What::Send(frame.clone()),
        (_, ">text" | ">raw", frame) => What::Text(frame.clone()),
        (_, ">binary", Value::String(text)) => What::Binary(text.clone()),
        (_, "<", Value::Array(frames)) => What::See(frames.clone()),
        (_, "<", frame) => What::See(vec![frame.clone()]),
        (_, "<flat", frame) => What::SeeFlat(frame.clone()),
        (_, "<close", code) => {
            What::SeeClose(code.as_u64().and_then(|code| code.try_into().ok()).ok_or("a close code is a number")?)
        }
        _ => return Err(format!("not a step: {head}")),
    };
    Ok(Some(Step { line, who: who.to_owned(), what }))
}
