//! Appending: the one producer of a process, and how much may wait in it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use rdkafka::{
    Message,
    config::FromClientConfigAndContext,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::{DeliveryResult, OwnedHeaders},
    producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer},
};
use ringforge_domain::{
    limits,
    position::{LogTime, Offset},
};
use ringforge_ports::{
    Error,
    log::{AppendError, Placed, Record},
    names,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{
    records,
    settings::{Cluster, Voice},
};

/// What becomes of an append.
pub(super) type Answer = oneshot::Receiver<Result<Vec<Placed>, AppendError>>;

/// The producer. Its library would refuse records one by one when it is full; here an append is refused as a whole, before any
/// of it is taken.
pub(super) struct Producer {
    client: ThreadedProducer<Voice>,
    records: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    patience: Duration,
}

impl Producer {
    pub(super) fn new(cluster: &Cluster, voice: Voice) -> KafkaResult<Self> {
        Ok(Self {
            client: ThreadedProducer::from_config_and_context(&cluster.producer(), voice)?,
            records: Arc::new(Semaphore::new(limits::APPEND_QUEUE_MAX)),
            bytes: Arc::new(Semaphore::new(limits::APPEND_QUEUE_BYTES_MAX)),
            patience: cluster.append_timeout.min(Duration::from_millis(limits::KAFKA_FLUSH_MS)),
        })
    }

    pub(super) fn voice(&self) -> &Voice {
        self.client.context()
    }

    /// The client, which may be asked other things as well.
    pub(super) fn client(&self) -> &rdkafka::client::Client<Voice> {
        self.client.client()
    }

    /// Hands the records over, in order. They are on their way when this returns.
    pub(super) fn send(&self, place: (&str, i32), records: &[Record]) -> Result<Answer, Error> {
        self.send_with(place, records, |_| None)
    }

    /// The same, with headers, by the number of the record.
    pub(super) fn send_with(
        &self,
        (topic, number): (&str, i32),
        records: &[Record],
        headers: impl Fn(usize) -> Option<OwnedHeaders>,
    ) -> Result<Answer, Error> {
        let keys: Vec<String> = records.iter().map(|record| names::record_key(record.scope)).collect();
        let size = |(record, key): (&Record, &String)| limits::KAFKA_MESSAGE_OVERHEAD + key.len() + record.bytes.len();
        let room = self.room(records.len(), records.iter().zip(&keys).map(size).sum())?;
        let (reply, answer) = oneshot::channel();
        let append = Arc::new(Append {
            state: Mutex::new(State {
                places: vec![Placed { offset: Offset::ZERO, time: LogTime::default() }; records.len()],
                error: None,
                open: records.len(),
                reply: Some(reply),
            }),
            _room: room,
        });
        for (at, (record, key)) in records.iter().zip(&keys).enumerate() {
            let ticket = Box::new(Ticket { append: Arc::clone(&append), at });
            let mut message =
                BaseRecord::with_opaque_to(topic, ticket).partition(number).key(key).payload(&*record.bytes);
            message.headers = headers(at);
            match self.client.send(message) {
                Ok(()) => {}
                Err((error, _)) if at == 0 => return Err(self.refused(&error)),
                // What is before it may be in the log.
                Err((error, _)) => {
                    (at..records.len()).for_each(|at| append.settle(at, Err(self.refused(&error))));
                    break;
                }
            }
        }
        Ok(answer)
    }

    fn room(&self, records: usize, bytes: usize) -> Result<[OwnedSemaphorePermit; 2], Error> {
        let take = |room: &Arc<Semaphore>, many: usize| {
            let full = || Error::Unavailable("overloaded: the log's queue is full".into());
            let many = u32::try_from(many).map_err(|_| full())?;
            Arc::clone(room).try_acquire_many_owned(many).map_err(|_| full())
        };
        Ok([take(&self.records, records)?, take(&self.bytes, bytes)?])
    }

    /// Why the producer did not take a record.
    fn refused(&self, error: &KafkaError) -> Error {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => return Error::TooLarge(format!("append to Kafka: {error}")),
            Some(RDKafkaErrorCode::QueueFull) => return Error::Unavailable(format!("overloaded: {error}")),
            Some(RDKafkaErrorCode::Fatal) => self.voice().fatal(&error.to_string()),
            _ => {}
        }
        Error::Unavailable(format!("append to Kafka: {error}"))
    }

    /// Waits until everything is answered, for a while: who ends must not wait for brokers that are away.
    pub(super) fn flush(&self) {
        if let Err(error) = self.client.flush(self.patience) {
            tracing::warn!("kafka: records were on their way when the log was closed: {error}");
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.flush();
    }
}

/// One append on its way.
struct Append {
    state: Mutex<State>,
    /// Its part of the queue, given back when all its records are answered, whether somebody waits for it or not.
    _room: [OwnedSemaphorePermit; 2],
}

struct State {
    places: Vec<Placed>,
    error: Option<Error>,
    /// Records that are not answered.
    open: usize,
    reply: Option<oneshot::Sender<Result<Vec<Placed>, AppendError>>>,
}

/// One record of an append.
pub(super) struct Ticket {
    append: Arc<Append>,
    at: usize,
}

impl Append {
    /// Takes note of what became of a record; the last one answers the append.
    fn settle(&self, at: usize, outcome: Result<Placed, Error>) {
        let mut state = self.state.lock().expect("no panic while the lock is held");
        match outcome {
            Ok(placed) => state.places[at] = placed,
            Err(error) => drop(state.error.get_or_insert(error)),
        }
        state.open -= 1;
        if state.open > 0 {
            return;
        }
        let answer = match state.error.take() {
            None => Ok(std::mem::take(&mut state.places)),
            Some(error) => Err(AppendError::Unknown(error)),
        };
        if let Some(reply) = state.reply.take() {
            // Whoever asked may have left.
            let _ = reply.send(answer);
        }
    }
}

impl ProducerContext for Voice {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        let outcome = match result {
            Ok(message) => placed(message),
            // The library knows which of them are certainly not written, but its binding does not tell.
            Err((error, _)) => Err(Error::Unavailable(format!("append to Kafka: {error}"))),
        };
        ticket.append.settle(ticket.at, outcome);
    }
}

fn placed(message: &impl Message) -> Result<Placed, Error> {
    // A batch may be known to be written only because a later one is.
    let offset = u64::try_from(message.offset());
    let offset = offset.map_err(|_| Error::Unavailable("append to Kafka: written, but nobody knows where".into()))?;
    Ok(Placed { offset: Offset(offset), time: records::time(message) })
}
