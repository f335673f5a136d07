//! Buses that are broken on purpose, one way each: the suite must reject every one, by the promise that says so, and accept the
//! intact one. A promise that rejects none of them would prove nothing, so that is tested too.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Waker},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{
    StreamExt, future,
    stream::{self, BoxStream},
};
use ringforge_adapters::live::local::MemoryLive;
use ringforge_domain::{
    ids::{FleetId, Scope},
    position::LogTime,
};
use ringforge_ports::{
    Error,
    clock::{Clock, ManualClock},
    contract::{
        Failure,
        live::{PROMISES, Subject},
    },
    live::{Directory, Heard, Live, News},
};

/// What is wrong with a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Every fiftieth piece is not passed on.
    DropsOne,
    /// The first two pieces of a call change places.
    Reorders,
    /// Followers of a fleet also hear of the next one.
    MixesFleets,
    /// A follower first hears what was published last.
    Remembers,
    /// A follower misses the first piece after its subscription.
    ConfirmsEarly,
    /// What was lost is not said.
    HidesLoss,
    /// When one follower leaves, the others hear nothing more.
    LeavesTogether,
    /// Each piece goes to one follower in turn.
    TakesTurns,
    /// A follower that waits is not woken.
    WakesNobody,
    /// Publishing waits until everybody has listened.
    WaitsForSlow,
    /// Facts do not end.
    KeepsFacts,
    /// A later put changes the value, but not when it ends.
    KeepsTime,
    /// What is kept in a directory within one is found too.
    ScansDeeper,
    /// What was lost counts as kept.
    VouchesForLost,
    /// Nothing is ever certain to have been kept.
    NeverVouches,
    /// Looking counts.
    CountsLooks,
    /// A window begins anew with every count.
    SlidesWindows,
}

/// Every fault and the promises that must notice, among others.
const FAULTS: &[(Fault, &[&str])] = &[
    (Fault::DropsOne, &["news_come_in_order", "a_slow_follower_harms_nobody"]),
    (Fault::Reorders, &["news_come_in_order", "publishers_keep_their_order"]),
    (Fault::MixesFleets, &["only_the_fleet_is_told"]),
    (Fault::Remembers, &["a_confirmed_follower_hears"]),
    (Fault::ConfirmsEarly, &["a_confirmed_follower_hears"]),
    (Fault::HidesLoss, &["a_slow_follower_hears_that_it_lost"]),
    (Fault::LeavesTogether, &["every_follower_hears_everything"]),
    (Fault::TakesTurns, &["every_follower_hears_everything"]),
    (Fault::WakesNobody, &["publishers_keep_their_order"]),
    (Fault::WaitsForSlow, &["a_slow_follower_hears_that_it_lost"]),
    (Fault::KeepsFacts, &["facts_end"]),
    (Fault::KeepsTime, &["a_later_put_begins_anew"]),
    (Fault::ScansDeeper, &["directories_are_apart"]),
    (Fault::VouchesForLost, &["a_directory_tells_since_when_it_is_intact"]),
    (Fault::NeverVouches, &["a_directory_tells_since_when_it_is_intact"]),
    (Fault::CountsLooks, &["counters_count"]),
    (Fault::SlidesWindows, &["counters_restart"]),
];

/// The intact bus seen through a fault.
struct Broken {
    live: Arc<MemoryLive>,
    fault: Option<Fault>,
    clock: Arc<ManualClock>,
    published: Arc<AtomicU64>,
    heard: Arc<AtomicU64>,
    followers: AtomicU64,
    left: Arc<AtomicU64>,
    last: Mutex<Option<News>>,
    ends: Mutex<BTreeMap<String, Duration>>,
    counters: Mutex<BTreeMap<String, (u64, Duration)>>,
}

impl Broken {
    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// What of `news` is passed on, and in which order.
    fn spoil(&self, news: &[News]) -> Vec<News> {
        let mut passed = Vec::new();
        for piece in news {
            let count = self.published.fetch_add(1, Ordering::Relaxed);
            if !self.has(Fault::DropsOne) || count % 50 != 49 {
                passed.push(piece.clone());
            }
        }
        if self.has(Fault::Reorders) && passed.len() > 1 {
            passed.swap(0, 1);
        }
        passed
    }
}

/// Says so when it is dropped.
struct Leaving(Arc<AtomicU64>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Never tells the task that there is something to hear.
fn unwoken(mut follower: BoxStream<'static, Heard>) -> BoxStream<'static, Heard> {
    stream::poll_fn(move |_| follower.poll_next_unpin(&mut Context::from_waker(Waker::noop()))).boxed()
}

#[async_trait]
impl Live for Broken {
    async fn publish(&self, news: &[News]) -> Result<(), Error> {
        if self.has(Fault::LeavesTogether) && self.left.load(Ordering::Relaxed) > 0 {
            return Ok(());
        }
        let waiting = self.published.load(Ordering::Relaxed).saturating_sub(self.heard.load(Ordering::Relaxed));
        if self.has(Fault::WaitsForSlow) && waiting > 500 {
            return future::pending().await;
        }
        self.last.lock().expect("no panic").clone_from(&news.last().cloned());
        self.live.publish(&self.spoil(news)).await
    }

    async fn subscribe(&self, scope: Scope) -> Result<BoxStream<'static, Heard>, Error> {
        let (heard, leaving) = (Arc::clone(&self.heard), Leaving(Arc::clone(&self.left)));
        let follower = self.live.subscribe(scope).await?.inspect(move |_| {
            let _owned = &leaving;
            heard.fetch_add(1, Ordering::Relaxed);
        });
        let number = self.followers.fetch_add(1, Ordering::Relaxed);
        Ok(match self.fault {
            Some(Fault::MixesFleets) => {
                let other = Scope { fleet: FleetId::from_bits(scope.fleet.bits() ^ 1), ..scope };
                stream::select(follower, self.live.subscribe(other).await?).boxed()
            }
            Some(Fault::Remembers) => {
                let last = self.last.lock().expect("no panic").clone();
                stream::iter(last.map(Heard::News)).chain(follower).boxed()
            }
            Some(Fault::ConfirmsEarly) => follower.skip(1).boxed(),
            Some(Fault::HidesLoss) => follower.filter(|heard| future::ready(*heard != Heard::Lost)).boxed(),
            Some(Fault::TakesTurns) => {
                let mine = move |(at, _): &(u64, Heard)| future::ready((at + number).is_multiple_of(2));
                stream::iter(0..).zip(follower).filter(mine).map(|(_, heard)| heard).boxed()
            }
            Some(Fault::WakesNobody) => unwoken(follower.boxed()),
            _ => follower.boxed(),
        })
    }

    async fn put(&self, key: &str, value: &str, ttl: Duration) -> Result<(), Error> {
        let now = self.clock.monotonic();
        let mut ttl = if self.has(Fault::KeepsFacts) { 1_000 * ttl } else { ttl };
        let end = *self.ends.lock().expect("no panic").entry(key.to_owned()).or_insert(now + ttl);
        if self.has(Fault::KeepsTime) {
            ttl = end.saturating_sub(now);
        }
        self.live.put(key, value, ttl).await
    }

    async fn scan(&self, directory: &str) -> Result<Directory, Error> {
        let mut found = self.live.scan(directory).await?;
        if self.has(Fault::ScansDeeper) {
            let inner = self.live.scan(&format!("{directory}b/")).await?;
            found.facts.extend(inner.facts);
        }
        if self.has(Fault::VouchesForLost) {
            found.intact = self.clock.monotonic();
        }
        if self.has(Fault::NeverVouches) {
            found.intact = Duration::ZERO;
        }
        Ok(found)
    }

    async fn count(&self, key: &str, add: u64, window: Duration) -> Result<u64, Error> {
        if !self.has(Fault::SlidesWindows) {
            let add = if self.has(Fault::CountsLooks) { add.max(1) } else { add };
            return self.live.count(key, add, window).await;
        }
        let (now, mut counters) = (self.clock.monotonic(), self.counters.lock().expect("no panic"));
        let (count, end) = counters.get(key).copied().filter(|(_, end)| now < *end).unwrap_or((0, now + window));
        counters.insert(key.to_owned(), (count + add, end.max(now + window)));
        Ok(count + add)
    }
}

struct Bench {
    fault: Option<Fault>,
    clock: Arc<ManualClock>,
}

#[async_trait]
impl Subject for Bench {
    async fn open(&self) -> Arc<dyn Live> {
        Arc::new(Broken {
            live: MemoryLive::new(self.clock.clone()),
            fault: self.fault,
            clock: self.clock.clone(),
            published: Arc::default(),
            heard: Arc::default(),
            followers: AtomicU64::new(0),
            left: Arc::default(),
            last: Mutex::default(),
            ends: Mutex::default(),
            counters: Mutex::default(),
        })
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }

    async fn lose(&self) -> Arc<dyn Live> {
        self.open().await
    }
}

/// The promises that a bus with this fault does not keep.
async fn rejections(fault: Option<Fault>) -> BTreeSet<&'static str> {
    let mut rejected = BTreeSet::new();
    for (name, promise) in PROMISES {
        match promise(&Bench { fault, clock: ManualClock::at(LogTime(1)) }).await {
            Ok(()) => {}
            Err(Failure::Broken(_)) => drop(rejected.insert(name)),
            Err(Failure::Skipped(why)) => panic!("{name} was not tried: {why}"),
        }
    }
    rejected
}

// The clock is paused: what never comes is given up at once.
#[tokio::test(start_paused = true)]
async fn the_intact_bus_is_accepted() {
    assert_eq!(rejections(None).await, BTreeSet::new());
}

#[tokio::test(start_paused = true)]
async fn every_broken_bus_is_rejected_by_name() {
    let mut useful: BTreeSet<&str> = BTreeSet::new();
    for (fault, expected) in FAULTS {
        let rejected = rejections(Some(*fault)).await;
        for name in *expected {
            assert!(rejected.contains(name), "{fault:?} is not noticed by {name}, only by {rejected:?}");
        }
        useful.extend(*expected);
    }
    let useless: Vec<_> = PROMISES.iter().map(|(name, _)| *name).filter(|name| !useful.contains(name)).collect();
    assert_eq!(useless, [""; 0], "promises that reject nothing");
}
