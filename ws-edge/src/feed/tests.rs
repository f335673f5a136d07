//! Given a port that hangs, then only those wait who need it.

use async_trait::async_trait;
use futures_util::FutureExt;
use ringforge_domain::{
    ids::{FleetId, TenantId},
    position::{Generation, LogTime},
};
use ringforge_ports::{
    clock::{ManualClock, SeededIds},
    live::Live,
    memory::{live::MemoryLive, log::MemoryLog, reads::MemoryReads},
};

use super::*;

/// A bus on which one fleet cannot be followed.
struct Stuck {
    bus: Arc<MemoryLive>,
    fleet: Scope,
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
        self.bus.subscribe(scope).await
    }

    async fn put(&self, key: &str, value: &str, ttl: Duration) -> Result<(), Error> {
        self.bus.put(key, value, ttl).await
    }

    async fn scan(&self, prefix: &str) -> Result<Vec<(String, String)>, Error> {
        self.bus.scan(prefix).await
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
    let clock = ManualClock::at(LogTime(1));
    let bus = MemoryLive::new(clock.clone());
    let services = Services {
        log: MemoryLog::new(clock.clone(), 2, Generation(1)),
        reads: Arc::new(MemoryReads::new()),
        live: Arc::new(Stuck { bus, fleet: stuck }),
        clock: clock.clone(),
        ids: SeededIds::new(1),
    };
    (Hub::new(services, Seal::new([1; 32])), clock)
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
