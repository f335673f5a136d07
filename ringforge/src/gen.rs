//! `make gen`: schemas, their ids, goldens and the protocol reference, all from the domain's catalogue. What is released
//! is never changed: ids and goldens are only added, a schema that differs becomes the next version.

#[path = "gen/protocol.rs"]
mod protocol;

use std::{collections::BTreeMap, fmt::Write as _, fs, io::ErrorKind, path::Path};

use anyhow::{Context as _, ensure};
use ringforge_domain::{
    catalog::CommandKind,
    golden,
    schema::{self, Registered},
};
use serde_json::{Map, Value};

/// Ids of schemas.
const LOCK: &str = "schemas/ids.lock";
/// Schemas that are only read.
const PAST: &str = "schemas/past.json";
const LOCK_HEAD: &str = "# id kind version: only ever added to, never changed. Written by `make gen`.\n";

/// Files by their path below the root of the workspace.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Writes what [`files`] says and is not there yet.
///
/// # Errors
/// A file that cannot be read or written, or one of those we keep that is damaged.
pub fn run(root: &Path) -> anyhow::Result<()> {
    for (path, content) in files(root)? {
        if read(root, &path)?.as_ref() == Some(&content) {
            continue;
        }
        let file = root.join(&path);
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        fs::write(&file, content).with_context(|| format!("write {path}"))?;
    }
    Ok(())
}

/// Everything that is generated, as it should be below `root`, given what stands there.
///
/// # Errors
/// As [`run`].
pub fn files(root: &Path) -> anyhow::Result<Files> {
    let mut files = Files::new();
    let mut registry = Registry::read(root)?;
    for kind in CommandKind::ALL {
        let newest = registry.renew(root, *kind, &mut files)?;
        goldens(root, *kind, &newest, &mut files)?;
    }
    ids(root, &mut files)?;
    registry.write(&mut files)?;
    let intro = include_str!("gen/intro.md");
    files.insert("schemas/protocol.json".to_owned(), pretty(&protocol::json(&registry.known))?);
    files.insert("docs/protocol.md".to_owned(), protocol::reference(intro).into_bytes());
    Ok(files)
}

/// The ids that were given, and the schemas that are only read.
struct Registry {
    known: Vec<Registered>,
    past: Map<String, Value>,
}

impl Registry {
    fn read(root: &Path) -> anyhow::Result<Self> {
        let lock = text(root, LOCK)?.unwrap_or_default();
        let lines = lock.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')).count();
        let known = schema::registrations(&lock);
        ensure!(known.len() == lines, "{LOCK} has a line that is not `id kind vN`");
        let past = match text(root, PAST)? {
            Some(text) => serde_json::from_str(&text).with_context(|| format!("read {PAST}"))?,
            None => Map::new(),
        };
        Ok(Self { known, past })
    }

    /// The newest version of a kind; a new one if the kind is new or its record has changed.
    fn renew(&mut self, root: &Path, kind: CommandKind, files: &mut Files) -> anyhow::Result<Registered> {
        let path = format!("schemas/{}.avsc", kind.text());
        let now = pretty(&schema::record_schema(kind))?;
        let newest = self.known.iter().filter(|known| known.kind == kind.text()).max_by_key(|known| known.version);
        let (newest, committed) = (newest.cloned(), text(root, &path)?);
        let newest = match (newest, committed) {
            (None, _) => self.add(kind, 1),
            (Some(newest), None) => newest,
            (Some(newest), Some(committed)) => {
                let old: Value = serde_json::from_str(&committed).with_context(|| format!("read {path}"))?;
                if undocumented(&old) == undocumented(&serde_json::from_slice(&now)?) {
                    newest
                } else {
                    let kept = format!("schemas/{}.v{}.avsc", kind.text(), newest.version);
                    files.insert(kept, committed.into_bytes());
                    self.past.insert(newest.id.to_string(), old);
                    self.add(kind, newest.version + 1)
                }
            }
        };
        files.insert(path, now);
        Ok(newest)
    }

    fn add(&mut self, kind: CommandKind, version: u32) -> Registered {
        let id = self.known.iter().map(|known| known.id).max().unwrap_or(0) + 1;
        let added = Registered { id, kind: kind.text().to_owned(), version };
        self.known.push(added.clone());
        added
    }

    fn write(&self, files: &mut Files) -> anyhow::Result<()> {
        let mut lock = LOCK_HEAD.to_owned();
        for Registered { id, kind, version } in &self.known {
            writeln!(lock, "{id} {kind} v{version}")?;
        }
        files.insert(LOCK.to_owned(), lock.into_bytes());
        files.insert(PAST.to_owned(), pretty(&self.past)?);
        Ok(())
    }
}

/// The samples of a version, once: as JSON, and as records that each follow their length (4 bytes, big-endian).
fn goldens(root: &Path, kind: CommandKind, version: &Registered, files: &mut Files) -> anyhow::Result<()> {
    let path = |encoding: &str| format!("schemas/golden/{}.v{}.{encoding}", kind.text(), version.version);
    let (json, avro) = (read(root, &path("json"))?, read(root, &path("avro"))?);
    if let (Some(json), Some(avro)) = (json, avro) {
        files.extend([(path("json"), json), (path("avro"), avro)]);
        return Ok(());
    }
    let (mut plain, mut records) = (Vec::new(), Vec::new());
    for (header, command) in golden::samples(kind) {
        let bytes = schema::encode_as(version.id, &header, &command);
        plain.push(schema::plain(&schema::record_schema(kind), &bytes)?);
        records.extend_from_slice(&u32::try_from(bytes.len())?.to_be_bytes());
        records.extend_from_slice(&bytes);
    }
    files.insert(path("json"), pretty(&plain)?);
    files.insert(path("avro"), records);
    Ok(())
}

/// Samples of every kind of id, once: what each was made of, and its text.
fn ids(root: &Path, files: &mut Files) -> anyhow::Result<()> {
    for (prefix, samples) in golden::ids() {
        let path = id_golden(prefix);
        let kept = read(root, &path)?;
        files.insert(path, kept.map_or_else(|| pretty(&samples), Ok)?);
    }
    Ok(())
}

/// The golden of a kind of id.
pub fn id_golden(prefix: &str) -> String {
    format!("schemas/golden/id.{}.json", prefix.trim_end_matches('_'))
}

/// A schema without its words: another comment is not another schema.
fn undocumented(schema: &Value) -> Value {
    match schema {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(name, value)| *name != "doc" || !value.is_string());
            kept.map(|(name, value)| (name.clone(), undocumented(value))).collect::<Map<_, _>>().into()
        }
        Value::Array(items) => items.iter().map(undocumented).collect(),
        plain => plain.clone(),
    }
}

fn pretty(value: &impl serde::Serialize) -> anyhow::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    Ok(text)
}

fn read(root: &Path, path: &str) -> anyhow::Result<Option<Vec<u8>>> {
    match fs::read(root.join(path)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {path}")),
    }
}

fn text(root: &Path, path: &str) -> anyhow::Result<Option<String>> {
    read(root, path)?.map(String::from_utf8).transpose().with_context(|| format!("read {path}"))
}
