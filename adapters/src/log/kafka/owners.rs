//! Who projects what: a consumer group of which nothing is read and to which nothing is committed. All it does is to deal out
//! the partitions among those that live.

use std::{
    collections::BTreeSet,
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use rdkafka::{
    ClientContext,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance},
    error::{KafkaError, KafkaResult},
};
use ringforge_domain::position::Partition;
use tokio::sync::watch;

use super::{Core, settings::trace, topics::Topics};

/// How long a member waits for news at a time: so soon it notices that nobody listens any more.
const POLL: Duration = Duration::from_millis(100);
/// How soon one that could not be a member tries again.
const AGAIN: Duration = Duration::from_secs(1);

/// A member of the group.
struct Member {
    topics: Arc<Topics>,
    owned: Told,
}

/// What a member owns; nothing before it has heard. Whoever listens holds the other end.
type Told = Arc<watch::Sender<Option<BTreeSet<Partition>>>>;

/// What this process should project, as long as somebody listens and the log is open, and the thread that knows.
pub(super) fn owned(core: &Arc<Core>) -> (BoxStream<'static, BTreeSet<Partition>>, io::Result<JoinHandle<()>>) {
    let (told, heard) = watch::channel(None);
    let (core, told) = (Arc::clone(core), Arc::new(told));
    let member = thread::Builder::new().name("kafka-owner".into()).spawn(move || {
        while is_wanted(&core, &told) {
            if let Err(error) = take_part(&core, &told) {
                tracing::warn!("kafka: this process cannot take part in projecting: {error}");
                told.send_replace(Some(BTreeSet::new()));
                thread::sleep(AGAIN);
            }
        }
    });
    let next = |mut heard: watch::Receiver<Option<BTreeSet<Partition>>>| async {
        heard.changed().await.ok()?;
        let owned = heard.borrow_and_update().clone();
        Some((owned.unwrap_or_default(), heard))
    };
    (stream::unfold(heard, next).boxed(), member)
}

fn is_wanted(core: &Core, told: &Told) -> bool {
    !told.is_closed() && core.producer.voice().stopped().is_none()
}

/// Is a member until nobody listens. Its end is the end of the membership: what it had is dealt out again at once.
fn take_part(core: &Core, told: &Told) -> KafkaResult<()> {
    let member = Member { topics: Arc::clone(&core.topics), owned: Arc::clone(told) };
    let consumer = BaseConsumer::from_config_and_context(&core.cluster.owner(core.topics.generation), member)?;
    consumer.subscribe(&core.topics.names().collect::<Vec<_>>())?;
    let mut said = String::new();
    while is_wanted(core, told) {
        match consumer.poll(POLL) {
            // One that came before its partition was paused.
            None | Some(Ok(_)) => {}
            Some(Err(error)) => {
                let text = error.to_string();
                if text != said {
                    tracing::warn!("kafka: the group of projectors: {text}");
                }
                said = text;
            }
        }
        if let Some((code, what)) = consumer.client().fatal_error() {
            tracing::warn!("kafka: the group of projectors: {what}");
            return Err(KafkaError::Global(code));
        }
    }
    Ok(())
}

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, about: &str, line: &str) {
        trace(level, about, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!("kafka: {error}: {reason}");
    }
}

impl ConsumerContext for Member {
    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, _: &Rebalance<'_>) {
        if consumer.assignment_lost() {
            // Nobody has taken it away: we were not heard, or there is nobody who deals out. What is folded twice does no harm, and
            // what nobody folds would.
            tracing::warn!("kafka: the group of projectors is lost; this process goes on until it is dealt out anew");
            return;
        }
        let assigned = consumer.assignment().and_then(|assigned| {
            // The tails read. Here nothing is.
            if assigned.count() > 0 {
                consumer.pause(&assigned)?;
            }
            Ok(assigned)
        });
        match assigned {
            Ok(assigned) => {
                let places = assigned.elements();
                let owned = places.iter().filter_map(|place| self.topics.partition(place.topic(), place.partition()));
                let owned: BTreeSet<Partition> = owned.collect();
                if owned.len() < places.len() {
                    tracing::error!("kafka: there are partitions that this process does not know: start it again");
                }
                self.owned.send_replace(Some(owned));
            }
            Err(error) => tracing::warn!("kafka: what this process is to project is not known: {error}"),
        }
    }
}
