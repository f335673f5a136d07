//! Following: one consumer for all partitions that somebody reads, and the watch over it.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt, future::join_all};
use rdkafka::{
    Message,
    config::FromClientConfigAndContext,
    consumer::{Consumer, StreamConsumer},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    topic_partition_list::TopicPartitionList,
};
use ringforge_domain::{limits, position::Partition};
use ringforge_ports::{Error, log::Stored};

use super::{Core, detached::Detached, history::begin, records, settings::Quiet};
use crate::log::tail::{Followed, Tailed};

/// How often it is looked whether what is followed still comes.
const WATCH_EVERY: Duration = Duration::from_secs(5);

type Follower = StreamConsumer<Quiet>;

/// Follows what is asked for, for ever.
pub(super) async fn run(core: Arc<Core>) {
    loop {
        // There is no consumer before somebody follows.
        core.asked.notified().await;
        let error = match Follower::from_config_and_context(&core.cluster.follower(), Quiet::default()) {
            Ok(follower) => match follow(&core, &Detached::new(follower)).await {
                Ok(never) => match never {},
                Err(error) => error,
            },
            Err(error) => error,
        };
        tracing::warn!("kafka: following is interrupted: {error}");
        core.tails().interrupt(Error::Unavailable(format!("follow Kafka: {error}")));
    }
}

/// Follows until the consumer cannot.
async fn follow(core: &Core, follower: &Follower) -> KafkaResult<Infallible> {
    let mut messages = follower.stream();
    let mut assigned = BTreeMap::new();
    assign(core, follower, &mut assigned)?;
    loop {
        let mut message = tokio::select! {
            biased;
            () = core.asked.notified() => {
                assign(core, follower, &mut assigned)?;
                continue;
            }
            message = messages.next() => message,
        };
        let mut taken = Taken::default();
        // What is there already goes to the tails together.
        while let Some(one) = message {
            match one {
                Ok(one) => taken.push(core, &one),
                Err(error) => heard(core, error)?,
            }
            message = if taken.is_full() { None } else { messages.next().now_or_never().flatten() };
        }
        for (partition, batch) in taken.batches {
            if let Some(last) = batch.last() {
                core.saw(partition, last.offset.next());
            }
            if !core.tails().offer(partition, batch) {
                core.asked.notify_one();
            }
        }
    }
}

/// Sends the consumer to what is followed now.
fn assign(core: &Core, consumer: &Follower, assigned: &mut BTreeMap<Partition, u64>) -> KafkaResult<()> {
    let followed: BTreeMap<_, _> = core.tails().followed().into_iter().map(|seen| (seen.partition, seen)).collect();
    let (mut left, mut new) = (TopicPartitionList::new(), TopicPartitionList::new());
    assigned.retain(|partition, begun| {
        let stays = followed.get(partition).is_some_and(|seen| seen.begun == *begun);
        if !stays {
            let (topic, number) = core.topics.place(*partition);
            left.add_partition(topic, number);
        }
        stays
    });
    for seen in followed.values() {
        if assigned.insert(seen.partition, seen.begun).is_none() {
            let (topic, number) = core.topics.place(seen.partition);
            new.add_partition_offset(topic, number, begin(seen.end))?;
        }
    }
    if left.count() > 0 {
        consumer.incremental_unassign(&left)?;
    }
    if new.count() > 0 {
        consumer.incremental_assign(&new)?;
    }
    Ok(())
}

/// What the consumer says of a partition it says without naming it: everybody finds out for himself.
fn heard(core: &Core, error: KafkaError) -> KafkaResult<()> {
    if records::passes(&error) {
        return Ok(());
    }
    // What it wants to read is not there.
    if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AutoOffsetReset) {
        return Err(error);
    }
    for seen in core.tails().followed() {
        core.unfollow(seen);
    }
    Ok(())
}

/// What came together.
#[derive(Default)]
struct Taken {
    batches: BTreeMap<Partition, Vec<Stored>>,
    records: usize,
    bytes: usize,
}

impl Taken {
    fn push(&mut self, core: &Core, message: &impl Message) {
        if let Some(partition) = core.topics.partition(message.topic(), message.partition()) {
            let stored = records::stored(message);
            self.records += 1;
            self.bytes += stored.record.bytes.len();
            self.batches.entry(partition).or_default().push(stored);
        }
    }

    fn is_full(&self) -> bool {
        self.records >= limits::READ_RECORDS_MAX || self.bytes >= limits::READ_BYTES_MAX
    }
}

/// Watches over what is followed: what nobody reads is left, and what does not come any more (its topic is another one, its
/// broker is away, the consumer is stuck) is not waited for.
pub(super) async fn watch(core: Arc<Core>) {
    let mut late: Vec<Followed> = Vec::new();
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        let followed = core.tails().followed();
        let looks = followed.into_iter().map(|seen| look_after(&core, seen, &late));
        let looked = join_all(looks).await;
        late = looked.into_iter().flatten().collect();
    }
}

/// Gives the partition back if it is late.
async fn look_after(core: &Core, seen: Followed, late: &[Followed]) -> Option<Followed> {
    if core.tails().unfollow_idle(seen) {
        core.asked.notify_one();
        return None;
    }
    match core.watermarks(seen.partition).await {
        Ok((_, end)) if end <= seen.end => return None,
        Ok(_) if !late.contains(&seen) => return Some(seen),
        Ok((_, end)) => {
            tracing::warn!(partition = seen.partition.0, at = seen.end.0, end = end.0, "kafka: following was stuck");
        }
        Err(error) => tracing::warn!(partition = seen.partition.0, "kafka: following ends: {error}"),
    }
    core.unfollow(seen);
    None
}
