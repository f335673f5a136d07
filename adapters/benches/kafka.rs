//! Figures of the Kafka log beside those of a bare producer in the same run: `scripts/services run cargo bench -p
//! ringforge-adapters --features cluster --bench kafka`.
#![expect(clippy::print_stdout, reason = "figures are what it is for")]

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use futures_util::{
    StreamExt,
    future::{poll_immediate, try_join_all},
};
use rdkafka::{
    ClientConfig,
    producer::{FutureProducer, FutureRecord},
};
use ringforge_adapters::log::kafka::{Cluster, KafkaLog, Shape, create};
use ringforge_domain::{
    ids::Scope,
    limits::{APPEND_QUEUE_MAX, APPEND_RECORDS_MAX},
    position::{Generation, Offset, Partition},
};
use ringforge_ports::{
    clock::{Clock, Ids, SystemClock, SystemIds},
    contract::server,
    log::{Log, Record},
    names,
};

const POOL: Partition = Partition::POOL;
const GENERATION: Generation = Generation(7);
const BYTES: [u8; 300] = [b'x'; 300];
const ROUNDS: usize = 2_000;

static CLOCK: LazyLock<Arc<SystemClock>> = LazyLock::new(SystemClock::start);

/// How long it takes, and what it gives.
async fn timed<T>(future: impl Future<Output = T>) -> (Duration, T) {
    let from = CLOCK.monotonic();
    let given = future.await;
    (CLOCK.monotonic().saturating_sub(from), given)
}

fn show(what: &str, mut all: Vec<Duration>) {
    all.sort();
    let at = |share: usize| all[all.len() * share / 1_000];
    println!("{what:52} p50 {:>9.2?}  p99 {:>9.2?}  max {:>9.2?}", at(500), at(990), all[all.len() - 1]);
}

fn records(count: usize) -> Vec<Record> {
    vec![Record { scope: Scope::OPERATOR, bytes: Arc::from(BYTES) }; count]
}

#[tokio::main]
async fn main() {
    let Some(address) = server("TEST_KAFKA", "benches/kafka") else { return };
    let cluster = Cluster::at(&format!("{address}/bench-{:032x}", SystemIds.next())).expect("an address");
    let shape = Shape { pool_partitions: 1, dedicated: 0, replication: 1, min_insync_replicas: 1 };
    create(&cluster, shape, GENERATION).await.expect("the topics are made");
    let (opening, log) = timed(KafkaLog::open(&cluster)).await;
    let log = log.expect("the log opens");
    println!("open {opening:.2?}, first append {:.2?}", timed(log.append(POOL, records(1))).await.0);
    appends(&cluster, &log).await;
    follows(&log).await;
    ingest(&log).await;
    // As another process, which has nothing in memory.
    let log = KafkaLog::open(&cluster).await.expect("the log opens");
    println!("opened anew, first append {:.2?}", timed(log.append(POOL, records(1))).await.0);
    history(&log).await;
}

/// One at a time, turn by turn with a bare producer of the same settings.
async fn appends(cluster: &Cluster, log: &KafkaLog) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &cluster.servers).set("acks", "all").set("enable.idempotence", "true");
    let bare: FutureProducer = config.set("linger.ms", "0.5").create().expect("a producer");
    let topic = names::pool_topic(&cluster.prefix, GENERATION);
    let (mut ours, mut bares) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(timed(log.append(POOL, records(1))).await.0);
        let record = FutureRecord::to(&topic).partition(0).key("key").payload(&BYTES[..]);
        bares.push(timed(bare.send(record, Duration::ZERO)).await.0);
    }
    show("append, one at a time", ours.split_off(20));
    show("bare produce beside it", bares.split_off(20));
}

/// From the call of append to the record in a reader that had caught up.
async fn follows(log: &KafkaLog) {
    let end = log.bounds(POOL).await.expect("bounds").end;
    let mut reader = log.read(POOL, end);
    assert!(poll_immediate(reader.next()).await.is_none());
    let mut followed = Vec::new();
    for _ in 0..ROUNDS {
        let (took, (placed, batch)) = timed(async { tokio::join!(log.append(POOL, records(1)), reader.next()) }).await;
        assert_eq!(placed.expect("placed")[0].offset, batch.expect("on").expect("read")[0].offset);
        followed.push(took);
    }
    show("append to read, a follower", followed.split_off(20));
}

/// As many at a time as the queue holds.
async fn ingest(log: &KafkaLog) {
    let rounds: u32 = 16;
    let (took, ()) = timed(async {
        for _ in 0..rounds {
            let appends =
                (0..APPEND_QUEUE_MAX / APPEND_RECORDS_MAX).map(|_| log.append(POOL, records(APPEND_RECORDS_MAX)));
            try_join_all(appends).await.expect("appended");
        }
    })
    .await;
    let all = f64::from(rounds) * f64::from(u32::try_from(APPEND_QUEUE_MAX).expect("it is small"));
    println!("{:52} {:.0} records/s", "append, the queue full", all / took.as_secs_f64());
}

/// What was written long ago.
async fn history(log: &KafkaLog) {
    let end = log.bounds(POOL).await.expect("bounds").end.0;
    let (mut scattered, mut newest, mut batches) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..100 {
        let offsets: Vec<_> = (0..100).map(|at| Offset(at * (end / 100) + round)).collect();
        let (took, found) = timed(log.seek(POOL, &offsets)).await;
        assert_eq!(found.expect("found").len(), 100);
        scattered.push(took);
        let offsets: Vec<_> = (end - 100..end).map(Offset).collect();
        let (took, found) = timed(log.seek(POOL, &offsets)).await;
        assert_eq!(found.expect("found").len(), 100);
        newest.push(took);
        let mut reader = log.read(POOL, Offset(round * 1_000));
        let (took, batch) = timed(reader.next()).await;
        batch.expect("on").expect("read");
        batches.push(took);
    }
    show(&format!("seek of 100, one in {}", end / 100), scattered);
    show("seek of the newest 100", newest);
    show("first batch of a reader from an old offset", batches);
    let (mut reader, mut seen) = (log.read(POOL, Offset::ZERO), 0);
    let (took, ()) = timed(async {
        while seen < end {
            seen += reader.next().await.expect("on").expect("read").len() as u64;
        }
    })
    .await;
    println!("{:52} {end} records in {took:.2?}", "catch up");
}
