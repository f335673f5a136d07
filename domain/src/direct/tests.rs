//! Given these agents, when one writes to another, then this becomes of the message and its sender is told.

use serde_json::{Value, json};

use super::*;
use crate::{
    catalog::Effect,
    code::Code,
    limits::TOLD_MAX,
    presence::Started,
    world::{Folded, Member, World},
};

fn send(wire: Value) -> Send {
    serde_json::from_value(wire).expect("a message")
}

fn id(told: &Folded) -> MessageId {
    match told.applied() {
        Effect::DirectSend(effect) => effect.message,
        other => panic!("{other:?}"),
    }
}

fn status_of(told: &Folded) -> Sent {
    match told.applied() {
        Effect::DirectSend(effect) => effect.status,
        other => panic!("{other:?}"),
    }
}

fn waiting_for(world: &World, to: &Member, from: Option<&Member>) -> u32 {
    let key = RowKey::mail_count(to.scope, to.agent, from.map(|from| from.agent));
    let count = world.row::<MailCount>(&key).map(|known| known.count);
    assert_ne!(count, Some(0), "where nothing waits there is no row");
    count.unwrap_or_default()
}

fn mail(world: &World, id: MessageId) -> Option<&Message> {
    world.row(&RowKey::message(world.scope, id))
}

/// What is kept of the status that this event is.
fn notice<'a>(world: &'a World, status: &Folded) -> Option<&'a Notice> {
    world.row(&RowKey::notice(world.scope, status.verdict.command_id))
}

fn told(message: MessageId, statuses: &[&Folded]) -> Told {
    Told { message, statuses: statuses.iter().map(|status| status.verdict.command_id).collect() }
}

fn expire(message: MessageId) -> Expire {
    Expire { message, status: None }
}

fn pair() -> (World, Member, Member) {
    let mut world = World::new();
    let (ada, bob) = (world.joins("ada"), world.joins("bob"));
    (world, ada, bob)
}

#[test]
fn a_message_to_a_connected_agent_is_sent_and_then_delivered_once() {
    let (mut world, ada, bob) = pair();
    let eve = world.joins("eve");
    let header = Header { reference: Json::parse("\"r\"").ok(), ..world.header_of(&ada) };
    let told = world.submit(&header, send(json!({"to": "bob", "payload": {"x": 1}, "correlation_id": 7})));
    let id = id(&told);
    assert_eq!((status_of(&told), told.pushes()), (Sent::Sent, vec!["direct/message".to_owned()]));
    let reply = told.reply();
    assert_eq!((&reply["event"], &reply["message_id"], &reply["ref"]), (&json!("send_ok"), &json!(id), &json!("r")));
    assert_eq!([&ada, &bob, &eve].map(|member| world.inbox(&told, member).len()), [0, 1, 0]);
    let message = told.pushed("message");
    assert_eq!((&message["payload"], &message["correlation_id"]), (&json!({"x": 1}), &json!(7)));
    assert_eq!(message["from"], json!({"agent_id": ada.agent, "name": "ada"}));
    assert_eq!((&message["to"], message.get("ref")), (&json!(bob.agent), None));
    let index = &told.verdict.index;
    assert_eq!((index.stream, index.label.as_deref()), (Some(Stream::Direct), Some("message")));
    assert_eq!((index.subject.clone(), &index.parties[..]), (Some(id.to_string()), &[ada.agent, bob.agent][..]));
    assert_eq!((waiting_for(&world, &bob, None), waiting_for(&world, &bob, Some(&ada))), (1, 1));
    let sent = told.verdict.position.offset;
    assert_eq!(mail(&world, id).map(|mail| mail.index().mail), Some(Some((bob.agent, sent))));
    assert_eq!(told.shown.report, Some((bob.agent, Report::Delivered(id))));

    assert_eq!(world.internal(&eve, Delivered { message: id }).code(), Some(Code::NotFound), "not hers");
    let told = world.internal(&bob, Delivered { message: id });
    let frame = told.pushed("delivered");
    assert_eq!((&frame["message_id"], &frame["correlation_id"], &frame["ref"]), (&json!(id), &json!(7), &json!("r")));
    assert_eq!(frame["to"], json!(bob.agent));
    assert_eq!([&ada, &bob].map(|member| world.inbox(&told, member).len()), [1, 0]);
    assert_eq!((waiting_for(&world, &bob, None), waiting_for(&world, &bob, Some(&ada))), (0, 0));
    assert_eq!((mail(&world, id), told.shown.report), (None, Some((ada.agent, Report::Told(id)))));
    assert_eq!(world.internal(&bob, Delivered { message: id }).code(), Some(Code::NotFound), "one outcome");
    assert_eq!(waiting_for(&world, &bob, None), 0);
}

#[test]
fn a_message_to_an_absent_agent_is_queued() {
    let (mut world, ada, bob) = pair();
    world.leaves(&bob);
    for (wire, seconds) in [
        (json!({"to": "bob", "payload": 1}), 300),
        (json!({"to": "bob", "payload": 1, "priority": "low"}), 300),
        (json!({"to": "bob", "payload": 1, "priority": "high"}), 86_400),
        (json!({"to": "bob", "payload": 1, "priority": "critical", "ttl": 60}), 60),
    ] {
        let told = world.when(&ada, send(wire));
        assert_eq!(told.pushes(), ["direct/queued", "direct/message"], "a replay shows the last");
        assert_eq!(told.pushed("queued")["reason"], format!("agent_offline (queued for {seconds} s)"));
        let expires_at = mail(&world, id(&told)).map(|mail| mail.expires_at);
        assert_eq!(expires_at, Some(world.now.plus(seconds * 1_000_000)));
        assert_eq!([&ada, &bob].map(|member| world.inbox(&told, member).len()), [1, 1]);
    }
    assert_eq!(waiting_for(&world, &bob, None), 4);
}

#[test]
fn a_short_wait_is_told_as_it_is() {
    let (mut world, ada, bob) = pair();
    world.leaves(&bob);
    for (ttl, told) in [(0.25, "0.25"), (1.5, "1.5"), (2.0, "2"), (0.000_000_5, "0.000001")] {
        let queued = world.when(&ada, send(json!({"to": "bob", "payload": 1, "ttl": ttl})));
        assert_eq!(queued.pushed("queued")["reason"], format!("agent_offline (queued for {told} s)"));
    }
}

#[test]
fn an_agent_may_write_to_itself_and_by_id() {
    let (mut world, ada, bob) = pair();
    let told = world.when(&ada, send(json!({"to": "ada", "payload": 1})));
    assert_eq!((status_of(&told), world.inbox(&told, &ada).len()), (Sent::Sent, 1));
    let told = world.when(&ada, send(json!({"to": bob.agent, "payload": 1})));
    assert_eq!(told.pushed("message")["to"], json!(bob.agent));
}

#[test]
fn a_stranger_is_not_found() {
    let (mut world, ada, _) = pair();
    world.scope.fleet = crate::ids::FleetId::from_bits(2);
    let other = world.joins("zoe");
    for to in ["zoe".to_owned(), other.agent.to_string(), "nobody".to_owned()] {
        let told = world.when(&ada, send(json!({"to": to, "payload": 1})));
        assert_eq!((told.code(), told.pushes().len()), (Some(Code::NotFound), 0));
    }
}

#[test]
fn a_mailbox_takes_so_many_of_one_sender() {
    let (mut world, ada, bob) = pair();
    let eve = world.joins("eve");
    world.leaves(&bob);
    let mut first = None;
    for _ in 0..MAILBOX_PAIR_MAX {
        let told = world.when(&ada, send(json!({"to": "bob", "payload": 1})));
        assert_eq!(status_of(&told), Sent::Queued);
        first = first.or(Some(id(&told)));
    }
    let told = world.when(&ada, send(json!({"to": "bob", "payload": 1, "correlation_id": "c"})));
    assert_eq!((status_of(&told), told.pushes()), (Sent::MailboxFull, vec!["direct/failed".to_owned()]));
    let failed = told.pushed("failed");
    assert_eq!((&failed["reason"], &failed["correlation_id"]), (&json!("mailbox_full"), &json!("c")));
    assert_eq!([&ada, &bob].map(|member| world.inbox(&told, member).len()), [1, 0]);
    assert!(mail(&world, id(&told)).is_none());
    assert_eq!(told.verdict.index.parties, [ada.agent], "the recipient never hears of it, in a replay neither");
    assert_eq!(waiting_for(&world, &bob, Some(&ada)), MAILBOX_PAIR_MAX);
    assert_eq!(status_of(&world.when(&eve, send(json!({"to": "bob", "payload": 1})))), Sent::Queued);
    world.internal(&bob, Delivered { message: first.expect("sent") });
    assert_eq!(status_of(&world.when(&ada, send(json!({"to": "bob", "payload": 1})))), Sent::Queued);
}

#[test]
fn a_mailbox_takes_so_many_in_all() {
    let (mut world, _, bob) = pair();
    world.leaves(&bob);
    let senders = MAILBOX_MAX / MAILBOX_PAIR_MAX;
    let mut last = None;
    for sender in 0..=senders {
        let member = world.joins(&format!("s{sender}"));
        for _ in 0..if sender < senders { MAILBOX_PAIR_MAX } else { 1 } {
            last = Some(status_of(&world.when(&member, send(json!({"to": "bob", "payload": 1})))));
        }
    }
    assert_eq!((last, waiting_for(&world, &bob, None)), (Some(Sent::MailboxFull), MAILBOX_MAX));
}

/// As if so many messages were on their way, from one or in all.
fn already(world: &mut World, to: &Member, from: Option<&Member>, count: u32) {
    let from = from.map(|from| from.agent);
    let row = Row::MailCount(MailCount { scope: to.scope, to: to.agent, from, count });
    world.store.rows.insert(row.key(), row);
}

#[test]
fn what_is_on_its_way_to_a_connected_agent_does_not_fill_its_mailbox() {
    let (mut world, ada, bob) = pair();
    let mut sent = Vec::new();
    for _ in 0..=MAILBOX_PAIR_MAX {
        let told = world.when(&ada, send(json!({"to": "bob", "payload": 1})));
        assert_eq!(status_of(&told), Sent::Sent);
        sent.push(id(&told));
    }
    world.leaves(&bob);
    assert!(sent.iter().all(|id| mail(&world, *id).is_some()), "what was taken on is kept");
    assert_eq!(waiting_for(&world, &bob, Some(&ada)), MAILBOX_PAIR_MAX + 1);
    assert_eq!(status_of(&world.when(&ada, send(json!({"to": "bob", "payload": 1})))), Sent::MailboxFull);
    for id in &sent[..2] {
        world.internal(&bob, Delivered { message: *id });
    }
    assert_eq!(status_of(&world.when(&ada, send(json!({"to": "bob", "payload": 1})))), Sent::Queued);
}

#[test]
fn too_much_on_its_way_is_refused_for_now() {
    let (mut world, ada, bob) = pair();
    already(&mut world, &bob, None, IN_FLIGHT_MAX - 1);
    let told = world.when(&ada, send(json!({"to": "bob", "payload": 1})));
    assert_eq!(status_of(&told), Sent::Sent);
    let refused = world.when_keyed(&ada, "once", send(json!({"to": "bob", "payload": 1})));
    assert_eq!((refused.code(), refused.pushes().len()), (Some(Code::Overloaded), 0));
    let reply = refused.reply();
    assert_eq!((&reply["retryable"], &reply["retry_after_ms"]), (&json!(true), &json!(IN_FLIGHT_RETRY_MS)));
    world.internal(&bob, Delivered { message: id(&told) });
    let again = world.when_keyed(&ada, "once", send(json!({"to": "bob", "payload": 1})));
    assert_eq!(status_of(&again), Sent::Sent, "it was asked to try again");
    let repeated = world.when_keyed(&ada, "once", send(json!({"to": "bob", "payload": 1})));
    assert!(repeated.verdict.first.is_some(), "now it is known");
}

#[test]
fn one_sender_cannot_take_the_places_of_all() {
    let (mut world, ada, bob) = pair();
    let eve = world.joins("eve");
    for from in [None, Some(&ada)] {
        already(&mut world, &bob, from, IN_FLIGHT_PAIR_MAX - 1);
    }
    let message = || send(json!({"to": "bob", "payload": 1}));
    let last = world.when(&ada, message());
    assert_eq!(status_of(&last), Sent::Sent);
    let refused = world.when(&ada, message());
    assert_eq!((refused.code(), refused.pushes().len()), (Some(Code::Overloaded), 0));
    let reply = refused.reply();
    assert_eq!(
        (&reply["retry_after_ms"], &reply["details"]["limit"]),
        (&json!(IN_FLIGHT_RETRY_MS), &json!(IN_FLIGHT_PAIR_MAX))
    );
    assert_eq!(waiting_for(&world, &bob, Some(&ada)), IN_FLIGHT_PAIR_MAX, "what is refused takes no place");
    assert_eq!(status_of(&world.when(&eve, message())), Sent::Sent, "others have theirs");
    assert_eq!(status_of(&world.when(&bob, message())), Sent::Sent, "and so has the recipient");
    world.internal(&bob, Delivered { message: id(&last) });
    assert_eq!(status_of(&world.when(&ada, message())), Sent::Sent);
}

#[test]
fn a_receipt_comes_after_the_delivery() {
    let (mut world, ada, bob) = pair();
    let told = world.when(&ada, send(json!({"to": "bob", "payload": 1, "ack": true})));
    let id = id(&told);
    assert_eq!(told.pushed("message")["ack"], true);
    world.internal(&bob, Delivered { message: id });
    let kept = mail(&world, id).expect("waits for its receipt");
    assert_eq!((kept.delivered, kept.index().mail), (true, None));
    assert_eq!(world.internal(&bob, Delivered { message: id }).code(), Some(Code::NotFound));
    assert_eq!(world.when(&ada, Ack { message_id: id }).code(), Some(Code::NotFound), "only the recipient's");
    let told = world.when(&bob, Ack { message_id: id });
    assert_eq!((told.pushes(), &told.reply()["event"]), (vec!["direct/acked".to_owned()], &json!("ack_ok")));
    assert!(mail(&world, id).is_none());
    assert_eq!(world.when(&bob, Ack { message_id: id }).code(), Some(Code::NotFound));
    assert_eq!(waiting_for(&world, &bob, None), 0);
}

#[test]
fn a_receipt_before_the_delivery_stands_for_it_too() {
    let (mut world, ada, bob) = pair();
    let told = world.when(&ada, send(json!({"to": "bob", "payload": 1, "ack": true})));
    let id = id(&told);
    let told = world.when(&bob, Ack { message_id: id });
    assert_eq!(told.pushes(), ["direct/acked"]);
    assert_eq!((waiting_for(&world, &bob, None), waiting_for(&world, &bob, Some(&ada))), (0, 0));
    assert_eq!(world.internal(&bob, Delivered { message: id }).code(), Some(Code::NotFound));
    assert_eq!(waiting_for(&world, &bob, None), 0);
}

#[test]
fn a_receipt_nobody_asked_for_is_not_found() {
    let (mut world, ada, bob) = pair();
    let told = world.when(&ada, send(json!({"to": "bob", "payload": 1})));
    assert_eq!(world.when(&bob, Ack { message_id: id(&told) }).code(), Some(Code::NotFound));
    assert!(mail(&world, id(&told)).is_some());
}

#[test]
fn only_its_recipient_learns_that_there_is_a_message() {
    let (mut world, ada, bob) = pair();
    let eve = world.joins("eve");
    let told = world.when(&ada, send(json!({"to": "bob", "payload": 1, "ack": true})));
    let never = world.when(&eve, Ack { message_id: MessageId::from_bits(7) }).refusal().clone();
    for stranger in [&eve, &ada] {
        assert_eq!(world.when(stranger, Ack { message_id: id(&told) }).refusal(), &never);
        assert_eq!(world.internal(stranger, Delivered { message: id(&told) }).refusal(), &never);
    }
    assert_eq!(world.when(&bob, Ack { message_id: id(&told) }).code(), None);
}

#[test]
fn an_expiry_tells_the_sender() {
    let (mut world, ada, bob) = pair();
    world.leaves(&bob);
    let header = Header { reference: Json::parse("3").ok(), ..world.header_of(&ada) };
    let told = world.submit(&header, send(json!({"to": "bob", "payload": 1, "ttl": 5, "correlation_id": "c"})));
    let id = id(&told);
    world.later(4);
    assert_eq!(world.timer(expire(id)).code(), Some(Code::NotFound), "too early");
    world.later(1);
    let told = world.timer(expire(id));
    let failed = told.pushed("failed");
    assert_eq!(
        (&failed["reason"], &failed["correlation_id"], &failed["ref"]),
        (&json!("expired"), &json!("c"), &json!(3))
    );
    assert_eq!((world.inbox(&told, &ada).len(), world.inbox(&told, &bob).len()), (1, 0));
    assert_eq!(told.verdict.index.parties, [ada.agent], "it is history for the sender alone");
    assert_eq!((waiting_for(&world, &bob, None), waiting_for(&world, &bob, Some(&ada))), (0, 0));
    assert!(mail(&world, id).is_none());
    assert_eq!(world.internal(&bob, Delivered { message: id }).code(), Some(Code::NotFound));
    assert_eq!(world.timer(expire(id)).code(), Some(Code::NotFound));
}

#[test]
fn the_wait_for_a_receipt_ends_in_silence() {
    let (mut world, ada, bob) = pair();
    let told = world.when(&ada, send(json!({"to": "bob", "payload": 1, "ack": true, "ttl": 5})));
    let id = id(&told);
    world.internal(&bob, Delivered { message: id });
    world.later(5);
    assert_eq!(world.timer(expire(id)).code(), Some(Code::NotFound), "the wait began with the delivery");
    world.later(86_400);
    let told = world.timer(expire(id));
    assert!(told.code().is_none() && told.pushes().is_empty());
    assert!(mail(&world, id).is_none());
    assert_eq!(waiting_for(&world, &bob, None), 0);
}

#[test]
fn every_status_is_kept_until_its_sender_was_told() {
    let (mut world, ada, bob) = pair();
    let sent = world.when(&ada, send(json!({"to": "bob", "payload": 1, "ack": true})));
    let id = id(&sent);
    let delivered = world.internal(&bob, Delivered { message: id });
    let place = delivered.verdict.position.offset;
    let kept = notice(&world, &delivered).expect("nobody knows yet whether its socket took it");
    assert_eq!((kept.message, kept.away, kept.index().mail), (id, false, Some((ada.agent, place))));
    world.leaves(&ada);
    let acked = world.when(&bob, Ack { message_id: id });
    assert!(notice(&world, &acked).is_some_and(|kept| kept.away), "it cannot have seen this one");
    let again = Started { resumes: true, ..world.start(Some("ada")) };
    let (ada, _) = world.enters(again);
    let told = |statuses: &[&Folded]| told(id, statuses);
    assert_eq!(world.internal(&bob, told(&[&acked])).code(), Some(Code::NotFound), "not his to take");
    assert_eq!(world.internal(&ada, told(&[])).code(), Some(Code::NotFound));
    assert!(world.internal(&ada, told(&[&delivered])).pushes().is_empty());
    assert!(notice(&world, &delivered).is_none() && notice(&world, &acked).is_some(), "only what was told");
    world.internal(&ada, told(&[&delivered, &acked]));
    assert!(notice(&world, &acked).is_none());
    assert_eq!(world.internal(&ada, told(&[&acked])).code(), Some(Code::NotFound));
}

#[test]
fn statuses_are_told_many_at_a_time() {
    let (mut world, ada, bob) = pair();
    let sent: Vec<_> = (0..3).map(|_| world.when(&ada, send(json!({"to": "bob", "payload": 1})))).collect();
    let delivered: Vec<_> = sent.iter().map(|sent| world.internal(&bob, Delivered { message: id(sent) })).collect();
    let all = told(id(&sent[0]), &delivered.iter().collect::<Vec<_>>());
    assert_eq!(all.check(&Limits::default()), Ok(()));
    world.internal(&ada, all.clone());
    assert!(delivered.iter().all(|status| notice(&world, status).is_none()));
    for (count, ok) in [(TOLD_MAX, true), (TOLD_MAX + 1, false)] {
        let statuses = vec![all.statuses[0]; count];
        assert_eq!(Told { statuses, ..all }.check(&Limits::default()).is_ok(), ok, "{count}");
    }
}

#[test]
fn an_expiry_waits_for_its_sender_and_is_forgotten_in_the_end() {
    let (mut world, ada, bob) = pair();
    world.leaves(&bob);
    let sent = world.when(&ada, send(json!({"to": "bob", "payload": 1, "ttl": 1})));
    let id = id(&sent);
    world.leaves(&ada);
    world.later(1);
    let failed = world.timer(expire(id));
    let due = notice(&world, &failed).and_then(|notice| notice.index().due_at);
    assert_eq!(due, Some(world.now.plus(7 * 86_400 * 1_000_000)));
    assert_eq!(world.timer(expire(id)).code(), Some(Code::NotFound));
    let over = Expire { message: id, status: Some(failed.verdict.command_id) };
    assert_eq!(world.timer(over.clone()).code(), Some(Code::NotFound), "too early");
    world.later(7 * 86_400);
    let forgotten = world.timer(over);
    assert!(forgotten.code().is_none() && forgotten.pushes().is_empty());
    assert!(notice(&world, &failed).is_none());
}

#[test]
fn messages_out_of_bounds_are_refused() {
    let limits = Limits::default();
    for wire in [
        json!({"to": "", "payload": 1}),
        json!({"to": "x".repeat(limits.name_bytes + 1), "payload": 1}),
        json!({"to": "bob"}),
        json!({"to": "bob", "payload": 1, "ttl": 0}),
        json!({"to": "bob", "payload": 1, "ttl": MAIL_SECONDS_MAX + 1.0}),
        json!({"to": "bob", "payload": 1, "correlation_id": "x".repeat(TOKEN_BYTES_MAX)}),
    ] {
        assert_eq!(send(wire.clone()).check(&limits).expect_err("out of bounds").code, Code::InvalidMessage, "{wire}");
    }
    // In JSON it is two bytes longer.
    let correlation = "x".repeat(TOKEN_BYTES_MAX - 2);
    let full = json!({"to": "x".repeat(limits.name_bytes), "payload": 1, "ttl": MAIL_SECONDS_MAX, "correlation_id": correlation});
    assert_eq!(send(full).check(&limits), Ok(()));
}

#[test]
fn a_message_says_what_its_delivery_reports_and_when_history_leaves_it_out() {
    let mut world = World::new();
    let (ada, bob) = (world.joins("ada"), world.joins("bob"));
    let told = world.when(&ada, send(json!({ "to": "bob", "payload": 1, "ttl": 2 })));
    let message = id(&told);
    assert_eq!(told.shown.report, Some((bob.agent, Report::Delivered(message))));
    let lapse = told.shown.lapse.clone().expect("its time ends");
    assert_eq!((lapse.to, lapse.due), (bob.agent, told.event.at.time.plus(2_000_000)));
    world.later(3);
    let over = world.timer(expire(message));
    let index = &over.verdict.index;
    assert_eq!(
        (index.stream, index.label.as_deref()),
        (Some(lapse.stream), Some(lapse.label)),
        "it is found as it says"
    );
    assert_eq!(index.subject.as_deref(), Some(lapse.subject.as_str()));
    let own = world.when(&ada, send(json!({ "to": "ada", "payload": 1 })));
    assert_eq!(own.shown.lapse, None, "whoever writes to itself was told both");
}
