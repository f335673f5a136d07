//! Given these arrivals and updates, then these agents.

use serde_json::json;

use super::*;
use crate::{
    activity,
    catalog::Effect,
    close::Close,
    code::Code,
    ids::AgentId,
    interest::Topic,
    memory,
    world::{Folded, World},
};

fn started(told: &Folded) -> StartedEffect {
    match told.applied() {
        Effect::SessionStarted(effect) => effect.clone(),
        other => panic!("{other:?}"),
    }
}

fn busy(task: &str) -> Update {
    Update { state: Some(State::Busy), task: Some(task.to_owned()), ..Update::default() }
}

#[test]
fn a_name_is_the_same_agent_for_ever() {
    let mut world = World::new();
    let first = world.joins("ada");
    world.leaves(&first);
    world.later(400 * 86_400);
    let again = world.joins("ada");
    assert_eq!(first.agent, again.agent);
    assert_ne!(world.joins("bob").agent, first.agent);
}

#[test]
fn a_newcomer_gets_the_proposed_id() {
    let mut world = World::new();
    for name in [None, Some("ada")] {
        let start = world.start(name);
        let (member, told) = world.enters(start.clone());
        assert_eq!(member.agent, start.proposed);
        assert_eq!(told.pushed("joined")["agent_id"], json!(start.proposed));
    }
    assert_ne!(world.enters_unnamed(), world.enters_unnamed());
}

#[test]
fn the_same_name_in_another_fleet_is_another_agent() {
    let mut world = World::new();
    let here = world.joins("ada");
    world.scope.fleet = crate::ids::FleetId::from_bits(2);
    assert_ne!(world.joins("ada").agent, here.agent);
}

#[test]
fn a_claim_needs_its_proof() {
    let mut world = World::new();
    let start = world.start(None);
    let (member, _) = world.enters(start.clone());
    let claim = |world: &mut World, proof: Option<&str>| {
        let fresh = world.start(None);
        Started { claimed: Some(member.agent), proof: proof.map(str::to_owned), ..fresh }
    };
    for proof in [None, Some("guess")] {
        let wrong = claim(&mut world, proof);
        assert_eq!(world.timer(wrong).code(), Some(Code::Unauthorized));
    }
    let right = claim(&mut world, Some(&start.resume_hash));
    let (again, told) = world.enters(right.clone());
    assert_eq!(again.agent, member.agent);
    assert_eq!(started(&told).replaced, Some(member.session));
    let stale = claim(&mut world, Some(&start.resume_hash));
    assert_eq!(world.timer(stale).code(), Some(Code::Unauthorized), "a new session has a new proof");
    let stranger = Started { claimed: Some(AgentId::from_bits(404)), ..right };
    assert_eq!(world.timer(stranger).code(), Some(Code::Unauthorized));
}

#[test]
fn a_claim_under_the_name_of_another_is_refused() {
    let mut world = World::new();
    world.joins("ada");
    let bob = world.start(Some("bob"));
    let (member, _) = world.enters(bob.clone());
    let fresh = world.start(Some("ada"));
    let claim = Started { claimed: Some(member.agent), proof: Some(bob.resume_hash), ..fresh };
    assert_eq!(world.timer(claim).code(), Some(Code::Unauthorized));
}

#[test]
fn a_new_name_taken_with_a_claim_is_its_own_too() {
    let mut world = World::new();
    let ada = world.start(Some("ada"));
    let (member, _) = world.enters(ada.clone());
    let fresh = world.start(Some("lovelace"));
    let claim = Started { claimed: Some(member.agent), proof: Some(ada.resume_hash), ..fresh };
    let (_, told) = world.enters(claim);
    assert_eq!(told.pushed("state_changed")["name"], "lovelace");
    assert_eq!(world.joins("lovelace").agent, member.agent, "a name is never two agents'");
    assert_eq!(world.joins("ada").agent, member.agent);
}

#[test]
fn an_exclusive_agent_opens_only_with_its_token() {
    let mut world = World::new();
    let start = Started { exclusive: true, ..world.start(Some("ada")) };
    let (member, _) = world.enters(start.clone());
    let plain = world.start(Some("ada"));
    let refused = world.timer(plain);
    assert_eq!(refused.code(), Some(Code::Unauthorized));
    assert!(refused.shown.pushes.is_empty());
    let proven = Started { proof: Some(start.resume_hash), ..world.start(Some("ada")) };
    assert_eq!(world.enters(proven).0.agent, member.agent);
    let forgot = world.start(Some("ada"));
    assert_eq!(world.timer(forgot).code(), Some(Code::Unauthorized), "it stays exclusive");
}

#[test]
fn nobody_is_told_that_it_left_itself() {
    let mut world = World::new();
    let (ada, bob) = (world.joins("ada"), world.joins("bob"));
    let told = world.leaves(&ada);
    assert_eq!(world.inbox(&told, &bob).len(), 1);
    assert!(world.inbox(&told, &ada).is_empty());
    assert_eq!(told.shown.ended, Some((ada.session, Close::HeartbeatLost)), "a socket that is there is closed");
    let (_, told) = {
        let start = world.start(Some("ada"));
        world.enters(start)
    };
    assert_eq!(world.inbox(&told, &ada).len(), 1, "its own joined, as everyone else");
}

#[test]
fn a_takeover_keeps_the_state_and_shows_others_nothing() {
    let mut world = World::new();
    let (old, other) = (world.joins("ada"), world.joins("bob"));
    world.when(&old, Update { load: Some(0.25), ..busy("proofs") });
    let since = world.agent(&old).since;
    world.later(5);
    let start = world.start(Some("ada"));
    let (new, told) = world.enters(start);
    assert_eq!(started(&told).replaced, Some(old.session));
    assert_eq!(told.shown.ended, Some((old.session, Close::Replaced)));
    assert!(world.inbox(&told, &other).is_empty());
    assert_eq!(world.inbox(&told, &new).len(), 1, "its own joined");
    let agent = world.agent(&new);
    assert_eq!((agent.state, agent.task.as_deref(), agent.load), (State::Busy, Some("proofs"), Some(250)));
    assert_eq!(agent.since, since);
    let refused = world.when(&old, busy("ghost"));
    assert_eq!((refused.code(), &refused.refusal().fact("reason")), (Some(Code::Forbidden), &json!("replaced")));
    assert!(world.when(&new, busy("more")).code().is_none());
    assert_eq!(world.leaves(&old).code(), Some(Code::NotFound), "the old socket's end says nothing of the new session");
    assert!(world.agent(&new).session.is_some());
}

#[test]
fn a_takeover_with_other_capabilities_is_a_change() {
    let mut world = World::new();
    let (_, other) = (world.joins("ada"), world.joins("bob"));
    let start = Started { capabilities: vec!["code".to_owned()], ..world.start(Some("ada")) };
    let (ada, told) = world.enters(start);
    assert_eq!(world.inbox(&told, &other)[0]["event"], "state_changed");
    let own: Vec<_> = world.inbox(&told, &ada).iter().map(|frame| frame["event"].clone()).collect();
    assert!(own.contains(&json!("joined")));
}

#[test]
fn who_leaves_is_offline_and_comes_back_afresh() {
    let mut world = World::new();
    let (ada, other) = (world.joins("ada"), world.joins("bob"));
    world.when(&ada, Update { load: Some(0.5), ..busy("proofs") });
    world.later(60);
    let told = world.leaves(&ada);
    assert_eq!(world.inbox(&told, &other)[0]["event"], "left");
    assert_eq!(told.pushed("left")["state"], "offline");
    let agent = world.agent(&ada);
    assert_eq!((agent.state, agent.task.clone(), agent.load), (State::Offline, None, None));
    assert_eq!((agent.since, agent.last_seen), (world.now, world.now));
    assert_eq!(world.leaves(&ada).code(), Some(Code::NotFound));
    let start = world.start(Some("ada"));
    let (_, told) = world.enters(start);
    assert_eq!(world.inbox(&told, &other)[0]["event"], "joined");
    assert_eq!(world.agent(&ada).state, State::Online);
}

#[test]
fn subscriptions_survive_a_resume_within_a_day_and_nothing_else() {
    let day = 24 * 3_600;
    for (away, resumes, kept) in [(60, true, true), (day, true, true), (day + 1, true, false), (60, false, false)] {
        let mut world = World::new();
        let ada = world.joins("ada");
        world.when(&ada, activity::Subscribe { tags: vec!["ops".to_owned()], kinds: Vec::new() });
        let watch = memory::Subscribe { pattern: "a/*".to_owned(), events: vec![], values: false, snapshot: false };
        world.when(&ada, watch);
        world.leaves(&ada);
        world.later(away);
        let start = Started { resumes, ..world.start(Some("ada")) };
        let (ada, told) = world.enters(start);
        let current = world.agent(&ada).interest.current().count();
        assert_eq!(current, if kept { 2 } else { 0 }, "{away} s, resumes {resumes}");
        assert_eq!(told.shown.interest.is_some(), !kept);
        assert_eq!(started(&told).cleared, !kept);
    }
}

#[test]
fn a_live_takeover_that_resumes_keeps_subscriptions() {
    let mut world = World::new();
    let ada = world.joins("ada");
    world.when(&ada, activity::Subscribe { tags: vec!["ops".to_owned()], kinds: Vec::new() });
    world.later(48 * 3_600);
    let start = Started { resumes: true, ..world.start(Some("ada")) };
    let (ada, _) = world.enters(start);
    let topics: Vec<_> = world.agent(&ada).interest.current().cloned().collect();
    assert_eq!(topics, [Topic::Tag("ops".to_owned())]);
}

#[test]
fn what_became_of_somebody_is_found_by_its_word() {
    let mut world = World::new();
    let label = |told: &Folded| (told.verdict.index.stream, told.verdict.index.label.clone());
    let found = |word: &str| (Some(Stream::Presence), Some(word.to_owned()));
    let start = world.start(Some("ada"));
    let (ada, told) = world.enters(start);
    assert_eq!(label(&told), found("joined"));
    assert_eq!(label(&world.when(&ada, busy("proofs"))), found("state_changed"));
    let start = world.start(Some("ada"));
    let (ada, told) = world.enters(start);
    assert_eq!(label(&told), (None, None), "it was here all along");
    let start = Started { capabilities: vec!["code".to_owned()], ..world.start(Some("ada")) };
    assert_eq!(label(&world.enters(start).1), found("state_changed"));
    assert_eq!(label(&world.leaves(&ada)), (None, None), "that session has ended already");
    let ada = world.joins("ada");
    assert_eq!(label(&world.leaves(&ada)), found("left"));
}

#[test]
fn the_same_state_twice_is_an_ack_and_no_frame() {
    let mut world = World::new();
    let ada = world.joins("ada");
    let first = world.when(&ada, Update { load: Some(0.5), ..busy("proofs") });
    assert_eq!(
        (first.pushes(), first.verdict.index.stream),
        (vec!["presence/state_changed".to_owned()], Some(Stream::Presence))
    );
    world.later(10);
    let again = world.when(&ada, Update { load: Some(0.5), ..busy("proofs") });
    assert_eq!(again.reply()["event"], "update_ok");
    assert_eq!((again.pushes().len(), again.verdict.index.stream), (0, None));
    let nothing = world.when(&ada, Update::default());
    assert!(nothing.pushes().is_empty());
}

#[test]
fn a_new_state_without_a_task_ends_the_task() {
    let mut world = World::new();
    let ada = world.joins("ada");
    let told = world.when(&ada, busy("proofs"));
    let frame = told.pushed("state_changed");
    assert_eq!((&frame["state"], &frame["task"], &frame["name"]), (&json!("busy"), &json!("proofs"), &json!("ada")));
    world.later(7);
    world.when(&ada, Update { load: Some(0.1), ..Update::default() });
    assert_eq!(world.agent(&ada).task.as_deref(), Some("proofs"), "absent fields stay");
    assert!(world.agent(&ada).since < world.now, "a load is no new state");
    let told = world.when(&ada, Update { state: Some(State::Away), ..Update::default() });
    assert!(told.pushed("state_changed")["task"].is_null());
    assert_eq!(world.agent(&ada).since, world.now);
    let told = world.when(&ada, busy("more"));
    assert_eq!(told.pushed("state_changed")["task"], "more");
}

#[test]
fn metadata_and_capabilities_are_shown() {
    let mut world = World::new();
    let ada = world.joins("ada");
    let metadata = Json::parse(r#"{"branch":"main"}"#).ok();
    let capabilities = Some(vec!["review".to_owned()]);
    let told = world.when(&ada, Update { capabilities, metadata, ..Update::default() });
    let frame = told.pushed("state_changed");
    assert_eq!((&frame["metadata"], &frame["capabilities"]), (&json!({"branch": "main"}), &json!(["review"])));
}

#[test]
fn updates_out_of_bounds_are_refused() {
    let limits = Limits::default();
    let wrong = [
        Update { state: Some(State::Offline), ..Update::default() },
        Update { load: Some(1.01), ..Update::default() },
        Update { load: Some(f64::NAN), ..Update::default() },
        Update { task: Some("x".repeat(limits.description_bytes + 1)), ..Update::default() },
        Update { capabilities: Some(vec!["x".to_owned(); CAPABILITIES_MAX + 1]), ..Update::default() },
        Update { capabilities: Some(vec!["x".repeat(limits.name_bytes + 1)]), ..Update::default() },
        Update {
            metadata: Json::parse(&format!("\"{}\"", "x".repeat(limits.metadata_bytes))).ok(),
            ..Update::default()
        },
    ];
    for update in wrong {
        let refusal = update.check(&limits).expect_err("out of bounds");
        assert_eq!(refusal.code, Code::InvalidMessage);
    }
    let full = vec!["x".repeat(limits.name_bytes); CAPABILITIES_MAX];
    let full = Update { load: Some(1.0), capabilities: Some(full), ..Update::default() };
    assert_eq!(full.check(&limits), Ok(()));
    for (bytes, ok) in [(limits.name_bytes, true), (limits.name_bytes + 1, false)] {
        let text = Some("x".repeat(bytes));
        assert_eq!(Roster { capability: text.clone(), ..Roster::default() }.check(&limits).is_ok(), ok);
        assert_eq!(Roster { cursor: text, ..Roster::default() }.check(&limits).is_ok(), ok);
    }
}

#[test]
fn an_agent_that_never_was_cannot_update() {
    let mut world = World::new();
    let ada = world.joins("ada");
    let nobody = crate::world::Member { agent: AgentId::from_bits(404), ..ada };
    assert_eq!(world.internal(&nobody, Update::default()).code(), Some(Code::NotFound));
}

impl World {
    fn enters_unnamed(&mut self) -> AgentId {
        let start = self.start(None);
        self.enters(start).0.agent
    }
}
