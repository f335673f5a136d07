//! One life of the server, and what outlives it.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture};
use ringforge::{
    bootstrap::{self, Credentials, Wanted},
    config::Config,
    http::{self, Listener, Site},
    secrets,
};
use ringforge_command_api::Gate;
use ringforge_domain::{
    ids::{EdgeId, Scope},
    position::{Generation, LogTime, Offset, Partition},
};
use ringforge_ports::{
    Services,
    clock::{Clock, Ids, SeededIds},
    log::{Log, Stored},
    memory::{blobs::MemoryBlobs, live::MemoryLive, log::MemoryLog, reads::MemoryReads},
    names,
    reads::{Reads, every_row, every_verdict},
};
use ringforge_projectors::{Timers, run, timers};
use ringforge_sim::{
    history::{Agent, Fleet, History, Model},
    offline::{fold, read},
    tally::lock,
};
use ringforge_ws_edge::{edge::Edge, feed::Hub};
use tokio::task::JoinSet;
use turmoil::net::{TcpListener, TcpStream};

const PARTITIONS: [Partition; 2] = [Partition::DIRECTORY, Partition::POOL];

/// Where it listens.
pub const PORT: u16 = 4_000;
/// When the world began.
const BEGINNING: i64 = 1_800_000_000_000_000;
const CATCH_UP: Duration = Duration::from_mins(1);

/// The time of the simulation.
#[derive(Default)]
struct SimClock {
    /// The newest that was told: outside of the simulation it stands still.
    told: Mutex<Duration>,
}

impl Clock for SimClock {
    fn wall(&self) -> LogTime {
        LogTime(BEGINNING).plus(i64::try_from(self.monotonic().as_micros()).expect("a short life"))
    }

    fn go_on_from(&self, _: LogTime) {}

    fn monotonic(&self) -> Duration {
        let mut told = lock(&self.told);
        *told = turmoil::sim_elapsed().unwrap_or_default().max(*told);
        *told
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        tokio::time::sleep(time).boxed()
    }
}

/// What a crash leaves.
pub struct Installation {
    clock: Arc<dyn Clock>,
    ids: Arc<SeededIds>,
    log: Arc<MemoryLog>,
    reads: MemoryReads,
    credentials: Credentials,
}

impl Installation {
    /// An empty one.
    pub fn new(seed: u64) -> Arc<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SimClock::default());
        let ids = SeededIds::new(seed);
        let wanted = Wanted::read("[[tenant]]\nname = \"acme\"\n").expect("a tenant");
        let mut credentials = Credentials::new(&*ids);
        credentials.add(&wanted, &*ids).expect("a name that can be used");
        let log = MemoryLog::new(Arc::clone(&clock), 2, Generation(7));
        Arc::new(Self { clock, ids, log, reads: MemoryReads::new(), credentials })
    }

    /// The agents' key.
    pub fn api_key(&self) -> String {
        self.credentials.tenants[0].fleets[0].agent_key.clone()
    }

    fn services(&self) -> Services {
        Services {
            log: Arc::clone(&self.log) as Arc<dyn Log>,
            reads: Arc::new(self.reads.clone()),
            live: MemoryLive::new(Arc::clone(&self.clock)),
            blobs: MemoryBlobs::new(),
            clock: Arc::clone(&self.clock),
            ids: Arc::clone(&self.ids) as Arc<dyn Ids>,
        }
    }

    /// Everything that happened.
    pub fn tell(&self, mut agents: Vec<Agent>) -> History {
        agents.sort_by(|one, other| one.name.cmp(&other.name));
        let tenant = &self.credentials.tenants[0];
        let scope = Scope { tenant: tenant.id, fleet: tenant.fleets[0].id };
        let fleets = vec![Fleet { scope, partition: Partition::POOL }];
        let mut history = History { fleets, agents, ..History::default() };
        let reads: Arc<dyn Reads> = Arc::new(self.reads.clone());
        for partition in PARTITIONS {
            history.logs.insert(partition, fold(read(partition, &self.records(partition))));
            let (rows, applied) = soon(every_row(&reads, partition)).expect("the rows are read");
            let mut verdicts = BTreeMap::new();
            if partition == Partition::POOL {
                verdicts.insert(scope, soon(every_verdict(&reads, partition, scope)).expect("the verdicts are read"));
            }
            history.models.insert(partition, Model { rows, upto: applied.upto, verdicts });
        }
        history
    }

    fn records(&self, partition: Partition) -> Vec<Stored> {
        let end = soon(self.log.bounds(partition)).expect("the log has bounds").end;
        let (mut all, mut batches) = (Vec::new(), self.log.read(partition, Offset::ZERO));
        while all.last().map_or(Offset::ZERO, |last: &Stored| last.offset.next()) < end {
            all.extend(soon(batches.next()).expect("it follows").expect("the log is read"));
        }
        all
    }
}

/// What ports in memory answer at the first poll.
fn soon<T>(answer: impl Future<Output = T>) -> T {
    answer.now_or_never().expect("memory answers at once")
}

/// The network of the simulation.
struct Net(TcpListener);

impl Listener for Net {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.0.accept().await
    }
}

/// One life: every role, until it is crashed.
pub async fn serve(installation: Arc<Installation>) -> turmoil::Result {
    let (services, config) = (installation.services(), Config::read("")?);
    let credentials = &installation.credentials;
    let gate = Gate::new(services.clone(), config.gate());
    let mut roles = JoinSet::new();
    for partition in PARTITIONS {
        let (services, gate) = (services.clone(), Arc::clone(&gate));
        roles.spawn(async move {
            let ended = run::run(services, partition, |applied| gate.applied(partition, applied)).await;
            panic!("the projector ended: {ended:?}");
        });
    }
    let edge_id = EdgeId::from_bits(services.ids.next());
    let end = services.log.bounds(Partition::DIRECTORY).await?.end;
    bootstrap::applied(&services, Partition::DIRECTORY, end, CATCH_UP).await?;
    let upto = bootstrap::submit(&services, &gate, credentials).await?;
    bootstrap::applied(&services, Partition::DIRECTORY, upto, CATCH_UP).await?;
    for partition in PARTITIONS {
        let mut timers = Timers::new(services.clone(), partition);
        for _ in 0..2 {
            let end = services.log.bounds(partition).await?.end;
            bootstrap::applied(&services, partition, end, CATCH_UP).await?;
            timers.end_former(edge_id).await?;
        }
        roles.spawn(timers::run(timers));
    }
    let hub = Hub::new(services.clone(), secrets::seal("", Some(&credentials.seal_key))?);
    roles.spawn(Arc::clone(&hub).watch());
    let edge = Edge::new(services.clone(), gate, hub, edge_id, config.edge(edge_id.to_string()));
    roles.spawn(async move {
        loop {
            services.live.put(&names::edge_lease(edge_id), "held", timers::LEASE).await.expect("memory takes it");
            tokio::time::sleep(timers::LEASE_RENEWED).await;
        }
    });
    let listener = Net(TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?);
    let serving = http::serve(listener, Site::of(&edge), config.http(), Instant::now(), Arc::new(()));
    tokio::select! {
        biased;
        ended = roles.join_next() => Err(format!("a role ended: {ended:?}").into()),
        () = serving => Err("nobody drains it".into()),
    }
}
