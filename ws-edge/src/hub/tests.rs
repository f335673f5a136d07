//! Given these members, when this happens, then each of them is shown this.

use futures_util::FutureExt as _;
use ringforge_domain::{
    activity::{ActivityScope, Broadcast, Subscribe},
    code::{Code, Refusal},
    ids::{CommandId, SessionId},
    json::Json,
    limits::{OUTBOX_BYTES_MAX, OUTBOX_MADE_BYTES_MAX},
    memory,
    presence::{Started, State, Update},
    verdict::Outcome,
    world::Member as Agent,
};
use ringforge_ports::reads::Update as Applied;
use serde_json::{Value, json};

use super::*;
use crate::{
    outbox::Lagged,
    session::{Action, Caught, Input},
    stage::{Seat, Stage},
};

/// Less than what an agent's next state waits for.
const MOMENT: Duration = Duration::from_millis(10);
/// More than what any presence waits for.
const LONG: Duration = Duration::from_secs(2);

fn state(state: State) -> Update {
    Update { state: Some(state), ..Update::default() }
}

fn note(text: &str) -> Broadcast {
    Broadcast { kind: "custom".to_owned(), description: Some(text.to_owned()), ..Broadcast::default() }
}

/// So many notes are more than an outbox and the recent updates hold.
const FLOOD: usize = 120;

fn flood(stage: &mut Stage, by: &Agent) {
    for _ in 0..FLOOD {
        stage.when(by, note(&"x".repeat(9_900)));
    }
}

/// The last state of an agent that a connection was told.
fn told(frames: &[Value], agent: &Agent) -> Option<String> {
    let id = agent.agent.to_string();
    let each = |frame: &Value| (frame["type"] == "presence").then(|| frame.clone()).into_iter().collect::<Vec<_>>();
    let gathered = |frame: &Value| {
        let lists = ["joined", "changed", "left"].into_iter().filter_map(|list| frame[list].as_array());
        lists.flatten().cloned().collect::<Vec<_>>()
    };
    let entries =
        frames.iter().rev().flat_map(|frame| if frame["event"] == "delta" { gathered(frame) } else { each(frame) });
    let mut states = entries.filter(|entry| entry["agent_id"] == id.as_str());
    states.next().and_then(|entry| entry["state"].as_str().map(str::to_owned))
}

/// Ada was busy and away within a moment: of her, Bob is shown the first, and the second is held back.
fn changed_twice(presence: &str) -> (Stage, Agent, Seat) {
    let mut stage = Stage::new();
    let ada = stage.enters("ada", "none").agent;
    let mut bob = stage.enters("bob", presence);
    stage.later(LONG);
    stage.go_on(&mut bob);
    for last in [State::Busy, State::Away] {
        stage.when(&ada, state(last));
    }
    (stage, ada, bob)
}

fn in_order(seat: &Seat) -> bool {
    seat.frames.iter().filter_map(|frame| frame["position"].as_u64()).is_sorted()
}

/// Whether no two pushes have one event id: whoever looks at ids only must not miss the later one.
fn told_apart(seat: &Seat) -> bool {
    let pushes = seat.frames.iter().filter(|frame| !frame["event"].as_str().unwrap_or("_ok").ends_with("_ok"));
    let mut ids: Vec<_> = pushes.filter_map(|frame| frame["event_id"].as_str()).collect();
    ids.sort_unstable();
    ids.windows(2).all(|pair| pair[0] != pair[1])
}

#[test]
fn what_is_held_back_has_its_event_id_while_nothing_came_after_it() {
    for presence in ["each", "delta"] {
        for later in [false, true] {
            let mut stage = Stage::new();
            let ada = stage.enters("ada", "none").agent;
            let mut bob = stage.enters("bob", presence);
            stage.later(LONG);
            stage.go_on(&mut bob);
            stage.when(&ada, state(State::Busy));
            let away = stage.when(&ada, state(State::Away));
            if later {
                stage.when(&ada, note("later"));
            }
            stage.go_on(&mut bob);
            stage.later(LONG);
            stage.go_on(&mut bob);
            assert_eq!(told(&bob.frames, &ada).as_deref(), Some("away"), "{presence}");
            let last = bob.frames.iter().rfind(|frame| frame["type"] == "presence").expect("it was told");
            let place = (!later).then_some(away.0);
            assert_eq!((last["position"].as_u64(), last["event_id"].is_string()), (place, !later), "{presence} {last}");
            assert!(in_order(&bob) && told_apart(&bob), "{presence} {:?}", bob.frames);
        }
    }
}

#[test]
fn what_is_held_back_is_not_shown_after_what_is_newer() {
    let (mut stage, ada, mut bob) = changed_twice("each");
    // Its time comes, but the next change comes first.
    stage.now += LONG;
    stage.when(&ada, state(State::Busy));
    stage.later(LONG);
    stage.go_on(&mut bob);
    assert_eq!(told(&bob.frames, &ada).as_deref(), Some("busy"));
}

#[test]
fn whoever_lags_is_told_what_was_held_back_before() {
    for presence in ["each", "delta"] {
        let (mut stage, ada, mut bob) = changed_twice(presence);
        stage.when(&ada, note("seen"));
        stage.go_on(&mut bob);
        assert_ne!(told(&bob.frames, &ada).as_deref(), Some("away"), "{presence}: it is held back");
        flood(&mut stage, &ada);
        stage.go_on(&mut bob);
        for _ in 0..3 {
            stage.later(LONG);
            stage.go_on(&mut bob);
        }
        assert_eq!(told(&bob.frames, &ada).as_deref(), Some("away"), "{presence}");
        assert!(in_order(&bob) && told_apart(&bob), "{presence}");
        let notes = bob.frames.iter().filter(|frame| frame["type"] == "activity").count();
        assert_eq!(notes, 1 + FLOOD, "{presence}: nothing else is lost or shown twice");
    }
}

#[test]
fn what_nobody_takes_is_bounded_and_comes_from_the_log_in_the_end() {
    let mut stage = Stage::new();
    let ada = stage.enters("ada", "none").agent;
    let mut bob = stage.enters("bob", "none");
    stage.go_on(&mut bob);
    let (mut said, mut bytes) = (0, 0);
    while bob.outbox.queue().lagged.is_none() {
        bytes = bob.outbox.own_bytes();
        assert!(bytes <= OUTBOX_BYTES_MAX, "{bytes} bytes");
        stage.when(&ada, note(&"x".repeat(1_000)));
        said += 1;
        assert!(said < 10 * TAIL_UPDATES_MAX, "it never lags");
    }
    assert!(bytes + 2_000 > OUTBOX_BYTES_MAX, "it lags although only {bytes} bytes wait");
    assert!(said > TAIL_BYTES_MAX / 2_000, "what everyone shares is not counted");
    assert!(bob.outbox.queue().posts.is_empty(), "nothing of it is kept");
    stage.go_on(&mut bob);
    let notes = bob.frames.iter().filter(|frame| frame["type"] == "activity").count();
    assert_eq!(notes, said, "each once");
}

#[test]
fn what_is_made_for_everyone_has_a_bound_of_its_own() {
    let mut stage = Stage::new();
    let many: Vec<Agent> = (0..300).map(|number| stage.enters(&format!("agent{number}"), "none").agent).collect();
    let mut bob = stage.enters("bob", "delta");
    stage.go_on(&mut bob);
    let (mut made, mut frame, mut states) = (0, 0, [State::Busy, State::Away].into_iter().cycle());
    while bob.outbox.queue().lagged.is_none() {
        made = bob.outbox.queue().posts.iter().map(Post::weight).sum();
        assert!(made <= OUTBOX_MADE_BYTES_MAX, "{made} bytes");
        let next = states.next().expect("there is always another");
        for agent in &many {
            stage.when(agent, state(next));
        }
        stage.later(LONG);
        frame = bob.outbox.queue().posts.back().map_or(frame, Post::weight);
    }
    assert!(frame > OUTBOX_BYTES_MAX / 2, "{frame} bytes are a large one");
    assert!(made + frame > OUTBOX_MADE_BYTES_MAX, "it lags although only {made} bytes wait");
    stage.go_on(&mut bob);
    let last = if states.next() == Some(State::Busy) { "away" } else { "busy" };
    assert!(many.iter().all(|agent| told(&bob.frames, agent).as_deref() == Some(last)), "nothing of it is lost");
}

#[test]
fn more_is_remembered_while_there_is_room() {
    let mut stage = Stage::new();
    let ada = stage.enters("ada", "none").agent;
    let (kept, others) = (Arc::clone(&stage.fleet.kept), 2 * TAILS_BYTES_MAX);
    kept.fetch_sub(others, Ordering::Relaxed);
    for _ in 0..2 * TAIL_UPDATES_MAX {
        stage.when(&ada, note("x"));
    }
    assert!(stage.fleet.tail.len() > 2 * TAIL_UPDATES_MAX, "all of it");
    let bytes: usize = stage.fleet.tail.iter().map(|delivery| delivery.weight()).sum();
    assert_eq!(kept.load(Ordering::Relaxed), bytes);
    kept.fetch_add(others, Ordering::Relaxed);
    stage.fleet.forget();
    assert_eq!(stage.fleet.tail.len(), TAIL_UPDATES_MAX);
    drop(stage);
    assert_eq!(kept.load(Ordering::Relaxed), others, "nothing is left of it");
}

#[test]
fn much_is_taken_in_parts() {
    let mut stage = Stage::new();
    let ada = stage.enters("ada", "none").agent;
    let mut bob = stage.enters("bob", "none");
    stage.go_on(&mut bob);
    let places: Vec<_> = (0..300).map(|_| stage.when(&ada, note(&"x".repeat(1_000)))).collect();
    let mut taken = Vec::new();
    while !bob.outbox.is_empty() {
        let part = bob.outbox.take().expect("no lag");
        let bytes: usize = part.iter().map(Post::weight).sum();
        assert!((1..=OUTBOX_BYTES_MAX).contains(&bytes), "{bytes} bytes");
        taken.extend(part.iter().map(|post| post.delivery.offset));
    }
    assert_eq!(taken, places, "all of it, in order");
    assert_eq!(bob.outbox.own_bytes(), 0);
    assert_eq!(bob.outbox.queue().bytes, 0);
    // Some of it is older than what the fleet remembers.
    for _ in 0..TAIL_UPDATES_MAX + 20 {
        stage.when(&ada, note("x"));
    }
    let shared = (TAIL_UPDATES_MAX + 20) * size_of::<Post>();
    assert!(bob.outbox.own_bytes() > shared + 20 * 160, "what is old is its own");
    bob.outbox.take().expect("no lag");
    while !bob.outbox.is_empty() {
        bob.outbox.take().expect("no lag");
    }
    assert_eq!(bob.outbox.own_bytes(), 0);
    assert_eq!(bob.outbox.queue().bytes, 0);
}

#[test]
fn presence_that_waits_in_a_queue_is_not_lost_with_it() {
    for presence in ["each", "delta"] {
        let (mut stage, ada, mut bob) = changed_twice(presence);
        stage.when(&ada, note("seen"));
        stage.go_on(&mut bob);
        // Its time comes, but the peer reads no more: it is dropped with all that waits behind it.
        stage.later(LONG);
        flood(&mut stage, &ada);
        for _ in 0..3 {
            stage.go_on(&mut bob);
            stage.later(LONG);
        }
        assert_eq!(told(&bob.frames, &ada).as_deref(), Some("away"), "{presence}");
        assert!(in_order(&bob) && told_apart(&bob), "{presence}");
    }
}

#[test]
fn a_lag_before_the_time_comes_shows_nothing_twice() {
    let (mut stage, ada, mut bob) = changed_twice("each");
    stage.when(&ada, note("seen"));
    stage.go_on(&mut bob);
    flood(&mut stage, &ada);
    stage.go_on(&mut bob);
    stage.later(MOMENT);
    stage.later(LONG);
    stage.go_on(&mut bob);
    let away = bob.frames.iter().filter(|frame| frame["event"] == "state_changed" && frame["state"] == "away");
    assert_eq!(away.count(), 1);
}

#[test]
fn a_session_that_was_ended_elsewhere_is_told_so() {
    let mut stage = Stage::new();
    let mut ada = stage.enters("ada", "each");
    let mut bob = stage.enters("bob", "each");
    stage.says(&mut bob, &json!({ "type": "activity", "action": "broadcast", "kind": "custom", "ref": 1 }));
    let ended = stage.world.leaves(&bob.agent);
    stage.hear(ended);
    // What it said meanwhile stands in the log after its end.
    stage.go_on(&mut bob);
    assert_eq!(bob.closed(), Some(4001));
    assert!(bob.session.has_ended() && !bob.session.was_replaced());
    assert!(bob.frames.iter().all(|frame| frame["event"] != "left" && frame["type"] != "error"), "{:?}", bob.frames);
    stage.go_on(&mut ada);
    assert_eq!(told(&ada.frames, &bob.agent).as_deref(), Some("offline"), "the others see it leave");
    assert_eq!(ada.closed(), None);
}

#[test]
fn the_end_of_a_session_is_noticed_while_catching_up() {
    let mut stage = Stage::new();
    let ada = stage.enters("ada", "none").agent;
    let mut bob = stage.enters("bob", "none");
    flood(&mut stage, &ada);
    let ended = stage.world.leaves(&bob.agent);
    stage.hear(ended);
    stage.go_on(&mut bob);
    assert_eq!(bob.closed(), Some(4001));
}

#[test]
fn a_newer_session_ends_the_older_one() {
    let mut stage = Stage::new();
    let mut old = stage.enters("ada", "each");
    let start = Started { session: SessionId::from_bits(stage.world.id()), ..stage.world.start(Some("ada")) };
    let new = stage.enters_as(start, "each");
    stage.go_on(&mut old);
    assert_eq!((old.closed(), new.closed()), (Some(4409), None));
    assert!(old.session.was_replaced());
}

/// An event of this agent whose bytes cannot be read: the projector knows its place and nothing else.
fn damaged(stage: &mut Stage, by: &Agent) -> Applied {
    let mut verdict = stage.world.when(by, note("lost")).verdict;
    verdict.command_id = CommandId::from_bits(0);
    verdict.agent = None;
    verdict.outcome = Outcome::Refused(Refusal::new(Code::ServerError));
    Applied { event: None, verdict }
}

#[test]
fn what_a_member_subscribes_to_while_it_lags_is_known() {
    let mut stage = Stage::new();
    let ada = stage.enters("ada", "none").agent;
    let mut bob = stage.enters("bob", "none");
    let tagged = || Broadcast { scope: ActivityScope::Tagged, tags: vec!["red".to_owned()], ..note("red") };
    flood(&mut stage, &ada);
    stage.when(&ada, tagged());
    stage.when(&bob.agent, Subscribe { tags: vec!["red".to_owned()], kinds: Vec::new() });
    let known = stage.fleet.interest(bob.agent.session).expect("he is a member");
    assert_eq!(known, stage.world.agent(&bob.agent).interest);
    assert!(bob.outbox.take().is_err(), "he lags");
    stage.when(&ada, tagged());
    assert!(bob.outbox.is_empty(), "he is fed from the log");
    stage.input(&mut bob, Input::Lagged(Lagged::default()));
    stage.go_on(&mut bob);
    stage.when(&ada, tagged());
    stage.go_on(&mut bob);
    let red = bob.frames.iter().filter(|frame| frame["activity"]["description"] == "red").count();
    assert_eq!((red, in_order(&bob)), (2, true), "what came after the subscription");
}

#[test]
fn a_subscription_that_was_read_before_it_was_heard_of_counts() {
    let mut stage = Stage::new();
    let ada = stage.enters("ada", "none").agent;
    let bob = stage.enters("bob", "none");
    let subscribed = stage.world.when(&bob.agent, Subscribe { tags: vec!["red".to_owned()], kinds: Vec::new() });
    let interest = stage.fleet.interest(bob.agent.session).expect("he is a member");
    let viewpoint = Viewpoint { agent: bob.agent.agent, session: bob.agent.session };
    let member = Member { viewpoint, interest, presence: PresenceMode::None, outbox: Arc::clone(&bob.outbox) };
    let place = subscribed.event.at.position.offset;
    stage.fleet.join(member, Some(place)).expect("it reaches that far");
    stage.hear(subscribed);
    assert!(bob.outbox.is_empty(), "he has seen that");
    let tags = vec!["red".to_owned()];
    stage.when(&ada, Broadcast { scope: ActivityScope::Tagged, tags, ..note("red") });
    assert_eq!(bob.outbox.take().expect("no lag").len(), 1);
}

#[test]
fn the_asker_of_a_damaged_event_is_told_at_once() {
    for placed_first in [true, false] {
        let mut stage = Stage::new();
        let mut ada = stage.enters("ada", "none");
        let mut bob = stage.enters("bob", "none");
        let ask = json!({ "type": "activity", "action": "broadcast", "kind": "custom", "ref": 7 });
        stage.says(&mut bob, &ask);
        let Some(Action::Submit(asked)) = bob.actions.pop_front() else { panic!("it is submitted") };
        let id = asked.id;
        let update = damaged(&mut stage, &bob.agent);
        let offset = update.verdict.position.offset;
        stage.fleet.on_update(&update, stage.now);
        if placed_first {
            stage.input(&mut bob, Input::Submitted(id, Ok(offset)));
            stage.go_on(&mut bob);
        } else {
            stage.go_on(&mut bob);
            stage.input(&mut bob, Input::Submitted(id, Ok(offset)));
        }
        let told = bob.frames.last().expect("it is told");
        assert_eq!((&told["type"], &told["ref"], &told["code"]), (&json!("error"), &json!(7), &json!("server_error")));
        assert_eq!(told["outcome"], "none", "it had no effect");
        stage.go_on(&mut ada);
        assert!(ada.frames.iter().all(|frame| frame["type"] != "error"), "nobody else is told");
        stage.says(&mut bob, &ask);
        stage.go_on(&mut bob);
        assert_eq!(bob.frames.iter().filter(|frame| frame["event"] == "broadcast_ok").count(), 1, "it goes on");
    }
}

#[test]
fn whoever_catches_up_over_its_own_damaged_event_is_told_too() {
    let mut stage = Stage::new();
    let mut bob = stage.enters("bob", "none");
    stage.says(&mut bob, &json!({ "type": "presence", "action": "update", "state": "busy", "ref": 7 }));
    let Some(Action::Submit(asked)) = bob.actions.pop_front() else { panic!("it is submitted") };
    let id = asked.id;
    let update = damaged(&mut stage, &bob.agent);
    let offset = update.verdict.position.offset;
    stage.input(&mut bob, Input::Submitted(id, Ok(offset)));
    stage.input(&mut bob, Input::Lagged(Lagged::default()));
    let posts = bob.history([&update]);
    stage.input(&mut bob, Input::CaughtUp(Caught { posts, known: Vec::new(), upto: Some(offset), done: true }));
    assert_eq!(bob.frames.last().expect("it is told")["code"], "server_error");
}

#[test]
fn no_cursor_points_to_a_damaged_event() {
    let mut stage = Stage::new();
    let mut bob = stage.enters("bob", "delta");
    let joined = stage.enters("ada", "none");
    let update = damaged(&mut stage, &joined.agent);
    stage.fleet.on_update(&update, stage.now);
    stage.later(LONG);
    stage.go_on(&mut bob);
    let delta = bob.frames.last().expect("ada joined");
    assert_eq!(delta["position"], update.verdict.position.offset.0 - 1, "the place of an event that can be read");
}

#[test]
fn presence_of_many_is_announced_together_and_nothing_else_waits_for_it() {
    let mut stage = Stage::new();
    let ada = stage.enters("ada", "each");
    stage.later(LONG);
    let take = |seat: &Seat| seat.outbox.take().expect("no lag").len();
    take(&ada);

    let mut waiting = std::pin::pin!(ada.outbox.filled());
    let ben = stage.enters("ben", "none");
    assert!(waiting.as_mut().now_or_never().is_some(), "the first is announced at once");
    assert_eq!(take(&ada), 1);

    let mut waiting = std::pin::pin!(ada.outbox.filled());
    assert!(waiting.as_mut().now_or_never().is_none());
    stage.enters("cleo", "none");
    stage.enters("dan", "none");
    assert!(waiting.as_mut().now_or_never().is_none(), "those close behind it wait");
    assert!(stage.fleet.holds_back());
    stage.later(LONG);
    assert!(waiting.as_mut().now_or_never().is_some(), "and are announced together");
    assert_eq!(take(&ada), 2);
    assert!(!stage.fleet.holds_back());

    let mut waiting = std::pin::pin!(ada.outbox.filled());
    assert!(waiting.as_mut().now_or_never().is_none());
    stage.enters("eve", "none");
    assert!(waiting.as_mut().now_or_never().is_none());
    stage.when(&ben.agent, note("now"));
    assert!(waiting.as_mut().now_or_never().is_some(), "what else happens is announced at once");
    assert_eq!(take(&ada), 2, "with the presence before it");
}

#[test]
fn the_recent_updates_are_bounded_with_what_was_answered() {
    let mut stage = Stage::new();
    let ada = stage.enters("ada", "none").agent;
    let value = Json::parse(&format!("\"{}\"", "x".repeat(TAIL_BYTES_MAX / 4))).ok();
    for _ in 0..9 {
        let set = memory::Set { key: "plan".to_owned(), value: value.clone(), op: None, ..memory::Set::default() };
        stage.when(&ada, set);
        let append = Json::parse("\"y\"").ok();
        let set = memory::Set {
            key: "plan".to_owned(),
            value: append,
            op: Some(memory::Op::Append),
            ..memory::Set::default()
        };
        stage.when(&ada, set);
    }
    let bytes = |delivery: &Arc<Delivery>| {
        let pushes = delivery.pushes.iter().map(|push| push.with_value.as_deref().unwrap_or(&push.frame).frame.len());
        pushes.sum::<usize>() + delivery.reply.as_ref().map_or(0, |reply| reply.frame.len())
    };
    assert!(stage.fleet.tail.iter().map(bytes).sum::<usize>() <= TAIL_BYTES_MAX);
}
