//! The one list of kinds: commands, queries, signals. Everything that goes kind by kind is made from here.

use apache_avro::{
    AvroSchema,
    schema::{RecordField, Schema},
};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    act::{Act, Applied},
    activity, answer,
    code::Refusal,
    direct, fleet,
    frame::Shown,
    header::{At, Header},
    limits::Limits,
    memory, presence, projector, replay,
    row::{Needs, Rows},
    tenant,
};

fn fields_of(schema: Schema) -> Vec<RecordField> {
    if let Schema::Record(record) = schema { record.fields } else { Vec::new() }
}

macro_rules! commands {
    ($($name:ident($payload:ty) $kind:literal $($internal:ident)?),+ $(,)?) => {
        /// What someone asks, to be logged.
        #[derive(Clone, Debug, PartialEq)]
        #[expect(missing_docs, reason = "each payload is documented in its area")]
        pub enum Command { $($name($payload)),+ }

        /// What came of an applied command, beyond what it says itself.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[expect(missing_docs, reason = "each effect is documented in its area")]
        pub enum Effect { $(#[serde(rename = $kind)] $name(<$payload as Act>::Effect)),+ }

        /// The kinds of commands.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(missing_docs, reason = "each payload is documented in its area")]
        pub enum CommandKind { $($name),+ }

        impl CommandKind {
            /// All of them, in the order of the catalogue.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// Its text, `area.action`.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $kind),+ }
            }

            /// The name of its Avro record.
            pub fn record(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),+ }
            }

            /// Whether only our own processes may submit it.
            pub fn internal(self) -> bool {
                match self { $(Self::$name => [$(stringify!($internal)),*].contains(&"internal")),+ }
            }

            /// The Avro schema of its payload alone.
            pub fn payload_schema(self) -> Schema {
                match self { $(Self::$name => <$payload>::get_schema()),+ }
            }

            /// The Avro fields of its payload.
            pub fn fields(self) -> Vec<RecordField> {
                fields_of(self.payload_schema())
            }

            /// Reads a payload of this kind.
            ///
            /// # Errors
            /// Whatever the format says.
            pub fn read<'de, D: Deserializer<'de>>(self, from: D) -> Result<Command, D::Error> {
                match self { $(Self::$name => <$payload>::deserialize(from).map(Command::$name)),+ }
            }

            /// Reads a payload of this kind from Avro, written with its own current schema.
            ///
            /// # Errors
            /// Bytes that are not such a record.
            pub fn read_avro(
                self,
                reader: &apache_avro::reader::datum::GenericDatumReader<'_>,
                bytes: &mut &[u8],
            ) -> apache_avro::AvroResult<Command> {
                match self { $(Self::$name => reader.read_deser::<$payload>(bytes).map(Command::$name)),+ }
            }
        }

        $(impl From<$payload> for Command {
            fn from(payload: $payload) -> Self {
                Self::$name(payload)
            }
        })+

        impl Command {
            /// Its kind.
            pub fn kind(&self) -> CommandKind {
                match self { $(Self::$name(_) => CommandKind::$name),+ }
            }

            /// Writes the payload as Avro.
            ///
            /// # Errors
            /// A payload that does not fit its own schema: our own bug.
            pub fn write_avro(
                &self,
                writer: &apache_avro::writer::datum::GenericDatumWriter<'_>,
                bytes: &mut Vec<u8>,
            ) -> apache_avro::AvroResult<usize> {
                match self { $(Self::$name(payload) => writer.write_ser(bytes, payload)),+ }
            }

            /// See [`Act::check`].
            ///
            /// # Errors
            /// As there.
            pub fn check(&self, limits: &Limits) -> Result<(), Refusal> {
                match self { $(Self::$name(payload) => payload.check(limits)),+ }
            }

            /// See [`Act::needs`].
            pub fn needs(&self, at: &Header, needs: &mut Needs<'_>) {
                match self { $(Self::$name(payload) => payload.needs(at, needs)),+ }
            }

            /// See [`Act::apply`].
            ///
            /// # Errors
            /// As there.
            pub fn apply(&self, at: &At, rows: &Rows) -> Result<Applied<Effect>, Refusal> {
                match self {
                    $(Self::$name(payload) => payload.apply(at, rows).map(|applied| applied.map(Effect::$name))),+
                }
            }

            /// See [`Act::RENEWS`].
            pub fn renews(&self) -> bool {
                match self { $(Self::$name(_) => <$payload as Act>::RENEWS),+ }
            }

            /// See [`Act::show`]; nothing if the effect is another kind's.
            pub fn show(&self, at: &At, effect: &Effect) -> Shown {
                match (self, effect) {
                    $((Self::$name(payload), Effect::$name(effect)) => payload.show(at, effect),)+
                    _ => Shown::default(),
                }
            }
        }
    };
}

macro_rules! queries {
    ($($name:ident($payload:ty) $kind:literal $(| $alias:literal)?),+ $(,)?) => {
        /// A question, answered from rows or from the log, never logged.
        #[derive(Clone, Debug, PartialEq)]
        #[expect(missing_docs, reason = "each payload is documented in its area")]
        pub enum Query { $($name($payload)),+ }

        /// The kinds of queries.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each payload is documented in its area")]
        pub enum QueryKind { $($name),+ }

        impl QueryKind {
            /// All of them, in the order of the catalogue.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// Its text, `area.action`.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $kind),+ }
            }

            /// Whether a client may call it so.
            pub fn answers_to(self, text: &str) -> bool {
                match self { $(Self::$name => text == $kind $(|| text == $alias)?),+ }
            }

            /// Its fields, as Avro would have them: for the reference.
            pub fn fields(self) -> Vec<RecordField> {
                match self { $(Self::$name => fields_of(<$payload>::get_schema())),+ }
            }

            /// Reads a payload of this kind.
            ///
            /// # Errors
            /// Whatever the format says.
            pub fn read<'de, D: Deserializer<'de>>(self, from: D) -> Result<Query, D::Error> {
                match self { $(Self::$name => <$payload>::deserialize(from).map(Query::$name)),+ }
            }
        }

        impl Query {
            /// Its kind.
            pub fn kind(&self) -> QueryKind {
                match self { $(Self::$name(_) => QueryKind::$name),+ }
            }

            /// Whether it is within bounds.
            ///
            /// # Errors
            /// `invalid_message`.
            pub fn check(&self, limits: &Limits) -> Result<(), Refusal> {
                match self { $(Self::$name(payload) => payload.check(limits)),+ }
            }
        }
    };
}

macro_rules! signals {
    ($($name:ident($payload:ty) $kind:literal),+ $(,)?) => {
        /// Ephemeral, never logged.
        #[derive(Clone, Debug, PartialEq)]
        #[expect(missing_docs, reason = "each payload is documented in its area")]
        pub enum Signal { $($name($payload)),+ }

        /// The kinds of signals.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each payload is documented in its area")]
        pub enum SignalKind { $($name),+ }

        impl SignalKind {
            /// All of them, in the order of the catalogue.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// Its text, `area.action`.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $kind),+ }
            }

            /// Its fields, as Avro would have them: for the reference.
            pub fn fields(self) -> Vec<RecordField> {
                match self { $(Self::$name => fields_of(<$payload>::get_schema())),+ }
            }

            /// Reads a payload of this kind.
            ///
            /// # Errors
            /// Whatever the format says.
            pub fn read<'de, D: Deserializer<'de>>(self, from: D) -> Result<Signal, D::Error> {
                match self { $(Self::$name => <$payload>::deserialize(from).map(Signal::$name)),+ }
            }
        }
    };
}

commands! {
    TenantCreated(tenant::Created) "tenant.created" internal,
    KeyCreated(tenant::KeyCreated) "key.created" internal,
    FleetCreated(fleet::Created) "fleet.created" internal,
    SessionStarted(presence::Started) "session.started" internal,
    SessionEnded(presence::Ended) "session.ended" internal,
    PresenceUpdate(presence::Update) "presence.update",
    ActivityBroadcast(activity::Broadcast) "activity.broadcast",
    ActivitySubscribe(activity::Subscribe) "activity.subscribe",
    ActivityUnsubscribe(activity::Unsubscribe) "activity.unsubscribe",
    MemorySet(memory::Set) "memory.set",
    MemoryDelete(memory::Delete) "memory.delete",
    MemoryExpire(memory::Expire) "memory.expire" internal,
    MemorySubscribe(memory::Subscribe) "memory.subscribe",
    MemoryUnsubscribe(memory::Unsubscribe) "memory.unsubscribe",
    DirectSend(direct::Send) "direct.send",
    DirectAck(direct::Ack) "direct.ack",
    DirectDelivered(direct::Delivered) "direct.delivered" internal,
    DirectTold(direct::Told) "direct.told" internal,
    DirectExpire(direct::Expire) "direct.expire" internal,
    AnswerForget(answer::Forget) "answer.forget" internal,
    SecretDeclared(tenant::SecretDeclared) "secret.declared" internal,
    ProjectorDeclared(projector::Declared) "projector.declared" internal,
}

queries! {
    PresenceRoster(presence::Roster) "presence.roster",
    MemoryGet(memory::Get) "memory.get",
    MemoryQuery(memory::Search) "memory.query",
    MemoryList(memory::List) "memory.list",
    MemoryHistory(memory::History) "memory.history",
    ReplayRequest(replay::Request) "replay.request" | "replay.start",
}

signals! {
    Heartbeat(presence::Heartbeat) "presence.heartbeat",
    Ping(presence::Ping) "ping",
    Pong(presence::Pong) "pong",
}

impl CommandKind {
    /// The kind with this text.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.text() == text)
    }
}

impl QueryKind {
    /// The kind that answers to this text.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.answers_to(text))
    }
}

impl SignalKind {
    /// The kind with this text; a bare `heartbeat` is one too.
    pub fn parse(text: &str) -> Option<Self> {
        let text = if text == "heartbeat" { Self::Heartbeat.text() } else { text };
        Self::ALL.iter().copied().find(|kind| kind.text() == text)
    }
}
