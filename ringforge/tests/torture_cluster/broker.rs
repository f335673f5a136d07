//! The only broker is gone, or has no room: what its clients do then, and that whatever was acknowledged is there.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::task::block_in_place;

use super::{
    ALONE,
    cluster::Servers,
    servers::{Own, Store},
    support::{Client, Options, Server},
};

/// How long a process may take to end while the log is away.
const END: Duration = Duration::from_secs(10);
/// How long everything may take to go on by itself once the broker is there again.
const BACK: Duration = Duration::from_mins(1);
/// The disk of a broker, in MiB, that is to be full.
const DISK_MIB: u32 = 48;

fn set(number: u32) -> Value {
    json!({ "type": "memory", "action": "set", "key": format!("k/{number}"), "value": number, "ref": number })
}

/// Whether a disk of its own can be made for a broker.
fn can_mount() -> bool {
    let home = tempfile::tempdir().expect("a temporary directory");
    let run = |program: &str, arguments: &[&str]| {
        let done = Command::new(program).args(arguments).arg(home.path()).output();
        done.is_ok_and(|done| done.status.success())
    };
    run("mount", &["-t", "tmpfs", "-o", "size=1m", "tmpfs"]) && run("umount", &[])
}

fn begin(own: &Own) -> Server {
    let (mut environment, each) = (own.environment.clone(), own.each());
    // Sooner than a client of the tests gives up.
    environment.push(("RINGFORGE__TIMING__REPLY_TIMEOUT_MS".to_owned(), "3000".to_owned()));
    block_in_place(|| Server::start(Options { environment, each, apart: true, ..Options::default() }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make proof"]
async fn without_a_broker_every_role_ends_in_time() {
    if Servers::of("without_a_broker_every_role_ends_in_time").is_none() {
        return;
    }
    let _alone = ALONE.lock().await;
    let own = block_in_place(|| Own::begin(Server::PROCESSES, 1));
    let mut server = begin(&own);
    let (mut agent, _) = Client::enter(server.ws_url(), server.first_key(), "ada", json!({ "presence": "none" })).await;
    assert_eq!(agent.ask(&set(1)).await["event"], "set_ok");
    block_in_place(|| own.kill(Store::Kafka));
    // Something is on its way.
    agent.send(&set(2)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    let code = block_in_place(|| server.terminate());
    assert!(code.is_some() && begun.elapsed() < END, "{code:?} after {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make proof"]
async fn a_broker_whose_disk_is_full_loses_nothing_and_takes_more_once_there_is_room() {
    let name = "a_broker_whose_disk_is_full_loses_nothing_and_takes_more_once_there_is_room";
    if Servers::of(name).is_none() {
        return;
    }
    // Where tests must not be skipped either: it takes more than a user may do.
    if !can_mount() {
        eprintln!("SKIPPED {name}: nothing can be mounted here");
        return;
    }
    let _alone = ALONE.lock().await;
    let own = block_in_place(|| Own::begin_narrow(Server::PROCESSES, DISK_MIB));
    let server = begin(&own);
    let (mut agent, _) = Client::enter(server.ws_url(), server.first_key(), "ada", json!({ "presence": "none" })).await;
    let (mut acked, mut number) = (Vec::new(), 0);
    let mut tries = async |agent: &mut Client| {
        number += 1;
        let answer = agent.ask(&set(number)).await;
        (answer["event"] == "set_ok").then_some(number).ok_or(answer)
    };
    for _ in 0..50 {
        acked.push(tries(&mut agent).await.unwrap_or_else(|answer| panic!("there is room: {answer}")));
    }
    block_in_place(|| own.broker("fill", 0));
    let begun = Instant::now();
    let refusal = loop {
        match tries(&mut agent).await {
            Ok(number) => acked.push(number),
            Err(refusal) => break refusal,
        }
        assert!(begun.elapsed() < BACK, "it takes more than fits");
    };
    let code = refusal["code"].as_str().expect("a code");
    assert!(["timeout", "unavailable", "overloaded"].contains(&code), "{refusal}");
    block_in_place(|| {
        own.broker("kill", 0);
        own.broker("empty", 0);
        own.broker("again", 0);
    });
    let begun = Instant::now();
    loop {
        match tries(&mut agent).await {
            Ok(number) => break acked.push(number),
            Err(refusal) => assert!(begun.elapsed() < BACK, "it does not go on: {refusal}"),
        }
    }
    for number in acked {
        let get = json!({ "type": "memory", "action": "get", "key": format!("k/{number}"), "ref": "get" });
        let got = agent.ask(&get).await;
        assert_eq!(got["entry"]["value"], number, "{got}");
    }
}
