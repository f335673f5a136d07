//! Any log, even one that no gate would let through. One by one or in batches, with its rows kept as text in between, it
//! folds to the same rows and verdicts; each fleet's chain is whole, versions never fall, and everything can be shown.

#![no_main]

use std::collections::BTreeMap;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ringforge_domain::{
    activity, answer,
    catalog::Command,
    direct,
    door::{self, Incoming},
    event::{Event, Header},
    fleet,
    frame::{self, Shape},
    golden,
    ids::{AgentId, CommandId, EdgeId, FleetId, KeyId, MessageId, SessionId, TenantId},
    json::Json,
    limits::Limits,
    memory,
    position::{Offset, Partition, Position},
    presence,
    row::{Row, RowKey},
    schema, tenant,
    verdict::{Verdict, frames_of},
    world::{BEGINNING, Store},
};
use ringforge_sim::{
    rng::Rng,
    vocabulary::{clients::Client, commands},
};
use serde_json::value::RawValue;

#[derive(Arbitrary, Debug)]
struct Input {
    batches: [u8; 4],
    steps: Vec<Step>,
}

/// One event. Numbers choose from what there is little of, so that events meet each other.
#[derive(Arbitrary, Debug)]
struct Step {
    seconds: i32,
    fleet: bool,
    agent: Option<u8>,
    session: Option<u8>,
    idempotency_key: Option<bool>,
    /// Seconds before the event.
    deadline: Option<i16>,
    deed: Deed,
}

#[derive(Arbitrary, Debug)]
enum Deed {
    Tenant(Word),
    Key {
        hash: Word,
        kind: u8,
        fleet: Option<u8>,
    },
    Fleet {
        id: u8,
        slug: Word,
        partition: i32,
    },
    Start(Start),
    End {
        session: u8,
    },
    Update {
        state: Option<u8>,
        task: Option<Word>,
        load: Option<f64>,
        can: Option<Vec<Word>>,
        metadata: Option<Value>,
    },
    Broadcast {
        scope: u8,
        tags: Vec<Word>,
        to: Option<Word>,
        kind: Word,
        data: Option<Value>,
        event_tags: Vec<Word>,
    },
    Subscribe {
        tags: Vec<Word>,
        kinds: Vec<Word>,
    },
    Unsubscribe {
        tags: Vec<Word>,
        kinds: Vec<Word>,
    },
    Set(Set),
    Delete {
        key: Word,
        expected: Option<i8>,
        reads: Vec<(Word, i8)>,
    },
    ExpireEntry {
        key: Word,
        version: i8,
    },
    Watch {
        pattern: Word,
        events: Vec<Word>,
        values: bool,
        snapshot: bool,
    },
    Unwatch {
        pattern: Word,
    },
    Send {
        to: Word,
        correlation: Option<Value>,
        payload: Option<Value>,
        urgent: Option<u8>,
        ttl: Option<f64>,
        ack: bool,
    },
    Ack {
        message: u8,
    },
    Delivered {
        message: u8,
    },
    Told {
        message: u8,
        statuses: Vec<u8>,
    },
    ExpireMessage {
        message: u8,
        status: Option<u8>,
    },
    Forget {
        asked: Vec<(u8, bool)>,
    },
    /// What an agent of the simulation would ask; these numbers decide what.
    Wish(Vec<u16>),
}

#[derive(Arbitrary, Debug)]
struct Start {
    session: u8,
    proposed: u8,
    claimed: Option<u8>,
    proof: Option<u8>,
    token: u8,
    resumes: bool,
    name: Option<Word>,
    can: Vec<Word>,
    metadata: Option<Value>,
    exclusive: bool,
}

#[derive(Arbitrary, Debug)]
struct Set {
    key: Word,
    value: Option<Value>,
    hint: Option<u8>,
    tags: Vec<Word>,
    metadata: Option<Value>,
    ttl: Option<f64>,
    expected: Option<i8>,
    op: Option<u8>,
    reads: Vec<(Word, i8)>,
}

/// A key, name, tag or pattern.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Word(u8);

const WORDS: [&str; 12] =
    ["a", "b", "a/b", "ada", "bob", "set", "alert", "*", "a/**/b/*", "", "é\u{0}", "ag_0000000000000000000001"];

/// Any JSON.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Value(u8);

const VALUES: [&str; 16] = [
    "null",
    "true",
    "1",
    "-0.5",
    "1e308",
    "9007199254740992",
    "9223372036854775807",
    "18446744073709551615",
    "\"a\"",
    "\"\\ud83d\\ude00\"",
    "[]",
    "[1,\"a\",[1]]",
    "{}",
    r#"{"a":{"b":null},"c":[1]}"#,
    r#"{"a":null}"#,
    " {\"a\" : 1} ",
];

fuzz_target!(|input: Input| {
    let log: Vec<Event> = events(&input.steps);
    let (mut one, mut verdicts) = (Store::default(), Vec::new());
    let (mut heads, mut versions) = (BTreeMap::new(), BTreeMap::new());
    for event in &log {
        verdicts.extend(one.project(std::slice::from_ref(event)));
        let verdict = verdicts.last().expect("each event has a verdict");
        assert_eq!(verdict.previous, heads.insert(verdict.scope, event.at.position.offset), "{event:?}");
        never_falls(&one, &mut versions);
        is_shown(event, verdict);
    }
    let (mut many, mut rest, mut told) = (Store::default(), &log[..], Vec::new());
    for size in input.batches.iter().cycle() {
        let (batch, later) = rest.split_at(usize::from(*size).clamp(1, rest.len().max(1)).min(rest.len()));
        told.extend(many.project(batch));
        many.rows.values_mut().for_each(|row| *row = as_text(row));
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    assert_eq!(told, verdicts);
    assert_eq!(many.digest(), one.digest(), "{:?}\n{:?}", many.rows, one.rows);
});

/// Every key's version rises with every change, and no key is ever forgotten.
fn never_falls(store: &Store, versions: &mut BTreeMap<RowKey, (u64, String)>) {
    for (key, known) in &mut *versions {
        let Some(Row::Memory(entry)) = store.rows.get(key) else { panic!("{key:?} is forgotten") };
        let now = (entry.version, format!("{:?}", entry.content));
        assert!(now.0 > known.0 || now == *known, "{key:?} was {known:?}, is {now:?}");
        *known = now;
    }
    for (key, row) in &store.rows {
        if let Row::Memory(entry) = row {
            versions.entry(key.clone()).or_insert_with(|| (entry.version, format!("{:?}", entry.content)));
        }
    }
}

fn is_shown(event: &Event, verdict: &Verdict) {
    let kept: Verdict =
        serde_json::from_str(&serde_json::to_string(verdict).expect("it serialises")).expect("it reads");
    assert_eq!(kept, *verdict);
    let shown = frames_of(event, verdict);
    let pushes = shown.pushes.iter().flat_map(|push| [Some(&push.frame), push.with_value.as_ref()]);
    for frame in shown.reply.iter().chain(pushes.flatten()) {
        for shape in [Shape::Flat, Shape::Wrapped] {
            let text = frame::encode(frame, shape, None);
            serde_json::from_str::<&RawValue>(&text).expect("a frame is JSON");
        }
    }
}

/// A row as it comes back from a store.
fn as_text(row: &Row) -> Row {
    serde_json::from_str(&serde_json::to_string(row).expect("it serialises")).expect("it reads")
}

/// The log of one partition, through its bytes.
fn events(steps: &[Step]) -> Vec<Event> {
    let mut time = BEGINNING;
    let asked = steps.iter().filter_map(|step| Some((step, asked(&step.deed)?)));
    let event = |(at, (step, command)): (usize, (&Step, Command))| {
        time = time.plus(i64::from(step.seconds) * 1_000_000);
        let header = Header {
            command_id: command_id(at + 1),
            tenant_id: TenantId::from_bits(1),
            fleet_id: FleetId::from_bits(1 + u128::from(step.fleet)),
            agent_id: step.agent.map(agent),
            session_id: step.session.map(session),
            idempotency_key: step.idempotency_key.map(|key| key.to_string()),
            deadline: step.deadline.map(|seconds| time.0 - i64::from(seconds) * 1_000_000),
            ..golden::bare_header()
        };
        let position = Position { partition: Partition::POOL, offset: Offset(at as u64) };
        let bytes = schema::encode(&header, &command);
        schema::decode(&bytes, position, time).expect("what was encoded can be decoded")
    };
    asked.enumerate().map(event).collect()
}

/// `None`: it is a question.
fn asked(deed: &Deed) -> Option<Command> {
    let Deed::Wish(numbers) = deed else { return Some(done(deed)) };
    let (mut rng, peers) = (Rng::of(numbers), ["ada", "bob"].map(str::to_owned));
    let wish = commands::wish(&mut Client::new(0, 0, false, &mut rng), &peers, false, &mut rng);
    let received = door::parse(&wish.to_string(), &Limits::default()).expect("agents speak the protocol");
    if let Incoming::Command(command) = received.incoming { Some(command) } else { None }
}

fn done(deed: &Deed) -> Command {
    match deed {
        Deed::Tenant(name) => tenant::Created { name: text(name) }.into(),
        Deed::Key { hash, kind, fleet } => tenant::KeyCreated {
            id: KeyId::from_bits(6),
            hash: text(hash),
            key_type: one_of(&[tenant::KeyType::Live, tenant::KeyType::Test, tenant::KeyType::Admin], *kind),
            fleet: fleet.map(|id| FleetId::from_bits(u128::from(id))),
        }
        .into(),
        Deed::Fleet { id, slug, partition } => {
            let (id, retention_s) =
                (FleetId::from_bits(u128::from(*id)), (*partition % 2 == 0).then_some(i64::from(*partition / 7)));
            fleet::Created { id, slug: text(slug), partition: *partition, retention_s }.into()
        }
        Deed::Start(start) => started(start).into(),
        Deed::End { session: id } => presence::Ended { session: session(*id), reason: text(&Word(*id)) }.into(),
        Deed::Update { state, task, load, can, metadata } => presence::Update {
            state: state.map(|at| one_of(&STATES, at)),
            task: task.as_ref().map(text),
            load: *load,
            capabilities: can.as_deref().map(texts),
            metadata: metadata.and_then(given),
        }
        .into(),
        Deed::Broadcast { scope, tags, to, kind, data, event_tags } => activity::Broadcast {
            scope: one_of(&SCOPES, *scope),
            tags: texts(tags),
            to: to.as_ref().map(text),
            kind: text(kind),
            description: None,
            data: data.and_then(given),
            metadata: data.and_then(given),
            event_tags: texts(event_tags),
        }
        .into(),
        Deed::Subscribe { tags, kinds } => activity::Subscribe { tags: texts(tags), kinds: texts(kinds) }.into(),
        Deed::Unsubscribe { tags, kinds } => activity::Unsubscribe { tags: texts(tags), kinds: texts(kinds) }.into(),
        Deed::Forget { asked } => {
            let asked = asked.iter().map(|(id, key)| answer::Asked { agent: agent(*id), key: key.to_string() });
            answer::Forget { asked: asked.collect() }.into()
        }
        Deed::Set(_) | Deed::Delete { .. } | Deed::ExpireEntry { .. } | Deed::Watch { .. } | Deed::Unwatch { .. } => {
            of_memory(deed)
        }
        _ => of_direct(deed),
    }
}

const STATES: [presence::State; 4] =
    [presence::State::Online, presence::State::Busy, presence::State::Away, presence::State::Offline];
const SCOPES: [activity::ActivityScope; 3] =
    [activity::ActivityScope::Fleet, activity::ActivityScope::Tagged, activity::ActivityScope::Direct];

fn started(start: &Start) -> presence::Started {
    presence::Started {
        session: session(start.session),
        key: KeyId::from_bits(6),
        edge: EdgeId::from_bits(7),
        proposed: agent(start.proposed),
        claimed: start.claimed.map(agent),
        proof: start.proof.map(|token| (token % 4).to_string()),
        resume_hash: (start.token % 4).to_string(),
        resumes: start.resumes,
        name: start.name.as_ref().map(text),
        framework: None,
        version: None,
        capabilities: texts(&start.can),
        metadata: start.metadata.and_then(given),
        exclusive: start.exclusive,
    }
}

fn of_memory(deed: &Deed) -> Command {
    match deed {
        Deed::Set(set) => {
            use memory::{Op, ValueType};
            let hints = [ValueType::Text, ValueType::Json, ValueType::Embedding, ValueType::FileRef];
            let ops = [Op::Append, Op::Incr, Op::Merge, Op::AddToSet, Op::RemoveFromSet];
            memory::Set {
                key: text(&set.key),
                value: set.value.map(json),
                type_hint: set.hint.map(|at| one_of(&hints, at)),
                tags: texts(&set.tags),
                metadata: set.metadata.and_then(given),
                ttl: set.ttl,
                expected_version: set.expected.map(i64::from),
                op: set.op.map(|at| one_of(&ops, at)),
                reads: reads(&set.reads),
            }
            .into()
        }
        Deed::Delete { key, expected, reads: read } => {
            memory::Delete { key: text(key), expected_version: expected.map(i64::from), reads: reads(read) }.into()
        }
        Deed::ExpireEntry { key, version } => memory::Expire { key: text(key), version: i64::from(*version) }.into(),
        Deed::Watch { pattern, events, values, snapshot } => {
            let (values, snapshot) = (*values, *snapshot);
            memory::Subscribe { pattern: text(pattern), events: texts(events), values, snapshot }.into()
        }
        Deed::Unwatch { pattern } => memory::Unsubscribe { pattern: text(pattern) }.into(),
        _ => unreachable!("not of memory"),
    }
}

fn of_direct(deed: &Deed) -> Command {
    match deed {
        Deed::Send { to, correlation, payload, urgent, ttl, ack } => {
            use direct::Priority::{Critical, High, Low, Normal};
            direct::Send {
                to: text(to),
                correlation_id: correlation.and_then(given),
                payload: payload.map(json),
                priority: urgent.map(|at| one_of(&[Low, Normal, High, Critical], at)),
                ttl: *ttl,
                ack: *ack,
            }
            .into()
        }
        Deed::Ack { message: id } => direct::Ack { message_id: message(*id) }.into(),
        Deed::Delivered { message: id } => direct::Delivered { message: message(*id) }.into(),
        Deed::Told { message: id, statuses } => {
            let statuses = statuses.iter().map(|at| command_id(usize::from(*at))).collect();
            direct::Told { message: message(*id), statuses }.into()
        }
        Deed::ExpireMessage { message: id, status } => {
            direct::Expire { message: message(*id), status: status.map(|at| command_id(usize::from(at))) }.into()
        }
        _ => unreachable!("not of direct messages"),
    }
}

fn one_of<T: Copy>(all: &[T], at: u8) -> T {
    all[usize::from(at) % all.len()]
}

fn text(word: &Word) -> String {
    one_of(&WORDS, word.0).to_owned()
}

fn texts(words: &[Word]) -> Vec<String> {
    words.iter().map(text).collect()
}

fn json(value: Value) -> Json {
    Json::parse(one_of(&VALUES, value.0)).expect("these are JSON")
}

/// Where `null` is as good as nothing.
fn given(value: Value) -> Option<Json> {
    Some(json(value)).filter(|json| !json.is_null())
}

fn reads(reads: &[(Word, i8)]) -> Vec<memory::Read> {
    reads.iter().map(|(key, version)| memory::Read { key: text(key), version: i64::from(*version) }).collect()
}

fn agent(id: u8) -> AgentId {
    AgentId::from_bits(1 + u128::from(id % 3))
}

fn session(id: u8) -> SessionId {
    SessionId::from_bits(1 + u128::from(id % 4))
}

/// The command of the event before this place.
fn command_id(at: usize) -> CommandId {
    CommandId::from_bits(at as u128)
}

/// The message that such a command sent.
fn message(at: u8) -> MessageId {
    MessageId::of(command_id(usize::from(at)))
}
