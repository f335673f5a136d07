//! The read models: answers may take a moment, a commit can be held up before or after it is written, and the whole can
//! fall back to what it was.

use std::{
    collections::BTreeSet,
    future::poll_fn,
    sync::{Arc, Mutex},
    task::Poll,
};

use async_trait::async_trait;
use ringforge_domain::{
    ids::Scope,
    limits::PROJECTOR_COMMIT_BYTES_MAX,
    planted::{Bug, planted},
    position::{Offset, Partition},
    row::{Row, RowKey, Table},
    verdict::Verdict,
};
use ringforge_ports::{
    Error,
    memory::reads::{MemoryReads, State},
    reads::{Commit, Find, Found, Heads, Reads, Snapshot, Verdicts, Which},
};

use super::Fate;
use crate::tally::lock;

/// The read models of a world.
#[derive(Default)]
pub struct Store {
    current: Mutex<MemoryReads>,
    /// What was there a while ago, for the bug that answers from it.
    stale: Mutex<Option<MemoryReads>>,
}

impl Store {
    /// As they are now.
    pub fn current(&self) -> MemoryReads {
        lock(&self.current).clone()
    }

    /// What a file of them would hold now.
    pub fn snapshot(&self) -> State {
        self.current().snapshot()
    }

    /// They are what they were then.
    pub fn fall_back(&self, to: State) {
        *lock(&self.current) = MemoryReads::from(to);
    }
}

/// What happens to the next commit of one projector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hold {
    /// Nothing.
    #[default]
    None,
    /// It waits before it is written.
    Before,
    /// It is written, and the answer waits.
    After,
    /// It is written, and the answer is lost.
    Unanswered,
}

/// Holds the commits of one projector up.
#[derive(Debug, Default)]
pub struct Holder {
    hold: Mutex<Hold>,
}

impl Holder {
    /// From now on.
    pub fn set(&self, hold: Hold) {
        *lock(&self.hold) = hold;
    }

    /// What it does.
    pub fn get(&self) -> Hold {
        *lock(&self.hold)
    }

    async fn released(&self) {
        poll_fn(|_| if self.get() == Hold::None { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

/// The read models, as one role sees them.
pub struct View {
    store: Arc<Store>,
    fate: Fate,
    holder: Arc<Holder>,
    waits: bool,
}

impl View {
    /// For a role whose questions may take a moment.
    pub fn slow(store: &Arc<Store>, fate: &Fate) -> Arc<Self> {
        Arc::new(Self { store: Arc::clone(store), fate: fate.clone(), holder: Arc::default(), waits: true })
    }

    /// For a role that is answered at once.
    pub fn prompt(store: &Arc<Store>, fate: &Fate) -> Arc<Self> {
        Arc::new(Self { store: Arc::clone(store), fate: fate.clone(), holder: Arc::default(), waits: false })
    }

    /// For a projector.
    pub fn held(store: &Arc<Store>, fate: &Fate, holder: &Arc<Holder>) -> Arc<Self> {
        Arc::new(Self { store: Arc::clone(store), fate: fate.clone(), holder: Arc::clone(holder), waits: false })
    }

    async fn wait(&self) {
        if self.waits {
            self.fate.wait().await;
        }
    }
}

/// Whether nothing more was put into it because of its bytes.
fn is_full(commit: &Commit) -> bool {
    let verdicts: usize = commit.verdicts.iter().map(Verdict::weight).sum();
    let rows: usize = commit.rows.iter().filter_map(|(_, row)| row.as_ref()).map(Row::weight).sum();
    verdicts + rows > PROJECTOR_COMMIT_BYTES_MAX
}

#[async_trait]
impl Reads for View {
    async fn commit(&self, commits: &[Commit]) -> Result<(), Error> {
        if self.holder.get() == Hold::Before {
            self.holder.released().await;
        }
        if planted(Bug::StaleReads) && self.fate.strikes(|_| 200) {
            *lock(&self.store.stale) = Some(MemoryReads::from(self.store.snapshot()));
        }
        self.store.current().commit(commits).await?;
        commits.iter().filter(|commit| is_full(commit)).for_each(|_| {
            self.fate.tally.note("situation: commit ended by its bytes");
        });
        match self.holder.get() {
            Hold::After => self.holder.released().await,
            Hold::Unanswered => return Err(Error::Unavailable("simulated".to_owned())),
            Hold::None | Hold::Before => {}
        }
        Ok(())
    }

    async fn load(&self, partition: Partition, keys: &BTreeSet<RowKey>) -> Result<Found, Error> {
        self.wait().await;
        let memory = keys.iter().all(|key| key.table == Table::Memory);
        let stale = lock(&self.store.stale).clone().filter(|_| memory && self.waits);
        let found = stale.unwrap_or_else(|| self.store.current()).load(partition, keys).await;
        self.wait().await;
        found
    }

    async fn find(&self, partition: Partition, find: &Find) -> Result<Found, Error> {
        self.wait().await;
        let found = self.store.current().find(partition, find).await;
        self.wait().await;
        found
    }

    async fn verdicts(&self, partition: Partition, scope: Scope, which: &Which) -> Result<Verdicts, Error> {
        self.wait().await;
        let found = self.store.current().verdicts(partition, scope, which).await;
        self.wait().await;
        found
    }

    async fn heads(&self, partition: Partition, fleets: &[Scope]) -> Result<Heads, Error> {
        self.wait().await;
        let found = self.store.current().heads(partition, fleets).await;
        self.wait().await;
        found
    }

    async fn snapshot(&self, partition: Partition) -> Result<Snapshot, Error> {
        Reads::snapshot(&self.store.current(), partition).await
    }

    async fn forget(&self, partition: Partition, before: Offset) -> Result<(), Error> {
        self.store.current().forget(partition, before).await
    }
}
