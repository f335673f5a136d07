//! What holds for every kind: repeated commands, late ones, those of a replaced session, time, the chain.

mod splits;

use std::collections::BTreeSet;

use serde_json::json;

use super::*;
use crate::{
    answer::{Asked, Forget},
    event::Header,
    frame::Shown,
    ids::FleetId,
    memory,
    presence::{State, Update},
    world::{Folded, World},
};

/// What events need and `rows` does not know.
fn unknown(events: &[Event], rows: &Rows) -> BTreeSet<RowKey> {
    let mut wanted = Needs::of(rows);
    for event in events {
        needs(event, &mut wanted);
    }
    wanted.unknown()
}

fn set(value: i32) -> memory::Set {
    serde_json::from_value(json!({"key": "a", "value": value})).expect("a set")
}

fn guarded(expected: i64) -> memory::Set {
    memory::Set { expected_version: Some(expected), ..set(1) }
}

fn version(world: &World) -> u64 {
    world.row::<memory::Entry>(&RowKey::memory(world.scope, "a")).map_or(0, |entry| entry.version)
}

#[test]
fn a_repeated_command_has_the_first_answer() {
    let mut world = World::new();
    let ada = world.joins("ada");
    let first = world.when_keyed(&ada, "once", set(1));
    world.when(&ada, set(2));
    world.later(3_600);
    let again = world.when_keyed(&ada, "once", set(1));
    let mut expected = first.reply();
    expected["duplicate"] = json!(true);
    assert_eq!(again.reply(), expected);
    assert_eq!(
        again.shown.reply.as_ref().and_then(|reply| reply.stamp),
        first.shown.reply.as_ref().and_then(|r| r.stamp)
    );
    assert!(again.shown.pushes.is_empty() && again.verdict.index == Index::default());
    assert_eq!(version(&world), 2, "and no second effect");
    assert_eq!(again.verdict.first.map(|first| first.offset), Some(first.event.at.position.offset));
}

#[test]
fn a_repeated_reply_carries_its_own_ref() {
    let mut world = World::new();
    let ada = world.joins("ada");
    let header = |world: &mut World, reference: &str| Header {
        idempotency_key: Some("once".to_owned()),
        reference: crate::json::Json::parse(reference).ok(),
        trace: Some(reference.to_owned()),
        ..world.header_of(&ada)
    };
    let (one, two) = (header(&mut world, "1"), header(&mut world, "2"));
    assert_eq!(world.submit(&one, set(1)).reply()["ref"], 1);
    let again = world.submit(&two, set(1)).reply();
    assert_eq!((&again["ref"], &again["duplicate"], &again["version"]), (&json!(2), &json!(true), &json!(1)));
}

#[test]
fn another_body_under_the_same_key_is_a_mismatch() {
    let mut world = World::new();
    let ada = world.joins("ada");
    world.when_keyed(&ada, "once", set(1));
    assert_eq!(world.when_keyed(&ada, "once", set(2)).code(), Some(Code::IdempotencyMismatch));
    let other = memory::Delete { key: "a".to_owned(), ..memory::Delete::default() };
    assert_eq!(
        world.when_keyed(&ada, "once", other).code(),
        Some(Code::IdempotencyMismatch),
        "one space for all kinds"
    );
    let told = world.when_keyed(&ada, "once", set(1));
    assert!(told.code().is_none() && told.verdict.first.is_some(), "a mismatch does not replace the answer");
    assert_eq!(version(&world), 1);
}

#[test]
fn a_refusal_is_remembered_too() {
    let mut world = World::new();
    let ada = world.joins("ada");
    let first = world.when_keyed(&ada, "once", guarded(7));
    assert_eq!(first.code(), Some(Code::Conflict));
    for _ in 0..7 {
        world.when(&ada, set(1));
    }
    let again = world.when_keyed(&ada, "once", guarded(7));
    assert_eq!((again.code(), &again.reply()["duplicate"]), (Some(Code::Conflict), &json!(true)));
    assert_eq!(again.refusal(), first.refusal());
}

#[test]
fn keys_are_an_agents_own_across_its_sessions() {
    let mut world = World::new();
    let (ada, bob) = (world.joins("ada"), world.joins("bob"));
    world.when_keyed(&ada, "once", set(1));
    assert!(world.when_keyed(&bob, "once", set(1)).verdict.first.is_none());
    let ada = world.joins("ada");
    assert!(world.when_keyed(&ada, "once", set(1)).verdict.first.is_some());
    world.scope.fleet = FleetId::from_bits(2);
    let elsewhere = world.joins("ada");
    assert!(world.when_keyed(&elsewhere, "once", set(1)).verdict.first.is_none());
}

#[test]
fn an_answer_is_remembered_for_a_day_of_log_time() {
    for (seconds, remembered) in [(86_400, true), (86_401, false)] {
        let mut world = World::new();
        let ada = world.joins("ada");
        world.when_keyed(&ada, "once", set(1));
        world.later(seconds);
        let told = world.when_keyed(&ada, "once", set(1));
        assert_eq!(told.verdict.first.is_some(), remembered, "{seconds} s");
        assert_eq!(version(&world), if remembered { 1 } else { 2 });
    }
}

#[test]
fn an_answer_is_forgotten_when_its_time_has_passed_and_not_before() {
    let mut world = World::new();
    let ada = world.joins("ada");
    for key in ["early", "late"] {
        world.when_keyed(&ada, key, set(1));
        world.later(60);
    }
    let keys = ["early", "late", "never"];
    let asked: Vec<_> = keys.map(|key| Asked { agent: ada.agent, key: key.to_owned() }).into();
    let kept = |world: &World| {
        let row = |key: &&str| world.row::<Answer>(&RowKey::answer(world.scope, ada.agent, key)).is_some();
        keys.into_iter().filter(row).collect::<Vec<_>>()
    };
    let due = world.row::<Answer>(&RowKey::answer(world.scope, ada.agent, "early")).map(|answer| answer.index().due_at);
    world.now = due.flatten().expect("stores know when").plus(-1);
    assert!(world.timer(Forget { asked: asked.clone() }).code().is_none());
    assert_eq!(kept(&world), ["early", "late"], "it still counts");
    world.now = world.now.plus(1);
    let told = world.timer(Forget { asked: asked.clone() });
    assert_eq!((kept(&world), &told.shown), (vec!["late"], &Shown::default()));
    world.when_keyed(&ada, "early", set(1));
    world.later(3_600);
    world.timer(Forget { asked });
    assert_eq!(kept(&world), ["early"], "used again, it counts again");
}

#[test]
fn a_repeat_does_not_prolong_the_memory() {
    let mut world = World::new();
    let ada = world.joins("ada");
    world.when_keyed(&ada, "once", set(1));
    world.later(80_000);
    world.when_keyed(&ada, "once", set(1));
    world.later(10_000);
    assert!(world.when_keyed(&ada, "once", set(1)).verdict.first.is_none());
}

#[test]
fn a_replaced_session_is_refused_and_that_is_not_remembered() {
    let mut world = World::new();
    let old = world.joins("ada");
    let new = world.joins("ada");
    let told = world.when_keyed(&old, "once", set(1));
    assert_eq!((told.code(), &told.refusal().fact("reason")), (Some(Code::Forbidden), &json!("replaced")));
    let told = world.when_keyed(&new, "once", set(1));
    assert!(told.code().is_none() && told.verdict.first.is_none());
    assert_eq!(world.when_keyed(&old, "once", set(1)).code(), Some(Code::Forbidden), "not even the answer");
    world.leaves(&new);
    assert_eq!(world.when(&new, set(1)).code(), Some(Code::Forbidden), "an ended session says nothing more");
    assert!(world.internal(&new, set(3)).code().is_none(), "what has no session is exempt");
}

#[test]
fn a_command_that_lands_too_late_takes_no_effect() {
    let within = |seconds: i64| -> Folded {
        let mut world = World::new();
        let ada = world.joins("ada");
        let header =
            Header { deadline: Some(world.now.0), idempotency_key: Some("once".to_owned()), ..world.header_of(&ada) };
        world.later(seconds);
        let told = world.submit(&header, set(1));
        let again = Header { deadline: None, ..header };
        let retried = world.submit(&again, set(1));
        assert_eq!(retried.code(), None);
        assert_eq!(retried.verdict.first.is_none(), told.code().is_some(), "a retry after it is the first");
        told
    };
    assert_eq!(within(300).code(), None);
    let late = within(301);
    assert_eq!((late.code(), late.refusal().outcome), (Some(Code::Timeout), Effected::None));
    assert_eq!(late.reply()["outcome"], "none");
}

#[test]
fn time_never_runs_backwards() {
    let mut world = World::new();
    let ada = world.joins("ada");
    let newest = world.now;
    world.later(-3_600);
    let told = world.when(&ada, Update { state: Some(State::Busy), ..Update::default() });
    assert_eq!((told.verdict.time, world.store.time, told.event.at.time), (newest, newest, world.now));
    assert_eq!(world.agent(&ada).since, newest);
    assert_eq!(told.pushed("state_changed")["timestamp"], json!(newest.rfc3339()), "frames say what rows say");
    let told = world.when(&ada, memory::Set { ttl: Some(60.0), ..set(1) });
    let entry: &memory::Entry = world.row(&RowKey::memory(world.scope, "a")).expect("a row");
    assert_eq!(entry.index().due_at, Some(newest.plus(60_000_000)));
    assert_eq!(told.pushed("changed")["timestamp"], json!(newest.rfc3339()));
}

#[test]
fn the_chain_of_a_fleet_counts_every_event_of_it() {
    let mut world = World::new();
    let here = world.scope;
    let ada = world.joins("ada");
    let refused = world.when(&ada, memory::Delete { key: "none".to_owned(), ..memory::Delete::default() });
    assert!(refused.code().is_some());
    world.scope.fleet = FleetId::from_bits(2);
    let bob = world.joins("bob");
    world.when_keyed(&ada, "k", set(1));
    world.when_keyed(&ada, "k", set(1));
    world.when(&bob, set(1));
    let previous = |scope| -> Vec<(u64, Option<u64>)> {
        let own = world.verdicts.iter().filter(|verdict| verdict.scope == scope);
        own.map(|verdict| (verdict.position.offset.0, verdict.previous.map(|offset| offset.0))).collect()
    };
    assert_eq!(previous(here), [(0, None), (1, Some(0)), (3, Some(1)), (4, Some(3))]);
    assert_eq!(previous(world.scope), [(2, None), (5, Some(2))]);
    let head: &Head = world.row(&RowKey::head(here)).expect("a row");
    assert_eq!((head.last, head.hash), (Offset(4), world.log[4].at.hash));
}

#[test]
fn a_damaged_record_has_its_place_in_the_chain_and_nothing_else() {
    let mut world = World::new();
    let ada = world.joins("ada");
    let scope = world.scope;
    let told = world.when(&ada, set(1)).event.at;
    let mut rows = Rows::at(world.now);
    rows.load([RowKey::head(scope)], world.row::<Head>(&RowKey::head(scope)).cloned().map(Row::Head));
    let position = Position { offset: told.position.offset.next(), ..told.position };
    let record = Damaged { scope, position, time: LogTime(1), hash: 7 };
    let mut wanted = Needs::of(&rows);
    needs_damaged(&record, &mut wanted);
    assert!(wanted.unknown().is_empty());
    let nothing = Rows::at(world.now);
    let mut wanted = Needs::of(&nothing);
    needs_damaged(&record, &mut wanted);
    assert_eq!(wanted.unknown(), BTreeSet::from([RowKey::head(scope)]));
    let verdict = damaged(&mut rows, &record);
    assert_eq!((verdict.previous, verdict.time), (Some(told.position.offset), world.now), "time never runs backwards");
    assert!(matches!(&verdict.outcome, Outcome::Refused(refusal) if refusal.code == Code::ServerError));
    let head = Row::Head(Head { scope, last: position.offset, hash: 7 });
    assert_eq!(rows.changed().collect::<Vec<_>>(), [(&RowKey::head(scope), Some(&head))]);
}

#[test]
fn a_refused_command_leaves_nothing_but_the_head() {
    let mut world = World::new();
    let ada = world.joins("ada");
    world.when(&ada, set(1));
    let before = world.store.rows.clone();
    assert!(world.when(&ada, guarded(9)).code().is_some());
    let mut after = world.store.rows.clone();
    let head = RowKey::head(world.scope);
    after.insert(head.clone(), before[&head].clone());
    assert_eq!(after, before);
}

#[test]
fn an_author_without_a_row_is_refused() {
    let mut world = World::new();
    let ada = world.joins("ada");
    world.scope.fleet = FleetId::from_bits(2);
    let header = Header { session_id: None, fleet_id: FleetId::from_bits(2), ..world.header_of(&ada) };
    assert_eq!(world.submit(&header, Update::default()).code(), Some(Code::NotFound));
}

#[test]
fn what_is_unknown_settles() {
    let mut world = World::new();
    let ada = world.joins("ada");
    let told = world.when(&ada, set(1));
    let rows = Rows::default();
    let keys = unknown(std::slice::from_ref(&told.event), &rows);
    assert!(keys.contains(&RowKey::memory(world.scope, "a")) && keys.contains(&RowKey::head(world.scope)));
    let mut rows = Rows::default();
    rows.load(keys, []);
    assert!(unknown(&[told.event], &rows).is_empty());
}

#[test]
fn only_what_peeks_at_rows_is_asked_again() {
    let mut world = World::new();
    let ada = world.joins("ada");
    let send: crate::direct::Send = serde_json::from_value(json!({"to": "ada", "payload": 1})).expect("a message");
    let told = [world.when(&ada, set(1)), world.when(&ada, send), world.when(&ada, set(2))];
    let rows = Rows::default();
    let mut wanted = Needs::of(&rows);
    assert_eq!(told.map(|told| needs(&told.event, &mut wanted)), [false, true, false]);
}

#[test]
fn a_name_given_in_a_batch_can_be_meant_later_in_it() {
    let mut world = World::new();
    let ada = world.joins("ada");
    world.joins("bob");
    let send = serde_json::from_value(json!({"to": "bob", "payload": 1}));
    world.when(&ada, Command::DirectSend(send.expect("a message")));
    let mut rows = Rows::default();
    for _ in 0..crate::limits::NEEDS_ROUNDS_MAX {
        rows.load(unknown(&world.log, &rows), []);
    }
    assert!(unknown(&world.log, &rows).is_empty(), "before anything is folded nobody knows who bob is");
    for event in &world.log[..2] {
        fold(&mut rows, event);
    }
    let counts = unknown(&world.log[2..], &rows);
    assert_eq!(counts.iter().filter(|key| key.table == crate::row::Table::MailCount).count(), 2);
    rows.load(counts, []);
    assert_eq!(fold(&mut rows, &world.log[2]), world.verdicts[2]);
}

#[test]
fn a_repeated_subscription_is_answered_as_the_first_and_holds_in_the_session_that_repeats_it() {
    use crate::{activity, memory::Subscribe};
    let pattern = |text: &str| Subscribe { pattern: text.to_owned(), events: vec![], values: false, snapshot: false };
    let tags = || activity::Subscribe { tags: vec!["ops".to_owned()], kinds: vec![] };
    let commands: [Command; 2] = [Command::MemorySubscribe(pattern("a")), Command::ActivitySubscribe(tags())];
    for command in commands {
        let mut world = World::new();
        let ada = world.joins("ada");
        let first = world.when_keyed(&ada, "once", command.clone());
        // In the same session a repeat changes nothing.
        let before = world.agent(&ada).clone();
        world.when_keyed(&ada, "once", command.clone());
        assert_eq!(*world.agent(&ada), before);
        // A new session begins without subscriptions.
        let ada = world.joins("ada");
        assert_eq!(world.agent(&ada).interest.current().count(), 0);
        let again = world.when_keyed(&ada, "once", command.clone());
        let mut expected = first.reply();
        expected["duplicate"] = json!(true);
        assert_eq!((again.reply(), again.pushes()), (expected, vec![]));
        assert_eq!(world.agent(&ada).interest.current().count(), 1);
        assert_eq!(again.shown.interest, first.shown.interest, "the edge hears of it too");
    }
}

#[test]
fn a_repeated_end_of_a_subscription_ends_it_and_a_full_agent_is_told_so() {
    use crate::memory::{Subscribe, Unsubscribe};
    let pattern = |text: String| Subscribe { pattern: text, events: vec![], values: false, snapshot: false };
    let mut world = World::new();
    let ada = world.joins("ada");
    world.when_keyed(&ada, "on", pattern("a".to_owned()));
    world.when_keyed(&ada, "off", Unsubscribe { pattern: "a".to_owned() });
    world.when(&ada, pattern("a".to_owned()));
    let again = world.when_keyed(&ada, "off", Unsubscribe { pattern: "a".to_owned() });
    assert!(again.verdict.first.is_some());
    assert_eq!(world.agent(&ada).interest.current().count(), 0);
    for at in 0..crate::limits::SUBSCRIPTIONS_MAX {
        world.when(&ada, pattern(format!("more/{at}")));
    }
    let told = world.when_keyed(&ada, "on", pattern("a".to_owned()));
    assert_eq!((told.code(), told.verdict.first), (Some(Code::InvalidMessage), None));
}
