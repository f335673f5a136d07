//! The one port: an accept loop with the timeouts and caps that `axum::serve` lacks, and health.

mod problem;
mod upgrade;

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Extension, Json, Router,
    extract::{ConnectInfo, State},
    http::StatusCode,
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::{FutureExt, future::BoxFuture};
use hyper::service::{Service as _, service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use ringforge_domain::code::{Code, Refusal};
use ringforge_domain::limits::{HEADER_BYTES_MAX, HEADERS_MAX, REQUESTS_MAX};
use ringforge_domain::position::Partition;
use ringforge_ports::{Services, names};
use ringforge_ws_edge::{
    edge::Edge,
    socket::{self, GOODBYE, Pipe, Upgraded},
};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};
use tracing::warn;
use upgrade::Strangers;

/// Who knows of a connection's requests while there are none: the connection and its service.
const IDLE_COUNT: usize = 2;
/// How long a port may take to show that it is there.
const HEALTH: Duration = Duration::from_secs(2);
/// The wait after a failed accept, usually for want of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Its settings.
#[derive(Clone, Copy, Debug)]
pub struct HttpConfig {
    /// From accept to upgrade.
    pub upgrade_timeout: Duration,
    /// How long what was begun by then may still take to be answered.
    pub request_timeout: Duration,
    /// WebSocket connections at once.
    pub connections_max: usize,
}

/// Called once a connection has said who it is.
pub type Known = Box<dyn FnOnce() + Send>;
/// Serves a connection that was upgraded, until it ends.
pub type Talk<S> = Arc<dyn Fn(Upgraded<S>, Known) -> BoxFuture<'static, ()> + Send + Sync>;
/// The same with a stream as hyper hands it over.
type Upgrading = Arc<dyn Fn(Upgraded<hyper::upgrade::Upgraded>, Known) -> BoxFuture<'static, ()> + Send + Sync>;

/// Where connections come from: TCP, or what a simulation has in its place.
pub trait Listener: Send + Sync + 'static {
    /// A connection.
    type Stream: Pipe;
    /// The next one, and who is on the other side.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = TcpListener::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok((stream, peer))
    }
}

/// What is served over the port.
pub struct Site<S> {
    /// Their health is told.
    pub services: Services,
    /// Set once nothing more is accepted.
    pub draining: watch::Receiver<bool>,
    /// Talks to agents at `/ws`, if there is somebody to.
    pub talk: Option<Talk<S>>,
    /// What else there is.
    pub routes: Router,
    /// Whether it can do nothing without the log.
    pub needs_log: bool,
}

impl<S: Pipe> Site<S> {
    /// An edge.
    pub fn of(edge: &Arc<Edge>) -> Self {
        let inside = Arc::clone(edge);
        let talk: Talk<S> =
            Arc::new(move |upgraded, known| socket::serve(Arc::clone(&inside), upgraded, known).boxed());
        let (services, draining) = (edge.services.clone(), edge.draining());
        Self { services, draining, talk: Some(talk), routes: Router::new(), needs_log: true }
    }
}

/// What requests need.
#[derive(Clone)]
struct Served {
    services: Services,
    needs_log: bool,
    draining: watch::Receiver<bool>,
    strangers: Arc<Strangers>,
    places: Arc<Semaphore>,
    started: Instant,
    open: Arc<()>,
    /// Whether connections are accepted, as far as is known: there may be no file descriptor for another.
    accepts: Arc<AtomicBool>,
}

/// Serves until the site drains. Every connection that is still open holds `open`.
pub async fn serve<L: Listener>(
    listener: L,
    site: Site<L::Stream>,
    config: HttpConfig,
    started: Instant,
    open: Arc<()>,
) {
    let Site { services, mut draining, talk, routes, needs_log } = site;
    let places = Arc::new(Semaphore::new(config.connections_max));
    let accepts = Arc::new(AtomicBool::new(true));
    let served = Served {
        services,
        needs_log,
        draining: draining.clone(),
        strangers: Arc::default(),
        places,
        started,
        open,
        accepts: Arc::clone(&accepts),
    };
    let router = Router::new()
        .route("/health", get(health))
        .route("/health/ready", get(health_ready))
        .route("/health/live", get(health_live))
        .fallback(not_found)
        .merge(talk.map_or_else(Router::new, |talk| {
            let talk = upgrade::unwrapping(talk);
            Router::new()
                .route("/ws", get(async move |served, peer, request| upgrade::upgrade(&talk, served, peer, request)))
        }))
        .with_state(served)
        .merge(routes)
        .layer(middleware::map_response(problem::tell));
    // More than places: who finds none must be accepted to be told so.
    let room = Arc::new(Semaphore::new(config.connections_max + REQUESTS_MAX));
    loop {
        let accepted = tokio::select! {
            biased;
            () = drained(&mut draining) => return,
            accepted = accept(&listener, &room) => accepted,
            // It failed before, and now it only waits for somebody to come.
            () = tokio::time::sleep(ACCEPT_RETRY), if !accepts.load(Ordering::Relaxed) => {
                accepts.store(true, Ordering::Relaxed);
                continue;
            }
        };
        if accepts.swap(accepted.is_ok(), Ordering::Relaxed)
            && let Err(error) = &accepted
        {
            warn!(%error, "accept fails, and is tried again and again");
        }
        let Ok((stream, peer, accept)) = accepted else {
            tokio::time::sleep(ACCEPT_RETRY).await;
            continue;
        };
        let router = router.clone().layer(Extension(ConnectInfo(peer)));
        let router = router.layer(Extension(Peer(peer.ip(), Arc::new(accept))));
        tokio::spawn(serve_one(stream, router, config, draining.clone()));
    }
}

/// Serves one connection, as long as it may last.
async fn serve_one<S: Pipe>(stream: S, router: Router, config: HttpConfig, mut draining: watch::Receiver<bool>) {
    let answers = TowerToHyperService::new(router);
    // Held by every request that is being answered.
    let asks = Arc::new(());
    let asking = Arc::clone(&asks);
    let service = service_fn(move |request| {
        let (asking, answer) = (Arc::clone(&asking), answers.call(request));
        answer.map(move |answer| {
            drop(asking);
            answer
        })
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(config.upgrade_timeout)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADER_BYTES_MAX);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
    tokio::select! {
        // A peer that breaks off or speaks something else is nobody's fault here.
        _ = connection.as_mut() => return,
        // However much it asks: this is the time it has.
        () = tokio::time::sleep(config.upgrade_timeout) => {}
        () = drained(&mut draining) => {}
    }
    connection.as_mut().graceful_shutdown();
    // What is being answered may take its time, and be read.
    let is_asked = Arc::strong_count(&asks) > IDLE_COUNT;
    let patience = if is_asked { config.request_timeout } else { GOODBYE };
    let _ = tokio::time::timeout(patience, connection).await;
}

/// Resolves once there is a drain, also if it came before.
async fn drained(draining: &mut watch::Receiver<bool>) {
    if draining.wait_for(|draining| *draining).await.is_err() {
        // Nobody is left who could.
        std::future::pending::<()>().await;
    }
}

async fn accept<L: Listener>(
    listener: &L,
    room: &Arc<Semaphore>,
) -> io::Result<(L::Stream, SocketAddr, OwnedSemaphorePermit)> {
    let accept = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, accept))
}

/// Who is on the other side.
#[derive(Clone)]
struct Peer(IpAddr, Arc<OwnedSemaphorePermit>);

async fn health(State(served): State<Served>) -> Response {
    Json(json!({ "status": "ok", "uptime": served.started.elapsed().as_secs() })).into_response()
}

/// Whoever is not ready should not be sent anybody. Without the live bus everything goes on, if later, and so do answers without
/// the log, and everything but checkpoints without objects: that is told, and no more.
async fn health_ready(State(served): State<Served>) -> Response {
    let Services { log, reads, live, blobs, .. } = &served.services;
    let word = |good: bool| if good { "ok" } else { Code::Unavailable.text() };
    let nothing = BTreeSet::new();
    let (log, reads, live, blobs) = tokio::join!(
        answers(log.bounds(Partition::DIRECTORY)),
        answers(reads.load(Partition::DIRECTORY, &nothing)),
        answers(live.scan(names::EDGE_LEASES)),
        answers(blobs.list("", None, 1))
    );
    let accepts = served.accepts.load(Ordering::Relaxed);
    let good = (log || !served.needs_log) && reads && accepts && !*served.draining.borrow();
    let (code, status) = match (good, live && log && blobs) {
        (true, true) => (StatusCode::OK, "ok"),
        (true, false) => (StatusCode::OK, "degraded"),
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable.text()),
    };
    // The last four are the names of the services that play these parts in a cluster.
    let body = json!({ "status": status, "log": word(log), "reads": word(reads), "live": word(live), "blobs": word(blobs), "accepts": word(accepts), "kafka": word(log), "storage": word(reads), "redis": word(live), "s3": word(blobs) });
    (code, Json(body)).into_response()
}

/// Whether a port answers, in time.
async fn answers<T, E>(asked: impl Future<Output = Result<T, E>>) -> bool {
    tokio::time::timeout(HEALTH, asked).await.is_ok_and(|answer| answer.is_ok())
}

async fn health_live(State(served): State<Served>) -> Response {
    let accepts = served.accepts.load(Ordering::Relaxed) && !*served.draining.borrow();
    Json(json!({ "accepting_connections": accepts })).into_response()
}

async fn not_found() -> Response {
    let refusal = Refusal::not_found("There is nothing here.").fix("Agents connect to /ws; health is at /health.");
    Extension(refusal).into_response()
}

#[cfg(test)]
mod tests;
