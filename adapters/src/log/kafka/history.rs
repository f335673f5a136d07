//! Old ranges, for readers that are behind: a few consumers, each sent anew to where it is wanted. A partition that is added to
//! a consumer that follows others would wait for them; and a consumer made for one read costs ten times the read.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{StreamExt, future::try_join_all};
use rdkafka::{
    ClientConfig, Message,
    config::FromClientConfigAndContext,
    consumer::{Consumer, StreamConsumer},
    error::KafkaError,
    topic_partition_list::{Offset as Start, TopicPartitionList},
};
use ringforge_domain::{
    limits,
    position::{Offset, Partition},
};
use ringforge_ports::{
    Error,
    log::{Stored, batch},
};
use tokio::sync::Semaphore;

use super::{
    detached::Detached,
    records,
    settings::{Cluster, Quiet},
    topics::Topics,
};

/// Records that are read and thrown away rather than skipped: fetching those between costs less than another visit.
const NEAR: u64 = 256;
/// Offsets from the first to the last of one visit: so that the other consumers have something to do.
const SPAN: u64 = 4_096;

type Reader = Detached<StreamConsumer<Quiet>>;

/// The consumers that read old ranges. They are made when they are needed.
pub(super) struct History {
    topics: Arc<Topics>,
    config: ClientConfig,
    patience: Duration,
    turns: Semaphore,
    idle: Mutex<Vec<Reader>>,
}

/// Where a consumer is sent.
struct Visit {
    partition: Partition,
    from: Offset,
    want: Want,
}

enum Want {
    /// One batch of what is before this.
    Upto(Offset),
    /// Those.
    These(Vec<Offset>),
}

impl History {
    pub(super) fn new(cluster: &Cluster, topics: Arc<Topics>) -> Self {
        Self {
            topics,
            config: cluster.history(),
            patience: cluster.request_timeout,
            turns: Semaphore::new(limits::KAFKA_READS_MAX),
            idle: Mutex::default(),
        }
    }

    /// One batch of `from..upto`, which are there.
    pub(super) async fn range(
        self: &Arc<Self>,
        partition: Partition,
        from: Offset,
        upto: Offset,
    ) -> Result<Vec<Stored>, Error> {
        self.send(Visit { partition, from, want: Want::Upto(upto) }).await
    }

    /// Those at `offsets`, which rise and are there. What stands close together is read in one go, the rest side by side.
    pub(super) async fn seek(self: &Arc<Self>, partition: Partition, offsets: &[Offset]) -> Result<Vec<Stored>, Error> {
        let visits = groups(offsets).into_iter().map(|group| {
            let (from, want) = (group[0], Want::These(group.to_vec()));
            self.send(Visit { partition, from, want })
        });
        Ok(try_join_all(visits).await?.concat())
    }

    /// On a task of its own: whoever asks may stop polling, and must not keep a consumer from others.
    async fn send(self: &Arc<Self>, visit: Visit) -> Result<Vec<Stored>, Error> {
        let history = Arc::clone(self);
        let visiting = tokio::spawn(async move { history.visit(&visit).await });
        visiting.await.unwrap_or_else(|error| Err(Error::Unavailable(format!("read from Kafka: {error}"))))
    }

    async fn visit(&self, visit: &Visit) -> Result<Vec<Stored>, Error> {
        let failed = |error: KafkaError| unavailable(visit.partition, &error.to_string());
        let _turn = self.turns.acquire().await.map_err(|_| Error::Closed)?;
        let reader = self.reader().map_err(failed)?;
        let (topic, number) = self.topics.place(visit.partition);
        let mut start = TopicPartitionList::with_capacity(1);
        start.add_partition_offset(topic, number, begin(visit.from)).map_err(failed)?;
        reader.assign(&start).map_err(failed)?;
        let gathering = tokio::time::timeout(self.patience, self.gather(&reader, visit));
        let found = gathering.await.map_err(|_| unavailable(visit.partition, "nothing came in time"))??;
        // Only a consumer that did well is used again, and it fetches no more meanwhile.
        reader.unassign().map_err(failed)?;
        self.idle.lock().expect("no panic while the lock is held").push(reader);
        Ok(found)
    }

    fn reader(&self) -> Result<Reader, KafkaError> {
        let idle = self.idle.lock().expect("no panic while the lock is held").pop();
        match idle {
            Some(reader) => Ok(reader),
            None => Ok(Detached::new(StreamConsumer::from_config_and_context(&self.config, Quiet::default())?)),
        }
    }

    async fn gather(&self, reader: &Reader, visit: &Visit) -> Result<Vec<Stored>, Error> {
        let place = self.topics.place(visit.partition);
        let (mut messages, mut found) = (reader.stream(), Found::default());
        let mut next = visit.from;
        while !found.suffice(next, &visit.want) {
            let message = match messages.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) if records::passes(&error) => continue,
                Some(Err(error)) => return Err(unavailable(visit.partition, &error.to_string())),
                None => return Err(Error::Closed),
            };
            let offset = records::offset(&message);
            // A batch comes from its first record on, whichever was asked for.
            if (message.topic(), message.partition()) != place || offset < next {
                continue;
            }
            if offset > next {
                return Err(records::missing(visit.partition, next));
            }
            next = offset.next();
            if visit.want.has(offset) {
                found.push(records::stored(&message));
            }
        }
        match visit.want {
            Want::Upto(_) => Ok(batch(&found.records)),
            Want::These(_) => Ok(found.records),
        }
    }
}

/// What a visit has found.
#[derive(Default)]
struct Found {
    records: Vec<Stored>,
    bytes: usize,
}

impl Found {
    fn push(&mut self, stored: Stored) {
        self.bytes += stored.record.bytes.len();
        self.records.push(stored);
    }

    /// Whether nothing of what is left is wanted.
    fn suffice(&self, next: Offset, want: &Want) -> bool {
        match want {
            Want::Upto(upto) => {
                let full = self.records.len() == limits::READ_RECORDS_MAX || self.bytes > limits::READ_BYTES_MAX;
                full || next >= *upto
            }
            Want::These(offsets) => self.records.len() == offsets.len(),
        }
    }
}

impl Want {
    fn has(&self, offset: Offset) -> bool {
        match self {
            Self::Upto(_) => true,
            Self::These(offsets) => offsets.binary_search(&offset).is_ok(),
        }
    }
}

/// The offsets of each visit.
fn groups(offsets: &[Offset]) -> Vec<&[Offset]> {
    let mut first = offsets.first().copied().unwrap_or_default();
    let mut groups = Vec::new();
    let together = |one: &Offset, next: &Offset| {
        let near = next.0 - one.0 <= NEAR && next.0 - first.0 <= SPAN;
        if !near {
            first = *next;
        }
        near
    };
    groups.extend(offsets.chunk_by(together));
    groups
}

/// Where to begin, as the library has it.
pub(super) fn begin(from: Offset) -> Start {
    Start::Offset(i64::try_from(from.0).expect("an offset is below 2^43"))
}

fn unavailable(partition: Partition, what: &str) -> Error {
    Error::Unavailable(format!("read partition {} from Kafka: {what}", partition.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_close_together_is_read_in_one_go() {
        let read = |offsets: &[u64]| {
            let offsets: Vec<_> = offsets.iter().copied().map(Offset).collect();
            groups(&offsets)
                .into_iter()
                .map(|group| group.iter().map(|offset| offset.0).collect())
                .collect::<Vec<Vec<_>>>()
        };
        assert_eq!(read(&[]), [[0; 0]; 0]);
        assert_eq!(read(&[5]), [[5]]);
        assert_eq!(read(&[5, 5 + NEAR, 6 + 2 * NEAR, 7 + 2 * NEAR]), [[5, 5 + NEAR], [6 + 2 * NEAR, 7 + 2 * NEAR]]);
        let dense: Vec<_> = (0..=SPAN + 1).collect();
        assert_eq!(read(&dense).into_iter().map(|group| group.len()).collect::<Vec<_>>(), [4_097, 1]);
    }
}
