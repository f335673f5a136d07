//! Records that cannot be read: they are shown, in the log and once they are trimmed.

use std::{process::Command, sync::Arc};

use ringforge_adapters::log::embedded::EmbeddedLog;
#[cfg(feature = "cluster")]
use ringforge_adapters::log::kafka::{Cluster, KafkaLog};
#[cfg(feature = "cluster")]
use ringforge_domain::fleet;
use ringforge_domain::{ids::Scope, position::Partition};
use ringforge_ports::{
    clock::SystemClock,
    log::{Log as _, Record},
    names,
};
use serde_json::{Value, json};

use super::support::{Client, Server};
#[cfg(feature = "cluster")]
use super::{cluster::Servers, support::Options};

/// A record that nobody can read, in this fleet's name: with a schema that does not exist, or none.
fn unreadable(server: &Server, fleet: &str, bytes: &'static [u8]) -> Record {
    let id = |value: &Value| value.as_str().expect("an id").to_owned();
    let tenant = id(&server.tenant("dev")["id"]).parse().expect("a tenant's id");
    let fleet = id(&server.fleet("dev", fleet)["id"]).parse().expect("a fleet's id");
    Record { scope: Scope { tenant, fleet }, bytes: Arc::from(bytes) }
}

/// What `ringforge dlq` shows.
fn shown(arguments: &[&str], environment: &[(String, String)]) -> Vec<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringforge"));
    let shown = command.args(["dlq", "--bytes"]).args(arguments).envs(environment.iter().cloned()).output();
    let shown = shown.expect("it runs");
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    let lines = String::from_utf8(shown.stdout).expect("text");
    lines.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_cannot_be_read_is_shown() {
    let mut server = Server::plain();
    let record = unreadable(&server, "default", b"nothing of ours");
    assert_eq!(server.terminate(), Some(0));
    {
        let path = server.data().join(names::LOG_FILE);
        let log = EmbeddedLog::open(&path, 2, SystemClock::start()).expect("the log opens");
        log.append(Partition::POOL, vec![record]).await.expect("it is taken");
        log.close().await;
    }
    server.restart();
    // It has no effect, and nobody minds.
    let (agent, _) = Client::enter(server.ws_url(), server.first_key(), "ada", json!({})).await;
    agent.close().await;
    assert_eq!(server.terminate(), Some(0));
    let letters = shown(&["--data", server.data().to_str().expect("a path")], &[]);
    let [letter] = &letters[..] else { panic!("one record: {letters:?}") };
    assert_eq!((&letter["partition"], &letter["bytes"]), (&json!(1), &json!(15)));
    assert_eq!(letter["fleet_id"], server.fleet("dev", "default")["id"]);
    assert!(letter["hex"].as_str().is_some_and(|hex| hex.starts_with("6e6f7468")), "{letter}");
}

#[cfg(feature = "cluster")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_cannot_be_read_is_shown_after_it_is_trimmed() {
    let Some(servers) = Servers::of("a_record_that_cannot_be_read_is_shown_after_it_is_trimmed") else { return };
    let environment = servers.install();
    let url = environment.iter().find(|(name, _)| name.ends_with("LOG")).map(|(_, url)| url.clone()).expect("a log");
    let mut server = Server::start(Options { environment: environment.clone(), ..Options::default() });
    let log = KafkaLog::open(&Cluster::at(&url).expect("an address")).await.expect("the log opens");
    let record = unreadable(&server, "default", b"nothing of ours");
    let partition = fleet::home(record.scope.fleet, log.partitions());
    let placed = log.append(partition, vec![record]).await.expect("it is taken")[0];
    // Whoever comes after it is applied after it.
    let (mut agent, _) = Client::enter(server.ws_url(), server.first_key(), "ada", json!({})).await;
    let set = json!({ "type": "memory", "action": "set", "key": "k", "value": 1, "ref": 1 });
    assert_eq!(agent.ask(&set).await["event"], "set_ok");
    agent.close().await;
    assert_eq!(server.terminate(), Some(0));
    let in_log = shown(&[], &environment);
    let [letter] = &in_log[..] else { panic!("one record: {in_log:?}") };
    assert_eq!((&letter["partition"], &letter["offset"]), (&json!(partition.0), &json!(placed.offset.0)), "{letter}");
    log.trim(partition, placed.offset.next()).await.expect("it is trimmed");
    log.close().await;
    assert_eq!(shown(&[], &environment), in_log, "the copy says the same");
}

#[cfg(feature = "cluster")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_of_a_newer_build_halts_its_partition_and_no_other() {
    let name = "a_record_of_a_newer_build_halts_its_partition_and_no_other";
    let Some(servers) = Servers::of(name) else { return };
    let mut environment = servers.install();
    environment.push(("RINGFORGE__TIMING__REPLY_TIMEOUT_MS".to_owned(), "3000".to_owned()));
    let url = environment.iter().find(|(name, _)| name.ends_with("LOG")).map(|(_, url)| url.clone()).expect("a log");
    let slugs: Vec<String> = (0..8).map(|number| format!("fleet-{number}")).collect();
    let tenants = vec![("dev".to_owned(), slugs.clone())];
    let server = Server::start(Options { environment, apart: true, tenants, ..Options::default() });
    let log = KafkaLog::open(&Cluster::at(&url).expect("an address")).await.expect("the log opens");
    let home = |slug: &str| {
        let id = server.fleet("dev", slug)["id"].as_str().expect("an id").parse().expect("a fleet's id");
        fleet::home(id, log.partitions())
    };
    let halted = slugs[0].as_str();
    let other = slugs.iter().find(|slug| home(slug) != home(halted)).expect("eight fleets have more than one home");
    let set = |number: u32| json!({ "type": "memory", "action": "set", "key": "k", "value": number, "ref": number });
    let mut agents = Vec::new();
    for slug in [halted, other] {
        let (mut agent, _) = Client::enter(server.ws_url(), server.key("dev", slug), "ada", json!({})).await;
        assert_ne!(agent.ask(&set(1)).await["type"], "error");
        agents.push(agent);
    }
    let record = unreadable(&server, halted, &[0, 0xff, 0xff, 0xff, 0xfe, 1, 2, 3]);
    log.append(home(halted), vec![record]).await.expect("it is taken");
    let waits = agents[0].ask(&set(2)).await;
    assert_eq!((&waits["code"], &waits["outcome"]), (&json!("timeout"), &json!("unknown")), "{waits}");
    assert_ne!(agents[1].ask(&set(2)).await["type"], "error", "the other partition goes on");
    assert!(server.stderr().contains("a newer build wrote it"), "it is said");
    log.close().await;
}
