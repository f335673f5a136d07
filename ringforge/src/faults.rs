//! Faults on demand, for the tests that run the real binary: `RINGFORGE_TEST_FAULTS=drop_publish,second_projector`.
//! Nothing here runs unless the variable is set, and then the log says so.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::bail;
use async_trait::async_trait;
use futures_util::stream::BoxStream;
use ringforge_domain::{
    ids::Scope,
    position::{LogTime, Offset, Partition, Position},
    row::RowKey,
    schema,
};
use ringforge_ports::{
    Error, Services,
    live::{Heard, Live, News},
    log::{AppendError, Bounds, Log, Placed, Record, Stored},
    reads::{Commit, Find, Found, Heads, Reads, Verdicts, Which},
};
use tracing::warn;

/// The environment variable.
const VARIABLE: &str = "RINGFORGE_TEST_FAULTS";

/// What goes wrong on purpose.
#[derive(Default)]
pub struct Faults {
    named: BTreeSet<String>,
    /// Set once the server is ready: faults begin then.
    ready: Arc<AtomicBool>,
}

impl Faults {
    /// What the environment asks for.
    ///
    /// # Errors
    /// A fault we do not know.
    #[expect(clippy::disallowed_methods, reason = "the one switch of the tests")]
    pub fn from_environment() -> anyhow::Result<Self> {
        let named: BTreeSet<String> = std::env::var(VARIABLE)
            .unwrap_or_default()
            .split(',')
            .map(str::to_owned)
            .filter(|name| !name.is_empty())
            .collect();
        for name in &named {
            if !["drop_publish", "second_projector", "stall_projector", "log_refuses", "log_forgets"]
                .contains(&name.as_str())
            {
                bail!("{VARIABLE} names the unknown fault {name}");
            }
            warn!(fault = name, "a fault is switched on: this is a test");
        }
        Ok(Self { named, ready: Arc::default() })
    }

    /// Whether a second projector runs on every partition.
    pub fn second_projector(&self) -> bool {
        self.named.contains("second_projector")
    }

    /// The server is ready: faults begin.
    pub fn begin(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// The ports with what goes wrong in front of them.
    pub fn around(&self, mut services: Services) -> Services {
        if self.named.contains("drop_publish") {
            services.live = Arc::new(DropPublish(services.live));
        }
        if self.named.contains("stall_projector") {
            services.reads = Arc::new(StallCommit(services.reads, Arc::clone(&self.ready)));
        }
        let forgets = self.named.contains("log_forgets");
        if forgets || self.named.contains("log_refuses") {
            services.log = Arc::new(RefuseAppend { log: services.log, ready: Arc::clone(&self.ready), forgets });
        }
        services
    }
}

struct DropPublish(Arc<dyn Live>);

#[async_trait]
impl Live for DropPublish {
    async fn publish(&self, _: &[News]) -> Result<(), Error> {
        Ok(())
    }

    async fn subscribe(&self, scope: Scope) -> Result<BoxStream<'static, Heard>, Error> {
        self.0.subscribe(scope).await
    }

    async fn put(&self, key: &str, value: &str, ttl: Duration) -> Result<(), Error> {
        self.0.put(key, value, ttl).await
    }

    async fn scan(&self, prefix: &str) -> Result<Vec<(String, String)>, Error> {
        self.0.scan(prefix).await
    }

    async fn count(&self, key: &str, add: u64, window: Duration) -> Result<u64, Error> {
        self.0.count(key, add, window).await
    }
}

struct StallCommit(Arc<dyn Reads>, Arc<AtomicBool>);

#[async_trait]
impl Reads for StallCommit {
    async fn commit(&self, commits: &[Commit]) -> Result<(), Error> {
        // The directory and the start of sessions go on until somebody is in: only fleets with commands stall.
        let stalls = self.1.load(Ordering::Acquire)
            && commits.iter().flat_map(|commit| &commit.verdicts).any(|verdict| verdict.agent.is_some());
        if stalls {
            std::future::pending::<()>().await;
        }
        self.0.commit(commits).await
    }

    async fn load(&self, partition: Partition, keys: &BTreeSet<RowKey>) -> Result<Found, Error> {
        self.0.load(partition, keys).await
    }

    async fn find(&self, partition: Partition, find: &Find) -> Result<Found, Error> {
        self.0.find(partition, find).await
    }

    async fn verdicts(&self, partition: Partition, scope: Scope, which: &Which) -> Result<Verdicts, Error> {
        self.0.verdicts(partition, scope, which).await
    }

    async fn heads(&self, partition: Partition, fleets: &[Scope]) -> Result<Heads, Error> {
        self.0.heads(partition, fleets).await
    }
}

struct RefuseAppend {
    log: Arc<dyn Log>,
    ready: Arc<AtomicBool>,
    /// Whether it takes them after all, and forgets to say where.
    forgets: bool,
}

#[async_trait]
impl Log for RefuseAppend {
    async fn append(&self, partition: Partition, records: Vec<Record>) -> Result<Vec<Placed>, AppendError> {
        // Sessions still begin; what agents ask for is refused.
        let position = Position { partition, offset: Offset::ZERO };
        let asked = |record: &Record| {
            let event = schema::decode(&record.bytes, position, LogTime::default());
            event.is_ok_and(|event| !event.command.kind().internal())
        };
        if self.ready.load(Ordering::Acquire) && records.iter().any(asked) {
            if self.forgets {
                return self.log.append(partition, records).await.map(|_| Vec::new());
            }
            return Err(AppendError::Refused(Error::Unavailable("switched off by a test".to_owned())));
        }
        self.log.append(partition, records).await
    }

    fn read(&self, partition: Partition, from: Offset) -> BoxStream<'static, Result<Vec<Stored>, Error>> {
        self.log.read(partition, from)
    }

    async fn seek(&self, partition: Partition, offsets: &[Offset]) -> Result<Vec<Stored>, Error> {
        self.log.seek(partition, offsets).await
    }

    async fn bounds(&self, partition: Partition) -> Result<Bounds, Error> {
        self.log.bounds(partition).await
    }

    async fn trim(&self, partition: Partition, before: Offset) -> Result<(), Error> {
        self.log.trim(partition, before).await
    }
}
