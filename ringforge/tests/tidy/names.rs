//! A name is made once: kinds in the catalogue, id prefixes, codes, topics and keys, bounds, SQL.

use crate::{
    source::{Literal, Source, leading_name},
    world::{Violation, World, has_extension},
};

const CATALOG: &str = "domain/src/catalog.rs";
const IDS: &str = "domain/src/ids.rs";
const CODES: &str = "domain/src/code.rs";
const LIMITS: &str = "domain/src/limits.rs";
const POSITION: &str = "domain/src/position.rs";
const NAMES: &str = "ports/src/names.rs";

/// Kinds are written in the catalogue only.
pub fn kinds(world: &World) -> Vec<Violation> {
    let kinds = match kinds_of(world) {
        Ok(kinds) => kinds,
        Err(violation) => return vec![violation],
    };
    literals(world, CATALOG)
        .filter(|(_, literal)| kinds.contains(&literal.text))
        .map(|(path, literal)| {
            Violation::at(path, literal.line, format!("the kind `{}` is written in catalog.rs only", literal.text))
        })
        .collect()
}

/// Every command has a golden of its first version in both encodings, so that old records stay readable.
pub fn goldens(world: &World) -> Vec<Violation> {
    let Some(catalog) = world.rust.get(CATALOG).map(|rust| &rust.product) else {
        return vec![Violation::of(CATALOG, "the catalogue is missing")];
    };
    let Some(block) = catalog.block("commands! {") else {
        return vec![Violation::of(CATALOG, "no `commands! { .. }` lists the commands")];
    };
    let mut missing = Vec::new();
    for literal in catalog.literals.iter().filter(|literal| block.contains(&literal.at) && is_kind(&literal.text)) {
        for encoding in ["json", "avro"] {
            let golden = format!("schemas/golden/{}.v1.{encoding}", literal.text);
            if !world.files.contains_key(&golden) {
                missing.push(Violation::at(CATALOG, literal.line, format!("no {golden}: `make gen` writes it")));
            }
        }
    }
    missing
}

/// Id prefixes are written in `ids.rs` only.
pub fn id_prefixes(world: &World) -> Vec<Violation> {
    let Some(ids) = world.rust.get(IDS) else {
        return vec![Violation::of(IDS, "the ids are missing")];
    };
    let prefixes: Vec<&str> = ids
        .product
        .literals
        .iter()
        .map(|literal| literal.text.as_str())
        .filter(|text| text.strip_suffix('_').is_some_and(is_word))
        .collect();
    literals(world, IDS)
        .filter(|(_, literal)| prefixes.iter().any(|prefix| makes_id(&literal.text, prefix)))
        .map(|(path, literal)| {
            Violation::at(path, literal.line, format!("`{}` makes an id: use its type of ids.rs", literal.text))
        })
        .collect()
}

/// Error codes are written in `code.rs` only.
pub fn codes(world: &World) -> Vec<Violation> {
    let codes = world.rust.get(CODES).map(|rust| variants(&rust.product, "enum Code ")).unwrap_or_default();
    if codes.is_empty() {
        return vec![Violation::of(CODES, "no `enum Code` lists the error codes")];
    }
    literals(world, CODES)
        .filter(|(_, literal)| codes.contains(&literal.text))
        .map(|(path, literal)| {
            Violation::at(path, literal.line, format!("the code `{}` is written in code.rs only", literal.text))
        })
        .collect()
}

/// SQL, and with it the names of tables, is written in the adapters and migrations only.
pub fn sql(world: &World) -> Vec<Violation> {
    world
        .product()
        .filter(|(path, _)| !path.starts_with("adapters/"))
        .flat_map(|(path, source)| source.literals.iter().map(move |literal| (path, literal)))
        .filter(|(_, literal)| is_sql(&literal.text))
        .map(|(path, literal)| Violation::at(path, literal.line, "SQL belongs to the adapters"))
        .collect()
}

/// Topics, keys and channels are made in `names.rs` only.
pub fn topics(world: &World) -> Vec<Violation> {
    let mut stems: Vec<&str> =
        vec!["ringforge.events", "ringforge.fleet.", "ringforge.directory", "ringforge.outcomes", "ringforge.dlq"];
    if let Some(names) = world.rust.get(NAMES) {
        stems.extend(names.product.literals.iter().filter_map(|literal| stem(&literal.text)));
    }
    literals(world, NAMES)
        .filter(|(_, literal)| stems.iter().any(|stem| literal.text.starts_with(stem)))
        .map(|(path, literal)| {
            Violation::at(path, literal.line, format!("`{}` is a name of ports/src/names.rs", literal.text))
        })
        .collect()
}

/// Bounds are constants of `limits.rs`.
pub fn bounds(world: &World) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, source) in world.product().filter(|(path, _)| *path != LIMITS) {
        for (line, rest) in source.word("const") {
            let name = leading_name(&rest);
            let bounds = name.split('_').any(|word| matches!(word, "MAX" | "LIMIT"));
            let is_offset = path == POSITION && name == "LIMIT";
            if bounds && !is_offset && name.chars().all(|c| !c.is_lowercase()) {
                found.push(Violation::at(path, line, format!("`{name}` is a bound: it belongs to limits.rs")));
            }
        }
    }
    found
}

/// All kinds of the catalogue.
fn kinds_of(world: &World) -> Result<Vec<String>, Violation> {
    let catalog = world.rust.get(CATALOG).ok_or_else(|| Violation::of(CATALOG, "the catalogue is missing"))?;
    let texts = catalog.product.literals.iter().map(|literal| literal.text.clone());
    let kinds: Vec<String> = texts.filter(|text| is_kind(text)).collect();
    if kinds.is_empty() { Err(Violation::of(CATALOG, "the catalogue lists no kind")) } else { Ok(kinds) }
}

/// The literals of shipped code outside `home`.
fn literals<'a>(world: &'a World, home: &'a str) -> impl Iterator<Item = (&'a str, &'a Literal)> {
    world
        .product()
        .filter(move |(path, _)| *path != home && !path.contains("/generated/"))
        .flat_map(|(path, source)| source.literals.iter().map(move |literal| (path, literal)))
}

/// `word.word`, and neither a file nor a host.
fn is_kind(text: &str) -> bool {
    let mut words = text.split('.');
    let (area, action) = (words.next(), words.next());
    area.is_some_and(is_word) && action.is_some_and(is_word) && words.next().is_none() && !has_extension(text, "rs")
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

/// Whether a literal is a bare prefix, or puts something behind one.
fn makes_id(text: &str, prefix: &str) -> bool {
    let filled = format!("{prefix}{{");
    text == prefix
        || text.match_indices(&filled).any(|(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

fn is_sql(text: &str) -> bool {
    let text = text.trim_start().trim_start_matches(['\\', 'n', ' ']);
    let starts = ["SELECT ", "INSERT INTO ", "INSERT OR ", "DELETE FROM ", "CREATE TABLE ", "CREATE INDEX ", "PRAGMA "];
    starts.iter().any(|start| text.starts_with(start)) || (text.starts_with("UPDATE ") && text.contains(" SET "))
}

/// The fixed beginning of a name, if it is long enough to be told from ordinary text.
fn stem(text: &str) -> Option<&str> {
    let fixed = text.split('{').next().unwrap_or_default();
    let separated = fixed.contains([':', '.', '/']) && fixed.chars().any(char::is_alphabetic);
    (fixed.len() >= 3 && separated && !fixed.contains(' ')).then_some(fixed)
}

/// The variants of an enum, in snake case.
fn variants(source: &Source, opening: &str) -> Vec<String> {
    let Some(block) = source.block(opening) else { return Vec::new() };
    let text: String = source.code[block].iter().collect();
    let body = text.split_once('{').map_or("", |(_, body)| body).trim_end_matches('}');
    body.split(',').map(leading_name).filter(|name| !name.is_empty()).map(|name| snake(&name)).collect()
}

fn snake(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.extend(c.to_lowercase());
    }
    text
}
