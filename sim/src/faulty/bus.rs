//! The live bus, as bad as it may be: each edge loses, doubles and delays on its own.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use ringforge_domain::ids::Scope;
use ringforge_ports::{
    Error,
    clock::Clock,
    live::{Directory, Heard, Live, News},
    memory::live::MemoryLive,
};

use super::{Fate, now};
use crate::tally::lock;

/// The bus of a world.
pub struct Bus {
    clock: Arc<dyn Clock>,
    fate: Fate,
    edges: Mutex<Vec<Arc<MemoryLive>>>,
    /// Leases, heartbeats and counters.
    facts: Arc<MemoryLive>,
    /// What is on its way to an edge.
    late: Mutex<Vec<(usize, News)>>,
}

impl Bus {
    /// To so many edges.
    pub fn new(clock: Arc<dyn Clock>, fate: Fate, edges: usize) -> Arc<Self> {
        let one = || MemoryLive::new(Arc::clone(&clock));
        let (edges, facts) = (Mutex::new((0..edges).map(|_| one()).collect()), one());
        Arc::new(Self { clock, fate, edges, facts, late: Mutex::default() })
    }

    /// What an edge, or (`None`) anyone who only publishes, has of it.
    pub fn view(self: &Arc<Self>, edge: Option<usize>) -> Arc<View> {
        Arc::new(View { bus: Arc::clone(self), edge: edge.unwrap_or(0) })
    }

    /// Everyone who follows it through this edge is cut off.
    pub fn cut(&self, edge: usize) {
        lock(&self.edges)[edge] = MemoryLive::new(Arc::clone(&self.clock));
    }

    /// Brings one late piece of news to its edge; `false` if there is none.
    pub fn bring(&self) -> bool {
        let mut late = lock(&self.late);
        if late.is_empty() {
            return false;
        }
        let at = usize::try_from(self.fate.below(late.len() as u64)).expect("an index");
        let (edge, news) = late.swap_remove(at);
        drop(late);
        self.tell(edge, &news);
        true
    }

    fn tell(&self, edge: usize, news: &News) {
        let live = Arc::clone(&lock(&self.edges)[edge]);
        now(live.publish(std::slice::from_ref(news))).expect("the bus in memory takes everything");
    }

    fn publish(&self, news: &News) {
        let edges = lock(&self.edges).len();
        for edge in 0..edges {
            if self.fate.strikes(|odds| odds.lost) {
                self.fate.tally.note("fault: publish lost");
            } else if self.fate.strikes(|odds| odds.late) {
                self.fate.tally.note("fault: publish late");
                lock(&self.late).push((edge, news.clone()));
            } else {
                self.tell(edge, news);
                if self.fate.strikes(|odds| odds.doubled) {
                    self.fate.tally.note("fault: publish doubled");
                    lock(&self.late).push((edge, news.clone()));
                }
            }
        }
    }
}

/// The bus, from one place.
pub struct View {
    bus: Arc<Bus>,
    edge: usize,
}

#[async_trait]
impl Live for View {
    async fn publish(&self, news: &[News]) -> Result<(), Error> {
        for news in news {
            self.bus.publish(news);
        }
        Ok(())
    }

    async fn subscribe(&self, scope: Scope) -> Result<BoxStream<'static, Heard>, Error> {
        let live = Arc::clone(&lock(&self.bus.edges)[self.edge]);
        self.bus.fate.wait().await;
        live.subscribe(scope).await
    }

    async fn put(&self, key: &str, value: &str, ttl: Duration) -> Result<(), Error> {
        self.bus.facts.put(key, value, ttl).await
    }

    async fn scan(&self, directory: &str) -> Result<Directory, Error> {
        self.bus.facts.scan(directory).await
    }

    async fn count(&self, key: &str, add: u64, window: Duration) -> Result<u64, Error> {
        self.bus.facts.count(key, add, window).await
    }
}
