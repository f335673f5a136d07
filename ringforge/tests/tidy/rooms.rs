//! Who may depend on whom, and who may call the two writers.

use serde_json::Value;

use crate::world::{Violation, World};

/// What a package may use.
struct Room {
    name: &'static str,
    /// Packages of the workspace.
    rooms: &'static [&'static str],
    /// The crates from outside, if they are listed; else any that is not a vendor's.
    crates: Option<&'static [&'static str]>,
}

const DOMAIN: &str = "ringforge-domain";
const PORTS: &str = "ringforge-ports";
const ADAPTERS: &str = "ringforge-adapters";
const COMMAND_API: &str = "ringforge-command-api";
const PROJECTORS: &str = "ringforge-projectors";
const QUERY_API: &str = "ringforge-query-api";
const WS_EDGE: &str = "ringforge-ws-edge";
const BINARY: &str = "ringforge";
/// Agents and checkers: the tests of the binary use them as well.
const SIM: &str = "ringforge-sim";

const ROOMS: [Room; 10] = [
    Room {
        name: DOMAIN,
        rooms: &[],
        crates: Some(&["serde", "serde_json", "apache-avro", "thiserror", "blake3", "jiff"]),
    },
    Room {
        name: PORTS,
        rooms: &[DOMAIN],
        crates: Some(&[
            "async-trait",
            "bytes",
            "futures-util",
            "serde",
            "serde_json",
            "sha2",
            "tokio",
            "tokio-stream",
            "uuid",
            "thiserror",
        ]),
    },
    Room { name: ADAPTERS, rooms: &[DOMAIN, PORTS], crates: None },
    Room { name: COMMAND_API, rooms: &[DOMAIN, PORTS], crates: None },
    Room { name: PROJECTORS, rooms: &[DOMAIN, PORTS], crates: None },
    Room { name: QUERY_API, rooms: &[DOMAIN, PORTS], crates: None },
    Room { name: WS_EDGE, rooms: &[DOMAIN, PORTS, COMMAND_API, QUERY_API], crates: None },
    Room { name: BINARY, rooms: &[DOMAIN, PORTS, ADAPTERS, COMMAND_API, PROJECTORS, QUERY_API, WS_EDGE], crates: None },
    Room { name: SIM, rooms: &[DOMAIN, PORTS, COMMAND_API, PROJECTORS, QUERY_API, WS_EDGE], crates: None },
    Room { name: "ringforge-loadtest", rooms: &[DOMAIN], crates: None },
];

/// Clients of the services behind the ports.
const VENDORS: [&str; 9] =
    ["rusqlite", "sqlx", "libsqlite3-sys", "rdkafka", "redis", "tokio-postgres", "object_store", "fjall", "rocksdb"];

/// The dependency table of ARCHITECTURE.md.
pub fn dependencies(world: &World) -> Vec<Violation> {
    let mut found = Vec::new();
    for package in list(&world.metadata, "packages") {
        let name = text(package, "name");
        let path = format!("{}/Cargo.toml", name.strip_prefix("ringforge-").unwrap_or(name));
        let Some(room) = ROOMS.iter().find(|room| room.name == name) else {
            found.push(Violation::of(&path, format!("`{name}` is not a room of the house")));
            continue;
        };
        for dependency in list(package, "dependencies") {
            let refused = refused(room, dependency);
            found.extend(refused.map(|why| Violation::of(&path, format!("`{}` {why}", text(dependency, "name")))));
        }
    }
    found
}

/// Versions stand in the root's table, lints in the root's list.
pub fn manifests(world: &World) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, manifest) in world.files.iter().filter(|(path, _)| path.ends_with("/Cargo.toml")) {
        let Ok(table) = manifest.parse::<toml::Table>() else {
            found.push(Violation::of(path, "is not TOML"));
            continue;
        };
        if !inherits(table.get("lints")) {
            found.push(Violation::of(path, "`[lints] workspace = true` is missing"));
        }
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let entries = table.get(kind).and_then(toml::Value::as_table).into_iter().flatten();
            for (name, _) in entries.filter(|(_, entry)| !inherits(Some(entry))) {
                found.push(Violation::of(
                    path,
                    format!("`{name}`: the version belongs to the root, here `workspace = true`"),
                ));
            }
        }
    }
    found
}

/// Only gate, router and timers append.
pub fn appends(world: &World) -> Vec<Violation> {
    let allowed = ["command-api/src/submit.rs", "projectors/src/router.rs", "projectors/src/timers.rs"];
    let mut found = Vec::new();
    for (path, source) in world.product().filter(|(path, _)| !is_exempt(path) && !allowed.contains(path)) {
        for call in [".append(", "Log::append("] {
            for (line, rest) in source.after(call) {
                // `Vec::append` takes `&mut`, `OpenOptions::append` a bool.
                if !["&mut ", "true)", "false)"].iter().any(|other| rest.trim_start().starts_with(other)) {
                    found.push(Violation::at(path, line, "only submit.rs, router.rs and timers.rs append to the log"));
                }
            }
        }
    }
    found
}

/// Only the projector commits, and what read models begin with.
pub fn commits(world: &World) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, source) in world.product() {
        if is_exempt(path) || ["projectors/src/run.rs", "projectors/src/checkpoint/restore.rs"].contains(&path) {
            continue;
        }
        for call in [".commit(", "Reads::commit("] {
            let calls = source.after(call);
            found.extend(
                calls.into_iter().map(|(line, _)| Violation::at(path, line, "only run.rs and restore.rs commit rows")),
            );
        }
    }
    found
}

/// The ports' own side, and the world that simulation builds.
fn is_exempt(path: &str) -> bool {
    ["adapters/", "ports/", "sim/"].iter().any(|room| path.starts_with(room))
}

fn refused(room: &Room, dependency: &Value) -> Option<String> {
    let name = text(dependency, "name");
    let is_dev = dependency["kind"] == "dev";
    let is_vendor = VENDORS.contains(&name) || name.starts_with("aws-");
    if name.starts_with("ringforge") {
        let known = room.rooms.contains(&name) || (is_dev && (room.name, name) == (BINARY, SIM));
        return (!known).then(|| format!("is a room that `{}` must not know", room.name));
    }
    if is_vendor && room.name != ADAPTERS {
        return Some("is a vendor's client: only `ringforge-adapters` has those".to_owned());
    }
    match room.crates {
        Some(crates) if !is_dev && !crates.contains(&name) => Some(format!("is not on the list of `{}`", room.name)),
        _ => None,
    }
}

fn inherits(entry: Option<&toml::Value>) -> bool {
    entry.and_then(|entry| entry.get("workspace")).and_then(toml::Value::as_bool) == Some(true)
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value[name].as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}
