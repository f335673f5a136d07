//! The read models of many processes: Postgres, on one server or several. A partition lives on one of them and nothing
//! crosses servers. What is asked about one tenant is asked as a role that policies keep from seeing another (see `server`).
//!
//! A projector's commits do not wait for the disk: after a server's crash they may be gone, all from some point on, and the
//! log fills them in again.

mod ask;
mod commit;
mod failure;
mod searches;
mod server;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use ringforge_domain::{
    fleet::Head,
    ids::Scope,
    limits::ANSWER_BYTES_MAX,
    position::{Generation, Offset, Partition, Partitions},
    row::{RowKey, State},
};
use ringforge_ports::{
    Error,
    reads::{Commit, Find, Found, Heads, Reads, Snapshot, Verdicts, Which},
};

use self::{ask::Whose, server::Server};
use super::{
    batch::{Batch, place},
    sql::{self, build::Dialect},
};

/// Read models in databases, in the order of their list.
pub struct PostgresReads {
    servers: Vec<Server>,
}

impl PostgresReads {
    /// Opens the databases of a list of addresses, `postgres://a/x,postgres://b/y` (a comma within one is `%2C`), and makes or
    /// migrates what is in them. The list is recorded with them: partition p lives on number p modulo their count, so they are
    /// opened by the same list for ever.
    ///
    /// # Errors
    /// `Corrupt`: they are of a newer version, or of another list. `Unavailable`: whatever keeps one from being opened, and what
    /// to do about it.
    pub async fn open(addresses: &str) -> Result<Self, Error> {
        let addresses: Vec<_> = addresses.split(',').collect();
        let mut servers: Vec<Server> = Vec::new();
        for address in &addresses {
            servers.push(Server::open(address).await?);
        }
        server::agree(&servers).await?;
        Ok(Self { servers })
    }

    /// Records that they are of the log of this generation, with these partitions.
    ///
    /// # Errors
    /// `Corrupt`: they are of another one, or of one with other partitions.
    pub async fn belong(&self, generation: Generation, partitions: Partitions) -> Result<(), Error> {
        for server in &self.servers {
            server.belong(generation, partitions).await?;
        }
        Ok(())
    }

    /// Ends all connections.
    pub async fn close(&self) {
        for server in &self.servers {
            server.close().await;
        }
    }

    /// Drops the slices of a partition's history that end before `offset`; its newest stays. Gives how many.
    ///
    /// # Errors
    /// `Unavailable`: nothing is dropped, now.
    pub async fn drop_history(&self, partition: Partition, offset: Offset) -> Result<u64, Error> {
        self.server(partition).drop_slices(place(partition, offset)).await
    }

    fn number(&self, partition: Partition) -> usize {
        usize::from(partition.0) % self.servers.len()
    }

    fn server(&self, partition: Partition) -> &Server {
        &self.servers[self.number(partition)]
    }

    async fn load_into(&self, partition: Partition, keys: &BTreeSet<RowKey>, room: usize) -> Result<Found, Error> {
        let question = sql::bodies::named(partition, keys);
        self.server(partition).rows(Whose::Everyone, partition, question, room).await
    }
}

#[async_trait]
impl Reads for PostgresReads {
    /// All of a server's or nothing; where several servers have a part of it, those before the one that fails have theirs.
    async fn commit(&self, commits: &[Commit]) -> Result<(), Error> {
        let mut parts: BTreeMap<usize, Vec<Batch>> = BTreeMap::new();
        for commit in commits {
            parts.entry(self.number(commit.partition)).or_default().push(Batch::of(commit)?);
        }
        for (number, batches) in parts {
            self.servers[number].commit(&batches).await?;
        }
        Ok(())
    }

    async fn load(&self, partition: Partition, keys: &BTreeSet<RowKey>) -> Result<Found, Error> {
        self.load_into(partition, keys, ANSWER_BYTES_MAX).await
    }

    async fn find(&self, partition: Partition, find: &Find) -> Result<Found, Error> {
        let (server, question) = (self.server(partition), sql::find(Dialect::Postgres, partition, find));
        let scope = match find {
            Find::Table { scope, .. } => *scope,
            Find::Due { .. } => None,
            Find::Mail { scope, .. } | Find::Listed { scope, .. } => Some(*scope),
            Find::Memory(filter) => Some(filter.scope),
        };
        let whose = scope.map_or(Whose::Everyone, |scope| Whose::Tenant(scope.tenant));
        let answer = server.rows(whose, partition, question, ANSWER_BYTES_MAX);
        match find {
            Find::Memory(filter) => server.searches().search(filter.scope.tenant, answer).await,
            _ => answer.await,
        }
    }

    async fn verdicts(&self, partition: Partition, scope: Scope, which: &Which) -> Result<Verdicts, Error> {
        let server = self.server(partition);
        let question = sql::history::verdicts(Dialect::Postgres, partition, scope, which);
        let counted = matches!(which, Which::Matching(_));
        let answer = server.verdicts(scope, question, counted);
        if counted { server.searches().search(scope.tenant, answer).await } else { answer.await }
    }

    async fn heads(&self, partition: Partition, fleets: &[Scope]) -> Result<Heads, Error> {
        let keys: BTreeSet<RowKey> = fleets.iter().copied().map(RowKey::head).collect();
        // They are small, and each is told.
        let found = self.load_into(partition, &keys, usize::MAX).await?;
        let heads: BTreeMap<Scope, &Head> =
            found.rows.iter().filter_map(Head::of).map(|head| (head.scope, head)).collect();
        let head = |scope: &Scope| heads.get(scope).copied().cloned();
        Ok(Heads { heads: fleets.iter().map(head).collect(), applied: found.applied })
    }

    async fn snapshot(&self, partition: Partition) -> Result<Snapshot, Error> {
        snapshot::open(self.server(partition), partition).await
    }

    async fn forget(&self, partition: Partition, before: Offset) -> Result<(), Error> {
        self.drop_history(partition, before).await.map(drop)
    }
}

#[cfg(test)]
mod tests;
