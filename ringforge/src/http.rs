//! The one port: an accept loop with the timeouts and caps that `axum::serve` lacks, health, and the WebSocket upgrade.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Extension, Json, Router,
    extract::{State, WebSocketUpgrade},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use ringforge_domain::code::{Code, Refusal};
use ringforge_domain::frame::refused;
use ringforge_domain::limits::{
    CONNECTIONS_MAX, HEADER_BYTES_MAX, HEADERS_MAX, SILENT_ADDRESS_MAX, SILENT_MAX, SOCKET_READ_BUFFER,
    SOCKET_WRITE_BUFFER,
};
use ringforge_domain::position::Partition;
use ringforge_ws_edge::{edge::Edge, socket};
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tracing::warn;

/// The wait after a failed accept, usually for want of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How long a socket may be silent before it counts as one that holds a place for nothing.
const SILENT: Duration = Duration::from_secs(1);
/// How long a client that found no place shall wait, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("2");

/// What requests need.
#[derive(Clone)]
struct Served {
    edge: Arc<Edge>,
    strangers: Arc<Strangers>,
    started: Instant,
    open: Arc<()>,
}

/// Serves until the edge drains. Every connection that is still open holds `open`.
pub async fn serve(listener: TcpListener, edge: Arc<Edge>, upgrade_timeout: Duration, started: Instant, open: Arc<()>) {
    let mut draining = edge.draining();
    let served = Served { edge, strangers: Arc::default(), started, open };
    let router = Router::new()
        .route("/health", get(health))
        .route("/health/ready", get(health_ready))
        .route("/health/live", get(health_live))
        .route("/ws", get(upgrade))
        .fallback(not_found)
        .with_state(served);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            _ = draining.changed() => return,
        };
        let (stream, peer, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "accept failed, will try again");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone().layer(Extension(Peer(peer.ip(), Arc::new(place)))));
        tokio::spawn(async move {
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new())
                .header_read_timeout(upgrade_timeout)
                .max_headers(HEADERS_MAX)
                .max_buf_size(HEADER_BYTES_MAX);
            // A peer that breaks off or speaks something else is nobody's fault here.
            let _ = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
        });
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(tokio::net::TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, peer, place))
}

/// Who is on the other side.
#[derive(Clone)]
struct Peer(IpAddr, Arc<OwnedSemaphorePermit>);

async fn upgrade(
    State(served): State<Served>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    let Served { edge, strangers, open, .. } = served;
    if *edge.draining().borrow() || strangers.full(peer.0) {
        let refusal = Refusal::because(Code::Overloaded, "Too many connections have not authenticated.");
        let body = Json(refused(&refusal.fix("Send `auth` at once after connecting, and try again.")));
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, RETRY_AFTER)], body).into_response();
    }
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = bearer.and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
    let frame_bytes = edge.session.limits.frame_bytes();
    let stranger = strangers.enter(peer.0);
    upgrade
        .read_buffer_size(SOCKET_READ_BUFFER)
        .write_buffer_size(SOCKET_WRITE_BUFFER)
        .max_write_buffer_size(frame_bytes * 2 + SOCKET_WRITE_BUFFER * 4)
        .max_message_size(frame_bytes)
        .max_frame_size(frame_bytes)
        .on_upgrade(move |socket| async move {
            socket::serve(edge, socket, peer.0, bearer, move || drop(stranger)).await;
            drop((open, peer.1));
        })
}

async fn health(State(served): State<Served>) -> Response {
    Json(json!({ "status": "ok", "uptime": served.started.elapsed().as_secs() })).into_response()
}

async fn health_ready(State(served): State<Served>) -> Response {
    let services = &served.edge.services;
    let word = |good: bool| if good { "ok" } else { Code::Unavailable.text() };
    let log = services.log.bounds(Partition::DIRECTORY).await.is_ok();
    let reads = services.reads.load(Partition::DIRECTORY, &BTreeSet::new()).await.is_ok();
    let live = services.live.scan("").await.is_ok();
    let good = log && reads && live && !*served.edge.draining().borrow();
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    // The second three are the names of the services that play these parts in a cluster.
    let body = json!({ "log": word(log), "reads": word(reads), "live": word(live), "kafka": word(log), "storage": word(reads), "redis": word(live) });
    (status, Json(body)).into_response()
}

async fn health_live(State(served): State<Served>) -> Response {
    Json(json!({ "accepting_connections": !*served.edge.draining().borrow() })).into_response()
}

async fn not_found() -> Response {
    let refusal = Refusal::not_found("There is nothing here.").fix("Agents connect to /ws; health is at /health.");
    (StatusCode::NOT_FOUND, Json(refused(&refusal))).into_response()
}

/// Sockets that have not authenticated although they had the time to.
#[derive(Default)]
struct Strangers {
    silent: Mutex<BTreeMap<IpAddr, usize>>,
}

impl Strangers {
    fn full(&self, address: IpAddr) -> bool {
        let silent = self.silent();
        silent.get(&address).copied().unwrap_or(0) >= SILENT_ADDRESS_MAX || silent.values().sum::<usize>() >= SILENT_MAX
    }

    /// Counts a socket from a second on, until what this returns is dropped.
    fn enter(self: &Arc<Self>, address: IpAddr) -> Stranger {
        let (known, left) = tokio::sync::oneshot::channel::<()>();
        let strangers = Arc::clone(self);
        tokio::spawn(async move {
            let mut left = left;
            if tokio::time::timeout(SILENT, &mut left).await.is_ok() {
                return;
            }
            *strangers.silent().entry(address).or_default() += 1;
            let _ = left.await;
            let mut silent = strangers.silent();
            if let Some(count) = silent.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    silent.remove(&address);
                }
            }
        });
        Stranger(known)
    }

    fn silent(&self) -> std::sync::MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        self.silent.lock().expect("no panic while the lock is held")
    }
}

/// A socket that has not authenticated.
struct Stranger(#[expect(dead_code, reason = "dropping it is what counts")] tokio::sync::oneshot::Sender<()>);
