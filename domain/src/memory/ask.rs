//! Questions about memory: get, query, list, history. Answered from rows and the log, never logged.

use apache_avro::AvroSchema;
use serde::{Deserialize, Serialize};

use super::check_key;
use crate::{
    code::Refusal,
    json::Json,
    limits::{FILTER_VALUES_MAX, Limits, TOKEN_BYTES_MAX},
    position::LogTime,
    presence::bounded,
};

/// `memory.get`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, AvroSchema)]
pub struct Get {
    /// The key.
    pub key: String,
}

/// How results are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, AvroSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the schema derive allows no docs on variants")]
pub enum SearchSort {
    // More and earlier matches of the words first, then the newest.
    #[default]
    Relevance,
    // Newest first.
    CreatedAt,
    // Last changed first.
    UpdatedAt,
    // Most read first, as far as is known.
    AccessCount,
}

/// `memory.query`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, AvroSchema)]
#[serde(default)]
pub struct Search {
    /// All of these tags, or any with `match: "any"`.
    pub tags: Vec<String>,
    /// `all` (default) or `any`.
    #[serde(rename = "match")]
    pub matching: Option<String>,
    /// Every word of it, anywhere in key or value, in any case.
    pub text_search: Option<String>,
    /// The last author's id or name.
    pub author: Option<String>,
    /// Changed at this time or later.
    pub since: Option<String>,
    /// Equal fields of the metadata.
    pub metadata: Option<Json>,
    /// The order.
    pub sort: SearchSort,
    /// Entries a page, at most 100.
    pub limit: Option<u32>,
    /// Entries to skip.
    pub offset: Option<u32>,
    /// Where the last page ended.
    pub cursor: Option<String>,
}

/// `memory.list`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, AvroSchema)]
#[serde(default)]
pub struct List {
    /// Keys that begin so.
    pub prefix: Option<String>,
    /// All of these tags.
    pub tags: Vec<String>,
    /// The last author's id or name.
    pub author: Option<String>,
    /// Whether entries carry their values.
    pub values: bool,
    /// Entries a page, at most 100.
    pub limit: Option<u32>,
    /// Entries to skip.
    pub offset: Option<u32>,
    /// Where the last page ended.
    pub cursor: Option<String>,
}

/// `memory.history`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, AvroSchema)]
pub struct History {
    /// The key.
    pub key: String,
    /// Versions a page, at most 100.
    #[serde(default)]
    pub limit: Option<u32>,
    /// Where the last page ended.
    #[serde(default)]
    pub cursor: Option<String>,
}

impl Get {
    /// Whether it is within bounds.
    ///
    /// # Errors
    /// `invalid_message`.
    pub fn check(&self, limits: &Limits) -> Result<(), Refusal> {
        check_key(&self.key, limits)
    }
}

impl Search {
    /// Whether it is within bounds.
    ///
    /// # Errors
    /// `invalid_message`.
    pub fn check(&self, limits: &Limits) -> Result<(), Refusal> {
        bounded("tags", &self.tags)?;
        limits.text("text_search", self.text_search.as_ref(), limits.memory_key_bytes)?;
        limits.text("author", self.author.as_ref(), limits.name_bytes)?;
        limits.text("cursor", self.cursor.as_ref(), TOKEN_BYTES_MAX)?;
        limits.metadata(self.metadata.as_ref())?;
        if self.words().len() > FILTER_VALUES_MAX {
            return Err(Refusal::over("text_search", FILTER_VALUES_MAX));
        }
        if self.matching.as_ref().is_some_and(|matching| matching != "any" && matching != "all") {
            return Err(Refusal::invalid("match", "`match` is `all` or `any`."));
        }
        if self.since.as_ref().is_some_and(|since| LogTime::parse(since).is_none()) {
            return Err(Refusal::invalid("since", "`since` must be an RFC 3339 time."));
        }
        if self.metadata.as_ref().is_some_and(|metadata| !metadata.value().is_object()) {
            return Err(Refusal::invalid("metadata", "`metadata` must be an object."));
        }
        Ok(())
    }

    /// The words to look for.
    pub fn words(&self) -> Vec<String> {
        self.text_search.iter().flat_map(|text| text.split_whitespace()).map(str::to_lowercase).collect()
    }
}

impl List {
    /// Whether it is within bounds.
    ///
    /// # Errors
    /// `invalid_message`.
    pub fn check(&self, limits: &Limits) -> Result<(), Refusal> {
        bounded("tags", &self.tags)?;
        limits.text("prefix", self.prefix.as_ref(), limits.memory_key_bytes)?;
        limits.text("cursor", self.cursor.as_ref(), 2 * limits.memory_key_bytes)?;
        limits.text("author", self.author.as_ref(), limits.name_bytes)
    }
}

impl History {
    /// Whether it is within bounds.
    ///
    /// # Errors
    /// `invalid_message`.
    pub fn check(&self, limits: &Limits) -> Result<(), Refusal> {
        check_key(&self.key, limits)?;
        limits.text("cursor", self.cursor.as_ref(), TOKEN_BYTES_MAX)
    }
}
