//! The log of many processes: Kafka topics, one for the directory, one for all pool partitions, and one for each fleet that has a
//! partition to itself.
//!
//! ```text
//!   append -> room in the queue -> the one producer: idempotent, explicit partition, acks=all
//!   read   -> tail, filled by one consumer that follows every partition somebody reads
//!      '----> history, when it is behind: a few consumers, each sent anew to where it is wanted
//! ```
//!
//! Time is the broker's. The generation is part of the topics' names. Offsets count without holes, as nobody writes
//! transactions into these topics and nothing compacts them: one that is missing is damage, and never passed over.

mod detached;
mod follow;
mod history;
mod letters;
mod owners;
mod produce;
mod records;
mod settings;
mod topics;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use rdkafka::{error::KafkaError, topic_partition_list::TopicPartitionList};
use ringforge_domain::position::{Offset, Partition, Partitions};
use ringforge_ports::{
    Error,
    log::{AppendError, Bounds, Letter, Log, Placed, Record, Stored, check_append, check_partition, check_seek},
};
use tokio::{sync::Notify, task::AbortHandle};

pub use settings::Cluster;
pub use topics::{Risks, Shape, check, create, risks};

use super::{
    OnFatal,
    tail::{self, Followed, Tailed, Tails},
};
use detached::Detached;
use history::History;
use produce::Producer;
use settings::Voice;
use topics::{Admin, Generations, Topics};

/// How often an end that has fallen is asked for again before it is believed: a broker that has just lost its leadership may not
/// know it yet.
const DOUBTS: u32 = 10;

/// Why a log could not be opened, or its topics not be made or checked.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be an address.
    #[error(
        "this is no address of a Kafka cluster: {what}. It looks like kafka://[USER:PASSWORD@]HOST:PORT,HOST:PORT/PREFIX[?tls=true]"
    )]
    Address {
        /// What is wrong with it.
        what: String,
    },
    /// No broker answered.
    #[error(
        "no Kafka broker answers at {servers} within {} s ({what}). Is one running there, and do its security settings fit?",
        within.as_secs()
    )]
    Unreachable {
        /// Where.
        servers: String,
        /// How long was waited.
        within: Duration,
        /// What the library says.
        what: String,
    },
    /// Nobody vouches for them.
    #[error(
        "the certificate of the Kafka brokers at {servers} is not trusted ({what}): set SSL_CERT_FILE to a file of the authorities that signed it"
    )]
    Untrusted {
        /// Where.
        servers: String,
        /// What the library says.
        what: String,
    },
    /// They do not take the login.
    #[error("the Kafka brokers at {servers} refuse the login ({what}): put the right one into the address")]
    Denied {
        /// Where.
        servers: String,
        /// What the library says.
        what: String,
    },
    /// There is no log.
    #[error("no topics begin with {prefix}: make them with `ringforge topics create`, or set the prefix they have")]
    NoTopics {
        /// What their names would begin with.
        prefix: String,
    },
    /// There is half a log.
    #[error("the topic {topic} is missing: make it with `ringforge topics create`")]
    NoTopic {
        /// Which.
        topic: String,
    },
    /// There are several logs, and nothing says which is meant.
    #[error(
        "topics of several generations begin with {prefix}: {generations}. `ringforge topics create` makes only one: delete those of the others, or give each its prefix"
    )]
    SeveralGenerations {
        /// What their names begin with.
        prefix: String,
        /// Which there are.
        generations: String,
    },
    /// The cluster, or the library, did not do what it was asked.
    #[error("{what}")]
    Refused {
        /// What, and why.
        what: String,
    },
}

/// The log in Kafka's topics. What is on its way when it is dropped is still sent if the process lives long enough: see
/// `close`.
pub struct KafkaLog {
    core: Arc<Core>,
    tasks: [AbortHandle; 2],
    /// Those that know what this process should project.
    members: Mutex<Vec<JoinHandle<()>>>,
}

/// What the log, its readers and its tasks share.
struct Core {
    cluster: Cluster,
    topics: Arc<Topics>,
    tails: Tails,
    /// The highest end of each partition that was ever seen.
    ends: Vec<AtomicU64>,
    producer: Arc<Detached<Producer>>,
    history: Arc<History>,
    /// The follower is to look again at what is followed.
    asked: Notify,
}

impl KafkaLog {
    /// Opens the log whose topics are there. What is wrong with their settings is for [`check`] to say. The producer has its id
    /// by then, for which half a second is waited; an append would wait for it otherwise.
    ///
    /// # Errors
    /// No broker answers, or the topics of one generation are not there.
    pub async fn open(cluster: &Cluster) -> Result<Arc<Self>, OpenError> {
        Self::open_with(cluster, Box::new(|_| ())).await
    }

    /// The same; `on_fatal` is called when the producer is dead for good. By then nothing is taken any more.
    pub async fn open_with(cluster: &Cluster, on_fatal: OnFatal) -> Result<Arc<Self>, OpenError> {
        let refused = |error: KafkaError| OpenError::Refused { what: format!("set up a producer: {error}") };
        let producer = Arc::new(Detached::new(Producer::new(cluster, Voice::new(on_fatal)).map_err(refused)?));
        let topics = Arc::new(find(cluster, &producer).await?);
        if tokio::time::timeout(cluster.request_timeout, producer.voice().warm()).await.is_err() {
            tracing::warn!("kafka: the producer has no id yet, so the first appends will wait");
        }
        if let Some(error) = producer.voice().stopped() {
            return Err(OpenError::Refused { what: error.to_string() });
        }
        let core = Arc::new(Core {
            cluster: cluster.clone(),
            tails: Tails::idle(topics.partitions()),
            ends: topics.partitions().iter().map(|_| AtomicU64::new(0)).collect(),
            history: Arc::new(History::new(cluster, Arc::clone(&topics))),
            topics,
            producer,
            asked: Notify::new(),
        });
        let tasks = [
            tokio::spawn(follow::run(Arc::clone(&core))).abort_handle(),
            tokio::spawn(follow::watch(Arc::clone(&core))).abort_handle(),
        ];
        Ok(Arc::new(Self { core, tasks, members: Mutex::default() }))
    }

    /// Takes no more appends, waits a while until those that were taken are answered, ends every reader, and gives up what this process
    /// projects, so that others need not wait for its death.
    pub async fn close(&self) {
        self.stop();
        let producer = Arc::clone(&self.core.producer);
        let members = std::mem::take(&mut *self.members.lock().expect("no panic while the lock is held"));
        let closing = move || {
            producer.flush();
            for member in members {
                // One that panicked has left as well.
                drop(member.join());
            }
        };
        // What panics has nothing more to wait for.
        let _ = tokio::task::spawn_blocking(closing).await;
    }

    fn stop(&self) {
        self.core.producer.voice().stop(Error::Closed);
        self.core.tails.end(Error::Closed);
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The topics of the log, as the producer's own client sees them.
async fn find(cluster: &Cluster, producer: &Arc<Detached<Producer>>) -> Result<Topics, OpenError> {
    let is_log = |found: &Generations| topics::find(found.clone(), &cluster.prefix).is_ok();
    let found = topics::settled(cluster.request_timeout, || look(cluster, producer), is_log).await?;
    topics::find(found, &cluster.prefix)
}

async fn look(cluster: &Cluster, producer: &Arc<Detached<Producer>>) -> Result<Generations, OpenError> {
    let (cluster, producer) = (cluster.clone(), Arc::clone(producer));
    let found = tokio::task::spawn_blocking(move || {
        let metadata = producer.client().fetch_metadata(None, cluster.request_timeout);
        let metadata = metadata.map_err(|error| producer.voice().complaint().explain(&cluster, &error))?;
        Ok(topics::found(&metadata, &cluster.prefix))
    });
    found.await.map_err(|error| OpenError::Refused { what: format!("ask for the topics: {error}") })?
}

impl Core {
    fn check(&self, partition: Partition) -> Result<(), Error> {
        check_partition(partition, self.topics.partitions())?;
        self.producer.voice().stopped().cloned().map_or(Ok(()), Err)
    }

    /// Of a partition that there is.
    fn seen(&self, partition: Partition) -> &AtomicU64 {
        &self.ends[self.topics.partitions().index(partition).expect("whoever asks has looked whether it is there")]
    }

    fn end(&self, partition: Partition) -> Offset {
        Offset(self.seen(partition).load(Ordering::Acquire))
    }

    fn saw(&self, partition: Partition, end: Offset) {
        self.seen(partition).fetch_max(end.0, Ordering::AcqRel);
    }

    fn unfollow(&self, seen: Followed) {
        self.tails.unfollow(seen);
        self.asked.notify_one();
    }

    /// The first offset kept and the next to be written. An end below one that was seen before is the end of another log.
    async fn watermarks(&self, partition: Partition) -> Result<(Offset, Offset), Error> {
        let seen = self.end(partition);
        let mut end = seen;
        for doubt in 0..DOUBTS {
            if doubt > 0 {
                tokio::time::sleep(self.cluster.request_timeout / DOUBTS).await;
            }
            let oldest;
            (oldest, end) = self.ask_watermarks(self.topics.place(partition)).await?;
            if end >= seen {
                self.saw(partition, end);
                self.tails.forget(partition, oldest);
                return Ok((oldest, end));
            }
        }
        Err(Error::Corrupt(format!(
            "partition {} ends at {} in Kafka and went on to {} before: its topic was cut short or made anew",
            partition.0, end.0, seen.0
        )))
    }

    async fn ask_watermarks(&self, (topic, number): (&str, i32)) -> Result<(Offset, Offset), Error> {
        let place = format!("{number} of {topic}");
        let failed = |what: String| Error::Unavailable(format!("ask Kafka for the ends of partition {place}: {what}"));
        let (producer, patience) = (Arc::clone(&self.producer), self.cluster.request_timeout);
        let topic = topic.to_owned();
        let asked = tokio::task::spawn_blocking(move || producer.client().fetch_watermarks(&topic, number, patience));
        let (oldest, end) =
            asked.await.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))?;
        match (u64::try_from(oldest), u64::try_from(end)) {
            (Ok(oldest), Ok(end)) => Ok((Offset(oldest), Offset(end))),
            _ => Err(failed("it does not know them".into())),
        }
    }

    /// Whether what was read last is there still, unless it is trimmed: a topic that was cut short, or made anew, and went on beyond
    /// that does not show it by its end.
    async fn continues(&self, partition: Partition, last: Option<&Stored>) -> Result<(), Error> {
        let Some(last) = last.filter(|last| last.offset >= self.tails.oldest(partition)) else { return Ok(()) };
        match self.history.seek(partition, &[last.offset]).await {
            Ok(found) if found.first() == Some(last) => Ok(()),
            Ok(_) => Err(Error::Corrupt(format!(
                "record {} of partition {} is not the one that was read before: its topic was cut short or made anew",
                last.offset.0, partition.0
            ))),
            Err(error) => match self.blame(partition, last.offset, error).await {
                Error::Gone { .. } => Ok(()),
                error => Err(error),
            },
        }
    }

    /// Why `missing` was not found: it may have been trimmed meanwhile.
    async fn blame(&self, partition: Partition, missing: Offset, error: Error) -> Error {
        match self.watermarks(partition).await {
            Ok((oldest, _)) if missing < oldest => Error::Gone { oldest },
            Ok(_) => error,
            Err(worse) => worse,
        }
    }
}

#[async_trait]
impl Tailed for Core {
    fn tails(&self) -> &Tails {
        &self.tails
    }

    async fn behind(&self, partition: Partition, from: Offset, last: Option<&Stored>) -> Result<Vec<Stored>, Error> {
        if let Some(error) = self.tails.ended() {
            return Err(error);
        }
        if from >= self.end(partition) {
            let (oldest, end) = self.watermarks(partition).await?;
            if from < oldest {
                return Err(Error::Gone { oldest });
            }
            if from >= end {
                self.continues(partition, last).await?;
                self.tails.follow(partition, end);
                self.asked.notify_one();
                return Ok(Vec::new());
            }
        }
        let range = self.history.range(partition, from, self.end(partition));
        let (continues, found) = tokio::join!(self.continues(partition, last), range);
        continues?;
        match found {
            Ok(batch) => Ok(batch),
            Err(error) => Err(self.blame(partition, from, error).await),
        }
    }
}

#[async_trait]
impl Log for KafkaLog {
    fn partitions(&self) -> Partitions {
        self.core.topics.partitions()
    }

    fn owned(&self) -> BoxStream<'static, BTreeSet<Partition>> {
        let (owned, member) = owners::owned(&self.core);
        match member {
            Ok(member) => self.members.lock().expect("no panic while the lock is held").push(member),
            Err(error) => tracing::error!("kafka: there is no thread to take part in projecting: {error}"),
        }
        owned
    }

    async fn append(&self, partition: Partition, records: Vec<Record>) -> Result<Vec<Placed>, AppendError> {
        check_append(partition, self.partitions(), &records)?;
        self.core.check(partition).map_err(AppendError::Refused)?;
        if records.is_empty() {
            return Ok(Vec::new());
        }
        // Before the first await: the order of first polls is the order of the log.
        let answer = self.core.producer.send(self.core.topics.place(partition), &records);
        let answer = tokio::time::timeout(self.core.cluster.append_timeout, answer.map_err(AppendError::Refused)?);
        let late = || Error::Unavailable("append to Kafka: no broker has acknowledged it in time".into());
        let answer = answer.await.map_err(|_| AppendError::Unknown(late()))?;
        let placed = answer.unwrap_or(Err(AppendError::Unknown(Error::Closed)))?;
        if let Some(last) = placed.last() {
            self.core.saw(partition, last.offset.next());
        }
        Ok(placed)
    }

    fn read(&self, partition: Partition, from: Offset) -> BoxStream<'static, Result<Vec<Stored>, Error>> {
        if let Err(error) = self.core.check(partition) {
            return stream::iter([Err(error)]).boxed();
        }
        tail::read(Arc::clone(&self.core), partition, from)
    }

    async fn seek(&self, partition: Partition, offsets: &[Offset]) -> Result<Vec<Stored>, Error> {
        check_seek(offsets)?;
        self.core.check(partition)?;
        if offsets.last().is_some_and(|last| *last >= self.core.end(partition)) {
            self.core.watermarks(partition).await?;
        }
        loop {
            let (oldest, end) = (self.core.tails.oldest(partition), self.core.end(partition));
            let kept = offsets.iter().filter(|offset| (oldest..end).contains(*offset));
            let (mut found, mut old) = (Vec::new(), Vec::new());
            for offset in kept {
                match self.core.tails.at(partition, *offset) {
                    Some(stored) => found.push(stored),
                    None => old.push(*offset),
                }
            }
            match self.core.history.seek(partition, &old).await {
                Ok(more) => {
                    found.extend(more);
                    found.sort_by_key(|stored| stored.offset);
                    return Ok(found);
                }
                // What is trimmed by now is left out: one of these is, or the error stands.
                Err(error) => match self.core.blame(partition, old[0], error).await {
                    Error::Gone { .. } => {}
                    error => return Err(error),
                },
            }
        }
    }

    async fn bounds(&self, partition: Partition) -> Result<Bounds, Error> {
        self.core.check(partition)?;
        let (oldest, end) = self.core.watermarks(partition).await?;
        Ok(Bounds { oldest, end, generation: self.core.topics.generation })
    }

    async fn trim(&self, partition: Partition, before: Offset) -> Result<(), Error> {
        self.core.check(partition)?;
        let (oldest, end) = self.core.watermarks(partition).await?;
        let before = before.clamp(oldest, end);
        if before > oldest {
            let failed = |what: String| Error::Unavailable(format!("trim partition {} in Kafka: {what}", partition.0));
            let (topic, number) = self.core.topics.place(partition);
            let mut records = TopicPartitionList::with_capacity(1);
            records
                .add_partition_offset(topic, number, history::begin(before))
                .map_err(|error| failed(error.to_string()))?;
            let admin = Admin::connect(&self.core.cluster).map_err(|error| failed(error.to_string()))?;
            admin.delete_records(&records).await.map_err(|error| failed(error.to_string()))?;
            self.core.tails.forget(partition, before);
        }
        Ok(())
    }

    async fn bury(&self, letters: &[Letter]) -> Result<(), Error> {
        letters::bury(&self.core, letters).await
    }

    fn buried(&self) -> BoxStream<'static, Result<Letter, Error>> {
        letters::buried(&self.core)
    }
}
