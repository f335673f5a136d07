//! Questions about memory.

use std::{collections::BTreeSet, time::Duration};

use ringforge_domain::{
    catalog::{Command, Effect},
    code::Refusal,
    frame::Frame,
    ids::Scope,
    json::Json,
    limits::{PAGE_BYTES_MAX, PAGE_MAX},
    memory::{Entry, Get, History, List, Search, SearchSort, View},
    position::LogTime,
    row::{RowKey, State},
    verdict::{First, Outcome, Stream},
};
use ringforge_ports::{
    Services, names,
    reads::{Find, Found, Matching, MemoryFilter, MemorySort, Update, Which},
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    asker::{Asker, agent_id, bad_cursor, page_limit, unavailable},
    history::updates,
};

/// How long reads of a key are counted together.
const ACCESS_WINDOW: Duration = Duration::from_hours(30 * 24);

/// `memory.get`.
pub(crate) async fn get(services: &Services, asker: &Asker, query: &Get) -> Result<Frame, Refusal> {
    let scope = asker.encoder.scope;
    let key = RowKey::memory(scope, &query.key);
    let found =
        services.reads.load(asker.partition(), &BTreeSet::from([key])).await.map_err(|error| unavailable(&error))?;
    asker.takes(found.applied)?;
    let count = accesses(services, scope, &query.key, 1).await;
    let now = services.clock.wall();
    let entry = found.rows.iter().find_map(Entry::of).and_then(|entry| entry.shown(now, &asker.encoder, true, count));
    let entry = entry.ok_or_else(|| Refusal::not_found(format!("Memory key `{}` not found.", query.key)))?;
    Ok(Frame::new("memory", "entry", &One { entry }))
}

/// `memory.query`.
pub(crate) async fn search(services: &Services, asker: &Asker, query: &Search) -> Result<Frame, Refusal> {
    let now = services.clock.wall();
    let skip = skipped(query.cursor.as_deref(), query.offset)?;
    let author = match &query.author {
        Some(author) => match agent_id(services, asker, author).await? {
            Some(agent) => Some(agent),
            None => return Ok(page("query_result", 0, &[], None)),
        },
        None => None,
    };
    let filter = MemoryFilter {
        tags: query.tags.clone(),
        any_tag: query.matching.as_deref() == Some("any"),
        words: query.words(),
        author,
        since: query.since.as_deref().and_then(LogTime::parse),
        metadata: query.metadata.clone(),
        sort: match query.sort {
            SearchSort::Relevance => MemorySort::Relevance,
            SearchSort::CreatedAt => MemorySort::CreatedAt,
            SearchSort::UpdatedAt | SearchSort::AccessCount => MemorySort::UpdatedAt,
        },
        skip,
        limit: page_limit(query.limit),
        ..MemoryFilter::all(asker.encoder.scope, now)
    };
    let limit = filter.limit;
    let found = find(services, asker, filter).await?;
    let total = found.total;
    let mut entries = shown(services, asker, &found, now, true).await;
    let read = skip + u32::try_from(entries.len()).unwrap_or(limit);
    let more = u64::from(read) < total && (entries.len() < found.rows.len() || !found.is_last(limit));
    let next = more.then(|| format!("o{read}"));
    if query.sort == SearchSort::AccessCount {
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.access_count));
    }
    Ok(page("query_result", total, &entries, next))
}

/// `memory.list`.
pub(crate) async fn list(services: &Services, asker: &Asker, query: &List) -> Result<Frame, Refusal> {
    let now = services.clock.wall();
    let author = match &query.author {
        Some(author) => match agent_id(services, asker, author).await? {
            Some(agent) => Some(agent),
            None => return Ok(page("list_result", 0, &[], None)),
        },
        None => None,
    };
    let after = match &query.cursor {
        Some(cursor) => Some(cursor.strip_prefix('k').ok_or_else(bad_cursor)?.to_owned()),
        None => None,
    };
    let limit = page_limit(query.limit);
    let filter = MemoryFilter {
        prefix: query.prefix.clone(),
        tags: query.tags.clone(),
        author,
        after,
        skip: query.offset.unwrap_or(0),
        // One more than asked, to know whether there is more.
        limit: limit + 1,
        ..MemoryFilter::all(asker.encoder.scope, now)
    };
    let mut found = find(services, asker, filter).await?;
    let mut more = !found.is_last(limit + 1);
    found.rows.truncate(limit as usize);
    let total = found.total;
    let entries = shown(services, asker, &found, now, query.values).await;
    more |= entries.len() < found.rows.len();
    let next = entries.last().filter(|_| more).map(|entry| format!("k{}", entry.key));
    Ok(page("list_result", total, &entries, next))
}

/// `memory.history`: every version, oldest first, values from the log.
pub(crate) async fn history(services: &Services, asker: &Asker, query: &History) -> Result<Frame, Refusal> {
    let encoder = &asker.encoder;
    let after = query.cursor.as_ref().map(|cursor| asker.place(cursor)).transpose()?;
    let limit = query.limit.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX);
    let matching = Matching {
        streams: vec![Stream::Memory],
        subject: Some(query.key.clone()),
        after,
        limit: limit + 1,
        ..Matching::default()
    };
    let found = services.reads.verdicts(asker.partition(), encoder.scope, &Which::Matching(matching)).await;
    let found = found.map_err(|error| unavailable(&error))?;
    asker.takes(found.applied)?;
    let (has_more, mut found) = (!found.is_last(limit + 1), found.verdicts);
    found.truncate(limit as usize);
    let joined = updates(services, asker.partition(), found).await.map_err(|error| unavailable(&error))?;
    let (mut updates, has_more) = (joined.updates, has_more || !joined.rest.is_empty());
    let (mut listed, mut bytes, mut whole) = (Vec::new(), 0, 0);
    for update in &updates {
        let more = versions(asker, update);
        bytes += more.iter().map(|version| version["value"].to_string().len()).sum::<usize>();
        if bytes > PAGE_BYTES_MAX && whole > 0 {
            break;
        }
        listed.extend(more);
        whole += 1;
    }
    let has_more = has_more || whole < updates.len();
    updates.truncate(whole);
    let mut body = json!({ "key": query.key, "versions": listed, "has_more": has_more });
    if let Some(event) = updates.last().and_then(|update| update.event.as_ref()).filter(|_| has_more) {
        body["next_cursor"] = json!(encoder.event_id(First { offset: event.at.position.offset, hash: event.at.hash }));
    }
    Ok(Frame::new("memory", "history", &body))
}

/// Live entries whose key matches a glob, a page by key, for snapshots: with the offset of each one's last change.
///
/// # Errors
/// `unavailable`.
pub async fn matching(
    services: &Services,
    asker: &Asker,
    pattern: &str,
    after: Option<String>,
) -> Result<(Found, LogTime), Refusal> {
    let now = services.clock.wall();
    let literal = pattern.split('*').next().unwrap_or("");
    let filter = MemoryFilter {
        prefix: (!literal.is_empty()).then(|| literal.to_owned()),
        after,
        ..MemoryFilter::all(asker.encoder.scope, now)
    };
    Ok((find(services, asker, filter).await?, now))
}

async fn find(services: &Services, asker: &Asker, filter: MemoryFilter) -> Result<Found, Refusal> {
    let found = services.reads.find(asker.partition(), &Find::Memory(filter)).await;
    let found = found.map_err(|error| unavailable(&error))?;
    asker.takes(found.applied)?;
    Ok(found)
}

async fn shown<'a>(services: &Services, asker: &Asker, found: &'a Found, now: LogTime, values: bool) -> Vec<View<'a>> {
    let (mut shown, mut bytes) = (Vec::with_capacity(found.rows.len()), 0);
    for entry in found.rows.iter().filter_map(Entry::of) {
        bytes += entry.content.as_ref().filter(|_| values).map_or(0, |content| content.value.text().len());
        if bytes > PAGE_BYTES_MAX && !shown.is_empty() {
            break;
        }
        let count = accesses(services, entry.scope, &entry.key, 0).await;
        shown.extend(entry.shown(now, &asker.encoder, values, count));
    }
    shown
}

/// A lossy count: nothing if Live is away.
async fn accesses(services: &Services, scope: Scope, key: &str, add: u64) -> u64 {
    services.live.count(&names::access_count(scope, key), add, ACCESS_WINDOW).await.unwrap_or(0)
}

/// An entry, as it is written.
#[derive(Serialize)]
struct One<'a> {
    entry: View<'a>,
}

/// A page of entries, as it is written.
#[derive(Serialize)]
struct Page<'a> {
    total: u64,
    entries: &'a [View<'a>],
    has_more: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

fn page(event: &'static str, total: u64, entries: &[View<'_>], next_cursor: Option<String>) -> Frame {
    Frame::new("memory", event, &Page { total, entries, has_more: next_cursor.is_some(), next_cursor })
}

fn skipped(cursor: Option<&str>, offset: Option<u32>) -> Result<u32, Refusal> {
    match cursor {
        Some(cursor) => cursor.strip_prefix('o').and_then(|skip| skip.parse().ok()).ok_or_else(bad_cursor),
        None => Ok(offset.unwrap_or(0)),
    }
}

/// The versions that an event made: two if it also recorded an expiry.
fn versions(asker: &Asker, update: &Update) -> Vec<Value> {
    let (Some(event), Outcome::Applied(effect)) = (&update.event, &update.verdict.outcome) else { return Vec::new() };
    let event_id = asker.encoder.event_id(First { offset: event.at.position.offset, hash: event.at.hash });
    let version = |version: u64, change: &str, value: Option<&Json>, author: bool| {
        json!({
            "version": version,
            "change": change,
            "value": value.map(Json::value),
            "author": event.at.header.agent_id.filter(|_| author),
            "timestamp": event.at.time.rfc3339(),
            "event_id": event_id,
        })
    };
    match (&event.command, effect) {
        (Command::MemorySet(set), Effect::MemorySet(effect)) => {
            let expired = effect.expired.map(|expired| version(expired, "expire", None, false));
            let change = if effect.created { "create" } else { "update" };
            let value = effect.made(set);
            expired.into_iter().chain([version(effect.version, change, value, true)]).collect()
        }
        (Command::MemoryDelete(_), Effect::MemoryDelete(effect)) => vec![version(effect.version, "delete", None, true)],
        (Command::MemoryExpire(_), Effect::MemoryExpire(effect)) => {
            vec![version(effect.version, "expire", None, false)]
        }
        _ => Vec::new(),
    }
}
