//! Replay: history on request, filtered, with the visibility that its live frames had.

use apache_avro::AvroSchema;
use serde::Deserialize;

use crate::{
    code::Refusal,
    history::Stream,
    limits::{Limits, REPLAY_DEFAULT, REPLAY_MAX, TOKEN_BYTES_MAX},
    position::LogTime,
    presence::bounded,
};

/// Which end of the matches counts when there are more than `limit`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, AvroSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the schema derive allows no docs on variants")]
pub enum Order {
    // The newest, shown oldest first.
    #[default]
    Newest,
    // The oldest; the next page by `cursor`.
    Oldest,
}

/// `replay.request`, also `replay.start`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, AvroSchema)]
#[serde(default)]
pub struct Request {
    /// From this time on.
    pub from: Option<String>,
    /// Before this time.
    pub to: Option<String>,
    /// Activity kinds, or what happened.
    pub kinds: Vec<String>,
    /// Any of these tags, or all with `match: "all"`.
    pub tags: Vec<String>,
    /// `any` (default) or `all`.
    #[serde(rename = "match")]
    pub matching: Option<String>,
    /// Author ids or names.
    pub agents: Vec<String>,
    /// More parts of history than activity.
    pub streams: Vec<Stream>,
    /// Items, at most 1,000.
    pub limit: Option<u32>,
    /// Which end counts.
    pub order: Order,
    /// Where the last page ended, for order `oldest`.
    pub cursor: Option<String>,
    /// `gzip`: items come in compressed batches.
    pub encoding: Option<String>,
}

impl Request {
    /// Whether it is within bounds.
    ///
    /// # Errors
    /// `invalid_message`.
    pub fn check(&self, limits: &Limits) -> Result<(), Refusal> {
        bounded("kinds", &self.kinds)?;
        bounded("tags", &self.tags)?;
        bounded("agents", &self.agents)?;
        limits.text("cursor", self.cursor.as_ref(), TOKEN_BYTES_MAX)?;
        for (field, time) in [("from", &self.from), ("to", &self.to)] {
            if time.as_ref().is_some_and(|time| LogTime::parse(time).is_none()) {
                return Err(Refusal::invalid(field, format!("`{field}` must be an RFC 3339 time.")));
            }
        }
        if self.matching.as_ref().is_some_and(|matching| matching != "any" && matching != "all") {
            return Err(Refusal::invalid("match", "`match` is `any` or `all`."));
        }
        if self.encoding.as_ref().is_some_and(|encoding| encoding != "gzip") {
            return Err(Refusal::invalid("encoding", "`encoding` is `gzip` or absent."));
        }
        if self.streams.len() > Stream::ALL.len() {
            return Err(Refusal::over("streams", Stream::ALL.len()));
        }
        Ok(())
    }

    /// Items wanted, within the bound.
    pub fn limit(&self) -> u32 {
        self.limit.unwrap_or(REPLAY_DEFAULT).min(REPLAY_MAX)
    }

    /// The parts of history wanted: activity, and those named.
    pub fn wanted(&self) -> Vec<Stream> {
        let wanted = |stream: &Stream| *stream == Stream::Activity || self.streams.contains(stream);
        Stream::ALL.into_iter().filter(wanted).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn request(wire: Value) -> Request {
        serde_json::from_value(wire).expect("a request")
    }

    #[test]
    fn a_limit_is_clamped() {
        let limits = [json!({}), json!({"limit": 5}), json!({"limit": 100_000})].map(|wire| request(wire).limit());
        assert_eq!(limits, [REPLAY_DEFAULT, 5, REPLAY_MAX]);
    }

    #[test]
    fn activity_is_always_a_part_of_it() {
        assert_eq!(request(json!({})).wanted(), [Stream::Activity]);
        let named = request(json!({"streams": ["direct", "memory", "activity", "direct"]}));
        assert_eq!(named.wanted(), [Stream::Activity, Stream::Memory, Stream::Direct], "each once");
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        for wire in [
            json!({"from": "yesterday"}),
            json!({"to": "2026-13-01"}),
            json!({"match": "none"}),
            json!({"encoding": "zstd"}),
            json!({"streams": ["memory", "memory", "memory", "memory", "memory"]}),
            json!({"kinds": vec!["k"; crate::limits::FILTER_VALUES_MAX + 1]}),
            json!({"cursor": "x".repeat(TOKEN_BYTES_MAX + 1)}),
        ] {
            assert!(request(wire.clone()).check(&Limits::default()).is_err(), "{wire}");
        }
        let full = json!({"from": "2026-02-06", "to": "2026-02-06T10:00:00Z", "tags": ["a"], "match": "all",
            "agents": ["ada"], "streams": ["presence", "memory", "memory", "memory"], "order": "oldest", "encoding": "gzip"});
        assert_eq!(request(full).check(&Limits::default()), Ok(()));
    }
}
