//! A data directory that is damaged, full, read-only or mixed up: the server serves what is whole, or says what is wrong and
//! which command mends it. Read models are made anew.

#![allow(clippy::disallowed_methods, reason = "a test runs on the machine's clock")]

#[path = "damaged_data/agent.rs"]
mod agent;
#[path = "damaged_data/mounted.rs"]
mod mounted;
#[path = "support.rs"]
mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use agent::{KEYS, answers, enter, value, write};
use mounted::Mounted;
use ringforge_ports::names;
use serde_json::{Value, json};
use support::{Client, Got, SOON, Server};

/// Bytes of a page of the read models.
const PAGE: usize = 4_096;
/// Records that are verified when a log is opened, and some.
const NEWEST: usize = 1_100;

/// A stopped server to whose log so much was written, what was acknowledged, and what it answers.
async fn written(count: usize) -> (Server, Vec<Value>, Vec<Value>) {
    let mut server = Server::plain();
    let mut client = enter(&server, "writer").await;
    let mut acks = Vec::new();
    for from in (0..count).step_by(50) {
        acks.extend(write(&mut client, from, (from + 50).min(count)).await);
    }
    client.close().await;
    let told = answers(&server).await.expect("it answers");
    assert_eq!(server.terminate(), Some(0));
    (server, acks, told)
}

fn log_of(server: &Server) -> PathBuf {
    server.data().join(names::LOG_FILE)
}

fn reads_of(server: &Server) -> PathBuf {
    let files = fs::read_dir(server.data()).expect("the data directory").map(|file| file.expect("a file").path());
    let reads = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("reads-"))
            && path.extension().is_some_and(|extension| extension == "db")
    };
    files.filter(reads).collect::<Vec<_>>().pop().expect("there are read models")
}

/// Flips a bit of what the `number`th write put into a file, wherever that stands.
fn flip(path: &Path, number: usize) {
    let (mut bytes, wanted) = (fs::read(path).expect("the file"), value(number));
    let is_there = |at: &usize| bytes[*at..].starts_with(wanted.as_bytes());
    let places: Vec<usize> = (0..bytes.len()).filter(is_there).collect();
    assert!(!places.is_empty(), "{wanted} is not in the file");
    for at in places {
        bytes[at + 4] ^= 1;
    }
    fs::write(path, bytes).expect("the file");
}

/// The command that a message names, run.
fn run(message: &str, command: &str) -> Output {
    let from = message.find(&format!("ringforge {command}")).unwrap_or_else(|| panic!("no {command} in: {message}"));
    let text = message[from..].split('`').next().expect("it ends");
    let output = Command::new(env!("CARGO_BIN_EXE_ringforge")).args(text.split(' ').skip(1)).output();
    output.expect("it runs")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn a_damaged_log_is_refused_and_the_command_that_is_named_repairs_it() {
    let (mut server, acks, _) = written(40).await;
    flip(&log_of(&server), 25);
    let damaged = fs::read(log_of(&server)).expect("the log");
    let message = server.try_restart().expect_err("it is refused");
    let position = acks[25]["position"].as_u64().expect("a position");
    let place = format!("partition 1 offset {position}: the checksum differs");
    assert!(message.contains("damaged") && message.contains(&place), "{message}");
    assert!(message.contains("backup") && message.contains("--data"), "{message}");

    let check = format!("ringforge log check --data {}`", server.data().display());
    let checked = run(&check, "log check");
    assert!(!checked.status.success() && said(&checked).contains(&place), "{}", said(&checked));
    assert_eq!(fs::read(log_of(&server)).expect("the log"), damaged, "looking changes nothing");
    let repaired = run(&message, "log repair");
    assert!(repaired.status.success(), "{}", said(&repaired));
    assert!(said(&repaired).contains(&format!("partition 1: {position} records are whole")), "{}", said(&repaired));
    assert!(said(&repaired).contains("log.db.damaged-1"), "{}", said(&repaired));
    assert_eq!(fs::read(server.data().join("log.db.damaged-1")).expect("it is kept"), damaged);
    assert!(run(&check, "log check").status.success());

    server.restart();
    let told = answers(&server).await.expect("it answers");
    let told: String = told.iter().map(ToString::to_string).collect();
    for number in 0..40 {
        assert_eq!(told.contains(&value(number)), number < 25, "write {number}: {told}");
    }
    let more = json!({ "presence": "none", "last_event_id": acks[30]["event_id"] });
    let (mut client, _) = Client::enter(server.ws_url(), server.first_key(), "late", more).await;
    let resumed = client.frame_where(|frame| frame["event"] == "resumed").await;
    assert_eq!(resumed["recovered"], false, "what it saw is cut off: {resumed}");
    write(&mut client, 40, 50).await;
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test]
async fn damage_that_a_start_does_not_meet_is_named_when_it_is_met() {
    let (mut server, acks, _) = written(NEWEST).await;
    flip(&log_of(&server), 3);
    server.restart();
    let mut client = enter(&server, "reader").await;
    let history = json!({ "type": "memory", "action": "history", "key": "key 003", "limit": 100, "ref": 1 });
    let refused = client.ask(&history).await;
    assert_eq!(refused["type"], "error", "nothing wrong is told: {refused}");
    write(&mut client, NEWEST, NEWEST + 5).await;
    let place = format!("partition 1 offset {}: the checksum differs", acks[3]["position"]);
    assert!(server.stderr().contains(&place), "{}", server.stderr());
    assert_eq!(server.terminate(), Some(0));

    // Read models are made of all of it.
    fs::remove_file(reads_of(&server)).expect("they are deleted");
    let message = server.try_restart().expect_err("they cannot be made");
    let message = message.lines().rfind(|line| line.starts_with("ringforge: ")).expect("it says why");
    assert!(message.contains(&place), "{message}");
    let repaired = run(message, "log repair");
    assert!(repaired.status.success(), "{}", said(&repaired));
    server.restart();
    answers(&server).await.expect("it answers");
}

/// The answers are the same.
fn same(name: &str, found: &[Value], wanted: &[Value]) {
    let differs = (0..found.len().max(wanted.len())).find(|at| found.get(*at) != wanted.get(*at));
    if let Some(at) = differs {
        panic!("{name}: answer {at} is\n{:?}, not\n{:?}", found.get(at), wanted.get(at));
    }
}

/// Damages the read models of a server in many ways, those that it closed or (without a sum) those that it left: it answers
/// as before, after a restart at the latest.
async fn read_models_are_made_anew(server: &mut Server, told: &[Value], damages: Damages, closed: bool) {
    let path = reads_of(server);
    let sum = fs::read(path.with_extension("sum"));
    for (name, bytes) in damages {
        fs::write(&path, bytes).expect("they are damaged");
        if closed {
            fs::write(path.with_extension("sum"), sum.as_ref().expect("a sum")).expect("they were closed");
        }
        let mut lives = 0;
        loop {
            lives += 1;
            assert!(lives <= 3, "{name}: it does not mend itself:\n{}", server.stderr());
            if server.try_restart().is_err() {
                continue;
            }
            if let Some(answers) = answers(server).await {
                same(&name, &answers, told);
                break;
            }
            assert_eq!(server.ended(), Some(1), "{name}: it ends, to be started again");
        }
        assert!(!closed || lives == 1, "{name}: it was not noticed at the start");
        server.kill9();
        for suffix in ["-wal", "-shm"] {
            let mut file = path.clone().into_os_string();
            file.push(suffix);
            let _ = fs::remove_file(file);
        }
    }
}

type Damages = Vec<(String, Vec<u8>)>;

/// Every `step`th page zeroed, its header damaged, the file cut off there.
fn pages_damaged(whole: &[u8], step: usize) -> Damages {
    let mut damages = vec![
        ("a letter".to_owned(), b"Dear reader, ".repeat(900)),
        ("emptied".to_owned(), Vec::new()),
        ("ten bytes".to_owned(), whole[..10].to_vec()),
    ];
    for page in (0..whole.len() / PAGE).step_by(step) {
        let mut bytes = whole.to_vec();
        bytes[page * PAGE..(page + 1) * PAGE].fill(0);
        damages.push((format!("page {page} zeroed"), bytes));
        let mut bytes = whole.to_vec();
        bytes[page * PAGE] ^= 0x45;
        damages.push((format!("page {page} of another kind"), bytes));
        damages.push((format!("cut off in page {page}"), whole[..page * PAGE + 700].to_vec()));
    }
    damages
}

/// A bit flipped somewhere in every `step`th page.
fn bits_flipped(whole: &[u8], step: usize) -> Damages {
    let flipped = |page: usize| {
        let (mut bytes, at) = (whole.to_vec(), page * PAGE + page * 1_009 % PAGE);
        bytes[at] ^= 1 << (page % 8);
        (format!("bit flipped in byte {at}"), bytes)
    };
    (0..whole.len() / PAGE).step_by(step).map(flipped).collect()
}

async fn damaged_read_models(step: usize) {
    let (mut server, _, told) = written(60).await;
    let whole = fs::read(reads_of(&server)).expect("the read models");
    read_models_are_made_anew(&mut server, &told, bits_flipped(&whole, step), true).await;
    read_models_are_made_anew(&mut server, &told, pages_damaged(&whole, step), false).await;
}

#[tokio::test]
async fn damaged_read_models_are_made_anew() {
    damaged_read_models(19).await;
}

#[tokio::test]
#[ignore = "long: make proof"]
async fn read_models_with_any_page_damaged_are_made_anew() {
    damaged_read_models(1).await;
}

#[tokio::test]
async fn read_models_of_a_newer_version_or_with_half_a_write_ahead_log_are_made_anew() {
    let (mut server, _, told) = written(60).await;
    let path = reads_of(&server);
    let wal = path.with_extension("db-wal");
    for length in [31, 5_000] {
        server.restart();
        let mut client = enter(&server, "writer").await;
        write(&mut client, 0, 60).await;
        server.kill9();
        let bytes = fs::read(&wal).expect("a write-ahead log");
        fs::write(&wal, &bytes[..length.min(bytes.len())]).expect("it is cut");
        server.restart();
        let now = answers(&server).await.expect("it answers");
        assert_eq!(now.len(), told.len() + 60 * (1 + usize::from(length == 5_000)), "every write is replayed");
        assert_eq!(server.terminate(), Some(0));
    }
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_written_is_named() {
    let (mut server, _, told) = written(10).await;
    let test = "a_data_directory_that_cannot_be_written_is_named";
    let Some(mounted) = Mounted::over(&server.data(), 64 << 20, test) else { return };
    mounted.again("ro");
    let message = server.try_restart().expect_err("it cannot write");
    assert!(message.contains("cannot be written") && message.contains("--data"), "{message}");
    mounted.again("rw");
    server.restart();
    same("written again", &answers(&server).await.expect("it answers"), &told);
}

#[tokio::test]
async fn a_full_disk_ends_the_server_and_loses_nothing() {
    let (mut server, _, _) = written(10).await;
    let test = "a_full_disk_ends_the_server_and_loses_nothing";
    let Some(mounted) = Mounted::over(&server.data(), 3 << 20, test) else { return };
    server.restart();
    let mut client = enter(&server, "writer").await;
    let (mut acked, mut refused) = (Vec::new(), Vec::new());
    for number in 0.. {
        let set = json!({ "type": "memory", "action": "set", "key": format!("big/{number}"), "ref": number,
            "value": "x".repeat(20_000) });
        client.send(&set).await;
        match client.next(SOON).await {
            Got::Frame(frame) if frame["event"] == "set_ok" => acked.push(frame["ref"].clone()),
            Got::Frame(frame) if frame["outcome"] == "none" => refused.push(frame["ref"].clone()),
            Got::Frame(frame) if frame["type"] == "error" => assert_eq!(frame["outcome"], "unknown", "{frame}"),
            Got::Frame(frame) => {
                assert!(["roster", "maintenance"].contains(&frame["event"].as_str().unwrap_or("?")), "{frame}");
            }
            Got::Closed(_) => break,
            Got::Nothing => panic!("neither answered nor ended"),
        }
        assert!(number < 1_000, "the disk is not full");
    }
    assert_eq!(server.ended(), Some(1), "it ends");
    let said = server.stderr();
    assert!(said.contains("ringforge: the log cannot be written") && said.contains("start again"), "{said}");
    assert!(acked.len() > 10, "{acked:?}");
    // What is left of the write-ahead logs may be room enough.
    match server.try_restart() {
        Ok(()) => server.kill9(),
        Err(message) => assert!(message.contains("full") || message.contains("space"), "{message}"),
    }

    mounted.again("size=64m");
    server.restart();
    let mut client = enter(&server, "reader").await;
    for (numbers, wanted) in [(acked, "entry"), (refused, "not_found")] {
        for number in numbers {
            let get = json!({ "type": "memory", "action": "get", "key": format!("big/{number}"), "ref": 1 });
            let entry = client.ask(&get).await;
            assert!(entry["event"] == wanted || entry["code"] == wanted, "{number}: {wanted}, not {entry}");
        }
    }
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test]
async fn the_log_of_another_directory_shows_nothing_of_it() {
    let (mut one, _, told) = written(20).await;
    let (other, _, _) = written(30).await;
    let own = fs::read(log_of(&one)).expect("the log");
    fs::copy(log_of(&other), log_of(&one)).expect("it is mixed up");
    one.restart();
    let seen = answers(&one).await.expect("it answers");
    let seen: String = seen.iter().map(ToString::to_string).collect();
    assert!(!seen.contains("<<value"), "another tenant's: {seen}");
    let mut client = enter(&one, "writer").await;
    write(&mut client, 0, KEYS).await;
    client.close().await;
    assert_eq!(one.terminate(), Some(0));
    fs::write(log_of(&one), own).expect("it is put right");
    one.restart();
    same("put right", &answers(&one).await.expect("it answers"), &told);
}

#[tokio::test]
async fn a_start_that_is_refused_leaves_the_files_as_they_are() {
    let (mut server, _, _) = written(10).await;
    flip(&log_of(&server), 4);
    let files = |data: &Path| -> Vec<(PathBuf, Vec<u8>)> {
        let mut files: Vec<_> =
            fs::read_dir(data).expect("it is there").map(|file| file.expect("a file").path()).collect();
        files.retain(|path| path.extension().is_none_or(|extension| extension != "db-shm"));
        files.sort();
        files.into_iter().map(|path| (path.clone(), fs::read(path).expect("it reads"))).collect()
    };
    let before = files(&server.data());
    for _ in 0..2 {
        server.try_restart().expect_err("it is refused");
    }
    let after = files(&server.data());
    let changed: Vec<_> = after.iter().filter(|file| !before.contains(file)).map(|(path, _)| path).collect();
    assert_eq!(changed, Vec::<&PathBuf>::new());
}
