//! Rows: what read models keep, state-shaped, by area in `row/`. `Rows` is the working set of a fold: loaded rows and what became of them.

pub mod answer;
pub mod direct;
pub mod fleet;
pub mod memory;
pub mod presence;
pub mod projector;
mod states;
pub mod sum;
pub mod tenant;

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry as Slot};

use serde::{Deserialize, Serialize};

use self::{
    answer::Answer,
    direct::{MailCount, Message, Notice},
    fleet::{Fleet, Head, Home, Slug},
    memory::Entry,
    presence::{Agent, Name},
    projector::Projector,
    sum::Sum,
    tenant::{Key, Secret, Tenant},
};
use crate::{
    ids::{AgentId, CommandId, MemoryId, MessageId, Scope, TenantId},
    json::Json,
    planted::{Bug, planted},
    position::{LogTime, Offset},
};

/// The kinds of rows. The text is the name in every store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is documented at its state")]
pub enum Table {
    Tenant,
    Fleet,
    Slug,
    Key,
    Head,
    Agent,
    Name,
    Memory,
    Message,
    Notice,
    MailCount,
    Answer,
    Secret,
    Home,
    Projector,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Tenant,
        Self::Fleet,
        Self::Slug,
        Self::Key,
        Self::Head,
        Self::Agent,
        Self::Name,
        Self::Memory,
        Self::Message,
        Self::Notice,
        Self::MailCount,
        Self::Answer,
        Self::Secret,
        Self::Home,
        Self::Projector,
    ];

    /// Its name in every store.
    pub fn text(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Fleet => "fleet",
            Self::Slug => "slug",
            Self::Key => "key",
            Self::Head => "head",
            Self::Agent => "agent",
            Self::Name => "name",
            Self::Memory => "memory",
            Self::Message => "message",
            Self::Notice => "notice",
            Self::MailCount => "mail_count",
            Self::Answer => "answer",
            Self::Secret => "secret",
            Self::Home => "home",
            Self::Projector => "projector",
        }
    }
}

/// About the bytes of a row without long values.
const ROW_BYTES: usize = 1 << 10;

/// The one name of a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RowKey {
    /// Which kind.
    pub table: Table,
    /// Whose.
    pub scope: Scope,
    /// Which one.
    pub key: String,
}

impl RowKey {
    /// Names a row.
    #[expect(clippy::needless_pass_by_value, reason = "ids are copied and texts lent: callers read better")]
    pub fn new(table: Table, scope: Scope, key: impl ToString) -> Self {
        Self { table, scope, key: key.to_string() }
    }

    /// The agent `id`.
    pub fn agent(scope: Scope, id: AgentId) -> Self {
        Self::new(Table::Agent, scope, id)
    }

    /// Who has this name.
    pub fn name(scope: Scope, name: &str) -> Self {
        Self::new(Table::Name, scope, name)
    }

    /// The memory entry under `key`.
    pub fn memory(scope: Scope, key: &str) -> Self {
        let tenant = if planted(Bug::TenantForgotten) { TenantId::from_bits(0) } else { scope.tenant };
        Self::new(Table::Memory, Scope { tenant, ..scope }, key)
    }

    /// The message `id`.
    pub fn message(scope: Scope, id: MessageId) -> Self {
        Self::new(Table::Message, scope, id)
    }

    /// The status that the command `id` made.
    pub fn notice(scope: Scope, id: CommandId) -> Self {
        Self::new(Table::Notice, scope, id)
    }

    /// How many messages wait for `to`, from one sender or from all.
    pub fn mail_count(scope: Scope, to: AgentId, from: Option<AgentId>) -> Self {
        let key = from.map_or_else(|| to.to_string(), |from| format!("{to}/{from}"));
        Self::new(Table::MailCount, scope, key)
    }

    /// The answer to an agent's idempotency key.
    pub fn answer(scope: Scope, agent: AgentId, key: &str) -> Self {
        Self::new(Table::Answer, scope, format!("{agent}/{key}"))
    }

    /// The fleet's last position.
    pub fn head(scope: Scope) -> Self {
        Self::new(Table::Head, scope, "")
    }
}

/// A row's content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is documented at its state")]
pub enum Row {
    Tenant(Tenant),
    Fleet(Fleet),
    Slug(Slug),
    Key(Key),
    Head(Head),
    Agent(Box<Agent>),
    Name(Name),
    Memory(Box<Entry>),
    Message(Message),
    Notice(Notice),
    MailCount(MailCount),
    Answer(Box<Answer>),
    Secret(Secret),
    Home(Home),
    Projector(Projector),
}

/// What a store indexes of a row beside its key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowIndex {
    /// When `timers` must look at it.
    pub due_at: Option<LogTime>,
    /// Whose mail it is, and its place among it.
    pub mail: Option<(AgentId, Offset)>,
    /// Until when lists of its kind show it.
    pub listed_until: Option<LogTime>,
    /// What searches look at; `None`: not searchable now.
    pub search: Option<Search>,
}

/// The searchable side of a live memory entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    /// Key and the beginning of the value, in lower case.
    pub text: String,
    /// Its metadata.
    pub metadata: Option<Json>,
    /// Its tags.
    pub tags: Vec<String>,
    /// Who wrote it last.
    pub author: Option<AgentId>,
    /// When this life of it began.
    pub created_at: LogTime,
    /// When it last changed.
    pub updated_at: LogTime,
    /// When it ends.
    pub expires_at: Option<LogTime>,
}

impl Row {
    /// Its name.
    pub fn key(&self) -> RowKey {
        match self {
            Self::Tenant(row) => row.row_key(),
            Self::Fleet(row) => row.row_key(),
            Self::Slug(row) => row.row_key(),
            Self::Key(row) => row.row_key(),
            Self::Head(row) => RowKey::head(row.scope),
            Self::Agent(row) => RowKey::agent(row.scope, row.id),
            Self::Name(row) => RowKey::name(row.scope, &row.name),
            Self::Memory(row) => RowKey::memory(row.scope, &row.key),
            Self::Message(row) => RowKey::message(row.scope, row.id),
            Self::Notice(row) => RowKey::notice(row.scope, row.id),
            Self::MailCount(row) => RowKey::mail_count(row.scope, row.to, row.from),
            Self::Answer(row) => RowKey::answer(row.scope, row.agent, &row.key),
            Self::Secret(row) => row.row_key(),
            Self::Home(row) => row.row_key(),
            Self::Projector(row) => row.row_key(),
        }
    }

    /// As every store keeps it: one line of JSON.
    pub fn text(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("rows serialise")
    }

    /// About its bytes in memory.
    pub fn weight(&self) -> usize {
        let long = match self {
            Self::Memory(row) => row.content.as_ref().map(|content| &content.value),
            Self::Answer(row) => Some(&row.outcome),
            _ => None,
        };
        ROW_BYTES + long.map_or(0, |long| long.text().len())
    }

    /// What a store indexes.
    pub fn index(&self) -> RowIndex {
        match self {
            Self::Agent(row) => row.index(),
            Self::Memory(row) => row.index(),
            Self::Message(row) => row.index(),
            Self::Notice(row) => row.index(),
            Self::Answer(row) => row.index(),
            _ => RowIndex::default(),
        }
    }
}

/// A state that is kept as a row of its own kind.
pub trait State: Sized {
    /// The state in a row of its kind.
    fn of(row: &Row) -> Option<&Self>;
}

/// The rows that some commands touch, as far as the rows that are known tell.
#[derive(Debug)]
pub struct Needs<'a> {
    known: &'a Rows,
    unknown: BTreeSet<RowKey>,
    peeked: bool,
}

impl<'a> Needs<'a> {
    /// Of nothing yet.
    pub fn of(known: &'a Rows) -> Self {
        Self { known, unknown: BTreeSet::new(), peeked: false }
    }

    /// Asks for one row.
    pub fn row(&mut self, key: RowKey) {
        if !self.known.knows(&key) {
            self.unknown.insert(key);
        }
    }

    /// Asks for some rows.
    pub fn rows(&mut self, keys: impl IntoIterator<Item = RowKey>) {
        keys.into_iter().for_each(|key| self.row(key));
    }

    /// A row that names others, if it is known by now.
    pub fn peek<T: State>(&mut self, key: &RowKey) -> Option<&'a T> {
        self.peeked = true;
        self.known.known.get(key).and_then(Option::as_ref).and_then(T::of)
    }

    /// Whether a row was looked at since this was asked the last time.
    pub(crate) fn peeked(&mut self) -> bool {
        std::mem::take(&mut self.peeked)
    }

    /// What was named and is not known yet.
    pub fn unknown(self) -> BTreeSet<RowKey> {
        self.unknown
    }
}

/// The working set of a fold.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    known: BTreeMap<RowKey, Option<Row>>,
    changed: BTreeSet<RowKey>,
    /// About the bytes of what is known.
    weight: usize,
    /// About the bytes of what changed.
    changed_weight: usize,
    /// The newest log time of the partition.
    pub time: LogTime,
}

impl Rows {
    /// An empty set for a partition whose newest log time is `time`.
    pub fn at(time: LogTime) -> Self {
        Self { time, ..Self::default() }
    }

    /// Puts in what a store answered for `keys`; a key without a row is known to be vacant.
    pub fn load(&mut self, keys: impl IntoIterator<Item = RowKey>, rows: impl IntoIterator<Item = Row>) {
        for key in keys {
            if let Slot::Vacant(vacant) = self.known.entry(key) {
                vacant.insert(None);
                self.weight += ROW_BYTES;
            }
        }
        for row in rows {
            self.know(row.key(), Some(row));
        }
    }

    fn know(&mut self, key: RowKey, row: Option<Row>) {
        let weight = |row: &Option<Row>| row.as_ref().map_or(ROW_BYTES, Row::weight);
        self.weight += weight(&row);
        let before = self.known.insert(key, row);
        self.weight -= before.as_ref().map_or(0, weight);
    }

    /// What changed is stored: now it is only known, for the next batch of the same partition.
    pub fn stored(&mut self) {
        self.changed.clear();
        self.changed_weight = 0;
    }

    /// About the bytes of what is known.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// About the bytes of what changed.
    pub fn changed_weight(&self) -> usize {
        self.changed_weight
    }

    /// Whether a row was loaded, vacant or not.
    pub fn knows(&self, key: &RowKey) -> bool {
        self.known.contains_key(key)
    }

    /// A declared row, if there is one.
    ///
    /// # Panics
    /// The row was not declared by `needs`: our own bug.
    pub fn get<T: State>(&self, key: &RowKey) -> Option<&T> {
        let row = self.known.get(key);
        assert!(row.is_some(), "a fold touched {key:?} without declaring it in needs()");
        row.and_then(Option::as_ref).and_then(T::of)
    }

    /// The agent `id`.
    pub fn agent(&self, scope: Scope, id: AgentId) -> Option<&Agent> {
        self.get(&RowKey::agent(scope, id))
    }

    /// Writes a row.
    pub fn put(&mut self, row: Row) {
        let key = row.key();
        assert!(self.known.contains_key(&key), "a fold wrote {key:?} without declaring it in needs()");
        self.change(key, Some(row));
    }

    /// Removes a row.
    pub fn remove(&mut self, key: RowKey) {
        assert!(self.known.contains_key(&key), "a fold removed {key:?} without declaring it in needs()");
        self.change(key, None);
    }

    fn change(&mut self, key: RowKey, row: Option<Row>) {
        let weight = |row: Option<&Row>| row.map_or(ROW_BYTES, Row::weight);
        if !self.changed.insert(key.clone()) {
            self.changed_weight -= weight(self.known.get(&key).and_then(Option::as_ref));
        }
        self.changed_weight += weight(row.as_ref());
        self.know(key, row);
    }

    /// What became of the changed rows, by name; `None` is removed.
    pub fn changed(&self) -> impl Iterator<Item = (&RowKey, Option<&Row>)> {
        self.changed.iter().map(|key| (key, self.known.get(key).and_then(Option::as_ref)))
    }

    /// Everything known, for folding in memory.
    pub fn all(&self) -> impl Iterator<Item = &Row> {
        self.known.values().flatten()
    }
}

/// Over rows in key order: equal states have equal digests.
pub fn digest<'a>(rows: impl IntoIterator<Item = &'a Row>, applied: Offset) -> String {
    let sorted: BTreeMap<RowKey, &Row> = rows.into_iter().map(|row| (row.key(), row)).collect();
    let mut sum = Sum::default();
    for row in sorted.values() {
        sum.add(&row.text());
    }
    sum.digest(applied)
}

impl MemoryId {
    /// The id of the entry that a command creates.
    pub fn of(command: CommandId) -> Self {
        Self::from_bits(command.bits())
    }
}

impl MessageId {
    /// The id of the message that a command sends.
    pub fn of(command: CommandId) -> Self {
        Self::from_bits(command.bits())
    }
}

#[cfg(test)]
mod tests;
