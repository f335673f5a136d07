//! For every kind of the catalogue: what an attacker who knows the victim's names and ids sends, and what it must get.
//! The matches have no wildcard: a new kind without a row here does not compile.

use ringforge_domain::catalog::{CommandKind, QueryKind, SignalKind};
use serde_json::{Value, json};

use crate::victim::Victim;

/// What comes back.
#[derive(Clone, Copy, Debug)]
pub enum Must {
    /// It works, in the attacker's own world.
    Work(&'static str),
    /// An error with this code.
    Fail(&'static str),
    /// A query that works and finds this many things.
    Find(&'static str, usize),
    /// Nothing at all.
    Silent,
}

/// A frame and what must come of it.
pub type Attack = (Value, Must);

/// A frame of a kind, `area.action`.
fn frame(text: &str, fields: &Value) -> Value {
    let (kind, action) = text.split_once('.').unwrap_or((text, ""));
    let mut frame = json!({ "type": kind });
    if !action.is_empty() {
        frame["action"] = json!(action);
    }
    let fields = fields.as_object().expect("fields are an object").clone();
    frame.as_object_mut().expect("an object").extend(fields);
    frame
}

fn all(text: &str, rows: Vec<(Value, Must)>) -> Vec<Attack> {
    rows.into_iter().map(|(fields, must)| (frame(text, &fields), must)).collect()
}

/// By a command. `mine` is the attacker's own canary.
pub fn by_command(kind: CommandKind, victim: &Victim, mine: &str) -> Vec<Attack> {
    use Must::{Fail, Work};
    let (id, name, event) = (&victim.agent_id, &victim.name, &victim.event_id);
    let rows = match kind {
        CommandKind::TenantCreated => vec![(json!({ "name": mine }), Fail("invalid_message"))],
        CommandKind::KeyCreated => {
            let key = json!({ "id": mine, "hash": mine, "key_type": "live", "fleet": victim.fleet_id });
            vec![(key, Fail("invalid_message"))]
        }
        CommandKind::SecretDeclared => {
            vec![(json!({ "name": "seal", "fingerprint": mine }), Fail("invalid_message"))]
        }
        CommandKind::ProjectorDeclared => vec![(json!({ "partition": 1, "schemas": 1 }), Fail("invalid_message"))],
        CommandKind::FleetCreated => {
            vec![(json!({ "id": victim.fleet_id, "slug": "default", "partition": 1 }), Fail("invalid_message"))]
        }
        CommandKind::SessionStarted => vec![(json!({ "claimed": id, "name": name }), Fail("invalid_message"))],
        CommandKind::SessionEnded => {
            vec![(json!({ "session": victim.session_id, "reason": "x" }), Fail("invalid_message"))]
        }
        CommandKind::PresenceUpdate => {
            vec![(json!({ "agent_id": id, "state": "away", "task": mine, "caused_by": event }), Work("update_ok"))]
        }
        CommandKind::ActivityBroadcast => broadcasts(victim, mine),
        CommandKind::ActivitySubscribe => {
            vec![(json!({ "tags": [victim.tag], "kinds": ["discovery"] }), Work("subscribe_ok"))]
        }
        CommandKind::ActivityUnsubscribe => {
            vec![(json!({ "tags": [victim.tag], "agent_id": id }), Work("unsubscribe_ok"))]
        }
        CommandKind::MemorySet => sets(victim, mine),
        CommandKind::MemoryDelete => {
            vec![
                (json!({ "key": victim.other_key }), Fail("not_found")),
                (json!({ "key": victim.other_key, "expected_version": 1 }), Fail("not_found")),
            ]
        }
        CommandKind::MemoryExpire => vec![(json!({ "key": victim.key, "version": 1 }), Fail("invalid_message"))],
        CommandKind::AnswerForget => {
            let asked = json!([{ "agent": id, "key": victim.idempotency_key }]);
            vec![(json!({ "asked": asked, "agent_id": id }), Fail("invalid_message"))]
        }
        CommandKind::MemorySubscribe => {
            vec![(json!({ "pattern": "**", "snapshot": true, "values": true }), Work("subscribe_ok"))]
        }
        CommandKind::MemoryUnsubscribe => vec![(json!({ "pattern": "*", "agent_id": id }), Work("unsubscribe_ok"))],
        CommandKind::DirectSend => vec![
            (json!({ "to": id, "payload": mine }), Fail("not_found")),
            (json!({ "to": name, "payload": mine, "ack": true }), Fail("not_found")),
        ],
        CommandKind::DirectAck => vec![(json!({ "message_id": victim.message_id }), Fail("not_found"))],
        CommandKind::DirectDelivered | CommandKind::DirectTold | CommandKind::DirectExpire => {
            vec![(json!({ "message": victim.message_id, "agent_id": id }), Fail("invalid_message"))]
        }
    };
    all(kind.text(), rows)
}

fn broadcasts(victim: &Victim, mine: &str) -> Vec<(Value, Must)> {
    use Must::{Fail, Work};
    let id = &victim.agent_id;
    let said = |mut fields: Value, must: Must| {
        fields["kind"] = json!("custom");
        fields["description"] = json!(mine);
        (fields, must)
    };
    vec![
        said(json!({ "scope": "direct", "to": id }), Fail("not_found")),
        said(json!({ "scope": "direct", "to": victim.name }), Fail("not_found")),
        said(json!({ "scope": "tagged", "tags": [victim.tag] }), Work("broadcast_ok")),
        said(json!({ "caused_by": victim.event_id, "fleet": victim.fleet_id }), Work("broadcast_ok")),
        said(json!({ "agent_id": id, "from": id, "tenant_id": victim.tenant_id }), Work("broadcast_ok")),
        said(json!({ "idempotency_key": victim.idempotency_key }), Work("broadcast_ok")),
    ]
}

fn sets(victim: &Victim, mine: &str) -> Vec<(Value, Must)> {
    use Must::{Fail, Work};
    let key = &victim.key;
    vec![
        (json!({ "key": key, "value": mine, "expected_version": 1 }), Fail("conflict")),
        (json!({ "key": "x", "value": mine, "reads": [{ "key": key, "version": 1 }] }), Fail("conflict")),
        (json!({ "key": key, "value": mine, "expected_version": 0 }), Work("set_ok")),
        (json!({ "key": key, "op": "append", "value": mine }), Work("set_ok")),
    ]
}

/// By a query.
pub fn by_query(kind: QueryKind, victim: &Victim) -> Vec<Attack> {
    use Must::{Fail, Find};
    let (id, name, event) = (&victim.agent_id, &victim.name, &victim.event_id);
    let everything = json!(["activity", "presence", "memory", "direct"]);
    let rows = match kind {
        QueryKind::PresenceRoster => vec![
            (json!({ "capability": victim.capability }), Find("agents", 0)),
            (json!({ "state": "busy", "fleet": victim.fleet_id }), Find("agents", 0)),
            (json!({ "cursor": id }), Find("agents", 1)),
        ],
        QueryKind::MemoryGet => vec![(json!({ "key": victim.other_key }), Fail("not_found"))],
        QueryKind::MemoryQuery => vec![
            (json!({ "text_search": victim.other_key }), Find("entries", 0)),
            (json!({ "tags": [victim.tag] }), Find("entries", 0)),
            (json!({ "author": id }), Find("entries", 0)),
            (json!({ "author": name }), Find("entries", 0)),
            (json!({ "metadata": { "m": 1 } }), Find("entries", 0)),
        ],
        QueryKind::MemoryList => vec![
            (json!({ "prefix": victim.other_key, "values": true }), Find("entries", 0)),
            (json!({ "tags": [victim.tag] }), Find("entries", 0)),
            (json!({ "author": id }), Find("entries", 0)),
        ],
        QueryKind::MemoryHistory => vec![
            (json!({ "key": victim.other_key }), Find("versions", 0)),
            (json!({ "key": victim.other_key, "cursor": event }), Fail("invalid_message")),
        ],
        QueryKind::ReplayRequest => vec![
            (json!({ "agents": [id], "streams": everything }), Find("delivered", 0)),
            (json!({ "agents": [name], "streams": everything }), Find("delivered", 0)),
            (json!({ "streams": ["direct"], "kinds": ["message"] }), Find("delivered", 0)),
            (json!({ "order": "oldest", "cursor": event }), Fail("invalid_message")),
        ],
    };
    all(kind.text(), rows)
}

/// By a signal.
pub fn by_signal(kind: SignalKind, victim: &Victim, mine: &str) -> Vec<Attack> {
    let id = &victim.agent_id;
    let rows = match kind {
        SignalKind::Heartbeat => {
            vec![(json!({ "agent_id": id, "state": "away", "task": mine }), Must::Work("heartbeat_ok"))]
        }
        SignalKind::Ping => vec![(json!({ "agent_id": id }), Must::Work(""))],
        SignalKind::Pong => vec![(json!({ "agent_id": id }), Must::Silent)],
    };
    all(kind.text(), rows)
}
