//! The promises of all ports, on those in memory with points in front at which nothing happens: whoever wraps a port
//! without a wish changes nothing.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use ringforge_adapters::live::local::MemoryLive;
use ringforge_domain::position::{Generation, LogTime};
use ringforge_ports::{
    Services,
    clock::{Clock, ManualClock, SeededIds},
    contract::{self, Failure, Outcome, log::PARTITIONS},
    live::Live,
    log::Log,
    memory::{blobs::MemoryBlobs, log::MemoryLog, reads::MemoryReads},
    points::{Decide, around},
    reads::Reads,
};

struct Behind(Arc<ManualClock>);

impl Behind {
    fn points(&self, clock: Arc<dyn Clock>) -> Services {
        let log = MemoryLog::new(Arc::clone(&clock), PARTITIONS, Generation(7));
        let live = MemoryLive::new(self.0.clone());
        let (reads, blobs) = (Arc::new(MemoryReads::new()), MemoryBlobs::new());
        let services = Services { log, reads, live, blobs, clock, ids: SeededIds::new(1) };
        let nothing: Decide = Arc::new(|_| None);
        around(services, &nothing)
    }
}

#[async_trait]
impl contract::log::Subject for Behind {
    async fn open(&self, clock: Arc<dyn Clock>) -> Arc<dyn Log> {
        self.points(clock).log
    }

    async fn reopen(&self, _: Arc<dyn Clock>) -> Option<Arc<dyn Log>> {
        None
    }
}

#[async_trait]
impl contract::reads::Subject for Behind {
    async fn open(&self) -> Arc<dyn Reads> {
        self.points(self.0.clone()).reads
    }

    async fn reopen(&self) -> Option<Arc<dyn Reads>> {
        None
    }
}

#[async_trait]
impl contract::live::Subject for Behind {
    async fn open(&self) -> Arc<dyn Live> {
        self.points(self.0.clone()).live
    }

    async fn pass(&self, time: Duration) {
        self.0.advance(time);
    }

    async fn lose(&self) -> Arc<dyn Live> {
        contract::live::Subject::open(self).await
    }
}

/// What needs a restart is tried with the adapters that survive one.
fn holds(name: &str, outcome: Outcome) {
    if let Err(Failure::Broken(what)) = outcome {
        panic!("{name} is broken: {what}");
    }
}

#[tokio::test]
async fn points_without_a_wish_change_nothing() {
    let behind = Behind(ManualClock::at(LogTime(1_700_000_000_000_000)));
    let tried: Vec<(&str, BoxFuture<'_, Outcome>)> = contract::log::PROMISES
        .iter()
        .map(|(name, promise)| (*name, promise(&behind)))
        .chain(contract::reads::PROMISES.iter().map(|(name, promise)| (*name, promise(&behind))))
        .chain(contract::live::PROMISES.iter().map(|(name, promise)| (*name, promise(&behind))))
        .collect();
    for (name, promise) in tried {
        holds(name, promise.await);
    }
}
