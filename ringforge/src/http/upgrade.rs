//! From a request to a WebSocket: the handshake of RFC 6455, without extensions, and a cap on those who come and say nothing.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Extension,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use ringforge_command_api::key;
use ringforge_domain::{
    code::{Code, Refusal},
    limits::{SILENT_ADDRESS_MAX, SILENT_MAX},
};
use ringforge_ws_edge::socket::{Pipe, Upgraded};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{Peer, Served, Talk, Upgrading};

/// How long a socket may be silent before it counts as one that holds a place for nothing.
const SILENT: Duration = Duration::from_secs(1);
/// How long a client that found no place shall wait.
const RETRY_AFTER_MS: u64 = 2_000;
/// The version of the WebSocket protocol.
const VERSION: HeaderValue = HeaderValue::from_static("13");

/// Answers an upgrade and serves what comes of it.
pub fn upgrade(
    talk: &Upgrading,
    State(served): State<Served>,
    Extension(peer): Extension<Peer>,
    mut request: Request,
) -> Response {
    let on_upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let headers = request.headers();
    if request.uri().query().is_some_and(tells_key) {
        return keyed();
    }
    let key = match handshake(headers) {
        Ok(key) => key.clone(),
        Err(why) => return unfit(why),
    };
    let Some(on_upgrade) = on_upgrade else {
        return unfit((StatusCode::UPGRADE_REQUIRED, "Only a request of HTTP/1.1 can be upgraded."));
    };
    let Served { draining, strangers, places, open, .. } = served;
    if *draining.borrow() || strangers.full(peer.0) {
        return full(
            "Too many connections have not authenticated.",
            "Send `auth` at once after connecting, and try again.",
        );
    }
    let Ok(place) = places.try_acquire_owned() else {
        return full("All places of this server are taken.", "Try again later.");
    };
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = bearer.and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
    let (stranger, talk) = (strangers.enter(peer.0), Arc::clone(talk));
    tokio::spawn(async move {
        let Ok(stream) = on_upgrade.await else { return };
        let upgraded = Upgraded { stream, early: Vec::new(), from: peer.0, bearer };
        talk(upgraded, Box::new(move || drop(stranger))).await;
        drop((open, place, peer.1));
    });
    let answer = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, accept(&key)),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, answer).into_response()
}

/// Talks over the streams that the accept loop was given.
pub fn unwrapping<S: Pipe>(talk: Talk<S>) -> Upgrading {
    Arc::new(move |upgraded, known| {
        let Upgraded { stream, from, bearer, .. } = upgraded;
        let parts = stream.downcast::<TokioIo<S>>().expect("the accept loop serves nothing but its listener's streams");
        let (stream, early) = (parts.io.into_inner(), parts.read_buf.to_vec());
        talk(Upgraded { stream, early, from, bearer }, known)
    })
}

fn accept(key: &HeaderValue) -> HeaderValue {
    derive_accept_key(key.as_bytes()).parse().expect("base64 may stand in a header")
}

/// Why a request is no handshake.
type Unfit = (StatusCode, &'static str);

/// The key to answer, if this is a handshake.
fn handshake(headers: &HeaderMap) -> Result<&HeaderValue, Unfit> {
    if !names(headers, &header::CONNECTION, "upgrade") || !names(headers, &header::UPGRADE, "websocket") {
        return Err((StatusCode::BAD_REQUEST, "This address speaks WebSocket: the request must ask for the upgrade."));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
        return Err((StatusCode::UPGRADE_REQUIRED, "`Sec-WebSocket-Version` must be 13."));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    key.ok_or((StatusCode::BAD_REQUEST, "`Sec-WebSocket-Key` is missing."))
}

/// Whether a header's list has this word in it.
fn names(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let lists = headers.get_all(name).into_iter().filter_map(|list| list.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|named| named.trim().eq_ignore_ascii_case(word))
}

fn unfit((status, message): Unfit) -> Response {
    let refusal = Refusal::because(Code::InvalidMessage, message).fix("Connect with a WebSocket client.");
    (status, [(header::SEC_WEBSOCKET_VERSION, VERSION)], Extension(refusal)).into_response()
}

/// Whether somebody put a key into the address.
fn tells_key(query: &str) -> bool {
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.any(|(name, value)| name == "api_key" || key::is_meant(value))
}

fn keyed() -> Response {
    let refusal = Refusal::because(Code::InvalidMessage, "The address must not hold a key.")
        .fix("Send it in `auth` or as Bearer. Replace this one: what stands in an address is logged on its way.");
    (StatusCode::BAD_REQUEST, Extension(refusal)).into_response()
}

/// Whoever is told so gives its connection back: it would be one of the few beside the places.
fn full(message: &str, fix: &str) -> Response {
    let close = [(header::CONNECTION, HeaderValue::from_static("close"))];
    let refusal = Refusal::because(Code::Overloaded, message).fix(fix).after_ms(RETRY_AFTER_MS);
    (StatusCode::SERVICE_UNAVAILABLE, close, Extension(refusal)).into_response()
}

/// Sockets that have not authenticated although they had the time to.
#[derive(Default)]
pub struct Strangers {
    silent: Mutex<BTreeMap<IpAddr, usize>>,
}

impl Strangers {
    /// Whether this address has to wait.
    pub fn full(&self, address: IpAddr) -> bool {
        let silent = self.silent();
        silent.get(&address).copied().unwrap_or(0) >= SILENT_ADDRESS_MAX || silent.values().sum::<usize>() >= SILENT_MAX
    }

    /// Counts a socket from a second on, until what this returns is dropped.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Stranger {
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
pub struct Stranger(#[expect(dead_code, reason = "dropping it is what counts")] tokio::sync::oneshot::Sender<()>);
