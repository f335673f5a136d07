//! What is written can be read: by us, by whoever has only the schema, by yesterday's build and tomorrow's.

use apache_avro::{
    schema_compatibility::{Compatibility, SchemaCompatibility},
    types::Value,
};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{golden, ids::Scope, limits, memory, position::Partition};

const POSITION: Position = Position { partition: Partition::POOL, offset: crate::position::Offset(5) };
const TIME: LogTime = LogTime(7);

fn decoded(bytes: &[u8]) -> Result<Event, DecodeError> {
    decode(bytes, POSITION, TIME)
}

fn all() -> impl Iterator<Item = (CommandKind, Header, Command)> {
    let samples = |kind: &CommandKind| golden::samples(*kind).map(|(header, command)| (*kind, header, command));
    CommandKind::ALL.iter().flat_map(samples)
}

fn field<'a>(record: &'a Value, name: &str) -> &'a Value {
    let Value::Record(fields) = record else { panic!("a record: {record:?}") };
    let found = fields.iter().find(|(known, _)| known == name).map(|(_, value)| value);
    match found.unwrap_or_else(|| panic!("no field {name}")) {
        Value::Union(_, inner) => inner,
        plain => plain,
    }
}

#[test]
fn events_come_back_as_they_were() {
    for (kind, header, command) in all() {
        let bytes = encode(&header, &command);
        let event = decoded(&bytes).expect("decodes");
        assert_eq!(event.command, command, "{}", kind.text());
        assert_eq!((&event.at.header, event.at.position, event.at.time), (&header, POSITION, TIME));
        assert_eq!(event.at.hash, record_hash(&bytes));
        assert_eq!(event.at.scope(), Scope { tenant: header.tenant_id, fleet: header.fleet_id });
    }
}

#[test]
fn anyones_reader_sees_a_record_by_its_schema_alone() {
    for (kind, header, command) in all() {
        let mut bytes = encode(&header, &command);
        let seen = plain(&record_schema(kind), &bytes).expect("JSON");
        assert_eq!(seen["command_id"], json!(header.command_id), "{seen}");
        bytes.push(0);
        assert!(plain(&record_schema(kind), &bytes).is_err(), "something is left over");
    }
}

#[test]
fn all_schemas_up_to_the_newest_can_be_read() {
    let mut ids: Vec<u32> = registered().iter().map(|known| known.id).collect();
    ids.sort_unstable();
    assert_eq!(
        ids,
        (1..=newest()).collect::<Vec<_>>(),
        "none is left out: whoever reads the newest reads all before it"
    );
}

#[test]
fn a_past_schema_is_one_of_its_own_kind() {
    assert!(!PAST_SCHEMAS.is_empty());
    for (id, past) in PAST_SCHEMAS.iter() {
        let name = |schema: &Schema| schema.name().expect("a record has a name").clone();
        assert_eq!(name(&past.record), name(&RECORDS[&past.kind]), "{id}");
    }
}

#[test]
fn a_record_is_known_by_the_beginning_of_its_hash() {
    assert_eq!(record_hash(b"abc"), 0x6437_b3ac);
    for (_, header, command) in all() {
        let bytes = encode(&header, &command);
        let event = decoded(&bytes).expect("decodes");
        assert_eq!((event.at.hash, event.at.bytes), (record_hash(&bytes), bytes.len()));
    }
}

#[test]
fn samples_differ_where_something_is_optional() {
    for kind in CommandKind::ALL {
        let [(_, rich), (_, bare)] = golden::samples(*kind);
        assert_eq!((rich.kind(), bare.kind()), (*kind, *kind));
        let optional = kind.fields().iter().any(|field| matches!(field.schema, Schema::Union(_)));
        assert!(!optional || rich != bare, "{}", kind.text());
    }
}

#[test]
fn null_is_a_value() {
    let (header, _) = golden::samples(CommandKind::MemorySet)[0].clone();
    let null = crate::json::Json::parse("null").ok();
    let set = memory::Set { key: "a".to_owned(), value: null.clone(), ..memory::Set::default() };
    let event = decoded(&encode(&header, &set.into())).expect("decodes");
    assert!(matches!(event.command, Command::MemorySet(set) if set.value == null));
}

#[test]
fn the_same_body_has_the_same_hash_whatever_its_header() {
    let [(rich, command), (bare, _)] = golden::samples(CommandKind::MemorySet);
    let hash = |header, command| decoded(&encode(header, command)).expect("decodes").at.body_hash;
    assert_eq!(hash(&rich, &command), hash(&bare, &command));
    let (_, other) = golden::samples(CommandKind::MemorySet)[1].clone();
    assert_ne!(hash(&rich, &command), hash(&rich, &other));
    let twins = [CommandKind::DirectDelivered, CommandKind::DirectTold].map(|kind| golden::samples(kind)[0].1.clone());
    assert_ne!(hash(&rich, &twins[0]), hash(&rich, &twins[1]), "the kind is a part of the body");
}

/// Reads a record by its flat schema alone, as somebody else's reader would.
fn generic(schema: &Schema, record: &[u8]) -> Value {
    let mut rest = record;
    let value = reader_of(schema).read_value(&mut rest).expect("reads");
    assert!(rest.is_empty(), "{} bytes after the record", rest.len());
    value
}

fn reader_of(schema: &Schema) -> GenericDatumReader<'_> {
    GenericDatumReader::builder(schema).build().expect("a valid schema")
}

#[test]
fn the_flat_schema_reads_the_same_bytes_field_by_field() {
    for (kind, header, command) in all() {
        let bytes = encode(&header, &command);
        let schema = record_schema(kind);
        let value = generic(&schema, &bytes[FRAMING..]);
        let names: Vec<String> = fields_of(&schema).into_iter().map(|field| field.name).collect();
        let Value::Record(fields) = &value else { panic!("a record") };
        assert_eq!(fields.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), names);
        assert_eq!(field(&value, "command_id"), &Value::String(header.command_id.to_string()));
        let agent = header.agent_id.map_or(Value::Null, |agent| Value::String(agent.to_string()));
        assert_eq!(field(&value, "agent_id"), &agent);
        // Every field of the payload, as its own JSON says it; free JSON is a string there.
        let mut payload = Vec::new();
        command.write_avro(&writer_of(kind), &mut payload).expect("writes");
        let own = generic(&PAYLOADS[&kind], &payload);
        for declared in kind.fields() {
            assert_eq!(field(&value, &declared.name), field(&own, &declared.name), "{}.{}", kind.text(), declared.name);
        }
    }
    let (header, command) = golden::samples(CommandKind::MemorySet)[0].clone();
    let value = generic(&record_schema(CommandKind::MemorySet), &encode(&header, &command)[FRAMING..]);
    assert_eq!(field(&value, "key"), &Value::String("plan/c".to_owned()));
    assert_eq!(field(&value, "value"), &Value::String(r#"{"b":1,"a":[null,"\u00e9"]}"#.to_owned()));
    assert_eq!(field(&value, "ttl"), &Value::Double(60.5));
    assert_eq!(field(&value, "reference"), &Value::String("\"r-1\"".to_owned()));
    assert_eq!(field(&value, "op"), &Value::Enum(4, "remove_from_set".to_owned()));
}

fn writer_of(kind: CommandKind) -> GenericDatumWriter<'static> {
    writer(&PAYLOADS[&kind])
}

#[test]
fn no_field_of_a_payload_has_the_name_of_one_in_the_header() {
    for kind in CommandKind::ALL {
        let schema = record_schema(*kind);
        let mut names: Vec<String> = fields_of(&schema).into_iter().map(|field| field.name).collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all, "{}", kind.text());
        let text = serde_json::to_string(&schema).expect("serialises");
        let again = Schema::parse_str(&text).expect("parses");
        assert_eq!(again.canonical_form(), schema.canonical_form(), "{}", kind.text());
    }
}

#[test]
fn ids_are_given_once() {
    let mut ids: Vec<u32> = registered().iter().map(|known| known.id).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all);
    assert!(ids.iter().all(|id| schema(*id).is_some()), "every registered schema is at hand");
    assert!(schema(u32::MAX).is_none());
    for kind in CommandKind::ALL {
        let own = registered().into_iter().filter(|known| known.kind == kind.text());
        let versions: Vec<u32> = own.map(|known| known.version).collect();
        let newest = u32::try_from(versions.len()).expect("few");
        assert!(newest > 0 && versions == (1..=newest).collect::<Vec<_>>(), "{}: {versions:?}", kind.text());
    }
}

#[test]
fn what_is_not_an_event_is_corrupt_and_nothing_panics() {
    for (_, header, command) in all() {
        let bytes = encode(&header, &command);
        for end in 0..bytes.len() {
            assert!(matches!(decoded(&bytes[..end]), Err(DecodeError::Corrupt(_))), "{end} of {}", bytes.len());
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(matches!(decoded(&longer), Err(DecodeError::Corrupt(_))));
        for at in FRAMING..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                let _ = decoded(&damaged);
            }
        }
    }
    assert!(matches!(decoded(&[1, 0, 0, 0, 10]), Err(DecodeError::Corrupt(_))), "another magic byte");
}

#[test]
fn json_that_is_no_tree_is_damage() {
    let (header, _) = golden::samples(CommandKind::MemorySet)[0].clone();
    for text in ["1e999".to_owned(), "[".repeat(200) + &"]".repeat(200)] {
        let value = crate::json::Json::parse(&text).ok();
        let set = memory::Set { key: "a".to_owned(), value, ..memory::Set::default() };
        assert!(matches!(decoded(&encode(&header, &set.into())), Err(DecodeError::Corrupt(_))), "{text}");
    }
}

#[test]
fn an_unknown_schema_is_told_from_damage() {
    let (header, command) = golden::samples(CommandKind::MemorySet)[0].clone();
    let mut bytes = encode(&header, &command);
    bytes[1..FRAMING].copy_from_slice(&4_000_000_000u32.to_be_bytes());
    assert!(matches!(decoded(&bytes), Err(DecodeError::UnknownSchema(4_000_000_000))));
}

#[test]
fn a_length_that_lies_allocates_nothing() {
    let (header, _) = golden::samples(CommandKind::MemoryExpire)[0].clone();
    let expire = memory::Expire { key: String::new(), version: 1 };
    let bytes = encode(&header, &expire.into());
    // Before the version there is the key's length, a zero; say that it is far beyond the bound instead.
    let mut lying = bytes[..bytes.len() - 2].to_vec();
    for length in [limits::AVRO_ALLOCATION_MAX as u64 + 1, u64::from(u32::MAX), i64::MAX as u64] {
        lying.truncate(bytes.len() - 2);
        let mut zigzag = length << 1;
        while zigzag >= 0x80 {
            lying.push(zigzag.to_le_bytes()[0] | 0x80);
            zigzag >>= 7;
        }
        lying.push(zigzag.to_le_bytes()[0]);
        let Err(DecodeError::Corrupt(why)) = decoded(&lying) else { panic!("{length}") };
        assert!(length > u64::from(u32::MAX) || why.contains("allocate"), "{why}");
    }
}

/// How deep values of a schema nest.
fn depth(schema: &serde_json::Value, around: &mut Vec<String>) -> usize {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    match schema {
        serde_json::Value::String(name) => {
            assert!(!around.contains(&last(name)), "{name} holds itself: nothing bounds how deep");
            0
        }
        serde_json::Value::Array(union) => union.iter().map(|one| depth(one, around)).max().unwrap_or(0),
        named => {
            around.push(named["name"].as_str().map(last).unwrap_or_default());
            let fields = named["fields"].as_array().into_iter().flatten().map(|field| &field["type"]);
            let inside = fields.chain(named.get("items")).chain(named.get("values"));
            let deepest = inside.map(|inner| depth(inner, around)).max().unwrap_or(0);
            around.pop();
            deepest + 1
        }
    }
}

#[test]
fn nothing_in_a_record_nests_without_a_bound() {
    for Registered { id, kind, .. } in registered() {
        let schema = serde_json::to_value(schema(id).expect("it is known")).expect("it serialises");
        let deep = depth(&schema, &mut Vec::new());
        assert!((1..=4).contains(&deep), "{kind}: {deep}");
    }
    let list = json!({"type": "record", "name": "a.List", "fields": [{"name": "next", "type": ["null", "List"]}]});
    assert!(std::panic::catch_unwind(|| depth(&list, &mut Vec::new())).is_err(), "a list of any length is found");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn noise_never_panics(kind in 0u32..25, noise in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = vec![0];
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&noise);
        let _ = decoded(&bytes);
        let _ = decoded(&noise);
    }
}

/// The newest `memory.set`, changed as JSON: an older or newer one.
fn changed(change: impl FnOnce(&mut Vec<serde_json::Value>)) -> Schema {
    let mut schema = serde_json::to_value(record_schema(CommandKind::MemorySet)).expect("serialises");
    change(schema["fields"].as_array_mut().expect("fields"));
    Schema::parse(&schema).expect("still a schema")
}

#[test]
fn an_older_record_is_read_as_todays() {
    let older = changed(|fields| fields.retain(|field| field["name"] != "ttl" && field["name"] != "deadline"));
    let past: &'static PastSchema = Box::leak(Box::new(PastSchema::new(CommandKind::MemorySet, &older)));
    let (header, command) = golden::samples(CommandKind::MemorySet)[0].clone();
    let now = generic(&record_schema(CommandKind::MemorySet), &encode(&header, &command)[FRAMING..]);
    let Value::Record(fields) = now else { panic!("a record") };
    let then = fields.into_iter().filter(|(name, _)| name != "ttl" && name != "deadline").collect();
    let written = GenericDatumWriter::builder(&older).build().expect("valid").write_value_to_vec(Value::Record(then));
    let written = written.expect("writes");
    let codec = PastCodec::new(past);
    let (renewed, hash) = codec.renewed(&written).expect("resolves");
    let (read_header, read_command, hash_now) = read(CommandKind::MemorySet, &renewed).expect("reads");
    assert_eq!(read_header, Header { deadline: None, ..header.clone() });
    let Command::MemorySet(set) = command else { panic!("a set") };
    let expected = memory::Set { ttl: None, ..set };
    assert_eq!(read_command, Command::MemorySet(expected));
    assert_ne!(hash, hash_now, "the hash is that of the bytes that were written");
    let later = Header { idempotency_key: Some("another".to_owned()), reference: None, ..header };
    assert_ne!(later, read_header);
    assert!(codec.renewed(&written[..written.len() - 1]).is_err());
    let damaged = codec.renewed(&[written.clone(), vec![7]].concat()).expect("the record itself is whole");
    assert!(matches!(read(CommandKind::MemorySet, &damaged.0), Err(DecodeError::Corrupt(_))));
}

/// `FULL_TRANSITIVE` between two versions of a kind.
fn mutual(one: &Schema, other: &Schema) -> bool {
    SchemaCompatibility::mutual_read(one, other).is_ok_and(|found| found == Compatibility::Full)
}

#[test]
fn every_version_of_a_kind_reads_every_other() {
    let known = registered();
    for one in &known {
        for other in known.iter().filter(|other| other.kind == one.kind) {
            let (Some(left), Some(right)) = (schema(one.id), schema(other.id)) else { panic!("at hand") };
            assert!(mutual(&left, &right), "{} v{} and v{}", one.kind, one.version, other.version);
        }
    }
}

#[test]
fn a_change_that_breaks_readers_is_found() {
    let now = record_schema(CommandKind::MemorySet);
    let optional = changed(|fields| {
        fields.push(json!({"name": "more", "type": ["null", "string"], "default": null}));
    });
    assert!(mutual(&now, &optional));
    let required = changed(|fields| fields.push(json!({"name": "more", "type": "string"})));
    assert!(!mutual(&now, &required));
    let removed = changed(|fields| fields.retain(|field| field["name"] != "key"));
    assert!(!mutual(&now, &removed));
    let retyped = changed(|fields| {
        for field in fields.iter_mut().filter(|field| field["name"] == "key") {
            field["type"] = json!("long");
        }
    });
    assert!(!mutual(&now, &retyped));
}
