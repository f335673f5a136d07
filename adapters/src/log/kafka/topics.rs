//! The topics of a log, which are the directory, the pool, one for each fleet that has a partition to itself, and one of copies of what
//! cannot be read: making them, finding them, and what may be wrong with them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rdkafka::{
    admin::{AdminClient, AdminOptions, ConfigResource, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication},
    config::FromClientConfigAndContext,
    error::{KafkaResult, RDKafkaErrorCode},
    metadata::{Metadata, MetadataBroker},
    topic_partition_list::{TopicPartitionList, TopicPartitionListElem},
};
use ringforge_domain::{
    limits,
    position::{Generation, Partition, Partitions},
};
use ringforge_ports::names;

use super::{
    OpenError,
    detached::Detached,
    settings::{Cluster, Quiet},
};

/// What may become of what the brokers acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Risks {
    /// Brokers that keep each record, at least.
    pub replication: usize,
    /// What of the settings may lose it all the same, as [`check`] says it.
    pub wrong: Vec<String>,
}

/// What is asked of the topics.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Partitions of the pool.
    pub pool_partitions: u16,
    /// Topics of one partition, each for one fleet.
    pub dedicated: u16,
    /// Brokers that keep each record.
    pub replication: u16,
    /// How many of them must have it before it is acknowledged.
    pub min_insync_replicas: u16,
}

/// Settings of a topic that must be so, and what would happen otherwise.
const SETTINGS: [(&str, &str, &str); 5] = [
    ("message.timestamp.type", "LogAppendTime", "the clock of whoever appends would decide what expires"),
    ("retention.ms", "-1", "Kafka would delete what is still needed"),
    ("retention.bytes", "-1", "Kafka would delete what is still needed"),
    ("cleanup.policy", "delete", "compaction would leave holes in the log"),
    ("unclean.leader.election.enable", "false", "a broker that lacks acknowledged records could become leader"),
];
const MIN_INSYNC: &str = "min.insync.replicas";
const MESSAGE_BYTES: &str = "max.message.bytes";
const AUTO_CREATE: &str = "auto.create.topics.enable";
/// How often it is looked at most whether new topics are there, within the time that a request may take.
const LOOKS: u32 = 50;

/// The topics of an open log.
pub(super) struct Topics {
    pub(super) generation: Generation,
    directory: String,
    pool: String,
    /// Of no partition of the log.
    pub(super) dlq: String,
    pool_partitions: u16,
    /// By their numbers.
    dedicated: Vec<String>,
}

impl Topics {
    /// The partitions of all.
    pub(super) fn partitions(&self) -> Partitions {
        let dedicated = u16::try_from(self.dedicated.len()).expect("their numbers are below 2^15");
        Partitions { shared: 1 + self.pool_partitions, dedicated }
    }

    /// The names of those that have partitions of the log.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        [&self.directory, &self.pool].into_iter().chain(&self.dedicated).map(String::as_str)
    }

    /// Topic and number of a partition that there is.
    pub(super) fn place(&self, partition: Partition) -> (&str, i32) {
        match partition {
            Partition::DIRECTORY => (&self.directory, 0),
            dedicated if dedicated.is_dedicated() => {
                (&self.dedicated[usize::from(dedicated.0 - Partition::DEDICATED.0)], 0)
            }
            Partition(number) => (&self.pool, i32::from(number) - 1),
        }
    }

    /// The partition that has this place.
    pub(super) fn partition(&self, topic: &str, number: i32) -> Option<Partition> {
        if topic == self.directory {
            return (number == 0).then_some(Partition::DIRECTORY);
        }
        if topic == self.pool {
            let partition = u16::try_from(number).ok()?.checked_add(1)?;
            return (partition <= self.pool_partitions).then_some(Partition(partition));
        }
        let dedicated = names::dedicated_number(topic)?;
        let is_ours = number == 0 && self.dedicated.get(usize::from(dedicated)).is_some_and(|ours| ours == topic);
        is_ours.then_some(Partition(Partition::DEDICATED.0 + dedicated))
    }
}

/// What there is of a topic.
#[derive(Clone, Default)]
pub(super) struct Seen {
    partitions: usize,
    /// Those that have a leader.
    led: usize,
    /// Replicas of the partition that has the fewest.
    replication: usize,
}

/// The topics of one generation, by name.
type Found = BTreeMap<String, Seen>;
/// Those of all.
pub(super) type Generations = BTreeMap<Generation, Found>;

/// What metadata say of the topics under a prefix, by generation.
pub(super) fn found(metadata: &Metadata, prefix: &str) -> Generations {
    let mut found = Generations::new();
    for topic in metadata.topics() {
        if let Some(generation) = names::topic_generation(prefix, topic.name()) {
            let partitions = topic.partitions();
            let seen = Seen {
                partitions: partitions.len(),
                led: partitions.iter().filter(|partition| partition.leader() >= 0).count(),
                replication: partitions.iter().map(|partition| partition.replicas().len()).min().unwrap_or_default(),
            };
            found.entry(generation).or_default().insert(topic.name().to_owned(), seen);
        }
    }
    found
}

/// The one generation there is.
fn only(prefix: &str, mut found: Generations) -> Result<Option<(Generation, Found)>, OpenError> {
    if found.len() > 1 {
        let generations = found.keys().map(|generation| format!("{:08x}", generation.0)).collect::<Vec<_>>().join(", ");
        return Err(OpenError::SeveralGenerations { prefix: prefix.to_owned(), generations });
    }
    Ok(found.pop_first())
}

/// How many topics there are that one fleet each has to itself: up to the last of them.
fn dedicated(found: &Found) -> u16 {
    found.keys().filter_map(|topic| names::dedicated_number(topic)).max().map_or(0, |last| last + 1)
}

/// The topics that are asked for, with their partitions.
fn wanted(prefix: &str, generation: Generation, shape: Shape) -> Vec<(String, u16)> {
    let shared = [
        (names::directory_topic(prefix, generation), 1),
        (names::pool_topic(prefix, generation), shape.pool_partitions),
        (names::dlq_topic(prefix, generation), 1),
    ];
    let dedicated = (0..shape.dedicated).map(|number| (names::dedicated_topic(prefix, generation, number), 1));
    shared.into_iter().chain(dedicated).collect()
}

/// What there is, once it is all that is wanted, or has been looked for that long: a broker hears later than others of topics that
/// were just made.
pub(super) async fn settled<Looking: Future<Output = Result<Generations, OpenError>>>(
    patience: Duration,
    look: impl Fn() -> Looking,
    is_all: impl Fn(&Generations) -> bool,
) -> Result<Generations, OpenError> {
    for _ in 1..LOOKS {
        let found = look().await?;
        // Several generations are wrong, and stay.
        if is_all(&found) || found.len() > 1 {
            return Ok(found);
        }
        tokio::time::sleep(patience / LOOKS).await;
    }
    look().await
}

/// The topics of the one generation under a prefix.
pub(super) fn find(found: Generations, prefix: &str) -> Result<Topics, OpenError> {
    let none = || OpenError::NoTopics { prefix: prefix.to_owned() };
    let (generation, found) = only(prefix, found)?.ok_or_else(none)?;
    let [directory, pool, dlq] =
        [names::directory_topic, names::pool_topic, names::dlq_topic].map(|name| name(prefix, generation));
    let dedicated: Vec<String> =
        (0..dedicated(&found)).map(|number| names::dedicated_topic(prefix, generation, number)).collect();
    for topic in [&directory, &pool, &dlq].into_iter().chain(&dedicated) {
        if found.get(topic).is_none_or(|seen| seen.partitions == 0) {
            return Err(OpenError::NoTopic { topic: topic.clone() });
        }
    }
    // More than a `Partition` can count are not used.
    let pool_partitions = u16::try_from(found[&pool].partitions).unwrap_or(u16::MAX).min(Partition::DEDICATED.0 - 1);
    Ok(Topics { generation, directory, pool, dlq, pool_partitions, dedicated })
}

/// Makes what is missing of the topics: a log that is there keeps its generation, a new one gets `drawn`. A pool may grow.
///
/// # Errors
/// The cluster is away, refuses, or has several generations.
pub async fn create(cluster: &Cluster, shape: Shape, drawn: Generation) -> Result<Generation, OpenError> {
    let admin = Admin::connect(cluster)?;
    let (generation, found) = only(&cluster.prefix, admin.found().await?)?.unwrap_or((drawn, Found::new()));
    // What is missing between others is made as well.
    let shape = Shape { dedicated: shape.dedicated.max(dedicated(&found)), ..shape };
    let wanted = wanted(&cluster.prefix, generation, shape);
    for (topic, partitions) in &wanted {
        match found.get(topic).map(|seen| seen.partitions) {
            None => admin.create(topic, *partitions, shape).await?,
            Some(have) if have < usize::from(*partitions) => admin.grow(topic, *partitions).await?,
            Some(_) => {}
        }
    }
    let are_led = |found: &Generations| has_all(found.get(&generation), &wanted, |seen| seen.led);
    if !are_led(&settled(cluster.request_timeout, || admin.found(), are_led).await?) {
        return Err(OpenError::Refused {
            what: "make the topics: they are not there yet, though they were made".into(),
        });
    }
    Ok(generation)
}

/// Whether each topic that is wanted is there with as many partitions, of those that `count`.
fn has_all(found: Option<&Found>, wanted: &[(String, u16)], count: impl Fn(&Seen) -> usize) -> bool {
    let has = |topic, partitions| found?.get(topic).map(|seen| count(seen) >= usize::from(partitions));
    wanted.iter().all(|(topic, partitions)| has(topic, *partitions) == Some(true))
}

/// What is wrong with the topics and the brokers' settings, one sentence each that names the setting and the fix.
///
/// # Errors
/// The cluster is away or does not tell.
pub async fn check(cluster: &Cluster, shape: Shape) -> Result<Vec<String>, OpenError> {
    let admin = Admin::connect(cluster)?;
    let are_there = |found: &Generations| {
        found.iter().any(|(&generation, found)| {
            has_all(Some(found), &wanted(&cluster.prefix, generation, shape), |seen| seen.partitions)
        })
    };
    let found = settled(cluster.request_timeout, || admin.found(), are_there).await?;
    let (generation, found) = match only(&cluster.prefix, found) {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(vec![OpenError::NoTopics { prefix: cluster.prefix.clone() }.to_string()]),
        Err(several) => return Ok(vec![several.to_string()]),
    };
    let mut wrong = Vec::new();
    // Also those of which nobody was reminded.
    let shape = Shape { dedicated: shape.dedicated.max(dedicated(&found)), ..shape };
    for (topic, partitions) in wanted(&cluster.prefix, generation, shape) {
        let Some(seen) = found.get(&topic) else {
            wrong.push(OpenError::NoTopic { topic }.to_string());
            continue;
        };
        wrong.extend(check_partitions(&topic, seen, partitions, shape));
        let settings = admin.settings(&ResourceSpecifier::Topic(&topic)).await?;
        wrong.extend(check_settings(&topic, &settings, shape));
    }
    wrong.extend(check_brokers(&admin).await?);
    Ok(wrong)
}

/// What of the topics that are there, and of the brokers, may lose what was acknowledged: for whoever is about to use them, and
/// knows nothing of how they were asked to be.
///
/// # Errors
/// The cluster is away or does not tell, or there are no topics.
pub async fn risks(cluster: &Cluster) -> Result<Risks, OpenError> {
    let admin = Admin::connect(cluster)?;
    let none = || OpenError::NoTopics { prefix: cluster.prefix.clone() };
    let is_log = |found: &Generations| find(found.clone(), &cluster.prefix).is_ok();
    let found = settled(cluster.request_timeout, || admin.found(), is_log).await?;
    let (_, found) = only(&cluster.prefix, found)?.ok_or_else(none)?;
    let mut wrong = Vec::new();
    for (topic, seen) in &found {
        let settings = admin.settings(&ResourceSpecifier::Topic(topic)).await?;
        let insync = value(&settings, MIN_INSYNC).parse().unwrap_or_default();
        wrong.extend(too_soon(topic, seen.replication, insync));
        wrong.extend(check_fixed(topic, &settings));
    }
    wrong.extend(check_brokers(&admin).await?);
    let replication = found.values().map(|seen| seen.replication).min().unwrap_or_default();
    Ok(Risks { replication, wrong })
}

async fn check_brokers(admin: &Admin) -> Result<Option<String>, OpenError> {
    let broker = admin.settings(&ResourceSpecifier::Broker(admin.broker().await?)).await?;
    Ok((value(&broker, AUTO_CREATE) == "true").then(|| {
        format!(
            "The brokers have {AUTO_CREATE}=true: a name that was mistyped would become an empty log. Set it to false."
        )
    }))
}

fn check_partitions(topic: &str, seen: &Seen, partitions: u16, shape: Shape) -> Vec<String> {
    let mut wrong = Vec::new();
    if seen.partitions < usize::from(partitions) {
        wrong.push(format!(
            "The topic {topic} has {} partitions, not {partitions}. `ringforge topics create` adds what is missing.",
            seen.partitions
        ));
    }
    if seen.led < seen.partitions {
        wrong.push(format!(
            "{} partitions of the topic {topic} have no leader. Start the brokers that keep them.",
            seen.partitions - seen.led
        ));
    }
    let fewest = seen.replication;
    if fewest < usize::from(shape.replication) {
        wrong.push(format!(
            "The topic {topic} has a replication factor of {fewest}, not {}. Reassign its partitions to more brokers.",
            shape.replication
        ));
    }
    let insync = usize::from(shape.min_insync_replicas);
    if fewest > 1 && insync >= fewest {
        wrong.push(format!(
            "{MIN_INSYNC}={insync} with a replication factor of {fewest} on {topic} stops every append when one broker is away. \
             Set it to {}.",
            fewest - 1
        ));
    }
    wrong.extend(too_soon(topic, fewest, insync));
    wrong
}

/// What is wrong where one broker is enough to acknowledge what several keep.
fn too_soon(topic: &str, fewest: usize, insync: usize) -> Option<String> {
    (fewest > 2 && insync < 2).then(|| {
        format!(
            "{MIN_INSYNC}={insync} on {topic} acknowledges what only one of {fewest} brokers may have. Set it to 2."
        )
    })
}

/// What every topic must have.
fn check_fixed(topic: &str, settings: &ConfigResource) -> Vec<String> {
    let wrong = SETTINGS.into_iter().filter(|(name, want, _)| value(settings, name) != *want);
    wrong.map(|(name, want, why)| is(topic, name, value(settings, name), want, why)).collect()
}

/// Says what a setting is and how it should be.
fn is(topic: &str, name: &str, have: &str, want: &str, why: &str) -> String {
    format!("The topic {topic} has {name}={have}: {why}. Set it to {want}.")
}

fn check_settings(topic: &str, settings: &ConfigResource, shape: Shape) -> Vec<String> {
    let mut wrong = check_fixed(topic, settings);
    let insync = shape.min_insync_replicas.to_string();
    if value(settings, MIN_INSYNC) != insync {
        let why = "an acknowledged record would be on another number of brokers than was asked for";
        wrong.push(is(topic, MIN_INSYNC, value(settings, MIN_INSYNC), &insync, why));
    }
    let bytes = value(settings, MESSAGE_BYTES);
    if bytes.parse::<usize>().is_ok_and(|bytes| bytes < limits::KAFKA_MESSAGE_BYTES_MAX) {
        let why = "the largest appends would be refused";
        wrong.push(is(topic, MESSAGE_BYTES, bytes, &limits::KAFKA_MESSAGE_BYTES_MAX.to_string(), why));
    }
    wrong
}

fn value<'a>(settings: &'a ConfigResource, name: &str) -> &'a str {
    settings.get(name).and_then(|entry| entry.value.as_deref()).unwrap_or("nothing")
}

/// A client for what concerns whole topics.
pub(super) struct Admin {
    client: Arc<Detached<AdminClient<Quiet>>>,
    cluster: Cluster,
}

impl Admin {
    pub(super) fn connect(cluster: &Cluster) -> Result<Self, OpenError> {
        let client = AdminClient::from_config_and_context(&cluster.client(), Quiet::default());
        let client = client.map_err(|error| OpenError::Refused { what: format!("set up a client: {error}") })?;
        Ok(Self { client: Arc::new(Detached::new(client)), cluster: cluster.clone() })
    }

    fn options(&self) -> AdminOptions {
        let timeout = Some(self.cluster.request_timeout);
        AdminOptions::new().request_timeout(timeout).operation_timeout(timeout)
    }

    async fn metadata<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Metadata) -> T + Send + 'static,
    ) -> Result<T, OpenError> {
        let (client, cluster) = (Arc::clone(&self.client), self.cluster.clone());
        let asked = tokio::task::spawn_blocking(move || {
            let metadata = client.inner().fetch_metadata(None, cluster.request_timeout);
            let failed = |error| client.inner().context().complaint.explain(&cluster, &error);
            metadata.map(|metadata| read(&metadata)).map_err(failed)
        });
        asked.await.map_err(|error| OpenError::Refused { what: format!("ask for the topics: {error}") })?
    }

    async fn found(&self) -> Result<Generations, OpenError> {
        let prefix = self.cluster.prefix.clone();
        self.metadata(move |metadata| found(metadata, &prefix)).await
    }

    /// A broker.
    async fn broker(&self) -> Result<i32, OpenError> {
        self.metadata(|metadata| metadata.brokers().first().map_or(0, MetadataBroker::id)).await
    }

    async fn settings(&self, of: &ResourceSpecifier<'_>) -> Result<ConfigResource, OpenError> {
        let refused = |what: String| OpenError::Refused { what: format!("describe {of:?}: {what}") };
        let mut again = 1..LOOKS;
        loop {
            let described = self.client.describe_configs([of], &self.options()).await;
            let described = described.map_err(|error| refused(error.to_string()))?;
            match described.into_iter().next().ok_or_else(|| refused("no answer".into()))? {
                // By a broker that has not heard of it yet.
                Err(RDKafkaErrorCode::UnknownTopicOrPartition) if again.next().is_some() => {
                    tokio::time::sleep(self.cluster.request_timeout / LOOKS).await;
                }
                one => return one.map_err(|code| refused(code.to_string())),
            }
        }
    }

    async fn create(&self, topic: &str, partitions: u16, shape: Shape) -> Result<(), OpenError> {
        let (insync, bytes) = (shape.min_insync_replicas.to_string(), limits::KAFKA_MESSAGE_BYTES_MAX.to_string());
        let replication = TopicReplication::Fixed(i32::from(shape.replication));
        let mut new = NewTopic::new(topic, i32::from(partitions), replication);
        for (name, value, _) in SETTINGS {
            new = new.set(name, value);
        }
        new = new.set(MIN_INSYNC, &insync).set(MESSAGE_BYTES, &bytes);
        one_of("create", topic, self.client.create_topics([&new], &self.options()).await)
    }

    async fn grow(&self, topic: &str, partitions: u16) -> Result<(), OpenError> {
        let more = NewPartitions::new(topic, usize::from(partitions));
        one_of("add partitions to", topic, self.client.create_partitions([&more], &self.options()).await)
    }

    /// Deletes what is before the offsets.
    pub(super) async fn delete_records(&self, before: &TopicPartitionList) -> KafkaResult<()> {
        let done = self.client.delete_records(before, &self.options()).await?;
        done.elements().iter().try_for_each(TopicPartitionListElem::error)
    }
}

/// What came of the one topic that was asked for. Whoever else made it first made it well.
fn one_of(
    doing: &str,
    topic: &str,
    answer: KafkaResult<Vec<Result<String, (String, RDKafkaErrorCode)>>>,
) -> Result<(), OpenError> {
    let refused = |what: String| OpenError::Refused { what: format!("{doing} the topic {topic}: {what}") };
    for one in answer.map_err(|error| refused(error.to_string()))? {
        match one {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(refused(code.to_string())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_in_sync_are_weighed_against_replicas() {
        let said = |replication: u16, min_insync_replicas| {
            let seen = Seen { partitions: 2, led: 2, replication: usize::from(replication) };
            check_partitions(
                "pool",
                &seen,
                2,
                Shape { pool_partitions: 2, dedicated: 0, replication, min_insync_replicas },
            )
        };
        for (replication, insync) in [(1, 1), (2, 1), (3, 2), (5, 3)] {
            assert_eq!(said(replication, insync), [""; 0], "{replication} {insync}");
        }
        assert!(
            said(3, 3)[0].ends_with("stops every append when one broker is away. Set it to 2."),
            "{:?}",
            said(3, 3)
        );
        assert!(said(3, 1)[0].ends_with("only one of 3 brokers may have. Set it to 2."), "{:?}", said(3, 1));
    }

    #[test]
    fn a_partition_without_a_leader_is_named() {
        let seen = Seen { partitions: 4, led: 3, replication: 1 };
        let shape = Shape { pool_partitions: 4, dedicated: 0, replication: 1, min_insync_replicas: 1 };
        let wrong = check_partitions("pool", &seen, 4, shape);
        assert_eq!(wrong, ["1 partitions of the topic pool have no leader. Start the brokers that keep them."]);
    }
}
