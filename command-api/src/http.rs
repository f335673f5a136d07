//! Commands over HTTP: memory entries, written with any key of their fleet or an admin key of their tenant. The answer waits for
//! the verdict and says where the event stands, so that whoever reads next can ask for a read model that has it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    body::{Body, to_bytes},
    extract::{ConnectInfo, Path, State},
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
    routing::put,
};
use ringforge_domain::{
    catalog::Effect,
    code::{Code, Refusal},
    door::{self, Incoming, Meta},
    ids::{CommandId, Scope},
    memory,
    position::{Offset, Partition},
    verdict::{Outcome, Verdict},
};
use ringforge_ports::{Services, reads::Which};
use serde_json::{Value, json};
use tracing::warn;

use crate::{
    auth::Entrance,
    submit::{Asked, Caller, Gate},
};

/// Where the event of a write stands.
const POSITION: HeaderName = HeaderName::from_static("x-ringforge-position");
/// How soon a verdict is looked for again, at first.
const LOOK: Duration = Duration::from_millis(2);
/// How soon in the end.
const LOOK_LATER: Duration = Duration::from_millis(50);

/// The routes, over a gate. What is refused is an extension of its response, for whoever serves them to tell.
pub fn routes(gate: Arc<Gate>) -> Router {
    Router::new().route("/v1/fleets/{fleet}/memory/{*key}", put(set).delete(delete)).with_state(gate)
}

/// Fleet and key of the path.
type Place = Path<(String, String)>;

/// Writes an entry: the body has the fields of `memory.set` but for `key`. `If-Match: "VERSION"` and `If-None-Match: *` say what must
/// be there.
async fn set(
    State(gate): State<Arc<Gate>>,
    Path((fleet, key)): Place,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    answer(&gate, &fleet, &headers, peer, async {
        // Only now, as whoever sends it is known.
        let max = gate.limits().frame_bytes();
        let bytes = to_bytes(body, max).await.map_err(|_| Refusal::new(Code::PayloadTooLarge).with("limit", max))?;
        let text = str::from_utf8(&bytes);
        let text = text.map_err(|_| Refusal::because(Code::InvalidMessage, "The body is no UTF-8."))?;
        framed("set", &key, text, &headers)
    })
    .await
}

/// Deletes an entry.
async fn delete(
    State(gate): State<Arc<Gate>>,
    Path((fleet, key)): Place,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    answer(&gate, &fleet, &headers, peer, async { framed("delete", &key, "{}", &headers) }).await
}

/// The message that an agent would send: one way to read it, and one set of bounds.
fn framed(action: &str, key: &str, body: &str, headers: &HeaderMap) -> Result<String, Refusal> {
    let fields = body.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    let fields =
        fields.ok_or_else(|| Refusal::because(Code::InvalidMessage, "The body must be a JSON object."))?.trim();
    let mut head = json!({ "type": "memory", "action": action, "key": key });
    if let Some(expected) = expected(headers)? {
        head["expected_version"] = expected.into();
    }
    let head = head.to_string();
    let head = head.strip_suffix('}').expect("an object ends so");
    Ok(if fields.is_empty() { format!("{head}}}") } else { format!("{head},{fields}}}") })
}

/// The version that the request expects.
fn expected(headers: &HeaderMap) -> Result<Option<i64>, Refusal> {
    if headers.contains_key("idempotency-key") {
        return Err(Refusal::invalid("Idempotency-Key", "`Idempotency-Key` is not supported here.")
            .fix("Make the write conditional with If-Match or If-None-Match: then a repetition changes nothing."));
    }
    match (headers.get(header::IF_NONE_MATCH), headers.get(header::IF_MATCH)) {
        (None, None) => Ok(None),
        (Some(any), None) if any == "*" => Ok(Some(0)),
        (None, Some(tag)) => {
            let version = tag.to_str().ok().and_then(|tag| tag.trim_matches('"').parse().ok());
            let wrong = || Refusal::invalid("If-Match", "`If-Match` must be the ETag of an entry.");
            version.map(Some).ok_or_else(wrong)
        }
        _ => Err(Refusal::invalid("If-None-Match", "Only `If-None-Match: *` or one `If-Match` can be met here.")),
    }
}

async fn answer(
    gate: &Gate,
    fleet: &str,
    headers: &HeaderMap,
    peer: SocketAddr,
    frame: impl Future<Output = Result<String, Refusal>>,
) -> Response {
    let conditional = headers.contains_key(header::IF_MATCH) || headers.contains_key(header::IF_NONE_MATCH);
    match write(gate, fleet, headers, peer, frame).await {
        Ok(response) => response,
        Err(refusal) if refusal.code == Code::Conflict && conditional => {
            (StatusCode::PRECONDITION_FAILED, Extension(refusal)).into_response()
        }
        Err(refusal) => refused(refusal),
    }
}

async fn write(
    gate: &Gate,
    fleet: &str,
    headers: &HeaderMap,
    peer: SocketAddr,
    frame: impl Future<Output = Result<String, Refusal>>,
) -> Result<Response, Refusal> {
    let entrance = gate.authenticator.admit(bearer(headers)?, fleet, peer.ip()).await?;
    let received = door::parse(&frame.await?, gate.limits()).map_err(|(_, refusal)| refusal)?;
    if received.meta != Meta::default() {
        return Err(Refusal::because(
            Code::InvalidMessage,
            "A write over HTTP takes no `ref`, `idempotency_key`, `caused_by` or `trace`.",
        ));
    }
    let Incoming::Command(command) = received.incoming else { return Err(Refusal::new(Code::InvalidMessage)) };
    let Entrance { key, scope, stream, .. } = entrance;
    let caller = Caller { scope, stream, agent: None, session: None, key: Some(key) };
    let asked = Asked { id: CommandId::from_bits(gate.services().ids.next()), command, meta: Meta::default() };
    let placed = gate.submit(&caller, vec![asked]).await.pop();
    let offset = placed.unwrap_or_else(|| Err(Refusal::new(Code::ServerError)))?;
    let verdict = verdict(gate.services(), stream.partition, scope, offset, gate.reply_timeout()).await?;
    let (version, body) = told(verdict)?;
    let headers = [(POSITION, stream.wire(offset).to_string()), (header::ETAG, format!("\"{version}\""))];
    Ok((headers, Json(body)).into_response())
}

/// What a verdict says to who asked.
fn told(verdict: Verdict) -> Result<(u64, Value), Refusal> {
    match verdict.outcome {
        Outcome::Applied(Effect::MemorySet(memory::SetEffect { version, created, .. })) => {
            Ok((version, json!({ "version": version, "created": created })))
        }
        Outcome::Applied(Effect::MemoryDelete(memory::Ended { version })) => {
            Ok((version, json!({ "version": version })))
        }
        Outcome::Applied(_) => Err(Refusal::new(Code::ServerError)),
        Outcome::Refused(refusal) => Err(refusal),
    }
}

/// The verdict of the event at `offset`: looked for, as nobody here is told of it.
async fn verdict(
    services: &Services,
    partition: Partition,
    scope: Scope,
    offset: Offset,
    patience: Duration,
) -> Result<Verdict, Refusal> {
    let (begun, mut wait) = (services.clock.monotonic(), LOOK);
    while services.clock.monotonic().saturating_sub(begun) < patience {
        let which = Which::After { after: offset.0.checked_sub(1).map(Offset), limit: 1 };
        match services.reads.verdicts(partition, scope, &which).await {
            Ok(found) => {
                let here = |verdict: &Verdict| verdict.position.offset == offset;
                if let Some(verdict) = found.verdicts.into_iter().find(here) {
                    return Ok(verdict);
                }
            }
            Err(error) => warn!(%error, "a verdict could not be looked for"),
        }
        services.clock.sleep(wait).await;
        wait = (wait * 2).min(LOOK_LATER);
    }
    Err(Refusal::new(Code::Timeout))
}

/// For whoever serves us to tell.
fn refused(refusal: Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Extension(refusal)).into_response()
}

/// The key of a request.
fn bearer(headers: &HeaderMap) -> Result<&str, Refusal> {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let key = value.and_then(|value| value.strip_prefix("Bearer "));
    key.ok_or_else(|| Refusal::because(Code::Unauthorized, "The request carries no API key.").fix("Send it as Bearer."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_the_message_that_an_agent_would_send() {
        let framed = |body: &str, headers: &[(HeaderName, &str)]| {
            let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().expect("a value"))).collect();
            framed("set", "plan/\"a\"", body, &headers).map_err(|refusal| refusal.code)
        };
        let whole = |fields: &str| Ok(format!(r#"{{"action":"set","key":"plan/\"a\"","type":"memory"{fields}}}"#));
        assert_eq!(framed(" {} ", &[]), whole(""));
        assert_eq!(framed(r#"{"value":{"a":1}}"#, &[]), whole(r#","value":{"a":1}"#));
        for wrong in ["", "1", "[]", "{", "null"] {
            assert_eq!(framed(wrong, &[]), Err(Code::InvalidMessage), "{wrong}");
        }
        let expected = |headers: &[(HeaderName, &str)]| {
            let text = framed("{}", headers)?;
            Ok(serde_json::from_str::<Value>(&text).expect("JSON")["expected_version"].clone())
        };
        assert_eq!(expected(&[(header::IF_MATCH, "\"7\"")]), Ok(json!(7)));
        assert_eq!(expected(&[(header::IF_NONE_MATCH, "*")]), Ok(json!(0)));
        for wrong in [(header::IF_MATCH, "*"), (header::IF_NONE_MATCH, "\"5\"")] {
            assert_eq!(expected(&[wrong]), Err(Code::InvalidMessage));
        }
        let both = [(header::IF_MATCH, "\"7\""), (header::IF_NONE_MATCH, "*")];
        assert_eq!(expected(&both), Err(Code::InvalidMessage));
        assert_eq!(expected(&[(HeaderName::from_static("idempotency-key"), "a")]), Err(Code::InvalidMessage));
    }
}
