//! A commit as the columns of its lines, made by whoever commits, so that the thread that writes only writes.

use std::collections::BTreeMap;

use ringforge_domain::{
    ids::{AgentId, Scope},
    position::{Offset, Partition},
    row::{Row, RowKey, Search, Table},
    verdict::{Stream, Verdict},
};
use ringforge_ports::{
    Error,
    reads::{Commit, fields},
};
use serde::Serialize;
use serde_json::Value;

/// What a commit writes.
pub(super) struct Batch {
    pub partition: i64,
    pub previous: i64,
    pub upto: i64,
    pub time: i64,
    pub rows: Vec<RowLine>,
    pub verdicts: Vec<VerdictLine>,
}

/// A row that changed.
pub(super) struct RowLine {
    pub table: Table,
    pub scope: Scope,
    pub key: String,
    /// `None`: it is removed.
    pub now: Option<RowNow>,
}

/// What became of a row.
pub(super) struct RowNow {
    pub due_at: Option<i64>,
    pub owner: Option<String>,
    pub place: Option<i64>,
    pub listed: Option<i64>,
    pub body: String,
    /// Of a memory entry that can be found.
    pub search: Option<SearchLine>,
}

/// What searches look at of a memory entry.
pub(super) struct SearchLine {
    pub expires_at: Option<i64>,
    pub created_at: i64,
    pub updated_at: i64,
    pub author: Option<String>,
    pub lower_key: String,
    /// See [`tag_lines`].
    pub tags: Option<String>,
    /// A line for each field.
    pub metadata: Option<String>,
    pub text: String,
}

/// A verdict and how it is found.
pub(super) struct VerdictLine {
    pub place: i64,
    pub scope: Scope,
    pub time: i64,
    /// None: searches never find it.
    pub stream: Option<&'static str>,
    pub label: Option<String>,
    pub subject: Option<String>,
    pub agent: Option<String>,
    pub routed: bool,
    pub parties: Option<String>,
    pub body: String,
    /// Each tag, whether it has it, and whether it is routed by it.
    pub tags: Vec<(String, bool, bool)>,
}

/// The place of an offset among those of all partitions.
pub(super) fn place(partition: Partition, offset: Offset) -> i64 {
    let offset = offset.0.min(Offset::LIMIT.0 - 1);
    (u64::from(partition.0) * Offset::LIMIT.0 + offset).cast_signed()
}

/// The offset of a place.
pub(super) fn offset(place: i64) -> Offset {
    Offset(place.cast_unsigned() % Offset::LIMIT.0)
}

/// One line for each text, with a line feed before and after each; `None` if there are none.
fn lines(texts: impl IntoIterator<Item = String>) -> Option<String> {
    let lines: String = texts.into_iter().map(|text| line(&text)).collect();
    (!lines.is_empty()).then_some(lines)
}

/// How one of [`lines`] is looked for. `text` holds no line feed.
pub(super) fn line(text: &str) -> String {
    format!("\n{text}\n")
}

/// A tag as one line.
pub(super) fn tag_line(tag: &str) -> String {
    Value::from(tag).to_string()
}

/// The tags of an entry, as one text that is equal when they are.
fn tag_lines(tags: &[String]) -> Option<String> {
    lines(tags.iter().map(|tag| tag_line(tag)))
}

/// The tags in a text that [`tag_lines`] made, each as one line.
pub(super) fn tags_in(lines: &str) -> impl Iterator<Item = &str> {
    lines.split('\n').filter(|line| !line.is_empty())
}

impl Batch {
    pub fn of(commit: &Commit) -> Result<Self, Error> {
        let last: BTreeMap<&RowKey, Option<&Row>> = commit.rows.iter().map(|(key, row)| (key, row.as_ref())).collect();
        let rows = last.into_iter().map(|(key, row)| RowLine::of(key, row)).collect::<Result<_, _>>()?;
        let last: BTreeMap<Offset, &Verdict> =
            commit.verdicts.iter().map(|verdict| (verdict.position.offset, verdict)).collect();
        let verdicts =
            last.into_iter().map(|(offset, verdict)| VerdictLine::of(place(commit.partition, offset), verdict));
        Ok(Self {
            partition: i64::from(commit.partition.0),
            previous: commit.previous.0.cast_signed(),
            upto: commit.upto.0.cast_signed(),
            time: commit.time.0,
            rows,
            verdicts: verdicts.collect::<Result<_, _>>()?,
        })
    }

    /// Whose it is.
    pub fn partition(&self) -> Partition {
        Partition(u16::try_from(self.partition).expect("made from one"))
    }

    /// About its bytes.
    pub fn weight(&self) -> usize {
        let row = |line: &RowLine| {
            let now = line.now.as_ref();
            let text = now.and_then(|now| now.search.as_ref()).map_or(0, |search| search.text.len());
            LINE + line.key.len() + text + now.map_or(0, |now| now.body.len())
        };
        let rows: usize = self.rows.iter().map(row).sum();
        rows + self.verdicts.iter().map(|line| LINE + line.body.len()).sum::<usize>()
    }
}

/// What a line weighs beside its texts.
const LINE: usize = 256;

impl RowLine {
    fn of(key: &RowKey, row: Option<&Row>) -> Result<Self, Error> {
        let now = row.map(|row| RowNow::of(key, row)).transpose()?;
        Ok(Self { table: key.table, scope: key.scope, key: key.key.clone(), now })
    }
}

impl RowNow {
    fn of(key: &RowKey, row: &Row) -> Result<Self, Error> {
        let index = row.index();
        let (owner, place) = index.mail.unzip();
        Ok(Self {
            due_at: index.due_at.map(|time| time.0),
            owner: owner.map(|agent| agent.to_string()),
            place: place.map(|place| place.0.cast_signed()),
            listed: index.listed_until.map(|time| time.0),
            body: text(row)?,
            search: index.search.map(|search| SearchLine::of(key, search)),
        })
    }
}

impl SearchLine {
    fn of(key: &RowKey, search: Search) -> Self {
        Self {
            expires_at: search.expires_at.map(|time| time.0),
            created_at: search.created_at.0,
            updated_at: search.updated_at.0,
            author: search.author.map(|agent| agent.to_string()),
            lower_key: key.key.to_lowercase(),
            tags: tag_lines(&search.tags),
            metadata: lines(search.metadata.as_ref().and_then(fields).unwrap_or_default()),
            text: search.text,
        }
    }
}

impl VerdictLine {
    pub fn of(place: i64, verdict: &Verdict) -> Result<Self, Error> {
        let index = &verdict.index;
        let parties: String = index.parties.iter().map(AgentId::to_string).collect();
        let mut tags: BTreeMap<&str, (bool, bool)> = BTreeMap::new();
        if index.stream.is_some() {
            index.tags.iter().for_each(|tag| tags.entry(tag).or_default().0 = true);
            index.routing.iter().for_each(|tag| tags.entry(tag).or_default().1 = true);
        }
        Ok(Self {
            place,
            scope: verdict.scope,
            time: verdict.time.0,
            stream: index.stream.map(Stream::text),
            label: index.label.clone(),
            subject: index.subject.clone(),
            agent: verdict.agent.map(|agent| agent.to_string()),
            routed: !index.routing.is_empty(),
            parties: (!parties.is_empty()).then_some(parties),
            body: text(verdict)?,
            tags: tags.into_iter().map(|(tag, (tagged, routed))| (tag.to_owned(), tagged, routed)).collect(),
        })
    }
}

fn text(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|error| Error::Corrupt(format!("serialise: {error}")))
}
