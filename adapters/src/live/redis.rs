//! The live bus on a Redis server or a Redis Cluster: a channel per fleet, a hash per directory of facts, a key per counter.
//!
//! ```text
//!   publish -> one pipeline a server: SPUBLISH ..            put, scan, count -> one script each, at the owner of the key
//!                  |
//!   a server's ear (one connection: SSUBSCRIBE ..) -> channels -> followers: a bounded queue each
//! ```
//!
//! Nothing is ever tried twice: what a server did not take within a second is lost, and whoever followed is told so once it is
//! heard again. While a server is away, everything asked of it is refused at once.

mod bus;
mod channels;
mod codec;
mod ear;
mod server;
mod slots;
mod url;

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt, future::join_all, stream::BoxStream};
use redis::{Pipeline, Script};
use ringforge_domain::{
    ids::Scope,
    limits::{LIVE_WAIT, LOOKS_APART_MAX},
};
use ringforge_ports::{
    Error,
    live::{Directory, Heard, Live, News},
    names,
};

use bus::Bus;
use server::Server;
use url::Url;

static PUT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("redis/scripts/put.lua")));
static SCAN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("redis/scripts/scan.lua")));
static COUNT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("redis/scripts/count.lua")));

/// How long it is remembered since when a directory is intact, after the last look at it.
const REMEMBERED: Duration = Duration::from_mins(1);

/// A bus between processes.
pub struct RedisLive {
    bus: Arc<Bus>,
    deployment: String,
}

impl RedisLive {
    /// Connects to `redis://[user:password@]host[:port][,host[:port] ..][/database][?prefix=name]`: a server, or some of a
    /// cluster; over TLS to `rediss://..`. All that share a bus say the same prefix. Where nobody answers it is away until
    /// somebody does.
    ///
    /// # Errors
    /// What is wrong with the URL or the servers, and how to mend it.
    pub async fn open(url: &str) -> Result<Arc<Self>, Error> {
        let url = Url::parse(url)?;
        let deployment = url.deployment.clone();
        // What was begun ends with it, also if it is not waited for.
        let live = Self { bus: Bus::new(url), deployment };
        live.bus.open().await?;
        Ok(Arc::new(live))
    }
}

/// Milliseconds, at least one.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).clamp(1, i64::MAX as u64 / 4)
}

/// A key's directory and its name there.
fn split(key: &str) -> (&str, &str) {
    key.split_at(key.rfind('/').map_or(0, |slash| slash + 1))
}

#[async_trait]
impl Live for RedisLive {
    async fn publish(&self, news: &[News]) -> Result<(), Error> {
        let mut parts: BTreeMap<String, (Arc<Server>, Pipeline)> = BTreeMap::new();
        let mut came = Ok(());
        for piece in news {
            let channel = names::fleet_channel(&self.deployment, piece.scope());
            match self.bus.owner(&channel) {
                Ok(server) => {
                    let (_, pipe) = parts.entry(server.name.clone()).or_insert_with(|| (server, redis::pipe()));
                    pipe.cmd("SPUBLISH").arg(channel).arg(codec::encode(piece)).ignore();
                }
                Err(error) => came = Err(error),
            }
        }
        let tell = async |(server, pipe): (Arc<Server>, Pipeline)| {
            let tell = |mut link: server::Link| async move { pipe.query_async(&mut link.connection).await };
            self.bus.ask(&server, tell).await
        };
        let told = join_all(parts.into_values().map(tell)).await;
        told.into_iter().fold(came, Result::and)
    }

    async fn subscribe(&self, scope: Scope) -> Result<BoxStream<'static, Heard>, Error> {
        let channel = names::fleet_channel(&self.deployment, scope);
        let (interest, follow) = self.bus.channels.enter(&channel, scope);
        match tokio::time::timeout(LIVE_WAIT, follow).await {
            Ok(Ok(follow)) => Ok(follow
                .inspect(move |_| {
                    // Held as long as the follower is there.
                    let _held = &interest;
                })
                .boxed()),
            _ => Err(Error::Unavailable(format!("Redis did not confirm within {} s", LIVE_WAIT.as_secs()))),
        }
    }

    async fn put(&self, key: &str, value: &str, ttl: Duration) -> Result<(), Error> {
        let (directory, name) = split(key);
        let key = names::directory_key(&self.deployment, directory);
        let server = self.bus.owner(&key)?;
        let put = |mut link: server::Link| async move {
            PUT.key(key).arg(name).arg(value).arg(millis(ttl)).invoke_async(&mut link.connection).await
        };
        self.bus.ask(&server, put).await
    }

    async fn scan(&self, directory: &str) -> Result<Directory, Error> {
        let key = names::directory_key(&self.deployment, directory);
        let server = self.bus.owner(&key)?;
        let scan = |mut link: server::Link| async move {
            let mut scan = SCAN.key(key);
            scan.arg(link.about.run).arg(millis(LOOKS_APART_MAX)).arg(millis(REMEMBERED));
            scan.invoke_async(&mut link.connection).await
        };
        let (intact, facts): (u64, Vec<(String, String)>) = self.bus.ask(&server, scan).await?;
        let mut facts: Vec<_> = facts.into_iter().map(|(name, value)| (format!("{directory}{name}"), value)).collect();
        facts.sort_unstable();
        Ok(Directory { facts, intact: Duration::from_millis(intact) })
    }

    async fn count(&self, key: &str, add: u64, window: Duration) -> Result<u64, Error> {
        let key = names::counter_key(&self.deployment, key);
        let server = self.bus.owner(&key)?;
        let count = |mut link: server::Link| async move {
            COUNT.key(key).arg(add).arg(millis(window)).invoke_async(&mut link.connection).await
        };
        self.bus.ask(&server, count).await
    }
}

impl Drop for RedisLive {
    fn drop(&mut self) {
        self.bus.close();
    }
}
