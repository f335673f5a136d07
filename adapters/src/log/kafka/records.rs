//! What Kafka's consumers give, as the port has it.

use rdkafka::{
    Message,
    error::{KafkaError, RDKafkaErrorCode},
};
use ringforge_domain::{
    ids::Scope,
    position::{LogTime, Offset, Partition},
};
use ringforge_ports::{
    Error,
    log::{Record, Stored},
    names,
};

/// The broker's time.
pub(super) fn time(message: &impl Message) -> LogTime {
    LogTime(message.timestamp().to_millis().unwrap_or_default().saturating_mul(1_000))
}

/// Where a message stands; Kafka never shows one without an offset.
pub(super) fn offset(message: &impl Message) -> Offset {
    Offset(u64::try_from(message.offset()).unwrap_or_default())
}

/// The record in a message. What somebody else wrote into our topic belongs to nobody: it is read, and has no effect.
pub(super) fn stored(message: &impl Message) -> Stored {
    let scope = names::key_scope(message.key().unwrap_or_default()).unwrap_or_else(|| {
        tracing::debug!(topic = message.topic(), offset = message.offset(), "a record with a foreign key");
        Scope::OPERATOR
    });
    let record = Record { scope, bytes: message.payload().unwrap_or_default().into() };
    Stored { offset: offset(message), time: time(message), record }
}

/// Whether the client goes on by itself: a broker is away, and will be looked for.
pub(super) fn passes(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{
        AllBrokersDown, Authentication, BrokerTransportFailure, OperationTimedOut, RequestTimedOut, Resolve, SSL,
    };
    let code = error.rdkafka_error_code();
    code.is_some_and(|code| {
        [AllBrokersDown, Authentication, BrokerTransportFailure, OperationTimedOut, RequestTimedOut, Resolve, SSL]
            .contains(&code)
    })
}

/// A record that must be there and is not.
pub(super) fn missing(partition: Partition, offset: Offset) -> Error {
    Error::Corrupt(format!("record {} of partition {} is missing from its Kafka topic", offset.0, partition.0))
}
