//! Read models are a function of the log: deleted, they come back the same; a fold of the log without any server comes to
//! the same; and so does a server that was killed in the middle.

#![allow(clippy::disallowed_methods, reason = "a test runs on the machine's clock")]

#[path = "support.rs"]
mod support;

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use ringforge_adapters::{log::embedded::EmbeddedLog, reads::sqlite::SqliteReads};
use ringforge_domain::{
    catalog::CommandKind,
    position::{Offset, Partition, Position},
    row::{Row, Table, digest},
    schema,
};
use ringforge_ports::{
    Services,
    clock::{SystemClock, SystemIds},
    log::Log,
    memory::{blobs::MemoryBlobs, live::MemoryLive, reads::MemoryReads},
    names,
    reads::{Reads, every_row, every_verdict},
};
use ringforge_projectors::{Projector, Stepped};
use serde_json::{Value, json};
use support::{Client, SOON, Server};

const PARTITIONS: [Partition; 2] = [Partition::DIRECTORY, Partition::POOL];

/// Everything that read models hold: rows in a digest, and every verdict.
#[derive(Debug, PartialEq)]
struct Models {
    digests: Vec<(String, Offset)>,
    verdicts: Vec<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_read_models_come_back_the_same() {
    let mut server = Server::plain();
    load(&server, "first").await;
    assert_eq!(server.terminate(), Some(0));
    // A start ends the sessions of the life before: only from then on nothing more happens by itself.
    server.restart();
    assert_eq!(server.terminate(), Some(0));
    let before = kept(&server.data()).await;
    assert_eq!(before, folded(&server.data()).await, "what the server kept is the fold of its log");

    delete_read_models(&server.data());
    server.restart();
    assert_eq!(server.terminate(), Some(0));
    let after = kept(&server.data()).await;
    assert_eq!(after, before, "the same rows and verdicts, from the log alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_and_a_rebuild_come_to_the_same() {
    let mut server = Server::plain();
    for round in ["first", "second", "third"] {
        // Killed with commands on their way: some are in the log but not in the read models.
        load(&server, round).await;
        let mut client = enter(&server, "unanswered").await;
        for n in 0..200 {
            let key = format!("{round}/{}", n % 7);
            client.send(&json!({ "type": "memory", "action": "set", "key": key, "value": n })).await;
        }
        server.kill9();
        server.restart();
    }
    assert_eq!(server.terminate(), Some(0));
    let killed = kept(&server.data()).await;
    delete_read_models(&server.data());
    server.restart();
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(kept(&server.data()).await, killed, "rebuilt, and kept through three kills");
    assert_eq!(folded(&server.data()).await, killed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_restored_from_a_backup_is_served_as_it_is() {
    let mut server = Server::plain();
    load(&server, "kept").await;
    assert_eq!(server.terminate(), Some(0));
    let (log, backup) = (server.data().join(names::LOG_FILE), server.data().join("backup"));
    fs::copy(&log, &backup).expect("a backup");
    server.restart();
    let mut ada = enter(&server, "ada").await;
    let set = json!({ "type": "memory", "action": "set", "key": "lost", "value": 1, "ref": 1 });
    let lost = ada.ask(&set).await["event_id"].clone();
    ada.close().await;
    assert_eq!(server.terminate(), Some(0));
    assert!(!log.with_extension("db-wal").exists(), "a log that was closed is one file");
    fs::rename(&backup, &log).expect("the backup is restored");

    server.restart();
    let more = json!({ "presence": "none", "last_event_id": lost });
    let (mut ada, _) = Client::enter(server.ws_url(), server.first_key(), "ada", more).await;
    let resumed = ada.frame_where(|frame| frame["event"] == "resumed").await;
    assert_eq!(resumed["recovered"], false, "what was seen is not in this log: {resumed}");
    let get = json!({ "type": "memory", "action": "get", "key": "lost", "ref": 1 });
    assert_eq!(ada.ask(&get).await["code"], "not_found");
    ada.close().await;
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(kept(&server.data()).await, folded(&server.data()).await, "made anew from what the log holds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_saw_only_what_is_trimmed_is_told_where_the_log_begins() {
    let mut server = Server::plain();
    let mut ada = enter(&server, "ada").await;
    let mut events = Vec::new();
    for n in 0..5 {
        let set = json!({ "type": "memory", "action": "set", "key": "k", "value": n, "ref": n });
        events.push(ada.ask(&set).await);
    }
    ada.close().await;
    assert_eq!(server.terminate(), Some(0));
    let (seen, oldest) = (&events[1]["event_id"], &events[3]);
    let log = open_log(&server.data());
    let position = oldest["position"].as_u64().expect("a position");
    log.trim(Partition::POOL, Offset(position)).await.expect("it is trimmed");
    log.close().await;

    server.restart();
    let enter = async |event: &Value| {
        let more = json!({ "presence": "none", "last_event_id": event });
        let (mut ada, _) = Client::enter(server.ws_url(), server.first_key(), "ada", more).await;
        let resumed = ada.frame_where(|frame| frame["event"] == "resumed").await;
        (ada, resumed)
    };
    let (mut ada, resumed) = enter(seen).await;
    assert_eq!(resumed["recovered"], false, "{resumed}");
    assert_eq!(resumed["reason"], "expired", "{resumed}");
    assert_eq!(resumed["oldest"], oldest["event_id"], "the first that is still there: {resumed}");
    let get = json!({ "type": "memory", "action": "get", "key": "k", "ref": 1 });
    assert_eq!(ada.ask(&get).await["entry"]["value"], 4, "what the log was folded to is kept");
    ada.close().await;
    let (_, resumed) = enter(&oldest["event_id"]).await;
    assert_eq!(resumed["recovered"], true, "{resumed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_load_is_varied() {
    let mut server = Server::plain();
    load(&server, "first").await;
    assert_eq!(server.terminate(), Some(0));
    let log = open_log(&server.data());
    let mut kinds = Vec::new();
    for partition in PARTITIONS {
        let end = log.bounds(partition).await.expect("bounds").end;
        let mut records = log.read(partition, Offset::ZERO);
        let mut next = Offset::ZERO;
        while next < end {
            for stored in records.next().await.expect("it follows").expect("it reads") {
                next = stored.offset.next();
                let position = Position { partition, offset: stored.offset };
                kinds.push(
                    schema::decode(&stored.record.bytes, position, stored.time).expect("an event").command.kind(),
                );
            }
        }
    }
    log.close().await;
    // An answer is forgotten a day after it was given: only the simulation has that much time.
    // One process declares nothing.
    kinds.extend([CommandKind::AnswerForget, CommandKind::ProjectorDeclared]);
    let missing: Vec<_> = CommandKind::ALL.iter().filter(|kind| !kinds.contains(kind)).collect();
    assert!(missing.is_empty(), "the load of these tests has no {missing:?}");
}

async fn enter(server: &Server, name: &str) -> Client {
    Client::enter(server.ws_url(), server.first_key(), name, json!({ "presence": "none" })).await.0
}

/// At least one of every kind of command, applied, refused and repeated. `round` keeps the rounds' keys apart.
async fn load(server: &Server, round: &str) {
    let (mut ada, mut ben) = (enter(server, "ada").await, enter(server, "ben").await);
    let mut number = 0;
    let mut with_ref = |mut frame: Value| {
        number += 1;
        frame["ref"] = json!(number);
        frame
    };
    let key = |name: &str| format!("{round}/{name}");
    for frame in [
        json!({ "type": "presence", "action": "update", "state": "busy", "task": "load", "load": 0.4 }),
        json!({ "type": "activity", "action": "subscribe", "tags": ["x"], "kinds": ["alert"] }),
        json!({ "type": "activity", "action": "broadcast", "scope": "tagged", "tags": ["x"], "kind": "alert" }),
        json!({ "type": "activity", "action": "broadcast", "kind": "custom", "data": { "n": 1.5 }, "idempotency_key": key("k") }),
        json!({ "type": "activity", "action": "broadcast", "kind": "custom", "data": { "n": 1.5 }, "idempotency_key": key("k") }),
        json!({ "type": "activity", "action": "unsubscribe", "tags": ["x"] }),
        json!({ "type": "memory", "action": "subscribe", "pattern": "*", "values": true }),
        json!({ "type": "memory", "action": "set", "key": key("a"), "value": { "x": [1, null, "ü"] }, "tags": ["t"], "metadata": { "m": 1 } }),
        json!({ "type": "memory", "action": "set", "key": key("a"), "value": { "y": 2 }, "op": "merge", "expected_version": 1 }),
        json!({ "type": "memory", "action": "set", "key": key("a"), "value": 0, "expected_version": 1 }),
        json!({ "type": "memory", "action": "set", "key": key("n"), "op": "incr" }),
        json!({ "type": "memory", "action": "set", "key": key("gone"), "value": "soon", "ttl": 0.05 }),
        json!({ "type": "memory", "action": "delete", "key": key("n"), "reads": [{ "key": key("a"), "version": 2 }] }),
        json!({ "type": "memory", "action": "delete", "key": key("never") }),
        json!({ "type": "memory", "action": "unsubscribe", "pattern": "*" }),
        json!({ "type": "direct", "action": "send", "to": "nobody", "payload": 1 }),
        json!({ "type": "direct", "action": "send", "to": "ben", "payload": { "read": "me" }, "ack": true, "correlation_id": 7 }),
    ] {
        let frame = with_ref(frame);
        ada.ask(&frame).await;
    }
    let message = ben.frame_where(|frame| frame["event"] == "message").await;
    let ack = with_ref(json!({ "type": "direct", "action": "ack", "message_id": message["message_id"] }));
    assert_eq!(ben.ask(&ack).await["event"], "ack_ok");
    told_and_expired(server, ada, ben, &key).await;
}

/// What happens by itself: a status that waits for its sender, an entry and a message whose time passes.
async fn told_and_expired(server: &Server, mut ada: Client, ben: Client, key: &impl Fn(&str) -> String) {
    ben.close().await;
    // Ben's session ends two seconds after its socket; then mail for it waits.
    away(&mut ada, "ben").await;
    for (ttl, reference) in [(0.05, "short"), (60.0, "long")] {
        let send =
            json!({ "type": "direct", "action": "send", "to": "ben", "payload": 2, "ttl": ttl, "ref": reference });
        assert_eq!(ada.ask(&send).await["event"], "send_ok");
    }
    let expired = ada.frame_where(|frame| frame["event"] == "failed").await;
    assert_eq!(expired["reason"], "expired");
    ada.close().await;
    // Ada is away when Ben reads its mail: the status waits for Ada.
    let mut cleo = enter(server, "cleo").await;
    away(&mut cleo, "ada").await;
    let mut ben = enter(server, "ben").await;
    ben.frame_where(|frame| frame["event"] == "message").await;
    // Whatever Ben submits after its mail was flushed comes after the report of the delivery.
    let set = json!({ "type": "memory", "action": "set", "key": key("read"), "value": true, "ref": "read" });
    assert_eq!(ben.ask(&set).await["event"], "set_ok");
    let mut ada = enter(server, "ada").await;
    ada.frame_where(|frame| frame["event"] == "delivered").await;
    let set = json!({ "type": "memory", "action": "set", "key": key("told"), "value": true, "ref": "told" });
    assert_eq!(ada.ask(&set).await["event"], "set_ok");
    for client in [ada, ben, cleo] {
        client.close().await;
    }
}

/// Waits until an agent whose socket is closed counts as gone.
async fn away(client: &mut Client, name: &str) {
    let deadline = Instant::now() + SOON;
    loop {
        let roster = json!({ "type": "presence", "action": "roster", "state": "offline", "ref": "roster" });
        let roster = client.ask(&roster).await;
        if roster["agents"].as_array().is_some_and(|agents| agents.iter().any(|agent| agent["name"] == name)) {
            return;
        }
        assert!(Instant::now() < deadline, "{name} left and is still here: {roster}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn open_log(data: &Path) -> Arc<EmbeddedLog> {
    EmbeddedLog::open(&data.join(names::LOG_FILE), 2, SystemClock::start()).expect("the log opens")
}

/// What stands in the read models of a server that has ended.
async fn kept(data: &Path) -> Models {
    let log = open_log(data);
    let generation = log.bounds(Partition::POOL).await.expect("bounds").generation;
    for partition in PARTITIONS {
        assert!(log.bounds(partition).await.expect("bounds").end > Offset::ZERO, "there was a load");
    }
    log.close().await;
    let reads = SqliteReads::open(&data.join(names::reads_file(generation))).await.expect("the read models open");
    models(reads).await
}

/// What a fold of the log comes to, in memory, in batches of another size.
async fn folded(data: &Path) -> Models {
    let log = open_log(data);
    let reads: Arc<dyn Reads> = Arc::new(MemoryReads::new());
    let clock = SystemClock::start();
    let live = MemoryLive::new(Arc::clone(&clock) as _);
    let blobs = MemoryBlobs::new();
    let services = Services {
        log: Arc::clone(&log) as _,
        reads: Arc::clone(&reads),
        live,
        blobs,
        clock,
        ids: Arc::new(SystemIds),
    };
    for partition in PARTITIONS {
        let end = log.bounds(partition).await.expect("bounds").end;
        let mut projector = Projector::open(services.clone(), partition).await.expect("it opens");
        while projector.applied() < end {
            let from = projector.applied().0;
            let offsets: Vec<Offset> = (from..(from + 7).min(end.0)).map(Offset).collect();
            let records = log.seek(partition, &offsets).await.expect("it reads");
            let stepped = projector.step(records).await.expect("it folds");
            assert!(matches!(stepped, Stepped::To(_)), "nobody else folds");
        }
    }
    log.close().await;
    models(reads).await
}

async fn models(reads: Arc<dyn Reads>) -> Models {
    let (mut digests, mut verdicts) = (Vec::new(), Vec::new());
    for partition in PARTITIONS {
        let (rows, applied) = every_row(&reads, partition).await.expect("rows");
        digests.push((digest(&rows, applied.upto), applied.upto));
        for scope in rows.iter().map(Row::key).filter(|key| key.table == Table::Head).map(|key| key.scope) {
            let text = |verdict| serde_json::to_string(verdict).expect("verdicts serialise");
            verdicts.extend(every_verdict(&reads, partition, scope).await.expect("verdicts").iter().map(text));
        }
    }
    assert!(verdicts.len() > 30, "there was a load");
    Models { digests, verdicts }
}

fn delete_read_models(data: &Path) {
    let mut deleted = 0;
    for file in fs::read_dir(data).expect("the data directory") {
        let file = file.expect("a file").path();
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("reads-") {
            fs::remove_file(&file).expect("it is deleted");
            deleted += 1;
        }
    }
    assert!(deleted > 0, "there were read models");
}
