//! What scripts and operators may rely on: the options, the ready line, the files, the refusals, health, the end.

#![allow(clippy::disallowed_methods, reason = "a test runs on the machine's clock")]

#[path = "support/cluster.rs"]
mod cluster;
#[path = "start_contract/doors.rs"]
mod doors;
#[path = "start_contract/refusals.rs"]
mod refusals;
#[path = "start_contract/servers.rs"]
mod servers;
#[path = "start_contract/silence.rs"]
mod silence;
#[path = "support.rs"]
mod support;

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use support::{Client, Got, Options, SOON, Server};

/// The end, from SIGTERM on.
const END: Duration = Duration::from_secs(10);

fn names(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn acme() -> Options {
    let fleets = vec!["default".to_owned(), "research".to_owned()];
    Options { tenants: vec![("acme".to_owned(), fleets)], ..Options::default() }
}

#[test]
fn the_ready_line_has_exactly_its_fields() {
    let server = Server::start(acme());
    let ready = &server.ready;
    let wanted = ["operator_key", "ready", "ready_ms", "rest_url", "tenants", "version", "ws_url"];
    assert_eq!(names(ready), wanted.into());
    assert_eq!(ready["ready"], true);
    assert_eq!(ready["version"], env!("CARGO_PKG_VERSION"));
    assert!(ready["ready_ms"].is_u64());
    let address = ready["rest_url"].as_str().and_then(|url| url.strip_prefix("http://")).expect("an http address");
    assert!(address.starts_with("127.0.0.1:") && !address.ends_with(":0"), "{address}");
    assert_eq!(ready["ws_url"], format!("ws://{address}/ws"));
    let operator = ready["operator_key"].as_str().expect("a key");
    assert!(operator.starts_with("rf_admin_"), "an operator key");
    let [tenant] = ready["tenants"].as_array().expect("tenants").as_slice() else { panic!("one tenant: {ready}") };
    assert_eq!(names(tenant), ["admin_key", "fleets", "id", "name"].into());
    assert_eq!(tenant["name"], "acme");
    assert!(tenant["id"].as_str().is_some_and(|id| id.starts_with("tn_")));
    assert!(tenant["admin_key"].as_str().is_some_and(|key| key.starts_with("rf_admin_")));
    let fleets = tenant["fleets"].as_array().expect("fleets");
    assert_eq!(fleets.iter().map(|fleet| &fleet["slug"]).collect::<Vec<_>>(), ["default", "research"]);
    for fleet in fleets {
        assert_eq!(names(fleet), ["agent_key", "id", "slug"].into());
        assert!(fleet["id"].as_str().is_some_and(|id| id.starts_with("fl_")));
        assert!(fleet["agent_key"].as_str().is_some_and(|key| key.starts_with("rf_live_")));
    }
}

#[test]
fn without_a_bootstrap_there_is_dev_with_the_fleet_default() {
    let server = Server::plain();
    let tenants = server.ready["tenants"].as_array().expect("tenants");
    assert_eq!(tenants.len(), 1);
    assert_eq!(tenants[0]["name"], "dev");
    let fleets = tenants[0]["fleets"].as_array().expect("fleets");
    assert_eq!(fleets.iter().map(|fleet| &fleet["slug"]).collect::<Vec<_>>(), ["default"]);
}

#[tokio::test]
async fn a_restart_prints_the_same_tenants_and_the_keys_go_on_working() {
    let mut server = Server::start(acme());
    let (tenants, operator) = (server.ready["tenants"].clone(), server.ready["operator_key"].clone());
    assert_eq!(server.terminate(), Some(0));
    server.restart();
    assert_eq!(server.ready["tenants"], tenants);
    assert_eq!(server.ready["operator_key"], operator);
    server.kill9();
    server.restart();
    assert_eq!(server.ready["tenants"], tenants);
    // Kept even when the bootstrap file is no longer given, or names more.
    server.kill9();
    server.with_options(|options| options.tenants.clear());
    server.restart();
    assert_eq!(server.ready["tenants"], tenants);
    for slug in ["default", "research"] {
        let (client, welcome) = Client::enter(server.ws_url(), server.key("acme", slug), "a", json!({})).await;
        assert_eq!(welcome["fleet"]["name"], slug);
        assert_eq!(welcome["fleet"]["id"], server.fleet("acme", slug)["id"]);
        client.close().await;
    }
}

#[test]
fn keys_are_kept_for_the_owners_eyes_only() {
    let server = Server::plain();
    let path = server.data().join("credentials.json");
    let mode = fs::metadata(&path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "mode {mode:o}");
    assert!(fs::read_to_string(path).expect("it reads").contains(server.first_key()));
}

#[test]
fn stdout_is_one_line_with_json_and_a_block_without() {
    let home = tempfile::tempdir().expect("a temporary directory");
    for json in [true, false] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringforge"));
        command
            .args(["all", "--port", "0", "--bind", "127.0.0.1", "--no-demo", "--data"])
            .arg(home.path().join("data"));
        if json {
            command.arg("--json");
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let mut reader = BufReader::new(child.stdout.take().expect("piped"));
        let mut text = String::new();
        reader.read_line(&mut text).expect("it says something");
        let id = child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().is_ok_and(|status| status.success()));
        reader.read_to_string(&mut text).expect("the rest");
        assert_eq!(child.wait().expect("it ends").code(), Some(0));
        if json {
            assert_eq!(text.lines().count(), 1, "{text}");
            assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON")["ready"], true);
        } else {
            block(&text);
        }
    }
}

/// Readable, aligned, with addresses and keys.
fn block(text: &str) {
    for wanted in
        ["ws://127.0.0.1:", "/ws", "http://127.0.0.1:", "rf_admin_", "rf_live_", "dev", "default", "RingForge"]
    {
        assert!(text.contains(wanted), "no {wanted} in:\n{text}");
    }
    let column = |line: &str| {
        let label = line.find("  ").map(|_| line.trim_start());
        label.and_then(|label| label.find("  ").or(label.find(" rf_"))).map(|_| line.len() - value_of(line).len())
    };
    let columns: BTreeSet<usize> = text.lines().skip(1).filter_map(column).collect();
    assert_eq!(columns.len(), 1, "values begin in one column:\n{text}");
    assert!(text.lines().all(|line| line == line.trim_end()), "no trailing blanks:\n{text}");
}

/// What stands after the label.
fn value_of(line: &str) -> &str {
    let values = ["ws://", "http://", "rf_admin_", "rf_live_", "dev  ", "default  "];
    values.iter().filter_map(|value| line.find(value)).min().map_or("", |at| &line[at..])
}

#[tokio::test]
async fn sigterm_says_goodbye_and_ends_with_everything_kept() {
    let mut server = Server::plain();
    let (mut client, _) = Client::enter(server.ws_url(), server.first_key(), "a", json!({})).await;
    let set = json!({ "type": "memory", "action": "set", "key": "kept", "value": 1, "ref": 1 });
    assert_eq!(client.ask(&set).await["event"], "set_ok");
    let idle = Client::connect(server.ws_url()).await;
    let since = Instant::now();
    let reading = tokio::spawn(async move {
        let maintenance = client.frame_where(|frame| frame["type"] == "system").await;
        assert_eq!(maintenance["event"], "maintenance");
        assert!(maintenance["reconnect_after_ms"].is_u64(), "{maintenance}");
        assert_eq!(client.next(SOON).await, Got::Closed(1012));
    });
    let (code, mut server) = tokio::task::spawn_blocking(move || (server.terminate(), server)).await.expect("it ends");
    assert_eq!(code, Some(0));
    assert!(since.elapsed() < END, "it took {:?}", since.elapsed());
    reading.await.expect("it said goodbye");
    drop(idle);
    server.restart();
    let (mut client, _) = Client::enter(server.ws_url(), server.first_key(), "a", json!({})).await;
    let get = json!({ "type": "memory", "action": "get", "key": "kept", "ref": 2 });
    assert_eq!(client.ask(&get).await["entry"]["value"], 1);
}

#[test]
fn help_names_every_option() {
    let said = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_ringforge")).args(arguments).output().expect("it runs");
        assert!(output.status.success());
        String::from_utf8(output.stdout).expect("text")
    };
    let all = said(&["all", "--help"]);
    for option in [
        "--data <DIR>",
        "--port <N>",
        "--bind <ADDR>",
        "--bootstrap <FILE.toml>",
        "--config <FILE>",
        "--json",
        "--no-demo",
    ] {
        assert!(all.contains(option), "no {option} in:\n{all}");
    }
    let top = said(&["--help"]);
    assert!(top.contains("all") && !top.contains("gen "), "{top}");
    for text in [&all, &top] {
        assert!(text.lines().all(|line| line.chars().count() <= 120), "lines fit a terminal:\n{text}");
    }
    assert!(said(&["--version"]).contains(env!("CARGO_PKG_VERSION")));
}
