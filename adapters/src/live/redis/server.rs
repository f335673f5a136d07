//! One Redis server: what it must be like, and the connection that commands share. While it is away nobody waits for it.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, ErrorKind, PushInfo, PushKind, RedisError, RedisResult,
    ServerErrorKind, aio::MultiplexedConnection,
};
use ringforge_domain::limits::{LIVE_RETRY_MAX, LIVE_WAIT};
use ringforge_ports::Error;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

/// The shortest wait between two tries to reach a server.
pub const RETRY: Duration = Duration::from_millis(50);

/// A server.
pub struct Server {
    /// Its address, for people.
    pub name: String,
    client: Client,
    /// The connection for commands.
    link: watch::Sender<Option<Link>>,
    /// The number of the connection over which its channels are heard; 0 if they are not.
    ear: AtomicU64,
    /// Channels of this server of which something has changed.
    changed: Mutex<BTreeSet<String>>,
    /// Somebody wants the connection that listens to look at them.
    pub wake: Notify,
}

/// A connection to a server that is as it must be.
#[derive(Clone)]
pub struct Link {
    /// No other connection of this process has it.
    pub number: u64,
    /// To be cloned.
    pub connection: MultiplexedConnection,
    /// What the server says of itself.
    pub about: About,
}

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// A new one each time that it starts.
    pub run: String,
    /// Whether it is one of a cluster.
    pub cluster: bool,
}

impl About {
    /// Reads the answer to `INFO` of the server `name`.
    fn parse(name: &str, info: &str) -> Result<Self, Error> {
        let line =
            |key: &str| info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap_or_default();
        let version = line("redis_version");
        if version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0) < 7 {
            return Err(Error::Unavailable(format!("Redis at {name} is version {version}: 7 or newer is needed")));
        }
        let policy = line("maxmemory_policy");
        if policy != "noeviction" {
            return Err(Error::Unavailable(format!(
                "Redis at {name} has maxmemory-policy {policy} and may evict leases: CONFIG SET maxmemory-policy noeviction"
            )));
        }
        Ok(Self { run: line("run_id").to_owned(), cluster: line("cluster_enabled") == "1" })
    }
}

/// Why there is no connection.
pub struct Unfit {
    /// What to tell.
    pub error: Error,
    /// Nobody answers there, as yet: nothing is known to be wrong.
    pub away: bool,
}

impl Unfit {
    /// A server that does not do as it must.
    pub fn wrong(error: Error) -> Self {
        Self { error, away: false }
    }
}

/// How every connection of ours is made.
fn config(heard: impl Fn(PushInfo) + Send + Sync + 'static) -> AsyncConnectionConfig {
    let heard = move |push| {
        heard(push);
        Ok::<(), ()>(())
    };
    let config = AsyncConnectionConfig::new().set_push_sender(heard);
    config.set_connection_timeout(Some(LIVE_WAIT)).set_response_timeout(Some(LIVE_WAIT))
}

/// Waits a while before the next try, then longer; never all of those who were cut off at once.
pub async fn back_off(wait: &mut Duration) {
    let half = *wait / 2;
    let more = RandomState::new().hash_one(0) % u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
    tokio::time::sleep(half + Duration::from_micros(more)).await;
    *wait = (*wait * 2).min(LIVE_RETRY_MAX);
}

/// Warns of a failure, unless it is the same as the last one.
pub fn tell(told: &mut String, error: &Error) {
    let text = error.to_string();
    if *told != text {
        warn!(%error, "no connection to Redis");
        *told = text;
    }
}

impl Server {
    /// The one at this address.
    ///
    /// # Errors
    /// The address is none.
    pub fn new(info: ConnectionInfo) -> Result<Arc<Self>, Error> {
        let name = info.addr().to_string();
        let client = Client::open(info).map_err(|error| Error::Unavailable(format!("Redis at {name}: {error}")))?;
        let (link, _) = watch::channel(None);
        Ok(Arc::new(Self {
            name,
            client,
            link,
            ear: AtomicU64::new(0),
            changed: Mutex::default(),
            wake: Notify::new(),
        }))
    }

    /// A new connection, once the server has said that it is as it must be. `heard` is told what comes unasked.
    ///
    /// # Errors
    /// Why there is none, and what to do.
    pub async fn connect(&self, heard: impl Fn(u64, PushInfo) + Send + Sync + 'static) -> Result<Link, Unfit> {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let config = config(move |push| heard(number, push));
        let connected = self.client.get_multiplexed_async_connection_with_config(&config).await;
        let mut connection = connected.map_err(|error| self.unfit(&error))?;
        let info: String = redis::cmd("INFO").query_async(&mut connection).await.map_err(|error| self.unfit(&error))?;
        let about = About::parse(&self.name, &info).map_err(Unfit::wrong)?;
        Ok(Link { number, connection, about })
    }

    /// The same of a server that could not be asked.
    pub fn unfit(&self, error: &RedisError) -> Unfit {
        let away = (error.is_io_error() || error.is_timeout()) && !is_untrusted(error) && !is_plain(error);
        Unfit { error: self.unreachable(error), away }
    }

    /// Why it did not do what it was asked for, and what to do.
    pub fn unreachable(&self, error: &RedisError) -> Error {
        let name = &self.name;
        let code = error.code().unwrap_or_default();
        Error::Unavailable(match error.kind() {
            ErrorKind::AuthenticationFailed => format!("Redis at {name} refuses user or password of its URL: {error}"),
            ErrorKind::RESP3NotSupported => format!("Redis at {name} is too old: 7 or newer is needed"),
            _ if matches!(code, "NOAUTH" | "WRONGPASS") => {
                format!("Redis at {name} refuses user or password of its URL: {error}")
            }
            _ if is_untrusted(error) => format!(
                "the certificate of Redis at {name} is not trusted: set SSL_CERT_FILE to a file of the authorities that signed \
                 it: {error}"
            ),
            _ if error.is_timeout() => format!("Redis at {name} does not answer within {} s", LIVE_WAIT.as_secs()),
            _ => format!("Redis at {name} cannot be reached, is it running there? {error}"),
        })
    }

    /// Keeps a connection for commands, for ever.
    pub async fn keep(self: Arc<Self>) {
        let (mut wait, mut told) = (RETRY, String::new());
        loop {
            let own = Arc::downgrade(&self);
            let heard = move |number, push: PushInfo| {
                if push.kind == PushKind::Disconnection
                    && let Some(server) = own.upgrade()
                {
                    server.cut(number);
                }
            };
            match self.connect(heard).await {
                Ok(link) => {
                    (wait, told) = (RETRY, String::new());
                    info!(server = self.name, "connected to Redis");
                    self.link.send_replace(Some(link));
                    // The sender is ours.
                    let _ = self.link.subscribe().wait_for(Option::is_none).await;
                }
                Err(unfit) => tell(&mut told, &unfit.error),
            }
            back_off(&mut wait).await;
        }
    }

    /// The connection, if there is one.
    pub fn link(&self) -> Option<Link> {
        self.link.borrow().clone()
    }

    /// Waits until there is one.
    pub async fn linked(&self) {
        // The sender is ours.
        let _ = self.link.subscribe().wait_for(Option::is_some).await;
    }

    /// The connection of this number is of no use any more.
    fn cut(&self, number: u64) {
        self.link.send_if_modified(|link| link.take_if(|link| link.number == number).is_some());
    }

    /// Asks the server, which answers within a second or is away from then on.
    ///
    /// # Errors
    /// It is away, or refuses.
    pub async fn ask<T, F: Future<Output = RedisResult<T>>>(&self, ask: impl FnOnce(Link) -> F) -> Result<T, Refused> {
        let away = |what: String| Refused { error: Error::Unavailable(what), moved: false };
        let link = self.link().ok_or_else(|| away(format!("Redis at {} is away", self.name)))?;
        let number = link.number;
        // What waits to be sent counts too.
        let answer = tokio::time::timeout(LIVE_WAIT, ask(link)).await;
        let Ok(answer) = answer else {
            self.cut(number);
            return Err(away(format!("Redis at {} does not answer within {} s", self.name, LIVE_WAIT.as_secs())));
        };
        answer.map_err(|error| {
            if error.is_unrecoverable_error() || error.is_timeout() {
                self.cut(number);
            }
            Refused { moved: moved(&error), error: Error::Unavailable(format!("Redis at {}: {error}", self.name)) }
        })
    }

    /// Its channels are heard over this connection from now on, or not at all.
    pub fn hears_over(&self, connection: Option<u64>) {
        self.ear.store(connection.unwrap_or(0), Ordering::Relaxed);
    }

    /// The connection over which its channels are heard.
    pub fn hears(&self) -> Option<u64> {
        Some(self.ear.load(Ordering::Relaxed)).filter(|number| *number > 0)
    }

    /// Something about this channel has changed.
    pub fn touch(&self, channel: &str) {
        self.changed().insert(channel.to_owned());
        self.wake.notify_one();
    }

    /// Some channels about which something has changed.
    pub fn touched(&self, count: usize) -> Vec<String> {
        let mut changed = self.changed();
        std::iter::from_fn(|| changed.pop_first()).take(count).collect()
    }

    fn changed(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.changed.lock().expect("no panic while the lock is held")
    }
}

/// Why a server did not do what it was asked for.
pub struct Refused {
    /// What to tell.
    pub error: Error,
    /// Another server of the cluster might.
    pub moved: bool,
}

/// Whether nobody vouches for the server.
fn is_untrusted(error: &RedisError) -> bool {
    error.to_string().contains("certificate")
}

/// Whether it speaks, but not TLS.
fn is_plain(error: &RedisError) -> bool {
    error.to_string().contains("corrupt message")
}

/// Whether a server says that another one of the cluster is to be asked.
pub fn moved(error: &RedisError) -> bool {
    error.is_cluster_error() || error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_must_be_new_enough_and_evict_nothing() {
        let info = |version: &str, policy: &str| {
            format!(
                "# Server\r\nredis_version:{version}\r\nrun_id:ab12\r\nmaxmemory_policy:{policy}\r\ncluster_enabled:1\r\n"
            )
        };
        let about = |version, policy| About::parse("here:1", &info(version, policy)).map_err(|error| error.to_string());
        assert_eq!(about("7.0.15", "noeviction"), Ok(About { run: "ab12".to_owned(), cluster: true }));
        assert!(about("10.1.0", "noeviction").is_ok());
        let old = about("6.2.14", "noeviction").expect_err("too old");
        assert!(old.contains("here:1 is version 6.2.14"), "{old}");
        let evicts = about("7.2.0", "allkeys-lru").expect_err("evicts");
        assert!(evicts.contains("CONFIG SET maxmemory-policy noeviction"), "{evicts}");
        assert!(About::parse("here:1", "").is_err());
    }
}
