//! What was not done is told in one way, whoever refused it: as a problem of RFC 9457. A role hands its refusal over as an
//! extension of its response; what the router refuses has its reason as text.

use axum::{
    body::{Body, to_bytes},
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use ringforge_domain::{
    code::{Code, Refusal},
    frame::problem,
    limits::REASON_BYTES_MAX,
};

/// Tells in the response's place what was refused, if something was. Its status stays if it is one of a refusal; its headers do.
pub async fn tell(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let is_refused = parts.status.is_client_error() || parts.status.is_server_error();
    let refusal = match parts.extensions.remove::<Refusal>() {
        Some(refusal) => refusal,
        None if is_refused && parts.headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/json") => {
            let reason = to_bytes(body, REASON_BYTES_MAX).await.unwrap_or_default();
            by_router(parts.status, String::from_utf8_lossy(&reason).trim())
        }
        None => return Response::from_parts(parts, body),
    };
    if !is_refused {
        parts.status = StatusCode::from_u16(refusal.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    }
    let mut told = problem(&refusal);
    told["status"] = parts.status.as_u16().into();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    let wait = refusal.retry_after_ms.map(|ms| (header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000))));
    parts.headers.extend(wait);
    Response::from_parts(parts, Body::from(told.to_string()))
}

/// What the router means by a status.
fn by_router(status: StatusCode, reason: &str) -> Refusal {
    let code = match status {
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::PAYLOAD_TOO_LARGE => Code::PayloadTooLarge,
        _ if status.is_server_error() => Code::ServerError,
        _ => Code::InvalidMessage,
    };
    let reason = if reason.is_empty() { status.canonical_reason().unwrap_or_default() } else { reason };
    let refusal = Refusal::because(code, format!("{}.", reason.trim_end_matches('.')));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        return refusal.fix("The header `Allow` says what can be done here.");
    }
    refusal
}

#[cfg(test)]
mod tests {
    use axum::{Extension, Json, response::IntoResponse as _};
    use serde_json::{Value, json};

    use super::*;

    async fn told(response: impl axum::response::IntoResponse) -> (u16, String, Value) {
        let response = tell(response.into_response()).await;
        let status = response.status().as_u16();
        let kind = response.headers()[header::CONTENT_TYPE].to_str().expect("text").to_owned();
        let body = to_bytes(response.into_body(), usize::MAX).await.expect("a body");
        (status, kind, serde_json::from_slice(&body).expect("JSON"))
    }

    #[tokio::test]
    async fn whoever_refuses_it_is_told_in_one_way() {
        let overloaded = || Refusal::new(Code::Overloaded).after_ms(1_500);
        for (response, status, code) in [
            (Extension(overloaded()).into_response(), 503, "overloaded"),
            (
                (StatusCode::PRECONDITION_FAILED, Extension(Refusal::new(Code::Conflict))).into_response(),
                412,
                "conflict",
            ),
            (StatusCode::METHOD_NOT_ALLOWED.into_response(), 405, "invalid_message"),
            (StatusCode::NOT_FOUND.into_response(), 404, "not_found"),
            ((StatusCode::BAD_REQUEST, "unknown field `x`").into_response(), 400, "invalid_message"),
        ] {
            let (came, kind, body) = told(response).await;
            assert_eq!(
                (came, kind.as_str(), &body["code"]),
                (status, "application/problem+json", &json!(code)),
                "{body}"
            );
            assert_eq!(body["status"], status);
            assert!(!body["fix"].as_str().expect("a fix").is_empty(), "{body}");
        }
        let response = tell(Extension(overloaded()).into_response()).await;
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        let (_, _, body) = told((StatusCode::BAD_REQUEST, "unknown field `x`")).await;
        assert_eq!(body["detail"], "unknown field `x`.");
    }

    #[tokio::test]
    async fn what_is_no_refusal_stays_as_it_is() {
        let (status, kind, body) =
            told((StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "unavailable" })))).await;
        assert_eq!((status, kind.as_str(), body), (503, "application/json", json!({ "status": "unavailable" })));
        let (status, _, body) = told(Json(json!({}))).await;
        assert_eq!((status, body), (200, json!({})));
    }
}
