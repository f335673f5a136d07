//! Writing: one thread with the only connection that writes.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use ringforge_domain::{
    ids::Scope,
    limits::{FORGOTTEN_AT_ONCE, UNREAD_AT_ONCE, UNREAD_MAX, WAL_PAGES_MAX},
    position::Partition,
    row::Table,
};
use ringforge_ports::{Error, reads::Applied};
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    applied, connect_writer, failed,
    pending::{EndOnPanic, Next, Pending},
};
use crate::{
    checkpoints::{Checkpoints, checkpoint},
    reads::{
        batch::{Batch, RowLine, RowNow, SearchLine, VerdictLine, tags_in},
        sql,
    },
};

/// How long nobody must have committed before what searches look at is brought up to date.
const QUIET: Duration = Duration::from_millis(100);

/// Before every scope and id.
const START: (i64, i64) = (i64::MIN, i64::MIN);

/// The thread that writes.
pub(super) struct Writer {
    pending: Arc<Pending>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub fn start(path: &Path) -> Result<Self, Error> {
        let connection = connect_writer(path)?;
        let unread = connection.query_row(sql::COUNT_UNREAD, [], |row| row.get::<_, i64>(0));
        let unread = unread.map_err(|error| failed("open", &error))?.unsigned_abs();
        let wal = Arc::new(Wal::default());
        let checkpoints = checkpoints(path, Arc::clone(&wal))?;
        let pen = Pen { connection, scopes: BTreeMap::new(), unread, read_upto: START, wal };
        let pending = Arc::new(Pending::new(pen.stands().map_err(|error| failed("open", &error))?));
        let waiting = Arc::clone(&pending);
        let thread = thread::Builder::new().name("reads-writer".into()).spawn(move || run(pen, &waiting, checkpoints));
        let thread = thread.map_err(|error| Error::Unavailable(format!("start the writer: {error}")))?;
        Ok(Self { pending, thread: Mutex::new(Some(thread)) })
    }

    /// What waits to be written.
    pub fn pending(&self) -> &Pending {
        &self.pending
    }

    /// Writes what waits, then closes the file.
    pub fn end(&self) {
        self.pending.end();
        if lock(&self.thread).take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the writer of the read models panicked");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic while the lock is held")
}

/// What the writer and the thread that empties its write-ahead log know of each other.
#[derive(Default)]
struct Wal {
    commits: AtomicU64,
    pages: AtomicU64,
}

fn checkpoints(path: &Path, wal: Arc<Wal>) -> Result<Checkpoints, Error> {
    let connection = connect_writer(path)?;
    let mut seen = 0;
    let step = move || {
        let commits = wal.commits.load(Ordering::Relaxed);
        if commits != seen {
            seen = commits;
            match checkpoint(&connection, "PASSIVE") {
                Ok(pages) => wal.pages.store(pages, Ordering::Relaxed),
                // What is not in the file is in the write-ahead log: nothing is lost, only longer.
                Err(error) => tracing::warn!("checkpoint of the read models: {error}"),
            }
        }
        ControlFlow::Continue(())
    };
    let started = Checkpoints::start("reads-checkpoint", step);
    started.map_err(|error| Error::Unavailable(format!("start the checkpoints: {error}")))
}

fn run(mut pen: Pen, pending: &Pending, mut checkpoints: Checkpoints) {
    let _guard = EndOnPanic(pending);
    loop {
        match pending.next((pen.unread > 0).then_some(QUIET)) {
            Next::Write(group) => {
                match pen.transaction(|pen| pen.commit(group.iter().flat_map(|(_, batches)| &**batches))) {
                    Ok(()) => pending.wrote(&group),
                    Err(error @ Error::Conflict(_)) => match pen.stands() {
                        Ok(stands) => pending.dropped(stands, error),
                        Err(error) => pending.failed(failed("read", &error)),
                    },
                    Err(error) => pending.failed(error),
                }
            }
            Next::Forget => {}
            Next::Quiet => {
                if let Err(error) = pen.transaction(Pen::read_up) {
                    tracing::warn!(%error, "entries could not be made searchable yet");
                }
            }
            Next::End => break,
        }
        if let Some((from, before)) = pending.forgetting()
            && pen.forget_some(from, before)
        {
            pending.forgot(from, before);
        }
        pen.shorten();
    }
    checkpoints.stop();
    if let Err(error) = checkpoint(&pen.connection, "TRUNCATE") {
        tracing::warn!("empty the read models' write-ahead log: {error}");
    }
}

/// The connection that writes, and what it remembers.
struct Pen {
    connection: Connection,
    /// The numbers of scopes.
    scopes: BTreeMap<Scope, i64>,
    /// Entries whose words are not up to date, at most.
    unread: u64,
    /// The scope and id up to which words were read the last time: every fleet has its turn, however much another writes.
    read_upto: (i64, i64),
    wal: Arc<Wal>,
}

/// What went wrong with a transaction: nothing of it is written.
enum Undone {
    Conflict(String),
    Failed(rusqlite::Error),
}

impl From<rusqlite::Error> for Undone {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error)
    }
}

impl Pen {
    fn transaction(&mut self, work: impl FnOnce(&mut Self) -> Result<(), Undone>) -> Result<(), Error> {
        self.execute("BEGIN IMMEDIATE").map_err(|error| failed("write", &error))?;
        let unread = self.unread;
        let done = work(self).and_then(|()| Ok(self.execute("COMMIT")?));
        self.wal.commits.fetch_add(1, Ordering::Relaxed);
        let Err(undone) = done else { return Ok(()) };
        // Numbers that were given in it are not given.
        self.scopes.clear();
        self.unread = unread;
        if !self.connection.is_autocommit() {
            self.execute("ROLLBACK").map_err(|error| failed("write", &error))?;
        }
        Err(match undone {
            Undone::Conflict(what) => Error::Conflict(what),
            Undone::Failed(error) => failed("write", &error),
        })
    }

    fn execute(&self, statement: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(statement)?.execute([]).map(drop)
    }

    /// Where each partition stands.
    fn stands(&self) -> rusqlite::Result<BTreeMap<Partition, Applied>> {
        let mut stands = self.connection.prepare_cached(sql::STANDS)?;
        let each = stands.query_map([], |row| Ok((Partition(row.get(0)?), applied(row.get(1)?, row.get(2)?))))?;
        each.collect()
    }

    fn commit<'a>(&mut self, batches: impl Iterator<Item = &'a Batch>) -> Result<(), Undone> {
        for batch in batches {
            let Batch { partition, previous, upto, time, .. } = batch;
            let advanced = self.connection.prepare_cached(sql::ADVANCE)?.execute([partition, previous, upto, time])?;
            if advanced == 0 {
                return Err(Undone::Conflict(format!("partition {partition} does not stand at {previous}")));
            }
            for line in &batch.rows {
                self.row(*partition, *upto, line)?;
            }
            for line in &batch.verdicts {
                self.verdict(line)?;
            }
        }
        // So many are not left for searches to look at one by one.
        while self.unread > UNREAD_MAX {
            self.read_up()?;
        }
        Ok(())
    }

    /// The number of a scope, given now if it has none.
    fn scope(&mut self, scope: Scope) -> rusqlite::Result<i64> {
        if let Some(id) = self.scopes.get(&scope) {
            return Ok(*id);
        }
        let names = [scope.tenant.to_string(), scope.fleet.to_string()];
        let known =
            self.connection.prepare_cached(sql::SCOPE)?.query_row(names.clone(), |row| row.get(0)).optional()?;
        let id = match known {
            Some(id) => id,
            None => self.connection.prepare_cached(sql::PUT_SCOPE)?.insert(names)?,
        };
        self.scopes.insert(scope, id);
        Ok(id)
    }

    fn row(&mut self, partition: i64, upto: i64, line: &RowLine) -> rusqlite::Result<()> {
        let scope = self.scope(line.scope)?;
        let (kind, key) = (line.table.text(), line.key.as_str());
        match &line.now {
            Some(RowNow { due_at, owner, place, listed, body, .. }) => {
                let mut put = self.connection.prepare_cached(sql::PUT_ROW)?;
                put.execute(params![partition, kind, scope, key, due_at, owner, place, listed, upto, body])?;
            }
            None => {
                self.connection.prepare_cached(sql::REMOVE_ROW)?.execute(params![partition, kind, scope, key])?;
            }
        }
        if line.table != Table::Memory {
            return Ok(());
        }
        let unread = match line.now.as_ref().and_then(|now| now.search.as_ref()) {
            Some(search) => self.search(partition, scope, key, search)?,
            None => self.unsearch(partition, scope, key)?,
        };
        if let Some(id) = unread {
            self.unread += self.connection.prepare_cached(sql::PUT_UNREAD)?.execute([scope, id])? as u64;
        }
        Ok(())
    }

    /// Changes what searches look at. Gives the id of the entry if its text is another.
    fn search(&self, partition: i64, scope: i64, key: &str, now: &SearchLine) -> rusqlite::Result<Option<i64>> {
        let known = self.connection.prepare_cached(sql::MEMORY)?.query_row(
            params![partition, scope, key, now.text, now.expires_at],
            |row| {
                Ok((
                    row.get::<_, i64>(0)?,
                    row.get::<_, Option<String>>(1)?,
                    row.get::<_, bool>(2)?,
                    row.get::<_, bool>(3)?,
                ))
            },
        );
        let SearchLine { expires_at, created_at, updated_at, author, lower_key, tags, metadata, text } = now;
        let Some((id, tags_before, same_text, same_end)) = known.optional()? else {
            let id = self.connection.prepare_cached(sql::PUT_MEMORY)?.insert(params![
                partition, scope, key, expires_at, created_at, updated_at, author, lower_key, tags, metadata, text
            ])?;
            self.tags(partition, scope, id, None, tags.as_deref())?;
            return Ok(Some(id));
        };
        let mut change = self.connection.prepare_cached(sql::CHANGE_MEMORY)?;
        change.execute(params![id, created_at, updated_at, author, tags, metadata, text])?;
        if !same_end {
            self.connection.prepare_cached(sql::END_MEMORY)?.execute(params![id, expires_at])?;
        }
        self.tags(partition, scope, id, tags_before.as_deref(), tags.as_deref())?;
        Ok((!same_text).then_some(id))
    }

    /// Searches find it no more. Gives the id that it had.
    fn unsearch(&self, partition: i64, scope: i64, key: &str) -> rusqlite::Result<Option<i64>> {
        let none: Option<i64> = None;
        let known = self
            .connection
            .prepare_cached(sql::MEMORY)?
            .query_row(params![partition, scope, key, "", none], |row| Ok((row.get(0)?, row.get(1)?)));
        let Some((id, tags)): Option<(i64, Option<String>)> = known.optional()? else { return Ok(None) };
        self.connection.prepare_cached(sql::REMOVE_MEMORY)?.execute([id])?;
        self.tags(partition, scope, id, tags.as_deref(), None)?;
        Ok(Some(id))
    }

    fn tags(
        &self,
        partition: i64,
        scope: i64,
        id: i64,
        before: Option<&str>,
        after: Option<&str>,
    ) -> rusqlite::Result<()> {
        if before == after {
            return Ok(());
        }
        for (statement, tags) in [(sql::REMOVE_MEMORY_TAG, before), (sql::PUT_MEMORY_TAG, after)] {
            for tag in tags_in(tags.unwrap_or_default()) {
                self.connection.prepare_cached(statement)?.execute(params![partition, scope, tag, id])?;
            }
        }
        Ok(())
    }

    fn verdict(&mut self, line: &VerdictLine) -> rusqlite::Result<()> {
        let scope = self.scope(line.scope)?;
        let VerdictLine { place, time, stream, label, subject, agent, routed, parties, body, tags, .. } = line;
        self.connection.prepare_cached(sql::PUT_VERDICT)?.execute(params![place, body])?;
        let mut put = self.connection.prepare_cached(sql::PUT_HISTORY)?;
        put.execute(params![scope, place, time, stream, label, subject, agent, routed, parties])?;
        for (tag, tagged, routed) in tags {
            self.connection.prepare_cached(sql::PUT_TAG)?.execute(params![scope, tag, place, tagged, routed])?;
        }
        Ok(())
    }

    /// Reads the words of some entries whose text has changed. Texts that change often are read once, and many at once cost
    /// a fraction of each alone.
    fn read_up(&mut self) -> Result<(), Undone> {
        let mut unread = self.connection.prepare_cached(sql::UNREAD)?;
        let (scope, id) = self.read_upto;
        let texts = unread.query_map([UNREAD_AT_ONCE, scope, id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let mut texts: Vec<(i64, i64, Option<String>)> = texts.collect::<rusqlite::Result<_>>()?;
        // Past the last one it begins anew.
        self.read_upto = texts.last().map_or(START, |(scope, id, _)| (*scope, *id));
        // The index of words writes out what it has gathered whenever an id is smaller than the one before.
        texts.sort_unstable_by_key(|(_, id, _)| *id);
        for (scope, id, text) in &texts {
            self.connection.prepare_cached(sql::REMOVE_WORDS)?.execute([id])?;
            if let Some(text) = text {
                self.connection.prepare_cached(sql::PUT_WORDS)?.execute(params![id, text])?;
            }
            self.connection.prepare_cached(sql::REMOVE_UNREAD)?.execute([scope, id])?;
        }
        self.unread = self.unread.saturating_sub(texts.len() as u64);
        if texts.is_empty() && (scope, id) == START {
            self.unread = 0;
        }
        Ok(())
    }

    /// Forgets some verdicts of a range of places; says whether that were all, or it goes wrong.
    fn forget_some(&mut self, from: i64, before: i64) -> bool {
        let mut last = false;
        let forget = |pen: &mut Self| {
            last = pen.forget(from, before)?;
            Ok(())
        };
        match self.transaction(forget) {
            Ok(()) => last,
            Err(error) => {
                tracing::warn!(%error, "old verdicts could not be forgotten");
                true
            }
        }
    }

    fn forget(&mut self, from: i64, before: i64) -> Result<bool, Undone> {
        let old: Vec<(i64, String)> = {
            let mut old = self.connection.prepare_cached(sql::OLD_VERDICTS)?;
            let old = old.query_map(params![from, before, FORGOTTEN_AT_ONCE], |row| Ok((row.get(0)?, row.get(1)?)))?;
            old.collect::<rusqlite::Result<_>>()?
        };
        for (place, body) in &old {
            let line = serde_json::from_str(body).ok().and_then(|verdict| VerdictLine::of(*place, &verdict).ok());
            // By what it is found stands in it: what cannot be read is found no more.
            if let Some(line) = line {
                let scope = self.scope(line.scope)?;
                self.connection.prepare_cached(sql::REMOVE_HISTORY)?.execute([scope, *place])?;
                for (tag, ..) in &line.tags {
                    self.connection.prepare_cached(sql::REMOVE_TAG)?.execute(params![scope, tag, place])?;
                }
            }
            self.connection.prepare_cached(sql::REMOVE_VERDICT)?.execute([place])?;
        }
        Ok(old.len() < FORGOTTEN_AT_ONCE as usize)
    }

    /// Keeps the write-ahead log short: only while nobody writes can all of it be moved, and only then does it start over.
    fn shorten(&self) {
        if self.wal.pages.load(Ordering::Relaxed) <= WAL_PAGES_MAX {
            return;
        }
        self.wal.pages.store(0, Ordering::Relaxed);
        if let Err(error) = checkpoint(&self.connection, "PASSIVE") {
            tracing::warn!("checkpoint of the read models: {error}");
        }
    }
}
