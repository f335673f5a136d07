//! Given a session, when this happens to it, then it wants this done, in this order.

use ringforge_domain::{
    direct::Send,
    limits::REPLAY_BURST,
    memory::{Set, Subscribe},
    world::Member as Agent,
};
use ringforge_ports::reads::Update;
use serde_json::json;

use super::*;
use crate::stage::{Seat, Stage};

fn subscribe(stage: &mut Stage, seat: &mut Seat) {
    stage.says(seat, &json!({ "type": "memory", "action": "subscribe", "pattern": "k", "snapshot": true, "ref": 1 }));
}

fn set(stage: &mut Stage, by: &Agent, value: u64) -> Offset {
    let value = Some(Json::parse(&value.to_string()).expect("a number"));
    stage.when(by, Set { key: "k".to_owned(), value, ..Set::default() })
}

fn events(seat: &Seat) -> Vec<&str> {
    seat.frames.iter().filter_map(|frame| frame["event"].as_str()).collect()
}

fn wants(seat: &Seat, what: impl Fn(&Action) -> bool) -> bool {
    seat.actions.iter().any(what)
}

fn snapshots(action: &Action) -> bool {
    matches!(action, Action::Snapshot(..))
}

fn catches_up(action: &Action) -> bool {
    matches!(action, Action::CatchUp(_))
}

fn closes(action: &Action) -> bool {
    matches!(action, Action::Close(..))
}

/// A page that shows the key as it was before `upto`.
fn page(upto: Offset, next: Option<&str>) -> Snapshotted {
    let entries = vec![("k".to_owned(), Offset::ZERO, Json::of(&json!({ "key": "k" })))];
    Snapshotted { entries, upto, next: next.map(str::to_owned) }
}

/// Ada is here, and bob has subscribed, which is in the log and has not been shown.
fn subscribed() -> (Stage, Agent, Seat) {
    let mut stage = Stage::new();
    let ada = stage.enters("ada", "none").agent;
    let mut bob = stage.enters("bob", "none");
    bob.frames.clear();
    subscribe(&mut stage, &mut bob);
    // What happens next is in the same batch of posts as the reply.
    let Some(Action::Submit(asked)) = bob.actions.pop_front() else { panic!("it is submitted") };
    let mut header = stage.world.header_of(&bob.agent);
    header.command_id = asked.id;
    let told = stage.world.submit(&header, asked.command);
    stage.hear(told);
    (stage, ada, bob)
}

#[test]
fn what_waits_for_a_snapshot_at_the_goodbye_does_not_count_as_delivered() {
    let (mut stage, ada, mut bob) = subscribed();
    let message = json!({ "to": "bob", "payload": 1 });
    let upto = stage.when(&ada, serde_json::from_value::<Send>(message).expect("a message"));
    stage.go_on(&mut bob);
    stage.input(&mut bob, Input::Breach(Close::Protocol));
    stage.input(&mut bob, Input::Snapshotted(Ok(page(upto, None))));
    stage.input(&mut bob, Input::Flushed);
    assert!(wants(&bob, closes) && !events(&bob).contains(&"message"), "{:?}", bob.frames);
    assert!(!wants(&bob, |action| matches!(action, Action::Report(_))), "it still waits for bob");
}

#[test]
fn what_comes_after_a_subscription_waits_for_its_snapshot() {
    let (mut stage, ada, mut bob) = subscribed();
    set(&mut stage, &ada, 1);
    let upto = set(&mut stage, &ada, 2);
    stage.go_on(&mut bob);
    assert_eq!(events(&bob), ["subscribe_ok"]);
    assert!(wants(&bob, snapshots) && !bob.session.wants_posts());
    stage.input(&mut bob, Input::Snapshotted(Ok(page(upto, None))));
    assert_eq!(events(&bob), ["subscribe_ok", "entry", "synced", "changed"]);
    assert_eq!(bob.frames[3]["version"], 2, "the first change is in the snapshot");
    set(&mut stage, &ada, 3);
    stage.go_on(&mut bob);
    assert_eq!(bob.frames[4]["version"], 3);
}

#[test]
fn the_next_page_of_a_snapshot_is_fetched_once_the_socket_took_the_last() {
    let mut stage = Stage::new();
    let ada = stage.enters("ada", "none").agent;
    let upto = set(&mut stage, &ada, 1).next();
    let mut bob = stage.enters("bob", "none");
    subscribe(&mut stage, &mut bob);
    stage.go_on(&mut bob);
    bob.actions.clear();
    stage.input(&mut bob, Input::Snapshotted(Ok(page(upto, Some("k")))));
    assert!(!wants(&bob, snapshots), "it waits");
    stage.flush(&mut bob);
    assert!(wants(&bob, snapshots));
    bob.actions.clear();
    stage.input(&mut bob, Input::Snapshotted(Err(Refusal::new(Code::Unavailable))));
    stage.go_on(&mut bob);
    assert!(bob.session.wants_posts(), "a snapshot that failed keeps nothing back");
    let error = bob.frames.last().expect("it is told");
    assert_eq!((&error["type"], &error["ref"]), (&json!("error"), &json!(1)), "whose snapshot it was");
    assert_eq!(error["outcome"], "unknown", "the subscription is in force");
}

#[test]
fn the_next_page_of_a_catch_up_is_fetched_once_the_socket_took_the_last() {
    let mut stage = Stage::new();
    let mut ada = stage.enters("ada", "none");
    stage.input(&mut ada, Input::Lagged(Lagged::default()));
    assert!(wants(&ada, catches_up), "nothing was sent: at once");
    ada.actions.clear();
    let watch = Subscribe { pattern: "k".to_owned(), events: Vec::new(), values: false, snapshot: false };
    let after = stage.when(&ada.agent, watch);
    let upto = Some(set(&mut stage, &ada.agent, 1));
    let update = stage.world.log.last().cloned().zip(stage.world.verdicts.last().cloned());
    let update = update.map(|(event, verdict)| Update { event: Some(event), verdict });
    let interest = stage.world.agent(&ada.agent).interest.clone();
    let caught = |posts| Caught { posts, known: Vec::new(), upto, done: false };
    stage.input(&mut ada, Input::CaughtUp(Caught { upto: Some(after), ..caught(Vec::new()) }));
    assert!(wants(&ada, catches_up), "there was nothing for it: at once");
    ada.actions.clear();
    let posts = update.iter().filter_map(|update| {
        Post::pick(&Arc::new(crate::fanout::Delivery::of(update)), ada.session.me()?.0, &interest)
    });
    let posts: Vec<_> = posts.collect();
    assert!(!posts.is_empty());
    stage.input(&mut ada, Input::CaughtUp(caught(posts)));
    assert!(!wants(&ada, catches_up), "it waits");
    stage.flush(&mut ada);
    assert!(wants(&ada, catches_up));
}

#[test]
fn a_shutdown_waits_for_what_was_asked_before() {
    let mut stage = Stage::new();
    let mut ada = stage.enters("ada", "none");
    ada.frames.clear();
    stage.says(&mut ada, &json!({ "type": "memory", "action": "set", "key": "k", "value": 1, "ref": 1 }));
    stage.input(&mut ada, Input::Drain);
    assert_eq!(events(&ada), ["maintenance"]);
    assert!(!wants(&ada, closes) && !ada.session.reads());
    stage.go_on(&mut ada);
    assert_eq!(events(&ada), ["maintenance", "set_ok"]);
    assert_eq!(ada.closed(), Some(1012));
}

#[test]
fn a_shutdown_waits_no_longer_than_two_seconds() {
    let mut stage = Stage::new();
    let mut idle = stage.enters("idle", "none");
    stage.input(&mut idle, Input::Drain);
    assert_eq!(idle.closed(), Some(1012), "nothing was asked: at once");
    let mut ada = stage.enters("ada", "none");
    ada.frames.clear();
    stage.says(&mut ada, &json!({ "type": "memory", "action": "set", "key": "k", "value": 1, "ref": 1 }));
    stage.input(&mut ada, Input::Drain);
    let end = stage.now + Duration::from_secs(2);
    assert_eq!(ada.session.next_tick(), end, "it wakes up for it");
    stage.now = end.saturating_sub(Duration::from_millis(1));
    stage.input(&mut ada, Input::Tick);
    assert!(!wants(&ada, closes));
    stage.now = end;
    stage.input(&mut ada, Input::Tick);
    let last = ada.frames.last().expect("an answer");
    assert_eq!((&last["ref"], &last["code"], &last["outcome"]), (&json!(1), &json!("timeout"), &json!("unknown")));
    assert_eq!(ada.closed(), Some(1012), "nothing is left unanswered");
}

/// The places that a replay wants fetched next.
fn places(seat: &mut Seat) -> Vec<Offset> {
    match seat.actions.pop_front() {
        Some(Action::Play(Part::Places(places))) => places,
        other => panic!("not that: {other:?}"),
    }
}

#[test]
fn a_replay_asks_again_for_what_had_no_room() {
    let mut stage = Stage::new();
    let mut ada = stage.enters("ada", "none");
    ada.frames.clear();
    ada.actions.clear();
    stage.says(&mut ada, &json!({ "type": "replay", "action": "request", "ref": 1 }));
    assert!(matches!(ada.actions.pop_front(), Some(Action::Plan(_))));
    let all = [4, 7, 9].map(Offset);
    let plan = Plan {
        total: 3,
        limit: 3,
        verdicts: Vec::new(),
        later: all.to_vec(),
        next_cursor: None,
        from: None,
        to: String::new(),
    };
    stage.input(&mut ada, Input::Planned(Box::new(Ok(plan))));
    assert_eq!(places(&mut ada), all);
    let item = || Frame::new("memory", "changed", &());
    let played = |count: usize, later: &[Offset]| {
        let frames = (0..count).map(|_| item()).collect();
        Input::Played(Ok(Played { frames, rest: VecDeque::new(), later: later.to_vec() }))
    };
    stage.input(&mut ada, played(1, &all[1..]));
    assert!(ada.actions.is_empty(), "no more than the socket takes");
    stage.flush(&mut ada);
    assert_eq!(places(&mut ada), all[1..]);
    stage.input(&mut ada, played(2, &[]));
    stage.flush(&mut ada);
    assert_eq!(events(&ada), ["start", "item", "item", "item", "end"]);
    assert_eq!(ada.frames[4]["delivered"], 3);
}

#[test]
fn replays_are_no_faster_than_they_may_be_however_many_are_asked_for() {
    let mut stage = Stage::new();
    let mut ada = stage.enters("ada", "none");
    let mut fetched = 0;
    let mut again = |stage: &mut Stage, ada: &mut Seat, count: u64| {
        stage.says(ada, &json!({ "type": "replay", "action": "request" }));
        ada.actions.clear();
        let later = (0..count).map(Offset).collect();
        let (verdicts, next_cursor, from, to) = (Vec::new(), None, None, String::new());
        let plan = Plan { total: count, limit: 1_000, verdicts, later, next_cursor, from, to };
        stage.input(ada, Input::Planned(Box::new(Ok(plan))));
        while !ada.actions.is_empty() {
            let count = places(ada).len();
            fetched += count;
            let frames = (0..count).map(|_| Frame::new("memory", "changed", &())).collect();
            stage.input(ada, Input::Played(Ok(Played { frames, rest: VecDeque::new(), later: Vec::new() })));
            stage.flush(ada);
        }
        fetched
    };
    let burst = REPLAY_BURST as usize;
    assert_eq!(again(&mut stage, &mut ada, 900), 900);
    assert_eq!(again(&mut stage, &mut ada, 900), burst, "the rest of the second one waits");
    stage.now += Duration::from_millis(50);
    stage.input(&mut ada, Input::Tick);
    assert_eq!(places(&mut ada).len(), 50, "a thousand a second");
}
