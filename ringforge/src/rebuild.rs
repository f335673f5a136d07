//! `ringforge rebuild`: read models made anew from checkpoint and log, beside those that are used, while events go on. In a data
//! directory whoever has the log does it: the server, asked by a file, or this process where there is none.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use ringforge_adapters::{live::local::MemoryLive, reads::sqlite::SqliteReads};
use ringforge_domain::{limits::REBUILT_AT_ONCE, position::Partition};
use ringforge_ports::{
    Services,
    blobs::Blobs,
    clock::{Clock, SystemClock, SystemIds},
    log::Log,
    names,
    reads::Reads,
};
use ringforge_projectors::{
    Projector, Stepped,
    checkpoint::{self, Source},
};
use tracing::{error, info};

use crate::{
    config::Config,
    options::{Rebuild, Serve},
    stores::{InUse, Stores},
};

/// How often a server looks whether it is asked, and who asked whether it is done.
const LOOK: Duration = Duration::from_secs(1);
/// Read models are level when what came while they were brought up to date takes less than this.
const LEVEL: Duration = Duration::from_secs(1);

/// What they are made of.
struct Ingredients {
    log: Arc<dyn Log>,
    blobs: Arc<dyn Blobs>,
    clock: Arc<dyn Clock>,
}

/// Does it, and says on stdout what to do next.
///
/// # Errors
/// A store is away, or the log lacks what no checkpoint has.
pub fn run(which: &Rebuild) -> anyhow::Result<()> {
    let serve = Serve { config: which.config.clone(), data: which.data.clone(), ..Serve::default() };
    let config = Config::load(&serve)?;
    if which.into.is_none() && !config.stores.reads.starts_with("sqlite:") {
        bail!("stores.reads are on servers: say with --into postgres://USER@HOST/DATABASE where to make them anew");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let (log, mut closing) = match Stores::open_log(&config).await {
            Err(error) if which.into.is_none() && error.is::<InUse>() => return ask(&config.server.data).await,
            opened => opened?,
        };
        let clock: Arc<dyn Clock> = SystemClock::start();
        let blobs = Stores::open_blobs(&config, &clock).await?;
        let ingredients = Ingredients { log, blobs, clock };
        let done = match &which.into {
            Some(url) => match Stores::open_target(url, &mut closing).await {
                Ok(reads) => ingredients.fill(&reads).await,
                Err(error) => Err(error),
            },
            None => ingredients.anew(&config.server.data).await,
        };
        for closed in closing {
            closed.await;
        }
        done?;
        say(match which.into {
            Some(_) => "The read models are level with the log: name them in stores.reads of every process.",
            None => NEXT_START,
        })
    })
}

const NEXT_START: &str = "The read models were made anew: they are used from the next start on.";

fn say(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{text}").context("say so")
}

/// Has the server of a data directory do it, and waits as long as it takes.
async fn ask(data: &Path) -> anyhow::Result<()> {
    let (asked, failed) = (data.join(names::REBUILD_FILE), data.join(names::REBUILD_FAILED_FILE));
    let _ = fs::remove_file(&failed);
    fs::write(&asked, "").with_context(|| format!("cannot write {}", asked.display()))?;
    while asked.exists() {
        tokio::time::sleep(LOOK / 10).await;
    }
    match fs::read_to_string(&failed) {
        Ok(why) => bail!("the server could not: {why}"),
        Err(_) => say(NEXT_START),
    }
}

/// Makes the read models of a data directory anew whenever it is asked to, for ever.
pub async fn watch(services: Services, data: PathBuf) {
    let asked = data.join(names::REBUILD_FILE);
    loop {
        tokio::time::sleep(LOOK).await;
        if !asked.exists() {
            continue;
        }
        info!("the read models are made anew, beside those that are used");
        let Services { log, blobs, clock, .. } = services.clone();
        match (Ingredients { log, blobs, clock }).anew(&data).await {
            Ok(()) => info!("{NEXT_START}"),
            Err(error) => {
                error!("the read models could not be made anew: {error:#}");
                let _ = fs::write(data.join(names::REBUILD_FAILED_FILE), format!("{error:#}"));
            }
        }
        if let Err(error) = fs::remove_file(&asked) {
            error!(%error, "{} cannot be deleted: nothing more is made anew", asked.display());
            return;
        }
    }
}

impl Ingredients {
    /// A file beside the one that is used.
    async fn anew(&self, data: &Path) -> anyhow::Result<()> {
        let generation = self.log.bounds(Partition::DIRECTORY).await?.generation;
        let (path, done) = (data.join(names::rebuilding_file(generation)), data.join(names::rebuilt_file(generation)));
        SqliteReads::delete(&path).with_context(|| format!("cannot delete {}", path.display()))?;
        let reads = SqliteReads::open(&path).await?;
        let filled = self.fill(&(Arc::clone(&reads) as Arc<dyn Reads>)).await;
        // Blocks for a moment.
        tokio::task::spawn_blocking(move || reads.close()).await.context("close the read models")?;
        filled?;
        SqliteReads::replace(&done, &path).with_context(|| format!("cannot write {}", done.display()))
    }

    /// Begins with checkpoints where the log no longer has all, and follows the log until they are level.
    async fn fill(&self, reads: &Arc<dyn Reads>) -> anyhow::Result<()> {
        let partitions: Vec<Partition> = self.log.partitions().iter().collect();
        let services = Services {
            log: Arc::clone(&self.log),
            reads: Arc::clone(reads),
            // Nobody hears of it.
            live: MemoryLive::new(Arc::clone(&self.clock)),
            blobs: Arc::clone(&self.blobs),
            clock: Arc::clone(&self.clock),
            ids: Arc::new(SystemIds),
        };
        // At once: what comes after a checkpoint may be trimmed soon.
        let source = || Source { log: &*self.log, blobs: &*self.blobs };
        let each = stream::iter(partitions.clone()).map(async |partition| {
            checkpoint::begin(source(), partition, &**reads).await?;
            follow(services.clone(), partition).await
        });
        each.buffer_unordered(REBUILT_AT_ONCE).try_collect::<()>().await?;
        loop {
            let begun = self.clock.monotonic();
            let each = stream::iter(partitions.clone()).map(|partition| follow(services.clone(), partition));
            each.buffer_unordered(REBUILT_AT_ONCE).try_collect::<()>().await?;
            if self.clock.monotonic().saturating_sub(begun) < LEVEL {
                return Ok(());
            }
        }
    }
}

/// Applies what the log holds at this moment.
async fn follow(services: Services, partition: Partition) -> anyhow::Result<()> {
    let end = services.log.bounds(partition).await?.end;
    let mut projector = Projector::open(services.clone(), partition).await?;
    let mut records = services.log.read(partition, projector.applied());
    while projector.applied() < end {
        let batch = records.next().await.context("the log has ended")??;
        if let Stepped::Elsewhere(upto) = projector.step(batch).await? {
            bail!("somebody else applies partition {} to the same read models, at {}", partition.0, upto.0);
        }
    }
    Ok(())
}
