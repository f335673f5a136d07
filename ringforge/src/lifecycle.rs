//! From nothing to ready and back: opens the stores, starts the roles, says so, and on SIGTERM ends within ten seconds.

use std::{
    fs,
    io::{Read as _, Seek as _, Write as _},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use axum::Router;
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, join_all},
};
use ringforge_command_api::Gate;
use ringforge_domain::{
    cursor::Seal,
    ids::EdgeId,
    limits::{BACKLOG_MAX, BOOTSTRAP_TRIES_MAX, UNSENT_BYTES_MAX},
    position::{Generation, Offset, Partition},
};
use ringforge_ports::{
    Error, Services,
    clock::{Clock, SystemClock, SystemIds},
    names,
};
use ringforge_projectors::{Timers, timers};
use ringforge_query_api::http::{Admit, Api};
use ringforge_ws_edge::{edge::Edge, feed::Hub};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    signal::unix::{self as signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tracing::{info, warn};

use crate::{
    bootstrap::{self, CATCH_UP, Credentials},
    config::Config,
    fatal::Fatal,
    faults::Faults,
    http::{self, Site},
    options::All,
    projecting::Projects,
    ready::Ready,
    rebuild,
    role::Duty,
    secrets,
    stores::Stores,
    telemetry,
};

/// How long connections may take to end.
const DRAIN: Duration = Duration::from_secs(4);
/// How long what is left may take to end.
const STOP: Duration = Duration::from_secs(4);
/// How long an edge waits at its start until its lease is held. Without the live bus it begins without one.
const FIRST_LEASE: Duration = Duration::from_secs(2);

/// Does a duty until it is told to end.
///
/// # Errors
/// It could not start, or had to end: one message that names the fix.
pub fn run(duty: Duty, options: &All, started: Instant) -> anyhow::Result<()> {
    let config = Config::load(&options.serve)?;
    config.check_for(duty)?;
    telemetry::start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    let done = runtime.block_on(open(duty, options, config, started));
    runtime.shutdown_timeout(STOP);
    done
}

async fn open(duty: Duty, options: &All, config: Config, started: Instant) -> anyhow::Result<()> {
    let clock: Arc<dyn Clock> = SystemClock::start();
    let fatal = Fatal::default();
    let stores = Stores::open(&config, &clock, &fatal).await?;
    let listener = listen(&config)?;
    let process = Process { duty, options, config: &config, stores: &stores, fatal: &fatal, started };
    let done = process.serve(listener, clock).await;
    stores.close(&fatal, done).await
}

/// What a process is started with.
struct Process<'a> {
    duty: Duty,
    options: &'a All,
    config: &'a Config,
    stores: &'a Stores,
    fatal: &'a Fatal,
    started: Instant,
}

/// What serves agents and requests.
struct Front {
    site: Site<TcpStream>,
    draining: watch::Sender<bool>,
    /// Runs beside it.
    roles: JoinSet<()>,
}

impl Front {
    /// Without agents.
    fn of(services: &Services, routes: Router, roles: JoinSet<()>) -> Self {
        let draining = watch::Sender::new(false);
        let (services, needs_log) = (services.clone(), true);
        let site = Site { services, draining: draining.subscribe(), talk: None, routes, needs_log };
        Self { site, draining, roles }
    }
}

impl Process<'_> {
    /// Starts what is to be done, says that it is ready, and ends it when it is told to, or must.
    async fn serve(&self, listener: TcpListener, clock: Arc<dyn Clock>) -> anyhow::Result<()> {
        let address = listener.local_addr().context("the address of the listener")?;
        let mut faults = Faults::from_environment()?;
        let services = faults.around(Services {
            log: Arc::clone(&self.stores.log),
            reads: Arc::clone(&self.stores.reads),
            live: Arc::clone(&self.stores.live),
            blobs: Arc::clone(&self.stores.blobs),
            clock,
            ids: Arc::new(SystemIds),
        });
        let credentials = self.credentials(&services)?;
        let gate = Gate::new(services.clone(), self.config.gate());
        let projecting = self.duty.projects().then(|| {
            let each = 1 + usize::from(faults.second_projector());
            let (services, gate, fatal) = (services.clone(), Arc::clone(&gate), self.fatal.clone());
            let checkpoints = self.config.checkpoints();
            Projects { services, gate, fatal, is_alone: self.stores.is_alone(), checkpoints, each }.start()
        });
        let front = tokio::select! {
            front = self.front(&services, gate, credentials.as_ref()) => front?,
            // A projector that cannot go on never catches up.
            reason = self.fatal.failed() => return Err(reason),
        };
        let Front { site, draining, mut roles } = front;
        if self.stores.is_alone() && self.stores.has_own_reads() {
            roles.spawn(rebuild::watch(services.clone(), self.config.server.data.clone()));
        }
        let open = Arc::new(());
        let serving = tokio::spawn(http::serve(listener, site, self.config.http(), self.started, Arc::clone(&open)));
        faults.begin();
        let signals = Signals::listen()?;
        // Keys are told by whoever makes them.
        let credentials = credentials.as_ref().filter(|_| self.duty.takes_commands());
        let ready = Ready { duty: self.duty, address, credentials, started: self.started };
        ready.say(&self.config.server.data, self.options.serve.json).context("say that it is ready")?;
        info!(%address, role = self.duty.text(), "ready");

        let ended = tokio::select! {
            () = signals.ended() => Ok(()),
            reason = self.fatal.failed() => Err(reason),
        };
        info!("draining");
        draining.send_replace(true);
        let _ = serving.await;
        wait_until_closed(&open).await;
        // Whatever projectors and timers had begun is repeated or refused after the restart.
        let end = async {
            if let Some(projecting) = projecting {
                projecting.end().await;
            }
            roles.shutdown().await;
        };
        if tokio::time::timeout(STOP, end).await.is_err() {
            warn!("some roles did not end in time");
        }
        ended
    }

    /// The keys of the data directory. Whoever may create tenants makes those that are wanted and not there.
    fn credentials(&self, services: &Services) -> anyhow::Result<Option<Credentials>> {
        let (data, wanted) = (&self.config.server.data, self.options.bootstrap.as_deref());
        if self.duty == Duty::All || wanted.is_some() {
            return bootstrap::credentials(data, wanted, services.log.partitions(), &*services.ids).map(Some);
        }
        bootstrap::kept(data)
    }

    /// Makes the directory as it is wanted, and what serves agents and requests.
    async fn front(
        &self,
        services: &Services,
        gate: Arc<Gate>,
        credentials: Option<&Credentials>,
    ) -> anyhow::Result<Front> {
        let mut roles = JoinSet::new();
        if self.duty == Duty::Projectors {
            return Ok(Front::of(services, Router::new(), roles));
        }
        let seal = secrets::seal(&self.config.secrets.seal, credentials.map(|kept| kept.seal_key.as_str()))?;
        // While the directory is being made anew, what is not there yet is not what was never there.
        caught_up(services, Partition::DIRECTORY).await?;
        // Before anything is written that a process with another secret has no business to write.
        secrets::agree(services, &gate, &seal, self.stores.is_alone()).await?;
        gate.ask_schemas().await?;
        if self.duty.takes_commands()
            && let Some(credentials) = credentials
        {
            // Once more if somebody else was first to take the partition that a fleet was to have to itself.
            for _ in 0..BOOTSTRAP_TRIES_MAX {
                let upto = bootstrap::submit(services, &gate, credentials).await?;
                if upto == Offset::ZERO {
                    break;
                }
                bootstrap::applied(services, Partition::DIRECTORY, upto, CATCH_UP).await?;
            }
        }
        if !self.stores.is_alone() {
            roles.spawn(Arc::clone(&gate).watch());
            roles.spawn(Arc::clone(&gate).watch_schemas());
        }
        let generation = services.log.bounds(Partition::DIRECTORY).await?.generation;
        let routes = self.routes(services, &gate, &seal, generation);
        if !self.duty.is_edge() {
            let front = Front::of(services, routes, roles);
            let needs_log = self.duty.takes_commands();
            return Ok(Front { site: Site { needs_log, ..front.site }, ..front });
        }
        let id = EdgeId::from_bits(services.ids.next());
        match Former::of(&self.config.server.data, self.stores.is_alone(), id)? {
            Former::Others(id) => end_sessions(services, |timers| timers.end_former(id).boxed()).await?,
            // Their partitions may be others' to project, and wait for these.
            Former::Ours(former, lock) => drop(roles.spawn(end_our_sessions(services.clone(), former, lock))),
        }
        let hub = Hub::new(services.clone(), seal);
        roles.spawn(Arc::clone(&hub).watch());
        let edge = Edge::new(services.clone(), gate, hub, id, self.config.edge(id.to_string()));
        let lease = names::edge_lease(id);
        // Whoever begins a session before it has a lease might be taken for gone.
        let held = tokio::time::timeout(FIRST_LEASE, services.live.put(&lease, "held", timers::LEASE)).await;
        if !matches!(held, Ok(Ok(()))) {
            warn!("the live bus is away: this edge begins without a lease");
        }
        roles.spawn(hold_lease(services.clone(), id));
        let site = Site { routes, ..Site::of(&edge) };
        Ok(Front { site, draining: edge.drains(), roles })
    }

    /// What is served over HTTP.
    fn routes(&self, services: &Services, gate: &Arc<Gate>, seal: &Seal, generation: Generation) -> Router {
        let mut routes = Router::new();
        if self.duty.takes_commands() {
            routes = routes.merge(ringforge_command_api::http::routes(Arc::clone(gate)));
        }
        if self.duty.answers() {
            let gate = Arc::clone(gate);
            let admit: Admit = Arc::new(move |asked| {
                let gate = Arc::clone(&gate);
                let admitted = async move {
                    let entrance = gate.authenticator.admit(&asked.api_key, &asked.fleet, asked.from).await?;
                    Ok((entrance.scope, entrance.stream))
                };
                admitted.boxed()
            });
            let (services, seal) = (services.clone(), seal.clone());
            let (rosters, freshness) = (Arc::default(), Arc::default());
            let limits = self.config.gate().limits;
            let api = Api { services, rosters, freshness, seal, generation, limits, admit };
            routes = routes.merge(ringforge_query_api::http::routes(api));
        }
        routes
    }
}

/// Waits until a partition is applied as far as it goes now.
async fn caught_up(services: &Services, partition: Partition) -> anyhow::Result<()> {
    let end = services.log.bounds(partition).await?.end;
    bootstrap::applied(services, partition, end, CATCH_UP).await
}

fn listen(config: &Config) -> anyhow::Result<TcpListener> {
    let address = config.address();
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(cfg!(unix))?;
        // What is accepted has it too.
        #[cfg(target_os = "linux")]
        socket2::SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
        socket.bind(address)?;
        socket.listen(BACKLOG_MAX)
    };
    listen().map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "port {} on {} is in use; choose another with --port N, or --port 0 for any free one",
            address.port(),
            address.ip()
        ),
        _ => anyhow::Error::new(error)
            .context(format!("cannot listen on {address}; choose another with --bind and --port")),
    })
}

/// Whose sessions a process ends when it starts.
enum Former {
    /// Every edge's but this one: the log is ours alone, so we were all of them.
    Others(EdgeId),
    /// The edge's that the last process in our data directory was, if there was one. Nobody else may be this one's heir as long
    /// as the file is open.
    Ours(Option<EdgeId>, fs::File),
}

impl Former {
    /// Reads who was here, and leaves who is.
    fn of(data: &Path, is_alone: bool, edge: EdgeId) -> anyhow::Result<Self> {
        if is_alone {
            return Ok(Self::Others(edge));
        }
        let path = data.join(names::EDGE_FILE);
        let cannot = || format!("cannot write {}", path.display());
        let mut file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.as_mut().map_err(|error| anyhow::anyhow!("{}: {error}", cannot()))?;
        if file.try_lock().is_err() {
            bail!("another edge uses the data directory {}: give each its own with --data", data.display());
        }
        let mut text = String::new();
        file.read_to_string(&mut text).with_context(cannot)?;
        file.set_len(0).with_context(cannot)?;
        file.rewind().with_context(cannot)?;
        file.write_all(edge.to_string().as_bytes()).with_context(cannot)?;
        Ok(Self::Ours(text.trim().parse().ok(), file.try_clone().with_context(cannot)?))
    }
}

/// Ends sessions in every partition, as far as it is applied, and waits until they have ended.
async fn end_sessions(
    services: &Services,
    end: impl Fn(&mut Timers) -> BoxFuture<'_, Result<usize, Error>>,
) -> anyhow::Result<()> {
    for partition in services.log.partitions().iter() {
        caught_up(services, partition).await?;
        let mut timers = Timers::new(services.clone(), partition);
        if end(&mut timers).await? > 0 {
            caught_up(services, partition).await?;
        }
    }
    Ok(())
}

/// Ends what our former life left open. If it cannot, others will: nobody renews the lease of that life.
async fn end_our_sessions(services: Services, former: Option<EdgeId>, lock: fs::File) {
    if let Some(former) = former {
        let partitions = services.log.partitions().iter();
        join_all(partitions.map(async |partition| {
            let mut timers = Timers::new(services.clone(), partition);
            if let Err(error) = timers.end_edge(former).await {
                warn!(%error, partition = partition.0, "sessions of the last life end when its lease does");
            }
        }))
        .await;
    }
    // Held as long as this life lasts.
    let _lock = lock;
    std::future::pending::<()>().await;
}

async fn hold_lease(services: Services, edge: EdgeId) {
    loop {
        let wait = match services.live.put(&names::edge_lease(edge), "held", timers::LEASE).await {
            Ok(()) => timers::LEASE_RENEWED,
            Err(error) => {
                warn!(%error, "the lease of this edge was not renewed");
                timers::LEASE_TRIED
            }
        };
        tokio::time::sleep(wait).await;
    }
}

async fn wait_until_closed(open: &Arc<()>) {
    let closed = async {
        while Arc::strong_count(open) > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(DRAIN, closed).await.is_err() {
        warn!(open = Arc::strong_count(open) - 1, "some connections did not end in time");
    }
}

/// SIGTERM and SIGINT, from the moment of listening on.
struct Signals(signal::Signal, signal::Signal);

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        Ok(Self(terminate, signal(SignalKind::interrupt()).context("listen for SIGINT")?))
    }

    async fn ended(mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}
