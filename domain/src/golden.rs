//! Samples of every kind, one with everything in it and one with nothing optional. Goldens, fuzzers and tests begin here.

use std::collections::BTreeMap;

use crate::{
    activity, answer,
    catalog::{Command, CommandKind},
    cursor::{Cursor, PREFIX, Seal},
    direct,
    event::Header,
    fleet,
    ids::{self, AgentId, CommandId, EdgeId, FleetId, KeyId, MessageId, Scope, SessionId, TenantId},
    json::Json,
    memory,
    position::{Generation, Offset, Partition, StreamRef},
    presence, projector, tenant,
};

/// Ids of every kind by prefix: what each was made of, and its text. They stand in logs, rows and clients for ever, so their
/// text never changes.
pub fn ids() -> BTreeMap<&'static str, Vec<(String, String)>> {
    let mut samples: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let mixed = 0x0192_3f4e_5a6b_7c8d_9e0f_1a2b_3c4d_5e6f;
    for bits in [0, 1, 61, 62, u128::from(u64::MAX), 1 << 64, mixed, u128::MAX] {
        for (prefix, text) in ids::every(bits) {
            samples.entry(prefix).or_default().push((format!("{bits:#034x}"), text));
        }
    }
    samples.insert(PREFIX, [0, 1, u32::MAX].map(event_id).into());
    samples
}

/// An event id of a fleet and a place in which every number is as large as `word`, sealed with a key of sevens.
fn event_id(word: u32) -> (String, String) {
    let (tenant, fleet) = (u128::from(word) << 96, u128::from(word));
    let scope = Scope { tenant: TenantId::from_bits(tenant), fleet: FleetId::from_bits(fleet) };
    let epoch = u16::try_from(word & 0xffff).unwrap_or(u16::MAX);
    let offset = u64::from(word) << 11 | u64::from(word) >> 21;
    let stream = StreamRef { partition: Partition::POOL, epoch };
    let cursor = Cursor { generation: Generation(word), offset: Offset(offset), hash: word };
    let made_of = format!("{tenant:#x} {fleet:#x} {:#x} {word:#x} {word:#x}", stream.wire(cursor.offset));
    (made_of, Seal::new([7; 32]).event_id(&scope, stream, cursor))
}

/// A header with everything in it.
pub fn rich_header() -> Header {
    Header {
        command_id: CommandId::from_bits(1),
        tenant_id: TenantId::from_bits(2),
        fleet_id: FleetId::from_bits(3),
        agent_id: Some(AgentId::from_bits(4)),
        session_id: Some(SessionId::from_bits(5)),
        caused_by: Some("evt_cause".to_owned()),
        key_id: Some(KeyId::from_bits(6)),
        idempotency_key: Some("once".to_owned()),
        reference: Some(json("\"r-1\"")),
        trace: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        deadline: Some(1_770_000_000_000_000),
    }
}

/// A header with nothing optional.
pub fn bare_header() -> Header {
    Header {
        command_id: CommandId::from_bits(1),
        tenant_id: TenantId::from_bits(2),
        fleet_id: FleetId::NONE,
        agent_id: None,
        session_id: None,
        caused_by: None,
        key_id: None,
        idempotency_key: None,
        reference: None,
        trace: None,
        deadline: None,
    }
}

/// The samples of a kind: a rich one and a bare one.
pub fn samples(kind: CommandKind) -> [(Header, Command); 2] {
    [(rich_header(), rich(kind)), (bare_header(), bare(kind))]
}

fn json(text: &str) -> Json {
    Json::parse(text).expect("the samples are JSON")
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn reads() -> Vec<memory::Read> {
    vec![memory::Read { key: "plan/a".to_owned(), version: 2 }, memory::Read { key: "plan/b".to_owned(), version: 0 }]
}

fn rich(kind: CommandKind) -> Command {
    match kind {
        CommandKind::TenantCreated
        | CommandKind::KeyCreated
        | CommandKind::FleetCreated
        | CommandKind::SessionStarted
        | CommandKind::SessionEnded
        | CommandKind::SecretDeclared
        | CommandKind::ProjectorDeclared => rich_of_house(kind),
        CommandKind::PresenceUpdate => rich_update().into(),
        CommandKind::ActivityBroadcast => rich_broadcast().into(),
        CommandKind::ActivitySubscribe => {
            activity::Subscribe { tags: texts(&["devops", "é"]), kinds: texts(&["alert"]) }.into()
        }
        CommandKind::ActivityUnsubscribe => {
            activity::Unsubscribe { tags: texts(&["devops"]), kinds: texts(&["alert", "discovery"]) }.into()
        }
        CommandKind::MemorySet => rich_set().into(),
        CommandKind::MemoryDelete => {
            memory::Delete { key: "plan/c".to_owned(), expected_version: Some(3), reads: reads() }.into()
        }
        CommandKind::MemorySubscribe => memory::Subscribe {
            pattern: "plan/**".to_owned(),
            events: texts(&["set", "delete"]),
            values: true,
            snapshot: true,
        }
        .into(),
        CommandKind::DirectSend => direct::Send {
            to: "bob".to_owned(),
            correlation_id: Some(json("17")),
            payload: Some(json(r#"{"do":["this",null,1.50]}"#)),
            priority: Some(direct::Priority::Critical),
            ttl: Some(0.25),
            ack: true,
        }
        .into(),
        CommandKind::AnswerForget => {
            let asked = |agent, key: &str| answer::Asked { agent: AgentId::from_bits(agent), key: key.to_owned() };
            answer::Forget { asked: vec![asked(4, "once"), asked(8, "é")] }.into()
        }
        CommandKind::DirectTold => {
            let statuses = vec![CommandId::from_bits(10), CommandId::from_bits(11)];
            direct::Told { message: MessageId::from_bits(9), statuses }.into()
        }
        CommandKind::DirectExpire => {
            direct::Expire { message: MessageId::from_bits(9), status: Some(CommandId::from_bits(10)) }.into()
        }
        CommandKind::MemoryExpire
        | CommandKind::MemoryUnsubscribe
        | CommandKind::DirectAck
        | CommandKind::DirectDelivered => fixed(kind),
    }
}

/// Kinds in which nothing is optional: rich and bare are the same.
fn fixed(kind: CommandKind) -> Command {
    let message = MessageId::from_bits(9);
    match kind {
        CommandKind::MemoryExpire => memory::Expire { key: "plan/c".to_owned(), version: i64::MAX }.into(),
        CommandKind::MemoryUnsubscribe => memory::Unsubscribe { pattern: "plan/**".to_owned() }.into(),
        CommandKind::DirectAck => direct::Ack { message_id: message }.into(),
        CommandKind::DirectDelivered => direct::Delivered { message }.into(),
        _ => bare(kind),
    }
}

fn rich_of_house(kind: CommandKind) -> Command {
    match kind {
        CommandKind::TenantCreated => tenant::Created { name: "acme".to_owned() }.into(),
        CommandKind::KeyCreated => tenant::KeyCreated {
            id: KeyId::from_bits(6),
            hash: "ab".repeat(32),
            key_type: tenant::KeyType::Admin,
            fleet: Some(FleetId::from_bits(3)),
        }
        .into(),
        CommandKind::FleetCreated => {
            let (partition, retention_s) = (1 << 15, Some(86_400));
            fleet::Created { id: FleetId::from_bits(3), slug: "default".to_owned(), partition, retention_s }.into()
        }
        CommandKind::ProjectorDeclared => projector::Declared { partition: 1 << 15, schemas: 25 }.into(),
        CommandKind::SecretDeclared => tenant::SecretDeclared {
            name: "seal".to_owned(),
            fingerprint: "0123456789abcdef".to_owned(),
            previous: Some("fedcba9876543210".to_owned()),
        }
        .into(),
        CommandKind::SessionStarted => presence::Started {
            session: SessionId::from_bits(5),
            key: KeyId::from_bits(6),
            edge: EdgeId::from_bits(7),
            proposed: AgentId::from_bits(8),
            claimed: Some(AgentId::from_bits(4)),
            proof: Some("cd".to_owned()),
            resume_hash: "ef".to_owned(),
            resumes: true,
            name: Some("ada".to_owned()),
            framework: Some("none".to_owned()),
            version: Some("1.2".to_owned()),
            capabilities: texts(&["code", "review"]),
            metadata: Some(json(r#"{"host":"h"}"#)),
            exclusive: true,
        }
        .into(),
        _ => presence::Ended { session: SessionId::from_bits(5), reason: "closed".to_owned() }.into(),
    }
}

fn rich_update() -> presence::Update {
    presence::Update {
        state: Some(presence::State::Busy),
        task: Some("reading".to_owned()),
        load: Some(0.5),
        capabilities: Some(texts(&["code"])),
        metadata: Some(json("{}")),
    }
}

fn rich_broadcast() -> activity::Broadcast {
    activity::Broadcast {
        scope: activity::ActivityScope::Direct,
        tags: texts(&["devops"]),
        to: Some("bob".to_owned()),
        kind: "alert".to_owned(),
        description: Some("It is late.".to_owned()),
        data: Some(json("[1,2]")),
        metadata: Some(json("null")),
        event_tags: texts(&["night"]),
    }
}

fn rich_set() -> memory::Set {
    memory::Set {
        key: "plan/c".to_owned(),
        value: Some(json(r#"{"b":1,"a":[null,"\u00e9"]}"#)),
        type_hint: Some(memory::ValueType::FileRef),
        tags: texts(&["plan"]),
        metadata: Some(json(r#"{"n":1}"#)),
        ttl: Some(60.5),
        expected_version: Some(0),
        op: Some(memory::Op::RemoveFromSet),
        reads: reads(),
    }
}

fn bare(kind: CommandKind) -> Command {
    match kind {
        CommandKind::PresenceUpdate => presence::Update::default().into(),
        CommandKind::AnswerForget => answer::Forget::default().into(),
        CommandKind::ActivityBroadcast => activity::Broadcast::default().into(),
        CommandKind::ActivitySubscribe => activity::Subscribe::default().into(),
        CommandKind::ActivityUnsubscribe => activity::Unsubscribe::default().into(),
        CommandKind::MemorySet => memory::Set::default().into(),
        CommandKind::MemoryDelete => memory::Delete::default().into(),
        CommandKind::DirectSend => direct::Send::default().into(),
        CommandKind::MemorySubscribe => {
            memory::Subscribe { pattern: "*".to_owned(), events: Vec::new(), values: false, snapshot: false }.into()
        }
        CommandKind::KeyCreated => tenant::KeyCreated {
            id: KeyId::from_bits(6),
            hash: String::new(),
            key_type: tenant::KeyType::Live,
            fleet: None,
        }
        .into(),
        CommandKind::SecretDeclared => {
            tenant::SecretDeclared { name: "seal".to_owned(), fingerprint: String::new(), previous: None }.into()
        }
        CommandKind::SessionStarted => presence::Started {
            session: SessionId::from_bits(5),
            key: KeyId::from_bits(6),
            edge: EdgeId::from_bits(7),
            proposed: AgentId::from_bits(8),
            claimed: None,
            proof: None,
            resume_hash: String::new(),
            resumes: false,
            name: None,
            framework: None,
            version: None,
            capabilities: Vec::new(),
            metadata: None,
            exclusive: false,
        }
        .into(),
        CommandKind::DirectTold => direct::Told { message: MessageId::from_bits(9), statuses: Vec::new() }.into(),
        CommandKind::DirectExpire => direct::Expire { message: MessageId::from_bits(9), status: None }.into(),
        CommandKind::FleetCreated => {
            fleet::Created { id: FleetId::from_bits(3), slug: "default".to_owned(), partition: 1, retention_s: None }
                .into()
        }
        CommandKind::TenantCreated | CommandKind::SessionEnded | CommandKind::ProjectorDeclared => rich_of_house(kind),
        CommandKind::MemoryExpire
        | CommandKind::MemoryUnsubscribe
        | CommandKind::DirectAck
        | CommandKind::DirectDelivered => fixed(kind),
    }
}
