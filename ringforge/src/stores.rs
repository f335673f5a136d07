//! The stores of a process, each chosen by its URL: opened, and closed in order. Those in files are the data directory's; those
//! on servers are in `cluster`.

#[cfg(feature = "cluster")]
mod cluster;
#[cfg(not(feature = "cluster"))]
#[path = "stores/alone.rs"]
mod cluster;

use std::{
    collections::BTreeSet,
    fmt,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use futures_util::future::BoxFuture;
use ringforge_adapters::{
    blobs::lazy::LazyBlobs,
    live::local::MemoryLive,
    log::embedded::{EmbeddedLog, OpenError},
    reads::sqlite::SqliteReads,
};
use ringforge_domain::position::{Generation, Offset, Partition};
use ringforge_ports::{
    Error,
    blobs::Blobs,
    clock::{Clock, SystemClock, SystemIds},
    live::Live,
    log::Log,
    names,
    reads::Reads,
};
use ringforge_projectors::checkpoint::{self, Source};
use tracing::{error, info, warn};

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
    /// What is too large for the log.
    pub blobs: Arc<dyn Blobs>,
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
        let (data, StoreUrls { log, reads, live, .. }) = (&config.server.data, &config.stores);
        std::fs::create_dir_all(data).with_context(|| {
            format!("cannot create the data directory {}; choose another with --data", data.display())
        })?;
        let mut files = Files { data: data.clone(), log: None, reads: None };
        let mut closing = Vec::new();
        let log = any_log(log, &mut files, clock, fatal, &mut closing).await?;
        let blobs = Self::open_blobs(config, clock).await?;
        let reads: Arc<dyn Reads> = match scheme(reads) {
            "sqlite" => {
                let generation = log.bounds(Partition::DIRECTORY).await?.generation;
                let file = data.join(names::reads_file(generation));
                use_rebuilt(data, generation, &file)?;
                let reads = open_reads(&file, Source { log: &*log, blobs: &*blobs }, fatal).await?;
                files.reads = Some((Arc::clone(&reads), file));
                reads
            }
            "postgres" => cluster::reads(reads, &*log, &mut closing).await?,
            _ => bail!("{} must be sqlite: or postgres://USER@HOST/DATABASE, not {}:", setting("reads"), scheme(reads)),
        };
        let live: Arc<dyn Live> = match scheme(live) {
            "memory" => MemoryLive::new(Arc::clone(clock)),
            "redis" | "rediss" => cluster::live(live).await?,
            _ => bail!("{} must be memory: or redis://HOST:PORT, not {}:", setting("live"), scheme(live)),
        };
        Ok(Self { log, reads, live, blobs, files, closing })
    }

    /// Opens the objects alone.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_blobs(config: &Config, clock: &Arc<dyn Clock>) -> anyhow::Result<Arc<dyn Blobs>> {
        let url = &config.stores.blobs;
        match scheme(url) {
            "file" => {
                let directory = config.server.data.join(names::BLOBS_DIRECTORY);
                let public = format!("http://{}", config.address());
                Ok(LazyBlobs::of(&directory, public, Arc::clone(clock), Arc::new(SystemIds)))
            }
            "s3" => cluster::blobs(url, clock).await,
            other => bail!("stores.blobs must be file: or s3://BUCKET, not {other}:"),
        }
    }

    /// Opens read models on servers to fill them, in whatever state they are.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_target(url: &str, closing: &mut Vec<BoxFuture<'static, ()>>) -> anyhow::Result<Arc<dyn Reads>> {
        match scheme(url) {
            "postgres" => cluster::target(url, closing).await,
            other => bail!("read models are made anew in postgres://USER@HOST/DATABASE, not {other}:"),
        }
    }

    /// Opens the log alone, for whoever only reads it: with what closes it.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_log(config: &Config) -> anyhow::Result<(Arc<dyn Log>, Vec<BoxFuture<'static, ()>>)> {
        let clock: Arc<dyn Clock> = SystemClock::start();
        let mut files = Files { data: config.server.data.clone(), log: None, reads: None };
        let mut closing = Vec::new();
        let log = any_log(&config.stores.log, &mut files, &clock, &Fatal::default(), &mut closing).await?;
        if let Some(log) = files.log {
            closing.push(Box::pin(async move { log.close().await }));
        }
        Ok((log, closing))
    }

    /// Whether nobody else can have the log.
    pub fn is_alone(&self) -> bool {
        self.files.log.is_some()
    }

    /// Whether the read models are files.
    pub fn has_own_reads(&self) -> bool {
        self.files.reads.is_some()
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

/// The log at a URL.
async fn any_log(
    url: &str,
    files: &mut Files,
    clock: &Arc<dyn Clock>,
    fatal: &Fatal,
    closing: &mut Vec<BoxFuture<'static, ()>>,
) -> anyhow::Result<Arc<dyn Log>> {
    match scheme(url) {
        "file" => Ok(Arc::clone(files.log.insert(open_log(&files.data, clock, fatal.clone())?)) as _),
        "kafka" => cluster::log(url, fatal, closing).await,
        other => bail!("{} must be file: or kafka://HOST:PORT, not {other}:", setting("log")),
    }
}

/// Another process has a data directory.
#[derive(Debug)]
pub struct InUse {
    data: PathBuf,
}

impl fmt::Display for InUse {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data = self.data.display();
        write!(
            out,
            "the data directory {data} is in use by another process; end that one or choose another with --data"
        )
    }
}

impl std::error::Error for InUse {}

/// What a URL begins with. Nothing else of it may be told: it may have a password.
fn scheme(url: &str) -> &str {
    url.split_once(':').map_or("", |(scheme, _)| scheme)
}

/// Where a store is set: for whoever has to mend it.
fn setting(store: &str) -> String {
    format!("stores.{store} (RINGFORGE__STORES__{})", store.to_uppercase())
}

/// `Corrupt`: the read models are ahead of the log (a disk lost its end, a backup was restored).
async fn check_upto(reads: &dyn Reads, log: &dyn Log) -> Result<(), Error> {
    for partition in log.partitions().iter() {
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

/// `Gone`: the log no longer has what comes next in the read models.
#[cfg(feature = "cluster")]
async fn check_from(reads: &dyn Reads, log: &dyn Log) -> Result<(), Error> {
    for partition in log.partitions().iter() {
        let applied = reads.load(partition, &BTreeSet::new()).await?.applied.upto;
        let oldest = log.bounds(partition).await?.oldest;
        if applied < oldest {
            return Err(Error::Gone { oldest });
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
        OpenError::Locked { .. } => anyhow::Error::new(InUse { data: data.to_owned() }),
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
async fn open_reads(path: &Path, source: Source<'_>, fatal: &Fatal) -> anyhow::Result<Arc<SqliteReads>> {
    let mut reads = usable_reads(path, source).await;
    if let Err(Error::Corrupt(what)) = &reads {
        warn!(what, "the read models are made anew");
        delete_reads(path)?;
        reads = usable_reads(path, source).await;
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

/// `Corrupt`: they are damaged, or ahead of the log, or too far behind it. What has nothing begins with a checkpoint where the
/// log no longer has all.
async fn usable_reads(path: &Path, source: Source<'_>) -> Result<Arc<SqliteReads>, Error> {
    let reads = SqliteReads::open(path).await?;
    check_upto(&*reads, source.log).await?;
    for partition in source.log.partitions().iter() {
        let stands = reads.load(partition, &BTreeSet::new()).await?.applied.upto;
        checkpoint::begin(source, partition, &*reads).await.map_err(|error| match error {
            Error::Gone { oldest } if stands > Offset::ZERO => Error::Corrupt(format!(
                "they stand at {}, and partition {} of the log begins at {}",
                stands.0, partition.0, oldest.0
            )),
            error => error,
        })?;
    }
    Ok(reads)
}

/// Read models that were made anew take the place of those before.
fn use_rebuilt(data: &Path, generation: Generation, file: &Path) -> anyhow::Result<()> {
    let rebuilt = data.join(names::rebuilt_file(generation));
    if rebuilt.exists() {
        info!("the read models that were made anew are used from now on");
        let replaced = SqliteReads::replace(file, &rebuilt);
        replaced.with_context(|| format!("cannot put {} in its place", rebuilt.display()))?;
    }
    Ok(())
}
