//! A broker that is played, and so can be broken at will: what becomes of appends.

use rdkafka::{
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use ringforge_domain::limits::APPEND_QUEUE_MAX;
use tokio::sync::oneshot;

use super::*;

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
    brokers.create_topic(&names::dlq_topic("played", GENERATION), 1, 1).expect("a topic");
    (brokers, cluster)
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
