//! How files look, wherever they are.

use crate::{
    source::leading_name,
    world::{Violation, World, has_extension},
};

/// Non-test lines of one file.
const LINES_MAX: usize = 500;
/// The catalogue's come in three, one for each kind of message.
const MACROS: [&str; 5] = ["id", "commands", "queries", "signals", "contract_tests"];
/// Folders that only one machine has.
const HOMES: [&str; 4] = ["work", "root", "home", "Users"];

/// Files are short enough to be read in one go.
pub fn length(world: &World) -> Vec<Violation> {
    world
        .product()
        .filter(|(_, source)| source.lines > LINES_MAX)
        .map(|(path, source)| {
            Violation::of(path, format!("{} lines without tests, {LINES_MAX} are allowed", source.lines))
        })
        .collect()
}

/// Every file says first what lives in it.
pub fn opening(world: &World) -> Vec<Violation> {
    rust_files(world)
        .filter(|(_, text)| !text.starts_with("//! "))
        .map(|(path, _)| Violation::at(path, 1, "begin with `//!`: what lives here, what must not"))
        .collect()
}

/// A module is `foo.rs`, its parts are in `foo/`.
pub fn module_files(world: &World) -> Vec<Violation> {
    rust_files(world)
        .filter(|(path, _)| path.ends_with("/mod.rs"))
        .map(|(path, _)| Violation::of(path, "name the file after its module: `foo.rs` beside `foo/`"))
        .collect()
}

/// Three macros in the whole project.
pub fn macros(world: &World) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, source) in world.whole() {
        for (line, rest) in source.after("macro_rules!") {
            let name = leading_name(&rest);
            if !MACROS.contains(&name.as_str()) {
                found.push(Violation::at(path, line, format!("`{name}!` is one macro too many: write a function")));
            }
        }
    }
    found
}

/// Nothing is unsafe, tests included.
pub fn safety(world: &World) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, source) in world.whole() {
        found.extend(source.word("unsafe").into_iter().map(|(line, _)| Violation::at(path, line, "no unsafe code")));
    }
    found
}

/// A lint is silenced for a stated reason.
pub fn silenced_lints(world: &World) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, source) in world.whole() {
        for opening in ["[allow(", "[expect("] {
            for (line, rest) in source.after(opening) {
                if !rest.split(")]").next().unwrap_or_default().contains("reason =") {
                    found.push(Violation::at(path, line, "say why: `reason = \"..\"`"));
                }
            }
        }
    }
    found
}

/// `HashSet` in the domain is only what the Avro derive's signature asks for; clippy sees to `HashMap`.
pub fn unordered_sets(world: &World) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, source) in world.product().filter(|(path, _)| path.starts_with("domain/")) {
        for (line, text) in source.numbered() {
            let rest = text.replace("&mut HashSet<Name>", "");
            if rest.contains("HashSet") && !rest.trim_start().starts_with("use ") {
                found.push(Violation::at(path, line, "a HashSet's order is random: `BTreeSet`"));
            }
        }
    }
    found
}

/// No file knows the machine it was written on.
pub fn machine_paths(world: &World) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, text) in &world.files {
        for (number, line) in text.lines().enumerate() {
            if HOMES.iter().any(|home| names_home(line, home)) {
                found.push(Violation::at(path, number + 1, "a path of one machine"));
            }
        }
    }
    found
}

/// Goldens and released migrations stay as they are.
pub fn frozen(world: &World) -> Vec<Violation> {
    world.thawed.iter().map(|path| Violation::of(path, "goldens and migrations are only ever added")).collect()
}

/// A folder of `HOMES` at the beginning of a path, not inside of one.
fn names_home(line: &str, home: &str) -> bool {
    let path = format!("/{home}/");
    line.match_indices(&path)
        .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}/*)".contains(c)))
}

fn rust_files(world: &World) -> impl Iterator<Item = (&String, &String)> {
    world.files.iter().filter(|(path, _)| has_extension(path, "rs"))
}
