//! From nothing to ready and back: opens the stores, starts the roles, says so, and on SIGTERM ends within ten seconds.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use ringforge_adapters::{
    live::local::MemoryLive,
    log::embedded::{EmbeddedLog, OpenError},
    reads::sqlite::SqliteReads,
};
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
    log::Log,
    names,
    reads::Reads,
};
use ringforge_projectors::{Timers, run, timers};
use ringforge_ws_edge::{edge::Edge, feed::Hub};
use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::{self as signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tracing::{error, info, warn};

use crate::{bootstrap, config::Config, faults::Faults, http, options::All, ready, telemetry};

/// Partitions of an embedded log: the directory and one pool.
pub const PARTITIONS: [Partition; 2] = [Partition::DIRECTORY, Partition::POOL];
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

/// Why the process must not go on: what was found first.
type Fatal = watch::Sender<Option<String>>;

fn fail(fatal: &Fatal, reason: String) {
    fatal.send_if_modified(|known| {
        let first = known.is_none();
        known.get_or_insert(reason);
        first
    });
}

async fn failed(fatal: &Fatal) -> anyhow::Error {
    let mut heard = fatal.subscribe();
    let reason = heard.wait_for(Option::is_some).await.expect("we hold the sender").clone();
    anyhow::Error::msg(reason.unwrap_or_default())
}

async fn all(options: &All, config: Config, started: Instant) -> anyhow::Result<()> {
    let data = &config.server.data;
    std::fs::create_dir_all(data)
        .with_context(|| format!("cannot create the data directory {}; choose another with --data", data.display()))?;
    let clock: Arc<dyn Clock> = SystemClock::start();
    let fatal = Fatal::new(None);
    let log = open_log(data, &clock, fatal.clone())?;
    let listener = listen(&config)?;
    let generation = log.bounds(Partition::DIRECTORY).await?.generation;
    let reads_file = data.join(names::reads_file(generation));
    let reads = open_reads(&reads_file, &log, &fatal).await?;
    let live = MemoryLive::new(Arc::clone(&clock));
    let ids = Arc::new(SystemIds);
    let services = Services {
        log: Arc::clone(&log) as Arc<dyn Log>,
        reads: Arc::clone(&reads) as Arc<dyn Reads>,
        live,
        clock,
        ids,
    };
    let done = serve(options, &config, listener, services, &fatal, started).await;
    if tokio::time::timeout(STOP, log.close()).await.is_err() {
        warn!("the log did not close in time");
    }
    reads.close();
    if reads.damaged() {
        delete_reads(&reads_file)?;
    }
    // What failed first says more than what failed because of it.
    match fatal.borrow().as_ref() {
        Some(reason) if log.damaged() => bail!("{reason}. The log is damaged. {}", remedy(data)),
        Some(reason) => bail!("{reason}"),
        None => done,
    }
}

/// Starts all roles, says that it is ready, and ends them when it is told to, or must.
async fn serve(
    options: &All,
    config: &Config,
    listener: TcpListener,
    services: Services,
    fatal: &Fatal,
    started: Instant,
) -> anyhow::Result<()> {
    let data = &config.server.data;
    let address = listener.local_addr().context("the address of the listener")?;
    let mut faults = Faults::from_environment()?;
    let services = faults.around(services);
    let credentials = bootstrap::credentials(data, options.bootstrap.as_deref(), &*services.ids)?;
    let gate = Gate::new(services.clone(), config.gate());
    let mut roles = JoinSet::new();
    for partition in PARTITIONS {
        for _ in 0..=usize::from(faults.second_projector()) {
            roles.spawn(project(services.clone(), partition, Arc::clone(&gate), fatal.clone()));
        }
    }
    let edge_id = EdgeId::from_bits(services.ids.next());
    tokio::select! {
        caught_up = catch_up(&services, &gate, &credentials, edge_id, &mut roles) => caught_up?,
        // A projector that cannot go on never catches up.
        reason = failed(fatal) => return Err(reason),
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
        reason = failed(fatal) => Err(reason),
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

fn open_log(data: &Path, clock: &Arc<dyn Clock>, fatal: Fatal) -> anyhow::Result<Arc<EmbeddedLog>> {
    let path = data.join(names::LOG_FILE);
    let on_fatal = move |error: &Error| {
        error!(%error, "the log cannot be written: the process ends");
        let what = format!("the log cannot be written ({error}); nothing more is acknowledged");
        fail(&fatal, format!("{what}. Check the disk and start again"));
    };
    let partitions = u16::try_from(PARTITIONS.len()).expect("two");
    let opened = EmbeddedLog::open_with(&path, partitions, Arc::clone(clock), Box::new(on_fatal));
    opened.map_err(|error| match error {
        OpenError::Locked { .. } => anyhow::anyhow!(
            "the data directory {} is in use by another process; end that one or choose another with --data",
            data.display()
        ),
        OpenError::Damaged { what } => {
            anyhow::anyhow!("the log in {} is damaged: {what}. {}", data.display(), remedy(data))
        }
        OpenError::Io(error)
            if [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem].contains(&error.kind()) =>
        {
            anyhow::anyhow!(
                "the data directory {} cannot be written ({error}); make it writable or choose another with --data",
                data.display()
            )
        }
        other => anyhow::Error::new(other).context(format!("cannot open the log in {}", data.display())),
    })
}

/// What an operator can do about a damaged log.
pub fn remedy(data: &Path) -> String {
    format!(
        "Restore {} from a backup, or cut it off where it stops being whole with `ringforge log repair --data {}`, or \
         start with another --data",
        data.join(names::LOG_FILE).display(),
        data.display()
    )
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

/// Opens the read models of this log. Those that cannot be used are made anew.
async fn open_reads(path: &Path, log: &EmbeddedLog, fatal: &Fatal) -> anyhow::Result<Arc<SqliteReads>> {
    let mut reads = usable_reads(path, log).await;
    if let Err(Error::Corrupt(what)) = &reads {
        warn!(what, "the read models are made anew");
        delete_reads(path)?;
        reads = usable_reads(path, log).await;
    }
    let reads = reads.with_context(|| format!("cannot open the read models in {}", path.display()))?;
    let fatal = fatal.clone();
    reads.on_damage(Box::new(move |error| {
        error!(%error, "the read models are damaged: the process ends");
        fail(&fatal, format!("the read models are damaged ({error}): start again, and they are made anew"));
    }));
    Ok(reads)
}

fn delete_reads(path: &Path) -> anyhow::Result<()> {
    SqliteReads::delete(path).with_context(|| format!("cannot delete the read models in {}", path.display()))
}

/// `Corrupt`: they are damaged, or ahead of the log (a disk lost its end, a backup was restored).
async fn usable_reads(path: &Path, log: &EmbeddedLog) -> Result<Arc<SqliteReads>, Error> {
    let reads = SqliteReads::open(path).await?;
    for partition in PARTITIONS {
        let applied = reads.load(partition, &BTreeSet::new()).await?.applied.upto;
        let end = log.bounds(partition).await?.end;
        if applied > end {
            let (number, applied, end) = (partition.0, applied.0, end.0);
            return Err(Error::Corrupt(format!(
                "partition {number} of the log ends at {end}, they stand at {applied}"
            )));
        }
    }
    Ok(reads)
}

async fn project(services: Services, partition: Partition, gate: Arc<Gate>, fatal: Fatal) {
    let ended = run::run(services, partition, |applied| gate.applied(partition, applied)).await;
    if let Err(error) = ended {
        error!(%error, partition = partition.0, "the projector cannot go on");
        fail(&fatal, format!("partition {} cannot be projected: {error}", partition.0));
    }
}

/// Waits until the read models stand at the log's end, writes to the directory what it lacks, and starts the timers.
async fn catch_up(
    services: &Services,
    gate: &Gate,
    credentials: &bootstrap::Credentials,
    edge: EdgeId,
    roles: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    // While the directory is being made anew, what is not there yet is not what was never there.
    let end = services.log.bounds(Partition::DIRECTORY).await?.end;
    bootstrap::applied(services, Partition::DIRECTORY, end, CATCH_UP).await?;
    let upto = bootstrap::submit(services, gate, credentials).await?;
    bootstrap::applied(services, Partition::DIRECTORY, upto, CATCH_UP).await?;
    start_timers(services, edge, roles).await
}

/// Ends what a former life left open, then starts the timers.
async fn start_timers(services: &Services, edge: EdgeId, roles: &mut JoinSet<()>) -> anyhow::Result<()> {
    for partition in PARTITIONS {
        let end = services.log.bounds(partition).await?.end;
        bootstrap::applied(services, partition, end, CATCH_UP).await?;
        let mut timers = Timers::new(services.clone(), partition);
        if timers.end_former(edge).await? > 0 {
            let end = services.log.bounds(partition).await?.end;
            bootstrap::applied(services, partition, end, CATCH_UP).await?;
        }
        roles.spawn(timers::run(timers));
    }
    Ok(())
}

async fn hold_lease(services: Services, edge: EdgeId) {
    loop {
        if let Err(error) = services.live.put(&names::edge_lease(edge), "held", timers::LEASE).await {
            warn!(%error, "the lease of this edge was not renewed");
        }
        tokio::time::sleep(timers::LEASE_RENEWED).await;
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
