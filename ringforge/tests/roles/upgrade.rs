//! A newer build beside an older one: nothing is written that a projector could not read.

use std::time::{Duration, Instant};

use ringforge_adapters::log::kafka::{Cluster, KafkaLog};
use ringforge_domain::{
    catalog::{Command, CommandKind},
    event::Header,
    golden,
    ids::{CommandId, Scope, TenantId},
    position::Partition,
    projector, schema,
};
use ringforge_ports::log::{Log as _, Record};
use serde_json::{Value, json};

use super::{
    cluster::Servers,
    support::{Client, Options, Server},
};

/// How soon every gate knows what a projector declared.
const KNOWN: Duration = Duration::from_mins(1);

/// What a projector that reads schemas up to this one writes when it takes up a partition.
fn declared(partition: Partition, schemas: u32) -> Record {
    let scope = Scope::directory(TenantId::NONE);
    let (command_id, tenant_id, fleet_id) = (CommandId::from_bits(1 << 100), scope.tenant, scope.fleet);
    let header = Header { command_id, tenant_id, fleet_id, ..golden::bare_header() };
    let (partition, schemas) = (i32::from(partition.0), i32::try_from(schemas).expect("a small number"));
    let declared = Command::ProjectorDeclared(projector::Declared { partition, schemas });
    Record { scope, bytes: schema::encode(&header, &declared).into() }
}

/// Asks until it is answered so.
async fn until(agent: &mut Client, frame: &Value, wanted: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let answer = agent.ask(frame).await;
        if wanted(&answer) {
            return answer;
        }
        assert!(begun.elapsed() < KNOWN, "{answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_older_projector_could_not_read_is_not_written() {
    let Some(servers) = Servers::of("what_an_older_projector_could_not_read_is_not_written") else { return };
    let environment = servers.install();
    let url = environment.iter().find(|(name, _)| name.ends_with("LOG")).map(|(_, url)| url.clone()).expect("a log");
    let mut server = Server::start(Options { environment, apart: true, ..Options::default() });
    let (mut agent, _) = Client::enter(server.ws_url(), server.first_key(), "ada", json!({})).await;
    let set = json!({ "type": "memory", "action": "set", "key": "k", "value": 1, "ref": 1 });
    let say = json!({ "type": "activity", "action": "broadcast", "kind": "custom", "data": {}, "ref": 2 });
    assert_eq!(agent.ask(&set).await["event"], "set_ok");
    // One that knows of activities, and of memory nothing yet.
    let log = KafkaLog::open(&Cluster::at(&url).expect("an address")).await.expect("the log opens");
    let (older, newer) = (schema::id_of(CommandKind::ActivityBroadcast), schema::id_of(CommandKind::MemorySet));
    assert!(older < newer);
    let begun = Instant::now();
    let refused = loop {
        // Again and again: who has the partition declares what it reads itself, when it looks.
        log.append(Partition::DIRECTORY, vec![declared(Partition::POOL, older)]).await.expect("it is taken");
        let answer = agent.ask(&set).await;
        if answer["type"] == "error" {
            break answer;
        }
        assert!(begun.elapsed() < KNOWN, "{answer}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    assert_eq!((&refused["code"], &refused["outcome"]), (&json!("unavailable"), &json!("none")), "{refused}");
    assert!(refused["message"].as_str().is_some_and(|text| text.contains("older")), "{refused}");
    assert_ne!(agent.ask(&say).await["type"], "error", "what it knows goes on");
    // Whoever takes its place declares what it reads itself.
    for projector in Server::numbers("projectors") {
        tokio::task::block_in_place(|| {
            server.kill9_one(projector);
            server.restart_one(projector);
        });
    }
    until(&mut agent, &set, |answer| answer["event"] == "set_ok").await;
    log.close().await;
}
