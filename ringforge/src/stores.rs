//! The stores of a process: opened, and closed in order.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use ringforge_adapters::{
    live::local::MemoryLive,
    log::embedded::{EmbeddedLog, OpenError},
    reads::sqlite::SqliteReads,
};
use ringforge_domain::position::Partition;
use ringforge_ports::{Error, clock::Clock, live::Live, log::Log, names, reads::Reads};
use tracing::{error, warn};

use crate::fatal::Fatal;

/// Partitions of an embedded log: the directory and one pool.
pub const PARTITIONS: u16 = 2;
/// How long the log may take to close.
const CLOSE: Duration = Duration::from_secs(4);

/// The stores in a data directory.
pub struct Stores {
    data: PathBuf,
    log: Arc<EmbeddedLog>,
    reads: Arc<SqliteReads>,
    reads_file: PathBuf,
    live: Arc<dyn Live>,
}

impl Stores {
    /// Opens them, or makes them.
    ///
    /// # Errors
    /// They cannot be opened: one message that names the fix.
    pub async fn open(data: &Path, clock: &Arc<dyn Clock>, fatal: &Fatal) -> anyhow::Result<Self> {
        std::fs::create_dir_all(data).with_context(|| {
            format!("cannot create the data directory {}; choose another with --data", data.display())
        })?;
        let log = open_log(data, clock, fatal.clone())?;
        let generation = log.bounds(Partition::DIRECTORY).await?.generation;
        let reads_file = data.join(names::reads_file(generation));
        let reads = open_reads(&reads_file, &log, fatal).await?;
        let live = MemoryLive::new(Arc::clone(clock));
        Ok(Self { data: data.to_owned(), log, reads, reads_file, live })
    }

    /// The log.
    pub fn log(&self) -> Arc<dyn Log> {
        Arc::clone(&self.log) as Arc<dyn Log>
    }

    /// The read models.
    pub fn reads(&self) -> Arc<dyn Reads> {
        Arc::clone(&self.reads) as Arc<dyn Reads>
    }

    /// The live bus.
    pub fn live(&self) -> Arc<dyn Live> {
        Arc::clone(&self.live)
    }

    /// Closes them. `done`: how the process ended so far.
    ///
    /// # Errors
    /// Why the process had to end.
    pub async fn close(self, fatal: &Fatal, done: anyhow::Result<()>) -> anyhow::Result<()> {
        if tokio::time::timeout(CLOSE, self.log.close()).await.is_err() {
            warn!("the log did not close in time");
        }
        self.reads.close();
        if self.reads.damaged() {
            delete_reads(&self.reads_file)?;
        }
        // What failed first says more than what failed because of it.
        match fatal.reason() {
            Some(reason) if self.log.damaged() => bail!("{reason}. The log is damaged. {}", remedy(&self.data)),
            Some(reason) => bail!("{reason}"),
            None => done,
        }
    }
}

fn open_log(data: &Path, clock: &Arc<dyn Clock>, fatal: Fatal) -> anyhow::Result<Arc<EmbeddedLog>> {
    let path = data.join(names::LOG_FILE);
    let on_fatal = move |error: &Error| {
        error!(%error, "the log cannot be written: the process ends");
        let what = format!("the log cannot be written ({error}); nothing more is acknowledged");
        fatal.fail(format!("{what}. Check the disk and start again"));
    };
    let opened = EmbeddedLog::open_with(&path, PARTITIONS, Arc::clone(clock), Box::new(on_fatal));
    opened.map_err(|error| match error {
        OpenError::Locked { .. } => anyhow::anyhow!(
            "the data directory {} is in use by another process; end that one or choose another with --data",
            data.display()
        ),
        OpenError::Damaged { what } => {
            anyhow::anyhow!("the log in {} is damaged: {what}. {}", data.display(), remedy(data))
        }
        OpenError::Io(error)
            if [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem].contains(&error.kind()) =>
        {
            anyhow::anyhow!(
                "the data directory {} cannot be written ({error}); make it writable or choose another with --data",
                data.display()
            )
        }
        other => anyhow::Error::new(other).context(format!("cannot open the log in {}", data.display())),
    })
}

/// What an operator can do about a damaged log.
pub fn remedy(data: &Path) -> String {
    format!(
        "Restore {} from a backup, or cut it off where it stops being whole with `ringforge log repair --data {}`, or \
         start with another --data",
        data.join(names::LOG_FILE).display(),
        data.display()
    )
}

/// Opens the read models of this log. Those that cannot be used are made anew.
async fn open_reads(path: &Path, log: &EmbeddedLog, fatal: &Fatal) -> anyhow::Result<Arc<SqliteReads>> {
    let mut reads = usable_reads(path, log).await;
    if let Err(Error::Corrupt(what)) = &reads {
        warn!(what, "the read models are made anew");
        delete_reads(path)?;
        reads = usable_reads(path, log).await;
    }
    let reads = reads.with_context(|| format!("cannot open the read models in {}", path.display()))?;
    let fatal = fatal.clone();
    reads.on_damage(Box::new(move |error| {
        error!(%error, "the read models are damaged: the process ends");
        fatal.fail(format!("the read models are damaged ({error}): start again, and they are made anew"));
    }));
    Ok(reads)
}

fn delete_reads(path: &Path) -> anyhow::Result<()> {
    SqliteReads::delete(path).with_context(|| format!("cannot delete the read models in {}", path.display()))
}

/// `Corrupt`: they are damaged, or ahead of the log (a disk lost its end, a backup was restored).
async fn usable_reads(path: &Path, log: &EmbeddedLog) -> Result<Arc<SqliteReads>, Error> {
    let reads = SqliteReads::open(path).await?;
    for partition in (0..PARTITIONS).map(Partition) {
        let applied = reads.load(partition, &BTreeSet::new()).await?.applied.upto;
        let end = log.bounds(partition).await?.end;
        if applied > end {
            let (number, applied, end) = (partition.0, applied.0, end.0);
            return Err(Error::Corrupt(format!(
                "partition {number} of the log ends at {end}, they stand at {applied}"
            )));
        }
    }
    Ok(reads)
}
