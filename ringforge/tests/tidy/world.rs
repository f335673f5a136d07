//! What the rules look at: the files of the workspace, `cargo metadata`, and what git says of files that must not
//! change. The rules see only this, so a test can hand them a small bad world.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::source::Source;

/// A file that a rule does not accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The file, from the root of the workspace.
    pub path: String,
    /// Counted from 1; 0 is the whole file.
    pub line: usize,
    /// What is wrong and what to do instead.
    pub what: String,
}

impl Violation {
    /// At one line.
    pub fn at(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into() }
    }

    /// Of the whole file.
    pub fn of(path: &str, what: impl Into<String>) -> Self {
        Self::at(path, 0, what)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// A Rust file, taken apart twice.
pub struct Rust {
    /// With its tests.
    pub whole: Source,
    /// Without its tests.
    pub product: Source,
}

/// Everything a rule may look at.
pub struct World {
    /// Files by their path from the root, with `/`.
    pub files: BTreeMap<String, String>,
    /// The Rust files among them.
    pub rust: BTreeMap<String, Rust>,
    /// `cargo metadata --no-deps`.
    pub metadata: Value,
    /// Goldens (and, since the last release, migrations) that were changed or removed.
    pub thawed: Vec<String>,
}

impl World {
    /// A world made of these.
    pub fn new(files: BTreeMap<String, String>, metadata: Value, thawed: Vec<String>) -> Self {
        let rust = files
            .iter()
            .filter(|(path, _)| has_extension(path, "rs"))
            .map(|(path, text)| (path.clone(), Rust { whole: Source::whole(text), product: Source::product(text) }))
            .collect();
        Self { files, rust, metadata, thawed }
    }

    /// A small world for the tests of the rules.
    pub fn of(files: &[(&str, &str)]) -> Self {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        Self::new(files, Value::Null, Vec::new())
    }

    /// The workspace this test belongs to.
    pub fn real() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in a folder of the workspace");
        let mut files = BTreeMap::new();
        read_folder(root, root, &mut files);
        Self::new(files, metadata(root), thawed(root))
    }

    /// The Rust code that is shipped: tests, benches and examples left out.
    pub fn product(&self) -> impl Iterator<Item = (&str, &Source)> {
        self.rust.iter().filter(|(path, _)| !is_test(path)).map(|(path, rust)| (path.as_str(), &rust.product))
    }

    /// All Rust code.
    pub fn whole(&self) -> impl Iterator<Item = (&str, &Source)> {
        self.rust.iter().map(|(path, rust)| (path.as_str(), &rust.whole))
    }
}

/// Whether a path's file ends in `.extension`.
pub fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path).extension().is_some_and(|found| found == extension)
}

/// Whether a path is only test code.
pub fn is_test(path: &str) -> bool {
    path.split('/').any(|part| matches!(part, "tests" | "benches" | "examples" | "tests.rs"))
}

const EXTENSIONS: [&str; 15] =
    ["rs", "toml", "md", "sql", "sh", "py", "js", "mjs", "ts", "json", "jsonl", "avro", "avsc", "yml", "yaml"];
const SKIPPED: [&str; 6] = ["target", "node_modules", "ringforge-data", "__pycache__", "dist", "shared"];

fn read_folder(root: &Path, folder: &Path, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).expect("the workspace can be read") {
        let path = entry.expect("the workspace can be read").path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() {
            if !SKIPPED.contains(&name.as_str()) && (!name.starts_with('.') || name == ".ci") {
                read_folder(root, &path, files);
            }
        } else if is_ours(&path, &name) {
            let bytes = fs::read(&path).expect("the workspace can be read");
            files.insert(relative(root, &path), String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}

fn is_ours(path: &Path, name: &str) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().into_owned());
    name == "Makefile" || name == "run" || extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()))
}

fn relative(root: &Path, path: &Path) -> String {
    let parts: PathBuf = path.strip_prefix(root).expect("below the root").into();
    parts.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
}

fn metadata(root: &Path) -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root)
        .output()
        .expect("cargo runs this test, so it is there");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata writes JSON")
}

/// Goldens must be as in HEAD and as in the last release; migrations as in the last release.
fn thawed(root: &Path) -> Vec<String> {
    if git(root, &["rev-parse", "HEAD"]).is_none() {
        eprintln!("SKIPPED: goldens against history, because there is no git history here");
        return Vec::new();
    }
    let mut changed = changed_since(root, "HEAD", &["schemas/golden"]);
    if let Some(release) = git(root, &["describe", "--tags", "--abbrev=0"]) {
        changed.extend(changed_since(root, release.trim(), &["schemas/golden", "migrations"]));
    }
    changed.sort();
    changed.dedup();
    changed
}

fn changed_since(root: &Path, base: &str, folders: &[&str]) -> Vec<String> {
    let mut args = vec!["diff", "--relative", "--name-only", "--no-renames", "--diff-filter=MDT", base, "--"];
    args.extend(folders);
    git(root, &args).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn git(root: &Path, args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).current_dir(root).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
