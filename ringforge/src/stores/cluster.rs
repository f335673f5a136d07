//! Stores on servers, which many processes share: Kafka, Postgres and Redis.

use std::sync::Arc;

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use ringforge_adapters::{
    live::redis::RedisLive,
    log::kafka::{Cluster, KafkaLog},
    reads::postgres::PostgresReads,
};
use ringforge_ports::{Error, live::Live, log::Log, reads::Reads};
use tracing::error;

use crate::fatal::Fatal;

/// The log in Kafka. What ends it is put into `closing`.
pub async fn log(url: &str, fatal: &Fatal, closing: &mut Vec<BoxFuture<'static, ()>>) -> anyhow::Result<Arc<dyn Log>> {
    let fatal = fatal.clone();
    let on_fatal = move |error: &Error| {
        error!(%error, "the log cannot be written: the process ends");
        fatal.fail(format!("the log cannot be written ({error}); start again"));
    };
    let cluster = Cluster::at(url).context("stores.log")?;
    let log = KafkaLog::open_with(&cluster, Box::new(on_fatal)).await.context("cannot open the log in Kafka")?;
    let ending = Arc::clone(&log);
    closing.push(Box::pin(async move { ending.close().await }));
    Ok(log)
}

/// The read models in Postgres.
pub async fn reads(
    url: &str,
    log: &dyn Log,
    closing: &mut Vec<BoxFuture<'static, ()>>,
) -> anyhow::Result<Arc<dyn Reads>> {
    let reads = Arc::new(PostgresReads::open(url).await.context("cannot open the read models in Postgres")?);
    super::check_upto(&*reads, log).await.context(
        "the read models in Postgres are of another log: give stores.reads another database, which is filled anew",
    )?;
    let ending = Arc::clone(&reads);
    closing.push(Box::pin(async move { ending.close().await }));
    Ok(reads)
}

/// The live bus in Redis.
pub async fn live(url: &str) -> anyhow::Result<Arc<dyn Live>> {
    let live: Arc<dyn Live> = RedisLive::open(url).await.context("cannot open the live bus in Redis")?;
    Ok(live)
}
