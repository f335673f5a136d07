//! From nothing to ready and back: opens the stores, starts the roles, says so, and on SIGTERM ends within ten seconds.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use ringforge_command_api::Gate;
use ringforge_domain::{
    cursor::Seal,
    ids::EdgeId,
    limits::{BACKLOG_MAX, UNSENT_BYTES_MAX},
    position::Partition,
};
use ringforge_ports::{
    Error, Services,
    clock::{Clock, SystemClock, SystemIds},
    names,
};
use ringforge_projectors::{Timers, run, timers};
use ringforge_ws_edge::{edge::Edge, feed::Hub};
use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::{self as signal, SignalKind, signal},
    task::JoinSet,
};
use tracing::{error, info, warn};

use crate::{
    bootstrap, config::Config, fatal::Fatal, faults::Faults, http, options::All, ready, stores::Stores, telemetry,
};

/// How long the read models may take to catch up at the start, a rebuild included.
const CATCH_UP: Duration = Duration::from_hours(1);
/// How long connections may take to end.
const DRAIN: Duration = Duration::from_secs(4);
/// How long what is left may take to end.
const STOP: Duration = Duration::from_secs(4);

/// Runs everything in one process until it is told to end.
///
/// # Errors
/// It could not start, or had to end: one message that names the fix.
pub fn run_all(options: &All, started: Instant) -> anyhow::Result<()> {
    let config = Config::load(options)?;
    telemetry::start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    let done = runtime.block_on(all(options, config, started));
    runtime.shutdown_timeout(STOP);
    done
}

async fn all(options: &All, config: Config, started: Instant) -> anyhow::Result<()> {
    let clock: Arc<dyn Clock> = SystemClock::start();
    let fatal = Fatal::default();
    let stores = Stores::open(&config, &clock, &fatal).await?;
    let listener = listen(&config)?;
    let done = serve(options, &config, listener, &stores, clock, &fatal, started).await;
    stores.close(&fatal, done).await
}

/// Starts all roles, says that it is ready, and ends them when it is told to, or must.
async fn serve(
    options: &All,
    config: &Config,
    listener: TcpListener,
    stores: &Stores,
    clock: Arc<dyn Clock>,
    fatal: &Fatal,
    started: Instant,
) -> anyhow::Result<()> {
    let data = &config.server.data;
    let address = listener.local_addr().context("the address of the listener")?;
    let mut faults = Faults::from_environment()?;
    let services = faults.around(Services {
        log: Arc::clone(&stores.log),
        reads: Arc::clone(&stores.reads),
        live: Arc::clone(&stores.live),
        clock,
        ids: Arc::new(SystemIds),
    });
    let credentials = bootstrap::credentials(data, options.bootstrap.as_deref(), &*services.ids)?;
    let gate = Gate::new(services.clone(), config.gate());
    let mut roles = JoinSet::new();
    for partition in (0..services.log.partitions()).map(Partition) {
        for _ in 0..=usize::from(faults.second_projector()) {
            roles.spawn(project(services.clone(), partition, Arc::clone(&gate), fatal.clone()));
        }
    }
    let edge_id = EdgeId::from_bits(services.ids.next());
    let former = Former::of(data, stores.is_alone(), edge_id)?;
    tokio::select! {
        caught_up = catch_up(&services, &gate, &credentials, former, &mut roles) => caught_up?,
        // A projector that cannot go on never catches up.
        reason = fatal.failed() => return Err(reason),
    }

    let hub = Hub::new(services.clone(), Seal::new(credentials.seal()?));
    roles.spawn(Arc::clone(&hub).watch());
    let edge = Edge::new(services.clone(), gate, hub, edge_id, config.edge(edge_id.to_string()));
    roles.spawn(hold_lease(services.clone(), edge_id));
    let open = Arc::new(());
    let serving = tokio::spawn(http::serve(listener, Arc::clone(&edge), config.http(), started, Arc::clone(&open)));
    faults.begin();
    let signals = Signals::listen()?;
    ready::say(address, &credentials, started, data, options.json).context("say that it is ready")?;
    info!(%address, "ready");

    let ended = tokio::select! {
        () = signals.ended() => Ok(()),
        reason = fatal.failed() => Err(reason),
    };
    info!("draining");
    edge.drain();
    let _ = serving.await;
    wait_until_closed(&open).await;
    // Timers and projectors first: whatever they had begun is repeated or refused after the restart.
    if tokio::time::timeout(STOP, roles.shutdown()).await.is_err() {
        warn!("some roles did not end in time");
    }
    ended
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

async fn project(services: Services, partition: Partition, gate: Arc<Gate>, fatal: Fatal) {
    let ended = run::run(services, partition, |applied| gate.applied(partition, applied)).await;
    if let Err(error) = ended {
        error!(%error, partition = partition.0, "the projector cannot go on");
        fatal.fail(format!("partition {} cannot be projected: {error}", partition.0));
    }
}

/// Waits until the read models stand at the log's end, writes to the directory what it lacks, and starts the timers.
async fn catch_up(
    services: &Services,
    gate: &Gate,
    credentials: &bootstrap::Credentials,
    former: Former,
    roles: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    // While the directory is being made anew, what is not there yet is not what was never there.
    let end = services.log.bounds(Partition::DIRECTORY).await?.end;
    bootstrap::applied(services, Partition::DIRECTORY, end, CATCH_UP).await?;
    let upto = bootstrap::submit(services, gate, credentials).await?;
    bootstrap::applied(services, Partition::DIRECTORY, upto, CATCH_UP).await?;
    start_timers(services, former, roles).await
}

/// Whose sessions a process ends when it starts.
#[derive(Clone, Copy)]
enum Former {
    /// Every edge's but this one: the log is ours alone, so we were all of them.
    Others(EdgeId),
    /// The edge's that the last process in our data directory was, if there was one.
    Ours(Option<EdgeId>),
}

impl Former {
    /// Reads who was here, and leaves who is.
    fn of(data: &Path, is_alone: bool, edge: EdgeId) -> anyhow::Result<Self> {
        if is_alone {
            return Ok(Self::Others(edge));
        }
        let path = data.join(names::EDGE_FILE);
        let former = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
        fs::write(&path, edge.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self::Ours(former))
    }

    async fn end_sessions(self, timers: &mut Timers) -> Result<usize, Error> {
        match self {
            Self::Others(edge) => timers.end_former(edge).await,
            Self::Ours(Some(edge)) => timers.end_edge(edge).await,
            Self::Ours(None) => Ok(0),
        }
    }
}

/// Ends what a former life left open, then starts the timers.
async fn start_timers(services: &Services, former: Former, roles: &mut JoinSet<()>) -> anyhow::Result<()> {
    for partition in (0..services.log.partitions()).map(Partition) {
        let end = services.log.bounds(partition).await?.end;
        bootstrap::applied(services, partition, end, CATCH_UP).await?;
        let mut timers = Timers::new(services.clone(), partition);
        if former.end_sessions(&mut timers).await? > 0 {
            let end = services.log.bounds(partition).await?.end;
            bootstrap::applied(services, partition, end, CATCH_UP).await?;
        }
        roles.spawn(timers::run(timers));
    }
    Ok(())
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
