//! Rows, verdicts and commits for the promises of `Reads`, made by hand.

use ringforge_domain::{
    catalog::Effect,
    direct::{Echo, Message, Notice},
    fleet::Head,
    ids::{AgentId, CommandId, EdgeId, FleetId, KeyId, MemoryId, MessageId, Scope, SessionId, TenantId},
    interest::Interest,
    json::Json,
    memory::{Content, Entry, Provenance, ValueType},
    position::{LogTime, Offset, Partition, Position},
    presence::{Agent, Current, Name, State},
    row::{Row, RowKey},
    verdict::{First, Index, Outcome, Stream, Verdict},
};

use crate::{
    Error,
    contract::Failure,
    reads::{Commit, Found, Reads, Verdicts},
};

pub const ONE: Partition = Partition(1);
pub const TWO: Partition = Partition(2);
/// Nothing is ever applied of it.
pub const ONE_MORE: Partition = Partition(3);

/// The fleet most promises are about.
pub const FLEET: Scope = Scope { tenant: TenantId::from_bits(7), fleet: FleetId::from_bits(70) };
/// Another fleet of the same tenant.
pub const SISTER: Scope = Scope { tenant: TenantId::from_bits(7), fleet: FleetId::from_bits(71) };
/// A fleet of the same id, of another tenant.
pub const STRANGER: Scope = Scope { tenant: TenantId::from_bits(8), fleet: FleetId::from_bits(70) };

pub fn agent(number: u128) -> AgentId {
    AgentId::from_bits(number)
}

pub fn head(scope: Scope, last: u64) -> Row {
    Row::Head(Head { scope, last: Offset(last), hash: 9 })
}

pub fn name(scope: Scope, name: &str) -> Row {
    Row::Name(Name { scope, name: name.to_owned(), agent: agent(1) })
}

pub fn json(text: &str) -> Json {
    Json::parse(text).expect("the test's JSON is valid")
}

/// A memory entry that holds a text, written by agent 1 at 10; `change` makes of it what is wanted.
pub fn entry(scope: Scope, key: &str, value: &str, change: impl FnOnce(&mut Content, &mut Provenance)) -> Row {
    let mut content = Content {
        value: Json::from(&serde_json::Value::from(value)),
        value_type: ValueType::Text,
        tags: Vec::new(),
        metadata: None,
        ttl: None,
        expires_at: None,
        created_at: LogTime(10),
    };
    let event = First { offset: Offset(1), hash: 2 };
    let mut changed =
        Provenance { author: Some(agent(1)), key_id: None, session: None, task: None, event, at: LogTime(10) };
    change(&mut content, &mut changed);
    let (id, key) = (MemoryId::from_bits(1), key.to_owned());
    Row::Memory(Box::new(Entry { scope, key, id, version: 1, content: Some(content), changed }))
}

/// A memory entry that holds a text.
pub fn plain(scope: Scope, key: &str, value: &str) -> Row {
    entry(scope, key, value, |_, _| ())
}

/// An agent that is here, or was heard of last at a time.
pub fn member(scope: Scope, number: u128, left: Option<i64>) -> Row {
    let session = Current {
        id: SessionId::from_bits(1),
        key: KeyId::from_bits(1),
        edge: EdgeId::from_bits(1),
        started: Offset(1),
    };
    let seen = LogTime(left.unwrap_or(10));
    Row::Agent(Box::new(Agent {
        scope,
        id: agent(number),
        name: None,
        framework: None,
        version: None,
        capabilities: Vec::new(),
        metadata: None,
        exclusive: false,
        state: State::Online,
        task: None,
        load: None,
        detail: None,
        since: seen,
        connected_at: seen,
        last_seen: seen,
        session: left.is_none().then_some(session),
        resume_hash: None,
        interest: Interest::default(),
    }))
}

/// Mail that waits for an agent.
pub fn message(scope: Scope, number: u128, to: u128, expires_at: i64) -> Row {
    Row::Message(Message {
        scope,
        id: MessageId::from_bits(number),
        from: agent(99),
        to: agent(to),
        echo: Echo::default(),
        sent: Offset(3),
        ack: false,
        delivered: false,
        expires_at: LogTime(expires_at),
    })
}

/// A status that waits for its sender.
pub fn notice(scope: Scope, number: u128, owner: u128, expires_at: i64) -> Row {
    let (id, message) = (CommandId::from_bits(number), MessageId::from_bits(number));
    let (owner, place, expires_at) = (agent(owner), Offset(5), LogTime(expires_at));
    Row::Notice(Notice { scope, id, message, owner, place, away: true, expires_at })
}

/// The same mail at another place.
pub fn placed(mut row: Row, at: u64) -> Row {
    match &mut row {
        Row::Message(message) => message.sent = Offset(at),
        Row::Notice(notice) => notice.place = Offset(at),
        _ => {}
    }
    row
}

/// The verdict of an event at `offset`, its log time 1,000 times that.
pub fn verdict(scope: Scope, offset: u64, index: Index) -> Verdict {
    Verdict {
        position: Position { partition: ONE, offset: Offset(offset) },
        time: LogTime(1_000 * i64::try_from(offset).expect("a small number")),
        scope,
        command_id: CommandId::from_bits(u128::from(offset)),
        agent: Some(agent(1)),
        previous: offset.checked_sub(1).map(Offset),
        outcome: Outcome::Applied(Effect::ActivitySubscribe(())),
        first: None,
        index,
    }
}

/// Activity of a kind.
pub fn activity(label: &str) -> Index {
    Index { stream: Some(Stream::Activity), label: Some(label.to_owned()), ..Index::default() }
}

/// The next step of a partition, in which every offset passed has log time 1,000 times itself.
pub fn step(partition: Partition, previous: u64, upto: u64, rows: Vec<Row>, mut verdicts: Vec<Verdict>) -> Commit {
    for verdict in &mut verdicts {
        verdict.position.partition = partition;
    }
    Commit {
        partition,
        previous: Offset(previous),
        upto: Offset(upto),
        time: LogTime(1_000 * i64::try_from(upto).expect("a small number")),
        rows: rows.into_iter().map(|row| (row.key(), Some(row))).collect(),
        verdicts,
    }
}

/// Commits the first step of a partition.
pub async fn begin(
    reads: &dyn Reads,
    partition: Partition,
    rows: Vec<Row>,
    verdicts: Vec<Verdict>,
) -> Result<(), Error> {
    reads.commit(&[step(partition, 0, 1_000, rows, verdicts)]).await
}

/// Broken unless a commit was refused because somebody else was first.
pub fn conflict(what: &str, outcome: &Result<(), Error>) -> Result<(), Failure> {
    match outcome {
        Err(Error::Conflict(_)) => Ok(()),
        other => Err(Failure::Broken(format!("{what}: got {other:?}, not a conflict"))),
    }
}

/// The keys of rows, in their order.
pub fn keys(found: &Found) -> Vec<String> {
    found.rows.iter().map(|row| row.key().key).collect()
}

/// The names of rows, in their order.
pub fn names(rows: &[Row]) -> Vec<RowKey> {
    rows.iter().map(Row::key).collect()
}

/// The offsets of verdicts, in their order.
pub fn offsets(verdicts: &Verdicts) -> Vec<u64> {
    verdicts.verdicts.iter().map(|verdict| verdict.position.offset.0).collect()
}
