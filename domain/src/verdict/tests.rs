//! What is seen of an event is its verdict's to say; what a verdict lacks is put in where it is asked for.

use serde_json::json;

use super::*;
use crate::{
    code::Code,
    limits::CONFLICT_VALUE_BYTES_MAX,
    memory,
    row::{RowKey, memory::Entry},
    world::{Member, World},
};

fn set(world: &mut World, by: &Member, wire: serde_json::Value) -> crate::world::Folded {
    world.when(by, serde_json::from_value::<memory::Set>(wire).expect("a set"))
}

#[test]
fn a_conflict_holds_a_value_up_to_its_bound_and_says_where_a_longer_one_is() {
    for (bytes, held) in [(CONFLICT_VALUE_BYTES_MAX, true), (CONFLICT_VALUE_BYTES_MAX + 1, false)] {
        let mut world = World::new();
        let ada = world.joins("ada");
        let value = "x".repeat(bytes - 2);
        set(&mut world, &ada, json!({"key": "k", "value": value}));
        let told = set(&mut world, &ada, json!({"key": "k", "value": 1, "expected_version": 0}));
        assert_eq!(told.code(), Some(Code::Conflict));
        let entry: &Entry = world.row(&RowKey::memory(world.scope, "k")).expect("it is there");
        let met = Met { key: "k".to_owned(), event: entry.changed.event };
        assert_eq!(told.verdict.lacks(), (!held).then_some(&met), "{bytes}");
        assert_eq!(told.refusal().fact(CURRENT_VALUE), if held { json!(value) } else { json!(null) }, "{bytes}");
        let mut whole = told.verdict.clone();
        whole.complete(Some(&Json::of(&"new")));
        let wanted = if held { json!(value) } else { json!("new") };
        let Outcome::Refused(refusal) = &whole.outcome else { panic!("a conflict") };
        assert_eq!((refusal.fact(CURRENT_VALUE), whole.lacks()), (wanted, None), "{bytes}");
        let mut lost = told.verdict.clone();
        lost.complete(None);
        assert_eq!(lost.lacks(), None);
    }
}

#[test]
fn a_verdict_weighs_what_it_holds() {
    let mut world = World::new();
    let ada = world.joins("ada");
    let plain = set(&mut world, &ada, json!({"key": "k", "value": "a long value"}));
    assert_eq!(plain.verdict.weight(), VERDICT_BYTES, "the value is in the event");
    let grown = set(&mut world, &ada, json!({"key": "k", "op": "append", "value": " and more"}));
    assert_eq!(grown.verdict.weight(), VERDICT_BYTES + r#""a long value and more""#.len());
    let refused = set(&mut world, &ada, json!({"key": "k", "value": 1, "expected_version": 9}));
    assert_eq!(refused.verdict.weight(), VERDICT_BYTES + refused.refusal().weight());
    let mut met = plain.verdict.clone();
    assert_eq!(met.lacks(), None);
    met.complete(Some(&Json::of(&1)));
    assert_eq!(met, plain.verdict, "it lacks nothing");
}

#[test]
fn what_is_shown_bears_the_place_of_its_event_and_a_repeat_that_of_the_first() {
    let mut world = World::new();
    let ada = world.joins("ada");
    let watch = memory::Subscribe { pattern: "*".to_owned(), events: vec![], values: true, snapshot: true };
    let first = world.when_keyed(&ada, "w", watch.clone());
    let place = |told: &crate::world::Folded| First { offset: told.event.at.position.offset, hash: told.event.at.hash };
    assert_eq!(first.shown.reply.as_ref().and_then(|reply| reply.stamp), Some(place(&first)));
    let again = world.when_keyed(&ada, "w", watch);
    assert_eq!(again.shown.reply.as_ref().and_then(|reply| reply.stamp), Some(place(&first)));
    assert_eq!(again.reply()["duplicate"], true);
    assert_eq!((&again.shown.snapshot, &again.shown.interest), (&first.shown.snapshot, &first.shown.interest));
    assert!(first.shown.snapshot.is_some() && first.shown.interest.is_some());
    let told = set(&mut world, &ada, json!({"key": "k", "value": 1}));
    let push = told.push("changed");
    assert_eq!(
        (push.frame.stamp, push.with_value.as_ref().and_then(|frame| frame.stamp)),
        (Some(place(&told)), Some(place(&told)))
    );
    assert_ne!(place(&told).hash, place(&first).hash);
    let refused = set(&mut world, &ada, json!({"key": "k", "value": 1, "expected_version": 9}));
    let reply = refused.reply();
    assert_eq!((&reply["type"], &reply["code"]), (&json!("error"), &json!("conflict")));
    assert!(refused.shown.pushes.is_empty());
}
