//! Copies of records that cannot be read, in a topic of their own, where other tools find them and nothing trims them. Each has its
//! fleet for a key, the record's value, and in its headers where that stands and why it cannot be read.

use std::sync::Arc;

use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use rdkafka::{
    Message, TopicPartitionList,
    config::FromClientConfigAndContext,
    consumer::{Consumer, StreamConsumer},
    error::KafkaError,
    message::{Header, Headers, OwnedHeaders},
};
use ringforge_domain::{
    limits,
    position::{LogTime, Offset},
};
use ringforge_ports::{
    Error,
    log::{Letter, Record, Stored},
};

use super::{Core, detached::Detached, history, records, settings::Quiet};

const TOPIC: &str = "topic";
const PARTITION: &str = "partition";
const OFFSET: &str = "offset";
const LOGGED_AT: &str = "logged_at";
const REASON: &str = "reason";
/// Bytes of a reason that are kept.
const REASON_KEPT: usize = 512;

/// Keeps copies of them.
pub(super) async fn bury(core: &Core, letters: &[Letter]) -> Result<(), Error> {
    let fits = |letter: &&Letter| {
        let bytes = letter.stored.record.bytes.len();
        let fits = bytes <= limits::APPEND_BYTES_MAX;
        if !fits {
            let (partition, offset) = (letter.partition.0, letter.stored.offset.0);
            tracing::error!(partition, offset, bytes, "a record that cannot be read is too large to be copied");
        }
        fits
    };
    let letters: Vec<&Letter> = letters.iter().filter(fits).collect();
    if letters.is_empty() {
        return Ok(());
    }
    let copies: Vec<Record> = letters.iter().map(|letter| letter.stored.record.clone()).collect();
    let headers = |at: usize| Some(headers(core, letters[at]));
    let answer = core.producer.send_with((&core.topics.dlq, 0), &copies, headers)?;
    let late = || Error::Unavailable("copy a record that cannot be read: no broker has acknowledged it in time".into());
    let answer = tokio::time::timeout(core.cluster.append_timeout, answer).await.map_err(|_| late())?;
    let refused = |error| Error::Unavailable(format!("copy a record that cannot be read: {error}"));
    answer.map_err(|_| Error::Closed)?.map(drop).map_err(refused)
}

fn headers(core: &Core, letter: &Letter) -> OwnedHeaders {
    let (topic, number) = core.topics.place(letter.partition);
    let reason = &letter.reason[..letter.reason.floor_char_boundary(REASON_KEPT)];
    let (number, offset) = (number.to_string(), letter.stored.offset.0.to_string());
    let logged_at = letter.stored.time.rfc3339();
    let headers =
        [(TOPIC, topic), (PARTITION, &*number), (OFFSET, &*offset), (LOGGED_AT, &*logged_at), (REASON, reason)];
    let empty = OwnedHeaders::new_with_capacity(headers.len());
    headers.into_iter().fold(empty, |all, (key, value)| all.insert(Header { key, value: Some(value) }))
}

/// Tells those that are there by now.
pub(super) fn buried(core: &Arc<Core>) -> BoxStream<'static, Result<Letter, Error>> {
    let core = Arc::clone(core);
    let opened = async move {
        match Reader::open(core).await {
            Ok(reader) => stream::unfold(Some(reader), next).boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    };
    stream::once(opened).flatten().boxed()
}

/// Reads the topic to its end.
struct Reader {
    core: Arc<Core>,
    consumer: Detached<StreamConsumer<Quiet>>,
    next: Offset,
    end: Offset,
}

impl Reader {
    async fn open(core: Arc<Core>) -> Result<Self, Error> {
        let (next, end) = core.ask_watermarks((&core.topics.dlq, 0)).await?;
        let consumer = StreamConsumer::from_config_and_context(&core.cluster.history(), Quiet::default());
        let consumer = Detached::new(consumer.map_err(|error| failed(&error))?);
        let mut start = TopicPartitionList::with_capacity(1);
        start.add_partition_offset(&core.topics.dlq, 0, history::begin(next)).map_err(|error| failed(&error))?;
        consumer.assign(&start).map_err(|error| failed(&error))?;
        Ok(Self { core, consumer, next, end })
    }

    async fn message(&mut self) -> Result<Option<Letter>, Error> {
        while self.next < self.end {
            let message = match self.consumer.recv().await {
                Ok(message) => message,
                Err(error) if records::passes(&error) => continue,
                Err(error) => return Err(failed(&error)),
            };
            self.next = records::offset(&message).next();
            // What somebody else wrote there is no copy of ours.
            if let Some(letter) = letter(&self.core, &message) {
                return Ok(Some(letter));
            }
        }
        Ok(None)
    }
}

async fn next(reader: Option<Reader>) -> Option<(Result<Letter, Error>, Option<Reader>)> {
    let mut reader = reader?;
    let late = |_| Err(Error::Unavailable("read the topic `dlq`: nothing came in time".into()));
    match tokio::time::timeout(reader.core.cluster.request_timeout, reader.message()).await.unwrap_or_else(late) {
        Ok(letter) => letter.map(|letter| (Ok(letter), Some(reader))),
        Err(error) => Some((Err(error), None)),
    }
}

fn letter(core: &Core, message: &impl Message) -> Option<Letter> {
    let headers = message.headers()?;
    let header = |name: &str| {
        let found = headers.iter().find(|header| header.key == name)?;
        str::from_utf8(found.value?).ok()
    };
    let partition = core.topics.partition(header(TOPIC)?, header(PARTITION)?.parse().ok()?)?;
    let (offset, time) = (Offset(header(OFFSET)?.parse().ok()?), LogTime::parse(header(LOGGED_AT)?)?);
    let Stored { record, .. } = records::stored(message);
    Some(Letter { partition, stored: Stored { offset, time, record }, reason: header(REASON)?.to_owned() })
}

fn failed(error: &KafkaError) -> Error {
    Error::Unavailable(format!("read the topic `dlq`: {error}"))
}
