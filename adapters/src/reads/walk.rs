//! All rows of a partition, page by page, by name.

use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use ringforge_domain::{
    limits::{ROWS_PAGE_MAX, SNAPSHOT},
    row::{Row, RowKey, Table},
};
use ringforge_ports::{
    Error,
    reads::{Find, Found},
};

/// Which page comes next.
#[derive(Default)]
pub(super) struct Walk {
    table: usize,
    after: Option<RowKey>,
}

impl Walk {
    /// The question for it; `None`: there is none.
    pub fn question(&self) -> Option<Find> {
        let table = *Table::ALL.get(self.table)?;
        Some(Find::Table { table, scope: None, after: self.after.clone(), limit: ROWS_PAGE_MAX })
    }

    /// What was found, and on to the next.
    pub fn pass(&mut self, found: Found) -> Vec<Row> {
        self.after = found.rows.last().map(Row::key);
        if found.is_last(ROWS_PAGE_MAX) {
            self.table += 1;
            self.after = None;
        }
        found.rows
    }
}

/// These pages, as long as that does not take longer than it may.
pub(super) fn in_time(
    pages: BoxStream<'static, Result<Vec<Row>, Error>>,
) -> BoxStream<'static, Result<Vec<Row>, Error>> {
    let end = Box::pin(tokio::time::sleep(SNAPSHOT));
    let next = |state: Option<(BoxStream<'static, _>, _)>| async move {
        let (mut pages, mut end) = state?;
        tokio::select! {
            biased;
            () = &mut end => {
                let what = "read all of the read models: it takes too long".to_owned();
                Some((Err(Error::Unavailable(what)), None))
            }
            page = pages.next() => match page? {
                Ok(page) => Some((Ok(page), Some((pages, end)))),
                Err(error) => Some((Err(error), None)),
            },
        }
    };
    stream::unfold(Some((pages, end)), next).boxed()
}
