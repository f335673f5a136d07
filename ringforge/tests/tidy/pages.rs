//! What pages say of tests holds: each that they name is there.

use std::collections::BTreeSet;

use crate::{
    source::leading_name,
    world::{Violation, World},
};

/// Pages with tables of which a column names tests.
const PAGES: [&str; 3] = ["docs/faults.md", "docs/guarantees.md", "docs/limits.md"];
/// Where transcripts are.
const SCENARIOS: &str = "ringforge/tests/scenarios/";
/// What stands in the place of a test, before the reason.
const NOT_YET: &str = "not yet: ";

/// Every row names tests and transcripts that are there, or says why there is none yet.
pub fn tests(world: &World) -> Vec<Violation> {
    let known: BTreeSet<String> = world.whole().flat_map(|(_, source)| tests_of(source)).collect();
    let there = |name: &str| known.contains(name) || world.files.contains_key(&format!("{SCENARIOS}{name}"));
    let mut found = Vec::new();
    for (path, text) in PAGES.iter().filter_map(|path| world.files.get_key_value(*path)) {
        let lines: Vec<&str> = text.lines().collect();
        let mut column = None;
        for (at, line) in lines.iter().enumerate().filter(|(_, line)| line.starts_with("| ")) {
            if lines.get(at + 1).is_some_and(|next| next.starts_with("|-")) {
                column = cells(line).position(|cell| matches!(cell, "test" | "tests"));
                continue;
            }
            let tests = column.and_then(|column| cells(line).nth(column)).unwrap_or_default();
            let mut names = tests.split('`').skip(1).step_by(2).peekable();
            if names.peek().is_none() && !tests.contains(NOT_YET) {
                found.push(Violation::at(path, at + 1, "name the test that falsifies this, or say `not yet: ` why"));
            }
            let missing = names.filter(|name| !there(name));
            found.extend(missing.map(|name| Violation::at(path, at + 1, format!("there is no test `{name}`"))));
        }
    }
    found
}

/// What stands in the columns of a table's line.
fn cells(line: &str) -> impl Iterator<Item = &str> {
    line.split('|').skip(1).map(str::trim)
}

/// The names of the functions that are tests.
fn tests_of(source: &crate::source::Source) -> Vec<String> {
    let after = ["test]", "test("].into_iter().flat_map(|attribute| source.after(attribute));
    after.filter_map(|(_, rest)| rest.split_once("fn ").map(|(_, rest)| leading_name(rest))).collect()
}
