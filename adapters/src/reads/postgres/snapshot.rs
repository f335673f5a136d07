//! All rows at one moment: a connection of its own keeps a transaction open and reads page by page in it. Until it is given back
//! the server keeps what is changed meanwhile, so that it may not take for ever.

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, stream};
use ringforge_domain::{limits::SNAPSHOT, position::Partition, row::Row};
use ringforge_ports::{Error, reads::Snapshot};
use sqlx::{AssertSqlSafe, raw_sql};

use super::{
    ask::rows_now,
    failure::failed,
    server::{Lent, Server},
};
use crate::reads::{
    sql::{self, build::Dialect},
    walk::{Walk, in_time},
};

/// A transaction, and how far it is read.
struct Opened {
    connection: Lent,
    partition: Partition,
    walk: Walk,
}

/// Opens it: nothing of it changes from now on.
pub async fn open(server: &Server, partition: Partition) -> Result<Snapshot, Error> {
    let mut connection = server.project().await?;
    // Whoever writes the pages elsewhere may take its time between two.
    let begin = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL idle_in_transaction_session_timeout = {}",
        SNAPSHOT.as_millis()
    );
    raw_sql(AssertSqlSafe(begin)).execute(&mut *connection).await.map_err(|error| failed("read", &error))?;
    let mut opened = Opened { connection, partition, walk: Walk::default() };
    // The moment is that of the first question.
    let nothing = sql::bodies::named(partition, &BTreeSet::new());
    let applied = rows_now(&mut opened.connection, partition, nothing).await?.applied;
    let rows = stream::unfold(Some(opened), |opened: Option<Opened>| async move {
        let mut opened = opened?;
        match opened.page().await {
            Ok(page) if page.is_empty() => {
                opened.end().await;
                None
            }
            Ok(page) => Some((Ok(page), Some(opened))),
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(Snapshot { applied, rows: in_time(rows.boxed()) })
}

impl Opened {
    /// The next rows; none: those were all.
    async fn page(&mut self) -> Result<Vec<Row>, Error> {
        while let Some(question) = self.walk.question() {
            let sql = sql::find(Dialect::Postgres, self.partition, &question);
            let found = rows_now(&mut self.connection, self.partition, sql).await?;
            let rows = self.walk.pass(found);
            if !rows.is_empty() {
                return Ok(rows);
            }
        }
        Ok(Vec::new())
    }

    /// A connection that cannot end its transaction is closed.
    async fn end(mut self) {
        if raw_sql("COMMIT").execute(&mut *self.connection).await.is_ok() {
            self.connection.give_back();
        }
    }
}
