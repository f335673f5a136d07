//! The read models: rows, verdicts and how far the log has been applied, changed together or not at all.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use futures_util::{TryStreamExt as _, stream::BoxStream};
use ringforge_domain::{
    event::Event,
    fleet::Head,
    ids::{AgentId, Scope},
    interest::{Span, Topic},
    json::Json,
    limits::ANSWER_BYTES_MAX,
    position::{LogTime, Offset, Partition},
    row::{Row, RowKey, Search, Table},
    verdict::{Index, Stream, Verdict},
};
use serde_json::Value;

use crate::Error;

/// An event and its verdict: what is fanned out. An event that could not be read has a verdict all the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// The event, unless it is damaged.
    pub event: Option<Event>,
    /// What came of it.
    pub verdict: Verdict,
}

impl Update {
    /// About its bytes.
    pub fn weight(&self) -> usize {
        self.verdict.weight() + self.event.as_ref().map_or(0, |event| event.at.bytes)
    }
}

/// One step of one partition: everything from `previous` up to `upto`, applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Commit {
    /// Which.
    pub partition: Partition,
    /// Where it stood: the next offset to apply.
    pub previous: Offset,
    /// Where it stands then.
    pub upto: Offset,
    /// The newest log time applied.
    pub time: LogTime,
    /// Changed rows by name; `None` is removed. Of two changes of one row the later counts.
    pub rows: Vec<(RowKey, Option<Row>)>,
    /// The verdicts of the events in between.
    pub verdicts: Vec<Verdict>,
}

/// How far a partition has been applied, and the newest log time that was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The next offset to apply.
    pub upto: Offset,
    /// The newest log time applied.
    pub time: LogTime,
}

/// Rows, and the state of their partition at that moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The rows, as many as have room.
    pub rows: Vec<Row>,
    /// The names of the others, in the same order.
    pub rest: Vec<RowKey>,
    /// How many match in all, where the question counts them ([`Find::Memory`], without `after`, `skip` and `limit`); else the
    /// number of rows.
    pub total: u64,
    /// The snapshot they come from.
    pub applied: Applied,
}

impl Found {
    /// Whether a page of at most `limit` rows was the last one.
    pub fn is_last(&self, limit: u32) -> bool {
        self.rest.is_empty() && self.rows.len() < limit as usize
    }
}

/// What an answer has room for: as much as [`ANSWER_BYTES_MAX`] bytes, and one thing at least.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    max: usize,
    used: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self { max: ANSWER_BYTES_MAX, used: 0 }
    }
}

impl Room {
    /// For everything.
    pub fn endless() -> Self {
        Self { max: usize::MAX, used: 0 }
    }

    /// Whether a thing of so many bytes, more than none, still has room. Nothing has after one that had not.
    pub fn takes(&mut self, bytes: usize) -> bool {
        let first = self.used == 0;
        self.used += bytes;
        first || self.used <= self.max
    }
}

/// Which rows.
#[derive(Clone, Debug, PartialEq)]
pub enum Find {
    /// All of a kind, of one fleet or of the partition, by name, after a name.
    Table {
        /// The kind.
        table: Table,
        /// Only of this fleet.
        scope: Option<Scope>,
        /// Only after this row.
        after: Option<RowKey>,
        /// At most so many.
        limit: u32,
    },
    /// What is due at `now` or before, the longest due first; ties by kind (as text), scope and key.
    Due {
        /// Log time.
        now: LogTime,
        /// At most so many.
        limit: u32,
    },
    /// The mail of an agent, by place; ties by kind (as text) and key.
    Mail {
        /// Its fleet.
        scope: Scope,
        /// The agent.
        agent: AgentId,
        /// Only after this place.
        after: Option<Offset>,
        /// At most so many.
        limit: u32,
    },
    /// Rows of a kind and fleet that lists show ([`RowIndex::listed_until`](ringforge_domain::row::RowIndex)), by key, after a
    /// key.
    Listed {
        /// The kind.
        table: Table,
        /// The fleet.
        scope: Scope,
        /// Which of them.
        which: Listed,
        /// Only after this key.
        after: Option<String>,
        /// At most so many.
        limit: u32,
    },
    /// Memory entries that hold something.
    Memory(MemoryFilter),
}

/// Which of the rows that lists show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// Those whose time on the list is not over.
    At(LogTime),
    /// Those that a commit changed since the partition stood there, their time over or not. Removed ones are not told.
    Since(Offset),
}

/// How memory entries are ordered; ties by key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemorySort {
    /// By key.
    #[default]
    Key,
    /// More of the words in the key first, then last changed first.
    Relevance,
    /// Newest first.
    CreatedAt,
    /// Last changed first.
    UpdatedAt,
}

/// Which memory entries. Every condition that is given must hold.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryFilter {
    /// The fleet.
    pub scope: Scope,
    /// Entries whose time is over at `now` are left out, recorded as expired or not.
    pub now: LogTime,
    /// Keys that begin so.
    pub prefix: Option<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// Whether one of the tags is enough.
    pub any_tag: bool,
    /// Lower-case words, each a substring of the search text.
    pub words: Vec<String>,
    /// The last author.
    pub author: Option<AgentId>,
    /// Changed at this time or later.
    pub since: Option<LogTime>,
    /// An object whose fields the metadata has, equal as JSON (see [`fields`]). What is no object matches nothing.
    pub metadata: Option<Json>,
    /// The order.
    pub sort: MemorySort,
    /// For order by key, else ignored: only after this key. Does not change `total`.
    pub after: Option<String>,
    /// Entries to skip.
    pub skip: u32,
    /// At most so many.
    pub limit: u32,
}

impl MemoryFilter {
    /// Every live entry of a fleet.
    pub fn all(scope: Scope, now: LogTime) -> Self {
        Self {
            scope,
            now,
            prefix: None,
            tags: Vec::new(),
            any_tag: false,
            words: Vec::new(),
            author: None,
            since: None,
            metadata: None,
            sort: MemorySort::Key,
            after: None,
            skip: 0,
            limit: ringforge_domain::limits::PAGE_MAX,
        }
    }

    /// Whether an entry is one of those meant; `after`, `skip` and `limit` apart. What every adapter's query must agree with.
    pub fn includes(&self, name: &RowKey, search: &Search) -> bool {
        let has = |tag: &String| search.tags.contains(tag);
        let tagged =
            self.tags.is_empty() || if self.any_tag { self.tags.iter().any(has) } else { self.tags.iter().all(has) };
        let described = self.metadata.as_ref().is_none_or(|wanted| {
            let found = search.metadata.as_ref().and_then(fields).unwrap_or_default();
            fields(wanted).is_some_and(|wanted| wanted.is_subset(&found))
        });
        name.table == Table::Memory
            && name.scope == self.scope
            && search.expires_at.is_none_or(|end| self.now < end)
            && self.prefix.as_ref().is_none_or(|prefix| name.key.starts_with(prefix.as_str()))
            && tagged
            && self.words.iter().all(|word| search.text.contains(word.as_str()))
            && self.author.is_none_or(|author| search.author == Some(author))
            && self.since.is_none_or(|since| search.updated_at >= since)
            && described
    }

    /// How many of the words the key holds, upper and lower case alike.
    pub fn relevance(&self, key: &str) -> usize {
        let key = key.to_lowercase();
        self.words.iter().filter(|word| key.contains(word.as_str())).count()
    }
}

/// The fields of a JSON object, each as one line of JSON, `"name":value`, so that equal fields are equal texts: members are
/// sorted, numbers are as `serde_json` writes them (`1` is not `1.0`). `None` if it is no object.
pub fn fields(json: &Json) -> Option<BTreeSet<String>> {
    let Value::Object(members) = json.value() else { return None };
    let line = |(name, mut value): (String, Value)| {
        value.sort_all_objects();
        format!("{}:{value}", Value::String(name))
    };
    Some(members.into_iter().map(line).collect())
}

/// Which verdicts of a fleet.
#[derive(Clone, Debug, PartialEq)]
pub enum Which {
    /// Every one after an offset (`None`: from the first), in order, at most `limit`.
    After {
        /// The last one that is known.
        after: Option<Offset>,
        /// At most so many.
        limit: u32,
    },
    /// Those at these offsets, each once, by offset; missing ones and those of other fleets are left out.
    At(Vec<Offset>),
    /// The oldest about each of these things, by offset; things without are left out. All that is about the same subject may be
    /// looked at, so it is for what little is about.
    About(Vec<About>),
    /// Those that match.
    Matching(Matching),
}

/// What verdicts are about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct About {
    /// The part of history.
    pub stream: Stream,
    /// The label.
    pub label: String,
    /// The subject.
    pub subject: String,
}

impl About {
    /// What a verdict is about, if it has all three.
    pub fn of(verdict: &Verdict) -> Option<Self> {
        let Index { stream: Some(stream), label: Some(label), subject: Some(subject), .. } = &verdict.index else {
            return None;
        };
        Some(Self { stream: *stream, label: label.clone(), subject: subject.clone() })
    }
}

/// Which part of a fleet's history. Every condition that is given must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matching {
    /// Any of these parts of history (none given: nothing matches); a verdict that is in none never matches.
    pub streams: Vec<Stream>,
    /// Any of these labels.
    pub labels: Vec<String>,
    /// Any of these tags.
    pub tags: Vec<String>,
    /// Whether all tags are needed.
    pub all_tags: bool,
    /// Any of these authors.
    pub agents: Vec<AgentId>,
    /// What it is about.
    pub subject: Option<String>,
    /// At this log time or later.
    pub from: Option<LogTime>,
    /// Before this log time.
    pub to: Option<LogTime>,
    /// Only after this offset.
    pub after: Option<Offset>,
    /// Who looks; `None` sees everything.
    pub viewer: Option<Viewer>,
    /// Whether the newest matches (after `after`) count when there are more than `limit`; they come oldest first all the same.
    pub newest: bool,
    /// At most so many.
    pub limit: u32,
}

/// Who looks at history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Viewer {
    /// The agent.
    pub agent: AgentId,
    /// Its subscriptions and when they were in force.
    pub spans: Vec<Span>,
}

impl Matching {
    /// Whether a verdict is one of those meant, `after` and `limit` apart. What every adapter's query must agree with.
    pub fn includes(&self, verdict: &Verdict) -> bool {
        let index = &verdict.index;
        let any =
            |wanted: &[String], found: &mut dyn FnMut(&String) -> bool| wanted.is_empty() || wanted.iter().any(found);
        let has = |tag: &String| index.tags.contains(tag);
        let tagged =
            self.tags.is_empty() || if self.all_tags { self.tags.iter().all(has) } else { self.tags.iter().any(has) };
        index.stream.is_some_and(|stream| self.streams.contains(&stream))
            && any(&self.labels, &mut |label| index.label.as_ref() == Some(label))
            && tagged
            && (self.agents.is_empty() || verdict.agent.is_some_and(|agent| self.agents.contains(&agent)))
            && self.subject.as_ref().is_none_or(|subject| index.subject.as_ref() == Some(subject))
            && self.from.is_none_or(|from| verdict.time >= from)
            && self.to.is_none_or(|to| verdict.time < to)
            && self.visible(verdict)
    }

    /// Whether the viewer may see it: one of the parties, and for tagged things the author, a subscriber at that time,
    /// or someone who names one of the routing tags.
    pub fn visible(&self, verdict: &Verdict) -> bool {
        let Some(viewer) = &self.viewer else { return true };
        let index = &verdict.index;
        let party = index.parties.is_empty() || index.parties.contains(&viewer.agent);
        let offset = verdict.position.offset;
        let subscribed = |span: &Span| {
            let in_force = span.since < offset && span.until.is_none_or(|until| offset <= until);
            in_force
                && match &span.topic {
                    Topic::Tag(tag) => index.routing.contains(tag),
                    Topic::Kind(kind) => index.label.as_ref() == Some(kind),
                    Topic::Memory(_) => false,
                }
        };
        let interested = index.routing.is_empty()
            || verdict.agent == Some(viewer.agent)
            || self.tags.iter().any(|tag| index.routing.contains(tag))
            || viewer.spans.iter().any(subscribed);
        party && interested
    }
}

/// Verdicts, and the state of their partition at that moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdicts {
    /// The verdicts, by offset, as many as have room.
    pub verdicts: Vec<Verdict>,
    /// The offsets of the others, in the same order.
    pub rest: Vec<Offset>,
    /// How many match in all ([`Which::Matching`], without `after` and `limit`); else how many there are here.
    pub total: u64,
    /// The oldest one of the fleet that is still kept.
    pub oldest: Option<Offset>,
    /// The snapshot they come from.
    pub applied: Applied,
}

impl Verdicts {
    /// Whether a page of at most `limit` verdicts was the last one.
    pub fn is_last(&self, limit: u32) -> bool {
        self.rest.is_empty() && self.verdicts.len() < limit as usize
    }
}

/// The ends of fleets, and the state of their partition at that moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heads {
    /// In the order asked; `None`: nothing yet.
    pub heads: Vec<Option<Head>>,
    /// The snapshot they come from.
    pub applied: Applied,
}

/// All rows of a partition at one moment.
pub struct Snapshot {
    /// Where it stood.
    pub applied: Applied,
    /// The rows by name, in pages as an answer has room for, none empty. An error is the last item; it is `Unavailable` when it
    /// takes longer than `limits::SNAPSHOT`.
    pub rows: BoxStream<'static, Result<Vec<Row>, Error>>,
}

/// Rows, verdicts and applied positions, partition by partition. An answer holds rows or verdicts until their bytes fill its
/// [`Room`] and names the rest: ask for those by name.
#[async_trait]
pub trait Reads: Send + Sync {
    /// Writes all of `commits`, in order, or nothing. `Conflict`, and nothing is written, if a partition does not stand at its
    /// `previous` (one never applied stands at zero). After `Ok`, and after any restart that keeps the store, every read sees it.
    /// `Unavailable`: it may have been written; ask where the partition stands.
    async fn commit(&self, commits: &[Commit]) -> Result<(), Error>;

    /// The rows under `keys` that exist, in any order, from one snapshot of `partition`. A partition never applied stands at
    /// zero. Rows of other partitions never appear.
    async fn load(&self, partition: Partition, keys: &BTreeSet<RowKey>) -> Result<Found, Error>;

    /// The rows that `find` means, from one snapshot of `partition`. Rows of other partitions never appear.
    async fn find(&self, partition: Partition, find: &Find) -> Result<Found, Error>;

    /// The verdicts of a fleet that `which` means, by offset, from one snapshot of `partition`. Those of other fleets and
    /// partitions never appear.
    async fn verdicts(&self, partition: Partition, scope: Scope, which: &Which) -> Result<Verdicts, Error>;

    /// The last event of each fleet, as its row says, from one snapshot of `partition`.
    async fn heads(&self, partition: Partition, fleets: &[Scope]) -> Result<Heads, Error>;

    /// Every row of `partition` from one snapshot, whatever is committed while it is read.
    async fn snapshot(&self, partition: Partition) -> Result<Snapshot, Error>;

    /// The verdicts of `partition` before `before` are not needed any more: sooner or later they are gone. None from there on
    /// is, nor anything else.
    async fn forget(&self, partition: Partition, before: Offset) -> Result<(), Error>;
}

/// Every verdict of a fleet, in order, for digests and rebuild tests.
///
/// # Errors
/// Whatever the adapter says.
pub async fn every_verdict(reads: &Arc<dyn Reads>, partition: Partition, scope: Scope) -> Result<Vec<Verdict>, Error> {
    let mut verdicts: Vec<Verdict> = Vec::new();
    loop {
        let after = verdicts.last().map(|verdict| verdict.position.offset);
        let limit = ringforge_domain::limits::ROWS_PAGE_MAX;
        let page = reads.verdicts(partition, scope, &Which::After { after, limit }).await?;
        if page.verdicts.is_empty() {
            return Ok(verdicts);
        }
        verdicts.extend(page.verdicts);
    }
}

/// Every row of a partition, for digests and rebuild tests.
///
/// # Errors
/// Whatever the adapter says.
pub async fn every_row(reads: &Arc<dyn Reads>, partition: Partition) -> Result<(Vec<Row>, Applied), Error> {
    let Snapshot { applied, rows } = reads.snapshot(partition).await?;
    Ok((rows.try_concat().await?, applied))
}
