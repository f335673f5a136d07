//! Stores on servers, which many processes share: Kafka, Postgres and Redis.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use futures_util::future::BoxFuture;
use ringforge_adapters::{
    blobs::s3::{self, S3Blobs},
    live::redis::RedisLive,
    log::kafka::{Cluster, KafkaLog, OpenError, Risks, risks},
    reads::postgres::PostgresReads,
};
use ringforge_domain::position::Partition;
use ringforge_ports::{
    Error,
    blobs::Blobs,
    clock::{Clock, SystemIds},
    live::Live,
    log::Log,
    reads::Reads,
};
use tracing::{error, warn};

use super::setting;
use crate::fatal::Fatal;

/// From so many brokers that keep each record on, what one of them loses must not be lost.
const REPLICATED: usize = 3;

/// The log in Kafka. What ends it is put into `closing`.
pub async fn log(url: &str, fatal: &Fatal, closing: &mut Vec<BoxFuture<'static, ()>>) -> anyhow::Result<Arc<dyn Log>> {
    let fatal = fatal.clone();
    let on_fatal = move |error: &Error| {
        error!(%error, "the log cannot be written: the process ends");
        fatal.fail(format!("the log cannot be written ({error}); start again"));
    };
    let wrong = |error: OpenError| anyhow::Error::new(error).context(format!("{}: the log in Kafka", setting("log")));
    let cluster = Cluster::at(url).map_err(wrong)?;
    let log = KafkaLog::open_with(&cluster, Box::new(on_fatal)).await.map_err(wrong)?;
    trust(risks(&cluster).await.map_err(wrong)?)?;
    let ending = Arc::clone(&log);
    closing.push(Box::pin(async move { ending.close().await }));
    Ok(log)
}

/// Whether the brokers may be trusted with what is acknowledged. A log that one broker has is as good as that broker, which is
/// told; one on several is there so that nothing is lost.
fn trust(Risks { replication, wrong }: Risks) -> anyhow::Result<()> {
    if replication < REPLICATED {
        let wrong = wrong.join(" ");
        warn!(replication, wrong, "what a broker loses may be lost: have at least 3 of them keep each record");
    } else if !wrong.is_empty() {
        bail!("{}: the brokers may lose what they acknowledge. {}", setting("log"), wrong.join(" "));
    }
    Ok(())
}

/// The read models in Postgres.
pub async fn reads(
    url: &str,
    log: &dyn Log,
    closing: &mut Vec<BoxFuture<'static, ()>>,
) -> anyhow::Result<Arc<dyn Reads>> {
    let wrong =
        |error: Error| anyhow::Error::new(error).context(format!("{}: the read models in Postgres", setting("reads")));
    let reads = Arc::new(PostgresReads::open(url).await.map_err(wrong)?);
    let generation = log.bounds(Partition::DIRECTORY).await?.generation;
    reads.belong(generation, log.partitions()).await.map_err(wrong)?;
    super::check_upto(&*reads, log).await.with_context(|| {
        let which = setting("reads");
        format!("{which}: the read models in Postgres are of another log: name an empty database, which is filled anew")
    })?;
    super::check_from(&*reads, log).await.with_context(|| {
        let which = setting("reads");
        format!(
            "{which}: the read models in Postgres are behind what the log still has: fill an empty database with \
             `ringforge rebuild --into postgres://USER@HOST/DATABASE` and name that"
        )
    })?;
    let ending = Arc::clone(&reads);
    closing.push(Box::pin(async move { ending.close().await }));
    Ok(reads)
}

/// A database that is to be filled.
pub async fn target(url: &str, closing: &mut Vec<BoxFuture<'static, ()>>) -> anyhow::Result<Arc<dyn Reads>> {
    let reads = Arc::new(PostgresReads::open(url).await.context("cannot open the read models in Postgres")?);
    let ending = Arc::clone(&reads);
    closing.push(Box::pin(async move { ending.close().await }));
    Ok(reads)
}

/// The objects in S3. Where that is away everything else goes on.
pub async fn blobs(url: &str, clock: &Arc<dyn Clock>) -> anyhow::Result<Arc<dyn Blobs>> {
    let opened = S3Blobs::open(url, Arc::clone(clock), Arc::new(SystemIds)).await;
    let opened = match opened {
        Err(error @ s3::OpenError::Unreachable { .. }) => {
            warn!(%error, "the objects are away");
            S3Blobs::attach(url, Arc::clone(clock), Arc::new(SystemIds)).await
        }
        opened => opened,
    };
    let blobs: Arc<dyn Blobs> = opened.context("stores.blobs")?;
    Ok(blobs)
}

/// The live bus in Redis.
pub async fn live(url: &str) -> anyhow::Result<Arc<dyn Live>> {
    let live = RedisLive::open(url).await.with_context(|| format!("{}: the live bus in Redis", setting("live")))?;
    Ok(live)
}
