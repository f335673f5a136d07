//! Fleets that have a partition to themselves: where they are, how long their log is kept, and what is said when there is none left.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use ringforge_adapters::log::kafka::{Cluster, KafkaLog};
use ringforge_domain::position::{Offset, Partition, Partitions};
use ringforge_ports::log::Log as _;
use serde_json::{Value, json};

use super::{
    cluster::Servers,
    refusal,
    support::{Client, Options, Server},
};

/// Two fleets that are alone; one of them wants its log to be kept for a second or two, and the pool's is kept for ever.
const ALONE: &str = "
[[tenant.dedicated]]
fleet = \"big\"
retention_hours = 0.0005

[[tenant.dedicated]]
fleet = \"secret\"
";
/// Checkpoints, as the log is never trimmed past one.
const CONFIG: &str = "[checkpoints]\nevery_minutes = 0.005\n";
/// How long it may take until something is trimmed.
const TRIMMED: Duration = Duration::from_mins(1);

fn topics(environment: &[(String, String)], dedicated: &str) {
    let mut create = Command::new(env!("CARGO_BIN_EXE_ringforge"));
    create.args(["topics", "create", "--partitions", "4", "--replication", "1", "--min-insync", "1"]);
    create.args(["--dedicated", dedicated]).envs(environment.iter().cloned());
    let made = create.output().expect("it runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_may_have_a_partition_to_itself() {
    let Some(servers) = Servers::of("a_fleet_may_have_a_partition_to_itself") else { return };
    let environment = servers.install();
    topics(&environment, "2");
    let url = environment.iter().find(|(name, _)| name.ends_with("LOG")).map(|(_, url)| url.clone()).expect("a log");
    let server = Server::start(Options {
        environment: environment.clone(),
        config: CONFIG.to_owned(),
        bootstrap: ALONE.to_owned(),
        apart: true,
        ..Options::default()
    });
    let log = KafkaLog::open(&Cluster::at(&url).expect("an address")).await.expect("the log opens");
    assert_eq!(log.partitions(), Partitions { shared: 5, dedicated: 2 });
    // What one says is heard at another edge, and resumed at a third place in its own log.
    let (mut agents, mut last) = (Vec::new(), Value::Null);
    for fleet in ["default", "big", "secret"] {
        let (mut ada, _) = Client::enter(server.next_url(), server.key("dev", fleet), "ada", json!({})).await;
        let (mut ben, _) = Client::enter(server.next_url(), server.key("dev", fleet), "ben", json!({})).await;
        ben.ask(&json!({ "type": "memory", "action": "subscribe", "pattern": "*", "values": true, "ref": 1 })).await;
        for number in 0..20 {
            let set = json!({ "type": "memory", "action": "set", "key": "k", "value": number, "ref": number });
            let done = ada.ask(&set).await;
            assert_eq!(done["event"], "set_ok", "{done}");
            let changed = ben.frame_where(|frame| frame["event"] == "changed").await;
            assert_eq!(changed["value"], number, "{changed}");
            if number == 10 {
                last = changed["event_id"].clone();
            }
        }
        ben.close().await;
        if fleet == "secret" {
            let resume = json!({ "last_event_id": last });
            let (mut ben, _) = Client::enter(server.next_url(), server.key("dev", fleet), "ben", resume).await;
            let resumed = ben.frame_where(|frame| frame["event"] == "resumed").await;
            assert_eq!(resumed["recovered"], true, "{resumed}");
            ben.close().await;
        }
        agents.push(ada);
    }
    let homes = [Partition::DEDICATED, Partition(Partition::DEDICATED.0 + 1)];
    for home in homes {
        assert!(log.bounds(home).await.expect("bounds").end > Offset(20), "its events are there");
    }
    // Each with its own retention: only one is trimmed, while both go on.
    let begun = Instant::now();
    let mut number = 100;
    let (mut trimmed, mut kept) = (Vec::new(), Vec::new());
    while trimmed.is_empty() {
        assert!(begun.elapsed() < TRIMMED, "nothing is trimmed:\n{}", server.stderr());
        for agent in &mut agents {
            number += 1;
            let set = json!({ "type": "memory", "action": "set", "key": "k", "value": number, "ref": number });
            assert_eq!(agent.ask(&set).await["event"], "set_ok");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        (trimmed, kept) = (Vec::new(), Vec::new());
        for partition in log.partitions().iter() {
            let oldest = log.bounds(partition).await.expect("bounds").oldest;
            if oldest > Offset::ZERO { trimmed.push(partition) } else { kept.push(partition) }
        }
    }
    assert_eq!(trimmed, [homes[0]], "of the others {kept:?}");
    log.close().await;
    none_is_left(&environment);
}

/// A fleet that wants one where none is left is told so.
fn none_is_left(environment: &[(String, String)]) {
    let home = tempfile::tempdir().expect("a directory");
    let bootstrap = home.path().join("tenants.toml");
    let wanted = "[[tenant]]\nname = \"other\"\nfleets = []\n[[tenant.dedicated]]\nfleet = \"third\"\n";
    std::fs::write(&bootstrap, wanted).expect("it is written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringforge"));
    command.args(["command-api", "--json", "--port", "0", "--bootstrap"]).arg(&bootstrap);
    command.arg("--data").arg(home.path().join("data")).envs(environment.iter().cloned()).env("RINGFORGE_LOG", "error");
    let said = refusal(command);
    assert!(said.contains("third") && said.contains("--dedicated"), "{said}");
}

#[test]
fn a_log_in_files_has_none() {
    let home = tempfile::tempdir().expect("a directory");
    let bootstrap = home.path().join("tenants.toml");
    std::fs::write(&bootstrap, format!("[[tenant]]\nname = \"dev\"\n{ALONE}")).expect("it is written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringforge"));
    command.args(["all", "--json", "--port", "0", "--bootstrap"]).arg(&bootstrap);
    command.arg("--data").arg(home.path().join("data"));
    let said = refusal(command);
    assert!(!home.path().join("data/credentials.json").exists(), "no key is kept");
    assert!(said.contains("big") && said.contains("a log in files has none"), "{said}");
}
