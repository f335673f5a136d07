//! Events as bytes: one flat Avro record a kind, Confluent framing (0x00, 4-byte schema id), stable ids.
//! Header and payload are encoded one after the other, which is exactly the encoding of the flat record.
//!
//! A payload or the header gains a field (an `Option`, or with `#[avro(default = ..)]`): run `make gen`. It sees that the
//! record differs from `schemas/<kind>.avsc`, keeps the old schema as `schemas/<kind>.v1.avsc`, adds it to
//! `schemas/past.json` and gives the new one the next id and version in `schemas/ids.lock`. From then on the newest is
//! written and every older one still read. Fields are never removed, renamed or given another type: that is a new kind.

use std::{collections::BTreeMap, sync::LazyLock};

use apache_avro::{
    AvroSchema, Schema,
    reader::datum::GenericDatumReader,
    schema::{Name, RecordField, RecordSchema},
    writer::datum::GenericDatumWriter,
};

use crate::{
    catalog::{Command, CommandKind},
    event::{At, Event, Header},
    limits::AVRO_ALLOCATION_MAX,
    position::{LogTime, Position},
};

/// `id kind version` a line; only ever added to.
const LOCK: &str = include_str!("../../schemas/ids.lock");
/// The schemas of older versions by id, as JSON; only ever added to.
const PAST: &str = include_str!("../../schemas/past.json");
/// The namespace of every record.
const NAMESPACE: &str = "ringforge.v1";
/// Bytes before the record: magic and schema id.
const FRAMING: usize = 5;

/// Why bytes are not an event.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Written with a schema this build does not know: stop, a newer build can read it.
    #[error("schema {0} is not known")]
    UnknownSchema(u32),
    /// Not an event at all.
    #[error("not an event: {0}")]
    Corrupt(String),
}

/// A schema and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its id, for ever.
    pub id: u32,
    /// Its kind.
    pub kind: String,
    /// Its version within the kind.
    pub version: u32,
}

/// The registered schemas, from the lock file.
pub fn registered() -> Vec<Registered> {
    registrations(LOCK)
}

/// The registered schemas in the text of a lock file.
pub fn registrations(lock: &str) -> Vec<Registered> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let (id, kind, version) = (words.next()?.parse().ok()?, words.next()?.to_owned(), words.next()?);
        Some(Registered { id, kind, version: version.strip_prefix('v')?.parse().ok()? })
    };
    lock.lines().filter(|text| !text.starts_with('#')).filter_map(line).collect()
}

struct Codec {
    header_writer: GenericDatumWriter<'static>,
    header_reader: GenericDatumReader<'static>,
    kinds: BTreeMap<CommandKind, KindCodec>,
    by_id: BTreeMap<u32, CommandKind>,
    past: BTreeMap<u32, PastCodec>,
}

struct KindCodec {
    id: Option<u32>,
    writer: GenericDatumWriter<'static>,
    reader: GenericDatumReader<'static>,
}

/// Reads what an older build wrote.
struct PastCodec {
    kind: CommandKind,
    header: GenericDatumReader<'static>,
    reader: GenericDatumReader<'static>,
    writer: GenericDatumWriter<'static>,
}

static HEADER: LazyLock<Schema> = LazyLock::new(Header::get_schema);
static PAYLOADS: LazyLock<BTreeMap<CommandKind, Schema>> =
    LazyLock::new(|| CommandKind::ALL.iter().map(|kind| (*kind, kind.payload_schema())).collect());

static RECORDS: LazyLock<BTreeMap<CommandKind, Schema>> =
    LazyLock::new(|| CommandKind::ALL.iter().map(|kind| (*kind, record_schema(*kind))).collect());
static PAST_SCHEMAS: LazyLock<BTreeMap<u32, PastSchema>> = LazyLock::new(|| {
    let known: BTreeMap<u32, serde_json::Value> = serde_json::from_str(PAST).expect("`make gen` writes past.json");
    let registered = registered();
    let kind = |id: u32| CommandKind::parse(&registered.iter().find(|known| known.id == id)?.kind);
    let past = |(id, schema)| Some((id, PastSchema::new(kind(id)?, &Schema::parse(&schema).ok()?)));
    known.into_iter().filter_map(past).collect()
});

static CODEC: LazyLock<Codec> = LazyLock::new(|| {
    apache_avro::util::max_allocation_bytes(AVRO_ALLOCATION_MAX);
    let newest = |kind: CommandKind| {
        let known = registered().into_iter().filter(|known| known.kind == kind.text());
        known.max_by_key(|known| known.version).map(|known| known.id)
    };
    let kinds: BTreeMap<_, _> = PAYLOADS
        .iter()
        .map(|(kind, schema)| (*kind, KindCodec { id: newest(*kind), writer: writer(schema), reader: reader(schema) }))
        .collect();
    let by_id = kinds.iter().filter_map(|(kind, codec)| codec.id.map(|id| (id, *kind))).collect();
    let past = PAST_SCHEMAS.iter().map(|(id, past)| (*id, PastCodec::new(past))).collect();
    Codec { header_writer: writer(&HEADER), header_reader: reader(&HEADER), kinds, by_id, past }
});

fn reader(schema: &'static Schema) -> GenericDatumReader<'static> {
    GenericDatumReader::builder(schema).human_readable(false).build().expect("derived schemas are valid")
}

fn writer(schema: &'static Schema) -> GenericDatumWriter<'static> {
    GenericDatumWriter::builder(schema).human_readable(false).build().expect("derived schemas are valid")
}

/// An older flat record, and the part of it that was the header then.
struct PastSchema {
    kind: CommandKind,
    record: Schema,
    header: Schema,
}

impl PastSchema {
    fn new(kind: CommandKind, record: &Schema) -> Self {
        let ours: Vec<String> = fields_of(&HEADER).into_iter().map(|field| field.name).collect();
        let header = fields_of(record).into_iter().filter(|field| ours.contains(&field.name)).collect();
        Self { kind, record: record.clone(), header: record_of(kind, header) }
    }
}

impl PastCodec {
    fn new(past: &'static PastSchema) -> Self {
        let now = &RECORDS[&past.kind];
        let resolving = GenericDatumReader::builder(&past.record).reader_schema(now).human_readable(false).build();
        Self {
            kind: past.kind,
            header: reader(&past.header),
            reader: resolving.expect("past schemas are valid"),
            writer: writer(now),
        }
    }

    /// A record as it would be written now, and the hash of its payload as it was written then.
    fn renewed(&self, bytes: &[u8]) -> apache_avro::AvroResult<(Vec<u8>, String)> {
        let mut payload = bytes;
        self.header.read_value(&mut payload)?;
        let mut rest = bytes;
        let mut now = self.writer.write_value_to_vec(self.reader.read_value(&mut rest)?)?;
        // What follows the record is damage then and now.
        now.extend_from_slice(rest);
        Ok((now, body_hash(self.kind, payload)))
    }
}

/// The flat record schema of a kind: the header's fields, then its own.
pub fn record_schema(kind: CommandKind) -> Schema {
    let mut fields = fields_of(&HEADER);
    fields.extend(kind.fields());
    record_of(kind, fields)
}

/// The schema that a registered id stands for, as a flat record; `None` if the id is not known.
pub fn schema(id: u32) -> Option<Schema> {
    match CODEC.by_id.get(&id) {
        Some(kind) => RECORDS.get(kind).cloned(),
        None => PAST_SCHEMAS.get(&id).map(|past| past.record.clone()),
    }
}

fn fields_of(schema: &Schema) -> Vec<RecordField> {
    if let Schema::Record(record) = schema { record.fields.clone() } else { Vec::new() }
}

/// A record of the kind. It goes through its text once: there, types without a namespace are in that of their record.
fn record_of(kind: CommandKind, fields: Vec<RecordField>) -> Schema {
    let lookup = fields.iter().enumerate().map(|(at, field)| (field.name.clone(), at)).collect();
    let record = Schema::Record(RecordSchema {
        name: Name::new(format!("{NAMESPACE}.{}", kind.record())).expect("record names are valid"),
        aliases: None,
        doc: Some(format!("`{}`: see docs/protocol.md", kind.text())),
        fields,
        lookup,
        attributes: BTreeMap::new(),
    });
    let text = serde_json::to_string(&record).expect("schemas serialise");
    Schema::parse_str(&text).expect("a schema reads back")
}

/// The newest schema that this build reads: ids only ever grow.
pub fn newest() -> u32 {
    static NEWEST: LazyLock<u32> =
        LazyLock::new(|| registered().iter().map(|known| known.id).max().unwrap_or_default());
    *NEWEST
}

/// The schema that a kind is written with.
///
/// # Panics
/// The kind has no id in `schemas/ids.lock`: run `make gen`.
pub fn id_of(kind: CommandKind) -> u32 {
    CODEC.kinds[&kind].id.expect("every kind has an id in schemas/ids.lock: run `make gen`")
}

/// An event's bytes, framed.
///
/// # Panics
/// As [`id_of`].
pub fn encode(header: &Header, command: &Command) -> Vec<u8> {
    encode_as(id_of(command.kind()), header, command)
}

/// An event's bytes, framed with an id that the lock file may not have yet: only for `make gen`.
///
/// # Panics
/// A payload that does not fit its own schema: our own bug.
pub fn encode_as(id: u32, header: &Header, command: &Command) -> Vec<u8> {
    let kind = &CODEC.kinds[&command.kind()];
    let mut bytes = Vec::with_capacity(256);
    bytes.push(0);
    bytes.extend_from_slice(&id.to_be_bytes());
    CODEC.header_writer.write_ser(&mut bytes, header).expect("a header fits its own schema");
    command.write_avro(&kind.writer, &mut bytes).expect("a payload fits its own schema");
    bytes
}

/// Reads a framed event that stands at `position`.
///
/// # Errors
/// [`DecodeError`].
pub fn decode(bytes: &[u8], position: Position, time: LogTime) -> Result<Event, DecodeError> {
    let framing = bytes.get(..FRAMING).filter(|framing| framing[0] == 0);
    let framing = framing.ok_or_else(|| DecodeError::Corrupt("no framing".to_owned()))?;
    let id = u32::from_be_bytes([framing[1], framing[2], framing[3], framing[4]]);
    let record = &bytes[FRAMING..];
    let (header, command, body_hash) = match (CODEC.by_id.get(&id), CODEC.past.get(&id)) {
        (Some(kind), _) => read(*kind, record)?,
        (None, Some(past)) => {
            let (now, written) = past.renewed(record).map_err(|error| corrupt(&error))?;
            let (header, command, _) = read(past.kind, &now)?;
            (header, command, written)
        }
        (None, None) => return Err(DecodeError::UnknownSchema(id)),
    };
    Ok(Event { at: At { position, time, hash: record_hash(bytes), bytes: bytes.len(), body_hash, header }, command })
}

/// A record of today's schema, and the hash of its payload.
fn read(kind: CommandKind, record: &[u8]) -> Result<(Header, Command, String), DecodeError> {
    let mut rest = record;
    let header: Header = CODEC.header_reader.read_deser(&mut rest).map_err(|error| corrupt(&error))?;
    let body_hash = body_hash(kind, rest);
    let command = kind.read_avro(&CODEC.kinds[&kind].reader, &mut rest).map_err(|error| corrupt(&error))?;
    if !rest.is_empty() {
        return Err(DecodeError::Corrupt(format!("{} bytes after the record", rest.len())));
    }
    Ok((header, command, body_hash))
}

fn corrupt(error: &apache_avro::Error) -> DecodeError {
    DecodeError::Corrupt(error.to_string())
}

/// A framed event's record as JSON, by its schema alone: what anyone else's reader sees. Free JSON is a string in it.
///
/// # Errors
/// [`DecodeError::Corrupt`].
pub fn plain(schema: &Schema, bytes: &[u8]) -> Result<serde_json::Value, DecodeError> {
    let reader = GenericDatumReader::builder(schema).build().map_err(|error| corrupt(&error))?;
    let mut rest = bytes.get(FRAMING..).unwrap_or_default();
    let value = reader.read_value(&mut rest).map_err(|error| corrupt(&error))?;
    if !rest.is_empty() {
        return Err(DecodeError::Corrupt(format!("{} bytes after the record", rest.len())));
    }
    value.try_into().map_err(|error| corrupt(&error))
}

/// 32 bits of a record's hash, as event ids carry it.
pub fn record_hash(bytes: &[u8]) -> u32 {
    let hash = blake3::hash(bytes);
    let bytes = hash.as_bytes();
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// BLAKE3 of kind and payload, in hex.
fn body_hash(kind: CommandKind, payload: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(kind.text().as_bytes());
    hasher.update(&[0]);
    hasher.update(payload);
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests;
