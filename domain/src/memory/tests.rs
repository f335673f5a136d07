//! Given these entries, when one is set, deleted or expires, then this version, this conflict, these notices.

use serde_json::{Value, json};

use super::*;
use crate::{
    catalog::Effect,
    cursor::Seal,
    frame::Encoder,
    limits::{self, SUBSCRIPTIONS_MAX},
    position::{Generation, Partition, StreamRef},
    presence,
    row::RowIndex,
    verdict::Verdict,
    world::{Folded, World, flat},
};

fn set(wire: Value) -> Set {
    serde_json::from_value(wire).expect("a set")
}

fn delete(key: &str) -> Delete {
    Delete { key: key.to_owned(), ..Delete::default() }
}

fn version(told: &Folded) -> u64 {
    match told.applied() {
        Effect::MemorySet(effect) => effect.version,
        Effect::MemoryDelete(ended) | Effect::MemoryExpire(ended) => ended.version,
        other => panic!("{other:?}"),
    }
}

fn entry<'a>(world: &'a World, key: &str) -> &'a Entry {
    world.row(&RowKey::memory(world.scope, key)).expect("a row")
}

fn held(world: &World, key: &str) -> Option<Value> {
    entry(world, key).live(world.now).map(|content| content.value.value())
}

#[test]
fn versions_count_every_change_and_never_restart() {
    let mut world = World::new();
    let ada = world.joins("ada");
    let id = match world.when(&ada, set(json!({"key": "a", "value": 1}))).applied() {
        Effect::MemorySet(effect) => effect.id,
        other => panic!("{other:?}"),
    };
    assert_eq!(version(&world.when(&ada, set(json!({"key": "a", "value": 2})))), 2);
    let told = world.when(&ada, delete("a"));
    assert_eq!((&told.reply()["version"], &told.reply()["key"]), (&json!(3), &json!("a")));
    assert_eq!(world.when(&ada, delete("a")).code(), Some(Code::NotFound));
    let told = world.when(&ada, set(json!({"key": "a", "value": 4, "expected_version": 0, "ttl": 10})));
    assert_eq!((version(&told), told.pushed("changed")["change"].clone()), (4, json!("create")));
    world.later(10);
    assert_eq!(version(&world.timer(Expire { key: "a".to_owned(), version: 4 })), 5);
    assert_eq!(version(&world.when(&ada, set(json!({"key": "a", "value": 6})))), 6);
    assert_eq!(entry(&world, "a").id, id, "the id is kept over versions");
}

#[test]
fn a_set_replaces_and_tells_who_watches() {
    let mut world = World::new();
    let [ada, plain, valued, deletes] = ["ada", "b", "c", "d"].map(|name| world.joins(name));
    let watch = |pattern: &str, events: &[&str], values| Subscribe {
        pattern: pattern.to_owned(),
        events: events.iter().map(|event| (*event).to_owned()).collect(),
        values,
        snapshot: false,
    };
    world.when(&plain, watch("plan/*", &[], false));
    world.when(&plain, watch("**", &["set"], false));
    world.when(&valued, watch("plan/a", &["set"], true));
    world.when(&deletes, watch("plan/*", &["delete"], false));
    let told = world.when(&ada, set(json!({"key": "plan/a", "value": {"x": 1}, "tags": ["t"]})));
    let seen = [&ada, &plain, &valued, &deletes].map(|member| world.inbox(&told, member).len());
    assert_eq!(seen, [0, 1, 1, 0], "overlapping patterns notify once");
    let frame = world.inbox(&told, &plain)[0].clone();
    for (name, value) in [
        ("type", json!("memory")),
        ("event", json!("changed")),
        ("change", json!("create")),
        ("action", json!("set")),
        ("key", json!("plan/a")),
        ("author", json!(ada.agent)),
        ("version", json!(1)),
    ] {
        assert_eq!(frame[name], value);
    }
    assert!(frame.get("value").is_none());
    assert_eq!(world.inbox(&told, &valued)[0]["value"], json!({"x": 1}));
    let index = &told.verdict.index;
    assert_eq!((index.stream, index.subject.as_deref(), index.tags.len()), (Some(Stream::Memory), Some("plan/a"), 1));
    assert_eq!(index.label.as_deref(), Some("create"));
    let told = world.when(&ada, delete("plan/a"));
    assert_eq!(told.verdict.index.label.as_deref(), Some("delete"));
    assert_eq!([&plain, &valued, &deletes].map(|member| world.inbox(&told, member).len()), [1, 0, 1]);
    assert_eq!(told.pushed("changed")["action"], "delete");
}

#[test]
fn the_row_says_who_when_and_in_the_middle_of_what() {
    let mut world = World::new();
    let ada = world.joins("ada");
    world.when(&ada, presence::Update { task: Some("proofs".to_owned()), ..presence::Update::default() });
    let told = world.when(&ada, set(json!({"key": "a", "value": "x", "metadata": {"n": 1}, "ttl": 2.5})));
    let row = entry(&world, "a");
    let changed = &row.changed;
    assert_eq!(
        (changed.author, changed.session, changed.task.as_deref()),
        (Some(ada.agent), Some(ada.session), Some("proofs"))
    );
    assert_eq!((changed.event.offset, changed.at), (told.event.at.position.offset, world.now));
    let content = row.content.as_ref().expect("live");
    assert_eq!((content.ttl, content.expires_at), (Some(2.5), Some(world.now.plus(2_500_000))));
    let began = content.created_at;
    world.later(1);
    world.when(&ada, set(json!({"key": "a", "value": "y"})));
    let content = entry(&world, "a").content.as_ref().expect("live");
    assert_eq!((content.created_at, content.expires_at, content.metadata.is_none()), (began, None, true));
}

#[test]
fn an_entry_is_shown_while_it_is_held() {
    let mut world = World::new();
    let ada = world.joins("ada");
    let told =
        world.when(&ada, set(json!({"key": "a", "value": {"n": 1}, "ttl": 10, "tags": ["t"], "metadata": {"m": 2}})));
    let stream = StreamRef { partition: Partition::POOL, epoch: 0 };
    let encoder = Encoder { seal: Seal::new([7; 32]), scope: world.scope, stream, generation: Generation(1) };
    let shown = |world: &World, with_value| {
        let view = entry(world, "a").shown(world.now, &encoder, with_value, 3);
        view.map(|view| serde_json::to_value(view).expect("JSON serialises"))
    };
    let full = shown(&world, true).expect("it is held");
    let wanted = json!({"key": "a", "value": {"n": 1}, "type": "json", "version": 1, "ttl": 10.0, "tags": ["t"],
        "metadata": {"m": 2}, "access_count": 3, "author": ada.agent, "position": told.event.at.position.offset.0});
    for (name, value) in wanted.as_object().expect("an object") {
        assert_eq!(full[name], *value, "{name}");
    }
    let cursor = encoder.seal.open(&world.scope, stream, full["event_id"].as_str().expect("an id"));
    assert!(cursor.is_some(), "its id can be resumed after");
    let without = shown(&world, false).expect("it is held");
    assert!(without.get("value").is_none() && without["key"] == "a");
    world.later(10);
    assert_eq!(shown(&world, true), None, "its time is over");
}

#[test]
fn an_expected_version_decides() {
    let mut world = World::new();
    let (ada, bob) = (world.joins("ada"), world.joins("bob"));
    let told = world.when(&bob, set(json!({"key": "a", "value": 0, "expected_version": 1})));
    let refusal = told.refusal();
    assert_eq!((told.code(), &refusal.fact("current_version")), (Some(Code::Conflict), &Value::Null));
    assert_eq!(
        (&refusal.fact("current_value"), &refusal.fact("author"), &refusal.fact("changed_at")),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    assert_eq!(world.when(&ada, set(json!({"key": "a", "value": 1, "expected_version": 0}))).code(), None);
    world.later(3);
    let told = world.when(&bob, set(json!({"key": "a", "value": 2, "expected_version": 0})));
    let refusal = told.refusal();
    assert_eq!((&refusal.fact("current_version"), &refusal.fact("current_value")), (&json!(1), &json!(1)));
    assert_eq!((&refusal.fact("author"), &refusal.fact("key")), (&json!(ada.agent), &json!("a")));
    assert_eq!(refusal.fact("changed_at"), json!(world.now.plus(-3_000_000).rfc3339()));
    assert_eq!(told.reply()["code"], "conflict");
    assert!(told.pushes().is_empty());
    assert_eq!(version(&world.when(&bob, set(json!({"key": "a", "value": 2, "expected_version": 1})))), 2);
    let stale = Delete { expected_version: Some(1), ..delete("a") };
    assert_eq!(world.when(&ada, stale).code(), Some(Code::Conflict));
    let right = Delete { expected_version: Some(2), ..delete("a") };
    assert_eq!(version(&world.when(&ada, right)), 3);
    let told = world.when(&ada, set(json!({"key": "a", "value": 4, "expected_version": 3})));
    assert_eq!(told.refusal().fact("current_version"), Value::Null, "a deleted key is at no version");
    assert_eq!(version(&world.when(&ada, set(json!({"key": "a", "value": 4, "expected_version": 0})))), 4);
}

#[test]
fn what_was_read_must_still_hold() {
    let mut world = World::new();
    let ada = world.joins("ada");
    world.when(&ada, set(json!({"key": "a", "value": 1})));
    world.when(&ada, set(json!({"key": "b", "value": 1})));
    let reading = |a: i64, b: i64, c: i64| json!([{"key": "a", "version": a}, {"key": "b", "version": b}, {"key": "c", "version": c}]);
    for (reads, failing) in [(reading(2, 1, 0), "a"), (reading(1, 0, 0), "b"), (reading(1, 1, 1), "c")] {
        let told = world.when(&ada, set(json!({"key": "sum", "value": 2, "reads": reads})));
        assert_eq!((told.code(), &told.refusal().fact("key")), (Some(Code::Conflict), &json!(failing)));
    }
    let told =
        world.when(&ada, set(json!({"key": "sum", "value": 2, "expected_version": 9, "reads": reading(1, 1, 0)})));
    assert_eq!(told.refusal().fact("key"), "sum");
    assert_eq!(world.when(&ada, set(json!({"key": "sum", "value": 2, "reads": reading(1, 1, 0)}))).code(), None);
    let guarded = Delete { reads: vec![Read { key: "b".to_owned(), version: 7 }], ..delete("a") };
    assert_eq!(world.when(&ada, guarded).refusal().fact("key"), "b");
}

#[test]
fn an_expiry_is_real_before_anyone_recorded_it() {
    let mut world = World::new();
    let (ada, bob) = (world.joins("ada"), world.joins("bob"));
    let watch = Subscribe { pattern: "a".to_owned(), events: vec![], values: true, snapshot: false };
    world.when(&bob, watch);
    world.when(&ada, set(json!({"key": "a", "value": 1, "ttl": 5})));
    assert_eq!(entry(&world, "a").index().due_at, Some(world.now.plus(5_000_000)));
    world.later(5);
    assert_eq!(held(&world, "a"), None, "at its end it is over");
    let guarded = world.when(&ada, set(json!({"key": "a", "value": 2, "expected_version": 1})));
    assert_eq!(guarded.refusal().fact("current_version"), Value::Null);
    assert_eq!(world.when(&ada, delete("a")).code(), Some(Code::NotFound));
    let told = world.when(&ada, set(json!({"key": "a", "value": 2, "expected_version": 0})));
    assert_eq!(version(&told), 3, "the expiry was version 2");
    let seen = world.inbox(&told, &bob);
    let told_of: Vec<_> = seen.iter().map(|frame| (frame["change"].clone(), frame["version"].clone())).collect();
    assert_eq!(told_of, [(json!("expire"), json!(2)), (json!("create"), json!(3))]);
    assert_eq!((&seen[0]["author"], &seen[1]["value"]), (&Value::Null, &json!(2)));
    let late = world.timer(Expire { key: "a".to_owned(), version: 1 });
    assert_eq!(late.code(), Some(Code::NotFound), "what was recorded already is nothing to record");
}

#[test]
fn an_expiry_holds_only_for_the_version_it_means() {
    let mut world = World::new();
    let ada = world.joins("ada");
    world.when(&ada, set(json!({"key": "a", "value": 1, "ttl": 5})));
    assert_eq!(world.timer(Expire { key: "a".to_owned(), version: 1 }).code(), Some(Code::NotFound), "too early");
    world.when(&ada, set(json!({"key": "a", "value": 2, "ttl": 5})));
    world.later(60);
    assert_eq!(world.timer(Expire { key: "a".to_owned(), version: 1 }).code(), Some(Code::NotFound));
    let told = world.timer(Expire { key: "a".to_owned(), version: 2 });
    assert_eq!((version(&told), &told.pushed("changed")["change"]), (3, &json!("expire")));
    assert!(told.shown.reply.is_none() && told.verdict.index.stream == Some(Stream::Memory));
    assert_eq!((entry(&world, "a").changed.author, entry(&world, "a").index()), (None, RowIndex::default()));
    assert_eq!(world.timer(Expire { key: "never".to_owned(), version: 1 }).code(), Some(Code::NotFound));
}

#[test]
fn operations_work_on_what_is_there() {
    let mut world = World::new();
    let ada = world.joins("ada");
    let mut when = |wire: Value| world.when(&ada, set(wire));
    assert_eq!(when(json!({"key": "n", "op": "incr"})).reply()["value"], 1);
    let told = when(json!({"key": "n", "op": "incr", "value": 41}));
    assert_eq!((told.reply()["value"].clone(), version(&told)), (json!(42), 2));
    assert_eq!(told.shown.pushes[0].with_value.as_ref().map(flat).expect("with value")["value"], 42);
    let told = when(json!({"key": "n", "op": "append", "value": "x"}));
    assert_eq!((told.code(), &told.refusal().fact("type")), (Some(Code::InvalidMessage), &json!("number")));
    assert_eq!(when(json!({"key": "s", "op": "append", "value": "a"})).reply()["value"], "a");
    assert_eq!(when(json!({"key": "s", "op": "append", "value": "b"})).reply()["value"], "ab");
    assert_eq!(
        when(json!({"key": "o", "op": "merge", "value": {"a": 1, "b": 2}})).reply()["value"],
        json!({"a": 1, "b": 2})
    );
    assert_eq!(when(json!({"key": "o", "op": "merge", "value": {"a": null}})).reply()["value"], json!({"b": 2}));
    assert_eq!(when(json!({"key": "l", "op": "add_to_set", "value": [1, 1, 2]})).reply()["value"], json!([1, 2]));
    assert_eq!(when(json!({"key": "l", "op": "remove_from_set", "value": 1})).reply()["value"], json!([2]));
    assert!(
        when(json!({"key": "p", "value": 1})).reply().get("value").is_none(),
        "a plain set does not repeat its value"
    );
}

#[test]
fn a_null_that_an_operation_makes_is_kept_in_its_verdict() {
    let mut world = World::new();
    let ada = world.joins("ada");
    for (wire, told) in [
        (json!({"key": "n", "op": "merge", "value": null}), Some(json!(null))),
        (json!({"key": "n", "value": null}), None),
    ] {
        let folded = world.when(&ada, set(wire));
        assert_eq!(folded.reply().get("value"), told.as_ref());
        let kept: Verdict = Json::of(&folded.verdict).read().expect("a verdict");
        assert_eq!(kept, folded.verdict);
    }
}

#[test]
fn a_row_reads_back_from_its_text_to_the_last_bit() {
    let mut world = World::new();
    let ada = world.joins("ada");
    for part in 1..1_000 {
        world.when(&ada, Set { ttl: Some(60.0 + f64::from(part) / 7.0), ..set(json!({"key": "t", "value": 1})) });
        let entry = entry(&world, "t");
        let kept: Entry = Json::of(entry).read().expect("a row");
        assert_eq!(&kept, entry);
    }
}

#[test]
fn an_operation_keeps_what_it_does_not_name() {
    let mut world = World::new();
    let ada = world.joins("ada");
    world.when(&ada, set(json!({"key": "a", "value": [1], "tags": ["t"], "metadata": {"m": 1}, "ttl": 60})));
    let ends = entry(&world, "a").content.as_ref().and_then(|content| content.expires_at);
    world.later(10);
    world.when(&ada, set(json!({"key": "a", "op": "append", "value": 2})));
    let content = entry(&world, "a").content.clone().expect("live");
    assert_eq!((content.value.text(), content.tags, content.metadata.is_some()), ("[1,2]", vec!["t".to_owned()], true));
    assert_eq!((content.expires_at, content.ttl), (ends, Some(60.0)));
    world.later(100);
    let told = world.when(&ada, set(json!({"key": "a", "op": "append", "value": 2})));
    assert_eq!(told.reply()["value"], 2, "what has expired is not there to append to");
    assert!(entry(&world, "a").content.as_ref().is_some_and(|content| content.tags.is_empty()));
}

#[test]
fn no_operation_is_lost_among_many() {
    let mut world = World::new();
    let members = ["a", "b", "c"].map(|name| world.joins(name));
    for at in 0..30 {
        world.when(&members[at % 3], set(json!({"key": "n", "op": "incr", "value": 2})));
    }
    assert_eq!((held(&world, "n"), entry(&world, "n").version), (Some(json!(60)), 30));
}

#[test]
fn an_operation_grows_a_value_only_to_its_bound() {
    let mut world = World::new();
    let ada = world.joins("ada");
    let half = "x".repeat(limits::OP_VALUE_BYTES_MAX / 2);
    world.when(&ada, set(json!({"key": "a", "value": half})));
    let told = world.when(&ada, set(json!({"key": "a", "op": "append", "value": half})));
    assert_eq!((told.code(), entry(&world, "a").version), (Some(Code::PayloadTooLarge), 1));
}

#[test]
fn values_have_types() {
    let mut world = World::new();
    let ada = world.joins("ada");
    for (wire, expected) in [
        (json!({"value": "x"}), ValueType::Text),
        (json!({"value": {"a": 1}}), ValueType::Json),
        (json!({"value": null}), ValueType::Json),
        (json!({"value": "x", "type_hint": "json"}), ValueType::Json),
        (json!({"value": [0.5, 1], "type_hint": "embedding"}), ValueType::Embedding),
        (json!({"value": "file", "type_hint": "file_ref"}), ValueType::FileRef),
    ] {
        let mut wire = wire;
        wire["key"] = json!("a");
        let value = wire["value"].clone();
        assert_eq!(world.when(&ada, set(wire)).code(), None);
        let content = entry(&world, "a").content.as_ref().expect("live");
        assert_eq!((content.value_type, content.value.value()), (expected, value));
    }
    for (value, hint, kind) in [
        (json!([]), "embedding", "array"),
        (json!([1, "x"]), "embedding", "array"),
        (json!(1), "text", "number"),
        (json!(null), "file_ref", "null"),
    ] {
        let wrong = set(json!({"key": "a", "value": value, "type_hint": hint}));
        let refusal = wrong.check(&Limits::default()).expect_err("of another type");
        assert_eq!((refusal.code, &refusal.fact("type")), (Code::InvalidMessage, &json!(kind)));
    }
}

#[test]
fn a_type_follows_what_an_operation_makes() {
    let mut world = World::new();
    let ada = world.joins("ada");
    let typed = |world: &World| entry(world, "a").content.as_ref().map(|content| content.value_type);
    world.when(&ada, set(json!({"key": "a", "value": "x"})));
    world.when(&ada, set(json!({"key": "a", "op": "append", "value": "y"})));
    assert_eq!(typed(&world), Some(ValueType::Text));
    world.when(&ada, set(json!({"key": "a", "op": "merge", "value": {"z": 1}})));
    assert_eq!(typed(&world), Some(ValueType::Json), "an object is no text");
    world.when(&ada, set(json!({"key": "a", "value": [1, 2], "type_hint": "embedding"})));
    world.when(&ada, set(json!({"key": "a", "op": "append", "value": 3})));
    assert_eq!(typed(&world), Some(ValueType::Embedding));
    let told = world.when(&ada, set(json!({"key": "a", "op": "append", "value": "x", "type_hint": "embedding"})));
    assert_eq!(told.code(), Some(Code::InvalidMessage));
    world.when(&ada, set(json!({"key": "a", "op": "append", "value": "x"})));
    assert_eq!(typed(&world), Some(ValueType::Json));
}

#[test]
fn sets_out_of_bounds_are_refused() {
    let limits = Limits::default();
    let long = |bytes: usize| "x".repeat(bytes);
    for wire in [
        json!({"key": "", "value": 1}),
        json!({"key": "  ", "value": 1}),
        json!({"key": "a\u{0}", "value": 1}),
        json!({"key": "a/*", "value": 1}),
        json!({"key": long(limits.memory_key_bytes + 1), "value": 1}),
        json!({"key": "a"}),
        json!({"key": "a", "op": "append"}),
        json!({"key": "a", "value": 1, "ttl": 0}),
        json!({"key": "a", "value": 1, "ttl": -1}),
        json!({"key": "a", "value": 1, "ttl": TTL_SECONDS_MAX + 1.0}),
        json!({"key": "a", "value": 1, "expected_version": -1}),
        json!({"key": "a", "value": 1, "reads": [{"key": "b", "version": -1}]}),
        json!({"key": "a", "value": 1, "reads": [{"key": "*", "version": 1}]}),
        json!({"key": "a", "value": 1, "reads": vec![json!({"key": "b", "version": 1}); READS_MAX + 1]}),
        json!({"key": "a", "value": 1, "tags": vec!["t"; limits.tags + 1]}),
        json!({"key": "a", "value": 1, "metadata": long(limits.metadata_bytes)}),
    ] {
        let refusal = set(wire.clone()).check(&limits).expect_err("out of bounds");
        assert_eq!(refusal.code, Code::InvalidMessage, "{wire}");
    }
    let reads = vec![json!({"key": "b", "version": 0}); READS_MAX];
    let key = "é".repeat(limits.memory_key_bytes / 2);
    let full = set(json!({"key": key, "value": 1, "ttl": 0.000_001, "expected_version": 0, "reads": reads}));
    assert_eq!(full.check(&limits), Ok(()));
    assert!(
        set(json!({"key": format!("{}x", "é".repeat(limits.memory_key_bytes / 2)), "value": 1}))
            .check(&limits)
            .is_err()
    );
}

#[test]
fn a_snapshot_is_sent_to_whoever_subscribed_for_it() {
    let mut world = World::new();
    let ada = world.joins("ada");
    let subscribe = |snapshot| Subscribe { pattern: "a/*".to_owned(), events: Vec::new(), values: false, snapshot };
    assert_eq!(world.when(&ada, subscribe(false)).shown.snapshot, None);
    for _ in 0..2 {
        let told = world.when_keyed(&ada, "once", subscribe(true));
        assert_eq!(told.shown.snapshot.as_deref(), Some("a/*"), "asked again, shown again");
    }
    world.leaves(&ada);
    assert_eq!(world.when(&ada, subscribe(true)).shown.snapshot, None, "refused");
}

#[test]
fn watching_is_bounded_and_ends() {
    let mut world = World::new();
    let ada = world.joins("ada");
    let watch = |at: usize| Subscribe { pattern: format!("k/{at}"), events: vec![], values: false, snapshot: true };
    for at in 0..SUBSCRIPTIONS_MAX {
        assert_eq!(world.when(&ada, watch(at)).reply()["pattern"], json!(format!("k/{at}")));
    }
    assert_eq!(world.when(&ada, watch(SUBSCRIPTIONS_MAX)).refusal().fact("limit"), SUBSCRIPTIONS_MAX);
    let valued = Subscribe { values: true, ..watch(1) };
    assert_eq!(world.when(&ada, valued).code(), None, "the same pattern anew replaces the old");
    let told = world.when(&ada, set(json!({"key": "k/1", "value": 7})));
    assert_eq!(world.inbox(&told, &ada)[0]["value"], 7, "the author included");
    let gone = world.when(&ada, Unsubscribe { pattern: "k/1".to_owned() });
    assert_eq!(gone.reply()["event"], "unsubscribe_ok");
    assert_eq!(world.when(&ada, Unsubscribe { pattern: "never".to_owned() }).code(), None);
    let told = world.when(&ada, set(json!({"key": "k/1", "value": 8})));
    assert!(world.inbox(&told, &ada).is_empty());
    assert_eq!(world.when(&ada, watch(SUBSCRIPTIONS_MAX)).code(), None);
    let limits = Limits::default();
    for (pattern, events) in [("", vec![]), ("a", vec!["change".to_owned()]), ("a", vec!["set".to_owned(); 3])] {
        assert!(Subscribe { pattern: pattern.to_owned(), events, ..watch(0) }.check(&limits).is_err());
    }
    assert!(Unsubscribe { pattern: String::new() }.check(&limits).is_err());
}

#[test]
fn search_looks_at_key_and_value_of_what_is_there() {
    let mut world = World::new();
    let ada = world.joins("ada");
    world.when(&ada, set(json!({"key": "Plan/A", "value": "Ship IT", "tags": ["t"]})));
    let search = entry(&world, "Plan/A").index().search.expect("searchable");
    assert_eq!((search.text.as_str(), search.author), ("plan/a\nship it", Some(ada.agent)));
    let long = "é".repeat(limits::SEARCH_TEXT_BYTES_MAX);
    world.when(&ada, set(json!({"key": "long", "value": long})));
    let search = entry(&world, "long").index().search.expect("searchable");
    assert!(search.text.len() <= limits::SEARCH_TEXT_BYTES_MAX + 5);
    world.when(&ada, delete("Plan/A"));
    assert_eq!(entry(&world, "Plan/A").index(), RowIndex::default());
}

#[test]
fn deletes_out_of_bounds_are_refused() {
    let limits = Limits::default();
    let read = |version| Read { key: "b".to_owned(), version };
    for wrong in [
        delete("a/*"),
        Delete { expected_version: Some(-1), ..delete("a") },
        Delete { reads: vec![read(-1)], ..delete("a") },
        Delete { reads: vec![read(1); READS_MAX + 1], ..delete("a") },
    ] {
        assert_eq!(wrong.check(&limits).expect_err("out of bounds").code, Code::InvalidMessage, "{wrong:?}");
    }
    let full = Delete { reads: vec![read(0); READS_MAX], expected_version: Some(0), ..delete("a") };
    assert_eq!(full.check(&limits), Ok(()));
}

#[test]
fn questions_out_of_bounds_are_refused() {
    let limits = Limits::default();
    let search = |wire: Value| serde_json::from_value::<Search>(wire).expect("a query").check(&limits);
    for wire in [
        json!({"match": "some"}),
        json!({"since": "yesterday"}),
        json!({"metadata": [1]}),
        json!({"tags": vec!["t"; 65]}),
        json!({"text_search": "a ".repeat(65)}),
    ] {
        assert_eq!(search(wire.clone()).expect_err("out of bounds").code, Code::InvalidMessage, "{wire}");
    }
    assert_eq!(
        search(json!({"match": "any", "since": "2026-02-06", "metadata": {"a": 1}, "text_search": "A b"})),
        Ok(())
    );
    assert_eq!(search(json!({"text_search": "a ".repeat(64), "tags": vec!["t"; 64]})), Ok(()));
    assert!(Get { key: "*".to_owned() }.check(&limits).is_err());
    assert!(History { key: String::new(), limit: None, cursor: None }.check(&limits).is_err());
    let list = List { prefix: Some("x".repeat(limits.memory_key_bytes + 1)), ..List::default() };
    assert!(list.check(&limits).is_err());
    for (bytes, ok) in [(2 * limits.memory_key_bytes, true), (2 * limits.memory_key_bytes + 1, false)] {
        let list = List { cursor: Some("x".repeat(bytes)), ..List::default() };
        assert_eq!(list.check(&limits).is_ok(), ok, "a cursor of {bytes} bytes");
    }
}
