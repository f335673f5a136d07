//! Given what became of some agents, when an observer was told all of it, then that is accepted; and nothing less.

use ringforge_domain::{
    presence::{self, Update},
    row::State as _,
    world::{Member, World, flat},
};
use serde_json::json;

use super::*;

/// A fleet of which one agent is busy, one has left and one came late; and what an observer is told of each change.
fn fleet() -> (World, [Member; 3], Vec<Value>) {
    let mut world = World::new();
    let (ada, bob) = (world.joins("ada"), world.joins("bob"));
    let mut frames = vec![shown("roster", &json!({ "agents": [entry(&world, &ada), entry(&world, &bob)] }))];
    let late = world.start(Some("eve"));
    let (eve, joined) = world.enters(late);
    let busy = Update { state: Some(presence::State::Busy), ..Update::default() };
    let told = [joined, world.when(&ada, busy), world.leaves(&bob)];
    frames.extend(told.iter().map(|told| flat(&told.shown.pushes.last().expect("it is shown").frame)));
    (world, [ada, bob, eve], frames)
}

fn entry(world: &World, member: &Member) -> Value {
    world.agent(member).entry()
}

fn shown(event: &str, body: &Value) -> Value {
    let mut frame = json!({ "type": "presence", "event": event });
    frame.as_object_mut().expect("an object").extend(body.as_object().cloned().unwrap_or_default());
    frame
}

fn check(world: &World, frames: &[Value]) -> Result<()> {
    Roster::of(frames).check(world.store.rows.values().filter_map(Agent::of))
}

#[test]
fn who_was_told_everything_knows_what_is_so() {
    let (world, _, frames) = fleet();
    check(&world, &frames).expect("everything was told");
    let late = shown("activity", &json!({ "agent_id": "nobody" }));
    check(&world, &[&frames[..], &[json!({ "type": "activity" }), late]].concat()).expect("the rest is no presence");
}

#[test]
fn deltas_tell_the_same() {
    let (world, [ada, bob, eve], frames) = fleet();
    let [ada, bob, eve] = [ada, bob, eve].map(|member| entry(&world, &member));
    let delta = shown("delta", &json!({ "joined": [eve], "changed": [ada], "left": [bob] }));
    check(&world, &[frames[0].clone(), delta.clone()]).expect("everything was told");
    for list in ["joined", "changed", "left"] {
        let mut less = delta.clone();
        less[list] = json!([]);
        check(&world, &[frames[0].clone(), less]).expect_err(list);
    }
}

#[test]
fn a_frame_that_is_lost_or_comes_too_early_is_noticed() {
    let (world, _, frames) = fleet();
    for at in 0..frames.len() {
        let mut less = frames.clone();
        let lost = less.remove(at);
        if at > 0 {
            check(&world, &less).expect_err("it is lost");
        }
        less.insert(0, lost);
        // The roster tells of the state before; of who was not in it, it tells nothing.
        let settled = at == 0 || frames[at]["event"] == "joined";
        assert_eq!(check(&world, &less).is_ok(), settled, "{}", frames[at]);
    }
}

#[test]
fn who_left_long_ago_need_not_be_known_and_nobody_may_be_made_up() {
    let (mut world, [.., eve], mut frames) = fleet();
    frames[0]["agents"].as_array_mut().expect("a list").pop();
    frames.pop();
    check(&world, &frames).expect("bob has left");
    world.leaves(&eve);
    check(&world, &frames).expect_err("eve was here, and has left");
    let (world, _, mut frames) = fleet();
    frames.push(shown("joined", &json!({ "agent_id": "ag_stranger", "state": "online" })));
    check(&world, &frames).expect_err("there is no such agent");
}
