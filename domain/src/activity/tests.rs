//! Given these agents and subscriptions, when one broadcasts, then these see it.

use serde_json::{Value, json};

use super::*;
use crate::{
    code::Code,
    ids::FleetId,
    world::{Folded, Member, World},
};

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

fn broadcast(wire: Value) -> Broadcast {
    serde_json::from_value(wire).expect("a broadcast")
}

fn subscribe(tags: &[&str], kinds: &[&str]) -> Subscribe {
    Subscribe { tags: texts(tags), kinds: texts(kinds) }
}

fn sees(world: &World, told: &Folded, member: &Member) -> bool {
    world.inbox(told, member).iter().any(|frame| frame["event"] == "broadcast")
}

#[test]
fn both_wire_forms_mean_the_same() {
    let nested = broadcast(json!({"scope": "tagged", "tags": ["a"],
        "event": {"kind": "alert", "description": "d", "data": {"x": 1}, "metadata": [1], "tags": ["b"]}}));
    let flat = broadcast(json!({"scope": "tagged", "tags": ["a"], "event_tags": ["b"],
        "kind": "alert", "description": "d", "data": {"x": 1}, "metadata": [1]}));
    assert_eq!(nested, flat);
    assert_eq!(broadcast(json!({"kind": "custom"})).scope, ActivityScope::Fleet);
}

#[test]
fn the_whole_fleet_sees_a_broadcast_once_its_author_too() {
    let mut world = World::new();
    let (ada, bob) = (world.joins("ada"), world.joins("bob"));
    let told = world.when(
        &ada,
        broadcast(json!({"event": {"kind": "discovery", "description": "", "tags": ["x"], "data": [1], "metadata": {"m": 1}}})),
    );
    assert_eq!(told.reply()["event"], "broadcast_ok");
    for member in [&ada, &bob] {
        assert_eq!(world.inbox(&told, member).len(), 1);
    }
    let frame = told.pushed("broadcast");
    assert_eq!(frame["from"], json!({"agent_id": ada.agent, "name": "ada"}));
    assert_eq!(
        frame["activity"],
        json!({"kind": "discovery", "description": "", "tags": ["x"], "data": [1], "metadata": {"m": 1}})
    );
    assert_eq!(frame["scope"], "fleet");
    let index = &told.verdict.index;
    assert_eq!((index.stream, index.label.as_deref()), (Some(Stream::Activity), Some("discovery")));
    assert_eq!((index.tags.clone(), index.routing.len(), index.parties.len()), (texts(&["x"]), 0, 0));
}

#[test]
fn the_cause_is_shown() {
    let mut world = World::new();
    let ada = world.joins("ada");
    let header = Header { caused_by: Some("evt_1".to_owned()), ..world.header_of(&ada) };
    let told = world.submit(&header, broadcast(json!({"kind": "alert"})));
    assert_eq!(told.pushed("broadcast")["caused_by"], "evt_1");
}

#[test]
fn tagged_reaches_the_author_and_who_asked_for_a_tag_or_the_kind() {
    let mut world = World::new();
    let [ada, by_tag, by_event_tag, by_kind, nobody] = ["ada", "b", "c", "d", "e"].map(|name| world.joins(name));
    world.when(&by_tag, subscribe(&["ops"], &[]));
    world.when(&by_event_tag, subscribe(&["night"], &[]));
    world.when(&by_kind, subscribe(&[], &["alert"]));
    let told = world.when(
        &ada,
        broadcast(json!({"scope": "tagged", "tags": ["ops"], "event": {"kind": "alert", "tags": ["night"]}})),
    );
    let seen = [&ada, &by_tag, &by_event_tag, &by_kind, &nobody].map(|member| sees(&world, &told, member));
    assert_eq!(seen, [true, true, false, true, false], "top-level tags route, the event's do not");
    let index = &told.verdict.index;
    assert_eq!((index.routing.clone(), index.tags.clone()), (texts(&["ops"]), texts(&["night", "ops"])));
    let told = world.when(&ada, broadcast(json!({"scope": "tagged", "event": {"kind": "custom", "tags": ["night"]}})));
    let seen = [&by_tag, &by_event_tag, &by_kind].map(|member| sees(&world, &told, member));
    assert_eq!(seen, [false, true, false], "without top-level tags the event's route");
    assert_eq!(told.pushed("broadcast")["tags"], json!(["night"]));
}

#[test]
fn a_subscription_counts_from_its_own_place_to_its_end() {
    let mut world = World::new();
    let (ada, bob) = (world.joins("ada"), world.joins("bob"));
    let tagged = || broadcast(json!({"scope": "tagged", "tags": ["ops"], "kind": "alert"}));
    let before = world.when(&ada, tagged());
    let told = world.when(&bob, subscribe(&["ops"], &[]));
    assert_eq!((&told.reply()["event"], &told.reply()["tags"]), (&json!("subscribe_ok"), &json!(["ops"])));
    assert_eq!(told.shown.interest.as_ref().map(|(agent, _)| *agent), Some(bob.agent));
    let during = world.when(&ada, tagged());
    let told = world.when(&bob, Unsubscribe { tags: texts(&["ops", "never"]), kinds: vec![] });
    assert_eq!(told.reply()["event"], "unsubscribe_ok");
    let after = world.when(&ada, tagged());
    assert_eq!([&before, &during, &after].map(|told| sees(&world, told, &bob)), [false, true, false]);
}

#[test]
fn direct_reaches_two_and_nobody_else_ever() {
    let mut world = World::new();
    let [ada, bob, eve] = ["ada", "bob", "eve"].map(|name| world.joins(name));
    world.when(&eve, subscribe(&["ops"], &["alert"]));
    for to in ["bob".to_owned(), bob.agent.to_string()] {
        let told = world.when(&ada, broadcast(json!({"scope": "direct", "to": to, "tags": ["ops"], "kind": "alert"})));
        assert_eq!([&ada, &bob, &eve].map(|member| sees(&world, &told, member)), [true, true, false]);
        assert_eq!(told.verdict.index.parties, [ada.agent, bob.agent]);
        assert_eq!(told.pushed("broadcast")["to"], json!(bob.agent));
    }
    world.leaves(&bob);
    let told = world.when(&ada, broadcast(json!({"scope": "direct", "to": "bob", "kind": "alert"})));
    assert_eq!(told.code(), None, "an absent agent finds it in a replay");
}

#[test]
fn direct_to_a_stranger_is_not_found() {
    let mut world = World::new();
    let ada = world.joins("ada");
    world.scope.fleet = FleetId::from_bits(2);
    let other = world.joins("bob");
    for to in ["bob".to_owned(), other.agent.to_string(), "nobody".to_owned()] {
        let told = world.when(&ada, broadcast(json!({"scope": "direct", "to": to, "kind": "alert"})));
        assert_eq!(told.code(), Some(Code::NotFound), "{to}");
        assert!(told.shown.pushes.is_empty());
    }
}

#[test]
fn an_id_wins_over_a_name_that_looks_like_it() {
    let mut world = World::new();
    let (ada, bob) = (world.joins("ada"), world.joins("bob"));
    world.joins(&bob.agent.to_string());
    let told = world.when(&ada, broadcast(json!({"scope": "direct", "to": bob.agent, "kind": "alert"})));
    assert_eq!(told.pushed("broadcast")["to"], json!(bob.agent));
}

#[test]
fn broadcasts_out_of_bounds_are_refused() {
    let limits = Limits::default();
    let long = |bytes: usize| "x".repeat(bytes);
    let many = |count: usize| (0..count).map(|at| at.to_string()).collect::<Vec<_>>();
    for wire in [
        json!({}),
        json!({"kind": "gossip"}),
        json!({"kind": "alert", "scope": "tagged"}),
        json!({"kind": "alert", "scope": "direct"}),
        json!({"kind": "alert", "tags": [""]}),
        json!({"kind": "alert", "tags": [long(limits.tag_bytes + 1)]}),
        json!({"kind": "alert", "tags": many(limits.tags + 1)}),
        json!({"kind": "alert", "event_tags": many(limits.tags + 1)}),
        json!({"kind": "alert", "description": long(limits.description_bytes + 1)}),
        json!({"kind": "alert", "metadata": long(limits.metadata_bytes)}),
        json!({"kind": "alert", "scope": "direct", "to": long(limits.name_bytes + 1)}),
    ] {
        let refusal = broadcast(wire.clone()).check(&limits).expect_err("out of bounds");
        assert_eq!(refusal.code, Code::InvalidMessage, "{wire}");
    }
    for wire in [json!({"kind": "alert", "tags": many(limits.tags)}), json!({"kind": "custom", "description": ""})] {
        assert!(broadcast(wire).check(&limits).is_ok());
    }
}

#[test]
fn subscriptions_are_bounded() {
    let mut world = World::new();
    let ada = world.joins("ada");
    let tags = |from: usize, to: usize| (from..to).map(|at| at.to_string()).collect::<Vec<_>>();
    for from in (0..SUBSCRIPTIONS_MAX).step_by(16) {
        let told = world.when(&ada, Subscribe { tags: tags(from, from + 16), kinds: vec![] });
        assert_eq!(told.code(), None, "{from}");
    }
    let told = world.when(&ada, subscribe(&["one more"], &[]));
    assert_eq!(told.refusal().fact("limit"), SUBSCRIPTIONS_MAX);
    assert_eq!(told.code(), Some(Code::InvalidMessage));
    assert_eq!(world.when(&ada, Subscribe { tags: tags(0, 16), kinds: vec![] }).code(), None, "known ones are free");
    world.when(&ada, Unsubscribe { tags: tags(0, 1), kinds: vec![] });
    assert_eq!(world.when(&ada, subscribe(&["one more"], &[])).code(), None);
    assert_eq!(world.agent(&ada).interest.current().count(), SUBSCRIPTIONS_MAX);
}

#[test]
fn the_same_topic_twice_counts_once() {
    let mut world = World::new();
    let ada = world.joins("ada");
    let tags = |from: usize, to: usize| (from..to).map(|at| at.to_string()).collect::<Vec<_>>();
    for from in (0..SUBSCRIPTIONS_MAX - 16).step_by(16) {
        world.when(&ada, Subscribe { tags: tags(from, from + 16), kinds: vec![] });
    }
    world.when(&ada, Subscribe { tags: tags(900, 915), kinds: vec![] });
    assert_eq!(world.when(&ada, subscribe(&["last", "last"], &[])).code(), None);
}

#[test]
fn a_subscription_names_something() {
    let limits = Limits::default();
    assert!(subscribe(&[], &[]).check(&limits).is_err());
    assert!(Unsubscribe::default().check(&limits).is_err());
    assert!(subscribe(&[], &["alert"]).check(&limits).is_ok());
}
