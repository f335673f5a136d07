//! The one writer: it joins what waits into transactions. Beside it a thread that empties the write-ahead log.

use std::{collections::BTreeSet, fs::File, io, ops::ControlFlow, path::Path, sync::Arc, thread};

use ringforge_domain::{
    limits,
    position::{LogTime, Offset, Partition},
};
use ringforge_ports::{
    Error,
    clock::Clock,
    log::{Placed, Record, Stored},
};
use rusqlite::{Connection, OptionalExtension, config::DbConfig};

use super::{
    OpenError,
    file::{self, LogFile, State, Sums},
    readers::Readers,
    shared::{Operation, Shared},
};
use crate::checkpoints::{Checkpoints, checkpoint};

pub(super) struct Writer {
    connection: Connection,
    sums: Sums,
    partitions: Vec<State>,
    /// Those that may hold rows below their `oldest`.
    trimmed: BTreeSet<u16>,
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    clock: Arc<dyn Clock>,
    checkpoints: Checkpoints,
    /// Last: the file is freed when everything else is done.
    lock: File,
}

/// A group that is durable and not yet told to anyone.
struct Committed {
    partitions: Vec<State>,
    /// By partition.
    batches: Vec<Vec<Stored>>,
    /// By operation; none for a trim.
    places: Vec<Vec<Placed>>,
}

impl Writer {
    pub(super) fn new(
        path: &Path,
        file: LogFile,
        shared: Arc<Shared>,
        readers: Arc<Readers>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        let LogFile { connection, sums, partitions, lock, .. } = file;
        let checkpoints = checkpoints(path, Arc::clone(&shared))?;
        // A trim that was cut short is finished now.
        let trimmed =
            (0..).zip(&partitions).filter(|(_, state)| state.oldest > Offset::ZERO).map(|(id, _)| id).collect();
        Ok(Self { connection, sums, partitions, trimmed, shared, readers, clock, checkpoints, lock })
    }

    /// Writes until the log is closed or dead, then ends every other thread and frees the file.
    pub(super) fn run(mut self) {
        let guard = EndOnPanic(Arc::clone(&self.shared));
        while let Some(group) = self.shared.next_group(self.trimmed.is_empty()) {
            if let Err(error) = self.step(group) {
                kill(&self.shared, &error);
                break;
            }
        }
        self.shared.tails.end(Error::Closed);
        drop(guard);
        self.readers.stop();
        self.checkpoints.stop();
        if let Err(error) = self.leave() {
            // What is in the write-ahead log is durable: the next start only has more to read.
            tracing::error!("empty the log's write-ahead log: {error}");
        }
        drop((self.connection, self.lock));
    }

    /// Writes one group, tells everyone, tidies up.
    fn step(&mut self, group: Vec<Operation>) -> rusqlite::Result<()> {
        if !group.is_empty() {
            match self.commit(&group) {
                // A checkpoint may have failed meanwhile; then nothing is vouched for.
                Ok(_) if self.shared.dead() => doubt(group, &Error::Unavailable("the log has stopped".into())),
                Ok(committed) => self.tell(group, committed),
                Err(error) => {
                    doubt(group, &writing(&error));
                    return Err(error);
                }
            }
        }
        self.delete_trimmed()?;
        if self.shared.wal_pages() > limits::WAL_PAGES_MAX {
            checkpoint(&self.connection, "PASSIVE")?;
            self.shared.set_wal_pages(0);
        }
        Ok(())
    }

    fn commit(&mut self, group: &[Operation]) -> rusqlite::Result<Committed> {
        let wall = self.clock.wall();
        let mut done = Committed {
            partitions: self.partitions.clone(),
            batches: self.partitions.iter().map(|_| Vec::new()).collect(),
            places: Vec::with_capacity(group.len()),
        };
        execute(&self.connection, "BEGIN IMMEDIATE")?;
        for operation in group {
            match operation {
                Operation::Append { partition, records, .. } => {
                    let state = &mut done.partitions[usize::from(partition.0)];
                    let batch = &mut done.batches[usize::from(partition.0)];
                    let first = batch.len();
                    insert(&self.connection, self.sums, *partition, (state, wall), records, batch)?;
                    let place = |stored: &Stored| Placed { offset: stored.offset, time: stored.time };
                    done.places.push(batch[first..].iter().map(place).collect());
                }
                Operation::Trim { partition, before, .. } => {
                    let state = &mut done.partitions[usize::from(partition.0)];
                    trim(&self.connection, *partition, state, *before)?;
                    done.places.push(Vec::new());
                }
            }
        }
        execute(&self.connection, "COMMIT")?;
        Ok(done)
    }

    /// Shows the records to the readers, then answers those who asked.
    fn tell(&mut self, group: Vec<Operation>, committed: Committed) {
        let Committed { partitions, batches, places } = committed;
        for ((partition, batch), (state, before)) in
            (0..).map(Partition).zip(batches).zip(partitions.iter().zip(&self.partitions))
        {
            if !batch.is_empty() {
                self.shared.tails.publish(partition, batch.into());
            }
            if state.oldest != before.oldest {
                self.shared.tails.forget(partition, state.oldest);
                self.trimmed.insert(partition.0);
            }
        }
        self.partitions = partitions;
        self.shared.wrote();
        for (operation, places) in group.into_iter().zip(places) {
            // Whoever asked may have left.
            match operation {
                Operation::Append { reply, .. } => drop(reply.send(Ok(places))),
                Operation::Trim { reply, .. } => drop(reply.send(Ok(()))),
            }
        }
    }

    /// Empties the write-ahead log, unless the disk can no longer be trusted: then the file is left as it is.
    fn leave(&self) -> rusqlite::Result<()> {
        if self.shared.dead() {
            return self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map(drop);
        }
        file::note_ends(&self.connection, &self.partitions)?;
        checkpoint(&self.connection, "TRUNCATE").map(drop)
    }

    /// Deletes one slice of what is trimmed, so that appends get their turn.
    fn delete_trimmed(&mut self) -> rusqlite::Result<()> {
        let Some(&id) = self.trimmed.first() else { return Ok(()) };
        let (partition, oldest) = (Partition(id), self.partitions[usize::from(id)].oldest);
        let (start, end) = (file::row_id(partition, Offset::ZERO), file::row_id(partition, oldest));
        let select = "SELECT id FROM records WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT 1";
        let first: Option<i64> =
            self.connection.prepare_cached(select)?.query_row([start, end], |row| row.get(0)).optional()?;
        let Some(first) = first else {
            self.trimmed.remove(&id);
            return Ok(());
        };
        let upto = end.min(first.saturating_add_unsigned(limits::DELETED_MAX));
        self.connection.prepare_cached("DELETE FROM records WHERE id >= ?1 AND id < ?2")?.execute([first, upto])?;
        self.shared.wrote();
        Ok(())
    }
}

fn insert(
    connection: &Connection,
    sums: Sums,
    partition: Partition,
    (state, wall): (&mut State, LogTime),
    records: &[Record],
    batch: &mut Vec<Stored>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(file::INSERT)?;
    state.newest = state.newest.max(wall);
    for record in records {
        assert!(state.end < Offset::LIMIT, "a partition is full after 2^43 records");
        let stored = Stored { offset: state.end, time: state.newest, record: record.clone() };
        file::insert(&mut statement, sums, partition, &stored)?;
        batch.push(stored);
        state.end = state.end.next();
    }
    Ok(())
}

/// Records what is forgotten. The rows are deleted later, in slices: this row, not what is left, says where a partition
/// stands.
fn trim(connection: &Connection, partition: Partition, state: &mut State, before: Offset) -> rusqlite::Result<()> {
    state.oldest = before.clamp(state.oldest, state.end);
    file::note(connection, partition, state)
}

fn execute(connection: &Connection, statement: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(statement)?.execute([]).map(drop)
}

fn writing(error: &rusqlite::Error) -> Error {
    Error::Unavailable(format!("write the log: {error}"))
}

fn doubt(group: Vec<Operation>, error: &Error) {
    for operation in group {
        operation.doubt(error.clone());
    }
}

/// After a failed write nothing can be vouched for: what the disk kept is known only after a restart.
fn kill(shared: &Shared, error: &rusqlite::Error) {
    let error = writing(error);
    shared.die(&error);
    shared.fatal(&error);
}

/// Empties the write-ahead log beside the writer.
fn checkpoints(path: &Path, shared: Arc<Shared>) -> Result<Checkpoints, OpenError> {
    let connection = file::connect(path).map_err(io::Error::other)?;
    let mut seen = 0;
    let step = move || {
        let commits = shared.commits();
        if commits == seen {
            return ControlFlow::Continue(());
        }
        seen = commits;
        match checkpoint(&connection, "PASSIVE") {
            Ok(pages) => shared.set_wal_pages(pages),
            Err(error) => {
                kill(&shared, &error);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    };
    Ok(Checkpoints::start("log-checkpoint", step)?)
}

/// Nobody may wait for a writer that is no more.
struct EndOnPanic(Arc<Shared>);

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            let error = Error::Unavailable("the log writer panicked".into());
            self.0.die(&error);
            self.0.fatal(&error);
        }
    }
}
