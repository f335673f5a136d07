//! What must hold after a run, checked from outside (replay, history, what observers saw) and against the log itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use ringforge_adapters::{log::embedded::EmbeddedLog, reads::sqlite::SqliteReads};
use ringforge_domain::{
    event::Event,
    ids::Scope,
    limits::{ROWS_PAGE_MAX, SEEK_MAX},
    position::{Offset, Partition, Position},
    schema,
    verdict::{Outcome, Verdict},
};
use ringforge_ports::{
    clock::SystemClock,
    log::Log,
    names,
    reads::{Reads, Which},
};
use serde_json::{Value, json};

use crate::{
    observer::Seen,
    run::{END, TAG},
    support::Client,
    writer::{Act, Known, Sent},
};

/// The public record: broadcasts and the history of every key.
pub struct Record {
    /// Broadcasts by name: their positions.
    pub broadcasts: BTreeMap<String, Vec<u64>>,
    /// Versions of every key, oldest first.
    pub keys: BTreeMap<String, Vec<Value>>,
}

impl Record {
    /// Reads it back through the protocol, page by page.
    pub async fn read(client: &mut Client, keys: &BTreeSet<String>) -> Self {
        let mut record = Self { broadcasts: BTreeMap::new(), keys: BTreeMap::new() };
        record.replay(client).await;
        for key in keys {
            let versions = history(client, key).await;
            record.keys.insert(key.clone(), versions);
        }
        record
    }

    async fn replay(&mut self, client: &mut Client) {
        let mut cursor = Value::Null;
        loop {
            client
                .send(&json!({ "type": "replay", "action": "request", "tags": [TAG], "order": "oldest",
                "limit": 1_000, "cursor": cursor, "ref": "replay" }))
                .await;
            loop {
                let frame = client.reply(&json!("replay")).await;
                match frame["event"].as_str() {
                    Some("start") => {}
                    Some("item") => self.item(&frame["original"]),
                    Some("end") => {
                        cursor = frame["next_cursor"].clone();
                        break;
                    }
                    _ => panic!("not part of a replay: {frame}"),
                }
            }
            if cursor.is_null() {
                return;
            }
        }
    }

    fn item(&mut self, original: &Value) {
        let name = original["activity"]["description"].as_str().expect("a broadcast of the load");
        let position = original["position"].as_u64().expect("an event has a position");
        self.broadcasts.entry(name.to_owned()).or_default().push(position);
    }

    /// The versions that name this command.
    fn versions_by<'a>(&'a self, key: &str, name: &'a str) -> impl Iterator<Item = &'a Value> {
        self.keys[key].iter().filter(move |version| version["value"]["by"] == name)
    }

    /// How often a command took effect, for those that leave their name.
    fn effects(&self, sent: &Sent, messages: &BTreeSet<&str>) -> Option<usize> {
        match &sent.act {
            Act::Broadcast => Some(self.broadcasts.get(&sent.name).map_or(0, Vec::len)),
            Act::Set { key, .. } => Some(self.versions_by(key, &sent.name).count()),
            Act::Direct { .. } => Some(usize::from(messages.contains(sent.name.as_str()))),
            Act::Count { .. } | Act::Delete { .. } => None,
        }
    }
}

/// Every version of a key.
async fn history(client: &mut Client, key: &str) -> Vec<Value> {
    let (mut versions, mut cursor) = (Vec::new(), Value::Null);
    loop {
        let page =
            json!({ "type": "memory", "action": "history", "key": key, "limit": 100, "cursor": cursor, "ref": 1 });
        let page = client.ask(&page).await;
        assert_eq!(page["event"], "history", "{page}");
        versions.extend(page["versions"].as_array().expect("versions").iter().cloned());
        cursor = page["next_cursor"].clone();
        if page["has_more"] != true {
            return versions;
        }
    }
}

/// Acknowledged: there, once, with its version. Refused: nowhere. Unknown: once at most.
pub fn commands(record: &Record, sent: &[Sent], messages: &BTreeSet<&str>) {
    for sent in sent {
        let effects = record.effects(sent, messages);
        match &sent.known {
            Known::Acked(reply) => {
                let wanted = usize::from(!sent.mailbox_full);
                assert!(effects.is_none_or(|effects| effects == wanted), "{effects:?} effects of {sent:?}");
                acked(record, sent, reply);
            }
            Known::Refused(_) => {
                assert!(effects.is_none_or(|effects| effects == 0), "{effects:?} effects of {sent:?}");
            }
            Known::Unknown => assert!(effects.is_none_or(|effects| effects <= 1), "{effects:?} effects of {sent:?}"),
        }
    }
}

fn acked(record: &Record, sent: &Sent, reply: &Value) {
    match &sent.act {
        Act::Broadcast => assert_eq!(json!(record.broadcasts[&sent.name]), json!([reply["position"]]), "{sent:?}"),
        Act::Direct { .. } => {}
        Act::Set { key, .. } | Act::Count { key } | Act::Delete { key, .. } => {
            let version = reply["version"].as_u64().expect("a version");
            let at = usize::try_from(version).expect("a small number") - 1;
            let found = &record.keys[key][at];
            let deletes = matches!(sent.act, Act::Delete { .. });
            assert_eq!(found["change"] == "delete", deletes, "{sent:?} left {found}");
            assert_eq!(found["event_id"], reply["event_id"], "{sent:?} left {found}");
            if matches!(sent.act, Act::Count { .. }) {
                assert_eq!(found["value"], reply["value"], "{sent:?}");
            }
        }
    }
}

/// Versions of a key count up by one and never restart; a counter counts every command once.
pub fn versions(record: &Record, sent: &[Sent]) {
    for (key, versions) in &record.keys {
        let numbers: Vec<u64> = versions.iter().filter_map(|version| version["version"].as_u64()).collect();
        assert_eq!(numbers, (1..=versions.len() as u64).collect::<Vec<_>>(), "versions of {key}");
        if key.starts_with("count/") {
            let counted = |sent: &&Sent| matches!(&sent.act, Act::Count { key: own } if own == key);
            let count =
                |is: fn(&Known) -> bool| sent.iter().filter(counted).filter(|sent| is(&sent.known)).count() as u64;
            let acked = count(|known| matches!(known, Known::Acked(_)));
            let unknown = count(|known| matches!(known, Known::Unknown));
            let last = versions.last().and_then(|version| version["value"].as_u64()).expect("a counter was counted");
            assert!(
                (acked..=acked + unknown).contains(&last),
                "{key}: every command once: {last}, {acked} + {unknown}"
            );
        }
    }
}

/// An observer saw exactly what there is: no hole and no double, across all its connections.
pub fn observed(record: &Record, seen: &Seen) {
    let wanted: BTreeMap<u64, &str> = record
        .broadcasts
        .iter()
        .flat_map(|(name, positions)| positions.iter().map(move |position| (*position, name.as_str())))
        .collect();
    let activity = |(_, frame): &&(u64, Value)| frame["type"] == "activity";
    let name = |(position, frame): &'_ (u64, Value)| {
        (*position, frame["activity"]["description"].as_str().unwrap_or_default().to_owned())
    };
    let found: Vec<(u64, String)> = seen.events.iter().filter(activity).map(name).collect();
    let wanted: Vec<(u64, String)> = wanted.into_iter().map(|(position, name)| (position, name.to_owned())).collect();
    let differs = (0..found.len().max(wanted.len())).find(|at| found.get(*at) != wanted.get(*at));
    if let Some(at) = differs {
        panic!("an observer saw {:?} as number {at} where there is {:?}", found.get(at), wanted.get(at));
    }
    assert_eq!(found.last().map(|(_, name)| name.as_str()), Some(END));
    changes(record, seen);
}

/// The same for memory: no version is missing or there twice.
fn changes(record: &Record, seen: &Seen) {
    let mut found: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for (_, frame) in seen.events.iter().filter(|(_, frame)| frame["type"] == "memory") {
        let key = frame["key"].as_str().expect("a key");
        let version = frame["version"].as_u64().expect("a version");
        let wanted = &record.keys[key][usize::try_from(version).expect("a small number") - 1];
        assert_eq!(frame["value"], wanted["value"], "{frame} and {wanted}");
        assert_eq!(frame["event_id"], wanted["event_id"], "{frame} and {wanted}");
        found.entry(key).or_default().push(version);
    }
    for (key, versions) in &record.keys {
        let seen = found.remove(key.as_str()).unwrap_or_default();
        assert_eq!(seen, (1..=versions.len() as u64).collect::<Vec<_>>(), "changes of {key}");
    }
}

/// One event of the fleet, as it stands in the log and in the index.
type Logged = (Event, Verdict);

/// Every event of a fleet with its verdict, read from the data directory of a server that has ended.
pub async fn logged(data: &Path, scope: Scope) -> Vec<Logged> {
    let log = EmbeddedLog::open(&data.join(names::LOG_FILE), 2, SystemClock::start()).expect("the log opens");
    let partition = Partition::POOL;
    let bounds = log.bounds(partition).await.expect("the log has bounds");
    let reads =
        SqliteReads::open(&data.join(names::reads_file(bounds.generation))).await.expect("the read models open");
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let limit = ROWS_PAGE_MAX.min(u32::try_from(SEEK_MAX).expect("a small number"));
        let page = reads.verdicts(partition, scope, &Which::After { after, limit }).await.expect("verdicts");
        let Some(last) = page.verdicts.last() else { break };
        after = Some(last.position.offset);
        let offsets: Vec<Offset> = page.verdicts.iter().map(|verdict| verdict.position.offset).collect();
        let records = log.seek(partition, &offsets).await.expect("the log is read");
        assert_eq!(records.len(), offsets.len(), "every verdict has its event");
        for (record, verdict) in records.into_iter().zip(page.verdicts) {
            let position = Position { partition, offset: record.offset };
            let event = schema::decode(&record.record.bytes, position, record.time).expect("an event");
            all.push((event, verdict));
        }
    }
    log.close().await;
    all
}

/// The same as `commands`, by the log: also for what leaves no name behind.
pub fn by_the_log(logged: &[Logged], sent: &[Sent]) {
    let mut effects: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for (event, verdict) in logged {
        let Some(reference) = &event.at.header.reference else { continue };
        let name = reference.text().trim_matches('"').split('.').next().unwrap_or_default();
        if verdict.first.is_none() && matches!(verdict.outcome, Outcome::Applied(_)) {
            let place = sent.binary_search_by(|sent| sent.name.as_str().cmp(name));
            if let Ok(at) = place {
                effects.entry(&sent[at].name).or_default().push(event.at.position.offset.0);
            }
        }
    }
    for sent in sent {
        let found = effects.remove(sent.name.as_str()).unwrap_or_default();
        match &sent.known {
            Known::Acked(reply) => assert_eq!(json!(found), json!([reply["position"]]), "{sent:?}"),
            Known::Refused(_) => assert!(found.is_empty(), "{sent:?} took effect at {found:?}"),
            Known::Unknown => assert!(found.len() <= 1, "{sent:?} took effect at {found:?}"),
        }
    }
}
