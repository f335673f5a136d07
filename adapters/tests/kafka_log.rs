//! What only the Kafka log has: its topics and their settings, its time, and what becomes of it when a broker is away, slow or
//! another one.
#![cfg(feature = "cluster")]

#[path = "kafka_log/played.rs"]
mod played;

use std::{collections::BTreeSet, future::Future, sync::Arc, time::Duration};

use futures_util::{
    StreamExt,
    future::{join_all, poll_immediate},
    stream::BoxStream,
};
use rdkafka::{
    ClientConfig, Message,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{Consumer, StreamConsumer},
    message::Headers,
    producer::{FutureProducer, FutureRecord},
};
use ringforge_adapters::log::kafka::{Cluster, KafkaLog, OpenError, Shape, check, create, risks};
use ringforge_domain::{
    ids::{FleetId, Scope, TenantId},
    limits::{APPEND_BYTES_MAX, APPEND_RECORDS_MAX, READ_RECORDS_MAX},
    position::{Generation, Offset, Partition, Partitions},
};
use ringforge_ports::{
    Error,
    clock::{Ids, SystemIds},
    contract::server,
    log::{AppendError, Letter, Log, Record, Stored},
    names,
};

const SHAPE: Shape = Shape { pool_partitions: 2, dedicated: 0, replication: 1, min_insync_replicas: 1 };
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
                return self.sees(topic, true).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{topic} could not be made");
    }

    /// Waits until the broker tells of a topic, or does not any more: its controller knows it first.
    async fn sees(&self, topic: &str, there: bool) {
        for _ in 0..100 {
            let told = self.admin.inner().fetch_metadata(None, Duration::from_secs(5)).expect("an answer");
            if there == told.topics().iter().any(|told| told.name() == topic && !told.partitions().is_empty()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the broker does not know what became of {topic}");
    }

    async fn delete(&self, topic: &str) {
        let gone = self.admin.delete_topics(&[topic], &AdminOptions::new()).await.expect("an answer");
        assert!(gone.iter().all(Result::is_ok), "{gone:?}");
        self.sees(topic, false).await;
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

#[tokio::test]
async fn topics_are_made_once_and_grow() {
    let Some(cluster) = cluster("create") else { return };
    assert_eq!(create(&cluster, SHAPE, GENERATION).await.expect("made"), GENERATION);
    assert_eq!(create(&cluster, SHAPE, Generation(8)).await.expect("there"), GENERATION);
    assert_eq!(check(&cluster, SHAPE).await.expect("checked"), [""; 0]);
    let log = KafkaLog::open(&cluster).await.expect("the log opens");
    assert_eq!(log.partitions(), Partitions::shared(3));
    assert_eq!(log.bounds(ONE).await.expect("bounds").generation, GENERATION);
    let larger = Shape { pool_partitions: 4, ..SHAPE };
    let wrong = check(&cluster, larger).await.expect("checked");
    assert!(wrong.len() == 1 && wrong[0].contains("has 2 partitions, not 4. `ringforge topics create`"), "{wrong:?}");
    assert_eq!(create(&cluster, larger, Generation(8)).await.expect("grown"), GENERATION);
    assert_eq!(KafkaLog::open(&cluster).await.expect("the log opens").partitions(), Partitions::shared(5));
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
async fn topics_of_which_a_broker_hears_late_are_waited_for() {
    let Some(cluster) = cluster("late") else { return };
    let outsider = Outsider::at(&cluster);
    let topics =
        [names::directory_topic, names::pool_topic, names::dlq_topic].map(|name| name(&cluster.prefix, GENERATION));
    let made = async {
        for topic in &topics {
            tokio::time::sleep(Duration::from_millis(300)).await;
            outsider.make(topic, 1, &[]).await;
        }
    };
    let one = Shape { pool_partitions: 1, ..SHAPE };
    let (opened, checked, risks, ()) =
        tokio::join!(KafkaLog::open(&cluster), check(&cluster, one), risks(&cluster), made);
    opened.expect("the log opens");
    let checked = checked.expect("checked");
    assert!(checked.iter().all(|wrong| !wrong.contains("ringforge topics create")), "{checked:?}");
    risks.expect("the topics are there");
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
    for said in ["replication factor of 1, not 3", "min.insync.replicas=1", "directory is missing", "dlq is missing"] {
        assert!(wrong.iter().any(|wrong| wrong.contains(said)), "{said}: {wrong:?}");
    }
    assert_eq!(wrong.len(), settings.len() + 4, "{wrong:?}");
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

/// What both own by now, as soon as it is everything and nothing twice.
async fn shared(one: &mut BoxStream<'static, BTreeSet<Partition>>, two: &mut BoxStream<'static, BTreeSet<Partition>>) {
    let all = BTreeSet::from([Partition::DIRECTORY, ONE, Partition(2)]);
    let (mut first, mut second) = (BTreeSet::new(), BTreeSet::new());
    within(30, "everything is dealt out", async {
        loop {
            tokio::select! {
                owned = one.next() => first = owned.expect("it never ends"),
                owned = two.next() => second = owned.expect("it never ends"),
            }
            if !first.is_empty() && !second.is_empty() && first.is_disjoint(&second) && &first | &second == all {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn two_processes_share_what_is_projected() {
    let Some(cluster) = cluster("two_processes_share_what_is_projected") else { return };
    let (one, two) = (open(&cluster).await, open(&cluster).await);
    let (mut first, mut second) = (one.owned(), two.owned());
    shared(&mut first, &mut second).await;
    drop(second);
    within(30, "the other takes all", async { while first.next().await.expect("it never ends").len() < 3 {} }).await;
    shared(&mut first, &mut two.owned()).await;
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
async fn what_is_buried_is_found_by_anyone_and_outlives_the_log() {
    let Some(cluster) = cluster("dlq") else { return };
    let log = open(&cluster).await;
    let offsets = append(&log, &["a", "b", "c"]).await;
    let stored = log.seek(ONE, &offsets).await.expect("sought");
    let letter = |stored: Stored| Letter { partition: ONE, stored, reason: "no framing: \u{e4}".repeat(99) };
    let letters: Vec<Letter> = stored.into_iter().map(letter).collect();
    assert_eq!(log.buried().count().await, 0);
    log.bury(&letters[..2]).await.expect("copied");
    log.bury(&letters[1..]).await.expect("copied");
    // Whatever another client wrote there is passed over.
    let (topic, pool) = (names::dlq_topic(&cluster.prefix, GENERATION), names::pool_topic(&cluster.prefix, GENERATION));
    let foreign: FutureRecord<'_, str, str> = FutureRecord::to(&topic).payload("no copy");
    Outsider::at(&cluster).producer.send(foreign, Duration::from_secs(5)).await.expect("sent");
    let largest = Record { bytes: vec![7; APPEND_BYTES_MAX + 1].into(), ..record("") };
    let largest = Stored { record: largest, ..letters[0].stored.clone() };
    log.bury(&[letter(largest)]).await.expect("left out, as it has no room");

    log.trim(ONE, Offset(3)).await.expect("trimmed");
    log.close().await;
    let log = KafkaLog::open(&cluster).await.expect("the log opens");
    let copies: Vec<Letter> = log.buried().map(|letter| letter.expect("a copy")).collect().await;
    let [a, b, b_again, c] = &copies[..] else { panic!("{copies:?}") };
    for (copy, of) in [(a, &letters[0]), (b, &letters[1]), (b_again, &letters[1]), (c, &letters[2])] {
        assert_eq!((copy.partition, &copy.stored), (of.partition, &of.stored));
        assert!(of.reason.starts_with(&copy.reason) && copy.reason.len() > 500, "{}", copy.reason);
    }

    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &cluster.servers)
        .set("group.id", &cluster.prefix)
        .set("auto.offset.reset", "earliest");
    let consumer: StreamConsumer = config.create().expect("a consumer");
    consumer.subscribe(&[&topic]).expect("it subscribes");
    let message = within(30, "what anyone sees", consumer.recv()).await.expect("a message");
    let headers = message.headers().expect("headers").iter();
    let seen: Vec<_> = headers.map(|header| (header.key, str::from_utf8(header.value.expect("a value")))).collect();
    let (logged_at, key) = (letters[0].stored.time.rfc3339(), names::record_key(record("").scope));
    let wanted =
        [("topic", &*pool), ("partition", "0"), ("offset", "0"), ("logged_at", &*logged_at), ("reason", &*a.reason)];
    assert_eq!(seen, wanted.map(|(key, value)| (key, Ok(value))));
    assert_eq!((message.key(), message.payload()), (Some(key.as_bytes()), Some(&b"a"[..])));
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
async fn a_topic_made_anew_that_has_grown_as_long_is_noticed() {
    let Some(cluster) = cluster("grown") else { return };
    let log = open(&cluster).await;
    for _ in 0..=READ_RECORDS_MAX / APPEND_RECORDS_MAX {
        append(&log, &["old"; APPEND_RECORDS_MAX]).await;
    }
    let mut reader = log.read(ONE, Offset::ZERO);
    // A part of it: the rest is read from the other topic.
    next(&mut reader).await.expect("read");
    let (topic, outsider) = (names::pool_topic(&cluster.prefix, GENERATION), Outsider::at(&cluster));
    outsider.delete(&topic).await;
    outsider.make(&topic, 2, &[]).await;
    let new = |_| {
        let new: FutureRecord<'_, str, str> = FutureRecord::to(&topic).partition(0).payload("new");
        outsider.producer.send(new, Duration::from_secs(10))
    };
    assert!(join_all((0..2 * READ_RECORDS_MAX).map(new)).await.iter().all(Result::is_ok));
    within(20, "the new topic", async {
        while !log.seek(ONE, &[Offset(5)]).await.is_ok_and(|found| &*found[0].record.bytes == b"new") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    match next(&mut reader).await {
        Err(Error::Corrupt(what)) => assert!(what.contains("is not the one that was read before"), "{what}"),
        other => panic!("{other:?}"),
    }
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
