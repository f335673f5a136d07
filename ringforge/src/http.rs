//! The one port: an accept loop with the timeouts and caps that `axum::serve` lacks, and health.

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
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::{FutureExt, future::BoxFuture};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use ringforge_domain::code::{Code, Refusal};
use ringforge_domain::frame::refused;
use ringforge_domain::limits::{HEADER_BYTES_MAX, HEADERS_MAX, REQUESTS_MAX};
use ringforge_domain::position::Partition;
use ringforge_ports::names;
use ringforge_ws_edge::{
    edge::Edge,
    socket::{self, GOODBYE, Pipe, Upgraded},
};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tracing::warn;
use upgrade::Strangers;

/// The wait after a failed accept, usually for want of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Its settings.
#[derive(Clone, Copy, Debug)]
pub struct HttpConfig {
    /// From accept to upgrade.
    pub upgrade_timeout: Duration,
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

/// What requests need.
#[derive(Clone)]
struct Served {
    edge: Arc<Edge>,
    talk: Upgrading,
    strangers: Arc<Strangers>,
    places: Arc<Semaphore>,
    started: Instant,
    open: Arc<()>,
    /// Whether connections are accepted, as far as is known: there may be no file descriptor for another.
    accepts: Arc<AtomicBool>,
}

/// Serves until the edge drains. Every connection that is still open holds `open`.
pub async fn serve<L: Listener>(listener: L, edge: Arc<Edge>, config: HttpConfig, started: Instant, open: Arc<()>) {
    let inside = Arc::clone(&edge);
    let talk: Talk<L::Stream> =
        Arc::new(move |upgraded, known| socket::serve(Arc::clone(&inside), upgraded, known).boxed());
    serve_by(talk, listener, edge, config, started, open).await;
}

/// The same for whatever is to be talked about over the connections.
pub async fn serve_by<L: Listener>(
    talk: Talk<L::Stream>,
    listener: L,
    edge: Arc<Edge>,
    config: HttpConfig,
    started: Instant,
    open: Arc<()>,
) {
    let places = Arc::new(Semaphore::new(config.connections_max));
    let accepts = Arc::new(AtomicBool::new(true));
    let served = Served {
        edge: Arc::clone(&edge),
        talk: upgrade::unwrapping(talk),
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
        .route("/ws", get(upgrade::upgrade))
        .fallback(not_found)
        .with_state(served);
    // More than places: who finds none must be accepted to be told so.
    let room = Arc::new(Semaphore::new(config.connections_max + REQUESTS_MAX));
    loop {
        let accepted = tokio::select! {
            biased;
            () = edge.drained() => return,
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
        let service = TowerToHyperService::new(router.clone().layer(Extension(Peer(peer.ip(), Arc::new(accept)))));
        tokio::spawn(async move {
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new())
                .header_read_timeout(config.upgrade_timeout)
                .max_headers(HEADERS_MAX)
                .max_buf_size(HEADER_BYTES_MAX);
            let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
            // A peer that breaks off or speaks something else is nobody's fault here.
            if tokio::time::timeout(config.upgrade_timeout, connection.as_mut()).await.is_err() {
                // However much it asks: this is the time it has. What is being answered it may still read.
                connection.as_mut().graceful_shutdown();
                let _ = tokio::time::timeout(GOODBYE, connection).await;
            }
        });
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

async fn health_ready(State(served): State<Served>) -> Response {
    let services = &served.edge.services;
    let word = |good: bool| if good { "ok" } else { Code::Unavailable.text() };
    let log = services.log.bounds(Partition::DIRECTORY).await.is_ok();
    let reads = services.reads.load(Partition::DIRECTORY, &BTreeSet::new()).await.is_ok();
    let live = services.live.scan(names::EDGE_LEASES).await.is_ok();
    let accepts = served.accepts.load(Ordering::Relaxed);
    let good = log && reads && live && accepts && !*served.edge.draining().borrow();
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    // The second three are the names of the services that play these parts in a cluster.
    let body = json!({ "log": word(log), "reads": word(reads), "live": word(live), "accepts": word(accepts), "kafka": word(log), "storage": word(reads), "redis": word(live) });
    (status, Json(body)).into_response()
}

async fn health_live(State(served): State<Served>) -> Response {
    let accepts = served.accepts.load(Ordering::Relaxed) && !*served.edge.draining().borrow();
    Json(json!({ "accepting_connections": accepts })).into_response()
}

async fn not_found() -> Response {
    let refusal = Refusal::not_found("There is nothing here.").fix("Agents connect to /ws; health is at /health.");
    (StatusCode::NOT_FOUND, Json(refused(&refusal))).into_response()
}

#[cfg(test)]
mod tests;
