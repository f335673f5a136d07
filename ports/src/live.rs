//! The fast path: updates as they happen, and short-lived facts. It may lose everything, and nobody may mind.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use ringforge_domain::{ids::Scope, position::Offset};

use crate::{Error, reads::Update};

/// What is published to those who follow a fleet.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// Something happened.
    Update {
        /// What.
        update: Arc<Update>,
        /// The record of its event, if whoever tells has it at hand: then nobody need write it anew. Whoever hears may have none.
        record: Option<Arc<[u8]>>,
    },
    /// The fleet's last event stands here: whoever has not seen it, missed it.
    Head {
        /// Whose.
        scope: Scope,
        /// Where.
        last: Offset,
    },
}

impl News {
    /// About its bytes.
    pub fn weight(&self) -> usize {
        match self {
            Self::Update { update, .. } => update.weight(),
            Self::Head { .. } => 0,
        }
    }

    /// The fleet it is about.
    pub fn scope(&self) -> Scope {
        match self {
            Self::Update { update, .. } => update.verdict.scope,
            Self::Head { scope, .. } => *scope,
        }
    }
}

impl From<Update> for News {
    /// Without its record.
    fn from(update: Update) -> Self {
        Self::Update { update: Arc::new(update), record: None }
    }
}

/// What a follower hears.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// News of the fleet, in the order in which they were published.
    News(News),
    /// Some that would stand here were lost.
    Lost,
}

/// What is kept in a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// Keys and values that have not ended, by key.
    pub facts: Vec<(String, String)>,
    /// For so long nothing that was kept here has been lost, at the least: whatever was put within it and is not here has
    /// ended. It grows from scan to scan until something may have been lost; then it begins anew.
    pub intact: Duration,
}

/// Publish and subscribe by fleet; facts that end by themselves; counters.
#[async_trait]
pub trait Live: Send + Sync {
    /// Tells the followers of each piece's fleet, and nobody else, in order. Never waits for a slow follower: that one hears
    /// `Lost` in place of what it missed, then goes on. `Ok` does not mean that anybody heard it.
    async fn publish(&self, news: &[News]) -> Result<(), Error>;

    /// Follows a fleet. Once this has resolved, what is published is heard, nothing from before. Every follower hears
    /// everything.
    async fn subscribe(&self, scope: Scope) -> Result<BoxStream<'static, Heard>, Error>;

    /// Keeps `value` under `key` for `ttl`; a later put replaces it and begins anew. A key is a path: what comes before its last
    /// slash, with it, is the directory where it is kept.
    async fn put(&self, key: &str, value: &str, ttl: Duration) -> Result<(), Error>;

    /// What is kept in `directory`, which is empty or ends with a slash: not what is kept in those within it.
    async fn scan(&self, directory: &str) -> Result<Directory, Error>;

    /// Adds `add` to the counter under `key` and returns it; 0 only looks and begins nothing. It restarts at 0 once the `window`
    /// that it began with has passed.
    async fn count(&self, key: &str, add: u64, window: Duration) -> Result<u64, Error>;
}
