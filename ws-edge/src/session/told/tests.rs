//! Given a session, when the socket takes what it sends, then more is fetched and reported, and not before.

use ringforge_domain::{
    cursor::Seal,
    direct::{Delivered, Send, Told},
    ids::MessageId,
    interest::Interest,
    limits::{PENDING_MAX, TOLD_WAIT},
    position::{Generation, Partition, StreamRef},
    presence::Update,
    world::{Folded, Member, World},
};
use ringforge_ports::reads;
use serde_json::json;

use super::super::*;
use crate::fanout::Delivery;

const ZERO: Duration = Duration::ZERO;
const PING: Duration = Duration::from_secs(30);

fn config() -> Arc<SessionConfig> {
    Arc::new(SessionConfig {
        limits: Limits::default(),
        auth_timeout: PING,
        ping_interval: PING,
        silence_timeout: 10 * PING,
        reply_timeout: PING,
        pending_max: PENDING_MAX,
        reconnect_after: PING,
        version: "test".to_owned(),
        node: "test".to_owned(),
    })
}

/// A session whose agent was just let in, and what it wants done.
fn entered(member: &Member, missed: Missed) -> (Session, Vec<Action>) {
    let stream = StreamRef { partition: Partition::POOL, epoch: 0 };
    let encoder = Encoder { seal: Seal::new([7; 32]), scope: member.scope, stream, generation: Generation(1) };
    let entered = Entered {
        viewpoint: Viewpoint { agent: member.agent, session: member.session },
        encoder: Arc::new(encoder),
        slug: "default".to_owned(),
        name: None,
        resume_token: "rt".to_owned(),
        roster: Frame::new("presence", "roster", &()),
        started: Offset(50),
        missed,
        vitals: Update::default(),
    };
    let mut session = Session::new(config(), ZERO);
    session.on(Input::Text(r#"{"type":"auth","api_key":"k"}"#, CommandId::from_bits(0)), ZERO);
    let actions = session.on(Input::Entered(Box::new(Ok(entered))), ZERO);
    (session, actions)
}

fn post(told: &Folded, of: &Member) -> Post {
    let update = reads::Update { event: Some(told.event.clone()), verdict: told.verdict.clone() };
    let viewpoint = Viewpoint { agent: of.agent, session: of.session };
    Post::pick(&Arc::new(Delivery::of(&update)), viewpoint, &Interest::default()).expect("it is for this agent")
}

/// So many messages of ada's that bob's socket took: the statuses.
fn delivered(world: &mut World, ada: &Member, bob: &Member, count: usize) -> Vec<Folded> {
    let status = |_| {
        let message: Send = serde_json::from_value(json!({"to": "bob", "payload": 1})).expect("a message");
        let sent = world.when(ada, message);
        world.internal(bob, Delivered { message: MessageId::of(sent.verdict.command_id) })
    };
    (0..count).map(status).collect()
}

fn steps(actions: &[Action]) -> Vec<Step> {
    let step = |action: &Action| if let Action::CatchUp(step) = action { Some(step.clone()) } else { None };
    actions.iter().filter_map(step).collect()
}

fn told(actions: &[Action]) -> Vec<&Told> {
    let reports =
        actions.iter().filter_map(|action| if let Action::Report(report) = action { Some(report) } else { None });
    reports.filter_map(|report| if let Command::DirectTold(told) = &**report { Some(told) } else { None }).collect()
}

fn caught(posts: Vec<Post>, upto: u64, done: bool) -> Input<'static> {
    Input::CaughtUp(Caught { posts, known: Vec::new(), upto: Some(Offset(upto)), done })
}

#[test]
fn a_page_of_mail_is_fetched_when_the_socket_took_the_last() {
    let mut world = World::new();
    let (ada, bob) = (world.joins("ada"), world.joins("bob"));
    let statuses = delivered(&mut world, &ada, &bob, 2);
    let mail = |after: Option<u64>| Step::Mail { after: after.map(Offset), before: Offset(41), resumes: true };
    let (mut session, actions) = entered(&ada, Missed::After(Offset(40)));
    assert_eq!(steps(&actions), [], "the welcome first");
    assert_eq!(steps(&session.on(Input::Flushed, ZERO)), [mail(None)]);
    for (page, after) in [(&statuses[0], 10), (&statuses[1], 20)] {
        let actions = session.on(caught(vec![post(page, &ada)], after, false), ZERO);
        assert!(matches!(actions[..], [Action::Send(_)]), "{actions:?}");
        assert_eq!(steps(&session.on(Input::Flushed, ZERO)), [mail(Some(after))]);
    }
    let actions = session.on(caught(Vec::new(), 30, true), ZERO);
    assert_eq!(steps(&actions), [Step::Missed { after: Some(Offset(40)), before: Offset(50) }]);
}

#[test]
fn mail_is_everything_before_a_new_beginning() {
    let mut world = World::new();
    let ada = world.joins("ada");
    let (mut session, _) = entered(&ada, Missed::NotAsked);
    let mail = Step::Mail { after: None, before: Offset(50), resumes: false };
    assert_eq!(steps(&session.on(Input::Flushed, ZERO)), [mail]);
    let actions = session.on(caught(Vec::new(), 0, true), ZERO);
    assert_eq!(steps(&actions), [Step::Live { after: Some(Offset(49)) }]);
}

#[test]
fn statuses_are_reported_many_at_a_time_once_the_socket_took_them() {
    let mut world = World::new();
    let (ada, bob) = (world.joins("ada"), world.joins("bob"));
    let statuses = delivered(&mut world, &ada, &bob, TOLD_MAX + 3);
    let ids: Vec<CommandId> = statuses.iter().map(|status| status.verdict.command_id).collect();
    let (mut session, _) = entered(&ada, Missed::NotAsked);
    session.on(Input::Flushed, ZERO);
    session.on(Input::Joined, ZERO);
    let mut posts: VecDeque<Post> = statuses.iter().map(|status| post(status, &ada)).collect();
    let mut show = |session: &mut Session, count: usize| {
        let actions = session.on(Input::Posts(posts.drain(..count).collect()), ZERO);
        assert!(told(&actions).is_empty(), "nobody knows yet whether they arrive");
        session.on(Input::Flushed, ZERO)
    };
    assert!(told(&show(&mut session, TOLD_MAX - 1)).is_empty(), "an event for each would be dear");
    let actions = show(&mut session, 2);
    assert_eq!(told(&actions).iter().map(|told| &told.statuses[..]).collect::<Vec<_>>(), [&ids[..TOLD_MAX]]);
    assert_eq!(session.next_tick(), TOLD_WAIT, "it wakes up for the rest");
    assert!(told(&session.on(Input::Tick, TOLD_WAIT / 2)).is_empty(), "more may come");
    assert_eq!(told(&session.on(Input::Tick, TOLD_WAIT))[0].statuses, ids[TOLD_MAX..=TOLD_MAX], "a moment later");
    assert_eq!(session.next_tick(), PING, "there is no more");
    show(&mut session, 1);
    session.on(Input::Posts(posts), ZERO);
    assert_eq!(told(&session.on(Input::Gone, PING))[0].statuses, [ids[TOLD_MAX + 1]], "only what the socket took");
}
