//! The rules of the house as tests over the sources and `cargo metadata`. Each rule also meets a small bad world, which
//! shows that it can fail. A rule is mended in the code that breaks it, not here.

#[path = "tidy/circles.rs"]
mod circles;
#[path = "tidy/layout.rs"]
mod layout;
#[path = "tidy/names.rs"]
mod names;
#[path = "tidy/pages.rs"]
mod pages;
#[path = "tidy/rooms.rs"]
mod rooms;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/world.rs"]
mod world;

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::json;

use crate::world::{Violation, World};

type Rule = fn(&World) -> Vec<Violation>;

static HOUSE: LazyLock<World> = LazyLock::new(World::real);

/// The workspace keeps the rule.
#[track_caller]
fn holds(rule: Rule) {
    let found: Vec<String> = rule(&HOUSE).iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), found.join("\n"));
}

/// The rule finds, in a world of these files, violations at these lines (0: of the whole file) and no others.
#[track_caller]
fn finds(rule: Rule, files: &[(&str, &str)], expected: &[(&str, usize)]) {
    let found = rule(&World::of(files));
    let places: Vec<_> = found.iter().map(|violation| (violation.path.as_str(), violation.line)).collect();
    assert_eq!(places, expected, "{found:?}");
}

const CATALOG: (&str, &str) = (
    "domain/src/catalog.rs",
    "commands! {\n    Set(memory::Set) \"memory.set\",\n}\nqueries! { Get \"memory.get\" }\n",
);
const CODES: (&str, &str) = ("domain/src/code.rs", "pub enum Code {\n    /// Why.\n    NotFound,\n}\n");
const IDS: (&str, &str) = ("domain/src/ids.rs", "id! { AgentId \"ag_\", }\n");

#[test]
fn the_house_is_seen_whole() {
    assert!(HOUSE.metadata["packages"].as_array().is_some_and(|packages| packages.len() >= 10));
    for path in ["Cargo.toml", "Makefile", "domain/src/ids.rs", "ringforge/tests/tidy.rs"] {
        assert!(HOUSE.files.contains_key(path), "{path}");
    }
}

#[test]
fn kinds_are_named_once() {
    holds(names::kinds);
}

#[test]
fn a_second_list_of_kinds_is_found() {
    let edge = "fn f(kind: &str) {\n    if kind == \"memory.set\" {}\n}\n#[cfg(test)]\nmod tests {\n    const A: &str = \"memory.get\";\n}\n";
    let files = [CATALOG, ("ws-edge/src/session.rs", edge), ("ws-edge/tests/a.rs", "const A: &str = \"memory.set\";")];
    finds(names::kinds, &files, &[("ws-edge/src/session.rs", 2)]);
    finds(names::kinds, &[], &[(CATALOG.0, 0)]);
}

#[test]
fn commands_have_goldens() {
    holds(names::goldens);
}

#[test]
fn a_missing_golden_is_found() {
    let json = ("schemas/golden/memory.set.v1.json", "{}");
    finds(names::goldens, &[CATALOG, json], &[(CATALOG.0, 2)]);
    finds(names::goldens, &[CATALOG, json, ("schemas/golden/memory.set.v1.avro", "")], &[]);
}

#[test]
fn id_prefixes_are_named_once() {
    holds(names::id_prefixes);
}

#[test]
fn an_id_made_by_hand_is_found() {
    let gate =
        "const A: &str = \"ag_\";\nlet b = format!(\"ag_{c}\");\nlet d = \"tag_{c} flag_\";\nlet e = \"ag_key\";\n";
    let file = "command-api/src/submit.rs";
    finds(names::id_prefixes, &[IDS, (file, gate)], &[(file, 1), (file, 2)]);
}

#[test]
fn codes_are_named_once() {
    holds(names::codes);
}

#[test]
fn a_code_written_elsewhere_is_found() {
    let file = "query-api/src/answer.rs";
    let text = "let a = \"not_found\";\nlet b = \"it was not_found\"; // \"not_found\"\n";
    finds(names::codes, &[CODES, (file, text)], &[(file, 1)]);
    finds(names::codes, &[], &[(CODES.0, 0)]);
}

#[test]
fn sql_is_in_the_adapters() {
    holds(names::sql);
}

#[test]
fn sql_elsewhere_is_found() {
    let text = "let a = \"SELECT body FROM rows\";\nlet b = \"UPDATE rows SET x = 1\";\nlet c = \"UPDATE the SDK\";\n";
    let files = [("projectors/src/run.rs", text), ("adapters/src/reads/sql.rs", text)];
    finds(names::sql, &files, &[("projectors/src/run.rs", 1), ("projectors/src/run.rs", 2)]);
}

#[test]
fn topics_and_keys_are_named_once() {
    holds(names::topics);
}

#[test]
fn a_topic_written_elsewhere_is_found() {
    let names = "fn fleet() -> String { format!(\"fleet:{scope}\") }\n";
    let hub = "let a = format!(\"fleet:{b}\");\nlet c = \"ringforge.events\";\nlet d = \"the fleet\";\n";
    let files = [("ports/src/names.rs", names), ("ws-edge/src/hub.rs", hub)];
    finds(names::topics, &files, &[("ws-edge/src/hub.rs", 1), ("ws-edge/src/hub.rs", 2)]);
}

#[test]
fn bounds_are_in_one_place() {
    holds(names::bounds);
}

#[test]
fn a_bound_elsewhere_is_found() {
    let text = "const QUEUE_MAX: usize = 1;\nconst LIMIT: u8 = 2;\nconst fn max() {}\nconst MAXIM: u8 = 3;\n";
    let files = [
        ("ws-edge/src/hub.rs", text),
        ("domain/src/limits.rs", text),
        ("domain/src/position.rs", "const LIMIT: u8 = 1;"),
    ];
    finds(names::bounds, &files, &[("ws-edge/src/hub.rs", 1), ("ws-edge/src/hub.rs", 2)]);
}

#[test]
fn files_are_short() {
    holds(layout::length);
}

#[test]
fn a_long_file_is_found() {
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "    //\n".repeat(600));
    let (long, short) = ("//\n".repeat(501), "//\n".repeat(500) + &tests);
    finds(layout::length, &[("a/src/long.rs", &long), ("a/src/short.rs", &short)], &[("a/src/long.rs", 0)]);
}

#[test]
fn files_say_what_they_hold() {
    holds(layout::opening);
}

#[test]
fn a_file_without_a_word_is_found() {
    finds(layout::opening, &[("a/src/a.rs", "fn f() {}"), ("a/src/b.rs", "//! B.")], &[("a/src/a.rs", 1)]);
}

#[test]
fn modules_have_names() {
    holds(layout::module_files);
}

#[test]
fn a_nameless_module_is_found() {
    finds(
        layout::module_files,
        &[("a/src/b/mod.rs", "//! B."), ("a/src/modem.rs", "//! M.")],
        &[("a/src/b/mod.rs", 0)],
    );
}

#[test]
fn macros_are_three() {
    holds(layout::macros);
}

#[test]
fn a_fourth_macro_is_found() {
    let text = "macro_rules! id { () => {} }\nmacro_rules! helper { () => {} }\n";
    finds(layout::macros, &[("a/src/a.rs", text)], &[("a/src/a.rs", 2)]);
}

#[test]
fn nothing_is_unsafe() {
    holds(layout::safety);
}

#[test]
fn unsafe_code_is_found() {
    let text = "#![forbid(unsafe_code)] // unsafe\nfn f() { unsafe { g() } }\n";
    finds(layout::safety, &[("a/tests/a.rs", text)], &[("a/tests/a.rs", 2)]);
}

#[test]
fn silenced_lints_have_a_reason() {
    holds(layout::silenced_lints);
}

#[test]
fn a_lint_silenced_without_reason_is_found() {
    let text = "#[allow(dead_code)]\n#[expect(dead_code, reason = \"soon\")]\n#![expect(\n    dead_code,\n)]\n";
    finds(layout::silenced_lints, &[("a/src/a.rs", text)], &[("a/src/a.rs", 1), ("a/src/a.rs", 3)]);
}

#[test]
fn the_domain_has_no_unordered_sets() {
    holds(layout::unordered_sets);
}

#[test]
fn an_unordered_set_is_found() {
    let text = "use std::collections::HashSet;\nfn schema(_: &mut HashSet<Name>) {}\nlet a = HashSet::new();\n";
    finds(layout::unordered_sets, &[("domain/src/a.rs", text), ("ports/src/a.rs", text)], &[("domain/src/a.rs", 3)]);
}

#[test]
fn no_file_knows_its_machine() {
    holds(layout::machine_paths);
}

#[test]
fn a_path_of_one_machine_is_found() {
    let text = format!("cd {}home/me\ncd ./home/me\ncd a/work/b\n", '/');
    finds(layout::machine_paths, &[("Makefile", &text)], &[("Makefile", 1)]);
}

#[test]
fn goldens_are_only_added() {
    holds(layout::frozen);
}

#[test]
fn a_changed_golden_is_found() {
    let golden = "schemas/golden/memory.set.v1.json".to_owned();
    let world = World::new(BTreeMap::new(), json!(null), vec![golden.clone()]);
    assert_eq!(layout::frozen(&world).first().map(|violation| violation.path.clone()), Some(golden));
}

#[test]
fn pages_name_tests_that_are_there() {
    holds(pages::tests);
}

#[test]
fn a_test_that_is_gone_is_found() {
    let page = "| what | test |\n|---|---|\n| a | `it_is_so`, `a.jsonl` |\n| b | `it_was_so` |\n| c | not yet: later |\n| d | |\n| e | `helper` |\n\n| tests | what |\n|---|---|\n| `it_is_so` | `f` |\n| | `it_is_so` |\n";
    let test = "fn helper() {}\n#[tokio::test(flavor = \"x\")]\nasync fn it_is_so() {}\n";
    let files = [("docs/limits.md", page), ("a/src/a.rs", test), ("ringforge/tests/scenarios/a.jsonl", "")];
    finds(pages::tests, &files, &[4, 6, 7, 12].map(|line| ("docs/limits.md", line)));
}

#[test]
fn rooms_depend_downwards() {
    holds(rooms::dependencies);
}

#[test]
fn a_forbidden_dependency_is_found() {
    let uses = |name: &str, dependencies: &[(&str, &str)]| {
        let dependencies: Vec<_> =
            dependencies.iter().map(|(name, kind)| json!({"name": name, "kind": kind})).collect();
        json!({"name": name, "dependencies": dependencies})
    };
    let packages = [
        uses("ringforge-domain", &[("serde", ""), ("tokio", ""), ("proptest", "dev")]),
        uses("ringforge-query-api", &[("ringforge-adapters", "dev"), ("sqlx", "dev"), ("moka", "")]),
        uses("ringforge-adapters", &[("sqlx", ""), ("aws-sdk-s3", ""), ("ringforge-command-api", "")]),
        uses("ringforge-ws-edge", &[("ringforge-query-api", ""), ("ringforge-projectors", "")]),
        uses("ringforge-utils", &[]),
        uses("ringforge", &[("ringforge-sim", "dev"), ("ringforge-loadtest", "dev")]),
        uses("ringforge-projectors", &[("ringforge-sim", "dev")]),
    ];
    let found = rooms::dependencies(&World::new(BTreeMap::new(), json!({"packages": packages}), Vec::new()));
    let whats: Vec<_> = found.iter().map(|violation| violation.what.split('`').nth(1).unwrap_or_default()).collect();
    assert_eq!(
        whats,
        [
            "tokio",
            "ringforge-adapters",
            "sqlx",
            "ringforge-command-api",
            "ringforge-projectors",
            "ringforge-utils",
            "ringforge-loadtest",
            "ringforge-sim"
        ]
    );
}

#[test]
fn no_crate_has_circles() {
    holds(circles::none);
}

#[test]
fn a_circle_is_found() {
    let files = [
        ("domain/src/catalog.rs", "use crate::{\n    ids::{self, Id},\n    memory::{Set, op::Op},\n};\n"),
        (
            "domain/src/memory.rs",
            "mod op;\npub use op::Op;\nuse crate::ids::Id;\n#[cfg(test)]\nuse crate::catalog::Command;\n",
        ),
        ("domain/src/memory/op.rs", "use super::Set;\nfn f() {\n    crate::row::put();\n}\n"),
        ("domain/src/memory/tests.rs", "use crate::catalog::Command;\n"),
        ("domain/src/row.rs", "//! `crate::ids`\nuse crate::{ids, memory};\n"),
        ("domain/src/ids.rs", "pub struct Id;\n"),
    ];
    finds(circles::none, &files, &[("domain/src/memory/op.rs", 3), ("domain/src/row.rs", 2)]);
}

#[test]
fn versions_are_in_the_root() {
    holds(rooms::manifests);
}

#[test]
fn a_version_in_a_member_is_found() {
    let good = "[dependencies]\nserde.workspace = true\nuuid = { workspace = true, features = [\"v4\"] }\n[lints]\nworkspace = true\n";
    let bad = "[dev-dependencies]\nserde = \"1\"\n";
    let files =
        [("Cargo.toml", "[workspace.dependencies]\nserde = \"1\"\n"), ("a/Cargo.toml", bad), ("b/Cargo.toml", good)];
    finds(rooms::manifests, &files, &[("a/Cargo.toml", 0), ("a/Cargo.toml", 0)]);
}

#[test]
fn three_files_append() {
    holds(rooms::appends);
}

#[test]
fn a_fourth_appender_is_found() {
    let text = "log\n    .append(partition, records).await?;\nlist.append(&mut other);\nfile.append(true);\n";
    let files = [("ws-edge/src/socket.rs", text), ("command-api/src/submit.rs", text), ("sim/src/lib.rs", text)];
    finds(rooms::appends, &files, &[("ws-edge/src/socket.rs", 2)]);
}

#[test]
fn one_file_commits() {
    holds(rooms::commits);
}

#[test]
fn a_second_committer_is_found() {
    let text = "reads.commit(&commits).await?;\n";
    let files = [("projectors/src/timers.rs", text), ("projectors/src/run.rs", text), ("adapters/src/a.rs", text)];
    finds(rooms::commits, &files, &[("projectors/src/timers.rs", 1)]);
}
