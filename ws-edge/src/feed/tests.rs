//! Given a port that hangs, then only those wait who need it. Given an event that cannot be read, then nobody waits for it.

use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use futures_util::FutureExt;
use ringforge_domain::{
    code::{Code, Refusal},
    ids::{FleetId, TenantId},
    position::{LogTime, Position},
    verdict::{Index, Outcome},
};
use ringforge_ports::{
    clock::{Clock, ManualClock},
    live::{Directory, Live},
    log::Record,
    memory::{in_memory, live::MemoryLive},
    reads::Commit,
};

use super::*;

/// A bus on which one fleet cannot be followed, and none while it is away.
struct Stuck {
    bus: Arc<MemoryLive>,
    fleet: Scope,
    away: AtomicBool,
}

#[async_trait]
impl Live for Stuck {
    async fn publish(&self, news: &[News]) -> Result<(), Error> {
        self.bus.publish(news).await
    }

    async fn subscribe(&self, scope: Scope) -> Result<BoxStream<'static, Heard>, Error> {
        if scope == self.fleet {
            std::future::pending::<()>().await;
        }
        if self.away.load(Ordering::Relaxed) {
            return Err(Error::Unavailable("it is away".to_owned()));
        }
        self.bus.subscribe(scope).await
    }

    async fn put(&self, key: &str, value: &str, ttl: Duration) -> Result<(), Error> {
        self.bus.put(key, value, ttl).await
    }

    async fn scan(&self, directory: &str) -> Result<Directory, Error> {
        self.bus.scan(directory).await
    }

    async fn count(&self, key: &str, add: u64, window: Duration) -> Result<u64, Error> {
        self.bus.count(key, add, window).await
    }
}

const STREAM: StreamRef = StreamRef { partition: Partition::POOL, epoch: 0 };

fn fleet(number: u128) -> Scope {
    Scope { tenant: TenantId::from_bits(1), fleet: FleetId::from_bits(number) }
}

fn hub(stuck: Scope) -> (Arc<Hub>, Arc<ManualClock>) {
    let (hub, _, clock) = hub_on(stuck);
    (hub, clock)
}

fn hub_on(stuck: Scope) -> (Arc<Hub>, Arc<Stuck>, Arc<ManualClock>) {
    let clock = ManualClock::at(LogTime(1));
    let bus = Arc::new(Stuck { bus: MemoryLive::new(clock.clone()), fleet: stuck, away: AtomicBool::new(false) });
    let services = Services { live: bus.clone(), ..in_memory(clock.clone()) };
    (Hub::new(services, Seal::new([1; 32])), bus, clock)
}

#[tokio::test]
async fn a_fleet_that_cannot_be_opened_keeps_no_other_waiting() {
    let (hub, _) = hub(fleet(1));
    let mut stuck = Box::pin(hub.feed(fleet(1), STREAM));
    assert!((&mut stuck).now_or_never().is_none());
    let opened = hub.feed(fleet(2), STREAM).now_or_never().expect("at once").expect("it opens");
    let again = hub.feed(fleet(2), STREAM).now_or_never().expect("at once").expect("it is open");
    assert!(Arc::ptr_eq(&opened, &again), "a fleet is followed once");
    assert_eq!(hub.needed().len(), 1, "the heads of open fleets are asked for meanwhile");
    drop(stuck);
    assert_eq!(hub.needed().len(), 1);
    assert_eq!(hub.slots().len(), 1, "what was never opened is forgotten");
}

#[tokio::test]
async fn a_fleet_is_forgotten_once_nobody_needs_it_for_a_while() {
    let (hub, clock) = hub(fleet(1));
    let feed = hub.feed(fleet(2), STREAM).await.expect("it opens");
    let wait = |by| {
        clock.advance(by);
        hub.needed().len()
    };
    assert_eq!([wait(EMPTY), wait(EMPTY * 2)], [1, 1], "somebody is about to join");
    drop(feed);
    assert_eq!([wait(Duration::ZERO), wait(EMPTY), wait(EMPTY)], [1, 1, 0]);
}

/// The first event of a fleet, if its bytes cannot be read: the projector knows its place and nothing else.
fn damaged(scope: Scope) -> Update {
    let verdict = Verdict {
        position: Position { partition: STREAM.partition, offset: Offset::ZERO },
        time: LogTime(1),
        scope,
        command_id: CommandId::from_bits(0),
        agent: None,
        previous: None,
        outcome: Outcome::Refused(Refusal::new(Code::ServerError)),
        first: None,
        index: Index::default(),
    };
    Update { event: None, verdict }
}

/// A feed at which two wait: for the first event of the fleet, and for another.
async fn awaited(hub: &Arc<Hub>) -> (Arc<Feed>, [oneshot::Receiver<Verdict>; 2]) {
    let feed = hub.feed(fleet(2), STREAM).await.expect("it opens");
    let waiting = [FIRST, OTHER].map(|command| feed.wait_for(command));
    feed.placed(OTHER, Offset(1));
    (feed, waiting)
}

const FIRST: CommandId = CommandId::from_bits(1);
const OTHER: CommandId = CommandId::from_bits(2);

fn is_refused(answered: Option<Result<Verdict, oneshot::error::RecvError>>) -> bool {
    let refused = |verdict: Verdict| matches!(verdict.outcome, Outcome::Refused(why) if why.code == Code::ServerError);
    refused(answered.expect("at once").expect("with the verdict"))
}

#[tokio::test]
async fn whoever_waits_for_an_event_that_turns_out_damaged_is_told_at_once() {
    let (hub, clock) = hub(fleet(1));
    let (feed, [first, other]) = awaited(&hub).await;
    feed.placed(FIRST, Offset::ZERO);
    assert!(!feed.hear(&News::from(damaged(fleet(2))), clock.monotonic()));
    assert!(is_refused(first.now_or_never()));
    assert!(other.now_or_never().is_none(), "nobody else is meant");
}

#[tokio::test]
async fn whoever_learns_the_place_of_a_damaged_event_when_it_has_passed_is_told_at_once() {
    let (hub, clock) = hub(fleet(1));
    let (feed, [mut first, other]) = awaited(&hub).await;
    assert!(!feed.hear(&News::from(damaged(fleet(2))), clock.monotonic()));
    assert!((&mut first).now_or_never().is_none(), "it could be anybody's");
    feed.placed(FIRST, Offset::ZERO);
    assert!(first.now_or_never().expect("at once").is_err());
    assert!(other.now_or_never().is_none(), "nobody else is meant");
}

/// The first event of the fleet is logged and applied.
async fn happens(services: &Services) {
    let scope = fleet(2);
    let record = Record { scope, bytes: b"no event".to_vec().into() };
    services.log.append(STREAM.partition, vec![record]).await.expect("it is appended");
    let commit = Commit {
        partition: STREAM.partition,
        previous: Offset::ZERO,
        upto: Offset(1),
        time: LogTime(1),
        rows: Vec::new(),
        verdicts: vec![damaged(scope).verdict],
    };
    services.reads.commit(&[commit]).await.expect("it is committed");
}

#[tokio::test(start_paused = true)]
async fn a_fleet_can_be_opened_while_the_bus_is_away_and_is_followed_once_it_is_back() {
    let (hub, bus, _) = hub_on(fleet(1));
    bus.away.store(true, Ordering::Relaxed);
    let (feed, [first, other]) = awaited(&hub).await;
    happens(&hub.services).await;
    feed.placed(FIRST, Offset::ZERO);
    assert!(is_refused(Some(first.await)), "it is found in index and log");
    bus.away.store(false, Ordering::Relaxed);
    tokio::time::sleep(2 * SILENCE).await;
    let verdict = Verdict { command_id: OTHER, previous: Some(Offset::ZERO), ..damaged(fleet(2)).verdict };
    let position = Position { offset: Offset(1), ..verdict.position };
    let news = News::from(Update { event: None, verdict: Verdict { position, ..verdict } });
    bus.publish(&[news]).await.expect("published");
    assert!(is_refused(Some(other.await)), "it is heard");
}

#[tokio::test]
async fn a_damaged_event_that_the_bus_lost_is_found_in_the_log() {
    let (hub, _) = hub(fleet(1));
    let (feed, [first, other]) = awaited(&hub).await;
    let services = &hub.services;
    happens(services).await;
    feed.placed(FIRST, Offset::ZERO);
    assert_eq!(feed.fill(services).await.expect("it is filled"), 1);
    assert!(is_refused(first.now_or_never()));
    assert!(other.now_or_never().is_none(), "nobody else is meant");
}

#[tokio::test]
async fn what_is_late_and_not_lost_is_looked_for_less_and_less_often() {
    let (hub, _) = hub(fleet(1));
    let (feed, _) = awaited(&hub).await;
    happens(&hub.services).await;
    assert_eq!(feed.fill(&hub.services).await.expect("it is filled"), 1);
    let mut patience = Patience(EXPECT);
    let late = || feed.late.swap(false, Ordering::Relaxed);
    patience.found(1, late());
    assert_eq!(patience.0, EXPECT, "it may have been lost");
    assert!(!feed.hear(&News::from(damaged(fleet(2))), Duration::ZERO), "nothing before it is missing");
    patience.found(1, late());
    assert_eq!(patience.0, 2 * EXPECT, "it came after all");
    for _ in 0..9 {
        patience.found(0, late());
    }
    assert_eq!(patience.0, SILENCE);
    patience.found(1, late());
    assert_eq!(patience.0, EXPECT);
}
