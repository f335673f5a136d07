//! Answers over HTTP: a fleet's memory and who is in it, for any key of the fleet or an admin key of its tenant. Whoever names the
//! position of a write is answered from a read model that has it, or told to come back.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Extension, Json, Router,
    extract::{ConnectInfo, Path, Query as Params, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::future::BoxFuture;
use ringforge_domain::{
    catalog::Query,
    code::{Code, Refusal},
    cursor::Seal,
    frame::Encoder,
    ids::{AgentId, Scope},
    limits::Limits,
    memory,
    position::{Generation, Offset, StreamRef},
    presence,
};
use ringforge_ports::Services;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    answer::answer,
    asker::{Asker, unavailable},
    freshness::Freshness,
    roster::Rosters,
};

/// The position of a write that the answer must show.
const MIN_POSITION: HeaderName = HeaderName::from_static("x-ringforge-min-position");
/// Says that the answer may be old: the log is away.
const STALE: HeaderName = HeaderName::from_static("x-ringforge-stale");
/// How long it is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// How soon it is looked for again, at first.
const LOOK: Duration = Duration::from_millis(5);
/// How soon in the end.
const LOOK_LATER: Duration = Duration::from_millis(250);

/// Lets a request in by its key: the fleet it names, and where that fleet's events are.
pub type Admit = Arc<dyn Fn(Asked) -> BoxFuture<'static, Result<(Scope, StreamRef), Refusal>> + Send + Sync>;

/// Who asks for what.
pub struct Asked {
    /// The key.
    pub api_key: String,
    /// The fleet, by name or id.
    pub fleet: String,
    /// From where.
    pub from: IpAddr,
}

/// What the routes need.
#[derive(Clone)]
pub struct Api {
    /// The ports.
    pub services: Services,
    /// Who is in each fleet.
    pub rosters: Arc<Rosters>,
    /// Whether answers may be old.
    pub freshness: Arc<Freshness>,
    /// For cursors and event ids.
    pub seal: Seal,
    /// The life of the log.
    pub generation: Generation,
    /// Bounds on what may be asked.
    pub limits: Limits,
    /// Lets requests in.
    pub admit: Admit,
}

/// The routes. What is refused is an extension of its response, for whoever serves them to tell.
pub fn routes(api: Api) -> Router {
    Router::new()
        .route("/v1/fleets/{fleet}/agents", get(agents))
        .route("/v1/fleets/{fleet}/memory", get(entries))
        .route("/v1/fleets/{fleet}/memory/{*key}", get(entry))
        .with_state(api)
}

/// The parameters of a list of entries.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    prefix: Option<String>,
    tag: Option<String>,
    author: Option<String>,
    #[serde(default)]
    values: bool,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// The parameters of a list of agents.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Roster {
    state: Option<presence::State>,
    capability: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
}

async fn entry(
    State(api): State<Api>,
    Path((fleet, key)): Path<(String, String)>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    let asked = api.ask(&fleet, peer, &headers, Query::MemoryGet(memory::Get { key })).await;
    let shown = asked.map(|mut body| {
        let entry = body["entry"].take();
        let tag = [(header::ETAG, format!("\"{}\"", entry["version"]))];
        (tag, staleness(&body), Json(entry)).into_response()
    });
    shown.unwrap_or_else(refused)
}

async fn entries(
    State(api): State<Api>,
    Path(fleet): Path<String>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Params(params): Params<List>,
    headers: HeaderMap,
) -> Response {
    let List { prefix, tag, author, values, limit, cursor } = params;
    let tags = tag.into_iter().collect();
    let list = memory::List { prefix, tags, author, values, limit, offset: None, cursor };
    listed(api.ask(&fleet, peer, &headers, Query::MemoryList(list)).await, "entries")
}

async fn agents(
    State(api): State<Api>,
    Path(fleet): Path<String>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Params(params): Params<Roster>,
    headers: HeaderMap,
) -> Response {
    let Roster { state, capability, limit, cursor } = params;
    let roster = presence::Roster { state, capability, limit, cursor };
    listed(api.ask(&fleet, peer, &headers, Query::PresenceRoster(roster)).await, "agents")
}

/// A page of what the answer lists under this name.
fn listed(answer: Result<Value, Refusal>, name: &str) -> Response {
    match answer {
        Ok(mut body) => {
            let (data, next, more) = (body[name].take(), body["next_cursor"].take(), body["has_more"].take());
            let page = json!({ "data": data, "next_cursor": next, "has_more": more });
            (staleness(&body), Json(page)).into_response()
        }
        Err(refusal) => refused(refusal),
    }
}

impl Api {
    async fn ask(&self, fleet: &str, peer: SocketAddr, headers: &HeaderMap, query: Query) -> Result<Value, Refusal> {
        let request = Asked { api_key: bearer(headers)?, fleet: fleet.to_owned(), from: peer.ip() };
        let (scope, stream) = (self.admit)(request).await?;
        query.check(&self.limits)?;
        let known = self.wait_for(stream, headers).await?;
        let encoder = Encoder { seal: self.seal.clone(), scope, stream, generation: self.generation };
        // No agent: what is asked here is the same for everyone.
        let asker = Asker { agent: AgentId::from_bits(0), encoder: Arc::new(encoder), known };
        let frame = answer(&self.services, &self.rosters, &self.freshness, &asker, &query).await?;
        Ok(frame.object().value())
    }

    /// Waits until the read model has what the request wants to see, and says what that is.
    async fn wait_for(&self, stream: StreamRef, headers: &HeaderMap) -> Result<Option<Offset>, Refusal> {
        let Some(position) = headers.get(MIN_POSITION) else { return Ok(None) };
        let wanted = position.to_str().ok().and_then(|text| text.parse().ok()).and_then(|wire| stream.offset(wire));
        let wanted = wanted.ok_or_else(no_position)?;
        let (clock, none) = (&self.services.clock, BTreeSet::new());
        let (begun, mut wait) = (clock.monotonic(), LOOK);
        loop {
            let found = self.services.reads.load(stream.partition, &none).await.map_err(|error| unavailable(&error))?;
            if found.applied.upto > wanted {
                return Ok(Some(wanted));
            }
            if wait == LOOK {
                // It is not waited for what is not even in the log.
                let bounds = self.services.log.bounds(stream.partition).await.map_err(|error| unavailable(&error))?;
                if wanted >= bounds.end {
                    return Err(no_position());
                }
            }
            if clock.monotonic().saturating_sub(begun) > PATIENCE {
                let late = Refusal::because(Code::Unavailable, "The read models do not have that position yet.");
                return Err(late.after_ms(1_000));
            }
            clock.sleep(wait).await;
            wait = (wait * 2).min(LOOK_LATER);
        }
    }
}

fn no_position() -> Refusal {
    Refusal::invalid("X-RingForge-Min-Position", "It is no position of this fleet.")
        .fix("Send what a write's X-RingForge-Position said.")
}

/// Says that an answer may be old.
fn staleness(answer: &Value) -> HeaderMap {
    let is_stale = answer["stale"].as_bool().unwrap_or(false);
    is_stale.then(|| (STALE, HeaderValue::from_static("true"))).into_iter().collect()
}

/// For whoever serves us to tell.
fn refused(refusal: Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Extension(refusal)).into_response()
}

/// The key of a request.
fn bearer(headers: &HeaderMap) -> Result<String, Refusal> {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let key = value.and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
    key.ok_or_else(|| Refusal::because(Code::Unauthorized, "The request carries no API key.").fix("Send it as Bearer."))
}
