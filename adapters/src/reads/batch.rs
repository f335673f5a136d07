//! A commit as arrays of JSON, one for each table, so that a table takes one statement however many rows there are.

use std::collections::BTreeMap;

use ringforge_domain::{
    ids::AgentId,
    position::{Offset, Partition},
    row::{Row, RowKey, Search, Table},
    verdict::Verdict,
};
use ringforge_ports::{
    Error,
    reads::{Commit, fields},
};
use serde::Serialize;
use serde_json::Value;

/// What a commit writes; each text is an array of arrays, in the order of the statement's columns.
#[derive(Default)]
pub(super) struct Batch {
    pub rows: Tuples,
    pub removed: Tuples,
    /// Every memory entry that changed.
    pub memory: Tuples,
    /// Those of them that can be found.
    pub searchable: Tuples,
    pub verdicts: Tuples,
    pub history: Tuples,
    pub tags: Tuples,
}

/// An array of arrays in the making.
#[derive(Default)]
pub(super) struct Tuples(Vec<u8>);

impl Tuples {
    fn push(&mut self, tuple: &impl Serialize) -> Result<(), Error> {
        self.0.push(if self.0.is_empty() { b'[' } else { b',' });
        serde_json::to_writer(&mut self.0, tuple).map_err(|error| Error::Corrupt(format!("serialise: {error}")))
    }

    /// The array; `None` if it is empty.
    pub fn text(self) -> Option<String> {
        let mut bytes = self.0;
        if bytes.is_empty() {
            return None;
        }
        bytes.push(b']');
        Some(String::from_utf8(bytes).expect("JSON is UTF-8"))
    }
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

impl Batch {
    pub fn of(commit: &Commit) -> Result<Self, Error> {
        let mut batch = Self::default();
        let last: BTreeMap<&RowKey, Option<&Row>> = commit.rows.iter().map(|(key, row)| (key, row.as_ref())).collect();
        for (key, row) in last {
            match row {
                Some(row) => batch.row(key, row)?,
                None => batch.removed.push(&(key.table.text(), key.scope.tenant, key.scope.fleet, &key.key))?,
            }
            if key.table == Table::Memory {
                batch.memory.push(&(key.scope.tenant, key.scope.fleet, &key.key))?;
            }
        }
        let last: BTreeMap<Offset, &Verdict> =
            commit.verdicts.iter().map(|verdict| (verdict.position.offset, verdict)).collect();
        for (offset, verdict) in last {
            batch.verdict(place(commit.partition, offset), verdict)?;
        }
        Ok(batch)
    }

    fn row(&mut self, key: &RowKey, row: &Row) -> Result<(), Error> {
        let index = row.index();
        let (tenant, fleet) = (key.scope.tenant, key.scope.fleet);
        self.rows.push(&(key.table.text(), tenant, fleet, &key.key, index.due_at, index.owner, text(row)?))?;
        match &index.search {
            Some(search) => self.search(key, search),
            None => Ok(()),
        }
    }

    fn search(&mut self, key: &RowKey, search: &Search) -> Result<(), Error> {
        let tags = lines(search.tags.iter().map(|tag| tag_line(tag)));
        let metadata = lines(search.metadata.as_ref().and_then(fields).unwrap_or_default());
        let times = (search.expires_at, search.created_at, search.updated_at);
        let words = (key.key.to_lowercase(), tags, metadata, &search.text);
        self.searchable.push(&(key.scope.tenant, key.scope.fleet, &key.key, times, search.author, words))
    }

    fn verdict(&mut self, place: i64, verdict: &Verdict) -> Result<(), Error> {
        let (tenant, fleet, index) = (verdict.scope.tenant, verdict.scope.fleet, &verdict.index);
        self.verdicts.push(&(place, tenant, fleet, text(verdict)?))?;
        let Some(stream) = index.stream else { return Ok(()) };
        let routed = i64::from(!index.routing.is_empty());
        let parties: String = index.parties.iter().map(AgentId::to_string).collect();
        let parties = (!parties.is_empty()).then_some(parties);
        let (label, subject) = (&index.label, &index.subject);
        self.history.push(&(
            tenant,
            fleet,
            place,
            verdict.time,
            stream.text(),
            label,
            subject,
            verdict.agent,
            routed,
            parties,
        ))?;
        let mut tags: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
        index.tags.iter().for_each(|tag| tags.entry(tag).or_default().0 = 1);
        index.routing.iter().for_each(|tag| tags.entry(tag).or_default().1 = 1);
        for (tag, (tagged, routed)) in tags {
            self.tags.push(&(tenant, fleet, tag, place, tagged, routed))?;
        }
        Ok(())
    }
}

fn text(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|error| Error::Corrupt(format!("serialise: {error}")))
}
