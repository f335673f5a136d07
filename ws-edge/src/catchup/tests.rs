//! Given mail that waits, when an agent comes, then it comes in pages, in order, whole and once.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::FutureExt;
use ringforge_domain::{
    cursor::Seal,
    direct::{Ack, Delivered, Expire, Send},
    frame::Report,
    ids::{MessageId, Scope},
    limits::{ANSWER_BYTES_MAX, CONFLICT_VALUE_BYTES_MAX, PAGE_BYTES_MAX},
    memory::Set,
    position::{Generation, Partition, StreamRef},
    schema,
    world::{Folded, Member, World},
};
use ringforge_ports::{
    clock::ManualClock,
    live::News,
    log::Record,
    memory::in_memory,
    reads::{Commit, Found, Heads, Reads, Snapshot, Update, Verdicts},
};
use ringforge_query_api::{
    asker::Asker,
    history::{self, Part},
};
use serde_json::json;

use super::*;
use crate::{feed::Feed, hub, outbox::Outbox};

/// Ports in memory are done at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing to wait for")
}

/// What a world has come to, behind the ports.
fn served(world: &World) -> Services {
    let services = in_memory(ManualClock::at(world.now));
    for event in &world.log {
        let record = Record { scope: event.at.scope(), bytes: schema::encode(&event.at.header, &event.command).into() };
        now(services.log.append(Partition::POOL, vec![record])).expect("appended");
    }
    let rows = world.store.rows.iter().map(|(key, row)| (key.clone(), Some(row.clone()))).collect();
    let commit = Commit {
        partition: Partition::POOL,
        previous: Offset::ZERO,
        upto: Offset(world.log.len() as u64),
        time: world.now,
        rows,
        verdicts: world.verdicts.clone(),
    };
    now(services.reads.commit(&[commit])).expect("committed");
    services
}

fn reader(of: &Member) -> Reader {
    let stream = StreamRef { partition: Partition::POOL, epoch: 0 };
    let encoder = Encoder { seal: Seal::new([7; 32]), scope: of.scope, stream, generation: Generation(1) };
    let viewpoint = Viewpoint { agent: of.agent, session: of.session };
    Reader { viewpoint, encoder: Arc::new(encoder), presence: PresenceMode::None }
}

fn sends(world: &mut World, by: &Member, to: &str, wire: &serde_json::Value) -> (MessageId, Folded) {
    let mut body = json!({"to": to, "payload": 1});
    body.as_object_mut().expect("an object").extend(wire.as_object().cloned().unwrap_or_default());
    let told = world.when(by, serde_json::from_value::<Send>(body).expect("a message"));
    (MessageId::of(told.verdict.command_id), told)
}

/// Every page until the last: the places, the receipts and what was known; and how many came at once at most.
fn pages(
    services: &Services,
    of: &Member,
    before: Offset,
    resumes: bool,
) -> (Vec<Post>, Vec<crate::session::Status>, usize) {
    let (mut posts, mut known, mut most, mut after) = (Vec::new(), Vec::new(), 0, None);
    loop {
        let caught = now(reader(of).mail(services, after, before, resumes)).expect("read");
        most = most.max(caught.posts.len());
        posts.extend(caught.posts);
        known.extend(caught.known);
        if caught.done {
            return (posts, known, most);
        }
        assert!(caught.upto > after, "it goes on");
        after = caught.upto;
    }
}

fn places(posts: &[Post]) -> Vec<Offset> {
    posts.iter().map(|post| post.delivery.offset).collect()
}

fn place(told: &Folded) -> Offset {
    told.verdict.position.offset
}

#[test]
fn mail_comes_in_pages_by_place() {
    let mut world = World::new();
    let (ada, bob) = (world.joins("ada"), world.joins("bob"));
    let mut want = Vec::new();
    // To a connected agent, so that more waits than its mailbox takes.
    for at in 0..=3 * MAIL_PAGE_MAX {
        let (message, sent) = sends(&mut world, &ada, "bob", &json!({}));
        if at % 7 == 3 {
            world.internal(&bob, Delivered { message });
        } else {
            want.push(place(&sent));
        }
    }
    sends(&mut world, &ada, "bob", &json!({"ttl": 0.5}));
    world.leaves(&bob);
    world.later(1);
    let bob = world.joins("bob");
    let started = Offset(world.log.len() as u64 - 1);
    let (_, late) = sends(&mut world, &ada, "bob", &json!({}));
    assert!(place(&late) > started);
    let services = served(&world);
    let (posts, _, most) = pages(&services, &bob, started, false);
    assert_eq!(places(&posts), want, "neither what was taken or is over, nor what comes live anyway");
    assert!(most <= MAIL_PAGE_MAX as usize);
    let (posts, ..) = pages(&services, &bob, want[40], false);
    assert_eq!(places(&posts), want[..40], "a resume goes on from there");
}

#[test]
fn statuses_and_messages_come_merged() {
    let mut world = World::new();
    let (ada, bob) = (world.joins("ada"), world.joins("bob"));
    let (first, _) = sends(&mut world, &ada, "bob", &json!({"ack": true}));
    let (_, to_ada) = sends(&mut world, &bob, "ada", &json!({}));
    let delivered = world.internal(&bob, Delivered { message: first });
    world.leaves(&ada);
    let (_, later) = sends(&mut world, &bob, "ada", &json!({}));
    let acked = world.when(&bob, Ack { message_id: first });
    let end = Offset(world.log.len() as u64);
    let services = served(&world);
    let (posts, known, _) = pages(&services, &ada, end, false);
    assert_eq!(places(&posts), [&to_ada, &delivered, &later, &acked].map(place));
    assert!(known.is_empty());
    let told = posts.iter().filter_map(|post| post.delivery.report).filter_map(|(_, report)| match report {
        Report::Told(message) => Some(message),
        Report::Delivered(_) => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [first, first]);
    let (posts, known, _) = pages(&services, &ada, end, true);
    assert_eq!(
        places(&posts),
        [&to_ada, &later, &acked].map(place),
        "who resumes has seen what came while it was here"
    );
    assert_eq!(known, [(first, delivered.verdict.command_id)]);
}

#[test]
fn pages_are_bounded_by_bytes() {
    const LARGE: usize = 300_000;
    let mut world = World::new();
    let (ada, bob) = (world.joins("ada"), world.joins("bob"));
    let text = "x".repeat(LARGE);
    let mut want = Vec::new();
    for _ in 0..40 {
        want.push(place(&sends(&mut world, &ada, "bob", &json!({"payload": text})).1));
    }
    world.leaves(&bob);
    let bob = world.joins("bob");
    let started = Offset(world.log.len() as u64 - 1);
    let services = served(&world);
    let few = PAGE_BYTES_MAX / LARGE;
    let (posts, _, most) = pages(&services, &bob, started, false);
    assert_eq!(places(&posts), want, "the mail: each, once, in order");
    assert!((1..=few).contains(&most), "{most} of mail in a page");

    let (mut posts, mut after) = (Vec::new(), None);
    loop {
        let caught = now(reader(&bob).page(&services, after, Some(started))).expect("read");
        assert!(caught.posts.len() <= few, "{} of what was missed in a page", caught.posts.len());
        posts.extend(caught.posts);
        if caught.done {
            break;
        }
        assert!(caught.upto > after, "it goes on");
        after = caught.upto;
    }
    let mail = posts.iter().filter(|post| post.weight() > LARGE).map(|post| post.delivery.offset);
    assert_eq!(mail.collect::<Vec<_>>(), want, "what was missed: each, once, in order");
}

/// The answer to the last command of the log, read as history.
fn last_answer(world: &World, of: &Member) -> serde_json::Value {
    let before = world.log.len().checked_sub(2).map(|at| Offset(at as u64));
    let caught = now(reader(of).page(&served(world), before, None)).expect("read");
    let reply = caught.posts[0].delivery.reply.as_ref().expect("it is answered");
    reply.frame.object().value()
}

#[test]
fn a_conflict_tells_a_long_value_whole_and_keeps_only_where_it_was_set() {
    let long = json!("x".repeat(CONFLICT_VALUE_BYTES_MAX));
    let mut world = World::new();
    let ada = world.joins("ada");
    let set = |wire: serde_json::Value| serde_json::from_value::<Set>(wire).expect("a set");
    world.when(&ada, set(json!({"key": "plan", "value": long})));
    let first = world.log.len() - 1;
    let told = world.when(&ada, set(json!({"key": "plan", "value": 1, "expected_version": 7})));
    assert!(serde_json::to_string(&told.verdict).expect("JSON").len() < CONFLICT_VALUE_BYTES_MAX / 2);
    let answer = last_answer(&world, &ada);
    assert_eq!((&answer["details"]["current_value"], &answer["details"]["current_version"]), (&long, &json!(1)));

    // The key holds something else by now: the log still knows.
    let services = {
        world.when(&ada, set(json!({"key": "plan", "value": "short"})));
        served(&world)
    };
    let caught = now(reader(&ada).page(&services, Some(Offset(first as u64)), None)).expect("read");
    let reply = caught.posts[0].delivery.reply.as_ref().expect("it is answered");
    assert_eq!(reply.frame.object().value()["details"]["current_value"], long);

    // An operation made it: the log has only what was added.
    world.when(&ada, set(json!({"key": "plan", "value": long, "op": "append"})));
    world.when(&ada, set(json!({"key": "plan", "value": 1, "expected_version": 7})));
    let appended = json!(format!("short{}", "x".repeat(CONFLICT_VALUE_BYTES_MAX)));
    assert_eq!(last_answer(&world, &ada)["details"]["current_value"], appended);
    world.when(&ada, set(json!({"key": "plan", "value": 2})));
    let services = served(&world);
    let before = Offset(world.log.len() as u64 - 3);
    let caught = now(reader(&ada).page(&services, Some(before), None)).expect("read");
    let reply = caught.posts[0].delivery.reply.as_ref().expect("it is answered");
    assert_eq!(reply.frame.object().value()["details"]["current_value"], appended);
}

#[test]
fn who_is_answered_by_reference_reads_on_from_the_log_and_nobody_else_does() {
    let mut world = World::new();
    let (ada, bob) = (world.joins("ada"), world.joins("bob"));
    let services = served(&world);
    let feed = Feed::open(&services, Seal::new([7; 32]), ada.scope, reader(&ada).encoder.stream, Arc::default());
    let (feed, _) = now(feed).expect("it opens");
    let joined = Offset(world.log.len() as u64 - 1);
    let outboxes = [&ada, &bob].map(|agent| {
        let Reader { viewpoint, presence, .. } = reader(agent);
        let outbox = Arc::new(Outbox::default());
        let member = hub::Member { viewpoint, interest: Interest::default(), presence, outbox: Arc::clone(&outbox) };
        feed.fleet().join(member, Some(joined)).expect("it is live");
        outbox
    });
    let long = json!("x".repeat(CONFLICT_VALUE_BYTES_MAX));
    let set = |wire: serde_json::Value| serde_json::from_value::<Set>(wire).expect("a set");
    let made = world.when(&ada, set(json!({"key": "plan", "value": long})));
    let refused = world.when(&ada, set(json!({"key": "plan", "value": 1, "expected_version": 7})));
    for told in [made, refused] {
        let update = Update { event: Some(told.event), verdict: told.verdict };
        assert!(!feed.hear(&News::from(update), Duration::ZERO), "nothing is missing");
    }
    assert!(outboxes[0].take().is_err(), "only the log has all of the answer");
    assert!(outboxes[1].take().is_ok_and(|posts| posts.is_empty()), "it is nobody else's");
    // Nor does the way back in lead past it.
    let Reader { viewpoint, presence, .. } = reader(&ada);
    let member = hub::Member { viewpoint, interest: Interest::default(), presence, outbox: Arc::default() };
    assert!(feed.fleet().join(member, Some(joined)).is_err());
    let caught = now(reader(&ada).page(&served(&world), Some(joined), None)).expect("read");
    let answer = caught.posts.iter().rfind(|post| post.reply).and_then(|post| post.delivery.reply.as_ref());
    let last = answer.expect("it is answered");
    assert_eq!(last.frame.object().value()["details"]["current_value"], long);
    let others = now(reader(&bob).page(&served(&world), Some(joined), None)).expect("read");
    assert!(others.posts.is_empty());
}

#[test]
fn what_is_still_here_shows_the_same_as_the_log() {
    let mut world = World::new();
    let (ada, bob) = (world.joins("ada"), world.joins("bob"));
    let joined = Offset(world.log.len() as u64 - 1);
    let services = served(&world);
    let stream = reader(&ada).encoder.stream;
    let (feed, _) =
        now(Feed::open(&services, Seal::new([7; 32]), ada.scope, stream, Arc::default())).expect("it opens");
    let text = "x".repeat(PAGE_BYTES_MAX / 16);
    for at in 0..40 {
        let told = match at % 4 {
            0 => sends(&mut world, &ada, "bob", &json!({"payload": text})).1,
            1 => world.when(&bob, serde_json::from_value::<Set>(json!({"key": "plan", "value": at})).expect("a set")),
            2 => world.when(&ada, serde_json::from_value::<Set>(json!({"key": "plan", "value": at})).expect("a set")),
            _ => sends(&mut world, &bob, "ada", &json!({})).1,
        };
        feed.hear(&News::from(Update { event: Some(told.event), verdict: told.verdict }), Duration::ZERO);
    }
    let (services, end) = (served(&world), Offset(world.log.len() as u64));
    let shown = |caught: &Caught| -> Vec<_> {
        let push = |post: &Post| post.pushes().map(|(_, push)| push.frame.object().value()).collect::<Vec<_>>();
        caught.posts.iter().map(|post| (post.delivery.offset, post.reply, push(post))).collect()
    };
    for of in [&ada, &bob] {
        for (after, before) in [(joined, None), (Offset(joined.0 + 7), None), (joined, Some(Offset(joined.0 + 21)))] {
            let (mut here, mut there) = (Vec::new(), Vec::new());
            let mut at = Some(after);
            loop {
                let recent = feed.fleet().recent(at, before).expect("all of it is here");
                let caught =
                    now(reader(of).recent(&services, at, recent, None)).expect("read").expect("it lacks nothing");
                here.extend(shown(&caught));
                assert!(caught.done || caught.upto > at, "it goes on");
                at = caught.upto;
                if caught.done {
                    break;
                }
            }
            let mut at = Some(after);
            loop {
                let caught = now(reader(of).page(&services, at, before)).expect("read");
                there.extend(shown(&caught));
                at = caught.upto;
                if caught.done {
                    break;
                }
            }
            assert!(!here.is_empty());
            assert_eq!(here, there);
        }
    }
    let before = joined.0.checked_sub(1).map(Offset);
    assert!(feed.fleet().recent(before, None).is_none(), "it does not reach back so far");
    assert!(feed.fleet().recent(Some(joined), Some(end)).is_none(), "it does not reach so far");
    let hash = feed.fleet().recent(Some(joined), None).expect("all of it is here").0[0].hash;
    let first = joined.next();
    assert!(feed.fleet().remembers(first, hash));
    assert!(!feed.fleet().remembers(first, hash ^ 1) && !feed.fleet().remembers(joined, hash));
}

#[test]
fn a_page_of_long_answers_is_bounded_by_bytes() {
    let mut world = World::new();
    let ada = world.joins("ada");
    let joined = Offset(world.log.len() as u64 - 1);
    let set = |wire: serde_json::Value| serde_json::from_value::<Set>(wire).expect("a set");
    world.when(&ada, set(json!({"key": "plan", "value": "x".repeat(PAGE_BYTES_MAX / 2)})));
    for _ in 0..9 {
        world.when(&ada, set(json!({"key": "plan", "value": 1, "expected_version": 7})));
    }
    let services = served(&world);
    let (mut after, mut places) = (Some(joined), Vec::new());
    loop {
        let caught = now(reader(&ada).page(&services, after, None)).expect("read");
        let bytes: usize = caught.posts.iter().map(Post::weight).sum();
        assert!(bytes < 3 * PAGE_BYTES_MAX, "{bytes}");
        places.extend(caught.posts.iter().map(|post| post.delivery.offset.0));
        if caught.done {
            break;
        }
        assert!(caught.upto > after, "it goes on");
        after = caught.upto;
    }
    let want: Vec<u64> = (joined.0 + 1..=joined.0 + 10).collect();
    assert_eq!(places, want);
}

#[test]
fn a_replay_of_long_verdicts_comes_whole_though_only_some_are_kept() {
    let mut world = World::new();
    let ada = world.joins("ada");
    let set = |wire: serde_json::Value| serde_json::from_value::<Set>(wire).expect("a set");
    let first = world.when(&ada, set(json!({"key": "plan", "value": "x".repeat(ANSWER_BYTES_MAX / 8)})));
    let mut want = vec![place(&first)];
    for _ in 0..12 {
        want.push(place(&world.when(&ada, set(json!({"key": "plan", "op": "append", "value": "y"})))));
    }
    let services = served(&world);
    let asker = Asker { agent: ada.agent, encoder: reader(&ada).encoder, known: None };
    let request = serde_json::from_value(json!({"streams": ["memory"], "limit": 1000})).expect("a request");
    let plan = now(history::plan(&services, &asker, &request)).expect("planned");
    assert_eq!(plan.total, want.len() as u64);
    assert!(!plan.verdicts.is_empty() && !plan.later.is_empty(), "some are known, some only by their places");
    let (mut known, mut later, mut found) = (plan.verdicts, plan.later, Vec::new());
    while !(known.is_empty() && later.is_empty()) {
        let part = if known.is_empty() { Part::Places(std::mem::take(&mut later)) } else { Part::Known(known) };
        let (joined, rest) = now(history::part(&services, &asker, part)).expect("read");
        assert!(!joined.updates.is_empty(), "it goes on");
        found.extend(joined.updates.iter().map(|update| update.verdict.position.offset));
        known = joined.rest.into();
        later = rest.into_iter().chain(later).collect();
    }
    assert_eq!(found, want);
}

/// Read models of which nobody searches, and how often verdicts were asked for.
struct Unsearched {
    reads: Arc<dyn Reads>,
    asked: AtomicUsize,
}

#[async_trait]
impl Reads for Unsearched {
    async fn commit(&self, commits: &[Commit]) -> Result<(), Error> {
        self.reads.commit(commits).await
    }

    async fn load(&self, partition: Partition, keys: &BTreeSet<RowKey>) -> Result<Found, Error> {
        self.reads.load(partition, keys).await
    }

    async fn find(&self, partition: Partition, find: &Find) -> Result<Found, Error> {
        self.reads.find(partition, find).await
    }

    async fn verdicts(&self, partition: Partition, scope: Scope, which: &Which) -> Result<Verdicts, Error> {
        if matches!(which, Which::Matching(_)) {
            return Err(Error::Unavailable("too many searches wait".to_owned()));
        }
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.reads.verdicts(partition, scope, which).await
    }

    async fn heads(&self, partition: Partition, fleets: &[Scope]) -> Result<Heads, Error> {
        self.reads.heads(partition, fleets).await
    }

    async fn snapshot(&self, partition: Partition) -> Result<Snapshot, Error> {
        self.reads.snapshot(partition).await
    }

    async fn forget(&self, partition: Partition, before: Offset) -> Result<(), Error> {
        self.reads.forget(partition, before).await
    }
}

#[test]
fn what_was_taken_back_is_asked_for_once_a_page_and_without_a_search() {
    let mut world = World::new();
    let (ada, bob) = (world.joins("ada"), world.joins("bob"));
    let started = Offset(world.log.len() as u64 - 1);
    let (mut over, mut want) = (Vec::new(), Vec::new());
    for at in 0..9 {
        let (message, sent) = sends(&mut world, &ada, "bob", &json!({"ttl": 2}));
        // A third is taken back, a third was delivered in time, of a third nobody knows yet.
        match at % 3 {
            0 => over.push(message),
            1 => drop(world.internal(&bob, Delivered { message })),
            _ => {}
        }
        if at % 3 > 0 {
            want.push(place(&sent));
        }
    }
    world.later(3);
    for message in over {
        world.timer(Expire { message, status: None });
    }
    let mut services = served(&world);
    let reads = Arc::new(Unsearched { reads: Arc::clone(&services.reads), asked: AtomicUsize::new(0) });
    services.reads = Arc::clone(&reads) as Arc<dyn Reads>;
    let page = now(reader(&bob).page(&services, Some(started), None)).expect("read");
    assert!(page.done);
    let shown: Vec<_> = page.posts.iter().filter(|post| post.delivery.report.is_some()).cloned().collect();
    assert_eq!(places(&shown), want);
    assert_eq!(reads.asked.load(Ordering::Relaxed), 2, "the page, and what was taken back of it");
    // To its sender it was sent.
    let page = now(reader(&ada).page(&services, Some(started), None)).expect("read");
    assert_eq!(page.posts.iter().filter(|post| post.reply).count(), 9);
}
