//! Which module of a crate imports which, and whether an arrow runs in a circle.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    source::{Source, is_name, leading_name},
    world::{Violation, World},
};

/// A module of the crate's root by name, its children included.
type Module = String;

/// One import: of which module, and where.
struct Arrow<'a> {
    to: Module,
    path: &'a str,
    line: usize,
}

/// A crate's modules stand above each other: none imports, over any way round, what imports it.
pub fn none(world: &World) -> Vec<Violation> {
    let crates = world.product().filter_map(|(path, _)| Some(path.split_once("/src/")?.0));
    let crates: BTreeSet<&str> = crates.collect();
    crates.into_iter().flat_map(|name| within(world, &format!("{name}/src/"))).collect()
}

fn within(world: &World, root: &str) -> Vec<Violation> {
    let arrows = arrows(world, root);
    let mut found = Vec::new();
    for (from, out) in &arrows {
        for arrow in out.iter().filter(|arrow| reaches(&arrows, &arrow.to, from)) {
            let what = format!("`{from}` imports `{}`, which imports it, perhaps by way of others", arrow.to);
            found.push(Violation::at(arrow.path, arrow.line, what));
        }
    }
    found
}

/// Every arrow between the modules of one crate, tests left out.
fn arrows<'a>(world: &'a World, root: &str) -> BTreeMap<Module, Vec<Arrow<'a>>> {
    let mut arrows: BTreeMap<Module, Vec<Arrow<'a>>> = BTreeMap::new();
    for (path, source) in world.product() {
        let Some(inside) = path.strip_prefix(root).filter(|inside| !inside.ends_with("tests.rs")) else { continue };
        let from: Module = inside.split(['/', '.']).next().unwrap_or_default().to_owned();
        for (line, to) in imports(source).into_iter().filter(|(_, to)| *to != from) {
            arrows.entry(from.clone()).or_default().push(Arrow { to, path, line });
        }
    }
    arrows
}

/// The modules of its own crate that a file names, with the line of each `crate::`.
fn imports(source: &Source) -> Vec<(usize, Module)> {
    let mut found = Vec::new();
    for (line, rest) in source.after("crate::") {
        if rest.starts_with('{') {
            found.extend(branches(&rest).into_iter().map(|name| (line, name)));
        } else {
            found.push((line, leading_name(&rest)));
        }
    }
    found
}

/// The first name of each branch of a `{..}` that `text` begins with.
fn branches(text: &str) -> Vec<Module> {
    let (mut depth, mut names, mut begins) = (0, Vec::new(), false);
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if begins && is_name(c) {
            names.push(leading_name(&text[at..]));
            begins = false;
        }
        begins |= depth == 1 && matches!(c, '{' | ',');
    }
    names
}

fn reaches(arrows: &BTreeMap<Module, Vec<Arrow<'_>>>, from: &str, to: &str) -> bool {
    let (mut seen, mut next) = (BTreeSet::from([from]), vec![from]);
    while let Some(module) = next.pop() {
        if module == to {
            return true;
        }
        for arrow in arrows.get(module).into_iter().flatten() {
            if seen.insert(&arrow.to) {
                next.push(&arrow.to);
            }
        }
    }
    false
}
