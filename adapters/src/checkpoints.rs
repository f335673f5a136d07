//! The thread beside a writer that moves the write-ahead log into its file, so that no write waits for it.

use std::{
    io,
    ops::ControlFlow,
    sync::mpsc::{self, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode};

/// How often the write-ahead log is moved into the file.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(200);

/// The thread. Dropping it ends it.
pub(crate) struct Checkpoints {
    stop: Option<mpsc::SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpoints {
    /// Calls `work` again and again until it breaks.
    pub(crate) fn start(name: &str, mut work: impl FnMut() -> ControlFlow<()> + Send + 'static) -> io::Result<Self> {
        let (stop, stopped) = mpsc::sync_channel(0);
        let thread = thread::Builder::new().name(name.into()).spawn(move || {
            while stopped.recv_timeout(CHECKPOINT_EVERY) == Err(RecvTimeoutError::Timeout) {
                if work().is_break() {
                    return;
                }
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    pub(crate) fn stop(&mut self) {
        self.stop = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a checkpoint thread panicked");
        }
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Moves the write-ahead log into the file; gives its pages. A reader or the writer may hold some back until the next time.
pub(crate) fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<u64> {
    let pages = connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| row.get::<_, i64>(1));
    match pages {
        Ok(pages) => Ok(u64::try_from(pages).unwrap_or(0)),
        Err(error) if busy(&error) => Ok(0),
        Err(error) => Err(error),
    }
}

fn busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}
