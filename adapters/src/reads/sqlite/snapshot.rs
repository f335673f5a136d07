//! All rows at one moment: a connection of its own keeps a transaction open and reads page by page in it. Until it is closed the
//! write-ahead log cannot start over, so that it may not take for ever.

use std::path::Path;

use futures_util::{StreamExt as _, stream};
use ringforge_domain::{position::Partition, row::Row};
use ringforge_ports::{
    Error,
    reads::{Applied, Snapshot},
};
use rusqlite::{Connection, OptionalExtension as _};

use super::{applied, connect_reader, failed, find_now, prepare, reading};
use crate::reads::{
    sql::{self, build::Dialect},
    walk::{Walk, in_time},
};

/// A transaction, and how far it is read.
struct Opened {
    connection: Connection,
    partition: Partition,
    walk: Walk,
}

/// Opens it: nothing of it changes from now on.
pub(super) async fn open(path: &Path, partition: Partition) -> Result<Snapshot, Error> {
    let path = path.to_owned();
    let (opened, applied) = blocking(move || Opened::begin(&path, partition)).await?;
    let rows = stream::unfold(Some(opened), move |opened: Option<Opened>| async move {
        let mut opened = opened?;
        let page = blocking(move || {
            let page = opened.page()?;
            Ok((page, opened))
        });
        match page.await {
            Ok((page, _)) if page.is_empty() => None,
            Ok((page, opened)) => Some((Ok(page), Some(opened))),
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(Snapshot { applied, rows: in_time(rows.boxed()) })
}

impl Opened {
    fn begin(path: &Path, partition: Partition) -> Result<(Self, Applied), Error> {
        let connection = connect_reader(path)?;
        // The moment is that of the first question.
        connection.execute_batch("BEGIN").map_err(|error| failed("read", &error))?;
        let stands = prepare(&connection, sql::APPLIED)?
            .query_row([i64::from(partition.0)], |row| Ok(applied(row.get(0)?, row.get(1)?)))
            .optional()
            .map_err(|error| reading(&error))?;
        Ok((Self { connection, partition, walk: Walk::default() }, stands.unwrap_or_default()))
    }

    /// The next rows; none: those were all.
    fn page(&mut self) -> Result<Vec<Row>, Error> {
        while let Some(question) = self.walk.question() {
            let sql = sql::find(Dialect::Sqlite, self.partition, &question);
            let rows = self.walk.pass(find_now(&self.connection, self.partition, &sql)?);
            if !rows.is_empty() {
                return Ok(rows);
            }
        }
        Ok(Vec::new())
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Error::Unavailable(format!("read the read models: {error}"))))
}
