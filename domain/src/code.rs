//! Every error code: HTTP status, whether a retry can help, what to do. No other file writes a code.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{json::Json, position::First};

/// What went wrong, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Malformed, missing or out of bounds.
    InvalidMessage,
    /// Not authenticated, or without the proof that was asked for.
    Unauthorized,
    /// No such key, or it no longer counts.
    InvalidApiKey,
    /// Authenticated, but not allowed.
    Forbidden,
    /// Nothing there that the asker may see.
    NotFound,
    /// Something else is there than was expected.
    Conflict,
    /// The same idempotency key with another body.
    IdempotencyMismatch,
    /// Larger than its type may be.
    PayloadTooLarge,
    /// No common protocol version.
    VersionUnsupported,
    /// Too often.
    RateLimited,
    /// The projector is too far behind to take more.
    Overloaded,
    /// No verdict in time.
    Timeout,
    /// A service behind is away, or we are shutting down.
    Unavailable,
    /// A bug or damage on our side.
    ServerError,
}

/// What everyone who meets a code is told.
struct Entry {
    status: u16,
    retryable: bool,
    message: &'static str,
    fix: &'static str,
}

impl Code {
    /// All of them, for generators and tests.
    pub const ALL: [Self; 14] = [
        Self::InvalidMessage,
        Self::Unauthorized,
        Self::InvalidApiKey,
        Self::Forbidden,
        Self::NotFound,
        Self::Conflict,
        Self::IdempotencyMismatch,
        Self::PayloadTooLarge,
        Self::VersionUnsupported,
        Self::RateLimited,
        Self::Overloaded,
        Self::Timeout,
        Self::Unavailable,
        Self::ServerError,
    ];

    /// Its text on the wire.
    pub fn text(self) -> &'static str {
        match self {
            Self::InvalidMessage => "invalid_message",
            Self::Unauthorized => "unauthorized",
            Self::InvalidApiKey => "invalid_api_key",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::IdempotencyMismatch => "idempotency_mismatch",
            Self::PayloadTooLarge => "payload_too_large",
            Self::VersionUnsupported => "version_unsupported",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::ServerError => "server_error",
        }
    }

    /// Its HTTP status.
    pub fn status(self) -> u16 {
        self.entry().status
    }

    /// Whether the same request may succeed later.
    pub fn retryable(self) -> bool {
        self.entry().retryable
    }

    /// What happened, when nothing more exact is known.
    pub fn message(self) -> &'static str {
        self.entry().message
    }

    /// What to do about it, when nothing more exact is known.
    pub fn fix(self) -> &'static str {
        self.entry().fix
    }

    fn entry(self) -> Entry {
        if let Some((status, message, fix)) = self.refused() {
            return Entry { status, retryable: false, message, fix };
        }
        let (status, message, fix) = match self {
            Self::RateLimited => (429, "Too many requests.", "Wait `retry_after_ms`, then try again."),
            Self::Overloaded => {
                (503, "The server is catching up.", "Wait `retry_after_ms`, then try again; nothing was recorded.")
            }
            Self::Timeout => (
                504,
                "There was no verdict in time.",
                "Try again with the same `idempotency_key`; the command may still take effect.",
            ),
            Self::Unavailable => (
                503,
                "The service is not available right now.",
                "Try again shortly; with `outcome` unknown use the same `idempotency_key`.",
            ),
            _ => (500, "Something went wrong on our side.", "Try again; if it stays, report the `ref` and the time."),
        };
        Entry { status, retryable: true, message, fix }
    }

    /// For codes with which the same request never succeeds: status, what happened, what to do.
    fn refused(self) -> Option<(u16, &'static str, &'static str)> {
        Some(match self {
            Self::InvalidMessage => (
                400,
                "The message is not valid.",
                "Compare the message with the protocol reference; `details` names the field.",
            ),
            Self::Unauthorized => (
                401,
                "Authentication is required.",
                "Send `auth` with an API key first; to take over a protected agent, add its `resume_token`.",
            ),
            Self::InvalidApiKey => (
                401,
                "The API key is not valid.",
                "Check the key for typos and ask for a new one if it was revoked or has expired.",
            ),
            Self::Forbidden => (
                403,
                "This is not allowed.",
                "Use a key and a session that hold the right; `details` says which is missing.",
            ),
            Self::NotFound => {
                (404, "There is no such thing here.", "Check the id, name or key, and that it belongs to your fleet.")
            }
            Self::Conflict => (
                409,
                "Something else is there than was expected.",
                "Read the current state in `details`, merge, and try again with its version.",
            ),
            Self::IdempotencyMismatch => (
                409,
                "This idempotency key was used with another body.",
                "Use a new idempotency key for a new command.",
            ),
            Self::PayloadTooLarge => (
                413,
                "The message is too large.",
                "Split it, or store the content elsewhere and send a reference; `auth_ok.config` lists the limits.",
            ),
            Self::VersionUnsupported => {
                (426, "This protocol version is not supported.", "Use one of the versions listed in `auth_required`.")
            }
            Self::RateLimited | Self::Overloaded | Self::Timeout | Self::Unavailable | Self::ServerError => {
                return None;
            }
        })
    }
}

/// Whether a refused command may have taken effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effected {
    /// It did not and never will.
    #[default]
    None,
    /// It may have.
    Unknown,
}

/// The fact of a conflict that says what is there.
pub(crate) const CURRENT_VALUE: &str = "current_value";

/// The value of a memory key as an event left it: [`CURRENT_VALUE`] of a conflict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Met {
    /// The key.
    pub key: String,
    /// The event.
    pub event: First,
}

/// An answer that says no: a code, and what the asker needs to do better.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// The code.
    pub code: Code,
    /// What happened, for a person.
    pub message: String,
    /// What to do, if it is more exact than the code's own.
    #[serde(default)]
    pub fix: Option<String>,
    /// Facts for a program, as text.
    #[serde(default)]
    pub details: BTreeMap<String, Json>,
    /// A fact that is too long to be kept here, by reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub met: Option<Box<Met>>,
    /// When to try again, in milliseconds.
    #[serde(default)]
    pub retry_after_ms: Option<u64>,
    /// Whether it may have taken effect.
    #[serde(default)]
    pub outcome: Effected,
}

impl Refusal {
    /// A refusal in the code's own words.
    pub fn new(code: Code) -> Self {
        Self::because(code, code.message())
    }

    /// A refusal with a message of its own.
    pub fn because(code: Code, message: impl Into<String>) -> Self {
        let outcome = if code == Code::Timeout { Effected::Unknown } else { Effected::None };
        let (message, details) = (message.into(), BTreeMap::new());
        Self { code, message, fix: None, details, met: None, retry_after_ms: None, outcome }
    }

    /// `invalid_message` about one field.
    pub fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self::because(Code::InvalidMessage, message).with("field", field)
    }

    /// `invalid_message` because a field is over its bound.
    pub fn over(field: &str, limit: usize) -> Self {
        Self::invalid(field, format!("`{field}` is over its limit of {limit}.")).with("limit", limit)
    }

    /// `not_found` about one thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::because(Code::NotFound, message)
    }

    /// Adds a fact.
    #[must_use]
    pub fn with(mut self, name: &str, fact: impl Serialize) -> Self {
        self.details.insert(name.to_owned(), Json::of(&fact));
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn after_ms(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }

    /// Says that it may have taken effect.
    #[must_use]
    pub fn unknown(mut self) -> Self {
        self.outcome = Effected::Unknown;
        self
    }

    /// A fact; `null` if it is not told.
    pub fn fact(&self, name: &str) -> Value {
        self.details.get(name).map_or(Value::Null, Json::value)
    }

    /// About the bytes of its facts.
    pub fn weight(&self) -> usize {
        self.details.values().map(|fact| fact.text().len()).sum()
    }

    /// What to do about it.
    pub fn advice(&self) -> &str {
        self.fix.as_deref().unwrap_or_else(|| self.code.fix())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_and_says_what_to_do() {
        for code in Code::ALL {
            let text = serde_json::to_value(code).expect("serialises");
            assert_eq!(text, code.text());
            assert!(code.fix().len() > 20 && code.message().len() > 10);
        }
    }

    #[test]
    fn a_code_has_its_status_and_says_whether_to_try_again() {
        let known = Code::ALL.map(|code| (code.text(), code.status(), code.retryable()));
        let wanted = [
            ("invalid_message", 400, false),
            ("unauthorized", 401, false),
            ("invalid_api_key", 401, false),
            ("forbidden", 403, false),
            ("not_found", 404, false),
            ("conflict", 409, false),
            ("idempotency_mismatch", 409, false),
            ("payload_too_large", 413, false),
            ("version_unsupported", 426, false),
            ("rate_limited", 429, true),
            ("overloaded", 503, true),
            ("timeout", 504, true),
            ("unavailable", 503, true),
            ("server_error", 500, true),
        ];
        assert_eq!(known, wanted);
    }

    #[test]
    fn a_refusal_says_what_happened_what_to_do_and_whether_it_may_have_taken_effect() {
        let refusal = Refusal::new(Code::NotFound);
        assert_eq!((refusal.message.as_str(), refusal.advice()), (Code::NotFound.message(), Code::NotFound.fix()));
        assert_eq!((refusal.outcome, refusal.retry_after_ms, refusal.weight()), (Effected::None, None, 0));
        let refusal = Refusal::because(Code::Timeout, "late").fix("Hurry.").after_ms(7).with("a", [1, 2]);
        assert_eq!((refusal.message.as_str(), refusal.advice()), ("late", "Hurry."));
        assert_eq!((refusal.outcome, refusal.retry_after_ms), (Effected::Unknown, Some(7)));
        assert_eq!(
            (refusal.fact("a"), refusal.fact("b"), refusal.weight()),
            (serde_json::json!([1, 2]), Value::Null, 5)
        );
        assert_eq!(Refusal::new(Code::Unavailable).unknown().outcome, Effected::Unknown);
        let over = Refusal::over("tags", 20);
        assert_eq!(
            (over.code, over.fact("field"), over.fact("limit")),
            (Code::InvalidMessage, "tags".into(), 20.into())
        );
    }
}
