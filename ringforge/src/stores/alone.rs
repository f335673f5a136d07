//! In the place of stores on servers, in a build without their clients.

#![expect(clippy::unused_async, reason = "in the place of functions that wait")]

use std::sync::Arc;

use anyhow::bail;
use futures_util::future::BoxFuture;
use ringforge_ports::{blobs::Blobs, clock::Clock, live::Live, log::Log, reads::Reads};

use crate::fatal::Fatal;

const HOW: &str = "this build has no clients for servers; build it with `--features cluster`";

pub async fn log(_: &str, _: &Fatal, _: &mut Vec<BoxFuture<'static, ()>>) -> anyhow::Result<Arc<dyn Log>> {
    bail!("stores.log is on Kafka: {HOW}")
}

pub async fn reads(_: &str, _: &dyn Log, _: &mut Vec<BoxFuture<'static, ()>>) -> anyhow::Result<Arc<dyn Reads>> {
    bail!("stores.reads is on Postgres: {HOW}")
}

pub async fn target(_: &str, _: &mut Vec<BoxFuture<'static, ()>>) -> anyhow::Result<Arc<dyn Reads>> {
    bail!("these read models are on Postgres: {HOW}")
}

pub async fn blobs(_: &str, _: &Arc<dyn Clock>) -> anyhow::Result<Arc<dyn Blobs>> {
    bail!("stores.blobs is on S3: {HOW}")
}

pub async fn live(_: &str) -> anyhow::Result<Arc<dyn Live>> {
    bail!("stores.live is on Redis: {HOW}")
}
