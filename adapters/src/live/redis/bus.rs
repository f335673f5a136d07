//! The servers of a Redis and who of them owns what. A lone server is a cluster of one that owns everything.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Duration,
};

use futures_util::future::join_all;
use redis::{ConnectionAddr, ConnectionInfo, FromRedisValue, RedisResult, Value};
use ringforge_domain::limits::{LIVE_RETRY_MAX, LIVE_WAIT};
use ringforge_ports::Error;
use tokio::{sync::Notify, task::JoinSet};

use super::{
    channels::Channels,
    ear,
    server::{Link, Server, Unfit, tell},
    slots::{Address, Owners, slot},
    url::Url,
};

/// How often a cluster is asked who owns what, without cause.
const LOOK: Duration = Duration::from_secs(5);
/// How soon it is asked again, with cause.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// All servers of a Redis, and what is followed over them.
pub struct Bus {
    /// Who is followed here.
    pub channels: Arc<Channels>,
    /// Some server said that another one is to be asked.
    pub moved: Notify,
    /// Where a cluster was first found.
    seeds: Vec<ConnectionInfo>,
    servers: Mutex<Servers>,
}

#[derive(Default)]
struct Servers {
    owners: Owners,
    seats: BTreeMap<Address, Seat>,
    /// Looks who owns what.
    look: JoinSet<()>,
}

/// A server and its tasks, which end with it.
struct Seat {
    server: Arc<Server>,
    _tasks: JoinSet<()>,
}

fn address(info: &ConnectionInfo) -> Result<Address, Error> {
    match info.addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => Ok((host.clone(), *port)),
        other => Err(Error::Unavailable(format!("Redis at {other}: not an address that this build can use"))),
    }
}

/// Asks a server of a cluster who owns what.
async fn owners(link: Link, host: &str) -> RedisResult<Option<Owners>> {
    let mut connection = link.connection;
    let mut pipe = redis::pipe();
    pipe.cmd("CLUSTER").arg("INFO").cmd("CLUSTER").arg("SLOTS");
    let (info, slots): (String, Vec<Value>) = pipe.query_async(&mut connection).await?;
    Ok(Owners::parse(&info, &slots, host))
}

impl Bus {
    /// Of these servers, which are not looked for yet.
    pub fn new(url: Url) -> Arc<Self> {
        Arc::new_cyclic(|bus: &Weak<Self>| {
            let bus = bus.clone();
            let changed = move |name: &str| {
                if let Some(bus) = bus.upgrade() {
                    bus.touch(name);
                }
            };
            let channels = Channels::new(changed);
            Self { channels, moved: Notify::new(), seeds: url.servers, servers: Mutex::default() }
        })
    }

    /// Finds the servers and connects to them. Where none answers they are looked for until one does.
    ///
    /// # Errors
    /// One of them is not as it must be.
    pub async fn open(self: &Arc<Self>) -> Result<(), Error> {
        match self.find().await {
            // It owns everything, for ever.
            Ok(false) => {}
            Err(unfit) if !unfit.away => return Err(unfit.error),
            found => {
                let mut told = String::new();
                if let Err(unfit) = found {
                    tell(&mut told, &unfit.error);
                }
                let look = Arc::clone(self).look(told);
                self.servers().look.spawn(look);
            }
        }
        let linked = async {
            for server in self.all() {
                server.linked().await;
            }
        };
        // A cluster may be in use while one of its servers is away.
        let _ = tokio::time::timeout(LIVE_WAIT, linked).await;
        Ok(())
    }

    /// Asks those that are named, and those that were known, who owns what, until one answers, and goes by that. `false`: it is no
    /// cluster.
    async fn find(self: &Arc<Self>) -> Result<bool, Unfit> {
        let mut unfit: Option<Unfit> = None;
        let known = self.servers().owners.known.clone();
        for info in self.seeds.iter().cloned().chain(known.iter().map(|address| self.way(address))) {
            match self.find_at(&info).await {
                Ok(found) => return Ok(found),
                // What is wrong says more than that somebody is away.
                Err(new) if unfit.as_ref().is_none_or(|known| known.away && !new.away) => unfit = Some(new),
                Err(_) => {}
            }
        }
        Err(unfit.unwrap_or_else(|| Unfit::wrong(Error::Closed)))
    }

    async fn find_at(self: &Arc<Self>, info: &ConnectionInfo) -> Result<bool, Unfit> {
        let address = address(info).map_err(Unfit::wrong)?;
        let server = Server::new(info.clone()).map_err(Unfit::wrong)?;
        let link = server.connect(|_, _| {}).await?;
        if !link.about.cluster {
            if self.seeds.len() > 1 {
                let what = format!("Redis at {} is no cluster: name one server", server.name);
                return Err(Unfit::wrong(Error::Unavailable(what)));
            }
            self.seat(Owners::all(address)).map_err(Unfit::wrong)?;
            return Ok(false);
        }
        match owners(link, &address.0).await.map_err(|error| server.unfit(&error))? {
            Some(owners) if owners.servers().next().is_some() => {
                self.seat(owners).map_err(Unfit::wrong)?;
                Ok(true)
            }
            _ => {
                let what = format!("Redis at {} is of a cluster without slots: create it first", server.name);
                Err(Unfit::wrong(Error::Unavailable(what)))
            }
        }
    }

    /// Looks now and then, and soon if there is cause, who owns what, for as long as it is a cluster, or nobody knows what it is.
    async fn look(self: Arc<Self>, mut told: String) {
        loop {
            let wait = if self.servers().seats.is_empty() { LIVE_RETRY_MAX } else { LOOK };
            // Whoever has moved or is away may be found by now.
            let _ = tokio::time::timeout(wait, self.moved.notified()).await;
            match self.look_once().await {
                Ok(true) => told.clear(),
                Ok(false) => return,
                Err(unfit) => tell(&mut told, &unfit.error),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn look_once(self: &Arc<Self>) -> Result<bool, Unfit> {
        let seats: Vec<_> =
            self.servers().seats.iter().map(|((host, _), seat)| (host.clone(), Arc::clone(&seat.server))).collect();
        let answers = seats.iter().map(|(host, server)| server.ask(move |link| owners(link, host)));
        let answers = join_all(answers).await.into_iter().filter_map(|answer| answer.ok().flatten());
        // One that was cut off from the others may not know.
        match answers.max_by_key(|owners| owners.epoch) {
            Some(owners) => self.seat(owners).map(|()| true).map_err(Unfit::wrong),
            None => self.find().await,
        }
    }

    /// From now on these own what there is.
    fn seat(self: &Arc<Self>, owners: Owners) -> Result<(), Error> {
        let wanted: BTreeSet<&Address> = owners.servers().collect();
        let mut servers = self.servers();
        servers.seats.retain(|address, _| wanted.contains(address));
        for address in wanted {
            let seat = match servers.seats.remove(address) {
                Some(seat) => seat,
                None => self.take_a_seat(address)?,
            };
            servers.seats.insert(address.clone(), seat);
        }
        servers.owners = owners;
        drop(servers);
        self.touch_unheard();
        Ok(())
    }

    /// How a server of a cluster is spoken to: as the first that was named.
    fn way(&self, (host, port): &Address) -> ConnectionInfo {
        let (info, mut place) = (self.seeds[0].clone(), self.seeds[0].addr().clone());
        if let ConnectionAddr::Tcp(known, at) | ConnectionAddr::TcpTls { host: known, port: at, .. } = &mut place {
            (*known, *at) = (host.clone(), *port);
        }
        info.set_addr(place)
    }

    fn take_a_seat(self: &Arc<Self>, address: &Address) -> Result<Seat, Error> {
        let server = Server::new(self.way(address))?;
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&server).keep());
        tasks.spawn(ear::hear(Arc::clone(self), Arc::clone(&server)));
        Ok(Seat { server, _tasks: tasks })
    }

    fn servers(&self) -> MutexGuard<'_, Servers> {
        self.servers.lock().expect("no panic while the lock is held")
    }

    /// Every server that owns something.
    fn all(&self) -> Vec<Arc<Server>> {
        self.servers().seats.values().map(|seat| Arc::clone(&seat.server)).collect()
    }

    /// The server that owns a key or channel.
    ///
    /// # Errors
    /// There is none at the moment.
    pub fn owner(&self, name: &str) -> Result<Arc<Server>, Error> {
        let servers = self.servers();
        let owner = servers.owners.of(slot(name)).and_then(|address| servers.seats.get(address));
        let owner = owner.map(|seat| Arc::clone(&seat.server));
        owner.ok_or_else(|| Error::Unavailable("Redis is away, or a part of its cluster has no server".to_owned()))
    }

    /// Asks the owner of a key.
    ///
    /// # Errors
    /// It is away, or refuses.
    pub async fn ask<T: FromRedisValue, F: Future<Output = RedisResult<T>>>(
        &self,
        server: &Server,
        ask: impl FnOnce(Link) -> F,
    ) -> Result<T, Error> {
        server.ask(ask).await.map_err(|refused| {
            if refused.moved {
                self.moved.notify_one();
            }
            refused.error
        })
    }

    /// Has a channel looked at by its owner.
    fn touch(&self, name: &str) {
        // Once it has an owner again, whatever is not heard is looked at.
        if let Ok(server) = self.owner(name) {
            server.touch(name);
        }
    }

    /// Has every channel looked at that is not heard from its owner.
    pub fn touch_unheard(&self) {
        for (name, heard) in self.channels.all() {
            if let Ok(server) = self.owner(&name)
                && (heard.is_none() || heard != server.hears())
            {
                server.touch(&name);
            }
        }
    }

    /// Ends all tasks and tells the followers that nothing more will come.
    pub fn close(&self) {
        let mut servers = self.servers();
        servers.look.abort_all();
        servers.seats.clear();
        drop(servers);
        self.channels.close();
    }
}
