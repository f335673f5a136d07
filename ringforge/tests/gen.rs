//! What `make gen` writes is what is checked in, and what is checked in is never changed by it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use ringforge::r#gen as generate;
use ringforge_domain::{
    catalog::CommandKind,
    position::{LogTime, Offset, Partition, Position},
    schema,
};
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in a folder of the workspace")
}

fn written(root: &Path) {
    generate::run(root).expect("generates");
}

fn read(root: &Path, path: &str) -> String {
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn what_is_generated_is_checked_in() {
    let stale: Vec<String> = generate::files(root())
        .expect("generates")
        .into_iter()
        .filter(|(path, content)| fs::read(root().join(path)).ok().as_ref() != Some(content))
        .map(|(path, _)| path)
        .collect();
    assert!(stale.is_empty(), "run `make gen` and check in: {stale:?}");
}

/// The records of a golden, each with its framing.
fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_be_bytes(*length)).expect("fits");
        records.push(rest[..length].to_vec());
        bytes = &rest[length..];
    }
    assert!(bytes.is_empty());
    records
}

#[test]
fn every_golden_is_still_read() {
    let known = schema::registered();
    let mut seen = 0;
    for version in &known {
        let path = |encoding: &str| format!("schemas/golden/{}.v{}.{encoding}", version.kind, version.version);
        let plain: Vec<Value> = serde_json::from_str(&read(root(), &path("json"))).expect("JSON");
        let records = records(&fs::read(root().join(path("avro"))).expect("a golden"));
        assert_eq!(records.len(), plain.len(), "{}", path("avro"));
        let written = schema::schema(version.id).expect("every version is at hand");
        for (record, expected) in records.iter().zip(plain) {
            assert_eq!(schema::plain(&written, record).expect("reads"), expected, "{}", path("avro"));
            let position = Position { partition: Partition::POOL, offset: Offset(1) };
            let event = schema::decode(record, position, LogTime(1)).expect("decodes");
            assert_eq!(event.command.kind().text(), version.kind);
            assert_eq!(Value::from(event.at.header.command_id.to_string()), expected["command_id"]);
            let again = schema::encode(&event.at.header, &event.command);
            let again = schema::decode(&again, position, LogTime(1)).expect("decodes");
            assert_eq!(again.command, event.command);
            seen += 1;
        }
    }
    assert!(seen >= CommandKind::ALL.len());
}

#[test]
fn ids_are_written_as_ever() {
    for (prefix, samples) in ringforge_domain::golden::ids() {
        let path = generate::id_golden(prefix);
        let golden: Vec<(String, String)> = serde_json::from_str(&read(root(), &path)).expect("JSON");
        assert_eq!(samples, golden, "{path}: the text of an id never changes");
    }
}

/// A copy of what is checked in, to be damaged.
fn copy() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().to_owned();
    for (path, content) in generate::files(root()).expect("generates") {
        let file = target.join(path);
        fs::create_dir_all(file.parent().expect("in a folder")).expect("created");
        fs::write(file, content).expect("written");
    }
    (folder, target)
}

#[test]
fn an_empty_tree_gets_everything_and_a_second_run_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    written(folder.path());
    let first = generate::files(folder.path()).expect("generates");
    written(folder.path());
    assert_eq!(generate::files(folder.path()).expect("generates"), first);
    assert_eq!(read(folder.path(), "schemas/ids.lock").lines().count(), CommandKind::ALL.len() + 1);
    for kind in CommandKind::ALL {
        assert!(first.contains_key(&format!("schemas/golden/{}.v1.avro", kind.text())), "{}", kind.text());
    }
}

#[test]
fn a_changed_record_becomes_the_next_version() {
    let (_folder, root) = copy();
    let kind = CommandKind::MemorySet.text();
    let path = format!("schemas/{kind}.avsc");
    let mut old: Value = serde_json::from_str(&read(&root, &path)).expect("JSON");
    let fields = old["fields"].as_array_mut().expect("fields");
    fields.retain(|field| field["name"] != "ttl");
    let old_text = serde_json::to_string(&old).expect("serialises");
    fs::write(root.join(&path), &old_text).expect("written");
    let golden = fs::read(root.join(format!("schemas/golden/{kind}.v1.avro"))).expect("a golden");
    let before = schema::registrations(&read(&root, "schemas/ids.lock"));
    written(&root);
    let after = schema::registrations(&read(&root, "schemas/ids.lock"));
    assert_eq!(after[..before.len()], before, "ids are only added");
    let added = after.last().expect("an id");
    let newest = before.iter().filter(|known| known.kind == kind).map(|known| known.version).max().expect("known");
    assert_eq!((added.kind.as_str(), added.version), (kind, newest + 1));
    assert!(before.iter().all(|known| known.id != added.id));
    assert_eq!(read(&root, &format!("schemas/{kind}.v{newest}.avsc")), old_text);
    let past: Value = serde_json::from_str(&read(&root, "schemas/past.json")).expect("JSON");
    assert!(past.as_object().expect("by id").values().any(|schema| *schema == old));
    assert!(root.join(format!("schemas/golden/{kind}.v{}.avro", newest + 1)).exists());
    assert_eq!(fs::read(root.join(format!("schemas/golden/{kind}.v1.avro"))).expect("a golden"), golden);
    let settled = generate::files(&root).expect("generates");
    written(&root);
    assert_eq!(generate::files(&root).expect("generates"), settled);
}

#[test]
fn another_comment_is_not_another_version() {
    let (_folder, root) = copy();
    let path = format!("schemas/{}.avsc", CommandKind::MemorySet.text());
    let mut old: Value = serde_json::from_str(&read(&root, &path)).expect("JSON");
    old["fields"][0]["doc"] = "Other words.".into();
    fs::write(root.join(&path), old.to_string()).expect("written");
    let lock = read(&root, "schemas/ids.lock");
    written(&root);
    assert_eq!(read(&root, "schemas/ids.lock"), lock);
    assert!(!read(&root, &path).contains("Other words."));
}

#[test]
fn goldens_are_never_overwritten_and_a_damaged_lock_is_refused() {
    let (_folder, root) = copy();
    let golden = format!("schemas/golden/{}.v1.json", CommandKind::DirectSend.text());
    fs::write(root.join(&golden), "[]").expect("written");
    written(&root);
    assert_eq!(read(&root, &golden), "[]");
    fs::write(root.join("schemas/ids.lock"), "1 one two\n").expect("written");
    assert!(generate::files(&root).is_err());
}
