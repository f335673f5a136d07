//! A bare round trip through a broker: a record is produced (acks=all, idempotent, with the log's linger) and consumed, then the
//! next one is. It is what commands of an installation are measured beside: `loadtest/servers.sh round-trip`.
#![expect(clippy::print_stdout, reason = "figures are what it is for")]

use std::{error::Error, time::Duration};

use rdkafka::{
    ClientConfig, Message as _,
    consumer::{Consumer as _, StreamConsumer},
    producer::{FutureProducer, FutureRecord},
    topic_partition_list::{Offset, TopicPartitionList},
};
use ringforge_adapters::log::kafka::{Cluster, Shape, create};
use ringforge_domain::position::Generation;
use ringforge_ports::{
    clock::{Clock as _, Ids as _, SystemClock, SystemIds},
    names,
};

const GENERATION: Generation = Generation(1);
/// Not measured: clients are connected, ids given.
const FIRST: usize = 50;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, seconds, bytes] = &arguments[..] else { return Err("say kafka://HOST:PORT SECONDS BYTES".into()) };
    let mut all = round_trips(url, Duration::from_secs(seconds.parse()?), bytes.parse()?).await?;
    all.sort_unstable();
    let at = |share: usize| all.get(all.len() * share / 1_000).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3);
    println!("{} p50_ms\n{} p99_ms\n{} round_trips", at(500), at(990), all.len());
    Ok(())
}

/// How long each took.
async fn round_trips(url: &str, within: Duration, bytes: usize) -> Result<Vec<Duration>, Box<dyn Error>> {
    let cluster = Cluster::at(&format!("{url}/bare-{:032x}", SystemIds.next()))?;
    create(&cluster, Shape { pool_partitions: 1, dedicated: 0, replication: 1, min_insync_replicas: 1 }, GENERATION)
        .await?;
    let topic = names::pool_topic(&cluster.prefix, GENERATION);
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &cluster.servers);
    let consumer: StreamConsumer = config
        .clone()
        .set("group.id", &cluster.prefix)
        .set("enable.auto.commit", "false")
        .set("fetch.wait.max.ms", "100")
        .create()?;
    let mut start = TopicPartitionList::new();
    start.add_partition_offset(&topic, 0, Offset::Beginning)?;
    consumer.assign(&start)?;
    let config = config.set("acks", "all").set("enable.idempotence", "true").set("linger.ms", "0.5");
    let (producer, payload): (FutureProducer, _) = (config.create()?, vec![b'x'; bytes]);
    let (clock, mut all) = (SystemClock::start(), Vec::new());
    let begun = clock.monotonic();
    while clock.monotonic().saturating_sub(begun) < within {
        let from = clock.monotonic();
        let record = FutureRecord::to(&topic).partition(0).key("key").payload(&payload);
        let (sent, got) = tokio::join!(producer.send(record, Duration::ZERO), consumer.recv());
        let (sent, got) = (sent.map_err(|(error, _)| error)?, got?);
        all.push(clock.monotonic().saturating_sub(from));
        if sent.offset != got.offset() {
            return Err(format!("record {} was produced and {} consumed", sent.offset, got.offset()).into());
        }
    }
    Ok(all.split_off(FIRST.min(all.len())))
}
