//! Events as bytes: one flat Avro record a kind, Confluent framing (0x00, 4-byte schema id), stable ids.
//! Header and payload are encoded one after the other, which is exactly the encoding of the flat record.

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
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let (id, kind, version) = (words.next()?.parse().ok()?, words.next()?.to_owned(), words.next()?);
        Some(Registered { id, kind, version: version.strip_prefix('v')?.parse().ok()? })
    };
    LOCK.lines().filter(|text| !text.starts_with('#')).filter_map(line).collect()
}

struct Codec {
    header_writer: GenericDatumWriter<'static>,
    header_reader: GenericDatumReader<'static>,
    kinds: BTreeMap<CommandKind, KindCodec>,
    by_id: BTreeMap<u32, CommandKind>,
}

struct KindCodec {
    id: Option<u32>,
    writer: GenericDatumWriter<'static>,
    reader: GenericDatumReader<'static>,
}

static HEADER: LazyLock<Schema> = LazyLock::new(Header::get_schema);
static PAYLOADS: LazyLock<BTreeMap<CommandKind, Schema>> =
    LazyLock::new(|| CommandKind::ALL.iter().map(|kind| (*kind, kind.payload_schema())).collect());

static CODEC: LazyLock<Codec> = LazyLock::new(|| {
    apache_avro::util::max_allocation_bytes(AVRO_ALLOCATION_MAX);
    let reader =
        |schema| GenericDatumReader::builder(schema).human_readable(false).build().expect("derived schemas are valid");
    let writer =
        |schema| GenericDatumWriter::builder(schema).human_readable(false).build().expect("derived schemas are valid");
    let newest = |kind: CommandKind| {
        let known = registered().into_iter().filter(|known| known.kind == kind.text());
        known.max_by_key(|known| known.version).map(|known| known.id)
    };
    let kinds: BTreeMap<_, _> = PAYLOADS
        .iter()
        .map(|(kind, schema)| (*kind, KindCodec { id: newest(*kind), writer: writer(schema), reader: reader(schema) }))
        .collect();
    let by_id = kinds.iter().filter_map(|(kind, codec)| codec.id.map(|id| (id, *kind))).collect();
    Codec { header_writer: writer(&HEADER), header_reader: reader(&HEADER), kinds, by_id }
});

/// The flat record schema of a kind: the header's fields, then its own.
pub fn record_schema(kind: CommandKind) -> Schema {
    let mut fields: Vec<RecordField> = match &*HEADER {
        Schema::Record(record) => record.fields.clone(),
        _ => Vec::new(),
    };
    fields.extend(kind.fields());
    let lookup = fields.iter().enumerate().map(|(at, field)| (field.name.clone(), at)).collect();
    Schema::Record(RecordSchema {
        name: Name::new(&format!("{NAMESPACE}.{}", kind.record())).expect("record names are valid"),
        aliases: None,
        doc: Some(format!("`{}`: see docs/protocol.md", kind.text())),
        fields,
        lookup,
        attributes: BTreeMap::new(),
    })
}

/// An event's bytes, framed.
///
/// # Panics
/// The kind has no id in `schemas/ids.lock`: run `make gen`.
pub fn encode(header: &Header, command: &Command) -> Vec<u8> {
    let codec = &*CODEC;
    let kind = &codec.kinds[&command.kind()];
    let id = kind.id.expect("every kind has an id in schemas/ids.lock: run `make gen`");
    let mut bytes = Vec::with_capacity(256);
    bytes.push(0);
    bytes.extend_from_slice(&id.to_be_bytes());
    codec.header_writer.write_ser(&mut bytes, header).expect("a header fits its own schema");
    command.write_avro(&kind.writer, &mut bytes).expect("a payload fits its own schema");
    bytes
}

/// Reads a framed event that stands at `position`.
///
/// # Errors
/// [`DecodeError`].
pub fn decode(bytes: &[u8], position: Position, time: LogTime) -> Result<Event, DecodeError> {
    let corrupt = |error: apache_avro::Error| DecodeError::Corrupt(error.to_string());
    let framing = bytes.get(..FRAMING).filter(|framing| framing[0] == 0);
    let framing = framing.ok_or_else(|| DecodeError::Corrupt("no framing".to_owned()))?;
    let id = u32::from_be_bytes([framing[1], framing[2], framing[3], framing[4]]);
    let codec = &*CODEC;
    let kind = *codec.by_id.get(&id).ok_or(DecodeError::UnknownSchema(id))?;
    let mut rest = &bytes[FRAMING..];
    let header: Header = codec.header_reader.read_deser(&mut rest).map_err(corrupt)?;
    let body_hash = body_hash(kind, rest);
    let command = kind.read_avro(&codec.kinds[&kind].reader, &mut rest).map_err(corrupt)?;
    if !rest.is_empty() {
        return Err(DecodeError::Corrupt(format!("{} bytes after the record", rest.len())));
    }
    Ok(Event { at: At { position, time, hash: record_hash(bytes), body_hash, header }, command })
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
