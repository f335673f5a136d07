//! What only the Kafka log has: its topics and their settings, its time, and what becomes of it when a broker is away, slow or
//! another one.
#![cfg(feature = "cluster")]

use std::{future::Future, sync::Arc, time::Duration};

use futures_util::{
    StreamExt,
    future::{join_all, poll_immediate},
    stream::BoxStream,
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    mocking::MockCluster,
    producer::{DefaultProducerContext, FutureProducer, FutureRecord},
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use ringforge_adapters::log::kafka::{Cluster, KafkaLog, OpenError, Shape, check, create};
use ringforge_domain::{
    ids::{FleetId, Scope, TenantId},
    limits::{APPEND_QUEUE_MAX, APPEND_RECORDS_MAX},
    position::{Generation, Offset, Partition},
};
use ringforge_ports::{
    Error,
    clock::{Ids, SystemIds},
    contract::server,
    log::{AppendError, Log, Record, Stored},
    names,
};
use tokio::sync::oneshot;

const SHAPE: Shape = Shape { pool_partitions: 2, replication: 1, min_insync_replicas: 1 };
const ONE: Partition = Partition(1);
const GENERATION: Generation = Generation(7);

/// Topics of their own at the broker that tests run against; `None` where there is none, which is said.
fn cluster(name: &str) -> Option<Cluster> {
    let address = server("TEST_KAFKA", &format!("kafka_log/{name}"))?;
    Some(Cluster::at(&format!("{address}/{name}-{:032x}", SystemIds.next())).expect("an address"))
}

async fn open(cluster: &Cluster) -> Arc<KafkaLog> {
    create(cluster, SHAPE, GENERATION).await.expect("the topics are made");
    KafkaLog::open(cluster).await.expect("the log opens")
}

fn record(name: &str) -> Record {
    let scope = Scope { tenant: TenantId::from_bits(7), fleet: FleetId::from_bits(9) };
    Record { scope, bytes: Arc::from(name.as_bytes()) }
}

/// Whoever comes from outside: it makes topics and records as we never would.
struct Outsider {
    admin: AdminClient<DefaultClientContext>,
    producer: FutureProducer,
}

impl Outsider {
    fn at(cluster: &Cluster) -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &cluster.servers);
        Self { admin: config.create().expect("a client"), producer: config.create().expect("a producer") }
    }

    async fn make(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        for (name, value) in settings {
            new = new.set(name, value);
        }
        // One that was just deleted may not be gone yet.
        for _ in 0..100 {
            let made = self.admin.create_topics([&new], &AdminOptions::new()).await.expect("an answer");
            if made.iter().all(Result::is_ok) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{topic} could not be made");
    }

    async fn delete(&self, topic: &str) {
        let gone = self.admin.delete_topics(&[topic], &AdminOptions::new()).await.expect("an answer");
        assert!(gone.iter().all(Result::is_ok), "{gone:?}");
    }
}

/// What comes of it in this time, as something must.
async fn within<T>(seconds: u64, what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(seconds), future).await.unwrap_or_else(|_| panic!("{what} takes too long"))
}

type Reader = BoxStream<'static, Result<Vec<Stored>, Error>>;

async fn next(reader: &mut Reader) -> Result<Vec<Stored>, Error> {
    within(20, "a batch", reader.next()).await.expect("readers end with an error")
}

async fn append(log: &KafkaLog, names: &[&str]) -> Vec<Offset> {
    let records = names.iter().copied().map(record).collect();
    let placed = within(10, "an append", log.append(ONE, records)).await.expect("it is appended");
    placed.into_iter().map(|placed| placed.offset).collect()
}

type Played = MockCluster<'static, DefaultProducerContext>;

/// A broker that is played, so that it can be broken, and a log on it.
async fn played(change: impl FnOnce(&mut Cluster)) -> (Played, Arc<KafkaLog>) {
    let (brokers, cluster) = play(change);
    let log = KafkaLog::open(&cluster).await.expect("the log opens");
    (brokers, log)
}

fn play(change: impl FnOnce(&mut Cluster)) -> (Played, Cluster) {
    let brokers = MockCluster::new(1).expect("a broker to play with");
    let mut cluster = Cluster::at(&format!("kafka://{}/played", brokers.bootstrap_servers())).expect("an address");
    change(&mut cluster);
    brokers.create_topic(&names::directory_topic("played", GENERATION), 1, 1).expect("a topic");
    brokers.create_topic(&names::pool_topic("played", GENERATION), 2, 1).expect("a topic");
    (brokers, cluster)
}

#[tokio::test]
async fn topics_are_made_once_and_grow() {
    let Some(cluster) = cluster("create") else { return };
    assert_eq!(create(&cluster, SHAPE, GENERATION).await.expect("made"), GENERATION);
    assert_eq!(create(&cluster, SHAPE, Generation(8)).await.expect("there"), GENERATION);
    assert_eq!(check(&cluster, SHAPE).await.expect("checked"), [""; 0]);
    let log = KafkaLog::open(&cluster).await.expect("the log opens");
    assert_eq!(log.partitions(), 3);
    assert_eq!(log.bounds(ONE).await.expect("bounds").generation, GENERATION);
    let larger = Shape { pool_partitions: 4, ..SHAPE };
    let wrong = check(&cluster, larger).await.expect("checked");
    assert!(wrong.len() == 1 && wrong[0].contains("has 2 partitions, not 4. `ringforge topics create`"), "{wrong:?}");
    assert_eq!(create(&cluster, larger, Generation(8)).await.expect("grown"), GENERATION);
    assert_eq!(KafkaLog::open(&cluster).await.expect("the log opens").partitions(), 5);
}

#[tokio::test]
async fn no_topics_half_of_them_or_too_many_are_told_apart() {
    let Some(cluster) = cluster("find") else { return };
    let error = KafkaLog::open(&cluster).await.err().expect("there is no log").to_string();
    assert!(error.contains(&cluster.prefix) && error.contains("`ringforge topics create`"), "{error}");
    assert_eq!(check(&cluster, SHAPE).await.expect("checked"), [error]);

    let outsider = Outsider::at(&cluster);
    outsider.make(&names::directory_topic(&cluster.prefix, GENERATION), 1, &[]).await;
    let error = KafkaLog::open(&cluster).await.err().expect("there is half a log").to_string();
    let pool = names::pool_topic(&cluster.prefix, GENERATION);
    assert!(error.contains(&pool) && error.contains("`ringforge topics create`"), "{error}");
    assert_eq!(create(&cluster, SHAPE, Generation(8)).await.expect("completed"), GENERATION);
    KafkaLog::open(&cluster).await.expect("the log opens");

    outsider.make(&names::pool_topic(&cluster.prefix, Generation(0xff)), 1, &[]).await;
    for error in [KafkaLog::open(&cluster).await.err(), create(&cluster, SHAPE, GENERATION).await.err()] {
        let error = error.expect("there are two logs").to_string();
        assert!(error.contains("00000007, 000000ff") && error.contains("`ringforge topics create`"), "{error}");
    }
    assert_eq!(check(&cluster, SHAPE).await.expect("checked").len(), 1);
}

#[tokio::test]
async fn what_is_wrong_with_topics_is_named_with_its_fix() {
    let Some(cluster) = cluster("check") else { return };
    let settings = [
        ("message.timestamp.type", "CreateTime"),
        ("retention.ms", "604800000"),
        ("retention.bytes", "1000000"),
        ("cleanup.policy", "compact"),
        ("unclean.leader.election.enable", "true"),
        ("max.message.bytes", "1048588"),
    ];
    let pool = names::pool_topic(&cluster.prefix, GENERATION);
    Outsider::at(&cluster).make(&pool, 2, &settings).await;
    let asked = Shape { replication: 3, min_insync_replicas: 2, ..SHAPE };
    let wrong = check(&cluster, asked).await.expect("checked");
    for (name, value) in settings {
        let said = format!("The topic {pool} has {name}={value}: ");
        assert!(
            wrong.iter().any(|wrong| wrong.starts_with(&said) && wrong.contains("Set it to ")),
            "{name}: {wrong:?}"
        );
    }
    for said in ["replication factor of 1, not 3", "min.insync.replicas=1", "directory is missing"] {
        assert!(wrong.iter().any(|wrong| wrong.contains(said)), "{said}: {wrong:?}");
    }
    assert_eq!(wrong.len(), settings.len() + 3, "{wrong:?}");
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_told_in_time() {
    let mut cluster = Cluster::at("kafka://127.0.0.1:1/nowhere").expect("an address");
    cluster.request_timeout = Duration::from_secs(1);
    let opened = within(5, "opening", KafkaLog::open(&cluster)).await.err();
    let checked = within(5, "checking", check(&cluster, SHAPE)).await.err();
    let created = within(5, "creating", create(&cluster, SHAPE, GENERATION)).await.err();
    for error in [opened, checked, created] {
        let error = error.expect("nobody is there");
        assert!(matches!(error, OpenError::Unreachable { .. }), "{error}");
        assert!(error.to_string().starts_with("no Kafka broker answers at 127.0.0.1:1 within 1 s"), "{error}");
    }
}

#[tokio::test]
async fn log_time_is_the_brokers() {
    let Some(cluster) = cluster("time") else { return };
    let log = open(&cluster).await;
    let before = log.append(ONE, vec![record("before")]).await.expect("appended")[0].time;
    // As a gate would whose clock is an hour fast, and one that is as much behind.
    let topic = names::pool_topic(&cluster.prefix, GENERATION);
    for hours in [1, -1] {
        let time = before.0 / 1_000 + hours * 3_600_000;
        let key = names::record_key(record("").scope);
        let wrong = FutureRecord::to(&topic).partition(0).key(&key).payload("wrong").timestamp(time);
        Outsider::at(&cluster).producer.send(wrong, Duration::from_secs(5)).await.expect("sent");
    }
    let after = log.append(ONE, vec![record("after")]).await.expect("appended")[0].time;
    let (mut reader, mut times) = (log.read(ONE, Offset::ZERO), Vec::new());
    while times.len() < 4 {
        times.extend(next(&mut reader).await.expect("read").into_iter().map(|stored| stored.time));
    }
    assert!(times.is_sorted() && times[0] == before && times[3] == after, "{times:?}");
    assert!(after.0 - before.0 < 60_000_000, "{before:?} {after:?}");
}

#[tokio::test]
async fn foreign_records_belong_to_nobody() {
    let Some(cluster) = cluster("foreign") else { return };
    let log = open(&cluster).await;
    let (topic, outsider) = (names::pool_topic(&cluster.prefix, GENERATION), Outsider::at(&cluster));
    let keyless: FutureRecord<'_, str, str> = FutureRecord::to(&topic).partition(0).payload("no key");
    outsider.producer.send(keyless, Duration::from_secs(5)).await.expect("sent");
    let empty: FutureRecord<'_, str, str> = FutureRecord::to(&topic).partition(0).key("strange");
    outsider.producer.send(empty, Duration::from_secs(5)).await.expect("sent");
    let got = log.seek(ONE, &[Offset(0), Offset(1)]).await.expect("sought");
    let got: Vec<_> = got.iter().map(|stored| (stored.record.scope, &*stored.record.bytes)).collect();
    assert_eq!(got, [(Scope::OPERATOR, &b"no key"[..]), (Scope::OPERATOR, &b""[..])]);
}

#[tokio::test]
async fn a_topic_made_anew_under_a_reader_is_noticed() {
    let Some(mut cluster) = cluster("anew") else { return };
    cluster.request_timeout = Duration::from_secs(2);
    let log = open(&cluster).await;
    let mut reader = log.read(ONE, Offset::ZERO);
    assert!(poll_immediate(reader.next()).await.is_none());
    // By another process: this one knows only what it follows.
    let other = KafkaLog::open(&cluster).await.expect("the log opens");
    let mut seen = 0;
    while seen < 3 {
        append(&other, &["one"]).await;
        seen += next(&mut reader).await.expect("read").len();
    }
    other.close().await;
    assert!(poll_immediate(reader.next()).await.is_none());
    let (topic, outsider) = (names::pool_topic(&cluster.prefix, GENERATION), Outsider::at(&cluster));
    outsider.delete(&topic).await;
    outsider.make(&topic, 2, &[]).await;
    loop {
        match next(&mut reader).await {
            Err(Error::Corrupt(what)) => {
                assert!(what.contains("ends at 0 in Kafka and went on to 3 before"), "{what}");
                break;
            }
            // Between the two topics there is none.
            Err(Error::Unavailable(_)) => reader = log.read(ONE, Offset(3)),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(log.bounds(ONE).await, Err(Error::Corrupt(_))));
    assert!(matches!(log.seek(ONE, &[Offset(1)]).await, Err(Error::Corrupt(_))));
}

#[tokio::test]
async fn what_another_process_trims_is_noticed() {
    let Some(cluster) = cluster("trimmed") else { return };
    let (log, other) = (open(&cluster).await, KafkaLog::open(&cluster).await.expect("the log opens"));
    let offsets = append(&log, &["a", "b", "c", "d"]).await;
    assert_eq!(log.seek(ONE, &offsets).await.expect("sought").len(), 4);
    other.trim(ONE, Offset(3)).await.expect("trimmed");
    let got = log.seek(ONE, &offsets).await.expect("sought");
    assert_eq!(got.iter().map(|stored| stored.offset).collect::<Vec<_>>(), [Offset(3)]);
    let gone = next(&mut log.read(ONE, Offset::ZERO)).await;
    assert!(matches!(gone, Err(Error::Gone { oldest: Offset(3) })), "{gone:?}");
    assert_eq!(log.bounds(ONE).await.expect("bounds").oldest, Offset(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_ranges_do_not_disturb_who_follows() {
    let Some(cluster) = cluster("old") else { return };
    let log = open(&cluster).await;
    for _ in 0..40 {
        append(&log, &["x"; 256]).await;
    }
    let end = log.bounds(ONE).await.expect("bounds").end;
    let mut follower = log.read(ONE, end);
    assert!(poll_immediate(follower.next()).await.is_none());
    // These begin to read and are not polled again: what they hold must not be missing to others.
    let mut idle: Vec<_> = (0..8).map(|at| log.read(ONE, Offset(at))).collect();
    for reader in &mut idle {
        let _ = poll_immediate(reader.next()).await;
    }
    let other = KafkaLog::open(&cluster).await.expect("the log opens");
    let seek = |from: u64| {
        let offsets: Vec<_> = (0..10).map(|at| Offset(from + at * 1_000)).collect();
        let (log, other) = (&log, &other);
        async move {
            assert_eq!(log.seek(ONE, &offsets).await.expect("sought").len(), 10);
            assert_eq!(other.seek(ONE, &offsets).await.expect("sought").len(), 10);
        }
    };
    let seeks = join_all((0..40).map(seek));
    let follow = async {
        for at in 0..50 {
            let placed = append(&log, &["live"]).await;
            assert_eq!(placed, [Offset(end.0 + at)]);
            let batch = within(2, "what was just appended", follower.next()).await.expect("on").expect("read");
            assert_eq!(batch.iter().map(|stored| stored.offset).collect::<Vec<_>>(), placed);
        }
    };
    tokio::join!(within(20, "the seeks", seeks), follow);
    for reader in &mut idle {
        next(reader).await.expect("it goes on where it was left");
    }
}

#[tokio::test]
async fn readers_come_and_go() {
    let Some(cluster) = cluster("readers") else { return };
    let log = open(&cluster).await;
    for round in 0..3 {
        let from = log.bounds(ONE).await.expect("bounds").end;
        let mut readers = [log.read(ONE, from), log.read(ONE, from), log.read(Partition(2), Offset(5))];
        for reader in &mut readers {
            assert!(poll_immediate(reader.next()).await.is_none(), "round {round}");
        }
        append(&log, &["a", "b"]).await;
        for reader in &mut readers[..2] {
            let mut seen = next(reader).await.expect("read");
            while seen.len() < 2 {
                seen.extend(next(reader).await.expect("read"));
            }
            assert_eq!(seen[0].offset, from);
        }
    }
}

#[tokio::test]
async fn closing_answers_everyone() {
    let Some(cluster) = cluster("close") else { return };
    let log = open(&cluster).await;
    let mut reader = log.read(ONE, Offset(100));
    assert!(poll_immediate(reader.next()).await.is_none());
    let appends = join_all((0..20).map(|_| log.append(ONE, vec![record("last"); 3])));
    let ((), placed) = tokio::join!(
        async {
            tokio::task::yield_now().await;
            within(10, "closing", log.close()).await;
        },
        appends
    );
    assert!(placed.iter().all(Result::is_ok), "{placed:?}");
    assert!(matches!(next(&mut reader).await, Err(Error::Closed)));
    assert!(matches!(log.append(ONE, vec![record("late")]).await, Err(AppendError::Refused(Error::Closed))));
    let found = KafkaLog::open(&cluster).await.expect("the log opens").bounds(ONE).await.expect("bounds");
    assert_eq!(found.end, Offset(60));
}

#[tokio::test]
async fn an_append_that_no_broker_answers_is_unknown() {
    let (brokers, log) = played(|cluster| cluster.append_timeout = Duration::from_secs(1)).await;
    append(&log, &["before"]).await;
    brokers.broker_down(1).expect("it is away");
    let unknown = within(5, "an append", log.append(ONE, vec![record("late"), record("too")])).await;
    assert!(matches!(unknown, Err(AppendError::Unknown(Error::Unavailable(_)))), "{unknown:?}");
    brokers.broker_up(1).expect("it is back");
    // What was given up is still written, where it belongs.
    let mut after = Vec::new();
    while after.is_empty() {
        after = log.append(ONE, vec![record("after")]).await.unwrap_or_default();
    }
    let (mut reader, mut seen) = (log.read(ONE, Offset::ZERO), Vec::new());
    while seen.len() < 4 {
        seen.extend(next(&mut reader).await.expect("read").into_iter().map(|stored| stored.record));
    }
    assert_eq!(seen[..4], ["before", "late", "too", "after"].map(record));
}

#[tokio::test]
async fn what_a_slow_broker_has_is_not_written_twice() {
    let (brokers, log) = played(|cluster| cluster.append_timeout = Duration::from_secs(1)).await;
    append(&log, &["before"]).await;
    // It writes them at once, and is about to say so when the first has been given up and the second has not.
    brokers.broker_round_trip_time(1, Duration::from_secs(2)).expect("it is slow");
    let (first, second) = tokio::join!(log.append(ONE, vec![record("a")]), async {
        tokio::time::sleep(Duration::from_millis(800)).await;
        tokio::join!(log.append(ONE, vec![record("b")]), async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            brokers.broker_round_trip_time(1, Duration::ZERO).expect("it is fast");
        })
        .0
    });
    assert!(matches!(first, Err(AppendError::Unknown(_))), "{first:?}");
    assert!(matches!(second, Err(AppendError::Unknown(_)) | Ok(_)), "{second:?}");
    let placed = append(&log, &["after"]).await;
    assert_eq!(placed, [Offset(3)]);
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_as_a_whole() {
    let (brokers, log) = played(|cluster| cluster.append_timeout = Duration::from_secs(1)).await;
    append(&log, &["before"]).await;
    brokers.broker_down(1).expect("it is away");
    let full = (APPEND_QUEUE_MAX / APPEND_RECORDS_MAX) as u64;
    let appends = (0..full + 3).map(|_| log.append(ONE, vec![record("x"); APPEND_RECORDS_MAX]));
    let (mut taken, mut refused) = (0, 0);
    for answer in within(5, "appends", join_all(appends)).await {
        match answer {
            Err(AppendError::Unknown(_)) => taken += 1,
            Err(AppendError::Refused(Error::Unavailable(why))) if why.starts_with("overloaded") => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((taken, refused), (full, 3));
    brokers.broker_up(1).expect("it is back");
    let mut after = Vec::new();
    while after.is_empty() {
        after = log.append(ONE, vec![record("after")]).await.unwrap_or_default();
    }
    assert_eq!(
        after[0].offset,
        Offset(1 + APPEND_QUEUE_MAX as u64),
        "what was refused is not there, all else is, once"
    );
}

#[tokio::test]
async fn a_broker_that_goes_away_is_unavailable_in_time() {
    let (brokers, log) = played(|cluster| cluster.request_timeout = Duration::from_secs(1)).await;
    append(&log, &["a", "b"]).await;
    let mut follower = log.read(ONE, Offset(2));
    assert!(poll_immediate(follower.next()).await.is_none());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(poll_immediate(follower.next()).await.is_none());
    brokers.broker_down(1).expect("it is away");
    let unavailable = |what: &str, error: Option<Error>| {
        assert!(matches!(error, Some(Error::Unavailable(_))), "{what}: {error:?}");
    };
    unavailable("bounds", within(4, "bounds", log.bounds(ONE)).await.err());
    unavailable("seek", within(4, "seek", log.seek(ONE, &[Offset(0)])).await.err());
    unavailable("trim", within(4, "trim", log.trim(ONE, Offset(1))).await.err());
    unavailable("read", within(4, "read", log.read(ONE, Offset(0)).next()).await.expect("an error").err());
    unavailable("follow", within(15, "follow", follower.next()).await.expect("an error").err());
}

#[tokio::test]
async fn a_producer_that_may_not_write_is_told_at_once() {
    let (brokers, cluster) = play(|_| ());
    brokers.request_errors(
        RDKafkaApiKey::InitProducerId,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED],
    );
    let error = within(4, "opening", KafkaLog::open(&cluster)).await.err().expect("it may not").to_string();
    assert!(error.contains("Cluster authorization failed"), "{error}");
}

#[tokio::test]
async fn a_producer_that_dies_ends_its_process() {
    let (brokers, cluster) = play(|_| ());
    let (told, hears) = oneshot::channel();
    let on_fatal = Box::new(|error: &Error| drop(told.send(error.to_string())));
    let log = KafkaLog::open_with(&cluster, on_fatal).await.expect("the log opens");
    append(&log, &["a"]).await;
    let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
    brokers.request_errors(RDKafkaApiKey::Produce, &[error]);
    let lost = within(12, "an append", log.append(ONE, vec![record("lost")])).await;
    assert!(matches!(lost, Err(AppendError::Unknown(_))), "{lost:?}");
    let error = within(10, "the producer's end", hears).await.expect("it is told");
    assert!(error.contains("out of order sequence number"), "{error}");
    let refused = log.append(ONE, vec![record("late")]).await;
    assert!(matches!(refused, Err(AppendError::Refused(Error::Unavailable(_)))), "{refused:?}");
    assert!(matches!(log.bounds(ONE).await, Err(Error::Unavailable(_))), "it is not well, and says so");
}
