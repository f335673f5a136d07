//! Transcripts: what agents send and see, for every kind and every error code, over the real binary. Each file in
//! `scenarios/` is one of them, and each runs flat and wrapped, again with every Live publish dropped, and again with a
//! second projector over the same read models. An unexpected frame fails, and so does a field more or less.
//!
//! A file is one JSON object a line. The first says what is needed (`scenario.rs`), every other is a step:
//! - `{"alice": "enter", "with": {..}}` connects, authenticates and sees `auth_ok`, the roster and its own `joined`;
//!   `connect` and `auth` do it by halves; `leave` says goodbye; `quiet` sees nothing.
//! - `{"alice>": {..}}` sends a frame, `{"alice<": {..}}` sees one, `{"alice<": [..]}` sees these in any order,
//!   `{"alice<close": 4409}` sees the end. `>text`, `>raw`, `>binary` and `<flat` leave the shape alone.
//! - `"times": 100` beside a step does it so often. `{"$repeat": "x", "times": 9}` stands for a long text.
//! - `{"server": "stop"}`, `"ended"`, `"kill"`, `"lose the log"`, `"start"`; `{"wait_ms": 300}`; `{"note": ".."}`.
//!
//! Values are as on the wire, but for `$name`, which was remembered (`$key`, `$fleet`, `$tenant`, `$alice` for an agent's id,
//! `$alice.token`, `$alice.session`), and patterns, which stand only for ids, times, positions and tokens:
//! `<event_id> <agent_id> <message_id> <memory_id> <session_id> <key_id> <node> <resume_token> <cursor> <time> <position>`,
//! and for `<ms> <bytes> <version> <server>`. `<event_id:e1>` remembers the value as `$e1`.

#![allow(clippy::disallowed_methods, reason = "tests meet the real clock and choose a scenario by the environment")]

#[path = "support/cluster.rs"]
mod cluster;
#[path = "transcripts/pattern.rs"]
mod pattern;
#[path = "transcripts/play.rs"]
mod play;
#[path = "transcripts/scenario.rs"]
mod scenario;
#[path = "transcripts/shape.rs"]
mod shape;
#[path = "support.rs"]
mod support;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use ringforge_domain::{
    catalog::{CommandKind, QueryKind, SignalKind},
    close::Close,
    code::Code,
};
use serde_json::Value;
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    cluster::Servers,
    play::{play, tenant},
    scenario::{Scenario, What},
    shape::Shape,
    support::{Options, Server},
};

/// Servers, and players of one server, at a time.
const AT_ONCE: usize = 12;
/// Installations of many processes at a time.
const APART_AT_ONCE: usize = 3;

/// One run: a scenario in a shape.
type Run = (Arc<Scenario>, Shape);

/// What an installation is.
#[derive(Clone)]
enum Mode {
    /// One process with its stores in files.
    Alone,
    /// One process with its stores on servers.
    On(Arc<Servers>),
    /// The same with every role in processes of their own.
    Apart(Arc<Servers>),
}

impl Mode {
    /// A new installation's environment.
    fn install(&self) -> Vec<(String, String)> {
        match self {
            Self::Alone => Vec::new(),
            Self::On(servers) | Self::Apart(servers) => servers.install(),
        }
    }

    fn is_apart(&self) -> bool {
        matches!(self, Self::Apart(_))
    }
}

/// Plays every scenario in both shapes, on servers with these faults; those that need the same server share one.
async fn play_all(faults: &[&str], mode: Mode) {
    let only = std::env::var("RINGFORGE_SCENARIO").unwrap_or_default();
    let mut groups: BTreeMap<String, Vec<Run>> = BTreeMap::new();
    for scenario in Scenario::all().into_iter().map(Arc::new) {
        if !scenario.name.contains(&only) || !(faults.is_empty() || scenario.needs.faults.is_empty()) {
            continue;
        }
        if !matches!(mode, Mode::Alone) && scenario.loses_the_log() {
            eprintln!("{}: not on servers, whose files are not there to be deleted", scenario.name);
            continue;
        }
        if mode.is_apart() && scenario.needs.faults.iter().any(|fault| fault.starts_with("reads.commit")) {
            eprintln!("{}: not in processes apart, where nobody counts all commits", scenario.name);
            continue;
        }
        for shape in Shape::ALL {
            let own = if scenario.alone() { tenant(&scenario, shape) } else { String::new() };
            let needs = &scenario.needs;
            let group = format!("{own} {} {:?}", Value::Object(needs.config.clone()), needs.faults);
            groups.entry(group).or_default().push((Arc::clone(&scenario), shape));
        }
    }
    let places = Arc::new(Semaphore::new(if mode.is_apart() { APART_AT_ONCE } else { AT_ONCE }));
    let mut playing = JoinSet::new();
    for runs in groups.into_values() {
        let faults =
            runs[0].0.needs.faults.iter().cloned().chain(faults.iter().map(|fault| (*fault).to_owned())).collect();
        playing.spawn(play_group(runs, faults, mode.clone(), Arc::clone(&places)));
    }
    let failures: Vec<String> = playing.join_all().await.into_iter().flatten().collect();
    assert!(failures.is_empty(), "{} runs failed with {faults:?}:\n{}", failures.len(), failures.join("\n"));
}

/// Plays what shares a server.
async fn play_group(runs: Vec<Run>, faults: Vec<String>, mode: Mode, places: Arc<Semaphore>) -> Vec<String> {
    let place = places.acquire().await.expect("the semaphore stays open");
    let lossy = faults.iter().any(|fault| fault == "live.publish.before=empty");
    let fleets =
        |scenario: &Scenario| ["default".to_owned()].into_iter().chain(scenario.needs.fleets.clone()).collect();
    let tenants = runs.iter().map(|(scenario, shape)| (tenant(scenario, *shape), fleets(scenario))).collect();
    let config: toml::Table = serde_json::from_value(Value::Object(runs[0].0.needs.config.clone())).expect("TOML");
    let start = move || {
        let (environment, apart) = (mode.install(), mode.is_apart());
        Server::start(Options { config: config.to_string(), tenants, faults, environment, apart, ..Options::default() })
    };
    let server = tokio::task::spawn_blocking(start).await.expect("it starts");
    let server = Arc::new(Mutex::new(server));
    let mut playing = JoinSet::new();
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    for (scenario, shape) in runs {
        let (server, turns) = (Arc::clone(&server), Arc::clone(&turns));
        playing.spawn(async move {
            let _turn = turns.acquire().await.expect("the semaphore stays open");
            play(&scenario, shape, &server, lossy).await.err()
        });
    }
    let failures = playing.join_all().await.into_iter().flatten().collect();
    drop(place);
    failures
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_see_what_the_transcripts_say() {
    play_all(&[], Mode::Alone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_the_same_on_servers() {
    if let Some(servers) = Servers::of("transcripts on servers") {
        play_all(&[], Mode::On(Arc::new(servers))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_the_same_on_servers_in_processes_apart() {
    if let Some(servers) = Servers::of("transcripts on servers, apart") {
        play_all(&[], Mode::Apart(Arc::new(servers))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_the_same_when_every_publish_is_lost() {
    play_all(&["live.publish.before=empty"], Mode::Alone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_the_same_with_a_second_projector() {
    play_all(&["second_projector"], Mode::Alone).await;
}

/// All frames that agents send (`true`) or see in a scenario.
fn frames(scenario: &Scenario, sent: bool) -> Vec<Value> {
    let steps = scenario.steps.iter().flat_map(|step| match &step.what {
        What::Send(frame) | What::Text(frame) if sent => vec![frame.clone()],
        What::See(frames) if !sent => frames.clone(),
        What::SeeFlat(frame) if !sent => vec![frame.clone()],
        _ => Vec::new(),
    });
    steps.collect()
}

#[test]
fn every_kind_and_every_code_has_a_transcript() {
    let all = Scenario::all();
    let kind = |frame: &Value| match (frame["type"].as_str(), frame["action"].as_str()) {
        (Some(area), Some(action)) => format!("{area}.{action}"),
        (area, _) => area.unwrap_or_default().to_owned(),
    };
    let sent: Vec<String> = all.iter().flat_map(|scenario| frames(scenario, true)).map(|frame| kind(&frame)).collect();
    let seen: Vec<Value> = all.iter().flat_map(|scenario| frames(scenario, false)).collect();
    let commands = CommandKind::ALL.iter().filter(|kind| !kind.internal()).map(|kind| kind.text());
    let queries = QueryKind::ALL.iter().map(|kind| kind.text());
    let kinds: Vec<&str> = commands.chain(queries).chain(SignalKind::ALL.iter().map(|kind| kind.text())).collect();
    let missing: Vec<_> = kinds.into_iter().filter(|kind| !sent.iter().any(|sent| sent == kind)).collect();
    assert!(missing.is_empty(), "no transcript sends {missing:?}");
    let missing: Vec<_> = Code::ALL
        .iter()
        .map(|code| code.text())
        .filter(|code| !seen.iter().any(|frame| frame["code"] == *code))
        .collect();
    assert!(missing.is_empty(), "no transcript sees {missing:?}");
}

#[test]
fn every_close_code_has_a_transcript() {
    let all = Scenario::all();
    let seen: Vec<u16> = all
        .iter()
        .flat_map(|scenario| &scenario.steps)
        .filter_map(|step| if let What::SeeClose(code) = step.what { Some(code) } else { None })
        .collect();
    // No fleet can go yet: agent keys are bound to the fleet that they were made with. No library sends broken frames.
    let unreachable = [Close::FleetGone, Close::Protocol, Close::NotText];
    let reachable = Close::ALL.into_iter().filter(|close| !unreachable.contains(close)).map(Close::code);
    let missing: Vec<u16> = reachable.filter(|code| !seen.contains(code)).collect();
    assert!(missing.is_empty(), "no transcript sees {missing:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_transcript_is_noticed() {
    let enter = r#"{"about":"wrong"}
        {"alice":"enter"}
        "#;
    let cases = [
        ("more", r#"{"alice>":{"type":"presence","action":"update","ref":1,"state":"busy"}}"#, "also saw"),
        (
            "less",
            r#"{"alice>":{"type":"ping","ref":1}}
            {"alice<":{"type":"pong","ref":1,"x":1}}"#,
            ".x is missing",
        ),
        (
            "field",
            r#"{"alice>":{"type":"ping","ref":1}}
            {"alice<":{"type":"pong"}}"#,
            ".ref is unexpected",
        ),
        (
            "value",
            r#"{"alice>":{"type":"ping","ref":1}}
            {"alice<":{"type":"pong","ref":"<event_id>"}}"#,
            "is not <event_id>",
        ),
        (
            "close",
            r#"{"alice>text":{"$repeat":"x","times":1100000}}
            {"alice<close":4409}"#,
            "the end (1009)",
        ),
    ];
    let scenarios: Vec<_> =
        cases.iter().map(|(name, steps, _)| Scenario::parse(name, &format!("{enter}{steps}"))).collect();
    let tenants =
        scenarios.iter().map(|scenario| (tenant(scenario, Shape::Flat), vec!["default".to_owned()])).collect();
    let server = Mutex::new(Server::start(Options { tenants, ..Options::default() }));
    for (scenario, (_, _, why)) in scenarios.iter().zip(cases) {
        let played = play(scenario, Shape::Flat, &server, false).await;
        assert!(played.as_ref().is_err_and(|said| said.contains(why)), "{played:?} should say: {why}");
    }
}
