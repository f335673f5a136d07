//! A Postgres server that loses its last commits: they do not wait for the disk.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use ringforge_adapters::reads::postgres::PostgresReads;
use ringforge_domain::{
    fleet,
    position::{Partition, Partitions},
};
use ringforge_ports::reads::Reads as _;
use serde_json::json;
use tokio::task::block_in_place;

use super::{
    ALONE,
    cluster::Servers,
    id,
    servers::{Own, Store},
    support::{Client, Options, Server},
};

/// Crashes at most until one takes something: the server writes five times a second.
const CRASHES: u32 = 20;

/// How long projectors may take that stood still: who was missed has to be dealt its partitions again.
const FILLED_IN: Duration = Duration::from_secs(30);

/// Partitions of the log: those of the pool, and the directory.
const PARTITIONS: Partitions = Partitions { shared: Servers::PARTITIONS + Partition::POOL.0, dedicated: 0 };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_models_that_lost_their_end_are_not_shown_to_who_knows_more() {
    if Servers::of("read_models_that_lost_their_end_are_not_shown_to_who_knows_more").is_none() {
        return;
    }
    let _alone = ALONE.lock().await;
    let own = block_in_place(|| Own::begin(Server::PROCESSES, 1));
    let (environment, each) = (own.environment.clone(), own.each());
    let server = block_in_place(|| Server::start(Options { environment, each, apart: true, ..Options::default() }));
    let (mut agent, _) = Client::enter(server.ws_url(), server.first_key(), "ada", json!({})).await;
    let home = fleet::home(id(&server.fleet("dev", "default")["id"]), PARTITIONS);
    let (mut number, mut lost) = (0, false);
    for _ in 0..CRASHES {
        let mut newest = 0;
        for _ in 0..20 {
            number += 1;
            let set = json!({ "type": "memory", "action": "set", "key": "k", "value": number, "ref": number });
            newest = agent.ask(&set).await["position"].as_u64().expect("an ack");
        }
        // Nobody fills in what is lost.
        for projector in Server::numbers("projectors") {
            server.signal(projector, "STOP");
        }
        block_in_place(|| {
            own.kill(Store::Postgres);
            own.again(Store::Postgres);
        });
        let reads = PostgresReads::open(own.url(Store::Postgres)).await.expect("it opens");
        let stands = reads.load(home, &BTreeSet::new()).await.expect("an answer").applied.upto.0;
        reads.close().await;
        let get = json!({ "type": "memory", "action": "get", "key": "k", "ref": "get" });
        let got = agent.ask(&get).await;
        if stands <= newest {
            lost = true;
            assert_eq!(got["code"], "unavailable", "it stands at {stands}, {newest} was acknowledged: {got}");
        }
        for projector in Server::numbers("projectors") {
            server.signal(projector, "CONT");
        }
        let begun = Instant::now();
        loop {
            let got = agent.ask(&get).await;
            if got["entry"]["value"] == number {
                break;
            }
            assert!(begun.elapsed() < FILLED_IN, "it is not filled in: {got}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if lost {
            return;
        }
    }
    panic!("no crash took a commit");
}
