//! The stores of a process, each chosen by its URL: opened, and closed in order. Those in files are the data directory's; those
//! on servers are in `cluster`.

#[cfg(feature = "cluster")]
mod cluster;
#[cfg(not(feature = "cluster"))]
#[path = "stores/alone.rs"]
mod cluster;

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use futures_util::future::BoxFuture;
use ringforge_adapters::{
    live::local::MemoryLive,
    log::embedded::{EmbeddedLog, OpenError},
    reads::sqlite::SqliteReads,
};
use ringforge_domain::position::Partition;
use ringforge_ports::{Error, clock::Clock, live::Live, log::Log, names, reads::Reads};
use tracing::{error, warn};

use crate::{
    config::{Config, StoreUrls},
    fatal::Fatal,
};

/// Partitions of an embedded log: the directory and one pool.
pub const PARTITIONS: u16 = 2;
/// How long a store may take to close.
const CLOSE: Duration = Duration::from_secs(4);

/// The stores of a process.
pub struct Stores {
    /// The truth.
    pub log: Arc<dyn Log>,
    /// What was made of it.
    pub reads: Arc<dyn Reads>,
    /// The fast path.
    pub live: Arc<dyn Live>,
    /// Those that are files.
    files: Files,
    /// What ends those on servers.
    closing: Vec<BoxFuture<'static, ()>>,
}

/// The stores in a data directory.
struct Files {
    data: PathBuf,
    log: Option<Arc<EmbeddedLog>>,
    reads: Option<(Arc<SqliteReads>, PathBuf)>,
}

impl Stores {
    /// Opens them, or makes those that are files.
    ///
    /// # Errors
    /// They cannot be opened: one message that names the fix.
    pub async fn open(config: &Config, clock: &Arc<dyn Clock>, fatal: &Fatal) -> anyhow::Result<Self> {
        let (data, StoreUrls { log, reads, live }) = (&config.server.data, &config.stores);
        std::fs::create_dir_all(data).with_context(|| {
            format!("cannot create the data directory {}; choose another with --data", data.display())
        })?;
        let mut files = Files { data: data.clone(), log: None, reads: None };
        let mut closing = Vec::new();
        let log: Arc<dyn Log> = match scheme(log) {
            "file" => Arc::clone(files.log.insert(open_log(data, clock, fatal.clone())?)) as _,
            "kafka" => cluster::log(log, fatal, &mut closing).await?,
            _ => bail!("stores.log must be file: or kafka://HOST:PORT, not {}:", scheme(log)),
        };
        let reads: Arc<dyn Reads> = match scheme(reads) {
            "sqlite" => {
                let generation = log.bounds(Partition::DIRECTORY).await?.generation;
                let file = data.join(names::reads_file(generation));
                let reads = open_reads(&file, &*log, fatal).await?;
                files.reads = Some((Arc::clone(&reads), file));
                reads
            }
            "postgres" => cluster::reads(reads, &*log, &mut closing).await?,
            _ => bail!("stores.reads must be sqlite: or postgres://USER@HOST/DATABASE, not {}:", scheme(reads)),
        };
        let live: Arc<dyn Live> = match scheme(live) {
            "memory" => MemoryLive::new(Arc::clone(clock)),
            "redis" => cluster::live(live).await?,
            _ => bail!("stores.live must be memory: or redis://HOST:PORT, not {}:", scheme(live)),
        };
        Ok(Self { log, reads, live, files, closing })
    }

    /// Whether nobody else can have the log.
    pub fn is_alone(&self) -> bool {
        self.files.log.is_some()
    }

    /// Closes them. `done`: how the process ended so far.
    ///
    /// # Errors
    /// Why the process had to end.
    pub async fn close(self, fatal: &Fatal, done: anyhow::Result<()>) -> anyhow::Result<()> {
        let Files { data, log, reads } = &self.files;
        let mut closing = self.closing;
        if let Some(log) = log.clone() {
            closing.push(Box::pin(async move { log.close().await }));
        }
        for closed in closing {
            if tokio::time::timeout(CLOSE, closed).await.is_err() {
                warn!("a store did not close in time");
            }
        }
        if let Some((reads, file)) = reads {
            reads.close();
            if reads.damaged() {
                delete_reads(file)?;
            }
        }
        let damaged = log.as_ref().is_some_and(|log| log.damaged());
        // What failed first says more than what failed because of it.
        match fatal.reason() {
            Some(reason) if damaged => bail!("{reason}. The log is damaged. {}", remedy(data)),
            Some(reason) => bail!("{reason}"),
            None => done,
        }
    }
}

/// What a URL begins with. Nothing else of it may be told: it may have a password.
fn scheme(url: &str) -> &str {
    url.split_once(':').map_or("", |(scheme, _)| scheme)
}

/// `Corrupt`: the read models are ahead of the log (a disk lost its end, a backup was restored).
async fn check_upto(reads: &dyn Reads, log: &dyn Log) -> Result<(), Error> {
    for partition in (0..log.partitions()).map(Partition) {
        let applied = reads.load(partition, &BTreeSet::new()).await?.applied.upto;
        let end = log.bounds(partition).await?.end;
        if applied > end {
            let (number, applied, end) = (partition.0, applied.0, end.0);
            return Err(Error::Corrupt(format!(
                "partition {number} of the log ends at {end}, they stand at {applied}"
            )));
        }
    }
    Ok(())
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
async fn open_reads(path: &Path, log: &dyn Log, fatal: &Fatal) -> anyhow::Result<Arc<SqliteReads>> {
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

/// `Corrupt`: they are damaged, or ahead of the log.
async fn usable_reads(path: &Path, log: &dyn Log) -> Result<Arc<SqliteReads>, Error> {
    let reads = SqliteReads::open(path).await?;
    check_upto(&*reads, log).await?;
    Ok(reads)
}
